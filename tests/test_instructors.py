"""docs/instructors.md: its tables hold every sitting and every exercise once; its command copies."""

import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "instructors.md").read_text("utf-8")
build = runpy.run_path(str(ROOT / "notebooks" / "build.py"))


def sittings():
    """Minutes of each: {"01/1": 30, "01/capstone": 38, "05/capstone 2": 17}."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        held = build["form"].sittings(build["read_notebook"](path).cells)
        core = [sitting for sitting in held if not sitting.is_capstone]
        capstones = [sitting for sitting in held if sitting.is_capstone]
        found |= {f"{path.name[:2]}/{n}": sitting.minutes for n, sitting in enumerate(core, 1)}
        for n, sitting in enumerate(capstones, 1):
            found[f"{path.name[:2]}/capstone{f' {n}' if len(capstones) > 1 else ''}"] = sitting.minutes
    return found


def timetable(heading):
    """The cells of each week's row."""
    (section,) = re.findall(rf"^### {heading}.*?$(.*?)^##", PAGE, re.M | re.S)
    rows = [line for line in section.splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize(("heading", "weeks"), [("Four weeks", 4), ("Eight weeks", 8)])
def test_a_timetable_holds_every_sitting_once_with_its_minutes(heading, weeks):
    minutes, seen = sittings(), Counter()
    rows = timetable(heading)
    assert [row[0] for row in rows] == [str(week) for week in range(1, weeks + 1)]
    for _, *cells in rows:
        for words, stated in zip(cells[::2], cells[1::2], strict=True):
            held = [word for word in words.split(", ") if word]
            seen.update(held)
            assert int(stated) == sum(minutes[word] for word in held) <= 90, words
    assert seen == dict.fromkeys(minutes, 1)
    (length,) = re.findall(rf"^### {heading}.* of (\d+) minutes a week$", PAGE, re.M)
    assert int(length) >= 10 + max(int(row[2]) for row in rows)  # ten for questions


def exercises():
    """The cells of the rubric's row of each notebook, from the text of the exercises."""
    kinds = ["one star", "two stars", "on paper", "design", "capstone"]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = build["read_notebook"](path).cells
        found = {(kind, below): [] for below in (False, True) for kind in kinds}
        for cell, below in zip(cells, build["form"].deeper(cells), strict=True):
            for number, kind in re.findall(r"\*\*Exercise ([\d.]+) \(([a-z ]+), ", cell.source):
                found[kind, below].append(number)
        columns = [*((kind, False) for kind in kinds), ("one star", True), ("two stars", True), ("on paper", True)]
        assert sum(map(len, found.values())) == sum(len(found[column]) for column in columns), path.name
        yield [path.name[:2], *(", ".join(found[column]) for column in columns)]


def test_the_rubric_names_every_exercise():
    rows = re.findall(r"^\| (0\d) \|(.*)\|$", PAGE, re.M)
    assert [[name, *map(str.strip, cells.split("|"))] for name, cells in rows] == list(exercises())


def test_copies_without_outputs_are_copies(tmp_path, monkeypatch):
    """nbconvert's --clear-output would have written over the notebooks."""
    (command,) = re.findall(r"^\.venv/bin/python (-m nbconvert .*) notebooks/\*\.ipynb$", PAGE, re.M)
    cell = nbformat.v4.new_code_cell("1", execution_count=1, outputs=[nbformat.v4.new_output("stream", text="1")])
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    before = path.read_bytes()
    subprocess.run([sys.executable, *command.split(), path], cwd=tmp_path, check=True, capture_output=True)
    (copied,) = nbformat.read(tmp_path / "handout" / "a.ipynb", 4).cells
    assert path.read_bytes() == before and (copied.source, copied.outputs) == ("1", [])


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert "://" in target or (ROOT / "docs" / target).exists(), target
