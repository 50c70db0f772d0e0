"""Images with labels, in memory or in files that are decoded when they are needed; scaled to [-1, 1] when indexed."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import overload

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddpm_lesson.files import ImageFiles
from ddpm_lesson.folders import Found


class Images(Dataset):
    """Labelled images, held as integers and scaled when indexed: x = 2 * data / (levels - 1) - 1.

    data: (N, C, H, W) uint8 in 0..levels - 1.  labels: (N,) int64.  classes: names, by label.
    images[3] is (x (C, H, W), label int); images[3:9] or images[index_tensor] is (x (N, C, H, W), labels (N,)).
    x is float32 in [-1, 1]; its levels are 2 / (levels - 1) apart.  An index out of range raises IndexError.
    from_folder: what was found in the folder that they come from.
    Raises TypeError if dtypes, ValueError if shapes or labels are not as above.
    Not images.data: those are the integers; a model trains on the x of images[...].
    """

    def __init__(
        self,
        data: Tensor | ImageFiles,
        labels: Tensor,
        *,
        levels: int,
        classes: Sequence[str],
        from_folder: Found | None = None,
    ):
        if (data.dtype, labels.dtype) != (torch.uint8, torch.int64):
            raise TypeError(f"data must be uint8 and labels int64, got {data.dtype} and {labels.dtype}")
        if len(data.shape) != 4 or labels.shape != data.shape[:1]:
            raise ValueError(f"expected data (N, C, H, W), labels (N,), got {[*data.shape]}, {[*labels.shape]}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(f"labels must lie in 0..{len(classes) - 1}, got {labels.min()}..{labels.max()}")
        self.data, self.labels, self.levels, self.classes = data, labels, levels, tuple(classes)
        self.from_folder = from_folder

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    @overload
    def __getitem__(self, index: slice | Tensor) -> tuple[Tensor, Tensor]: ...

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, int | Tensor]:
        x, label = 2 * self.data[index].float() / (self.levels - 1) - 1, self.labels[index]
        return x, label if label.ndim else int(label)

    @property
    def x_0(self) -> Tensor:
        """All images at once, (N, C, H, W) float32 in [-1, 1]: what `images[:]` gives, without the labels."""
        self.prepare()
        return self[:][0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.data.shape[1:])

    @cached_property
    def found(self) -> str | None:
        """Of a folder: images, classes, sizes, what was left out and why, in one or two lines. None for other sets."""
        return None if self.from_folder is None else str(self.from_folder)

    def prepare(self) -> None:
        """Decode now what lies in files, see `ImageFiles.prepare`: before many batches. Others have nothing to do."""
        if isinstance(self.data, ImageFiles):
            self.data.prepare()

    def fingerprint(self) -> str:
        """A checksum that tells other images, labels, names of classes, or another order from these.

        Of files, their bytes are read. The name of a single class has no say: it is that of a folder, which may move.
        """
        names = self.classes if len(self.classes) > 1 else ()
        digest = hashlib.sha256(json.dumps([names, self.levels]).encode())
        digest.update(self.labels.contiguous().numpy().data)
        for part in self.data.read() if isinstance(self.data, ImageFiles) else [self.data.contiguous().numpy().data]:
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()


def to_uint8(x: Tensor, levels: int) -> Tensor:
    """Floats in [-1, 1] to the nearest of the integers 0..levels - 1: the way back from the x of `Images`.

    x: floating point, any shape; what lies outside [-1, 1] is clamped.  Returns uint8 of the same shape.
    Raises TypeError if x is not floating point, ValueError if it has NaN or levels is not in 2..256.
    Not (x * 127.5 + 127.5).to(uint8): that rounds down.
    """
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point in [-1, 1], got {x.dtype}")
    if not 2 <= levels <= 256:
        raise ValueError(f"levels must lie in 2..256, got {levels}")
    if x.isnan().any():
        raise ValueError(f"x must hold numbers in [-1, 1], got {x.isnan().sum()} NaN among {x.numel()} values")
    return ((x.float() + 1) * (levels - 1) / 2).round().clamp(0, levels - 1).to(torch.uint8)
