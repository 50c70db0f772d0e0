"""Exercise 1.8: the posterior q(x_{t-1} | x_t, x_0)."""

import math
from functools import partial

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import BETAS, IMAGES, LONG, Step, at, double, fractions, products, tables_of_betas
from ddpm_lesson.checks._rows import COLUMNS
from ddpm_lesson.checks._values import same


def _posterior(x_0, x_t, t, betas):
    """Exercise 1.8: mean and variance of q(x_{t-1} | x_t, x_0).  Ho et al. 2020, Eq. 6-7.

    x_0, x_t: (B, *D).  t: (B,) int64 in 0..T-1; t = 0 is the papers' t = 1.  betas: (T,).
    Returns mean (B, *D) and var (B, 1, ..., 1).  At t = 0 the mean is x_0 and the variance is 0.
    Not p(x_{t-1} | x_t): that puts the network's estimate in x_0's place.
    """
    means, variances, a_bar = [], [], products(betas.tolist())
    for image_0, image_t, step in zip(x_0, x_t, t.tolist(), strict=True):
        pixels = list(zip(image_0.flatten().tolist(), image_t.flatten().tolist(), strict=True))
        if step == 0:  # x_{t-1} is x_0 itself
            means.append([pixel_0 for pixel_0, _ in pixels])
            variances.append(0.0)
            continue
        beta, a_bar_prev = betas[step].item(), a_bar[step - 1]
        jump, likelihood = 1 / (1 - a_bar_prev), (1 - beta) / beta  # what each Gaussian knows of x_{t-1}: precisions
        variance = 1 / (jump + likelihood)
        by_jump, by_likelihood = jump * math.sqrt(a_bar_prev), math.sqrt(1 - beta) / beta
        means.append([variance * (by_jump * pixel_0 + by_likelihood * pixel_t) for pixel_0, pixel_t in pixels])
        variances.append(variance)
    return double(means).reshape(x_0.shape), double(variances).reshape(-1, *[1] * (x_0.ndim - 1))


def _at_0(c: Step) -> Tensor:
    return c.a_bar_prev.sqrt() * c.beta / (1 - c.a_bar)


def _at_t(c: Step) -> Tensor:
    return c.alpha.sqrt() * (1 - c.a_bar_prev) / (1 - c.a_bar)


def _var(c: Step) -> Tensor:
    return c.beta * (1 - c.a_bar_prev) / (1 - c.a_bar)


def _late(coefficient):
    """The coefficient with alpha_bar instead of alpha_bar_prev."""
    return lambda c: coefficient(c._replace(a_bar_prev=c.a_bar))


def _shifted_back(end, first, alphas_bar):
    return torch.cat([alphas_bar[1:], end(first, alphas_bar[-1:])])


def _undivided(coefficient):
    return lambda c: (1 - c.a_bar) * coefficient(c)


def _by_tables(
    x_0: Tensor,
    x_t: Tensor,
    t: Tensor,
    betas: Tensor,
    *,
    steps=lambda t: t,
    at_0=_at_0,
    at_t=_at_t,
    var=_var,
    bar=lambda betas: torch.cumprod(1 - betas, 0),
    prev=lambda first, alphas_bar: torch.cat([first, alphas_bar[:-1]]),
    before_first=torch.ones_like,  # of alphas_bar, whose first entry is then the alpha_bar before index 0
    look_up=at,
    var_shape=lambda var, mean: var,
) -> tuple[Tensor, Tensor]:
    alphas_bar = bar(betas)
    alphas_bar_prev = prev(before_first(alphas_bar)[:1], alphas_bar)
    c = Step(*(look_up(table, steps(t), x_0) for table in (betas, 1 - betas, alphas_bar, alphas_bar_prev)))
    mean = at_0(c) * x_0 + at_t(c) * x_t
    return mean, var_shape(var(c), mean)


def _clipped(x_0, x_t, t, betas):
    mean, _ = _by_tables(x_0, x_t, t, betas)
    _, var = _by_tables(x_0, x_t, t.clamp(min=min(1, len(betas) - 1)), betas)
    return mean, var


def _summed(evidence) -> str:
    """alpha_bar as 1 minus a sum, seen on a chain whose betas add up to less than 1."""
    x_0, x_t = fractions(10, 2), 2 * fractions(10, 2, start=11)
    args = (x_0, x_t, torch.arange(10), double(BETAS) / 5)
    got = evidence.calls(*args)
    mean, var = _by_tables(*args, bar=lambda betas: 1 - betas.cumsum(0))
    if got is None or not same(got, {"mean": mean, "var": var}[evidence.output]):
        return ""
    return "Your alpha_bar is 1 minus the sum of the betas. It is the product of the alphas, 1 - beta."


posterior = Check(
    number="1.8",
    name="posterior",
    specification=_posterior,
    form=_by_tables,
    images=("x_0", "x_t"),
    batch=("x_0", "x_t", "t"),
    tables=tables_of_betas,
    clues=(_summed,),
    exact_zeros=("var",),
    float64="No .float(), and new tensors with dtype=betas.dtype.",
    beside="betas",
    cases=tuple(
        Case(
            f"x_0 of shape {shape}, t = {t}{remark}",
            (fractions(*shape), 2 * fractions(*shape, start=11), torch.tensor(t), double(betas)),
        )
        for remark, shape, t, betas in [
            *(("", shape, t, BETAS) for shape, t in IMAGES),
            (", T = 1", (2, 5), [0, 0], BETAS[:1]),
            (", beta_T = 0.999", (2, 1, 4, 4), [9, 8], BETAS[:9] + [0.999]),
            (", T = 1000", (3, 2), [999, 300, 500], LONG),
        ]
    ),
    beyond=(
        Case(
            "beta_T = 1",
            (
                fractions(2, 1, 4, 4),
                2 * fractions(2, 1, 4, 4, start=11),
                torch.tensor([9, 8]),
                double(BETAS[:9] + [1.0]),
            ),
        ),
    ),
    among="t = 0, mixed t and T = 1000",
    outputs=("mean", "var"),
    misconceptions={
        "The two coefficients of the mean are swapped<: at t = 0 your mean is x_t and not x_0>. The one with beta and "
        "sqrt(alpha_bar_prev) belongs to x_0.": dict(at_0=_at_t, at_t=_at_0),
        "The square root over alpha_bar_prev is missing. The jump to x_{t-1} multiplies x_0 by sqrt(alpha_bar_prev), "
        "and so does the mean.": dict(at_0=lambda c: c.a_bar_prev * c.beta / (1 - c.a_bar)),
        "The square root over alpha is missing. The step multiplied x_{t-1} by sqrt(alpha), and the mean takes that "
        "factor over to x_t.": dict(at_t=lambda c: c.alpha * (1 - c.a_bar_prev) / (1 - c.a_bar)),
        "The square roots are missing from the mean. x_0 is multiplied by sqrt(alpha_bar_prev) and x_t by sqrt(alpha): "
        "they scale images, and alphas are shares of variance.": dict(
            at_0=lambda c: c.a_bar_prev * c.beta / (1 - c.a_bar),
            at_t=lambda c: c.alpha * (1 - c.a_bar_prev) / (1 - c.a_bar),
        ),
        "The coefficient of x_0 has sqrt(alpha_bar), where sqrt(alpha_bar_prev) belongs. It comes from the jump "
        "q(x_{t-1} | x_0), which ends one step before t.": dict(at_0=_late(_at_0)),
        "The coefficient of x_t has sqrt(alpha_bar), where sqrt(alpha) belongs. It comes from a single step, from "
        "x_{t-1} to x_t, and not from the jump.": dict(
            at_t=lambda c: c.a_bar.sqrt() * (1 - c.a_bar_prev) / (1 - c.a_bar)
        ),
        "The coefficient of x_t has 1 - alpha_bar on top too<, so that it cancels>. On top belongs 1 - alpha_bar_prev, "
        "the variance of x_{t-1} given x_0.": dict(at_t=_late(_at_t)),
        "Your mean has alpha_bar instead of alpha_bar_prev. The jump is q(x_{t-1} | x_0), to one step before t.": dict(
            at_0=_late(_at_0), at_t=_late(_at_t)
        ),
        "You have alpha_bar instead of alpha_bar_prev, in mean and variance. The jump is q(x_{t-1} | x_0), to one step "
        "before t.": dict(at_0=_late(_at_0), at_t=_late(_at_t), var=_late(_var)),
        "At t = 0 your alpha_bar_prev is the last entry of the table: index -1 wraps around. Before the first step "
        "there is no noise: alpha_bar_prev is 1 there, the mean is x_0 and the variance 0.": dict(
            before_first=lambda alphas_bar: alphas_bar[-1:]
        ),
        "At t = 0 your alpha_bar_prev is alphas_bar[0], the value after the first step. Before that step there is no "
        "noise: alpha_bar_prev is 1, the product of no factors.": dict(before_first=torch.clone),
        "At t = 0 your alpha_bar_prev is 0, as if nothing of the image were there before the first step. All of it is: "
        "alpha_bar_prev is 1, the product of no factors.": dict(before_first=torch.zeros_like),
        "You left out the division by 1 - alpha_bar in mean and variance. It is what Bayes' rule divides by<; without "
        "it the mean at t = 0 is not x_0>.": dict(at_0=_undivided(_at_0), at_t=_undivided(_at_t), var=_undivided(_var)),
        "Your variance is beta, that of the forward step<; with alpha_bar for alpha_bar_prev the ratio cancels>. "
        "Knowing x_0 as well narrows it by (1 - alpha_bar_prev) / (1 - alpha_bar), to 0 at t = 0.": dict(
            var=lambda c: c.beta
        ),
        "You return 1 - alpha_bar: that is the variance of x_t given x_0. Asked for is that of x_{t-1}, and x_t is "
        "known as well.": dict(var=lambda c: 1 - c.a_bar),
        "You return 1 - alpha_bar_prev: that is the variance of x_{t-1} given x_0 alone. x_t is known as well.": dict(
            var=lambda c: 1 - c.a_bar_prev
        ),
        "The ratio in your variance is upside down<: infinite at t = 0, and above 1 later>. Knowing x_0 as well can "
        "only narrow beta: the smaller number, 1 - alpha_bar_prev, goes on top.": dict(
            var=lambda c: c.beta * (1 - c.a_bar) / (1 - c.a_bar_prev)
        ),
        "You return the standard deviation. The variance is asked for, its square.": dict(var=lambda c: _var(c).sqrt()),
        "You return the logarithm of the variance<, minus infinity at t = 0>. The variance itself is asked for.": dict(
            var=lambda c: _var(c).log()
        ),
        "You return the logarithm of the variance, which you kept away from 0 first. The variance itself is asked for, "
        "and it is 0 at t = 0.": dict(var=lambda c: _var(c).clamp(min=1e-20).log()),
        "At t = 0 you return the variance of index 1. Code that needs a finite logarithm puts it there, but the "
        "posterior at t = 0 is a point: its variance is 0.": dict(instead=_clipped),
        COLUMNS: dict(look_up=lambda table, t, x: table[t]),
        "Your variance has shape (B,). Whoever multiplies it with images scales their columns: give it the axes that "
        "the coefficients of the mean have.": dict(var_shape=lambda var, mean: var.flatten()),
        "Your variance has the shape of the images. An image's pixels share one number: return (B, 1, ..., 1).": dict(
            var_shape=lambda var, mean: var.expand_as(mean)
        ),
        "You return the variance first. The order is (mean, var).": dict(give=lambda mean, var: (var, mean)),
        **{
            f"Your table for alpha_bar_prev is shifted the wrong way: at t it holds alphas_bar[t + 1], and {words}. It "
            "holds alphas_bar[t - 1], and 1 at t = 0.": dict(prev=partial(_shifted_back, end))
            for words, end in {
                "0 at the end": lambda first, last: torch.zeros_like(last),
                "its last entry twice": lambda first, last: last,
                "1 at the end": lambda first, last: first,
            }.items()
        },
        "You took the root of 1 - alpha_bar below the line of the mean. Bayes' rule divides "
        "by the variance itself.": dict(
            at_0=lambda c: (1 - c.a_bar).sqrt() * _at_0(c), at_t=lambda c: (1 - c.a_bar).sqrt() * _at_t(c)
        ),
    },
)
