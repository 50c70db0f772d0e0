"""The two front doors: against the post's code where it works, and each of its bugs, failing there and not here."""

import copy
import itertools
import math
import warnings

import post
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_lesson import GaussianDiffusionSampler, GaussianDiffusionTrainer, oracle
from ddpm_lesson.ddpm import ImageRangeWarning
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.predictions import MEAN_TYPES, epsilon, fixedlarge
from ddpm_lesson.process import GaussianDiffusion, PriorNotReachedWarning
from ddpm_lesson.samplers import ancestral, last, reverse
from ddpm_lesson.schedules import linear

LINEAR = (1e-4, 0.02, 1000)  # beta_1, beta_T, T of the paper
POST_MEAN_TYPES = ["xprev", "xstart", "epsilon"]
every_mean_type = pytest.mark.parametrize("mean_type", MEAN_TYPES)
every_post_mean_type = pytest.mark.parametrize("mean_type", POST_MEAN_TYPES)
both_variances = pytest.mark.parametrize("var_type", ["fixedlarge", "fixedsmall"])


class Small(nn.Module):
    """A convolution whose bias depends on t; out: number of output channels."""

    def __init__(self, T, out=3, dropout=0.0):
        super().__init__()
        self.conv, self.time, self.dropout = nn.Conv2d(3, out, 3, padding=1), nn.Embedding(T, out), nn.Dropout(dropout)

    def forward(self, x, t):
        return self.dropout(self.conv(x) + self.time(t)[:, :, None, None])


def zero_model(x_t, t):
    return torch.zeros_like(x_t)


def echo(x_t, t):
    return x_t


def images(n=4, size=8):
    return torch.rand(n, 3, size, size) * 2 - 1


def gaussian_data(std, T=1000):
    """The exact denoiser for one-dimensional N(0, std^2) data."""
    return oracle.GaussianData(GaussianDiffusion(linear(T)), torch.zeros(1, dtype=torch.float64), std)


def alphas_bar():
    """Of the paper's schedule, as Python floats."""
    return list(itertools.accumulate((1 - beta for beta in linear(1000).tolist()), lambda a, b: a * b))


def seeded(call, seed=5):
    torch.manual_seed(seed)
    return call()


# The post's results where the post's code is right.


@pytest.mark.filterwarnings("ignore::ddpm_lesson.process.PriorNotReachedWarning")
@pytest.mark.parametrize("T", [2, 20, 1000])
def test_loss_is_the_posts(T):
    model, x_0 = Small(T), images()
    ours = seeded(lambda: GaussianDiffusionTrainer(model, 1e-4, 0.02, T)(x_0))
    posts = seeded(lambda: post.Trainer(model, 1e-4, 0.02, T)(x_0))
    torch.testing.assert_close(ours, posts, rtol=0, atol=1e-6)


@every_post_mean_type
@both_variances
@pytest.mark.parametrize("T", [2, 20, 1000])
def test_unclipped_samples_are_the_posts(T, var_type, mean_type):
    truth = oracle.Mixture(
        GaussianDiffusion(linear(T)),
        torch.tensor([1.0, 2.0]),
        torch.tensor([[0.8, -0.5], [-0.3, 0.4]]),
        torch.ones(2) / 5,
    )
    model, x_T = truth.as_model(MEAN_TYPES[mean_type]), torch.randn(32, 2)
    sampler = GaussianDiffusionSampler(model, 1e-4, 0.02, T, None, mean_type, var_type, clip_denoised=False)
    repaired = post.Sampler(model, 1e-4, 0.02, T, 32, mean_type, var_type, mean_types=POST_MEAN_TYPES)
    torch.testing.assert_close(seeded(lambda: sampler(x_T)), seeded(lambda: repaired(x_T)), rtol=0, atol=1e-5)


@every_post_mean_type
@both_variances
@pytest.mark.parametrize("clip", [False, True])
def test_samples_of_a_network_are_the_posts(mean_type, var_type, clip):
    model, x_T = Small(20), torch.randn(4, 3, 8, 8)
    options = {"mean_types": POST_MEAN_TYPES, "clip_first": clip}
    repaired = post.Sampler(model, 1e-4, 0.02, 20, 8, mean_type, var_type, **options)
    sampler = GaussianDiffusionSampler(model, 1e-4, 0.02, 20, 8, mean_type, var_type, clip_denoised=clip)
    with torch.no_grad():
        expected = seeded(lambda: repaired(x_T))
    torch.testing.assert_close(seeded(lambda: sampler(x_T)), expected, rtol=0, atol=1e-5)


# Training and sampling agree about what the network means.


@every_mean_type
def test_loss_of_a_perfect_network_is_the_conditional_variance_of_its_target(mean_type):
    # Given x_t, x_0 has the variance V = s^2 (1 - a) / (a s^2 + 1 - a), and every target is linear in x_0:
    # x_0 itself; eps with the factor sqrt(a) / sqrt(1 - a); v with 1 / sqrt(1 - a); the posterior mean with
    # sqrt(a') beta / (1 - a). The loss is the mean over t of factor^2 V, within 4 standard errors.
    s, n, levels = 0.5, 40_000, alphas_bar()
    expected = 0.0
    for a, a_prev, beta in zip(levels, [1.0, *levels], linear(1000).tolist(), strict=False):
        factor = {
            "xstart": 1.0,
            "epsilon": (a / (1 - a)) ** 0.5,
            "v": 1 / (1 - a) ** 0.5,
            "xprev": a_prev**0.5 * beta / (1 - a),
        }
        expected += factor[mean_type] ** 2 * s**2 * (1 - a) / (a * s**2 + 1 - a) / 1000
    model = gaussian_data(s).as_model(MEAN_TYPES[mean_type])
    loss = GaussianDiffusionTrainer(model, *LINEAR, mean_type=mean_type)(s * torch.randn(n, 1))
    assert loss.mean().item() == pytest.approx(expected, abs=4 * loss.std().item() / n**0.5)


@pytest.mark.parametrize("clip", [False, True])
@both_variances
def test_perfect_networks_of_all_mean_types_give_one_sample(var_type, clip):
    schedule = (1e-3, 0.2, 100)
    truth = oracle.GaussianData(GaussianDiffusion(linear(100, 1e-3, 0.2)), torch.zeros(1), 0.6)
    x_T = torch.randn(64, 1, dtype=torch.float64)

    def sample(name):
        model = truth.as_model(MEAN_TYPES[name])
        return GaussianDiffusionSampler(model, *schedule, None, name, var_type, clip_denoised=clip)(x_T)

    one, *others = [seeded(lambda name=name: sample(name)) for name in MEAN_TYPES]
    for other in others:
        torch.testing.assert_close(other, one, rtol=0, atol=1e-9)


def test_state_dict_goes_from_trainer_to_sampler():
    trainer = GaussianDiffusionTrainer(Small(1000), *LINEAR)
    sampler = GaussianDiffusionSampler(Small(1000), *LINEAR)
    assert set(trainer.state_dict()) == {"model.conv.weight", "model.conv.bias", "model.time.weight"}
    sampler.load_state_dict(trainer.state_dict())
    assert torch.equal(sampler.model.conv.weight, trainer.model.conv.weight)


# Each bug of the post.


def test_erratum_01_every_mean_type_of_the_list_can_be_used():
    for name in ("xprev", "xstart"):
        with pytest.raises(AssertionError):
            post.Sampler(echo, *LINEAR, mean_type=name)
    joined = post.Sampler(echo, 0.1, 0.5, 2, mean_type="xprevxstart")  # the missing comma made this name
    with pytest.raises(NotImplementedError):
        joined(torch.randn(1, 1))

    for name in MEAN_TYPES:
        assert GaussianDiffusionSampler(echo, 0.1, 0.5, 2, mean_type=name)(torch.randn(1, 1)).isfinite().all()
    with pytest.raises(ValueError, match="unknown mean_type 'xprevxstart', expected one of epsilon, xstart, xprev, v"):
        GaussianDiffusionSampler(echo, *LINEAR, mean_type="xprevxstart")


def test_erratum_02_the_sampler_can_be_built_with_its_defaults():
    with pytest.raises(AssertionError):
        post.Sampler(echo, *LINEAR)
    assert GaussianDiffusionSampler(echo, *LINEAR).mean_type is epsilon
    with pytest.raises(ValueError, match="unknown mean_type 'eps'.*did you mean 'epsilon'"):
        GaussianDiffusionSampler(echo, *LINEAR, mean_type="eps")
    with pytest.raises(ValueError, match="did you mean 'epsilon'"):
        GaussianDiffusionTrainer(echo, *LINEAR, mean_type="eps")


def test_erratum_03_without_the_clip_a_silent_network_ends_at_221():
    # With eps = 0 the mean is x_t / sqrt(alpha_t), and each step adds noise of variance beta_t. So what enters at x_t
    # arrives at x_0 multiplied by 1 / sqrt(alpha_bar_t), and from x_T ~ N(0, 1)
    #     Var x_0 = 1 / alpha_bar_T + sum over t = 2..T of beta_t / alpha_bar_{t-1}   (t of the papers).
    levels, betas = alphas_bar(), linear(1000).tolist()
    rms = (1 / levels[-1] + sum(beta / a for beta, a in zip(betas[1:], levels[:-1], strict=True))) ** 0.5
    assert rms == pytest.approx(221.55, abs=0.005)

    base = GaussianDiffusion(linear(1000))
    p = reverse(base, make_denoiser(zero_model, base, epsilon), fixedlarge)
    one, var = torch.ones(1, 1, dtype=torch.float64), 1.0
    for i in reversed(range(1000)):  # every step is slope * x_t + noise
        step = p(one, i).p
        var = step.mean.item() ** 2 * var + (step.log_var.exp().item() if i > 0 else 0)
    assert var**0.5 == pytest.approx(rms, rel=1e-9)

    # An rms of n Gaussian numbers has a relative standard error of 1 / sqrt(2 n).
    n = 2000
    *_, end = GaussianDiffusionSampler(zero_model, *LINEAR, clip_denoised=False).states(torch.randn(n, 1))
    assert end.x_t.square().mean().sqrt().item() == pytest.approx(rms, rel=4 / (2 * n) ** 0.5)


def test_erratum_03_the_clip_comes_before_the_mean():
    # 0.7746 is the root of E x_0^2 of this chain, by quadrature over each step's noise. x_0^2 lies in 0..1, and the
    # standard error of the rms is std(x_0^2) / (2 rms sqrt(n)).
    n = 10_000
    x_T = torch.randn(n, 1)
    squares = GaussianDiffusionSampler(zero_model, *LINEAR)(x_T).square()
    rms = squares.mean().sqrt().item()
    assert rms == pytest.approx(0.7746, abs=4 * squares.std().item() / (2 * rms * n**0.5))

    # In the post only the last clip acts: of N(0, 221.55^2) all but a share 2 / (221.55 sqrt(2 pi)) = 0.0036 ends
    # at 1 or -1. The share that n points show has the standard error sqrt(0.0036 / n).
    posts = seeded(lambda: post.Sampler(zero_model, *LINEAR, mean_type="epsilon")(x_T))
    assert (posts.abs() < 1).float().mean().item() == pytest.approx(0.0036, abs=4 * (0.0036 / n) ** 0.5)
    # With the clip moved before the mean the post agrees with us.
    moved = post.Sampler(zero_model, *LINEAR, mean_type="epsilon", clip_first=True)
    ours = GaussianDiffusionSampler(zero_model, *LINEAR)
    torch.testing.assert_close(seeded(lambda: ours(x_T[:50])), seeded(lambda: moved(x_T[:50])), rtol=0, atol=1e-5)


STDS = [0.0, 0.1, 0.25, 0.5]


def exact_eps(a, std):
    """k in E[eps | x_t] = k x_t for N(0, std^2) data."""
    return (1 - a) ** 0.5 / (a * std**2 + 1 - a)


def rms_of_misread_eps(std, read_as):
    """Final rms if the exact eps is taken for x_0 or for x_prev, T = 1000, fixedlarge, unclipped.

    Every step multiplies x_t: by coef1 k + coef2 (DDPM Eq. 7) if k x_t is taken for x_0, by k if for the mean itself.
    """
    levels, var = alphas_bar(), 1.0
    for a, a_prev in zip(reversed(levels), [*reversed(levels[:-1]), 1.0], strict=True):
        k, beta = exact_eps(a, std), 1 - a / a_prev
        coef1, coef2 = a_prev**0.5 * beta / (1 - a), (1 - beta) ** 0.5 * (1 - a_prev) / (1 - a)
        slope = coef1 * k + coef2 if read_as == "xstart" else k
        var = slope**2 * var + (beta if a_prev < 1 else 0)
    return var**0.5


@pytest.mark.parametrize(
    "read_as, declared",
    [("xstart", [2.3e22, 2.5e7, 1.46, 1.04e-3]), ("xprev", [2.5e149, 3.5e118, 3.1e65, 4.4e-4])],
)
def test_erratum_04_an_eps_network_read_as_another_explodes_or_collapses(read_as, declared):
    exact = torch.tensor([rms_of_misread_eps(std, read_as) for std in STDS], dtype=torch.float64)
    assert exact.tolist() == pytest.approx(declared, rel=0.03)

    # Four data sets side by side, one per column. An rms of n Gaussian numbers has the relative error 1 / sqrt(2 n).
    n = 2000
    k = torch.tensor([[exact_eps(a, std) for std in STDS] for a in alphas_bar()], dtype=torch.float64)
    x_T = torch.randn(n, 4, dtype=torch.float64)
    sampler = GaussianDiffusionSampler(lambda x_t, t: k[t] * x_t, *LINEAR, mean_type=read_as, clip_denoised=False)
    *_, end = sampler.states(x_T)
    assert ((end.x_t / exact).square().mean(0).sqrt() - 1).abs().max() < 4 / (2 * n) ** 0.5

    sampler = GaussianDiffusionSampler(lambda x_t, t: k[t] * x_t, *LINEAR, mean_type="epsilon", clip_denoised=False)
    *_, end = sampler.states(x_T)  # read as what it is, it gives the data back; the chain's own error is below 0.001
    stds = torch.tensor(STDS, dtype=torch.float64)
    assert ((end.x_t.square().mean(0).sqrt() - stds).abs() < 0.001 + 4 * stds / (2 * n) ** 0.5).all()


def test_erratum_04_the_target_follows_the_mean_type():
    # The post fits eps whatever the sampler expects: a network that returns x_0 exactly has loss Var(x_0 - eps),
    # 1 + 0.5^2 for N(0, 0.5^2) data; here its loss is 0. Squares of N(0, v) have the standard deviation sqrt(2) v.
    n, x_0 = 20_000, 0.5 * torch.randn(20_000, 1)
    posts = post.Trainer(lambda x_t, t: x_0, *LINEAR)(x_0).mean().item()
    assert posts == pytest.approx(1.25, abs=4 * 1.25 * (2 / n) ** 0.5)
    assert GaussianDiffusionTrainer(lambda x_t, t: x_0, *LINEAR, mean_type="xstart")(x_0).max() == 0


def test_erratum_13_a_single_step_can_be_sampled():
    broken = post.Sampler(zero_model, 0.5, 0.5, 1, mean_type="epsilon")
    with pytest.raises((RuntimeError, IndexError)):
        broken(torch.randn(2, 1))
    x_T = torch.tensor([[0.3], [-2.0]])  # x_0 = x_1 / sqrt(alpha_bar), then clipped
    for var_type in ("fixedlarge", "fixedsmall"):
        x_0 = GaussianDiffusionSampler(zero_model, 0.5, 0.5, 1, var_type=var_type)(x_T)
        torch.testing.assert_close(x_0, torch.tensor([[0.3 * 2**0.5], [-1.0]]))


def test_erratum_14_sampling_needs_no_gradients_and_no_dropout():
    model, x_T = Small(20, dropout=0.5).train(), torch.randn(2, 3, 8, 8)
    posts = post.Sampler(model, 1e-4, 0.02, 20, mean_type="epsilon")
    assert posts(x_T).requires_grad
    with torch.no_grad():
        in_eval = seeded(lambda: posts(x_T)), model.eval(), seeded(lambda: posts(x_T)), model.train()
    assert not torch.allclose(in_eval[0], in_eval[2])  # the first one was drawn with dropout

    x_0 = seeded(lambda: GaussianDiffusionSampler(model, 1e-4, 0.02, 20, clip_denoised=False)(x_T))
    assert not x_0.requires_grad
    torch.testing.assert_close(x_0, in_eval[2], rtol=0, atol=1e-5)
    assert all(m.training for m in model.modules())


def test_erratum_15_the_loss_keeps_the_images_shape():
    assert GaussianDiffusionTrainer(Small(1000), *LINEAR)(images()).shape == (4, 3, 8, 8)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 32, 8), (2, 3, 32), (2, 32), (2, 3, 32, 32, 32)])
def test_erratum_16_img_size_is_held_to(shape):
    x_T = torch.randn(shape)
    assert post.Sampler(zero_model, 0.1, 0.5, 2, 32, "epsilon")(x_T).shape == shape  # the post never looks
    with pytest.raises(ValueError, match=r"x_T must be \(B, C, 32, 32\), got \(2, "):
        GaussianDiffusionSampler(zero_model, 0.1, 0.5, 2, 32)(x_T)
    assert GaussianDiffusionSampler(zero_model, 0.1, 0.5, 2)(x_T).shape == shape


class Logarithms(TorchDispatchMode):
    """Counts the logarithms that are computed inside."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.log.default
        return func(*args, **(kwargs or {}))


@both_variances
def test_erratum_16_the_log_variance_is_not_rebuilt_at_every_step(var_type):
    x_T = torch.randn(2, 1)
    sampler = GaussianDiffusionSampler(zero_model, 0.1, 0.5, 7, var_type=var_type)
    posts = post.Sampler(zero_model, 0.1, 0.5, 7, mean_type="epsilon", var_type=var_type)
    with Logarithms() as theirs:
        posts(x_T)
    with Logarithms() as ours:
        sampler(x_T)
    assert (theirs.count, ours.count) == (7, 0)


# Randomness.


@pytest.mark.parametrize("door", [GaussianDiffusionTrainer, GaussianDiffusionSampler])
def test_seed_decides_all_randomness(door):
    call, x = door(Small(100), 1e-3, 0.2, 100), images()
    one, two, other = (call(x, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(one, two) and not torch.equal(one, other)
    before = torch.get_rng_state()
    call(x, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(seeded(lambda: call(x), 7), one)  # without a generator it is the CPU's default one


@pytest.mark.filterwarnings("ignore::ddpm_lesson.process.PriorNotReachedWarning")
def test_every_image_gets_its_own_t_uniform_over_all_steps():
    # Each of 4 steps is drawn n / 4 times, with a standard error of sqrt(n 3 / 16).
    n, asked = 8000, []

    def model(x_t, t):
        asked.append(t)
        return x_t

    GaussianDiffusionTrainer(model, 0.1, 0.5, 4)(torch.randn(n, 1))
    counts = torch.bincount(asked[0], minlength=4)
    assert len(counts) == 4 and (counts - n / 4).abs().max() < 4 * (n * 3 / 16) ** 0.5


def test_noise_is_the_same_on_every_device(device):
    model, x_0, x_T = Small(1000), images(), torch.randn(4, 3, 8, 8)
    trainer = GaussianDiffusionTrainer(model, *LINEAR)
    sampler = GaussianDiffusionSampler(Small(20), 1e-4, 0.02, 20)
    expected = [seeded(lambda: trainer(x_0)), seeded(lambda: sampler(x_T))]
    trainer, sampler = copy.deepcopy(trainer).to(device), copy.deepcopy(sampler).to(device)
    actual = [seeded(lambda: trainer(x_0.to(device))), seeded(lambda: sampler(x_T.to(device)))]
    for here, there in zip(expected, actual, strict=True):
        assert there.device.type == device.type
        torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-4 if device.type == "cuda" else 0)


# What goes in and what comes out.


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 3, 8, 8), (2, 3, 16, 8)])
def test_any_batch_and_side(shape):
    x = torch.zeros(shape)
    assert GaussianDiffusionTrainer(Small(1000), *LINEAR)(x).shape == shape
    assert GaussianDiffusionSampler(Small(5), 0.1, 0.5, 5)(x).shape == shape


@every_mean_type
def test_loss_trains_the_network_and_leaves_the_images_alone(mean_type):
    model, x_0 = Small(1000), images()
    before = x_0.clone()
    GaussianDiffusionTrainer(model, *LINEAR, mean_type=mean_type)(x_0).mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    assert torch.equal(x_0, before)


@every_mean_type
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_train_and_sample(mean_type, dtype, device):
    trainer = GaussianDiffusionTrainer(Small(1000), *LINEAR, mean_type=mean_type).to(device, dtype)
    loss = trainer(images().to(device, dtype))
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    loss.mean().backward()
    assert trainer.model.conv.weight.grad.isfinite().all()
    sampler = GaussianDiffusionSampler(Small(20), 1e-4, 0.02, 20, mean_type=mean_type).to(device, dtype)
    x_0 = sampler(torch.randn(2, 3, 8, 8).to(device, dtype))
    assert x_0.dtype == dtype and x_0.isfinite().all() and x_0.abs().max() <= 1


def test_loss_in_bfloat16_is_squared_in_float32():
    x_0 = images().bfloat16()
    loss = GaussianDiffusionTrainer(lambda x_t, t: x_t, *LINEAR)(x_0)
    assert not torch.equal(loss, loss.bfloat16().float())


def test_trainer_compiles_into_one_graph():
    trainer, x_0 = GaussianDiffusionTrainer(MLP(1000), *LINEAR), torch.randn(8, 2)
    compiled = torch.compile(trainer, fullgraph=True, backend="eager")
    torch.testing.assert_close(seeded(lambda: compiled(x_0)), seeded(lambda: trainer(x_0)))


@pytest.mark.parametrize("var_type", ["learned", "learned_range"])
def test_learned_variances_sample_with_twice_the_channels(var_type):
    # A network that is not trained yet says anything: taken for a log variance itself it must be held in some range.
    network = Small(20, out=6)
    x_0 = GaussianDiffusionSampler(lambda x_t, t: network(x_t, t).tanh(), 1e-4, 0.02, 20, var_type=var_type)(
        torch.randn(2, 3, 8, 8)
    )
    assert x_0.shape == (2, 3, 8, 8) and x_0.isfinite().all()
    with pytest.raises(ValueError, match="twice as many output channels"):
        GaussianDiffusionSampler(Small(20), 1e-4, 0.02, 20, var_type=var_type)(torch.randn(2, 3, 8, 8))


def test_a_learned_log_variance_is_the_scatter_of_the_step():
    # x_0 = 0 and log variance log 0.04 everywhere: the state before the last step is N(coef2 x, 0.04), here from x = 0.
    def model(x_t, t):
        return torch.cat([0 * x_t, torch.full_like(x_t, math.log(0.04))], 1)

    sampler = GaussianDiffusionSampler(model, 0.1, 0.5, 2, mean_type="xstart", var_type="learned")
    _, before, sample = sampler.states(torch.zeros(20_000, 1))
    assert (sample.x_t == 0).all()
    assert before.x_t.std().item() == pytest.approx(0.2, rel=5 * 40_000**-0.5)


def test_states_show_the_way_before_the_last_clip():
    sampler = GaussianDiffusionSampler(echo, 0.1, 0.5, 3, clip_denoised=False, mean_type="xstart")
    x_T = torch.tensor([[50.0]])
    states = list(sampler.states(x_T))
    assert [state.i for state in states] == [3, 2, 1, 0]
    assert states[0].x_t is x_T and states[-1].x_t > 1
    assert sampler(x_T) == 1


def test_copied_sampler_uses_the_copied_network():
    sampler = GaussianDiffusionSampler(Small(5), 0.1, 0.5, 5)
    duplicate, x_T = copy.deepcopy(sampler), torch.randn(1, 3, 8, 8)
    before = seeded(lambda: sampler(x_T))
    assert torch.equal(seeded(lambda: duplicate(x_T)), before)
    nn.init.constant_(duplicate.model.time.weight, 3.0)
    assert not torch.equal(seeded(lambda: duplicate(x_T)), before)
    assert torch.equal(seeded(lambda: sampler(x_T)), before)


def test_front_doors_are_the_core_with_the_linear_schedule():
    model, x_T = Small(20), torch.randn(2, 3, 8, 8)
    base = GaussianDiffusion(linear(20, 1e-4, 0.02))
    p = reverse(base, make_denoiser(model, base, epsilon), fixedlarge)
    expected = seeded(lambda: last(ancestral(base, p, x_T)).clamp(-1, 1))
    sampler = GaussianDiffusionSampler(model, 1e-4, 0.02, 20, clip_denoised=False)
    assert torch.equal(seeded(lambda: sampler(x_T)), expected)


# Bad input.


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_images_that_are_not_floating_point_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"floating point in \[-1, 1\], got {dtype}; 8-bit images: x / 127.5 - 1"):
        GaussianDiffusionTrainer(echo, *LINEAR)(torch.zeros(2, 3, 4, 4, dtype=dtype))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_images_that_are_not_finite_are_refused(value):
    x_0 = images()
    x_0[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="finite numbers .* got 1 NaN or inf"):
        GaussianDiffusionTrainer(echo, *LINEAR)(x_0)


@pytest.mark.parametrize(
    "low, high, cause",
    [
        (0, 7, r"unscaled pixels \(8 bits: x / 127.5 - 1\)"),
        (-2.1, 2.6, "a mean and std normalisation"),  # ImageNet's
        (-0.42, 2.82, "a mean and std normalisation"),  # MNIST's
    ],
)
def test_images_far_outside_their_range_warn_with_the_likely_cause(low, high, cause):
    x_0 = torch.linspace(low, high, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    with pytest.warns(
        ImageRangeWarning, match=rf"in \[-1, 1\], got values up to {high} in size; likely cause: {cause}"
    ):
        GaussianDiffusionTrainer(echo, *LINEAR)(x_0)


@pytest.mark.parametrize("high", [16, 255, 65535])  # the bundled digits are 0..16 before they are scaled
def test_unscaled_pixels_are_refused(high):
    x_0 = torch.linspace(0, high, 2 * 8 * 8).view(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\], got unscaled pixels, from 0 to .*: x / 127.5 - 1"):
        GaussianDiffusionTrainer(echo, *LINEAR)(x_0)


def test_images_of_to_tensor_warn_once():
    trainer, unit = GaussianDiffusionTrainer(echo, *LINEAR), torch.linspace(0, 1, 2 * 3 * 16).view(2, 3, 4, 4)
    with pytest.warns(ImageRangeWarning, match=r"got values from 0 to 1, .*: 2 \* x - 1 scales \[0, 1\] to \[-1, 1\]"):
        trainer(unit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(unit)  # said once
        later = GaussianDiffusionTrainer(echo, *LINEAR)
        later(2 * unit - 1)
        later(unit)  # a small batch of bright images
        GaussianDiffusionTrainer(echo, *LINEAR)(unit.flatten(1))  # points


@pytest.mark.parametrize("images", [2 * torch.ones(1, 1, 2, 2), torch.eye(2).view(1, 1, 2, 2)])
def test_range_warning_points_at_the_callers_line(images):
    trainer = GaussianDiffusionTrainer(echo, *LINEAR)
    with pytest.warns(ImageRangeWarning) as record:
        trainer(images)
    assert record[0].filename == __file__


def test_a_batch_with_labels_is_refused():
    for batch in ((images(), torch.zeros(4)), [images(), torch.zeros(4)]):
        what = type(batch).__name__
        told = rf"images must be one tensor, got a {what} of 2; of a batch \(images, labels\) give the first part"
        with pytest.raises(TypeError, match=told):
            GaussianDiffusionTrainer(echo, *LINEAR)(batch)


class Output:
    """What diffusers' models return."""

    def __init__(self, sample):
        self.sample = sample


@pytest.mark.parametrize(
    "wrap, told",
    [
        (lambda x: (x, x), r"got a tuple of 2: give lambda x, t: model\(x, t\)\[0\] instead"),
        (lambda x: [x], r"got a list of 1: give lambda x, t: model\(x, t\)\[0\] instead"),
        (Output, r"got a Output: give lambda x, t: model\(x, t\)\.sample instead"),
        (lambda x: None, r"got a NoneType: give lambda x, t: model\(x, t\)\.\.\. instead"),
    ],
)
def test_a_network_that_returns_no_tensor_is_told_how_to_be_wrapped(wrap, told):
    def model(x_t, t):
        return wrap(x_t)

    with pytest.raises(TypeError, match=f"the model must return a tensor, {told}"):
        GaussianDiffusionTrainer(model, *LINEAR)(images())
    with pytest.raises(TypeError, match=f"the model must return a tensor, {told}"):
        GaussianDiffusionSampler(model, 0.1, 0.5, 2)(images())


@pytest.mark.parametrize(
    "x_0",
    [torch.ones(1, 3, 2, 2), torch.full((1, 3, 2, 2), -1.4), torch.tensor([[4.0, -3.0]])],
    ids=["in", "near", "points"],
)
def test_ordinary_data_do_not_warn(x_0):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianDiffusionTrainer(echo, *LINEAR)(x_0)


@pytest.mark.parametrize("T", [10, 200])
def test_short_chain_warns(T):
    with pytest.warns(PriorNotReachedWarning, match=f"T = {T} steps"):
        GaussianDiffusionTrainer(echo, 1e-4, 0.02, T)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_x_T_that_is_not_floating_point_is_refused(dtype):
    with pytest.raises(TypeError, match=f"x_T must be floating point noise, got {dtype}"):
        GaussianDiffusionSampler(echo, 0.1, 0.5, 2)(torch.ones(2, 3, dtype=dtype))


def test_x_T_on_another_device_is_refused():
    with pytest.raises(ValueError, match="x_T must be on the sampler's device cpu, got meta"):
        GaussianDiffusionSampler(echo, 0.1, 0.5, 2)(torch.zeros(2, 1, device="meta"))


@pytest.mark.parametrize("size", [None, 8])
def test_states_refuse_x_T_at_the_call_not_at_the_first_step(size):
    sampler = GaussianDiffusionSampler(echo, 0.1, 0.5, 2, size)
    with pytest.raises(TypeError):
        sampler.states(torch.ones(2, 3, 8, 8, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 6, 8, 8), (4, 3, 8), (1, 3, 8, 8)])
def test_network_that_returns_another_shape_is_named_in_training(shape):
    with pytest.raises(ValueError, match=r"the model must return x_t's shape \(4, 3, 8, 8\), got \("):
        GaussianDiffusionTrainer(lambda x_t, t: torch.zeros(shape), *LINEAR)(images())


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 8), (1, 3, 8, 8)])
def test_network_that_returns_another_shape_is_named_in_sampling(shape):
    with pytest.raises(
        ValueError, match=r"the model must return x_t's shape \(4, 3, 8, 8\), or twice its channels, got"
    ):
        GaussianDiffusionSampler(lambda x_t, t: torch.zeros(shape), *LINEAR)(images())


def test_batch_of_single_numbers_with_a_wrong_output_is_named_too():
    with pytest.raises(ValueError, match=r"the model must return x_t's shape \(4,\)"):
        GaussianDiffusionSampler(lambda x_t, t: torch.zeros(3), *LINEAR)(torch.randn(4))


def test_unknown_names_are_refused_when_the_doors_are_built():
    with pytest.raises(ValueError, match="unknown mean_type 'mu', expected one of epsilon, xstart, xprev, v"):
        GaussianDiffusionTrainer(echo, *LINEAR, mean_type="mu")
    with pytest.raises(
        ValueError, match="unknown var_type 'small', expected one of fixedlarge, fixedsmall, learned, learned_range"
    ):
        GaussianDiffusionSampler(echo, *LINEAR, var_type="small")


@pytest.mark.parametrize("betas", [(0.0, 0.02, 10), (1e-4, 1.5, 10), (1e-4, 0.02, 0), (1e-4, 0.02, 10.0)])
def test_bad_schedules_are_refused(betas):
    for door in (GaussianDiffusionTrainer, GaussianDiffusionSampler):
        with pytest.raises(ValueError, match="must"):
            door(echo, *betas)


def test_epsilon_on_a_chain_without_signal_at_its_end_is_refused():
    x_T = torch.randn(2, 1)
    with pytest.raises(ValueError, match="x_0 cannot be found from eps at t = 9.*predict v or xstart"):
        GaussianDiffusionSampler(echo, 1e-4, 1.0, 10, mean_type="epsilon")(x_T)
    assert GaussianDiffusionSampler(echo, 1e-4, 1.0, 10, mean_type="v")(x_T).isfinite().all()
