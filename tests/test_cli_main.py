"""What the command line makes of errors, warnings and of a reader that has gone, whichever command it is."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from tqdm.auto import tqdm

import ddpm_lesson
from ddpm_lesson import cli
from ddpm_lesson.cli import stopping

WORDS = ["sample", "--device", "cpu"]


@pytest.fixture
def raising(monkeypatch):
    """A command sample that raises what it is given."""

    def let(error):
        def command(options):
            raise error

        parsed = cli.parser().parse_args(WORDS)
        parsed.command = command

        def parse_args(self, arguments):
            parsed.debug = "--debug" in arguments
            return parsed

        monkeypatch.setattr(cli.Parser, "parse_args", parse_args)

    return let


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
ALLOCATOR += "allocate 9 bytes. Error code 12 (Cannot allocate memory)"
LESS = "There is too little memory: lower --n, --batch-size, --size, --ch or --ch-mult, or name another --device"
ERRORS = [
    (ValueError("T must be\n  positive"), "T must be positive"),
    (FileNotFoundError("there is no file x"), "there is no file x"),
    (ValueError(), "ValueError without a word: --debug shows where it came from"),
    (MemoryError(), f"out of memory. {LESS}"),
    (
        RuntimeError(ALLOCATOR),
        f"can't allocate memory: you tried to allocate 9 bytes. Error code 12 (Cannot ...). {LESS}",
    ),
    (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)."), f"MPS backend out of memory (...). {LESS}"),
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 2 GiB."), f"CUDA out of memory. Tried 2 GiB. {LESS}"),
    (OverflowError("int too large to convert to float"), "a number is too large to compute with (int ...): give a"),
    (RecursionError("maximum recursion depth exceeded"), "what was given is nested too deep to be read"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: a file lies where a folder must be: name an"),
    (PermissionError(errno.EACCES, "Permission denied", "a"), "a: it may not be read or written: change its"),
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: make room, or name another place; what was"),
    (OSError(errno.EROFS, "Read-only file system", "a"), "a: nothing can be written there: name another place"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "a: a folder lies where a file must be: name another"),
    (OSError(errno.EIO, "Input/output error", "a"), "[Errno 5] Input/output error: 'a'"),
    (
        ZeroDivisionError("division by zero"),
        "this is a bug in ddpm_lesson (ZeroDivisionError: division by zero): run it",
    ),
    (
        RuntimeError("mat1 and mat2"),
        "this is a bug in ddpm_lesson (RuntimeError: mat1 and mat2): run it again with --debug",
    ),
    (KeyError("ch"), "this is a bug in ddpm_lesson (KeyError: 'ch'): run it again with --debug, and report what that"),
    (AssertionError(), "this is a bug in ddpm_lesson (AssertionError): run it again with --debug"),
]


@pytest.mark.parametrize("error, told", ERRORS, ids=lambda value: type(value).__name__)
def test_every_error_is_one_line_and_raised_with_debug(raising, capsys, error, told):
    raising(error)
    assert cli.main(WORDS) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.match(".*".join(map(re.escape, f"ddpm_lesson: {told}".split("..."))), err), err
    with pytest.raises(type(error)) as raised:
        cli.main([*WORDS, "--debug"])
    assert raised.value is error


def test_an_interruption_is_no_error(raising, capsys):
    raising(KeyboardInterrupt())
    assert cli.main(WORDS) == 130 and capsys.readouterr() == ("", "")


def test_a_warning_is_one_line_without_a_place_in_the_code(monkeypatch, capsys):
    def command(options):
        warnings.warn("a group of\n one channel", UserWarning, stacklevel=1)
        return 0

    parsed = cli.parser().parse_args(WORDS)
    parsed.command = command
    monkeypatch.setattr(cli.Parser, "parse_args", lambda self, arguments: parsed)
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main(WORDS) == 0
        assert capsys.readouterr().err == "ddpm_lesson: warning: a group of one channel\n"
    assert warnings.showwarning is before


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    expected = (
        rf"ddpm_lesson {ddpm_lesson.__version__}, PyTorch {re.escape(torch.__version__)}, Python 3\.\d+\.\d+\S*\n"
    )
    assert re.fullmatch(expected, capsys.readouterr().out)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes of this kind on Windows")
def test_a_reader_that_has_gone_is_no_error():
    # As `... | true`: what reads the pipe has ended before anything is written, a line or more than a buffer holds.
    code = (
        "import argparse, sys, os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n"
        "from ddpm_lesson import cli\n"
        "command = lambda options: print('x' * int(sys.argv[1])) or 0\n"
        "parsed = argparse.Namespace(debug=False, threads=None, command=command)\n"
        "cli.Parser.parse_args = lambda self, arguments: parsed\n"
        "sys.exit(cli.main([]))"
    )
    for length in ("9", "99999"):
        done = subprocess.run([sys.executable, "-c", code, length], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (141, "")


class Broken(io.StringIO):
    """A stream whose texts do not arrive."""

    number = errno.EPIPE

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number, status", [(errno.EPIPE, 141), (errno.EINVAL, 141), (errno.EIO, 0)])
def test_what_is_printed_while_a_run_can_be_stopped_is_no_error(monkeypatch, number, status):
    # EINVAL is what Windows says of a pipe whose reader has gone, EIO what a terminal says that was closed.
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(Broken, "number", number)
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, Broken())
            with stopping.stopping() as stop:
                print("a step", file=getattr(sys, name), flush=True)
                assert (stop.status, stop.times) == (status, 0)
                stop.ask(signal.SIGTERM, None)
            assert (stop.status, stop.times) == (status or 143, 1)


@pytest.mark.parametrize("error", [RuntimeError("reentrant call"), BrokenPipeError(), ValueError("closed file")])
def test_who_is_asked_to_stop_and_cannot_print_it_breaks_nothing_off(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(stopping, "print", refuse, raising=False)
    monkeypatch.setattr(os, "write", gone)
    stop = stopping.Stop()
    stop.ask(signal.SIGINT, None)
    assert (stop.status, stop.times) == (130, 1)


def test_a_process_without_outputs_can_be_asked_to_stop(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with stopping.stopping() as stop:
        with tqdm(total=2) as bar:
            bar.update()
        stop.ask(signal.SIGINT, None)
        print("stopped", flush=True)
    assert stop.status == 130


def test_what_the_outputs_encoding_lacks_is_escaped():
    # A terminal of Windows may know no Chinese names: a run that is done must not end with an error for that.
    code = (
        "import argparse, runpy\n"
        "from ddpm_lesson import cli\n"
        "parsed = argparse.Namespace(debug=False, threads=None, command=lambda options: print('\u51fa: done') or 0)\n"
        "cli.Parser.parse_args = lambda self, arguments: parsed\n"
        "runpy.run_module('ddpm_lesson', run_name='__main__')"
    )
    options = {"env": os.environ | {"PYTHONIOENCODING": "cp1252"}, "capture_output": True, "timeout": 120}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, rb"\u51fa: done", b"")
