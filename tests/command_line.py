"""Command lines in this process, for the tests of each command."""

import contextlib
import dataclasses
import io

from ddpm_lesson import cli

TINY = "--T 6 --ch 8 --ch-mult 1 --attn --num-groups 4 --batch-size 4 --warmup 2 --device cpu --quiet".split()


@dataclasses.dataclass
class Result:
    status: int
    out: str
    err: str


def run(*arguments):
    """What a command line returns and prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = ended.code
    return Result(status, out.getvalue(), err.getvalue())


def told(*arguments, status=1):
    """The one line of an error."""
    result = run(*arguments)
    assert result.status == status and result.out == "", result
    assert result.err.count("\n") == 1 and result.err.endswith("\n") and "Traceback" not in result.err, result.err
    return result.err


def made(folder, *options):
    """A tiny run of some steps in the folder, which is returned."""
    result = run("train", *TINY, "--steps", 2, *options, "--out", folder)
    assert result.status == 0, result.err
    return folder
