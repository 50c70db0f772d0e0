"""Training: Algorithm 1 as a generator that yields each step it has made, and the averaged weights to sample with."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ddpm_lesson._tensors import moved, randn_like
from ddpm_lesson.batches import minibatches
from ddpm_lesson.denoisers import Conditions
from ddpm_lesson.doors import answer, check_images
from ddpm_lesson.losses import Loss
from ddpm_lesson.process import GaussianDiffusion, Noised
from ddpm_lesson.timesteps import TimestepSampler, Uniform

__all__ = ["EMA", "TrainStep", "constant", "cosine", "minibatches", "train"]  # minibatches: of batches.py

STEADIER = "a lower lr, a longer warmup or a smaller clip_norm may keep it finite"
Batch = Tensor | tuple[Tensor] | tuple[Tensor, Tensor | Conditions]


class TrainStep(NamedTuple):
    """One step that has been made.

    step: how many have been made. loss: the mean that was minimised, weights included. grad_norm: of the whole
    gradient, before clipping. t, losses: (B,), the images' steps and their losses, without weights; with gradient
    accumulation those of all its batches.
    """

    step: int
    loss: float
    grad_norm: float
    t: Tensor
    losses: Tensor


M = TypeVar("M", bound=nn.Module)


class EMA(Generic[M]):
    """Exponential moving average of a network's weights: w <- decay w + (1 - decay) weights.  Ho et al. 2020, App. B.

    model: the network; `.model` is a copy of it, in eval mode and without gradients, for sampling.
    The n-th update uses min(decay, (1 + n) / (10 + n)), n from 0, as TensorFlow's average does: with 0.9999 from the
    start, 90 % of the average would be the random initial weights after 1,000 updates. Buffers are copied.
    Raises ValueError unless decay lies in [0, 1). Keep float32 weights: in bfloat16 such small steps round to nothing.
    """

    def __init__(self, model: M, decay: float = 0.9999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of `model`, which has the structure of the one that was copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for average, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for held, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            held.copy_(buffer)

    def state_dict(self) -> dict:
        """What resumes exactly: the average's own state and the number of updates. decay is an argument, not state."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]


def constant(step: int) -> float:
    """The learning rate stays, after the warm-up.  Ho et al. 2020, Appendix B."""
    return 1.0


def cosine(steps: int) -> Callable[[int], float]:
    """The learning rate falls along half a cosine, from 1 to 0 after `steps`.  Loshchilov & Hutter 2017, Eq. 5."""
    return lambda step: (1 + math.cos(math.pi * min((step - 1) / steps, 1))) / 2


def train(
    model: nn.Module,
    process: GaussianDiffusion,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    steps: int,
    start: int = 0,
    optimizer: Optimizer | None = None,
    lr: float | None = None,
    warmup: int = 0,
    rate: Callable[[int], float] = constant,
    clip_norm: float = 1.0,
    accumulate: int = 1,
    ema: EMA | None = None,
    timesteps: TimestepSampler | None = None,
    conditions: Callable[[Noised, Conditions], Conditions] | None = None,
    noise: Callable[..., Tensor] = randn_like,
    mixed_precision: bool = False,
    compiled: bool = False,
    generator: Generator | None = None,
) -> Iterator[TrainStep]:
    """Algorithm 1, step `start` + 1 to step `steps`; yields each step when it has been made.  Ho et al. 2020.

    model: called as model(x_t, t, **conditions); it is put into train mode once, at the start. process: on the model's
    device. batches: `minibatches`, a DataLoader, or any iterable of x_0 (B, *D), (x_0,), (x_0, {"y": ..., "cond": ...})
    with what the model is told of each image, or (x_0, y), short for the labels alone; gone through again when it ends.
    conditions: (noised, those of the batch) -> those that the model gets, for what depends on the draw: an estimate of
    its own for self-conditioning, a latent. Called with gradients: `make_denoiser` asks the model without them.
    noise: noise(x_0, generator=...) -> (B, *D), if it is not standard normal: `variants.offset_noise`.
    loss: loss(output, noised) -> (B,) or (B, *D), such as partial(simple_loss, process, epsilon); the mean is
    minimised. optimizer: Adam if not given. lr: None for the optimizer's own, which training changes (to go on with a
    state, give lr), or 2e-4 without one. In step k the learning rate is lr rate(k), times k / warmup up to k = warmup.
    clip_norm: the gradient's norm is cut to it; math.inf for none. accumulate: batches whose gradients are averaged in
    one step. ema: is updated after every step. timesteps: with the process's T; `Uniform` if not given.
    mixed_precision: the network computes in bfloat16, also when `conditions` ask it; its weights stay float32.
    compiled: the network is compiled. generator: for t and noise, as in `Gaussian.sample`. With one here and one in
    `minibatches` a run can be repeated bit by bit on a CPU; dropout alone still draws from PyTorch's own generator.
    Raises ValueError for bad arguments, for a respaced chain, for NaN or pixels in 0..255 in the first batch, or if the
    batches run out, TypeError if `batches` is one tensor, conditions have no names, or the model returns no tensor, and
    FloatingPointError if a loss or the gradient is not finite: the weights are then still those of the step before.
    Warns with ImageRangeWarning if the images of the first batch (not points, (B, D)) lie in [0, 1].

    >>> from ddpm_lesson.networks.mlp import MLP
    >>> process, model = GaussianDiffusion(torch.full((10,), 0.2)), MLP(T=10, dim=2, hidden=16)
    >>> batches = minibatches(torch.randn(64, 2), batch_size=32)
    >>> loss = lambda output, noised: (noised.noise - output) ** 2  # partial(simple_loss, process, epsilon)
    >>> [step.step for step in train(model, process, batches, loss, steps=3)]
    [1, 2, 3]
    """
    if not 0 <= start < steps or warmup < 0 or not clip_norm > 0 or accumulate < 1:
        got = f"start = {start}, steps = {steps}, warmup = {warmup}, clip_norm = {clip_norm}, accumulate = {accumulate}"
        expected = "0 <= start < steps, warmup >= 0, clip_norm > 0 and accumulate >= 1"
        raise ValueError(f"expected {expected}, got {got}")
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr, the learning rate, must be positive and finite, got {lr}; 2e-4 is usual")
    if process.base is not process:
        told = "a network learns the base's steps, of which a respaced chain has some, numbered anew"
        raise ValueError(f"{told}: train on process.base, got {process}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameters to train")
    if (device := parameters[0].device).type == "meta":
        raise ValueError("the model lies on the device meta and holds no numbers: move it with to_empty, then fill it")
    timesteps = Uniform(process.T) if timesteps is None else timesteps
    if (drawn := getattr(timesteps, "T", process.T)) != process.T:
        raise ValueError(
            f"timesteps must draw t of the process, which has T = {process.T}, got a sampler of T = {drawn}"
        )
    if optimizer is None:
        optimizer = torch.optim.Adam(parameters, lr=2e-4)
    rates = [group["lr"] if lr is None else lr for group in optimizer.param_groups]
    forward = torch.compile(model) if compiled else model
    precision: Callable[[], AbstractContextManager] = (
        partial(torch.autocast, device.type, torch.bfloat16) if mixed_precision else nullcontext
    )
    batches, first = _endless(batches), True
    model.train()
    for step in range(start + 1, steps + 1):
        optimizer.zero_grad()
        parts, mean = [], torch.zeros((), device=device)
        for batch in islice(batches, accumulate):
            x_0, given = _to(device, batch, looked=not first)
            first = False
            t, weights = timesteps.sample(len(x_0), generator=generator, device=device)
            noised = process.noised(x_0, t, noise(x_0, generator=generator))
            if conditions is not None:
                with precision():  # of its own: autocast would keep the weights that it rounds, without their gradients
                    given = conditions(noised, given)
            with precision():
                output = answer(forward(noised.x_t, t, **given), module=True)
            losses = _per_image(loss(output, noised), t)
            part = (weights * losses).mean() / accumulate
            part.backward()
            mean += part.detach()
            parts.append((t, losses.detach()))
        t, losses = (torch.cat(column) for column in zip(*parts, strict=True))
        grad_norm = nn.utils.clip_grad_norm_(parameters, clip_norm, error_if_nonfinite=False)
        mean, grad_norm = torch.stack([mean, grad_norm.to(mean.dtype)]).tolist()  # the one wait for a GPU
        if not math.isfinite(mean):
            told = f"the loss is not finite in step {step}, at t = {_some(t[~losses.isfinite()])}"
            raise FloatingPointError(f"{told}: {STEADIER}")
        if not math.isfinite(grad_norm):
            raise FloatingPointError(f"the gradient is not finite in step {step}, t = {_some(t)}: {STEADIER}")
        if not 0 <= (share := rate(step)) < math.inf:
            raise ValueError(f"rate({step}), a factor of the learning rate, must be 0 or more and finite, got {share}")
        for group, own in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = own * share * min(1, step / max(warmup, 1))
        try:
            optimizer.step()
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            largest = max(rates)
            raise FloatingPointError(
                f"lr = {largest} is too large for the weights in step {step}: {STEADIER}"
            ) from error
        timesteps.update(t, losses)
        if ema is not None:
            ema.update(model)
        yield TrainStep(step, mean, grad_norm, t, losses)


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    if isinstance(batches, Tensor):
        raise TypeError("batches must be an iterable of batches, got one tensor: minibatches(x_0, batch_size=...)")
    count, before = 0, -1
    while count > before:
        before = count
        for batch in batches:
            count += 1
            yield batch
    raise ValueError(f"the batches ran out after {count}; give more, or an iterable that can be gone through again")


def _to(device: torch.device, batch: Batch, looked: bool = True) -> tuple[Tensor, Conditions]:
    """The images and the conditions of a batch, in whichever form it comes, on the device.  looked: see no values."""
    x_0, *rest = (batch,) if isinstance(batch, Tensor) else batch
    expected = "a batch must be x_0, (x_0, y) or (x_0, conditions)"
    if len(rest) > 1:
        raise ValueError(f"{expected}, got {1 + len(rest)} parts; labels and more: (x_0, {{'y': ..., 'cond': ...}})")
    given = rest[0] if rest else {}
    given = {"y": given} if isinstance(given, Tensor) else given
    if not isinstance(given, Mapping):
        raise TypeError(f"{expected}, got x_0 and a {type(given).__name__}")
    if not looked:
        check_images(x_0, far=False, stacklevel=3)
    return moved(x_0, device), {name: moved(value, device) for name, value in given.items()}


def _per_image(loss: Tensor, t: Tensor) -> Tensor:
    if loss.shape[:1] != t.shape:
        raise ValueError(f"the loss must be ({len(t)},) or ({len(t)}, *D), not reduced, got {tuple(loss.shape)}")
    return loss.flatten(1).mean(1) if loss.ndim > 1 else loss


def _some(t: Tensor, most: int = 8) -> str:
    """The first of the indices (B,), as text."""
    more = f" and {len(t) - most} more" if len(t) > most else ""
    return f"{t[:most].tolist()}{more}"
