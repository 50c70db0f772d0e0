"""A run: a recipe carried out in a folder. Killed at any moment, it goes on as if it had not been.

In the folder lie recipe.json, log.csv (one row per step), state.safetensors, from which the run goes on and which
decides, and weights.safetensors, the averaged network with all that is needed to use it: its result.
All that is random in step k follows from the seed and k, so that no generator's state has to be saved.
Several ranks (`distributed`) share each batch. Rank 0 alone works in the folder, and tells the others what lies there.
"""

import json
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lesson import training
from ddpm_lesson._tensors import Device, Share, seed_of, seeded
from ddpm_lesson.batches import check_batch_size, mirrored, ordered, without_labels
from ddpm_lesson.data import Images
from ddpm_lesson.experiments import checkpoints, distributed, saved
from ddpm_lesson.experiments.build import make_loss, make_network, make_noise, make_process
from ddpm_lesson.experiments.conditions import of_training, small_shape
from ddpm_lesson.experiments.locks import Lock
from ddpm_lesson.experiments.logs import LOG_FIELDS, Row, cut_log, read_log, write_row
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion, load_weights
from ddpm_lesson.experiments.recipes import OPTIMIZERS, TIMESTEPS, Recipe
from ddpm_lesson.experiments.saved import LOG, RECIPE, STATE, WEIGHTS
from ddpm_lesson.experiments.sizes import check_batch
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.training import EMA, Batch, TrainStep

__all__ = ["LOG_FIELDS", "Run"]


class Run:
    """A recipe and the state it has reached.

    folder: is made if missing, and locked while the run exists; one that holds a run goes on with it. images: what the
    recipe learns from. device: where to compute. The network is in channels_last, in which convolutions are fastest.
    source: weights.safetensors of a network of the same architecture, whose weights a new run begins with.
    step: how many steps have been made. saved: how many of them are. seconds: that they took.
    model, ema: the network and its average. notes: what was found and mended. With several ranks the batch is still the
    recipe's: each takes its equal share, and the run is that of one process up to rounding and dropout.
    Raises ValueError if the recipe cannot be carried out on these images or by so many ranks, or if the folder holds a
    run of another recipe (`root` may change, and `steps` may grow), of other images or another source, one that is
    damaged, or other files; Busy, which is one, if another process works there. A run that saved no step yet begins
    with any recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path | str,
        images: Images,
        *,
        device: Device = "cpu",
        source: Path | str | None = None,
    ):
        self.recipe, self.folder, self.images = recipe, Path(folder), images
        self.source = None if source is None else Path(source)
        self.step, self.saved, self.seconds = 0, 0, 0.0
        self.notes: list[str] = []
        self.bound = distributed.each(partial(saved.bound_to, images))
        distributed.each(partial(self._check_ranks, distributed.first(lambda: self.bound)))
        distributed.each(partial(self._make, device))
        before = distributed.first(self._open)
        distributed.each(lambda: self._fill(before) if before is not None and distributed.rank() else None)

    def _make(self, device):
        """Process, network and what trains it, as they are at the start."""
        recipe, images = self.recipe, self.images
        self.process = make_process(recipe).to(device)
        channels, *self.sides = images.shape
        model = make_network(recipe, channels, len(images.classes))
        self.origin = None if self.source is None else _begin_with(model, self.source)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.ema = EMA(self.model, recipe.ema_decay)
        self.timesteps = TIMESTEPS[recipe.timesteps](recipe.T)
        self._parts = {"model": self.model, "ema": self.ema.model, "timesteps": self.timesteps}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[recipe.optimizer](trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self._check()

    def steps(self) -> Iterator[TrainStep]:
        """Make the steps that are left, and yield each. The log is written step by step, the state by `save` only."""
        recipe, rank = self.recipe, distributed.rank()
        rows = distributed.rows(recipe.batch_size)
        generator = Share(recipe.batch_size, rows, torch.Generator().get_state())
        names = "steps lr warmup clip_norm accumulate mixed_precision compiled".split()
        made = training.train(
            distributed.each(partial(distributed.parallel, self.model)),
            self.process,
            self._batches(generator, rows),
            make_loss(recipe, self.process, self.images.levels),
            start=self.step,
            optimizer=self.optimizer,
            rate=training.cosine(recipe.steps) if recipe.rate == "cosine" else training.constant,
            ema=self.ema,
            timesteps=distributed.Rows(self.timesteps),
            conditions=of_training(recipe, self.model, self.process, generator),
            noise=make_noise(recipe),
            generator=generator,
            **{name: getattr(recipe, name) for name in names},
        )
        device = next(self.model.parameters()).device
        before = self.seconds - time.perf_counter()
        with nullcontext() if rank else open(self.folder / LOG, "a", newline="", encoding="utf-8") as log:
            while self.step < recipe.steps:
                generator.manual_seed(seed_of(recipe.seed, 2, self.step))
                with seeded(seed_of(recipe.seed, 1, self.step, *([rank] if rank else [])), device):  # for dropout
                    parts = distributed.everyones(partial(_next, made), FloatingPointError, soon=True)
                made_step = distributed.joined(parts, recipe.accumulate)
                self.timesteps.update(made_step.t, made_step.losses)
                self.step, self.seconds = made_step.step, before + time.perf_counter()
                if log:
                    write_row(log, Row(self.step, made_step.loss, made_step.grad_norm, self.seconds))
                yield made_step

    def save(self) -> None:
        """Write the averaged weights, then the state. Whenever this is cut off, the state is the old or the new one.

        Not the state first: a run cut off between the two at its last step would be done, and its weights old.
        Raises FloatingPointError, and leaves what was saved before, if a weight is not finite. All ranks call
        this, and the first one writes.
        """
        distributed.first(self._write)
        self.saved = self.step

    def _write(self):
        parts = {part: module.state_dict() for part, module in self._parts.items()}
        parts["optimizer"] = checkpoints.optimizer_tensors(self.optimizer)
        state = {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        if bad := [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]:
            raise FloatingPointError(f"after step {self.step} not all numbers are finite in {checkpoints.some(bad)}")
        about = {"step": self.step, "updates": self.ema.updates, "origin": self.origin, **self.bound}
        about["recipe"] = asdict(saved.without_root(self.recipe))
        if self.step:
            with open(self.folder / LOG, "rb+") as log:  # its rows reach the disk before a state that counts them
                os.fsync(log.fileno())
            self.result().save(self.folder / WEIGHTS)
        checkpoints.save_tensors(self.folder / STATE, state, about)

    def close(self) -> None:
        """Give the folder's lock back; the run cannot go on. It happens by itself when the run is not needed more."""
        if not distributed.rank():
            self._release()

    def result(self) -> PretrainedDiffusion:
        """The averaged network as it stands, to draw from."""
        images, recipe = self.images, saved.without_root(self.recipe)
        about_images = (images.shape, images.classes, images.levels)
        return PretrainedDiffusion(self.ema.model, self.process, recipe, self.step, *about_images)

    def losses(self) -> Tensor:
        """The loss of every step so far, (step,), from the log."""
        return torch.tensor([row.loss for row in read_log(self.folder / LOG)])

    def _batches(self, generator: Share, rows: slice) -> Iterator[Batch]:
        recipe = self.recipe
        start = self.step * recipe.accumulate
        batches = ordered(self.images, batch_size=recipe.batch_size, seed=recipe.seed, start=start, rows=rows)
        batches = mirrored(batches, generator) if recipe.flip else batches
        if not recipe.conditional:
            return (x_0 for x_0, _ in batches)
        return without_labels(batches, recipe.label_dropout, len(self.images.classes), generator)

    def _check_ranks(self, bound):
        """That all ranks have the images of rank 0, and equal shares of them."""
        if self.bound != bound:
            raise ValueError("these are not the images that rank 0 has: every machine needs the same files")
        if self.recipe.batch_size % distributed.ranks():
            told = f"{distributed.ranks()} ranks share each batch equally: batch_size must be a multiple of that"
            raise ValueError(f"{told}, got {self.recipe.batch_size}")

    def _check(self):
        """Before the folder is made, not in the first step: else it would hold a recipe that cannot be carried out."""
        if self.recipe.mean_type == "epsilon" and self.process.alphas_bar[-1] == 0:
            told = f"schedule {self.recipe.schedule} ends at alphas_bar = 0, where eps says nothing of x_0"
            raise ValueError(f"{told}: mean_type must be xstart, xprev or v, got epsilon")
        if any(side % self.model.divisor for side in self.sides):
            sides, levels, patch = " x ".join(map(str, self.sides)), len(self.recipe.ch_mult), self.recipe.patch_size
            told = f"ch_mult of {levels} levels " + ("needs" if patch == 1 else f"and patch_size = {patch} need")
            raise ValueError(f"{told} sides divisible by {self.model.divisor}, got {sides}")
        small_shape(self.recipe, self.images.shape)
        share = replace(self.recipe, batch_size=self.recipe.batch_size // distributed.ranks())
        check_batch(share, self.sides, self.process.betas.device)
        check_batch_size(self.recipe.batch_size, len(self.images))

    def _open(self):
        """Begin in a folder where nothing was saved, or go on from the state that lies in it, which is returned."""
        if not (self.folder / STATE).exists():
            saved.load_saved(self.folder)  # other files are refused, and no lock comes beside them
        lock = Lock(self.folder)
        self._release = weakref.finalize(self, lock.release)
        try:
            checkpoints.remove_partials(self.folder)
            before = saved.load_saved(self.folder)
            before = before if before is not None and before.step > 0 else None
            if before is not None:
                self._go_on(before)
            text = self.recipe.to_json().encode()
            if not (self.folder / RECIPE).exists() or (self.folder / RECIPE).read_bytes() != text:
                checkpoints.write_whole(self.folder / RECIPE, text)
            if self.step == 0:
                self._write()
            rows = cut_log(self.folder / LOG, self.step)
        except BaseException:
            self._release()
            raise
        self.seconds = rows[-1].seconds if rows else 0.0
        return before

    def _go_on(self, before):
        saved.check_recipe(before, self.recipe, self.folder)
        saved.check_images(before, self.bound, self.folder)
        saved.check_origin(before, self.source, self.folder)
        self._fill(before)
        self.notes += saved.log_note(self.folder, self.step)
        self.notes += saved.mend_weights(before, self.folder)

    def _fill(self, before):
        """Take over what a state holds."""
        for part, module in self._parts.items():
            checkpoints.fill(module, checkpoints.group(before.tensors, part), before.path)
        checkpoints.fill_optimizer(self.optimizer, checkpoints.group(before.tensors, "optimizer"), before.path)
        self.step = self.saved = before.step
        self.ema.updates, self.origin = before.updates, before.origin


def _next(made: Iterator[TrainStep]) -> TrainStep:
    """The next step, as other ranks are told of it: t and losses on the CPU.

    A tensor of a GPU would be made anew on that GPU by every rank, which takes memory there for each of them.
    """
    step = next(made)
    return step if distributed.ranks() == 1 else step._replace(t=step.t.cpu(), losses=step.losses.cpu())


def _begin_with(model: UNet, source: Path) -> str:
    """Copy the weights of a file into a new network. Returns the file's checksum."""
    held = load_weights(source)
    if not isinstance(held, PretrainedDiffusion):
        raise ValueError(f"{source} must be a diffusion model to begin with, got a {type(held).__name__}")
    theirs, ours = (json.loads(json.dumps(each.options)) for each in (held.model, model))  # tuples as lists
    other = [name for name in ours if theirs[name] != ours[name] and name != "dropout"]
    if told := ", ".join(f"{name} = {theirs[name]}, here {ours[name]}" for name in other):
        raise ValueError(f"{source} is of another network ({told}): give the options that it was trained with")
    checkpoints.fill(model, held.model.state_dict(), source)
    return checkpoints.sha256(source)
