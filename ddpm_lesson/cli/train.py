"""The command train: carry out a recipe in a folder, or go on with the run that lies there."""

import argparse
import dataclasses
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ddpm_lesson.cli.options import add_field, command_of, device_named, given_fields, positive
from ddpm_lesson.cli.pictures import grid, png
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.conditions import made_small
from ddpm_lesson.experiments.recipes import PRESETS, Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.experiments.sampling import Sampling


def add(commands: Any) -> None:
    words = "Train a network, or go on with a run that was stopped: the same command again goes on."
    command = command_of(commands, train, words)
    command.add_argument("--preset", choices=PRESETS, help="a recipe to start from; the options below change it")
    command.add_argument("--recipe", metavar="FILE", help="a recipe.json to start from, such as a run has saved")
    command.add_argument("--out", metavar="FOLDER", help="folder of the run; default: runs/ and the preset's name")
    for what in ("save", "preview"):
        words = f"steps between {what}s (500)"
        command.add_argument(f"--{what}-every", type=positive, default=500, metavar="N", help=words)
    command.add_argument("--tensorboard", action="store_true", help="also write a log for TensorBoard")
    fields = command.add_argument_group("the recipe", "Defaults in brackets are those without a preset.")
    for field in dataclasses.fields(Recipe):
        add_field(fields, field, field.default)


def train(options: argparse.Namespace) -> int:
    """Carry out a recipe in a folder, or go on with the one that lies there."""
    recipe = _recipe(options)
    run = Run(recipe, options.out, load_images(recipe), device=device_named(options.device))
    board = _tensorboard(run.folder) if options.tensorboard else None
    begun, per_step = run.step, recipe.batch_size * recipe.accumulate
    bar = tqdm(total=recipe.steps * per_step, initial=begun * per_step, unit=" images", unit_scale=True)
    with _stopping() as stop, bar, board or nullcontext():
        for step in run.steps():
            bar.set_postfix(step=step.step, loss=f"{step.loss:.4f}", refresh=False)
            bar.update(per_step)
            if board:
                board.add_scalar("loss", step.loss, step.step)
                board.add_scalar("grad_norm", step.grad_norm, step.step)
            if stop.is_set() or step.step == recipe.steps:
                break
            if step.step % options.save_every == 0:
                run.save()
            if step.step % options.preview_every == 0:
                preview(run)
        if run.step > begun:
            run.save()
            preview(run)
    if run.step < recipe.steps:
        print(f"Stopped after step {run.step} of {recipe.steps}. The same command goes on from there.")
        return 130
    print(f"Done: {run.folder / 'weights.safetensors'} holds the averaged network after {run.step} steps.")
    return 0


def _recipe(options: argparse.Namespace) -> Recipe:
    """What the options ask for; sets options.out, too. A run that lies there is gone on with."""
    if options.preset and options.recipe:
        raise ValueError("give --preset or --recipe, not both")
    options.out = Path(options.out or f"runs/{options.preset or 'own'}")
    given = given_fields(options, Recipe)
    source = Path(options.recipe) if options.recipe else options.out / "recipe.json"
    if options.preset:
        recipe = PRESETS[options.preset]
    elif source.exists() or options.recipe:
        recipe = Recipe.from_file(source)
    elif given:
        return Recipe(**given)
    else:
        raise ValueError(f"say what to train: --preset {' | '.join(PRESETS)}, --recipe FILE, or options; see --help")
    return dataclasses.replace(recipe, **given)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C, or a request to terminate, sets; the second Ctrl-C stops at once."""
    stop = threading.Event()

    def ask(number, frame):
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def preview(run: Run) -> None:
    """A grid from the averaged network, and the loss so far, as pictures in the folder of the run."""
    from ddpm_lesson.plots import loss_curve

    trained, S = run.result(), min(run.process.T, 25)
    sampling = Sampling("ddim", f"trailing{S}", seed=run.recipe.seed)
    if run.recipe.condition == "low_res":
        x_0, labels = run.images[torch.arange(min(64, len(run.images)))]
        y = labels if run.recipe.conditional else None
        images = trained.sample(len(x_0), sampling, y=y, cond=made_small(run.recipe, x_0))
    else:
        images = trained.sample(64, sampling, y=trained.labels(64))
    (run.folder / "previews").mkdir(exist_ok=True)
    write_whole(run.folder / "previews" / f"{run.step:07}.png", grid(images))
    losses = run.losses()
    curve = png(lambda ax: loss_curve(losses, smooth=max(len(losses) // 50, 1), ax=ax), (6, 3.5))
    write_whole(run.folder / "loss.png", curve)


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("--tensorboard needs the extra: pip install 'ddpm_lesson[tensorboard]'") from error
    return SummaryWriter(str(folder / "tensorboard"))
