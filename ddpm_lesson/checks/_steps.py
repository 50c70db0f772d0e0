"""Scripts for exercises in several steps: a sampler, a module, a training loop. The first wrong step is named.

A script uses the answer and yields (name, value), here one pair for each step. The specification goes through the same
script, and the engine compares the two sides step by step: `Check(..., script=each_state(), steps=True)`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks._run import Misfit, Overwritten, read

Step = tuple[str, Tensor]


def each_state(parts: Callable[[Any], dict[str, Tensor]] = lambda state: {"": state}) -> Callable[..., Iterator[Step]]:
    """The script of a generator, as a sampler is one: every state that it yields, in its named parts.

    It reads one state past the right number of them at most: a generator without end is told so.
    """

    def script(function, *args):
        states = function(*args)
        if not hasattr(states, "__next__"):
            raise Misfit(f"expected a generator that yields each state, got {type(states).__name__}")
        for i, state in enumerate(states):
            for part, value in parts(state).items():
                yield f"state {i}{part and f', {part}'}", _tensor(value)

    return script


def images(states: Any) -> Iterator[Tensor]:
    """What a sampler yields, each a copy.

    Raises Misfit unless it is a generator of tensors, and at the end Overwritten if it has changed one of them since.
    """
    if not hasattr(states, "__next__"):
        raise Misfit(f"expected a generator, which yields each state, got {type(states).__name__}")
    given, seen = [], []
    for state in states:
        if not isinstance(state, Tensor):
            raise Misfit(f"expected each state as a tensor, got {type(state).__name__}")
        given.append(state)
        seen.append(read(state))
        yield seen[-1]
    if not all(map(_unchanged, given, seen)):
        raise Overwritten


def _unchanged(state: Tensor, copy: Tensor) -> bool:
    now = read(state)
    if "meta" in (now.device.type, copy.device.type) or (now.shape, now.dtype) != (copy.shape, copy.dtype):
        return now.shape == copy.shape and now.dtype == copy.dtype
    return torch.allclose(now, copy, rtol=0, atol=0, equal_nan=True)


def each_update(function: Callable, model: nn.Module, *args: Any) -> Iterator[Step]:
    """The script of a training loop, a generator that yields its loss: every loss, and the weights after it."""
    losses = function(model, *args)
    if not hasattr(losses, "__next__"):
        raise Misfit(f"expected a generator that yields each loss, got {type(losses).__name__}")
    for i, loss in enumerate(losses):
        yield f"loss {i}", _tensor(loss)
        for name, parameter in model.named_parameters():
            yield f"{name} after update {i}", read(parameter)


def module(*stages: str) -> Callable[..., Iterator[Step]]:
    """The script of a class: its parameters' shapes, then, with given weights, what the stages and the whole put out.

    stages: names of submodules, in the order in which they are called. The case's arguments are (options, inputs):
    the constructor's keyword arguments and forward's positional ones.
    """

    def script(cls, options, inputs):
        net = cls(**options)
        if not isinstance(net, nn.Module):
            raise Misfit(f"expected a subclass of nn.Module, got {cls.__name__}")
        parts = dict(net.named_modules())
        if missing := [stage for stage in stages if stage not in parts]:
            raise Misfit(f"expected a submodule called {missing[0]}, got {', '.join(filter(None, parts)) or 'none'}")
        for i, (name, parameter) in enumerate(sorted(net.named_parameters())):
            yield f"the shape of {name}", torch.tensor(parameter.shape)
            parameter.data = fractions(*parameter.shape, start=i) / max(parameter.shape[-1:] + (1,))
        seen: list[Step] = []
        for stage in stages:
            parts[stage].register_forward_hook(
                lambda part, given, out, stage=stage: seen.append((f"the output of {stage}", read(out)))
            )
        out = net.eval()(*inputs)
        yield from seen
        yield "the output", _tensor(out)

    return script


def _tensor(value):
    if isinstance(value, float | int):
        return torch.tensor(float(value))
    if not isinstance(value, Tensor):
        raise Misfit(f"expected a tensor, got {type(value).__name__}")
    return read(value)
