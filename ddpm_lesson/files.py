"""Image files instead of a tensor: decoded when they are needed; what took long is kept on disk for the next time."""

import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from shutil import disk_usage
from typing import IO, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

KEPT_BYTES = 2**30  # of decoded files, in memory
SLOW = 1.0  # seconds of decoding after which there is a bar, and what was decoded is worth a file
VERSION = 1  # of what `decode` makes of a file


def cache_folder() -> Path:
    """Where downloads and decoded images lie: the environment variable DDPM_LESSON_DATA, else ~/.cache/ddpm_lesson."""
    return Path(os.environ.get("DDPM_LESSON_DATA") or "~/.cache/ddpm_lesson").expanduser()


class ImageFiles:
    """Image files instead of a uint8 tensor (N, C, H, W): an index decodes what it selects, and keeps it while
    there is room.

    `prepare` decodes them all. If that takes more than a second, the pixels are written to `cache_folder()`/decoded, in
    one file (N, C, H, W) that belongs to these files' names, sizes and times, and to size and channels. Later starts
    read from there. It may be deleted at any time. The folder of the images is only read.
    """

    dtype = torch.uint8

    def __init__(self, files: Sequence[Path], size: int, channels: int):
        self.files, self.shape = list(files), (len(files), channels, size, size)
        self.kept: dict[int, np.ndarray] = {}
        self.room = KEPT_BYTES // (channels * size * size)
        self.stored: np.ndarray | None = None  # what lies on disk, once it was looked for
        self.looked = self.prepared = False

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        chosen = torch.arange(len(self.files))[index]
        rows = chosen.flatten().tolist()
        stored = self._look()
        pixels = np.array([self.pixels(i) for i in rows] if stored is None else stored[rows], dtype=np.uint8)
        return torch.from_numpy(pixels.reshape(*chosen.shape, *self.shape[1:]))

    def __getstate__(self) -> dict:
        """A worker of a DataLoader opens what is on disk itself, and does not get a copy."""
        return self.__dict__ | {"kept": {}, "stored": None, "looked": False, "prepared": False}

    def pixels(self, i: int) -> np.ndarray:
        pixels = self.kept[i] if i in self.kept else self.decode(self.files[i])
        if len(self.kept) < self.room:
            self.kept[i] = pixels
        return pixels

    def read(self) -> Iterator[bytes]:
        """The bytes of each file, beside a bar if it takes more than a second."""
        return (file.read_bytes() for file in _bar(self.files, "Reading images"))

    def prepare(self) -> None:
        """Decode all files now, beside a bar if it takes more than a second. Raises OSError that names a damaged file.

        What is too much for the disk and for memory is decoded when it is needed, as without this.
        """
        if self._look() is not None or self.prepared or len(self.kept) == len(self.files):
            return
        begun, waiting = time.monotonic(), dict[int, np.ndarray]()
        store = _Store(self._path(), self.shape)  # the files' times are taken before the files are read
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            todo = pool.map(lambda i: self.kept[i] if i in self.kept else self.decode(self.files[i]), range(len(self)))
            for i, pixels in enumerate(_bar(todo, "Decoding images", total=len(self))):
                waiting[i] = pixels
                if (time.monotonic() - begun > SLOW or len(waiting) > self.room) and store.write(waiting.values()):
                    waiting = {}
                if len(waiting) > self.room:
                    waiting = dict(list(waiting.items())[: self.room])
                    break  # for want of a place
            self.kept, self.stored, self.prepared = waiting, store.close(), True
        finally:
            store.drop()
            pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        return len(self.files)

    def decode(self, file: Path) -> np.ndarray:
        """The pixels of a file, (C, H, W) uint8: its central square, upright, on white."""
        from PIL import Image, ImageOps

        try:
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened)
                if image.mode.startswith(("I", "F")):
                    image = Image.fromarray(_eight_bits(np.asarray(image)))
                if image.mode not in ("RGB", "L") or "transparency" in image.info:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more on damaged files
            raise OSError(f"{file} cannot be read as an image: {error}; repair it, or take it out") from error
        _, channels, height, width = self.shape
        image = ImageOps.fit(image.convert("RGB" if channels == 3 else "L"), (width, height), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)

    def _look(self) -> np.ndarray | None:
        if not self.looked:
            self.looked, self.stored = True, _stored(self._path(), self.shape)
        return self.stored

    def _path(self) -> Path | None:
        """The file for these pixels; None if a file cannot be looked at. The first half of its name is the folder's."""
        try:
            stats = [file.stat() for file in self.files]
        except OSError:
            return None
        # A change of content moves st_ctime even where a program sets the other times back.
        times = [(each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in stats]
        place = _digest([VERSION, os.path.commonpath([file.parent for file in self.files]), self.shape[1:]])
        return cache_folder() / "decoded" / f"{place}-{_digest([[str(file) for file in self.files], times])}.npy"


class _Store:
    """A file of pixels that is written row by row beside its place, and moved there when it is whole.

    A full or a read-only disk is no error: the pixels are then not kept there.
    """

    def __init__(self, path: Path | None, shape: tuple[int, ...]):
        self.path, self.shape, self.rows = path, shape, 0
        self.file: IO[bytes] | None = None

    def write(self, pixels: Collection[np.ndarray]) -> bool:
        """Append rows; False if they cannot be written, now or before."""
        try:
            if self.path is not None and self.rows == 0:
                self.file = _begun(self.path.parent, math.prod(self.shape))
                header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
                np.lib.format.write_array_header_1_0(self.file, header)
            if self.file is None:
                return False
            self.file.write(np.stack([*pixels]).tobytes())
            self.rows += len(pixels)
            return True
        except OSError:
            self.drop()
            return False

    def close(self) -> np.ndarray | None:
        """Put the file in its place, and give back what it holds; None if there is none, or not all of it."""
        if self.path is None or self.file is None or self.rows < self.shape[0]:
            return None
        with suppress(OSError):
            self.file.close()
            os.replace(self.file.name, self.path)
            self.file = None
            place, _, _ = self.path.name.partition("-")
            for older in set(self.path.parent.glob(f"{place}-*.npy")) - {self.path}:  # of the same folder, as it was
                older.unlink()
        return _stored(self.path, self.shape)

    def drop(self) -> None:
        """Leave nothing of a file that is not in its place."""
        if self.file is not None:
            for leave in (self.file.close, lambda name=self.file.name: os.unlink(name)):
                with suppress(OSError):
                    leave()
        self.file = self.path = None


def _begun(folder: Path, size: int) -> IO[bytes]:
    """A new file for so many bytes. Raises OSError if there is no place for it."""
    if not cache_folder().parent.is_dir() and os.environ.get("DDPM_LESSON_DATA"):
        raise FileNotFoundError(folder)  # a mistyped name is no reason to make folders
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.partial"):  # by a process that was killed; a living one writes all the time
        if time.time() - left.stat().st_mtime > 24 * 3600:
            left.unlink()
    if 2 * size > disk_usage(folder).free:
        raise OSError(f"{folder} has no room for {size} bytes")
    return open(folder / f"{secrets.token_hex(8)}.partial", "xb")  # others may read it, as far as the umask lets them


def _stored(path: Path | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pixels in that file, read when they are indexed; None if there is none, or a damaged one."""
    try:
        found = None if path is None else np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return found if found is not None and (found.shape, found.dtype) == (shape, np.uint8) else None


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """16-bit grey by its upper eight bits; PIL would clip all above 255."""
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        kind = "floating point" if pixels.dtype.kind == "f" else f"{pixels.min()}..{pixels.max()}"
        raise ValueError(f"expected pixels of 8 or 16 bits, got {kind}, whose black and white nobody knows; convert it")
    return (pixels >> 8).astype(np.uint8)


def _digest(told: object) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _bar(each: Iterable[T], words: str, total: int | None = None) -> Iterable[T]:
    from tqdm.auto import tqdm

    return tqdm(each, desc=words, total=total, delay=SLOW, leave=False, unit=" images")
