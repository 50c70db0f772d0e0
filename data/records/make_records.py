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
SHOWN = ("Frechet distance", "Precision", "Recall", "Confidence above 0.9", "Conditional accuracy")


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
    write_whole(HERE / "README.md", readme().encode())


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


def readme() -> str:
    """The records as tables, for people."""
    lines = [(HERE / "about.txt").read_text(encoding="utf-8")]
    for path in sorted(HERE.glob("*_ddpm.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        n, few, drawn = held["scoring"]["n"], held["scoring"]["few"], held["scoring"]["sampling"]["steps"]
        drawn = "all steps" if drawn == "all" else drawn
        lines += [
            f"## {path.stem}\n",
            f"Made with `{held['made_by']}` ({held['machine']}; PyTorch {held['torch'].split('+')[0]}).\n",
        ]
        lines += [
            "| sampler | steps | " + " | ".join(SHOWN) + " | ms per image |",
            "|---|---|" + "---|" * (len(SHOWN) + 1),
        ]
        for row in held["samplers"]:
            sampler, steps = row["sampling"]["sampler"], row["sampling"]["steps"].removeprefix("trailing")
            mark = " *" if row["n"] < n else ""
            lines.append(f"| {sampler} | {steps}{mark} | {cells(row)} | {1000 * row['seconds_per_image']:.3g} |")
        for of, words in (("early", f"after its first steps, {drawn}"), ("real", "real, held out")):
            lines.append(f"| {words} | | {cells({'scores': held[of]})} | |")
        number = f"{n} images a row, against {held['real']['Precision']['n_reference']} training images"
        at_few = held["real_few"]["Frechet distance"]["value"]
        star = f"; * {few} images, whose Frechet distance is larger for that alone (real: {at_few:.3g})"
        lines += [f"\n{number}{star if few < n else ''}. In brackets: 95 % intervals.\n"]
        lines += [
            "Guidance, DDIM with 20 steps:\n",
            "| scale | " + " | ".join(SHOWN) + " |",
            "|---|" + "---|" * len(SHOWN),
        ]
        lines += [f"| {row['sampling']['guidance']:g} | {cells(row)} |" for row in held["guidance"]]
        bits, T = held["bits"], len(held["bits"]["terms"])
        fifths = [sum(bits["terms"][T * k // 5 : T * (k + 1) // 5]) for k in range(5)]
        split = ", ".join(f"{value:.3g}" for value in fifths)
        total = f"{bits['total']:.3f} +- {1.96 * bits['standard_error']:.3f}"
        lines.append(f"\nBits/dim of {bits['n']} images held out: {total}, the prior {bits['prior']:.1e} of it.")
        lines.append(f"By t, in fifths from the first step to the last: {split}.\n")
    return "\n".join([*lines, *solvers(), *variants(), *trilemma(), *few_steps_on_points(), *short_trainings()])


def solvers() -> list[str]:
    """The tables of solvers.json, line by line: Frechet distance by sampler and evaluations."""
    held = json.loads((HERE / "solvers.json").read_text(encoding="utf-8"))
    lines = [
        "## solvers\n",
        "Every sampler by the number of evaluations of the network: Frechet distance, in brackets its 95 % interval. "
        f"Made with `{held['made_by']}`; {held['n']} images a row, of each class in turn.\n",
    ]
    for name, network in held["networks"].items():
        asked = sorted({row["asked_for"] for row in network["rows"]})
        chains = list(dict.fromkeys(row["chain"] for row in network["rows"]))
        cell = {
            (row["chain"], row["asked_for"]): "{:.3g} ({:.3g} to {:.3g})".format(*row["frechet"])
            for row in network["rows"]
        }
        lines += [f"| {name} | {' | '.join(map(str, asked))} |", "|---|" + "---|" * len(asked)]
        lines += [f"| {chain} | {' | '.join(cell[chain, each] for each in asked)} |" for chain in chains]
        lines += [""]
    return lines


def variants() -> list[str]:
    """The tables of variants.json, line by line: guidance by way and scale, the bound by variance and chain."""
    held = json.loads((HERE / "variants.json").read_text(encoding="utf-8"))
    steps = held["sampling"]["steps"].removeprefix("trailing")
    lines = [
        "## variants\n",
        f"Guidance, DDIM with {steps} steps, every class in turn, all rows from the same noise: without a classifier, "
        "by the gradient of the noise classifier, and three changes of the first: rescaled with phi = "
        f"{held['phi']:g}, without the part along the output, and only where sqrt(1 / snr) lies in "
        f"{held['sigmas'][0]:g}..{held['sigmas'][1]:g}. Contrast: the mean standard deviation of an image's pixels. "
        f"Made with `{held['made_by']}`. In brackets: 95 % intervals.\n",
    ]
    for name, network in held["guidance"].items():
        keys = list(network["real"]["scores"])
        lines += [f"| {name} | scale | {' | '.join(keys)} | contrast |", "|---|---|" + "---|" * (len(keys) + 1)]
        for row in [*network["rows"], {"way": "real, held out", **network["real"]}]:
            cells = " | ".join("{:.3g} ({:.3g} to {:.3g})".format(*row["scores"][key]) for key in keys)
            scale = f"{row['scale']:g}" if "scale" in row else ""
            lines.append(f"| {row['way']} | {scale} | {cells} | {row['contrast']:.3g} |")
        lines.append(f"\n{network['rows'][0]['n']} images a row; {network['real']['n']} real ones.\n")
        lines += [f"Without a classifier, mean of {len(network['seeds'][0]['scores'][keys[0]])} seeds of the noise, "]
        lines[-1] += "in brackets the lowest and the highest.\n"
        lines += [f"| {name} scale | {' | '.join(keys)} |", "|---|" + "---|" * len(keys)]
        for row in network["seeds"]:
            found = [row["scores"][key] for key in keys]
            cells = " | ".join(f"{statistics.mean(v):.3g} ({min(v):.3g} to {max(v):.3g})" for v in found)
            lines.append(f"| {row['scale']:g} | {cells} |")
        lines.append("")
    bound = held["variance"]
    chains = list(dict.fromkeys(row["steps"] for row in bound["rows"]))
    bits = {(row["variance"], row["steps"]): row["bits"] for row in bound["rows"]}
    lines += [
        f"Bits/dim of {bound['n']} images held out by {bound['network']}, whose variance is learned, on short chains: "
        f"mean of {len(bound['rows'][0]['bits'])} seeds of the noise, in brackets the lowest and the highest. Steps "
        "that are a number alone are spaced evenly from the first to the last, as in Improved DDPM.\n",
        f"| variance | {' | '.join(chains)} |",
        "|---|" + "---|" * len(chains),
    ]
    for variance in dict.fromkeys(row["variance"] for row in bound["rows"]):
        found = [bits[variance, chain] for chain in chains]
        cells = " | ".join(f"{statistics.mean(b):.4g} ({min(b):.4g} to {max(b):.4g})" for b in found)
        lines.append(f"| {variance} | {cells} |")
    forms = held["forms"]["rows"]
    counts = list(dict.fromkeys(row["steps"] for row in forms))
    lines += [
        f"\nGuidance by the exact classifier of eight clusters: share of {held['forms']['points']} points that end "
        f"in a cluster of another class, mean of {len(forms[0]['wrong'])} seeds, in brackets the lowest and highest.\n",
        f"| form, variance | {' | '.join(f'{steps} steps' for steps in counts)} |",
        "|---|" + "---|" * len(counts),
    ]
    for form, variance in dict.fromkeys((row["form"], row["variance"]) for row in forms):
        found = [row["wrong"] for row in forms if (row["form"], row["variance"]) == (form, variance)]
        cells = " | ".join(f"{statistics.mean(w):.2%} ({min(w):.1%} to {max(w):.1%})" for w in found)
        lines.append(f"| {form}, {variance} | {cells} |")
    return [*lines, ""]


def trilemma() -> list[str]:
    """The table of trilemma.json, line by line."""
    held = json.loads((HERE / "trilemma.json").read_text(encoding="utf-8"))
    shown = {"frechet": "Frechet distance", "precision": "Precision", "recall": "Recall"}
    shown |= {"confident": "Confidence above 0.9", "classes": "classes", "ms": "ms per image"}
    lines = [
        "## trilemma\n",
        f"Quality, coverage and speed: {held['n']} images with each of {held['seeds']} seeds; real ones: "
        f"{held['real']['n']}. In brackets: 95 % intervals of the mean over seeds. Classes: those of at least "
        f"{held['covered']:.0%} of the images. Time: of the processor, on one thread. The diffusion model and its "
        f"students are told every class in turn, the others know no labels. Made with `{held['made_by']}`.\n",
        f"| chain | {' | '.join(shown.values())} |",
        "|---|" + "---|" * len(shown),
    ]
    for row in [*held["rows"], held["real"]]:
        found = [row["scores"].get(key) for key in shown]
        told = " | ".join("{:.3g} ({:.3g} to {:.3g})".format(*score) if score else "" for score in found)
        lines.append(f"| {row['chain']} | {told} |")
    return [*lines, ""]


def few_steps_on_points() -> list[str]:
    """The table of ddgan_points.json, line by line."""
    held = json.loads((HERE / "ddgan_points.json").read_text(encoding="utf-8"))
    lines = [
        "## ddgan_points\n",
        f"Generators of eight clusters, trained for {held['settings']['steps']} steps with each of some seeds: share "
        f"of {held['n']} points within 0.3 of a mode, and the lowest and highest share of a mode, 12.5 % if even. "
        "DDGAN: four steps, whose discriminator sees pairs; GAN: one step, whose discriminator sees x_0 alone. "
        f"Made with `{held['made_by']}`.\n",
        "| kind | seed | near a mode | rarest mode | most frequent mode | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(held["rows"], key=lambda row: (list(held["kinds"]).index(row["kind"]), row["seed"])):
        shares = f"{min(row['shares']):.1%} | {max(row['shares']):.1%}"
        lines.append(f"| {row['kind']} | {row['seed']} | {row['near']:.1%} | {shares} | {row['cpu_seconds']:.0f} |")
    return [*lines, ""]


def short_trainings() -> list[str]:
    """The table of mnist_training.json, line by line."""
    held = json.loads((HERE / "mnist_training.json").read_text(encoding="utf-8"))
    names = list(next(iter(held["rows"].values()))["scores"])
    lines = [
        "## mnist_training\n",
        f"What learns fast: recipes with equal processor time. Made with `{held['made_by']}`.\n",
        "| recipe | steps | images per second | " + " | ".join(names) + " |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for name, row in held["rows"].items():
        scores = " | ".join("{value:.3g} ({low:.3g} to {high:.3g})".format(**row["scores"][key]) for key in names)
        lines.append(f"| {name} | {row['steps']} | {row['images_per_second']:.0f} | {scores} |")
    sampling = held["drawn"]["sampling"]
    steps = sampling["steps"].removeprefix("trailing")
    told = f"{held['drawn']['n']} images a row, DDIM with eta = {sampling['eta']:g} and {steps} steps"
    return [
        *lines,
        f"\n{told}, against {held['reference']} training images. A row differs in what it names from the first;"
        " the two seeds of the first show how much is chance.\n",
    ]


def cells(row: dict) -> str:
    """The scores that are shown of a row."""
    return " | ".join("{value:.3g} ({low:.3g} to {high:.3g})".format(**row["scores"][key]) for key in SHOWN)


if __name__ == "__main__":
    main()
