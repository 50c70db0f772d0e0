# ruff: noqa: B905
"""Answers to the exercises of notebook 01, written from their statements alone."""

import math

import numpy as np
import torch
from einops import rearrange, repeat

from answers import Answers

answers = Answers()
W, C = answers.wrong, answers.correct


# the student's own, right extract of exercise 1.3, which later answers call
def look_up(v, t, x_shape):
    return v[t].view(-1, *([1] * (len(x_shape) - 1)))


# ---------------------------------------------------------------- 1.1


def linear_betas(beta_1, beta_T, T):
    return torch.linspace(beta_1, beta_T, T).double()


W(
    linear_betas,
    "made in float32 and converted to float64 afterwards",
    "dtype",
    "Your numbers have only the precision of float32: they were",
)


def linear_betas(beta_1, beta_T, T):
    steps = torch.arange(T, dtype=torch.float64)
    return beta_1 + (beta_T - beta_1) * steps / T


W(
    linear_betas,
    "divides by T and not by T - 1, so beta_T is not reached",
    "count",
    "Your last beta stops one step short of beta_T. T points have T",
)


def linear_betas(beta_1, beta_T, T):
    return torch.linspace(beta_1**0.5, beta_T**0.5, T, dtype=torch.float64) ** 2


W(
    linear_betas,
    "the roots are evenly spaced (quadratic schedule)",
    "published-variant",
    "You put the square roots of beta on a line: that is the",
)


def linear_betas(beta_1, beta_T, T):
    scale = 1000 / T
    return torch.linspace(scale * beta_1, scale * beta_T, T, dtype=torch.float64)


W(
    linear_betas,
    "both ends multiplied by 1000 / T, as in Improved DDPM's code",
    "published-variant",
    "You multiplied both ends by 1000 / T, as published code does",
)


def linear_betas(beta_1, beta_T, T):
    return torch.linspace(beta_1, beta_T, T + 1, dtype=torch.float64)[1:]


W(
    linear_betas,
    "T + 1 points of which the first is dropped: beta_1 is missing",
    "count",
    "Your first beta lies one step past beta_1. Index 0 holds beta_1",
)


def linear_betas(beta_1, beta_T, T):
    return 1 - torch.linspace(beta_1, beta_T, T, dtype=torch.float64)


W(
    linear_betas,
    "returns the alphas, 1 - beta",
    "table",
    "You return 1 - beta: those are the alphas. beta is the variance",
)


def linear_betas(beta_1, beta_T, T):
    betas = torch.linspace(0.0001, 0.02, T)
    return betas.to(torch.float64)


W(
    linear_betas,
    "the ends are hard-coded, and made in float32 first",
    "two",
    "You wrote 0.0001 and 0.02 into the formula. The ends are the",
)


def linear_betas(beta_1, beta_T, T):
    return torch.tensor([beta_1 + i * (beta_T - beta_1) / (T - 1) for i in range(T)], dtype=torch.float64)


C(linear_betas, "list comprehension in Python floats")


def linear_betas(beta_1, beta_T, T):
    return torch.from_numpy(np.linspace(beta_1, beta_T, T))


C(linear_betas, "numpy's linspace")


def linear_betas(beta_1, beta_T, T):
    w = torch.arange(T, dtype=torch.float64) / (T - 1)
    return torch.lerp(torch.full_like(w, beta_1), torch.full_like(w, beta_T), w)


C(linear_betas, "lerp between two constant tensors")

# ---------------------------------------------------------------- 1.2


def extract(v, t, x_shape):
    return v[t]


W(
    extract,
    "no view: the result is (B,)",
    "broadcast",
    "You return shape (B,). Broadcasting lines that up with the last",
)


def extract(v, t, x_shape):
    out = torch.gather(v, 0, t).float()
    return out.view([t.shape[0]] + [1] * (len(x_shape) - 1))


W(extract, "casts to float32", "dtype", "You turned the result into float32. With float64 data the")


def extract(v, t, x_shape):
    return v[t].view(*[1] * (len(x_shape) - 1), -1)


W(
    extract,
    "the batch axis is last and not first",
    "layout",
    "Your ones stand before the batch axis: (1, ..., 1, B) scales",
)


def extract(v, t, x_shape):
    value = v[t[0]]
    return value.expand(x_shape[0]).reshape(-1, *[1] * (len(x_shape) - 1))


W(
    extract,
    "the first image's t is used for all images",
    "broadcast",
    "You used the first image's t for the whole batch. Each image",
)


def extract(v, t, x_shape):
    return v[t - 1].view(len(t), *[1] * (len(x_shape) - 1))


W(
    extract,
    "looks up at t - 1, as if t counted from 1",
    "index",
    "You read v at t - 1. In code t starts at 0, and index -1 wraps",
)


def extract(v, t, x_shape):
    return v[t][:, None, None, None]


W(
    extract,
    "always three axes of length 1, whatever x_shape is",
    "hard-coded",
    "You always return (B, 1, 1, 1): that is right for images only.",
)


def extract(v, t, x_shape):
    return v.gather(0, t).view(-1, *[1] * len(x_shape))


W(extract, "one axis of length 1 too many", "count", "You add one axis too many: the batch itself is the first axis")


def extract(v, t, x_shape):
    return v[t - 1].float().view(-1, *[1] * (len(x_shape) - 1))


W(
    extract,
    "looks up at t - 1, and casts to float32",
    "two",
    "You read v at t - 1. In code t starts at 0, and index -1 wraps",
)


def extract(v, t, x_shape):
    picked = torch.stack([v[int(i)] for i in t])
    for _ in x_shape[1:]:
        picked = picked.unsqueeze(-1)
    return picked


C(extract, "Python loop over t, unsqueeze in a loop")


def extract(v, t, x_shape):
    one_hot = torch.nn.functional.one_hot(t, len(v)).to(v.dtype)
    return (one_hot @ v).reshape(x_shape[0], *(1,) * (len(x_shape) - 1))


C(extract, "one-hot matrix product")


def extract(v, t, x_shape):
    return v.take(t)[(...,) + (None,) * (len(x_shape) - 1)]


C(extract, "take and indexing with None")

# ---------------------------------------------------------------- 1.3


def q_sample(x_0, t, noise, alphas_bar):
    a = look_up(alphas_bar, t, x_0.shape)
    return a * x_0 + (1 - a) * noise


W(q_sample, "no roots at all", "square-root", "Both square roots are missing. alpha_bar and 1 - alpha_bar are")


def q_sample(x_0, t, noise, alphas_bar):
    a = look_up(alphas_bar, t, x_0.shape)
    return torch.sqrt(a) * x_0 + (1 - torch.sqrt(a)) * noise


W(
    q_sample,
    "1 - sqrt(alphas_bar) where sqrt(1 - alphas_bar) belongs",
    "brackets",
    "You scaled the noise by 1 - sqrt(alpha_bar), so that the two",
)


def q_sample(x_0, t, noise, alphas_bar):
    sqrt_ab = look_up(alphas_bar.sqrt(), t, x_0.shape)
    sqrt_omab = look_up((1 - alphas_bar).sqrt(), t, x_0.shape)
    return sqrt_omab * x_0 + sqrt_ab * noise


W(q_sample, "the two coefficients are swapped", "swap", "The two coefficients are swapped: your x_t is noise at t = 0")


def q_sample(x_0, t, noise, alphas_bar):
    alphas_cumprod = torch.cumprod(alphas_bar, dim=0)
    a = look_up(alphas_cumprod, t, x_0.shape)
    return a.sqrt() * x_0 + (1 - a).sqrt() * noise


W(
    q_sample,
    "takes the cumulative product of what is already one",
    "table",
    "You took the running product of alphas_bar, which is one",
)


def q_sample(x_0, t, noise, alphas_bar):
    a = alphas_bar[t[0]]
    return a.sqrt() * x_0 + (1 - a).sqrt() * noise


W(
    q_sample,
    "every image is noised with the first image's t",
    "broadcast",
    "You used the first image's t for the whole batch. Every image",
)


def q_sample(x_0, t, noise, alphas_bar):
    a = look_up(alphas_bar, t, x_0.shape)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    return x_t.clamp(-1, 1)


W(q_sample, "clamps the result to [-1, 1]", "transform", "Your result is clipped to [-1, 1]. Nothing is clipped")


def q_sample(x_0, t, noise, alphas_bar):
    a = look_up(alphas_bar, t, x_0.shape)
    return a.sqrt() * x_0 + noise


W(q_sample, "the noise has no factor", "factor", "You added the noise without scaling it. x_t then has too much")


def q_sample(x_0, t, noise, alphas_bar):
    a = look_up(alphas_bar, t - 1, x_0.shape)
    return a.sqrt() * x_0 + (1 - a) * noise


W(
    q_sample,
    "t - 1 in the look-up, and no root over the noise's variance",
    "two",
    "You scaled the noise by 1 - alpha_bar: that is the",
    "You read alphas_bar at t - 1.",
)


def q_sample(x_0, t, noise, alphas_bar):
    out = []
    for image, step, e in zip(x_0, t.tolist(), noise):
        a = float(alphas_bar[step])
        out.append(math.sqrt(a) * image + math.sqrt(1 - a) * e)
    return torch.stack(out)


C(q_sample, "loop over the batch with math.sqrt")


def q_sample(x_0, t, noise, alphas_bar):
    shape = [-1] + [1] * (x_0.dim() - 1)
    angle = torch.acos(alphas_bar.double().sqrt())[t].view(shape)
    return (torch.cos(angle) * x_0.double() + torch.sin(angle) * noise.double()).to(x_0.dtype)


C(q_sample, "cosine and sine of one angle, in float64, cast back")


def q_sample(x_0, t, noise, alphas_bar):
    B = x_0.shape[0]
    a = alphas_bar[t]
    flat = torch.einsum("b,bd->bd", a.sqrt().to(x_0.dtype), x_0.reshape(B, -1))
    flat += torch.einsum("b,bd->bd", (1 - a).sqrt().to(x_0.dtype), noise.reshape(B, -1))
    return flat.view_as(x_0)


C(q_sample, "flattened, einsum, in-place on an own temporary")

# ---------------------------------------------------------------- 1.4


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    f = torch.cos((u + s) / (1 + s) * math.pi / 2)
    return torch.clamp(1 - f[1:] / f[:-1], max=max_beta)


W(
    cosine_betas,
    "the cosine is not squared",
    "square-root",
    "You left out the square. alpha_bar is the squared cosine; the",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return 1 - f[1:] / f[:-1]


W(cosine_betas, "not capped at max_beta", "ignored-argument", "You left out the cap. The last beta comes out as 1 and")


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta)


W(
    cosine_betas,
    "s is ignored: 0.008 is hard-coded",
    "hard-coded",
    "You wrote 0.008 into the formula. The offset is the argument",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    f = torch.cos((u + s / (1 + s)) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta)


W(
    cosine_betas,
    "brackets: u + s / (1 + s) where (u + s) / (1 + s) belongs",
    "brackets",
    "You divided only s by 1 + s. Brackets: the sum u + s is",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(1e-4, max_beta)


W(
    cosine_betas,
    "clipped below at 1e-4 too (visible where a beta is smaller: large T or s = 0)",
    "edge",
    "You also cut the betas off from below, at 1e-4. Long chains",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.linspace(0, 1, T, dtype=torch.float64)
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    f_prev = torch.cat([f[:1], f[:-1]])
    return (1 - f / f_prev).clamp(max=max_beta)


W(
    cosine_betas,
    "T places and not T + 1: the first beta is 0 and all others belong to a coarser grid",
    "count",
    "You have T points where T + 1 are needed: your first beta is 0,",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
    f = torch.cos((u + s) / (1 + s) * math.pi)
    alphas_bar = (f / f[0]) ** 2
    return (1 - alphas_bar[1:] / alphas_bar[:-1]).clamp(max=max_beta)


W(
    cosine_betas,
    "pi and not pi / 2 inside of the cosine",
    "factor",
    "Your angle runs to pi and not to pi / 2. The squared cosine is",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.arange(T + 1) / T
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta).double()


W(
    cosine_betas,
    "all in float32, and cast to float64 at the end",
    "dtype",
    "Something on your way is float32",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.linspace(0, 1, T + 1)
    alphas_bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return torch.clamp(1 - alphas_bar[1:] / alphas_bar[:-1], max=max_beta)


W(
    cosine_betas,
    "all in float32",
    "dtype",
    "Something on your way is float32",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = np.linspace(0, 1, T + 1).astype(np.float32)
    f = np.cos((u + s) / (1 + s) * np.pi / 2) ** 2
    return torch.tensor(np.minimum(1 - f[1:] / f[:-1], max_beta), dtype=torch.float64)


W(
    cosine_betas,
    "numpy in float32",
    "dtype",
    "Something on your way is float32",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.linspace(0, 1, T + 1)
    f = torch.cos((u + s) / (1 + s) * math.pi / 2)
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta).double()


W(
    cosine_betas,
    "the cosine is not squared, and all was computed in float32",
    "two",
    "You left out the square. alpha_bar is the squared cosine; the",
)


def cosine_betas(T, s=0.008, max_beta=0.999):
    def bar(i):
        return math.cos((i / T + s) / (1 + s) * math.pi / 2) ** 2

    return torch.tensor([min(1 - bar(i + 1) / bar(i), max_beta) for i in range(T)], dtype=torch.float64)


C(cosine_betas, "nested function and a Python list, as in Improved DDPM's betas_for_alpha_bar")


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = np.arange(T + 1) / T
    angle = (u + s) / (1 + s) * np.pi / 2
    f = (1 + np.cos(2 * angle)) / 2
    return torch.from_numpy(np.minimum(1 - f[1:] / f[:-1], max_beta))


C(cosine_betas, "numpy, half-angle identity for the squared cosine")


def cosine_betas(T, s=0.008, max_beta=0.999):
    u = torch.arange(T + 1, dtype=torch.float64).div_(T)
    f = torch.cos((u + s) * (0.5 * math.pi / (1 + s))).square_()
    alphas_bar = f / f[0]
    betas = (alphas_bar[:-1] - alphas_bar[1:]) / alphas_bar[:-1]
    return torch.where(betas > max_beta, torch.full_like(betas, max_beta), betas)


C(cosine_betas, "divided by f(0), difference over the former value, torch.where for the cap")

# ---------------------------------------------------------------- 1.5


def posterior(x_0, x_t, t, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    ab_prev = torch.cat([torch.ones(1, dtype=ab.dtype), ab[:-1]])
    coef1 = ab_prev * betas / (1 - ab)
    coef2 = alphas.sqrt() * (1 - ab_prev) / (1 - ab)
    var = betas * (1 - ab_prev) / (1 - ab)
    mean = look_up(coef1, t, x_0.shape) * x_0 + look_up(coef2, t, x_0.shape) * x_t
    return mean, look_up(var, t, x_0.shape)


W(
    posterior,
    "no root over alphas_bar_prev in the coefficient of x_0",
    "square-root",
    "The square root over alpha_bar_prev is missing. The jump to",
)


def posterior(x_0, x_t, t, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    ab_prev = torch.cat([torch.ones(1, dtype=ab.dtype), ab[:-1]])
    coef1 = ab_prev.sqrt() * betas / (1 - ab)
    coef2 = alphas.sqrt() * (1 - ab_prev) / (1 - ab)
    mean = look_up(coef2, t, x_0.shape) * x_0 + look_up(coef1, t, x_0.shape) * x_t
    return mean, look_up(betas * (1 - ab_prev) / (1 - ab), t, x_0.shape)


W(
    posterior,
    "the coefficients of x_0 and x_t are swapped",
    "swap",
    "The two coefficients of the mean are swapped: at t = 0 your",
)


def posterior(x_0, x_t, t, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    ab_prev = torch.cat([torch.ones(1, dtype=ab.dtype), ab[:-1]])
    coef1 = ab_prev.sqrt() * betas / (1 - ab)
    coef2 = alphas.sqrt() * (1 - ab_prev) / (1 - ab)
    mean = look_up(coef1, t, x_0.shape) * x_0 + look_up(coef2, t, x_0.shape) * x_t
    return mean, look_up(betas, t, x_0.shape)


W(
    posterior,
    "the variance is beta (the fixedlarge choice), not the posterior's",
    "table",
    "Your variance is beta, that of the forward step; with alpha_bar",
)


def posterior(x_0, x_t, t, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    ab_prev = torch.cat([ab[:1], ab[:-1]])
    coef1 = ab_prev.sqrt() * betas / (1 - ab)
    coef2 = alphas.sqrt() * (1 - ab_prev) / (1 - ab)
    var = betas * (1 - ab_prev) / (1 - ab)
    mean = look_up(coef1, t, x_0.shape) * x_0 + look_up(coef2, t, x_0.shape) * x_t
    return mean, look_up(var, t, x_0.shape)


W(
    posterior,
    "alphas_bar_prev begins with alphas_bar[0] and not with 1 (wrong at t = 0)",
    "edge",
    "At t = 0 your alpha_bar_prev is alphas_bar[0], the value after",
)


def posterior(x_0, x_t, t, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    ab_prev = torch.cat([torch.ones(1, dtype=ab.dtype), ab[:-1]])
    coef1 = ab_prev.sqrt() * betas / (1 - ab)
    coef2 = ab.sqrt() * (1 - ab_prev) / (1 - ab)
    var = betas * (1 - ab_prev) / (1 - ab)
    mean = look_up(coef1, t, x_0.shape) * x_0 + look_up(coef2, t, x_0.shape) * x_t
    return mean, look_up(var, t, x_0.shape)


W(
    posterior,
    "sqrt(alphas_bar) where sqrt(alpha) belongs, in the coefficient of x_t",
    "table",
    "The coefficient of x_t has sqrt(alpha_bar), where sqrt(alpha)",
)


def posterior(x_0, x_t, t, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    ab_prev = torch.nn.functional.pad(ab[:-1], (1, 0), value=1.0)
    var = (betas * (1 - ab_prev) / (1 - ab)).clamp(min=1e-20)
    coef1 = ab_prev.sqrt() * betas / (1 - ab)
    coef2 = alphas.sqrt() * (1 - ab_prev) / (1 - ab)
    mean = look_up(coef1, t, x_0.shape) * x_0 + look_up(coef2, t, x_0.shape) * x_t
    return mean, look_up(var, t, x_0.shape)


W(
    posterior,
    "the variance is clamped at 1e-20, so it is not exactly 0 at t = 0",
    "edge",
    "Your var must be exactly 0 where it is 0, and yours is 1e-20.",
)


def posterior(x_0, x_t, t, betas):
    a = 1 - betas
    ab = torch.cumprod(a, 0)
    ab_prev = torch.cat([torch.ones_like(ab[:1]), ab[:-1]])
    get = lambda table: look_up(table, t, x_0.shape)  # noqa: E731
    mean = get(ab_prev.sqrt() * betas / (1 - ab)) * x_0 + get(a.sqrt() * (1 - ab_prev) / (1 - ab)) * x_t
    std = get((betas * (1 - ab_prev) / (1 - ab)).sqrt())
    return mean, std


W(
    posterior,
    "returns the standard deviation and not the variance",
    "square-root",
    "You return the standard deviation. The variance is asked for,",
)


def posterior(x_0, x_t, t, betas):
    a = 1 - betas
    ab = torch.cumprod(a, 0)
    ab_prev = torch.cat([torch.ones_like(ab[:1]), ab[:-1]])
    coef1 = look_up(ab_prev.sqrt() * betas / (1 - ab), t, x_0.shape)
    coef2 = look_up(a * (1 - ab_prev) / (1 - ab), t, x_0.shape)
    var = look_up(betas * (1 - ab_prev) / (1 - ab), t, x_0.shape)
    return coef1 * x_0 + coef2 * x_t, torch.log(var.clamp(min=1e-20))


W(
    posterior,
    "no root over alpha in front of x_t, and the variance's logarithm is returned",
    "two",
    "The square root over alpha is missing. The step multiplied",
)


def posterior(x_0, x_t, t, betas):
    means, variances = [], []
    for i, step in enumerate(t.tolist()):
        now = torch.prod(1 - betas[: step + 1])
        before = torch.prod(1 - betas[:step])  # the empty product is 1
        beta = betas[step]
        means.append((before.sqrt() * beta * x_0[i] + (1 - beta).sqrt() * (1 - before) * x_t[i]) / (1 - now))
        variances.append((1 - before) / (1 - now) * beta)
    return torch.stack(means), torch.stack(variances).reshape(-1, *[1] * (x_0.ndim - 1))


C(posterior, "loop over the batch, products of slices")


def posterior(x_0, x_t, t, betas):
    """Precisions of two Gaussians add: the prior of x_{t-1} given x_0, and the likelihood of x_t."""
    ab = torch.cumprod(1 - betas, 0)
    prev = torch.where(t > 0, ab[(t - 1).clamp(min=0)], torch.ones_like(ab[t]))
    shape = (-1,) + (1,) * (x_0.ndim - 1)
    beta, prev = betas[t].view(shape), prev.view(shape)
    total = beta + (1 - beta) * (1 - prev)
    var = beta * (1 - prev) / total
    return (beta * prev.sqrt() * x_0 + (1 - prev) * (1 - beta).sqrt() * x_t) / total, var


C(posterior, "Bayes: precisions over a common denominator, torch.where for t = 0")


class Posterior:
    def __call__(self, x_0, x_t, t, betas):
        alphas = 1.0 - betas.double()
        bar = alphas.cumprod(0)
        prev = bar.roll(1)
        prev[0] = 1
        c1, c2, var = (
            rearrange(table[t], f"b -> b {'1 ' * (x_0.ndim - 1)}")
            for table in (
                prev.sqrt() * betas / (1 - bar),
                alphas.sqrt() * (1 - prev) / (1 - bar),
                betas * (1 - prev) / (1 - bar),
            )
        )
        return c1 * x_0 + c2 * x_t, var


C(Posterior(), "instance of a class with __call__, roll and assignment to an own copy", "posterior")

# ---------------------------------------------------------------- 1.6


def x_0_from_eps(x_t, t, eps, alphas_bar):
    a = look_up(alphas_bar, t, x_t.shape)
    return (x_t + (1 - a).sqrt() * eps) / a.sqrt()


W(
    x_0_from_eps,
    "the noise is added and not subtracted",
    "sign",
    "You added the noise once more. It is in x_t already: subtract",
)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    a = look_up(alphas_bar, t, x_t.shape)
    return x_t - (1 - a).sqrt() * eps / a.sqrt()


W(
    x_0_from_eps,
    "brackets: only the noise is divided by sqrt(alphas_bar)",
    "brackets",
    "You divided eps by sqrt(alpha_bar), but not x_t. Brackets: the",
)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    a = look_up(alphas_bar, t, x_t.shape)
    return (x_t - (1 - a).sqrt() * eps) / a


W(
    x_0_from_eps,
    "divided by alphas_bar without its root",
    "square-root",
    "You divided by alpha_bar. x_0 was multiplied by",
)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    a = look_up(alphas_bar, t, x_t.shape)
    return (1 / a).sqrt() * x_t - (1 / a - 1) * eps


W(
    x_0_from_eps,
    "the noise's factor 1 / alphas_bar - 1 has no root",
    "square-root",
    "The root over 1 / alpha_bar - 1 is missing: that is the factor",
)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    a = look_up(alphas_bar, t, x_t.shape)
    return ((x_t - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1.0, 1.0)


W(
    x_0_from_eps,
    "the result is clamped to [-1, 1]",
    "transform",
    "You clipped the estimate to [-1, 1]. That is a sampler's",
)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    a = look_up(alphas_bar, t, x_t.shape)
    return (x_t - (1 - a).sqrt() * eps) / (a.sqrt() + 1e-8)


W(
    x_0_from_eps,
    "1e-8 is added to the denominator (visible where alphas_bar is tiny, or in float64)",
    "edge",
    "You added a small number where you divide. Where alpha_bar is",
)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    alphas_bar_prev = torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])
    a = look_up(alphas_bar_prev, t, x_t.shape)
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()


W(
    x_0_from_eps,
    "alphas_bar of the step before, t - 1",
    "index",
    "You took alpha_bar_prev, the table one step late. x_t was mixed",
)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    a = look_up(alphas_bar, t, x_t.shape)
    return (x_t - (1 - a) * eps) * a.sqrt()


W(
    x_0_from_eps,
    "no root over 1 - alphas_bar, and multiplied by sqrt(alphas_bar) where one divides",
    "two",
    "You subtracted (1 - alpha_bar) * eps: that is the",
    "You multiplied by sqrt(alpha_bar).",
)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    shape = (-1, *(1 for _ in x_t.shape[1:]))
    recip = alphas_bar.rsqrt()[t].reshape(shape)
    recipm1 = (1 / alphas_bar - 1).sqrt()[t].reshape(shape)
    return recip * x_t - recipm1 * eps


C(x_0_from_eps, "two tables as in the post: rsqrt and sqrt(1 / a - 1)")


def x_0_from_eps(x_t, t, eps, alphas_bar):
    log_a = torch.log(look_up(alphas_bar, t, x_t.shape))
    return torch.exp(-0.5 * log_a) * (x_t - torch.sqrt(-torch.expm1(log_a)) * eps)


C(x_0_from_eps, "in log space, with expm1")


def _solve(x_t, eps, a):
    return (x_t - torch.sqrt(1 - a) * eps) / torch.sqrt(a)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    return torch.stack(list(map(_solve, x_t, eps, alphas_bar[t])))


C(x_0_from_eps, "map of a helper over the images")


def cosine_betas(T, s=0.008, max_beta=0.999):
    f = [math.cos((i / T + s) / (1 + s) * math.pi / 2) ** 2 for i in range(T + 1)]
    pairs = torch.tensor(f, dtype=torch.float64).unfold(0, 2, 1)
    return torch.minimum(1 - pairs[:, 1] / pairs[:, 0], torch.tensor(max_beta, dtype=torch.float64))


C(cosine_betas, "unfold into pairs, torch.minimum")


def extract(v, t, x_shape):
    return repeat(torch.index_select(v, 0, t), "b -> b " + " ".join(["1"] * (len(x_shape) - 1)))


C(extract, "einops.repeat with axes of length 1")
