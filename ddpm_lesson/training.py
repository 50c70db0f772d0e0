"""Training: Algorithm 1 as a generator that yields each step it has made, and the averaged weights to sample with."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from ddpm_lesson.gaussian import randn_like
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.timesteps import Antithetic, LossSecondMoment, Uniform


class TrainStep(NamedTuple):
    """One step that has been made.

    step: how many have been made. loss: the mean that was minimised, weights included. grad_norm: of the whole
    gradient, before clipping. t, losses: (B,), the images' steps and their losses, without weights.
    """

    step: int
    loss: float
    grad_norm: float
    t: Tensor
    losses: Tensor


class EMA:
    """Exponential moving average of a network's weights: w <- decay w + (1 - decay) weights.  Ho et al. 2020, App. B.

    model: the network; `.model` is a copy of it, in eval mode and without gradients, for sampling.
    The n-th update uses min(decay, (1 + n) / (10 + n)), n from 0, as TensorFlow's average does: with 0.9999 from the
    start, 90 % of the average would be the random initial weights after 1,000 updates. Buffers are copied.
    Raises ValueError unless decay lies in [0, 1). Keep float32 weights: in bfloat16 such small steps round to nothing.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model`, which has the structure of the one that was copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for average, new in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(new, 1 - decay)
        for average, new in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(new)

    def state_dict(self) -> dict:
        """What resumes exactly: the average's own state and the number of updates. decay is an argument, not state."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]


def minibatches(*data: Tensor, batch_size: int, generator: Generator | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Batches without end from data in memory: shuffled, gone through, shuffled again.

    data: x_0 (N, *D), or x_0 and labels (N,). Yields tuples of (batch_size, ...); what is left over at the end of a
    pass is dropped. generator: on the CPU. Raises ValueError if the lengths differ or batch_size leaves 1..N.
    """
    N = len(data[0])
    if any(len(part) != N for part in data) or not 1 <= batch_size <= N:
        lengths = " and ".join(str(len(part)) for part in data)
        raise ValueError(f"batch_size must lie in 1..N for data of one length N, got {batch_size} and {lengths}")
    while True:
        for rows in torch.randperm(N, generator=generator, device="cpu").split(batch_size)[: N // batch_size]:
            yield tuple(part[rows] for part in data)


def train(
    model: nn.Module,
    process: GaussianDiffusion,
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    loss: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor],
    *,
    steps: int,
    lr: float = 2e-4,
    warmup: int = 0,
    clip_norm: float = 1.0,
    ema: EMA | None = None,
    timesteps: Uniform | Antithetic | LossSecondMoment | None = None,
    generator: Generator | None = None,
) -> Iterator[TrainStep]:
    """Algorithm 1, `steps` times, with Adam; yields each step when it has been made.  Ho et al. 2020.

    model: called as model(x_t, t), or model(x_t, t, y) if the batches have labels; it is put into train mode once, at
    the start. process: on the model's device. batches: `minibatches`, a DataLoader, or any iterable of x_0 (B, *D),
    (x_0,) or (x_0, y); gone through again when it ends.
    loss: (output, x_0, x_t, t, noise) -> (B,) or (B, *D), such as partial(simple_loss, process, epsilon); the mean is
    minimised. warmup: steps over which the learning rate rises linearly to lr. clip_norm: the gradient's norm is cut
    to it; math.inf for none. ema: is updated after every step. timesteps: `Uniform` if not given.
    generator: for t and noise, as in `gaussian.randn_like`. With one here and one in `minibatches` a run can be
    repeated bit by bit on a CPU; dropout alone still draws from PyTorch's own generator.
    Raises ValueError for bad arguments or if the batches run out, TypeError if `batches` is one tensor, and
    FloatingPointError if a loss or the gradient is not finite: the weights are then still those of the step before.
    """
    if steps < 1 or warmup < 0 or not clip_norm > 0:
        got = f"steps = {steps}, warmup = {warmup}, clip_norm = {clip_norm}"
        raise ValueError(f"steps and clip_norm must be positive and warmup must not be negative, got {got}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameters to train")
    timesteps = Uniform(process.T) if timesteps is None else timesteps
    optimizer = torch.optim.Adam(parameters, lr)
    model.train()
    for step, batch in zip(range(1, steps + 1), _endless(batches), strict=False):
        x_0, *y = [part.to(parameters[0].device) for part in batch]
        t, weights = timesteps.sample(len(x_0), generator=generator, device=x_0.device)
        noise = randn_like(x_0, generator)
        x_t = process.q_sample(x_0, t, noise)
        losses = _per_image(loss(model(x_t, t, *y), x_0, x_t, t, noise), t)
        mean = (weights * losses).mean()
        if not bool(losses.isfinite().all()):
            raise FloatingPointError(f"the loss is not finite in step {step}, at t = {t[~losses.isfinite()].tolist()}")
        optimizer.zero_grad()
        mean.backward()
        grad_norm = nn.utils.clip_grad_norm_(parameters, clip_norm, error_if_nonfinite=False).item()
        if not math.isfinite(grad_norm):
            raise FloatingPointError(f"the gradient is not finite in step {step}, t = {t.tolist()}")
        optimizer.param_groups[0]["lr"] = lr * min(1, step / max(warmup, 1))
        optimizer.step()
        timesteps.update(t, losses.detach())
        if ema is not None:
            ema.update(model)
        yield TrainStep(step, mean.item(), grad_norm, t, losses.detach())


def _endless(batches: Iterable[Tensor | tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    if isinstance(batches, Tensor):
        raise TypeError("batches must be an iterable of batches, got one tensor: minibatches(x_0, batch_size=...)")
    count, before = 0, -1
    while count > before:
        before = count
        for batch in batches:
            count += 1
            yield (batch,) if isinstance(batch, Tensor) else batch
    raise ValueError(f"the batches ran out after {count}; give more, or an iterable that can be gone through again")


def _per_image(loss: Tensor, t: Tensor) -> Tensor:
    if loss.shape[:1] != t.shape:
        raise ValueError(f"the loss must be ({len(t)},) or ({len(t)}, *D), not reduced, got {tuple(loss.shape)}")
    return loss.flatten(1).mean(1) if loss.ndim > 1 else loss
