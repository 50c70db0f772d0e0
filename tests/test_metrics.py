"""Scores of samples: closed forms, brute force, torchmetrics, coverage of the intervals, cases with a known answer."""

import math
import warnings

import mpmath
import pytest
import torch
from torch import nn

from ddpm_lesson.data import digits
from ddpm_lesson.doors import ImageRangeWarning
from ddpm_lesson.experiments import metrics
from ddpm_lesson.experiments.features import load_moments
from ddpm_lesson.experiments.metrics import (
    Moments,
    Score,
    among,
    as_double,
    check_in_range,
    class_histogram,
    conditional_accuracy,
    confidence,
    frechet_distance,
    inception_score,
    jackknife_interval,
    left_out,
    mean_interval,
    moments,
    nearest_neighbours,
    precision_recall,
    radii_of,
    share_interval,
    total_variation,
)

KNOWN = 10**6  # the count of moments that were not estimated


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def known(mean, covariance):
    return Moments(torch.tensor(mean).double(), torch.tensor(covariance).double(), KNOWN)


# The Frechet distance.


def test_independent_coordinates_differ_by_their_standard_deviations():
    a, b = known([0, 1, 2], [[4, 0, 0], [0, 1, 0], [0, 0, 9]]), known([1, 1, 0], [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + (2 - 1) ** 2 + 3**2, abs=1e-12)


def test_two_correlated_coordinates():
    # For 2x2 the trace of the root is (tr M + 2 det(M)^(1/2))^(1/2), M = C_a C_b, and these two do not commute.
    a, b = known([0, 0], [[2, 1], [1, 3]]), known([0, 0], [[5, -2], [-2, 1]])
    product = a.covariance @ b.covariance
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    assert frechet_distance(a, b) == pytest.approx(5 + 6 - 2 * root, abs=1e-12)


def test_moments_are_numpys():
    import numpy as np

    x = normal(50, 3)
    found = moments(x.float())
    assert found.count == 50 and found.mean.dtype == found.covariance.dtype == torch.float64
    torch.testing.assert_close(found.mean, x.float().double().mean(0))
    torch.testing.assert_close(found.covariance, torch.from_numpy(np.cov(x.float().double().numpy().T)))


def test_identical_and_shifted_features(device):
    x, shift = normal(200, 5).to(device), torch.arange(5.0, device=device).double()
    assert frechet_distance(x, x) < 1e-12
    assert frechet_distance(x, x + shift) == pytest.approx(30, abs=1e-10)
    assert frechet_distance(x, 3 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(4 * x.var(0).sum().item(), rel=1e-10)


def test_it_is_symmetric_and_does_not_depend_on_the_axes():
    a, b = normal(100, 6) @ normal(6, 6, seed=2), normal(80, 6, seed=1)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=3))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a @ turn, b @ turn), rel=1e-10)
    assert frechet_distance(a, b) == frechet_distance(moments(a), b) == frechet_distance(a, moments(b))


def test_features_that_hardly_vary_lose_no_digits():
    # Eigenvalues of C_a C_b down to 1e-16 and below: their roots would be off by 1e-8 each, 64 of them.
    x = normal(300, 64) * torch.logspace(0, -8, 64, dtype=torch.float64)
    assert frechet_distance(x, x) < 1e-13


def test_samples_find_the_distance_of_their_gaussians():
    # 4 standard errors: 2 |shift| / N^(1/2) from the mean, 2 |s - 1| s / (2 N)^(1/2) from a standard deviation s.
    N, true = 40_000, 0.5**2 + (1.5 - 1) ** 2
    x = normal(N, 3) * torch.tensor([1, 1, 1.5]) + torch.tensor([0.5, 0, 0])
    error = math.hypot(2 * 0.5 / math.sqrt(N), 2 * 0.5 * 1.5 / math.sqrt(2 * N))
    bias = 1.5 * 3 / N + 3 * 4 / (4 * N)
    assert abs(frechet_distance(x, known([0] * 3, torch.eye(3).tolist())) - true - bias) < 4 * error


def test_features_on_a_gpu_meet_moments_that_ship(gpu):
    real = load_moments("digits_classifier")
    fake = normal(200, len(real.mean)).abs()
    expected = frechet_distance(fake, real)
    assert frechet_distance(fake.to(gpu), real) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(real, fake.to(gpu)) == pytest.approx(expected, rel=1e-9)
    assert real.mean.device.type == real.root.device.type == "cpu"


@pytest.mark.parametrize("N", [200, 400, 1600])
def test_bias_falls_with_the_number_of_samples(N):
    # Samples of N(0, I) against N(0, I) itself: F / N from the mean and about F (F + 1) / (4 N) from the covariance,
    # up to a relative (F + 1) / N. The standard deviation of one distance is below 10 % of it, of 20 below 2.5 %.
    F = 16
    found = [frechet_distance(normal(N, F, seed=i), known([0] * F, torch.eye(F).tolist())) for i in range(20)]
    expected = F / N + F * (F + 1) / (4 * N)
    assert sum(found) / 20 == pytest.approx(expected, rel=0.1 + F / N)


def test_fewer_samples_than_features_are_warned_of():
    x = normal(10, 12)
    with pytest.warns(UserWarning, match="covariance of 12 features needs more than 12 samples") as caught:
        assert frechet_distance(x, x) < 1e-12
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="more than 12 samples"):
        frechet_distance(normal(50, 12), normal(12, 12))
    frechet_distance(normal(50, 12), normal(13, 12))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(bad):
    x, y = normal(50, 3), normal(50, 3, seed=1)
    x[7, 1] = x[9, 2] = bad
    for use in (frechet_distance, precision_recall, nearest_neighbours):
        for pair in ((x, y), (y, x)):
            with pytest.raises(ValueError, match=r"must be \(N, F\), all finite; got 2 NaN or inf in \(50, 3\)"):
                use(*pair)


def test_other_bad_features_are_refused():
    with pytest.raises(ValueError, match=r"needs at least 2 samples, got features of shape \(1, 3\)"):
        moments(normal(1, 3))
    with pytest.raises(ValueError, match="the same number of features, got 3 and 4"):
        frechet_distance(normal(50, 3), normal(50, 4))
    with pytest.raises(ValueError, match=r"must be \(N, F\), .* in \(50, 1, 3\)"):
        moments(normal(50, 1, 3))


class Identity(nn.Module):
    num_features = 6

    def forward(self, x):
        return x


def test_torchmetrics_agrees():
    fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics, the extra `eval`, is not installed")
    real, fake = normal(300, 6) @ normal(6, 6, seed=4), normal(200, 6, seed=5) + 0.3
    metric = fid.FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert frechet_distance(fake, real) == pytest.approx(metric.compute().item(), rel=1e-9)


# Precision and recall.


def brute_force(points, centres, k):
    """Share of points in a ball of centres, with a double loop."""

    def distance(a, b):
        return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))

    points, centres = points.tolist(), centres.tolist()
    radii = [sorted(distance(c, o) for j, o in enumerate(centres) if j != i)[k - 1] for i, c in enumerate(centres)]
    return sum(any(distance(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points) / len(points)


@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("rows", [5, 12, 256])
def test_precision_and_recall_are_the_double_loops(monkeypatch, k, rows):
    # Points on a small grid: many are equal, and many lie on the edge of a ball.
    monkeypatch.setattr(metrics, "ROWS", rows)
    generator = torch.Generator().manual_seed(k)
    real = torch.randint(7, (30, 2), generator=generator)
    fake = torch.randint(3, 10, (12, 2), generator=generator)
    precision, recall = precision_recall(real, fake, k)
    assert precision == pytest.approx(brute_force(fake, real, k))
    assert recall == pytest.approx(brute_force(real, fake, k))


def test_recall_without_each_group_is_that_of_the_others(monkeypatch):
    monkeypatch.setattr(metrics, "ROWS", 16)
    real, fake = normal(50, 3), 0.6 * normal(45, 3, seed=1)
    gone = left_out(45, torch.Generator().manual_seed(0))
    found = among(real, fake, radii_of(fake, 3, gone)).double().mean(1)
    torch.testing.assert_close(found, torch.tensor([brute_force(real, fake[~g], 3) for g in gone]).double())


def test_the_same_points_have_precision_and_recall_one(device):
    x = normal(300, 4).to(device)
    assert precision_recall(x, x.clone()) == (1, 1)
    assert precision_recall(x, x + 100) == (0, 0)


def modes(counts, seed):
    """Points around counts' corners of a square, 20 standard deviations apart."""
    corners = torch.tensor([[0, 0], [20, 0], [0, 20], [20, 20]]).double()
    return normal(sum(counts), 2, seed=seed) + corners.repeat_interleave(torch.tensor(counts), 0)


def test_a_dropped_mode_is_seen_by_recall_and_not_by_precision():
    real = modes([250] * 4, seed=0)
    whole, dropped = (
        precision_recall(real, modes([250] * 4, seed=1)),
        precision_recall(real, modes([500, 500, 0, 0], 2)),
    )
    assert min(*whole, dropped[0]) > 0.95
    assert 0.45 < dropped[1] <= 0.5


def test_strays_are_seen_by_precision_and_not_by_recall():
    real = modes([250] * 4, seed=0)
    fake = torch.cat([modes([250] * 4, seed=1), 10 + normal(500, 2, seed=2)])  # a third in the middle of the square
    precision, recall = precision_recall(real, fake)
    assert recall > 0.95 and 0.6 < precision < 0.68


def test_copies_of_one_image_are_precise_and_recall_nothing():
    # Their radii are exactly 0, and so is the distance to the image that they copy.
    real = 100 + normal(60, 40)
    assert precision_recall(real, real[5].expand(30, 40)) == (1, pytest.approx(1 / 60))
    assert precision_recall(real, (real[5] + 1e-6).expand(30, 40)) == (1, 0)


def test_too_few_points_for_k_are_refused():
    with pytest.raises(ValueError, match="k must lie in 1..4 for 5 samples, got 5"):
        precision_recall(normal(50, 2), normal(5, 2), k=5)
    with pytest.raises(ValueError, match="k must lie in 1..49 for 50 samples, got 0"):
        precision_recall(normal(50, 2), normal(60, 2), k=0)


def test_radii_are_those_of_the_sorted_distances():
    # Alone, and without the points of a group, which get no ball at all.
    x = normal(20, 3)
    alone = torch.stack([(x - point).norm(dim=1).sort().values[3] for point in x])  # the point itself is the first
    torch.testing.assert_close(radii_of(x), alone[None])
    gone = torch.zeros(2, 20, dtype=torch.bool)
    gone[1, ::4] = True
    whole, part = radii_of(x, 2, gone)
    kept = x[~gone[1]]
    expected = torch.stack([(kept - point).norm(dim=1).sort().values[2] for point in kept])
    torch.testing.assert_close(whole, radii_of(x, 2)[0])
    torch.testing.assert_close(part[~gone[1]], expected)
    assert (part[gone[1]] == -1).all()


def test_points_among_balls_by_hand():
    centres, points = torch.tensor([[0.0, 0], [10, 0]]), torch.tensor([[3.0, 4], [6, 0], [10, 0], [0, 5.1]])
    radii = torch.tensor([[5.0, 0], [4.9, 4], [-1, -1]])
    expected = [[True, False, True, False], [False, True, True, False], [False] * 4]
    assert among(points, centres, radii).tolist() == expected


def test_what_comes_in_is_checked_by_name(device):
    x = torch.tensor([[0.5, -1.0]], device=device)
    assert as_double("x", x).dtype == torch.float64
    with pytest.raises(ValueError, match=r"logits must be \(N, F\), all finite; got 1 NaN or inf in \(1, 2\)"):
        as_double("logits", torch.where(x > 0, math.nan, x))
    check_in_range("samples", x)
    for bad in (1.01, -math.inf, math.nan):
        with pytest.raises(ValueError, match=r"samples must lie in \[-1, 1\], got values from"):
            check_in_range("samples", torch.where(x > 0, bad, x))


def test_images_between_0_and_1_are_warned_of():
    images = torch.linspace(0, 1, 32).view(2, 1, 4, 4)
    with pytest.warns(ImageRangeWarning, match=r"samples should lie in .* got values from 0 to 1, .*2 \* x - 1"):
        check_in_range("samples", images)
    check_in_range("samples", 2 * images - 1)


# Nearest neighbours.


def test_nearest_neighbours_are_those_of_a_double_loop(monkeypatch, device):
    monkeypatch.setattr(metrics, "ROWS", 4)
    images, reference = normal(10, 1, 3, 3).to(device), normal(25, 1, 3, 3, seed=1).to(device)
    distances, indices = nearest_neighbours(images, reference)
    for image, distance, index in zip(images, distances, indices, strict=True):
        each = torch.stack([((image - other) ** 2).mean().sqrt() for other in reference])
        assert index == each.argmin()
        assert distance.item() == pytest.approx(each.min().item(), rel=1e-12)


def test_a_copy_is_at_distance_zero():
    x, _ = digits()[:]
    distances, indices = nearest_neighbours(x[[3, 500, 1700]], x)
    assert distances.tolist() == [0, 0, 0] and indices.tolist() == [3, 500, 1700]
    shifted, indices = nearest_neighbours(x[[3]] * 0.9, x)
    assert indices.item() == 3 and shifted.item() == pytest.approx(0.1 * x[3].square().mean().sqrt().item(), rel=1e-5)


def test_images_of_another_shape_have_no_neighbours():
    with pytest.raises(ValueError, match=r"expected \(N, \*D\) and \(M, \*D\), got \(2, 1, 4, 4\) and \(3, 1, 2, 8\)"):
        nearest_neighbours(torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 2, 8))
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(0, 4\)"):
        nearest_neighbours(torch.zeros(2, 4), torch.zeros(0, 4))


# What a classifier says.


def test_confidence_by_hand():
    probabilities = torch.tensor([[0.95, 0.03, 0.02], [0.2, 0.2, 0.6], [0.05, 0.91, 0.04], [0.1, 0.85, 0.05]])
    (mean, low, high), (share, *_) = confidence(probabilities.log() + 7)  # logits have a free constant
    assert mean == pytest.approx((0.95 + 0.6 + 0.91 + 0.85) / 4, rel=1e-6) and share == 0.5
    half = 1.96 * probabilities.amax(1).std().item() / 2
    assert low == pytest.approx(mean - half, rel=1e-6) and high == pytest.approx(mean + half, rel=1e-6)
    assert confidence(torch.tensor([[9.0, 0], [0, 3], [9, 0]]))[0][2] == 1  # not above it


def test_inception_score_by_hand():
    sure = 60 * torch.eye(4)[[0, 1, 2, 3, 3, 2, 1, 0]]
    assert inception_score(sure) == pytest.approx(4, rel=1e-9)  # each image has a class, the classes are even
    assert inception_score(sure[:1].expand(5, 4)) == pytest.approx(1, rel=1e-9)  # one class only
    assert inception_score(torch.zeros(5, 4)) == pytest.approx(1, rel=1e-9)  # no image has a class
    # Two images, (3/4, 1/4) and (1/4, 3/4): both diverge from (1/2, 1/2) by 3/4 log 3/2 - 1/4 log 2.
    two = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).double().log() + 7  # logits have a free constant
    assert inception_score(two) == pytest.approx(1.5**0.75 * 0.5**0.25, rel=1e-12)
    with pytest.raises(ValueError, match="logits"):
        inception_score(torch.tensor([[0.0, math.nan]]))


def test_inception_score_is_torchmetrics():
    inception = pytest.importorskip("torchmetrics.image.inception", reason="torchmetrics is not installed")
    logits = 3 * normal(200, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its memory, and of the spread of a single group
        metric = inception.InceptionScore(feature=Identity(), splits=1)
        metric.update(logits)
        theirs = metric.compute()[0].item()
    assert inception_score(logits) == pytest.approx(theirs, rel=1e-9)


def test_classes_by_hand(device):
    logits = torch.eye(4, device=device)[[0, 0, 3, 1, 0]]
    assert class_histogram(logits.argmax(1), 4).tolist() == [0.6, 0.2, 0, 0.2]
    assert conditional_accuracy(logits, torch.tensor([0, 1, 3, 1, 2]))[0] == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"expected a label for each image, got \(1,\) for \(5, 4\)"):
        conditional_accuracy(logits, torch.tensor([0]))


def test_total_variation_is_the_share_that_would_have_to_move():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.4, 0.4])
    assert total_variation(p, q) == total_variation(q, p) == pytest.approx(0.3)
    assert total_variation(p, p) == 0
    assert total_variation(torch.tensor([1.0, 0]), torch.tensor([0, 1.0])) == 1


# Intervals: how often they hold the mean over many draws. Of 200 simulations, an interval that holds 95 % of the time
# is right in 182 to 198 but for 1 case in 1,000.


def holds(intervals, truth):
    return sum(low <= truth <= high for _, low, high in intervals)


def draws(simulate, n=200):
    return [simulate(torch.Generator().manual_seed(i)) for i in range(n)]


def value(intervals):
    return sum(interval[0] for interval in intervals) / len(intervals)


def test_quantiles():
    nu = metrics.GROUPS - 1
    t_density = mpmath.gamma((nu + 1) / 2) / mpmath.sqrt(nu * mpmath.pi) / mpmath.gamma(mpmath.mpf(nu) / 2)
    tail = mpmath.quad(lambda x: t_density * (1 + x * x / nu) ** (-(nu + 1) / 2), [metrics.T_QUANTILE, 10, mpmath.inf])
    assert abs(tail - 0.025) < 2e-5
    assert abs(1 - mpmath.ncdf(metrics.Z_QUANTILE) - 0.025) < 2e-5


def test_interval_of_a_mean_holds():
    found = draws(lambda generator: mean_interval(torch.rand(100, generator=generator)))
    assert 182 <= holds(found, 0.5) <= 198


@pytest.mark.parametrize("share", [0.02, 0.3, 0.95])
def test_interval_of_a_share_holds(share):
    found = draws(lambda generator: share_interval(torch.rand(150, generator=generator) < share))
    assert 182 <= holds(found, share)


def test_interval_of_a_share_by_hand():
    # Wilson's: the shares p for which |8/10 - p| = z (p (1 - p) / 10)^(1/2).
    share, *ends = share_interval(torch.arange(10) < 8)
    assert share == 0.8
    for p in ends:
        assert abs(0.8 - p) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / 10), rel=1e-9)
    assert share_interval(torch.zeros(10) > 0) == (0, 0, pytest.approx(1.96**2 / (10 + 1.96**2)))
    assert share_interval(torch.ones(10) > 0)[2] == 1


def test_groups_part_the_samples():
    gone = left_out(47, torch.Generator().manual_seed(3))
    assert gone.shape == (21, 47) and not gone[0].any()
    assert (gone.sum(0) == 1).all() and set(gone[1:].sum(1).tolist()) == {2, 3}
    assert torch.equal(gone, left_out(47, torch.Generator().manual_seed(3)))
    assert not torch.equal(gone, left_out(47, torch.Generator().manual_seed(4)))
    with pytest.raises(ValueError, match="needs at least 20 samples, got 19"):
        left_out(19)


def test_jackknife_of_a_mean_is_the_spread_of_the_groups_means():
    x, gone = normal(100), left_out(100, torch.Generator().manual_seed(0))
    mean, low, high = jackknife_interval([x[~group].mean().item() for group in gone], highest=9)
    groups = torch.stack([x[group].mean() for group in gone[1:]])
    assert (low, mean) == (0, pytest.approx(x.mean().item()))
    assert high - mean == pytest.approx(metrics.T_QUANTILE * (groups.var() / 20).sqrt().item())
    assert jackknife_interval([0.9] + [0.5, 1.0] * 10, highest=1.0)[2] == 1


def jackknifed(statistic, x, generator, **ends):
    return jackknife_interval([statistic(x[~group]) for group in left_out(len(x), generator)], **ends)


def test_interval_of_a_frechet_distance_holds():
    # 4 features, 1,000 samples: the bias of 0.009 is small beside the standard deviation of 0.04.
    truth, target = 4 * 0.3**2, known([0] * 4, torch.eye(4).tolist())

    def simulate(generator):
        x = 0.3 + torch.randn(1000, 4, dtype=torch.float64, generator=generator)
        return jackknifed(lambda x: frechet_distance(x, target), x, generator)

    found = draws(simulate)
    assert 182 <= holds(found, value(found)) <= 198
    assert 175 <= holds(found, truth)


def test_interval_of_a_frechet_distance_keeps_the_bias_and_a_bootstrap_doubles_it():
    # 32 features, 300 samples of N(0, I) against itself: the distance is 0, its mean over draws about 1.
    target = known([0] * 32, torch.eye(32).tolist())

    def simulate(generator):
        x = torch.randn(300, 32, dtype=torch.float64, generator=generator)
        return jackknifed(lambda x: frechet_distance(x, target), x, generator)

    found = draws(simulate, 40)
    assert holds(found, value(found)) >= 35 and holds(found, 0) == 0
    x = normal(300, 32)
    again = [frechet_distance(x[torch.randint(300, (300,))], target) for _ in range(40)]
    assert min(again) > 1.5 * frechet_distance(x, target)


def test_interval_of_a_recall_holds():
    real = normal(150, 3)

    def simulate(generator):
        fake = 0.6 * torch.randn(100, 3, dtype=torch.float64, generator=generator)
        recall = among(real, fake, radii_of(fake, gone=left_out(100, generator))).double().mean(1)
        return jackknife_interval(recall.tolist(), 1.0)

    found = draws(simulate)
    assert 0.5 < value(found) < 0.9 and 182 <= holds(found, value(found))


def test_interval_of_a_total_variation_holds():
    shares, even = torch.tensor([0.25, 0.15, 0.05, 0.15, 0.1, 0.1, 0.1, 0.1]), torch.full((8,), 1 / 8)

    def simulate(generator):
        classes = torch.multinomial(shares, 500, True, generator=generator)
        return jackknifed(lambda c: total_variation(class_histogram(c, 8), even), classes, generator, highest=1.0)

    found = draws(simulate)
    assert 182 <= holds(found, value(found)) and 170 <= holds(found, total_variation(shares, even))


# In words.


def test_a_score_says_everything():
    score = Score("Frechet distance", 1.23456, 1.1, 1.4, 1000, "mnist_classifier", 0, 10_000)
    text = "Frechet distance 1.235 (95 %: 1.1..1.4), 1000 samples against 10000, features mnist_classifier, seed 0"
    assert str(score) == text
    assert str(score._replace(n_reference=None, value=0.5)) == text.replace("1.235", "0.5").replace(
        " against 10000", ""
    )
    assert list(score._asdict())[:4] == ["name", "value", "low", "high"]


def test_a_single_value_has_no_interval(recwarn):
    value, low, high = mean_interval(torch.tensor([2.5]))
    assert value == 2.5 and math.isnan(low) and math.isnan(high) and not recwarn.list
    assert str(Score("Bits/dim", value, low, high, 1, "pixels", 0)).startswith("Bits/dim 2.5 (no interval), 1 samples")


def test_the_published_inception_score_is_the_mean_of_ten_parts():
    # torchmetrics splits an order of its own into ten; the mean over its parts and ours estimate one quantity.
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2000, 8, generator=generator)
    value, low, high = metrics.inception_score_interval(logits, generator)
    parts = [metrics.inception_score(part) for part in logits.tensor_split(10)]
    assert low < value < high and low < sum(parts) / 10 < high
    assert value < metrics.inception_score(logits) * 1.01
    same = torch.eye(5).repeat_interleave(20, 0) * 100  # each sure of one of five classes, in even shares
    assert metrics.inception_score(same) == pytest.approx(5)
    assert metrics.inception_score_interval(same[:20] * 0)[:2] == pytest.approx((1, 1))  # sure of nothing
    with pytest.raises(ValueError, match="an Inception score needs at least 20 images, got 19"):
        metrics.inception_score_interval(logits[:19])
