"""The exercises of notebook 03 that are modules: right answers, wrong ones, and the weights of the package."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddpm_lesson import checks
from ddpm_lesson.networks import blocks, unet

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("solution_03", ROOT / "notebooks" / "solutions" / "03_unet.py")
solution = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(solution)


class ResBlockByParts(nn.Module):
    """Sequentials called layer by layer, zeros by a factor."""

    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__()
        self.block1 = nn.Sequential(nn.GroupNorm(num_groups, in_ch), nn.SiLU(), nn.Conv2d(in_ch, out_ch, 3, 1, 1))
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, out_ch))
        last = nn.Conv2d(out_ch, out_ch, 3, padding="same")
        for parameter in last.parameters():
            parameter.data.mul_(0)
        self.block2 = nn.Sequential(nn.GroupNorm(num_groups, out_ch), nn.SiLU(), nn.Dropout(dropout), last)
        self.shortcut = nn.Conv2d(in_ch, out_ch, 1) if in_ch != out_ch else nn.Sequential()
        self.attn = nn.Identity()

    def forward(self, x, temb):
        h = x
        for layer in self.block1:
            h = layer(h)
        h = h + self.temb_proj(temb).unsqueeze(-1).unsqueeze(-1)
        for layer in self.block2:
            h = layer(h)
        return self.attn(self.shortcut(x).add(h))


class ResBlockWithGain(solution.ResBlock):
    """The post's start: a gain of 1e-5 instead of 0."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        nn.init.xavier_uniform_(self.block2[-1].weight, gain=1e-5)


class ResBlockOfDictionaries(solution.ResBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.block1 = nn.ModuleList(self.block1)

    def forward(self, x, temb):
        h = self.block1[2](F.silu(self.block1[0](x)))
        return self.attn(self.block2(h + self.temb_proj(temb)[..., None, None]) + self.shortcut(x))


class ResBlockThatPads(solution.ResBlock):
    """Pads in forward, with a Swish of its own, a function for the dropout and no layer where the channels stay."""

    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__(in_ch, out_ch, tdim, dropout, num_groups)
        self.block1[1], self.block1[2] = OwnSwish(), nn.Conv2d(in_ch, out_ch, 3)
        self.block2[2], self.rate = nn.Identity(), dropout
        self.shortcut = None if in_ch == out_ch else self.shortcut

    def forward(self, x, temb):
        h = self.block1[2](F.pad(self.block1[1](self.block1[0](x)), (1, 1, 1, 1)))
        h = self.block2[:2](h + self.temb_proj(temb)[..., None, None])
        h = self.block2[3](F.dropout(h, self.rate, self.training))
        return self.attn(h + (self.shortcut(x) if self.shortcut else x))


class ResBlockOfLists(solution.ResBlock):
    """Lists of layers that forward takes the numbers from, and an empty Sequential where the channels stay."""

    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__(in_ch, out_ch, tdim, dropout, num_groups)
        last = nn.Conv2d(out_ch, out_ch, 3)
        last.load_state_dict(self.block2[3].state_dict())
        self.block1 = nn.ModuleList([self.block1[0], OwnSwish(), nn.Conv2d(in_ch, out_ch, 3)])
        self.block2 = nn.ModuleList([self.block2[0], OwnSwish(), nn.Dropout2d(dropout), last])
        if in_ch == out_ch:
            self.shortcut = nn.Sequential()

    def forward(self, x, temb):
        h = x
        for part in (self.block1, self.block2):
            for layer in part[:-1]:
                h = layer(h)
            h = F.conv2d(h, part[-1].weight, part[-1].bias, padding=1)
            if part is self.block1:
                h = h + self.temb_proj(temb).unflatten(1, (-1, 1, 1))
        return self.attn(self.shortcut(x) + h)


class OwnSwish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class AttnBlockByTorch(solution.AttnBlock):
    def forward(self, x):
        h = self.group_norm(x)
        q, k, v = (layer(h).flatten(2).mT for layer in (self.proj_q, self.proj_k, self.proj_v))
        return x + self.proj(F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape))


class AttnBlockOfThePost(solution.AttnBlock):
    def forward(self, x):
        B, C, H, W = x.shape
        h = self.group_norm(x)
        q, k, v = self.proj_q(h), self.proj_k(h), self.proj_v(h)
        w = torch.bmm(q.permute(0, 2, 3, 1).view(B, H * W, C), k.view(B, C, H * W)) * C**-0.5
        h = torch.bmm(F.softmax(w, dim=-1), v.permute(0, 2, 3, 1).view(B, H * W, C))
        return x + self.proj(h.view(B, H, W, C).permute(0, 3, 1, 2))


class AttnBlockOfOneLayer(solution.AttnBlock):
    """The three projections as one convolution."""

    def forward(self, x):
        layers = (self.proj_q, self.proj_k, self.proj_v)
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        q, k, v = F.conv2d(self.group_norm(x), weight, bias).chunk(3, 1)
        return self.proj(solution.attention(q, k, v)) + x


class AttnBlockByPixels(solution.AttnBlock):
    def forward(self, x):
        h = self.group_norm(x)
        q, k, v = self.proj_q(h).flatten(2), self.proj_k(h).flatten(2), self.proj_v(h).flatten(2)
        columns = [((k.mT @ q[:, :, i, None]) / math.sqrt(x.shape[1])).softmax(1) for i in range(q.shape[2])]
        return x + self.proj(torch.cat([v @ column for column in columns], 2).reshape(x.shape))


class UNetWithQueue(solution.UNet):
    """The features in a list that is read from its end by an index."""

    def forward(self, x, t):
        temb, features = self.time_embedding(t), [self.head(x)]
        for layer in self.downblocks:
            features.append(layer(features[-1], temb))
        h, at = features[-1], -1
        for layer in self.middleblocks:
            h = layer(h, temb)
        for layer in self.upblocks:
            if hasattr(layer, "temb_proj"):
                h, at = torch.cat((h, features[at]), dim=1), at - 1
            h = layer(h, temb)
        return self.tail(h)


class UNetOfThePackage(nn.Module):
    def __new__(cls, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        return unet.UNet(T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=in_ch, num_groups=num_groups)


class UNetInOrder(solution.UNet):
    """Its parts registered in another order."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        tail, head = self.tail, self.head
        del self.tail, self.head
        self.tail, self.head = tail, head


VARIANTS = {
    "ResBlock": [ResBlockByParts, ResBlockWithGain, ResBlockOfDictionaries, ResBlockThatPads, ResBlockOfLists],
    "AttnBlock": [AttnBlockByTorch, AttnBlockOfThePost, AttnBlockByPixels, AttnBlockOfOneLayer],
    "UNet": [UNetWithQueue, UNetOfThePackage, UNetInOrder],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_right_modules_in_other_words_pass(name):
    for variant in VARIANTS[name]:
        assert checks.registry[name].diagnose(variant)[0] == "yes"


def test_the_learners_network_takes_the_packages_weights():
    options = (20, 8, [1, 2, 2], [0, 2], 2, 0.0)
    torch.manual_seed(0)
    theirs = unet.UNet(*options, in_ch=2, num_groups=4)
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    mine = solution.UNet(*options, in_ch=2, num_groups=4)
    mine.load_state_dict(theirs.state_dict())
    x, t = torch.randn(3, 2, 8, 8), torch.tensor([0, 7, 19])
    out = theirs(x, t)
    assert out.std() > 0.1 and torch.allclose(mine(x, t), out, rtol=1e-4, atol=1e-4)


def test_the_learners_network_for_cifar_10_has_the_papers_size():
    with torch.device("meta"):
        net = solution.UNet(1000, 128, [1, 2, 2, 2], [1], 2, 0.1)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 35_746_307


class Unnamed(solution.AttnBlock):
    def __init__(self, in_ch, num_groups=32):
        super().__init__(in_ch, num_groups)
        self.out, self.proj = self.proj, None


class Wider(solution.ResBlock):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        super().__init__(in_ch, out_ch, tdim, dropout, num_groups)
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(tdim, 2 * out_ch))


class Extra(solution.AttnBlock):
    def __init__(self, in_ch, num_groups=32):
        super().__init__(in_ch, num_groups)
        self.scale = nn.Parameter(torch.ones(1))


class WithoutMiddleAttention(solution.UNet):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.middleblocks[0].attn = nn.Identity()


class InPlace(solution.AttnBlock):
    def forward(self, x):
        return x.add_(super().forward(x) - x)


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("AttnBlock", Unnamed, "expected proj.weight of shape (4, 4, 1, 1), and there is none; you have out.weight"),
        ("ResBlock", Wider, "expected temb_proj.1.weight of shape (4, 6), got (8, 6)"),
        ("AttnBlock", Extra, "got scale of shape (1,), which should not be there"),
        ("UNet", WithoutMiddleAttention, "expected middleblocks.0.attn.group_norm.weight of shape (12,), and there"),
        ("AttnBlock", InPlace, "x after the call is the first step that is wrong"),
        ("UNet", lambda *args: nn.Identity(), "and there is none"),
        ("UNet", lambda *args: 3, "expected a class that builds an nn.Module, got int"),
    ],
)  # fmt: skip
def test_wrong_modules_are_told_what_is_wrong(name, answer, words):
    verdict, detail = checks.registry[name].diagnose(answer)
    assert verdict == "no" and words in detail


def with_layers(**parts):
    """A residual block with other layers in these parts: functions of in_ch, out_ch and the number of groups."""

    class Block(solution.ResBlock):
        def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
            super().__init__(in_ch, out_ch, tdim, dropout, num_groups)
            for name, build in parts.items():
                delattr(self, name)
                setattr(self, name, build(in_ch, out_ch, num_groups))

    return Block


def conv(in_ch, out_ch, size=3, padding=1):
    return nn.Conv2d(in_ch, out_ch, size, padding=padding)


def first(*layers):
    """block1: what builds each layer of in_ch, out_ch and the number of groups."""
    return with_layers(block1=lambda *sizes: nn.Sequential(*(layer(*sizes) for layer in layers)))


def second(drop, padding):
    def block2(i, o, g):
        last = conv(o, o, padding=padding)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        return nn.Sequential(nn.GroupNorm(g, o), nn.SiLU(), *drop, last)

    return block2


NORM, SWISH, CONV = (lambda i, o, g: nn.GroupNorm(g, i)), (lambda *_: nn.SiLU()), (lambda i, o, g: conv(i, o))
BARE = lambda i, o, g: conv(i, o, padding=0)  # noqa: E731
ORDER = "block1 is norm, Swish, convolution, in this order; yours is "


class PadsTheTimeAlongTheWidth(ResBlockThatPads):
    def forward(self, x, temb):
        h = self.block1[2](F.pad(self.block1[1](self.block1[0](x)), (1, 1, 1, 1)))
        h = self.block2[:2](h + self.temb_proj(temb)[:, None, None, :])
        h = self.block2[3](F.dropout(h, self.rate, self.training))
        return self.attn(h + (self.shortcut(x) if self.shortcut else x))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (first(CONV, lambda i, o, g: nn.GroupNorm(g, o), SWISH), f"{ORDER}convolution, norm, Swish."),
        (first(NORM, CONV, SWISH), f"{ORDER}norm, convolution, Swish."),
        (first(NORM, CONV), f"{ORDER}norm, convolution: the Swish is missing."),
        (first(lambda i, o, g: nn.BatchNorm2d(i), SWISH, CONV), f"{ORDER}BatchNorm2d, Swish, convolution."),
        (with_layers(block1=lambda i, o, g: [NORM(i, o, g), nn.SiLU(), conv(i, o)]), "make it an nn.Sequential."),
        (with_layers(block2=second([], 1)), "yours is norm, Swish, convolution: the dropout is missing."),
        (
            with_layers(temb_proj=lambda i, o, g: nn.Linear(6, o)),
            "temb_proj is Swish, linear layer, in this order; yours is linear layer: the Swish is missing.",
        ),
        (first(NORM, SWISH, BARE), "the convolution of your block1 has no padding, so the images lose a border"),
        (
            with_layers(block2=second([nn.Dropout(0.0)], 0)),
            "the convolution of your block2 has no padding, so the images lose a border",
        ),
        (
            with_layers(
                block1=lambda *sizes: nn.Sequential(NORM(*sizes), nn.SiLU(), BARE(*sizes)),
                block2=second([nn.Dropout(0.0)], 0),
            ),
            "the convolutions of your block1 and block2 have no padding",
        ),
        (
            with_layers(shortcut=lambda *_: nn.Identity()),
            "your shortcut has no convolution although the channels change, from 4 to 32, and x cannot",
        ),
        (with_layers(shortcut=lambda i, o, g: conv(i, o, 1, 0)), "although the channels do not change: where in_ch ="),
        (
            with_layers(shortcut=lambda i, o, g: nn.Identity() if i == o else conv(i, o, 1)),
            "the 1x1 convolution of your shortcut has padding",
        ),
        (with_layers(shortcut=lambda i, o, g: nn.Identity() if i == o else conv(i, o)), "your shortcut is not 1x1"),
        (
            with_layers(block2=second([], 1), shortcut=lambda i, o, g: conv(i, o, 1, 0)),
            "the dropout is missing. And your shortcut has a layer to train",
        ),
        (first(lambda i, o, g: nn.GroupNorm(g, o), lambda *_: OwnSwish(), CONV), "block1.0.weight of shape (4,), got"),
        (first(NORM, lambda *_: nn.ReLU(), CONV), ". You took ReLU in block1."),
        (PadsTheTimeAlongTheWidth, ". You added the time along the width"),
    ],
)  # fmt: skip
def test_the_layers_of_a_residual_block_are_looked_at(answer, words):
    verdict, detail = checks.ResBlock.diagnose(answer)
    assert verdict == "no" and words in detail


class WithoutSuper(nn.Module):
    def __init__(self, *options):
        self.attn = nn.Identity()

    def forward(self, *inputs):
        return inputs[0]


class WithoutSuperOrLayers(WithoutSuper):
    def __init__(self, *options):
        self.options = options


@pytest.mark.parametrize("name", ["ResBlock", "AttnBlock", "UNet"])
@pytest.mark.parametrize("answer", [WithoutSuper, WithoutSuperOrLayers])
def test_a_module_without_super_is_told(name, answer):
    assert "your class does not call super().__init__(): write it first" in checks.registry[name].diagnose(answer)[1]


def of_x(*raw):
    """An attention block of which some projections, by their letters, get x as it came."""

    class Block(solution.AttnBlock):
        def forward(self, x):
            h = self.group_norm(x)
            q, k, v = (getattr(self, f"proj_{letter}")(x if letter in raw else h) for letter in "qkv")
            return x + self.proj(solution.attention(q, k, v))

    return Block


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("q", "Your queries come from x as it is."),
        ("k", "Your keys come from x as it is."),
        ("v", "Your values come from x as it is. Queries, keys and values all come from the normalised x."),
        ("qk", "Your queries and keys come from x as it is."),
        ("qv", "Your queries and values come from x as it is."),
        ("kv", "Your keys and values come from x as it is."),
        ("qkv", "Queries, keys and values come from x as it is."),
    ],
)
def test_projections_of_x_are_told_apart(raw, words):
    assert checks.AttnBlock.diagnose(of_x(*raw))[1].startswith(f". {words}")
    assert checks.AttnBlock.diagnose(of_x())[0] == "yes"


def test_a_change_in_place_names_the_argument_of_forward(capsys):
    """Not one of the constructor's, in whose place it stands."""

    class Changed(blocks.ResBlock):
        def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
            super().__init__(in_ch, out_ch, tdim, dropout, num_groups=num_groups)

        def forward(self, x, temb):
            temb += 1e-9
            return super().forward(x, temb)

    checks.ResBlock(Changed)
    assert "changes temb in place" in capsys.readouterr().out
