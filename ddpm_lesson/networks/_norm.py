"""GroupNorm for mixed precision on a CPU. In float32 it is PyTorch's, bit by bit."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm; x in bfloat16 or float16 on a CPU is normalised in float32 and given back in its own dtype.

    Autocast does so on a GPU. PyTorch's own kernel for half precision on a CPU takes several times as long as two
    conversions and the float32 kernel: benchmarks/README.md has the numbers.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float16):
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)
