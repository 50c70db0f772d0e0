"""Exercise 2.9: min-SNR weights of three errors."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double


def _min_snr_weights(snr, gamma):
    """Exercise 2.9: one weighting of the steps, for errors in eps, in x_0 and in v.  Hang et al. 2023, sec. 3.4.

    snr: alpha_bar / (1 - alpha_bar), finite, at least 0, of any shape.  gamma: float above 0.
    Returns (eps, x_0, v), each of snr's shape: min(1, gamma / snr), min(snr, gamma) and min(snr, gamma) / (snr + 1).
    At snr = 0 they are 1, 0 and 0.  Not three losses: one loss, for a network that predicts any of the three.
    """
    ratios = snr.flatten().tolist()
    eps = [min(1.0, gamma / ratio) if ratio else 1.0 for ratio in ratios]
    x_0 = [min(ratio, gamma) for ratio in ratios]
    v = [min(ratio, gamma) / (ratio + 1) for ratio in ratios]
    return tuple(double(weights).reshape(snr.shape) for weights in (eps, x_0, v))


def _three(
    snr: Tensor,
    gamma: float,
    *,
    cap=lambda gamma: gamma,
    least=lambda snr, gamma: snr.clamp(max=gamma),
    eps=lambda snr, least, gamma: torch.where(snr > 0, least / snr, 1.0),
    x_0=lambda snr, least, gamma: least,
    v=lambda snr, least, gamma: least / (snr + 1),
) -> tuple[Tensor, Tensor, Tensor]:
    gamma = cap(gamma)
    smaller = least(snr, gamma)
    return eps(snr, smaller, gamma), x_0(snr, smaller, gamma), v(snr, smaller, gamma)


def _plain(snr, least, gamma):
    return least / snr


def _tables(snr: Tensor, gamma: float) -> dict[str, Tensor]:
    return {
        "snr": snr,
        "snr + 1": snr + 1,
        "min(snr, gamma)": snr.clamp(max=gamma),
        "max(snr, gamma)": snr.clamp(min=gamma),
        "gamma": torch.full_like(snr, gamma),
        "snr + gamma": snr + gamma,
        "gamma + 1": torch.full_like(snr, gamma + 1),
        "min(snr, gamma) + 1": snr.clamp(max=gamma) + 1,
    }


def _places(snr, gamma):
    yield "where snr = 0", snr == 0
    yield "where snr is above gamma", snr > gamma
    yield "where snr is below gamma", snr < gamma
    yield "where snr is above 1", snr > 1


def _both_least(function):
    """Another `least`, divided by snr for eps as it comes."""
    return {"least": function, "eps": _plain}


def _unbracketed(effect, at_0):
    """A row of the table: w / snr + 1 for v, with this quotient at snr = 0."""
    sentence = f"Python divides before it adds<: w / snr + 1 {effect}>. Put brackets around snr + 1."
    return {sentence: dict(v=lambda snr, least, gamma: torch.where(snr > 0, least / snr, at_0) + 1)}


def _uncapped(evidence) -> str:
    """gamma / snr for eps, whatever was done where snr is 0."""
    if evidence.output != "eps":
        return ""
    for case, got in zip(evidence.check.cases, evidence.got, strict=True):
        snr, gamma = case.args
        if (
            got is None
            or got.shape != snr.shape
            or not torch.allclose((got * snr)[snr > 0].double(), snr.new_tensor(gamma))
        ):
            return ""
    return "You did not cap the weight of eps at 1: where snr is below gamma yours is gamma / snr, above 1."


min_snr_weights = Check(
    number="2.9",
    name="min_snr_weights",
    specification=_min_snr_weights,
    form=_three,
    tables=_tables,
    places=_places,
    clues=(_uncapped,),
    cases=tuple(
        Case(f"snr = {snr}, gamma = {gamma}", (double(snr), gamma))
        for snr, gamma in [
            ([0.125, 1.0, 4.0, 5.0, 8.0, 4096.0], 5.0),
            ([0.0, 0.5, 16.0], 5.0),
            ([[8.0, 0.25], [1.0, 2.0]], 1.5),
            ([3.0], 5.0),
            ([0.375, 0.75, 3.0, 0.0], 0.5),
        ]
    ),
    among="snr = 0 and three gammas",
    outputs=("eps", "x_0", "v"),
    misconceptions={
        "You return min(snr, gamma) three times: that is the weight of the error in x_0. The squared error is snr "
        "times as large in eps and snr + 1 times in v: divide by that.": dict(give=lambda eps, x_0, v: (x_0, x_0, x_0)),
        "You return min(1, gamma / snr) three times: that is the weight of the error in eps. On x_0 or v it is another "
        "loss, under which the steps with little noise count for far less.": dict(
            give=lambda eps, x_0, v: (eps, eps, eps)
        ),
        "You took the larger of snr and gamma<. Steps with little noise keep their huge "
        "weight>: take the smaller.": _both_least(lambda snr, gamma: snr.clamp(min=gamma)),
        "You clamped snr from below, at 1, as Salimans and Ho do. Min-SNR clamps it from above, at gamma.": _both_least(
            lambda snr, gamma: snr.clamp(min=1)
        ),
        "You capped snr at 1 where gamma is the cap.": dict(least=lambda snr, gamma: snr.clamp(max=1)),
        "You did not cap snr: gamma is the largest weight that x_0's error may get.": dict(
            least=lambda snr, gamma: snr
        ),
        "You took the soft minimum, snr gamma / (snr + gamma). min(snr, gamma) has a corner at gamma.": dict(
            least=lambda snr, gamma: snr * gamma / (snr + gamma), eps=lambda snr, least, gamma: gamma / (snr + gamma)
        ),
        "At snr = 0 you divide by 0 in the weight of eps<: it is 0 / 0, and one NaN ends the training>. min(1, gamma / "
        "snr) is 1 there.": dict(eps=_plain),
        "At snr = 0 your weight of eps is 0, and min(1, gamma / snr) is 1 there. 0 / 0 became 0, or a small number was "
        "added below the line.": dict(eps=lambda snr, least, gamma: torch.where(snr > 0, least / snr, 0.0)),
        "You did not cap the weight of eps at 1<: gamma / snr grows without limit where the noise is strong>.": dict(
            eps=lambda snr, least, gamma: gamma / snr
        ),
        "You took the larger of 1 and gamma / snr for eps. Its weight never passes 1: take the smaller.": dict(
            eps=lambda snr, least, gamma: (gamma / snr).clamp(min=1)
        ),
        "You divided the weight of v by snr<, and at snr = 0 that is 0 / 0>. The squared error in v is snr + 1 times "
        "the one in x_0: divide by snr + 1, which is never 0.": dict(v=_plain),
        "You divided the weight of v by snr. The squared error in v is snr + 1 times the one in x_0.": dict(
            v=lambda snr, least, gamma: torch.where(snr > 0, least / snr, 1.0)
        ),
        **_unbracketed("is NaN at snr = 0", math.nan),
        **_unbracketed("is the weight of eps plus 1", 1.0),
        **_unbracketed("is the weight of eps plus 1, and 1 at snr = 0 as you made it", 0.0),
        **_unbracketed("is the weight of eps plus 1, and 0 at snr = 0 as you made it", -1.0),
        "Your weight of v is that of eps, divided by snr, plus 1. It is that of x_0, and Python divides before it "
        "adds: put brackets around snr + 1.": dict(v=lambda snr, least, gamma: (gamma / snr).clamp(max=1) / snr + 1),
        "You divided the weight of eps by snr + 1 for v. v's is that of x_0, divided by snr + 1.": dict(
            v=lambda snr, least, gamma: torch.where(snr > 0, least / snr, 1.0) / (snr + 1)
        ),
        "Your weight of v is that of x_0. The squared error in v is snr + 1 times as large: divide by snr + 1.": dict(
            v=lambda snr, least, gamma: least
        ),
        "Your weight of x_0 is snr itself: gamma is missing, the largest weight that it may get.": dict(
            x_0=lambda snr, least, gamma: snr
        ),
        "The weights of eps and x_0 are swapped. x_0's is cut off at gamma; eps's never passes 1.": dict(
            give=lambda eps, x_0, v: (x_0, eps, v)
        ),
        "You wrote 5 into the formula. That is the paper's choice; here it is the argument gamma.": dict(
            cap=lambda gamma: 5.0
        ),
        "Python's min compares tensors as a whole. snr.clamp(max=gamma) compares number by number.": _both_least(min),
        "Your numbers are those of alpha_bar, snr / (1 + snr), instead of snr.": dict(
            instead=lambda snr, gamma: _three(snr / (1 + snr), gamma)
        ),
        "Those are the weights of P2, 1 / (1 + snr) for eps. Min-SNR's is min(1, gamma / snr): use gamma.": dict(
            instead=lambda snr, gamma: (1 / (1 + snr), snr / (1 + snr), snr / (1 + snr) ** 2)
        ),
        "You took the smallest number of the whole tensor. Each entry is compared with gamma on its own.": dict(
            least=lambda snr, gamma: torch.full_like(snr, min(snr.min().item(), gamma))
        ),
        "You multiplied the weight of v by snr + 1. The squared error in v is snr + 1 times as large: divide.": dict(
            v=lambda snr, least, gamma: least * (snr + 1)
        ),
        "Your weight of eps is 0 where snr is not above gamma. min(1, gamma / snr) is 1 there.": dict(
            eps=lambda snr, least, gamma: torch.where(snr > gamma, gamma / snr, 0.0)
        ),
    },
)
