"""The course's own implementation of every exercise, under the exercise's signature.

What a check gives back instead of an answer that is not right yet. Each imports the package only when it is called:
the specifications and everything else in this folder know nothing of it.
"""

import math

import torch
from torch.nn import functional as F

from ddpm_lesson.checks._finished_variants import (
    cfg_eps,
    ddgan_step,
    discriminator_loss,
    generate,
    generator_loss,
    guided_chain,
    guided_eps,
    guided_mean,
    hybrid_loss,
    learned_log_var,
    r1_penalty,
    rescaled_eps,
    v_target,
    x_0_from_v,
    zero_terminal_snr,
)
from ddpm_lesson.checks._unfilled import Unfilled


def linear_betas(beta_1, beta_T, T):
    from ddpm_lesson.schedules import linear

    return linear(T, beta_1, beta_T)


def walk(x_0, betas, noise):
    from ddpm_lesson.process import GaussianDiffusion

    process, states = GaussianDiffusion(betas).to(x_0.device), [x_0]
    for t in range(process.T):
        states.append(process.q_step(states[-1], torch.full((len(x_0),), t, device=x_0.device), noise[t]))
    return torch.stack(states)


def extract(v, t, x_shape):
    from ddpm_lesson.coefficients import extract as looked_up

    return looked_up(v, t, x_shape)


def q_sample(x_0, t, noise, alphas_bar):
    from ddpm_lesson.coefficients import combine, extract

    a_bar = extract(alphas_bar, t, t.shape)
    return combine((a_bar.sqrt(), x_0), ((1 - a_bar).sqrt(), noise))


def cosine_betas(T, s=0.008, max_beta=0.999):
    from ddpm_lesson.schedules import cosine

    return cosine(T, s, max_beta)


def posterior(x_0, x_t, t, betas):
    from ddpm_lesson.process import GaussianDiffusion

    q = GaussianDiffusion(betas).to(t.device).q_posterior(x_0, x_t, t)  # its tables begin on the CPU
    return q.mean, q.log_var.exp()


def x_0_from_eps(x_t, t, eps, alphas_bar):
    from ddpm_lesson.coefficients import combine, extract

    a_bar = extract(alphas_bar, t, t.shape)
    return combine((a_bar.rsqrt(), x_t), (-(1 / a_bar - 1).sqrt(), eps))


class Forward:
    def __init__(self, curve, T, max_beta=0.999):
        from ddpm_lesson import schedules
        from ddpm_lesson.process import GaussianDiffusion

        values = curve(torch.linspace(0, 1, T + 1, dtype=torch.float64))
        self._process = GaussianDiffusion(schedules.betas_from_alphas_bar(values, max_beta))
        self.betas, self.alphas_bar = self._process.betas, self._process.alphas_bar

    def bits_left(self):
        return -0.5 * math.log2(1 - self._process.alpha_bar_T)

    def q_sample(self, x_0, t, noise):
        return self._process.to(t.device).q_sample(x_0, t, noise)

    def back(self, x_0, x_T, noise):
        process, states = self._process.to(x_0.device), [x_T]
        for step in reversed(range(process.T)):
            q = process.q_posterior(x_0, states[-1], torch.full((len(x_0),), step, device=x_0.device))
            states.append(q.mean + (0.5 * q.log_var).exp() * noise[step])
        return torch.stack(states)


def gaussian_kl(mean_1, var_1, mean_2, var_2):
    from ddpm_lesson.gaussian import Gaussian

    return Gaussian(mean_1, var_1.log()).kl(Gaussian(mean_2, var_2.log()))


def mean_from_eps(x_t, t, eps, betas):
    from ddpm_lesson.coefficients import combine, extract

    alphas = 1 - betas
    eps_coef = betas / (alphas * (1 - torch.cumprod(alphas, 0))).sqrt()
    return combine((extract(alphas.rsqrt(), t, t.shape), x_t), (-extract(eps_coef, t, t.shape), eps))


def vlb_weight(betas, var):
    from ddpm_lesson.process import GaussianDiffusion

    process = GaussianDiffusion(betas).to(betas.device)
    return betas**2 / (2 * var * process.alphas * (1 - process.alphas_bar))


def simple_loss(model, x_0, t, noise, alphas_bar):
    return (model(q_sample(x_0, t, noise, alphas_bar), t) - noise) ** 2


def training_loop(model, average, batches, loss, lr, warmup, clip_norm, decay):
    optimizer = torch.optim.Adam(model.parameters())
    for k, batch in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, k / warmup)
        value = loss(model, *batch).mean()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        with torch.no_grad():
            for held, weight in zip(average.parameters(), model.parameters(), strict=True):
                held.lerp_(weight, 1 - decay)
        yield value.item()


def discretized_log_prob(x, mean, std, levels):
    from ddpm_lesson.gaussian import Gaussian

    return Gaussian(mean, 2 * std.log()).discretized_log_prob(x, levels)


def min_snr_weights(snr, gamma):
    from ddpm_lesson.losses import min_snr

    eps = min_snr(snr, gamma)
    return eps, eps * snr, eps * snr / (snr + 1)


def time_table(T, d_model):
    from ddpm_lesson.networks.blocks import TimeEmbedding

    return TimeEmbedding(T, d_model, d_model).timembedding[0].weight.detach()


def group_norm(x, num_groups, weight, bias):
    return F.group_norm(x, num_groups, weight, bias)


def add_time(h, temb, weight, bias):
    from ddpm_lesson.networks.blocks import Swish

    return h + F.linear(Swish()(temb), weight, bias)[:, :, None, None]


def ResBlock(in_ch, out_ch, tdim, dropout, num_groups=32):
    from ddpm_lesson.networks import blocks

    return blocks.ResBlock(in_ch, out_ch, tdim, dropout, num_groups=num_groups, zero_init=True)


def attention(q, k, v):
    pixels = [x.flatten(2).mT for x in (q, k, v)]  # (B, H W, C)
    return F.scaled_dot_product_attention(*pixels).mT.reshape(v.shape)


def AttnBlock(in_ch, num_groups=32):
    from ddpm_lesson.networks import blocks

    return blocks.AttnBlock(in_ch, num_groups=num_groups, zero_init=True)


def skip_channels(ch, ch_mult, num_res_blocks):
    from ddpm_lesson.networks.blocks import ResBlock
    from ddpm_lesson.networks.unet import UNet

    with Unfilled():
        unet = UNet(2, ch, ch_mult, [], num_res_blocks, 0.0, num_groups=1)
    return [block.block1[-1].in_channels for block in unet.upblocks if isinstance(block, ResBlock)]


def UNet(T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
    from ddpm_lesson.networks import unet

    options = {"in_ch": in_ch, "num_groups": num_groups, "zero_init": True}
    return unet.UNet(T, ch, ch_mult, attn, num_res_blocks, dropout, **options)


def down_same(x, weight):
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, stride=2)


def res_block_parameters(in_ch, out_ch, tdim):
    from ddpm_lesson.networks.blocks import ResBlock

    with Unfilled():
        block = ResBlock(in_ch, out_ch, tdim, dropout=0.0, num_groups=math.gcd(in_ch, out_ch))
    return sum(parameter.numel() for parameter in block.parameters() if parameter.requires_grad)


def ancestral_chain(model, betas, x_T, noise):
    from ddpm_lesson.process import GaussianDiffusion

    process, x = GaussianDiffusion(betas).to(x_T.device), x_T
    for i in reversed(range(process.T)):
        t = torch.full((len(x),), i, device=x.device)
        x = process.q_posterior(process.x_0_from_eps(x, t, model(x, t)), x, t).mean
        if i > 0:
            x = x + process.sqrt_betas[i] * noise[i]
        yield x


def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    from ddpm_lesson.process import GaussianDiffusion

    chain = GaussianDiffusion.from_alphas_bar(alphas_bar).respaced([step for step in (t_prev, t) if step >= 0])
    last = torch.full((len(x_t),), chain.T - 1, device=x_t.device)
    chain = chain.to(x_t.device)
    q = chain.q_posterior_ddim(chain.x_0_from_eps(x_t, last, eps), eps, last, eta)
    return q.mean + (0.5 * q.log_var).exp() * noise


def slerp(a, b, share):
    from ddpm_lesson.samplers import slerp as arc

    return arc(a, b, share)


def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    from ddpm_lesson.process import GaussianDiffusion

    if t_prev < 0:
        return x_0
    process = GaussianDiffusion.from_alphas_bar(alphas_bar)
    half_log_snr, std = 0.5 * process.snr.log(), process.sqrt_one_minus_alphas_bar
    h, D = half_log_snr[t_prev] - half_log_snr[t], x_0
    if x_0_before is not None:
        D = x_0 + h / (half_log_snr[t] - half_log_snr[t_before]) / 2 * (x_0 - x_0_before)
    return std[t_prev] / std[t] * x_t - process.sqrt_alphas_bar[t_prev] * torch.expm1(-h) * D


def respaced_betas(alphas_bar, timesteps):
    from ddpm_lesson.schedules import betas_from_alphas_bar

    return betas_from_alphas_bar(F.pad(alphas_bar[timesteps], (1, 0), value=1.0))


def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    from ddpm_lesson.process import GaussianDiffusion

    process, x_t = GaussianDiffusion(betas).to(x_T.device), x_T
    for i in reversed(range(process.T)):
        t = torch.full((len(x_t),), i, device=x_t.device)
        for left in reversed(range(repeats)):
            unknown = p_step(x_t, i)
            x_prev = mask * (process.q_sample(known, t - 1, draw()) if i > 0 else known) + (1 - mask) * unknown
            x_t = process.q_step(x_prev, t, draw()) if left and i > 0 else x_t
        x_t = x_prev
        yield x_t


FINISHED = {
    f.__name__: f
    for f in (linear_betas, walk, extract, q_sample, cosine_betas, posterior, x_0_from_eps, Forward)
    + (simple_loss, mean_from_eps, gaussian_kl, vlb_weight, training_loop, discretized_log_prob, min_snr_weights)
    + (time_table, group_norm, add_time, ResBlock, attention, AttnBlock)
    + (skip_channels, UNet, down_same, res_block_parameters)
    + (ancestral_chain, ddim_step, slerp, dpmpp_2m_step, inpaint, respaced_betas)
    + (learned_log_var, hybrid_loss, guided_mean, guided_eps, cfg_eps, guided_chain)
    + (v_target, x_0_from_v, zero_terminal_snr, rescaled_eps)
    + (ddgan_step, discriminator_loss, generator_loss, r1_penalty, generate)
}
