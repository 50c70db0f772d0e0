"""One input more, in float64: what comes out must be float64, with its digits."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.checks._run import run
from ddpm_lesson.checks._state import Modes

CAUSES = "Look for a .float(), a tensor of float32, or a small number that you added."


def loses_digits(check, function: Callable, modes: Modes) -> str:
    """The sentence for an answer that is right, but gives float64 arguments another dtype or precision."""
    case = check.cases[0]
    named = dict(zip(check.parameters, case.args, strict=False))
    names = [name for name, arg in named.items() if _real(arg)]
    if not check.float64 or not names:
        return ""
    got = run(check, function, tuple(arg.double() if _real(arg) else arg for arg in case.args), modes)
    problem = check.problem(got, check.right[0], True)
    if not problem:
        return ""
    *most, last = names
    given = f"with {', '.join(most)}{' and ' * bool(most)}{last} in float64"
    odd = {name: value.dtype for name, value in zip(got.names, got.values, strict=True) if value.dtype != torch.float64}
    if got.trouble:
        return f"Every value is right, but {given} {problem}. {check.float64}"
    if not odd:
        return f"Every value is right, but {given} digits are missing: {problem}. {CAUSES}"
    subject = "your result" if len(check.outputs) == 1 else f"your {' and '.join(odd)}"
    verb = "are" if len(odd) > 1 else "is"
    dtype = str(next(iter(odd.values()))).removeprefix("torch.")
    return f"Every value is right, but {given} {subject} {verb} {dtype}: digits are lost. {check.float64}"


def _real(arg):
    return isinstance(arg, Tensor) and arg.is_floating_point()
