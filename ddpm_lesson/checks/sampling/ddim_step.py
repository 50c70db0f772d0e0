"""Exercise 4.3: one step of DDIM."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, LONG_BAR, before, double, fractions
from ddpm_lesson.checks.sampling._step_factors import Probe, at_one_place, vague_factor, wrong_factor


def _ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    """Exercise 4.3: the step of DDIM from t to t_prev.  Song et al. 2021, Eq. 12, with the sigma of Eq. 16.

    x_t, eps, noise: (B, *D).  t, t_prev: ints, t_prev < t, one step for the whole batch; t_prev = -1 is the clean
    image, where alpha_bar is 1.  alphas_bar: (T,).  eta: a float in 0..1.  Returns x at t_prev, (B, *D).
    The paper's alpha_t is alphas_bar[t].  Not one step of the long chain: t_prev may lie far below t - 1.
    """
    a, prev = alphas_bar[t].item(), alphas_bar[t_prev].item() if t_prev >= 0 else 1.0
    sigma = eta * math.sqrt((1 - prev) / (1 - a)) * math.sqrt(1 - a / prev)
    pixels = []
    for x, e, z in zip(*(image.flatten().tolist() for image in (x_t, eps, noise)), strict=True):
        x_0 = (x - math.sqrt(1 - a) * e) / math.sqrt(a)
        pixels.append(math.sqrt(prev) * x_0 + math.sqrt(1 - prev - sigma**2) * e + sigma * z)
    return double(pixels).reshape(x_t.shape)


def _at_t_prev(table: Tensor, t: int, t_prev: int) -> Tensor:
    return table[t_prev] if t_prev >= 0 else torch.ones_like(table[0])


def _at_t_minus_1(table: Tensor, t: int, t_prev: int) -> Tensor:
    return _at_t_prev(table, t, t - 1)


def _sigma(kept: Tensor, a: Tensor, prev: Tensor, eta: float) -> Tensor:
    return eta * ((1 - prev) / (1 - a) * (1 - kept)).sqrt()


def _by_eq_12(
    x_t: Tensor,
    eps: Tensor,
    t: int,
    t_prev: int,
    alphas_bar: Tensor,
    eta: float,
    noise: Tensor,
    *,
    table=lambda alphas_bar: alphas_bar,
    at_prev=_at_t_prev,
    estimate=lambda x, eps, a, prev: (x - (1 - a).sqrt() * eps) / a.sqrt(),
    clip=lambda x_0, prev: x_0,
    signal=lambda prev, a: prev.sqrt(),
    share=lambda eta: eta,
    kept=lambda a, prev, table, t: a / prev,  # 1 - beta of the step
    sigma=_sigma,
    direction=lambda prev, std, full: (1 - prev - std**2).sqrt(),
    loud=lambda sigma: sigma,
):
    bar = table(alphas_bar)
    a, prev = bar[t], at_prev(bar, t, t_prev)
    x_0 = clip(estimate(x_t.double(), eps, a, prev), prev)
    std = sigma(kept(a, prev, bar, t), a, prev, share(eta))
    return (
        signal(prev, a) * x_0
        + direction(prev, std, sigma(kept(a, prev, bar, t), a, prev, 1.0)) * eps
        + loud(std) * noise
    )


def _hat(kept: Tensor, a: Tensor, prev: Tensor, eta: float) -> Tensor:
    return eta * (1 - kept).sqrt()


def _probes(pattern: Tensor) -> Iterator[Probe]:
    zero, bar = torch.zeros_like(pattern), double(ALPHAS_BAR)
    for t, t_prev in [(9, 7), (8, 4), (7, 6), (6, 1), (5, 3), (4, 0), (3, 2)]:
        a, prev, rest = bar[t], bar[t_prev], (t, t_prev, bar, 0.75)
        yield Probe(
            {
                "the estimated x_0": (a.sqrt() * pattern, zero, *rest, zero),
                "eps, which points to x_t,": ((1 - a).sqrt() * pattern, pattern, *rest, zero),
                "noise": (zero, zero, *rest, pattern),
            },
            {
                "alpha_bar_t": a,
                "alpha_bar_prev": prev,
                "1 - alpha_bar_t": 1 - a,
                "1 - alpha_bar_prev": 1 - prev,
                "1 - alpha_bar_t / alpha_bar_prev": 1 - a / prev,
            },
        )


def _places(x_t, eps, t, t_prev, alphas_bar, eta, noise) -> Iterator[tuple[str, Tensor]]:
    yield "at the clean image, t_prev = -1", torch.tensor(t_prev == -1)
    yield "at t_prev = 0", torch.tensor(t_prev == 0)
    yield "where eta = 0", torch.tensor(eta == 0)
    yield "where eta is not 0", torch.tensor(eta != 0)


ddim_step = Check(
    number="4.3",
    name="ddim_step",
    specification=_ddim_step,
    form=_by_eq_12,
    batch=("x_t", "eps", "noise"),
    random="the argument noise",
    places=_places,
    clues=(wrong_factor(_probes), at_one_place, vague_factor(_probes)),
    cases=tuple(
        Case(
            f"x_t of shape {shape}, t = {t}, t_prev = {t_prev}, eta = {eta}{', T = 1000' * (table is LONG_BAR)}",
            (
                2 * fractions(*shape),
                fractions(*shape, start=11),
                t,
                t_prev,
                double(table),
                eta,
                fractions(*shape, start=29),
            ),
        )
        for shape, t, t_prev, eta, table in [
            ((4, 1, 8, 8), 9, 6, 0.5, ALPHAS_BAR),
            ((4, 3, 4, 4), 7, 2, 1.0, ALPHAS_BAR),
            ((3, 2), 5, 4, 0.0, ALPHAS_BAR),
            ((4, 2), 4, 0, 0.5, ALPHAS_BAR),
            ((3, 2), 6, 5, 0.75, ALPHAS_BAR),
            ((2, 3, 2, 4, 4), 4, -1, 0.5, ALPHAS_BAR),
            ((2, 5), 0, -1, 1.0, ALPHAS_BAR),
            ((2, 5), 3, -1, 0.0, ALPHAS_BAR),
            ((3, 2), 999, 800, 0.25, LONG_BAR),
            ((3, 2), 600, 300, 0.0, LONG_BAR),
        ]
    ),
    among="eta = 0, the clean image and T = 1000",
    misconceptions={
        "At t_prev = -1 you read alphas_bar[-1], which wraps around to the noisiest step. The clean image has no "
        "noise: its alpha_bar is 1.": dict(at_prev=lambda table, t, t_prev: table[t_prev]),
        "At t_prev = -1 you take alphas_bar[0]<: one step of noise stays in the sample>. The clean image has "
        "alpha_bar = 1.": dict(at_prev=lambda table, t, t_prev: table[max(t_prev, 0)]),
        "At t_prev = 0 your alpha_bar is 1. Index 0 is the papers' t = 1, which has one step of noise; the clean "
        "image is t_prev = -1.": dict(
            at_prev=lambda table, t, t_prev: table[t_prev] if t_prev > 0 else torch.ones_like(table[0])
        ),
        "You step to t - 1. The chain that skips steps goes from t to t_prev: read alphas_bar there.": dict(
            at_prev=_at_t_minus_1
        ),
        "You step to t - 1, and at t = 0 index -1 wraps around to the noisiest step. Read alphas_bar at t_prev; below"
        " 0 it is 1.": dict(at_prev=lambda table, t, t_prev: table[t - 1]),
        "You took DDIM's alpha for the alpha of a single step. The paper's alpha_t is DDPM's alpha_bar_t: it is "
        "given.": dict(table=lambda alphas_bar: alphas_bar / before(alphas_bar)),
        "You took the running product of alphas_bar, which is one already. The paper's alpha_t is alphas_bar[t].": dict(
            table=lambda alphas_bar: alphas_bar.cumprod(0)
        ),
        "Under the root of the direction you subtract sigma. Variances add up: it is sigma^2.": dict(
            direction=lambda prev, std, full: (1 - prev - std).sqrt()
        ),
        "Your direction to x_t does not leave room for the noise that you add<: the variance grows past 1 - "
        "alpha_bar>. Its factor is sqrt(1 - alpha_bar_prev - sigma^2).": dict(
            direction=lambda prev, std, full: (1 - prev).sqrt()
        ),
        "Your direction to x_t leaves room for the noise of eta = 1, whatever eta is. "
        "sigma holds eta there, too.": dict(direction=lambda prev, std, full: (1 - prev - full**2).sqrt()),
        "The root over the factor of eps is missing: 1 - alpha_bar_prev - sigma^2 is a variance.": dict(
            direction=lambda prev, std, full: 1 - prev - std**2
        ),
        "You add sigma^2 under the root of the direction. It is subtracted: the noise brings it back.": dict(
            direction=lambda prev, std, full: (1 - prev + std**2).sqrt()
        ),
        "You scaled the noise by sigma^2: that is the variance. Noise is multiplied by a "
        "standard deviation, sigma.": dict(loud=lambda sigma: sigma**2),
        "You add no noise, but the direction leaves room for it. Add sigma noise.": dict(loud=torch.zeros_like),
        "You squared eta. sigma is eta times a root: Eq. 16 has it to the power 1.": dict(share=lambda eta: eta**2),
        "eta stands under your root. sigma is eta times the root: Eq. 16 has it outside.": dict(share=math.sqrt),
        "eta has no effect: your sigma is always 0. It is eta times the root of Eq. 16.": dict(share=lambda eta: 0.0),
        "eta has no effect: your step is always that of eta = 1.": dict(share=lambda eta: 1.0),
        "Both roots of sigma are missing. (1 - alpha_bar_prev) / (1 - alpha_bar_t) (1 - alpha_bar_t / alpha_bar_prev)"
        " is a variance.": dict(sigma=lambda kept, a, prev, eta: eta * (1 - prev) / (1 - a) * (1 - kept)),
        "In sigma the root over 1 - alpha_bar_t / alpha_bar_prev is missing: Eq. 16 has two roots.": dict(
            sigma=lambda kept, a, prev, eta: eta * ((1 - prev) / (1 - a)).sqrt() * (1 - kept)
        ),
        "In sigma the root over (1 - alpha_bar_prev) / (1 - alpha_bar_t) is missing: Eq. 16 has two roots.": dict(
            sigma=lambda kept, a, prev, eta: eta * (1 - prev) / (1 - a) * (1 - kept).sqrt()
        ),
        "In sigma the factor sqrt(1 - alpha_bar_t / alpha_bar_prev) is missing: Eq. 16 has two roots.": dict(
            sigma=lambda kept, a, prev, eta: eta * ((1 - prev) / (1 - a)).sqrt()
        ),
        "Your sigma^2 is beta, 1 - alpha_bar_t / alpha_bar_prev. Eq. 16 multiplies it by (1 - alpha_bar_prev) / (1 - "
        "alpha_bar_t): the last step then adds no noise, and the direction's root stays real.": dict(sigma=_hat),
        "Your sigma^2 is beta, and a clamp hides that 1 - alpha_bar_prev - sigma^2 becomes negative. Eq. 16 has the "
        "factor (1 - alpha_bar_prev) / (1 - alpha_bar_t) as well.": dict(
            sigma=_hat, direction=lambda prev, std, full: (1 - prev - std**2).clamp(min=0).sqrt()
        ),
        "Your sigma has the beta of the single step t. The step goes from t to t_prev: 1 - alpha_bar_t / "
        "alpha_bar_prev.": dict(kept=lambda a, prev, table, t: table[t] / before(table)[t]),
        "In sigma (1 - alpha_bar_prev) / (1 - alpha_bar_t) is upside down.": dict(
            sigma=lambda kept, a, prev, eta: eta * ((1 - a) / (1 - prev) * (1 - kept)).sqrt()
        ),
        "In sigma the ratio of the alpha_bar is upside down<, and a negative number comes under the root>: 1 - "
        "alpha_bar_t / alpha_bar_prev.": dict(kept=lambda a, prev, table, t: prev / a),
        "You scale the estimated x_0 by alpha_bar_prev: the root is missing.": dict(signal=lambda prev, a: prev),
        "Your x_0 is x_t - sqrt(1 - alpha_bar_t) eps: it still has to be divided by sqrt(alpha_bar_t).": dict(
            estimate=lambda x, eps, a, prev: x - (1 - a).sqrt() * eps
        ),
        "In your x_0 only eps is divided by sqrt(alpha_bar_t). The whole difference is: (x_t - ... eps) / "
        "sqrt(alpha_bar_t).": dict(estimate=lambda x, eps, a, prev: x - (1 - a).sqrt() * eps / a.sqrt()),
        "In your x_0 eps is multiplied by 1 - alpha_bar_t: the root is missing.": dict(
            estimate=lambda x, eps, a, prev: (x - (1 - a) * eps) / a.sqrt()
        ),
        "Your x_0 is divided by alpha_bar_t: the root is missing.": dict(
            estimate=lambda x, eps, a, prev: (x - (1 - a).sqrt() * eps) / a
        ),
        "You put x_t where the estimated x_0 belongs: (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t).": dict(
            estimate=lambda x, eps, a, prev: x
        ),
        "Your x_0 is x_t / sqrt(alpha_bar_t): the noise is still in it. Take sqrt(1 - "
        "alpha_bar_t) eps off first.": dict(estimate=lambda x, eps, a, prev: x / a.sqrt()),
        "You estimate x_0 with alpha_bar_prev. x_t and eps are those of t: alpha_bar_t.": dict(
            estimate=lambda x, eps, a, prev: (x - (1 - prev).sqrt() * eps) / prev.sqrt()
        ),
        "You clipped the estimated x_0 and kept eps, which then belongs to another x_0. Clipping is the denoiser's "
        "business, and derives eps again; this step takes eps as it comes.": dict(
            clip=lambda x_0, prev: x_0.clamp(-1, 1)
        ),
        "You clipped the estimated x_0 at every step but the last. Clipping is the denoiser's business; this step "
        "takes x_0 as (1.7) gives it.": dict(clip=lambda x_0, prev: x_0 if prev == 1 else x_0.clamp(-1, 1)),
        "You return the estimated x_0. The step ends at t_prev: x_0 times sqrt(alpha_bar_prev), and noise again.": dict(
            signal=lambda prev, a: torch.ones_like(prev),
            direction=lambda prev, std, full: torch.zeros_like(std),
            loud=torch.zeros_like,
        ),
    },
)
