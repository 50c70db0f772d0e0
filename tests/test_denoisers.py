"""How a network becomes a denoiser, what it is told on the way, and clipping."""

import pytest
import torch
from torch import nn
from unet_reference import randomised

from ddpm_lesson.denoisers import clipped, make_denoiser, previous_x_0
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import MEAN_TYPES, Prediction, epsilon, fixedlarge, velocity, xstart
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.samplers import ancestral, ddim, reverse
from ddpm_lesson.schedules import linear

every_mean_type = pytest.mark.parametrize("mean_type", MEAN_TYPES.values(), ids=MEAN_TYPES)
BASE = GaussianDiffusion(linear(10, 0.1, 0.5))


def noised(shape=(6, 3, 4, 4), dtype=torch.float64):
    """x_t and t, with the first and the last step among the t."""
    t = torch.randint(10, shape[:1])
    t[:2] = torch.tensor([0, 9])
    return BASE.q_sample(torch.randn(shape, dtype=dtype), t, torch.randn(shape, dtype=dtype)), t


# A network as a denoiser.


class Channels(nn.Module):
    """A 1x1 convolution with some number of output channels; it records in which state it is called."""

    def __init__(self, out=3):
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, out, 1), nn.BatchNorm2d(out))
        self.calls = []

    def forward(self, x_t, t, **told):
        self.calls.append(([m.training for m in self.modules()], torch.is_grad_enabled(), told))
        return self.body(x_t)


def ask(model, mean_type=epsilon, **conditions):
    x_t, t = noised(dtype=torch.float32)
    return make_denoiser(model, BASE, mean_type, **conditions)(x_t, t)


def test_network_runs_in_eval_mode_and_without_gradients():
    model = Channels()
    prediction = ask(model)
    ((training, grad_enabled, told),) = model.calls
    assert not any(training) and not grad_enabled and told == {}
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


def test_compiled_network_is_put_into_eval_mode_and_back():
    class Dropped(nn.Module):
        def forward(self, x_t, t):
            return nn.functional.dropout(x_t, 0.5, self.training)

    compiled = torch.compile(Dropped(), backend="eager")
    x_t, t = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
    denoise = make_denoiser(compiled, BASE, xstart)
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


# What a network is told besides x_t and t.


def test_conditions_are_passed_by_name_as_they_are():
    model, y, cond = Channels(), torch.arange(6), torch.randn(6, 1, 4, 4)
    ask(model, cond=cond, y=y)
    told = model.calls[0][2]
    assert set(told) == {"y", "cond"} and told["y"] is y and told["cond"] is cond


def test_a_name_that_the_model_does_not_know_is_its_error():
    with pytest.raises(TypeError, match="label"):
        ask(lambda x_t, t, y: x_t, label=torch.arange(6))


def test_functions_are_asked_for_what_the_model_is_told():
    x_t, t = noised()
    prev = Prediction(x_t + 1, x_t + 2)
    asked, told = [], []

    def condition(*arguments):
        asked.append(arguments)
        return torch.full((6,), len(asked))

    def model(x_t, t, y, count):
        told.append((y.tolist(), count.tolist()))
        return x_t

    denoise = make_denoiser(model, BASE, epsilon, y=torch.arange(6), count=condition)
    denoise(x_t, t)
    denoise(x_t, t, prev)
    assert [len(arguments) for arguments in asked] == [3, 3]
    for (at_x_t, at_t, before), expected in zip(asked, (None, prev), strict=True):
        assert at_x_t is x_t and at_t is t and before is expected
    assert told == [(list(range(6)), [1] * 6), (list(range(6)), [2] * 6)]


def walk(sampler, chain, denoise, x_T, seed=1):
    """Every state of a sampler that draws noise."""
    generator = torch.Generator().manual_seed(seed)
    if sampler == "ancestral":
        return list(ancestral(chain, reverse(chain, denoise, fixedlarge), x_T, generator=generator))
    return list(ddim(chain, denoise, x_T, eta=0.5, generator=generator))


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("steps", [range(10), [0, 4, 9]])
def test_self_conditioning_hands_on_the_previous_estimate(sampler, steps):
    told = []

    def model(x_t, t, x_self):
        told.append(x_self)
        return torch.sin(x_t) + 0.5 * x_self

    chain, x_T = BASE.respaced(list(steps)), torch.randn(4, 2)
    denoise = clipped(make_denoiser(model, BASE, velocity, x_self=previous_x_0), BASE)
    states = walk(sampler, chain, denoise, x_T)
    assert len(told) == len(steps) and torch.equal(told[0], torch.zeros(4, 2))
    # What was predicted at a step, clipped as the step took it, is what the network is told at the next.
    for x_self, state in zip(told[1:], states[1:], strict=False):
        assert torch.equal(x_self, state.prediction.x_0) and x_self.abs().max() > 0
        assert x_self.abs().max() <= 1


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_a_latent_is_drawn_anew_at_each_step(sampler):
    # As Xiao et al. 2022 do. Drawn once and given as a tensor it would be the same at each step.
    told = []

    def model(x_t, t, z):
        told.append(z)
        return x_t * z.mean(1, keepdim=True)

    latents = torch.Generator().manual_seed(5)

    def z(x_t, t, prev):
        return torch.randn(len(x_t), 8, generator=latents)

    walk(sampler, BASE, make_denoiser(model, BASE, xstart, z=z), torch.randn(4, 2))
    again = torch.Generator().manual_seed(5)
    assert [draw.tolist() for draw in told] == [torch.randn(4, 8, generator=again).tolist() for _ in range(10)]
    told.clear()
    once = torch.randn(4, 8)
    walk(sampler, BASE, make_denoiser(model, BASE, xstart, z=once), torch.randn(4, 2))
    assert len(told) == 10 and all(draw is once for draw in told)


def test_everything_at_once():
    # Label, image, latent and own estimate, added up with weights that tell them apart; by hand over two steps.
    def model(x_t, t, y, cond, z, x_self):
        return 1000 * y[:, None] + 100 * cond + 10 * z + x_self

    y, cond, x_t, t = torch.tensor([1, 2]), torch.tensor([[0.3], [0.5]]), torch.zeros(2, 1), torch.tensor([3, 3])
    told = {"y": y, "cond": cond, "z": lambda x_t, t, prev: t[:, None] / 10, "x_self": previous_x_0}
    denoise = make_denoiser(model, BASE, xstart, **told)
    first = denoise(x_t, t)
    torch.testing.assert_close(first.x_0, torch.tensor([[1033.0], [2053.0]]))
    torch.testing.assert_close(denoise(x_t, t - 1, first).x_0, torch.tensor([[2065.0], [4105.0]]))


def test_an_image_conditions_the_u_net():
    # Super-resolution: the small image, enlarged, joins x_t. Each sample depends on its own image and on no other.
    model = randomised(UNet(10, 8, [1, 2], [], 1, 0.0, in_ch=3, cond_ch=3, num_groups=4))
    small = torch.rand(2, 3, 4, 4) * 2 - 1
    x_T = torch.randn(2, 3, 8, 8)

    def sample(small):
        cond = nn.functional.interpolate(small, scale_factor=2)
        return walk("ddim", BASE.respaced([0, 4, 9]), make_denoiser(model, BASE, velocity, cond=cond), x_T)[-1].x_t

    one, other = sample(small), sample(torch.cat([small[:1], -small[1:]]))
    assert one.shape == (2, 3, 8, 8)
    torch.testing.assert_close(one[0], other[0])
    assert (one[1] - other[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="cond"):
        make_denoiser(model, BASE, velocity)(x_T, torch.tensor([0, 1]))


# Clipping.


@every_mean_type
def test_clipping_derives_eps_again(mean_type):
    x_t, t = noised()
    free = make_denoiser(lambda x_t, t: 3 * torch.sin(5 * x_t), BASE, mean_type)
    x_0, eps, var_frac = clipped(free, BASE)(x_t, t)
    assert torch.equal(x_0, free(x_t, t).x_0.clamp(-1, 1)) and not torch.equal(x_0, free(x_t, t).x_0)
    torch.testing.assert_close(BASE.q_sample(x_0, t, eps), x_t)  # the two belong to one x_t
    assert var_frac is None


def test_clipping_keeps_the_variance_and_passes_prev_on():
    x_t, t = noised()
    prev, frac = Prediction(x_t, x_t), torch.rand_like(x_t)
    seen = []

    def denoise(x_t, t, prev=None):
        seen.append(prev)
        return Prediction(5 * x_t, x_t, frac)

    assert clipped(denoise, BASE)(x_t, t, prev).var_frac is frac
    assert seen == [prev]


def test_clipping_bounds_are_arguments():
    x_t, t = torch.linspace(-9, 9, 5)[:, None], torch.arange(5)
    x_0 = clipped(make_denoiser(lambda x_t, t: x_t, BASE, xstart), BASE, -2.0, 0.5)(x_t, t).x_0
    assert x_0.min() == -2 and x_0.max() == 0.5


def test_clipping_leaves_what_is_inside_alone():
    t, x_0, noise = torch.arange(5), torch.rand(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    free = make_denoiser(lambda x_t, t: noise, BASE, epsilon)
    prediction = clipped(free, BASE)(BASE.q_sample(x_0, t, noise), t)
    torch.testing.assert_close(prediction.x_0, x_0)
    torch.testing.assert_close(prediction.eps, noise)
