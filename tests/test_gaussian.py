import math
import re

import mpmath as mp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from ddpm_lesson.gaussian import Gaussian

FLOAT64 = torch.float64


def gaussian(mean, log_var, dtype=FLOAT64):
    """One coordinate: (1, 1)."""
    return Gaussian(torch.tensor([[mean]], dtype=dtype), torch.tensor([[log_var]], dtype=dtype))


def some_gaussian(seed, shape=(5, 3, 4, 4)):
    """Means of size 1 and one log variance per batch element, from -6 to 2."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, dtype=FLOAT64, generator=generator)
    log_var = 8 * torch.rand(shape[0], *[1] * (len(shape) - 1), dtype=FLOAT64, generator=generator) - 6
    return Gaussian(mean, log_var)


def as_normal(g):
    return Normal(g.mean, torch.exp(0.5 * g.log_var).expand(g.mean.shape))


# Samples.


def test_a_sample_scales_its_noise_by_the_standard_deviation():
    assert gaussian(1.0, math.log(4.0)).sample(torch.full((1, 1), 3.0, dtype=FLOAT64)).item() == pytest.approx(7.0)


def test_samples_have_the_mean_and_the_variance_that_they_should(device):
    """The sample mean has the standard error std / sqrt(n), the sample variance var * sqrt(2 / n)."""
    n, var = 100_000, 0.25
    g = Gaussian(torch.full((n, 1), 3.0, device=device), torch.tensor(math.log(var), device=device))
    x = g.sample().double()
    assert abs(x.mean() - 3) < 5 * math.sqrt(var / n)
    assert abs(x.var() - var) < 5 * var * math.sqrt(2 / n)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_point_returns_its_mean_exactly(dtype):
    mean = torch.randn(4, 3).to(dtype)
    x = Gaussian(mean, torch.full((4, 1), -math.inf)).sample()
    assert x.dtype == dtype and torch.equal(x, mean)


def test_a_sample_follows_the_generator():
    g = some_gaussian(0)
    first, second = (g.sample(generator=torch.Generator().manual_seed(7)) for _ in range(2))
    noise = torch.randn(g.mean.shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(7))
    assert torch.equal(first, second) and torch.equal(first, g.sample(noise))


def test_a_sample_leaves_mean_and_noise_alone():
    g, noise = some_gaussian(0), torch.randn(5, 3, 4, 4, dtype=FLOAT64)
    kept = g.mean.clone(), g.log_var.clone(), noise.clone()
    g.sample(noise)
    assert all(torch.equal(a, b) for a, b in zip((*g, noise), kept, strict=True))


@pytest.mark.parametrize("shape", [(5, 1, 4, 4), (5, 3, 4, 4, 1)])
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"mean's shape (5, 3, 4, 4), got {shape}")):
        some_gaussian(0).sample(torch.zeros(shape))


# Density, entropy and divergence.


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_density_entropy_and_divergence_are_those_of_torch(seed):
    p, q = some_gaussian(seed), some_gaussian(seed + 1)
    x = some_gaussian(seed + 2).mean
    torch.testing.assert_close(p.log_prob(x), as_normal(p).log_prob(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.entropy(), as_normal(p).entropy(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.kl(q), kl_divergence(as_normal(p), as_normal(q)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p, q", [((0, 0), (0, 0)), ((0.3, -2), (0, 0)), ((0, 0), (1, -1)), ((-0.5, 1), (0.5, -3))])
def test_divergence_by_quadrature(p, q):
    def log_density(x, mean, log_var):
        return -((x - mean) ** 2) / (2 * mp.exp(log_var)) - mp.log(2 * mp.pi * mp.exp(log_var)) / 2

    def integrand(x):
        return mp.exp(log_density(x, *p)) * (log_density(x, *p) - log_density(x, *q))

    std = math.exp(p[1] / 2)
    expected = mp.quad(integrand, [p[0] + k * std for k in (-15, -5, 0, 5, 15)])
    assert gaussian(*map(float, p)).kl(gaussian(*map(float, q))).item() == pytest.approx(float(expected), abs=1e-12)


def test_a_density_integrates_to_one():
    x = torch.linspace(-20, 20, 20001, dtype=FLOAT64)[:, None]
    g = Gaussian(torch.full_like(x, 0.7), torch.tensor([[0.5]], dtype=FLOAT64))
    assert g.log_prob(x).exp().sum().item() * 40 / 20000 == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("log_ratio", [1e-2, 1e-3, 1e-4, 1e-5])
def test_the_divergence_of_near_neighbours_keeps_its_digits_in_float32(log_ratio):
    """KL = (exp(r) - 1 - r) / 2, about r^2 / 4: with expm1 the difference loses a share of 2^-24 / r of it, twice."""
    r = torch.tensor(log_ratio).item()  # as float32 holds it
    kl = gaussian(0.0, r, torch.float32).kl(gaussian(0.0, 0.0, torch.float32)).item()
    assert kl == pytest.approx((math.expm1(r) - r) / 2, rel=2**-22 / r, abs=0)


@pytest.mark.parametrize(
    "p, q, expected",
    [
        ((0.5, -math.inf), (0.5, -math.inf), 0.0),
        ((0.5, -math.inf), (0.6, -math.inf), math.inf),
        ((0.5, -math.inf), (0.5, 0.0), math.inf),
        ((0.5, 0.0), (0.5, -math.inf), math.inf),
    ],
)
def test_the_divergence_of_points(p, q, expected):
    assert gaussian(*p).kl(gaussian(*q)).item() == expected


def test_a_batch_with_a_point_in_it_has_finite_gradients():
    """The posterior of t = 0 is a point, and the loss picks another term there: 0 times infinity would be nan."""
    p = Gaussian(torch.zeros(2, 3), torch.tensor([[-math.inf], [-1.0]]))
    q = Gaussian(torch.ones(2, 3, requires_grad=True), torch.zeros(2, 1, requires_grad=True))
    loss = torch.where(torch.tensor([[True], [False]]), 0.0, p.kl(q)).sum()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, q))


def test_the_density_of_a_point_is_infinite_there_and_zero_elsewhere():
    point = gaussian(0.5, -math.inf)
    assert point.log_prob(torch.tensor([[0.5]], dtype=FLOAT64)).item() == math.inf
    assert point.log_prob(torch.tensor([[0.6]], dtype=FLOAT64)).item() == -math.inf


def test_the_entropy_of_a_point_is_minus_infinity_in_the_shape_of_the_mean():
    entropy = Gaussian(torch.zeros(2, 3), torch.full((2, 1), -math.inf)).entropy()
    assert entropy.shape == (2, 3) and (entropy == -math.inf).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_meet_float32_arithmetic(dtype):
    """(x - mean)^2 of 1e-8 is below what half precision can hold, but with a std of 1e-4 it is one whole unit."""
    log_var = torch.full((1, 1), 2 * math.log(1e-4))
    x, mean = torch.full((1, 1), 1e-4).to(dtype), torch.zeros(1, 1).to(dtype)
    p, other = Gaussian(mean, log_var), Gaussian(x, log_var)
    exact, exact_other = Gaussian(mean.double(), log_var.double()), Gaussian(x.double(), log_var.double())
    torch.testing.assert_close(p.log_prob(x).double(), exact.log_prob(x.double()), rtol=1e-6, atol=0)
    torch.testing.assert_close(p.kl(other).double(), exact.kl(exact_other), rtol=1e-5, atol=0)


# The discretised log likelihood.


def exact_bin(x, mean, log_var, levels):
    """Log probability of the bin around x, from the two distribution functions with 60 digits."""

    def below(z):
        return mp.erfc(-z / mp.sqrt(2)) / 2

    half, std = mp.mpf(1) / (levels - 1), mp.exp(log_var / 2)
    upper, lower = (x + half - mean) / std, (x - half - mean) / std
    if x < -1 + half:
        return mp.log(below(upper))
    if x > 1 - half:
        return mp.log(below(-lower))
    return mp.log(below(upper) - below(lower)) if lower < 0 else mp.log(below(-lower) - below(-upper))


def grid(levels, dtype=FLOAT64):
    return torch.linspace(-1, 1, levels, dtype=FLOAT64).to(dtype)[:, None]


MEANS = [-1e3, -5.0, -1.003, -1.0, -0.3, 0.0, 1e-9, 0.5, 1.0, 3.0, 100.0]
LOG_VARS = [-20.0, -13.0, -9.2, -4.0, 0.0, 2.0]  # std from 4.5e-5 to 2.7


@pytest.mark.parametrize("levels", [256, 17])
@pytest.mark.parametrize("mean", MEANS)
def test_bins_and_their_gradients_against_sixty_digits(levels, mean):
    """Both edge bins, their neighbours, and the middle; from the centre to twenty million standard deviations away.

    A bin of width w and std s loses EPS * s / w to cancellation: below 1e-13 in the value for all of these, and the
    square of that share enters the gradient with the mean, where it is compared absolutely against 1 / s.
    """
    rows = [0, 1, levels // 2 - 1, levels // 2, levels - 2, levels - 1]
    x = grid(levels)[rows]
    for log_var in LOG_VARS:
        g = Gaussian(torch.full_like(x, mean).requires_grad_(), torch.full_like(x, log_var).requires_grad_())
        out = g.discretized_log_prob(x, levels)
        by_mean, by_log_var = torch.autograd.grad(out.sum(), g)
        with mp.workdps(60):
            step = mp.mpf(10) ** -20
            for i, value in enumerate(x.flatten().tolist()):
                value, m, v = mp.mpf(value), mp.mpf(mean), mp.mpf(log_var)
                exact = exact_bin(value, m, v, levels)
                d_mean = mp.diff(lambda z, y=value, v=v: exact_bin(y, z, v, levels), m, h=step)
                d_log_var = mp.diff(lambda z, y=value, m=m: exact_bin(y, m, z, levels), v, h=step)
                assert out[i].item() == pytest.approx(float(exact), rel=1e-12, abs=1e-12)
                assert by_mean[i].item() == pytest.approx(float(d_mean), rel=1e-11, abs=1e-11 * math.exp(-log_var / 2))
                assert by_log_var[i].item() == pytest.approx(float(d_log_var), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("levels", [2, 17, 256])
@given(mean=st.floats(-2, 2), log_var=st.floats(-15, 3))
@settings(max_examples=30, deadline=None)
def test_the_levels_share_out_a_probability_of_one(levels, mean, log_var):
    x = grid(levels)
    g = Gaussian(torch.full_like(x, mean), torch.tensor([[log_var]], dtype=FLOAT64))
    assert g.discretized_log_prob(x, levels).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("levels", [17, 256])
def test_a_float32_grid_still_shares_out_one(levels):
    """A level rounded to float32 moves its bin by 2^-25, and the density is at most 0.4 / std at each of them."""
    x = grid(levels, torch.float32)
    g = Gaussian(torch.full_like(x, 0.1), torch.tensor([[-6.0]]))
    total = g.discretized_log_prob(x, levels).exp().sum().item()
    assert total == pytest.approx(1, abs=2 * levels * 2**-25 * 0.4 / math.exp(-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_computed_in_float64(dtype):
    x, mean = torch.randn(4, 3).clamp(-0.9, 0.9).to(dtype), torch.randn(4, 3).to(dtype)
    log_var = torch.full((4, 1), -2.0)
    out = Gaussian(mean, log_var).discretized_log_prob(x)
    assert out.dtype == FLOAT64 and out.shape == (4, 3)
    assert torch.equal(out, Gaussian(mean.double(), log_var.double()).discretized_log_prob(x.double()))


@pytest.mark.parametrize("x", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("mean", [-1e6, -1.0, 0.0, 1e6])
@pytest.mark.parametrize("log_var", [-math.inf, -1e4, -69.0, -68.0, -60.0, 0.0, 69.0, 1e4])
def test_values_and_gradients_stay_finite(x, mean, log_var):
    g = gaussian(mean, log_var, torch.float32)
    mean, log_var = g.mean.requires_grad_(), g.log_var.requires_grad_()
    out = g.discretized_log_prob(torch.tensor([[x]]))
    assert out.isfinite() and out <= 0
    assert all(gradient.isfinite() for gradient in torch.autograd.grad(out.sum(), (mean, log_var)))


def test_bins_are_not_densities():
    """A narrow Gaussian has a density of 400, and puts all of its probability into one bin."""
    g, x = gaussian(0.0, 2 * math.log(1e-3)), torch.zeros(1, 1, dtype=FLOAT64)
    assert g.log_prob(x).item() > 5
    assert -1e-3 < g.discretized_log_prob(x).item() <= 0


def test_the_bins_of_a_wide_gaussian_approach_density_times_width():
    """A bin of width w differs from w times its density by a share of (w / std)^2 / 24."""
    x = grid(256)[1:-1]
    g = Gaussian(torch.zeros_like(x), torch.zeros(1, 1, dtype=FLOAT64))
    expected = g.log_prob(x) + math.log(2 / 255)
    torch.testing.assert_close(g.discretized_log_prob(x), expected, atol=(2 / 255) ** 2 / 24, rtol=0)


@pytest.mark.parametrize("levels", [1, 0, -3])
def test_fewer_than_two_levels_are_refused(levels):
    with pytest.raises(ValueError, match=f"levels must be at least 2, got {levels}"):
        gaussian(0.0, 0.0).discretized_log_prob(torch.zeros(1, 1), levels)
