"""What every sampler shares: its states, the noise levels of a chain, and the two ways from one level to the next."""

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from ddpm_lesson.coefficients import combine
from ddpm_lesson.predictions import Prediction
from ddpm_lesson.process import GaussianDiffusion


class State(NamedTuple):
    """x_t, (B, *D), with i steps still to go: i = T holds x_T, i = 0 the sample. i is the papers' t of x_t.

    prediction: the last one that was made on the way here, None at the start.
    """

    i: int
    x_t: Tensor
    prediction: Prediction | None


def last(states: Iterator[State]) -> Tensor:
    """The x_t of the last state: the sample, (B, *D). Keeps no others in memory."""
    return deque(states, maxlen=1)[0].x_t


class Level(NamedTuple):
    """The roots sqrt(alphas_bar) and sqrt(1 - alphas_bar) of a state: x_t = signal x_0 + noise eps."""

    signal: float
    noise: float

    @property
    def log_snr(self) -> float:
        """log(signal / noise), DPM-Solver's lambda: half the logarithm of the signal-to-noise ratio.

        inf for the clean image, -inf where alphas_bar = 0.
        """
        if self.noise == 0 or self.signal == 0:
            return math.inf if self.noise == 0 else -math.inf
        return math.log(self.signal / self.noise)


def levels(process: GaussianDiffusion) -> list[Level]:
    """The level of the state with i steps to go, for i = 0..T: the clean image first."""
    rows = [process.row(i) for i in range(process.T)]
    return [Level(1.0, 0.0), *(Level(c.sqrt_alphas_bar, c.sqrt_one_minus_alphas_bar) for c in rows)]


def levels_with_signal(process: GaussianDiffusion) -> list[Level]:
    """`levels`, for samplers that step with eps. Raises ValueError for a process that ends at alphas_bar = 0."""
    if process.alpha_bar_T == 0:
        raise ValueError(
            "this sampler steps with eps and needs alphas_bar_T > 0, got a process that ends in pure noise"
        )
    return levels(process)


def towards(x_t: Tensor, x_0: Tensor, here: Level, there: Level) -> Tensor:
    """From one level to another while the estimate of x_0 stays what it is: the ODE's exact solution for such a x_0.

    x_t, x_0: (B, *D). With the x_0 seen at x_t it is DDIM's step (Song et al. 2021, Eq. 13) and the first order of
    DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095).
    """
    share = there.noise / here.noise
    return combine((share, x_t), (there.signal - share * here.signal, x_0))


def along(x_t: Tensor, eps: Tensor, here: Level, there: Level) -> Tensor:
    """The same step in terms of eps, for samplers that average eps.  Song et al. 2021, Eq. 13.

    Not possible from alphas_bar = 0: there x_t is the noise and eps says nothing of x_0.
    """
    share = there.signal / here.signal
    return combine((share, x_t), (there.noise - share * here.noise, eps))
