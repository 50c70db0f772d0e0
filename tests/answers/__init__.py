"""Answers from outside: whoever wrote them knew the exercises' statements, and neither specifications nor tables."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class Wrong(NamedTuple):
    """A wrong answer: its mistake and the mistake's kind as its author says, the words that name it in the verdict."""

    name: str
    function: Callable
    mistake: str
    kind: str
    words: tuple[str, ...]


class Correct(NamedTuple):
    name: str
    function: Callable
    style: str


@dataclass
class Answers:
    """Those of one notebook."""

    wrongs: list[Wrong] = field(default_factory=list)
    corrects: list[Correct] = field(default_factory=list)

    def wrong(self, function: Callable, mistake: str, kind: str, *words: str) -> None:
        self.wrongs.append(Wrong(function.__name__, function, mistake, kind, words))

    def correct(self, function: Callable, style: str, name: str = "") -> None:
        self.corrects.append(Correct(name or function.__name__, function, style))
