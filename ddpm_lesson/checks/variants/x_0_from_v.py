"""Exercise 5.9: the way back from v to the image."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, IMAGES, LONG_BAR, at, double, fractions, tables_of_bar
from ddpm_lesson.checks._rows import looked_up
from ddpm_lesson.checks.variants._v_rows import coefficients
from ddpm_lesson.checks.variants.v_target import TO_ZERO_BAR


def _x_0_from_v(x_t, v, t, alphas_bar):
    """Exercise 5.9: x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v.  Salimans & Ho 2022, Appendix D.

    x_t, v: (B, *D).  t: (B,) int64 in 0..T-1.  alphas_bar: (T,) float64, of which the last may be 0: x_0 is -v there.
    Returns (B, *D), nothing clipped.  Not the way back from eps: nothing is divided, and no error grows.
    """
    images = []
    for image, its_v, step in zip(x_t, v, t.tolist(), strict=True):
        a_bar = alphas_bar[step].item()
        pixels = zip(image.flatten().tolist(), its_v.flatten().tolist(), strict=True)
        images.append([math.sqrt(a_bar) * x - math.sqrt(1 - a_bar) * u for x, u in pixels])
    return double(images).reshape(x_t.shape)


def _turned_back(
    x_t: Tensor,
    v: Tensor,
    t: Tensor,
    alphas_bar: Tensor,
    *,
    table=lambda alphas_bar: alphas_bar,
    look_up=at,
    first=torch.sqrt,  # of x_t; the next of v
    second=lambda a_bar: (1 - a_bar).sqrt(),
    above=lambda a_bar: torch.ones_like(a_bar),
) -> Tensor:
    a_bar = look_up(table(alphas_bar), t, x_t)
    return (first(a_bar) * x_t - second(a_bar) * v) / above(a_bar)


def _noise(x_t: Tensor, v: Tensor, t: Tensor, alphas_bar: Tensor) -> Tensor:
    a_bar = at(alphas_bar, t, x_t)
    return (1 - a_bar).sqrt() * x_t + a_bar.sqrt() * v


x_0_from_v = Check(
    number="5.9",
    name="x_0_from_v",
    specification=_x_0_from_v,
    form=_turned_back,
    images=("x_t", "v"),
    batch=("x_t", "v", "t"),
    tables=tables_of_bar,
    cases=tuple(
        Case(
            f"x_t of shape {shape}, t = {t}, T = {len(table)}{', the last alpha_bar 0' * (table[-1] == 0)}",
            (2 * fractions(*shape), 2 * fractions(*shape, start=11), torch.tensor(t), double(table)),
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
        "That is the noise, sqrt(1 - alpha_bar) x_t + sqrt(alpha_bar) v. x_0 is asked for.": dict(instead=_noise),
        "That is the way back from eps, (x_t - sqrt(1 - alpha_bar) v) / sqrt(alpha_bar). v is no noise: it holds some "
        "of x_0.": dict(first=torch.ones_like, above=torch.sqrt),
        "You exchanged x_t and v: x_0 is sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v.": dict(
            instead=lambda x_t, v, t, alphas_bar: _turned_back(v, x_t, t, alphas_bar)
        ),
        "You divided by sqrt(alpha_bar). The inverse of a rotation divides by nothing<, and yours breaks where "
        "alpha_bar is 0>.": dict(above=torch.sqrt),
        "You clipped x_0 to [-1, 1]. Nothing is clipped here.": dict(give=lambda out: out.clamp(-1, 1)),
        **coefficients("x_t", "v"),
        **looked_up(),
    },
)
