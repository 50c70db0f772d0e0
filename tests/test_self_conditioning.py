"""Self-conditioning: lucidrains' formulas written anew, training, and sampling with the estimate of a step earlier."""

from functools import partial
from itertools import islice

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, samplers
from ddpm_lesson.denoisers import clipped, make_denoiser, previous_x_0
from ddpm_lesson.losses import simple_loss
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import epsilon, velocity, xstart
from ddpm_lesson.samplers import last
from ddpm_lesson.schedules import linear_scaled
from ddpm_lesson.training import minibatches, train
from ddpm_lesson.variants.self_conditioning import own_estimate

PROCESS = GaussianDiffusion(linear_scaled(100))


def network(**options):
    torch.manual_seed(0)
    model = UNet(
        100, ch=8, ch_mult=[1], attn=[], num_res_blocks=1, dropout=0.0, in_ch=1, num_groups=2, cond_ch=1, **options
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # the last layer starts at nearly 0, which would hide cond
    return model


def noised(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.rand(n, 1, 8, 8, generator=generator) * 2 - 1
    return PROCESS.noised(x_0, torch.arange(n) * 15, generator=generator)


def test_always_it_is_the_x_0_of_a_first_question_without_one():
    model, drawn = network(), noised()
    given = own_estimate(model, PROCESS, epsilon, share=1.0)(drawn, {})
    a = PROCESS.alphas_bar[drawn.t].float().view(-1, 1, 1, 1)
    eps = model(drawn.x_t, drawn.t, cond=torch.zeros_like(drawn.x_t))
    torch.testing.assert_close(given["cond"], ((drawn.x_t - (1 - a).sqrt() * eps) / a.sqrt()).detach())
    assert not given["cond"].requires_grad and given["cond"].abs().max() > 0


def test_never_it_is_zeros_and_other_conditions_stay():
    y = torch.arange(6)
    given = own_estimate(network(), PROCESS, epsilon, share=0.0)(noised(), {"y": y})
    assert not given["cond"].any() and given["y"] is y


def test_half_of_the_batches_are_told_and_a_seed_says_which():
    told = []
    for _ in range(2):
        conditions = own_estimate(network(), PROCESS, velocity, generator=torch.Generator().manual_seed(5))
        told.append([bool(conditions(noised(2), {})["cond"].any()) for _ in range(200)])
    assert told[0] == told[1] and 75 <= sum(told[0]) <= 125  # 3.5 standard deviations


def test_learned_variance_and_labels_are_asked_for_too():
    model = network(learned_var=True, num_classes=3)
    given = own_estimate(model, PROCESS, epsilon, share=1.0)(noised(3), {"y": torch.tensor([0, 1, 2])})
    assert given["cond"].shape == (3, 1, 8, 8)


def test_training_teaches_both_questions():
    model, x_0 = network(), torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    conditions = own_estimate(model, PROCESS, epsilon, generator=torch.Generator().manual_seed(2))
    before = {name: p.clone() for name, p in model.named_parameters()}
    batches = minibatches(x_0, batch_size=16, generator=torch.Generator().manual_seed(3))
    steps = train(model, PROCESS, batches, partial(simple_loss, PROCESS, epsilon), steps=20, conditions=conditions)
    losses = [step.loss for step in steps]
    assert sum(losses[-5:]) < sum(losses[:5])
    change = (model.head.weight - before["head.weight"])[:, 1]  # of what reads cond
    assert change.abs().max() > 1e-4


def test_sampling_is_the_loop_of_the_paper():
    model = network().eval()
    x_T = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    chain = PROCESS.respaced([10, 40, 70, 99])
    denoise = clipped(make_denoiser(model, PROCESS, xstart, cond=previous_x_0), PROCESS)
    found = [state.x_t for state in islice(samplers.ddim(chain, denoise, x_T), 1, None)]
    x, estimate, a = x_T, torch.zeros_like(x_T), PROCESS.alphas_bar.float()
    for t, before, state in zip((99, 70, 40, 10), (70, 40, 10, None), found, strict=True):
        with torch.no_grad():
            estimate = model(x, torch.full((3,), t), cond=estimate).clamp(-1, 1)  # what the next step is told
        assert 0.1 < (estimate.abs() < 1).float().mean()
        eps = (x - a[t].sqrt() * estimate) / (1 - a[t]).sqrt()
        a_prev = torch.tensor(1.0) if before is None else a[before]
        x = a_prev.sqrt() * estimate + (1 - a_prev).sqrt() * eps
        torch.testing.assert_close(state, x, rtol=1e-4, atol=1e-5)


def test_a_chain_that_is_told_nothing_ends_elsewhere():
    model = network().eval()
    x_T = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    ends = []
    for cond in (previous_x_0, torch.zeros_like(x_T)):
        denoise = make_denoiser(model, PROCESS, xstart, cond=cond)
        ends.append(last(samplers.ddim(PROCESS.respaced([10, 40, 70, 99]), denoise, x_T)))
    assert (ends[0] - ends[1]).abs().max() > 1e-3


def test_the_network_gets_one_dtype():
    drawn = noised()
    half = drawn._replace(x_t=drawn.x_t.bfloat16())
    model = network().bfloat16()
    given = own_estimate(model, PROCESS, xstart, share=1.0)(half, {})
    assert given["cond"].dtype == torch.bfloat16


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"share must lie in 0\.\.1, got 1\.2"):
        own_estimate(network(), PROCESS, epsilon, share=1.2)
