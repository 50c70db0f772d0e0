"""Solutions of the exercises in notebook 03, one function each.  Try first: the checks say what is wrong."""

import math

import torch
from einops import rearrange
from torch.nn import functional as F


def time_table(T, d_model):
    exponents = torch.arange(0, d_model, 2, dtype=torch.float64) / d_model  # 2k / d_model
    angles = torch.arange(T, dtype=torch.float64)[:, None] / 10000**exponents  # (T, d_model / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # the pair on the last axis: they alternate


def group_norm(x, num_groups, weight, bias):
    h = rearrange(x, "b (g c) h w -> b g (c h w)", g=num_groups)
    mean, var = h.mean(-1, keepdim=True), h.var(-1, keepdim=True, unbiased=False)
    h = ((h - mean) / (var + 1e-5).sqrt()).reshape(x.shape)
    return h * weight[:, None, None] + bias[:, None, None]  # (C, 1, 1): a channel's own


def add_time(h, temb, weight, bias):
    time = F.silu(temb) @ weight.T + bias  # (B, C)
    return h + time[:, :, None, None]


def attention(q, k, v):
    H, W = q.shape[2:]
    q, k, v = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, query, key)
    return rearrange(scores.softmax(-1) @ v, "b (h w) c -> b c h w", h=H, w=W)


def skip_channels(ch, ch_mult, num_res_blocks):
    skips, now = [ch], ch  # the head's
    for level, mult in enumerate(ch_mult):
        now = ch * mult
        skips += [now] * num_res_blocks
        if level != len(ch_mult) - 1:
            skips.append(now)  # the down-sampler's
    inputs = []
    for mult in reversed(ch_mult):
        for _ in range(num_res_blocks + 1):
            inputs.append(now + skips.pop())  # the last one made is the first one used
            now = ch * mult
    return inputs


def down_same(x, weight):
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, stride=2)  # left, right, above, below


def res_block_parameters(in_ch, out_ch, tdim):
    norms = 2 * in_ch + 2 * out_ch  # weight and bias
    convolutions = 9 * in_ch * out_ch + out_ch + 9 * out_ch * out_ch + out_ch
    time = tdim * out_ch + out_ch
    shortcut = 0 if in_ch == out_ch else in_ch * out_ch + out_ch
    return norms + convolutions + time + shortcut
