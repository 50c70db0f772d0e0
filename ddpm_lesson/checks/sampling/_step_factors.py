"""Which factor of a single step is wrong: exercises 4.3 and 4.5, whose results are sums of three images."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import Evidence
from ddpm_lesson.checks._products import close, told

Table = dict[str, Tensor]


class Probe(NamedTuple):
    """One step to try: arguments for each image alone, by the image's name, and the step's tables, each a number."""

    images: dict[str, tuple]
    tables: Table


def wrong_factor_of_a_step(probes: Callable[[Tensor], Iterator[Probe]]) -> Callable[[Evidence], str]:
    """The clue of an exercise. probes: takes a pattern, the image that each set of arguments has alone."""

    def clue(evidence: Evidence) -> str:
        pattern = (torch.arange(24, dtype=torch.float64).reshape(1, 4, 6) % 7 + 1) / 8
        got: dict[str, list[Tensor]] = {}
        want: dict[str, list[Tensor]] = {}
        tables: dict[str, list[Tensor]] = {}
        for probe in probes(pattern):
            for name, args in probe.images.items():
                for factors, call in ((got, evidence.calls), (want, evidence.should)):
                    out = call(*args)
                    if out is None or out.shape != pattern.shape:
                        return ""
                    ratio = out / pattern
                    if not torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4, equal_nan=True):
                        return ""
                    factors.setdefault(name, []).append(ratio.flatten()[0])
            for name, value in probe.tables.items():
                tables.setdefault(name, []).append(value)
        return _words(*({name: torch.stack(rows) for name, rows in part.items()} for part in (got, want, tables)))

    return clue


def _words(got: Table, want: Table, tables: Table) -> str:
    wrong = [name for name in got if not close(got[name], want[name])]
    right = [name for name in got if name not in wrong]
    found = {name: told(got[name], want[name], tables, steps=False) for name in wrong}
    if not wrong or not right and not all(found.values()):
        return ""
    start = f"Your factor of {' and of '.join(right)} is right. " if right else ""
    return start + " ".join(f"Your factor of {name} {words or 'is wrong.'}" for name, words in found.items())
