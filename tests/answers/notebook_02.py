# ruff: noqa: B905
"""Answers to the exercises of notebook 02, written from their statements alone."""

import math

import numpy as np
import torch
from einops import einsum, rearrange
from torch.nn import functional as F

from answers import Answers

answers = Answers()
W, C = answers.wrong, answers.correct


# the student's own, right extract of notebook 1, which later answers call
def extract(v, t, x_shape):
    return v[t].view(-1, *([1] * (len(x_shape) - 1)))


# ---------------------------------------------------------------- 2.1


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return 0.5 * (var_2 / var_1 - 1 - torch.log(var_2 / var_1) + (mean_2 - mean_1) ** 2 / var_1)


W(
    gaussian_kl,
    "KL(2 || 1): the two Gaussians are swapped",
    "swap",
    "Your arguments are reversed: that is KL(second || first). In",
)


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return var_1 / var_2 - 1 - torch.log(var_1 / var_2) + (mean_1 - mean_2) ** 2 / var_2


W(gaussian_kl, "the factor 1/2 is missing", "factor", "You forgot the factor 1/2. Without it the bound comes out twice")


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return 0.5 * (var_1 / var_2 - 1 + torch.log(var_1 / var_2) + (mean_1 - mean_2) ** 2 / var_2)


W(
    gaussian_kl,
    "the logarithm has the wrong sign",
    "sign",
    "The logarithm has the wrong sign: it is log(var_2 / var_1).",
)


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return torch.log(var_2 / var_1) + (var_1**2 + (mean_1 - mean_2) ** 2) / (2 * var_2**2) - 0.5


W(
    gaussian_kl,
    "takes the variances for standard deviations and squares them",
    "square-root",
    "You squared the variances, as if they were standard deviations.",
)


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return 0.5 * (-1.0 + var_2 - var_1 + torch.exp(var_1 - var_2) + (mean_1 - mean_2) ** 2 * torch.exp(-var_2))


W(
    gaussian_kl,
    "the log-variance formula of the code, fed with variances",
    "published-variant",
    "You put variances into the formula for log-variances, which",
)


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return 0.5 * (var_1 / var_2 - 1 - torch.log(var_1 / var_2) + (mean_1 - mean_2).abs() / var_2)


W(
    gaussian_kl,
    "the distance of the means is not squared",
    "square-root",
    "You took the absolute difference of the means. It is",
)


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    kl = 0.5 * (var_1 / var_2 - 1 - torch.log(var_1 / var_2) + (mean_1 - mean_2) ** 2 / var_2)
    return kl.sum()


W(gaussian_kl, "summed over all elements", "transform", "You return the sum of everything, a single number. Each")


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return 0.5 * (var_1 / var_2 - torch.log(var_1 / var_2) + (mean_1 - mean_2) ** 2)


W(
    gaussian_kl,
    "the - 1 is missing, and the distance is not divided by var_2",
    "two",
    "Your result is a sum of the right kind, but the term (mean_1 -",
)


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    p, q = (torch.distributions.Normal(m, v.sqrt()) for m, v in ((mean_1, var_1), (mean_2, var_2)))
    return torch.distributions.kl_divergence(p, q)


C(gaussian_kl, "torch.distributions with standard deviations")


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    log_1, log_2 = var_1.log(), var_2.log()
    return 0.5 * (torch.expm1(log_1 - log_2) - (log_1 - log_2) + (mean_1 - mean_2).pow(2) * torch.exp(-log_2))


C(gaussian_kl, "log variances and expm1")


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    cross_entropy = 0.5 * (torch.log(2 * math.pi * var_2) + (var_1 + (mean_1 - mean_2) ** 2) / var_2)
    entropy = 0.5 * torch.log(2 * math.pi * math.e * var_1)
    return cross_entropy - entropy


C(gaussian_kl, "cross entropy less entropy")

# ---------------------------------------------------------------- 2.2


def mean_from_eps(x_t, t, eps, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    b, a, ab = (extract(v, t, x_t.shape) for v in (betas, alphas, ab))
    return (x_t - b.sqrt() / (1 - ab).sqrt() * eps) / a.sqrt()


W(
    mean_from_eps,
    "beta stands under a root",
    "square-root",
    "You wrote sqrt(beta) for beta. A step holds the share beta / (1",
)


def mean_from_eps(x_t, t, eps, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    b, a, ab = (extract(v, t, x_t.shape) for v in (betas, alphas, ab))
    return (x_t - b / (1 - ab) * eps) / a.sqrt()


W(
    mean_from_eps,
    "no root over 1 - alphas_bar",
    "square-root",
    "You divided by 1 - alpha_bar, a variance. eps counts in",
)


def mean_from_eps(x_t, t, eps, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    b, a, ab = (extract(v, t, x_t.shape) for v in (betas, alphas, ab))
    return x_t / a.sqrt() - b / (1 - ab).sqrt() * eps


W(
    mean_from_eps,
    "brackets: the noise part is not divided by sqrt(alpha)",
    "brackets",
    "You divided x_t by sqrt(alpha), but not eps. Brackets: the",
)


def mean_from_eps(x_t, t, eps, betas):
    ab = torch.cumprod(1 - betas, 0)
    b, ab = extract(betas, t, x_t.shape), extract(ab, t, x_t.shape)
    return (x_t - b / (1 - ab).sqrt() * eps) / ab.sqrt()


W(
    mean_from_eps,
    "divided by sqrt(alphas_bar) and not by sqrt(alpha)",
    "table",
    "You divided by sqrt(alpha_bar), which undoes the fading of all",
)


def mean_from_eps(x_t, t, eps, betas):
    b = extract(betas, t, x_t.shape)
    return (x_t - b / b.sqrt() * eps) / (1 - b).sqrt()


W(
    mean_from_eps,
    "1 - alpha below the noise and not 1 - alphas_bar: the product over the steps is missing",
    "table",
    "You undid one forward step as if eps were that step's own noise",
)


def mean_from_eps(x_t, t, eps, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    b, a, ab = (extract(v, t, x_t.shape) for v in (betas, alphas, ab))
    mean = (x_t - b / (1 - ab).sqrt() * eps) / a.sqrt()
    return mean + b.sqrt() * torch.randn_like(x_t)


W(
    mean_from_eps,
    "sampling noise is added: a sample of x_{t-1}, not its mean",
    "random",
    "Two calls with the same input gave two results. Randomness does",
)


def mean_from_eps(x_t, t, eps, betas):
    beta = betas[t]
    alpha_bar = torch.cumprod(1 - beta, 0)
    shape = (-1, *[1] * (x_t.ndim - 1))
    return (x_t - (beta / (1 - alpha_bar).sqrt()).view(shape) * eps) / (1 - beta).sqrt().view(shape)


W(
    mean_from_eps,
    "the product runs over the images' looked-up alphas: look-up before cumprod",
    "order",
    "You looked betas up at t before you took the running product,",
)


def mean_from_eps(x_t, t, eps, betas):
    alphas = 1 - betas
    ab = torch.cumprod(alphas, 0)
    b, a, ab = (extract(v, t, x_t.shape) for v in (betas, alphas, ab))
    return (x_t + b / (1 - ab).sqrt() * eps) / a


W(
    mean_from_eps,
    "plus in front of the noise, and alpha has no root",
    "two",
    "You divided by alpha.",
    "You added the noise once more.",
)


def mean_from_eps(x_t, t, eps, betas):
    bar = torch.cumprod(1 - betas, 0)
    prev = torch.cat([bar.new_ones(1), bar[:-1]])
    b, a, p = (extract(v, t, x_t.shape) for v in (betas, bar, prev))
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    return p.sqrt() * b / (1 - a) * x_0 + (1 - b).sqrt() * (1 - p) / (1 - a) * x_t


C(mean_from_eps, "the detour through x_0 and the posterior mean")


def mean_from_eps(x_t, t, eps, betas):
    rows = []
    for x, e, i in zip(x_t, eps, t):
        a_bar = (1 - betas[: i + 1]).prod()
        rows.append((1 - betas[i]) ** -0.5 * (x - betas[i] * (1 - a_bar) ** -0.5 * e))
    return torch.stack(rows)


C(mean_from_eps, "loop over the batch, powers of -0.5")


def mean_from_eps(x_t, t, eps, betas):
    log_alpha = torch.log1p(-betas)
    log_bar = log_alpha.cumsum(0)
    front = torch.exp(-log_alpha / 2)
    inner = betas * torch.exp(-0.5 * torch.log(-torch.expm1(log_bar)))
    out = einsum(front[t], x_t, "b, b ... -> b ...").clone()
    out -= einsum((front * inner)[t], eps, "b, b ... -> b ...")
    return out


C(mean_from_eps, "log space tables, einops.einsum, in-place on an own temporary")

# ---------------------------------------------------------------- 2.3


def vlb_weight(betas, var):
    alphas = 1 - betas
    alphas_bar = torch.cumprod(alphas, 0)
    return betas / (2 * var * alphas * (1 - alphas_bar))


W(vlb_weight, "beta is not squared", "square-root", "You did not square beta. The bound holds the squared distance")


def vlb_weight(betas, var):
    alphas = 1 - betas
    alphas_bar = torch.cumprod(alphas, 0)
    return betas**2 / (var * alphas * (1 - alphas_bar))


W(
    vlb_weight,
    "the factor 2 is missing below",
    "factor",
    "You forgot the 2. The KL of two Gaussians divides the squared",
)


def vlb_weight(betas, var):
    alphas = 1 - betas
    alphas_bar = torch.cumprod(alphas, 0)
    return betas**2 / 2 * var * alphas * (1 - alphas_bar)


W(
    vlb_weight,
    "brackets: only the 2 is below the line, all else is multiplied",
    "brackets",
    "Python works from left to right: in beta**2 / 2 * var * ...",
)


def vlb_weight(betas, var):
    alphas = 1 - betas
    alphas_bar = torch.cumprod(alphas, 0)
    return betas**2 / (2 * var**2 * alphas * (1 - alphas_bar))


W(
    vlb_weight,
    "var is squared, as if it were a standard deviation",
    "square-root",
    "You squared var. The paper's sigma^2 is the variance, and var",
)


def vlb_weight(betas, var):
    alphas = 1 - betas
    alphas_bar = torch.cumprod(alphas, 0)
    return betas**2 / (2 * betas * alphas * (1 - alphas_bar))


W(
    vlb_weight,
    "var is ignored: beta is used as the variance",
    "ignored-argument",
    "You put beta where var belongs, and one beta cancelled. The",
)


def vlb_weight(betas, var):
    alphas = 1 - betas
    alphas_bar = torch.cumprod(alphas, 0)
    return betas**2 / (2 * var * (1 - alphas_bar))


W(vlb_weight, "alpha is missing below", "factor", "alpha is missing below the line. The mean divides by its root,")


def vlb_weight(betas, var):
    alphas = 1 - betas
    return betas**2 / (2 * var * alphas * (1 - alphas))


W(
    vlb_weight,
    "1 - alpha where 1 - alphas_bar belongs",
    "table",
    "You have 1 - alpha where 1 - alpha_bar belongs, all the noise",
)


def vlb_weight(betas, var):
    alphas = 1 - betas
    alphas_bar = torch.cumprod(alphas, 0)
    return betas**2 / (2 * var * torch.sqrt(alphas) * alphas_bar)


W(
    vlb_weight,
    "a root over alpha, and alphas_bar where 1 - alphas_bar belongs",
    "two",
    "You kept the root over alpha.",
    "You have alpha_bar where 1 - alpha_bar belongs, the",
)


def vlb_weight(betas, var):
    bar = np.cumprod(1 - betas.numpy())
    return torch.from_numpy(betas.numpy() ** 2 / (2 * var.numpy() * (1 - betas.numpy()) * (1 - bar)))


C(vlb_weight, "numpy round trip")


def vlb_weight(betas, var):
    alpha, bar = 1 - betas, (1 - betas).cumprod(0)
    noise_factor = betas / torch.sqrt(alpha * (1 - bar))
    return noise_factor.square().div(var).mul(0.5)


C(vlb_weight, "the factor of the noise in (2.10), squared")


def vlb_weight(betas, var):
    log_bar = torch.log1p(-betas).cumsum(0)
    log_w = 2 * betas.log() - math.log(2) - var.log() - torch.log1p(-betas) - torch.log(-torch.expm1(log_bar))
    return log_w.exp()


C(vlb_weight, "in log space")

# ---------------------------------------------------------------- 2.4


def simple_loss(model, x_0, t, noise, alphas_bar):
    a = extract(alphas_bar, t, x_0.shape)
    x_t = (a.sqrt() * x_0 + (1 - a).sqrt() * noise).to(x_0.dtype)
    with torch.no_grad():
        pred = model(x_t, t)
    return (pred - noise) ** 2


W(
    simple_loss,
    "the model runs under no_grad: no gradient reaches its weights",
    "gradient",
    "No gradient reaches the network's weights: you detached the",
)


def simple_loss(model, x_0, t, noise, alphas_bar):
    a = extract(alphas_bar, t, x_0.shape).to(x_0.dtype)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    return F.mse_loss(model(x_t, t), noise)


W(simple_loss, "averaged over everything", "transform", "You return the mean of everything, a single number. The error")


def simple_loss(model, x_0, t, noise, alphas_bar):
    a = extract(alphas_bar, t, x_0.shape).to(x_0.dtype)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    return (model(x_t, t) - x_0) ** 2


W(
    simple_loss,
    "the target is x_0 and not the noise",
    "swap",
    "Your target is x_0. This network predicts the noise: a sampler",
)


def simple_loss(model, x_0, t, noise, alphas_bar):
    return F.mse_loss(model(x_0, t), noise, reduction="none")


W(
    simple_loss,
    "the model gets the clean x_0 and not x_t",
    "ignored-argument",
    "Your network sees x_0, in which there is no noise to find. It",
)


def simple_loss(model, x_0, t, noise, alphas_bar):
    a = extract(alphas_bar, t, x_0.shape).to(x_0.dtype)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    return (model(x_t, t) - noise).abs()


W(
    simple_loss,
    "the absolute error, not squared",
    "square-root",
    "You return the absolute error. Its best prediction is a median,",
)


def simple_loss(model, x_0, t, noise, alphas_bar):
    a = extract(alphas_bar, t, x_0.shape).to(x_0.dtype)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    return (model(x_t, t + 1) - noise) ** 2


W(simple_loss, "the model is told t + 1", "index", "You told the network t + 1. In code t counts from 0, in")


def simple_loss(model, x_0, t, noise, alphas_bar):
    noise = torch.randn_like(x_0)
    a = extract(alphas_bar, t, x_0.shape).to(x_0.dtype)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    return (model(x_t, t) - noise) ** 2


W(
    simple_loss,
    "draws its own noise and ignores the argument",
    "random",
    "Two calls with the same input gave two results. The randomness",
)


def simple_loss(model, x_0, t, noise, alphas_bar):
    a = extract(alphas_bar, t, x_0.shape).to(x_0.dtype)
    x_t = a * x_0 + (1 - a) * noise
    return (model(x_t, t).detach() - noise) ** 2


W(
    simple_loss,
    "no roots in x_t, and the prediction is detached",
    "two",
    "No gradient reaches the network's weights: you",
    "Both square roots are missing in x_t.",
)


def simple_loss(model, x_0, t, noise, alphas_bar):
    a_bar = rearrange(alphas_bar[t], "b -> b " + "1 " * (x_0.ndim - 1))
    noisy = torch.addcmul(noise * (1 - a_bar).sqrt(), a_bar.sqrt(), x_0).type_as(x_0)
    return F.mse_loss(model(noisy, t), noise, reduction="none")


C(simple_loss, "addcmul, mse_loss with reduction none")


def simple_loss(model, x_0, t, noise, alphas_bar):
    def q_sample(x, e, a):
        return (a**0.5 * x + (1 - a) ** 0.5 * e).to(x.dtype)

    x_t = torch.stack([q_sample(x, e, a) for x, e, a in zip(x_0, noise, alphas_bar[t])])
    error = noise - model(x_t, t)
    return error * error


C(simple_loss, "nested q_sample for one image, one call of the model")


def simple_loss(model, x_0, t, noise, alphas_bar):
    e = model(
        torch.cat(
            [
                x_0[i : i + 1] * alphas_bar[k].sqrt().item() + noise[i : i + 1] * (1 - alphas_bar[k]).sqrt().item()
                for i, k in enumerate(t.tolist())
            ]
        ),
        t,
    )
    return e**2 - 2 * e * noise + noise**2


C(simple_loss, "concatenated slices, the square multiplied out")

# ---------------------------------------------------------------- 2.5


def discretized_log_prob(x, mean, std, levels):
    half = 1 / (levels - 1)
    cdf = lambda e: torch.special.ndtr((e - mean) / std)  # noqa: E731
    above = torch.where(x == 1, torch.ones_like(x), cdf(x + half))
    below = torch.where(x == -1, torch.zeros_like(x), cdf(x - half))
    return (above - below).clamp(min=1e-12).log()


W(
    discretized_log_prob,
    "the ends are found with x == 1 and x == -1 (fails for a float32 pixel that is not exact)",
    "edge",
    "You look for the ends with x == -1 and x == 1, or with <= and",
)


def discretized_log_prob(x, mean, std, levels):
    half = 1 / levels
    above = torch.special.ndtr((x + half - mean) / std)
    below = torch.special.ndtr((x - half - mean) / std)
    above = torch.where(x > 1 - half, torch.ones_like(above), above)
    below = torch.where(x < -1 + half, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-30).log()


W(
    discretized_log_prob,
    "half a bin is 1 / levels and not 1 / (levels - 1)",
    "count",
    "Half of your bin is 1 / levels. There are levels - 1 gaps, each",
)


def discretized_log_prob(x, mean, std, levels):
    half = 1 / (levels - 1)
    above = torch.special.ndtr((x + half - mean) / std)
    below = torch.special.ndtr((x - half - mean) / std)
    return (above - below).clamp(min=1e-30).log()


W(
    discretized_log_prob,
    "the outer bins are not open",
    "edge",
    "Both tails are closed. What the Gaussian puts below -1 and",
)


def discretized_log_prob(x, mean, std, levels):
    half = 1 / (levels - 1)
    above = torch.special.ndtr((x + half - mean) / std**2)
    below = torch.special.ndtr((x - half - mean) / std**2)
    above = torch.where(x > 1 - half, torch.ones_like(above), above)
    below = torch.where(x < -1 + half, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-30).log()


W(
    discretized_log_prob,
    "divides by the variance and not by the standard deviation",
    "square-root",
    "You divided by std^2, a variance. A distance in units of the",
)


def discretized_log_prob(x, mean, std, levels):
    half = 1 / (levels - 1)
    above = torch.special.ndtr((x + half - mean) / std)
    below = torch.special.ndtr((x - half - mean) / std)
    above = torch.where(x > 1 - half, torch.ones_like(above), above)
    below = torch.where(x < -1 + half, torch.zeros_like(below), below)
    return above - below


W(
    discretized_log_prob,
    "the probability itself, no logarithm",
    "transform",
    "You return the probability. Its logarithm is asked for: the",
)


def discretized_log_prob(x, mean, std, levels):
    half = 1.0 / 255.0
    above = torch.special.ndtr((x + half - mean) / std)
    below = torch.special.ndtr((x - half - mean) / std)
    above = torch.where(x > 1 - half, torch.ones_like(above), above)
    below = torch.where(x < -1 + half, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-30).log()


W(
    discretized_log_prob,
    "levels is ignored: 255 is hard-coded",
    "hard-coded",
    "You wrote 255 into the formula. Half a bin is 1 / (levels - 1):",
)


def discretized_log_prob(x, mean, std, levels):
    return torch.distributions.Normal(mean, std).log_prob(x)


W(
    discretized_log_prob,
    "the log density at the level, not the bin's probability",
    "other",
    "You return the logarithm of the density. A bin's probability is",
)


def discretized_log_prob(x, mean, std, levels):
    half = 2 / (levels - 1)
    above = torch.special.ndtr((x + half - mean) / std)
    below = torch.special.ndtr((x - half - mean) / std)
    above = torch.where(x > 1 - half, torch.ones_like(above), above)
    below = torch.where(x < -1 + half, torch.zeros_like(below), below)
    return (above - below).clamp(min=1e-30).log2()


W(
    discretized_log_prob,
    "the bin is twice as wide, and the result is in bits",
    "two",
    "Your bin goes a whole gap to either side.",
    "You took log2: those are bits.",
)


def discretized_log_prob(x, mean, std, levels):
    half = 1 / (levels - 1)
    inf = torch.full_like(x, float("inf"))
    upper = torch.where(x > 1 - half, inf, x + half)
    lower = torch.where(x < -1 + half, -inf, x - half)
    normal = torch.distributions.Normal(mean.double(), torch.as_tensor(std).double())
    p = normal.cdf(upper.double()) - normal.cdf(lower.double())
    return p.clamp(min=1e-300).log().to(x.dtype)


C(discretized_log_prob, "infinite edges, torch.distributions, float64 inside")


def discretized_log_prob(x, mean, std, levels):
    k = torch.round((x + 1) / 2 * (levels - 1))
    half = 1 / (levels - 1)
    root = math.sqrt(2)
    upper = torch.erf((x + half - mean) / std / root)
    lower = torch.erf((x - half - mean) / std / root)
    upper = upper.masked_fill(k == levels - 1, 1.0)
    lower = lower.masked_fill(k == 0, -1.0)
    return torch.log(((upper - lower) / 2).clamp(min=1e-38))


C(discretized_log_prob, "erf, the ends found by the rounded level number")


def discretized_log_prob(x, mean, std, levels):
    half = 1 / (levels - 1)
    up, down = (x + half - mean) / std, (x - half - mean) / std
    sign = torch.where(x > mean, -1.0, 1.0).to(x.dtype)  # work in the tail where the differences are exact
    a = torch.special.ndtr(torch.minimum(sign * up, sign * down))
    b = torch.special.ndtr(torch.maximum(sign * up, sign * down))
    inner = (b - a).clamp(min=1e-37).log()
    first, last = torch.special.log_ndtr(up), torch.special.log_ndtr(-down)
    return torch.where(x < -1 + half, first, torch.where(x > 1 - half, last, inner))


C(discretized_log_prob, "log_ndtr at the ends, symmetric tails inside")

# ---------------------------------------------------------------- 2.6


def min_snr_weights(snr, gamma):
    w = snr.clamp(max=gamma)
    eps = (gamma / snr).clamp(max=1)
    return eps, w, w / snr.clamp(min=1e-8) + 1


W(
    min_snr_weights,
    "no brackets around snr + 1, and a clamp against 0 / 0",
    "brackets",
    "Python divides before it adds",
    "Put brackets around snr + 1.",
)


def min_snr_weights(snr, gamma):
    w = torch.minimum(snr, torch.tensor(gamma))
    eps = torch.where(snr > 0, w / snr, torch.ones_like(snr))
    return eps, w, torch.nan_to_num(w / snr + 1)


W(
    min_snr_weights,
    "no brackets around snr + 1, and NaN made 0",
    "brackets",
    "Python divides before it adds",
    "Put brackets around snr + 1.",
)


def min_snr_weights(snr, gamma):
    w = torch.clamp(gamma / snr, max=1)
    return w, torch.clamp(snr, max=gamma), w / snr + 1


W(
    min_snr_weights,
    "w / (snr + 1) without brackets, and w is the weight of eps",
    "brackets",
    "Your weight of v is that of eps, divided by snr, plus 1",
)


def min_snr_weights(snr, gamma):
    w = torch.maximum(snr, torch.full_like(snr, gamma))
    eps = (gamma / snr.clamp(min=1e-12)).clamp(min=1)
    return eps, w, w / (snr + 1)


W(
    min_snr_weights,
    "the larger and not the smaller of snr and gamma",
    "swap",
    "Your eps is the right one times max(snr, gamma) / min(snr,",
)


def min_snr_weights(snr, gamma):
    x_0 = snr.clamp(max=gamma)
    eps = (gamma / snr).clamp(max=1)
    v = x_0 / (snr + 1)
    return x_0, eps, v


W(min_snr_weights, "the order is (x_0, eps, v)", "order", "The weights of eps and x_0 are swapped. x_0's is cut off at")


def min_snr_weights(snr, gamma):
    x_0 = torch.clamp(snr, max=gamma)
    return x_0 / snr, x_0, x_0 / (snr + 1)


W(
    min_snr_weights,
    "0 / 0 for the noise where snr = 0",
    "edge",
    "At snr = 0 you divide by 0 in the weight of eps: it is 0 / 0",
)


def min_snr_weights(snr, gamma):
    x_0 = torch.clamp(snr, max=gamma)
    return x_0 / (snr + 1e-8), x_0, x_0 / (snr + 1)


W(
    min_snr_weights,
    "1e-8 added to the denominator: the noise's weight at snr = 0 is 0 and not 1",
    "edge",
    "At snr = 0 your weight of eps is 0, and min(1, gamma / snr) is 1",
)


def min_snr_weights(snr, gamma):
    x_0 = torch.clamp(snr, max=gamma)
    eps = (gamma / snr).clamp(max=1)
    return eps, x_0, eps + 1


W(
    min_snr_weights,
    "brackets: min(snr, gamma) / snr + 1 for v",
    "brackets",
    "Python divides before it adds: w / snr + 1 is the weight of eps",
)


def min_snr_weights(snr, gamma):
    x_0 = torch.clamp(snr, max=5.0)
    return (5.0 / snr).clamp(max=1), x_0, x_0 / (snr + 1)


W(
    min_snr_weights,
    "gamma is ignored: 5 is hard-coded",
    "hard-coded",
    "You wrote 5 into the formula. That is the paper's choice; here",
)


def min_snr_weights(snr, gamma):
    x_0 = snr * gamma / (snr + gamma)
    return gamma / (snr + gamma), x_0, x_0 / (snr + 1)


W(
    min_snr_weights,
    "the soft minimum snr gamma / (snr + gamma)",
    "published-variant",
    "You took the soft minimum, snr gamma / (snr + gamma). min(snr,",
)


def min_snr_weights(snr, gamma):
    eps = (gamma / snr).clamp(max=1)
    return eps, snr, eps


W(
    min_snr_weights,
    "x_0's weight is the uncapped snr, and v's weight is the noise's",
    "two",
    "Your eps is right. Your weight of x_0 is snr itself: gamma is",
)


def min_snr_weights(snr, gamma):
    big = snr > gamma
    eps = torch.where(big, gamma / torch.where(big, snr, torch.ones_like(snr)), torch.ones_like(snr))
    return eps, eps * snr, eps * snr / (snr + 1)


C(min_snr_weights, "the noise's weight first, double torch.where")


def min_snr_weights(snr, gamma):
    s = snr.detach().numpy()
    capped = np.minimum(s, gamma)
    with np.errstate(divide="ignore", invalid="ignore"):
        eps = np.where(s == 0, 1.0, capped / s)
    return tuple(torch.as_tensor(w).to(snr.dtype) for w in (eps, capped, capped / (1 + s)))


C(min_snr_weights, "numpy round trip")


def min_snr_weights(snr, gamma):
    a_bar = snr / (1 + snr)
    capped = torch.minimum(snr, torch.as_tensor(gamma, dtype=snr.dtype))
    return gamma / snr.clamp(min=gamma), capped, capped * (1 - a_bar)


C(min_snr_weights, "gamma / max(snr, gamma), and 1 - alphas_bar for 1 / (snr + 1)")


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    m1, v1, m2, v2 = (torch.as_tensor(z, dtype=torch.float64) for z in (mean_1, var_1, mean_2, var_2))
    ratio = v1 / v2
    return ((ratio - 1 - ratio.log() + (m1 - m2).square() / v2) / 2).to(mean_1.dtype)


C(gaussian_kl, "float64 inside and cast back")
