"""What a check gives back: the learner's function if it is right, else the course's own implementation.

Either keeps its verdict, so that a cell `q_sample = checks.q_sample(q_sample)` that is run twice says the same twice.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from ddpm_lesson.checks._finished import FINISHED
from ddpm_lesson.checks._state import kept


class Verdict(NamedTuple):
    """ "yes", "no" or "not attempted", and the words that follow."""

    verdict: str
    detail: str


NOT_ATTEMPTED = Verdict("not attempted", "")
_given_back: dict[str, Callable] = {}  # in this process: by the exercise's name


class Finished:
    """The course's own implementation of an exercise, with the verdict on the answer that it replaces."""

    def __init__(self, name: str, function: Callable, verdict: Verdict = NOT_ATTEMPTED):
        functools.update_wrapper(self, function)
        self._function, self.verdict = function, verdict
        self.__name__ = self.__qualname__ = name

    def __call__(self, *args, **kwargs):
        return self._function(*args, **kwargs)

    def __repr__(self):
        return f"<the course's own {self.__name__}>"


def give_back(name: str, function: Callable, verdict: Verdict) -> Callable:
    """The function if the verdict is yes, else the finished one; kept for `carried`."""
    if verdict.verdict == "yes":
        given = _guarded(function) if "it changes torch's" in verdict.detail else function
    elif isinstance(function, Finished) or name not in FINISHED:
        given = function
    else:
        given = Finished(name, FINISHED[name], verdict)
    _given_back[name] = given
    return given


def verdict_of(function: Callable) -> Verdict | None:
    """The verdict that came with a function which a check gave back instead of the learner's."""
    return function.verdict if isinstance(function, Finished) else None


def carried(name: str) -> Callable:
    """What the check of this exercise gave back in this kernel, else the course's own implementation.

    Lets a sitting start alone: `q_sample = checks.carried("q_sample")`. Raises KeyError for a name without exercise.
    """
    if name not in FINISHED and name not in _given_back:
        raise KeyError(f"no exercise is called {name!r}; there are {', '.join(FINISHED)}")
    return _given_back[name] if name in _given_back else Finished(name, FINISHED[name])


def _guarded(function):
    """The function, after each call of which torch's global state is what it was before."""

    @functools.wraps(function)
    def guarded(*args, **kwargs):
        with kept():
            return function(*args, **kwargs)

    return guarded
