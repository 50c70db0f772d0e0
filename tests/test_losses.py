"""Losses against formulas by hand, and against each other through the weights that connect them."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from ddpm_lesson import oracle
from ddpm_lesson.bound import density, discretized, p_from_output, vlb_term
from ddpm_lesson.losses import (
    absolute,
    error_scale,
    huber,
    hybrid_loss,
    kl_loss,
    min_snr,
    p2,
    simple_loss,
    simple_weight,
    squared,
    vlb_weight,
    weight_for,
)
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.predictions import (
    MEAN_TYPES,
    epsilon,
    fixedlarge,
    fixedsmall,
    learned_range,
    make_denoiser,
    velocity,
    xprev,
    xstart,
)
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.schedules import cosine, linear, zero_terminal_snr

BASE = GaussianDiffusion(linear(10, 0.05, 0.6))
T1000 = GaussianDiffusion(linear(1000))
every_mean_type = pytest.mark.parametrize("mean_type", MEAN_TYPES.values(), ids=MEAN_TYPES)


def noised(base=BASE, shape=(10, 3, 4, 4), dtype=torch.float64, device="cpu"):
    """x_0, x_t, t, noise with t = 0, 1, 2, ..., as the losses take them."""
    x_0, noise = (torch.randn(shape, dtype=torch.float64).to(device, dtype) for _ in range(2))
    t = (torch.arange(shape[0]) % base.T).to(device)
    return x_0, base.q_sample(x_0, t, noise), t, noise


# L_simple.


@every_mean_type
def test_erratum_04_the_target_follows_the_mean_type(mean_type):
    # The post fits eps whatever the output means. The right target decodes to the x_0 and noise that made x_t.
    x_0, x_t, t, noise = noised()
    target = {
        "epsilon": noise,
        "xstart": x_0,
        "xprev": BASE.q_posterior(x_0, x_t, t).mean,
        "v": BASE.alphas_bar.sqrt().view(-1, 1, 1, 1) * noise - (1 - BASE.alphas_bar).sqrt().view(-1, 1, 1, 1) * x_0,
    }[mean_type.name]
    output = torch.randn_like(x_0)
    loss = simple_loss(BASE, mean_type, output, x_0, x_t, t, noise)
    torch.testing.assert_close(loss, (output - target) ** 2)
    if mean_type is not epsilon:
        assert not torch.allclose(loss, (output - noise) ** 2)


def test_erratum_15_the_loss_is_not_reduced():
    x_0, x_t, t, noise = noised()
    loss = simple_loss(BASE, epsilon, torch.zeros_like(x_0), x_0, x_t, t, noise)
    assert loss.shape == (10, 3, 4, 4)
    assert loss.mean().item() == pytest.approx(1, abs=5 * (2 / 480) ** 0.5)  # a sum would be 480
    assert loss.sum().item() > 300


def test_errors_by_hand():
    error = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 2.0])
    assert squared(error).tolist() == [9, 1, 0.25, 0, 0.25, 4]
    assert absolute(error).tolist() == [3, 1, 0.5, 0, 0.5, 2]
    assert huber(error).tolist() == [2.5, 0.5, 0.125, 0, 0.125, 1.5]
    assert huber(error, delta=0.5).tolist() == [1.375, 0.375, 0.125, 0, 0.125, 0.875]
    torch.testing.assert_close(huber(error, 0.7), F.huber_loss(error, 0 * error, reduction="none", delta=0.7))


@pytest.mark.parametrize("error, statistic", [(squared, torch.mean), (absolute, torch.median)])
def test_squares_learn_the_mean_and_absolute_values_the_median(error, statistic):
    values = torch.tensor([0.0, 0.0, 1.0, 2.0, 9.0])
    candidates = torch.linspace(0, 9, 9001)
    losses = error(values - candidates[:, None]).mean(1)
    assert candidates[losses.argmin()].item() == pytest.approx(statistic(values).item(), abs=1e-3)


@pytest.mark.parametrize("error", [squared, absolute, huber])
def test_the_error_is_an_argument(error):
    x_0, x_t, t, noise = noised()
    loss = simple_loss(BASE, velocity, 0.5 * x_t, x_0, x_t, t, noise, error=error)
    torch.testing.assert_close(loss, error(velocity.target(BASE, x_0, x_t, t, noise) - 0.5 * x_t))


def test_of_doubled_channels_the_first_half_is_fitted():
    x_0, x_t, t, noise = noised()
    output = torch.cat([noise, torch.randn_like(noise)], 1).requires_grad_()
    loss = simple_loss(BASE, epsilon, output, x_0, x_t, t, noise)
    assert torch.equal(loss, torch.zeros_like(loss))
    (gradient,) = torch.autograd.grad(simple_loss(BASE, xstart, output, x_0, x_t, t, noise).sum(), output)
    assert gradient[:, :3].abs().min() > 0 and torch.equal(gradient[:, 3:], torch.zeros_like(noise))


@pytest.mark.parametrize("shape", [(10, 9, 4, 4), (10, 3, 4), (1, 3, 4, 4), (10, 3, 8, 4)])
def test_output_of_another_shape_is_an_error(shape):
    x_0, x_t, t, noise = noised()
    for loss in (simple_loss, hybrid_loss, partial(kl_loss, variance=fixedlarge)):
        with pytest.raises(ValueError, match=r"must return x_t's shape \(10, 3, 4, 4\), or twice its channels, got \("):
            loss(BASE, epsilon, output=torch.zeros(shape), x_0=x_0, x_t=x_t, t=t, noise=noise)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_mean_type
def test_half_precision_outputs_give_float32_losses(mean_type, dtype):
    x_0, x_t, t, noise = noised(dtype=torch.float32)
    output = torch.randn(10, 6, 4, 4).to(dtype)
    for loss in (simple_loss, hybrid_loss, partial(kl_loss, variance=learned_range)):
        half, single = (
            loss(BASE, mean_type, output=o, x_0=x_0, x_t=x_t, t=t, noise=noise) for o in (output, output.float())
        )
        assert half.dtype == torch.float32
        assert torch.equal(half, single)
    all_half = simple_loss(BASE, mean_type, output, x_0.to(dtype), x_t.to(dtype), t, noise.to(dtype))
    assert all_half.dtype == torch.float32


def test_small_errors_survive_half_precision():
    # An error of 1e-4 squared is 1e-8: below float16's smallest number, 6e-8.
    x = torch.zeros(1, 1)
    loss = simple_loss(BASE, xstart, x.half() + 1e-4, x, x, torch.tensor([0]), x)
    assert loss.item() == pytest.approx(1e-8, rel=1e-2)


# One network, five meanings: equal losses and gradients up to a weight.


def network():
    torch.manual_seed(1)
    return MLP(10, 2, 16, 2).double()


def gradient(loss, model):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])


def converted_loss(model, mean_type, weight, x_0, x_t, t, noise):
    """The network predicts eps; its prediction is converted to the other meaning and judged there."""
    prediction = epsilon.decode(BASE, x_t, t, model(x_t, t))
    output = mean_type.target(BASE, prediction.x_0, x_t, t, prediction.eps)
    return (weight[:, None] * simple_loss(BASE, mean_type, output, x_0, x_t, t, noise)).mean()


@every_mean_type
def test_parameterisations_differ_by_a_weight_alone(mean_type):
    x_0, x_t, t, noise = noised(shape=(500, 2))
    x_0, x_t, t, noise = (part[t >= 1] for part in (x_0, x_t, t, noise))
    model, snr = network(), BASE.snr[t]
    expected = converted_loss(model, epsilon, torch.ones_like(snr), x_0, x_t, t, noise)
    # Written out: eps error = snr * x_0 error, v error = (snr + 1) * x_0 error, mean error = coef1^2 * x_0 error.
    scale = {"epsilon": snr, "xstart": 1, "v": snr + 1, "xprev": BASE.posterior_mean_coef1[t] ** 2}[mean_type.name]
    torch.testing.assert_close(error_scale(BASE, mean_type, t), scale + 0 * snr)
    torch.testing.assert_close(weight_for(BASE, mean_type, t, torch.ones_like(snr)), snr / scale)
    loss = converted_loss(model, mean_type, snr / scale, x_0, x_t, t, noise)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, model), rtol=1e-6, atol=1e-9)
    if mean_type is not epsilon:
        unweighted = converted_loss(model, mean_type, torch.ones_like(snr), x_0, x_t, t, noise)
        assert not torch.allclose(unweighted, expected, rtol=0.05)


def test_the_score_is_a_fifth_parameterisation():
    # score = -eps / sqrt(1 - a), so its squared error is eps error / (1 - a).
    x_0, x_t, t, noise = noised(shape=(500, 2))
    model, var = network(), (1 - BASE.alphas_bar[t])[:, None]
    score = BASE.score_from_x_0(x_t, t, epsilon.decode(BASE, x_t, t, model(x_t, t)).x_0)
    loss = (var * (score - BASE.score_from_x_0(x_t, t, x_0)) ** 2).mean()
    expected = converted_loss(model, epsilon, torch.ones(500), x_0, x_t, t, noise)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, model), rtol=1e-6, atol=1e-9)


def test_a_sampled_x_prev_agrees_in_expected_gradient_only():
    # With a draw x_{t-1} in the place of the posterior mean the loss gains posterior_var, and the gradient of f = w x_t
    # gains 2 (mean - draw) x_t, of mean 0 and variance 4 posterior_var E[x_t^2] = 4 posterior_var. 4 standard errors.
    n, w, var = 20_000, torch.tensor(0.3, dtype=torch.float64, requires_grad=True), BASE.posterior_var[4].item()
    x_0, noise, t = torch.randn(n, 1).double(), torch.randn(n, 1).double(), torch.full((n,), 4)
    x_t = BASE.q_sample(x_0, t, noise)
    gain = (BASE.q_posterior(x_0, x_t, t).sample() - w * x_t) ** 2
    gain = gain - simple_loss(BASE, xprev, w * x_t, x_0, x_t, t, noise)
    assert abs(gain.mean().item() - var) < 4 * gain.std().item() / n**0.5 < var / 4
    (slope,) = torch.autograd.grad(gain.mean(), w)
    assert 0 < abs(slope) < 4 * (4 * var / n) ** 0.5


# Weights.


@pytest.mark.parametrize("variance", [fixedlarge, fixedsmall])
def test_kl_is_the_weighted_eps_error_plus_a_constant(variance):
    # DDPM Eq. 12, and where var is not the posterior's the constant (r - 1 - log r) / 2 with r = posterior_var / var.
    x_0, x_t, t, noise = noised(T1000, (1000, 3))
    x_0, x_t, t, noise = (part[1:] for part in (x_0, x_t, t, noise))
    output = noise + 0.3 * torch.sin(5 * x_t)
    var = {fixedlarge: T1000.betas, fixedsmall: T1000.posterior_var}[variance][t]
    kl = kl_loss(T1000, epsilon, variance, output, x_0, x_t, t, noise) * math.log(2) * 3
    error = simple_loss(T1000, epsilon, output, x_0, x_t, t, noise).sum(1)
    r = T1000.posterior_var[t] / var
    torch.testing.assert_close(kl, vlb_weight(T1000, t, var) * error + 3 * (r - 1 - r.log()) / 2, rtol=1e-6, atol=1e-10)
    assert variance is fixedsmall or (r - 1 - r.log())[0] > 0.05


def test_weight_of_the_bound_is_the_fall_of_the_snr():
    # With the posterior's variance the weight of the x_0 error is (snr(t-1) - snr(t)) / 2 (Kingma et al. 2021).
    t = torch.arange(1, 1000)
    weight = vlb_weight(T1000, t, T1000.posterior_var[t]) * T1000.snr[t]
    torch.testing.assert_close(weight, (T1000.snr[t - 1] - T1000.snr[t]) / 2, rtol=1e-9, atol=0)


def test_min_snr_in_every_parameterisation():
    # Hang et al. 2023: min(snr, 5) for x_0, over snr for eps, over snr + 1 for v.
    t = torch.arange(1000)
    snr, smaller = T1000.snr, T1000.snr.clamp(max=5)
    torch.testing.assert_close(min_snr(snr), smaller / snr)
    torch.testing.assert_close(weight_for(T1000, xstart, t, min_snr(snr)), smaller)
    torch.testing.assert_close(weight_for(T1000, velocity, t, min_snr(snr)), smaller / (snr + 1))
    torch.testing.assert_close(weight_for(T1000, epsilon, t, min_snr(snr)), min_snr(snr))
    torch.testing.assert_close(min_snr(snr, gamma=1.0), torch.minimum(1 / snr, torch.ones(())))


def test_weights_are_finite_where_no_signal_is_left():
    base = GaussianDiffusion(zero_terminal_snr(linear(1000)))
    assert base.snr[-1] == 0
    t = torch.tensor([998, 999])
    for weight in (simple_weight, min_snr, p2):
        assert weight(base.snr[t]).tolist() == pytest.approx([1, 1], rel=1e-3)
        for mean_type in (xstart, velocity, xprev):
            assert weight_for(base, mean_type, t, weight(base.snr[t]))[1] == 0  # x_t says nothing of x_0 there


def test_p2_by_hand():
    snr = torch.tensor([0.0, 1.0, 3.0])
    assert p2(snr).tolist() == [1, 0.5, 0.25]
    assert p2(snr, gamma=0.5).tolist() == pytest.approx([1, 0.5**0.5, 0.5])
    assert p2(snr, gamma=2.0, k=2.0).tolist() == pytest.approx([1 / 4, 1 / 9, 1 / 25])


def test_simple_weight_is_1_everywhere():
    assert torch.equal(simple_weight(T1000.snr), torch.ones(1000, dtype=torch.float64))


@every_mean_type
@pytest.mark.parametrize("schedule", [linear, cosine])
def test_error_scale_measures_errors(mean_type, schedule, device):
    # Move x_0 by d at a fixed x_t, and see by how much the output moves.
    base, d = GaussianDiffusion(schedule(1000)).to(device), 0.25
    x_0, x_t, t, _ = noised(base, (1000, 1), device=device)
    here, there = (mean_type.target(base, x, x_t, t, base.eps_from_x_0(x_t, t, x)) for x in (x_0, x_0 + d))
    measured = (there - here)[:, 0] ** 2 / d**2
    torch.testing.assert_close(error_scale(base, mean_type, t), measured, rtol=1e-6, atol=1e-12)


# The bound as a loss, and the hybrid.


def test_rescaled_kl_is_an_estimate_of_the_whole_bound():
    # Over all t its mean is the sum of the terms: an optimiser sees the bound itself, not a T-th of it.
    x_0, x_t, t, noise = noised(shape=(10, 2))
    arguments = (BASE, epsilon, fixedlarge, 0.5 * noise, x_0, x_t, t, noise)
    terms = vlb_term(BASE, p_from_output(*arguments[:4], x_t, t), x_0, x_t, t, decoder=density)
    torch.testing.assert_close(kl_loss(*arguments, decoder=density), terms)
    torch.testing.assert_close(kl_loss(*arguments, decoder=density, rescaled=True).mean(), terms.sum())


def hybrid_parts(lam=0.001):
    x_0, x_t, t, noise = noised(shape=(10, 3, 4, 4))
    output = torch.cat([0.7 * noise, torch.tanh(x_t)], 1).requires_grad_()
    hybrid = hybrid_loss(BASE, epsilon, output, x_0, x_t, t, noise, lam=lam, decoder=discretized(17))
    simple = simple_loss(BASE, epsilon, output, x_0, x_t, t, noise).flatten(1).mean(1)
    p = p_from_output(BASE, epsilon, learned_range, output, x_t, t)
    return output, hybrid, simple, vlb_term(BASE, p, x_0, x_t, t, decoder=discretized(17))


def test_hybrid_is_simple_plus_lambda_times_the_whole_bound():
    # The mistake of published code is to add lambda times one term: then the mean over t holds a T-th of the bound.
    _, hybrid, simple, terms = hybrid_parts(lam=0.01)
    assert hybrid.shape == (10,)
    torch.testing.assert_close((hybrid - simple).mean(), 0.01 * terms.sum())
    assert not torch.allclose((hybrid - simple).mean(), 0.01 * terms.mean(), rtol=0.5)


def test_the_bound_trains_the_variance_alone():
    output, hybrid, simple, terms = hybrid_parts()
    (both,), (mean_only,), (bound,) = (
        torch.autograd.grad(loss.sum(), output, retain_graph=True) for loss in (hybrid, simple, terms)
    )
    assert torch.equal(both[:, :3], mean_only[:, :3])
    torch.testing.assert_close(both[:, 3:], 0.001 * 10 * bound[:, 3:])
    assert bound.abs().min() > 0  # without the stop-gradient it would train both halves


def test_hybrid_needs_the_second_half():
    x_0, x_t, t, noise = noised()
    with pytest.raises(ValueError, match="twice as many output channels"):
        hybrid_loss(BASE, epsilon, noise, x_0, x_t, t, noise)


@every_mean_type
def test_hybrid_finds_the_best_variance(mean_type):
    # On N(0, 1) data beta is optimal for t >= 1: there v = 1, var_frac = 1, is where the gradient of the bound changes
    # sign. E over x_0 and noise exactly, from the corners (+-1, +-1) of a polynomial of degree 2.
    x_0, noise = (part.reshape(-1, 1).double() for part in torch.cartesian_prod(*[torch.tensor([-1, 1])] * 2).T)
    x_0, noise, t = x_0.repeat(9, 1), noise.repeat(9, 1), torch.arange(1, 10).repeat_interleave(4)
    x_t = BASE.q_sample(x_0, t, noise)
    model = oracle.Gaussian(BASE, torch.zeros(1, dtype=torch.float64), 1.0).as_model(mean_type)
    slopes = []
    for v in (0.9, 1.0, 1.1):
        place = torch.full_like(x_t, v).requires_grad_()
        loss = hybrid_loss(BASE, mean_type, torch.cat([model(x_t, t), place], 1), x_0, x_t, t, noise)
        slopes.append(torch.autograd.grad(loss.sum(), place)[0].view(9, 4).sum(1))
    assert (slopes[0] < 0).all() and (slopes[2] > 0).all()
    torch.testing.assert_close(slopes[1], torch.zeros_like(slopes[1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    x_0, x_t, t, noise = noised(shape=(batch, 3, 4, 4))
    output = torch.cat([noise, noise], 1)
    assert simple_loss(BASE, epsilon, noise, x_0, x_t, t, noise).shape == (batch, 3, 4, 4)
    assert hybrid_loss(BASE, epsilon, output, x_0, x_t, t, noise).shape == (batch,)
    assert kl_loss(BASE, epsilon, fixedsmall, noise, x_0, x_t, t, noise).shape == (batch,)


def test_losses_run_on_every_device(device):
    base = GaussianDiffusion(linear(10, 0.05, 0.6)).to(device)
    x_0, x_t, t, noise = noised(base, dtype=torch.float32, device=device)
    output = torch.randn(10, 6, 4, 4, generator=torch.Generator().manual_seed(0)).to(device)
    loss = hybrid_loss(base, velocity, output, x_0, x_t, t, noise)
    expected = hybrid_loss(BASE, velocity, *(part.cpu() for part in (output, x_0, x_t, t, noise)))
    assert loss.device.type == device.type
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_decoding_with_gradients_is_the_denoisers_decoding():
    # Training and sampling read a network's output in one place.
    x_0, x_t, t, noise = noised()
    output = torch.cat([noise, torch.tanh(x_t)], 1)
    prediction = make_denoiser(lambda x_t, t: output, BASE, velocity)(x_t, t)
    p = p_from_output(BASE, velocity, learned_range, output, x_t, t)
    assert torch.equal(p.mean, BASE.q_posterior(prediction.x_0, x_t, t).mean)
    assert torch.equal(p.log_var, learned_range(BASE, t, prediction, x_t))
