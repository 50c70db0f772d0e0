"""Ancestral sampling that jumps back: RePaint's way to make the parts of an image agree."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lesson._tensors import randn_like
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers.levels import State
from ddpm_lesson.samplers.reverse_chain import Reverse


def repaint(
    process: GaussianDiffusion,
    p: Reverse,
    x_T: Tensor,
    *,
    jump_length: int = 10,
    jump_n_sample: int = 10,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """`ancestral`, but every jump_length steps are walked jump_n_sample times.  Lugmayr et al. 2022, Section 4.2.

    After jump_length steps down, x goes as many steps up again, by `q_step`, and comes down anew: what `inpainting`
    mixes into p has then time to agree with the rest. jump_n_sample = 1 is `ancestral`. x_T: (B, *D), not changed.
    A chain of jump_length steps or fewer is `ancestral` as well: there is no room for a jump. Yields a state after
    every step, up or down, x_T first. Raises ValueError for a length or number below 1.
    """
    if min(jump_length, jump_n_sample) < 1:
        raise ValueError(f"jump_length and jump_n_sample must be positive, got {jump_length} and {jump_n_sample}")
    returns = {i: jump_n_sample - 1 for i in range(1, process.T - jump_length + 1, jump_length)}
    i, x_t, prediction = process.T, x_T, None
    yield State(i, x_t, None)
    while i > 0:
        i -= 1
        step = p(x_t, i, prediction)
        x_t, prediction = step.p.sample(generator=generator) if i > 0 else step.p.mean, step.prediction
        yield State(i, x_t, prediction)
        if returns.get(i, 0) > 0:
            returns[i] -= 1
            for _ in range(jump_length):
                x_t = process.q_step(x_t, i, randn_like(x_t, generator))
                i += 1
                yield State(i, x_t, prediction)
