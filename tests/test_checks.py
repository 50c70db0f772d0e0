"""The checks: every solution passes, every stub is left alone, every misconception gets its own sentence."""

import ast
import functools
import importlib.util
import inspect
import itertools
import linecache
import math
import sys
from collections import deque, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import einsum, rearrange, reduce
from test_checks_01 import VARIANTS as VARIANTS_01
from test_checks_02 import VARIANTS as VARIANTS_02
from test_checks_03 import VARIANTS as VARIANTS_03
from test_checks_04 import VARIANTS as VARIANTS_04
from test_checks_05 import VARIANTS as VARIANTS_05
from test_checks_ddgan import VARIANTS as VARIANTS_DDGAN
from torch import nn
from torch.nn import functional as F

from ddpm_lesson import checks
from ddpm_lesson.networks.blocks import ResBlock
from ddpm_lesson.networks.unet import UNet

ROOT = Path(__file__).parent.parent
CHECKS = list(checks.registry.values())
every_check = pytest.mark.parametrize("check", CHECKS, ids=list(checks.registry))


def solutions() -> dict[str, dict]:
    """For each notebook's number, the functions that its file in notebooks/solutions defines, by name."""
    by_notebook = {}
    for path in sorted((ROOT / "notebooks" / "solutions").glob("*.py")):
        spec = importlib.util.spec_from_file_location("solution_" + path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        own = {
            name: f
            for name, f in vars(module).items()
            if (inspect.isfunction(f) or inspect.isclass(f)) and f.__module__ == spec.name
        }
        by_notebook[str(int(path.stem[:2]))] = own
    return by_notebook


SOLVED = solutions()
SOLUTIONS = {name: function for functions in SOLVED.values() for name, function in functions.items()}


def said(check, function, capsys) -> str:
    """What the check prints, without the line's end; it gives back something to call and leaves stderr empty."""
    capsys.readouterr()
    assert callable(check(function))
    out, err = capsys.readouterr()
    assert err == "" and out.endswith("\n")
    return out[:-1]


# Right answers.


@every_check
def test_solution_passes(check, capsys):
    expected = f"{check.number} {check.name}: yes ({len(check.cases)} inputs, {check.among} among them)"
    assert said(check, SOLUTIONS[check.name], capsys) == expected


def test_solutions_and_checks_are_the_same_set():
    by_notebook = {}
    for name, check in checks.registry.items():
        assert getattr(checks, name) is check and check.name == name
        by_notebook.setdefault(check.number.split(".")[0], set()).add(name)
    by_notebook["5"].add(checks.meets.name)
    assert {number: set(functions) for number, functions in SOLVED.items()} == by_notebook
    numbers = [[int(part) for part in check.number.split(".")] for check in CHECKS]
    assert numbers == sorted(numbers) and len(set(map(tuple, numbers))) == len(numbers)


@every_check
def test_solution_has_the_parameters_of_the_specification(check):
    """The stub that a notebook shows has them too."""
    assert inspect.signature(SOLUTIONS[check.name]) == inspect.signature(check.specification)


Moments = namedtuple("Moments", "mean var")


def spread_out(table, t, x):
    """table[t] as (B, 1, ..., 1), by einops."""
    return rearrange(table[t], f"b -> b {'1 ' * (x.ndim - 1)}")


def linear_by_loop(beta_1, beta_T, T):
    betas = torch.empty(T, dtype=torch.float64)
    for i in range(T):
        betas[i] = beta_1 if T == 1 else beta_1 + i * (beta_T - beta_1) / (T - 1)
    return betas


def linear_by_weights(beta_1, beta_T, T):
    share = torch.arange(T, dtype=torch.float64) / max(T - 1, 1)
    return (1 - share) * beta_1 + share * beta_T


def q_sample_by_loop(x_0, t, noise, alphas_bar):
    return torch.stack(
        [alphas_bar[t[i]] ** 0.5 * x_0[i] + (1 - alphas_bar[t[i]]) ** 0.5 * noise[i] for i in range(len(x_0))]
    )


def q_sample_by_einops(x_0, t, noise, alphas_bar):
    a_bar = spread_out(alphas_bar, t, x_0)
    return torch.sqrt(a_bar) * x_0 + torch.sqrt(1 - a_bar) * noise


def q_sample_in_float32(x_0, t, noise, alphas_bar):
    a_bar = alphas_bar.float()[t].view(-1, *(1,) * (x_0.dim() - 1))
    return a_bar.sqrt() * x_0.float() + (1 - a_bar).sqrt() * noise.float()


def q_sample_by_numpy(x_0, t, noise, alphas_bar):
    a_bar = alphas_bar.numpy()[t.numpy()]
    x, e = np.moveaxis(x_0.numpy(), 0, -1), np.moveaxis(noise.numpy(), 0, -1)
    return torch.from_numpy(np.moveaxis(np.sqrt(a_bar) * x + np.sqrt(1 - a_bar) * e, -1, 0))


def q_sample_flat(x_0, t, noise, alphas_bar):
    a_bar = torch.gather(alphas_bar, 0, t)[:, None]
    return (a_bar.sqrt() * x_0.flatten(1) + (1 - a_bar).sqrt() * noise.flatten(1)).view_as(x_0)


def extract_by_indexing(v, t, x_shape):
    return v[t][(...,) + (None,) * (len(x_shape) - 1)]


def extract_by_loop(v, t, x_shape):
    out = torch.stack([v[i] for i in t])
    for _ in x_shape[1:]:
        out = out.unsqueeze(-1)
    return out


def extract_by_einops(v, t, x_shape):
    return rearrange(v.index_select(0, t), f"b -> b {'1 ' * (len(x_shape) - 1)}")


def extract_by_numpy(v, t, x_shape):
    return torch.from_numpy(v.numpy()[t.numpy()].reshape([len(t)] + [1] * (len(x_shape) - 1)))


def cosine_by_loop(T, s=0.008, max_beta=0.999):
    def alpha_bar(time):
        return math.cos((time + s) / (1 + s) * math.pi * 0.5) ** 2 / math.cos(s / (1 + s) * math.pi * 0.5) ** 2

    betas = [min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), max_beta) for i in range(T)]
    return torch.tensor(betas, dtype=torch.float64)


def cosine_by_logarithms(T, s=0.008, max_beta=0.999):
    angle = (torch.arange(T + 1).double() / T + s) / (1 + s) * torch.pi / 2
    return torch.clip(-torch.expm1(2 * torch.cos(angle).log().diff()), max=max_beta)


def cosine_by_numpy(T, s=0.008, max_beta=0.999):
    half_angle = (np.linspace(0, 1, T + 1) + s) / (1 + s) * np.pi
    alphas_bar = (1 + np.cos(half_angle)) / 2  # cos(a)^2 = (1 + cos(2a)) / 2
    return torch.from_numpy(np.minimum(1 - alphas_bar[1:] / alphas_bar[:-1], max_beta))


def posterior_by_bayes(x_0, x_t, t, betas):
    """Precisions add; at t = 0 the prior's is infinite and is written out."""
    beta = spread_out(betas, t, x_0)
    a_bar = torch.cumprod(1 - betas, 0)
    a_bar_prev = spread_out(torch.nn.functional.pad(a_bar[:-1], (1, 0), value=1.0), t, x_0)
    first = a_bar_prev == 1
    prior_var = torch.where(first, 1.0, 1 - a_bar_prev)
    var = 1 / (1 / prior_var + (1 - beta) / beta)
    mean = var * (a_bar_prev.sqrt() / prior_var * x_0 + (1 - beta).sqrt() / beta * x_t)
    return Moments(torch.where(first, x_0.double(), mean), torch.where(first, 0.0, var))


def posterior_by_loop(x_0, x_t, t, betas):
    means, variances = [], []
    for x, y, i in zip(x_0, x_t, t, strict=True):
        before, after = torch.prod(1 - betas[:i]), torch.prod(1 - betas[: i + 1])
        first, second = before.sqrt() * betas[i], (1 - betas[i]).sqrt() * (1 - before)
        means.append((first * x + second * y) / (1 - after))
        variances.append((betas[i] * (1 - before) / (1 - after)).reshape([1] * (x_0.ndim - 1)))
    return [torch.stack(means), torch.stack(variances)]


def posterior_in_the_images_dtype(x_0, x_t, t, betas):
    return SOLUTIONS["posterior"](x_0, x_t, t, betas.to(x_0.dtype))


def respaced_by_loop(alphas_bar, timesteps):
    betas, previous = [], 1.0
    for i in timesteps:
        betas.append(1 - alphas_bar[i] / previous)
        previous = alphas_bar[i]
    return torch.stack(betas)


def respaced_from_products(alphas_bar, timesteps):
    """The alphas between two kept steps, multiplied."""
    alphas = alphas_bar / torch.cat([alphas_bar.new_ones(1), alphas_bar[:-1]])
    starts = [0, *(timesteps[:-1] + 1).tolist()]
    return torch.stack([1 - alphas[a : b + 1].prod() for a, b in zip(starts, timesteps.tolist(), strict=True)])


def respaced_by_logarithms(alphas_bar, timesteps):
    logs = alphas_bar[timesteps].log()
    return -torch.expm1(torch.diff(logs, prepend=torch.zeros_like(logs[:1])))


def x_0_by_loop(x_t, t, eps, alphas_bar):
    out = torch.empty_like(x_t)
    for i, step in enumerate(t.tolist()):
        out[i] = (x_t[i] - math.sqrt(1 - alphas_bar[step]) * eps[i]) / math.sqrt(alphas_bar[step])
    return out


def x_0_by_einops(x_t, t, eps, alphas_bar):
    a_bar = spread_out(alphas_bar, t, x_t)
    return x_t * a_bar.rsqrt() - (1 / a_bar - 1).sqrt() * eps


def x_0_in_float32(x_t, t, eps, alphas_bar):
    a_bar = alphas_bar.to(x_t.dtype)[t].reshape(-1, *[1] * (x_t.ndim - 1))
    return (x_t - (1 - a_bar).sqrt() * eps) / a_bar.sqrt()


def kl_by_logarithms(mean_1, var_1, mean_2, var_2):
    log_ratio = torch.log(var_1) - torch.log(var_2)
    return 0.5 * (log_ratio.exp() - log_ratio - 1) + 0.5 * (mean_1 - mean_2).square() / var_2


def kl_of_torch(mean_1, var_1, mean_2, var_2):
    first, second = (torch.distributions.Normal(m, v.double().sqrt()) for m, v in [(mean_1, var_1), (mean_2, var_2)])
    return torch.distributions.kl_divergence(first, second)


def kl_by_loop(mean_1, var_1, mean_2, var_2):
    out = torch.empty(mean_1.shape)
    var_1, var_2 = var_1.expand_as(out), var_2.expand_as(out)
    for i in np.ndindex(*mean_1.shape):
        s_1, s_2 = math.sqrt(var_1[i]), math.sqrt(var_2[i])
        out[i] = math.log(s_2 / s_1) + (var_1[i] + (mean_1[i] - mean_2[i]) ** 2) / (2 * var_2[i]) - 0.5
    return out


def mean_by_posterior(x_t, t, eps, betas):
    x_0 = SOLUTIONS["x_0_from_eps"](x_t, t, eps, torch.cumprod(1 - betas, 0))
    return SOLUTIONS["posterior"](x_0, x_t, t, betas)[0]


def mean_by_einops(x_t, t, eps, betas):
    alphas = 1 - betas
    coefficient = spread_out(betas * torch.rsqrt(1 - alphas.cumprod(0)), t, x_t)
    return torch.rsqrt(spread_out(alphas, t, x_t)) * (x_t - coefficient * eps)


def mean_by_loop(x_t, t, eps, betas):
    rows = []
    for x, e, i in zip(x_t, eps, t.tolist(), strict=True):
        a_bar = torch.prod(1 - betas[: i + 1]).item()
        rows.append((x - betas[i].item() / math.sqrt(1 - a_bar) * e) / math.sqrt(1 - betas[i].item()))
    return torch.stack(rows)


def vlb_weight_by_loop(betas, var):
    a_bar, weights = 1.0, []
    for beta, v in zip(betas.tolist(), var.tolist(), strict=True):
        a_bar *= 1 - beta
        weights.append(beta * beta / (2 * v * (1 - beta) * (1 - a_bar)))
    return torch.tensor(weights)


def vlb_weight_of_the_means(betas, var):
    """Eq. 8 for an error of 1 in eps."""
    one, zero, t = torch.ones(len(betas)).double(), torch.zeros(len(betas)), torch.arange(len(betas))
    return (mean_by_einops(one, t, one, betas) - mean_by_einops(one, t, zero, betas)) ** 2 / (2 * var)


def simple_loss_by_mse(model, x_0, t, noise, alphas_bar):
    x_t = q_sample_by_einops(x_0, t, noise, alphas_bar)
    return nn.functional.mse_loss(model(x_t, t), noise.to(x_t.dtype), reduction="none")


def simple_loss_by_loop(model, x_0, t, noise, alphas_bar):
    x_t = q_sample_by_loop(x_0, t, noise, alphas_bar)
    return torch.cat([(noise[i : i + 1] - model(x_t[i : i + 1], t[i : i + 1])) ** 2 for i in range(len(t))])


def simple_loss_in_float32(model, x_0, t, noise, alphas_bar):
    return (model(q_sample_in_float32(x_0, t, noise, alphas_bar), t) - noise).pow(2)


def bins_of_torch(x, mean, std, levels):
    normal, edge = torch.distributions.Normal(mean, std.expand_as(mean)), 1 / (levels - 1)
    upper = torch.where(x > 1 - edge, torch.ones_like(x), normal.cdf(x + edge))
    return torch.log(upper - torch.where(x < -1 + edge, torch.zeros_like(x), normal.cdf(x - edge)))


def bins_as_published(x, mean, std, levels):
    """The three cases of improved-diffusion, probabilities clamped at 1e-12, with the exact CDF."""
    plus = torch.special.ndtr((x - mean + 1 / (levels - 1)) / std)
    minus = torch.special.ndtr((x - mean - 1 / (levels - 1)) / std)
    inner = (plus - minus).clamp(min=1e-12).log()
    outer = torch.where(x > 0.999, (1 - minus).clamp(min=1e-12).log(), inner)
    return torch.where(x < -0.999, plus.clamp(min=1e-12).log(), outer)


def bins_by_edges(x, mean, std, levels):
    """All edges at once, infinite at both ends, and a look-up."""
    centres = torch.linspace(-1, 1, levels, dtype=torch.float64)
    inf = torch.tensor([math.inf], dtype=torch.float64)
    edges = torch.cat([-inf, (centres[1:] + centres[:-1]) / 2, inf])
    level = ((x + 1) / 2 * (levels - 1)).round().long()
    return (
        torch.erf((edges[level + 1] - mean) / std / 2**0.5) / 2 - torch.erf((edges[level] - mean) / std / 2**0.5) / 2
    ).log()


def bins_by_tails(x, mean, std, levels):
    """Stable far out too: the smaller of the two tails, on the logarithmic scale."""
    below, above = (x - 1 / (levels - 1) - mean) / std, (x + 1 / (levels - 1) - mean) / std
    below, above = below.masked_fill(x < -0.99999, -math.inf), above.masked_fill(x > 0.99999, math.inf)
    below, above = torch.where(below > 0, -above, below), torch.where(below > 0, -below, above)
    low, high = torch.special.log_ndtr(below), torch.special.log_ndtr(above)
    return high + torch.log1p(-torch.exp(low - high))


def min_snr_by_where(snr, gamma):
    small = snr <= gamma
    x_0 = torch.where(small, snr, gamma)
    return torch.where(small, 1.0, gamma / snr.clamp(min=gamma)), x_0, x_0 / (1 + snr)


def min_snr_by_minimum(snr, gamma):
    capped = torch.minimum(snr, torch.full_like(snr, gamma))
    eps = torch.minimum(torch.ones_like(snr), gamma / snr)
    return [eps, capped, eps * snr / (snr + 1)]


def min_snr_by_loop(snr, gamma):
    rows = [
        (min(1.0, gamma / r) if r > 0 else 1.0, min(r, gamma), min(r, gamma) / (r + 1)) for r in snr.flatten().tolist()
    ]
    return tuple(torch.tensor(column).view(snr.shape) for column in zip(*rows, strict=True))


def table_by_loop(T, d_model):
    table = torch.zeros(T, d_model)
    for t in range(T):
        for k in range(0, d_model, 2):
            table[t, k] = math.sin(t / 10000 ** (k / d_model))
            table[t, k + 1] = math.cos(t / 10000 ** (k / d_model))
    return table


def table_of_the_post(T, d_model, waves=(torch.sin, torch.cos), sign=-1):
    emb = torch.exp(sign * (torch.arange(0, d_model, step=2) / d_model * math.log(10000)))
    emb = torch.arange(T).float()[:, None] * emb[None, :]
    return torch.stack([wave(emb) for wave in waves], dim=-1).view(T, d_model)


def table_by_slices(T, d_model):
    table = torch.empty(T, d_model)
    angles = torch.outer(torch.arange(T).float(), 10000.0 ** (-torch.arange(0, d_model, 2).float() / d_model))
    table[:, 0::2], table[:, 1::2] = torch.sin(angles), torch.cos(angles)
    return table


def table_by_einops(T, d_model):
    angles = np.arange(T)[:, None] * np.exp(-np.log(10000) * np.arange(0, d_model, 2) / d_model)
    return rearrange([torch.from_numpy(wave(angles)) for wave in (np.sin, np.cos)], "two t k -> t (k two)")


def table_by_rotation(T, d_model):
    """Each pair turns by its frequency at every step."""
    pairs = torch.ones(T, d_model // 2, dtype=torch.float64) * 10000 ** (-2 * torch.arange(d_model // 2) / d_model)
    turns = torch.polar(torch.ones_like(pairs), pairs.cumsum(0) - pairs)
    return torch.view_as_real(turns).flip(-1).flatten(1)


def norm_by_einops(x, num_groups, weight, bias):
    h = rearrange(x, "b (g c) h w -> b g c h w", g=num_groups)
    h = h - reduce(h, "b g c h w -> b g 1 1 1", "mean")
    h = h * torch.rsqrt(reduce(h**2, "b g c h w -> b g 1 1 1", "mean") + 1e-5)
    h = rearrange(h, "b g c h w -> b (g c) h w")
    return h * rearrange(weight, "c -> c 1 1") + rearrange(bias, "c -> c 1 1")


def norm_by_loop(x, num_groups, weight, bias):
    images = []
    for image in x:
        groups = [(g - g.mean()) / (g.var(unbiased=False) + 1e-5) ** 0.5 for g in image.chunk(num_groups)]
        images.append(torch.cat(groups))
    return torch.stack(images) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def norm_in_float64(x, num_groups, weight, bias):
    h = x.double().view(len(x), num_groups, -1)
    var, mean = torch.var_mean(h, -1, correction=0, keepdim=True)
    h = ((h - mean) / torch.sqrt(var + 1e-5)).view_as(x)
    return weight.double()[None, :, None, None] * h + bias.double()[None, :, None, None]


def norm_by_layer_norm(x, num_groups, weight, bias):
    h = x.reshape(len(x) * num_groups, -1)
    return F.layer_norm(h, h.shape[1:]).reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def time_by_einops(h, temb, weight, bias):
    time = einsum(temb * torch.sigmoid(temb), weight, "b t, c t -> b c") + bias
    return h + rearrange(time, "b c -> b c 1 1")


def time_by_loop(h, temb, weight, bias):
    out = h.clone()
    for b in range(len(h)):
        for c in range(h.shape[1]):
            out[b, c] += (temb[b] / (1 + torch.exp(-temb[b])) * weight[c]).sum() + bias[c]
    return out


def time_by_layers(h, temb, weight, bias):
    """A layer that is called with the given numbers: a copy of them would get the gradient."""
    linear, numbers = nn.Linear(temb.shape[1], h.shape[1]), {"weight": weight.double(), "bias": bias.double()}
    time = torch.func.functional_call(linear, numbers, nn.functional.silu(temb.double()))
    return h.double() + time.unsqueeze(-1).unsqueeze(-1)


def attention_fused(q, k, v):
    H = q.shape[2]
    q, k, v = (rearrange(x, "b c h w -> b 1 (h w) c") for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b 1 (h w) c -> b c h w", h=H)


def attention_of_the_post(q, k, v):
    B, C, H, W = q.shape
    w = torch.bmm(q.permute(0, 2, 3, 1).reshape(B, H * W, C), k.reshape(B, C, H * W)) * (int(C) ** (-0.5))
    h = torch.bmm(F.softmax(w, dim=-1), v.permute(0, 2, 3, 1).reshape(B, H * W, C))
    return h.view(B, H, W, C).permute(0, 3, 1, 2)


def attention_by_einsum(q, k, v):
    """In two dimensions, the softmax over both at once, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    scores = torch.einsum("bchw,bcij->bhwij", q, k) / q.shape[1] ** 0.5
    weights = scores.flatten(3).softmax(-1).view_as(scores)
    return torch.einsum("bhwij,bcij->bchw", weights, v)


def attention_column_by_column(q, k, v):
    """Another order of the pixels, the same both ways."""
    W = q.shape[3]
    q, k, v = (rearrange(x, "b c h w -> b (w h) c") for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=2)
    return rearrange(weights @ v, "b (w h) c -> b c h w", w=W)


def skips_by_formula(ch, ch_mult, num_res_blocks):
    c = [ch, *(ch * mult for mult in ch_mult), ch * ch_mult[-1]]  # what comes before and after each level
    rows = [[c[i + 1] + c[i], *[2 * c[i]] * (num_res_blocks - 1), c[i] + c[i - 1]] for i in range(len(ch_mult), 0, -1)]
    return sum(rows, [])


def skips_by_deque(ch, ch_mult, num_res_blocks):
    made, inputs = deque([ch]), []
    for i, mult in enumerate(ch_mult):
        made.extendleft([mult * ch] * (num_res_blocks + (i < len(ch_mult) - 1)))
    came = ch * ch_mult[-1]
    for mult in ch_mult[::-1]:
        for _ in range(num_res_blocks + 1):
            inputs += [came + made.popleft()]
            came = mult * ch
    return inputs


def skips_of_the_network(ch, ch_mult, num_res_blocks):
    with torch.device("meta"):
        unet = UNet(10, ch, ch_mult, [], num_res_blocks, 0.0, num_groups=1)
    return [block.block1[2].in_channels for block in unet.upblocks if isinstance(block, ResBlock)]


def down_by_every_second(x, weight):
    """Stride 1, of which every second pixel is kept, beginning with the second."""
    return F.conv2d(x, weight, padding=1)[:, :, 1::2, 1::2]


def down_by_unfold(x, weight):
    columns = F.unfold(nn.ZeroPad2d((0, 1, 0, 1))(x.double()), 3, stride=2)  # (B, 9 C, pixels)
    return (weight.double().flatten(1) @ columns).unflatten(2, (x.shape[2] // 2, -1))


def down_by_taps(x, weight):
    big = torch.zeros(*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1)
    big[:, :, :-1, :-1] = x
    out = 0
    for m in range(3):
        for n in range(3):
            window = big[:, :, m : m + x.shape[2] : 2, n : n + x.shape[3] : 2]
            out = out + einsum(weight[:, :, m, n], window, "o c, b c h w -> b o h w")
    return out


def parameters_of_layers(in_ch, out_ch, tdim, bias=True, shortcut=None):
    shortcut = in_ch != out_ch if shortcut is None else shortcut
    layers = nn.ModuleList(
        [
            nn.GroupNorm(32, in_ch),
            nn.Conv2d(in_ch, out_ch, 3, padding=1, bias=bias),
            nn.Linear(tdim, out_ch, bias=bias),
            nn.GroupNorm(32, out_ch),
            nn.Conv2d(out_ch, out_ch, 3, padding=1, bias=bias),
            nn.Conv2d(in_ch, out_ch, 1, bias=bias) if shortcut else nn.Identity(),
        ]
    )
    return sum(p.numel() for p in layers.parameters() if p.requires_grad)


def parameters_in_closed_form(in_ch, out_ch, tdim):
    return (9 + (in_ch != out_ch)) * in_ch * out_ch + (9 * out_ch + tdim + 5 + (in_ch != out_ch)) * out_ch + 2 * in_ch


VARIANTS = (
    VARIANTS_01
    | VARIANTS_02
    | VARIANTS_03
    | VARIANTS_04
    | VARIANTS_05
    | VARIANTS_DDGAN
    | {
        "linear_betas": [
            linear_by_loop,
            linear_by_weights,
            lambda beta_1, beta_T, T: torch.from_numpy(np.linspace(beta_1, beta_T, T)),
            lambda *args: linear_by_loop(*args).requires_grad_(),
        ],
        "q_sample": [q_sample_by_loop, q_sample_by_einops, q_sample_in_float32, q_sample_by_numpy, q_sample_flat],
        "extract": [
            extract_by_indexing,
            extract_by_loop,
            extract_by_einops,
            extract_by_numpy,
            lambda v, t, x_shape: v.view(-1, *[1] * (len(x_shape) - 1))[t],
        ],
        "cosine_betas": [cosine_by_loop, cosine_by_logarithms, cosine_by_numpy],
        "posterior": [posterior_by_bayes, posterior_by_loop, posterior_in_the_images_dtype],
        "respaced_betas": [respaced_by_loop, respaced_from_products, respaced_by_logarithms],
        "x_0_from_eps": [x_0_by_loop, x_0_by_einops, x_0_in_float32],
        "gaussian_kl": [kl_by_logarithms, kl_of_torch, kl_by_loop],
        "mean_from_eps": [mean_by_posterior, mean_by_einops, mean_by_loop],
        "vlb_weight": [
            vlb_weight_by_loop,
            vlb_weight_of_the_means,
            lambda *tables: SOLUTIONS["vlb_weight"](*tables).float(),
        ],
        "simple_loss": [simple_loss_by_mse, simple_loss_by_loop, simple_loss_in_float32],
        "discretized_log_prob": [bins_of_torch, bins_as_published, bins_by_edges, bins_by_tails],
        "min_snr_weights": [min_snr_by_where, min_snr_by_minimum, min_snr_by_loop],
        "time_table": [table_by_loop, table_of_the_post, table_by_slices, table_by_einops, table_by_rotation],
        "group_norm": [F.group_norm, norm_by_einops, norm_by_loop, norm_in_float64, norm_by_layer_norm],
        "add_time": [time_by_einops, time_by_loop, time_by_layers],
        "attention": [attention_fused, attention_of_the_post, attention_by_einsum, attention_column_by_column],
        "skip_channels": [skips_by_formula, skips_by_deque, skips_of_the_network],
        "down_same": [
            down_by_every_second,
            down_by_unfold,
            down_by_taps,
            lambda x, weight: F.conv2d(F.pad(x, (1, 1, 1, 1))[:, :, 1:, 1:], weight, stride=2),
        ],
        "res_block_parameters": [
            parameters_of_layers,
            parameters_in_closed_form,
            lambda *sizes: sum(p.numel() for p in ResBlock(*sizes, dropout=0.1).parameters()),
        ],
    }
)


@pytest.mark.parametrize(("name", "i"), [(name, i) for name, row in VARIANTS.items() for i in range(len(row))])
def test_correct_variants_pass(name, i, capsys):
    assert said(checks.registry[name], VARIANTS[name][i], capsys).startswith(
        f"{checks.registry[name].number} {name}: yes"
    )


@every_check
def test_at_least_three_variants(check):
    assert len(VARIANTS[check.name]) >= 3


def test_use_of_the_global_generator_is_no_mistake(capsys):
    def q_sample(x_0, t, noise, alphas_bar):
        torch.rand(3), np.random.rand(3)
        return SOLUTIONS["q_sample"](x_0, t, noise, alphas_bar)

    assert said(checks.q_sample, q_sample, capsys).startswith("1.4 q_sample: yes")


def test_callables_that_are_no_plain_functions(capsys):
    class Learner(nn.Module):
        def forward(self, x_0, t, noise, alphas_bar):
            return SOLUTIONS["q_sample"](x_0, t, noise, alphas_bar)

    class Odd:
        """Its signature is none, and it says that it wraps what is no function."""

        __signature__ = __code__ = "odd"

        def __call__(self, x_0, t, noise, alphas_bar):
            return SOLUTIONS["q_sample"](x_0, t, noise, alphas_bar)

    class Loop(Odd):
        __signature__ = property(lambda self: 1 / 0)
        __wrapped__ = property(lambda self: self)

    for function in [Learner(), Learner().forward, functools.partial(SOLUTIONS["q_sample"]), Odd(), Loop()]:
        assert said(checks.q_sample, function, capsys).startswith("1.4 q_sample: yes")
    assert said(checks.linear_betas, max, capsys).startswith("1.1 linear_betas: no. For beta_1 = 0.1, beta_T = 0.3")


# Untouched stubs.


def dots(x_0, t, noise, alphas_bar): ...


def passes(x_0, t, noise, alphas_bar):
    pass


def docstring_and_dots(x_0: torch.Tensor, t, noise, alphas_bar) -> torch.Tensor:
    """x_t ~ q(x_t | x_0)."""
    ...


def docstring_only(x_0, t, noise, alphas_bar):
    """x_t ~ q(x_t | x_0)."""


def raises(x_0, t, noise, alphas_bar):
    raise NotImplementedError


def raises_with_words(x_0, t, noise, alphas_bar):
    """x_t ~ q(x_t | x_0)."""
    raise NotImplementedError("your turn")


def returns_nothing(x_0, t, noise, alphas_bar):
    return


UNTOUCHED = [
    dots,
    passes,
    docstring_and_dots,
    docstring_only,
    raises,
    raises_with_words,
    returns_nothing,
    lambda x_0, t, noise, alphas_bar: ...,
    torch.no_grad()(dots),
]


@every_check
def test_untouched_stubs_are_not_attempted(check, capsys):
    for stub in UNTOUCHED:
        assert said(check, stub, capsys) == f"{check.number} {check.name}: not attempted"


def from_a_string(text, name="q_sample"):
    space = {}
    exec(text, space)
    return space[name]


@pytest.mark.parametrize(
    "body", ["...", "pass", "'x_t'", "return", "raise NotImplementedError", "raise NotImplementedError('yours')"]
)
def test_a_stub_without_source_is_not_attempted(body, capsys):
    stub = from_a_string(f"def q_sample(x_0, t, noise, alphas_bar): {body}")
    assert said(checks.q_sample, stub, capsys) == "1.4 q_sample: not attempted"


@pytest.mark.parametrize(
    "body", ["return x_0", "x_t = noise", "return [x_0][0]", "return x_0 + noise", "print(end='')", "1 / 0", "return 0"]
)
def test_an_answer_without_source_is_an_attempt(body, capsys):
    answer = from_a_string(f"def q_sample(x_0, t, noise, alphas_bar): {body}")
    assert said(checks.q_sample, answer, capsys).startswith("1.4 q_sample: no. ")


def test_a_stub_of_a_cell_is_not_attempted(capsys):
    """As in IPython, where linecache holds the cell."""
    cell = "def q_sample(x_0, t, noise, alphas_bar):\n    # your turn\n    ...\n"
    space, name = {}, "<ipython-input-1>"
    linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
    exec(compile(cell, name, "exec"), space)
    assert said(checks.q_sample, space["q_sample"], capsys) == "1.4 q_sample: not attempted"
    assert said(checks.q_sample, functools.partial(space["q_sample"]), capsys) == "1.4 q_sample: not attempted"


def test_a_forgotten_return_is_no_stub(capsys):
    def computes(x_0, t, noise, alphas_bar):
        x_t = x_0 + noise  # noqa: F841

    def half_done(x_0, t, noise, alphas_bar):
        a_bar = alphas_bar[t]  # noqa: F841
        ...

    def prints(x_0, t, noise, alphas_bar):
        print(end="")

    for function in [computes, half_done, prints, lambda x_0, t, noise, alphas_bar: [None][0]]:
        assert said(checks.q_sample, function, capsys) == (
            "1.4 q_sample: no. For x_0 of shape (4, 1, 8, 8), t = [0, 3, 3, 9]: "
            "your function returns None: did you forget return?"
        )


@pytest.mark.parametrize("constant", [lambda *args: 0.5, lambda *args: 1, lambda *args: [], lambda *args: (0, 1)])
def test_a_constant_is_an_attempt(constant, capsys):
    assert "no. For x_0 of shape (4, 1, 8, 8)" in said(checks.q_sample, constant, capsys)


# Misconceptions.


@every_check
def test_misconceptions_are_four_at_least_with_a_sentence_each(check):
    sentences = [misconception.sentence for misconception in check.mistakes]
    assert len(set(sentences)) == len(sentences) >= 4
    assert all(sentence.endswith(".") and sentence.isascii() for sentence in sentences)
    assert not any(odd in sentence for sentence in sentences for odd in ["  ", "\n", "tensor("])


@every_check
def test_misconception_gets_its_sentence(check):
    for wrong in check.singles:
        assert check.diagnose(wrong.function) == ("no", f". {wrong.made[0].sentence}")


@every_check
def test_misconceptions_are_pairwise_distinguishable(check):
    """On one input at least both give values, one of shape, dtype and values differing, or one of the two raises."""

    def distinct(a, b):
        if bool(a.trouble) != bool(b.trouble) or len(a.values) != len(b.values):  # one of two modules goes further
            return True
        if check.returns is not torch.Tensor:
            return a.values != b.values
        return any(
            x.shape != y.shape
            or (check.exact_dtype and x.dtype != y.dtype)
            or not torch.allclose(x.double(), y.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
            for x, y in zip(a.values, b.values, strict=True)
        )

    runs = [(wrong, check.run(wrong.function)) for wrong in check.singles]
    for (one, mine), (other, theirs) in itertools.combinations(runs, 2):
        assert any(map(distinct, mine, theirs)), (one.made[0].sentence, other.made[0].sentence)


@every_check
def test_form_is_right(check):
    assert check.problems(check.run(check.form)) == [""] * len(check.cases)


def test_a_misconception_is_seen_in_other_words_and_dtypes(capsys):
    def by_loop(x_0, t, noise, alphas_bar):
        a_bar = alphas_bar.float()
        rows = [a_bar[i].sqrt() * x + (1 - a_bar[i]) * e for x, i, e in zip(x_0, t, noise, strict=True)]
        return torch.stack(rows)

    def images_only(x_0, t, noise, alphas_bar):
        a_bar = rearrange(alphas_bar[t], "b -> b 1 1 1")
        assert x_0.ndim == 4, "images only"
        return a_bar.sqrt() * x_0 + (1 - a_bar) * noise

    for function in [by_loop, images_only]:
        assert "1.4 q_sample: no. You scaled the noise by 1 - alpha_bar" in said(checks.q_sample, function, capsys)


def test_a_wrong_formula_in_float32_is_a_wrong_formula_first(capsys):
    def no_square(T, s=0.008, max_beta=0.999):
        f = torch.cos((torch.linspace(0, 1, T + 1) + s) / (1 + s) * torch.pi / 2)
        return (1 - f[1:] / f[:-1]).clamp(max=max_beta)

    assert "cosine_betas: no. You left out the square." in said(checks.cosine_betas, no_square, capsys)
    flat = lambda v, t, x_shape: v[t].float()  # noqa: E731
    assert "extract: no. You return shape (B,)." in said(checks.extract, flat, capsys)


def test_a_dtype_of_which_no_sentence_speaks(capsys):
    half = lambda v, t, x_shape: SOLUTIONS["extract"](v, t, x_shape).bfloat16()  # noqa: E731
    text = said(checks.extract, half, capsys)
    assert text.endswith("expected out of dtype torch.float64, got torch.bfloat16.")


def test_the_same_error_is_proof_only_where_it_is_the_same_on_every_input(capsys):
    def other_message(v, t, x_shape):
        if len(v) != len(t):
            raise RuntimeError("no room")
        return SOLUTIONS["extract"](v, t, x_shape)

    def one_input_less(v, t, x_shape):
        shaped = v.view(len(t), *[1] * (len(x_shape) - 1)) if len(v) > 1 else v
        return shaped[t].reshape(len(t), *[1] * (len(x_shape) - 1))

    for function in [other_message, one_input_less]:
        assert ": your function raised RuntimeError: " in said(checks.extract, function, capsys)


@pytest.mark.parametrize(
    "function",
    [
        lambda beta_1, beta_T, T: torch.linspace(beta_1, beta_T, T, dtype=torch.float32).double(),
        lambda beta_1, beta_T, T: torch.from_numpy(np.linspace(beta_1, beta_T, T, dtype=np.float32)).double(),
        lambda beta_1, beta_T, T: torch.tensor(np.linspace(beta_1, beta_T, T), dtype=torch.float32).to(torch.float64),
    ],
)
def test_float32_first_is_seen_however_it_was_rounded(function, capsys):
    """ERRATA 10."""
    assert "only the precision of float32" in said(checks.linear_betas, function, capsys)


def test_the_posts_extract_is_told_about_its_float(capsys):
    """ERRATA 11."""

    def extract(v, t, x_shape):
        out = torch.gather(v, index=t, dim=0).float()
        return out.view([t.shape[0]] + [1] * (len(x_shape) - 1))

    assert "1.3 extract: no. You turned the result into float32." in said(checks.extract, extract, capsys)


def test_the_posts_variance_at_t_0_is_told(capsys):
    """ERRATA 7."""

    def posterior(x_0, x_t, t, betas):
        mean, _ = SOLUTIONS["posterior"](x_0, x_t, t, betas)
        a_bar = torch.cumprod(1 - betas, 0)
        a_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), a_bar[:-1]])
        posterior_var = betas * (1 - a_bar_prev) / (1 - a_bar)
        clipped = torch.cat([posterior_var[1:2], posterior_var[1:]])
        return mean, spread_out(clipped, t, x_0)

    assert "At t = 0 you return the variance of index 1." in said(checks.posterior, posterior, capsys)


# Wrong in no known way.


def sees(function, message, capsys, check=checks.q_sample):
    assert said(check, function, capsys) == f"{check.number} {check.name}: no. {message}"


AT_FIRST = "For x_0 of shape (4, 1, 8, 8), t = [0, 3, 3, 9]: "


def q_sample_then(change):
    return lambda *args: change(SOLUTIONS["q_sample"](*args))


def test_expected_and_got(capsys):
    def one_pixel(x_t):
        x_t = x_t.clone()
        x_t.view(-1)[70] = 0.25
        return x_t

    # at the flat index i, x_0 is (733 i mod 2049 - 1024) / 1024; noise starts at 101 * 11 and goes in steps of 766
    x_0, noise = (733 * 70 % 2049 - 1024) / 1024, ((101 * 11 + 766 * 70) % 2049 - 1024) / 512
    a_bar = 0.95 * 0.9 * 0.85 * 0.8  # i = 70 has t = 3
    x_t = math.sqrt(a_bar) * x_0 + math.sqrt(1 - a_bar) * noise

    def only_the_first(*args):
        x_t = SOLUTIONS["q_sample"](*args)
        return one_pixel(x_t) if x_t.shape == (4, 1, 8, 8) else x_t

    message = f"7 of 8 inputs come out right. {AT_FIRST}expected out[1,0,0,6] = {x_t:.4g}, got 0.25."
    sees(only_the_first, message, capsys)


def test_first_differing_input_is_named(capsys):
    def wrong_for_one_image(x_0, t, noise, alphas_bar):
        return SOLUTIONS["q_sample"](x_0, t, noise, alphas_bar) + (0.5 if len(x_0) == 1 else 0.0)

    assert "no. 7 of 8 inputs come out right. For x_0 of shape (1, 1, 8, 8), t = [7]: expected out[0,0,0,0] = " in said(
        checks.q_sample, wrong_for_one_image, capsys
    )


def test_enough_digits_to_tell_expected_from_got(capsys):
    function = lambda beta_1, beta_T, T: torch.linspace(beta_1, beta_T, T, dtype=torch.float64) * (1 + 2e-5)  # noqa: E731
    message = "For beta_1 = 0.1, beta_T = 0.3, T = 5: expected out[0] = 0.1, got 0.100002."
    sees(function, message, capsys, checks.linear_betas)


def test_shape(capsys):
    message = f"{AT_FIRST}expected out of shape (4, 1, 8, 8), got (4, 17)."
    sees(q_sample_then(lambda x_t: x_t.flatten(1)[:, :17]), message, capsys)

    def deep_var(*args):
        mean, var = SOLUTIONS["posterior"](*args)
        return mean, torch.cat([var, -var])

    message = f"{AT_FIRST}expected var of shape (4, 1, 1, 1), got (8, 1, 1, 1)."
    sees(deep_var, message, capsys, checks.posterior)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_dtype(dtype, capsys):
    message = f"{AT_FIRST}expected out of dtype torch.float64, got {dtype}."
    sees(q_sample_then(lambda x_t: x_t.to(dtype)), message, capsys)


def test_half_precision_is_too_coarse(capsys):
    assert f"no. {AT_FIRST}expected out[" in said(checks.q_sample, q_sample_then(torch.Tensor.bfloat16), capsys)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(value, capsys):
    text = said(checks.q_sample, q_sample_then(lambda x_t: torch.full_like(x_t, value)), capsys)
    assert text.startswith(f"1.4 q_sample: no. {AT_FIRST}expected out[0,0,0,0] = ")
    assert text.endswith(f", got {value}, which is not a finite number.")


def test_something_else_than_a_tensor(capsys):
    sees(q_sample_then(lambda x_t: x_t.tolist()), f"{AT_FIRST}expected a tensor, got list.", capsys)
    sees(q_sample_then(lambda x_t: x_t.numpy()), f"{AT_FIRST}expected a tensor, got ndarray.", capsys)
    sees(q_sample_then(lambda x_t: (x_t, x_t)), f"{AT_FIRST}expected a tensor, got tuple.", capsys)

    def only_mean(*args):
        return SOLUTIONS["posterior"](*args)[0]

    def mean_and_float(*args):
        return SOLUTIONS["posterior"](*args)[0], 0.0

    def three(*args):
        return (*SOLUTIONS["posterior"](*args), SOLUTIONS["posterior"](*args)[1])

    for function, got in [
        (only_mean, "Tensor"),
        (mean_and_float, "Tensor, float"),
        (three, "Tensor, Tensor, Tensor"),
        (lambda *args: (args[0],)[1:], "nothing"),
    ]:
        sees(function, f"{AT_FIRST}expected the tensors mean, var, got {got}.", capsys, checks.posterior)


@pytest.mark.parametrize("odd", [torch.Tensor.to_sparse, lambda x_t: x_t.to("meta"), lambda x_t: x_t[:0]])
def test_odd_tensors_break_nothing(odd, capsys):
    assert said(checks.q_sample, q_sample_then(odd), capsys).startswith("1.4 q_sample: ")


class Right(torch.Tensor):
    """Says of itself that it is equal to everything."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.isclose, torch.allclose, torch.equal, torch.eq, torch.Tensor.eq, torch.Tensor.__eq__):
            return torch.ones(args[0].shape, dtype=torch.bool)
        return super().__torch_function__(func, types, args, kwargs or {})

    def detach(self):
        return self

    cpu = to_dense = clone = double = clamp = lambda self, *args, **kwargs: self


class Computes(torch.Tensor):
    """The same below, where `torch.Tensor.detach` leads, too."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with torch._C._DisableTorchDispatch():
            found = func(*args, **(kwargs or {}))
        return found.as_subclass(cls) if isinstance(found, torch.Tensor) and found.is_floating_point() else found


def test_a_class_of_ones_own_decides_nothing(capsys):
    wrong = q_sample_then(lambda x_t: (0 * x_t).as_subclass(Right))
    assert said(checks.q_sample, wrong, capsys).startswith("1.4 q_sample: no. ")
    right = q_sample_then(lambda x_t: x_t.as_subclass(Right))
    assert said(checks.q_sample, right, capsys).startswith("1.4 q_sample: yes")
    below = q_sample_then(lambda x_t: torch.Tensor._make_subclass(Computes, 0 * x_t))
    assert "expected a plain tensor, got Computes" in said(checks.q_sample, below, capsys)
    parameter = q_sample_then(nn.Parameter)
    assert said(checks.q_sample, parameter, capsys).startswith("1.4 q_sample: yes")


def test_a_number_of_ones_own_class_decides_nothing(capsys):
    equal = type("int", (int,), {"__eq__": lambda self, other: True, "__ne__": lambda self, other: False})
    text = said(checks.res_block_parameters, lambda in_ch, out_ch, tdim: equal(3), capsys)
    assert "no. " in text and "expected an int, got int" in text


@every_check
@pytest.mark.parametrize("thing", [None, 3, "q_sample", torch.ones(2), ...], ids=range(5))
def test_not_callable(check, thing, capsys):
    sees(thing, f"Expected a function, got {type(thing).__name__}.", capsys, check)


def test_number_of_parameters(capsys):
    expected = "Expected 4 parameters (x_0, t, noise, alphas_bar), "
    sees(lambda x_0, t, noise: x_0 + noise, f"{expected}got 3 (x_0, t, noise).", capsys)
    sees(lambda a, b, c, d, e: a, f"{expected}got 5 (a, b, c, d, e).", capsys)
    sees(lambda: torch.ones(1), f"{expected}got 0 ().", capsys)


def test_new_noise_in_the_place_of_the_argument(capsys):
    message = (
        "Two calls with the same input gave two results. The randomness comes in as the argument noise: draw nothing."
    )
    for draw in [torch.randn_like, lambda x: torch.from_numpy(np.random.rand(*x.shape))]:
        sees(lambda x, t, noise, a, draw=draw: SOLUTIONS["q_sample"](x, t, draw(noise), a), message, capsys)


# An int, or a list of ints.


IN_128 = "For in_ch = 64, out_ch = 64, tdim = 256: "
AT_128 = "For ch = 128, ch_mult = [1, 2, 2, 2], num_res_blocks = 2: "


def test_an_int_is_compared_digit_by_digit(capsys):
    right = 64 * 64 * 18 + 64 * 256 + 7 * 64
    for wrong, got in [(right + 12345, right + 12345), (-right, -right), (10**5000, "a number of more than 18 digits")]:
        message = f"{IN_128}expected out = {right}, got {got}."
        sees(lambda i, o, t, wrong=wrong: wrong, message, capsys, checks.res_block_parameters)


@pytest.mark.parametrize(
    ("value", "got"),
    [(90560.0, "float"), (True, "bool"), (torch.tensor(3), "Tensor"), ([3], "list"), (np.int64(3), "int64")],
)
def test_something_else_than_an_int(value, got, capsys):
    sees(lambda i, o, t: value, f"{IN_128}expected an int, got {got}.", capsys, checks.res_block_parameters)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (tuple, "tuple"),
        (torch.tensor, "Tensor"),
        (sum, "int"),
        (lambda inputs: [x / 1 for x in inputs], "one with float"),
        (lambda inputs: [True, None, *inputs], "one with NoneType and bool"),
        (lambda inputs: [inputs], "one with list"),
    ],
)
def test_something_else_than_a_list_of_ints(change, got, capsys):
    function = lambda *args: change(SOLUTIONS["skip_channels"](*args))  # noqa: E731
    sees(function, f"{AT_128}expected a list of ints, got {got}.", capsys, checks.skip_channels)


def test_a_list_of_another_length_or_with_another_entry(capsys):
    function = lambda *args: SOLUTIONS["skip_channels"](*args)[2:]  # noqa: E731
    sees(
        function,
        "Your result has 2 entries too few at its beginning. The others are right.",
        capsys,
        checks.skip_channels,
    )
    function = lambda *args: [*SOLUTIONS["skip_channels"](*args)[:-1], 255]  # noqa: E731
    assert f"{AT_128[4:-2]}, expected out[11] = 256, got 255." in said(checks.skip_channels, function, capsys)
    message = f"{AT_128}expected out with 12 entries, got 0."
    sees(lambda ch, ch_mult, num_res_blocks: [], message, capsys, checks.skip_channels)


def test_a_list_that_the_caller_gave_is_watched(capsys):
    def skip_channels(ch, ch_mult, num_res_blocks):
        inputs = SOLUTIONS["skip_channels"](ch, ch_mult, num_res_blocks)
        ch_mult.reverse()
        return inputs

    sees(
        skip_channels,
        "The result is right, but your function changes ch_mult in place: the caller loses what was there. "
        "Build a new list, x[::-1] and not x.reverse().",
        capsys,
        checks.skip_channels,
    )


# Exceptions.


class Silent(Exception):
    pass


@every_check
@pytest.mark.parametrize("error", [ValueError("at 0x7f3a: boom\nand more"), Silent(), SystemExit(3), StopIteration()])
def test_exception_is_reported_with_its_input(check, error, capsys):
    def breaks(*args):
        raise error

    text = said(check, breaks, capsys)
    place = f"at {check.right[0].names[0]} " if check.steps else ""
    start = f"{check.number} {check.name}: no. For {check.cases[0].words}: {place}your function raised "
    assert text.startswith(start + type(error).__name__)
    assert text.endswith("(in the line: raise error).")
    assert "\n" not in text and "7f3a" not in text and ("at 0x...: boom" in text) == isinstance(error, ValueError)


def test_exception_that_cannot_be_printed(capsys):
    class Broken(Exception):
        def __str__(self):
            raise ValueError

    def q_sample(x_0, t, noise, alphas_bar):
        raise Broken

    sees(q_sample, f"{AT_FIRST}your function raised Broken (in the line: raise Broken).", capsys)


def test_exception_on_a_later_input(capsys):
    def fails(alphas_bar, timesteps):
        return 1 / (len(timesteps) - 1) * SOLUTIONS["respaced_betas"](alphas_bar, timesteps) * (len(timesteps) - 1)

    text = said(checks.respaced_betas, fails, capsys)
    assert "For T = 10, timesteps = [9]: your function raised ZeroDivisionError" in text
    assert "(in the line: return 1 / (len(timesteps) - 1) * SOLUTIONS" in text


def test_what_lies_beyond_the_exercise_is_told_and_no_mistake(capsys):
    def linear_betas(beta_1, beta_T, T):
        return torch.tensor([beta_1 + (beta_T - beta_1) * i / (T - 1) for i in range(T)], dtype=torch.float64)

    text = said(checks.linear_betas, linear_betas, capsys)
    assert text.startswith("1.1 linear_betas: yes (4 inputs, T = 2 and T = 1000 among them). Beyond the exercise, for ")
    assert "T = 1: your function raised ZeroDivisionError" in text


def test_exception_deep_inside_names_the_learners_line(capsys):
    def q_sample(x_0, t, noise, alphas_bar):
        return rearrange(x_0, "b c h -> b (c h)")

    text = said(checks.q_sample, q_sample, capsys)
    assert f"no. {AT_FIRST}your function raised EinopsError" in text
    assert text.endswith('(in the line: return rearrange(x_0, "b c h -> b (c h)")).')


def test_endless_recursion(capsys):
    def q_sample(x_0, t, noise, alphas_bar):
        return q_sample(x_0, t, noise, alphas_bar)

    assert "your function raised RecursionError" in said(checks.q_sample, q_sample, capsys)


def test_an_interrupt_is_the_learners_own():
    def q_sample(x_0, t, noise, alphas_bar):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checks.q_sample(q_sample)


# Changes in place.


def test_in_place_change_is_told_when_the_result_is_right(capsys):
    def q_sample(x_0, t, noise, alphas_bar):
        a_bar = alphas_bar[t].view(-1, *[1] * (x_0.ndim - 1)).float()
        noise *= (1 - a_bar).sqrt()
        return x_0.mul_(a_bar.sqrt()) + noise

    sees(
        q_sample,
        "The result is right, but your function changes x_0 and noise in place: the caller loses what was there. "
        "Build a new tensor, x * a and not x *= a.",
        capsys,
    )


def test_in_place_change_is_told_beside_a_misconception(capsys):
    def q_sample(x_0, t, noise, alphas_bar):
        a_bar = alphas_bar[t].view(-1, *[1] * (x_0.ndim - 1)).float()
        x_0 *= a_bar.sqrt()
        return x_0 + (1 - a_bar) * noise

    text = said(checks.q_sample, q_sample, capsys)
    assert text.startswith(f"1.4 q_sample: no. {checks.q_sample.mistakes[0].sentence} And your function changes x_0")


def then(states, act):
    """The states of a generator, and what is done when it ends."""
    yield from states
    act()


@every_check
def test_every_tensor_that_is_changed_is_named(check, capsys):
    """Values, shape and dtype of the arguments are watched, whichever of the inputs is hurt."""
    names = list(inspect.signature(check.specification).parameters)
    tensors = [i for i, arg in enumerate(check.cases[0].args) if isinstance(arg, torch.Tensor)]
    for i in tensors:
        for spoil in [
            torch.Tensor.neg_,
            lambda x: x.unsqueeze_(0),
            lambda x: setattr(x, "data", x.data.to(torch.int8)),
        ]:

            def spoils(*args, i=i, spoil=spoil):
                result = SOLUTIONS[check.name](*args)
                if inspect.isgenerator(result):
                    return then(result, lambda: spoil(args[i]))
                if any(result is arg for arg in args):
                    result = result.clone()
                if args[i] is not None:  # as an estimate may be that there is not yet
                    spoil(args[i])
                return result

            text = said(check, spoils, capsys)
            assert f"no. The result is right, but your function changes {names[i]} in place: " in text


@every_check
def test_a_check_leaves_its_own_inputs_alone(check, capsys):
    def spoils(*args):
        for arg in args:
            if isinstance(arg, torch.Tensor):
                arg.zero_()
        return args[0]

    first = said(check, spoils, capsys)
    assert said(check, spoils, capsys) == first
    assert said(check, SOLUTIONS[check.name], capsys).startswith(f"{check.number} {check.name}: yes")


# The same words everywhere.


@every_check
def test_output_is_the_same_twice_and_under_both_default_dtypes(check, capsys):
    """The misconceptions' sentences are compared above."""
    functions = [SOLUTIONS[check.name], dots, lambda *args: args[0]]
    texts = []
    for dtype in [torch.float32, torch.float64]:
        torch.set_default_dtype(dtype)
        try:
            texts.append([said(check, function, capsys) for function in functions])
        finally:
            torch.set_default_dtype(torch.float32)
    assert texts[0] == texts[1]
    assert all(text.isascii() and "\n" not in text and "tensor(" not in text for text in texts[0])


def test_inputs_are_exact_and_distinct_and_take_no_random_number():
    state = torch.get_rng_state()
    for check in CHECKS:
        check.diagnose(SOLUTIONS[check.name])
    assert torch.equal(torch.get_rng_state(), state)
    x_0 = checks.q_sample.cases[0].args[0]
    assert torch.equal(x_0 * 1024, (x_0 * 1024).round()) and x_0.abs().max() <= 1 and len(x_0.unique()) == x_0.numel()


@every_check
def test_help_shows_the_exercise(check):
    text = inspect.getdoc(check)
    assert text.startswith(f"Exercise {check.number}: ")
    assert "Returns" in text or "Yields" in text


PROBE = ("_accelerator.py", "ddpm_lesson._tensors")  # which GPU computes on this machine


def test_the_checks_import_torch_and_nothing_of_the_course():
    """But the finished implementations and what measures a whole generator, and these only when they are called."""
    for path in (ROOT / "ddpm_lesson" / "checks").glob("**/*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body if path.name.startswith(("_finished", "_measured", "meets")) else ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                own = module.startswith("ddpm_lesson.checks") or (path.name, module) == PROBE
                assert own or module.split(".")[0] in {"torch", *sys.stdlib_module_names}, f"{path.name}: {module}"
