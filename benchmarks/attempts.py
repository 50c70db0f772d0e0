"""What was tried to make a step faster: each attempt beside the code as it is.

    python benchmarks/attempts.py [--rounds 15] [--threads 1] [--write] [NAME ...]

The small network of `unet.py`, 16 images of side 28, channels_last, on the CPU. An attempt changes a copy of the
network, its optimizer or how it is called; outputs are compared first, without dropout. A ratio above 1 says that the
attempt is the faster one. `--write` puts the table between the markers of benchmarks/README.md.
"""

import argparse
import types
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
from _measured import machine, take_turns, write
from peers import twins
from torch import Tensor, nn
from torch.nn.functional import pad
from unet import SMALL, forward_pass, mixed, output, training_step

from ddpm_lesson.networks._norm import GroupNorm
from ddpm_lesson.networks.blocks import AttnBlock, ResBlock

BATCH = 16
Change = Callable[[nn.Module], nn.Module]


class GroupNormOfSums(nn.GroupNorm):
    """Mean and variance from sums over pixels and channels, then one multiplication and addition, in channels_last."""

    def forward(self, x: Tensor) -> Tensor:
        B, C = x.shape[:2]
        pixels = x.permute(0, 2, 3, 1).reshape(B, -1, C)  # a view in channels_last
        count = pixels.shape[1] * C // self.num_groups
        sums = torch.stack([pixels.sum(1), pixels.square().sum(1)]).unflatten(2, (self.num_groups, -1)).sum(3) / count
        mean, std = sums[0], (sums[1] - sums[0].square() + self.eps).rsqrt()
        scale = self.weight * std.repeat_interleave(C // self.num_groups, 1)
        shift = self.bias - scale * mean.repeat_interleave(C // self.num_groups, 1)
        return x * scale[:, :, None, None] + shift[:, :, None, None]


class CoarseDropout(nn.Dropout):
    """Masks from 16 random bits for each pixel: four at a time from one integer of 64."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        keep = bits[: x.numel()] >= round(self.p * 2**16) - 2**15
        mask = keep.view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        return x * mask * (1 / (1 - self.p))


def in_place(self: ResBlock, x: Tensor, temb: Tensor) -> Tensor:
    norm, swish, conv = self.block1
    h = conv(self.resample(swish(norm(x))))
    h += self.temb_proj(temb)[:, :, None, None]
    for layer in self.block2:
        h = layer(h)
    h += self.shortcut(self.resample(x))
    return self.attn(h)


def two_products(self: AttnBlock, x: Tensor) -> Tensor:
    h = self.group_norm(x).contiguous(memory_format=torch.channels_last)
    q, k, v = (self._heads(proj(h)) for proj in (self.proj_q, self.proj_k, self.proj_v))
    h = ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)).softmax(-1) @ v
    return x + self.proj(h.transpose(2, 3).reshape(x.shape))


class Winograd(nn.Conv2d):
    """A 3x3 convolution by Winograd's F(2x2, 3x3): 16 products for four pixels, not 36, as matrices in PyTorch."""

    INPUT = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    KERNEL = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    OUTPUT = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        tiles = pad(x, (1, 1 + W % 2, 1, 1 + H % 2)).unfold(2, 4, 2).unfold(3, 4, 2)
        inputs = torch.einsum("ai, bj, nchwij -> abnhwc", self.INPUT, self.INPUT, tiles)
        kernels = torch.einsum("ai, bj, ocij -> abco", self.KERNEL, self.KERNEL, self.weight)
        products = (inputs.flatten(2, 4) @ kernels).unflatten(2, inputs.shape[2:5])
        pixels = torch.einsum("pa, qb, abnhwo -> nohpwq", self.OUTPUT, self.OUTPUT, products)
        return pixels.flatten(4).flatten(2, 3)[:, :, :H, :W] + self.bias[:, None, None]


def winograd_like(child: nn.Conv2d) -> nn.Module:
    if (child.kernel_size, child.stride, child.padding) != ((3, 3), (1, 1), (1, 1)):
        return deepcopy(child)
    return Winograd(child.in_channels, child.out_channels, 3, padding=1)


def with_modules(net: nn.Module, old: type, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy in which every module of a type is made anew, with its weights."""
    net = deepcopy(net)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, old):
                made = make(child)
                made.load_state_dict(child.state_dict())
                setattr(parent, name, made.train(child.training))
    return net


def with_forward(net: nn.Module, of: type, forward: Callable) -> nn.Module:
    """A copy in which every module of a type is called another way."""
    net = deepcopy(net)
    for module in net.modules():
        if isinstance(module, of):
            module.forward = types.MethodType(forward, module)
    return net


def norm_like(make: type, child: GroupNorm) -> nn.Module:
    return make(child.num_groups, child.num_channels, eps=child.eps)


norm_of_sums = partial(with_modules, old=GroupNorm, make=partial(norm_like, GroupNormOfSums))
plain_norm = partial(with_modules, old=GroupNorm, make=partial(norm_like, nn.GroupNorm))
coarse_dropout = partial(with_modules, old=nn.Dropout, make=lambda child: CoarseDropout(child.p))
added_in_place = partial(with_forward, of=ResBlock, forward=in_place)
attention = partial(with_forward, of=AttnBlock, forward=two_products)
by_winograd = partial(with_modules, old=nn.Conv2d, make=winograd_like)


def swish_in_place(net: nn.Module) -> nn.Module:
    """After the norms only: the time embedding is read by every block."""
    net = deepcopy(net)
    for block in net.modules():
        if isinstance(block, ResBlock):
            block.block1[1] = block.block2[1] = nn.SiLU(inplace=True)
    return net


def compiled(net: nn.Module) -> nn.Module:
    net = deepcopy(net)
    net.compile()
    return net


def together(net: nn.Module) -> nn.Module:
    return norm_of_sums(coarse_dropout(added_in_place(attention(net))))


def flushed(step: Callable) -> Callable:
    """The same, with denormal numbers taken for zero."""

    def run() -> None:
        torch.set_flush_denormal(True)
        step()
        torch.set_flush_denormal(False)

    return run


class Attempt(NamedTuple):
    """why: is it kept, or why not. net, ask: the changed network, and how it is called; before: the same of what it is
    compared with. adam: options of the optimizer. step: wraps what is timed. works: what it changes. close: how far
    outputs may be apart."""

    why: str
    net: Change = deepcopy
    ask: Callable = output
    before: tuple[Change, Callable] = (deepcopy, output)
    adam: dict = {}
    step: Callable[[Callable], Callable] = lambda step: step
    works: tuple[Callable, ...] = (training_step, forward_pass)
    close: float = 1e-4


ATTEMPTS = {
    "in mixed precision, norm in float32": Attempt(
        "**yes**: `networks/_norm.py`", ask=mixed, before=(plain_norm, mixed), close=0.1
    ),
    "mixed precision beside float32, with that norm": Attempt(
        "there already: `mixed_precision` of a recipe", ask=mixed, close=0.1
    ),
    "group norm of sums, in `channels_last`": Attempt("no: other last digits", norm_of_sums),
    "dropout's masks from 16 random bits for each pixel": Attempt(
        "no: other masks than those of the shipped weights", coarse_dropout, works=(training_step,)
    ),
    "Adam, `fused=True`": Attempt(
        "no: other last digits; `train` takes such an `optimizer`", adam={"fused": True}, works=(training_step,)
    ),
    "Adam, `foreach=True`": Attempt("no", adam={"foreach": True}, works=(training_step,)),
    "residuals and time added in place": Attempt("no: harder to read", added_in_place),
    "attention by two batched products and softmax": Attempt("no", attention),
    "Swish in place": Attempt("no: the backward pass needs its input", swish_in_place, works=(forward_pass,)),
    "3x3 convolutions by Winograd's F(2x2, 3x3), in PyTorch": Attempt("no", by_winograd),
    "`torch.compile`": Attempt("there already: `compiled` of a recipe", compiled),
    "denormal numbers flushed to zero": Attempt("no", step=flushed),
    "norm of sums, masks, fused Adam, in place, attention together": Attempt(
        "no", together, adam={"fused": True}, close=1e-3
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Attempts to make a step faster.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of the attempts' names; all, if not given")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [name for name in ATTEMPTS if not options.names or any(part in name for part in options.names)]
    lines = [f"{machine()}, {options.threads} thread{'s' * (options.threads > 1)}, PyTorch {torch.__version__}", ""]
    lines += ["| attempt | training step | forward pass | kept |", "|---|---|---|---|"]
    for name in chosen:
        lines.append(f"| {name} | {' | '.join(gains(ATTEMPTS[name], options.rounds))} | {ATTEMPTS[name].why} |")
        print(lines[-1], flush=True)
    if options.write:
        write("attempts.py", "\n".join(lines) + "\n")


def gains(attempt: Attempt, rounds: int) -> list[str]:
    """How many times as fast the attempt makes a training step and a forward pass, in processor time."""
    arguments, side = SMALL
    net = twins(arguments, side)[0].to(memory_format=torch.channels_last)
    make, ask = attempt.before
    before, after = make(net).eval(), attempt.net(net).eval()
    torch.manual_seed(0)
    x_t = torch.randn(BATCH, 1, side, side).to(memory_format=torch.channels_last)
    given = x_t, torch.randint(1000, (BATCH,)), torch.randn_like(x_t)
    with torch.no_grad():
        answers = attempt.ask(after, *given[:2]), ask(before, *given[:2])
    torch.testing.assert_close(*answers, rtol=0, atol=attempt.close)
    found = []
    for work in (training_step, forward_pass):
        if work not in attempt.works:
            found.append("none")
            continue
        options = attempt.adam if work is training_step else {}
        steps = work(before, ask, *given), attempt.step(work(after, attempt.ask, *given, **options))
        old, new = take_turns(steps, rounds)
        found.append(f"{(old / new)[:, 1].median():.2f}")
    return found


if __name__ == "__main__":
    main()
