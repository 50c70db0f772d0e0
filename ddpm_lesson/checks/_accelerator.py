"""One input more, on the machine's accelerator, where there is one."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lesson._tensors import usable_gpu
from ddpm_lesson.checks._run import run
from ddpm_lesson.checks._state import Modes

Switch = tuple[Callable[[], Any], Callable[[Any], None], Any]  # what reads it, what sets it, its value without TF32


def on_accelerator(check, function: Callable, modes: Modes) -> str:
    """What goes wrong there with the first input, for an answer that is right on the CPU; "" if nothing does."""
    kind = usable_gpu()
    case = check.cases[0]
    if not kind or not any(isinstance(arg, Tensor) for arg in case.args):
        return ""
    with without_tf32():
        got = run(check, function, tuple(moved(arg, kind) for arg in case.args), modes)
        problem = check.problem(got, check.right[0], False)
    return f"It is right on the CPU, but not on {kind}, for {case.words}: {problem}." if problem else ""


def moved(value, kind: str):
    """A copy of an argument on that device: of tensors and networks; MPS has no float64."""
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(kind)
    if not isinstance(value, Tensor):
        return value
    return value.to(kind, torch.float32 if kind == "mps" and value.dtype == torch.float64 else value.dtype)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products and convolutions in float32 keep all of its digits inside; PyTorch's switches are as before afterwards.

    By default GPUs since Ampere convolve in TF32, whose 10 bits give errors near 1e-3, above any tolerance here.
    """
    before: list[tuple[Callable[[Any], None], Any]] = []
    try:
        for switch in _switches():
            before += _switched_off(*switch)
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for put, value in before:
                put(value)


def _switched_off(read: Callable[[], Any], put: Callable[[Any], None], off: Any) -> list:
    """[(put, its value before)], empty for a switch that is off, or that this PyTorch lacks.

    Since 2.9 PyTorch also refuses to read an old switch that the new ones contradict: then these decide.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions call the old ones deprecated
        try:
            value = read()
        except (AttributeError, RuntimeError):
            return []
        if value == off:
            return []
        put(off)
    return [(put, value)]


def _switches() -> Iterator[Switch]:
    """The old switches, then those since PyTorch 2.9, each before those that follow it unless they are set themselves.

    The old ones too, although the new ones decide: both have to agree wherever PyTorch reads one of the old.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    yield torch.get_float32_matmul_precision, _set_products, "highest"
    yield partial(getattr, cudnn, "allow_tf32"), partial(setattr, cudnn, "allow_tf32"), False
    for owner in (torch.backends, cudnn, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None), matmul):
        yield partial(getattr, owner, "fp32_precision"), partial(setattr, owner, "fp32_precision"), "ieee"


def _set_products(precision: str) -> None:
    """Of torch.set_float32_matmul_precision what concerns GPUs: it would change the CPU's products, too."""
    torch.backends.cuda.matmul.allow_tf32 = precision != "highest"
    if precision == "medium":  # which the line above has made "high"; the CPU's is "medium" already
        torch.set_float32_matmul_precision(precision)
