"""What exercises 1.4 and 1.9 share: their inputs."""

import torch

from ddpm_lesson.checks._engine import Case
from ddpm_lesson.checks._inputs import ALPHAS_BAR, IMAGES, LONG_BAR, STEEP_BAR, double, fractions

SHORT_CHAIN = (", T = 1", (2, 5), [0, 0], ALPHAS_BAR[:1])
LONG_CHAIN = (", T = 1000", (3, 2), [999, 300, 500], LONG_BAR)  # earlier, float32 leaves too little of 1 - alpha_bar
STEEP_CHAIN = (", T = 5, alpha_bar_T = 2.5e-09", (2, 3), [4, 1], STEEP_BAR)


def jump_cases(first: str, chains: list[tuple]) -> tuple[Case, ...]:
    """Cases (x, t, noise, alphas_bar) on the images, then on chains of their own: (remark, shape, t, alphas_bar).

    x_0 lies in [-1, 1], x_t and noise reach past it.
    """
    scale = 1 if first == "x_0" else 2
    rows = [("", shape, t, ALPHAS_BAR) for shape, t in IMAGES] + chains
    return tuple(
        Case(
            f"{first} of shape {shape}, t = {t}{remark}",
            (scale * fractions(*shape), torch.tensor(t), 2 * fractions(*shape, start=11), double(alphas_bar)),
        )
        for remark, shape, t, alphas_bar in rows
    )
