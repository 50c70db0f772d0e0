"""The command grade: the exercises of students' copies, judged by the course's checks."""

import argparse
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ddpm_lesson
from ddpm_lesson.cli.options import command_of, name, positive, shortened
from ddpm_lesson.cli.outputs import check_new_folder, there

if TYPE_CHECKING:
    from ddpm_lesson.grading.grades import Student

SECONDS, MEGABYTES = (1, 86400), (64, 10**6)  # the least and the most
OURS = {"grades.csv", "grades.json", "class.html", "feedback"}  # what a folder of grades holds


def add(commands: Any) -> None:
    more = "Each exercise runs in a process of its own, without a network. It is no sandbox: see docs/instructors.md."
    command = command_of(commands, grade, "Grade copies of the notebooks.", more, computes=False)
    words = "a notebook, or a folder with a notebook or a sub-folder for each student"
    command.add_argument("copies", nargs="+", type=name, metavar="COPY", help=words)
    words = "folder to write: grades.csv, grades.json, class.html and feedback/, a page for each student [grades]"
    command.add_argument("--out", type=name, default="grades", metavar="FOLDER", help=words)
    words = "time for each exercise, on the clock, in seconds; waiting for a busy processor is free on Linux [60]"
    command.add_argument("--timeout", type=seconds, default=60.0, metavar="S", help=words)
    words = "memory for each exercise, in MB, beyond what PyTorch takes; on Linux only [2048]"
    command.add_argument("--memory", type=megabytes, default=2048, metavar="MB", help=words)
    command.add_argument("--jobs", type=positive, metavar="N", help="students at a time [one for each processor]")
    command.add_argument("--force", action="store_true", help="replace a folder of earlier grades")


def grade(options: argparse.Namespace) -> int:
    """Grade, print the table, and write the folder whole; neither is lost if the other fails."""
    from ddpm_lesson.grading.grades import Limits, graded  # here: other commands do without the checks
    from ddpm_lesson.grading.report import CLASS, FEEDBACK, printed, written
    from ddpm_lesson.grading.students import hand_ins

    out = Path(options.out)
    _check_out(out, options.force)
    found, limits, stop = hand_ins(options.copies), Limits(options.timeout, options.memory), threading.Event()

    def told(student: "Student") -> None:
        if not options.quiet:
            counts = f"{student.count('passed')} of {len(student.verdicts)} passed"
            print(f"{student.name}: {counts}", file=sys.stderr, flush=True)

    jobs = min(options.jobs or processors(), len(found), 64)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what runs, as Ctrl-C does
    try:
        students = graded(found, limits, jobs, told, stop)
    finally:
        signal.signal(signal.SIGTERM, before)
    _say_what_is_absent(students)
    try:
        _show(printed(students))
    finally:
        written(students, limits, f"ddpm_lesson {ddpm_lesson.__version__}", out, options.force)
    _show(f"{out / CLASS}: the class; {out / FEEDBACK}: a page for each student")
    return 0


def _show(text: str) -> None:
    """Print it; letters that the terminal does not have, as those of a name, become "?"."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


def _check_out(out: Path, force: bool) -> None:
    """Raise OSError of one sentence unless the folder can be written, and nothing but grades would be lost."""
    if not (there(out) and out.is_dir() and any(out.iterdir())):
        check_new_folder(out)
        return
    strange = sorted({path.name for path in out.iterdir()} - OURS)
    if strange or not (out / "grades.json").is_file():
        held = f"({shortened(strange[0])}) " if strange else ""
        raise FileExistsError(f"{out} holds other files {held}and is no folder of grades: name another one with --out")
    if not force:
        raise FileExistsError(f"{out} holds earlier grades: name another folder with --out, or replace it with --force")
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"{out} cannot be written ({error.strerror}): name another place") from error


def _say_what_is_absent(students: "list[Student]") -> None:
    """Once for each limit that this system does not have."""
    lacks = {k: words for student in students for v in student.verdicts.values() for k, words in v.lacks.items()}
    for kind, words in lacks.items():
        print(f"ddpm_lesson: warning: limit of {kind}: {words}", file=sys.stderr)


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seconds(text: str) -> float:
    return _within(text, *SECONDS, "seconds")


def megabytes(text: str) -> int:
    return int(_within(text, *MEGABYTES, "MB"))


def _within(text: str, low: int, high: int, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= high:  # also of nan
        raise argparse.ArgumentTypeError(f"expected a number of {unit} in {low}..{high}, got {shortened(text)}")
    return value
