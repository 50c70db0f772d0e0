"""What lies in the folder of a run, read and compared: the state, which alone decides, and what stands beside it.

state.safetensors is there from the first moment, and carries the whole recipe and what its images and labels were.
recipe.json is for people. Whatever does not fit together is refused with what is to be done, and never repaired by
beginning anew: that would lose what was trained.
"""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_lesson.data import Images
from ddpm_lesson.experiments import checkpoints
from ddpm_lesson.experiments.build import make_network, make_process
from ddpm_lesson.experiments.checkpoints import CheckpointError
from ddpm_lesson.experiments.locks import LOCK, PROCESS, check_free
from ddpm_lesson.experiments.logs import read_log
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion, load_weights
from ddpm_lesson.experiments.recipes import Recipe

RECIPE, STATE, WEIGHTS, LOG = "recipe.json", "state.safetensors", "weights.safetensors", "log.csv"
NOTHING = (LOCK, PROCESS, RECIPE)  # a folder of these, and of what was left half written, holds no run yet
BOUND = ("images", "labels", "classes", "shape", "levels")


class Saved(NamedTuple):
    """What a state says.

    recipe: with root left out. step: how many steps were made. updates: of the average. bound: what the images were.
    origin: None, or the checksum of the weights that the run began from. tensors: by "part/name". path: of the file.
    """

    recipe: Recipe
    step: int
    updates: int
    bound: dict[str, Any]
    origin: str | None
    tensors: dict[str, Tensor]
    path: Path

    def result(self) -> PretrainedDiffusion:
        """The averaged network of the state, on the CPU. Raises CheckpointError if its tensors are of another one."""
        shape, classes = tuple(self.bound["shape"]), tuple(self.bound["classes"])
        model = make_network(self.recipe, shape[0], len(classes)).to(memory_format=torch.channels_last)
        checkpoints.fill(model, checkpoints.group(self.tensors, "ema"), self.path)
        model.eval().requires_grad_(False)
        return PretrainedDiffusion(
            model, make_process(self.recipe), self.recipe, self.step, shape, classes, self.bound["levels"]
        )


def bound_to(images: Images) -> dict[str, Any]:
    """What a state keeps of the images, to know them again: `bound` of `Saved`."""
    labels = hashlib.sha256(images.labels.contiguous().numpy().data).hexdigest()
    told = (images.fingerprint(), labels, list(images.classes), list(images.shape), images.levels)
    return dict(zip(BOUND, told, strict=True))


def load_saved(folder: Path) -> Saved | None:
    """The state that lies in a folder; None if nothing was saved there.

    Raises CheckpointError if the state is missing beside weights or a log, damaged, of something else, or of an older
    form, Busy if another process is about to save its first, and ValueError if other files lie there and no run.
    """
    path = folder / STATE
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()  # before the state: it is the older
    if path.exists():
        tensors, about = checkpoints.load_tensors(path)
        if about.keys() == {"step", "updates", "images"}:
            told = f"{path} is of an older version, in which a state did not hold its recipe"
            raise CheckpointError(f"{told}: begin anew from its weights with train --from {folder} --out ANOTHER")
        try:
            bound = {name: about.pop(name) for name in BOUND}
            numbers = (about.pop("step"), about.pop("updates"))
            recipe, origin = Recipe.from_values(about.pop("recipe")), about.pop("origin")
            classes = all(isinstance(name, str) for name in bound["classes"])
            sides = all(type(side) is int and 0 < side < 2**16 for side in bound["shape"])
            counts = all(type(number) is int and number >= 0 for number in (*numbers, bound["levels"]))
            if about or not (classes and sides and counts and len(bound["shape"]) == 3):
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not the state of a run: it may be weights only") from error
        return Saved(recipe, *numbers, bound, origin, tensors, path)
    names = {name for name in names if not (name[0] == "." and name.endswith(".partial"))}
    if names - set(NOTHING):
        check_free(folder)
    if RECIPE in names or names <= set(NOTHING):
        if there := sorted(names & {WEIGHTS, LOG}):
            told = f"{path}, without which the run cannot go on, is missing beside {' and '.join(there)}"
            ways = f"train --from {folder} --out ANOTHER goes on with its weights" if WEIGHTS in there else ""
            raise CheckpointError(f"{told}: {ways + '; or ' if ways else ''}delete {folder} and begin anew")
        return None
    raise ValueError(f"{folder} holds other files and no run: name an empty or a new folder")


def recipe_of(folder: Path) -> Recipe | None:
    """The recipe of the run in a folder, from recipe.json or, where that is missing, from the state; None if neither.

    Raises ValueError that names recipe.json if that is no recipe.
    """
    path = folder / RECIPE
    if not path.exists():
        saved = load_saved(folder) if (folder / STATE).exists() else None
        return saved.recipe if saved else None
    try:
        return Recipe.from_values(checkpoints.read_json(checkpoints.read_file(path, "a recipe"), "a recipe"))
    except (ValueError, OSError) as error:
        way = ". Delete it: the state holds the recipe, too" if (folder / STATE).exists() else ""
        raise ValueError(f"{path} cannot be used: {getattr(error, 'strerror', error)}{way}") from error


def check_recipe(saved: Saved, now: Recipe, folder: Path) -> None:
    """Raise ValueError if recipe.json was edited, or if `now` is not the recipe that the state began with.

    `root` may be another: images may be moved. `steps` may grow where the rate does not fall towards the last one.
    """
    written = recipe_of(folder)
    if written is not None and (edited := _differences(saved.recipe, written)):
        told = ", ".join(f"{name} = {new} there, {old} in the state" for name, old, new in edited)
        raise ValueError(f"{folder / RECIPE} was edited ({told}), but the state decides: put it back, or delete it")
    if changed := _differences(saved.recipe, now):
        told = ", ".join(f"{name} = {old}, now {new}" for name, old, new in changed)
        raise ValueError(f"{folder} holds a run of another recipe ({told}): name another folder, or the same recipe")


def _differences(before: Recipe, now: Recipe) -> list[tuple[str, Any, Any]]:
    free = {"root", *(["steps"] if now.rate == "constant" and now.steps >= before.steps else [])}
    new = asdict(now)
    return [(name, v, new[name]) for name, v in asdict(before).items() if v != new[name] and name not in free]


def check_images(saved: Saved, bound: dict[str, Any], folder: Path) -> None:
    """Raise ValueError, saying what differs, if these are not the images and labels that the run began with."""
    if bound == saved.bound:
        return
    old, new = (", ".join(each["classes"][:9]) for each in (saved.bound, bound))
    if bound["classes"] != saved.bound["classes"]:
        detail = f"classes {old}, now {new}"
    else:
        detail = "other labels" if bound["labels"] != saved.bound["labels"] else "other pixels, files, or order"
    told = f"the images are not those that the run in {folder} began with ({detail})"
    raise ValueError(f"{told}: name another folder")


def check_origin(saved: Saved, source: Path | None, folder: Path) -> None:
    """Raise ValueError if the run did not begin from the weights in the file `source`; None asks nothing."""
    if source is not None and checkpoints.sha256(source) != saved.origin:
        expected = "other weights" if saved.origin else "no weights"
        raise ValueError(f"the run in {folder} began from {expected}: leave out --from to go on with it")


def log_note(folder: Path, step: int) -> list[str]:
    """What to say if the log misses steps. Raises ValueError if it is damaged."""
    rows = len(read_log(folder / LOG, step))
    return [] if rows == step else [f"{folder / LOG} holds {rows} of {step} steps: the others are lost"]


def mend_weights(saved: Saved, folder: Path) -> list[str]:
    """Write weights.safetensors from the state if it is missing. Returns what to say of it; raises as below."""
    if check_weights(saved, folder):
        saved.result().save(folder / WEIGHTS)
        return [f"{folder / WEIGHTS} was missing: written anew from the state"]
    return []


def check_weights(saved: Saved, folder: Path) -> list[str]:
    """What to say if weights.safetensors is missing; the state holds all of it.

    Raises CheckpointError if there are others than this run's: damaged, of another recipe, older than the state. Newer
    ones are right: a run that is killed while it saves has written them, and not yet its state.
    """
    path = folder / WEIGHTS
    if not path.exists():
        return [f"{path} is missing: the same train command writes it anew from the state"]
    way = f"move {path} away, and the same command writes it anew from the state"
    try:
        held = load_weights(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or {way}") from error
    if not isinstance(held, PretrainedDiffusion) or _differences(saved.recipe, held.recipe):
        raise CheckpointError(f"{path} is of another run than the state beside it: {way}")
    if held.step < saved.step:
        raise CheckpointError(f"{path} is of step {held.step}, the state beside it of step {saved.step}: {way}")
    if held.step == saved.step:
        average, found = checkpoints.group(saved.tensors, "ema"), held.model.state_dict()
        if average.keys() != found.keys() or any(not torch.equal(average[name], found[name]) for name in found):
            raise CheckpointError(f"{path} is not the average in the state beside it: {way}")
    return []


def without_root(recipe: Recipe) -> Recipe:
    """The recipe without the place of the images on this machine, as a state and weights hold it."""
    return replace(recipe, root=None)
