"""What keeps a student's code from harming the machine and the other students: limits of the process that it runs in.

No sandbox against malice: the code runs as the user who grades, and can read and write what this user can. For
copies that you would not run yourself, grade in a container (docs/instructors.md).
"""

import ctypes
import io
import math
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import resource

OUTPUT = 4000  # characters of what is printed that are kept
FILE = 64 * 2**20  # bytes of a file that is written
REFUSED = "exercises are graded without a network"
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of Linux's unshare


class Kept(io.TextIOBase):
    """An output of which the beginning is kept, and of the rest its length."""

    def __init__(self) -> None:
        self.text, self.length = "", 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text[: OUTPUT - len(self.text)]
        self.length += len(text)
        return len(text)


def alone() -> None:
    """A process group of its own, so that it can be ended with all that it starts."""
    if sys.platform != "win32":
        os.setsid()


def limited(megabytes: int, seconds: float) -> dict[str, str]:
    """Limit this process: memory beyond what it has now, processor time, size of files, the network.

    Returns what of it this system cannot do as asked, in words: {} on Linux with user namespaces.
    """
    lacks = {}
    if not _memory(megabytes):
        lacks["memory"] = "this system knows no such limit"
    if sys.platform != "win32":
        for kind, most in (("RLIMIT_CPU", math.ceil(seconds) + 5), ("RLIMIT_FSIZE", FILE), ("RLIMIT_CORE", 0)):
            with suppress(ValueError, OSError):  # where there is a lower limit already
                resource.setrlimit(getattr(resource, kind), (most, most))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(600 + 20 * math.ceil(seconds))  # if nobody watches any more
    if not _without_network():
        lacks["network"] = "Python's sockets refuse to connect; programs that are started are not kept from it"
    return lacks


def _memory(megabytes: int) -> bool:
    """Whether the system keeps to it: Linux counts what a process writes to, and not the addresses it reserves."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        now = next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) * 1024
        most = now + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        return True
    except (OSError, ValueError, StopIteration):
        return False


def _without_network() -> bool:
    """Refuse to connect, in words; and where Linux allows it take the network away from this process and its own."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(REFUSED)

    for name in ("connect", "connect_ex", "sendto", "sendmsg"):
        if hasattr(socket.socket, name):
            setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
        setattr(socket, name, refuse)
    if not sys.platform.startswith("linux"):
        return False
    user, group = os.getuid(), os.getgid()
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is None:
        return False
    if unshare(NEW_NETWORK) == 0:  # as root
        return True
    if unshare(NEW_USER | NEW_NETWORK) != 0:
        return False
    with suppress(OSError):  # else this user has no name in there, which hardly anything asks for
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def muted() -> Kept:
    """Nothing to read, and what is printed goes nowhere but into what is returned."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    kept = Kept()
    sys.stdin = open(os.devnull, encoding="utf-8")
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        setattr(sys, name, kept)
    return kept
