"""A run: a recipe carried out in a folder. Killed at any moment, it goes on as if it had not been.

In the folder lie recipe.json, log.csv (one row per step), state.safetensors, from which the run goes on, and
weights.safetensors, the averaged network with all that is needed to use it: its result.
All that is random in step k follows from the seed and k, so that no generator's state has to be saved.
"""

import csv
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lesson import training
from ddpm_lesson._tensors import Device, seed_of, seeded
from ddpm_lesson.batches import mirrored, ordered, without_labels
from ddpm_lesson.data import Images
from ddpm_lesson.experiments import checkpoints
from ddpm_lesson.experiments.build import make_loss, make_network, make_noise, make_process
from ddpm_lesson.experiments.conditions import of_training, small_shape
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion
from ddpm_lesson.experiments.recipes import OPTIMIZERS, TIMESTEPS, Recipe
from ddpm_lesson.training import EMA, Batch, TrainStep

LOG_FIELDS = ("step", "loss", "grad_norm", "seconds")


class Run:
    """A recipe and the state it has reached.

    folder: is made if missing; one that holds a run goes on with it. images: what the recipe learns from.
    device: where to compute. The network is in channels_last, in which convolutions are fastest.
    step: how many steps have been made. model, ema: the network and its average.
    Raises ValueError if the recipe cannot be carried out on these images, or if the folder holds a run of another
    recipe (`root` may change, and `steps` may grow), of other images, or other files.
    """

    def __init__(self, recipe: Recipe, folder: Path | str, images: Images, *, device: Device = "cpu"):
        self.recipe, self.folder, self.images = recipe, Path(folder), images
        self.fingerprint = images.fingerprint()
        self.process = make_process(recipe).to(device)
        channels, *self.sides = images.shape
        model = make_network(recipe, channels, len(images.classes))
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.ema = EMA(self.model, recipe.ema_decay)
        self.timesteps = TIMESTEPS[recipe.timesteps](recipe.T)
        self._parts = {"model": self.model, "ema": self.ema.model, "timesteps": self.timesteps}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[recipe.optimizer](trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.step = 0
        self._check()
        self._open()

    def steps(self) -> Iterator[TrainStep]:
        """Make the steps that are left, and yield each. The log is written step by step, the state by `save` only."""
        recipe, generator = self.recipe, torch.Generator()
        names = "steps lr warmup clip_norm accumulate mixed_precision compiled".split()
        made = training.train(
            self.model,
            self.process,
            self._batches(generator),
            make_loss(recipe, self.process, self.images.levels),
            start=self.step,
            optimizer=self.optimizer,
            rate=training.cosine(recipe.steps) if recipe.rate == "cosine" else training.constant,
            ema=self.ema,
            timesteps=self.timesteps,
            conditions=of_training(recipe, self.model, self.process, generator),
            noise=make_noise(recipe),
            generator=generator,
            **{name: getattr(recipe, name) for name in names},
        )
        device = next(self.model.parameters()).device
        with open(self.folder / "log.csv", "a", newline="", encoding="utf-8") as log:
            begun = time.perf_counter()
            while self.step < recipe.steps:
                generator.manual_seed(seed_of(recipe.seed, 2, self.step))
                with seeded(seed_of(recipe.seed, 1, self.step), device):  # for dropout
                    made_step = next(made)
                self.step = made_step.step
                seconds = f"{time.perf_counter() - begun:.3f}"
                csv.writer(log).writerow([self.step, made_step.loss, made_step.grad_norm, seconds])
                log.flush()
                yield made_step

    def save(self) -> None:
        """Write the averaged weights, then the state. Whenever this is cut off, the state is the old or the new one.

        Not the state first: a run cut off between the two at its last step would be done, and its weights old.
        """
        parts = {part: module.state_dict() for part, module in self._parts.items()}
        parts["optimizer"] = checkpoints.optimizer_tensors(self.optimizer)
        state = {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        about = {"step": self.step, "updates": self.ema.updates, "images": self.fingerprint}
        self.result().save(self.folder / "weights.safetensors")
        checkpoints.save_tensors(self.folder / "state.safetensors", state, about)

    def result(self) -> PretrainedDiffusion:
        """The averaged network as it stands, to draw from."""
        images, recipe = self.images, replace(self.recipe, root=None)  # a place on this machine
        about_images = (images.shape, images.classes, images.levels)
        return PretrainedDiffusion(self.ema.model, self.process, recipe, self.step, *about_images)

    def losses(self) -> Tensor:
        """The loss of every step so far, (step,), from the log."""
        with open(self.folder / "log.csv", newline="", encoding="utf-8") as log:
            return torch.tensor([float(row["loss"]) for row in csv.DictReader(log)])

    def _batches(self, generator: torch.Generator) -> Iterator[Batch]:
        recipe = self.recipe
        start = self.step * recipe.accumulate
        batches = ordered(self.images, batch_size=recipe.batch_size, seed=recipe.seed, start=start)
        batches = mirrored(batches, generator) if recipe.flip else batches
        if not recipe.conditional:
            return (x_0 for x_0, _ in batches)
        return without_labels(batches, recipe.label_dropout, len(self.images.classes), generator)

    def _check(self):
        """Before the folder is made, not in the first step: else it would hold a recipe that cannot be carried out."""
        if self.recipe.mean_type == "epsilon" and self.process.alphas_bar[-1] == 0:
            told = f"schedule {self.recipe.schedule} ends at alphas_bar = 0, where eps says nothing of x_0"
            raise ValueError(f"{told}: mean_type must be xstart, xprev or v, got epsilon")
        if any(side % self.model.divisor for side in self.sides):
            sides, levels = " x ".join(map(str, self.sides)), len(self.recipe.ch_mult)
            raise ValueError(f"ch_mult of {levels} levels needs sides divisible by {self.model.divisor}, got {sides}")
        small_shape(self.recipe, self.images.shape)
        if self.recipe.batch_size > len(self.images):
            raise ValueError(f"batch_size must lie in 1..{len(self.images)}, got {self.recipe.batch_size}")

    def _open(self):
        """Begin in an empty folder, or go on from the state that lies in it."""
        path = self.folder / "recipe.json"
        if path.exists():
            _check_same(Recipe.from_file(path), self.recipe, self.folder)
        elif self.folder.exists() and any(file.suffix != ".partial" for file in self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds other files and no run: name an empty or a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoints.remove_partials(self.folder)
        checkpoints.write_whole(path, self.recipe.to_json().encode())
        if (self.folder / "state.safetensors").exists():
            self._load(self.folder / "state.safetensors")
        _cut_log(self.folder / "log.csv", self.step)

    def _load(self, path):
        tensors, about = checkpoints.load_tensors(path)
        if about.keys() != {"step", "updates", "images"}:
            raise checkpoints.CheckpointError(f"{path} is not the state of a run: it may be weights only")
        if about["images"] != self.fingerprint:
            raise ValueError(f"the images are not those that the run in {self.folder} began with: name another folder")
        for part, module in self._parts.items():
            checkpoints.fill(module, checkpoints.group(tensors, part), path)
        checkpoints.fill_optimizer(self.optimizer, checkpoints.group(tensors, "optimizer"))
        self.step, self.ema.updates = about["step"], about["updates"]


def _check_same(before: Recipe, now: Recipe, folder: Path) -> None:
    may_change = {"root"}  # images may be moved
    if now.rate == "constant" and now.steps >= before.steps:
        may_change.add("steps")
    new = asdict(now)
    changed = [f"{k} = {v}, now {new[k]}" for k, v in asdict(before).items() if v != new[k] and k not in may_change]
    if changed:
        told = ", ".join(changed)
        raise ValueError(f"{folder} holds a run of another recipe ({told}): name another folder, or the same recipe")


def _cut_log(path: Path, step: int) -> None:
    """The log's rows up to `step`: what was logged after the state was saved will be made, and logged, again."""
    rows = path.read_bytes().splitlines(keepends=True)[1 : step + 1] if path.exists() else []
    head = ",".join(LOG_FIELDS).encode() + b"\r\n"
    checkpoints.write_whole(path, b"".join([head, *rows]))
