"""Solutions of the exercises in notebook 02, one function each.  Try first: the checks say what is wrong."""

import torch

from ddpm_lesson import extract


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    return 0.5 * (torch.log(var_2 / var_1) + (var_1 + (mean_1 - mean_2) ** 2) / var_2 - 1)


def mean_from_eps(x_t, t, eps, betas):
    alphas_bar = torch.cumprod(1 - betas, 0)
    beta, a_bar = extract(betas, t, x_t.shape), extract(alphas_bar, t, x_t.shape)  # (B, 1, ..., 1)
    return (x_t - beta / (1 - a_bar).sqrt() * eps) / (1 - beta).sqrt()


def vlb_weight(betas, var):
    alphas, alphas_bar = 1 - betas, torch.cumprod(1 - betas, 0)
    return betas**2 / (2 * var * alphas * (1 - alphas_bar))


def simple_loss(model, x_0, t, noise, alphas_bar):
    a_bar = extract(alphas_bar, t, x_0.shape)
    signal, spread = a_bar.sqrt().to(x_0.dtype), (1 - a_bar).sqrt().to(x_0.dtype)  # networks keep the images' dtype
    return (noise - model(signal * x_0 + spread * noise, t)) ** 2


def discretized_log_prob(x, mean, std, levels):
    half = 1 / (levels - 1)
    below = torch.special.ndtr((x - half - mean) / std)
    above = torch.special.ndtr((x + half - mean) / std)
    below = torch.where(x < -1 + half, 0.0, below)  # the first bin reaches down to -infinity
    above = torch.where(x > 1 - half, 1.0, above)  # the last one up to infinity
    return (above - below).log()


def min_snr_weights(snr, gamma):
    capped = snr.clamp(max=gamma)
    eps = (gamma / snr).clamp(max=1)  # not capped / snr: 0 / 0 at snr = 0
    return eps, capped, capped / (snr + 1)


def training_loop(model, average, batches, loss, lr, warmup, clip_norm, decay):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for k, (x_0, t, noise) in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, k / warmup)
        step_loss = loss(model, x_0, t, noise).mean()
        optimizer.zero_grad()
        step_loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        with torch.no_grad():
            for held, weight in zip(average.parameters(), model.parameters(), strict=True):
                held.lerp_(weight, 1 - decay)
        yield step_loss.item()
