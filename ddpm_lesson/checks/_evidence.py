"""What the second stage looks at: one output of an answer, on all inputs, beside the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddpm_lesson.checks._run import Outcome, run
from ddpm_lesson.checks._state import Modes
from ddpm_lesson.checks._values import SINGLE, far, same

if TYPE_CHECKING:
    from ddpm_lesson.checks._engine import Check

ENOUGH = 4  # numbers that must agree before an agreement is no chance


@dataclass
class Evidence:
    """One output of an answer. `subject`: "Your result", or "Your mean" where there are several outputs."""

    check: Check
    function: Callable
    modes: Modes
    outcomes: list[Outcome]
    output: str

    @property
    def subject(self) -> str:
        return f"Your {self.output}" if len(self.check.outputs) > 1 else "Your result"

    @cached_property
    def got(self) -> list[Tensor | None]:
        return [self.value(outcome) for outcome in self.outcomes]

    @cached_property
    def want(self) -> list[Tensor]:
        return [self.value(outcome) for outcome in self.check.right]

    @cached_property
    def wrong(self) -> list[int]:
        """The inputs on which this output is wrong or missing."""
        return [i for i, (g, w) in enumerate(zip(self.got, self.want, strict=True)) if g is None or not same(g, w)]

    def value(self, outcome: Outcome) -> Tensor | None:
        """This output as a tensor; None where the function gave none."""
        if outcome.trouble:
            return None
        if self.check.returns is not Tensor:
            if any(abs(value) > 2**53 for value in outcome.values):
                return None
            numbers = [float(value) for value in outcome.values]
            return torch.tensor(numbers if self.check.returns is list else numbers[0], dtype=torch.float64)
        found = dict(zip(outcome.names, outcome.values, strict=True)).get(self.output)
        return None if found is None or found.is_meta or found.is_complex() else found

    def calls(self, *args: Any) -> Tensor | None:
        """This output of the answer for other arguments."""
        return self.value(run(self.check, self.function, args, self.modes))

    def should(self, *args: Any) -> Tensor | None:
        """The right output for other arguments, by the exercise's form, which is quick; None where there is none."""
        return self.value(run(self.check, self.check.form or self.check.specification, args, Modes.now()))

    def named(self, args: tuple) -> dict[str, Any]:
        return dict(zip(self.check.parameters, args, strict=False))

    def is_like(self, others: list[Tensor | None], ignoring: Callable | None = None) -> bool:
        """Whether the answer gave these values wherever it gave any.

        ignoring: of the other values, those that count for nothing.
        """
        numbers = 0
        for got, other in zip(self.got, others, strict=True):
            if got is None:
                continue
            if other is None or got.shape != other.shape:
                return False
            floor = self.check.floor
            wrong = far(got.clamp(min=floor), other.clamp(min=floor), SINGLE)
            counted = ~ignoring(other) if ignoring else torch.ones_like(wrong)
            if (wrong & counted).any():
                return False
            numbers += int(counted.sum())
        return numbers >= min(ENOUGH, sum(want.numel() for want in self.want))
