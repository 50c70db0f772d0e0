"""Exercise 2.7: a training loop with warm-up, clipping and an average of the weights."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions
from ddpm_lesson.checks._run import Misfit, read


class _Net(nn.Module):
    """A network for the inputs: weight x_t + bias t / 4, with weights that differ by start."""

    def __init__(self, start: int):
        super().__init__()
        self.weight = nn.Parameter(fractions(2, 2, start=start).double())
        self.bias = nn.Parameter(fractions(2, start=start + 1).double())

    def forward(self, x_t, t):
        return x_t @ self.weight.T + self.bias * t[:, None] / 4


class _Batches:
    """Triples to go through, as a DataLoader's batches are."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def _error(model, x_0, t, noise):
    return (model(x_0 + noise, t) - noise) ** 2


def _training_loop(model, average, batches, loss, lr, warmup, clip_norm, decay):
    """Exercise 2.7: Algorithm 1 with warm-up, clipping and an average of the weights.  Ho et al. 2020, Appendix B.

    model, average: networks of one kind; training changes both.  batches: of (x_0, t, noise).
    loss: loss(model, x_0, t, noise) -> (B, *D).  Yields the mean loss of step k = 1, 2, ..., a float, after the step of
    Adam with the rate lr min(1, k / warmup); the gradient's norm, that of all weights together, is cut to clip_norm.
    After each step every weight of average becomes decay times itself plus 1 - decay times the model's.
    """
    weights, averages = list(model.parameters()), list(average.parameters())
    first, second = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    for k, (x_0, t, noise) in enumerate(batches, start=1):
        value = loss(model, x_0, t, noise).mean()
        gradients = torch.autograd.grad(value, weights)
        norm = math.sqrt(sum((gradient**2).sum().item() for gradient in gradients))
        for weight, held, m, v, gradient in zip(weights, averages, first, second, gradients, strict=True):
            cut = gradient * min(1.0, clip_norm / norm)
            m.copy_(0.9 * m + 0.1 * cut)
            v.copy_(0.999 * v + 0.001 * cut**2)
            step = m / (1 - 0.9**k) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
            weight.data = weight.data - lr * min(1.0, k / warmup) * step
            held.data = decay * held.data + (1 - decay) * weight.data
        yield value.item()


def _each_update(function, model, average, *others):
    """The script of the exercise: each loss, and all weights after the step. Both networks are made here, anew."""
    model, average = model(), average()
    steps = function(model, average, *others)
    if not hasattr(steps, "__next__"):
        raise Misfit(f"expected a generator, which yields each loss, got {type(steps).__name__}")
    for k, value in enumerate(steps, start=1):
        if not isinstance(value, float):
            raise Misfit(f"expected each loss as a float, loss.item(), got {type(value).__name__}")
        yield f"loss {k}", double([value])
        for name, net in (("model", model), ("average", average)):
            yield f"{name} after step {k}", torch.cat([read(weight).flatten() for weight in net.parameters()])


def _one_step_each(step, blend):
    step()
    blend()


def _blended(average: nn.Module, model: nn.Module, decay: float, k: int) -> None:
    with torch.no_grad():
        for held, weight in zip(average.parameters(), model.parameters(), strict=True):
            held.mul_(decay).add_(weight, alpha=1 - decay)


def _same_optimizer(optimizer, make):
    return optimizer


def _looped(
    model, average, batches, loss, lr, warmup, clip_norm, decay, *,
    made=torch.optim.Adam,
    renewed=_same_optimizer,
    rate=lambda k, warmup: min(1.0, k / warmup),
    reduce=torch.mean,
    clear=lambda optimizer: optimizer.zero_grad(),
    clear_late=lambda optimizer: None,
    clip=nn.utils.clip_grad_norm_,
    order=_one_step_each,
    blend=_blended,
    told=lambda value, again: value.mean().item(),
):  # fmt: skip
    weights = list(model.parameters())
    optimizer = made(weights, lr=lr)
    for k, (x_0, t, noise) in enumerate(batches, start=1):
        optimizer = renewed(optimizer, partial(made, weights, lr=lr))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate(k, warmup)
        value = loss(model, x_0, t, noise)
        clear(optimizer)
        reduce(value).backward()
        clear_late(optimizer)
        clip(weights, clip_norm)
        order(optimizer.step, partial(blend, average, model, decay, k))
        yield told(value, lambda now=(x_0, t, noise): loss(model, *now).mean().item())


def _normalised(weights: list[Tensor], clip_norm: float) -> None:
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.mul_(clip_norm / norm)


def _each_clipped(weights: list[Tensor], clip_norm: float) -> None:
    for weight in weights:
        nn.utils.clip_grad_norm_([weight], clip_norm)


def _compounded(k: int, warmup: int) -> float:
    """What `group["lr"] *= min(1, k / warmup)` has left of lr in step k."""
    return math.prod(min(1.0, j / warmup) for j in range(1, k + 1))


def _case(words: str, start: int, lr: float, warmup: int, clip_norm: float, decay: float) -> Case:
    batches = [
        (
            fractions(3, 2, start=start + k).double(),
            torch.tensor([k, 3, 9]),
            4 / k * fractions(3, 2, start=50 + k).double(),
        )
        for k in range(1, 6)
    ]  # the noise shrinks, so that some gradients are cut and some are not
    nets = (partial(_Net, start), partial(_Net, start + 7))
    return Case(words, (*nets, _Batches(batches), _error, lr, warmup, clip_norm, decay))


training_loop = Check(
    number="2.7",
    name="training_loop",
    specification=_training_loop,
    form=_looped,
    script=_each_update,
    steps=True,
    cases=(
        _case("five steps, lr = 0.1, warmup = 3, clip_norm = 2, decay = 0.9", 1, 0.1, 3, 2.0, 0.9),
        _case("five steps, lr = 0.05, warmup = 1, clip_norm = 100, decay = 0.5", 3, 0.05, 1, 100.0, 0.5),
        _case("five steps, lr = 0.2, warmup = 10, clip_norm = 0.5, decay = 0", 5, 0.2, 10, 0.5, 0.0),
    ),
    among="a warm-up that does not end and gradients that need no clipping",
    misconceptions={
        "You did not clear the gradients: backward adds to what is there, and each step walks along the sum of all "
        "before it. optimizer.zero_grad() comes before backward.": dict(clear=lambda optimizer: None),
        "Your model does not move: its gradients are cleared between backward and step, or step() is never called. "
        "optimizer.zero_grad() comes before backward, step() after clipping.": dict(
            clear=lambda optimizer: None, clear_late=lambda optimizer: optimizer.zero_grad()
        ),
        "You sent the sum backward. The gradient then grows with the batch and the image, and clip_norm means "
        "something else for each size: take the mean.": dict(reduce=torch.sum),
        "Your loss is the sum of all errors. Its gradient grows with the batch and the image, and clip_norm means "
        "something else for each size: take the mean.": dict(
            reduce=torch.sum, told=lambda value, again: value.sum().item()
        ),
        "You do not clip, or you clip before backward has made the gradient. clip_grad_norm_ stands between backward "
        "and step.": dict(clip=lambda weights, clip_norm: None),
        "You clipped each number of the gradient, which turns it. The norm is cut: clip_grad_norm_.": dict(
            clip=nn.utils.clip_grad_value_
        ),
        "You clipped each parameter's gradient by itself. The norm of all of them together is cut to clip_norm.": dict(
            clip=_each_clipped
        ),
        "You scale every gradient to the norm clip_norm. One that is smaller stays as it is.": dict(clip=_normalised),
        "Your warm-up counts from 0<, so the first step does nothing>. k counts from 1.": dict(
            rate=lambda k, warmup: min(1.0, (k - 1) / warmup)
        ),
        "There is no warm-up: the learning rate is lr from the start.": dict(rate=lambda k, warmup: 1.0),
        "Your learning rate goes on rising after the warm-up. It stays at lr: min(1, k / warmup).": dict(
            rate=lambda k, warmup: k / warmup
        ),
        "You took the larger of 1 and k / warmup. The rate rises up to lr and stays there: min(1, k / warmup).": dict(
            rate=lambda k, warmup: max(1.0, k / warmup)
        ),
        "You multiply the rate of the step before by min(1, k / warmup), again and again. Each step begins with lr: "
        "lr min(1, k / warmup).": dict(rate=_compounded),
        "You used plain gradient descent. The optimizer is Adam.": dict(made=torch.optim.SGD),
        "You used AdamW, which also pulls every weight towards 0. The optimizer is Adam.": dict(made=torch.optim.AdamW),
        "You make a new optimizer in every step, so Adam forgets the gradients before. Make it once.": dict(
            renewed=lambda optimizer, make: make()
        ),
        "decay and 1 - decay are exchanged<: your average follows the last step>.": dict(
            blend=lambda average, model, decay, k: _blended(average, model, 1 - decay, k)
        ),
        "Your average does not move. It is changed in place, after every step, under torch.no_grad().": dict(
            blend=lambda average, model, decay, k: None
        ),
        "Your average is a copy of the network. It keeps decay of what it was.": dict(
            blend=lambda average, model, decay, k: _blended(average, model, 0.0, k)
        ),
        "Your average takes in the weights before the step. It takes those after it.": dict(
            order=lambda step, blend: (blend(), step())
        ),
        "Your decay rises slowly, as in the package's EMA. A good idea; here decay is asked for as it is.": dict(
            blend=lambda average, model, decay, k: _blended(average, model, min(decay, k / (9 + k)), k)
        ),
        "You yield the loss after the step, of the batch just learned. Yield the one that was minimised.": dict(
            told=lambda value, again: again()
        ),
    },
)
