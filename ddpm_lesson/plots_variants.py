"""Figures of notebook 05: rows of images with names, values with their errors, what guidance changes, the trilemma.

As in `plots`, each function draws its data on one Axes and returns that Axes.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ddpm_lesson.plots import BLUE, COLOURS, GAP, GREEN, LINE_STYLES, ORANGE, PURPLE, VERMILION, image_grid

MARKERS = "osD^vP*X"
LINES = {"classifier-free": (BLUE, "o-"), "classifier": (VERMILION, "s--")}
FAMILIES = {
    "DDPM": BLUE,
    "DDIM": BLUE,
    "DPM": BLUE,
    "2M": BLUE,
    "DDGAN": VERMILION,
    "distilled": GREEN,
    "GAN": PURPLE,
    "VAE": ORANGE,
}
QUALITY = {
    "frechet": ("Fréchet distance", True),
    "precision": ("precision", False),
    "confident": ("share with confidence above 0.9", False),
}
COVERAGE = {"recall": ("recall", 1.0), "rarest": ("rarest class", 0.1)}  # and what would be full coverage
POINTS = {"rescaled": (GREEN, "^"), "orthogonal": (PURPLE, "D"), "interval": (ORANGE, "P")}


def named_rows(rows: Mapping[str, Tensor], *, ax: Axes | None = None) -> Axes:
    """One row of images for each name, which stands on its left.

    rows: name -> images as for `plots.image_grid`, (N, C, H, W), as many in each row, all of one shape.
    Raises ValueError if there are no rows, or their shapes differ.
    """
    shapes = {tuple(images.shape) for images in rows.values()}
    if len(shapes) != 1:
        raise ValueError(f"expected rows of images of one shape, got {sorted(shapes)}")
    images = torch.cat([row.cpu() for row in rows.values()])
    count, height = len(images) // len(rows), images.shape[-2] / images.shape[-1]
    ax = image_grid(images, ncols=count, ax=ax)
    for k, name in enumerate(rows):
        ax.text(-0.1, k * (height + GAP) + height / 2, name, ha="right", va="center", fontsize="small")
    return ax


def over_steps(
    values: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]], *, ax: Axes | None = None
) -> Axes:
    """Values with their standard errors over the number of steps, one line for each name; the steps on a log axis.

    values: name -> (steps, values, standard errors), of one length.  Raises ValueError if there are none, or the
    lengths differ.
    """
    if not values or any(len({len(column) for column in columns}) != 1 for columns in values.values()):
        got = {name: tuple(len(column) for column in columns) for name, columns in values.items()}
        raise ValueError(f"expected as many values and errors as steps for each name, got {got}")
    ax = ax or plt.subplots(figsize=(5, 3), layout="constrained")[1]
    for k, (name, (steps, value, error)) in enumerate(values.items()):
        style = MARKERS[k % len(MARKERS)] + LINE_STYLES[k % len(LINE_STYLES)]
        ax.errorbar(steps, value, error, fmt=style, capsize=3, color=COLOURS[k % len(COLOURS)], label=name)
    ticks = sorted({step for steps, _, _ in values.values() for step in steps})
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(step) for step in ticks])
    ax.set_xticks([], minor=True)
    ax.set(xlabel="steps")
    return ax


def pushed_density(
    start: Tensor, end: Tensor, *, color: str = BLUE, label: str | None = None, ax: Axes | None = None
) -> Axes:
    """Density of the ends of deterministic paths in one dimension, whose starts are standard normal.

    start, end: (N,) or (N, 1), N >= 2, in increasing order: paths cannot cross, so each interval keeps its probability.
    Raises ValueError for another order or shape.
    """
    x_T, x_0 = start.detach().cpu().double().flatten(), end.detach().cpu().double().flatten()
    if x_T.shape != x_0.shape or len(x_T) < 2 or not bool((x_T.diff() > 0).all() and (x_0.diff() > 0).all()):
        got = f"{tuple(start.shape)} and {tuple(end.shape)}"
        raise ValueError(f"expected starts and ends in increasing order, (N,) with N >= 2, got {got}")
    ax = ax or plt.subplots(figsize=(5, 3), layout="constrained")[1]
    probability = torch.distributions.Normal(0.0, 1.0).cdf(x_T).diff()
    middle = (x_0[1:] + x_0[:-1]) / 2
    ax.plot(middle.numpy(), (probability / x_0.diff()).numpy(), color=color, label=label)
    return ax


def fidelity_and_diversity(record: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Precision over recall: a line for each kind of guidance, the scale beside each point; no legend.

    Of guidance by a classifier, whose points crowd, only the largest scale is named.
    record: of one network, json["guidance"][name] of data/records/variants.json: "rows", each with "way", "scale" and
    "scores", and "real", the scores of real images, a cross. Ways of one scale are single points. Where it has "seeds",
    each a "scale" and the lists of "scores" of classifier-free guidance, its line goes through their means, and bars go
    from the lowest to the highest.
    Raises ValueError for a record without rows, or with a way that is not known.
    """
    rows = record["rows"]
    if unknown := {row["way"] for row in rows} - {*LINES, *POINTS}:
        raise ValueError(f"ways must be {', '.join([*LINES, *POINTS])}, got {', '.join(sorted(unknown))}")
    if not rows:
        raise ValueError("the record must hold at least one row, got none")
    ax = ax or plt.subplots(figsize=(6, 4.5), layout="constrained")[1]

    seeds = {("classifier-free", held["scale"]): held["scores"] for held in record.get("seeds", [])}

    def of_seeds(row: Mapping[str, Any]) -> tuple[list[float], list[float]]:
        """Recall and precision, of each seed or of one."""
        found = seeds.get((row["way"], row["scale"])) or {
            key: row["scores"][key][:1] for key in ("Recall", "Precision")
        }
        return found["Recall"], found["Precision"]

    def at(row: Mapping[str, Any]) -> tuple[float, float]:
        recall, precision = of_seeds(row)
        return sum(recall) / len(recall), sum(precision) / len(precision)

    for way, (color, style) in LINES.items():
        line = sorted((row for row in rows if row["way"] == way), key=lambda row: row["scale"])
        if line:
            recall, precision = zip(*map(at, line), strict=True)
            ax.plot(recall, precision, style, color=color, markersize=4, label=way)
        for row in line if way == "classifier-free" else line[-1:]:
            away = (-12, 4) if way == "classifier" else (5, -10) if row["scale"] == 0 else (5, 4)
            ax.annotate(f"{row['scale']:g}", at(row), away, textcoords="offset points", color=color, fontsize="small")
        for row in line if seeds and way == "classifier-free" else []:
            (x, y), (recalls, precisions) = at(row), of_seeds(row)
            ax.hlines(y, min(recalls), max(recalls), color=color, linewidth=0.8)
            ax.vlines(x, min(precisions), max(precisions), color=color, linewidth=0.8)
    for row in rows:
        if row["way"] in POINTS:
            color, marker = POINTS[row["way"]]
            label = f"{row['way']}, scale {row['scale']:g}"
            ax.plot(*at(row), marker, color=color, markersize=7, label=label)
    ax.plot(
        *at({"way": "real", "scale": None, **record["real"]}),
        "x",
        color="0.3",
        markersize=8,
        markeredgewidth=2,
        label="real, held out",
    )
    ax.margins(x=0.1)
    ax.set(xlabel="recall (diversity)", ylabel="precision (fidelity)")
    return ax


def trilemma(
    record: Mapping[str, Any],
    *,
    quality: str = "frechet",
    coverage: str = "recall",
    ms: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Quality over the time of an image; the larger a disc, the larger the coverage.

    record: data/records/trilemma.json: "rows", each with "chain" and "scores", (mean, low, high) of what `QUALITY` and
    `COVERAGE` name and of "ms", and "real", whose quality is a dashed line. Bars: 95 % intervals over seeds.
    quality: "frechet", on a logarithmic axis, low is good; "precision" or "confident", the share of images of which the
    classifier is more than 90 % sure, high is good. coverage: "recall"; "rarest", the share of the rarest class.
    ms: chain -> milliseconds measured elsewhere, instead of the record's; chains that are not named are left out.
    Raises ValueError for a record without rows, a chain whose family is not known, or another quality or coverage.
    """
    if quality not in QUALITY or coverage not in COVERAGE:
        expected = f"quality must be {', '.join(QUALITY)}, and coverage {', '.join(COVERAGE)}"
        raise ValueError(f"{expected}, got {quality} and {coverage}")
    times = {row["chain"]: row["scores"]["ms"][0] for row in record["rows"]} if ms is None else ms
    rows = sorted((row for row in record["rows"] if row["chain"] in times), key=lambda row: times[row["chain"]])
    families = {row["chain"]: row["chain"].split("-")[0] for row in rows}
    if unknown := sorted(set(families.values()) - set(FAMILIES)):
        raise ValueError(f"families must be {', '.join(FAMILIES)}, got {', '.join(unknown)}")
    if not rows:
        raise ValueError("the record must hold at least one row, got none")
    ax = ax or plt.subplots(figsize=(8, 5), layout="constrained")[1]
    (name, logarithmic), (word, most) = QUALITY[quality], COVERAGE[coverage]
    heights = [row["scores"][quality][0] for row in rows]
    heights = [math.log(value) for value in heights] if logarithmic else heights
    wide, high = math.log(times[rows[-1]["chain"]] / times[rows[0]["chain"]]) or 1, max(heights) - min(heights) or 1
    places = [(math.log(times[row["chain"]]) / wide, height / high) for row, height in zip(rows, heights, strict=True)]
    for row, here in zip(rows, places, strict=True):
        scores, color, time = row["scores"], FAMILIES[families[row["chain"]]], times[row["chain"]]
        (value, low, top), covered = scores[quality], scores[coverage][0]
        ax.plot([time, time], [max(low, value / 10), top], color=color, linewidth=1.5)
        ax.scatter(time, value, s=20 + 280 * covered / most, color=color, alpha=0.6, edgecolors="0.2", zorder=3)
        text = f"{row['chain']}\n{word} {covered:.2f}"
        nearest = min((there for there in places if there != here), key=partial(math.dist, here), default=here)
        up = here[1] >= nearest[1]  # the label on the side where no other disc is near, beyond the bar or the disc
        end = top if up else max(low, value / 10)
        beyond = abs((math.log(end) if logarithmic else end) / high - here[1]) > 0.05
        away = (0, (3 if beyond else 13) if up else (-20 if beyond else -30))
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
        place = time, end if beyond else value
        ax.annotate(text, place, away, textcoords="offset points", ha="center", fontsize=7, bbox=box)
    ax.axhline(record["real"]["scores"][quality][0], color="0.3", linestyle="--", label="real, held out")
    ax.set(xscale="log", yscale="log" if logarithmic else "linear", xlabel="milliseconds per image", ylabel=name)
    ax.margins(0.15)
    ax.legend(loc="best", fontsize="small")
    return ax
