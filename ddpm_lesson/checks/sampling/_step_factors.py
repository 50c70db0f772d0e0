"""What the second stage finds in a single step of exercises 4.3 and 4.5, whose result is a sum of three images."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import Evidence
from ddpm_lesson.checks._places import only_wrong_at
from ddpm_lesson.checks._products import close, told

Table = dict[str, Tensor]
Clue = Callable[[Evidence], str]


class Probe(NamedTuple):
    """One step to try: for each image, by its name, arguments in which it stands alone; the step's numbers by name."""

    images: dict[str, tuple]
    tables: Table


Probes = Callable[[Tensor], Iterator[Probe]]  # of a pattern, which is the image that stands alone


def wrong_factor(probes: Probes) -> Clue:
    """A clue: which image has a wrong factor, and how it differs; "" where that is no simple way."""
    return lambda evidence: _told(evidence, probes, vague=False)


def vague_factor(probes: Probes) -> Clue:
    """A clue: which images have a wrong factor."""
    return lambda evidence: _told(evidence, probes, vague=True)


def at_one_place(evidence: Evidence) -> str:
    """A clue: the one kind of step at which an answer is wrong."""
    words = only_wrong_at(evidence, list(evidence.want))
    return words and f"{evidence.subject} is right everywhere but {words}"


def _told(evidence, probes, vague):
    found = _factors(evidence, probes)
    if not found:
        return ""
    got, want, tables = found
    wrong = [name for name in got if not close(got[name], want[name])]
    right = [name for name in got if name not in wrong]
    words = {name: told(got[name], want[name], tables, steps=False) for name in wrong}
    if not wrong or not (right if vague else all(words.values())):
        return ""
    alike: dict[str, list[str]] = {}
    for name in wrong:
        alike.setdefault(words[name] or "is wrong.", []).append(name)
    start = f"Your factor of {' and of '.join(right)} is right. " if right else ""
    return start + " ".join(f"Your factor of {' and of '.join(names)} {words}" for words, names in alike.items())


def _factors(evidence, probes) -> tuple[Table, Table, Table] | None:
    """The factor of each image, the answer's and the right one, and the steps' numbers; None if it is no such sum."""
    pattern = (torch.arange(24, dtype=torch.float64).reshape(1, 4, 6) % 7 + 1) / 8
    rows: tuple[dict[str, list[Tensor]], ...] = ({}, {}, {})
    for probe in probes(pattern):
        for name, args in probe.images.items():
            for factors, call in zip(rows, (evidence.calls, evidence.should), strict=False):
                out = call(*args)
                if out is None or out.shape != pattern.shape:
                    return None
                ratio = out / pattern
                if not torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4, equal_nan=True):
                    return None
                factors.setdefault(name, []).append(ratio.flatten()[0])
        for name, value in probe.tables.items():
            rows[2].setdefault(name, []).append(value)
    got, want, tables = ({name: torch.stack(values) for name, values in row.items()} for row in rows)
    return (got, want, tables) if all(factors.isfinite().all() for factors in got.values()) else None
