"""Points in the plane to diffuse: small distributions that can be looked at whole."""

import math

import torch
from torch import Generator, Tensor

from ddpm_lesson._tensors import home


def eight_gaussians_mixture() -> tuple[Tensor, Tensor, Tensor]:
    """The density of `eight_gaussians`, for the exact oracle: (weights (8,), means (8, 2), stds (8,)), float64.

    Equal weights; means on a circle of radius sqrt(2 (1 - 0.1^2)), at 0, 45, ... 315 degrees; isotropic standard
    deviation 0.1.  Each coordinate then has variance 1.  stds are standard deviations, not variances.  On the CPU.
    """
    angle = torch.arange(8, dtype=torch.float64, device="cpu") * math.pi / 4
    means = math.sqrt(2 * (1 - 0.1**2)) * torch.stack([angle.cos(), angle.sin()], dim=1)
    return torch.full_like(angle, 1 / 8), means, torch.full_like(angle, 0.1)


def eight_gaussians(n: int, *, generator: Generator | None = None) -> Tensor:
    """n points from `eight_gaussians_mixture`.  After Grathwohl et al. 2018 (FFJORD), rescaled.

    Returns (n, 2) float32, each coordinate of mean 0 and variance 1: those of the distribution, not of the n points.
    They lie where the generator draws, which needs float64; without one on the CPU.
    Raises ValueError if n is not a positive integer.
    """
    u, _, noise = _draw(n, generator)
    _, means, stds = (part.to(u.device) for part in eight_gaussians_mixture())
    k = (8 * u).long()  # (n,)
    return (means[k] + stds[k, None] * noise).float()


def two_moons(n: int, *, generator: Generator | None = None) -> Tensor:
    """n points on two interleaved half circles.  scikit-learn's `make_moons`, rescaled.

    With a uniform on (0, pi): (cos a, sin a) or (1 - cos a, 1/2 - sin a), each for half of the points on average.
    Noise of standard deviation 0.05 is added, the mean (1/2, 1/4) subtracted, and each coordinate divided by the
    root of its variance, (3/4, 9/16 - 1/pi) + 0.05^2.  Shape, scale and errors as in `eight_gaussians`.
    """
    u, v, noise = _draw(n, generator)
    outer = torch.stack([(math.pi * u).cos(), (math.pi * u).sin()], dim=1)
    points = torch.where(v[:, None] < 1 / 2, outer, noise.new_tensor([1, 1 / 2]) - outer) + 0.05 * noise
    mean, var = noise.new_tensor([[1 / 2, 1 / 4], [3 / 4, 9 / 16 - 1 / math.pi]])
    return ((points - mean) / (var + 0.05**2).sqrt()).float()


def swiss_roll(n: int, *, generator: Generator | None = None) -> Tensor:
    """n points on a spiral.  The two rolled-up coordinates of scikit-learn's `make_swiss_roll`, rescaled.

    (a cos a, a sin a) with a uniform on (3 pi / 2, 9 pi / 2).  Noise of standard deviation 0.4 is added, the mean
    (2, 2 / (3 pi)) subtracted, and each coordinate divided by the root of its variance,
    39 pi^2 / 8 + (-17/4, 1/4 - 4 / (9 pi^2)) + 0.4^2.  Shape, scale and errors as in `eight_gaussians`.
    """
    u, _, noise = _draw(n, generator)
    a = math.pi * (3 / 2 + 3 * u)
    points = torch.stack([a * a.cos(), a * a.sin()], dim=1) + 0.4 * noise
    mean, shift = noise.new_tensor([[2, 2 / (3 * math.pi)], [-17 / 4, 1 / 4 - 4 / (9 * math.pi**2)]])
    return ((points - mean) / (39 / 8 * math.pi**2 + shift + 0.4**2).sqrt()).float()


def checkerboard(n: int, *, generator: Generator | None = None) -> Tensor:
    """n points, uniform on the eight dark cells of a 4x4 board.  After Grathwohl et al. 2018 (FFJORD), rescaled.

    The board is the square from -sqrt(3) to sqrt(3), a cell is sqrt(3) / 2 wide, and cell (i, j), counted from the
    lower left, is dark where i + j is even.  Shape, scale and errors as in `eight_gaussians`.
    """
    u, v, _ = _draw(n, generator)
    x, y = 4 * u, 2 * v + (2 * v).floor() + (4 * u).floor() % 2  # of a column's cells, y takes every second one
    return (math.sqrt(3) / 2 * (torch.stack([x, y], dim=1) - 2)).float()


def _draw(n: int, generator: Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """Two uniform numbers (n,) and a normal pair (n, 2) for each point."""
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a positive integer, got {n!r}")
    u, v = torch.rand(2, n, generator=generator, dtype=torch.float64, device=home(generator))
    return u, v, torch.randn(n, 2, generator=generator, dtype=torch.float64, device=home(generator))
