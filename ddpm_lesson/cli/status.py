"""The command status: what lies in the folders of runs, and who works there. It changes nothing, and waits for none."""

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from ddpm_lesson.cli.options import command_of, name
from ddpm_lesson.experiments import saved
from ddpm_lesson.experiments.locks import worker
from ddpm_lesson.experiments.logs import Row, read_log
from ddpm_lesson.experiments.recipes import Recipe

MEAN_OF = 100  # steps, for the loss


def add(commands: Any) -> None:
    words = "Say how far runs are, and whether a process works on them."
    command = command_of(commands, status, words, computes=False)
    command.add_argument("folders", nargs="+", type=name, metavar="FOLDER", help="of a run, such as runs/digits")


def status(options: argparse.Namespace) -> int:
    """Print what lies in each folder. A damaged run is no error here: what is wrong is said.

    Of folders that hold none, all are named after the others.
    """
    wrong = []
    for folder in options.folders:
        try:
            print("\n".join(_lines(Path(folder))))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        more = f"; {len(wrong) - 5} more of {len(options.folders)} hold none" if len(wrong) > 5 else ""
        raise ValueError("; ".join(wrong[:5]) + more)
    return 0


def _lines(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: expected that of a run, such as runs/digits")
    if not any((folder / file).is_file() for file in (saved.RECIPE, saved.STATE, saved.WEIGHTS)):
        raise ValueError(f"{folder} holds no run: expected a folder that train has made, such as runs/digits")
    working, damaged, rows = worker(folder), [], []
    before = recipe = None
    try:
        before = saved.load_saved(folder)
    except (ValueError, OSError) as error:
        damaged.append(str(error))
    try:
        recipe = saved.recipe_of(folder) or (before.recipe if before else None)
        if before and before.step and recipe:
            saved.check_recipe(before, recipe, folder)
    except ValueError as error:
        damaged.append(str(error))
        recipe = recipe or (before.recipe if before else None)
    try:
        rows = read_log(folder / saved.LOG)
        damaged += saved.log_note(folder, before.step) if before else []
    except ValueError as error:
        damaged.append(str(error))
    if before and before.step and not working:
        try:
            damaged += saved.check_weights(before, folder)
        except ValueError as error:
            damaged.append(str(error))
    step = max(rows[-1].step if rows and (working or not before) else 0, before.step if before else 0)
    total = recipe.steps if recipe else 0
    told = {
        "recipe": _in_one_line(recipe) if recipe else "",
        "step": f"{step} of {total or 'an unknown number'}"
        + (f", saved after {before.step}" if before and before.step != step else ""),
        "loss": _loss(rows),
        "time": _time(rows, step, total),
        "process": _process(folder, working, before, total, bool(damaged)),
        "files": ", ".join(_files(folder)),
    }
    lines = [f"  {name:8} {words}" for name, words in told.items() if words]
    return [f"{folder}:", *lines, *[f"  {'note':8} {words}" for words in damaged]]


def _in_one_line(recipe: Recipe) -> str:
    """The data, and what differs from a recipe's defaults."""
    fields = dataclasses.fields(Recipe)
    given = {field.name: getattr(recipe, field.name) for field in fields if field.name not in ("data", "steps")}
    usual = {field.name: field.default for field in fields}
    return ", ".join([recipe.data, *(f"{name} {value}" for name, value in given.items() if value != usual[name])])


def _loss(rows: list[Row]) -> str:
    last = [row.loss for row in rows[-MEAN_OF:]]
    return f"{sum(last) / len(last):.4g}, the mean of the last {len(last)} steps" if last else ""


def _time(rows: list[Row], step: int, total: int) -> str:
    if not rows:
        return ""
    left = rows[-1].seconds / rows[-1].step * (total - step)
    return f"{_clock(rows[-1].seconds)} used" + (f", about {_clock(left)} left" if step < total else "")


def _clock(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours}:{minutes:02}:{round(seconds) % 60:02}"


def _process(folder: Path, working: object, before: saved.Saved | None, total: int, damaged: bool) -> str:
    if working:
        return f"{working} works here"
    if before and 0 < total <= before.step:
        return "none; finished"
    return "none" + ("" if damaged and before is None else f"; goes on with: train --out {shlex.quote(str(folder))}")


def _files(folder: Path) -> list[str]:
    """Those that a run leaves, with their sizes; a folder's size is that of all in it."""
    found = []
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        size = sum(each.stat().st_size for each in files)
        amount = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
        many = f"({len(files)} file{'' if len(files) == 1 else 's'}) " if path.is_dir() else ""
        found.append(f"{path.name} {many}{amount}")
    return found
