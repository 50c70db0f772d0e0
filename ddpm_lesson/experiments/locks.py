"""Who works in a folder: a lock that one process holds, and that its end releases, however it ends.

The lock is the operating system's, by `filelock`, which torch brings; a dead process holds none. The files that show
it, .lock and .process.json, hold nothing of the run, and may lie there when no process works.
"""

import errno
import json
import os
import platform
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

LOCK, PROCESS = ".lock", ".process.json"
PATIENCE = 0.5  # seconds; whoever only looks holds the lock for less
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_held: dict[tuple[int, Path], tuple[FileLock, int]] = {}  # by process and folder, and how many times


class Busy(ValueError):
    """Another process works in the folder. The message says which one."""


class Process(NamedTuple):
    """A process that works in a folder.  pid: its number on `host`. since: when it began to, as text."""

    pid: int | None
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}" if self.pid else "another process"


class _OfOneProcess(FileLock):
    """Not of a fork, which has the same file open: what it unlocks is unlocked for its parent, too."""

    pid: int | None = None

    def release(self, *args: bool, **options: bool) -> None:  # also called when it is deleted
        if self.pid == os.getpid():
            super().release(*args, **options)


class Lock:
    """This process's right to work in a folder; a process can take it several times, others have to wait.

    folder: is made if missing. `release` gives it back; in a fork of this process it does nothing. Raises Busy if
    another process holds it, OSError if the folder cannot be written to. Where the file system has no locks (some
    network file systems) a warning says so.
    """

    def __init__(self, folder: Path):
        self.made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror
            if isinstance(error, FileExistsError):
                why = "a link there leads nowhere" if folder.is_symlink() else "a file lies there"
            raise OSError(f"{folder} cannot be made ({why}): name another folder") from error
        self.folder, self.taken, self.pid = folder.resolve(), True, os.getpid()
        self._key = self.pid, self.folder
        if self._key in _held:
            lock, count = _held[self._key]
            _held[self._key] = lock, count + 1
            return
        lock = _OfOneProcess(self.folder / LOCK, thread_local=False)
        lock.pid = self.pid
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            self.taken = False
            raise _busy(folder, process_of(self.folder)) from error
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                self.taken = False
                raise OSError(f"{folder} cannot be written to ({error.strerror}): name another folder") from error
            told = f"the file system of {folder} has no locks"
            warnings.warn(f"{told}: take care that no second process works there", stacklevel=2)
        _held[self._key] = lock, 1
        me = Process(self.pid, platform.node(), time.strftime("%Y-%m-%d %H:%M:%S"))
        try:
            (self.folder / PROCESS).write_text(json.dumps(me._asdict()), encoding="utf-8")
        except BaseException:  # such as a full disk: who asked for the lock has none to give back
            self.leave()
            raise

    def release(self) -> None:
        """Give it back. A second call does nothing, nor does one in a fork, which never had it."""
        if not self.taken or self.pid != os.getpid():
            return
        self.taken = False
        lock, count = _held[self._key]
        if count > 1:
            _held[self._key] = lock, count - 1
            return
        del _held[self._key]
        with suppress(OSError):
            (self.folder / PROCESS).unlink()
        lock.release()

    def leave(self) -> None:
        """Give it back, and remove the folder if it was made for the lock and nothing else has come into it."""
        if self.pid != os.getpid():
            return
        if self.made and self.taken and {path.name for path in self.folder.iterdir()} <= {LOCK, PROCESS}:
            with suppress(OSError):  # Windows removes no open file
                (self.folder / LOCK).unlink()
        self.release()
        with suppress(OSError):  # not empty
            for path in self.made:
                path.rmdir()


def worker(folder: Path) -> Process | None:
    """The process that works in a folder; None if there is none. Leaves no file behind."""
    folder = folder.resolve()
    if (os.getpid(), folder) in _held:
        return process_of(folder)
    if not (folder / LOCK).exists():
        return None
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return process_of(folder)
    except (OSError, NotImplementedError):  # read-only, or without locks
        return None
    lock.release()
    return None


def check_free(folder: Path) -> None:
    """Raise Busy if another process works in a folder: what lies there may be half of what it will be."""
    if (os.getpid(), folder.resolve()) not in _held and (process := worker(folder)):
        raise _busy(folder, process)


def _busy(folder: Path, process: Process) -> Busy:
    return Busy(f"{process} works in {folder}: wait until it ends, stop it there, or name another folder")


def process_of(folder: Path) -> Process:
    """What the process that holds the lock has written of itself."""
    try:
        return Process(**json.loads((folder / PROCESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Process(None, "", "")
