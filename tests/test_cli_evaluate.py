"""The command evaluate: data without a classifier that ships, what fits, what is told before the work, the file."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from command_line import made, run, told
from PIL import Image
from torch import nn

from ddpm_lesson import cli, data
from ddpm_lesson.cli import real as cli_real
from ddpm_lesson.experiments import classifiers, evaluation, features, spaces
from ddpm_lesson.experiments.checkpoints import load_tensors
from ddpm_lesson.experiments.classifiers import fit
from ddpm_lesson.experiments.evaluation import evaluate as evaluated
from ddpm_lesson.experiments.evaluation import reference_of
from ddpm_lesson.experiments.features import Inception
from ddpm_lesson.experiments.pretrained import load_weights
from ddpm_lesson.experiments.recipes import ClassifierRecipe
from ddpm_lesson.experiments.sampling import Sampling

QUICK = ["--sampler", "ddim", "--steps", "trailing2"]


def paint(folder, n, colour, seed):
    """n noisy pictures of a colour."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 120, (n, 8, 8, 3)) + np.array(colour)
    for i, each in enumerate(pixels.astype(np.uint8)):
        Image.fromarray(each).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """100 photos of two classes, 40 others of one of them, and two runs: with the classes and without."""
    top = tmp_path_factory.mktemp("photos")
    paint(top / "mine" / "red", 50, (130, 0, 0), 0)
    paint(top / "mine" / "blue", 50, (0, 0, 130), 1)
    paint(top / "others" / "blue", 40, (0, 0, 130), 2)
    paint(top / "green" / "green", 25, (0, 130, 0), 3)
    options = ["--preset", "folder", "--size", 8]
    made(top / "two", *options, "--root", top / "mine", "--conditional")
    made(top / "one", *options, "--root", top / "mine" / "red")
    return top


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """Caches of the user are folders of the test: nothing is found there, and nothing is left."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("DDPM_LESSON_DATA", str(tmp_path / "cache"))


@pytest.fixture
def quick_classifiers(monkeypatch):
    """Own classifiers make 40 steps; the list grows with each that is trained."""
    begun, recipe_of = [], spaces.own_recipe

    def own_recipe(*given):
        return dataclasses.replace(recipe_of(*given), steps=40, ch=16, ch_mult=(1,))

    monkeypatch.setattr(spaces, "own_recipe", own_recipe)
    monkeypatch.setattr(spaces, "fit", lambda *a, **k: begun.append(a[0]) or fit(*a, **k))
    return begun


def evaluate(weights, *options):
    return run("evaluate", "--weights", weights, "--device", "cpu", *QUICK, *options)


def scores_of(text):
    """The names of the scores, of samples and of real images."""
    lines = text.splitlines()
    split = next(i for i, line in enumerate(lines) if line.startswith("As many images"))
    named = [re.match(r"  ([A-Zs][\w'/ .]*?) -?[\d.e+-]+ \(95 %", line) for line in lines]
    return [[m[1] for m in part if m] for part in (named[:split], named[split:])]


DISTANCES = ["Frechet distance", "Precision", "Recall"]
CLASSES = ["Confidence", "Confidence above 0.9", "Class imbalance"]


# A folder of images.


def test_a_folder_with_classes_is_scored_by_a_classifier_of_its_own(photos, quick_classifiers):
    result = evaluate(photos / "two", "--bits", 3)
    assert result.status == 0, result.err
    head, kept_apart, about, *_ = result.out.splitlines()
    assert head.endswith("against 50 of the training images of folder:")
    assert "those kept apart here were among the training images" in kept_apart
    path = photos / "two" / "own_classifier.safetensors"
    assert re.fullmatch(
        rf"  \(own classifier of 2 classes, trained, right for [\d.]+% of the images that were kept apart "
        rf"\([\d.]+%\.\.[\d.]+%\): {path}\)",
        about,
    )
    names = [*DISTANCES, *CLASSES, "Nearest real distance", "Spatial Frechet distance", "Inception score"]
    assert scores_of(result.out) == [[*names, "Conditional accuracy", "Bits/dim"], [*names, "Conditional accuracy"]]
    assert "50 samples against 50, features own classifier, seed 0" in result.out
    assert len(quick_classifiers) == 1

    again = evaluate(photos / "two", "--bits", 3, "--quiet")
    assert again.err == "" and len(quick_classifiers) == 1  # it was kept
    assert again.out == result.out.replace("2 classes, trained,", "2 classes, kept,")


def test_the_images_kept_apart_are_not_those_compared_with(photos):
    images = data.folder(photos / "mine", 8)
    reference, apart = spaces.real_images(images, None)
    pixels = [{x.numpy().tobytes() for x in part.data} for part in (reference, apart)]
    assert len(pixels[0]) == len(pixels[1]) == 50 and not pixels[0] & pixels[1]
    for part in (reference, apart):  # labels go with their images
        red = part.data[:, 0].float().mean((1, 2)) > part.data[:, 2].float().mean((1, 2))
        assert torch.equal(red, part.labels == images.classes.index("red"))
    again = spaces.real_images(images, None)
    assert all(torch.equal(a.data, b.data) for a, b in zip(again, (reference, apart), strict=True))


def test_a_kept_classifier_is_bound_to_its_images_and_its_recipe(photos, quick_classifiers, tmp_path):
    images = data.folder(photos / "mine", 8)
    reference, apart = spaces.real_images(images, None)
    recipe, path = spaces.own_recipe("folder", (3, 8, 8), 50), tmp_path / "c.safetensors"
    first, how = spaces.own_classifier(recipe, reference, path)
    assert how == "trained" and not first.model.training
    again, how = spaces.own_classifier(recipe, reference, path)
    assert how == "kept" and len(quick_classifiers) == 1
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))
    assert classifiers.accuracy(again, apart)[0] == classifiers.accuracy(first, apart)[0] > 0.9  # red and blue
    swapped = data.Images(reference.data, 1 - reference.labels, levels=256, classes=reference.classes)
    for other, of in (
        (recipe, apart),
        (recipe, swapped),
        (quick_classifiers[0].__class__("folder", steps=3), reference),
    ):
        before = path.read_bytes()
        assert spaces.own_classifier(other, of, path)[1] == "trained"
        assert path.read_bytes() != before
    path.write_bytes(b"damaged")
    assert spaces.own_classifier(recipe, reference, path)[1] == "trained"
    blocked = tmp_path / "c.safetensors" / "below.safetensors"  # a folder that cannot be made
    assert spaces.own_classifier(recipe, reference, blocked)[1].startswith("trained, not kept (")


def test_held_out_images_of_another_folder(photos, quick_classifiers):
    result = evaluate(photos / "two", "--held-out", photos / "others", "--bits", 2, "--n", 30, "--quiet")
    assert result.status == 0, result.err
    assert "kept apart" not in result.out.splitlines()[1]
    assert f"As many images of folder from {photos / 'others'}:" in result.out
    assert "30 samples against 100, features own classifier" in result.out
    assert evaluate(photos / "one", "--held-out", photos / "others", "--quiet").status == 0
    line = told("evaluate", "--weights", photos / "two", "--held-out", photos / "green", "--quiet", "--device", "cpu")
    assert "must be among blue, red, got green: the images held out need sub-folders with such names" in line


def test_labels_of_held_out_images_are_counted_as_those_of_the_run(photos):
    blue = spaces.with_classes(data.folder(photos / "others", 8), ("red", "grey", "blue"))
    assert blue.classes == ("red", "grey", "blue") and set(blue.labels.tolist()) == {2}


def test_a_folder_of_one_class_is_scored_by_its_pixels(photos):
    result = evaluate(photos / "one", "--quiet", "--bits", 2)
    assert result.status == 0 and result.err == ""
    assert "(pixels: the principal components of these images' pixels" in result.out
    names = [*DISTANCES, "Nearest real distance"]
    assert scores_of(result.out) == [[*names, "Bits/dim"], names]
    assert "--classifier own needs at least two classes, got red alone" in told(
        "evaluate", "--weights", photos / "one", "--classifier", "own", "--device", "cpu", "--quiet"
    )


def test_where_the_images_lie_is_read_from_the_run(photos, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes((photos / "one" / "weights.safetensors").read_bytes())
    alone = ["evaluate", "--weights", tmp_path / "weights.safetensors", "--device", "cpu", "--quiet", *QUICK]
    assert "data 'folder' needs root, the folder of your images, got None" in told(*alone)
    assert run(*alone, "--root", photos / "mine" / "red").status == 0
    assert "expected the classes that the network was trained on, red; got" in told(
        *alone, "--root", photos / "mine"
    ).replace("red, got", "red; got")


# Data of torchvision, which need no labels of ours: Fashion-MNIST in the shape of the digits.


def test_data_without_a_classifier_that_ships(monkeypatch, quick_classifiers, tmp_path):
    def clothes(root=None, train=True, download=True):
        digits = data.digits("train" if train else "test")
        return data.Images(digits.data, digits.labels, levels=17, classes=[f"cloth {i}" for i in range(10)])

    from ddpm_lesson.experiments import recipes

    monkeypatch.setitem(recipes.DOWNLOADED, "fashion_mnist", clothes)
    folder = made(tmp_path / "run", "--data", "fashion_mnist")
    result = evaluate(folder, "--quiet", "--n", 40)
    assert result.status == 0, result.err
    assert "against the training images of fashion_mnist" in result.out
    assert "As many images of fashion_mnist that were held out:" in result.out
    assert "40 samples against 1415, features own classifier" in result.out
    # Of weights that lie alone, the classifier is kept in the user's cache.
    weights = tmp_path / "alone.safetensors"
    weights.write_bytes((folder / "weights.safetensors").read_bytes())
    assert evaluate(weights, "--quiet", "--n", 40).status == 0
    (kept,) = (tmp_path / "cache" / "classifiers").iterdir()
    assert load_weights(kept).recipe.data == "fashion_mnist" and "images" in load_tensors(kept)[1]


@pytest.mark.parametrize(
    "shape, ch, ch_mult",
    [
        ((1, 8, 8), 32, (2,)),
        ((1, 28, 28), 32, (1, 2, 2)),
        ((3, 32, 32), 32, (1, 2, 2)),
        ((3, 30, 30), 32, (1, 2)),
        ((3, 33, 33), 16, (4,)),
        ((3, 64, 64), 16, (1, 2, 4, 4)),
        ((3, 256, 256), 8, (1, 2, 4, 8, 8)),
    ],
)
def test_own_recipes_fit_their_images(shape, ch, ch_mult):
    recipe = spaces.own_recipe("folder", shape, 50)
    assert (recipe.ch, recipe.ch_mult) == (ch, ch_mult)
    assert [spaces.own_recipe("folder", shape, n).steps for n in (50, 1000, 9000)] == [200, 468, 1000]
    levels = 3 if shape[0] == 1 else 256
    images = data.Images(torch.zeros(2, *shape, dtype=torch.uint8), torch.arange(2), levels=levels, classes="ab")
    trained = next(fit(ClassifierRecipe("folder", ch=ch, ch_mult=ch_mult, batch_size=2), images))
    assert trained.model.eval().features(torch.zeros(2, *shape)).shape == (2, 64)


# Inception, with a stand-in: its weights are not here.


class StandIn(Inception):
    """Two layers in the place of Inception's."""

    def __init__(self, weights):
        nn.Module.__init__(self)
        self.file = weights
        generator = torch.Generator().manual_seed(0)
        self.network = nn.Module()
        self.network.Mixed_6d = nn.Module()
        self.network.Mixed_6d.branch1x1 = nn.Conv2d(3, 12, 4, stride=4)
        self.network.fc = nn.Linear(12, 5)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator)
        self.network.forward = lambda x: self.network.Mixed_6d.branch1x1(x.float() / 128 - 1).mean((2, 3))


@pytest.fixture
def inception(monkeypatch):
    monkeypatch.setattr(cli_real, "Inception", StandIn)


PUBLISHED = ["FID", "Precision", "Recall", "Nearest real distance", "sFID", "Inception score"]


def test_inception_is_used_where_its_weights_are_at_hand(photos, inception, monkeypatch, tmp_path):
    monkeypatch.setattr(cli_real, "inception_file", lambda: tmp_path / "weights.pth")
    result = evaluate(photos / "two", "--quiet")
    assert result.status == 0, result.err
    assert scores_of(result.out) == [PUBLISHED, PUBLISHED]
    assert "50 samples against 50, features Inception, seed 0" in result.out
    # The same by the package: the samples, the reference and the anchor.
    network = load_weights(photos / "two" / "weights.safetensors")
    reference, apart = spaces.real_images(data.folder(photos / "mine", 8), None)
    space = StandIn("x")
    real = reference_of(reference.x_0, space)
    samples = network.sample(50, Sampling("ddim", "trailing2"), y=network.labels(50))
    for images in (samples, apart.x_0[evaluation.some(apart, 50, 0)]):
        for score in evaluated(images, real, space, "Inception", seed=0).values():
            assert f"  {score}\n" in result.out
    # Another choice stays possible, and data with a classifier that ships keep it.
    assert "features pixels" in evaluate(photos / "two", "--quiet", "--classifier", "pixels").out
    assert "features digits_classifier" in run("evaluate", *QUICK, "--device", "cpu", "--quiet", "--n", 40).out


def test_inception_by_name(photos, inception, tmp_path):
    found = evaluate(photos / "two", "--quiet", "--inception", tmp_path / "mine.pth", "--classifier", "own")
    assert "give --inception or --classifier, not both" in found.err
    assert scores_of(evaluate(photos / "two", "--quiet", "--inception", "mine.pth").out) == [PUBLISHED, PUBLISHED]
    digits = run("evaluate", *QUICK, "--device", "cpu", "--quiet", "--n", 40, "--inception", "mine.pth")
    assert scores_of(digits.out) == [PUBLISHED, PUBLISHED] and "; recorded" not in digits.out


def test_inception_that_is_not_there_is_one_line(photos, no_network):
    line = told("evaluate", "--weights", photos / "two", "--device", "cpu", "--quiet", "--inception")
    assert "--inception needs pip install 'torchmetrics[image]', and weights-inception-2015" in line
    assert "or named with --inception FILE: nothing is downloaded" in line
    line = told("evaluate", "--weights", photos / "two", "--device", "cpu", "--quiet", "--inception", "no.pth")
    assert f"there is no file no.pth, expected {features.INCEPTION} of torch-fidelity" in line


# Before the work.


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    return made(tmp_path_factory.mktemp("digits") / "run", "--data", "digits")


@pytest.fixture
def unread(monkeypatch):
    """Drawing, and a reference of real images, are errors here: what is told is told before."""
    monkeypatch.setattr(evaluation, "reference_of", lambda *_, **__: pytest.fail("the work began"))
    monkeypatch.setattr(cli.evaluate.pretrained.PretrainedDiffusion, "sample", lambda *_, **__: pytest.fail("drawn"))


BEFORE = [
    (["--classifier", "mnist_classifier"], "expected a classifier of digits, 1 x 8 x 8, 10 classes, as the network's"),
    (
        ["--classifier", "digits_noise_classifier"],
        "this is a classifier of noisy images with T = 1000: expected one of",
    ),
    (["--classifier", "digits_ddpm"], "digits_ddpm must be a PretrainedClassifier, got a PretrainedDiffusion"),
    (["--weights", "digits_vae"], "digits_vae must be a PretrainedDiffusion, got a PretrainedGenerator"),
    (["--guidance", "2"], "guidance leads towards labels: expected some, got none and guidance = 2.0"),
    (["--guidance", "nan"], "guidance must be a finite number, got nan"),
    (["--steps", "trailing99"], "must lie in 1..6, got 99"),
    (["--n", "19"], "an interval needs at least 20 samples, got 19"),
    (["--bits", "500"], "there are 382 images held out, expected --bits 0..382, got 500"),
    (["--json", "no/such/\0"], "no name holds a null character"),
    (["--json", "."], "expected the name of a file to write, got the folder ."),
    (["--held-out", "."], "--held-out is for networks of a folder of images; digits has held-out images"),
    (["--seed", "99999999999999999999"], "seed must lie in 0..9223372036854775807, got 99999999999999999999"),
    (["--device", "meta"], "--device meta cannot be used on this machine"),
]


@pytest.mark.parametrize("options, message", BEFORE, ids=lambda value: " ".join(value)[:30])
def test_what_can_be_known_is_told_before_the_work(digits_run, unread, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", "--weights", digits_run, "--quiet", "--device", "cpu", *options)
    assert result.status == 1 and result.out == "" and result.err.count("\n") == 1, result
    assert result.err.startswith("ddpm_lesson: ") and message in result.err


def test_learned_variances_of_other_steps_are_told_before(request, tmp_path):
    folder = made(tmp_path / "run", "--data", "digits", "--loss", "kl", "--var-type", "learned")
    request.getfixturevalue("unread")
    line = told("evaluate", "--weights", folder, "--device", "cpu", "--quiet", "--steps", "trailing3")
    assert "learned variances are those of the base's steps, got a respaced chain" in line


def test_too_few_images_are_told_before(request, tmp_path):
    paint(tmp_path / "few", 39, (0, 0, 0), 0)
    folder = made(tmp_path / "run", "--preset", "folder", "--size", 8, "--root", tmp_path / "few")
    request.getfixturevalue("unread")
    line = told("evaluate", "--weights", folder, "--device", "cpu", "--quiet")
    assert "expected at least 40 images, of which half are kept apart, got 39: train on more, or name" in line


def test_negative_bits_are_no_option():
    assert "expected 0 or a positive integer, got -1" in told("evaluate", "--bits", -1, status=2)


def test_memory_that_ends_is_one_sentence(digits_run, monkeypatch):
    def full(*_, **__):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(evaluation, "reference_of", full)
    result = evaluate(digits_run, "--quiet")
    assert result.status == 1 and result.err.count("\n") == 1
    assert "the memory of cpu is too small for these images: take a smaller --n or another --device" in result.err


# What is printed.


def test_scores_as_a_file(digits_run, tmp_path):
    result = evaluate(digits_run, "--quiet", "--n", 100, "--json", tmp_path / "new" / "scores.json")
    assert result.status == 0, result.err
    held = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert list(held) == ["weights", "sampling", "scores", "real", "notes"]
    assert held["sampling"]["steps"] == "trailing2" and held["scores"].keys() == held["real"].keys() - {
        "Conditional accuracy"
    }  # no labels
    for of in ("scores", "real"):
        for name, each in held[of].items():
            assert each["low"] <= each["value"] <= each["high"] and each["n"] == 100
            assert f"  {name} {each['value']:.4g} (95 %: " in result.out


def test_what_is_no_number_is_null_in_the_file(digits_run, tmp_path):
    # One image has bits/dim without an interval, and strict readers of JSON know no NaN.
    given = ["--quiet", "--n", 20, "--bits", 1, "--json", tmp_path / "scores.json"]
    result = evaluate(digits_run, *given)
    assert result.status == 0 and re.search(r"Bits/dim \S+ \(no interval\), 1 sample", result.out) and not result.err
    text = (tmp_path / "scores.json").read_text()
    held = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["scores"]["Bits/dim"]
    assert held["value"] > 0 and held["low"] is held["high"] is None and held["n"] == 1


def test_progress_and_a_summary_are_no_results(digits_run):
    shown, quiet = evaluate(digits_run, "--n", 40), evaluate(digits_run, "--n", 40, "--quiet")
    assert shown.out == quiet.out and quiet.err == ""
    assert shown.err.startswith(f"{digits_run}: digits, 1 x 8 x 8; ")
    assert "3 parts, each with the time it has left: real images, their neighbours, 40 images drawn\n" in shown.err
    for part in ("real images: 100%", "their neighbours: 100%", "40 of 40 images: 100%"):
        assert part in shown.err


def test_few_samples_are_said_in_a_line(digits_run):
    result = evaluate(digits_run, "--n", 30, "--quiet")
    note = "the covariance of 64 features needs more than 64 samples"
    assert result.out.count(note) == 1 and result.err == ""
    result = evaluate(digits_run, "--n", 1000, "--quiet")
    assert "(n is 382, not 1000: as many as there are real images to stand beside the samples)" in result.out
