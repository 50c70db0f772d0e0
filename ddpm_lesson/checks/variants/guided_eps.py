"""Exercise 5.5: guidance by a classifier, for samplers that take eps."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, at, double, fractions
from ddpm_lesson.checks._rows import looked_up
from ddpm_lesson.checks.variants._gradient_ways import NEEDS_GRADIENTS, classifier, gradient, of_gradient, with_traces


def _guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    """Exercise 5.5: the eps whose score is that of p(x_t) p(y | x_t)^scale.  Dhariwal & Nichol 2021, Algorithm 2.

    eps, x_t: (B, *D).  t, y: (B,) int64.  classifier: called as classifier(x_t, t), returns log p(y | x_t), (B, number
    of classes).  scale: float.  alphas_bar: (T,) float64.
    Returns (B, *D): eps - scale sqrt(1 - alpha_bar_t) times the gradient in x_t of each image's own log p(y | x_t).
    x_t stays as it is, and the result needs no gradient.  The score is -eps / sqrt(1 - alpha_bar_t): hence minus.
    """
    images = []
    for k in range(len(x_t)):
        x = x_t[k : k + 1].clone().requires_grad_()
        log_p = classifier(x, t[k : k + 1])[0, y[k]]
        (grad,) = torch.autograd.grad(log_p, x)
        std = math.sqrt(1 - alphas_bar[t[k]].item())
        pixels = zip(eps[k].flatten().tolist(), grad.flatten().tolist(), strict=True)
        images.append([e - scale * std * g for e, g in pixels])
    return double(images).reshape(eps.shape)


def _moved(
    eps: Tensor,
    x_t: Tensor,
    t: Tensor,
    y: Tensor,
    classifier,
    scale: float,
    alphas_bar: Tensor,
    *,
    table=lambda alphas_bar: alphas_bar,
    look_up=at,
    width=lambda a_bar: (1 - a_bar).sqrt(),
    strength=lambda scale: scale,
    take=lambda eps, strength, push: eps - strength * push,
    **of_the_gradient,
) -> Tensor:
    a_bar = look_up(table(alphas_bar), t, x_t)
    push = width(a_bar) * gradient(x_t, t, y, classifier, eps, **of_the_gradient)
    return take(eps.double(), strength(scale), push)


def _terms(eps, x_t, t, y, classifier, scale, alphas_bar):
    grad, a_bar = gradient(x_t, t, y, classifier, eps).double(), at(alphas_bar, t, x_t)
    return {
        "eps": eps,
        "scale * sqrt(1 - alpha_bar) * gradient": scale * (1 - a_bar).sqrt() * grad,
        "sqrt(1 - alpha_bar) * gradient": (1 - a_bar).sqrt() * grad,
        "scale * gradient": scale * grad,
        "x_t": x_t,
    }


def _with(width):
    """A row's slot."""
    return {"width": width}


guided_eps = Check(
    number="5.5",
    name="guided_eps",
    specification=_guided_eps,
    form=_moved,
    grad_mode=NEEDS_GRADIENTS,
    script=with_traces(1),
    batch=("eps", "x_t", "t", "y"),
    terms=_terms,
    cases=tuple(
        Case(
            f"x_t of shape {shape}, t = {t}, y = {y}, scale = {scale}",
            (
                fractions(*shape, start=11),
                2 * fractions(*shape),
                torch.tensor(t),
                torch.tensor(y),
                classifier,
                scale,
                double(ALPHAS_BAR),
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
    among="B = 1, scale = 0, t = 0, points and a video",
    misconceptions={
        "You scaled the gradient by 1 - alpha_bar: that is a variance. From score to eps leads its root.": _with(
            lambda a_bar: 1 - a_bar
        ),
        "You scaled the gradient by sqrt(alpha_bar), the share of the image. eps is the score times "
        "-sqrt(1 - alpha_bar).": _with(torch.sqrt),
        "You scaled the gradient by alpha_bar. eps is the score times -sqrt(1 - alpha_bar).": _with(
            lambda a_bar: a_bar
        ),
        "You divided the gradient by sqrt(1 - alpha_bar). That leads from eps to the score; this is the way "
        "back: multiply.": _with(lambda a_bar: (1 - a_bar).rsqrt()),
        "You divided by sqrt(alpha_bar) as well, as on the way to x_0. eps stays in x_t's units: multiply by "
        "sqrt(1 - alpha_bar) only.": _with(lambda a_bar: ((1 - a_bar) / a_bar).sqrt()),
        "You forgot sqrt(1 - alpha_bar): the gradient is a score, and eps is not.": _with(torch.ones_like),
        "You forgot the scale.": dict(strength=lambda scale: 1.0),
        "You squared the scale. It stands once before the gradient.": dict(strength=lambda scale: scale**2),
        "Your scale is 1 + scale. Here 0 is no guidance.": dict(strength=lambda scale: 1 + scale),
        "You added the gradient. eps points away from the image, against the score: subtract.": dict(
            strength=lambda scale: -scale
        ),
        "You return the push alone. It is subtracted from eps.": dict(take=lambda eps, strength, push: strength * push),
        "Your scale multiplies eps, too. Brackets: eps - scale * (...).": dict(
            take=lambda eps, strength, push: strength * (eps - push)
        ),
        **of_gradient("eps"),
        **looked_up("You took alpha_bar_prev, the table one step late. x_t holds the noise of all steps up to t."),
    },
)
