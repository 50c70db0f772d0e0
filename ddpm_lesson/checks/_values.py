"""Comparing what came back with what was wanted, and the words for the first difference."""

import math

import torch
from torch import Tensor

SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # what a computation in float32 leaves
DOUBLE = {"rtol": 1e-10, "atol": 1e-14}
HUGE = 1e12  # past it a number was divided by a zero that came out rounded, and its size is chance


def far(got: Tensor, want: Tensor, tolerance: dict) -> Tensor:
    """Where two tensors of one shape differ."""
    return ~torch.isclose(_comparable(got), _comparable(want), equal_nan=True, **tolerance)


def same(got, want, tolerance: dict = SINGLE, floor: float = -math.inf) -> bool:
    """Whether two values agree: shape, kind and numbers, whatever the floating-point dtype.

    floor: numbers below it are taken for it, as where a logarithm was kept from minus infinity in some way.
    """
    if not isinstance(got, Tensor) or not isinstance(want, Tensor):
        return type(got) is type(want) and got == want
    if (
        got.shape != want.shape
        or got.is_floating_point() != want.is_floating_point()
        or got.is_meta
        or got.is_complex()
    ):
        return False
    return not bool(far(got.clamp(min=floor), want.clamp(min=floor), tolerance).any())


def difference(name: str, got, want, *, exact: bool, zeros: bool, tolerance: dict) -> str:
    """Where two values of this name first differ, in words; "" if they agree.

    exact: dtypes too. zeros: where 0 is wanted, nothing else will do.
    """
    if not isinstance(want, Tensor):
        got_words = got if abs(got) < 10**18 else "a number of more than 18 digits"
        return "" if got == want else f"expected {name} = {want}, got {got_words}"
    if got.shape != want.shape:
        return f"expected {name} of shape {tuple(want.shape)}, got {tuple(got.shape)}"
    if got.dtype != want.dtype and (exact or not got.is_floating_point()):
        return f"expected {name} of dtype {want.dtype}, got {got.dtype}"
    if got.is_meta:
        return f"expected numbers in {name}, got a tensor on the device meta, which holds none"
    wrong = far(got, want, tolerance)
    if zeros:
        wrong |= (want == 0) & (got != 0)
    return first(name, got, want, wrong) if wrong.any() else ""


def first(name: str, got: Tensor, want: Tensor, wrong: Tensor) -> str:
    """Expected and got at the first place that is marked wrong."""
    index = wrong.nonzero()[0].tolist()
    g, w = got[tuple(index)].item(), want[tuple(index)].item()
    digits = next((n for n in range(4, 18) if f"{g:.{n}g}" != f"{w:.{n}g}"), 17)  # 4, or what tells them apart
    place = f"{name}[{','.join(map(str, index))}]" if index else name
    remark = "" if math.isfinite(g) else ", which is not a finite number"
    return f"expected {place} = {w:.{digits}g}, got {g:.{digits}g}{remark}"


def _comparable(values):
    values = values.double()
    return torch.where(values.abs() > HUGE, values * math.inf, values)
