"""Exercise 3.4: the residual block as a module."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks.unet._modules import script, trained
from ddpm_lesson.checks.unet._res_block_parts import other_layers, other_sizes
from ddpm_lesson.checks.unet._rows import placed


class _ResBlock(nn.Module):
    """Exercise 3.4: the residual block with the time in it, without attention.  Ho et al. 2020, App. B.

    in_ch, out_ch, tdim: channels of x and of the result, width of temb. dropout: its rate. num_groups: of both norms.
    forward: x (B, in_ch, H, W), temb (B, tdim).  Returns (B, out_ch, H, W).
    Parts: block1 (norm, Swish, 3x3 convolution), temb_proj (Swish, linear), block2 (norm, Swish, dropout, 3x3
    convolution that starts at 0), shortcut (identity, or a 1x1 convolution if the channels change), attn (identity),
    which is applied to the sum.
    Not a norm after the addition: the sum goes on as it is.
    """

    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.num_groups, self.rate = num_groups, dropout
        self.block1 = nn.ModuleList([nn.GroupNorm(num_groups, in_ch), nn.SiLU(), nn.Conv2d(in_ch, out_ch, 3)])
        self.temb_proj = nn.ModuleList([nn.SiLU(), nn.Linear(tdim, out_ch)])
        kept = [nn.GroupNorm(num_groups, out_ch), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out_ch, out_ch, 3)]
        self.block2 = nn.ModuleList(kept)
        self.shortcut = nn.Identity() if in_ch == out_ch else nn.Conv2d(in_ch, out_ch, 1)
        self.attn = nn.Identity()
        nn.init.zeros_(self.block2[3].weight)
        nn.init.zeros_(self.block2[3].bias)

    def forward(self, x, temb):
        h = F.group_norm(x, self.num_groups, self.block1[0].weight, self.block1[0].bias)
        h = F.conv2d(h * torch.sigmoid(h), self.block1[2].weight, self.block1[2].bias, padding=1)
        time = (temb * torch.sigmoid(temb)) @ self.temb_proj[1].weight.T + self.temb_proj[1].bias
        h = torch.stack([image + shift.reshape(-1, 1, 1) for image, shift in zip(h, time, strict=True)])
        h = F.group_norm(h, self.num_groups, self.block2[0].weight, self.block2[0].bias)
        h = F.dropout(h * torch.sigmoid(h), self.rate, self.training)
        h = F.conv2d(h, self.block2[3].weight, self.block2[3].bias, padding=1)
        return self.attn(h + self.shortcut(x))


class _Built(_ResBlock):
    """The same with choices."""

    def __init__(
        self,
        in_ch: int,
        out_ch: int,
        tdim: int,
        dropout: float,
        num_groups: int = 32,
        *,
        groups_1=lambda num_groups, channels: num_groups,
        groups_2=lambda num_groups, channels: num_groups,
        start=nn.init.zeros_,
        swish_1=F.silu,
        swish_2=F.silu,
        of_temb=F.silu,
        order=("conv", "time", "norm"),
        place=lambda shift: shift[:, :, None, None],
        drop=F.dropout,
        shortcut=lambda block, x: block.shortcut(x),
        end=lambda block, h, across: block.attn(h + across),
    ):
        super().__init__(in_ch, out_ch, tdim, dropout, num_groups)
        self.block1[0] = nn.GroupNorm(groups_1(num_groups, in_ch), in_ch)
        self.block2[0] = nn.GroupNorm(groups_2(num_groups, out_ch), out_ch)
        start(self.block2[3].weight)
        self.swish_1, self.swish_2, self.of_temb = swish_1, swish_2, of_temb
        self.order, self.place, self.drop, self.across, self.end = order, place, drop, shortcut, end

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        norm, _, conv = self.block1
        shift = self.place(self.temb_proj[1](self.of_temb(temb)))
        h = self.swish_1(norm(x))
        for part in self.order:
            if part == "conv":
                h = F.conv2d(h, conv.weight, conv.bias, padding=1)
            elif part == "norm":
                h = self.block2[0](h)
            elif part == "time":
                h = h + shift
        h = self.drop(self.swish_2(h), self.rate, self.training)
        h = F.conv2d(h, self.block2[3].weight, self.block2[3].bias, padding=1)
        h = h + shift if self.order[-1] == "end" else h
        return self.end(self, h, self.across(self, x))


class _Ramp(nn.Module):
    """What stands for an attention: it changes the sum in a way that cannot be mistaken."""

    def forward(self, h):
        return h * h + 1


def _beyond_the_shortcut(block, x, temb):
    across = F.conv2d(x, block.shortcut.weight, block.shortcut.bias) if "shortcut.bias" in block.state_dict() else x
    return block(x, temb) - across


def _attends(block):
    block.attn = _Ramp()


def _ungrouped(subject, *slots):
    """Rows of the table: norms that do not get num_groups, but PyTorch's or DDPM's usual numbers."""
    numbers = {
        "32 groups, whatever num_groups is": lambda num_groups, channels: 32,
        "as many groups as channels, or 32": lambda num_groups, channels: min(32, channels),
        "a single group": lambda num_groups, channels: 1,
    }
    return {
        f"{subject} {words}. Both norms of the block take num_groups: pass it on.": dict.fromkeys(slots, number)
        for words, number in numbers.items()
    }


def _case(in_ch: int, out_ch: int, tdim: int, dropout: float, num_groups: int, *size: int) -> Case:
    batch, height, width = size
    x = fractions(batch, in_ch, height, width, start=101).double()
    temb = 2 * fractions(batch, tdim, start=111).double()
    words = f"in_ch = {in_ch}, out_ch = {out_ch}, tdim = {tdim}, dropout = {dropout}, num_groups = {num_groups}"
    return Case(words, ((in_ch, out_ch, tdim, dropout, num_groups), (x, temb)))


ResBlock = Check(
    number="3.4",
    name="ResBlock",
    specification=_ResBlock,
    form=_Built,
    script=script(
        _ResBlock,
        "its shortcut",
        _beyond_the_shortcut,
        {"with an attention": _attends, "in training": nn.Module.train},
        other_layers,
        other_sizes,
    ),
    steps=True,
    inputs=("x", "temb"),
    gradients=("x", "temb"),
    trained=trained(_ResBlock),
    cuts={
        "You detached the shortcut: what lies before the block learns through the other way only.": dict(
            shortcut=lambda block, x: block.shortcut(x).detach()
        ),
        "You detached x before the shortcut: what lies before the block learns through the other way only.": dict(
            shortcut=lambda block, x: block.shortcut(x.detach())
        ),
        "You detached the time: temb_proj and the time embedding would never learn.": dict(
            place=lambda shift: shift.detach()[:, :, None, None]
        ),
        "You detached temb: the time embedding would never learn.": dict(of_temb=lambda temb: F.silu(temb.detach())),
    },
    cases=(
        _case(4, 4, 6, 0.0, 2, 2, 3, 5),
        _case(4, 32, 6, 0.0, 2, 3, 4, 4),  # 32 channels: a norm of 32 groups can be built, and is wrong
        _case(32, 4, 4, 1.0, 4, 2, 4, 2),  # with 1.0 dropout leaves nothing: no chance in it
        _case(4, 4, 4, 1.0, 1, 4, 4, 4),
    ),
    among="equal, growing and shrinking channels",
    misconceptions={
        "Your block does not start as its shortcut: set weight and bias of the last convolution to 0 where you build "
        "it, nn.init.zeros_(...).": dict(start=nn.init.ones_),
        **_ungrouped("Your first norm has", "groups_1"),
        **_ungrouped("Your second norm has", "groups_2"),
        **_ungrouped("Your two norms have", "groups_1", "groups_2"),
        "You forgot the Swish between the first norm and its convolution.": dict(swish_1=lambda h: h),
        "You forgot the Swish after the second norm.": dict(swish_2=lambda h: h),
        "You took ReLU in block1. Swish is nn.SiLU.": dict(swish_1=F.relu),
        "You took ReLU in block2. Swish is nn.SiLU.": dict(swish_2=F.relu),
        "You took ReLU in both halves. Swish is nn.SiLU.": dict(swish_1=F.relu, swish_2=F.relu),
        "You forgot the Swish before the time's linear layer: temb_proj is Swish, then linear.": dict(
            of_temb=lambda temb: temb
        ),
        "Your block never uses temb. It is added after the first convolution.": dict(order=("conv", "norm")),
        "You add the time after the second norm. It is added before: to the first convolution's result.": dict(
            order=("conv", "norm", "time")
        ),
        "You add the time to what comes out of block2. It is added before its norm, to the "
        "first convolution's result.": dict(order=("conv", "norm", "end")),
        "You apply Swish to temb twice. temb_proj holds it already: temb_proj(temb), or Swish and temb_proj[1].": dict(
            of_temb=lambda temb: F.silu(F.silu(temb))
        ),
        "You left out the second norm.": dict(order=("conv", "time")),
        **placed("place"),
        "Your block drops nothing in training: dropout comes after the second Swish.": dict(drop=lambda h, *_: h),
        "You forgot the shortcut: the block returns what should be added to x.": dict(shortcut=lambda b, x: 0),
        "Your shortcut starts at the normalised x. It is x itself, or its 1x1 convolution.": dict(
            shortcut=lambda block, x: block.shortcut(block.block1[0](x))
        ),
        "Your block never calls self.attn. It is applied last, to the sum.": dict(
            end=lambda block, h, across: h + across
        ),
        "You apply self.attn before the shortcut is added. It is applied last, to the sum.": dict(
            end=lambda block, h, across: block.attn(h) + across
        ),
        "You divide the sum by sqrt(2). DDPM adds the two as they are.": dict(
            end=lambda block, h, across: block.attn((h + across) / 2**0.5)
        ),
    },
)
