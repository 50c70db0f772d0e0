"""Exercise 5.2: a variance that the network chooses, between the two that DDPM tried."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import BETAS, IMAGES, LONG, at, before, double, fractions, products
from ddpm_lesson.checks._rows import COLUMNS, FIRST_T


def _learned_log_var(v, t, betas, alphas_bar):
    """Exercise 5.2: log variance between log posterior_var and log beta.  Nichol & Dhariwal 2021, Eq. 15.

    v: (B, *D): -1 is the posterior variance, 1 is beta, and nothing forces v to stay between them.  t: (B,) int64 in
    0..T-1.  betas, alphas_bar: (T,) float64, T >= 2.  Returns (B, *D), the log variance: frac log beta + (1 - frac) log
    posterior_var with frac = (v + 1) / 2.  At t = 0, where the posterior variance is 0, posterior_var[1] stands instead
    of it.
    Not a variance: it is the logarithms that are mixed.
    """
    images = []
    for image, step in zip(v, t.tolist(), strict=True):
        at_least_1 = max(step, 1)
        rest = (1 - alphas_bar[at_least_1 - 1].item()) / (1 - alphas_bar[at_least_1].item())
        small, large = math.log(betas[at_least_1].item() * rest), math.log(betas[step].item())
        shares = [(pixel + 1) / 2 for pixel in image.flatten().tolist()]
        images.append([share * large + (1 - share) * small for share in shares])
    return double(images).reshape(v.shape)


def _posterior_var(betas: Tensor, alphas_bar: Tensor, prev: Tensor) -> Tensor:
    return betas * (1 - prev) / (1 - alphas_bar)


def _mixed(share: Tensor, large: Tensor, small: Tensor) -> Tensor:
    return share * large + (1 - share) * small


def _second_twice(table: Tensor, betas: Tensor) -> Tensor:
    return torch.cat([table[1:2], table[1:]])


def _between(
    v: Tensor,
    t: Tensor,
    betas: Tensor,
    alphas_bar: Tensor,
    *,
    bounded=lambda v: v,
    prev: Callable = before,
    var=_posterior_var,
    first=_second_twice,  # of the small variances and betas
    large=lambda betas, small: betas,
    logarithm=torch.log,
    share=lambda v: (v + 1) / 2,
    mix=_mixed,
    steps=lambda t: t,
    look_up=at,
):
    small = first(var(betas, alphas_bar, prev(alphas_bar)), betas)
    ends = (look_up(logarithm(table), steps(t), v) for table in (large(betas, small), small))
    return mix(share(bounded(v.double())), *ends)


def _terms(v: Tensor, t: Tensor, betas: Tensor, alphas_bar: Tensor) -> dict[str, Tensor]:
    small = _second_twice(_posterior_var(betas, alphas_bar, before(alphas_bar)), betas)
    of_beta, of_small = at(betas.log(), t, v), at(small.log(), t, v)
    both = {"log(beta)": of_beta, "log(posterior_var)": of_small, "1": torch.ones_like(of_beta)}
    return both | {"v * log(beta)": v * of_beta, "v * log(posterior_var)": v * of_small, "v": v}


def _added(evidence) -> str:
    """A small number inside a logarithm, seen at every step of a chain of ten."""
    betas = double(BETAS)
    alphas_bar, t = torch.cumprod(1 - betas, 0), torch.arange(len(betas))
    high, low = (evidence.calls(torch.full((len(t), 1), v), t, betas, alphas_bar) for v in (1.0, -1.0))
    if high is None or low is None or not high.shape == low.shape == (len(t), 1):
        return ""
    small = _posterior_var(betas, alphas_bar, before(alphas_bar))
    added = {"beta": high[:, 0].exp() - betas, "posterior_var": low[:, 0].exp() - small}
    alone = bool(torch.isclose(added["posterior_var"][:1], added["posterior_var"][1:2], rtol=1e-2))
    if not alone:  # posterior_var[1] stands at t = 0
        added["posterior_var"] = added["posterior_var"][1:]
    found = {name: gaps.mean().item() for name, gaps in added.items() if gaps.abs().max() > 1e-7}
    if not found or any(not torch.allclose(added[name], double(e), rtol=5e-2, atol=0) for name, e in found.items()):
        return ""
    if not all(0 < e < 2e-3 for e in found.values()):
        return ""
    places = " and ".join(f"{e:.2g} to {name}" for name, e in found.items())
    start = f"You added a small number inside the logarithm: {places}."
    if alone and "posterior_var" in found:
        return f"{start} At t = 0 it stands alone: put posterior_var[1] there, and no variance is 0. Leave it out."
    return f"{start} No variance is 0 here: leave it out."


learned_log_var = Check(
    number="5.2",
    name="learned_log_var",
    specification=_learned_log_var,
    form=_between,
    batch=("v", "t"),
    terms=_terms,
    clues=(_added,),
    cases=tuple(
        Case(
            f"v of shape {shape}{remark}, t = {t}, T = {len(betas)}",
            (size * fractions(*shape), torch.tensor(t), double(betas), double(products(betas))),
        )
        for size, remark, shape, t, betas in [
            *((1, "", shape, t, BETAS) for shape, t in IMAGES),
            (1, "", (3, 5), [1, 0, 0], BETAS[:2]),
            (1, "", (3, 2), [999, 300, 500], LONG),
            (2, " from -2 to 2", (3, 1, 4, 6), [5, 0, 8], BETAS),
        ]
    ),
    among="t = 0, mixed t, T = 2, T = 1000 and v outside of [-1, 1]",
    misconceptions={
        "You took v itself for the share of log beta. v = -1 is a share of 0, v = 1 of 1: frac = (v + 1) / 2.": dict(
            share=lambda v: v
        ),
        "Your share is v + 1, from 0 to 2. Halve it: frac = (v + 1) / 2.": dict(share=lambda v: v + 1),
        "Python divides before it adds: v + 1 / 2 is v + 0.5. Put brackets around v + 1.": dict(
            share=lambda v: v + 1 / 2
        ),
        "The two ends are exchanged: v = 1 is log beta, v = -1 is log posterior_var. frac belongs to log beta.": dict(
            share=lambda v: (1 - v) / 2
        ),
        "You squeezed v through a sigmoid. v is the network's own number: frac = (v + 1) / 2.": dict(
            share=torch.sigmoid
        ),
        "You squeezed v through tanh. v is the network's own number: frac = (v + 1) / 2.": dict(bounded=torch.tanh),
        "You kept v in [-1, 1], or frac or the result between its ends, with a clamp. Nothing forces v to stay there: "
        "beyond the ends the formula goes on.": dict(bounded=lambda v: v.clamp(-1, 1)),
        "You forgot the 1 - at the small end: its share is 1 - frac.": dict(
            mix=lambda share, large, small: share * large + share * small
        ),
        "You mixed the variances and then took the logarithm. It is the logarithms that are mixed.": dict(
            mix=lambda share, large, small: _mixed(share, large.exp(), small.exp()).log()
        ),
        "You mixed the variances and took no logarithm. The logarithms are mixed, and a log variance is asked "
        "for.": dict(logarithm=lambda table: table),
        "You return the variance, exp of what is asked for. Return the log variance itself.": dict(give=torch.exp),
        "You return the standard deviation. Return the log variance itself.": dict(give=lambda out: (out / 2).exp()),
        "You return the log of a standard deviation, half of what is asked for. The variance is its square.": dict(
            give=lambda out: out / 2
        ),
        "Your logarithms are to base 2. A log variance is natural: torch.log.": dict(logarithm=torch.log2),
        "Your logarithms are to base 10. A log variance is natural: torch.log.": dict(logarithm=torch.log10),
        "At t = 0 you took the logarithm of 0. The posterior has no variance there: put posterior_var[1] instead of "
        "it.": dict(first=lambda table, betas: table),
        "At t = 0 your small end is a tiny constant. That puts the network's whole range between it and beta: "
        "posterior_var[1] stands instead of the 0.": dict(first=lambda table, betas: table.clamp(min=1e-20)),
        "At t = 0 both your ends are beta, and v has no effect there. The small end is posterior_var[1].": dict(
            first=lambda table, betas: torch.cat([betas[:1], table[1:]])
        ),
        "At t = 0 your small end is beta[1]. It is the posterior variance at index 1, which is smaller.": dict(
            first=lambda table, betas: torch.cat([betas[1:2], table[1:]])
        ),
        "At t = 0 both your ends are posterior_var[1], as in fixedlarge. log beta is finite at t = 0: only the small "
        "end needs another value.": dict(large=lambda betas, small: torch.cat([small[:1], betas[1:]])),
        "You took alpha_bar where alpha_bar_prev belongs<: your small end is then beta itself, and v has no effect>. "
        "posterior_var = beta (1 - alpha_bar_prev) / (1 - alpha_bar).": dict(prev=lambda alphas_bar: alphas_bar),
        "At t = 0 your alpha_bar_prev is alphas_bar[-1]: index -1 wraps around to the noisiest step. It is 1 there, "
        "and posterior_var[1] stands instead of the variance 0.": dict(
            prev=lambda alphas_bar: alphas_bar.roll(1), first=lambda table, betas: table
        ),
        "Your posterior variance has its ratio upside down: beta (1 - alpha_bar_prev) / (1 - alpha_bar) is below "
        "beta.": dict(var=lambda betas, a_bar, prev: betas * (1 - a_bar) / (1 - prev)),
        "Your posterior variance lacks its factor beta.": dict(
            var=lambda betas, a_bar, prev: (1 - prev) / (1 - a_bar), large=lambda betas, small: betas
        ),
        "Your small end is the log of a standard deviation. No root: it is posterior_var itself.": dict(
            var=lambda betas, a_bar, prev: _posterior_var(betas, a_bar, prev).sqrt()
        ),
        "Your large end is the log of sqrt(beta), a standard deviation. No root: it is beta itself.": dict(
            large=lambda betas, small: betas.sqrt()
        ),
        "You read the tables at t - 1. In code t = 0 is the papers' t = 1, and index -1 wraps around: read at t.": dict(
            steps=lambda t: t - 1
        ),
        "At t = 0 you read both ends at 1. log beta is finite at t = 0: only posterior_var[1] is borrowed.": dict(
            steps=lambda t: t.clamp(min=1)
        ),
        FIRST_T: dict(steps=lambda t: t[:1].expand(len(t))),
        COLUMNS: dict(look_up=lambda table, t, v: table[t]),
    },
)
