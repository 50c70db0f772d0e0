"""Recipes: everything that a training run depends on, in one value that JSON can hold.  `build` makes things of it.

This is a front door: names are strings here, and are looked up once.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ddpm_lesson import data, losses, timesteps
from ddpm_lesson.experiments.checkpoints import read_file, read_json
from ddpm_lesson.experiments.fields import LARGEST, LEVELS, MOST, check_fields, field, short
from ddpm_lesson.predictions import MEAN_TYPES, VARIANCES
from ddpm_lesson.schedules import SCHEDULES

BUNDLED: dict[str, Callable[[str | None], data.Images]] = {"digits": data.digits, "mnist_10k": data.mnist_10k}
DOWNLOADED: dict[str, Callable[[str | None, bool], data.Images]] = {
    source.__name__: source for source in (data.mnist, data.fashion_mnist, data.cifar10)
}
DATA = (*BUNDLED, *DOWNLOADED)
PART_OF = {"mnist_10k": "mnist"}  # whose networks fit the other's images, too
ERRORS = {"simple": losses.squared, "l1": losses.absolute, "huber": losses.huber}
LOSSES = (*ERRORS, "hybrid", "kl")
WEIGHTINGS = {"simple": losses.simple_weight, "min_snr": losses.min_snr, "p2": losses.p2}
TIMESTEPS: dict[str, type[timesteps.Uniform | timesteps.LossSecondMoment]] = {
    "uniform": timesteps.Uniform,
    "antithetic": timesteps.Antithetic,
    "loss_second_moment": timesteps.LossSecondMoment,
}
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
MIRRORED_IS_NOTHING = ("digits", "mnist_10k", "mnist")
CONDITIONS = ("none", "previous", "low_res")
LEARNED = ("learned", "learned_range")  # variances for which the network has twice the channels


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights of a run depend on, besides the machine. Each field says in its metadata what it is.

    Raises ValueError for a value that is not allowed and for choices that contradict each other. Equal recipes on one
    machine, build of PyTorch and number of threads give equal weights, bit by bit.
    """

    data: str = field("digits", "what to learn; folder: your own images", (*DATA, "folder"))
    root: str | None = field(None, "folder: where the images lie. Other data: where torchvision's files lie")
    size: int | None = field(None, "folder: height and width to crop and resize to", within=(1, 8192))
    channels: int = field(3, "folder: 3 for RGB, 1 for grey", (1, 3))
    flip: bool = field(False, "mirror each image with probability 1/2; never for digits")
    conditional: bool = field(False, "learn p(x | label); the labels of a folder are its sub-folders")
    label_dropout: float = field(0.1, "conditional: share of labels left out, for guidance", within=(0, 1))

    T: int = field(1000, "number of steps", within=(1, 100_000))
    schedule: str = field("linear", "how the noise grows", SCHEDULES)
    zero_snr: bool = field(False, "the schedule ends at alphas_bar = 0; not with mean_type epsilon")
    mean_type: str = field("epsilon", "what the network predicts", MEAN_TYPES)
    var_type: str = field(
        "fixedlarge", "variance of the reverse step; if learned, loss must be hybrid or kl", VARIANCES
    )
    loss: str = field("simple", "simple: squared error; hybrid: with the bound, for a learned variance", LOSSES)
    weighting: str = field("simple", "weight of each t, as a weight of the error in eps", WEIGHTINGS)
    timesteps: str = field("uniform", "how t is drawn", TIMESTEPS)
    offset_noise: float = field(0.0, "strength of noise that an image's pixels share", within=(0, LARGEST))
    condition: str = field(
        "none", "an image beside x_t; previous: the network's own estimate; low_res: a small one", CONDITIONS
    )
    low_res_factor: int = field(2, "low_res: the small image's sides are so many times shorter", within=(2, 1024))

    ch: int = field(32, "channels of the first level", within=(2, 4096))
    ch_mult: tuple[int, ...] = field(
        (1, 2, 2), "channels of each level, as multiples of ch; each halves the sides", within=(1, 1024)
    )
    patch_size: int = field(1, "so many pixels a side become one position, in the channels", within=(1, 64))
    attn: tuple[int, ...] = field((1,), "levels with attention, 0 is the finest", within=(0, LEVELS - 1))
    num_res_blocks: int = field(1, "residual blocks per level", within=(1, 64))
    dropout: float = field(0.0, "dropout in residual blocks", within=(0, 1))
    num_groups: int = field(8, "groups of GroupNorm", within=(1, 4096))
    num_heads: int = field(1, "heads of attention", within=(1, 4096))
    zero_init: bool = field(False, "last layers start at 0 exactly")
    scale_shift_norm: bool = field(False, "AdaGN: the time scales and shifts instead of being added")
    biggan: bool = field(False, "resample inside of residual blocks")

    steps: int = field(1000, "updates of the weights", within=(1, MOST))
    batch_size: int = field(64, "images per batch", within=(1, MOST))
    accumulate: int = field(1, "batches per update", within=(1, MOST))
    optimizer: str = field("adam", "adamw shrinks the weights as well", OPTIMIZERS)
    lr: float = field(2e-4, "learning rate after the warm-up", within=(0, LARGEST))
    weight_decay: float = field(0.0, "for adamw", within=(0, LARGEST))
    warmup: int = field(0, "updates in which the rate rises", within=(0, MOST))
    rate: str = field("constant", "the rate after the warm-up; cosine falls to 0", ("constant", "cosine"))
    clip_norm: float = field(1.0, "largest norm of the gradient", within=(0, math.inf))
    ema_decay: float = field(0.9999, "decay of the averaged weights, which are the result", within=(0, 1))
    mixed_precision: bool = field(False, "compute in bfloat16, for a GPU or a CPU that has it; weights stay float32")
    compiled: bool = field(False, "torch.compile the network: a minute at first, faster steps later")
    seed: int = field(0, "seed of everything random", within=(0, 2**63 - 1))

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.data == "folder") != (self.size is not None):
            raise ValueError(f"data 'folder' needs size, other data have theirs: got {self.data}, size = {self.size}")
        if self.lr == 0:
            raise ValueError("lr, the learning rate, must be positive, got 0.0; 2e-4 is usual")
        if self.flip and self.data in MIRRORED_IS_NOTHING:
            raise ValueError(f"flip would turn {self.data} into signs that do not exist: leave it out")
        if (self.var_type in LEARNED) != (self.loss == "hybrid") and self.loss != "kl":
            got = f"var_type = {self.var_type}, loss = {self.loss}"
            expected = f"{' and '.join(LEARNED)} need the loss hybrid or kl, and hybrid needs one of them"
            raise ValueError(f"{expected}; got {got}")
        if self.weighting != "simple" and self.loss in ("hybrid", "kl"):
            expected = f"the loss {self.loss} has its own weights: weighting must be simple"
            raise ValueError(f"{expected}, got {self.weighting}")
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay = {self.weight_decay} needs optimizer adamw, got {self.optimizer}")
        if self.zero_snr and (self.mean_type == "epsilon" or self.T == 1):
            expected = (
                "zero_snr needs mean_type xstart, xprev or v, for eps says nothing of x_0 at alphas_bar = 0, and T >= 2"
            )
            raise ValueError(f"{expected}; got {self.mean_type}, T = {self.T}")
        if self.low_res_factor != 2 and self.condition != "low_res":
            raise ValueError(f"low_res_factor = {self.low_res_factor} needs condition low_res, got {self.condition}")
        if self.ema_decay == 1 or self.clip_norm == 0:
            got = f"ema_decay = {self.ema_decay}, clip_norm = {self.clip_norm}"
            raise ValueError(f"ema_decay must lie below 1 and clip_norm above 0, got {got}")

    def to_json(self) -> str:
        """The recipe as text, which `Recipe.from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> "Recipe":
        """The recipe that a text from `to_json` describes; ValueError for a text that is not JSON, and see below."""
        return Recipe.from_values(read_json(text, "a recipe"))

    @staticmethod
    def from_file(path: Path | str) -> "Recipe":
        """The recipe in a file, such as recipe.json of a run.  FileNotFoundError, or ValueError as of `from_json`."""
        try:
            return Recipe.from_values(read_json(read_file(Path(path), "a recipe"), "a recipe"))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"there is no recipe {path}: name a recipe.json, such as a run has saved"
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @staticmethod
    def from_values(values: object) -> "Recipe":
        """The recipe with the values of a dict by field; fields left out have their defaults.

        Raises ValueError if it is no dict, names a field that does not exist, or holds a value that is not allowed.
        """
        if not isinstance(values, dict):
            raise ValueError(f"a recipe must be a JSON object, got {type(values).__name__}")
        names = [each.name for each in dataclasses.fields(Recipe)]
        if unknown := [name for name in values if name not in names]:
            told = short(", ".join(map(str, unknown)))
            raise ValueError(f"unknown in a recipe: {told}; it may have {', '.join(names)}")
        return Recipe(**values)


_COSINE = Recipe(schedule="cosine", rate="cosine", ema_decay=0.999)
_SHIPPED = replace(_COSINE, conditional=True, loss="hybrid", var_type="learned_range", lr=1e-3)
_DIGITS = replace(_SHIPPED, ch_mult=(1, 2), steps=1300, warmup=100, ema_decay=0.995)
_UPSCALE = replace(
    _COSINE, condition="low_res", mean_type="v", var_type="fixedsmall", ch=16, ch_mult=(1, 2), attn=(), lr=2e-3
)
PRESETS = {
    "digits": _DIGITS,
    "mnist": replace(
        _SHIPPED, data="mnist", ch=16, ch_mult=(1, 2, 4), attn=(2,), steps=13_000, batch_size=32, warmup=200
    ),
    "mnist_fast": replace(  # five minutes on two cores: data/records/mnist_fast.py
        _COSINE,
        data="mnist_10k",
        conditional=True,
        mean_type="v",
        ch=16,
        ch_mult=(1, 2, 4),
        attn=(2,),
        steps=2100,
        batch_size=32,
        lr=3e-3,
        warmup=100,
        ema_decay=0.99,
    ),
    "cifar10": Recipe(  # Ho et al. 2020, Appendix B
        data="cifar10",
        flip=True,
        ch=128,
        ch_mult=(1, 2, 2, 2),
        num_res_blocks=2,
        dropout=0.1,
        num_groups=32,
        steps=800_000,
        batch_size=128,
        warmup=5000,
    ),
    "folder": replace(
        _COSINE, data="folder", size=32, ch=64, attn=(2,), num_res_blocks=2, steps=50_000, lr=5e-4, warmup=500
    ),
    "digits_v": replace(_DIGITS, mean_type="v", zero_snr=True),
    # v: at high noise the x_0 of an estimated eps is no image.
    "digits_self": replace(_DIGITS, mean_type="v", condition="previous"),
    "digits_upscale": replace(_UPSCALE, steps=3000, warmup=100, ema_decay=0.995),
    "mnist_upscale": replace(_UPSCALE, data="mnist", steps=3000, batch_size=32, warmup=200, ema_decay=0.995),
}


@dataclass(frozen=True)
class ClassifierRecipe:
    """What a classifier's weights depend on.  Dhariwal & Nichol 2021, Section 4, in small.

    data: as in `Recipe`. T, schedule: of the noise it is trained on; T None for clean images. ch, ch_mult, dropout: of
    the network. steps, batch_size, lr, weight_decay, seed: of AdamW, whose rate falls along a cosine.
    shift: images are moved by up to so many pixels each way, -1 coming in from the border.
    Raises ValueError for a value that is not allowed.
    """

    data: str
    T: int | None = field(None, within=(1, 100_000))
    schedule: str = field("cosine", choices=SCHEDULES)
    ch: int = field(32, within=(1, 4096))
    ch_mult: tuple[int, ...] = field((1, 2), within=(1, 1024))
    dropout: float = field(0.1, within=(0, 1))
    steps: int = field(1000, within=(1, MOST))
    batch_size: int = field(64, within=(1, MOST))
    lr: float = field(2e-3, within=(0, LARGEST))
    weight_decay: float = field(0.05, within=(0, LARGEST))
    shift: int = field(1, within=(0, 8192))
    seed: int = field(0, within=(0, 2**63 - 1))

    def __post_init__(self) -> None:
        check_fields(self)
