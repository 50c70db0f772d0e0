"""The variational bound on -log p(x_0): L_T, the KL of every step, the decoder's L_0, and their sum.  DDPM Eq. 3, 5.

Units are bits per dimension: nats, divided by log 2 and by the number of coordinates. The bound is a *sum* over the
steps; a mean over them is smaller by the factor T. Results are float32 at least.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddpm_lesson._tensors import float32_at_least, positive, randn_like
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.predictions import MeanType, Variance, p_from_prediction
from ddpm_lesson.process import GaussianDiffusion


class Decoder(Protocol):
    """decoder(p, x_0): log-likelihood of x_0 per coordinate, (B, *D), in nats."""

    def __call__(self, p: Gaussian, x_0: Tensor, /) -> Tensor: ...


def discretized(levels: int) -> Decoder:
    """The decoder of data on `levels` equally spaced values from -1 to 1.  Ho et al. 2020, Eq. 13.

    256 for 8-bit images, 17 for the 8x8 digits: with 256 the digits would be charged for values they never take.
    """
    return partial(Gaussian.discretized_log_prob, levels=levels)


eight_bit = discretized(256)
density: Decoder = Gaussian.log_prob  # the decoder of continuous data; its bits/dim may be negative


def decoder_nll(p: Gaussian, x_0: Tensor, decoder: Decoder = eight_bit) -> Tensor:
    """L_0 = -log p(x_0 | x_1).  Ho et al. 2020, Eq. 5 and 13.

    p: p(x_{t-1} | x_t) of the step t = 0. x_0: (B, *D). Returns (B,), bits/dim.
    """
    return _bits(-decoder(p, x_0)).to(torch.promote_types(p.mean.dtype, torch.float32))


def posterior_kl(process: GaussianDiffusion, p: Gaussian, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)).  Ho et al. 2020, Eq. 5.

    x_0, x_t: (B, *D). t: (B,). Returns (B,), bits/dim; inf at t = 0, where the posterior is a point and the bound
    has `decoder_nll`.
    """
    return _bits(process.q_posterior(x_0.to(p.mean.dtype), x_t.to(p.mean.dtype), t).kl(p))


def vlb_term(
    process: GaussianDiffusion, p: Gaussian, x_0: Tensor, x_t: Tensor, t: Tensor, *, decoder: Decoder = eight_bit
) -> Tensor:
    """The bound's term of step t: `posterior_kl`, or `decoder_nll` where t = 0.  Ho et al. 2020, Eq. 5.

    p: p(x_{t-1} | x_t), as from `p_from_output`. x_0, x_t: (B, *D). t: (B,). Returns (B,), bits/dim.
    Not an estimate of the bound at a random t, but of a T-th of it.
    """
    return torch.where(t == 0, decoder_nll(p, x_0, decoder), posterior_kl(process, p, x_0, x_t, t))


def prior_kl(process: GaussianDiffusion, x_0: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x_0) || N(0, I)).  Ho et al. 2020, Eq. 5.

    x_0: (B, *D). Returns (B,), bits/dim. No network can lower it: it says how far the chain stops short of the prior.
    """
    t = torch.full(x_0.shape[:1], process.T - 1, device=x_0.device)
    q = process.q_marginal(float32_at_least(x_0), t)
    return _bits(q.kl(Gaussian(torch.zeros_like(q.mean), torch.zeros_like(q.log_var))))


class Bits(NamedTuple):
    """The bound of every image, in bits/dim, and its averages.

    priors: (B,), L_T. image_terms: (T, B), those of t = 0 are L_0. image_x_0_mse: (T, B), mean squared error of the
    estimated x_0. All float64, on the CPU, with one noise per image and step.
    """

    priors: Tensor
    image_terms: Tensor
    image_x_0_mse: Tensor

    @property
    def totals(self) -> Tensor:
        """The bound of each image, (B,)."""
        return self.priors + self.image_terms.sum(0)

    @property
    def total(self) -> float:
        """The bound: prior + terms.sum()."""
        return self.totals.mean().item()

    @property
    def standard_error(self) -> float:
        """Of total, over images and their noise; nan for a single image."""
        return (self.totals.var(correction=0) / (len(self.priors) - 1)).sqrt().item()

    @property
    def prior(self) -> float:
        """L_T."""
        return self.priors.mean().item()

    @property
    def terms(self) -> Tensor:
        """(T,); terms[0] is L_0."""
        return self.image_terms.mean(1)

    @property
    def x_0_mse(self) -> Tensor:
        """(T,)."""
        return self.image_x_0_mse.mean(1)


@torch.no_grad()
def bits_per_dim(
    model: Callable[..., Tensor],
    process: GaussianDiffusion,
    mean_type: MeanType,
    variance: Variance,
    x_0: Tensor,
    *,
    decoder: Decoder = eight_bit,
    clip: bool = True,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
    progress: bool = False,
    **conditions: Tensor,
) -> Bits:
    """The bound with all its T terms, each with one noise per image.  Ho et al. 2020, Eq. 5.

    model, mean_type: as for `make_denoiser`; conditions too, each with an entry for each image, (B, ...).
    process: the base, or a chain respaced from it. x_0: (B, *D), B >= 1. clip: clip the estimated x_0 to [-1, 1];
    False for data that leave that range. The noise does not depend on batch_size. progress: show a bar.
    Raises ValueError if there are no images, a condition is no tensor with an entry for each, or batch_size is below 1.

    >>> from ddpm_lesson import oracle
    >>> from ddpm_lesson.predictions import epsilon, fixedsmall
    >>> process = GaussianDiffusion(torch.full((10,), 0.5))
    >>> truth = oracle.GaussianData(process, torch.zeros(2), 0.0)  # all data are 0, and so is the KL of every step
    >>> bits = bits_per_dim(truth.as_model(epsilon), process, epsilon, fixedsmall, torch.zeros(3, 2))
    >>> bits.terms.shape, bool(bits.terms[1:].max() < 1e-6)
    (torch.Size([10]), True)
    """
    if len(x_0) == 0:
        raise ValueError(f"x_0 must hold at least one image, got shape {tuple(x_0.shape)}")
    positive("batch_size", batch_size)
    for name, condition in conditions.items():
        got = f"shape {tuple(condition.shape)}" if isinstance(condition, Tensor) else f"a {type(condition).__name__}"
        if not isinstance(condition, Tensor) or condition.shape[:1] != x_0.shape[:1]:
            raise ValueError(f"{name} must be a tensor with an entry for each of the {len(x_0)} images, got {got}")
    steps: Iterable[int] = reversed(range(process.T))
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, total=process.T, desc="bits/dim")
    x_0, parts = float32_at_least(x_0), []
    for first in range(0, len(x_0), batch_size):
        rows = slice(first, first + batch_size)
        given = {name: condition[rows] for name, condition in conditions.items()}
        denoise = make_denoiser(model, process.base, mean_type, **given)
        parts.append((rows, clipped(denoise, process.base) if clip else denoise))
    terms, mse = torch.zeros(2, process.T, len(x_0), dtype=torch.float64)
    for i in steps:
        noise = randn_like(x_0, generator)
        for rows, denoise in parts:
            t = torch.full(x_0[rows].shape[:1], i, device=x_0.device)
            x, _, _, x_t = process.noised(x_0[rows], t, noise[rows])
            prediction = denoise(x_t, process.timestep_map[t])
            p = p_from_prediction(process, variance, prediction, x_t, t)
            term = decoder_nll(p, x, decoder) if i == 0 else posterior_kl(process, p, x, x_t, t)
            terms[i, rows] = term.cpu().double()
            mse[i, rows] = (prediction.x_0 - x).square().flatten(1).mean(1).cpu().double()
    return Bits(prior_kl(process, x_0).cpu().double(), terms, mse)


def _bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)
