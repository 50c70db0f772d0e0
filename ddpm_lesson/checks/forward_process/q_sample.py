"""Exercise 1.4: x_t from x_0 in one jump."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, at, double, tables_of_bar
from ddpm_lesson.checks.forward_process._jump import LONG_CHAIN, SHORT_CHAIN, alphas_of, jump_cases, shifted


def _q_sample(x_0, t, noise, alphas_bar):
    """Exercise 1.4: x_t ~ q(x_t | x_0), given the noise.  Ho et al. 2020, Eq. 4.

    x_0, noise: (B, *D).  t: (B,) int64 in 0..T-1, one for each image.  alphas_bar: (T,).  Returns (B, *D).
    Not one step from x_{t-1}: this jumps from x_0 to x_t at once.
    """
    images = []
    for image, step, its_noise in zip(x_0, t.tolist(), noise, strict=True):
        a_bar = alphas_bar[step].item()
        pixels = zip(image.flatten().tolist(), its_noise.flatten().tolist(), strict=True)
        images.append([math.sqrt(a_bar) * x + math.sqrt(1 - a_bar) * e for x, e in pixels])
    return double(images).reshape(x_0.shape)


def _mixed(
    x_0: Tensor,
    t: Tensor,
    noise: Tensor,
    alphas_bar: Tensor,
    *,
    table=lambda alphas_bar: alphas_bar,
    look_up=at,
    signal=torch.sqrt,  # both functions of alpha_bar_t
    spread=lambda a_bar: (1 - a_bar).sqrt(),
) -> Tensor:
    a_bar = look_up(table(alphas_bar), t, x_0)
    return signal(a_bar) * x_0 + spread(a_bar) * noise


q_sample = Check(
    number="1.4",
    name="q_sample",
    specification=_q_sample,
    form=_mixed,
    images=("x_0", "noise"),
    batch=("x_0", "t", "noise"),
    random="the argument noise",
    tables=tables_of_bar,
    cases=jump_cases(
        "x_0", [SHORT_CHAIN, (", alpha_bar_T = 0", (2, 1, 4, 4), [9, 8], ALPHAS_BAR[:9] + [0.0]), LONG_CHAIN]
    ),
    among="t = 0, mixed t and T = 1000",
    misconceptions={
        "You scaled the noise by 1 - alpha_bar: that is the variance. Noise is multiplied by a standard deviation, its "
        "square root.": dict(spread=lambda a_bar: 1 - a_bar),
        "You scaled x_0 by alpha_bar. Each step multiplies the image by sqrt(1 - beta), so after all of them it is "
        "multiplied by sqrt(alpha_bar)<: the images fade too fast without the root>.": dict(signal=lambda a_bar: a_bar),
        "Both square roots are missing. alpha_bar and 1 - alpha_bar are shares of the variance; images and noise are "
        "multiplied by the roots<, or data of variance 1 do not keep it>.": dict(
            signal=lambda a_bar: a_bar, spread=lambda a_bar: 1 - a_bar
        ),
        "The two coefficients are swapped<: your x_t is noise at t = 0 and the image at the end>. sqrt(alpha_bar) "
        "belongs to x_0.": dict(signal=lambda a_bar: (1 - a_bar).sqrt(), spread=lambda a_bar: a_bar.sqrt()),
        "You scaled the noise by 1 - sqrt(alpha_bar)<, so that the two weights add up to 1>. It is the variances that "
        "add up to 1, and they are the squares of the weights.": dict(spread=lambda a_bar: 1 - a_bar.sqrt()),
        "You added the noise without scaling it<. x_t then has too much noise at every t, the first as well>: multiply "
        "the noise by sqrt(1 - alpha_bar).": dict(spread=torch.ones_like),
        "You did not shrink x_0<. The image never fades and the variance grows past 1>: multiply x_0 by "
        "sqrt(alpha_bar).": dict(signal=torch.ones_like),
        "You subtracted the noise<. The samples look alike, but a network trained on them would learn -noise>: the "
        "noise is added.": dict(spread=lambda a_bar: -(1 - a_bar).sqrt()),
        "You read alphas_bar at t - 1. In code t = 0 is already the papers' t = 1, and index -1 wraps around to the "
        "noisiest step: read it at t.": dict(table=lambda alphas_bar: alphas_bar.roll(1)),
        "You took the table one step late<: at t = 0 your x_t is x_0 without any noise>. In code t = 0 is the papers' "
        "t = 1, and one step of noise is in it.": dict(table=shifted),
        "You took the running product of alphas_bar, which is one already: alphas_bar[t] is what you need.": dict(
            table=lambda alphas_bar: alphas_bar.cumprod(0)
        ),
        "You used the alpha of the single step t. x_t holds the noise of all steps up to t: alpha_bar.": dict(
            table=alphas_of
        ),
        "You took alphas_bar for betas, and built alphas_bar from it once more. It is given: look it up.": dict(
            table=lambda alphas_bar: (1 - alphas_bar).cumprod(0)
        ),
        "You used the first image's t for the whole batch. Every image has its own t: training needs many t in one "
        "batch.": dict(look_up=lambda table, t, x: table[t[0]]),
        "Your alphas_bar[t] has shape (B,)<, and broadcasting lines shapes up from the right: your coefficients meet "
        "the columns of the images. It runs where B happens to be the width, and is wrong there>. Each image needs its "
        "own coefficient, so they must meet the batch axis.": dict(look_up=lambda table, t, x: table[t]),
        "Your coefficients have shape (B, 1)<: that is right for points, but on images it lines up with the rows>. "
        "They need one axis for each axis of x_0: (B, 1, ..., 1).": dict(look_up=lambda table, t, x: table[t][:, None]),
        "Your coefficients have shape (B, 1, 1, 1)<: that is right for images only>. Points are (B, 2) and videos have "
        "five axes: count the axes of x_0.": dict(look_up=lambda table, t, x: table[t].view(-1, 1, 1, 1)),
        "The two coefficients are swapped and have no roots. x_0 has sqrt(alpha_bar), the noise sqrt(1 - "
        "alpha_bar).": dict(signal=lambda a_bar: 1 - a_bar, spread=lambda a_bar: a_bar),
    },
)
