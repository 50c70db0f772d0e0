"""A small variational autoencoder: one step from a latent to an image, and a bound on the likelihood."""

import math

import torch
from torch import Tensor, nn

from ddpm_lesson.networks.blocks import Swish


class VAE(nn.Module):
    """q(z | x) and p(x | z), both Gaussian, with p(z) = N(0, I).  Kingma & Welling 2014 (arXiv 1312.6114).

    shape: (C, H, W) of an image. hidden: width of two layers each way. latent: numbers of z.
    encode: x (B, C, H, W) -> mean and log variance of z, (B, latent) each. decode: z (B, latent) -> mean of x.
    log_std: of p(x | z), one number for all pixels, learned with the rest (Rybkin et al. 2021, arXiv 2006.13202).
    loss: x and noise ~ N(0, I), (B, latent) -> (B,), the negative bound on log p(x) in nats: `reconstruction` + `kl`;
    ValueError for noise of another shape.
    Raises ValueError if x is not (B, C, H, W) or z not (B, latent).
    Not the reconstruction's squared error alone: the weight beside the KL is 1 / (2 std^2), and it is learned.
    """

    def __init__(self, shape: tuple[int, ...], hidden: int, latent: int):
        super().__init__()
        self.shape, self.latent = tuple(shape), latent
        pixels = math.prod(shape)
        self.encoder = nn.Sequential(nn.Flatten(), *_layers(pixels, hidden, 2 * latent))
        self.decoder = nn.Sequential(*_layers(latent, hidden, pixels), nn.Tanh(), nn.Unflatten(1, self.shape))
        self.log_std = nn.Parameter(torch.zeros(()))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must be (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        mean, log_var = self.encoder(x).chunk(2, 1)
        return mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ValueError(f"z must be (B, {self.latent}), got {tuple(z.shape)}")
        return self.decoder(z)

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        mean, log_var = self.encode(x)
        if noise.shape != mean.shape:
            raise ValueError(f"noise must be {tuple(mean.shape)}, as the latents, got {tuple(noise.shape)}")
        z = mean + (log_var / 2).exp() * noise
        return reconstruction(x, self.decode(z), self.log_std) + kl(mean, log_var)


def reconstruction(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log N(x; mean, std^2), summed over an image, (B,) nats.  x, mean: (B, *D). log_std: one number."""
    scaled = (x - mean) * torch.exp(-log_std)
    return (scaled.square() / 2 + log_std + math.log(2 * math.pi) / 2).flatten(1).sum(1)


def kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, I)), (B,) nats.  Kingma & Welling 2014, Appendix B.  mean, log_var: (B, n)."""
    return (mean.square() + log_var.exp() - 1 - log_var).sum(1) / 2


def _layers(first: int, hidden: int, last: int) -> list[nn.Module]:
    return [nn.Linear(first, hidden), Swish(), nn.Linear(hidden, hidden), Swish(), nn.Linear(hidden, last)]
