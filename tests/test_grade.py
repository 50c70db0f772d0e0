"""Grading from the outside: what becomes of copies that are right, wrong, empty, or that misbehave."""

import csv
import io
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from command_line import run
from copies import NOTEBOOKS, answered, check_cell, original, save, solutions, solved

from ddpm_lesson import checks
from ddpm_lesson.cli import main
from ddpm_lesson.grading.exercises import exercises
from ddpm_lesson.grading.notebooks import read_copy
from ddpm_lesson.grading.slices import Program

FORKS = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")
ANSWERS = solutions(1)
ALL_OF_1 = [exercise.name for exercise in exercises() if exercise.chapter == 1]


def grade(folder, *options):
    """The exercises of every student, by student and name, as grades.json has them."""
    result = run("grade", folder, "--out", folder.parent / "grades", "--jobs", 2, *options)
    assert result.status == 0, result.err
    held = json.loads((folder.parent / "grades" / "grades.json").read_text("utf-8"))
    return {s["name"]: {e["name"]: e for e in s["exercises"]} for s in held["students"]}, held, result


def by(statuses):
    """The names of the exercises of each status."""
    found = {}
    for name, exercise in statuses.items():
        found.setdefault(exercise["status"], []).append(name)
    return found


HARD = {  # of one copy: what each exercise does; the last one is right, and uses two of them
    "linear_betas": "import time\ndef linear_betas(beta_1, beta_T, T):\n    while True:\n        time.sleep(1)",
    # (an endless loop that asks for no processor, so that this test takes none)
    "walk": "import sys\ndef walk(x_0, betas, noise):\n    sys.exit(0)",
    "extract": "import os, subprocess, sys\ndef extract(v, t, x_shape):\n"
    "    left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "    open(PLACE, 'w').write(str(left.pid))\n    os._exit(0)",
    "q_sample": "import ctypes\ndef q_sample(x_0, t, noise, alphas_bar):\n    ctypes.string_at(0)",
    # (memory is limited on Linux only: elsewhere this would really be taken)
    "cosine_betas": "import torch\ndef cosine_betas(T, s=0.008, max_beta=0.999):\n    "
    + ("return torch.ones(10**10)" if sys.platform.startswith("linux") else "raise MemoryError"),
    "posterior": ANSWERS["posterior"].replace("):\n", "):\n    print('<b>much</b>' * 10**6)\n", 1),
    "x_0_from_eps": "def x_0_from_eps(x_t, t, eps, alphas_bar):\n    return input()",
    "Forward": ANSWERS["Forward"],
}


@FORKS
def test_what_misbehaves_costs_its_own_exercise_only(tmp_path):
    place = tmp_path / "pid"
    hard = {name: source.replace("PLACE", repr(str(place))) for name, source in HARD.items()}
    save(answered(1, hard), tmp_path / "class" / "01_forward_process_eve.ipynb")
    save(solved(1), tmp_path / "class" / "01_forward_process_ann.ipynb")
    found, held, result = grade(tmp_path / "class", "--timeout", 10, "--memory", 1000)
    assert by(found["ann"]) == {"passed": ALL_OF_1}
    eve = found["eve"]
    assert by(eve) == {
        "stopped": ["linear_betas", "extract", "q_sample"],
        "failed": ["walk", "cosine_betas", "x_0_from_eps"],
        "passed": ["posterior", "Forward"],
    }
    said = {name: exercise["words"] for name, exercise in eve.items()}
    assert said["linear_betas"] == "No answer within 10 s: an endless loop, or far too slow."
    assert said["extract"] == "The process ended before its check did (exit status 0): os._exit, or the like."
    assert said["q_sample"] == "The process crashed (SIGSEGV: it read or wrote memory that is not its own)."
    assert "your function raised SystemExit: 0 (in the line: sys.exit(0))" in said["walk"]
    assert "your function raised EOFError" in said["x_0_from_eps"]
    if sys.platform.startswith("linux"):
        assert "allocate memory" in said["cosine_betas"]
        assert not is_running(int(place.read_text()))
    assert len(eve["posterior"]["output"]) < 5000 and "characters more" in eve["posterior"]["output"]


def is_running(number):
    """On Linux; one that has ended and that nobody has asked about is none."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


SLY = {
    "linear_betas": ANSWERS["linear_betas"],  # and its check is changed
    "walk": "def walk(x_0, betas, noise):\n    return x_0",  # and its check is changed
    "extract": "def extract(v, t, x_shape):\n    return v[",
    "q_sample": "def q_sample(x_0, t, noise, alphas_bar):\n    print('1.4 q_sample: yes')\n    return x_0",
    "cosine_betas": "import socket\ndef cosine_betas(T, s=0.008, max_beta=0.999):\n"
    "    socket.create_connection(('192.0.2.1', 80), 1)",
    "posterior": "from ddpm_lesson.checks import _engine\ndef posterior(x_0, x_t, t, betas):\n"
    "    _engine.Check.problems = lambda *args, **kwargs: []\n    return x_0, x_0",
    "x_0_from_eps": "import ddpm_lesson.checks._finished as mine\nx_0_from_eps = mine.x_0_from_eps",
    "Forward": "import json, os, pathlib\nclass Forward:\n    def __init__(self, *args):\n"
    "        place = pathlib.Path('../ended')\n        assert place.exists()\n"
    "        place.write_text(json.dumps({'status': 'passed', 'words': ''}))\n        os._exit(0)\n",
}


@FORKS
def test_a_pass_cannot_be_had_by_a_print_a_patch_or_another_check(tmp_path):
    notebook = answered(1, SLY)
    for name in ("linear_betas", "walk"):
        check_cell(notebook, name)["source"] = f"print('{name}: yes')\n{name} = print({name})"
    save(notebook, tmp_path / "class" / "mal.ipynb")
    found, _, _ = grade(tmp_path / "class")
    mal = found["mal"]
    assert by(mal) == {"passed": ["linear_betas"], "failed": ALL_OF_1[1:-1], "stopped": ["Forward"]}
    assert mal["extract"]["words"].startswith("Python cannot read code cell ")
    assert "line 2" in mal["extract"]["words"]
    assert mal["q_sample"]["output"].startswith("1.4 q_sample: yes\n")
    assert "exercises are graded without a network" in mal["cosine_betas"]["words"]
    assert mal["posterior"]["words"].startswith("This code changed the course's checks or PyTorch itself")
    assert mal["x_0_from_eps"]["words"].startswith("This is the course's own function")


@FORKS
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="network namespaces are Linux's")
def test_programs_that_are_started_have_no_network_either(tmp_path):
    connect = "import socket; s = socket.socket(); s.settimeout(1); s.connect(('127.0.0.1', 9))"
    source = "import subprocess, sys\ndef linear_betas(beta_1, beta_T, T):\n"
    source += f"    raise OSError(subprocess.run([sys.executable, '-c', {connect!r}], capture_output=True, text=True)"
    source += ".stderr.splitlines()[-1])"
    save(answered(1, {"linear_betas": source}), tmp_path / "class" / "net.ipynb")
    found, _, result = grade(tmp_path / "class")
    if "warning: limit of network" in result.err:
        pytest.skip("this machine allows no network namespaces")
    assert "Network is unreachable" in found["net"]["linear_betas"]["words"]


def test_an_untouched_copy_is_not_attempted_and_starts_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_lesson.grading.judge._ended", lambda *args: pytest.fail("a process was started"))
    for path in NOTEBOOKS:
        save(json.loads(path.read_text("utf-8")), tmp_path / "class" / "ann" / path.name)
    found, held, _ = grade(tmp_path / "class")
    assert by(found["ann"]) == {"not attempted": [exercise.name for exercise in exercises()]}
    (ann,) = held["students"]
    assert [each["number"] for each in ann["to_read_by_hand"]] == (
        "1.6 1.7 2.2 2.6 3.5 3.9 4.1 4.6 5.1 5.6.1 5.7.1 5.16".split()
    )


def test_known_mistakes_are_named_and_counted(tmp_path):
    root = "def q_sample(x_0, t, noise, alphas_bar):\n    a = alphas_bar[t].view(-1, *[1] * (x_0.ndim - 1))\n"
    no_root = root + "    return a.sqrt() * x_0 + (1 - a) * noise\n"
    for who in ("ann", "bob"):
        save(answered(1, {"q_sample": no_root, "walk": ANSWERS["walk"]}), tmp_path / "class" / who / "any name.ipynb")
    save(answered(1, {"q_sample": root + "    return a\n"}), tmp_path / "class" / "cy" / "01.ipynb")
    found, held, result = grade(tmp_path / "class")
    said = checks.q_sample.diagnose(eval_of(no_root))[1].removeprefix(". ")
    assert found["ann"]["q_sample"]["words"] == said
    (mistake,) = found["ann"]["q_sample"]["mistakes"]
    assert mistake in [each.sentence for each in checks.q_sample.mistakes]
    first, second = held["mistakes"]
    assert first == {"number": "1.4", "words": mistake, "students": ["ann", "bob"]}
    assert second["students"] == ["cy"] and second["words"] == found["cy"]["q_sample"]["words"]
    rows = list(csv.DictReader((tmp_path / "grades" / "grades.csv").read_text("utf-8").splitlines()))
    assert [row["1.4 q_sample"] for row in rows] == ["failed"] * 3
    assert [row["passed"] for row in rows] == ["1", "1", "0"]
    page = (tmp_path / "grades" / "class.html").read_text("utf-8")
    assert '<td class="n">2</td><td>' in page and page.count("feedback/ann.html") == 2
    assert "ann         .     +" not in result.out and "\nann         .    +    .    -" in result.out


def eval_of(source):
    names = {}
    exec(source, names)
    return names["q_sample"]


def test_a_wrong_answer_is_replaced_for_later_exercises(tmp_path):
    wrong = "def extract(v, t, x_shape):\n    return v"
    own = "def extract(v, t, x_shape):\n    return helper(v[t], len(x_shape) - 1)\n"
    helper = "def helper(x, n):\n    return x.view(-1, *[1] * n)\n"
    answers = {"q_sample": ANSWERS["q_sample"], "posterior": ANSWERS["posterior"]}
    save(answered(1, answers | {"extract": wrong}), tmp_path / "class" / "ann.ipynb")
    save(answered(1, answers | {"extract": own + helper}), tmp_path / "class" / "bob.ipynb")
    found, _, _ = grade(tmp_path / "class")
    assert by(found["ann"])["failed"] == ["extract"]
    assert by(found["ann"])["passed"] == ["q_sample", "posterior"]
    assert by(found["bob"])["passed"] == ["extract", "q_sample", "posterior"]


def test_pages_escape_what_students_wrote(tmp_path):
    evil = "<script>alert(1)</script>"
    source = f"def linear_betas(beta_1, beta_T, T):\n    print('{evil}')\n    raise ValueError('{evil}')"
    save(answered(1, {"linear_betas": source}), tmp_path / "class" / "=1+<i>&.ipynb")
    grade(tmp_path / "class")
    pages = [path.read_text("utf-8") for path in (tmp_path / "grades").rglob("*.html")]
    assert len(pages) == 2 and all("<script" not in page and "<i>" not in page for page in pages)
    assert any("&lt;script&gt;alert(1)&lt;/script&gt;" in page for page in pages)
    assert "\n'=1+<i>&," in (tmp_path / "grades" / "grades.csv").read_text("utf-8")


def test_a_failure_of_the_grader_costs_one_exercise_and_is_no_students(tmp_path, monkeypatch):
    def broken(job, stop):
        if job.exercise.name == "walk":
            raise RecursionError("too deep")
        return {"status": "passed"}

    monkeypatch.setattr("ddpm_lesson.grading.grades.judged", broken)
    save(solved(1), tmp_path / "class" / "ann.ipynb")
    found, _, _ = grade(tmp_path / "class")
    assert by(found["ann"]) == {"passed": [n for n in ALL_OF_1 if n != "walk"], "not graded": ["walk"]}
    assert "RecursionError: too deep" in found["ann"]["walk"]["trouble"]


def passes(job, stop):
    return {"status": "passed"}


@pytest.mark.parametrize("terms", [1200, 10**4])
def test_what_the_grader_cannot_build_costs_its_own_exercise_only(terms, tmp_path, monkeypatch):
    answers = {"q_sample": f"q_sample = {'+'.join(['1'] * terms)}", "walk": ANSWERS["walk"]}
    save(answered(1, answers), tmp_path / "class" / "deep.ipynb")
    save(answered(1, {"q_sample": ANSWERS["q_sample"]}), tmp_path / "class" / "ann.ipynb")
    monkeypatch.setattr("ddpm_lesson.grading.grades.judged", passes_what_can_be_sent)
    found, _, _ = grade(tmp_path / "class")
    assert by(found["ann"])["passed"] == ["q_sample"] and by(found["deep"])["passed"] == ["walk"]
    deep = found["deep"]["q_sample"]
    assert deep["status"] == "not graded" and "RecursionError" in deep["trouble"] or "recursion" in deep["words"]


def passes_what_can_be_sent(job, stop):
    pickle.dumps(job)
    return {"status": "passed"}


def test_a_failure_before_judging_costs_one_file(tmp_path, monkeypatch):
    """While a copy is read, or its program is built."""

    def read(path):
        return 1 / 0 if path.stem == "bob" else read_copy(path)

    def program(cells, asked):
        if any("cy" in cell.source for cell in cells):
            raise RuntimeError("too much")
        return Program(cells, asked)

    monkeypatch.setattr("ddpm_lesson.grading.grades.read_copy", read)
    monkeypatch.setattr("ddpm_lesson.grading.grades.Program", program)
    monkeypatch.setattr("ddpm_lesson.grading.grades.judged", passes)
    for who in ("ann", "bob", "cy"):
        save(answered(1, {"walk": f"# {who}\n{ANSWERS['walk']}"}), tmp_path / "class" / f"{who}.ipynb")
    (tmp_path / "class" / "di.ipynb").write_text(
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "worksheets": []}'
    )
    found, held, result = grade(tmp_path / "class")
    assert by(found["ann"])["passed"] == ["walk"]
    assert "bob.ipynb was not read: the grader failed to read it (ZeroDivisionError: division by zero)" in result.out
    assert by(found["cy"]) == {"not graded": ALL_OF_1} and "too much" in found["cy"]["walk"]["trouble"]
    assert "di.ipynb was not read: expected a list of cells, got worksheets" in result.out


def test_the_folder_one_is_in_takes_the_grades(tmp_path, monkeypatch):
    save(original(2), tmp_path / "class" / "ann.ipynb")
    (tmp_path / "grades").mkdir()
    monkeypatch.chdir(tmp_path / "grades")
    for more in ([], ["--force"]):
        result = run("grade", "../class", "--out", ".", *more)
        assert result.status == 0, result.err
        assert sorted(os.listdir(".")) == ["class.html", "feedback", "grades.csv", "grades.json"]
    assert sorted(os.listdir(tmp_path)) == ["class", "grades"]


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_graded(tmp_path, monkeypatch):
    save(original(2), tmp_path / "class" / "ann.ipynb")
    grade(tmp_path / "class")

    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    monkeypatch.setattr("ddpm_lesson.grading.grades.graded", lambda *args: pytest.fail("it was graded"))
    result = run("grade", tmp_path / "class", "--out", tmp_path / "grades", "--force")
    words = f"{tmp_path / 'grades'} cannot be written (Permission denied): name another place"
    assert result.status == 1 and words in result.err


def test_the_table_is_seen_though_nothing_can_be_written(tmp_path, monkeypatch):
    save(original(2), tmp_path / "class" / "ann.ipynb")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddpm_lesson.grading.report.written", full)
    result = run("grade", tmp_path / "class", "--out", tmp_path / "grades")
    assert result.status == 1 and "No space left" in result.err and "\nann         ." in result.out


def test_the_grades_are_written_though_no_one_reads_the_table(tmp_path, monkeypatch):
    save(original(2), tmp_path / "class" / "李雷.ipynb")

    class Closed(io.TextIOWrapper):
        def flush(self):
            raise BrokenPipeError

    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", Closed(io.BytesIO(), "utf-8"))
        patched.setattr("ddpm_lesson.cli._close_output", lambda: None)
        assert main(["grade", str(tmp_path / "class"), "--out", str(tmp_path / "grades")]) == 141
        patched.setattr(Closed, "flush", lambda self: None)
    assert (tmp_path / "grades" / "grades.json").is_file()
    narrow = io.TextIOWrapper(io.BytesIO(), "cp1252")
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", narrow)
        assert main(["grade", str(tmp_path / "class"), "--out", str(tmp_path / "narrow")]) == 0
    assert b"\n??       " in narrow.buffer.getvalue() and (tmp_path / "narrow" / "grades.json").is_file()


def test_what_cannot_be_read_is_said_and_the_others_are_graded(tmp_path):
    folder = tmp_path / "class"
    save(original(2), folder / "ann" / "02.ipynb")
    (folder / "bob").mkdir()
    (folder / "bob" / "mine.ipynb").write_text("<html>")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "old.ipynb").write_text("{}")
    found, held, result = grade(folder)
    assert list(found) == ["ann", "bob"] and found["bob"] == {}
    assert "bob: mine.ipynb was not read: expected a notebook, which is JSON" in result.out
    assert held["students"][1]["unreadable"][0]["file"] == "mine.ipynb"


def test_earlier_grades_are_replaced_only_if_asked_and_never_by_half(tmp_path, monkeypatch):
    save(original(2), tmp_path / "class" / "ann.ipynb")
    out = tmp_path / "grades"
    grade(tmp_path / "class")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    result = run("grade", tmp_path / "class", "--out", out)
    assert result.status == 1 and "holds earlier grades" in result.err
    with monkeypatch.context() as patched:
        patched.setattr("ddpm_lesson.grading.report.student_page", lambda student: 1 / 0)
        assert run("grade", tmp_path / "class", "--out", out, "--force").status == 1
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(os.listdir(tmp_path)) == ["class", "grades"]
    save(original(3), tmp_path / "class" / "bob.ipynb")
    found, _, _ = grade(tmp_path / "class", "--force")
    assert list(found) == ["ann", "bob"] and sorted(os.listdir(tmp_path)) == ["class", "grades"]
    (out / "notes.txt").write_text("mine")
    result = run("grade", tmp_path / "class", "--out", out, "--force")
    assert result.status == 1 and "holds other files (notes.txt) and is no folder of grades" in result.err


@pytest.mark.parametrize("chapter", [2, 3, 4, 5])  # those of 1: in the first test
def test_every_solution_passes(chapter, tmp_path):
    save(solved(chapter), tmp_path / "class" / "ann.ipynb")
    found, _, _ = grade(tmp_path / "class", "--timeout", 120)
    assert by(found["ann"]) == {"passed": [e.name for e in exercises() if e.chapter == chapter]}, found["ann"]


@FORKS
def test_ctrl_c_ends_what_runs_and_writes_nothing(tmp_path):
    source = "import time\ndef linear_betas(beta_1, beta_T, T):\n    time.sleep(600)"
    save(answered(1, {"linear_betas": source}), tmp_path / "class" / "ann.ipynb")

    def interrupt():
        deadline = time.monotonic() + 60
        while not multiprocessing.active_children() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background began with none
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        result = run("grade", tmp_path / "class", "--out", tmp_path / "grades")
    finally:
        thread.join()
        signal.signal(signal.SIGINT, handler)
    assert result.status == 130 and not multiprocessing.active_children()
    assert sorted(os.listdir(tmp_path)) == ["class"]
