"""What is found out of an answer to exercise 1.5: float32 on the way, the angle's ends, the power of the cosine."""

import math

import torch

DIGITS = 4 * 2.0**-23  # what a few roundings in float32 leave of an angle up to pi / 2


def rounded_on_the_way(evidence) -> str:
    """Right values but for float32's rounding of times and angles, which 1 minus a ratio near 1 makes larger."""
    for case, got, want in zip(evidence.check.cases, evidence.got, evidence.want, strict=True):
        T, s, _ = case.args
        if got is None or got.shape != want.shape or not got.isfinite().all():
            return ""
        angles = (torch.arange(T + 1).double() / T + s) / (1 + s) * math.pi / 2
        slopes = 2 * angles.tan().abs()  # of the logarithm of the squared cosine
        off = DIGITS * (1 + (1 - want) * (slopes[1:] + slopes[:-1]))
        gap = got.double() - want
        if (gap.abs() > off).any() or T > 100 and (gap[1:] * gap[:-1] < 0).sum() < T / 5:
            return ""  # rounding goes up and down, where another angle, of pi = 3.1416, say, is off to one side
    return (
        "Something on your way is float32: the times, torch.arange(T + 1) / T, for example. Its seven digits are "
        "right, but 1 minus a ratio near 1 loses most of them. Ask for dtype=torch.float64 where the numbers are made."
    )


def squared_cosine(evidence) -> str:
    """Betas of a squared cosine whose angle begins or ends elsewhere, or of another power of the right cosine."""
    got, want, case = evidence.got[1], evidence.want[1], evidence.check.cases[1]
    if got is None or got.shape != want.shape or not got.isfinite().all():
        return ""
    use = (got < 0.99) & (want < 0.99)
    logs = [torch.log1p(-beta[use].double()) for beta in (got, want)]
    power = (logs[0] / logs[1]).median().item()
    if torch.allclose(logs[0], logs[1], rtol=1e-5):
        return ""
    if len(logs[0]) > 10 and torch.allclose(logs[0], power * logs[1], rtol=1e-5):
        return f"Your alpha_bar is the right one to the power {power:.3g}. Look at the power of the cosine."
    u = torch.linspace(0, 1, len(got) + 1, dtype=torch.float64)
    ends = torch.tensor([0.01, 1.5], dtype=torch.float64)
    for _ in range(60):  # Newton's method for the two ends of the angle

        def misses(ends):
            f = torch.cos(ends[0] + (ends[1] - ends[0]) * u).square()
            return (f[1:].log() - f[:-1].log())[use] - logs[0]

        slope = torch.autograd.functional.jacobian(misses, ends)
        ends = ends - torch.linalg.lstsq(slope, misses(ends)[:, None]).solution[:, 0].clamp(-0.2, 0.2)
    if not ends.isfinite().all() or misses(ends).abs().max() > 1e-6 * logs[0].abs().max() + 1e-8:
        return ""
    found = f"{abs(ends[0].item()):.4g} to {abs(ends[1].item()):.4g}"
    return f"Your alpha_bar is a squared cosine, but for {case.words} its angle runs from {found}. Look at the angle."
