"""Losses against formulas by hand, and against each other through the weights that connect them."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddpm_lesson import oracle
from ddpm_lesson.bound import density, discretized, vlb_term
from ddpm_lesson.denoisers import make_denoiser
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
    learned,
    learned_range,
    p_from_output,
    velocity,
    xprev,
    xstart,
)
from ddpm_lesson.process import GaussianDiffusion, Noised
from ddpm_lesson.schedules import cosine, jsd, linear, zero_terminal_snr
from ddpm_lesson.training import train

BASE = GaussianDiffusion(linear(10, 0.05, 0.6))
T1000 = GaussianDiffusion(linear(1000))
every_mean_type = pytest.mark.parametrize("mean_type", MEAN_TYPES.values(), ids=MEAN_TYPES)


def noised(base=BASE, shape=(10, 3, 4, 4), dtype=torch.float64, device="cpu"):
    """A draw with t = 0, 1, 2, ..., as the losses take it."""
    x_0, noise = (torch.randn(shape, dtype=torch.float64).to(device, dtype) for _ in range(2))
    t = (torch.arange(shape[0]) % base.T).to(device)
    return Noised(x_0, t, noise, base.q_sample(x_0, t, noise))


# L_simple.


@every_mean_type
def test_erratum_04_the_target_follows_the_mean_type(mean_type):
    # The post fits eps whatever the output means. The right target decodes to the x_0 and noise that made x_t.
    x_0, t, noise, x_t = drawn = noised()
    target = {
        "epsilon": noise,
        "xstart": x_0,
        "xprev": BASE.q_posterior(x_0, x_t, t).mean,
        "v": BASE.alphas_bar.sqrt().view(-1, 1, 1, 1) * noise - (1 - BASE.alphas_bar).sqrt().view(-1, 1, 1, 1) * x_0,
    }[mean_type.name]
    output = torch.randn_like(x_0)
    loss = simple_loss(BASE, mean_type, output, drawn)
    torch.testing.assert_close(loss, (output - target) ** 2)
    if mean_type is not epsilon:
        assert not torch.allclose(loss, (output - noise) ** 2)


def test_erratum_15_the_loss_is_not_reduced():
    drawn = noised()
    loss = simple_loss(BASE, epsilon, torch.zeros_like(drawn.x_0), drawn)
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
    drawn = noised()
    loss = simple_loss(BASE, velocity, 0.5 * drawn.x_t, drawn, error=error)
    torch.testing.assert_close(loss, error(velocity.target(BASE, drawn) - 0.5 * drawn.x_t))


def test_of_doubled_channels_the_first_half_is_fitted():
    drawn = noised()
    noise = drawn.noise
    output = torch.cat([noise, torch.randn_like(noise)], 1).requires_grad_()
    loss = simple_loss(BASE, epsilon, output, drawn)
    assert torch.equal(loss, torch.zeros_like(loss))
    (gradient,) = torch.autograd.grad(simple_loss(BASE, xstart, output, drawn).sum(), output)
    assert gradient[:, :3].abs().min() > 0 and torch.equal(gradient[:, 3:], torch.zeros_like(noise))


@pytest.mark.parametrize("shape", [(10, 9, 4, 4), (10, 3, 4), (1, 3, 4, 4), (10, 3, 8, 4)])
def test_output_of_another_shape_is_an_error(shape):
    for loss in (simple_loss, hybrid_loss, partial(kl_loss, variance=fixedlarge)):
        with pytest.raises(ValueError, match=r"must return x_t's shape \(10, 3, 4, 4\), or twice its channels, got \("):
            loss(BASE, epsilon, output=torch.zeros(shape), noised=noised())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_mean_type
def test_half_precision_outputs_give_float32_losses(mean_type, dtype):
    x_0, t, noise, x_t = drawn = noised(dtype=torch.float32)
    output = torch.randn(10, 6, 4, 4).to(dtype)
    for loss in (simple_loss, hybrid_loss, partial(kl_loss, variance=learned_range)):
        half, single = (loss(BASE, mean_type, output=o, noised=drawn) for o in (output, output.float()))
        assert half.dtype == torch.float32
        assert torch.equal(half, single)
    all_half = simple_loss(BASE, mean_type, output, Noised(x_0.to(dtype), t, noise.to(dtype), x_t.to(dtype)))
    assert all_half.dtype == torch.float32


def test_small_errors_survive_half_precision():
    # An error of 1e-4 squared is 1e-8: below float16's smallest number, 6e-8.
    x = torch.zeros(1, 1)
    loss = simple_loss(BASE, xstart, x.half() + 1e-4, Noised(x, torch.tensor([0]), x, x))
    assert loss.item() == pytest.approx(1e-8, rel=1e-2)


# One network, five meanings: equal losses and gradients up to a weight.


def network():
    torch.manual_seed(1)
    return MLP(10, 2, 16, 2).double()


def gradient(loss, model):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])


def converted_loss(model, mean_type, weight, drawn):
    """The network predicts eps; its prediction is converted to the other meaning and judged there."""
    _, t, _, x_t = drawn
    prediction = epsilon.decode(BASE, x_t, t, model(x_t, t))
    output = mean_type.target(BASE, Noised(prediction.x_0, t, prediction.eps, x_t))
    return (weight[:, None] * simple_loss(BASE, mean_type, output, drawn)).mean()


@every_mean_type
def test_parameterisations_differ_by_a_weight_alone(mean_type):
    drawn = noised(shape=(500, 2))
    drawn = Noised(*(part[drawn.t >= 1] for part in drawn))
    model, t, snr = network(), drawn.t, BASE.snr[drawn.t]
    expected = converted_loss(model, epsilon, torch.ones_like(snr), drawn)
    # Written out: eps error = snr * x_0 error, v error = (snr + 1) * x_0 error, mean error = coef1^2 * x_0 error.
    scale = {"epsilon": snr, "xstart": 1, "v": snr + 1, "xprev": BASE.posterior_mean_coef1[t] ** 2}[mean_type.name]
    torch.testing.assert_close(error_scale(BASE, mean_type, t), scale + 0 * snr)
    torch.testing.assert_close(weight_for(BASE, mean_type, t, torch.ones_like(snr)), snr / scale)
    loss = converted_loss(model, mean_type, snr / scale, drawn)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, model), rtol=1e-6, atol=1e-9)
    if mean_type is not epsilon:
        unweighted = converted_loss(model, mean_type, torch.ones_like(snr), drawn)
        assert not torch.allclose(unweighted, expected, rtol=0.05)


def test_the_score_is_a_fifth_parameterisation():
    # score = -eps / sqrt(1 - a), so its squared error is eps error / (1 - a).
    x_0, t, _, x_t = drawn = noised(shape=(500, 2))
    model, var = network(), (1 - BASE.alphas_bar[t])[:, None]
    score = BASE.score_from_x_0(x_t, t, epsilon.decode(BASE, x_t, t, model(x_t, t)).x_0)
    loss = (var * (score - BASE.score_from_x_0(x_t, t, x_0)) ** 2).mean()
    expected = converted_loss(model, epsilon, torch.ones(500), drawn)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, model), rtol=1e-6, atol=1e-9)


def test_a_sampled_x_prev_agrees_in_expected_gradient_only():
    # With a draw x_{t-1} in the place of the posterior mean the loss gains posterior_var, and the gradient of f = w x_t
    # gains 2 (mean - draw) x_t, of mean 0 and variance 4 posterior_var E[x_t^2] = 4 posterior_var. 4 standard errors.
    n, w, var = 20_000, torch.tensor(0.3, dtype=torch.float64, requires_grad=True), BASE.posterior_var[4].item()
    x_0, noise, t = torch.randn(n, 1).double(), torch.randn(n, 1).double(), torch.full((n,), 4)
    x_t = BASE.q_sample(x_0, t, noise)
    gain = (BASE.q_posterior(x_0, x_t, t).sample() - w * x_t) ** 2
    gain = gain - simple_loss(BASE, xprev, w * x_t, Noised(x_0, t, noise, x_t))
    assert abs(gain.mean().item() - var) < 4 * gain.std().item() / n**0.5 < var / 4
    (slope,) = torch.autograd.grad(gain.mean(), w)
    assert 0 < abs(slope) < 4 * (4 * var / n) ** 0.5


# Weights.


@pytest.mark.parametrize("variance", [fixedlarge, fixedsmall])
def test_kl_is_the_weighted_eps_error_plus_a_constant(variance):
    # DDPM Eq. 12, and where var is not the posterior's the constant (r - 1 - log r) / 2 with r = posterior_var / var.
    _, t, noise, x_t = drawn = Noised(*(part[1:] for part in noised(T1000, (1000, 3))))
    output = noise + 0.3 * torch.sin(5 * x_t)
    var = {fixedlarge: T1000.betas, fixedsmall: T1000.posterior_var}[variance][t]
    kl = kl_loss(T1000, epsilon, variance, output, drawn) * math.log(2) * 3
    error = simple_loss(T1000, epsilon, output, drawn).sum(1)
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


ENDING_IN_NOISE = {
    "zero terminal SNR": GaussianDiffusion(zero_terminal_snr(linear(1000))),
    "jsd": GaussianDiffusion(jsd(10)),
    "alphas_bar": GaussianDiffusion.from_alphas_bar(torch.tensor([0.9, 0.5, 0.1, 0.0])),
    "one step": GaussianDiffusion(torch.ones(1)),
}


@pytest.mark.parametrize("base", ENDING_IN_NOISE.values(), ids=ENDING_IN_NOISE)
@pytest.mark.parametrize("weight", [simple_weight, min_snr, p2], ids=lambda weight: weight.__name__)
@every_mean_type
def test_the_step_of_pure_noise_has_weight_1(mean_type, weight, base):
    # x_0 is no function of eps there, and the ratio of the two errors is 0, or 0/0 for eps itself: weights of 0 would
    # leave v and x_0 untrained at the step where sampling starts, and NaN would end the training of eps.
    assert base.snr[-1] == 0
    t = torch.arange(base.T)
    weights = weight_for(base, mean_type, t, weight(base.snr))
    assert weights.isfinite().all() and (weights > 0).all() and weights[-1] == 1
    a, a_prev = base.alphas_bar[:-1], base.alphas_bar_prev[:-1]
    scale = {
        "epsilon": a / (1 - a),
        "xstart": torch.ones_like(a),
        "v": 1 / (1 - a),
        "xprev": a_prev * ((1 - a / a_prev) / (1 - a)) ** 2,
    }[mean_type.name]
    torch.testing.assert_close(weights[:-1], weight(a / (1 - a)) * a / (1 - a) / scale, rtol=1e-6, atol=0)


def test_the_weight_of_eps_is_its_own_to_the_last_digit():
    for base in (T1000, *ENDING_IN_NOISE.values()):
        for eps_weight in (min_snr(base.snr), p2(base.snr), torch.rand(base.T)):
            weights = weight_for(base, epsilon, torch.arange(base.T), eps_weight)
            left = base.alphas_bar > 0
            assert torch.equal(weights[left], eps_weight[left].double())


class Table(nn.Module):
    """A network that knows t alone: one row of outputs for each step."""

    def __init__(self, T, columns):
        super().__init__()
        self.rows = nn.Embedding.from_pretrained(torch.full((T, columns), 3.0), freeze=False)

    def forward(self, x_t, t):
        return self.rows(t)


@pytest.mark.parametrize("weight", [min_snr, p2], ids=lambda weight: weight.__name__)
@every_mean_type
def test_weighted_training_reaches_the_step_of_pure_noise(mean_type, weight):
    base = ENDING_IN_NOISE["alphas_bar"]
    weights = weight_for(base, mean_type, torch.arange(4), weight(base.snr)).float()

    def loss(output, noised):
        return weights[noised.t, None] * simple_loss(base, mean_type, output, noised)

    model, x_0 = Table(4, 2), torch.tensor([0.5, -2.0]).expand(64, 2)
    sgd = torch.optim.SGD(model.parameters())
    list(train(model, base, [x_0], loss, steps=100, lr=1.0, optimizer=sgd, clip_norm=math.inf))
    # Where x_t is the noise, the best answer from t alone is the mean of the target: 0 for eps, x_0, -x_0 for v, and
    # sqrt(alphas_bar_prev) x_0 for x_{t-1}. A step moves the row by a share of about 1/4 of its error, so nothing is
    # left of its start after 100, and 5 / 8 is far beyond the scatter of averages over the noise of some 16 images.
    row = model.rows.weight.detach()[-1]
    mean = {"epsilon": 0.0, "xstart": 1.0, "xprev": 0.1**0.5, "v": -1.0}[mean_type.name]
    scatter = 1.0 if mean_type is epsilon else 0.0
    torch.testing.assert_close(row, mean * x_0[0], rtol=0, atol=1e-4 + 5 * scatter * 64**-0.5)


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
    x_0, t, _, x_t = noised(base, (1000, 1), device=device)
    draws = [Noised(x, t, base.eps_from_x_0(x_t, t, x), x_t) for x in (x_0, x_0 + d)]
    here, there = (mean_type.target(base, draw) for draw in draws)
    measured = (there - here)[:, 0] ** 2 / d**2
    torch.testing.assert_close(error_scale(base, mean_type, t), measured, rtol=1e-6, atol=1e-12)


# The bound as a loss, and the hybrid.


def test_rescaled_kl_is_an_estimate_of_the_whole_bound():
    # Over all t its mean is the sum of the terms: an optimiser sees the bound itself, not a T-th of it.
    x_0, t, noise, x_t = drawn = noised(shape=(10, 2))
    arguments = (BASE, epsilon, fixedlarge, 0.5 * noise, drawn)
    terms = vlb_term(BASE, p_from_output(*arguments[:4], x_t, t), x_0, x_t, t, decoder=density)
    torch.testing.assert_close(kl_loss(*arguments, decoder=density), terms)
    torch.testing.assert_close(kl_loss(*arguments, decoder=density, rescaled=True).mean(), terms.sum())


def hybrid_parts(lam=0.001):
    x_0, t, noise, x_t = drawn = noised(shape=(10, 3, 4, 4))
    output = torch.cat([0.7 * noise, torch.tanh(x_t)], 1).requires_grad_()
    hybrid = hybrid_loss(BASE, epsilon, output, drawn, lam=lam, decoder=discretized(17))
    simple = simple_loss(BASE, epsilon, output, drawn).flatten(1).mean(1)
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
    for variance in (learned_range, learned):
        with pytest.raises(ValueError, match="twice as many output channels"):
            hybrid_loss(BASE, epsilon, torch.zeros(10, 3, 4, 4), noised(), variance=variance)


@every_mean_type
def test_hybrid_finds_the_best_variance(mean_type):
    # On N(0, 1) data beta is optimal for t >= 1: there v = 1, var_frac = 1, is where the gradient of the bound changes
    # sign. E over x_0 and noise exactly, from the corners (+-1, +-1) of a polynomial of degree 2.
    x_0, noise = (part.reshape(-1, 1).double() for part in torch.cartesian_prod(*[torch.tensor([-1, 1])] * 2).T)
    x_0, noise, t = x_0.repeat(9, 1), noise.repeat(9, 1), torch.arange(1, 10).repeat_interleave(4)
    x_t = BASE.q_sample(x_0, t, noise)
    model = oracle.GaussianData(BASE, torch.zeros(1, dtype=torch.float64), 1.0).as_model(mean_type)
    drawn, slopes = Noised(x_0, t, noise, x_t), []
    for v in (0.9, 1.0, 1.1):
        place = torch.full_like(x_t, v).requires_grad_()
        loss = hybrid_loss(BASE, mean_type, torch.cat([model(x_t, t), place], 1), drawn)
        slopes.append(torch.autograd.grad(loss.sum(), place)[0].view(9, 4).sum(1))
    assert (slopes[0] < 0).all() and (slopes[2] > 0).all()
    torch.testing.assert_close(slopes[1], torch.zeros_like(slopes[1]), rtol=0, atol=1e-12)


# E over N(0, 0.5^2) data and noise exactly, as above, for every step of BASE.
STD = 0.5


def corners():
    x_0, noise = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 2).T.repeat(1, 10)[:, :, None]
    t = torch.arange(10).repeat_interleave(4)
    return BASE.noised(STD * x_0, t, noise)


def reverse_variances():
    """Var(x_{t-1} | x_t), (10,), of Gaussian data, by conditioning: a Gaussian x_{t-1} with variance b s^2 + 1 - b is
    seen through sqrt(alpha) x_{t-1} + sqrt(beta) z, and precisions add."""
    alphas = 1 - linear(10, 0.05, 0.6)
    b = torch.cat([torch.ones(1), torch.cumprod(alphas, 0)[:-1]])  # alphas_bar one step earlier
    return 1 / (1 / (b * STD**2 + 1 - b) + alphas / (1 - alphas))


LEARNED = {
    "hybrid": partial(hybrid_loss, BASE, variance=learned, decoder=density),
    "kl": lambda mean_type, *args: kl_loss(BASE, mean_type, learned, *args, decoder=density),
}


@pytest.mark.parametrize("loss", LEARNED.values(), ids=LEARNED)
@every_mean_type
def test_a_learned_variance_becomes_that_of_the_reverse_step(mean_type, loss):
    # E of the bound's term is (V exp(-l) + l) / 2 + constant in the log variance l: least at l = log V, at t = 0 too.
    drawn = corners()
    mean = oracle.GaussianData(BASE, torch.zeros(1, dtype=torch.float64), STD).as_model(mean_type)(drawn.x_t, drawn.t)
    log_vars = torch.zeros(10, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_vars], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(mean_type, torch.cat([mean, log_vars[drawn.t]], 1), drawn).sum() * 1000
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(log_vars.detach().exp()[:, 0], reverse_variances(), rtol=1e-5, atol=0)
    assert not torch.allclose(reverse_variances(), BASE.betas, rtol=0.05)  # neither of the fixed ones
    assert not torch.allclose(reverse_variances()[1:], BASE.posterior_var[1:], rtol=0.05)


def test_the_bound_trains_a_learned_variance_alone():
    x_0, t, noise, x_t = drawn = noised()
    output = torch.cat([0.7 * noise, -torch.rand_like(x_t)], 1).requires_grad_()
    hybrid = hybrid_loss(BASE, epsilon, output, drawn, variance=learned, lam=0.01)
    simple = simple_loss(BASE, epsilon, output, drawn).flatten(1).mean(1)
    kl = kl_loss(BASE, epsilon, learned, output, drawn)
    both, mean_only, bound = (
        torch.autograd.grad(part.sum(), output, retain_graph=True)[0] for part in (hybrid, simple, kl)
    )
    assert torch.equal(both[:, :3], mean_only[:, :3]) and (mean_only[:, 3:] == 0).all()
    torch.testing.assert_close(both[:, 3:], 0.01 * 10 * bound[:, 3:])
    assert bound.abs().min() > 0


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    drawn = noised(shape=(batch, 3, 4, 4))
    noise = drawn.noise
    output = torch.cat([noise, noise], 1)
    assert simple_loss(BASE, epsilon, noise, drawn).shape == (batch, 3, 4, 4)
    assert hybrid_loss(BASE, epsilon, output, drawn).shape == (batch,)
    assert kl_loss(BASE, epsilon, fixedsmall, noise, drawn).shape == (batch,)


def test_losses_run_on_every_device(device):
    base = GaussianDiffusion(linear(10, 0.05, 0.6)).to(device)
    drawn = noised(base, dtype=torch.float32, device=device)
    output = torch.randn(10, 6, 4, 4, generator=torch.Generator().manual_seed(0)).to(device)
    loss = hybrid_loss(base, velocity, output, drawn)
    expected = hybrid_loss(BASE, velocity, output.cpu(), Noised(*(part.cpu() for part in drawn)))
    assert loss.device.type == device.type
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_decoding_with_gradients_is_the_denoisers_decoding():
    # Training and sampling read a network's output in one place.
    _, t, noise, x_t = noised()
    output = torch.cat([noise, torch.tanh(x_t)], 1)
    prediction = make_denoiser(lambda x_t, t: output, BASE, velocity)(x_t, t)
    p = p_from_output(BASE, velocity, learned_range, output, x_t, t)
    assert torch.equal(p.mean, BASE.q_posterior(prediction.x_0, x_t, t).mean)
    assert torch.equal(p.log_var, learned_range(BASE, t, prediction, x_t))
