"""Whether gradients flow back through an answer whose values are right, as the training of a network needs them."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks._state import Modes

CLOSE = 1e-3  # of the largest entry: float32 loses digits on the way forth and back
CUTS = "detach(), no_grad, .item() or numpy cuts the way back"


def cut_off(check, function: Callable, modes: Modes) -> str:
    """The sentence for an argument of `check.gradients` that gets no gradient, or a wrong one; "" if all are right."""
    if not check.gradients:
        return ""
    for case in check.cases:
        mine, right = (_gradients(check, f, case.args, modes) for f in (function, check.form))
        missing = [name for name in check.gradients if mine[name] is None]
        if missing:
            return f"Every value is right, but no gradient reaches {_joined(missing)}: {CUTS}."
        wrong = [name for name in check.gradients if not _alike(mine[name], right[name])]
        if wrong:
            return f"Every value is right, but the gradient with respect to {_joined(wrong)} is not: {CUTS}."
    return ""


def _gradients(check, function, args, modes) -> dict[str, Tensor | None]:
    """By the argument's name, the gradient of a weighted sum of the result; None where none arrives."""
    named = dict(zip(check.parameters, args, strict=True))
    leaves = {name: named[name].clone().requires_grad_() for name in check.gradients}
    through = {name: leaf.view_as(leaf) for name, leaf in leaves.items()}
    nothing: dict[str, Tensor | None] = dict.fromkeys(leaves)
    engine = Modes.now()
    try:
        modes._replace(grad=True).restore()
        out = function(*(through.get(name, arg) for name, arg in named.items()))
        if not out.requires_grad:
            return nothing
        total = (out.cpu().double() * fractions(*out.shape, start=7).double()).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except Exception:  # as numpy does where a gradient is asked for: the values themselves were right
        return nothing
    finally:
        engine.restore()
    return dict(zip(leaves, found, strict=True))


def _alike(mine, right):
    mine, right = mine.double(), right.double()
    return bool((mine - right).abs().max() <= CLOSE * right.abs().max() + 1e-6)


def _joined(names):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
