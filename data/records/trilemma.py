"""Quality, coverage and speed, measured: python data/records/trilemma.py [CHAIN ...]

Draws 500 digits with each generator of the course with five seeds, and writes trilemma.json beside this file: the
scores in the features of digits_classifier, the classes that it finds, and the milliseconds of processor time that an
image takes on one thread, 100 at a time. DDPM's 1000 steps take most of the time: about a quarter of an hour on an idle
core, the others together a minute. Rows that are there, of the same weights, are kept.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_lesson import Sampling, load_pretrained
from ddpm_lesson.data import bundled, digits
from ddpm_lesson.experiments.checkpoints import sha256, write_whole
from ddpm_lesson.experiments.evaluation import Reference, evaluate, reference_of, some
from ddpm_lesson.experiments.features import classified
from ddpm_lesson.experiments.metrics import class_histogram

PATH = Path(__file__).with_suffix(".json")
N, FEW, SEEDS = 500, 100, range(5)
T_QUANTILE = 2.776  # 97.5 % of Student's t with 4 degrees of freedom
COVERED = 0.02  # of the images: a class with fewer is not covered; a tenth would be even

# The name of the chain, of its weights, and how it is drawn.
CHAINS = {
    "DDPM-1000": ("digits_ddpm", Sampling("ancestral")),
    "DDIM-50": ("digits_ddpm", Sampling("ddim", "trailing50")),
    "DDIM-10": ("digits_ddpm", Sampling("ddim", "trailing10")),
    "DPM-Solver++2M-10": ("digits_ddpm", Sampling("dpmpp_2m", "trailing10")),
    "2M-10 by chance": ("digits_ddpm", Sampling("dpmpp_2m", "trailing10")),  # its classes, as those of the next kinds
    "DDGAN-4": ("digits_ddgan", None),
    "distilled-4": ("digits_distilled4", None),
    "distilled-2": ("digits_distilled2", None),
    "GAN-1": ("digits_gan", None),
    "VAE": ("digits_vae", None),
}


BY_CHANCE = "by chance"


def drawer(name: str, sampling: Sampling | None, *, by_chance: bool = False) -> Callable[[int, int], Tensor]:
    """draw(n, seed): images of the weights; of a network that knows labels every class in turn, or by chance."""
    trained = load_pretrained(name)
    if sampling is None:
        return lambda n, seed: trained.sample(n, seed=seed)
    told = {"sampler": sampling.sampler, "steps": sampling.steps}

    def draw(n: int, seed: int) -> Tensor:
        chance = torch.randint(len(trained.classes), (n,), generator=torch.Generator().manual_seed(seed))
        y = chance if by_chance else trained.labels(n)
        return trained.sample(n, Sampling(**told, seed=seed), y=y, batch_size=FEW)

    return draw


def checksum(chain: str) -> str:
    """Of the weights that a chain has now."""
    return sha256(bundled(f"weights/{CHAINS[chain][0]}.safetensors"))


def scored(images: Tensor, reference: Reference, classifier: torch.nn.Module, seed: int) -> dict[str, float]:
    found = evaluate(images, reference, classifier, "digits_classifier", seed=seed)
    shares = class_histogram(classified(classifier, images)[1].argmax(1), 10)
    told = {name: found[key].value for name, key in NAMED.items()}
    return told | {"classes": float((shares >= COVERED).sum()), "rarest": shares.min().item()}


NAMED = {
    "frechet": "Frechet distance",
    "precision": "Precision",
    "recall": "Recall",
    "confident": "Confidence above 0.9",
    "nearest": "Nearest real distance",
}


def interval(values: list[float]) -> list[float]:
    """The mean over the seeds and its 95 % interval; a mean's, by Student's t."""
    known = torch.tensor(values, dtype=torch.float64)
    half = T_QUANTILE * known.std().item() / len(values) ** 0.5
    return [round(v, 4) for v in (known.mean().item(), known.mean().item() - half, known.mean().item() + half)]


def together(chain: str, rows: list[dict[str, float]], **more: object) -> dict:
    return {"chain": chain, **more, "scores": {key: interval([row[key] for row in rows]) for key in rows[0]}}


def main() -> None:
    torch.set_num_threads(1)
    classifier, train, test = load_pretrained("digits_classifier").model, digits("train"), digits("test")
    reference = reference_of(train.x_0, classifier)
    record = {"made_by": "python data/records/trilemma.py", "n": N, "seeds": len(SEEDS), "covered": COVERED, "rows": []}
    record |= json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
    record["rows"] = [row for row in record["rows"] if row["sha256"] == checksum(row["chain"])]
    if "real" not in record:  # 382 are held out: as many of them with repetition would be closer to themselves
        rows = [scored(test[some(test, 300, seed)][0], reference, classifier, seed) for seed in SEEDS]
        record["real"] = together("real, held out", rows, n=300)
    for chain in tqdm(sys.argv[1:] or CHAINS):
        if chain in {row["chain"] for row in record["rows"]}:
            continue
        draw, rows, times = drawer(*CHAINS[chain], by_chance=chain.endswith(BY_CHANCE)), [], []
        draw(FEW, 0)  # the first call is slower
        for seed in SEEDS:
            begun = time.process_time()
            images = torch.cat([draw(FEW, 100 * seed + part) for part in range(N // FEW)])
            times.append(1000 * (time.process_time() - begun) / N)
            rows.append(scored(images, reference, classifier, seed) | {"ms": times[-1]})
        about = {"weights": CHAINS[chain][0], "sha256": checksum(chain)}
        record["rows"].append(together(chain, rows, **about))
        record["rows"].sort(key=lambda row: list(CHAINS).index(row["chain"]))
        write_whole(PATH, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
