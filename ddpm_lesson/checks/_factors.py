"""Which factor is wrong: formulas that are sums of images times coefficients, products of powers, or sums of terms."""

import itertools
import math

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import ENOUGH, Evidence

POWERS = (0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.0, -2.0, 3.0, -3.0, 4.0, -4.0)
CONSTANTS = [a * b for a in (1, 2, 4, 3, math.sqrt(2), math.pi, math.log(2), math.log(10000)) for b in (1, -1)]
CONSTANTS += [1 / c for c in CONSTANTS if abs(c) != 1]
CLOSE = 3e-5


def wrong_factor(evidence: Evidence) -> str:
    """For a result that is a sum of images, each times a factor of its own: which factor is wrong, and how."""
    check = evidence.check
    probe = _probe(evidence) if check.images else None
    if probe is None:
        return ""
    named, got, want = probe
    tables = _at_every_step(check, named)
    found = {name: _compared(name, got, want, tables) for name in check.images}
    right = [name for name, words in found.items() if words == ""]
    wrong = {name: words for name, words in found.items() if words}
    if not wrong or not right and set(wrong.values()) == {"is wrong."}:
        return ""
    ratios = [got[name] / want[name] for name in wrong]
    if len(ratios) > 1 and _close(ratios[0], ratios[1]) and (common := _as_product(ratios[0], tables, 2)):
        return f"Your factors of {' and of '.join(wrong)} are both the right ones times {common}."
    start = f"Your factor of {' and of '.join(right)} is right. " if right else ""
    return start + " ".join(f"Your factor of {name} {words}" for name, words in wrong.items())


def _probe(evidence):
    """The factors of each image at every step, the answer's and the right ones; None if the answer is no such sum."""
    named, pattern = _every_step(evidence)
    zero = evidence.calls(*named.values())
    if zero is None or zero.shape != pattern.shape:
        return None
    got, want, whole = {}, {}, 0
    for name in evidence.check.images:
        for factors, call in ((got, evidence.calls), (want, evidence.should)):
            out = call(*(named | {name: pattern}).values())
            if out is None or out.shape != pattern.shape:
                return None
            factors[name] = (out / pattern).flatten(1).double()
        whole = whole + evidence.calls(*(named | {name: pattern}).values())
    both = evidence.calls(*(named | {name: pattern for name in evidence.check.images}).values())
    rows = torch.stack([*got.values(), both.flatten(1).double(), zero.flatten(1).double()]).isfinite().all(0).all(1)
    sound = [torch.allclose(f[rows], f[rows, :1], rtol=1e-4, atol=1e-6) for f in got.values()]
    sound += [
        torch.allclose(
            both[rows], whole[rows], rtol=1e-4, atol=1e-5 * float(whole[rows].abs().max()) if rows.any() else 0
        )
    ]
    if rows.sum() < 5 or not all(sound) or zero[rows].abs().max() > 1e-6:
        return None
    return named, *({name: factor[:, 0] for name, factor in factors.items()} for factors in (got, want))


def _every_step(evidence):
    """Arguments with one image of zeros for each step of a chain of ten, and a pattern to put into one of them."""
    check = evidence.check
    case = max(check.cases, key=lambda case: (_length(evidence.named(case.args)) == 10, len(case.args[0].shape) == 4))
    named = evidence.named(case.args)
    T = _length(named)
    pattern = (torch.arange(T * 24, dtype=torch.float64).reshape(T, 1, 4, 6) % 7 + 1) / 8
    pattern = pattern.to(named[check.images[0]].dtype)
    return named | {name: torch.zeros_like(pattern) for name in check.images} | {"t": torch.arange(T)}, pattern


def wrong_at_steps(evidence: Evidence) -> str:
    """For an output with one number for each image, as a variance: how it differs from the right one, over the steps."""
    if not evidence.check.images:
        return ""
    named, pattern = _every_step(evidence)
    got, want = evidence.calls(*named.values()), evidence.should(*named.values())
    if got is None or want is None or got.numel() != len(pattern) or want.numel() != len(pattern):
        return ""
    words = _told(got.flatten().double(), want.flatten().double(), _at_every_step(evidence.check, named))
    return f"{evidence.subject} {words}" if words else ""


def _length(named):
    return next(len(arg) for name, arg in named.items() if isinstance(arg, Tensor) and arg.ndim == 1 and name != "t")


def _at_every_step(check, named):
    return {name: table.double() for name, table in check.tables(**named).items()} if check.tables else {}


def _compared(name, got, want, tables):
    """What is wrong with one factor, in words; "" if nothing is."""
    g, w = got[name], want[name]
    if torch.allclose(g, w, rtol=CLOSE, atol=1e-9, equal_nan=True):
        return ""
    others = {other: factor for other, factor in want.items() if other != name}
    for other, factor in others.items():
        if _close(g, factor):
            return f"is that of {other}."
        if _close(g, -factor):
            return f"is that of {other}, with the other sign."
    return _told(g, w, tables) or "is wrong."


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
    words = _told(torch.cat(g), torch.cat(w), tables, steps=False)
    return f"{evidence.subject} {words}" if words else ""


def _told(g, w, tables, steps=True):
    """How g differs from w, in words; "" if no simple way is found."""
    if _close(g, torch.zeros_like(g)):
        return "is 0: it is missing."
    if _close(g, -w):
        return "has the wrong sign."
    if _close(g, torch.ones_like(g)):
        return "is 1: it stands there without a factor."
    for power, words in ((2.0, "is the square of the right one."), (0.5, "is the root of the right one.")):
        if _close(g, w.abs() ** power):
            return words
    if _close(g, 1 / w):
        return "is upside down."
    if _close(g, w):
        return ""  # wrong only where it is not finite
    if steps and len(g) > 3:
        if _close(g[1:], w[1:]):
            return f"is right at every step but t = 0, where it is {g[0].item():.4g}."
        if _close(g[:-1], w[:-1]):
            return f"is right at every step but the last, t = T - 1, where it is {g[-1].item():.4g}."
        if _close(g[1:], w[:-1]):
            return "is that of the step before, t - 1."
        if _close(g[:-1], w[1:]):
            return "is that of the step after, t + 1."
    ratio = _as_product(g / w, tables, 2)
    mine = _as_product(g, tables, 2)
    if ratio:
        return f"is the right one times {ratio}{f': yours is {mine}' if mine else ''}."
    if mine:
        return f"is {mine}."
    for name, table in tables.items():
        for sign, power in itertools.product((1, -1), (0.5, 1.0, 2.0)):
            odd = 1 + sign * table**power
            for times, words in ((w, "the right one times "), (torch.ones_like(w), "")):
                for way, verb in ((odd * times, ""), (times / odd, "divided by ")):
                    if len(odd.unique()) > 3 and _close(g, way):
                        words = words.replace("times", "times" if not verb else "").rstrip() + " " if words else ""
                        return f"is {words}{verb or ''}(1 {'+' if sign > 0 else '-'} {_power(name, power)})."
    return ""


def _close(a, b):
    both = a.isfinite() & b.isfinite()
    return bool(both.sum() >= 3) and torch.allclose(a[both], b[both], rtol=CLOSE, atol=1e-9)


def _as_product(values, tables, most):
    """A constant times powers of at most so many tables, in words; "" if it is none, or chance."""
    use = values.isfinite() & (values != 0)
    for table in tables.values():
        use &= table.isfinite() & (table > 0)
    if use.sum() < 5 or not (values[use] > 0).all() and not (values[use] < 0).all():
        return ""
    logs = {name: table[use].log() for name, table in tables.items()}
    logs = {name: log for name, log in logs.items() if (log - log[0]).abs().max() > 1e-6}
    target, sign = values[use].abs().log(), -1 if values[use][0] < 0 else 1
    for count in range(most + 1):
        powers = torch.tensor(list(itertools.product(POWERS, repeat=count)), dtype=torch.float64)  # (tries, count)
        for names in itertools.combinations(logs, count):
            rest = target - powers @ torch.stack([logs[name] for name in names]) if count else target[None]
            spread = rest.amax(1) - rest.amin(1)
            if spread.min() < CLOSE:
                best = spread.argmin()
                constant = sign * rest[best].mean().exp().item()
                if count or abs(constant - 1) > CLOSE:
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
        _fitted(matrix, torch.cat([x.double().flatten() for x in xs])) for xs in (evidence.got, evidence.want)
    )
    if mine is None or right is None:
        return ""
    words = []
    for name, m, r in zip(names, mine, right, strict=True):
        if abs(m - r) > 1e-4:
            place = f"the term {name}" if name != "1" else "the constant"
            if abs(m) < 1e-4:
                words.append(f"{place} is missing")
            elif abs(r) < 1e-4:
                words.append(f"{place} does not belong there" + (f" (yours has {m:.4g} of it)" if abs(m) != 1 else ""))
            else:
                words.append(f"{place} has the factor {m:.4g}, which is wrong")
    if not 0 < len(words) <= 3:
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
