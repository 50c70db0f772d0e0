"""The checks of notebook 02: the KL of Gaussians, the mean from eps, the weights of the losses, L_simple and L_0.

Each block holds a slow specification in plain Python numbers, the inputs, and a table of wrong implementations, each
with the sentence for whoever wrote it. Inputs are exact fractions and not random, so that every machine sees the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check, Misconception
from ddpm_lesson.checks._inputs import ALPHAS_BAR, BETAS, IMAGES, Step, at, double, fractions, noised, products
from ddpm_lesson.checks.forward_process import q_sample, x_0_from_eps

COLUMNS = (
    "Your coefficients have shape (B,), and broadcasting lines that up with the last axis, the columns of an image. It "
    "runs where B happens to be the width, and is wrong there: extract adds the axes that they lack."
)


def _powers(*shape: int, start: int = 0) -> Tensor:
    """Powers of 2 from 1/16 to 4 in float32, in an order without pattern."""
    values = [2.0 ** ((start + 5 * i) % 7 - 4) for i in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def _before(alphas_bar: Tensor) -> Tensor:
    """alphas_bar_prev: 1 before the first step."""
    return torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])


def _reduced(right: Callable, why: str) -> tuple[Misconception, ...]:
    """The right values, summed or averaged where each was asked for, and why each was."""
    reductions = [
        (lambda out: out.sum(), "You return the sum of everything, a single number."),
        (lambda out: out.mean(), "You return the mean of everything, a single number."),
        (lambda out: out.flatten(1).sum(1), "You return one number for each image, the sum over its coordinates."),
        (lambda out: out.flatten(1).mean(1), "You return one number for each image, the mean over its coordinates."),
    ]
    return tuple(
        Misconception(lambda *args, reduce=reduce: reduce(right(*args)), f"{words} {why}")
        for reduce, words in reductions
    )


def _gaussian_kl(mean_1, var_1, mean_2, var_2):
    """Exercise 2.1: KL(N(mean_1, var_1) || N(mean_2, var_2)) of each coordinate.  Needed in Ho et al. 2020, Eq. 5.

    mean_1, mean_2: (B, *D).  var_1, var_2: variances above 0, of a shape that broadcasts with the means.
    Returns (B, *D), nats.  Not symmetric: the expectation is taken over the first Gaussian.
    """
    parts = torch.broadcast_tensors(mean_1, var_1, mean_2, var_2)
    rows = zip(*(part.flatten().tolist() for part in parts), strict=True)
    kl = [(math.log(v_2 / v_1) + (v_1 + (m_1 - m_2) ** 2) / v_2 - 1) / 2 for m_1, v_1, m_2, v_2 in rows]
    return double(kl).reshape(mean_1.shape)


def _kl(d: Tensor, v_1: Tensor, v_2: Tensor) -> Tensor:
    return ((v_2 / v_1).log() + v_1 / v_2 + d**2 / v_2 - 1) / 2


def _kl_by(formula: Callable) -> Callable:
    """gaussian_kl as this function of the means' difference and the variances."""
    return lambda mean_1, var_1, mean_2, var_2: formula(mean_1 - mean_2, var_1, var_2)


gaussian_kl = Check(
    number="2.1",
    name="gaussian_kl",
    specification=_gaussian_kl,
    cases=tuple(
        Case(
            f"means of shape {shape}, variances of shape {wide}{remark}",
            (fractions(*shape), _powers(*wide), fractions(*shape, start=k), scale * _powers(*wide, start=k)),
        )
        for shape, wide, k, scale, remark in [
            ((2, 1, 8, 8), (2, 1, 8, 8), 11, 1.0, ""),
            ((3, 2), (3, 1), 11, 1.0, ""),
            ((5,), (5,), 11, 2.0**-12, ", the second narrow"),
            ((2, 3), (2, 3), 0, 1.0, ", two equal Gaussians"),
        ]
    ),
    among="equal and very unequal Gaussians",
    misconceptions=(
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_2, v_1)),
            "Your arguments are reversed: that is KL(second || first). In the bound q comes first, because the "
            "expectation is taken over q; p comes second.",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: 2 * _kl(d, v_1, v_2)),
            "You forgot the factor 1/2. Without it the bound comes out twice too large.",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_1, v_2) + 0.5),
            "You forgot the - 1. Two equal Gaussians are then half a nat apart, and must be 0 apart.",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_1**2, v_2**2)),
            "You squared the variances, as if they were standard deviations. var is sigma^2 already.",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_1.sqrt(), v_2.sqrt())),
            "You took roots: standard deviations stand where variances belong. The formula holds var itself.",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_1, v_2) - (v_2 / v_1).log()),
            "The logarithm has the wrong sign: it is log(var_2 / var_1). With yours too large a variance is rewarded.",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_1, v_2) + (v_2 / v_1).log() / 2),
            "Your logarithm counts twice. Textbooks write log(sigma_2 / sigma_1), which is half of log(var_2 / var_1).",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_1, v_2) + (v_2 / v_1 - v_1 / v_2) / 2),
            "Your ratio of variances is upside down: var_1 / var_2, the first's spread in units of the second's.",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_1, v_2) + (d - d**2) / v_2 / 2),
            "You did not square the difference of the means. An error to one side would then count as a gain.",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_1, v_2) + d**2 * (1 / v_1 - 1 / v_2) / 2),
            "You divided the squared distance by var_1. How far is far is said by the second's width: var_2.",
        ),
        Misconception(
            _kl_by(lambda d, v_1, v_2: _kl(d, v_1, v_2) / math.log(2)),
            "You divided by log 2: those are bits. Nats are asked for; convert once, where bits are shown.",
        ),
        *_reduced(
            _kl_by(_kl),
            "Each coordinate's own KL is asked for: the bound needs their sum and bits/dim their mean.",
        ),
    ),
)


def _mean_from_eps(x_t, t, eps, betas):
    """Exercise 2.2: the mean of p(x_{t-1} | x_t) that a predicted eps implies.  Ho et al. 2020, Eq. 11.

    x_t, eps: (B, *D).  t: (B,) int64 in 0..T-1.  betas: (T,), below 1.  Returns (B, *D), nothing clipped.
    Not the estimate of x_0: this goes back one step, and only at t = 0 are the two the same.
    """
    images = []
    for image, step, its_eps in zip(x_t, t.tolist(), eps, strict=True):
        beta, a_bar = betas.tolist()[step], products(betas.tolist())[step]
        pixels = zip(image.flatten().tolist(), its_eps.flatten().tolist(), strict=True)
        images.append([(x - beta / math.sqrt(1 - a_bar) * e) / math.sqrt(1 - beta) for x, e in pixels])
    return double(images).reshape(x_t.shape)


def _share(c: Step) -> Tensor:
    return c.beta / (1 - c.a_bar).sqrt()


def _mean_by(
    share: Callable = _share, divisor: Callable = lambda c: c.alpha.sqrt(), look_up: Callable = at
) -> Callable:
    """mean_from_eps that subtracts share * eps from x_t and divides by this divisor."""

    def mean_from_eps(x_t, t, eps, betas):
        alphas_bar = torch.cumprod(1 - betas, 0)
        c = Step(*(look_up(table, t, x_t) for table in (betas, 1 - betas, alphas_bar, _before(alphas_bar))))
        return (x_t - share(c) * eps) / divisor(c)

    return mean_from_eps


mean_from_eps = Check(
    number="2.2",
    name="mean_from_eps",
    specification=_mean_from_eps,
    cases=tuple(
        Case(
            f"x_t of shape {shape}, t = {t}, T = {T}",
            (fractions(*shape), torch.tensor(t), fractions(*shape, start=11), double(BETAS[:T])),
        )
        for shape, t, T in [*((shape, t, 10) for shape, t in IMAGES), ((2, 5), [0, 0], 1)]
    ),
    among="t = 0, mixed t and T = 1",
    misconceptions=(
        Misconception(
            _mean_by(share=lambda c: c.beta / (1 - c.a_bar)),
            "You divided by 1 - alpha_bar, a variance. eps counts in standard deviations of the noise: take the root.",
        ),
        Misconception(
            _mean_by(share=lambda c: c.beta.sqrt() / (1 - c.a_bar).sqrt()),
            "You wrote sqrt(beta) for beta. A step holds the share beta / (1 - alpha_bar) of the noise: yours is more.",
        ),
        Misconception(
            _mean_by(share=lambda c: c.beta / (1 - c.alpha).sqrt()),
            "Under the root you have 1 - alpha, the noise of one step. x_t holds that of all so far: 1 - alpha_bar.",
        ),
        Misconception(
            _mean_by(share=lambda c: c.beta / (1 - c.a_bar_prev).sqrt()),
            "You took alpha_bar_prev. eps is the noise in x_t, so alpha_bar at t itself; yours divides by 0 at t = 0.",
        ),
        Misconception(
            _mean_by(share=lambda c: (1 - c.a_bar).sqrt()),
            "You subtracted all the noise. One step back takes a share of it only, beta / sqrt(1 - alpha_bar) * eps.",
        ),
        Misconception(
            _mean_by(divisor=lambda c: c.a_bar.sqrt()),
            "You divided by sqrt(alpha_bar), which undoes the fading of all steps. One step is undone: sqrt(alpha).",
        ),
        Misconception(
            _mean_by(divisor=lambda c: torch.ones_like(c.alpha)),
            "You did not divide by sqrt(alpha). The forward step shrank x_{t-1} by it: your samples fade to grey.",
        ),
        Misconception(
            _mean_by(share=lambda c: c.alpha.sqrt() * _share(c)),
            "You divided x_t by sqrt(alpha), but not eps. Brackets: the whole difference is divided.",
        ),
        Misconception(
            lambda x_t, t, eps, betas: x_0_from_eps.specification(x_t, t, eps, torch.cumprod(1 - betas, 0)),
            "You return the estimate of x_0. Asked for is the mean of x_{t-1}; the two agree at t = 0 only.",
        ),
        Misconception(
            _mean_by(share=lambda c: -_share(c)),
            "You added the noise once more. It is in x_t already: subtract its share.",
        ),
        Misconception(_mean_by(look_up=lambda table, t, x: table[t]), COLUMNS),
    ),
)


def _vlb_weight(betas, var):
    """Exercise 2.3: what each step's squared error in eps weighs in the bound.  Ho et al. 2020, Eq. 12.

    betas: (T,), below 1.  var: (T,), above 0: the variance of p(x_{t-1} | x_t).  Returns (T,), nats per squared error.
    Not the weights of L_simple: those are 1.
    """
    rows = zip(betas.tolist(), products(betas.tolist()), var.tolist(), strict=True)
    return double([beta**2 / (2 * v * (1 - beta) * (1 - a_bar)) for beta, a_bar, v in rows])


def _weight_by(formula: Callable) -> Callable:
    """vlb_weight as this function of beta, alpha, alpha_bar and the variance of p."""
    return lambda betas, var: formula(betas, 1 - betas, torch.cumprod(1 - betas, 0), var)


vlb_weight = Check(
    number="2.3",
    name="vlb_weight",
    specification=_vlb_weight,
    cases=tuple(
        Case(f"T = {len(betas)}, {words}", (double(betas), double(var)))
        for words, betas, var in [
            ("var = betas", BETAS, BETAS),
            ("var = betas / 4", BETAS, [beta / 4 for beta in BETAS]),
            ("betas = 0.5, 0.25, 0.125, var = 0.25, 0.5, 2", [0.5, 0.25, 0.125], [0.25, 0.5, 2.0]),
            ("betas = 0.25, var = 0.125", [0.25], [0.125]),
        ]
    ),
    among="several variances and T = 1",
    misconceptions=(
        Misconception(
            _weight_by(lambda b, a, ab, v: b / (2 * v * a * (1 - ab))),
            "You did not square beta. The bound holds the squared distance of the means, and beta is a factor of it.",
        ),
        Misconception(
            _weight_by(lambda b, a, ab, v: b**2 / (v * a * (1 - ab))),
            "You forgot the 2. The KL of two Gaussians divides the squared distance of the means by 2 var.",
        ),
        Misconception(
            _weight_by(lambda b, a, ab, v: b**2 / (2 * v * ab * (1 - ab))),
            "You have alpha_bar in the place of alpha. It goes to 0, and the noisiest steps would weigh most of all.",
        ),
        Misconception(
            _weight_by(lambda b, a, ab, v: b**2 / (2 * v * a * (1 - a))),
            "You have 1 - alpha where 1 - alpha_bar belongs, all the noise in x_t: late steps come out far too heavy.",
        ),
        Misconception(
            _weight_by(lambda b, a, ab, v: b**2 / (2 * v * a * (1 - ab).sqrt())),
            "You kept the root over 1 - alpha_bar. In the mean it is a root; the weight is its square.",
        ),
        Misconception(
            _weight_by(lambda b, a, ab, v: b**2 / (2 * v.sqrt() * a * (1 - ab))),
            "You divided by the standard deviation of p. The KL divides by its variance, which is var itself: no root.",
        ),
        Misconception(
            _weight_by(lambda b, a, ab, v: b**2 / (2 * v**2 * a * (1 - ab))),
            "You squared var. The paper's sigma^2 is the variance, and var is that already.",
        ),
        Misconception(
            _weight_by(lambda b, a, ab, v: b / (2 * a * (1 - ab))),
            "You put beta in the place of var, and one beta cancelled. The variance of p is a choice, and an argument.",
        ),
        Misconception(
            _weight_by(lambda b, a, ab, v: _before(ab) * b**2 / (2 * v * (1 - ab) ** 2)),
            "You return the weight of the squared error in x_0, coef1^2 / (2 var). The squared error in eps is snr "
            "times as large: its weight is yours divided by snr.",
        ),
        Misconception(
            _weight_by(lambda b, a, ab, v: b**2 / (2 * v * a * (1 - _before(ab)))),
            "You took alpha_bar_prev. eps is the noise in x_t, so alpha_bar at t itself; yours divides by 0 at t = 0.",
        ),
    ),
)


def _model(scale: float, power: int) -> Callable:
    """A network for the inputs: scale * (x_t^power - t / 4)."""
    return lambda x_t, t: scale * (x_t**power - t.reshape(-1, *[1] * (x_t.ndim - 1)) / 4)


def _simple_loss(model, x_0, t, noise, alphas_bar):
    """Exercise 2.4: the squared error of a network that predicts the noise.  Ho et al. 2020, Eq. 14.

    model: called as model(x_t, t), with t as it comes; returns (B, *D).  x_0, noise: (B, *D).  t: (B,) int64 in 0..T-1.
    alphas_bar: (T,).  Returns (B, *D), the squared error of each coordinate, neither weighted nor reduced.
    Not a term of the bound: the weight of exercise 2.3 is left out.
    """
    predicted = model(q_sample.specification(x_0, t, noise, alphas_bar), t)
    pairs = zip(noise.flatten().tolist(), predicted.flatten().tolist(), strict=True)
    return double([(e - guess) ** 2 for e, guess in pairs]).reshape(x_0.shape)


def _loss_by(
    target: Callable = lambda x_0, noise, a_bar: noise,
    call: Callable = lambda model, x_0, x_t, t, T: model(x_t, t),
    mix: Callable = noised,
    error: Callable = torch.square,
    weight: Callable = torch.ones_like,
    look_up: Callable = at,
) -> Callable:
    """simple_loss with these pieces; weight is a function of the table alphas_bar."""

    def simple_loss(model, x_0, t, noise, alphas_bar):
        a_bar = look_up(alphas_bar, t, x_0)
        prediction = call(model, x_0, mix(a_bar, x_0, noise), t, len(alphas_bar))
        return look_up(weight(alphas_bar), t, x_0) * error(target(x_0, noise, a_bar) - prediction)

    return simple_loss


simple_loss = Check(
    number="2.4",
    name="simple_loss",
    specification=_simple_loss,
    cases=tuple(
        Case(
            f"model(x_t, t) = {words}, x_0 of shape {shape}, t = {t}, T = {T}",
            (model, fractions(*shape), torch.tensor(t), fractions(*shape, start=11), double(ALPHAS_BAR[:T])),
        )
        for words, model, images in [
            ("x_t / 2 - t / 8", _model(0.5, 1), [*IMAGES, ((2, 5), [0, 0])]),
            ("x_t^2 - t / 4", _model(1.0, 2), [((4, 1, 8, 8), [0, 3, 3, 9]), ((1, 5), [6])]),
        ]
        for shape, t in images
        for T in [1 if t == [0, 0] else 10]
    ),
    among="two models, mixed t and T = 1",
    misconceptions=(
        Misconception(
            _loss_by(target=lambda x_0, noise, a_bar: x_0),
            "Your target is x_0. This network predicts the noise: a sampler that takes its output for eps would "
            "subtract the image and keep the noise.",
        ),
        Misconception(
            _loss_by(target=lambda x_0, noise, a_bar: (1 - a_bar).sqrt() * noise),
            "Your target is sqrt(1 - alpha_bar) * noise. The network predicts eps, of variance 1; samplers scale it.",
        ),
        Misconception(
            _loss_by(call=lambda model, x_0, x_t, t, T: model(x_0, t)),
            "Your network sees x_0, in which there is no noise to find. It is given x_t.",
        ),
        *_reduced(
            _loss_by(),
            "The error of each coordinate is asked for, (B, *D): the caller averages, and may first weigh each t.",
        ),
        Misconception(
            _loss_by(error=torch.abs),
            "You return the absolute error. Its best prediction is a median, and sampling needs the conditional mean.",
        ),
        Misconception(
            _loss_by(mix=lambda a_bar, x_0, noise: a_bar.sqrt() * x_0 + (1 - a_bar) * noise),
            "You scaled the noise in x_t by 1 - alpha_bar, a variance: the network sees too little. Take the root.",
        ),
        Misconception(_loss_by(look_up=lambda table, t, x: table[t]), COLUMNS),
        Misconception(
            _loss_by(call=lambda model, x_0, x_t, t, T: model(x_t)),
            "You called model(x_t). One network serves all noise levels and must be told which: model(x_t, t).",
        ),
        Misconception(
            _loss_by(call=lambda model, x_0, x_t, t, T: model(x_t, t / T)),
            "You gave the network t / T. It takes the step t, as samplers pass it: scaling is its own business.",
        ),
        Misconception(
            _loss_by(weight=lambda table: _vlb_weight(1 - table / _before(table), 1 - table / _before(table))),
            "You weighed each step as the bound does with var = beta. L_simple leaves that out: the bound spends the "
            "network on the first steps, whose noise is hardly visible.",
        ),
        Misconception(
            _loss_by(weight=lambda table: (1 - table) / table),
            "You compared estimates of x_0. That multiplies the squared error in eps by (1 - alpha_bar) / alpha_bar, "
            "which is huge at the last steps: compare the noise itself.",
        ),
    ),
)


def _cdf(z: float) -> float:
    """P(N(0, 1) < z)."""
    return math.erfc(-z / math.sqrt(2)) / 2


def _discretized_log_prob(x, mean, std, levels):
    """Exercise 2.5: the log-probability of the bin around each value under N(mean, std^2).  Ho et al. 2020, Eq. 13.

    x: (B, *D), each one of `levels` equally spaced values from -1 to 1.  mean: (B, *D).  levels: int of at least 2.
    std: standard deviations above 0, of a shape that broadcasts with x.  Returns (B, *D), nats.
    The first bin reaches down to -infinity, the last up to infinity.  Not a density: the probabilities of all levels
    add up to 1.
    """
    logs, half = [], 1 / (levels - 1)
    parts = torch.broadcast_tensors(x, mean, std)
    for value, m, s in zip(*(part.flatten().tolist() for part in parts), strict=True):
        level = round((value + 1) / 2 * (levels - 1))
        below = 0.0 if level == 0 else _cdf((value - half - m) / s)
        above = 1.0 if level == levels - 1 else _cdf((value + half - m) / s)
        logs.append(math.log(above - below))
    return double(logs).reshape(x.shape)


def _erf_cdf(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / math.sqrt(2))) / 2


def _tanh_cdf(z: Tensor) -> Tensor:
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2


def _binned_by(
    half: Callable = lambda levels: 1 / (levels - 1),
    open_ends: tuple[bool, bool] = (True, True),
    cdf: Callable = _erf_cdf,
    width: Callable = lambda std: std,
    give: Callable = torch.log,
) -> Callable:
    """discretized_log_prob with bins of half this width; open_ends: whether the first and the last bin are open."""

    def discretized_log_prob(x, mean, std, levels):
        below = cdf((x - half(levels) - mean) / width(std))
        above = cdf((x + half(levels) - mean) / width(std))
        below = torch.where((x < -0.999) & open_ends[0], 0.0, below)
        return give(torch.where((x > 0.999) & open_ends[1], 1.0, above) - below)

    return discretized_log_prob


def _log_density(x, mean, std, levels):
    return -(((x - mean) / std) ** 2) / 2 - (std * math.sqrt(2 * math.pi)).log()


def _bin_case(shape: tuple, levels: int, std: list[float]) -> Case:
    """One std for each row.  x lies up to 4 std from the mean: so far the plain difference of float64 CDFs is exact."""
    grid = [2 * (37 * i % levels) / (levels - 1) - 1 for i in range(math.prod(shape))]
    x, its_std = double(grid).reshape(shape), double(std).reshape(-1, *[1] * (len(shape) - 1))
    mean = x + 4 * its_std * fractions(*shape, start=11).double()
    return Case(f"x of shape {shape} on {levels} levels, std = {std}", (x, mean, its_std, levels))


discretized_log_prob = Check(
    number="2.5",
    name="discretized_log_prob",
    specification=_discretized_log_prob,
    cases=(
        _bin_case((4, 1, 8, 8), 256, [2**-7, 2**-4, 2**-2, 1.0]),
        _bin_case((3, 17), 17, [0.0625, 0.25, 0.5]),
        _bin_case((2, 4), 2, [0.5, 2.0]),
        _bin_case((5,), 3, [0.25, 0.5, 0.5, 0.25, 2.0]),
    ),
    among="2, 17 and 256 levels",
    misconceptions=(
        Misconception(
            _binned_by(lambda levels: 1 / 255),
            "You wrote 255 into the formula. Half a bin is 1 / (levels - 1): the 8x8 digits have 17 levels, and with "
            "256 they would be charged for values that they never take.",
        ),
        Misconception(
            _binned_by(lambda levels: 1 / levels),
            "Half of your bin is 1 / levels. There are levels - 1 gaps, each of 2 / (levels - 1): yours leave holes.",
        ),
        Misconception(
            _binned_by(lambda levels: 2 / (levels - 1)),
            "You went a whole gap to either side, so that bins overlap. A bin ends half way: 1 / (levels - 1) from x.",
        ),
        Misconception(
            _binned_by(lambda levels: 0.5 / (levels - 1)),
            "Your bins are half as wide as the gaps. From -1 to 1, not 0 to 1, neighbours are 2 / (levels - 1) apart.",
        ),
        Misconception(
            _binned_by(open_ends=(False, False)),
            "Both tails are closed. What the Gaussian puts below -1 and above 1 belongs to the first and the last bin: "
            "without it the probabilities do not add up to 1.",
        ),
        Misconception(
            _binned_by(open_ends=(False, True)),
            "The lower tail is closed. The first bin reaches down to -infinity: at x = -1 the lower CDF is 0.",
        ),
        Misconception(
            _binned_by(open_ends=(True, False)),
            "The upper tail is closed. The last bin reaches up to infinity: at x = 1 the upper CDF is 1.",
        ),
        Misconception(
            _log_density,
            "You return the logarithm of the density. A bin's probability is its integral, a difference of two CDFs.",
        ),
        Misconception(
            _binned_by(width=torch.sqrt),
            "You took the root of std, as if it were a variance. It is the standard deviation: divide by it.",
        ),
        Misconception(
            _binned_by(width=torch.square),
            "You divided by std^2, a variance. A distance in units of the standard deviation is divided by std once.",
        ),
        Misconception(
            _binned_by(cdf=lambda z: (1 + torch.erf(z)) / 2),
            "You left out the root of 2: P(N(0, 1) < z) is (1 + erf(z / sqrt(2))) / 2.",
        ),
        Misconception(
            _binned_by(cdf=_tanh_cdf),
            "You used the tanh approximation of the CDF, as some published code does. It is off by up to 0.0002, more "
            "than a bin in the tail holds: torch.erf and torch.special.ndtr are exact.",
        ),
        Misconception(
            _binned_by(give=torch.clone),
            "You return the probability. Its logarithm is asked for: the product over an image's pixels would be 0 in "
            "floating point, the sum of logarithms is not.",
        ),
        Misconception(
            _binned_by(give=torch.log2),
            "You took log2: those are bits. Nats are asked for; convert once, where bits are shown.",
        ),
        *_reduced(
            _binned_by(),
            "Each coordinate's own is asked for: the bound needs their sum and bits/dim their mean.",
        ),
    ),
)


def _min_snr_weights(snr, gamma):
    """Exercise 2.6: one weighting of the steps, for errors in eps, in x_0 and in v.  Hang et al. 2023, sec. 3.4.

    snr: alpha_bar / (1 - alpha_bar), finite, at least 0, of any shape.  gamma: float above 0.
    Returns (eps, x_0, v), each of snr's shape: min(1, gamma / snr), min(snr, gamma) and min(snr, gamma) / (snr + 1).
    At snr = 0 they are 1, 0 and 0.  Not three losses: one loss, for a network that predicts any of the three.
    """
    ratios = snr.flatten().tolist()
    eps = [min(1.0, gamma / ratio) if ratio else 1.0 for ratio in ratios]
    x_0 = [min(ratio, gamma) for ratio in ratios]
    v = [min(ratio, gamma) / (ratio + 1) for ratio in ratios]
    return tuple(double(weights).reshape(snr.shape) for weights in (eps, x_0, v))


def _weights_by(
    eps: Callable = lambda snr, gamma: (gamma / snr).clamp(max=1),
    v: Callable = lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1),
) -> Callable:
    """min_snr_weights with these weights of eps and v."""
    return lambda snr, gamma: (eps(snr, gamma), snr.clamp(max=gamma), v(snr, gamma))


def _picked(*indices: int) -> Callable:
    """min_snr_weights that returns these three of its weights."""
    return lambda snr, gamma: tuple(_min_snr_weights(snr, gamma)[i] for i in indices)


def _converted(weight: Callable) -> Callable:
    """min_snr_weights with this weight of x_0, turned into those of eps and v."""
    return lambda snr, gamma: tuple(weight(snr, gamma) / divisor for divisor in (snr, 1, snr + 1))


min_snr_weights = Check(
    number="2.6",
    name="min_snr_weights",
    specification=_min_snr_weights,
    cases=tuple(
        Case(f"snr = {snr}, gamma = {gamma}", (double(snr), gamma))
        for snr, gamma in [
            ([0.125, 1.0, 4.0, 5.0, 8.0, 4096.0], 5.0),
            ([0.0, 0.5, 16.0], 5.0),
            ([[8.0, 0.25], [1.0, 2.0]], 1.5),
            ([3.0], 5.0),
        ]
    ),
    among="snr = 0 and two gammas",
    outputs=("eps", "x_0", "v"),
    misconceptions=(
        Misconception(
            _picked(1, 1, 1),
            "You return min(snr, gamma) three times: that is the weight of the error in x_0. The squared error is snr "
            "times as large in eps and snr + 1 times in v: divide by that.",
        ),
        Misconception(
            _picked(0, 0, 0),
            "You return min(1, gamma / snr) three times: that is the weight of the error in eps. On x_0 or v it is "
            "another loss, under which the steps with little noise count for far less.",
        ),
        Misconception(
            _converted(lambda snr, gamma: snr.clamp(min=gamma)),
            "You took the larger of snr and gamma. Steps with little noise keep their huge weight: take the smaller.",
        ),
        Misconception(
            _converted(lambda snr, gamma: snr.clamp(min=1)),
            "You clamped snr from below, at 1, as Salimans and Ho do. Min-SNR clamps it from above, at gamma.",
        ),
        Misconception(
            _weights_by(eps=lambda snr, gamma: snr.clamp(max=gamma) / snr),
            "At snr = 0 your weight of eps is 0 / 0, and one NaN ends the training. min(1, gamma / snr) is 1 there.",
        ),
        Misconception(
            _weights_by(v=lambda snr, gamma: snr.clamp(max=gamma) / snr),
            "You divided the weight of v by snr, and at snr = 0 that is 0 / 0. The squared error in v is snr + 1 times "
            "the one in x_0: divide by snr + 1, which is never 0.",
        ),
        Misconception(
            _weights_by(v=lambda snr, gamma: snr.clamp(max=gamma)),
            "Your weight of v is that of x_0. The squared error in v is snr + 1 times as large: divide by snr + 1.",
        ),
        Misconception(
            _picked(1, 0, 2),
            "The weights of eps and x_0 are swapped. x_0's is cut off at gamma; eps's never passes 1.",
        ),
        Misconception(
            lambda snr, gamma: _min_snr_weights(snr, 5.0),
            "You wrote 5 into the formula. That is the paper's choice; here it is the argument gamma.",
        ),
        Misconception(
            _converted(min),
            "Python's min compares tensors as a whole. snr.clamp(max=gamma) compares number by number.",
        ),
    ),
)
