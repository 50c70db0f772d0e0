"""What can be found out of an answer to exercise 3.2: who shares a mean, and whether the norm is right."""

import torch

from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks._values import same


def who_shares(evidence) -> str:
    """Which numbers share a mean and variance with a pixel: seen by moving one of them."""
    x, weight, bias = fractions(2, 6, 2, 3) + 2, torch.ones(6), torch.zeros(6)
    base, seen = evidence.calls(x, 2, weight, bias), torch.zeros(x.shape, dtype=torch.bool)
    for step in (3, -1):
        moved = x.clone()
        moved[0, 1, 0, 1] += step
        after = evidence.calls(moved, 2, weight, bias)
        if base is None or after is None or base.shape != x.shape or after.shape != x.shape:
            return ""
        seen |= (after - base).abs() > 1e-5
    if seen[1].any():
        return "A pixel of one image changes your result for another image: mean and variance belong to one image."
    channels = [c for c in range(6) if seen[0, c].any()]
    if channels != [0, 1, 2]:
        return (
            f"With 6 channels in 2 groups, channel 1 shares mean and variance with channels {channels} in yours. "
            "A group is C / num_groups neighbouring channels."
        )
    for words, mask in {
        "of a single row": torch.arange(2)[:, None] == 0,
        "of a single column": torch.arange(3) == 1,
        "of a single pixel": (torch.arange(2)[:, None] == 0) & (torch.arange(3) == 1),
    }.items():
        if torch.equal(seen[0, :3], mask.expand(3, 2, 3)):
            return f"Your mean and variance are those {words}. They run over all pixels of a group's channels."
    return ""


def norm_or_affine(evidence) -> str:
    """Whether the norm is wrong, or what comes after it: weight, bias."""
    x, right = fractions(2, 6, 2, 3) + 2, True
    weight, bias = fractions(6, start=5) + 2, fractions(6, start=23)
    for case in evidence.check.cases:
        image, num_groups, w, b = case.args
        plain = (image, num_groups, torch.ones_like(w), torch.zeros_like(b))
        normed = evidence.calls(*plain)
        right &= normed is not None and same(normed, evidence.should(*plain))
    if right:
        return "With weight 1 and bias 0 your norm is right. What is done with weight and bias is not."
    normed, whole = evidence.calls(x, 2, torch.ones(6), torch.zeros(6)), evidence.calls(x, 2, weight, bias)
    if normed is None or whole is None or normed.shape != x.shape or whole.shape != x.shape:
        return ""
    if not torch.allclose(whole.double(), _affine(normed, weight, bias).double(), rtol=1e-4, atol=1e-5):
        return ""
    group = normed[0, :3].double()
    mean, var = group.mean().item(), group.var(correction=0).item()
    if abs(mean) < 1e-3 and abs(var - 1) < 1e-3:
        return ""
    return (
        f"What you do with weight and bias is right, but before them a group of 18 numbers has mean {mean:.3f} and "
        f"variance {var:.3f}. The norm makes them 0 and 1."
    )


def _affine(h, weight, bias):
    return h * weight[:, None, None] + bias[:, None, None]
