"""The command train: carry out a recipe in a folder, or go on with the run that lies there."""

import argparse
import dataclasses
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ddpm_lesson.cli.options import (
    add_field,
    check_root,
    command_of,
    device_named,
    file_of,
    given_fields,
    name,
    positive,
)
from ddpm_lesson.cli.previews import draw_preview, picture_of, preview
from ddpm_lesson.cli.stopping import Stop, stopping
from ddpm_lesson.data import bundled
from ddpm_lesson.experiments import distributed, pretrained, saved
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.locks import Lock
from ddpm_lesson.experiments.recipes import PRESETS, Recipe
from ddpm_lesson.experiments.runs import Run


def add(commands: Any) -> None:
    words = "Train a network, or go on with a run that was stopped: the same command again goes on."
    command = command_of(commands, train, words)
    command.epilog = "Several devices: torchrun --nproc-per-node=N -m ddpm_lesson train ..., see docs/scale.md."
    command.add_argument("--preset", choices=PRESETS, help="a recipe to start from; the options below change it")
    command.add_argument(
        "--recipe", type=name, metavar="FILE", help="a recipe.json to start from, such as a run has saved"
    )
    words = "begin with the averaged weights of a network that ships, of a file, or of the folder of a run; its recipe"
    words += " is used if no other is named"
    command.add_argument("--from", dest="source", type=name, metavar="NAME", help=words)
    words = "folder of the run [runs/ and the preset's name, runs/own without one]"
    command.add_argument("--out", type=name, metavar="FOLDER", help=words)
    for what in ("save", "preview"):
        command.add_argument(
            f"--{what}-every", type=positive, default=500, metavar="N", help=f"steps between {what}s [500]"
        )
    words = "also write a log with pictures for TensorBoard, into the folder tensorboard of the run"
    command.add_argument("--tensorboard", action="store_true", help=words)
    fields = command.add_argument_group("the recipe", "Defaults in brackets are those without a preset.")
    for field in dataclasses.fields(Recipe):
        add_field(fields, field, field.default)


def train(options: argparse.Namespace) -> int:
    """Carry out a recipe in a folder, or go on with the one that lies there."""
    options.out = Path(options.out or f"runs/{options.preset or 'own'}").expanduser()
    locks: list[Lock] = []
    try:
        recipe, options.source, done = distributed.first(lambda: _begin(options, locks))
        return 0 if done else _carry_out(recipe, options)
    finally:
        for lock in locks:
            lock.leave()


def _begin(options: argparse.Namespace, locks: list[Lock]) -> tuple[Recipe, Path | None, bool]:
    """What to carry out, from which weights, and whether it was already. If not, this process works there alone."""
    options.source = _weights_named(options.source)
    recipe = _recipe(options)
    _check_places(recipe, options.out)
    before = saved.load_saved(options.out)  # other files are refused, and nothing comes beside them
    if before and before.step >= recipe.steps:
        _finished(before, recipe, options)
        return recipe, options.source, True
    locks.append(Lock(options.out))
    return recipe, options.source, False


def _finished(before: saved.Saved, recipe: Recipe, options: argparse.Namespace) -> None:
    """Nothing is left to do, but for what is missing of the results, which the state holds."""
    out = options.out
    saved.check_recipe(before, recipe, out)
    saved.check_origin(before, options.source, out)
    notes = [*saved.log_note(out, before.step)]
    if not all(path.exists() for path in (out / saved.WEIGHTS, picture_of(out, before.step))):
        lock = Lock(out)
        try:
            notes += saved.mend_weights(before, out)
            if not picture_of(out, before.step).exists():
                draw_preview(before.result(), load_images(recipe) if recipe.condition == "low_res" else None, out)
                notes.append(f"{picture_of(out, before.step)} was missing: drawn anew")
        finally:
            lock.release()
    else:
        saved.mend_weights(before, out)  # it refuses those of another run
    _note(notes)
    longer = f"--from {out} --out FOLDER begins another run with its weights" if recipe.rate == "cosine" else "--steps"
    told = f"{out / saved.WEIGHTS} holds the averaged network after {before.step} steps"
    print(f"Already finished: {told}; more steps: {longer}.")


def _carry_out(recipe: Recipe, options: argparse.Namespace) -> int:
    quiet: bool = options.quiet
    writer = distributed.first(_tensorboard) if options.tensorboard else None
    device = distributed.each(lambda: device_named(options.device))
    images = distributed.in_turn(lambda: load_images(recipe))
    run = Run(recipe, options.out, images, device=device, source=options.source)
    _note(run.notes)
    if not quiet:
        print(_summary(run, options.source), file=sys.stderr)
    distributed.in_turn(images.prepare)  # before Ctrl-C is taken for a wish to stop after the next step
    board = writer and not distributed.rank() and writer(str(run.folder / "tensorboard"), purge_step=run.step + 1)
    try:
        return _steps(run, options, board, quiet)
    except distributed.Lost as error:
        kept = f"The save of step {run.saved}" if run.saved else "The start"
        told = f"{error}. {kept} is kept in {run.folder}: the same command goes on, with as many ranks as you like"
        raise distributed.Lost(told) from error
    except FloatingPointError as error:
        kept = f"The save of step {run.saved} is kept; with other options --from {run.folder} begins with its weights"
        again = f"{kept} in another folder" if run.saved else "Nothing was saved: a corrected command just begins"
        raise FloatingPointError(f"{error}. {again}") from error
    finally:
        run.close()


def _steps(run: Run, options: argparse.Namespace, board: Any, quiet: bool) -> int:
    """Make the steps that are left. Returns the exit status."""
    with stopping() as stop:
        _make(run, options, board, quiet, stop)
        if run.step < run.recipe.steps:
            told = f"Stopped after step {run.step} of {run.recipe.steps}. The same command goes on from there."
            print(told, flush=True)  # inside, where it is no error that nobody reads it
            return stop.status
    print(f"Done: {run.folder / saved.WEIGHTS} holds the averaged network after {run.step} steps.")
    return 0


def _make(run: Run, options: argparse.Namespace, board: Any, quiet: bool, stop: Stop) -> None:
    """Make the steps that are left, or those until `stop` is asked for, and save them."""
    recipe, begun, per_step = run.recipe, run.step, run.recipe.batch_size * run.recipe.accumulate
    total = recipe.steps * per_step
    bar = tqdm(total=total, initial=begun * per_step, unit=" images", unit_scale=True, disable=quiet)
    with bar, board or nullcontext():
        lost = begun and begun % options.preview_every == 0 and not picture_of(run.folder, begun).exists()
        if distributed.first(lambda: lost):
            _preview(run, board)  # by a kill right after the save
        for step in run.steps():
            bar.set_postfix(step=step.step, loss=f"{step.loss:.4f}", refresh=False)
            bar.update(per_step)
            if board:
                board.add_scalar("loss", step.loss, step.step)
                board.add_scalar("grad_norm", step.grad_norm, step.step)
            if any(distributed.everyones(lambda: stop.status, soon=True)) or step.step == recipe.steps:
                break
            if step.step % options.save_every == 0:
                run.save()
            if step.step % options.preview_every == 0:
                _preview(run, board)
        if run.step > begun:
            run.save()
            _preview(run, board)


def _recipe(options: argparse.Namespace) -> Recipe:
    """What the options ask for. A run that lies in the folder is gone on with."""
    if options.preset and options.recipe:
        raise ValueError("give --preset or --recipe, not both")
    given = given_fields(options, Recipe)
    if given.get("root"):
        given["root"] = str(Path(given["root"]).expanduser().absolute())  # as later commands, from elsewhere, find it
    if options.preset:
        return dataclasses.replace(PRESETS[options.preset], **given)
    if options.recipe:
        return dataclasses.replace(Recipe.from_file(Path(options.recipe).expanduser()), **given)
    if there := saved.recipe_of(options.out):
        return dataclasses.replace(there, **given)
    if options.source:
        return dataclasses.replace(_recipe_of_weights(options.source), **given)
    if given:
        return Recipe(**given)
    ways = f"--preset {' | '.join(PRESETS)}, --recipe FILE, --from NAME, or options"
    raise ValueError(f"say what to train: {ways}; see --help")


def _weights_named(weights: str | None) -> Path | None:
    """The file of weights that ship, that lie in the folder of a run, or of this name."""
    if weights is None:
        return None
    if path := file_of(weights):
        return path
    pretrained.load_pretrained(weights)
    return bundled(f"weights/{weights}.safetensors")


def _recipe_of_weights(path: Path) -> Recipe:
    """The recipe that weights came from; of those of a run the place of the images is known, too."""
    trained = pretrained.load_weights(path)
    if not isinstance(trained, pretrained.PretrainedDiffusion):
        raise ValueError(f"--from must name a diffusion model, got {path}, a {type(trained).__name__}")
    beside = saved.recipe_of(path.parent) if (path.parent / saved.STATE).exists() else None
    return dataclasses.replace(trained.recipe, root=beside.root if beside else None)


def _check_places(recipe: Recipe, out: Path) -> None:
    """The pictures of a run must not become images of its folder, nor a class of their own."""
    check_root(recipe.root, recipe.data)
    if recipe.data != "folder" or recipe.root is None:
        return
    root, place = Path(recipe.root).expanduser().resolve(), out.resolve()
    if root == place or root in place.parents or place in root.parents:
        told = f"--root {recipe.root} and --out {out} must not lie inside of each other"
        raise ValueError(f"{told}: the run's pictures would become images to learn from")


def _note(notes: list[str]) -> None:
    for note in notes:
        print(f"ddpm_lesson: {note}", file=sys.stderr)


def _summary(run: Run, source: Path | None) -> str:
    """What is about to happen, in a few lines."""
    recipe, device = run.recipe, run.process.betas.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    sides, classes = " x ".join(map(str, run.images.shape)), len(run.images.classes)
    parameters = sum(p.numel() for p in run.model.parameters())
    per_step = f"{recipe.batch_size} images" + (f" x {recipe.accumulate} batches" if recipe.accumulate > 1 else "")
    begun = f"goes on after step {run.step} of {recipe.steps}" if run.step else f"begins, {recipe.steps} steps"
    kinds = f"{classes} {'class' if classes == 1 else 'classes'}"
    if classes > 1 and not recipe.conditional:
        kinds += ", which the network is not told (--conditional tells it)"
    lines = [
        f"{recipe.data}: {len(run.images)} images of {sides}, {kinds}",
        f"network: {parameters:,} parameters on {name}; {per_step} a step, learning rate {recipe.lr:g}",
        f"{run.folder}: {begun}" + (f", from {source}" if source and not run.step else ""),
    ]
    if 2 * recipe.warmup > recipe.steps:
        told = f"the learning rate rises over {recipe.warmup} steps, of the run's {recipe.steps}"
        lines.append(f"hint: {told}, and stays below {recipe.lr:g}: lower --warmup")
    found = run.images.found
    return "\n".join([str(found), *lines] if found else lines)


def _preview(run: Run, board: Any) -> None:
    """A picture of what the network draws, by one of the ranks."""

    def draw() -> None:
        picture = preview(run)
        if board:
            board.add_image("samples", picture, run.step, dataformats="HWC")

    distributed.first(draw)


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("--tensorboard needs a package that is missing: pip install tensorboard") from error
    return SummaryWriter
