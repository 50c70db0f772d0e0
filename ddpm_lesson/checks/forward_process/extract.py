"""Exercise 1.3: looking up one number for each image."""

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, double


def _extract(v, t, x_shape):
    """Exercise 1.3: v[t], one number for each image, shaped to multiply a batch of x_shape.

    v: (T,) of any floating-point dtype, which the result keeps.  t: (B,) int64 in 0..T-1.  x_shape: (B, *D).
    Returns (B, 1, ..., 1) with as many axes as x_shape.
    Not expanded to x_shape: broadcasting does that for free.
    """
    table = v.tolist()
    shape = [len(t)] + [1] * (len(x_shape) - 1)
    return torch.tensor([table[step] for step in t.tolist()], dtype=v.dtype).reshape(shape)


def _looked_up(
    v: Tensor,
    t: Tensor,
    x_shape: tuple,
    *,
    steps=lambda t: t,
    axes=lambda x_shape: [-1] + [1] * (len(x_shape) - 1),
    dtype=lambda out: out,
) -> Tensor:
    return dtype(v[steps(t)].reshape(axes(x_shape)))


extract = Check(
    number="1.3",
    name="extract",
    specification=_extract,
    form=_looked_up,
    batch=("t",),
    cases=tuple(
        Case(
            f"v in {str(dtype).removeprefix('torch.')} with T = {T}, t = {t}, x_shape = {x_shape}",
            (double(ALPHAS_BAR[:T]).to(dtype), torch.tensor(t), torch.Size(x_shape)),
        )
        for dtype, T, t, x_shape in [
            (torch.float64, 10, [0, 3, 3, 9], (4, 1, 8, 8)),
            (torch.float64, 10, [9, 1, 0], (3, 2)),
            (torch.float16, 10, [5], (1, 3, 2, 4, 4)),
            (torch.float32, 3, [2, 0, 1], (3, 1, 4, 4)),
            (torch.float64, 10, [4, 4], (2,)),
            (torch.float64, 1, [0, 0], (2, 3)),
        ]
    ),
    among="three dtypes and mixed t",
    exact_dtype=True,
    misconceptions={
        "You turned the result into float32. With float64 data the identities then hold to seven digits only, and "
        "half-precision images are promoted until a half-precision network refuses them: keep v's dtype.": dict(
            dtype=lambda out: out.float()
        ),
        "You turned the result into float64. It would promote every image that it multiplies: keep v's dtype.": dict(
            dtype=lambda out: out.double()
        ),
        "Your result went through float32, and float64 lost digits on the way: keep v's dtype throughout.": dict(
            dtype=lambda out: out.float().to(out.dtype)
        ),
        "You return shape (B,). Broadcasting lines that up with the last axis of the images, not with the batch: add "
        "an axis of length 1 for each further axis of x_shape.": dict(axes=lambda x_shape: [-1]),
        "You always return (B, 1, 1, 1): that is right for images only. Points are (B, 2) and videos have five axes: "
        "count the axes of x_shape.": dict(axes=lambda x_shape: [-1, 1, 1, 1]),
        "You always return (B, 1): right for points, but images line it up with their "
        "rows. Count x_shape's axes.": dict(axes=lambda x_shape: [-1, 1]),
        "You add one axis too many: the batch itself is the first axis of x_shape, so "
        "len(x_shape) - 1 ones follow it.": dict(axes=lambda x_shape: [-1] + [1] * len(x_shape)),
        "You add one axis too few: len(x_shape) - 1 ones follow the batch axis.": dict(
            axes=lambda x_shape: [-1] + [1] * (len(x_shape) - 2)
        ),
        "Your ones stand before the batch axis: (1, ..., 1, B) scales the columns of each image. The batch comes "
        "first: (B, 1, ..., 1).": dict(axes=lambda x_shape: [1] * (len(x_shape) - 1) + [-1]),
        "You return the full x_shape. One number for each image is enough, (B, 1, ..., 1): broadcasting repeats it for "
        "free.": dict(instead=lambda v, t, x_shape: _extract(v, t, x_shape).expand(x_shape)),
        "You gave v the shape of the batch before the look-up. v holds T numbers and not B: look up first, then give "
        "the B numbers their axes.": dict(
            instead=lambda v, t, x_shape: v.reshape([len(t)] + [1] * (len(x_shape) - 1))[t]
        ),
        "You gave v its axes before the look-up, and gather wants v and t to have equally many. Gather from v as it "
        "is, then give the B numbers their axes.": dict(
            instead=lambda v, t, x_shape: v.reshape([-1] + [1] * (len(x_shape) - 1)).gather(0, t)
        ),
        "You return a single number, the one at the first image's t. Every image has its own t.": dict(
            instead=lambda v, t, x_shape: v[t[0]]
        ),
        "You used the first image's t for the whole batch: your first axis is 1, not B. "
        "Each image has its own t.": dict(steps=lambda t: t[:1]),
        "You used the first image's t for the whole batch. Each image has its own t.": dict(
            steps=lambda t: t[:1].expand(len(t))
        ),
        "You took the first B entries of v: image i got v[i]. Image i needs v[t[i]].": dict(
            instead=lambda v, t, x_shape: _extract(v, torch.arange(len(t)), x_shape)
        ),
        "You read v at t - 1. In code t starts at 0, and index -1 wraps around to the last entry: read it at t.": dict(
            steps=lambda t: t - 1
        ),
    },
)
