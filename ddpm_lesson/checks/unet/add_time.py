"""Exercise 3.3: adding the time in a residual block."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks.unet._rows import placed


def _add_time(h, temb, weight, bias):
    """Exercise 3.3: the time in a residual block, swish(temb) through a linear layer.  Ho et al. 2020, App. B.

    h: (B, C, H, W).  temb: (B, tdim).  weight: (C, tdim).  bias: (C,).  Returns (B, C, H, W): every pixel of a channel
    gets the same number, which depends on the image's own t.
    Not a positional encoding: it is the same at every place.
    """
    out = h.double()
    for b, row in enumerate(temb.tolist()):
        swish = [value / (1 + math.exp(-value)) for value in row]
        for c, weights in enumerate(weight.tolist()):
            out[b, c] += sum(w * s for w, s in zip(weights, swish, strict=True)) + bias[c].item()
    return out


def _same(x: Tensor) -> Tensor:
    return x


def _projected(
    h: Tensor,
    temb: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    before=F.silu,
    product=lambda temb, weight: temb @ weight.T,
    shift=lambda time, bias: time + bias,
    after=_same,
    shape=lambda time: time[:, :, None, None],
    join=torch.add,
) -> Tensor:
    return join(h, shape(after(shift(product(before(temb), weight), bias))))


ACTIVATIONS = {
    "ReLU": F.relu,
    "GELU": F.gelu,
    "a sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "ELU": F.elu,
    "softplus": F.softplus,
    "a leaky ReLU": F.leaky_relu,
    "Mish": F.mish,
    "SELU": F.selu,
    "GELU's tanh form": lambda x: F.gelu(x, approximate="tanh"),
    "hard Swish": F.hardswish,
}


def _activation(evidence) -> str:
    """What is added for one number of temb, weight 1 and bias 0; told if the rest is right."""
    temb = torch.tensor([[-2.0], [-0.5], [1.0], [3.0]])
    one, zero, h = torch.ones(1, 1), torch.zeros(1), torch.zeros(4, 1, 2, 3)
    added, again = evidence.calls(h, temb, one, zero), evidence.calls(h, temb, 2 * one, zero + 3)
    alone, beside = evidence.calls(h, 0 * temb, 0 * one, zero), evidence.calls(h + 1, 0 * temb, 0 * one, zero)
    if any(out is None or out.shape != h.shape for out in (added, again, alone, beside)):
        return ""
    if not torch.allclose(beside - alone, torch.ones_like(beside), atol=1e-5):
        number = (beside - alone)[0, 0, 0, 0].item()
        return f"h is not added as it is: 1 becomes {number:.4g}, without any time."
    if not torch.allclose(again, 2 * added + 3, atol=1e-4) or not torch.allclose(
        added, added[:, :, :1, :1].expand_as(h)
    ):
        return ""
    got, want = added[:, 0, 0, 0], F.silu(temb[:, 0])
    if torch.allclose(got.double(), want.double(), atol=1e-5):
        return ""
    numbers = ", ".join(f"{number:.3g}" for number in got.tolist())
    return f"The linear layer is right, but your activation is no Swish: it makes {numbers} of -2, -0.5, 1, 3."


add_time = Check(
    number="3.3",
    name="add_time",
    specification=_add_time,
    form=_projected,
    gradients=("h", "temb", "weight", "bias"),
    batch=("h", "temb"),
    clues=(_activation,),
    cases=tuple(
        Case(
            f"h of shape {shape}, temb of shape {(shape[0], tdim)}",
            (
                fractions(*shape),
                2 * fractions(shape[0], tdim, start=11),
                fractions(shape[1], tdim, start=23),
                fractions(shape[1], start=41),
            ),
        )
        for shape, tdim in [((2, 3, 4, 5), 6), ((2, 4, 3, 4), 8), ((3, 3, 2, 5), 3), ((4,) * 4, 4), ((1, 2, 3, 2), 5)]
    ),
    among="a batch and channels as large as the width",
    misconceptions={
        "You forgot Swish. temb comes out of a linear layer, and two of them in a row are no more than one.": dict(
            before=_same
        ),
        "You applied Swish after the linear layer. It comes before<: after it, nothing below "
        "-0.28 could be added>.": dict(before=_same, after=F.silu),
        "You applied Swish twice, before and after the linear layer. It comes before only.": dict(
            before=F.silu, after=F.silu
        ),
        **{
            f"You took {name}. Swish is asked for, temb * sigmoid(temb).": dict(before=function)
            for name, function in ACTIVATIONS.items()
        },
        **{
            f"You took {name}, and after the linear layer. Swish comes before it.": dict(before=_same, after=f)
            for name, f in ACTIVATIONS.items()
        },
        "You forgot the bias of the linear layer, one number for each channel.": dict(shift=lambda time, bias: time),
        "You multiplied by weight as it is. It is (C, tdim), one row for each channel: swish(temb) @ weight.T.": dict(
            product=lambda temb, weight: temb @ weight
        ),
        **placed("shape"),
        "You multiplied. The time is added here.": dict(join=torch.mul),
        "You subtracted the time. It is added.": dict(join=torch.sub),
        "You scaled h by 1 + the time, as AdaGN does. Here the time is added.": dict(
            join=lambda h, time: h * (1 + time)
        ),
        "You return the time alone. It is added to h.": dict(join=lambda h, time: time.expand_as(h)),
        "You return the time alone, (B, C, 1, 1). It is added to h.": dict(join=lambda h, time: time),
        "You applied Swish to the sum. It belongs to temb alone.": dict(give=F.silu),
        "You applied Swish to the sum and not to temb. It belongs to temb alone.": dict(before=_same, give=F.silu),
        "You scaled h by 1 + the time and added the time too, as FiLM does. It is added only.": dict(
            join=lambda h, time: h * (1 + time) + time
        ),
        "You averaged the time over the channels: one number for each image. Every channel gets its own.": dict(
            after=lambda time: time.mean(1, keepdim=True)
        ),
        "You added the time to the first pixel only. Every pixel of a channel gets the same number.": dict(
            join=lambda h, time: h + time * (torch.arange(h[0, 0].numel()).reshape(h.shape[2:]) == 0)
        ),
        "You divided by sqrt(tdim), as attention does with its channels. A linear layer has no such factor.": dict(
            product=lambda temb, weight: temb @ weight.T / math.sqrt(temb.shape[1])
        ),
        "You took temb * sigmoid(-temb). Swish is temb * sigmoid(temb): a sign in its exponential.": dict(
            before=lambda x: x * torch.sigmoid(-x)
        ),
    },
)
