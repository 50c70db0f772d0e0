"""Trained networks from files: those that ship with the course, by name, and those of your own runs, by path."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from ddpm_lesson._tensors import Share, out_of_memory, randn_like
from ddpm_lesson.data import bundled
from ddpm_lesson.denoisers import Denoiser, clipped, make_denoiser
from ddpm_lesson.doors import check_images
from ddpm_lesson.experiments import distributed
from ddpm_lesson.experiments.build import make_process
from ddpm_lesson.experiments.checkpoints import (
    CheckpointError,
    check_fits,
    fill,
    load_tensors,
    save_tensors,
    sha256,
)
from ddpm_lesson.experiments.conditions import of_sampling
from ddpm_lesson.experiments.generator_recipes import GeneratorRecipe, make_generator
from ddpm_lesson.experiments.pretrained_generators import PretrainedGenerator
from ddpm_lesson.experiments.recipes import LEARNED, ClassifierRecipe, Recipe
from ddpm_lesson.experiments.sampling import ANCESTRAL, Sampling, watching
from ddpm_lesson.experiments.sizes import check_of_images, check_options, check_same, is_small, on_paper
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import MeanType, Variance, mean_type_named, variance_named
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import State, last
from ddpm_lesson.schedules import named
from ddpm_lesson.variants.guidance import classifier_free

BLOCK = 250  # images whose noise is drawn together, however many the device holds at a time
# Not written where they say nothing, so that files keep their bytes.
AT_DEFAULT = (("null_class", True), ("num_head_channels", None), ("latent", 0), ("patch_size", 1))  # of the network
RECIPE_AT_DEFAULT = (
    *(("zero_snr", False), ("offset_noise", 0.0), ("condition", "none"), ("low_res_factor", 2)),
    ("patch_size", 1),
)


def _names(known: str) -> list[str]:
    """What a class may be called beside its name: the same, and its words, in small letters."""
    return [known.casefold(), *known.casefold().split()]


@dataclass(frozen=True)
class PretrainedDiffusion:
    """A trained diffusion model and what has to be known to draw from it.

    model: called as model(x_t, t) or, where the recipe is conditional, as model(x_t, t, y); when loaded, in eval mode
    and without gradients. process: what it was trained on, on the same device. recipe: how, with root left out.
    step: after how many steps. shape: (C, H, W). classes: names, by label. levels: how many values a pixel can take.
    """

    model: UNet
    process: GaussianDiffusion
    recipe: Recipe
    step: int
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    levels: int

    @property
    def mean_type(self) -> MeanType:
        """What the network predicts."""
        return mean_type_named(self.recipe.mean_type)

    @property
    def variance(self) -> Variance:
        """The variance of its reverse step."""
        return variance_named(self.recipe.var_type)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.process.betas.device

    def labels(self, n: int, name: str | None = None) -> Tensor | None:
        """Labels for n images, (n,): of the class of that name, or of every class in turn.

        A word of one class's name will do, in capitals or not: 3 or Three for "3 - three". None if the network was
        trained without labels. Raises ValueError for a name that is none of its classes.
        """
        if not self.recipe.conditional:
            if name is None:
                return None
            told = "leave it out, or train a network with --conditional"
            raise ValueError(f"this network was trained without labels: expected no class, got {name}; {told}")
        each = torch.arange(n, device=self.device) % len(self.classes)
        if name is None:
            return each
        places = [k for k, known in enumerate(self.classes) if name == known]
        places = places or [k for k, known in enumerate(self.classes) if name.casefold() in _names(known)]
        if len(places) != 1:
            raise ValueError(f"the class must be one of {', '.join(self.classes)}, got {name}")
        return torch.full_like(each, places[0])

    def denoiser(
        self, y: Tensor | None = None, *, cond: Tensor | None = None, guidance: float = 1.0, clip: bool = True
    ) -> Denoiser:
        """The network as a denoiser. y: (B,) labels, or None for images of no particular class. Any device will do.

        cond: (B, C, h, w), the small images, for a network that enlarges images, and for no other.
        guidance: the scale of `classifier_free`; another one than 1 asks the network twice, with y and without.
        clip: clip the estimated x_0 to [-1, 1]. Raises ValueError if there are no labels to guide to, and for a cond
        that is missing, has another shape, or is not asked for.
        """
        y, cond = (None if each is None else each.to(self.device) for each in (y, cond))
        told = of_sampling(self.recipe, self.shape, cond)
        without = make_denoiser(self.model, self.process, self.mean_type, **told)
        denoise = without if y is None else make_denoiser(self.model, self.process, self.mean_type, y=y, **told)
        if guidance != 1:
            if y is None:
                expected = f"expected some, got none and guidance = {guidance}"
                why = "" if self.recipe.conditional else ": the network was trained without labels, leave it out"
                raise ValueError(f"guidance leads towards labels: {expected}{why}")
            denoise = classifier_free(denoise, without, guidance)
        return clipped(denoise, self.process) if clip else denoise

    def states(
        self,
        n: int,
        sampling: Sampling = ANCESTRAL,
        *,
        y: Tensor | None = None,
        cond: Tensor | None = None,
        x_T: Tensor | None = None,
        x_0: Tensor | None = None,
        mask: Tensor | None = None,
        start: float = 1.0,
        generator: Generator | None = None,
    ) -> Iterator[State]:
        """Draw n images: yields every state, of which the last, of i = 0, holds the images (n, C, H, W).

        y: (n,) labels. cond: (n, C, h, w), as for `denoiser`. x_T: (n, C, H, W) latents, drawn if not given. x_0, mask,
        start: images to begin with, see `Sampling.states`. generator: on the CPU; sampling.seed is used if there is
        none. What is given may lie on any device. Raises ValueError for another number of what is given, and for pixels
        in 0..255 as cond or x_0, and warns (ImageRangeWarning) for those in [0, 1].
        """
        named = {"y": y, "cond": cond, "x_T": x_T, "x_0": x_0 if mask is None else None}  # else they may broadcast
        _check_rows({name: each for name, each in named.items() if each is not None}, n, self.shape)
        for name, images in () if isinstance(generator, Share) else (("cond", cond), ("x_0", x_0)):
            if images is not None:  # a share is of what `sample` has looked at
                check_images(images, name=name, stacklevel=2)
        if generator is None:
            generator = Generator().manual_seed(sampling.seed)
        x_T = randn_like(torch.empty(n, *self.shape, device=self.device), generator) if x_T is None else x_T
        x_T, x_0, mask = (None if each is None else each.to(self.device) for each in (x_T, x_0, mask))
        assert x_T is not None
        denoise = self.denoiser(y, cond=cond, guidance=sampling.guidance, clip=sampling.clip)
        beginning = partial(sampling.states, x_0=x_0, mask=mask, start=start, generator=generator)
        return beginning(self.process, denoise, self.variance, x_T)

    def sample(
        self,
        n: int,
        sampling: Sampling = ANCESTRAL,
        *,
        y: Tensor | None = None,
        cond: Tensor | None = None,
        x_T: Tensor | None = None,
        x_0: Tensor | None = None,
        mask: Tensor | None = None,
        start: float = 1.0,
        batch_size: int = BLOCK,
        progress: bool = False,
        keep: Callable[[Iterator[State]], Tensor] = last,
        part: tuple[int, int] = (0, 1),
    ) -> Tensor:
        """Draw n images, (n, C, H, W) on the CPU; they follow from sampling and what is given.  y: (n,) labels.

        cond: (n, C, h, w), the small images, for a network that enlarges images. x_T, x_0, mask: (n, C, H, W) each, and
        start: latents and images to begin with, see `states`; ddim_inversion returns latents.
        batch_size: how many at a time, fewer where that is too much for the device's memory; the images are the same
        up to rounding. progress: show a bar with the time left. keep: what is kept of the states of a batch, (B, ...).
        part: (number, of) to draw those of the images only that `part_of` names; what is given is given for all n.
        Raises ValueError for n or batch_size below 1, for a part that holds no image, for another number of what is
        given, and what does not fit the network, and the device's own error where a single image is too much for its
        memory; the values of cond and x_0 are looked at, as in `states`.

        >>> import ddpm_lesson
        >>> digits = ddpm_lesson.load_pretrained("digits_ddpm")
        >>> digits.sample(4, Sampling("ddim", steps="trailing5"), y=digits.labels(4, "7")).shape
        torch.Size([4, 1, 8, 8])
        """
        if min(n, batch_size) < 1:
            raise ValueError(f"n and batch_size must be positive, got {n} and {batch_size}")
        named = {"y": y, "cond": cond, "x_T": x_T, "x_0": x_0, "mask": mask}
        given = {name: each for name, each in named.items() if each is not None}
        _check_rows(given, n, self.shape)
        for name in given.keys() & {"cond", "x_0"}:
            check_images(given[name], name=name, stacklevel=2)
        state, images = Generator().manual_seed(sampling.seed).get_state(), []
        if not (total := len(part_of(n, *part))):
            raise ValueError(f"part {part[0]} of {part[1]} must hold an image, got none of n = {n}: see part_of")
        with watching(total, progress) as watched:
            for first in range(0, n, BLOCK):
                size = min(BLOCK, n - first)
                mine = distributed.rows(size, *part)
                begin = mine.start
                while begin < mine.stop:
                    rows = slice(begin, min(begin + batch_size, mine.stop))
                    share = Share(size, rows, state)
                    told = {name: each[first + rows.start : first + rows.stop] for name, each in given.items()}
                    try:
                        count = rows.stop - rows.start
                        states = self.states(count, sampling, **told, start=start, generator=share)
                        images.append(keep(watched(states, count)).cpu())
                    except (RuntimeError, MemoryError) as error:
                        if batch_size == 1 or not out_of_memory(error):
                            raise
                        batch_size = max(1, min(batch_size, size) // 2)
                    else:
                        begin = rows.stop
                state = share.get_state()
        return torch.cat(images)

    def save(self, path: Path | str) -> None:
        """Write what `load_weights` reads."""
        recipe = asdict(self.recipe) | {"root": None}  # a place on this machine
        recipe = {name: value for name, value in recipe.items() if (name, value) not in RECIPE_AT_DEFAULT}
        unet = {name: value for name, value in self.model.options.items() if (name, value) not in AT_DEFAULT}
        about = {"kind": "ddpm", "step": self.step, "recipe": recipe, "unet": unet}
        save_tensors(Path(path), self.model.state_dict(), about | _of_images(self))


@dataclass(frozen=True)
class PretrainedClassifier:
    """A trained classifier of clean images, called as model(x).  The fields are as in `PretrainedDiffusion`."""

    model: Classifier
    recipe: ClassifierRecipe
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    levels: int

    def save(self, path: Path | str) -> None:
        """Write what `load_weights` reads."""
        about = {"kind": "classifier", "classifier": self.model.options, "recipe": asdict(self.recipe)}
        noise = {"T": self.recipe.T, "schedule": self.recipe.schedule}
        save_tensors(Path(path), self.model.state_dict(), about | _of_images(self) | noise)


@dataclass(frozen=True)
class PretrainedNoisyClassifier(PretrainedClassifier):
    """A trained classifier of noisy images, called as model(x_t, t).  process: what noises them."""

    process: GaussianDiffusion


Pretrained = PretrainedDiffusion | PretrainedClassifier | PretrainedGenerator


def part_of(n: int, number: int, of: int) -> Tensor:
    """Which of n images the part `number` of so many holds: rows of every block, whose noise all parts draw.

    Some are empty if n < of. Raises ValueError for more parts than a block has images, and a number outside of 0..of-1.
    """
    if not 0 <= number < of:
        raise ValueError(f"a part must be (number, of) with number in 0..of - 1, got ({number}, {of})")
    if of > BLOCK:
        raise ValueError(f"images are drawn in at most {BLOCK} parts, got {of}")
    blocks = torch.arange(n).split(BLOCK)
    return torch.cat([block[distributed.rows(len(block), number, of)] for block in blocks])


def load_weights(path: Path | str, *, device: torch.device | str = "cpu") -> Pretrained:
    """The network in a file that a run or the course's recipes have written, such as runs/digits/weights.safetensors.

    Raises FileNotFoundError, or CheckpointError if the file is damaged or of something else.
    """
    tensors, about = load_tensors(Path(path))
    if about.get("kind") not in ("ddpm", "classifier", "generator"):
        raise CheckpointError(f"{path} does not hold the weights of a network, but maybe the state of a run")
    ready = partial(_ready, tensors=tensors, path=path, device=device)
    try:
        told = shape, classes, _ = check_of_images(about)
        if about["kind"] == "ddpm":
            check_options(UNet, about["unet"], tensors)
            recipe, unet = Recipe.from_values(about["recipe"]), ready(about["unet"], lambda: UNet(**about["unet"]))
            labels = len(classes) if recipe.conditional else None
            check_same({"T": recipe.T, "in_ch": shape[0], "num_classes": labels}, unet.options)
            check_same({"learned_var": recipe.var_type in LEARNED}, unet.options)
            return PretrainedDiffusion(unet, make_process(recipe).to(device), recipe, _step(about["step"]), *told)
        if about["kind"] == "generator":
            of_generator = GeneratorRecipe(**about["recipe"])
            sizes = {"ch": of_generator.width, "ch_mult": list(of_generator.ch_mult), "num_res_blocks": 1}
            sizes |= {"T": of_generator.T, "in_ch": math.prod(shape), "patch_size": of_generator.patch_size}
            sizes |= {"num_classes": len(classes), "latent": of_generator.latent}
            network = ready(sizes, lambda: make_generator(of_generator, shape, len(classes)))
            process = GaussianDiffusion(named(of_generator.schedule, of_generator.T)).to(device)
            return PretrainedGenerator(network, process, of_generator, *told)
        check_options(Classifier, about["classifier"], tensors)
        of_classifier = ClassifierRecipe(**about["recipe"])
        classifier = ready(about["classifier"], lambda: Classifier(**about["classifier"]))
        expected = {"T": of_classifier.T, "in_ch": shape[0], "num_classes": len(classes)}
        check_same(expected, classifier.options)
        if of_classifier.T is None:
            return PretrainedClassifier(classifier, of_classifier, *told)
        return PretrainedNoisyClassifier(classifier, of_classifier, *told, make_process(of_classifier).to(device))
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{path} does not say what its network is ({error}): get it again") from error


def load_pretrained(name: str, *, device: torch.device | str = "cpu") -> Pretrained:
    """A network that ships with the course, such as "digits_ddpm". data/weights/README.md says how good it is.

    Raises ValueError that lists what ships for another name, CheckpointError if the file is not the one that its
    recipe produced (its checksum stands beside it).
    """
    expected = about_shipped(name)["made"]["sha256"]
    path = bundled(f"weights/{name}.safetensors")
    if (got := sha256(path)) != expected:
        told = f"expected the SHA-256 {expected}, got {got}"
        raise CheckpointError(f"{path} is damaged: {told}. Install the course again")
    return load_weights(path, device=device)


def about_shipped(name: str) -> dict:
    """What is written beside a network that ships: recipe, how it was scored, and what was made: time, scores.

    Raises ValueError that lists what ships for another name, CheckpointError for weights that were not scored yet.
    """
    folder = bundled("weights")
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    if name not in names:
        raise ValueError(f"no weights {name!r} ship with the course; there are {', '.join(names)}")
    held = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if "made" not in held:
        raise CheckpointError(f"{folder / name}.json has no scores yet: python data/weights/make_weights.py {name}")
    return held


def _check_rows(given: dict[str, Tensor], n: int, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless there is one of each for every image.  cond's own shape is the denoiser's to check."""
    words = {"y": "a label for each image", "cond": "a small image for each"}
    for name, each in given.items():
        expected = {"y": (n,), "cond": (n, *each.shape[1:])}.get(name, (n, *shape))
        if each.shape != expected:
            told = f"({n}, C, h, w)" if name == "cond" else expected
            raise ValueError(f"{name} must be {told}, {words.get(name, 'one for each image')}, got {tuple(each.shape)}")


def _ready(options, make, *, tensors, path, device):
    """The network of these options, which make() makes, with these weights, to be used and not trained.

    A large one is first made without memory: the file must hold as many numbers. channels_last is what convolutions
    prefer.
    """
    try:
        if not is_small(options):
            check_fits(on_paper(make).state_dict(), tensors, path)
        model = make()
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a forged description can break a constructor in any way
        raise CheckpointError(f"{path} does not say what its network is ({error}): get it again") from error
    fill(model, tensors, Path(path))
    return model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _step(step: object) -> int:
    if type(step) is not int or step < 0:
        raise ValueError(f"step must be a positive integer, got {step!r:.80}")
    return step


def _of_images(trained: PretrainedDiffusion | PretrainedClassifier) -> dict:
    return {"classes": list(trained.classes), "levels": trained.levels, "shape": list(trained.shape)}
