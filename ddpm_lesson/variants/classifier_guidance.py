"""Guidance by the gradient of a classifier of noisy images: Bayes' rule for scores."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.coefficients import Steps, spread
from ddpm_lesson.denoisers import Denoiser
from ddpm_lesson.predictions import Prediction
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import Reverse, Step

Classifier = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, *D), t (B,)) -> (B, Y): logits, or log-probabilities


def log_prob_gradient(classifier: Classifier, x_t: Tensor, t: Steps, y: Tensor) -> Tensor:
    """Gradient in x_t of log p(y | x_t), each image's own, (B, *D).  Dhariwal & Nichol 2021, Section 4.

    classifier: in eval mode, of noisy images. t: steps of the base. y: (B,) int64 labels.
    The log-probabilities are summed over the batch: an image's gradient then does not depend on how many others there
    are. Their mean would divide it by B. Raises ValueError if y is not (B,).
    """
    if y.shape != x_t.shape[:1]:
        raise ValueError(f"y must be ({len(x_t)},), a label for each image, got {tuple(y.shape)}")
    at = t if isinstance(t, Tensor) else torch.full_like(y, t)
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        log_p = torch.log_softmax(classifier(x, at), 1).gather(1, y.view(-1, 1))
        return torch.autograd.grad(log_p.sum(), x)[0]


def mean_shifted(
    process: GaussianDiffusion, p: Reverse, classifier: Classifier, y: Tensor, scale: float = 1.0
) -> Reverse:
    """p with its mean moved by scale * variance * gradient of log p(y | x_t).  Dhariwal & Nichol 2021, Algorithm 1.

    p: the reverse step of `process`, which may be respaced; the classifier is asked at the base's step. y: (B,).
    Draw with `ancestral`. Right to first order in the size of the step: with few steps `classifier_guided` is better.
    """

    def shifted(x_t: Tensor, i: int, prev: Prediction | None = None) -> Step:
        step = p(x_t, i, prev)
        gradient = log_prob_gradient(classifier, x_t, process.row(i).timestep_map, y)
        mean = step.p.mean + scale * step.p.log_var.exp() * gradient
        return Step(step.p._replace(mean=mean.to(step.p.mean.dtype)), step.prediction)

    return shifted


def classifier_guided(
    denoise: Denoiser, base: GaussianDiffusion, classifier: Classifier, y: Tensor, scale: float = 1.0
) -> Denoiser:
    """eps - scale sqrt(1 - alphas_bar) grad log p(y | x_t), and the x_0 that follows.  Dhariwal & Nichol 2021, Alg. 2.

    The same in scores: that of x_t plus scale times that of the classifier, Bayes' rule. With exact denoiser and
    classifier and scale 1 it is the denoiser of class y. y: (B,). For every sampler; clip it afterwards.
    Raises ValueError where alphas_bar = 0, as `x_0_from_eps` does: the factor of the gradient in x_0 is infinite there.
    `classifier_free` on a network that predicts v or x_0 can guide that step, too.
    """

    def guided(x_t: Tensor, t: Steps, prev: Prediction | None = None) -> Prediction:
        prediction = denoise(x_t, t, prev)
        std = spread(base.row(t).sqrt_one_minus_alphas_bar, x_t)
        gradient = log_prob_gradient(classifier, x_t, t, y)
        eps = (prediction.eps - scale * std * gradient).to(prediction.eps.dtype)
        return Prediction(base.x_0_from_eps(x_t, t, eps), eps, prediction.var_frac)

    return guided
