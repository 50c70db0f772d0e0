"""Sentences that several exercises of notebook 02 share."""

import torch

COLUMNS = (
    "Your coefficients have shape (B,), and broadcasting lines that up with the last axis, the columns of an image. It "
    "runs where B happens to be the width, and is wrong there: extract adds the axes that they lack."
)
FIRST_T = "You used the first image's t for the whole batch. Every image has its own t."


def reduced(why: str) -> dict[str, dict]:
    """Rows of a table: the right values, summed or averaged where each was asked for, and why each was."""
    one = "You return one number for each image, the {} over its coordinates."
    return {
        f"You return the sum of everything, a single number. {why}": dict(give=torch.sum),
        f"You return the mean of everything, a single number. {why}": dict(give=torch.mean),
        f"{one.format('sum')} {why}": dict(give=lambda out: out.flatten(1).sum(1)),
        f"{one.format('mean')} {why}": dict(give=lambda out: out.flatten(1).mean(1)),
    }
