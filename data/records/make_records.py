"""What the shipped networks reach by sampler, number of steps and guidance: `make records`.

    python data/records/make_records.py [--root FOLDER] [NAME ...]

Writes NAME.json beside this file for each network in data/weights, bound to it by the checksum of its weights. Without
names all are made that are missing, or that belong to other weights. How many images are drawn is written beside the
weights: `n` for a row, `few` for one with all steps. Then README.md is written, the same as tables. MNIST is read from
--root or DDPM_LESSON_DATA. Seconds are those of the machine that the record names.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import islice, pairwise
from pathlib import Path

import torch
from page import write_page
from tqdm.auto import tqdm

from ddpm_lesson import Sampling, load_pretrained
from ddpm_lesson.data import Images, bundled
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.checkpoints import sha256, write_whole
from ddpm_lesson.experiments.evaluation import Reference, bits_of, evaluate, reference_of, some
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion, about_shipped
from ddpm_lesson.networks.classifier import Classifier

HERE = Path(__file__).parent
STEPS = (5, 10, 20, 50, 100, 1000)
SAMPLERS = ("ancestral", "ddim")
GUIDANCE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
TIMED = 100  # images


def main() -> None:
    weights = bundled("weights")
    known = sorted(path.stem for path in weights.glob("*_ddpm.safetensors"))
    parser = argparse.ArgumentParser(description="Record what the shipped networks reach.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*known, []], help=f"of {', '.join(known)}")
    parser.add_argument("--root", help="folder of torchvision's files, for MNIST")
    parser.add_argument("--runs", default="runs", type=Path, help="folder of unfinished records (runs)")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    for name in options.names or [name for name in known if not belongs(name, weights)]:
        record = make(name, weights, options.root, options.runs)
        write_whole(HERE / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())
        rows_of(name, options.runs).unlink()
    write_page()


def belongs(name: str, weights: Path) -> bool:
    """Whether there is a record, of these weights, by this classifier."""
    path = HERE / f"{name}.json"
    if not path.exists():
        return False
    held = json.loads(path.read_text(encoding="utf-8"))
    files = {"sha256": name, "classifier_sha256": held["classifier"]}
    return all(held[key] == sha256(weights / f"{of}.safetensors") for key, of in files.items())


def rows_of(name: str, runs: Path) -> Path:
    """Where the rows of an unfinished record are kept."""
    return runs / f"{name}_record.json"


def make(name: str, weights: Path, root: str | None, runs: Path) -> dict:
    """The record. Its rows are kept in `runs` as they come: one that was stopped goes on."""
    trained, held = load_pretrained(name), about_shipped(name)
    n, few, features = held["scoring"]["n"], held["scoring"]["few"], held["scoring"]["classifier"]
    classifier, held_out = load_pretrained(features).model, load_images(trained.recipe, root, train=False)
    # Of MNIST it takes minutes: not before a row is missing.
    real = cache(lambda: reference_of(load_images(trained.recipe, root).x_0, classifier))
    bound_to = {
        "sha256": sha256(weights / f"{name}.safetensors"),
        "classifier": features,
        "classifier_sha256": sha256(weights / f"{features}.safetensors"),
        "seed": 0,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    rows = RowCache(rows_of(name, runs), bound_to)
    table = []
    for steps in STEPS:
        chains = [
            Sampling(sampler, "all" if steps >= trained.process.T else f"trailing{steps}") for sampler in SAMPLERS
        ]
        table += [("samplers", chain, few if chain.steps == "all" else n, few) for chain in chains]
    guided = Sampling("ddim", "trailing20")
    table += [("guidance", replace(guided, guidance=scale), n, n) for scale in GUIDANCE]
    found = {"samplers": [], "guidance": []}
    for part, sampling, many, first in tqdm(table, name):
        make_row = partial(row, trained, classifier, features, real, sampling, many, first)
        found[part].append(rows.get(f"{part}: {many} images, {sampling}", make_row))
    anchors = {of: held["made"][of] for of in ("early", "early_few", "real", "real_few")}
    bits_images = held["scoring"]["bits"]
    return {
        "made_by": f"python data/records/make_records.py {name}",
        **bound_to,
        "scoring": held["scoring"],
        **anchors,
        **found,
        "bits": rows.get(f"bits {bits_images}", lambda: bits(trained, held_out, bits_images)),
    }


def row(
    trained: PretrainedDiffusion,
    classifier: Classifier,
    features: str,
    real: Callable[[], Reference],
    sampling: Sampling,
    n: int,
    few: int,
) -> dict:
    """Scores of n images, and of the first few of them, to be compared with rows that have only so many."""
    labels = trained.labels(n)
    images = trained.sample(n, sampling, y=labels)

    def scored(k: int) -> dict[str, dict]:
        first = None if labels is None else labels[:k]
        scores = evaluate(images[:k], real(), classifier, features, labels=first, seed=sampling.seed)
        return {key: score._asdict() for key, score in scores.items()}

    told = {"sampling": asdict(sampling), "n": n, "seconds_per_image": round(seconds(trained, sampling), 5)}
    found = told | {"scores": scored(n)}
    return found if few == n else found | {"scores_of_few": scored(few)}


def seconds(trained: PretrainedDiffusion, sampling: Sampling) -> float:
    """Seconds per image in a batch of 100: the median step, times the number of steps."""
    times, last = [], 0
    for state in islice(trained.states(TIMED, sampling, y=trained.labels(TIMED)), 20):
        times.append(time.perf_counter())
        last = max(last, state.i)
    return statistics.median(b - a for a, b in pairwise(times)) * last / TIMED


class RowCache:
    """Rows of a record that were made, in a file, as long as they belong to the same weights, code and machine."""

    def __init__(self, path: Path, bound_to: dict):
        script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        self.path, self.held = path, {"bound_to": bound_to | {"script": script}}
        if path.exists():
            held = json.loads(path.read_text(encoding="utf-8"))
            self.held = held if held["bound_to"] == self.held["bound_to"] else self.held

    def get(self, key: str, make: Callable[[], dict]) -> dict:
        """The row of this key, made if it is not there."""
        if key not in self.held:
            self.held[key] = make()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(self.held).encode())
        return self.held[key]


def bits(trained: PretrainedDiffusion, held_out: Images, n: int) -> dict:
    """The bound on held-out images, split by t: L_T, and each of the T terms."""
    found = bits_of(trained, *held_out[some(held_out, n, 0)], progress=True)
    rounded = {
        name: [float(f"{v:.4g}") for v in values.tolist()]
        for name, values in zip(("terms", "x_0_mse"), (found.terms, found.x_0_mse), strict=True)
    }
    return {
        "n": n,
        "total": found.total,
        "standard_error": found.standard_error,
        "prior": found.prior,
        **rounded,
    }


if __name__ == "__main__":
    main()
