"""Several processes that work together: the ranks that `torchrun` starts, on one machine or several.

Rank 0 leads: it alone locks, writes and prints. Whatever random numbers a batch needs, every rank draws for the whole
batch and takes its own rows of them (`_tensors.Share`), so that a result does not depend on the number of ranks. A
process that torchrun did not start, or started alone, is rank 0 of 1, and nothing here waits for anyone.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, distributed, nn

from ddpm_lesson._tensors import Device, Share
from ddpm_lesson.timesteps import Draw, TimestepSampler
from ddpm_lesson.training import TrainStep

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # with a rank that says nothing in a step; one whose process ended is noticed at once
LONG = timedelta(days=7)  # with rank 0, which may download or decode images, or train a classifier, before a step
_soon: list[Any] = []  # inside of `group`: that of all ranks which has PATIENCE; the usual one waits LONG
KINDS = (FloatingPointError, ImportError, OSError, ValueError, RuntimeError)  # of an error that another rank tells


class Elsewhere(Exception):
    """Another rank has failed, and rank 0 says why."""


class Lost(ConnectionError):
    """Another rank has ended, or does not answer."""


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _soon else 0


def ranks() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if _soon else 1


def started() -> bool:
    """Whether torchrun started this process, and others beside it."""
    return distributed.is_available() and distributed.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def group() -> Iterator[None]:
    """Inside, the processes that torchrun started know each other. A group that others have made does not count."""
    if not started():
        yield
        return
    with _noticing():
        distributed.init_process_group("gloo", timeout=LONG)
        _soon.append(distributed.new_group(timeout=PATIENCE))
    try:
        with warnings.catch_warnings():  # PyTorch 2.4 says it of the tensors that the ranks tell each other
            warnings.filterwarnings("ignore", "You are using `torch.load`", FutureWarning)
            yield
    finally:
        _soon.clear()
        distributed.destroy_process_group()


def wait_for_the_others() -> None:
    """Until one of the others ends: torchrun stops all ranks once one has failed, and rank 0 is to speak first."""
    with suppress(RuntimeError):
        distributed.barrier()


def everyones(function: Callable[[], T], catches: type[Exception] = Exception, *, soon: bool = False) -> list[T]:
    """What `function` returns on each rank, by rank. All call this.  soon: wait no longer than PATIENCE for the others.

    An error that it `catches` ends it on all ranks: rank 0 raises it, with the number of the first rank that failed,
    and the others raise Elsewhere. Any other ends this rank alone. Raises Lost if a rank has ended.
    """
    if ranks() == 1:
        return [function()]
    result, error = None, None
    try:
        with _noticing():
            result = function()
    except (Elsewhere, Lost):
        raise
    except catches as caught:
        error = caught
    mine = None if error is None else (next((kind for kind in KINDS if isinstance(error, kind)), None), str(error))
    found: list[Any] = [None] * ranks()
    with _noticing():
        distributed.all_gather_object(found, (result, mine), _soon[0] if soon else None)
    failed = [number for number, (_, theirs) in enumerate(found) if theirs]
    if not failed:
        return [result for result, _ in found]
    if rank():
        raise Elsewhere
    if error is not None:
        raise error
    kind, words = found[failed[0]][1]
    raise (kind or RuntimeError)(f"rank {failed[0]}: {words}")


def each(function: Callable[[], T]) -> T:
    """What `function` returns here. All call this; errors are those of `everyones`."""
    here: list[T] = []
    everyones(lambda: here.append(function()))
    return here[0]


def in_turn(function: Callable[[], T]) -> T:
    """`each`, on every machine by one process first: what that has downloaded or decoded, the others find."""
    here: list[T] = []
    leads = int(os.environ["LOCAL_RANK"]) == 0 if ranks() > 1 else True
    for now in (True, False) if ranks() > 1 else (True,):
        each(lambda now=now: here.append(function()) if leads == now else None)  # type: ignore[misc]
    return here[0]


def first(function: Callable[[], T]) -> T:
    """What `function` returns on rank 0, which alone calls it; the others get a copy. Errors as of `everyones`."""
    if ranks() == 1:
        return function()
    told: list[Any] = [None, True]
    error: BaseException | None = None
    if rank() == 0:
        try:
            told = [function(), False]
        except BaseException as caught:
            error = caught
    with _noticing():
        distributed.broadcast_object_list(told, src=0)
    if error is not None:
        raise error
    if told[1]:
        raise Elsewhere
    return told[0]


def collected(value: T) -> list[T]:
    """What each rank has, by rank, on rank 0; elsewhere nothing. All call this."""
    if ranks() == 1:
        return [value]
    found: list[Any] | None = [None] * ranks() if rank() == 0 else None
    with _noticing():
        distributed.gather_object(value, found)
    return found or []


def rows(n: int, number: int | None = None, of: int | None = None) -> slice:
    """Which of n images are those of rank `number` of so many; of this one if they are not given."""
    number, of = rank() if number is None else number, ranks() if of is None else of
    return slice(n * number // of, n * (number + 1) // of)


def device_of(name: str | None) -> str | None:
    """The device of this rank, by the name that the command line gives: of GPUs each rank takes its own.

    Raises ValueError for the name of a single GPU, and for fewer GPUs than ranks.
    """
    if ranks() == 1:
        return name
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name is None else name
    if name not in ("cpu", "cuda"):
        told = f"each of {ranks()} ranks takes a device of its own: expected --device cpu or cuda"
        raise ValueError(f"{told}, got {name}")
    if name == "cpu" or not torch.cuda.is_available():
        return name
    here, there = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if here > there:
        told = f"{here} ranks on this machine need as many GPUs, it has {there}"
        raise ValueError(f"{told}: torchrun --nproc-per-node={there}, or --device cpu")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # as NCCL and DistributedDataParallel want it
    return f"cuda:{os.environ['LOCAL_RANK']}"


def parallel(model: nn.Module) -> nn.Module:
    """The network, whose gradients are averaged over the ranks in every backward pass; it starts as that of rank 0.

    Li et al. 2020 (arXiv 2006.15704). The network's own parameters get the gradients.
    """
    if ranks() == 1:
        return model
    device = next(model.parameters()).device
    with _noticing():
        on_gpus = distributed.new_group(backend="nccl", timeout=PATIENCE) if device.type == "cuda" else None
        ids = [device] if on_gpus else None
        return nn.parallel.DistributedDataParallel(model, ids, process_group=on_gpus or _soon[0])


@contextmanager
def _noticing() -> Iterator[None]:
    """An error inside that says that a rank is lost becomes Lost."""
    try:
        yield
    except RuntimeError as error:
        words = str(error)
        if not (isinstance(error, distributed.DistError) or any(word in words for word in ("gloo", "closed by peer"))):
            raise
        said = words.splitlines()[0].split("] ", 1)[-1].split(". ")[0][:120]
        told = f"another process of the {os.environ['WORLD_SIZE']} has ended, or does not answer"
        raise Lost(f"{told} ({said})") from error


class Rows:
    """A `TimestepSampler` that draws t for the whole batch of a `Share` and hands out its rows.

    Of the losses it learns nothing: each rank has some, and `whole` is told of all of them (`joined`).
    """

    def __init__(self, whole: TimestepSampler):
        self.whole, self.T = whole, whole.T

    def sample(self, batch_size: int, *, generator: Generator | None = None, device: Device | None = None) -> Draw:
        """t, (B,), and weights, (B,), of this rank's rows.  generator: a `Share`."""
        assert isinstance(generator, Share)
        t, weights = self.whole.sample(generator.n, generator=generator, device=device)
        return t[generator.rows], weights[generator.rows]

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Nothing."""


def joined(steps: list[TrainStep], accumulate: int) -> TrainStep:
    """The step that all ranks have made together, by what each has of it; t and losses as one process has them."""
    if len(steps) == 1:
        return steps[0]
    told = zip(*((step.t, step.losses) for step in steps), strict=True)
    stacked = (torch.stack([part.cpu() for part in parts]) for parts in told)
    t, losses = (part.view(len(steps), accumulate, -1).transpose(0, 1).flatten() for part in stacked)
    return steps[0]._replace(loss=sum(step.loss for step in steps) / len(steps), t=t, losses=losses)
