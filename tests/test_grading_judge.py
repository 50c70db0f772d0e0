"""The parent's side of a process: what it believes, and how it says that there is no verdict."""

import json
import os
import subprocess
import sys
import time

import pytest

from ddpm_lesson.grading.exercises import exercises
from ddpm_lesson.grading.harness import ENDED, Job
from ddpm_lesson.grading.judge import _read, _surroundings, _waited, _why
from ddpm_lesson.grading.slices import Plan

JOB = Job(Plan((), {}, frozenset(), {}), exercises()[0], (), (), 3.0, 100, word="secret")


@pytest.mark.parametrize(
    "held",
    ["", "{", "[]", '"secret"', '{"status": "passed"}', '{"status": "passed", "word": "guess"}', "[" * 10**5, "\xff"],
)
def test_only_what_carries_the_word_is_a_verdict(held, tmp_path):
    job = JOB._replace(folder=str(tmp_path))
    assert _read(job) == {}
    (tmp_path / ENDED).write_text(held, "latin-1")
    assert _read(job) == {}
    (tmp_path / ENDED).write_text(json.dumps({"status": "passed", "word": "secret"}))
    assert _read(job) == {"status": "passed"}


@pytest.mark.parametrize(
    ("code", "late", "told"),
    [
        (None, True, "No answer within 3 s: an endless loop, or far too slow."),
        (0, False, "The process ended before its check did (exit status 0): os._exit, or the like."),
        (-11, False, "The process crashed (SIGSEGV: it read or wrote memory that is not its own)."),
        (-9, False, "The process crashed (SIGKILL: memory may have run out)."),
        (-6, False, "The process crashed (SIGABRT)."),
        (-24, False, "No answer within 3 s of processor time."),
        (-63, False, "The process crashed (signal 63)."),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="numbers of Linux's signals")
def test_why_there_is_no_verdict(code, late, told):
    assert _why(code, late, JOB) == told


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this system counts no waiting")
def test_a_process_that_sleeps_waits_for_no_processor():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        time.sleep(1)
        first, begun = _waited(process.pid), time.monotonic()
        time.sleep(1)
        asleep = time.monotonic() - begun
        assert 0 <= _waited(process.pid) - first < asleep / 2
        process.kill()
    assert _waited(process.pid) == 0  # there is none


def test_the_environment_comes_back(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "mine")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with _surroundings():
        assert os.environ["MPLBACKEND"] == "Agg" and os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert os.environ["MPLBACKEND"] == "mine" and "CUDA_VISIBLE_DEVICES" not in os.environ
