"""Draws the pictures of the README with the package: python assets/make_pictures.py"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch

from ddpm_lesson import GaussianDiffusion, data, plots, schedules

STEPS = (0, 60, 200, 400, 1000)

process = GaussianDiffusion(schedules.linear(1000))
generator = torch.Generator().manual_seed(0)
x, walk = data.digits()[:1][0], []
for step in range(1001):
    if step in STEPS:
        walk.append(x)
    if step < 1000:
        x = process.q_step(x, torch.tensor([step]), torch.randn(x.shape, generator=generator))
figure = plots.forward_and_reverse(torch.cat(walk), STEPS).figure
figure.savefig(Path(__file__).with_name("forward_and_reverse.png"), dpi=120, facecolor="white")
