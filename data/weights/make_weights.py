"""Train the course's weights by the recipes beside this file, score them, and write both down: `make weights`.

    python data/weights/make_weights.py [--root FOLDER] [--runs FOLDER] [NAME ...]

NAME.json holds a recipe; this script adds the checksum of NAME.safetensors, which came out of it, the minutes, the
kind of machine and the scores, and writes README.md anew. Without names all those are made that have no weights yet.
A run that was stopped goes on where it stood. The same bits come out on one machine, build of PyTorch and number of
threads.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import time
from collections import deque
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tqdm.auto import tqdm

from ddpm_lesson.checkpoints import save_tensors, sha256, write_whole
from ddpm_lesson.classifiers import ClassifierRecipe, accuracy, fit
from ddpm_lesson.evaluation import anchor, draw, scores
from ddpm_lesson.plots import image_grid
from ddpm_lesson.pretrained import load_weights
from ddpm_lesson.recipes import Recipe, load_images
from ddpm_lesson.runs import Run

HERE = Path(__file__).parent
SAVE_EVERY = 200


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and score the course's weights.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*known(), []], help=f"of {', '.join(known())}")
    parser.add_argument("--root", help="folder of torchvision's files, for MNIST")
    parser.add_argument("--runs", default="runs", type=Path, help="folder of unfinished runs (runs)")
    options = parser.parse_args()
    names = options.names or [name for name in known() if not weights_of(name).exists()]
    for name in (name for name in known() if name in names):
        make(name, options.root, options.runs)
    write_whole(HERE / "README.md", readme(known()).encode())


def known() -> list[str]:
    """The names that have a recipe; classifiers first, for they score the others."""
    return sorted((path.stem for path in HERE.glob("*.json")), key=lambda name: (name.endswith("ddpm"), name))


def make(name: str, root: str | None, runs: Path) -> None:
    held = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    torch.set_num_threads(held["threads"])
    classifier = "classifier" in name
    recipe = (ClassifierRecipe if classifier else Recipe)(**held["recipe"])
    minutes = (train_classifier if classifier else train_ddpm)(name, recipe, root, runs)
    held["recipe"] = asdict(recipe)  # every value, should a default ever change
    held["made"] = {
        "command": f"python data/weights/make_weights.py {name}",
        "minutes": round(minutes, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__.split("+")[0],
        "sha256": sha256(weights_of(name)),
        **(score_classifier if classifier else score_ddpm)(name, held, root),
    }
    write_whole(HERE / f"{name}.json", (json.dumps(held, indent=1) + "\n").encode())


def train_ddpm(name: str, recipe: Recipe, root: str | None, runs: Path) -> float:
    recipe = replace(recipe, root=root)
    run = Run(recipe, runs / name, load_images(recipe))
    for step in tqdm(run.steps(), name, recipe.steps, initial=run.step):
        if step.step % SAVE_EVERY == 0:
            run.save()
    run.save()
    shutil.copyfile(run.folder / "weights.safetensors", weights_of(name))
    with open(run.folder / "log.csv", newline="", encoding="utf-8") as log:
        seconds = [float(row["seconds"]) for row in csv.DictReader(log)]
    ends = [a for a, b in pairwise([*seconds, 0.0]) if b < a]  # the clock starts anew where a run went on
    return sum(ends) / 60


def train_classifier(name: str, recipe: ClassifierRecipe, root: str | None, runs: Path) -> float:
    begun = time.perf_counter()
    images = load_images(Recipe(data=recipe.data, root=root))
    model = deque(tqdm(fit(recipe, images), name, recipe.steps), maxlen=1)[0]
    save_tensors(weights_of(name), model.state_dict(), recipe.about(model, images))
    return (time.perf_counter() - begun) / 60


def score_ddpm(name: str, held: dict, root: str | None) -> dict:
    """The scores of samples and of as many real images held out; a picture of the samples."""
    trained, scoring, features = load_weights(weights_of(name)), held["scoring"], held["scoring"]["classifier"]
    recipe, classifier = Recipe(**{**held["recipe"], "root": root}), load_weights(weights_of(features))
    real, held_out = load_images(recipe), load_images(recipe, train=False)
    n, seed = scoring["n"], scoring["seed"]
    drawing = {"n": n, "seed": seed, "steps": scoring["steps"], "eta": scoring["eta"], "bits_images": scoring["bits"]}
    found = scores(trained, classifier, features, real, held_out, **drawing)
    best = anchor(classifier, features, real, held_out, n=n, seed=seed)
    images, _ = draw(trained, 100, steps=scoring["steps"], eta=scoring["eta"], seed=seed)
    image_grid(images, ncols=10).figure.savefig(HERE / f"{name}.png", dpi=60)
    plt.close("all")
    told = {"scores": found, "real": best}
    return {of: {key: score._asdict() for key, score in table.items()} for of, table in told.items()}


def score_classifier(name: str, held: dict, root: str | None) -> dict:
    """The share of held-out images that is recognised, of a noise-conditional classifier at several steps."""
    trained = load_weights(weights_of(name))
    images = load_images(Recipe(data=held["recipe"]["data"], root=root), train=False)
    steps = [None] if trained.process is None else [trained.process.T * k // 10 for k in range(0, 10, 2)]
    return {"accuracy": {f"t = {t}": accuracy(trained, images, t) for t in steps}}


def readme(names: list[str]) -> str:
    """What ships, how it was made and how good it is, from the JSON files."""
    lines = [(HERE / "about.txt").read_text(encoding="utf-8")]
    for name in names:
        held = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
        made = held.get("made")
        if made is None:
            continue
        size = weights_of(name).stat().st_size / 1e6
        lines.append(f"## {name}\n\n{held['words']}\n")
        lines.append(
            f"{size:.1f} MB. Made with `{made['command']}`: {held['recipe']['steps']} steps, seed "
            f"{held['recipe']['seed']}, {made['minutes']} minutes on {held['threads']} thread(s) of a CPU "
            f"({made['machine']}; PyTorch {made['torch']}).\n"
        )
        if "accuracy" in made:
            for t, (share, low, high) in made["accuracy"].items():
                at = "" if t == "t = None" else f" at {t}"
                lines.append(f"- recognised of the images held out{at}: {share:.1%} (95 %: {low:.1%} to {high:.1%})")
        else:
            lines += [f"![100 samples]({name}.png)\n", "| score | samples | real images held out |", "|---|---|---|"]
            for key, score in made["scores"].items():
                cells = [
                    f"{s['value']:.3g} ({s['low']:.3g} to {s['high']:.3g})" if s else ""
                    for s in (score, made["real"].get(key))
                ]
                lines.append(f"| {key} | {' | '.join(cells)} |")
            first = next(iter(made["scores"].values()))
            chain = f"{held['scoring']['steps'] or 'all'} steps, eta {held['scoring']['eta']}"
            lines.append(
                f"\n{first['n']} samples, every class in turn, {chain}, seed {first['seed']}, against the "
                f"{first['n_reference']} training images; features {first['features']}; 95 % intervals in brackets."
            )
        lines.append("")
    return "\n".join(lines)


def weights_of(name: str) -> Path:
    return HERE / f"{name}.safetensors"


if __name__ == "__main__":
    main()
