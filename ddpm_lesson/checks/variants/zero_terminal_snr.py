"""Exercise 5.10: a schedule whose last step holds nothing of the image."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import BETAS, LONG, before, double, products
from ddpm_lesson.checks._rows import UPSIDE_DOWN, in_float32


def _zero_terminal_snr(betas):
    """Exercise 5.10: betas whose alpha_bar ends at 0.  Lin et al. 2023, Algorithm 1.

    betas: (T,) float64, T >= 2.  sqrt(alpha_bar) is shifted so that its last value is 0, and scaled so that its first
    value stays.  Returns the betas that it then has, (T,) float64: the last is exactly 1, the first is kept.
    Not a new last beta alone: the whole curve moves.
    """
    roots = [a_bar**0.5 for a_bar in products(betas.tolist())]
    first, last = roots[0], roots[-1]
    table = [((root - last) * first / (first - last)) ** 2 for root in roots]
    return double([1 - a_bar / prev for a_bar, prev in zip(table, [1.0, *table[:-1]], strict=True)])


def _shifted_and_scaled(
    betas: Tensor,
    *,
    bar=lambda betas: torch.cumprod(1 - betas, 0),
    curve=torch.sqrt,  # what is shifted and scaled; square: the way back
    shift=lambda root: root - root[-1],
    scale: Callable = lambda moved, root: moved * root[0] / moved[0],
    square=torch.square,
    start=lambda table: torch.ones_like(table[:1]),  # what stands before the first
    rule=lambda a_bar, prev: 1 - a_bar / prev,
    cap=lambda betas: betas,
    dtype=lambda betas: betas,
) -> Tensor:
    root = curve(bar(betas))
    table = square(scale(shift(root), root))
    return dtype(cap(rule(table, torch.cat([start(table), table[:-1]]))))


def _kept(betas: Tensor, last: float) -> Tensor:
    return torch.cat([betas[:-1], torch.full_like(betas[:1], last)])


def _tables(betas: Tensor) -> dict[str, Tensor]:
    a_bar = torch.cumprod(1 - betas, 0)
    return {"beta": betas, "alpha": 1 - betas, "alpha_bar": a_bar, "alpha_bar_prev": before(a_bar)}


zero_terminal_snr = Check(
    number="5.10",
    name="zero_terminal_snr",
    specification=_zero_terminal_snr,
    form=_shifted_and_scaled,
    tables=_tables,
    exact_dtype=True,
    cases=tuple(
        Case(words, (double(betas),))
        for words, betas in [
            ("T = 10", BETAS),
            ("T = 5, constant betas", [0.25] * 5),
            ("T = 4, falling betas", [0.5, 0.25, 0.125, 0.0625]),
            ("T = 2", [0.3, 0.1]),
            ("T = 1000, DDPM's betas", LONG),
        ]
    ),
    among="T = 2, constant betas and T = 1000",
    misconceptions={
        "You shifted alpha_bar. It is its square root that is shifted and scaled, the share of the image in x_t.": dict(
            curve=lambda a_bar: a_bar, square=lambda table: table
        ),
        "You shifted and did not scale back. Scale so that the first value stays: times first / (first - last).": dict(
            scale=lambda moved, root: moved
        ),
        "You divided by 1 - last, which keeps the 1 before the first step. It is the first value itself that stays: "
        "times first / (first - last).": dict(scale=lambda moved, root: moved / (1 - root[-1])),
        "Your scale is upside down: it is first / (first - last), above 1.": dict(
            scale=lambda moved, root: moved * (root[0] - root[-1]) / root[0]
        ),
        "You changed the last beta to 1 and nothing else. The whole curve sqrt(alpha_bar) is shifted and scaled.": dict(
            instead=lambda betas: _kept(betas, 1.0)
        ),
        "You changed the last beta to 0.999 and nothing else. The whole curve is shifted and scaled, and ends at "
        "1.": dict(instead=lambda betas: _kept(betas, 0.999)),
        "You capped the betas at 0.999. The last one has to be 1: alpha_bar ends at 0.": dict(
            cap=lambda betas: betas.clamp(max=0.999)
        ),
        "You did not square the root again: betas come from alpha_bar.": dict(square=lambda root: root),
        "You subtracted two alpha_bar. alpha_bar is a running product: beta is 1 minus the ratio of two "
        "neighbours.": dict(rule=lambda a_bar, prev: prev - a_bar),
        "You divided the difference of two alpha_bar by the later one<, and the last one is 0>. Divide by the one "
        "before.": dict(rule=lambda a_bar, prev: (prev - a_bar) / a_bar),
        UPSIDE_DOWN: dict(rule=lambda a_bar, prev: 1 - prev / a_bar),
        "You return alpha_bar. Its betas are asked for: 1 minus the ratio of two neighbours.": dict(
            rule=lambda a_bar, prev: a_bar
        ),
        "You return 1 - alpha_bar. beta is the noise of one step: divide by the alpha_bar before it first.": dict(
            rule=lambda a_bar, prev: 1 - a_bar
        ),
        "You return the alphas. beta is 1 - alpha.": dict(rule=lambda a_bar, prev: a_bar / prev),
        "Your first beta is 0: you scaled sqrt(alpha_bar) to begin at 1, or divided the first alpha_bar by itself. Its "
        "first value stays, and before it stands 1: the first beta is kept.": dict(start=lambda table: table[:1]),
        "Your first beta divides by the last alpha_bar: the shift wraps around. Before the first stands 1.": dict(
            start=lambda table: table[-1:]
        ),
        "You return T - 1 betas: the first is missing. It leads from the clean image, where alpha_bar is 1.": dict(
            give=lambda betas: betas[1:]
        ),
        "Your alpha_bar is the running product of the betas. It is that of the alphas, 1 - beta.": dict(
            bar=lambda betas: torch.cumprod(betas, 0)
        ),
        "You took the alphas of the single steps for alpha_bar: their running product is missing.": dict(
            bar=lambda betas: 1 - betas
        ),
        **in_float32("A beta of 1e-4 is 1 minus a ratio near 1"),
    },
)
