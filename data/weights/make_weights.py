"""Train the course's weights by the recipes beside this file, score them, and write both down: `make weights`.

    python data/weights/make_weights.py [--root FOLDER] [--runs FOLDER] [--score] [--threads N] [NAME ...]

NAME.json holds a recipe; this script adds the checksum of NAME.safetensors, which came out of it, the minutes, the
kind of machine and the scores, and writes README.md anew. Without names all those are made that are not there whole.
A run that was stopped goes on where it stood; classifiers and generators (GANs, students, ...) begin anew. With
--score nothing is trained: what is there is scored anew, and of a ddpm the network after its first steps, which must
lie in --runs. MNIST is read from --root or DDPM_LESSON_DATA. The same bits come out on one machine, build of PyTorch
and number of threads.
"""

import argparse
import csv
import json
import os
import platform
import time
from collections import deque
from dataclasses import asdict, replace
from itertools import islice, pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tqdm.auto import tqdm

from ddpm_lesson import Sampling, load_pretrained, load_weights
from ddpm_lesson.experiments.build import load_images
from ddpm_lesson.experiments.checkpoints import sha256, write_whole
from ddpm_lesson.experiments.classifiers import accuracy, fit
from ddpm_lesson.experiments.evaluation import Space, anchor, bilinear, evaluate, reference_of, scores, some
from ddpm_lesson.experiments.features import save_moments
from ddpm_lesson.experiments.generator_recipes import GeneratorRecipe
from ddpm_lesson.experiments.generators import fit as fit_generator
from ddpm_lesson.experiments.metrics import Score, share_interval
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion, PretrainedNoisyClassifier
from ddpm_lesson.experiments.pretrained_generators import PretrainedGenerator
from ddpm_lesson.experiments.recipes import ClassifierRecipe, Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.plots import cloud, image_grid
from ddpm_lesson.points import eight_gaussians, eight_gaussians_mixture
from ddpm_lesson.variants.super_resolution import low_res, upsampled

HERE = Path(__file__).parent
SAVE_EVERY = 100
MOMENTS = HERE / "moments"
EARLY = 900  # the step whose network stands beside the finished one


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and score the course's weights.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*known(), []], help=f"of {', '.join(known())}")
    parser.add_argument("--root", help="folder of torchvision's files, for MNIST")
    parser.add_argument("--runs", default="runs", type=Path, help="folder of unfinished runs (runs)")
    parser.add_argument("--score", action="store_true", help="train nothing, score what is there anew")
    parser.add_argument("--threads", type=int, help="of the scoring (those of the recipe, which training always has)")
    options = parser.parse_args()
    names = options.names or [name for name in known() if whole(name) == options.score]
    for name in (name for name in known() if name in names):
        make(name, options.root, options.runs, not options.score, options.threads)
    write_whole(HERE / "README.md", readme(known()).encode())


def known() -> list[str]:
    """The names that have a recipe; classifiers first, for they score the others, and teachers before students."""
    names = [path.stem for path in HERE.glob("*.json")]
    return sorted(names, key=lambda name: ("classifier" not in name, teachers(name), name))


def teachers(name: str) -> int:
    """How many distillations led to this network."""
    teacher = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["recipe"].get("teacher")
    return 0 if teacher is None else 1 + teachers(teacher)


def whole(name: str) -> bool:
    """Whether there are weights, and scores of these weights."""
    made = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")).get("made")
    return made is not None and weights_of(name).exists() and made["sha256"] == sha256(weights_of(name))


def make(name: str, root: str | None, runs: Path, train: bool, scoring_threads: int | None) -> None:
    held = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    torch.set_num_threads(held["threads"])
    recipe = recipe_of(name, held["recipe"])
    here = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "torch": torch.__version__.split("+")[0]}
    if train:
        if isinstance(recipe, Recipe):
            minutes = train_ddpm(name, recipe, root, runs)
        else:
            minutes = train_at_once(name, recipe, root, runs)
        command = f"python data/weights/make_weights.py {name}"
        made = {"command": command, "minutes": round(minutes, 1), **here, "sha256": sha256(weights_of(name))}
    else:
        load_pretrained(name)  # refuses a file that is not the one that the recipe produced
        made = {key: held["made"][key] for key in ("command", "minutes", *here, "sha256")}
    torch.set_num_threads(scoring_threads or held["threads"])
    held["recipe"] = asdict(recipe)  # every value, should a default ever change
    if isinstance(recipe, ClassifierRecipe):
        scored = score_classifier(name, held, root)
    elif isinstance(recipe, GeneratorRecipe):
        scored = score_generator(name, held, root, runs)
    else:
        score = score_upscale if recipe.condition == "low_res" else score_ddpm
        scored = score(name, held, root, runs)
    held["made"] = {**made, "scored_with": here, **scored}
    write_whole(HERE / f"{name}.json", (json.dumps(held, indent=1) + "\n").encode())


def recipe_of(name: str, values: dict) -> Recipe | ClassifierRecipe | GeneratorRecipe:
    """The recipe with these values, of the type that the name and they show."""
    if "classifier" in name:
        return ClassifierRecipe(**values)
    return GeneratorRecipe(**values) if "kind" in values else Recipe(**values)


def train_ddpm(name: str, recipe: Recipe, root: str | None, runs: Path) -> float:
    recipe = replace(recipe, root=root)
    run = Run(recipe, runs / name, load_images(recipe))
    kept = early(name, runs)
    if run.step == EARLY:
        write_whole(kept, (run.folder / "weights.safetensors").read_bytes())
    if run.step > EARLY and not kept.exists():
        raise SystemExit(f"{kept}, written in step {EARLY}, is gone: bring it back, or move {run.folder} to begin anew")
    for step in tqdm(run.steps(), name, recipe.steps, initial=run.step):
        if step.step % SAVE_EVERY == 0:
            run.save()
        if step.step == EARLY:
            write_whole(kept, (run.folder / "weights.safetensors").read_bytes())
    run.save()
    write_whole(weights_of(name), (run.folder / "weights.safetensors").read_bytes())
    with open(run.folder / "log.csv", newline="", encoding="utf-8") as log:
        seconds = [float(row["seconds"]) for row in csv.DictReader(log)]
    ends = [a for a, b in pairwise([*seconds, 0.0]) if b < a]  # the clock starts anew where a run went on
    return sum(ends) / 60


def train_at_once(name: str, recipe: ClassifierRecipe | GeneratorRecipe, root: str | None, runs: Path) -> float:
    """Train a classifier or a generator, in one go. A GAN that begins as a denoiser is kept as such, too."""
    begun = time.perf_counter()
    of_classifier = isinstance(recipe, ClassifierRecipe)
    steps = fit(recipe, load_images(recipe, root)) if of_classifier else fit_generator(recipe, root)
    bar = iter(tqdm(steps, name, recipe.steps))
    if getattr(recipe, "denoising", 0):
        runs.mkdir(parents=True, exist_ok=True)
        deque(islice(bar, recipe.denoising), maxlen=1)[0].save(denoiser(name, runs))
    deque(bar, maxlen=1)[0].save(weights_of(name))
    return (time.perf_counter() - begun) / 60


def score_ddpm(name: str, held: dict, root: str | None, runs: Path) -> dict:
    """The scores of samples, of as many by the network after its first steps, and of as many real images held out.

    The latter two of fewer images, too, for the records. Writes a picture of 100 samples.
    """
    trained, scoring = load_weights(weights_of(name)), held["scoring"]
    begun, space = beginner(name, trained, runs), space_of(trained, scoring["classifier"], root)
    sampling, n, few = Sampling(**scoring["sampling"]), scoring["n"], scoring["few"]
    told = {
        "scores": scores(trained, space, n, sampling, bits_images=scoring["bits"]),
        "early": scores(begun, space, n, sampling, bits_images=scoring["bits"]),
        "real": anchor(space, n, seed=sampling.seed),
        "real_few": anchor(space, few, seed=sampling.seed),
    }
    early_alone = {key: score for key, score in told["early"].items() if key != "Bits/dim"}
    told["early_few"] = early_alone if few == n else scores(begun, space, few, sampling)
    picture(name, trained.sample(100, sampling, y=trained.labels(100)))
    return written(name, scoring["classifier"], runs, told)


def score_upscale(name: str, held: dict, root: str | None, runs: Path) -> dict:
    """The scores of enlarged images held out, beside bilinear enlargement and the originals themselves.

    Writes a picture of ten: made small, enlarged bilinearly, drawn twice, and the original.
    """
    trained, scoring = load_weights(weights_of(name)), held["scoring"]
    begun, space = beginner(name, trained, runs), space_of(trained, scoring["classifier"], root)
    sampling, n, factor = Sampling(**scoring["sampling"]), scoring["n"], trained.recipe.low_res_factor
    told = {
        "scores": scores(trained, space, n, sampling, bits_images=scoring["bits"]),
        "early": scores(begun, space, n, sampling, bits_images=scoring["bits"]),
        "bilinear": bilinear(space, n, factor, seed=sampling.seed),
        "real": anchor(space, n, seed=sampling.seed),
    }
    x_0, _ = space.held_out[some(space.held_out, 10, sampling.seed)]
    small = low_res(x_0, factor)
    squares = small.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    drawn = [trained.sample(10, replace(sampling, seed=seed), cond=small) for seed in (0, 1)]
    picture(name, torch.cat([squares, upsampled(small, (x_0.shape[2], x_0.shape[3])), *drawn, x_0]))
    return written(name, scoring["classifier"], runs, told)


def score_generator(name: str, held: dict, root: str | None, runs: Path) -> dict:
    """The scores of a generator's images and of as many real ones; of points, how many lie near a mode.

    Of a GAN that began as a denoiser those of the denoiser, too, which must lie in runs. Writes a picture of 100
    samples, or of 1000 points.
    """
    trained, scoring = load_weights(weights_of(name)), held["scoring"]
    n, seed = scoring["n"], scoring["seed"]
    samples = trained.sample(n, seed=seed)
    if trained.recipe.data == "eight_gaussians":
        points = eight_gaussians(n, generator=torch.Generator().manual_seed(seed))
        axes = cloud(trained.sample(1000, seed=seed))
        axes.figure.savefig(HERE / f"{name}.png", dpi=60)
        plt.close("all")
        return {"scores": by_name(near_modes(samples, seed)), "real": by_name(near_modes(points, seed))}
    features = scoring["classifier"]
    space = space_of(trained, features, root)
    y = trained.labels(n)
    begun = load_weights(denoiser(name, runs)) if trained.recipe.denoising else None
    told = {"scores": samples, "denoiser": begun.sample(n, seed=seed)} if begun else {"scores": samples}
    told = {
        of: by_name(evaluate(images, space.reference, space.classifier, features, labels=y, seed=seed))
        for of, images in told.items()
    }
    picture(name, trained.sample(100, seed=seed))
    bound_to = {"classifier_sha256": sha256(weights_of(features))}
    bound_to |= {"denoiser_sha256": sha256(denoiser(name, runs))} if begun else {}
    return {**bound_to, **told, "real": by_name(anchor(space, n, seed=seed))}


def near_modes(points: torch.Tensor, seed: int) -> dict[str, Score]:
    """Share of points (n, 2) within 0.3, three standard deviations, of a mode, and the smallest mode's share."""
    distance, mode = torch.cdist(points.double(), eight_gaussians_mixture()[1]).min(1)
    rarest = torch.bincount(mode, minlength=8).argmin()
    hits = {"Near a mode": distance < 0.3, "Share of the rarest mode": mode == rarest}
    return {key: Score(key, *share_interval(hit), len(points), "points", seed) for key, hit in hits.items()}


def by_name(found: dict[str, Score]) -> dict:
    return {key: score._asdict() for key, score in found.items()}


def beginner(name: str, trained: PretrainedDiffusion, runs: Path) -> PretrainedDiffusion:
    """The network of this recipe after its first steps."""
    begun = load_weights(early(name, runs))
    if (begun.step, begun.recipe) != (EARLY, trained.recipe):
        raise SystemExit(f"{early(name, runs)} is not the network of this recipe in step {EARLY}: delete it")
    return begun


def space_of(trained: PretrainedDiffusion | PretrainedGenerator, features: str, root: str | None) -> Space:
    """Where the images of this network's data are compared."""
    classifier, held_out = load_weights(weights_of(features)).model, load_images(trained.recipe, root, train=False)
    return Space(classifier, features, reference_of(load_images(trained.recipe, root).x_0, classifier), held_out)


def picture(name: str, images: torch.Tensor) -> None:
    image_grid(images, ncols=10).figure.savefig(HERE / f"{name}.png", dpi=60)
    plt.close("all")


def written(name: str, features: str, runs: Path, told: dict) -> dict:
    """What JSON holds of the scores, bound to the files that they are of."""
    bound_to = {"classifier_sha256": sha256(weights_of(features)), "early_sha256": sha256(early(name, runs))}
    return bound_to | {of: by_name(table) for of, table in told.items()}


def score_classifier(name: str, held: dict, root: str | None) -> dict:
    """The share of held-out images that is recognised, of a noise-conditional classifier at several steps.

    Of a classifier of clean images the moments of its features are written, too.
    """
    trained = load_weights(weights_of(name))
    images = load_images(trained.recipe, root, train=False)
    if isinstance(trained, PretrainedNoisyClassifier):
        steps = [trained.process.T * k // 10 for k in range(0, 10, 2)]
        return {"accuracy": {f"t = {t}": accuracy(trained, images, t) for t in steps}}
    MOMENTS.mkdir(exist_ok=True)
    sets = {"train": load_images(trained.recipe, root), "test": images}
    save_moments(MOMENTS / f"{name}.safetensors", weights_of(name), trained, sets)
    return {"accuracy": {"t = None": accuracy(trained, images)}}


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
            enlarges = "bilinear" in made
            generator = "kind" in held["recipe"]
            alt = "Ten images made small, enlarged bilinearly, drawn twice, original" if enlarges else "Samples"
            alt = alt if enlarges or generator else "100 samples"
            columns = {"scores": "samples", "early": f"after {EARLY} steps", "bilinear": "bilinear"}
            columns |= {"denoiser": "before the discriminator came"}
            columns = {of: words for of, words in columns.items() if of in made} | {"real": "real, held out"}
            lines += [f"![{alt}]({name}.png)\n", f"| score | {' | '.join(columns.values())} |"]
            lines.append("|---|" + "---|" * len(columns))
            for key in made["scores"]:
                held_scores = (made[of].get(key) for of in columns)
                cells = [f"{s['value']:.3g} ({s['low']:.3g} to {s['high']:.3g})" if s else "" for s in held_scores]
                lines.append(f"| {key} | {' | '.join(cells)} |")
            first = next(iter(made["scores"].values()))
            drawn = "images held out, made small and enlarged" if enlarges else "samples, every class in turn"
            if generator:
                told = held["recipe"]["kind"] == "distilled" or held["recipe"].get("conditional")
                drawn, how = drawn if told else "samples", f"seed {first['seed']}"
            else:
                how = str(Sampling(**held["scoring"]["sampling"]))
            against = f"against the {first['n_reference']} training images; features {first['features']}; "
            against = against if first["n_reference"] else ""
            lines.append(f"\n{first['n']} {drawn}, {how}, {against}95 % intervals in brackets.")
        lines.append("")
    return "\n".join(lines)


def weights_of(name: str) -> Path:
    return HERE / f"{name}.safetensors"


def early(name: str, runs: Path) -> Path:
    """The averaged network after its first steps. It does not ship: its scores do."""
    return runs / f"{name}_{EARLY}.safetensors"


def denoiser(name: str, runs: Path) -> Path:
    """A GAN before its discriminator came. It does not ship: its scores do."""
    return runs / f"{name}_denoiser.safetensors"


if __name__ == "__main__":
    main()
