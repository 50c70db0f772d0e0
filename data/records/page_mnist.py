"""The part of the records' page that is about training on MNIST."""

import json
import statistics
from pathlib import Path

from ddpm_lesson.experiments.pretrained import about_shipped

HERE = Path(__file__).parent


def tables() -> list[str]:
    """All of it, line by line."""
    return [*short_trainings(), *five_minutes(), *peers()]


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


def five_minutes() -> list[str]:
    """The tables of mnist_fast.json, line by line: the runs and the ideas."""
    held = json.loads((HERE / "mnist_fast.json").read_text(encoding="utf-8"))
    runs = {name: row for name, row in held["rows"].items() if "marks" in row}
    ideas = {name: row for name, row in held["rows"].items() if "change" in row}
    threads, marks = next((row["threads"], list(row["marks"])) for row in runs.values())
    steps = held["sampling"]["steps"].removeprefix("trailing")
    seconds = statistics.median(row["seconds"] for row in ideas.values())
    lines = [
        "## mnist_fast\n",
        f"MNIST from nothing in five minutes: the preset `mnist_fast` on {threads} threads, by the wall clock. Frechet "
        f"distance of {held['drawn']} digits, every class in turn, to the 60,000 training images, in brackets 95 % "
        f"intervals; {steps} steps of DDIM with eta = {held['sampling']['eta']:g}, and the same with guidance "
        f"{held['guidance']:g}, which asks the network twice a step. As many real digits, held out: {anchor('real')}. "
        f"Made with `{held['made_by']}`.\n",
        "| run | images | images per second | " + " | ".join(f"{int(m) // 60} min | guided" for m in marks) + " |",
        "|---|---|---|" + "---|---|" * len(marks),
    ]
    for name, row in runs.items():
        found = " | ".join(f"{told(row['marks'][m])} | {told(row['marks'][m]['guided'])}" for m in marks)
        lines.append(f"| {name} | {row['images']} | {row['images_per_second']} | {found} |")
    seeds = list(dict.fromkeys(name.rpartition(", ")[2] for name in ideas))
    lines += [
        f"\nWhat each idea gave: the preset, changed in what the row names, for {seconds:.0f} s of the processor on "
        "one thread, in which the rate falls to 0; without guidance.\n",
        f"| idea | steps | {' | '.join(seeds)} | mean |",
        "|---|---|---|" + "---|" * len(seeds),
    ]
    for idea in dict.fromkeys(name.rpartition(", ")[0] for name in ideas):
        found = [ideas[f"{idea}, {seed}"] for seed in seeds]
        steps = statistics.median_high(row["steps"] for row in found)
        mean = statistics.mean(row["Frechet distance"][0] for row in found)
        lines.append(f"| {idea} | {steps} | {' | '.join(map(told, found))} | {mean:.2g} |")
    return [*lines, "\nEvery row that changes the preset is worse with each of its seeds than the preset with any.\n"]


def peers() -> list[str]:
    """The table of mnist_peers.json, line by line."""
    path = HERE / "mnist_peers.json"
    if not path.exists():
        return []
    held = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "Beside it, for five minutes on the same machine, the training examples of two other libraries with their "
        "own networks and settings, which are made for GPUs. As many real digits, held out: "
        f"{anchor('real_few')}. Made with `{held['made_by']}`.\n",
        "| example | parameters | steps | digits | Frechet distance |",
        "|---|---|---|---|---|",
    ]
    for name, row in held["rows"].items():
        size = f"{row['parameters'] / 1e6:.1f} million"
        lines.append(f"| {name} | {size} | {row['steps']} | {row['drawn']} | {told(row)} |")
    return [*lines, ""]


def anchor(of: str) -> str:
    """The same of MNIST's test images, as they stand beside the weights: "real", 500, or "real_few", 100."""
    score = about_shipped("mnist_ddpm")["made"][of]["Frechet distance"]
    return told({"Frechet distance": [score[key] for key in ("value", "low", "high")]})


def told(scores: dict) -> str:
    return "{:.3g} ({:.2g} to {:.2g})".format(*scores["Frechet distance"])
