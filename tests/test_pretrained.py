"""Trained networks from files: what comes back is what was trained, and damaged files are refused."""

import copy
import dataclasses
import itertools
import json
import shutil

import pytest
import torch

from ddpm_lesson import data, pretrained
from ddpm_lesson.experiments.checkpoints import CheckpointError, load_tensors, save_tensors, sha256
from ddpm_lesson.experiments.classifiers import ClassifierRecipe, fit
from ddpm_lesson.experiments.pretrained import Pretrained, load_pretrained, load_weights
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.predictions import epsilon, learned_range, make_denoiser, xstart
from ddpm_lesson.samplers import ancestral, ddim, last, reverse
from ddpm_lesson.schedules import cosine
from ddpm_lesson.spacing import trailing

RECIPE = Recipe(
    **{"T": 12, "schedule": "cosine", "ch": 8, "ch_mult": (1,), "attn": (), "num_groups": 4, "batch_size": 4},
    **{"conditional": True, "loss": "hybrid", "var_type": "learned_range", "dropout": 0.5, "steps": 3, "lr": 0.01},
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(RECIPE, tmp_path_factory.mktemp("run"), data.digits("train"))
    for _ in run.steps():
        pass
    run.save()
    return run


@pytest.fixture(scope="module")
def weights(run):
    return run.folder / "weights.safetensors"


@pytest.fixture
def trained(weights):
    return load_weights(weights)


def classifier_file(path, T=None):
    recipe, images = ClassifierRecipe("digits", T=T, ch=16, ch_mult=(1,), steps=2, batch_size=4), data.digits("train")
    *_, model = fit(recipe, images)
    save_tensors(path, model.state_dict(), recipe.about(model, images))
    return model.eval()


# What comes back.


def test_a_run_comes_back_from_its_file(run, trained):
    assert isinstance(trained, Pretrained)
    assert (trained.shape, trained.levels, trained.classes) == ((1, 8, 8), 17, tuple("0123456789"))
    assert (trained.mean_type, trained.variance) == (epsilon, learned_range)
    assert torch.equal(trained.process.betas, cosine(12))
    assert trained.about == json.loads(json.dumps(run.about())) and trained.about["step"] == 3
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([0, 11]), torch.tensor([3, 10])
    assert torch.equal(trained.model(x, t, y), run.ema.model(x, t, y))
    assert torch.equal(run.result().model(x, t, y), run.ema.model(x, t, y))


def test_it_is_in_eval_mode_without_gradients_and_stays_so(trained):
    assert not any(module.training for module in trained.model.modules())
    assert not any(p.requires_grad for p in trained.model.parameters())
    a, b = (last(trained.sample(2, generator=seeded())) for _ in range(2))
    assert torch.equal(a, b)  # dropout of 0.5 would tell
    assert not any(module.training for module in trained.model.modules())


def test_another_mean_type_comes_back_too(run, tmp_path):
    tensors, about = load_tensors(run.folder / "weights.safetensors")
    about["recipe"] |= {"mean_type": "xstart"}
    save_tensors(tmp_path / "x", tensors, about)
    assert load_weights(str(tmp_path / "x")).mean_type is xstart


def test_weights_of_a_folder_come_back_without_the_folder(tmp_path):
    # What the weights say of their recipe has no place on a machine in it, and asks for none.
    recipe = dataclasses.replace(RECIPE, data="folder", root=str(tmp_path / "away"), size=8, channels=1, steps=1)
    run = Run(recipe, tmp_path / "run", data.digits("train"))
    list(run.steps())
    run.save()
    trained = load_weights(tmp_path / "run" / "weights.safetensors")
    assert last(trained.sample(2, steps="trailing2")).shape == (2, 1, 8, 8)


def test_it_is_on_the_device_that_was_asked_for(weights, device):
    trained = load_weights(weights, device=device)
    assert trained.process.betas.device.type == device.type
    assert {p.device.type for p in trained.model.parameters()} == {device.type}
    images = last(trained.sample(2, y=torch.tensor([1, 2], device=device), steps="trailing3", generator=seeded()))
    cpu = last(load_weights(weights).sample(2, y=torch.tensor([1, 2]), steps="trailing3", generator=seeded()))
    assert images.device.type == device.type
    torch.testing.assert_close(images.cpu(), cpu, rtol=0, atol=2e-3)  # three steps of a float32 network


# Samples.


@pytest.mark.parametrize("y", [None, torch.tensor([3, 3, 0])])
@pytest.mark.parametrize("steps", [None, "trailing5"])
@pytest.mark.parametrize("eta", [None, 0.0, 0.7])
def test_samples_equal_those_made_by_hand(trained, y, steps, eta):
    # The clip, by hand: x_0 is cut, and eps is derived again from it.
    generator = seeded(3)
    x_T = torch.randn(3, 1, 8, 8, generator=generator)
    raw = make_denoiser(trained.model, trained.process, epsilon, cond=y)

    def denoise(x_t, t, prev=None):
        guess = raw(x_t, t)
        x_0 = guess.x_0.clamp(-1, 1)
        return guess._replace(x_0=x_0, eps=trained.process.eps_from_x_0(x_t, t, x_0))

    chain = trained.process if steps is None else trained.process.respaced(trailing(12, 5))
    if eta is None:
        expected = ancestral(chain, reverse(chain, denoise, learned_range), x_T, generator=generator)
    else:
        expected = ddim(chain, denoise, x_T, eta=eta, generator=generator)
    found = list(trained.sample(3, y=y, steps=steps, eta=eta, generator=seeded(3)))
    for a, b in itertools.zip_longest(found, expected):
        assert a.i == b.i
        torch.testing.assert_close(a.x_t, b.x_t)
    assert found[0].i == chain.T and found[-1].i == 0 and found[-1].x_t.abs().max() <= 1 + 1e-6


def test_labels_and_seeds_count(trained):
    def draw(seed, y):
        return last(trained.sample(2, y=y, generator=seeded(seed)))

    one, none = torch.tensor([1, 1]), None
    assert torch.equal(draw(0, one), draw(0, one))
    assert not torch.equal(draw(0, one), draw(0, torch.tensor([1, 2])))
    assert not torch.equal(draw(0, one), draw(0, none)) and not torch.equal(draw(0, one), draw(1, one))
    assert torch.equal(draw(0, none), draw(0, torch.tensor([10, 10])))  # the null class


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": "every second"}, "unknown step choice 'every second'"),
        ({"steps": "trailing13"}, r"must lie in 1\.\.12, got 13"),
        ({"eta": 1.5}, "eta"),
        ({"y": torch.tensor([1])}, r"y must be \(B,\)"),
        ({"y": torch.tensor([1, 11])}, "11"),
    ],
)
def test_bad_wishes_are_an_error(trained, options, message):
    with pytest.raises(ValueError, match=message):
        last(trained.sample(2, **options))


# Classifiers.


@pytest.mark.parametrize("T", [None, 12])
def test_a_classifier_comes_back(tmp_path, T):
    model = classifier_file(tmp_path / "c", T)
    trained = load_weights(tmp_path / "c")
    x = torch.randn(3, 1, 8, 8)
    level = () if T is None else (torch.tensor([0, 5, 11]),)
    assert isinstance(trained.model, Classifier) and torch.equal(trained.model(x, *level), model(x, *level))
    assert trained.mean_type is trained.variance is None and trained.about["kind"] == "classifier"
    assert (trained.process is None) if T is None else torch.equal(trained.process.betas, cosine(12))
    with pytest.raises(ValueError, match="only a ddpm can draw images; this is a classifier"):
        trained.sample(2)


# Damaged and other files.


def refused(path):
    with pytest.raises(CheckpointError) as error:
        load_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no file {tmp_path / 'no.safetensors'}"):
        load_weights(tmp_path / "no.safetensors")


def test_the_state_of_a_run_is_no_network(run):
    assert "maybe the state of a run" in refused(run.folder / "state.safetensors")


def test_a_cut_file_is_refused(weights, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:-1])
    assert "no whole safetensors file" in refused(tmp_path / "cut.safetensors")


def test_weights_of_another_network_are_refused(weights, tmp_path):
    tensors, about = load_tensors(weights)
    about["unet"]["ch"] = 16
    save_tensors(tmp_path / "x", tensors, about)
    assert "is of another network: expected" in refused(tmp_path / "x")


def changes(about):
    """What else a damaged description may look like: each entry missing, and some of another type."""
    for name in about:
        if name != "step":
            yield {key: value for key, value in about.items() if key != name}
    for name in ("unet", "recipe"):
        changed = copy.deepcopy(about)
        changed[name]["unknown"] = 1
        yield changed
        yield about | {name: None}
    yield about | {"recipe": about["recipe"] | {"mean_type": "eps"}}
    yield about | {"unet": about["unet"] | {"ch": 7}}
    yield about | {"classes": 3}


def test_a_description_that_says_too_little_is_refused(weights, tmp_path):
    tensors, about = load_tensors(weights)
    for i, changed in enumerate(changes(about)):
        save_tensors(tmp_path / str(i), tensors, changed)
        refused(tmp_path / str(i))
    assert i > 10


# By name.


@pytest.fixture
def shipped(weights, tmp_path, monkeypatch):
    """A data/weights folder of its own, with the tiny network and a classifier."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "README.md").write_text("how good they are")
    shutil.copy(weights, folder / "tiny_ddpm.safetensors")
    classifier_file(folder / "tiny_classifier.safetensors")
    for path in folder.glob("*.safetensors"):
        path.with_suffix(".json").write_text(json.dumps({"recipe": {}, "made": {"sha256": sha256(path)}}))
    monkeypatch.setattr(pretrained, "bundled", lambda name: tmp_path / name)
    return folder


def test_a_network_by_its_name(shipped, trained):
    networks = load_pretrained("tiny_ddpm"), trained
    a, b = (last(network.sample(2, steps="trailing2", generator=seeded())) for network in networks)
    assert torch.equal(a, b)
    assert load_pretrained("tiny_classifier").about["kind"] == "classifier"


@pytest.mark.parametrize("name", ["digits", "", "tiny_ddpm.safetensors", "../weights/tiny_ddpm"])
def test_a_wrong_name_lists_what_exists(shipped, name):
    with pytest.raises(ValueError) as error:
        load_pretrained(name)
    assert str(error.value) == f"no weights {name!r} ship with the course; there are tiny_classifier, tiny_ddpm"


def test_weights_that_were_not_scored_yet_say_how_to_score_them(shipped):
    (shipped / "tiny_ddpm.json").write_text('{"recipe": {}}')
    with pytest.raises(CheckpointError, match=r"has no scores yet: python data/weights/make_weights.py tiny_ddpm$"):
        load_pretrained("tiny_ddpm")


@pytest.mark.parametrize("place", [0, 40, -1])
def test_one_bit_anywhere_is_seen_by_the_checksum(shipped, place):
    path = shipped / "tiny_ddpm.safetensors"
    content = bytearray(path.read_bytes())
    expected = sha256(path)
    content[place] ^= 1
    path.write_bytes(content)
    told = f"{path} is damaged: expected the SHA-256 {expected}, got {sha256(path)}. Install the course again"
    with pytest.raises(CheckpointError) as error:
        load_pretrained("tiny_ddpm")
    assert str(error.value) == told


def test_what_ships_is_whole(no_network):
    folder = data.bundled("weights/README.md").parent
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    assert "digits_classifier" in names
    for name in names:
        trained = load_pretrained(name)
        assert trained.shape == ((1, 28, 28) if "mnist" in name else (1, 8, 8))
        assert str(folder) not in json.dumps(trained.about)


def test_guidance_asks_with_the_label_and_without():
    trained = load_pretrained("digits_ddpm")
    x_t, t, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 300, 600, 900]), torch.tensor([0, 3, 5, 9])
    without = torch.full_like(y, 10)
    a = trained.process.alphas_bar[t].float().view(-1, 1, 1, 1)
    eps = [trained.model(x_t, t, label)[:, :1] for label in (y, without)]
    mixed = eps[1] + 3 * (eps[0] - eps[1])
    expected = ((x_t - (1 - a).sqrt() * mixed) / a.sqrt()).clamp(-1, 1)
    torch.testing.assert_close(trained.denoiser(y, guidance=3.0)(x_t, t).x_0, expected, rtol=1e-3, atol=1e-3)


def test_guidance_without_labels_is_an_error():
    with pytest.raises(ValueError, match="guidance leads towards labels: expected some, got none and guidance = 2.0"):
        load_pretrained("digits_ddpm").denoiser(guidance=2.0)
