"""What is written of verdicts: the table, JSON, the pages."""

import csv
import errno
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ddpm_lesson.grading.exercises import check_of, exercises, mistakes_in
from ddpm_lesson.grading.grades import Limits, Student, Verdict, mistakes_of
from ddpm_lesson.grading.report import everything, file_names, printed, table, written


def student(name, *verdicts, unread=()):
    held = {verdict.number: verdict for verdict in verdicts}
    return Student(name, ["a.ipynb"], held, [("1.7", "on paper")], list(unread))


def failed(number, words, *mistakes):
    return Verdict(number, "f", "failed", words, list(mistakes))


CLASS = [
    student("ann", Verdict("1.2", "walk", "passed"), failed("1.10", "Words.", "A.", "B.")),
    student("bob", failed("1.10", "Other words.\nand a table", "B.")),
    student("cy", failed("1.2", "For t = 0: no.\nmore"), unread=[("b.ipynb", "expected a notebook, got <b>")]),
    student("di", Verdict("1.2", "walk", "stopped", "For t = 0: no.")),
]


def test_mistakes_are_counted_and_verdicts_without_a_known_one_by_their_words():
    assert mistakes_of(CLASS) == {
        "1.2": {"For t = 0: no.": ["cy", "di"]},
        "1.10": {"B.": ["ann", "bob"], "A.": ["ann"]},
    }


def test_the_table_has_a_row_for_each_student():
    rows = list(csv.DictReader(table(CLASS).splitlines()))
    assert [row["student"] for row in rows] == ["ann", "bob", "cy", "di"]
    assert [row["1.2 walk"] for row in rows] == ["passed", "not handed in", "failed", "stopped"]
    assert [row["1.10 f"] for row in rows] == ["failed", "failed", "not handed in", "not handed in"]
    assert [(row["passed"], row["failed"], row["stopped"]) for row in rows] == [
        ("1", "1", "0"),
        ("0", "1", "0"),
        ("0", "1", "0"),
        ("0", "0", "1"),
    ]
    assert rows[2]["unreadable"] == "b.ipynb: expected a notebook, got <b>"
    lines = printed(CLASS).splitlines()
    assert [line.split() for line in lines[:3]] == [["student", "1.2", "1.10"], ["ann", "+", "-"], ["bob", "-"]]


def test_json_has_a_version_and_everything():
    held = json.loads(everything(CLASS, Limits(5, 100), "ddpm_lesson 0"))
    assert (held["format"], held["version"], held["limits"]) == (
        "ddpm_lesson grades",
        1,
        {"seconds": 5, "megabytes": 100},
    )
    assert held["students"][0]["exercises"][1]["mistakes"] == ["A.", "B."]
    assert held["students"][0]["to_read_by_hand"] == [{"number": "1.7", "kind": "on paper"}]


def test_names_of_files_differ_on_every_system():
    names = ["Ann", "ann", "../ann", "a/n:n", "李雷", "", "..."]
    files = list(file_names([student(name) for name in names]).values())
    assert files == [
        "Ann.html",
        "ann_2.html",
        "ann_3.html",
        "a_n_n.html",
        "李雷.html",
        "student.html",
        "student_2.html",
    ]


def test_names_of_files_are_no_devices_of_windows_and_not_too_long():
    names = ["con", "AUX", "lpt1.smith", "com¹", "student_con", "console", "ann.con", "\U00020000" * 80]
    *files, long = file_names([student(name) for name in names]).values()
    assert files == [
        "student_con.html",
        "student_AUX.html",
        "student_lpt1.smith.html",
        "student_com¹.html",
        "student_con_2.html",
        "console.html",
        "ann.con.html",
    ]
    assert long == "\U00020000" * 50 + ".html"


class Tags(HTMLParser):
    """Which elements are open; every page closes those it opens."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name == "href"]
        self.open += [tag] * (tag not in ("meta", "br"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_pages_are_whole_and_lead_to_each_other(tmp_path):
    out = tmp_path / "grades"
    odd = student("eve \ud800", Verdict("1.4", "q_sample", "failed", "\ud800 <a>", output="out", source="code", cell=3))
    written([*CLASS, odd], Limits(), "x", out, replace=False)
    for path in out.rglob("*.html"):
        page = Tags()
        page.feed(path.read_text("utf-8"))
        assert page.open == [] and all((path.parent / link).is_file() for link in page.links)
        assert "http" not in path.read_text("utf-8").replace("http-equiv", "")  # nothing is loaded from elsewhere
    page = Tags()
    page.feed((out / "feedback" / "eve.html").read_text("utf-8"))
    assert "? <a>" in page.text and "What was graded: code cell 3 of" in page.text
    assert len(list((out / "feedback").iterdir())) == 5
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        written(CLASS, Limits(), "x", out, replace=False)


def test_a_folder_that_is_there_stays_and_gets_its_parts(tmp_path, monkeypatch):
    """As a mount point does, or a folder whose parent cannot be written: it can be neither renamed nor removed."""
    out = tmp_path / "given" / "grades"
    out.mkdir(parents=True)
    (out.parent).chmod(0o500)
    place = os.stat(out).st_ino
    move = os.replace

    def within(source, target):
        inner = {Path(source).resolve(), Path(target).resolve()}
        assert all(out in path.parents for path in inner), "the folder itself was moved"
        move(source, target)

    monkeypatch.setattr(os, "replace", within)
    monkeypatch.setattr(os, "rmdir", refused_for(out, os.rmdir))
    try:
        written(CLASS, Limits(), "x", out, replace=False)
        assert sorted(os.listdir(out)) == ["class.html", "feedback", "grades.csv", "grades.json"]
        written(CLASS[:1], Limits(), "x", out, replace=True)
    finally:
        out.parent.chmod(0o700)
    assert os.stat(out).st_ino == place and os.listdir(out.parent) == ["grades"]
    assert sorted(os.listdir(out)) == ["class.html", "feedback", "grades.csv", "grades.json"]
    assert os.listdir(out / "feedback") == ["ann.html"]


def refused_for(folder, function):
    def refuse(path, *args, **kwargs):
        if Path(os.fsdecode(path)) == folder:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return function(path, *args, **kwargs)

    return refuse


@pytest.mark.parametrize("broken", range(8))
def test_earlier_grades_come_back_if_a_part_cannot_be_moved(broken, tmp_path, monkeypatch):
    out = tmp_path / "grades"
    written(CLASS, Limits(), "x", out, replace=False)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    move, calls = os.replace, []

    def once(source, target):
        calls.append(target)
        if len(calls) == broken + 1:
            raise OSError(errno.EIO, "Input/output error")
        move(source, target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(OSError, match="Input/output error"):
        written(CLASS[:1], Limits(), "x", out, replace=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(os.listdir(out)) == ["class.html", "feedback", "grades.csv", "grades.json"]


@pytest.mark.parametrize("exercise", exercises(), ids=lambda exercise: exercise.name)
def test_the_mistakes_that_a_verdict_names_are_found_in_it(exercise):
    if exercise.check == "meets":
        detail = ". Speed: slow.\n  precision          0.2   asked for: more <-\n  recall   0.9   asked for: more"
        assert mistakes_in(exercise, detail) == ["Not met: precision."]
        return
    known = check_of(exercise).mistakes
    for mistake in known:
        assert mistakes_in(exercise, f". {mistake.sentence}") == [mistake.sentence]
        rest = f". Your function changes x_0 in place, and more. As it is: {mistake.sentence[0].lower()}"
        assert mistakes_in(exercise, rest + mistake.sentence[1:]) == [mistake.sentence]
    if len(known) > 1:
        a, b = known[0], known[-1]
        two = f". Your numbers are those of two mistakes at once. {a.brief} And: {b.brief}"
        assert {a.sentence, b.sentence} == set(mistakes_in(exercise, two))
    assert mistakes_in(exercise, ". For t = 0: expected 1, got 2.") == []
