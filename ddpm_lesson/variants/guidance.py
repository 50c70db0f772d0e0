"""Guidance without a classifier: samples that look more like their class, at the price of variety."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson._tensors import float32_at_least
from ddpm_lesson.coefficients import Steps
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.predictions import MeanType, Prediction, epsilon
from ddpm_lesson.process import GaussianDiffusion, Noised

Combine = Callable[[Tensor, Tensor], Tensor]  # (output with the label, output without it) -> guided output, (B, *D)


def classifier_free(cond: Denoiser, uncond: Denoiser, scale: float) -> Denoiser:
    """uncond + scale (cond - uncond), for x_0 and eps.  Ho & Salimans 2022 (arXiv 2207.12598), Eq. 6.

    cond: a denoiser that is told the label. uncond: one that is not. scale: 0 is uncond, 1 is cond, more than 1 leads
    past it: the score of p(x_t) p(y | x_t)^scale. The variance is that of cond.
    Clip the result, `clipped(classifier_free(...), base)`, not what goes in: past 1, the mixture leaves [-1, 1].
    Not the paper's w: scale = 1 + w. Not a sampler of p(x_0) p(y | x_0)^scale either, unless scale is 0 or 1.
    """
    combine = extrapolated(scale)

    def denoise(x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        with_label, without = cond(x_t, t, prev), uncond(x_t, t, prev)
        x_0, eps = combine(with_label.x_0, without.x_0), combine(with_label.eps, without.eps)
        return Prediction(x_0, eps, with_label.var_frac)

    return denoise


def guided(
    cond: Denoiser, uncond: Denoiser, combine: Combine, base: GaussianDiffusion, mean_type: MeanType = epsilon
) -> Denoiser:
    """Guidance by any rule that makes one output of two: `combine` acts on what a network of this MeanType predicts.

    For the straight line `extrapolated` every MeanType gives `classifier_free`; `rescaled` and `orthogonal` differ
    between them. lucidrains applies both to the network's output, epsilon as a rule; Lin et al. 2023 rescale v.
    The variance is that of cond. What the MeanType cannot convert raises: epsilon's x_0 a ValueError at alphas_bar = 0.
    """

    def denoise(x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        with_label, without = cond(x_t, t, prev), uncond(x_t, t, prev)
        at = t if isinstance(t, Tensor) else torch.full(x_t.shape[:1], t, device=x_t.device)
        outputs = [mean_type.target(base, Noised(told.x_0, at, told.eps, x_t)) for told in (with_label, without)]
        return mean_type.decode(base, x_t, t, combine(*outputs))._replace(var_frac=with_label.var_frac)

    return denoise


def extrapolated(scale: float) -> Combine:
    """The straight line from the output without the label (scale 0) through the one with it (1), and past it."""
    return lambda cond, uncond: uncond + scale * (cond - uncond)


def rescaled(scale: float, phi: float = 0.7) -> Combine:
    """`extrapolated`, brought back to the standard deviation of the output with the label.  Lin et al. 2023, Sec. 3.4.

    Each image's own standard deviation, over all of its dimensions. phi in 0..1: 0 is plain guidance, 1 rescales in
    full. An output without any spread, such as a single number, stays. Raises ValueError for another phi.
    """
    if not 0 <= phi <= 1:
        raise ValueError(f"phi must lie in 0..1, got {phi}")

    def combine(cond: Tensor, uncond: Tensor) -> Tensor:
        plain = extrapolated(scale)(cond, uncond)
        wanted, got = (float32_at_least(x).flatten(1).std(1, correction=0) for x in (cond, plain))
        flat = plain.flatten(1)
        ratio = torch.where(flat.amax(1) > flat.amin(1), wanted / got, 1.0)  # got may be rounding alone
        factor = (phi * ratio + (1 - phi)).view(-1, *[1] * (plain.ndim - 1))
        return (plain * factor).to(plain.dtype)

    return combine


def orthogonal(scale: float, keep: float = 0.0) -> Combine:
    """Guidance less its part along the output with the label, of which `keep` stays.  Sadat et al. 2024 (2410.02416).

    On photographs the part along it mainly strengthens the contrast. keep = 1 is `extrapolated`. The paper projects in
    x_0, lucidrains in the network's output: `guided`'s mean_type says which. The paper's bound on the length of the
    update and its momentum are not part of this. An output of zeros has no direction: all of the update stays.
    """

    def combine(cond: Tensor, uncond: Tensor) -> Tensor:
        update, along = (float32_at_least(x).flatten(1) for x in (cond - uncond, cond))
        direction = torch.nn.functional.normalize(along, dim=1)
        parallel = (update * direction).sum(1, keepdim=True) * direction
        kept = (update + (keep - 1) * parallel).view_as(cond)
        return (cond + (scale - 1) * kept).to(cond.dtype)

    return combine


def cfg_plus_plus(cond: Denoiser, uncond: Denoiser, scale: float) -> Denoiser:
    """x_0 of `classifier_free`, eps of the denoiser without the label.  Chung et al. 2024 (arXiv 2406.08070).

    For `ddim`: the step goes towards the guided image and adds the noise that belongs to no class, so that the chain
    stays where noisy images are. scale in 0..1, raises ValueError otherwise. Here x_0 and eps do not make x_t: a
    sampler that derives one from the other undoes it, and so does `clipped` around it: clip `cond` and `uncond`.
    """
    if not 0 <= scale <= 1:
        raise ValueError(f"the scale of CFG++ must lie in 0..1, got {scale}")
    combine = extrapolated(scale)

    def denoise(x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        with_label, without = cond(x_t, t, prev), uncond(x_t, t, prev)
        return Prediction(combine(with_label.x_0, without.x_0), without.eps, with_label.var_frac)

    return denoise


def in_interval(guided: Denoiser, plain: Denoiser, low: int, high: int) -> Denoiser:
    """`guided` at the base's steps low..high, `plain` at all others.  Kynkaanniemi et al. 2024 (arXiv 2404.07724).

    At high noise guidance costs variety, at low noise it hardly matters: in between it helps, and `plain` asks the
    network once. t: an int, as samplers give it. Raises ValueError if low exceeds high, TypeError for a t of (B,).
    """
    if low > high:
        raise ValueError(f"expected low <= high, got {low} and {high}")

    def denoise(x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        if isinstance(t, Tensor):
            raise TypeError(f"t must be an int, one step for the whole batch, got a tensor of shape {tuple(t.shape)}")
        return (guided if low <= t <= high else plain)(x_t, t, prev)

    return denoise
