"""docs/instructors.md: its timetables hold every sitting once, with the minutes that the notebooks state."""

import re
import runpy
from collections import Counter
from pathlib import Path

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


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert "://" in target or (ROOT / "docs" / target).exists(), target
