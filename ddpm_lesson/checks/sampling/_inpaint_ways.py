"""Ways to fill in images, the right one with its choices: for the mistakes of exercise 4.7."""

import itertools

import torch
from torch import Tensor


def before_step(bar: Tensor, t: int) -> Tensor:
    """alpha_bar where step t leads, 1 at the clean image."""
    return bar[t - 1] if t > 0 else torch.ones_like(bar[0])


def mixed_by(mask: Tensor, known_part: Tensor, unknown: Tensor, t: int) -> Tensor:
    """The known part where mask is 1, else the unknown."""
    return mask * known_part + (1 - mask) * unknown


def forward_step(x: Tensor, beta: Tensor, noise: Tensor) -> Tensor:
    """One step of the forward process."""
    return (1 - beta).sqrt() * x + beta.sqrt() * noise


def last_repeats(rows, x_T, T):
    """One state for each t."""
    for row in rows:
        yield row[-1]


def painted(
    p_step,
    known: Tensor,
    mask: Tensor,
    betas: Tensor,
    x_T: Tensor,
    repeats: int,
    draw,
    *,
    steps=lambda T: reversed(range(T)),
    bar=lambda betas: torch.cumprod(1 - betas, 0),
    to=before_step,  # alpha_bar of the known part; where it is 1 no noise is drawn
    noisy=lambda t: True,  # elsewhere
    signal=torch.sqrt,
    spread=lambda a_bar: (1 - a_bar).sqrt(),
    draws=lambda draw: (draw, draw),  # for the known part, and for the step forward
    at_each_t=lambda draw: draw,
    told=lambda t: t,
    given=lambda x, known_part, mask: x,
    mix=mixed_by,
    times=lambda repeats: repeats,
    times_at_0=lambda times: 1,
    goes_back=lambda t, left: left > 0 and t > 0,
    source=lambda mixed, unknown: mixed,
    beta=lambda betas, alphas_bar, t: betas[t],
    back=forward_step,
    unused=lambda draw: None,
    waits=lambda x, mixed, t: mixed,  # where no step forward is made before the next repeat
    shown=lambda mixed, state: mixed,
    keep=last_repeats,
):
    """Exercise 4.7 in float64."""
    known, mask = known.double(), mask.double()

    def rows():
        alphas_bar, x = bar(betas), x_T.double()
        for_all, for_back = draws(draw)
        for t in steps(len(betas)):
            for_known = at_each_t(for_all)
            row: list[Tensor] = []
            for left in reversed(range(times(repeats) if t > 0 else times_at_0(times(repeats)))):
                a_bar = to(alphas_bar, t)
                known_part = known if a_bar == 1 else signal(a_bar) * known
                if a_bar != 1 and noisy(t):
                    known_part = known_part + spread(a_bar) * for_known()
                unknown = p_step(given(x, known_part, mask), told(t))
                state = mixed = mix(mask, known_part, unknown, t)
                if goes_back(t, left):
                    state = x = back(source(mixed, unknown), beta(betas, alphas_bar, t), for_back())
                else:
                    unused(draw)
                    x = waits(x, mixed, t) if left else mixed
                row.append(shown(mixed, state))
            yield row

    yield from keep(rows(), x_T, len(betas))


def once(draw):
    """The first noise again and again; it is drawn when it is first asked for."""
    kept: list[Tensor] = []

    def same():
        kept.extend([] if kept else [draw()])
        return kept[0]

    return same


def shared(draw):
    """The step forward gets the noise that the known part got last."""
    kept: list[Tensor] = []

    def new():
        kept[:] = [draw()]
        return kept[0]

    return new, lambda: kept[0] if kept else draw()


def every_repeat(rows, x_T, T):
    """As many as are read of an answer: one more than there should be."""
    yield from itertools.islice(itertools.chain.from_iterable(rows), T + 1)


def with_x_T(rows, x_T, T):
    """x_T and one state for each t."""
    yield x_T
    yield from last_repeats(rows, x_T, T)
