"""Exercise 5.12: one large step of a denoising diffusion GAN."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import BETAS, LONG, Step, before, double, fractions, products, widest
from ddpm_lesson.checks.variants._ddgan_ways import (
    above_0,
    as_eps,
    as_eps_above_0,
    by_tables,
    late,
    of_x_0,
    of_x_t,
    told,
    upside_down,
    variance,
)

LARGE = [0.475, 0.85, 0.955, 0.9875]  # near the four steps of Xiao et al.
LATENT = 6


def _ddgan_step(G, x_t, z, t, betas, noise):
    """Exercise 5.12: x_{t-1} ~ p(x_{t-1} | x_t) of a denoising diffusion GAN.  Xiao et al. 2022, Section 3.2.

    G: called as G(x_t, t, z) with t (B,) int64; returns its estimate of x_0, (B, *D).  x_t, noise: (B, *D).
    z: (B, latent).  t: int in 0..T-1, one for the whole batch.  betas: (T,) float64.
    Returns x_{t-1}, (B, *D): a draw from q(x_{t-1} | x_t, x_0) with G's x_0, made by the given noise; at t = 0 the x_0
    itself.  x_0 is taken as G gives it, without clipping.  Gradients flow back to G, which learns through this step.
    Not one Gaussian for all x_{t-1}: another z gives another x_0, and so another mean.
    """
    a_bar, images = products(betas.tolist()), []
    for k in range(len(x_t)):
        x_0 = G(x_t[k : k + 1], torch.tensor([t]), z[k : k + 1])[0].flatten().tolist()
        if t == 0:
            images.append(x_0)
            continue
        beta, a_bar_prev = betas[t].item(), a_bar[t - 1]
        jump, likelihood = 1 / (1 - a_bar_prev), (1 - beta) / beta  # what each Gaussian knows of x_{t-1}: precisions
        var = 1 / (jump + likelihood)
        of_x_0, of_x_t = var * jump * math.sqrt(a_bar_prev), var * math.sqrt(1 - beta) / beta
        pixels = zip(x_0, x_t[k].flatten().tolist(), noise[k].flatten().tolist(), strict=True)
        images.append([of_x_0 * x + of_x_t * y + math.sqrt(var) * e for x, y, e in pixels])
    return double(images).reshape(x_t.shape)


def generator(x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """An estimate of x_0, (B, *D), in x_t's dtype, that depends on all three and leaves [-1, 1]."""
    if not isinstance(t, Tensor) or t.shape != x_t.shape[:1] or t.dtype != torch.int64:
        got = f"{tuple(t.shape)} and {t.dtype}" if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"G expects t of shape ({len(x_t)},) and dtype torch.int64, got {got}")
    if z.shape != (len(x_t), LATENT):
        raise TypeError(f"G expects z of shape ({len(x_t)}, {LATENT}), got {tuple(z.shape)}")
    x = widest(x_t)
    pattern = fractions(x[0].numel(), start=5).to(x).reshape(x.shape[1:])
    push = (widest(z) @ fractions(LATENT, start=3).to(x)) * (1 + t / (t + 4))
    return (0.75 * x + push.reshape(-1, *[1] * (x_t.ndim - 1)) * (1 + pattern)).to(x_t.dtype)


def _terms(G, x_t, z, t, betas, noise):
    a_bar = torch.cumprod(1 - betas, 0)
    c = Step(*(table[t] for table in (betas, 1 - betas, a_bar, before(a_bar))))
    return {
        "coef1 * x_0": of_x_0(c) * G(x_t, told(t, x_t), z),
        "coef2 * x_t": of_x_t(c) * x_t,
        "std * noise": variance(c).sqrt() * noise,
    }


def _places(G, x_t, z, t, betas, noise) -> Iterator[tuple[str, Tensor]]:
    yield "at t = 0", torch.tensor(t == 0)
    yield "at t = 1", torch.tensor(t == 1)
    yield "at the last t", torch.tensor(t == len(betas) - 1)


ddgan_step = Check(
    number="5.12",
    name="ddgan_step",
    specification=_ddgan_step,
    form=by_tables,
    batch=("x_t", "z", "noise"),
    random="the arguments z and noise",
    gradients=("z",),
    terms=_terms,
    places=_places,
    cases=tuple(
        Case(
            f"x_t of shape {shape}, t = {t}, T = {len(betas)}",
            (
                generator,
                2 * fractions(*shape),
                2 * fractions(shape[0], LATENT, start=17),
                t,
                double(betas),
                fractions(*shape, start=29),
            ),
        )
        for shape, t, betas in [
            ((4, 1, 8, 8), 2, LARGE),
            ((3, 2), 3, LARGE),
            ((4, 3, 4, 4), 1, LARGE),
            ((4, 1, 4, 4), 0, LARGE),
            ((2, 3, 2, 4, 4), 7, BETAS),
            ((1, 5), 0, BETAS[:1]),
            ((2, 5), 500, LONG),
        ]
    ),
    among="t = 0, T = 1, points and a video",
    cuts={
        "No gradient flows back to G: you detached its x_0 or the result, or ran under no_grad. G learns through this "
        "step: leave no_grad to whoever samples.": dict(clip=torch.detach),
    },
    misconceptions={
        "You scaled the noise by the variance. Noise is multiplied by a standard deviation, its square root.": dict(
            spread=lambda var: var
        ),
        "Your variance is beta, and without noise at t = 0. x_0 is given by G: the posterior is narrower than beta, "
        "by (1 - alpha_bar_prev) / (1 - alpha_bar).": dict(var=above_0(lambda c: c.beta, variance)),
        "Your variance is beta<, with noise at t = 0>, or it has alpha_bar for alpha_bar_prev, which comes to the "
        "same. The posterior's is beta (1 - alpha_bar_prev) / (1 - alpha_bar), and 0 at t = 0.": dict(
            var=lambda c: c.beta
        ),
        "At t = 0 you add noise, of variance beta. The last step gives the x_0 of G itself.": dict(
            var=lambda c: torch.where(c.a_bar_prev == 1, c.beta, variance(c))
        ),
        "At t = 0 you add noise, with the variance of t = 1: the one whose logarithm was clipped. The last step gives "
        "x_0 itself.": dict(var_of=lambda t, T: max(t, min(1, T - 1))),
        "Your variance is 1 - alpha_bar_prev, that of x_{t-1} given x_0 alone. x_t is known, too: beta (1 - "
        "alpha_bar_prev) / (1 - alpha_bar).": dict(var=lambda c: 1 - c.a_bar_prev),
        "At t = 0 your alpha_bar_prev is alphas_bar[-1], the noisiest: index -1 wraps around. Before the first step it "
        "is 1.": dict(prev=lambda a_bar: a_bar.roll(1)),
        "At t = 0 your alpha_bar_prev is alphas_bar[0], the value after the first step. Before that step there is no "
        "noise: it is 1.": dict(prev=lambda a_bar: torch.cat([a_bar[:1], a_bar[:-1]])),
        "You took alpha_bar for alpha_bar_prev, in mean and variance. The posterior is one of x_{t-1}: the entry at "
        "t - 1, and 1 at t = 0.": dict(at_0=late(of_x_0), at_t=late(of_x_t), var=late(variance)),
        "You took alpha_bar for alpha_bar_prev, in mean and variance, but not at t = 0. The posterior is one of "
        "x_{t-1}: the entry at t - 1.": dict(
            at_0=above_0(late(of_x_0), of_x_0),
            at_t=above_0(late(of_x_t), of_x_t),
            var=above_0(late(variance), variance),
        ),
        "In your mean alpha_bar stands where alpha_bar_prev belongs: the entry at t - 1, and 1 at t = 0.": dict(
            at_0=late(of_x_0), at_t=late(of_x_t)
        ),
        "In your mean, except at t = 0, alpha_bar stands where alpha_bar_prev belongs: the entry at t - 1.": dict(
            at_0=above_0(late(of_x_0), of_x_0), at_t=above_0(late(of_x_t), of_x_t)
        ),
        "The two coefficients of the mean are exchanged<: at t = 0 yours is x_t>. The one with sqrt(alpha_bar_prev) "
        "beta belongs to x_0.": dict(at_0=of_x_t, at_t=of_x_0),
        "The two coefficients of the mean are exchanged<, but not at t = 0>. The one with sqrt(alpha_bar_prev) beta "
        "belongs to x_0.": dict(at_0=above_0(of_x_t, of_x_0), at_t=above_0(of_x_0, of_x_t)),
        "The coefficient of x_0 has sqrt(alpha_bar)<, at t = 0 too>, where sqrt(alpha_bar_prev) belongs. It comes from "
        "the jump q(x_{t-1} | x_0), which ends one step before t.": dict(at_0=late(of_x_0)),
        "The coefficient of x_0 has sqrt(alpha_bar)<, but not at t = 0>, where sqrt(alpha_bar_prev) belongs. It comes "
        "from the jump q(x_{t-1} | x_0), which ends one step before t.": dict(at_0=above_0(late(of_x_0), of_x_0)),
        "The coefficient of x_t has sqrt(alpha_bar), where sqrt(alpha) belongs. It comes from a single step, from "
        "x_{t-1} to x_t, and not from the jump.": dict(
            at_t=lambda c: c.a_bar.sqrt() * (1 - c.a_bar_prev) / (1 - c.a_bar)
        ),
        "The coefficient of x_t has sqrt(alpha_bar_prev), which belongs to that of x_0. Here it is sqrt(alpha): x_t is "
        "one step away from x_{t-1}.": dict(at_t=lambda c: c.a_bar_prev.sqrt() * (1 - c.a_bar_prev) / (1 - c.a_bar)),
        "The coefficient of x_t has 1 - alpha_bar on top too<, at t = 0 as well, so that it cancels>. On top belongs 1 "
        "- alpha_bar_prev, the variance of x_{t-1} given x_0.": dict(at_t=late(of_x_t)),
        "The coefficient of x_t has 1 - alpha_bar on top too<, so that it cancels>. On top belongs 1 - alpha_bar_prev, "
        "the variance of x_{t-1} given x_0.": dict(at_t=above_0(late(of_x_t), of_x_t)),
        "The fraction in your variance is upside down<: infinite at t = 0, and above 1 later>. Knowing x_0 as well can "
        "only narrow beta: the smaller number, 1 - alpha_bar_prev, goes on top.": dict(var=upside_down),
        "The fraction in your variance is upside down<: it is above 1>. Knowing x_0 as well can only narrow beta: the "
        "smaller number, 1 - alpha_bar_prev, goes on top.": dict(var=above_0(upside_down, variance)),
        "You took what G returns for the noise eps<, at t = 0 too>. G returns its x_0: put it into the posterior as it "
        "is.": dict(taken=as_eps),
        "You took what G returns for the noise eps<, but not at t = 0>. G returns its x_0: put it into the posterior "
        "as it is.": dict(taken=as_eps_above_0),
        "In the coefficient of x_0 the root over alpha_bar_prev is missing.": dict(
            at_0=lambda c: c.a_bar_prev * c.beta / (1 - c.a_bar)
        ),
        "In the coefficient of x_t the root over alpha = 1 - beta is missing.": dict(
            at_t=lambda c: c.alpha * (1 - c.a_bar_prev) / (1 - c.a_bar)
        ),
        "Your alpha_bar is the alpha of a single step, 1 - beta. It is the product of all up to t: "
        "torch.cumprod.": dict(bar=lambda betas: 1 - betas),
        "You clipped x_0 to [-1, 1]. Here it is taken as G gives it: D judges what G made, and points are not bound "
        "to [-1, 1].": dict(clip=lambda x_0: x_0.clamp(-1, 1)),
        "G gets zeros instead of z<, and every x_t has one x_0 only>. Pass z: it is what makes the step more than a "
        "Gaussian.": dict(latent=torch.zeros_like),
        "G gets the first image's z for the whole batch. Every image has its own.": dict(
            latent=lambda z: z[:1].expand_as(z)
        ),
        "You told G t + 1. In code t counts from 0: pass t as it is.": dict(told=lambda t, x_t: told(t + 1, x_t)),
        "You told G t - 1. It is asked about x_t: pass t.": dict(told=lambda t, x_t: told(t - 1, x_t)),
        "You told G t = 0 at every step. It has to know how noisy x_t is.": dict(told=lambda t, x_t: told(0, x_t)),
        "You return G's x_0. The step ends at x_{t-1}: draw it from the posterior with this x_0.": dict(
            out=lambda c, x_0, mean, std, noise: x_0
        ),
        "You return the posterior's mean. The step draws: add its standard deviation times noise.": dict(
            out=lambda c, x_0, mean, std, noise: mean
        ),
        "You noised x_0 anew, up to t - 1, as q_sample does. The posterior knows x_t as well, and keeps its "
        "noise.": dict(
            out=lambda c, x_0, mean, std, noise: c.a_bar_prev.sqrt() * x_0 + (1 - c.a_bar_prev).sqrt() * noise
        ),
    },
)
