"""A small network for points in the plane."""

from torch import Tensor, nn

from ddpm_lesson.networks.blocks import Swish, TimeEmbedding


class MLP(nn.Module):
    """A residual multilayer perceptron of a point and a step.

    T: number of steps. dim: coordinates of a point. hidden: width, even. layers: residual layers.
    forward: x (B, dim) float, t (B,) int64 in 0..T-1 -> (B, dim).
    The time embedding is added in every layer, as the U-Net does. Raises ValueError if x is not (B, dim) or t not (B,).
    """

    def __init__(self, T: int, dim: int = 2, hidden: int = 128, layers: int = 3):
        super().__init__()
        self.dim = dim
        self.time_embedding = TimeEmbedding(T, hidden, hidden)
        self.head = nn.Linear(dim, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(Swish(), nn.Linear(hidden, hidden), Swish(), nn.Linear(hidden, hidden)) for _ in range(layers)
        )
        self.tail = nn.Sequential(Swish(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must be (B, {self.dim}), got {tuple(x.shape)}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t must be (B,) with the batch size of x, got {tuple(t.shape)} for {tuple(x.shape)}")
        h, temb = self.head(x), self.time_embedding(t)
        for layer in self.layers:
            h = h + layer(h + temb)
        return self.tail(h)
