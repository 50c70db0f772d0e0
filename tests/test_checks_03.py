"""The exercises of notebook 03 that are modules: right answers, wrong ones, and the weights of the package."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddpm_lesson import checks
from ddpm_lesson.networks import unet

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
    "ResBlock": [ResBlockByParts, ResBlockWithGain, ResBlockOfDictionaries],
    "AttnBlock": [AttnBlockByTorch, AttnBlockOfThePost, AttnBlockByPixels],
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
