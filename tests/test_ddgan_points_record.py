"""The record of generators on eight clusters: whole, and what notebook 05 says of it."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "data/records"
HELD = json.loads((FOLDER / "ddgan_points.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("ddgan_points", FOLDER / "ddgan_points.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(kind):
    return [row for row in HELD["rows"] if row["kind"] == kind]


def test_it_holds_every_kind_with_every_seed_at_these_settings(script):
    assert HELD["settings"] == script.SETTINGS and HELD["kinds"] == script.KINDS
    wanted = {(kind, seed) for kind, about in script.KINDS.items() for seed in range(about["seeds"])}
    assert {(row["kind"], row["seed"]) for row in HELD["rows"]} == wanted and len(HELD["rows"]) == len(wanted)
    for row in HELD["rows"]:
        assert len(row["shares"]) == 8 and abs(sum(row["shares"]) - row["near"]) < 0.002


def test_four_steps_keep_every_cluster_with_every_seed_in_under_40_seconds():
    assert min(min(row["shares"]) for row in rows("DDGAN")) > 0.08
    assert all(row["near"] > 0.86 and row["cpu_seconds"] < 40 for row in rows("DDGAN"))


def test_the_gan_of_one_step_drops_clusters_with_every_seed():
    lost = [sum(share < 0.01 for share in row["shares"]) for row in rows("GAN")]
    assert min(lost) >= 3 and max(lost) <= 5
    assert min(row["near"] for row in rows("GAN")) > 0.94
