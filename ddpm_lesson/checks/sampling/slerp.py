"""Exercise 4.4: between two noises along an arc."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions


def _slerp(a, b, share):
    """Exercise 4.4: the point between a and b on an arc, spherical interpolation.  Song et al. 2021, Section 5.3.

    a, b: (B, *D).  share: a float in 0..1; 0 gives a, 1 gives b.  The angle is that between an image of a and its
    partner of b, each taken whole, as one vector.  Returns (B, *D).
    Not (1 - share) a + share b: halfway that has too small a norm for a noise.
    """
    images = []
    for image, other in zip(a, b, strict=True):
        x, y = image.flatten().tolist(), other.flatten().tolist()
        lengths = math.sqrt(sum(v**2 for v in x)) * math.sqrt(sum(v**2 for v in y))
        angle = math.acos(sum(u * v for u, v in zip(x, y, strict=True)) / lengths)
        first, second = (math.sin(part * angle) / math.sin(angle) for part in (1 - share, share))
        images.append([first * u + second * v for u, v in zip(x, y, strict=True)])
    return double(images).reshape(a.shape)


def _of_images(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _norms(a: Tensor, b: Tensor, axes: tuple[int, ...]) -> Tensor:
    return ((a**2).sum(axes, keepdim=True) * (b**2).sum(axes, keepdim=True)).sqrt()


def _sines(angle: Tensor, share: float) -> tuple[Tensor, Tensor]:
    return torch.sin((1 - share) * angle) / torch.sin(angle), torch.sin(share * angle) / torch.sin(angle)


def _on_an_arc(
    a: Tensor,
    b: Tensor,
    share: float,
    *,
    part=lambda share: share,
    axes=_of_images,
    lengths=_norms,
    arc=torch.acos,
    laid=lambda angle: angle,
    weights=_sines,
    ends=lambda x: x,
    finish=lambda out: out,
):
    a, b = a.double(), b.double()
    over = axes(a)
    angle = laid(arc((a * b).sum(over, keepdim=True) / lengths(a, b, over)))
    first, second = weights(angle, part(share))
    return finish(first * ends(a) + second * ends(b))


def _unit(x: Tensor) -> Tensor:
    return x / (x**2).sum(_of_images(x), keepdim=True).sqrt()


def _shorter_way(a, b, share):
    """b turned round where the angle is wide, as for rotations."""
    wide = (a.double() * b.double()).sum(_of_images(a), keepdim=True) < 0
    return _on_an_arc(a, torch.where(wide, -b.double(), b.double()), share)


def _line_as_long_as_a(a, b, share):
    line = (1 - share) * a.double() + share * b.double()
    first, whole = _norms_of(a.double(), line)
    return line * first / whole


def _by_directions(a, b, share):
    """An arc of directions, times a norm between the two."""
    x, y = a.double(), b.double()
    (first, second), axes = _norms_of(x, y), _of_images(x)
    angle = ((x * y).sum(axes, keepdim=True) / (first * second)).acos()
    weights = _sines(angle, share)
    return ((1 - share) * first + share * second) * (weights[0] * x / first + weights[1] * y / second)


def _along_a_tangent(a, b, share):
    a, b = a.double(), b.double()
    cos = (a * b).sum(_of_images(a), keepdim=True) / _norms(a, b, _of_images(a))
    return a * torch.cos(share * cos.acos()) + _unit(b - a * cos) * torch.sin(share * cos.acos())


def _norms_of(*images: Tensor) -> list[Tensor]:
    return [(x**2).sum(_of_images(x), keepdim=True).sqrt() for x in images]


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(_of_images(x), keepdim=True)


def _correlation(a, b, share):
    """The angle of images whose mean is taken off."""
    x, y = _centred(a.double()), _centred(b.double())
    cos = (x * y).sum(_of_images(a), keepdim=True) / _norms(x, y, _of_images(a))
    first, second = _sines(cos.acos(), share)
    return first * a + second * b


OVER_CHANNELS = (
    "You took an angle for each pixel, over the channels only (axis 1, which cosine_similarity takes by itself)"
)

slerp = Check(
    number="4.4",
    name="slerp",
    specification=_slerp,
    form=_on_an_arc,
    batch=("a", "b"),
    cases=tuple(
        Case(
            f"a of shape {shape}, share = {share}{', small angles' * (sign > 0 and common > 1)}"
            f"{', wide angles' * (sign < 0)}",
            (fractions(*shape), double(sign) * (fractions(*shape, start=11) + fractions(*shape) * common), share),
            coarse=shape[1] == 1,  # angles over one channel are 0 or pi, and what is divided by their sine is chance
        )
        for shape, share, sign, common in [
            ((4, 1, 8, 8), 0.25, 1, 1 / 3),
            ((4, 3, 4, 4), 0.5, 1, 1 / 3),
            ((3, 2), 0.75, -1, 1 / 3),
            ((2, 3, 2, 4, 4), 0.4, 2, 1 / 3),
            ((1, 4, 4, 4), 0.9, 2, 1 / 3),
            ((4, 4), 0.3, 1, 1 / 3),
            ((3, 2, 4, 4), 0.0, 1, 1 / 3),
            ((3, 2, 4, 4), 1.0, -1, 1 / 3),
            ((5, 24), 0.4, 1 / 32, 3),
            ((5, 24), 0.4, -1 / 32, 3),
        ]
    ),
    among="points, wide angles, share = 0 and share = 1",
    misconceptions={
        "You went along the straight line<. Halfway two independent noises then have half the variance, and the "
        "sampler has not seen such an x_T>: go along the arc.": dict(weights=lambda angle, share: (1 - share, share)),
        "Your weights are sqrt(1 - share) and sqrt(share). They keep the variance where a and b are independent; "
        "slerp takes the angle between them: sin((1 - share) angle) / sin(angle).": dict(
            weights=lambda angle, share: (math.sqrt(1 - share), math.sqrt(share))
        ),
        "You went along the straight line and scaled the variance back to 1. That supposes a right angle; slerp takes"
        " the angle between a and b: sin((1 - share) angle) / sin(angle).": dict(
            weights=lambda angle, share: [part / math.hypot(1 - share, share) for part in (1 - share, share)]
        ),
        "You went along the straight line and scaled the result to a's length. For latents of equal length this length "
        "is right, but the speed along the arc is not: sin((1 - share) angle) / sin(angle).": dict(
            instead=_line_as_long_as_a
        ),
        "You took one angle for the whole batch: the sum runs over all images. Every pair of images has its own.": dict(
            axes=lambda x: tuple(range(x.ndim))
        ),
        "You used the angle of the first pair for the whole batch. Every pair of images has its own.": dict(
            laid=lambda angle: angle[:1]
        ),
        "You took an angle for each row, over the last axis only. An image is one vector: sum over all axes but the "
        "batch's.": dict(axes=lambda x: (-1,)),
        f"{OVER_CHANNELS}. An image is one vector: flatten(1) first, or sum over all axes but the batch's.": dict(
            axes=lambda x: (1,)
        ),
        f"{OVER_CHANNELS}, and put these angles into the batch axis. An image is one vector: flatten(1) first.": dict(
            axes=lambda x: (1,), laid=lambda angle: angle.reshape(-1, *[1] * (angle.ndim - 1))
        ),
        f"{OVER_CHANNELS}, and gave these angles their missing axis at the end. An image is one vector: flatten(1) "
        "first.": dict(axes=lambda x: (1,), laid=lambda angle: angle.squeeze(1).unsqueeze(-1)),
        f"{OVER_CHANNELS}, and these angles lack an axis. An image is one vector: flatten(1) first, and give its angle "
        "the axes (B, 1, ..., 1).": dict(axes=lambda x: (1,), laid=lambda angle: angle.squeeze(1)),
        "You took an angle for each channel, over its pixels. An image is one vector: sum over all axes but the "
        "batch's.": dict(axes=lambda x: tuple(range(2, x.ndim)) or (1,)),
        "Your angles are between the images of one batch: the sum runs over the batch axis. It runs over all axes but"
        " this one.": dict(axes=lambda x: (0,)),
        "The cosine is not divided by the two norms<: a scalar product of long vectors is no cosine, and beyond 1 its"
        " arc cosine is nan>. Divide by norm(a) norm(b).": dict(lengths=lambda a, b, axes: 1.0),
        "The cosine is not divided by the two norms, and a clamp to [-1, 1] hides it. Divide by norm(a) norm(b).": dict(
            lengths=lambda a, b, axes: 1.0, arc=lambda cos: cos.clamp(-1, 1).acos()
        ),
        "You divided the cosine by the squares of both norms: a root is missing, or a norm too many.": dict(
            lengths=lambda a, b, axes: _norms(a, b, axes) ** 2
        ),
        "You divided the cosine by the square of a's norm. a and b have norms of their own: norm(a) norm(b).": dict(
            lengths=lambda a, b, axes: _norms(a, a, axes)
        ),
        "You divided the cosine by the number of coordinates, as if the images had variance 1. Divide by norm(a) "
        "norm(b).": dict(lengths=lambda a, b, axes: math.prod(a.shape[axis] for axis in axes)),
        "share and 1 - share are exchanged: share = 0 is to give a.": dict(part=lambda share: 1 - share),
        "You did not divide by sin(angle). At share = 0 the result is then no longer a.": dict(
            weights=lambda angle, share: (torch.sin((1 - share) * angle), torch.sin(share * angle))
        ),
        "Your weights are a cosine and a sine, share of a quarter turn. That is right for a right angle only: sin((1 "
        "- share) angle) / sin(angle).": dict(
            weights=lambda angle, share: (math.cos(share * math.pi / 2), math.sin(share * math.pi / 2))
        ),
        "You took the cosine for the angle: acos is missing.": dict(arc=lambda cos: cos),
        "You took asin of the cosine. The angle is its acos.": dict(arc=torch.asin),
        "Your angle is in degrees. torch.sin takes radians, as torch.acos gives them.": dict(
            laid=lambda angle: angle * 180 / math.pi
        ),
        "You took the absolute value of the cosine. Wide angles are angles too: the arc from a has to end in b.": dict(
            arc=lambda cos: cos.abs().acos()
        ),
        "You turned b round where the angle is wide. Rotations q and -q are the same, noises are not: share = 1 is to"
        " give b.": dict(instead=_shorter_way),
        "You divided a and b themselves by their norms<, so that the result has norm 1>. A noise of D numbers has a "
        "norm of about sqrt(D): only the cosine needs the norms.": dict(ends=_unit),
        "Your result is divided by its norm. A noise of D numbers has a norm of about "
        "sqrt(D): return the sum itself.": dict(finish=_unit),
        "You turned the directions of a and b, and went along a straight line between their norms. The weights belong"
        " to a and b themselves.": dict(instead=_by_directions),
        "Your a cos(share angle) + u sin(share angle), with u = b - cos(angle) a scaled to norm 1, supposes that a "
        "and b have norm 1. They do not: weigh a and b themselves with two sines.": dict(instead=_along_a_tangent),
        "You took the mean off a and b before the angle: that is a correlation. The "
        "vectors are taken as they are.": dict(instead=_correlation),
        "Your angles have shape (B,)<, and broadcasting lines that up with the last axis, the columns of an image. It"
        " runs where B happens to be the width, and is wrong there>: (B, 1, ..., 1) is needed.": dict(
            laid=lambda angle: angle.flatten()
        ),
        "Your angles have shape (B, 1)<: that is right for points, but on images it lines up with the rows>. They "
        "need one axis for each axis of a: (B, 1, ..., 1).": dict(laid=lambda angle: angle.flatten()[:, None]),
        "Your angles have shape (B, 1, 1, 1)<: that is right for images only>. Count the axes of a.": dict(
            laid=lambda angle: angle.view(-1, 1, 1, 1)
        ),
    },
)
