"""Ways to make one step of a denoising diffusion GAN, the right one with its choices: for exercise 5.12."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.checks._inputs import Step, before

Coefficient = Callable[[Step], Tensor]


def told(t: int, x_t: Tensor) -> Tensor:
    """t for the whole batch."""
    return torch.full((len(x_t),), t, device=x_t.device)


def of_x_0(c: Step) -> Tensor:
    """The factor of x_0 in the posterior's mean; 1 at t = 0."""
    return c.a_bar_prev.sqrt() * c.beta / (1 - c.a_bar)


def of_x_t(c: Step) -> Tensor:
    """The factor of x_t; 0 at t = 0."""
    return c.alpha.sqrt() * (1 - c.a_bar_prev) / (1 - c.a_bar)


def variance(c: Step) -> Tensor:
    """The posterior's; 0 at t = 0."""
    return c.beta * (1 - c.a_bar_prev) / (1 - c.a_bar)


def late(coefficient: Coefficient) -> Coefficient:
    """The coefficient with alpha_bar instead of alpha_bar_prev."""
    return lambda c: coefficient(c._replace(a_bar_prev=c.a_bar))


def above_0(wrong: Coefficient, right: Coefficient) -> Coefficient:
    """Wrong except at t = 0: for who returns the x_0 of G there before computing anything."""
    return lambda c: torch.where(c.a_bar_prev == 1, right(c), wrong(c))


def upside_down(c: Step) -> Tensor:
    """The variance with its fraction upside down, infinite at t = 0."""
    return c.beta * (1 - c.a_bar) / (1 - c.a_bar_prev)


def as_eps(out: Tensor, x_t: Tensor, c: Step) -> Tensor:
    """The x_0 that G's answer would give if it were the noise."""
    return (x_t - (1 - c.a_bar).sqrt() * out) / c.a_bar.sqrt()


def as_eps_above_0(out: Tensor, x_t: Tensor, c: Step) -> Tensor:
    """The same, but at t = 0 the answer itself."""
    return torch.where(c.a_bar_prev == 1, out, as_eps(out, x_t, c))


def by_tables(
    G,
    x_t: Tensor,
    z: Tensor,
    t: int,
    betas: Tensor,
    noise: Tensor,
    *,
    told=told,
    latent=lambda z: z,
    taken=lambda out, x_t, c: out,  # for x_0, of what G returns
    clip=lambda x_0: x_0,
    bar=lambda betas: torch.cumprod(1 - betas, 0),
    prev=before,
    at_0=of_x_0,
    at_t=of_x_t,
    var=variance,
    var_of=lambda t, T: t,
    spread=torch.sqrt,
    out=lambda c, x_0, mean, std, noise: mean + std * noise,
) -> Tensor:
    """Exercise 5.12."""
    a_bar = bar(betas)

    def at(i: int) -> Step:
        return Step(*(table[i] for table in (betas, 1 - betas, a_bar, prev(a_bar))))

    x_0 = clip(taken(G(x_t, told(t, x_t), latent(z)), x_t, at(t)))
    mean = at_0(at(t)) * x_0 + at_t(at(t)) * x_t
    return out(at(t), x_0, mean, spread(var(at(var_of(t, len(betas))))), noise)
