"""Offset noise: training noise whose mean over an image varies, so that the network learns to change the brightness."""

import torch
from torch import Generator, Tensor

from ddpm_lesson._tensors import randn_like


def offset_noise(x_0: Tensor, strength: float = 0.1, *, generator: Generator | None = None) -> Tensor:
    """Standard normal noise plus `strength` times one normal number for each image and channel.  lucidrains; Lin 2023.

    x_0: (B, C, *D). Returns its shape and dtype. generator: as in `Gaussian.sample`.
    For `train(..., noise=partial(offset_noise, strength=0.1))`. A repair of chains that keep a little of the image in
    x_T, at the price of their formulas: the noise has variance 1 + strength^2, with correlated pixels, and
    sampling starts from N(0, I) all the same. Zero terminal SNR repairs the cause.
    Raises ValueError if strength is negative or x_0 has no channels.
    """
    if x_0.ndim < 2 or not strength >= 0:
        got = f"x_0 of shape {tuple(x_0.shape)} and strength = {strength}"
        raise ValueError(f"expected x_0 (B, C, *D) and strength >= 0, got {got}")
    noise = randn_like(x_0, generator)
    offset = randn_like(torch.empty(x_0.shape[:2], dtype=x_0.dtype, device=x_0.device), generator)
    return noise + strength * offset.view(*x_0.shape[:2], *[1] * (x_0.ndim - 2))
