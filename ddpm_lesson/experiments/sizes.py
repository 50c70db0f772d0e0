"""How large a network is, before it takes any memory; and what a file may say of a network, checked before it is built.

A recipe of a user, or a file that somebody forged, may ask for more than any machine holds.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from ddpm_lesson.experiments.fields import LEVELS
from ddpm_lesson.experiments.recipes import Recipe

LARGEST_OPTION = 100_000  # of a network: steps, channels, labels
COPIES = 5  # of the weights while they are trained: themselves, their average and gradient, Adam's two moments
FALLBACK = 2**34  # bytes, where the machine does not say


def on_paper(make: Callable[[], nn.Module]) -> nn.Module:
    """The network that `make` makes, without memory for its numbers and without a draw from PyTorch's generator.

    The first call costs a second, in which PyTorch loads what it needs for that: see `is_small`.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said where it is made
        return make()


def is_small(options: Mapping[str, Any]) -> bool:
    """Whether a network of these options certainly has fewer than 2^27 numbers, half a gigabyte.

    Of a block with C channels at most 45 C^2: two 3x3 convolutions, the first of 2 C channels, a shortcut, attention
    and the time.
    """
    ch, T, in_ch, cond_ch, latent, labels, n, patch = (
        options.get(name) or 0 for name in "ch T in_ch cond_ch latent num_classes num_res_blocks patch_size".split()
    )
    ch_mult = options.get("ch_mult") or [1]
    blocks, widest = len(ch_mult) * (2 * n + 3) + 2, ch * max(ch_mult)
    once = T + 4 * labels + 4 * latent + 9 * (3 * in_ch + cond_ch) * max(patch, 1) ** 2 + 32 * ch
    return 45 * blocks * widest**2 + once * ch < 2**27


def check_room(make: Callable[[], nn.Module], options: Mapping[str, Any]) -> None:
    """Raise ValueError if this machine has no room to train the network of these options, which `make` makes."""
    if is_small(options):
        return
    held = on_paper(make).state_dict().values()
    copies = 1 if torch.cuda.is_available() else COPIES
    needed, there = copies * sum(tensor.numel() * tensor.element_size() for tensor in held), memory()
    if needed > there:
        told = f"training a network of {sum(t.numel() for t in held):,} numbers needs {needed / 2**30:,.0f} GiB"
        raise ValueError(f"{told}, this machine has {there / 2**30:,.0f} GiB: lower ch, ch_mult, num_res_blocks or T")


def check_batch(recipe: Recipe, sides: Sequence[int], device: torch.device) -> None:
    """Raise ValueError if a training step of the recipe's batch certainly needs more memory than the device has.

    sides: height and width of the images. What is counted is kept for the gradients: of each residual block of the
    finest level the inputs of two norms and of two convolutions. The step needs several times as much.
    """
    blocks = 2 * recipe.num_res_blocks + 1
    positions = math.prod(sides) // recipe.patch_size**2
    numbers = 4 * blocks * recipe.ch * recipe.ch_mult[0] * positions * recipe.batch_size
    needed, there = numbers * (2 if recipe.mixed_precision else 4), memory(device)
    if needed > there:
        told = f"a step of {recipe.batch_size} images needs more than {needed / 2**30:,.0f} GiB"
        lower = "lower batch_size (accumulate makes up for it), ch or the size of the images"
        raise ValueError(f"{told}, {device} has {there / 2**30:,.0f} GiB: {lower}")


def memory(device: torch.device | None = None) -> int:
    """The bytes of memory that this machine has, or a GPU of it."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return FALLBACK


def check_options(kind: type[nn.Module], options: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless options, of a file, have the types of `kind`'s and no more layers than it has tensors.

    Whether they fit together is for the network to say.
    """
    if not isinstance(options, dict):
        raise ValueError(f"the network's options must be a JSON object, got {type(options).__name__}")
    types = get_type_hints(kind.__init__)
    for name, value in options.items():
        if name not in types:
            raise ValueError(f"a {kind.__name__} has no option {name[:80]!r}")
        if not _fits(value, types[name]):
            raise ValueError(f"{name} must be {types[name]}, at most {LARGEST_OPTION}, got {str(value)[:80]}")
    layers = len(options.get("ch_mult", [])) * options.get("num_res_blocks", 1)
    if layers > len(tensors):
        raise ValueError(f"a network of {layers} blocks must have a tensor for each, got {len(tensors)}")


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(value, bool):
        return hint is bool
    if isinstance(value, list):
        return hint == Sequence[int] and len(value) <= LEVELS and all(_fits(each, int) for each in value)
    if isinstance(value, int):
        return hint in (int, float, int | None) and 0 <= value <= LARGEST_OPTION
    return (hint is float and isinstance(value, float) and math.isfinite(value)) or (
        value is None and hint == int | None
    )


def check_of_images(about: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...], int]:
    """What a file says of its images: shape, classes, levels.  KeyError, or ValueError for what none can have."""
    shape, classes, levels = about["shape"], about["classes"], about["levels"]
    if not (isinstance(shape, list) and len(shape) in (1, 3) and all(_fits(n, int) and n >= 1 for n in shape)):
        raise ValueError(f"shape must be [C, H, W], or [2] of points, got {str(shape)[:80]}")
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ValueError(f"classes must be a list of names, got {str(classes)[:80]}")
    if not (_fits(levels, int) and levels in (0, *range(2, 257))):
        raise ValueError(f"levels must lie in 2..256, or be 0 of points, got {str(levels)[:80]}")
    return tuple(shape), tuple(classes), levels


def check_same(expected: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise ValueError unless a network's options are those that its recipe and its images expect."""
    for name, wanted in expected.items():
        if options[name] != wanted:
            raise ValueError(f"recipe and images need a network of {name} = {wanted}, got {options[name]}")
