"""The command sample: draw images from a network into a file."""

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ddpm_lesson.cli.options import add_drawing, command_of, loaded, sampling_of
from ddpm_lesson.cli.pictures import animation, grid
from ddpm_lesson.experiments import pretrained
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.conditions import made_small
from ddpm_lesson.experiments.sampling import Sampling
from ddpm_lesson.samplers import last


def add(commands: Any) -> None:
    words = "A network that enlarges images is given images of its data that were held out, made small."
    command = command_of(commands, sample, "Draw images from a network.", words)
    add_drawing(command, "64", Sampling())
    command.set_defaults(n=64)
    command.add_argument("--label", metavar="CLASS", help="a class, by name; default: every class in turn")
    words = "images to enlarge: where torchvision's files, or the images of a folder, lie"
    command.add_argument("--root", metavar="FOLDER", help=words)
    command.add_argument("--out", default="samples.png", metavar="FILE.png", help="default: samples.png")
    command.add_argument("--animate", action="store_true", help="an animated PNG: the images come out of the noise")


def sample(options: argparse.Namespace) -> int:
    """Draw images and write them as a PNG grid, or as an animated PNG that shows them coming out of the noise."""
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {out}")
    trained = loaded(options.weights, options.device, pretrained.PretrainedDiffusion)
    sampling = sampling_of(options, Sampling())
    if trained.recipe.condition == "low_res":
        cond, labels = _to_enlarge(trained, options, sampling)
    else:
        cond, labels = None, trained.labels(options.n, options.label)
    states = tqdm(trained.states(options.n, sampling, y=labels, cond=cond), unit=" steps")
    picture = animation([state.x_t.cpu() for state in states]) if options.animate else grid(last(states).cpu())
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, picture)
    print(f"{out}: {options.n} images, {sampling}")
    return 0


def _to_enlarge(
    trained: pretrained.PretrainedDiffusion, options: argparse.Namespace, sampling: Sampling
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The small images for a network that enlarges images, and their labels if it takes them."""
    from ddpm_lesson.experiments.evaluation import some

    if options.label is not None:
        raise ValueError(f"this network enlarges images, whose classes are what they are: got --label {options.label}")
    images = load_images(trained.recipe, options.root, train=trained.recipe.data == "folder")  # which holds none back
    x_0, y = images[some(images, options.n, sampling.seed)]
    return made_small(trained.recipe, x_0), y.to(trained.device) if trained.recipe.conditional else None
