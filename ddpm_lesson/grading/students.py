"""Whose copy lies where: files, folders of files, and folders with a sub-folder for each student."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

OF_COURSE = re.compile(r"(?:0?1_forward_process|0?2_loss|0?3_unet|0?4_sampling|0?5_variants)", re.I)
OF_MOODLE = re.compile(r"^(.*?)_(\d+)_assignsubmission_\w+$")  # a folder: Alice Smith_12345_assignsubmission_file
OF_CANVAS = re.compile(r"^([^\W\d_]+)_(?:LATE_)?(\d+)_\d+_(?=\D*)")  # a file: smithalice_678_91011_02_loss.ipynb
OF_SYSTEM = re.compile(r"(?:[-_ ]?Copy\d*|\s*\(\d+\))$")  # a file's second copy: 02_loss-Copy1, 02_loss (1)
SUFFIX = ".ipynb"


class HandIn(NamedTuple):
    """A student's notebooks."""

    student: str
    paths: tuple[Path, ...]


def hand_ins(places: Sequence[str]) -> list[HandIn]:
    """The students and their notebooks, sorted.  places: notebooks, or folders of copies.

    A file's student is in its name, beside the notebook's own; a sub-folder is one student.
    Raises OSError or ValueError of one sentence for a place that is neither, or holds no notebook.
    """
    found: dict[str, list[Path]] = {}
    for place in places:
        path = Path(place)
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}: name a notebook, or a folder of copies")
        for student, notebook in _in_folder(path) if path.is_dir() else [_of_file(path)]:
            if notebook.resolve() not in [other.resolve() for other in found.get(student, [])]:
                found.setdefault(student, []).append(notebook)
    return [HandIn(student, tuple(paths)) for student, paths in sorted(found.items())]


def _of_file(path: Path) -> tuple[str, Path]:
    if path.suffix.lower() != SUFFIX:
        more = ", unpack it first" if path.suffix.lower() in (".zip", ".gz", ".tar", ".7z", ".rar") else ""
        raise ValueError(f"expected a notebook, *{SUFFIX}, or a folder of them, got the file {path}{more}")
    return student_of(path), path


def _in_folder(folder: Path) -> list[tuple[str, Path]]:
    inside = [(path, path.relative_to(folder).parts) for path in _notebooks(folder)]
    students = _of_folders({parts[0] for _, parts in inside if len(parts) > 1})
    found = [(student_of(path) if len(parts) == 1 else students[parts[0]], path) for path, parts in inside]
    if not found:
        raise ValueError(f"expected notebooks, *{SUFFIX}, in the folder {folder} or its sub-folders, found none")
    return found


def _of_folders(folders: set[str]) -> dict[str, str]:
    """The student of each sub-folder.  Of two with one name in Moodle each keeps its number: Alice Smith 12345."""
    found = {folder: OF_MOODLE.match(folder) for folder in folders}
    people = {folder: (match[1], match[2]) if match else (folder, "") for folder, match in found.items()}
    names = [name for name, _ in set(people.values())]
    return {
        folder: plain(f"{name} {number}" if number and names.count(name) > 1 else name)
        for folder, (name, number) in people.items()
    }


def _notebooks(folder: Path) -> list[Path]:
    """Hidden files and folders left out, .ipynb_checkpoints among them, and what macOS packs beside each file."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [Path(root) / name for name in files if name.lower().endswith(SUFFIX) and not name.startswith(".")]
    return sorted(found)


def student_of(path: Path) -> str:
    """01_forward_process_alice, alice-01_forward_process: alice.  A notebook's own name alone: the folder's name."""
    stem = OF_SYSTEM.sub("", path.stem)
    if canvas := OF_CANVAS.match(stem):
        return f"{canvas[1]}_{canvas[2]}"
    return plain(OF_COURSE.sub("", stem).strip(" _-.()") or path.resolve().parent.name or stem)


def plain(name: str) -> str:
    """A name that can be written everywhere, whatever bytes the file system holds."""
    return name.encode("utf-8", "backslashreplace").decode()
