"""What is found out of an answer to exercise 1.9: a divisor kept from 0, an estimate that is thresholded."""

import torch


def least_divisor(evidence) -> str:
    """A bound under which the divisor does not go, the same for all inputs."""
    bounds = []
    for case, got, want in zip(evidence.check.cases, evidence.got, evidence.want, strict=True):
        if got is None or got.shape != want.shape:
            return ""
        for mine, right, root in zip(got, want, case.args[3][case.args[1]].sqrt().tolist(), strict=True):
            ratio = (mine.double() / right).flatten()
            if not torch.allclose(ratio, ratio[:1], rtol=1e-4):
                return ""
            if abs(ratio[0] - 1) > 1e-4:
                bounds.append((root, root / ratio[0].item()))
    if not bounds or any(root > bound or abs(bound / bounds[0][1] - 1) > 1e-3 for root, bound in bounds):
        return ""
    return f"You divide by {bounds[0][1]:.3g} where sqrt(alpha_bar) is smaller: a clamp. Divide by the root itself."


def thresholded(evidence) -> str:
    """Each image divided by one number and clipped to [-1, 1]."""
    divided = 0
    for got, want in zip(evidence.got, evidence.want, strict=True):
        if got is None or got.shape != want.shape or got.double().abs().max() > 1 + 1e-6:
            return ""
        for mine, right in zip(got.double().flatten(1), want.flatten(1), strict=True):
            inside = mine.abs() < 1 - 1e-6
            scale = (right[inside] / mine[inside]).median() if inside.any() else right.abs().min()
            if not torch.allclose(mine, (right / scale).clamp(-1, 1), rtol=1e-4, atol=1e-5):
                return ""
            divided += int(inside.any() and scale > 1.001)
    if divided < 2:
        return ""
    return (
        "You divided each image by a number of its own and clipped it to [-1, 1], as dynamic thresholding does. That "
        "is a sampler's choice: return the estimate itself."
    )
