"""Which of T steps a shorter chain visits: each function returns S increasing indices into 0..T-1.

The result goes into `GaussianDiffusion.respaced`. Every function raises ValueError unless 1 <= S <= T.
"""

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, repeat

import torch
from torch import Tensor


def leading(T: int, S: int) -> list[int]:
    """0, k, 2k, ... with k = T // S.  Lin et al. 2023, Table 2 ("leading").

    The chain starts early: 10 of 1000 steps begin at index 900, where noise is expected but some image is left.
    Exactly S steps; published code that takes range(0, T, T // S) gives 334 for S = 300 of 1000.
    """
    _check(T, S)
    return [i * (T // S) for i in range(S)]


def trailing(T: int, S: int) -> list[int]:
    """T - 1 and every T / S steps below it.  Lin et al. 2023, Table 2 ("trailing").

    The last index is always T - 1, so that sampling starts where the noise is. Not `leading` shifted by one:
    the stride is a fraction and is rounded at each step.
    diffusers sums a float stride instead: for some S (61 of 1000) its list has S + 1 entries, the last of them -1.
    """
    _check(T, S)
    return [round(T * i / S) - 1 for i in range(1, S + 1)]


def linspace(T: int, S: int) -> list[int]:
    """Evenly spaced from 0 to T - 1, both included.  Lin et al. 2023, Table 2 ("linspace").

    Halves go to the even index. diffusers' float stride misses some of them: for 92 of the 999 S of 1000 steps (27 the
    first) single entries differ by one.
    Raises ValueError also for S = 1, which cannot hold both ends (`trailing` can do one step).
    """
    _check(T, S)
    if S == 1:
        raise ValueError("linspace holds both ends and needs S >= 2, got 1; use trailing for a single step")
    return [round(i * (T - 1) / (S - 1)) for i in range(S)]


def quadratic(T: int, S: int) -> list[int]:
    """Squares of evenly spaced roots up to 0.8 T.  Song et al. 2021 (DDIM), Section D.2; 0.8 is their code's.

    Small squares fall on the same integer; such steps would move nothing and are left out, so fewer than S may
    come back. The grid ends at 0.8 T, not at T - 1.
    """
    _check(T, S)
    return sorted({int(0.8 * T * i**2 / max(S - 1, 1) ** 2) for i in range(S)})


def ddim(T: int, S: int) -> list[int]:
    """range(0, T, k) with the smallest whole stride k that gives exactly S steps.  Improved DDPM's "ddimN".

    Raises ValueError if no whole stride does (S = 300 of 1000, say).
    """
    _check(T, S)
    for stride in range(1, T + 1):
        if len(range(0, T, stride)) == S:
            return list(range(0, T, stride))
    raise ValueError(f"no whole stride through {T} steps visits exactly {S} of them")


def sections(T: int, counts: Sequence[int]) -> list[int]:
    """T cut into len(counts) equal sections, counts[k] steps in the k-th.  Improved DDPM's section counts.

    Within a section the steps are evenly spaced from its first to its last index; one step takes the first.
    The stride is summed up as in Improved DDPM's code, so that halves are rounded as there: the sum of floats may lie
    beside a half that stride * i meets.
    Raises ValueError if counts is empty or a section holds fewer steps than asked for.
    """
    if not counts:
        raise ValueError("counts must name at least one section, got none")
    steps, start = [], 0
    for k, count in enumerate(counts):
        size = T // len(counts) + (k < T % len(counts))
        if not 1 <= count <= size:
            raise ValueError(f"section {k} holds {size} steps, cannot choose {count} of them")
        stride = (size - 1) / (count - 1) if count > 1 else 1
        steps += [start + round(offset) for offset in accumulate(repeat(stride, count - 1), initial=0.0)]
        start += size
    return steps


def log_snr(snr: Tensor, S: int) -> list[int]:
    """Evenly spaced in the log of the signal-to-noise ratio, from 0 to T - 1.  Lu et al. 2022, "logSNR".

    snr: (T,), `process.snr`, falling. The nearest steps; two that fall on one are taken once, so fewer than S may come
    back: the first steps of a chain lie far apart in log-SNR. Raises ValueError also for S = 1.
    """
    return _nearest(snr.log().neg(), S, 1.0)


def karras(snr: Tensor, S: int, rho: float = 7.0) -> list[int]:
    """Evenly spaced in sigma^(1 / rho), sigma = 1 / sqrt(snr), from 0 to T - 1.  Karras et al. 2022, Eq. 5.

    snr: (T,), `process.snr`, falling. Nearest steps as in `log_snr`. With beta linear from 1e-4 to 0.02 and T = 1000
    more of them have little noise than `trailing`'s; with the cosine schedule fewer: its last sigmas are large, and
    many of the nearest steps are the same. Raises ValueError also for S = 1.
    """
    return _nearest(snr**-0.5, S, 1 / rho)


def _nearest(level: Tensor, S: int, power: float) -> list[int]:
    """The steps nearest to S levels, the powers of which are evenly spaced.  level: (T,), rising."""
    level = level.cpu().double()
    _check(len(level), S)
    if S == 1:
        raise ValueError("this choice holds both ends and needs S >= 2, got 1; use trailing for a single step")
    if level[-1].isinf():  # pure noise: no level is near it, and the chain begins there
        return [*(_nearest(level[:-1], S - 1, power) if S > 2 else [0]), len(level) - 1]
    ends = level[[0, -1]] ** power
    wanted = torch.linspace(ends[0].item(), ends[1].item(), S, dtype=torch.float64) ** (1 / power)
    return sorted({int((level - each).abs().argmin()) for each in wanted})


SPACINGS: dict[str, Callable[[int, int], list[int]]] = {
    f.__name__: f for f in (leading, trailing, linspace, quadratic, ddim)
}
BY_LEVEL: dict[str, Callable[[Tensor, int], list[int]]] = {f.__name__: f for f in (log_snr, karras)}


def named(text: str, T: int, snr: Tensor | None = None) -> list[int]:
    """The steps that a short text asks for: "trailing50", "ddim25", "log_snr20", or sections "10,15,20".

    The front door for command lines and forms. snr: (T,), what log_snr and karras go by.
    Raises ValueError for any other text and lists the forms, and for a choice that needs snr and has none.
    """
    if re.fullmatch(r"\d+(,\d+)*", text):
        return sections(T, [int(count) for count in text.split(",")])
    match = re.fullmatch(r"([a-z_]+)(\d+)", text)
    if match is None or match[1] not in SPACINGS | BY_LEVEL:
        names = ", ".join(f"{name}N" for name in SPACINGS | BY_LEVEL)
        raise ValueError(f"unknown step choice {text!r}; expected {names} with a number N, or counts like 10,15,20")
    if match[1] in SPACINGS:
        return SPACINGS[match[1]](T, int(match[2]))
    if snr is None:
        raise ValueError(f"{text} goes by the process's signal-to-noise ratios: give snr, got none")
    return BY_LEVEL[match[1]](snr, int(match[2]))


def _check(T: int, S: int) -> None:
    if not 1 <= S <= T:
        raise ValueError(f"the number of steps S must lie in 1..{T}, got {S}")
