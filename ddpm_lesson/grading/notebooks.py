"""A student's copy as text: its code cells, and the exercises that it states.  Nothing in it is run here."""

import ast
import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm_lesson.grading.exercises import Exercise, exercises

LARGEST = 200 * 2**20  # bytes: stored animations are large, and a copy is no larger
STATED = re.compile(r"\*\*Exercise (\d+(?:\.\d+)+) \(([^),]*)")  # **Exercise 1.7 (on paper, 8 minutes).**
MAGIC = re.compile(  # what IPython reads and Python does not; of one line, so that it takes time as the text is long
    r"^([ \t]*)(?=\S)(?:[%!?].*|[\w.]+\?+|[\w, ]+=[ \t]*[%!].*)$", re.M
)
CHECKED = re.compile(r"\bchecks\.(\w+)\s*\(")
DEFINED = re.compile(r"^(?:(?:def|class)\s+(\w+)|(\w+)\s*=(?!=))", re.M)
CELL_MAGIC = re.compile(r"\A\s*%%(\w+).*\n?")
OF_PYTHON = ("time", "timeit", "capture", "prun")  # cell magics with Python below


class Unreadable(ValueError):
    """A file that is no notebook; the message says what was expected and what came."""


@dataclass(frozen=True)
class Cell:
    """A code cell. number: among code cells, from 1. tree: None where Python cannot read it, and trouble says why."""

    number: int
    source: str
    tags: tuple[str, ...] = ()
    tree: ast.Module | None = field(default=None, compare=False, repr=False)
    trouble: str = ""


@dataclass(frozen=True)
class Copy:
    """A student's copy. by_hand: number and kind of each exercise that it states and no check grades."""

    path: Path
    cells: tuple[Cell, ...]
    by_hand: tuple[tuple[str, str], ...] = ()


def read_copy(path: Path) -> Copy:
    """The notebook in a file.  Raises Unreadable for what is none, OSError for what cannot be opened."""
    if path.stat().st_size > LARGEST:
        raise Unreadable(f"expected a notebook of at most {LARGEST // 2**20} MB, got {path.stat().st_size >> 20} MB")
    try:
        held = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Unreadable("expected a notebook, which is text in UTF-8, got other bytes") from None
    except (ValueError, RecursionError) as error:
        told = "nothing" if path.stat().st_size == 0 else "text that is not JSON (was it cut off, or saved as HTML?)"
        raise Unreadable(f"expected a notebook, which is JSON, got {told}") from error
    if not isinstance(held, dict) or ("cells" not in held and "worksheets" not in held):
        raise Unreadable("expected a notebook with a list of cells, got other JSON")
    if held.get("nbformat") != 4:
        told = f"got version {held.get('nbformat')}: open it in JupyterLab and save it anew"
        raise Unreadable(f"expected a notebook of format version 4, {told}")
    if not isinstance(held.get("cells"), list):
        told = type(held["cells"]).__name__ if "cells" in held else "worksheets, as old versions have"
        raise Unreadable(f"expected a list of cells, got {told}")
    found = [_plain(cell) for cell in held["cells"] if isinstance(cell, dict)]
    code = [(source, tags) for kind, source, tags in found if kind == "code"]
    words = "\n".join(source for kind, source, _ in found if kind == "markdown")
    graded = {exercise.number for exercise in exercises()}
    by_hand = tuple((n, kind) for n, kind in dict(STATED.findall(words)).items() if n not in graded)
    return Copy(path, tuple(parsed(i, source, tags) for i, (source, tags) in enumerate(code, 1)), by_hand)


def _plain(cell: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(map(str, source))
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else ()
    text = str(source).encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair can be in no page
    return str(cell.get("cell_type")), text, tuple(map(str, tags)) if isinstance(tags, list) else ()


def parsed(number: int, source: str, tags: tuple[str, ...] = ()) -> Cell:
    """A cell and what Python reads in it, without IPython's own lines."""
    trouble = ""
    for as_it_is in (True, False):
        text = source if as_it_is else MAGIC.sub(r"\1pass", _body(source))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what a student wrote, as "\d" in a string
                return Cell(number, text, tags, ast.parse(text))
        except SyntaxError as error:
            trouble = f"{f'line {error.lineno}: ' if error.lineno else ''}{error.msg}"
        except (ValueError, RecursionError, MemoryError) as error:  # a null character; nested too deep
            trouble = str(error) or "it is nested too deep"
    return Cell(number, source, tags, None, trouble)


def _body(source: str) -> str:
    """The cell without the line of its cell magic; nothing of a cell in another language."""
    found = CELL_MAGIC.match(source)
    if not found:
        return source
    rest = source[found.end() :]
    return f"pass\n{rest}" if found[1] in OF_PYTHON else "\n".join("pass" for _ in source.splitlines())


def exercises_of(copy: Copy) -> list[Exercise]:
    """Those to grade in this copy, known by what is in it and not by its name: a chapter's, and any other it checks.

    The chapter is the one of which most exercises are checked or defined. [] where there is none.
    """
    checks, names = {e.check: e for e in exercises()}, {e.name: e for e in exercises()}
    text = "\n".join(cell.source for cell in copy.cells)  # also of a cell that Python cannot read
    checked = {checks[name] for name in CHECKED.findall(text) if name in checks}
    defined = {names[name] for found in DEFINED.findall(text) if (name := found[0] or found[1]) in names}
    present = [exercise.chapter for exercise in [*checked, *defined]]
    if not present:
        return []
    chapter = max(sorted(set(present)), key=present.count)
    return [exercise for exercise in exercises() if exercise.chapter == chapter or exercise in checked]
