"""Exercise 1.5: the cosine schedule."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double
from ddpm_lesson.checks._rows import UPSIDE_DOWN, in_float32
from ddpm_lesson.checks.forward_process._cosine_betas_clues import rounded_on_the_way, squared_cosine


def _cosine_betas(T, s=0.008, max_beta=0.999):
    """Exercise 1.5: betas whose alpha_bar is a squared cosine of time.  Nichol, Dhariwal 2021, sec. 3.2.

    T: int of at least 1.  s: float, the offset.  max_beta: float, the cap on every beta.  Returns (T,) float64.
    Step i leads from time i / T to time (i + 1) / T.  Not capped on alpha_bar: the cap belongs to beta.
    """

    def curve(time):
        return math.cos((time + s) / (1 + s) * math.pi / 2) ** 2

    return double([min(1 - curve((i + 1) / T) / curve(i / T), max_beta) for i in range(T)])


def _right_angle(u, s):
    return (u + s) / (1 + s) * math.pi / 2


def _fractions(T):
    return double([i / T for i in range(T + 1)])


def _by_curve(
    T: int,
    s: float,
    max_beta: float,
    *,
    offset=lambda s: s,
    times=_fractions,
    angle=_right_angle,
    wave=torch.cos,
    power=torch.square,
    start=lambda f: f,  # what becomes of f(0), ..., f(1)
    ratio=lambda f: 1 - f[1:] / f[:-1],
    cap=lambda betas, max_beta: betas.clamp(max=max_beta),
    dtype=lambda betas: betas,
) -> Tensor:
    f = start(power(wave(angle(times(T), offset(s)))))
    return dtype(cap(ratio(f), max_beta))


def _from_one(f: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(f[:1]), f[1:]])


cosine_betas = Check(
    number="1.5",
    name="cosine_betas",
    specification=_cosine_betas,
    form=_by_curve,
    clues=(rounded_on_the_way, squared_cosine),
    cases=tuple(
        Case(f"T = {T}, s = {s}, max_beta = {max_beta}", (T, s, max_beta), T == 1000)
        for T, s, max_beta in [
            (10, 0.008, 0.999),
            (20, 0.008, 0.999),
            (10, 0.1, 0.999),
            (10, 0.008, 0.3),
            (2, 0.008, 0.999),
            (1, 0.008, 0.999),
            (1000, 0.008, 0.999),
        ]
    ),
    among="T = 1, T = 1000, another s and another cap",
    exact_dtype=True,
    misconceptions={
        **in_float32("1 minus a ratio near 1 leaves few of its digits, and a long product of them fewer"),
        "You left out s. Without the offset the first betas of a long chain are almost 0, and so little noise is hard "
        "to tell from none.": dict(offset=lambda s: 0.0),
        "You wrote 0.008 into the formula. The offset is the argument s.": dict(offset=lambda s: 0.008),
        "You wrote 0.999 into the formula. The cap is the argument max_beta.": dict(
            cap=lambda betas, max_beta: betas.clamp(max=0.999)
        ),
        "You left out the cap<. The last beta comes out as 1 and alpha_bar_T as 0, and then no way leads from eps back "
        "to x_0>: let no beta exceed max_beta.": dict(cap=lambda betas, max_beta: betas),
        "You lift small betas to max_beta. The cap is an upper bound: the smaller of beta and max_beta.": dict(
            cap=lambda betas, max_beta: betas.clamp(min=max_beta)
        ),
        "You also cut the betas off from below, at 1e-4. Long chains have smaller ones: the "
        "only bound is max_beta.": dict(cap=lambda betas, max_beta: betas.clamp(1e-4, max_beta)),
        "You left out the square. alpha_bar is the squared cosine; the cosine itself is sqrt(alpha_bar), the factor in "
        "front of x_0.": dict(power=lambda f: f),
        "You return 1 - alpha_bar, capped: that is all the noise up to step i. beta is the noise of one step: 1 minus "
        "the ratio of two neighbouring alpha_bar.": dict(ratio=lambda f: 1 - f[1:] / f[0]),
        "You return alphas_bar, what is left of the image. Betas are asked for: 1 minus the ratio of two neighbouring "
        "alpha_bar.": dict(
            instead=lambda T, s, max_beta: _by_curve(
                T, s, max_beta, ratio=lambda f: f[1:] / f[0], cap=lambda betas, max_beta: betas
            )
        ),
        "You return f, the squared cosine itself. Betas are asked for: 1 minus the ratio of two neighbours.": dict(
            instead=lambda T, s, max_beta: _by_curve(
                T, s, max_beta, ratio=lambda f: f[1:], cap=lambda betas, max_beta: betas
            )
        ),
        "You return the alphas, the ratio of two neighbouring alpha_bar: that is what a step keeps. beta is what it "
        "adds, 1 minus the ratio, and has a cap.": dict(instead=lambda T, s, max_beta: 1 - _by_curve(T, s, 1.0)),
        "You capped the ratio of two neighbouring alpha_bar and return it: those are the alphas. beta is 1 minus the "
        "ratio, and the cap is meant for beta.": dict(ratio=lambda f: f[1:] / f[:-1]),
        "You subtracted neighbouring alpha_bar. alpha_bar is a running product: beta is 1 minus the ratio.": dict(
            ratio=lambda f: (f[:-1] - f[1:]) / f[0]
        ),
        "You divided the difference of two alpha_bar by the later one. A step starts from the earlier one.": dict(
            ratio=lambda f: (f[:-1] - f[1:]) / f[1:]
        ),
        UPSIDE_DOWN: dict(ratio=lambda f: 1 - f[:-1] / f[1:]),
        "You kept alpha_bar away from 0, and not beta from 1. The cap belongs to beta.": dict(
            instead=lambda T, s, max_beta: _by_curve(
                T, s, max_beta, start=lambda f: (f / f[0]).clamp(min=1 - max_beta), cap=lambda betas, max_beta: betas
            )
        ),
        "Your first step starts from 1. Because of s the squared cosine is below 1 at time 0: divide by that value, as "
        "every later step divides by its own start.": dict(start=_from_one),
        "Your times are one step late<: your first beta is 0 and the last step is missing>. Step i leads from time i / "
        "T to time (i + 1) / T.": dict(times=lambda T: double([max(i - 1, 0) / T for i in range(T + 1)])),
        "You have T points where T + 1 are needed<: your first beta is 0, and your grid is too coarse>. T steps have T "
        "+ 1 ends: 0, 1/T, ..., 1.": dict(times=lambda T: double([0.0] + [i / max(T - 1, 1) for i in range(T)])),
        "You return T - 1 betas, since T points have T - 1 gaps. T steps need T + 1 points: 0, 1/T, ..., 1.": dict(
            times=lambda T: double([i / max(T - 1, 1) for i in range(T)])
        ),
        "You return T - 1 betas, from times that stop one step early. T steps need T + 1 points: 0, 1/T, ..., 1.": dict(
            times=lambda T: double([i / T for i in range(T)])
        ),
        "Your times count from 1<: they end one step past T>. T steps have the ends 0, 1/T, ..., 1.": dict(
            times=lambda T: double([(i + 1) / T for i in range(T + 1)])
        ),
        "You divided T + 1 times by T + 1<: your curve stops before its end>. The last time is 1: divide by T.": dict(
            times=lambda T: double([i / (T + 1) for i in range(T + 1)])
        ),
        "Your times are not divided by T: u runs from 0 to 1<, and yours from 0 to T>.": dict(
            times=lambda T: double(list(range(T + 1)))
        ),
        "You divided only s by 1 + s. Brackets: the sum u + s is divided<, so that the angle ends at pi / 2>.": dict(
            angle=lambda u, s: (u + s / (1 + s)) * math.pi / 2
        ),
        "Python divides before it adds: u + s / 1 + s is u + 2 s. Put brackets around u + s and around 1 + s.": dict(
            angle=lambda u, s: (u + s / 1 + s) * math.pi / 2
        ),
        "Python multiplies before it adds: in u + s / (1 + s) * pi / 2 only s is divided and multiplied. Put brackets "
        "around u + s.": dict(angle=lambda u, s: u + s / (1 + s) * math.pi / 2),
        "Python divides and multiplies before it adds: u + s / 1 + s * pi / 2 is u + s + (s * pi / 2). Put brackets "
        "around u + s and around 1 + s.": dict(angle=lambda u, s: u + s / 1 + s * math.pi / 2),
        "You left out pi / 2<. The angle then ends at 1 instead of a right angle, and nearly a third of alpha_bar is "
        "left at the end>.": dict(angle=lambda u, s: (u + s) / (1 + s)),
        "Your angle runs to pi and not to pi / 2<. The squared cosine is back at 1 there: "
        "the image would return>.": dict(angle=lambda u, s: (u + s) / (1 + s) * math.pi),
        "You took the sine. It rises from 0 to 1, and alpha_bar has to fall from 1 to 0: that is the cosine.": dict(
            wave=torch.sin
        ),
        "You added s but did not divide by 1 + s<. The cosine then passes its zero before time 1, and alpha_bar rises "
        "again at the end>.": dict(angle=lambda u, s: (u + s) * math.pi / 2),
        "You did not add s to u, and divide by 1 + s only. The offset belongs to both.": dict(
            angle=lambda u, s: u / (1 + s) * math.pi / 2
        ),
        "You multiplied the betas by max_beta. It is an upper bound: the smaller of beta and max_beta.": dict(
            cap=lambda betas, max_beta: betas * max_beta
        ),
        "You kept the squared cosine away from 0, and not beta from 1. The cap belongs to beta.": dict(
            instead=lambda T, s, max_beta: _by_curve(
                T, s, max_beta, start=lambda f: f.clamp(min=1 - max_beta), cap=lambda betas, max_beta: betas
            )
        ),
        "You divided the times by 1000, whatever T is. They run from 0 to 1: divide by T.": dict(
            times=lambda T: double([i / 1000 for i in range(T + 1)])
        ),
    },
)
