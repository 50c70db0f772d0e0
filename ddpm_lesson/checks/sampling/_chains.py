"""What the chains of exercises 4.2 and 4.7 share: how the states of a generator are read."""

from collections.abc import Callable, Iterator

from torch import Tensor

from ddpm_lesson.checks._steps import images


def each_step(function: Callable, model: Callable, betas: Tensor, *others) -> Iterator[tuple[str, Tensor]]:
    """The script of exercise 4.2: every state that the generator yields, named after the step that led to it."""
    yield from named_states(function(model, betas, *others), len(betas))


def named_states(states: Iterator, T: int) -> Iterator[tuple[str, Tensor]]:
    """(name, state) for each state, "the state after step t = 3" for example; more of them than T are numbered."""
    for i, state in enumerate(images(states)):
        yield f"the state after step t = {T - 1 - i}" if i < T else f"state {i}", state
