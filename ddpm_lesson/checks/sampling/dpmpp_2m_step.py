"""Exercise 4.5: one step of DPM-Solver++(2M)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, LONG_BAR, before, double, fractions
from ddpm_lesson.checks.sampling._step_factors import Probe, at_one_place, vague_factor, wrong_factor


def _dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    """Exercise 4.5: the step of DPM-Solver++(2M) from t to t_prev.  Lu et al. 2022, Algorithm 2.

    x_t: (B, *D).  x_0: its estimate at t.  x_0_before: the estimate at t_before, one step earlier; both are None at
    the first step, which is then of first order.  t_before > t > t_prev: ints, one step for the whole batch;
    t_prev = -1 is the clean image, and the step ends in x_0 itself.  alphas_bar: (T,).  Returns x at t_prev, (B, *D).
    lambda = 1/2 log(alpha_bar / (1 - alpha_bar)), and D, extrapolated from the two estimates, stands for x_0.
    """
    if t_prev < 0:
        return x_0.double()
    a, prev = alphas_bar[t].item(), alphas_bar[t_prev].item()
    lam_t, lam_prev = (0.5 * math.log(bar / (1 - bar)) for bar in (a, prev))
    h = lam_prev - lam_t
    pixels = []
    for i, (x, estimate) in enumerate(zip(x_t.flatten().tolist(), x_0.flatten().tolist(), strict=True)):
        if x_0_before is not None:
            bar = alphas_bar[t_before].item()
            r = (lam_t - 0.5 * math.log(bar / (1 - bar))) / h
            estimate = (1 + 1 / (2 * r)) * estimate - 1 / (2 * r) * x_0_before.flatten()[i].item()
        pixels.append(math.sqrt(1 - prev) / math.sqrt(1 - a) * x - math.sqrt(prev) * (math.exp(-h) - 1) * estimate)
    return double(pixels).reshape(x_t.shape)


def _half_log_snr(a_bar: Tensor) -> Tensor:
    return (a_bar / (1 - a_bar)).log() / 2


def _extrapolated(x_0: Tensor, x_0_before: Tensor, r: Tensor) -> Tensor:
    return (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before


def _by_ratio(lam_t, lam_prev, lam_before, steps) -> Tensor:
    return (lam_t - lam_before) / (lam_prev - lam_t)


def _two_steps(
    x_t: Tensor,
    x_0: Tensor,
    x_0_before: Tensor | None,
    t: int,
    t_prev: int,
    t_before: int | None,
    alphas_bar: Tensor,
    *,
    table=lambda alphas_bar: alphas_bar,
    ends=lambda t_prev: t_prev < 0,
    clean=lambda x_0, D: x_0,  # None: the step is made there, too
    at_prev=lambda table, t, t_prev: table[t_prev],
    lam=_half_log_snr,
    length=lambda lam_t, lam_prev: lam_prev - lam_t,
    ratio=_by_ratio,
    known=lambda x_0, x_0_before: (x_0, x_0_before),
    extrapolate=_extrapolated,
    first=lambda x_0: x_0,
    kept=lambda a, prev: ((1 - prev) / (1 - a)).sqrt(),
    signal=lambda a, prev: prev.sqrt(),
    grow=lambda h: -torch.expm1(-h),
):
    bar = table(alphas_bar)
    a, prev = bar[t], at_prev(bar, t, t_prev)
    lam_t, lam_prev = lam(a), lam(prev)
    D = first(x_0.double())
    if x_0_before is not None:
        r = ratio(lam_t, lam_prev, lam(bar[t_before]), (t, t_prev, t_before))
        D = extrapolate(*known(x_0.double(), x_0_before), r)
    end = clean(x_0.double(), D)
    if ends(t_prev) and end is not None:
        return end
    return kept(a, prev) * x_t + signal(a, prev) * grow(length(lam_t, lam_prev)) * D


def _eps_of_x_0(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    """DDIM's step to D, with the noise that belongs to x_0."""
    right = _two_steps(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar)
    if t_prev < 0 or x_0_before is None:
        return right
    a, prev = alphas_bar[t], alphas_bar[t_prev]
    lam = _half_log_snr(alphas_bar)
    D = _extrapolated(x_0.double(), x_0_before.double(), _by_ratio(lam[t], lam[t_prev], lam[t_before], ()))
    return right + (a * (1 - prev) / (1 - a)).sqrt() * (D - x_0)


def _probes(pattern: Tensor) -> Iterator[Probe]:
    zero, bar = torch.zeros_like(pattern), double(ALPHAS_BAR)
    for steps in [(7, 5, 9), (6, 3, 8), (5, 4, 6), (4, 1, 9), (3, 2, 8), (3, 0, 5), (8, 2, 9)]:
        (a, prev, earlier), rest = bar[list(steps)], (*steps, bar)
        yield Probe(
            {
                "x_t": (pattern, zero, zero, *rest),
                "x_0": (zero, pattern, zero, *rest),
                "x_0_before": (zero, zero, pattern, *rest),
            },
            {
                "alpha_bar_t": a,
                "alpha_bar_prev": prev,
                "1 - alpha_bar_t": 1 - a,
                "1 - alpha_bar_prev": 1 - prev,
                "h": _half_log_snr(prev) - _half_log_snr(a),
                "r": _by_ratio(_half_log_snr(a), _half_log_snr(prev), _half_log_snr(earlier), steps),
            },
        )


def _places(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar) -> Iterator[tuple[str, Tensor]]:
    yield "at the clean image, t_prev = -1", torch.tensor(t_prev == -1)
    yield "at t_prev = 0", torch.tensor(t_prev == 0)
    yield "at the first step, where x_0_before is None", torch.tensor(t_before is None and t_prev >= 0)
    yield "where x_0_before is given", torch.tensor(t_before is not None and t_prev >= 0)


dpmpp_2m_step = Check(
    number="4.5",
    name="dpmpp_2m_step",
    specification=_dpmpp_2m_step,
    form=_two_steps,
    batch=("x_t", "x_0", "x_0_before"),
    places=_places,
    clues=(wrong_factor(_probes), at_one_place, vague_factor(_probes)),
    cases=tuple(
        Case(
            f"x_t of shape {shape}, t = {t}, t_prev = {t_prev}, t_before = {t_before}{remark}",
            (
                2 * fractions(*shape),
                fractions(*shape, start=11),
                None if t_before is None else fractions(*shape, start=29),
                t,
                t_prev,
                t_before,
                double(table),
            ),
        )
        for shape, t, t_prev, t_before, table, remark in [
            ((4, 1, 8, 8), 5, 3, 9, ALPHAS_BAR, ""),
            ((4, 3, 4, 4), 6, 1, 8, ALPHAS_BAR, ""),
            ((3, 2), 4, 3, 5, ALPHAS_BAR, ""),
            ((4, 2), 2, 0, 5, ALPHAS_BAR, ""),
            ((2, 3, 2, 4, 4), 9, 7, None, ALPHAS_BAR, ""),
            ((2, 5), 2, -1, 4, ALPHAS_BAR, ""),
            ((2, 5), 0, -1, 1, ALPHAS_BAR, ""),
            ((3, 2), 3, -1, None, ALPHAS_BAR, ""),
            ((3, 2), 800, 600, 999, LONG_BAR, ", T = 1000"),
        ]
    ),
    among="the first step, the clean image and T = 1000",
    misconceptions={
        "The fraction of (4.9) is upside down, or 1 / 2 * r lacks its brackets. The step that comes, lambda_prev - "
        "lambda_t, stands above, and twice the last one below.": dict(
            ratio=lambda lam_t, lam_prev, lam_before, steps: (lam_prev - lam_t) / (lam_t - lam_before)
        ),
        "Your extrapolation has the wrong sign<, leaning towards the estimate before>. D goes beyond x_0, away from "
        "it: the bracket of (4.9) is x_0 - x_0_before.": dict(
            extrapolate=lambda x_0, x_0_before, r: (1 - 1 / (2 * r)) * x_0 + 1 / (2 * r) * x_0_before
        ),
        "The half is missing from the fraction of (4.9). The estimate is wanted for the middle of the step, "
        "not for its end.": dict(extrapolate=lambda x_0, x_0_before, r: (1 + 1 / r) * x_0 - 1 / r * x_0_before),
        "You add x_0_before instead of subtracting it. The weights of D add up to 1: 1 + f and -f, where f is the "
        "fraction of (4.9).": dict(
            extrapolate=lambda x_0, x_0_before, r: (1 + 1 / (2 * r)) * x_0 + 1 / (2 * r) * x_0_before
        ),
        "The weights of your D do not add up to 1: x_0 has 1 + f, since x_0_before has -f, where f is the fraction of "
        "(4.9).": dict(extrapolate=lambda x_0, x_0_before, r: x_0 - 1 / (2 * r) * x_0_before),
        "You take all steps for equally long in lambda: D is then 3/2 x_0 - 1/2 x_0_before. They are not: take the "
        "fraction of (4.9).": dict(ratio=lambda lam_t, lam_prev, lam_before, steps: torch.ones_like(lam_t)),
        "You measure the steps in t. The fraction of (4.9) is a ratio of steps in lambda, (lambda_prev - lambda_t) / "
        "(2 (lambda_t - lambda_before)).": dict(
            ratio=lambda lam_t, lam_prev, lam_before, steps: (
                torch.ones_like(lam_t) * (steps[2] - steps[0]) / (steps[0] - steps[1])
            )
        ),
        "You measure the steps in sqrt(SNR). The fraction of (4.9) is a ratio of steps in lambda, its log.": dict(
            ratio=lambda lam_t, lam_prev, lam_before, steps: _by_ratio(
                lam_t.exp(), lam_prev.exp(), lam_before.exp(), steps
            )
        ),
        "You measure the steps in the SNR. The fraction of (4.9) is a ratio of steps in lambda, half of its log.": dict(
            ratio=lambda lam_t, lam_prev, lam_before, steps: _by_ratio(
                (2 * lam_t).exp(), (2 * lam_prev).exp(), (2 * lam_before).exp(), steps
            )
        ),
        "In the fraction of (4.9) your lambda is the log of alpha_bar alone. It is that of sqrt(alpha_bar / (1 - "
        "alpha_bar)).": dict(
            ratio=lambda lam_t, lam_prev, lam_before, steps: _by_ratio(
                F.logsigmoid(2 * lam_t), F.logsigmoid(2 * lam_prev), F.logsigmoid(2 * lam_before), steps
            )
        ),
        "The brackets of the denominator are missing from the fraction of (4.9): / (2 * (...)). You multiply by the "
        "last step in lambda.": dict(
            ratio=lambda lam_t, lam_prev, lam_before, steps: 1 / ((lam_prev - lam_t) * (lam_t - lam_before))
        ),
        "The brackets of the denominator are missing from the fraction of (4.9): / (2 * (...)). You multiply by the "
        "last step in log SNR.": dict(
            ratio=lambda lam_t, lam_prev, lam_before, steps: 1 / (4 * (lam_prev - lam_t) * (lam_t - lam_before))
        ),
        "You derive eps from x_0 itself. eps must be derived from D, too: DDIM's step takes D instead of x_0 in both "
        "places.": dict(instead=_eps_of_x_0),
        "Your r is the SNR. That of (4.7) is its root: D has the factor sqrt(1 - alpha_bar_prev) (r_prev - r_t).": dict(
            signal=lambda a, prev: (1 - prev).sqrt() * (prev / (1 - prev) - a / (1 - a)),
            grow=torch.ones_like,
        ),
        "Your last step reaches from t_before to t_prev, over both steps. It ends at t: "
        "lambda_t - lambda_before.": dict(
            ratio=lambda lam_t, lam_prev, lam_before, steps: (lam_prev - lam_before) / (lam_prev - lam_t)
        ),
        "x_0 and x_0_before are exchanged: x_0 is the estimate at t, the later and better one.": dict(
            known=lambda x_0, x_0_before: (x_0_before, x_0)
        ),
        "You do not use x_0_before: every step is of first order, which is DDIM's. Where "
        "it is given, extrapolate.": dict(extrapolate=lambda x_0, x_0_before, r: x_0),
        "Your lambda is the log of the SNR. DPM-Solver's is that of its root, sqrt(alpha_bar / (1 - alpha_bar)): half"
        " of it.": dict(lam=lambda a_bar: (a_bar / (1 - a_bar)).log()),
        "Your lambda is a quarter of the log SNR: the half and the root are the same thing. Take one of them.": dict(
            lam=lambda a_bar: (a_bar / (1 - a_bar)).log() / 4
        ),
        "Your lambda is the log of sqrt(alpha_bar) over 1 - alpha_bar: the noise is a variance there. It needs its "
        "root, too.": dict(lam=lambda a_bar: (a_bar.sqrt() / (1 - a_bar)).log()),
        "Your lambda is the log of the signal alone. It is that of signal over noise, sqrt(alpha_bar / (1 - "
        "alpha_bar)).": dict(lam=lambda a_bar: a_bar.log() / 2),
        "Your h is negative. lambda, the log of signal over noise, grows towards the image: h = lambda_prev - "
        "lambda_t.": dict(length=lambda lam_t, lam_prev: lam_t - lam_prev),
        "Your h is negative, and r with it. lambda, the log of signal over noise, grows towards the image: h = "
        "lambda_prev - lambda_t.": dict(
            length=lambda lam_t, lam_prev: lam_t - lam_prev,
            ratio=lambda lam_t, lam_prev, lam_before, steps: (lam_t - lam_before) / (lam_t - lam_prev),
        ),
        "The minus sign in front of sqrt(alpha_bar_prev) is missing. exp(-h) - 1 is negative, and x_0 is added in the"
        " end.": dict(grow=lambda h: torch.expm1(-h)),
        "You wrote exp(-h) where exp(-h) - 1 belongs: a step of length 0 must change nothing.": dict(
            grow=lambda h: -torch.exp(-h)
        ),
        "You took exp(h) - 1, as in the form for eps. In the form for x_0 it is exp(-h) - 1.": dict(grow=torch.expm1),
        "You took h where 1 - exp(-h) belongs. They are near for small steps only.": dict(grow=lambda h: h),
        "The factor of x_t is upside down: x at t_prev has less noise, sqrt(1 - alpha_bar_prev) over sqrt(1 - "
        "alpha_bar_t).": dict(kept=lambda a, prev: ((1 - a) / (1 - prev)).sqrt()),
        "The factor of x_t is a ratio of variances: its root is missing.": dict(
            kept=lambda a, prev: (1 - prev) / (1 - a)
        ),
        "The factor of x_t is a ratio of signals, as in the form for eps. In the form for x_0 it is the ratio of "
        "noises, sqrt(1 - alpha_bar_prev) over sqrt(1 - alpha_bar_t).": dict(kept=lambda a, prev: (prev / a).sqrt()),
        "The factor of x_t is the ratio of sqrt(1 / alpha_bar - 1), k-diffusion's sigma. Its images are divided by "
        "sqrt(alpha_bar); for these it is the ratio of sqrt(1 - alpha_bar).": dict(
            kept=lambda a, prev: ((1 / prev - 1) / (1 / a - 1)).sqrt()
        ),
        "The factor of D has alpha_bar_prev: its root is missing.": dict(signal=lambda a, prev: prev),
        "The factor of D lacks sqrt(alpha_bar_prev), the share of the image at t_prev.": dict(
            signal=lambda a, prev: torch.ones_like(a)
        ),
        "At t_prev = -1 you read alphas_bar[-1], which wraps around to the noisiest step. There lambda is infinite, "
        "and the step ends in x_0 itself.": dict(clean=lambda x_0, D: None),
        "At t_prev = -1 you take alphas_bar[0]<: one step of noise stays in the sample>. "
        "The step ends in x_0 itself.": dict(
            clean=lambda x_0, D: None, at_prev=lambda table, t, t_prev: table[max(t_prev, 0)]
        ),
        "At t_prev = 0 you return x_0. Index 0 is the papers' t = 1, which has one step of noise; the clean image is "
        "t_prev = -1.": dict(ends=lambda t_prev: t_prev <= 0),
        "At t_prev = -1 you return D. lambda is infinite there, and does not say how far to extrapolate: the step "
        "ends in x_0 itself.": dict(clean=lambda x_0, D: D),
        "At t_prev = -1 your alpha_bar is 1, lambda is infinite and infinities meet. Return x_0 there, before lambda "
        "is formed.": dict(
            clean=lambda x_0, D: None,
            at_prev=lambda table, t, t_prev: table[t_prev] if t_prev >= 0 else torch.ones_like(table[0]),
        ),
        "You step to t - 1. The chain that skips steps goes from t to t_prev: read alphas_bar there.": dict(
            at_prev=lambda table, t, t_prev: table[t - 1]
        ),
        "You took the paper's alpha for the alpha of a single step. Its alpha_t is sqrt(alpha_bar_t), its sigma_t "
        "sqrt(1 - alpha_bar_t).": dict(table=lambda alphas_bar: alphas_bar / before(alphas_bar)),
    },
)
