"""Building blocks that networks share."""

import math

import torch
from torch import Tensor, nn
from torch.nn import init


class Swish(nn.Module):
    """x * sigmoid(x), any shape.  Ramachandran et al. 2017 (arXiv 1710.05941); the same function as nn.SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(x)


class TimeEmbedding(nn.Module):
    """A vector for each step: sines and cosines of t at d_model / 2 frequencies, then two linear layers.

    Ho et al. 2020, Appendix B, after Vaswani et al. 2017; sine and cosine alternate, as in the source post.
    T: number of steps. d_model: width of the table, even. dim: width of the result.
    forward: t (B,) int64 in 0..T-1 -> (B, dim).
    Raises ValueError if d_model is odd, TypeError for a t that is not integer; a t out of range raises IndexError.
    Not a positional encoding: it tells the network the noise level, not where a pixel is.
    """

    def __init__(self, T: int, d_model: int, dim: int):
        super().__init__()
        if d_model < 2 or d_model % 2:
            raise ValueError(f"d_model must be even and at least 2, got {d_model}")
        frequencies = torch.exp(-math.log(10000) * torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
        angles = torch.arange(T, dtype=torch.float64)[:, None] * frequencies  # (T, d_model / 2)
        table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)  # (T, d_model)
        self.timembedding = nn.Sequential(
            nn.Embedding.from_pretrained(table.float()),
            nn.Linear(d_model, dim),
            Swish(),
            nn.Linear(dim, dim),
        )
        for linear in (self.timembedding[1], self.timembedding[3]):
            init.xavier_uniform_(linear.weight)
            init.zeros_(linear.bias)

    def forward(self, t: Tensor) -> Tensor:
        if t.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"t must hold integer indices (int64), got {t.dtype}")
        return self.timembedding(t)
