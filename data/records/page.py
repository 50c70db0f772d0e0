"""Writes README.md of this folder from the records: python data/records/page.py"""

import json
import statistics
from pathlib import Path

import page_mnist

from ddpm_lesson.experiments.checkpoints import write_whole

HERE = Path(__file__).parent
SHOWN = ("Frechet distance", "Precision", "Recall", "Confidence above 0.9", "Conditional accuracy")


def write_page() -> None:
    write_whole(HERE / "README.md", readme().encode())


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
    lines += [*solvers(), *variants(), *trilemma(), *few_steps_on_points(), *page_mnist.tables()]
    return "\n".join(lines)


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


def cells(row: dict) -> str:
    """The scores that are shown of a row."""
    return " | ".join("{value:.3g} ({low:.3g} to {high:.3g})".format(**row["scores"][key]) for key in SHOWN)


if __name__ == "__main__":
    write_page()
