"""Ways to walk with guidance, the right one with its choices: for the mistakes of exercise 5.7."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor


def to_next(bar: Tensor, steps: list[int], k: int) -> Tensor:
    """alpha_bar where the step from steps[k] leads, 1 at the clean image."""
    return bar[steps[k - 1]] if k > 0 else torch.ones_like(bar[0])


def to_higher(bar: Tensor, steps: list[int], k: int) -> Tensor:
    """alpha_bar of the next higher step, 1 after the last: for who walks upwards."""
    return bar[steps[k + 1]] if k + 1 < len(steps) else torch.ones_like(bar[0])


def estimated(x: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """x_0 that eps leaves in x."""
    return (x - (1 - a).sqrt() * eps) / a.sqrt()


def derived(x: Tensor, x_0: Tensor, a: Tensor) -> Tensor:
    """eps that x_0 leaves in x."""
    return (x - a.sqrt() * x_0) / (1 - a).sqrt()


def extrapolated(cond: Tensor, uncond: Tensor, s: float) -> Tensor:
    """eps with guidance of scale s."""
    return uncond + s * (cond - uncond)


def guided_walk(
    model,
    x_T: Tensor,
    y: Tensor,
    scale: float,
    timesteps: list[int],
    alphas_bar: Tensor,
    *,
    visited=lambda timesteps, T: timesteps,
    order=reversed,  # of the places in timesteps
    given=lambda x, x_T: x,
    told=lambda steps, k: steps[k],
    label=lambda y: y,
    null: Callable = lambda y: None,
    combine=extrapolated,
    each=lambda eps, x, a: eps,  # what is done to each of the two eps
    estimate=estimated,
    clip: Callable = lambda x_0: x_0.clamp(-1, 1),
    again=lambda x, x_0, eps, uncond, a: derived(x, x_0, a),
    at=lambda bar, steps, k: bar[steps[k]],
    to=to_next,
    signal=torch.sqrt,
    spread=lambda prev: (1 - prev).sqrt(),
    after=lambda x, x_0: x,
    keep=lambda states, x_T, S: iter(states),
):
    """Exercise 5.7 in float64."""

    def states():
        steps, x = visited(timesteps, len(alphas_bar)), x_T.double()
        for k in order(range(len(steps))):
            a, prev, t = at(alphas_bar, steps, k), to(alphas_bar, steps, k), torch.full((len(x),), told(steps, k))
            seen = given(x, x_T.double())
            cond, uncond = (each(model(seen, t, given_y), x, a) for given_y in (label(y), null(y)))
            eps = combine(cond, uncond, scale)
            x_0 = clip(estimate(x, eps, a))
            x = after(signal(prev) * x_0 + spread(prev) * again(x, x_0, eps, uncond, a), x_0)
            yield x

    yield from keep(states(), x_T, len(timesteps))


def each_clipped(eps: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """The eps that belongs to its own clipped x_0."""
    return derived(x, estimated(x, eps, a).clamp(-1, 1), a)


def lengths_kept(x_0: Tensor) -> Tensor:
    """Each image divided by its largest number, where that is above 1."""
    largest = x_0.abs().flatten(1).amax(1).clamp(min=1)
    return x_0 / largest.view(-1, *[1] * (x_0.ndim - 1))


def as_read(states, x_T, S):
    """As many as are read of an answer: one more than there should be."""
    yield from itertools.islice(states, S + 1)


def with_x_T(states, x_T, S):
    """One state too many."""
    yield x_T
    yield from states


def without_last(states, x_T, S):
    """One state too few."""
    yield from list(states)[:-1]


def before_each(states, x_T, S):
    """Each state as it is before its step."""
    yield from [x_T, *states][:-1]


def only_last(states, x_T, S):
    """The image."""
    yield list(states)[-1]
