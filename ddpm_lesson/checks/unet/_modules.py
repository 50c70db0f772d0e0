"""What the checks of modules share: the script that uses a module, its gradients, and numbers for its parameters."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks._run import Misfit, read
from ddpm_lesson.checks._state import plain
from ddpm_lesson.checks._unfilled import Unfilled


class Wanted(NamedTuple):
    """What is wanted of a state dict: its shapes, and the numbers that the check puts there, in float64."""

    shapes: dict[str, tuple]
    numbers: dict[str, Tensor]


_known: dict[tuple, Wanted] = {}
FIRST = "your class does not call super().__init__(): write it first in __init__, before any layer"


def _silent(module: nn.Module, known: tuple) -> str:
    return ""


def script(
    specification: Callable,
    starts_as: str,
    change: Callable,
    further: dict[str, Callable],
    layers: Callable[[nn.Module, tuple], str] = _silent,
    sizes: Callable[[nn.Module, tuple], str] = _silent,
) -> Callable:
    """The script of a class: the parameters, the module as built, with numbers in it, and then after each change.

    The case's arguments are (options, inputs): the constructor's, and forward's, with x first; without inputs the
    parameters are only counted. starts_as, change: what the module as built is, and change(module, *inputs), near 0 if
    it is that. further: changes of the module in place, by the words for the result after them. layers(module,
    options), sizes(module, inputs): why its parameters are not those, and why it breaks, in words, or "".
    """

    def used(cls: Callable, options: tuple, inputs: tuple) -> Iterator[tuple[str, Tensor]]:
        wanted = _wanted(specification, options, bool(inputs))
        with nullcontext() if inputs else Unfilled():
            module = _built(cls, options)
        with _explained(Misfit, layers, module, options):
            yield "the number of parameters", _parameters_of(module, wanted)
        if inputs:
            with _explained(RuntimeError, sizes, module, inputs):
                yield from _results(module, wanted, inputs)

    def _results(module: nn.Module, wanted: Wanted, inputs: tuple) -> Iterator[tuple[str, Tensor]]:
        module = module.to(inputs[0]).eval()
        yield f"whether it starts as {starts_as}", (change(module, *inputs).abs().max() < 1e-3).long()
        _load(module, wanted, inputs[0])
        yield "the result", read(module(*inputs))
        for words, prepare in further.items():
            prepare(module)
            with torch.random.fork_rng(devices=[]):
                out = module(*inputs)
            yield f"the result {words}", read(out)
        yield "x after the call", read(inputs[0])

    return used


@contextmanager
def _explained(kind, reason, module, known):
    """What stopped a module, where its layers say why: that is told, and not what was raised."""
    try:
        yield
    except kind as error:
        words = reason(module, known) if isinstance(module, nn.Module) else ""
        if not words:
            raise
        raise Misfit(words) from error


def trained(specification: Callable) -> Callable:
    """For `Check.trained`: the module's result, with numbers in it, and what gradients must reach, by name."""

    def leaves(check, cls: Callable, args: tuple) -> tuple[Tensor | None, dict[str, Tensor]]:
        options, inputs = args
        if not inputs:
            return None, {}
        module = _built(cls, options).to(inputs[0]).eval()
        _load(module, _wanted(specification, options, True), inputs[0])
        found = {name: x.clone().requires_grad_() for name, x in zip(check.gradients, inputs, strict=False)}
        passed = [x.view_as(x) for x in found.values()] + list(inputs[len(found) :])
        found |= {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        return module(*passed), found

    return leaves


def _built(cls, options):
    """The module as its class builds it. What it draws at random is not taken from the learner's generator."""
    try:
        with torch.random.fork_rng(devices=[]):
            module = cls(*options)
    except AttributeError as error:
        if "before Module.__init__() call" in str(error):
            raise Misfit(FIRST) from error
        raise
    if isinstance(module, nn.Module) and not hasattr(module, "_parameters"):
        raise Misfit(FIRST)
    return module


def _wanted(specification, options, filled):
    """Computed once for each options, as the learner's modes do not matter to it."""
    key = specification, repr(options), filled
    if key not in _known:
        with plain(), nullcontext() if filled else Unfilled():
            state = _built(specification, options).state_dict()
        shapes = {name: tuple(values.shape) for name, values in state.items()}
        _known[key] = Wanted(shapes, _numbered(state) if filled else {})
    return _known[key]


def _load(module, wanted, like):
    module.load_state_dict({name: numbers.to(like) for name, numbers in wanted.numbers.items()})


def _parameters_of(module, wanted):
    """How many trained numbers the module has, once their names and shapes are those of the wanted one."""
    if not isinstance(module, nn.Module):
        raise Misfit(f"expected a class that builds an nn.Module, got {type(module).__name__}")
    have, want = {name: tuple(v.shape) for name, v in module.state_dict().items()}, wanted.shapes
    missing, more = ([name for name in a if name not in b] for a, b in ((want, have), (have, want)))
    if missing:
        instead = f"; you have {more[0]}, which has no counterpart" if more else ""
        raise Misfit(f"expected {missing[0]} of shape {want[missing[0]]}, and there is none{instead}")
    if more:
        raise Misfit(f"got {more[0]} of shape {have[more[0]]}, which should not be there")
    if odd := [name for name in want if have[name] != want[name]]:
        raise Misfit(f"expected {odd[0]} of shape {want[odd[0]]}, got {have[odd[0]]}")
    return torch.tensor(sum(p.numel() for p in module.parameters() if p.requires_grad))


def _numbered(state):
    """Numbers without pattern, of the size that keeps features near 1; a table stays what it is."""
    filled = {}
    for i, (name, values) in enumerate(sorted(state.items())):
        numbers = fractions(*values.shape, start=i + 1)
        if "timembedding.0" in name:
            numbers = values
        elif values.ndim > 1:
            numbers = numbers * math.sqrt(3 / values[0].numel())
        elif "norm" in name or name.endswith((".0.weight", ".0.bias")):
            numbers = name.endswith("weight") + numbers / 4
        filled[name] = numbers.double()
    return filled
