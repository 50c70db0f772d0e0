"""Training: one step by hand, exact repetition, what a loss can reach, and the average of weights."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ddpm_lesson import oracle
from ddpm_lesson.ddpm import GaussianDiffusionTrainer
from ddpm_lesson.denoisers import make_denoiser, previous_x_0
from ddpm_lesson.doors import ImageRangeWarning
from ddpm_lesson.losses import absolute, hybrid_loss, kl_loss, min_snr, simple_loss
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.points import eight_gaussians, eight_gaussians_mixture
from ddpm_lesson.predictions import epsilon, fixedlarge, xstart
from ddpm_lesson.process import GaussianDiffusion, Noised
from ddpm_lesson.samplers import ddim, last
from ddpm_lesson.schedules import linear, linear_scaled
from ddpm_lesson.timesteps import Antithetic, LossSecondMoment, Uniform
from ddpm_lesson.training import EMA, TrainStep, constant, cosine, minibatches, train
from ddpm_lesson.variants.self_conditioning import own_estimate

T = 50
PROCESS = GaussianDiffusion(linear_scaled(T))
SIMPLE = partial(simple_loss, PROCESS, epsilon)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp(seed=0, T=T):
    torch.manual_seed(seed)
    return MLP(T, 2, 16, 1)


def points(n=64, seed=3):
    return eight_gaussians(n, generator=seeded(seed))


def fresh(n, generator):
    """New points in every batch."""
    return (eight_gaussians(n, generator=generator) for _ in itertools.count())


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(model, *, steps=5, seed=0, loss=SIMPLE, process=PROCESS, data=None, **options):
    data = minibatches(points(), batch_size=16, generator=seeded(seed)) if data is None else data
    return list(train(model, process, data, loss, steps=steps, generator=seeded(seed + 1), **options))


# Algorithm 1.


def test_a_step_by_hand():
    # t, then noise, from one generator; the mean squared error of the noise; Adam's first step is lr * sign(gradient)
    # but for its eps: lr g / (|g| + 1e-8), on the clipped g.
    model, x_0, draw = mlp(), points(), seeded(1)
    t, noise = torch.randint(T, (64,), generator=draw), torch.randn(64, 2, generator=draw)
    a = torch.cumprod(1 - linear_scaled(T), 0)[t][:, None].float()
    expected = copy.deepcopy(model)
    losses = ((noise - expected(a.sqrt() * x_0 + (1 - a).sqrt() * noise, t)) ** 2).mean(1)
    losses.mean().backward()
    norm = torch.cat([p.grad.flatten() for p in expected.parameters() if p.requires_grad]).norm()

    (step,) = run(model, steps=1, data=[x_0], lr=0.01, clip_norm=norm.item() / 2)
    assert isinstance(step, TrainStep) and step.step == 1
    assert torch.equal(step.t, t) and not step.losses.requires_grad
    torch.testing.assert_close(step.losses, losses.detach(), rtol=1e-5, atol=1e-6)
    assert step.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert step.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    for after, before in zip(model.parameters(), expected.parameters(), strict=True):
        if before.requires_grad:
            g = before.grad / 2
            torch.testing.assert_close(after, before - 0.01 * g / (g.abs() + 1e-8), rtol=1e-4, atol=1e-5)


def test_loss_is_that_of_the_posts_trainer():
    process, x_0, model = GaussianDiffusion(linear(1000)), points(), mlp(T=1000)
    trainer = GaussianDiffusionTrainer(model, 1e-4, 0.02, 1000)
    expected = trainer(x_0, generator=seeded(1)).mean().item()
    (step,) = run(model, steps=1, process=process, loss=partial(simple_loss, process, epsilon), data=[x_0])
    assert step.loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sampler", [Uniform, Antithetic, LossSecondMoment])
def test_same_seed_same_run_bit_by_bit(sampler):
    runs = []
    for _ in range(2):
        model = mlp()
        ema = EMA(model)
        steps = run(model, steps=20, ema=ema, timesteps=sampler(T), warmup=5)
        runs.append((steps, weights(model), weights(ema.model)))
    (a, *a_weights), (b, *b_weights) = runs
    assert [s[:3] for s in a] == [s[:3] for s in b]
    assert all(torch.equal(x.t, y.t) and torch.equal(x.losses, y.losses) for x, y in zip(a, b, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(a_weights, b_weights, strict=True))
    assert [s[:3] for s in a] != [s[:3] for s in run(mlp(), steps=20, seed=1)]


def test_with_a_generator_pytorchs_own_is_left_alone():
    model, before = mlp(), torch.get_rng_state()
    run(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_pytorchs_own_seed_counts():
    losses = []
    for _ in range(2):
        model = mlp()  # seeds PyTorch
        losses.append([s.loss for s in train(model, PROCESS, minibatches(points(), batch_size=16), SIMPLE, steps=3)])
    assert losses[0] == losses[1]


def test_steps_are_made_one_by_one():
    # The generator is lazy: nothing happens before it is asked, and what happens between two steps is the caller's.
    model = mlp()
    start, steps = weights(model), train(model, PROCESS, [points()], SIMPLE, steps=3, generator=seeded())
    assert torch.equal(weights(model), start)
    assert next(steps).step == 1
    after_one = weights(model)
    assert not torch.equal(after_one, start) and torch.is_grad_enabled()
    denoised = make_denoiser(model, PROCESS, epsilon)(points(), torch.zeros(64, dtype=torch.int64))
    assert not denoised.x_0.requires_grad and model.training
    assert torch.equal(weights(model), after_one)
    assert [step.step for step in steps] == [2, 3]


def test_no_batch_is_taken_that_is_not_used():
    taken = []

    def data():
        for k in itertools.count():
            taken.append(k)
            yield points()

    run(mlp(), steps=3, data=data())
    assert taken == [0, 1, 2]


def test_frozen_parameters_stay():
    model = mlp()
    model.head.weight.requires_grad_(False)
    head, tail = model.head.weight.clone(), model.tail[1].weight.clone()
    run(model)
    assert torch.equal(model.head.weight, head) and not torch.equal(model.tail[1].weight, tail)


def test_learning_rate_rises_linearly():
    # Adam's step is at most about lr; with a constant gradient exactly lr.
    for warmup, expected in ((0, [1, 2, 3, 4, 5, 6]), (4, [0.25, 0.75, 1.5, 2.5, 3.5, 4.5])):
        model, path = Blind().double(), []
        for _ in train(
            model, PROCESS, [points()], lambda output, *_: output, steps=6, lr=0.1, warmup=warmup, generator=seeded()
        ):
            path.append(-model.w.item() / 0.1)
        assert path == pytest.approx(expected, rel=1e-6)


def test_gradient_is_cut_to_its_norm():
    # Losses 1e6 times as large, and steps as if they were not: the gradient that Adam sees has norm 1 either way.
    seen = []
    for scale in (1.0, 1e6):
        model = mlp()
        run(model, steps=1, loss=lambda *a, scale=scale: scale * SIMPLE(*a), clip_norm=0.01)
        seen.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]).norm().item())
    assert seen == pytest.approx([0.01, 0.01], rel=1e-3)
    model = mlp()
    (step,) = run(model, steps=1, clip_norm=math.inf)
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]).norm().item()
    assert norm == pytest.approx(step.grad_norm, rel=1e-5)


class Blind(nn.Module):
    """A network that looks at nothing and predicts one number."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x_t, t):
        return self.w.expand(x_t.shape)


def test_erratum_15_neither_batch_nor_image_scale_the_step():
    # A sum in the place of the mean would make loss and gradient larger by the number of images and of pixels.
    # (0 - 1)^2 = 1 everywhere, with slope -2 in w.
    loss = partial(simple_loss, PROCESS, xstart)
    for shape in ((1, 2), (64, 2), (5, 3, 8, 8)):
        (step,) = run(Blind(), steps=1, loss=loss, data=[torch.ones(shape)])
        assert (step.loss, step.grad_norm) == pytest.approx((1, 2))


# Optimiser, rate and accumulation.


def slope_one(output, *_):
    """A loss whose gradient in Blind's number is 1, whatever happens."""
    return output


def lrs(steps, warmup, rate):
    """The learning rates by hand, as parts of lr."""
    return [rate(k) * (min(1, k / warmup) if warmup else 1) for k in range(1, steps + 1)]


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize(
    "rate, by_hand",
    [(constant, lambda k: 1), (cosine(10), lambda k: 0.5 + 0.5 * math.cos(math.pi * (k - 1) / 10))],
    ids=["constant", "cosine"],
)
def test_rate_and_warmup_with_sgd(rate, by_hand, warmup):
    model, path = Blind().double(), [0.0]
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in run_blind(model, optimizer=sgd, steps=10, lr=0.1, warmup=warmup, rate=rate):
        path.append(model.w.item())
    moved = [(a - b) / 0.1 for a, b in itertools.pairwise(path)]
    assert moved == pytest.approx(lrs(10, warmup, by_hand), rel=1e-9, abs=1e-12)


def test_cosine_starts_at_1_and_ends_at_0():
    rate = cosine(100)
    assert rate(1) == 1 and rate(51) == pytest.approx(0.5) and rate(101) == pytest.approx(0) == rate(500)


def test_adamw_by_hand():
    # Loshchilov & Hutter 2019, Algorithm 2: the weight shrinks by lr times decay besides Adam's step. With a constant
    # gradient of 1 Adam's step is lr / (1 + 1e-8).
    model, w = Blind().double(), 3.0
    torch.nn.init.constant_(model.w, w)
    adamw = torch.optim.AdamW(model.parameters(), weight_decay=0.2)
    steps = run_blind(model, optimizer=adamw, steps=6, lr=0.1, warmup=3, rate=cosine(6))
    for _, part in zip(steps, lrs(6, 3, cosine(6)), strict=True):
        w = w * (1 - 0.1 * part * 0.2) - 0.1 * part / (1 + 1e-8)
        assert model.w.item() == pytest.approx(w, rel=1e-9)


def run_blind(model, **options):
    return train(model, PROCESS, [points()], slope_one, clip_norm=math.inf, generator=seeded(), **options)


@pytest.mark.parametrize("k", [2, 5])
def test_accumulated_batches_equal_one_batch(k):
    # The same images, t and noise in one batch k times as large, by hand; plain gradient descent in float64.
    model, draw, x_0 = mlp().double(), seeded(1), points(10 * k).double()
    t, noise = [], []
    for _ in range(k):
        t.append(torch.randint(T, (10,), generator=draw))
        noise.append(torch.randn(10, 2, generator=draw, dtype=torch.float64))
    t, noise = torch.cat(t), torch.cat(noise)
    expected = copy.deepcopy(model)
    losses = (noise - expected(PROCESS.q_sample(x_0, t, noise), t)).square().mean(1)
    losses.mean().backward()

    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    options = {"accumulate": k, "optimizer": sgd, "lr": 0.5, "clip_norm": math.inf}
    (step,) = run(model, steps=1, data=x_0.split(10), **options)
    assert step.loss == pytest.approx(losses.mean().item(), rel=1e-6)  # told in float32
    assert torch.equal(step.t, t)
    torch.testing.assert_close(step.losses, losses.detach(), rtol=1e-12, atol=0)
    for after, before in zip(model.parameters(), expected.parameters(), strict=True):
        if before.requires_grad:
            torch.testing.assert_close(after, before - 0.5 * before.grad, rtol=1e-12, atol=1e-14)


def test_accumulation_takes_its_batches_and_no_more():
    taken, ema = [], EMA(mlp())
    run(mlp(), steps=2, accumulate=3, ema=ema, data=(taken.append(k) or points() for k in itertools.count()))
    assert taken == list(range(6)) and ema.updates == 2
    with pytest.raises(ValueError, match="the batches ran out after 5"):
        run(mlp(), steps=2, accumulate=3, data=(points() for _ in range(5)))


def test_a_run_goes_on_from_its_start():
    # Schedule, optimiser and average are those of one run; only the data and the generator are the caller's to place.
    def steps_of(model, adam, ema, data, generator, **options):
        options |= {"optimizer": adam, "ema": ema, "lr": 0.01, "warmup": 6, "rate": cosine(10), "generator": generator}
        return [s.step for s in train(model, PROCESS, data, SIMPLE, **options)]

    results = []
    for parts in [(0, 10)], [(0, 4), (4, 5), (5, 10)]:
        model = mlp()
        ema, adam = EMA(model), torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
        data, generator = minibatches(points(), batch_size=16, generator=seeded()), seeded(1)
        made = [steps_of(model, adam, ema, data, generator, start=a, steps=b) for a, b in parts]
        results.append((sum(made, []), weights(model).tolist(), weights(ema.model).tolist()))
    assert results[0] == results[1] and results[0][0] == list(range(1, 11))


# Precision and compilation.


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(device):
    process = GaussianDiffusion(linear_scaled(T)).to(device)
    loss, dtypes = partial(simple_loss, process, epsilon), []
    full, mixed = mlp().to(device), mlp().to(device)
    mixed.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    steps = [
        run(model, steps=20, process=process, loss=loss, data=[points(256)], mixed_precision=on)
        for model, on in ((full, False), (mixed, True))
    ]
    assert set(dtypes) == {torch.bfloat16}
    for p in mixed.parameters():
        assert p.dtype == torch.float32 and (p.grad is None or p.grad.dtype == torch.float32)
    assert steps[1][0].losses.dtype == torch.float32
    # One rounding to bfloat16 is 2^-9 of a number at most. The net rounds input, weights and output of three layers.
    for a, b in zip(*steps, strict=True):
        assert a.loss != b.loss and b.loss == pytest.approx(a.loss, rel=9 * 2**-9)
    # Updates of lr = 2e-4 would be lost in bfloat16, whose steps near 0.1 are 5e-4: the weights have left its grid.
    moved = torch.cat([p.detach().flatten() for p in mixed.parameters() if p.requires_grad])
    assert (moved != moved.bfloat16().float()).float().mean() > 0.9


def test_without_mixed_precision_autocast_is_not_asked_for(monkeypatch):
    # PyTorch 2.4 has none on Apple's GPUs, and refuses the device also with enabled=False.
    def refused(*args, **options):
        raise RuntimeError("User specified an unsupported autocast device_type 'mps'")

    monkeypatch.setattr(torch, "autocast", refused)
    assert [step.step for step in run(mlp(), steps=2)] == [1, 2]
    with pytest.raises(RuntimeError, match="unsupported autocast device_type"):
        run(mlp(), steps=2, mixed_precision=True)


def test_compiled_network_is_the_one_that_is_called(monkeypatch):
    compiled, calls = [], []

    def compile_(model):
        compiled.append(model)
        return lambda *inputs: calls.append(1) or model(*inputs)

    monkeypatch.setattr(torch, "compile", compile_)
    model = mlp()
    steps = run(model, steps=3, compiled=True)
    assert compiled == [model] and len(calls) == 3
    assert [s.loss for s in steps] == [s.loss for s in run(mlp(), steps=3)] and len(calls) == 3


# Losses and samplers of t, in use.


def two_headed():
    torch.manual_seed(0)

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.tail = MLP(T, 2, 16, 1), nn.Linear(2, 4)

        def forward(self, x_t, t):
            return self.tail(self.body(x_t, t))

    return Doubled()


@pytest.mark.parametrize(
    "make, loss",
    [
        (mlp, SIMPLE),
        (mlp, partial(simple_loss, PROCESS, xstart, error=absolute)),
        (mlp, partial(kl_loss, PROCESS, epsilon, fixedlarge, rescaled=True)),
        (two_headed, partial(hybrid_loss, PROCESS, epsilon)),
        (mlp, lambda output, noised: min_snr(PROCESS.snr[noised.t]) * SIMPLE(output, noised).mean(1)),
    ],
    ids=["simple", "absolute", "kl", "hybrid", "min_snr"],
)
@pytest.mark.parametrize("sampler", [Uniform, Antithetic, LossSecondMoment])
def test_every_loss_with_every_sampler_goes_down(make, loss, sampler):
    steps = run(make(), steps=60, loss=loss, timesteps=sampler(T), lr=1e-2, data=fresh(64, seeded(5)))
    losses = [s.loss for s in steps]
    assert sum(losses[-10:]) < 0.92 * sum(losses[:10])  # over 20 seeds the ratio was at most 0.87


def test_sampler_hears_of_unweighted_losses():
    timesteps = LossSecondMoment(2, history=1)
    process = GaussianDiffusion(torch.tensor([0.3, 0.5]))
    steps = run(mlp(T=2), steps=8, process=process, loss=partial(simple_loss, process, epsilon), timesteps=timesteps)
    assert timesteps.counts.sum() == 8 * 16
    last = steps[-1]
    for step in (0, 1):
        if (last.t == step).any():
            assert timesteps.losses[step, 0].item() == pytest.approx(last.losses[last.t == step][-1].item())
    # Where p_t is not uniform the loss that is minimised carries the weights 1 / (T p_t), and the reported ones do not.
    assert last.loss != pytest.approx(last.losses.mean().item(), rel=1e-3)


# Data.


def test_minibatches_are_shuffled_epochs():
    x, y = torch.arange(10), torch.arange(10) * 10
    batches = list(itertools.islice(minibatches(x, y, batch_size=3, generator=seeded()), 6))
    for epoch in (batches[:3], batches[3:]):
        assert len(torch.cat([b[0] for b in epoch]).unique()) == 9  # the tenth is left out of this pass
    assert all(torch.equal(10 * b[0], b[1]) for b in batches)
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(batches[:3], batches[3:], strict=True))
    again = itertools.islice(minibatches(x, y, batch_size=3, generator=seeded()), 6)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, again, strict=True))


def test_data_are_gone_through_again():
    data = DataLoader(TensorDataset(points(20)), batch_size=8)
    steps = run(mlp(), steps=7, data=data)
    assert [len(s.t) for s in steps] == [8, 8, 4, 8, 8, 4, 8]


def test_bare_tensors_tuples_and_lists_are_the_same_batches():
    runs = [run(mlp(), steps=2, data=data) for data in ([points()], [(points(),)], [[points()]])]
    assert [s.loss for s in runs[0]] == [s.loss for s in runs[1]] == [s.loss for s in runs[2]]


# What the network is told.


class Told(nn.Module):
    """A network that is told of label, image, latent and its own estimate, each optional, and records every call."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.label, self.body, self.calls = nn.Embedding(3, 2), nn.Linear(10, 2), []

    def forward(self, x_t, t, y=None, cond=None, z=None, x_self=None):
        self.calls.append({"y": y, "cond": cond, "z": z, "x_self": x_self, "grad": torch.is_grad_enabled()})
        parts = [x_t, None if y is None else self.label(y), cond, z, x_self]
        return self.body(torch.cat([torch.zeros_like(x_t) if part is None else part for part in parts], 1))


def labelled(n=48):
    """Points, a label 0..2 for each, and twice the point as its image."""
    x_0 = points(n)
    return x_0, torch.arange(n) % 3, 2 * x_0


def test_conditions_of_a_batch_reach_the_network_by_name():
    x_0, y, cond = labelled()
    for told in ({}, {"y": y}, {"cond": cond}, {"cond": cond, "y": y}):
        model = Told()
        run(model, steps=2, data=[(x_0, told)])
        for call in model.calls:
            assert {name for name, value in call.items() if isinstance(value, torch.Tensor)} == set(told)
            assert all(torch.equal(call[name], value) for name, value in told.items())


def test_labels_alone_need_no_name():
    x_0, y, _ = labelled()
    short, long = (run(Told(), steps=3, data=data) for data in ([(x_0, y)], [(x_0, {"y": y})]))
    assert [s.loss for s in short] == [s.loss for s in long] != [s.loss for s in run(Told(), steps=3, data=[x_0])]


def test_a_data_loader_brings_conditions_with_their_images():
    x_0, y, cond = labelled()
    pairs = DataLoader(list(zip(x_0, y, strict=True)), batch_size=16, shuffle=True, generator=seeded())
    named = [(x, {"y": label, "cond": image}) for x, label, image in zip(x_0, y, cond, strict=True)]
    model = Told()
    run(model, steps=5, data=pairs)
    assert all(call["y"].shape == (16,) and call["cond"] is None for call in model.calls)
    model, drawn = Told(), []

    def loss(output, noised):
        drawn.append(noised.x_0)
        return SIMPLE(output, noised)

    run(model, steps=5, loss=loss, data=DataLoader(named, batch_size=16, shuffle=True, generator=seeded()))
    for call, x in zip(model.calls, drawn, strict=True):
        rows = torch.cdist(x, x_0).argmin(1)
        assert torch.equal(call["cond"], 2 * x) and torch.equal(call["y"], y[rows])


def test_a_latent_is_drawn_for_each_image_of_each_step():
    latents = seeded(9)

    def with_latent(noised, told):
        return {**told, "z": torch.randn(len(noised.t), 2, generator=latents)}

    (x_0, y, _), model = labelled(), Told()
    run(model, steps=3, data=[(x_0, y)], conditions=with_latent)
    again = seeded(9)
    for call in model.calls:
        assert torch.equal(call["z"], torch.randn(48, 2, generator=again)) and torch.equal(call["y"], y)


def test_conditions_are_made_from_the_draw_that_is_trained_on():
    made, trained = [], []

    def conditions(noised, told):
        made.append(noised)
        return told

    def loss(output, noised):
        trained.append(noised)
        return SIMPLE(output, noised)

    steps = run(mlp(), steps=2, accumulate=2, loss=loss, conditions=conditions)
    assert len(made) == 4 and all(a is b for a, b in zip(made, trained, strict=True))
    assert torch.equal(torch.cat([noised.t for noised in made[:2]]), steps[0].t)


def self_conditioned(model, coin):
    """Chen et al. 2022: with probability 1/2 the network is told its own estimate of x_0, and zeros otherwise."""

    def conditions(noised, told):
        denoise = make_denoiser(model, PROCESS, xstart, x_self=previous_x_0, **told)
        tossed = torch.rand((), generator=coin) < 0.5
        x_self = denoise(noised.x_t, noised.t).x_0 if tossed else torch.zeros_like(noised.x_t)
        return {**told, "x_self": x_self}

    return conditions


def test_self_conditioning_is_trained_through_its_second_call_alone():
    (x_0, y, _), coin = labelled(), seeded(11)
    tosses = (torch.rand(12, generator=seeded(11)) < 0.5).tolist()
    assert True in tosses and False in tosses
    model, draw = Told(), seeded(1)
    sgd = torch.optim.SGD(model.parameters())
    steps = train(
        model,
        PROCESS,
        [(x_0, y)],
        partial(simple_loss, PROCESS, xstart),
        steps=12,
        lr=0.05,
        clip_norm=math.inf,
        optimizer=sgd,
        conditions=self_conditioned(model, coin),
        generator=seeded(1),
    )
    expected, differ = Told(), []
    for tossed in tosses:
        t, noise = torch.randint(T, (48,), generator=draw), torch.randn(48, 2, generator=draw)
        a = PROCESS.alphas_bar[t][:, None].float()
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise

        def gradient(detached, tossed=tossed, t=t, x_t=x_t):
            x_self = torch.zeros(48, 2)
            if tossed:
                x_self = expected(x_t, t, y, x_self=x_self)
                x_self = x_self.detach() if detached else x_self
            loss = (expected(x_t, t, y, x_self=x_self) - x_0).square().mean()
            return torch.autograd.grad(loss, list(expected.parameters()))

        through_second, through_both = gradient(True), gradient(False)
        model.calls.clear()
        next(steps)
        grads = [call["grad"] for call in model.calls]
        assert grads == ([False, True] if tossed else [True]) and model.training
        for p, g, both in zip(model.parameters(), through_second, through_both, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)
            differ.append(not torch.allclose(both, g, rtol=0.01))
        with torch.no_grad():
            for p, g in zip(expected.parameters(), through_second, strict=True):
                p -= 0.05 * g
    assert any(differ)  # gradients through the first call would be others


def test_self_conditioning_keeps_its_gradients_in_mixed_precision():
    # Two calls in one step, the first one without gradients: the weights that the second one rounds keep theirs.
    def told(noised, given):
        return {"x_self": make_denoiser(model, PROCESS, xstart, x_self=previous_x_0)(noised.x_t, noised.t).x_0}

    gradients = []
    for mixed in (False, True):
        model = Told()
        run(model, steps=1, data=[points()], conditions=told, clip_norm=math.inf, mixed_precision=mixed)
        assert [call["grad"] for call in model.calls] == [False, True]
        gradients.append(model.body.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.05, atol=0.05)
    assert gradients[1].abs().max() > 0.1


@pytest.mark.parametrize("mixed", [False, True])
def test_every_question_of_a_step_is_asked_in_the_same_precision(mixed, device):
    process = GaussianDiffusion(linear_scaled(T)).to(device)
    torch.manual_seed(0)
    model, asked = UNet(T, 8, [1], [], 1, 0.0, in_ch=1, cond_ch=1, num_groups=4).to(device), []

    def listen(module, inputs, given, output):
        told = given["cond"]
        asked.append((torch.is_autocast_enabled(device.type), output.dtype, told.dtype, bool(told.any())))

    model.register_forward_hook(listen, with_kwargs=True)
    conditions = own_estimate(model, process, xstart, share=1.0, generator=seeded())
    x_0 = torch.rand(4, 1, 4, 4, generator=seeded(1)) * 2 - 1
    loss = partial(simple_loss, process, xstart)
    run(model, steps=2, process=process, loss=loss, data=[x_0], conditions=conditions, mixed_precision=mixed)
    precision = torch.bfloat16 if mixed else torch.float32
    first, second = ((mixed, precision, torch.float32, told) for told in (False, True))
    assert asked == [first, second] * 2


def test_super_resolution_with_the_u_net():
    # Images of one grey level, told by their small image. Without it no network knows the level where x_t is noise.
    process = GaussianDiffusion(linear(10, 0.1, 0.7))
    torch.manual_seed(0)
    model = UNet(10, 8, [1], [], 1, 0.0, in_ch=1, cond_ch=1, num_groups=4)

    def batches(generator):
        while True:
            small = torch.rand(16, 1, 1, 1, generator=generator) * 2 - 1
            yield small.expand(16, 1, 4, 4), {"cond": nn.functional.interpolate(small, size=(4, 4))}

    loss = partial(simple_loss, process, xstart)
    list(train(model, process, batches(seeded()), loss, steps=150, lr=3e-3, warmup=10, generator=seeded(1)))
    small = torch.tensor([-0.8, 0.0, 0.8]).view(3, 1, 1, 1)
    denoise = make_denoiser(model, process, xstart, cond=nn.functional.interpolate(small, size=(4, 4)))
    x_0 = last(ddim(process, denoise, torch.randn(3, 1, 4, 4, generator=seeded(2))))
    assert (x_0 - small).abs().max() < 0.2  # over 20 seeds at most 0.13


def test_a_batch_of_three_parts_is_an_error():
    x_0, y, cond = labelled()
    with pytest.raises(ValueError, match=r"a batch must be x_0, \(x_0, y\) or \(x_0, conditions\), got 3 parts"):
        run(Told(), steps=1, data=[(x_0, y, cond)])


@pytest.mark.parametrize("told", [[torch.zeros(48)], 3, None])
def test_conditions_without_names_are_an_error(told):
    message = r"a batch must be x_0, \(x_0, y\) or \(x_0, conditions\), got " + f"x_0 and a {type(told).__name__}"
    with pytest.raises(TypeError, match=message):
        run(Told(), steps=1, data=[(labelled()[0], told)])


@pytest.mark.parametrize("steps", [[0, 10, 49], range(T)])
def test_a_respaced_chain_is_not_trained_on(steps):
    # Its steps are numbered 0..S-1: the network would learn noise levels under the wrong numbers.
    chain, model = PROCESS.respaced(list(steps)), mlp()
    before = weights(model)
    message = r"a network learns the base's steps.*train on process.base, got GaussianDiffusion\(T=" + str(len(steps))
    with pytest.raises(ValueError, match=message):
        run(model, process=chain, loss=partial(simple_loss, PROCESS, epsilon))
    assert torch.equal(weights(model), before)


def test_any_object_with_the_two_methods_draws_t():
    class Last:
        T, heard = T, []

        def sample(self, batch_size, *, generator=None, device=None):
            return torch.full((batch_size,), T - 1, device=device), torch.full((batch_size,), 3.0, device=device)

        def update(self, t, losses):
            self.heard.append((t.tolist(), losses))

    timesteps = Last()
    (step,) = run(mlp(), steps=1, timesteps=timesteps)
    assert step.t.tolist() == [T - 1] * 16 and step.loss == pytest.approx(3 * step.losses.mean().item(), rel=1e-6)
    assert len(timesteps.heard) == 1 and torch.equal(timesteps.heard[0][1], step.losses)


def test_labels_reach_the_network():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.seen = nn.Embedding(3, 2), []

        def forward(self, x_t, t, y):
            self.seen.append(y)
            return self.table(y)

    model, y = Conditional(), torch.arange(64) % 3
    run(model, steps=3, data=minibatches(points(), y, batch_size=64, generator=seeded()))
    assert len(model.seen) == 3 and torch.equal(model.seen[0].sort().values, y.sort().values)


def test_images_are_moved_to_the_models_device(device):
    process = GaussianDiffusion(linear_scaled(T)).to(device)
    loss = partial(simple_loss, process, epsilon)
    (step,) = run(mlp().to(device), steps=1, process=process, loss=loss, data=[points()])
    (cpu,) = run(mlp(), steps=1, data=[points()])
    assert step.t.device.type == device.type
    assert step.loss == pytest.approx(cpu.loss, rel=1e-4)  # the same t and noise on every device


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model = mlp().to(dtype)
    (step,) = run(model, steps=1, data=[points().to(dtype)])
    assert step.losses.dtype == torch.promote_types(dtype, torch.float32)
    assert math.isfinite(step.loss)


def test_train_mode_is_set_at_the_start():
    model = mlp().eval()
    run(model, steps=1)
    assert model.training


# Bad input.


@pytest.mark.parametrize(
    "options, got",
    [
        ({"steps": 0}, "got start = 0, steps = 0, warmup = 0, clip_norm = 1.0"),
        ({"start": 5}, "start = 5, steps = 5"),
        ({"start": -1}, "start = -1"),
        ({"accumulate": 0}, "accumulate = 0"),
        ({"warmup": -1}, "warmup = -1"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0"),
        ({"clip_norm": math.nan}, "clip_norm = nan"),
    ],
)
def test_bad_arguments_are_an_error(options, got):
    expected = "expected 0 <= start < steps, warmup >= 0, clip_norm > 0 and accumulate >= 1"
    with pytest.raises(ValueError, match=f"{expected}.*{got}"):
        run(mlp(), **options)


@pytest.mark.parametrize("other", [T // 5, 2 * T])
@pytest.mark.parametrize("sampler", [Uniform, Antithetic, LossSecondMoment])
def test_a_sampler_of_another_number_of_steps_is_an_error(sampler, other):
    model = mlp()
    before = weights(model)
    with pytest.raises(ValueError, match=f"which has T = {T}, got a sampler of T = {other}"):
        run(model, timesteps=sampler(other))
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_learning_rate_that_is_not_positive_is_an_error(lr):
    model = mlp()
    before = weights(model)
    with pytest.raises(ValueError, match=f"lr, the learning rate, must be positive and finite, got {lr}"):
        run(model, lr=lr)
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("share", [-0.1, math.nan, math.inf])
def test_a_factor_of_the_learning_rate_that_is_negative_or_no_number_is_an_error(share):
    model = mlp()
    steps = train(model, PROCESS, [points()], SIMPLE, steps=3, rate=lambda step: 1 if step < 2 else share)
    next(steps)
    before = weights(model)
    with pytest.raises(ValueError, match=rf"rate\(2\), a factor of the learning rate, .* got {share}"):
        next(steps)
    assert torch.equal(weights(model), before)


def test_the_learning_rate_of_an_optimizer_is_kept():
    # Each group's own, where no lr is given; the one that is given, for all groups.
    for lr, expected in ((None, [0.3, 0.05]), (0.2, [0.2, 0.2])):
        model = mlp()
        of_head = list(model.head.parameters())
        rest = [p for p in model.parameters() if p.requires_grad and not any(p is each for each in of_head)]
        sgd = torch.optim.SGD([{"params": of_head, "lr": 0.3}, {"params": rest, "lr": 0.05}])
        before = [p.detach().clone() for p in of_head + rest]
        run(model, steps=2, start=1, optimizer=sgd, lr=lr, warmup=4, clip_norm=math.inf)
        assert [group["lr"] for group in sgd.param_groups] == pytest.approx([each / 2 for each in expected])
        for p, old, rate in zip(of_head + rest, before, [expected[0]] * 2 + [expected[1]] * len(rest), strict=True):
            torch.testing.assert_close(p, old - rate / 2 * p.grad)


def test_images_of_another_range_are_seen_in_the_first_batch():
    class Echo(Blind):
        def forward(self, x_t, t):
            return self.w * x_t

    unit = torch.linspace(0, 1, 2 * 3 * 16).view(2, 3, 4, 4)
    with pytest.warns(ImageRangeWarning, match=r"got values from 0 to 1, .*: 2 \* x - 1 scales") as record:
        for _ in train(Echo(), PROCESS, [unit], SIMPLE, steps=3):
            pass
    assert len(record) == 1 and record[0].filename == __file__
    with pytest.raises(ValueError, match=r"got unscaled pixels, from 0 to 255; 8-bit images: x / 127.5 - 1"):
        run(Echo(), data=[255 * unit])
    with pytest.raises(TypeError, match=r"images must be floating point in \[-1, 1\], got torch.uint8"):
        run(Echo(), data=[(255 * unit).byte()])
    broken = torch.where(unit == 1, math.nan, unit)
    with pytest.raises(ValueError, match="finite numbers .* got 1 NaN or inf"):
        run(Echo(), data=[broken])
    for x_0 in (4 * (2 * unit - 1), 255 * unit.flatten(1), torch.zeros(2, 3, 4, 4)):  # latents, points, one colour
        assert len(run(Echo(), steps=1, data=[x_0])) == 1


def test_a_model_that_returns_no_tensor_is_told_how_to_be_wrapped():
    class Pair(Blind):
        def forward(self, x_t, t):
            return self.w * x_t, x_t

    with pytest.raises(TypeError, match=r"got a tuple of 2: give a module whose forward returns model\(x, t\)\[0\]"):
        run(Pair())


def test_a_model_on_the_device_meta_is_an_error():
    with pytest.raises(ValueError, match="the model lies on the device meta and holds no numbers"):
        run(mlp().to("meta"))


def test_a_model_of_double_precision_by_default_trains(double_by_default):
    model = UNet(T, 8, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4)
    steps = run(model, steps=2, data=[2 * torch.rand(4, 1, 4, 4) - 1], ema=EMA(model))
    assert steps[-1].losses.dtype == torch.float64 == weights(model).dtype


def test_a_model_without_parameters_is_an_error():
    with pytest.raises(ValueError, match="no parameters to train"):
        run(nn.Identity())


def test_one_tensor_is_not_an_iterable_of_batches():
    with pytest.raises(TypeError, match="got one tensor: minibatches"):
        run(mlp(), data=points())


@pytest.mark.parametrize("n", [0, 2])
def test_batches_that_run_out_are_an_error(n):
    model = mlp()
    with pytest.raises(ValueError, match=f"the batches ran out after {n}"):
        run(model, steps=3, data=(points() for _ in range(n)))


@pytest.mark.parametrize(
    "reduced, shape",
    [(lambda loss: loss.mean(), r"\(\)"), (lambda loss: loss.mean(0), r"\(2,\)")],
    ids=["mean", "axis 0"],
)
def test_a_reduced_loss_is_an_error(reduced, shape):
    with pytest.raises(ValueError, match=rf"must be \(16,\) or \(16, \*D\), not reduced, got {shape}"):
        run(mlp(), loss=lambda *a: reduced(SIMPLE(*a)))


def test_nan_names_the_step_and_its_t():
    model, clean = mlp(), points()
    broken = clean.clone()
    broken[5] = math.nan
    steps = train(model, PROCESS, iter([clean, broken]), SIMPLE, steps=3, generator=seeded())
    next(steps)
    before, draw = weights(model), seeded()
    for _ in range(2):
        t, _ = torch.randint(T, (64,), generator=draw), torch.randn(64, 2, generator=draw)
    with pytest.raises(FloatingPointError, match=rf"the loss is not finite in step 2, at t = \[{t[5]}\]"):
        next(steps)
    assert torch.equal(weights(model), before)


def test_a_gradient_that_is_not_finite_changes_no_weight():
    # sqrt has slope inf at 0: a finite loss with a NaN gradient, which clipping would spread over all weights.
    model = mlp()
    before = weights(model)
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite in step 1, t = \[[^]]{1,60}\]"):
        run(model, loss=lambda output, *_: (0 * output).sqrt())
    assert torch.equal(weights(model), before)


# What training reaches.


def test_loss_falls_to_the_irreducible_loss():
    # No network can do better than E|eps - E[eps | x_t]|^2, the oracle's loss; what is above it is the network's own
    # error, E|f - E[eps | x_t]|^2. Over 20 seeds that excess went from 0.68..1.07 to 0.024..0.029 in these 400 steps.
    truth = oracle.Mixture(PROCESS, *eight_gaussians_mixture()).as_model(epsilon)
    n = 4000
    x_0, t, noise = points(n, seed=1), torch.arange(n) % T, torch.randn(n, 2, generator=seeded(2))
    x_t = PROCESS.q_sample(x_0, t, noise)

    def judge(model):
        with torch.no_grad():
            loss, least = (SIMPLE(m(x_t, t), Noised(x_0, t, noise, x_t)).mean(1) for m in (model, truth))
            excess = (model(x_t, t) - truth(x_t, t)).square().mean(1)
        cross = loss - least - excess  # mean 0, since the oracle is the conditional expectation
        assert abs(cross.mean()) < 4 * cross.std() / n**0.5
        return loss.mean().item() - least.mean().item(), excess.mean().item()

    torch.manual_seed(0)
    model = MLP(T, 2, 64, 2)
    assert judge(model)[1] > 0.5
    run(model, steps=400, data=fresh(256, seeded(0)), lr=3e-3, warmup=20)
    above, excess = judge(model)
    assert 0 < above < 0.04 and 0 < excess < 0.04


# The average of weights.


class Buffered(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.full((2,), float(value)))
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x_t, t):
        return self.w * self.norm(x_t)


def test_average_by_hand():
    # Decays 1/10, 2/11, 3/12 with the warm-up, until decay itself is smaller.
    ema = EMA(Buffered(0), decay=0.2)
    value = 0.0
    for new, decay in ((1.0, 1 / 10), (5.0, 2 / 11), (-2.0, 0.2), (4.0, 0.2)):
        ema.update(Buffered(new))
        value = decay * value + (1 - decay) * new
        assert ema.model.w.tolist() == pytest.approx([value, value], rel=1e-6)


def test_early_averages_are_not_the_initial_weights():
    # Without a warm-up 0.9999^1000 = 90 % of the average would still be the random start.
    assert 0.9999**1000 == pytest.approx(0.905, abs=5e-4)
    ema = EMA(Buffered(1).double())
    new = Buffered(0).double()
    for _ in range(1000):
        ema.update(new)
    assert 0 <= ema.model.w.max() < 1e-12


def test_long_averages_use_the_full_decay():
    # (1 + n) / (10 + n) exceeds 0.99 from n = 890 on.
    ema = EMA(Buffered(0).double(), decay=0.99)
    ema.updates = 1000
    ema.update(Buffered(1).double())
    assert ema.model.w[0].item() == pytest.approx(0.01, rel=1e-12)


def test_buffers_are_copied():
    model = Buffered(1)
    ema = EMA(model)
    model(5 + torch.randn(64, 2), None)  # batch statistics move
    assert not torch.equal(ema.model.norm.running_mean, model.norm.running_mean)
    ema.update(model)
    for average, new in zip(ema.model.buffers(), model.buffers(), strict=True):
        assert torch.equal(average, new)
    assert ema.model.norm.num_batches_tracked == 1


def test_average_is_a_copy_in_eval_mode_without_gradients():
    model = Buffered(1).train()
    ema = EMA(model)
    assert not ema.model.training and not any(p.requires_grad for p in ema.model.parameters())
    assert model.training and model.w.requires_grad
    ema.update(Buffered(3))
    assert torch.equal(model.w, torch.ones(2)) and not ema.model.training


def test_training_keeps_the_average():
    model = mlp()
    ema, path = EMA(model, decay=0.5), [weights(model)]
    for _ in train(model, PROCESS, [points()], SIMPLE, steps=4, ema=ema, lr=0.1, generator=seeded()):
        path.append(weights(model))
    expected = path[0]
    for n, new in enumerate(path[1:]):
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * new
    torch.testing.assert_close(weights(ema.model), expected)


def test_average_resumes_exactly():
    first = EMA(Buffered(0))
    for k in range(3):
        first.update(Buffered(k))
    second = EMA(Buffered(7))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for ema in (first, second):
        ema.update(Buffered(9))
    assert torch.equal(first.model.w, second.model.w) and first.updates == second.updates == 4


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_decay_outside_of_its_range_is_an_error(decay):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\), got"):
        EMA(Buffered(0), decay)
