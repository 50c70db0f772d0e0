"""What the checks share: exact inputs, the chains that they run on, and the few lines that every wrong answer needs."""

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def widest(x: Tensor) -> Tensor:
    """In float64, or in float32 on MPS, which has no other."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def fractions(*shape: int, start: int = 0) -> Tensor:
    """Multiples of 1/1024 from -1 to 1 in float32, without pattern; up to 2049 of them all differ.

    Another start gives other numbers in another order: no permutation of one is the other.
    """
    step = 733 + 3 * start  # with 2049 = 3 * 683 it has no factor in common
    values = [((101 * start + step * i) % 2049 - 1024) / 1024 for i in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def products(betas: list[float]) -> list[float]:
    """alphas_bar: the product of 1 - beta up to each step."""
    return list(itertools.accumulate((1 - beta for beta in betas), lambda a, b: a * b))


BETAS = [0.05 * (i + 1) for i in range(10)]  # large steps, so that float32 still resolves 1 - alpha_bar
ALPHAS_BAR = products(BETAS)
LONG = [0.0001 + (0.02 - 0.0001) * i / 999 for i in range(1000)]  # DDPM's own
LONG_BAR = products(LONG)
STEEP_BAR = [0.999, 0.9, 0.5, 0.1, 2.5e-9]  # the last beta is above 0.999

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


def before(alphas_bar: Tensor) -> Tensor:
    """alphas_bar_prev: 1 before the first step."""
    return torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])


def tables_of_bar(alphas_bar: Tensor, **_) -> dict[str, Tensor]:
    """By their names, the tables of which factors are products; for exercises that are given alphas_bar."""
    return {"alpha_bar": alphas_bar, "1 - alpha_bar": 1 - alphas_bar} | _step_tables(alphas_bar)


def tables_of_betas(betas: Tensor, **_) -> dict[str, Tensor]:
    """The same for exercises that are given betas."""
    a_bar = torch.cumprod(1 - betas, 0)
    return {"beta": betas, "alpha": 1 - betas, "alpha_bar": a_bar, "1 - alpha_bar": 1 - a_bar} | {
        "alpha_bar_prev": before(a_bar),
        "1 - alpha_bar_prev": 1 - before(a_bar),
        "the running product of the betas": torch.cumprod(betas, 0),
        "1 - the running product of the betas": 1 - torch.cumprod(betas, 0),
    }


def _step_tables(a_bar):
    prev = before(a_bar)
    return {"alpha": a_bar / prev, "beta": 1 - a_bar / prev, "alpha_bar_prev": prev, "1 - alpha_bar_prev": 1 - prev}
