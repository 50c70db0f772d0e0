"""Records of long runs: they belong to the weights that ship, and a row can be had again."""

import importlib.util
import json
from pathlib import Path

import pytest

from ddpm_lesson import data
from ddpm_lesson.checkpoints import sha256
from ddpm_lesson.evaluation import scores
from ddpm_lesson.pretrained import load_pretrained

FOLDER = Path(__file__).parent.parent / "data" / "records"
WEIGHTS = FOLDER.parent / "weights"
OF_WEIGHTS = sorted(path.stem for path in FOLDER.glob("*_ddpm.json"))


def record(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_records", FOLDER / "make_records.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_records():
    assert "digits_ddpm" in OF_WEIGHTS


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_a_record_is_of_the_weights_that_ship(name, script):
    held = record(name)
    assert held["sha256"] == sha256(WEIGHTS / f"{name}.safetensors")
    assert held["classifier_sha256"] == sha256(WEIGHTS / f"{held['classifier']}.safetensors")
    assert script.belongs(name, WEIGHTS)


def test_a_record_of_other_weights_is_refused(script, monkeypatch, tmp_path):
    held = record("digits_ddpm")
    monkeypatch.setattr(script, "HERE", tmp_path)
    assert not script.belongs("digits_ddpm", WEIGHTS)
    (tmp_path / "digits_ddpm.json").write_text(json.dumps({**held, "sha256": held["classifier_sha256"]}))
    assert not script.belongs("digits_ddpm", WEIGHTS)


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_every_row_is_there_and_whole(name, script):
    held = record(name)
    rows = [(row["sampler"], row["steps"]) for row in held["samplers"]]
    chosen = [None if steps >= 1000 else f"trailing{steps}" for steps in script.STEPS]
    assert sorted(rows, key=str) == sorted(((s, steps) for steps in chosen for s in script.SAMPLERS), key=str)
    assert [row["guidance"] for row in held["guidance"]] == list(script.GUIDANCE)
    for row in [*held["samplers"], *held["guidance"]]:
        assert row["seconds_per_image"] > 0 and row["n"] >= 100
        assert row["scores"].keys() == held["real"].keys()
        assert all(s["low"] <= s["value"] <= s["high"] and s["seed"] == held["seed"] for s in row["scores"].values())
    bits = held["bits"]
    assert len(bits["terms"]) == 1000
    assert bits["total"] == pytest.approx(bits["prior"] + sum(bits["terms"]), rel=2e-3)  # terms have four digits


def test_a_row_can_be_had_again():
    held = record("digits_ddpm")
    (row,) = [row for row in held["samplers"] if (row["sampler"], row["steps"]) == ("ddim", "trailing10")]
    trained, classifier = load_pretrained("digits_ddpm"), load_pretrained(held["classifier"])
    drawing = {"n": row["n"], "steps": row["steps"], "eta": row["eta"]}
    sets = data.digits("train"), data.digits("test")
    again = scores(trained, classifier, held["classifier"], *sets, **drawing)
    for name, score in row["scores"].items():
        assert score["low"] <= again[name].value <= score["high"], name
