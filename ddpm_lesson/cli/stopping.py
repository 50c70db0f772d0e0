"""Ctrl-C and requests to terminate: the first asks a command to save and stop, the third stops it at once."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ddpm_lesson.experiments import distributed

FIRST = "Stopping: this step is finished and saved first."
SECOND = "It is being saved: please wait. Once more stops at once, and loses the steps since the last save."


class Stop:
    """What was asked.  status: the exit status of who was asked to stop, 128 + the signal's number; 0 if nobody did."""

    def __init__(self) -> None:
        self.status = self.times = 0

    def ask(self, number: int, frame: object) -> None:
        """The handler of a signal."""
        self.times += 1
        self.status = self.status or 128 + number
        if self.times > 2:
            raise KeyboardInterrupt
        if distributed.rank():
            return
        told = f"\nddpm_lesson: {FIRST if self.times == 1 else SECOND}\n"
        try:
            print(told, end="", file=sys.stderr, flush=True)
        except RuntimeError:  # in the middle of another print
            os.write(2, told.encode())


@contextmanager
def stopping() -> Iterator[Stop]:
    """What Ctrl-C (SIGINT) and SIGTERM ask for inside; afterwards they do what they did before."""
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
