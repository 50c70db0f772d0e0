"""A small residual classifier, of clean images or of noisy ones for guidance."""

from collections.abc import Sequence
from inspect import signature

from torch import Tensor, nn

from ddpm_lesson.networks.blocks import DownSample, ResBlock, Swish, TimeEmbedding, group_norm, xavier
from ddpm_lesson.networks.unet import check_inputs, warn_of_single_channels


class Classifier(nn.Module):
    """Logits of the classes of an image, or of a noisy image and its step.  Dhariwal & Nichol 2021, Section 4.

    num_classes: number of classes. ch: channels of the first level. ch_mult: those of each level as multiples of ch;
    every further level halves height and width, and each has one residual block. in_ch: channels of x.
    T: number of steps of a noise-conditional classifier, called as model(x_t, t); None for one of clean images, called
    as model(x). num_groups: of every GroupNorm. dropout: its rate.
    forward: x (B, in_ch, H, W), t (B,) int64 in 0..T-1 -> (B, num_classes), not normalised.
    `features`: what the last layer, `tail`, sees, (B, F) with F = ch * ch_mult[-1]. `divisor`: what H and W must be
    divisible by. `options`: the arguments, so that Classifier(**model.options) has its shape.
    Raises ValueError for shapes, sides or groups that do not fit, for a t that is missing or not wanted, and TypeError
    for a t that is not integer. With T, warns (SingleChannelGroupWarning) if a group of the norm is a single channel.
    Not the encoder of the paper, which pools by attention: here the pixels' features are averaged.
    """

    def __init__(
        self,
        num_classes: int,
        ch: int,
        ch_mult: Sequence[int],
        *,
        in_ch: int = 3,
        T: int | None = None,
        num_groups: int = 8,
        dropout: float = 0.0,
    ):
        super().__init__()
        ch_mult = list(ch_mult)
        given = dict(locals())  # as in UNet
        self.options = {name: given[name] for name in signature(Classifier).parameters}
        if min(num_classes, ch, in_ch, 1 if T is None else T, *ch_mult, len(ch_mult)) < 1:
            raise ValueError(f"sizes and at least one ch_mult must be positive, got {self.options}")
        if T is not None and num_groups in [ch * mult for mult in ch_mult]:
            warn_of_single_channels(num_groups)
        tdim, now_ch = (1 if T is None else 4 * ch), ch
        self.divisor = 2 ** (len(ch_mult) - 1)
        self.time_embedding = None if T is None else TimeEmbedding(T, ch, tdim)
        self.head = nn.Conv2d(in_ch, ch, 3, padding=1)
        self.blocks = nn.ModuleList()
        for i, mult in enumerate(ch_mult):
            if i > 0:
                self.blocks.append(DownSample(now_ch))
            self.blocks.append(ResBlock(now_ch, ch * mult, tdim, dropout, num_groups=num_groups))
            now_ch = ch * mult
        self.pool = nn.Sequential(
            group_norm(now_ch, num_groups, 1e-5), Swish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)
        )
        self.tail = nn.Linear(now_ch, num_classes)
        xavier(self.head, self.tail)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.tail(self.features(x, t))

    def features(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The penultimate layer, (B, F): the space of the project's Frechet distance, where t is None."""
        self._check_inputs(x, t)
        h = self.head(x)
        # A clean image has no time: the blocks are told a constant zero.
        temb = x.new_zeros(len(x), 1) if self.time_embedding is None else self.time_embedding(t)
        for block in self.blocks:
            h = block(h, temb)
        return self.pool(h)

    def _check_inputs(self, x, t):
        T = self.options["T"]
        if (t is None) != (T is None):
            wanted = "clean images: call model(x)" if T is None else f"noisy images with T = {T}: call model(x_t, t)"
            raise ValueError(f"this is a classifier of {wanted}; got {'no t' if t is None else 'a t'}")
        check_inputs(x, t, self.options["in_ch"], levels=len(self.options["ch_mult"]))
