"""Exercise 1.2: the walk from an image to noise, one step after another."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import BETAS, double, fractions


def _walk(x_0, betas, noise):
    """Exercise 1.2: the states x_0, x_1, ..., x_T of a walk.  Ho et al. 2020, Eq. 2.

    x_0: (B, *D).  betas: (T,).  noise: (T, B, *D), of which noise[i] belongs to the step with betas[i].
    Returns (T + 1, B, *D): x_0 itself first, x_T last.
    Not a jump: each state is made from the one before.
    """
    pixels = x_0.flatten().tolist()
    states = [pixels]
    for beta, its_noise in zip(betas.tolist(), noise, strict=True):
        drawn = its_noise.flatten().tolist()
        pixels = [math.sqrt(1 - beta) * x + math.sqrt(beta) * e for x, e in zip(pixels, drawn, strict=True)]
        states.append(pixels)
    return double(states).reshape(-1, *x_0.shape)


def _step_by_step(
    x_0: Tensor,
    betas: Tensor,
    noise: Tensor,
    *,
    table=lambda betas: betas,
    source=lambda states: states[-1],
    drawn=lambda noise, i: noise[i],
    signal=lambda beta: (1 - beta).sqrt(),
    spread=torch.sqrt,
    keep=torch.stack,
) -> Tensor:
    states = [x_0.double()]
    for i, beta in enumerate(table(betas)):
        states.append(signal(beta) * source(states) + spread(beta) * drawn(noise, i))
    return keep(states)


walk = Check(
    number="1.2",
    name="walk",
    specification=_walk,
    form=_step_by_step,
    random="the argument noise",
    float64="Collect the states in a list and stack them, or give the buffer dtype=x_0.dtype: torch.zeros alone makes "
    "float32.",
    cases=tuple(
        Case(
            f"x_0 of shape {shape} and {len(betas)} step{'s' * (len(betas) > 1)}",
            (fractions(*shape), double(betas), fractions(len(betas), *shape, start=11)),
        )
        for shape, betas in [
            ((2, 1, 4, 4), BETAS),
            ((3, 2), BETAS[3:6]),
            ((1, 3, 2, 4, 4), [0.1, 0.7]),
            ((2, 5), [0.4]),
            ((4, 3), [0.9, 0.2, 0.5, 0.3]),
        ]
    ),
    among="one step, points and videos",
    misconceptions={
        "You scaled the noise by beta: that is the variance of a step. Noise is multiplied by a standard deviation, "
        "its square root.": dict(spread=lambda beta: beta),
        "You shrink the image by 1 - beta. That is a share of its variance: the image is multiplied by the root<, or "
        "it fades twice as fast>.": dict(signal=lambda beta: 1 - beta),
        "Both square roots are missing. beta and 1 - beta are shares of the variance; images and noise are multiplied "
        "by the roots.": dict(signal=lambda beta: 1 - beta, spread=lambda beta: beta),
        "You do not shrink the image before you add noise<. The image never fades and the variance grows past 1>: "
        "multiply by sqrt(1 - beta).": dict(signal=torch.ones_like),
        "You added the noise without scaling it<. After one step hardly anything would be left to see>: multiply it by "
        "sqrt(beta).": dict(spread=torch.ones_like),
        "The two factors of a step are swapped: the first steps are the gentle ones, and they keep nearly all of the "
        "image. sqrt(1 - beta) belongs to the image.": dict(signal=torch.sqrt, spread=lambda beta: (1 - beta).sqrt()),
        "You scaled the noise by 1 - sqrt(1 - beta)<, so that the two weights add up to 1>. It is the variances that "
        "add up to 1, and they are the squares of the weights.": dict(spread=lambda beta: 1 - (1 - beta).sqrt()),
        "You subtracted the noise. It is added.": dict(spread=lambda beta: -beta.sqrt()),
        "Each of your steps starts from x_0, so that nothing adds up. A step starts where the last one ended.": dict(
            source=lambda states: states[0]
        ),
        "You use the same noise, noise[0], at every step<. The pushes then all go one way>: step i has noise[i].": dict(
            drawn=lambda noise, i: noise[0]
        ),
        "You use the noise from its end: step i has noise[i], the first step noise[0].": dict(
            drawn=lambda noise, i: noise[len(noise) - 1 - i]
        ),
        "You use betas[0] at every step. Step i has betas[i].": dict(table=lambda betas: betas[:1].expand_as(betas)),
        "You use the betas from their end: step i has betas[i], the first step betas[0].": dict(
            table=lambda betas: betas.flip(0)
        ),
        "You step with 1 - alpha_bar, the noise of all steps so far. A single step adds the variance betas[i].": dict(
            table=lambda betas: 1 - (1 - betas).cumprod(0)
        ),
        "Your states are jumps from x_0, each with one noise of its own<: neighbours then have nothing to do with each "
        "other>. A walk makes each state from the one before.": dict(
            instead=lambda x_0, betas, noise: _step_by_step(
                x_0, 1 - (1 - betas).cumprod(0), noise, source=lambda states: states[0]
            )
        ),
        "You left out the first step, with betas[0] and noise[0]: T steps are made.": dict(
            instead=lambda x_0, betas, noise: _step_by_step(x_0, betas[1:], noise[1:])
        ),
        "All of your states are the last one. You changed one tensor in place, and the list holds it T + 1 times: make "
        "a new tensor at each step.": dict(keep=lambda states: torch.stack(states[-1:] * len(states))),
        "x_0 is missing from what you return. The walk has T + 1 states: x_0 first, then one for each step.": dict(
            keep=lambda states: torch.stack(states[1:])
        ),
        "The last state is missing: you kept each state before its step, and not the one after the last step.": dict(
            keep=lambda states: torch.stack(states[:-1])
        ),
        "You return the last state only. All T + 1 are asked for: collect them in a list, then torch.stack.": dict(
            keep=lambda states: states[-1]
        ),
        "You joined the states along the batch axis. torch.stack gives them an axis of their own, in front.": dict(
            keep=torch.cat
        ),
        "Your batch axis comes first. The axis of the states does: (T + 1, B, ...).": dict(
            keep=lambda states: torch.stack(states, 1)
        ),
        "Your states stand in reverse. x_0 comes first, x_T last.": dict(keep=lambda states: torch.stack(states[::-1])),
    },
)
