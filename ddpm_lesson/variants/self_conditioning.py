"""Self-conditioning: a network that is told its own estimate of one step earlier.

Sampling needs no code of its own: `make_denoiser(model, base, mean_type, cond=previous_x_0)`.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from ddpm_lesson._tensors import float32_at_least, home
from ddpm_lesson.denoisers import Conditions
from ddpm_lesson.predictions import MeanType, decode
from ddpm_lesson.process import GaussianDiffusion, Noised


def own_estimate(
    model: nn.Module,
    base: GaussianDiffusion,
    mean_type: MeanType,
    *,
    share: float = 0.5,
    generator: Generator | None = None,
) -> Callable[[Noised, Conditions], Conditions]:
    """For `train(..., conditions=)`: `cond` is the network's own x_0, or zeros.  Chen et al. 2022 (arXiv 2208.04202).

    Algorithm 1 there: for a share of the batches the network is asked once with cond = 0, and asked again with the x_0
    of that answer, through which no gradient flows. The others train the first question. In sampling it costs nothing:
    the estimate of the step before is at hand. It is not clipped here, as in lucidrains' code; a chain that clips hands
    on clipped estimates. model: takes cond (B, *D) in x_t's dtype, a UNet with cond_ch = in_ch.
    generator: decides which; one on a GPU is waited for. Raises ValueError if share leaves 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in 0..1, got {share}")

    def conditions(noised: Noised, given: Conditions) -> Conditions:
        zeros = torch.zeros_like(noised.x_t)
        if torch.rand((), generator=generator, device=home(generator)) >= share:
            return {**given, "cond": zeros}
        with torch.no_grad():
            output: Tensor = model(noised.x_t, noised.t, **given, cond=zeros)
        x_0 = decode(base, mean_type, noised.x_t, noised.t, float32_at_least(output)).x_0
        return {**given, "cond": x_0.to(noised.x_t.dtype)}

    return conditions
