"""Draws the README's pictures with the package and its weights: python assets/make_pictures.py"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from einops import rearrange
from PIL import Image
from torch.nn.functional import pad

from ddpm_lesson import GaussianDiffusion, Sampling, data, load_pretrained, plots, schedules
from ddpm_lesson.images import to_uint8

FOLDER = Path(__file__).parent
STEPS = (0, 60, 200, 400, 1000)
ROWS, SCALE, GREYS = 2, 2, 8  # of the animation: digits below each other, pixels of a pixel, and fewer bytes


def forward_and_reverse() -> None:
    process = GaussianDiffusion(schedules.linear(1000))
    generator = torch.Generator().manual_seed(0)
    x, walk = data.digits()[:1][0], []
    for step in range(1001):
        if step in STEPS:
            walk.append(x)
        if step < 1000:
            x = process.q_step(x, torch.tensor([step]), torch.randn(x.shape, generator=generator))
    figure = plots.forward_and_reverse(torch.cat(walk), STEPS).figure
    figure.savefig(FOLDER / "forward_and_reverse.png", dpi=120, facecolor="white")


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
    forward_and_reverse()
    from_noise()
