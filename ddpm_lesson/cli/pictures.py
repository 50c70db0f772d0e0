"""Pictures as bytes: what the commands write. matplotlib is imported when one is drawn."""

import io
import math
from collections.abc import Callable
from typing import Any

import torch


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
