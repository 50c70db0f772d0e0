"""Verdicts put together: one student's, and how many of a class made which mistake."""

import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm_lesson.grading.exercises import Exercise, in_order
from ddpm_lesson.grading.harness import Job
from ddpm_lesson.grading.judge import Interrupted, judged
from ddpm_lesson.grading.notebooks import Copy, Unreadable, exercises_of, read_copy
from ddpm_lesson.grading.slices import Program
from ddpm_lesson.grading.students import HandIn, plain

STATUSES = ("passed", "failed", "stopped", "not attempted", "not graded")  # the better ones first


@dataclass(frozen=True)
class Verdict:
    """On one exercise. words: for the student. mistakes: the known ones among them. source: what was graded.

    status: one of STATUSES. stopped: no verdict in time, too much memory, a crash. not graded: the grader's own fault.
    """

    number: str
    name: str
    status: str
    words: str = ""
    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    output: str = ""
    source: str = ""
    cell: int | None = None
    notebook: str = ""
    seconds: float = 0.0
    lacks: dict[str, str] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True)
class Student:
    """verdicts: by the exercise's number. by_hand: exercises without a check. unread: files, and why not."""

    name: str
    notebooks: list[str]
    verdicts: dict[str, Verdict]
    by_hand: list[tuple[str, str]]
    unread: list[tuple[str, str]]

    def count(self, status: str) -> int:
        return sum(verdict.status == status for verdict in self.verdicts.values())


@dataclass(frozen=True)
class Limits:
    """Of each exercise: seconds on the clock, MB of memory beyond what PyTorch and the course take."""

    seconds: float = 60.0
    megabytes: int = 2048


def graded(
    hand_ins: Sequence[HandIn],
    limits: Limits,
    jobs: int = 1,
    told: Callable[[Student], None] = lambda student: None,
    stop: threading.Event | None = None,
) -> list[Student]:
    """Every student's verdicts, in the order of their names.  told: called with each student when done.

    jobs: students at a time. stop: set it, and what runs is ended. Raises OSError if no process can be started.
    """
    stop = stop or threading.Event()
    read = [(hand_in.student, [_copy(path) for path in hand_in.paths]) for hand_in in hand_ins]  # here: no thread
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_student, name, copies, limits, stop) for name, copies in read]
        found = []
        try:
            for each in running:
                found.append(each.result())
                told(found[-1])
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return found


def _copy(path: Path) -> Copy | tuple[str, str]:
    try:
        copy = read_copy(path)
        if not exercises_of(copy):
            raise Unreadable("expected a copy of a notebook of the course, found none of its exercises")
        return copy
    except (Unreadable, OSError) as error:
        words = getattr(error, "strerror", None) or str(error)
    except Exception as error:  # of one file, which is not to cost the others
        words = f"the grader failed to read it ({' '.join(traceback.format_exception_only(error)).strip()[:300]})"
    return plain(path.name), words


def _student(name: str, copies: Sequence[Copy | tuple[str, str]], limits: Limits, stop: threading.Event) -> Student:
    read = [copy for copy in copies if isinstance(copy, Copy)]
    verdicts: dict[str, Verdict] = {}
    by_hand: dict[str, str] = {}
    for copy in read:
        by_hand |= dict(copy.by_hand)
        for verdict in _verdicts(copy, limits, stop):
            before = verdicts.get(verdict.number)
            if before is None or STATUSES.index(verdict.status) < STATUSES.index(before.status):
                verdicts[verdict.number] = verdict  # of an exercise that was handed in twice the better counts
    return Student(
        name,
        [copy.path.name for copy in read],
        {number: verdicts[number] for number in sorted(verdicts, key=in_order)},
        sorted(by_hand.items(), key=lambda item: in_order(item[0])),
        [copy for copy in copies if not isinstance(copy, Copy)],
    )


def _verdicts(copy: Copy, limits: Limits, stop: threading.Event) -> list[Verdict]:
    """Of one copy, in the order of the exercises: a right answer is used by those after it, as in the notebook."""
    asked = exercises_of(copy)
    try:
        program = Program(copy.cells, asked)
    except Exception:
        return [Verdict(each.number, each.name, notebook=copy.path.name, **_failure()) for each in asked]
    found: list[Verdict] = []
    for exercise in asked:
        if stop.is_set():
            break
        passed = tuple(verdict.name for verdict in found if verdict.status == "passed")
        found.append(_verdict(copy, program, exercise, passed, limits, stop))
    return found


def _verdict(
    copy: Copy,
    program: Program,
    exercise: Exercise,
    passed: tuple[str, ...],
    limits: Limits,
    stop: threading.Event,
) -> Verdict:
    about: dict[str, Any] = {"number": exercise.number, "name": exercise.name, "notebook": copy.path.name}
    try:
        if cell := program.unreadable(exercise.name):
            words = f"Python cannot read code cell {cell.number}: {cell.trouble}."
            return Verdict(status="failed", words=words, cell=cell.number, source=cell.source, **about)
        chosen = program.chosen(exercise.name)
        if chosen is None:
            words = "" if program.definitions[exercise.name] else f"Nothing in this copy defines {exercise.name}."
            return Verdict(status="not attempted", words=words, **about)
        cell = chosen.statement.cell
        about |= {"cell": cell.number, "source": cell.source}
        plan = program.plan(exercise.name, passed)
        job = Job(plan, exercise, tuple(program.graded), passed, limits.seconds, limits.megabytes)
        return Verdict(**about, **judged(job, stop))
    except (Interrupted, OSError):  # of all, not of this exercise
        raise
    except Exception:
        return Verdict(**about, **_failure())


def _failure() -> dict[str, Any]:
    """What a verdict says where the grader itself has just failed."""
    return {"status": "not graded", "words": "The grader itself failed.", "trouble": traceback.format_exc()}


def mistakes_of(students: Sequence[Student]) -> dict[str, dict[str, list[str]]]:
    """For each exercise's number: what went wrong, and the names of whom it went wrong for; the most frequent first.

    A verdict counts for each known mistake that it names; one that names none counts as its own first words.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for student in students:
        for number, verdict in student.verdicts.items():
            if verdict.status not in ("failed", "stopped"):
                continue
            for words in verdict.mistakes or [verdict.words.split("\n")[0]]:
                found.setdefault(number, {}).setdefault(words, []).append(student.name)
    numbers = sorted(found, key=in_order)
    return {n: dict(sorted(found[n].items(), key=lambda item: (-len(item[1]), item[0]))) for n in numbers}


def all_numbers(students: Sequence[Student]) -> dict[str, str]:
    """The name of each exercise of which any student handed in the notebook, by number, in order."""
    names = {number: verdict.name for student in students for number, verdict in student.verdicts.items()}
    return {number: names[number] for number in sorted(names, key=in_order)}
