"""What lies in a folder of images: which files are images, of which classes, and what is left out and why."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ENDINGS = (
    (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm")
    + (".tga", ".tif", ".tiff", ".webp")
)  # fmt: skip
SHOWN = 8  # classes that a report names


@dataclass(frozen=True)
class Found:
    """What `find_images` found.  `str` of it is a report in one or two lines.

    root: the folder. files: paths below it, sorted. names: the class of each. left_out: why -> which, such as
    "type that is not read" -> ("notes.txt",).
    """

    root: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]

    @property
    def classes(self) -> list[str]:
        """In alphabetical order: label 0 is the first."""
        return sorted(set(self.names))

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Width and height of the smallest and of the largest image, by pixels; the files' headers are read.

        None if none can be read. A file that cannot be is found when it is decoded.
        """
        sizes = sorted(_sizes(self.root / file for file in self.files), key=lambda size: size[0] * size[1])
        return (sizes[0], sizes[-1]) if sizes else None

    def __str__(self) -> str:
        counts, n = Counter(self.names), len(self.files)
        parts = [f"{shown(name)} {counts[name]:,}" for name in self.classes[:SHOWN]]
        more = [f"and {len(counts) - SHOWN} more"] if len(counts) > SHOWN else []
        classes = "one class" if len(counts) == 1 else f"{len(counts)} classes ({', '.join([*parts, *more])})"
        told = f"{shown(self.root)}: {n:,} image{'s' * (n > 1)} in {classes}"
        if self.sizes:
            small, large = ("x".join(map(str, size)) for size in self.sizes)
            told += f", {large} pixels" if small == large else f", {small} to {large} pixels"
        return told + ("\nLeft out: " + _reasons(self.left_out) if self.left_out else "")


def find_images(root: Path) -> Found:
    """The images in a folder, or in its sub-folders, which are then their classes.

    Folders that are links are followed, each folder once. Folders of runs, hidden files, other types and links that
    lead nowhere are left out. Raises FileNotFoundError if there are no images, ValueError if they lie both in root and
    in its sub-folders, or if root is the folder of a run.
    """
    if _is_run(root):
        raise ValueError(f"{root} is the folder of a run, whose pictures are drawn: expected a folder of your images")
    endings, left_out, files = _endings(), dict[str, list[str]](), list[Path]()

    def leave_out(why: str, path: Path) -> None:
        left_out.setdefault(why, []).append(path.relative_to(root).as_posix())

    for path, why in _walk(root):
        if why:
            leave_out(why, path)
        elif path.suffix.lower() in endings:
            files.append(path.relative_to(root))
        else:
            leave_out("type that is not read", path)
    named = {file.parts[0] for file in files} | {name.split("/")[0] for names in left_out.values() for name in names}
    for folder in root.iterdir():
        if folder.name[0] != "." and folder.name not in named and os.path.isdir(folder):
            leave_out("folder without files", folder)
    files.sort()
    told = {why: tuple(sorted(which)) for why, which in left_out.items()}
    if not files:
        seen = f"; left out: {_reasons(told)}" if told else ""
        raise FileNotFoundError(f"no images in {root}: looked for names that end in {', '.join(endings)}{seen}")
    loose = [file.name for file in files if len(file.parts) == 1]
    if 0 < len(loose) < len(files):
        raise ValueError(f"{root} has images both in sub-folders, one per class, and outside of them: {loose[0]}")
    return Found(root, tuple(files), tuple(root.name if loose else file.parts[0] for file in files), told)


def shown(path: Path | str) -> str:
    """A name to print: as it is, or escaped where it holds what cannot be printed."""
    name = str(path)
    return name if name.isprintable() else ascii(name)


def _reasons(left_out: dict[str, tuple[str, ...]]) -> str:
    """How many of each kind, with an example."""
    return "; ".join(f"{why}: {len(which):,} ({shown(which[0])})" for why, which in left_out.items())


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file below root, and why it is left out, "" if it is not. Of a folder, why all in it is left out."""
    around = os.path.realpath(root)
    seen, folders, links = set[str](), [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)  # links last: what they lead to may lie here under its name
        real = os.path.realpath(folder)
        if real in seen or (folder != root and around.startswith(os.path.join(real, ""))):
            yield folder, "link to a folder that is read already, or around it"
            continue
        seen.add(real)
        try:
            inside = sorted(folder.iterdir())
        except OSError:
            yield folder, "folder that cannot be opened"
            continue
        for path in inside:
            if path.name.startswith("."):
                if path.suffix.lower() in ENDINGS:
                    yield path, "hidden"
            elif os.path.isdir(path):
                if _is_run(path):
                    yield path, "folder of a run"
                else:
                    (links if path.is_symlink() else folders).append(path)
            elif os.path.isfile(path):
                yield path, ""
            else:
                yield path, "link that leads nowhere" if path.is_symlink() else "neither file nor folder"


def _is_run(folder: Path) -> bool:
    names = ("log.csv", "state.safetensors", "weights.safetensors")
    return os.path.isfile(folder / "recipe.json") and any(os.path.isfile(folder / name) for name in names)


def _endings() -> tuple[str, ...]:
    """Those of ENDINGS that Pillow reads here: .avif, for example, is not in every build."""
    from PIL import Image

    known = Image.registered_extensions()
    return tuple(ending for ending in ENDINGS if known.get(ending) in Image.OPEN)


def _sizes(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    from PIL import Image

    for path in paths:
        try:
            with Image.open(path) as image:
                yield image.size
        except Exception:  # as in `ImageFiles.decode`, which names it
            continue
