"""What training minimises: L_simple, the bound, both together, and the weights that lead from one to the other.

Each loss is called as loss(base, mean_type, ..., output, noised) with the network's *raw* output for the draw that
`GaussianDiffusion.noised` made; with its first arguments bound, `functools.partial(simple_loss, base, epsilon)`, it is
loss(output, noised), what `training.train` takes. output: (B, *D), or twice the channels.
Losses are float32 at least, whatever the network's precision.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ddpm_lesson._tensors import float32_at_least
from ddpm_lesson.bound import Decoder, eight_bit, vlb_term
from ddpm_lesson.coefficients import extract
from ddpm_lesson.predictions import MeanType, Variance, epsilon, learned_range, p_from_output, split
from ddpm_lesson.process import GaussianDiffusion, Noised

Elementwise = Callable[[Tensor], Tensor]


class Loss(Protocol):
    """loss(output, noised): the losses, (B,) or (B, *D), of a network's raw output.  Not reduced."""

    def __call__(self, output: Tensor, noised: Noised, /) -> Tensor: ...


def squared(error: Tensor) -> Tensor:
    """error^2: its minimiser is the conditional expectation, which is what sampling needs."""
    return error**2


def absolute(error: Tensor) -> Tensor:
    """|error|, "L1": its minimiser is the conditional median."""
    return error.abs()


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """error^2 / 2 up to delta, delta (|error| - delta / 2) beyond.  Huber 1964.  Near 0 it is half of `squared`."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta))


def simple_loss(
    base: GaussianDiffusion, mean_type: MeanType, output: Tensor, noised: Noised, *, error: Elementwise = squared
) -> Tensor:
    """L_simple of every coordinate, (B, *D), not reduced: error(target - output).  Ho et al. 2020, Eq. 14.

    error: an elementwise function. Of an output with twice the channels the first half is fitted.
    Raises ValueError if the output has any other shape. Not the bound: the weight of Eq. 12 is left out.

    >>> base = GaussianDiffusion(torch.tensor([0.36, 0.5]))
    >>> noised = base.noised(torch.zeros(1, 2), torch.tensor([1]), noise=torch.tensor([[1.0, 2.0]]))
    >>> simple_loss(base, epsilon, torch.tensor([[1.0, -1.0]]), noised)
    tensor([[0., 9.]])
    """
    output, _ = split(float32_at_least(output), noised.x_t)
    return error(mean_type.target(base, noised).to(output.dtype) - output)


def kl_loss(
    base: GaussianDiffusion,
    mean_type: MeanType,
    variance: Variance,
    output: Tensor,
    noised: Noised,
    *,
    decoder: Decoder = eight_bit,
    rescaled: bool = False,
) -> Tensor:
    """The bound's term of each t, (B,), bits/dim; rescaled: times T.  Nichol & Dhariwal 2021, "L_vlb".

    Over uniform t the rescaled form has the whole bound, less L_T, as its mean; the other one a T-th of it.
    """
    x_0, t, _, x_t = noised
    p = p_from_output(base, mean_type, variance, output, x_t, t)
    return (base.T if rescaled else 1) * vlb_term(base, p, x_0, x_t, t, decoder=decoder)


def hybrid_loss(
    base: GaussianDiffusion,
    mean_type: MeanType,
    output: Tensor,
    noised: Noised,
    *,
    variance: Variance = learned_range,
    lam: float = 0.001,
    decoder: Decoder = eight_bit,
) -> Tensor:
    """L_simple + lam L_vlb for a network that learns its variance, (B,).  Nichol & Dhariwal 2021, Eq. 16.

    output: twice the channels of x_t. variance: `learned_range` or `learned`. L_simple, here a mean over D, trains the
    first half. L_vlb trains the second half only: its mean is held fixed. It is the bound in bits/dim, as in the
    official code; the term of one t is a T-th of the bound and is multiplied by T.
    Forget that, and lam is T times too small.
    Raises ValueError if the output has no second half.
    """
    x_0, t, _, x_t = noised
    p = p_from_output(base, mean_type, variance, output, x_t, t)
    p = p._replace(mean=p.mean.detach())
    simple = simple_loss(base, mean_type, output, noised).flatten(1).mean(1)
    return simple + lam * base.T * vlb_term(base, p, x_0, x_t, t, decoder=decoder)


# Weights for the squared error in eps, as functions of snr = alphas_bar / (1 - alphas_bar) of any shape.


def simple_weight(snr: Tensor) -> Tensor:
    """1 at every step.  Ho et al. 2020, Eq. 14."""
    return torch.ones_like(snr)


def min_snr(snr: Tensor, gamma: float = 5.0) -> Tensor:
    """min(1, gamma / snr): steps where little noise is left count less.  Hang et al. 2023, Section 3.4.

    There even a large error in eps means little for x_0.

    The paper's min(snr, gamma) weighs the error in x_0; divided by snr it would be 0/0 where snr = 0.
    """
    return (gamma / snr).clamp(max=1)


def p2(snr: Tensor, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """1 / (k + snr)^gamma.  Choi et al. 2022 (arXiv 2204.00227)."""
    return (k + snr) ** -gamma


def vlb_weight(base: GaussianDiffusion, t: Tensor, var: Tensor) -> Tensor:
    """beta^2 / (2 var alpha (1 - alphas_bar)): what the KL of step t has and L_simple leaves out.  DDPM Eq. 12.

    t: (B,), from 1 on. var: (B,), the variance of p, for example base.betas[t]. Returns (B,): nats per squared error
    in eps, of which the KL is the sum over D, plus a constant where var is not the posterior's. Infinite where beta is
    1: there eps says nothing about x_0.
    """
    betas, alphas = extract(base.betas, t, t.shape), extract(base.alphas, t, t.shape)
    return betas**2 / (2 * var * alphas * extract(base.sqrt_one_minus_alphas_bar, t, t.shape) ** 2)


# From one parameterisation to another.


def error_scale(base: GaussianDiffusion, mean_type: MeanType, t: Tensor) -> Tensor:
    """Squared error in this MeanType's output per squared error in x_0, at the same x_t.  t: (B,). Returns (B,).

    epsilon: snr. xstart: 1. v: snr + 1 (Salimans & Ho 2022). xprev: posterior_mean_coef1^2.
    Every target is linear in x_0 once x_t is given, and the scale is its slope, squared.
    """
    x_0 = torch.ones_like(t, dtype=base.betas.dtype)
    x_t = torch.zeros_like(x_0)
    return mean_type.target(base, Noised(x_0, t, base.eps_from_x_0(x_t, t, x_0), x_t)) ** 2


def weight_for(base: GaussianDiffusion, mean_type: MeanType, t: Tensor, eps_weight: Tensor) -> Tensor:
    """The weight of this MeanType's squared error that equals eps_weight times the squared error in eps.

    t: (B,). eps_weight: (B,), as from `min_snr(base.snr[t])`. Returns (B,). `min_snr` becomes min(snr, gamma) for
    x_0 and min(snr, gamma) / (snr + 1) for v. Leave the weight as it is, and v is trained on another loss than eps.
    Where alphas_bar = 0 no error in x_0 is one in eps, and the weight would be 0, or 0/0 for epsilon itself: the step
    where sampling starts would not be trained. The weight there is 1, as in the code of Hang et al. 2023.
    """
    snr = error_scale(base, epsilon, t)
    return torch.where(snr == 0, 1.0, eps_weight * (snr / error_scale(base, mean_type, t)))  # eps: exactly 1
