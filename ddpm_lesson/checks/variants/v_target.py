"""Exercise 5.8: v, what a network may predict instead of the noise."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, IMAGES, LONG_BAR, at, double, fractions, tables_of_bar
from ddpm_lesson.checks._rows import looked_up
from ddpm_lesson.checks.variants._v_rows import coefficients

TO_ZERO_BAR = [*ALPHAS_BAR[:9], 0.0]


def _v_target(x_0, noise, t, alphas_bar):
    """Exercise 5.8: v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0.  Salimans & Ho 2022, Section 4.

    x_0, noise: (B, *D).  t: (B,) int64 in 0..T-1.  alphas_bar: (T,) float64, of which the last may be 0: v is -x_0
    there.  Returns (B, *D).  Not x_t, which is the sum with the roots the other way round: v is x_t's change with the
    angle.
    """
    images = []
    for image, its_noise, step in zip(x_0, noise, t.tolist(), strict=True):
        a_bar = alphas_bar[step].item()
        pixels = zip(image.flatten().tolist(), its_noise.flatten().tolist(), strict=True)
        images.append([math.sqrt(a_bar) * e - math.sqrt(1 - a_bar) * x for x, e in pixels])
    return double(images).reshape(x_0.shape)


def _turned(
    x_0: Tensor,
    noise: Tensor,
    t: Tensor,
    alphas_bar: Tensor,
    *,
    table=lambda alphas_bar: alphas_bar,
    look_up=at,
    first=torch.sqrt,  # of noise; the next of x_0
    second=lambda a_bar: (1 - a_bar).sqrt(),
) -> Tensor:
    a_bar = look_up(table(alphas_bar), t, x_0)
    return first(a_bar) * noise - second(a_bar) * x_0


def _x_t(x_0: Tensor, noise: Tensor, t: Tensor, alphas_bar: Tensor) -> Tensor:
    a_bar = at(alphas_bar, t, x_0)
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise


v_target = Check(
    number="5.8",
    name="v_target",
    specification=_v_target,
    form=_turned,
    images=("x_0", "noise"),
    batch=("x_0", "noise", "t"),
    tables=tables_of_bar,
    cases=tuple(
        Case(
            f"x_0 of shape {shape}, t = {t}, T = {len(table)}{', the last alpha_bar 0' * (table[-1] == 0)}",
            (fractions(*shape), 2 * fractions(*shape, start=11), torch.tensor(t), double(table)),
        )
        for shape, t, table in [
            *((shape, t, ALPHAS_BAR) for shape, t in IMAGES),
            ((3, 2), [9, 5, 9], TO_ZERO_BAR),
            ((2, 5), [0, 0], ALPHAS_BAR[:1]),
            ((3, 2), [999, 300, 500], LONG_BAR),
        ]
    ),
    among="mixed t, T = 1, T = 1000 and an alpha_bar of 0",
    misconceptions={
        "That is x_t, x_0 and noise mixed by the forward process. v is sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) "
        "x_0.": dict(instead=_x_t),
        "You exchanged x_0 and noise: v is the noise, less x_0 as alpha_bar falls.": dict(
            instead=lambda x_0, noise, t, alphas_bar: _turned(noise, x_0, t, alphas_bar)
        ),
        "You took x_t where x_0 belongs. v is made of x_0 and noise.": dict(
            instead=lambda x_0, noise, t, alphas_bar: _turned(_x_t(x_0, noise, t, alphas_bar), noise, t, alphas_bar)
        ),
        "You return noise - x_0, the velocity of a straight line. v turns: each has its coefficient.": dict(
            first=torch.ones_like, second=torch.ones_like
        ),
        **coefficients("noise", "x_0"),
        **looked_up(),
    },
)
