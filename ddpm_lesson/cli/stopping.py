"""Ctrl-C and requests to terminate: the first asks a command to save and stop, the third stops it at once.

A reader of the output that has gone, as `tee` after the same Ctrl-C, is such a request, too, and no error.
"""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

from ddpm_lesson.experiments import distributed

FIRST = "Stopping: this step is finished and saved first."
SECOND = "It is being saved: please wait. Once more stops at once, and loses the steps since the last save."
HANGUP: int | None = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has no such signal
UNREAD = 141  # the exit status when nobody reads the output any more, as of a process that SIGPIPE ends


class Stop:
    """What was asked.

    status: the exit status of who was asked to stop: 128 + the signal's number, or UNREAD; 0 if nobody was.
    times: how many signals asked for it.
    """

    def __init__(self) -> None:
        self.status = self.times = 0

    def ask(self, number: int, frame: object) -> None:
        """The handler of a signal. A terminal that is closed may send several SIGHUP, which are one."""
        if number == HANGUP and self.times:
            return
        self.times += 1
        self.status = self.status or 128 + number
        if self.times > 2:
            raise KeyboardInterrupt
        if distributed.rank():
            return
        told = f"\nddpm_lesson: {FIRST if self.times == 1 else SECOND}\n"
        with suppress(OSError, ValueError):  # nobody reads it: no reason to break off in the middle of a step
            try:
                print(told, end="", file=sys.stderr, flush=True)
            except RuntimeError:  # in the middle of another print
                os.write(2, told.encode())

    def unread(self, error: OSError) -> None:
        """What was printed did not arrive.  A closed terminal (EIO) alone stops no run; SIGHUP does, unless ignored."""
        if error.errno != errno.EIO:
            self.status = self.status or UNREAD


class Forgiving:
    """A stream of text that raises no OSError.  At the first one `stop` is told, and all that follows goes nowhere.

    stream: None if this process has none, as after `2>&-`.
    """

    def __init__(self, stream: TextIO | None, stop: Stop):
        self.stream, self.stop = stream, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def _try(self, name: str, *arguments: str) -> None:
        if self.stream is None:
            return
        try:
            getattr(self.stream, name)(*arguments)
        except OSError as error:
            self.stop.unread(error)
            _to_nowhere(self.stream)


def _to_nowhere(stream: TextIO) -> None:
    """Send what a stream still holds and what is written to it later nowhere, and so without errors."""
    with suppress(OSError):  # a stream that is no file
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


@contextmanager
def stopping() -> Iterator[Stop]:
    """What Ctrl-C (SIGINT), SIGTERM and SIGHUP ask for inside; afterwards they do what they did before.

    SIGHUP that is ignored, as under nohup, stays so. Inside, printing raises no OSError: see `Forgiving`.
    """
    stop = Stop()
    out: Any = Forgiving(sys.stdout, stop)
    err: Any = Forgiving(sys.stderr, stop)
    before = {number: signal.signal(number, stop.ask) for number in _asking()}
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _asking() -> list[int]:
    """The signals that ask to stop."""
    if HANGUP is None or signal.getsignal(HANGUP) == signal.SIG_IGN:
        return [signal.SIGINT, signal.SIGTERM]
    return [signal.SIGINT, signal.SIGTERM, HANGUP]
