"""The right numbers, or a listed mistake's, times a factor or plus a constant."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import ENOUGH, Evidence


def times_or_plus(evidence: Evidence, originals: list[Tensor | None]) -> str:
    """A constant factor, or one that is a size of the input; a constant that is added."""
    given = [(i, g, x) for i, (g, x) in enumerate(zip(evidence.got, originals, strict=True)) if g is not None]
    found = [(i, g, x) for i, g, x in given if x is not None and g.shape == x.shape]
    if not found or len(found) < len(given):
        return ""
    factors, numbers = {}, 0
    for i, g, x in found:
        g, x = g.double().flatten(), x.double().flatten()
        large = x.isfinite() & (x.abs() > 1e-4 * x.nan_to_num(0, 0, 0).abs().max())
        ratio = (g / x)[large]
        still = torch.isclose(
            g[~large], x[~large] * (ratio.median() if len(ratio) else 1), rtol=1e-3, atol=1e-5, equal_nan=True
        )
        if not still.all() or not torch.allclose(ratio, ratio[:1], rtol=2e-4, atol=0):
            return _shifted(found)
        if len(ratio):
            factors[i] = ratio.median().item()
            numbers += ratio.numel()
    if not factors or numbers < ENOUGH or any(factor == 0 or not math.isfinite(factor) for factor in factors.values()):
        return ""
    values = list(factors.values())
    if max(values) - min(values) <= 2e-4 * abs(values[0]) and abs(values[0] - 1) < 1e-3:
        return _shifted(found)
    if max(values) - min(values) <= 2e-5 * abs(values[0]):
        return f"is {values[0]:.4g} times what is asked for. Look for a factor."
    for words, sizes in _sizes(evidence).items():
        for power, start in ((1, "is the right one times"), (-1, "is the right one divided by")):
            for root, name in ((1, words), (0.5, f"the root of {words}")):
                if all(math.isclose(f, sizes[i] ** (power * root), rel_tol=2e-5) for i, f in factors.items()):
                    return f"{start} {name}."
    return ""


def _shifted(found):
    gaps = torch.cat([(g.double() - x.double()).flatten() for _, g, x in found])
    if len(gaps) >= ENOUGH and gaps.isfinite().all() and (gaps - gaps[0]).abs().max() < 1e-5 * gaps[0].abs():
        return f"is {gaps[0].item():+.4g} off everywhere. Look for a constant that is missing or too many."
    return ""


def _sizes(evidence):
    """Sizes of the inputs, by the words for them: for each case its value."""
    rows: dict[str, list[int]] = {}
    for case in evidence.check.cases:
        row = {}
        for name, arg in evidence.named(case.args).items():
            if isinstance(arg, int) and not isinstance(arg, bool) and arg > 0:
                row[name] = arg
            if isinstance(arg, Tensor):
                row |= {f"{name}.shape[{axis}]": size for axis, size in enumerate(arg.shape)}
                row[f"{name}.numel()"] = arg.numel()
                if arg.ndim == 4:
                    row[f"the number of pixels of {name}"] = arg.shape[2] * arg.shape[3]
        for name, size in row.items():
            rows.setdefault(name, []).append(size)
    return {name: row for name, row in rows.items() if len(row) == len(evidence.check.cases)}
