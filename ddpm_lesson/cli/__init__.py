"""The command line: python -m ddpm_lesson COMMAND.  Every error is one line that says what to do."""

import sys
from collections.abc import Sequence

import torch

from ddpm_lesson.cli import evaluate, export, sample, status, train
from ddpm_lesson.cli.options import Parser

COMMANDS = (train, status, sample, evaluate, export)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line. Returns the exit status: 0 done, 1 an error, in one line, 130 interrupted.

    Exits with 2 for options that do not exist. With --debug an error is raised.
    """
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        return options.command(options)
    except (ValueError, OSError, FloatingPointError, ImportError, torch.cuda.OutOfMemoryError) as error:
        if options.debug:
            raise
        print(f"ddpm_lesson: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> Parser:
    """All options of all commands."""
    names = " | ".join(command.__name__.rpartition(".")[2] for command in COMMANDS)
    made = Parser("python -m ddpm_lesson", description="Train, sample and evaluate diffusion models.")
    commands = made.add_subparsers(required=True, metavar=names)
    for command in COMMANDS:
        command.add(commands)
    return made
