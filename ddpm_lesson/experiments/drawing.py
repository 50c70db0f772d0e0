"""Work on a trained network by several ranks: rank 0 gives orders and has the results, the others do their shares."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from ddpm_lesson.experiments import distributed
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion, part_of
from ddpm_lesson.experiments.sampling import Sampling

T = TypeVar("T")


@contextmanager
def leading() -> Iterator[None]:
    """Inside, rank 0 gives orders (`split`); when it ends, also by an error, the others need not wait for more."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, distributed.Lost):
            with suppress(type(error)):
                distributed.first(partial(_fail, error))
        raise
    distributed.first(lambda: None)


def follow(load: Callable[[], PretrainedDiffusion]) -> int:
    """What another rank does: its share of each order.  load: gives the network, when it is first needed.

    Returns the exit status 0. Raises Elsewhere if rank 0 has failed.
    """
    load = cache(load)
    while (order := distributed.first(lambda: None)) is not None:
        with suppress(distributed.Elsewhere):  # rank 0 decides whether that was the end
            _share(load, *order)
    return 0


def split(trained: PretrainedDiffusion, function: Callable[..., T], **given: Any) -> list[T]:
    """function(trained, number, of, **given) on each rank: the results, by rank.  given: what can be pickled."""
    if distributed.ranks() > 1:
        given = {name: each.cpu() if isinstance(each, Tensor) else each for name, each in given.items()}
        distributed.first(lambda: (function, given))
    return _share(lambda: trained, function, given)


def sample(trained: PretrainedDiffusion, n: int, sampling: Sampling, **given: Any) -> Tensor:
    """`trained.sample(n, sampling, **given)`, of which every rank draws a part: the same images up to rounding."""
    parts = split(trained, _drawn, n=n, sampling=sampling, **given)
    images = torch.cat([part for part in parts if part is not None])
    if len(parts) == 1:
        return images
    order = torch.cat([part_of(n, number, len(parts)) for number in range(len(parts))])
    return torch.empty_like(images).index_copy_(0, order, images)


def _drawn(
    trained: PretrainedDiffusion, number: int, of: int, n: int, sampling: Sampling, progress: bool = False, **given: Any
) -> Tensor | None:
    if not len(part_of(n, number, of)):
        return None
    return trained.sample(n, sampling, part=(number, of), progress=progress and number == 0, **given)


def _share(load: Callable[[], PretrainedDiffusion], function: Callable[..., T], given: dict[str, Any]) -> list[T]:
    number, of = distributed.rank(), distributed.ranks()
    return distributed.collected(distributed.each(lambda: function(load(), number, of, **given)))


def _fail(error: BaseException) -> NoReturn:
    raise error
