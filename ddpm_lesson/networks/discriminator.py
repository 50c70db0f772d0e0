"""A discriminator of two neighbouring states of the process, made of any network of one of them."""

import torch
from torch import Tensor, nn

from ddpm_lesson._tensors import check_range


class Discriminator(nn.Module):
    """Is x_{t-1} a real predecessor of x_t?  Xiao et al. 2022 (arXiv 2112.07804), Section 3.

    network: network(pair, t) -> (B, 1), where pair holds both states side by side, (B, 2C, *D): a `Classifier` with
    num_classes = 1, in_ch = 2C and T, or an `MLP` with dim = 2C and out = 1. If it is told labels, one of as many
    logits as there are classes, (B, num_classes), of which the label picks its own, as in the code of Mescheder et al.
    2018 (arXiv 1801.04406).
    alone: the network sees x_{t-1} only, (B, C, *D), as in an ordinary GAN (Goodfellow et al. 2014): it cannot tell
    whether the two states belong together. For one step, T = 1, where x_T is noise without content.
    forward: x_prev, x_t (B, C, *D), t (B,) int64 in 0..T-1, y (B,) int64, labels, or None -> logits (B,), positive for
    real. Raises ValueError if the two states differ in shape; without labels, if the network's answer is not (B, 1);
    with labels, if one of them has no logit.
    """

    def __init__(self, network: nn.Module, *, alone: bool = False):
        super().__init__()
        self.network, self.alone = network, alone

    def forward(self, x_prev: Tensor, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if x_prev.shape != x_t.shape:
            raise ValueError(f"x_prev must have x_t's shape {tuple(x_t.shape)}, got {tuple(x_prev.shape)}")
        logits = self.network(x_prev if self.alone else torch.cat([x_prev, x_t], 1), t)
        if y is not None:
            check_range("y", y, logits.shape[1])
            return logits.gather(1, y[:, None]).squeeze(1)
        if logits.shape != (len(x_t), 1):
            raise ValueError(f"the network must answer ({len(x_t)}, 1), got {tuple(logits.shape)}")
        return logits.squeeze(1)
