"""Exercise 1.4: x_t from x_0 in one jump."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, at, double, tables_of_bar
from ddpm_lesson.checks._rows import looked_up, mixed
from ddpm_lesson.checks.forward_process._jump import LONG_CHAIN, SHORT_CHAIN, jump_cases


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
    misconceptions=mixed()
    | looked_up(
        "You took the table one step late<: at t = 0 your x_t is x_0 without any noise>. In code t = 0 is the papers' "
        "t = 1, and one step of noise is in it."
    ),
)
