"""Noise schedules: each function turns a number of steps T into betas, (T,) float64.

beta_t is the *variance* that step t adds (DDPM Eq. 2). Index 0 is the papers' t = 1.
Every function raises ValueError unless T is a positive integer, and under torch.device('meta'), which holds no numbers.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lesson._tensors import WITHOUT_NUMBERS, check_numbers


def linear(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Evenly spaced betas.  Ho et al. 2020, Section 4 (the defaults, with T = 1000).

    Returns (T,) float64 from beta_1 to beta_T, both included; T = 1 gives beta_1.
    Raises ValueError if beta_1 or beta_T lies outside (0, 1].
    Not for short chains: with these defaults T = 200 still keeps alphas_bar = 0.13. See `linear_scaled`.
    """
    _check_variances(beta_1=beta_1, beta_T=beta_T)
    return torch.linspace(beta_1, beta_T, _steps(T), dtype=torch.float64)


def linear_scaled(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """`linear` with both ends multiplied by 1000 / T.  Nichol & Dhariwal 2021, the code's "linear" schedule.

    Returns (T,) float64. The sum of the betas is the same for every T, so the chain always ends near noise.
    Raises ValueError where the last beta would reach 1: T <= 20 with the defaults.
    """
    scale = 1000 / _steps(T)
    if beta_T * scale >= 1:
        advice = f"take T > {1000 * beta_T:g}, or the vp or cosine schedule for very short chains"
        raise ValueError(
            f"linear_scaled needs 1000 / T * beta_T below 1, got {beta_T * scale:.4g} at T = {T}; {advice}"
        )
    return linear(T, beta_1 * scale, beta_T * scale)


def quadratic(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Squares of evenly spaced roots.  Ho et al. 2020, the code's "quad".

    Returns (T,) float64 from beta_1 to beta_T.
    Raises ValueError if beta_1 or beta_T lies outside (0, 1].
    Not linear ** 2: the ends are beta_1 and beta_T themselves, so the roots go in.
    """
    _check_variances(beta_1=beta_1, beta_T=beta_T)
    return torch.linspace(beta_1**0.5, beta_T**0.5, _steps(T), dtype=torch.float64) ** 2


def constant(T: int, beta: float = 0.02) -> Tensor:
    """The same beta at every step.  Ho et al. 2020, the code's "const".

    Returns (T,) float64. Raises ValueError if beta lies outside (0, 1].
    """
    _check_variances(beta=beta)
    return torch.full((_steps(T),), beta, dtype=torch.float64)


def jsd(T: int) -> Tensor:
    """1/T, 1/(T-1), ..., 1/2, 1.  Sohl-Dickstein et al. 2015, the schedule of their binomial chains; DDPM's "jsd".

    Returns (T,) float64. The last beta is 1, so alphas_bar_T = 0: nothing of x_0 is left, and a network that
    predicts epsilon cannot be decoded at that step.
    """
    return 1 / torch.linspace(T, 1, _steps(T), dtype=torch.float64)


def warmup10(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Linear over the first 10 % of the steps, then beta_T.  Ho et al. 2020, the code's "warmup10".

    Returns (T,) float64. Raises ValueError if beta_1 or beta_T lies outside (0, 1].
    """
    return _warmup(T, beta_1, beta_T, fraction=0.1)


def warmup50(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Linear over the first half of the steps, then beta_T.  Ho et al. 2020, the code's "warmup50".

    Returns (T,) float64. Raises ValueError if beta_1 or beta_T lies outside (0, 1].
    """
    return _warmup(T, beta_1, beta_T, fraction=0.5)


def cosine(T: int, s: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """alphas_bar follows a squared cosine.  Nichol & Dhariwal 2021, Eq. 17.

    alphas_bar(u) = f(u) / f(0), f(u) = cos^2((u + s) / (1 + s) * pi / 2), u = t / T; betas are its ratios.
    Returns (T,) float64, capped at max_beta. Raises ValueError if s is negative or max_beta lies outside (0, 1].
    The cap keeps the last beta below 1; without it alphas_bar_T would be 0.
    """
    if s < 0:
        raise ValueError(f"s must not be negative, got {s}")
    u = torch.linspace(0, 1, _steps(T) + 1, dtype=torch.float64)
    return betas_from_alphas_bar(torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2, max_beta)


def sigmoid(T: int, start: float = -3.0, end: float = 3.0, max_beta: float = 0.999) -> Tensor:
    """alphas_bar falls as a sigmoid from 1 to 0.  Jabri et al. 2022 (arXiv 2212.11972), temperature 1.

    Returns (T,) float64: ratios of the rescaled sigmoid between start and end, capped at max_beta.
    Raises ValueError unless start < end and max_beta lies in (0, 1].
    Not `sigmoid_betas`, which DDIM's code and diffusers call "sigmoid": there the betas are the sigmoid.
    """
    if not start < end:
        raise ValueError(f"start must be below end, got {start} and {end}")
    curve = torch.sigmoid(torch.linspace(start, end, _steps(T) + 1, dtype=torch.float64))
    return betas_from_alphas_bar((curve[-1] - curve) / (curve[-1] - curve[0]), max_beta)


def sigmoid_betas(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """The betas rise as a sigmoid between beta_1 and beta_T.  Song et al. 2021 (DDIM), the code's "sigmoid".

    beta_t = beta_1 + (beta_T - beta_1) sigmoid(u_t), u evenly spaced from -6 to 6. diffusers' "sigmoid" is the same.
    Returns (T,) float64; since sigmoid(-6) = 0.0025, the ends lie 0.25 % of the way inside of beta_1 and beta_T.
    Raises ValueError if beta_1 or beta_T lies outside (0, 1].
    Not `sigmoid`: there alphas_bar is the sigmoid, which falls, and the last beta is near 1.
    """
    _check_variances(beta_1=beta_1, beta_T=beta_T)
    u = torch.linspace(-6, 6, _steps(T), dtype=torch.float64)
    return beta_1 + (beta_T - beta_1) * torch.sigmoid(u)


def geometric(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Tensor:
    """Betas that grow by the same factor at every step: what "exponentially growing betas" says literally.

    beta_t = beta_1 * (beta_T / beta_1) ** (t / (T - 1)), t = 0..T-1. Returns (T,) float64.
    Raises ValueError if beta_1 or beta_T lies outside (0, 1].
    No paper of this course uses it, and with the defaults and T = 1000 the chain stops at alphas_bar = 0.02.
    Two published things come near: `geometric_variance`, and sigmas that grow exponentially (k-diffusion).
    """
    _check_variances(beta_1=beta_1, beta_T=beta_T)
    return torch.logspace(math.log10(beta_1), math.log10(beta_T), _steps(T), dtype=torch.float64)


def geometric_variance(T: int, var_min: float = 1e-4, var_max: float = 0.9999) -> Tensor:
    """1 - alphas_bar grows by the same factor at every step.  After an option of the code of Xiao et al. 2022.

    1 - alphas_bar_t = var_min * (var_max / var_min) ** (t / T), t = 1..T. Returns (T,) float64.
    Raises ValueError unless 0 < var_min < var_max <= 1.
    Not `geometric`: there the step's own variance beta grows.
    Their code takes the variance of t = 0, var_min, to be in the data already: it forms the ratios of alphas_bar at
    T + 1 times from 0.001 to 1, as in `vp`. Here the chain starts at alphas_bar = 1; its first step adds var_min too.
    """
    if not 0 < var_min < var_max <= 1:
        raise ValueError(f"expected 0 < var_min < var_max <= 1, got {var_min} and {var_max}")
    u = torch.arange(1, _steps(T) + 1, dtype=torch.float64) / T
    return betas_from_alphas_bar(_after_one(1 - var_min * (var_max / var_min) ** u))


def vp(T: int, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> Tensor:
    """The VP-SDE read off at T + 1 times from t_min to 1.  Xiao et al. 2022, as their code computes it.

    1 - alphas_bar(u) = 1 - exp(-beta_min u - (beta_max - beta_min) u^2 / 2); betas are the ratios of alphas_bar.
    Returns (T,) float64. T = 4 gives 0.4783, 0.8492, 0.9564, 0.9874.
    Raises ValueError unless 0 < beta_min <= beta_max and 0 <= t_min < 1.
    beta_min and beta_max are rates of a differential equation, not variances of a step.
    """
    if not 0 < beta_min <= beta_max:
        raise ValueError(f"expected 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")
    if not 0 <= t_min < 1:
        raise ValueError(f"t_min must lie in [0, 1), got {t_min}")
    u = torch.linspace(t_min, 1, _steps(T) + 1, dtype=torch.float64)
    return -torch.expm1((-beta_min * u - (beta_max - beta_min) * u**2 / 2).diff())


def vp_paper(T: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """The VP-SDE in T equal steps from 0.  Xiao et al. 2022, the formula of their appendix.

    beta_t = 1 - exp(-beta_min / T - (beta_max - beta_min) (2t - 1) / (2 T^2)), t = 1..T.
    Returns (T,) float64. T = 4 gives 0.4763, 0.8490, 0.9565, 0.9875: not the numbers of their code, see `vp`.
    Raises ValueError unless 0 < beta_min <= beta_max.
    """
    return vp(T, beta_min, beta_max, t_min=0.0)


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Any schedule, shifted and scaled so that alphas_bar_T = 0.  Lin et al. 2023, Algorithm 1.

    betas: (T,) with T >= 2. Returns (T,) float64: sqrt(alphas_bar) keeps its first value and ends at 0, so the last
    beta is 1. Raises ValueError if betas is not one-dimensional with at least two entries.
    A network that predicts epsilon cannot be decoded at the last step; v and x_0 can.
    """
    if betas.ndim != 1 or len(betas) < 2:
        raise ValueError(f"betas must be (T,) with T >= 2, got shape {tuple(betas.shape)}")
    root = torch.cumprod(1 - betas.double(), 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return betas_from_alphas_bar(_after_one(root**2))


def betas_from_alphas_bar(alphas_bar: Tensor, max_beta: float = 1.0) -> Tensor:
    """betas_t = 1 - alphas_bar_t / alphas_bar_{t-1}, capped at max_beta: the inverse of the cumulative product.

    alphas_bar: (T + 1,), starting with the value before the first step (1 for an ordinary chain), falling.
    Returns (T,) in alphas_bar's dtype. Raises ValueError if alphas_bar rises, or if max_beta lies outside (0, 1].
    """
    _check_variances(max_beta=max_beta)
    check_numbers("alphas_bar", alphas_bar)
    if alphas_bar.ndim != 1 or not bool((alphas_bar.diff() < 0).all() and (alphas_bar[-1] >= 0)):
        shape, ends = tuple(alphas_bar.shape), alphas_bar.flatten()[[0, -1]].tolist() if alphas_bar.numel() else []
        raise ValueError(f"alphas_bar must be (T + 1,), fall at every step to 0 or above, got {shape}, ends {ends}")
    return (1 - alphas_bar[1:] / alphas_bar[:-1]).clamp(max=max_beta)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (linear, linear_scaled, quadratic, constant, jsd, warmup10, warmup50)
    + (cosine, sigmoid, sigmoid_betas, geometric, geometric_variance, vp, vp_paper)
}


def named(name: str, T: int) -> Tensor:
    """The schedule of that name with its default values: the front door for command lines and forms.

    Returns (T,) float64. Raises ValueError for an unknown name and lists those that exist.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; there are {', '.join(SCHEDULES)}")
    return SCHEDULES[name](T)


def _warmup(T: int, beta_1: float, beta_T: float, fraction: float) -> Tensor:
    _check_variances(beta_1=beta_1, beta_T=beta_T)
    betas = torch.full((_steps(T),), beta_T, dtype=torch.float64)
    rising = int(T * fraction)
    betas[:rising] = torch.linspace(beta_1, beta_T, rising, dtype=torch.float64)
    return betas


def _after_one(alphas_bar: Tensor) -> Tensor:
    return torch.cat([alphas_bar.new_ones(1), alphas_bar])


def _steps(T: int) -> int:
    if isinstance(T, bool) or not hasattr(T, "__index__") or T < 1:
        raise ValueError(f"T must be a positive integer, got {T!r}")
    if torch.empty(0).device.type == "meta":
        raise ValueError(f"a schedule is made of numbers: {WITHOUT_NUMBERS}")
    return T


def _check_variances(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name} is a variance and must lie in (0, 1], got {value}")
