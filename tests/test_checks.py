"""The checks: every solution passes, every stub is left alone, every misconception gets its own sentence."""

import ast
import functools
import importlib.util
import inspect
import math
import sys
from collections import deque, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import einsum, rearrange, reduce
from torch import nn
from torch.nn import functional as F

from ddpm_lesson import checks
from ddpm_lesson.networks.blocks import ResBlock
from ddpm_lesson.networks.unet import UNet

ROOT = Path(__file__).parent.parent
CHECKS = list(checks.registry.values())
MISCONCEPTIONS = [
    pytest.param(check, i, id=f"{check.name}-{i}") for check in CHECKS for i in range(len(check.misconceptions))
]
every_check = pytest.mark.parametrize("check", CHECKS, ids=list(checks.registry))


def solutions() -> dict[str, dict]:
    """For each notebook's number, the functions that its file in notebooks/solutions defines, by name."""
    by_notebook = {}
    for path in sorted((ROOT / "notebooks" / "solutions").glob("*.py")):
        spec = importlib.util.spec_from_file_location("solution_" + path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        own = {name: f for name, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == spec.name}
        by_notebook[str(int(path.stem[:2]))] = own
    return by_notebook


SOLVED = solutions()
SOLUTIONS = {name: function for functions in SOLVED.values() for name, function in functions.items()}


def said(check, function, capsys) -> str:
    """What the check prints, without the line's end; it returns None and leaves stderr empty."""
    capsys.readouterr()
    assert check(function) is None
    out, err = capsys.readouterr()
    assert err == "" and out.endswith("\n")
    return out[:-1]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["default32", "default64"])
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


# Right answers.


@every_check
def test_solution_passes(check, capsys, default_dtype):
    expected = f"{check.number} {check.name}: yes ({len(check.cases)} inputs, {check.among} among them)"
    assert said(check, SOLUTIONS[check.name], capsys) == expected


def test_solutions_and_checks_are_the_same_set():
    by_notebook = {}
    for name, check in checks.registry.items():
        assert getattr(checks, name) is check and check.name == name
        by_notebook.setdefault(check.number.split(".")[0], set()).add(name)
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


def posterior_in_float32(x_0, x_t, t, betas):
    return tuple(part.float() for part in SOLUTIONS["posterior"](x_0, x_t, t, betas.float()))


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
    upper = torch.where(x == 1, torch.ones_like(x), normal.cdf(x + edge))
    return torch.log(upper - torch.where(x == -1, torch.zeros_like(x), normal.cdf(x - edge)))


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
    linear = nn.Linear(temb.shape[1], h.shape[1], dtype=torch.float64)
    linear.load_state_dict({"weight": weight, "bias": bias})
    return h.double() + nn.Sequential(nn.SiLU(), linear)(temb.double()).unsqueeze(-1).unsqueeze(-1)


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


VARIANTS = {
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
    "posterior": [posterior_by_bayes, posterior_by_loop, posterior_in_float32],
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

    assert said(checks.q_sample, q_sample, capsys).startswith("1.3 q_sample: yes")


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
        assert said(checks.q_sample, function, capsys).startswith("1.3 q_sample: yes")
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
@pytest.mark.parametrize("stub", UNTOUCHED, ids=range(len(UNTOUCHED)))
def test_untouched_stub_is_not_attempted(check, stub, capsys, default_dtype):
    assert said(check, stub, capsys) == f"{check.number} {check.name}: not attempted"


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
            "1.3 q_sample: no. For x_0 of shape (4, 1, 8, 8), t = [0, 3, 3, 9]: "
            "your function returns None: did you forget return?"
        )


@pytest.mark.parametrize("constant", [lambda *args: 0.5, lambda *args: 1, lambda *args: [], lambda *args: (0, 1)])
def test_a_constant_is_an_attempt(constant, capsys):
    assert "no. For x_0 of shape (4, 1, 8, 8)" in said(checks.q_sample, constant, capsys)


# Misconceptions.


@every_check
def test_misconceptions_are_four_at_least_with_a_sentence_each(check):
    sentences = [misconception.sentence for misconception in check.misconceptions]
    assert len(set(sentences)) == len(sentences) >= 4
    assert all(sentence.endswith(".") and sentence.isascii() for sentence in sentences)
    assert not any(odd in sentence for sentence in sentences for odd in ["  ", "\n", "tensor("])


@pytest.mark.parametrize(("check", "i"), MISCONCEPTIONS)
def test_misconception_gets_its_sentence_and_no_other(check, i, capsys, default_dtype):
    misconception = check.misconceptions[i]
    assert check.explanations(check.run(misconception.function)) == [misconception]
    expected = f"{check.number} {check.name}: no. {misconception.sentence}"
    assert said(check, misconception.function, capsys) == expected


@pytest.mark.parametrize(("check", "i"), MISCONCEPTIONS)
def test_misconceptions_are_pairwise_distinguishable(check, i):
    """On one input at least both give values, one of shape, dtype and values differing, or one of the two raises."""

    def distinct(a, b):
        if bool(a.trouble) != bool(b.trouble):
            return True
        if check.returns is not torch.Tensor:
            return a.values != b.values
        return any(
            x.shape != y.shape
            or (check.exact_dtype and x.dtype != y.dtype)
            or not torch.allclose(x.double(), y.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
            for x, y in zip(a.values, b.values, strict=True)
        )

    mine = check.run(check.misconceptions[i].function)
    for other in check.misconceptions[i + 1 :]:
        assert any(map(distinct, mine, check.run(other.function))), other.sentence


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
        assert "1.3 q_sample: no. You scaled the noise by 1 - alpha_bar" in said(checks.q_sample, function, capsys)


def posterior_with(coef1=None, coef2=None, var=None, prev=None, give=None):
    """posterior as learners write it, with one piece replaced; each piece is a function of the tables."""

    def posterior(x_0, x_t, t, betas):
        alphas = 1 - betas
        alphas_bar = torch.cumprod(alphas, dim=0)
        one = torch.ones(1, dtype=torch.float64)
        alphas_bar_prev = prev(alphas_bar) if prev else torch.cat((one, alphas_bar[:-1]))
        tables = (betas, alphas, alphas_bar, alphas_bar_prev)
        first = (coef1 or (lambda b, a, ab, abp: torch.sqrt(abp) * b / (1 - ab)))(*tables)
        second = (coef2 or (lambda b, a, ab, abp: torch.sqrt(a) * (1 - abp) / (1 - ab)))(*tables)
        variance = (var or (lambda b, a, ab, abp: (1 - abp) / (1 - ab) * b))(*tables)
        mean = spread_out(first, t, x_0) * x_0 + spread_out(second, t, x_0) * x_t
        return give(mean, variance, t) if give else (mean, spread_out(variance, t, x_0))

    return posterior


def cosine_with(f, ratio=lambda f: 1 - f[1:] / f[:-1], dtype=torch.float64):
    """cosine_betas as learners write it, with another f(u, s), ratio or dtype."""

    def cosine_betas(T, s=0.008, max_beta=0.999):
        u = torch.linspace(0, 1, T + 1, dtype=dtype)
        return ratio(f(u, s)).clamp(max=max_beta)

    return cosine_betas


def right_f(u, s):
    return torch.cos((u + s) / (1 + s) * torch.pi / 2) ** 2


def by_half_angle(u, s):
    return (1 + torch.cos((u + s) / (1 + s) * torch.pi)) / 2  # 0 at the end, where right_f leaves 4e-33


def x_0_with(spread, scale):
    def x_0_from_eps(x_t, t, eps, alphas_bar):
        a_bar = SOLUTIONS["extract"](alphas_bar, t, x_t.shape)
        return (x_t - torch.sqrt(spread(a_bar)) * eps) / torch.sqrt(scale(a_bar))

    return x_0_from_eps


def respaced_in_a_list(alphas_bar, timesteps):
    kept = [1.0, *alphas_bar[timesteps].tolist()]
    return torch.tensor([1 - after / before for before, after in zip(kept[:-1], kept[1:], strict=True)]).float()


def respaced_from_the_step_before(alphas_bar, timesteps):
    kept = alphas_bar[timesteps]
    return 1 - kept / torch.cat([alphas_bar[timesteps[0] - 1].view(1), kept[:-1]])


def kl_of_torch_with(change):
    def gaussian_kl(mean_1, var_1, mean_2, var_2):
        return torch.distributions.kl_divergence(*change(mean_1, var_1, mean_2, var_2))

    return gaussian_kl


def normals(m_1, v_1, m_2, v_2):
    return torch.distributions.Normal(m_1, v_1), torch.distributions.Normal(m_2, v_2)


def mean_with(table=lambda v, t, x: v[t].view(-1, *[1] * (x.dim() - 1)), give=None):
    """mean_from_eps as learners write it, with another look-up or another last line."""

    def mean_from_eps(x_t, t, eps, betas):
        alphas = 1.0 - betas
        b, a, ab = (table(v, t, x_t) for v in (betas, alphas, torch.cumprod(alphas, dim=0)))
        return give(x_t, eps, b, a, ab)

    return mean_from_eps


def loss_with(give, q_sample=q_sample_by_einops):
    def simple_loss(model, x_0, t, noise, alphas_bar):
        return give(model, x_0, q_sample(x_0, t, noise, alphas_bar), t, noise, alphas_bar)

    return simple_loss


def bins_with(edge=lambda levels: 1 / (levels - 1), normal=lambda mean, std: torch.distributions.Normal(mean, std)):
    """discretized_log_prob as learners write it, with another half bin or another Gaussian."""

    def discretized_log_prob(x, mean, std, levels):
        p = normal(mean, std)
        upper = torch.where(x > 0.999, torch.ones_like(x), p.cdf(x + edge(levels)))
        lower = torch.where(x < -0.999, torch.zeros_like(x), p.cdf(x - edge(levels)))
        return torch.log(upper - lower)

    return discretized_log_prob


def official_bins(x, mean, std, levels):
    """guided-diffusion's, without its clamp."""

    def cdf(z):
        return 0.5 * (1.0 + torch.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * torch.pow(z, 3))))

    centered = x - mean
    cdf_plus, cdf_min = cdf((centered + 1 / (levels - 1)) / std), cdf((centered - 1 / (levels - 1)) / std)
    inner = torch.where(x > 0.999, torch.log(1.0 - cdf_min), torch.log(cdf_plus - cdf_min))
    return torch.where(x < -0.999, torch.log(cdf_plus), inner)


def min_snr_with(least):
    """min_snr_weights as learners write it: one minimum, three divisors."""
    return lambda snr, gamma: (least(snr, gamma) / snr, least(snr, gamma), least(snr, gamma) / (snr + 1))


def table_in_halves(T, d_model, waves=(torch.sin, torch.cos), last=0):
    """time_table as the official codes write it; last = 1: DDPM's, whose exponents reach 1."""
    half = d_model // 2
    freqs = torch.exp(-math.log(10000) * torch.arange(0, half, dtype=torch.float32) / (half - last))
    args = torch.arange(T)[:, None].float() * freqs[None]
    return torch.cat([wave(args) for wave in waves], dim=-1)


def table_by_columns(T, d_model):
    """An angle for each entry, of which the odd ones get a cosine."""
    table = torch.zeros(T, d_model)
    for t in range(T):
        for j in range(d_model):
            table[t, j] = (math.cos if j % 2 else math.sin)(t / 10000 ** (j / d_model))
    return table


def table_of_powers(power):
    """time_table as learners write it, in float32, with another power of 2k and d_model."""

    def time_table(T, d_model):
        angles = torch.arange(T)[:, None] * power(torch.arange(0, d_model, 2), d_model)
        return torch.stack((angles.sin(), angles.cos()), -1).reshape(T, d_model)

    return time_table


def norm_with(divide, last=lambda h, w, b: h * w.view(1, -1, 1, 1) + b.view(1, -1, 1, 1)):
    """group_norm as learners write it, with another way to normalise (B, groups, numbers of a group) or another end."""
    return lambda x, num_groups, w, b: last(divide(x.view(len(x), num_groups, -1)).view(x.shape), w, b)


def normed(h):
    return (h - h.mean(-1, keepdim=True)) / torch.sqrt(h.var(-1, keepdim=True, unbiased=False) + 1e-5)


def attention_with(weights, back="b (h w) c -> b c h w", order="b (h w) c"):
    """attention as learners write it, with other weights, another order of pixels or another way back."""

    def attention(q, k, v):
        H, W = q.shape[2:]
        q, k, v = (rearrange(x, f"b c h w -> {order}") for x in (q, k, v))
        out = weights(einsum(q, k, "b i c, b j c -> b i j"), q.shape[2]) @ v
        return rearrange(out, back, h=H, w=W)

    return attention


def scaled(scores, channels):
    return F.softmax(scores * channels**-0.5, dim=-1)


def skips_with(skips="head down", blocks=1, take=list.pop, levels=reversed, entry=lambda now, skip, out: now + skip):
    """skip_channels as learners write it."""

    def skip_channels(ch, ch_mult, num_res_blocks):
        chs, now, inputs = [ch] if "head" in skips else [], ch, []
        for i, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                now = ch * mult
                chs.append(now)
            if "down" in skips and (i != len(ch_mult) - 1 or "always" in skips):
                chs.append(now)
        for mult in levels(ch_mult):
            for _ in range(num_res_blocks + blocks):
                inputs.append(entry(now, take(chs), ch * mult))
                now = ch * mult
        return inputs

    return skip_channels


NATURAL = [  # exercise, what learners write, words of the sentence that they need
    ("linear_betas", lambda b, e, T: b + (e - b) * torch.arange(T, dtype=torch.float64) / (T - 1), "T - 1 is 0"),
    ("linear_betas", lambda b, e, T: b + torch.arange(T) / (T - 1) * (e - b), "T - 1 is 0"),
    ("q_sample", lambda x, t, e, a: a[t].sqrt() * x + (1 - a[t]).sqrt() * e, "meet the columns"),
    ("extract", lambda v, t, shape: v.view(len(t), *[1] * (len(shape) - 1))[t], "before the look-up"),
    ("extract", lambda v, t, shape: v.reshape(-1, *[1] * (len(shape) - 1)).gather(0, t), "before the look-up"),
    ("extract", lambda v, t, shape: v.view(-1, 1)[t], "always return (B, 1)"),
    ("extract", lambda v, t, shape: v.view(-1, 1, 1, 1)[t], "always return (B, 1, 1, 1)"),
    ("extract", lambda v, t, shape: v[t[0]].view([1] * len(shape)), "the first image's t"),
    ("extract", lambda v, t, shape: v[t[0].item()], "the first image's t"),
    ("cosine_betas", cosine_with(right_f, dtype=torch.float32), "You return float32"),
    ("cosine_betas", cosine_with(lambda u, s: right_f(u, s).double(), dtype=torch.float32), "precision of float32"),
    ("cosine_betas", lambda *a: cosine_with(right_f, dtype=torch.float32)(*a).double(), "precision of float32"),
    ("cosine_betas", cosine_with(right_f, lambda f: f[1:] / f[:-1]), "those are the alphas"),
    ("cosine_betas", lambda T, s, m: 1 - cosine_with(right_f)(T, s, 1.0), "You return the alphas"),
    ("cosine_betas", cosine_with(lambda u, s: torch.cos((u + s / (1 + s)) * torch.pi / 2) ** 2), "divided only s"),
    ("cosine_betas", cosine_with(lambda u, s: torch.cos((u + s / 1 + s) * torch.pi / 2) ** 2), "is u + 2 s"),
    ("cosine_betas", cosine_with(right_f, lambda f: 1 - f[:-1] / f[1:]), "upside down"),
    ("cosine_betas", cosine_with(right_f, lambda f: 1 - f[:-1] / f[1:], torch.float32), "upside down"),
    ("cosine_betas", cosine_with(by_half_angle, lambda f: 1 - f[:-1] / f[1:]), "upside down"),
    ("cosine_betas", cosine_with(lambda u, s: torch.cos((u + s) / (1 + s)) ** 2), "left out pi / 2"),
    ("cosine_betas", cosine_with(lambda u, s: torch.cos((u + s) / (1 + s) * torch.pi) ** 2), "runs to pi"),
    ("cosine_betas", cosine_with(lambda u, s: torch.sin((u + s) / (1 + s) * torch.pi / 2) ** 2), "took the sine"),
    ("posterior", posterior_with(coef1=lambda b, a, ab, abp: abp * b / (1 - ab)), "root over alpha_bar_prev"),
    ("posterior", posterior_with(coef2=lambda b, a, ab, abp: a * (1 - abp) / (1 - ab)), "root over alpha is"),
    ("posterior", posterior_with(coef1=lambda b, a, ab, abp: ab.sqrt() * b / (1 - ab)), "of x_0 has sqrt(alpha_bar)"),
    ("posterior", posterior_with(coef2=lambda b, a, ab, abp: ab.sqrt() * (1 - abp) / (1 - ab)), "where sqrt(alpha)"),
    ("posterior", posterior_with(coef2=lambda b, a, ab, abp: a.sqrt() * (1 - ab) / (1 - ab)), "so that it cancels"),
    ("posterior", posterior_with(prev=lambda ab: torch.cat((ab[:1], ab[:-1]))), "alphas_bar[0]"),
    ("posterior", posterior_with(prev=lambda ab: nn.functional.pad(ab[:-1], (1, 0))), "alpha_bar_prev is 0"),
    ("posterior", posterior_with(prev=lambda ab: ab.roll(1)), "wraps around"),
    ("posterior", posterior_with(var=lambda b, a, ab, abp: (1 - ab) / (1 - abp) * b), "upside down"),
    ("posterior", posterior_with(var=lambda b, a, ab, abp: (1 - ab) / (1 - ab) * b), "Your variance is beta"),
    ("posterior", posterior_with(give=lambda mean, var, t: (mean, var[t])), "Your variance has shape (B,)"),
    ("posterior", posterior_with(give=lambda mean, var, t: (spread_out(var, t, mean), mean)), "variance first"),
    (
        "posterior",
        posterior_with(give=lambda mean, var, t: (mean, spread_out(var, t, mean) * torch.ones_like(mean))),
        "shape of the images",
    ),
    ("x_0_from_eps", x_0_with(lambda a_bar: a_bar, lambda a_bar: 1 - a_bar), "are swapped"),
    ("x_0_from_eps", x_0_with(lambda a_bar: 1 - a_bar, lambda a_bar: 1 - a_bar), "the noise's factor"),
    ("respaced_betas", respaced_from_the_step_before, "alphas_bar[timesteps[0] - 1]"),
    ("respaced_betas", lambda a_bar, steps: 1 - a_bar[steps] / a_bar[steps - 1], "alphas_bar[timesteps - 1]"),
    ("respaced_betas", respaced_in_a_list, "keeps seven digits only"),
    ("respaced_betas", lambda a, steps: respaced_by_logarithms(a.float(), steps).double(), "keeps seven digits only"),
    ("gaussian_kl", kl_of_torch_with(normals), "You squared the variances"),
    ("gaussian_kl", kl_of_torch_with(lambda m, v, n, w: normals(m, v**0.25, n, w**0.25)), "You took roots"),
    ("gaussian_kl", kl_of_torch_with(lambda m, v, n, w: normals(n, w.sqrt(), m, v.sqrt())), "are reversed"),
    ("gaussian_kl", lambda m, v, n, w: torch.log(w / v) + (v + (m - n) ** 2) / (2 * w) - 0.5, "counts twice"),
    ("gaussian_kl", lambda m, v, n, w: 0.5 * (torch.log(v / w) + (v + (m - n) ** 2) / w - 1), "wrong sign"),
    ("gaussian_kl", lambda m, v, n, w: 0.5 * (torch.log2(w / v) + ((v + (m - n) ** 2) / w - 1) / math.log(2)), "bits"),
    ("gaussian_kl", lambda *args: kl_by_logarithms(*args).sum(dim=(1, 2, 3)), "the sum over its coordinates"),
    ("gaussian_kl", lambda *args: torch.mean(kl_by_logarithms(*args)), "the mean of everything"),
    ("mean_from_eps", mean_with(give=lambda x, e, b, a, ab: (x - b / (1 - ab) * e) / a**0.5), "take the root"),
    (
        "mean_from_eps",
        mean_with(give=lambda x, e, b, a, ab: a.rsqrt() * x - b / (1 - ab).sqrt() * e),
        "but not eps",
    ),
    (
        "mean_from_eps",
        mean_with(give=lambda x, e, b, a, ab: 1 / ab.sqrt() * (x - (1 - a) / (1 - ab).sqrt() * e)),
        "the fading of all steps",
    ),
    (
        "mean_from_eps",
        mean_with(lambda v, t, x: v[t], lambda x, e, b, a, ab: (x - b / (1 - ab).sqrt() * e) / a.sqrt()),
        "shape (B,)",
    ),
    ("vlb_weight", lambda b, v: b.square() / (v * (1 - b) * (1 - torch.cumprod(1 - b, 0))), "forgot the 2"),
    ("vlb_weight", lambda b, v: b / ((1 - b) * (1 - torch.cumprod(1 - b, 0))) / 2, "in the place of var"),
    ("vlb_weight", lambda b, v: b**2 / (2 * v * (1 - b) * b), "1 - alpha where 1 - alpha_bar"),
    ("simple_loss", loss_with(lambda model, x_0, x, t, e, a: nn.functional.mse_loss(model(x, t), e)), "of everything"),
    ("simple_loss", loss_with(lambda model, x_0, x, t, e, a: (model(x, t) - e).abs()), "absolute error"),
    ("simple_loss", loss_with(lambda model, x_0, x, t, e, a: (model(x, t) - x_0) ** 2), "Your target is x_0"),
    ("simple_loss", loss_with(lambda model, x_0, x, t, e, a: (model(x) - e) ** 2), "called model(x_t)"),
    ("simple_loss", loss_with(lambda model, x_0, x, t, e, a: (model(x, t.float() / len(a)) - e) ** 2), "t / T"),
    (
        "simple_loss",
        loss_with(lambda model, x_0, x, t, e, a: (model(x, t) - e).flatten(1).pow(2).mean(-1)),
        "the mean over its coordinates",
    ),
    ("discretized_log_prob", bins_with(lambda levels: 1 / 255), "255"),
    ("discretized_log_prob", bins_with(lambda levels: 1.0 / levels), "leave holes"),
    ("discretized_log_prob", bins_with(normal=lambda m, s: torch.distributions.Normal(m, s**0.5)), "root of std"),
    ("discretized_log_prob", lambda x, m, s, levels: torch.distributions.Normal(m, s).log_prob(x), "of the density"),
    ("discretized_log_prob", official_bins, "tanh approximation"),
    ("discretized_log_prob", lambda *args: bins_of_torch(*args) / math.log(2), "log2"),
    ("min_snr_weights", min_snr_with(lambda snr, gamma: snr.clamp(max=gamma)), "0 / 0"),
    ("min_snr_weights", min_snr_with(torch.clamp), "You took the larger"),
    ("min_snr_weights", min_snr_with(min), "Python's min"),
    ("min_snr_weights", lambda snr, gamma: (torch.clamp(snr, max=gamma),) * 3, "the error in x_0"),
    ("time_table", table_in_halves, "all sines and then all cosines"),
    ("time_table", lambda *sizes: table_in_halves(*sizes, last=1), "That is the table of DDPM's own code"),
    ("time_table", lambda *sizes: table_in_halves(*sizes, (torch.cos, torch.sin)), "as improved-diffusion does"),
    ("time_table", lambda *sizes: table_of_the_post(*sizes, (torch.cos, torch.sin)), "are exchanged"),
    ("time_table", lambda *sizes: table_of_the_post(*sizes, sign=1), "The minus in exp"),
    ("time_table", table_of_powers(lambda two_k, d: torch.exp(math.log(10000) * two_k / d)), "The minus in exp"),
    ("time_table", table_of_powers(lambda two_k, d: torch.exp(two_k * (math.log(10000) / d))), "The minus in exp"),
    ("time_table", table_of_powers(lambda two_k, d: 10000 ** (two_k.double() / d)), "Your frequencies grow"),
    ("time_table", table_of_powers(lambda two_k, d: torch.exp(-two_k / d)), "powers of e"),
    ("time_table", table_of_powers(lambda two_k, d: 10000 ** -(two_k / 2 / d)), "Your exponent is k / d_model"),
    ("time_table", table_of_powers(lambda two_k, d: 10000 ** -(two_k / (d - 2))), "k / (half - 1), as in"),
    ("time_table", table_by_columns, "different frequencies"),
    ("time_table", lambda T, d_model: table_by_loop(T + 1, d_model)[1:], "counted t from 1"),
    ("group_norm", norm_with(lambda h: (h - h.mean(-1, True)) / (h.var(-1, keepdim=True) + 1e-5) ** 0.5), "n - 1, as"),
    ("group_norm", norm_with(lambda h: (h - h.mean(-1, True)) / (h.std(-1, keepdim=True) + 1e-5)), "std divides by"),
    ("group_norm", norm_with(lambda h: F.layer_norm(h, h.shape[2:], eps=0.0)), "eps is missing"),
    ("group_norm", lambda x, G, w, b: F.group_norm(x, G, w, b, eps=1e-6), "Your eps is 1e-6"),
    ("group_norm", norm_with(normed, last=lambda h, w, b: w * h + b), "lines that up with the width"),
    ("group_norm", norm_with(normed, last=lambda h, w, b: h), "left out weight and bias"),
    ("group_norm", lambda x, G, w, b: F.layer_norm(x, x.shape[1:]) * w[:, None, None] + b[:, None, None], "one group"),
    ("group_norm", lambda x, G, w, b: F.instance_norm(x, weight=w, bias=b), "every channel on its own"),
    ("add_time", lambda h, temb, w, b: h + F.linear(temb, w, b).unsqueeze(2).unsqueeze(3), "forgot Swish"),
    ("add_time", lambda h, temb, w, b: h + F.silu(temb @ w.T + b)[..., None, None], "after the linear layer"),
    ("add_time", lambda h, temb, w, b: h + F.linear(F.silu(temb), w, b), "(B, C) as it is"),
    ("add_time", lambda h, temb, w, b: h + F.linear(F.silu(temb), w, b)[..., None], "added (B, C, 1)"),
    ("add_time", lambda h, temb, w, b: h + F.linear(F.silu(temb), w, b)[:, None, None], "along the width"),
    ("add_time", lambda h, temb, w, b: h + (w @ F.silu(temb).T + b[:, None])[..., None, None], "batch and channels"),
    ("add_time", lambda h, temb, w, b: h + (F.silu(temb) @ w + b)[..., None, None], "weight as it is"),
    ("add_time", lambda h, temb, w, b: h + (F.silu(temb) @ w.mT)[..., None, None], "forgot the bias"),
    ("add_time", lambda h, temb, w, b: h * F.linear(F.silu(temb), w, b)[..., None, None], "You multiplied"),
    ("attention", attention_with(lambda scores, c: scores.softmax(-1)), "forgot to divide"),
    ("attention", attention_with(lambda scores, c: F.softmax(scores / c, -1)), "divided by C"),
    ("attention", attention_with(lambda scores, c: F.softmax(scores / c**0.5, 1)), "over the queries"),
    ("attention", attention_with(lambda scores, c: F.softmax(scores / c**0.5, 0)), "the images of the batch"),
    ("attention", attention_with(lambda scores, c: scaled(scores.mT, c)), "q and k are exchanged"),
    ("attention", attention_with(lambda scores, c: scaled(scores, scores.shape[2])), "sqrt(H W)"),
    ("attention", attention_with(scaled, order="b (w h) c"), "in another order than they went in"),
    ("attention", attention_with(scaled, "b (w h) c -> b c h w"), "in another order than they went in"),
    ("attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v), "the rows look at one another"),
    (
        "attention",
        lambda q, k, v: F.scaled_dot_product_attention(q.flatten(2), k.flatten(2), v.flatten(2)).view(v.shape),
        "flattened to (B, C, H W) only",
    ),
    (
        "attention",
        lambda *qkv: F.scaled_dot_product_attention(*(x.flatten(2).mT for x in qkv)).reshape(qkv[0].shape),
        "reshaped (B, H W, C) into",
    ),
    (
        "attention",
        lambda *qkv: F.scaled_dot_product_attention(
            *(x.view(len(x), -1, x.shape[1]) for x in qkv),
        ).view(qkv[0].shape),
        "reshaped (B, C, H, W) into",
    ),
    ("skip_channels", skips_with(blocks=0), "num_res_blocks blocks in each level"),
    ("skip_channels", skips_with("down"), "runs empty. The head's"),
    ("skip_channels", skips_with(""), "runs empty. The head's"),
    ("skip_channels", skips_with("head"), "as soon as there are two levels"),
    ("skip_channels", skips_with("head down always"), "after the last level"),
    ("skip_channels", skips_with(take=lambda chs: chs.pop(0)), "a stack, and no queue"),
    ("skip_channels", skips_with(levels=list), "ch_mult forwards"),
    ("skip_channels", skips_with(entry=lambda now, skip, out: out + skip), "what the coarser level put out"),
    ("skip_channels", skips_with(entry=lambda now, skip, out: 2 * out), "twice the level's channels"),
    ("skip_channels", skips_with(entry=lambda now, skip, out: skip), "the skips alone"),
    ("down_same", lambda x, w: F.conv2d(x, w, stride=2, padding=1), "padding=1 puts zeros there too"),
    ("down_same", lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1)), w, stride=2), "padding=1 puts zeros there too"),
    ("down_same", lambda x, w: F.conv2d(F.pad(x, (1, 0, 1, 0)), w, stride=2), "padding=1 puts zeros there too"),
    ("down_same", lambda x, w: F.conv2d(nn.ZeroPad2d((0, 1, 0, 1))(x), w, None, 2, 1), "You padded twice"),
    ("down_same", lambda x, w: F.conv2d(x, w, stride=2), "did not pad"),
    ("down_same", lambda x, w: F.conv2d(F.pad(x, (0, 1)), w, None, 2), "to the right only"),
    ("down_same", lambda x, w: F.conv2d(nn.ReplicationPad2d((0, 1, 0, 1))(x), w, stride=2), "repeated the edge"),
    ("res_block_parameters", lambda *sizes: parameters_of_layers(*sizes, bias=False), "biases of convolutions"),
    ("res_block_parameters", lambda *sizes: parameters_of_layers(*sizes, shortcut=True), "in every block"),
    ("res_block_parameters", lambda *sizes: parameters_of_layers(*sizes, shortcut=False), "forgot the shortcut"),
    ("res_block_parameters", lambda i, o, t: parameters_of_layers(i, o, t) - t * o - o, "forgot the time"),
    ("res_block_parameters", lambda i, o, t: parameters_of_layers(i, o, t) - o, "linear layer lacks its bias"),
    ("res_block_parameters", lambda i, o, t: parameters_of_layers(i, o, t) - o * (i != o), "shortcut lacks its bias"),
]


@pytest.mark.parametrize(("name", "function", "words"), NATURAL, ids=range(len(NATURAL)))
def test_a_natural_mistake_gets_its_sentence(name, function, words, capsys):
    text = said(checks.registry[name], function, capsys)
    assert f"{name}: no. " in text and words in text
    assert any(misconception.sentence in text for misconception in checks.registry[name].misconceptions)


def test_a_wrong_formula_in_float32_is_a_wrong_formula_first(capsys):
    no_square = cosine_with(lambda u, s: torch.cos((u + s) / (1 + s) * torch.pi / 2), dtype=torch.float32)
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

    assert "1.2 extract: no. You turned the result into float32." in said(checks.extract, extract, capsys)


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

    # at the flat index i, x_0 is (37 i mod 65 - 32) / 32 and noise ((11 + 37 i) mod 65 - 32) / 32; i = 70 has t = 3
    a_bar, x_0, noise = 0.95 * 0.9 * 0.85 * 0.8, (37 * 70 % 65 - 32) / 32, ((11 + 37 * 70) % 65 - 32) / 32
    x_t = math.sqrt(a_bar) * x_0 + math.sqrt(1 - a_bar) * noise

    def only_the_first(*args):
        x_t = SOLUTIONS["q_sample"](*args)
        return one_pixel(x_t) if x_t.shape == (4, 1, 8, 8) else x_t

    sees(only_the_first, f"{AT_FIRST}expected out[1,0,0,6] = {x_t:.4g}, got 0.25.", capsys)


def test_first_differing_input_is_named(capsys):
    def wrong_for_one_image(x_0, t, noise, alphas_bar):
        return SOLUTIONS["q_sample"](x_0, t, noise, alphas_bar) + (0.5 if len(x_0) == 1 else 0.0)

    assert "no. For x_0 of shape (1, 1, 8, 8), t = [7]: expected out[0,0,0,0] = " in said(
        checks.q_sample, wrong_for_one_image, capsys
    )


def test_enough_digits_to_tell_expected_from_got(capsys):
    function = lambda beta_1, beta_T, T: torch.linspace(beta_1, beta_T, T, dtype=torch.float64) * (1 + 2e-5)  # noqa: E731
    message = "For beta_1 = 0.1, beta_T = 0.3, T = 5: expected out[0] = 0.1, got 0.100002."
    sees(function, message, capsys, checks.linear_betas)


def test_shape(capsys):
    message = f"{AT_FIRST}expected out of shape (4, 1, 8, 8), got (4, 64)."
    sees(q_sample_then(lambda x_t: x_t.flatten(1)), message, capsys)
    sees(q_sample_then(lambda x_t: x_t.sum()), f"{AT_FIRST}expected out of shape (4, 1, 8, 8), got ().", capsys)

    def deep_var(*args):
        mean, var = SOLUTIONS["posterior"](*args)
        return mean, var[None]

    message = f"{AT_FIRST}expected var of shape (4, 1, 1, 1), got (1, 4, 1, 1, 1)."
    sees(deep_var, message, capsys, checks.posterior)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_dtype(dtype, capsys):
    message = f"{AT_FIRST}expected out of dtype torch.float64, got {dtype}."
    sees(q_sample_then(lambda x_t: x_t.to(dtype)), message, capsys)


def test_half_precision_is_too_coarse(capsys):
    assert f"no. {AT_FIRST}expected out[" in said(checks.q_sample, q_sample_then(torch.Tensor.bfloat16), capsys)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(value, capsys):
    text = said(checks.q_sample, q_sample_then(lambda x_t: torch.full_like(x_t, value)), capsys)
    assert text.startswith(f"1.3 q_sample: no. {AT_FIRST}expected out[0,0,0,0] = ")
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
    assert said(checks.q_sample, q_sample_then(odd), capsys).startswith("1.3 q_sample: ")


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
    message = "Two calls with the same input gave two results: what is random must be an argument."
    for draw in [torch.randn_like, lambda x: torch.from_numpy(np.random.rand(*x.shape))]:
        sees(lambda x, t, noise, a, draw=draw: SOLUTIONS["q_sample"](x, t, draw(noise), a), message, capsys)


# An int, or a list of ints.


IN_128 = "For in_ch = 64, out_ch = 64, tdim = 256: "
AT_128 = "For ch = 128, ch_mult = [1, 2, 2, 2], num_res_blocks = 2: "


def test_an_int_is_compared_digit_by_digit(capsys):
    right = 64 * 64 * 18 + 64 * 256 + 7 * 64
    for wrong, got in [(right + 1, right + 1), (-right, -right), (10**5000, "a number of more than 18 digits")]:
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
    sees(function, f"{AT_128}expected out with 12 entries, got 10.", capsys, checks.skip_channels)
    function = lambda *args: [*SOLUTIONS["skip_channels"](*args)[:-1], 255]  # noqa: E731
    sees(function, f"{AT_128}expected out[11] = 256, got 255.", capsys, checks.skip_channels)
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
    start = f"{check.number} {check.name}: no. For {check.cases[0].words}: your function raised {type(error).__name__}"
    assert text.startswith(start)
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
    def linear_betas(beta_1, beta_T, T):
        return torch.tensor([beta_1 + (beta_T - beta_1) * i / (T - 1) for i in range(T)], dtype=torch.float64)

    text = said(checks.linear_betas, linear_betas, capsys)
    assert "no. For beta_1 = 0.0001, beta_T = 0.02, T = 1: your function raised ZeroDivisionError" in text
    assert "range(T)]" in text


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
    assert text.startswith(
        f"1.3 q_sample: no. {checks.q_sample.misconceptions[0].sentence} And your function changes x_0"
    )


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
    functions = [SOLUTIONS[check.name], dots, lambda *args: args[0], lambda *args: torch.zeros(3, dtype=torch.float32)]
    texts = []
    for dtype in [torch.float32, torch.float32, torch.float64]:
        torch.set_default_dtype(dtype)
        try:
            texts.append([said(check, function, capsys) for function in functions])
        finally:
            torch.set_default_dtype(torch.float32)
    assert texts[0] == texts[1] == texts[2]
    assert all(text.isascii() and "\n" not in text and "tensor(" not in text for text in texts[0])


def test_inputs_are_exact_in_every_dtype_and_take_no_random_number():
    state = torch.get_rng_state()
    for check in CHECKS:
        check.diagnose(SOLUTIONS[check.name])
    assert torch.equal(torch.get_rng_state(), state)
    x_0 = checks.q_sample.cases[0].args[0]
    assert torch.equal(x_0, x_0.to(torch.bfloat16).float()) and x_0.abs().max() <= 1


@every_check
def test_help_shows_the_exercise(check):
    text = inspect.getdoc(check)
    assert text.startswith(f"Exercise {check.number}: ")
    assert "Returns" in text


def test_the_checks_import_torch_and_nothing_of_the_course():
    for path in (ROOT / "ddpm_lesson" / "checks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                own = module.startswith("ddpm_lesson.checks")
                assert own or module.split(".")[0] in {"torch", *sys.stdlib_module_names}, f"{path.name}: {module}"


# The specifications against facts from elsewhere.


def test_linear_betas_reach_the_published_end():
    betas = checks.linear_betas.specification(1e-4, 0.02, 1000)
    assert betas[0] == 1e-4 and betas[-1].item() == pytest.approx(0.02, rel=1e-14)
    assert torch.prod(1 - betas).item() == pytest.approx(4.036e-5, rel=2e-4)


def test_cosine_betas_reach_the_published_end():
    betas = checks.cosine_betas.specification(1000)
    assert betas[0].item() == pytest.approx(4.128e-5, rel=2e-4) and betas[-1] == 0.999
    assert torch.prod(1 - betas).item() == pytest.approx(2.43e-9, rel=2e-3)


def chain():
    betas = checks.linear_betas.specification(1e-4, 0.02, 1000)
    return betas, torch.cumprod(1 - betas, 0)


def test_q_sample_and_x_0_from_eps_undo_each_other():
    _, alphas_bar = chain()
    x_0, noise, t = torch.tensor([[0.5, -1.0]] * 2), torch.tensor([[0.25, 2.0]] * 2), torch.tensor([0, 999])
    x_t = checks.q_sample.specification(x_0, t, noise, alphas_bar)
    assert torch.allclose(checks.x_0_from_eps.specification(x_t, t, noise, alphas_bar), x_0.double(), atol=1e-12)


def test_q_sample_is_a_chain_of_single_steps():
    """Mean and variance pushed through the steps one by one."""
    betas, alphas_bar = chain()
    mean, var = 1.0, 0.0
    for beta in betas.tolist():
        mean, var = math.sqrt(1 - beta) * mean, (1 - beta) * var + beta
    one, zero, t = torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([999])
    assert checks.q_sample.specification(one, t, zero, alphas_bar).item() == pytest.approx(mean, rel=1e-11)
    assert checks.q_sample.specification(zero, t, one, alphas_bar).item() ** 2 == pytest.approx(var, rel=1e-11)


def test_x_0_from_eps_amplifies_an_error_as_published():
    """ERRATA 6: 157.4 times at t = 999."""
    _, alphas_bar = chain()
    x_0 = checks.x_0_from_eps.specification(torch.zeros(1, 1), torch.tensor([999]), torch.ones(1, 1), alphas_bar)
    assert -x_0.item() == pytest.approx(157.4, abs=0.05)


@pytest.mark.parametrize(("t", "inverse"), [(1, 1.83), (100, 52.9), (500, 327), (999, 7791)])
def test_posterior_mean_has_the_published_condition(t, inverse):
    """ERRATA 5: 1 / coef1."""
    betas, _ = chain()
    coef1, _ = checks.posterior.specification(torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([t]), betas)
    assert 1 / coef1.item() == pytest.approx(inverse, rel=3e-3)


def test_posterior_variance_of_index_1_is_the_published():
    """ERRATA 7: its logarithm is -9.82."""
    betas, _ = chain()
    _, var = checks.posterior.specification(torch.ones(2, 1), torch.zeros(2, 1), torch.tensor([0, 1]), betas)
    assert var[0] == 0 and math.log(var[1].item()) == pytest.approx(-9.82, abs=0.005)


def test_respaced_betas_keep_alphas_bar():
    _, alphas_bar = chain()
    timesteps = torch.tensor([9, 10, 500, 999])
    betas = checks.respaced_betas.specification(alphas_bar, timesteps)
    assert torch.allclose(torch.cumprod(1 - betas, 0), alphas_bar[timesteps], rtol=1e-12, atol=0)


def test_extract_is_a_look_up():
    v = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float16)
    out = checks.extract.specification(v, torch.tensor([2, 0]), (2, 3, 4))
    assert out.dtype == torch.float16 and out.tolist() == [[[0.125]], [[0.5]]]


def test_gaussian_kl_is_an_expectation_of_log_ratios():
    """By quadrature over the first Gaussian."""
    parts = 0.5, 0.25, -1.0, 2.0
    m_1, v_1, m_2, v_2 = parts
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    log_1, log_2 = ((-((x - m) ** 2) / v - math.log(2 * math.pi * v)) / 2 for m, v in [(m_1, v_1), (m_2, v_2)])
    integral = torch.trapezoid(log_1.exp() * (log_1 - log_2), x).item()
    kl = checks.gaussian_kl.specification(*(torch.tensor([part]) for part in parts)).item()
    assert kl == pytest.approx(integral, rel=1e-9)


def test_mean_from_eps_is_the_posterior_mean_of_the_estimated_x_0():
    betas, alphas_bar = chain()
    x_t, eps, t = (
        torch.tensor([[0.5], [-1.0], [2.0]]),
        torch.tensor([[0.25], [1.5], [-1.0]]),
        torch.tensor([0, 300, 999]),
    )
    x_0 = checks.x_0_from_eps.specification(x_t, t, eps, alphas_bar)
    mean, _ = checks.posterior.specification(x_0, x_t, t, betas)
    assert torch.allclose(checks.mean_from_eps.specification(x_t, t, eps, betas), mean, rtol=1e-10, atol=0)


def test_vlb_weight_is_the_kl_of_an_error_of_1_in_eps():
    """Two Gaussians of the posterior's variance, their means one eps apart."""
    betas, _ = chain()
    t, zero = torch.tensor([1, 300, 999]), torch.zeros(3, 1)
    means = [checks.mean_from_eps.specification(zero, t, zero + eps, betas) for eps in (0, 1)]
    var = checks.posterior.specification(zero, zero, t, betas)[1]
    table = torch.ones_like(betas)
    table[t] = var[:, 0]
    kl = checks.gaussian_kl.specification(means[0], var, means[1], var)[:, 0]
    assert torch.allclose(checks.vlb_weight.specification(betas, table)[t], kl, rtol=1e-9, atol=0)


def test_simple_loss_is_0_for_the_network_that_knows_x_0():
    betas, alphas_bar = chain()
    x_0, noise, t = torch.tensor([[0.5], [-1.0]]), torch.tensor([[0.25], [2.0]]), torch.tensor([0, 999])
    a_bar = alphas_bar[t][:, None]
    knows = lambda x_t, t: (x_t - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()  # noqa: E731
    assert checks.simple_loss.specification(knows, x_0, t, noise, alphas_bar).abs().max() < 1e-20


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_probabilities_add_up_to_1(levels):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    mean, std = torch.tensor([-0.9, 0.1, 1.2]).expand(levels, 3), torch.tensor([0.4, 0.5, 1.0])
    log_prob = checks.discretized_log_prob.specification(x.expand(levels, 3), mean, std, levels)
    assert torch.allclose(log_prob.exp().sum(0), torch.ones(3).double(), rtol=1e-12, atol=0)


def test_cases_of_discretized_log_prob_are_within_reach_of_a_plain_difference():
    """No probability that cancellation or the official clamp at 1e-12 would change."""
    for case in checks.discretized_log_prob.cases:
        assert checks.discretized_log_prob.specification(*case.args).min() > math.log(1e-8)


def test_min_snr_weights_are_one_loss_in_three_terms():
    """An error in x_0 of 1 is one of sqrt(snr) in eps and of sqrt(snr + 1) in v."""
    snr = torch.tensor([0.0, 0.25, 5.0, 4000.0], dtype=torch.float64)
    eps, x_0, v = checks.min_snr_weights.specification(snr, 5.0)
    assert eps.tolist() == [1, 1, 1, 5 / 4000]
    assert torch.allclose(eps * snr, x_0, rtol=1e-14) and torch.allclose(v * (snr + 1), x_0, rtol=1e-14)


def test_time_table_turns_by_one_angle_a_step():
    """Row t + s is row t, each pair turned by s times its frequency: what the network can read off."""
    table = checks.time_table.specification(1000, 6)
    sin, cos = table[:, 0::2], table[:, 1::2]
    assert torch.allclose(sin[7:], sin[:-7] * cos[7] + cos[:-7] * sin[7], rtol=0, atol=1e-12)
    assert table[1, 0].item() == math.sin(1) and table[1, 4].item() == pytest.approx(10000 ** (-2 / 3), rel=1e-5)


def test_lowest_frequency_of_time_table_is_the_published():
    """ERRATA 18: 1.155e-4, and not 1.0e-4, with 128 channels."""
    assert checks.time_table.specification(2, 128)[1, 126].item() == pytest.approx(1.155e-4, rel=5e-4)


def test_group_norm_leaves_mean_0_and_variance_1():
    x, ones = torch.arange(48.0).reshape(2, 4, 2, 3) ** 2, torch.ones(4)
    groups = checks.group_norm.specification(x, 2, ones, 0 * ones).reshape(2, 2, -1)
    assert torch.allclose(groups.mean(2), torch.zeros(2, 2).double(), rtol=0, atol=1e-12)
    assert torch.allclose(groups.var(2, correction=0), torch.ones(2, 2).double(), rtol=1e-6)


def test_add_time_is_the_same_at_every_pixel():
    h, temb, weight, bias = torch.zeros(2, 3, 2, 2), torch.tensor([[0.0], [2.0]]), torch.eye(3)[:, :1], torch.ones(3)
    added = checks.add_time.specification(h, temb, weight, bias)
    assert torch.equal(added, added[:, :, :1, :1].expand_as(added))
    swish = 2 / (1 + math.exp(-2))
    assert added[:, :, 0, 0].tolist() == [[1, 1, 1], [pytest.approx(1 + swish), 1, 1]]


def test_attention_without_a_preference_is_the_mean_and_with_a_strong_one_a_look_up():
    v = torch.arange(12.0).reshape(1, 2, 2, 3)
    mean = checks.attention.specification(0 * v, v, v)
    assert torch.allclose(mean, v.double().mean((2, 3), keepdim=True).expand_as(mean), rtol=1e-14)
    key = torch.eye(6).reshape(1, 6, 2, 3)
    v = torch.arange(36.0).reshape(1, 6, 2, 3)
    assert torch.allclose(checks.attention.specification(1000 * key, key, v), v.double(), rtol=1e-14)


def test_skip_channels_are_those_of_the_cifar_network():
    expected = [512, 512, 512, 512, 512, 512, 512, 512, 384, 384, 256, 256]
    assert checks.skip_channels.specification(128, [1, 2, 2, 2], 2) == expected
    assert skips_of_the_network(128, [1, 2, 2, 2], 2) == expected


def test_down_same_keeps_the_pixels_at_even_places():
    """A kernel with a 1 in its corner takes pixel (2i, 2j); in its opposite corner (2i + 2, 2j + 2), or zero."""
    x, corner = torch.arange(1.0, 25.0).reshape(1, 1, 4, 6), torch.zeros(1, 1, 3, 3)
    corner[..., 0, 0] = 1
    assert torch.equal(checks.down_same.specification(x, corner), x[:, :, ::2, ::2].double())
    shifted = checks.down_same.specification(x, corner.flip(2, 3))
    assert shifted[0, 0].tolist() == [[15, 17, 0], [0, 0, 0]]


@pytest.mark.parametrize("sizes", [(32, 32, 128), (32, 64, 128), (96, 32, 128)])
def test_res_block_parameters_are_those_of_the_network(sizes):
    block = ResBlock(*sizes, dropout=0.1)
    assert checks.res_block_parameters.specification(*sizes) == sum(p.numel() for p in block.parameters())
