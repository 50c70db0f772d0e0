r"""The equation registry: each equation with a \tag has a row in notebooks/equations.csv, and what it names exists."""

import csv
import re
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from references import exists, resolves

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
build = SimpleNamespace(**runpy.run_path(str(FOLDER / "build.py")))


def tagged(notebooks):
    r"""(notebook's number, what its \tag says) of every tagged equation."""
    return [
        (str(int(name[:2])), tag)
        for name, notebook in notebooks.items()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for tag in re.findall(r"\\tag\{([^}]*)\}", cell.source)
    ]


def broken(rows, notebooks):
    """A sentence for everything in which the registry and the notebooks disagree with each other or with the code."""
    tags = tagged(notebooks)
    said = {row["tag"]: f"{row['tag']}: {row['paper']}" if row["paper"] else row["tag"] for row in rows}
    for tag, count in Counter([row["tag"] for row in rows]).items():
        if count > 1:
            yield f"{tag} has {count} rows"
    for tag, count in Counter([tag for _, tag in tags]).items():
        if count > 1:
            yield f"{tag} is the tag of {count} equations"
    for chapter, tag in tags:
        if tag not in said.values():
            yield f"the equation tagged {tag!r} has no row that says so"
        if tag.split(".")[0] != chapter:
            yield f"the equation tagged {tag!r} stands in notebook {chapter}"
    for row in rows:
        if said[row["tag"]] not in [tag for _, tag in tags]:
            yield f"no equation is tagged {said[row['tag']]!r}"
        if not row["equation"]:
            yield f"{row['tag']} does not say which equation it is"
        if not resolves(row["function"]):
            yield f"{row['tag']}: there is no function {row['function']!r}"
        if not exists(row["test"]):
            yield f"{row['tag']}: there is no test {row['test']!r}"
    for name, notebook in notebooks.items():
        tables = [cell.source for cell in notebook.cells if "equations" in cell.metadata.get("tags", [])]
        if tables != [build.equation_table(name, rows)]:
            yield f"{name} needs one cell tagged equations, with the table that `make notebooks` writes"


def test_registry_and_notebooks_agree():
    notebooks = {path.stem: build.read_notebook(path) for path in FOLDER.glob("*.ipynb")}
    assert list(broken(build.equations(FOLDER), notebooks)) == []


def test_registry_has_its_columns():
    with open(FOLDER / "equations.csv", encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["tag", "paper", "equation", "function", "test"]
    assert {len(row) for row in table} == {5}


ROW = {
    "tag": "1.5",
    "paper": "DDPM Eq. 4",
    "equation": r"$q(x_t\mid x_0)$",
    "function": "ddpm_lesson.schedules.linear",
    "test": "tests/test_equations.py::test_registry_has_its_columns",
}


def notebook(tags, rows):
    equations = [new_markdown_cell(f"$$x \\tag{{{tag}}}$$") for tag in tags]
    table = new_markdown_cell(build.equation_table("01_example", rows), metadata={"tags": ["equations"]})
    return {"01_example": new_notebook(cells=[new_code_cell(r"'\tag{9.9}'"), *equations, table])}


def test_a_tag_with_its_row_is_in_order():
    plain = ROW | {"tag": "1.6", "paper": ""}
    assert list(broken([ROW, plain], notebook(["1.5: DDPM Eq. 4", "1.6"], [ROW, plain]))) == []


@pytest.mark.parametrize(
    ("tags", "rows", "sentence"),
    [
        (["1.5: DDPM Eq. 4", "1.6"], [ROW], "the equation tagged '1.6' has no row that says so"),
        (["1.5: DDPM Eq. 5"], [ROW], "the equation tagged '1.5: DDPM Eq. 5' has no row that says so"),
        (["1.5: DDPM Eq. 4"] * 2, [ROW], "1.5: DDPM Eq. 4 is the tag of 2 equations"),
        (["1.5: DDPM Eq. 4"], [ROW, ROW], "1.5 has 2 rows"),
        (["2.5: DDPM Eq. 4"], [ROW | {"tag": "2.5"}], "the equation tagged '2.5: DDPM Eq. 4' stands in notebook 1"),
        ([], [ROW], "no equation is tagged '1.5: DDPM Eq. 4'"),
        (["1.5: DDPM Eq. 4"], [ROW | {"equation": ""}], "1.5 does not say which equation it is"),
        (["1.5: DDPM Eq. 4"], [ROW | {"function": ""}], "1.5: there is no function ''"),
        (
            ["1.5: DDPM Eq. 4"],
            [ROW | {"function": "ddpm_lesson.schedules.gone"}],
            "1.5: there is no function 'ddpm_lesson.schedules.gone'",
        ),
        (["1.5: DDPM Eq. 4"], [ROW | {"function": "math.sqrt"}], "1.5: there is no function 'math.sqrt'"),
        (["1.5: DDPM Eq. 4"], [ROW | {"test": ""}], "1.5: there is no test ''"),
        (
            ["1.5: DDPM Eq. 4"],
            [ROW | {"test": "tests/test_equations.py::test_gone"}],
            "1.5: there is no test 'tests/test_equations.py::test_gone'",
        ),
    ],
)
def test_a_breach_is_named(tags, rows, sentence):
    assert sentence in list(broken(rows, notebook(tags, rows)))


def test_no_word_of_a_table_is_wide():
    """A browser breaks a line at spaces and at <wbr>; 30 characters in a row fit beside the equation."""
    table = build.equation_table("01_example", [ROW])
    assert max(len(piece) for piece in re.split(r"<wbr>|<br>|\s|\|", table)) <= 30
    shown = re.sub(r"</?samp>|<wbr>", "", table)
    assert "schedules.linear<br>test_equations.py test_registry_has_its_columns |" in shown


@pytest.mark.parametrize("tables", [[], [[]], [[ROW], [ROW]]])
def test_a_missing_or_outdated_table_is_named(tables):
    (name, lesson), *_ = notebook(["1.5: DDPM Eq. 4"], [ROW]).items()
    lesson.cells[2:] = [
        new_markdown_cell(build.equation_table(name, rows), metadata={"tags": ["equations"]}) for rows in tables
    ]
    assert [sentence for sentence in broken([ROW], {name: lesson}) if "needs one cell" in sentence]
