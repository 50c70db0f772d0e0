"""The U-Net of DDPM: down, middle and up, with skips across, and the time in every residual block."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ddpm_lesson._tensors import check_range
from ddpm_lesson.networks.blocks import (
    DownSample,
    Mapping,
    ResBlock,
    Swish,
    TimeEmbedding,
    UpSample,
    group_norm,
    xavier,
)

TABLE = "time_embedding.timembedding.0.weight"  # the sines and cosines, (T, ch): held, not trained


class SingleChannelGroupWarning(UserWarning):
    """A GroupNorm whose groups hold one channel each: it takes away again what the time embedding added."""


class UNet(nn.Module):
    """The U-Net of Ho et al. 2020, Appendix B, after PixelCNN++ and Wide ResNet.

    T: number of steps. ch: channels of the first level. ch_mult: those of each level as multiples of ch; every
    further level halves height and width. attn: the levels (0 is the finest) whose residual blocks have attention;
    the middle always has it. num_res_blocks: per level on the way down, one more on the way up. dropout: its rate.
    The options' defaults keep the post's meaning:
    in_ch, out_ch: channels of x and of the result, out_ch None: as in_ch. learned_var: the result has twice out_ch
    channels, the second half for the variance (Nichol & Dhariwal 2021). cond_ch: channels of an image `cond` that x
    is joined with. num_classes: labels 0..num_classes-1. null_class: there is one more label, num_classes, for images
    without one; otherwise, as in guided-diffusion, every image needs its label.
    num_groups, norm_eps: of every GroupNorm. num_heads: of every attention; or num_head_channels: the channels of each
    head, so that wider levels have more heads (64 in Dhariwal & Nichol 2021). zero_init: last layers start at 0.
    scale_shift_norm (AdaGN), biggan (resampling inside of residual blocks): Dhariwal & Nichol 2021, Section 3.
    official_embedding, same_padding: as DDPM's own code in TensorFlow; with norm_eps = 1e-6 the three make its weights
    fit.
    latent: numbers of a latent z, 0 for none: a `Mapping` of it is added to the time embedding (Xiao et al. 2022).
    patch_size: each square of so many pixels a side becomes the channels of one position, so that the levels see an
    image that is smaller by this factor (the patches of Peebles & Xie 2023, before convolutions).
    forward: x (B, in_ch, H, W), t (B,) int64 in 0..T-1, y (B,) int64, labels, or None (the null class for all),
    cond (B, cond_ch, H, W), z (B, latent) -> (B, out_ch, H, W), with learned_var (B, 2 out_ch, H, W).
    `divisor`: what H and W must be divisible by. `options`: the arguments, so that UNet(**unet.options) has its shape.
    Raises ValueError for shapes, sides, groups, heads or labels that do not fit, and for labels that are missing in a
    network without a null class; TypeError for t or y that are not integer. Warns (SingleChannelGroupWarning) if a
    group of the norm is a single channel, for it then removes the time; with scale_shift_norm the time comes after the
    norm and stays.
    """

    def __init__(
        self,
        T: int,
        ch: int,
        ch_mult: Sequence[int],
        attn: Sequence[int],
        num_res_blocks: int,
        dropout: float,
        *,
        in_ch: int = 3,
        out_ch: int | None = None,
        learned_var: bool = False,
        cond_ch: int = 0,
        num_classes: int | None = None,
        null_class: bool = True,
        num_groups: int = 32,
        num_heads: int = 1,
        num_head_channels: int | None = None,
        norm_eps: float = 1e-5,
        zero_init: bool = False,
        scale_shift_norm: bool = False,
        biggan: bool = False,
        official_embedding: bool = False,
        same_padding: bool = False,
        latent: int = 0,
        patch_size: int = 1,
    ):
        super().__init__()
        ch_mult, attn = list(ch_mult), list(attn)
        given = dict(locals())  # a comprehension over locals() itself breaks under a tracer from Python 3.12 on
        self.options = {name: given[name] for name in signature(UNet).parameters}  # locals() may have another order
        _check(self.options)
        if same_padding and biggan:
            raise ValueError("same_padding pads strided convolutions, and with biggan there are none: choose one")
        tdim, levels = 4 * ch, range(len(ch_mult))
        self.divisor = patch_size * 2 ** levels[-1]
        shared = "dropout num_groups num_heads num_head_channels norm_eps zero_init scale_shift_norm".split()
        block: Callable[..., ResBlock] = partial(ResBlock, tdim=tdim, **{name: self.options[name] for name in shared})
        if num_groups in [ch * mult for mult in ch_mult] and not scale_shift_norm:
            warn_of_single_channels(num_groups)

        self.time_embedding = TimeEmbedding(T, ch, tdim, official=official_embedding)
        if num_classes is not None:
            self.class_embedding = nn.Embedding(num_classes + null_class, tdim)
        if latent:
            self.mapping = Mapping(latent, tdim)
        self.head = nn.Conv2d((in_ch + cond_ch) * patch_size**2, ch, 3, padding=1)

        self.downblocks = nn.ModuleList()
        skips, now_ch = [ch], ch
        for i in levels:
            for _ in range(num_res_blocks):
                self.downblocks.append(block(now_ch, ch * ch_mult[i], attn=i in attn))
                now_ch = ch * ch_mult[i]
                skips.append(now_ch)
            if i != levels[-1]:
                down = block(now_ch, now_ch, resample=nn.AvgPool2d(2)) if biggan else None
                self.downblocks.append(down or DownSample(now_ch, same_padding=same_padding))
                skips.append(now_ch)

        self.middleblocks = nn.ModuleList([block(now_ch, now_ch, attn=True), block(now_ch, now_ch)])

        self.upblocks, self._takes_skip = nn.ModuleList(), []
        for i in reversed(levels):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(block(now_ch + skips.pop(), ch * ch_mult[i], attn=i in attn))
                self._takes_skip.append(True)
                now_ch = ch * ch_mult[i]
            if i != 0:
                up = block(now_ch, now_ch, resample=nn.Upsample(scale_factor=2.0)) if biggan else None
                self.upblocks.append(up or UpSample(now_ch))
                self._takes_skip.append(False)

        out_ch = (in_ch if out_ch is None else out_ch) * (2 if learned_var else 1)
        last = nn.Conv2d(now_ch, out_ch * patch_size**2, 3, padding=1)
        self.tail = nn.Sequential(group_norm(now_ch, num_groups, norm_eps), Swish(), last)
        xavier(self.head)
        xavier(last, gain=0.0 if zero_init else 1e-5)

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, cond: Tensor | None = None, z: Tensor | None = None
    ) -> Tensor:
        self._check_inputs(x, t, y, cond, z)
        temb = self.time_embedding(t)
        if self.options["num_classes"] is not None:
            y = torch.full_like(t, self.options["num_classes"]) if y is None else y
            temb = temb + self.class_embedding(y)
        if z is not None:
            temb = temb + self.mapping(z)
        h = x if cond is None else torch.cat([x, cond], 1)
        patch = self.options["patch_size"]
        h = self.head(h if patch == 1 else pixel_unshuffle(h, patch))
        hs = [h]
        for layer in self.downblocks:
            h = layer(h, temb)
            hs.append(h)
        for layer in self.middleblocks:
            h = layer(h, temb)
        for layer, takes_skip in zip(self.upblocks, self._takes_skip, strict=True):
            h = layer(torch.cat([h, hs.pop()], 1) if takes_skip else h, temb)
        return self.tail(h) if patch == 1 else pixel_shuffle(self.tail(h), patch)

    def _check_inputs(self, x, t, y, cond, z):
        in_ch, cond_ch, num_classes = (self.options[name] for name in ("in_ch", "cond_ch", "num_classes"))
        latent = self.options["latent"]
        check_inputs(x, t, in_ch, len(self.options["ch_mult"]), self.options["patch_size"])
        wanted = (x.shape[0], cond_ch, *x.shape[2:]) if cond_ch else None
        got = None if cond is None else tuple(cond.shape)
        if got != wanted:
            raise ValueError(f"cond must be {wanted} for a network with cond_ch = {cond_ch}, got {got}")
        wanted, got = (x.shape[0], latent) if latent else None, None if z is None else tuple(z.shape)
        if got != wanted:
            raise ValueError(f"z must be {wanted} for a network with latent = {latent}, got {got}")
        labels = 0 if num_classes is None else num_classes + int(self.options["null_class"])
        if y is None:
            if labels and not self.options["null_class"]:
                raise ValueError(f"this network has no null class: y must hold labels in 0..{labels - 1}, got None")
            return
        if num_classes is None:
            raise ValueError("y was given to a network without classes: build it with num_classes")
        if y.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"y must hold integer labels (int64), got {y.dtype}")
        if y.shape != t.shape:
            raise ValueError(f"y must be (B,) with the batch size of x, got {tuple(y.shape)} for {tuple(x.shape)}")
        check_range("y", y, labels)


def _check(options):
    least = {"T": 1, "ch": 2, "num_res_blocks": 1, "in_ch": 1, "out_ch": 1, "cond_ch": 0, "latent": 0, "patch_size": 1}
    least["num_classes"] = 1
    for name, low in least.items():
        if options[name] is not None and options[name] < low:
            raise ValueError(f"{name} must be at least {low}, got {options[name]}")
    ch, ch_mult, attn = (options[name] for name in ("ch", "ch_mult", "attn"))
    if ch % 2:
        raise ValueError(f"ch must be even, for the time table is half sines and half cosines, got {ch}")
    if not ch_mult or any(not isinstance(mult, int) or mult < 1 for mult in ch_mult):
        raise ValueError(f"ch_mult must hold a positive integer for each level, got {ch_mult}")
    if any(level not in range(len(ch_mult)) for level in attn):
        raise ValueError(f"attn must name levels in 0..{len(ch_mult) - 1}, got {attn}")


def check_inputs(x: Tensor, t: Tensor | None, in_ch: int, levels: int, patch_size: int = 1) -> None:
    """Raise ValueError unless x is (B, in_ch, H, W) with sides that so many levels can halve, and t, if any, (B,)."""
    divisor = patch_size * 2 ** (levels - 1)
    if x.ndim != 4 or x.shape[1] != in_ch:
        raise ValueError(f"x must be (B, {in_ch}, H, W), got {tuple(x.shape)}")
    if x.shape[2] % divisor or x.shape[3] % divisor:
        told = f"{levels} levels" + (f" and patch_size = {patch_size}" if patch_size > 1 else "")
        raise ValueError(f"height and width must be divisible by {divisor} for {told}, got {tuple(x.shape)}")
    if t is not None and t.shape != x.shape[:1]:
        raise ValueError(f"t must be (B,) with the batch size of x, got {tuple(t.shape)} for {tuple(x.shape)}")


def warn_of_single_channels(num_groups: int) -> None:
    """Warn where the network is built that a norm with so many groups will remove the time."""
    warnings.warn(
        f"num_groups = {num_groups} makes every group of {num_groups} channels a single channel: such a norm subtracts "
        f"whatever is added to a channel as a whole, and with it the time. Use fewer groups: 8 for 32 channels, say.",
        SingleChannelGroupWarning,
        stacklevel=3,
    )
