# ruff: noqa: B905
"""Answers to the exercises of notebook 04 that are single steps, written from their statements alone."""

import functools
import math

import numpy as np
import torch
from einops import einsum, rearrange, reduce

from answers import Answers

answers = Answers()
W, C = answers.wrong, answers.correct


# ---------------------------------------------------------------- 4.3


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a, a_prev = alphas_bar[t], alphas_bar[t_prev]
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps + sigma * noise


W(
    ddim_step,
    "t_prev = -1 reads the last entry of alphas_bar",
    "edge",
    "At t_prev = -1 you read alphas_bar[-1], which wraps around",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t - 1] if t > 0 else torch.ones_like(a)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps + sigma * noise


W(
    ddim_step,
    "always steps to t - 1, whatever t_prev is",
    "ignored-argument",
    "You step to t - 1. The chain that skips steps goes from t to t_prev",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev).sqrt() * eps + sigma * noise


W(
    ddim_step,
    "sigma^2 is not taken off the direction: too much noise in all",
    "factor",
    "Your direction to x_t does not leave room for the noise",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma).sqrt() * eps + sigma * noise


W(
    ddim_step,
    "sigma instead of sigma^2 under the direction's root",
    "square-root",
    "Under the root of the direction you subtract sigma.",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a)).sqrt() * (1 - a / a_prev)
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps + sigma * noise


W(
    ddim_step,
    "the second root of Eq. 16 is missing",
    "square-root",
    "In sigma the root over 1 - alpha_bar_t / alpha_bar_prev is missing",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    alpha = alphas_bar[t] / alphas_bar[t - 1] if t > 0 else alphas_bar[0]
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - alpha)).sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps + sigma * noise


W(
    ddim_step,
    "beta of the single step t inside sigma, where the step skips",
    "table",
    "Your sigma has the beta of the single step t.",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    one = alphas_bar.new_ones(1)
    alphas = alphas_bar / torch.cat([one, alphas_bar[:-1]])
    a = alphas[t]
    a_prev = alphas[t_prev] if t_prev >= 0 else one[0]
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev).sqrt() * eps


W(
    ddim_step,
    "DDIM's alpha taken for DDPM's, and no noise for any eta",
    "two",
    "You took DDIM's alpha for the alpha of a single step.",
    "eta has no effect",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    var = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
    return a_prev.sqrt() * x_0 + (1 - a_prev - eta * var).sqrt() * eps + (eta * var).sqrt() * noise


W(ddim_step, "eta times the variance: eta stands under the root", "square-root", "eta stands under your root.")


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = ((x_t - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps + sigma * noise


W(ddim_step, "x_0 is clipped, eps is not derived again", "transform", "You clipped the estimated x_0 and kept eps")


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    var = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
    return a_prev.sqrt() * x_0 + (1 - a_prev - eta**2 * var).sqrt() * eps + eta**2 * var * noise


W(ddim_step, "the noise is scaled by sigma^2", "square-root", "You scaled the noise by sigma^2")


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps + sigma * torch.randn_like(x_t)


W(ddim_step, "draws its own noise", "random", "Two calls with the same input gave two results")


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = x_t - (1 - a).sqrt() * eps / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps + sigma * noise


W(
    ddim_step,
    "only eps is divided by the root of alpha_bar: a bracket is missing",
    "brackets",
    "In your x_0 only eps is divided by sqrt(alpha_bar_t)",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[max(t_prev, 0)]
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps + sigma * noise


W(ddim_step, "t_prev = -1 is taken for 0: the last alpha_bar is not 1", "edge", "At t_prev = -1 you take alphas_bar[0]")


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t]
    a_prev = alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(a)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * (1 - a / a_prev).sqrt()
    rest = (1 - a_prev - sigma**2).clamp(min=0)
    return a_prev.sqrt() * x_0 + rest.sqrt() * eps + sigma * noise


W(
    ddim_step,
    "sigma^2 is beta, and the negative number under the root is clamped",
    "two",
    "Your sigma^2 is beta, and a clamp hides",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a, a_prev = alphas_bar[t], alphas_bar[t_prev] if t_prev >= 0 else alphas_bar.new_tensor(1.0)
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    return (a_prev / a).sqrt() * x_t + (1 - a_prev - sigma**2).sqrt() * eps + sigma * noise


W(
    ddim_step,
    "x_t, scaled, stands for the estimated x_0",
    "factor",
    "Your x_0 is x_t / sqrt(alpha_bar_t): the noise is still in it.",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a, a_prev = alphas_bar[t], alphas_bar[t_prev] if t_prev >= 0 else alphas_bar.new_tensor(1.0)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    var = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
    return a_prev.sqrt() * x_0 + (1 - a_prev - var).sqrt() * eps + eta * var.sqrt() * noise


W(
    ddim_step,
    "eta before the noise only, and not in the direction",
    "ignored-argument",
    "Your direction to x_t leaves room for the noise of eta = 1",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a, a_prev = alphas_bar[t], alphas_bar[t_prev] if t_prev >= 0 else alphas_bar.new_tensor(1.0)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
    x = a_prev.sqrt() * x_0 + (1 - a_prev - sigma**2).sqrt() * eps
    return x + sigma * noise if t_prev > 0 else x


W(
    ddim_step,
    "no noise where t_prev is 0",
    "edge",
    "Your result is right everywhere but at t_prev = 0",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a, a_prev = alphas_bar[t], alphas_bar[t_prev] if t_prev >= 0 else alphas_bar.new_tensor(1.0)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    sigma = eta * torch.sqrt((1 - a_prev) / (1 - a))
    return a_prev.sqrt() * x_0 + torch.sqrt(1 - a_prev - sigma**2) * eps + sigma * noise


W(
    ddim_step,
    "the second factor of sigma is missing",
    "factor",
    "In sigma the factor sqrt(1 - alpha_bar_t / alpha_bar_prev) is missing",
)


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    now = float(alphas_bar[t])
    then = 1.0 if t_prev < 0 else float(alphas_bar[t_prev])
    sigma = eta * math.sqrt((1 - then) / (1 - now)) * math.sqrt(1 - now / then)
    clean = (x_t - math.sqrt(1 - now) * eps) / math.sqrt(now)
    return math.sqrt(then) * clean + math.sqrt(1 - then - sigma * sigma) * eps + sigma * noise


C(ddim_step, "floats and math.sqrt")


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    """As in improved-diffusion, from x_0 and eps; the posterior's variance."""
    padded = torch.nn.functional.pad(alphas_bar, (1, 0), value=1.0)
    bar, prev = padded[t + 1], padded[t_prev + 1]
    x_0 = bar.rsqrt() * x_t - (1 / bar - 1).sqrt() * eps
    var = eta**2 * (1 - prev) / (1 - bar) * (1 - bar / prev)
    terms = torch.stack([prev.sqrt(), torch.sqrt(1 - prev - var), torch.sqrt(var)]).to(x_t.dtype)
    return einsum(terms, torch.stack([x_0, eps, noise]).to(x_t.dtype), "k, k ... -> ...")


C(ddim_step, "padded table, einsum over three terms")


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a = alphas_bar[t].item()
    p = alphas_bar[t_prev].item() if t_prev != -1 else 1
    s2 = eta**2 * (1 - p) * (p - a) / (p * (1 - a))
    out = np.sqrt(p / a) * x_t.numpy() + (np.sqrt(1 - p - s2) - np.sqrt(p * (1 - a) / a)) * eps.numpy()
    return torch.from_numpy(out + np.sqrt(s2) * noise.numpy())


C(ddim_step, "numpy, multiplied out: one factor for each image")

# ---------------------------------------------------------------- 4.4


def slerp(a, b, share):
    return (1 - share) * a + share * b


W(slerp, "a straight line", "transform", "You went along the straight line.")


def slerp(a, b, share):
    cos = (a * b).sum() / (a.norm() * b.norm())
    omega = torch.acos(cos)
    return torch.sin((1 - share) * omega) / torch.sin(omega) * a + torch.sin(share * omega) / torch.sin(omega) * b


W(slerp, "one angle for the whole batch", "layout", "You took one angle for the whole batch")


def slerp(a, b, share):
    cos = torch.nn.functional.cosine_similarity(a, b, dim=-1).unsqueeze(-1)
    omega = torch.acos(cos)
    return torch.sin((1 - share) * omega) / torch.sin(omega) * a + torch.sin(share * omega) / torch.sin(omega) * b


W(slerp, "an angle for each row of pixels", "layout", "You took an angle for each row")


def slerp(a, b, share):
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    omega = torch.acos((flat_a * flat_b).sum(1).clamp(-1, 1)).view(-1, *[1] * (a.ndim - 1))
    return torch.sin((1 - share) * omega) / torch.sin(omega) * a + torch.sin(share * omega) / torch.sin(omega) * b


W(
    slerp,
    "the vectors are not normalised before the angle",
    "factor",
    "The cosine is not divided by the two norms, and a clamp",
)


def slerp(a, b, share):
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cos = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1))
    omega = torch.acos(cos).view(-1, *[1] * (a.ndim - 1))
    return torch.sin(share * omega) / torch.sin(omega) * a + torch.sin((1 - share) * omega) / torch.sin(omega) * b


W(slerp, "share and 1 - share exchanged", "swap", "share and 1 - share are exchanged")


def slerp(a, b, share):
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cos = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1))
    omega = torch.acos(cos).view(-1, *[1] * (a.ndim - 1))
    return torch.sin((1 - share) * omega) * a + torch.sin(share * omega) * b


W(slerp, "not divided by sin(omega)", "factor", "You did not divide by sin(angle)")


def slerp(a, b, share):
    shape = [-1] + [1] * (a.ndim - 1)
    a = a / a.flatten(1).norm(dim=1).view(shape)
    b = b / b.flatten(1).norm(dim=1).view(shape)
    omega = torch.acos((a * b).flatten(1).sum(1)).view(shape)
    return torch.sin((1 - share) * omega) / torch.sin(omega) * a + torch.sin(share * omega) / torch.sin(omega) * b


W(
    slerp,
    "normalises a and b themselves: the result has length 1",
    "factor",
    "You divided a and b themselves by their norms",
)


def slerp(a, b, share):
    return math.sqrt(1 - share) * a + math.sqrt(share) * b


W(
    slerp,
    "keeps the variance of independent noises, but is no slerp",
    "transform",
    "Your weights are sqrt(1 - share) and sqrt(share)",
)


def slerp(a, b, share):
    cos = reduce(a * b, "b ... -> b", "sum") / torch.sqrt(
        reduce(a**2, "b ... -> b", "sum") * reduce(b**2, "b ... -> b", "sum")
    )
    omega = torch.acos(cos)
    return torch.sin((1 - share) * omega) / torch.sin(omega) * a + torch.sin(share * omega) / torch.sin(omega) * b


W(slerp, "the angles have shape (B,): broadcast against the columns", "layout", "Your angles have shape (B,)")


def slerp(a, b, share):
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cos = (flat_a * flat_b).sum(1).abs() / (flat_a.norm(dim=1) * flat_b.norm(dim=1))
    omega = torch.acos(cos).view(-1, *[1] * (a.ndim - 1))
    return torch.sin((1 - share) * omega) / torch.sin(omega) * a + torch.sin(share * omega) / torch.sin(omega) * b


W(slerp, "the absolute value of the cosine", "transform", "You took the absolute value of the cosine")


def slerp(a, b, share):
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cos = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1))
    omega = cos.view(-1, *[1] * (a.ndim - 1))
    return torch.sin((1 - share) * omega) / torch.sin(omega) * a + torch.sin(share * omega) / torch.sin(omega) * b


W(slerp, "the arc cosine is forgotten", "transform", "acos is missing")


def slerp(a, b, share):
    shape = (-1, *[1] * (a.ndim - 1))
    norm_a, norm_b = (x.flatten(1).norm(dim=1).view(shape) for x in (a, b))
    dot = (a * b).flatten(1).sum(1).view(shape) / (norm_a * norm_b)
    theta = torch.acos(dot) * share
    relative = b - a * dot
    relative = relative / relative.flatten(1).norm(dim=1).view(shape)
    return a * torch.cos(theta) + relative * torch.sin(theta)


W(
    slerp,
    "the form for unit vectors, with vectors of any length",
    "factor",
    "supposes that a and b have norm 1",
)


def slerp(a, b, share):
    return torch.lerp(a, b, share) / math.sqrt((1 - share) ** 2 + share**2)


W(
    slerp,
    "a straight line, scaled to the variance of independent noises",
    "transform",
    "You went along the straight line and scaled the variance back to 1.",
)


def slerp(a, b, share):
    return torch.stack([_slerp_one(x, y, share) for x, y in zip(a, b)])


def _slerp_one(x, y, share):
    omega = math.acos(float(x.double().flatten() @ y.double().flatten()) / float(x.double().norm() * y.double().norm()))
    return (math.sin((1 - share) * omega) * x + math.sin(share * omega) * y) / math.sin(omega)


C(slerp, "image by image, with math")


def slerp(a, b, share):
    """The common code with a straight line for nearly parallel vectors."""
    shape = a.shape
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    dot = torch.nn.functional.cosine_similarity(a, b, dim=1).unsqueeze(1)
    theta = dot.clamp(-1, 1).acos()
    out = (((1 - share) * theta).sin() * a + (share * theta).sin() * b) / theta.sin()
    return torch.where(dot.abs() > 0.9995, torch.lerp(a, b, share), out).reshape(shape)


C(slerp, "cosine_similarity on flat images, a straight line if they are parallel")


def slerp(a, b, share):
    """By an orthonormal pair in the plane of a and b."""
    x, y = rearrange(a.double(), "b ... -> b (...)"), rearrange(b.double(), "b ... -> b (...)")
    n_x, n_y = x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True)
    u = x / n_x
    v = y / n_y - (u * y / n_y).sum(1, keepdim=True) * u
    angle = torch.atan2(v.norm(dim=1, keepdim=True), (u * y / n_y).sum(1, keepdim=True))
    weights = [torch.sin((1 - share) * angle) / torch.sin(angle), torch.sin(share * angle) / torch.sin(angle)]
    return (weights[0] * x + weights[1] * y).reshape(a.shape)


C(slerp, "the angle by atan2, in float64")

# ---------------------------------------------------------------- 4.5


def lam(alphas_bar, t):
    return 0.5 * torch.log(alphas_bar[t] / (1 - alphas_bar[t]))


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = h / (lam(alphas_bar, t) - lam(alphas_bar, t_before))
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * D


W(dpmpp_2m_step, "r upside down: h / h_last", "swap", "The fraction of (4.9) is upside down")


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = (lam(alphas_bar, t) - lam(alphas_bar, t_before)) / h
        D = (1 - 1 / (2 * r)) * x_0 + 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * D


W(
    dpmpp_2m_step,
    "interpolates towards the estimate before instead of extrapolating",
    "sign",
    "Your extrapolation has the wrong sign",
)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = (lam(alphas_bar, t) - lam(alphas_bar, t_before)) / h
        D = (1 + 1 / r) * x_0 - 1 / r * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * D


W(dpmpp_2m_step, "the 1/2 of the extrapolation is missing", "factor", "The half is missing from the fraction of (4.9)")


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    snr = alphas_bar / (1 - alphas_bar)
    h = (snr[t_prev] / snr[t]).log()
    D = x_0
    if x_0_before is not None:
        r = (snr[t] / snr[t_before]).log() / h
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * D


W(dpmpp_2m_step, "lambda is the log SNR, without its half", "factor", "Your lambda is the log of the SNR")


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = (lam(alphas_bar, t) - lam(alphas_bar, t_before)) / h
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * D


W(
    dpmpp_2m_step,
    "t_prev = -1 is not treated: index -1 wraps around",
    "edge",
    "At t_prev = -1 you read alphas_bar[-1], which wraps around",
)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * x_0


W(dpmpp_2m_step, "always of first order", "ignored-argument", "You do not use x_0_before")


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = (t_before - t) / (t - t_prev)
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * D


W(dpmpp_2m_step, "the ratio of the steps is measured in t, not in lambda", "table", "You measure the steps in t.")


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = (lam(alphas_bar, t) - lam(alphas_bar, t_before)) / h
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t + p.sqrt() * torch.expm1(-h) * D


W(dpmpp_2m_step, "the minus before expm1 is lost", "sign", "The minus sign in front of sqrt(alpha_bar_prev) is missing")


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = (lam(alphas_bar, t) - lam(alphas_bar, t_before)) / h
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return (1 - p) / (1 - a) * x_t - p.sqrt() * torch.expm1(-h) * D


W(
    dpmpp_2m_step,
    "variances instead of standard deviations before x_t",
    "square-root",
    "The factor of x_t is a ratio of variances",
)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = (lam(alphas_bar, t) - lam(alphas_bar, t_before)) / h
        D = (1 + 1 / 2 * r) * x_0 - 1 / 2 * r * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * D


W(dpmpp_2m_step, "1 / 2 * r for 1 / (2 r)", "brackets", "1 / 2 * r lacks its brackets")


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = (lam(alphas_bar, t) - lam(alphas_bar, t_before)) / h
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return (p / a).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * D


W(
    dpmpp_2m_step,
    "the first factor is that of the eps form, a ratio of signals",
    "factor",
    "The factor of x_t is a ratio of signals",
)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    D = x_0
    if x_0_before is not None:
        r = h / (lam(alphas_bar, t) - lam(alphas_bar, t_before))
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p * torch.expm1(-h) * D


W(
    dpmpp_2m_step,
    "r upside down, and alpha_bar without its root before D",
    "two",
    "The fraction of (4.9) is upside down",
    "The factor of D has alpha_bar_prev: its root is missing.",
)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0 or x_0_before is None:
        return x_0
    h = lam(alphas_bar, t_prev) - lam(alphas_bar, t)
    r = (lam(alphas_bar, t) - lam(alphas_bar, t_before)) / h
    D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return ((1 - p) / (1 - a)).sqrt() * x_t - p.sqrt() * torch.expm1(-h) * D


W(
    dpmpp_2m_step,
    "returns x_0 at the first step instead of a step of first order",
    "edge",
    "Your result is right everywhere but at the first step, where x_0_before is None",
)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    alpha, sigma = alphas_bar.sqrt(), 1 - alphas_bar
    lambdas = torch.log(alpha / sigma)
    h = lambdas[t_prev] - lambdas[t]
    D = x_0
    if x_0_before is not None:
        r = (lambdas[t] - lambdas[t_before]) / h
        D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * x_0_before
    return sigma[t_prev] / sigma[t] * x_t - alpha[t_prev] * torch.expm1(-h) * D


W(
    dpmpp_2m_step,
    "sigma is the variance 1 - alpha_bar: in lambda and before x_t",
    "two",
    "the noise is a variance there.",
    "The factor of x_t is a ratio of variances",
)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0.clone()
    signal, noise = alphas_bar.sqrt().tolist(), (1 - alphas_bar).sqrt().tolist()
    lam_prev, lam_t = (math.log(signal[i] / noise[i]) for i in (t_prev, t))
    h = lam_prev - lam_t
    estimate = x_0
    if x_0_before is not None:
        h_last = lam_t - math.log(signal[t_before] / noise[t_before])
        estimate = x_0 + h / (2 * h_last) * (x_0 - x_0_before)
    return noise[t_prev] / noise[t] * x_t + signal[t_prev] * (1 - math.exp(-h)) * estimate


C(dpmpp_2m_step, "floats, the extrapolation as a difference")


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    """In the variance-exploding frame, as k-diffusion has it."""
    if t_prev == -1:
        return x_0
    sigmas = ((1 - alphas_bar) / alphas_bar).sqrt()
    s, s_next, x = sigmas[t], sigmas[t_prev], x_t * alphas_bar[t].rsqrt()
    h = s.log() - s_next.log()
    if x_0_before is None:
        denoised_d = x_0
    else:
        r = (sigmas[t_before].log() - s.log()) / h
        denoised_d = (1 + 1 / (2 * r)) * x_0 - (1 / (2 * r)) * x_0_before
    x = (s_next / s) * x - (-h).expm1() * denoised_d
    return x * alphas_bar[t_prev].sqrt()


C(dpmpp_2m_step, "k-diffusion's: sigma = sqrt(1 / alpha_bar - 1)")


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar, order=2):
    if t_prev < 0:
        return x_0
    bar = alphas_bar.numpy()
    log_snr = np.log(bar) - np.log1p(-bar)
    D = x_0.numpy()
    if x_0_before is not None and order == 2:
        half = (log_snr[t_prev] - log_snr[t]) / (log_snr[t] - log_snr[t_before]) / 2
        D = np.array([1 + half, -half]) @ np.stack([D.reshape(-1), x_0_before.numpy().reshape(-1)])
        D = D.reshape(x_0.shape)
    scale = np.sqrt((1 - bar[t_prev]) / (1 - bar[t]))
    return torch.from_numpy(scale * x_t.numpy() + (np.sqrt(bar[t_prev]) - scale * np.sqrt(bar[t])) * D)


C(
    functools.wraps(dpmpp_2m_step)(functools.partial(dpmpp_2m_step, order=2)),
    "numpy, another form of the factor of D, a parameter more",
    "dpmpp_2m_step",
)

# ---------------------------------------------------------------- 4.8


def respaced_betas(alphas_bar, timesteps):
    alphas_bar_prev = torch.cat([torch.ones(1, dtype=alphas_bar.dtype), alphas_bar[:-1]])
    betas = 1 - alphas_bar / alphas_bar_prev
    return betas[timesteps]


W(
    respaced_betas,
    "picks the long chain's betas at the timesteps",
    "table",
    "Your betas are the old ones of the kept steps. A long step has",
)


def respaced_betas(alphas_bar, timesteps):
    ab = alphas_bar[timesteps]
    return 1 - ab[1:] / ab[:-1]


W(
    respaced_betas,
    "the first beta is missing: one too few",
    "count",
    "You return S - 1 betas: the first is missing. It leads from the",
)


def respaced_betas(alphas_bar, timesteps):
    ab = alphas_bar[timesteps]
    prev = torch.cat([ab[:1], ab[:-1]])
    return 1 - ab / prev


W(
    respaced_betas,
    "before the first stands itself and not 1: the first beta is 0",
    "edge",
    "Your first alpha_bar is divided by itself, and the beta is 0.",
)


def respaced_betas(alphas_bar, timesteps):
    ab = alphas_bar[timesteps]
    prev = torch.cat([torch.ones(1, dtype=ab.dtype), ab[:-1]])
    return (1 - ab / prev).clamp(max=0.999)


W(
    respaced_betas,
    "clamped at 0.999 (visible where a short step has a larger beta)",
    "edge",
    "You capped the betas at 0.999. The exercise has no cap: a long",
)


def respaced_betas(alphas_bar, timesteps):
    ab = alphas_bar[timesteps]
    prev = torch.cat([torch.ones(1, dtype=ab.dtype), ab[:-1]])
    return ab / prev


W(
    respaced_betas,
    "returns the alphas, not 1 - them",
    "transform",
    "You return the alphas of the short chain. beta is 1 -",
)


def respaced_betas(alphas_bar, timesteps):
    ab = alphas_bar[timesteps]
    prev = torch.cat([torch.ones(1, dtype=ab.dtype), ab[:-1]])
    return 1 - (ab / prev).sqrt()


W(
    respaced_betas,
    "a root over the ratio",
    "square-root",
    "You took the roots of alphas_bar.",
)


def respaced_betas(alphas_bar, timesteps):
    ab = alphas_bar[timesteps]
    prev = torch.cat([torch.ones(1, dtype=ab.dtype), ab[:-1]])
    return prev - ab


W(
    respaced_betas,
    "the difference is not divided by the former alphas_bar",
    "factor",
    "You subtracted two alpha_bar. alpha_bar is a running product",
)


def respaced_betas(alphas_bar, timesteps):
    ab = alphas_bar[timesteps].float()
    prev = torch.cat([ab[:1], ab[:-1]])
    return (1 - ab / prev).double()


W(
    respaced_betas,
    "the first beta is 0 since its predecessor is itself, and float32 in between",
    "two",
    "Your first alpha_bar is divided by itself, and the beta is 0.",
)


def respaced_betas(alphas_bar, timesteps):
    out, last = [], 1.0
    for i in timesteps:
        now = alphas_bar[i].item()
        out.append(1 - now / last)
        last = now
    return torch.tensor(out, dtype=torch.float64)


C(respaced_betas, "the loop of Improved DDPM's respace.py")


def respaced_betas(alphas_bar, timesteps):
    kept = np.asarray(alphas_bar, dtype=np.float64)[np.asarray(timesteps)]
    return torch.from_numpy(-np.expm1(np.diff(np.log(kept), prepend=0.0)))


C(respaced_betas, "numpy: differences of logarithms, expm1")


respaced_betas = functools.partial(
    lambda bar, steps, one: 1 - bar[steps] / torch.cat([one.to(bar), bar[steps[:-1]]]), one=torch.ones(1)
)
C(respaced_betas, "functools.partial of a lambda", "respaced_betas")
