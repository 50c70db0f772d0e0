"""The exact denoisers against quadrature, against autograd, and against special cases known in closed form."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_lesson import oracle
from ddpm_lesson.predictions import MEAN_TYPES, epsilon
from ddpm_lesson.process import GaussianDiffusion, Noised
from ddpm_lesson.schedules import jsd, linear

BETAS = linear(10, 0.05, 0.6)
every_step = pytest.mark.parametrize("t", [0, 1, 4, 9])

# A mixture on the line, for quadrature.
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[-1.0], [0.3], [1.4]], dtype=torch.float64)
STDS = torch.tensor([0.4, 0.2, 0.6], dtype=torch.float64)


def on_the_line(device="cpu"):
    return oracle.Mixture(GaussianDiffusion(BETAS).to(device), WEIGHTS, MEANS, STDS)


def normal(x, mean, std):
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def quadrature(x_t, t):
    """q(x_t), E[x_0 | x_t] and E[eps | x_t] of the mixture on the line, each (B,): sums over a grid of x_0.

    Trapezoids on a smooth function that vanishes at both ends converge faster than any power of the spacing.
    """
    a = math.prod((1 - BETAS[: t + 1]).tolist())
    x_0 = torch.linspace(-6, 7, 4001, dtype=torch.float64)
    prior = sum(w * normal(x_0, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))
    joint = prior * normal(x_t[:, None], a**0.5 * x_0, (1 - a) ** 0.5) * (x_0[1] - x_0[0])  # (B, 4001)
    density = joint.sum(1)
    eps = (x_t[:, None] - a**0.5 * x_0) / (1 - a) ** 0.5
    return density, (joint * x_0).sum(1) / density, (joint * eps).sum(1) / density


@every_step
def test_mixture_agrees_with_quadrature(t, device):
    x_t = torch.linspace(-4, 4, 33, dtype=torch.float64)
    density, x_0, eps = quadrature(x_t, t)
    mixture, points, steps = on_the_line(device), x_t[:, None].to(device), torch.full((33,), t, device=device)
    prediction = mixture(points, steps)
    torch.testing.assert_close(prediction.x_0[:, 0].cpu(), x_0, rtol=0, atol=1e-11)
    torch.testing.assert_close(prediction.eps[:, 0].cpu(), eps, rtol=0, atol=1e-11)
    torch.testing.assert_close(mixture.log_prob(points, steps).cpu(), density.log(), rtol=0, atol=1e-10)


def test_best_answer_without_t_averages_the_answers_of_all_t():
    # E[eps | x_t] with t uniform and unknown: the average over t of E[eps | x_t, t], weighted by q(t | x_t).
    x_t = torch.linspace(-3, 3, 13, dtype=torch.float64)
    density, _, eps = map(torch.stack, zip(*[quadrature(x_t, t) for t in range(10)], strict=True))
    expected = (density * eps).sum(0) / density.sum(0)  # from the joint density of t, x_t and eps
    mixture, t = on_the_line(), torch.arange(10).repeat_interleave(13)
    points = x_t.repeat(10)[:, None]
    told, log_prob = mixture(points, t).eps.view(10, 13), mixture.log_prob(points, t).view(10, 13)
    torch.testing.assert_close((log_prob.softmax(0) * told).sum(0), expected, rtol=0, atol=1e-11)


@every_step
def test_posterior_weights_are_bayes_rule(t):
    # p(k | x_t) is proportional to weight times N(x_t; sqrt(a) mean, a std^2 + 1 - a).
    a = math.prod((1 - BETAS[: t + 1]).tolist())
    x_t = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    joint = WEIGHTS * normal(x_t, a**0.5 * MEANS[:, 0], (a * STDS**2 + 1 - a).sqrt())
    weights = on_the_line().posterior_weights(x_t, torch.full((7,), t))
    torch.testing.assert_close(weights, joint / joint.sum(1, keepdim=True))


def test_density_integrates_to_1_in_the_plane():
    means = torch.tensor([[1.0, -1.0], [0.0, 0.5]])
    mixture = oracle.Mixture(GaussianDiffusion(BETAS), torch.tensor([1.0, 3.0]), means, torch.tensor([0.2, 0.0]))
    line = torch.linspace(-7, 7, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    for t in (0, 9):
        total = mixture.log_prob(grid, torch.full((len(grid),), t)).exp().sum() * (line[1] - line[0]) ** 2
        assert total.item() == pytest.approx(1, abs=1e-6)


def test_score_is_the_gradient_of_log_prob():
    mixture = image_mixture()
    t = torch.tensor([0, 1, 5, 9])
    x_t = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixture.log_prob(x_t, t).sum(), x_t)
    torch.testing.assert_close(mixture.score(x_t, t), gradient)


def image_mixture(dtype=torch.float64):
    means = torch.randn(5, 3, 2, 2, dtype=dtype, generator=torch.Generator().manual_seed(4))
    stds = torch.tensor([0.0, 0.1, 0.5, 1.0, 0.0], dtype=dtype)
    return oracle.Mixture(GaussianDiffusion(BETAS), torch.arange(1, 6), means, stds)


@pytest.mark.parametrize("batch", [0, 1, 10])
def test_predictions_have_the_images_shape_and_fit_together(batch):
    mixture, t = image_mixture(), torch.arange(batch) % 10
    x_t = 2 * torch.randn(batch, 3, 2, 2, dtype=torch.float64)
    x_0, eps, var_frac = mixture(x_t, t)
    assert x_0.shape == eps.shape == x_t.shape and var_frac is None
    torch.testing.assert_close(mixture.base.q_sample(x_0, t, eps), x_t)
    assert mixture.log_prob(x_t, t).shape == (batch,)
    assert mixture.posterior_weights(x_t, t).shape == (batch, 5)


def test_one_component_is_the_gaussian_oracle():
    # For one Gaussian E[x_0 | x_t] = m + sqrt(a) s^2 / (a s^2 + 1 - a) (x_t - sqrt(a) m).
    base, m, s = GaussianDiffusion(BETAS), torch.randn(3, 2, dtype=torch.float64), 0.7
    x_t, t = torch.randn(10, 3, 2, dtype=torch.float64), torch.arange(10)
    a = torch.cumprod(1 - BETAS, 0).view(-1, 1, 1)
    expected = m + a.sqrt() * s**2 / (a * s**2 + 1 - a) * (x_t - a.sqrt() * m)
    gaussian = oracle.GaussianData(base, m, s)
    torch.testing.assert_close(gaussian(x_t, t).x_0, expected)
    mixture = oracle.Mixture(base, torch.tensor([3.0]), m[None], torch.tensor([s], dtype=torch.float64))
    torch.testing.assert_close(mixture(x_t, t), gaussian(x_t, t))


def test_equal_components_are_one():
    base, m = GaussianDiffusion(BETAS), torch.randn(2)
    x_t, t = torch.randn(10, 2), torch.arange(10)
    three = oracle.Mixture(base, torch.tensor([1.0, 2.0, 5.0]), m.expand(3, 2), torch.full((3,), 0.3))
    torch.testing.assert_close(three(x_t, t), oracle.GaussianData(base, m, 0.3)(x_t, t))
    torch.testing.assert_close(three.log_prob(x_t, t), oracle.GaussianData(base, m, 0.3).log_prob(x_t, t))


def test_points_give_a_weighted_mean_of_themselves():
    # Data that are points: weights softmax(log w - |x_t - sqrt(a) point|^2 / (2 (1 - a))).
    points, weights = torch.randn(6, 2, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    base = GaussianDiffusion(BETAS)
    x_t, t = torch.randn(10, 2, dtype=torch.float64), torch.arange(10)
    a = torch.cumprod(1 - BETAS, 0)[:, None]
    distance = ((x_t[:, None] - a[..., None].sqrt() * points) ** 2).sum(2)
    expected = torch.softmax(weights.log() - distance / (2 * (1 - a)), 1) @ points
    torch.testing.assert_close(oracle.Mixture(base, weights, points, torch.zeros(6))(x_t, t).x_0, expected)


def test_where_no_signal_is_left_the_answer_is_the_mean_of_the_data():
    mixture = oracle.Mixture(GaussianDiffusion(jsd(10)), WEIGHTS, MEANS, STDS)
    x_t = torch.randn(4, 1, dtype=torch.float64)
    prediction = mixture(x_t, torch.full((4,), 9))
    torch.testing.assert_close(prediction.x_0, (WEIGHTS @ MEANS).expand(4, 1))
    torch.testing.assert_close(prediction.eps, x_t)


@pytest.mark.parametrize("name", MEAN_TYPES)
def test_as_model_minimises_the_squared_error_of_its_mean_type(name):
    # Least squares learns the conditional expectation: E|target - f|^2 = E|target - E[target | x_t]|^2 + E|f - E|^2.
    # So moving the output by d, whatever the direction, costs d^2, and the cross term vanishes within 4 standard
    # errors of the n pairs.
    n, d = 20_000, 0.1
    mixture, mean_type = on_the_line(), MEAN_TYPES[name]
    k = torch.multinomial(WEIGHTS, n, replacement=True)
    x_0 = MEANS[k] + STDS[k, None] * torch.randn(n, 1, dtype=torch.float64)
    t, noise = torch.randint(10, (n,)), torch.randn(n, 1, dtype=torch.float64)
    x_t = mixture.base.q_sample(x_0, t, noise)
    target, output = mean_type.target(mixture.base, Noised(x_0, t, noise, x_t)), mixture.as_model(mean_type)(x_t, t)
    for other in (torch.ones_like(x_t), x_t.sign(), torch.sin(5 * x_t)):
        gain = (target - output - d * other) ** 2 - (target - output) ** 2 - d**2 * other**2
        assert abs(gain.mean()) < 4 * gain.std() / n**0.5


def test_float32_answers_follow_float64():
    # Rounding x_t moves the residual x_t - sqrt(a) mean by 6e-8 |x_t|, and eps by 1 / sqrt(1 - a) of that: 100 at the
    # first of 1000 steps, so 2e-5 bounds it for |x_t| < 3. A variance 1 - a taken in float32 would miss by 8e-5.
    base = GaussianDiffusion(linear(1000))
    gaussian = oracle.GaussianData(base, torch.tensor([0.5, -0.25]), 0.0)
    t = torch.tensor([0, 1, 10, 999]).repeat(50)
    x_t = base.q_sample(torch.tensor([[0.5, -0.25]]).expand(200, 2), t, torch.randn(200, 2))
    torch.testing.assert_close(gaussian(x_t, t).eps.double(), gaussian(x_t.double(), t).eps, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    mixture, t = image_mixture(torch.float32), torch.arange(10)
    x_t = torch.randn(10, 3, 2, 2).to(dtype)
    for half, single in zip(mixture(x_t, t)[:2], mixture(x_t.float(), t)[:2], strict=True):
        assert torch.equal(half, single.to(dtype))


def test_means_of_another_shape_than_x_t_are_an_error():
    with pytest.raises(ValueError, match=r"x_t must be \(B, \*\(1,\)\), got \(4, 2\)"):
        on_the_line()(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(
    "weights, means, stds, message",
    [
        (torch.ones(2), torch.ones(3, 1), torch.ones(2), r"got \(2,\), \(3, 1\), \(2,\)"),
        (torch.ones(2), torch.ones(2, 1), torch.ones(3), r"got \(2,\), \(2, 1\), \(3,\)"),
        (torch.ones(2, 1), torch.ones(2, 1), torch.ones(2, 1), r"expected weights \(K,\)"),
        (torch.tensor([1.0, 0.0]), torch.ones(2, 1), torch.ones(2), "weights must be positive"),
        (torch.tensor([1.0, -1.0]), torch.ones(2, 1), torch.ones(2), "weights must be positive"),
        (torch.tensor([1.0, math.nan]), torch.ones(2, 1), torch.ones(2), "weights must be positive"),
        (torch.ones(2), torch.ones(2, 1), torch.tensor([0.1, -0.1]), "stds must not be negative"),
    ],
)
def test_bad_mixtures_are_refused(weights, means, stds, message):
    with pytest.raises(ValueError, match=message):
        oracle.Mixture(GaussianDiffusion(BETAS), weights, means, stds)


def test_x_t_of_the_wrong_batch_is_an_error():
    with pytest.raises(ValueError, match="t must be"):
        on_the_line()(torch.randn(4, 1), torch.zeros(3, dtype=torch.int64))


def test_weights_need_not_be_normalised():
    x_t, t = torch.randn(10, 1, dtype=torch.float64), torch.arange(10)
    scaled = oracle.Mixture(GaussianDiffusion(BETAS), 7 * WEIGHTS, MEANS, STDS)
    torch.testing.assert_close(scaled.log_prob(x_t, t), on_the_line().log_prob(x_t, t))


def test_epsilon_model_is_a_multiple_of_the_score():
    mixture, t = image_mixture(), torch.arange(10)
    x_t = torch.randn(10, 3, 2, 2, dtype=torch.float64)
    std = (1 - torch.cumprod(1 - BETAS, 0)).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(mixture.as_model(epsilon)(x_t, t), -std * mixture.score(x_t, t))


# Classes.

LABELS = torch.tensor([0, 2, 0])


def labelled(device="cpu"):
    return oracle.Mixture(GaussianDiffusion(BETAS).to(device), WEIGHTS, MEANS, STDS, labels=LABELS)


def of_class(y):
    """The same class, built from its components alone."""
    keep = LABELS == y
    return oracle.Mixture(GaussianDiffusion(BETAS), WEIGHTS[keep], MEANS[keep], STDS[keep])


def points_on_the_line():
    return torch.linspace(-3, 3, 10, dtype=torch.float64)[:, None], torch.arange(10)


def test_classifier_is_bayes_rule():
    # p(y | x_t) = p(y) q(x_t | y) / q(x_t); no component is of class 1.
    x_t, t = points_on_the_line()
    joint = [WEIGHTS[LABELS == y].sum().log() + of_class(y).log_prob(x_t, t) for y in (0, 2)]
    log_p = labelled().classifier(x_t, t)
    torch.testing.assert_close(log_p[:, [0, 2]], torch.stack(joint, 1) - on_the_line().log_prob(x_t, t)[:, None])
    assert (log_p[:, 1] == -math.inf).all()


def test_gradient_of_the_classifier_is_a_difference_of_scores():
    x_t, t = points_on_the_line()
    x_t.requires_grad_()
    for y in (0, 2):
        (gradient,) = torch.autograd.grad(labelled().classifier(x_t, t)[:, y].sum(), x_t)
        torch.testing.assert_close(gradient, of_class(y).score(x_t, t) - on_the_line().score(x_t, t))


@pytest.mark.parametrize("y", [0, 2])
def test_conditional_is_the_mixture_of_one_class(y, device):
    x_t, t = (value.to(device) for value in points_on_the_line())
    for conditioned in (labelled(device).conditional(y), labelled(device).conditional(torch.full((10,), y).to(device))):
        for actual, expected in zip(conditioned(x_t, t)[:2], of_class(y)(x_t.cpu(), t.cpu())[:2], strict=True):
            torch.testing.assert_close(actual.cpu(), expected)
        torch.testing.assert_close(conditioned.log_prob(x_t, t).cpu(), of_class(y).log_prob(x_t.cpu(), t.cpu()))


def test_each_image_can_have_its_own_class():
    x_t, t = points_on_the_line()
    y = torch.tensor([0, 2]).repeat(5)
    x_0 = labelled().conditional(y)(x_t, t).x_0
    for k in (0, 2):
        torch.testing.assert_close(x_0[y == k], of_class(k)(x_t, t).x_0[y == k])
    torch.testing.assert_close(labelled().as_model(epsilon)(x_t, t, y), labelled().conditional(y)(x_t, t).eps)


def test_conditioning_leaves_the_mixture_as_it_was():
    x_t, t = points_on_the_line()
    mixture = labelled()
    mixture.conditional(0)
    torch.testing.assert_close(mixture(x_t, t).x_0, on_the_line()(x_t, t).x_0)


def test_oracle_without_labels_knows_no_classes():
    x_t, t = points_on_the_line()
    with pytest.raises(ValueError, match="give it labels"):
        on_the_line().classifier(x_t, t)
    with pytest.raises(ValueError, match="give it labels"):
        on_the_line().as_model(epsilon)(x_t, t, 0)


@pytest.mark.parametrize("y, missing", [(1, 1), (3, 3), (-1, -1), (torch.tensor([0, 1, 2]), 1)])
def test_class_without_a_component_is_refused(y, missing):
    with pytest.raises(ValueError, match=rf"no component is of class {missing}; there are \[0, 2\]"):
        labelled().conditional(y)


def test_classes_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="no component is of class 2"):
        labelled().conditional(0).conditional(2)


def test_classes_of_another_batch_are_refused():
    with pytest.raises(ValueError):
        labelled().conditional(torch.tensor([0, 2, 2]))(torch.zeros(1, 1), torch.tensor([0]))


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, -1, 1])])
def test_bad_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must be \(3,\) integers from 0 up, got"):
        oracle.Mixture(GaussianDiffusion(BETAS), WEIGHTS, MEANS, STDS, labels=labels)


# A data set.


def data_set(dtype=torch.float64):
    points = torch.randn(12, 3, 2, 2, dtype=dtype, generator=torch.Generator().manual_seed(5))
    return points, torch.arange(12) % 3


def test_empirical_oracle_is_a_mixture_of_points(device):
    points, labels = data_set()
    base = GaussianDiffusion(BETAS).to(device)
    empirical = oracle.Empirical(base, points, labels=labels)
    mixture = oracle.Mixture(base, torch.ones(12), points, torch.zeros(12), labels=labels)
    x_t, t = torch.randn(10, 3, 2, 2, dtype=torch.float64).to(device), torch.arange(10, device=device)
    y = (t % 3).to(device)
    for one, other in ((empirical, mixture), (empirical.conditional(y), mixture.conditional(y))):
        torch.testing.assert_close(one(x_t, t), other(x_t, t))
        for name in ("log_prob", "posterior_weights", "score", "classifier"):
            torch.testing.assert_close(getattr(one, name)(x_t, t), getattr(other, name)(x_t, t))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_empirical_oracle_answers_in_the_images_dtype(dtype):
    empirical = oracle.Empirical(GaussianDiffusion(linear(1000)), data_set()[0])
    t = torch.tensor([0, 1, 10, 100, 999])
    x_t = torch.randn(5, 3, 2, 2).to(dtype)
    for low, high in zip(empirical(x_t, t)[:2], empirical(x_t.double(), t)[:2], strict=True):
        torch.testing.assert_close(low, high.to(dtype))


def test_empirical_oracle_gives_the_nearest_point_where_little_noise_is_left():
    points, _ = data_set(torch.float32)
    base = GaussianDiffusion(linear(1000))
    t = torch.zeros(12, dtype=torch.int64)
    x_t = base.q_sample(points, t, torch.randn_like(points))
    torch.testing.assert_close(oracle.Empirical(base, points)(x_t, t).x_0, points)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is computed inside."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_empirical_oracle_holds_no_batch_times_points_times_pixels():
    points = torch.randn(50, 3, 8, 8)  # D = 192
    empirical = oracle.Empirical(GaussianDiffusion(BETAS), points)
    with Largest() as largest:
        empirical(torch.randn(40, 3, 8, 8), torch.zeros(40, dtype=torch.int64))
    assert largest.numel == 50 * 192  # the points themselves; (B, N) is 2,000, (B, N, D) would be 384,000
