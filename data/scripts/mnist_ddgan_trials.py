"""Trials of a denoising diffusion GAN on MNIST, whose results docs/ddgan_trials.md lists.

    python data/scripts/mnist_ddgan_trials.py GENERATOR DISCRIMINATOR
        [--seconds 300] [--root FOLDER] [--like NAME] [--change JSON]

GENERATOR: mlp; cleaned, the same with three convolutions after it; conv, a U-Net of strided convolutions; unet, the
course's. DISCRIMINATOR: mlp; both, the same with a convolutional one added; conv, strided convolutions and the batch's
standard deviation; classifier, the course's. Labels are for unet and classifier. Trains with
`experiments.generators.fit` for so many seconds of the processor, on one thread, and scores 500 digits now and then.
--change: fields of the recipe, such as '{"lr": 3e-4}'. --like NAME: the recipe of weights that ship, in their place.
"""

import argparse
import json
import time
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, silu

from ddpm_lesson.data import mnist
from ddpm_lesson.experiments import generators
from ddpm_lesson.experiments.evaluation import evaluate, reference_of
from ddpm_lesson.experiments.generator_recipes import GeneratorRecipe
from ddpm_lesson.experiments.pretrained import about_shipped, load_pretrained
from ddpm_lesson.networks.blocks import Mapping, TimeEmbedding
from ddpm_lesson.networks.discriminator import Discriminator
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.networks.pixels import Pixels

SIDE = 28
SCORES = ("Frechet distance", "Precision", "Recall", "Confidence above 0.9", "Class imbalance")
RECIPE = GeneratorRecipe(
    "ddgan", data="mnist", schedule="cosine", latent=64, width=400, critic=512, critic_lr=1e-3, r1=0.02, interval=4,
    steps=12_000, batch_size=64, lr=5e-4, ema_decay=0.998, network="mlp",
)  # fmt: skip
leaky = partial(leaky_relu, negative_slope=0.2)


def beside(vector: Tensor) -> Tensor:
    return vector[:, :, None, None]


class MLPGenerator(nn.Module):
    def __init__(self, T: int, width: int, latent: int):
        super().__init__()
        self.mlp = Pixels(MLP(T, SIDE**2, width, latent=latent), (1, SIDE, SIDE))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, z: Tensor) -> Tensor:
        return self.mlp(x, t, z=z).tanh()


class CleanedGenerator(MLPGenerator):
    def __init__(self, T: int, width: int, latent: int, ch: int = 16):
        super().__init__(T, width, latent)
        self.time = TimeEmbedding(T, 32, ch)
        self.first, self.second = nn.Conv2d(2, ch, 5, padding=2), nn.Conv2d(ch, ch, 3, padding=1)
        self.last = nn.Conv2d(ch, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, z: Tensor) -> Tensor:
        drawn = self.mlp(x, t, z=z)
        h = leaky(self.first(torch.cat([drawn, x], 1)) + beside(self.time(t)))
        return (drawn + self.last(leaky(self.second(h)))).tanh()


class Modulated(nn.Module):
    """Group norm, scaled and shifted by a vector, Swish, a convolution."""

    def __init__(self, ch: int, dim: int):
        super().__init__()
        self.norm, self.conv, self.style = nn.GroupNorm(8, ch), nn.Conv2d(ch, ch, 3, padding=1), nn.Linear(dim, 2 * ch)
        nn.init.normal_(self.style.weight, std=0.02)

    def forward(self, h: Tensor, w: Tensor) -> Tensor:
        scale, shift = beside(self.style(w)).chunk(2, 1)
        return self.conv(silu(self.norm(h) * (1 + scale) + shift))


class ConvGenerator(nn.Module):
    def __init__(self, T: int, ch: int, latent: int):
        super().__init__()
        dim = 4 * ch
        self.time, self.mapping = TimeEmbedding(T, ch, dim), Mapping(latent, dim)
        self.down = nn.ModuleList([nn.Conv2d(1, ch, 4, 2, 1), nn.Conv2d(ch, 2 * ch, 4, 2, 1)])
        self.middle = nn.ModuleList(Modulated(2 * ch, dim) for _ in range(4))
        self.up = nn.ModuleList([nn.ConvTranspose2d(4 * ch, 2 * ch, 4, 2, 1), nn.ConvTranspose2d(3 * ch, ch, 4, 2, 1)])
        self.fine, self.last = Modulated(2 * ch, dim), nn.Conv2d(ch + 1, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, z: Tensor) -> Tensor:
        w = silu(self.time(t) + self.mapping(z))
        fine = leaky(self.down[0](x))
        coarse = leaky(self.down[1](fine))
        first, second, third, fourth = self.middle
        h = first(coarse, w)
        h = fourth(h + third(second(h, w), w), w)
        h = leaky(self.up[0](torch.cat([h, coarse], 1)))
        h = leaky(self.up[1](torch.cat([h + self.fine(h, w), fine], 1)))
        return self.last(torch.cat([h, x], 1)).tanh()


class MLPCritic(nn.Module):
    def __init__(self, T: int, width: int):
        super().__init__()
        self.mlp = Pixels(MLP(T, 2 * SIDE**2, width, 2, out=1))

    def forward(self, pair: Tensor, t: Tensor) -> Tensor:
        return self.mlp(pair, t)


class BothCritic(MLPCritic):
    def __init__(self, T: int, width: int, ch: int = 24):
        super().__init__(T, width)
        self.time, self.last = TimeEmbedding(T, 32, ch), nn.Linear(2 * ch, 1)
        self.first, self.second = nn.Conv2d(2, ch, 4, 2, 1), nn.Conv2d(ch, 2 * ch, 4, 2, 1)

    def forward(self, pair: Tensor, t: Tensor) -> Tensor:
        h = leaky(self.second(leaky(self.first(pair) + beside(self.time(t)))))
        return self.mlp(pair, t) + self.last(h.mean((2, 3)))


class ConvCritic(nn.Module):
    def __init__(self, T: int, ch: int):
        super().__init__()
        widths, self.time = (ch, 2 * ch, 4 * ch), TimeEmbedding(T, ch, 2 * ch)
        self.told = nn.ModuleList(nn.Linear(2 * ch, width) for width in widths)
        self.first, self.second = nn.Conv2d(2, ch, 4, 2, 1), nn.Conv2d(ch, 2 * ch, 4, 2, 1)
        self.third = nn.Conv2d(2 * ch + 1, 4 * ch, 3, padding=1)
        self.hidden, self.last = nn.Linear(4 * ch * (SIDE // 4) ** 2, 4 * ch), nn.Linear(4 * ch, 1)

    def forward(self, pair: Tensor, t: Tensor) -> Tensor:
        first, second, third = (told(silu(self.time(t))) for told in self.told)
        h = leaky(self.second(leaky(self.first(pair) + beside(first))) + beside(second))
        spread = (h.unflatten(0, (4, -1)).var(0, unbiased=False) + 1e-6).sqrt().mean((1, 2, 3)).repeat(4)
        h = leaky(self.third(torch.cat([h, beside(spread[:, None]).expand(-1, 1, *h.shape[2:])], 1)))
        return self.last(leaky(self.hidden(h.flatten(1)) + third))


GENERATORS = {"mlp": MLPGenerator, "cleaned": CleanedGenerator, "conv": ConvGenerator, "unet": None}
CRITICS = {"mlp": MLPCritic, "both": BothCritic, "conv": ConvCritic, "classifier": None}


def main() -> None:
    parser = argparse.ArgumentParser(description="Trials of a denoising diffusion GAN on MNIST.")
    parser.add_argument("generator", choices=GENERATORS)
    parser.add_argument("discriminator", choices=CRITICS)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--root", help="folder of torchvision's files")
    parser.add_argument("--like", help="weights that ship, whose recipe is changed in the place of this script's")
    parser.add_argument("--change", type=json.loads, default={}, help="fields of the recipe, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    of_conv = {"width": 32} if options.generator == "conv" else {}
    of_conv |= {"critic": 32} if options.discriminator == "conv" else {}
    values = about_shipped(options.like)["recipe"] if options.like else vars(RECIPE) | of_conv
    recipe = GeneratorRecipe(**(values | options.change))
    print(recipe, flush=True)
    if network := GENERATORS[options.generator]:
        generators.make_generator = lambda r, shape, classes: network(r.T, r.width, r.latent)
    if critic := CRITICS[options.discriminator]:
        generators.make_critic = lambda r, shape, classes: Discriminator(critic(r.T, r.critic))
    classifier = load_pretrained("mnist_classifier").model
    reference = reference_of(mnist(options.root)[:10_000][0], classifier)
    mark, spent, begun = 60.0, 0.0, time.process_time()
    for step, trained in enumerate(generators.fit(recipe, options.root), 1):
        seconds = time.process_time() - begun - spent
        if seconds < mark and seconds < options.seconds and step not in (recipe.denoising, recipe.steps):
            continue
        scoring, mark = time.process_time(), 1.7 * mark
        y = trained.labels(500)
        found = evaluate(trained.sample(500, seed=0), reference, classifier, "mnist_classifier", labels=y, seed=0)
        scores = ", ".join(f"{name} {found[name].value:.2f}" for name in SCORES)
        print(f"{step} steps, {seconds:.0f} s: {scores}", flush=True)
        if seconds >= options.seconds:
            break
        spent += time.process_time() - scoring


if __name__ == "__main__":
    main()
