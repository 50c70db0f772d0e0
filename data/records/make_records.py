"""What the shipped networks reach by sampler, number of steps and guidance: `make records`.

    python data/records/make_records.py [--root FOLDER] [--n N] [--few N] [NAME ...]

Writes NAME.json beside this file for each network in data/weights, bound to it by the checksum of its weights. Without
names all are made that are missing, or that belong to other weights. Seconds are those of the machine it names.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ddpm_lesson import data
from ddpm_lesson.bound import bits_per_dim, discretized
from ddpm_lesson.checkpoints import sha256, write_whole
from ddpm_lesson.evaluation import anchor, draw, some
from ddpm_lesson.metrics import Score, evaluate
from ddpm_lesson.pretrained import Pretrained, load_pretrained
from ddpm_lesson.recipes import Recipe, load_images

HERE = Path(__file__).parent
STEPS = (5, 10, 20, 50, 100, 1000)
SAMPLERS = {"ancestral": None, "ddim": 0.0}  # eta
GUIDANCE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)


def main() -> None:
    weights = data.bundled("weights/README.md").parent
    known = sorted(path.stem for path in weights.glob("*_ddpm.safetensors"))
    parser = argparse.ArgumentParser(description="Record what the shipped networks reach.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*known, []], help=f"of {', '.join(known)}")
    parser.add_argument("--root", help="folder of torchvision's files, for MNIST")
    parser.add_argument("--n", type=int, default=1000, help="images per row (1000, or all that were held out)")
    words = "images of the rows with all steps, and of bits/dim (as many as in the others)"
    parser.add_argument("--few", type=int, help=words)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    for name in options.names or [name for name in known if not belongs(name, weights)]:
        record = make(name, weights, options.root, options.n, options.few)
        write_whole(HERE / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())


def belongs(name: str, weights: Path) -> bool:
    """Whether there is a record, and of these weights."""
    path = HERE / f"{name}.json"
    if not path.exists():
        return False
    return json.loads(path.read_text(encoding="utf-8"))["sha256"] == sha256(weights / f"{name}.safetensors")


def make(name: str, weights: Path, root: str | None, n: int, few: int | None) -> dict:
    trained = load_pretrained(name)
    recipe = Recipe(**{**trained.about["recipe"], "root": root})
    features = f"{recipe.data}_classifier"
    classifier = load_pretrained(features)
    real, held_out = load_images(recipe), load_images(recipe, train=False)
    n = min(n, len(held_out))
    few = min(few or n, n)
    reference = real[:][0]

    def row(n: int, **drawing) -> dict:
        begun = time.perf_counter()
        images, labels = draw(trained, n, **drawing)
        seconds = (time.perf_counter() - begun) / n
        scores = evaluate(images, reference, classifier.model, features, labels=labels, seed=0)
        return {**drawing, "n": n, "seconds_per_image": round(seconds, 4), "scores": as_json(scores)}

    samplers = []
    for steps in tqdm(STEPS, f"{name}, steps"):
        for sampler, eta in SAMPLERS.items():
            spaced = None if steps >= trained.process.T else f"trailing{steps}"
            samplers.append({"sampler": sampler, **row(few if spaced is None else n, steps=spaced, eta=eta)})
    guidance = [row(n, guidance=scale, steps="trailing20", eta=0.0) for scale in tqdm(GUIDANCE, f"{name}, guidance")]
    return {
        **{
            "made_by": f"python data/records/make_records.py --n {n} --few {few} {name}",
            "sha256": sha256(weights / f"{name}.safetensors"),
        },
        **{"classifier": features, "classifier_sha256": sha256(weights / f"{features}.safetensors")},
        **{"machine": f"{platform.machine()}, {torch.get_num_threads()} threads", "seed": 0},
        "real": as_json(anchor(classifier, features, real, held_out, n=n)),
        **{"samplers": samplers, "guidance": guidance, "bits": bits(trained, held_out, few)},
    }


def bits(trained: Pretrained, held_out: data.Images, n: int) -> dict:
    """The bound on held-out images, split by t: L_T, and each of the T terms."""
    x_0, y = held_out[some(held_out, n, 0)]
    cond = None if trained.model.options["num_classes"] is None else y
    found = bits_per_dim(
        *(trained.model, trained.process, trained.mean_type, trained.variance, x_0),
        **{"cond": cond, "decoder": discretized(trained.levels), "generator": torch.Generator().manual_seed(0)},
        progress=True,
    )
    rounded = {
        name: [float(f"{v:.4g}") for v in values.tolist()]
        for name, values in zip(("terms", "x_0_mse"), (found.terms, found.x_0_mse), strict=True)
    }
    return {
        "n": len(x_0),
        "total": found.total,
        "standard_error": found.standard_error,
        "prior": found.prior,
        **rounded,
    }


def as_json(scores: dict[str, Score]) -> dict:
    return {key: score._asdict() for key, score in scores.items()}


if __name__ == "__main__":
    main()
