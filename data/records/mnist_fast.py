"""MNIST from nothing in five minutes on two cores: how good the digits are, and what each idea gave.

    python data/records/mnist_fast.py [--root FOLDER] [--picture FILE] [ROW ...]
    python data/records/mnist_fast.py --speedrun [--root FOLDER] [--seed 0] [--out runs/speedrun] [--picture FILE]

Writes mnist_fast.json beside this file; rows that are there already stay, unless named. Two kinds of rows:
"run 0" to "run 2": the preset mnist_fast with this seed, all threads, by the wall clock; after one, two and five
minutes 500 digits are drawn with 25 steps, and 500 with guidance, and scored. "NAME, seed 0" to "NAME, seed 2": the
preset with one idea taken out or put in, on one thread, for equal times of the processor.
The images are the 9,000 that ship, or MNIST's 60,000 from --root or DDPM_LESSON_DATA where they are at hand.
--picture draws the digits of "run 0", as the README shows them. --speedrun (`make speedrun`) makes one run and keeps
its folder and picture.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_lesson import Sampling, load_pretrained
from ddpm_lesson.data import DataNotFoundError, Images, mnist, mnist_10k
from ddpm_lesson.experiments import metrics
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.features import load_moments, seen
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion, about_shipped
from ddpm_lesson.experiments.recipes import PRESETS
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.plots import image_grid

FILE = Path(__file__).with_suffix(".json")
PRESET = PRESETS["mnist_fast"]
SAMPLING = Sampling("ddim", "trailing25", eta=1.0)
GUIDED = replace(SAMPLING, guidance=1.5)
DRAWN = 500
MARKS = (60, 120, 300)  # seconds
SEEDS = (0, 1, 2)
IDEA_SECONDS = 200.0  # after 100 the preset and patches of 2 cannot be told apart
IDEAS: dict[str, dict] = {
    "the preset": {},
    "eps, not v": {"mean_type": "epsilon"},
    "patches of 2": {"patch_size": 2, "ch": 32, "ch_mult": (1, 2), "attn": (1,)},
    "patches of 4": {"patch_size": 4, "ch": 64, "ch_mult": (1,), "attn": (0,)},
    "rate 1e-3": {"lr": 1e-3},
    "batches of 64": {"batch_size": 64},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="MNIST in five minutes.")
    parser.add_argument("names", nargs="*", metavar="ROW", help="of the rows named above")
    parser.add_argument("--root", help="folder of torchvision's files")
    parser.add_argument("--speedrun", action="store_true", help="one run, whose folder and pictures are kept")
    parser.add_argument("--seed", type=int, default=0, help="of --speedrun (0)")
    parser.add_argument("--out", type=Path, default=Path("runs/speedrun"), help="folder of --speedrun, made anew")
    parser.add_argument("--picture", type=Path, help="of the digits (of --speedrun: digits.png in its folder)")
    options = parser.parse_args()
    images, names = at_hand(options.root), rows(options.picture)
    if unknown := [name for name in options.names if name not in names]:
        parser.error(f"there is no row {unknown[0]!r}, but {', '.join(names)}")
    if options.speedrun:
        shutil.rmtree(options.out, ignore_errors=True)
        speedrun(options.seed, images, options.out, options.picture or options.out / "digits.png")
        return
    bound = {
        "preset": asdict(PRESET),
        "sampling": asdict(SAMPLING),
        "guidance": GUIDED.guidance,
        "drawn": DRAWN,
        "classifier_sha256": about_shipped("mnist_classifier")["made"]["sha256"],
    }
    bound = json.loads(json.dumps(bound))
    record = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    held = record.get("rows", {}) if all(record.get(key) == value for key, value in bound.items()) else {}
    for name in options.names or [name for name in names if name not in held]:
        held[name] = {"torch": torch.__version__.split("+")[0], "images": len(images)} | names[name](images)
        told = {"made_by": "python data/records/mnist_fast.py", **bound}
        told["rows"] = {name: held[name] for name in names if name in held}
        write_whole(FILE, (json.dumps(told, indent=1) + "\n").encode())


def rows(picture: Path | None = None) -> dict[str, Callable[[Images], dict]]:
    """How each row is made, by name.  picture: of the first run."""
    pictures = dict.fromkeys(SEEDS) | {SEEDS[0]: picture}
    runs = {f"run {seed}": lambda images, seed=seed: speedrun(seed, images, None, pictures[seed]) for seed in SEEDS}
    ideas = {
        f"{name}, seed {seed}": lambda images, change=change, seed=seed: idea(change | {"seed": seed}, images)
        for seed in SEEDS
        for name, change in IDEAS.items()
    }
    return runs | ideas


def at_hand(root: str | None) -> Images:
    """MNIST's training images where they lie on this machine, else those that ship."""
    try:
        return mnist(root, download=False)
    except DataNotFoundError:
        return mnist_10k("train")


def speedrun(seed: int, images: Images, folder: Path | None, picture: Path | None) -> dict:
    """The row of one run, told and drawn.  folder: where to keep it."""
    figure, axes = plt.subplots(len(MARKS), layout="constrained", figsize=(7.5, 3.2))
    shown = iter(axes)

    def show(samples: Tensor, seconds: float) -> None:
        image_grid(samples[:40], ncols=20, ax=(ax := next(shown)))
        ax.set_title(f"after {seconds / 60:.0f} min", fontsize="medium")

    row = run(seed, images, folder, show)
    for mark, found in row["marks"].items():
        plain, guided = (each["Frechet distance"][0] for each in (found, found["guided"]))
        print(f"after {mark} s: Frechet distance {plain:.2f}, with guidance {guided:.2f}")
    if picture is not None:
        figure.savefig(picture, dpi=100)
        print(picture)
    return row


def run(seed: int, images: Images, folder: Path | None, show: Callable[[Tensor, float], None]) -> dict:
    """The preset with this seed, by the wall clock.  folder: where to keep it. show: is given the guided digits."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        made = Run(replace(PRESET, seed=seed), folder or Path(scratch) / "run", images)
        marks, marked, spent = list(MARKS), {}, 0.0
        begun = time.perf_counter()
        for step in tqdm(made.steps(), f"run {seed}", made.recipe.steps):
            seconds = time.perf_counter() - begun - spent
            if step.step == made.recipe.steps or (len(marks) > 1 and seconds >= marks[0]):
                drawing = time.perf_counter()
                found, guided = drawn(made.result()), drawn(made.result(), GUIDED)
                show(guided, seconds)
                found, guided = (scored(samples, made.result().labels(DRAWN)) for samples in (found, guided))
                mark = marks[-1] if step.step == made.recipe.steps else marks.pop(0)
                marked[str(mark)] = {"seconds": round(seconds, 1), "steps": step.step, **found, "guided": guided}
                spent += time.perf_counter() - drawing
        made.save()
        rate = made.step * made.recipe.batch_size / seconds
    return {"threads": threads, "cores": os.cpu_count(), "images_per_second": round(rate), "marks": marked}


def idea(change: dict, images: Images) -> dict:
    """The preset, changed, for `IDEA_SECONDS` of the processor on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = replace(PRESET, **change)
    with tempfile.TemporaryDirectory() as folder:
        tried = Run(replace(recipe, steps=24), Path(folder) / "tried", images)
        per_step = sum(timed(tried)[-12:]) / 12
        made = Run(replace(recipe, steps=max(1, int(IDEA_SECONDS / per_step))), Path(folder) / "run", images)
        taken = sum(timed(made))
        found = scored(drawn(made.result()), made.result().labels(DRAWN))
    torch.set_num_threads(threads)
    return {"change": change, "steps": made.step, "seconds": round(taken, 1), **found}


def timed(made: Run) -> list[float]:
    """Seconds of the processor for each step that is left of a run: other work on the machine does not count."""
    seconds, begun = [], time.process_time()
    for _ in made.steps():
        seconds.append(time.process_time() - begun)
        begun = time.process_time()
    return seconds


def drawn(trained: PretrainedDiffusion, sampling: Sampling = SAMPLING) -> Tensor:
    return trained.sample(DRAWN, sampling, y=trained.labels(DRAWN))


def scored(samples: Tensor, labels: Tensor | None = None) -> dict:
    """Frechet distance to MNIST's training images with its 95 % interval, and the share of labels that are seen."""
    classifier = load_pretrained("mnist_classifier").model
    features, logits, _ = seen(classifier, samples)
    gone = metrics.left_out(len(samples), torch.Generator().manual_seed(SAMPLING.seed))
    distances = [metrics.frechet_distance(features[~group], load_moments("mnist_classifier")) for group in gone]
    found = {"Frechet distance": rounded(metrics.jackknife_interval(distances))}
    if labels is not None:
        found["Conditional accuracy"] = rounded(metrics.conditional_accuracy(logits, labels))
    return found


def rounded(interval) -> list[float]:
    return [float(f"{value:.4g}") for value in interval]


if __name__ == "__main__":
    main()
