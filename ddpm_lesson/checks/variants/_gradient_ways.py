"""What exercises 5.4 and 5.5 share: a classifier of noisy images, its gradient with choices, and their mistakes."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_lesson.checks._inputs import fractions, widest
from ddpm_lesson.checks._rows import Rows
from ddpm_lesson.checks._run import called

LABELS = 3


NEEDS_GRADIENTS = (
    "Your result is right, but your gradient fails where gradients are off, as in most samplers: open "
    "torch.enable_grad()."
)


def classifier(x_t: Tensor, t: Tensor) -> Tensor:
    """log p(y | x_t) of three classes, (B, 3), in float64: a softmax of quadratic forms that depend on t."""
    if not isinstance(t, Tensor) or t.shape != x_t.shape[:1] or t.dtype != torch.int64:
        got = f"{tuple(t.shape)} and {t.dtype}" if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"classifier expects t of shape ({len(x_t)},) and dtype torch.int64, got {got}")
    x = widest(x_t.flatten(1))
    slope, bend = (fractions(LABELS, x.shape[1], start=k).to(x) for k in (3, 8))
    return torch.log_softmax((x @ slope.T + x**2 @ bend.T / 4) * (4 + t[:, None]) / 8, 1)


def with_traces(x_t_at: int) -> Callable[..., Iterator[tuple[str, Tensor]]]:
    """The script of both: the result, then what the way to the gradient left behind on it and on the caller's x_t."""

    def script(function, *args):
        out = function(*args)
        yield from called(lambda: out)
        yield "out.requires_grad", torch.tensor(out.requires_grad)
        yield "x_t.requires_grad", torch.tensor(args[x_t_at].requires_grad)

    return script


def own_class(log_p: Tensor, y: Tensor) -> Tensor:
    """Each image's own log-probability, (B,)."""
    return log_p.gather(1, y[:, None])[:, 0]


def gradient(
    x_t: Tensor,
    t: Tensor,
    y: Tensor,
    classifier: Callable,
    other: Tensor,  # mean or eps
    *,
    leaf=lambda x_t: x_t.detach().clone().requires_grad_(),
    seen=lambda x_t, other: x_t,  # where the gradient is taken
    told=lambda t: t,
    picked=own_class,
    total=torch.sum,
    graph=False,
    scaled=lambda grad: grad,
) -> Tensor:
    """The gradient of log p(y | x_t) in x_t, (B, *D)."""
    x = leaf(seen(x_t, other))
    return scaled(torch.autograd.grad(total(picked(classifier(x, told(t)), y)), x, create_graph=graph)[0])


def _unit(grad: Tensor) -> Tensor:
    return grad / grad.flatten(1).norm(dim=1).view(-1, *[1] * (grad.ndim - 1))


def of_gradient(other: str) -> Rows:
    """Rows for the slots of `gradient`. other: the argument at which the gradient is not taken."""
    return {
        "You averaged over the batch: the gradient is divided by B<, and an image is guided less the more others there "
        "are>. Sum the log-probabilities: each image then has its own gradient.": dict(total=torch.mean),
        "You took the gradient of the probability. It is that of its logarithm: Bayes' rule for scores.": dict(
            picked=lambda log_p, y: own_class(log_p, y).exp()
        ),
        "You took the gradient of all classes together. Pick the one of y: log_p.gather(1, y[:, None]).": dict(
            picked=lambda log_p, y: log_p
        ),
        "log_p[:, y] is (B, B): every image is guided to the labels of the whole batch. Pick one for each image: "
        "log_p.gather(1, y[:, None]), or log_p[range(B), y].": dict(picked=lambda log_p, y: log_p[:, y]),
        "log_p[y] picks rows, which are images. Pick one class in each row: log_p.gather(1, y[:, None]), or "
        "log_p[range(B), y].": dict(picked=lambda log_p, y: log_p[y]),
        "You picked class y - 1. Labels count from 0: y itself.": dict(
            picked=lambda log_p, y: own_class(log_p, (y - 1) % LABELS)
        ),
        "You guided each image to its most probable class. The label is y.": dict(
            picked=lambda log_p, y: log_p.amax(1)
        ),
        "You used the first image's label for the whole batch. Every image has its own.": dict(
            picked=lambda log_p, y: log_p[:, y[0]]
        ),
        "You took the gradient of the entropy's term p log p. That of log p is asked for.": dict(
            picked=lambda log_p, y: (log_p.exp() * log_p).sum(1)
        ),
        f"You took the gradient at {other}. The classifier is asked about x_t.": dict(seen=lambda x_t, other: other),
        "You told the classifier t = 0, as if the image were clean. It has to know how noisy x_t is: pass t.": dict(
            told=torch.zeros_like
        ),
        "You told the classifier t + 1. In code t counts from 0: pass t as it is.": dict(told=lambda t: t + 1),
        "You told the classifier t - 1. It is asked about x_t: pass t as it is.": dict(told=lambda t: t - 1),
        "You told the classifier the first image's t for the whole batch. Every image has its own.": dict(
            told=lambda t: t[:1].expand(len(t))
        ),
        "You divided the gradient by its norm. Its size says how sure the classifier is: take it as it is.": dict(
            scaled=_unit
        ),
        "You took the sign of the gradient. That is an attack on a classifier, not guidance: take it as it is.": dict(
            scaled=torch.sign
        ),
        "You switched requires_grad on in the caller's x_t<, though the numbers are right>: later steps are recorded "
        "then. Make a leaf of your own: x_t.detach().requires_grad_().": dict(leaf=lambda x_t: x_t.requires_grad_()),
        "You switched requires_grad on in the caller's x_t, and your result holds the graph. Take the gradient at a "
        "leaf of your own, x_t.detach().requires_grad_(), and without create_graph.": dict(
            leaf=lambda x_t: x_t.requires_grad_(), graph=True
        ),
        "Your result holds the graph<, though its numbers are right>: memory grows with every step. Leave out "
        "create_graph, or detach() the gradient.": dict(graph=True),
    }
