"""The right numbers, or a listed mistake's, with something done to them at the end: sign, clamp, sum, order, shape."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import ENOUGH, Evidence
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
    for kind in (_cut_off, _scaled, _longer, _another_order) if scaled else (_longer, _another_order):
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


def _scaled(evidence, originals):
    """A constant factor, or one that is a size of the input; a constant that is added."""
    found = [(i, g, x) for i, (g, x) in enumerate(zip(evidence.got, originals, strict=True)) if g is not None]
    if not found or any(x is None or g.shape != x.shape for _, g, x in found):
        return ""
    factors, numbers = {}, 0
    for i, g, x in found:
        g, x = g.double().flatten(), x.double().flatten()
        large = x.isfinite() & (x.abs() > 1e-4 * x.nan_to_num(0, 0, 0).abs().max())
        ratio = (g / x)[large]
        still = torch.isclose(
            g[~large], x[~large] * (ratio.median() if len(ratio) else 1), rtol=1e-3, atol=1e-5, equal_nan=True
        )
        if not still.all() or not torch.allclose(ratio, ratio[:1], rtol=2e-4, atol=0):
            return _shifted(found)
        if len(ratio):
            factors[i] = ratio.median().item()
            numbers += ratio.numel()
    if not factors or numbers < ENOUGH or any(factor == 0 or not math.isfinite(factor) for factor in factors.values()):
        return ""
    values = list(factors.values())
    if max(values) - min(values) <= 2e-4 * abs(values[0]) and abs(values[0] - 1) < 1e-3:
        return ""
    if max(values) - min(values) <= 2e-5 * abs(values[0]):
        return f"is {values[0]:.4g} times what is asked for. Look for a factor."
    for words, sizes in _sizes(evidence).items():
        for power, start in ((1, "is the right one times"), (-1, "is the right one divided by")):
            for root, name in ((1, words), (0.5, f"the root of {words}")):
                if all(math.isclose(f, sizes[i] ** (power * root), rel_tol=2e-5) for i, f in factors.items()):
                    return f"{start} {name}."
    return ""


def _shifted(found):
    gaps = torch.cat([(g.double() - x.double()).flatten() for _, g, x in found])
    if len(gaps) >= ENOUGH and gaps.isfinite().all() and (gaps - gaps[0]).abs().max() < 1e-5 * gaps[0].abs():
        return f"is {gaps[0].item():+.4g} off everywhere. Look for a constant that is missing or too many."
    return ""


def _sizes(evidence):
    """Sizes of the inputs, by the words for them: for each case its value."""
    rows: dict[str, list[int]] = {}
    for case in evidence.check.cases:
        row = {}
        for name, arg in evidence.named(case.args).items():
            if isinstance(arg, int) and not isinstance(arg, bool) and arg > 0:
                row[name] = arg
            if isinstance(arg, Tensor):
                row |= {f"{name}.shape[{axis}]": size for axis, size in enumerate(arg.shape)}
                row[f"{name}.numel()"] = arg.numel()
                if arg.ndim == 4:
                    row[f"the number of pixels of {name}"] = arg.shape[2] * arg.shape[3]
        for name, size in row.items():
            rows.setdefault(name, []).append(size)
    return {name: row for name, row in rows.items() if len(row) == len(evidence.check.cases)}


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
