"""The variational bound on -log p(x_0): L_T, the KL of every step, the decoder's L_0, and their sum.  DDPM Eq. 3, 5.

Units are bits per dimension: nats, divided by log 2 and by the number of coordinates. The bound is a *sum* over the
steps; a mean over them is smaller by the factor T. Results are float32 at least.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lesson.gaussian import Gaussian, randn_like
from ddpm_lesson.predictions import MeanType, Prediction, Variance, clipped, decode, make_denoiser
from ddpm_lesson.process import GaussianDiffusion

Decoder = Callable[[Gaussian, Tensor], Tensor]  # (p, x_0) -> log-likelihood of x_0 per coordinate, in nats


def discretized(levels: int) -> Decoder:
    """The decoder of data on `levels` equally spaced values from -1 to 1.  Ho et al. 2020, Eq. 13.

    256 for 8-bit images, 17 for the 8x8 digits: with 256 the digits would be charged for values they never take.
    """
    return partial(Gaussian.discretized_log_prob, levels=levels)


eight_bit = discretized(256)
density: Decoder = Gaussian.log_prob  # the decoder of continuous data; its bits/dim may be negative


def p_from_prediction(
    process: GaussianDiffusion, variance: Variance, prediction: Prediction, x_t: Tensor, i: Tensor
) -> Gaussian:
    """p(x_{t-1} | x_t): the posterior with the estimated x_0 in the place of x_0.  Ho et al. 2020, Eq. 1, 7, 11.

    process: the one that steps. prediction: of the base's step timestep_map[i]. x_t: (B, *D). i: (B,).
    Returns Gaussian with mean (B, *D) and log_var (B, 1, ...), or (B, *D) for `learned_range`.
    """
    mean = process.q_posterior(prediction.x_0, x_t.to(prediction.x_0.dtype), i).mean
    return Gaussian(mean, variance(process, i, prediction, x_t))


def p_from_output(
    base: GaussianDiffusion,
    mean_type: MeanType,
    variance: Variance,
    output: Tensor,
    x_t: Tensor,
    t: Tensor,
    *,
    clip: bool = False,
) -> Gaussian:
    """p(x_{t-1} | x_t) from a network's raw output, with gradients.  Ho et al. 2020, Eq. 1, 7, 11.

    output: (B, *D), or twice the channels. x_t: (B, *D). t: (B,), steps of the base.
    clip: clip the estimated x_0 to [-1, 1], as sampling does. Not for training: it stops the gradients.
    Raises ValueError for an output of another shape, and for `learned_range` without its second half.
    """
    prediction = decode(base, mean_type, x_t, t, float32_at_least(output))
    if clip:
        prediction = prediction._replace(x_0=prediction.x_0.clamp(-1, 1))
    return p_from_prediction(base, variance, prediction, x_t, t)


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
    """The bound, averaged over images, in bits/dim: total = prior + terms.sum().

    standard_error: of total, over images and their noise; nan for a single image.
    terms: (T,) float64, terms[0] is L_0. x_0_mse: (T,) float64, mean squared error of the estimated x_0.
    """

    total: float
    standard_error: float
    prior: float
    terms: Tensor
    x_0_mse: Tensor


@torch.no_grad()
def bits_per_dim(
    model: Callable[..., Tensor],
    process: GaussianDiffusion,
    mean_type: MeanType,
    variance: Variance,
    x_0: Tensor,
    *,
    cond: Tensor | None = None,
    decoder: Decoder = eight_bit,
    clip: bool = True,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Bits:
    """The bound with all its T terms, each with one noise per image.  Ho et al. 2020, Eq. 5.

    model, mean_type, cond: as for `make_denoiser`. process: the base, or a chain respaced from it.
    x_0: (B, *D), B >= 1. clip: clip the estimated x_0 to [-1, 1]; False for data that leave that range.
    The noise does not depend on batch_size. progress: show a bar. Raises ValueError if there are no images.
    """
    if len(x_0) == 0:
        raise ValueError(f"x_0 must hold at least one image, got shape {tuple(x_0.shape)}")
    steps = reversed(range(process.T))
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, total=process.T, desc="bits/dim")
    x_0 = float32_at_least(x_0)
    terms, mse = torch.zeros(2, process.T, len(x_0), dtype=torch.float64)
    for i in steps:
        noise = randn_like(x_0, generator)
        for first in range(0, len(x_0), batch_size):
            rows = slice(first, first + batch_size)
            x = x_0[rows]
            t = torch.full(x.shape[:1], i, device=x.device)
            x_t = process.q_sample(x, t, noise[rows])
            denoise = make_denoiser(model, process.base, mean_type, cond=None if cond is None else cond[rows])
            denoise = clipped(denoise, process.base) if clip else denoise
            prediction = denoise(x_t, process.timestep_map[t])
            p = p_from_prediction(process, variance, prediction, x_t, t)
            term = decoder_nll(p, x, decoder) if i == 0 else posterior_kl(process, p, x, x_t, t)
            terms[i, rows] = term.cpu()
            mse[i, rows] = (prediction.x_0 - x).square().flatten(1).mean(1).cpu()
    prior = prior_kl(process, x_0).cpu().double()
    total = prior + terms.sum(0)
    standard_error = (total.var(correction=0) / (len(total) - 1)).sqrt()
    return Bits(total.mean().item(), standard_error.item(), prior.mean().item(), terms.mean(1), mse.mean(1))


def float32_at_least(x: Tensor) -> Tensor:
    """x, or its float32 copy where x is in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)
