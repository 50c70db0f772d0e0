"""Exercise 5.14: what the generator of a GAN minimises."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double
from ddpm_lesson.checks.variants._logit_rows import far, instead_of_softplus, logits, nats, of_the_batch, places


def _generator_loss(fake_logits):
    """Exercise 5.14: the non-saturating loss of the generator.  Goodfellow et al. 2014, Section 3.

    fake_logits: (B,), what D says of G's images; sigmoid of it is the probability of "real".
    Returns (B,), in nats: -log sigmoid(fake) = softplus(-fake), finite for any logit.  Gradients flow back to G.
    Not log(1 - sigmoid(fake)) = -softplus(fake), the other side of D's loss: its gradient vanishes where D is sure
    that an image is fake, which is where G has most to learn.
    """
    return double([nats(-fake) for fake in fake_logits.tolist()])


def _called_real(fake_logits: Tensor) -> Tensor:
    return softplus(-fake_logits)


def _cost(fake_logits: Tensor, *, as_real=_called_real) -> Tensor:
    return as_real(fake_logits.double())


generator_loss = Check(
    number="5.14",
    name="generator_loss",
    specification=_generator_loss,
    form=_cost,
    batch=("fake_logits",),
    gradients=("fake_logits",),
    places=places,
    cases=(
        *(Case(f"{n} logits", (logits(n, start) - 0.5,)) for n, start in ((4, 1), (7, 11), (1, 3))),
        Case("logits of 200 and -200", (far(-1, 1),)),
    ),
    among="B = 1 and logits of 200",
    cuts={
        "No gradient flows through your result: you detached it, or ran under no_grad. In G's turn nothing is "
        "detached: the gradient comes to G through D.": dict(give=torch.detach),
    },
    misconceptions={
        "That is log(1 - sigmoid(fake)), the saturating loss: where D is sure that an image is fake, it has no "
        "gradient. Take -log sigmoid(fake), softplus(-fake_logits).": dict(as_real=lambda logits: -softplus(logits)),
        "That is log(1 - sigmoid(fake)), the saturating loss, of a probability that was rounded to 1<, where it is "
        "minus infinity>. Take -log sigmoid(fake), softplus(-fake_logits).": dict(
            as_real=lambda logits: (1 - torch.sigmoid(logits.float())).log()
        ),
        "That is the half of D's loss that G works against. G is to raise fake_logits: softplus(-fake_logits).": dict(
            as_real=softplus
        ),
        "You return the probability that D gives to the image. G is to raise it, and a loss falls: softplus of "
        "-fake_logits.": dict(as_real=torch.sigmoid),
        "You return the logit, with its own sign. G is to raise it, and a loss falls: softplus(-fake_logits).": dict(
            as_real=lambda logits: logits
        ),
        "You halved the loss. It is softplus(-fake_logits).": dict(as_real=lambda logits: softplus(-logits) / 2),
        "You doubled the loss. It is softplus(-fake_logits).": dict(as_real=lambda logits: 2 * softplus(-logits)),
        "You multiplied by the probability of what you take the logarithm of. The expectation is over G's images: "
        "softplus(-fake_logits) alone.": dict(as_real=lambda logits: torch.sigmoid(logits) * softplus(-logits)),
        **instead_of_softplus("as_real"),
        **of_the_batch(),
    },
)
