"""Files of tensors that are whole or not there: safetensors, written beside their place and then renamed.

Nothing that is read here can run code: a safetensors file holds numbers and text only.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer


class CheckpointError(ValueError):
    """A file of tensors that cannot be used: damaged, cut off, or of something else. The message says what to do."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever looks finds the old one or the new one, whole, also after a crash."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Write tensors and `about`, what JSON can say of them, as one safetensors file with a checksum of both."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = json.dumps({"sha256": _digest(held, about), **about})  # one entry: safetensors puts several in any order
    write_whole(path, save(held, metadata={"about": told}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors, on the CPU, and what was said of them.

    Raises FileNotFoundError if there is no such file, CheckpointError if it is damaged or was not written by
    `save_tensors`.
    """
    while True:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path}")
        before = _identity(path)
        try:
            return _load_once(path)
        except CheckpointError:
            if _identity(path) == before:
                raise  # else a run has written it anew meanwhile: safetensors opens it twice


def _identity(path: Path) -> tuple[int, int, int]:
    """What changes when another file is put into its place."""
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns, found.st_size


def _load_once(path: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file ({error}): delete it, or get it again") from error
    try:
        about = json.loads(metadata.get("about", ""))
        checksum = about.pop("sha256")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds tensors, but no 'about' as this package writes it") from error
    if checksum != _digest(tensors, about):
        raise CheckpointError(f"{path} is damaged, its checksum does not fit: delete it, or get it again")
    return tensors, about


def _digest(tensors: dict[str, Tensor], about: dict) -> str:
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fill(module: torch.nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy a whole state into a module.

    weights: all of the module's names, no others. A linear layer's (C, C) and a 1x1 convolution's (C, C, 1, 1) are
    taken for each other. source: where they come from, for errors. Raises CheckpointError for missing or unexpected
    names, for other shapes, and for another dtype than the module's, which a copy would round without a word.
    """
    told, held = f"{source} is of another network", module.state_dict()
    missing, unexpected = held.keys() - weights.keys(), weights.keys() - held.keys()
    if missing or unexpected:
        counts = f"expected {len(held)} weights, got {len(weights)}"
        raise CheckpointError(f"{told}: {counts}: missing {some(missing)}; unexpected {some(unexpected)}")
    for name, old in held.items():
        new = weights[name]
        if _without_ones(new.shape) != _without_ones(old.shape):
            raise CheckpointError(f"{told}: expected {name} to be {tuple(old.shape)}, got {tuple(new.shape)}")
        if new.dtype != old.dtype:
            raise CheckpointError(f"{told}: expected {name} to be {old.dtype} as the others, got {new.dtype}")
    module.load_state_dict({name: weights[name].reshape(old.shape) for name, old in held.items()})


def some(names: Iterable) -> str:
    """The first three names in alphabetical order and how many more there are."""
    names = sorted(map(str, names))
    rest = [f"and {len(names) - 3} more"] if len(names) > 3 else []
    return ", ".join(names[:3] + rest) or "none"


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """(C, C, 1, 1) as (C, C); every other shape as it is."""
    return tuple(shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors, such as "3.exp_avg" of the fourth parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, held in state.items() for key, value in held.items()}


def fill_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give back what `optimizer_tensors` took; the learning rates are the optimiser's own."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        i, key = name.split(".", 1)
        like = parameters[int(i)]
        state.setdefault(int(i), {})[key] = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def sha256(path: Path) -> str:
    """The checksum of a file, as `sha256sum` prints it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose names begin with "prefix/", under the rest of their names."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
