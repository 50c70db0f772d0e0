"""Generators that need few steps: their recipes, their training in small, drawing, files."""

from collections import deque
from dataclasses import asdict, replace
from itertools import islice

import pytest
import torch

from ddpm_lesson import data, samplers, spacing
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.experiments import generators
from ddpm_lesson.experiments.generator_recipes import GeneratorRecipe
from ddpm_lesson.experiments.generators import fit
from ddpm_lesson.experiments.pretrained import load_pretrained, load_weights
from ddpm_lesson.experiments.pretrained_generators import PretrainedGenerator
from ddpm_lesson.points import eight_gaussians, eight_gaussians_mixture
from ddpm_lesson.predictions import fixedsmall, xstart

SMALL = {"width": 8, "latent": 4, "critic": 16, "batch_size": 16, "steps": 3}
SHORT = {
    "ddgan": GeneratorRecipe("ddgan", **SMALL),
    "gan": GeneratorRecipe("gan", T=1, **SMALL),
    "mlp": GeneratorRecipe("ddgan", schedule="cosine", network="mlp", **SMALL),
    "told": GeneratorRecipe(
        "ddgan", conditional=True, patch_size=2, reconstruction=10.0, denoising=1, warmup=2, **SMALL
    ),
    "vae": GeneratorRecipe("vae", **SMALL),
    "distilled": GeneratorRecipe("distilled", T=1000, schedule="cosine", teacher="digits_ddpm", chain=4, **SMALL),
    "consistency": GeneratorRecipe("consistency", "eight_gaussians", T=10, schedule="cosine", chain=2, **SMALL),
}
pytestmark = pytest.mark.filterwarnings("ignore::ddpm_lesson.networks.unet.SingleChannelGroupWarning")


def trained(kind, **changes):
    return deque(fit(replace(SHORT[kind], **changes)), maxlen=1)[0]


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", SHORT)
def test_training_repeats_and_files_keep_everything(kind, tmp_path):
    first, second = trained(kind), trained(kind)
    assert equal(first.model, second.model)
    assert not equal(first.model, trained(kind, seed=1).model)
    first.save(tmp_path / "weights.safetensors")
    loaded = load_weights(tmp_path / "weights.safetensors")
    assert isinstance(loaded, PretrainedGenerator) and loaded.recipe == first.recipe
    assert torch.equal(loaded.process.betas, first.process.betas)
    drawn = first.sample(11, seed=3)
    shape, reach = ((2,), 10.0) if kind == "consistency" else ((1, 8, 8), 1.0)
    assert drawn.shape == (11, *shape) and drawn.abs().max() <= reach
    torch.testing.assert_close(loaded.sample(11, seed=3), drawn, rtol=1e-4, atol=1e-4)
    assert not torch.equal(first.sample(11, seed=4), drawn)
    with pytest.raises(ValueError, match="n must be positive, got 0"):
        loaded.sample(0)


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("flow", {}, "unknown kind 'flow', expected one of ddgan, gan, vae, distilled, consistency"),
        ("gan", {"T": 1, "network": "cnn"}, "network must be one of unet, mlp, got 'cnn'"),
        ("vae", {"network": "mlp"}, "the network of a vae must be unet, got 'mlp'"),
        ("gan", {"T": 4}, "a gan has one step, T = 1: with more it is a ddgan; got T = 4"),
        (
            "consistency",
            {},
            "learns eight_gaussians, the others images: got consistency and digits",
        ),
        ("ddgan", {"data": "eight_gaussians"}, "the others images: got ddgan and eight_gaussians"),
        ("vae", {"conditional": True}, "conditional is for the GANs' unet, got vae and unet"),
        ("ddgan", {"conditional": True, "network": "mlp"}, "conditional is for the GANs' unet, got ddgan and mlp"),
        ("vae", {"denoising": 5}, "denoising is for GANs, and for fewer than all of the steps; got vae, denoising = 5"),
        ("ddgan", {"denoising": 9, "steps": 9}, "fewer than all of the steps; got ddgan, denoising = 9, steps = 9"),
        ("distilled", {}, "a distilled student has a teacher, others none; got distilled, None"),
        ("vae", {"teacher": "digits_ddpm"}, "a distilled student has a teacher, others none; got vae, digits_ddpm"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        GeneratorRecipe(kind, **changes)


def test_data_that_no_generator_learns_are_refused():
    with pytest.raises(ValueError, match="data must be digits, mnist or eight_gaussians, got 'cifar10'"):
        next(fit(GeneratorRecipe("vae", "cifar10")))


def test_a_classifier_is_no_teacher():
    with pytest.raises(ValueError, match="the teacher must draw images, got the classifier digits_classifier"):
        trained("distilled", teacher="digits_classifier")


def test_a_ddgan_is_drawn_by_the_ancestral_loop():
    model = trained("ddgan")
    generator = torch.Generator().manual_seed(5)
    x_T = torch.randn(4, 1, 8, 8, generator=generator)

    def z(x_t, t, prev):
        return torch.randn(len(x_t), 4, generator=generator)

    denoise = make_denoiser(model.model, model.process, xstart, z=z)
    p = samplers.reverse(model.process, denoise, fixedsmall)
    expected = samplers.last(samplers.ancestral(model.process, p, x_T, generator=generator)).clamp(-1, 1)
    torch.testing.assert_close(model.sample(4, seed=5), expected)


def test_a_generator_that_is_told_labels_draws_every_class_in_turn():
    model = trained("told")
    assert model.labels(12).tolist() == [*range(10), 0, 1] and trained("ddgan").labels(12) is None
    x_t, t, z = torch.randn(3, 1, 8, 8), torch.tensor([0, 2, 3]), torch.randn(3, 4)
    denoise = make_denoiser(model.model, model.process, xstart, y=torch.tensor([7, 7, 1]), z=z)
    asked = model.denoiser(torch.tensor([7, 7, 1]), generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        torch.testing.assert_close(denoise(x_t, t).x_0, model.model(x_t, t, torch.tensor([7, 7, 1]), z=z))
        drawn = torch.randn(3, 4, generator=torch.Generator().manual_seed(8))
        torch.testing.assert_close(asked(x_t, t).x_0, model.model(x_t, t, torch.tensor([7, 7, 1]), z=drawn))


def test_before_it_plays_it_learns_to_denoise():
    """Alone it comes near to the mean of x_0; the discriminator's steps then go on from there."""
    told = {"denoising": 60, "steps": 61, "lr": 0.0, "warmup": 0, "ema_decay": 0.5, "width": 16}
    x_0, y = data.digits("test")[:100]
    t, z = torch.arange(100) % 4, torch.randn(100, 4, generator=torch.Generator().manual_seed(2))

    def error(model):
        x_t = model.process.noised(x_0, t, generator=torch.Generator().manual_seed(1)).x_t
        with torch.no_grad():
            return (model.model(x_t, t, y, z=z) - x_0).square().mean().item()

    errors = [error(model) for model in ends("told", **told)]
    assert errors[1] < 0.5 * errors[0]


def test_the_generators_rate_rises_in_the_warmup():
    still, moving = (trained("told", denoising=0, warmup=warmup, steps=1, lr=0.1) for warmup in (10**6, 0))
    begun = trained("told", denoising=0, steps=1, lr=0.0)
    far = [
        max((p - q).abs().max().item() for p, q in zip(m.model.parameters(), begun.model.parameters(), strict=True))
        for m in (still, moving)
    ]
    assert far[0] < 1e-5 < 1e-3 < far[1]


def test_mnist_is_read_from_the_folder_that_is_named(monkeypatch):
    asked = []
    monkeypatch.setattr(generators, "mnist", lambda root: asked.append(root) or data.digits("train"))
    recipe = replace(SHORT["told"], data="mnist")
    assert next(fit(recipe, "somewhere")).shape == (1, 8, 8) and asked == ["somewhere"]


def test_only_gans_and_students_are_denoisers():
    with pytest.raises(ValueError, match="a vae is no denoiser: use sample"):
        trained("vae").denoiser()


def test_the_steps_of_a_student_are_every_second_of_its_teachers():
    model = trained("distilled")
    assert model.chain.timestep_map.tolist() == spacing.trailing(1000, 8)[1::2] == [249, 499, 749, 999]


def test_a_student_of_a_student_starts_with_its_weights(monkeypatch):
    teacher = trained("distilled")
    monkeypatch.setattr(generators, "load_pretrained", lambda name: teacher)
    told = {"chain": 2, "teacher": "digits_distilled4", "steps": 1, "lr": 0.0}
    assert equal(trained("distilled", **told).model, teacher.model)


def test_a_student_learns_what_the_teacher_draws():
    """From the same noise its images come nearer to those of the teacher's eight steps."""
    teacher, n = load_pretrained("digits_ddpm"), 40
    chain = teacher.process.respaced(spacing.trailing(1000, 8))
    y = torch.arange(n) % 10
    x_T = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = samplers.last(samplers.ddim(chain, teacher.denoiser(y), x_T))
    told = {"steps": 120, "lr": 2e-3, "ema_decay": 0.9, "width": 16, "batch_size": 32}
    errors = [(model.sample(n) - wanted).square().mean().item() for model in ends("distilled", **told)]
    assert errors[1] < 0.7 * errors[0]


def ends(kind, **changes):
    """After the first step and after the last. The average moves on as training does: a copy of the first."""
    steps = fit(replace(SHORT[kind], **changes))
    first = next(steps)
    yield first
    yield deque(steps, maxlen=1)[0]


def test_a_vae_lowers_its_loss():
    x_0, _ = data.digits("test")[:200]
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    told = {"steps": 150, "lr": 3e-3, "ema_decay": 0.9, "width": 32}
    first, last = (model.model.loss(x_0, noise).mean().item() for model in ends("vae", **told))
    assert last < first - 20  # nats of an image


def test_a_consistency_model_comes_near_the_modes():
    told = {"steps": 400, "lr": 3e-3, "ema_decay": 0.95, "width": 32, "batch_size": 128}
    _, means, _ = eight_gaussians_mixture()

    def distance(points):
        return torch.cdist(points.double(), means).amin(1).mean().item()

    first, last = (distance(model.sample(1000)) for model in ends("consistency", **told))
    assert last < 0.6 * first


def test_points_come_from_the_mixture():
    recipe = SHORT["consistency"]
    shape, classes, levels, batches = generators._data(recipe, torch.Generator().manual_seed(2))
    points = torch.cat([x_0 for x_0, _ in islice(batches, 3)])
    assert (shape, classes, levels) == ((2,), (), 0)
    generator = torch.Generator().manual_seed(2)
    assert torch.equal(points, torch.cat([eight_gaussians(16, generator=generator) for _ in range(3)]))


def test_recipes_are_json(tmp_path):
    for recipe in SHORT.values():
        assert GeneratorRecipe(**asdict(recipe)) == recipe
