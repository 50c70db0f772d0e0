"""Figures of notebook 05: what they draw, read back off the Axes, and what they refuse."""

import matplotlib.pyplot as plt
import pytest
import torch

from ddpm_lesson import plots_variants


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_rows_of_images_have_their_names_at_the_height_of_their_row():
    rows = {"first": torch.zeros(3, 1, 4, 4), "second": torch.ones(3, 1, 4, 4)}
    ax = plots_variants.named_rows(rows)
    assert [text.get_text() for text in ax.texts] == ["first", "second"]
    middles = [(image.get_extent()[2] + image.get_extent()[3]) / 2 for image in ax.images]
    assert [text.get_position()[1] for text in ax.texts] == pytest.approx([middles[0], middles[3]])
    assert len(ax.images) == 6


@pytest.mark.parametrize("rows", [{}, {"first": torch.zeros(3, 1, 4, 4), "second": torch.zeros(2, 1, 4, 4)}])
def test_rows_of_different_length_are_refused(rows):
    with pytest.raises(ValueError, match="expected rows of images of one shape"):
        plots_variants.named_rows(rows)


def test_values_over_steps_have_their_errors():
    ax = plots_variants.over_steps({"first": ((10, 50), (2.0, 1.0), (0.5, 0.25))})
    line, _, (bars,) = ax.containers[0]
    assert line.get_xydata().tolist() == [[10, 2], [50, 1]] and ax.get_xscale() == "log"
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[1.5, 2.5], [0.75, 1.25]]


@pytest.mark.parametrize("values", [{}, {"first": ((10, 50), (2.0, 1.0), (0.5,))}])
def test_values_over_steps_refuse_what_does_not_fit(values):
    with pytest.raises(ValueError, match="as many values and errors as steps"):
        plots_variants.over_steps(values)


def test_a_pushed_density_is_that_of_the_map():
    start = torch.linspace(-3, 3, 601, dtype=torch.float64)
    ax = plots_variants.pushed_density(start, 2 * start + 1)
    x, density = torch.as_tensor(ax.lines[0].get_xydata()).T
    exact = torch.distributions.Normal(1.0, 2.0).log_prob(x).exp()
    assert torch.allclose(density, exact, atol=1e-5)  # the mean over an interval of 0.02: off by up to 0.02^2 f'' / 24


@pytest.mark.parametrize("end", [[0.0, 2.0, 1.0], [0.0, 1.0]])
def test_a_pushed_density_refuses_paths_that_cross(end):
    with pytest.raises(ValueError, match="starts and ends in increasing order"):
        plots_variants.pushed_density(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor(end))


def row(way, scale, recall, precision):
    return {"way": way, "scale": scale, "scores": {"Recall": [recall, 0, 1], "Precision": [precision, 0, 1]}}


def record(*rows):
    return {"rows": list(rows), "real": {"scores": {"Recall": [0.5, 0, 1], "Precision": [0.6, 0, 1]}}}


def test_each_kind_of_guidance_is_a_line_by_scale():
    rows = [
        row("classifier-free", 2.0, 0.4, 0.9),
        row("classifier-free", 0.5, 0.8, 0.3),
        row("classifier", 1.0, 0.7, 0.5),
        row("classifier", 0.5, 0.6, 0.4),  # not named: only the largest scale of this line is
    ]
    fig, ax = plt.subplots()
    assert plots_variants.fidelity_and_diversity(record(*rows, row("orthogonal", 5.0, 0.3, 0.95)), ax=ax) is ax
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines["classifier-free"] == [[0.8, 0.3], [0.4, 0.9]]
    assert lines["classifier"] == [[0.6, 0.4], [0.7, 0.5]]
    assert lines["orthogonal, scale 5"] == [[0.3, 0.95]]
    assert lines["real, held out"] == [[0.5, 0.6]]
    assert {(text.get_text(), text.xy) for text in ax.texts} == {
        ("2", (0.4, 0.9)),
        ("0.5", (0.8, 0.3)),
        ("1", (0.7, 0.5)),
    }


def test_bars_go_from_the_lowest_to_the_highest_seed():
    held = record(row("classifier-free", 2.0, 0.4, 0.9), row("classifier", 2.0, 0.5, 0.5))
    held["seeds"] = [{"scale": 2.0, "scores": {"Recall": [0.4, 0.3, 0.45], "Precision": [0.9, 0.8, 0.85]}}]
    _, ax = plt.subplots()
    across, up = plots_variants.fidelity_and_diversity(held, ax=ax).collections
    (x, y), *_ = ax.lines[0].get_xydata().tolist()
    assert (x, y) == pytest.approx((1.15 / 3, 0.85))
    assert across.get_segments()[0].tolist() == [[0.3, y], [0.45, y]]
    assert up.get_segments()[0].tolist() == [[x, 0.8], [x, 0.9]]


def test_records_without_rows_and_unknown_ways_are_refused():
    with pytest.raises(ValueError, match="the record must hold at least one row, got none"):
        plots_variants.fidelity_and_diversity(record())
    with pytest.raises(ValueError, match="ways must be classifier-free, .*, interval, got luck"):
        plots_variants.fidelity_and_diversity(record(row("luck", 1.0, 0.5, 0.5)))


def measured(chain, ms, frechet, recall):
    scores = {"ms": [ms, ms, ms], "frechet": [frechet, frechet / 2, 2 * frechet], "recall": [recall, 0, 1]}
    return {"chain": chain, "scores": scores}


def test_the_trilemma_is_distance_over_time_with_discs_of_recall():
    rows = [measured("DDIM-10", 2.0, 0.1, 0.9), measured("GAN-1", 0.1, 1.5, 0.25), measured("VAE", 0.01, 4.0, 0.5)]
    real = {"scores": {"frechet": [0.3, 0.2, 0.4]}}
    fig, ax = plt.subplots()
    assert plots_variants.trilemma({"rows": rows, "real": real}, ax=ax) is ax
    discs = [(disc.get_offsets().tolist()[0], disc.get_sizes()[0]) for disc in ax.collections]
    assert [place for place, _ in discs] == [[0.01, 4.0], [0.1, 1.5], [2.0, 0.1]]
    assert discs[2][1] > discs[0][1] > discs[1][1]
    *bars, line = ax.lines
    assert [bar.get_xydata().tolist() for bar in bars][1] == [[0.1, 0.75], [0.1, 3.0]]
    assert set(line.get_ydata()) == {0.3}
    assert [text.get_text() for text in ax.texts][1] == "GAN-1\nrecall 0.25"
    colours = [bar.get_color() for bar in bars]
    assert len(set(colours)) == 3
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_of_two_discs_that_touch_the_upper_one_has_its_name_above():
    rows = [measured("DDIM-10", 2.0, 0.1, 0.9), measured("DDPM-9", 2.1, 0.09, 0.9), measured("VAE", 0.01, 4.0, 0.5)]
    for row, half in zip(rows, (0.001, 0.001, 2), strict=True):  # two bars within their discs, and a long one
        value = row["scores"]["frechet"][0]
        row["scores"]["frechet"] = [value, value - half, value + half]
    ax = plots_variants.trilemma({"rows": rows, "real": {"scores": {"frechet": [0.3, 0.2, 0.4]}}})
    names = {text.get_text().split("\n")[0]: (text.xy[1], text.xyann[1]) for text in ax.texts}
    assert names == {"VAE": (6.0, 3), "DDIM-10": (0.1, 13), "DDPM-9": (0.09, -30)}


def test_the_trilemma_takes_another_quality_coverage_and_clock():
    rows = [measured("DDIM-10", 2.0, 0.1, 0.9), measured("GAN-1", 0.1, 1.5, 0.25), measured("VAE", 0.01, 4.0, 0.5)]
    for row, precision, rarest in zip(rows, (0.9, 0.2, 0.4), (0.1, 0.0, 0.05), strict=True):
        row["scores"] |= {"precision": [precision, precision - 0.01, precision + 0.01], "rarest": [rarest, 0, 1]}
    real, choice = {"scores": {"precision": [0.75, 0.7, 0.8]}}, {"quality": "precision", "coverage": "rarest"}
    _, ax = plt.subplots()
    plots_variants.trilemma({"rows": rows, "real": real}, **choice, ms={"VAE": 3.0, "DDIM-10": 7.0}, ax=ax)
    discs = [(disc.get_offsets().tolist()[0], disc.get_sizes()[0]) for disc in ax.collections]
    assert discs == [([3.0, 0.4], 160), ([7.0, 0.9], 300)]  # the larger, the more even the classes
    assert (ax.get_ylabel(), ax.get_yscale()) == ("precision", "linear")
    assert "DDIM-10\nrarest class 0.10" in [text.get_text() for text in ax.texts]
    with pytest.raises(ValueError, match="quality must be frechet, precision, confident, .* got beauty and recall"):
        plots_variants.trilemma({"rows": rows, "real": real}, quality="beauty")


def test_a_trilemma_without_rows_or_of_an_unknown_family_is_refused():
    real = {"scores": {"frechet": [0.3, 0.2, 0.4]}}
    with pytest.raises(ValueError, match="the record must hold at least one row, got none"):
        plots_variants.trilemma({"rows": [], "real": real})
    with pytest.raises(ValueError, match="families must be DDPM, .*, VAE, got flow"):
        plots_variants.trilemma({"rows": [measured("flow-1", 1.0, 1.0, 1.0)], "real": real})
