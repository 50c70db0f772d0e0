"""Solutions of the exercises in notebook 01, in their order.  Try first: the checks say what is wrong."""

import math

import torch


def linear_betas(beta_1, beta_T, T):
    # float64 at once: numbers that were float32 first keep its seven digits
    return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)


def walk(x_0, betas, noise):
    states = [x_0]
    for beta, its_noise in zip(betas, noise, strict=True):
        states.append((1 - beta).sqrt() * states[-1] + beta.sqrt() * its_noise)  # the roots: beta is a variance
    return torch.stack(states)


def extract(v, t, x_shape):
    # gather and reshape only: a change of dtype here would reach every image that the result multiplies
    return v.gather(0, t).reshape(-1, *[1] * (len(x_shape) - 1))


def q_sample(x_0, t, noise, alphas_bar):
    a_bar = extract(alphas_bar, t, x_0.shape)  # (B, 1, ..., 1)
    return a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise  # float64 if alphas_bar is


def cosine_betas(T, s=0.008, max_beta=0.999):
    time = torch.linspace(0, 1, T + 1, dtype=torch.float64)  # T steps have T + 1 ends
    alphas_bar = torch.cos((time + s) / (1 + s) * math.pi / 2) ** 2  # up to a factor that the ratio cancels
    return (1 - alphas_bar[1:] / alphas_bar[:-1]).clamp(max=max_beta)


def posterior(x_0, x_t, t, betas):
    alphas_bar = torch.cumprod(1 - betas, 0)
    alphas_bar_prev = torch.cat([torch.ones_like(alphas_bar[:1]), alphas_bar[:-1]])  # 1: no noise before the first step
    beta, a_bar, a_bar_prev = (extract(table, t, x_0.shape) for table in (betas, alphas_bar, alphas_bar_prev))
    coef1 = a_bar_prev.sqrt() * beta / (1 - a_bar)
    coef2 = (1 - beta).sqrt() * (1 - a_bar_prev) / (1 - a_bar)
    return coef1 * x_0 + coef2 * x_t, beta * (1 - a_bar_prev) / (1 - a_bar)


def x_0_from_eps(x_t, t, eps, alphas_bar):
    a_bar = extract(alphas_bar, t, x_t.shape)
    return (x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()


class Forward:
    def __init__(self, curve, T, max_beta=0.999):
        values = curve(torch.linspace(0, 1, T + 1, dtype=torch.float64))  # T steps have T + 1 ends
        self.betas = (1 - values[1:] / values[:-1]).clamp(max=max_beta)
        self.alphas_bar = torch.cumprod(1 - self.betas, 0)  # of the capped betas: these are the steps that are made

    def bits_left(self):
        return -0.5 * math.log2(1 - self.alphas_bar[-1].item())

    def q_sample(self, x_0, t, noise):
        return q_sample(x_0, t, noise, self.alphas_bar)

    def back(self, x_0, x_T, noise):
        states = [x_T]
        for step in reversed(range(len(self.betas))):
            mean, var = posterior(x_0, states[-1], torch.full((len(x_0),), step), self.betas)
            states.append(mean + var.sqrt() * noise[step])  # at step 0 the variance is 0: the last state is x_0
        return torch.stack(states)
