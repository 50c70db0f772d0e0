"""The command line: python -m ddpm_lesson COMMAND.  Every error is one line that says what to do."""

import argparse
import errno
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import torch

import ddpm_lesson
from ddpm_lesson._tensors import out_of_memory
from ddpm_lesson.cli import evaluate, export, grade, sample, status, train
from ddpm_lesson.cli.options import Parser
from ddpm_lesson.experiments import distributed

COMMANDS = (train, status, sample, evaluate, export, grade)
OF_ALL = (train.train, sample.sample, evaluate.evaluate)  # what several ranks do together; rank 0 does the rest alone

ADVICE = {  # what a user can do about what the system says of a file
    errno.ENOTDIR: "a file lies where a folder must be: name another place",
    errno.EEXIST: "a file lies where a folder must be: name another place",
    errno.EISDIR: "a folder lies where a file must be: name another place",
    errno.EACCES: "it may not be read or written: change its permissions, or name another place",
    errno.EPERM: "it may not be read or written: change its permissions, or name another place",
    errno.EROFS: "nothing can be written there: name another place",
    errno.ENOSPC: "the disk is full: make room, or name another place; what was saved before is whole",
    errno.ENAMETOOLONG: "the name is too long: give a shorter one",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line. Returns the exit status: 0 done, 1 an error, in one line, 130 interrupted.

    Exits with 2 for options that do not exist; 141, without a word, if who reads the output has gone. With --debug
    an error is raised. An error that nobody foresaw says in its line that it is a bug. Of the ranks that torchrun
    starts, one speaks, unless another has an error of its own.
    """
    try:
        with distributed.group():
            return _main(arguments)
    except distributed.Lost as error:
        print(f"ddpm_lesson: {error}", file=sys.stderr)
        return 1


def _main(arguments: Sequence[str] | None) -> int:
    debug = False
    try:
        with _one_line_warnings():
            try:
                options = distributed.first(lambda: parser().parse_args(arguments))
                debug = options.debug
                if options.threads:
                    torch.set_num_threads(options.threads)
                return _carried_out(options)
            finally:
                sys.stdout.flush()  # here, not when Python ends, it can be said quietly that nobody reads it
    except BrokenPipeError:
        _close_output()
        return 141
    except KeyboardInterrupt:
        return 130
    except distributed.Elsewhere:
        distributed.wait_for_the_others()
        return 1
    except Exception as error:
        if debug:
            raise
        speaker = f"rank {distributed.rank()}: " if distributed.rank() else ""
        print(f"ddpm_lesson: {speaker}{told(error)}", file=sys.stderr)
        return 1


def _carried_out(options: argparse.Namespace) -> int:
    if not distributed.rank():
        return options.command(options)
    if options.command not in OF_ALL:
        return 0
    options.quiet = True
    with open(os.devnull, "w", errors="backslashreplace") as nowhere, redirect_stdout(nowhere):
        return options.command(options)


def told(error: Exception) -> str:
    """One line that says what an error means for whoever typed the command."""
    said = " ".join(str(error).split())
    if out_of_memory(error):
        less = "lower --n, --batch-size, --size, --ch or --ch-mult, or name another --device"
        said = re.sub(r"^\[enforce fail.*?\].*?: ", "", said).removesuffix(".")
        return f"{said or 'out of memory'}. There is too little memory: {less}"
    if isinstance(error, OSError) and error.errno in ADVICE:
        place = error.filename2 or error.filename
        return f"{f'{place}: ' if place else ''}{ADVICE[error.errno]} ({error.strerror})"
    if isinstance(error, ValueError | OSError | FloatingPointError | ImportError):
        return said or f"{type(error).__name__} without a word: --debug shows where it came from"
    if isinstance(error, OverflowError):
        return f"a number is too large to compute with ({said}): give a smaller one; --debug shows which"
    if isinstance(error, RecursionError):
        return "what was given is nested too deep to be read: name another file"
    name = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"this is a bug in ddpm_lesson ({name}): run it again with --debug, and report what that shows"


def parser() -> Parser:
    """All options of all commands."""
    names = " | ".join(command.__name__.rpartition(".")[2] for command in COMMANDS)
    made = Parser("python -m ddpm_lesson", description="Train, sample and evaluate diffusion models.")
    version = f"ddpm_lesson {ddpm_lesson.__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}"
    made.add_argument("--version", action="version", version=version, help="print the versions and exit")
    commands = made.add_subparsers(required=True, metavar=names)
    for command in COMMANDS:
        command.add(commands)
    return made


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """A warning is one line, too, without the place in the code where it came from."""

    def show(message, category, filename, lineno, file=None, line=None):
        if distributed.rank():
            return
        print(f"ddpm_lesson: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _close_output() -> None:
    """Send what is still to be written nowhere, so that Python does not complain of it when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:  # an output that is no file
        pass
