"""docs/scale.md: its table is what benchmarks/scale.py counts, and what is counted is right where it is known."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
scale = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "scale.py")))


def test_the_page_holds_what_the_script_counts():
    page = (ROOT / "docs" / "scale.md").read_text("utf-8")
    _, _, after = page.partition(scale.MARKERS[0])
    assert after.partition(scale.MARKERS[1])[0] == scale.table()


def test_sizes_of_two_layers_by_hand():
    size = scale.size_of(
        lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), lambda: {"input": torch.empty(1, 5)}
    )
    assert size.parameters == 5 * 7 + 7 + 7 * 3 + 3
    assert size.operations == 2 * (5 * 7 + 7 * 3)
    assert size.kept == 4 * (5 + 7)  # x and the hidden layer, once


@pytest.mark.parametrize(
    ("name", "parameters", "operations"),
    [  # as published: Ho et al. 2020, Appendix B; EDM's README; DiT's README (multiplications); Stable Diffusion's card
        ("CIFAR-10", 35.7e6, None),
        ("guided-diffusion", 296e6, None),
        ("DiT", None, 2 * 119e9),
        ("Stable Diffusion", 860e6, None),
    ],
)
def test_networks_are_those_of_the_literature(name, parameters, operations):
    (run,) = (run for run in scale.RUNS if name in run.name)
    size = scale.size_of(*run.parts[-1][1:])
    assert parameters is None or size.parameters == pytest.approx(parameters, rel=0.005)
    assert operations is None or size.operations == pytest.approx(operations, rel=0.005)


def test_hours_are_operations_by_the_rate():
    assert scale.hours(312e12 * 0.3 * 3600) == pytest.approx(1)
    assert [scale.rounded(value) for value in (0.000541, 1.26, 13951.0)] == ["0.00054", "1.3", "14,000"]
