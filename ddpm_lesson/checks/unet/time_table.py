"""Exercise 3.1: the table of sines and cosines."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check, Misconception
from ddpm_lesson.checks._inputs import double


def _time_table(T, d_model):
    """Exercise 3.1: sines and cosines of every step at d_model / 2 frequencies.  Ho et al. 2020, App. B.

    T: int, number of steps.  d_model: int, even.  Returns (T, d_model): entry 2k of row t is
    sin(t / 10000^(2k / d_model)), entry 2k + 1 the cosine of the same angle.
    Not the layout of DDPM's own code: there all sines come first, and the exponents reach 1.
    """
    rows = []
    for t in range(T):
        angles = [t / 10000 ** (2 * k / d_model) for k in range(d_model // 2)]
        rows.append([wave(angle) for angle in angles for wave in (math.sin, math.cos)])
    return double(rows)


def _k(d_model: int) -> Tensor:
    return torch.arange(d_model // 2, dtype=torch.float64)


def _alternating(waves: list[Tensor]) -> Tensor:
    return torch.stack(waves, 2).flatten(1)


def _in_halves(waves: list[Tensor]) -> Tensor:
    return torch.cat(waves, 1)


def _waves(
    T: int,
    d_model: int,
    *,
    first=0,
    scale=lambda T: 1.0,  # of t
    base=10000.0,
    power=lambda d_model: 2 * _k(d_model) / d_model,
    sign=-1.0,
    grown=lambda base, exponent: base**exponent,
    waves=(torch.sin, torch.cos),
    join=_alternating,
) -> Tensor:
    t = scale(T) * torch.arange(first, first + T)[:, None]
    angles = t * grown(base, sign * power(d_model))  # in the frequencies' dtype
    return join([wave(angles) for wave in waves])


def _unpaired(T, d_model):
    angles = torch.arange(T)[:, None] * 10000 ** (-torch.arange(d_model, dtype=torch.float64) / d_model)
    return torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())


def _unpaired_twice(T, d_model):
    angles = torch.arange(T)[:, None] * 10000 ** (-2 * torch.arange(d_model, dtype=torch.float64) / d_model)
    return torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())


def _in_float32(base, exponent):
    return torch.exp(exponent.float() * math.log(base))


def _frequencies(evidence) -> str:
    """Where row t is sin and cos of t times something: what that is, if it is not the right one."""
    got = evidence.got[0]
    if got is None or got.shape != (8, 8) or evidence.check.cases[0].args != (8, 8):
        return ""
    start = got[0, 0::2].abs().max() > 1e-6 or (got[0, 1::2] - 1).abs().max() > 1e-6
    turned = torch.atan2(got[:, 0::2].double(), got[:, 1::2].double())
    if start or not torch.allclose(got[:, 0::2] ** 2 + got[:, 1::2] ** 2, torch.ones(()).to(got), atol=1e-5):
        return ""
    mine, right = turned[1].tolist(), [10000 ** (-2 * k / 8) for k in range(4)]
    words = ", ".join(f"{number:.3g}" for number in mine)
    wrong = [k for k in range(4) if not math.isclose(mine[k], right[k], rel_tol=1e-4)]
    place = f" (wrong from the {wrong[0] + 1}. on)" if wrong and wrong[0] else ""
    return wrong and f"Your angles at t = 1 are {words} for d_model = 8{place}: look at the base and the exponent."


time_table = Check(
    number="3.1",
    name="time_table",
    specification=_time_table,
    form=_waves,
    clues=(_frequencies,),
    cases=tuple(  # few steps: at t = 999 the angles of float32 are off by 0.0001
        Case(f"T = {T}, d_model = {d_model}", (T, d_model)) for T, d_model in [(8, 8), (10, 4), (3, 2), (1, 6)]
    ),
    among="T = 1 and d_model = 2",
    misconceptions=(
        Misconception(
            "You return all sines and then all cosines, as DDPM's own code does. Here they alternate: entry 2k is the "
            "sine, 2k + 1 the cosine of the same angle. A network trained on one layout cannot read the other.",
            join=_in_halves,
        ),
        Misconception(
            "Your exponents are k / (half - 1), as in DDPM's own code. Here they are k / half = 2k / d_model.",
            power=lambda d_model: _k(d_model) / (d_model // 2 - 1),
        ),
        Misconception(
            "That is the table of DDPM's own code: all sines first, exponents k / (half - 1). Here sine and cosine "
            "alternate and the exponents are 2k / d_model.",
            power=lambda d_model: _k(d_model) / (d_model // 2 - 1),
            join=_in_halves,
        ),
        Misconception(
            "You return all cosines and then all sines, as improved-diffusion does. Here they alternate, sine first.",
            waves=(torch.cos, torch.sin),
            join=_in_halves,
        ),
        Misconception(
            "Your frequencies grow from 1 to nearly 10000: t is divided by the power, not multiplied. With yours "
            "neighbouring steps get unrelated numbers.",
            sign=1.0,
        ),
        Misconception(
            "The minus in exp(-log(10000) * 2k / d_model) is missing: your frequencies grow, and neighbouring steps "
            "get unrelated numbers.",
            sign=1.0,
            grown=_in_float32,
        ),
        Misconception(
            "Your frequencies are powers of e, from 1 to 1/e only. They are powers of 10000: exp needs the factor "
            "log(10000) in its exponent.",
            base=math.e,
        ),
        Misconception("Your frequencies are powers of 1000. The base is 10000.", base=1000.0),
        Misconception("Your frequencies are powers of 100000. The base is 10000.", base=100000.0),
        Misconception(
            "Sine and cosine are exchanged. The sine has the even entries, so that row 0 reads 0, 1, 0, 1.",
            waves=(torch.cos, torch.sin),
        ),
        Misconception(
            "All your entries are sines. Every angle has two entries: its sine and its cosine.",
            waves=(torch.sin, torch.sin),
        ),
        Misconception(
            "All your entries are cosines. Every angle has two entries: its sine and its cosine.",
            waves=(torch.cos, torch.cos),
        ),
        Misconception(
            "You return the sines only. Every angle has two entries: its sine and its cosine.", waves=(torch.sin,)
        ),
        Misconception(
            "You counted t from 1. In code t starts at 0: row 0 reads 0, 1, 0, 1.",
            first=1,
        ),
        Misconception(
            "You divided t by T. The angle is t times a frequency, whatever T is.",
            scale=lambda T: 1 / T,
        ),
        Misconception(
            "You multiplied t by 2 pi. The angle is t times a frequency, without it.",
            scale=lambda T: 2 * math.pi,
        ),
        Misconception(
            "You multiplied t by 1000, as code for times from 0 to 1 does. Here t counts steps.",
            scale=lambda T: 1000.0,
        ),
        Misconception(
            "Your exponent is k / d_model. It is 2k / d_model: with d_model / 2 frequencies yours stop at 1/100 (as they do "
            "with 100 for the base 10000).",
            power=lambda d_model: _k(d_model) / d_model,
        ),
        Misconception(
            "Your exponent is twice too large: your index counts in twos already, and you doubled it once more.",
            power=lambda d_model: 4 * _k(d_model) / d_model,
        ),
        Misconception(
            "Your exponents start with 2 / d_model. k starts at 0: the first frequency is 1.",
            power=lambda d_model: 2 * (_k(d_model) + 1) / d_model,
        ),
        Misconception(
            "Your exponent is not divided by d_model: the frequencies fall to nothing at once.",
            power=lambda d_model: 2 * _k(d_model),
        ),
        Misconception(
            "Sine and cosine of a pair have different frequencies: you took the entry's index for 2k. k counts pairs, "
            "so that entries 2k and 2k + 1 share an angle.",
            instead=_unpaired,
        ),
        Misconception(
            "Sine and cosine of a pair have different frequencies: you took the entry's index for k. k counts pairs, "
            "so that entries 2k and 2k + 1 share an angle.",
            instead=_unpaired_twice,
        ),
    ),
)
