"""Figures of notebook 04: what they draw, read back off the Axes, and what they refuse."""

import matplotlib.pyplot as plt
import pytest
import torch

from ddpm_lesson import plots_sampling, spacing


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_indices_stand_in_three_rows_above_each_other():
    visited = spacing.trailing(20, 5)
    ax = plots_sampling.indices(visited, 20)
    at = {(round(text.get_position()[0]), round(text.get_position()[1])): text.get_text() for text in ax.texts}
    assert [at[t, 2] for t in range(20)] == [str(t) for t in range(20)]
    assert [at[t, 1] for t in visited] == ["0", "1", "2", "3", "4"]
    assert [at[t, 0] for t in visited] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("visited", [[], [20], [-1, 3]])
def test_indices_refuse_steps_outside_of_the_base(visited):
    with pytest.raises(ValueError, match=r"timestep_map must hold indices in 0\.\.19"):
        plots_sampling.indices(visited, 20)


def test_paths_end_where_the_last_state_is():
    states = torch.arange(12.0).view(3, 2, 2)
    fig, ax = plt.subplots()
    assert plots_sampling.paths(states, label="walks", ax=ax) is ax
    *walks, end = ax.lines
    assert [walk.get_xydata().tolist() for walk in walks] == states.transpose(0, 1).tolist()
    assert end.get_xydata().tolist() == states[-1].tolist() and end.get_label() == "walks"


def test_paths_refuse_another_shape():
    with pytest.raises(ValueError, match=r"states must be \(S \+ 1, N, 2\), got \(3, 2\)"):
        plots_sampling.paths(torch.zeros(3, 2))


def test_error_against_cost_has_a_line_for_each_sampler_on_logarithmic_axes():
    ax = plots_sampling.error_against_cost({"first": ((5, 10), (0.2, 0.1)), "second": ((5, 10), (0.2, 0.05))})
    assert [line.get_label() for line in ax.lines] == ["first", "second"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.lines[1].get_xydata().tolist() == [[5, 0.2], [10, 0.05]]


@pytest.mark.parametrize("errors", [{}, {"first": ((5, 10), (0.2,))}])
def test_error_against_cost_refuses_what_does_not_fit(errors):
    with pytest.raises(ValueError, match="as many evaluations as errors"):
        plots_sampling.error_against_cost(errors)


def test_quality_against_cost_has_a_band_around_the_reference():
    curves = {"first": ((3, 10), (0.2, 0.1)), "second": ((3, 10), (0.2, 0.05))}
    ax = plots_sampling.quality_against_cost(curves, (0.0, 0.1, 0.4))
    assert [line.get_label() for line in ax.lines[:2]] == ["first", "second"]
    assert ax.lines[2].get_ydata() == [0.1, 0.1] and ax.get_legend() is None
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert band.ymax == pytest.approx(0.4) and band.ymin == pytest.approx(ax.get_ylim()[0]) and band.ymin < 0.05
    assert [text.get_text() for text in ax.get_xticklabels()] == ["3", "10"]


@pytest.mark.parametrize("reference", [(0.2, 0.1, 0.4), (-0.1, 0.1, 0.4), (0.0, 0.5, 0.4)])
def test_quality_against_cost_refuses_what_is_no_interval(reference):
    with pytest.raises(ValueError, match="low <= value <= high"):
        plots_sampling.quality_against_cost({"first": ((3, 10), (0.2, 0.1))}, reference)
