"""Samplers: generators that walk a process backwards and yield every state.

They know nothing of networks, clipping or guidance: a denoiser brings those. They know nothing of skipped steps
either: a respaced process is a process.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.predictions import Prediction, Variance, p_from_prediction
from ddpm_lesson.process import GaussianDiffusion


class Step(NamedTuple):
    """One reverse step before it is drawn: p = p(x_{t-1} | x_t), and the prediction it rests on."""

    p: Gaussian
    prediction: Prediction


class State(NamedTuple):
    """x_t, (B, *D), with i steps still to go: i = T holds x_T, i = 0 the sample. i is the papers' t of x_t.

    prediction: the one that led here, None at the start.
    """

    i: int
    x_t: Tensor
    prediction: Prediction | None


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
        at_i = _filled(i, x_t)
        prediction = denoise(x_t, process.timestep_map[at_i], prev)
        return Step(p_from_prediction(process, variance, prediction, x_t, at_i), prediction)

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


def ddim(
    process: GaussianDiffusion,
    denoise: Denoiser,
    x_T: Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Step from x_0 and eps as DDIM does.  Song et al. 2021, Eq. 12 and 16.

    eta = 0 is deterministic and draws no noise; eta = 1 is `ancestral` with fixedsmall. x_T: (B, *D), not changed.
    Yields T + 1 states, x_T first. Fewer steps: give a respaced process. Raises ValueError if eta leaves 0..1.
    The paper's sigma-hat is not in this family: it is `ancestral` with fixedlarge.

    >>> from ddpm_lesson import oracle
    >>> process = GaussianDiffusion(torch.full((100,), 0.1)).respaced([0, 50, 99])
    >>> denoise = oracle.GaussianData(process.base, torch.tensor([0.5, -0.5]), 0.0)  # all data are this point
    >>> last(ddim(process, denoise, torch.ones(1, 2)))
    tensor([[ 0.5000, -0.5000]])
    """
    x_t, prediction = x_T, None
    yield State(process.T, x_t, None)
    for i in reversed(range(process.T)):
        at_i = _filled(i, x_t)
        prediction = denoise(x_t, process.timestep_map[at_i], prediction)
        q = process.q_posterior_ddim(prediction.x_0, prediction.eps, at_i, eta)
        x_t = q.sample(generator=generator) if eta > 0 and i > 0 else q.mean
        yield State(i, x_t, prediction)


def last(states: Iterator[State]) -> Tensor:
    """The x_t of the last state: the sample, (B, *D). Keeps no others in memory."""
    return deque(states, maxlen=1)[0].x_t


def _filled(i: int, x: Tensor) -> Tensor:
    return torch.full((x.shape[0],), i, dtype=torch.int64, device=x.device)
