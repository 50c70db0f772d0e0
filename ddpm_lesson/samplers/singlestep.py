"""Second order by a second look within the step: Heun's method and single-step DPM-Solver++."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lesson._tensors import randn_like
from ddpm_lesson.coefficients import combine
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers.levels import Level, State, along, levels, levels_with_signal, towards


def heun(
    process: GaussianDiffusion,
    denoise: Denoiser,
    x_T: Tensor,
    *,
    churn: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Heun's method on the probability flow ODE.  Karras et al. 2022, Algorithm 1; with churn Algorithm 2.

    Each step is tried with eps at its start and done again with the mean of eps at both its ends; the last one, to the
    clean image, stays as it was tried. Asks the network 2 T - 1 times. x_T: (B, *D), not changed. Yields T + 1 states;
    the prediction of a state is that of the tried end.
    churn: S_churn there, 0 for none; before each step fresh noise raises the level by a factor 1 + churn / T, at most
    sqrt(2), rounded to the nearest level that the base has, since the network knows no others. So a churn that is too
    small for the base's levels does nothing, and the last level cannot be raised.
    Raises ValueError if churn is negative, and for a process that ends at alphas_bar = 0.
    """
    if not churn >= 0:
        raise ValueError(f"churn must not be negative, got {churn}")
    level, base = levels_with_signal(process), levels(process.base)
    raised = [_raised(process, i, 1 + min(churn / process.T, 2**0.5 - 1)) for i in range(process.T)]
    x_t, prediction = x_T, None
    yield State(process.T, x_t, None)
    for i in reversed(range(process.T)):
        here, there, t = level[i + 1], level[i], raised[i]
        if t > process.row(i).timestep_map:
            here = base[t + 1]
            x_t = _noisier(x_t, level[i + 1], here, randn_like(x_t, generator))
        prediction = denoise(x_t, t, prediction)
        x_next = along(x_t, prediction.eps, here, there)
        if i > 0:
            prediction = denoise(x_next, process.row(i - 1).timestep_map, first := prediction)
            x_next = along(x_t, (first.eps + prediction.eps) / 2, here, there)
        x_t = x_next
        yield State(i, x_t, prediction)


def dpmpp_2s(process: GaussianDiffusion, denoise: Denoiser, x_T: Tensor) -> Iterator[State]:
    """DPM-Solver++(2S): two steps of the process at a time, the first of them only to look.  Lu et al. 2022, Alg. 1.

    From level s by first order to the next level u; x_0 there, extended to the middle of the whole way in log-SNR,
    leads from s to the level after u. The last steps, to the clean image, are of first order. Asks the network T
    times. x_T: (B, *D), not changed. Yields the states of every second i, and of the last two; where alphas_bar
    = 0 no log-SNR can be halved, and that first step is of first order, too.
    """
    level = levels(process)
    x_t, i, prediction = x_T, process.T, None
    yield State(i, x_t, None)
    while i > 0:
        prediction = denoise(x_t, process.row(i - 1).timestep_map, prediction)
        to = i - 2 if i > 2 and level[i].signal > 0 else i - 1
        x_0, s, u = prediction.x_0, level[i], level[i - 1]
        if to < i - 1:
            prediction = denoise(towards(x_t, x_0, s, u), process.row(i - 2).timestep_map, prediction)
            r = (u.log_snr - s.log_snr) / (level[to].log_snr - s.log_snr)
            x_0 = combine((1 - 0.5 / r, x_0), (0.5 / r, prediction.x_0))
        x_t, i = towards(x_t, x_0, s, level[to]), to
        yield State(i, x_t, prediction)


def _raised(process: GaussianDiffusion, i: int, factor: float) -> int:
    """The base's step whose noise-to-signal ratio is nearest to `factor` times that of step i, not below it."""
    t = process.row(i).timestep_map
    if factor == 1:
        return t
    wanted = process.row(i).snr / factor**2
    snr = [process.base.row(k).snr for k in range(t, process.base.T)]
    return t + min((k for k in range(len(snr)) if snr[k]), key=lambda k: abs(snr[k] ** -0.5 - wanted**-0.5))


def _noisier(x_t: Tensor, here: Level, there: Level, noise: Tensor) -> Tensor:
    """x of a noisier level: q's own way from one level to the next, over any number of steps."""
    share = there.signal / here.signal
    return combine((share, x_t), ((there.noise**2 - (share * here.noise) ** 2) ** 0.5, noise))
