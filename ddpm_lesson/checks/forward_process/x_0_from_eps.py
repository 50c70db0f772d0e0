"""Exercise 1.9: x_0 from x_t and eps."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Check
from ddpm_lesson.checks._inputs import at, double, tables_of_bar
from ddpm_lesson.checks._rows import looked_up
from ddpm_lesson.checks.forward_process._jump import LONG_CHAIN, SHORT_CHAIN, STEEP_CHAIN, jump_cases
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
    misconceptions={
        "You divided by alpha_bar. x_0 was multiplied by sqrt(alpha_bar): divide by the root<, or the estimate is too "
        "large late in the chain>.": dict(scale=lambda a_bar: a_bar),
        "You subtracted (1 - alpha_bar) * eps: that is the variance. The noise in x_t was multiplied by its square "
        "root.": dict(spread=lambda a_bar: 1 - a_bar),
        "Both square roots are missing: x_t was mixed with sqrt(alpha_bar) and sqrt(1 - alpha_bar), and is taken apart "
        "with the same two.": dict(spread=lambda a_bar: 1 - a_bar, scale=lambda a_bar: a_bar),
        "alpha_bar and 1 - alpha_bar are swapped. In x_t the noise was multiplied by sqrt(1 - alpha_bar) and x_0 by "
        "sqrt(alpha_bar): subtract with the first, divide by the second.": dict(
            spread=torch.sqrt, scale=lambda a_bar: (1 - a_bar).sqrt()
        ),
        "You divided by the noise's factor, sqrt(1 - alpha_bar). What is left is sqrt(alpha_bar) * x_0: divide by its "
        "factor.": dict(scale=lambda a_bar: (1 - a_bar).sqrt()),
        "You subtracted eps without a factor. The noise in x_t was multiplied by sqrt(1 - alpha_bar).": dict(
            spread=torch.ones_like
        ),
        "You did not divide. What is left after the noise is sqrt(alpha_bar) * x_0, a faded image.": dict(
            scale=torch.ones_like
        ),
        "You multiplied by sqrt(alpha_bar). It is in x_t already: divide by it.": dict(scale=torch.rsqrt),
        "You added a small number where you divide. Where alpha_bar is tiny it is not small: "
        "divide by the root alone.": dict(scale=lambda a_bar: a_bar.sqrt() + 1e-8),
        "You added the noise once more. It is in x_t already: subtract it.": dict(
            spread=lambda a_bar: -(1 - a_bar).sqrt()
        ),
        "You divided eps by sqrt(alpha_bar), but not x_t. Brackets: the whole difference is divided.": dict(
            image=torch.sqrt, scale=torch.sqrt
        ),
        "You divided x_t by sqrt(alpha_bar), but not eps. Brackets: the whole difference is divided.": dict(
            image=lambda a_bar: 1.0, spread=lambda a_bar: ((1 - a_bar) * a_bar).sqrt()
        ),
        "The root over 1 / alpha_bar - 1 is missing: that is the factor of a variance. eps counts in standard "
        "deviations.": dict(spread=lambda a_bar: (1 / a_bar - 1) * a_bar.sqrt()),
        "You clipped the estimate to [-1, 1]. That is a sampler's choice: here it hides how far a wrong eps leads "
        "astray, and x_t can no longer be mixed again from x_0 and eps.": dict(give=lambda x_0: x_0.clamp(-1, 1)),
        **looked_up(),
        "That is the way back from v: sqrt(alpha_bar) * x_t - sqrt(1 - alpha_bar) * v. Given is eps: subtract the "
        "noise, then divide.": dict(image=torch.sqrt, scale=torch.ones_like),
        "That is the way back from the score, (x_t + (1 - alpha_bar) * score) / sqrt(alpha_bar). Given is eps, which "
        "is -sqrt(1 - alpha_bar) times the score.": dict(spread=lambda a_bar: a_bar - 1),
        "You wrote 1 - sqrt(alpha_bar) for sqrt(1 - alpha_bar), the factor of the noise in x_t.": dict(
            spread=lambda a_bar: 1 - a_bar.sqrt()
        ),
        "Under the root of eps's factor you have 1 / alpha_bar + 1. It is 1 / alpha_bar - 1.": dict(
            spread=lambda a_bar: ((1 / a_bar + 1) * a_bar).sqrt()
        ),
    },
)
