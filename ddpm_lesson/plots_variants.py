"""Figures of notebook 05: what guidance changes.

As in `plots`, each function draws its data on one Axes and returns that Axes.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ddpm_lesson.plots import BLUE, GREEN, ORANGE, PURPLE, VERMILION

LINES = {"classifier-free": (BLUE, "o-"), "classifier": (VERMILION, "s--")}
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
