"""Whole chains against closed forms, against diffusers' schedulers, and the mechanics of the generators."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from ddpm_lesson import oracle, spacing
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.predictions import (
    MEAN_TYPES,
    VARIANCES,
    Prediction,
    epsilon,
    fixedlarge,
    fixedsmall,
    learned,
    p_from_prediction,
    velocity,
    xprev,
)
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import State, ancestral, ddim, last, plms, reverse
from ddpm_lesson.schedules import linear

MEAN, STD = 0.3, 0.5  # the data of the closed forms: N(0.3, 0.5^2)

# A schedule and the steps of it that are visited.
CHAINS = {
    "T=1": (linear(1, 0.5), [0]),
    "T=2": (linear(2, 0.1, 0.7), [0, 1]),
    "T=10": (linear(10, 0.01, 0.6), range(10)),
    "T=1000": (linear(1000), range(1000)),
    "10 trailing of 1000": (linear(1000), spacing.trailing(1000, 10)),
    "10 leading of 1000": (linear(1000), spacing.leading(1000, 10)),
    "4 trailing of 1000": (linear(1000), spacing.trailing(1000, 4)),
    "uneven": (linear(1000), [0, 3, 4, 200, 999]),
}
every_chain = pytest.mark.parametrize("name", CHAINS)
every_eta = pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
every_fixed_variance = pytest.mark.parametrize("variance", [fixedlarge, fixedsmall], ids=lambda f: f.__name__)


def base_and_chain(name, device="cpu"):
    betas, steps = CHAINS[name]
    base = GaussianDiffusion(betas).to(device)
    return base, base.respaced(list(steps))


def gaussian_data(base, mean=MEAN, std=STD):
    return oracle.GaussianData(base, torch.tensor([mean], dtype=torch.float64), std)


def noise_levels(name):
    """(alpha_bar_t, alpha_bar of the state one step on) for each step of the chain, last step of the chain first."""
    betas, steps = CHAINS[name]
    products = list(itertools.accumulate((1 - beta for beta in betas.tolist()), lambda a, b: a * b))
    visited = [1.0] + [products[step] for step in steps]
    return list(zip(visited[1:], visited[:-1], strict=True))[::-1]


# The closed forms. With x_0 ~ N(m, s^2) and x_t = sqrt(a) x_0 + sqrt(1 - a) eps the pair (x_0, x_t) is Gaussian with
# covariance sqrt(a) s^2 and Var x_t = a s^2 + 1 - a, so that
#     E[x_0 | x_t] = m + k (x_t - sqrt(a) m),   k = sqrt(a) s^2 / (a s^2 + 1 - a).
# Every step puts this estimate into an expression that is linear in x_0 and x_t. So each step is
#     x' = slope x_t + offset + scale z,   z ~ N(0, 1),
# and mean and variance of the chain follow mean' = slope mean + offset, var' = slope^2 var + scale^2 from (0, 1).


def estimate(a, m, s):
    """Slope and offset in x_t of E[x_0 | x_t]."""
    k = a**0.5 * s**2 / (a * s**2 + 1 - a)
    return k, m - k * a**0.5 * m


def ancestral_step(a, a_prev, variance, m=MEAN, s=STD):
    """Given x_0, x' has the prior N(sqrt(a') x_0, 1 - a'), and x_t = sqrt(a/a') x' + sqrt(beta) z observes it with
    beta = 1 - a/a'. Precisions add: 1/v = 1/(1 - a') + (a/a')/beta, and the mean weighs both by their precision."""
    k, c = estimate(a, m, s)
    if a_prev == 1:  # x' is x_0 itself, and the sample takes no noise
        return k, c, 0.0
    beta = 1 - a / a_prev
    v = 1 / (1 / (1 - a_prev) + (a / a_prev) / beta)
    of_x_0, of_x_t = v * a_prev**0.5 / (1 - a_prev), v * (a / a_prev) ** 0.5 / beta
    return of_x_0 * k + of_x_t, of_x_0 * c, (beta if variance is fixedlarge else v) ** 0.5


def ddim_step(a, a_prev, eta):
    """x' = sqrt(a') x_0 + sqrt(1 - a' - sigma^2) eps + sigma z, where eps = (x_t - sqrt(a) x_0) / sqrt(1 - a) and
    sigma^2 = eta^2 (1 - a')/(1 - a) (1 - a/a'): DDIM Eq. 12 and 16."""
    k, c = estimate(a, MEAN, STD)
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)) ** 0.5
    of_eps = (1 - a_prev - sigma**2) ** 0.5 / (1 - a) ** 0.5
    of_x_0 = a_prev**0.5 - of_eps * a**0.5
    return of_x_0 * k + of_eps, of_x_0 * c, sigma


def measured_steps(sample, device="cpu"):
    """Slope, offset and scale of each step of a sampler, (T, 3), read from its states.

    Eight points with eight noises of known values give eight equations for three unknowns. They are solved to
    rounding only if the step is affine and the sampler takes exactly one normal number per point and step.
    """
    x_T = torch.randn(8, 1, dtype=torch.float64)
    states = list(sample(x_T.to(device), generator=torch.Generator().manual_seed(1)))
    x = torch.stack([state.x_t.cpu() for state in states])  # (T + 1, 8, 1)
    again = torch.Generator().manual_seed(1)
    z = torch.stack([torch.randn(8, 1, dtype=torch.float64, generator=again) for _ in states[1:]])
    inputs = torch.cat([x[:-1], torch.ones_like(z), z], 2)  # (T, 8, 3)
    solution = torch.linalg.lstsq(inputs, x[1:]).solution
    assert (inputs @ solution - x[1:]).abs().max() < 1e-11
    return solution.squeeze(2)


def mean_and_variance(steps):
    mean, var = 0.0, 1.0
    for slope, offset, scale in steps:
        mean, var = slope * mean + offset, slope**2 * var + scale**2
    return mean, var


def assert_steps_agree(measured, expected):
    torch.testing.assert_close(measured, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)
    assert mean_and_variance(measured.tolist()) == pytest.approx(mean_and_variance(expected), rel=1e-9)


@every_chain
@every_fixed_variance
def test_ancestral_chain_on_gaussian_data_has_the_closed_form(name, variance, device):
    base, chain = base_and_chain(name, device)
    p = reverse(chain, gaussian_data(base), variance)
    measured = measured_steps(lambda x_T, generator: ancestral(chain, p, x_T, generator=generator), device)
    assert_steps_agree(measured, [ancestral_step(a, a_prev, variance) for a, a_prev in noise_levels(name)])


@every_chain
@every_eta
def test_ddim_chain_on_gaussian_data_has_the_closed_form(name, eta, device):
    base, chain = base_and_chain(name, device)
    denoise = gaussian_data(base)
    measured = measured_steps(lambda x_T, generator: ddim(chain, denoise, x_T, eta=eta, generator=generator), device)
    assert_steps_agree(measured, [ddim_step(a, a_prev, eta) for a, a_prev in noise_levels(name)])


def test_sampled_points_have_the_mean_and_variance_of_the_closed_form():
    # The standard error of a mean of n Gaussian numbers is sqrt(var / n), of their variance var sqrt(2 / n).
    n, name = 200_000, "10 trailing of 1000"
    base, chain = base_and_chain(name)
    x_0 = last(ancestral(chain, reverse(chain, gaussian_data(base), fixedsmall), torch.randn(n, 1)))
    mean, var = mean_and_variance([ancestral_step(a, a_prev, fixedsmall) for a, a_prev in noise_levels(name)])
    assert x_0.mean().item() == pytest.approx(mean, abs=4 * (var / n) ** 0.5)
    assert x_0.var().item() == pytest.approx(var, abs=4 * var * (2 / n) ** 0.5)


@pytest.mark.parametrize("name", ["T=1000", "10 trailing of 1000"])
def test_fixedlarge_is_the_exact_reverse_step_of_standard_normal_data(name):
    # With x_0 ~ N(0, 1) every x_t is N(0, 1), and x_t = sqrt(a/a') x' + sqrt(beta) z has covariance sqrt(a/a') with
    # x'. So q(x' | x_t) = N(sqrt(a/a') x_t, 1 - a/a'), which is beta. At the last step there is no noise in p.
    base, chain = base_and_chain(name)
    p = reverse(chain, gaussian_data(base, mean=0.0, std=1.0), fixedlarge)
    for i, (a, a_prev) in zip(reversed(range(1, chain.T)), noise_levels(name), strict=False):
        step = p(torch.ones(1, 1, dtype=torch.float64), i).p
        assert step.mean.item() == pytest.approx((a / a_prev) ** 0.5, abs=1e-12)
        assert step.log_var.exp().item() == pytest.approx(1 - a / a_prev, rel=1e-10)


def test_fixedsmall_is_the_exact_reverse_step_of_a_single_point():
    # If x_0 is known, q(x' | x_t) is the posterior given x_0; its precision is 1/(1 - a') + (a/a')/beta.
    name = "T=1000"
    base, chain = base_and_chain(name)
    p = reverse(chain, gaussian_data(base, std=0.0), fixedsmall)
    for i, (a, a_prev) in zip(reversed(range(1, chain.T)), noise_levels(name), strict=False):
        precision = 1 / (1 - a_prev) + (a / a_prev) / (1 - a / a_prev)
        log_var = p(torch.ones(1, 1, dtype=torch.float64), i).p.log_var
        assert log_var.exp().item() == pytest.approx(1 / precision, rel=1e-10)


@pytest.mark.parametrize(
    "name, declared", [("T=1000", 0.9999), ("10 trailing of 1000", 0.897), ("4 trailing of 1000", 0.524)]
)
def test_without_the_last_noise_standard_normal_data_come_out_too_narrow(name, declared):
    # fixedlarge keeps Var x_t = 1 (see above) down to the last step, which multiplies by sqrt(a) and adds nothing:
    # the sample has the variance alpha_bar of the first visited step.
    base, chain = base_and_chain(name)
    p = reverse(chain, gaussian_data(base, mean=0.0, std=1.0), fixedlarge)
    measured = measured_steps(lambda x_T, generator: ancestral(chain, p, x_T, generator=generator))
    _, var = mean_and_variance(measured.tolist())
    assert var == pytest.approx(noise_levels(name)[-1][0], abs=1e-10)
    assert var == pytest.approx(declared, abs=5e-4)


# One place forms p.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["T=10", "10 trailing of 1000"])
@pytest.mark.parametrize("variance", VARIANCES.values(), ids=VARIANCES)
def test_sampling_and_the_bound_step_with_the_same_p(variance, name, dtype):
    # A network with a second half. p by the precisions of `ancestral_step` from its x_0, and by p_from_prediction.
    base, chain = base_and_chain(name)
    chain = base if name == "T=10" else chain

    def model(x_t, t):
        return torch.cat([torch.sin(x_t) * t.view(-1, 1) / 500, -x_t.abs()], 1).to(x_t.dtype)

    p = reverse(chain, make_denoiser(model, base, velocity), variance)
    x_t = torch.linspace(-2, 2, 8).view(4, 2).to(dtype)
    if variance is learned and chain.base is not chain:
        with pytest.raises(ValueError, match="learned variances are those of the base's steps"):
            p(x_t, 0)
        return
    for i, (a, a_prev) in zip(reversed(range(chain.T)), noise_levels(name), strict=True):
        step, at_i = p(x_t, i), torch.full((4,), i)
        again = p_from_prediction(chain, variance, step.prediction, x_t, at_i)
        assert torch.equal(step.p.mean, again.mean)
        assert torch.equal(step.p.log_var.expand(again.log_var.shape), again.log_var)
        assert step.p.mean.dtype == dtype and step.p.log_var.dtype == torch.promote_types(dtype, torch.float32)
        x_0 = step.prediction.x_0
        if i == 0:
            assert torch.equal(step.p.mean, x_0)
        else:
            beta = 1 - a / a_prev
            v = 1 / (1 / (1 - a_prev) + (1 - beta) / beta)
            mean = v * a_prev**0.5 / (1 - a_prev) * x_0.double() + v * (1 - beta) ** 0.5 / beta * x_t.double()
            # Numbers up to 4, in float32 at least, rounded once. In float64 betas from differences of alphas_bar, as
            # they are here, lose some of their digits.
            atol = max(4 * torch.finfo(dtype).eps, 1e-11)
            torch.testing.assert_close(step.p.mean.double(), mean, rtol=0, atol=atol)


# DDIM and ancestral sampling are one family.


def three_points(base):
    means = torch.tensor([[1.5, 0.0], [-0.5, 0.5], [0.0, -1.2]], dtype=torch.float64)
    return oracle.Mixture(base, torch.tensor([0.2, 0.3, 0.5]), means, torch.tensor([0.1, 0.3, 0.0]))


def same_noise(sampler, *args, **kwargs):
    """All states of 16 points in the plane, (T + 1, 16, 2): the same x_T and the same noise for every sampler."""
    x_T = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    states = sampler(*args, x_T, generator=torch.Generator().manual_seed(3), **kwargs)
    return torch.stack([state.x_t for state in states])


@every_chain
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_with_eta_1_is_ancestral_with_fixedsmall(name, clip):
    base, chain = base_and_chain(name)
    denoise = three_points(base)
    if clip:
        free, denoise = denoise, clipped(denoise, base)
        x_t, t = torch.full((1, 2), 1.5, dtype=torch.float64), chain.timestep_map[:1]
        assert not torch.equal(free(x_t, t).x_0, denoise(x_t, t).x_0)  # the clip is at work
    expected = same_noise(ancestral, chain, reverse(chain, denoise, fixedsmall))
    torch.testing.assert_close(same_noise(ddim, chain, denoise, eta=1.0), expected, rtol=0, atol=1e-9)


def test_ddim_with_an_eps_left_from_before_the_clip_is_not_ancestral():
    base, chain = base_and_chain("10 trailing of 1000")
    denoise = three_points(base)

    def half_clipped(x_t, t, prev=None):
        prediction = denoise(x_t, t)
        return prediction._replace(x_0=prediction.x_0.clamp(-1, 1))

    expected = same_noise(ancestral, chain, reverse(chain, half_clipped, fixedsmall))
    assert (same_noise(ddim, chain, half_clipped, eta=1.0) - expected).abs().max() > 0.01


def test_ddims_sigma_hat_is_ancestral_with_fixedlarge_on_the_respaced_chain():
    # DDIM, section 5: x' = sqrt(a') x_0 + sqrt(1 - a' - sigma(1)^2) eps + sigma_hat z, sigma_hat^2 = 1 - a/a'.
    name = "10 leading of 1000"
    base, chain = base_and_chain(name)
    denoise = three_points(base)
    x = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    for (a, a_prev), t in zip(noise_levels(name), reversed(CHAINS[name][1]), strict=True):
        x_0, eps, _ = denoise(x, torch.full((16,), t))
        var = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
        x = a_prev**0.5 * x_0 + (1 - a_prev - var) ** 0.5 * eps
        if a_prev < 1:
            x = x + (1 - a / a_prev) ** 0.5 * torch.randn(16, 2, dtype=torch.float64, generator=generator)
    actual = same_noise(ancestral, chain, reverse(chain, denoise, fixedlarge))[-1]
    torch.testing.assert_close(actual, x, rtol=0, atol=1e-9)


# Respaced chains ask the network at the base's steps and decode with the base's coefficients.


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_network_of_a_respaced_chain_is_asked_at_the_bases_steps(sampler):
    base, _ = base_and_chain("T=1000")
    asked = []

    def model(x_t, t):
        asked.append(t.tolist())
        return torch.zeros_like(x_t)

    chain = base.respaced(spacing.linspace(1000, 5)).respaced([0, 2, 4])
    denoise = make_denoiser(model, base, epsilon)
    x_T = torch.randn(2, 1)
    last(ddim(chain, denoise, x_T) if sampler == "ddim" else ancestral(chain, reverse(chain, denoise, fixedlarge), x_T))
    assert asked == [[999, 999], [500, 500], [0, 0]]


@pytest.mark.parametrize("mean_type", MEAN_TYPES.values(), ids=MEAN_TYPES)
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_respaced_chain_decodes_every_mean_type_as_the_oracle_says(mean_type, sampler):
    base, chain = base_and_chain("10 trailing of 1000")
    truth = three_points(base)
    decoded = make_denoiser(truth.as_model(mean_type), base, mean_type)
    if sampler == "ddim":
        actual, expected = same_noise(ddim, chain, decoded, eta=0.5), same_noise(ddim, chain, truth, eta=0.5)
    else:
        actual = same_noise(ancestral, chain, reverse(chain, decoded, fixedlarge))
        expected = same_noise(ancestral, chain, reverse(chain, truth, fixedlarge))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-7)


def test_decoding_with_the_respaced_coefficients_gives_another_sample():
    # Only xprev shows it: alpha_bar is the same in both tables, the posterior's coefficients are not.
    base, chain = base_and_chain("10 trailing of 1000")
    truth = three_points(base)
    model = truth.as_model(xprev)

    def wrong(x_t, t, prev=None):
        return xprev.decode(chain, x_t, chain.timestep_map.tolist().index(t), model(x_t, t))

    expected = same_noise(ancestral, chain, reverse(chain, truth, fixedlarge))
    assert (same_noise(ancestral, chain, reverse(chain, wrong, fixedlarge)) - expected).abs().max() > 0.1


def test_respaced_chain_in_the_place_of_the_base_is_refused():
    base, chain = base_and_chain("10 trailing of 1000")
    with pytest.raises(ValueError, match="base must be the process the model was trained on, got a chain respaced"):
        make_denoiser(lambda x_t, t: x_t, chain, epsilon)


# diffusers as a witness. Its tables are float32; the cumulative product is given to it in float64, computed here.
# What differs: (a) at the last visited step its ancestral scheduler adds noise unless that step is index 0. With
# trailing steps it is not, and fixed_large then leaves noise in the sample. (b) Its variance at index 0 is 1e-20
# (fixed_small) or beta, here it is index 1's; neither is used. (c) Its DDIM draws a number at the last step and
# multiplies it by 0.

WITNESS_BETAS = linear(50, 1e-3, 0.2)
witness_cases = pytest.mark.parametrize(
    "mean_type, clip, steps",
    [(m, clip, n) for m in ("epsilon", "xstart", "v") for clip in (False, True) for n in (50, 10)],
)
PREDICTION_TYPES = {"epsilon": "epsilon", "xstart": "sample", "v": "v_prediction"}
VARIANCE_TYPES = {fixedlarge: "fixed_large", fixedsmall: "fixed_small"}


def wavy(x_t, t):
    return torch.sin(3 * x_t + 0.1 * t.view(-1, 1))


def witness_start(dtype=torch.float64):
    return torch.linspace(-2, 2, 16, dtype=dtype).view(8, 2), torch.Generator().manual_seed(3)


def witness_states(scheduler, steps, dtype=torch.float64, **step_options):
    """Every state of a diffusers scheduler on `wavy`, (steps + 1, 8, 2)."""
    scheduler.alphas_cumprod = torch.cumprod(1 - WITNESS_BETAS, 0)
    scheduler.set_timesteps(steps)
    x, generator = witness_start(dtype)
    states = [x]
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(wavy(x, torch.full((8,), t)), t, x, generator=generator, **step_options).prev_sample
        states.append(x)
    return torch.stack(states)


def witness_options(mean_type, clip):
    return {
        "num_train_timesteps": 50,
        "prediction_type": PREDICTION_TYPES[mean_type],
        "clip_sample": clip,
        "timestep_spacing": "trailing",
    }


def own_chain(mean_type, clip, steps):
    base = GaussianDiffusion(WITNESS_BETAS)
    denoise = make_denoiser(wavy, base, MEAN_TYPES[mean_type])
    return base.respaced(spacing.trailing(50, steps)), clipped(denoise, base) if clip else denoise


@witness_cases
@every_fixed_variance
def test_ancestral_agrees_with_diffusers(mean_type, clip, steps, variance):
    scheduler = DDPMScheduler(variance_type=VARIANCE_TYPES[variance], **witness_options(mean_type, clip))
    expected = witness_states(scheduler, steps)
    chain, denoise = own_chain(mean_type, clip, steps)
    x_T, generator = witness_start()
    states = ancestral(chain, reverse(chain, denoise, variance), x_T, generator=generator)
    actual = torch.stack([state.x_t for state in states])
    if steps == 10 and variance is fixedlarge:  # (a): the last visited step is index 4
        leftover = (1 - torch.prod(1 - WITNESS_BETAS[:5])).sqrt()
        actual[-1] += leftover * torch.randn(8, 2, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@witness_cases
@every_eta
def test_ddim_agrees_with_diffusers(mean_type, clip, steps, eta):
    scheduler = DDIMScheduler(**witness_options(mean_type, clip))
    expected = witness_states(scheduler, steps, eta=eta, use_clipped_model_output=clip)
    chain, denoise = own_chain(mean_type, clip, steps)
    x_T, generator = witness_start()
    actual = torch.stack([state.x_t for state in ddim(chain, denoise, x_T, eta=eta, generator=generator)])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_float32_chain_agrees_with_diffusers_in_float32():
    scheduler = DDIMScheduler(**witness_options("v", clip=True))
    expected = witness_states(scheduler, 50, torch.float32, eta=0.5, use_clipped_model_output=True)
    chain, denoise = own_chain("v", True, 50)
    x_T, generator = witness_start(torch.float32)
    actual = torch.stack([state.x_t for state in ddim(chain, denoise, x_T, eta=0.5, generator=generator)])
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


# The generators themselves.


class Counting:
    """A denoiser that counts its calls and keeps the predictions that it was handed."""

    def __init__(self):
        self.prev = []

    def __call__(self, x_t, t, prev=None):
        self.prev.append(prev)
        return Prediction(0.5 * x_t, x_t)


def samplers_of(chain, denoise):
    p = reverse(chain, denoise, fixedlarge)
    return {
        "ancestral": lambda x_T, generator=None: ancestral(chain, p, x_T, generator=generator),
        "ddim": lambda x_T, generator=None: ddim(chain, denoise, x_T, eta=1.0, generator=generator),
    }


both_samplers = pytest.mark.parametrize("sampler", ["ancestral", "ddim"])


@both_samplers
@pytest.mark.parametrize("T", [1, 2, 7])
@pytest.mark.parametrize("shape", [(3, 2), (1, 1, 4, 4), (0, 2), (2, 3, 2, 4, 4)])
def test_states_run_from_T_to_0(sampler, T, shape):
    denoise = Counting()
    x_T = torch.randn(shape)
    before = x_T.clone()
    states = list(samplers_of(GaussianDiffusion(linear(T, 0.1, 0.5)), denoise)[sampler](x_T))
    assert [state.i for state in states] == list(range(T, -1, -1))
    assert all(isinstance(state, State) and state.x_t.shape == shape for state in states)
    assert torch.equal(states[0].x_t, before) and torch.equal(x_T, before)
    assert states[0].prediction is None
    assert [state.prediction for state in states[:-1]] == denoise.prev  # each call is handed the one before
    for earlier, later in itertools.pairwise(states):
        torch.testing.assert_close(later.prediction.eps, earlier.x_t)


@both_samplers
def test_nothing_runs_before_it_is_asked_for(sampler):
    denoise = Counting()
    states = samplers_of(GaussianDiffusion(linear(5, 0.1, 0.5)), denoise)[sampler](torch.randn(2, 1))
    assert len(denoise.prev) == 0
    next(states)
    assert len(denoise.prev) == 0
    next(states)
    assert len(denoise.prev) == 1


@both_samplers
def test_generator_decides_the_noise(sampler):
    sample = samplers_of(GaussianDiffusion(linear(5, 0.1, 0.5)), Counting())[sampler]
    x_T = torch.randn(4, 1)
    one, two, other = (last(sample(x_T, torch.Generator().manual_seed(seed))) for seed in (7, 7, 8))
    assert torch.equal(one, two) and not torch.equal(one, other)
    before = torch.get_rng_state()
    last(sample(x_T, torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert torch.equal(last(sample(x_T)), one)  # without a generator it is the CPU's default one


@both_samplers
def test_last_step_adds_no_noise(sampler):
    # 0.5 x_t is the prediction of x_0, and the last step of both samplers returns x_0.
    *_, before, sample = samplers_of(GaussianDiffusion(linear(5, 0.1, 0.5)), Counting())[sampler](torch.randn(4, 1))
    torch.testing.assert_close(sample.x_t, 0.5 * before.x_t, rtol=1e-6, atol=1e-7)


@both_samplers
@pytest.mark.parametrize("T", [1, 2, 7])
def test_every_step_but_the_last_draws_once(sampler, T):
    x_T, used, expected = torch.randn(4, 1), torch.Generator(), torch.Generator()
    last(samplers_of(GaussianDiffusion(linear(T, 0.1, 0.5)), Counting())[sampler](x_T, used))
    for _ in range(T - 1):
        torch.randn(4, 1, generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())


def test_ddim_with_eta_0_draws_no_noise():
    before = torch.get_rng_state()
    last(ddim(GaussianDiffusion(linear(5, 0.1, 0.5)), Counting(), torch.ones(2, 1)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("eta", [-0.1, 1.5, math.nan])
def test_ddim_refuses_an_eta_outside_0_to_1(eta):
    with pytest.raises(ValueError, match=f"eta must lie in 0..1, got {eta}"):
        last(ddim(GaussianDiffusion(linear(2, 0.1, 0.5)), Counting(), torch.randn(2, 1), eta=eta))


@both_samplers
def test_a_chain_runs_where_x_T_is(sampler):
    # Its coefficients are numbers, and the steps go to the denoiser as numbers: the tables may lie elsewhere.
    sample = samplers_of(GaussianDiffusion(linear(3, 0.1, 0.5)), Counting())[sampler]
    assert last(sample(torch.zeros(2, 1, device="meta"))).device.type == "meta"


def test_reverse_takes_another_variance_and_hands_it_everything():
    chain = GaussianDiffusion(linear(4, 0.1, 0.5))
    seen = []

    def variance(process, i, prediction, x_t):
        seen.append((process, i, prediction, x_t))
        return torch.zeros(len(x_t), 1)

    x_t = torch.randn(2, 1)
    step = reverse(chain, Counting(), variance)(x_t, 3)
    assert seen == [(chain, 3, step.prediction, x_t)]
    assert torch.equal(step.p.log_var, torch.zeros(2, 1))


@both_samplers
@pytest.mark.parametrize("callers_grad", [True, False])
def test_generators_leave_the_callers_gradient_mode_and_the_models_mode_alone(sampler, callers_grad):
    chain = GaussianDiffusion(linear(3, 0.1, 0.5))
    model = torch.nn.Linear(1, 1)
    denoise = make_denoiser(lambda x_t, t: model(x_t), chain, epsilon)
    with torch.set_grad_enabled(callers_grad):
        for _ in samplers_of(chain, denoise)[sampler](torch.randn(2, 1)):
            assert torch.is_grad_enabled() == callers_grad
            assert model(torch.ones(1, 1)).requires_grad == callers_grad


@pytest.mark.parametrize("variance", VARIANCES.values(), ids=VARIANCES)
def test_gradients_reach_x_T_through_the_steps_but_not_the_network(variance):
    chain = GaussianDiffusion(linear(3, 0.1, 0.5))
    model = torch.nn.Conv1d(1, 2, 1)
    x_T = torch.randn(2, 1, 4, requires_grad=True)
    denoise = make_denoiser(lambda x_t, t: model(x_t), chain, epsilon)
    last(ancestral(chain, reverse(chain, denoise, variance), x_T)).sum().backward()
    assert x_T.grad.abs().min() > 0 and model.weight.grad is None


@both_samplers
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_samples_keep_the_dtype_of_x_T(sampler, dtype):
    x_0 = last(samplers_of(GaussianDiffusion(linear(5, 0.1, 0.5)), Counting())[sampler](torch.randn(4, 1).to(dtype)))
    assert x_0.dtype == dtype and x_0.isfinite().all()


def test_samples_of_a_mixture_have_its_weights_and_means():
    # n draws: a weight w is seen with a standard error sqrt(w (1 - w) / n), a mean of w n points of variance v with
    # sqrt(v / (w n)), their variance over D coordinates with v sqrt(2 / (D w n)). Near a component the others do not
    # count, so the variance is that of a chain on the component alone. It is narrower: 0.0021 in the place of 0.05^2.
    n, name = 4000, "T=1000"
    base, chain = base_and_chain(name)
    weights, stds = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.1, 0.2, 0.05])
    means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.2]])
    p = reverse(chain, oracle.Mixture(base, weights, means, stds), fixedsmall)
    x_0 = last(ancestral(chain, p, torch.randn(n, 2)))
    nearest = torch.cdist(x_0, means).argmin(1)  # the components lie at least 6 standard deviations apart
    for k, (weight, std) in enumerate(zip(weights.tolist(), stds.tolist(), strict=True)):
        points = x_0[nearest == k]
        steps = [ancestral_step(a, a_prev, fixedsmall, 0.0, std) for a, a_prev in noise_levels(name)]
        _, var = mean_and_variance(steps)
        assert len(points) / n == pytest.approx(weight, abs=4 * (weight * (1 - weight) / n) ** 0.5)
        assert (points.mean(0) - means[k]).abs().max() < 4 * (var / len(points)) ** 0.5
        assert points.var(0).mean().item() == pytest.approx(var, rel=4 * len(points) ** -0.5)


def test_erratum_21_q_leads_into_noise_and_p_back_to_the_data():
    # DDPM Eq. 1 and 2. For N(3, 1) data every step of p but the last is exact with fixedlarge and multiplies by
    # sqrt(alpha_t), so what q leaves of the mean at T, which p does not know of, counts for alpha_bar_T at the end.
    base = GaussianDiffusion(linear(1000))
    left, mean = base.alpha_bar_T, torch.full((1, 1), 3.0, dtype=torch.float64)
    x_T = base.q_marginal(mean, torch.tensor([999])).mean.item()
    assert x_T == pytest.approx(3 * left**0.5, rel=1e-12) and x_T < 0.02
    p, mean, var = reverse(base, gaussian_data(base, 3.0, 1.0), fixedlarge), 0 * mean, 1.0
    for i in reversed(range(1000)):
        step, slope = p(mean, i).p, (p(mean + 1, i).p.mean - p(mean, i).p.mean).item()
        mean, var = step.mean, slope**2 * var + (step.log_var.exp().item() if i > 0 else 0)
    assert mean.item() == pytest.approx(3 * (1 - left), rel=1e-9) and var == pytest.approx(1 - 1e-4, rel=1e-9)


def test_erratum_31_ddims_generation_is_markov():
    # DDIM Eq. 10: whoever is given x_t alone goes on as the whole chain does. PLMS remembers, and does not.
    steps = spacing.trailing(1000, 10)
    base = GaussianDiffusion(linear(1000))
    denoise = oracle.Mixture(base, torch.ones(2), torch.tensor([[1.5, 0.0], [-1.0, 1.0]]), torch.tensor([0.1, 0.3]))
    x_T = torch.randn(5, 2, dtype=torch.float64)
    for sampler, markov in ((ddim, True), (plms, False)):
        *states, end = sampler(base.respaced(steps), denoise, x_T)
        for state in states[3:]:
            again = last(sampler(base.respaced(steps[: state.i]), denoise, state.x_t))
            assert ((again - end.x_t).abs().max() < 1e-10) == markov
