"""The command line: each command from end to end on tiny settings, and one line for every mistake."""

import dataclasses
import io
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from command_line import run, told
from PIL import Image

from ddpm_lesson import cli, data
from ddpm_lesson.cli import pictures
from ddpm_lesson.experiments import evaluation
from ddpm_lesson.experiments.checkpoints import load_tensors
from ddpm_lesson.experiments.classifiers import fit
from ddpm_lesson.experiments.metrics import Score
from ddpm_lesson.experiments.pretrained import about_shipped, load_weights
from ddpm_lesson.experiments.recipes import PRESETS, ClassifierRecipe, Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.experiments.sampling import Sampling

TINY = "--T 6 --ch 8 --ch-mult 1 --attn --num-groups 4 --batch-size 4 --warmup 2 --device cpu".split()


def train(*arguments):
    return run("train", *arguments, "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny class-conditional network on the digits."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    result = train("--preset", "digits", *TINY, "--steps", 4, "--out", folder, "--preview-every", 2)
    assert result.status == 0, result.err
    assert result.out == f"Done: {folder / 'weights.safetensors'} holds the averaged network after 4 steps.\n"
    return folder


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """A clean classifier and one of noisy images."""
    folder, images = tmp_path_factory.mktemp("classifiers"), data.digits("train")
    for name, T in (("clean", None), ("noisy", 6)):
        recipe = ClassifierRecipe("digits", T=T, ch=16, ch_mult=(1,), steps=2, batch_size=8)
        *_, classifier = fit(recipe, images)
        classifier.save(folder / f"{name}.safetensors")
    return folder


# train.


def test_train_leaves_pictures_and_a_log(trained):
    names = sorted(path.name for path in trained.iterdir() if path.name != ".lock")
    assert names == "log.csv loss.png previews recipe.json state.safetensors weights.safetensors".split()
    assert sorted(path.name for path in (trained / "previews").iterdir()) == ["0000002.png", "0000004.png"]
    for path in (trained / "loss.png", *(trained / "previews").iterdir()):
        with Image.open(path) as picture:
            assert picture.format == "PNG" and min(picture.size) > 300
            assert np.asarray(picture.convert("L")).std() > 1
    assert (trained / "log.csv").read_text().count("\n") == 5


def test_preset_and_options_make_the_recipe(trained):
    changed = {"T": 6, "ch": 8, "ch_mult": (1,), "attn": (), "num_groups": 4, "batch_size": 4, "warmup": 2, "steps": 4}
    expected = dataclasses.replace(PRESETS["digits"], **changed)
    assert Recipe.from_json((trained / "recipe.json").read_text()) == expected


def test_the_recipe_of_a_run_reproduces_it(trained, tmp_path):
    torch.rand(2)
    result = train("--recipe", trained / "recipe.json", "--out", tmp_path / "again")
    assert result.status == 0
    for name in ("recipe.json", "state.safetensors", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes()


def test_out_alone_goes_on_with_the_run_that_lies_there(trained, tmp_path, monkeypatch):
    # Stopped after two steps by an error in the preview; then gone on with by its folder alone, and again when done.
    monkeypatch.setattr(cli.train, "preview", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(
            "--recipe", trained / "recipe.json", "--out", tmp_path, "--preview-every", 2, "--save-every", 1, "--debug"
        )
    monkeypatch.undo()
    assert load_tensors(tmp_path / "state.safetensors")[1]["step"] == 2
    for _ in range(2):
        assert train("--out", tmp_path).status == 0
        assert (tmp_path / "weights.safetensors").read_bytes() == (trained / "weights.safetensors").read_bytes()
    assert (tmp_path / "previews" / "0000004.png").exists()


def test_options_without_a_preset_change_the_defaults(tmp_path):
    options = "--no-conditional --flip --data fashion_mnist --loss huber --lr 0.5 --clip-norm inf --seed 3".split()
    parsed = cli.parser().parse_args(["train", *options, "--ch-mult", "1", "2", "--out", str(tmp_path)])
    parsed.out = tmp_path
    expected = {"data": "fashion_mnist", "flip": True, "loss": "huber", "lr": 0.5, "seed": 3, "ch_mult": (1, 2)}
    assert cli.train._recipe(parsed) == Recipe(**expected, clip_norm=float("inf"))


def test_more_steps_by_the_command_line(tmp_path):
    options = [*TINY, "--data", "digits"]
    for steps, name in ((2, "grown"), (5, "grown"), (5, "whole")):
        assert train(*options, "--steps", steps, "--out", tmp_path / name).status == 0
    files = [(tmp_path / name / "state.safetensors").read_bytes() for name in ("grown", "whole")]
    assert files[0] == files[1]
    err = told("train", *options, "--steps", 3, "--out", tmp_path / "grown")
    assert "holds a run of another recipe (steps = 5, now 3)" in err


def png(path, colour, size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_your_own_images_from_end_to_end(tmp_path):
    for i in range(4):
        png(tmp_path / "mine" / "cats" / f"{i}.png", (60 * i, 0, 0))
        png(tmp_path / "mine" / "dogs" / f"{i}.jpg", (0, 0, 60 * i))
    options = ["--preset", "folder", "--root", tmp_path / "mine", "--size", 8, *TINY, "--conditional", "--steps", 2]
    assert train(*options, "--flip", "--out", tmp_path / "run").status == 0
    weights = load_weights(tmp_path / "run" / "weights.safetensors")
    assert (weights.classes, weights.shape, weights.levels) == (("cats", "dogs"), (3, 8, 8), 256)
    result = run("sample", "--weights", tmp_path / "run", "--n", 4, "--label", "dogs", "--out", tmp_path / "dogs.png")
    assert result.status == 0 and (tmp_path / "dogs.png").exists()
    assert "the class must be one of cats, dogs, got birds" in told(
        "sample", "--weights", tmp_path / "run", "--label", "birds", "--out", tmp_path / "x.png"
    )


TRAIN_ERRORS = [
    ([], f"say what to train: --preset {' | '.join(PRESETS)}, --recipe FILE, --from NAME, or options; see --help"),
    (["--preset", "digits", "--recipe", "x.json"], "give --preset or --recipe, not both"),
    (["--recipe", "no.json"], "there is no recipe no.json: name a recipe.json, such as a run has saved"),
    (["--preset", "folder"], "data 'folder' needs root, the folder of your images, got None"),
    (["--preset", "folder", "--root", "nowhere"], "there is no folder"),
    (["--preset", "digits", "--flip"], "flip would turn digits into signs that do not exist"),
    (["--preset", "digits", "--loss", "simple"], "learned and learned_range need the loss hybrid or kl"),
    (["--preset", "digits", "--lr", "nan"], "lr must be a number in 0..1e+300, got nan"),
    (["--preset", "digits", "--batch-size", "2000"], "batch_size must lie in 1..1415, got 2000"),
    (["--preset", "digits", "--num-groups", "5"], "divisible by num_groups = 5"),
    (["--preset", "digits", "--ch-mult", "1", "1", "1", "1", "1"], "sides divisible by 16, got 8 x 8"),
    (["--preset", "digits", "--schedule", "jsd"], "schedule jsd ends at alphas_bar = 0"),
    (
        ["--preset", "digits", "--device", "abacus"],
        "--device abacus cannot be used on this machine, expected cpu, or",
    ),
    (
        ["--preset", "digits", "--device", "meta"],
        "--device meta cannot be used on this machine, expected cpu, or",
    ),
]


@pytest.mark.parametrize("arguments, message", TRAIN_ERRORS, ids=lambda value: " ".join(value)[:40] or "nothing")
def test_mistakes_in_train_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    err = told("train", *arguments, *([] if not arguments or "--device" in arguments else ["--device", "cpu"]))
    assert err.startswith("ddpm_lesson: ") and message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: train | status | sample | evaluate | export | grade"),
        (["train", "--preset", "celeba"], "invalid choice: 'celeba'"),
        (["train", "--lr", "fast"], "invalid float value: 'fast'"),
        (["train", "--save-every", "0"], "expected a positive integer, got 0"),
        (["train", "--speed", "9"], "unrecognized arguments: --speed 9"),
        (["sample", "--n", "-4"], "expected a positive integer, got -4"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_options_that_do_not_exist_are_one_line(arguments, message):
    err = told(*arguments, status=2)
    assert err.startswith("python -m ddpm_lesson") and message in err and err.endswith("; see --help\n")


def test_other_files_in_the_folder_of_a_run(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "holds other files and no run" in told("train", "--preset", "digits", "--device", "cpu", "--out", tmp_path)
    (tmp_path / "recipe.json").write_text("{")
    assert "a recipe must be JSON" in told("train", "--device", "cpu", "--out", tmp_path)
    (tmp_path / "recipe.json").write_bytes(b"\xff\xff")
    assert "a recipe must be JSON, which is text, got bytes that are none" in told(
        "train", "--device", "cpu", "--out", tmp_path
    )


def test_a_loss_that_explodes_is_one_line_and_keeps_what_was_saved(tmp_path):
    # A rate of 1e30 makes the weights infinite in the first step; the second says so.
    options = [*TINY, "--data", "digits", "--lr", "1e30", "--optimizer", "adam", "--steps", 9, "--save-every", 1]
    result = run("train", *options, "--out", tmp_path / "run", "--warmup", 0)
    assert result.status == 1 and "Traceback" not in result.err
    assert re.fullmatch(r"ddpm_lesson: the (loss|gradient) is not finite in step \d.*", result.err.splitlines()[-1])
    assert load_tensors(tmp_path / "run" / "state.safetensors")[1]["step"] >= 1


def test_a_full_gpu_is_one_line(monkeypatch, tmp_path):
    def full(self):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        yield

    monkeypatch.setattr(Run, "steps", full)
    result = run("train", "--preset", "digits", *TINY, "--out", tmp_path / "run")
    assert result.status == 1 and result.err.splitlines()[-1].startswith("ddpm_lesson: CUDA out of memory.")


def test_tensorboard_gets_every_step(monkeypatch, tmp_path):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_image(self, name, picture, step, dataformats):
            assert picture.dtype == np.uint8 and picture.shape[2] == 3 and dataformats == "HWC"
            written.append((name, step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            written.append("closed")

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    options = [*TINY, "--data", "digits", "--out", tmp_path / "run", "--tensorboard", "--steps"]
    assert train(*options, 2).status == 0
    scalars = [(name, step) for step in (1, 2) for name in ("loss", "grad_norm")]
    place = str(tmp_path / "run" / "tensorboard")
    assert written == [(place, 1), *scalars, ("samples", 2), "closed"]
    assert train(*options, 3).status == 0
    assert written[7:] == [(place, 3), ("loss", 3), ("grad_norm", 3), ("samples", 3), "closed"]


def test_tensorboard_that_is_missing_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    err = told("train", "--preset", "digits", *TINY, "--out", tmp_path / "run", "--tensorboard")
    assert err == "ddpm_lesson: --tensorboard needs a package that is missing: pip install tensorboard\n"


# sample.


def pixels(path):
    with Image.open(path) as picture:
        return getattr(picture, "n_frames", 1), picture.size, np.asarray(picture.convert("L"))


def test_sample_writes_a_grid(trained, tmp_path):
    out = tmp_path / "new" / "folder" / "grid.png"
    result = run("sample", "--weights", trained, "--n", 9, "--out", out, "--device", "cpu")
    assert result.status == 0 and result.out == f"{out}: 9 images, all steps of ancestral, seed 0\n"
    frames, size, grey = pixels(out)
    assert frames == 1 and size in ((216, 216), (215, 215)) and grey.std() > 1
    # 3 x 3 images of 0.6 inches at 120 pixels; matplotlib 3.8 rounds 215.99... down
    assert [path.name for path in out.parent.iterdir()] == ["grid.png"]


def test_sample_can_be_repeated_and_varied(trained, tmp_path):
    found = {}
    variants = {"a": [], "same": [], "seed": ["--seed", 1], "label": ["--label", 7], "ddim": ["--sampler", "ddim"]}
    variants |= {"guided": ["--guidance", 3], "eta": ["--sampler", "ddim", "--eta", 1], "raw": ["--no-clip"]}
    variants |= {"steps": ["--steps", "trailing3"], "file": ["--weights", trained / "weights.safetensors"]}
    for name, options in variants.items():
        out = tmp_path / f"{name}.PNG"
        assert run("sample", "--weights", trained, "--n", 4, *options, "--out", out, "--device", "cpu").status == 0
        found[name] = out.read_bytes()
    assert found["a"] == found["same"] == found["file"] and len(set(found.values())) == 8


def test_the_images_are_those_of_the_network(trained, tmp_path):
    # The same draw by the package, as a picture by the same hand.
    assert run("sample", "--weights", trained, "--n", 12, "--out", tmp_path / "x.png", "--device", "cpu").status == 0
    network = load_weights(trained / "weights.safetensors")
    images = network.sample(12, Sampling(seed=0), y=torch.arange(12) % 10)
    assert (tmp_path / "x.png").read_bytes() == pictures.grid(images)


def test_sample_animates(trained, tmp_path):
    out = tmp_path / "x.png"
    options = ["--n", 4, "--animate", "--out", out, "--device", "cpu"]
    assert run("sample", "--weights", trained, *options).status == 0
    frames, _, _ = pixels(out)
    assert frames == 8  # the still, x_T and six steps


def test_long_chains_are_thinned_for_an_animation():
    images = list(torch.rand(201, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    file = io.BytesIO(pictures.animation(images))
    with Image.open(file) as picture:
        assert picture.n_frames == 42  # the still, and every fifth state


SAMPLE_ERRORS = [
    (["--out", "x.jpg"], "--out must end in .png, .gif or .npz, or in / for a folder of PNGs, got x.jpg"),
    (["--label", "eleven"], "the class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got eleven"),
    (["--steps", "often"], "unknown step choice 'often'"),
    (["--steps", "trailing7"], "must lie in 1..6, got 7"),
    (["--sampler", "ddim", "--eta", "2"], "eta must lie in 0..1, got 2.0"),
    (["--eta", "0"], "eta is an option of ddim, got eta = 0.0 and the sampler ancestral"),
    (["--guidance", "nan"], "guidance must be a finite number, got nan"),
    (["--seed", "-1"], "seed must lie in 0..9223372036854775807, got -1"),
    (["--seed", "99999999999999999999"], "seed must lie in 0..9223372036854775807, got 99999999999999999999"),
    (["--weights", "no.safetensors"], "there is no file no.safetensors"),
    (["--weights", "."], "there is no file weights.safetensors"),
    (["--weights", "imagenet"], "no weights 'imagenet' ship with the course; there are "),
]


@pytest.mark.parametrize("arguments, message", SAMPLE_ERRORS)
def test_mistakes_in_sample_are_one_line(trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("sample", "--weights", trained, "--n", 2, "--device", "cpu", *arguments)
    assert result.status == 1 and result.out == "" and "Traceback" not in result.err
    last = [line for line in re.split("[\r\n]", result.err) if line.strip()][-1]  # after a progress bar
    assert last.startswith("ddpm_lesson: ") and message in last
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_labels_draws_none(tmp_path):
    assert train(*TINY, "--data", "digits", "--steps", 1, "--out", tmp_path / "run").status == 0
    options = ["--weights", tmp_path / "run", "--n", 1, "--out", tmp_path / "x.png", "--device", "cpu"]
    assert run("sample", *options).status == 0
    assert "trained without labels: expected no class, got 3; leave it out" in told("sample", *options, "--label", "3")
    assert "trained without labels, leave it out" in told("sample", *options, "--guidance", "2")


def test_files_of_something_else(trained, classifiers, tmp_path):
    out = ["--out", tmp_path / "x.png", "--device", "cpu"]
    state, clean = trained / "state.safetensors", classifiers / "clean.safetensors"
    assert f"{state} does not hold the weights of a network" in told("sample", "--weights", state, *out)
    assert f"{clean} must be a PretrainedDiffusion, got a PretrainedClassifier" in told(
        "sample", "--weights", clean, *out
    )
    damaged = tmp_path / "cut.safetensors"
    damaged.write_bytes(clean.read_bytes()[:1000])
    assert f"{damaged} is no whole safetensors file" in told("sample", "--weights", damaged, *out)


# evaluate.


def evaluate(weights, classifier, *options):
    return run("evaluate", "--weights", weights, "--classifier", classifier, "--device", "cpu", "--quiet", *options)


def test_evaluate_prints_every_score_beside_that_of_real_images(trained, classifiers):
    options = ["--n", 60, "--bits", 8, "--steps", "trailing3", "--sampler", "ddim", "--seed", 5]
    result = evaluate(trained, classifiers / "clean.safetensors", *options)
    assert result.status == 0 and result.err == ""
    lines = result.out.splitlines()
    chain = "trailing3 steps of ddim, eta 0, seed 5"
    assert lines[0] == f"Samples of {trained}, {chain}, against the training images of digits:"
    split = lines.index("As many images of digits that were held out:")
    drawn, real = lines[1:split], lines[split + 1 :]
    assert len(drawn) == len(real) + 1  # bits/dim
    for line in drawn + real:
        assert re.search(r"^  \S.* -?[\d.e+-]+ \(95 %: .*\.\..*\), \d+ samples.*, seed 5$", line), line
    assert sum("60 samples against 1415, features clean" in line for line in drawn) >= 2
    assert any(line.startswith("  Bits/dim") and "8 samples" in line for line in drawn)
    assert evaluate(trained, classifiers / "clean.safetensors", *options).out == result.out


@pytest.mark.parametrize(
    "weights, classifier, options, message",
    [
        ("run", "run", [], "must be a PretrainedClassifier, got a PretrainedDiffusion"),
        ("clean", "clean", [], "must be a PretrainedDiffusion, got a PretrainedClassifier"),
        ("noisy", "clean", [], "must be a PretrainedDiffusion, got a PretrainedNoisyClassifier"),
        ("run", "clean", ["--sampler", "ddim", "--eta", 2], "eta must lie in 0..1, got 2.0"),
        ("run", "clean", ["--eta", 0.5], "eta is an option of ddim, got eta = 0.5 and the sampler ancestral"),
        ("run", "noisy", [], "this is a classifier of noisy images with T = 6"),
        ("run", "clean", ["--bits", 383], "there are 382 images held out, expected --bits 0..382, got 383"),
        ("run", "clean", ["--n", 2], "an interval needs at least 20 samples, got 2"),
        ("run", "none", [], "there is no file"),
    ],
)
def test_mistakes_in_evaluate_are_one_line(trained, classifiers, weights, classifier, options, message):
    places = {name: classifiers / f"{name}.safetensors" for name in ("clean", "noisy", "none")} | {"run": trained}
    result = evaluate(places[weights], places[classifier], "--n", 60, *options)
    assert result.status == 1
    assert result.err.startswith("ddpm_lesson: ") and result.err.count("\n") == 1 and message in result.err


@pytest.fixture
def seen(monkeypatch):
    """Nothing is drawn: what evaluate asks for, answered by the scores that were recorded for the digits."""
    asked = {}
    made = about_shipped("digits_ddpm")["made"]

    def scores(trained, space, n, sampling, *, bits_images, **_):
        asked.update(n=n, sampling=sampling)
        told = {name: Score(**score) for name, score in made["scores"].items()}
        return told if bits_images else {name: score for name, score in told.items() if name != "Bits/dim"}

    monkeypatch.setattr(evaluation, "scores", scores)
    monkeypatch.setattr(evaluation, "anchor", lambda *_, **__: {})
    return asked


def test_evaluate_draws_as_for_the_recorded_scores_and_shows_them_beside(seen):
    result = run("evaluate", "--device", "cpu")
    held = about_shipped("digits_ddpm")
    assert result.status == 0
    assert seen == {"n": held["scoring"]["n"], "sampling": Sampling(**held["scoring"]["sampling"])}
    lines = {line.split(" 0.")[0].strip(): line for line in result.out.splitlines()}
    told = held["made"]["scores"]["Precision"]
    expected = f"; recorded {told['value']:.4g} ({told['low']:.4g}..{told['high']:.4g})"
    assert lines["Precision"].endswith(expected)
    assert result.out.count("; recorded ") == len(held["made"]["scores"]) - 1
    assert f"  Bits/dim was recorded too: --bits {held['scoring']['bits']} finds it again" in result.out


@pytest.mark.parametrize("more", [0, 10])
def test_bits_of_as_many_images_stand_beside_the_recorded_ones(seen, monkeypatch, more):
    recorded = about_shipped("digits_ddpm")["made"]["scores"]
    bits = recorded["Bits/dim"]["n"] + more
    drawn = {name: Score(**score) for name, score in recorded.items()}
    drawn["Bits/dim"] = drawn["Bits/dim"]._replace(n=bits)
    monkeypatch.setattr(evaluation, "scores", lambda *_, **__: drawn)
    (line,) = [s for s in run("evaluate", "--device", "cpu", "--bits", bits).out.splitlines() if "Bits/dim" in s]
    assert ("; recorded" in line) == (more == 0)


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--sampler", "ddim"], {"sampling": Sampling("ddim")}),
        (["--steps", "trailing9"], {"sampling": Sampling(steps="trailing9")}),
        (["--guidance", 2, "--seed", 3], {"sampling": Sampling(guidance=2.0, seed=3)}),
        (["--no-clip"], {"sampling": Sampling(clip=False)}),
        (["--n", 100], {"n": 100}),
    ],
)
def test_scores_recorded_for_another_way_to_draw_are_not_shown(seen, options, expected):
    result = run("evaluate", "--device", "cpu", *options)
    assert result.status == 0 and "; recorded " not in result.out
    assert expected.items() <= seen.items()


def test_scores_in_other_features_are_not_beside_the_recorded_ones(seen, classifiers, tmp_path):
    namesake = tmp_path / "digits_classifier.safetensors"
    namesake.write_bytes((classifiers / "clean.safetensors").read_bytes())
    result = run("evaluate", "--device", "cpu", "--classifier", namesake)
    assert result.status == 0 and "  Precision " in result.out and "recorded" not in result.out


def test_recorded_scores_of_another_chain_are_drawn_like_that(seen, trained, monkeypatch):
    held = about_shipped("digits_ddpm")
    recorded = Sampling("ddim", "trailing50", eta=0.5, guidance=2.0, clip=False, seed=4)
    scoring = {**held["scoring"], "sampling": dataclasses.asdict(recorded)}
    shipped = lambda name: {**held, "scoring": scoring} if name == "digits_ddpm" else about_shipped(name)  # noqa: E731
    monkeypatch.setattr(cli.evaluate.pretrained, "about_shipped", shipped)
    result = run("evaluate", "--device", "cpu")
    assert result.status == 0 and seen == {"n": 382, "sampling": recorded}
    assert f"Samples of digits_ddpm, {recorded}, against" in result.out and "; recorded " in result.out
    # Each thing can be asked for by name, and another sampler takes over no option of the recorded one.
    assert run("evaluate", "--device", "cpu", "--sampler", "ancestral", "--steps", "all").status == 0
    assert seen["sampling"] == Sampling(guidance=2.0, clip=False, seed=4)
    assert run("evaluate", "--device", "cpu", "--eta", 0, "--guidance", 1, "--clip", "--seed", 0).status == 0
    assert seen["sampling"] == Sampling("ddim", "trailing50")
    # A network of one's own is not drawn like one that ships.
    assert run("evaluate", "--weights", trained, "--device", "cpu").status == 0
    assert seen == {"n": 382, "sampling": Sampling()}  # 1000, but only 382 were held out
    assert "invalid choice: 'euler'" in told("evaluate", "--sampler", "euler", status=2)


def test_what_is_usual_draws_what_is_drawn_without_it(trained, tmp_path):
    options = ["sample", "--weights", trained, "--n", 4, "--device", "cpu", "--out"]
    assert run(*options, tmp_path / "a.png").status == 0
    usual = ["--steps", "all", "--sampler", "ancestral", "--guidance", 1, "--clip", "--seed", 0]
    assert run(*options, tmp_path / "b.png", *usual).status == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_learned_variance_by_the_command_line(tmp_path):
    options = [*TINY, "--data", "digits", "--steps", 2, "--loss", "kl", "--var-type", "learned"]
    assert train(*options, "--out", tmp_path / "run").status == 0
    sample = ["sample", "--weights", tmp_path / "run", "--n", 2, "--device", "cpu", "--out", tmp_path / "x.png"]
    assert run(*sample).status == 0 and (tmp_path / "x.png").exists()
    assert run(*sample, "--sampler", "ddim", "--steps", "trailing3").status == 0
    result = run(*sample, "--steps", "trailing3")
    last = [line for line in re.split("[\r\n]", result.err) if line.strip()][-1]  # after a progress bar
    assert result.status == 1 and "learned variances are those of the base's steps, got a respaced chain" in last


def test_a_network_that_enlarges_draws_what_was_held_out(tmp_path, classifiers):
    out = tmp_path / "run"
    made = train("--preset", "digits_upscale", *TINY, "--steps", 2, "--preview-every", 1, "--out", out)
    assert made.status == 0, made.err
    assert sorted(path.name for path in (out / "previews").iterdir()) == ["0000001.png", "0000002.png"]
    sample = ["sample", "--weights", out, "--n", 3, "--device", "cpu", "--out", tmp_path / "x.png"]
    assert run(*sample, "--seed", 2).status == 0
    network, held_out = load_weights(out / "weights.safetensors"), data.digits("test")
    x_0, _ = held_out[evaluation.some(held_out, 3, 2)]
    small = torch.nn.functional.avg_pool2d(x_0, 2)
    (tmp_path / "y.png").write_bytes(pictures.grid(network.sample(3, Sampling(seed=2), cond=small)))
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    assert "whose classes are what they are: got --label 3" in told(*sample, "--label", "3")
    assert "there are 382 images held out, expected 1..382, got 400" in told(*sample, "--n", 400)
    scored = evaluate(out, classifiers / "clean.safetensors", "--n", 80, "--bits", 2)
    assert scored.status == 0 and "Mean squared error" in scored.out and "Small image's error" in scored.out


def test_bits_of_self_conditioning_are_one_line(tmp_path, classifiers):
    out = tmp_path / "run"
    assert train("--preset", "digits_self", *TINY, "--steps", 2, "--out", out).status == 0
    assert evaluate(out, classifiers / "clean.safetensors", "--n", 80).status == 0
    result = evaluate(out, classifiers / "clean.safetensors", "--n", 80, "--bits", 2)
    assert result.status == 1 and "there are no bits/dim of a network with self-conditioning" in result.err


# All commands.


def test_help_explains_every_field():
    result = run("train", "--help")
    text = " ".join(result.out.split())
    assert result.status == 0
    for field in dataclasses.fields(Recipe):
        name = f"--{field.name.replace('_', '-')}"
        assert f"{name} " in text or f"{name}," in text
        usual = "none" if field.default is None else field.default
        usual = " ".join(map(str, usual)) if isinstance(usual, tuple) else usual  # as they are typed
        words = " ".join(f"{field.metadata['help']} [{usual}]".split())
        assert re.sub(r"\s|-", "", words) in re.sub(r"\s|-", "", text), field.name  # argparse breaks lines at hyphens


@pytest.mark.parametrize("command", ["sample", "evaluate", None])
def test_help_of_the_others(command):
    result = run(*([command] if command else []), "--help")
    assert result.status == 0 and not result.err
    chain = ["--weights", "--sampler", "--steps", "--eta", "--guidance", "--no-clip", "--seed", "--n", "--debug"]
    expected = chain if command else ["train", "sample", "evaluate"]
    assert all(word in result.out for word in expected)


def test_number_of_threads(monkeypatch, trained, tmp_path):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    run("sample", "--weights", trained, "--n", 1, "--threads", 3, "--out", tmp_path / "x.png", "--device", "cpu")
    assert asked == [3]


MISTAKES = [
    ["sample", "--weights", "nowhere.safetensors", "--device", "cpu"],
    ["train", "--preset", "digits", "--lr", "nan", "--device", "cpu"],
    ["evaluate", "--eta", "3", "--sampler", "ddim", "--device", "cpu"],
]


@pytest.mark.parametrize("arguments", MISTAKES, ids=lambda arguments: arguments[0])
def test_debug_raises_what_is_one_line_without_it(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    line = told(*arguments)
    with pytest.raises((ValueError, OSError)) as error:
        run(*arguments, "--debug")
    assert line == f"ddpm_lesson: {' '.join(str(error.value).split())}\n"
    assert len(error.traceback) > 3  # where in the code it came from


@pytest.mark.parametrize("debug", [False, True])
def test_debug_in_a_process_of_its_own(tmp_path, debug):
    arguments = ["sample", "--weights", "nowhere.safetensors", "--device", "cpu", *["--debug"] * debug]
    command = [sys.executable, "-m", "ddpm_lesson", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert ("Traceback" in done.stderr and "load_tensors" in done.stderr) == debug
    assert done.stderr.splitlines()[-1].endswith("there is no file nowhere.safetensors")
    assert debug or done.stderr.count("\n") == 1


def test_in_a_process_of_its_own(trained, tmp_path):
    arguments = [
        sys.executable,
        "-m",
        "ddpm_lesson",
        "sample",
        "--weights",
        str(trained),
        "--label",
        "x",
        "--threads",
        "1",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ddpm_lesson: the class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got x\n"
