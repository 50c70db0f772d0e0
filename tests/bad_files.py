"""The files that rows of bad_input.py name: small, made once, most of them from one tiny run."""

import contextlib
import io
import json
import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import safetensors.torch
import torch
from bad_input import FORGED, JSON
from filelock import FileLock
from PIL import Image

from ddpm_lesson import cli, data
from ddpm_lesson.experiments.checkpoints import load_tensors, save_tensors
from ddpm_lesson.experiments.classifiers import fit
from ddpm_lesson.experiments.recipes import ClassifierRecipe

TINY = "--T 6 --ch 8 --ch-mult 1 --attn --num-groups 4 --batch-size 4 --warmup 0 --device cpu".split()
MADE: dict[str, Callable[["World", Path], object]] = {}


class World:
    """A folder in which each file is made when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder, self.made = folder, {}
        self.lock: FileLock | None = None

    def __call__(self, name: str) -> Path:
        if name not in self.made:
            path = self.folder / name
            made = MADE[name](self, path)
            self.made[name] = made if isinstance(made, Path) else path
        return self.made[name]


def makes(function):
    MADE[function.__name__] = function
    return function


def bytes_of(name: str, content: Callable[[World], bytes] | bytes) -> None:
    MADE[name] = lambda world, path: path.write_bytes(content(world) if callable(content) else content)


def trained(path, options):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["train", *options.split(), *TINY, "--out", str(path)]) == 0


@makes
def run(world, path):
    trained(path, "--preset digits --steps 2")


def classifier(path, T):
    recipe = ClassifierRecipe("digits", T=T, ch=16, ch_mult=(1,), steps=1, batch_size=4)
    *_, made = fit(recipe, data.digits("train"))
    made.save(path)


MADE["clean.safetensors"] = lambda world, path: classifier(path, None)
MADE["noisy.safetensors"] = lambda world, path: classifier(path, 6)
MADE["clean"] = lambda world, path: world("clean.safetensors")
MADE["noisy"] = lambda world, path: world("noisy.safetensors")
MADE["weights"] = lambda world, path: world("run") / "weights.safetensors"
MADE["state"] = lambda world, path: world("run") / "state.safetensors"
MADE["none"] = lambda world, path: path.with_suffix(".none")
MADE["plain"] = lambda world, path: trained(path, "--data digits --steps 1")
MADE["enlarger"] = lambda world, path: trained(path, "--preset digits_upscale --steps 1")
MADE["nowhere"] = lambda world, path: path.symlink_to(path.with_name("nothing"))
MADE["long_name"] = lambda world, path: path.with_name(300 * "x")
MADE["weights_folder"] = lambda world, path: (path / "weights.safetensors").mkdir(parents=True)
MADE["folder"] = MADE["empty"] = lambda world, path: path.mkdir()
bytes_of("file", b"a file")
bytes_of("binary", b"\xff\xfe\xff" * 9)
bytes_of("long", b" " * (2**20 + 1))
for name, (text, _) in JSON.items():
    bytes_of(name, text.encode())


@makes
def foreign(world, path):
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def spoilt_run(name: str, file: str, content: Callable[[bytes], bytes]) -> None:
    def make(world, path):
        shutil.copytree(world("run"), path)
        (path / file).write_bytes(content((path / file).read_bytes()))

    MADE[name] = make


spoilt_run("run_cut_state", "state.safetensors", lambda whole: whole[: len(whole) // 2])
spoilt_run("run_bad_recipe", "recipe.json", lambda whole: whole[:-9])
spoilt_run("run_binary_recipe", "recipe.json", lambda whole: b"\xff" + whole)

spoilt_run("run_edited", "recipe.json", lambda whole: whole.replace(b'"lr": 0.001', b'"lr": 0.5'))
spoilt_run("run_cut_weights", "weights.safetensors", lambda whole: whole[: len(whole) // 2])
spoilt_run("run_damaged_log", "log.csv", lambda whole: whole.replace(b"\n1,", b"\none,"))


def incomplete_run(name: str, file: str, instead: Callable[[World, Path], object] = lambda world, path: None) -> None:
    """A run without a file, or with another one."""

    def make(world, path):
        shutil.copytree(world("run"), path)
        (path / file).unlink()
        instead(world, path / file)

    MADE[name] = make


incomplete_run("run_without_state", "state.safetensors")
incomplete_run("run_without_weights", "weights.safetensors")
incomplete_run("run_unweighted", "weights.safetensors")  # will be mended
incomplete_run("run_no_log", "log.csv")
incomplete_run("run_log_folder", "log.csv", lambda world, path: path.mkdir())
incomplete_run("run_recipe_folder", "recipe.json", lambda world, path: path.mkdir())
incomplete_run(
    "run_other_weights", "weights.safetensors", lambda world, path: shutil.copy(world("plain") / path.name, path)
)


@makes
def run_held(world, path):
    """A folder in which another process works, as far as its lock says."""
    path.mkdir()
    (path / "recipe.json").write_bytes((world("run") / "recipe.json").read_bytes())
    world.lock = FileLock(path / ".lock")
    world.lock.acquire()


@makes
def photos(world, path):
    for i in range(12):
        png(path / "red" / f"{i}.png")
        png(path / "blue" / f"{i}.png")


@makes
def run_of_photos(world, path):
    trained(path, f"--data folder --root {world('photos')} --size 8 --conditional --steps 1")


def png(path, size=(9, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 0, 0)).save(path)


@makes
def images(world, path):
    for i in range(2):
        png(path / "red" / f"{i}.png")


@makes
def texts(world, path):
    path.mkdir()
    (path / "notes.txt").write_text("no image")


@makes
def hidden(world, path):
    png(path / ".thumbnails" / "0.png")


@makes
def mixed(world, path):
    png(path / "red" / "0.png")
    png(path / "loose.png")


@makes
def damaged(world, path):
    png(path / "0.png")
    (path / "0.png").write_bytes((path / "0.png").read_bytes()[:50])


@makes
def one(world, path):
    png(path / "0.png")


@makes
def circle(world, path):
    png(path / "red" / "0.png")
    png(path / "red" / "1.png")
    (path / "red" / "again").symlink_to(path, target_is_directory=True)


@makes
def only_itself(world, path):
    path.mkdir()
    (path / "again").symlink_to(path, target_is_directory=True)


@makes
def dead_link(world, path):
    path.mkdir()
    (path / "0.png").symlink_to(path / "nothing.png")


@makes
def floating(world, path):
    path.mkdir()
    Image.new("F", (9, 9), 0.5).save(path / "0.tiff")


# Weights. A name with an ending is a file for load_weights, whatever it holds.


def weights_of(name: str, content: Callable[[bytes], bytes] | bytes) -> None:
    def make(world, path):
        path = path.with_suffix(".safetensors")
        path.write_bytes(content(world("weights").read_bytes()) if callable(content) else content)
        return path

    MADE[name] = make


weights_of("pickle", pickle.dumps({"w": [1.0]}))
weights_of("zeros", bytes(100))
weights_of("no_bytes", b"")
weights_of("cut", lambda whole: whole[:1000])
weights_of("flipped", lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]))
weights_of("long_header", (1 << 40).to_bytes(8, "little") + b"{}")
ABOUT = {"foreign_tensors": None, "about_list": "[1]", "about_deep": "[" * 50_000, "about_unsigned": "{}"}
for name, about in {**ABOUT, "about_digits": '{"a": 1' + "0" * 9000}.items():
    metadata = None if about is None else {"about": about}
    weights_of(name, safetensors.torch.save({"w": torch.zeros(2)}, metadata=metadata))


def forge(world: World, path: Path, place: str, value: object) -> Path:
    """The run's weights, with another value, or none for `...`, at a place such as unet.ch; the checksum is right."""
    tensors, about = load_tensors(world("weights"))
    about, path = deepcopy(about), path.with_suffix(".safetensors")
    *outer, last = place.split(".")
    held = about
    for name in outer:
        held = held[name]
    if value is ...:
        del held[last]
    else:
        held[last] = value
    save_tensors(path, tensors, json.loads(json.dumps(about)))
    return path


for name, (place, value, _) in FORGED.items():
    MADE[name] = lambda world, path, place=place, value=value: forge(world, path, place, value)
MADE["forged_shape"] = lambda world, path: forge(world, path, "shape", [1, -8, 8])


@makes
def copy(world, path):
    """An untouched copy of a notebook."""
    cell = {"cell_type": "code", "source": "def walk(x_0, betas, noise):\n    ...", "metadata": {}, "outputs": []}
    path.with_suffix(".ipynb").write_text(json.dumps({"nbformat": 4, "metadata": {}, "cells": [cell]}))
    return path.with_suffix(".ipynb")


@makes
def copy_as_zip(world, path):
    path.with_suffix(".zip").write_bytes(b"PK")
    return path.with_suffix(".zip")


@makes
def grades(world, path):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["grade", str(world("copy")), "--out", str(path)]) == 0
