"""Denoising diffusion GANs: few large steps, each drawn by a generator, because a Gaussian no longer describes them.

The generator predicts x_0 from x_t and a latent z; the step is the posterior with that x_0. So sampling is `ancestral`,
with `fixedsmall`, and a denoiser that draws z anew at each step: `make_denoiser(G, process, xstart, z=latent(n))`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss, softplus
from torch.optim import Optimizer

from ddpm_lesson._tensors import home, moved, randn_like
from ddpm_lesson.doors import check_images
from ddpm_lesson.predictions import Prediction
from ddpm_lesson.process import GaussianDiffusion


def latent(size: int, *, generator: Generator | None = None) -> Callable[[Tensor, Tensor, Prediction | None], Tensor]:
    """A condition of `make_denoiser`: z ~ N(0, I), (B, size), drawn anew whenever the generator is asked."""
    return lambda x_t, t, prev: _latents(x_t, size, generator)


def _latents(x_t: Tensor, size: int, generator: Generator | None) -> Tensor:
    return randn_like(torch.empty(len(x_t), size, dtype=x_t.dtype, device=x_t.device), generator)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-real) + softplus(fake) of logits (B,): the cross-entropy of "real" and "fake", in nats, (B,)."""
    return softplus(-real) + softplus(fake)


def generator_loss(fake: Tensor) -> Tensor:
    """softplus(-fake) = -log sigmoid(fake), (B,): the non-saturating loss.  Goodfellow et al. 2014, Section 3.

    Not -softplus(fake), the other half of the game: where the discriminator is sure, it has no gradient left.
    """
    return softplus(-fake)


def r1_penalty(
    D: nn.Module, x_prev: Tensor, x_t: Tensor, t: Tensor, gamma: float, interval: int = 1, *, y: Tensor | None = None
) -> Tensor:
    """gamma / 2 times the squared gradient of D in the real x_{t-1}, (B,).  Mescheder et al. 2018; Xiao et al. 2022.

    interval: if it is taken at every so many steps only ("lazily"), it is multiplied by that number, so that it weighs
    the same on average (Karras et al. 2020, StyleGAN2). The code of Xiao et al. leaves the factor out. y: labels (B,),
    for a D that is told them. Differentiable in D's weights.
    """
    with torch.enable_grad():
        x = x_prev.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(D(x, x_t, t, *_labels(y)).sum(), x, create_graph=True)
    return gamma / 2 * interval * gradient.square().flatten(1).sum(1)


def _labels(y: Tensor | None) -> tuple[Tensor, ...]:
    return () if y is None else (y,)


class GanStep(NamedTuple):
    """One step of both networks that has been made.  step: how many.

    The losses: means of the batch, without R1 and without the reconstruction.
    """

    step: int
    discriminator_loss: float
    generator_loss: float


def train_ddgan(
    G: nn.Module,
    D: nn.Module,
    process: GaussianDiffusion,
    batches: Iterable[Tensor | tuple[Tensor, Tensor]],
    *,
    steps: int,
    latent_size: int,
    optimizers: tuple[Optimizer, Optimizer],
    r1: float = 0.05,
    interval: int = 1,
    reconstruction: float = 0.0,
    generator: Generator | None = None,
) -> Iterator[GanStep]:
    """Train generator and discriminator by turns; yields each step that was made.  Xiao et al. 2022, Section 3.2.

    G: called as G(x_t, t, z=z), answers x_0. D: D(x_prev, x_t, t) -> logits (B,), see `Discriminator`. process: the few
    large steps, such as `GaussianDiffusion(schedules.vp(4))`, on the networks' device. batches: of x_0 (B, *D), or of
    (x_0, y) with labels (B,), which both networks are then told: G(x_t, t, y, z=z), D(x_prev, x_t, t, y); endless or
    gone through again. optimizers: of G and of D. r1, interval: as `r1_penalty`'s gamma and interval.
    reconstruction: so many times the mean squared error of G's x_0 is added to its loss, which holds G near the mean of
    x_0 while D knows little. Xiao et al. have none.
    D sees real pairs from `q_sample_pair`, and the same x_t with G's draw of x_{t-1}; both networks learn from draws of
    their own. generator: for t, noise and z. Raises ValueError if the batches run out, if steps or interval are below
    1, r1 or reconstruction negative, FloatingPointError if a loss is not finite; of the first batch's range errors and
    warnings come as in `training.train`.
    """
    if min(steps, interval) < 1 or not (r1 >= 0 and reconstruction >= 0):
        got = f"{steps}, {interval}, {r1}, {reconstruction}"
        raise ValueError(f"expected steps and interval of 1 or more, r1 and reconstruction of 0 or more, got {got}")
    of_G, of_D = optimizers

    def draw(x_0: Tensor, y: Tensor | None = None) -> _Drawn:
        told = _labels(y)
        t = moved(torch.randint(process.T, x_0.shape[:1], generator=generator, device=home(generator)), x_0.device)
        x_prev, x_t = process.q_sample_pair(x_0, t, generator=generator)
        guess = G(x_t, t, *told, z=_latents(x_t, latent_size, generator))
        return _Drawn(x_prev, (x_t, t, *told), guess, process.q_posterior(guess, x_t, t).sample(generator=generator))

    for step, (for_D, for_G) in enumerate(islice(_pairs(batches), steps), start=1):
        if step == 1:
            check_images(for_D[0], far=False, stacklevel=2)
        with torch.no_grad():
            x_prev, given, _, fake = draw(*for_D)
        d_loss = discriminator_loss(D(x_prev, *given), D(fake, *given)).mean()
        lazy = r1 > 0 and (step - 1) % interval == 0
        x_t, t, *y = given
        penalty = r1_penalty(D, x_prev, x_t, t, r1, interval, y=y[0] if y else None).mean() if lazy else 0.0
        of_D.zero_grad()
        (d_loss + penalty).backward()
        of_D.step()

        _, given, guess, fake = draw(*for_G)
        g_loss = generator_loss(D(fake, *given)).mean()
        of_G.zero_grad()
        (g_loss + reconstruction * mse_loss(guess, for_G[0]) if reconstruction else g_loss).backward()
        of_G.step()
        losses = torch.stack([d_loss, g_loss]).tolist()  # the one wait for a GPU
        if not all(map(math.isfinite, losses)):
            raise FloatingPointError(f"a loss is not finite in step {step}: discriminator, generator = {losses}")
        yield GanStep(step, *losses)


class _Drawn(NamedTuple):
    """A real x_{t-1}; x_t, t and labels, if any; G's x_0 for them, and its draw of x_{t-1}."""

    x_prev: Tensor
    given: tuple[Tensor, ...]
    guess: Tensor
    fake: Tensor


def _pairs(batches: Iterable[Tensor | tuple[Tensor, Tensor]]) -> Iterator[tuple[tuple[Tensor, ...], ...]]:
    """Two batches at a time, for ever, each (x_0,) or (x_0, y)."""
    while True:
        both = ((batch,) if isinstance(batch, Tensor) else tuple(batch) for batch in batches)
        found = False
        for pair in zip(both, both, strict=False):
            found = True
            yield pair
        if not found:
            raise ValueError("the batches ran out: give at least two, in an iterable that can be gone through again")
