"""Records of long runs: they belong to the weights that ship, and a row can be had again."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from ddpm_lesson import data
from ddpm_lesson.experiments.checkpoints import sha256
from ddpm_lesson.experiments.evaluation import Space, reference_of, scores
from ddpm_lesson.experiments.pretrained import about_shipped, load_pretrained
from ddpm_lesson.experiments.recipes import PRESETS, Recipe
from ddpm_lesson.experiments.sampling import Sampling

FOLDER = Path(__file__).parent.parent / "data" / "records"
WEIGHTS = FOLDER.parent / "weights"
OF_WEIGHTS = sorted(path.stem for path in FOLDER.glob("*_ddpm.json"))


def record(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(make_records):
    return make_records


def test_there_are_records():
    assert OF_WEIGHTS == ["digits_ddpm", "mnist_ddpm"]


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_a_record_is_of_the_weights_that_ship(name, script):
    held = record(name)
    assert held["sha256"] == sha256(WEIGHTS / f"{name}.safetensors")
    made = about_shipped(name)["made"]
    assert held["classifier_sha256"] == sha256(WEIGHTS / f"{held['classifier']}.safetensors")
    assert made["classifier_sha256"] == held["classifier_sha256"]
    assert script.belongs(name, WEIGHTS)


def test_a_record_of_other_weights_is_refused(script, monkeypatch, tmp_path):
    held = record("digits_ddpm")
    monkeypatch.setattr(script, "HERE", tmp_path)
    assert not script.belongs("digits_ddpm", WEIGHTS)
    for changed in ("sha256", "classifier_sha256"):
        (tmp_path / "digits_ddpm.json").write_text(json.dumps({**held, changed: "0" * 64}))
        assert not script.belongs("digits_ddpm", WEIGHTS)
    (tmp_path / "digits_ddpm.json").write_text(json.dumps(held))
    assert script.belongs("digits_ddpm", WEIGHTS)


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_every_row_is_there_and_whole(name, script):
    held = record(name)
    rows = [Sampling(**row["sampling"]) for row in held["samplers"]]
    chosen = ["all" if steps >= 1000 else f"trailing{steps}" for steps in script.STEPS]
    assert sorted(rows, key=str) == sorted((Sampling(s, steps) for steps in chosen for s in script.SAMPLERS), key=str)
    guided = [Sampling(**row["sampling"]) for row in held["guidance"]]
    assert guided == [Sampling("ddim", "trailing20", guidance=scale) for scale in script.GUIDANCE]
    n, few = held["scoring"]["n"], held["scoring"]["few"]
    tables = []
    for row in held["samplers"]:
        wanted = few if row["sampling"]["steps"] == "all" else n
        tables += [(row["scores"], wanted), (row.get("scores_of_few", row["scores"]), few)]
    tables += [(row["scores"], n) for row in held["guidance"]]
    assert all(row["seconds_per_image"] > 0 for row in [*held["samplers"], *held["guidance"]])
    for of, number in (("early", n), ("real", n), ("early_few", few), ("real_few", few)):  # the anchors of both numbers
        tables.append((held[of], number))
    for told, number in tables:
        assert told.keys() - {"Bits/dim"} == held["real"].keys()
        assert all(s["n"] == number for key, s in told.items() if key != "Bits/dim")
        assert all(s["low"] <= s["value"] <= s["high"] and s["seed"] == held["seed"] for s in told.values())
    made = about_shipped(name)["made"]
    assert all(held[of] == made[of] for of in ("early", "early_few", "real", "real_few"))
    bits = held["bits"]
    assert len(bits["terms"]) == 1000 and bits["n"] >= held["scoring"]["bits"]
    assert bits["total"] == pytest.approx(bits["prior"] + sum(bits["terms"]), rel=2e-3)  # terms have four digits


def test_a_row_can_be_had_again():
    held = record("digits_ddpm")
    sampling = Sampling("ddim", "trailing10")
    (row,) = [row for row in held["samplers"] if row["sampling"] == asdict(sampling)]
    trained, classifier = load_pretrained("digits_ddpm"), load_pretrained(held["classifier"]).model
    space = Space(
        classifier, held["classifier"], reference_of(data.digits("train").x_0, classifier), data.digits("test")
    )
    again = scores(trained, space, row["n"], sampling)
    for name, score in row["scores"].items():  # the same samples, but for rounding: hardly a twentieth of the interval
        assert again[name].value == pytest.approx(score["value"], abs=0.05 * (score["high"] - score["low"])), name


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_a_record_says_how_the_weights_were_scored(name):
    held = record(name)
    assert held["scoring"] == about_shipped(name)["scoring"]
    assert asdict(Sampling(**held["scoring"]["sampling"])) == held["scoring"]["sampling"]  # nothing left out


def test_readme_is_what_the_script_writes(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == loaded("page").readme()


def test_a_record_that_was_stopped_goes_on(script, tmp_path):
    made = []

    def make(value):
        made.append(value)
        return {"value": value}

    bound = {"sha256": "a", "machine": "x"}
    kept = script.RowCache(tmp_path / "runs" / "record.json", bound)
    assert kept.get("row", lambda: make(1)) == {"value": 1}
    again = script.RowCache(tmp_path / "runs" / "record.json", bound)
    assert again.get("row", lambda: make(2)) == {"value": 1} and again.get("other", lambda: make(3)) == {"value": 3}
    other = script.RowCache(tmp_path / "runs" / "record.json", {**bound, "sha256": "b"})  # other weights: begun anew
    assert other.get("row", lambda: make(4)) == {"value": 4}
    assert made == [1, 3, 4]


def test_short_trainings_are_of_the_recipes_and_the_classifier_that_they_name():
    script, held = loaded("mnist_training"), record("mnist_training")
    assert held["classifier_sha256"] == sha256(WEIGHTS / "mnist_classifier.safetensors")
    as_json = json.loads(json.dumps({"base": script.BASE, "changes": script.CHANGES}))
    assert held["base"] == as_json["base"]
    assert held["drawn"] == {"n": script.DRAWN, "sampling": asdict(script.SAMPLING)}
    assert all(isinstance(Recipe(**script.BASE | change), Recipe) for change in script.CHANGES.values())
    assert {name: row["change"] for name, row in held["rows"].items()} == as_json["changes"]
    for row in held["rows"].values():
        assert row["steps"] > 0 and 0.5 < row["seconds"] / 240 < 2
        assert all(s["low"] <= s["value"] <= s["high"] for s in row["scores"].values())
    # What the shipped recipe took from them: smaller batches, and channels that compute faster.
    distance = {name: row["scores"]["Frechet distance"] for name, row in held["rows"].items()}
    assert distance["ch 16, batches of 32"]["high"] < min(distance["first"]["low"], distance["first, seed 1"]["low"])


def test_the_five_minutes_are_of_the_preset_and_reach_what_is_said(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    script, held = loaded("mnist_fast"), record("mnist_fast")
    as_json = json.loads(json.dumps({"preset": asdict(script.PRESET), "ideas": script.IDEAS}))
    assert held["preset"] == as_json["preset"] == json.loads(json.dumps(asdict(PRESETS["mnist_fast"])))
    assert (held["sampling"], held["guidance"]) == (asdict(script.SAMPLING), script.GUIDED.guidance)
    assert held["classifier_sha256"] == sha256(WEIGHTS / "mnist_classifier.safetensors")
    for seed in script.SEEDS:
        run = held["rows"][f"run {seed}"]
        one, two, five = (run["marks"][str(mark)] for mark in script.MARKS)
        assert five["steps"] == script.PRESET.steps and run["images"] == 9000 and run["cores"] == 2
        assert 59 < one["seconds"] < 62 and 119 < two["seconds"] < 122 and five["seconds"] < 300
        assert five["Frechet distance"][0] <= 0.10 < two["Frechet distance"][0] <= 0.5 < one["Frechet distance"][0]
    ends = [held["rows"][f"run {seed}"]["marks"]["300"]["Frechet distance"][0] for seed in script.SEEDS]
    real = about_shipped("mnist_ddpm")["made"]["real"]["Frechet distance"]
    assert real["n"] == held["drawn"]
    told = f"{min(ends):.2f} to {max(ends):.2f}; as many real digits, held out, have {real['value']:.2f}"
    assert told in " ".join((FOLDER.parent.parent / "README.md").read_text(encoding="utf-8").split())
    for name, row in held["rows"].items():
        if "change" in row:
            idea, seed = name.split(", seed ")
            assert row["change"] == as_json["ideas"][idea] | {"seed": int(seed)}
            assert 0.7 < row["seconds"] / script.IDEA_SECONDS < 1.4 and row["images"] == 9000
    found = {
        idea: [held["rows"][f"{idea}, seed {seed}"]["Frechet distance"][0] for seed in script.SEEDS]
        for idea in script.IDEAS
    }
    preset = found.pop("the preset")
    assert all(min(each) > max(preset) for each in found.values())  # as the page says


def test_the_examples_of_others_had_the_same_time(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    script, held, ours = loaded("mnist_peers"), record("mnist_peers"), record("mnist_fast")
    few = about_shipped("mnist_ddpm")["made"]["real_few"]["Frechet distance"]
    assert sorted(held["rows"]) == ["diffusers", "lucidrains"] and few["n"] == script.FEW
    for row in held["rows"].values():
        assert 300 <= row["seconds"] < 310 and (row["drawn"], row["images"]) == (script.FEW, 9000)
        assert {row["threads"]} == {run["threads"] for name, run in ours["rows"].items() if name.startswith("run")}
        assert row["Frechet distance"][1] > few["high"]  # far from digits, as few as they are
