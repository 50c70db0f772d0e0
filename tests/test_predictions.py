"""What a network's output means, the variances, and how a network becomes a denoiser."""

import pytest
import torch
from torch import nn

from ddpm_lesson import oracle
from ddpm_lesson.predictions import (
    MEAN_TYPES,
    VARIANCES,
    Prediction,
    clipped,
    decode,
    epsilon,
    fixedlarge,
    fixedsmall,
    learned_range,
    make_denoiser,
    mean_type_named,
    split,
    variance_named,
    velocity,
    xprev,
    xstart,
)
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.schedules import jsd, linear

every_mean_type = pytest.mark.parametrize("mean_type", MEAN_TYPES.values(), ids=MEAN_TYPES)


def noised(base, shape=(6, 3, 4, 4), dtype=torch.float64, device="cpu"):
    """x_0, noise, t and x_t, with the first and the last step among the t."""
    x_0, noise = (torch.randn(shape, dtype=torch.float64).to(device, dtype) for _ in range(2))
    t = torch.randint(base.T, shape[:1])
    t[:2] = torch.tensor([0, base.T - 1])
    t = t.to(device)
    return x_0, noise, t, base.q_sample(x_0, t, noise)


# Meanings of an output.


@every_mean_type
@pytest.mark.parametrize("T", [1, 2, 1000])
@pytest.mark.parametrize("shape", [(6, 2), (6, 3, 4, 4), (6, 3, 2, 4, 4)])
def test_decoding_the_target_gives_x_0_and_noise_back(mean_type, T, shape, device):
    base = GaussianDiffusion(linear(T)).to(device)
    x_0, noise, t, x_t = noised(base, shape, device=device)
    x_0_back, eps_back, var_frac = mean_type.decode(base, x_t, t, mean_type.target(base, x_0, x_t, t, noise))
    torch.testing.assert_close(x_0_back, x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(eps_back, noise, rtol=0, atol=1e-9)
    assert var_frac is None


def test_targets_are_those_of_the_papers():
    # a_1 = 0.9 and a_2 = 0.9 * 0.8 = 0.72, all by hand at the second step, t = 1.
    base = GaussianDiffusion(torch.tensor([0.1, 0.2], dtype=torch.float64))
    x_0, noise = torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([[-1.5]], dtype=torch.float64)
    t = torch.tensor([1])
    x_t = 0.72**0.5 * x_0 + 0.28**0.5 * noise
    targets = {name: m.target(base, x_0, x_t, t, noise).item() for name, m in MEAN_TYPES.items()}
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
    _, _, t, x_t = noised(base, (50, 2))
    x_0, eps, _ = make_denoiser(truth.as_model(mean_type), base, mean_type)(x_t, t)
    torch.testing.assert_close(x_0, truth(x_t, t).x_0, rtol=0, atol=1e-10)
    torch.testing.assert_close(eps, truth(x_t, t).eps, rtol=0, atol=1e-10)


@every_mean_type
def test_decoding_keeps_half_precision(mean_type):
    base = GaussianDiffusion(linear(100))
    _, _, t, x_t = noised(base, dtype=torch.bfloat16)
    prediction = mean_type.decode(base, x_t, t, x_t)
    assert prediction.x_0.dtype == prediction.eps.dtype == torch.bfloat16


def test_epsilon_cannot_be_decoded_where_no_signal_is_left_and_v_can():
    base = GaussianDiffusion(jsd(10))  # its last beta is 1
    x_0, noise, t, x_t = noised(base, (3, 2))
    with pytest.raises(ValueError, match="x_0 cannot be found from eps at t = 9"):
        epsilon.decode(base, x_t, t, noise)
    torch.testing.assert_close(velocity.decode(base, x_t, t, velocity.target(base, x_0, x_t, t, noise)).x_0, x_0)


# Names.


def test_names_lead_to_the_objects():
    found = [mean_type_named(name) for name in ("epsilon", "xstart", "xprev", "v")]
    assert found == [epsilon, xstart, xprev, velocity] == list(MEAN_TYPES.values())
    found = [variance_named(name) for name in ("fixedlarge", "fixedsmall", "learned_range")]
    assert found == [fixedlarge, fixedsmall, learned_range] == list(VARIANCES.values())


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
    with pytest.raises(ValueError, match="unknown var_type 'large', expected one of fixedlarge, fixedsmall, learned_r"):
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


def test_fixed_variances_by_hand():
    torch.testing.assert_close(log_vars(fixedsmall), SMALL[:, None])
    torch.testing.assert_close(log_vars(fixedlarge), torch.cat([SMALL[:1], BETAS[1:]])[:, None])


def test_learned_range_runs_from_the_posterior_variance_to_beta():
    columns = (3, 2)
    torch.testing.assert_close(log_vars(learned_range, 0.0), SMALL[:, None].expand(columns))
    torch.testing.assert_close(log_vars(learned_range, 1.0), BETAS[:, None].expand(columns))
    # Half way in the logarithm is the geometric mean.
    torch.testing.assert_close(log_vars(learned_range, 0.5), (SMALL * BETAS).sqrt()[:, None].expand(columns))


def test_learned_range_asks_for_the_extra_channels():
    with pytest.raises(ValueError, match="twice as many output channels"):
        log_vars(learned_range)


def test_variances_of_a_single_step_are_its_beta():
    process, x_t = GaussianDiffusion(torch.tensor([0.3], dtype=torch.float64)), torch.zeros(1, 2, dtype=torch.float64)
    for variance in VARIANCES.values():
        log_var = variance(process, torch.tensor([0]), Prediction(x_t, x_t, x_t + 0.5), x_t)
        torch.testing.assert_close(log_var.exp(), torch.full_like(log_var, 0.3))


# A network as a denoiser.


class Channels(nn.Module):
    """A 1x1 convolution with some number of output channels; it records in which state it is called."""

    def __init__(self, out=3):
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, out, 1), nn.BatchNorm2d(out))
        self.calls = []

    def forward(self, x_t, t, *cond):
        self.calls.append(([m.training for m in self.modules()], torch.is_grad_enabled(), cond))
        return self.body(x_t)


def ask(model, mean_type=epsilon, **options):
    base = GaussianDiffusion(linear(10, 0.1, 0.5))
    _, _, t, x_t = noised(base, dtype=torch.float32)
    return make_denoiser(model, base, mean_type, **options)(x_t, t)


def test_network_runs_in_eval_mode_and_without_gradients():
    model = Channels()
    prediction = ask(model)
    ((training, grad_enabled, cond),) = model.calls
    assert not any(training) and not grad_enabled and cond == ()
    assert not prediction.x_0.requires_grad and not prediction.eps.requires_grad
    assert torch.equal(model.body[2].running_mean, torch.zeros(3))  # batch statistics of samples did not leak in


def test_every_submodule_gets_its_own_mode_back():
    model = Channels().train()
    model.body[2].eval()  # as one freezes a batch norm
    before = [m.training for m in model.modules()]
    assert True in before and False in before
    ask(model)
    assert [m.training for m in model.modules()] == before
    model.eval()
    ask(model)
    assert not any(m.training for m in model.modules())


def test_modes_and_gradients_come_back_after_an_error():
    model = Channels().train()
    model.body[0].eval()
    before = [m.training for m in model.modules()]
    model.body[1].weight.data = torch.ones(3, 4, 1, 1)  # no longer fits the image
    with pytest.raises(RuntimeError):
        ask(model)
    assert [m.training for m in model.modules()] == before and torch.is_grad_enabled()


def test_networks_gradients_are_not_touched():
    model = Channels()
    model.body(torch.randn(2, 3, 4, 4)).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    ask(model)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_condition_is_passed_as_the_third_argument():
    model, labels = Channels(), torch.arange(6)
    ask(model, cond=labels)
    assert model.calls[0][2] == (labels,)


def test_compiled_network_is_put_into_eval_mode_and_back():
    class Dropped(nn.Module):
        def forward(self, x_t, t):
            return nn.functional.dropout(x_t, 0.5, self.training)

    compiled = torch.compile(Dropped(), backend="eager")
    x_t, t = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
    denoise = make_denoiser(compiled, GaussianDiffusion(linear(10)), xstart)
    assert torch.equal(denoise(x_t, t).x_0, x_t)
    assert all(m.training for m in compiled.modules())


def test_second_half_of_the_channels_is_the_place_of_the_variance():
    # v in -1..1 stands for var_frac in 0..1: (v + 1) / 2.
    model = Channels(out=6)
    x_0, eps, var_frac = ask(model, xstart)
    assert x_0.shape == eps.shape == var_frac.shape == (6, 3, 4, 4)
    out = torch.cat([torch.zeros(6, 3, 4, 4), torch.full((6, 3, 4, 4), -1.0)], 1)
    assert torch.equal(ask(lambda x_t, t: out, xstart).var_frac, torch.zeros(6, 3, 4, 4))
    assert torch.equal(ask(lambda x_t, t: -out, xstart).var_frac, torch.ones(6, 3, 4, 4))
    assert torch.equal(ask(lambda x_t, t: out, xstart).x_0, torch.zeros(6, 3, 4, 4))


@pytest.mark.parametrize("shape", [(6, 1, 4, 4), (6, 9, 4, 4), (6, 3, 4), (6, 3, 8, 4), (1, 3, 4, 4)])
def test_output_of_another_shape_is_an_error(shape):
    message = r"x_t's shape \(6, 3, 4, 4\).*got \(" + ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=message):
        ask(lambda x_t, t: torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        split(torch.zeros(shape), torch.zeros(6, 3, 4, 4))


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
    _, _, t, x_t = noised(base)
    output = torch.randn(6, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    sum(part.sum() for part in decode(base, mean_type, x_t, t, output)).backward()
    assert (output.grad != 0).all()


# Clipping.


@every_mean_type
def test_clipping_derives_eps_again(mean_type):
    base = GaussianDiffusion(linear(10, 0.1, 0.5))
    _, _, t, x_t = noised(base)
    free = make_denoiser(lambda x_t, t: 3 * torch.sin(5 * x_t), base, mean_type)
    x_0, eps, var_frac = clipped(free, base)(x_t, t)
    assert torch.equal(x_0, free(x_t, t).x_0.clamp(-1, 1)) and not torch.equal(x_0, free(x_t, t).x_0)
    torch.testing.assert_close(base.q_sample(x_0, t, eps), x_t)  # the two belong to one x_t
    assert var_frac is None


def test_clipping_keeps_the_variance_and_passes_prev_on():
    base = GaussianDiffusion(linear(10, 0.1, 0.5))
    _, _, t, x_t = noised(base)
    prev, frac = Prediction(x_t, x_t), torch.rand_like(x_t)
    seen = []

    def denoise(x_t, t, prev=None):
        seen.append(prev)
        return Prediction(5 * x_t, x_t, frac)

    assert clipped(denoise, base)(x_t, t, prev).var_frac is frac
    assert seen == [prev]


def test_clipping_bounds_are_arguments():
    base = GaussianDiffusion(linear(10, 0.1, 0.5))
    x_t, t = torch.linspace(-9, 9, 5)[:, None], torch.arange(5)
    x_0 = clipped(make_denoiser(lambda x_t, t: x_t, base, xstart), base, -2.0, 0.5)(x_t, t).x_0
    assert x_0.min() == -2 and x_0.max() == 0.5


def test_clipping_leaves_what_is_inside_alone():
    base = GaussianDiffusion(linear(10, 0.1, 0.5))
    t, x_0, noise = torch.arange(5), torch.rand(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    free = make_denoiser(lambda x_t, t: noise, base, epsilon)
    prediction = clipped(free, base)(base.q_sample(x_0, t, noise), t)
    torch.testing.assert_close(prediction.x_0, x_0)
    torch.testing.assert_close(prediction.eps, noise)
