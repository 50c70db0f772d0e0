"""The lock of a folder: one process at a time; a second `FileLock` on the same file stands for another process."""

import errno
import json
import os
import platform
import subprocess
import sys

import pytest
from filelock import FileLock

from ddpm_lesson.experiments import locks
from ddpm_lesson.experiments.locks import Busy, Lock, Process, worker


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder in which another process works."""
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    me = {"pid": 4711, "host": "abacus", "since": "2026-01-02 03:04:05"}
    (tmp_path / ".process.json").write_text(json.dumps(me))
    with FileLock(tmp_path / ".lock"):
        yield tmp_path


def test_a_process_says_who_it_is_and_takes_the_lock_as_often_as_it_likes(tmp_path):
    folder = tmp_path / "new" / "run"
    assert worker(tmp_path) is None and list(tmp_path.iterdir()) == []
    first, second = Lock(folder), Lock(tmp_path / "new" / ".." / "new" / "run")
    found = worker(folder)
    assert (found.pid, found.host) == (os.getpid(), platform.node()) and f"process {os.getpid()} on " in str(found)
    second.release()
    second.release()
    assert worker(folder) == found
    first.release()
    assert worker(folder) is None
    assert [path.name for path in folder.iterdir()] == [".lock"]
    Lock(folder).release()


def test_another_process_is_named_and_left_alone(elsewhere):
    with pytest.raises(Busy) as error:
        Lock(elsewhere)
    told = f"process 4711 on abacus, since 2026-01-02 03:04:05 works in {elsewhere}: wait until it ends"
    assert str(error.value).startswith(told)
    assert worker(elsewhere) == Process(4711, "abacus", "2026-01-02 03:04:05")
    (elsewhere / ".process.json").write_text("{")
    with pytest.raises(Busy, match="^another process works in "):
        Lock(elsewhere)


def test_what_a_dead_process_left_is_taken_over(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".process.json").write_text('{"pid": 4711, "host": "abacus", "since": "2026-01-02 03:04:05"}')
    assert worker(tmp_path) is None
    lock = Lock(tmp_path)
    assert worker(tmp_path).pid == os.getpid()
    lock.release()


def test_whoever_only_looks_is_waited_for(tmp_path):
    # `worker` holds the lock for a moment: a start in that moment must not take it for a process.
    looking, count = FileLock(tmp_path / ".lock", thread_local=False), []
    looking.acquire()
    acquire = locks.FileLock.acquire

    def once(self, timeout=None, **options):
        count.append(timeout)
        looking.release()
        return acquire(self, timeout, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks.FileLock, "acquire", once)
        Lock(tmp_path).release()
    assert count == [locks.PATIENCE] and locks.PATIENCE > 0.1


def test_a_folder_made_for_the_lock_goes_with_it_unless_something_came(tmp_path):
    Lock(tmp_path / "a" / "b").leave()
    assert list(tmp_path.iterdir()) == []
    lock = Lock(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "recipe.json").touch()
    lock.leave()
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [".lock", "recipe.json"]
    before = tmp_path / "mine"
    before.mkdir()
    Lock(before).leave()
    assert before.is_dir()


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("flock")])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="the file system of .* has no locks: take care that no second process works"):
        lock = Lock(tmp_path)
    assert worker(tmp_path).pid == os.getpid()
    lock.release()


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file.run cannot be made \(Not a directory\): name another folder"):
        Lock(tmp_path / "file" / "run")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    with pytest.raises(OSError, match=r"cannot be written to \(Read-only file system\): name another folder"):
        Lock(tmp_path)
    assert worker(tmp_path) is None


def test_a_disk_that_is_full_leaves_no_lock_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = dict(locks._held)
    with monkeypatch.context() as patch:
        patch.setattr(locks.Path, "write_text", full)
        with pytest.raises(OSError, match="No space left on device"):
            Lock(tmp_path / "a" / "b")
    assert locks._held == before and list(tmp_path.iterdir()) == []
    lock = Lock(tmp_path / "a" / "b")  # as another process could: it is not held once more, but anew
    assert locks._held[lock._key][1] == 1
    lock.release()


FORKED = """
import os, runpy, sys, weakref
from pathlib import Path
locks = runpy.run_path(sys.argv[1])
class Owner: pass
owner, lock = Owner(), locks["Lock"](Path(sys.argv[2]))
weakref.finalize(owner, lock.release)
child = os.fork()
if child == 0:
    try:
        locks["Lock"](Path(sys.argv[2]))
    except locks["Busy"]:
        lock.leave()
        sys.exit(7)
    sys.exit("taken twice")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_fork_that_ends_gives_nothing_back(tmp_path):
    # Neither by `release`, which a run calls when Python ends, nor by the end of the lock that it has inherited.
    command = [sys.executable, "-c", FORKED, locks.__file__, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == f"{process.pid}\n"
        assert worker(tmp_path / "run").pid == process.pid
        with pytest.raises(Busy, match=f"process {process.pid} on "):
            Lock(tmp_path / "run")
    assert process.returncode == 0 and worker(tmp_path / "run") is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
