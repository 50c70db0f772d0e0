"""Inpainting: known pixels stay, unknown ones are drawn to fit them."""

import math

import torch
from torch import Tensor

from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.predictions import Prediction
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import Reverse, Step


def _fits(part: Tensor, x: Tensor) -> bool:
    """Whether part can be expanded to x's shape."""
    sides = zip(reversed(part.shape), reversed(x.shape), strict=False)
    return part.ndim <= x.ndim and all(a in (1, b) for a, b in sides)


def inpainting(process: GaussianDiffusion, p: Reverse, x_0: Tensor, mask: Tensor) -> Reverse:
    """p with q(x_{t-1} | x_0) instead where x_0 is known: RePaint's mixing.  Lugmayr et al. 2022, Eq. 8.

    p: the reverse step of `process`. x_0: (B, *D), or what broadcasts to it. mask: bool, True where x_0 is known.
    Draw with `repaint`, or with `ancestral`, whose unknown pixels then fit the known ones less well.
    Raises TypeError for a mask that is not bool, ValueError for shapes that do not broadcast.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True where the image is known, got {mask.dtype}")

    def p_mixed(x_t: Tensor, i: int, prev: Prediction | None = None) -> Step:
        if not _fits(x_0, x_t) or not _fits(mask, x_t):
            got = f"x_0 {tuple(x_0.shape)} and mask {tuple(mask.shape)}"
            raise ValueError(f"x_0 and mask must broadcast to x_t {tuple(x_t.shape)}, got {got}")
        step, image = p(x_t, i, prev), x_0.to(x_t.dtype).expand(x_t.shape)
        known = process.q_marginal(image, i - 1) if i > 0 else Gaussian(image, torch.full_like(image, -math.inf))
        mean = torch.where(mask, known.mean, step.p.mean)
        return Step(Gaussian(mean, torch.where(mask, known.log_var, step.p.log_var)), step.prediction)

    return p_mixed
