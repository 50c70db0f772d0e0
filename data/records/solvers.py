"""Quality against cost of every sampler: python data/records/solvers.py [NAME ...]

Draws 250 images of each class in turn with each shipped network by each sampler at 3 to 50 evaluations of the network,
and writes solvers.json beside this file. About 3 minutes for digits_ddpm and 15 for mnist_ddpm on an idle core. Rows
that are there, of the same weights, are kept. The Frechet distance of the first 100 images stands beside that of all,
to be compared with the rows of 1000 steps in NAME.json, which have so many.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ddpm_lesson import Sampling, load_pretrained
from ddpm_lesson.data import bundled
from ddpm_lesson.experiments import metrics
from ddpm_lesson.experiments.checkpoints import sha256, write_whole
from ddpm_lesson.experiments.features import classified, load_moments
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion

PATH = Path(__file__).with_suffix(".json")
NAMES = ("digits_ddpm", "mnist_ddpm")
EVALUATIONS = (3, 5, 8, 10, 15, 20, 50)
N, FEW = 250, 100

# Sampler, how it chooses steps, and how many steps make so many evaluations. Heun and PLMS average eps: from the last
# step of the cosine schedule, where alphas_bar is 2e-9, that leads nowhere; they start lower, with leading steps.
CHAINS = {
    "ancestral": (Sampling("ancestral"), "trailing", lambda e: e),
    "DDIM": (Sampling("ddim"), "trailing", lambda e: e),
    "2M": (Sampling("dpmpp_2m"), "trailing", lambda e: e),
    "2M, log-SNR": (Sampling("dpmpp_2m"), "log_snr", lambda e: e),
    "2M SDE": (Sampling("dpmpp_2m_sde"), "trailing", lambda e: e),
    "3M": (Sampling("dpmpp_3m"), "trailing", lambda e: e),
    "2S": (Sampling("dpmpp_2s"), "trailing", lambda e: e),
    "Heun": (Sampling("heun"), "leading", lambda e: (e + 1) // 2),
    "PLMS": (Sampling("plms"), "leading", lambda e: e - 1),
}


def row(name: str, trained: PretrainedDiffusion, chain: str, evaluations: int) -> dict:
    """Scores of N images by this chain, and how often the network was really asked."""
    sampling, choice, steps = CHAINS[chain]
    sampling = Sampling(**asdict(sampling) | {"steps": f"{choice}{steps(evaluations)}"})
    labels, asked = trained.labels(N), []
    hook = trained.model.register_forward_hook(lambda *_: asked.append(1))
    images = trained.sample(N, sampling, y=labels)
    hook.remove()
    features = f"{name.removesuffix('_ddpm')}_classifier"
    fake, logits = classified(load_pretrained(features).model, images)
    real, generator = load_moments(features), torch.Generator().manual_seed(sampling.seed)

    def frechet(n: int) -> list[float]:
        gone = metrics.left_out(n, generator)
        interval = metrics.jackknife_interval([metrics.frechet_distance(fake[:n][~group], real) for group in gone])
        return [round(value, 4) for value in interval]

    return {
        "chain": chain,
        "sampling": asdict(sampling),
        "evaluations": len(asked),
        "frechet": frechet(N),
        "frechet_of_few": frechet(FEW),
        "conditional_accuracy": [round(v, 4) for v in metrics.conditional_accuracy(logits, labels)],
        "mean_pixel": round(images.mean().item(), 4),
    }


def main() -> None:
    record = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {"networks": {}}
    record = {"made_by": "python data/records/solvers.py", "n": N, "few": FEW} | record
    for name in sys.argv[1:] or NAMES:
        weights, trained = sha256(bundled(f"weights/{name}.safetensors")), load_pretrained(name)
        held = record["networks"].get(name)
        if held is None or held["sha256"] != weights:
            held = record["networks"][name] = {"sha256": weights, "rows": []}
        known = {(each["chain"], each["asked_for"]) for each in held["rows"]}
        for chain, evaluations in tqdm([(c, e) for e in EVALUATIONS for c in CHAINS], name):
            if (chain, evaluations) not in known:
                held["rows"].append({"asked_for": evaluations} | row(name, trained, chain, evaluations))
                write_whole(PATH, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
