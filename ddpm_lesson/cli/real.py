"""What evaluate puts beside the samples: real images, and the network that sees both. All is checked, then loaded."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from ddpm_lesson.cli.options import loaded, root_of
from ddpm_lesson.data import Images
from ddpm_lesson.experiments import classifiers, spaces
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.evaluation import Network
from ddpm_lesson.experiments.features import INCEPTION, Inception, Pixels, inception_file
from ddpm_lesson.experiments.pretrained import PretrainedClassifier, PretrainedDiffusion, PretrainedNoisyClassifier
from ddpm_lesson.experiments.recipes import PART_OF


class Real(NamedTuple):
    """Real images.  reference: what samples are compared with. held_out: what is scored beside them.

    origin: words for where those held out come from. part: whether the reference is a part of the images only.
    """

    reference: Images
    held_out: Images
    origin: str = "that were held out"
    part: bool = False


class Beside(NamedTuple):
    """What stands beside the samples.  network: what sees them and the real images. name: of it.

    notes: sentences that a reader of the scores has to know.
    """

    real: Real
    network: Network
    name: str
    notes: list[str]


def beside(options: argparse.Namespace, trained: PretrainedDiffusion, recorded: str | None) -> Beside:
    """What stands beside the samples, by these options.  recorded: the classifier of the recorded scores, if any.

    Raises ValueError for a classifier that does not fit the images, and what reading images raises.
    """
    data, kind = trained.recipe.data, _kind(options, trained, recorded)
    if options.held_out and data != "folder":
        raise ValueError(f"--held-out is for networks of a folder of images; {data} has held-out images: leave it out")
    ready: tuple[Network, str] | None = None  # what does not depend on the images is checked before they are read
    if kind == "inception":
        ready = Inception(_file_of(options)).to(trained.device), "Inception"
    elif kind == "named":
        ready = _named(options.classifier or recorded or spaces.SHIPPED[data], options, trained)
    root = options.root or root_of(options.weights)
    images = load_images(trained.recipe, root)
    one = len(images.classes) == len(trained.classes) == 1  # is called as its folder, which may have moved
    if data == "folder" and images.classes != trained.classes and not one:
        told = f"expected the classes that the network was trained on, {', '.join(trained.classes)}"
        raise ValueError(f"{told}, got {', '.join(images.classes)}: name their folder with --root")
    if images.found and not options.quiet:
        print(images.found, file=sys.stderr)
    notes: list[str] = []
    real = _real(options, trained, images, root, notes, whole=kind == "named")
    if ready is None and kind == "own":
        ready = _own(options, trained, real, notes), "own classifier"
    elif ready is None:
        ready = Pixels(real.reference.x_0).to(trained.device), "pixels"
        notes.append("pixels: the principal components of these images' pixels, which know nothing of what they show")
    return Beside(real, *ready, notes)


def _kind(options: argparse.Namespace, trained: PretrainedDiffusion, recorded: str | None) -> str:
    if options.inception is not None and options.classifier:
        raise ValueError("give --inception or --classifier, not both")
    if options.inception is not None:
        return "inception"
    if options.classifier == "own" and len(trained.classes) < 2:
        told = f"--classifier own needs at least two classes, got {trained.classes[0]} alone"
        raise ValueError(f"{told}: take --classifier pixels, or --inception")
    if options.classifier:
        return options.classifier if options.classifier in ("own", "pixels") else "named"
    if recorded or trained.recipe.data in spaces.SHIPPED:
        return "named"
    if inception_file() is not None:
        return "inception"
    return "own" if len(trained.classes) > 1 else "pixels"


def _file_of(options: argparse.Namespace) -> str | Path:
    if options.inception:
        return options.inception
    if (path := inception_file()) is None:
        told = f"--inception needs pip install 'torchmetrics[image]', and {INCEPTION} in torch's cache"
        raise ValueError(f"{told}, or named with --inception FILE: nothing is downloaded")
    return path


def _named(name: str, options: argparse.Namespace, trained: PretrainedDiffusion) -> tuple[Network, str]:
    """The classifier of that name or file, which has to be of clean images of these data."""
    found = loaded(name, options.device, PretrainedClassifier)
    if isinstance(found, PretrainedNoisyClassifier):
        told = f"this is a classifier of noisy images with T = {found.recipe.T}: expected one of clean images"
        raise ValueError(f"{told}, got {name}")
    wanted, got = (
        (PART_OF.get(each.recipe.data, each.recipe.data), each.shape, each.classes) for each in (trained, found)
    )
    if wanted != got:
        told = f"expected a classifier of {_said(*wanted)}, as the network's images are"
        raise ValueError(f"{told}; {name} is of {_said(*got)}: leave out --classifier, or train one: --classifier own")
    return found.model, Path(name).stem


def _said(data: str, shape: tuple[int, ...], classes: tuple[str, ...]) -> str:
    named = f"{len(classes)} classes" if len(classes) > 4 else ", ".join(classes)
    return f"{data}, {' x '.join(map(str, shape))}, {named}"


def _real(
    options: argparse.Namespace,
    trained: PretrainedDiffusion,
    images: Images,
    root: str | None,
    notes: list[str],
    *,
    whole: bool,
) -> Real:
    """The real images.  whole: all that there are, of data that hold some back."""
    origin, held_out = "that were held out", None
    if trained.recipe.data != "folder":
        held_out = load_images(trained.recipe, root, train=False)
        if whole:
            return Real(images, held_out)
    elif options.held_out:
        held_out = load_images(trained.recipe, options.held_out)
        held_out = spaces.with_classes(held_out, images.classes) if len(images.classes) > 1 else held_out
        origin = f"from {options.held_out}"
    else:
        origin = "that were kept apart"
        notes.append("a folder holds no images back: those kept apart here were among the training images")
    reference, held_out = spaces.real_images(images, held_out, progress=not options.quiet)
    return Real(reference, held_out, origin, len(reference) < len(images))


def _own(options: argparse.Namespace, trained: PretrainedDiffusion, real: Real, notes: list[str]) -> Network:
    """A classifier of these images, trained now or kept from before."""
    weights = Path(options.weights)
    folder = weights if weights.is_dir() else weights.parent
    path = spaces.kept_in(folder if (folder / "recipe.json").is_file() else None, real.reference)
    recipe = spaces.own_recipe(trained.recipe.data, trained.shape, len(real.reference))
    show = not options.quiet
    found, how = spaces.own_classifier(recipe, real.reference, path, device=trained.device, progress=show)
    share, low, high = classifiers.accuracy(found, real.held_out)
    right = f"right for {share:.1%} of the images {real.origin} ({low:.1%}..{high:.1%})"
    notes.append(f"own classifier of {len(found.classes)} classes, {how}, {right}: {path}")
    return found.model
