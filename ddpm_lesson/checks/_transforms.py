"""The right numbers, or a listed mistake's, with something done to them at the end: sign, clamp, sum, order, shape."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import ENOUGH, Evidence
from ddpm_lesson.checks._scale import times_or_plus
from ddpm_lesson.checks._values import same


class Transform(NamedTuple):
    """A change of a result, and what is said of it after "Your result"."""

    function: Callable[[Tensor], Tensor]
    words: str


def _number(x):
    return x.double() if not x.is_floating_point() else x


ELEMENTWISE = (
    Transform(torch.neg, "has the wrong sign everywhere. Look at what is subtracted from what."),
    Transform(lambda x: x.clamp(min=0), "is 0 wherever it should be negative. Something cuts it off at 0."),
    Transform(lambda x: x.clamp(max=0), "is 0 wherever it should be positive. Something cuts it off at 0."),
    Transform(lambda x: x.clamp(min=-1), "is cut off below -1. Nothing is clipped here."),
    Transform(lambda x: x.clamp(max=1), "is cut off above 1. Nothing is clipped here."),
    Transform(lambda x: x.clamp(-1, 1), "is clipped to [-1, 1]. Nothing is clipped here."),
    Transform(lambda x: x.clamp(0, 1), "is clipped to [0, 1]. Nothing is clipped here."),
    Transform(torch.abs, "has lost its sign. Something takes the absolute value, and it is not asked for."),
    Transform(torch.square, "is the square of what is asked for. Look for a power too many, or a root too few."),
    Transform(torch.sqrt, "is the root of what is asked for. Look for a root too many, or a square too few."),
    Transform(torch.reciprocal, "is upside down: 1 divided by what is asked for."),
    Transform(torch.log, "is the logarithm of what is asked for. Return the number itself."),
    Transform(torch.exp, "is exp of what is asked for. Return the logarithm."),
    Transform(lambda x: 1 - x, "is 1 minus what is asked for."),
    Transform(lambda x: x.exp().log1p(), "is log(1 + exp(...)) of what is asked for."),
    Transform(torch.sigmoid, "went through a sigmoid at the end, which is not asked for."),
    Transform(torch.tanh, "went through tanh at the end, which is not asked for."),
    Transform(torch.nn.functional.silu, "went through Swish at the end, which is not asked for."),
    Transform(lambda x: x.softmax(-1), "went through a softmax at the end, which is not asked for."),
    Transform(lambda x: x / x.sum(), "is divided by its sum. The numbers themselves are asked for."),
    Transform(lambda x: x / x.mean(), "is divided by its mean. The numbers themselves are asked for."),
    Transform(lambda x: x / x.max(), "is divided by its largest number. The numbers themselves are asked for."),
    Transform(lambda x: x / x.norm(), "is divided by its norm. The numbers themselves are asked for."),
    Transform(torch.round, "is rounded to whole numbers."),
    Transform(torch.trunc, "has lost what stands behind the decimal point. Look for an integer division or dtype."),
)
REDUCERS = {"sum": torch.Tensor.sum, "mean": torch.Tensor.mean, "largest": torch.Tensor.amax}


def transforms(originals: list[Tensor]) -> Iterator[Transform]:
    """All changes that are tried on results with these shapes."""
    yield from ELEMENTWISE
    ndims = {x.ndim for x in originals}
    axes = list(range(ndims.pop())) if len(ndims) == 1 else [0, -1]
    for name, reduce in REDUCERS.items():
        for kept in (False, True):
            yield _reduced(name, reduce, "everything, a single number", lambda x: tuple(range(x.ndim)), kept)
            yield _reduced(name, reduce, "all but the first axis", lambda x: tuple(range(1, x.ndim)), kept)
            for axis in axes:
                yield _reduced(name, reduce, f"axis {axis}", lambda x, a=axis: (a,), kept)
            if axes == [0, 1, 2, 3]:
                yield _reduced(name, reduce, "the pixels", lambda x: (2, 3), kept)
    for axis in axes:
        yield from _along(axis)
    for a, b in itertools.combinations(axes, 2):
        words = f"has its axes {a} and {b} exchanged."
        yield Transform(partial(_exchanged, a, b), words)
        words = (
            f"has the right shape, but its numbers lie as if axes {a} and {b} were exchanged. rearrange or transpose."
        )
        yield Transform(partial(_mislaid, a, b), words)


def _along(axis):
    where = f"along axis {axis}"
    yield Transform(lambda x: x.flip(axis), f"holds the right numbers in reverse order, {where}.")
    yield Transform(lambda x: x.roll(1, axis), f"holds the right numbers one place too late, {where}.")
    yield Transform(lambda x: x.roll(-1, axis), f"holds the right numbers one place too early, {where}.")
    yield Transform(lambda x: x.cumsum(axis), f"is the running sum of what is asked for, {where}.")
    yield Transform(lambda x: x.cumprod(axis), f"is the running product of what is asked for, {where}.")
    yield Transform(lambda x: x.diff(dim=axis), f"holds differences of neighbours, {where}.")
    yield Transform(lambda x: x.narrow(axis, 0, x.shape[axis] - 1), f"lacks the last entry of axis {axis}.")
    yield Transform(lambda x: x.narrow(axis, 1, x.shape[axis] - 1), f"lacks the first entry of axis {axis}.")
    yield Transform(lambda x: x.sort(axis).values, f"holds the right numbers, but sorted, {where}.")
    words = f"holds the right numbers, but sorted from the largest, {where}."
    yield Transform(lambda x: x.sort(axis, descending=True).values, words)


def _reduced(name, reduce, words, axes, kept):
    def function(x):
        return reduce(_number(x), over, keepdim=kept) if (over := axes(x)) else x

    return Transform(function, f"is the {name} over {words}. Each entry's own number is asked for.")


def changed(evidence: Evidence, originals: list[Tensor | None], scaled: bool = True) -> str:
    """What is said after "Your result", if it is these results with a change; "" if no change makes it so.

    scaled: whether factors and constants are tried.
    """
    if words := _another_shape(evidence, originals):
        return words
    given = [x for x in originals if x is not None]
    for transform in transforms(given) if given else ():
        try:
            others = [x if x is None else transform.function(_number(x)) for x in originals]
        except (RuntimeError, IndexError):
            continue
        infinite = torch.isneginf if transform.function is torch.log else None  # where a clamp came first
        if evidence.is_like(others, ignoring=infinite):
            return transform.words
    for kind in (_cut_off, times_or_plus, _longer, _another_order) if scaled else (_longer, _another_order):
        if words := kind(evidence, originals):
            return words
    return ""


def _pairs(evidence, originals):
    """What was got beside the original, for each input; nothing if some original is missing."""
    found = [(g, x) for g, x in zip(evidence.got, originals, strict=True) if g is not None]
    return [] if any(x is None for _, x in found) else found


def _cut_off(evidence, originals):
    """No number passes a bound that is the same for all inputs; all others are right."""
    got = [g.flatten() for g in evidence.got if g is not None]
    whole = torch.cat(got) if got else torch.zeros(0)
    if whole.numel() < ENOUGH or not whole.is_floating_point() or not whole.isfinite().all():
        return ""
    for bound, clamp, words in ((whole.max(), "max", "above"), (whole.min(), "min", "below")):
        cut = (whole == bound).sum()
        others = [x if x is None else _number(x).clamp(**{clamp: bound.item()}) for x in originals]
        if 1 < cut <= len(whole) - 2 * ENOUGH and evidence.is_like(others):
            return f"is cut off {words} {bound.item():.4g}. Look for a clamp, a minimum or a maximum."
    return ""


def _longer(evidence, originals):
    """A list or table with right numbers, and some too many or too few at one end."""
    found = _pairs(evidence, originals)
    gaps = {len(g) - len(x) for g, x in found if g.ndim == x.ndim == 1}
    if not found or len(gaps) != 1 or 0 in gaps or any(g.ndim != 1 or x.ndim != 1 for g, x in found):
        return ""
    gap = gaps.pop()
    many = f"{abs(gap)} {'entry' if abs(gap) == 1 else 'entries'} too {'many' if gap > 0 else 'few'}"
    shorter = [(g, x, min(len(g), len(x))) for g, x in found]
    if all(same(g[:n], x[:n]) for g, x, n in shorter):
        return f"has {many} at its end. The others are right."
    if all(same(g[len(g) - n :], x[len(x) - n :]) for g, x, n in shorter):
        return f"has {many} at its beginning. The others are right."
    return ""


def _another_shape(evidence, originals):
    found = _pairs(evidence, originals)
    odd = [(g, x) for g, x in found if g.shape != x.shape]
    if not odd or not all(g.numel() == x.numel() and same(g.flatten(), x.flatten()) for g, x in found):
        wide = [_broadcast(g, x) for g, x in found]
        if odd and all(wide):
            return f"repeats the right numbers: shape {tuple(odd[0][0].shape)} instead of {tuple(odd[0][1].shape)}."
        return ""
    g, x = odd[0]
    return (
        f"holds the right numbers in the right order, in the wrong shape: {tuple(g.shape)} instead of {tuple(x.shape)}."
    )


def _broadcast(got, original):
    try:
        return same(got, original.expand(got.shape))
    except RuntimeError:
        return False


def _another_order(evidence, originals):
    found = _pairs(evidence, originals)
    if not found or not any(len(x.unique()) > 2 for _, x in found):
        return ""
    if all(g.shape == x.shape and same(g.flatten().sort().values, x.flatten().sort().values) for g, x in found):
        return "holds the right numbers in the wrong order. Look at what is reshaped, transposed or looked up."
    return ""


def _exchanged(a: int, b: int, x: Tensor) -> Tensor:
    return x.transpose(a, b)


def _mislaid(a: int, b: int, x: Tensor) -> Tensor:
    return x.transpose(a, b).reshape(x.shape)
