"""What makes training on MNIST efficient: recipes that had equal processor time, on one thread.

    python data/records/mnist_training.py [--root FOLDER] [--seconds N] [NAME ...]

Writes mnist_training.json beside this file; rows that are there already stay, unless named. Each row is a recipe that
differs in little from the first. How many steps fit into the time is found out by a few steps made before. After the
training 400 images are drawn with 25 steps (DDIM, eta = 1, which asks for no learned variance) and scored.

These are short runs: they tell what learns fast, not what is best in the end. Two seeds of one recipe show how far a
difference has to reach before it means anything; the intervals are for other draws from the same network.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ddpm_lesson import Sampling, load_pretrained
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.evaluation import Reference, evaluate, reference_of
from ddpm_lesson.experiments.pretrained import about_shipped
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.networks.classifier import Classifier

FILE = Path(__file__).with_suffix(".json")
BASE = {
    "data": "mnist",
    "conditional": True,
    "schedule": "cosine",
    "loss": "hybrid",
    "var_type": "learned_range",
    "ch": 24,
    "ch_mult": (1, 2, 4),
    "attn": (2,),
    "lr": 1e-3,
    "warmup": 20,
    "rate": "cosine",
    "ema_decay": 0.995,
}
CHANGES: dict[str, dict] = {
    "first": {},
    "first, seed 1": {"seed": 1},
    "rate 2e-3": {"lr": 2e-3},
    "linear schedule": {"schedule": "linear"},
    "L_simple alone": {"loss": "simple", "var_type": "fixedlarge"},
    "ch 32, mult 1,2,2": {"ch": 32, "ch_mult": (1, 2, 2)},
    "batches of 32": {"batch_size": 32},
    "ch 16, batches of 32": {"ch": 16, "batch_size": 32},
}
DRAWN, SAMPLING = 400, Sampling("ddim", "trailing25", eta=1.0)
SHOWN = ("Frechet distance", "Confidence above 0.9", "Conditional accuracy")
REFERENCE = 10_000  # of the training images


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on MNIST in several ways, for equal times.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*CHANGES, []], help=f"of {', '.join(CHANGES)}")
    parser.add_argument("--root", help="folder of torchvision's files; default: DDPM_LESSON_DATA")
    parser.add_argument("--seconds", type=float, default=240, help="of each training (240)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    told = {
        "made_by": f"python data/records/mnist_training.py --seconds {options.seconds:g}",
        "torch": torch.__version__.split("+")[0],
        "base": BASE,
        "drawn": {"n": DRAWN, "sampling": asdict(SAMPLING)},
        "reference": REFERENCE,
        "classifier_sha256": about_shipped("mnist_classifier")["made"]["sha256"],
    }
    told = json.loads(json.dumps(told))
    record = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {**told, "rows": {}}
    if other := [key for key in told if record[key] != told[key]]:
        raise SystemExit(f"{FILE} was made otherwise ({', '.join(other)}): move it, or give the same options")
    images = load_images(Recipe(data="mnist", root=options.root))
    classifier = load_pretrained("mnist_classifier").model
    reference = reference_of(images[:REFERENCE][0], classifier)
    for name in options.names or [name for name in CHANGES if name not in record["rows"]]:
        record["rows"][name] = row(name, options.root, images, options.seconds, classifier, reference)
        rows = {name: record["rows"][name] for name in CHANGES if name in record["rows"]}
        write_whole(FILE, (json.dumps({**told, "rows": rows}, indent=1) + "\n").encode())


def row(name: str, root: str | None, images, seconds: float, classifier: Classifier, reference: Reference) -> dict:
    """Train for so long, draw, and score."""
    recipe = Recipe(**BASE | CHANGES[name] | {"root": root})
    with tempfile.TemporaryDirectory() as folder:
        tried = Run(replace(recipe, steps=16), Path(folder) / "tried", images)
        per_step = statistics.median(timed(tried, "a few steps")[-10:])
        run = Run(replace(recipe, steps=int(seconds / per_step)), Path(folder) / "run", images)
        taken = sum(timed(run, name))
        trained = run.result()
        labels = trained.labels(DRAWN)
        samples = trained.sample(DRAWN, SAMPLING, y=labels)
    found = evaluate(samples, reference, classifier, "mnist_classifier", labels=labels, seed=SAMPLING.seed)
    scores = {key: [float(f"{value:.4g}") for value in found[key][1:4]] for key in SHOWN}
    return {
        "change": CHANGES[name],
        "steps": run.step,
        "seconds": round(taken, 1),
        "images_per_second": round(run.step * recipe.batch_size / taken, 1),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "scores": {key: dict(zip(("value", "low", "high"), score, strict=True)) for key, score in scores.items()},
    }


def timed(run: Run, name: str) -> list[float]:
    """Seconds of the processor for each step that is left of a run: other work on the machine does not count."""
    seconds, begun = [], time.process_time()
    for _ in tqdm(run.steps(), name, run.recipe.steps):
        seconds.append(time.process_time() - begun)
        begun = time.process_time()
    return seconds


if __name__ == "__main__":
    main()
