"""The engine of the checks: run a learner's function beside a slow specification and say which mistake it makes.

What is printed is plain text and the same on every machine: no tensors, rounded numbers, nothing random.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from ddpm_lesson.checks._accelerator import on_accelerator
from ddpm_lesson.checks._alike import one_like
from ddpm_lesson.checks._carry import Verdict, give_back, verdict_of
from ddpm_lesson.checks._elsewhere import made_elsewhere
from ddpm_lesson.checks._explain import explain
from ddpm_lesson.checks._gradients import cut_off, needs_grad_mode, of_arguments
from ddpm_lesson.checks._misconceptions import Misconception, Wrong, implemented, pairs
from ddpm_lesson.checks._precision import loses_digits
from ddpm_lesson.checks._run import YIELDED, Case, Outcome, called, run
from ddpm_lesson.checks._state import Modes, kept, plain
from ddpm_lesson.checks._stub import is_stub
from ddpm_lesson.checks._values import DOUBLE, SINGLE, difference


@dataclass(eq=False, repr=False)  # a repr would give the answers away
class Check:
    """One exercise: called with a function it prints whether that is right, or which mistake it makes.

    specification: slow and obvious; returns a tensor, or a tuple with a tensor for each name in `outputs`.
    form: a right implementation with choices, of which the misconceptions replace some: a table, from the sentence to
    what is replaced.
    cases: the inputs, nasty ones included; `among` names those in the line that says yes. beyond: inputs of which the
    exercise does not speak: whoever fails there is told so, and is right all the same.
    returns: int or list if it returns an int or a list of ints, which must then be equal and not close.
    exact_dtype: the result must have the specification's dtype and precision. Otherwise every floating-point dtype
    passes, and float32's rounding is forgiven. exact_zeros: the outputs in which 0 must be 0.
    floor: below it a misconception's numbers and an answer's are taken to be alike.
    script: how the answer is used, a generator of (name, value); None calls it once. steps: what the script yields are
    steps of one computation, and the first wrong one is named.
    changes: the arguments that an answer is meant to change, as training changes a network.
    gradients: the arguments that a gradient must reach, in a part of a network; it is compared with that of the form.
    stopped: the arguments that no gradient may reach, though the result depends on them.
    trained: (check, answer, args) -> the result and what gradients must reach, of an answer that is no plain function.
    cuts: a table like that of the misconceptions, of what cuts a gradient and leaves every value right.
    grad_mode: the sentence for an answer that is right only where gradients are on, if it has to be right under
    torch.no_grad(), too; "" asks for nothing.
    float64: what to do, if float64 arguments must give float64; "" asks for nothing. beside: the argument where new
    tensors are to be made, if a GPU may hold it.
    inputs: of a class, whose case holds two tuples, the constructor's arguments and forward's: the names of forward's.
    images: the arguments of which the result is a sum of one factor for each image; batch: those with one entry for
    each image. random: the argument that holds the noise.
    tables, terms, places, clues: what the second stage knows of the exercise, see `_explain`.
    A call prints, and gives back the function if it is right, else the course's own implementation. It raises nothing
    because of the function, but an interrupt. Not `diagnose`: that returns the words.
    """

    number: str
    name: str
    specification: Callable
    cases: tuple[Case, ...]
    among: str
    misconceptions: dict[str, dict[str, Any]]
    form: Callable | None = None
    outputs: tuple[str, ...] = ("out",)
    returns: type = Tensor
    exact_dtype: bool = False
    exact_zeros: tuple[str, ...] = ()
    floor: float = -math.inf
    beyond: tuple[Case, ...] = ()
    script: Callable[..., Iterator[tuple]] | None = None
    steps: bool = False
    changes: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    trained: Callable = of_arguments
    cuts: dict[str, dict[str, Any]] = field(default_factory=dict)
    grad_mode: str = ""
    float64: str = ""
    beside: str = ""
    inputs: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()
    random: str = ""
    tables: Callable | None = None
    terms: Callable | None = None
    places: Callable | None = None
    clues: tuple[Callable, ...] = ()
    parameters: list[str] = field(init=False)
    mistakes: list[Misconception] = field(init=False)
    known: dict[tuple, Outcome] = field(init=False, default_factory=dict)  # outcomes of wrong implementations

    def __post_init__(self):
        self.__doc__ = self.specification.__doc__
        self.parameters = list(inspect.signature(self.specification).parameters)
        self.mistakes = [Misconception(sentence, **edits) for sentence, edits in self.misconceptions.items()]
        if self.script is None:
            self.script = partial(called, outputs=self.outputs, returns=self.returns)

    def __call__(self, function: Callable) -> Callable:
        verdict, detail = self.diagnose(function)
        print(f"{self.number} {self.name}: {verdict}{detail}")
        return give_back(self.name, function, Verdict(verdict, detail))

    def diagnose(self, function: Callable) -> tuple[str, str]:
        """The verdict "yes", "no" or "not attempted", and the text that follows it in the printed line."""
        if earlier := verdict_of(self.name, function):  # what a check gave back: the cell was run twice
            return earlier
        with kept():
            modes = Modes.now()
            with plain():
                return self._diagnose(function, modes)

    def run(self, function: Callable, modes: Modes | None = None) -> list[Outcome]:
        """The function's outcome on each case, on fresh copies of the arguments."""
        with plain():
            most: list[int | None] = [None] * len(self.cases)
            if self.steps and function is not self.specification:  # an answer may have no end
                most = [len(outcome.values) + 1 for outcome in self.right]
            return [
                run(self, function, case.args, modes or Modes.now(), n)
                for case, n in zip(self.cases, most, strict=True)
            ]

    def problems(self, outcomes: list[Outcome], exact: bool | None = None, zeros: bool = True) -> list[str]:
        """How each outcome differs from the specification's, in words; "" where it does not."""
        exact = self.exact_dtype if exact is None else exact
        return [self.problem(got, want, exact, zeros) for got, want in zip(outcomes, self.right, strict=True)]

    @cached_property
    def right(self) -> list[Outcome]:
        return self.run(self.specification)

    @cached_property
    def singles(self) -> list[Wrong]:
        return [implemented(self.form, misconception) for misconception in self.mistakes]

    @cached_property
    def doubles(self) -> list[Wrong]:
        return list(pairs(self.form, self.mistakes))

    def _diagnose(self, function, modes):
        if not callable(function):
            return "no", f". Expected a function, got {type(function).__name__}."
        if is_stub(function):
            return "not attempted", ""
        if misfit := self._misfit(function):
            return "no", f". {misfit}"
        outcomes = self.run(function, modes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # once is enough, and the engine's own questions are no answer's business
            return self._verdict(function, modes, outcomes)

    def _verdict(self, function, modes, outcomes):
        problems = self.problems(outcomes)
        mistake = explain(self, function, modes, outcomes, problems) if any(problems) else ""
        names = *(self.inputs or self.parameters), YIELDED
        changed = [name for name in names if any(name in outcome.changed for outcome in outcomes)]
        if changed:
            mistake = self._in_place(mistake, " and ".join(changed), bool(one_like(self, outcomes)))
        mistake = mistake or cut_off(self, function, modes) or needs_grad_mode(self, function, modes)
        mistake = mistake or loses_digits(self, function, modes) or made_elsewhere(self, function, modes)
        mistake = mistake or on_accelerator(self, function, modes)
        if mistake:
            return "no", f". {mistake}"
        return "yes", f" ({len(self.cases)} inputs, {self.among} among them){self._remarks(function, modes, outcomes)}"

    def _in_place(self, mistake, changed, listed):
        """The sentence, with the change of an argument in it: before a mistake that may follow from the change."""
        lists = changed != YIELDED and any(isinstance(arg, list) for arg in self.cases[0].args)
        new = f"Build a new {'list, x[::-1] and not x.reverse()' if lists else 'tensor, x * a and not x *= a'}."
        lost = f"function changes {changed} in place: the caller loses what was there"
        if not mistake:
            return f"The result is right, but your {lost}. {new}"
        if listed:
            return f"{mistake} And your {lost}. {new}"
        rest = mistake[0].lower() + mistake[1:]
        return f"Your {lost}, and what you compute after it sees the changed numbers. {new} As it is: {rest}"

    def problem(self, got, want, exact, zeros=True):
        """Where an outcome first differs from the wanted one, in words; "" if it does not."""
        many = len(want.values)
        if self.returns is list and not got.trouble and len(got.values) != many:
            return f"expected out with {many} entries, got {len(got.values)}"
        for name, g, w in zip(want.names, got.values, want.values, strict=False):
            tolerance = DOUBLE if exact else SINGLE
            place = "out" if self.steps else name
            options = {"exact": exact, "zeros": zeros and name in self.exact_zeros, "tolerance": tolerance}
            if words := difference(place, g, w, **options):
                return f"{name} is the first step that is wrong: {words}" if self.steps else words
        if got.trouble:
            late = self.steps and got.line and len(got.values) < many
            return (f"at {want.names[len(got.values)]} " if late else "") + got.trouble + got.line
        if len(got.values) != many:
            more = len(got.values) > many
            return f"expected {many} steps, got {'more' if more else len(got.values)}"
        return ""

    def _remarks(self, function, modes, outcomes):
        """What is said beside a yes."""
        switched = sorted(set().union(*(outcome.switched for outcome in outcomes)))
        words = (
            f". But it changes torch's {' and '.join(switched)}: put back what your function sets" if switched else ""
        )
        for case in self.beyond:
            got, want = (run(self, f, case.args, m) for f, m in ((function, modes), (self.specification, Modes.now())))
            if problem := self.problem(got, want, self.exact_dtype):
                words += f". Beyond the exercise, for {case.words}: {problem}"
        return words and f"{words.removesuffix('.')}."

    def _misfit(self, function):
        """What is wrong with the function's parameters; "" if the inputs can be passed to it."""
        if inspect.isclass(function) or self.steps:
            return ""
        try:
            signature = inspect.signature(function)
        except Exception:  # a built-in that does not tell, or a __signature__ that is none
            return ""
        try:
            signature.bind(*self.cases[0].args)
        except TypeError:
            mine, yours = self.parameters, list(signature.parameters)
            return f"Expected {len(mine)} parameters ({', '.join(mine)}), got {len(yours)} ({', '.join(yours)})."
        return ""
