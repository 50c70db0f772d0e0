"""The parent's side: a process for each exercise, ended when its time is over, whatever became of it."""

import json
import multiprocessing
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ddpm_lesson.grading import harness
from ddpm_lesson.grading.harness import BEGUN, ENDED, SCRATCH, Job

START = 120.0  # seconds until a process has loaded PyTorch; they do not count
LARGEST = 2**20  # bytes of a verdict
QUIET = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
SURROUNDINGS = dict.fromkeys(QUIET, "1") | {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
_starting = threading.Lock()


class Interrupted(Exception):
    """Who grades has stopped it."""


def judged(job: Job, stop: threading.Event) -> dict[str, Any]:
    """The verdict on one exercise, as `harness` has it, or why there is none.  job.folder and job.word are set here."""
    with tempfile.TemporaryDirectory(prefix="ddpm_lesson-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / SCRATCH).mkdir()
        job = job._replace(folder=folder, word=secrets.token_hex(16))
        begun = time.monotonic()
        code, late = _ended(job, stop)
        found = _read(job)
        started = (Path(folder) / BEGUN).exists()
        seconds = round(time.monotonic() - begun, 2)
    if found:
        return found | {"seconds": seconds}
    if not started:
        words = f"The process that judges could not be started (exit status {code})."
        return {"status": "not graded", "words": words, "seconds": seconds}
    return {"status": "stopped", "words": _why(code, late, job), "seconds": seconds}


def _ended(job: Job, stop: threading.Event) -> tuple[int | None, bool]:
    """The exit code of the process, and whether its time was over."""
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["ddpm_lesson.grading.preloaded", "ddpm_lesson.cli"])
    process = context.Process(target=harness.run, args=(job,), daemon=True)
    with _starting, _surroundings():
        process.start()
    begun, late = None, False
    started = time.monotonic()
    try:
        while process.exitcode is None and not late:
            if stop.is_set():
                raise Interrupted
            now = time.monotonic()
            if begun is None and (Path(job.folder) / BEGUN).exists():
                begun = now - _waited(process.pid)
            left = started + START - now if begun is None else begun + _waited(process.pid) + job.seconds - now
            wait([process.sentinel], max(0.0, min(left, 0.02 if begun is None else 0.2)))
            late = left <= 0 and process.exitcode is None
    finally:
        _kill(process)
    code = process.exitcode
    process.close()
    return code, late


def _waited(number: int) -> float:
    """Seconds for which a process was ready and others had the processor: on a busy machine they are not its own.

    On Linux; 0 elsewhere, where the clock alone counts.
    """
    try:
        return int(Path(f"/proc/{number}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _kill(process: Any) -> None:
    """End it with all that it has started."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.exitcode is None:
        process.kill()
    process.join()


def _read(job: Job) -> dict[str, Any]:
    """What the process has written; {} for nothing, or what it did not write itself."""
    try:
        with open(Path(job.folder) / ENDED, "rb") as file:
            found = json.loads(file.read(LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.pop("word", None) == job.word else {}


def _why(code: int | None, late: bool, job: Job) -> str:
    """Why a process left no verdict."""
    if late:
        return f"No answer within {job.seconds:g} s: an endless loop, or far too slow."
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if name == "SIGXCPU":
            return f"No answer within {job.seconds:g} s of processor time."
        more = {"SIGSEGV": ": it read or wrote memory that is not its own", "SIGKILL": ": memory may have run out"}
        return f"The process crashed ({name}{more.get(name, '')})."
    return f"The process ended before its check did (exit status {code}): os._exit, or the like."


@contextmanager
def _surroundings() -> Iterator[None]:
    """The environment of processes that are started inside."""
    before = {name: os.environ.get(name) for name in SURROUNDINGS}
    os.environ.update(SURROUNDINGS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
