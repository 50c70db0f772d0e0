"""Super-resolution: a network that is told a small image, enlarged, beside the noisy one.

Sampling needs no code of its own: `make_denoiser(model, base, mean_type, cond=upsampled(small, side))`.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ddpm_lesson.denoisers import Conditions
from ddpm_lesson.process import Noised


def low_res(x_0: Tensor, factor: int) -> Tensor:
    """The small image: each pixel the mean of factor x factor pixels.  (B, C, H, W) -> (B, C, H/factor, W/factor).

    Improved DDPM's data loader, mode "area". Raises ValueError if factor is below 1 or does not divide both sides.
    """
    if factor < 1 or x_0.ndim != 4 or x_0.shape[2] % factor or x_0.shape[3] % factor:
        raise ValueError(f"x_0 must be (B, C, H, W) with sides that {factor} divides, got {tuple(x_0.shape)}")
    return avg_pool2d(x_0, factor)


def upsampled(small: Tensor, side: int | tuple[int, int]) -> Tensor:
    """The small image, (B, C, h, w), enlarged by bilinear interpolation to side x side: what the network is told.

    Nichol & Dhariwal 2021, the code: `SuperResModel`.
    """
    return interpolate(small, side, mode="bilinear", align_corners=False)


def from_low_res(factor: int) -> Callable[[Noised, Conditions], Conditions]:
    """For `train(..., conditions=)`: `cond` is the clean image made small and enlarged again.  For UNet(cond_ch=C)."""

    def conditions(noised: Noised, given: Conditions) -> Conditions:
        x_0 = noised.x_0
        return {**given, "cond": upsampled(low_res(x_0, factor), (x_0.shape[2], x_0.shape[3]))}

    return conditions
