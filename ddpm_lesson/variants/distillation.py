"""Progressive distillation: a student learns to do in one step of DDIM what its teacher does in two.

Then it is the teacher of the next student, with half the steps again.  Salimans & Ho 2022 (arXiv 2202.00512).
"""

from torch import Tensor

from ddpm_lesson.coefficients import Steps, combine, spread
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.process import GaussianDiffusion


def halved(process: GaussianDiffusion) -> GaussianDiffusion:
    """The student's chain: every second step of the teacher's, the last one included.

    process: respaced or not, of an even number of steps; ValueError for an odd one.
    """
    if process.T % 2:
        raise ValueError(f"a chain is halved if its number of steps is even, got {process.T}")
    return process.base.respaced(process.timestep_map[1::2].tolist())


def two_ddim_steps(denoise: Denoiser, process: GaussianDiffusion, x_t: Tensor, i: Steps) -> Tensor:
    """The x_0 that leads in one step of the half chain to where two steps lead.  Salimans & Ho 2022, Algorithm 2.

    denoise: the teacher. process: its chain, of 2 N steps. x_t: (B, *D), a state of the process. i: (B,) int64 in
    0..N-1 or an int, a step of `halved(process)`: steps 2 i + 1 and 2 i are made here, by DDIM with eta = 0.
    Returns (B, *D), the student's target at this x_t.
    Not the teacher's own x_0: that one only leads a step ahead, and the second step then goes elsewhere.
    """
    x = x_t
    for j in (2 * i + 1, 2 * i):
        told = denoise(x, process.row(j).timestep_map)
        of_x_0, of_eps, _ = process.ddim_weights(j, 0.0)
        x = combine((of_x_0, told.x_0), (of_eps, told.eps))
    first, end = process.row(2 * i + 1), process.row(2 * i)
    # x = a x_0 + s eps with x_t = sqrt(alphas_bar) x_0 + std eps, solved for x_0; ratio = s / std.
    std_end = (end.posterior_var / end.betas) ** 0.5 * end.sqrt_one_minus_alphas_bar  # 0 for i = 0
    ratio = std_end / first.sqrt_one_minus_alphas_bar
    whole = end.alphas_bar_prev**0.5 - ratio * first.sqrt_alphas_bar
    return combine((1 / whole, x), (-ratio / whole, x_t))


def distillation_loss(x_0: Tensor, target: Tensor, process: GaussianDiffusion, i: Steps) -> Tensor:
    """max(SNR, 1) |x_0 - target|^2, the mean over an image, (B,).  Salimans & Ho 2022, Section 4, "truncated SNR".

    x_0: (B, *D), the student's. process: the half chain. i: (B,) or an int, a step of it.
    A loss in eps has the weight SNR, 0 at a chain's end: there its network would learn nothing of x_0.
    """
    snr = process.row(i).snr
    weight = snr.clamp(min=1) if isinstance(snr, Tensor) else max(snr, 1.0)
    return (spread(weight, x_0) * (x_0 - target).square()).flatten(1).mean(1)
