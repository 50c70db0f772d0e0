"""What the commands share: how options are added and read, and what their names stand for."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from ddpm_lesson.experiments import pretrained
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.experiments.sampling import SAMPLERS, Sampling, check_option, takers

T = TypeVar("T")
Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage of all options."""
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def command_of(commands: Any, function: Command, words: str, more: str = "") -> argparse.ArgumentParser:
    command = commands.add_parser(function.__name__, description=f"{words} {more}", help=words)
    command.set_defaults(command=function)
    command.add_argument("--device", metavar="NAME", help="cpu, cuda, mps; default: a GPU if there is one")
    command.add_argument("--threads", type=positive, metavar="N", help="CPU threads; default: PyTorch's choice")
    command.add_argument("--debug", action="store_true", help="show where in the code an error came from")
    return command


def add_drawing(command: argparse.ArgumentParser, n: str, usual: Sampling | None) -> None:
    """The options of how to draw.  usual: what holds where nothing is given, None for as it was recorded."""
    words = "a network that ships with the course, a file weights.safetensors, or the folder of a run"
    command.add_argument("--weights", default="digits_ddpm", metavar="NAME", help=f"{words}; default: digits_ddpm")
    command.add_argument("--n", type=positive, metavar="N", help=f"number of images [{n}]")
    for field in dataclasses.fields(Sampling):
        add_field(command, field, getattr(usual, field.name) if usual else "as recorded")


def add_field(group: Any, field: dataclasses.Field, default: object) -> None:
    """An option for a field of `Recipe` or `Sampling`, read by `given`.  default: what its help names."""
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
    words = f"{field.metadata['help']} [{default}]".replace("%", "%%")
    group.add_argument(f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS, help=words, **options)


def given_fields(options: argparse.Namespace, kind: type[Recipe] | type[Sampling]) -> dict[str, Any]:
    """The fields that the command line names."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(kind) if hasattr(options, f.name)}


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text}")
    return int(text)


def sampling_of(options: argparse.Namespace, usual: Sampling) -> Sampling:
    """How to draw: what the options say, else the usual; another sampler takes over no option of the usual one."""
    given = given_fields(options, Sampling)
    sampler = given.get("sampler", usual.sampler)
    for name, value in given.items():
        check_option(sampler, name, value)  # also of a value that would change nothing
    if sampler != usual.sampler:
        given = {field.name: field.default for field in dataclasses.fields(Sampling) if takers(field.name)} | given
    return dataclasses.replace(usual, **given)


def loaded(name: str, device: str | None, kind: type[T]) -> T:
    """A network by the name it ships under, by its file, or by the folder of its run."""
    path = Path(name)
    path = path / "weights.safetensors" if path.is_dir() else path
    at = device_named(device)
    trained = pretrained.load_weights(path, device=at) if path.suffix else pretrained.load_pretrained(name, device=at)
    if not isinstance(trained, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, got a {type(trained).__name__}")
    return trained


def device_named(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        first = str(error).split("\n")[0]
        raise ValueError(f"--device {name} cannot be used on this machine: {first}") from error
