"""Figures of notebook 05: what guidance changes; quality, coverage and speed.

As in `plots`, each function draws its data on one Axes and returns that Axes.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ddpm_lesson.plots import BLUE, GREEN, ORANGE, PURPLE, VERMILION

LINES = {"classifier-free": (BLUE, "o-"), "classifier": (VERMILION, "s--")}
FAMILIES = {
    "DDPM": BLUE,
    "DDIM": BLUE,
    "DPM": BLUE,
    "DDGAN": VERMILION,
    "distilled": GREEN,
    "GAN": PURPLE,
    "VAE": ORANGE,
}
POINTS = {"rescaled": (GREEN, "^"), "orthogonal": (PURPLE, "D"), "interval": (ORANGE, "P")}


def fidelity_and_diversity(record: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Precision over recall: a line for each kind of guidance, the scale beside each point; no legend.

    record: of one network, json["guidance"][name] of data/records/variants.json: "rows", each with "way", "scale" and
    "scores", and "real", the scores of real images, a cross. Ways of one scale are single points.
    Raises ValueError for a record without rows, or with a way that is not known.
    """
    rows = record["rows"]
    if unknown := {row["way"] for row in rows} - {*LINES, *POINTS}:
        raise ValueError(f"ways must be {', '.join([*LINES, *POINTS])}, got {', '.join(sorted(unknown))}")
    if not rows:
        raise ValueError("the record must hold at least one row, got none")
    ax = ax or plt.subplots(figsize=(6, 4.5), layout="constrained")[1]

    def at(held: Mapping[str, Any]) -> tuple[float, float]:
        return held["scores"]["Recall"][0], held["scores"]["Precision"][0]

    for way, (color, style) in LINES.items():
        line = sorted((row for row in rows if row["way"] == way), key=lambda row: row["scale"])
        if line:
            recall, precision = zip(*map(at, line), strict=True)
            ax.plot(recall, precision, style, color=color, markersize=4, label=way)
        for row in line:
            offset = (5, 4) if way == "classifier-free" else (-5, -10)
            ax.annotate(f"{row['scale']:g}", at(row), offset, textcoords="offset points", color=color, fontsize="small")
    for row in rows:
        if row["way"] in POINTS:
            color, marker = POINTS[row["way"]]
            label = f"{row['way']}, scale {row['scale']:g}"
            ax.plot(*at(row), marker, color=color, markersize=7, label=label)
    ax.plot(*at(record["real"]), "x", color="0.3", markersize=8, markeredgewidth=2, label="real, held out")
    ax.set(xlabel="recall (diversity)", ylabel="precision (fidelity)")
    return ax


def trilemma(record: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Frechet distance over the time of an image, both logarithmic; a disc's area is the recall.

    record: data/records/trilemma.json: "rows", each with "chain" and "scores", (mean, low, high) of "ms", "frechet" and
    "recall", and "real", whose distance is a dashed line. Bars: 95 % intervals over seeds. Low and left is good, large
    is good. Raises ValueError for a record without rows, or with a chain whose family is not known.
    """
    rows = record["rows"]
    families = {row["chain"]: row["chain"].split("-")[0] for row in rows}
    if unknown := sorted(set(families.values()) - set(FAMILIES)):
        raise ValueError(f"families must be {', '.join(FAMILIES)}, got {', '.join(unknown)}")
    if not rows:
        raise ValueError("the record must hold at least one row, got none")
    ax = ax or plt.subplots(figsize=(6.5, 4.5), layout="constrained")[1]
    for row in rows:
        scores, color = row["scores"], FAMILIES[families[row["chain"]]]
        ms, (distance, low, high), recall = scores["ms"][0], scores["frechet"], scores["recall"][0]
        ax.plot([ms, ms], [max(low, distance / 10), high], color=color, linewidth=1.5)
        ax.scatter(ms, distance, s=20 + 280 * recall, color=color, alpha=0.6, edgecolors="0.2", zorder=3)
        text = f"{row['chain']}\nrecall {recall:.2f}"
        ax.annotate(text, (ms, distance), (0, 13), textcoords="offset points", ha="center", fontsize="x-small")
    ax.axhline(record["real"]["scores"]["frechet"][0], color="0.3", linestyle="--", label="real, held out")
    ax.set(xscale="log", yscale="log", xlabel="milliseconds per image", ylabel="Frechet distance")
    ax.margins(0.15)
    ax.legend(loc="best", fontsize="small")
    return ax
