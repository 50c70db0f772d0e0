"""The engine of the checks: run a learner's function beside a slow specification and say which mistake it makes.

What is printed is plain text and the same on every machine: no tensors, rounded numbers, nothing random.
"""

import copy
import dis
import inspect
import math
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import NamedTuple

import torch
from torch import Tensor

SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # what a computation in float32 leaves
DOUBLE = {"rtol": 1e-10, "atol": 1e-14}
HUGE = 1e12  # past it a number was divided by a zero that came out rounded, and its size is chance
KINDS = {Tensor: "a tensor", int: "an int", list: "a list of ints"}


class Case(NamedTuple):
    """One input: how a message describes it, and the positional arguments."""

    words: str
    args: tuple


class Misconception(NamedTuple):
    """A wrong implementation and the sentence for whoever wrote it."""

    function: Callable
    sentence: str


class Outcome(NamedTuple):
    """What a function did with one case: its values, or the trouble that kept it from returning any."""

    values: tuple[Tensor, ...] | tuple[int, ...]
    trouble: str
    line: str  # the one that raised, in words
    changed: set[str]  # the parameters whose arguments it altered


@dataclass(eq=False, repr=False)  # a repr would give the answers away
class Check:
    """One exercise: called with a function it prints whether that is right, or which mistake it makes.

    specification: slow and obvious; returns a tensor, or a tuple with a tensor for each name in `outputs`.
    returns: int or list if it returns an int or a list of ints, which must then be equal and not close.
    cases: the inputs, nasty ones included; `among` names those in the line that says yes.
    exact_dtype: the result must have the specification's dtype and precision. Otherwise every floating-point
    dtype passes, and float32's rounding is forgiven.
    A call prints, returns None and raises nothing because of the function. Not `diagnose`: that returns the same words.
    """

    number: str
    name: str
    specification: Callable
    cases: tuple[Case, ...]
    among: str
    misconceptions: tuple[Misconception, ...]
    outputs: tuple[str, ...] = ("out",)
    returns: type = Tensor
    exact_dtype: bool = False

    def __post_init__(self):
        self.__doc__ = self.specification.__doc__
        self._parameters = list(inspect.signature(self.specification).parameters)

    def __call__(self, function: Callable) -> None:
        verdict, detail = self.diagnose(function)
        print(f"{self.number} {self.name}: {verdict}{detail}")

    def diagnose(self, function: Callable) -> tuple[str, str]:
        """The verdict "yes", "no" or "not attempted", and the text that follows it in the printed line."""
        if not callable(function):
            return "no", f". Expected a function, got {type(function).__name__}."
        if _is_stub(function):
            return "not attempted", ""
        if misfit := self._misfit(function):
            return "no", f". {misfit}"
        outcomes = self.run(function)
        mistake = self._mistake(function, outcomes)
        changed = [name for name in self._parameters if any(name in o.changed for o in outcomes)]
        if changed:
            mistake = f"{mistake} And your" if mistake else "The result is right, but your"
            mistake += f" function changes {' and '.join(changed)} in place: the caller loses what was there. "
            lists = any(isinstance(arg, list) for arg in self.cases[0].args)
            new = "list, x[::-1] and not x.reverse()" if lists else "tensor, x * a and not x *= a"
            mistake += f"Build a new {new}."
        if mistake:
            return "no", f". {mistake}"
        return "yes", f" ({len(self.cases)} inputs, {self.among} among them)"

    def run(self, function: Callable) -> list[Outcome]:
        """The function's outcome on each case, on fresh copies of the arguments."""
        return [self._run_case(function, case) for case in self.cases]

    def explanations(self, outcomes: list[Outcome]) -> list[Misconception]:
        """The misconceptions that do the same, if that is wrong.

        The same: equal values, up to float32's rounding, wherever the function gave any; a misconception that raises
        there is ruled out. Where the function raised proves nothing, unless no value is wrong: then the misconception
        must raise the same. If exact_dtype leaves none, the dtype is set aside: a wrong formula in float32 is a wrong
        formula first.
        """
        runs = [(m, self.run(m.function)) for m in self.misconceptions]
        found = self._same_as(outcomes, runs, self.exact_dtype)
        return found or (self._same_as(outcomes, runs, False) if self.exact_dtype else [])

    def _same_as(self, outcomes, runs, exact):
        problems = self._problems(outcomes, exact)
        given = [i for i, outcome in enumerate(outcomes) if not outcome.trouble]
        troubles = {i: outcome.trouble for i, outcome in enumerate(outcomes) if outcome.trouble}
        if not any(problems[i] for i in given):
            runs = [(m, o) for m, o in runs if troubles and all(o[i].trouble == words for i, words in troubles.items())]
        return [m for m, o in runs if not any(self._differs(outcomes[i], o[i], exact) for i in given)]

    def _problems(self, outcomes, exact):
        """How each outcome differs from the specification's, in words; "" where it does not."""
        wanted, tolerance = self.run(self.specification), DOUBLE if exact else SINGLE
        return [self._differs(got, want, exact, tolerance) for got, want in zip(outcomes, wanted, strict=True)]

    def _mistake(self, function, outcomes):
        """The sentence to print; "" if every value is right."""
        problems = self._problems(outcomes, self.exact_dtype)
        if not any(problems):
            return ""
        if found := self.explanations(outcomes):
            return found[0].sentence
        if self._problems(self.run(function), self.exact_dtype) != problems:
            return "Two calls with the same input gave two results: what is random must be an argument."
        case, problem = next((c, p) for c, p in zip(self.cases, problems, strict=True) if p)
        return f"For {case.words}: {problem}{'' if problem.endswith(('.', '?')) else '.'}"

    def _differs(self, got, want, exact, tolerance=SINGLE):
        """Where two outcomes first differ, in words; "" if they agree."""
        if got.trouble or want.trouble:
            return got.trouble + got.line or want.trouble
        if self.returns is not Tensor:
            return _first_unequal(self.outputs[0], got.values, want.values, indexed=self.returns is list)
        for name, g, w in zip(self.outputs, got.values, want.values, strict=True):
            if g.shape != w.shape:
                return f"expected {name} of shape {tuple(w.shape)}, got {tuple(g.shape)}"
            if g.dtype != w.dtype and (exact or not g.is_floating_point()):
                return f"expected {name} of dtype {w.dtype}, got {g.dtype}"
            far = ~torch.isclose(_comparable(g), _comparable(w), equal_nan=True, **tolerance)
            if far.any():
                return _first_difference(name, g, w, far.nonzero()[0].tolist())
        return ""

    def _run_case(self, function, case):
        args, values, trouble, line = copy.deepcopy(case.args), (), "", ""
        many = len(self.outputs) > 1
        try:
            returned = function(*args)
            parts = tuple(returned) if many and isinstance(returned, tuple | list) else (returned,)
            if returned is None:
                trouble = "your function returns None: did you forget return?"
            elif len(parts) != len(self.outputs) or not all(isinstance(part, self.returns) for part in parts):
                wanted = f"the tensors {', '.join(self.outputs)}" if many else KINDS[self.returns]
                trouble = f"expected {wanted}, got {', '.join(type(part).__name__ for part in parts) or 'nothing'}"
            elif self.returns is Tensor:
                values = tuple(part.detach().cpu().to_dense().clone() for part in parts)
            else:
                values = tuple(returned) if self.returns is list else parts
                if odd := sorted({type(value).__name__ for value in values} - {"int"}):
                    inside = "one with " if self.returns is list else ""
                    trouble = f"expected {KINDS[self.returns]}, got {inside}{' and '.join(odd)}"
        except (Exception, SystemExit) as error:
            trouble, line = f"your function raised {_words(error)}", _line(error)
        passed = zip(self._parameters, args, case.args, strict=False)  # what is left out keeps its default
        return Outcome(values, trouble, line, {name for name, after, before in passed if not _same(after, before)})

    def _misfit(self, function):
        """What is wrong with the function's parameters; "" if the inputs can be passed to it."""
        try:
            signature = inspect.signature(function)
        except Exception:  # a built-in that does not tell, or a __signature__ that is none
            return ""
        try:
            signature.bind(*self.cases[0].args)
        except TypeError:
            mine, yours = self._parameters, list(signature.parameters)
            return f"Expected {len(mine)} parameters ({', '.join(mine)}), got {len(yours)} ({', '.join(yours)})."
        return ""


def _is_stub(function):
    """True while the body is `...`, `pass`, a docstring or `raise NotImplementedError`: it reads no variable."""
    try:
        code = inspect.unwrap(function).__code__
    except Exception:  # no plain function
        return False
    if not isinstance(code, CodeType) or not set(code.co_names) <= {"NotImplementedError"}:
        return False
    if not all(const is None or const is ... or isinstance(const, str) for const in code.co_consts):
        return False
    work = ("LOAD_FAST", "LOAD_DEREF", "LOAD_SMALL_INT", "STORE_", "BUILD_")
    return not any(step.opname.startswith(work) for step in dis.get_instructions(code))


def _first_difference(name, got, want, index):
    g, w = got[tuple(index)].item(), want[tuple(index)].item()
    digits = next(n for n in range(4, 18) if f"{g:.{n}g}" != f"{w:.{n}g}")  # 4, or what tells them apart
    place = f"{name}[{','.join(map(str, index))}]" if index else name
    remark = "" if math.isfinite(g) else ", which is not a finite number"
    return f"expected {place} = {w:.{digits}g}, got {g:.{digits}g}{remark}"


def _first_unequal(name, got, want, indexed):
    """Where the ints first differ, in words; "" if they agree."""
    if len(got) != len(want):
        return f"expected {name} with {len(want)} entries, got {len(got)}"
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        if g != w:
            g = g if abs(g) < 10**18 else "a number of more than 18 digits"
            return f"expected {name}{f'[{i}]' * indexed} = {w}, got {g}"
    return ""


def _comparable(values):
    values = values.double()
    return torch.where(values.abs() > HUGE, values * math.inf, values)


def _same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b) if isinstance(b, Tensor) else a == b


def _words(error):
    """Type and first line of the message."""
    try:
        message = re.sub("0x[0-9a-fA-F]+", "0x...", str(error)).strip().split("\n")[0]
    except Exception:  # its __str__ is broken too
        message = ""
    return type(error).__name__ + (f": {message}" if message else "")


def _line(error):
    """The line of the function that raised."""
    frames = traceback.extract_tb(error.__traceback__)[1:2]  # 0 is this file, 1 the function
    return f" (in the line: {frames[0].line})" if frames and frames[0].line else ""
