"""Exercise 3.2: GroupNorm."""

import math

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import double, fractions
from ddpm_lesson.checks.unet._group_norm_clues import norm_or_affine, who_shares


def _group_norm(x, num_groups, weight, bias):
    """Exercise 3.2: GroupNorm.  Wu & He 2018, sec. 3.

    x: (B, C, H, W).  num_groups: int that divides C; a group is C / num_groups neighbouring channels.  weight, bias:
    (C,).  Returns (B, C, H, W): minus the mean and over sqrt(var + 1e-5) of an image's group, all its pixels, the
    variance divided by their number; then times weight plus bias, of the channel.
    Not BatchNorm: no image sees another.
    """
    size = x.shape[1] // num_groups
    out = torch.empty(x.shape, dtype=torch.float64)
    for b, image in enumerate(x):
        for start in range(0, len(image), size):
            values = image[start : start + size].flatten().tolist()
            mean = sum(values) / len(values)
            var = sum((value - mean) ** 2 for value in values) / len(values)
            for c in range(start, start + size):
                normed = double([(value - mean) / math.sqrt(var + 1e-5) for value in image[c].flatten().tolist()])
                out[b, c] = (weight[c].item() * normed + bias[c].item()).reshape(image[c].shape)
    return out


def _plain(v: Tensor, weight: Tensor) -> Tensor:
    return v[:, None, None]


def _normed(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    *,
    groups=lambda num_groups, C: num_groups,
    split=lambda x, groups: x.unflatten(1, (groups, -1)),  # (B, groups, channels of a group, H, W)
    merge=lambda h: h.flatten(1, 2),
    axes=(2, 3, 4),
    centre=lambda h, mean: h - mean,
    correction=0,
    scale=lambda var: (var + 1e-5).sqrt(),
    shaped=_plain,  # weight and bias
    times=lambda h, weight: h * weight,
    plus=lambda h, bias: h + bias,
) -> Tensor:
    h = split(x, groups(num_groups, x.shape[1]))
    var = h.var(axes, correction=correction, keepdim=True)
    h = merge(centre(h, h.mean(axes, keepdim=True)) / scale(var))
    return plus(times(h, shaped(weight, weight)), shaped(bias, weight))


def _affine_by_group(x, num_groups, weight, bias):
    group = torch.arange(len(weight)) * num_groups // len(weight)
    return _normed(x, num_groups, weight[group], bias[group])


def _by_mean_square(x, num_groups, weight, bias):
    h = x.unflatten(1, (num_groups, -1))
    h = (h / (h.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()).flatten(1, 2)
    return h * _plain(weight, weight) + _plain(bias, bias)


def _by_channel_variances(x, num_groups, weight, bias):
    h = x.unflatten(1, (num_groups, -1))
    var = h.var((3, 4), correction=0, keepdim=True).mean(2, keepdim=True)
    h = ((h - h.mean((2, 3, 4), keepdim=True)) / (var + 1e-5).sqrt()).flatten(1, 2)
    return h * _plain(weight, weight) + _plain(bias, bias)


def _norm_case(shape: tuple, num_groups: int, size: float = 1.0, remark: str = "") -> Case:
    weight, bias = fractions(shape[1], start=5) + 2, fractions(shape[1], start=23)
    words = f"x of shape {shape}{remark}, num_groups = {num_groups}"
    return Case(words, (size * fractions(*shape), num_groups, weight, bias))


group_norm = Check(
    number="3.2",
    name="group_norm",
    specification=_group_norm,
    form=_normed,
    gradients=("x", "weight", "bias"),
    batch=("x",),
    clues=(who_shares, norm_or_affine),
    cases=(
        _norm_case((2, 4, 3, 5), 2),
        _norm_case((3, 6, 2, 2), 3),
        _norm_case((2, 4, 3, 4), 2),
        _norm_case((2, 6, 4, 2), 2, 2.0**-8, " that is nearly 0"),
        _norm_case((2, 3, 2, 4), 1),
        _norm_case((1, 4, 2, 3), 4),
    ),
    among="one group, one channel a group and a very small x",
    misconceptions={
        "Your mean and variance run over the batch too. Each image has its own: otherwise a sample would depend on the "
        "others that are drawn beside it.": dict(axes=(0, 2, 3, 4)),
        "You normalised every channel on its own. A group's channels share one mean and variance: alone, a channel "
        "loses its level, and with it the time that is added to it.": dict(axes=(3, 4)),
        "Your mean and variance are those of a single pixel's channels. They run over all pixels as well.": dict(
            axes=(2,)
        ),
        "You normalised each channel over the batch, as BatchNorm does. No image may see another.": dict(
            axes=(0, 3, 4)
        ),
        "You took all channels as one group. Asked for are num_groups, each with its own mean and variance.": dict(
            groups=lambda num_groups, C: 1
        ),
        "You took num_groups for the size of a group. It is the number of groups; each has C "
        "/ num_groups channels.": dict(groups=lambda num_groups, C: C // num_groups),
        "You divided by n - 1, as var does by default. The norm wants the plain mean of squares: unbiased=False.": dict(
            correction=1
        ),
        "You did not subtract the mean. It comes off before the division.": dict(centre=lambda h, mean: h),
        "You did not divide by the standard deviation.": dict(scale=torch.ones_like),
        "You divided by the variance. Its root brings the values to variance 1.": dict(scale=lambda var: var + 1e-5),
        "You multiplied by the standard deviation. Divide by it: the values then have variance 1.": dict(
            scale=lambda var: (var + 1e-5).rsqrt()
        ),
        "eps is missing: 1e-5 is added to the variance, under the root. A constant group "
        "would else become 0 / 0.": dict(scale=torch.sqrt),
        "Your eps is 1e-6, as in DDPM's own code. Here it is 1e-5, PyTorch's and the post's.": dict(
            scale=lambda var: (var + 1e-6).sqrt()
        ),
        **{
            f"Your eps is {eps:g}. Here it is 1e-5.": dict(scale=lambda var, eps=eps: (var + eps).sqrt())
            for eps in (1e-3, 1e-4, 1e-8)
        },
        "You added eps to the root. It is added to the variance, under the root: small values then stay small.": dict(
            scale=lambda var: var.sqrt() + 1e-5
        ),
        "std divides by n - 1, and eps is added to the variance, under the root: take the plain mean of squares, add "
        "1e-5, take the root.": dict(scale=lambda var: var.sqrt() + 1e-5, correction=1),
        "You left out weight and bias. After the norm every channel gets a scale and a shift of its own.": dict(
            times=lambda h, weight: h, plus=lambda h, bias: h
        ),
        "You left out weight, the scale of each channel.": dict(times=lambda h, weight: h),
        "You left out bias, the shift of each channel.": dict(plus=lambda h, bias: h),
        "You added bias before you multiplied by weight. First times weight, then plus bias.": dict(
            instead=lambda x, num_groups, weight, bias: _normed(x, num_groups, weight, weight * bias)
        ),
        "You used weight and bias as they are, of shape (C,)<, and broadcasting lines that up with the width. It runs "
        "where C happens to be the width, and is wrong there>: give them two more axes, (C, 1, 1).": dict(
            shaped=lambda v, weight: v
        ),
        "You gave weight and bias one axis only, (C, 1)<, and broadcasting lines that up with the height. It runs "
        "where C happens to be the height>: give them two more axes, (C, 1, 1).": dict(
            shaped=lambda v, weight: v[:, None]
        ),
        "You applied weight and bias to whole groups: channel c got those of its group's number. Mean and variance "
        "belong to the group, but weight[c] and bias[c] to the channel.": dict(instead=_affine_by_group),
        "You scaled and shifted before the norm<, which removes both again>. weight and bias come after it.": dict(
            instead=lambda x, num_groups, weight, bias: _normed(
                x * weight[:, None, None] + bias[:, None, None], num_groups, torch.ones_like(bias), 0 * bias
            )
        ),
        "Your groups are interleaved: channel c went to group c % num_groups. Neighbouring channels form a group: C is "
        "split into (num_groups, C / num_groups), in this order.": dict(
            split=lambda x, groups: x.unflatten(1, (-1, groups)).transpose(1, 2),
            merge=lambda h: h.transpose(1, 2).flatten(1, 2),
        ),
        "You grouped neighbouring channels, but put them back interleaved. Undo the split in "
        "the order it was made.": dict(merge=lambda h: h.transpose(1, 2).flatten(1, 2)),
        "You clamped the variance at 1e-5. eps is added to it: sqrt(var + 1e-5).": dict(
            scale=lambda var: var.clamp(min=1e-5).sqrt()
        ),
        "You divided by the root of the mean square, as RMSNorm does, and did not subtract the mean.": dict(
            instead=_by_mean_square
        ),
        "You took the mean of the channels' variances. The variance of a group also holds how far its channels lie "
        "apart.": dict(instead=_by_channel_variances),
    },
)
