"""Ways to walk from noise to an image, the right one with its choices: for the mistakes of exercise 4.2."""

import torch
from torch import Tensor

from ddpm_lesson.checks._inputs import before


def by_eq_11(
    model,
    betas: Tensor,
    x_T: Tensor,
    noise: Tensor,
    *,
    order=lambda T: reversed(range(T)),
    table=lambda betas: betas,
    bar=lambda alphas: alphas.cumprod(0),
    given=lambda x, x_T: x,  # to the network, with
    told=lambda t, T: t,
    weight=lambda beta, a_bar: beta / (1 - a_bar).sqrt(),
    grow=torch.rsqrt,
    estimate=lambda mean, x, eps, a_bar: mean,
    var=lambda betas, alphas_bar: betas,
    spread=torch.sqrt,
    quiet=lambda t, T: t == 0,
    drawn=lambda noise, t: noise[t],
    added=lambda mean, push, beta: mean + push,
    carried=lambda mean, state: state,
    keep=lambda states, x_T: iter(states),
):
    """Exercise 4.2 in float64."""

    def states():
        T, x = len(betas), x_T.double()
        used = table(betas)
        alphas_bar, variances = bar(1 - used), var(used, (1 - used).cumprod(0))
        for t in order(T):
            eps = model(given(x, x_T), torch.full((len(x),), told(t, T)))
            mean = grow(1 - used[t]) * (x - weight(used[t], alphas_bar[t]) * eps)
            mean = estimate(mean, x, eps, (used[t], alphas_bar[t], before(alphas_bar)[t]))
            state = mean if quiet(t, T) else added(mean, spread(variances[t]) * drawn(noise, t), used[t])
            x = carried(mean, state)
            yield state

    yield from keep(states(), x_T)


def clipped(mean, x, eps, table):
    """The mean of the posterior whose x_0 is clipped."""
    beta, a_bar, prev = table
    x_0 = ((x - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()).clamp(-1, 1)
    return (prev.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - prev) * x) / (1 - a_bar)


def noised_anew(mean, x, eps, table):
    """The estimated x_0 as it is at t - 1, the noise aside."""
    _, a_bar, prev = table
    return prev.sqrt() * (x - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()


def posterior_var(betas: Tensor, alphas_bar: Tensor) -> Tensor:
    """Eq. 7's, 0 at t = 0."""
    return betas * (1 - before(alphas_bar)) / (1 - alphas_bar)


def with_x_T(states, x_T):
    """T + 1 states."""
    yield x_T
    yield from states


def without_last(states, x_T):
    """T - 1 states."""
    yield from list(states)[:-1]


def before_each(states, x_T):
    """Each state as it is before its step."""
    yield from [x_T, *states][:-1]


def only_last(states, x_T):
    """x_0."""
    yield list(states)[-1]
