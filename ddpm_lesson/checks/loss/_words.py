"""Rows that several exercises of notebook 02 share."""

import torch

from ddpm_lesson.checks._rows import Rows


def reduced(why: str) -> Rows:
    """Rows of a table: the right values, summed or averaged where each was asked for, and why each was."""
    one = "You return one number for each image, the {} over its coordinates."
    return {
        f"You return the sum of everything, a single number. {why}": dict(give=torch.sum),
        f"You return the mean of everything, a single number. {why}": dict(give=torch.mean),
        f"{one.format('sum')} {why}": dict(give=lambda out: out.flatten(1).sum(1)),
        f"{one.format('mean')} {why}": dict(give=lambda out: out.flatten(1).mean(1)),
    }
