"""Batches: an order that follows from seed and epoch, and what is done to images and labels on the way."""

import itertools
import math

import pytest
import torch

from ddpm_lesson._tensors import seed_of
from ddpm_lesson.batches import minibatches, mirrored, ordered, without_labels
from ddpm_lesson.data import Images

N = 10
X, Y = torch.arange(N), torch.arange(N) * 10


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def first(batches, n):
    return list(itertools.islice(batches, n))


def same(a, b):
    return all(torch.equal(p, q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True))


# Order.


@pytest.mark.parametrize("start", range(8))
@pytest.mark.parametrize("batch_size", [1, 3, 5, 10])
def test_entering_late_equals_skipping(batch_size, start):
    options = {"batch_size": batch_size, "seed": 4}
    whole = first(ordered(X, Y, **options), start + 7)
    assert same(first(ordered(X, Y, **options, start=start), 7), whole[start:])


def test_entering_after_many_epochs_is_at_once():
    # 3 batches an epoch: batch 3e9 + 1 is the second of epoch 1e9, and no epoch before has to be shuffled.
    order = torch.randperm(N, generator=seeded(seed_of(4, 10**9)))
    ((x,),) = first(ordered(X, batch_size=3, seed=4, start=3 * 10**9 + 1), 1)
    assert torch.equal(x, order[3:6])


def test_each_epoch_has_every_image_once_and_its_own_order():
    batches = first(ordered(X, batch_size=5, seed=0), 8)
    epochs = [torch.cat([x for (x,) in batches[i : i + 2]]) for i in range(0, 8, 2)]
    assert all(torch.equal(epoch.sort().values, X) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_what_is_left_over_is_dropped():
    batches = first(ordered(X, batch_size=4, seed=0), 6)
    assert all(len(x) == 4 for (x,) in batches)
    assert all(len(torch.cat([a, b]).unique()) == 8 for (a,), (b,) in zip(batches[::2], batches[1::2], strict=True))


def test_order_follows_from_the_seed_alone():
    a = first(ordered(X, batch_size=5, seed=0), 4)
    before = torch.get_rng_state()
    assert same(a, first(ordered(X, batch_size=5, seed=0), 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(a, first(ordered(X, batch_size=5, seed=1), 4))


def test_epoch_1_of_a_seed_is_not_epoch_0_of_the_next():
    # What seed + epoch would give.
    epoch_1 = first(ordered(X, batch_size=10, seed=0, start=1), 1)
    assert not same(epoch_1, first(ordered(X, batch_size=10, seed=1), 1))


def test_images_and_labels_stay_together():
    pairs = first(ordered(X, Y, batch_size=3, seed=0), 6)
    assert all(torch.equal(10 * x, y) for x, y in pairs)
    images = Images(X.to(torch.uint8).view(N, 1, 1, 1), X % 5, levels=N, classes="abcde")
    for (x_0, y), (rows, _) in zip(first(ordered(images, batch_size=3, seed=0), 6), pairs, strict=True):
        assert torch.equal(y, rows % 5)
        torch.testing.assert_close(x_0.flatten(), 2 * rows / (N - 1) - 1)


@pytest.mark.parametrize(
    "parts, batch_size, told",
    [
        ((X,), 11, r"batch_size must lie in 1\.\.10, got 11: there are 10 images, give another one"),
        ((X, Y), 0, r"batch_size must lie in 1\.\.10, got 0: there are 10 images, give another one"),
        ((X[:1],), 64, "there is only 1 image, too few for batch_size = 64: more images are needed"),
        ((X[:0],), 1, "there are no images, too few for batch_size = 1: more images are needed"),
        ((X, Y[:9]), 3, "data must be of one length, got 10 and 9"),
    ],
)
@pytest.mark.parametrize("batches", [minibatches, lambda *parts, **options: ordered(*parts, seed=0, **options)])
def test_batches_that_cannot_be_made_are_an_error(batches, parts, batch_size, told):
    with pytest.raises(ValueError, match=f"^{told}$"):
        next(batches(*parts, batch_size=batch_size))


# Mirrored.


def test_every_other_image_is_mirrored_as_a_whole():
    # Share of mirrored images: binomial, standard deviation sqrt(1/4 / n); 5 of them.
    n = 2000
    x_0, y = torch.arange(n * 2 * 3 * 4).view(n, 2, 3, 4), torch.arange(n)
    ((turned, labels),) = mirrored([(x_0, y)], seeded())
    is_turned = (turned == x_0.flip(3)).flatten(1).all(1)
    is_kept = (turned == x_0).flatten(1).all(1)
    assert bool((is_turned ^ is_kept).all()) and torch.equal(labels, y)
    assert abs(is_turned.double().mean() - 0.5) < 5 * math.sqrt(0.25 / n)
    assert torch.equal(x_0.flatten(), torch.arange(x_0.numel()))  # what came in was not changed


def test_mirroring_goes_without_labels_and_by_its_generator():
    x_0 = torch.rand(64, 1, 2, 2)
    a, b, c = (next(mirrored([(x_0,)], seeded(seed)))[0] for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


# Without labels.


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_share_of_labels_left_out(rate):
    n = 4000
    x_0, y = torch.rand(n, 1), torch.arange(n) % 3
    ((same_x, labels),) = without_labels([(x_0, y)], rate, 3, seeded())
    left_out = labels == 3
    assert torch.equal(same_x, x_0) and torch.equal(labels[~left_out], y[~left_out]) and labels.dtype == y.dtype
    assert abs(left_out.double().mean() - rate) <= 5 * math.sqrt(rate * (1 - rate) / n)
    assert torch.equal(y, torch.arange(n) % 3)


def test_which_labels_are_left_out_changes_from_batch_to_batch():
    y = torch.zeros(64, dtype=torch.int64)
    a, b = first(without_labels([(y, y), (y, y)], 0.5, 1, seeded()), 2)
    assert not torch.equal(a[1], b[1])
    assert same([a, b], first(without_labels([(y, y), (y, y)], 0.5, 1, seeded()), 2))


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_rate_outside_of_its_range_is_an_error(rate):
    with pytest.raises(ValueError, match=rf"rate must lie in \[0, 1\], got {rate}"):
        next(without_labels([(X, Y)], rate, 10))
