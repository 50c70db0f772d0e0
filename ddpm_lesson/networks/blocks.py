"""Building blocks that networks share: the U-Net's pieces, under the source post's names."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init

from ddpm_lesson._tensors import check_range
from ddpm_lesson.networks._norm import GroupNorm


class Swish(nn.Module):
    """x * sigmoid(x), any shape.  Ramachandran et al. 2017 (arXiv 1710.05941); the same function as nn.SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class TimeEmbedding(nn.Module):
    """A vector for each step: sines and cosines of t at d_model / 2 frequencies, then two linear layers.

    Ho et al. 2020, Appendix B, after Vaswani et al. 2017.
    T: number of steps. d_model: width of the table, even. dim: width of the result.
    official: the layout of DDPM's own code, all sines and then all cosines, with frequencies 10000^(-i / (half - 1)),
    half = d_model / 2; otherwise the post's: sine and cosine alternate, with frequencies 10000^(-i / half).
    forward: t (B,) int64 in 0..T-1 -> (B, dim).
    Raises ValueError if T < 1 or d_model is odd or too small, TypeError for a t that is not integer, ValueError for a t
    out of range (on a GPU that last check would wait for the device, so there PyTorch's own index check has to do).
    Not a positional encoding: it tells the network the noise level, not where a pixel is.
    """

    def __init__(self, T: int, d_model: int, dim: int, *, official: bool = False):
        super().__init__()
        if T < 1:
            raise ValueError(f"T must be at least 1, got {T}")
        least = 4 if official else 2
        if d_model < least or d_model % 2:
            raise ValueError(f"d_model must be even and at least {least}, got {d_model}")
        half = d_model // 2
        exponents = torch.arange(half, dtype=torch.float64) / (half - 1 if official else half)
        angles = torch.arange(T, dtype=torch.float64)[:, None] * torch.exp(-math.log(10000) * exponents)  # (T, half)
        waves = torch.stack([angles.sin(), angles.cos()], 1 if official else 2)  # (T, 2, half) or (T, half, 2)
        self.T = T
        table = nn.Embedding.from_pretrained(waves.flatten(1).to(torch.get_default_dtype()))  # as the layers' weights
        self.timembedding = nn.Sequential(table, nn.Linear(d_model, dim), Swish(), nn.Linear(dim, dim))
        xavier(self.timembedding[1], self.timembedding[3])

    def forward(self, t: Tensor) -> Tensor:
        if t.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"t must hold integer indices (int64), got {t.dtype}")
        check_range("t", t, self.T)
        return self.timembedding(t)


class Mapping(nn.Module):
    """A latent as a vector in the space of the time embedding: pixel norm, then two linear layers.

    Xiao et al. 2022 (arXiv 2112.07804), Appendix C, after StyleGAN (Karras et al. 2019); theirs has more layers.
    latent: numbers of z. dim: width of the result. forward: z (B, latent) -> (B, dim).
    Pixel norm, z / sqrt(mean(z^2)), takes the length of z away: only its direction counts.
    """

    def __init__(self, latent: int, dim: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent, dim), Swish(), nn.Linear(dim, dim))
        xavier(self.layers[0], self.layers[2])

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())


class DownSample(nn.Module):
    """Half the height and width: a 3x3 convolution with stride 2, (B, in_ch, H, W) -> (B, in_ch, H/2, W/2).

    Ho et al. 2020, Appendix B. H and W even. temb is not used: it is there so that all blocks are called alike.
    same_padding: TensorFlow's "same" padding, as in DDPM's own code: a row below and a column to the right. Otherwise
    the post's: one on every side. They look at windows that lie one pixel apart.
    """

    def __init__(self, in_ch: int, *, same_padding: bool = False):
        super().__init__()
        self.main = nn.Conv2d(in_ch, in_ch, 3, stride=2, padding=0 if same_padding else 1)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if same_padding else nn.Identity()
        xavier(self.main)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        return self.main(self.pad(x))


class UpSample(nn.Module):
    """Twice the height and width: every pixel four times, then a 3x3 convolution, (B, in_ch, 2H, 2W).

    Ho et al. 2020, Appendix B. temb is not used: it is there so that all blocks are called alike.
    Not a transposed convolution, which leaves a chequered pattern (Odena et al. 2016).
    """

    def __init__(self, in_ch: int):
        super().__init__()
        self.main = nn.Conv2d(in_ch, in_ch, 3, padding=1)
        xavier(self.main)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        return self.main(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class AttnBlock(nn.Module):
    """Self-attention over the pixels of an image, added to it, (B, in_ch, H, W) -> the same.  Ho et al. 2020, App. B.

    Every pixel takes the average of all pixels' values, weighted by softmax(q . k / sqrt(d)); d = in_ch / num_heads.
    num_heads: independent averages, each over its own share of the channels (Dhariwal & Nichol 2021, Section 3).
    num_head_channels: d itself, instead of num_heads: wider layers then have more heads.
    num_groups, norm_eps: of the GroupNorm before it. zero_init: the last layer starts at 0 exactly, instead of with a
    Xavier gain of 1e-5; in either case the block starts as the identity.
    Raises ValueError if num_groups, num_heads or num_head_channels do not divide the channels, or if num_heads and
    num_head_channels are both given.
    """

    def __init__(
        self,
        in_ch: int,
        *,
        num_groups: int = 32,
        num_heads: int = 1,
        num_head_channels: int | None = None,
        norm_eps: float = 1e-5,
        zero_init: bool = False,
    ):
        super().__init__()
        self.num_heads = _count_heads(in_ch, num_heads, num_head_channels)
        self.group_norm = group_norm(in_ch, num_groups, norm_eps)
        self.proj_q, self.proj_k, self.proj_v, self.proj = (nn.Conv2d(in_ch, in_ch, 1) for _ in range(4))
        xavier(self.proj_q, self.proj_k, self.proj_v)
        xavier(self.proj, gain=0.0 if zero_init else 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).contiguous(memory_format=torch.channels_last)  # a pixel's channels side by side
        q, k, v = (self._heads(proj(h)) for proj in (self.proj_q, self.proj_k, self.proj_v))
        h = F.scaled_dot_product_attention(q, k, v)  # (B, heads, H W, d)
        return x + self.proj(h.transpose(2, 3).reshape(x.shape))

    def _heads(self, h: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, H W, d)."""
        return h.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)


class ResBlock(nn.Module):
    """Norm, Swish, convolution; the time; norm, Swish, dropout, convolution; all added to the input.

    Ho et al. 2020, Appendix B, after Zagoruyko & Komodakis 2016.
    x (B, in_ch, H, W), temb (B, tdim) -> (B, out_ch, H, W).
    attn: an AttnBlock of num_heads or num_head_channels follows. num_groups, norm_eps: of the GroupNorms.
    scale_shift_norm: the time scales and shifts after the second norm, h (1 + scale) + shift, "AdaGN" (Dhariwal &
    Nichol 2021, Section 3); otherwise it is added to every pixel before it.
    resample: nn.AvgPool2d(2) or nn.Upsample(scale_factor=2.0) change height and width inside of the block, before its
    first convolution and in the shortcut ("BigGAN", Song et al. 2021, Appendix H).
    zero_init: the last layers start at 0 exactly, instead of with a Xavier gain of 1e-5. In either case the block
    starts as its shortcut. Not so in pytorch-ddpm: there the block initialises its attention's last layer a second
    time, with gain 1, and attention starts as a random change of the image.
    Raises ValueError as AttnBlock does.
    """

    def __init__(
        self,
        in_ch: int,
        out_ch: int,
        tdim: int,
        dropout: float,
        attn: bool = False,
        *,
        num_groups: int = 32,
        num_heads: int = 1,
        num_head_channels: int | None = None,
        norm_eps: float = 1e-5,
        scale_shift_norm: bool = False,
        resample: nn.Module | None = None,
        zero_init: bool = False,
    ):
        super().__init__()
        self.scale_shift_norm = scale_shift_norm
        self.resample = nn.Identity() if resample is None else resample
        norm = partial(group_norm, num_groups=num_groups, eps=norm_eps)
        self.block1 = nn.Sequential(norm(in_ch), Swish(), nn.Conv2d(in_ch, out_ch, 3, padding=1))
        self.temb_proj = nn.Sequential(Swish(), nn.Linear(tdim, 2 * out_ch if scale_shift_norm else out_ch))
        self.block2 = nn.Sequential(norm(out_ch), Swish(), nn.Dropout(dropout), nn.Conv2d(out_ch, out_ch, 3, padding=1))
        self.shortcut = nn.Identity() if in_ch == out_ch else nn.Conv2d(in_ch, out_ch, 1)
        xavier(self.block1[-1], self.temb_proj[-1], self.shortcut)
        xavier(self.block2[-1], gain=0.0 if zero_init else 1e-5)
        self.attn: nn.Module = nn.Identity()
        if attn:
            attend = partial(AttnBlock, out_ch, num_groups=num_groups, norm_eps=norm_eps, zero_init=zero_init)
            self.attn = attend(num_heads=num_heads, num_head_channels=num_head_channels)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        norm, swish, conv = self.block1
        h = conv(self.resample(swish(norm(x))))
        time = self.temb_proj(temb)[:, :, None, None]
        norm, *rest = self.block2
        if self.scale_shift_norm:
            scale, shift = time.chunk(2, 1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + time)
        for layer in rest:
            h = layer(h)
        return self.attn(h + self.shortcut(self.resample(x)))


def group_norm(channels: int, num_groups: int, eps: float) -> nn.GroupNorm:
    """GroupNorm (Wu & He 2018), and a clear error if its groups do not come out even."""
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"channels must be divisible by num_groups = {num_groups}, got {channels} channels")
    return GroupNorm(num_groups, channels, eps=eps)


def _count_heads(channels: int, num_heads: int, num_head_channels: int | None) -> int:
    if num_head_channels is not None and num_heads != 1:
        got = f"num_heads = {num_heads} and num_head_channels = {num_head_channels}"
        raise ValueError(f"num_heads and num_head_channels exclude each other: give one of them, got {got}")
    name, size = ("num_heads", num_heads) if num_head_channels is None else ("num_head_channels", num_head_channels)
    if size < 1 or channels % size:
        raise ValueError(f"channels must be divisible by {name} = {size}, got {channels} channels")
    return num_heads if num_head_channels is None else channels // num_head_channels


def xavier(*layers: nn.Module, gain: float = 1.0) -> None:
    """Glorot & Bengio 2010: uniform with variance 2 gain^2 / (fan in + fan out); biases at 0."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            init.xavier_uniform_(layer.weight, gain)
            if layer.bias is not None:
                init.zeros_(layer.bias)
