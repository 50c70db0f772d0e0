"""Networks whose parameters have shapes and no numbers: quick to build, for those who only count them."""

import torch
from torch.overrides import TorchFunctionMode


class Unfilled(TorchFunctionMode):
    """Inside of it `torch.empty`, from which layers make their parameters, gives tensors on the device meta.

    Not `torch.device("meta")`: that puts tables of sines there too, and arithmetic on meta loads torch's compiler.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
