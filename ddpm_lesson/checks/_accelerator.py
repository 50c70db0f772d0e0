"""One input more, on the machine's accelerator, where there is one."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpm_lesson._tensors import usable_gpu
from ddpm_lesson.checks._run import run
from ddpm_lesson.checks._state import Modes


def on_accelerator(check, function: Callable, modes: Modes) -> str:
    """What goes wrong there with the first input, for an answer that is right on the CPU; "" if nothing does."""
    kind = usable_gpu()
    case = check.cases[0]
    if not kind or not any(isinstance(arg, Tensor) for arg in case.args):
        return ""
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
