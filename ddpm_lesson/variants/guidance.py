"""Guidance: samples that look more like their class, at the price of variety."""

from torch import Tensor

from ddpm_lesson.coefficients import Steps
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.predictions import Prediction


def classifier_free(cond: Denoiser, uncond: Denoiser, scale: float) -> Denoiser:
    """uncond + scale (cond - uncond), for x_0 and eps.  Ho & Salimans 2022 (arXiv 2207.12598), Eq. 6.

    cond: a denoiser that is told the label. uncond: one that is not. scale: 0 is uncond, 1 is cond, more than 1 leads
    past it: the score of p(x_t) p(y | x_t)^scale. The variance is that of cond.
    Clip the result, `clipped(classifier_free(...), base)`, not what goes in: past 1, the mixture leaves [-1, 1].
    Not the paper's w: scale = 1 + w.
    """

    def denoise(x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        with_label, without = cond(x_t, t, prev), uncond(x_t, t, prev)
        x_0 = without.x_0 + scale * (with_label.x_0 - without.x_0)
        eps = without.eps + scale * (with_label.eps - without.eps)
        return Prediction(x_0, eps, with_label.var_frac)

    return denoise
