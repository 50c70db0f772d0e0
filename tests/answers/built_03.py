# ruff: noqa: B905, E501, E731, E741
"""Answers to the exercises of notebook 03 in which something is built, written from their statements alone."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ddpm_lesson.networks.blocks import DownSample, TimeEmbedding, UpSample


def add_time(h, temb, weight, bias):
    return h + F.linear(F.silu(temb), weight, bias)[:, :, None, None]


def attention(q, k, v):
    shape = q.shape
    q, k, v = (x.flatten(2).mT for x in (q, k, v))
    weights = (q @ k.mT / math.sqrt(shape[1])).softmax(-1)
    return (weights @ v).mT.reshape(shape)


def skip_channels(ch, ch_mult, num_res_blocks):
    skips, now = [ch], ch
    for i, m in enumerate(ch_mult):
        for _ in range(num_res_blocks):
            now = ch * m
            skips.append(now)
        if i < len(ch_mult) - 1:
            skips.append(now)
    out = []
    for m in ch_mult[::-1]:
        for _ in range(num_res_blocks + 1):
            out.append(now + skips.pop())
            now = ch * m
    return out


class ResBlock(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(num_groups, in_ch),
            nn.SiLU(),
            nn.Conv2d(in_ch, out_ch, 3, padding=1),
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        self.block2 = nn.Sequential(
            nn.GroupNorm(num_groups, out_ch),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_ch, out_ch, 3, padding=1),
        )
        if in_ch != out_ch:
            self.shortcut = nn.Conv2d(in_ch, out_ch, 1)
        else:
            self.shortcut = nn.Identity()
        self.attn = nn.Identity()
        nn.init.zeros_(self.block2[-1].weight)
        nn.init.zeros_(self.block2[-1].bias)

    def forward(self, x, temb):
        h = self.block1(x)
        h = add_time(h, temb, self.temb_proj[1].weight, self.temb_proj[1].bias)
        h = self.block2(h)
        return self.attn(h + self.shortcut(x))


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
        q = self.proj_q(h)
        k = self.proj_k(h)
        v = self.proj_v(h)
        return x + self.proj(attention(q, k, v))


class ResBlock_w0(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(num_groups, in_ch),
            nn.SiLU(),
            nn.Conv2d(in_ch, out_ch, 3, padding=1),
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        self.block2 = nn.Sequential(
            nn.GroupNorm(num_groups, out_ch),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_ch, out_ch, 3, padding=1),
        )
        if in_ch != out_ch:
            self.shortcut = nn.Conv2d(in_ch, out_ch, 1)
        else:
            self.shortcut = nn.Identity()
        self.attn = nn.Identity()

    def forward(self, x, temb):
        h = self.block1(x)
        h = add_time(h, temb, self.temb_proj[1].weight, self.temb_proj[1].bias)
        h = self.block2(h)
        return self.attn(h + self.shortcut(x))


class ResBlock_w1(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(num_groups, in_ch),
            nn.SiLU(),
            nn.Conv2d(in_ch, out_ch, 3, padding=1),
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        self.block2 = nn.Sequential(
            nn.GroupNorm(num_groups, out_ch),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_ch, out_ch, 3, padding=1),
        )
        if in_ch != out_ch:
            self.shortcut = nn.Conv2d(in_ch, out_ch, 1)
        else:
            self.shortcut = nn.Identity()
        self.attn = nn.Identity()
        nn.init.zeros_(self.block2[-1].weight)
        nn.init.zeros_(self.block2[-1].bias)

    def forward(self, x, temb):
        h = self.block1(x)
        h = add_time(h, temb, self.temb_proj[1].weight, self.temb_proj[1].bias)
        h = self.block2(h)
        return self.attn(h)


class ResBlock_w2(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(num_groups, in_ch),
            nn.SiLU(),
            nn.Conv2d(in_ch, out_ch, 3, padding=1),
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        self.block2 = nn.Sequential(
            nn.GroupNorm(num_groups, out_ch),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_ch, out_ch, 3, padding=1),
        )
        if in_ch != out_ch:
            self.shortcut = nn.Conv2d(in_ch, out_ch, 1)
        else:
            self.shortcut = nn.Identity()
        self.attn = nn.Identity()
        nn.init.zeros_(self.block2[-1].weight)
        nn.init.zeros_(self.block2[-1].bias)

    def forward(self, x, temb):
        h = self.block1(x)
        h = self.block2(h)
        h = add_time(h, temb, self.temb_proj[1].weight, self.temb_proj[1].bias)
        return self.attn(h + self.shortcut(x))


class ResBlock_w3(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(num_groups, in_ch),
            nn.SiLU(),
            nn.Conv2d(in_ch, out_ch, 3, padding=1),
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        self.block2 = nn.Sequential(
            nn.GroupNorm(num_groups, out_ch),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_ch, out_ch, 3, padding=1),
        )
        if in_ch != out_ch:
            self.shortcut = nn.Conv2d(in_ch, out_ch, 1)
        else:
            self.shortcut = nn.Identity()
        self.attn = nn.Identity()
        nn.init.zeros_(self.block2[-1].weight)
        nn.init.zeros_(self.block2[-1].bias)

    def forward(self, x, temb):
        h = self.block1(x)
        h = add_time(h, self.temb_proj[0](temb), self.temb_proj[1].weight, self.temb_proj[1].bias)
        h = self.block2(h)
        return self.attn(h + self.shortcut(x))


class ResBlock_w4(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(num_groups, in_ch),
            nn.SiLU(),
            nn.Conv2d(in_ch, out_ch, 3, padding=1),
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        self.block2 = nn.Sequential(
            nn.GroupNorm(num_groups, out_ch),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_ch, out_ch, 3, padding=1),
        )
        if in_ch != out_ch:
            self.shortcut = nn.Conv2d(in_ch, out_ch, 1)
        else:
            self.shortcut = nn.Identity()
        self.attn = nn.Identity()
        nn.init.zeros_(self.block2[-1].weight)
        nn.init.zeros_(self.block2[-1].bias)

    def forward(self, x, temb):
        h = self.block1(x)
        h = add_time(h, temb, self.temb_proj[1].weight, self.temb_proj[1].bias)
        h = self.block2(h)
        return self.attn(h) + self.shortcut(x)


class ResBlock_w15(ResBlock):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__(in_ch, out_ch, tdim, dropout, num_groups)
        last = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.block2 = nn.Sequential(nn.GroupNorm(32, out_ch), nn.SiLU(), nn.Dropout(dropout), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


class ResBlock_w16(ResBlock):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__(in_ch, out_ch, tdim, dropout, num_groups)
        self.block1[0] = nn.GroupNorm(min(32, in_ch), in_ch)


class ResBlock_w17(ResBlock):
    def forward(self, x, temb):
        h = self.block1(x)
        h = self.block2(h + self.temb_proj(temb)[:, :, None, None])
        return self.attn(h + self.shortcut(x).detach())


class ResBlock_w18(ResBlock):
    @torch.no_grad()
    def forward(self, x, temb):
        return super().forward(x, temb)


class ResBlock_w19(ResBlock):
    def forward(self, x, temb):
        h = self.block1(x) + self.temb_proj(temb).detach()[:, :, None, None]
        return self.attn(self.block2(h) + self.shortcut(x))


class AttnBlock_w20(AttnBlock):
    def forward(self, x):
        h = self.group_norm(x)
        return x + self.proj(attention(self.proj_q(h), self.proj_k(h), h))


class AttnBlock_w21(AttnBlock):
    def forward(self, x):
        B, C, H, W = x.shape
        h = self.group_norm(x)
        q, k = self.proj_q(h).flatten(2).mT, self.proj_k(h).flatten(2).mT
        weights = torch.softmax(q @ k.mT / C**0.5, dim=-1)
        out = weights @ x.flatten(2).mT
        return x + self.proj(out.mT.reshape(B, C, H, W))


class AttnBlock_w22(AttnBlock):
    def forward(self, x):
        h = self.group_norm(x.detach())
        return x + self.proj(attention(self.proj_q(h), self.proj_k(h), self.proj_v(h)))


class AttnBlock_w23(AttnBlock):
    def forward(self, x):
        h = self.group_norm(x)
        with torch.no_grad():
            q, k = self.proj_q(h), self.proj_k(h)
        return x + self.proj(attention(q, k, self.proj_v(h)))


class ResBlock_c0(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(num_groups, in_ch),
            nn.SiLU(),
            nn.Conv2d(in_ch, out_ch, 3, padding=1),
        )
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        self.block2 = nn.Sequential(
            nn.GroupNorm(num_groups, out_ch),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_ch, out_ch, 3, padding=1),
        )
        if in_ch != out_ch:
            self.shortcut = nn.Conv2d(in_ch, out_ch, 1)
        else:
            self.shortcut = nn.Identity()
        self.attn = nn.Identity()
        self.block2[-1].weight.data.zero_()
        self.block2[-1].bias.data.zero_()

    def forward(self, x, temb):
        h = self.block1(x)
        h = h + self.temb_proj(temb)[..., None, None]
        h = self.block2(h)
        return self.attn(h + self.shortcut(x))


class ResBlock_c1(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()

        def stage(a, b, *extra):
            return nn.Sequential(
                nn.GroupNorm(num_groups, a), nn.SiLU(), *extra, nn.Conv2d(a, b, kernel_size=3, stride=1, padding="same")
            )

        self.block1 = stage(in_ch, out_ch)
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        self.block2 = stage(out_ch, out_ch, nn.Dropout(dropout))
        self.shortcut = nn.Conv2d(in_ch, out_ch, 1) if in_ch != out_ch else nn.Identity()
        self.attn = nn.Identity()
        with torch.no_grad():
            for p in self.block2[3].parameters():
                p.fill_(0)

    def forward(self, x, temb):
        time = self.temb_proj(temb)
        out = self.block2(self.block1(x) + time.view(*time.shape, 1, 1))
        out = out + self.shortcut(x)
        return self.attn(out)


class AttnBlock_w5(nn.Module):
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
        q = self.proj_q(h)
        k = self.proj_k(h)
        v = self.proj_v(h)
        return self.proj(attention(q, k, v))


class AttnBlock_w6(nn.Module):
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
        q = self.proj_q(h)
        k = self.proj_k(h)
        v = self.proj_v(h)
        return h + self.proj(attention(q, k, v))


class AttnBlock_w7(nn.Module):
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
        h = x
        q = self.proj_q(h)
        k = self.proj_k(h)
        v = self.proj_v(h)
        return x + self.proj(attention(q, k, v))


class AttnBlock_w8(nn.Module):
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
        q = self.proj_q(h)
        k = self.proj_k(h)
        v = self.proj_v(h)
        return x + self.proj(attention(k, q, v))


class AttnBlock_w9(nn.Module):
    def __init__(self, in_ch, num_groups=32):
        super().__init__()
        self.group_norm = nn.GroupNorm(num_groups, in_ch)
        self.proj_q = nn.Conv2d(in_ch, in_ch, 1)
        self.proj_k = nn.Conv2d(in_ch, in_ch, 1)
        self.proj_v = nn.Conv2d(in_ch, in_ch, 1)
        self.proj = nn.Conv2d(in_ch, in_ch, 1)

    def forward(self, x):
        h = self.group_norm(x)
        q = self.proj_q(h)
        k = self.proj_k(h)
        v = self.proj_v(h)
        return x + self.proj(attention(q, k, v))


class AttnBlock_c2(nn.Module):
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
        q = self.proj_q(h)
        k = self.proj_k(h)
        v = self.proj_v(h)
        q, k, v = (z.flatten(2).transpose(1, 2) for z in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(out.transpose(1, 2).reshape(x.shape))


class AttnBlock_c3(nn.Module):
    def __init__(self, in_ch, num_groups=32):
        super().__init__()
        self.group_norm = nn.GroupNorm(num_groups, in_ch)
        for name in ("proj_q", "proj_k", "proj_v", "proj"):
            setattr(self, name, nn.Conv2d(in_ch, in_ch, kernel_size=1))
        for p in self.proj.parameters():
            nn.init.constant_(p, 0.0)

    def forward(self, x):
        normed = self.group_norm(x)
        return self.proj(attention(*(f(normed) for f in (self.proj_q, self.proj_k, self.proj_v)))) + x


class UNet_w10(nn.Module):
    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        super().__init__()
        tdim = 4 * ch
        self.time_embedding = TimeEmbedding(T, ch, tdim)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)

        def block(c_in, c_out, attends):
            b = ResBlock(c_in, c_out, tdim, dropout, num_groups)
            if attends:
                b.attn = AttnBlock(c_out, num_groups)
            return b

        self.downblocks = nn.ModuleList()
        now = ch
        for i, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(block(now, ch * mult, i in attn))
                now = ch * mult
            if i != len(ch_mult) - 1:
                self.downblocks.append(DownSample(now))

        self.middleblocks = nn.ModuleList(
            [
                block(now, now, True),
                block(now, now, True),
            ]
        )

        self.upblocks = nn.ModuleList()
        inputs = iter(skip_channels(ch, ch_mult, num_res_blocks))
        for i, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(block(next(inputs), ch * mult, i in attn))
                now = ch * mult
            if i != 0:
                self.upblocks.append(UpSample(now))

        self.tail = nn.Sequential(
            nn.GroupNorm(num_groups, now),
            nn.SiLU(),
            nn.Conv2d(now, in_ch, 3, padding=1),
        )
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
            if isinstance(layer, UpSample):
                h = layer(h)
            else:
                h = layer(torch.cat([h, skips.pop()], 1), temb)
        return self.tail(h)


class UNet_w11(nn.Module):
    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        super().__init__()
        tdim = 4 * ch
        self.time_embedding = TimeEmbedding(T, ch, tdim)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)

        def block(c_in, c_out, attends):
            b = ResBlock(c_in, c_out, tdim, dropout, num_groups)
            if attends:
                b.attn = AttnBlock(c_out, num_groups)
            return b

        self.downblocks = nn.ModuleList()
        now = ch
        for i, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(block(now, ch * mult, i in attn))
                now = ch * mult
            if i != len(ch_mult) - 1:
                self.downblocks.append(DownSample(now))

        self.middleblocks = nn.ModuleList(
            [
                block(now, now, False),
                block(now, now, True),
            ]
        )

        self.upblocks = nn.ModuleList()
        inputs = iter(skip_channels(ch, ch_mult, num_res_blocks))
        for i, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(block(next(inputs), ch * mult, i in attn))
                now = ch * mult
            if i != 0:
                self.upblocks.append(UpSample(now))

        self.tail = nn.Sequential(
            nn.GroupNorm(num_groups, now),
            nn.SiLU(),
            nn.Conv2d(now, in_ch, 3, padding=1),
        )
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
            if isinstance(layer, UpSample):
                h = layer(h)
            else:
                h = layer(torch.cat([h, skips.pop()], 1), temb)
        return self.tail(h)


class UNet_w12(nn.Module):
    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        super().__init__()
        tdim = 4 * ch
        self.time_embedding = TimeEmbedding(T, ch, tdim)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)

        def block(c_in, c_out, attends):
            b = ResBlock(c_in, c_out, tdim, dropout, num_groups)
            if attends:
                b.attn = AttnBlock(c_out, num_groups)
            return b

        self.downblocks = nn.ModuleList()
        now = ch
        for i, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(block(now, ch * mult, i in attn))
                now = ch * mult
            if i != len(ch_mult) - 1:
                self.downblocks.append(DownSample(now))

        self.middleblocks = nn.ModuleList(
            [
                block(now, now, True),
                block(now, now, False),
            ]
        )

        self.upblocks = nn.ModuleList()
        inputs = iter(skip_channels(ch, ch_mult, num_res_blocks))
        for i, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(block(next(inputs), ch * mult, i in attn))
                now = ch * mult
            if i != 0:
                self.upblocks.append(UpSample(now))

        self.tail = nn.Sequential(
            nn.GroupNorm(num_groups, now),
            nn.SiLU(),
            nn.Conv2d(now, in_ch, 3, padding=1),
        )
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
            if isinstance(layer, UpSample):
                h = layer(h)
            else:
                h = layer(torch.cat([skips.pop(), h], 1), temb)
        return self.tail(h)


class UNet_w13(nn.Module):
    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        super().__init__()
        tdim = 4 * ch
        self.time_embedding = TimeEmbedding(T, ch, tdim)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)

        def block(c_in, c_out, attends):
            b = ResBlock(c_in, c_out, tdim, dropout, num_groups)
            if attends:
                b.attn = AttnBlock(c_out, num_groups)
            return b

        self.downblocks = nn.ModuleList()
        now = ch
        for i, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(block(now, ch * mult, i in attn))
                now = ch * mult
            if i != len(ch_mult) - 1:
                self.downblocks.append(DownSample(now))

        self.middleblocks = nn.ModuleList(
            [
                block(now, now, True),
                block(now, now, False),
            ]
        )

        self.upblocks = nn.ModuleList()
        inputs = iter(skip_channels(ch, ch_mult, num_res_blocks))
        for i, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(block(next(inputs), ch * mult, len(ch_mult) - 1 - i in attn))
                now = ch * mult
            if i != 0:
                self.upblocks.append(UpSample(now))

        self.tail = nn.Sequential(
            nn.GroupNorm(num_groups, now),
            nn.SiLU(),
            nn.Conv2d(now, in_ch, 3, padding=1),
        )
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
            if isinstance(layer, UpSample):
                h = layer(h)
            else:
                h = layer(torch.cat([h, skips.pop()], 1), temb)
        return self.tail(h)


class UNet_w14(nn.Module):
    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        super().__init__()
        tdim = 4 * ch
        self.time_embedding = TimeEmbedding(T, ch, tdim)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)

        def block(c_in, c_out, attends):
            b = ResBlock(c_in, c_out, tdim, dropout, num_groups)
            if attends:
                b.attn = AttnBlock(c_out, num_groups)
            return b

        self.downblocks = nn.ModuleList()
        now = ch
        for i, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(block(now, ch * mult, i in attn))
                now = ch * mult
            if i != len(ch_mult) - 1:
                self.downblocks.append(DownSample(now))

        self.middleblocks = nn.ModuleList(
            [
                block(now, now, True),
                block(now, now, False),
            ]
        )

        self.upblocks = nn.ModuleList()
        inputs = iter(skip_channels(ch, ch_mult, num_res_blocks))
        for i, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(block(next(inputs), ch * mult, i in attn))
                now = ch * mult
            if i != 0:
                self.upblocks.append(UpSample(now))

        self.tail = nn.Sequential(
            nn.GroupNorm(num_groups, now),
            nn.SiLU(),
            nn.Conv2d(now, in_ch, 3, padding=1),
        )

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
            if isinstance(layer, UpSample):
                h = layer(h)
            else:
                h = layer(torch.cat([h, skips.pop()], 1), temb)
        return self.tail(h)


class UNet_c4(nn.Module):
    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        super().__init__()
        tdim = 4 * ch
        self.time_embedding = TimeEmbedding(T, ch, tdim)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)

        def block(c_in, c_out, attends):
            b = ResBlock(c_in, c_out, tdim, dropout, num_groups)
            if attends:
                b.attn = AttnBlock(c_out, num_groups)
            return b

        self.downblocks = nn.ModuleList()
        now, made = ch, [ch]
        for i, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(block(now, ch * mult, i in attn))
                now = ch * mult
                made.append(now)
            if i != len(ch_mult) - 1:
                self.downblocks.append(DownSample(now))
                made.append(now)

        self.middleblocks = nn.ModuleList(
            [
                block(now, now, True),
                block(now, now, False),
            ]
        )

        self.upblocks = nn.ModuleList()
        for i, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(block(now + made.pop(), ch * mult, i in attn))
                now = ch * mult
            if i != 0:
                self.upblocks.append(UpSample(now))

        self.tail = nn.Sequential(
            nn.GroupNorm(num_groups, now),
            nn.SiLU(),
            nn.Conv2d(now, in_ch, 3, padding=1),
        )
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
            if isinstance(layer, UpSample):
                h = layer(h)
            else:
                h = layer(torch.cat([h, skips.pop()], 1), temb)
        return self.tail(h)


class UNet_c5(nn.Module):
    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        super().__init__()
        tdim = 4 * ch
        self.time_embedding = TimeEmbedding(T, ch, tdim)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)

        def block(c_in, c_out, attends):
            b = ResBlock(c_in, c_out, tdim, dropout, num_groups)
            if attends:
                b.attn = AttnBlock(c_out, num_groups)
            return b

        self.downblocks = nn.ModuleList()
        now = ch
        for i, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.downblocks.append(block(now, ch * mult, i in attn))
                now = ch * mult
            if i != len(ch_mult) - 1:
                self.downblocks.append(DownSample(now))

        self.middleblocks = nn.ModuleList(
            [
                block(now, now, True),
                block(now, now, False),
            ]
        )

        self.upblocks = nn.ModuleList()
        inputs = iter(skip_channels(ch, ch_mult, num_res_blocks))
        for i, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(block(next(inputs), ch * mult, i in attn))
                now = ch * mult
            if i != 0:
                self.upblocks.append(UpSample(now))

        self.tail = nn.Sequential(
            nn.GroupNorm(num_groups, now),
            nn.SiLU(),
            nn.Conv2d(now, in_ch, 3, padding=1),
        )
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
            if isinstance(layer, ResBlock):
                skip = skips[-1]
                del skips[-1]
                h = torch.concat((h, skip), dim=-3)
            h = layer(h, temb)
        return self.tail(h)


from answers import Answers, Correct, Wrong  # noqa: E402

answers = Answers()
answers.wrongs += [
    Wrong(
        "ResBlock",
        ResBlock_w0,
        "the last convolution does not start at 0",
        "other",
        ("Your block does not start as its shortcut",),
    ),
    Wrong("ResBlock", ResBlock_w1, "no shortcut in forward", "factor", ("You forgot the shortcut",)),
    Wrong(
        "ResBlock",
        ResBlock_w2,
        "the time is added after the second block instead of before its norm",
        "order",
        ("You add the time to what comes out of block2",),
    ),
    Wrong(
        "ResBlock",
        ResBlock_w3,
        "Swish of the time twice: temb_proj[0], then add_time",
        "activation",
        ("You apply Swish to temb twice",),
    ),
    Wrong(
        "ResBlock",
        ResBlock_w4,
        "attn is applied to the branch, before the shortcut is added",
        "order",
        ("You apply self.attn before the shortcut is added",),
    ),
    Wrong("AttnBlock", AttnBlock_w5, "the input is not added", "factor", ("You return the average without x",)),
    Wrong(
        "AttnBlock",
        AttnBlock_w6,
        "adds to the normalised features instead of x",
        "table",
        ("You add the average to the normalised x",),
    ),
    Wrong(
        "AttnBlock",
        AttnBlock_w7,
        "the norm is not used: projections of x",
        "ignored-argument",
        ("Queries, keys and values come from x as it is",),
    ),
    Wrong("AttnBlock", AttnBlock_w8, "query and key swapped", "swap", ("You exchanged query and key",)),
    Wrong("AttnBlock", AttnBlock_w9, "proj does not start at 0", "other", ("Your block does not start as x",)),
    Wrong("UNet", UNet_w10, "attention in both middle blocks", "count", ()),
    Wrong("UNet", UNet_w11, "the second middle block has the attention instead of the first", "order", ()),
    Wrong(
        "UNet",
        UNet_w12,
        "torch.cat puts the skip in front of h",
        "order",
        ("You join skip and features in the other order",),
    ),
    Wrong(
        "UNet",
        UNet_w13,
        "attn at a level is compared with the last level's index from behind on the way up",
        "index",
        (),
    ),
    Wrong(
        "UNet",
        UNet_w14,
        "the tail's convolution does not start at 0",
        "other",
        ("Your network does not start as the function 0",),
    ),
    Wrong(
        "ResBlock", ResBlock_w15, "num_groups not passed on", "ignored-argument", ("Your second norm has 32 groups",)
    ),
    Wrong(
        "ResBlock", ResBlock_w16, "min(32, in_ch) groups", "ignored-argument", ("Your first norm has as many groups",)
    ),
    Wrong("ResBlock", ResBlock_w17, "detached shortcut", "gradient", ("You detached the shortcut",)),
    Wrong(
        "ResBlock",
        ResBlock_w18,
        "no_grad in forward",
        "gradient",
        ("no gradient reaches x, temb and the parameters: ",),
    ),
    Wrong("ResBlock", ResBlock_w19, "detached time", "gradient", ("You detached the time",)),
    Wrong("AttnBlock", AttnBlock_w20, "values not projected", "ignored-argument", ("Your values are not projected",)),
    Wrong("AttnBlock", AttnBlock_w21, "x for the values", "ignored-argument", ("Your values are x itself",)),
    Wrong("AttnBlock", AttnBlock_w22, "x detached before the norm", "gradient", ("You detached x before the norm",)),
    Wrong("AttnBlock", AttnBlock_w23, "q and k under no_grad", "gradient", ("or queries and keys: proj_q and proj_k",)),
]
answers.corrects += [
    Correct("ResBlock", ResBlock_c0, "temb_proj called as a module, zero by .data"),
    Correct("ResBlock", ResBlock_c1, "layers built in a helper, init under no_grad"),
    Correct("AttnBlock", AttnBlock_c2, "scaled_dot_product_attention"),
    Correct("AttnBlock", AttnBlock_c3, "setattr in a loop"),
    Correct("UNet", UNet_c4, "lists first, ModuleList at the end; channels on the way up without skip_channels"),
    Correct("UNet", UNet_c5, "forward by ResBlock instances, stack reversed"),
]
