"""A small network for points in the plane."""

import torch
from torch import Tensor, nn

from ddpm_lesson.networks.blocks import Swish, TimeEmbedding


class MLP(nn.Module):
    """A residual multilayer perceptron of a point and a step.

    T: number of steps. dim: coordinates of a point. hidden: width, even. layers: residual layers.
    latent: numbers of a latent z that it is told besides, 0 for none. out: numbers of its answer, dim if not given.
    gain: the first layer's weights start so many times larger. The larger, the sooner it learns fine structures, for a
    multilayer perceptron learns coarse ones first (Tancik et al. 2020, arXiv 2006.10739).
    forward: x (B, dim) float, t (B,) int64 in 0..T-1, z (B, latent) -> (B, out).
    The time embedding is added in every layer, as the U-Net does. Raises ValueError if x is not (B, dim), t not (B,),
    or z not (B, latent), None for a network without one.
    """

    def __init__(
        self,
        T: int,
        dim: int = 2,
        hidden: int = 128,
        layers: int = 3,
        *,
        latent: int = 0,
        out: int | None = None,
        gain: float = 1.0,
    ):
        super().__init__()
        self.dim, self.latent = dim, latent
        self.time_embedding = TimeEmbedding(T, hidden, hidden)
        self.head = nn.Linear(dim + latent, hidden)
        self.head.weight.data.mul_(gain)
        self.layers = nn.ModuleList(
            nn.Sequential(Swish(), nn.Linear(hidden, hidden), Swish(), nn.Linear(hidden, hidden)) for _ in range(layers)
        )
        self.tail = nn.Sequential(Swish(), nn.Linear(hidden, dim if out is None else out))

    def forward(self, x: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must be (B, {self.dim}), got {tuple(x.shape)}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t must be (B,) with the batch size of x, got {tuple(t.shape)} for {tuple(x.shape)}")
        wanted, got = (x.shape[0], self.latent) if self.latent else None, None if z is None else tuple(z.shape)
        if got != wanted:
            raise ValueError(f"z must be {wanted} for a network with latent = {self.latent}, got {got}")
        h, temb = self.head(x if z is None else torch.cat([x, z], 1)), self.time_embedding(t)
        for layer in self.layers:
            h = h + layer(h + temb)
        return self.tail(h)
