"""Ancestral sampling: the reverse step p(x_{t-1} | x_t), drawn from T down to 1."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.predictions import Prediction, Variance, p_from_prediction
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers.levels import State


class Step(NamedTuple):
    """One reverse step before it is drawn: p = p(x_{t-1} | x_t), and the prediction it rests on."""

    p: Gaussian
    prediction: Prediction


class Reverse(Protocol):
    """p(x_t, i, prev=None) -> Step.  x_t: (B, *D). i: a step of the process that steps. prev: the prediction before."""

    def __call__(self, x_t: Tensor, i: int, prev: Prediction | None = None) -> Step: ...


def reverse(process: GaussianDiffusion, denoise: Denoiser, variance: Variance) -> Reverse:
    """p(x_{t-1} | x_t) for each x_t: the posterior with the network's x_0.  Ho et al. 2020, Eq. 1, 7, 11.

    Returns p(x_t, i, prev=None) -> Step; i: step of `process`, an int for the whole batch. The denoiser is asked at
    the base's step `timestep_map[i]`; mean and variance are of `process`, whose step is made.
    Algorithm 2's formula for the mean is the same wherever x_0 is not clipped.
    """

    def p(x_t: Tensor, i: int, prev: Prediction | None = None) -> Step:
        prediction = denoise(x_t, process.row(i).timestep_map, prev)
        return Step(p_from_prediction(process, variance, prediction, x_t, i), prediction)

    return p


def ancestral(
    process: GaussianDiffusion, p: Reverse, x_T: Tensor, *, generator: torch.Generator | None = None
) -> Iterator[State]:
    """Draw x_{t-1} ~ p(x_{t-1} | x_t) from T down to 1.  Ho et al. 2020, Algorithm 2.

    x_T: (B, *D), standard normal; it is not changed. Yields T + 1 states, x_T first. The last step takes the mean:
    no noise is added to the sample. generator: as in `Gaussian.sample`.

    >>> from ddpm_lesson import oracle, predictions
    >>> process = GaussianDiffusion(torch.tensor([0.1, 0.2, 0.3]))
    >>> denoise = oracle.GaussianData(process, torch.tensor([0.5, -0.5]), 0.0)  # all data are this point
    >>> states = list(ancestral(process, reverse(process, denoise, predictions.fixedlarge), torch.randn(1, 2)))
    >>> [state.i for state in states], states[-1].x_t
    ([3, 2, 1, 0], tensor([[ 0.5000, -0.5000]]))
    """
    x_t, prediction = x_T, None
    yield State(process.T, x_t, None)
    for i in reversed(range(process.T)):
        step = p(x_t, i, prediction)
        x_t = step.p.sample(generator=generator) if i > 0 else step.p.mean
        prediction = step.prediction
        yield State(i, x_t, prediction)
