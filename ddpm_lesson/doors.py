"""What a public door asks: that images are in [-1, 1], and that a network answers with one tensor."""

import warnings

import torch
from torch import Tensor

PIXELS = 10  # no image, scaled one way or another, reaches so far; the bundled digits' 0..16 do before they are scaled


class ImageRangeWarning(UserWarning):
    """Images far outside [-1, 1], or in its upper half alone: every step's signal-to-noise is not the one intended."""


def check_images(x: object, *, name: str = "images", first: bool = True, far: bool = True, stacklevel: int = 2) -> None:
    """Raise an error unless x are images (B, *D), finite numbers; warn if they are scaled otherwise than to [-1, 1].

    Raises TypeError for no tensor, a pair (x, y) for example, and for integers; ValueError for NaN and for pixels that
    nobody scaled, 0..255 for example. Warns (ImageRangeWarning) of images in [0, 1], for which first has to be true:
    one dark image in the first batch is enough, later batches may be small and bright. far: also warn of values beyond
    1.5, which latents reach. Points (B, D) are no images, and only have to be finite.
    Reads the values back once. Does nothing under torch.compile, whose graph that would break, and on the device meta.
    """
    if not isinstance(x, Tensor):
        pair = isinstance(x, tuple | list) and len(x) == 2
        what = f"{type(x).__name__} of {len(x)}" if isinstance(x, tuple | list) else type(x).__name__
        hint = f"; of a batch ({name}, labels) give the first part" if pair else ""
        raise TypeError(f"{name} must be one tensor, got a {what}{hint}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point in [-1, 1], got {x.dtype}; 8-bit images: x / 127.5 - 1")
    if torch.compiler.is_compiling() or x.numel() == 0 or x.device.type == "meta":
        return
    low, high = torch.stack(x.detach().aminmax()).tolist()  # NaN if there is one
    if not -float("inf") < low <= high < float("inf"):
        raise ValueError(f"{name} must be finite numbers in [-1, 1], got {int((~x.isfinite()).sum())} NaN or inf")
    if x.ndim < 3:
        return
    if x.ndim > 3 and low >= 0 and high > PIXELS:
        got = f"got unscaled pixels, from {low:.3g} to {high:.3g}"
        raise ValueError(f"{name} must lie in [-1, 1], {got}; 8-bit images: x / 127.5 - 1")
    told = None
    if far and max(-low, high) > 1.5:
        cause = "unscaled pixels (8 bits: x / 127.5 - 1)" if low >= 0 else "a mean and std normalisation"
        told = f"got values up to {max(-low, high):.3g} in size; likely cause: {cause}"
    elif first and x.ndim == 4 and 0 <= low < high <= 1:
        told = f"got values from {low:.3g} to {high:.3g}, as ToTensor gives them: 2 * x - 1 scales [0, 1] to [-1, 1]"
    if told:
        warnings.warn(f"{name} should lie in [-1, 1], {told}", ImageRangeWarning, stacklevel=stacklevel + 1)


def answer(output: object, *, module: bool = False) -> Tensor:
    """A network's output, if it is one tensor.  TypeError that says how to wrap the network otherwise.

    module: the network has to be a module, so that a function around it will not do.
    """
    if isinstance(output, Tensor):
        return output
    got = f"{type(output).__name__} of {len(output)}" if isinstance(output, tuple | list) else type(output).__name__
    part = ".sample" if hasattr(output, "sample") else "[0]" if isinstance(output, tuple | list) else "..."
    wrapped = f"a module whose forward returns model(x, t){part}" if module else f"lambda x, t: model(x, t){part}"
    raise TypeError(f"the model must return a tensor, got a {got}: give {wrapped} instead, the part that is meant")
