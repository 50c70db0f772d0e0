"""Exercise 5.15: the penalty that keeps a discriminator smooth around the data."""

import copy

import torch
from torch import Tensor, nn

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions, widest
from ddpm_lesson.checks._run import called


def _r1_penalty(D, x_prev, x_t, t, gamma, interval):
    """Exercise 5.15: R1, the squared gradient of D on real images.  Mescheder et al. 2018, Eq. 9; Karras et al. 2020.

    D: a network, called as D(x_prev, x_t, t), returns logits (B,).  x_prev: real x_{t-1}, B images or points.  x_t: of
    the same shape.  t: (B,) int64.  gamma: float.  interval: int; the penalty is taken at every so many steps, and so
    weighs as much more.  Returns (B,): gamma / 2 * interval * |gradient of D in x_prev|^2, the square summed over the
    pixels of an image.
    Gradients flow on to D's weights.  x_prev, x_t and the weights' .grad stay as they are.
    Not the gradient of D's mean over the batch: that is divided by B.
    """
    penalties = []
    for k in range(len(x_prev)):
        x = x_prev[k : k + 1].clone().requires_grad_()
        (grad,) = torch.autograd.grad(D(x, x_t[k : k + 1], t[k : k + 1]).sum(), x)
        penalties.append(gamma / 2 * interval * sum(g**2 for g in grad.flatten().tolist()))
    return double(penalties)


class _Weights(nn.Module):
    """Three numbers."""

    def __init__(self, *values: float):
        super().__init__()
        self.slope, self.bend, self.cross = (nn.Parameter(torch.tensor(value)) for value in values)


class Discriminator(nn.Module):
    """Logits (B,) of images of any shape: a quadratic form of x_prev that depends on x_t and t."""

    def __init__(self, *values: float):
        super().__init__()
        self.net = _Weights(*values)

    def forward(self, x_prev: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        if not isinstance(t, Tensor) or t.shape != x_prev.shape[:1] or t.dtype != torch.int64:
            got = f"{tuple(t.shape)} and {t.dtype}" if isinstance(t, Tensor) else type(t).__name__
            raise TypeError(f"D expects t of shape ({len(x_prev)},) and dtype torch.int64, got {got}")
        x, y = widest(x_prev.flatten(1)), widest(x_t.flatten(1))
        a, b, c = (fractions(x.shape[1], start=k).to(x) for k in (3, 8, 21))
        slope = (self.net.slope * x @ a + self.net.cross * (x * y) @ c) * (4 + t) / 8
        return slope + self.net.bend * x**2 @ b / 2 + y @ b


def _script(function, *args):
    """The result, then what the way to the gradient left behind on what belongs to the caller."""
    out = function(*args)
    yield from called(lambda: out)
    D, x_prev, x_t = args[:3]
    yield "x_prev.requires_grad", torch.tensor(x_prev.requires_grad)
    yield "x_t.requires_grad", torch.tensor(x_t.requires_grad)
    yield "a .grad on D's weights", torch.tensor(any(weight.grad is not None for weight in D.parameters()))


def _of_weights(check, answer, args):
    """The penalty, and the weights that learn from it."""
    D = copy.deepcopy(args[0])
    return answer(D, *args[1:]), dict(D.named_parameters())


def _own_leaf(x_prev: Tensor) -> Tensor:
    return x_prev.detach().clone().requires_grad_()


def _by_autograd(value: Tensor, x: Tensor, graph: bool, D: nn.Module) -> Tensor:
    return torch.autograd.grad(value, x, create_graph=graph)[0]


def _by_backward(value: Tensor, x: Tensor, graph: bool, D: nn.Module) -> Tensor:
    """What backward(create_graph=True) does: the weights get a gradient as well."""
    weights = list(D.parameters())
    grad, *of_weights = torch.autograd.grad(value, [x, *weights], create_graph=graph)
    for weight, theirs in zip(weights, of_weights, strict=True):
        weight.grad = theirs.detach()
    return grad


def _in_x_t(D: nn.Module, x_prev: Tensor, x_t: Tensor, t: Tensor, gamma: float, interval: int) -> Tensor:
    x = _own_leaf(x_t)
    (grad,) = torch.autograd.grad(D(x_prev, x, t).sum(), x, create_graph=True)
    return gamma / 2 * interval * _sum_of_squares(grad)


def _in_both(D: nn.Module, x_prev: Tensor, x_t: Tensor, t: Tensor, gamma: float, interval: int) -> Tensor:
    both = _own_leaf(x_prev), _own_leaf(x_t)
    grads = torch.autograd.grad(D(*both, t).sum(), both, create_graph=True)
    return gamma / 2 * interval * torch.stack([_sum_of_squares(grad) for grad in grads]).sum(0)


def _sum_of_squares(grad: Tensor) -> Tensor:
    return grad.square().flatten(1).sum(1)


def _norm(grad: Tensor) -> Tensor:
    return _sum_of_squares(grad).sqrt()


def _squared(
    D: nn.Module,
    x_prev: Tensor,
    x_t: Tensor,
    t: Tensor,
    gamma: float,
    interval: int,
    *,
    leaf=_own_leaf,
    of=lambda logits: logits,
    total=torch.sum,
    way=_by_autograd,
    graph=True,
    size=_sum_of_squares,
    half=0.5,
    strength=lambda gamma: gamma,
    lazy=lambda interval: interval,
) -> Tensor:
    x = leaf(x_prev)
    grad = way(total(of(D(x, x_t, t))), x, graph, D)
    return half * strength(gamma) * lazy(interval) * size(widest(grad))


r1_penalty = Check(
    number="5.15",
    name="r1_penalty",
    specification=_r1_penalty,
    form=_squared,
    script=_script,
    batch=("x_prev", "x_t", "t"),
    gradients=("D",),
    trained=_of_weights,
    cases=tuple(
        Case(
            f"x_prev of shape {shape}, t = {t}, gamma = {gamma}, interval = {interval}",
            (
                Discriminator(0.5, 0.75, -0.25),
                fractions(*shape),
                2 * fractions(*shape, start=11),
                torch.tensor(t),
                gamma,
                interval,
            ),
        )
        for shape, t, gamma, interval in [
            ((4, 1, 8, 8), [0, 3, 3, 1], 0.05, 1),
            ((3, 2), [3, 1, 0], 2.0, 16),
            ((4, 3, 4, 4), [2, 1, 0, 2], 0.5, 4),
            ((2, 3, 2, 4, 4), [1, 3], 1.0, 15),
            ((1, 5), [2], 10.0, 3),
        ]
    ),
    among="B = 1, interval = 1, points and a video",
    cuts={
        "The penalty is a number without a graph, and D learns nothing from it: create_graph is missing, "
        "torch.autograd.grad(..., create_graph=True), or you detached the result.": dict(graph=False),
    },
    misconceptions={
        "You took the gradient of D's mean<: it is divided by B, and the penalty by B^2>. Sum the logits: each image "
        "then has its own gradient.": dict(total=torch.mean),
        "You took the norm of the gradient. Its square is asked for.": dict(size=_norm),
        "You took the mean over the pixels. The squared norm is a sum<: yours is smaller by their number>.": dict(
            size=lambda grad: grad.square().flatten(1).mean(1)
        ),
        "You took the sum of absolute values. The squares are summed.": dict(
            size=lambda grad: grad.abs().flatten(1).sum(1)
        ),
        "You pull the norm towards 1, as WGAN-GP does. R1 pulls it towards 0, on real images.": dict(
            size=lambda grad: (_norm(grad) - 1) ** 2
        ),
        "You squared the norm twice. Its square is the sum of squares.": dict(
            size=lambda grad: _sum_of_squares(grad) ** 2
        ),
        "You return a number for each pixel. Sum the squares over the pixels: one penalty for each image.": dict(
            size=torch.square
        ),
        "You summed over the batch as well, into one number. A penalty for each image is asked for.": dict(
            give=torch.sum
        ),
        "You return the mean over the batch, one number. A penalty for each image is asked for.": dict(give=torch.mean),
        "The factor 1/2 is missing: it is gamma / 2.": dict(half=1.0),
        "You forgot gamma.": dict(strength=lambda gamma: 1.0),
        "You squared gamma. It stands once before the square.": dict(strength=lambda gamma: gamma**2),
        "interval is missing. A penalty that is taken once in interval steps weighs interval times as much, or it "
        "fades as interval grows.": dict(lazy=lambda interval: 1),
        "You divided by interval. The penalty is taken less often, so it weighs more each time: multiply.": dict(
            lazy=lambda interval: 1 / interval
        ),
        "You took the gradient in x_t. The image that D judges is x_prev; x_t is only its condition.": dict(
            instead=_in_x_t
        ),
        "You took the gradient in x_t as well. The image that D judges is x_prev; x_t is only its condition.": dict(
            instead=_in_both
        ),
        "You took the gradient of sigmoid(D), the probability. R1 is of the logit itself.": dict(of=torch.sigmoid),
        "You took the gradient of D's loss, softplus(-D). R1 is of the logit itself.": dict(
            of=lambda logits: nn.functional.softplus(-logits)
        ),
        "You switched requires_grad on in the caller's x_prev<, though the numbers are right>: what is computed with "
        "it later is recorded. Make a leaf of your own: x_prev.detach().requires_grad_().": dict(
            leaf=lambda x_prev: x_prev.requires_grad_()
        ),
        "You called backward, which leaves a .grad on D's weights<: the optimizer adds it to the loss's>. "
        "torch.autograd.grad gives the gradient in x_prev alone.": dict(way=_by_backward),
    },
)
