"""Exercise 4.8: the betas of a chain that skips steps."""

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, LONG_BAR, STEEP_BAR, double
from ddpm_lesson.checks._rows import UPSIDE_DOWN


def _respaced_betas(alphas_bar, timesteps):
    """Exercise 4.8: betas of the chain that visits only these timesteps.  Nichol, Dhariwal 2021, sec. 4.

    alphas_bar: (T,) float64.  timesteps: (S,) int64, increasing, in 0..T-1.  Returns (S,) float64.
    The short chain has the long chain's alpha_bar at every timestep that it visits.
    """
    table, prev, betas = alphas_bar.tolist(), 1.0, []
    for step in timesteps.tolist():
        betas.append(1 - table[step] / prev)
        prev = table[step]
    return double(betas)


def _by_ratio(
    alphas_bar: Tensor,
    timesteps: Tensor,
    *,
    first=lambda alphas_bar, timesteps: torch.ones_like(alphas_bar[:1]),  # what stands before the first
    rule=lambda a_bar, prev: 1 - a_bar / prev,
    cap=lambda betas: betas,
    dtype=lambda betas: betas,
) -> Tensor:
    kept = alphas_bar[timesteps]
    return dtype(cap(rule(kept, torch.cat([first(alphas_bar, timesteps), kept[:-1]]))))


def _long_betas(alphas_bar: Tensor) -> Tensor:
    return _by_ratio(alphas_bar, torch.arange(len(alphas_bar)))


def _summed(alphas_bar, timesteps):
    total = _long_betas(alphas_bar).cumsum(0)[timesteps]
    return torch.cat([total[:1], total.diff()])


def _tables(alphas_bar: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
    kept = alphas_bar[timesteps]
    return {"alpha_bar": kept, "alpha_bar_prev": torch.cat([torch.ones_like(kept[:1]), kept[:-1]])}


def _share_kept(evidence) -> str:
    """1 minus the result is a ratio of two alpha_bar: with another power or factor it is told."""
    from ddpm_lesson.checks._products import wrong_product

    flipped = [None if got is None else 1 - got.double() for got in evidence.got]
    other = type(evidence)(evidence.check, evidence.function, evidence.modes, evidence.outcomes, evidence.output)
    other.__dict__.update(got=flipped, want=[1 - want for want in evidence.want])
    words = wrong_product(other)
    return words and words.replace("Your result is", "The share that your steps keep, 1 - beta, is", 1)


def _first_divisor(evidence) -> str:
    """What the first beta is divided by, where all others are right and it is the same number for all inputs."""
    found = []
    for case, got, want in zip(evidence.check.cases, evidence.got, evidence.want, strict=True):
        if got is None or got.shape != want.shape or not torch.allclose(got[1:].double(), want[1:], rtol=1e-6):
            return ""
        found.append((case.args[0][case.args[1][0]] / (1 - got[0].double())).item())
    if any(not abs(divisor - found[0]) <= 1e-3 * abs(found[0]) for divisor in found):
        return ""
    return f"Your first beta divides by {found[0]:.3g}. Before the first kept step alpha_bar is 1: divide by 1."


respaced_betas = Check(
    number="4.8",
    name="respaced_betas",
    specification=_respaced_betas,
    form=_by_ratio,
    tables=_tables,
    clues=(_first_divisor, _share_kept),
    cases=tuple(
        Case(f"T = {len(table)}, timesteps = {timesteps}", (double(table), torch.tensor(timesteps)))
        for table, timesteps in [
            *((ALPHAS_BAR, steps) for steps in ([0, 3, 6, 9], [1, 2, 7], [4, 9], [9], [0], list(range(10)))),
            (STEEP_BAR, [1, 3, 4]),
            (LONG_BAR, [0, 333, 666, 999]),
        ]
    ),
    among="uneven steps, one step, all steps and a beta above 0.999",
    exact_dtype=True,
    misconceptions={
        "You return float32, which keeps seven digits only, and 1 minus a ratio near 1 leaves fewer. alphas_bar is "
        "float64: so are your betas.": dict(dtype=lambda betas: betas.float()),
        "Your betas went through float32, which keeps seven digits only: stay in alphas_bar's float64.": dict(
            dtype=lambda betas: betas.float().double()
        ),
        "Your betas are the old ones of the kept steps. A long step has to do the work of all the steps that it "
        "skips<: with your betas the chain ends far from noise>.": dict(
            instead=lambda alphas_bar, timesteps: _long_betas(alphas_bar)[timesteps]
        ),
        "You return S - 1 betas: the first is missing. It leads from the clean image, where alpha_bar is 1, to the "
        "first kept step.": dict(give=lambda betas: betas[1:]),
        "Your first alpha_bar is divided by itself<, and the beta is 0>. The first beta leads from the clean image, "
        "where alpha_bar is 1, to the first kept step.": dict(
            first=lambda alphas_bar, timesteps: alphas_bar[timesteps[:1]]
        ),
        "Your first beta divides by the last alpha_bar: the shift wraps around. Before the first stands 1.": dict(
            first=lambda alphas_bar, timesteps: alphas_bar[timesteps[-1:]]
        ),
        "Your first beta divides by alphas_bar[0]. It leads from the clean image, where alpha_bar is 1.": dict(
            first=lambda alphas_bar, timesteps: alphas_bar[:1]
        ),
        "Your first beta divides by alphas_bar[timesteps[0] - 1], a step that the short chain does not visit (and at 0 "
        "index -1 wraps around). Before the first kept step alpha_bar is 1.": dict(
            first=lambda alphas_bar, timesteps: alphas_bar[timesteps[:1] - 1]
        ),
        "You divide by alphas_bar[timesteps - 1], the step before in the long chain (and at 0 index -1 wraps around). "
        "Divide by alpha_bar at the kept step before; before the first it is 1.": dict(
            instead=lambda alphas_bar, timesteps: 1 - alphas_bar[timesteps] / alphas_bar[timesteps - 1]
        ),
        UPSIDE_DOWN: dict(rule=lambda a_bar, prev: 1 - prev / a_bar),
        "You multiplied two alpha_bar. alpha_bar is a running product: what one step adds to it is the ratio of two "
        "neighbours.": dict(rule=lambda a_bar, prev: 1 - a_bar * prev),
        "You subtracted two alpha_bar. alpha_bar is a running product and not a sum: one step is the ratio of two "
        "neighbours, and beta is 1 minus it.": dict(rule=lambda a_bar, prev: prev - a_bar),
        "You divided the difference of two alpha_bar by the later one. A step starts from the earlier one.": dict(
            rule=lambda a_bar, prev: (prev - a_bar) / a_bar
        ),
        "You return the alphas of the short chain. beta is 1 - alpha.": dict(rule=lambda a_bar, prev: a_bar / prev),
        "You return 1 - alpha_bar: that is all the noise up to a kept step. beta is the noise since the kept step "
        "before: divide by its alpha_bar first.": dict(rule=lambda a_bar, prev: 1 - a_bar),
        "You return alpha_bar at the kept steps. The betas that lead from one to the next are asked for.": dict(
            rule=lambda a_bar, prev: a_bar
        ),
        "You capped the betas at 0.999. The exercise has no cap: a long step may add nearly all the noise.": dict(
            cap=lambda betas: betas.clamp(max=0.999)
        ),
        "You added up the betas of the skipped steps. That is close for small betas only, and can pass 1: the alphas "
        "multiply, and beta is 1 minus their product.": dict(instead=_summed),
        "You took the betas of the kept steps times the number of steps that they stand for. The alphas multiply: beta "
        "is 1 minus their product.": dict(
            instead=lambda alphas_bar, timesteps: (
                _long_betas(alphas_bar)[timesteps] * torch.cat([timesteps[:1] + 1, timesteps.diff()])
            )
        ),
        "You took minus the logarithm of the ratio. That is near beta for small betas only: "
        "beta is 1 minus the ratio.": dict(rule=lambda a_bar, prev: -(a_bar / prev).log()),
        "You took the roots of alphas_bar. The ratio of two alpha_bar themselves is what the "
        "steps between them keep.": dict(rule=lambda a_bar, prev: 1 - (a_bar / prev).sqrt()),
    },
)
