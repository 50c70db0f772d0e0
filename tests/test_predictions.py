"""What a network's output means, the variances, and p(x_{t-1} | x_t) from both."""

import pytest
import torch

from ddpm_lesson import oracle
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.predictions import (
    MEAN_TYPES,
    VARIANCES,
    Prediction,
    decode,
    epsilon,
    fixedlarge,
    fixedsmall,
    learned,
    learned_range,
    mean_type_named,
    p_from_output,
    p_from_prediction,
    split,
    variance_named,
    velocity,
    xprev,
    xstart,
)
from ddpm_lesson.process import GaussianDiffusion, Noised
from ddpm_lesson.schedules import jsd, linear

every_mean_type = pytest.mark.parametrize("mean_type", MEAN_TYPES.values(), ids=MEAN_TYPES)


def noised(base, shape=(6, 3, 4, 4), dtype=torch.float64, device="cpu"):
    """A draw with the first and the last step among the t."""
    x_0, noise = (torch.randn(shape, dtype=torch.float64).to(device, dtype) for _ in range(2))
    t = torch.randint(base.T, shape[:1])
    t[:2] = torch.tensor([0, base.T - 1])
    t = t.to(device)
    return Noised(x_0, t, noise, base.q_sample(x_0, t, noise))


# Meanings of an output.


@every_mean_type
@pytest.mark.parametrize("T", [1, 2, 1000])
@pytest.mark.parametrize("shape", [(6, 2), (6, 3, 4, 4), (6, 3, 2, 4, 4)])
def test_decoding_the_target_gives_x_0_and_noise_back(mean_type, T, shape, device):
    base = GaussianDiffusion(linear(T)).to(device)
    x_0, t, noise, x_t = drawn = noised(base, shape, device=device)
    x_0_back, eps_back, var_frac = mean_type.decode(base, x_t, t, mean_type.target(base, drawn))
    torch.testing.assert_close(x_0_back, x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(eps_back, noise, rtol=0, atol=1e-9)
    assert var_frac is None


def test_targets_are_those_of_the_papers():
    # a_1 = 0.9 and a_2 = 0.9 * 0.8 = 0.72, all by hand at the second step, t = 1.
    base = GaussianDiffusion(torch.tensor([0.1, 0.2], dtype=torch.float64))
    x_0, noise = torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([[-1.5]], dtype=torch.float64)
    t = torch.tensor([1])
    x_t = 0.72**0.5 * x_0 + 0.28**0.5 * noise
    targets = {name: m.target(base, Noised(x_0, t, noise, x_t)).item() for name, m in MEAN_TYPES.items()}
    assert targets == pytest.approx(
        {
            "epsilon": -1.5,
            "xstart": 0.5,
            # The posterior mean, DDPM Eq. 7: sqrt(0.9) 0.2 / 0.28 x_0 + sqrt(0.8) 0.1 / 0.28 x_t.
            "xprev": (0.9**0.5 * 0.2 * 0.5 + 0.8**0.5 * 0.1 * x_t.item()) / 0.28,
            "v": 0.72**0.5 * -1.5 - 0.28**0.5 * 0.5,
        },
        rel=1e-12,
    )


@every_mean_type
def test_all_mean_types_agree_about_a_perfect_network(mean_type):
    base = GaussianDiffusion(linear(100, 1e-3, 0.1))
    truth = oracle.Mixture(base, torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.ones(2) / 4)
    _, t, _, x_t = noised(base, (50, 2))
    x_0, eps, _ = make_denoiser(truth.as_model(mean_type), base, mean_type)(x_t, t)
    torch.testing.assert_close(x_0, truth(x_t, t).x_0, rtol=0, atol=1e-10)
    torch.testing.assert_close(eps, truth(x_t, t).eps, rtol=0, atol=1e-10)


@every_mean_type
def test_decoding_keeps_half_precision(mean_type):
    base = GaussianDiffusion(linear(100))
    _, t, _, x_t = noised(base, dtype=torch.bfloat16)
    prediction = mean_type.decode(base, x_t, t, x_t)
    assert prediction.x_0.dtype == prediction.eps.dtype == torch.bfloat16


def test_epsilon_cannot_be_decoded_where_no_signal_is_left_and_v_can():
    base = GaussianDiffusion(jsd(10))  # its last beta is 1
    x_0, t, noise, x_t = drawn = noised(base, (3, 2))
    with pytest.raises(ValueError, match="x_0 cannot be found from eps at t = 9"):
        epsilon.decode(base, x_t, t, noise)
    torch.testing.assert_close(velocity.decode(base, x_t, t, velocity.target(base, drawn)).x_0, x_0)


# Names.


def test_names_lead_to_the_objects():
    found = [mean_type_named(name) for name in ("epsilon", "xstart", "xprev", "v")]
    assert found == [epsilon, xstart, xprev, velocity] == list(MEAN_TYPES.values())
    found = [variance_named(name) for name in ("fixedlarge", "fixedsmall", "learned", "learned_range")]
    assert found == [fixedlarge, fixedsmall, learned, learned_range] == list(VARIANCES.values())


@pytest.mark.parametrize(
    "name, meant", [("eps", "epsilon"), ("noise", "epsilon"), ("x_0", "xstart"), ("x0", "xstart"), ("x_prev", "xprev")]
)
def test_near_miss_is_answered_with_the_name_that_exists(name, meant):
    with pytest.raises(ValueError, match=f"unknown mean_type '{name}'.*did you mean '{meant}'"):
        mean_type_named(name)


@pytest.mark.parametrize("name", ["xprevxstart", "", None])
def test_unknown_mean_type_lists_those_that_exist(name):
    with pytest.raises(ValueError, match=f"unknown mean_type {name!r}, expected one of epsilon, xstart, xprev, v$"):
        mean_type_named(name)


def test_unknown_variance_lists_those_that_exist():
    with pytest.raises(
        ValueError, match="unknown var_type 'large', expected one of fixedlarge, fixedsmall, learned, learned_r"
    ):
        variance_named("large")


# Variances.


def log_vars(variance, var_frac=None):
    """At every step of a chain with betas 0.1, 0.2, 0.5: alpha_bar 0.9, 0.72, 0.36."""
    process = GaussianDiffusion(torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64))
    x_t = torch.zeros(3, 2, dtype=torch.float64)
    prediction = Prediction(x_t, x_t, None if var_frac is None else torch.full_like(x_t, var_frac))
    return variance(process, torch.arange(3), prediction, x_t).exp()


# DDPM Eq. 7: (1 - alpha_bar_prev) / (1 - alpha_bar) beta. Index 0 is a point; it takes the value of index 1.
SMALL = torch.tensor([0.1 / 0.28 * 0.2, 0.1 / 0.28 * 0.2, 0.28 / 0.64 * 0.5], dtype=torch.float64)
BETAS = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
SHORT = GaussianDiffusion(torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=torch.float64))


def test_fixed_variances_by_hand():
    torch.testing.assert_close(log_vars(fixedsmall), SMALL[:, None])
    torch.testing.assert_close(log_vars(fixedlarge), torch.cat([SMALL[:1], BETAS[1:]])[:, None])


def test_learned_range_runs_from_the_posterior_variance_to_beta():
    columns = (3, 2)
    torch.testing.assert_close(log_vars(learned_range, 0.0), SMALL[:, None].expand(columns))
    torch.testing.assert_close(log_vars(learned_range, 1.0), BETAS[:, None].expand(columns))
    # Half way in the logarithm is the geometric mean.
    torch.testing.assert_close(log_vars(learned_range, 0.5), (SMALL * BETAS).sqrt()[:, None].expand(columns))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_learned_is_the_raw_second_half(dtype, device):
    base = GaussianDiffusion(linear(10, 0.1, 0.5)).to(device)
    _, t, _, x_t = noised(base, dtype=dtype, device=device)
    second = 20 * torch.rand(x_t.shape, dtype=dtype).to(device) - 18
    for mean_type in MEAN_TYPES.values():
        p = p_from_output(base, mean_type, learned, torch.cat([x_t, second], 1), x_t, t)
        prediction = decode(base, mean_type, x_t, t, torch.cat([x_t, second], 1))
        assert torch.equal(p.log_var, learned(base, t, prediction, x_t))
        # The way through var_frac rounds twice, numbers up to 19.
        torch.testing.assert_close(p.log_var, second, rtol=0, atol=2 * 19 * torch.finfo(dtype).eps)


def test_learned_is_not_learned_range():
    # The same second half of 0: a variance of 1, or the geometric mean of the two fixed ones.
    torch.testing.assert_close(log_vars(learned, 0.5), torch.ones(3, 2, dtype=torch.float64))
    assert (log_vars(learned_range, 0.5) < 0.5).all()


@pytest.mark.parametrize("steps", [[0, 4, 9], range(10)])
def test_learned_variances_do_not_fit_a_respaced_chain(steps):
    chain = GaussianDiffusion(linear(10, 0.1, 0.5)).respaced(steps)
    x = torch.zeros(2, 3)
    with pytest.raises(
        ValueError, match="learned variances are those of the base's steps, got a respaced chain: Gauss"
    ):
        learned(chain, torch.tensor([0, 2]), Prediction(x, x, x), x)


@pytest.mark.parametrize("variance", [learned, learned_range], ids=lambda f: f.__name__)
def test_learned_variances_ask_for_the_extra_channels(variance):
    message = f"^{variance.__name__} needs a model with twice as many output channels as x_t has; got none extra$"
    with pytest.raises(ValueError, match=message):
        log_vars(variance)
    with pytest.raises(ValueError, match=message):
        p_from_output(SHORT, epsilon, variance, torch.zeros(3, 1), torch.zeros(3, 1), torch.arange(3))


def test_variances_of_a_single_step_are_its_beta():
    process, x_t = GaussianDiffusion(torch.tensor([0.3], dtype=torch.float64)), torch.zeros(1, 2, dtype=torch.float64)
    for variance in (fixedlarge, fixedsmall, learned_range):
        log_var = variance(process, torch.tensor([0]), Prediction(x_t, x_t, x_t + 0.5), x_t)
        torch.testing.assert_close(log_var.exp(), torch.full_like(log_var, 0.3))


# A raw output taken apart.


@pytest.mark.parametrize("shape", [(6, 1, 4, 4), (6, 9, 4, 4), (6, 3, 4), (6, 3, 8, 4), (1, 3, 4, 4)])
def test_output_of_another_shape_is_an_error(shape):
    message = r"x_t's shape \(6, 3, 4, 4\).*got \(" + ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=message):
        split(torch.zeros(shape), torch.zeros(6, 3, 4, 4))
    with pytest.raises(ValueError, match=message):
        p_from_output(SHORT, xstart, fixedlarge, torch.zeros(shape), torch.zeros(6, 3, 4, 4), torch.zeros(6).long())


def test_split_takes_raw_output_apart():
    x_t = torch.randn(2, 3)
    first, v = torch.randn(2, 3), torch.rand(2, 3) * 2 - 1
    mean, var_frac = split(torch.cat([first, v], 1), x_t)
    assert torch.equal(mean, first) and torch.equal(var_frac, (v + 1) / 2)
    assert split(first, x_t) == (first, None)
    with pytest.raises(ValueError, match=r"x_t's shape \(4,\)"):
        split(torch.zeros(3), torch.zeros(4))


@every_mean_type
def test_decode_lets_gradients_through_to_the_output(mean_type):
    base = GaussianDiffusion(linear(10, 0.1, 0.5))
    _, t, _, x_t = noised(base)
    output = torch.randn(6, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    sum(part.sum() for part in decode(base, mean_type, x_t, t, output)).backward()
    assert (output.grad != 0).all()


# p(x_{t-1} | x_t).


def chains():
    """A process, and the betas of the steps that it makes, by hand."""
    base = GaussianDiffusion(linear(10, 0.05, 0.6))
    alphas_bar = torch.cumprod(1 - linear(10, 0.05, 0.6), 0)
    visited = torch.cat([torch.ones(1), alphas_bar[[0, 4, 9]]])
    return {
        "base": (base, linear(10, 0.05, 0.6)),
        "respaced": (base.respaced([0, 4, 9]), 1 - visited[1:] / visited[:-1]),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["base", "respaced"])
@pytest.mark.parametrize("variance", [fixedlarge, fixedsmall, learned_range], ids=lambda f: f.__name__)
def test_p_by_bayes_rule(variance, name, dtype):
    # x_{t-1} has the prior N(sqrt(a') x_0, 1 - a') and is seen through x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) z:
    # precisions add, and the mean weighs both by theirs. Not at t = 0, where the prior is a point and the mean is x_0.
    process, betas = chains()[name]
    i = torch.arange(process.T)
    a_prev = torch.cat([torch.ones(1), torch.cumprod(1 - betas, 0)[:-1]])
    var = 1 / (1 / (1 - a_prev) + (1 - betas) / betas)
    x_0, x_t, frac = (torch.rand(process.T, 3, 4, 4).to(dtype) for _ in range(3))
    p = p_from_prediction(process, variance, Prediction(x_0, x_t, frac), x_t, i)

    of_x_0, of_x_t = (
        v.view(-1, 1, 1, 1) for v in (var * a_prev.sqrt() / (1 - a_prev), var * (1 - betas).sqrt() / betas)
    )
    mean = (of_x_0 * x_0.double() + of_x_t * x_t.double())[1:]
    assert p.mean.dtype == dtype and torch.equal(p.mean[0], x_0[0])
    # Arithmetic in float32 at least, then one rounding to the images' dtype.
    torch.testing.assert_close(p.mean[1:].double(), mean, rtol=0, atol=4 * torch.finfo(dtype).eps)

    log_small, log_large = (v.log().view(-1, 1, 1, 1) for v in (torch.cat([var[1:2], var[1:]]), betas))
    expected = {
        "fixedsmall": log_small,
        "fixedlarge": torch.cat([log_small[:1], log_large[1:]]),
        "learned_range": log_small + frac.double() * (log_large - log_small),
    }[variance.__name__]
    assert p.log_var.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(p.log_var.double(), expected, rtol=0, atol=1e-5 if dtype != torch.float64 else 1e-10)


def test_clipping_acts_on_the_estimated_x_0():
    t, x_t, output = torch.arange(4), torch.zeros(4, 1), torch.tensor([[3.0], [-3.0], [0.5], [1.5]])
    free, clip = (p_from_output(SHORT, xstart, fixedlarge, output, x_t, t, clip=c) for c in (False, True))
    inside = p_from_output(SHORT, xstart, fixedlarge, torch.tensor([[1.0], [-1.0], [0.5], [1.0]]), x_t, t)
    assert torch.equal(clip.mean, inside.mean) and not torch.equal(free.mean, clip.mean)
    assert torch.equal(p_from_output(SHORT, xstart, fixedlarge, output, x_t, t).mean, free.mean)


@every_mean_type
def test_p_is_the_same_for_every_mean_type(mean_type):
    t, x_t = torch.arange(4), torch.randn(4, 1, dtype=torch.float64)
    truth = oracle.Mixture(SHORT, torch.tensor([0.4, 0.6]), torch.tensor([[-0.7], [0.5]]), torch.tensor([0.1, 0.2]))
    p = p_from_output(SHORT, mean_type, fixedsmall, truth.as_model(mean_type)(x_t, t), x_t, t)
    expected = SHORT.q_posterior(truth(x_t, t).x_0, x_t, t)
    torch.testing.assert_close(p.mean, expected.mean, rtol=0, atol=1e-12)


def test_steps_out_of_range_are_an_error():
    x = torch.zeros(4, 1)
    with pytest.raises(ValueError, match=r"t must lie in 0..3, got values from 1 to 4"):
        p_from_output(SHORT, epsilon, fixedlarge, x, x, torch.arange(1, 5))
