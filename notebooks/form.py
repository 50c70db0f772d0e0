"""The form of a notebook: which cells are on the core path, how long a sitting takes, what is folded when it opens.

Tags say it. On a Markdown cell that begins with a heading: `deeper` collapses it, with all that follows up to the next
heading of its level or a higher one; `sitting` begins a sitting, `sitting` and `capstone` one outside of the core path.
On a code cell: `folded` hides the code, `start` marks the cell from which a sitting can be started alone.

Minutes are words / 200, one for each displayed formula, code lines / 20, and those stated at an exercise; formulas and
folded code are not read word by word. The text of a picture, for those who cannot see it, stands in the caption that
follows as a comment, <!-- alt: ... -->.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nbformat import NotebookNode

HEADING = re.compile(r"(#+) (.*)")
LINE = re.compile(r"^\*(Sitting|Capstone)\b.*\*$", re.M)  # below the heading; the build writes it
STATED = re.compile(r"\*\*Exercise [\d.]+ \([^)]*?(\d+) minutes?\)")
ALT = re.compile(r"<!-- alt: (.*?) -->", re.S)


class Sitting(NamedTuple):
    """first: index of the cell that begins it. last: of its last cell. minutes: rounded, at least 1."""

    first: int
    last: int
    sections: list[str]
    minutes: int
    is_capstone: bool


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def heading(cell: NotebookNode) -> tuple[int, str] | None:
    """Level and title, if a Markdown cell begins with a heading."""
    found = HEADING.match(cell.source) if cell.cell_type == "markdown" else None
    return (len(found[1]), found[2]) if found else None


def deeper(cells: Sequence[NotebookNode]) -> list[bool]:
    """Whether each cell is hidden below a collapsed heading, or is one."""
    found, below = [], 0
    for cell in cells:
        if level := heading(cell):
            below = 0 if below and level[0] <= below else below
            below = below or (level[0] if "deeper" in tags(cell) else 0)
        found.append(bool(below))
    return found


def minutes(cells: Sequence[NotebookNode]) -> float:
    """How long these cells take, by the rule at the top of this file."""
    found = 0.0
    for cell in cells:
        if "sittings" in tags(cell):
            continue  # what the build writes does not change what it writes
        if cell.cell_type == "markdown":
            prose = ALT.sub("", LINE.sub("", re.sub(r"\$\$.*?\$\$", "", cell.source, flags=re.S)))
            words = re.sub(r"<[^>]+>|\$[^$]*\$", " ", prose).split()
            found += len(words) / 200 + cell.source.count("$$") // 2 + sum(map(int, STATED.findall(cell.source)))
        elif not hides_code(cell):
            found += sum(bool(line.strip()) for line in cell.source.splitlines()) / 20
    return found


def hides_code(cell: NotebookNode) -> bool:
    return bool({"setup", "folded"} & set(tags(cell)))


def sittings(cells: Sequence[NotebookNode]) -> list[Sitting]:
    """The sittings in order. What stands before the first one belongs to it."""
    firsts = [i for i, cell in enumerate(cells) if "sitting" in tags(cell)]
    hidden, found = deeper(cells), []
    for n, first in enumerate(firsts):
        begin, end = first if n else 0, [*firsts, len(cells)][n + 1]
        read = [cells[i] for i in range(begin, end) if not hidden[i]]
        heads = [head for cell in read if (head := heading(cell))]
        sections = [title for level, title in heads if level == 2]
        found.append(Sitting(begin, end - 1, sections, max(1, round(minutes(read))), "capstone" in tags(cells[first])))
    return found


def totals(cells: Sequence[NotebookNode]) -> tuple[int, int, int]:
    """Minutes of the core path, of the capstones, and of the collapsed sections."""
    found = sittings(cells)
    core, capstones = (sum(each.minutes for each in found if each.is_capstone == wanted) for wanted in (False, True))
    hidden = [cell for cell, below in zip(cells, deeper(cells), strict=True) if below]
    return core, capstones, round(sum(minutes([cell]) for cell in hidden))


def fill_in(cells: Sequence[NotebookNode]) -> None:
    """Write the minutes below each sitting's heading, and the cell tagged `sittings`."""
    for cell in cells:  # first, so that the sentences that are written do not count twice
        if "sittings" in tags(cell):
            cell.source = ""
        if "sitting" in tags(cell):
            cell.source = re.sub(r"\n\n\*(Sitting|Capstone)\b[^\n]*\*", "", cell.source)
    found = sittings(cells)
    core = [sitting for sitting in found if not sitting.is_capstone]
    table = ["| sitting | sections | minutes |", "|---|---|---|"]
    for sitting in found:
        name = "capstone" if sitting.is_capstone else str(core.index(sitting) + 1)
        first, last = sitting.sections[0], sitting.sections[-1]
        span = first if first == last else f"{first} {'…' if len(sitting.sections) > 2 else '·'} {last}"
        table.append(f"| {name} | {span} | {sitting.minutes} |")
        begun = f"Sitting {name} of {len(core)}" if sitting in core else "Capstone"
        head = next(cell for cell in cells[sitting.first : sitting.last + 1] if "sitting" in tags(cell))
        title, *rest = head.source.split("\n")
        head.source = "\n".join([title, "", f"*{begun}, {sitting.minutes} minutes.*", *rest])
    count = f"{len(core)} sitting{'s' * (len(core) > 1)}"
    total, _, more = totals(cells)
    for cell in cells:
        if "sittings" in tags(cell):
            cell.source = "\n".join(
                [
                    f"**The core path takes {total} minutes, in {count}.** Each can be started alone: run "
                    "the set-up cell, then go to its heading. `checks.carried(name)` is your function of an earlier "
                    "exercise, if its check said yes in this kernel; else the course's own. If English is not your "
                    "first language, plan about a third more time. The capstone comes on top.\n",
                    *table,
                    f"\nSections called *Going deeper* are collapsed ({more} minutes in all); the path does not need "
                    "them, and they need the cells above them. If JupyterLab shows them open, click once into "
                    "the page: that collapses them. (The rule: 200 words a minute, a minute for each "
                    "displayed formula, 20 lines of code a minute, and the minutes stated at each exercise.)",
                ]
            )


def metadata(cells: Sequence[NotebookNode]) -> list[dict]:
    """What the build writes beside each cell: tags; what is collapsed or folded, for JupyterLab and for Colab; and the
    alternative text of a picture, for nbconvert and for MyST-NB.

    JupyterLab 4.6 hides the cells below a collapsed heading once its page has had the focus, as a window that opens has
    and as a click gives. A headless browser has to ask for it (Emulation.setFocusEmulationEnabled); else all show.
    """
    found: list[dict] = []
    for i, cell in enumerate(cells):
        data: dict = {"tags": tags(cell)} if tags(cell) else {}
        if "deeper" in tags(cell):
            data |= {"jp-MarkdownHeadingCollapsed": True, "id": f"deeper-{i}"}
        if hides_code(cell):
            data |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
        following = cells[i + 1].source if i + 1 < len(cells) else ""
        if cell.cell_type == "code" and (alt := ALT.search(following)):
            text = " ".join(alt[1].split())
            data |= {"alt": text, "mystnb": {"image": {"alt": text}}}
        found.append(data)
    return found


def collapsed_in_colab(cells: Sequence[NotebookNode]) -> list[str]:
    """For the notebook's metadata: the ids of the headings that Colab shows collapsed."""
    return [data["id"] for data in metadata(cells) if "id" in data]
