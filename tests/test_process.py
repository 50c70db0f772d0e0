import copy
import functools
import math
import pickle
import warnings
from collections.abc import Callable
from typing import NamedTuple

import mpmath as mp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_lesson import schedules, spacing
from ddpm_lesson.process import Description, GaussianDiffusion, Noised, PriorNotReachedWarning, extract

EPS = torch.finfo(torch.float64).eps
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(), (2,), (1, 8, 8), (3, 5, 7), (2, 3, 4, 4)]  # from numbers over points and images to video


@functools.cache
def linear(T):
    return GaussianDiffusion(schedules.linear(T))


@functools.cache
def reaching(T):
    """A chain that reaches the prior for every T, so that 1 / sqrt(alphas_bar) stays below 160."""
    return GaussianDiffusion(schedules.linear_scaled(T) if T > 20 else schedules.vp_paper(T))


def all_steps(process):
    return torch.arange(process.T)


def column(value, process):
    """The same number for every step of the process: (T, 1) float64."""
    return torch.full((process.T, 1), float(value), dtype=torch.float64)


def images(shape, dtype, seed, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for _ in range(count)]


class Formula(NamedTuple):
    """A method that must equal a[t] x + b[t] y, and the two tables a, b as the papers define them."""

    call: Callable  # (process, x, t, y) -> images
    tables: Callable  # process -> (a, b)


def signal(p):
    return p.sqrt_alphas_bar


def std(p):
    return p.sqrt_one_minus_alphas_bar


def ddim_direction(p, eta):
    """sqrt(1 - alphas_bar_prev - eta^2 posterior_var) without the cancellation, 1 - alphas_bar_prev taken out."""
    before = p.posterior_var * std(p) ** 2 / p.betas
    return torch.sqrt(before * (1 - eta**2 * p.betas / std(p) ** 2).clamp(min=0))


FORMULAS = {
    "q_step": Formula(lambda p, x, t, y: p.q_step(x, t, y), lambda p: (p.sqrt_alphas, p.sqrt_betas)),
    "q_sample": Formula(lambda p, x, t, y: p.q_sample(x, t, y), lambda p: (signal(p), std(p))),
    "q_posterior": Formula(
        lambda p, x, t, y: p.q_posterior(x, y, t).mean, lambda p: (p.posterior_mean_coef1, p.posterior_mean_coef2)
    ),
    "q_posterior_ddim": Formula(
        lambda p, x, t, y: p.q_posterior_ddim(x, y, t, 0.5).mean,
        lambda p: (p.alphas_bar_prev.sqrt(), ddim_direction(p, 0.5)),
    ),
    "velocity": Formula(lambda p, x, t, y: p.velocity(x, t, y), lambda p: (-std(p), signal(p))),
    "x_0_from_eps": Formula(lambda p, x, t, y: p.x_0_from_eps(x, t, y), lambda p: (1 / signal(p), -std(p) / signal(p))),
    "eps_from_x_0": Formula(lambda p, x, t, y: p.eps_from_x_0(x, t, y), lambda p: (1 / std(p), -signal(p) / std(p))),
    "x_0_from_x_prev": Formula(
        lambda p, x, t, y: p.x_0_from_x_prev(x, t, y),
        lambda p: (-p.posterior_mean_coef2 / p.posterior_mean_coef1, 1 / p.posterior_mean_coef1),
    ),
    "x_prev_from_x_0": Formula(
        lambda p, x, t, y: p.x_prev_from_x_0(x, t, y), lambda p: (p.posterior_mean_coef2, p.posterior_mean_coef1)
    ),
    "x_0_from_v": Formula(lambda p, x, t, y: p.x_0_from_v(x, t, y), lambda p: (signal(p), -std(p))),
    "v_from_x_0": Formula(lambda p, x, t, y: p.v_from_x_0(x, t, y), lambda p: (signal(p) / std(p), -1 / std(p))),
    "x_0_from_score": Formula(
        lambda p, x, t, y: p.x_0_from_score(x, t, y), lambda p: (1 / signal(p), std(p) ** 2 / signal(p))
    ),
    "score_from_x_0": Formula(
        lambda p, x, t, y: p.score_from_x_0(x, t, y), lambda p: (-1 / std(p) ** 2, signal(p) / std(p) ** 2)
    ),
}
WAYS_BACK = {"eps": "x_0_from_eps", "x_prev": "x_0_from_x_prev", "v": "x_0_from_v", "score": "x_0_from_score"}
ALL_METHODS = {name: formula.call for name, formula in FORMULAS.items()}
ALL_METHODS["q_marginal"] = lambda p, x, t, y: p.q_marginal(x, t).mean
ALL_METHODS["q_sample_pair"] = lambda p, x, t, y: p.q_sample_pair(x, t)[1]
ALL_METHODS["noised"] = lambda p, x, t, y: p.noised(x, t, y).x_t


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMULAS)
def test_one_step_for_the_batch_gives_the_same_bits_as_that_step_for_each_image(name, dtype):
    process, (x, y) = reaching(20), torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    for i in (0, 7, 18):
        each = FORMULAS[name].call(process, x, torch.full((3,), i), y)
        assert torch.equal(FORMULAS[name].call(process, x, i, y), each)


def terms(formula, process, x, t, y):
    a, b = formula.tables(process)
    return extract(a, t, x.shape) * x.double(), extract(b, t, x.shape) * y.double()


def rounding(dtype, result, *parts):
    """The error that a sum may have that is formed in float32 at least and rounded once to dtype.

    Each part may be off by eight units of the working precision (the roots and quotients of its coefficient, product
    and sum, here and in the float64 reference), the result by half a unit of its dtype.
    """
    work = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    half_unit = torch.finfo(dtype).eps / 2 * (result.abs() + torch.finfo(dtype).smallest_normal)
    return 8 * work * sum(part.abs() for part in parts) + half_unit


INPUTS = dict(
    T=st.integers(1, 4000),
    at=st.floats(0, 1),
    shape=st.sampled_from(SHAPES),
    batch=st.sampled_from([0, 1, 3]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10**6),
)


def some_steps(T, at, batch):
    """t between 0 and T - 1, both ends included; a batch of three also holds both ends."""
    return torch.tensor([round(at * (T - 1)), 0, T - 1])[:batch]


# Every method is its formula, for all shapes and dtypes, and leaves its inputs alone.


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=40, deadline=None)
@given(**INPUTS)
def test_every_method_is_its_formula_rounded_once(name, T, at, shape, batch, dtype, seed):
    process, t, formula = reaching(T), some_steps(T, at, batch), FORMULAS[name]
    x, y = images((batch, *shape), dtype, seed)
    kept = x.clone(), t.clone(), y.clone()
    out = formula.call(process, x, t, y)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert all(torch.equal(a, b) for a, b in zip((x, t, y), kept, strict=True))
    parts = terms(formula, process, x, t, y)
    fits = sum(parts).abs() < torch.finfo(dtype).max  # float16 ends at 65504
    error = (out.double() - sum(parts)).abs()
    assert (error <= rounding(dtype, sum(parts), *parts))[fits].all()


@pytest.mark.parametrize("quantity", WAYS_BACK)
@settings(max_examples=40, deadline=None)
@given(**INPUTS)
def test_the_way_back_to_x_0(quantity, T, at, shape, batch, dtype, seed):
    """y = a x_t + b x_0 is off by at most E, so x_0 = (y - a x_t) / b by at most E / |b| and its own rounding.

    1 / |b| is the condition number: 1 at the most for v, up to 157 for eps and to thousands for x_prev.
    """
    process, t = reaching(T), some_steps(T, at, batch)
    forth, back = FORMULAS[f"{quantity}_from_x_0"], FORMULAS[WAYS_BACK[quantity]]
    x_0, noise = images((batch, *shape), dtype, seed)
    x_t = process.q_sample(x_0, t, noise)
    y = forth.call(process, x_t, t, x_0)
    error_forth = rounding(dtype, y.double(), *terms(forth, process, x_t, t, x_0))
    gain = extract(1 / forth.tables(process)[1].abs(), t, x_0.shape)
    error_back = rounding(dtype, x_0.double() + gain * error_forth, *terms(back, process, x_t, t, y))
    error = (back.call(process, x_t, t, y).double() - x_0.double()).abs()
    assert (error <= gain * error_forth + error_back).all()


@pytest.mark.parametrize("T", [1, 2, 10, 1000, 4000])
def test_eps_v_and_score_describe_one_noise(T):
    """With x_t = signal x_0 + std eps: v = signal eps - std x_0, and the score is -eps / std.

    On the way back a difference of numbers below 5, each off by a few EPS, is divided by std.
    """
    process = reaching(T)
    t, (x_0, eps) = all_steps(process), images((T, 3), torch.float64, 0)
    x_t, scale = process.q_sample(x_0, t, eps), std(process)[:, None]
    bound = dict(rtol=0, atol=8 * EPS * 5 / scale.min().item())
    torch.testing.assert_close(process.eps_from_x_0(x_t, t, x_0), eps, **bound)
    torch.testing.assert_close(process.velocity(x_0, t, eps), process.v_from_x_0(x_t, t, x_0), **bound)
    torch.testing.assert_close(process.score_from_x_0(x_t, t, x_0) * scale, -eps, **bound)
    assert torch.equal(process.x_prev_from_x_0(x_t, t, x_0), process.q_posterior(x_0, x_t, t).mean)


def test_the_score_is_the_gradient_of_the_log_density():
    process = linear(1000)
    t, (x_0, x_t) = torch.tensor([0, 10, 500, 999]), images((4, 3), torch.float64, 0)
    x_t.requires_grad_()
    (gradient,) = torch.autograd.grad(process.q_marginal(x_0, t).log_prob(x_t).sum(), x_t)
    torch.testing.assert_close(process.score_from_x_0(x_t, t, x_0), gradient, rtol=1e-11, atol=1e-11)


# The forward process.


@pytest.mark.parametrize("process", [linear(1000), reaching(10), GaussianDiffusion(schedules.jsd(50))], ids=repr)
def test_single_steps_pushed_through_mean_and_variance_give_the_marginal(process):
    """x_t = a x_{t-1} + b noise turns a mean m into a m and a variance v into a^2 v + b^2. q_step shows a and b."""
    zero, one = column(0, process), column(1, process)
    a = process.q_step(one, all_steps(process), zero).flatten().tolist()
    b = process.q_step(zero, all_steps(process), one).flatten().tolist()
    marginal = process.q_marginal(one, all_steps(process))
    mean, var = 1.0, 0.0
    for t in range(process.T):
        mean, var = a[t] * mean, a[t] ** 2 * var + b[t] ** 2
        assert marginal.mean[t].item() == pytest.approx(mean, rel=1e-12, abs=0)
        assert marginal.log_var[t].exp().item() == pytest.approx(var, rel=1e-12, abs=0)


def test_simulated_steps_have_the_moments_of_the_marginal(device):
    """A sample mean has the standard error sqrt(var / n), a sample variance var sqrt(2 / n)."""
    process, n = GaussianDiffusion(schedules.linear_scaled(50)).to(device), 20_000
    x = x_0 = torch.full((n, 1), 0.7, device=device)
    for i in range(50):
        t = torch.full((n,), i, device=device)
        x = process.q_step(x, t, torch.randn(n, 1).to(device))
        mean, var = process.alphas_bar[i].sqrt() * 0.7, 1 - process.alphas_bar[i]
        assert abs(x.double().mean() - mean) < 5 * (var / n).sqrt()
        assert abs(x.double().var() - var) < 5 * var * math.sqrt(2 / n)
    assert torch.equal(x_0, torch.full_like(x_0, 0.7))


def test_q_sample_draws_from_the_marginal():
    process, t, (x_0, noise) = linear(1000), torch.tensor([0, 10, 999]), images((3, 4), torch.float64, 0)
    torch.testing.assert_close(
        process.q_sample(x_0, t, noise), process.q_marginal(x_0, t).sample(noise), rtol=1e-13, atol=1e-15
    )


def test_noised_is_q_sample_with_all_that_went_into_it():
    process, t, (x_0, noise) = linear(1000), torch.tensor([0, 10, 999]), images((3, 4), torch.float64, 0)
    drawn = process.noised(x_0, t, noise)
    assert isinstance(drawn, Noised) and Noised._fields == ("x_0", "t", "noise", "x_t")
    assert drawn.x_0 is x_0 and drawn.t is t and drawn.noise is noise
    first, second, third, fourth = drawn  # as a loss takes it apart
    assert first is x_0 and second is t and third is noise and fourth is drawn.x_t
    a = torch.cumprod(1 - process.betas, 0)[t][:, None]
    torch.testing.assert_close(drawn.x_t, a.sqrt() * x_0 + (1 - a).sqrt() * noise, rtol=1e-12, atol=1e-14)
    assert torch.equal(drawn.x_t, process.q_sample(x_0, t, noise))


@pytest.mark.parametrize("dtype", DTYPES)
def test_noised_draws_the_noise_from_its_generator(dtype, device):
    process = copy.deepcopy(linear(10)).to(device)
    x_0, t = torch.zeros(2000, 3, dtype=dtype, device=device), torch.full((2000,), 4, device=device)
    before = torch.get_rng_state()
    one, again, other = (process.noised(x_0, t, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.noise, again.noise) and torch.equal(one.x_t, again.x_t)
    assert not torch.equal(one.noise, other.noise)
    assert one.noise.dtype == one.x_t.dtype == dtype and one.x_t.device.type == device.type
    # Standard normal: mean and variance of n numbers have the standard errors sqrt(1 / n) and sqrt(2 / n).
    n = one.noise.numel()
    assert abs(one.noise.double().mean()) < 5 * n**-0.5 and abs(one.noise.double().var() - 1) < 5 * (2 / n) ** 0.5
    std = (1 - torch.cumprod(1 - linear(10).betas.cpu(), 0)[4]).sqrt()
    rtol = max(2 * torch.finfo(dtype).eps, 1e-13)  # 1 - a has lost some digits of float64
    torch.testing.assert_close(one.x_t.double(), std.to(device) * one.noise.double(), rtol=rtol, atol=0)


def test_noised_without_a_generator_draws_from_pytorchs_own():
    process, x_0, t = linear(10), torch.zeros(3, 4), torch.tensor([0, 3, 9])
    torch.manual_seed(3)
    drawn = process.noised(x_0, t)
    torch.manual_seed(3)
    assert torch.equal(drawn.noise, torch.randn(3, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_log_variance_is_computed_before_it_is_rounded(dtype):
    """Late in the chain it is -alphas_bar, 4e-5: the logarithm of a rounded number near 1 would miss it by 6e-8."""
    process = linear(1000)
    log_var = process.q_marginal(torch.zeros(1000, 1, dtype=dtype), all_steps(process)).log_var
    expected = torch.log(-torch.expm1(process.log_alphas_bar))[:, None]
    work = torch.promote_types(dtype, torch.float32)
    assert log_var.dtype == work
    rtol = torch.finfo(work).eps if work == torch.float32 else 1e-11  # float64 itself: EPS / 4e-5
    torch.testing.assert_close(log_var.double(), expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("t", [1, 5, 9])
def test_a_pair_has_the_joint_distribution_of_two_steps(t):
    """x_t = sqrt(alpha_t) x_{t-1} + sqrt(beta_t) z, so given x_0 the covariance is sqrt(alpha_t) Var(x_{t-1}).

    The sample covariance of two Gaussians has the standard error sqrt((v w + c^2) / n).
    """
    process, n = reaching(10), 50_000
    steps, x_0 = torch.full((n,), t), torch.full((n, 1), 0.5, dtype=torch.float64)
    x_prev, x_t = process.q_sample_pair(x_0, steps)
    v, w = 1 - process.alphas_bar[t - 1], 1 - process.alphas_bar[t]
    c = process.alphas[t].sqrt() * v
    sample = torch.cov(torch.cat([x_prev, x_t], 1).T)
    assert abs(x_prev.mean() - process.alphas_bar[t - 1].sqrt() / 2) < 5 * (v / n).sqrt()
    assert abs(x_t.mean() - process.alphas_bar[t].sqrt() / 2) < 5 * (w / n).sqrt()
    assert abs(sample[0, 0] - v) < 5 * v * math.sqrt(2 / n)
    assert abs(sample[1, 1] - w) < 5 * w * math.sqrt(2 / n)
    assert abs(sample[0, 1] - c) < 5 * torch.sqrt((v * w + c**2) / n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pair_at_the_first_step_begins_at_x_0(dtype):
    (x_0,) = images((4, 1, 2, 2), dtype, 0, count=1)
    x_prev, x_t = linear(10).q_sample_pair(x_0, torch.tensor([0, 3, 0, 9]))
    assert x_prev.dtype == x_t.dtype == dtype
    assert torch.equal(x_prev[[0, 2]], x_0[[0, 2]]) and not torch.equal(x_prev[[1, 3]], x_0[[1, 3]])
    assert not torch.equal(x_t[[0, 2]], x_0[[0, 2]])


def test_a_pair_follows_its_generator_and_is_the_same_on_every_device(device):
    x_0, t = torch.zeros(3, 4, device=device), torch.tensor([0, 3, 9], device=device)
    process = copy.deepcopy(linear(10)).to(device)
    pair = process.q_sample_pair(x_0, t, generator=torch.Generator().manual_seed(5))
    expected = linear(10).q_sample_pair(x_0.cpu(), t.cpu(), generator=torch.Generator().manual_seed(5))
    for ours, theirs in zip(pair, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-6, atol=1e-6)


# The posterior.


def bayes_on_a_grid(alpha_bar_prev, alpha_bar, x_0, x_t):
    """Mean and variance of q(x_{t-1} | x_0) q(x_t | x_{t-1}), normalised by a sum over a fine grid.

    The grid spans ten standard deviations of the first factor. A sum of Gaussian values converges faster than every
    power of the spacing, here under a hundredth of either standard deviation.
    """
    alpha = alpha_bar / alpha_bar_prev
    prior_mean, prior_std = alpha_bar_prev**0.5 * x_0, (1 - alpha_bar_prev) ** 0.5
    x = np.linspace(prior_mean - 10 * prior_std, prior_mean + 10 * prior_std, 20_001)
    log_p = -((x - prior_mean) ** 2) / (2 * prior_std**2) - (x_t - alpha**0.5 * x) ** 2 / (2 * (1 - alpha))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = (p * x).sum()
    return mean, (p * (x - mean) ** 2).sum()


CHAINS = {
    "linear": linear(1000),
    "four large steps": GaussianDiffusion(schedules.vp(4)),
    "respaced": linear(1000).respaced(spacing.trailing(1000, 10)),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 1.0])
def test_the_posterior_is_bayes_rule(name, place):
    process = CHAINS[name]
    i = 1 + round(place * (process.T - 2))  # from the second step to the last
    alphas_bar = np.cumprod(1 - process.betas.numpy())
    x_0 = 0.6
    x_t = alphas_bar[i] ** 0.5 * x_0 + 0.7 * (1 - alphas_bar[i]) ** 0.5
    mean, var = bayes_on_a_grid(alphas_bar[i - 1], alphas_bar[i], x_0, x_t)
    t, (x_0, x_t) = torch.tensor([i]), torch.tensor([[[x_0]], [[x_t]]], dtype=torch.float64)
    posterior = process.q_posterior(x_0, x_t, t)
    assert posterior.mean.item() == pytest.approx(mean, rel=1e-10, abs=1e-10)
    assert posterior.log_var.exp().item() == pytest.approx(var, rel=1e-10, abs=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_posterior_of_the_first_step_is_x_0(dtype):
    x_0, x_t = images((3, 1, 2, 2), dtype, 0)
    posterior = linear(10).q_posterior(x_0, x_t, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(posterior.mean, x_0)
    assert posterior.log_var.shape == (3, 1, 1, 1) and (posterior.log_var == -math.inf).all()
    assert torch.equal(posterior.sample(), x_0)


def test_the_posterior_is_what_the_pair_says_of_x_prev():
    """Regression of x_{t-1} on x_t given x_0: slope Cov / Var(x_t), residual Var - Cov^2 / Var(x_t)."""
    process, t = linear(1000), torch.arange(1, 1000)
    v, w = (1 - process.alphas_bar)[:-1], (1 - process.alphas_bar)[1:]
    c = process.alphas[1:].sqrt() * v
    x_0, x_t = images((999, 1), torch.float64, 0)
    centred = x_t - process.alphas_bar[1:, None].sqrt() * x_0
    mean = process.alphas_bar[:-1, None].sqrt() * x_0 + (c / w)[:, None] * centred
    posterior = process.q_posterior(x_0, x_t, t)
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(posterior.log_var.exp().flatten(), v - c**2 / w, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("t", [0, 1, 20, 500, 999])
def test_the_posterior_is_the_step_of_diffusers(t):
    """Their formulas on our float64 table. They form 1 - alphas_bar, which loses EPS / 1e-4."""
    process, (x_0, x_t) = linear(1000), images((4, 3), torch.float64, 0)
    scheduler = DDPMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.alphas_cumprod = process.alphas_bar
    noise = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theirs = scheduler.step(x_0, t, x_t, generator=torch.Generator().manual_seed(1)).prev_sample
    ours = process.q_posterior(x_0, x_t, torch.full((4,), t)).sample(noise)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


# DDIM's family of posteriors.


@pytest.mark.parametrize(
    "process",
    [linear(1000), reaching(4), GaussianDiffusion(schedules.jsd(10)), GaussianDiffusion(schedules.constant(20, 1e-8))],
    ids=repr,
)
def test_ddim_with_eta_1_is_the_posterior(process):
    """One Gaussian, once through eps and once through x_t: the means agree to EPS, or to 1e-11 of its std, 7e-5."""
    t, (x_0, eps) = all_steps(process), images((process.T, 3), torch.float64, 0)
    ddim = process.q_posterior_ddim(x_0, eps, t, 1.0)
    posterior = process.q_posterior(x_0, process.q_sample(x_0, t, eps), t)
    torch.testing.assert_close(ddim.log_var, posterior.log_var, rtol=0, atol=0)
    atol = 8 * EPS + 1e-11 * process.posterior_var[1:].min().sqrt().item()
    torch.testing.assert_close(ddim.mean, posterior.mean, rtol=8 * EPS, atol=atol)


def test_ddim_with_eta_0_is_deterministic():
    process, (x_0, eps) = linear(10), images((10, 3), torch.float64, 0)
    step = process.q_posterior_ddim(x_0, eps, all_steps(process), 0.0)
    assert (step.log_var == -math.inf).all() and torch.equal(step.sample(), step.mean)
    # The same x_0 and the same eps, one step earlier.
    torch.testing.assert_close(step.mean[1:], process.q_sample(x_0[1:], torch.arange(9), eps[1:]))
    assert torch.equal(step.mean[0], x_0[0])


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("process", [linear(1000), reaching(4), GaussianDiffusion(schedules.jsd(10))], ids=repr)
def test_every_eta_keeps_the_marginals(process, eta):
    """eps ~ N(0, 1) gives x_{t-1} the mean sqrt(alphas_bar_prev) x_0 and the variance direction^2 + sigma^2."""
    zero, one, t = column(0, process), column(1, process), all_steps(process)
    mean = process.q_posterior_ddim(one, zero, t, eta).mean.flatten()
    direction, log_var = process.q_posterior_ddim(zero, one, t, eta)
    torch.testing.assert_close(mean, process.alphas_bar_prev.sqrt(), rtol=1e-14, atol=0)
    var = (direction**2 + log_var.exp()).flatten()
    torch.testing.assert_close(var, 1 - process.alphas_bar_prev, rtol=0, atol=1e-14)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("choice", ["leading", "trailing"])
@pytest.mark.parametrize("S", [10, 1000])
def test_a_ddim_step_is_that_of_diffusers(eta, choice, S):
    """Their formulas on our float64 table; they divide by sqrt(alphas_bar), 0.006 at the least."""
    base = linear(1000)
    chain = base.respaced(spacing.SPACINGS[choice](1000, S))
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing=choice)
    scheduler.alphas_cumprod = base.alphas_bar
    scheduler.set_timesteps(S)
    for i in {0, 1, S // 2, S - 1}:
        x_t, eps = images((4, 3), torch.float64, i)
        (noise,) = images((4, 3), torch.float64, i + 1, count=1)
        t = chain.timestep_map[i].item()
        theirs = scheduler.step(eps, t, x_t, eta=eta, variance_noise=noise).prev_sample
        x_0 = base.x_0_from_eps(x_t, torch.full((4,), t), eps)
        ours = chain.q_posterior_ddim(x_0, eps, torch.full((4,), i), eta).sample(noise)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_must_lie_between_0_and_1(eta):
    x, t = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=rf"eta must lie in 0\.\.1, got {eta}"):
        linear(10).q_posterior_ddim(x, x, t, eta)


# Shorter chains.

RESPACED = [
    (1000, "trailing", 10),
    (1000, "leading", 300),
    (1000, "quadratic", 50),
    (1000, "linspace", 1000),
    (1000, "trailing", 1),
    (4000, "trailing", 1),
    (4000, "trailing", 2),
    (4000, "ddim", 25),
]


@pytest.mark.parametrize("T, choice, S", RESPACED)
def test_a_respaced_chain_has_the_alphas_bar_of_its_base(T, choice, S):
    """Relatively too: alphas_bar_T is 3e-18 for T = 4000, and 1 - beta of a large step would round it away."""
    base, steps = linear(T), spacing.SPACINGS[choice](T, S)
    chain = base.respaced(steps)
    assert chain.T == len(steps) and chain.base is base and chain.timestep_map.tolist() == steps
    torch.testing.assert_close(chain.alphas_bar, base.alphas_bar[steps], rtol=0, atol=1e-14)
    torch.testing.assert_close(chain.alphas_bar, base.alphas_bar[steps], rtol=1e-12, atol=0)


def test_a_respaced_chain_may_take_steps_that_leave_nothing_in_float64():
    """constant(4000) keeps 3e-18 of the image at half way: 1 - 3e-18 is 1, but the step does not erase the image."""
    base = GaussianDiffusion(schedules.constant(4000))
    chain = base.respaced([1999, 3999])
    torch.testing.assert_close(chain.alphas_bar, base.alphas_bar[[1999, 3999]], rtol=1e-12, atol=0)


def test_a_respaced_chain_has_the_marginals_of_its_base():
    base = linear(1000)
    chain = base.respaced(spacing.trailing(1000, 20))
    (x_0,) = images((20, 3), torch.float64, 0, count=1)
    ours, theirs = chain.q_marginal(x_0, all_steps(chain)), base.q_marginal(x_0, chain.timestep_map)
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.log_var, theirs.log_var, rtol=1e-10, atol=0)


def test_betas_at_the_chosen_steps_would_add_far_too_little_noise():
    base, steps = linear(1000), spacing.trailing(1000, 10)
    assert GaussianDiffusion(base.betas[steps]).alpha_bar_T > 0.8
    assert base.respaced(steps).alpha_bar_T == pytest.approx(base.alpha_bar_T)


def test_all_steps_give_the_same_chain():
    base = linear(100)
    chain = base.respaced(range(100))
    for name, table in base.named_buffers():
        torch.testing.assert_close(getattr(chain, name), table, rtol=1e-12, atol=1e-13)


def test_respacing_twice_keeps_the_first_base_and_its_steps():
    base = linear(1000)
    chain = base.respaced(spacing.leading(1000, 100)).respaced([0, 5, 50, 99])
    assert chain.base is base and base.base is base
    assert chain.timestep_map.tolist() == [0, 50, 500, 990]
    torch.testing.assert_close(chain.alphas_bar, base.alphas_bar[[0, 50, 500, 990]], rtol=1e-13, atol=0)


def test_a_respaced_chain_keeps_a_terminal_snr_of_zero():
    chain = GaussianDiffusion(schedules.zero_terminal_snr(schedules.linear(100))).respaced(spacing.trailing(100, 7))
    assert chain.alphas_bar[-1] == 0 and chain.betas[-1] == 1


def test_a_respaced_chain_does_not_own_its_base():
    chain = linear(100).respaced([9, 99])
    assert not list(chain.children()) and not chain.state_dict()


def test_a_respaced_chain_lives_on_the_device_of_its_base(device):
    chain = copy.deepcopy(linear(100)).to(device).respaced(torch.tensor([9, 99], device=device))
    assert all(table.device.type == device.type for table in chain.buffers())


def test_a_moved_chain_takes_a_copy_of_its_base_along():
    base = GaussianDiffusion(schedules.linear(10))
    chain = base.respaced([4, 9]).to("meta")
    assert chain.base.betas.device == chain.betas.device == torch.device("meta")
    assert base.betas.device == torch.device("cpu")


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_base_and_map(clone):
    chain = clone(linear(100).respaced([9, 99]))
    assert chain.timestep_map.tolist() == [9, 99] and chain.base.T == 100
    assert chain.half().timestep_map.tolist() == [9, 99] and chain.alphas_bar.dtype == torch.float64


@pytest.mark.parametrize(
    "timesteps, message",
    [
        ([], r"increasing integers, at least one, got \[\]"),
        ([3, 3], r"increasing integers, at least one, got \[3, 3\]"),
        ([5, 2], r"increasing integers, at least one, got \[5, 2\]"),
        ([0.0, 1.0], r"increasing integers, at least one, got \[0.0, 1.0\]"),
        ([[0, 1]], r"increasing integers, at least one, got \[\[0, 1\]\]"),
        (torch.tensor(3), "increasing integers, at least one, got"),
        ([-1, 2], r"lie in 0\.\.9, got -1 to 2"),
        ([0, 10], r"lie in 0\.\.9, got 0 to 10"),
    ],
)
def test_timesteps_that_are_no_chain_are_refused(timesteps, message):
    with pytest.raises(ValueError, match=message):
        linear(10).respaced(timesteps)


def test_a_mask_is_no_list_of_timesteps():
    with pytest.raises(ValueError, match="increasing integers"):
        linear(2).respaced(torch.tensor([False, True]))


# From alphas_bar.


@pytest.mark.parametrize("betas", [schedules.linear(1000), schedules.vp(4), schedules.jsd(10), schedules.linear(1)])
def test_from_alphas_bar_finds_the_betas(betas):
    """alphas_bar is rounded by EPS / 2 of itself, and beta is 1 minus a ratio of two."""
    process = GaussianDiffusion.from_alphas_bar(torch.cumprod(1 - betas, 0))
    torch.testing.assert_close(process.betas, betas, rtol=0, atol=4 * EPS)


def test_from_alphas_bar_takes_float32_and_any_device(device):
    assert GaussianDiffusion.from_alphas_bar(torch.tensor([0.5, 0.25], device=device)).betas.tolist() == [0.5, 0.5]


def test_log_alphas_are_named():
    betas = schedules.linear(10)
    with pytest.raises(TypeError, match="positional"):
        GaussianDiffusion(betas, torch.log1p(-betas))


@pytest.mark.parametrize("alphas_bar", [[], [1.0, 0.5], [0.5, 0.6], [0.5, -0.1], [1.5], [math.nan], [[0.5, 0.2]], 0.5])
def test_alphas_bar_that_are_no_chain_are_refused(alphas_bar):
    with pytest.raises(ValueError, match="alphas_bar must|at least one step"):
        GaussianDiffusion.from_alphas_bar(torch.tensor(alphas_bar))


# What describe says.


@pytest.mark.parametrize(
    "betas",
    [schedules.linear(1000), schedules.cosine(1000), schedules.jsd(10), schedules.constant(1, 1e-8), [1e-17]],
    ids=["linear", "cosine", "jsd", "tiny", "below EPS"],
)
@pytest.mark.filterwarnings("ignore::ddpm_lesson.process.PriorNotReachedWarning")
def test_describe_against_fifty_digits(betas):
    """L_T = KL(N(sqrt(a) x_0, 1 - a) || N(0, 1)) = (1 - a + a x_0^2 - 1 - log(1 - a)) / 2, and x_0^2 = 1."""
    betas = torch.as_tensor(betas, dtype=torch.float64)
    with mp.workdps(50):
        a = mp.fprod(1 - mp.mpf(beta) for beta in betas.tolist())
        expected = float(a), float(a / (1 - a)), float(-mp.log(1 - a, 2) / 2)
    found = GaussianDiffusion(betas).describe()
    assert found == Description(len(betas), *(pytest.approx(value, rel=1e-12, abs=0) for value in expected))
    assert math.copysign(1, found.prior_bits) == 1


def test_describe_agrees_with_the_divergence_from_the_prior():
    process = linear(200)
    last, one = torch.tensor([199]), torch.ones(1, 1, dtype=torch.float64)
    marginal = process.q_marginal(one, last)
    nats = marginal.kl(type(marginal)(torch.zeros_like(one), torch.zeros_like(one))).item()
    with pytest.warns(PriorNotReachedWarning):
        assert process.describe().prior_bits == pytest.approx(nats / math.log(2))


BORDER = 1 - 2**-0.02  # alphas_bar_T at which L_T is 0.01 bits


@pytest.mark.parametrize("alpha_bar, warns", [(BORDER * (1 + 1e-9), True), (BORDER * (1 - 1e-9), False), (0.0, False)])
def test_describe_warns_exactly_where_more_than_a_hundredth_of_a_bit_is_left(alpha_bar, warns):
    process = GaussianDiffusion.from_alphas_bar(torch.tensor([0.5, alpha_bar], dtype=torch.float64))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        process.describe()
    assert [w.category for w in caught] == [PriorNotReachedWarning] * warns
    assert all(w.filename == __file__ for w in caught)


def test_the_warning_says_what_is_left_and_what_helps():
    text = "T = 200 .*alphas_bar_T = 0.132.*0.102 bits.*linear_scaled.*cosine"
    with pytest.warns(PriorNotReachedWarning, match=text):
        linear(200).describe()


# Devices, compilation and the defaults of torch.


@pytest.mark.parametrize("name", FORMULAS)
def test_every_method_works_on_every_device(name, device):
    process, t, (x, y) = copy.deepcopy(linear(10)).to(device), torch.tensor([0, 3, 9]), images((3, 4), torch.float32, 0)
    out = FORMULAS[name].call(process, x.to(device), t.to(device), y.to(device))
    assert out.device.type == device.type
    torch.testing.assert_close(out.cpu(), FORMULAS[name].call(linear(10), x, t, y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_method_compiles_into_one_graph(name):
    process, t, (x, y) = linear(10), torch.tensor([0, 3, 9]), images((3, 4), torch.float32, 0)
    compiled = torch.compile(FORMULAS[name].call, fullgraph=True, backend="eager")
    assert torch.equal(compiled(process, x, t, y), FORMULAS[name].call(process, x, t, y))


def test_the_defaults_of_torch_do_not_matter():
    t, (x, y) = torch.tensor([0, 3, 9]), images((3, 4), torch.float16, 0)
    base = linear(10)
    expected = base.q_sample(x, t, y)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            chain = base.respaced([0, 3, 9])
            again = GaussianDiffusion.from_alphas_bar(base.alphas_bar)
            samples = [base.q_sample(x, t, y), again.q_sample(x, t, y), base.q_sample_pair(x, t)[0]]
    finally:
        torch.set_default_dtype(torch.float32)
    assert chain.timestep_map.tolist() == [0, 3, 9] and chain.betas.dtype == torch.float64
    assert torch.equal(samples[0], expected) and torch.equal(samples[1], expected)
    assert samples[2].device.type == "cpu" and samples[2].dtype == torch.float16


# Bad input.


@pytest.mark.parametrize("name", ALL_METHODS)
@pytest.mark.parametrize(
    "t, error, message",
    [
        (torch.tensor([0, 10]), ValueError, r"t must lie in 0\.\.9, got values from 0 to 10"),
        (torch.tensor([-1, 3]), ValueError, r"t must lie in 0\.\.9, got values from -1 to 3"),
        (torch.tensor([0.0, 1.0]), TypeError, r"t must hold integer indices \(int64\), got torch.float32"),
        (torch.tensor([True, False]), TypeError, r"t must hold integer indices \(int64\), got torch.bool"),
        (torch.tensor([0, 1, 2]), ValueError, r"t must be \(B,\).*\(2, 3\), got t of shape \(3,\)"),
        (torch.tensor([[0, 1]]), ValueError, r"t must be \(B,\).*\(2, 3\), got t of shape \(1, 2\)"),
        (torch.tensor(0), ValueError, r"t must be \(B,\).*\(2, 3\), got t of shape \(\)"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), ValueError, "one device, got t on meta"),
    ],
    ids=["too large", "negative", "float", "bool", "batch", "two axes", "no axis", "device"],
)
def test_steps_that_do_not_fit_are_refused(name, t, error, message):
    x = torch.zeros(2, 3)
    with pytest.raises(error, match=message):
        ALL_METHODS[name](linear(10), x, t, x)


@pytest.mark.parametrize("name", ALL_METHODS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_integer_images_are_refused(name, dtype):
    x = torch.zeros(2, 3, dtype=dtype)
    with pytest.raises(TypeError, match=rf"images must be floating point in \[-1, 1\], got {dtype}"):
        ALL_METHODS[name](linear(10), x, torch.tensor([0, 1]), x)


@pytest.mark.parametrize("name", FORMULAS)
def test_images_of_two_shapes_are_refused(name):
    with pytest.raises(ValueError, match=r"images must have one shape, got \(2, [31]\) and \(2, [31]\)"):
        FORMULAS[name].call(linear(10), torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, 1))


@pytest.mark.parametrize("name", FORMULAS)
def test_images_on_another_device_are_refused(name):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one device, got .*meta"):
        FORMULAS[name].call(linear(10), x, torch.tensor([0, 1]), x.to("meta"))


@pytest.mark.parametrize("method", ["x_0_from_eps", "x_0_from_score"])
def test_x_0_cannot_come_from_eps_where_nothing_of_it_is_left(method):
    process, x = GaussianDiffusion(schedules.zero_terminal_snr(schedules.linear(10))), torch.ones(2, 3)
    with pytest.raises(ValueError, match="at t = 9: alphas_bar is 0.*predict v or xstart, or take a schedule"):
        getattr(process, method)(x, torch.tensor([3, 9]), x)
    with pytest.raises(ValueError, match="at t = 9: alphas_bar is 0"):
        getattr(process, method)(x, 9, x)
    assert getattr(process, method)(x, 8, x).isfinite().all()
    assert getattr(process, method)(x, torch.tensor([3, 8]), x).isfinite().all()


def test_x_0_cannot_come_from_eps_where_alphas_bar_underflows_either():
    """0.01^163 is below the smallest float64, long before the last step."""
    process, x = GaussianDiffusion(schedules.constant(200, 0.99)), torch.ones(2, 3)
    with pytest.raises(ValueError, match="at t = 180: alphas_bar is 0"):
        process.x_0_from_eps(x, torch.tensor([3, 180]), x)


@pytest.mark.parametrize("quantity", ["v", "x_prev"])
def test_x_0_can_come_from_v_and_x_prev_where_alphas_bar_is_0(quantity):
    process, t = GaussianDiffusion(schedules.zero_terminal_snr(schedules.linear(10))), torch.tensor([9])
    x_0, noise = images((1, 3), torch.float64, 0)
    x_t = process.q_sample(x_0, t, noise)
    assert torch.equal(x_t, noise)
    y = FORMULAS[f"{quantity}_from_x_0"].call(process, x_t, t, x_0)
    # x_prev keeps sqrt(alphas_bar_prev), a fifteenth, of x_0.
    torch.testing.assert_close(FORMULAS[WAYS_BACK[quantity]].call(process, x_t, t, y), x_0, rtol=1e-14, atol=1e-14)


# What the post gets wrong.


def test_erratum_05_x_0_from_x_prev_is_exact_first_and_ill_conditioned_late():
    """An error in x_prev is multiplied by 1 / coef1. At the last step float32 loses what v keeps."""
    process, (x_0, noise) = linear(1000), images((1, 1000), torch.float32, 0)
    gain = 1 / process.posterior_mean_coef1
    assert [f"{gain[t]:.3g}" for t in (1, 100, 500)] == ["1.83", "52.9", "327"] and f"{gain[999]:.0f}" == "7791"

    def error(t, forth, back):
        t = torch.tensor([t])
        x_t = process.q_sample(x_0, t, noise)
        return (back(x_t, t, forth(x_t, t, x_0)) - x_0).abs().max()

    assert error(0, process.x_prev_from_x_0, process.x_0_from_x_prev) == 0
    assert error(999, process.x_prev_from_x_0, process.x_0_from_x_prev) > 3e-4
    assert error(999, process.v_from_x_0, process.x_0_from_v) < 1e-6


def post_x_0_from_eps(process, x_t, t, eps):
    recip, recipm1 = torch.sqrt(1 / process.alphas_bar), torch.sqrt(1 / process.alphas_bar - 1)
    return extract(recip, t, x_t.shape) * x_t - extract(recipm1, t, x_t.shape) * eps


def test_erratum_06_an_error_in_eps_grows_157_fold_and_beta_1_gives_no_number():
    process, t, (x_0, eps) = linear(1000), torch.tensor([999]), images((1, 3), torch.float64, 0)
    x_t = process.q_sample(x_0, t, eps)
    moved = process.x_0_from_eps(x_t, t, eps + 0.01) - process.x_0_from_eps(x_t, t, eps)
    torch.testing.assert_close(moved, torch.full_like(moved, -1.574), rtol=1e-4, atol=0)
    ended = GaussianDiffusion(schedules.zero_terminal_snr(schedules.linear(1000)))
    assert not post_x_0_from_eps(ended, eps, t, eps).isfinite().any()
    with pytest.raises(ValueError, match="alphas_bar is 0"):
        ended.x_0_from_eps(eps, t, eps)


@pytest.mark.parametrize("T, left", [(10, "0.904"), (50, "0.603"), (100, "0.364"), (200, "0.132"), (1000, "4.04e-05")])
def test_erratum_12_the_same_betas_for_every_T_do_not_reach_the_prior(T, left):
    process = linear(T)
    assert f"{process.alpha_bar_T:.3g}" == left
    if T == 1000:
        process.describe()
    else:
        with pytest.warns(PriorNotReachedWarning, match=f"alphas_bar_T = {left}"):
            process.describe()
    if T > 20:  # below, scaling would ask for beta = 1; see test_linear_scaled_refuses_chains_that_would_need_beta_1
        assert GaussianDiffusion(schedules.linear_scaled(T)).describe().prior_bits < 1e-4


def test_erratum_13_a_chain_of_one_step_works():
    """The post builds it and fails in sampling: its posterior_var[1:2] is empty."""
    process, t, (x_0, eps) = linear(1), torch.zeros(4, dtype=torch.int64), images((4, 3), torch.float64, 0)
    assert process.posterior_var[1:2].numel() == 0
    x_t = process.q_sample(x_0, t, eps)
    torch.testing.assert_close(process.x_0_from_eps(x_t, t, eps), x_0)
    assert torch.equal(process.q_posterior(x_0, x_t, t).sample(), x_0)
    assert torch.equal(process.q_posterior_ddim(x_0, eps, t, 1.0).sample(), x_0)
    assert torch.equal(process.q_sample_pair(x_0, t)[0], x_0)
    assert process.respaced([0]).alphas_bar.item() == pytest.approx(1 - 1e-4, rel=1e-15)


def test_erratum_29_without_the_roots_the_variance_of_x_t_is_not_kept():
    """For data of variance 1, alphas_bar x_0 + (1 - alphas_bar) noise drops to variance 1/2; ours stays at 1."""
    process = GaussianDiffusion(schedules.linear(1000))
    t, one, zero = torch.arange(1000), torch.ones(1000, 1).double(), torch.zeros(1000, 1).double()
    kept = process.q_sample(one, t, zero) ** 2 + process.q_sample(zero, t, one) ** 2
    torch.testing.assert_close(kept, one, rtol=1e-12, atol=0)
    roots_lost = process.alphas_bar**2 + (1 - process.alphas_bar) ** 2
    assert roots_lost.min().item() == pytest.approx(0.5, abs=1e-3)


def test_erratum_27_the_noise_goes_through_its_own_inverse():
    """The post shows the inverse of x_prev as the way from the noise: noise - x_prev, times 327 at t = 500."""
    process, t, (x_0, eps) = linear(1000), torch.tensor([500]), images((1, 8), torch.float64, 0)
    x_t = process.q_sample(x_0, t, eps)
    torch.testing.assert_close(process.x_0_from_eps(x_t, t, eps), x_0)
    off = process.x_0_from_x_prev(x_t, t, eps) - x_0
    torch.testing.assert_close(off, 327.0 * (eps - process.q_posterior(x_0, x_t, t).mean), rtol=1e-3, atol=0)
    assert off.abs().max() > 100


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_erratum_31_ddims_forward_process_is_not_markov(eta):
    """DDIM Eq. 8: below eta = 1, q(x_t | x_{t-1}, x_0) depends on x_0, too.

    x_t and x_{t-1} are Gaussian given x_0, with the covariance B (1 - a), where B is the weight of x_t in the mean of
    q_sigma(x_{t-1} | x_t, x_0). So E[x_t | x_{t-1}, x_0] = sqrt(a) x_0 + k (x_{t-1} - sqrt(a') x_0) with
    k = B (1 - a) / (1 - a'), and x_0 has the weight sqrt(a) - k sqrt(a'). For eta = 0, k^2 = (1 - a) / (1 - a').
    """
    process = GaussianDiffusion(schedules.linear(10, 0.1, 0.5))
    t, one = torch.arange(1, 10), torch.ones(9, 1, dtype=torch.float64)
    a, a_prev = (column[1:, None] for column in (process.alphas_bar, process.alphas_bar_prev))
    of_x_t = process.q_posterior_ddim(0 * one, one, t, eta).mean / (1 - a).sqrt()
    k = of_x_t * (1 - a) / (1 - a_prev)
    of_x_0 = a.sqrt() - k * a_prev.sqrt()
    if eta == 1:
        torch.testing.assert_close(of_x_0, 0 * one, rtol=0, atol=1e-12)  # DDPM's, which is Markov
    else:
        assert of_x_0.max() < -0.01
    if eta == 0:
        torch.testing.assert_close(k, ((1 - a) / (1 - a_prev)).sqrt(), rtol=1e-12, atol=0)


# The device meta, which holds shapes and no numbers.


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_on_the_device_meta_a_schedule_is_refused_in_words(name):
    with torch.device("meta"), pytest.raises(ValueError, match=r"build the process outside of torch.device\('meta'\)"):
        schedules.named(name, 10)


def test_on_the_device_meta_a_process_is_refused_in_words():
    made = (GaussianDiffusion, GaussianDiffusion.from_alphas_bar, schedules.betas_from_alphas_bar)
    for make in made:
        with pytest.raises(ValueError, match=r"must hold numbers, got .* meta: build the process outside of"):
            make(torch.full((3,), 0.1, device="meta"))


def test_a_process_moves_to_the_device_meta_and_comes_back():
    process = GaussianDiffusion(schedules.linear(10))
    with torch.device("meta"):
        there = copy.deepcopy(process).to("meta")
        assert there.q_sample(torch.ones(2, 3), torch.tensor([0, 9]), torch.ones(2, 3)).shape == (2, 3)
    back = there.to_empty(device="cpu")
    assert torch.equal(back.alphas_bar, process.alphas_bar) and torch.equal(back.betas, process.betas)
