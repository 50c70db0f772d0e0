"""Batches without end from data in memory, and what may be done to them on the way: mirroring, leaving labels out."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from ddpm_lesson._tensors import rand, seed_of


def minibatches(*data: Tensor, batch_size: int, generator: Generator | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Batches without end from data in memory: shuffled, gone through, shuffled again.

    data: x_0 (N, *D), or x_0 and labels (N,). Yields tuples of (batch_size, ...); what is left over at the end of a
    pass is dropped. generator: on the CPU. Raises ValueError if the lengths differ or batch_size leaves 1..N.

    >>> batches = minibatches(torch.zeros(100, 2), torch.arange(100), batch_size=32)
    >>> x_0, y = next(batches)
    >>> x_0.shape, y.shape
    (torch.Size([32, 2]), torch.Size([32]))
    """
    N = _length(data, batch_size)
    while True:
        for rows in torch.randperm(N, generator=generator, device="cpu").split(batch_size)[: N // batch_size]:
            yield tuple(part[rows] for part in data)


def ordered(
    *data: Any, batch_size: int, seed: int, start: int = 0, rows: slice = slice(None)
) -> Iterator[tuple[Tensor, ...]]:
    """`minibatches` in an order that seed and epoch determine, entered after `start` batches.

    So a run that was stopped finds its place again without going through what it has seen. data: tensors, or anything
    with a length that a tensor of indices selects from, such as `data.Images`, which yields x_0 and labels. What has a
    method `prepare`, as Images do, is prepared first: a damaged file is named before the first step is made.
    rows: those of each batch that are read, where others are read elsewhere.
    """
    N = _length(data, batch_size)
    for part in data:
        if hasattr(part, "prepare"):
            part.prepare()
    epochs, done = divmod(start, N // batch_size)
    for epoch in itertools.count(epochs):
        order = torch.randperm(N, generator=Generator().manual_seed(seed_of(seed, epoch)), device="cpu")
        for batch in order.split(batch_size)[done : N // batch_size]:
            parts = [part[batch[rows]] for part in data]
            yield tuple(parts) if isinstance(parts[0], Tensor) else tuple(parts[0])
        done = 0


def mirrored(batches: Iterable[tuple[Tensor, ...]], generator: Generator | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Every image (B, C, H, W) turned left to right with probability 1/2.  Ho et al. 2020, Appendix B (CIFAR-10).

    Not for digits or letters: a mirrored 2 is none.
    """
    for x_0, *rest in batches:
        turned = rand(len(x_0), generator) < 0.5
        yield torch.where(turned[:, None, None, None].to(x_0.device), x_0.flip(3), x_0), *rest


def without_labels(
    batches: Iterable[tuple[Tensor, ...]], rate: float, null_class: int, generator: Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels (B,) replaced by the null class with probability `rate`.  Ho & Salimans 2022, Algorithm 1.

    So one network learns to predict with a label and without. Raises ValueError if rate leaves [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}")
    for x_0, y in batches:
        left_out = rand(len(y), generator) < rate
        yield x_0, torch.where(left_out.to(y.device), null_class, y)


def check_batch_size(batch_size: int, N: int) -> None:
    """Raise ValueError unless a batch of N images can be so large."""
    if not 1 <= batch_size <= N:
        if N < 2:
            there = "is only 1 image" if N else "are no images"
            raise ValueError(f"there {there}, too few for batch_size = {batch_size}: more images are needed")
        raise ValueError(f"batch_size must lie in 1..{N}, got {batch_size}: there are {N} images, give another one")


def _length(data: tuple, batch_size: int) -> int:
    N = len(data[0])
    if any(len(part) != N for part in data):
        raise ValueError(f"data must be of one length, got {' and '.join(str(len(part)) for part in data)}")
    check_batch_size(batch_size, N)
    return N
