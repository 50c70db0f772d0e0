"""Exercise 2.5: what each step's error weighs in the bound."""

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import BETAS, Step, before, double, products, tables_of_betas


def _vlb_weight(betas, var):
    """Exercise 2.5: what each step's squared error in eps weighs in the bound.  Ho et al. 2020, Eq. 12.

    betas: (T,), below 1.  var: (T,), above 0: the variance of p(x_{t-1} | x_t).  Returns (T,), nats per squared error.
    Not the weights of L_simple: those are 1.
    """
    rows = zip(betas.tolist(), products(betas.tolist()), var.tolist(), strict=True)
    return double([beta**2 / (2 * v * (1 - beta) * (1 - a_bar)) for beta, a_bar, v in rows])


def _quotient(
    betas: Tensor,
    var: Tensor,
    *,
    bar=lambda alphas: torch.cumprod(alphas, 0),
    above=lambda c: c.beta**2,
    two=2.0,
    variance=lambda c, var: var,
    step=lambda c: c.alpha,
    noise=lambda c: 1 - c.a_bar,
) -> Tensor:
    alphas_bar = bar(1 - betas)
    c = Step(betas, 1 - betas, alphas_bar, before(alphas_bar))
    return above(c) / (two * variance(c, var) * step(c) * noise(c))


def _tables(betas: Tensor, var: Tensor) -> dict[str, Tensor]:
    return {"var": var} | tables_of_betas(betas)


def _half_the_drop(alphas_bar):
    snr = alphas_bar / (1 - alphas_bar)
    return (torch.cat([snr[:1], snr[:-1]]) - snr) / 2


vlb_weight = Check(
    number="2.5",
    name="vlb_weight",
    specification=_vlb_weight,
    form=_quotient,
    tables=_tables,
    cases=tuple(
        Case(f"T = {len(betas)}, {words}", (double(betas), double(var)))
        for words, betas, var in [
            ("var = betas", BETAS, BETAS),
            ("var = betas / 4", BETAS, [beta / 4 for beta in BETAS]),
            ("betas = 0.5, 0.25, 0.125, var = 0.25, 0.5, 2", [0.5, 0.25, 0.125], [0.25, 0.5, 2.0]),
            ("betas = 0.25, var = 0.125", [0.25], [0.125]),
            ("var from 0.3 to 1.3", BETAS, [0.3 + (7 * i % 10) / 10 for i in range(10)]),
        ]
    ),
    among="several variances and T = 1",
    misconceptions={
        "You did not square beta. The bound holds the squared distance of the means, and beta is a factor of it.": dict(
            above=lambda c: c.beta
        ),
        "You forgot the 2. The KL of two Gaussians divides the squared distance of the means by 2 var.": dict(two=1.0),
        "You have alpha_bar instead of alpha<. It goes to 0, and the noisiest steps would weigh most of all>.": dict(
            step=lambda c: c.a_bar
        ),
        "alpha is missing below the line. The mean divides by its root, and the weight by its square.": dict(
            step=lambda c: torch.ones_like(c.alpha)
        ),
        "You kept the root over alpha. In the mean it is a root; the weight is its square.": dict(
            step=lambda c: c.alpha.sqrt()
        ),
        "You have 1 - alpha where 1 - alpha_bar belongs, all the noise in x_t<: late steps "
        "come out far too heavy>.": dict(noise=lambda c: 1 - c.alpha),
        "You have alpha_bar where 1 - alpha_bar belongs, the noise in x_t.": dict(noise=lambda c: c.a_bar),
        "You kept the root over 1 - alpha_bar. In the mean it is a root; the weight is its square.": dict(
            noise=lambda c: (1 - c.a_bar).sqrt()
        ),
        "You divided by the standard deviation of p. The KL divides by its variance, which "
        "is var itself: no root.": dict(variance=lambda c, var: var.sqrt()),
        "You squared var. The paper's sigma^2 is the variance, and var is that already.": dict(
            variance=lambda c, var: var**2
        ),
        "You put beta where var belongs<, and one beta cancelled>. The variance of p is a "
        "choice, and an argument.": dict(variance=lambda c, var: c.beta),
        "You put the posterior's variance where var belongs. The variance of p is a choice, and an argument.": dict(
            variance=lambda c, var: c.beta * (1 - c.a_bar_prev) / (1 - c.a_bar)
        ),
        "Python works from left to right: in beta**2 / 2 * var * ... only the 2 is below the line. Put brackets around "
        "everything below it.": dict(
            instead=lambda betas, var: betas**2 / 2 * var * (1 - betas) * (1 - torch.cumprod(1 - betas, 0))
        ),
        "Python works from left to right: in beta**2 / (2 * var) * ... the rest stands above the line. Put brackets "
        "around everything below it.": dict(
            instead=lambda betas, var: betas**2 / (2 * var) * (1 - betas) * (1 - torch.cumprod(1 - betas, 0))
        ),
        "Python works from left to right: your last factor, 1 - alpha_bar, stands above the line. Put brackets around "
        "everything below it.": dict(noise=lambda c: 1 / (1 - c.a_bar)),
        "You return the weight of the squared error in x_0, coef1^2 / (2 var). The squared error in eps is snr times "
        "as large: its weight is yours divided by snr.": dict(
            instead=lambda betas, var: (
                before(torch.cumprod(1 - betas, 0)) * betas**2 / (2 * var * (1 - torch.cumprod(1 - betas, 0)) ** 2)
            )
        ),
        "You took alpha_bar_prev. eps is the noise in x_t, so alpha_bar at t itself<; yours "
        "divides by 0 at t = 0>.": dict(noise=lambda c: 1 - c.a_bar_prev),
        "Your running product is one of betas. alpha_bar is the product of the alphas, 1 - beta.": dict(
            bar=lambda alphas: torch.cumprod(1 - alphas, 0)
        ),
        "You return half the drop of the SNR, the weight of the error of x_0, and 0 at t = 0. Asked for is the weight "
        "of the error in eps, with the variance var.": dict(
            instead=lambda betas, var: _half_the_drop(torch.cumprod(1 - betas, 0))
        ),
        "You squared the whole fraction. Only beta is squared: put the brackets around it alone.": dict(
            instead=lambda betas, var: (betas / (2 * var * (1 - betas) * (1 - torch.cumprod(1 - betas, 0)))) ** 2
        ),
    },
)
