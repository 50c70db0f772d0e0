"""Image files that are decoded once: what is kept on disk, for whom, and what happens when it cannot be."""

import io
import os
import pickle
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_lesson import data, files
from ddpm_lesson.batches import ordered

N = 6


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Six images, and a cache of one's own in which everything that is decoded is kept."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(N):
        Image.fromarray(np.full((5, 5, 3), 40 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    monkeypatch.setenv("DDPM_LESSON_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SLOW", -1.0)
    return folder


def stored(photos) -> list[Path]:
    return sorted((photos.parent / "cache").rglob("*"))[1:]


def whole(photos) -> torch.Tensor:
    return torch.arange(0, 40 * N, 40, dtype=torch.uint8).view(N, 1, 1, 1).expand(N, 3, 4, 4)


def test_a_second_start_decodes_nothing(photos, decoded):
    images = data.folder(photos, 4)
    images.prepare()
    assert sorted(decoded) == [f"{i}.png" for i in range(N)] and len(stored(photos)) == 1
    assert torch.equal(images.data[:], whole(photos)) and images.data.kept == {}
    again = data.folder(photos, 4)
    for index in (slice(None), slice(1, 3), slice(0, 0), torch.tensor([4, 1])):
        assert torch.equal(again.data[index], whole(photos)[index])
    assert torch.equal(again[2][0], images[2][0]) and torch.equal(again[-1][0], images[5][0])
    again.prepare()
    assert len(decoded) == N and again.x_0.shape == (N, 3, 4, 4)
    assert {path.name for path in photos.iterdir()} == {f"{i}.png" for i in range(N)}  # nothing is written there


def test_what_is_given_out_can_be_changed(photos):
    images = data.folder(photos, 4)
    images.prepare()
    images.data[torch.tensor([1])].zero_(), images.data[1].zero_(), images[1][0].zero_()
    assert torch.equal(data.folder(photos, 4).data[:], whole(photos))


def test_the_pixels_are_those_of_decoding_one_by_one(photos):
    lazily = data.folder(photos, 4).data[:]
    assert stored(photos) == []
    images = data.folder(photos, 4)
    images.prepare()
    assert torch.equal(images.data[:], lazily)


def test_a_changed_file_is_seen(photos, decoded):
    data.folder(photos, 4).prepare()
    path, before = photos / "3.png", (photos / "3.png").stat()
    changed = io.BytesIO()
    Image.fromarray(np.full((5, 5, 3), 41 * 3, dtype=np.uint8)).save(changed, "png")
    time.sleep(0.02)  # file systems count time in steps of a few milliseconds
    assert len(changed.getvalue()) == before.st_size
    path.write_bytes(changed.getvalue())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps times
    images = data.folder(photos, 4)
    assert images.data[3].unique().tolist() == [123]
    images.prepare()
    assert images.data[3].unique().tolist() == [123] and images.data[2].unique().tolist() == [80]
    assert len(stored(photos)) == 1  # what belonged to the old files is gone


@pytest.mark.parametrize("change", ["rename", "more", "fewer", "size", "channels"])
def test_other_files_or_another_size_are_decoded_anew(photos, decoded, change):
    data.folder(photos, 4).prepare()
    decoded.clear()
    if change == "rename":
        (photos / "1.png").rename(photos / "7.png")
    elif change == "more":
        (photos / "7.png").write_bytes((photos / "1.png").read_bytes())
    elif change == "fewer":
        (photos / "1.png").unlink()
    images = data.folder(photos, 3 if change == "size" else 4, channels=1 if change == "channels" else 3)
    images.prepare()
    assert len(decoded) == len(images)
    assert len(stored(photos)) == (2 if change in ("size", "channels") else 1)
    assert torch.equal(images.data[:], data.folder(photos, images.shape[1], channels=images.shape[0]).data[:])


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "gone"])
def test_a_damaged_file_of_the_cache_is_made_again(photos, decoded, damage):
    data.folder(photos, 4).prepare()
    (path,) = stored(photos)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": path.read_bytes()[:-1], "empty": b"", "other": pickle.dumps([1])}[damage])
    assert torch.equal(data.folder(photos, 4).data[:], whole(photos))  # decoded
    decoded.clear()
    data.folder(photos, 4).prepare()
    assert len(decoded) == N and len(stored(photos)) == 1
    assert torch.equal(data.folder(photos, 4).data[:], whole(photos)) and len(decoded) == N


def test_the_cache_may_be_deleted_while_it_is_read(photos):
    images = data.folder(photos, 4)
    images.prepare()
    (path,) = stored(photos)
    path.unlink()
    assert torch.equal(images.data[:], whole(photos))
    assert torch.equal(pickle.loads(pickle.dumps(images)).data[:], whole(photos))  # finds nothing, and decodes


def test_a_worker_gets_no_copy_of_the_pixels(photos, decoded):
    images = data.folder(photos, 64)
    images.prepare()
    decoded.clear()
    assert len(pickle.dumps(images)) < 64 * 64 * 3
    assert torch.equal(pickle.loads(pickle.dumps(images)).data[:], images.data[:]) and decoded == []


def test_a_damaged_image_leaves_nothing_behind_and_is_named(photos):
    (photos / "4.png").write_bytes(b"not an image")
    images = data.folder(photos, 4)
    with pytest.raises(OSError, match=r"4\.png cannot be read as an image"):
        images.prepare()
    assert stored(photos) == []
    assert torch.equal(images.data[:4], whole(photos)[:4])


def test_ctrl_c_leaves_nothing_behind(photos, monkeypatch):
    def interrupted(self, file):
        if file.name == "3.png":
            raise KeyboardInterrupt
        return np.zeros((3, 4, 4), dtype=np.uint8)

    monkeypatch.setattr(files.ImageFiles, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.folder(photos, 4).prepare()
    assert stored(photos) == []


@pytest.mark.parametrize("where", ["open", "write", "space", "file", "parents", "replace"])
def test_without_a_place_on_disk_they_are_kept_in_memory(photos, monkeypatch, decoded, where):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if where == "open":
        monkeypatch.setattr(files, "open", fail, raising=False)
    elif where == "write":
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("no /dev/full")
        monkeypatch.setattr(files, "open", lambda *_: open(full, "wb", buffering=0), raising=False)
        monkeypatch.setattr(os, "unlink", fail)
    elif where == "space":
        monkeypatch.setattr(files, "disk_usage", lambda folder: Room(N * 48 * 2 - 1))
    elif where == "file":
        (photos.parent / "cache").write_bytes(b"")
    elif where == "parents":
        monkeypatch.setenv("DDPM_LESSON_DATA", str(photos.parent / "mistyped" / "cache"))
    else:
        monkeypatch.setattr(os, "replace", fail)
    images = data.folder(photos, 4)
    images.prepare()
    assert torch.equal(images.data[:], whole(photos))
    assert torch.equal(data.folder(photos, 4).data[:], whole(photos))
    left = [path for path in photos.parent.rglob("*") if path.suffix in (".npy", ".partial")]
    assert left == [] and not (photos.parent / "mistyped").exists()


class Room:
    def __init__(self, free):
        self.free = free


def test_there_is_room_for_twice_the_pixels(photos, monkeypatch):
    monkeypatch.setattr(files, "disk_usage", lambda folder: Room(N * 48 * 2))
    data.folder(photos, 4).prepare()
    assert len(stored(photos)) == 1


def test_what_fits_neither_on_disk_nor_in_memory_is_decoded_when_needed(photos, monkeypatch, decoded):
    monkeypatch.setattr(files, "disk_usage", lambda folder: Room(0))
    monkeypatch.setattr(files, "KEPT_BYTES", 2 * 48)
    images = data.folder(photos, 4)
    images.prepare()
    assert stored(photos) == [] and sorted(images.data.kept) == [0, 1]
    decoded.clear()
    images.prepare()  # is not tried again
    assert decoded == [] and torch.equal(images.data[:], whole(photos))
    assert decoded == [f"{i}.png" for i in range(2, N)]


def test_a_disk_that_fills_up_in_the_middle_mixes_nothing_up(photos, monkeypatch):
    written, write = [], files._Store.write

    def full(self, pixels):
        if len(written) == 3:
            self.drop()
            return False
        written.append(1)
        return write(self, pixels)

    monkeypatch.setattr(files._Store, "write", full)
    images = data.folder(photos, 4)
    images.prepare()
    assert sorted(images.data.kept) == [3, 4, 5] and stored(photos) == []
    assert torch.equal(images.data[:], whole(photos))


def test_what_is_decoded_quickly_stays_in_memory(photos, monkeypatch, decoded):
    monkeypatch.setattr(files, "SLOW", 1000.0)
    images = data.folder(photos, 4)
    images.prepare()
    assert stored(photos) == [] and sorted(images.data.kept) == list(range(N))
    assert torch.equal(images.data[:], whole(photos)) and len(decoded) == N


def test_two_starts_at_once_leave_one_whole_file(photos, monkeypatch):
    both, results = threading.Barrier(2), []
    replace = os.replace

    def together(*args):
        both.wait(10)
        replace(*args)

    monkeypatch.setattr(os, "replace", together)

    def start():
        images = data.folder(photos, 4)
        images.prepare()
        results.append(images.data[:])

    threads = [threading.Thread(target=start) for _ in range(2)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert len(results) == 2 and all(torch.equal(found, whole(photos)) for found in results)
    assert len(stored(photos)) == 1


def test_what_a_killed_process_left_is_cleared_away_after_a_day(photos):
    folder = photos.parent / "cache" / "decoded"
    folder.mkdir(parents=True)
    for name, age in (("old.partial", 25 * 3600), ("new.partial", 60)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (time.time() - age,) * 2)
    data.folder(photos, 4).prepare()
    assert [path.suffix for path in stored(photos)] == [".npy", ".partial"]


@pytest.mark.skipif(sys.platform == "win32", reason="no umask on Windows")
def test_others_may_read_the_cache_as_far_as_the_umask_lets_them(photos):
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            data.folder(photos, 4).prepare()
        finally:
            os.umask(before)
        (path,) = stored(photos)
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
        path.unlink()


def test_a_link_planted_in_the_cache_is_not_followed(photos):
    victim, folder = photos.parent / "victim", photos.parent / "cache" / "decoded"
    victim.write_bytes(b"mine")
    folder.mkdir(parents=True)
    place = data.folder(photos, 4).data._path()
    place.symlink_to(victim)
    images = data.folder(photos, 4)
    images.prepare()
    assert victim.read_bytes() == b"mine" and not place.is_symlink()
    assert torch.equal(images.data[:], whole(photos))


def test_decoding_shows_a_bar_when_it_is_slow(photos, capsys, monkeypatch):
    monkeypatch.setattr(files, "SLOW", 0.02)
    decode = files.ImageFiles.decode
    monkeypatch.setattr(files.ImageFiles, "decode", lambda self, file: time.sleep(0.2) or decode(self, file))
    data.folder(photos, 4).prepare()
    captured = capsys.readouterr()
    assert "Decoding images" in captured.err and captured.out == ""
    monkeypatch.setattr(files, "SLOW", 1000.0)
    data.folder(photos, 5).prepare()
    assert capsys.readouterr().err == ""


def test_batches_in_order_decode_everything_first(photos, decoded):
    (photos / "5.png").write_bytes(b"not an image")
    with pytest.raises(OSError, match=r"5\.png cannot be read"):
        next(ordered(data.folder(photos, 4), batch_size=1, seed=0))
    (photos / "5.png").unlink()
    x_0, _ = next(ordered(data.folder(photos, 4), batch_size=1, seed=0))
    assert x_0.shape == (1, 3, 4, 4) and set(decoded) == {f"{i}.png" for i in range(N)}
