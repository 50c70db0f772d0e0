"""Solutions of the exercises in notebook 05, in their order.  Try first: the checks say what is wrong."""

import math

import torch
from torch.nn.functional import softplus

from ddpm_lesson import samplers, spacing


def learned_log_var(v, t, betas, alphas_bar):
    alphas_bar_prev = torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])
    posterior_var = betas * (1 - alphas_bar_prev) / (1 - alphas_bar)
    small = torch.cat([posterior_var[1:2], posterior_var[1:]]).log()  # the posterior at t = 0 has no variance
    shape, frac = (-1, *[1] * (v.ndim - 1)), (v + 1) / 2
    return frac * betas.log()[t].view(shape) + (1 - frac) * small[t].view(shape)


def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    distance = (true_mean - mean.detach()) ** 2 * torch.exp(-log_var)  # L_simple trains the mean
    kl = 0.5 * (log_var - true_log_var + torch.exp(true_log_var - log_var) + distance - 1)
    bits_per_dim = kl.flatten(1).mean(1) / math.log(2)
    return ((noise - eps) ** 2).flatten(1).mean(1) + lam * T * bits_per_dim


def guided_mean(mean, var, x_t, t, y, classifier, scale):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        log_p = classifier(x, t)[torch.arange(len(y)), y]
        (grad,) = torch.autograd.grad(log_p.sum(), x)  # of a sum: each image's own
    return mean + scale * var * grad


def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        log_p = classifier(x, t)[torch.arange(len(y)), y]
        (grad,) = torch.autograd.grad(log_p.sum(), x)
    std = (1 - alphas_bar[t]).sqrt().view(-1, *[1] * (eps.ndim - 1))
    return eps - scale * std * grad


def cfg_eps(eps_cond, eps_uncond, strength, convention):
    s = strength if convention == "s" else 1 + strength
    return eps_uncond + s * (eps_cond - eps_uncond)


def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    x_t, steps = x_T, timesteps[::-1]
    for t, t_next in zip(steps, [*steps[1:], -1], strict=True):
        at = torch.full((len(x_t),), t, device=x_t.device)
        a_bar, a_bar_next = alphas_bar[t], alphas_bar[t_next] if t_next >= 0 else torch.ones_like(alphas_bar[0])
        with torch.no_grad():
            eps_cond, eps_uncond = model(x_t, at, y), model(x_t, at, None)
        eps = eps_uncond + scale * (eps_cond - eps_uncond)
        x_0 = ((x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()).clamp(-1, 1)
        eps = (x_t - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()  # that of the clipped x_0
        x_t = a_bar_next.sqrt() * x_0 + (1 - a_bar_next).sqrt() * eps
        yield x_t


def v_target(x_0, noise, t, alphas_bar):
    a_bar = alphas_bar[t].view(-1, *[1] * (x_0.ndim - 1))
    return a_bar.sqrt() * noise - (1 - a_bar).sqrt() * x_0


def x_0_from_v(x_t, v, t, alphas_bar):
    a_bar = alphas_bar[t].view(-1, *[1] * (x_t.ndim - 1))
    return a_bar.sqrt() * x_t - (1 - a_bar).sqrt() * v


def zero_terminal_snr(betas):
    root = torch.cumprod(1 - betas, 0).sqrt()
    alphas_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return 1 - alphas_bar / torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])


def rescaled_eps(eps_cond, eps_guided, phi):
    axes = tuple(range(1, eps_cond.ndim))
    ratio = eps_cond.std(axes, keepdim=True) / eps_guided.std(axes, keepdim=True)  # (B, 1, ..., 1)
    return phi * eps_guided * ratio + (1 - phi) * eps_guided


def ddgan_step(G, x_t, z, t, betas, noise):
    x_0 = G(x_t, torch.full((len(x_t),), t, device=x_t.device), z)
    if t == 0:
        return x_0
    alphas_bar = torch.cumprod(1 - betas, 0)
    beta, a_bar, a_bar_prev = betas[t], alphas_bar[t], alphas_bar[t - 1]
    coef1 = a_bar_prev.sqrt() * beta / (1 - a_bar)
    coef2 = (1 - beta).sqrt() * (1 - a_bar_prev) / (1 - a_bar)
    std = (beta * (1 - a_bar_prev) / (1 - a_bar)).sqrt()
    return coef1 * x_0 + coef2 * x_t + std * noise


def discriminator_loss(real_logits, fake_logits):
    return softplus(-real_logits) + softplus(fake_logits)  # -log sigmoid(x) = softplus(-x)


def generator_loss(fake_logits):
    return softplus(-fake_logits)


def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    with torch.enable_grad():
        x = x_prev.detach().requires_grad_()  # a leaf of its own: the caller's stays as it is
        (grad,) = torch.autograd.grad(D(x, x_t, t).sum(), x, create_graph=True)
    return gamma / 2 * interval * grad.square().flatten(1).sum(1)


def generate(digits, n, seed):
    x_T = torch.randn(n, *digits.shape, generator=torch.Generator().manual_seed(seed)).to(digits.device)
    denoise = digits.denoiser(digits.labels(n))  # every class in turn, no guidance, x_0 clipped
    short = digits.process.respaced(spacing.trailing(digits.process.T, 6))  # from t = 999 on, where the noise is
    return samplers.last(samplers.dpmpp_2m(short, denoise, x_T))
