"""Sentences that several exercises of notebook 02 share."""

import torch

from ddpm_lesson.checks._misconceptions import Misconception

COLUMNS = (
    "Your coefficients have shape (B,), and broadcasting lines that up with the last axis, the columns of an image. It "
    "runs where B happens to be the width, and is wrong there: extract adds the axes that they lack."
)
FIRST_T = "You used the first image's t for the whole batch. Every image has its own t."


def reduced(why: str) -> tuple[Misconception, ...]:
    """The right values, summed or averaged where each was asked for, and why each was."""
    return (
        Misconception(f"You return the sum of everything, a single number. {why}", give=torch.sum),
        Misconception(f"You return the mean of everything, a single number. {why}", give=torch.mean),
        Misconception(
            f"You return one number for each image, the sum over its coordinates. {why}",
            give=lambda out: out.flatten(1).sum(1),
        ),
        Misconception(
            f"You return one number for each image, the mean over its coordinates. {why}",
            give=lambda out: out.flatten(1).mean(1),
        ),
    )
