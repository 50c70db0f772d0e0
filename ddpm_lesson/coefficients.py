"""The one table of coefficients: computed from betas in float64, read through `extract`.

Index t runs over 0..T-1; t = 0 is the papers' t = 1.
"""

import math
from collections.abc import Sequence
from functools import reduce
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from ddpm_lesson._tensors import check_numbers, check_range, float32_at_least, moved, table_dtype

Steps = int | Tensor  # one step for the whole batch, or (B,) int64 with one for each image


def extract(v: Tensor, t: Tensor, x_shape: Sequence[int], *, dtype: torch.dtype | None = None) -> Tensor:
    """The entries v[t], one per batch element, shaped to broadcast against x.

    v: (T,). t: (B,) int64 in 0..T-1, on v's device. x_shape: (B, *D). dtype: the result's; None keeps v's.
    Returns (B, 1, ..., 1) with as many dimensions as x_shape.
    Raises TypeError for a t that is not integer, ValueError for shapes or devices that do not fit and for a t out
    of range (on a GPU that last check would wait for the device, so there PyTorch's own index check has to do).
    Not v[t] alone: (B,) would broadcast against the last axis of an image, the width.

    >>> x = torch.ones(2, 3, 8, 8)
    >>> extract(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([2, 0]), x.shape).shape
    torch.Size([2, 1, 1, 1])
    """
    _check_steps(t, v)
    _check_batch(t, x_shape)
    out = v.gather(0, t.long()).view(-1, *[1] * (len(x_shape) - 1))
    return out if dtype is None else out.to(dtype)


_COMMON = (torch.float32, torch.float64)


def combine(*terms: tuple[float | Tensor, Tensor]) -> Tensor:
    """Sum of c * x over the pairs (c, x): how every formula of the process meets images.

    c: a number, or (B,) with one for each image: an entry of `Coefficients.row`. x: (B, *D), all of one shape. The
    arithmetic is in float32 at least, in float64 for float64 images; the result has the images' own dtype.
    Raises ValueError if shapes or devices differ, TypeError if an image is not floating point.
    """
    dtype, shape = terms[0][1].dtype, terms[0][1].shape
    alike = dtype in _COMMON and not is_compiling()
    for c, x in terms:
        alike = alike and type(c) is float and type(x) is Tensor and x.dtype == dtype and x.shape == shape
    if alike:
        try:
            return reduce(torch.add, [_numbers[c, dtype] * x for c, x in terms])
        except RuntimeError:  # to compare devices takes time, and where they differ the sum fails: `_combine` says it
            pass
    return _combine(terms)


class _Numbers(dict[tuple[Any, torch.dtype], Tensor]):
    """Numbers as tensors without dimensions, on the CPU: an image is multiplied by one in half the time of a float.

    One is kept unless it belongs to a FakeTensorMode, a transform of torch.func or a trace of torch.jit.
    """

    def __missing__(self, key: tuple[Any, torch.dtype]) -> Tensor:
        with torch.inference_mode(False):
            number = torch.scalar_tensor(key[0], dtype=key[1], device="cpu")
        wrapped = type(number) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(number)
        if not wrapped and not torch.jit.is_tracing():
            if len(self) >= 2**16:
                self.clear()
            self[key] = number
        return number


_numbers = _Numbers()


def _combine(terms: Sequence[tuple[float | Tensor, Tensor]]) -> Tensor:
    """`combine` for coefficients of each image, dtypes to promote, classes of tensors, and what does not fit."""
    images = [x for _, x in terms]
    if any(x.shape != images[0].shape for x in images):
        raise ValueError(f"images must have one shape, got {' and '.join(str(tuple(x.shape)) for x in images)}")
    t_device = [*(c.device for c, _ in terms if isinstance(c, Tensor)), images[0].device][0]  # no next(): PyTorch 2.4
    if any(x.device != t_device for x in images):
        devices = " and ".join(str(x.device) for x in images)
        raise ValueError(f"t and the images must be on one device, got t on {t_device} and images on {devices}")
    dtype = images[0].dtype
    for x in images:
        if not x.is_floating_point():
            raise TypeError(f"images must be floating point in [-1, 1], got {x.dtype}")
        dtype = torch.promote_types(dtype, x.dtype)
    return reduce(torch.add, (_factor(c, x) * float32_at_least(x) for c, x in terms)).to(dtype)


def spread(c: float | Tensor, x: Tensor) -> Tensor:
    """c, a number or (B,), as a tensor that broadcasts against x, (1, 1, ...) or (B, 1, ...), float32 at least."""
    factor = _factor(c, x)
    if isinstance(factor, Tensor):
        return factor
    return torch.full((1,) * x.ndim, factor, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


def _factor(c: float | Tensor, x: Tensor) -> float | Tensor:
    if not isinstance(c, Tensor):
        return c
    _check_batch(c, x.shape)
    return c.view(-1, *[1] * (x.ndim - 1)).to(torch.promote_types(x.dtype, torch.float32))


def _check_batch(t: Tensor, x_shape: Sequence[int]) -> None:
    if t.ndim != 1 or len(x_shape) == 0 or t.shape[0] != x_shape[0]:
        raise ValueError(f"t must be (B,) with the batch size of x {tuple(x_shape)}, got t of shape {tuple(t.shape)}")


def _check_steps(t: Tensor, v: Tensor) -> None:
    if t.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"t must hold integer indices (int64), got {t.dtype}")
    if t.device != v.device:
        raise ValueError(f"t and the table must be on one device, got t on {t.device} and the table on {v.device}")
    check_range("t", t, len(v))


class Rows:
    """The coefficients of many steps by their names, (B,) each: `rows.alphas_bar`.  Made by `Coefficients.row`."""

    def __init__(self, tables: "Coefficients", t: Tensor):
        self._tables, self._t = tables, t

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle ask for such names before there are tables
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._tables, name).gather(0, self._t.long().flatten()).view(self._t.shape)


class Coefficients(nn.Module):
    """Everything that betas determine, as tables indexed by t.  Ho et al. 2020, Section 2.

    betas: (T,), the variances that the steps add, in (0, 1); the last one may be 1.
    log_alphas: (T,), log(1 - betas), for steps so large that betas have lost its digits; if not given, from betas.
    All tables are (T,) float64 (float32 on devices without float64) and stay so under `.half()` and
    `.to(torch.bfloat16)`; `.to(device)` moves them. They are no part of the state dict: betas determine them.
    Raises ValueError if betas is not one-dimensional or leaves its range.
    """

    betas: Tensor
    alphas: Tensor  # 1 - betas
    alphas_bar: Tensor  # their cumulative product, Eq. 4
    alphas_bar_prev: Tensor  # one step earlier, 1 at t = 0
    log_alphas_bar: Tensor
    log_one_minus_alphas_bar: Tensor  # log variance of q(x_t | x_0)
    snr: Tensor  # alphas_bar / (1 - alphas_bar)
    sqrt_alphas: Tensor
    sqrt_betas: Tensor
    sqrt_alphas_bar: Tensor
    sqrt_one_minus_alphas_bar: Tensor
    sqrt_recip_alphas_bar: Tensor
    sqrt_recipm1_alphas_bar: Tensor  # sqrt(1 / alphas_bar - 1)
    posterior_var: Tensor  # Eq. 7, 0 at t = 0
    posterior_log_var: Tensor  # -inf at t = 0
    log_betas: Tensor
    posterior_log_var_clipped: Tensor  # index 0 holds index 1's value: the variance "fixedsmall"
    log_betas_clipped: Tensor  # log betas with that same index 0: the variance "fixedlarge"
    posterior_mean_coef1: Tensor  # of x_0 in Eq. 7
    posterior_mean_coef2: Tensor  # of x_t in Eq. 7
    timestep_map: Tensor  # (T,) int64: which step of the base process each step is

    def __init__(self, betas: Tensor, *, log_alphas: Tensor | None = None):
        super().__init__()
        betas = _checked_betas(betas)
        self._cpu_tables = _tables(betas, torch.log1p(-betas) if log_alphas is None else log_alphas)
        self.T = len(betas)  # number of steps
        self._cpu_tables["timestep_map"] = torch.arange(self.T, device="cpu")
        self.alpha_bar_T = self._cpu_tables["alphas_bar"][-1].item()
        self._rows: list[SimpleNamespace] = []  # what row() gives for an int; made when it is first asked for
        for name, table in self._cpu_tables.items():
            self.register_buffer(name, table, persistent=False)

    def row(self, t: Steps) -> Any:
        """The coefficients of step t by their names: numbers for an int, (B,) tensors for steps t (B,).

        Numbers are read on the CPU: a loop over steps never waits for a GPU. Raises TypeError for a t that is not
        integer, ValueError for a t out of range or on another device.

        >>> process = Coefficients(torch.tensor([0.25, 0.5]))
        >>> process.row(0).betas, process.row(torch.tensor([0, 1, 1])).betas
        (0.25, tensor([0.2500, 0.5000, 0.5000], dtype=torch.float64))
        """
        if isinstance(t, Tensor):
            _check_steps(t, self.betas)
            return Rows(self, t)
        if not isinstance(t, int):
            raise TypeError(f"t must be an int or hold integer indices (int64), got {t!r}")
        if not 0 <= t < self.T:
            raise ValueError(f"t must lie in 0..{self.T - 1}, got {t}")
        if not self._rows:
            numbers = zip(*(table.tolist() for table in self._cpu_tables.values()), strict=True)
            self._rows = [SimpleNamespace(**dict(zip(self._cpu_tables, row, strict=True))) for row in numbers]
        return self._rows[t]

    def extra_repr(self) -> str:
        return f"T={self.T}, alpha_bar_T={self.alpha_bar_T:.4g}"

    def _apply(self, fn, recurse=True):
        device = fn(torch.empty(0, device=self.betas.device)).device  # where fn moves to; its dtype is not for tables
        for name, table in self._cpu_tables.items():
            dtype = table_dtype(device) if table.is_floating_point() else table.dtype
            self._buffers[name] = moved(table, device, dtype)
        return self


def _checked_betas(betas: Tensor) -> Tensor:
    check_numbers("betas", betas)
    betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu").detach()
    if betas.ndim != 1 or len(betas) == 0:
        raise ValueError(f"betas must be (T,) with at least one step, got shape {tuple(betas.shape)}")
    inside = (betas > 0) & (betas <= 1)
    if not bool(inside.all()):
        t = int((~inside).nonzero()[0])
        raise ValueError(f"betas are variances and must lie in (0, 1], got {betas[t].item()} at t = {t}")
    return betas


def _tables(betas: Tensor, log_alphas: Tensor) -> dict[str, Tensor]:
    """Every table, on the CPU in float64. Logarithms and expm1 keep the digits of tiny and of very large steps.

    0 - x and 0 + x instead of -x and x: they turn the zero of alphas_bar = 1 or 0 into +0, of which neither a root nor
    a division makes a negative zero or a negative infinity.
    """
    erased = log_alphas[:-1] == -math.inf
    if bool(erased.any()):
        t = int(erased.nonzero()[0])
        raise ValueError(f"beta = 1 erases the image and is allowed at the last step only, got it at t = {t}")
    alphas, log_alphas_bar = log_alphas.exp(), log_alphas.cumsum(0)
    alphas_bar, one_minus_alphas_bar = log_alphas_bar.exp(), 0 - torch.expm1(log_alphas_bar)
    log_alphas_bar_prev = torch.cat([log_alphas_bar.new_zeros(1), log_alphas_bar[:-1]])
    alphas_bar_prev, one_minus_alphas_bar_prev = log_alphas_bar_prev.exp(), 0 - torch.expm1(log_alphas_bar_prev)
    posterior_var = betas * one_minus_alphas_bar_prev / one_minus_alphas_bar
    # The posterior at t = 0 is a point. p's variance there takes index 1's value; a single step has only its beta.
    first = posterior_var[1:2] if len(betas) > 1 else betas
    return {
        "betas": betas,
        "alphas": alphas,
        "alphas_bar": alphas_bar,
        "alphas_bar_prev": alphas_bar_prev,
        "log_alphas_bar": log_alphas_bar,
        "log_one_minus_alphas_bar": torch.where(
            alphas_bar < 0.5, 0 + torch.log1p(-alphas_bar), one_minus_alphas_bar.log()
        ),
        "snr": alphas_bar / one_minus_alphas_bar,
        "sqrt_alphas": alphas.sqrt(),
        "sqrt_betas": betas.sqrt(),
        "sqrt_alphas_bar": alphas_bar.sqrt(),
        "sqrt_one_minus_alphas_bar": one_minus_alphas_bar.sqrt(),
        "sqrt_recip_alphas_bar": (1 / alphas_bar).sqrt(),
        "sqrt_recipm1_alphas_bar": (one_minus_alphas_bar / alphas_bar).sqrt(),
        "posterior_var": posterior_var,
        "posterior_log_var": posterior_var.log(),
        "log_betas": betas.log(),
        "posterior_log_var_clipped": torch.cat([first, posterior_var[1:]]).log(),
        "log_betas_clipped": torch.cat([first, betas[1:]]).log(),
        "posterior_mean_coef1": alphas_bar_prev.sqrt() * betas / one_minus_alphas_bar,
        "posterior_mean_coef2": alphas.sqrt() * one_minus_alphas_bar_prev / one_minus_alphas_bar,
    }
