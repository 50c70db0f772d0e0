"""DDIM: one family of samplers between deterministic and ancestral, and the way back from an image to its latent."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lesson.coefficients import combine, spread
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers.levels import State


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
    >>> from ddpm_lesson.samplers import last
    >>> process = GaussianDiffusion(torch.full((100,), 0.1)).respaced([0, 50, 99])
    >>> denoise = oracle.GaussianData(process.base, torch.tensor([0.5, -0.5]), 0.0)  # all data are this point
    >>> last(ddim(process, denoise, torch.ones(1, 2)))
    tensor([[ 0.5000, -0.5000]])
    """
    x_t, prediction = x_T, None
    yield State(process.T, x_t, None)
    for i in reversed(range(process.T)):
        prediction = denoise(x_t, process.row(i).timestep_map, prediction)
        of_x_0, of_eps, log_var = process.ddim_weights(i, eta)
        x_t = combine((of_x_0, prediction.x_0), (of_eps, prediction.eps))
        if eta > 0 and i > 0:
            x_t = Gaussian(x_t, spread(log_var, x_t)).sample(generator=generator)
        yield State(i, x_t, prediction)


def ddim_inversion(process: GaussianDiffusion, denoise: Denoiser, x_0: Tensor) -> Iterator[State]:
    """From an image to the latent x_T that `ddim` turns into it again.  Song et al. 2021, Section 4.3.

    DDIM's step upwards: x_{t+1} from the x_0 and eps seen at x_t. That is exact for infinitely many steps; with few,
    the eps of the wrong end is taken and the image comes back changed. x_0: (B, *D), taken for the state with one step
    to go, as Improved DDPM's `ddim_reverse_sample` does: the first beta's noise is neglected.
    Yields the states of i = 1..T, so that the last one is an x_T of `ddim`; a process that ends at alphas_bar = 0 stops
    one step before: pure noise holds no image. Asks the network T - 1 times.
    """
    x_t, prediction = x_0, None
    yield State(1, x_t, None)
    for i in range(process.T - 1):
        if process.row(i + 1).alphas_bar == 0:
            return
        prediction = denoise(x_t, process.row(i).timestep_map, prediction)
        x_t = process.q_sample(prediction.x_0, i + 1, prediction.eps)
        yield State(i + 2, x_t, prediction)
