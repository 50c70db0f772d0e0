"""What the commands share: how options are added and read, and what their names stand for."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from ddpm_lesson._tensors import out_of_memory, usable_gpu
from ddpm_lesson.experiments import distributed, pretrained
from ddpm_lesson.experiments.recipes import BUNDLED, Recipe
from ddpm_lesson.experiments.sampling import SAMPLERS, Sampling, check_option, takers
from ddpm_lesson.experiments.sizes import memory

T = TypeVar("T")
MOST = 10**9  # of anything that is counted
Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage of all options."""
        message = message if len(message) <= 500 else f"{message[:100]}... ({len(message)} characters)"
        self.exit(2, f"{self.prog}: {message}; see --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; ~ at the beginning of a path is the home folder, also in --out=~/x, which shells leave."""
        found, rest = super().parse_known_args(args, namespace)
        for name, value in vars(found).items():
            if name != "label":
                setattr(found, name, [at_home(v) for v in value] if isinstance(value, list) else at_home(value))
        return found, rest


def at_home(value: Any) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def command_of(
    commands: Any, function: Command, words: str, more: str = "", *, computes: bool = True
) -> argparse.ArgumentParser:
    """A command with the options that all have.  computes: whether it does, and so has a device and threads."""
    command = commands.add_parser(function.__name__, description=f"{words} {more}", help=words)
    command.set_defaults(command=function, threads=None)
    if computes:
        command.add_argument("--device", metavar="NAME", help="cpu, cuda, mps [a GPU if there is one]")
        command.add_argument("--threads", type=threads, metavar="N", help="CPU threads [PyTorch's choice]")
    command.add_argument("--quiet", action="store_true", help="print results only: no progress, no summary before")
    command.add_argument("--debug", action="store_true", help="show where in the code an error came from")
    return command


def add_drawing(command: argparse.ArgumentParser, n: str, usual: Sampling | None) -> None:
    """The options of how to draw.  usual: what holds where nothing is given, None for as it was recorded."""
    words = "a network that ships with the course, a file weights.safetensors, or the folder of a run"
    words += " [digits_ddpm]"
    command.add_argument("--weights", type=name, default="digits_ddpm", metavar="NAME", help=words)
    command.add_argument("--n", type=positive, metavar="N", help=f"number of images [{n}]")
    words = f"images at a time; the images are the same [{pretrained.BLOCK}, fewer where memory ends]"
    command.add_argument("--batch", type=positive, default=pretrained.BLOCK, metavar="N", help=words)
    for field in dataclasses.fields(Sampling):
        add_field(command, field, getattr(usual, field.name) if usual else "as recorded")


def add_field(group: Any, field: dataclasses.Field, default: object) -> None:
    """An option for a field of `Recipe` or `Sampling`, read by `given_fields`.  default: what its help names."""
    options: dict[str, Any]
    if field.type is bool:
        options = {"action": argparse.BooleanOptionalAction}
    elif field.type == tuple[int, ...]:
        options = {"type": int, "nargs": "*", "metavar": "N"}
    else:
        kind = next(kind for kind in (int, float, str) if field.type in (kind, kind | None))
        choices = (
            [name for name, each in SAMPLERS.items() if each.from_noise]
            if field.name == "sampler"
            else field.metadata.get("choices")
        )
        options = {"type": kind, "choices": choices, "metavar": field.metadata.get("metavar")}
    usual = " ".join(map(str, default)) if isinstance(default, tuple) else "none" if default is None else default
    words = f"{field.metadata['help']} [{usual}]".replace("%", "%%")
    group.add_argument(f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS, help=words, **options)


def given_fields(options: argparse.Namespace, kind: type[Recipe] | type[Sampling]) -> dict[str, Any]:
    """The fields that the command line names."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(kind) if hasattr(options, f.name)}


def name(text: str) -> str:
    """A name of a file, a folder or weights: an empty one is a variable of the shell that was not set."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got an empty one")
    return text


def positive(text: str) -> int:
    return _integer(text, 1, MOST, "a positive integer")


def not_negative(text: str) -> int:
    return _integer(text, 0, MOST, "0 or a positive integer")


def threads(text: str) -> int:
    most = 4 * (os.cpu_count() or 1)
    return _integer(text, 1, most, f"a number of threads in 1..{most}, four for each processor of this machine")


def _integer(text: str, low: int, high: int, expected: str) -> int:
    digits = text.isascii() and text.isdecimal()
    if digits and len(text) <= 20 and low <= int(text) <= high:
        return int(text)
    expected += f" up to {high}" if digits and text.strip("0") and ".." not in expected else ""
    raise argparse.ArgumentTypeError(f"expected {expected}, got {shortened(text)}")


def shortened(text: str) -> str:
    """Texts longer than a line, cut."""
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def sampling_of(options: argparse.Namespace, usual: Sampling) -> Sampling:
    """How to draw: what the options say, else the usual; another sampler takes over no option of the usual one."""
    given = given_fields(options, Sampling)
    sampler = given.get("sampler", usual.sampler)
    for name, value in given.items():
        check_option(sampler, name, value)  # also of a value that would change nothing
    if sampler != usual.sampler:
        given = {field.name: field.default for field in dataclasses.fields(Sampling) if takers(field.name)} | given
    return dataclasses.replace(usual, **given)


def file_of(name: str) -> Path | None:
    """The file of weights that is named or lies in the folder of a run; None for the name of weights that ship."""
    path = Path(name)
    if path.is_dir():
        return path / "weights.safetensors"
    return path if path.suffix or len(path.parts) > 1 or path.exists() else None


def loaded(name: str, device: str | None, kind: type[T]) -> T:
    """A network by the name it ships under, by its file, or by the folder of its run."""
    path, at = file_of(name), device_named(device)
    if path and Path(name).is_dir() and not path.exists():
        told = "expected the folder of a run that has saved a step, such as runs/digits"
        raise FileNotFoundError(f"there is no file {path}: {told}")
    trained = pretrained.load_weights(path, device=at) if path else pretrained.load_pretrained(name, device=at)
    if not isinstance(trained, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, got a {type(trained).__name__}: name another one")
    return trained


def root_of(weights: str) -> str | None:
    """Where the images of a run lie, as recipe.json beside its weights says; None if there is none."""
    path = file_of(weights)
    if path is None or not (recipe := path.parent / "recipe.json").is_file():
        return None
    return Recipe.from_file(recipe).root


def check_root(root: str | None, data: str) -> None:
    """Raise ValueError for a place of images that would not be looked at, or that has no name."""
    if root is not None and data in BUNDLED:
        raise ValueError(f"--root says where images lie, and those of {data} come with the course: got --root {root}")
    if root == "":
        raise ValueError("--root must name the folder of your images, got an empty name")


def device_named(name: str | None) -> torch.device:
    """The device, which has computed something.  ValueError for one that cannot, such as meta.

    Of several ranks each has its own, see `distributed.device_of`.
    """
    name = distributed.device_of(name)
    if name is None:
        name = usable_gpu() or "cpu"
    try:
        device = torch.empty(0, device=name).device
        (torch.ones(2, device=device) + 1).sum().item()
        return device
    except (RuntimeError, AssertionError, ImportError) as error:
        first = str(error).split("\n")[0].split(". ")[0][:150]
        told = "expected cpu, or a GPU that PyTorch finds here: cuda, cuda:1 or mps"
        raise ValueError(f"--device {name} cannot be used on this machine, {told}. What failed: {first}") from error


def check_memory(needed: int, what: str, advice: str) -> None:
    """Raise ValueError if so many bytes are more than this machine has."""
    if needed > (there := memory()):
        told = f"{what} need {needed / 2**30:,.0f} GiB of memory, this machine has {there / 2**30:,.0f} GiB"
        raise ValueError(f"{told}: {advice}")


@contextmanager
def within_memory(device: torch.device, what: str, advice: str) -> Iterator[None]:
    """Memory that ends inside becomes a ValueError of one sentence, which says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ValueError(f"the memory of {device} is too small for {what}: {advice}") from error


def about(name: str, trained: pretrained.PretrainedDiffusion) -> str:
    """One line on a network, for the summary before the work."""
    sides = " x ".join(map(str, trained.shape))
    classes = f", {len(trained.classes)} classes" if trained.recipe.conditional else ""
    parameters = sum(p.numel() for p in trained.model.parameters())
    made = f"{parameters:,} parameters, {trained.step:,} steps of training"
    return f"{name}: {trained.recipe.data}, {sides}{classes}; {made}; on {trained.device}"
