"""Reading students' copies: what is no notebook, what Python cannot read, which exercises are in it."""

import json
import time

import pytest
from copies import answered, of_cells, original, save, solutions

from ddpm_lesson.grading.exercises import exercises
from ddpm_lesson.grading.notebooks import Unreadable, exercises_of, parsed, read_copy


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (b"", "which is JSON, got nothing"),
        (b"<html>", "which is JSON, got text that is not JSON"),
        (b'{"cells": [', "got text that is not JSON (was it cut off"),
        (b"\xff\xfe\x00", "text in UTF-8, got other bytes"),
        (b"[]", "with a list of cells, got other JSON"),
        (b'{"a": 1}', "with a list of cells, got other JSON"),
        (b'{"nbformat": 3, "worksheets": []}', "version 4, got version 3: open it in JupyterLab"),
        (b'{"nbformat": 4, "cells": {}}', "expected a list of cells, got dict"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "worksheets": []}', "a list of cells, got worksheets"),
        (b"[" * 10**5, "which is JSON"),
    ],
)
def test_what_is_no_notebook_is_named(held, told, tmp_path):
    (tmp_path / "a.ipynb").write_bytes(held)
    with pytest.raises(Unreadable) as error:
        read_copy(tmp_path / "a.ipynb")
    assert told in str(error.value)


def test_odd_cells_are_passed_over(tmp_path):
    cells = [3, {"cell_type": "code"}, {"cell_type": "code", "source": ["x = 1\n", "y = 2"], "metadata": None}]
    cells.append({"cell_type": "code", "source": "z = '\ud800'", "metadata": {"tags": ["a", 1]}})
    copy = read_copy(save({"nbformat": 4, "cells": cells}, tmp_path / "a.ipynb"))
    assert [cell.source for cell in copy.cells] == ["", "x = 1\ny = 2", "z = '\\ud800'"]
    assert copy.cells[2].tags == ("a", "1")


def test_a_byte_order_mark_does_not_matter(tmp_path):
    (tmp_path / "a.ipynb").write_bytes(b"\xef\xbb\xbf" + json.dumps(of_cells("x = 1")).encode())
    assert read_copy(tmp_path / "a.ipynb").cells[0].source == "x = 1"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("%matplotlib inline\nx = 1", ["x"]),
        ("!pip install torch\nx = 1", ["x"]),
        ("files = !ls\nx = 1", ["x"]),
        ("q_sample?\nx = 1", ["x"]),
        ("if True:\n    %time f()\nx = 1", ["x"]),
        ("%%time\nx = 1", ["x"]),
        ("%%bash\nls -l", []),
        ('x = """\n%not a magic\n"""', ["x"]),
    ],
)
def test_lines_of_ipython_are_left_out(source, names):
    cell = parsed(1, source)
    assert [node.targets[0].id for node in cell.tree.body if hasattr(node, "targets")] == names
    assert len(cell.source.splitlines()) == len(source.splitlines())  # a line keeps its number


@pytest.mark.parametrize(
    ("source", "told"),
    [("x = 1\ndef f(:", "line 2: "), ("x = \0", "null"), ("(" * 300 + ")" * 300, "nested"), ("x = " + "-" * 10**5, "")],
)
def test_why_python_cannot_read_a_cell(source, told):
    cell = parsed(4, source)
    assert cell.number == 4 and cell.tree is None and told in cell.trouble and cell.trouble


def test_a_chapter_is_known_by_what_is_in_it(tmp_path):
    for chapter in (1, 2, 3, 4, 5):
        copy = read_copy(save(original(chapter), tmp_path / "any.ipynb"))
        assert exercises_of(copy) == [exercise for exercise in exercises() if exercise.chapter == chapter]


def test_a_part_of_a_notebook_is_known_too(tmp_path):
    cells = of_cells(
        solutions(2)["gaussian_kl"],
        solutions(2)["simple_loss"],
        "q_sample = checks.q_sample(q_sample)",
        "checks.vlb_weight(vlb_weight)",
    )
    found = exercises_of(read_copy(save(cells, tmp_path / "a.ipynb")))
    assert [e.name for e in found if e.chapter == 2] == [e.name for e in exercises() if e.chapter == 2]
    assert [e.name for e in found if e.chapter != 2] == ["q_sample"]
    assert exercises_of(read_copy(save(of_cells("x = 1", "walked = walk(x)"), tmp_path / "b.ipynb"))) == []


def test_exercises_on_paper_are_listed(tmp_path):
    copy = read_copy(save(answered(1, {}), tmp_path / "a.ipynb"))
    assert copy.by_hand == (("1.6", "design"), ("1.7", "on paper"))


@pytest.mark.parametrize(
    "source",
    [
        "\n" * 10**5 + "x = (",
        " " * 10**5 + "x = (",
        ("x = " + " " * 100 + "\n") * 10**3,
        "b a" + " " * 10**5,
        "a" * 10**5 + " b",
    ],
    ids=["lines", "spaces", "ends", "one line", "letters"],
)
def test_reading_takes_time_as_the_text_is_long(source):
    begun = time.monotonic()
    assert parsed(1, source).tree is None
    assert time.monotonic() - begun < 5


def test_blank_lines_above_a_magic_are_kept():
    cell = parsed(1, "x = 1\n\n \n  \n%matplotlib inline\nif x:\n\n    !ls\ny =\\\n 2")
    assert cell.source == "x = 1\n\n \n  \npass\nif x:\n\n    pass\ny =\\\n 2" and cell.tree
