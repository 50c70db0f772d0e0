"""What the checks of modules share: numbers for the parameters, and the words where the parameters are others."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks._run import Misfit


def built(cls: Callable, options: tuple) -> nn.Module:
    """The module as its class builds it. What it draws at random is not taken from the learner's generator."""
    with torch.random.fork_rng(devices=[]):
        return cls(*options)


def parameters_of(module, wanted: nn.Module) -> Tensor:
    """How many trained numbers the module has, once their names and shapes are those of the wanted one."""
    if not isinstance(module, nn.Module):
        raise Misfit(f"expected a class that builds an nn.Module, got {type(module).__name__}")
    have, want = ({name: tuple(v.shape) for name, v in m.state_dict().items()} for m in (module, wanted))
    missing, more = ([name for name in a if name not in b] for a, b in ((want, have), (have, want)))
    if missing:
        instead = f"; you have {more[0]}, which has no counterpart" if more else ""
        raise Misfit(f"expected {missing[0]} of shape {want[missing[0]]}, and there is none{instead}")
    if more:
        raise Misfit(f"got {more[0]} of shape {have[more[0]]}, which should not be there")
    if odd := [name for name in want if have[name] != want[name]]:
        raise Misfit(f"expected {odd[0]} of shape {want[odd[0]]}, got {have[odd[0]]}")
    return torch.tensor(sum(p.numel() for p in module.parameters() if p.requires_grad))


def nearly_zero(change: Tensor) -> Tensor:
    """1 if no entry is above 0.001, else 0."""
    return (change.abs().max() < 1e-3).long()


def numbered(wanted: nn.Module, like: Tensor) -> dict[str, Tensor]:
    """A state dict: numbers without pattern, of the size that keeps features near 1; a table stays what it is."""
    state = {}
    for i, (name, values) in enumerate(sorted(wanted.state_dict().items())):
        numbers = fractions(*values.shape, start=i + 1)
        if "timembedding.0" in name:
            numbers = values
        elif values.ndim > 1:
            numbers = numbers * math.sqrt(3 / values[0].numel())
        elif "norm" in name or name.endswith((".0.weight", ".0.bias")):
            numbers = name.endswith("weight") + numbers / 4
        state[name] = numbers.to(like)
    return state
