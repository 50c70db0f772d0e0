"""Figures of notebook 05: what they draw, read back off the Axes, and what they refuse."""

import matplotlib.pyplot as plt
import pytest

from ddpm_lesson import plots_variants


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def row(way, scale, recall, precision):
    return {"way": way, "scale": scale, "scores": {"Recall": [recall, 0, 1], "Precision": [precision, 0, 1]}}


def record(*rows):
    return {"rows": list(rows), "real": {"scores": {"Recall": [0.5, 0, 1], "Precision": [0.6, 0, 1]}}}


def test_each_kind_of_guidance_is_a_line_by_scale():
    rows = [
        row("classifier-free", 2.0, 0.4, 0.9),
        row("classifier-free", 0.5, 0.8, 0.3),
        row("classifier", 1.0, 0.7, 0.5),
    ]
    fig, ax = plt.subplots()
    assert plots_variants.fidelity_and_diversity(record(*rows, row("orthogonal", 5.0, 0.3, 0.95)), ax=ax) is ax
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines["classifier-free"] == [[0.8, 0.3], [0.4, 0.9]]
    assert lines["classifier"] == [[0.7, 0.5]]
    assert lines["orthogonal, scale 5"] == [[0.3, 0.95]]
    assert lines["real, held out"] == [[0.5, 0.6]]
    assert {(text.get_text(), text.xy) for text in ax.texts} == {
        ("2", (0.4, 0.9)),
        ("0.5", (0.8, 0.3)),
        ("1", (0.7, 0.5)),
    }


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
    assert [place for place, _ in discs] == [[2.0, 0.1], [0.1, 1.5], [0.01, 4.0]]
    assert discs[0][1] > discs[2][1] > discs[1][1]
    *bars, line = ax.lines
    assert [bar.get_xydata().tolist() for bar in bars][1] == [[0.1, 0.75], [0.1, 3.0]]
    assert set(line.get_ydata()) == {0.3}
    assert [text.get_text() for text in ax.texts][1] == "GAN-1\nrecall 0.25"
    colours = [bar.get_color() for bar in bars]
    assert len(set(colours)) == 3
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_a_trilemma_without_rows_or_of_an_unknown_family_is_refused():
    real = {"scores": {"frechet": [0.3, 0.2, 0.4]}}
    with pytest.raises(ValueError, match="the record must hold at least one row, got none"):
        plots_variants.trilemma({"rows": [], "real": real})
    with pytest.raises(ValueError, match="families must be DDPM, .*, VAE, got flow"):
        plots_variants.trilemma({"rows": [measured("flow-1", 1.0, 1.0, 1.0)], "real": real})
