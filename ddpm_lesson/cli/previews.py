"""Pictures that a run leaves in its folder: grids from its averaged network, and the loss so far."""

import io
from pathlib import Path

import numpy as np
import torch

from ddpm_lesson.cli.pictures import grid, png
from ddpm_lesson.data import Images
from ddpm_lesson.experiments.checkpoints import write_whole
from ddpm_lesson.experiments.conditions import made_small
from ddpm_lesson.experiments.logs import read_log
from ddpm_lesson.experiments.pretrained import PretrainedDiffusion
from ddpm_lesson.experiments.runs import Run
from ddpm_lesson.experiments.sampling import Sampling


def picture_of(folder: Path, step: int) -> Path:
    """The file of the preview after so many steps."""
    return folder / "previews" / f"{step:07}.png"


def preview(run: Run) -> np.ndarray:
    """A grid from the averaged network, and the loss so far, as pictures in the folder of the run; returns the grid."""
    return draw_preview(run.result(), run.images, run.folder)


def draw_preview(trained: PretrainedDiffusion, images: Images | None, folder: Path) -> np.ndarray:
    """The same for a network.  images: those it learns from, if it enlarges images. Returns pixels (H, W, 3), uint8."""
    from ddpm_lesson.plots import loss_curve

    recipe, S = trained.recipe, min(trained.process.T, 25)
    sampling = Sampling("ddim", f"trailing{S}", seed=recipe.seed)
    if recipe.condition == "low_res":
        assert images is not None
        x_0, labels = images[torch.arange(min(64, len(images)))]
        y = labels if recipe.conditional else None
        drawn = trained.sample(len(x_0), sampling, y=y, cond=made_small(recipe, x_0))
    else:
        drawn = trained.sample(64, sampling, y=trained.labels(64))
    picture = grid(drawn)
    (folder / "previews").mkdir(exist_ok=True)
    write_whole(picture_of(folder, trained.step), picture)
    losses = torch.tensor([row.loss for row in read_log(folder / "log.csv", trained.step)])
    if len(losses):
        curve = png(lambda ax: loss_curve(losses, smooth=max(len(losses) // 50, 1), ax=ax), (6, 3.5))
        write_whole(folder / "loss.png", curve)
    return _pixels(picture)


def _pixels(picture: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        return np.asarray(opened.convert("RGB"))
