# ruff: noqa: B905
"""Answers to the exercises of notebook 05 that are single formulas, written from their statements alone."""

import math

import numpy as np
import torch
from einops import rearrange
from torch.nn import functional as F

from answers import Answers

answers = Answers()
W, C = answers.wrong, answers.correct


def column(values, x):
    return values.view(-1, *[1] * (x.ndim - 1))


# ---------------------------------------------------------------- 5.2


def ends(betas, alphas_bar):
    prev = F.pad(alphas_bar[:-1], (1, 0), value=1.0)
    var = betas * (1 - prev) / (1 - alphas_bar)
    return torch.log(torch.cat([var[1:2], var[1:]])), torch.log(betas)


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (column(table[t], v) for table in ends(betas, alphas_bar))
    return v * high + (1 - v) * low


W(learned_log_var, "v is the fraction", "formula", "You took v itself for the share of log beta.")


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (column(table[t], v) for table in ends(betas, alphas_bar))
    frac = (v + 1) / 2
    return frac * low + (1 - frac) * high


W(learned_log_var, "low and high exchanged", "order", "The two ends are exchanged")


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (column(table[t], v) for table in ends(betas, alphas_bar))
    frac = v + 1 / 2
    return frac * high + (1 - frac) * low


W(learned_log_var, "v + 1 / 2", "brackets", "Python divides before it adds")


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (column(table[t], v).exp() for table in ends(betas, alphas_bar))
    frac = (v + 1) / 2
    return torch.log(frac * high + (1 - frac) * low)


W(learned_log_var, "the variances are interpolated", "formula", "You mixed the variances and then took the logarithm.")


def learned_log_var(v, t, betas, alphas_bar):
    prev = F.pad(alphas_bar[:-1], (1, 0), value=1.0)
    var = betas * (1 - prev) / (1 - alphas_bar)
    frac = (v + 1) / 2
    return frac * column(betas[t].log(), v) + (1 - frac) * column(var[t].log(), v)


W(learned_log_var, "log of 0 at t = 0", "edge", "At t = 0 you took the logarithm of 0.")


def learned_log_var(v, t, betas, alphas_bar):
    prev = F.pad(alphas_bar[:-1], (1, 0), value=1.0)
    var = (betas * (1 - prev) / (1 - alphas_bar)).clamp(min=1e-20)
    frac = (v + 1) / 2
    return frac * column(betas[t].log(), v) + (1 - frac) * column(var[t].log(), v)


W(learned_log_var, "clamped at 1e-20", "edge", "At t = 0 your small end is a tiny constant.")


def learned_log_var(v, t, betas, alphas_bar):
    prev = F.pad(alphas_bar[:-1], (1, 0), value=1.0)
    var = betas * (1 - prev) / (1 - alphas_bar) + 1e-8
    frac = (v + 1) / 2
    return frac * column(betas[t].log(), v) + (1 - frac) * column(var[t].log(), v)


W(learned_log_var, "plus 1e-8", "edge", "is right everywhere but at t = 0")


def learned_log_var(v, t, betas, alphas_bar):
    prev = F.pad(alphas_bar[:-1], (1, 0), value=1.0)
    var = betas * (1 - prev) / (1 - alphas_bar)
    var[0] = betas[0]
    frac = (v + 1) / 2
    return frac * column(betas[t].log(), v) + (1 - frac) * column(var[t].log(), v)


W(learned_log_var, "beta for both at t = 0", "edge", "At t = 0 both your ends are beta")


def learned_log_var(v, t, betas, alphas_bar):
    var = betas * (1 - alphas_bar) / (1 - alphas_bar)
    var = torch.cat([var[1:2], var[1:]])
    frac = (v + 1) / 2
    return frac * column(betas[t].log(), v) + (1 - frac) * column(var[t].log(), v)


W(
    learned_log_var,
    "alphas_bar for the one before, with posterior_var[1] at 0",
    "table",
    "You took alpha_bar where alpha_bar_prev belongs",
)


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (column(table[t], v) for table in ends(betas, alphas_bar))
    frac = (v + 1) / 2
    return torch.exp(frac * high + (1 - frac) * low)


W(learned_log_var, "the variance", "formula", "You return the variance")


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (column(table[t], v) for table in ends(betas, alphas_bar))
    frac = (v + 1) / 2
    return 0.5 * (frac * high + (1 - frac) * low)


W(learned_log_var, "log std", "factor", "You return the log of a standard deviation")


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (column(table[t], v) for table in ends(betas, alphas_bar))
    frac = (v + 1) / 2
    return (frac * high + (1 - frac) * low) / math.log(2)


W(learned_log_var, "base 2", "factor", "Your logarithms are to base 2.")


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (table[t] for table in ends(betas, alphas_bar))
    frac = (v + 1) / 2
    return frac * high + (1 - frac) * low


W(learned_log_var, "(B,)", "broadcast", "Your coefficients have shape (B,)")


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (column(table[t - 1], v) for table in ends(betas, alphas_bar))
    frac = (v + 1) / 2
    return frac * high + (1 - frac) * low


W(learned_log_var, "t - 1", "indexing", "You read the tables at t - 1.")


def learned_log_var(v, t, betas, alphas_bar):
    t = t.clamp(min=1)
    var = betas[t] * (1 - alphas_bar[t - 1]) / (1 - alphas_bar[t])
    frac = (v + 1) / 2
    return frac * column(betas[t].log(), v) + (1 - frac) * column(var.log(), v)


W(learned_log_var, "both ends of t = 1 at t = 0", "edge", "At t = 0 you read both ends at 1.")


def learned_log_var(v, t, betas, alphas_bar):
    low, high = (table[t[0]] for table in ends(betas, alphas_bar))
    frac = (v + 1) / 2
    return frac * high + (1 - frac) * low


W(learned_log_var, "the first t", "indexing", "You used the first image's t for the whole batch.")


def learned_log_var(v, t, betas, alphas_bar):
    prev = F.pad(alphas_bar[:-1], (1, 0), value=1.0)
    var = betas * (1 - prev) / (1 - alphas_bar)
    frac = v
    return frac * column(betas[t].log(), v) + (1 - frac) * column(var[t].log(), v)


W(
    learned_log_var,
    "v is the fraction, and log of 0",
    "two",
    "You took v itself for the share of log beta.",
    "At t = 0 you took the logarithm of 0.",
)


def learned_log_var(v, t, betas, alphas_bar):
    low, high = ends(betas, alphas_bar)
    low, high = (column(table[t], v).to(v.dtype) for table in (low, high))
    return torch.lerp(low, high, (v + 1) / 2)


C(learned_log_var, "lerp in float32")


def learned_log_var(v, t, betas, alphas_bar):
    images = []
    for image, step in zip(v, t):
        i = max(1, int(step))
        low = math.log(betas[i]) + math.log(1 - alphas_bar[i - 1]) - math.log(1 - alphas_bar[i])
        frac = image.numpy().astype(np.float64) / 2 + 0.5
        images.append(torch.from_numpy(frac * math.log(betas[step]) + (1 - frac) * low))
    return torch.stack(images)


C(learned_log_var, "numpy, an image at a time")


def learned_log_var(v, t, betas, alphas_bar):
    low, high = ends(betas, alphas_bar)
    middle, half = (high + low) / 2, (high - low) / 2
    return rearrange(middle[t], f"b -> b {'1 ' * (v.ndim - 1)}") + v * rearrange(
        half[t], f"b -> b {'1 ' * (v.ndim - 1)}"
    )


C(learned_log_var, "from the middle, einops")


# ---------------------------------------------------------------- 5.6


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    if convention == "w":
        return eps_uncond + strength * (eps_cond - eps_uncond)
    return (1 + strength) * eps_cond - strength * eps_uncond


W(cfg_eps, "conventions exchanged", "order", "You exchanged the conventions.")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    return eps_uncond + strength * (eps_cond - eps_uncond)


W(cfg_eps, "always s", "ignored-argument", "You took s in both conventions.")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    return (1 + strength) * eps_cond - strength * eps_uncond


W(cfg_eps, "always w", "ignored-argument", "You took w in both conventions.")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    s = strength if convention == "s" else strength + 1
    return eps_cond + s * (eps_uncond - eps_cond)


W(cfg_eps, "cond and uncond exchanged", "order", "You exchanged eps_cond and eps_uncond")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    s = strength if convention == "s" else strength - 1
    return eps_uncond + s * (eps_cond - eps_uncond)


W(cfg_eps, "s = w - 1", "sign", "With w you wrote s = w - 1.")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    if convention == "s":
        return eps_uncond + strength * (eps_cond - eps_uncond)
    return (1 + strength) * eps_cond + strength * eps_uncond


W(cfg_eps, "plus", "sign", "With w you added both")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    if convention == "s":
        return strength * eps_cond - eps_uncond
    return (1 + strength) * eps_cond - strength * eps_uncond


W(cfg_eps, "s cond - uncond", "brackets", "With s you wrote s eps_cond - eps_uncond.")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    if convention == "s":
        return eps_uncond + strength * eps_cond - eps_uncond
    return (1 + strength) * eps_cond - strength * eps_uncond


W(cfg_eps, "brackets forgotten", "brackets", "s multiplies the difference")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    if convention == "s":
        return strength * (eps_cond - eps_uncond)
    return (1 + strength) * eps_cond - strength * eps_uncond


W(cfg_eps, "the difference alone", "formula", "With s you forgot to start from eps_uncond")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    if convention == "s":
        return (1 - strength) * eps_cond + strength * eps_uncond
    return eps_cond + strength * (eps_uncond - eps_cond)


W(cfg_eps, "both towards uncond", "ignored-argument", "does not depend on convention")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    eps_uncond += (strength + (convention == "w")) * (eps_cond - eps_uncond)
    return eps_uncond


W(cfg_eps, "in place", "in-place", "your function changes eps_uncond in place")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    s = strength if convention == "s" else 1 + strength
    return eps_cond + s * (eps_cond - eps_uncond)


W(cfg_eps, "from the label on", "formula", "You start from eps_cond in both conventions.")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    return torch.lerp(eps_uncond, eps_cond, strength + float(convention == "w"))


C(cfg_eps, "lerp")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    match convention:
        case "s":
            return strength * eps_cond + (1 - strength) * eps_uncond
        case "w":
            return eps_cond + strength * (eps_cond - eps_uncond)


C(cfg_eps, "match")


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    both = np.stack([eps_cond.numpy(), eps_uncond.numpy()]).astype(np.float64)
    weights = {"s": [strength, 1 - strength], "w": [1 + strength, -strength]}[convention]
    return torch.from_numpy(np.tensordot(np.array(weights), both, axes=1))


C(cfg_eps, "numpy weights")


# ---------------------------------------------------------------- 5.8


def v_target(x_0, noise, t, alphas_bar):
    a = column(alphas_bar[t], x_0)
    return a.sqrt() * x_0 - (1 - a).sqrt() * noise


W(v_target, "x_0 and noise exchanged", "order", "You exchanged x_0 and noise")


def v_target(x_0, noise, t, alphas_bar):
    a = column(alphas_bar[t], x_0)
    return (1 - a).sqrt() * noise - a.sqrt() * x_0


W(v_target, "roots exchanged", "order", "The two coefficients are exchanged")


def v_target(x_0, noise, t, alphas_bar):
    a = column(alphas_bar[t], x_0)
    return a.sqrt() * noise + (1 - a).sqrt() * x_0


W(v_target, "plus", "sign", "The sign is wrong")


def v_target(x_0, noise, t, alphas_bar):
    a = column(alphas_bar[t], x_0)
    return (1 - a).sqrt() * x_0 - a.sqrt() * noise


W(v_target, "-v", "sign", "Both signs are wrong")


def v_target(x_0, noise, t, alphas_bar):
    a = column(alphas_bar[t], x_0)
    return a * noise - (1 - a) * x_0


W(v_target, "no roots", "square-root", "Both square roots are missing.")


def v_target(x_0, noise, t, alphas_bar):
    a = column(alphas_bar[t], x_0)
    return a.sqrt() * x_0 + (1 - a).sqrt() * noise


W(v_target, "x_t", "formula", "That is x_t")


def v_target(x_0, noise, t, alphas_bar):
    return noise - x_0


W(v_target, "flow matching's target", "formula", "You return noise - x_0, the velocity of a straight line.")


def v_target(x_0, noise, t, alphas_bar):
    a = alphas_bar[t]
    return a.sqrt() * noise - (1 - a).sqrt() * x_0


W(v_target, "(B,)", "broadcast", "Your alphas_bar[t] has shape (B,)")


def v_target(x_0, noise, t, alphas_bar):
    a = column(alphas_bar[t - 1], x_0)
    return a.sqrt() * noise - (1 - a) * x_0


W(v_target, "t - 1 and a root", "two", "You read alphas_bar at t - 1.", "You multiplied x_0 by 1 - alpha_bar")


def v_target(x_0, noise, t, alphas_bar):
    angle = column(torch.acos(alphas_bar[t].sqrt()), x_0)
    return torch.cos(angle) * noise - torch.sin(angle) * x_0


C(v_target, "by the angle")


def v_target(x_0, noise, t, alphas_bar):
    images = [math.sqrt(alphas_bar[s]) * e - math.sqrt(1 - alphas_bar[s]) * x for x, e, s in zip(x_0, noise, t)]
    return torch.stack(images)


C(v_target, "an image at a time")


def v_target(x_0, noise, t, alphas_bar):
    roots = torch.stack([alphas_bar, alphas_bar - 1]).abs().sqrt()[:, t].to(x_0.dtype)
    first, second = (rearrange(root, f"b -> b {'1 ' * (x_0.ndim - 1)}") for root in roots)
    return torch.addcmul(first * noise, second, x_0, value=-1)


C(v_target, "addcmul, float32")


# ---------------------------------------------------------------- 5.9


def x_0_from_v(x_t, v, t, alphas_bar):
    a = column(alphas_bar[t], x_t)
    return (x_t - (1 - a).sqrt() * v) / a.sqrt()


W(x_0_from_v, "as if v were eps", "formula", "That is the way back from eps")


def x_0_from_v(x_t, v, t, alphas_bar):
    a = column(alphas_bar[t], x_t)
    return a.sqrt() * x_t + (1 - a).sqrt() * v


W(x_0_from_v, "plus", "sign", "The sign is wrong")


def x_0_from_v(x_t, v, t, alphas_bar):
    a = column(alphas_bar[t], x_t)
    return (1 - a).sqrt() * x_t - a.sqrt() * v


W(x_0_from_v, "roots exchanged", "order", "The two coefficients are exchanged")


def x_0_from_v(x_t, v, t, alphas_bar):
    a = column(alphas_bar[t], x_t)
    return (1 - a).sqrt() * x_t + a.sqrt() * v


W(x_0_from_v, "the noise", "formula", "That is the noise")


def x_0_from_v(x_t, v, t, alphas_bar):
    a = column(alphas_bar[t], x_t)
    return a * x_t - (1 - a) * v


W(x_0_from_v, "no roots", "square-root", "Both square roots are missing.")


def x_0_from_v(x_t, v, t, alphas_bar):
    a = column(alphas_bar[t], x_t)
    return (a.sqrt() * x_t - (1 - a).sqrt() * v).clamp(-1, 1)


W(x_0_from_v, "clipped", "clip", "You clipped x_0 to [-1, 1].")


def x_0_from_v(x_t, v, t, alphas_bar):
    a = column(alphas_bar[t[:1]], x_t)
    return a.sqrt() * x_t - (1 - a).sqrt() * v


W(x_0_from_v, "the first t", "indexing", "You used the first image's t for the whole batch.")


def x_0_from_v(x_t, v, t, alphas_bar):
    a = alphas_bar[t].reshape(-1, 1, 1, 1)
    return a.sqrt() * x_t - (1 - a).sqrt() * v


W(x_0_from_v, "(B, 1, 1, 1)", "layout", "Your coefficients have shape (B, 1, 1, 1)")


def x_0_from_v(x_t, v, t, alphas_bar):
    a = column(alphas_bar[t], x_t)
    eps = (1 - a).sqrt() * x_t + a.sqrt() * v
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()


W(x_0_from_v, "by way of eps: 0 / 0 at the last step", "edge", "nan")


def x_0_from_v(x_t, v, t, alphas_bar):
    angle = torch.asin((1 - alphas_bar[t]).sqrt())
    return column(angle.cos(), x_t) * x_t - column(angle.sin(), x_t) * v


C(x_0_from_v, "by the angle")


def x_0_from_v(x_t, v, t, alphas_bar):
    flat = np.sqrt(alphas_bar[t].numpy())[:, None] * x_t.flatten(1).numpy()
    flat = flat - np.sqrt(1 - alphas_bar[t].numpy())[:, None] * v.flatten(1).numpy()
    return torch.from_numpy(flat).view_as(x_t)


C(x_0_from_v, "numpy, flat")


def x_0_from_v(x_t, v, t, alphas_bar):
    out = torch.empty(x_t.shape)
    for i in range(len(x_t)):
        a = float(alphas_bar[t[i]])
        out[i] = a**0.5 * x_t[i] - (1 - a) ** 0.5 * v[i]
    return out


C(x_0_from_v, "an image at a time, float32")


# ---------------------------------------------------------------- 5.10


def zero_terminal_snr(betas):
    a = torch.cumprod(1 - betas, 0)
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    return 1 - torch.cat([a[:1], a[1:] / a[:-1]])


W(zero_terminal_snr, "alpha_bar is shifted", "square-root", "You shifted alpha_bar.")


def zero_terminal_snr(betas):
    root = torch.cumprod(1 - betas, 0).sqrt()
    a = (root - root[-1]) ** 2
    return 1 - torch.cat([a[:1], a[1:] / a[:-1]])


W(zero_terminal_snr, "not scaled back", "formula", "You shifted and did not scale back.")


def zero_terminal_snr(betas):
    root = torch.cumprod(1 - betas, 0).sqrt()
    a = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return torch.cat([1 - a[:1], a[:-1] - a[1:]])


W(zero_terminal_snr, "differences", "formula", "You subtracted two alpha_bar.")


def zero_terminal_snr(betas):
    root = torch.cumprod(1 - betas, 0).sqrt()
    a = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return (1 - torch.cat([a[:1], a[1:] / a[:-1]])).clamp(max=0.999)


W(zero_terminal_snr, "capped", "clip", "You capped the betas at 0.999.")


def zero_terminal_snr(betas):
    out = betas.clone()
    out[-1] = 1.0
    return out


W(zero_terminal_snr, "only the last beta", "formula", "You changed the last beta to 1 and nothing else.")


def zero_terminal_snr(betas):
    root = torch.cumprod(1 - betas, 0).sqrt()
    a = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return 1 - torch.cat([a[:1], a[1:] / a[:-1]])


W(zero_terminal_snr, "not squared again", "square-root", "You did not square the root again")


def zero_terminal_snr(betas):
    root = torch.cumprod(1 - betas, 0).sqrt()
    a = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return 1 - a[1:] / a[:-1]


W(zero_terminal_snr, "T - 1 betas", "count", "You return T - 1 betas")


def zero_terminal_snr(betas):
    root = torch.cumprod(1 - betas, 0).sqrt()
    a = ((root - root[-1]) / (root[0] - root[-1])) ** 2
    return 1 - torch.cat([a[:1], a[1:] / a[:-1]])


W(zero_terminal_snr, "begins at 1", "edge", "Your first beta is 0")


def zero_terminal_snr(betas):
    root = torch.cumprod(1 - betas, 0).sqrt()
    root -= root[-1]
    root *= root[0] / (root[0] - root[-1])
    a = root**2
    return 1 - torch.cat([a[:1], a[1:] / a[:-1]])


W(
    zero_terminal_snr,
    "a table less a view of itself",
    "in-place",
    "clone() the tensor",
    "(in the line: root -= root[-1])",
)


def zero_terminal_snr(betas):
    root = torch.cumprod(1 - betas, 0).float().sqrt()
    a = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return 1 - torch.cat([a[:1], a[1:] / a[:-1]])


W(zero_terminal_snr, "float32", "dtype", "You return float32")


def zero_terminal_snr(betas):
    root = np.sqrt(np.cumprod(1 - betas.numpy()))
    root = root[0] * (root - root[-1]) / (root[0] - root[-1])
    alphas = root**2
    alphas[1:] = alphas[1:] / alphas[:-1].copy()
    return torch.from_numpy(1 - alphas)


C(zero_terminal_snr, "numpy")


def zero_terminal_snr(betas):
    root = [1.0]
    for beta in betas.tolist():
        root.append(root[-1] * math.sqrt(1 - beta))
    first, last = root[1], root[-1]
    new = [1.0] + [first * (r - last) / (first - last) for r in root[1:]]
    return torch.tensor([1 - (new[i + 1] / new[i]) ** 2 for i in range(len(betas))], dtype=torch.float64)


C(zero_terminal_snr, "a loop")


def zero_terminal_snr(betas):
    s = torch.exp(0.5 * torch.log1p(-betas).cumsum(0))
    new = s[0] * (s - s[-1]) / (s[0] - s[-1])
    ratio = new[1:].square() / new[:-1].square()
    return torch.cat([betas[:1], 1 - ratio])


C(zero_terminal_snr, "the first beta is taken over")


# ---------------------------------------------------------------- 5.11


def rescaled_eps(eps_cond, eps_guided, phi):
    new = eps_guided * (eps_cond.std() / eps_guided.std())
    return phi * new + (1 - phi) * eps_guided


W(rescaled_eps, "one std for the batch", "layout", "You took the standard deviation over the whole batch.")


def rescaled_eps(eps_cond, eps_guided, phi):
    new = eps_guided * (eps_cond.std((-2, -1), keepdim=True) / eps_guided.std((-2, -1), keepdim=True))
    return phi * new + (1 - phi) * eps_guided


W(rescaled_eps, "std of each channel", "layout", "You took a standard deviation over the last two axes")


def rescaled_eps(eps_cond, eps_guided, phi):
    axes = tuple(range(1, eps_cond.ndim))
    new = eps_guided * (eps_guided.std(axes, keepdim=True) / eps_cond.std(axes, keepdim=True))
    return phi * new + (1 - phi) * eps_guided


W(rescaled_eps, "upside down", "order", "Your ratio is upside down")


def rescaled_eps(eps_cond, eps_guided, phi):
    axes = tuple(range(1, eps_cond.ndim))
    new = eps_guided * (eps_cond.std(axes, keepdim=True) / eps_guided.std(axes, keepdim=True))
    return (1 - phi) * new + phi * eps_guided


W(rescaled_eps, "phi exchanged", "order", "You exchanged phi and 1 - phi")


def rescaled_eps(eps_cond, eps_guided, phi):
    axes = tuple(range(1, eps_cond.ndim))
    return eps_guided * (eps_cond.std(axes, keepdim=True) / eps_guided.std(axes, keepdim=True))


W(rescaled_eps, "no phi", "ignored-argument", "phi has no effect")


def rescaled_eps(eps_cond, eps_guided, phi):
    axes = tuple(range(1, eps_cond.ndim))
    new = eps_guided * (eps_cond.var(axes, keepdim=True) / eps_guided.var(axes, keepdim=True))
    return phi * new + (1 - phi) * eps_guided


W(rescaled_eps, "variances", "square-root", "You took the ratio of variances.")


def rescaled_eps(eps_cond, eps_guided, phi):
    axes = tuple(range(1, eps_cond.ndim))
    mean = eps_guided.mean(axes, keepdim=True)
    new = (eps_guided - mean) * (eps_cond.std(axes, keepdim=True) / eps_guided.std(axes, keepdim=True)) + mean
    return phi * new + (1 - phi) * eps_guided


W(rescaled_eps, "around the mean", "formula", "You took off the mean of eps_guided and put it back unscaled.")


def rescaled_eps(eps_cond, eps_guided, phi):
    ratio = eps_cond.flatten(1).norm(dim=1) / eps_guided.flatten(1).norm(dim=1)
    new = eps_guided * column(ratio, eps_guided)
    return phi * new + (1 - phi) * eps_guided


W(rescaled_eps, "norms", "formula", "You took the ratio of norms")


def rescaled_eps(eps_cond, eps_guided, phi):
    ratio = eps_cond.flatten(1).std(1) / eps_guided.flatten(1).std(1)
    return phi * ratio * eps_guided + (1 - phi) * eps_guided


W(rescaled_eps, "(B,)", "broadcast", "Your standard deviations have shape (B,)")


def rescaled_eps(eps_cond, eps_guided, phi):
    axes = tuple(range(1, eps_cond.ndim))
    new = eps_cond * (eps_cond.std(axes, keepdim=True) / eps_guided.std(axes, keepdim=True))
    return phi * new + (1 - phi) * eps_guided


W(rescaled_eps, "the conditional one is rescaled", "order", "You rescaled eps_cond.")


def rescaled_eps(eps_cond, eps_guided, phi):
    axes = tuple(range(1, eps_cond.ndim))
    new = eps_guided * (eps_guided.std(axes, keepdim=True) / eps_cond.std(axes, keepdim=True))
    return (1 - phi) * new + phi * eps_guided


W(rescaled_eps, "upside down, phi exchanged", "two", "Your ratio is upside down", "You exchanged phi and 1 - phi")


def rescaled_eps(eps_cond, eps_guided, phi):
    stds = [eps.flatten(1).std(1).view(-1, *[1] * (eps.ndim - 1)) for eps in (eps_cond, eps_guided)]
    return phi * eps_guided * stds[0] / stds[1] + (1 - phi) * eps_cond


W(rescaled_eps, "mixed with the conditional one", "order", "phi mixes with eps_guided, not with eps_cond")


def rescaled_eps(eps_cond, eps_guided, phi):
    axes = tuple(range(1, eps_cond.ndim))
    ratio = torch.std(eps_cond, axes, correction=0, keepdim=True) / torch.std(
        eps_guided, axes, correction=0, keepdim=True
    )
    return torch.lerp(eps_guided, eps_guided * ratio, phi)


C(rescaled_eps, "the biased standard deviation, lerp")


def rescaled_eps(eps_cond, eps_guided, phi):
    var = [x.double().flatten(1).var(1) for x in (eps_cond, eps_guided)]
    factor = 1 + phi * ((var[0] / var[1]).sqrt() - 1)
    return eps_guided * column(factor, eps_guided)


C(rescaled_eps, "one factor")


def rescaled_eps(eps_cond, eps_guided, phi):
    out = []
    for cond, guided in zip(eps_cond.numpy(), eps_guided.numpy()):
        out.append(torch.from_numpy(phi * guided * np.std(cond) / np.std(guided) + (1 - phi) * guided))
    return torch.stack(out)


C(rescaled_eps, "numpy, an image at a time")
