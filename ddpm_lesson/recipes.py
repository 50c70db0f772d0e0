"""Recipes: everything that a training run depends on, in one value that JSON can hold; and what is built from it.

This is a front door: names are strings here, and are looked up once.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ddpm_lesson import data, losses, timesteps
from ddpm_lesson.bound import discretized
from ddpm_lesson.coefficients import extract
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import MEAN_TYPES, VARIANCES, mean_type_named, variance_named
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.schedules import SCHEDULES
from ddpm_lesson.schedules import named as schedule_named

DATA = {"digits": data.digits, "mnist": data.mnist, "fashion_mnist": data.fashion_mnist, "cifar10": data.cifar10}
ERRORS = {"simple": losses.squared, "l1": losses.absolute, "huber": losses.huber}
LOSSES = (*ERRORS, "hybrid", "kl")
WEIGHTINGS = {"simple": losses.simple_weight, "min_snr": losses.min_snr, "p2": losses.p2}
TIMESTEPS = {
    "uniform": timesteps.Uniform,
    "antithetic": timesteps.Antithetic,
    "loss_second_moment": timesteps.LossSecondMoment,
}
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
MIRRORED_IS_NOTHING = ("digits", "mnist")


def _field(default, words: str, choices=None, *, within: tuple[float, float] = (-math.inf, math.inf)):
    return dataclasses.field(default=default, metadata={"help": words, "choices": choices, "within": within})


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights of a run depend on, besides the machine. Each field says in its metadata what it is.

    Raises ValueError for a value that is not allowed and for choices that contradict each other. Equal recipes on one
    machine, build of PyTorch and number of threads give equal weights, bit by bit.
    """

    data: str = _field("digits", "what to learn; folder: your own images", (*DATA, "folder"))
    root: str | None = _field(None, "folder: where the images lie. Other data: where torchvision's files lie")
    size: int | None = _field(None, "folder: height and width to crop and resize to")
    channels: int = _field(3, "folder: 3 for RGB, 1 for grey", (1, 3))
    flip: bool = _field(False, "mirror each image with probability 1/2; never for digits")
    conditional: bool = _field(False, "learn p(x | label); the labels of a folder are its sub-folders")
    label_dropout: float = _field(0.1, "conditional: share of labels left out, for guidance", within=(0, 1))

    T: int = _field(1000, "number of steps", within=(1, 100_000))
    schedule: str = _field("linear", "how the noise grows", SCHEDULES)
    mean_type: str = _field("epsilon", "what the network predicts", MEAN_TYPES)
    var_type: str = _field("fixedlarge", "variance of the reverse step; learned_range needs loss hybrid", VARIANCES)
    loss: str = _field("simple", "simple: squared error; hybrid: with the bound, for learned_range", LOSSES)
    weighting: str = _field("simple", "weight of each t, as a weight of the error in eps", WEIGHTINGS)
    timesteps: str = _field("uniform", "how t is drawn", TIMESTEPS)

    ch: int = _field(32, "channels of the first level")
    ch_mult: tuple[int, ...] = _field((1, 2, 2), "channels of each level, as multiples of ch; each halves the sides")
    attn: tuple[int, ...] = _field((1,), "levels with attention, 0 is the finest")
    num_res_blocks: int = _field(1, "residual blocks per level")
    dropout: float = _field(0.0, "dropout in residual blocks", within=(0, 1))
    num_groups: int = _field(8, "groups of GroupNorm")
    num_heads: int = _field(1, "heads of attention")
    zero_init: bool = _field(False, "last layers start at 0 exactly")
    scale_shift_norm: bool = _field(False, "AdaGN: the time scales and shifts in the place of being added")
    biggan: bool = _field(False, "resample inside of residual blocks")

    steps: int = _field(1000, "updates of the weights", within=(1, math.inf))
    batch_size: int = _field(64, "images per batch", within=(1, math.inf))
    accumulate: int = _field(1, "batches per update", within=(1, math.inf))
    optimizer: str = _field("adam", "adamw shrinks the weights as well", OPTIMIZERS)
    lr: float = _field(2e-4, "learning rate after the warm-up", within=(0, math.inf))
    weight_decay: float = _field(0.0, "for adamw", within=(0, math.inf))
    warmup: int = _field(0, "updates in which the rate rises", within=(0, math.inf))
    rate: str = _field("constant", "the rate after the warm-up; cosine falls to 0", ("constant", "cosine"))
    clip_norm: float = _field(1.0, "largest norm of the gradient", within=(0, math.inf))
    ema_decay: float = _field(0.9999, "decay of the averaged weights, which are the result", within=(0, 1))
    mixed_precision: bool = _field(False, "compute in bfloat16, for a GPU; weights stay float32")
    compiled: bool = _field(False, "torch.compile the network: a minute at first, faster steps later")
    seed: int = _field(0, "seed of everything random", within=(0, 2**63 - 1))

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        if (self.data == "folder") != (self.size is not None):
            raise ValueError(f"data 'folder' needs size, other data have theirs: got {self.data}, size = {self.size}")
        if self.flip and self.data in MIRRORED_IS_NOTHING:
            raise ValueError(f"flip would turn {self.data} into signs that do not exist: leave it out")
        if (self.var_type == "learned_range") != (self.loss == "hybrid") and self.loss != "kl":
            got = f"var_type = {self.var_type}, loss = {self.loss}"
            raise ValueError(f"learned_range needs the loss hybrid or kl, and hybrid needs learned_range; got {got}")
        if self.weighting != "simple" and self.loss in ("hybrid", "kl"):
            raise ValueError(
                f"the loss {self.loss} has its own weights: weighting must be simple, got {self.weighting}"
            )
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay = {self.weight_decay} needs optimizer adamw, got {self.optimizer}")
        if self.ema_decay == 1 or self.clip_norm == 0:
            got = f"ema_decay = {self.ema_decay}, clip_norm = {self.clip_norm}"
            raise ValueError(f"ema_decay must lie below 1 and clip_norm above 0, got {got}")

    def to_json(self) -> str:
        """The recipe as text, which `Recipe.from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "Recipe":
        """The recipe that a text from `to_json` describes; fields left out have their defaults.

        Raises ValueError if the text is no JSON object, or names a field that does not exist.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"a recipe must be JSON, got text that is not: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"a recipe must be a JSON object, got {type(values).__name__}")
        names = [field.name for field in dataclasses.fields(Recipe)]
        if unknown := [name for name in values if name not in names]:
            raise ValueError(f"unknown in a recipe: {', '.join(unknown)}; it may have {', '.join(names)}")
        return Recipe(**values)


# What the presets change of the defaults.
PRESETS: dict[str, dict] = {
    "digits": {
        **{"data": "digits", "conditional": True, "schedule": "cosine", "loss": "hybrid", "var_type": "learned_range"},
        **{"ch_mult": (1, 2), "steps": 1300, "lr": 1e-3, "warmup": 100, "rate": "cosine", "ema_decay": 0.995},
    },
    "mnist": {
        **{"data": "mnist", "conditional": True, "schedule": "cosine", "loss": "hybrid", "var_type": "learned_range"},
        **{"ch": 16, "ch_mult": (1, 2, 4), "attn": (2,), "batch_size": 32, "steps": 13_000},
        **{"lr": 1e-3, "warmup": 200, "rate": "cosine", "ema_decay": 0.999},
    },
    "cifar10": {  # Ho et al. 2020, Appendix B
        **{"data": "cifar10", "flip": True, "ch": 128, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 2, "dropout": 0.1},
        **{"num_groups": 32, "steps": 800_000, "batch_size": 128, "warmup": 5000},
    },
    "folder": {
        **{"data": "folder", "size": 32, "schedule": "cosine", "ch": 64, "attn": (2,), "num_res_blocks": 2},
        **{"steps": 50_000, "lr": 5e-4, "warmup": 500, "rate": "cosine", "ema_decay": 0.999},
    },
}


def load_images(recipe: Recipe, *, train: bool = True) -> data.Images:
    """The images that a recipe learns from, or those held back. A folder's are all decoded, into memory.

    Raises what `data.folder` and `data.mnist` raise, and ValueError for the held back images of a folder: it has none.
    """
    if recipe.data == "folder":
        if not train:
            raise ValueError("a folder has no images held back: give another folder")
        if recipe.root is None:
            raise ValueError("data 'folder' needs root, the folder of your images, got None")
        found = data.folder(recipe.root, recipe.size, channels=recipe.channels)
        return data.Images(found.data[:], found.labels, levels=found.levels, classes=found.classes)
    if recipe.data == "digits":
        return data.digits("train" if train else "test")
    return DATA[recipe.data](recipe.root, train)


def make_process(recipe: Recipe) -> GaussianDiffusion:
    """The process that a recipe trains on."""
    return GaussianDiffusion(schedule_named(recipe.schedule, recipe.T))


def make_network(recipe: Recipe, channels: int, classes: int) -> UNet:
    """The network of a recipe, for images with so many channels and classes. Its start follows from the seed alone."""
    names = "ch ch_mult attn num_res_blocks dropout num_groups num_heads zero_init scale_shift_norm biggan".split()
    options = {name: getattr(recipe, name) for name in names}
    options |= {"in_ch": channels, "num_classes": classes if recipe.conditional else None}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)  # not torch.manual_seed: that seeds the GPUs, too
        return UNet(recipe.T, learned_var=recipe.var_type == "learned_range", **options)


def make_loss(recipe: Recipe, process: GaussianDiffusion, levels: int) -> Callable[..., Tensor]:
    """The loss of a recipe as `training.train` takes it, (B,) or (B, *D). levels: how many values a pixel can take."""
    mean_type, decoder = mean_type_named(recipe.mean_type), discretized(levels)
    if recipe.loss == "hybrid":
        return partial(losses.hybrid_loss, process, mean_type, decoder=decoder)
    if recipe.loss == "kl":
        variance = variance_named(recipe.var_type)
        return partial(losses.kl_loss, process, mean_type, variance, decoder=decoder, rescaled=True)
    loss = partial(losses.simple_loss, process, mean_type, error=ERRORS[recipe.loss])
    if recipe.weighting == "simple":
        return loss

    def weighted(output, x_0, x_t, t, noise):
        eps_weight = WEIGHTINGS[recipe.weighting](extract(process.snr, t, t.shape))
        weight = losses.weight_for(process, mean_type, t, eps_weight).to(output.dtype)
        return weight * loss(output, x_0, x_t, t, noise).flatten(1).mean(1)

    return weighted


def _checked(field: dataclasses.Field, value):
    """The value, in the field's type. Raises ValueError that says what was expected."""
    choices, (low, high) = field.metadata["choices"], field.metadata["within"]
    if field.type == tuple[int, ...]:
        expected, fits = "a list of integers", isinstance(value, list | tuple) and all(type(v) is int for v in value)
        value = tuple(value) if fits else value
    elif field.type is float:
        expected, fits = f"a number in {low}..{high}", type(value) in (int, float) and low <= value <= high
        value = float(value) if fits else value
    elif field.type is int and choices is None:
        expected, fits = f"an integer in {low}..{high}", type(value) is int and low <= value <= high
    elif choices is not None:
        expected, fits = f"one of {', '.join(map(str, choices))}", type(value) in (str, int) and value in choices
    else:
        fits = isinstance(value, field.type) and (field.type is bool or not isinstance(value, bool))
        expected = str(getattr(field.type, "__name__", field.type))
    if not fits:
        raise ValueError(f"{field.name} must be {expected}, got {value!r}")
    return value
