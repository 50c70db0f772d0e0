"""Starting in the middle of a chain, from an image that is noised only in part; and mixing two latents."""

import math

import torch
from torch import Generator, Tensor

from ddpm_lesson._tensors import float32_at_least, randn_like
from ddpm_lesson.process import GaussianDiffusion


def start_at(
    process: GaussianDiffusion, x_0: Tensor, i: int, *, generator: Generator | None = None
) -> tuple[GaussianDiffusion, Tensor]:
    """The chain of the first i steps and x_t ~ q(x_t | x_0) where it starts.  SDEdit: Meng et al. 2022, VP form.

    x_0: (B, *D). i: how many steps are left to go, 1..T. Returns what a sampler takes, its process and its x_T:
    the sampler draws anew what i steps of noise have erased, and keeps the rest. Two images noised so and mixed give
    DDPM's interpolation (Ho et al. 2020). Stopping early is leaving the loop over the states.
    Raises ValueError if i leaves 1..T. Not noised to i and then stepped from i - 1, a published mistake.
    """
    if not 1 <= i <= process.T:
        raise ValueError(f"i, the steps left to go, must lie in 1..{process.T}, got {i}")
    return process.respaced(range(i)), process.q_sample(x_0, i - 1, randn_like(x_0, generator))


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """From latent a to latent b along the arc between them: spherical interpolation.  Shoemake 1985; DDIM, App. D.5.

    a, b: (B, *D), pairs of whole images. share: 0 gives a, 1 gives b. Returns (B, *D) in a's dtype.
    (sin((1 - share) angle) a + sin(share angle) b) / sin(angle), with the angle of each pair.
    Not defined for a latent of zeros or for opposite latents.
    Not (1 - share) a + share b: half way that has half of the variance, and x_T must be standard normal.
    Raises ValueError if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    x, y = (float32_at_least(each).flatten(1) for each in (a, b))
    cosine = (x * y).sum(1, keepdim=True) / (x.norm(dim=1, keepdim=True) * y.norm(dim=1, keepdim=True))
    angle = cosine.clamp(-1, 1).acos()
    weights = [torch.sinc(part * angle / math.pi) * part / torch.sinc(angle / math.pi) for part in (1 - share, share)]
    return (weights[0] * x + weights[1] * y).view_as(a).to(a.dtype)
