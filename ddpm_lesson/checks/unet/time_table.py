"""Exercise 3.1: the table of sines and cosines."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
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
    t = scale(T) * torch.arange(first, first + T, dtype=torch.float64)[:, None]
    angles = t * grown(base, sign * power(d_model))  # in the frequencies' dtype
    return join([wave(angles) for wave in waves])


def _unpaired(T, d_model):
    angles = torch.arange(T)[:, None] * 10000 ** (-torch.arange(d_model, dtype=torch.float64) / d_model)
    return torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())


def _unpaired_twice(T, d_model):
    angles = torch.arange(T)[:, None] * 10000 ** (-2 * torch.arange(d_model, dtype=torch.float64) / d_model)
    return torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())


def _by_rows(T, d_model):
    sines, cosines = _waves(T, d_model, waves=(torch.sin,) * 2), _waves(T, d_model, waves=(torch.cos,) * 2)
    return torch.where(torch.arange(T)[:, None] % 2 == 0, sines, cosines)


def _in_float32(base, exponent):
    return torch.exp(exponent.float() * math.log(base))


def _frequencies(evidence) -> str:
    """Where row t is sin and cos of t times something: what that is, if it is not the right one."""
    got = evidence.calls(8, 8)
    if got is None or got.shape != (8, 8) or evidence.check.cases[0].args != (8, 8):
        return ""
    start = got[0, 0::2].abs().max() > 1e-6 or (got[0, 1::2] - 1).abs().max() > 1e-6
    turned = torch.atan2(got[:, 0::2].double(), got[:, 1::2].double())
    if start or not torch.allclose(got[:, 0::2] ** 2 + got[:, 1::2] ** 2, torch.ones(()).to(got), atol=1e-5):
        return ""
    mine, right = turned[1].tolist(), [10000 ** (-2 * k / 8) for k in range(4)]
    words, right_words = (", ".join(f"{number:.3g}" for number in row) for row in (mine, right))
    wrong = [k for k in range(4) if not math.isclose(mine[k], right[k], rel_tol=1e-4)]
    if not wrong:
        return ""
    start = f"Your angles at t = 1 are {words} for d_model = 8, up to whole turns, and should be {right_words}"
    ratios = [m / r for m, r in zip(mine, right, strict=True)]
    if all(math.isclose(ratio, ratios[-1], rel_tol=1e-4) for ratio in ratios[1:]):
        return f"{start}: look at what t is multiplied by."
    if 0 in wrong or min(mine) <= 0:
        return f"{start}."
    exponents = ", ".join(f"{round(math.log(number, 10000), 6) + 0.0:.3g}" for number in mine)
    return f"{start}. As powers of 10000 yours have the exponents {exponents}, and 0, -0.25, -0.5, -0.75 belong there."


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
    misconceptions={
        "You return all sines and then all cosines, as DDPM's own code does. Here they alternate: entry 2k is the "
        "sine, 2k + 1 the cosine of the same angle. A network trained on one layout cannot read the other.": dict(
            join=_in_halves
        ),
        "Your exponents are k / (half - 1), as in DDPM's own code. Here they are k / half = 2k / d_model.": dict(
            power=lambda d_model: _k(d_model) / (d_model // 2 - 1)
        ),
        "That is the table of DDPM's own code: all sines first, exponents k / (half - 1). Here sine and cosine "
        "alternate and the exponents are 2k / d_model.": dict(
            power=lambda d_model: _k(d_model) / (d_model // 2 - 1), join=_in_halves
        ),
        "You return all cosines and then all sines, as improved-diffusion does. Here they alternate, sine first.": dict(
            waves=(torch.cos, torch.sin), join=_in_halves
        ),
        "Your exponents have the wrong sign<: the frequencies grow from 1 to nearly 10000, and neighbouring steps get "
        "unrelated numbers>. t is divided by the power, not multiplied.": dict(sign=1.0),
        "The minus in exp(-log(10000) * 2k / d_model) is missing<: your frequencies grow, and neighbouring steps get "
        "unrelated numbers>.": dict(sign=1.0, grown=_in_float32),
        "Your frequencies are powers of e<, from 1 to 1/e only>. They are powers of 10000: exp needs the factor "
        "log(10000) in its exponent.": dict(base=math.e),
        "Your frequencies are powers of 1000. The base is 10000.": dict(base=1000.0),
        "Sine and cosine are exchanged. The sine has the even entries, so that row 0 reads 0, 1, 0, 1.": dict(
            waves=(torch.cos, torch.sin)
        ),
        "All your entries are sines. Every angle has two entries: its sine and its cosine.": dict(
            waves=(torch.sin, torch.sin)
        ),
        "You return the sines only. Every angle has two entries: its sine and its cosine.": dict(waves=(torch.sin,)),
        "You counted t from 1. In code t starts at 0: row 0 reads 0, 1, 0, 1.": dict(first=1),
        "You divided t by T. The angle is t times a frequency, whatever T is.": dict(scale=lambda T: 1 / T),
        "You multiplied t by 2 pi. The angle is t times a frequency, without it.": dict(scale=lambda T: 2 * math.pi),
        "Your exponent is k / d_model. It is 2k / d_model<: with d_model / 2 frequencies yours stop at 1/100 (as they "
        "do with 100 for the base 10000)>.": dict(power=lambda d_model: _k(d_model) / d_model),
        "Your exponent is twice too large<: your index counts in twos already, and you doubled it once more>.": dict(
            power=lambda d_model: 4 * _k(d_model) / d_model
        ),
        "Your exponents start with 2 / d_model. k starts at 0: the first frequency is 1.": dict(
            power=lambda d_model: 2 * (_k(d_model) + 1) / d_model
        ),
        "Your exponent is not divided by d_model<: the frequencies fall to nothing at once>.": dict(
            power=lambda d_model: 2 * _k(d_model)
        ),
        "Sine and cosine of a pair have different frequencies: you took the entry's index for 2k. k counts pairs, so "
        "that entries 2k and 2k + 1 share an angle.": dict(instead=_unpaired),
        "Sine and cosine of a pair have different frequencies: you took the entry's index for k. k counts pairs, so "
        "that entries 2k and 2k + 1 share an angle.": dict(instead=_unpaired_twice),
        "Your angles are taken for degrees. torch.sin and torch.cos take radians: the angle as it is.": dict(
            scale=lambda T: math.pi / 180
        ),
        "Your frequencies are in reverse order: the slowest first. k = 0 is the fastest, frequency 1.": dict(
            grown=lambda base, exponent: (base**exponent).flip(0)
        ),
        "All your frequencies are 1: the exponents came out as 0. An integer division (//) does that.": dict(
            power=lambda d_model: 0.0 * _k(d_model)
        ),
        "You stacked sines and cosines on a new first axis and reshaped: those of different t share a row. Stack them "
        "on a new last axis.": dict(join=lambda waves: torch.stack(waves).reshape(len(waves[0]), -1)),
        "You divided each row by its length. The sines and cosines themselves are asked for.": dict(
            give=lambda table: table / math.sqrt(table.shape[1] / 2)
        ),
        "Sine and cosine alternate over the rows of your table, with t. They alternate over the columns.": dict(
            instead=_by_rows
        ),
    },
)
