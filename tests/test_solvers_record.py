"""The record of every sampler's quality against its cost: whole, of the shipped weights, and what it shows."""

import json
from pathlib import Path

import pytest

from ddpm_lesson import Sampling, load_pretrained
from ddpm_lesson.data import bundled
from ddpm_lesson.experiments.checkpoints import sha256
from ddpm_lesson.experiments.sampling import SAMPLERS
from ddpm_lesson.spacing import named

FOLDER = Path(__file__).parent.parent / "data/records"
RECORD = json.loads((FOLDER / "solvers.json").read_text("utf-8"))
every_network = pytest.mark.parametrize("name", RECORD["networks"])


def rows(name, evaluations):
    return {row["chain"]: row for row in RECORD["networks"][name]["rows"] if row["asked_for"] == evaluations}


@every_network
def test_it_holds_every_sampler_at_every_cost_of_these_weights(name):
    held = RECORD["networks"][name]
    assert held["sha256"] == sha256(bundled(f"weights/{name}.safetensors"))
    samplers = {row["sampling"]["sampler"] for row in held["rows"]}
    assert samplers == {name for name, each in SAMPLERS.items() if each.from_noise}
    asked = {(row["chain"], row["asked_for"]) for row in held["rows"]}
    chains = {row["chain"] for row in held["rows"]}
    assert asked == {(chain, each) for chain in chains for each in (3, 5, 8, 10, 15, 20, 50)} and len(asked) == 63
    for row in held["rows"]:
        assert row["frechet"][1] <= row["frechet"][0] <= row["frechet"][2]
        assert Sampling(**row["sampling"]).sampler in SAMPLERS
        assert row["evaluations"] <= row["asked_for"]


@every_network
def test_evaluations_are_what_the_chain_needs(name):
    process = load_pretrained(name).process
    for row in RECORD["networks"][name]["rows"]:
        sampling = Sampling(**row["sampling"])
        steps = len(named(sampling.steps, process.T, process.snr))
        more = {"heun": steps - 1, "plms": 1 if steps > 1 else 0}
        assert row["evaluations"] == steps + more.get(sampling.sampler, 0)


@every_network
def test_some_samplers_at_ten_evaluations_are_as_good_as_all_1000_ancestral_steps(name):
    # Within the 95 % interval of that row: on mnist_ddpm of 100 images, compared with the first 100.
    held = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    whole = Sampling("ancestral")
    (all_steps,) = (row for row in held["samplers"] if Sampling(**row["sampling"]) == whole)
    interval = all_steps["scores"]["Frechet distance"]
    key = "frechet_of_few" if all_steps["n"] == RECORD["few"] else "frechet"
    within = {chain for chain, row in rows(name, 10).items() if row[key][0] <= interval["high"]}
    assert {"ancestral", "2M SDE"} <= within and "Heun" not in within
