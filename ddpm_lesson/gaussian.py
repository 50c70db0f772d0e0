"""Gaussians as values: a mean and a log variance, with the few operations that diffusion needs."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lesson._tensors import randn_like, table_dtype


class Gaussian(NamedTuple):
    """A Gaussian with independent coordinates, N(mean, exp(log_var) I).

    mean: (B, *D). log_var: any shape that broadcasts against mean, (B, 1, ...) as a rule; natural logarithm of the
    variance. -inf is legal and means a point. Every result is per coordinate, in nats: sum over D for an image.

    >>> p = Gaussian(torch.tensor([[1.0, -1.0]]), torch.tensor([[4.0]]).log())  # standard deviation 2
    >>> p.sample(torch.tensor([[0.25, 0.0]]))
    tensor([[ 1.5000, -1.0000]])
    >>> p.kl(p)
    tensor([[0., 0.]])
    """

    mean: Tensor
    log_var: Tensor

    def sample(self, noise: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """mean + exp(log_var / 2) * noise: the noise is multiplied by a standard deviation, not by a variance.

        noise: the shape of mean, standard normal; if it is not given it is drawn, in float32 at least, on the
        generator's own device (the CPU's default generator if there is none) and moved, so that a seed means the same
        noise on a CPU and on a GPU. A generator that lives on the GPU draws there: faster, and other numbers.
        Returns (B, *D) in mean's dtype; exactly mean where log_var is -inf.
        Raises ValueError if noise has another shape than mean.
        """
        if noise is None:
            noise = randn_like(self.mean, generator)
        elif noise.shape != self.mean.shape:
            raise ValueError(f"noise must have mean's shape {tuple(self.mean.shape)}, got {tuple(noise.shape)}")
        return (self.mean + torch.exp(0.5 * self.log_var) * noise).to(self.mean.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at x per coordinate, in nats.  x: (B, *D).

        For a point (log_var = -inf) +inf at the mean and -inf elsewhere.
        """
        squared = _squared_distance(x, self.mean)
        log_p = -0.5 * (squared * torch.exp(-self.log_var) + self.log_var + math.log(2 * math.pi))
        return torch.where(self.log_var == -math.inf, torch.where(squared == 0, math.inf, -math.inf), log_p)

    def entropy(self) -> Tensor:
        """Differential entropy per coordinate, in nats: (log(2 pi e) + log_var) / 2, in mean's shape."""
        return 0.5 * (math.log(2 * math.pi * math.e) + self.log_var.expand(self.mean.shape))

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self || other) per coordinate, in nats: DDPM's L_{t-1} and L_T are sums of these (Eq. 5).

        Zero only where both agree; +inf where just one is a point, or both are and differ. Not symmetric in the two.
        """
        log_ratio, squared = self.log_var - other.log_var, _squared_distance(self.mean, other.mean)
        kl = 0.5 * (torch.expm1(log_ratio) - log_ratio + squared * torch.exp(-other.log_var))
        same_point = (squared == 0) & (self.log_var == other.log_var)
        return torch.where(other.log_var == -math.inf, torch.where(same_point, 0.0, math.inf), kl)

    def discretized_log_prob(self, x: Tensor, levels: int = 256) -> Tensor:
        """Log probability of the bin around x per coordinate, in nats.  Ho et al. 2020, Eq. 13.

        x: (B, *D), values on the grid of `levels` equally spaced numbers from -1 to 1 (256 for 8-bit images, 17 for
        the 8x8 digits). The first bin reaches down to -inf and the last one up to +inf, so that the probabilities
        of all levels add up to 1.
        Returns mean's shape, float64 (float32 on devices without it). Values and gradients are finite for any
        image and network output: the difference of the two distribution functions is taken in the logarithm, on the
        side of the smaller tail. Raises ValueError if levels < 2.
        Not the density at x: that is not a probability and can exceed 1.
        """
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}")
        dtype = table_dtype(x.device)
        half = 1 / (levels - 1)
        # A standard deviation of 1e-13 is a point on any grid, and the floor keeps gradients below finite in float32.
        inv_std = torch.exp(-0.5 * self.log_var.to(dtype).clamp(min=-60))
        centred = x.to(dtype) - self.mean.to(dtype)
        upper, lower = (centred + half) * inv_std, (centred - half) * inv_std
        flip = centred > 0
        log_near = _log_ndtr(torch.where(flip, -lower, upper))  # both ends seen from the lower tail
        log_share = _log_ndtr(torch.where(flip, -upper, lower)) - log_near
        inside = log_near + torch.log(-torch.expm1(log_share.clamp(max=-torch.finfo(dtype).tiny)))
        log_p = torch.where(x < -1 + half, _log_ndtr(upper), inside)
        return torch.where(x > 1 - half, _log_ndtr(-lower), log_p)


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return (a.to(dtype) - b.to(dtype)) ** 2


def _log_ndtr(z: Tensor) -> Tensor:
    """Log of the standard normal distribution function; unlike torch.special's, with exact gradients far out."""
    tail = z.clamp(max=0)
    log_tail = torch.log(0.5 * torch.special.erfcx(-tail / math.sqrt(2))) - 0.5 * tail**2
    return torch.where(z < 0, log_tail, torch.log1p(-0.5 * torch.special.erfc(z.clamp(min=0) / math.sqrt(2))))
