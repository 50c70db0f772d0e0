"""Exercise 3.10: the whole U-Net as a module."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks.unet._modules import script, trained
from ddpm_lesson.checks.unet.attn_block import _AttnBlock
from ddpm_lesson.checks.unet.res_block import _ResBlock


class _TimeEmbedding(nn.Module):
    def __init__(self, T, d_model, dim):
        super().__init__()
        angles = torch.arange(T)[:, None] * 10000 ** (-torch.arange(0, d_model, 2) / d_model)
        table = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
        layers = [nn.Embedding.from_pretrained(table), nn.Linear(d_model, dim), nn.SiLU(), nn.Linear(dim, dim)]
        self.timembedding = nn.Sequential(*layers)

    def forward(self, t):
        return self.timembedding(t)


class _Resampled(nn.Module):
    """A 3x3 convolution with stride 2, or one after every pixel was repeated."""

    def __init__(self, channels, down):
        super().__init__()
        self.main, self.down = nn.Conv2d(channels, channels, 3, stride=2 if down else 1, padding=1), down

    def forward(self, h):
        return self.main(h if self.down else h.repeat_interleave(2, 2).repeat_interleave(2, 3))


class _UNet(nn.Module):
    """Exercise 3.10: the U-Net of DDPM.  Ho et al. 2020, App. B.

    T: number of steps. ch: channels of level 0. ch_mult: those of each level as multiples of ch. attn: the levels whose
    residual blocks attend. num_res_blocks: to a level on the way down, one more on the way up. dropout: its rate.
    in_ch: channels of the image. num_groups: of every norm.
    forward: x (B, in_ch, H, W), t (B,).  Returns the noise, (B, in_ch, H, W).
    Parts: time_embedding, head, downblocks, middleblocks, upblocks, tail, as in section 3.9. Its parameters are those
    of ddpm_lesson's UNet with the same arguments, and with them it gives the same output.
    Not an autoencoder: every block on the way up takes a feature of the way down, too.
    """

    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        super().__init__()

        def block(c_in, c_out, attends=False):
            built = _ResBlock(c_in, c_out, 4 * ch, dropout, num_groups)
            if attends:
                built.attn = _AttnBlock(c_out, num_groups)
            return built

        widths, last = [ch * mult for mult in ch_mult], len(ch_mult) - 1
        self.time_embedding = _TimeEmbedding(T, ch, 4 * ch)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)
        down, up, carried, now = [], [], [ch], ch
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                down.append(block(now, width, level in attn))
                carried.append(now := width)
            if level < last:
                down.append(_Resampled(now, down=True))
                carried.append(now)
        self.middleblocks = nn.ModuleList([block(now, now, True), block(now, now)])
        for level in range(last, -1, -1):
            for _ in range(num_res_blocks + 1):
                up.append(block(now + carried.pop(), widths[level], level in attn))
                now = widths[level]
            if level > 0:
                up.append(_Resampled(now, down=False))
        self.downblocks, self.upblocks = nn.ModuleList(down), nn.ModuleList(up)
        self.tail = nn.Sequential(nn.GroupNorm(num_groups, now), nn.SiLU(), nn.Conv2d(now, in_ch, 3, padding=1))
        nn.init.zeros_(self.tail[2].weight)
        nn.init.zeros_(self.tail[2].bias)

    def forward(self, x, t):
        temb = self.time_embedding(t)
        features = [self.head(x)]
        for layer in self.downblocks:
            features.append(layer(features[-1], temb) if isinstance(layer, _ResBlock) else layer(features[-1]))
        h, at = features[-1], len(features) - 1
        for layer in self.middleblocks:
            h = layer(h, temb)
        for layer in self.upblocks:
            if isinstance(layer, _ResBlock):
                h, at = layer(torch.cat([h, features[at]], 1), temb), at - 1
            else:
                h = layer(h)
        return self.tail(h)


class _Built(_UNet):
    """The same with choices."""

    def __init__(
        self,
        T: int,
        ch: int,
        ch_mult: list[int],
        attn: list[int],
        num_res_blocks: int,
        dropout: float,
        in_ch: int = 3,
        num_groups: int = 32,
        *,
        start=nn.init.zeros_,
        rate=lambda dropout: dropout,
        told=lambda temb: temb,
        begin=lambda h: h,
        join=lambda h, skip: torch.cat([h, skip], 1),
        middle=lambda layers: layers,
        end=lambda tail, h: tail(h),
    ):
        super().__init__(T, ch, ch_mult, attn, num_res_blocks, rate(dropout), in_ch, num_groups)
        start(self.tail[2].weight)
        self.told, self.begin, self.join, self.middle, self.end = told, begin, join, middle, end

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        temb = self.told(self.time_embedding(t))
        h = self.begin(self.head(x))
        hs = [h]
        for layer in self.downblocks:
            h = layer(h, temb) if isinstance(layer, _ResBlock) else layer(h)
            hs.append(h)
        for layer in self.middle(self.middleblocks):
            h = layer(h, temb)
        for layer in self.upblocks:
            h = layer(self.join(h, hs.pop()), temb) if isinstance(layer, _ResBlock) else layer(h)
        return self.end(self.tail, h)


def _case(options: tuple, *size: int) -> Case:
    (batch, height, width), (T, ch, ch_mult, attn, num_res_blocks, _, in_ch, _) = size, options
    x = 2 * fractions(batch, in_ch, height, width, start=101).double()
    words = f"ch = {ch}, ch_mult = {ch_mult}, attn = {attn}, num_res_blocks = {num_res_blocks}, in_ch = {in_ch}"
    return Case(words, (options, (x, torch.tensor([T - 1, 0, T // 2][:batch]))))


CIFAR = (1000, 128, [1, 2, 2, 2], [1], 2, 0.1, 3, 32)

UNet = Check(
    number="3.10",
    name="UNet",
    specification=_UNet,
    form=_Built,
    script=script(_UNet, "the function 0", lambda unet, x, t: unet(x, t), {"in training": nn.Module.train}),
    steps=True,
    inputs=("x", "t"),
    gradients=("x",),
    trained=trained(_UNet),
    cuts={
        "You detached the skips: the way down would learn through the middle only.": dict(
            join=lambda h, skip: torch.cat([h, skip.detach()], 1)
        ),
        "You detached temb: the time embedding would never learn.": dict(told=torch.Tensor.detach),
        "You detached what comes out of the middle: the middle would never learn.": dict(
            middle=lambda layers: [*layers, lambda h, temb: h.detach()]
        ),
    },
    cases=(
        _case((9, 6, [2], [], 1, 0.0, 2, 3), 2, 3, 4),  # the smallest comes first: on it most mistakes are told apart
        _case((20, 4, [1, 2], [1], 1, 0.0, 1, 2), 2, 4, 6),
        _case((20, 4, [1, 3, 2], [0, 2], 2, 1.0, 3, 2), 3, 4, 4),
        Case("the network for CIFAR-10", (CIFAR, ())),
    ),
    among="one level, and the 35,746,307 parameters of CIFAR-10's network",
    misconceptions={
        "Your network does not start as the function 0: set weight and bias of the tail's convolution to 0, "
        "nn.init.zeros_(...).": dict(start=nn.init.ones_),
        "You join skip and features in the other order: what comes from below goes first, "
        "torch.cat([h, skip], 1).": dict(join=lambda h, skip: torch.cat([skip, h], 1)),
        "Your blocks on the way up get no skips: half of what they get is 0.": dict(
            join=lambda h, skip: torch.cat([h, torch.zeros_like(skip)], 1)
        ),
        "Your answer does not depend on t: temb goes to every residual block.": dict(told=torch.zeros_like),
        "You apply Swish to temb before the blocks. Each block does that itself.": dict(told=F.silu),
        "You apply Swish after the head. The first block begins with a norm.": dict(begin=F.silu),
        "You never run the middle.": dict(middle=lambda layers: []),
        "You run only the first block of the middle. There are two.": dict(middle=lambda layers: layers[:1]),
        "You run the middle's blocks in reverse order. The one with attention is the first.": dict(
            middle=lambda layers: list(layers)[::-1]
        ),
        "Your tail's norm is left out of the call: norm, Swish, convolution.": dict(
            end=lambda tail, h: tail[2](tail[1](h))
        ),
        "Your tail has no Swish between norm and convolution.": dict(end=lambda tail, h: tail[2](tail[0](h))),
        "The dropout that your network is given does not reach its blocks.": dict(rate=lambda dropout: 0.0),
    },
)
