"""A folder of images: what is found, in words, and what is left out and why."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_lesson import data
from ddpm_lesson.folders import find_images


def save(path, size=(6, 4), level=100, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), level, dtype=np.uint8)).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    """cats/0.png 6x4, dogs/1.jpg 6x4, dogs/2.png 20x10, in a folder of their own."""
    folder = tmp_path / "photos"
    save(folder / "cats" / "0.png"), save(folder / "dogs" / "1.jpg"), save(folder / "dogs" / "2.png", (20, 10))
    return folder


def linked(link, target):
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target, target_is_directory=True)


def test_a_report_names_images_classes_and_sizes(photos):
    found = data.folder(photos, 4).found
    assert found == f"{photos}: 3 images in 2 classes (cats 1, dogs 2), 6x4 to 20x10 pixels"
    assert data.folder(photos / "cats", 4).found == f"{photos / 'cats'}: 1 image in one class, 6x4 pixels"
    assert data.digits().found is None


def test_many_classes_are_counted(tmp_path):
    for i in range(10):
        save(tmp_path / f"c{i}" / "x.png")
    assert "10 images in 10 classes (c0 1, c1 1, c2 1, c3 1, c4 1, c5 1, c6 1, c7 1, and 2 more)" in str(
        find_images(tmp_path)
    )


def test_what_is_left_out_is_reported_with_the_reason(photos):
    (photos / "dogs" / "notes.txt").touch()
    (photos / "dogs" / "raw.heic").touch()
    (photos / "horses").mkdir()
    (photos / "birds" / "all").mkdir(parents=True)
    (photos / "birds" / "list.csv").touch()
    (photos / "dogs" / "gone.png").symlink_to(photos / "nowhere.png")
    save(photos / "cats" / ".hidden.png")
    (photos / ".DS_Store").touch()
    found = find_images(photos)
    assert found.left_out == {
        "type that is not read": ("birds/list.csv", "dogs/notes.txt", "dogs/raw.heic"),
        "folder without files": ("horses",),
        "link that leads nowhere": ("dogs/gone.png",),
        "hidden": ("cats/.hidden.png",),
    }
    report = str(found).splitlines()
    assert report[0].endswith("3 images in 2 classes (cats 1, dogs 2), 6x4 to 20x10 pixels")
    assert report[1].startswith("Left out: ") and len(report) == 2
    for told in (
        "type that is not read: 3 (birds/list.csv)",
        "folder without files: 1 (horses)",
        "hidden: 1 (cats/.hidden.png)",
    ):
        assert told in report[1]


@pytest.mark.parametrize("name", ["log.csv", "state.safetensors", "weights.safetensors"])
def test_the_previews_of_a_run_are_no_class(photos, name):
    run = photos / "run"
    save(run / "previews" / "0000500.png"), save(run / "loss.png")
    (run / "recipe.json").touch()
    assert find_images(photos).classes == ["cats", "dogs", "run"]  # a recipe alone makes no run
    (run / name).touch()
    found = find_images(photos)
    assert found.classes == ["cats", "dogs"] and found.left_out == {"folder of a run": ("run",)}
    with pytest.raises(ValueError, match="run is the folder of a run, whose pictures are drawn: expected a folder of"):
        data.folder(run, 4)


def test_a_run_beside_loose_images_is_left_out_too(photos):
    save(photos / "cats" / "run" / "previews" / "1.png")
    for name in ("recipe.json", "log.csv"):
        (photos / "cats" / "run" / name).touch()
    images = data.folder(photos / "cats", 4)
    assert len(images) == 1 and images.classes == ("cats",)


def test_classes_that_are_links_are_followed(photos, tmp_path):
    save(tmp_path / "elsewhere" / "deep" / "3.png")
    linked(photos / "birds", tmp_path / "elsewhere")
    found = find_images(photos)
    assert (found.classes, found.left_out) == (["birds", "cats", "dogs"], {})
    assert [str(file) for file in found.files][0] == "birds/deep/3.png"
    images = data.folder(photos, 4)
    assert images.labels.tolist() == [0, 1, 2, 2] and images.x_0.shape == (4, 3, 4, 4)


def test_links_in_a_circle_end(photos):
    linked(photos / "cats" / "up", photos)
    linked(photos / "dogs" / "across", photos / "cats")
    linked(photos / "a", photos / "dogs")  # before the folders in alphabetical order, and yet not in their place
    linked(photos / "above", photos.parent)
    linked(photos / "itself", photos / "itself")
    found = find_images(photos)
    assert [str(file) for file in found.files] == ["cats/0.png", "dogs/1.jpg", "dogs/2.png"]
    assert found.left_out == {
        "link to a folder that is read already, or around it": ("a", "above", "cats/up", "dogs/across"),
        "link that leads nowhere": ("itself",),
    }


def test_folders_that_all_link_to_each_other_are_read_once(tmp_path):
    root, n = tmp_path / "root", 9  # 9! ways through them
    for i in range(n):
        save(tmp_path / "out" / str(i) / "x.png")
    for i in range(n):
        for j in range(n):
            linked(tmp_path / "out" / str(i) / f"to{j}", tmp_path / "out" / str(j))
    linked(root / "first", tmp_path / "out" / "0")
    assert len(find_images(root).files) == n


@pytest.mark.parametrize("name", ["x.tif", "x.TIFF", "x.jfif", "x.jpe", "x.ppm", "x.tga", "x.jp2", "x.avif"])
def test_other_types_that_pillow_reads_are_read(photos, name):
    if Image.registered_extensions().get(name[1:].lower()) not in Image.SAVE:
        assert not [file for file in find_images(photos).files if file.suffix == name[1:]]
        pytest.skip(f"this Pillow has no {name[1:]}")
    options = {"quality": 100} if name == "x.avif" else {}
    save(photos / "cats" / name, level=200, **options)
    images = data.folder(photos / "cats", 2)
    assert len(images) == 2
    x = 255 * (images[1][0] + 1) / 2
    assert (x - 200).abs().max() < 3


def test_grey_of_16_bits_keeps_its_range_in_tiff(tmp_path):
    Image.fromarray(np.array([[0, 1000], [40000, 65535]], dtype=np.uint16)).save(tmp_path / "x.tif")
    assert data.folder(tmp_path, 2, channels=1).data[0].tolist() == [[[0, 3], [156, 255]]]


@pytest.mark.parametrize("pixels", [np.full((2, 2), 0.5, dtype=np.float32), np.array([[0, 70000]], dtype=np.int32)])
def test_pixels_whose_range_nobody_knows_are_refused(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    images = data.folder(tmp_path, 2)
    with pytest.raises(OSError, match=r"x\.tif cannot be read as an image: expected pixels of 8 or 16 bits, got"):
        images[0]


def test_a_damaged_image_does_not_hide_the_rest_of_the_report(photos):
    (photos / "cats" / "0.png").write_bytes(b"no image")
    assert "3 images in 2 classes (cats 1, dogs 2), 6x4 to 20x10 pixels" in str(find_images(photos))
    (photos / "dogs" / "1.jpg").unlink(), (photos / "dogs" / "2.png").unlink()
    assert "1 image in one class" in str(find_images(photos)) and "pixels" not in str(find_images(photos))


def test_names_that_cannot_be_printed_are_escaped(photos):
    save(photos / "a\nb" / "0.png")
    os.mkdir(os.fsencode(photos) + b"/\xff")
    save(photos / os.fsdecode(b"\xff") / "0.png")
    images = data.folder(photos, 4)
    images.found.encode()  # a lone surrogate would raise
    assert r"'a\nb' 1" in images.found and r"'\udcff' 1" in images.found
    assert len(images.found.splitlines()) == 1 and images.fingerprint()
    assert images.x_0.shape == (5, 3, 4, 4)


def test_no_images_is_said_with_what_there_is(tmp_path):
    (tmp_path / "a.heic").touch()
    told = r"no images in .*: looked for names that end in .*\.jpg.*; left out: type that is not read: 1 \(a\.heic\)"
    with pytest.raises(FileNotFoundError, match=told):
        data.folder(tmp_path, 8)


def test_order_is_that_of_names_whatever_the_disk_says(photos, monkeypatch):
    whole = find_images(photos)
    listed = type(photos).iterdir
    monkeypatch.setattr(type(photos), "iterdir", lambda self: reversed(sorted(listed(self))))
    assert find_images(photos) == whole
    assert torch.equal(data.folder(photos, 4).labels, torch.tensor([0, 1, 1]))
