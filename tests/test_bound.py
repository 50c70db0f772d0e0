"""The variational bound against closed forms, against quadrature on the line, and against log p_theta itself."""

import math
import statistics
from functools import partial

import pytest
import torch
from torch import nn

from ddpm_lesson import oracle
from ddpm_lesson.bound import (
    bits_per_dim,
    decoder_nll,
    density,
    discretized,
    eight_bit,
    posterior_kl,
    prior_kl,
    vlb_term,
)
from ddpm_lesson.coefficients import spread
from ddpm_lesson.denoisers import previous_x_0
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.predictions import (
    epsilon,
    fixedlarge,
    fixedsmall,
    learned,
    learned_range,
    p_from_output,
    velocity,
    xstart,
)
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.schedules import cosine, jsd, linear

ENTROPY = 0.5 * math.log2(2 * math.pi * math.e)  # of N(0, 1), in bits
T1000 = GaussianDiffusion(linear(1000))


def all_beta(process, i, prediction, x_t):
    """fixedlarge with var[0] = beta_0."""
    return spread(process.row(i).log_betas, x_t)


# On Gaussian data, with expectations taken exactly. Every term is a polynomial of degree 2 in x_0 and noise, and the
# mean over (x_0, noise) = (+-1, +-1) is exact for N(0, 1) variables up to degree 3.

CORNERS = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)


def exact_terms(process, variance, std=1.0, shift=0.0):
    """E of every term, (T,), bits, for data N(0, std^2) with the optimal denoiser; shift is added to log_var."""
    T = process.T
    x_0, noise = std * CORNERS[:, :1].repeat(T, 1), CORNERS[:, 1:].repeat(T, 1)
    t = torch.arange(T).repeat_interleave(4)
    x_t = process.q_sample(x_0, t, noise)
    data = oracle.GaussianData(process, torch.zeros(1, dtype=torch.float64), std)
    p = p_from_output(process, epsilon, variance, data.as_model(epsilon)(x_t, t), x_t, t)
    p = p._replace(log_var=p.log_var + shift)
    return vlb_term(process, p, x_0, x_t, t, decoder=density).view(T, 4).mean(1)


@pytest.mark.parametrize("process", [T1000, GaussianDiffusion(cosine(100)), GaussianDiffusion(linear(3, 0.1, 0.5))])
def test_bound_of_the_exact_denoiser_on_normal_data_is_the_entropy(process):
    # x_t is N(0, 1) for every t, the true reverse step N(sqrt(alpha) x_t, beta) is p itself with variance beta, and the
    # bound is then -E log p(x_0) of the chain started at N(0, 1), which is the data's own distribution.
    total = prior_kl(process, CORNERS[:, :1]).mean() + exact_terms(process, all_beta).sum()
    assert total.item() == pytest.approx(ENTROPY, abs=1e-10)
    assert pytest.approx(2.0471, abs=5e-5) == ENTROPY


def test_erratum_07_index_0_of_the_posts_variance_costs_a_sixth_of_a_bit():
    # The post puts posterior_var[1] = r beta_0 where beta_0 would be right: (1/r - 1 + log r) / 2 nats more at t = 0.
    r = (T1000.posterior_var[1] / T1000.betas[0]).item()
    total = prior_kl(T1000, CORNERS[:, :1]).mean() + exact_terms(T1000, fixedlarge).sum()
    assert total.item() == pytest.approx(ENTROPY + (1 / r - 1 + math.log(r)) / 2 / math.log(2), abs=1e-10)
    assert total.item() == pytest.approx(2.211, abs=5e-4)


@pytest.mark.parametrize("variance, std", [(fixedlarge, 1.0), (fixedsmall, 0.0)])
def test_fixed_variances_are_optimal_for_their_data(variance, std):
    # fixedlarge for N(0, I), fixedsmall for a point, at every t >= 1: E KL = (E|x_{t-1} - mean|^2 / var + log var) / 2
    # + constant is least where var is that expected square; log_var + s then costs (exp(-s) - 1 + s) / 2 nats.
    best = exact_terms(T1000, variance, std)[1:]
    for shift in (-0.5, -0.01, 0.01, 0.5):
        rise = exact_terms(T1000, variance, std, shift)[1:] - best
        expected = (math.exp(-shift) - 1 + shift) / 2 / math.log(2)
        torch.testing.assert_close(rise, torch.full_like(rise, expected), rtol=0, atol=1e-10)


def test_a_variance_made_for_other_data_costs_a_constant():
    # For a point, p's mean is the posterior's and the KL is that of the variances alone: (r - 1 - log r) / 2 nats.
    r = T1000.posterior_var[1:] / T1000.betas[1:]
    terms = exact_terms(T1000, fixedlarge, std=0.0)[1:]
    torch.testing.assert_close(terms, (r - 1 - r.log()) / 2 / math.log(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("std", [0.0, 0.5, 1.0])
def test_prior_term_in_closed_form(std):
    # KL(N(sqrt(a) x_0, 1 - a) || N(0, 1)), averaged over x_0^2 = std^2.
    process = GaussianDiffusion(linear(200))
    a = process.alpha_bar_T
    expected = (1 - a + a * std**2 - 1 - math.log(1 - a)) / 2 / math.log(2)
    assert prior_kl(process, std * CORNERS).tolist() == pytest.approx([expected] * 4, rel=1e-9)


def test_prior_term_vanishes_where_no_signal_is_left():
    assert torch.equal(prior_kl(GaussianDiffusion(jsd(10)), CORNERS), torch.zeros(4, dtype=torch.float64))


# On the line: a mixture, a chain of four steps, a model that is wrong on purpose. Everything here is computed from
# betas with formulas of the papers, not with the package.

BETAS = torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=torch.float64)
ALPHAS, ALPHAS_BAR = 1 - BETAS, torch.cumprod(1 - BETAS, 0)
SMALL = torch.cat([torch.ones(1, dtype=torch.float64), ALPHAS_BAR])[:-1]
SMALL = BETAS * (1 - SMALL) / (1 - ALPHAS_BAR)
VARS = {"fixedlarge": BETAS.clone(), "fixedsmall": SMALL.clone(), "learned_range": None}
VARS["fixedlarge"][0] = VARS["fixedsmall"][0] = SMALL[1]
FRAC = 0.3
VARS["learned_range"] = VARS["fixedsmall"] ** (1 - FRAC) * BETAS**FRAC

SHORT = GaussianDiffusion(BETAS)
MIXTURE = oracle.Mixture(
    SHORT,
    torch.tensor([0.4, 0.6], dtype=torch.float64),
    torch.tensor([[-0.7], [0.5]], dtype=torch.float64),
    torch.tensor([0.1, 0.2], dtype=torch.float64),
)
every_variance = pytest.mark.parametrize("variance", [fixedlarge, fixedsmall, learned_range])


def raw_output(x_t, t):
    """A network that is a little wrong; with a second half of 2 FRAC - 1."""
    eps = MIXTURE.as_model(epsilon)(x_t, t) + 0.2 * torch.sin(3 * x_t)
    return torch.cat([eps, torch.full_like(eps, 2 * FRAC - 1)], 1)


def p_mean(x_t, t):
    """Algorithm 2, line 4."""
    eps = raw_output(x_t[:, None], torch.full(x_t.shape, t))[:, 0]
    return (x_t - BETAS[t] / (1 - ALPHAS_BAR[t]).sqrt() * eps) / ALPHAS[t].sqrt()


def normal(x, mean, var):
    return torch.exp(-((x - mean) ** 2) / (2 * var)) / (2 * math.pi * var).sqrt()


def line(n, end=9.0):
    x = torch.linspace(-end, end, n, dtype=torch.float64)
    return x, (x[1] - x[0]).item()  # trapezoids: exact to rounding for smooth functions that vanish at both ends


@every_variance
@pytest.mark.parametrize("t", [1, 2, 3])
def test_kl_agrees_with_quadrature(variance, t):
    # q(x_{t-1} | x_t, x_0) by Bayes' rule on a grid, p by Algorithm 2, the KL as a sum of q log(q / p).
    x_0, x_t = torch.cartesian_prod(*[torch.linspace(-1.5, 1.5, 4, dtype=torch.float64)] * 2).T
    grid, dx = line(4001)
    prior = normal(grid, ALPHAS_BAR[t - 1].sqrt() * x_0[:, None], 1 - ALPHAS_BAR[t - 1])
    q = prior * normal(x_t[:, None], ALPHAS[t].sqrt() * grid, BETAS[t])
    q = q / (q.sum(1, keepdim=True) * dx)
    p = normal(grid, p_mean(x_t, t)[:, None], VARS[variance.__name__][t])
    kl = torch.where(q > 1e-200, q * (q / p).log(), 0.0).sum(1) * dx

    steps = torch.full(x_t.shape, t)
    p = p_from_output(SHORT, epsilon, variance, output_for(variance, x_t[:, None], steps), x_t[:, None], steps)
    bits = vlb_term(SHORT, p, x_0[:, None], x_t[:, None], steps)
    torch.testing.assert_close(bits * math.log(2), kl, rtol=0, atol=1e-10)
    torch.testing.assert_close(bits, posterior_kl(SHORT, p, x_0[:, None], x_t[:, None], steps))


def output_for(variance, x_t, t):
    output = raw_output(x_t, t)
    return output if variance is learned_range else output[:, :1]


@every_variance
def test_decoder_agrees_with_quadrature(variance):
    # p(x_0 | x_1) summed over the bin of x_0, 17 levels: half a level to both sides, open at the ends.
    x_1, levels = torch.tensor([-1.2, -0.1, 0.9], dtype=torch.float64), torch.linspace(-1, 1, 17, dtype=torch.float64)
    x_1, x_0 = torch.cartesian_prod(x_1, levels).T
    edges = torch.stack([x_0 - 1 / 16, x_0 + 1 / 16])
    edges[0, x_0 == -1], edges[1, x_0 == 1] = -6, 6
    nodes = torch.linspace(0, 1, 20001, dtype=torch.float64)
    x = edges[0, :, None] + (edges[1] - edges[0])[:, None] * nodes
    p = normal(x, p_mean(x_1, 0)[:, None], VARS[variance.__name__][0])
    mass = torch.trapezoid(p, nodes, dim=1) * (edges[1] - edges[0])

    t = torch.zeros_like(x_1, dtype=torch.int64)
    p = p_from_output(SHORT, epsilon, variance, output_for(variance, x_1[:, None], t), x_1[:, None], t)
    bits = vlb_term(SHORT, p, x_0[:, None], x_1[:, None], t, decoder=discretized(17))
    torch.testing.assert_close(2**-bits, mass, rtol=1e-6, atol=1e-12)  # trapezoids on a bin: error of order h^2
    torch.testing.assert_close(bits, decoder_nll(p, x_0[:, None], discretized(17)))


def negative_bound(x_0, process=SHORT, variance=fixedlarge):
    """-(L_T + sum of L_{t-1} + L_0) at one x_0, nats: expectations over the noise by quadrature."""
    noise, dx = line(2001)
    weights = normal(noise, 0.0, torch.ones(())) * dx
    x_0 = torch.full((2001, 1), x_0, dtype=torch.float64)
    total = prior_kl(process, x_0[:1]).item()
    for i in range(process.T):
        t = torch.full((2001,), i)
        x_t = process.q_sample(x_0, t, noise[:, None])
        p = p_from_output(process, epsilon, variance, output_for(variance, x_t, t), x_t, t)
        total += (weights * vlb_term(process, p, x_0, x_t, t, decoder=density)).sum().item()
    return -total * math.log(2)


@every_variance
def test_bound_lies_below_the_log_likelihood(variance):
    # p_theta(x_0), by integrating the reverse chain on a grid: p(x_{t-1}) = sum over x_t of p(x_{t-1} | x_t) p(x_t) dx.
    grid, dx = line(2401, end=12.0)
    log_p = normal(grid, 0.0, torch.ones(())).log()
    for t in (3, 2, 1, 0):
        kernel = normal(grid[:, None], p_mean(grid, t), VARS[variance.__name__][t])  # (x_{t-1}, x_t)
        log_p = (kernel @ log_p.exp() * dx).log()
    assert log_p.exp().sum().item() * dx == pytest.approx(1, abs=1e-6)
    gaps = []
    for x_0 in (-1.5, -0.7, -0.1, 0.5, 1.5):
        k = round((x_0 + 12) / dx)
        gaps.append(log_p[k].item() - negative_bound(grid[k].item(), variance=variance))
    assert min(gaps) > 1e-3  # here the posterior over paths is not the forward chain, so the bound is strict
    assert max(gaps[1:4]) < 1  # where the data are, and not far below: a bound that says something


def test_terms_add_up_to_the_integral_over_paths():
    # DDPM Eq. 3, before it is rewritten: E_q[log p(x_T) + sum log p(x_{t-1} | x_t) - log q(x_t | x_{t-1})], summed over
    # a grid of whole paths (x_1, x_2), for a chain of two steps.
    process, x_0 = GaussianDiffusion(BETAS[:2]), 0.4
    x, dx = line(1201, end=7.0)
    x_1, x_2 = x[:, None], x[None, :]
    log_q = normal(x_1, ALPHAS[0].sqrt() * x_0, BETAS[0]).log() + normal(x_2, ALPHAS[1].sqrt() * x_1, BETAS[1]).log()
    large = VARS["fixedlarge"]
    log_p = normal(x_2, 0.0, torch.ones(())).log() + normal(x_1, p_mean(x, 1), large[1]).log()
    log_p = log_p + normal(torch.tensor(x_0), p_mean(x, 0), large[0]).log()[:, None]
    expected = (log_q.exp() * (log_p - log_q)).nan_to_num(0.0).sum().item() * dx**2
    assert negative_bound(x_0, process) == pytest.approx(expected, abs=1e-8)


def test_bound_of_the_data_density_holds_on_average_only():
    # Over q(x_0) the bound exceeds the entropy, by a KL; at single points it can exceed log q(x_0).
    grid, dx = line(121, end=2.0)
    q = sum(
        w * normal(grid, m, s**2)
        for w, m, s in zip(MIXTURE.log_weights.exp(), MIXTURE.means, MIXTURE.stds, strict=True)
    )
    bounds = torch.tensor([negative_bound(x.item()) for x in grid])
    assert (q * (q.log() - bounds)).sum().item() * dx > 0.01
    assert (bounds > q.log()).any()


# Decoders.


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("mean, std", [(0.0, 0.3), (0.98, 0.01), (-3.0, 0.5)])
def test_probabilities_of_all_levels_add_up_to_1(levels, mean, std, device):
    x_0 = torch.linspace(-1, 1, levels, dtype=torch.float64, device=device)[:, None]
    p = Gaussian(torch.full_like(x_0, mean), torch.full_like(x_0, 2 * math.log(std)))
    assert (2 ** -decoder_nll(p, x_0, discretized(levels))).sum().item() == pytest.approx(1, abs=1e-12)


# Bits/dim of an interior pixel, 256 levels, whose estimate is off by N(0, std^2): ERRATA 8's table, by quadrature over
# what it is off by. The errata's own numbers were sampled and lie within 2 % of these.

RESIDUAL_STDS = (0.002, 0.0074, 0.01)
ERRATUM_08 = {
    1e-4: (1.740, 2.088, 2.398),  # beta_1
    T1000.posterior_var[1].item(): (1.354, 1.966, 2.513),  # what the post has at index 0
    1e-20: (1.989, 23.765, 27.703),  # where the first official file clips
}


def residuals(std):
    residual = torch.linspace(-8, 8, 160_001, dtype=torch.float64) * std
    return residual, torch.softmax(-0.5 * (residual / std) ** 2, 0)


def interior_bits(std, var):
    residual, weights = residuals(std)
    x_0 = torch.full((len(residual), 1), 1 / 255, dtype=torch.float64)
    return decoder_nll(Gaussian(x_0 + residual[:, None], torch.full_like(x_0, math.log(var))), x_0), weights


@pytest.mark.parametrize("var", ERRATUM_08)
def test_erratum_08_variance_of_the_last_step_in_bits(var):
    for std, expected in zip(RESIDUAL_STDS, ERRATUM_08[var], strict=True):
        bits, weights = interior_bits(std, var)
        clamped = (weights * bits.clamp(max=-math.log2(1e-12))).sum().item()
        assert clamped == pytest.approx(expected, abs=2e-3)  # the grid hits the edges of the bin within 1e-4 std
        # As the official code has it: the difference of two distribution functions, at least 1e-12.
        ends = [(1 / 255 * side - residuals(std)[0]) / var**0.5 for side in (1, -1)]
        mass = torch.special.ndtr(ends[0]) - torch.special.ndtr(ends[1])
        assert clamped == pytest.approx((weights * -mass.clamp(min=1e-12).log2()).sum().item(), abs=1e-9)


def test_erratum_08_last_row_in_closed_form():
    # With variance 1e-20 a pixel costs nothing inside of its bin and log2(1e12) outside of it.
    for std, expected in zip(RESIDUAL_STDS, ERRATUM_08[1e-20], strict=True):
        outside = math.erfc(1 / 255 / std / math.sqrt(2))
        assert math.log2(1e12) * outside == pytest.approx(expected, abs=1e-3)


def test_erratum_08_without_the_clamp_the_last_row_is_astronomical():
    bits, weights = interior_bits(0.0074, 1e-20)
    assert (weights * bits).sum() > 1e12
    bits, weights = interior_bits(0.0074, 1e-4)
    assert (weights * bits).sum() < 2.1


def test_the_digits_cost_less_on_their_own_17_levels():
    # A bin of 2/16 holds 17 times the probability of one of 2/255: log2(255 / 16) bits less where p is flat.
    x_0 = torch.zeros(1, 64, dtype=torch.float64)
    p = Gaussian(x_0, torch.zeros_like(x_0))
    saved = decoder_nll(p, x_0, eight_bit) - decoder_nll(p, x_0, discretized(17))
    assert saved.item() == pytest.approx(math.log2(255 / 16), abs=2e-3)  # the density falls by 1/16^2/6 over a bin


# Gradients, units, precision.


@every_variance
@pytest.mark.parametrize("decoder", [eight_bit, density])
def test_gradients_are_finite_and_those_of_their_own_branch(variance, decoder):
    # torch.where multiplies the branch that is not taken by 0, and 0 * inf would be NaN.
    t = torch.arange(4)
    x_0, noise = torch.tensor([[0.5], [-0.5], [1.0], [-1.0]]), torch.tensor([[1.0], [0.0], [-3.0], [0.5]])
    x_t = SHORT.q_sample(x_0, t, noise)
    output = output_for(variance, x_t.double(), t).float().requires_grad_()

    def gradient(f):
        return torch.autograd.grad(f(p_from_output(SHORT, epsilon, variance, output, x_t, t)).sum(), output)[0]

    both = gradient(lambda p: vlb_term(SHORT, p, x_0, x_t, t, decoder=decoder))
    assert both.isfinite().all() and both[:, 0].abs().min() > 0
    first = gradient(lambda p: decoder_nll(p, x_0, decoder)[:1])
    rest = gradient(lambda p: posterior_kl(SHORT, p, x_0, x_t, t)[1:])
    torch.testing.assert_close(both, first + rest)


def test_bits_per_dim_do_not_depend_on_the_number_of_dimensions():
    # A sum over pixels would grow with the image; a mean over the batch would hide which image costs what.
    x_0, noise = torch.rand(2, 1, 1, 1).double(), torch.randn(2, 1, 1, 1).double()
    t = torch.tensor([0, 2])

    def bits(shape):
        x, n = x_0.expand(shape), noise.expand(shape)
        x_t = SHORT.q_sample(x, t, n)
        return vlb_term(SHORT, p_from_output(SHORT, epsilon, fixedlarge, 0.5 * n, x_t, t), x, x_t, t)

    assert bits((2, 3, 4, 4)).shape == (2,)
    torch.testing.assert_close(bits((2, 3, 4, 4)), bits((2, 1, 1, 1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_give_float32_terms(dtype):
    t, x_0, output = torch.arange(4), torch.rand(4, 6), torch.randn(4, 12).to(dtype)
    for x, x_t in ((x_0, 0.5 * x_0), (x_0.to(dtype), (0.5 * x_0).to(dtype))):
        p = p_from_output(SHORT, velocity, learned_range, output, x_t, t)
        single = p_from_output(SHORT, velocity, learned_range, output.float(), x_t.float(), t)
        term = vlb_term(SHORT, p, x, x_t, t)
        assert term.dtype == prior_kl(SHORT, x).dtype == torch.float32
        torch.testing.assert_close(term, vlb_term(SHORT, single, x.float(), x_t.float(), t))


# A whole evaluation.


def normal_data(n):
    return torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_monte_carlo_agrees_with_the_exact_bound():
    process = GaussianDiffusion(linear(100, 1e-3, 0.1))
    model = oracle.GaussianData(process, torch.zeros(1, dtype=torch.float64), 1.0).as_model(epsilon)
    generator = torch.Generator().manual_seed(2)
    bits = bits_per_dim(
        model, process, epsilon, all_beta, normal_data(2000), decoder=density, clip=False, generator=generator
    )
    assert abs(bits.total - ENTROPY) < 4 * bits.standard_error < 0.5
    assert bits.total == pytest.approx(bits.prior + bits.terms.sum().item(), abs=1e-12)
    # Per t: (1 - a) / 1 is the variance of x_0 given x_t on N(0, 1) data; 2000 squares of normals, 5 standard errors.
    torch.testing.assert_close(bits.x_0_mse, 1 - process.alphas_bar, rtol=5 * (2 / 2000) ** 0.5, atol=0)


def test_standard_error_is_that_of_the_total():
    # 40 evaluations with other noise and data scatter by it: their variance is chi-squared with 39 degrees of freedom,
    # and its root within a factor 0.6 to 1.5 in all but 1 of 10,000 cases.
    model = MIXTURE.as_model(epsilon)
    runs = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x_0 = torch.randn(30, 1, dtype=torch.float64, generator=generator) / 2
        runs.append(bits_per_dim(model, SHORT, epsilon, fixedlarge, x_0, generator=generator))
    scatter = torch.tensor([run.total for run in runs]).std().item()
    claimed = torch.tensor([run.standard_error for run in runs]).square().mean().sqrt().item()
    assert 0.6 < scatter / claimed < 1.5


def test_batch_size_changes_nothing():
    x_0 = torch.rand(7, 1)
    whole, parts = (
        bits_per_dim(
            MIXTURE.as_model(epsilon),
            SHORT,
            epsilon,
            fixedlarge,
            x_0,
            batch_size=size,
            generator=torch.Generator().manual_seed(3),
        )
        for size in (7, 3)
    )
    torch.testing.assert_close(whole, parts)


def test_all_steps_of_a_respaced_chain_are_those_of_the_base():
    # Decoded with the base's coefficients at the base's steps, judged with the variances of the short chain.
    base = GaussianDiffusion(linear(100, 1e-3, 0.1))
    chain, asked = base.respaced([3, 40, 99]), []
    data = oracle.GaussianData(base, torch.zeros(1, dtype=torch.float64), 1.0)

    def model(x_t, t):
        asked.append(t[0].item())
        return data.as_model(velocity)(x_t, t)

    bits = bits_per_dim(model, chain, velocity, all_beta, normal_data(200), decoder=density, clip=False)
    assert asked == [99, 40, 3] and bits.terms.shape == bits.x_0_mse.shape == (3,)
    # On N(0, 1) data the reverse steps of any chain are Gaussian, so the bound of three big steps is the entropy too.
    assert abs(bits.total - ENTROPY) < 4 * bits.standard_error


def test_first_term_is_the_decoders():
    x_0 = torch.linspace(-1, 1, 17, dtype=torch.float64)[:, None]
    coarse, fine = (
        bits_per_dim(
            MIXTURE.as_model(epsilon),
            SHORT,
            epsilon,
            fixedlarge,
            x_0,
            decoder=discretized(levels),
            generator=torch.Generator().manual_seed(4),
        )
        for levels in (17, 256)
    )
    assert torch.equal(coarse.terms[1:], fine.terms[1:]) and coarse.prior == fine.prior
    assert fine.terms[0] - coarse.terms[0] > 1


def test_clipping_is_on_unless_the_data_leave_the_range():
    x_0 = torch.full((50, 1), 0.9)
    mse = {
        clip: bits_per_dim(lambda x_t, t: 0 * x_t + 2, SHORT, xstart, fixedlarge, x_0, clip=clip).x_0_mse[0].item()
        for clip in (True, False)
    }
    assert mse == {True: pytest.approx(0.01, rel=1e-4), False: pytest.approx(1.21, rel=1e-4)}


class Dropped(nn.Module):
    """Says in which state it was called, and with which labels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = []

    def forward(self, x_t, t, y):
        self.calls.append((self.training, torch.is_grad_enabled(), y.tolist()))
        return self.weight * x_t


def test_network_runs_in_eval_mode_with_its_labels_and_gets_its_mode_back():
    model = Dropped().train()
    bits = bits_per_dim(model, SHORT, epsilon, fixedlarge, torch.zeros(3, 2), y=torch.tensor([5, 6, 7]), batch_size=2)
    assert model.training and torch.is_grad_enabled() and not bits.terms.requires_grad
    assert model.calls == [(False, False, [5, 6]), (False, False, [7])] * 4


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 256])
def test_every_condition_stays_with_its_image(batch_size):
    # A network that is told each image: its label counts it and its image is a copy, so its x_0 is exact. With any
    # other image's condition it would not be.
    x_0 = torch.linspace(-1, 1, 7)[:, None, None].expand(7, 1, 2)
    sizes = []

    def model(x_t, t, y, cond):
        sizes.append(len(x_t))
        return 0.5 * cond + 0.5 * (y.view(-1, 1, 1) / 3 - 1)

    options = {"y": torch.arange(7), "cond": x_0.clone(), "batch_size": batch_size}
    bits = bits_per_dim(model, SHORT, xstart, fixedsmall, x_0, decoder=density, **options)
    torch.testing.assert_close(bits.image_x_0_mse, torch.zeros(4, 7, dtype=torch.float64), rtol=0, atol=1e-12)
    # p is then the posterior itself: no KL but at t = 0, where the density is that of a Gaussian at its mean.
    torch.testing.assert_close(bits.image_terms[1:], torch.zeros(3, 7, dtype=torch.float64), rtol=0, atol=1e-6)
    at_mean = torch.full((7,), 0.5 * math.log2(2 * math.pi * SMALL[1].item()), dtype=torch.float64)
    torch.testing.assert_close(bits.image_terms[0], at_mean, rtol=0, atol=1e-5)
    assert sizes == [len(part) for part in torch.arange(7).split(batch_size)] * 4


@pytest.mark.parametrize(
    "y, got",
    [
        (torch.arange(2), r"shape \(2,\)"),
        (torch.arange(4), r"shape \(4,\)"),
        (torch.tensor(1), r"shape \(\)"),
        (previous_x_0, "a function"),
    ],
)
def test_a_condition_that_is_not_one_for_each_image_is_an_error(y, got):
    with pytest.raises(ValueError, match=f"y must be a tensor with an entry for each of the 3 images, got {got}"):
        bits_per_dim(lambda x_t, t, y: x_t, SHORT, epsilon, fixedlarge, torch.zeros(3, 2), y=y)


@every_variance
@pytest.mark.parametrize("clip", [False, True])
def test_terms_of_every_image_are_its_own(variance, clip):
    # Image by image and step by step, with the same noise: one draw for all images at each step, from T down.
    x_0 = torch.rand(5, 1, dtype=torch.float64) * 2 - 1
    model = partial(output_for, variance)
    options = {"decoder": discretized(17), "clip": clip, "batch_size": 2}
    bits = bits_per_dim(model, SHORT, epsilon, variance, x_0, generator=torch.Generator().manual_seed(6), **options)
    assert bits.priors.shape == bits.totals.shape == (5,)
    assert bits.image_terms.shape == bits.image_x_0_mse.shape == (4, 5)
    assert all(part.dtype == torch.float64 for part in bits)

    generator = torch.Generator().manual_seed(6)
    for i in reversed(range(4)):
        noise = torch.randn(5, 1, dtype=torch.float64, generator=generator)
        for b in range(5):
            one, t = x_0[b : b + 1], torch.tensor([i])
            x_t = ALPHAS_BAR[i].sqrt() * one + (1 - ALPHAS_BAR[i]).sqrt() * noise[b : b + 1]
            output = model(x_t, t)
            p = p_from_output(SHORT, epsilon, variance, output, x_t, t, clip=clip)
            term = vlb_term(SHORT, p, one, x_t, t, decoder=discretized(17)).item()
            assert bits.image_terms[i, b].item() == pytest.approx(term, rel=1e-9)
            estimate = (x_t - (1 - ALPHAS_BAR[i]).sqrt() * output[:, :1]) / ALPHAS_BAR[i].sqrt()
            estimate = estimate.clamp(-1, 1) if clip else estimate
            assert bits.image_x_0_mse[i, b].item() == pytest.approx(((estimate - one) ** 2).item(), rel=1e-9)


def test_averages_are_those_of_the_images():
    x_0 = torch.rand(6, 1, dtype=torch.float64)
    bits = bits_per_dim(MIXTURE.as_model(epsilon), SHORT, epsilon, fixedlarge, x_0)
    assert isinstance(bits.total, float) and isinstance(bits.prior, float) and isinstance(bits.standard_error, float)
    a = ALPHAS_BAR[-1].item()
    priors = [(-a + a * x**2 - math.log(1 - a)) / 2 / math.log(2) for x in x_0[:, 0].tolist()]
    assert bits.priors.tolist() == pytest.approx(priors, rel=1e-9)
    totals = [prior + sum(terms) for prior, terms in zip(priors, bits.image_terms.T.tolist(), strict=True)]
    assert bits.totals.tolist() == pytest.approx(totals, rel=1e-12)
    assert bits.total == pytest.approx(statistics.mean(totals), rel=1e-12)
    assert bits.total == pytest.approx(bits.prior + bits.terms.sum().item(), rel=1e-12)
    assert bits.standard_error == pytest.approx(statistics.stdev(totals) / 6**0.5, rel=1e-9)
    assert bits.terms.tolist() == pytest.approx([statistics.mean(row) for row in bits.image_terms.tolist()])
    assert bits.x_0_mse.tolist() == pytest.approx([statistics.mean(row) for row in bits.image_x_0_mse.tolist()])


def test_a_learned_variance_is_judged_too_and_not_on_a_respaced_chain():
    # The network whose log variances are all log 0.3: a fixed variance of 0.3, written by hand.
    def model(x_t, t):
        return torch.cat([MIXTURE.as_model(epsilon)(x_t, t), torch.full_like(x_t, math.log(0.3))], 1)

    def by_hand(process, i, prediction, x_t):
        return torch.full_like(x_t, math.log(0.3))

    x_0 = torch.rand(6, 1, dtype=torch.float64)
    runs = [
        bits_per_dim(model, SHORT, epsilon, variance, x_0, generator=torch.Generator().manual_seed(7))
        for variance in (learned, by_hand)
    ]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="learned variances are those of the base's steps, got a respaced chain"):
        bits_per_dim(model, SHORT.respaced([0, 3]), epsilon, learned, x_0)


def test_a_single_image_has_no_standard_error():
    bits = bits_per_dim(MIXTURE.as_model(epsilon), SHORT, epsilon, fixedlarge, torch.zeros(1, 1))
    assert math.isfinite(bits.total) and math.isnan(bits.standard_error)


def test_no_images_are_an_error():
    with pytest.raises(ValueError, match=r"at least one image, got shape \(0, 1\)"):
        bits_per_dim(MIXTURE.as_model(epsilon), SHORT, epsilon, fixedlarge, torch.zeros(0, 1))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_no_images_is_an_error(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be positive, got {batch_size}"):
        bits_per_dim(MIXTURE.as_model(epsilon), SHORT, epsilon, fixedlarge, torch.zeros(2, 1), batch_size=batch_size)


def test_progress_is_shown_when_asked_for(capfd):
    bits_per_dim(MIXTURE.as_model(epsilon), SHORT, epsilon, fixedlarge, torch.zeros(1, 1))
    assert capfd.readouterr().err == ""
    bits_per_dim(MIXTURE.as_model(epsilon), SHORT, epsilon, fixedlarge, torch.zeros(1, 1), progress=True)
    assert "bits/dim" in capfd.readouterr().err
