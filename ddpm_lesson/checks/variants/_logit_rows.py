"""What exercises 5.13 and 5.14 share: inputs, and what stands instead of a discriminator's cross-entropy."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks._rows import Rows

FAR = 200.0  # a logit whose probability is 0 or 1 in float32
Cost = Callable[[Tensor], Tensor]


def nats(logit: float) -> float:
    """softplus: -log of the probability that a discriminator with this logit gives to "fake"."""
    return max(logit, 0.0) + math.log1p(math.exp(-abs(logit)))


def logits(n: int, start: int = 0) -> Tensor:
    """(n,) from -3 to 3."""
    return 3 * fractions(n, start=start)


def far(*signs: int) -> Tensor:
    return FAR * torch.tensor(signs, dtype=torch.float32)


def places(*given: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Where the logarithm of a probability breaks."""
    yield "where a logit is far from 0", torch.stack([x.abs() > 20 for x in given]).any(0)


def _p(logit: Tensor) -> Tensor:
    """The probability of "real", in float32 as networks compute it."""
    return torch.sigmoid(logit.float())


def _of_a_probability(log: Callable[[Tensor], Tensor]) -> tuple[Cost, Cost]:
    return lambda x: -log(_p(x)), lambda x: -log(1 - _p(x))


WAYS: dict[str, tuple[Cost, Cost]] = {  # what it costs to be real, and to be fake
    "You left out the logarithm: a probability is no cross-entropy. -log sigmoid(x) is softplus(-x).": (
        lambda x: torch.sigmoid(-x),
        torch.sigmoid,
    ),
    "You took the logarithm of a probability that was rounded to 0, or of 1 + exp(x) where exp overflows<: the loss "
    "is infinite where D is sure and wrong>. Stay with logits: softplus(-x) is -log sigmoid(x), and does not "
    "overflow.": _of_a_probability(torch.log),
    "Your logarithm stops at -100, as that of binary_cross_entropy does<, and there the gradient ends>. Stay with "
    "logits: softplus, or binary_cross_entropy_with_logits.": _of_a_probability(lambda p: p.log().clamp(min=-100)),
    "You added 1e-8 under the logarithm<: where D is sure and wrong the loss stops, and the gradient ends>. Stay "
    "with logits: softplus needs no constant.": _of_a_probability(lambda p: (p + 1e-8).log()),
    "You applied sigmoid, and then a loss of logits, which applies it again. Give it the logits.": (
        lambda x: softplus(-torch.sigmoid(x)),
        lambda x: softplus(torch.sigmoid(x)),
    ),
    "Your sign is wrong: that is the log-likelihood, which is to grow. A loss is its negative.": (
        lambda x: -softplus(-x),
        lambda x: -softplus(x),
    ),
    "That is the hinge loss, max(0, 1 - x) for real. softplus is asked for.": (
        lambda x: torch.relu(1 - x),
        lambda x: torch.relu(1 + x),
    ),
    "That is the loss of a Wasserstein critic, the logit itself. softplus is asked for.": (torch.neg, lambda x: x),
    "That is the loss of a least-squares GAN, the squared distance from the label. softplus is asked for.": (
        lambda x: (x - 1) ** 2,
        torch.square,
    ),
    "You took relu. softplus is its smooth form, log(1 + exp(x)).": (lambda x: torch.relu(-x), torch.relu),
    "Your logarithms are to base 2. Nats are asked for.": (
        lambda x: softplus(-x) / math.log(2),
        lambda x: softplus(x) / math.log(2),
    ),
}


def instead_of_softplus(*slots: str) -> Rows:
    """Rows for the slots that hold the cost of "real" and, where there is a second, of "fake"."""
    return {sentence: dict(zip(slots, costs, strict=False)) for sentence, costs in WAYS.items()}


def of_the_batch() -> Rows:
    """Rows for `give`."""
    return {
        "You return the mean over the batch, one number. A loss for each image is asked for.": dict(give=torch.mean),
        "You return the sum over the batch, one number. A loss for each image is asked for.": dict(give=torch.sum),
    }
