"""Exercise 5.11: strong guidance without too strong a contrast."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions


def _rescaled_eps(eps_cond, eps_guided, phi):
    """Exercise 5.11: the guided output with the standard deviation of that with the label.  Lin et al. 2023, Eq. 15-16.

    eps_cond, eps_guided: (B, *D).  phi: float in 0..1.  Returns (B, *D): phi * rescaled + (1 - phi) * eps_guided, where
    rescaled is eps_guided times std(eps_cond) / std(eps_guided); each image has its own std, over all of D.
    Not a standardisation: no mean is taken off.
    """
    images = []
    for cond, guided in zip(eps_cond, eps_guided, strict=True):
        stds = []
        for image in (cond, guided):
            pixels = image.flatten().tolist()
            mean = sum(pixels) / len(pixels)
            stds.append((sum((pixel - mean) ** 2 for pixel in pixels) / len(pixels)) ** 0.5)
        images.append([phi * pixel * stds[0] / stds[1] + (1 - phi) * pixel for pixel in guided.flatten().tolist()])
    return double(images).reshape(eps_guided.shape)


def _all_of_D(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _std(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.std(axes, correction=0, keepdim=True)


def _rescaled(
    eps_cond: Tensor,
    eps_guided: Tensor,
    phi: float,
    *,
    axes=_all_of_D,
    size: Callable = _std,
    ratio=lambda of_cond, of_guided: of_cond / of_guided,
    laid=lambda ratio: ratio,
    source=lambda cond, guided: guided,
    mix=lambda new, old, phi: phi * new + (1 - phi) * old,
) -> Tensor:
    cond, guided = eps_cond.double(), eps_guided.double()
    factor = laid(ratio(size(cond, axes(cond)), size(guided, axes(guided))))
    return mix(source(cond, guided) * factor, guided, phi)


def _norm(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return (x**2).sum(axes, keepdim=True).sqrt()


def _standardised(eps_cond: Tensor, eps_guided: Tensor, phi: float, back: bool) -> Tensor:
    cond, guided = eps_cond.double(), eps_guided.double()
    parts = [(x.mean(_all_of_D(x), keepdim=True), _std(x, _all_of_D(x))) for x in (cond, guided)]
    new = (guided - parts[1][0]) / parts[1][1] * parts[0][1] + back * parts[1][0]
    return phi * new + (1 - phi) * guided


def _to_mean_of_cond(eps_cond: Tensor, eps_guided: Tensor, phi: float) -> Tensor:
    mean = eps_cond.double().mean(_all_of_D(eps_cond), keepdim=True)
    return _standardised(eps_cond, eps_guided, phi, False) + phi * mean


def _contrasts(*shape: int) -> Tensor:
    """Images of different standard deviations."""
    factors = torch.tensor([1.0, 0.5, 2.0, 0.75], dtype=torch.float32)[: shape[0]]
    return factors.reshape(-1, *[1] * (len(shape) - 1)) * fractions(*shape)


rescaled_eps = Check(
    number="5.11",
    name="rescaled_eps",
    specification=_rescaled_eps,
    form=_rescaled,
    batch=("eps_cond", "eps_guided"),
    cases=tuple(
        Case(
            f"eps of shape {shape}, phi = {phi}",
            (
                _contrasts(*shape) + 0.25,
                2 * fractions(*shape, start=11) - 0.125,
                phi,
            ),
        )
        for shape, phi in [
            ((4, 1, 8, 8), 0.75),
            ((3, 4), 1.0),
            ((4, 3, 4, 4), 1.0),
            ((2, 3, 2, 4, 4), 0.25),
            ((1, 3, 4, 4), 0.5),
            ((2, 5), 0.0),
        ]
    ),
    among="B = 1, points, phi = 0 and phi = 1",
    misconceptions={
        "You took the standard deviation over the whole batch. Each image has its own: over all axes but the "
        "batch's.": dict(axes=lambda x: tuple(range(x.ndim))),
        "You took a standard deviation for each channel, over its pixels. An image has one, over all of D.": dict(
            axes=lambda x: tuple(range(2, x.ndim)) or (1,)
        ),
        "You took a standard deviation over the last two axes, one for each channel of an image. It has one, over "
        "all of D.": dict(axes=lambda x: (-2, -1)),
        "You took a standard deviation for each row, over the last axis. An image has one, over all of D.": dict(
            axes=lambda x: (-1,)
        ),
        "You took a standard deviation for each pixel, over the channels (axis 1). An image has one, over all of "
        "D.": dict(axes=lambda x: (1,)),
        "You took the standard deviation over the batch, at each pixel. It is that of one image, over all of D.": dict(
            axes=lambda x: (0,)
        ),
        "Your ratio is upside down<, and the contrast grows>: std(eps_cond) / std(eps_guided).": dict(
            ratio=lambda of_cond, of_guided: of_guided / of_cond
        ),
        "You multiplied by std(eps_cond) and did not divide by std(eps_guided).": dict(
            ratio=lambda of_cond, of_guided: of_cond
        ),
        "You divided by std(eps_guided) and did not multiply by std(eps_cond).": dict(
            ratio=lambda of_cond, of_guided: 1 / of_guided
        ),
        "You multiplied by both standard deviations. Divide by that of eps_guided.": dict(
            ratio=lambda of_cond, of_guided: of_cond * of_guided
        ),
        "You took the ratio of variances. It is that of standard deviations, their roots.": dict(
            ratio=lambda of_cond, of_guided: (of_cond / of_guided) ** 2
        ),
        "You took the ratio of norms, which hold the mean, too. A standard deviation is taken around it.": dict(
            size=_norm
        ),
        "You took the ratio of the largest numbers. It is that of standard deviations.": dict(
            size=lambda x, axes: x.abs().amax(axes, keepdim=True)
        ),
        "You rescaled eps_cond. It is eps_guided that gets the standard deviation of eps_cond.": dict(
            source=lambda cond, guided: cond
        ),
        "You exchanged phi and 1 - phi: phi = 0 is plain guidance, 1 rescales in full.": dict(
            mix=lambda new, old, phi: (1 - phi) * new + phi * old
        ),
        "phi has no effect: you always rescale in full.": dict(mix=lambda new, old, phi: new),
        "phi multiplies the rescaled part only, and eps_guided is added in full: its weight is 1 - phi.": dict(
            mix=lambda new, old, phi: phi * new + old
        ),
        "phi mixes with eps_guided, not with eps_cond: (1 - phi) * eps_guided.": dict(
            instead=lambda cond, guided, phi: phi * _rescaled(cond, guided, 1.0) + (1 - phi) * cond.double()
        ),
        "The part with 1 - phi is missing: phi * rescaled + (1 - phi) * eps_guided.": dict(
            mix=lambda new, old, phi: phi * new
        ),
        "You raised the ratio to the power phi. Eq. 16 mixes linearly: phi * rescaled + (1 - phi) * eps_guided.": dict(
            instead=lambda cond, guided, phi: _rescaled(
                cond, guided, 1.0, ratio=lambda of_cond, of_guided: (of_cond / of_guided) ** phi
            )
        ),
        "You took off the mean of eps_guided. It is multiplied as it is, mean and all.": dict(
            instead=lambda cond, guided, phi: _standardised(cond, guided, phi, False)
        ),
        "You took off the mean of eps_guided and put it back unscaled. It is multiplied as it is, mean and all.": dict(
            instead=lambda cond, guided, phi: _standardised(cond, guided, phi, True)
        ),
        "You gave it the mean of eps_cond as well. Only the standard deviation is brought back.": dict(
            instead=_to_mean_of_cond
        ),
        "You used the first image's ratio for the whole batch. Every image has its own.": dict(
            laid=lambda ratio: ratio[:1]
        ),
        "Your standard deviations have shape (B,)<, and broadcasting lines that up with the last axis, the columns of "
        "an image. It runs where B happens to be the width, and is wrong there>: (B, 1, ..., 1) is needed.": dict(
            laid=lambda ratio: ratio.flatten()
        ),
        "Your standard deviations have shape (B, 1)<: that is right for points, but on images it lines up with the "
        "rows>. They need one axis for each axis of eps: (B, 1, ..., 1).": dict(
            laid=lambda ratio: ratio.flatten()[:, None]
        ),
        "Your standard deviations have shape (B, 1, 1, 1)<: that is right for images only>. Count the axes of "
        "eps.": dict(laid=lambda ratio: ratio.view(-1, 1, 1, 1)),
    },
)
