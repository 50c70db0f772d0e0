"""What can be found out of an answer to exercise 2.5: from where to where a bin reaches."""

import torch


def reach(evidence) -> str:
    """From where to where a bin reaches: a Gaussian nearly without width is inside of it or not."""
    mean = torch.linspace(-1.4, 1.4, 281, dtype=torch.float64) + 0.003
    words = []
    for x in (0.0, -1.0, 1.0):
        args = (torch.full_like(mean, x), mean, torch.full_like(mean, 1e-4), 5)
        got, want = evidence.calls(*args), evidence.should(*args)
        if got is None or got.shape != mean.shape:
            return ""
        inside, right = (out > -9 for out in (got, want))
        if not inside.any() or inside.all() or got.isnan().any():
            return ""
        if not torch.equal(inside, right):
            ends = [mean[inside][0].item() - 0.005, mean[inside][-1].item() + 0.005]
            low, high = (f"{end:.2f}" if abs(end) < 1.39 else "far out" for end in ends)
            words.append(f"around x = {x:g} reaches from {low} to {high}")
    return f"On 5 levels your bin {', and the one '.join(words)}. Look at its ends." if words else ""
