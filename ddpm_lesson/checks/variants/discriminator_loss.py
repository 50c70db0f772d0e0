"""Exercise 5.13: what the discriminator of a GAN minimises."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double
from ddpm_lesson.checks.variants._logit_rows import far, instead_of_softplus, logits, nats, of_the_batch, places


def _discriminator_loss(real_logits, fake_logits):
    """Exercise 5.13: cross-entropy of "real" and "fake".  Goodfellow et al. 2014, Eq. 1; Xiao et al. 2022, Section 3.2.

    real_logits, fake_logits: (B,), what D says of real images and of G's; sigmoid of it is the probability of "real".
    Returns (B,), in nats: -log sigmoid(real) - log(1 - sigmoid(fake)) = softplus(-real) + softplus(fake), finite for
    any logit.  Gradients flow to both.
    Not the generator's loss with its sign changed: G minimises softplus(-fake).
    """
    pairs = zip(real_logits.tolist(), fake_logits.tolist(), strict=True)
    return double([nats(-real) + nats(fake) for real, fake in pairs])


def _called_real(logits: Tensor) -> Tensor:
    return softplus(-logits)


def _summed(
    real_logits: Tensor,
    fake_logits: Tensor,
    *,
    as_real=_called_real,
    as_fake=softplus,
    join=torch.add,
) -> Tensor:
    return join(as_real(real_logits.double()), as_fake(fake_logits.double()))


def _terms(real_logits, fake_logits):
    return {
        "softplus(-real_logits)": softplus(-real_logits.double()),
        "softplus(fake_logits)": softplus(fake_logits.double()),
        "softplus(real_logits)": softplus(real_logits.double()),
        "softplus(-fake_logits)": softplus(-fake_logits.double()),
    }


discriminator_loss = Check(
    number="5.13",
    name="discriminator_loss",
    specification=_discriminator_loss,
    form=_summed,
    batch=("real_logits", "fake_logits"),
    gradients=("real_logits", "fake_logits"),
    terms=_terms,
    places=places,
    cases=(
        *(Case(f"{n} logits of each kind", (logits(n, 1) + 0.25, logits(n, 11) - 0.5)) for n in (4, 7, 1)),
        Case("logits of 200 and -200", (far(1, -1, 1, -1), far(-1, 1, 1, -1))),
    ),
    among="B = 1 and logits of 200",
    cuts={
        "You detached fake_logits. D learns from fakes, too: what is detached is G's image, before D sees it.": dict(
            as_fake=lambda logits: softplus(logits).detach()
        ),
        "You detached real_logits. D learns from both.": dict(as_real=lambda logits: softplus(-logits).detach()),
        "No gradient flows through your result: you detached it, or ran under no_grad.": dict(give=torch.detach),
    },
    misconceptions={
        "Real and fake are exchanged: your D learns to call images of the data fake. softplus(-real_logits) + "
        "softplus(fake_logits).": dict(as_real=softplus, as_fake=_called_real),
        "The sign of real_logits is wrong: D is to raise it. softplus(-real_logits).": dict(as_real=softplus),
        "The sign of fake_logits is wrong: D is to lower it. softplus(fake_logits); -fake_logits belongs to G's "
        "loss.": dict(as_fake=_called_real),
        "You return the half of the real images alone. Add softplus(fake_logits)<, or D calls everything real>.": dict(
            join=lambda real, fake: real
        ),
        "You return the half of the fakes alone. Add softplus(-real_logits)<, or D calls everything fake>.": dict(
            join=lambda real, fake: fake
        ),
        "You took the mean of the two halves. They are added: at D's 1/2 for everything the loss is 2 log 2.": dict(
            join=lambda real, fake: (real + fake) / 2
        ),
        "You subtracted one half from the other. Both are to fall: add them.": dict(join=torch.sub),
        "You return 2 B numbers, real images first. Add the two halves: one number for each pair.": dict(
            join=lambda real, fake: torch.cat([real, fake])
        ),
        "You joined the logits first, as a relativistic GAN does: softplus(fake - real). Each has a softplus of its "
        "own.": dict(as_real=torch.neg, as_fake=lambda logits: logits, join=lambda real, fake: softplus(real + fake)),
        **instead_of_softplus("as_real", "as_fake"),
        **of_the_batch(),
    },
)
