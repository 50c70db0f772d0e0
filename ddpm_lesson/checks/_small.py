"""A small number that was added to a table, to keep a divisor or a root away from 0."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import Evidence
from ddpm_lesson.checks._factors import Factors, at_every_step, every_step, probe
from ddpm_lesson.checks._run import Case

MOST = 2e-3  # a number above it is not small
NOISE = 2e-6  # what rounding may change in the logarithm of a factor
SEEN = 3  # steps at which the number must show


class Added(NamedTuple):
    """A number that was added, to what, and how much the logarithm of a factor changes by it at every step."""

    number: float
    place: str
    effect: Tensor


def small_number(evidence: Evidence) -> str:
    """For a result that is a sum of images, or one number for each image: where a small number was added to a table."""
    check = evidence.check
    seen = _on_all_chains(evidence) if check.images and check.tables else None
    if seen is None:
        return ""
    tables, got, want = seen
    use = torch.stack([*want.values()]).ne(0).all(0)
    if any(factor[~use & (want[name] == 0)].abs().gt(1e-9).any() for name, factor in got.items()):
        return ""
    tables = {name: table[use] for name, table in tables.items()}
    changes = {name: (factor[use] / want[name][use]).log() for name, factor in got.items()}
    if not all(change.isfinite().all() for change in changes.values()):
        return ""
    changes = {name: change for name, change in changes.items() if change.abs().max() > NOISE}
    found: dict[str, Added] = {}
    for name, change in [*changes.items()] * 2:  # what is said of one factor may be part of another
        others = [other.effect for key, other in found.items() if key != name]
        options = (_added(change - other, tables) for other in [torch.zeros_like(change), *others])
        if name not in found and (added := next(filter(None, options), None)):
            found[name] = added
    if not changes or len(found) < len(changes):
        return ""
    places = dict.fromkeys(f"{added.number:.2g} to {added.place}" for added in found.values())
    where = "that is" if len(places) == 1 else "these are"
    return f"You added a small number: {' and '.join(places)}. It counts where {where} small: leave it out."


def _added(change: Tensor, tables: Factors) -> Added | None:
    """What was added, if that is all that changes a factor; the closest explanation of several."""
    best, least = None, torch.inf
    largest = change.abs().argmax()
    for place, table, power in _places(tables):
        if not (table > 0).all():
            continue
        number = float(table[largest] * torch.expm1(change[largest] / power))
        effect = power * torch.log1p(number / table)
        gap = (change - effect).abs()
        if 0 < number < MOST and (gap < NOISE + 1e-3 * effect.abs()).all() and gap.max() < least:
            if (effect.abs() > 3 * NOISE).sum() >= SEEN:
                best, least = Added(number, place, effect), float(gap.max())
    return best


def _places(tables: Factors) -> Iterator[tuple[str, Tensor, float]]:
    """Where a number may be added: a name, what stands there, and the power to which the factor has it."""
    for name, table in tables.items():
        for sign in (1, -1):
            yield name, table, sign
            yield f"{name} under the root", table, sign / 2
            yield f"sqrt({name})", table.abs().sqrt(), sign


def _on_all_chains(evidence: Evidence) -> tuple[Factors, Factors, Factors] | None:
    """The tables and the factors, the answer's and the right ones, at the steps of all chains; None if there are none.

    A number that is small beside one chain's alpha_bar is not so beside another's.
    """
    chains: dict[tuple, Case] = {}
    for case in evidence.check.cases:
        table = next(arg for arg in case.args if isinstance(arg, Tensor) and arg.ndim == 1 and arg.is_floating_point())
        if len(table) > 4:
            chains.setdefault(tuple(table.tolist()), case)
    seen = [probe(evidence, case) or _of_numbers(evidence, case) for case in chains.values()]
    parts = [part for part in seen if part is not None]
    if not parts or len(parts) < len(seen):
        return None
    tables, got, want = (
        {name: torch.cat([row[name] for row in rows]) for name in rows[0]} for rows in zip(*parts, strict=True)
    )
    return tables, got, want


def _of_numbers(evidence: Evidence, case: Case) -> tuple[Factors, Factors, Factors] | None:
    """The same for an output with one number for each image, as a variance."""
    named, pattern = every_step(evidence, case)
    got, want = evidence.calls(*named.values()), evidence.should(*named.values())
    if got is None or want is None or not got.numel() == want.numel() == len(pattern):
        return None
    return at_every_step(evidence.check, named), {"": got.flatten()}, {"": want.flatten()}
