"""Whether gradients flow back through an answer whose values are right, as the training of a network needs them:
those that it needs, and no others."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks._misconceptions import Misconception, implemented
from ddpm_lesson.checks._run import run
from ddpm_lesson.checks._state import Modes

CLOSE = 1e-3  # of the largest entry: float32 loses digits on the way forth and back
CUTS = "detach(), no_grad, .item() or numpy cuts the way back"
STOPS = "detach() stops it and keeps the value"


def cut_off(check, function: Callable, modes: Modes) -> str:
    """The sentence for what gets no gradient, a wrong one, or one that `check.stopped` forbids; "" if all are right."""
    for case in check.cases if check.gradients else ():
        right = _gradients(check, check.form, case.args, Modes.now())
        mine = _gradients(check, function, case.args, modes)
        missing = [name for name in right if name not in mine]
        wrong = [name for name in right if name in mine and not _close(mine[name], right[name])]
        stray = [name for name in mine if name not in right]
        if not missing and not wrong and not stray:
            continue
        if sentence := _known(check, function, modes):
            return f"Every value is right, but gradients are not. {sentence}"
        found = [f"a gradient reaches {_listed(stray, mine)}, and none may: {STOPS}"] if stray else []
        if missing:
            found.append(f"no gradient reaches {_listed(missing, right)}: {CUTS}")
        elif wrong:
            found.append(f"the gradient with respect to {_listed(wrong, right)} is not: {CUTS}")
        return f"Every value is right, but {', and '.join(found)}."
    return ""


def needs_grad_mode(check, function: Callable, modes: Modes) -> str:
    """`check.grad_mode`, if an answer that is right with gradients fails on the first input under torch.no_grad()."""
    if not check.grad_mode:
        return ""
    outcome = run(check, function, check.cases[0].args, modes._replace(grad=False))
    return check.grad_mode if check.problem(outcome, check.right[0], check.exact_dtype) else ""


def _known(check, function, modes):
    """The sentence of `check.cuts` whose gradients are the answer's, on all inputs; "" if there is none."""
    mine = [_gradients(check, function, case.args, modes) for case in check.cases] if check.cuts else []
    for sentence, edits in check.cuts.items():
        cut = implemented(check.form, Misconception(sentence, **edits)).function
        if all(
            _alike(own, _gradients(check, cut, case.args, Modes.now()))
            for own, case in zip(mine, check.cases, strict=True)
        ):
            return sentence
    return ""


def of_arguments(check, function: Callable, args: tuple) -> tuple[Any, dict[str, Tensor]]:
    """The result of a plain function, and those of its arguments that a gradient must reach, or may not, by name."""
    named = dict(zip(check.parameters, args, strict=True))
    leaves = {name: named[name].clone().requires_grad_() for name in (*check.gradients, *check.stopped)}
    through = {name: leaf.view_as(leaf) for name, leaf in leaves.items()}
    return function(*(through.get(name, arg) for name, arg in named.items())), leaves


def _gradients(check, function, args, modes) -> dict[str, Tensor]:
    """By name, the gradients of a weighted sum of the result, where any arrives."""
    engine = Modes.now()
    try:
        modes._replace(grad=True).restore()
        out, leaves = check.trained(check, function, args)
        if out is None or not out.requires_grad:
            return {}
        total = (out.cpu().double() * fractions(*out.shape, start=7).double()).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except Exception:  # as numpy does where a gradient is asked for: the values themselves were right
        return {}
    finally:
        engine.restore()
    arrived = {name: gradient for name, gradient in zip(leaves, found, strict=True) if gradient is not None}
    return {name: gradient for name, gradient in arrived.items() if name not in check.stopped or gradient.any()}


def _alike(a, b):
    return a.keys() == b.keys() and all(_close(a[name], b[name]) for name in a)


def _close(mine, right):
    mine, right = mine.double(), right.double()
    return bool((mine - right).abs().max() <= CLOSE * right.abs().max() + 1e-6)


def _listed(names, every):
    """The names in words; for a module's parameters the part that holds them, or all, where it is all of them."""
    parts: dict[str, None] = {}
    for name in names:
        part = name.split(".")[0]
        of_part = [other for other in every if "." in other and other.split(".")[0] == part]
        if "." in name and all(other in names for other in every if "." in other):
            parts["the parameters"] = None
        elif of_part and all(other in names for other in of_part):
            parts[f"the parameters of {part}"] = None
        else:
            parts[name] = None
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
