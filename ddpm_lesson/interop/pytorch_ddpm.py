"""Checkpoints of w86763777/pytorch-ddpm, the repository behind the source post."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ddpm_lesson.experiments.checkpoints import fill, some
from ddpm_lesson.networks.unet import TABLE, UNet


def load_pytorch_ddpm(
    path_or_dict: str | PathLike | Mapping, *, weights: str = "ema_model", dropout: float = 0.0
) -> UNet:
    """The network of a checkpoint of w86763777/pytorch-ddpm: the source post's UNet.

    path_or_dict: a file, or what torch.load made of it: a dict with net_model and ema_model, or one bare state dict.
    weights: "ema_model", the average over training, which samples better, or "net_model". dropout: its rate, which no
    checkpoint holds.
    Returns the UNet in eval mode on the CPU, in the dtype of the weights (float32 as a rule; `.float()` makes it that);
    its other arguments are read off the names and shapes of the weights.
    Raises ValueError for a file that holds more than tensors and plain containers (its code does not run), for missing,
    foreign or misshapen weights, and for weights of several dtypes or of integers; a file that is not there stays a
    FileNotFoundError.
    Not for networks with this package's options: the post's has none of them, and its groups are 32.
    Their sampler clips x_0 after the mean was formed from it, which changes no sample: leave out `predictions.clipped`
    to draw what their code draws, and put it in for images that do stay in -1..1.
    """
    if weights not in ("ema_model", "net_model"):
        raise ValueError(f"weights must be 'ema_model' or 'net_model', got {weights!r}")
    checkpoint = path_or_dict if isinstance(path_or_dict, Mapping) else _read(path_or_dict)
    if isinstance(checkpoint, Mapping) and {"ema_model", "net_model"} & checkpoint.keys():
        if weights not in checkpoint:
            raise ValueError(f"expected {weights!r} in the checkpoint, got {', '.join(map(str, checkpoint))}")
        checkpoint = checkpoint[weights]
    state = _state_dict(checkpoint)
    options, dtype = _options(state), state["head.weight"].dtype
    if not dtype.is_floating_point:
        raise ValueError(f"expected floating-point weights, got head.weight of {dtype}")
    unet = UNet(**options, dropout=dropout).to(dtype)
    fill(unet, state, "the checkpoint")
    return unet.eval()


def _read(path: str | PathLike) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        reason = str(error).partition("\n")[0]
        expected = "a file that torch.load can read without running code from it"
        raise ValueError(f"expected {expected}, got {path}: {reason}") from error


def _state_dict(found: object) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise ValueError(f"expected a dict of weights, got {type(found).__name__}")
    for name, value in found.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"expected a dict of names and tensors, got {type(value).__name__} under {name!r}")
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}  # DataParallel's prefix


def _options(state: Mapping[str, Tensor]) -> dict:
    """The arguments of the post's UNet that has these weights."""
    try:
        T, ch = state[TABLE].shape
        in_ch, out_ch = state["head.weight"].shape[1], state["tail.2.weight"].shape[0]
        # Of each residual block on the way down: its channels, and whether it has attention.
        levels: list[list[tuple[int, bool]]] = [[]]
        for n in sorted({int(name.split(".")[1]) for name in state if name.startswith("downblocks.")}):
            if f"downblocks.{n}.main.weight" in state:
                levels.append([])
            else:
                channels = state[f"downblocks.{n}.block1.2.weight"].shape[0]
                levels[-1].append((channels, f"downblocks.{n}.attn.proj.weight" in state))
        ch_mult = [level[0][0] // ch for level in levels]
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"expected the weights of the post's U-Net, such as {TABLE} (T, ch), head.weight, "
            f"downblocks.0.block1.2.weight and tail.2.weight; got {some(state)}; missing or misshapen: {error}"
        ) from error
    attn = [i for i, level in enumerate(levels) if any(has_attention for _, has_attention in level)]
    options = {"T": T, "ch": ch, "ch_mult": ch_mult, "attn": attn, "num_res_blocks": len(levels[0])}
    return options | {"in_ch": in_ch, "out_ch": out_ch}
