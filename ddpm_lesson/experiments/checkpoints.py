"""Files of tensors that are whole or not there: safetensors, written beside their place and then renamed.

Nothing that is read here can run code: a safetensors file holds numbers and text only.
"""

import hashlib
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

WINDOWS = os.name == "nt"
PATIENCE, PAUSE = 1.0, 0.05  # seconds; whoever only looks has a file open for less
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam and AdamW hold of each parameter


class CheckpointError(ValueError):
    """A file of tensors that cannot be used: damaged, cut off, or of something else. The message says what to do."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever looks finds the old one or the new one, whole, also after a crash.

    It is written beside its place first, as `partial_beside`, which is made anew: a link of that name is not followed.
    Windows replaces no file that another process has open: there it is tried for about a second. Raises OSError; then
    nothing new is left.
    """
    partial = partial_beside(path)
    try:
        with open(partial, "xb") as file:  # x: made anew, which follows no link
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _put(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_beside(path: Path) -> Path:
    """Where a file is written before it is whole: `.*.partial` in the same folder, a name that no other writer has.

    It does not hold the file's own name, which may be as long as the file system allows.
    """
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}.partial")


def _put(partial: Path, path: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(partial, path)
        except PermissionError:
            if not WINDOWS or time.monotonic() > until:
                raise
            time.sleep(PAUSE)


def remove_partials(folder: Path) -> None:
    """Remove what a process left that was killed while it wrote.  Only for whoever alone writes into the folder."""
    for partial in folder.glob(".*.partial"):
        partial.unlink()


def read_json(data: str | bytes, what: str) -> Any:
    """What a JSON text says, in any of Unicode's encodings, with a byte order mark or without.

    what: the subject of the errors, such as "a recipe". Raises ValueError for what is not JSON, for a name given twice,
    of which JSON would drop the first, for an integer beyond 64 bits, and for lists nested too deep to be read.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
            raise ValueError(f"{what} must give each name once, got several times: {some(twice)}")
        return dict(pairs)

    def integer(digits: str) -> int:
        if len(digits) > 19 and not -(2**63) <= int(digits[:40]) < 2**63:
            raise ValueError(f"{what} must hold integers of at most 64 bits, got one of {len(digits)} digits")
        return int(digits)

    text = data.removeprefix("\ufeff") if isinstance(data, str) else data
    try:
        return json.loads(text, object_pairs_hook=once, parse_int=integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} must be JSON, got text that is not: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} must be JSON, which is text, got bytes that are none: name another file") from error
    except RecursionError as error:
        raise ValueError(f"{what} must be JSON as this package writes it, got lists nested too deep") from error


def read_file(path: Path, what: str, limit: int = 2**20) -> bytes:
    """The bytes of a small file.  Raises ValueError for a folder and for more than `limit` bytes, OSError otherwise."""
    if path.is_dir():
        raise ValueError(f"{what} must be a file, got the folder {path}")
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{what} must be a file of at most {limit:,} bytes, got more in {path}: name another file")
    return data


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Write tensors and `about`, what JSON can say of them, as one safetensors file with a checksum of both."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = json.dumps({"sha256": _digest(held, about), **about})  # one entry: safetensors puts several in any order
    write_whole(path, save(held, metadata={"about": told}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors, on the CPU and in memory of their own, and what was said of them.

    Raises FileNotFoundError if there is no such file, CheckpointError if it is damaged or was not written by
    `save_tensors`.
    """
    while True:
        if not Path(path).is_file():
            told = f"expected a file, got the folder {path}" if Path(path).is_dir() else f"there is no file {path}"
            raise FileNotFoundError(told)
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
            # Copies: safetensors' own are a map of the file, which Windows does not replace while one of them lives.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        # Besides its own error: a type of numbers that this PyTorch has not, a shape that overflows.
        told = str(error).split("\n")[0]
        raise CheckpointError(f"{path} is no whole safetensors file ({told}): delete it, or get it again") from error
    try:
        about = read_json(metadata.get("about", ""), "about")
        checksum = about.pop("sha256")
        digest = _digest(tensors, about)
    except (ValueError, AttributeError, KeyError, TypeError, RuntimeError) as error:  # RecursionError, too
        raise CheckpointError(f"{path} holds tensors, but no 'about' as this package writes it") from error
    if checksum != digest:
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
    held = module.state_dict()
    check_fits(held, weights, source)
    module.load_state_dict({name: weights[name].reshape(old.shape) for name, old in held.items()})


def check_fits(held: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Raise the errors of `fill`.  held: the module's state, of which a meta device's shapes and types are enough."""
    told = f"{source} is of another network"
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


def fill_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], source: Path | str) -> None:
    """Give back what `optimizer_tensors` took of an Adam or AdamW; the learning rates are the optimiser's own.

    source: where they come from, for errors. Raises CheckpointError for names, shapes or parts that are not theirs; the
    optimiser is then as it was.
    """
    told = f"{source} is of another network: the optimiser's state must hold"
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        i = int(number) if number.isdecimal() and len(number) < 9 else len(parameters)
        if i >= len(parameters) or key not in MOMENTS:
            expected = f"{', '.join(MOMENTS)} of one of {len(parameters)} parameters, such as 0.step"
            raise CheckpointError(f"{told} {expected}, got {name[:80]}")
        like = parameters[i]
        shape = () if key == "step" else tuple(like.shape)
        if value.shape != shape:
            raise CheckpointError(f"{told} {name} as {shape}, got {tuple(value.shape)}")
        state.setdefault(i, {})[key] = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
    if lacking := [i for i, held in state.items() if len(held) < len(MOMENTS)]:
        raise CheckpointError(f"{told} {', '.join(MOMENTS)} of every parameter: {lacking[0]} lacks one")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def sha256(path: Path) -> str:
    """The checksum of a file, as `sha256sum` prints it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose names begin with "prefix/", under the rest of their names."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
