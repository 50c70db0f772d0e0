"""What a recipe says, built: images, process, network, loss."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ddpm_lesson import data, losses
from ddpm_lesson._tensors import randn_like, seeded
from ddpm_lesson.bound import discretized
from ddpm_lesson.coefficients import extract
from ddpm_lesson.data import Images
from ddpm_lesson.experiments.recipes import (
    BUNDLED,
    DATA,
    DOWNLOADED,
    ERRORS,
    LEARNED,
    WEIGHTINGS,
    ClassifierRecipe,
    Recipe,
)
from ddpm_lesson.experiments.sizes import check_room
from ddpm_lesson.losses import Loss
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import mean_type_named, variance_named
from ddpm_lesson.process import GaussianDiffusion, Noised
from ddpm_lesson.schedules import named as schedule_named
from ddpm_lesson.schedules import zero_terminal_snr
from ddpm_lesson.variants.offset_noise import offset_noise


def load_images(recipe: Recipe | ClassifierRecipe, root: str | None = None, *, train: bool = True) -> Images:
    """The images that a recipe learns from, or those held back.

    root: where they lie on this machine, see `data.mnist` and `data.folder`; None for the recipe's own.
    Raises what `data.folder` and `data.mnist` raise, and ValueError for the held back images of a folder: it has none.
    """
    if recipe.data in BUNDLED:
        return BUNDLED[recipe.data]("train" if train else "test")
    if isinstance(recipe, Recipe):
        root = recipe.root if root is None else root
        if recipe.data == "folder":
            if not train:
                raise ValueError("a folder has no images held back: give another folder")
            if root is None or recipe.size is None:
                raise ValueError("data 'folder' needs root, the folder of your images, got None")
            return data.folder(root, recipe.size, channels=recipe.channels)
    if recipe.data not in DOWNLOADED:
        raise ValueError(f"unknown data {recipe.data!r}, expected one of {', '.join(DATA)}")
    return DOWNLOADED[recipe.data](root, train)


def make_process(recipe: Recipe | ClassifierRecipe) -> GaussianDiffusion:
    """The process that a recipe trains on.  ValueError for a classifier of clean images, which has none."""
    if recipe.T is None:
        raise ValueError(f"a classifier of clean images has no process: {recipe}")
    betas = schedule_named(recipe.schedule, recipe.T)
    return GaussianDiffusion(zero_terminal_snr(betas) if isinstance(recipe, Recipe) and recipe.zero_snr else betas)


def make_network(recipe: Recipe, channels: int, classes: int) -> UNet:
    """The network of a recipe, for images with so many channels and classes. Its start follows from the seed alone.

    Raises ValueError for sizes that make no network, or one that this machine has no room to train.
    """
    names = "ch ch_mult patch_size attn num_res_blocks dropout num_groups".split()
    names += "num_heads zero_init scale_shift_norm biggan".split()
    options = {name: getattr(recipe, name) for name in names}
    options |= {"in_ch": channels, "num_classes": classes if recipe.conditional else None}
    options["cond_ch"] = 0 if recipe.condition == "none" else channels
    make = partial(UNet, recipe.T, learned_var=recipe.var_type in LEARNED, **options)
    check_room(make, options | {"T": recipe.T})
    with seeded(recipe.seed):
        return make()


def make_noise(recipe: Recipe) -> Callable[..., Tensor]:
    """The noise of training: noise(x_0, generator=...) -> (B, *D)."""
    return partial(offset_noise, strength=recipe.offset_noise) if recipe.offset_noise else randn_like


def make_loss(recipe: Recipe, process: GaussianDiffusion, levels: int) -> Loss:
    """The loss of a recipe as `training.train` takes it, (B,) or (B, *D). levels: how many values a pixel can take."""
    mean_type, variance = mean_type_named(recipe.mean_type), variance_named(recipe.var_type)
    decoder = discretized(levels)
    if recipe.loss == "hybrid":
        return partial(losses.hybrid_loss, process, mean_type, variance=variance, decoder=decoder)
    if recipe.loss == "kl":
        return partial(losses.kl_loss, process, mean_type, variance, decoder=decoder, rescaled=True)
    loss = partial(losses.simple_loss, process, mean_type, error=ERRORS[recipe.loss])
    if recipe.weighting == "simple":
        return loss

    def weighted(output: Tensor, noised: Noised) -> Tensor:
        eps_weight = WEIGHTINGS[recipe.weighting](extract(process.snr, noised.t, noised.t.shape))
        weight = losses.weight_for(process, mean_type, noised.t, eps_weight).to(output.dtype)
        return weight * loss(output, noised).flatten(1).mean(1)

    return weighted
