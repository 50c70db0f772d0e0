"""Right everywhere but in one place: at t = 0, at an edge, for one kind of number."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import Evidence
from ddpm_lesson.checks._values import SINGLE, far, first


def only_wrong_at(evidence: Evidence, originals: list[Tensor | None]) -> str:
    """What is said after "Your result", if it differs from these results in one place only; "" if in many."""
    wrong, total = {}, 0
    for i, (got, original) in enumerate(zip(evidence.got, originals, strict=True)):
        if got is None:
            continue
        if original is None or got.shape != original.shape:
            return ""
        wrong[i], total = far(got, original, SINGLE), total + got.numel()
    if not wrong or not any(mask.any() for mask in wrong.values()):
        return ""
    best = None
    for words, masks in _masks(evidence, originals).items():
        covered = [(masks[i] if i in masks else torch.zeros_like(mask)).expand_as(mask) for i, mask in wrong.items()]
        size = sum(int(mask.sum()) for mask in covered)
        inside = all((mask <= cover).all() for mask, cover in zip(wrong.values(), covered, strict=True))
        dense = 2 * sum(int(mask.sum()) for mask in wrong.values()) >= size
        if inside and dense and size <= total / 2 and (best is None or size < best[0]):
            best = size, words
    if best is None:
        return ""
    i = next(i for i, mask in wrong.items() if mask.any())
    example = first(evidence.output, evidence.got[i].double(), originals[i].double(), wrong[i])
    return f"{best[1]}: for {evidence.check.cases[i].words}, {example}."


def _masks(evidence, originals):
    """For each place, by its words: where it is in each case."""
    rows: dict[str, dict[int, Tensor]] = {}
    for i, original in enumerate(originals):
        if original is not None:
            for words, mask in _places(evidence, evidence.check.cases[i].args, original):
                rows.setdefault(words, {})[i] = mask
    return rows


def _places(evidence, args, out) -> Iterator[tuple[str, Tensor]]:
    named = evidence.named(args)
    t = named.get("t")
    if isinstance(t, Tensor) and out.ndim and len(t) == out.shape[0]:
        table = next((arg for arg in args if isinstance(arg, Tensor) and arg.ndim == 1 and arg is not t), None)
        shape = (-1, *[1] * (out.ndim - 1))
        yield "at t = 0", (t == 0).reshape(shape)
        if table is not None:
            yield "at the last step, t = T - 1", (t == len(table) - 1).reshape(shape)
    if evidence.check.places:
        yield from evidence.check.places(*args)
    for axis, size in enumerate(out.shape):
        index = torch.arange(size).reshape([-1 if k == axis else 1 for k in range(out.ndim)])
        where = "" if out.ndim == 1 else f" of axis {axis}"
        yield f"at the first entry{where}", index == 0
        yield f"at the last entry{where}", index == size - 1
        yield f"at the first and the last entry{where}", (index == 0) | (index == size - 1)
    if out.ndim == 4:
        row, column = torch.arange(out.shape[2])[:, None], torch.arange(out.shape[3])
        first_ones, last_ones = (row == 0) | (column == 0), (row == len(row) - 1) | (column == len(column) - 1)
        yield "in the first row and the first column", first_ones
        yield "in the last row and the last column", last_ones
        yield "at the border of the images", first_ones | last_ones
    yield "where it should be 0", out == 0
    yield "where it should be negative", out < 0
    yield "where it should be positive", out > 0
    yield "where it should be above 1", out > 1
