"""Exercise 2.3: the mean of one step back, from a predicted eps."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import (
    BETAS,
    IMAGES,
    LONG,
    Step,
    at,
    before,
    double,
    fractions,
    products,
    tables_of_betas,
)
from ddpm_lesson.checks._rows import COLUMNS, FIRST_T


def _mean_from_eps(x_t, t, eps, betas):
    """Exercise 2.3: the mean of p(x_{t-1} | x_t) that a predicted eps implies.  Ho et al. 2020, Eq. 11.

    x_t, eps: (B, *D).  t: (B,) int64 in 0..T-1.  betas: (T,), below 1.  Returns (B, *D), nothing clipped.
    Not the estimate of x_0: this goes back one step, and only at t = 0 are the two the same.
    """
    images, alphas_bar = [], products(betas.tolist())
    for image, step, its_eps in zip(x_t, t.tolist(), eps, strict=True):
        beta, a_bar = betas[step].item(), alphas_bar[step]
        pixels = zip(image.flatten().tolist(), its_eps.flatten().tolist(), strict=True)
        images.append([(x - beta / math.sqrt(1 - a_bar) * e) / math.sqrt(1 - beta) for x, e in pixels])
    return double(images).reshape(x_t.shape)


def _less_noise(
    x_t: Tensor,
    t: Tensor,
    eps: Tensor,
    betas: Tensor,
    *,
    steps=lambda t: t,
    bar=lambda alphas: torch.cumprod(alphas, 0),
    look_up=at,
    image=lambda c: 1.0,  # the factor of x_t, before the division
    above=lambda c: c.beta,  # the share of eps: above and below the line
    below=lambda c: (1 - c.a_bar).sqrt(),
    divisor=lambda c: c.alpha.sqrt(),
) -> Tensor:
    alphas_bar = bar(1 - betas)
    tables = (betas, 1 - betas, alphas_bar, before(alphas_bar))
    c = Step(*(look_up(table, steps(t), x_t) for table in tables))
    return (image(c) * x_t - above(c) / below(c) * eps) / divisor(c)


def _x_0(x_t, t, eps, betas):
    a_bar = at(torch.cumprod(1 - betas, 0), t, x_t)
    return (x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()


def _looked_up_first(x_t, t, eps, betas):
    beta = betas[t]
    c = [at(table, torch.arange(len(t)), x_t) for table in (beta, 1 - beta, torch.cumprod(1 - beta, 0))]
    return (x_t - c[0] / (1 - c[2]).sqrt() * eps) / c[1].sqrt()


def _ddim(x_t, t, eps, betas):
    prev = at(before(torch.cumprod(1 - betas, 0)), t, x_t)
    return prev.sqrt() * _x_0(x_t, t, eps, betas) + (1 - prev).sqrt() * eps


def _clipped(x_t, t, eps, betas):
    a_bar = torch.cumprod(1 - betas, 0)
    c = Step(*(at(table, t, x_t) for table in (betas, 1 - betas, a_bar, before(a_bar))))
    x_0 = _x_0(x_t, t, eps, betas).clamp(-1, 1)
    return (c.a_bar_prev.sqrt() * c.beta * x_0 + c.alpha.sqrt() * (1 - c.a_bar_prev) * x_t) / (1 - c.a_bar)


mean_from_eps = Check(
    number="2.3",
    name="mean_from_eps",
    specification=_mean_from_eps,
    form=_less_noise,
    images=("x_t", "eps"),
    batch=("x_t", "t", "eps"),
    tables=tables_of_betas,
    cases=tuple(
        Case(
            f"x_t of shape {shape}, t = {t}, T = {len(betas)}",
            (2 * fractions(*shape), torch.tensor(t), 2 * fractions(*shape, start=11), double(betas)),
        )
        for shape, t, betas in [
            *((shape, t, BETAS) for shape, t in IMAGES),
            ((2, 5), [0, 0], BETAS[:1]),
            ((3, 2), [999, 300, 500], LONG),
        ]
    ),
    among="t = 0, mixed t, T = 1 and T = 1000",
    misconceptions={
        "You divided by 1 - alpha_bar, a variance. eps counts in standard deviations of "
        "the noise: take the root.": dict(below=lambda c: 1 - c.a_bar),
        "You wrote sqrt(beta) for beta. A step holds the share beta / (1 - alpha_bar) of the "
        "noise<: yours is more>.": dict(above=lambda c: c.beta.sqrt()),
        "You wrote alpha where beta belongs. What a step added is taken off again, and that is beta.": dict(
            above=lambda c: c.alpha
        ),
        "You undid one forward step as if eps were that step's own noise<: your factor of eps is sqrt(beta), which is "
        "also beta / sqrt(1 - alpha)>. The network's eps is the noise of all steps so far; by (2.2) its factor is "
        "beta / sqrt(1 - alpha_bar).": dict(below=lambda c: (1 - c.alpha).sqrt()),
        "You took alpha_bar_prev. eps is the noise in x_t, so alpha_bar at t itself<; yours "
        "divides by 0 at t = 0>.": dict(below=lambda c: (1 - c.a_bar_prev).sqrt()),
        "You subtracted all the noise. One step back takes a share of it only, beta / sqrt(1 - alpha_bar) * eps.": dict(
            above=lambda c: (1 - c.a_bar).sqrt(), below=lambda c: torch.ones_like(c.beta)
        ),
        "You subtracted eps times 1 - sqrt(alpha_bar). By (2.2) its factor is beta / sqrt(1 - alpha_bar).": dict(
            above=lambda c: 1 - c.a_bar.sqrt(), below=lambda c: torch.ones_like(c.beta)
        ),
        "You wrote 1 - sqrt(alpha_bar) for sqrt(1 - alpha_bar). The root is taken of the whole difference.": dict(
            below=lambda c: 1 - c.a_bar.sqrt()
        ),
        "You divided by sqrt(alpha_bar)<, which undoes the fading of all steps>. One step "
        "is undone: sqrt(alpha).": dict(divisor=lambda c: c.a_bar.sqrt()),
        "You divided by alpha. The forward step multiplied x_{t-1} by its root: divide by sqrt(alpha).": dict(
            divisor=lambda c: c.alpha
        ),
        "You multiplied by sqrt(alpha). The forward step did that: it is undone by dividing.": dict(
            divisor=lambda c: c.alpha.rsqrt()
        ),
        "You did not divide by sqrt(alpha). The forward step shrank x_{t-1} by it<: your samples fade to grey>.": dict(
            divisor=lambda c: torch.ones_like(c.alpha)
        ),
        "You divided x_t by sqrt(alpha), but not eps. Brackets: the whole difference is divided.": dict(
            image=lambda c: 1.0, above=lambda c: c.alpha.sqrt() * c.beta
        ),
        "You divided eps by sqrt(alpha), but not x_t. Brackets: the whole difference is divided.": dict(
            image=lambda c: c.alpha.sqrt()
        ),
        "You return the estimate of x_0. Asked for is the mean of x_{t-1}<; the two agree at t = 0 only>.": dict(
            instead=_x_0
        ),
        "You added the noise once more. It is in x_t already: subtract its share.": dict(above=lambda c: -c.beta),
        "You read the tables at t - 1. In code t = 0 is the papers' t = 1, and index -1 wraps around: read at t.": dict(
            steps=lambda t: t - 1
        ),
        "Your running product is one of betas. alpha_bar is the product of the alphas, 1 - beta.": dict(
            bar=lambda alphas: torch.cumprod(1 - alphas, 0)
        ),
        "You looked betas up at t before you took the running product, which then runs over the images of the batch. "
        "The product runs over the steps: first cumprod, then the look-up.": dict(instead=_looked_up_first),
        FIRST_T: dict(steps=lambda t: t[:1].expand(len(t))),
        COLUMNS: dict(look_up=lambda table, t, x: table[t]),
        "That is the step of DDIM: x_0's estimate with alpha_bar_prev, and eps beside it. Asked for is the mean of "
        "DDPM's step.": dict(instead=_ddim),
        "You went through the estimate of x_0 and clipped it to [-1, 1]. Nothing is clipped here.": dict(
            instead=_clipped
        ),
        "You multiplied by sqrt(1 - alpha_bar) in the factor of eps. Divide by it.": dict(
            below=lambda c: (1 - c.a_bar).rsqrt()
        ),
    },
)
