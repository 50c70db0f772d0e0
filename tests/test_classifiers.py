"""Training of classifiers: repeatable, on clean and on noisy images, which are moved by whole pixels."""

import dataclasses
import json
from itertools import islice

import pytest
import torch

from ddpm_lesson import data
from ddpm_lesson.batches import ordered
from ddpm_lesson.experiments.build import make_process
from ddpm_lesson.experiments.checkpoints import load_tensors
from ddpm_lesson.experiments.classifiers import accuracy, fit, shifted
from ddpm_lesson.experiments.pretrained import PretrainedClassifier, PretrainedNoisyClassifier, load_weights
from ddpm_lesson.experiments.recipes import ClassifierRecipe
from ddpm_lesson.networks.classifier import Classifier

TINY = ClassifierRecipe("digits", ch=16, ch_mult=(1,), steps=4, batch_size=8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images():
    return data.digits("train")


def weights(recipe, images, **options):
    *_, trained = fit(recipe, images, **options)
    return trained, torch.cat([p.detach().flatten().cpu() for p in trained.model.parameters()])


# Shifts.


@pytest.mark.parametrize("by", [0, 1, 3])
def test_every_image_is_moved_by_whole_pixels(by):
    # Against a window cut out of a padded image, for every move there is; all of them come up.
    n = 400
    x_0, found = torch.rand(n, 2, 4, 5), set()
    moved = shifted(x_0, by, seeded())
    assert moved.shape == x_0.shape
    for image, result in zip(x_0, moved, strict=True):
        framed = torch.full((2, 4 + 2 * by, 5 + 2 * by), -1.0)
        framed[:, by : by + 4, by : by + 5] = image
        fits = [
            (i, j)
            for i in range(2 * by + 1)
            for j in range(2 * by + 1)
            if torch.equal(framed[:, i : i + 4, j : j + 5], result)
        ]
        assert len(fits) == 1
        found.update(fits)
    assert len(found) == (2 * by + 1) ** 2  # 400 draws miss one of 49 with probability 49 (48/49)^400 = 0.013


def test_moves_follow_from_the_generator_alone():
    x_0, before = torch.rand(20, 1, 4, 4), torch.get_rng_state()
    a, b, c = (shifted(x_0, 1, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(torch.get_rng_state(), before)


# Training.


@pytest.mark.parametrize("T", [None, 20])
def test_same_recipe_same_weights_and_no_trace_outside(images, T):
    recipe, before = dataclasses.replace(TINY, T=T), torch.get_rng_state()
    _, a = weights(recipe, images)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(weights(recipe, images)[1], a)
    assert not torch.equal(weights(dataclasses.replace(recipe, seed=1), images)[1], a)


def test_the_first_step_by_hand(images):
    # No dropout and no shift: the cross-entropy of the first batch, and AdamW's first step with the rate of step 1 of
    # a warm-up of 100: w (1 - lr decay) - lr g / (|g| + 1e-8).
    recipe = dataclasses.replace(TINY, dropout=0.0, shift=0, lr=0.5)
    start, model = next(fit(dataclasses.replace(recipe, lr=0.0), images)).model, next(fit(recipe, images)).model
    x, y = next(ordered(images, batch_size=8, seed=0))
    logits = start(x)
    loss = -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(8), y].mean()
    parameters = [p for p in start.parameters() if p.grad is not None]
    gradients = torch.autograd.grad(loss, parameters)
    after = [p for p in model.parameters() if p.grad is not None]
    for p, g, new in zip(parameters, gradients, after, strict=True):
        expected = p * (1 - 0.005 * 0.05) - 0.005 * g / (g.abs() + 1e-8)
        large = g.abs() > 1e-4  # where rounding decides no sign
        torch.testing.assert_close(new[large], expected[large], rtol=1e-4, atol=1e-5)


def test_a_noisy_one_sees_noisy_images_and_their_t(images, monkeypatch):
    seen = []
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, x, t=None: seen.append((x, t)) or forward(self, x, t))
    list(fit(dataclasses.replace(TINY, T=1000, steps=12), images))
    x, t = torch.cat([x for x, _ in seen]), torch.cat([t for _, t in seen])
    assert t.min() < 200 and t.max() > 800 and t.dtype == torch.int64
    # 8x8 digits are flat at -1 around their edge; late steps are nearly standard normal everywhere.
    late = x[t > 900]
    assert late.mean().abs() < 0.15 and abs(late.std() - 1) < 0.15
    seen.clear()
    list(fit(TINY, images))
    assert all(t is None and x.min() == -1 and x.max() <= 1 for x, t in seen)


def test_it_is_yielded_after_every_step_in_train_mode(images):
    states = [(t.model.training, t.model.tail.bias.detach().clone()) for t in islice(fit(TINY, images), 3)]
    assert all(training for training, _ in states)
    assert not torch.equal(states[0][1], states[1][1])


def test_the_rate_falls_to_nothing(images):
    steps = 30
    recipe = dataclasses.replace(TINY, steps=steps, dropout=0.0)
    path = [trained.model.head.weight.detach().clone() for trained in fit(recipe, images)]
    moves = [(b - a).abs().max().item() for a, b in zip(path[:-1], path[1:], strict=True)]
    assert moves[-1] < 0.1 * max(moves) and moves[0] < max(moves)


def test_it_learns(images, device):
    # Chance is 0.1. Over 5 seeds 120 steps gave at least 0.72 on the test split.
    recipe = ClassifierRecipe("digits", ch=16, ch_mult=(1, 2), steps=120, batch_size=32, lr=5e-3)
    trained, _ = weights(recipe, images, device=device)
    x, y = data.digits("test")[:]
    with torch.no_grad():
        right = (trained.model.eval()(x.to(device)).argmax(1).cpu() == y).double().mean()
    assert right > 0.6


@pytest.mark.parametrize("T", [None, 20])
def test_what_is_yielded_is_a_classifier_of_its_kind(images, T):
    recipe = dataclasses.replace(TINY, T=T)
    trained = next(fit(recipe, images))
    assert (trained.shape, trained.levels, trained.classes) == ((1, 8, 8), 17, tuple("0123456789"))
    assert trained.recipe is recipe
    assert type(trained) is (PretrainedClassifier if T is None else PretrainedNoisyClassifier)
    if T is not None:
        assert torch.equal(trained.process.betas, make_process(recipe).betas)


def test_a_classifier_of_clean_images_has_no_process():
    with pytest.raises(ValueError, match="a classifier of clean images has no process: .*T=None"):
        make_process(TINY)


def test_a_recipe_is_a_value_and_comes_back_from_json():
    recipe = dataclasses.replace(TINY, T=20, ch_mult=[1, 2])
    again = ClassifierRecipe(**json.loads(json.dumps(dataclasses.asdict(recipe))))
    assert again == recipe and hash(again) == hash(recipe) and again.ch_mult == (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.steps = 3


# Files and accuracy.


@pytest.mark.parametrize("T", [None, 20])
def test_what_is_saved_is_enough_to_load_it(images, tmp_path, T):
    recipe = dataclasses.replace(TINY, T=T)
    before, _ = weights(recipe, images)
    before.save(tmp_path / "c")
    _, about = load_tensors(tmp_path / "c")
    trained = load_weights(tmp_path / "c")
    assert trained.recipe == recipe
    assert (trained.shape, trained.levels, trained.classes) == ((1, 8, 8), 17, tuple("0123456789"))
    assert "/" not in json.dumps(about)

    held_out = data.digits("test")
    share, low, high = accuracy(trained, held_out, 5)
    x, y = held_out[:]
    if T is not None:
        noise = torch.randn(x.shape, generator=seeded())
        a = trained.process.alphas_bar[5].float()
        x, level = a.sqrt() * x + (1 - a).sqrt() * noise, (torch.full((len(y),), 5),)
    hits = [trained.model(image[None], *(t[:1] for t in (level if T else ()))).argmax().item() for image in x]
    assert share == pytest.approx((torch.tensor(hits) == y).double().mean().item(), abs=2 / len(y))
    assert low < share < high


@pytest.mark.parametrize("batch_size", [0, -1])
def test_accuracy_needs_batches_with_images(images, batch_size):
    trained, _ = weights(TINY, images)
    with pytest.raises(ValueError, match=f"batch_size must be positive, got {batch_size}"):
        accuracy(trained, images, batch_size=batch_size)


def test_accuracy_is_that_without_dropout(images):
    # 0.5 of the features left out: the shares of 382 images would hardly agree once.
    trained, _ = weights(dataclasses.replace(TINY, dropout=0.5, steps=60, batch_size=32, lr=5e-3), images)
    assert trained.model.training
    held_out = data.digits("test")
    found = [accuracy(trained, held_out) for _ in range(2)]
    assert trained.model.training
    trained.model.eval()
    with torch.no_grad():
        right = (trained.model(held_out.x_0).argmax(1) == held_out.labels).double().mean().item()
    assert found[0] == found[1] and found[0][0] == pytest.approx(right, abs=2 / 382)  # other batches round otherwise
