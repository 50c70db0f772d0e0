"""What a network is told of an image besides x_t and t: its own last estimate, or a small image to enlarge.

Which of them, a recipe's `condition` says: "none", "previous" or "low_res". Training and sampling agree here.
"""

from collections.abc import Callable

from torch import Generator, Tensor, nn

from ddpm_lesson.denoisers import Condition, Conditions, previous_x_0
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.predictions import mean_type_named
from ddpm_lesson.process import GaussianDiffusion, Noised
from ddpm_lesson.variants.self_conditioning import own_estimate
from ddpm_lesson.variants.super_resolution import from_low_res, low_res, upsampled


def of_training(
    recipe: Recipe, model: nn.Module, process: GaussianDiffusion, generator: Generator
) -> Callable[[Noised, Conditions], Conditions] | None:
    """What `training.train` takes as `conditions`.  generator: decides when a network is told its own estimate."""
    if recipe.condition == "previous":
        return own_estimate(model, process, mean_type_named(recipe.mean_type), generator=generator)
    return from_low_res(recipe.low_res_factor) if recipe.condition == "low_res" else None


def small_shape(recipe: Recipe, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """(C, h, w) of the small images that a network for images of `shape`, (C, H, W), enlarges; None for others.

    Raises ValueError if low_res_factor does not divide the sides.
    """
    if recipe.condition != "low_res":
        return None
    channels, *sides = shape
    if any(side % recipe.low_res_factor for side in sides):
        told = f"low_res_factor = {recipe.low_res_factor} needs sides that it divides"
        raise ValueError(f"{told}, got {' x '.join(map(str, sides))}")
    return channels, *(side // recipe.low_res_factor for side in sides)


def made_small(recipe: Recipe, x_0: Tensor) -> Tensor | None:
    """The `cond` that belongs to images (n, C, H, W): each made small; None for a network that enlarges none."""
    return low_res(x_0, recipe.low_res_factor) if recipe.condition == "low_res" else None


def of_sampling(recipe: Recipe, shape: tuple[int, ...], cond: Tensor | None) -> dict[str, Condition]:
    """What `make_denoiser` takes as conditions, besides labels.

    shape: (C, H, W) of the images. cond: the small images (n, C, h, w), for a network that enlarges images.
    Raises ValueError if there are none for such a network, if they have another shape, or if any other gets some.
    """
    small = small_shape(recipe, shape)
    if small is not None:
        expected = f"cond must hold the small images to enlarge, (n, {', '.join(map(str, small))})"
        if cond is None or cond.shape[1:] != small:
            raise ValueError(f"{expected}, got {'none' if cond is None else tuple(cond.shape)}")
        return {"cond": upsampled(cond, (shape[1], shape[2]))}
    if cond is not None:
        raise ValueError(f"this network enlarges no images: expected no cond, got one of shape {tuple(cond.shape)}")
    return {"cond": previous_x_0} if recipe.condition == "previous" else {}
