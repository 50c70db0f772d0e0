"""Exercise 1.9: x_0 from x_t and eps."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Check, Misconception
from ddpm_lesson.checks._inputs import at, double, tables_of_bar
from ddpm_lesson.checks.forward_process._jump import (
    LONG_CHAIN,
    SHORT_CHAIN,
    STEEP_CHAIN,
    alphas_of,
    jump_cases,
    shifted,
)
from ddpm_lesson.checks.forward_process._x_0_from_eps_clues import least_divisor, thresholded


def _x_0_from_eps(x_t, t, eps, alphas_bar):
    """Exercise 1.9: the x_0 that x_t and eps imply.  Ho et al. 2020, Eq. 15.

    x_t, eps: (B, *D).  t: (B,) int64 in 0..T-1.  alphas_bar: (T,), above 0.  Returns (B, *D), not clipped.
    Not x_{t-1}: this goes all the way back at once.
    """
    images = []
    for image, step, its_eps in zip(x_t, t.tolist(), eps, strict=True):
        a_bar = alphas_bar[step].item()
        pixels = zip(image.flatten().tolist(), its_eps.flatten().tolist(), strict=True)
        images.append([(x - math.sqrt(1 - a_bar) * e) / math.sqrt(a_bar) for x, e in pixels])
    return double(images).reshape(x_t.shape)


def _unmixed(
    x_t: Tensor,
    t: Tensor,
    eps: Tensor,
    alphas_bar: Tensor,
    *,
    table=lambda alphas_bar: alphas_bar,
    look_up=at,
    spread=lambda a_bar: (1 - a_bar).sqrt(),  # of the noise that is subtracted
    scale=torch.sqrt,  # by which the difference is divided
    image=lambda a_bar: 1.0,  # the factor of x_t before that
) -> Tensor:
    a_bar = look_up(table(alphas_bar), t, x_t)
    return (image(a_bar) * x_t - spread(a_bar) * eps) / scale(a_bar)


x_0_from_eps = Check(
    number="1.9",
    name="x_0_from_eps",
    specification=_x_0_from_eps,
    form=_unmixed,
    images=("x_t", "eps"),
    batch=("x_t", "t", "eps"),
    tables=tables_of_bar,
    clues=(least_divisor, thresholded),
    cases=jump_cases("x_t", [SHORT_CHAIN, LONG_CHAIN, STEEP_CHAIN]),
    among="t = 0, mixed t and a tiny alpha_bar",
    misconceptions=(
        Misconception(
            "You divided by alpha_bar. x_0 was multiplied by sqrt(alpha_bar): divide by the root, or the estimate is "
            "too large late in the chain.",
            scale=lambda a_bar: a_bar,
        ),
        Misconception(
            "You subtracted (1 - alpha_bar) * eps: that is the variance. The noise in x_t was multiplied by its "
            "square root.",
            spread=lambda a_bar: 1 - a_bar,
        ),
        Misconception(
            "Both square roots are missing: x_t was mixed with sqrt(alpha_bar) and sqrt(1 - alpha_bar), and is taken "
            "apart with the same two.",
            spread=lambda a_bar: 1 - a_bar,
            scale=lambda a_bar: a_bar,
        ),
        Misconception(
            "alpha_bar and 1 - alpha_bar are swapped. In x_t the noise was multiplied by sqrt(1 - alpha_bar) and x_0 "
            "by sqrt(alpha_bar): subtract with the first, divide by the second.",
            spread=torch.sqrt,
            scale=lambda a_bar: (1 - a_bar).sqrt(),
        ),
        Misconception(
            "You divided by the noise's factor, sqrt(1 - alpha_bar). What is left is sqrt(alpha_bar) * x_0.",
            scale=lambda a_bar: (1 - a_bar).sqrt(),
        ),
        Misconception(
            "You subtracted eps without a factor. The noise in x_t was multiplied by sqrt(1 - alpha_bar).",
            spread=torch.ones_like,
        ),
        Misconception(
            "You did not divide. What is left after the noise is sqrt(alpha_bar) * x_0, a faded image.",
            scale=torch.ones_like,
        ),
        Misconception(
            "You multiplied by sqrt(alpha_bar). It is in x_t already: divide by it.",
            scale=torch.rsqrt,
        ),
        Misconception(
            "You added a small number where you divide. Where alpha_bar is tiny it is not small: divide by the "
            "root alone.",
            scale=lambda a_bar: a_bar.sqrt() + 1e-8,
        ),
        Misconception(
            "You added the noise once more. It is in x_t already: subtract it.",
            spread=lambda a_bar: -(1 - a_bar).sqrt(),
        ),
        Misconception(
            "You divided eps by sqrt(alpha_bar), but not x_t. Brackets: the whole difference is divided.",
            brief="You did not divide x_t by sqrt(alpha_bar).",
            image=torch.sqrt,
            scale=torch.sqrt,
        ),
        Misconception(
            "You divided x_t by sqrt(alpha_bar), but not eps. Brackets: the whole difference is divided.",
            image=lambda a_bar: 1.0,
            spread=lambda a_bar: ((1 - a_bar) * a_bar).sqrt(),
        ),
        Misconception(
            "The root over 1 / alpha_bar - 1 is missing: that is the factor of a variance. eps counts in standard "
            "deviations.",
            spread=lambda a_bar: (1 / a_bar - 1) * a_bar.sqrt(),
        ),
        Misconception(
            "You clipped the estimate to [-1, 1]. That is a sampler's choice: here it hides how far a wrong eps leads "
            "astray, and x_t can no longer be mixed again from x_0 and eps.",
            give=lambda x_0: x_0.clamp(-1, 1),
        ),
        Misconception(
            "You read alphas_bar at t - 1. x_t was mixed with the entry at t, and at t = 0 index -1 wraps around to "
            "the noisiest step.",
            table=lambda alphas_bar: alphas_bar.roll(1),
        ),
        Misconception(
            "You took alpha_bar_prev, the table one step late. x_t was mixed with the entry at t.",
            table=shifted,
        ),
        Misconception(
            "You used the alpha of the single step t. x_t holds the noise of all steps up to t: alpha_bar.",
            table=alphas_of,
        ),
        Misconception(
            "alphas_bar[t] has shape (B,), and broadcasting lines that up with the last axis, the columns of an image. "
            "It runs where B happens to be the width, and is wrong there: extract adds the axes that it lacks.",
            brief="Your alphas_bar[t] has shape (B,).",
            look_up=lambda table, t, x: table[t],
        ),
        Misconception(
            "That is the way back from v: sqrt(alpha_bar) * x_t - sqrt(1 - alpha_bar) * v. Given is eps: subtract "
            "the noise, then divide.",
            image=torch.sqrt,
            scale=torch.ones_like,
        ),
        Misconception(
            "That is the way back from the score, (x_t + (1 - alpha_bar) * score) / sqrt(alpha_bar). Given is eps, "
            "which is -sqrt(1 - alpha_bar) times the score.",
            spread=lambda a_bar: a_bar - 1,
        ),
        Misconception(
            "You wrote 1 - sqrt(alpha_bar) for sqrt(1 - alpha_bar), the factor of the noise in x_t.",
            spread=lambda a_bar: 1 - a_bar.sqrt(),
        ),
        Misconception(
            "Under the root of eps's factor you have 1 / alpha_bar + 1. It is 1 / alpha_bar - 1.",
            spread=lambda a_bar: ((1 / a_bar + 1) * a_bar).sqrt(),
        ),
    ),
)
