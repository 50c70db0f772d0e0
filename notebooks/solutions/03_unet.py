"""Solutions of the exercises in notebook 03, one function or class each.  Try first: the checks say what is wrong."""

import math

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from ddpm_lesson.networks.blocks import DownSample, TimeEmbedding, UpSample


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


class ResBlock(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.block1 = nn.Sequential(nn.GroupNorm(num_groups, in_ch), nn.SiLU(), nn.Conv2d(in_ch, out_ch, 3, padding=1))
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        self.block2 = nn.Sequential(
            nn.GroupNorm(num_groups, out_ch), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out_ch, out_ch, 3, padding=1)
        )
        self.shortcut = nn.Identity() if in_ch == out_ch else nn.Conv2d(in_ch, out_ch, 1)
        self.attn = nn.Identity()
        nn.init.zeros_(self.block2[-1].weight)
        nn.init.zeros_(self.block2[-1].bias)

    def forward(self, x, temb):
        linear = self.temb_proj[1]
        h = add_time(self.block1(x), temb, linear.weight, linear.bias)
        return self.attn(self.block2(h) + self.shortcut(x))


def attention(q, k, v):
    H, W = q.shape[2:]
    q, k, v = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, query, key)
    return rearrange(scores.softmax(-1) @ v, "b (h w) c -> b c h w", h=H, w=W)


class AttnBlock(nn.Module):
    def __init__(self, in_ch, num_groups=32):
        super().__init__()
        self.group_norm = nn.GroupNorm(num_groups, in_ch)
        self.proj_q = nn.Conv2d(in_ch, in_ch, 1)
        self.proj_k = nn.Conv2d(in_ch, in_ch, 1)
        self.proj_v = nn.Conv2d(in_ch, in_ch, 1)
        self.proj = nn.Conv2d(in_ch, in_ch, 1)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x):
        h = self.group_norm(x)
        return x + self.proj(attention(self.proj_q(h), self.proj_k(h), self.proj_v(h)))


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


class UNet(nn.Module):
    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        super().__init__()

        def block(c_in, c_out, attends):
            made = ResBlock(c_in, c_out, 4 * ch, dropout, num_groups)
            if attends:
                made.attn = AttnBlock(c_out, num_groups)
            return made

        levels = range(len(ch_mult))
        inputs = iter(skip_channels(ch, ch_mult, num_res_blocks))
        self.time_embedding = TimeEmbedding(T, ch, 4 * ch)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)

        self.downblocks, now = nn.ModuleList(), ch
        for i in levels:
            for _ in range(num_res_blocks):
                self.downblocks.append(block(now, ch * ch_mult[i], i in attn))
                now = ch * ch_mult[i]
            if i != levels[-1]:
                self.downblocks.append(DownSample(now))

        self.middleblocks = nn.ModuleList([block(now, now, True), block(now, now, False)])

        self.upblocks = nn.ModuleList()
        for i in reversed(levels):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(block(next(inputs), ch * ch_mult[i], i in attn))
            if i != 0:
                self.upblocks.append(UpSample(ch * ch_mult[i]))

        now = ch * ch_mult[0]
        self.tail = nn.Sequential(nn.GroupNorm(num_groups, now), nn.SiLU(), nn.Conv2d(now, in_ch, 3, padding=1))
        nn.init.zeros_(self.tail[-1].weight)
        nn.init.zeros_(self.tail[-1].bias)

    def forward(self, x, t):
        temb = self.time_embedding(t)
        h = self.head(x)
        skips = [h]
        for layer in self.downblocks:
            h = layer(h, temb)
            skips.append(h)
        for layer in self.middleblocks:
            h = layer(h, temb)
        for layer in self.upblocks:
            if not isinstance(layer, UpSample):
                h = torch.cat([h, skips.pop()], 1)
            h = layer(h, temb)
        return self.tail(h)


def down_same(x, weight):
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, stride=2)  # left, right, above, below


def res_block_parameters(in_ch, out_ch, tdim):
    norms = 2 * in_ch + 2 * out_ch  # weight and bias
    convolutions = 9 * in_ch * out_ch + out_ch + 9 * out_ch * out_ch + out_ch
    time = tdim * out_ch + out_ch
    shortcut = 0 if in_ch == out_ch else in_ch * out_ch + out_ch
    return norms + convolutions + time + shortcut
