# ruff: noqa: B905
"""Answers to the exercises of notebook 05 on denoising diffusion GANs, written from their statements alone."""

import math

import torch
from einops import reduce
from torch import nn
from torch.nn import functional as F

from answers import Answers

answers = Answers()
W, C = answers.wrong, answers.correct


# ---------------------------------------------------------------- 5.12


def tables(betas):
    bar = (1 - betas).cumprod(0)
    prev = F.pad(bar[:-1], (1, 0), value=1.0)
    return bar, prev, betas * (1 - prev) / (1 - bar)


def full(x, t):
    return torch.full((x.shape[0],), t, dtype=torch.long)


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, full(x_t, t), z)
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    log_var = torch.cat([var[1:2], var[1:]]).log() if len(var) > 1 else var.clamp(min=1e-20).log()
    return mean + (0.5 * log_var[t]).exp() * noise


W(ddgan_step, "noise at t = 0, of the clipped logarithm", "edge", "At t = 0 you add noise, with the variance of t = 1")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, full(x_t, t), z)
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + var[t] * noise


W(ddgan_step, "the variance multiplies the noise", "formula", "You scaled the noise by the variance.")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, full(x_t, t), z)
    if t == 0:
        return x_0
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + betas[t].sqrt() * noise


W(ddgan_step, "beta for the variance", "formula", "Your variance is beta, and without noise at t = 0.")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, _ = tables(betas)
    x_0 = G(x_t, full(x_t, t), z)
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + betas[t] ** 0.5 * noise


W(ddgan_step, "beta for the variance, and noise at t = 0", "formula", "Your variance is beta, with noise at t = 0")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar = (1 - betas).cumprod(0)
    a, prev, beta = bar[t], bar[t - 1], betas[t]
    x_0 = G(x_t, full(x_t, t), z)
    mean = prev.sqrt() * beta / (1 - a) * x_0 + (1 - beta).sqrt() * (1 - prev) / (1 - a) * x_t
    return mean + (beta * (1 - prev) / (1 - a)).sqrt() * noise


W(ddgan_step, "index -1 at t = 0", "indexing", "index -1 wraps around")


def ddgan_step(G, x_t, z, t, betas, noise):
    x_0 = G(x_t, full(x_t, t), z)
    if t == 0:
        return x_0
    bar, beta = (1 - betas).cumprod(0), betas[t]
    mean = bar[t].sqrt() * beta / (1 - bar[t]) * x_0 + (1 - beta).sqrt() * x_t
    return mean + (beta * (1 - bar[t - 1]) / (1 - bar[t])).sqrt() * noise


W(
    ddgan_step,
    "alphas_bar[t] for alphas_bar[t - 1] in the mean",
    "table",
    "In your mean, except at t = 0, alpha_bar stands",
)


def ddgan_step(G, x_t, z, t, betas, noise):
    _, prev, var = tables(betas)
    bar = prev * (1 - betas)
    x_0 = G(x_t, full(x_t, t), z).clamp(-1, 1)
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + var[t].sqrt() * noise


W(ddgan_step, "x_0 is clipped", "formula", "You clipped x_0 to [-1, 1].")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, full(x_t, t), torch.randn_like(z))
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + var[t].sqrt() * noise


W(ddgan_step, "z is drawn anew", "random", "The randomness comes in as the arguments z and noise: draw nothing.")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, full(x_t, t), 0 * z)
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + var[t].sqrt() * noise


W(ddgan_step, "z has no effect", "ignored-argument", "G gets zeros instead of z")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, t, z)
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + var[t].sqrt() * noise


W(ddgan_step, "t as an int", "dtype", "G expects t of shape (4,) and dtype torch.int64, got int")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, z, full(x_t, t))
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + var[t].sqrt() * noise


W(ddgan_step, "z and t exchanged in the call", "order", "G expects t of shape (4,) and dtype torch.int64, got (4, 6)")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, full(x_t, t), z)
    coef1 = (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t])
    coef2 = prev[t].sqrt() * betas[t] / (1 - bar[t])
    return coef1 * x_0 + coef2 * x_t + var[t].sqrt() * noise


W(ddgan_step, "coef1 and coef2 exchanged", "order", "The two coefficients of the mean are exchanged")


def ddgan_step(G, x_t, z, t, betas, noise):
    x_0 = G(x_t, full(x_t, t), z)
    a = (1 - betas).cumprod(0)[t - 1] if t > 0 else torch.ones(())
    return a.sqrt() * x_0 + (1 - a).sqrt() * noise


W(ddgan_step, "noised again", "formula", "You noised x_0 anew, up to t - 1")


@torch.no_grad()
def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, full(x_t, t), z)
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + var[t].sqrt() * noise


W(ddgan_step, "under no_grad", "gradient", "leave no_grad to whoever samples")


def ddgan_step(G, x_t, z, t, betas, noise):
    bar, prev, var = tables(betas)
    x_0 = G(x_t, full(x_t, t), z).clamp(-1, 1)
    mean = prev[t].sqrt() * betas[t] / (1 - bar[t]) * x_0 + (1 - betas[t]).sqrt() * (1 - prev[t]) / (1 - bar[t]) * x_t
    return mean + var[t] * noise


W(
    ddgan_step,
    "clipped, and the variance",
    "two",
    "You clipped x_0 to [-1, 1].",
    "You scaled the noise by the variance.",
)


def ddgan_step(G, x_t, z, t, betas, noise):
    """By precisions."""
    x_0 = G(x_t, torch.zeros(len(x_t), dtype=torch.int64) + t, z)
    if t == 0:
        return x_0
    prior = 1 / (1 - torch.prod(1 - betas[:t]))
    likelihood = (1 - betas[t]) / betas[t]
    var = 1 / (prior + likelihood)
    guess = torch.prod(1 - betas[:t]).sqrt() * x_0
    return var * (prior * guess + likelihood * x_t / (1 - betas[t]).sqrt()) + var.sqrt() * noise


C(ddgan_step, "two Gaussians multiplied")


def ddgan_step(G, x_t, z, t, betas, noise):
    """By the noise that x_0 leaves in x_t, as DDIM with eta = 1."""
    bar, prev, var = (table[t].float() for table in tables(betas))
    x_0 = G(x_t, full(x_t, t), z).to(x_t.dtype)
    eps = (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt()
    return prev.sqrt() * x_0 + (1 - prev - var).clamp(min=0).sqrt() * eps + var.sqrt() * noise


C(ddgan_step, "by eps, in float32")


# ---------------------------------------------------------------- 5.13


def discriminator_loss(real_logits, fake_logits):
    return F.softplus(real_logits) + F.softplus(-fake_logits)


W(discriminator_loss, "exchanged", "order", "Real and fake are exchanged")


def discriminator_loss(real_logits, fake_logits):
    return F.softplus(-real_logits) + F.softplus(-fake_logits)


W(discriminator_loss, "the sign of fake", "sign", "The sign of fake_logits is wrong")


def discriminator_loss(real_logits, fake_logits):
    return -torch.log(torch.sigmoid(real_logits)) - torch.log(1 - torch.sigmoid(fake_logits))


W(discriminator_loss, "overflow", "edge", "You took the logarithm of a probability that was rounded to 0")


def discriminator_loss(real_logits, fake_logits):
    eps = 1e-6
    return -torch.log(torch.sigmoid(real_logits) + eps) - torch.log(1 - torch.sigmoid(fake_logits) + eps)


W(discriminator_loss, "a constant under the logarithm", "edge")


def discriminator_loss(real_logits, fake_logits):
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    ones = torch.ones_like(real)
    return F.binary_cross_entropy(real, ones, reduction="none") + F.binary_cross_entropy(
        fake, 0 * ones, reduction="none"
    )


W(discriminator_loss, "BCE of probabilities", "edge", "Your logarithm stops at -100")


def discriminator_loss(real_logits, fake_logits):
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    bce = F.binary_cross_entropy_with_logits
    return bce(real, torch.ones_like(real), reduction="none") + bce(fake, torch.zeros_like(fake), reduction="none")


W(discriminator_loss, "sigmoid twice", "formula", "You applied sigmoid, and then a loss of logits")


def discriminator_loss(real_logits, fake_logits):
    bce = F.binary_cross_entropy_with_logits
    return bce(real_logits, torch.ones_like(real_logits)) + bce(fake_logits, torch.zeros_like(fake_logits))


W(discriminator_loss, "one number", "layout", "You return the mean over the batch, one number.")


def discriminator_loss(real_logits, fake_logits):
    return (F.softplus(-real_logits) + F.softplus(fake_logits)) / 2


W(discriminator_loss, "averaged halves", "factor", "You took the mean of the two halves.")


def discriminator_loss(real_logits, fake_logits):
    return F.logsigmoid(real_logits) + F.logsigmoid(-fake_logits)


W(discriminator_loss, "not negated", "sign", "Your sign is wrong: that is the log-likelihood")


def discriminator_loss(real_logits, fake_logits):
    return F.relu(1 - real_logits) + F.relu(1 + fake_logits)


W(discriminator_loss, "hinge", "formula", "That is the hinge loss")


def discriminator_loss(real_logits, fake_logits):
    return F.softplus(-real_logits) + F.softplus(fake_logits.detach())


W(discriminator_loss, "the fake's logits are detached", "gradient", "You detached fake_logits.")


def discriminator_loss(real_logits, fake_logits):
    return (torch.sigmoid(-real_logits) + torch.sigmoid(fake_logits)).mean()


W(discriminator_loss, "no logarithm, and the mean", "two", "You left out the logarithm", "You return the mean over")


def discriminator_loss(real_logits, fake_logits):
    logits = torch.stack([real_logits, fake_logits])
    labels = torch.stack([torch.ones_like(real_logits), torch.zeros_like(fake_logits)])
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(0)


C(discriminator_loss, "one cross-entropy of both")


def discriminator_loss(real_logits, fake_logits):
    zero = torch.zeros(())
    return torch.logaddexp(zero, -real_logits) + torch.logaddexp(zero, fake_logits)


C(discriminator_loss, "logaddexp")


# ---------------------------------------------------------------- 5.14


def generator_loss(fake_logits):
    return -F.softplus(fake_logits)


W(generator_loss, "saturating", "formula", "the saturating loss")


def generator_loss(fake_logits):
    return torch.log(1 - torch.sigmoid(fake_logits))


W(generator_loss, "saturating, and overflow", "two", "the saturating loss, of a probability that was")


def generator_loss(fake_logits):
    return F.softplus(fake_logits)


W(generator_loss, "sign", "sign", "That is the half of D's loss that G works against.")


def generator_loss(fake_logits):
    return F.softplus(-fake_logits).mean()


W(generator_loss, "mean", "layout", "You return the mean over the batch, one number.")


def generator_loss(fake_logits):
    return 1 - torch.sigmoid(fake_logits)


W(generator_loss, "no logarithm", "formula", "You left out the logarithm")


def generator_loss(fake_logits):
    return -fake_logits


W(generator_loss, "Wasserstein", "formula", "the loss of a Wasserstein critic")


def generator_loss(fake_logits):
    return -torch.sigmoid(fake_logits).log()


W(generator_loss, "overflow", "edge", "You took the logarithm of a probability that was rounded to 0")


def generator_loss(fake_logits):
    return F.logsigmoid(fake_logits)


W(generator_loss, "not negated", "sign", "Your sign is wrong: that is the log-likelihood")


def generator_loss(fake_logits):
    return F.softplus(-fake_logits.detach())


W(generator_loss, "detached", "gradient", "In G's turn nothing is detached")


def generator_loss(fake_logits):
    return -F.logsigmoid(fake_logits)


C(generator_loss, "logsigmoid")


def generator_loss(fake_logits):
    labels = torch.ones_like(fake_logits)
    return F.binary_cross_entropy_with_logits(fake_logits, labels, reduction="none")


C(generator_loss, "cross-entropy with the label real")


# ---------------------------------------------------------------- 5.15


def gradient(D, x_prev, x_t, t, **how):
    x = x_prev.detach().requires_grad_()
    return torch.autograd.grad(D(x, x_t, t).sum(), x, **({"create_graph": True} | how))[0]


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    return gamma / 2 * interval * gradient(D, x_prev, x_t, t).flatten(1).norm(dim=1)


W(r1_penalty, "the norm", "formula", "You took the norm of the gradient.")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    return gamma / 2 * interval * reduce(gradient(D, x_prev, x_t, t) ** 2, "b ... -> b", "mean")


W(r1_penalty, "the mean over pixels", "layout", "You took the mean over the pixels.")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    return gamma * interval * reduce(gradient(D, x_prev, x_t, t) ** 2, "b ... -> b", "sum")


W(r1_penalty, "no 1/2", "factor", "The factor 1/2 is missing")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    return gamma / 2 * reduce(gradient(D, x_prev, x_t, t) ** 2, "b ... -> b", "sum")


W(r1_penalty, "no interval", "ignored-argument", "interval is missing.")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    return gamma / 2 / interval * reduce(gradient(D, x_prev, x_t, t) ** 2, "b ... -> b", "sum")


W(r1_penalty, "divided", "formula", "You divided by interval.")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    x = x_t.detach().requires_grad_()
    (grad,) = torch.autograd.grad(D(x_prev, x, t).sum(), x, create_graph=True)
    return gamma / 2 * interval * grad.pow(2).flatten(1).sum(1)


W(r1_penalty, "in x_t", "order", "You took the gradient in x_t.")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    grad = gradient(D, x_prev, x_t, t, create_graph=False)
    return gamma / 2 * interval * grad.pow(2).flatten(1).sum(1)


W(r1_penalty, "no graph", "gradient", "create_graph is missing")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    grad = gradient(D, x_prev, x_t, t, create_graph=False, retain_graph=True)
    return gamma / 2 * interval * grad.pow(2).flatten(1).sum(1)


W(r1_penalty, "the graph is kept, not made", "gradient", "create_graph is missing")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    x_prev.requires_grad_(True)
    (grad,) = torch.autograd.grad(D(x_prev, x_t, t).sum(), x_prev, create_graph=True)
    return gamma / 2 * interval * grad.pow(2).flatten(1).sum(1)


W(r1_penalty, "the caller's tensor", "gradient", "You switched requires_grad on in the caller's x_prev")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    x = x_prev.detach().requires_grad_()
    (grad,) = torch.autograd.grad(D(x, x_t, t).mean(), x, create_graph=True)
    return gamma / 2 * interval * grad.pow(2).flatten(1).sum(1)


W(r1_penalty, "the mean of D", "batch", "You took the gradient of D's mean")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    return gamma / 2 * interval * gradient(D, x_prev, x_t, t).pow(2).flatten(1).sum(1).mean()


W(r1_penalty, "one number", "layout", "You return the mean over the batch, one number.")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    return gamma * interval * gradient(D, x_prev, x_t, t).pow(2).flatten(1).mean(1)


W(r1_penalty, "no 1/2, and the mean", "two", "The factor 1/2 is missing", "You took the mean over the pixels.")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    x = nn.Parameter(x_prev.clone())
    (grad,) = torch.autograd.grad(D(x, x_t, t).sum(), [x], create_graph=True)
    return torch.einsum("bi, bi -> b", grad.flatten(1), grad.flatten(1)) * (0.5 * gamma * interval)


C(r1_penalty, "einsum, a parameter of its own")


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    losses = []
    for k in range(len(t)):
        x = x_prev[k : k + 1].clone().detach().requires_grad_()
        score = D(x, x_t[k : k + 1], t[k : k + 1])
        (grad,) = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)
        losses.append(math.prod([gamma, interval, 0.5]) * grad.norm() ** 2)
    return torch.stack(losses)


C(r1_penalty, "image by image")
