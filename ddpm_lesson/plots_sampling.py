"""Figures of notebook 04: which step is which, paths in the plane, error against cost.

As in `plots`, each function draws its data on one Axes and returns that Axes.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from ddpm_lesson.plots import BLUE, COLOURS, GREEN, LINE_STYLES, VERMILION

MARKERS = "osD^vP*X"


def indices(timestep_map: Sequence[int], T: int, *, ax: Axes | None = None) -> Axes:
    """Three ways to count the steps of a shorter chain: base index, loop index, and the papers' t of the chain.

    timestep_map: increasing indices into 0..T-1, the base's steps that the chain visits.  T: steps of the base.
    Raises ValueError if an index leaves 0..T-1.
    """
    visited = [int(t) for t in timestep_map]
    if not visited or min(visited) < 0 or max(visited) >= T:
        raise ValueError(f"timestep_map must hold indices in 0..{T - 1}, got {visited}")
    ax = ax or plt.subplots(figsize=(8, 2.4), layout="constrained")[1]
    for t in range(T):
        chosen = t in visited
        ax.text(
            t,
            2,
            str(t),
            ha="center",
            va="center",
            color="white" if chosen else "0.45",
            weight="bold" if chosen else None,
        )
        ax.scatter(t, 2, s=320, color=BLUE if chosen else "0.9", zorder=0)
    for i, t in enumerate(visited):
        ax.annotate("", (t, 1.72), (t, 1.28), arrowprops={"arrowstyle": "-|>", "color": "0.4"})
        ax.scatter(t, 1, s=320, color=VERMILION, zorder=0)
        ax.text(t, 1, str(i), ha="center", va="center", color="white", weight="bold")
        ax.scatter(t, 0, s=320, color=GREEN, zorder=0)
        ax.text(t, 0, str(i + 1), ha="center", va="center", color="white", weight="bold")
    names = (
        "steps $t$ of the base:\nwhat the network is told",
        "loop index $i$ of the chain",
        "the papers' $t$ of the chain",
    )
    for y, name in zip((2, 1, 0), names, strict=True):
        ax.text(-0.8, y, name, ha="right", va="center", fontsize="small")
    ax.set(xlim=(-6.5, T - 0.4), ylim=(-0.5, 2.5))
    ax.axis("off")
    return ax


def paths(states: Tensor, *, color: str = BLUE, label: str | None = None, ax: Axes | None = None) -> Axes:
    """Paths of points in the plane, a dot at each state and a larger one at the end.

    states: (S + 1, N, 2), x_T first.  label: for the legend, which the caller draws.
    Raises ValueError for another shape.
    """
    if states.ndim != 3 or states.shape[2] != 2:
        raise ValueError(f"states must be (S + 1, N, 2), got {tuple(states.shape)}")
    ax = ax or plt.subplots(figsize=(3.5, 3.5), layout="constrained")[1]
    x, y = states.detach().cpu().double().numpy().transpose(2, 0, 1)
    ax.plot(x, y, ".-", color=color, linewidth=0.8, markersize=2.5, alpha=0.8)
    ax.plot(x[-1], y[-1], "o", color=color, markersize=4.5, linestyle="none", label=label)
    ax.set(xlabel="$x^{(1)}$", ylabel="$x^{(2)}$", aspect="equal")
    return ax


def error_against_cost(
    errors: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str = "network evaluations",
    ax: Axes | None = None,
) -> Axes:
    """Error over cost, one line for each sampler, both axes logarithmic: the slope is the order.

    errors: name -> (evaluations, errors), as many of each.  Raises ValueError for no line or two lengths.
    """
    ax = _lines(errors, ax)
    ax.set(xlabel=xlabel, ylabel="error")
    ax.legend(fontsize="small")
    return ax


def _lines(errors: Mapping[str, tuple[Sequence[float], Sequence[float]]], ax: Axes | None) -> Axes:
    if not errors or any(len(cost) != len(error) for cost, error in errors.values()):
        raise ValueError("errors must hold as many evaluations as errors for at least one sampler")
    ax = ax or plt.subplots(figsize=(7, 4), layout="constrained")[1]
    for k, (name, (cost, error)) in enumerate(errors.items()):
        style = LINE_STYLES[k // len(COLOURS) % len(LINE_STYLES)]
        marker, color = MARKERS[k % len(MARKERS)], COLOURS[k % len(COLOURS)]
        ax.loglog(cost, error, style, marker=marker, markersize=4, color=color, label=name)
    return ax


def quality_against_cost(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    reference: tuple[float, float, float],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Frechet distance over network evaluations, one line for each sampler, both axes logarithmic; no legend.

    curves: name -> (evaluations, distances).  reference: low, value and high of an interval, such as a long chain's,
    drawn as a band with a line in it; a low of 0 reaches the lower edge.
    Raises ValueError as error_against_cost does, and if the interval is not in order or lies below 0.
    """
    low, value, high = reference
    if not 0 <= low <= value <= high:
        raise ValueError(f"reference must be 0 <= low <= value <= high, got {reference}")
    ax = _lines(curves, ax)
    bottom = 0.7 * min(value, *(distance for _, distances in curves.values() for distance in distances))
    ax.axhspan(max(low, bottom), high, color="0.9", zorder=0)
    ax.axhline(value, color="0.6", zorder=0)
    ticks = sorted({cost for costs, _ in curves.values() for cost in costs if cost in (3, 5, 10, 20, 50, 100)})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set(xlabel="network evaluations", ylabel="Fréchet distance", ylim=(bottom, None))
    return ax
