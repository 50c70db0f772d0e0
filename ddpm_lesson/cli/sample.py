"""The command sample: draw images from a network into a file, or into a folder of PNGs."""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ddpm_lesson.cli import pictures
from ddpm_lesson.cli.options import (
    about,
    add_drawing,
    check_memory,
    check_root,
    command_of,
    device_named,
    loaded,
    name,
    root_of,
    sampling_of,
    within_memory,
)
from ddpm_lesson.cli.outputs import check_file, check_new_folder, there
from ddpm_lesson.experiments import distributed, drawing, pretrained
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.conditions import made_small
from ddpm_lesson.experiments.sampling import Sampling
from ddpm_lesson.samplers import State, last

MOST = {"png": 10_000, "animated": 1_000, "gif": 1_000}  # images that one picture can show
FRAMES = 40  # of an animation, about
ANIMATED = ("animated", "gif")


def add(commands: Any) -> None:
    words = "A network that enlarges images is given images of its data that were held out, made small."
    command = command_of(commands, sample, "Draw images from a network.", words)
    add_drawing(command, "64", Sampling())
    command.set_defaults(n=64)
    command.add_argument("--label", metavar="CLASS", help="a class, by name or a word of it [every class in turn]")
    words = "of a network that enlarges images: where torchvision's files, or the images of a folder, lie"
    command.add_argument("--root", type=name, metavar="FOLDER", help=f"{words} [as in training]")
    words = (
        "FILE.png: a grid; FILE.gif: it comes out of the noise; FILE.npz: arr_0, (N, H, W, C) uint8, and labels arr_1"
    )
    words += "; FOLDER: 000.png, 001.png, ... [samples.png]"
    command.add_argument("--out", type=name, metavar="PLACE", help=words)
    command.add_argument("--animate", action="store_true", help="an animated PNG: the images come out of the noise")
    command.add_argument("--separate", action="store_true", help="separate PNGs into the folder --out [samples]")


def sample(options: argparse.Namespace) -> int:
    """Draw images and write them as the ending of --out says."""
    if distributed.rank():
        return drawing.follow(lambda: loaded(options.weights, options.device, pretrained.PretrainedDiffusion))
    with drawing.leading():
        return _sample(options)


def _sample(options: argparse.Namespace) -> int:
    form, out = _form(options)
    check_new_folder(out) if form == "folder" else check_file(out)
    sampling = sampling_of(options, Sampling())
    device = device_named(options.device)
    advice = "take a network with fewer channels or smaller images, a shorter chain or another --device"
    with within_memory(device, f"{options.n} images, drawn {options.batch} or fewer at a time", advice):
        trained = loaded(options.weights, options.device, pretrained.PretrainedDiffusion)
        frames = FRAMES + 1 if form in ANIMATED else 1
        needed = 2 * 4 * frames * options.n * math.prod(trained.shape)  # float32, and once more when they are joined
        check_memory(needed, f"{options.n} images at once", "draw them in several calls, each with its --seed")
        check_root(options.root, trained.recipe.data)
        if options.root and trained.recipe.condition != "low_res":
            needless = "--root is for networks that enlarge images, and this one draws from noise alone"
            raise ValueError(f"{needless}: leave it out, got --root {options.root}")
        if trained.recipe.condition == "low_res":
            cond, labels = _to_enlarge(trained, options, sampling)
        else:
            cond, labels = None, trained.labels(options.n, options.label)
        trained.denoiser(labels, cond=cond, guidance=sampling.guidance)  # it refuses what cannot be before the work
        if not options.quiet:
            print(about(options.weights, trained), f"{options.n} images: {sampling}", sep="\n", file=sys.stderr)
        keep = thinned if form in ANIMATED else last
        told = {"y": labels, "cond": cond, "batch_size": options.batch, "progress": not options.quiet}
        images = drawing.sample(trained, options.n, sampling, keep=keep, **told)  # of an animation, all its frames
        if not bool(images.isfinite().all()):
            advice = "expected numbers: lower --guidance, or train the network again with a lower --lr"
            raise FloatingPointError(f"the images are not all finite numbers with {sampling}, {advice}")
        _write(form, out, images, labels)
    print(f"{out}: {options.n} images, {sampling}")
    return 0


def _form(options: argparse.Namespace) -> tuple[str, Path]:
    """What to write, "png", "animated", "gif", "npz" or "folder", and where.  ValueError for what does not fit."""
    given = options.out or ("samples" if options.separate else "samples.png")
    out, ending = Path(given), Path(given).suffix.lower()
    is_folder = options.separate or not ending or given.endswith(("/", os.sep)) or (there(out) and out.is_dir())
    form = "folder" if is_folder else ending[1:]
    if options.separate and options.animate:
        raise ValueError("give --separate or --animate, not both: an animation is one file")
    if out.name.lower() in (".png", ".gif", ".npz") and not (there(out) and out.is_dir()):
        raise ValueError(f"--out needs a name before its ending, got {given}")
    if options.separate and ending in (".png", ".gif", ".npz", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"):
        raise ValueError(f"--separate writes PNGs into a folder: expected --out FOLDER, got {given}")
    if form not in ("png", "gif", "npz", "folder"):
        told = "--out must end in .png, .gif or .npz, or in / for a folder of PNGs"
        raise ValueError(f"{told}, got {given}")
    if options.animate and form not in ("png", "gif"):
        raise ValueError(f"--animate writes an animation: expected --out FILE.png or FILE.gif, got {given}")
    form = "animated" if form == "png" and options.animate else form
    if options.n > MOST.get(form, options.n):
        told = f"one picture shows at most {MOST[form]} images, got --n {options.n}"
        raise ValueError(f"{told}: write a folder, --out {out.stem}/, or --out {out.stem}.npz")
    return form, out


def thinned(states: Iterator[State]) -> torch.Tensor:
    """At most 41 states of a batch, evenly by i, the first and the last among them, (B, frames, C, H, W) on the CPU."""
    kept: list[torch.Tensor] = []
    marks: list[int] = []  # one state is kept as soon as i is down at the next
    for state in states:
        marks = marks if kept else [round(k * state.i / FRAMES) for k in range(FRAMES + 1)]
        taken = bool(marks) and state.i <= marks[-1]
        if taken:
            kept.append(state.x_t.cpu())
            marks = [mark for mark in marks if mark < state.i]
    return torch.stack(kept if taken else [*kept, state.x_t.cpu()], 1)


def _write(form: str, out: Path, images: torch.Tensor, labels: torch.Tensor | None) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if form == "folder":
        out.mkdir(exist_ok=True)
        width = max(3, len(str(len(images) - 1)))
        for i, picture in enumerate(pictures.separate(images)):
            write_whole(out / f"{i:0{width}}.png", picture)
    elif form == "npz":
        write_whole(out, pictures.npz(images, labels))
    elif form == "gif":
        write_whole(out, pictures.gif(list(images.transpose(0, 1))))
    else:
        picture = pictures.grid(images) if form == "png" else pictures.animation(list(images.transpose(0, 1)))
        write_whole(out, picture)


def _to_enlarge(
    trained: pretrained.PretrainedDiffusion, options: argparse.Namespace, sampling: Sampling
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The small images for a network that enlarges images, and their labels if it takes them."""
    from ddpm_lesson.experiments.evaluation import some

    if options.label is not None:
        raise ValueError(f"this network enlarges images, whose classes are what they are: got --label {options.label}")
    root = options.root or root_of(options.weights)
    images = load_images(trained.recipe, root, train=trained.recipe.data == "folder")  # which holds none back
    x_0, y = images[some(images, options.n, sampling.seed)]
    return made_small(trained.recipe, x_0), y.to(trained.device) if trained.recipe.conditional else None
