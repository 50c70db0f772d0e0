"""The record of the variants: whole, of the shipped weights, and what notebook 05 takes from it."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from ddpm_lesson import data, load_pretrained
from ddpm_lesson.bound import bits_per_dim, discretized
from ddpm_lesson.data import bundled
from ddpm_lesson.experiments.checkpoints import sha256
from ddpm_lesson.experiments.features import classified
from ddpm_lesson.experiments.metrics import conditional_accuracy
from ddpm_lesson.predictions import learned_range
from ddpm_lesson.spacing import named

FOLDER = Path(__file__).parent.parent / "data/records"
RECORD = json.loads((FOLDER / "variants.json").read_text("utf-8"))
every_network = pytest.mark.parametrize("name", RECORD["guidance"])
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("variants_record", FOLDER / "variants.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(name):
    return {(row["way"], row["scale"]): row for row in RECORD["guidance"][name]["rows"]}


def score(name, way, scale, key):
    """Value, and the ends of its interval."""
    return rows(name)[way, scale]["scores"][key]


@every_network
def test_it_holds_every_way_to_guide_with_these_weights(name):
    held, of = RECORD["guidance"][name], name.removesuffix("_ddpm")
    files = {
        "sha256": name,
        "classifier_sha256": f"{of}_classifier",
        "noise_classifier_sha256": f"{of}_noise_classifier",
    }
    assert {key: held[key] for key in files} == {
        k: sha256(bundled(f"weights/{f}.safetensors")) for k, f in files.items()
    }
    lines = {(way, scale) for way in ("classifier-free", "classifier") for scale in SCALES}
    assert rows(name).keys() == lines | {(way, 5.0) for way in ("rescaled", "orthogonal", "interval")}
    assert len(held["rows"]) == len(rows(name)) and RECORD["guidance"].keys() == {"digits_ddpm", "mnist_ddpm"}
    for row in [*held["rows"], held["real"]]:
        assert set(row["scores"]) == {"Conditional accuracy", "Precision", "Recall", "Frechet distance"}
        assert all(low <= value <= high for value, low, high in row["scores"].values())
    assert {row["n"] for row in held["rows"]} == {{"digits_ddpm": 500, "mnist_ddpm": 300}[name]}


@every_network
def test_without_guidance_both_kinds_draw_the_same_images(name):
    # Scale 0 is the network without a label, whoever would have guided.
    assert rows(name)["classifier-free", 0.0]["scores"] == rows(name)["classifier", 0.0]["scores"]


@every_network
def test_a_larger_scale_costs_variety(name):
    # Intervals do not overlap: one network, 300 or 500 images a row.
    recall = {scale: score(name, "classifier-free", scale, "Recall") for scale in SCALES}
    assert recall[5.0][2] < recall[2.0][1] and recall[2.0][2] < recall[1.0][1]
    accuracy = {scale: score(name, "classifier-free", scale, "Conditional accuracy") for scale in SCALES}
    assert accuracy[0.0][2] < accuracy[0.5][1] and accuracy[0.5][2] < accuracy[1.0][1]


def of_seeds(name, key):
    """Each scale's score of classifier-free guidance, five seeds."""
    return {row["scale"]: row["scores"][key] for row in RECORD["guidance"][name]["seeds"]}


@every_network
def test_five_seeds_of_every_scale_the_first_as_in_the_rows(name):
    seeds = RECORD["guidance"][name]["seeds"]
    assert [row["scale"] for row in seeds] == list(SCALES)
    for row in seeds:
        assert all(len(values) == 5 for values in row["scores"].values())
        assert len(set(zip(*row["scores"].values(), strict=True))) == 5  # other noise
        first = {key: values[0] for key, values in row["scores"].items()}
        assert first == {key: score(name, "classifier-free", row["scale"], key)[0] for key in first}


@every_network
def test_over_five_seeds_a_scale_costs_variety_and_gains_fidelity(name):
    """Every seed of the one beyond every seed of the other, by a margin."""
    recall, precision = of_seeds(name, "Recall"), of_seeds(name, "Precision")
    assert min(recall[1.0]) - max(recall[2.0]) > 0.1 and min(recall[2.0]) - max(recall[5.0]) > 0.05
    assert min(precision[2.0]) - max(precision[0.5]) > 0.03 and min(precision[3.0]) > max(precision[8.0])
    told = of_seeds(name, "Conditional accuracy")
    assert min(told[0.5]) - max(told[0.0]) > 0.3 and min(told[1.0]) - max(told[0.5]) > 0.2


def test_over_five_seeds_the_distance_is_least_where_the_notebook_says():
    distance = {name: of_seeds(name, "Frechet distance") for name in RECORD["guidance"]}
    least = {name: min(SCALES, key=lambda scale: sum(of[scale])) for name, of in distance.items()}
    assert least == {"digits_ddpm": 1.0, "mnist_ddpm": 1.5}
    for name, of in distance.items():
        assert max(of[least[name]]) < min(of[0.0] + of[0.5] + of[3.0] + of[5.0] + of[8.0]) - 0.04


def test_a_seed_can_be_had_again(script, monkeypatch):
    monkeypatch.setattr(script, "SEEDS", [3])
    trained, classifier = load_pretrained("digits_ddpm"), load_pretrained("digits_classifier").model
    x_0, test = data.digits("train").x_0, data.digits("test")
    space = script.Space(classifier, "digits_classifier", script.reference_of(x_0, classifier), test)
    found = script.seed_scores(trained, classifier, script.partial(script.free, 1.5), 500, space)
    for key in ("Precision", "Recall"):
        assert found[key] == pytest.approx([of_seeds("digits_ddpm", key)[1.5][3]], abs=0.02)  # ten images turned


@every_network
def test_the_interval_is_that_of_the_noise_levels(name):
    process, (low, high) = load_pretrained(name).process, RECORD["guidance"][name]["interval"]
    sigma = ((1 - process.alphas_bar) / process.alphas_bar).sqrt()
    least, most = RECORD["sigmas"]
    assert sigma[low - 1] < least <= sigma[low] and sigma[high] <= most < sigma[high + 1]


def test_a_row_can_be_had_again(script):
    # The same images, but for rounding: of 500 another machine may turn a few.
    trained, classifier = load_pretrained("digits_ddpm"), load_pretrained("digits_noise_classifier").model
    images = script.draw(trained, classifier, script.WAYS["classifier", 2.0], 500)
    _, logits = classified(load_pretrained("digits_classifier").model, images)
    share = conditional_accuracy(logits, trained.labels(500))[0]
    assert share == pytest.approx(score("digits_ddpm", "classifier", 2.0, "Conditional accuracy")[0], abs=5 / 500)


def test_rows_of_these_weights_are_kept_and_those_of_others_made_anew(script, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(script, "PATH", tmp_path / "variants.json")
    monkeypatch.setattr(script, "draw", lambda *_: drawn.append(1))
    monkeypatch.setattr(script, "scored", lambda *_: {})
    record = copy.deepcopy(RECORD)
    script.guide_rows("digits_ddpm", record, None)
    assert not drawn and record == RECORD
    del record["guidance"]["digits_ddpm"]["rows"][4]
    script.guide_rows("digits_ddpm", record, None)
    assert len(drawn) == 1 and json.loads(script.PATH.read_text("utf-8")) == record
    record["guidance"]["digits_ddpm"]["noise_classifier_sha256"] = "0" * 64
    monkeypatch.setattr(script, "seed_scores", lambda *_: {})
    script.guide_rows("digits_ddpm", record, None)
    assert len(drawn) == 1 + 19 and [row["scale"] for row in record["guidance"]["digits_ddpm"]["seeds"]] == list(SCALES)


def test_bits_can_be_had_again():
    trained, (x_0, y) = load_pretrained("digits_ddpm"), data.digits("test")[:]
    process = trained.process.respaced(named("trailing10", 1000))
    chain = trained.model, process, trained.mean_type, learned_range
    generator = torch.Generator().manual_seed(3)
    found = bits_per_dim(*chain, x_0, decoder=discretized(17), generator=generator, y=y)
    (row,) = (r for r in RECORD["variance"]["rows"] if (r["steps"], r["variance"]) == ("trailing10", "learned_range"))
    assert found.total == pytest.approx(row["bits"][3], abs=2e-3)


def test_the_bound_is_of_these_weights_and_whole():
    held = RECORD["variance"]
    assert held["sha256"] == sha256(bundled("weights/digits_ddpm.safetensors")) and held["n"] == 382
    asked = {(row["steps"], row["variance"]) for row in held["rows"]}
    chains = ("trailing10", "trailing25", "trailing50", "10", "25", "50")
    assert asked == {(c, v) for c in chains for v in ("learned_range", "fixedsmall", "fixedlarge")}
    assert len(held["rows"]) == 18 and all(len(row["bits"]) == 5 for row in held["rows"])


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_on_trailing_steps_the_learned_variance_is_best_by_far_more_than_seeds_differ(steps):
    bits = {row["variance"]: row["bits"] for row in RECORD["variance"]["rows"] if row["steps"] == f"trailing{steps}"}
    learned = bits.pop("learned_range")
    assert max(learned) + 0.1 < min(min(fixed) for fixed in bits.values())


def wrong(form, variance):
    """Shares of points in a wrong cluster by number of steps, of five seeds each."""
    rows = [row for row in RECORD["forms"]["rows"] if (row["form"], row["variance"]) == (form, variance)]
    assert all(len(row["wrong"]) == 5 for row in rows)
    return {row["steps"]: row["wrong"] for row in rows}


def test_the_noise_form_misses_no_cluster_and_the_mean_form_does_with_few_steps():
    small, large, noise = wrong("mean", "fixedsmall"), wrong("mean", "fixedlarge"), wrong("noise", "fixedsmall")
    assert small.keys() == large.keys() == noise.keys() == {5, 10, 20, 50, 100}
    assert max(share for shares in noise.values() for share in shares) < 0.002
    assert all(min(small[steps]) > 0.015 for steps in (10, 20, 50)) and max(small[100]) < 0.01
    assert min(large[5]) > 0.01 and max(large[20] + large[50] + large[100]) < 0.002


def test_shares_can_be_had_again(script, monkeypatch):
    monkeypatch.setattr(script, "FORMS", script.FORMS[:1])
    monkeypatch.setattr(script, "COUNTS", (10,))
    record = {}
    script.form_rows(record)
    again = record["forms"]["rows"][0]["wrong"]
    assert again == pytest.approx(wrong("mean", "fixedsmall")[10], abs=0.003)
