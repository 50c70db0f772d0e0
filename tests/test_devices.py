"""On a GPU: everything that trains and samples runs there, gives what the CPU gives, and rarely waits for it."""

from functools import partial
from itertools import islice

import accelerator
import pytest
import torch
from conftest import usable
from torch import nn

from ddpm_lesson import (
    GaussianDiffusion,
    GaussianDiffusionSampler,
    GaussianDiffusionTrainer,
    Sampling,
    data,
    load_pretrained,
    spacing,
)
from ddpm_lesson.denoisers import clipped, dynamic_threshold, make_denoiser, previous_x_0
from ddpm_lesson.experiments import generators, metrics
from ddpm_lesson.experiments.classifiers import shifted
from ddpm_lesson.experiments.evaluation import some
from ddpm_lesson.experiments.generator_recipes import GeneratorRecipe
from ddpm_lesson.experiments.recipes import Recipe
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.experiments.sampling import SAMPLERS
from ddpm_lesson.experiments.spaces import real_images
from ddpm_lesson.interop import draw, to_diffusers, twin
from ddpm_lesson.losses import hybrid_loss, simple_loss
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.networks.discriminator import Discriminator
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.points import checkerboard, eight_gaussians, swiss_roll, two_moons
from ddpm_lesson.predictions import epsilon, fixedlarge, learned_range, velocity, xstart
from ddpm_lesson.samplers import ancestral, ddim, last, reverse
from ddpm_lesson.schedules import vp, zero_terminal_snr
from ddpm_lesson.timesteps import Antithetic, LossSecondMoment, Uniform
from ddpm_lesson.training import EMA, minibatches, train
from ddpm_lesson.variants import guidance
from ddpm_lesson.variants.classifier_guidance import classifier_guided, mean_shifted
from ddpm_lesson.variants.ddgan import train_ddgan
from ddpm_lesson.variants.self_conditioning import own_estimate

T = 12
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
Y = torch.tensor([0, 1, 2, 1])
# Each with options of its own that draw noise or ask the network more often.
SAMPLINGS = {name: Sampling(name) for name in SAMPLERS} | {
    "ddim with noise": Sampling("ddim", eta=0.7),
    "heun with churn": Sampling("heun", churn=5.0),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """A convolution, told the step and one of three classes or of none: most of a chain is the sampler."""

    def __init__(self, outputs=1, inputs=1):
        super().__init__()
        self.of_x, self.of_t, self.of_y = (
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.Embedding(T, 1),
            nn.Embedding(4, 1),
        )

    def forward(self, x, t, y=None, cond=None):
        x = x if cond is None else torch.cat([x, cond], 1)
        told = self.of_t(t) + (0 if y is None else self.of_y(y))
        return torch.tanh(self.of_x(x) + told[:, :, None, None])


def net(device, *sizes):
    torch.manual_seed(0)
    return Net(*sizes).to(device)


def unet(device, **options):
    torch.manual_seed(0)
    return UNet(T, 8, [1, 2], [1], 1, 0.0, **{"in_ch": 1, "num_groups": 4} | options).to(device)


def process_on(device, T=T):
    return GaussianDiffusion(vp(T)).to(device)


def drawn(sampling, device, wrap=lambda denoise, base: clipped(denoise, base), T=T, variance=fixedlarge, outputs=1):
    """A function that walks one chain and gives its sample, with everything on the device already."""
    base, model = process_on(device, T), net(device, outputs)
    x_T, x_0, y = (x.to(device) for x in (torch.randn(4, 1, 8, 8, generator=seeded()), IMAGES, Y))
    given = {"x_0": x_0, "mask": x_0 > 0} if sampling.sampler == "repaint" else {}
    given |= {"x_0": x_0} if sampling.sampler == "ddim_inversion" else {}
    denoise = wrap(make_denoiser(model, base, epsilon, y=y), base)
    return lambda: last(sampling.states(base, denoise, variance, x_T, generator=seeded(1), **given))


def assert_as_on_the_cpu(of_device, device, **tolerance):
    here, there = of_device("cpu"), of_device(device)
    assert there.device.type == device.type and here.std() > 0.01
    torch.testing.assert_close(there.cpu(), here, **{"rtol": 0, "atol": 1e-3} | tolerance)


def waits_of(device, call):
    with accelerator.waited(device) as waits:
        call()
    return waits


# Chains.


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_sampler_draws_on_a_gpu_what_it_draws_on_the_cpu(name, gpu):
    assert_as_on_the_cpu(lambda device: drawn(SAMPLINGS[name], device)(), gpu)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_no_sampler_waits_for_the_gpu(name, gpu):
    for T in (6, 12):
        assert waits_of(gpu, drawn(SAMPLINGS[name], gpu, T=T)) == []


def test_a_chain_of_fewer_steps_does_not_wait_either(gpu):
    sampling = Sampling("ddim", steps="trailing5", eta=1.0)
    assert waits_of(gpu, drawn(sampling, gpu)) == []


def free(guide):
    """Guidance of two denoisers, the same network with and without labels."""

    def wrap(cond, base):
        null = torch.full((4,), 3, device=base.betas.device)
        return guide(cond, make_denoiser(net(base.betas.device), base, epsilon, y=null), base)

    return wrap


WRAPPED = {
    "unclipped": lambda denoise, base: denoise,
    "dynamic threshold": lambda denoise, base: dynamic_threshold(denoise, base, 0.9),
    "classifier-free": free(lambda c, u, base: clipped(guidance.classifier_free(c, u, 3.0), base)),
    "rescaled": free(lambda c, u, base: guidance.guided(c, u, guidance.rescaled(3.0), base)),
    "orthogonal": free(lambda c, u, base: guidance.guided(c, u, guidance.orthogonal(3.0), base, velocity)),
    "CFG++": free(lambda c, u, base: guidance.cfg_plus_plus(c, u, 0.7)),
    "in an interval": free(lambda c, u, base: guidance.in_interval(guidance.classifier_free(c, u, 3.0), u, 3, 9)),
    "by a classifier": lambda denoise, base: classifier_guided(
        denoise, base, classifier(base.betas.device), Y.to(base.betas.device), 2.0
    ),
}


def classifier(device):
    torch.manual_seed(1)
    return Classifier(3, 8, [1, 2], in_ch=1, T=T, num_groups=4).eval().to(device)


@pytest.mark.parametrize("name", WRAPPED)
def test_guidance_and_clipping_are_those_of_the_cpu_and_do_not_wait(name, gpu):
    sampling = Sampling("ddim", eta=0.5)
    assert_as_on_the_cpu(lambda device: drawn(sampling, device, WRAPPED[name])(), gpu)
    assert waits_of(gpu, drawn(sampling, gpu, WRAPPED[name])) == []


def test_a_shifted_mean_is_that_of_the_cpu_and_does_not_wait(gpu):
    def chain(device):
        base, y = process_on(device), Y.to(device)
        p = reverse(base, make_denoiser(net(device), base, epsilon, y=y), fixedlarge)
        p, x_T = mean_shifted(base, p, classifier(device), y), torch.randn(4, 1, 8, 8, generator=seeded()).to(device)
        return lambda: last(ancestral(base, p, x_T, generator=seeded(1)))

    assert_as_on_the_cpu(lambda device: chain(device)(), gpu, atol=0.01)
    assert waits_of(gpu, chain(gpu)) == []


def test_a_learned_variance_and_self_conditioning_do_not_wait(gpu):
    learned = partial(drawn, Sampling(), variance=learned_range, outputs=2)
    assert_as_on_the_cpu(lambda device: learned(device)(), gpu, atol=0.01)
    assert waits_of(gpu, learned(gpu)) == []

    def estimates(device):
        base = process_on(device)
        model = net(device, 1, 2)
        denoise = make_denoiser(model, base, xstart, cond=previous_x_0)
        x_T = torch.randn(4, 1, 8, 8, generator=seeded()).to(device)
        return lambda: last(ddim(base, denoise, x_T))

    assert_as_on_the_cpu(lambda device: estimates(device)(), gpu)
    assert waits_of(gpu, estimates(gpu)) == []


@pytest.mark.parametrize("shape", [(), (4,)])
def test_where_nothing_is_left_of_x_0_it_is_refused_on_every_device(shape, device):
    process = GaussianDiffusion(zero_terminal_snr(vp(T))).to(device)
    x_t = IMAGES.to(device)
    at = (lambda t: t) if shape == () else (lambda t: torch.full(shape, t, device=device))
    assert process.x_0_from_eps(x_t, at(T - 2), x_t).isfinite().all()
    with pytest.raises(ValueError, match=f"x_0 cannot be found from eps at t = {T - 1}"):
        process.x_0_from_eps(x_t, at(T - 1), x_t)


# Shipped weights, and what diffusers makes of them.


def test_shipped_weights_wait_once_a_batch(gpu):
    digits = load_pretrained("digits_ddpm", device=gpu)
    y = digits.labels(3, "7")
    counts = [len(waits_of(gpu, lambda n=n: digits.sample(3, Sampling("ddim", f"trailing{n}"), y=y))) for n in (2, 4)]
    assert counts == [1, 1]  # the images


def test_diffusers_schedulers_draw_the_same_images(gpu):
    digits = load_pretrained("digits_ddpm", device=gpu)
    y, steps = digits.labels(3), spacing.trailing(digits.process.T, 5)
    unet2d, ddpm = to_diffusers(digits.model, digits.process, var_type=digits.recipe.var_type)
    x_T = torch.randn(3, *digits.shape, generator=seeded()).to(gpu)
    theirs = draw(unet2d, twin("ddim", ddpm), x_T, steps, y=y)
    ours = digits.sample(3, Sampling("ddim", "trailing5"), y=y, x_T=x_T)
    torch.testing.assert_close(theirs.cpu(), ours, rtol=0, atol=1e-3)
    assert {p.device.type for p in unet2d.parameters()} == {gpu.type}


# A GPU by default: what is drawn from a generator of the CPU is what it was.

DIGITS = data.digits("train")
LOSSES = {"ddgan": generators._denoised, "distilled": generators._distilled, "consistency": generators._consistency}


def own_estimates():
    told = own_estimate(net("cpu", 1, 2), process_on("cpu"), epsilon, generator=seeded())
    noised = process_on("cpu").noised(IMAGES, Y, noise=IMAGES)
    return lambda: torch.stack([told(noised, {})["cond"] for _ in range(6)])


def gan():
    process, G, D = process_on("cpu", 4), MLP(4, 2, 16, 1, latent=3), Discriminator(MLP(4, 4, 16, 1, out=1))
    told = {"latent_size": 3, "optimizers": tuple(torch.optim.Adam(part.parameters()) for part in (G, D))}
    batches = [torch.randn(8, 2, generator=seeded())] * 2
    return lambda: list(train_ddgan(G, D, process, batches, steps=2, generator=seeded(), **told))


def loss_of(kind):
    """The loss of a generator that needs few steps."""
    points = {"T": 10, "schedule": "cosine", "data": "eight_gaussians"}
    changes = {"distilled": {"T": 1000, "schedule": "cosine", "teacher": "digits_ddpm"}, "consistency": points}
    trained = next(generators.fit(GeneratorRecipe(kind, width=8, batch_size=4, **changes.get(kind, {}))))
    loss, x_0 = LOSSES[kind](trained), torch.randn(4, 2, generator=seeded()) if kind == "consistency" else IMAGES
    return lambda: loss(x_0, Y, seeded()).detach()


def points_of(draw):
    return lambda: partial(draw, 9, generator=seeded())


DRAWN = {
    "left_out": lambda: lambda: metrics.left_out(25, seeded()),
    "left_out, without a generator": lambda: lambda: metrics.left_out(25),
    "inception_score_interval": lambda: partial(metrics.inception_score_interval, IMAGES.view(64, 4), seeded()),
    "some": lambda: lambda: some(DIGITS, 5, seed=0),
    "real_images": lambda: lambda: real_images(DIGITS, None).held_out.data,
    "shifted": lambda: lambda: shifted(IMAGES, 2, seeded()),
    "own_estimate": own_estimates,
    "train_ddgan": gan,
}
DRAWN |= {f"loss of {kind}": partial(loss_of, kind) for kind in LOSSES}
DRAWN |= {each.__name__: points_of(each) for each in (eight_gaussians, two_moons, swiss_roll, checkerboard)}


def test_a_generator_of_the_gpu_draws_there():
    generator = torch.Generator(usable("cuda"))  # the stand-in has none
    for draws in (eight_gaussians, two_moons, swiss_roll, checkerboard, metrics.left_out):
        assert draws(20, generator=generator).device.type == "cuda"
    assert shifted(IMAGES, 2, generator).device.type == "cpu"
    told = own_estimate(net("cpu", 1, 2), process_on("cpu"), epsilon, generator=generator)
    assert told(process_on("cpu").noised(IMAGES, Y), {})["cond"].device.type == "cpu"


@pytest.fixture
def switch_to():
    yield torch.set_default_device
    torch.set_default_device(None)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.filterwarnings("ignore::ddpm_lesson.networks.unet.SingleChannelGroupWarning")
def test_a_generator_of_the_cpu_draws_where_a_gpu_is_the_default(name, gpu, switch_to):
    results = []
    for device in ("cpu", gpu):
        torch.manual_seed(1)
        call = DRAWN[name]()
        switch_to(device)
        results.append(call())
        switch_to("cpu")
    expected, found = (each if isinstance(each, torch.Tensor) else torch.tensor(each) for each in results)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected)


# Training.


def steps_on(device, timesteps, loss=simple_loss, **options):
    """Three steps of training that are yet to be made, and the averaged network."""
    base, model = process_on(device), unet(device, num_classes=3, learned_var=loss is hybrid_loss)
    batches = minibatches(IMAGES.repeat(2, 1, 1, 1), Y.repeat(2), batch_size=4, generator=seeded(1))
    options |= {"ema": EMA(model, 0.9), "timesteps": timesteps(T), "generator": seeded(2)}
    return train(model, base, batches, partial(loss, base, epsilon), steps=3, lr=1e-3, **options), options["ema"].model


TRAININGS = {
    "Uniform": {"timesteps": Uniform, "warmup": 3},
    "Antithetic, accumulated": {"timesteps": Antithetic, "accumulate": 2},
    "LossSecondMoment, hybrid": {"timesteps": LossSecondMoment, "loss": hybrid_loss},
}


@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
def test_training_is_that_of_the_cpu_and_waits_once_a_step(options, gpu):
    # LossSecondMoment reads the losses as well: it draws t on the CPU, so that a seed means the same everywhere.
    most = 2 if options["timesteps"] is LossSecondMoment else 1
    (here, average), (there, averaged) = (steps_on(device, **options) for device in ("cpu", gpu))
    expected, made, counts = list(here), [], []
    for _ in expected:
        counts.append(len(waits_of(gpu, lambda: made.append(next(there)))))
    assert counts == [most] * 3
    for theirs, ours in zip(made, expected, strict=True):
        assert theirs.loss == pytest.approx(ours.loss, rel=1e-3) and torch.equal(theirs.t.cpu(), ours.t)
        assert theirs.grad_norm == pytest.approx(ours.grad_norm, rel=1e-2)
    for theirs, ours in zip(averaged.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, rtol=0, atol=1e-3)


def test_images_that_are_on_the_gpu_are_looked_at_once(gpu):
    base, model = process_on(gpu), unet(gpu)
    made = train(model, base, [IMAGES.to(gpu)], partial(simple_loss, base, epsilon), steps=3)
    assert [len(waits_of(gpu, lambda: next(made))) for _ in range(3)] == [2, 1, 1]


def test_the_posts_doors_wait_at_the_first_images_alone(gpu):
    model = unet(gpu)
    trainer = GaussianDiffusionTrainer(model, 0.05, 0.7, T).to(gpu)
    sampler = GaussianDiffusionSampler(model, 0.05, 0.7, T).to(gpu)
    x_0 = IMAGES.to(gpu)
    assert [len(waits_of(gpu, lambda: trainer(x_0).mean().backward())) for _ in range(3)] == [1, 0, 0]
    assert waits_of(gpu, lambda: sampler(x_0)) == []


@pytest.mark.parametrize("draws_on", ["cpu", "gpu"])
def test_a_step_of_both_networks_of_a_ddgan_waits_once(draws_on, gpu):
    if draws_on == "gpu" and gpu.type == accelerator.NAME:
        pytest.skip("the stand-in has no torch.Generator(device)")
    generator = torch.Generator(gpu if draws_on == "gpu" else "cpu").manual_seed(0)
    process = GaussianDiffusion(vp(4)).to(gpu)
    G, D = MLP(4, 2, 16, 1, latent=3).to(gpu), Discriminator(MLP(4, 4, 16, 1, out=1)).to(gpu)
    optimizers = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
    batches = [torch.randn(8, 2, generator=seeded(), device="cpu").to(gpu) for _ in range(2)]
    made = train_ddgan(G, D, process, batches, steps=3, latent_size=3, optimizers=optimizers, generator=generator)
    next(made)
    assert [len(waits_of(gpu, lambda: next(made))) for _ in range(2)] == [1, 1]


def test_a_run_goes_on_on_a_gpu(tmp_path, gpu):
    tiny = {"T": 5, "ch": 8, "ch_mult": (1,), "attn": (0,), "num_groups": 4, "batch_size": 4, "ema_decay": 0.9}
    recipe = Recipe(**tiny, conditional=True, label_dropout=0.3, dropout=0.2, steps=4)
    whole = data.digits("train")
    images = data.Images(whole.data[:20], whole.labels[:20], levels=17, classes=whole.classes)
    finished = Run(recipe, tmp_path / "whole", images, device=gpu)
    list(finished.steps())
    finished.save()
    cut = Run(recipe, tmp_path / "cut", images, device=gpu)
    assert [step.step for step in islice(cut.steps(), 2)] == [1, 2]
    cut.save()
    cut.close()
    again = Run(recipe, tmp_path / "cut", images, device=gpu)
    left = again.steps()
    assert [again.step, *(len(waits_of(gpu, lambda: next(left))) for _ in range(2))] == [2, 1, 1]
    again.save()
    for theirs, ours in zip(again.model.parameters(), finished.model.parameters(), strict=True):
        torch.testing.assert_close(theirs.cpu(), ours.cpu(), rtol=0, atol=1e-5)
