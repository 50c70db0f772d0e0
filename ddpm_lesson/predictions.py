"""What a network's output means, which variance a reverse step takes, and p(x_{t-1} | x_t) from both.

Training and sampling share one MeanType object, so that they cannot disagree about what the network predicts.
"""

from typing import NamedTuple, Protocol

from torch import Tensor

from ddpm_lesson._tensors import float32_at_least
from ddpm_lesson.coefficients import Steps, spread
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.process import GaussianDiffusion, Noised


class Prediction(NamedTuple):
    """What a denoiser says of x_t: x_0 and eps, (B, *D) each: x_t = sqrt(alphas_bar) x_0 + sqrt(1 - alphas_bar) eps.

    var_frac: (B, *D), the learned position of the log variance between its bounds (0: fixedsmall, 1: log beta), or
    None for a network that learns no variance. Nothing here belongs to a particular step.
    """

    x_0: Tensor
    eps: Tensor
    var_frac: Tensor | None = None


class MeanType(Protocol):
    """One meaning of a network's output: the target that training fits, and the way back to a Prediction.

    base: the process the network was trained on. noised: its draw. x_t, output: (B, *D). t: (B,), steps of the base.
    """

    name: str

    def target(self, base: GaussianDiffusion, noised: Noised) -> Tensor: ...

    def decode(self, base: GaussianDiffusion, x_t: Tensor, t: Steps, output: Tensor) -> Prediction: ...


class Epsilon:
    """The network predicts the noise.  Ho et al. 2020, Eq. 11-12.  Cannot be decoded where alphas_bar = 0."""

    name = "epsilon"

    def target(self, base: GaussianDiffusion, noised: Noised) -> Tensor:
        return noised.noise

    def decode(self, base: GaussianDiffusion, x_t: Tensor, t: Steps, output: Tensor) -> Prediction:
        return Prediction(base.x_0_from_eps(x_t, t, output), output)


class XStart:
    """The network predicts x_0.  Ho et al. 2020, Section 3.2 (tried there, and found worse than epsilon)."""

    name = "xstart"

    def target(self, base: GaussianDiffusion, noised: Noised) -> Tensor:
        return noised.x_0

    def decode(self, base: GaussianDiffusion, x_t: Tensor, t: Steps, output: Tensor) -> Prediction:
        return Prediction(output, base.eps_from_x_0(x_t, t, output))


class XPrev:
    """The network predicts the posterior mean of x_{t-1}.  Ho et al. 2020, Eq. 8.

    The target is that mean. A sampled x_{t-1} would have the same expected gradient and more noise.
    """

    name = "xprev"

    def target(self, base: GaussianDiffusion, noised: Noised) -> Tensor:
        return base.x_prev_from_x_0(noised.x_t, noised.t, noised.x_0)

    def decode(self, base: GaussianDiffusion, x_t: Tensor, t: Steps, output: Tensor) -> Prediction:
        x_0 = base.x_0_from_x_prev(x_t, t, output)
        return Prediction(x_0, base.eps_from_x_0(x_t, t, x_0))


class V:
    """The network predicts v = sqrt(alphas_bar) eps - sqrt(1 - alphas_bar) x_0.  Salimans & Ho 2022, Section 4."""

    name = "v"

    def target(self, base: GaussianDiffusion, noised: Noised) -> Tensor:
        return base.velocity(noised.x_0, noised.t, noised.noise)

    def decode(self, base: GaussianDiffusion, x_t: Tensor, t: Steps, output: Tensor) -> Prediction:
        x_0 = base.x_0_from_v(x_t, t, output)
        return Prediction(x_0, base.eps_from_x_0(x_t, t, x_0))


epsilon, xstart, xprev, velocity = Epsilon(), XStart(), XPrev(), V()
MEAN_TYPES: dict[str, MeanType] = {"epsilon": epsilon, "xstart": xstart, "xprev": xprev, "v": velocity}


def mean_type_named(name: str) -> MeanType:
    """The MeanType of that name: epsilon, xstart, xprev or v. Raises ValueError that lists them for any other."""
    if name not in MEAN_TYPES:
        near = {"eps": "epsilon", "noise": "epsilon", "x_0": "xstart", "x0": "xstart", "x_prev": "xprev"}.get(name)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"unknown mean_type {name!r}, expected one of {', '.join(MEAN_TYPES)}{hint}")
    return MEAN_TYPES[name]


class Variance(Protocol):
    """variance(process, i, prediction, x_t) -> log_var, (B, 1, ...) or (B, *D).  i: (B,), steps of `process`.

    process: the one that steps, which may be respaced.
    """

    def __call__(self, process: GaussianDiffusion, i: Steps, prediction: Prediction, x_t: Tensor, /) -> Tensor: ...


def fixedlarge(process: GaussianDiffusion, i: Steps, prediction: Prediction, x_t: Tensor) -> Tensor:
    """log beta, with the clipped posterior's value at i = 0.  Ho et al. 2020, Section 3.2: optimal for N(0, I) data.

    Arguments as in `Variance`. Returns (B, 1, ...).
    """
    return spread(process.row(i).log_betas_clipped, x_t)


def fixedsmall(process: GaussianDiffusion, i: Steps, prediction: Prediction, x_t: Tensor) -> Tensor:
    """Log of the posterior variance, clipped at i = 0.  Ho et al. 2020, Section 3.2: optimal for a single point.

    Arguments as in `Variance`. Returns (B, 1, ...).
    """
    return spread(process.row(i).posterior_log_var_clipped, x_t)


def learned(process: GaussianDiffusion, i: Steps, prediction: Prediction, x_t: Tensor) -> Tensor:
    """The second half of the network's output is the log variance itself.  DDPM's code, "learned"; its Table 2.

    Arguments as in `Variance`. Returns (B, *D). Raises ValueError if the prediction has no var_frac, and on a respaced
    chain: the network learned the variances of the base's steps, which are smaller. Not `learned_range`.
    """
    if process.base is not process:
        raise ValueError(f"learned variances are those of the base's steps, got a respaced chain: {process}")
    return 2 * float32_at_least(_var_frac("learned", prediction)) - 1  # undoes `split`


def learned_range(process: GaussianDiffusion, i: Steps, prediction: Prediction, x_t: Tensor) -> Tensor:
    """var_frac log beta + (1 - var_frac) log posterior_var, clipped at i = 0.  Nichol & Dhariwal 2021, Eq. 15.

    Arguments as in `Variance`. Returns (B, *D). Raises ValueError if the prediction has no var_frac.
    At i = 0, var_frac = 1 is log beta itself, not fixedlarge.
    """
    c = process.row(i)
    small, large = spread(c.posterior_log_var_clipped, x_t), spread(c.log_betas, x_t)
    return small + _var_frac("learned_range", prediction) * (large - small)


VARIANCES: dict[str, Variance] = {
    "fixedlarge": fixedlarge,
    "fixedsmall": fixedsmall,
    "learned": learned,
    "learned_range": learned_range,
}


def variance_named(name: str) -> Variance:
    """The variance of that name: fixedlarge, fixedsmall, learned or learned_range. ValueError lists them for others."""
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


def decode(base: GaussianDiffusion, mean_type: MeanType, x_t: Tensor, t: Steps, output: Tensor) -> Prediction:
    """What a network's raw output says of x_t, with gradients.

    base: the process it was trained on. x_t: (B, *D). t: (B,). output: (B, *D), or twice the channels, see `split`.
    Not MeanType.decode: that one knows no variance.
    """
    output, var_frac = split(output, x_t)
    prediction = mean_type.decode(base, x_t, t, output)
    return Prediction(prediction.x_0, prediction.eps, var_frac)


def p_from_prediction(
    process: GaussianDiffusion, variance: Variance, prediction: Prediction, x_t: Tensor, i: Steps
) -> Gaussian:
    """p(x_{t-1} | x_t): the posterior with the estimated x_0 instead of x_0.  Ho et al. 2020, Eq. 1, 7, 11.

    process: the one that steps. prediction: of the base's step timestep_map[i]. x_t: (B, *D). i: (B,).
    Returns Gaussian with mean (B, *D) and log_var (B, 1, ...), or (B, *D) for a learned variance.
    """
    return Gaussian(process.x_prev_from_x_0(x_t, i, prediction.x_0), variance(process, i, prediction, x_t))


def p_from_output(
    base: GaussianDiffusion,
    mean_type: MeanType,
    variance: Variance,
    output: Tensor,
    x_t: Tensor,
    t: Tensor,
    *,
    clip: bool = False,
) -> Gaussian:
    """p(x_{t-1} | x_t) from a network's raw output, with gradients.  Ho et al. 2020, Eq. 1, 7, 11.

    output: (B, *D), or twice the channels. x_t: (B, *D). t: (B,), steps of the base.
    clip: clip the estimated x_0 to [-1, 1], as sampling does. Not for training: it stops the gradients.
    Raises ValueError for an output of another shape, and for a learned variance without its second half.
    """
    prediction = decode(base, mean_type, x_t, t, float32_at_least(output))
    if clip:
        prediction = prediction._replace(x_0=prediction.x_0.clamp(-1, 1))
    return p_from_prediction(base, variance, prediction, x_t, t)


def _var_frac(name: str, prediction: Prediction) -> Tensor:
    if prediction.var_frac is None:
        raise ValueError(f"{name} needs a model with twice as many output channels as x_t has; got none extra")
    return prediction.var_frac
