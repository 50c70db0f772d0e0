"""What the chains of exercises 4.2 and 4.7 share: how the states of a generator are read."""

from collections.abc import Callable, Iterator

from torch import Tensor

from ddpm_lesson.checks._run import Misfit, read


def each_step(function: Callable, model: Callable, betas: Tensor, *others) -> Iterator[tuple[str, Tensor]]:
    """The script of exercise 4.2: every state that the generator yields, named after the step that led to it."""
    yield from named_states(function(model, betas, *others), len(betas))


def named_states(states: Iterator, T: int) -> Iterator[tuple[str, Tensor]]:
    """(name, state) for each state, "the state after step t = 3" for example; more of them than T are numbered."""
    if not hasattr(states, "__next__"):
        raise Misfit(f"expected a generator, which yields each state, got {type(states).__name__}")
    for i, state in enumerate(states):
        if not isinstance(state, Tensor):
            raise Misfit(f"expected each state as a tensor, got {type(state).__name__}")
        yield f"the state after step t = {T - 1 - i}" if i < T else f"state {i}", read(state)
