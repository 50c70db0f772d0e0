"""What the checks share: exact inputs, the chain that they run on, and the few lines that every wrong answer needs."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


def double(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def fractions(*shape: int, start: int = 0) -> Tensor:
    """Multiples of 1/32 from -1 to 1 in float32, in an order without pattern."""
    values = [((start + 37 * i) % 65 - 32) / 32 for i in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def products(betas: list[float]) -> list[float]:
    """alphas_bar: the product of 1 - beta up to each step."""
    return [math.prod(1 - beta for beta in betas[: i + 1]) for i in range(len(betas))]


BETAS = [0.05 * (i + 1) for i in range(10)]  # large steps, so that float32 still resolves 1 - alpha_bar
ALPHAS_BAR = products(BETAS)

IMAGES = [  # shape and t: mixed t, points, a batch as large as the image is wide, a video, a batch of one
    ((4, 1, 8, 8), [0, 3, 3, 9]),
    ((3, 2), [9, 1, 0]),
    ((4, 3, 4, 4), [9, 0, 5, 2]),
    ((2, 3, 2, 4, 4), [4, 9]),
    ((1, 1, 8, 8), [7]),
]


class Step(NamedTuple):
    """The coefficients of step t, each (B, 1, ..., 1)."""

    beta: Tensor
    alpha: Tensor
    a_bar: Tensor
    a_bar_prev: Tensor


def at(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """table[t] with as many axes as x."""
    return table[t].reshape(-1, *[1] * (x.ndim - 1))


def noised(a_bar: Tensor, x_0: Tensor, noise: Tensor) -> Tensor:
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise
