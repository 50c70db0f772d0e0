"""Data to diffuse: bundled digits, 2-D points, torchvision's sets, a folder of your own images."""

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from ddpm_lesson.files import ImageFiles, cache_folder
from ddpm_lesson.folders import find_images
from ddpm_lesson.images import Images, to_uint8
from ddpm_lesson.points import checkerboard, eight_gaussians, eight_gaussians_mixture, swiss_roll, two_moons

__all__ = (
    ["Images", "DataNotFoundError", "bundled", "to_uint8"]
    + ["digits", "mnist_10k", "mnist", "fashion_mnist", "cifar10", "folder"]
    + ["checkerboard", "eight_gaussians", "eight_gaussians_mixture", "swiss_roll", "two_moons"]  # of points.py
)

IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"


def bundled(name: str) -> Path:
    """Path of a file or folder that ships with the course; name is relative to the repository's data/ folder.

    Raises FileNotFoundError, listing the files that ship, if there is none of this name.
    Not for downloads: those lie under DDPM_LESSON_DATA, see `mnist`.
    """
    package = Path(__file__).resolve().parent
    data = package / "_bundled" if (package / "_bundled").is_dir() else package.parent / "data"
    if not (data / name).exists():
        files = sorted(file.relative_to(data).as_posix() for file in data.rglob("*") if file.is_file())
        raise FileNotFoundError(f"no bundled file {name!r}; there are: {', '.join(files)}")
    return data / name


def digits(split: str | None = None) -> Images:
    """The 1,797 bundled digits, 8x8.  UCI, Alpaydin and Kaynak 1998, as in scikit-learn's `load_digits`.

    split: None for all, "train" for the first 1,415, "test" for the last 382, in scikit-learn's order.
    Returns Images with data (N, 1, 8, 8) and levels 17.  Raises ValueError on another split.
    The images come form after form (see data/README.md), and the cut lies between two forms: the test split is from
    forms that the train split has not seen.

    >>> images = digits("train")
    >>> x_0, labels = images[:10]
    >>> len(images), x_0.shape, labels.tolist()
    (1415, torch.Size([10, 1, 8, 8]), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    return _bundled_digits("digits.npz", split, 1415, levels=17, classes="0123456789")


def mnist_10k(split: str | None = None) -> Images:
    """The first 10,000 training images of MNIST, 28x28, which are bundled.  LeCun et al. 1998.

    split: None for all, "train" for the first 9,000, "test" for the last 1,000.
    Returns Images with data (N, 1, 28, 28) and levels 256.  Raises ValueError on another split.
    Not `mnist`: that has 60,000 and 10,000 images and is read from torchvision's files, or downloaded. A network that
    was trained on those has seen all of these.

    >>> mnist_10k("test").data.shape
    torch.Size([1000, 1, 28, 28])
    """
    names = "zero one two three four five six seven eight nine".split()  # as torchvision has them
    classes = [f"{label} - {name}" for label, name in enumerate(names)]
    return _bundled_digits("mnist_10k.npz", split, 9000, levels=256, classes=classes)


def _bundled_digits(name: str, split: str | None, cut: int, levels: int, classes: Sequence[str]) -> Images:
    splits = {None: slice(None), "train": slice(cut), "test": slice(cut, None)}
    if split not in splits:
        raise ValueError(f"split must be None, 'train' or 'test', got {split!r}")
    with np.load(bundled(name)) as file:
        data, labels = torch.from_numpy(file["images"])[:, None], torch.from_numpy(file["labels"]).long()
    return Images(data[splits[split]], labels[splits[split]], levels=levels, classes=classes)


class DataNotFoundError(FileNotFoundError):
    """A data set is not on this machine and was not, or could not be, downloaded."""


def mnist(root: str | Path | None = None, train: bool = True, download: bool = True) -> Images:
    """MNIST, LeCun et al. 1998: 60,000 (train) or 10,000 digits, data (N, 1, 28, 28).  Read by torchvision.

    root: a folder in torchvision's layout; None is the environment variable DDPM_LESSON_DATA, and where that is
    not set ~/.cache/ddpm_lesson.  Files that are there and whole are only read; else all are downloaded to root, and a
    line on stderr says so. A folder that is named and missing is made if the folder that it lies in is there.
    Raises DataNotFoundError, naming the files and both ways out, if download is then False or fails, or if root is
    spelled wrong: the folder that it should lie in is missing, or it is no folder.
    Not `digits`: those are smaller, ship with the course, and have 17 levels in the place of 256.
    """
    return _torchvision("MNIST", f"MNIST/raw/ with {IDX_FILES}", root, train, download)


def fashion_mnist(root: str | Path | None = None, train: bool = True, download: bool = True) -> Images:
    """Fashion-MNIST, Xiao et al. 2017: clothes in MNIST's format.  Arguments and errors as in `mnist`."""
    return _torchvision("FashionMNIST", f"FashionMNIST/raw/ with {IDX_FILES}", root, train, download)


def cifar10(root: str | Path | None = None, train: bool = True, download: bool = True) -> Images:
    """CIFAR-10, Krizhevsky 2009: 50,000 (train) or 10,000 photographs in RGB, data (N, 3, 32, 32).

    Arguments and errors as in `mnist`.  Not torchvision's order of axes, which is (N, H, W, C).
    """
    files = "cifar-10-batches-py/ with data_batch_1 to data_batch_5, test_batch and batches.meta"
    return _torchvision("CIFAR10", files, root, train, download)


def _torchvision(name: str, files: str, root: str | Path | None, train: bool, download: bool) -> Images:
    from torchvision import datasets

    source = getattr(datasets, name)
    place = Path(root).expanduser() if root else cache_folder()
    named = bool(root or os.environ.get("DDPM_LESSON_DATA"))
    if place.exists() and not place.is_dir():
        raise DataNotFoundError(f"{name} was to be read from a folder, got {place}, which is a file")
    damaged = (RuntimeError, ValueError, AssertionError)  # what torchvision raises for files missing or cut short
    try:
        try:
            found = source(place, train=train)
        except damaged:
            if not download:
                raise
            if named and not place.parent.is_dir():
                told = f"there is no folder {place}, and none that it could be made in: {name} was not downloaded"
                raise DataNotFoundError(f"{told}. Name another folder, or make this one first") from None
            print(f"{name} is downloaded to {place}", file=sys.stderr)
            _download(source, place)
            found = source(place, train=train)
    except DataNotFoundError:
        raise
    except (*damaged, OSError, HTTPException) as error:
        raise DataNotFoundError(
            f"{name} is missing or damaged under {place}{'' if download else ', and was not to be downloaded'}. Either "
            f"have it downloaded, which needs a connection to the internet, or put {files}, unpacked, under that "
            f"folder or another one, and name that one as root or in the environment variable DDPM_LESSON_DATA. What "
            f"failed: {error}"
        ) from error
    data, labels = torch.as_tensor(found.data), torch.as_tensor(found.targets)
    data = data[:, None] if data.ndim == 3 else data.permute(0, 3, 1, 2).contiguous()
    return Images(data, labels, levels=256, classes=found.classes)


def _download(source: type, root: Path) -> None:
    """Files reach root whole or not at all: torchvision takes a half-unpacked file for a whole one next time."""
    made = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as scratch:
            source(scratch, download=True)
            for file in sorted(Path(scratch).rglob("*")):
                target = root / file.relative_to(scratch)
                if file.is_dir():
                    target.mkdir(exist_ok=True)
                elif file.suffix != ".gz":
                    os.replace(file, target)
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()  # only an empty one
        raise


def folder(path: str | Path, size: int, *, channels: int = 3) -> Images:
    """Your own images: all in one folder, which is then the only class, or in one sub-folder per class.

    Each image is cropped to its central square and resized, antialiased, to (size, size); channels: 3 for RGB, 1 for
    grey.  Transparent becomes white; of an animation the first frame counts. Folders that are links are followed.
    Returns Images with levels 256 and classes in alphabetical order. Its `found` says how many images of which classes
    and sizes there are, and what was left out: folders of runs, hidden files, types that are no images.
    Raises FileNotFoundError if path is missing or has no images, NotADirectoryError if it is a file, ValueError if
    images lie both in path and in its sub-folders, path is the folder of a run, size is not a positive integer, or
    channels is not 1 or 3.
    Not in memory, unlike the other sets: an index decodes the files that it selects, and raises OSError with the name
    of a file that cannot be read. `Images.prepare`, with which batches and `x_0` begin, decodes all; see `ImageFiles`.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a positive integer, got {size!r}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels!r}")
    path = Path(path).expanduser().resolve()
    if not path.exists():
        raise FileNotFoundError(f"there is no folder {path}: expected that of the images (--root)")
    if not path.is_dir():
        raise NotADirectoryError(f"path must be a folder of images, got the file {path}")
    found = find_images(path)
    classes = found.classes
    label = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([label[name] for name in found.names])
    files = ImageFiles([path / file for file in found.files], size, channels)
    return Images(files, labels, levels=256, classes=classes, from_folder=found)
