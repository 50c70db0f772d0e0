# ruff: noqa: B905
"""Answers to the exercises of notebook 03, written from their statements alone."""

import itertools
import math

import numpy as np
import torch
from einops import einsum, rearrange, reduce
from torch import nn
from torch.nn import functional as F

from answers import Answers

answers = Answers()
W, C = answers.wrong, answers.correct


# ---------------------------------------------------------------- 3.1


def time_table(T, d_model):
    k = torch.arange(d_model // 2, dtype=torch.float64)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * 10000 ** (-k / (d_model // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


W(
    time_table,
    "all sines first, then all cosines",
    "layout",
    "You return all sines and then all cosines, as DDPM's own code",
)


def time_table(T, d_model):
    k = torch.arange(d_model // 2, dtype=torch.float64)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * 10000 ** (-k / (d_model // 2 - 1))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


W(
    time_table,
    "the exponent is divided by half - 1, as in DDPM's code",
    "published-variant",
    "Your exponents are k / (half - 1), as in DDPM's own code. Here",
)


def time_table(T, d_model):
    k = torch.arange(0, d_model, 2, dtype=torch.float64)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * 10000 ** (-2 * k / d_model)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


W(
    time_table,
    "the exponent is doubled: 2 times an index that already counts in twos",
    "factor",
    "Your exponent is twice too large: your index counts in twos",
)


def time_table(T, d_model):
    k = torch.arange(d_model // 2, dtype=torch.float64)
    angles = torch.arange(1, T + 1, dtype=torch.float64)[:, None] * 10000 ** (-k / (d_model // 2))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


W(time_table, "t counts from 1", "index", "You counted t from 1. In code t starts at 0: row 0 reads 0, 1,")


def time_table(T, d_model):
    k = torch.arange(d_model // 2, dtype=torch.float64)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * 10000 ** (-k / (d_model // 2))
    return torch.stack([angles.cos(), angles.sin()], -1).flatten(1)


W(
    time_table,
    "cosine stands before sine in every pair",
    "order",
    "Sine and cosine are exchanged. The sine has the even entries,",
)


def time_table(T, d_model):
    # as in the paper: position / 10000^(i / d)
    i = torch.arange(d_model, dtype=torch.float64)
    angles = torch.arange(T, dtype=torch.float64)[:, None] / 10000 ** (i / d_model)
    table = angles.sin()
    table[:, 1::2] = angles[:, 1::2].cos()
    return table


W(
    time_table,
    "every column has a frequency of its own: the cosine does not share its sine's",
    "index",
    "Sine and cosine of a pair have different frequencies: you took",
)


def time_table(T, d_model):
    k = torch.arange(d_model // 2, dtype=torch.float64)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * 10000 ** (k / (d_model // 2))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


W(
    time_table,
    "the exponent's minus is missing: frequencies rise to 10000",
    "sign",
    "Your exponents have the wrong sign: the frequencies grow from",
)


def time_table(T, d_model):
    k = torch.arange(d_model // 2, dtype=torch.float64)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * 1000 ** (-k / (d_model // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


W(
    time_table,
    "base 1000, and all cosines first, then all sines",
    "two",
    "You return all cosines and then all sines, as",
    "Your frequencies are powers of 1000.",
)


def time_table(T, d_model):
    table = torch.zeros(T, d_model)
    t = torch.arange(T).unsqueeze(1)
    omega = torch.exp(torch.arange(0, d_model, 2).double() * (-math.log(10000.0) / d_model))
    table[:, 0::2] = torch.sin(t * omega)
    table[:, 1::2] = torch.cos(t * omega)
    return table


C(time_table, "filled by slices, exp of logs (the PyTorch tutorial's form)")


def time_table(T, d_model):
    k = torch.arange(d_model // 2, dtype=torch.float64)
    waves = torch.polar(
        torch.ones(T, d_model // 2, dtype=torch.float64),
        torch.outer(torch.arange(T, dtype=torch.float64), 10000 ** (-2 * k / d_model)),
    )
    return rearrange(torch.stack((waves.imag, waves.real)), "two t k -> t (k two)")


C(time_table, "complex numbers and einops")


def time_table(T, d_model):
    column = np.arange(d_model)
    angle = np.arange(T)[:, None] / np.power(10000.0, 2 * (column // 2) / d_model)
    return torch.from_numpy(np.where(column % 2 == 0, np.sin(angle), np.cos(angle)))


C(time_table, "numpy with where over the columns' parity")

# ---------------------------------------------------------------- 3.2


def group_norm(x, num_groups, weight, bias):
    B, ch, H, Wd = x.shape
    g = x.view(B, num_groups, ch // num_groups, H, Wd)
    mean = g.mean((2, 3, 4), keepdim=True)
    var = g.var((2, 3, 4), keepdim=True)
    g = (g - mean) / (var + 1e-5).sqrt()
    return g.view(B, ch, H, Wd) * weight.view(1, ch, 1, 1) + bias.view(1, ch, 1, 1)


W(
    group_norm,
    "the variance divides by n - 1 (unbiased)",
    "count",
    "You divided by n - 1, as var does by default. The norm wants",
)


def group_norm(x, num_groups, weight, bias):
    B, ch, H, Wd = x.shape
    g = x.view(B, num_groups, ch // num_groups, H, Wd)
    mean = g.mean((2, 3, 4), keepdim=True)
    var = g.var((2, 3, 4), keepdim=True, unbiased=False)
    g = (g - mean) / (var.sqrt() + 1e-5)
    return g.view(B, ch, H, Wd) * weight.view(1, ch, 1, 1) + bias.view(1, ch, 1, 1)


W(
    group_norm,
    "1e-5 is added to the standard deviation, outside of the root",
    "brackets",
    "You added eps to the root. It is added to the variance, under",
)


def group_norm(x, num_groups, weight, bias):
    B, ch, H, Wd = x.shape
    g = x.view(B, num_groups, ch // num_groups, H, Wd)
    mean = g.mean((3, 4), keepdim=True)
    var = g.var((3, 4), keepdim=True, unbiased=False)
    g = (g - mean) / (var + 1e-5).sqrt()
    return g.view(B, ch, H, Wd) * weight.view(1, ch, 1, 1) + bias.view(1, ch, 1, 1)


W(
    group_norm,
    "each channel is normalised alone: the group's channels are left out of the axes",
    "layout",
    "You normalised every channel on its own. A group's channels",
)


def group_norm(x, num_groups, weight, bias):
    B, ch, H, Wd = x.shape
    g = x.view(B, ch // num_groups, num_groups, H, Wd)
    mean = g.mean((2, 3, 4), keepdim=True)
    var = g.var((2, 3, 4), keepdim=True, unbiased=False)
    g = (g - mean) / (var + 1e-5).sqrt()
    return g.view(B, ch, H, Wd) * weight.view(1, ch, 1, 1) + bias.view(1, ch, 1, 1)


W(
    group_norm,
    "num_groups is taken for the size of a group",
    "layout",
    "You took num_groups for the size of a group. It is the number",
)


def group_norm(x, num_groups, weight, bias):
    B, ch, H, Wd = x.shape
    g = x.view(B, num_groups, ch // num_groups, H, Wd)
    mean = g.mean((0, 2, 3, 4), keepdim=True)
    var = g.var((0, 2, 3, 4), keepdim=True, unbiased=False)
    g = (g - mean) / (var + 1e-5).sqrt()
    return g.view(B, ch, H, Wd) * weight.view(1, ch, 1, 1) + bias.view(1, ch, 1, 1)


W(
    group_norm,
    "mean and variance run over the batch too",
    "layout",
    "Your mean and variance run over the batch too. Each image has",
)


def group_norm(x, num_groups, weight, bias):
    B, ch, H, Wd = x.shape
    g = x.view(B, num_groups, ch // num_groups, H, Wd)
    mean = g.mean((2, 3, 4), keepdim=True)
    var = g.var((2, 3, 4), keepdim=True, unbiased=False)
    g = (g - mean) / (var + 1e-5)
    return g.view(B, ch, H, Wd) * weight.view(1, ch, 1, 1) + bias.view(1, ch, 1, 1)


W(
    group_norm,
    "divides by the variance: the root is missing",
    "square-root",
    "You divided by the variance. Its root brings the values to",
)


def group_norm(x, num_groups, weight, bias):
    g = rearrange(x, "b (c g) h w -> b g (c h w)", g=num_groups)
    g = (g - g.mean(-1, keepdim=True)) / (g.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    y = rearrange(g, "b g (c h w) -> b (c g) h w", h=x.shape[2], w=x.shape[3])
    return y * weight[:, None, None] + bias[:, None, None]


W(
    group_norm,
    "the groups interleave: every G-th channel and not neighbours",
    "layout",
    "Your groups are interleaved: channel c went to group c %",
)


def group_norm(x, num_groups, weight, bias):
    B, ch, H, Wd = x.shape
    g = x.view(B, num_groups, -1)
    g = g / (g.var(-1, keepdim=True) + 1e-5).sqrt()
    return g.view(B, ch, H, Wd) * weight.view(1, ch, 1, 1) + bias.view(1, ch, 1, 1)


W(
    group_norm,
    "the mean is not subtracted, and the variance is unbiased",
    "two",
    "You divided by n - 1, as var does by default.",
    "You did not subtract the mean.",
)


def group_norm(x, num_groups, weight, bias):
    out = torch.empty_like(x)
    size = x.shape[1] // num_groups
    for b, g in itertools.product(range(x.shape[0]), range(num_groups)):
        part = x[b, g * size : (g + 1) * size]
        out[b, g * size : (g + 1) * size] = (part - part.mean()) * torch.rsqrt(part.var(correction=0) + 1e-5)
    return out.mul_(weight.view(-1, 1, 1)).add_(bias.view(-1, 1, 1))


C(group_norm, "loop over images and groups, in-place on an own tensor")


def group_norm(x, num_groups, weight, bias):
    groups = x.unflatten(1, (num_groups, -1))
    first = reduce(groups, "b g c h w -> b g 1 1 1", "mean")
    second = reduce(groups**2, "b g c h w -> b g 1 1 1", "mean")
    y = ((groups - first) / torch.sqrt(second - first**2 + 1e-5)).flatten(1, 2)
    return torch.einsum("bchw,c->bchw", y, weight) + bias.reshape(1, -1, 1, 1)


C(group_norm, "mean of squares less square of the mean")


def group_norm(x, num_groups, weight, bias):
    chunks = [F.layer_norm(part, part.shape[1:], eps=1e-5) for part in x.chunk(num_groups, dim=1)]
    return torch.addcmul(bias[None, :, None, None], weight[None, :, None, None], torch.cat(chunks, 1))


C(group_norm, "layer_norm of every chunk, addcmul")

# ---------------------------------------------------------------- 3.3


def add_time(h, temb, weight, bias):
    return h + F.linear(temb, weight, bias)[:, :, None, None]


W(add_time, "Swish is missing", "activation", "You forgot Swish. temb comes out of a linear layer, and two of")


def add_time(h, temb, weight, bias):
    return h + F.linear(F.relu(temb), weight, bias)[:, :, None, None]


W(add_time, "ReLU and not Swish", "activation", "You took ReLU. Swish is asked for, temb *")


def add_time(h, temb, weight, bias):
    return h + F.silu(F.linear(temb, weight, bias))[:, :, None, None]


W(
    add_time,
    "Swish after the linear layer and not before it",
    "order",
    "You applied Swish after the linear layer. It comes before:",
)


def add_time(h, temb, weight, bias):
    return h + F.linear(F.silu(temb), weight)[:, :, None, None]


W(add_time, "the bias is ignored", "ignored-argument", "You forgot the bias of the linear layer, one number for each")


def add_time(h, temb, weight, bias):
    h += F.linear(F.silu(temb), weight, bias)[:, :, None, None]
    return h


W(add_time, "changes h in place", "other", "The result is right, but your function changes h in place: the")


def add_time(h, temb, weight, bias):
    return h * F.linear(F.silu(temb), weight, bias)[:, :, None, None]


W(add_time, "multiplies where it should add", "sign", "You multiplied. The time is added")


def add_time(h, temb, weight, bias):
    time = F.linear(F.silu(temb[0]), weight, bias)
    return h + time[None, :, None, None]


W(
    add_time,
    "the first image's time embedding is used for all",
    "broadcast",
    "You used the first image's temb for the whole batch. Every",
)


def add_time(h, temb, weight, bias):
    return h + F.gelu(F.linear(temb, weight, bias))[:, :, None, None]


W(
    add_time,
    "GELU and not Swish, and after the linear layer",
    "two",
    "You took GELU, and after the linear layer. Swish comes before",
)


def add_time(h, temb, weight, bias):
    u = temb * torch.sigmoid(temb)
    return h + rearrange(einsum(weight, u, "c d, b d -> b c") + bias, "b c -> b c 1 1")


C(add_time, "Swish by hand, einops")


def add_time(h, temb, weight, bias):
    out = h.clone()
    for i, u in enumerate(temb):
        out[i] += (torch.mv(weight, u / (1 + torch.exp(-u))) + bias).view(-1, 1, 1)
    return out


C(add_time, "clone, then in-place image by image")


def add_time(h, temb, weight, bias):
    kernel = weight[:, :, None, None]
    return h + F.conv2d(nn.SiLU()(temb)[:, :, None, None], kernel, bias).expand_as(h)


C(add_time, "a 1x1 convolution as the linear layer")

# ---------------------------------------------------------------- 3.4


def attention(q, k, v):
    H, Wd = q.shape[2:]
    q, k, v = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
    w = einsum(q, k, "b i c, b j c -> b i j").softmax(-1)
    return rearrange(einsum(w, v, "b i j, b j c -> b i c"), "b (h w) c -> b c h w", h=H, w=Wd)


W(attention, "not divided by sqrt(C)", "factor", "You forgot to divide by sqrt(C). q . k grows with C, and the")


def attention(q, k, v):
    H, Wd = q.shape[2:]
    ch = q.shape[1]
    q, k, v = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
    w = (einsum(q, k, "b i c, b j c -> b i j") / ch).softmax(-1)
    return rearrange(einsum(w, v, "b i j, b j c -> b i c"), "b (h w) c -> b c h w", h=H, w=Wd)


W(
    attention,
    "divided by C and not by its root",
    "square-root",
    "You divided by C. A sum of C products grows like sqrt(C): with",
)


def attention(q, k, v):
    H, Wd = q.shape[2:]
    ch = q.shape[1]
    q, k, v = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
    w = (einsum(q, k, "b i c, b j c -> b i j") / math.sqrt(ch)).softmax(1)
    return rearrange(einsum(w, v, "b i j, b j c -> b i c"), "b (h w) c -> b c h w", h=H, w=Wd)


W(
    attention,
    "the softmax runs over the queries i and not over j",
    "layout",
    "Your softmax runs over the queries. For each query the weights",
)


def attention(q, k, v):
    H, Wd = q.shape[2:]
    ch = q.shape[1]
    q, k, v = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
    w = einsum(q, k, "b i c, b j c -> b i j").softmax(-1) / math.sqrt(ch)
    return rearrange(einsum(w, v, "b i j, b j c -> b i c"), "b (h w) c -> b c h w", h=H, w=Wd)


W(
    attention,
    "divided by sqrt(C) after the softmax and not before",
    "order",
    "You divided by sqrt(C) after the softmax, and its weights no",
)


def attention(q, k, v):
    B, ch, H, Wd = q.shape
    q, k, v = (x.reshape(B, H * Wd, ch) for x in (q, k, v))
    w = (torch.bmm(q, k.transpose(1, 2)) * ch**-0.5).softmax(-1)
    return torch.bmm(w, v).reshape(B, ch, H, Wd)


W(
    attention,
    "reshape to (B, HW, C) without moving the channel axis: pixels and channels get mixed up",
    "layout",
    "You reshaped (B, C, H, W) into (B, H W, C). The shape is right,",
)


def attention(q, k, v):
    H, Wd = q.shape[2:]
    q, k, v = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
    w = (einsum(q, k, "b i c, b j c -> b i j") / math.sqrt(H * Wd)).softmax(-1)
    return rearrange(einsum(w, v, "b i j, b j c -> b i c"), "b (h w) c -> b c h w", h=H, w=Wd)


W(
    attention,
    "divided by the root of the number of pixels and not of the channels",
    "table",
    "You divided by sqrt(H W), the number of pixels. q . k is a sum",
)


def attention(q, k, v):
    H, Wd = q.shape[2:]
    ch = q.shape[1]
    q, k, v = (rearrange(x, "b c h w -> b c (h w)") for x in (q, k, v))
    w = (q @ k.transpose(1, 2) / math.sqrt(ch)).softmax(-1)
    return rearrange(w @ v, "b c (h w) -> b c h w", h=H, w=Wd)


W(
    attention,
    "channels attend to channels: the weights are (C, C)",
    "layout",
    "Your channels look at one another: your weights are (C, C).",
)


def attention(q, k, v):
    H, Wd = q.shape[2:]
    q, k, v = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
    w = einsum(k, q, "b i c, b j c -> b i j").softmax(-1)
    return rearrange(einsum(w, v, "b i j, b j c -> b i c"), "b (h w) c -> b c h w", h=H, w=Wd)


W(
    attention,
    "q and k are swapped, and the division by sqrt(C) is missing",
    "two",
    "You forgot to divide by sqrt(C).",
    "q and k are exchanged.",
)


def attention(q, k, v):
    tokens = [x.flatten(2).mT for x in (q, k, v)]
    return F.scaled_dot_product_attention(*tokens).mT.reshape(v.shape)


C(attention, "PyTorch's fused attention")


def attention(q, k, v):
    fit = torch.einsum("bchw,bcyx->bhwyx", q, k).div(q.size(1) ** 0.5)
    e = torch.exp(fit - fit.amax((3, 4), keepdim=True))
    return torch.einsum("bhwyx,bcyx->bchw", e / e.sum((3, 4), keepdim=True), v)


C(attention, "einsum over both axes without flattening, softmax by hand")


def attention(q, k, v):
    images = []
    for a, b, c in zip(q, k, v):
        rows = [
            ((F.normalize(p, dim=0) * p.norm()) @ b.flatten(1) / math.sqrt(len(p))).softmax(0) @ c.flatten(1).T
            for p in a.flatten(1).T
        ]
        images.append(torch.stack(rows, 1).view_as(c))
    return torch.stack(images)


C(attention, "loops over images and query pixels")

# ---------------------------------------------------------------- 3.5


def skip_channels(ch, ch_mult, num_res_blocks):
    stack, now = [ch], ch
    for level, mult in enumerate(ch_mult):
        for _ in range(num_res_blocks):
            now = ch * mult
            stack.append(now)
        if level != len(ch_mult) - 1:
            stack.append(now)
    inputs = []
    for mult in reversed(ch_mult):
        for _ in range(num_res_blocks + 1):
            inputs.append(now + stack.pop(0))
            now = ch * mult
    return inputs


W(
    skip_channels,
    "takes the oldest skip first (a queue) and not the latest (a stack)",
    "order",
    "You took the skips in the order in which they were made. The",
)


def skip_channels(ch, ch_mult, num_res_blocks):
    stack, now = [ch], ch
    for level, mult in enumerate(ch_mult):
        for _ in range(num_res_blocks):
            now = ch * mult
            stack.append(now)
        if level != len(ch_mult) - 1:
            stack.append(now)
    inputs = []
    for mult in reversed(ch_mult):
        for _ in range(num_res_blocks):
            inputs.append(now + stack.pop())
            now = ch * mult
    return inputs


W(
    skip_channels,
    "num_res_blocks blocks to a level on the way up, one too few",
    "count",
    "You have num_res_blocks blocks in each level, so that skips are",
)


def skip_channels(ch, ch_mult, num_res_blocks):
    stack, now = [ch], ch
    for level, mult in enumerate(ch_mult):
        for _ in range(num_res_blocks):
            now = ch * mult
            stack.append(now)
        if level != len(ch_mult) - 1:
            stack.append(now)
    inputs = []
    for mult in reversed(ch_mult):
        now = ch * mult
        for _ in range(num_res_blocks + 1):
            inputs.append(now + stack.pop())
    return inputs


W(
    skip_channels,
    "now changes at the start of a level: its first block should get the level below's channels",
    "order",
    "The first block of a level gets what the coarser level put out.",
)


def skip_channels(ch, ch_mult, num_res_blocks):
    stack, now = [ch], ch
    for level, mult in enumerate(ch_mult):
        for _ in range(num_res_blocks):
            now = now * mult
            stack.append(now)
        if level != len(ch_mult) - 1:
            stack.append(now)
    inputs = []
    for mult in reversed(ch_mult):
        for _ in range(num_res_blocks + 1):
            inputs.append(now + stack.pop())
            now = ch * mult
    return inputs


W(
    skip_channels,
    "the multipliers multiply up on the way down: now * mult and not ch * mult",
    "factor",
    "Every block of yours on the way down multiplies its channels by",
)


def skip_channels(ch, ch_mult, num_res_blocks):
    stack, now = [ch], ch
    for level, mult in enumerate(ch_mult):
        for _ in range(num_res_blocks):
            now = ch * mult
            stack.append(now)
        if level != len(ch_mult) - 1:
            stack.append(now)
    inputs = []
    for mult in reversed(ch_mult):
        for _ in range(num_res_blocks + 1):
            inputs.append(now + stack.pop())
            now = ch * mult
    return inputs[::-1]


W(
    skip_channels,
    "the list is in reverse order, last block first",
    "order",
    "Your list is in reverse order. The first block on the way up is",
)


def skip_channels(ch, ch_mult, num_res_blocks):
    stack = []
    for mult in ch_mult:
        stack += [ch * mult] * (num_res_blocks + 1)
    now = ch * ch_mult[-1]
    inputs = []
    for mult in reversed(ch_mult):
        for _ in range(num_res_blocks + 1):
            inputs.append(now + stack.pop())
            now = ch * mult
    return inputs


W(
    skip_channels,
    "the head is forgotten, and the last level has a down-sampler to fill the gap: the skips are shifted",
    "index",
    "You counted a down-sampler after the last level, where the",
)


def skip_channels(ch, ch_mult, num_res_blocks):
    stack, now = [ch], ch
    for level, mult in enumerate(ch_mult):
        now = ch * mult
        stack += [now] * 2
        if level != len(ch_mult) - 1:
            stack.append(now)
    inputs = []
    for mult in reversed(ch_mult):
        for _ in range(3):
            inputs.append(now + stack.pop())
            now = ch * mult
    return inputs


W(
    skip_channels,
    "num_res_blocks is ignored: 2 is hard-coded",
    "hard-coded",
    "Your result is right for num_res_blocks = 2 only: it does not",
)


def skip_channels(ch, ch_mult, num_res_blocks):
    stack, now = [ch], ch
    for level, mult in enumerate(ch_mult):
        now = ch * mult
        stack += [now] * num_res_blocks
        if level != len(ch_mult) - 1:
            stack.append(now)
    inputs = []
    for mult in reversed(ch_mult):
        now = ch * mult
        for _ in range(num_res_blocks):
            inputs.append(now + stack.pop())
    return inputs


W(
    skip_channels,
    "one block too few to a level, and now changes before the level's first block",
    "two",
    "The first block of a level gets what the coarser level put out,",
)


def skip_channels(ch, ch_mult, num_res_blocks):
    widths = [ch * m for m in ch_mult]
    down = [ch]
    for i, width in enumerate(widths):
        down.extend(itertools.repeat(width, num_res_blocks + (i < len(widths) - 1)))
    out = [w for w in widths[::-1] for _ in range(num_res_blocks + 1)]
    below = [widths[-1], *out[:-1]]
    return [a + b for a, b in zip(below, down[::-1], strict=True)]


C(skip_channels, "two lists added elementwise")


def skip_channels(ch, ch_mult, num_res_blocks):
    result = []
    top = len(ch_mult) - 1
    for level in range(top, -1, -1):
        width = ch * ch_mult[level]
        below = ch * ch_mult[min(level + 1, top)]
        finer = ch * ch_mult[level - 1] if level else ch
        came = [below] + [width] * num_res_blocks
        skip = [width] * num_res_blocks + [finer]
        result += [int(x) for x in np.add(came, skip)]
    return result


C(skip_channels, "closed form for each level, without a stack")


class _Skip:
    def __init__(self):
        self.result = []

    def __call__(self, ch, ch_mult, num_res_blocks):
        from collections import deque

        stack = deque([ch])
        for i, m in enumerate(ch_mult, 1):
            stack.extendleft([ch * m] * (num_res_blocks + (1 if i < len(ch_mult) else 0)))
        now, inputs = ch * ch_mult[-1], []
        for m in ch_mult[::-1]:
            for _ in range(num_res_blocks + 1):
                inputs.append(now + stack.popleft())
                now = ch * m
        return inputs


C(_Skip(), "instance of a class, deque filled on the left", "skip_channels")

# ---------------------------------------------------------------- 3.6


def down_same(x, weight):
    return F.conv2d(x, weight, stride=2, padding=1)


W(down_same, "padding 1 on every side", "layout", "Your windows begin one row above x and one column to its left,")


def down_same(x, weight):
    return F.conv2d(F.pad(x, (1, 0, 1, 0)), weight, stride=2)


W(
    down_same,
    "pads left and above and not right and below",
    "layout",
    "Your windows begin one row above x and one column to its left,",
)


def down_same(x, weight):
    return F.conv2d(x, weight, stride=2)


W(
    down_same,
    "no padding: the output is one row and one column short",
    "layout",
    "You did not pad: the result has H / 2 - 1 rows. The last window",
)


def down_same(x, weight):
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight.flip(2, 3), stride=2)


W(down_same, "the kernel is flipped", "transform", "Your kernel is flipped in both directions, as in a")


def down_same(x, weight):
    return F.conv2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), weight, stride=2)


W(
    down_same,
    "pads with copies of the border and not with zeros",
    "published-variant",
    "You repeated the edge. TensorFlow's padding is",
)


def down_same(x, weight):
    return F.conv2d(F.pad(x, (0, 1, 1, 0)), weight, stride=2)


W(down_same, "pads above and not below", "layout", "Your windows begin one row above x: you padded above")


def down_same(x, weight):
    return F.avg_pool2d(F.conv2d(x, weight, padding=1), 2)


W(
    down_same,
    "convolution with stride 1 and then an average pool, not stride 2",
    "other",
    "You convolved with stride 1 and then averaged over 2x2 pixels.",
)


def down_same(x, weight):
    return F.conv2d(F.pad(x, (1, 0, 1, 0)), weight.transpose(2, 3), stride=2)


W(
    down_same,
    "pads left and above, and the kernel's rows and columns are transposed",
    "two",
    "Your windows begin one row above x and one column",
    "Your kernel is transposed: its rows lie along the",
)


def down_same(x, weight):
    return F.conv2d(x, weight, padding=1)[:, :, 1::2, 1::2]


C(down_same, "stride 1 with symmetric padding, every second pixel from 1 on")


def down_same(x, weight):
    B, _, H, Wd = x.shape
    columns = F.unfold(F.pad(x, (0, 1, 0, 1)), 3, stride=2)
    return (weight.flatten(1) @ columns).view(B, -1, H // 2, Wd // 2)


C(down_same, "unfold and a matrix product")


def down_same(x, weight):
    B, ch, H, Wd = x.shape
    wide = torch.zeros(B, ch, H + 1, Wd + 1, dtype=x.dtype)
    wide[..., :H, :Wd] = x
    out = 0
    for i, j in itertools.product(range(3), repeat=2):
        out = out + einsum(weight[:, :, i, j], wide[:, :, i : i + H : 2, j : j + Wd : 2], "o c, b c h w -> b o h w")
    return out


C(down_same, "loop over the nine kernel positions, zeros filled in")

# ---------------------------------------------------------------- 3.7


def res_block_parameters(in_ch, out_ch, tdim):
    n = 2 * in_ch + 2 * out_ch
    n += 9 * in_ch * out_ch + 9 * out_ch * out_ch
    n += tdim * out_ch + out_ch
    if in_ch != out_ch:
        n += in_ch * out_ch + out_ch
    return n


W(
    res_block_parameters,
    "the two convolutions' biases are missing",
    "count",
    "2 * out_ch numbers are missing: the biases of two layers, of",
)


def res_block_parameters(in_ch, out_ch, tdim):
    n = 4 * in_ch
    n += 9 * in_ch * out_ch + out_ch + 9 * out_ch * out_ch + out_ch
    n += tdim * out_ch + out_ch
    if in_ch != out_ch:
        n += in_ch * out_ch + out_ch
    return n


W(
    res_block_parameters,
    "the second norm is counted with in_ch channels",
    "index",
    "Your second norm has in_ch channels. It comes after the first",
)


def res_block_parameters(in_ch, out_ch, tdim):
    n = 2 * in_ch + 2 * out_ch
    n += 9 * in_ch * out_ch + out_ch + 9 * out_ch * out_ch + out_ch
    n += tdim * out_ch + out_ch
    n += in_ch * out_ch + out_ch
    return n


W(
    res_block_parameters,
    "the shortcut is counted even where in_ch = out_ch",
    "edge",
    "You counted a shortcut in every block. Where the channels stay,",
)


def res_block_parameters(in_ch, out_ch, tdim):
    n = 2 * in_ch + 2 * out_ch
    n += 2 * (9 * in_ch * out_ch + out_ch)
    n += tdim * out_ch + out_ch
    if in_ch != out_ch:
        n += in_ch * out_ch + out_ch
    return n


W(
    res_block_parameters,
    "the second convolution is counted from in_ch and not from out_ch",
    "index",
    "Your second convolution maps in_ch to out_ch. The first did",
)


def res_block_parameters(in_ch, out_ch, tdim):
    n = in_ch + out_ch
    n += 9 * in_ch * out_ch + out_ch + 9 * out_ch * out_ch + out_ch
    n += tdim * out_ch + out_ch
    if in_ch != out_ch:
        n += in_ch * out_ch + out_ch
    return n


W(
    res_block_parameters,
    "a norm has only one number for each channel: the biases are missing",
    "count",
    "You counted one number for each channel of a norm. It has two,",
)


def res_block_parameters(in_ch, out_ch, tdim):
    n = 2 * in_ch + 2 * out_ch
    n += 9 * in_ch * out_ch + out_ch + 9 * out_ch * out_ch + out_ch
    n += tdim * in_ch + in_ch
    if in_ch != out_ch:
        n += in_ch * out_ch + out_ch
    return n


W(
    res_block_parameters,
    "the time's linear layer goes to in_ch channels and not to out_ch",
    "index",
    "Your time goes to in_ch channels. It is added after the first",
)


def res_block_parameters(in_ch, out_ch, tdim):
    n = 2 * in_ch + 2 * out_ch
    n += 9 * in_ch * out_ch + out_ch + 9 * out_ch * out_ch + out_ch
    n += tdim * out_ch + out_ch
    if in_ch != out_ch:
        n += 9 * in_ch * out_ch + out_ch
    return n


W(
    res_block_parameters,
    "the shortcut is counted as a 3x3 convolution",
    "factor",
    "Your shortcut is a 3x3 convolution. It is 1x1: one number for",
)


def res_block_parameters(in_ch, out_ch, tdim):
    n = 2 * in_ch + 2 * out_ch
    n += 9 * in_ch * out_ch + out_ch + 9 * out_ch * out_ch + out_ch
    n += tdim * out_ch
    return n


W(
    res_block_parameters,
    "the time's bias is missing, and the shortcut is forgotten",
    "two",
    "A 3x3 convolution or the time's linear layer lacks its bias",
    "You forgot the shortcut.",
)


def res_block_parameters(in_ch, out_ch, tdim):
    with torch.device("meta"):
        layers = [
            nn.GroupNorm(1, in_ch),
            nn.Conv2d(in_ch, out_ch, 3),
            nn.Linear(tdim, out_ch),
            nn.GroupNorm(1, out_ch),
            nn.Conv2d(out_ch, out_ch, 3),
        ]
        layers += [nn.Conv2d(in_ch, out_ch, 1)] if in_ch != out_ch else []
    return sum(p.numel() for layer in layers for p in layer.parameters())


C(res_block_parameters, "builds the layers on the meta device and sums")


def res_block_parameters(in_ch, out_ch, tdim):
    shapes = [(in_ch,), (in_ch,), (out_ch, in_ch, 3, 3), (out_ch,), (out_ch, tdim), (out_ch,)]
    shapes += [(out_ch,), (out_ch,), (out_ch, out_ch, 3, 3), (out_ch,)]
    shapes += [(out_ch, in_ch, 1, 1), (out_ch,)] * (in_ch != out_ch)
    return sum(map(math.prod, shapes))


C(res_block_parameters, "a list of shapes and math.prod")


def res_block_parameters(in_ch, out_ch, tdim):
    norm = lambda c: 2 * c  # noqa: E731
    layer = lambda a, b, k=1: (k * k * a + 1) * b  # noqa: E731
    total = norm(in_ch) + layer(in_ch, out_ch, 3) + layer(tdim, out_ch) + norm(out_ch) + layer(out_ch, out_ch, 3)
    return total + (layer(in_ch, out_ch) if in_ch - out_ch else 0)


C(res_block_parameters, "two lambdas, one for norms and one for layers")
