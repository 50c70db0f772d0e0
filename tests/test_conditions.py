"""Conditions and noise of a recipe: what networks are told in training and in sampling, from the preset to the file."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

from ddpm_lesson import data
from ddpm_lesson.bound import bits_per_dim, discretized
from ddpm_lesson.experiments import evaluation
from ddpm_lesson.experiments.build import make_loss, make_network, make_noise, make_process
from ddpm_lesson.experiments.checkpoints import load_tensors
from ddpm_lesson.experiments.evaluation import Space, bits_of, enlarged
from ddpm_lesson.experiments.pretrained import RECIPE_AT_DEFAULT, load_weights
from ddpm_lesson.experiments.recipes import PRESETS, Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.experiments.sampling import Sampling
from ddpm_lesson.schedules import cosine

NAMES = ("digits_v", "digits_self", "digits_upscale", "mnist_upscale")
TINY = {"T": 6, "ch": 8, "ch_mult": (1,), "attn": (), "num_groups": 4, "batch_size": 4, "ema_decay": 0.5}
DDIM = Sampling("ddim")


def tiny(name, steps=2, **changes):
    return dataclasses.replace(PRESETS[name], **TINY, steps=steps, **changes)


def images_of(name):
    if name.startswith("digits"):
        return data.digits("train")
    pixels = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return data.Images(pixels, torch.arange(40) % 10, levels=256, classes=tuple("0123456789"))


def carry_out(run):
    for _ in run.steps():
        pass
    run.save()
    return run


@pytest.fixture(scope="module", params=NAMES)
def done(request, tmp_path_factory):
    name = request.param
    return name, carry_out(Run(tiny(name), tmp_path_factory.mktemp(name), images_of(name)))


def small_by_hand(x_0):
    """The mean of each 2x2 square."""
    B, C, H, W = x_0.shape
    return x_0.reshape(B, C, H // 2, 2, W // 2, 2).mean((3, 5))


def doubled_by_hand(small):
    """Bilinear, by a factor of two: 3/4 of the pixel and 1/4 of its neighbour on that side; edges repeat."""
    for dim in (2, 3):
        n = small.shape[dim]
        before, after = torch.arange(-1, n - 1).clamp(min=0), torch.arange(1, n + 1).clamp(max=n - 1)
        sides = [0.75 * small + 0.25 * small.index_select(dim, at) for at in (before, after)]
        small = torch.stack(sides, dim + 1).flatten(dim, dim + 1)
    return small


def asked(run):
    """What the trained network is asked in the run's steps: x_t, t, what it is told, its output, and the batches."""
    calls, noised, process = [], [], run.process.noised

    def keep(module, arguments, told, output):
        calls.append((*arguments, told, output.detach()))

    run.process.noised = lambda *arguments: noised.append(process(*arguments)) or noised[-1]
    hook = run.model.register_forward_hook(keep, with_kwargs=True)
    per_step = []
    for _ in run.steps():
        per_step.append((list(calls), noised[-1]))
        calls.clear()
    hook.remove()
    return per_step


# Presets, from training to the file.


def test_every_preset_samples_what_its_file_samples(done, tmp_path):
    name, run = done
    trained, again = run.result(), load_weights(run.folder / "weights.safetensors")
    assert again.recipe == dataclasses.replace(run.recipe, root=None)
    x_0, _ = images_of(name)[torch.arange(3)]
    cond = small_by_hand(x_0) if name.endswith("upscale") else None
    for sampling in (Sampling(), DDIM, Sampling("dpmpp_2m", "trailing3")):
        images = trained.sample(3, sampling, y=trained.labels(3), cond=cond)
        assert images.shape == x_0.shape and images.abs().max() <= 1 + 1e-6
        assert torch.equal(images, again.sample(3, sampling, y=trained.labels(3), cond=cond))
    again.save(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == (run.folder / "weights.safetensors").read_bytes()


def test_every_preset_goes_on_bit_by_bit(done, tmp_path):
    name, whole = done
    begun = Run(whole.recipe, tmp_path / "run", images_of(name))
    next(begun.steps())
    begun.save()
    carry_out(Run(whole.recipe, tmp_path / "run", images_of(name)))
    for file in ("recipe.json", "state.safetensors", "weights.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (whole.folder / file).read_bytes(), file


def test_self_conditioning_and_offset_noise_go_on_bit_by_bit_whichever_way_the_coin_falls(tmp_path):
    recipe, images = tiny("digits_self", steps=8, offset_noise=0.2, dropout=0.2), images_of("digits")
    whole = carry_out(Run(recipe, tmp_path / "whole", images))
    for _ in range(8):
        begun = Run(recipe, tmp_path / "run", images)
        next(begun.steps())
        begun.save()
    for file in ("state.safetensors", "weights.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (whole.folder / file).read_bytes(), file


def test_what_says_nothing_is_not_written(tmp_path):
    fields = {field.name: field.default for field in dataclasses.fields(Recipe)}
    names = {"zero_snr", "offset_noise", "condition", "low_res_factor", "patch_size"}
    assert dict(RECIPE_AT_DEFAULT) == {name: fields[name] for name in names}
    carry_out(Run(tiny("digits"), tmp_path / "plain", images_of("digits")))
    assert not names & load_tensors(tmp_path / "plain" / "weights.safetensors")[1]["recipe"].keys()
    carry_out(Run(tiny("digits_upscale"), tmp_path / "upscale", images_of("digits")))
    assert load_tensors(tmp_path / "upscale" / "weights.safetensors")[1]["recipe"]["condition"] == "low_res"


def test_a_run_from_before_the_fields_goes_on(tmp_path):
    recipe, path = tiny("digits"), tmp_path / "run" / "recipe.json"
    begun = Run(recipe, tmp_path / "run", images_of("digits"))
    next(begun.steps())
    begun.save()
    held = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in held.items() if name not in dict(RECIPE_AT_DEFAULT)}))
    assert carry_out(Run(recipe, tmp_path / "run", images_of("digits"))).step == 2


# Training.


def test_a_network_that_enlarges_is_told_the_image_made_small(tmp_path):
    run = Run(tiny("digits_upscale"), tmp_path / "run", images_of("digits"))
    for calls, noised in asked(run):
        ((x_t, _, told, _),) = calls
        assert torch.equal(x_t, noised.x_t) and told.keys() == {"cond"}
        torch.testing.assert_close(told["cond"], doubled_by_hand(small_by_hand(noised.x_0)))


def test_a_self_conditioned_network_is_told_its_own_estimate_half_of_the_time(tmp_path):
    run, estimates = Run(tiny("digits_self", steps=40), tmp_path / "run", images_of("digits")), 0
    for calls, noised in asked(run):
        assert not calls[0][2]["cond"].any()
        if len(calls) == 2:
            (x_t, t, told, output), (_, _, second, _) = calls
            ab = run.process.alphas_bar[t].float().view(-1, 1, 1, 1)
            v, _ = output.chunk(2, 1)
            torch.testing.assert_close(second["cond"], ab.sqrt() * x_t - (1 - ab).sqrt() * v)
            assert torch.equal(told["y"], second["y"]) and torch.equal(x_t, noised.x_t)
            estimates += 1
    assert 8 <= estimates <= 32  # of 40 throws of a coin, with probability 0.9999


def test_offset_noise_is_what_trains(tmp_path):
    run = Run(tiny("digits_v", offset_noise=3.0), tmp_path / "run", images_of("digits"))
    means = torch.cat([noised.noise.mean((1, 2, 3)) for _, noised in asked(run)])
    assert means.std() > 0.8  # 3; without offset 1/8, of which even the largest of 8 is hardly 0.5
    recipe = Recipe(offset_noise=0.5)
    x_0, generator = torch.zeros(2, 3, 4, 4), torch.Generator().manual_seed(0)
    again = torch.Generator().manual_seed(0)
    expected = torch.randn(2, 3, 4, 4, generator=again) + 0.5 * torch.randn(2, 3, generator=again)[..., None, None]
    torch.testing.assert_close(make_noise(recipe)(x_0, generator=generator), expected)
    generator.manual_seed(0), again.manual_seed(0)
    assert torch.equal(make_noise(Recipe())(x_0, generator=generator), torch.randn(2, 3, 4, 4, generator=again))


def test_zero_snr_is_lins_algorithm():
    root = (1 - cosine(20)).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])  # Lin et al. 2023, Algorithm 1
    process = make_process(Recipe(T=20, schedule="cosine", zero_snr=True, mean_type="v"))
    torch.testing.assert_close(process.alphas_bar, root**2, rtol=0, atol=1e-12)
    assert process.alphas_bar[-1] == 0 and process.betas[-1] == 1


LOSSES = [
    {},
    {"weighting": "min_snr"},
    {"weighting": "p2"},
    {"loss": "hybrid", "var_type": "learned_range"},
    {"loss": "kl", "var_type": "learned_range"},
    {"loss": "kl", "var_type": "fixedlarge"},
]


@pytest.mark.parametrize("mean_type", ["xstart", "xprev", "v"])
@pytest.mark.parametrize("names", LOSSES, ids=lambda names: "-".join(names.values()) or "simple")
def test_every_loss_is_finite_at_zero_snr(mean_type, names):
    recipe = Recipe(**{**TINY, **names}, zero_snr=True, mean_type=mean_type)
    process, model = make_process(recipe), make_network(recipe, 1, 10)
    x_0, _ = data.digits("train")[:2]
    noised = process.noised(x_0, torch.tensor([recipe.T - 1, 0]), torch.randn(x_0.shape))
    loss = make_loss(recipe, process, 17)(model(noised.x_t, noised.t), noised)
    loss.mean().backward()
    assert loss.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Sampling.


def test_self_conditioned_samples_equal_those_made_by_hand(tmp_path):
    trained = carry_out(Run(tiny("digits_self", steps=4, lr=0.05), tmp_path / "run", images_of("digits"))).result()
    x, prev = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 1, 8, 8)
    y, ab = torch.tensor([1, 5, 5]), trained.process.alphas_bar.float()
    for t in reversed(range(6)):
        v, _ = trained.model(x, torch.full((3,), t), y, cond=prev).chunk(2, 1)
        prev = (ab[t].sqrt() * x - (1 - ab[t]).sqrt() * v).clamp(-1, 1)
        eps = (x - ab[t].sqrt() * prev) / (1 - ab[t]).sqrt()
        x = ab[t - 1].sqrt() * prev + (1 - ab[t - 1]).sqrt() * eps if t else prev
    torch.testing.assert_close(trained.sample(3, DDIM, y=y), x, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def upscale(tmp_path_factory):
    recipe = tiny("digits_upscale", steps=4, lr=0.05)
    return carry_out(Run(recipe, tmp_path_factory.mktemp("upscale"), images_of("digits"))).result()


def test_enlarged_images_equal_those_made_by_hand(upscale):
    x_0, _ = images_of("digits")[:3]
    cond = doubled_by_hand(small_by_hand(x_0))
    x, ab = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), upscale.process.alphas_bar.float()
    for t in reversed(range(6)):
        v = upscale.model(x, torch.full((3,), t), cond=cond)
        x_hat = (ab[t].sqrt() * x - (1 - ab[t]).sqrt() * v).clamp(-1, 1)
        eps = (x - ab[t].sqrt() * x_hat) / (1 - ab[t]).sqrt()
        x = ab[t - 1].sqrt() * x_hat + (1 - ab[t - 1]).sqrt() * eps if t else x_hat
    images = upscale.sample(3, DDIM, cond=small_by_hand(x_0))
    torch.testing.assert_close(images, x, rtol=0, atol=1e-4)
    assert (images - upscale.sample(3, DDIM, cond=small_by_hand(x_0).flip(0))).abs().max() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_each_image_keeps_its_small_one_in_batches(upscale, batch_size, monkeypatch):
    from ddpm_lesson.experiments import pretrained

    monkeypatch.setattr(pretrained, "BLOCK", 3)
    cond = small_by_hand(images_of("digits")[:5][0])
    whole = upscale.sample(5, DDIM, cond=cond)
    torch.testing.assert_close(upscale.sample(5, DDIM, cond=cond, batch_size=batch_size), whole, rtol=0, atol=1e-5)
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 5


def test_a_cond_that_does_not_fit_is_an_error(upscale, tmp_path):
    own = carry_out(Run(tiny("digits_self"), tmp_path / "self", images_of("digits"))).result()
    plain = carry_out(Run(tiny("digits_v"), tmp_path / "v", images_of("digits"))).result()
    small, large = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 8, 8)
    expected = r"cond must hold the small images to enlarge, \(n, 1, 4, 4\), got "
    with pytest.raises(ValueError, match=expected + "none"):
        upscale.sample(2)
    with pytest.raises(ValueError, match=expected + r"\(2, 1, 8, 8\)"):
        upscale.sample(2, cond=large)
    with pytest.raises(ValueError, match=expected + r"\(2, 1, 8, 8\)"):
        upscale.denoiser(cond=large)
    with pytest.raises(ValueError, match=r"cond must be \(3, C, h, w\), a small image for each, got \(2, 1, 4, 4\)"):
        upscale.sample(3, cond=small)
    for trained in (own, plain):
        with pytest.raises(ValueError, match=r"enlarges no images: expected no cond, got one of shape \(2, 1, 4, 4\)"):
            trained.sample(2, cond=small)


def test_guidance_tells_both_questions_the_small_image(tmp_path):
    recipe = tiny("digits_upscale", steps=4, lr=0.05, conditional=True)
    trained = carry_out(Run(recipe, tmp_path / "run", images_of("digits"))).result()
    x_0, y = images_of("digits")[:3]
    told = []
    hook = trained.model.register_forward_hook(lambda m, a, k, o: told.append(k["cond"]), with_kwargs=True)
    next(
        itertools.islice(trained.states(3, dataclasses.replace(DDIM, guidance=2.0), y=y, cond=small_by_hand(x_0)), 1, 2)
    )
    hook.remove()
    assert len(told) == 2
    for cond in told:
        torch.testing.assert_close(cond, doubled_by_hand(small_by_hand(x_0)))


def test_sides_that_the_factor_does_not_divide_make_no_folder(tmp_path):
    with pytest.raises(ValueError, match="low_res_factor = 3 needs sides that it divides, got 8 x 8"):
        Run(tiny("digits_upscale", low_res_factor=3), tmp_path / "run", images_of("digits"))
    assert not (tmp_path / "run").exists()


# Scores.


def test_bits_are_of_the_image_beside_its_small_one(upscale):
    x_0, y = images_of("digits")[:4]
    cond, generator = doubled_by_hand(small_by_hand(x_0)), torch.Generator().manual_seed(0)
    chain = upscale.model, upscale.process, upscale.mean_type, upscale.variance
    by_hand = bits_per_dim(*chain, x_0, decoder=discretized(17), generator=generator, cond=cond)
    assert bits_of(upscale, x_0, y).total == pytest.approx(by_hand.total, rel=1e-5)
    other = bits_per_dim(*chain, x_0, decoder=discretized(17), generator=generator.manual_seed(0), cond=cond.flip(0))
    assert other.total != pytest.approx(by_hand.total, rel=1e-5)


def test_bits_of_self_conditioning_are_refused_in_a_sentence(tmp_path):
    own = carry_out(Run(tiny("digits_self"), tmp_path / "self", images_of("digits"))).result()
    with pytest.raises(ValueError, match="no bits/dim of a network with self-conditioning: each step is told"):
        bits_of(own, *images_of("digits")[:4])


@pytest.fixture(scope="module")
def space():
    classifier = load_weights(data.bundled("weights/digits_classifier.safetensors")).model
    reference = evaluation.reference_of(data.digits("train").x_0, classifier)
    return Space(classifier, "digits_classifier", reference, data.digits("test"))


def test_enlarged_images_are_compared_with_their_originals(space):
    x_0, y = data.digits("test")[:80]
    changed = 0.5 * x_0
    found = enlarged(changed, x_0, y, space, 2, seed=0)
    assert found["Mean squared error"].value == pytest.approx((0.25 * x_0**2).mean().item(), rel=1e-5)
    small = small_by_hand(x_0)
    assert found["Small image's error"].value == pytest.approx((0.25 * small**2).mean().item(), rel=1e-5)
    assert enlarged(x_0, x_0, y, space, 2, seed=0)["Mean squared error"][1:4] == (0, 0, 0)


def test_a_network_that_enlarges_is_scored_on_images_held_out(space, upscale):
    found = evaluation.scores(upscale, space, 80, DDIM, bits_images=2)
    x_0, y = space.held_out[evaluation.some(space.held_out, 80, 0)]
    images = upscale.sample(80, DDIM, cond=small_by_hand(x_0))
    assert found["Mean squared error"].value == pytest.approx((images - x_0).square().mean().item(), rel=1e-4)
    assert found["Conditional accuracy"].n == 80 and math.isfinite(found["Bits/dim"].value)
    bilinear = evaluation.bilinear(space, 80, 2)
    by_hand = (doubled_by_hand(small_by_hand(x_0)) - x_0).square().mean().item()
    assert bilinear["Mean squared error"].value == pytest.approx(by_hand, rel=1e-5)
    assert bilinear.keys() == found.keys() - {"Bits/dim"}
