"""The record of quality, coverage and speed: whole, of the shipped weights, and what it shows."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from ddpm_lesson.data import bundled
from ddpm_lesson.experiments.checkpoints import sha256
from ddpm_lesson.experiments.pretrained import about_shipped

FOLDER = Path(__file__).parent.parent / "data/records"
RECORD = json.loads((FOLDER / "trilemma.json").read_text("utf-8"))
ROWS = {row["chain"]: row for row in RECORD["rows"]}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("trilemma", FOLDER / "trilemma.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_chain_is_there_of_these_weights(script):
    assert list(ROWS) == list(script.CHAINS)
    for row in RECORD["rows"]:
        assert row["sha256"] == sha256(bundled(f"weights/{row['weights']}.safetensors"))
    for row in [*RECORD["rows"], RECORD["real"]]:
        assert all(low <= mean <= high for mean, low, high in row["scores"].values())


def test_the_interval_is_students(script):
    mean, low, high = script.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3 and high - mean == pytest.approx(2.776 * 2.5**0.5 / 5**0.5, abs=1e-3)
    assert low == pytest.approx(2 * mean - high)


@pytest.mark.parametrize("chains", [("distilled-2", "distilled-4"), ("DDIM-10", "DDIM-50", "DDPM-1000")])
def test_more_steps_of_one_network_take_longer(chains):
    ms = [ROWS[chain]["scores"]["ms"][0] for chain in chains]
    assert ms == sorted(ms)


def test_four_steps_of_a_gan_come_near_to_the_digits_and_cost_less_than_a_student():
    found = ROWS["DDGAN-4"]["scores"]
    assert found["frechet"][2] < 0.8 < 2 < ROWS["VAE"]["scores"]["frechet"][1]
    assert found["precision"][1] > 0.6 and found["recall"][1] > 0.9
    assert found["classes"] == [10.0, 10.0, 10.0] and found["rarest"][1] > 0.06
    assert found["ms"][2] < ROWS["distilled-2"]["scores"]["ms"][1] / 5


def test_students_keep_what_their_teacher_has_with_more_steps():
    scores = {chain: row["scores"] for chain, row in ROWS.items()}
    assert scores["distilled-2"]["frechet"][2] < scores["DDGAN-4"]["frechet"][1] < scores["GAN-1"]["frechet"][1]
    assert scores["distilled-2"]["recall"][1] > 0.7


def test_four_steps_of_a_gan_are_nearer_and_more_even_than_one_which_is_more_precise():
    """By the same networks and training: the recipes differ in the chain alone."""
    four, one = (ROWS[chain]["scores"] for chain in ("DDGAN-4", "GAN-1"))
    assert 3 * four["frechet"][2] < one["frechet"][1] and four["recall"][1] > one["recall"][2] + 0.05
    assert four["rarest"][1] > 2 * one["rarest"][2] and four["precision"][2] < one["precision"][1] - 0.1
    recipes = [about_shipped(name)["recipe"] for name in ("digits_ddgan", "digits_gan")]
    assert {key for key in recipes[0] if recipes[0][key] != recipes[1][key]} == {"kind", "T", "schedule"}


def test_a_row_is_drawn_again(script):
    images = script.drawer(*script.CHAINS["VAE"])(200, 7)
    assert images.shape == (200, 1, 8, 8)
    assert torch.equal(images, script.drawer(*script.CHAINS["VAE"])(200, 7))
