"""What a recipe says, built: the images, the process, the network and the loss."""

import dataclasses
import math

import pytest
import torch
from PIL import Image

from ddpm_lesson import data
from ddpm_lesson.data import to_uint8
from ddpm_lesson.experiments.build import load_images, make_loss, make_network, make_process
from ddpm_lesson.experiments.recipes import DOWNLOADED, LEARNED, ClassifierRecipe, Recipe
from ddpm_lesson.predictions import MEAN_TYPES
from ddpm_lesson.process import Noised
from ddpm_lesson.schedules import cosine, linear

TINY = {"T": 20, "ch": 4, "ch_mult": (1,), "attn": (), "num_groups": 2, "batch_size": 4}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# What is built.


def test_process_is_the_schedules():
    recipe = Recipe(T=30, schedule="cosine")
    assert torch.equal(make_process(recipe).betas, cosine(30))


def test_network_follows_from_the_seed_alone():
    recipe, before = Recipe(**TINY), torch.get_rng_state()
    a = make_network(recipe, 1, 10).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    b = make_network(recipe, 1, 10).state_dict()
    c = make_network(dataclasses.replace(recipe, seed=1), 1, 10).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])


def test_network_does_not_touch_the_generator_of_a_gpu(device):
    if device.type != "cpu":
        backend = getattr(torch, device.type)
        before = backend.get_rng_state()
        make_network(Recipe(**TINY), 1, 10)
        assert torch.equal(backend.get_rng_state(), before)
    seeds = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "manual_seed_all", seeds.append)
        make_network(Recipe(**TINY), 1, 10)
    assert not seeds


@pytest.mark.parametrize("var_type", LEARNED)
def test_every_option_reaches_the_network(var_type):
    options = {"dropout": 0.5, "num_heads": 2, "zero_init": True, "scale_shift_norm": True, "biggan": True}
    options |= {"ch": 8, "ch_mult": (1, 2), "attn": (0,), "num_res_blocks": 2, "num_groups": 4}
    recipe = Recipe(T=20, **options, conditional=True, var_type=var_type, loss="hybrid")
    found = make_network(recipe, 3, 7).options
    expected = options | {"T": 20, "in_ch": 3, "num_classes": 7, "learned_var": True, "ch_mult": [1, 2], "attn": [0]}
    assert {name: found[name] for name in expected} == expected
    plain = make_network(Recipe(**TINY), 3, 7).options
    assert plain["num_classes"] is None and not plain["learned_var"]


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_weights_mean_the_same_for_every_mean_type(weighting):
    # One estimate of the noise, told in four ways: the weighted loss is that of the noise, which is known.
    recipe = Recipe(T=20, weighting=weighting)
    process, draw = make_process(recipe), seeded()
    x_0, noise, eps = torch.randn(3, 19, 1, 2, 2, generator=draw, dtype=torch.float64)
    t = torch.arange(1, 20)
    x_t = process.q_sample(x_0, t, noise)
    a = torch.cumprod(1 - linear(20), 0)[1:]
    weight = {"min_snr": (5 * (1 - a) / a).clamp(max=1), "p2": 1 - a}[weighting]  # 1 / (1 + snr) is 1 - a
    expected = weight * (noise - eps).square().flatten(1).mean(1)
    guess = process.x_0_from_eps(x_t, t, eps)
    outputs = {"epsilon": eps, "xstart": guess, "xprev": process.q_posterior(guess, x_t, t).mean}
    a = a.view(-1, 1, 1, 1)
    outputs["v"] = a.sqrt() * eps - (1 - a).sqrt() * guess
    assert outputs.keys() == set(MEAN_TYPES)
    for mean_type, output in outputs.items():
        loss = make_loss(dataclasses.replace(recipe, mean_type=mean_type), process, 17)
        torch.testing.assert_close(loss(output, Noised(x_0, t, noise, x_t)), expected, rtol=1e-9, atol=1e-12)


def test_errors_by_name():
    process, x_0 = make_process(Recipe(T=20)), torch.zeros(3, 1, 1, 1)
    noise, t = torch.tensor([0.5, -2.0, 3.0]).view(3, 1, 1, 1), torch.tensor([0, 5, 19])
    noised = Noised(x_0, t, noise, process.q_sample(x_0, t, noise))
    by_hand = {"simple": [0.25, 4.0, 9.0], "l1": [0.5, 2.0, 3.0], "huber": [0.125, 1.5, 2.5]}
    for name, expected in by_hand.items():
        loss = make_loss(Recipe(T=20, loss=name), process, 17)
        assert loss(torch.zeros_like(noise), noised).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "names", [{"loss": "kl"}, *({"loss": "hybrid", "var_type": var_type} for var_type in LEARNED)], ids=str
)
def test_the_decoder_has_the_levels_of_the_images(names):
    # At t = 0 the bound is -log2 of a bin's probability; bins 16 times as wide lower it by up to 4 bits.
    recipe = Recipe(T=20, **names)
    process, x_0, t = make_process(recipe), torch.zeros(1, 1, 2, 2), torch.tensor([0])
    noise = torch.randn(1, 1, 2, 2, generator=seeded())
    output = noise if names["loss"] == "kl" else torch.cat([noise, torch.zeros_like(noise)], 1)
    noised = Noised(x_0, t, noise, process.q_sample(x_0, t, noise))
    coarse, fine = (make_loss(recipe, process, levels)(output, noised).item() for levels in (17, 257))
    assert fine > coarse + 1e-3


@pytest.mark.parametrize("loss", ["hybrid", "kl"])
@pytest.mark.parametrize("var_type", LEARNED)
def test_a_learned_variance_is_that_of_the_recipe(loss, var_type):
    # The noise is known, so both means agree, and the KL of two Gaussians is that of their variances alone:
    # (log_var - log_var_q + exp(log_var_q - log_var) - 1) / 2 nats, times T, and 0.001 for the hybrid.
    process = make_process(Recipe(T=20))
    t, v = torch.tensor([3, 11, 19]), torch.tensor([-2.5, 0.3, 1.0], dtype=torch.float64)
    x_0, noise = torch.randn(2, 3, 1, 2, 2, generator=seeded(), dtype=torch.float64)
    betas = linear(20)
    a = torch.cumprod(1 - betas, 0)
    log_var_q = (betas[t] * (1 - a[t - 1]) / (1 - a[t])).log()
    frac = (v + 1) / 2
    log_var = v if var_type == "learned" else frac * betas[t].log() + (1 - frac) * log_var_q
    kl = 0.5 * (log_var - log_var_q + (log_var_q - log_var).exp() - 1) / math.log(2)
    output = torch.cat([noise, v.view(3, 1, 1, 1).expand(3, 1, 2, 2)], 1)
    noised = Noised(x_0, t, noise, process.q_sample(x_0, t, noise))
    found = make_loss(Recipe(T=20, loss=loss, var_type=var_type), process, 17)(output, noised)
    torch.testing.assert_close(found, (0.001 if loss == "hybrid" else 1) * 20 * kl, rtol=1e-6, atol=1e-9)


# Images.


@pytest.mark.parametrize("bundled", [data.digits, data.mnist_10k])
def test_bundled_data_are_the_train_split_and_the_test_split(bundled):
    for train_, split in ((True, "train"), (False, "test")):
        found = load_images(Recipe(data=bundled.__name__), train=train_)
        assert torch.equal(found.data, bundled(split).data)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize("make", [Recipe, ClassifierRecipe])
def test_other_data_are_asked_for_by_root_and_split(monkeypatch, name, make):
    monkeypatch.setitem(DOWNLOADED, name, lambda root, train: (name, root, train))
    recipe = make(data=name)
    assert load_images(recipe) == (name, None, True)
    assert load_images(recipe, "there", train=False) == (name, "there", False)


def test_the_root_of_this_machine_goes_before_that_of_the_recipe(monkeypatch):
    monkeypatch.setitem(DOWNLOADED, "mnist", lambda root, train: root)
    recipe = Recipe(data="mnist", root="here")
    assert load_images(recipe) == "here" and load_images(recipe, "there") == "there"


@pytest.fixture
def pictures(tmp_path):
    for i, name in enumerate(("b", "a", "b")):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (20, 10), (100 * i, 0, 255)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_a_folder_is_read_as_the_recipe_says(pictures):
    recipe = Recipe(data="folder", root=str(pictures), size=4)
    images = load_images(recipe)
    assert images.classes == ("a", "b") and images.labels.tolist() == [0, 1, 1] and images.levels == 256
    assert images.shape == (3, 4, 4)
    assert to_uint8(images.x_0[:, :, 0, 0], 256).tolist() == [[100, 0, 255], [0, 0, 255], [200, 0, 255]]
    assert load_images(dataclasses.replace(recipe, channels=1)).x_0.shape == (3, 1, 4, 4)
    moved = pictures.rename(pictures.with_name("moved"))
    assert load_images(recipe, str(moved)).fingerprint() == images_of(moved).fingerprint()


def images_of(folder):
    return data.folder(folder, 4)


def test_a_folder_that_cannot_be_read_says_what_is_missing(pictures):
    recipe = Recipe(data="folder", root=str(pictures), size=4)
    with pytest.raises(ValueError, match="a folder has no images held back"):
        load_images(recipe, train=False)
    with pytest.raises(ValueError, match="data 'folder' needs root, the folder of your images, got None"):
        load_images(dataclasses.replace(recipe, root=None))


def test_a_folder_is_not_decoded_before_it_is_indexed(pictures, decoded):
    images = load_images(Recipe(data="folder", root=str(pictures), size=4))
    assert len(images) == 3 and images.shape == (3, 4, 4) and images.fingerprint()
    assert decoded == []
    images[1:]
    assert sorted(decoded) == ["0.png", "2.png"]  # a/1.png comes first
    assert images.x_0.shape == (3, 3, 4, 4)
    assert sorted(decoded) == ["0.png", "1.png", "2.png"]


def test_images_of_an_unknown_name_are_refused_and_the_names_listed():
    with pytest.raises(ValueError, match="unknown data 'mnits', expected one of digits, mnist"):
        load_images(ClassifierRecipe("mnits"))
