"""The checks of notebook 03: the time's table, GroupNorm, the time's place, attention, skips, padding and parameters.

Each block holds a slow specification in plain Python numbers, the inputs, and a table of wrong implementations, each
with the sentence for whoever wrote it. Inputs are exact fractions and not random, so that every machine sees the same.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ddpm_lesson.checks._engine import Case, Check, Misconception
from ddpm_lesson.checks._inputs import double, fractions


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


def _half(d_model: int) -> Tensor:
    return torch.arange(d_model // 2, dtype=torch.float64)


def _table_by(
    frequencies: Callable = lambda d_model: 10000 ** (-2 * _half(d_model) / d_model),
    first: int = 0,
    waves: tuple[Callable, Callable] = (torch.sin, torch.cos),
    axis: int = 2,
) -> Callable:
    """time_table with these frequencies of d_model, first row and pair of waves; axis 1: one wave after the other."""

    def time_table(T, d_model):
        angles = torch.arange(first, first + T)[:, None] * frequencies(d_model)  # in the frequencies' dtype
        return torch.stack([wave(angles) for wave in waves], axis).flatten(1)

    return time_table


def _reaching_1(d_model: int) -> Tensor:
    return 10000 ** (-_half(d_model) / (d_model // 2 - 1))


def _growing_in_float32(d_model: int) -> Tensor:
    return torch.exp(_half(d_model).float() * 2 / d_model * math.log(10000))


def _unpaired(T, d_model):
    angles = torch.arange(T)[:, None] * 10000 ** (-torch.arange(d_model, dtype=torch.float64) / d_model)
    return torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())


time_table = Check(
    number="3.1",
    name="time_table",
    specification=_time_table,
    cases=tuple(  # few steps: at t = 999 the angles of float32 are off by 0.0001
        Case(f"T = {T}, d_model = {d_model}", (T, d_model)) for T, d_model in [(8, 8), (10, 4), (3, 2), (1, 6)]
    ),
    among="T = 1 and d_model = 2",
    misconceptions=(
        Misconception(
            _table_by(axis=1),
            "You return all sines and then all cosines, as DDPM's own code does. Here they alternate: entry 2k is the "
            "sine, 2k + 1 the cosine of the same angle. A network trained on one layout cannot read the other.",
        ),
        Misconception(
            _table_by(_reaching_1),
            "Your exponents are k / (half - 1), as in DDPM's own code. Here they are k / half = 2k / d_model.",
        ),
        Misconception(
            _table_by(_reaching_1, axis=1),
            "That is the table of DDPM's own code: all sines first, exponents k / (half - 1). Here sine and cosine "
            "alternate and the exponents are 2k / d_model.",
        ),
        Misconception(
            _table_by(waves=(torch.cos, torch.sin), axis=1),
            "You return all cosines and then all sines, as improved-diffusion does. Here they alternate, sine first.",
        ),
        Misconception(
            _table_by(lambda d_model: 10000 ** (2 * _half(d_model) / d_model)),
            "Your frequencies grow from 1 to nearly 10000: t is divided by the power, not multiplied. With yours "
            "neighbouring steps get unrelated numbers.",
        ),
        Misconception(
            _table_by(_growing_in_float32),
            "The minus in exp(-log(10000) * 2k / d_model) is missing: your frequencies grow, and neighbouring steps "
            "get unrelated numbers.",
        ),
        Misconception(
            _table_by(lambda d_model: torch.exp(-2 * _half(d_model) / d_model)),
            "Your frequencies are powers of e, from 1 to 1/e only. They are powers of 10000: exp needs the factor "
            "log(10000) in its exponent.",
        ),
        Misconception(
            _table_by(waves=(torch.cos, torch.sin)),
            "Sine and cosine are exchanged. The sine has the even entries, so that row 0 reads 0, 1, 0, 1.",
        ),
        Misconception(
            _table_by(first=1),
            "You counted t from 1. In code t starts at 0: row 0 reads 0, 1, 0, 1.",
        ),
        Misconception(
            _table_by(lambda d_model: 10000 ** (-_half(d_model) / d_model)),
            "Your exponent is k / d_model. It is 2k / d_model: with d_model / 2 frequencies yours stop at 1/100.",
        ),
        Misconception(
            _unpaired,
            "Sine and cosine of a pair have different frequencies: you took the entry's index for 2k. k counts pairs, "
            "so that entries 2k and 2k + 1 share an angle.",
        ),
    ),
)


def _group_norm(x, num_groups, weight, bias):
    """Exercise 3.2: GroupNorm.  Wu & He 2018, sec. 3.

    x: (B, C, H, W).  num_groups: int that divides C; a group is C / num_groups neighbouring channels.  weight, bias:
    (C,).  Returns (B, C, H, W): minus the mean and over sqrt(var + 1e-5) of an image's group, all its pixels, the
    variance divided by their number; then times weight plus bias, of the channel.
    Not BatchNorm: no image sees another.
    """
    size = x.shape[1] // num_groups
    out = torch.empty(x.shape, dtype=torch.float64)
    for b, image in enumerate(x):
        for start in range(0, len(image), size):
            values = image[start : start + size].flatten().tolist()
            mean = sum(values) / len(values)
            var = sum((value - mean) ** 2 for value in values) / len(values)
            for c in range(start, start + size):
                normed = double([(value - mean) / math.sqrt(var + 1e-5) for value in image[c].flatten().tolist()])
                out[b, c] = (weight[c].item() * normed + bias[c].item()).reshape(image[c].shape)
    return out


def _affine(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return h * weight[:, None, None] + bias[:, None, None]


def _norm_by(
    axes: tuple[int, ...] = (2, 3, 4),
    scale: Callable = lambda var: (var + 1e-5).sqrt(),
    correction: int = 0,
    finish: Callable = _affine,
    interleaved: bool = False,
) -> Callable:
    """group_norm with mean and variance over these axes of (B, groups, channels of a group, H, W)."""

    def group_norm(x, num_groups, weight, bias):
        h = x.unflatten(1, (-1, num_groups)).transpose(1, 2) if interleaved else x.unflatten(1, (num_groups, -1))
        h = (h - h.mean(axes, keepdim=True)) / scale(h.var(axes, correction=correction, keepdim=True))
        return finish((h.transpose(1, 2) if interleaved else h).flatten(1, 2), weight, bias)

    return group_norm


def _affine_by_group(x, num_groups, weight, bias):
    group = torch.arange(len(weight)) * num_groups // len(weight)
    return _norm_by()(x, num_groups, weight[group], bias[group])


def _norm_case(shape: tuple, num_groups: int, size: float = 1.0, remark: str = "") -> Case:
    weight, bias = fractions(shape[1], start=5) + 2, fractions(shape[1], start=23)
    words = f"x of shape {shape}{remark}, num_groups = {num_groups}"
    return Case(words, (size * fractions(*shape), num_groups, weight, bias))


group_norm = Check(
    number="3.2",
    name="group_norm",
    specification=_group_norm,
    cases=(
        _norm_case((2, 4, 3, 5), 2),
        _norm_case((3, 6, 2, 2), 3),
        _norm_case((2, 4, 3, 4), 2),
        _norm_case((2, 6, 4, 2), 2, 2.0**-8, " that is nearly 0"),
        _norm_case((2, 3, 2, 4), 1),
        _norm_case((1, 4, 2, 3), 4),
    ),
    among="one group, one channel a group and a very small x",
    misconceptions=(
        Misconception(
            _norm_by((0, 2, 3, 4)),
            "Your mean and variance run over the batch too. Each image has its own: otherwise a sample would depend on "
            "the others that are drawn beside it.",
        ),
        Misconception(
            _norm_by((3, 4)),
            "You normalised every channel on its own. A group's channels share one mean and variance: alone, a channel "
            "loses its level, and with it the time that is added to it.",
        ),
        Misconception(
            _norm_by((2,)),
            "Your mean and variance are those of a single pixel's channels. They run over all pixels as well.",
        ),
        Misconception(
            _norm_by((1, 2, 3, 4)),
            "You took all channels as one group. Asked for are num_groups, each with its own mean and variance.",
        ),
        Misconception(
            _norm_by(correction=1),
            "You divided by n - 1, as var does by default. The norm wants the plain mean of squares: unbiased=False.",
        ),
        Misconception(
            _norm_by(scale=lambda var: var + 1e-5),
            "You divided by the variance. Its root brings the values to variance 1.",
        ),
        Misconception(
            _norm_by(scale=torch.sqrt),
            "eps is missing: 1e-5 is added to the variance, under the root. A constant group would else become 0 / 0.",
        ),
        Misconception(
            _norm_by(scale=lambda var: (var + 1e-6).sqrt()),
            "Your eps is 1e-6, as in DDPM's own code. Here it is 1e-5, PyTorch's and the post's.",
        ),
        Misconception(
            _norm_by(scale=lambda var: var.sqrt() + 1e-5),
            "You added eps to the root. It is added to the variance, under the root: small values then stay small.",
        ),
        Misconception(
            _norm_by(scale=lambda var: var.sqrt() + 1e-5, correction=1),
            "std divides by n - 1, and eps is added to the variance, under the root: take the plain mean of squares, "
            "add 1e-5, take the root.",
        ),
        Misconception(
            _norm_by(finish=lambda h, weight, bias: h),
            "You left out weight and bias. After the norm every channel gets a scale and a shift of its own.",
        ),
        Misconception(
            _norm_by(finish=lambda h, weight, bias: h * weight + bias),
            "weight and bias have shape (C,), and broadcasting lines that up with the width. It runs where C happens "
            "to be the width, and is wrong there: give them two more axes, (C, 1, 1).",
        ),
        Misconception(
            _affine_by_group,
            "You applied weight and bias to whole groups: channel c got those of its group's number. Mean and variance "
            "belong to the group, but weight[c] and bias[c] to the channel.",
        ),
        Misconception(
            _norm_by(interleaved=True),
            "Your groups are interleaved: channel c went to group c % num_groups. Neighbouring channels form a group: "
            "C is split into (num_groups, C / num_groups), in this order.",
        ),
    ),
)


def _add_time(h, temb, weight, bias):
    """Exercise 3.3: the time in a residual block, swish(temb) through a linear layer.  Ho et al. 2020, App. B.

    h: (B, C, H, W).  temb: (B, tdim).  weight: (C, tdim).  bias: (C,).  Returns (B, C, H, W): every pixel of a channel
    gets the same number, which depends on the image's own t.
    Not a positional encoding: it is the same at every place.
    """
    out = h.double()
    for b, row in enumerate(temb.tolist()):
        swish = [value / (1 + math.exp(-value)) for value in row]
        for c, weights in enumerate(weight.tolist()):
            out[b, c] += sum(w * s for w, s in zip(weights, swish, strict=True)) + bias[c].item()
    return out


def _time_by(
    project: Callable = lambda temb, weight, bias: F.linear(F.silu(temb), weight, bias),
    join: Callable = lambda h, time: h + time[:, :, None, None],
) -> Callable:
    """add_time with this layer and this way to join its result (B, C) to h."""
    return lambda h, temb, weight, bias: join(h, project(temb, weight, bias))


add_time = Check(
    number="3.3",
    name="add_time",
    specification=_add_time,
    cases=tuple(
        Case(
            f"h of shape {shape}, temb of shape {(shape[0], tdim)}",
            (
                fractions(*shape),
                2 * fractions(shape[0], tdim, start=11),
                fractions(shape[1], tdim, start=23),
                fractions(shape[1], start=41),
            ),
        )
        for shape, tdim in [((2, 3, 4, 5), 6), ((2, 4, 3, 4), 8), ((3, 3, 2, 5), 3), ((4,) * 4, 4), ((1, 2, 3, 2), 5)]
    ),
    among="a batch and channels as large as the width",
    misconceptions=(
        Misconception(
            _time_by(lambda temb, weight, bias: F.linear(temb, weight, bias)),
            "You forgot Swish. temb comes out of a linear layer, and two of them in a row are no more than one.",
        ),
        Misconception(
            _time_by(lambda temb, weight, bias: F.silu(F.linear(temb, weight, bias))),
            "You applied Swish after the linear layer. It comes before: after it, nothing below -0.28 could be added.",
        ),
        Misconception(
            _time_by(lambda temb, weight, bias: F.linear(F.silu(temb), weight)),
            "You forgot the bias of the linear layer, one number for each channel.",
        ),
        Misconception(
            _time_by(lambda temb, weight, bias: F.silu(temb) @ weight + bias),
            "You multiplied by weight as it is. It is (C, tdim), one row for each channel: swish(temb) @ weight.T.",
        ),
        Misconception(
            _time_by(join=lambda h, time: h + time[:, None, None, :]),
            "You added the time along the width: column j got channel j's number. It runs where C happens to be the "
            "width. The new axes come last, (B, C, 1, 1).",
        ),
        Misconception(
            _time_by(join=torch.add),
            "You added (B, C) as it is, and broadcasting lines that up with height and width. It runs where the "
            "numbers happen to agree. Add two axes at the end, (B, C, 1, 1).",
        ),
        Misconception(
            _time_by(join=lambda h, time: h + time[:, :, None]),
            "You added (B, C, 1), and broadcasting lines that up with channels, height and width. It runs where the "
            "numbers happen to agree. Two axes are missing, (B, C, 1, 1).",
        ),
        Misconception(
            _time_by(join=lambda h, time: h + time.T[:, :, None, None]),
            "You added (C, B, 1, 1), batch and channels exchanged. It runs where B happens to be C, and gives images "
            "the time of others.",
        ),
        Misconception(
            _time_by(join=lambda h, time: h * time[:, :, None, None]),
            "You multiplied. The time is added here.",
        ),
    ),
)


def _attention(q, k, v):
    """Exercise 3.4: attention over the pixels of an image, one head.  Vaswani et al. 2017, Eq. 1.

    q, k, v: (B, C, H, W).  Returns (B, C, H, W): at every pixel the average of v over all pixels, with the weights
    softmax(q . k / sqrt(C)), where q is this pixel's and k and the softmax run over all pixels.
    Not over channels, and not over rows: any pixel may look at any other.
    """
    B, C, H, W = q.shape
    out = torch.empty(q.shape, dtype=torch.float64)
    places = [(i, j) for i in range(H) for j in range(W)]
    for b in range(B):
        for i, j in places:
            mine = q[b, :, i, j].tolist()
            scores = [sum(x * y for x, y in zip(mine, k[b, :, m, n].tolist(), strict=True)) for m, n in places]
            weights = [math.exp(score / math.sqrt(C)) for score in scores]
            for c in range(C):
                average = sum(w * v[b, c, m, n].item() for w, (m, n) in zip(weights, places, strict=True))
                out[b, c, i, j] = average / sum(weights)
    return out


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return x.flatten(2).mT


def _columns(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, W H, C)."""
    return x.mT.flatten(2).mT


def _shares(scores: Tensor, length: int) -> Tensor:
    return (scores / math.sqrt(length)).softmax(-1)


def _attention_by(
    weigh: Callable = _shares,
    flatten: tuple[Callable, Callable, Callable] = (_rows, _rows, _rows),
    give: Callable = lambda out, shape: out.mT.reshape(shape),
) -> Callable:
    """attention with weigh(q . k as (B, query, key), C), these orders of q's, k's and v's pixels, this way back."""

    def attention(q, k, v):
        queries, keys, values = (order(x) for order, x in zip(flatten, (q, k, v), strict=True))
        return give(weigh(queries @ keys.mT, q.shape[1]) @ values, v.shape)

    return attention


def _unsorted(x: Tensor) -> Tensor:
    """(B, C, H, W) read as if it were (B, H W, C)."""
    return x.reshape(len(x), -1, x.shape[1])


def _over_channels(axis: int) -> Callable:
    """attention in which channels look at one another; the scale is the length of this axis of (B, C, H W)."""

    def attention(q, k, v):
        q_c, k_c, v_c = (x.flatten(2) for x in (q, k, v))  # (B, C, H W)
        return (_shares(q_c @ k_c.mT, q_c.shape[axis]) @ v_c).reshape(v.shape)

    return attention


attention = Check(
    number="3.4",
    name="attention",
    specification=_attention,
    cases=tuple(
        Case(
            f"q, k, v of shape {shape}",
            (2 * fractions(*shape), 2 * fractions(*shape, start=11), fractions(*shape, start=30)),
        )
        for shape in [(2, 3, 2, 4), (2, 6, 2, 3), (1, 4, 2, 2), (3, 2, 3, 1), (1, 1, 3, 3)]
    ),
    among="H different from W and as many channels as pixels",
    misconceptions=(
        Misconception(
            _attention_by(lambda scores, channels: scores.softmax(-1)),
            "You forgot to divide by sqrt(C). q . k grows with C, and the softmax then looks at a single pixel.",
        ),
        Misconception(
            _attention_by(lambda scores, channels: (scores / channels).softmax(-1)),
            "You divided by C. A sum of C products grows like sqrt(C): with C the weights become nearly equal.",
        ),
        Misconception(
            _attention_by(lambda scores, channels: (scores / math.sqrt(scores.shape[-1])).softmax(-1)),
            "You divided by sqrt(H W), the number of pixels. q . k is a sum over channels: divide by sqrt(C).",
        ),
        Misconception(
            _attention_by(lambda scores, channels: (scores / math.sqrt(channels)).softmax(-2)),
            "Your softmax runs over the queries. For each query the weights of the keys must add up to 1, or the "
            "result is no average: take the axis of the keys.",
        ),
        Misconception(
            _attention_by(lambda scores, channels: (scores / math.sqrt(channels)).softmax(0)),
            "Your softmax runs over the images of the batch, its first axis. Weights (B, query, key) must add up to 1 "
            "over the keys, the last.",
        ),
        Misconception(
            _attention_by(lambda scores, channels: scores / math.sqrt(channels)),
            "You forgot the softmax. Its weights are positive and add up to 1; q . k / sqrt(C) are not.",
        ),
        Misconception(
            _attention_by(lambda scores, channels: _shares(scores.mT, channels)),
            "q and k are exchanged. The pixel that receives the average asks with its q, and is answered by k.",
        ),
        Misconception(
            _attention_by(flatten=(_columns, _columns, _columns)),
            "Your pixels come back in another order than they went in: flattened column by column, (w h), and put "
            "back as (h w). Use one order both ways.",
        ),
        Misconception(
            _attention_by(give=lambda out, shape: out.mT.reshape(shape[0], shape[1], shape[3], shape[2]).mT),
            "Your pixels come back in another order than they went in: flattened row by row, (h w), and put back as "
            "(w h). Use one order both ways.",
        ),
        Misconception(
            _attention_by(flatten=(_rows, _rows, _columns)),
            "The pixels of v are in another order than those of k: every weight meets the value of another pixel. "
            "Flatten all three alike, (h w).",
        ),
        Misconception(
            _attention_by(give=torch.Tensor.reshape),
            "You reshaped (B, H W, C) into (B, C, H, W). The shape is right, but channels and pixels get mixed up: "
            "rearrange it, 'b (h w) c -> b c h w'.",
        ),
        Misconception(
            _attention_by(flatten=(_unsorted, _unsorted, _unsorted), give=torch.Tensor.reshape),
            "You reshaped (B, C, H, W) into (B, H W, C). The shape is right, but a row of it is no pixel: rearrange, "
            "'b c h w -> b (h w) c', and back in the same way.",
        ),
        Misconception(
            _over_channels(1),
            "Your channels look at one another: your weights are (C, C). Pixels should: (H W, H W).",
        ),
        Misconception(
            _over_channels(2),
            "You flattened to (B, C, H W) only, so that channels look at one another. The last axis is the one that is "
            "summed over: (B, H W, C).",
        ),
        Misconception(
            F.scaled_dot_product_attention,
            "You gave (B, C, H, W) to the attention as it is: in every channel the rows look at one another. It wants "
            "all pixels in one axis, (B, H W, C).",
        ),
    ),
)


class _Block(NamedTuple):
    """A residual block on the way up: the channels of its input's two parts and of its output."""

    incoming: int
    skip: int
    out: int
    last: bool  # of its level


def _blocks(ch, ch_mult, num_res_blocks):
    channels, blocks = [ch * mult for mult in ch_mult], []
    for level in reversed(range(len(channels))):
        coarser = channels[min(level + 1, len(channels) - 1)]  # the middle keeps the last level's channels
        start = channels[level - 1] if level else ch  # what the level began with: a down-sampler's or the head's
        for i in range(num_res_blocks + 1):
            last = i == num_res_blocks
            incoming, skip = channels[level] if i else coarser, start if last else channels[level]
            blocks.append(_Block(incoming, skip, channels[level], last))
    return blocks


def _skip_channels(ch, ch_mult, num_res_blocks):
    """Exercise 3.5: the input channels of the residual blocks on the way up, first to last.  Ho et al. 2020, App. B.

    ch: int.  ch_mult: list of ints, the channels of each level as multiples of ch.  num_res_blocks: int, per level on
    the way down; one more on the way up.  Returns a list of ints, len(ch_mult) * (num_res_blocks + 1) of them.
    Not the skips alone: a block's input is what comes from below, joined with a skip.
    """
    return [block.incoming + block.skip for block in _blocks(ch, ch_mult, num_res_blocks)]


def _joined_by(rule: Callable) -> Callable:
    """skip_channels with this function of a _Block for its input."""
    return lambda ch, ch_mult, num_res_blocks: [rule(block) for block in _blocks(ch, ch_mult, num_res_blocks)]


def _stacked_by(
    head: bool = True,
    down: Callable = lambda level, last: level < last,
    extra: int = 1,
    take: Callable = list.pop,
    order: Callable = reversed,
) -> Callable:
    """skip_channels by bookkeeping as a network does it, with one piece of it replaced."""

    def skip_channels(ch, ch_mult, num_res_blocks):
        skips, now = [ch] * head, ch
        for level, mult in enumerate(ch_mult):
            now = ch * mult
            skips += [now] * (num_res_blocks + down(level, len(ch_mult) - 1))
        inputs = []
        for mult in order(ch_mult):
            for _ in range(num_res_blocks + extra):
                inputs.append(now + take(skips))
                now = ch * mult
        return inputs

    return skip_channels


skip_channels = Check(
    number="3.5",
    name="skip_channels",
    specification=_skip_channels,
    cases=tuple(
        Case(f"ch = {ch}, ch_mult = {ch_mult}, num_res_blocks = {num_res_blocks}", (ch, ch_mult, num_res_blocks))
        for ch, ch_mult, num_res_blocks in [
            (128, [1, 2, 2, 2], 2),
            (32, [1, 2], 1),
            (64, [1, 2, 3, 5], 3),
            (16, [3, 1, 2], 2),
            (8, [2], 1),
        ]
    ),
    among="one level and levels that narrow",
    returns=list,
    misconceptions=(
        Misconception(
            _stacked_by(extra=0),
            "You have num_res_blocks blocks in each level, so that skips are left over and meet the wrong level. On "
            "the way up there is one more: it takes the skip that the level began with.",
        ),
        Misconception(
            _stacked_by(head=False),
            "Your list of skips runs empty. The head's output is the first of them, every down-sampler's is one too.",
        ),
        Misconception(
            _stacked_by(down=lambda level, last: 0),
            "Your list of skips runs empty as soon as there are two levels: the down-samplers' outputs are skips too.",
        ),
        Misconception(
            _joined_by(lambda b: b.incoming + (0 if b.last else b.skip)),
            "The last block of each of your levels has no skip. It takes the output of the down-sampler before the "
            "level, and in the finest level that of the head.",
        ),
        Misconception(
            _stacked_by(down=lambda level, last: 1),
            "You counted a down-sampler after the last level. The middle follows there, at the same size.",
        ),
        Misconception(
            _stacked_by(take=lambda skips: skips.pop(0)),
            "You took the skips in the order in which they were made. The last one made has the size at which the way "
            "up begins: a stack, and no queue.",
        ),
        Misconception(
            _stacked_by(order=list),
            "You went through ch_mult forwards on the way up. It begins at the coarsest level: backwards.",
        ),
        Misconception(
            _joined_by(lambda b: 2 * b.out),
            "You return twice the level's channels. What comes from below has the channels of the coarser level, and "
            "the last skip of a level those of the finer one.",
        ),
        Misconception(
            _joined_by(lambda b: b.out + b.skip),
            "The first block of a level gets what the coarser level put out. You counted the level's own channels.",
        ),
        Misconception(
            _joined_by(lambda b: b.skip),
            "You return the channels of the skips alone. A block's input also holds what comes from below: torch.cat "
            "joins the two, and their channels add up.",
        ),
        Misconception(
            lambda ch, ch_mult, num_res_blocks: _skip_channels(
                ch, [math.prod(ch_mult[: i + 1]) for i in range(len(ch_mult))], num_res_blocks
            ),
            "You multiplied the entries of ch_mult with one another. Each is a multiple of ch itself.",
        ),
    ),
)


def _down_same(x, weight):
    """Exercise 3.6: a 3x3 convolution with stride 2 and TensorFlow's "same" padding.  Ho et al. 2020, code.

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


def _down_by(pad: tuple[int, int, int, int], mode: str = "constant") -> Callable:
    """down_same with this padding: left, right, above, below."""
    return lambda x, weight: F.conv2d(F.pad(x, pad, mode), weight, stride=2)


down_same = Check(
    number="3.6",
    name="down_same",
    specification=_down_same,
    cases=tuple(
        Case(f"x of shape {shape}, weight of shape {wide}", (fractions(*shape), fractions(*wide, start=11)))
        for shape, wide in [((2, 3, 4, 6), (2, 3, 3, 3)), ((1, 1, 8, 4), (1, 1, 3, 3)), ((3, 2, 2, 2), (3, 2, 3, 3))]
    ),
    among="H different from W and sides of 2",
    misconceptions=(
        Misconception(
            _down_by((1, 1, 1, 1)),
            "Your windows begin one row above x and one column to its left: padding=1 puts zeros there too. They "
            "belong below and to the right only. The shape is the same, but every window of yours lies one pixel off.",
        ),
        Misconception(
            lambda x, weight: F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, stride=2, padding=1),
            "You padded twice: after F.pad the convolution needs no padding of its own.",
        ),
        Misconception(
            _down_by((0, 0, 0, 0)),
            "You did not pad: the result has H / 2 - 1 rows. The last window lacks one row and one column.",
        ),
        Misconception(
            _down_by((0, 1, 0, 0)),
            "You padded to the right only. A row below is missing too.",
        ),
        Misconception(
            _down_by((0, 0, 0, 1)),
            "You padded below only. A column to the right is missing too.",
        ),
        Misconception(
            _down_by((0, 0, 1, 1)),
            "You padded above and below. F.pad counts from the last axis: (left, right, above, below).",
        ),
        Misconception(
            _down_by((0, 1, 0, 1), "replicate"),
            "You repeated the edge. TensorFlow's padding is zeros.",
        ),
    ),
)


PARTS = {  # of a residual block: trainable numbers from in_ch, out_ch, tdim
    "norm_1": lambda i, o, t: i + i,
    "conv_1": lambda i, o, t: 3 * 3 * i * o + o,
    "time": lambda i, o, t: t * o + o,
    "norm_2": lambda i, o, t: o + o,
    "conv_2": lambda i, o, t: 3 * 3 * o * o + o,
    "shortcut": lambda i, o, t: 0 if i == o else i * o + o,
}


def _res_block_parameters(in_ch, out_ch, tdim):
    """Exercise 3.7: the number of trainable parameters of a residual block without attention.  Ho et al. 2020, App. B.

    in_ch, out_ch, tdim: ints, channels of input and output and width of the time embedding.  Returns an int: GroupNorm,
    3x3 convolution, the time's linear layer, GroupNorm, 3x3 convolution, and a 1x1 convolution as shortcut if the
    channels change; every layer with a bias.
    Not the memory that it takes: Adam keeps two more numbers for each.
    """
    return sum(part(in_ch, out_ch, tdim) for part in PARTS.values())


def _counted_by(**other: Callable) -> Callable:
    """res_block_parameters with these parts in the place of theirs."""
    return lambda in_ch, out_ch, tdim: sum(part(in_ch, out_ch, tdim) for part in (PARTS | other).values())


def _without(numbers: Callable) -> Callable:
    """res_block_parameters that lacks so many."""
    return lambda i, o, t: _res_block_parameters(i, o, t) - numbers(i, o)


res_block_parameters = Check(
    number="3.7",
    name="res_block_parameters",
    specification=_res_block_parameters,
    cases=tuple(
        Case(f"in_ch = {in_ch}, out_ch = {out_ch}, tdim = {tdim}", (in_ch, out_ch, tdim))
        for in_ch, out_ch, tdim in [(64, 64, 256), (128, 256, 512), (384, 128, 512), (32, 96, 64)]
    ),
    among="equal, growing and shrinking channels",
    returns=int,
    misconceptions=(
        Misconception(
            _without(lambda i, o: (4 if i != o else 3) * o),
            "You forgot the biases of convolutions and linear layer: one for each channel that they put out.",
        ),
        Misconception(
            _without(lambda i, o: (4 if i != o else 3) * o + i + o),
            "You forgot all biases, those of the norms too: one for each channel that a layer puts out.",
        ),
        Misconception(
            _without(lambda i, o: i + o),
            "You counted one number for each channel of a norm. It has two, weight and bias.",
        ),
        Misconception(
            _counted_by(norm_1=lambda i, o, t: 0, norm_2=lambda i, o, t: 0),
            "You forgot the norms. Each has a weight and a bias for each of its channels.",
        ),
        Misconception(
            _counted_by(norm_2=lambda i, o, t: i + i),
            "Your second norm has in_ch channels. It comes after the first convolution: out_ch.",
        ),
        Misconception(
            _counted_by(conv_2=lambda i, o, t: 9 * i * o + o),
            "Your second convolution maps in_ch to out_ch. The first did that already: the second keeps out_ch.",
        ),
        Misconception(
            _counted_by(time=lambda i, o, t: 0),
            "You forgot the time: a linear layer from tdim to out_ch.",
        ),
        Misconception(
            _counted_by(time=lambda i, o, t: t * o),
            "The time's linear layer lacks its bias, one number for each of its out_ch outputs.",
        ),
        Misconception(
            _counted_by(shortcut=lambda i, o, t: i * o + o),
            "You counted a shortcut in every block. Where the channels stay, the input is added as it is.",
        ),
        Misconception(
            _counted_by(shortcut=lambda i, o, t: 0),
            "You forgot the shortcut. Where the channels change, a 1x1 convolution leads from in_ch to out_ch.",
        ),
        Misconception(
            _counted_by(shortcut=lambda i, o, t: 0 if i == o else i * o),
            "Your shortcut lacks its bias: the 1x1 convolution has one number for each of its out_ch outputs.",
        ),
    ),
)
