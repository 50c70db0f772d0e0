"""notebooks/form.py: minutes by the rule, what is core, and what is written beside a cell."""

import runpy
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

form = runpy.run_path(str(Path(__file__).parent.parent / "notebooks" / "build.py"))["form"]


def text(source, *tags):
    return new_markdown_cell(source, metadata={"tags": list(tags)})


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)})


@pytest.mark.parametrize(
    ("cell", "minutes"),
    [
        (text("word " * 300), 1.5),
        (text("$$a\n= b$$\n\n$$c$$"), 2),
        (text("one $x + y$ <b>two</b>"), 2 / 200),
        (text("seen <!-- alt: " + "word " * 100 + "-->"), 1 / 200),
        (text("**Exercise 1.3 (two stars, 7 minutes).**"), 7 + 6 / 200),
        (text("**Exercise 1.3 (on paper, 1 minute).**"), 1 + 6 / 200),
        (text("It took 7 minutes."), 4 / 200),
        (code("a = 1\n\nb = 2"), 0.1),
        (code("a = 1", "folded"), 0),
        (code("a = 1", "setup"), 0),
    ],
)
def test_minutes_are_those_of_the_rule(cell, minutes):
    assert form.minutes([cell]) == pytest.approx(minutes)


def test_what_lies_below_a_collapsed_heading_is_deeper():
    cells = [
        text("## A"),
        text("### Going deeper", "deeper"),
        text("#### In it"),
        code("x"),
        text("### Back"),
        text("## Going deeper", "deeper"),
        text("### Still"),
        text("## Core"),
    ]
    assert form.deeper(cells) == [False, True, True, True, False, True, True, False]


def test_a_sitting_is_not_swallowed_by_a_collapsed_section_before_it():
    cells = [text("## A", "sitting"), text("### Going deeper", "deeper"), code("x"), text("## B", "sitting"), code("y")]
    first, second = form.sittings(cells)
    assert (first.first, first.last, second.first, second.last) == (0, 2, 3, 4)
    assert form.deeper(cells)[3:] == [False, False]


def test_minutes_are_written_once_and_do_not_count_themselves():
    cells = [
        text("# 1. Title"),
        text("old", "sittings"),
        text("## 1.1 Begin\n\n" + "word " * 1998, "sitting"),
        text("## 1.2 Going deeper\n\n" + "word " * 999, "deeper"),
        text("## 1.3 Build\n\n**Exercise 1.1 (capstone, 30 minutes).** Do.", "sitting", "capstone"),
    ]
    form.fill_in(cells)
    once = [cell.source for cell in cells]
    assert once[2].startswith("## 1.1 Begin\n\n*Sitting 1 of 1, 10 minutes.*\n\nword")
    assert once[4].startswith("## 1.3 Build\n\n*Capstone, 30 minutes.*\n\n**Exercise")
    assert "takes 10 minutes, in 1 sitting.**" in once[1] and "| capstone | 1.3 Build | 30 |" in once[1]
    assert "(5 minutes in all)" in once[1] and "not your first language, plan about a third more time" in once[1]
    form.fill_in(cells)
    assert [cell.source for cell in cells] == once


def test_metadata_of_both_programs():
    cells = [
        text("## Going deeper", "deeper"),
        code("plot()", "folded"),
        text("*Figure.* Look. <!-- alt: A\ncurve. -->"),
        code("x"),
    ]
    heading, folded, caption, plain = form.metadata(cells)
    assert heading == {"tags": ["deeper"], "jp-MarkdownHeadingCollapsed": True, "id": "deeper-0"}
    assert folded["jupyter"] == {"source_hidden": True} and folded["cellView"] == "form"
    assert folded["alt"] == folded["mystnb"]["image"]["alt"] == "A curve."
    assert caption == plain == {}
    assert form.collapsed_in_colab(cells) == ["deeper-0"]
