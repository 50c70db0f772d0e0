"""Denoisers: what samplers ask. A network becomes one here; clipping, guidance and the like wrap one into another."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ddpm_lesson._tensors import float32_at_least, frozen
from ddpm_lesson.coefficients import Steps
from ddpm_lesson.doors import answer
from ddpm_lesson.predictions import MeanType, Prediction, decode
from ddpm_lesson.process import GaussianDiffusion


class Denoiser(Protocol):
    """denoise(x_t, t, prev=None).  x_t: (B, *D). t: a step of the base, (B,) int64 or an int, which samplers give.

    prev: the prediction one step earlier, None at the first.
    """

    def __call__(self, x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction: ...


Conditions = Mapping[str, Tensor]  # what a network is told besides x_t and t, by the names of its arguments
Condition = Tensor | Callable[[Tensor, Tensor, Prediction | None], Tensor]  # one of them, or how to make it anew


def make_denoiser(
    model: Callable[..., Tensor], base: GaussianDiffusion, mean_type: MeanType, **conditions: Condition
) -> Denoiser:
    """A network as a denoiser: denoise(x_t, t, prev=None) -> Prediction.

    model: called as model(x_t, t, **conditions); returns x_t's shape, or twice its channels: see `split`. A module runs
    in eval mode and without gradients, and is put back afterwards. base: the process it was trained on.
    conditions: by the names that the model gives them, (B, ...) tensors such as labels `y` or an image `cond`, or
    functions of (x_t, t (B,), prev) that are asked anew at each step: `previous_x_0`, or a draw of a latent.
    Raises ValueError if base is a respaced chain, or the model returns any other shape, TypeError if it returns a tuple
    or diffusers' output instead of a tensor: then lambda x, t: model(x, t).sample is the model.

    >>> from ddpm_lesson.predictions import epsilon
    >>> base = GaussianDiffusion(torch.tensor([0.36, 0.5]))  # alphas_bar[0] = 0.64
    >>> denoise = make_denoiser(lambda x_t, t, y: 0 * x_t + y.view(-1, 1), base, epsilon, y=torch.tensor([1, 0]))
    >>> denoise(torch.tensor([[0.2], [0.4]]), torch.tensor([0, 0])).x_0  # (0.2 - 0.6) / 0.8 and 0.4 / 0.8
    tensor([[-0.5000],
            [ 0.5000]])
    """
    if base.base is not base:
        raise ValueError(f"base must be the process the model was trained on, got a chain respaced from it: {base}")

    modules = list(model.modules()) if isinstance(model, nn.Module) else []

    def denoise(x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        at = t if isinstance(t, Tensor) else torch.full((x_t.shape[0],), t, dtype=torch.int64, device=x_t.device)
        given = {name: c if isinstance(c, Tensor) else c(x_t, at, prev) for name, c in conditions.items()}
        with frozen(modules):
            output = answer(model(x_t, at, **given))
        return decode(base, mean_type, x_t, t, output)

    return denoise


def previous_x_0(x_t: Tensor, t: Tensor, prev: Prediction | None) -> Tensor:
    """The condition of self-conditioning: the estimate of one step earlier, zeros at the first.  Chen et al. 2022."""
    return torch.zeros_like(x_t) if prev is None else prev.x_0


def on_x_0(denoise: Denoiser, base: GaussianDiffusion, change: Callable[[Tensor], Tensor]) -> Denoiser:
    """The same denoiser with `change` applied to its x_0 *before* anything is made of it, and eps derived again.

    change: x_0 (B, *D) -> (B, *D). Without the second half DDIM would step with an eps that belongs to another x_0.
    For a network that predicts xprev this rebuilds the mean from the changed x_0; guided-diffusion clips x_0 there,
    and steps with the network's mean as it came.
    """

    def denoise_changed(x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        prediction = denoise(x_t, t, prev)
        x_0 = change(prediction.x_0)
        return Prediction(x_0, base.eps_from_x_0(x_t, t, x_0), prediction.var_frac)

    return denoise_changed


def clipped(denoise: Denoiser, base: GaussianDiffusion, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """The same denoiser with x_0 clipped to low..high, see `on_x_0`.  Ho et al. 2020, the official code.

    Clipping the step's mean instead, or x_0 after the mean was formed, does nothing of the kind.
    """
    return on_x_0(denoise, base, lambda x_0: x_0.clamp(low, high))


def dynamic_threshold(denoise: Denoiser, base: GaussianDiffusion, quantile: float = 0.995) -> Denoiser:
    """x_0 clipped to -s..s and divided by s, s the quantile of |x_0| of each image, at least 1.  Saharia et al. 2022.

    Section 2.3 there: under strong guidance `clipped` drives many pixels to exactly -1 and 1; this one scales images
    back instead. An image that stays in [-1, 1] is not changed. Raises ValueError if quantile leaves 0..1.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie in 0..1, got {quantile}")

    def threshold(x_0: Tensor) -> Tensor:
        s = torch.quantile(float32_at_least(x_0).abs().flatten(1), quantile, 1).clamp(min=1)
        s = s.to(x_0.dtype).view(-1, *[1] * (x_0.ndim - 1))
        return x_0.clamp(-s, s) / s

    return on_x_0(denoise, base, threshold)
