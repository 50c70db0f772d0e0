"""Pictures as bytes: what the commands write. matplotlib is imported when one is drawn."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddpm_lesson.images import to_uint8


def grid(images: torch.Tensor) -> bytes:
    from ddpm_lesson.plots import image_grid

    return png(lambda ax: image_grid(images, ax=ax), _size(len(images)))


def animation(images: list[torch.Tensor]) -> bytes:
    """At most about 40 of the states, the first and the last among them."""
    from ddpm_lesson.plots import animate, image_grid

    chosen = sorted({round(i * (len(images) - 1) / 40) for i in range(41)})
    draw = lambda figure, i: image_grid(images[i], ax=figure.add_subplot())  # noqa: E731
    return animate(draw, chosen, alt="Images come out of the noise.", size=_size(len(images[0]))).png


def _size(n: int) -> tuple[float, float]:
    """Of a square grid of n images, in inches."""
    side = math.ceil(math.sqrt(n))
    return 0.6 * side, 0.6 * side


def png(draw: Callable[[Any], object], size: tuple[float, float]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=120, layout="constrained")
    draw(figure.add_subplot())
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def eight_bit(images: torch.Tensor) -> np.ndarray:
    """Images (N, C, H, W) in [-1, 1] as their own pixels, (N, H, W, C) uint8 in 0..255."""
    return to_uint8(images, 256).permute(0, 2, 3, 1).numpy()


def separate(images: torch.Tensor) -> Iterator[bytes]:
    """Each image as a PNG of its own pixels: 8-bit grey or RGB, H x W."""
    for pixels in eight_bit(images):
        yield _saved(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), "PNG")


def gif(frames: Sequence[torch.Tensor]) -> bytes:
    """An animated GIF of frames (N, C, H, W), each a grid of its images' own pixels, enlarged if they are small."""
    pictures = [_tiled(eight_bit(frame.clamp(-1, 1))) for frame in frames]
    first, *rest = pictures
    durations = [100] * len(rest) + [1500]
    return _saved(first, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)


def npz(images: torch.Tensor, labels: torch.Tensor | None) -> bytes:
    """arr_0: (N, H, W, C) uint8; arr_1: labels (N,) int64, if there are some. The names are guided-diffusion's."""
    file = io.BytesIO()
    np.savez(file, eight_bit(images), *([] if labels is None else [labels.cpu().numpy()]))
    return file.getvalue()


def _tiled(pixels: np.ndarray) -> Image.Image:
    """A square grid of images (N, H, W, C), two pixels apart on white, at least 320 pixels wide."""
    n, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, channels), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = 2 + i // columns * (height + 2), 2 + i % columns * (width + 2)
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas)
    times = max(1, math.ceil(320 / picture.width))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()
