"""Exercise 5.6: guidance without a classifier, in the two conventions for its strength."""

from collections.abc import Callable

from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions


def _cfg_eps(eps_cond, eps_uncond, strength, convention):
    """Exercise 5.6: classifier-free guidance.  Ho & Salimans 2022, Eq. 6.

    eps_cond, eps_uncond: (B, *D), what the network says with the label and without it.  strength: float.
    convention: "s" or "w".  "s", as most code has it: eps_uncond + s (eps_cond - eps_uncond), where s = 1 is no
    guidance.  "w", the paper's: (1 + w) eps_cond - w eps_uncond, where w = 0 is no guidance.
    Returns (B, *D).  Not two methods: s = 1 + w.
    """
    pixels = []
    for cond, uncond in zip(eps_cond.flatten().tolist(), eps_uncond.flatten().tolist(), strict=True):
        if convention == "s":
            pixels.append(uncond + strength * (cond - uncond))
        else:
            pixels.append((1 + strength) * cond - strength * uncond)
    return double(pixels).reshape(eps_cond.shape)


def _by_s(cond: Tensor, uncond: Tensor, s: float) -> Tensor:
    return uncond + s * (cond - uncond)


def _by_w(cond: Tensor, uncond: Tensor, w: float) -> Tensor:
    return (1 + w) * cond - w * uncond


def _guided(
    eps_cond: Tensor,
    eps_uncond: Tensor,
    strength: float,
    convention: str,
    *,
    roles=lambda cond, uncond: (cond, uncond),
    used=lambda strength: strength,
    s: Callable = _by_s,
    w: Callable = _by_w,
) -> Tensor:
    cond, uncond = roles(eps_cond.double(), eps_uncond.double())
    return {"s": s, "w": w}[convention](cond, uncond, used(strength))


cfg_eps = Check(
    number="5.6",
    name="cfg_eps",
    specification=_cfg_eps,
    form=_guided,
    batch=("eps_cond", "eps_uncond"),
    cases=tuple(
        Case(
            f"eps_cond of shape {shape}, strength = {strength}, convention {convention}",
            (2 * fractions(*shape), fractions(*shape, start=11), strength, convention),
        )
        for shape, strength, convention in [
            ((4, 1, 8, 8), 3.0, "s"),
            ((3, 2), 3.0, "w"),
            ((4, 3, 4, 4), 1.0, "s"),
            ((2, 3, 2, 4, 4), 0.0, "w"),
            ((1, 5), 0.0, "s"),
            ((2, 4), 0.25, "s"),
            ((1, 3), -1.0, "w"),
            ((2, 5), 7.5, "w"),
        ]
    ),
    among="both conventions, B = 1, no guidance and no label",
    misconceptions={
        "You exchanged the conventions. With s the result starts from eps_uncond; with w from eps_cond.": dict(
            s=_by_w, w=_by_s
        ),
        "You took s in both conventions. The paper's w is s - 1: (1 + w) eps_cond - w eps_uncond.": dict(w=_by_s),
        "You took w in both conventions. s is 1 + w: eps_uncond + s (eps_cond - eps_uncond).": dict(s=_by_w),
        "You exchanged eps_cond and eps_uncond<: your images lead away from their label>. The line starts at "
        "eps_uncond and goes through eps_cond.": dict(roles=lambda cond, uncond: (uncond, cond)),
        "With w you added both: (1 + w) eps_cond + w eps_uncond. The weights add up to 1: subtract.": dict(
            w=lambda cond, uncond, w: (1 + w) * cond + w * uncond
        ),
        "With w you wrote w eps_cond + (1 + w) eps_uncond. It is (1 + w) eps_cond - w eps_uncond.": dict(
            w=lambda cond, uncond, w: w * cond + (1 + w) * uncond
        ),
        "With w you wrote s = w - 1. It is s = 1 + w: at w = 0 the result is eps_cond.": dict(
            w=lambda cond, uncond, w: _by_s(cond, uncond, w - 1)
        ),
        "With w you wrote (2 + w) eps_cond - (1 + w) eps_uncond. The 1 + is in this formula already; s = 1 + w belongs "
        "to the other one.": dict(w=lambda cond, uncond, w: _by_w(cond, uncond, 1 + w)),
        "With w you forgot the 1 +: w (eps_cond - eps_uncond) is added to eps_cond.": dict(
            w=lambda cond, uncond, w: w * (cond - uncond)
        ),
        "With w you wrote eps_cond - w eps_uncond. The weights add up to 1: (1 + w) eps_cond.": dict(
            w=lambda cond, uncond, w: cond - w * uncond
        ),
        "With w you forgot w before eps_uncond: (1 + w) eps_cond - w eps_uncond.": dict(
            w=lambda cond, uncond, w: (1 + w) * cond - uncond
        ),
        "With w you took (1 + w) times the difference: (1 + w) eps_cond - w eps_uncond. The weights add up to 1.": dict(
            w=lambda cond, uncond, w: (1 + w) * (cond - uncond)
        ),
        "With w you wrote (1 - w) eps_cond + w eps_uncond. That mixes the two; guidance leads past eps_cond.": dict(
            w=lambda cond, uncond, w: (1 - w) * cond + w * uncond
        ),
        "You start from eps_cond in both conventions. With s the line starts at eps_uncond.": dict(
            s=_by_w, w=lambda cond, uncond, w: _by_w(cond, uncond, 1 + w)
        ),
        "With s you wrote w = s + 1. It is w = s - 1: at s = 1 the result is eps_cond.": dict(
            s=lambda cond, uncond, s: _by_w(cond, uncond, s + 1)
        ),
        "With s you forgot to start from eps_uncond: s times the difference is added to it.": dict(
            s=lambda cond, uncond, s: s * (cond - uncond)
        ),
        "With s you subtracted the difference: eps_uncond + s (eps_cond - eps_uncond).": dict(
            s=lambda cond, uncond, s: uncond - s * (cond - uncond)
        ),
        "With s you wrote (1 - s) eps_cond + s eps_uncond. It is the other way round: s = 1 is eps_cond.": dict(
            s=lambda cond, uncond, s: (1 - s) * cond + s * uncond
        ),
        "With s you added both: eps_uncond + s eps_cond. The weights add up to 1: s is multiplied by the "
        "difference.": dict(s=lambda cond, uncond, s: uncond + s * cond),
        "With s you wrote s eps_cond - eps_uncond. The weights add up to 1: s multiplies the difference.": dict(
            s=lambda cond, uncond, s: s * cond - uncond
        ),
        "Python multiplies before it subtracts: eps_uncond + s * eps_cond - eps_uncond is s * eps_cond. s multiplies "
        "the difference.": dict(s=lambda cond, uncond, s: s * cond),
        "You keep strength from being negative. w = -1 is a strength too: without the label.": dict(
            used=lambda strength: max(strength, 0.0)
        ),
        "You keep strength from passing 1. Guidance is what lies past 1.": dict(used=lambda strength: min(strength, 1)),
    },
)
