"""Every score of a trained network: what evaluate says is what its parts say, and the recorded scores come back."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from ddpm_lesson.bound import Bits, bits_per_dim, discretized
from ddpm_lesson.data import digits, to_uint8
from ddpm_lesson.experiments.evaluation import (
    Space,
    anchor,
    bits_of,
    bits_score,
    evaluate,
    reference_of,
    scores,
    some,
)
from ddpm_lesson.experiments.features import Inception, Pixels, classified
from ddpm_lesson.experiments.metrics import (
    class_histogram,
    confidence,
    frechet_distance,
    inception_score,
    nearest_neighbours,
    precision_recall,
    total_variation,
)
from ddpm_lesson.experiments.pretrained import about_shipped, load_pretrained
from ddpm_lesson.experiments.sampling import Sampling
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.predictions import epsilon, fixedlarge
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.schedules import linear
from ddpm_lesson.training import minibatches


def fitted(model, seed, steps, lr):
    """The model, trained on the digits for some seconds."""
    batches = minibatches(*digits("train")[:], batch_size=100, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for _, (x, y) in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return fitted(Classifier(10, 16, (1, 2), in_ch=1), 0, steps=100, lr=3e-3)


NAMES = ["Frechet distance", "Precision", "Recall", "Confidence", "Confidence above 0.9", "Class imbalance"]
NAMES += ["Nearest real distance", "Spatial Frechet distance", "Inception score", "Conditional accuracy"]


def classifier_map(classifier, x):
    """The first seven channels of a classifier's last block, by hand; of 8x8 digits 4x4 places."""
    with torch.no_grad():
        h, temb = classifier.head(x), x.new_zeros(len(x), 1)
        for block in classifier.eval().blocks:
            h = block(h, temb)
    assert h.shape[1:] == (32, 4, 4)
    return h[:, :7].flatten(1)


def test_evaluate_says_what_its_parts_say(classifier):
    (real, _), (test, labels) = digits("train")[:], digits("test")[:]
    scores = evaluate(test, real, classifier, "digits_classifier", seed=3, labels=labels)
    (features, logits), (real_features, real_logits) = classified(classifier, test), classified(classifier, real)
    precision, recall = precision_recall(real_features, features)
    shares = [class_histogram(part.argmax(1), 10) for part in (logits, real_logits)]
    expected = [frechet_distance(features, real_features), precision, recall, *(c[0] for c in confidence(logits))]
    expected += [total_variation(*shares), nearest_neighbours(test, real)[0].mean().item()]
    expected += [frechet_distance(*(classifier_map(classifier, x) for x in (test, real)))]
    order = torch.randperm(382, generator=torch.Generator().manual_seed(3))
    expected += [sum(inception_score(logits[part]) for part in order.tensor_split(10)) / 10]
    expected += [(logits.argmax(1) == labels).double().mean().item()]
    assert list(scores) == NAMES
    for (name, score), expect in zip(scores.items(), expected, strict=True):
        assert score.name == name and score.value == pytest.approx(expect, rel=1e-9)
        assert score.low < score.value < score.high
        assert (score.n, score.seed) == (382, 3)
        assert score.features == ("pixels" if name == "Nearest real distance" else "digits_classifier")
        assert score.n_reference == (None if name[:3] in ("Con", "Inc") else 1415)
    again = evaluate(test, real, classifier, "digits_classifier", seed=3)
    assert again == {name: scores[name] for name in NAMES[:-1]}


def test_evaluate_of_the_reference_itself(classifier, device):
    x, y = digits("test")[:]
    model = classifier.to(device)
    scores = {name: score.value for name, score in evaluate(x, x.clone(), model, "c", seed=0).items()}
    classifier.to("cpu")
    assert scores["Frechet distance"] < 1e-9
    assert (scores["Precision"], scores["Recall"], scores["Class imbalance"]) == (1, 1, 0)
    assert scores["Nearest real distance"] == 0


def test_evaluate_leaves_the_classifier_as_it_was():
    model = Classifier(10, 16, (1, 2), in_ch=1, dropout=0.5).train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    x, _ = digits("test")[:50]
    scores = evaluate(x, x, model, "c", seed=0)
    assert [module.training for module in model.modules()] == modes
    assert scores == evaluate(x, x, model.eval(), "c", seed=0)  # no dropout the first time
    assert not any(part.requires_grad for part in classified(model, x))


def test_evaluate_warns_of_few_samples(classifier):
    x, _ = digits("test")[:50]
    with pytest.warns(UserWarning, match="covariance of 32 features needs more than 32 samples"):
        evaluate(x[:25], x, classifier, "c", seed=0)


def test_evaluate_refuses_what_does_not_fit(classifier):
    x, y = digits("test")[:100]
    with pytest.raises(ValueError, match=r"samples must lie in \[-1, 1\], got values from -1.0 to 255.0"):
        evaluate(torch.where(x > 0.9, 255, x), x, classifier, "c", seed=0)
    with pytest.raises(ValueError, match=r"reference must lie in \[-1, 1\], got values from nan to nan"):
        evaluate(x, torch.where(x > 0.9, math.nan, x), classifier, "c", seed=0)
    with pytest.raises(ValueError, match="at least 20 samples, got 19"):
        evaluate(x[:19], x, classifier, "c", seed=0)
    with pytest.raises(ValueError, match=r"x must be \(B, 1, H, W\), got \(100, 3, 8, 8\)"):
        evaluate(x.expand(-1, 3, -1, -1), x, classifier, "c", seed=0)
    with pytest.raises(ValueError, match=r"expected a label for each image, got \(99,\) for \(100, 10\)"):
        evaluate(x, x, classifier, "c", seed=0, labels=y[1:])
    with pytest.raises(ValueError, match="classifier of noisy images with T = 5"):
        evaluate(x, x, Classifier(10, 16, (1, 2), in_ch=1, T=5), "c", seed=0)


def test_dropped_classes_among_digits(classifier):
    # As many test digits of 0 to 4 only as of all classes. For classifiers of seeds 0 to 5 recall falls by 0.16 to
    # 0.28, precision changes by -0.03 to 0.06, and the Frechet distance is at least 12 times as large.
    (real, _), (test, labels) = digits("train")[:], digits("test")[:]
    some = torch.randperm(382, generator=torch.Generator().manual_seed(0))[: (labels < 5).sum()]
    whole, dropped = (evaluate(x, real, classifier, "c", seed=0) for x in (test[some], test[labels < 5]))
    assert dropped["Precision"].value > whole["Precision"].value - 0.05
    assert dropped["Recall"].value < whole["Recall"].value - 0.1
    assert dropped["Class imbalance"].low > whole["Class imbalance"].high + 0.1
    assert dropped["Frechet distance"].low > 2 * whole["Frechet distance"].high


def test_training_images_are_nearer_than_test_images(classifier):
    (real, _), (test, _) = digits("train")[:], digits("test")[:]
    copied = evaluate(real[:382] * 0.99, real, classifier, "c", seed=0)
    assert copied["Nearest real distance"].high < 0.1 * evaluate(test, real, classifier, "c", seed=0)[NAMES[6]].low


class Overconfident(nn.Module):
    """Six layers on all pixels, trained at a high rate: as sure of itself off the data as on it."""

    def __init__(self):
        super().__init__()
        layers = [nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(6)]
        self.features = nn.Sequential(nn.Flatten(), *layers)
        self.tail = nn.Linear(64, 10)

    def forward(self, x):
        return self.tail(self.features(x))


@pytest.mark.parametrize("seed", [0, 3])
def test_confidence_alone_is_no_measure(seed):
    # Digits whose pixels are shuffled, all in one order, are no digits. Seeds 0 to 7: confidence 0.88 to 0.99 beside
    # 0.99, distance to the nearest real digit 0.80 to 0.95 beside 0.29, class imbalance at least 11 times and Frechet
    # distance at least 33 times as large.
    torch.manual_seed(seed)
    model = fitted(Overconfident(), seed, steps=1000, lr=1e-2)
    (real, _), (test, _) = digits("train")[:], digits("test")[:]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    shuffled = test.flatten(1)[:, order].view_as(test)
    digit, no_digit = (evaluate(x, real, model, "overconfident", seed=seed) for x in (test, shuffled))
    assert no_digit["Confidence"].value > 0.85 * digit["Confidence"].value
    for name, factor in (("Frechet distance", 10), ("Class imbalance", 5), ("Nearest real distance", 2)):
        assert no_digit[name].low > factor * digit[name].value


def test_a_reference_gives_the_scores_of_its_images(classifier):
    x, y = digits()[:]
    whole = evaluate(x[:60], x[100:400], classifier, "f", seed=0, labels=y[:60])
    reference = reference_of(x[100:400], classifier)
    assert evaluate(x[:60], reference, classifier, "f", seed=0, labels=y[:60]) == whole
    with pytest.raises(ValueError, match=r"reference must lie in \[-1, 1\], got values from -2"):
        reference_of(2 * x, classifier)


# Networks that know nothing of the data's classes.


def test_pixels_have_distances_but_no_classes():
    (real, _), (test, labels) = digits("train")[:], digits("test")[:]
    pixels = Pixels(real, 20)
    found = evaluate(test, real, pixels, "pixels", seed=1, labels=labels)
    assert list(found) == ["Frechet distance", "Precision", "Recall", "Nearest real distance"]
    # By hand: the 20 eigenvectors of the largest eigenvalues of the covariance of 64 pixels.
    centred = real.flatten(1).double() - real.flatten(1).double().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    by_hand = [x.flatten(1).double() @ directions[:20].T for x in (test, real)]
    assert found["Frechet distance"].value == pytest.approx(frechet_distance(*by_hand), rel=1e-4)
    worse = evaluate(-test, real, pixels, "pixels", seed=1)
    assert worse["Frechet distance"].low > 5 * found["Frechet distance"].high


class Eyes(Inception):
    """Inception with a network of a single layer in the place of its own."""

    def __init__(self):
        nn.Module.__init__(self)
        self.network = nn.Module()
        self.network.fc = nn.Linear(12, 5)
        self.network.layer = nn.Conv2d(3, 12, 4, stride=4)
        self.network.forward = lambda x: self.network.layer(x.float() / 128 - 1).mean((2, 3))

    @property
    def spatial_layer(self):
        return self.network.layer


def test_inceptions_scores_have_their_published_names_and_no_classes_of_the_data():
    (real, _), (test, labels) = digits("train")[:], digits("test")[:]
    eyes = Eyes()
    found = evaluate(test, real, eyes, "Inception", seed=1, labels=labels)
    assert list(found) == ["FID", "Precision", "Recall", "Nearest real distance", "sFID", "Inception score"]
    pixels = [to_uint8(x, 256).expand(-1, 3, -1, -1).float() / 128 - 1 for x in (test, real)]
    with torch.no_grad():
        maps = [eyes.network.layer(x) for x in pixels]
        logits = maps[0].mean((2, 3)) @ eyes.network.fc.weight.T
    assert found["FID"].value == pytest.approx(frechet_distance(*(m.mean((2, 3)) for m in maps)), rel=1e-5)
    assert found["sFID"].value == pytest.approx(frechet_distance(*(m[:, :7].flatten(1) for m in maps)), rel=1e-5)
    order = torch.randperm(382, generator=torch.Generator().manual_seed(1))
    parts = [inception_score(logits[part]) for part in order.tensor_split(10)]
    assert found["Inception score"].value == pytest.approx(sum(parts) / 10, rel=1e-5)


# The bound.


def test_bits_score():
    process = GaussianDiffusion(linear(4, 0.1, 0.5))
    x_0, _ = digits()[:50]
    bits = bits_per_dim(lambda x, t: torch.zeros_like(x), process, epsilon, fixedlarge, x_0)
    score = bits_score(bits, 7)
    assert score.value == pytest.approx(bits.prior + bits.terms.sum().item())
    assert (score.low + score.high) / 2 == pytest.approx(score.value)
    assert score.high - score.low == pytest.approx(2 * 1.96 * bits.standard_error)
    assert str(score).endswith("50 samples, features bound of 4 steps, seed 7")


@pytest.fixture(scope="module")
def trained():
    return load_pretrained("digits_ddpm")


def short(trained, T=4):
    """The shipped network on its first T steps: what a bound of T steps costs."""
    process = GaussianDiffusion.from_alphas_bar(trained.process.alphas_bar[:T])
    return dataclasses.replace(trained, process=process)


def test_bits_of_a_network_are_the_bound_with_its_labels(trained):
    x_0, y = digits("test")[:6]
    found = bits_of(short(trained), x_0, y, seed=3)
    model, process = trained.model, short(trained).process
    options = {"decoder": discretized(17), "generator": torch.Generator().manual_seed(3)}
    expected = bits_per_dim(lambda x, t: model(x, t, y), process, trained.mean_type, trained.variance, x_0, **options)
    torch.testing.assert_close(found.terms, expected.terms)
    assert isinstance(found, Bits) and found.total == pytest.approx(expected.total)
    assert bits_of(short(trained), x_0, y, seed=3).total == found.total != bits_of(short(trained), x_0, y).total
    assert bits_of(short(trained), x_0, (y + 1) % 10, seed=3).total != found.total  # the labels count


# Drawn, and beside it real images that were held out.


def test_some_are_drawn_without_repetition():
    images = digits("test")
    found = some(images, 50, 3)
    assert len(set(found.tolist())) == 50 and 0 <= found.min() and found.max() < 382
    assert torch.equal(found, some(images, 50, 3)) and not torch.equal(found, some(images, 50, 4))
    assert sorted(some(images, 382, 0).tolist()) == list(range(382))
    for n in (0, 383, -1):
        with pytest.raises(ValueError, match=rf"there are 382 images held out, expected 1\.\.382, got {n}"):
            some(images, n, 0)


@pytest.fixture(scope="module")
def space(classifier):
    return Space(classifier, "mine", reference_of(digits("train").x_0, classifier), digits("test"))


def test_anchor_is_the_score_of_real_images(space, classifier):
    rows = some(digits("test"), 40, 2)
    x, y = digits("test")[rows]
    assert anchor(space, 40, seed=2) == evaluate(x, space.reference, classifier, "mine", seed=2, labels=y)


def test_scores_are_those_of_the_images_that_are_drawn(space, classifier, trained):
    sampling = Sampling("ddim", "trailing3", eta=1.0, seed=5)
    labels = trained.labels(60)
    images = trained.sample(60, sampling, y=labels)
    expected = evaluate(images, space.reference, classifier, "mine", seed=5, labels=labels)
    assert scores(trained, space, 60, sampling) == expected
    assert {score.seed for score in expected.values()} == {5}


def test_scores_and_the_bound_of_images_held_out(space, trained):
    sampling = Sampling("ddim", seed=1)
    found = scores(short(trained), space, 40, sampling, bits_images=7)
    x_0, y = digits("test")[some(digits("test"), 7, 1)]
    bits = bits_of(short(trained), x_0, y, seed=1)
    assert found["Bits/dim"] == bits_score(bits, 1) and found["Bits/dim"].n == 7
    assert list(found)[-1] == "Bits/dim" and len(found) == len(NAMES) + 1
    with pytest.raises(ValueError, match="there are 382 images held out"):
        scores(short(trained), space, 40, sampling, bits_images=383)


def test_a_network_without_labels_has_no_conditional_accuracy(space, trained):
    recipe = dataclasses.replace(trained.recipe, conditional=False)
    found = scores(dataclasses.replace(trained, recipe=recipe), space, 40, Sampling("ddim", "trailing2"))
    assert list(found) == NAMES[:-1]


def test_the_recorded_anchor_is_found_again():
    # Real images, the shipped classifier: all but Bits/dim of the columns "real".
    held = about_shipped("digits_ddpm")
    shipped = load_pretrained("digits_classifier").model
    space = Space(shipped, "digits_classifier", reference_of(digits("train").x_0, shipped), digits("test"))
    found = anchor(space, held["scoring"]["n"], seed=held["scoring"]["sampling"]["seed"])
    for name, told in held["made"]["real"].items():
        score = found[name]._asdict()
        # The same images: what another machine's rounding may change is a twentieth of the interval.
        assert score["value"] == pytest.approx(told["value"], abs=0.05 * (told["high"] - told["low"])), name
        assert {k: score[k] for k in ("n", "features", "seed", "n_reference")} == {
            k: told[k] for k in ("n", "features", "seed", "n_reference")
        }
