"""Exercise 3.11: halving an image as TensorFlow pads it."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import fractions


def _down_same(x, weight):
    """Exercise 3.11: a 3x3 convolution with stride 2 and TensorFlow's "same" padding.  Ho et al. 2020, code.

    x: (B, C, H, W), H and W even.  weight: (C', C, 3, 3).  Returns (B, C', H / 2, W / 2): pixel (i, j) sees the rows
    2i to 2i + 2 and columns 2j to 2j + 2 of x, with a row of zeros below and a column of zeros to the right.
    Not padding=1: those windows begin one row above and one column to the left.
    """
    B, C, H, W = x.shape
    out = torch.zeros(B, len(weight), H // 2, W // 2, dtype=torch.float64)
    for b, o, i, j in itertools.product(*map(range, out.shape)):
        for c, m, n in itertools.product(range(C), range(3), range(3)):
            if 2 * i + m < H and 2 * j + n < W:
                out[b, o, i, j] += weight[o, c, m, n].item() * x[b, c, 2 * i + m, 2 * j + n].item()
    return out


def _convolved(
    x: Tensor,
    weight: Tensor,
    *,
    rows=(0, 1),  # of zeros above and below; as H is even, one below is not reached if there is one above
    columns=(0, 1),  # to the left and to the right
    mode="constant",
    value=0.0,
    kernel=lambda weight: weight,
    stride=2,
    padding=0,
) -> Tensor:
    fill = {"value": value} if mode == "constant" else {}
    return F.conv2d(F.pad(x, (*columns, *rows), mode, **fill), kernel(weight), stride=stride, padding=padding)


def _windows(evidence) -> str:
    """Which pixels of x an output sees, and with which entries of the kernel, found with a single bright pixel."""
    weight = (torch.arange(9, dtype=torch.float32) + 1).reshape(1, 1, 3, 3)
    base = evidence.calls(torch.zeros(1, 1, 10, 12), weight)
    if base is None or base.ndim != 4 or min(base.shape[2:]) < 3:
        return ""
    level = base[0, 0, 0, 0].item()
    if abs(level) > 1e-6 and (base - level).abs().max() < 1e-6:
        return f"Where x is 0 your result is {level:.4g} everywhere: you add something, and there is no bias here."
    seen: dict[tuple[int, int], dict[tuple[int, int], float]] = {(1, 1): {}, (1, 2): {}, (2, 1): {}}
    for row, column in itertools.product(range(10), range(12)):
        x = torch.zeros(1, 1, 10, 12)
        x[0, 0, row, column] = 1
        out = evidence.calls(x, weight)
        for (i, j), pixels in seen.items():
            if out is not None and abs((out - base)[0, 0, i, j].item()) > 1e-6:
                pixels[row, column] = (out - base)[0, 0, i, j].item()
    if not all(seen.values()):
        return ""
    rows, columns = (sorted({pixel[axis] for pixel in seen[1, 1]}) for axis in (0, 1))
    if (rows, columns) != ([2, 3, 4], [2, 3, 4]):
        words = f"rows {rows[0]} to {rows[-1]} and columns {columns[0]} to {columns[-1]}"
        size = "" if len(rows) == len(columns) == 3 else " A window of 3x3 sees three of each."
        why = size or " Where the window begins is a matter of padding and stride."
        return f"Your output pixel (1, 1) sees {words} of x.{why}"
    steps = min(p[1] for p in seen[1, 2]) - 2, min(p[0] for p in seen[2, 1]) - 2
    if steps != (2, 2):
        return f"Your windows move {steps[1]} rows down and {steps[0]} columns to the right. The stride is 2."
    taps = torch.tensor([[seen[1, 1].get((r, c), 0.0) for c in columns] for r in rows])
    for words, turned in {
        "flipped, in both directions": weight[0, 0].flip(0, 1),
        "flipped upside down": weight[0, 0].flip(0),
        "flipped left to right": weight[0, 0].flip(1),
        "transposed": weight[0, 0].T,
        "rotated by a quarter turn": weight[0, 0].rot90(),
    }.items():
        if torch.allclose(taps, turned, rtol=1e-4):
            return f"Your kernel is {words}. conv2d wants it as it is."
    return ""


down_same = Check(
    number="3.11",
    name="down_same",
    specification=_down_same,
    form=_convolved,
    gradients=("x", "weight"),
    batch=("x",),
    clues=(_windows,),
    cases=tuple(
        Case(f"x of shape {shape}, weight of shape {wide}", (fractions(*shape), fractions(*wide, start=11)))
        for shape, wide in [
            ((2, 3, 4, 6), (2, 3, 3, 3)),
            ((1, 1, 8, 4), (1, 1, 3, 3)),
            ((3, 2, 2, 2), (3, 2, 3, 3)),
            ((1, 2, 6, 6), (4, 2, 3, 3)),
        ]
    ),
    among="H different from W and sides of 2",
    misconceptions={
        "Your windows begin one row above x and one column to its left, as with padding=1: zeros belong below and to "
        "the right only<. The shape is the same, but every window of yours lies one pixel off>.": dict(
            rows=(1, 1), columns=(1, 1)
        ),
        "Your windows begin one row above x: you padded above, alone or below as well. Zeros belong below only, so "
        "that the first window begins at row 0.": dict(rows=(1, 1)),
        "Your windows begin one column to the left of x: you padded there, alone or to the right as well. Zeros belong "
        "to the right only, so that the first window begins at column 0.": dict(columns=(1, 1)),
        "You padded above x, alone or below as well, and no column. F.pad counts from the last axis: (left, right, "
        "above, below).": dict(rows=(1, 1), columns=(0, 0)),
        "You padded to the left of x, alone or to the right as well, and no row. F.pad counts from the last axis: "
        "(left, right, above, below).": dict(rows=(0, 0), columns=(1, 1)),
        "You did not pad<: the result has H / 2 - 1 rows>. The last window lacks one row and one column.": dict(
            rows=(0, 0), columns=(0, 0)
        ),
        "You padded to the right only. A row below is missing too.": dict(rows=(0, 0)),
        "You padded below only. A column to the right is missing too.": dict(columns=(0, 0)),
        "You padded twice: after F.pad the convolution needs no padding of its own.": dict(
            rows=(0, 1), columns=(0, 1), padding=1
        ),
        "You repeated the edge. TensorFlow's padding is zeros.": dict(mode="replicate"),
        "You padded with a mirror image. TensorFlow's padding is zeros.": dict(mode="reflect"),
        "You padded with what lies at the other side. TensorFlow's padding is zeros.": dict(mode="circular"),
        "You padded with ones. TensorFlow's padding is zeros.": dict(value=1.0),
        "Your kernel is flipped in both directions, as in a mathematician's convolution. "
        "conv2d wants it as it is.": dict(kernel=lambda weight: weight.flip(2, 3)),
        "Your kernel is transposed: its rows lie along the width.": dict(kernel=lambda weight: weight.mT),
        "You exchanged the input and output channels of weight. It is (C', C, 3, 3), as conv2d wants it.": dict(
            kernel=lambda weight: weight.transpose(0, 1)
        ),
        "Your stride is 1, and should be 2<: the result is as large as x>.": dict(stride=1),
        "Your stride is 3. It is 2: every second pixel.": dict(stride=3),
        "You convolved with stride 1 and then averaged over 2x2 pixels. With stride 2 every second result is kept, and "
        "nothing is averaged.": dict(instead=lambda x, weight: F.avg_pool2d(F.conv2d(x, weight, padding=1), 2)),
        "You convolved with stride 1 and then took the largest of 2x2 pixels. With stride 2 every second result is "
        "kept.": dict(instead=lambda x, weight: F.max_pool2d(F.conv2d(x, weight, padding=1), 2)),
        "You averaged over 2x2 pixels and then convolved. The convolution itself has stride 2.": dict(
            instead=lambda x, weight: F.conv2d(F.avg_pool2d(x, 2), weight, padding=1)
        ),
        "You kept every second pixel and then convolved. The convolution itself has stride "
        "2, and sees all pixels.": dict(instead=lambda x, weight: F.conv2d(x[:, :, ::2, ::2], weight, padding=1)),
    },
)
