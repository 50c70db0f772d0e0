"""Exercise 1.1: the linear schedule."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double
from ddpm_lesson.checks._rows import in_float32


def _linear_betas(beta_1, beta_T, T):
    """Exercise 1.1: T betas on a straight line from beta_1 to beta_T.  Ho et al. 2020, sec. 4.

    beta_1, beta_T: floats.  T: int of at least 1; T = 1 gives beta_1.  Returns (T,) float64.
    Index 0 holds the papers' beta_1: in code t starts at 0.
    """
    return double([beta_1 + (beta_T - beta_1) * i / max(T - 1, 1) for i in range(T)])


def _line(
    beta_1: float,
    beta_T: float,
    T: int,
    *,
    ends=lambda beta_1, beta_T, T: (beta_1, beta_T),
    shares=lambda T: double(list(range(T))) / max(T - 1, 1),  # of the way from the first to the last
    into=lambda beta: beta,  # what is evenly spaced, as a function of beta
    back=lambda y: y,
    dtype=lambda betas: betas,
) -> Tensor:
    first, last = (into(end) for end in ends(beta_1, beta_T, T))
    return dtype(back(first + (last - first) * shares(T)))


def _evenly_spaced(evidence) -> str:
    """Betas that are evenly spaced, but from or to somewhere else."""
    for case, got in zip(evidence.check.cases, evidence.got, strict=True):
        steps = got.diff() if got is not None and got.ndim == 1 else torch.zeros(0)
        if len(steps) < 2 or not torch.allclose(steps, steps[:1], rtol=1e-4, atol=1e-8):
            return ""
        ends = torch.tensor(case.args[:2]).double()
        if len(got) == case.args[2] and torch.allclose(got[[0, -1]].double(), ends, rtol=1e-3):
            return ""
        found = f"{got[0].item():.4g} to {got[-1].item():.4g}"
        return f"Your betas are evenly spaced, but for {case.words} they are {len(got)} numbers from {found}."
    return ""


def _case(beta_1, beta_T, T):
    return Case(f"beta_1 = {beta_1}, beta_T = {beta_T}, T = {T}", (beta_1, beta_T, T))


linear_betas = Check(
    number="1.1",
    name="linear_betas",
    specification=_linear_betas,
    form=_line,
    clues=(_evenly_spaced,),
    cases=(_case(0.1, 0.3, 5), _case(0.05, 0.25, 2), _case(0.0001, 0.02, 1000), _case(0.01, 0.7, 7)),
    beyond=(_case(0.0001, 0.02, 1),),
    among="T = 2 and T = 1000",
    exact_dtype=True,
    misconceptions={
        "Your last beta stops one step short of beta_T. T points have T - 1 gaps between them: divide by T - 1.": dict(
            shares=lambda T: double(list(range(T))) / T
        ),
        "Your first beta lies one step past beta_1. Index 0 holds beta_1 itself: the papers' t = 1 is 0 in code.": dict(
            shares=lambda T: double(list(range(1, T + 1))) / T
        ),
        "You return T + 1 numbers, a zero first, so that beta_1 has index 1. In code t runs from 0 to T - 1: every "
        "table here has T entries and starts with beta_1.": dict(
            give=lambda betas: torch.cat([torch.zeros_like(betas[:1]), betas])
        ),
        "You wrote 0.0001 and 0.02 into the formula. The ends are the arguments beta_1 and beta_T.": dict(
            ends=lambda beta_1, beta_T, T: (0.0001, 0.02)
        ),
        "You multiplied both ends by 1000 / T, as published code does for short chains. Here the ends stay as they are "
        "given.": dict(ends=lambda beta_1, beta_T, T: (1000 / T * beta_1, 1000 / T * beta_T)),
        **in_float32("The product of 1000 factors near 1 piles up rounding errors"),
        "You put the square roots of beta on a line: that is the quadratic schedule. Here beta itself is linear.": dict(
            into=math.sqrt, back=torch.square
        ),
        "You multiply by a constant factor at each step: that is a geometric schedule. Here each step adds the same "
        "amount.": dict(into=math.log, back=torch.exp),
        "You return 1 - beta: those are the alphas. beta is the variance that a step adds and starts small.": dict(
            give=lambda betas: 1 - betas
        ),
        "You return alphas_bar, the running product of 1 - beta. The betas themselves are asked for.": dict(
            give=lambda betas: (1 - betas).cumprod(0)
        ),
        "You used the sigmoid schedule of published code. The linear one is asked for: evenly spaced betas.": dict(
            instead=lambda beta_1, beta_T, T: (
                beta_1 + (beta_T - beta_1) * torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid()
            )
        ),
        "Your gap is that of a chain of 1000 steps, of which you return the first T. The gap is (beta_T - beta_1) / (T "
        "- 1).": dict(shares=lambda T: double(list(range(T))) / 999),
        "You counted from 1<: your first beta is one gap past beta_1, and your last is one gap past beta_T>. Index 0 "
        "holds beta_1.": dict(shares=lambda T: double(list(range(1, T + 1))) / max(T - 1, 1)),
    },
)
