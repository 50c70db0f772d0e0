"""Which listed mistakes, or which two of them, do the same as an answer."""

from torch import Tensor

from ddpm_lesson.checks._misconceptions import Wrong
from ddpm_lesson.checks._run import Outcome, run
from ddpm_lesson.checks._state import Modes
from ddpm_lesson.checks._values import same


def one_like(check, outcomes: list[Outcome]) -> list[Wrong]:
    """The misconceptions that do the same, if that is wrong: one at a time, of which there is one at most."""
    found = _alike(check, check.singles, outcomes, check.exact_dtype)
    if check.exact_dtype and not found:  # a wrong formula in float32 is a wrong formula first
        return _alike(check, check.singles, outcomes, False)
    return found


def two_like(check, outcomes: list[Outcome]) -> list[Wrong]:
    """The pairs of misconceptions that do the same."""
    return _alike(check, check.doubles, outcomes, False)


def outcome_of(check, wrong: Wrong, i: int, most: int | None = None) -> Outcome:
    """A wrong implementation's outcome on case i, or its first values, computed once."""
    key = (*map(id, wrong.made), i, most)
    if key not in check.known:
        check.known[key] = run(check, wrong.function, check.cases[i].args, Modes.now(), most)
    return check.known[key]


def _alike(check, wrongs, outcomes, exact):
    """Those of the wrong implementations that do the same.

    The same: equal values, up to float32's rounding, wherever the function gave any; one that raises there is ruled
    out. Where the function raised proves nothing, unless no value is wrong: then the misconception must raise the same.
    """
    problems, loose = check.problems(outcomes, exact), check.problems(outcomes, False)
    given = [i for i, outcome in enumerate(outcomes) if not outcome.trouble]
    if any(loose[i] and not check.cases[i].coarse for i in given):
        given = [i for i in given if not check.cases[i].coarse]
    given.sort(key=lambda i: not problems[i])  # the wrong values first: they rule most out
    if not any(problems[i] for i in given):
        raised = {i: outcome.trouble for i, outcome in enumerate(outcomes) if outcome.trouble}
        wrongs = [w for w in wrongs if raised and all(outcome_of(check, w, i).trouble == r for i, r in raised.items())]
    return [w for w in wrongs if not any(_differs(check, outcomes[i], w, i, exact) for i in given)]


def _differs(check, got, wrong, i, exact):
    if check.steps:  # most differ by the first wrong step: they need not go on
        most = _first_wrong(check, got, i) + 1
        if most < len(got.values) and _unlike(check, got.values[:most], outcome_of(check, wrong, i, most), exact):
            return True
    return _unlike(check, got.values, outcome_of(check, wrong, i), exact)


def _first_wrong(check, got, i):
    values = enumerate(zip(got.values, check.right[i].values, strict=False))
    return next((k for k, (g, w) in values if not same(g, w, floor=check.floor)), len(got.values))


def _unlike(check, got, want, exact):
    if want.trouble or len(got) != len(want.values):
        return True
    values = list(zip(got, want.values, strict=True))
    if exact and any(isinstance(w, Tensor) and g.dtype != w.dtype for g, w in values):
        return True
    return not all(same(g, w, floor=check.floor) for g, w in values)
