"""Draws the README's animation with the package and its weights: python assets/make_pictures.py"""

from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch.nn.functional import pad

from ddpm_lesson import Sampling, load_pretrained
from ddpm_lesson.images import to_uint8

FOLDER = Path(__file__).parent
ROWS, SCALE, GREYS = 2, 2, 8  # digits below each other, pixels of a pixel, and fewer bytes


def from_noise() -> None:
    """Digits of mnist_ddpm come out of the noise in 25 steps, a column for each class."""
    mnist = load_pretrained("mnist_ddpm")
    n = ROWS * len(mnist.classes)
    sampling = Sampling("ddim", "trailing25", eta=1.0, guidance=1.5)
    frames = [frame(state.x_t) for state in mnist.states(n, sampling, y=mnist.labels(n))]
    durations = [100] * (len(frames) - 1) + [2500]
    frames[0].save(FOLDER / "from_noise.gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def frame(images: torch.Tensor) -> Image.Image:
    pixels = pad(to_uint8(images.clamp(-1, 1), 256), (1, 1, 1, 1), value=128)
    canvas = rearrange(pixels, "(rows columns) 1 h w -> (rows h) (columns w)", rows=ROWS)
    picture = Image.fromarray(canvas.numpy()).quantize(GREYS, dither=Image.Dither.NONE)
    return picture.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.NEAREST)


if __name__ == "__main__":
    from_noise()
