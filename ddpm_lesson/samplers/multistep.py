"""Higher order from what the steps before have seen: one question to the network per step."""

import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lesson.coefficients import combine
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.predictions import Prediction
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers.levels import Level, State, along, levels, levels_with_signal, towards


def dpmpp_2m(process: GaussianDiffusion, denoise: Denoiser, x_T: Tensor) -> Iterator[State]:
    """DPM-Solver++(2M): the x_0 of the middle of the step, from this one and the one before.  Lu et al. 2022, Alg. 2.

    In terms of log-SNR x_0 is extended by half a step along the line through the last two; `ddim` takes it as it is.
    The first and the last step are DDIM's. Second order. x_T: (B, *D), not changed. Yields T + 1 states, x_T first.
    """
    level = levels(process)
    x_t, prediction = x_T, None
    yield State(process.T, x_t, None)
    for i in reversed(range(process.T)):
        before, prediction = prediction, denoise(x_t, process.row(i).timestep_map, prediction)
        x_0 = prediction.x_0
        if before is not None and i > 0:
            x_0 = _extended(x_0, before.x_0, level[i : i + 3])
        x_t = towards(x_t, x_0, level[i + 1], level[i])
        yield State(i, x_t, prediction)


def dpmpp_2m_sde(
    process: GaussianDiffusion, denoise: Denoiser, x_T: Tensor, *, generator: torch.Generator | None = None
) -> Iterator[State]:
    """SDE-DPM-Solver++(2M): `ancestral` with fixedsmall, but with the x_0 of `dpmpp_2m`.  Lu et al. 2022.

    x_T: (B, *D), not changed. Yields T + 1 states, x_T first. The last step takes the mean. generator: as in
    `Gaussian.sample`.
    """
    level = levels(process)
    x_t, prediction = x_T, None
    yield State(process.T, x_t, None)
    for i in reversed(range(process.T)):
        before, prediction = prediction, denoise(x_t, process.row(i).timestep_map, prediction)
        x_0 = prediction.x_0
        if before is not None and i > 0:
            x_0 = _extended(x_0, before.x_0, level[i : i + 3])
        q = process.q_posterior(x_0, x_t, i)
        x_t = q.sample(generator=generator) if i > 0 else q.mean
        yield State(i, x_t, prediction)


def dpmpp_3m(process: GaussianDiffusion, denoise: Denoiser, x_T: Tensor) -> Iterator[State]:
    """DPM-Solver++(3M): a parabola in log-SNR through the last three x_0.  Lu et al. 2022, arXiv 2211.01095.

    The first two steps are those of `dpmpp_2m`, and so are the last two. x_T: (B, *D), not changed. Yields T + 1
    states, x_T first. Third order on a chain that begins in noise, where x_0 hardly changes in the first step, which is
    DDIM's; begun in the middle, second order. The authors' code and diffusers take half of the parabola's bend: second
    order everywhere.
    """
    level = levels(process)
    x_t, prediction, seen = x_T, None, deque[Prediction](maxlen=3)
    yield State(process.T, x_t, None)
    for i in reversed(range(process.T)):
        prediction = denoise(x_t, process.row(i).timestep_map, prediction)
        seen.append(prediction)
        x_0 = prediction.x_0
        if len(seen) == 3 and i > 1 and level[i + 3].signal > 0:
            x_0 = _bent([p.x_0 for p in reversed(seen)], level[i : i + 4])
        elif len(seen) > 1 and i > 0:
            x_0 = _extended(x_0, seen[-2].x_0, level[i : i + 3])
        x_t = towards(x_t, x_0, level[i + 1], level[i])
        yield State(i, x_t, prediction)


ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(process: GaussianDiffusion, denoise: Denoiser, x_T: Tensor) -> Iterator[State]:
    """PNDM's pseudo linear multistep: DDIM's step with the eps of Adams-Bashforth.  Liu et al. 2022, arXiv 2202.09778.

    The weights of the last four eps are those of equal steps in t, so that the steps should be even. The first step
    takes the mean of eps at both its ends, as Latent Diffusion's code does; the paper begins with Runge-Kutta steps.
    Asks the network T + 1 times (once for T = 1). x_T: (B, *D), not changed. Yields T + 1 states, x_T first.
    Raises ValueError for a process that ends at alphas_bar = 0.
    """
    level = levels_with_signal(process)
    x_t, prediction, seen = x_T, None, deque[Tensor](maxlen=4)
    yield State(process.T, x_t, None)
    for i in reversed(range(process.T)):
        prediction = denoise(x_t, process.row(i).timestep_map, prediction)
        seen.appendleft(prediction.eps)
        eps = combine(*zip(ADAMS_BASHFORTH[len(seen) - 1], seen, strict=True))
        if len(seen) == 1 and i > 0:
            tried = along(x_t, eps, level[i + 1], level[i])
            eps = (eps + denoise(tried, process.row(i - 1).timestep_map, prediction).eps) / 2
        x_t = along(x_t, eps, level[i + 1], level[i])
        yield State(i, x_t, prediction)


def _extended(x_0: Tensor, before: Tensor, level: list[Level]) -> Tensor:
    """x_0 half a step further in log-SNR.  level: of where the step leads, where it starts, and where `before` was."""
    to, here, back = (each.log_snr for each in level)
    half = 0.5 * (to - here) / (here - back)
    return combine((1 + half, x_0), (-half, before))


def _bent(x_0: list[Tensor], level: list[Level]) -> Tensor:
    """The constant x_0 that moves x as the parabola through the last three does.  x_0: the latest first, at level[1:].

    With s in 0..1 the share of the step h in log-SNR, x moves by the integral of e^(h (s - 1)) x_0(s). m1 and m2 are
    the means of s and s^2 under this weight; Lagrange's polynomials through 0, a and b give the three factors.
    """
    to, here, *back = (each.log_snr for each in level)
    h = to - here
    a, b = ((each - here) / h for each in back)
    whole = -math.expm1(-h) / h
    m1 = (1 - whole) / (h * whole)
    m2 = (1 / whole - 2 * m1) / h
    factors = (m2 - (a + b) * m1 + a * b) / (a * b), (m2 - b * m1) / (a * (a - b)), (m2 - a * m1) / (b * (b - a))
    return combine(*zip(factors, x_0, strict=True))
