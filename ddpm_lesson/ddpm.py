"""The two front doors: Algorithm 1 (training) and Algorithm 2 (sampling) with the linear schedule.

The names and arguments are those of the post that this course grew out of. Everything else is in the core.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ddpm_lesson import schedules
from ddpm_lesson._tensors import home, moved
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.doors import ImageRangeWarning, answer, check_images
from ddpm_lesson.losses import simple_loss
from ddpm_lesson.predictions import mean_type_named, variance_named
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import State, ancestral, last, reverse

__all__ = ["GaussianDiffusionSampler", "GaussianDiffusionTrainer", "ImageRangeWarning"]  # the last one: of doors.py


class GaussianDiffusionTrainer(nn.Module):
    """Algorithm 1: the loss of a network on noised images.  Ho et al. 2020, Eq. 14.

    model: called as model(x_t, t), returns x_t's shape. beta_1, beta_T, T: the linear schedule. mean_type: what the
    model predicts: "epsilon", "xstart", "xprev" or "v"; give the sampler the same.
    forward: x_0 (B, *D) float in [-1, 1] -> squared errors (B, *D), not reduced: average them (`.mean()`), a sum
    would grow with the batch. Float32 at least. Each image gets its own t. t and noise are drawn on the CPU in that
    order, so a seed means the same on every device.
    Raises TypeError for integer images, a pair (x, y), or a model that returns no tensor, ValueError for NaN and for
    pixels in 0..255; warns with ImageRangeWarning for images (not for points, (B, D)) far outside [-1, 1], or in [0, 1]
    at the first call, and with PriorNotReachedWarning if the chain is too short for its betas. On a GPU the values are
    looked at once, at the first call.

    >>> from ddpm_lesson.networks.mlp import MLP
    >>> trainer = GaussianDiffusionTrainer(MLP(T=1000, dim=2), 1e-4, 0.02, 1000)
    >>> loss = trainer(torch.zeros(5, 2))
    >>> loss.mean().backward()
    >>> loss.shape
    torch.Size([5, 2])
    """

    def __init__(
        self, model: Callable[..., Tensor], beta_1: float, beta_T: float, T: int, *, mean_type: str = "epsilon"
    ):
        super().__init__()
        self.model = model
        self.mean_type = mean_type_named(mean_type)
        self.process = GaussianDiffusion(schedules.linear(T, beta_1, beta_T))
        self.process.describe()
        self._values_seen = False

    def forward(self, x_0: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        self._check(x_0)
        t = torch.randint(self.process.T, x_0.shape[:1], device=home(generator), generator=generator)
        t = moved(t, x_0.device)
        noised = self.process.noised(x_0, t, generator=generator)
        output = answer(self.model(noised.x_t, t))
        if output.shape != x_0.shape:
            raise ValueError(f"the model must return x_t's shape {tuple(x_0.shape)}, got {tuple(output.shape)}")
        return simple_loss(self.process, self.mean_type, output, noised)

    def _check(self, x_0: Tensor) -> None:
        if self._values_seen and isinstance(x_0, Tensor) and x_0.is_floating_point() and x_0.device.type != "cpu":
            return
        check_images(x_0, first=not self._values_seen, stacklevel=5)
        self._values_seen = self._values_seen or (x_0.numel() > 0 and not torch.compiler.is_compiling())


class GaussianDiffusionSampler(nn.Module):
    """Algorithm 2: from noise to images, one step at a time.  Ho et al. 2020.

    model, beta_1, beta_T, T, mean_type: as for the trainer. img_size: the side of the images; if given, x_T is held
    to it. var_type: "fixedlarge" (beta), "fixedsmall" (posterior variance), or, by a model with twice as many output
    channels, "learned" (the second half is the log variance) or "learned_range" (it lies between those two).
    clip_denoised: clip the estimated x_0 to [-1, 1] before the step's mean is formed, at every step.
    forward: x_T (B, *D) standard normal -> x_0 (B, *D), clipped to [-1, 1]. The model runs in eval mode and without
    gradients, whatever its state, and gets its state back. For data that leave [-1, 1], 2-D points for example, take
    clip_denoised=False and the last of `states`, which is not clipped.
    Raises ValueError for an unknown mean_type or var_type, and for an x_T of another size or on another device.

    >>> from ddpm_lesson.networks.mlp import MLP
    >>> sampler = GaussianDiffusionSampler(MLP(T=20, dim=2), 1e-4, 0.5, 20)
    >>> x_0 = sampler(torch.randn(5, 2))
    >>> x_0.shape, bool(x_0.abs().max() <= 1)
    (torch.Size([5, 2]), True)
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        beta_1: float,
        beta_T: float,
        T: int,
        img_size: int | None = None,
        mean_type: str = "epsilon",
        var_type: str = "fixedlarge",
        *,
        clip_denoised: bool = True,
    ):
        super().__init__()
        self.model = model
        self.img_size = img_size
        self.process = GaussianDiffusion(schedules.linear(T, beta_1, beta_T))
        self.mean_type = mean_type_named(mean_type)
        self.variance = variance_named(var_type)
        self.clip_denoised = clip_denoised

    def states(self, x_T: Tensor, *, generator: torch.Generator | None = None) -> Iterator[State]:
        """Every state from x_T to x_0, the last one not yet clipped: for pictures of the way."""
        if not x_T.is_floating_point():
            raise TypeError(f"x_T must be floating point noise, got {x_T.dtype}")
        if x_T.device != self.process.betas.device:
            raise ValueError(f"x_T must be on the sampler's device {self.process.betas.device}, got {x_T.device}")
        if self.img_size is not None and x_T.shape[2:] != (self.img_size, self.img_size):
            raise ValueError(f"x_T must be (B, C, {self.img_size}, {self.img_size}), got {tuple(x_T.shape)}")
        denoise = make_denoiser(self.model, self.process, self.mean_type)
        if self.clip_denoised:
            denoise = clipped(denoise, self.process)
        p = reverse(self.process, denoise, self.variance)
        return ancestral(self.process, p, x_T, generator=generator)

    def forward(self, x_T: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return last(self.states(x_T, generator=generator)).clamp(-1, 1)
