"""Consistency models: a function that leads from any state straight to the beginning of its trajectory.

Song et al. 2023 (arXiv 2303.01469). Their trajectories begin at a least noise, here at the state of t = 0.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from ddpm_lesson._tensors import randn_like
from ddpm_lesson.coefficients import combine
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.process import GaussianDiffusion

Consistency = Callable[[Tensor, Tensor], Tensor]  # f(x_t (B, *D), t (B,)) -> (B, *D)


def boundary(process: GaussianDiffusion, t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of f(x_t, t) = c_skip x_t + c_out F(x_t, t): 1 and 0 at t = 0.  Song et al. 2023, Eq. 5.

    t: (B,) int64. Returns (B,) each. With a = alphas_bar_t / alphas_bar_0 they are sqrt(a) and -sqrt(1 - a): EDM's
    coefficients for data of variance 1. F then predicts v, with the state of t = 0 instead of x_0.
    """
    log_a = process.row(t).log_alphas_bar - process.row(0).log_alphas_bar
    return (log_a / 2).exp(), -(-torch.expm1(log_a)).sqrt()


def consistency_function(model: Callable[..., Tensor], process: GaussianDiffusion) -> Consistency:
    """f(x_t, t) of a network: at t = 0 it is x_t itself, whatever the network says.  Gradients go through."""

    def f(x_t: Tensor, t: Tensor) -> Tensor:
        c_skip, c_out = boundary(process, t)
        return combine((c_skip, x_t), (c_out, model(x_t, t)))

    return f


def on_a_line(process: GaussianDiffusion, x_0: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and x_{t-1} with the same x_0 and noise: for consistency training.  Song et al. 2023, Algorithm 3.

    x_0, noise: (B, *D). t: (B,) int64 in 1..T-1. On the average over x_0 they are neighbours on a trajectory, if the
    steps are small; with few steps f is drawn to an average of what x_t could come from.
    """
    return process.q_sample(x_0, t, noise), process.q_sample(x_0, t - 1, noise)


def on_a_trajectory(
    process: GaussianDiffusion, denoise: Denoiser, x_0: Tensor, t: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """x_t, and x_{t-1} by a step of DDIM: for consistency distillation.  Song et al. 2023, Algorithm 2.

    denoise: the teacher. Otherwise as `on_a_line`. Its error is that of the teacher's step alone.
    """
    x_t = process.q_sample(x_0, t, noise)
    told = denoise(x_t, process.row(t).timestep_map)
    of_x_0, of_eps, _ = process.ddim_weights(t, 0.0)
    return x_t, combine((of_x_0, told.x_0), (of_eps, told.eps))


def consistency_loss(
    f: Consistency, target: Consistency, x_t: Tensor, x_prev: Tensor, t: Tensor, c: float = 0.03
) -> Tensor:
    """How far f at x_t and `target` at its neighbour x_{t-1} disagree, (B,).  Song et al. 2023, Eq. 7 and 10.

    x_t, x_prev: (B, *D). t: (B,) int64, at least 1. target: f itself, or with averaged weights; no gradient flows
    through it. The distance is pseudo-Huber, sqrt(d^2 + c^2) - c (Song & Dhariwal 2024).
    Raises ValueError for t = 0, which has no neighbour below.
    """
    if bool((t < 1).any()):
        raise ValueError(f"t must be at least 1, got {t.min().item()}")
    with torch.no_grad():
        wanted = target(x_prev, t - 1)
    squared = (f(x_t, t) - wanted).square().flatten(1).sum(1)
    return (squared + c**2).sqrt() - c


def consistency_steps(
    f: Consistency, process: GaussianDiffusion, x_T: Tensor, times: Sequence[int], *, generator: Generator | None = None
) -> Iterator[Tensor]:
    """f at the last step, then for each of `times` noise to there and f again.  Song et al. 2023, Algorithm 1.

    x_T: (B, *D). times: falling steps in 1..T-2; none is the one-step draw. Yields each answer of f, (B, *D).
    Raises ValueError for other times.
    """
    falling = all(s > t for s, t in pairwise((process.T - 1, *times, 0)))
    if not falling:
        raise ValueError(f"times must be falling steps in 1..{process.T - 2}, got {list(times)}")
    x = x_T
    for k, t in enumerate((process.T - 1, *times)):
        at = torch.full((len(x_T),), t, dtype=torch.int64, device=x_T.device)
        if k > 0:
            c_skip, c_out = boundary(process, at)  # sqrt(a), and minus the standard deviation of the noise
            x = combine((c_skip, x), (-c_out, randn_like(x, generator)))
        x = f(x, at)
        yield x
