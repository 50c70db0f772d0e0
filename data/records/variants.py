"""What guidance gains and costs, and what a learned variance gains: python data/records/variants.py [--root FOLDER]

Writes variants.json beside this file. Guidance: images of each class in turn, DDIM with 20 trailing steps, by both
shipped networks; without a classifier and by the gradient of the shipped noise classifiers over eight scales, and
three changes of classifier-free guidance at scale 5; classifier-free guidance over the scales once more, for five seeds
of the noise. Learned variance: the bound of digits_ddpm on all digits held out, with the learned and both fixed
variances, on short chains, for five seeds. Both forms of guidance by a classifier with the exact denoiser and
classifier of eight clusters, for five seeds. About 50 minutes on a core, most of them for MNIST, which is read from
--root or DDPM_LESSON_DATA. Rows that are there, of the same weights, are kept.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_lesson import GaussianDiffusion, Sampling, load_pretrained, oracle, samplers, schedules, spacing
from ddpm_lesson._tensors import randn_like
from ddpm_lesson.bound import bits_per_dim, discretized
from ddpm_lesson.data import bundled, digits
from ddpm_lesson.denoisers import Denoiser, clipped
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.checkpoints import sha256, write_whole
from ddpm_lesson.experiments.evaluation import Space, evaluate, reference_of, some
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion
from ddpm_lesson.points import eight_gaussians_mixture
from ddpm_lesson.predictions import VARIANCES
from ddpm_lesson.samplers import last
from ddpm_lesson.spacing import named
from ddpm_lesson.variants.classifier_guidance import Classifier, classifier_guided, mean_shifted
from ddpm_lesson.variants.guidance import classifier_free, guided, in_interval, orthogonal, rescaled

PATH = Path(__file__).with_suffix(".json")
NUMBERS = {"digits_ddpm": 500, "mnist_ddpm": 300}  # images a row
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
STRONG, PHI = 5.0, 0.7
SIGMAS = (0.28, 2.9)  # guided between these sqrt(1 / snr): Kynkaanniemi et al. 2024, Table 1, EDM2-S
SAMPLING = Sampling("ddim", "trailing20")
BATCH = 100
SCORES = ("Conditional accuracy", "Precision", "Recall", "Frechet distance")
VARIANCE_NAMES = ("learned_range", "fixedsmall", "fixedlarge")
CHAINS = ("trailing10", "trailing25", "trailing50", "10", "25", "50")  # a number alone: evenly, from 0 to T - 1
SEEDS = range(5)
FORMS = (("mean", "fixedsmall"), ("mean", "fixedlarge"), ("noise", "fixedsmall"))
COUNTS, POINTS = (5, 10, 20, 50, 100), 1000  # steps of a chain, points drawn

Guide = Callable[[PretrainedDiffusion, Classifier, Tensor], Denoiser]  # (network, noise classifier, y) -> not clipped


def free(scale: float, trained: PretrainedDiffusion, classifier: Classifier, y: Tensor) -> Denoiser:
    return trained.denoiser(y, guidance=scale, clip=False)


def by_gradient(scale: float, trained: PretrainedDiffusion, classifier: Classifier, y: Tensor) -> Denoiser:
    return classifier_guided(trained.denoiser(clip=False), trained.process, classifier, y, scale)


def combined(combine, trained: PretrainedDiffusion, classifier: Classifier, y: Tensor) -> Denoiser:
    cond, uncond = trained.denoiser(y, clip=False), trained.denoiser(clip=False)
    return guided(cond, uncond, combine, trained.process)


def between(trained: PretrainedDiffusion, classifier: Classifier, y: Tensor) -> Denoiser:
    cond, uncond = trained.denoiser(y, clip=False), trained.denoiser(clip=False)
    return in_interval(classifier_free(cond, uncond, STRONG), cond, *interval(trained))


def interval(trained: PretrainedDiffusion) -> tuple[int, int]:
    """First and last step of the base whose sqrt(1 / snr) lies within SIGMAS."""
    sigma = trained.process.snr**-0.5
    inside = ((sigma >= SIGMAS[0]) & (sigma <= SIGMAS[1])).nonzero().flatten()
    return int(inside[0]), int(inside[-1])


WAYS: dict[tuple[str, float], Guide] = {
    **{("classifier-free", scale): partial(free, scale) for scale in SCALES},
    **{("classifier", scale): partial(by_gradient, scale) for scale in SCALES},
    ("rescaled", STRONG): partial(combined, rescaled(STRONG, PHI)),
    ("orthogonal", STRONG): partial(combined, orthogonal(STRONG)),
    ("interval", STRONG): between,
}


def draw(
    trained: PretrainedDiffusion, classifier: Classifier, guide: Guide, n: int, seed: int = SAMPLING.seed
) -> Tensor:
    """n images, every class in turn, (n, C, H, W).  With one seed all ways to guide start from the same noise."""
    noise = randn_like(torch.empty(n, *trained.shape), torch.Generator().manual_seed(seed))
    labels, images = trained.labels(n), []
    assert labels is not None
    for x_T, y in zip(noise.split(BATCH), labels.split(BATCH), strict=True):
        denoise = clipped(guide(trained, classifier, y), trained.process)
        images.append(last(SAMPLING.states(trained.process, denoise, trained.variance, x_T)))
    return torch.cat(images)


def scored(images: Tensor, labels: Tensor, space: Space) -> dict:
    """Scores with their 95 % intervals, and the mean of the images' standard deviations of pixels."""
    found = evaluate(images, space.reference, space.classifier, space.features, labels=labels, seed=SAMPLING.seed)
    scores = {name: [round(v, 4) for v in (found[name].value, found[name].low, found[name].high)] for name in SCORES}
    return {"n": len(images), "scores": scores, "contrast": round(images.flatten(1).std(1).mean().item(), 4)}


def guide_rows(name: str, record: dict, root: str | None) -> None:
    """Make the rows of a network that are missing, and write the record after each."""
    data, n, trained = name.removesuffix("_ddpm"), NUMBERS[name], load_pretrained(name)
    files = {"sha256": name, "classifier_sha256": f"{data}_classifier"}
    files["noise_classifier_sha256"] = f"{data}_noise_classifier"
    bound_to = {key: sha256(bundled(f"weights/{of}.safetensors")) for key, of in files.items()}
    held = record["guidance"].get(name)
    if held is None or any(held[key] != value for key, value in bound_to.items()):
        held = record["guidance"][name] = {**bound_to, "interval": interval(trained), "rows": []}
    classifier = load_pretrained(f"{data}_classifier").model
    noise_classifier = load_pretrained(f"{data}_noise_classifier").model

    @cache
    def space() -> Space:  # of MNIST it takes a minute: not before a row is missing
        real = reference_of(load_images(trained.recipe, root).x_0, classifier)
        return Space(classifier, f"{data}_classifier", real, load_images(trained.recipe, root, train=False))

    if "real" not in held:
        x_0, y = space().held_out[some(space().held_out, min(n, len(space().held_out)), SAMPLING.seed)]
        held["real"] = scored(x_0, y, space())
    known = {(row["way"], row["scale"]) for row in held["rows"]}
    for way, scale in tqdm(WAYS, name):
        if (way, scale) not in known:
            images = draw(trained, noise_classifier, WAYS[way, scale], n)
            labels = trained.labels(n)
            assert labels is not None
            held["rows"].append({"way": way, "scale": scale, **scored(images, labels, space())})
            write(record)
    seeds = held.setdefault("seeds", [])
    known = {row["scale"] for row in seeds}
    for scale in tqdm(SCALES, f"{name}, {len(SEEDS)} seeds"):
        if scale not in known:
            found = seed_scores(trained, noise_classifier, partial(free, scale), n, space())
            seeds.append({"scale": scale, "scores": found})
            write(record)


def seed_scores(
    trained: PretrainedDiffusion, noise_classifier: Classifier, guide: Guide, n: int, space: Space
) -> dict[str, list[float]]:
    """Each score of n images by one way to guide, one number for each seed of the noise."""
    labels, found = trained.labels(n), []
    assert labels is not None
    for seed in SEEDS:
        images = draw(trained, noise_classifier, guide, n, seed)
        found.append(scored(images, labels, space)["scores"])
    return {name: [scores[name][0] for scores in found] for name in SCORES}


def variance_rows(record: dict) -> None:
    """The bound by variance and chain, one number for each seed of the noise."""
    trained, weights = load_pretrained("digits_ddpm"), sha256(bundled("weights/digits_ddpm.safetensors"))
    x_0, y = digits("test")[:]
    if record["variance"].get("sha256") != weights:
        record["variance"] = {"sha256": weights, "network": "digits_ddpm", "n": len(x_0), "rows": []}
    held = record["variance"]["rows"]
    known = {(row["steps"], row["variance"]) for row in held}
    for steps, variance in tqdm([(c, v) for c in CHAINS for v in VARIANCE_NAMES], "bits/dim"):
        if (steps, variance) not in known:
            process = trained.process.respaced(named(steps, trained.process.T, trained.process.snr))
            of_chain = partial(bits_per_dim, trained.model, process, trained.mean_type, VARIANCES[variance], x_0, y=y)
            generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
            found = [of_chain(decoder=discretized(trained.levels), generator=g).total for g in generators]
            held.append({"steps": steps, "variance": variance, "bits": [round(bits, 4) for bits in found]})
            write(record)


def form_rows(record: dict) -> None:
    """Share of the points that end in a cluster of another class, one number for each seed."""
    process, of_cluster = GaussianDiffusion(schedules.linear(1000)), torch.arange(8) // 2
    eight = oracle.Mixture(process, *eight_gaussians_mixture(), labels=of_cluster)
    y, found = torch.zeros(POINTS, dtype=torch.int64), []
    by_score = classifier_guided(eight, process, eight.classifier, y)
    for form, variance in FORMS:
        for steps in COUNTS:
            chain, shares = process.respaced(spacing.trailing(1000, steps)), []
            p = samplers.reverse(chain, by_score if form == "noise" else eight, VARIANCES[variance])
            p = mean_shifted(chain, p, eight.classifier, y) if form == "mean" else p
            for seed in SEEDS:
                generator = torch.Generator().manual_seed(seed)
                x_T = torch.randn(POINTS, 2, dtype=torch.float64, generator=generator)
                x = last(samplers.ancestral(chain, p, x_T, generator=generator))
                wrong = of_cluster[torch.cdist(x, eight.means).argmin(1)] != y
                shares.append(round(wrong.double().mean().item(), 4))
            found.append({"form": form, "variance": variance, "steps": steps, "wrong": shares})
    record["forms"] = {"points": POINTS, "rows": found}


def write(record: dict) -> None:
    write_whole(PATH, (json.dumps(record, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what guidance and a learned variance gain and cost.")
    parser.add_argument("--root", help="folder of torchvision's files, for MNIST")
    root = parser.parse_args().root
    told = {"made_by": "python data/records/variants.py", "sampling": asdict(SAMPLING), "phi": PHI, "sigmas": SIGMAS}
    record = {**told, "guidance": {}, "variance": {}}
    if PATH.exists():
        record |= json.loads(PATH.read_text(encoding="utf-8"))
    form_rows(record)
    variance_rows(record)
    for name in NUMBERS:
        guide_rows(name, record, root)
    write(record)


if __name__ == "__main__":
    main()
