"""Exercise 2.8: the log-probability of a pixel's bin."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions
from ddpm_lesson.checks.loss._discretized_log_prob_clues import reach
from ddpm_lesson.checks.loss._words import reduced


def _cdf(z: float) -> float:
    """P(N(0, 1) < z)."""
    return math.erfc(-z / math.sqrt(2)) / 2


def _discretized_log_prob(x, mean, std, levels):
    """Exercise 2.8: the log-probability of the bin around each value under N(mean, std^2).  Ho et al. 2020, Eq. 13.

    x: (B, *D), each one of `levels` equally spaced values from -1 to 1.  mean: (B, *D).  levels: int of at least 2.
    std: standard deviations above 0, of a shape that broadcasts with x.  Returns (B, *D), nats.
    The first bin reaches down to -infinity, the last up to infinity.  Not a density: the probabilities of all levels
    add up to 1.
    """
    logs, half = [], 1 / (levels - 1)
    parts = torch.broadcast_tensors(x, mean, std)
    for value, m, s in zip(*(part.flatten().tolist() for part in parts), strict=True):
        level = round((value + 1) / 2 * (levels - 1))
        below = 0.0 if level <= 0 else _cdf((value - half - m) / s)
        above = 1.0 if level >= levels - 1 else _cdf((value + half - m) / s)
        logs.append(math.log(above - below))
    return double(logs).reshape(x.shape)


def _erf_cdf(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / math.sqrt(2))) / 2


def _tanh_cdf(z: Tensor) -> Tensor:
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2


def _binned(
    x: Tensor,
    mean: Tensor,
    std: Tensor,
    levels: int,
    *,
    lower=lambda levels: 1 / (levels - 1),  # how far the bin reaches down and up
    upper=lambda levels: 1 / (levels - 1),
    first=lambda x, half: x < -1 + half,  # whose bin reaches down to -infinity
    last=lambda x, half: x > 1 - half,
    cdf=_erf_cdf,
    width=lambda std: std,
    sign=1,
    log=torch.log,
) -> Tensor:
    half = 1 / (levels - 1)
    below = cdf(sign * (x - lower(levels) - mean) / width(std))
    above = cdf(sign * (x + upper(levels) - mean) / width(std))
    below = torch.where(first(x, half), 0.0, below)
    return log(torch.where(last(x, half), 1.0, above) - below)


def _nowhere(x: Tensor, half: float) -> Tensor:
    return torch.zeros_like(x, dtype=torch.bool)


def _renormalised(x, mean, std, levels):
    half = 1 / (levels - 1)
    ends, bins = (
        [torch.special.ndtr((e - mean) / std) for e in es] for es in ((-1 - half, 1 + half), (x - half, x + half))
    )
    return ((bins[1] - bins[0]) / (ends[1] - ends[0])).clamp(min=1e-12).log()


def _log_density(x, mean, std, levels):
    return -(((x - mean) / std) ** 2) / 2 - (std * math.sqrt(2 * math.pi)).log()


def _both(**edits):
    """Edits of the lower and the upper side alike."""
    return {side: edit for edit in edits.values() for side in ("lower", "upper")}


def _places(x, mean, std, levels):
    yield "in the first bin, x = -1", x < -1 + 1 / (levels - 1)
    yield "in the last bin, x = 1", x > 1 - 1 / (levels - 1)
    yield "in the first and the last bin", x.abs() > 1 - 1 / (levels - 1)
    yield "in the bins between the first and the last", x.abs() < 1 - 1 / (levels - 1)


def _bin_case(shape: tuple, levels: int, std: list[float]) -> Case:
    """One std for each row.  x lies up to 4 std from the mean: so far the plain difference of float64 CDFs is exact."""
    grid = [2 * (37 * i % levels) / (levels - 1) - 1 for i in range(math.prod(shape))]
    x, its_std = double(grid).reshape(shape), double(std).reshape(-1, *[1] * (len(shape) - 1))
    mean = x + 4 * its_std * fractions(*shape, start=11).double()
    return Case(f"x of shape {shape} on {levels} levels, std = {std}", (x, mean, its_std, levels))


def _rounded_case() -> Case:
    """The ends as float32 may hold them: not exactly -1 and 1."""
    near = 1 - 2.0**-24
    x = torch.tensor([[near, -near, 0.5, -1.0], [-near, near, 0.0, 1.0]])
    mean = x - torch.tensor([0.25, -0.5, 0.25, 0.125])
    return Case("x of shape (2, 4) on 5 levels, ends rounded in float32", (x, mean, torch.tensor(0.5), 5))


discretized_log_prob = Check(
    number="2.8",
    name="discretized_log_prob",
    specification=_discretized_log_prob,
    form=_binned,
    places=_places,
    clues=(reach,),
    floor=math.log(1e-8),  # the right ones lie above it
    cases=(
        _bin_case((4, 1, 8, 8), 256, [2**-7, 2**-4, 2**-2, 1.0]),
        _bin_case((3, 17), 17, [0.0625, 0.25, 0.5]),
        _bin_case((2, 4), 2, [0.5, 2.0]),
        _bin_case((5,), 3, [0.25, 0.5, 0.5, 0.25, 2.0]),
        _rounded_case(),
    ),
    among="2, 17 and 256 levels, and ends rounded in float32,",
    misconceptions={
        "You wrote 255 into the formula. Half a bin is 1 / (levels - 1): the 8x8 digits have 17 levels, and with 256 "
        "they would be charged for values that they never take.": _both(half=lambda levels: 1 / 255),
        "Half of your bin is 1 / levels. There are levels - 1 gaps, each of 2 / (levels - "
        "1)<: yours leave holes>.": _both(half=lambda levels: 1 / levels),
        "Half of your bin is 1 / (levels + 1). There are levels - 1 gaps, each of 2 / (levels - 1).": _both(
            half=lambda levels: 1 / (levels + 1)
        ),
        "Your bin goes a whole gap to either side<, so that bins overlap>. A bin ends half way: 1 / (levels - 1) from "
        "x.": _both(half=lambda levels: 2 / (levels - 1)),
        "Your bins are half as wide as the gaps. From -1 to 1, not 0 to 1, neighbours are "
        "2 / (levels - 1) apart.": _both(half=lambda levels: 0.5 / (levels - 1)),
        "Your bins begin at x. x stands in the middle of its bin: half a bin to either side.": dict(
            lower=lambda levels: 0.0, upper=lambda levels: 2 / (levels - 1)
        ),
        "Both tails are closed. What the Gaussian puts below -1 and above 1 belongs to the first and the last bin<: "
        "without it the probabilities do not add up to 1>.": dict(first=_nowhere, last=_nowhere),
        "The lower tail is closed. The first bin reaches down to -infinity: at x = -1 the lower CDF is 0.": dict(
            first=_nowhere
        ),
        "The upper tail is closed. The last bin reaches up to infinity: at x = 1 the upper CDF is 1.": dict(
            last=_nowhere
        ),
        "You look for the ends with x == -1 and x == 1, or with <= and >=. A float32 pixel is not always exactly 1: "
        "compare with half a bin to spare.": dict(first=lambda x, half: x == -1, last=lambda x, half: x == 1),
        "You opened every bin up to infinity. Only the last one reaches there.": dict(
            last=lambda x, half: torch.ones_like(x, dtype=torch.bool)
        ),
        "You opened every bin down to -infinity. Only the first one reaches there.": dict(
            first=lambda x, half: torch.ones_like(x, dtype=torch.bool)
        ),
        "The open ends are exchanged: at x = 1 the upper end is open, at x = -1 the lower one.": dict(
            first=lambda x, half: x > 1 - half, last=lambda x, half: x < -1 + half
        ),
        "You return the logarithm of the density. A bin's probability is its integral, a difference of two CDFs.": dict(
            instead=_log_density
        ),
        "You return the logarithm of density times width. That is close for narrow bins only: take the difference of "
        "two CDFs, and open the ends.": dict(
            instead=lambda x, mean, std, levels: _log_density(x, mean, std, levels) + math.log(2 / (levels - 1))
        ),
        "You took the root of std, as if it were a variance. It is the standard deviation: divide by it.": dict(
            width=torch.sqrt
        ),
        "You divided by std^2, a variance. A distance in units of the standard deviation is divided by std once.": dict(
            width=torch.square
        ),
        "You took std for a log-variance. It is the standard deviation itself.": dict(
            width=lambda std: (std / 2).exp()
        ),
        "You did not divide by std.": dict(width=torch.ones_like),
        "You left out the root of 2: P(N(0, 1) < z) is (1 + erf(z / sqrt(2))) / 2.": dict(
            cdf=lambda z: (1 + torch.erf(z)) / 2
        ),
        "You took erf for the distribution function. It runs from -1 to 1: (1 + erf(z / sqrt(2))) / 2.": dict(
            cdf=lambda z: torch.erf(z / math.sqrt(2))
        ),
        "You used the logistic distribution, as PixelCNN++ does. Here the noise is Gaussian: torch.special.ndtr.": dict(
            cdf=torch.sigmoid
        ),
        "You used the tanh approximation of the CDF, as some published code does. It is off by up to 0.0002, more than "
        "a bin in the tail holds: torch.erf and torch.special.ndtr are exact.": dict(cdf=_tanh_cdf),
        "You return the probability. Its logarithm is asked for: the product over an image's pixels would be 0 in "
        "floating point, the sum of logarithms is not.": dict(log=torch.clone),
        "You took log2: those are bits. Nats are asked for; convert once, where bits are shown.": dict(log=torch.log2),
        "You return minus the logarithm, a loss. The log-probability itself is asked for.": dict(
            log=lambda p: -p.log()
        ),
        **reduced("Each coordinate's own is asked for: the bound needs their sum and bits/dim their mean."),
        "Half a bin is not divided by std in yours. Brackets: (x + half - mean) / std, the whole of it.": dict(
            instead=lambda x, mean, std, levels: _binned(
                x / std,
                mean / std,
                torch.ones_like(std),
                levels,
                first=lambda y, half: x < -1 + half,
                last=lambda y, half: x > 1 - half,
            )
        ),
        "You cut the Gaussian off at the ends and divided by what is left. Nothing is divided: "
        "the outer bins are open.": dict(instead=_renormalised),
    },
)
