"""Which t a training step looks at: siblings that differ in the variance of the gradient and in nothing else.

sample(batch_size), batch_size >= 1, returns t, (B,) int64 in 0..T-1, and weights, (B,) float32, such that the mean of
weights * losses has the uniform mean over t as its expectation. update(t, losses) tells how large the losses were.
A batch_size below 1 raises ValueError.
generator: t is drawn on its device, without one on the CPU, and moved to `device`.
State is in buffers, so that state_dict() and load_state_dict() resume exactly.
"""

import math
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from ddpm_lesson._tensors import Device, float32_at_least, home, moved, positive, table_dtype

Draw = tuple[Tensor, Tensor]  # t (B,) and weights (B,)


class TimestepSampler(Protocol):
    """What training asks for t: `Uniform`, `Antithetic`, `LossSecondMoment`, or one of your own."""

    T: int

    def sample(self, batch_size: int, *, generator: Generator | None = None, device: Device | None = None) -> Draw: ...

    def update(self, t: Tensor, losses: Tensor) -> None: ...


class Uniform(nn.Module):
    """Every t with the same probability, each image by itself.  Ho et al. 2020, Algorithm 1.

    T: number of steps. Raises ValueError unless it is positive.
    """

    def __init__(self, T: int):
        super().__init__()
        self.T = positive("T", T)

    def sample(self, batch_size: int, *, generator: Generator | None = None, device: Device | None = None) -> Draw:
        """t, (B,), and weights, (B,): see the head of this file."""
        t = torch.randint(self.T, (positive("batch_size", batch_size),), generator=generator, device=home(generator))
        return moved(t, device), torch.ones(batch_size, device=device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Nothing: what the losses were changes nothing here."""


class Antithetic(Uniform):
    """t together with T - 1 - t: a small loss comes with a large one, and their mean varies less.

    T: number of steps. Raises ValueError unless it is positive. In an odd batch the last t has no partner.
    Each t alone is uniform. DDIM's code draws t so (Song et al. 2021).
    """

    def sample(self, batch_size: int, *, generator: Generator | None = None, device: Device | None = None) -> Draw:
        """t, (B,), and weights, (B,): see the head of this file."""
        pairs = (positive("batch_size", batch_size) + 1) // 2
        half = torch.randint(self.T, (pairs,), generator=generator, device=home(generator))
        t = torch.stack([half, self.T - 1 - half], 1).flatten()[:batch_size]
        return moved(t, device), torch.ones(batch_size, device=device)


class LossSecondMoment(nn.Module):
    """t in proportion to sqrt(E[L_t^2]), from the last losses of every t.  Nichol & Dhariwal 2021, Section 3.3.

    T: number of steps. history: losses kept for each t; uniform until every t has that many. uniform_prob: the share
    that stays uniform, so that no t is forgotten. Weights are 1 / (T p_t).
    Raises ValueError unless T and history are positive and uniform_prob lies in (0, 1].
    Made for the bound, whose terms differ by orders of magnitude; with L_simple it can make the gradient noisier.
    """

    losses: Tensor  # (T, history) float64, the oldest is overwritten
    counts: Tensor  # (T,) int64, losses seen of each t

    def __init__(self, T: int, *, history: int = 10, uniform_prob: float = 0.001):
        super().__init__()
        if not 0 < uniform_prob <= 1:
            raise ValueError(f"uniform_prob must lie in (0, 1], got {uniform_prob}")
        self.T, self.history, self.uniform_prob = positive("T", T), positive("history", history), uniform_prob
        self.register_buffer("losses", torch.zeros(T, history, dtype=torch.float64, device="cpu"))
        self.register_buffer("counts", torch.zeros(T, dtype=torch.int64, device="cpu"))

    def probabilities(self) -> Tensor:
        """p_t of the next draw, (T,) float64, on the CPU."""
        root = self.losses.square().mean(1).sqrt()
        if bool((self.counts < self.history).any()) or not bool(root.any()):
            return torch.full_like(root, 1 / self.T)
        return (1 - self.uniform_prob) * root / root.sum() + self.uniform_prob / self.T

    def sample(self, batch_size: int, *, generator: Generator | None = None, device: Device | None = None) -> Draw:
        """t, (B,), and weights, (B,): see the head of this file."""
        p = self.probabilities().to(home(generator), table_dtype(home(generator)))
        t = torch.multinomial(p, positive("batch_size", batch_size), replacement=True, generator=generator)
        return moved(t, device), moved((1 / (self.T * p[t])).float(), device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Remember the losses of these t.  t: (B,). losses: (B,), before they are weighted.

        Raises ValueError if the shapes differ or a loss is not a finite number.
        """
        if losses.shape != t.shape:
            raise ValueError(f"losses must be finite and of t's shape {tuple(t.shape)}, got {losses}")
        steps, values = torch.stack([t.to(float32_at_least(losses)), float32_at_least(losses)]).tolist()  # one wait
        if not all(map(math.isfinite, values)):
            raise ValueError(f"losses must be finite and of t's shape {tuple(t.shape)}, got {losses}")
        for step, loss in zip(map(int, steps), values, strict=True):
            self.losses[step, self.counts[step] % self.history] = loss
            self.counts[step] += 1
