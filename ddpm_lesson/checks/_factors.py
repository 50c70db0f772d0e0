"""Which factor is wrong, in formulas that are sums of images, each times a coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import Evidence
from ddpm_lesson.checks._products import CLOSE, as_product, close, told
from ddpm_lesson.checks._run import Case

if TYPE_CHECKING:
    from ddpm_lesson.checks._engine import Check

Factors = dict[str, Tensor]


def wrong_factor(evidence: Evidence) -> str:
    """For a result that is a sum of images, each times a factor of its own: which factor is wrong, and how."""
    check = evidence.check
    seen = probe(evidence) if check.images else None
    if seen is None:
        return ""
    tables, got, want = seen
    found = {name: _compared(name, got, want, tables) for name in check.images}
    right = [name for name, words in found.items() if words == ""]
    wrong = {name: words for name, words in found.items() if words}
    if not wrong or not right and set(wrong.values()) == {"is wrong."}:
        return ""
    ratios = [got[name] / want[name] for name in wrong]
    if len(ratios) > 1 and close(ratios[0], ratios[1]) and (common := as_product(ratios[0], tables, 2)):
        return f"Your factors of {' and of '.join(wrong)} are both the right ones times {common}."
    start = f"Your factor of {' and of '.join(right)} is right. " if right else ""
    return start + " ".join(f"Your factor of {name} {words}" for name, words in wrong.items())


def probe(evidence: Evidence, case: Case | None = None) -> tuple[Factors, Factors, Factors] | None:
    """The tables, and the factors of each image at every step, the answer's and the right ones.

    None if the answer is no such sum. case: the one whose chain it is; None takes a chain of ten.
    """
    named, pattern = every_step(evidence, case)
    zero = evidence.calls(*named.values())
    if zero is None or zero.shape != pattern.shape:
        return None
    got: Factors = {}
    want: Factors = {}
    whole, size = torch.zeros_like(zero), torch.zeros_like(zero)  # of the terms, which may cancel
    for name in evidence.check.images:
        args = (named | {name: pattern}).values()
        mine, right = evidence.calls(*args), evidence.should(*args)
        if mine is None or right is None or not mine.shape == right.shape == pattern.shape:
            return None
        got[name], want[name] = ((out / pattern).flatten(1).double() for out in (mine, right))
        whole, size = whole + mine, size + mine.abs()
    both = evidence.calls(*(named | {name: pattern for name in evidence.check.images}).values())
    if both is None:
        return None
    rows = torch.stack([*got.values(), both.flatten(1).double(), zero.flatten(1).double()]).isfinite().all(0).all(1)
    sound = [torch.allclose(f[rows], f[rows, :1], rtol=1e-4, atol=1e-6) for f in got.values()]
    if rows.any():
        most = 1e-4 * whole.abs() + 1e-5 * whole[rows].abs().max() + 1e-6 * size
        sound.append(bool(((both - whole).abs() <= most)[rows].all()))
    if rows.sum() < 5 or not all(sound) or zero[rows].abs().max() > 1e-6:
        return None
    if not rows[1:].all():
        return None
    tables = {name: table[rows] for name, table in at_every_step(evidence.check, named).items()}
    mine_at, right_at = ({name: factor[rows, 0] for name, factor in factors.items()} for factors in (got, want))
    return tables, mine_at, right_at


def every_step(evidence: Evidence, case: Case | None = None) -> tuple[dict[str, Any], Tensor]:
    """Arguments with one image of zeros for each step of a chain, and a pattern to put into one of them."""
    check = evidence.check
    case = case or max(
        check.cases, key=lambda case: (_length(evidence.named(case.args)) == 10, len(case.args[0].shape) == 4)
    )
    named = evidence.named(case.args)
    T = _length(named)
    pattern = (torch.arange(T * 24, dtype=torch.float64).reshape(T, 1, 4, 6) % 7 + 1) / 8
    pattern = pattern.to(named[check.images[0]].dtype)
    return named | {name: torch.zeros_like(pattern) for name in check.images} | {"t": torch.arange(T)}, pattern


def wrong_at_steps(evidence: Evidence) -> str:
    """For an output with one number for each image, as a variance: how it differs from the right one."""
    if not evidence.check.images:
        return ""
    named, pattern = every_step(evidence)
    got, want = evidence.calls(*named.values()), evidence.should(*named.values())
    if got is None or want is None or got.numel() != len(pattern) or want.numel() != len(pattern):
        return ""
    words = told(got.flatten().double(), want.flatten().double(), at_every_step(evidence.check, named))
    return f"{evidence.subject} {words}" if words else ""


def _length(named):
    return next(len(arg) for name, arg in named.items() if isinstance(arg, Tensor) and arg.ndim == 1 and name != "t")


def at_every_step(check: Check, named: dict[str, Any]) -> Factors:
    """The exercise's tables, by their names."""
    return {name: table.double() for name, table in check.tables(**named).items()} if check.tables else {}


def _compared(name, got, want, tables):
    """What is wrong with one factor, in words; "" if nothing is."""
    g, w = got[name], want[name]
    if torch.allclose(g, w, rtol=CLOSE, atol=1e-9, equal_nan=True):
        return ""
    others = {other: factor for other, factor in want.items() if other != name}
    for other, factor in others.items():
        if close(g, factor):
            return f"is that of {other}."
        if close(g, -factor):
            return f"is that of {other}, with the other sign."
    return told(g, w, tables) or "is wrong."
