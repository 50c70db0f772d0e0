"""What exercises 5.8 and 5.9 share: a difference of two images with two coefficients, and mistakes in these."""

import torch

from ddpm_lesson.checks._rows import Rows


def coefficients(plus: str, minus: str) -> Rows:
    """Slots `first` and `second`, functions of alpha_bar: the factors of the image `plus` and of `minus`, both > 0."""
    return {
        f"The two coefficients are exchanged: sqrt(alpha_bar) {plus} - sqrt(1 - alpha_bar) {minus}.": dict(
            first=lambda a_bar: (1 - a_bar).sqrt(), second=torch.sqrt
        ),
        f"The sign is wrong: sqrt(1 - alpha_bar) {minus} is subtracted<, or the two would not turn with the "
        "angle>.": dict(second=lambda a_bar: -(1 - a_bar).sqrt()),
        f"Both signs are wrong: {plus} comes with +, {minus} with -.": dict(
            first=lambda a_bar: -a_bar.sqrt(), second=lambda a_bar: -(1 - a_bar).sqrt()
        ),
        "Both square roots are missing. alpha_bar and 1 - alpha_bar are variances; images are multiplied by their "
        "roots.": dict(first=lambda a_bar: a_bar, second=lambda a_bar: 1 - a_bar),
        f"You multiplied {plus} by alpha_bar: the root is missing.": dict(first=lambda a_bar: a_bar),
        f"You multiplied {minus} by 1 - alpha_bar: the root is missing.": dict(second=lambda a_bar: 1 - a_bar),
        f"You multiplied {minus} by 1 - sqrt(alpha_bar). It is the squares of the two that add up to 1: "
        "sqrt(1 - alpha_bar).": dict(second=lambda a_bar: 1 - a_bar.sqrt()),
        f"{plus} has no factor: it is multiplied by sqrt(alpha_bar).": dict(first=torch.ones_like),
        f"{minus} has no factor: it is multiplied by sqrt(1 - alpha_bar).": dict(second=torch.ones_like),
        "The coefficients are exchanged and their roots are missing.": dict(
            first=lambda a_bar: 1 - a_bar, second=lambda a_bar: a_bar
        ),
    }
