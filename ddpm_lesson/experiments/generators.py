"""Training of the generators that need few steps: GANs, a VAE, distilled students, consistency models."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from ddpm_lesson._tensors import home, randn_like, seed_of, seeded
from ddpm_lesson.batches import ordered
from ddpm_lesson.data import digits, mnist
from ddpm_lesson.experiments.checkpoints import fill
from ddpm_lesson.experiments.generator_recipes import GANS, GeneratorRecipe, make_critic, make_generator
from ddpm_lesson.experiments.pretrained import PretrainedClassifier, load_pretrained
from ddpm_lesson.experiments.pretrained_generators import PretrainedGenerator
from ddpm_lesson.networks.vae import VAE
from ddpm_lesson.oracle import Mixture
from ddpm_lesson.points import eight_gaussians, eight_gaussians_mixture
from ddpm_lesson.predictions import decode, velocity
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.schedules import named
from ddpm_lesson.spacing import trailing
from ddpm_lesson.training import EMA, cosine
from ddpm_lesson.variants.consistency import boundary, consistency_function, consistency_loss, on_a_trajectory
from ddpm_lesson.variants.ddgan import latent, train_ddgan
from ddpm_lesson.variants.distillation import distillation_loss, halved, two_ddim_steps

Loss = Callable[[Tensor, Tensor, Generator], Tensor]  # of x_0 (B, *D) and labels (B,), (B,)


def fit(recipe: GeneratorRecipe, root: str | None = None) -> Iterator[PretrainedGenerator]:
    """Train a generator on the CPU: yields it after every step, with averaged weights; the last one is the result.

    A student is distilled from a teacher that ships; if that is a student itself, it starts with its weights.
    A consistency model is distilled from the exact denoiser of its points. root: folder of torchvision's files, for
    MNIST.
    """
    generator = Generator().manual_seed(recipe.seed)
    process = GaussianDiffusion(named(recipe.schedule, recipe.T))
    shape, classes, levels, batches = _data(recipe, generator, root)
    with seeded(recipe.seed):
        model = make_generator(recipe, shape, len(classes)).to(memory_format=torch.channels_last)
    trained = PretrainedGenerator(model, process, recipe, shape, classes, levels)
    if recipe.kind in GANS:
        alone = _descending(trained, _denoised(trained), batches, generator, recipe.denoising, recipe.denoising_lr)
        steps: Iterator[None] = itertools.chain(alone, _adversarial(trained, batches, generator))
    else:
        loss = {"vae": _vae, "distilled": _distilled, "consistency": _consistency}[recipe.kind](trained)
        steps = _descending(trained, loss, batches, generator, recipe.steps, recipe.lr)
    ema = EMA(model, recipe.ema_decay)
    for _ in steps:
        ema.update(model)
        yield replace(trained, model=ema.model)


def _data(recipe: GeneratorRecipe, generator: Generator, root: str | None = None) -> tuple:
    """Shape, classes, levels, and batches (x_0, labels) without end."""
    if recipe.data in ("digits", "mnist"):
        images = digits("train") if recipe.data == "digits" else mnist(root)
        return (
            images.shape,
            images.classes,
            images.levels,
            ordered(images, batch_size=recipe.batch_size, seed=recipe.seed),
        )
    if recipe.data != "eight_gaussians":
        raise ValueError(f"data must be digits, mnist or eight_gaussians, got {recipe.data!r}")
    none = torch.zeros(recipe.batch_size, dtype=torch.int64)
    points = iter(lambda: (eight_gaussians(recipe.batch_size, generator=generator), none), None)
    return (2,), (), 0, points


def _adversarial(
    trained: PretrainedGenerator, batches: Iterator[tuple[Tensor, Tensor]], generator: Generator
) -> Iterator[None]:
    """The steps of `train_ddgan`, at rates that fall.  Adam's momentum is that of Xiao et al. 2022."""
    recipe = trained.recipe
    steps = recipe.steps - recipe.denoising
    with seeded(seed_of(recipe.seed, 1)):
        D = make_critic(recipe, trained.shape, len(trained.classes)).to(memory_format=torch.channels_last)
    falling, rising = cosine(steps), lambda step: min(1.0, step / recipe.warmup) if recipe.warmup else 1.0
    rates = {trained.model: recipe.lr, D: recipe.critic_lr}
    of_G, of_D = (torch.optim.Adam(part.parameters(), lr, betas=(0.5, 0.9)) for part, lr in rates.items())
    of_G.param_groups[0]["lr"] = recipe.lr * rising(1)
    made = train_ddgan(
        trained.model,
        D,
        trained.process,
        batches if recipe.conditional else (x_0 for x_0, _ in batches),
        steps=steps,
        latent_size=recipe.latent,
        optimizers=(of_G, of_D),
        r1=recipe.r1,
        interval=recipe.interval,
        reconstruction=recipe.reconstruction,
        generator=generator,
    )
    for step in made:
        yield
        now = step.step + 1
        of_G.param_groups[0]["lr"] = recipe.lr * rising(now) * falling(now)
        of_D.param_groups[0]["lr"] = recipe.critic_lr * falling(now)


def _descending(
    trained: PretrainedGenerator,
    loss: Loss,
    batches: Iterator[tuple[Tensor, Tensor]],
    generator: Generator,
    steps: int,
    lr: float,
) -> Iterator[None]:
    """Steps of Adam down the mean of a loss, the rate falling from lr to 0."""
    rate = cosine(steps)
    optimizer = torch.optim.Adam(trained.model.parameters(), lr)
    for step in range(1, steps + 1):
        x_0, y = next(batches)
        optimizer.zero_grad()
        loss(x_0, y, generator).mean().backward()
        nn.utils.clip_grad_norm_(trained.model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = lr * rate(step)
        optimizer.step()
        yield


def _denoised(trained: PretrainedGenerator) -> Loss:
    recipe, process = trained.recipe, trained.process

    def loss(x_0: Tensor, y: Tensor, generator: Generator) -> Tensor:
        t = torch.randint(process.T, y.shape, generator=generator, device=home(generator))
        x_t = process.noised(x_0, t, generator=generator).x_t
        z = latent(recipe.latent, generator=generator)(x_t, t, None)
        answer = trained.model(x_t, t, *[y] * recipe.conditional, z=z)
        return (answer - x_0).square().flatten(1).mean(1)

    return loss


def _vae(trained: PretrainedGenerator) -> Loss:
    model, size = trained.model, trained.recipe.latent
    assert isinstance(model, VAE)
    return lambda x_0, y, generator: model.loss(x_0, randn_like(x_0.new_empty(len(x_0), size), generator))


def _distilled(trained: PretrainedGenerator) -> Loss:
    recipe, base, model = trained.recipe, trained.process, trained.model
    teacher = load_pretrained(recipe.teacher or "")
    if isinstance(teacher, PretrainedClassifier):
        raise ValueError(f"the teacher must draw images, got the classifier {recipe.teacher}")
    longer = base.respaced(trailing(base.T, 2 * recipe.chain))
    chain = halved(longer)
    if isinstance(teacher, PretrainedGenerator):
        fill(model, teacher.model.state_dict(), recipe.teacher or "")

    def loss(x_0: Tensor, y: Tensor, generator: Generator) -> Tensor:
        i = torch.randint(chain.T, y.shape, generator=generator, device=home(generator))
        noised = chain.noised(x_0, i, generator=generator)
        target = two_ddim_steps(teacher.denoiser(y), longer, noised.x_t, i)
        t = chain.timestep_map[i]
        answer = decode(base, velocity, noised.x_t, t, model(noised.x_t, t, y))
        return distillation_loss(answer.x_0, target, chain, i)

    return loss


def _consistency(trained: PretrainedGenerator) -> Loss:
    process, f = trained.process, consistency_function(trained.model, trained.process)
    teacher = Mixture(process, *eight_gaussians_mixture())

    # What is learned at small t decides all the rest, and there f hardly depends on F: hence the weight 1 / c_out^2.
    def loss(x_0: Tensor, y: Tensor, generator: Generator) -> Tensor:
        t = torch.randint(1, process.T, y.shape, generator=generator, device=home(generator))
        x_t, x_prev = on_a_trajectory(process, teacher, x_0, t, randn_like(x_0, generator))
        return consistency_loss(f, f, x_t, x_prev, t) / boundary(process, t)[1] ** 2

    return loss
