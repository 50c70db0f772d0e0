"""One exercise of one student, judged: what runs in a process of its own.

The check is taken before any of the student's code runs, and afterwards it is compared with what it was. The verdict
goes into a file that was opened before, beside a word that only this process and its parent know; what the student's
code prints is no verdict.
"""

import __future__

import ast
import inspect
import json
import linecache
import multiprocessing
import os
import re
import sys
import tempfile
import traceback
import types
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch

from ddpm_lesson.checks import _accelerator, _carry
from ddpm_lesson.checks._finished import FINISHED
from ddpm_lesson.grading.exercises import Exercise, check_of, mistakes_in
from ddpm_lesson.grading.limits import Kept, alone, limited, muted
from ddpm_lesson.grading.slices import Plan, Step

VERDICTS = {"yes": "passed", "no": "failed", "not attempted": "not attempted"}
COMPARING = ("Tensor", "allclose", "equal", "isclose", "isfinite", "isnan", "is_tensor")  # of torch, in the checks
CACHED = {"__slotnames__"}  # what Python itself adds to a class, here when its first tensor is copied or pickled
WORDS = 6000  # characters of a verdict
BEGUN, ENDED, SCRATCH = "begun", "ended", "scratch"  # in the folder of a job


class Job(NamedTuple):
    """exercise: the one to judge, of those graded in this copy. passed: names of those that were right before.

    folder: of this job, made by the parent, with a scratch folder in it. word: what proves where a verdict comes from.
    """

    plan: Plan
    exercise: Exercise
    graded: tuple[str, ...]
    passed: tuple[str, ...]
    seconds: float
    megabytes: int
    folder: str = ""
    word: str = ""


def run(job: Job) -> None:
    """Judge, and end the process."""
    alone()
    multiprocessing.current_process()._args = ()  # type: ignore[attr-defined]  # the word is in it
    folder = Path(job.folder)
    with open(folder / ENDED, "w", encoding="utf-8") as ended:
        (folder / BEGUN).touch()
        os.chdir(folder / SCRATCH)
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder / SCRATCH)
        torch.set_num_threads(1)
        kept = muted()
        _accelerator.usable_gpu = lambda: ""
        said: dict[str, Any] = {"lacks": limited(job.megabytes, job.seconds)}
        _write(ended, job, said | _judged(job, kept))
    os._exit(0)  # at once, whatever threads the student's code has left


def _write(file: TextIO, job: Job, said: dict[str, Any]) -> None:
    json.dump(said | {"word": job.word}, file)
    file.flush()


def _judged(job: Job, kept: Kept) -> dict[str, Any]:
    """The verdict as the parent reads it."""
    try:
        check = check_of(job.exercise)
        if hasattr(type(check), "right"):
            _ = check.right  # computed before a student's code can touch anything
        diagnose, before = check.diagnose, _fingerprint(check)
    except Exception:
        return {"status": "not graded", "words": "The grader itself failed.", "trouble": traceback.format_exc()}
    notes: list[str] = []
    try:
        function, notes = loaded(job)
        if function is None:
            return _said("failed", notes[0] if notes else "Nothing was defined.", kept, notes[1:])
        if _is_the_courses(function):
            return _said("failed", "This is the course's own function under another name, not yours.", kept, notes)
        verdict, detail = diagnose(function)
    except BaseException as error:  # such as KeyboardInterrupt, which a check lets through
        verdict, detail = "no", f". Your function raised {type(error).__name__}, which stopped its check."
    if _fingerprint(check, before) != before:
        words = "This code changed the course's checks or PyTorch itself while it ran. So it was not graded."
        return _said("failed", words, kept, [])
    words = re.sub(r"^\((\d+ inputs.*?)\)\.?", r"Right on \1.", detail.removeprefix(". ").strip())
    found = _said(VERDICTS[verdict], words, kept, notes if verdict == "no" else [])
    return found | {"mistakes": mistakes_in(job.exercise, detail) if verdict == "no" else []}


def _said(status: str, words: str, kept: Kept, notes: list[str]) -> dict[str, Any]:
    more = kept.length - len(kept.text)
    printed = kept.text + (f"\n... and {more:,} characters more" if more else "")
    return {"status": status, "words": words[:WORDS], "notes": [note[:WORDS] for note in notes[:20]], "output": printed}


def loaded(job: Job) -> tuple[Callable | None, list[str]]:
    """The student's function, and what went wrong on the way to it.  None if its own definition failed."""
    name, plan, notes = job.exercise.name, job.plan, []
    module = types.ModuleType("__main__")  # a class looks up its module by this name
    sys.modules["__main__"] = module
    names = module.__dict__
    names["display"] = names["get_ipython"] = lambda *args, **kwargs: None
    for other in {*job.graded} - {*job.passed, name}:
        names[other] = _carry.Finished(other, FINISHED[other])
    for number, source in plan.sources.items():
        at = _place(number)  # from where a traceback and `inspect` read the source
        linecache.cache[at] = (len(source), None, source.splitlines(keepends=True), at)
    own = None
    late = any(isinstance(step.node, ast.ImportFrom) and step.node.module == "__future__" for step in plan.steps)
    flags = __future__.annotations.compiler_flag if late else 0
    for step in plan.steps:
        trouble = _executed(step, names, flags)
        if trouble:
            notes.append(trouble)
        elif step.defines:
            value = names.get(name)
            own = value if callable(value) or own is None else own
        for passed in step.binds & set(job.passed):
            _carry._given_back[passed] = names.get(passed, FINISHED[passed])
    if own is not None:
        names[name] = own
    for need, number in plan.below.items():
        notes.append(f"{need} is defined further below, in code cell {number}; a copy is read from the top.")
    return own, notes


def _place(number: int) -> str:
    return f"<code cell {number}>"


def _executed(step: Step, names: dict[str, Any], flags: int) -> str:
    """Run it; what it raised, in words.  flags: of the compiler."""
    try:
        exec(compile(ast.Module([step.node], []), _place(step.cell), "exec", flags, True), names)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        words = str(error).strip().split("\n")[0]
        told = f"{type(error).__name__}{f': {words}' if words else ''}"
        return f"Line {step.node.lineno} of code cell {step.cell} raised {told}."
    return ""


def _is_the_courses(function: Any) -> bool:
    """Whether it is one of the package's own functions, and not the stand-in that `checks.carried` gives."""
    if isinstance(function, _carry.Finished):
        return False  # the check says "not attempted"
    try:
        return str(getattr(inspect.unwrap(function), "__module__", "")).split(".")[0] == "ddpm_lesson"
    except Exception:  # it wraps itself
        return False


def _fingerprint(check: Any, like: dict[str, dict] | None = None) -> dict[str, dict]:
    """What the names of the package, of a tensor's class and of what compares tensors stand for, by identity.

    like: an earlier one; only its names are looked up. What is added (a module loaded late, a cache) changes nothing,
    but for the check and for tensors.
    """
    kind = vars(type(check))
    late = {name for name, value in kind.items() if isinstance(value, cached_property)} - {"right"}
    held: dict[str, dict] = {"the check": {name: value for name, value in vars(check).items() if name not in late}}
    tensor = {name: value for name, value in vars(torch.Tensor).items() if name not in CACHED}
    held |= {"Tensor": tensor, "torch": {name: getattr(torch, name) for name in COMPARING}}
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "ddpm_lesson"]:
        names = held[module.__name__] = dict(vars(module))
        for name, value in list(names.items()):
            if inspect.isclass(value) and value.__module__ == module.__name__:
                names |= {f"{name}.{each}": method for each, method in vars(value).items() if callable(method)}
        codes = {f"{name}()": value.__code__ for name, value in names.items() if inspect.isfunction(value)}
        held[module.__name__] = names | codes
    _alive.append(held)  # so that nothing else gets the same id
    found = {key: {name: id(value) for name, value in names.items()} for key, names in held.items()}
    if like is None:
        return found
    whole = ("the check", "Tensor")
    return {
        key: found.get(key, {}) if key in whole else {name: found.get(key, {}).get(name) for name in names}
        for key, names in like.items()
    }


_alive: list[dict] = []
