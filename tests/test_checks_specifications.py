"""The specifications of the checks against facts from elsewhere."""

import math

import pytest
import torch

from ddpm_lesson import checks
from ddpm_lesson.networks.blocks import ResBlock
from ddpm_lesson.networks.unet import UNet


def test_linear_betas_reach_the_published_end():
    betas = checks.linear_betas.specification(1e-4, 0.02, 1000)
    assert betas[0] == 1e-4 and betas[-1].item() == pytest.approx(0.02, rel=1e-14)
    assert torch.prod(1 - betas).item() == pytest.approx(4.036e-5, rel=2e-4)


def test_cosine_betas_reach_the_published_end():
    betas = checks.cosine_betas.specification(1000)
    assert betas[0].item() == pytest.approx(4.128e-5, rel=2e-4) and betas[-1] == 0.999
    assert torch.prod(1 - betas).item() == pytest.approx(2.43e-9, rel=2e-3)


def chain():
    betas = checks.linear_betas.specification(1e-4, 0.02, 1000)
    return betas, torch.cumprod(1 - betas, 0)


def test_q_sample_and_x_0_from_eps_undo_each_other():
    _, alphas_bar = chain()
    x_0, noise, t = torch.tensor([[0.5, -1.0]] * 2), torch.tensor([[0.25, 2.0]] * 2), torch.tensor([0, 999])
    x_t = checks.q_sample.specification(x_0, t, noise, alphas_bar)
    assert torch.allclose(checks.x_0_from_eps.specification(x_t, t, noise, alphas_bar), x_0.double(), atol=1e-12)


def test_q_sample_is_a_chain_of_single_steps():
    """Mean and variance pushed through the steps one by one."""
    betas, alphas_bar = chain()
    mean, var = 1.0, 0.0
    for beta in betas.tolist():
        mean, var = math.sqrt(1 - beta) * mean, (1 - beta) * var + beta
    one, zero, t = torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([999])
    assert checks.q_sample.specification(one, t, zero, alphas_bar).item() == pytest.approx(mean, rel=1e-11)
    assert checks.q_sample.specification(zero, t, one, alphas_bar).item() ** 2 == pytest.approx(var, rel=1e-11)


def test_x_0_from_eps_amplifies_an_error_as_published():
    """ERRATA 6: 157.4 times at t = 999."""
    _, alphas_bar = chain()
    x_0 = checks.x_0_from_eps.specification(torch.zeros(1, 1), torch.tensor([999]), torch.ones(1, 1), alphas_bar)
    assert -x_0.item() == pytest.approx(157.4, abs=0.05)


@pytest.mark.parametrize(("t", "inverse"), [(1, 1.83), (100, 52.9), (500, 327), (999, 7791)])
def test_posterior_mean_has_the_published_condition(t, inverse):
    """ERRATA 5: 1 / coef1."""
    betas, _ = chain()
    coef1, _ = checks.posterior.specification(torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([t]), betas)
    assert 1 / coef1.item() == pytest.approx(inverse, rel=3e-3)


def test_posterior_variance_of_index_1_is_the_published():
    """ERRATA 7: its logarithm is -9.82."""
    betas, _ = chain()
    _, var = checks.posterior.specification(torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([0, 1]), betas)
    assert var[0] == 0 and math.log(var[1].item()) == pytest.approx(-9.82, abs=0.005)


def test_respaced_betas_keep_alphas_bar():
    _, alphas_bar = chain()
    timesteps = torch.tensor([9, 10, 500, 999])
    betas = checks.respaced_betas.specification(alphas_bar, timesteps)
    assert torch.allclose(torch.cumprod(1 - betas, 0), alphas_bar[timesteps], rtol=1e-12, atol=0)


def test_extract_is_a_look_up():
    v = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float16)
    out = checks.extract.specification(v, torch.tensor([2, 0]), (2, 3, 4))
    assert out.dtype == torch.float16 and out.tolist() == [[[0.125]], [[0.5]]]


def test_gaussian_kl_is_an_expectation_of_log_ratios():
    """By quadrature over the first Gaussian."""
    parts = 0.5, 0.25, -1.0, 2.0
    m_1, v_1, m_2, v_2 = parts
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    log_1, log_2 = ((-((x - m) ** 2) / v - math.log(2 * math.pi * v)) / 2 for m, v in [(m_1, v_1), (m_2, v_2)])
    integral = torch.trapezoid(log_1.exp() * (log_1 - log_2), x).item()
    kl = checks.gaussian_kl.specification(*(torch.tensor([part]) for part in parts)).item()
    assert kl == pytest.approx(integral, rel=1e-9)


def test_mean_from_eps_is_the_posterior_mean_of_the_estimated_x_0():
    betas, alphas_bar = chain()
    x_t, eps, t = (
        torch.tensor([[0.5], [-1.0], [2.0]]),
        torch.tensor([[0.25], [1.5], [-1.0]]),
        torch.tensor([0, 300, 999]),
    )
    x_0 = checks.x_0_from_eps.specification(x_t, t, eps, alphas_bar)
    mean, _ = checks.posterior.specification(x_0, x_t, t, betas)
    assert torch.allclose(checks.mean_from_eps.specification(x_t, t, eps, betas), mean, rtol=1e-10, atol=0)


def test_vlb_weight_is_the_kl_of_an_error_of_1_in_eps():
    """Two Gaussians of the posterior's variance, their means one eps apart."""
    betas, _ = chain()
    t, zero = torch.tensor([1, 300, 999]), torch.zeros(3, 1)
    means = [checks.mean_from_eps.specification(zero, t, zero + eps, betas) for eps in (0, 1)]
    var = checks.posterior.specification(zero, zero, t, betas)[1]
    table = torch.ones_like(betas)
    table[t] = var[:, 0]
    kl = checks.gaussian_kl.specification(means[0], var, means[1], var)[:, 0]
    assert torch.allclose(checks.vlb_weight.specification(betas, table)[t], kl, rtol=1e-9, atol=0)


def test_simple_loss_is_0_for_the_network_that_knows_x_0():
    betas, alphas_bar = chain()
    x_0, noise, t = torch.tensor([[0.5], [-1.0]]), torch.tensor([[0.25], [2.0]]), torch.tensor([0, 999])
    a_bar = alphas_bar[t][:, None]
    knows = lambda x_t, t: (x_t - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()  # noqa: E731
    assert checks.simple_loss.specification(knows, x_0, t, noise, alphas_bar).abs().max() < 1e-20


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_probabilities_add_up_to_1(levels):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    mean, std = torch.tensor([-0.9, 0.1, 1.2]).expand(levels, 3), torch.tensor([0.4, 0.5, 1.0])
    log_prob = checks.discretized_log_prob.specification(x.expand(levels, 3), mean, std, levels)
    assert torch.allclose(log_prob.exp().sum(0), torch.ones(3).double(), rtol=1e-12, atol=0)


def test_cases_of_discretized_log_prob_are_within_reach_of_a_plain_difference():
    """No probability that cancellation or the official clamp at 1e-12 would change."""
    for case in checks.discretized_log_prob.cases:
        assert checks.discretized_log_prob.specification(*case.args).min() > math.log(1e-8)


def test_min_snr_weights_are_one_loss_in_three_terms():
    """An error in x_0 of 1 is one of sqrt(snr) in eps and of sqrt(snr + 1) in v."""
    snr = torch.tensor([0.0, 0.25, 5.0, 4000.0], dtype=torch.float64)
    eps, x_0, v = checks.min_snr_weights.specification(snr, 5.0)
    assert eps.tolist() == [1, 1, 1, 5 / 4000]
    assert torch.allclose(eps * snr, x_0, rtol=1e-14) and torch.allclose(v * (snr + 1), x_0, rtol=1e-14)


def test_time_table_turns_by_one_angle_a_step():
    """Row t + s is row t, each pair turned by s times its frequency: what the network can read off."""
    table = checks.time_table.specification(1000, 6)
    sin, cos = table[:, 0::2], table[:, 1::2]
    assert torch.allclose(sin[7:], sin[:-7] * cos[7] + cos[:-7] * sin[7], rtol=0, atol=1e-12)
    assert table[1, 0].item() == math.sin(1) and table[1, 4].item() == pytest.approx(10000 ** (-2 / 3), rel=1e-5)


def test_lowest_frequency_of_time_table_is_the_published():
    """ERRATA 18: 1.155e-4, and not 1.0e-4, with 128 channels."""
    assert checks.time_table.specification(2, 128)[1, 126].item() == pytest.approx(1.155e-4, rel=5e-4)


def test_group_norm_leaves_mean_0_and_variance_1():
    x, ones = torch.arange(48.0).reshape(2, 4, 2, 3) ** 2, torch.ones(4)
    groups = checks.group_norm.specification(x, 2, ones, 0 * ones).reshape(2, 2, -1)
    assert torch.allclose(groups.mean(2), torch.zeros(2, 2).double(), rtol=0, atol=1e-12)
    assert torch.allclose(groups.var(2, correction=0), torch.ones(2, 2).double(), rtol=1e-6)


def test_add_time_is_the_same_at_every_pixel():
    h, temb, weight, bias = torch.zeros(2, 3, 2, 2), torch.tensor([[0.0], [2.0]]), torch.eye(3)[:, :1], torch.ones(3)
    added = checks.add_time.specification(h, temb, weight, bias)
    assert torch.equal(added, added[:, :, :1, :1].expand_as(added))
    swish = 2 / (1 + math.exp(-2))
    assert added[:, :, 0, 0].tolist() == [[1, 1, 1], [pytest.approx(1 + swish), 1, 1]]


def test_attention_without_a_preference_is_the_mean_and_with_a_strong_one_a_look_up():
    v = torch.arange(12.0).reshape(1, 2, 2, 3)
    mean = checks.attention.specification(0 * v, v, v)
    assert torch.allclose(mean, v.double().mean((2, 3), keepdim=True).expand_as(mean), rtol=1e-14)
    key = torch.eye(6).reshape(1, 6, 2, 3)
    v = torch.arange(36.0).reshape(1, 6, 2, 3)
    assert torch.allclose(checks.attention.specification(1000 * key, key, v), v.double(), rtol=1e-14)


def test_skip_channels_are_those_of_the_cifar_network():
    expected = [512, 512, 512, 512, 512, 512, 512, 512, 384, 384, 256, 256]
    assert checks.skip_channels.specification(128, [1, 2, 2, 2], 2) == expected
    with torch.device("meta"):
        unet = UNet(10, 128, [1, 2, 2, 2], [], 2, 0.0)
    assert [block.block1[2].in_channels for block in unet.upblocks if isinstance(block, ResBlock)] == expected


def test_down_same_keeps_the_pixels_at_even_places():
    """A kernel with a 1 in its corner takes pixel (2i, 2j); in its opposite corner (2i + 2, 2j + 2), or zero."""
    x, corner = torch.arange(1.0, 25.0).reshape(1, 1, 4, 6), torch.zeros(1, 1, 3, 3)
    corner[..., 0, 0] = 1
    assert torch.equal(checks.down_same.specification(x, corner), x[:, :, ::2, ::2].double())
    shifted = checks.down_same.specification(x, corner.flip(2, 3))
    assert shifted[0, 0].tolist() == [[15, 17, 0], [0, 0, 0]]


@pytest.mark.parametrize("sizes", [(32, 32, 128), (32, 64, 128), (96, 32, 128)])
def test_res_block_parameters_are_those_of_the_network(sizes):
    block = ResBlock(*sizes, dropout=0.1)
    assert checks.res_block_parameters.specification(*sizes) == sum(p.numel() for p in block.parameters())
