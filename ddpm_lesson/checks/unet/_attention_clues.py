"""What can be found out of an answer to exercise 3.4: the weights that it gives to the pixels."""

import math

import torch

from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks._values import same


def _weights_of(function, q, k):
    """What each pixel's result takes of each pixel of v, (H W, H W), for one image; None if it is no such sum."""
    C, H, W = q.shape[1:]
    columns = []
    for pixel in range(H * W):
        v = torch.zeros(1, C, H, W)
        v.view(1, C, -1)[:, :, pixel] = 1
        out = function(q, k, v)
        if out is None or out.shape != v.shape or not torch.allclose(out, out[:, :1].expand_as(out), atol=1e-6):
            return None
        columns.append(out[0, 0].flatten().double())
    return torch.stack(columns, 1)


def wrong_weights(evidence) -> str:
    """The weights that the answer gives to the pixels of v, beside the right ones."""
    q, k = 2 * fractions(1, 3, 2, 4), 2 * fractions(1, 3, 2, 4, start=11)
    got, want = (_weights_of(call, q, k) for call in (evidence.calls, evidence.should))
    if got is None or torch.allclose(got, want, rtol=1e-4):
        return ""
    if torch.allclose(got, want.mT, rtol=1e-4, atol=1e-6):
        return "Your weights are transposed: the pixel that is looked at gets the average, not the one that looks."
    if torch.allclose(got, torch.full_like(got, 1 / len(got)), rtol=1e-4):
        return "All your weights are equal, whatever q and k are."
    sums = got.sum(1)
    if (sums - sums[0]).abs().max() < 1e-4 and torch.allclose(got / sums[0], want, rtol=1e-3):
        words = f"The weights of a pixel add up to {sums[0]:.3g} in your result, and must add up to 1."
        return f"{words} What comes after the softmax?"
    if (got <= 0).any():
        return "Some of your weights are 0 or negative, and those of a softmax are not." + _sums(got)
    logs = [(x.log() - x.log().mean(1, keepdim=True)) for x in (got, want)]
    ratio = (logs[0] * logs[1]).sum() / (logs[1] ** 2).sum()
    if torch.allclose(logs[0], ratio * logs[1], rtol=1e-3, atol=1e-4):
        words = f"What goes into your softmax is {ratio:.4g} times the right one, with C = 3 and 8 pixels."
        if ratio == 0:
            return ""
        divisor = math.sqrt(3) / ratio.item()
        q, k, v = (fractions(1, 6, 2, 2, start=start) for start in (0, 11, 30))
        out, right = evidence.calls(q, k, v), evidence.should(q * math.sqrt(6) / divisor, k, v)
        if out is not None and same(out, right):
            return f"You divide q . k by {divisor:.4g}, whatever C is. Divide by sqrt(C)."
        return f"{words} Look at the scale."
    return _sums(got).strip()


def _sums(weights):
    sums = weights.sum(1)
    if torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return ""
    if torch.allclose(weights.sum(0), torch.ones_like(sums), atol=1e-4):
        return " The weights add up to 1 over the queries; for each query those of the keys should."
    return " For each pixel the weights must add up to 1 over the pixels that it looks at, and yours do not."
