import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_lesson import schedules
from ddpm_lesson.schedules import SCHEDULES, betas_from_alphas_bar, zero_terminal_snr

EPS = torch.finfo(torch.float64).eps
NAMES = list(SCHEDULES)


def alpha_bar_T(betas):
    return torch.prod(1 - betas).item()


def assert_betas(betas, expected, *, atol=0.0, rtol=4 * EPS):
    expected = torch.tensor([float(value) for value in expected], dtype=torch.float64)
    torch.testing.assert_close(betas, expected, atol=atol, rtol=rtol)


# What every schedule has in common.


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(T=st.integers(21, 4000))
def test_every_schedule_is_T_variances_in_float64(name, T):
    betas = SCHEDULES[name](T)
    assert betas.shape == (T,) and betas.dtype == torch.float64
    assert ((betas > 0) & (betas <= 1)).all() and (betas[:-1] < 1).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"linear_scaled"}))
@pytest.mark.parametrize("T", [1, 2, 3])
def test_schedules_of_one_to_three_steps_exist(name, T):
    betas = SCHEDULES[name](T)
    assert betas.shape == (T,) and ((betas > 0) & (betas <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_default_dtype_of_torch_does_not_matter(name):
    expected = SCHEDULES[name](50)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(SCHEDULES[name](50), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_T_may_be_a_numpy_integer():
    assert torch.equal(schedules.linear(np.int64(5)), schedules.linear(5))


# The numbers that the literature and the reference sheet give for T = 1000. Digits as quoted there.


@pytest.mark.parametrize(
    "name, first, last, end",
    [
        ("linear", "1e-04", "2e-02", "4.036e-05"),
        ("quadratic", "1e-04", "2e-02", "7.33e-04"),
        ("constant", "2e-02", "2e-02", "1.68e-09"),
        ("jsd", "1e-03", "1e+00", "0e+00"),
        ("warmup10", "1e-04", "2e-02", "4.61e-09"),
        ("warmup50", "1e-04", "2e-02", "2.61e-07"),
        ("cosine", "4.128e-05", "9.99e-01", "2.43e-09"),
        ("sigmoid", "3.003e-04", "9.99e-01", "3.0e-07"),
        ("geometric", "1e-04", "2e-02", "2e-02"),
    ],
)
def test_published_ends_of_the_schedules(name, first, last, end):
    betas = SCHEDULES[name](1000)
    for value, quoted in ((betas[0].item(), first), (betas[-1].item(), last), (alpha_bar_T(betas), end)):
        digits = len(quoted.split("e")[0].replace(".", "")) - 1
        assert f"{value:.{digits}e}" == quoted


@pytest.mark.parametrize("name, quoted", [("linear", "4.036e-05"), ("cosine", "2.43e-09")])
def test_terminal_snr_of_lin_et_al(name, quoted):
    end = alpha_bar_T(SCHEDULES[name](1000))
    assert f"{end / (1 - end):.{len(quoted) - 6}e}" == quoted


@pytest.mark.parametrize(
    "schedule, quoted",
    [(schedules.vp, [0.4783, 0.8492, 0.9564, 0.9874]), (schedules.vp_paper, [0.4763, 0.8490, 0.9565, 0.9875])],
)
def test_four_steps_of_the_vp_sde(schedule, quoted):
    assert [round(beta, 4) for beta in schedule(4).tolist()] == quoted


def test_four_vp_steps_reach_the_prior():
    ends = torch.cumprod(1 - schedules.vp(4), 0).tolist()
    assert [f"{end:.2e}" for end in ends] == ["5.22e-01", "7.87e-02", "3.43e-03", "4.32e-05"]


# Each schedule against its formula, evaluated a second time by numpy, by mpmath or by exact fractions.


@pytest.mark.parametrize("T", [1, 2, 10, 1000, 4000])
def test_linear_is_numpys_linspace(T):
    assert_betas(schedules.linear(T), np.linspace(1e-4, 0.02, T))


@pytest.mark.parametrize("T", [1, 2, 10, 1000, 4000])
def test_quadratic_squares_evenly_spaced_roots(T):
    assert_betas(schedules.quadratic(T), np.linspace(1e-4**0.5, 0.02**0.5, T) ** 2, rtol=8 * EPS)


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
def test_jsd_is_one_over_the_steps_that_remain(T):
    assert_betas(schedules.jsd(T), [Fraction(1, T - t) for t in range(T)])


def test_jsd_takes_away_the_same_share_of_the_image_at_every_step():
    alphas_bar = torch.cumprod(1 - schedules.jsd(10), 0)
    torch.testing.assert_close(alphas_bar, torch.linspace(0.9, 0, 10, dtype=torch.float64), atol=4 * EPS, rtol=0)


@pytest.mark.parametrize("T, rising", [(1, 0), (3, 1), (10, 5), (1000, 500)])
def test_warmup50_rises_for_half_of_the_steps(T, rising):
    assert_betas(schedules.warmup50(T), [*np.linspace(1e-4, 0.02, rising), *[0.02] * (T - rising)])


@pytest.mark.parametrize("T, rising", [(1, 0), (10, 1), (30, 3), (1000, 100)])
def test_warmup10_rises_for_a_tenth_of_the_steps(T, rising):
    assert_betas(schedules.warmup10(T), [*np.linspace(1e-4, 0.02, rising), *[0.02] * (T - rising)])


@pytest.mark.parametrize("T", [1, 2, 10, 1000, 4000])
def test_cosine_against_fifty_digits(T):
    """Near u = 1 the cosine is about 1.6 (1 - u) and its argument is rounded by 2 EPS: a relative error of EPS * T."""
    with mp.workdps(50):
        curve = [mp.cos((mp.mpf(t) / T + mp.mpf("0.008")) / mp.mpf("1.008") * mp.pi / 2) ** 2 for t in range(T + 1)]
        betas = [min(1 - curve[t + 1] / curve[t], mp.mpf("0.999")) for t in range(T)]
    assert_betas(schedules.cosine(T), betas, atol=4 * EPS * max(T, 4))


@pytest.mark.parametrize("T", [1, 2, 10, 1000, 4000])
def test_sigmoid_against_fifty_digits(T):
    """Near the end the curve's distance from its last value is 0.3 / T, and both are rounded by EPS."""

    def curve(t):
        return 1 / (1 + mp.exp(3 - 6 * mp.mpf(t) / T))

    with mp.workdps(50):
        left = [(curve(T) - curve(t)) / (curve(T) - curve(0)) for t in range(T + 1)]
        betas = [min(1 - left[t + 1] / left[t], mp.mpf("0.999")) for t in range(T)]
    assert_betas(schedules.sigmoid(T), betas, atol=4 * EPS * max(T, 4))


@pytest.mark.parametrize("T", [1, 2, 10, 1000, 4000])
@pytest.mark.parametrize("ends", [(1e-4, 0.02), (0.02, 1e-4), (1e-5, 1.0)])
def test_sigmoid_betas_against_fifty_digits(T, ends):
    """T = 1 has the first u only, -6. The float -6 + 12 t / (T - 1) is rounded by 6 EPS; sigmoid' is at most 1/4."""
    with mp.workdps(50):
        u = [-6 + mp.mpf(12 * t) / max(T - 1, 1) for t in range(T)]
        betas = [mp.mpf(ends[0]) + (mp.mpf(ends[1]) - mp.mpf(ends[0])) / (1 + mp.exp(-value)) for value in u]
    assert_betas(schedules.sigmoid_betas(T, *ends), betas, atol=4 * EPS * max(ends))


def test_sigmoid_betas_are_symmetric_about_the_middle():
    betas = schedules.sigmoid_betas(1000)
    torch.testing.assert_close(betas + betas.flip(0), torch.full_like(betas, 0.0201), atol=4 * EPS, rtol=0)


@pytest.mark.parametrize("T", [2, 10, 1000])
def test_geometric_grows_by_one_factor(T):
    assert_betas(schedules.geometric(T), np.geomspace(1e-4, 0.02, T), rtol=64 * EPS)


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
def test_geometric_variance_multiplies_the_whole_variance_by_one_factor(T):
    variance = 1 - torch.cumprod(1 - schedules.geometric_variance(T), 0)
    expected = 1e-4 * 9999 ** (torch.arange(1, T + 1, dtype=torch.float64) / T)
    torch.testing.assert_close(variance, expected, atol=2 * EPS * (T + 2), rtol=0)


@pytest.mark.parametrize("T", [2, 4, 1000])
def test_geometric_variance_adds_at_once_what_the_published_code_takes_as_given(T):
    """Their T + 1 variances, here from t = 0 exactly: all ratios but the first are ours, and that one lacks var_min."""
    variance = 1e-4 * (0.9999 / 1e-4) ** (np.arange(T + 1) / T)
    theirs, ours = 1 - (1 - variance[1:]) / (1 - variance[:-1]), schedules.geometric_variance(T)
    # The last 1 - variance is 1e-4: rounding by EPS / 2 is EPS / 2e-4 of it, and its ratio carries that.
    assert_betas(ours[1:], theirs[1:], atol=EPS / 1e-4)
    assert (1 - ours[0]).item() == pytest.approx((1 - theirs[0]) * (1 - 1e-4), rel=4 * EPS)


@pytest.mark.parametrize("T", [1, 2, 4, 1000])
def test_vp_as_the_published_code_computes_it(T):
    """The code forms 1 - variance, which loses EPS / 4e-5 of its relative precision at the end."""
    u = np.linspace(1e-3, 1, T + 1)
    signal = 1 - (1 - np.exp(2 * (-0.25 * u**2 * (20 - 0.1) - 0.5 * u * 0.1)))
    assert_betas(schedules.vp(T), 1 - signal[1:] / signal[:-1], atol=4 * EPS / 4e-5)


@pytest.mark.parametrize("T", [1, 2, 4, 1000])
def test_vp_paper_is_the_formula_of_the_appendix(T):
    t = np.arange(1, T + 1)
    # The exponent is a difference of numbers up to 10.05: it is rounded by 10 EPS.
    assert_betas(schedules.vp_paper(T), 1 - np.exp(-0.1 / T - 19.9 * (2 * t - 1) / (2 * T**2)), atol=16 * EPS)


def test_linear_scaled_is_linear_at_a_thousand_steps():
    assert torch.equal(schedules.linear_scaled(1000), schedules.linear(1000))


@pytest.mark.parametrize("T", [21, 50, 100, 4000])
def test_linear_scaled_reaches_the_prior_in_any_number_of_steps(T):
    assert_betas(schedules.linear_scaled(T)[[0, -1]], [0.1 / T, 20 / T])
    assert alpha_bar_T(schedules.linear_scaled(T)) < 5e-5


def test_named_is_the_schedule_with_its_defaults():
    assert torch.equal(schedules.named("cosine", 7), schedules.cosine(7))


# diffusers.


def test_linear_and_cosine_are_those_of_diffusers():
    """diffusers keeps betas in float32: half a unit in the last place, and a whole one in its float32 linspace."""
    linear, cosine = DDPMScheduler().betas, DDPMScheduler(beta_schedule="squaredcos_cap_v2").betas
    torch.testing.assert_close(schedules.linear(1000).float(), linear, rtol=2**-22, atol=0)
    torch.testing.assert_close(schedules.cosine(1000).float(), cosine, rtol=2**-23, atol=0)


def test_quadratic_is_the_scaled_linear_of_diffusers():
    theirs = DDPMScheduler(beta_schedule="scaled_linear").betas
    torch.testing.assert_close(schedules.quadratic(1000).float(), theirs, rtol=2**-21, atol=0)


def test_the_sigmoid_of_diffusers_is_sigmoid_betas():
    """Theirs bends the betas, between 1e-4 and 0.02; our `sigmoid` bends alphas_bar and ends at 0.999."""
    theirs = DDPMScheduler(beta_schedule="sigmoid").betas
    # float32 rounds u = -6..6 by 2^-22, of which the sigmoid keeps relatively at most that much.
    torch.testing.assert_close(schedules.sigmoid_betas(1000).float(), theirs, rtol=2**-21, atol=0)
    assert theirs.max() < 0.02 < schedules.sigmoid(1000).max()


# Zero terminal SNR.


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"jsd"}))
def test_zero_terminal_snr_shifts_and_scales_the_root(name):
    """sqrt(alphas_bar) is mapped by one straight line: the first value stays, the last becomes exactly 0."""
    betas = SCHEDULES[name](100)
    root = torch.cumprod(1 - betas, 0).sqrt()
    alphas_bar = torch.cumprod(1 - zero_terminal_snr(betas), 0)
    assert alphas_bar[-1] == 0 and zero_terminal_snr(betas)[-1] == 1
    line = root[0] * (root - root[-1]) / (root[0] - root[-1])
    torch.testing.assert_close(alphas_bar.sqrt(), line, atol=1e-13, rtol=0)


def test_zero_terminal_snr_is_that_of_diffusers():
    """Each alphas_bar carries the rounding of a difference, a product and a quotient, doubled by the square."""
    betas = schedules.linear(1000)
    torch.testing.assert_close(zero_terminal_snr(betas), rescale_zero_terminal_snr(betas), atol=8 * EPS, rtol=0)


def test_zero_terminal_snr_leaves_its_input_alone_and_works_in_float64():
    betas = schedules.linear(10).float()
    kept = betas.clone()
    assert zero_terminal_snr(betas).dtype == torch.float64
    assert torch.equal(betas, kept)


def test_zero_terminal_snr_works_on_the_device_of_its_input(device):
    assert zero_terminal_snr(schedules.linear(10).to(device)).device.type == device.type


def test_zero_terminal_snr_ignores_the_default_device():
    betas = schedules.linear(10)
    expected = zero_terminal_snr(betas)
    with torch.device("meta"):
        rescaled = zero_terminal_snr(betas)
    assert torch.equal(rescaled, expected)


def test_a_schedule_needs_a_device_that_holds_numbers():
    with torch.device("meta"), pytest.raises(ValueError, match="a schedule is made of numbers"):
        schedules.linear(10)


@pytest.mark.parametrize("betas", [torch.full((1,), 0.5), torch.full((2, 2), 0.5)])
def test_zero_terminal_snr_needs_two_betas(betas):
    with pytest.raises(ValueError, match=r"\(T,\) with T >= 2, got shape \(" + str(betas.shape[0])):
        zero_terminal_snr(betas)


# betas from alphas_bar.


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 0.99), min_size=1, max_size=20))
def test_betas_from_alphas_bar_inverts_the_cumulative_product(betas):
    betas = torch.tensor(betas, dtype=torch.float64)
    alphas_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])
    torch.testing.assert_close(betas_from_alphas_bar(alphas_bar), betas, atol=4 * EPS, rtol=0)


def test_betas_from_alphas_bar_caps():
    alphas_bar = torch.tensor([1.0, 0.5, 0.0])
    assert betas_from_alphas_bar(alphas_bar).tolist() == [0.5, 1.0]
    assert betas_from_alphas_bar(alphas_bar, max_beta=0.75).tolist() == [0.5, 0.75]


@pytest.mark.parametrize(
    "alphas_bar, got",
    [
        ([1.0, 0.5, 0.6], "0.6"),  # rises
        ([1.0, 0.5, 0.5], "0.5"),  # stands still
        ([1.0, 0.5, -0.1], "-0.1"),
        ([1.0, math.nan], "nan"),
        ([[1.0, 0.5]], r"\(1, 2\)"),
    ],
)
def test_betas_from_alphas_bar_refuses_what_is_no_chain(alphas_bar, got):
    with pytest.raises(ValueError, match=f"(?s)alphas_bar must.*got.*{got}"):
        betas_from_alphas_bar(torch.tensor(alphas_bar))


# Bad input.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("T", [0, -1, 2.5, True, "10", None, np.float64(10)])
def test_T_must_be_a_positive_integer(name, T):
    with pytest.raises(ValueError, match="T must be a positive integer, got"):
        SCHEDULES[name](T)


@pytest.mark.parametrize("name", ["linear", "quadratic", "warmup10", "warmup50", "sigmoid_betas", "geometric"])
@pytest.mark.parametrize("beta", [0, -0.1, 1.5, math.nan])
def test_beta_1_and_beta_T_must_be_variances(name, beta):
    with pytest.raises(ValueError, match=f"beta_1 is a variance and must lie in .0, 1., got {beta}"):
        SCHEDULES[name](10, beta, 0.02)
    with pytest.raises(ValueError, match=f"beta_T is a variance and must lie in .0, 1., got {beta}"):
        SCHEDULES[name](10, 1e-4, beta)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: schedules.constant(10, 0.0), "beta is a variance.*got 0"),
        (lambda: schedules.cosine(10, s=-0.1), "s must not be negative, got -0.1"),
        (lambda: schedules.cosine(10, max_beta=1.1), "max_beta is a variance.*got 1.1"),
        (lambda: schedules.sigmoid(10, start=3, end=-3), "start must be below end, got 3 and -3"),
        (lambda: schedules.sigmoid(10, start=math.nan), "start must be below end, got nan"),
        (lambda: schedules.sigmoid(10, max_beta=0), "max_beta is a variance.*got 0"),
        (lambda: schedules.geometric_variance(10, 0.5, 0.1), "0 < var_min < var_max <= 1, got 0.5 and 0.1"),
        (lambda: schedules.geometric_variance(10, 0.0, 0.1), "0 < var_min < var_max <= 1, got 0.0 and 0.1"),
        (lambda: schedules.vp(4, 20, 0.1), "0 < beta_min <= beta_max, got 20 and 0.1"),
        (lambda: schedules.vp_paper(4, 0, 1), "0 < beta_min <= beta_max, got 0 and 1"),
        (lambda: schedules.vp(4, t_min=1.0), r"t_min must lie in \[0, 1\), got 1.0"),
    ],
)
def test_other_arguments_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("T", [1, 10, 20])
def test_linear_scaled_refuses_chains_that_would_need_beta_1(T):
    with pytest.raises(ValueError, match=f"got {20 / T:g} at T = {T}; take T > 20, or the vp or cosine"):
        schedules.linear_scaled(T)


def test_an_unknown_schedule_lists_those_that_exist():
    with pytest.raises(ValueError, match=f"unknown schedule 'exponential'; there are {', '.join(NAMES)}"):
        schedules.named("exponential", 10)


# What the post gets wrong.


def test_erratum_10_betas_are_float64_from_the_start():
    exact = [Fraction(1e-4) + (Fraction(0.02) - Fraction(1e-4)) * t / 999 for t in range(1000)]

    def relative_error(betas):
        return max(abs(Fraction(beta) / true - 1) for beta, true in zip(betas.tolist(), exact, strict=True))

    post = torch.linspace(1e-4, 0.02, 1000).double()  # float32 first
    assert 1.0e-7 < relative_error(post) < 1.2e-7
    assert relative_error(schedules.linear(1000)) < 2 * EPS


def test_erratum_26_betas_that_grow_exponentially_do_not_reach_the_prior():
    """The post's "exponential growth" read literally stops at 0.0228, where the linear schedule reaches 4e-5."""
    assert torch.prod(1 - schedules.geometric(1000)).item() == pytest.approx(0.0228, abs=5e-5)
    assert torch.prod(1 - schedules.linear(1000)).item() == pytest.approx(4.036e-5, rel=1e-3)
