"""How one table of numbers differs from another: by a constant, by powers of known tables, by a shift, by terms."""

import itertools
import math

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import ENOUGH, Evidence

POWERS = (0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.0, -2.0, 3.0, -3.0, 4.0, -4.0)
CONSTANTS = [a * b for a in (1, 2, 4, 3, math.sqrt(2), math.pi, math.log(2), math.log(10000)) for b in (1, -1)]
CONSTANTS += [1 / c for c in CONSTANTS if abs(c) != 1]
CLOSE = 3e-5


def wrong_product(evidence: Evidence) -> str:
    """For a result that is a product of powers of tables: how it differs from the right one."""
    check = evidence.check
    if check.tables is None or check.images:
        return ""
    columns: dict[str, list[Tensor]] = {}
    g, w = [], []
    for case, got, want in zip(check.cases, evidence.got, evidence.want, strict=True):
        if got is None:
            continue
        if got.shape != want.shape:
            return ""
        g.append(got.double().flatten())
        w.append(want.double().flatten())
        for name, table in check.tables(**evidence.named(case.args)).items():
            columns.setdefault(name, []).append(table.double().expand(want.shape).flatten())
    if sum(map(len, g)) < ENOUGH or any(len(rows) != len(g) for rows in columns.values()):
        return ""
    tables = {name: torch.cat(rows) for name, rows in columns.items()}
    words = told(torch.cat(g), torch.cat(w), tables, steps=False)
    return f"{evidence.subject} {words}" if words else ""


def told(g, w, tables, steps=True):
    """How g differs from w, in words; "" if no simple way is found."""
    if close(g, torch.zeros_like(g)):
        return "is 0: it is missing."
    if close(g, -w):
        return "has the wrong sign."
    if close(g, torch.ones_like(g)):
        return "is 1: it stands there without a factor."
    for power, words in ((2.0, "is the square of the right one."), (0.5, "is the root of the right one.")):
        if close(g, w.abs() ** power):
            return words
    if close(g, 1 / w):
        return "is upside down."
    if close(g, w):
        return ""  # wrong only where it is not finite
    if steps and len(g) > 3:
        if close(g[1:], w[1:]):
            return f"is right at every step but t = 0, where it is {g[0].item():.4g}."
        if close(g[:-1], w[:-1]):
            return f"is right at every step but the last, t = T - 1, where it is {g[-1].item():.4g}."
        if close(g[1:], w[:-1]):
            return "is that of the step before, t - 1."
        if close(g[:-1], w[1:]):
            return "is that of the step after, t + 1."
    ratio = as_product(g / w, tables, 2)
    mine = as_product(g, tables, 2)
    if mine == as_product(w, tables, 2):  # right wherever all tables are positive: no mistake to show
        mine = ""
    if not ratio and not mine:
        ratio = as_product(g / w, tables, 3)
    if ratio:
        return f"is the right one times {ratio}{f': yours is {mine}' if mine else ''}."
    if mine:
        return f"is {mine}."
    for name, table in tables.items():
        for sign, power, outer in itertools.product((1, -1), (0.5, 1.0, 2.0, -1.0), (1.0, 0.5)):
            odd = (1 + sign * table**power).abs() ** outer
            shown = _power(f"1 {'+' if sign > 0 else '-'} {_power(name, power)}", outer)
            for times, words in ((w, "the right one times "), (torch.ones_like(w), "")):
                for way, verb in ((odd * times, ""), (times / odd, "divided by ")):
                    if len(odd.unique()) > 3 and close(g, way):
                        words = words.replace("times", "times" if not verb else "").rstrip() + " " if words else ""
                        return f"is {words}{verb}{shown}."
    return ""


def close(a, b):
    both = a.isfinite() & b.isfinite()
    return bool(both.sum() >= 3) and torch.allclose(a[both], b[both], rtol=CLOSE, atol=1e-9)


def as_product(values, tables, most):
    """A constant times powers of at most so many tables, in words; "" if it is none, or chance."""
    sound = torch.ones_like(values, dtype=torch.bool)
    for table in tables.values():
        sound &= table.isfinite() & (table > 0)
    use = sound & values.isfinite() & (values != 0)
    if (sound & ((values == 0) | values.isinf())).any():  # where all tables are positive no product of them is that
        return ""
    if use.sum() < 5 or not (values[use] > 0).all() and not (values[use] < 0).all():
        return ""
    logs = {name: table[use].log() for name, table in tables.items()}
    logs = {name: log for name, log in logs.items() if (log - log[0]).abs().max() > 1e-6}
    target, sign = values[use].abs().log(), -1 if values[use][0] < 0 else 1
    for count in range(most + 1):
        simple = POWERS if count < 3 else POWERS[:4] + POWERS[6:8]
        powers = torch.tensor(list(itertools.product(simple, repeat=count)), dtype=torch.float64)  # (tries, count)
        for names in itertools.combinations(logs, count):
            product = powers @ torch.stack([logs[name] for name in names]) if count else torch.zeros_like(target)[None]
            rest = target - product
            spread = rest.amax(1) - rest.amin(1)
            if count:  # tables whose product is the same everywhere, as alpha * alpha_bar_prev / alpha_bar is 1
                spread[product.amax(1) - product.amin(1) < CLOSE] = math.inf
            if spread.min() < CLOSE:
                best = spread.argmin()
                constant = sign * rest[best].mean().exp().item()
                if not count and abs(constant - 1) < CLOSE:
                    return ""
                return _product(constant, names, powers[best].tolist())
    return ""


def _product(constant, names, powers):
    if not any(math.isclose(constant, nice, rel_tol=CLOSE) for nice in CONSTANTS):
        return ""
    above = [_power(name, p) for name, p in zip(names, powers, strict=True) if p > 0]
    below = [_power(name, -p) for name, p in zip(names, powers, strict=True) if p < 0]
    if not math.isclose(abs(constant), 1, rel_tol=CLOSE):
        small = abs(constant) < 1
        (below if small else above).insert(0, f"{1 / abs(constant) if small else abs(constant):.4g}")
    top = " * ".join(above) or "1"
    under = f" / {below[0]}" if len(below) == 1 else f" / ({' * '.join(below)})" if below else ""
    return f"{'-' if constant < 0 else ''}{top}{under}"


def _power(name, power):
    whole = f"({name})" if " - " in name or " + " in name else name
    if power == 0.5:
        return f"sqrt({name})"
    return whole if power == 1 else f"{whole}^{power:g}"


def wrong_term(evidence: Evidence) -> str:
    """For a result that is a sum of known terms: which terms have a wrong factor, are missing or too many."""
    check = evidence.check
    if check.terms is None or any(
        g is None or g.shape != w.shape for g, w in zip(evidence.got, evidence.want, strict=True)
    ):
        return ""
    rows = [check.terms(**evidence.named(case.args)) for case in check.cases]
    names = list(rows[0])
    matrix = torch.stack(
        [
            torch.cat([row[name].double().expand_as(w).flatten() for row, w in zip(rows, evidence.want, strict=True)])
            for name in names
        ],
        1,
    )
    mine, right = (
        _fitted(matrix, torch.cat([x.double().flatten() for x in xs if x is not None]))
        for xs in (evidence.got, evidence.want)
    )
    if mine is None or right is None:
        return ""
    words = []
    for name, m, r in zip(names, mine, right, strict=True):
        if abs(m - r) > 1e-4:
            place = f"the term {name}" if name != "1" else "the constant"
            if abs(m) < 1e-4 < abs(r):
                words.append(f"{place} is missing")
            elif abs(r) < 1e-4:
                words.append(f"{place} does not belong there" + (f" (yours has {m:.4g} of it)" if abs(m) != 1 else ""))
            else:
                base = ": that is the logarithm to base 2, and torch.log is the natural one"
                two = "log" in name and math.isclose(m * math.log(2), r, rel_tol=1e-3)
                words.append(f"{place} has the factor {m:.4g}" + (base if two else ", which is wrong"))
    if not 0 < len(words) <= 4:
        return ""
    return f"{evidence.subject} is a sum of the right kind, but {', and '.join(words)}."


def _fitted(matrix, target):
    """The factors of the terms, simple numbers; None if the target is no such sum."""
    if not target.isfinite().all():
        return None
    scale = matrix.norm(dim=0)
    found = torch.linalg.lstsq(matrix / scale, target[:, None], driver="gelsd").solution[:, 0] / scale
    error = (matrix @ found - target).abs()
    if (error > 1e-5 * target.abs() + 1e-5).any():
        return None
    nice = [1.0, 0.5, 2.0, 0.25, 1.5, 3.0, 4.0, 1 / math.log(2), 0.5 / math.log(2), 0.75]
    factors = [value.item() for value in found]
    simple = all(abs(f) < 1e-4 or any(abs(abs(f) - n) < 1e-4 for n in nice) for f in factors)
    return factors if simple else None
