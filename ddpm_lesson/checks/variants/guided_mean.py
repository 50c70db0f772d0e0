"""Exercise 5.4: guidance by a classifier, for samplers that draw around a mean."""

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions
from ddpm_lesson.checks.variants._gradient_ways import NEEDS_GRADIENTS, classifier, gradient, of_gradient, with_traces


def _guided_mean(mean, var, x_t, t, y, classifier, scale):
    """Exercise 5.4: the mean of p(x_{t-1} | x_t, y), to first order.  Dhariwal & Nichol 2021, Algorithm 1.

    mean: of p(x_{t-1} | x_t), (B, *D).  var: its variance, (B, 1, ..., 1).  x_t: (B, *D).  t, y: (B,) int64.
    classifier: called as classifier(x_t, t), returns log p(y | x_t), (B, number of classes).  scale: float.
    Returns (B, *D): mean + scale * var * gradient in x_t of each image's own log p(y | x_t).
    x_t stays as it is, and the result needs no gradient.  Not the mean over the batch: that divides by B.
    """
    images = []
    for k in range(len(x_t)):
        x = x_t[k : k + 1].clone().requires_grad_()
        log_p = classifier(x, t[k : k + 1])[0, y[k]]
        (grad,) = torch.autograd.grad(log_p, x)
        pixels = zip(mean[k].flatten().tolist(), grad.flatten().tolist(), strict=True)
        images.append([m + scale * var[k].item() * g for m, g in pixels])
    return double(images).reshape(mean.shape)


def _moved(
    mean: Tensor,
    var: Tensor,
    x_t: Tensor,
    t: Tensor,
    y: Tensor,
    classifier,
    scale: float,
    *,
    width=lambda var: var,
    strength=lambda scale: scale,
    add=lambda mean, strength, push: mean + strength * push,
    **of_the_gradient,
) -> Tensor:
    push = width(var.double()) * gradient(x_t, t, y, classifier, mean, **of_the_gradient)
    return add(mean.double(), strength(scale), push)


def _terms(mean, var, x_t, t, y, classifier, scale):
    grad = gradient(x_t, t, y, classifier, mean).double()
    return {
        "mean": mean,
        "scale * var * gradient": scale * var * grad,
        "var * gradient": var * grad,
        "scale * gradient": scale * grad,
        "scale * sqrt(var) * gradient": scale * var.sqrt() * grad,
        "x_t": x_t,
    }


def _with(width):
    """A row's slot."""
    return {"width": width}


VARIANCES = [0.25, 0.0625, 0.5, 0.01]


guided_mean = Check(
    number="5.4",
    name="guided_mean",
    specification=_guided_mean,
    form=_moved,
    grad_mode=NEEDS_GRADIENTS,
    script=with_traces(2),
    batch=("mean", "var", "x_t", "t", "y"),
    terms=_terms,
    cases=tuple(
        Case(
            f"x_t of shape {shape}, t = {t}, y = {y}, scale = {scale}",
            (
                fractions(*shape, start=11),
                torch.tensor(VARIANCES[: len(t)], dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1)),
                2 * fractions(*shape),
                torch.tensor(t),
                torch.tensor(y),
                classifier,
                scale,
            ),
        )
        for shape, t, y, scale in [
            ((4, 1, 8, 8), [0, 3, 3, 9], [2, 0, 1, 0], 1.0),
            ((3, 2), [9, 1, 0], [1, 1, 2], 4.0),
            ((4, 3, 4, 4), [9, 1, 5, 2], [0, 1, 2, 1], 0.5),
            ((2, 3, 2, 4, 4), [4, 9], [2, 0], 10.0),
            ((1, 5), [7], [1], 2.0),
            ((3, 4), [5, 2, 8], [0, 2, 1], 0.0),
        ]
    ),
    among="B = 1, scale = 0, points and a video",
    misconceptions={
        "You scaled the gradient by the standard deviation. It is the variance by which the mean moves.": _with(
            torch.sqrt
        ),
        "You scaled the gradient by the square of var. var is sigma^2 already.": _with(torch.square),
        "You scaled the gradient by log var. It is the variance itself, which is never negative.": _with(torch.log),
        "You took var for a log variance: exp is too many. It is the variance itself.": _with(torch.exp),
        "You divided the gradient by var. A wide step moves further: multiply.": _with(torch.reciprocal),
        "You forgot var. A step of variance var moves its mean by var times the gradient.": _with(torch.ones_like),
        "You used the first image's var for the whole batch. Every image has its own.": _with(lambda var: var[:1]),
        "You forgot the scale.": dict(strength=lambda scale: 1.0),
        "You squared the scale. It stands once before var.": dict(strength=lambda scale: scale**2),
        "Your scale is 1 + scale. Here 0 is no guidance: scale * var * gradient.": dict(
            strength=lambda scale: 1 + scale
        ),
        "You subtracted the gradient, or guided by a loss such as -log p: images move away from y. Add it.": dict(
            strength=lambda scale: -scale
        ),
        "You return the push alone. It is added to mean.": dict(add=lambda mean, strength, push: strength * push),
        "Your scale multiplies mean, too. Brackets: mean + scale * (...).": dict(
            add=lambda mean, strength, push: strength * (mean + push)
        ),
        **of_gradient("mean"),
    },
)
