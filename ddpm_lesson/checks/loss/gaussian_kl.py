"""Exercise 2.4: the KL divergence of two Gaussians."""

import itertools
import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions
from ddpm_lesson.checks._rows import Rows
from ddpm_lesson.checks.loss._words import reduced


def _gaussian_kl(mean_1, var_1, mean_2, var_2):
    """Exercise 2.4: KL(N(mean_1, var_1) || N(mean_2, var_2)) of each coordinate.  Needed in Ho et al. 2020, Eq. 5.

    mean_1, mean_2: (B, *D).  var_1, var_2: variances above 0, of a shape that broadcasts with the means.
    Returns (B, *D), nats.  Not symmetric: the expectation is taken over the first Gaussian.
    """
    parts = torch.broadcast_tensors(mean_1, var_1, mean_2, var_2)
    rows = zip(*(part.flatten().tolist() for part in parts), strict=True)
    kl = [(math.log(v_2 / v_1) + (v_1 + (m_1 - m_2) ** 2) / v_2 - 1) / 2 for m_1, v_1, m_2, v_2 in rows]
    return double(kl).reshape(mean_1.shape)


def _half_sum(
    mean_1: Tensor,
    var_1: Tensor,
    mean_2: Tensor,
    var_2: Tensor,
    *,
    order=lambda first, second: (first, second),
    as_var=lambda var: var,
    logarithm=lambda v_1, v_2: (v_2 / v_1).log(),
    ratio=lambda v_1, v_2: v_1 / v_2,
    distance=lambda d, v_1, v_2: d**2 / v_2,
    constant=-1.0,
    factor=0.5,
    bare=(),  # the terms that stand outside of the bracket, by their places
) -> Tensor:
    (mean_1, var_1), (mean_2, var_2) = order((mean_1, var_1), (mean_2, var_2))
    v_1, v_2 = as_var(var_1), as_var(var_2)
    terms = (logarithm(v_1, v_2), ratio(v_1, v_2), distance(mean_1 - mean_2, v_1, v_2), constant)
    return sum((term if place in bare else factor * term) for place, term in enumerate(terms))


def _terms(mean_1, var_1, mean_2, var_2):
    d = mean_1.double() - mean_2
    return {
        "log(var_2 / var_1)": (var_2 / var_1).log(),
        "var_1 / var_2": var_1 / var_2,
        "(mean_1 - mean_2)^2 / var_2": d**2 / var_2,
        "1": torch.ones_like(d),
        "var_2 / var_1": var_2 / var_1,
        "(mean_1 - mean_2)^2 / var_1": d**2 / var_1,
        "(mean_1 - mean_2)^2": d**2,
        "|mean_1 - mean_2| / var_2": d.abs() / var_2,
        "(mean_1 - mean_2) / var_2": d / var_2,
        "(mean_1 - mean_2)^2 / var_2^2": d**2 / var_2**2,
        "(mean_1 - mean_2)^2 / sqrt(var_2)": d**2 / var_2.sqrt(),
        "log(var_1) + log(var_2)": (var_1 * var_2).log(),
        "var_1": var_1,
        "var_2": var_2,
        "var_1^2 / var_2": var_1**2 / var_2,
        "(mean_1^2 - mean_2^2) / var_2": (mean_1.double() ** 2 - mean_2**2) / var_2,
        "sqrt(var_1 / var_2)": (var_1 / var_2).sqrt(),
        "(var_1 / var_2)^2": (var_1 / var_2) ** 2,
    }


def _brackets() -> Rows:
    """Rows of the table: a bracket that ends too early, or is missing, and what is halved then.

    Not all but the logarithm, which textbooks halve in another way, and not the constant alone.
    """
    words, places = ("the logarithm", "var_1 / var_2", "the squared distance", "the 1"), range(4)
    rows: Rows = {}
    for halved in (some for many in (1, 2, 3) for some in itertools.combinations(places, many)):
        if halved not in ((1, 2, 3), (3,)):
            *most, last = (words[place] for place in halved)
            found = f"{', '.join(most)} and {last}" if most else last
            sentence = f"The 1/2 stands before the whole bracket<, and yours halves {found} only>: put all four terms "
            rows[f"{sentence}into the bracket."] = dict(factor=0.5, bare=tuple({*places} - {*halved}))
    return rows


def _powers(*shape: int, start: int = 0) -> Tensor:
    """Powers of 2 from 1/16 to 4 in float32, times 1, 1.25 or 1.5, in an order without pattern."""
    values = [2.0 ** ((start + 5 * i) % 7 - 4) * (1 + (start + i // 7) % 3 / 4) for i in range(math.prod(shape))]
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


gaussian_kl = Check(
    number="2.4",
    name="gaussian_kl",
    specification=_gaussian_kl,
    form=_half_sum,
    terms=_terms,
    cases=tuple(
        Case(
            f"means of shape {shape}, variances of shape {wide}{remark}",
            (fractions(*shape), _powers(*wide), fractions(*shape, start=k), scale * _powers(*wide, start=k)),
        )
        for shape, wide, k, scale, remark in [
            ((2, 1, 8, 8), (2, 1, 8, 8), 11, 1.0, ""),
            ((3, 2), (3, 1), 11, 1.0, ""),
            ((5,), (5,), 11, 2.0**-12, ", the second narrow"),
            ((2, 3), (2, 3), 0, 1.0, ", two equal Gaussians"),
        ]
    ),
    among="equal and very unequal Gaussians",
    misconceptions={
        "Your arguments are reversed: that is KL(second || first). In the bound q comes first, because the expectation "
        "is taken over q; p comes second.": dict(order=lambda first, second: (second, first)),
        "You forgot the factor 1/2<. Without it the bound comes out twice too large>.": dict(factor=1.0),
        **_brackets(),
        "You forgot the - 1<. Two equal Gaussians are then half a nat apart, and must be 0 apart>.": dict(constant=0.0),
        "You squared the variances, as if they were standard deviations. var is sigma^2 already.": dict(
            as_var=torch.square
        ),
        "You took roots: standard deviations stand where variances belong. The formula holds var itself.": dict(
            as_var=torch.sqrt
        ),
        "You put variances into the formula for log-variances, which exponentiates them. Divide by var, and take its "
        "logarithm.": dict(as_var=torch.exp),
        "The logarithm has the wrong sign: it is log(var_2 / var_1)<. With yours too large a "
        "variance is rewarded>.": dict(logarithm=lambda v_1, v_2: (v_1 / v_2).log()),
        "Your logarithm counts twice. Textbooks write log(sigma_2 / sigma_1), which is half "
        "of log(var_2 / var_1).": dict(logarithm=lambda v_1, v_2: 2 * (v_2 / v_1).log()),
        "Your ratio of variances is upside down: var_1 / var_2, the first's spread in units of the second's.": dict(
            ratio=lambda v_1, v_2: v_2 / v_1
        ),
        "You did not square the difference of the means<. An error to one side would then count as a gain>.": dict(
            distance=lambda d, v_1, v_2: d / v_2
        ),
        "You took the absolute difference of the means. It is squared.": dict(
            distance=lambda d, v_1, v_2: d.abs() / v_2
        ),
        "You divided the squared distance by var_1. How far is far is said by the second's width: var_2.": dict(
            distance=lambda d, v_1, v_2: d**2 / v_1
        ),
        "You did not divide the squared distance of the means. How far is far is said by the "
        "second's width: var_2.": dict(distance=lambda d, v_1, v_2: d**2),
        "You divided the squared distance by the square of var_2. var is sigma^2 already.": dict(
            distance=lambda d, v_1, v_2: d**2 / v_2**2
        ),
        "You put var where the textbook has sigma, and halved its logarithm only: the squares have to go, too. var is "
        "sigma^2 already: (var_1 + (mean_1 - mean_2)^2) / var_2.": dict(
            ratio=lambda v_1, v_2: (v_1 / v_2) ** 2, distance=lambda d, v_1, v_2: d**2 / v_2**2
        ),
        "You squared the ratio of the variances. var is sigma^2 already.": dict(
            ratio=lambda v_1, v_2: (v_1 / v_2) ** 2
        ),
        "You squared var_1. var is sigma^2 already.": dict(ratio=lambda v_1, v_2: v_1**2 / v_2),
        "You divided by the square of var_2, twice. var is sigma^2 already.": dict(
            ratio=lambda v_1, v_2: v_1 / v_2**2, distance=lambda d, v_1, v_2: d**2 / v_2**2
        ),
        "You divided by log 2: those are bits. Nats are asked for; convert once, where bits are shown.": dict(
            factor=0.5 / math.log(2)
        ),
        "You return the cross entropy: the first Gaussian's entropy is not subtracted yet.": dict(
            instead=lambda m_1, v_1, m_2, v_2: 0.5 * ((2 * math.pi * v_2).log() + (v_1 + (m_1 - m_2) ** 2) / v_2)
        ),
        **reduced("Each coordinate's own KL is asked for: the bound needs their sum and bits/dim their mean."),
        "You return the mean of both directions. It is the KL of the first to the second, in one direction.": dict(
            instead=lambda mean_1, var_1, mean_2, var_2: (
                (_half_sum(mean_1, var_1, mean_2, var_2) + _half_sum(mean_2, var_2, mean_1, var_1)) / 2
            )
        ),
    },
)
