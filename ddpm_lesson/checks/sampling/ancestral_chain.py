"""Exercise 4.2: ancestral sampling, from noise to an image one drawn step after another."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import BETAS, before, double, fractions, products
from ddpm_lesson.checks.sampling._ancestral_ways import (
    before_each,
    by_eq_11,
    clipped,
    noised_anew,
    only_last,
    posterior_var,
    with_x_T,
    without_last,
)
from ddpm_lesson.checks.sampling._chains import each_step


def _ancestral_chain(model, betas, x_T, noise):
    """Exercise 4.2: a generator of the states from x_T to x_0.  Ho et al. 2020, Algorithm 2, the mean by Eq. 11.

    model: called as model(x_t, t) with t (B,) int64 in 0..T-1; returns its estimate of eps, (B, *D).  betas: (T,).
    x_T: (B, *D).  noise: (T, B, *D), of which noise[t] belongs to step t; sigma_t^2 = beta_t, and step 0 adds none.
    Yields T states, (B, *D): the one after step T - 1 first, x_0 last.
    Not x_T itself, and not the means: each state is drawn, and the next step starts from it.
    """
    alphas_bar, state = products(betas.tolist()), x_T.double()
    for t in reversed(range(len(betas))):
        beta = betas[t].item()
        eps = model(state, torch.tensor([t] * len(x_T)))
        pixels = []
        for x, e, z in zip(*(v.flatten().tolist() for v in (state, eps, noise[t])), strict=True):
            mean = (x - beta / math.sqrt(1 - alphas_bar[t]) * e) / math.sqrt(1 - beta)
            pixels.append(mean + math.sqrt(beta) * z if t > 0 else mean)
        state = double(pixels).reshape(x_T.shape)
        yield state


def model(x: Tensor, t: Tensor) -> Tensor:
    """A network for the inputs: no multiple of x, and different at every t."""
    if not isinstance(t, Tensor) or t.shape != x.shape[:1] or t.dtype != torch.int64:
        got = f"{tuple(t.shape)} and {t.dtype}" if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"model expects t of shape ({len(x)},) and dtype torch.int64, got {got}")
    return x / 2 + x**2 / 8 - (t + 1).reshape(-1, *[1] * (x.ndim - 1)) / 16


ancestral_chain = Check(
    number="4.2",
    name="ancestral_chain",
    specification=_ancestral_chain,
    form=by_eq_11,
    script=each_step,
    steps=True,
    random="the argument noise",
    cases=tuple(
        Case(
            f"x_T of shape {shape}, T = {len(betas)}",
            (model, double(betas), fractions(*shape), fractions(len(betas), *shape, start=11)),
        )
        for shape, betas in [
            ((2, 1, 4, 4), BETAS[:5]),
            ((3, 2), BETAS[3:7]),
            ((4, 3, 4, 4), [0.3, 0.1, 0.2]),
            ((2, 5), [0.4, 0.2]),
            ((1, 3, 2, 4, 4), [0.25]),
        ]
    ),
    among="points, a video and T = 1",
    misconceptions={
        "You add noise at step 0 too. Its result is the sample itself, and no later step would take the noise out "
        "again: at t = 0 the mean is the result.": dict(quiet=lambda t, T: False),
        "You leave out the noise of the first step, T - 1, and not that of step 0. t runs downwards: the last step "
        "that is made is t = 0.": dict(quiet=lambda t, T: t == T - 1),
        "You leave out the noise of step 1, too. The papers' t > 1 is t > 0 in code, "
        "where t = 0 is the last step.": dict(quiet=lambda t, T: t <= 1),
        "You add no noise at all. Each state is drawn from p(x_{t-1} | x_t): the mean "
        "plus sqrt(beta_t) noise[t].": dict(quiet=lambda t, T: True),
        "You scaled the noise by beta: that is the variance of a step. Noise is multiplied by a standard deviation, "
        "its square root.": dict(spread=lambda var: var),
        "Your noise has the posterior's variance. That is the other of DDPM's two choices, fixedsmall; asked for is "
        "sigma_t^2 = beta_t.": dict(var=posterior_var),
        "Your noise has the variance 1 - alpha_bar, the noise of all steps up to t. One step takes beta_t.": dict(
            var=lambda betas, alphas_bar: 1 - alphas_bar
        ),
        "The first step that you make takes noise[0], the next one noise[1]. Step t has noise[t], and t runs "
        "downwards: the first step takes noise[T-1].": dict(drawn=lambda noise, t: noise[len(noise) - 1 - t]),
        "You use the same noise, noise[0], at every step. Step t has noise[t].": dict(drawn=lambda noise, t: noise[0]),
        "Your step t takes noise[t - 1]. It takes noise[t]; step 0 has none, and noise[0] is not used.": dict(
            drawn=lambda noise, t: noise[t - 1]
        ),
        "Your noise has beta_{t-1}. Step t has sigma_t^2 = beta_t.": dict(
            var=lambda betas, alphas_bar: torch.cat([betas[:1], betas[:-1]])
        ),
        "You divide the noise by sqrt(alpha), with the rest. It is added behind the bracket.": dict(
            added=lambda mean, push, beta: mean + push / (1 - beta).sqrt()
        ),
        "You estimate x_0 and noise it anew to t - 1, which forgets where x_t was. p(x_{t-1} | x_t) has the mean of "
        "Eq. 11 and the small variance beta_t.": dict(
            estimate=noised_anew, var=lambda betas, alphas_bar: 1 - before(alphas_bar)
        ),
        "You divided by sqrt(1 - alpha), with the alpha of the single step. eps is the noise of all steps up to t: "
        "sqrt(1 - alpha_bar_t).": dict(bar=lambda alphas: alphas),
        "You use alpha_bar of the step before. Step t takes alpha_bar_t: in code t = 0 is the papers' t = 1.": dict(
            bar=before
        ),
        "Your alpha_bar is the running product of the betas. It is that of the alphas, 1 - beta.": dict(
            bar=lambda alphas: (1 - alphas).cumprod(0)
        ),
        "The root over 1 - alpha_bar is missing. eps has the weight beta / sqrt(1 - alpha_bar).": dict(
            weight=lambda beta, a_bar: beta / (1 - a_bar)
        ),
        "In the weight of eps your root covers beta, too: it is beta / sqrt(1 - alpha_bar).": dict(
            weight=lambda beta, a_bar: (beta / (1 - a_bar)).sqrt()
        ),
        "You subtract beta eps. eps has the weight beta / sqrt(1 - alpha_bar).": dict(weight=lambda beta, a_bar: beta),
        "You subtract sqrt(1 - alpha_bar) eps, all the noise, as on the way to x_0. One step takes only beta / sqrt(1"
        " - alpha_bar) of it.": dict(weight=lambda beta, a_bar: (1 - a_bar).sqrt()),
        "You add the network's noise. The step back takes it away.": dict(
            weight=lambda beta, a_bar: -beta / (1 - a_bar).sqrt()
        ),
        "You do not divide by sqrt(alpha). The step forward shrank the image, and the step back makes it larger "
        "again.": dict(grow=torch.ones_like),
        "You multiply by sqrt(alpha). The step forward did that; the step back divides by it.": dict(grow=torch.sqrt),
        "You divide by the root of alpha_bar. Divide by the root of the single step's alpha, 1 - beta.": dict(
            estimate=lambda mean, x, eps, table: mean * ((1 - table[0]) / table[1]).sqrt()
        ),
        "You divide by alpha. The mean is divided by its square root.": dict(grow=torch.reciprocal),
        "Only eps is divided by sqrt(alpha). The whole bracket is: (x_t - ... eps) / sqrt(alpha).": dict(
            grow=torch.ones_like, weight=lambda beta, a_bar: beta / ((1 - a_bar) * (1 - beta)).sqrt()
        ),
        "Your steps run from t = 0 upwards. x_T is the noisiest state: begin with t = T - 1 and end with t = 0.": dict(
            order=range
        ),
        "You take the betas from their end. Step t has betas[t], and t runs downwards already.": dict(
            table=lambda betas: betas.flip(0)
        ),
        "You tell the network t + 1. In code t runs from 0 to T - 1, and the network was trained with these.": dict(
            told=lambda t, T: t + 1
        ),
        "You tell the network t - 1, where the step leads. It is asked about x_t, with its t.": dict(
            told=lambda t, T: t - 1
        ),
        "You tell the network T - 1 - t, the number of steps that were made. It knows x_t by its t.": dict(
            told=lambda t, T: T - 1 - t
        ),
        "You ask the network about x_T at every step. It is asked about x_t, the state that was drawn last.": dict(
            given=lambda x, x_T: x_T
        ),
        "Each of your steps starts from the mean of the one before, without its noise. It starts from the state that "
        "was drawn.": dict(carried=lambda mean, state: mean),
        "Your estimated x_0 is clipped to [-1, 1]. That helps a real network; here Algorithm 2 is asked for as it "
        "stands.": dict(estimate=clipped),
        "You yield x_T too. T states are asked for, the first after step T - 1.": dict(keep=with_x_T),
        "The last state is missing, x_0. Step 0 is made too: reversed(range(T)) ends with 0.": dict(keep=without_last),
        "You yield before each step: x_T comes first, and x_0 is missing. Yield the state"
        " that the step has made.": dict(keep=before_each),
        "You yield x_0 only. All T states are asked for: the yield belongs into the loop.": dict(keep=only_last),
    },
)
