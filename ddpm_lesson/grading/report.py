"""What is written of grades: a table, JSON with everything, a page for the class and one for each student."""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_lesson.grading.exercises import in_order
from ddpm_lesson.grading.grades import STATUSES, Limits, Student, all_numbers, mistakes_of
from ddpm_lesson.grading.pages import class_page, student_page

VERSION = 1  # of grades.json
TABLE, EVERYTHING, CLASS, FEEDBACK = "grades.csv", "grades.json", "class.html", "feedback"
PARTS = (FEEDBACK, CLASS, TABLE, EVERYTHING)  # the last one says that a folder holds grades
MISSING = "not handed in"
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³")}  # Windows'
MARKS = {"passed": "+", "failed": "-", "stopped": "!", "not attempted": ".", "not graded": "?", MISSING: " "}


def written(students: Sequence[Student], limits: Limits, made_by: str, out: Path, replace: bool) -> None:
    """Write the folder whole, or not at all.  replace: an earlier one of grades goes away for it.

    A folder that is there stays, with its place and its permissions: the parts are made inside and moved up one by one.
    """
    out = out.resolve()  # "." has no parent of its own
    there = out.exists()
    if there and not replace and any(out.iterdir()):
        raise FileExistsError(f"{out} holds files, and nothing is overwritten")
    if not there:
        out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out if there else out.parent, prefix=".partial-"))
    made, before, done = scratch / "grades", scratch / "before", False
    before.mkdir()
    try:
        _write(students, limits, made_by, made)
        if there:
            _exchange(made, out, before)
        else:
            os.replace(made, out)
        done = True
    finally:
        if done or not any(before.iterdir()):  # else the earlier grades are in there
            shutil.rmtree(scratch, ignore_errors=True)


def _write(students: Sequence[Student], limits: Limits, made_by: str, made: Path) -> None:
    """All files, into a folder that is made for them."""
    (made / FEEDBACK).mkdir(parents=True)
    names = file_names(students)
    files = {TABLE: table(students), EVERYTHING: everything(students, limits, made_by)}
    files[CLASS] = class_page(students, {name: f"{FEEDBACK}/{file}" for name, file in names.items()})
    files |= {f"{FEEDBACK}/{names[student.name]}": student_page(student) for student in students}
    for name, text in files.items():
        (made / name).write_bytes(text.encode("utf-8", "replace"))  # half of a surrogate pair becomes "?"


def _exchange(made: Path, out: Path, before: Path) -> None:
    """Move the parts in `out` to `before` and those in `made` to `out`; if one cannot be moved, move all back."""
    moves = [(out / part, before / part) for part in PARTS if os.path.lexists(out / part)]
    moves += [(made / part, out / part) for part in PARTS]
    try:
        for source, target in moves:
            os.replace(source, target)
    except BaseException:  # Ctrl-C too
        for source, target in reversed(moves):
            if not os.path.lexists(source):
                os.replace(target, source)
        raise


def file_names(students: Sequence[Student]) -> dict[str, str]:
    """A file's name for each student that every system can write and that is no other's."""
    found: dict[str, str] = {}
    for student in students:
        plain = re.sub(r"[^\w.-]+", "_", student.name).strip("._")[:80] or "student"
        plain = plain.encode()[:200].decode(errors="ignore")  # a name has at most 255 bytes
        if plain.partition(".")[0].lower() in DEVICES:
            plain = f"student_{plain}"
        name, n, taken = plain, 1, {each.lower() for each in found.values()}
        while f"{name}.html".lower() in taken:
            n += 1
            name = f"{plain}_{n}"
        found[student.name] = f"{name}.html"
    return found


def status_of(student: Student, number: str) -> str:
    return student.verdicts[number].status if number in student.verdicts else MISSING


def table(students: Sequence[Student]) -> str:
    """CSV: a row for each student, a column for each exercise, and how many of each status."""
    numbers = all_numbers(students)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["student", *STATUSES, *(f"{number} {name}" for number, name in numbers.items()), "unreadable"])
    for student in students:
        counts = [student.count(status) for status in STATUSES]
        unread = "; ".join(f"{name}: {words}" for name, words in student.unread)
        row = [student.name, *counts, *(status_of(student, number) for number in numbers), unread]
        writer.writerow([_no_formula(value) for value in row])
    return file.getvalue()


def _no_formula(value: Any) -> Any:
    """A spreadsheet computes what begins so; a name is not to be computed."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def everything(students: Sequence[Student], limits: Limits, made_by: str) -> str:
    """JSON of all verdicts, and of how many made which mistake."""
    held = {
        "format": "ddpm_lesson grades",
        "version": VERSION,
        "made_by": made_by,
        "limits": dataclasses.asdict(limits),
        "students": [
            {
                "name": student.name,
                "notebooks": student.notebooks,
                "unreadable": [{"file": name, "why": words} for name, words in student.unread],
                "exercises": [dataclasses.asdict(verdict) for verdict in student.verdicts.values()],
                "to_read_by_hand": [{"number": number, "kind": kind} for number, kind in student.by_hand],
            }
            for student in students
        ],
        "mistakes": [
            {"number": number, "words": words, "students": names}
            for number, found in mistakes_of(students).items()
            for words, names in found.items()
        ],
    }
    return json.dumps(held, indent=1, ensure_ascii=False) + "\n"


def printed(students: Sequence[Student]) -> str:
    """The table for a terminal, one for each chapter."""
    numbers, lines = all_numbers(students), []
    width = max([len("student"), *(min(len(student.name), 30) for student in students)])
    for chapter in sorted({number.split(".")[0] for number in numbers}, key=int):
        held = [number for number in numbers if number.split(".")[0] == chapter]
        lines.append(f"{'student':{width}}  {' '.join(f'{number:>4}' for number in held)}")
        for student in students:
            marks = [MARKS[status_of(student, number)] for number in held]
            if any(mark.strip() for mark in marks):
                lines.append(f"{student.name[:30]:{width}}  {' '.join(f'{mark:>4}' for mark in marks)}")
        lines.append("")
    legend = ", ".join(f"{mark} {status}" for status, mark in MARKS.items() if mark.strip())
    for student in students:
        lines += [f"{student.name}: {name} was not read: {words}" for name, words in student.unread]
    by_hand = sorted({number for student in students for number, _ in student.by_hand}, key=in_order)
    if by_hand:
        lines.append(f"Not graded by machine, to be read: {', '.join(by_hand)}")
    return "\n".join([*lines, legend])
