"""What a network's output means, and which variance a reverse step takes.

Training and sampling share one MeanType object, so that they cannot disagree about what the network predicts.
"""

from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ddpm_lesson.coefficients import at
from ddpm_lesson.process import GaussianDiffusion


class Prediction(NamedTuple):
    """What a denoiser says of x_t: x_0 and eps, (B, *D) each: x_t = sqrt(alphas_bar) x_0 + sqrt(1 - alphas_bar) eps.

    var_frac: (B, *D), the learned position of the log variance between its bounds (0: fixedsmall, 1: log beta), or
    None for a network that learns no variance. Nothing here belongs to a particular step.
    """

    x_0: Tensor
    eps: Tensor
    var_frac: Tensor | None = None


Denoiser = Callable[..., Prediction]  # denoise(x_t, t, prev=None); t counts steps of the base process
Variance = Callable[[GaussianDiffusion, Tensor, Prediction, Tensor], Tensor]  # (process, i, prediction, x_t) -> log_var


class MeanType(Protocol):
    """One meaning of a network's output: the target that training fits, and the way back to a Prediction.

    base: the process the network was trained on. x_0, x_t, noise, output: (B, *D). t: (B,), steps of the base.
    """

    name: str

    def target(self, base: GaussianDiffusion, x_0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor: ...

    def decode(self, base: GaussianDiffusion, x_t: Tensor, t: Tensor, output: Tensor) -> Prediction: ...


class Epsilon:
    """The network predicts the noise.  Ho et al. 2020, Eq. 11-12.  Cannot be decoded where alphas_bar = 0."""

    name = "epsilon"

    def target(self, base, x_0, x_t, t, noise):
        return noise

    def decode(self, base, x_t, t, output):
        return Prediction(base.x_0_from_eps(x_t, t, output), output)


class XStart:
    """The network predicts x_0.  Ho et al. 2020, Section 3.2 (tried there, and found worse than epsilon)."""

    name = "xstart"

    def target(self, base, x_0, x_t, t, noise):
        return x_0

    def decode(self, base, x_t, t, output):
        return Prediction(output, base.eps_from_x_0(x_t, t, output))


class XPrev:
    """The network predicts the posterior mean of x_{t-1}.  Ho et al. 2020, Eq. 8.

    The target is that mean. A sampled x_{t-1} would have the same expected gradient and more noise.
    """

    name = "xprev"

    def target(self, base, x_0, x_t, t, noise):
        return base.x_prev_from_x_0(x_t, t, x_0)

    def decode(self, base, x_t, t, output):
        x_0 = base.x_0_from_x_prev(x_t, t, output)
        return Prediction(x_0, base.eps_from_x_0(x_t, t, x_0))


class V:
    """The network predicts v = sqrt(alphas_bar) eps - sqrt(1 - alphas_bar) x_0.  Salimans & Ho 2022, Section 4."""

    name = "v"

    def target(self, base, x_0, x_t, t, noise):
        return base.velocity(x_0, t, noise)

    def decode(self, base, x_t, t, output):
        x_0 = base.x_0_from_v(x_t, t, output)
        return Prediction(x_0, base.eps_from_x_0(x_t, t, x_0))


epsilon, xstart, xprev, velocity = Epsilon(), XStart(), XPrev(), V()


def fixedlarge(process: GaussianDiffusion, i: Tensor, prediction: Prediction, x_t: Tensor) -> Tensor:
    """log beta, with the clipped posterior's value at i = 0.  Ho et al. 2020, Section 3.2: optimal for N(0, I) data.

    i: (B,), steps of `process`, the one that steps. Returns (B, 1, ...).
    """
    return at(process.log_betas_clipped, i, x_t)


def fixedsmall(process: GaussianDiffusion, i: Tensor, prediction: Prediction, x_t: Tensor) -> Tensor:
    """Log of the posterior variance, clipped at i = 0.  Ho et al. 2020, Section 3.2: optimal for a single point.

    i: (B,), steps of `process`, the one that steps. Returns (B, 1, ...).
    """
    return at(process.posterior_log_var_clipped, i, x_t)


def learned_range(process: GaussianDiffusion, i: Tensor, prediction: Prediction, x_t: Tensor) -> Tensor:
    """var_frac log beta + (1 - var_frac) log posterior_var, clipped at i = 0.  Nichol & Dhariwal 2021, Eq. 15.

    i: (B,), steps of `process`, the one that steps. Returns (B, *D).
    Raises ValueError if the prediction has no var_frac. At i = 0, var_frac = 1 is log beta itself, not fixedlarge.
    """
    if prediction.var_frac is None:
        raise ValueError("learned_range needs a model with twice as many output channels as x_t has; got none extra")
    small, large = at(process.posterior_log_var_clipped, i, x_t), at(process.betas.log(), i, x_t)
    return small + prediction.var_frac * (large - small)


MEAN_TYPES: dict[str, MeanType] = {m.name: m for m in (epsilon, xstart, xprev, velocity)}
VARIANCES: dict[str, Variance] = {f.__name__: f for f in (fixedlarge, fixedsmall, learned_range)}


def mean_type_named(name: str) -> MeanType:
    """The MeanType of that name: epsilon, xstart, xprev or v. Raises ValueError that lists them for any other."""
    if name not in MEAN_TYPES:
        near = {"eps": "epsilon", "noise": "epsilon", "x_0": "xstart", "x0": "xstart", "x_prev": "xprev"}.get(name)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"unknown mean_type {name!r}, expected one of {', '.join(MEAN_TYPES)}{hint}")
    return MEAN_TYPES[name]


def variance_named(name: str) -> Variance:
    """The variance of that name: fixedlarge, fixedsmall, learned_range. ValueError lists them for any other."""
    if name not in VARIANCES:
        raise ValueError(f"unknown var_type {name!r}, expected one of {', '.join(VARIANCES)}")
    return VARIANCES[name]


def split(output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
    """A network's raw output taken apart: what predicts the mean, (B, *D), and var_frac, (B, *D) or None.

    output: x_t's shape (B, *D), or twice its channels (axis 1); then the second half v in [-1, 1] stands for
    var_frac = (v + 1) / 2 (Nichol & Dhariwal 2021, the code). Raises ValueError for any other shape.
    """
    if output.shape == x_t.shape:
        return output, None
    if output.shape != (*x_t.shape[:1], *(2 * c for c in x_t.shape[1:2]), *x_t.shape[2:]):
        expected = f"x_t's shape {tuple(x_t.shape)}, or twice its channels"
        raise ValueError(f"the model must return {expected}, got {tuple(output.shape)}")
    output, v = output.chunk(2, 1)
    return output, (v + 1) / 2


def decode(base: GaussianDiffusion, mean_type: MeanType, x_t: Tensor, t: Tensor, output: Tensor) -> Prediction:
    """What a network's raw output says of x_t, with gradients.

    base: the process it was trained on. x_t: (B, *D). t: (B,). output: (B, *D), or twice the channels, see `split`.
    Not MeanType.decode: that one knows no variance.
    """
    output, var_frac = split(output, x_t)
    return mean_type.decode(base, x_t, t, output)._replace(var_frac=var_frac)


def make_denoiser(
    model: Callable[..., Tensor], base: GaussianDiffusion, mean_type: MeanType, *, cond: Tensor | None = None
) -> Denoiser:
    """A network as a denoiser: denoise(x_t, t, prev=None) -> Prediction.

    model: called as model(x_t, t), or model(x_t, t, cond) if cond is given; returns x_t's shape, or twice its
    channels: see `split`. A module runs in eval mode and without gradients, and is put back afterwards. base: the
    process it was trained on. Raises ValueError if base is a respaced chain, or the model returns any other shape.
    """
    if base.base is not base:
        raise ValueError(f"base must be the process the model was trained on, got a chain respaced from it: {base}")
    conditions = () if cond is None else (cond,)

    def denoise(x_t: Tensor, t: Tensor, prev: Prediction | None = None) -> Prediction:
        with frozen(model):
            output = model(x_t, t, *conditions)
        return decode(base, mean_type, x_t, t, output)

    return denoise


def clipped(denoise: Denoiser, base: GaussianDiffusion, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """The same denoiser with x_0 clipped to low..high *before* anything is made of it, and eps derived again.

    Ho et al. 2020, the official code. Without the second half DDIM would step with an eps that belongs to another
    x_0. Clipping the step's mean instead, or x_0 after the mean was formed, does nothing of the kind.
    """

    def denoise_clipped(x_t: Tensor, t: Tensor, prev: Prediction | None = None) -> Prediction:
        prediction = denoise(x_t, t, prev)
        x_0 = prediction.x_0.clamp(low, high)
        return prediction._replace(x_0=x_0, eps=base.eps_from_x_0(x_t, t, x_0))

    return denoise_clipped


@contextmanager
def frozen(model):
    """Eval mode and no gradients inside; every submodule's own mode comes back, also after an error."""
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
