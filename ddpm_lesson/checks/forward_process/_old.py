"""The checks of notebook 01: schedules, q(x_t | x_0), extract, the posterior, respacing and the way back from eps.

Each block holds a slow specification in plain Python numbers, the inputs, and a table of wrong implementations, each
with the sentence for whoever wrote it. Inputs are exact fractions and not random, so that every machine sees the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check, Misconception
from ddpm_lesson.checks._inputs import ALPHAS_BAR, BETAS, IMAGES, Step, at, double, fractions, noised, products

ROUNDED_FIRST = (
    "Your numbers have only the precision of float32: they were rounded before they became float64, and converting "
    "later brings no digit back. Ask for dtype=torch.float64 where the numbers are made."
)
UPSIDE_DOWN = (
    "Your ratio is upside down, and the betas come out negative. alpha_bar falls: the later value goes on top."
)


def _linear_betas(beta_1, beta_T, T):
    """Exercise 1.1: T betas on a straight line from beta_1 to beta_T.  Ho et al. 2020, sec. 4.

    beta_1, beta_T: floats.  T: int of at least 1; T = 1 gives beta_1.  Returns (T,) float64.
    Index 0 holds the papers' beta_1: in code t starts at 0.
    """
    return double([beta_1 + (beta_T - beta_1) * i / max(T - 1, 1) for i in range(T)])


linear_betas = Check(
    number="1.1",
    name="linear_betas",
    specification=_linear_betas,
    cases=tuple(
        Case(f"beta_1 = {beta_1}, beta_T = {beta_T}, T = {T}", (beta_1, beta_T, T))
        for beta_1, beta_T, T in [(0.1, 0.3, 5), (0.05, 0.25, 2), (0.0001, 0.02, 1000), (0.0001, 0.02, 1)]
    ),
    among="T = 1 and T = 1000",
    exact_dtype=True,
    misconceptions=(
        Misconception(
            lambda beta_1, beta_T, T: double([beta_1 + (beta_T - beta_1) * i / T for i in range(T)]),
            "Your last beta stops one step short of beta_T. T points have T - 1 gaps between them: divide by T - 1.",
        ),
        Misconception(
            lambda beta_1, beta_T, T: double([beta_1 + (beta_T - beta_1) * (i + 1) / T for i in range(T)]),
            "Your first beta lies one step past beta_1. Index 0 holds beta_1 itself: the papers' t = 1 is 0 in code.",
        ),
        Misconception(
            lambda beta_1, beta_T, T: torch.cat([double([0.0]), _linear_betas(beta_1, beta_T, T)]),
            "You return T + 1 numbers, a zero first, so that beta_1 has index 1. In code t runs from 0 to T - 1: "
            "every table here has T entries and starts with beta_1.",
        ),
        Misconception(
            lambda beta_1, beta_T, T: beta_1 + (beta_T - beta_1) * double(list(range(T))) / (T - 1),
            "For T = 1 you return NaN: T - 1 is 0 there, and 0 / 0 is no number. A single point has no gap after it "
            "and is beta_1 itself: keep the divisor from being 0.",
        ),
        Misconception(lambda beta_1, beta_T, T: _linear_betas(beta_1, beta_T, T).float().double(), ROUNDED_FIRST),
        Misconception(
            lambda beta_1, beta_T, T: _linear_betas(beta_1, beta_T, T).float(),
            "You return float32. The product of 1000 factors near 1 piles up rounding errors: ask for "
            "dtype=torch.float64 where the numbers are made.",
        ),
        Misconception(
            lambda beta_1, beta_T, T: _linear_betas(beta_1**0.5, beta_T**0.5, T) ** 2,
            "You put the square roots of beta on a line: that is the quadratic schedule. Here beta itself is linear.",
        ),
        Misconception(
            lambda beta_1, beta_T, T: _linear_betas(math.log(beta_1), math.log(beta_T), T).exp(),
            "You multiply by a constant factor at each step: that is a geometric schedule. Here each step adds the "
            "same amount.",
        ),
        Misconception(
            lambda beta_1, beta_T, T: 1 - _linear_betas(beta_1, beta_T, T),
            "You return 1 - beta: those are the alphas. beta is the variance that a step adds and starts small.",
        ),
    ),
)


def _extract(v, t, x_shape):
    """Exercise 1.2: v[t], one number for each image, shaped to multiply a batch of x_shape.

    v: (T,) of any floating-point dtype, which the result keeps.  t: (B,) int64 in 0..T-1.  x_shape: (B, *D).
    Returns (B, 1, ..., 1) with as many axes as x_shape.
    Not expanded to x_shape: broadcasting does that for free.
    """
    table = v.tolist()
    shape = [len(t)] + [1] * (len(x_shape) - 1)
    return torch.tensor([table[step] for step in t.tolist()], dtype=v.dtype).reshape(shape)


extract = Check(
    number="1.2",
    name="extract",
    specification=_extract,
    cases=tuple(
        Case(
            f"v in {str(dtype).removeprefix('torch.')} with T = {T}, t = {t}, x_shape = {x_shape}",
            (double(ALPHAS_BAR[:T]).to(dtype), torch.tensor(t), torch.Size(x_shape)),
        )
        for dtype, T, t, x_shape in [
            (torch.float64, 10, [0, 3, 3, 9], (4, 1, 8, 8)),
            (torch.float64, 10, [9, 1, 0], (3, 2)),
            (torch.float16, 10, [5], (1, 3, 2, 4, 4)),
            (torch.float32, 3, [2, 0, 1], (3, 1, 4, 4)),
            (torch.float64, 10, [4, 4], (2,)),
            (torch.float64, 1, [0, 0], (2, 3)),
        ]
    ),
    among="three dtypes and mixed t",
    exact_dtype=True,
    misconceptions=(
        Misconception(
            lambda v, t, x_shape: _extract(v, t, x_shape).float(),
            "You turned the result into float32. With float64 data the identities then hold to seven digits only, "
            "and half-precision images are promoted until a half-precision network refuses them: keep v's dtype.",
        ),
        Misconception(
            lambda v, t, x_shape: _extract(v, t, x_shape).double(),
            "You turned the result into float64. It would promote every image that it multiplies: keep v's dtype.",
        ),
        Misconception(
            lambda v, t, x_shape: v[t],
            "You return shape (B,). Broadcasting lines that up with the last axis of the images, not with the batch: "
            "add an axis of length 1 for each further axis of x_shape.",
        ),
        Misconception(
            lambda v, t, x_shape: v[t].reshape(-1, 1, 1, 1),
            "You always return (B, 1, 1, 1): that is right for images only. Points are (B, 2) and videos have five "
            "axes: count the axes of x_shape.",
        ),
        Misconception(
            lambda v, t, x_shape: v[t].reshape(-1, 1),
            "You always return (B, 1): right for points, but images line it up with their rows. Count x_shape's axes.",
        ),
        Misconception(
            lambda v, t, x_shape: v[t].reshape(-1, *[1] * len(x_shape)),
            "You add one axis too many: the batch itself is the first axis of x_shape, so len(x_shape) - 1 ones "
            "follow it.",
        ),
        Misconception(
            lambda v, t, x_shape: v[t].reshape(*[1] * (len(x_shape) - 1), -1),
            "Your ones stand before the batch axis: (1, ..., 1, B) scales the columns of each image. The batch comes "
            "first: (B, 1, ..., 1).",
        ),
        Misconception(
            lambda v, t, x_shape: _extract(v, t, x_shape).expand(x_shape),
            "You return the full x_shape. One number for each image is enough, (B, 1, ..., 1): broadcasting repeats it "
            "for free.",
        ),
        Misconception(
            lambda v, t, x_shape: v.reshape([len(t)] + [1] * (len(x_shape) - 1))[t],
            "You gave v the shape of the batch before the look-up. v holds T numbers and not B: look up first, then "
            "give the B numbers their axes.",
        ),
        Misconception(
            lambda v, t, x_shape: v.reshape([-1] + [1] * (len(x_shape) - 1)).gather(0, t),
            "You gave v its axes before the look-up, and gather wants v and t to have equally many. Gather from v as "
            "it is, then give the B numbers their axes.",
        ),
        Misconception(
            lambda v, t, x_shape: v[t[0]],
            "You return a single number, the one at the first image's t. Every image has its own t.",
        ),
        Misconception(
            lambda v, t, x_shape: _extract(v, t[:1], x_shape),
            "You used the first image's t for the whole batch: your first axis is 1, not B. Each image has its own t.",
        ),
        Misconception(
            lambda v, t, x_shape: _extract(v, torch.arange(len(t)), x_shape),
            "You took the first B entries of v: image i got v[i]. Image i needs v[t[i]].",
        ),
        Misconception(
            lambda v, t, x_shape: _extract(v, t - 1, x_shape),
            "You read v at t - 1. In code t starts at 0, and index -1 wraps around to the last entry: read it at t.",
        ),
    ),
)


def _q_sample(x_0, t, noise, alphas_bar):
    """Exercise 1.3: x_t ~ q(x_t | x_0), given the noise.  Ho et al. 2020, Eq. 4.

    x_0, noise: (B, *D).  t: (B,) int64 in 0..T-1, one for each image.  alphas_bar: (T,).  Returns (B, *D).
    Not one step from x_{t-1}: this jumps from x_0 to x_t at once.
    """
    images = []
    for image, step, its_noise in zip(x_0, t.tolist(), noise, strict=True):
        a_bar = alphas_bar.tolist()[step]
        pixels = zip(image.flatten().tolist(), its_noise.flatten().tolist(), strict=True)
        images.append([math.sqrt(a_bar) * x + math.sqrt(1 - a_bar) * e for x, e in pixels])
    return double(images).reshape(x_0.shape)


def _mixed_by(signal: Callable, spread: Callable) -> Callable:
    """q_sample with these two functions of alpha_bar_t as the coefficients of x_0 and noise."""

    def q_sample(x_0, t, noise, alphas_bar):
        a_bar = at(alphas_bar, t, x_0)
        return signal(a_bar) * x_0 + spread(a_bar) * noise

    return q_sample


def _jump_cases(first: str, chains: list[tuple]) -> tuple[Case, ...]:
    """Cases (x, t, noise, alphas_bar) on the images, then on chains of their own: (remark, shape, t, alphas_bar)."""
    rows = [("", shape, t, ALPHAS_BAR) for shape, t in IMAGES] + chains
    return tuple(
        Case(
            f"{first} of shape {shape}, t = {t}{remark}",
            (fractions(*shape), torch.tensor(t), fractions(*shape, start=11), double(alphas_bar)),
        )
        for remark, shape, t, alphas_bar in rows
    )


SHORT_CHAIN = (", T = 1", (2, 5), [0, 0], ALPHAS_BAR[:1])

q_sample = Check(
    number="1.3",
    name="q_sample",
    specification=_q_sample,
    cases=_jump_cases("x_0", [SHORT_CHAIN, (", alpha_bar_T = 0", (2, 1, 4, 4), [9, 8], ALPHAS_BAR[:9] + [0.0])]),
    among="t = 0 and mixed t",
    misconceptions=(
        Misconception(
            _mixed_by(lambda a_bar: a_bar.sqrt(), lambda a_bar: 1 - a_bar),
            "You scaled the noise by 1 - alpha_bar: that is the variance. Noise is multiplied by a standard "
            "deviation, its square root.",
        ),
        Misconception(
            _mixed_by(lambda a_bar: a_bar, lambda a_bar: (1 - a_bar).sqrt()),
            "You scaled x_0 by alpha_bar. Each step multiplies the image by sqrt(1 - beta), so after all of them it "
            "is multiplied by sqrt(alpha_bar): the images fade too fast without the root.",
        ),
        Misconception(
            _mixed_by(lambda a_bar: a_bar, lambda a_bar: 1 - a_bar),
            "Both square roots are missing. alpha_bar and 1 - alpha_bar are shares of the variance; images and noise "
            "are multiplied by the roots, or data of variance 1 do not keep it.",
        ),
        Misconception(
            _mixed_by(lambda a_bar: (1 - a_bar).sqrt(), lambda a_bar: a_bar.sqrt()),
            "The two coefficients are swapped: your x_t is noise at t = 0 and the image at the end. "
            "sqrt(alpha_bar) belongs to x_0.",
        ),
        Misconception(
            _mixed_by(lambda a_bar: a_bar.sqrt(), lambda a_bar: 1 - a_bar.sqrt()),
            "You scaled the noise by 1 - sqrt(alpha_bar), so that the two weights add up to 1. It is the variances "
            "that add up to 1, and they are the squares of the weights.",
        ),
        Misconception(
            _mixed_by(lambda a_bar: a_bar.sqrt(), torch.ones_like),
            "You added the noise without scaling it. x_t then has too much noise at every t, the first as well: "
            "multiply the noise by sqrt(1 - alpha_bar).",
        ),
        Misconception(
            _mixed_by(torch.ones_like, lambda a_bar: (1 - a_bar).sqrt()),
            "You did not shrink x_0. The image never fades and the variance grows past 1: multiply x_0 by "
            "sqrt(alpha_bar).",
        ),
        Misconception(
            _mixed_by(lambda a_bar: a_bar.sqrt(), lambda a_bar: -(1 - a_bar).sqrt()),
            "You subtracted the noise. The samples look alike, but a network trained on them would learn -noise: "
            "the noise is added.",
        ),
        Misconception(
            lambda x_0, t, noise, alphas_bar: noised(at(alphas_bar, t - 1, x_0), x_0, noise),
            "You read alphas_bar at t - 1. In code t = 0 is already the papers' t = 1, and index -1 wraps around to "
            "the noisiest step: read it at t.",
        ),
        Misconception(
            lambda x_0, t, noise, alphas_bar: noised(
                at(torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar]), t, x_0), x_0, noise
            ),
            "You are one step late: at t = 0 your x_t is x_0 without any noise. In code t = 0 is the papers' t = 1, "
            "and one step of noise is in it.",
        ),
        Misconception(
            lambda x_0, t, noise, alphas_bar: noised(alphas_bar[t[0]], x_0, noise),
            "You used the first image's t for the whole batch. Every image has its own t: training needs many t in "
            "one batch.",
        ),
        Misconception(
            lambda x_0, t, noise, alphas_bar: noised(alphas_bar[t], x_0, noise),
            "alphas_bar[t] has shape (B,), and broadcasting lines shapes up from the right: your coefficients meet the "
            "columns of the images. It runs where B happens to be the width, and is wrong there. Each image needs "
            "its own coefficient, so they must meet the batch axis.",
        ),
        Misconception(
            lambda x_0, t, noise, alphas_bar: noised(alphas_bar[t][:, None], x_0, noise),
            "Your coefficients have shape (B, 1): that is right for points, but on images it lines up with the rows. "
            "They need one axis for each axis of x_0: (B, 1, ..., 1).",
        ),
        Misconception(
            lambda x_0, t, noise, alphas_bar: noised(alphas_bar[t].view(-1, 1, 1, 1), x_0, noise),
            "Your coefficients have shape (B, 1, 1, 1): that is right for images only. Points are (B, 2) and videos "
            "have five axes: count the axes of x_0.",
        ),
    ),
)


def _cosine(time: float, s: float) -> float:
    return math.cos((time + s) / (1 + s) * math.pi / 2) ** 2


def _along(curve: Callable, T: int, max_beta: float) -> Tensor:
    """Capped betas whose alpha_bar falls along this function of time."""
    return double([min(1 - curve((i + 1) / T) / curve(i / T), max_beta) for i in range(T)])


def _cosine_by(angle: Callable, wave: Callable = math.cos) -> Callable:
    """cosine_betas with this angle as a function of time and s."""
    return lambda T, s, max_beta: _along(lambda time: wave(angle(time, s)) ** 2, T, max_beta)


def _cosine_betas(T, s=0.008, max_beta=0.999):
    """Exercise 1.4: betas whose alpha_bar is a squared cosine of time.  Nichol, Dhariwal 2021, sec. 3.2.

    T: int of at least 1.  s: float, the offset.  max_beta: float, the cap on every beta.  Returns (T,) float64.
    Step i leads from time i / T to time (i + 1) / T.  Not capped on alpha_bar: the cap belongs to beta.
    """
    return _along(lambda time: _cosine(time, s), T, max_beta)


cosine_betas = Check(
    number="1.4",
    name="cosine_betas",
    specification=_cosine_betas,
    cases=tuple(
        Case(f"T = {T}, s = {s}, max_beta = {max_beta}", (T, s, max_beta))
        for T, s, max_beta in [
            (10, 0.008, 0.999),
            (20, 0.008, 0.999),
            (10, 0.1, 0.999),
            (10, 0.008, 0.3),
            (2, 0.008, 0.999),
            (1, 0.008, 0.999),
        ]
    ),
    among="T = 1, another s and another cap",
    exact_dtype=True,
    misconceptions=(
        Misconception(
            lambda T, s, max_beta: _cosine_betas(T, s, max_beta).float(),
            "You return float32, torch's default. 1 minus a ratio near 1 leaves few of its digits, and a long product "
            "of them fewer: ask for dtype=torch.float64 where the numbers are made.",
        ),
        Misconception(lambda T, s, max_beta: _cosine_betas(T, s, max_beta).float().double(), ROUNDED_FIRST),
        Misconception(
            lambda T, s, max_beta: _cosine_betas(T, 0.0, max_beta),
            "You left out s. Without the offset the first betas of a long chain are almost 0, and so little noise "
            "is hard to tell from none.",
        ),
        Misconception(
            lambda T, s, max_beta: _cosine_betas(T, 0.008, max_beta),
            "You wrote 0.008 into the formula. The offset is the argument s.",
        ),
        Misconception(
            lambda T, s, max_beta: _cosine_betas(T, s, 0.999),
            "You wrote 0.999 into the formula. The cap is the argument max_beta.",
        ),
        Misconception(
            lambda T, s, max_beta: _cosine_betas(T, s, 1.0),
            "You left out the cap. The last beta comes out as 1 and alpha_bar_T as 0, and then no way leads from eps "
            "back to x_0: let no beta exceed max_beta.",
        ),
        Misconception(
            lambda T, s, max_beta: _along(lambda time: _cosine(time, s) ** 0.5, T, max_beta),
            "You left out the square. alpha_bar is the squared cosine; the cosine itself is sqrt(alpha_bar), the "
            "factor in front of x_0.",
        ),
        Misconception(
            lambda T, s, max_beta: double(
                [min(1 - _cosine((i + 1) / T, s) / _cosine(0, s), max_beta) for i in range(T)]
            ),
            "You return 1 - alpha_bar, capped: that is all the noise up to step i. beta is the noise of one step: "
            "1 minus the ratio of two neighbouring alpha_bar.",
        ),
        Misconception(
            lambda T, s, max_beta: double([_cosine((i + 1) / T, s) / _cosine(0, s) for i in range(T)]),
            "You return alphas_bar, what is left of the image. Betas are asked for: 1 minus the ratio of two "
            "neighbouring alpha_bar.",
        ),
        Misconception(
            lambda T, s, max_beta: 1 - _cosine_betas(T, s, 1.0),
            "You return the alphas, the ratio of two neighbouring alpha_bar: that is what a step keeps. beta is what "
            "it adds, 1 minus the ratio, and has a cap.",
        ),
        Misconception(
            lambda T, s, max_beta: (1 - _cosine_betas(T, s, 1.0)).clamp(max=max_beta),
            "You capped the ratio of two neighbouring alpha_bar and return it: those are the alphas. beta is 1 minus "
            "the ratio, and the cap is meant for beta.",
        ),
        Misconception(lambda T, s, max_beta: _along(lambda time: 1 / _cosine(time, s), T, max_beta), UPSIDE_DOWN),
        Misconception(
            lambda T, s, max_beta: _along(lambda time: _cosine(time, s) if time else 1.0, T, max_beta),
            "Your first step starts from 1. Because of s the squared cosine is below 1 at time 0: divide by that "
            "value, as every later step divides by its own start.",
        ),
        Misconception(
            lambda T, s, max_beta: _along(lambda time: _cosine(max(time - 1 / T, 0), s), T, max_beta),
            "You are one step late: your first beta is 0 and the last step is missing. Step i leads from time i / T "
            "to time (i + 1) / T.",
        ),
        Misconception(
            lambda T, s, max_beta: _along(lambda time: _cosine(time, s), T - 1, max_beta),
            "You return T - 1 betas, since T points have T - 1 gaps. T steps need T + 1 points: 0, 1/T, ..., 1.",
        ),
        Misconception(
            _cosine_by(lambda time, s: (time + s / (1 + s)) * math.pi / 2),
            "You divided only s by 1 + s. Brackets: the sum u + s is divided, so that the angle ends at pi / 2.",
        ),
        Misconception(
            _cosine_by(lambda time, s: (time + s / 1 + s) * math.pi / 2),
            "Python divides before it adds: u + s / 1 + s is u + 2 s. Put brackets around u + s and around 1 + s.",
        ),
        Misconception(
            _cosine_by(lambda time, s: (time + s) / (1 + s)),
            "You left out pi / 2. The angle then ends at 1 in the place of a right angle, and nearly a third of "
            "alpha_bar is left at the end.",
        ),
        Misconception(
            _cosine_by(lambda time, s: (time + s) / (1 + s) * math.pi),
            "Your angle runs to pi and not to pi / 2. The squared cosine is back at 1 there: the image would return.",
        ),
        Misconception(
            _cosine_by(lambda time, s: (time + s) / (1 + s) * math.pi / 2, wave=math.sin),
            "You took the sine. It rises from 0 to 1, and alpha_bar has to fall from 1 to 0: that is the cosine.",
        ),
        Misconception(
            _cosine_by(lambda time, s: (time + s) * math.pi / 2),
            "You added s but did not divide by 1 + s. The cosine then passes its zero before time 1, and alpha_bar "
            "rises again at the end.",
        ),
    ),
)


def _posterior(x_0, x_t, t, betas):
    """Exercise 1.5: mean and variance of q(x_{t-1} | x_t, x_0).  Ho et al. 2020, Eq. 6-7.

    x_0, x_t: (B, *D).  t: (B,) int64 in 0..T-1; t = 0 is the papers' t = 1.  betas: (T,).
    Returns mean (B, *D) and var (B, 1, ..., 1).  At t = 0 the mean is x_0 and the variance is 0.
    Not p(x_{t-1} | x_t): that puts the network's estimate in the place of x_0.
    """
    means, variances = [], []
    for image_0, image_t, step in zip(x_0, x_t, t.tolist(), strict=True):
        pixels = list(zip(image_0.flatten().tolist(), image_t.flatten().tolist(), strict=True))
        if step == 0:  # x_{t-1} is x_0 itself
            means.append([pixel_0 for pixel_0, _ in pixels])
            variances.append(0.0)
            continue
        beta, a_bar_prev = betas.tolist()[step], products(betas.tolist())[step - 1]
        prior, likelihood = 1 / (1 - a_bar_prev), (1 - beta) / beta  # what each Gaussian knows of x_{t-1}: precisions
        variance = 1 / (prior + likelihood)
        by_prior, by_likelihood = prior * math.sqrt(a_bar_prev), math.sqrt(1 - beta) / beta
        means.append([variance * (by_prior * pixel_0 + by_likelihood * pixel_t) for pixel_0, pixel_t in pixels])
        variances.append(variance)
    return double(means).reshape(x_0.shape), double(variances).reshape(-1, *[1] * (x_0.ndim - 1))


def _at_0(c: Step) -> Tensor:
    return c.a_bar_prev.sqrt() * c.beta / (1 - c.a_bar)


def _at_t(c: Step) -> Tensor:
    return c.alpha.sqrt() * (1 - c.a_bar_prev) / (1 - c.a_bar)


def _var(c: Step) -> Tensor:
    return c.beta * (1 - c.a_bar_prev) / (1 - c.a_bar)


def _late(coefficient: Callable) -> Callable:
    """The coefficient with alpha_bar in the place of alpha_bar_prev."""
    return lambda c: coefficient(c._replace(a_bar_prev=c.a_bar))


def _undivided(coefficient: Callable) -> Callable:
    return lambda c: (1 - c.a_bar) * coefficient(c)


def _posterior_by(
    at_0: Callable = _at_0,
    at_t: Callable = _at_t,
    var: Callable = _var,
    before_first: Callable = torch.ones_like,
    look_up: Callable = at,
) -> Callable:
    """posterior with these coefficients of x_0 and x_t and this variance.

    before_first(alphas_bar)[0] is the alpha_bar that precedes index 0.
    """

    def posterior(x_0, x_t, t, betas):
        alphas_bar = torch.cumprod(1 - betas, 0)
        alphas_bar_prev = torch.cat([before_first(alphas_bar)[:1], alphas_bar[:-1]])
        c = Step(*(look_up(table, t, x_0) for table in (betas, 1 - betas, alphas_bar, alphas_bar_prev)))
        return at_0(c) * x_0 + at_t(c) * x_t, var(c)

    return posterior


def _posterior_then(change: Callable) -> Callable:
    """posterior with this change of the mean and variance that it returns."""
    return lambda x_0, x_t, t, betas: change(*_posterior(x_0, x_t, t, betas))


def _posterior_clipped(x_0, x_t, t, betas):
    mean, _ = _posterior(x_0, x_t, t, betas)
    _, var = _posterior(x_0, x_t, t.clamp(min=min(1, len(betas) - 1)), betas)
    return mean, var


posterior = Check(
    number="1.5",
    name="posterior",
    specification=_posterior,
    cases=tuple(
        Case(
            f"x_0 of shape {shape}, t = {t}{remark}",
            (fractions(*shape), fractions(*shape, start=11), torch.tensor(t), double(betas)),
        )
        for remark, shape, t, betas in [
            *(("", shape, t, BETAS) for shape, t in IMAGES),
            (", T = 1", (2, 5), [0, 0], BETAS[:1]),
            (", beta_T = 1", (2, 1, 4, 4), [9, 8], BETAS[:9] + [1.0]),
        ]
    ),
    among="t = 0 and mixed t",
    outputs=("mean", "var"),
    misconceptions=(
        Misconception(
            _posterior_by(at_0=_at_t, at_t=_at_0),
            "The two coefficients of the mean are swapped: at t = 0 your mean is x_t and not x_0. The one with beta "
            "and sqrt(alpha_bar_prev) belongs to x_0.",
        ),
        Misconception(
            _posterior_by(at_0=lambda c: c.a_bar_prev * c.beta / (1 - c.a_bar)),
            "The square root over alpha_bar_prev is missing. The jump to x_{t-1} multiplies x_0 by "
            "sqrt(alpha_bar_prev), and so does the mean.",
        ),
        Misconception(
            _posterior_by(at_t=lambda c: c.alpha * (1 - c.a_bar_prev) / (1 - c.a_bar)),
            "The square root over alpha is missing. The step multiplied x_{t-1} by sqrt(alpha), and the mean takes "
            "that factor over to x_t.",
        ),
        Misconception(
            _posterior_by(
                at_0=lambda c: c.a_bar_prev * c.beta / (1 - c.a_bar),
                at_t=lambda c: c.alpha * (1 - c.a_bar_prev) / (1 - c.a_bar),
            ),
            "The square roots are missing from the mean. x_0 is multiplied by sqrt(alpha_bar_prev) and x_t by "
            "sqrt(alpha): they scale images, and alphas are shares of variance.",
        ),
        Misconception(
            _posterior_by(at_0=_late(_at_0)),
            "The coefficient of x_0 has sqrt(alpha_bar), where sqrt(alpha_bar_prev) belongs. It comes from the prior "
            "q(x_{t-1} | x_0), which stands one step before t.",
        ),
        Misconception(
            _posterior_by(at_t=lambda c: c.a_bar.sqrt() * (1 - c.a_bar_prev) / (1 - c.a_bar)),
            "The coefficient of x_t has sqrt(alpha_bar), where sqrt(alpha) belongs. It comes from a single step, from "
            "x_{t-1} to x_t, and not from the jump.",
        ),
        Misconception(
            _posterior_by(at_t=_late(_at_t)),
            "The coefficient of x_t has 1 - alpha_bar on top too, so that it cancels. On top belongs 1 - "
            "alpha_bar_prev, the variance of the prior q(x_{t-1} | x_0).",
        ),
        Misconception(
            _posterior_by(at_0=_late(_at_0), at_t=_late(_at_t)),
            "Your mean has alpha_bar in the place of alpha_bar_prev. The prior is q(x_{t-1} | x_0), one step before "
            "t; your variance has it right.",
        ),
        Misconception(
            _posterior_by(at_0=_late(_at_0), at_t=_late(_at_t), var=_late(_var)),
            "You have alpha_bar in the place of alpha_bar_prev, in mean and variance. The prior is q(x_{t-1} | x_0), "
            "one step before t.",
        ),
        Misconception(
            _posterior_by(before_first=lambda alphas_bar: alphas_bar[-1:]),
            "At t = 0 your alpha_bar_prev is the last entry of the table: index -1 wraps around. Before the first "
            "step there is no noise: alpha_bar_prev is 1 there, the mean is x_0 and the variance 0.",
        ),
        Misconception(
            _posterior_by(before_first=torch.clone),
            "At t = 0 your alpha_bar_prev is alphas_bar[0], the value after the first step. Before that step there is "
            "no noise: alpha_bar_prev is 1, the product of no factors.",
        ),
        Misconception(
            _posterior_by(before_first=torch.zeros_like),
            "At t = 0 your alpha_bar_prev is 0, as if nothing of the image were there before the first step. All of "
            "it is: alpha_bar_prev is 1, the product of no factors.",
        ),
        Misconception(
            _posterior_by(at_0=_undivided(_at_0), at_t=_undivided(_at_t), var=_undivided(_var)),
            "You left out the division by 1 - alpha_bar in mean and variance. It is what Bayes' rule divides by; "
            "without it the mean at t = 0 is not x_0.",
        ),
        Misconception(
            _posterior_by(var=lambda c: c.beta),
            "Your variance is beta, that of the forward step (with alpha_bar for alpha_bar_prev the ratio cancels). "
            "Knowing x_0 as well narrows it by (1 - alpha_bar_prev) / (1 - alpha_bar), to 0 at t = 0.",
        ),
        Misconception(
            _posterior_by(var=lambda c: 1 - c.a_bar),
            "You return 1 - alpha_bar: that is the variance of x_t given x_0. Asked for is that of x_{t-1}, and x_t "
            "is known as well.",
        ),
        Misconception(
            _posterior_by(var=lambda c: c.beta * (1 - c.a_bar) / (1 - c.a_bar_prev)),
            "The ratio in your variance is upside down: infinite at t = 0, and above 1 later. Knowing x_0 as well can "
            "only narrow beta: the smaller number, 1 - alpha_bar_prev, goes on top.",
        ),
        Misconception(
            _posterior_by(var=lambda c: _var(c).sqrt()),
            "You return the standard deviation. The variance is asked for, its square.",
        ),
        Misconception(
            _posterior_by(var=lambda c: _var(c).log()),
            "You return the logarithm of the variance, minus infinity at t = 0. The variance itself is asked for.",
        ),
        Misconception(
            _posterior_clipped,
            "At t = 0 you return the variance of index 1. Code that needs a finite logarithm puts it there, but the "
            "posterior at t = 0 is a point: its variance is 0.",
        ),
        Misconception(
            _posterior_by(look_up=lambda table, t, x: table[t]),
            "Your coefficients have shape (B,), and broadcasting lines that up with the last axis, the columns of an "
            "image. It runs where B happens to be the width, and is wrong there: extract adds the axes that they lack.",
        ),
        Misconception(
            _posterior_then(lambda mean, var: (mean, var.flatten())),
            "Your variance has shape (B,). Whoever multiplies it with images scales their columns: give it the axes "
            "that the coefficients of the mean have.",
        ),
        Misconception(
            _posterior_then(lambda mean, var: (mean, var.expand_as(mean))),
            "Your variance has the shape of the images. An image's pixels share one number: return (B, 1, ..., 1).",
        ),
        Misconception(
            _posterior_then(lambda mean, var: (var, mean)),
            "You return the variance first. The order is (mean, var).",
        ),
    ),
)


def _x_0_from_eps(x_t, t, eps, alphas_bar):
    """Exercise 1.6: the x_0 that x_t and eps imply.  Ho et al. 2020, Eq. 15.

    x_t, eps: (B, *D).  t: (B,) int64 in 0..T-1.  alphas_bar: (T,), above 0.  Returns (B, *D), not clipped.
    Not x_{t-1}: this goes all the way back at once.
    """
    images = []
    for image, step, its_eps in zip(x_t, t.tolist(), eps, strict=True):
        a_bar = alphas_bar.tolist()[step]
        pixels = zip(image.flatten().tolist(), its_eps.flatten().tolist(), strict=True)
        images.append([(x - math.sqrt(1 - a_bar) * e) / math.sqrt(a_bar) for x, e in pixels])
    return double(images).reshape(x_t.shape)


def _unmix(a_bar: Tensor, x_t: Tensor, eps: Tensor) -> Tensor:
    return (x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()


def _unmixed_by(spread: Callable, scale: Callable) -> Callable:
    """x_0_from_eps that subtracts spread(alpha_bar_t) * eps and divides by scale(alpha_bar_t)."""

    def x_0_from_eps(x_t, t, eps, alphas_bar):
        a_bar = at(alphas_bar, t, x_t)
        return (x_t - spread(a_bar) * eps) / scale(a_bar)

    return x_0_from_eps


x_0_from_eps = Check(
    number="1.6",
    name="x_0_from_eps",
    specification=_x_0_from_eps,
    cases=_jump_cases("x_t", [SHORT_CHAIN]),
    among="t = 0 and mixed t",
    misconceptions=(
        Misconception(
            _unmixed_by(lambda a_bar: (1 - a_bar).sqrt(), lambda a_bar: a_bar),
            "You divided by alpha_bar. x_0 was multiplied by sqrt(alpha_bar): divide by the root, or the estimate is "
            "too large late in the chain.",
        ),
        Misconception(
            _unmixed_by(lambda a_bar: 1 - a_bar, lambda a_bar: a_bar.sqrt()),
            "You subtracted (1 - alpha_bar) * eps: that is the variance. The noise in x_t was multiplied by its "
            "square root.",
        ),
        Misconception(
            _unmixed_by(lambda a_bar: 1 - a_bar, lambda a_bar: a_bar),
            "Both square roots are missing: x_t was mixed with sqrt(alpha_bar) and sqrt(1 - alpha_bar), and is taken "
            "apart with the same two.",
        ),
        Misconception(
            _unmixed_by(lambda a_bar: a_bar.sqrt(), lambda a_bar: (1 - a_bar).sqrt()),
            "alpha_bar and 1 - alpha_bar are swapped. In x_t the noise was multiplied by sqrt(1 - alpha_bar) and x_0 "
            "by sqrt(alpha_bar): subtract with the first, divide by the second.",
        ),
        Misconception(
            _unmixed_by(lambda a_bar: (1 - a_bar).sqrt(), lambda a_bar: (1 - a_bar).sqrt()),
            "You divided by the noise's factor, sqrt(1 - alpha_bar). What is left is sqrt(alpha_bar) * x_0.",
        ),
        Misconception(
            _unmixed_by(lambda a_bar: (1 - a_bar).sqrt(), torch.ones_like),
            "You did not divide. What is left after the noise is sqrt(alpha_bar) * x_0, a faded image.",
        ),
        Misconception(
            _unmixed_by(lambda a_bar: (1 - a_bar).sqrt(), lambda a_bar: 1 / a_bar.sqrt()),
            "You multiplied by sqrt(alpha_bar). It is in x_t already: divide by it.",
        ),
        Misconception(
            _unmixed_by(lambda a_bar: -(1 - a_bar).sqrt(), lambda a_bar: a_bar.sqrt()),
            "You added the noise once more. It is in x_t already: subtract it.",
        ),
        Misconception(
            _unmixed_by(lambda a_bar: ((1 - a_bar) / a_bar).sqrt(), torch.ones_like),
            "You divided eps by sqrt(alpha_bar), but not x_t. Brackets: the whole difference is divided.",
        ),
        Misconception(
            lambda x_t, t, eps, alphas_bar: _unmix(at(alphas_bar, t, x_t), x_t, eps).clamp(-1, 1),
            "You clipped the estimate to [-1, 1]. That is a sampler's choice: here it hides how far a wrong eps leads "
            "astray, and x_t can no longer be mixed again from x_0 and eps.",
        ),
        Misconception(
            lambda x_t, t, eps, alphas_bar: _unmix(at(alphas_bar, t - 1, x_t), x_t, eps),
            "You read alphas_bar at t - 1. x_t was mixed with the entry at t, and at t = 0 index -1 wraps around to "
            "the noisiest step.",
        ),
        Misconception(
            lambda x_t, t, eps, alphas_bar: _unmix(alphas_bar[t], x_t, eps),
            "alphas_bar[t] has shape (B,), and broadcasting lines that up with the last axis, the columns of an image. "
            "It runs where B happens to be the width, and is wrong there: extract adds the axes that it lacks.",
        ),
    ),
)


def _respaced_betas(alphas_bar, timesteps):
    """Exercise 1.7: betas of the chain that visits only these timesteps.  Nichol, Dhariwal 2021, sec. 4.

    alphas_bar: (T,) float64.  timesteps: (S,) int64, increasing, in 0..T-1.  Returns (S,) float64.
    The short chain has the long chain's alpha_bar at every timestep that it visits.
    """
    table, prev, betas = alphas_bar.tolist(), 1.0, []
    for step in timesteps.tolist():
        betas.append(1 - table[step] / prev)
        prev = table[step]
    return double(betas)


def _respaced_by(
    rule: Callable = lambda a_bar, prev: 1 - a_bar / prev,
    before_first: Callable = lambda alphas_bar, timesteps: torch.ones_like(alphas_bar[:1]),
) -> Callable:
    """respaced_betas with this rule of alpha_bar at each kept step and at the one before."""

    def respaced_betas(alphas_bar, timesteps):
        kept = alphas_bar[timesteps]
        return rule(kept, torch.cat([before_first(alphas_bar, timesteps), kept[:-1]]))

    return respaced_betas


def _long_betas(alphas_bar: Tensor) -> Tensor:
    return _respaced_betas(alphas_bar, torch.arange(len(alphas_bar)))


def _summed_betas(alphas_bar, timesteps):
    total = _long_betas(alphas_bar).cumsum(0)[timesteps]
    return torch.cat([total[:1], total.diff()])


respaced_betas = Check(
    number="1.7",
    name="respaced_betas",
    specification=_respaced_betas,
    cases=tuple(
        Case(f"T = 10, timesteps = {timesteps}", (double(ALPHAS_BAR), torch.tensor(timesteps)))
        for timesteps in [[0, 3, 6, 9], [1, 2, 7], [4, 9], [9], [0], list(range(10))]
    ),
    among="uneven steps, one step and all steps",
    exact_dtype=True,
    misconceptions=(
        Misconception(
            lambda alphas_bar, timesteps: _respaced_betas(alphas_bar, timesteps).float(),
            "You return float32, which keeps seven digits only, and 1 minus a ratio near 1 leaves fewer. alphas_bar "
            "is float64: so are your betas.",
        ),
        Misconception(
            lambda alphas_bar, timesteps: _respaced_betas(alphas_bar, timesteps).float().double(),
            "Your betas went through float32, which keeps seven digits only: stay in alphas_bar's float64.",
        ),
        Misconception(
            lambda alphas_bar, timesteps: _long_betas(alphas_bar)[timesteps],
            "Your betas are the old ones of the kept steps. A long step has to do the work of all the steps that it "
            "skips: with your betas the chain ends far from noise.",
        ),
        Misconception(
            lambda alphas_bar, timesteps: _respaced_betas(alphas_bar, timesteps)[1:],
            "You return S - 1 betas: the first is missing. It leads from the clean image, where alpha_bar is 1, to "
            "the first kept step.",
        ),
        Misconception(
            _respaced_by(before_first=lambda alphas_bar, timesteps: alphas_bar[timesteps[:1]]),
            "Your first beta is 0. It leads from the clean image, where alpha_bar is 1, to the first kept step.",
        ),
        Misconception(
            _respaced_by(before_first=lambda alphas_bar, timesteps: alphas_bar[timesteps[-1:]]),
            "Your first beta divides by the last alpha_bar: the shift wraps around. Before the first stands 1.",
        ),
        Misconception(
            _respaced_by(before_first=lambda alphas_bar, timesteps: alphas_bar[timesteps[:1] - 1]),
            "Your first beta divides by alphas_bar[timesteps[0] - 1], a step that the short chain does not visit (and "
            "at 0 index -1 wraps around). Before the first kept step alpha_bar is 1.",
        ),
        Misconception(
            lambda alphas_bar, timesteps: 1 - alphas_bar[timesteps] / alphas_bar[timesteps - 1],
            "You divide by alphas_bar[timesteps - 1], the step before in the long chain (and at 0 index -1 wraps "
            "around). Divide by alpha_bar at the kept step before; before the first it is 1.",
        ),
        Misconception(_respaced_by(lambda a_bar, prev: 1 - prev / a_bar), UPSIDE_DOWN),
        Misconception(
            _respaced_by(lambda a_bar, prev: 1 - a_bar * prev),
            "You multiplied two alpha_bar. alpha_bar is a running product: what one step adds to it is the ratio of "
            "two neighbours.",
        ),
        Misconception(
            _respaced_by(lambda a_bar, prev: prev - a_bar),
            "You subtracted two alpha_bar. alpha_bar is a running product and not a sum: one step is the ratio of two "
            "neighbours, and beta is 1 minus it.",
        ),
        Misconception(
            _respaced_by(lambda a_bar, prev: a_bar / prev),
            "You return the alphas of the short chain. beta is 1 - alpha.",
        ),
        Misconception(
            _respaced_by(lambda a_bar, prev: 1 - a_bar),
            "You return 1 - alpha_bar: that is all the noise up to a kept step. beta is the noise since the kept step "
            "before: divide by its alpha_bar first.",
        ),
        Misconception(
            _summed_betas,
            "You added up the betas of the skipped steps. That is close for small betas only, and can pass 1: the "
            "alphas multiply, and beta is 1 minus their product.",
        ),
    ),
)
