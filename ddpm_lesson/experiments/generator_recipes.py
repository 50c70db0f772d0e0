"""Recipes of the generators that Algorithm 1 does not train: GANs, a VAE, distilled students, consistency models."""

from dataclasses import dataclass
from functools import partial
from math import prod

from torch import nn

from ddpm_lesson.experiments.fields import LARGEST, MOST, check_fields, field
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.networks.discriminator import Discriminator
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.networks.pixels import Pixels
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.networks.vae import VAE
from ddpm_lesson.schedules import SCHEDULES

KINDS = ("ddgan", "gan", "vae", "distilled", "consistency")
GANS = ("ddgan", "gan")
POINTS = "eight_gaussians"


@dataclass(frozen=True)
class GeneratorRecipe:
    """What the weights of such a generator depend on, as `Recipe` says it of a diffusion model.

    kind: ddgan, and gan: the same with one step (Xiao et al. 2022); vae (Kingma & Welling 2014); distilled (Salimans &
    Ho 2022); consistency (Song et al. 2023). data: digits, mnist or eight_gaussians. T, schedule: of the process; for a
    vae they mean nothing. chain: how many steps a distilled student takes, or a consistency model. teacher: the weights
    that a student is distilled from, which take twice as many.
    latent: numbers of z, of the GANs and the VAE. width: channels of the U-Net's first level, or hidden width of a VAE
    or MLP. ch_mult: of the GANs' and students' U-Net, patch_size: of the GANs'. critic, critic_mult, critic_lr: of the
    discriminator: its width, the channels of its levels as multiples of it, and its rate. r1, interval,
    reconstruction: as `train_ddgan`.
    network: of the GANs' two players: unet, with a convolutional discriminator, or mlp, which sees pixels in a row.
    conditional: both players are told the label. denoising, denoising_lr: in so many of the steps, the first ones, the
    generator learns alone to answer with the mean of x_0, at this rate, and so begins as a denoiser. warmup: then its
    rate rises over so many steps, while the discriminator catches up.
    steps, batch_size, lr, ema_decay, seed: of Adam, whose rate falls along a cosine, and of the averaged weights.
    Raises ValueError for an unknown kind or network, a value that is not allowed, data that the kind cannot learn, an
    MLP, labels or denoising for another kind than the GANs, an MLP that is told labels, a GAN with other than one step,
    a student without a teacher, and denoising that leaves no step for the rest.
    """

    kind: str
    data: str = "digits"
    T: int = field(4, within=(1, 100_000))
    schedule: str = field("vp", choices=SCHEDULES)
    chain: int = field(1, within=(1, 100_000))
    teacher: str | None = None
    latent: int = field(32, within=(1, 65_536))
    width: int = field(16, within=(1, 65_536))
    critic: int = field(24, within=(1, 4096))
    critic_lr: float = field(2e-3, within=(0, LARGEST))
    r1: float = field(0.02, within=(0, LARGEST))
    interval: int = field(8, within=(1, MOST))
    steps: int = field(5000, within=(1, MOST))
    batch_size: int = field(32, within=(1, MOST))
    lr: float = field(5e-4, within=(0, LARGEST))
    ema_decay: float = field(0.995, within=(0, 1))
    seed: int = field(0, within=(0, 2**63 - 1))
    network: str = field("unet", choices=("unet", "mlp"))
    ch_mult: tuple[int, ...] = field((1, 2), within=(1, 1024))
    patch_size: int = field(1, within=(1, 8192))
    critic_mult: tuple[int, ...] = field((1, 2), within=(1, 1024))
    conditional: bool = False
    reconstruction: float = field(0.0, within=(0, LARGEST))
    denoising: int = field(0, within=(0, MOST))
    denoising_lr: float = field(2e-3, within=(0, LARGEST))
    warmup: int = field(0, within=(0, MOST))

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}, expected one of {', '.join(KINDS)}")
        check_fields(self)
        if self.kind == "gan" and self.T != 1:
            raise ValueError(f"a gan has one step, T = 1: with more it is a ddgan; got T = {self.T}")
        if self.network != "unet" and self.kind not in GANS:
            raise ValueError(f"the network of a {self.kind} must be unet, got {self.network!r}")
        if (self.kind == "consistency") != (self.data == POINTS):
            raise ValueError(f"a consistency model learns {POINTS}, the others images: got {self.kind} and {self.data}")
        if (self.kind == "distilled") != (self.teacher is not None):
            raise ValueError(f"a distilled student has a teacher, others none; got {self.kind}, {self.teacher}")
        if self.conditional and (self.kind not in GANS or self.network == "mlp"):
            raise ValueError(f"conditional is for the GANs' unet, got {self.kind} and {self.network}")
        if self.denoising and (self.kind not in GANS or self.denoising >= self.steps):
            got = f"{self.kind}, denoising = {self.denoising}, steps = {self.steps}"
            raise ValueError(f"denoising is for GANs, and for fewer than all of the steps; got {got}")


def make_generator(recipe: GeneratorRecipe, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network of a recipe, for data of this shape. Its start follows from PyTorch's own generator."""
    if recipe.kind == "vae":
        return VAE(shape, recipe.width, recipe.latent)
    if recipe.kind == "consistency":
        return MLP(recipe.T, shape[0], recipe.width, gain=3.0)
    if recipe.network == "mlp":
        return Pixels(MLP(recipe.T, prod(shape), recipe.width, latent=recipe.latent), shape)
    if recipe.kind == "distilled":
        unet = partial(UNet, attn=(1,), num_classes=classes)
    else:
        unet = partial(UNet, attn=(), scale_shift_norm=True, latent=recipe.latent, patch_size=recipe.patch_size)
        if recipe.conditional:
            unet = partial(unet, num_classes=classes, null_class=False)
    return unet(recipe.T, recipe.width, recipe.ch_mult, num_res_blocks=1, dropout=0.0, in_ch=shape[0], num_groups=8)


def make_critic(recipe: GeneratorRecipe, shape: tuple[int, ...], classes: int = 0) -> Discriminator:
    """The discriminator of a GAN's recipe, which sees two states side by side.  Its start, as `make_generator`'s."""
    if recipe.network == "mlp":
        return Discriminator(Pixels(MLP(recipe.T, 2 * prod(shape), recipe.critic, 2, out=1)))
    logits = classes if recipe.conditional else 1
    return Discriminator(Classifier(logits, recipe.critic, recipe.critic_mult, in_ch=2 * shape[0], T=recipe.T))
