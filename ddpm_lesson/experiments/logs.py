"""The log of a run: a row per step, log.csv."""

import csv
import math
from pathlib import Path
from typing import NamedTuple, TextIO

from ddpm_lesson.experiments import checkpoints

LOG_FIELDS = ("step", "loss", "grad_norm", "seconds")
HEAD = ",".join(LOG_FIELDS).encode() + b"\r\n"


class Row(NamedTuple):
    """A step as it was logged.  seconds: of computing since the run's beginning, over all its processes."""

    step: int
    loss: float
    grad_norm: float
    seconds: float


def read_log(path: Path, until: float = math.inf) -> list[Row]:
    """The rows up to step `until`; of a missing log none. A last row that was cut off is left out, and what follows
    step `until` is not looked at.

    Raises ValueError that names the line if one is damaged: no numbers, or steps that do not grow.
    """
    rows: list[Row] = []
    if path.is_dir():
        raise ValueError(f"{path} must be a file, got a folder: move it away, and the run goes on with a new log")
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines[1:], 2):
        if (rows and rows[-1].step >= until) or not line.endswith(b"\n"):
            break
        try:
            ((step, *values),) = csv.reader([line.decode("ascii")])
            row = Row(int(step), *map(float, values))
            if not (rows[-1].step if rows else 0) < row.step:
                raise ValueError
        except (ValueError, TypeError) as error:
            told = f"{path} is damaged in line {number}: expected {', '.join(LOG_FIELDS)}, got {line[:40]!r}"
            raise ValueError(f"{told}. Move it away, and the run goes on with a new log") from error
        if row.step <= until:
            rows.append(row)
    return rows


def cut_log(path: Path, step: int) -> list[Row]:
    """Leave the rows up to `step`, and return them: what was logged after the state was saved will be made again.

    Raises what `read_log` raises, and then writes nothing.
    """
    rows = read_log(path, step)
    content = path.read_bytes() if path.exists() else b""
    kept = b"".join(content.splitlines(keepends=True)[1 : 1 + len(rows)])
    if content != HEAD + kept:
        checkpoints.write_whole(path, HEAD + kept)
    return rows


def write_row(log: TextIO, row: Row) -> None:
    """Add a row to an open log, for whoever looks."""
    csv.writer(log).writerow([*row[:3], f"{row.seconds:.3f}"])
    log.flush()
