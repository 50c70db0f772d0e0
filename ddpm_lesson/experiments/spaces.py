"""What images of any data are scored by: which real ones stand beside them, and which network sees both.

Where no classifier ships, it is trained on the spot, and kept with what binds it to the images and its recipe.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ddpm_lesson._tensors import Device
from ddpm_lesson.data import Images
from ddpm_lesson.experiments.checkpoints import CheckpointError, load_tensors, save_tensors
from ddpm_lesson.experiments.classifiers import fit
from ddpm_lesson.experiments.metrics import GROUPS
from ddpm_lesson.experiments.pretrained import PretrainedClassifier, load_weights
from ddpm_lesson.experiments.recipes import ClassifierRecipe
from ddpm_lesson.files import cache_folder

SHIPPED = {"digits": "digits_classifier", "mnist": "mnist_classifier", "mnist_10k": "mnist_classifier"}  # by data
REFERENCE = 10_000  # real images to compare with, where no number is recorded
REFERENCE_BYTES = 2**30  # of their pixels, at most
APART = 200  # images of a folder that are kept apart at least, if that leaves half


class Real(NamedTuple):
    """Real images in memory: those that samples are compared with, and those that stand beside the samples."""

    reference: Images
    held_out: Images


def real_images(images: Images, held_out: Images | None, *, progress: bool = False) -> Real:
    """At most 10,000 of the images, and others.

    held_out: images that were held out; None keeps a seeded tenth of the images apart, at least 200 or half. The
    choice is always the same. Raises ValueError if fewer than 20 would be left on either side.
    """
    order = torch.randperm(len(images), generator=Generator().manual_seed(0), device="cpu")
    if held_out is None:
        apart = min(len(images) // 2, max(len(images) // 10, APART))
        if apart < GROUPS:
            told = f"expected at least {2 * GROUPS} images, of which half are kept apart"
            raise ValueError(f"{told}, got {len(images)}: train on more, or name a folder of others with --held-out")
        kept, order = in_memory(images, order[:apart], "kept apart" if progress else ""), order[apart:]
    else:
        kept = held_out
    if min(len(order), len(kept)) < GROUPS:
        got = f"{len(order)} to compare with and {len(kept)} held out"
        raise ValueError(f"scores need at least {GROUPS} real images on either side, got {got}")
    most = max(GROUPS, min(REFERENCE, REFERENCE_BYTES // (4 * images.data[:1].numel())))
    return Real(in_memory(images, order[:most].sort().values, "images" if progress else ""), kept)


def in_memory(images: Images, rows: Tensor, progress: str = "") -> Images:
    """Some of the images, decoded.  progress: the name of a bar, "" for none."""
    parts: Iterable[Tensor] = rows.split(64)
    if progress:
        from tqdm.auto import tqdm

        parts = tqdm(parts, desc=progress)
    data = torch.cat([images.data[part] for part in parts])
    return Images(data, images.labels[rows], levels=images.levels, classes=images.classes)


def with_classes(images: Images, classes: tuple[str, ...]) -> Images:
    """The images with their labels counted as in `classes`.  ValueError that names a class which is not there."""
    if images.classes == classes:
        return images
    if unknown := [name for name in images.classes if name not in classes]:
        told = "the images held out need sub-folders with such names"
        raise ValueError(f"the classes must be among {', '.join(classes)}, got {unknown[0]}: {told}")
    places = torch.tensor([classes.index(name) for name in images.classes])
    return Images(images.data, places[images.labels], levels=images.levels, classes=classes)


def own_recipe(data: str, shape: tuple[int, ...], count: int) -> ClassifierRecipe:
    """The course's recipe of a clean classifier for `count` images (C, H, W), with 64 features.

    Larger images have more levels and fewer channels. Each image is seen about 30 times, in 200 to 1,000 steps, so that
    it takes minutes on a CPU.
    """
    side, levels = max(shape[1:]), 1
    while levels < 5 and side > 8 and all(s % 2**levels == 0 for s in shape[1:]):
        side, levels = side // 2, levels + 1
    ch = 32 if max(shape[1:]) <= 32 else 16 if max(shape[1:]) <= 64 else 8
    ch_mult = tuple(min(2**level, 64 // ch) for level in range(levels - 1))
    steps, shift = max(200, min(1000, 30 * count // 64)), 1 if max(shape[1:]) < 16 else 2
    return ClassifierRecipe(data, ch=ch, ch_mult=(*ch_mult, 64 // ch), shift=shift, steps=steps)


def kept_in(run: Path | None, images: Images) -> Path:
    """Where a classifier of these images is kept: in the folder of a run, else in the user's cache."""
    if run is not None:
        return run / "own_classifier.safetensors"
    return cache_folder() / "classifiers" / f"{images.fingerprint()[:16]}.safetensors"


def own_classifier(
    recipe: ClassifierRecipe, images: Images, path: Path, *, device: Device = "cpu", progress: bool = False
) -> tuple[PretrainedClassifier, str]:
    """A clean classifier of the images, and how it was come by: "kept", "trained", or "trained, not kept" and why.

    path: of a file that is read if it was made of exactly these images by exactly this recipe, and else written.
    progress: show a bar. Raises ValueError if there is only one class.
    """
    if len(images.classes) < 2:
        raise ValueError(f"a classifier needs at least two classes, got {', '.join(images.classes)} alone")
    recipe = replace(recipe, batch_size=min(recipe.batch_size, len(images)))
    bound = {"images": images.fingerprint()}
    if (found := _kept(recipe, bound, path, device)) is not None:
        return found, "kept"
    steps = fit(recipe, images, device=device)
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, desc="own classifier", total=recipe.steps, unit=" steps")
    trained = deque(steps, maxlen=1)[0]
    trained.model.eval().requires_grad_(False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trained.save(path)
        tensors, about = load_tensors(path)
        save_tensors(path, tensors, about | bound)
    except OSError as error:
        return trained, f"trained, not kept ({error})"
    return trained, "trained"


def _kept(recipe: ClassifierRecipe, bound: dict, path: Path, device: Device) -> PretrainedClassifier | None:
    try:
        _, about = load_tensors(path)
        found = load_weights(path, device=device)
    except (OSError, CheckpointError):
        return None
    whole = isinstance(found, PretrainedClassifier) and about.get("images") == bound["images"]
    return found if whole and isinstance(found, PretrainedClassifier) and found.recipe == recipe else None
