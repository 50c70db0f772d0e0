# %% [markdown]
# # 3. The U-Net: one network for all noise levels, built piece by piece
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/ddpm_lesson/blob/main/notebooks/03_unet.ipynb)
#
# **You will be able to**
# - say why one network serves all steps, what it loses if it is not told the step, and how it is told;
# - write each piece of DDPM's U-Net: time embedding, group norm, residual block, attention, down, up;
# - predict the shape of every tensor in it, its parameters and its operations, without running it;
# - find a time embedding that never arrives, a layer that starts in the wrong place, an image that is moved by half a pixel;
# - measure what a piece is worth, and say honestly when the answer is "not to be seen here".
#
# **You need** notebook 1 and, of notebook 2, sections 2.1, 2.2, 2.6, 2.10 and 2.11; convolutions and `torch.nn` (a self-check follows). Where a number depends on your machine, the cell prints whether it lies in the range that we name. **Time**: three to four hours of reading and doing; all cells together run in about a minute and a half on two CPU cores.
#
# *The course:* 1 forward process → 2 loss → **3 U-Net** → 4 sampling → 5 variants

# %% [markdown]
# The next cell finds the course's package `ddpm_lesson`. In Colab it installs it. You do not have to read it.

# %% tags=["setup", "nbval-ignore-output"]
# Set-up, the same in every notebook: uses the installed ddpm_lesson, else the checkout
# around this notebook, else fetches it. torch and numpy stay as they are.
import importlib.util
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt

REPOSITORY = "OWNER/ddpm_lesson"
specs = {m: importlib.util.find_spec(m) for m in ("ddpm_lesson", "einops", "safetensors", "tqdm")}
missing = [module for module, spec in specs.items() if spec is None or spec.origin is None]
if "ddpm_lesson" in missing:
    marks = "pyproject.toml", "ddpm_lesson/__init__.py"
    folders = [Path.cwd(), *Path.cwd().parents]
    checkouts = [str(f) for f in folders if all((f / mark).exists() for mark in marks)]
    if checkouts:
        sys.path.insert(0, checkouts[0])
    else:
        missing[0] = f"https://github.com/{REPOSITORY}/archive/refs/heads/main.zip"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, *missing], check=True)
        importlib.invalidate_caches()
plt.rcParams.update({"figure.dpi": 120, "figure.facecolor": "white"})  # opaque on a dark page

# %%
import copy
import json
import math
import time
import warnings
from functools import partial

import numpy as np
import torch
from einops import einsum, rearrange
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

# %%
from ddpm_lesson import GaussianDiffusion, checks, data, losses, oracle, plots, schedules, training
from ddpm_lesson.networks import blocks
from ddpm_lesson.networks.blocks import AttnBlock, DownSample, ResBlock, Swish, TimeEmbedding, UpSample
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import epsilon

torch.set_num_threads(1)  # networks as small as here gain little from more, and lose much on a busy machine

# %% [markdown]
# ### Can you start?
#
# Three questions. If one of them is news to you, follow its pointer first.
#
# 1. A 3x3 convolution takes 16 channels to 32. How many weights does it have, biases included? <details><summary>Answer</summary>$32\cdot 16\cdot 9 + 32 = 4640$. Pointer: "convolutional layer, number of parameters".</details>
# 2. A 3x3 convolution with stride 2 and padding 1 meets an image of 8 by 8 pixels. How large is the result, and how large for 7 by 7? <details><summary>Answer</summary>4 by 4 in both cases: $\lfloor (n + 2 - 3)/2\rfloor + 1$. Pointer: "convolution arithmetic". Section 3.13 needs the second case.</details>
# 3. Which function of $x_t$ makes $\mathbb E\,\|f(x_t)-\epsilon\|^2$ smallest? <details><summary>Answer</summary>$\mathbb E[\epsilon\mid x_t]$, by (2.1). Pointer: section 2.1 of notebook 2.</details>

# %% [markdown]
# ### Symbols
#
# Those of notebooks 1 and 2, and these.
#
# | symbol | in code | shape | what it is | 中文 |
# |---|---|---|---|---|
# | $e(t)$ | `table[t]` | (d_model,) | sines and cosines of $t$ | 正弦时间编码 |
# | $d$ | `d_model` | a number | length of $e(t)$, the network's `ch` | 编码维数 |
# | $\omega_k$ | `omega` | (d_model / 2,) | their frequencies | 频率 |
# | $\tau$ | `temb` | (B, tdim) | time embedding: what the blocks are told; `tdim` is 4 `ch` | 时间嵌入 |
# | $h$ | `h` | (B, C, H, W) | features on their way through the network | 特征图 |
# | $q, k, v$ | `q`, `k`, `v` | (B, C, H, W) | query, key and value of every pixel | 查询,键,值 |
# | $G$ | `num_groups` | a number | groups of channels that are normalised together | 组数 |
#
# Some letters return with another meaning: $\tau$ is no longer the list of steps of section 1.10; $q(\cdot)$ with an argument is a density, $q_i$ a query.
#
# The pieces in Chinese: residual block 残差块, group normalisation 组归一化, attention 注意力, down- and up-sampling 下采样,上采样, skip connection 跳跃连接.

# %% [markdown]
# ## 3.1 One network for all steps
#
# *Question.* Notebook 2 asks for $\mathbb E[\epsilon\mid x_t]$ at a thousand noise levels: a thousand functions. A thousand networks would be a thousand trainings, and neighbouring levels want nearly the same answer. So one network serves them all. Must it be told which level it is looking at?
#
# *Derive.* Suppose that it is not: $f$ sees $x_t$ alone, and training draws $t$ uniformly. By (2.1) the best such $f$ is the average noise given all that it sees. What it does not see, $t$, is averaged over:
# $$\begin{aligned} f^*(x) &= \mathbb E[\epsilon\mid x_t = x] = \sum_t q(t\mid x)\;\mathbb E[\epsilon\mid x_t = x,\ t], \\ q(t\mid x) &= \frac{q_t(x)}{\sum_s q_s(x)} . \end{aligned} \tag{3.1}$$
# $q_t$ is the density of $x_t$; the second formula is Bayes' rule with all $t$ equally likely beforehand. So the blind network answers with a compromise between levels, weighted by how plausible each is. What it loses is the variance of the right answer over the $t$ that come into question.
#
# *Verify* on the two heaps of notebook 2, where everything is known: 70 % of the points around −1, 30 % around +1.

# %%
process = GaussianDiffusion(schedules.linear(1000))
share, places, widths = torch.tensor([[0.7, 0.3], [-1, 1], [0.2, 0.2]], dtype=torch.float64)
heaps = oracle.Mixture(process, share, places[:, None], widths)

# %%
grid = torch.linspace(-5, 5, 501, dtype=torch.float64)
x, t = grid.repeat(1000)[:, None], torch.arange(1000).repeat_interleave(501)
told = heaps(x, t).eps.view(1000, 501)  # E[eps | x_t, t]
density = heaps.log_prob(x, t).view(1000, 501).exp()
blind = (density / density.sum(0) * told).sum(0)  # (3.1)

# %% [markdown]
# Now without any formula: draw 400 000 triples $(t, x_t, \epsilon)$, sort them into bins by $x_t$ and average what $\epsilon$ has more than (3.1) says. In every bin that must be 0, up to the standard error of the average:

# %%
torch.manual_seed(0)
n = 400_000
t, noise = torch.randint(1000, (n,)), torch.randn(n, 1)
x_0 = 2 * torch.bernoulli(torch.full((n, 1), 0.3)) - 1 + 0.2 * torch.randn(n, 1)
x_t = process.q_sample(x_0, t, noise)

# %%
rest = noise[:, 0] - torch.from_numpy(np.interp(x_t[:, 0], grid, blind))
which = torch.bucketize(x_t[:, 0], torch.linspace(-2.5, 2.5, 51))
bins = [rest[which == k] for k in range(1, 51)]
z = torch.stack([b.mean() / b.std() * math.sqrt(len(b)) for b in bins])
print(f"50 bin averages: the largest deviation from (3.1) is {z.abs().max():.1f} standard errors")

# %% [markdown]
# What does it cost? (2.1) with $f = 0$ and $m$ for the best answer says $\mathbb E\,\epsilon^2 = \mathbb E\,m^2 + \mathbb E(m-\epsilon)^2$, so the smallest loss is $1-\mathbb E\,m^2$, whether $m$ is told the time or not. The difference of the two must be the variance over $t$. And both must be what the 400 000 triples cost:

# %%
weight = density * 0.02 / 1000  # of x_t in the grid's cell and t together
of_told, of_blind = 1 - (weight * told**2).sum(), 1 - (weight * blind**2).sum()
lost = (weight * (told - blind) ** 2).sum()  # the variance over t
assert abs(of_told + lost - of_blind) < 1e-9
print(f"smallest loss, told t: {of_told:.3f}   not told: {of_blind:.3f}")

# %%
error = noise[:, 0] - heaps(x_t, t).eps[:, 0]
for name, drawn, computed in (("told", error**2, of_told), ("not told", rest**2, of_blind)):
    off = (drawn.mean() - computed) / (drawn.std() / math.sqrt(n))
    print(f"{name}: the triples cost {drawn.mean():.3f}, that is {off.abs():.1f} standard errors from {computed:.3f}")

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.6))
for i, step in enumerate((20, 100, 300, 900)):
    ax.plot(grid, told[step], plots.LINE_STYLES[i], color=plots.COLOURS[i], label=f"told t = {step}")
ax.plot(grid, blind, color="k", linewidth=2.5, label="not told")
_ = ax.set(xlabel="$x_t$", ylabel=r"average noise behind $x_t$", xlim=(-2.5, 2.5), ylim=(-3, 3)), ax.legend(fontsize="small")

# %% [markdown]
# *Figure 3.1.* The best answer at four noise levels, and the best answer of a network that is not told the level (black). The coloured curves differ most between the heaps, by up to 1.8; but nearly clean points hardly ever lie there. Most of the cost arises near ±1, where they differ by 1.0 and a point may just as well be clean or noisy. Black passes between them, and is right at no level for all $x$.
#
# *An image is not a point.* One number says next to nothing about its noise level. An image has many pixels, and can be asked: how rough is it? Here is $q(t\mid x_t)$ for a whole digit, by Bayes' rule, with the 1415 training digits as the data. `oracle.Empirical` is the exact answer if these digits were all the data there is (section 2.11):

# %%
x_train = data.digits("train").x_0
memory = oracle.Empirical(process, x_train)
seen, strength = {}, {}
for step in (50, 200, 400, 600, 900):
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(step))
    strength[step] = round(noise.square().mean().sqrt().item(), 2)
    x_t = process.q_sample(x_train[:1], torch.tensor([step]), noise)
    seen[step] = memory.log_prob(x_t.expand(1000, -1, -1, -1), torch.arange(1000)).softmax(0)

# %%
late = {step: round(probability[500:].sum().item(), 3) for step, probability in seen.items()}
print("probability of t >= 500, by the t that the digit was noised to:", late)
print("size of the 64 draws of noise (1 on average):", strength)

# %%
fig, ax = plt.subplots(figsize=(6.5, 3))
for i, (step, probability) in enumerate(seen.items()):
    ax.semilogy(probability, plots.LINE_STYLES[i % 4], color=plots.COLOURS[i], label=f"noised to t = {step}")
_ = ax.set(xlabel="t", ylabel=r"$q(t\mid x_t)$", ylim=(1e-4, 1)), ax.legend(fontsize="small")

# %% [markdown]
# *Figure 3.2.* What 64 pixels tell about t, for one digit noised to five levels. An image with little noise gives its level away. (The peaks lie near the true t and not on it: 64 draws of noise are by chance a little weaker, as at 50 and 600, or stronger, as at 200.) A very noisy one only says "late": from about t = 600 on too little of the digit is left to tell levels apart. More pixels tell more, so large images lose less to a blind network (Sun and others 2025 analyse the error); section 3.10 measures the loss of it on 8x8 digits.
#
# **What goes wrong: the wrong reason.** *The post* explains the time embedding with a sentence about transformers: they contain no RNN and no CNN, so positions have to be injected. But a U-Net *is* a CNN. Which pixels are neighbours, a convolution knows from the start (and by the zeros around the image, where the border is): shuffle the pixels, and its answer is not the shuffled answer. What it does not know is the *noise level*, and the embedding of $t$ says that and nothing else.

# %%
shuffle = torch.randperm(64, generator=torch.Generator().manual_seed(0))


def shuffled(x):
    return x.flatten(2)[:, :, shuffle].view_as(x)

# %%
conv, x = nn.Conv2d(1, 8, 3, padding=1), x_train[:16]
moved = (conv(shuffled(x)) - shuffled(conv(x))).abs().max()
print("a convolution answers a shuffled image with the shuffled answer:", bool(moved < 1e-5))

# %% [markdown]
# ## 3.2 How to tell a network a number
#
# *Question.* $t$ is an integer from 0 to 999. In which form does a network read it best?
#
# The bare number is a poor input. A linear layer's answer to it is a straight line; $t = 3$ and $t = 4$ differ by a thousandth of the range, and yet their noise differs by 16 % in size. A table with a free row for each $t$ (one-hot) has the opposite fault: row 500 learns nothing from row 501. Wanted is a vector that is *similar for neighbouring t, different for distant t*, and fine enough to tell 3 from 4.

# %%
print("size of the noise at t = 3 and t = 4:", [round(s, 3) for s in process.sqrt_one_minus_alphas_bar[3:5].tolist()])

# %% [markdown]
# DDPM (Appendix B) takes the encoding of Vaswani and others 2017: clocks that run at different speeds. The fast hands tell neighbours apart, the slow ones tell early from late. With $d$ entries there are $d/2$ frequencies, from 1 down to nearly $1/10000$:
# $$\begin{aligned} e(t)_{2k} &= \sin(\omega_k t),\qquad e(t)_{2k+1} = \cos(\omega_k t), \\ \omega_k &= 10000^{-k/(d/2)},\qquad k = 0,\dots,\tfrac d2-1 . \end{aligned} \tag{3.2: Vaswani Section 3.5}$$
#
# *Derive what it is good for.* Take the inner product of two rows and use $\cos a\cos b+\sin a\sin b = \cos(a-b)$ for every $k$:
# $$\begin{aligned} e(t)\cdot e(s) &= \sum_k\big(\sin\omega_k t\,\sin\omega_k s+\cos\omega_k t\,\cos\omega_k s\big) \\ &= \sum_k\cos\big(\omega_k(t-s)\big) . \end{aligned} \tag{3.3}$$
# It depends on the *distance* of $t$ and $s$ alone, it is largest at distance 0 (there it is $d/2$, so all rows have the same length), and since the sum mixes fast and slow cosines it falls steeply, then wavers, and nowhere comes back to that value.
#
# *Verify*, with the slow form of (3.2):

# %%
d = 128
table = torch.empty(1000, d, dtype=torch.float64)
for t in range(1000):
    for k in range(d // 2):
        angle = t * 10000 ** (-2 * k / d)
        table[t, 2 * k], table[t, 2 * k + 1] = math.sin(angle), math.cos(angle)

# %%
omega = 10000 ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
distance = torch.arange(1000)[:, None] - torch.arange(1000)
by_distance = torch.cos(omega[:, None] * torch.arange(1000)).sum(0)
assert (table @ table.T - by_distance[distance.abs()]).abs().max() < 1e-9
print("a million inner products are a function of |t - s|, to 1e-9")

# %% [markdown]
# > **Predict.** Draw the table as a picture, t from left to right, the entries from top to bottom. What do the lowest rows look like?
# > <details><summary>Then look</summary>Nearly constant. The slowest frequency turns by 0.115 radians in all 1000 steps: its sine hardly leaves 0, its cosine hardly leaves 1. Its period is about 54,000 steps.</details>

# %%
fig, axes = plt.subplots(1, 2, figsize=(12, 3.4), layout="constrained", width_ratios=[3, 2])
picture = axes[0].imshow(table[:, ::2].T, aspect="auto", cmap="cividis", extent=(0, 1000, d, 0))
_ = axes[0].set(xlabel="t", ylabel="entry of $e(t)$"), fig.colorbar(picture, ax=axes[0])
for i, t in enumerate((100, 500, 800)):
    axes[1].plot(table @ table[t], plots.LINE_STYLES[i], color=plots.COLOURS[i], label=f"t = {t}")
_ = axes[1].set(xlabel="s", ylabel=r"$e(t)\cdot e(s)$", ylim=(0, 80)), axes[1].legend(ncols=3, loc="upper center")

# %% [markdown]
# *Figure 3.3.* Left: the table, its sines only (the cosines between them are the same waves, moved by a quarter of their period). Fast waves on top, slow ones below. (The arcs at middle height are no waves of their own: there neighbouring rows fall into step and out of it again.) Right: the inner product of three rows with all rows. A sharp peak at s = t, the same for all three, on a broad hill: near steps are alike, distant ones less so. In numbers:

# %%
print("e(t).e(s) by the distance |t - s|:", {n: round(by_distance[n].item()) for n in (0, 1, 10, 100, 900)})

# %% [markdown]
# In the network two linear layers follow the table, so that it can form what it needs from the waves (`TimeEmbedding`: table, linear, Swish, linear). The table is not trained.
#
# **Exercise 3.1 (one star).** Equation (3.2) without loops: the whole table, (T, d_model). Sine and cosine alternate.
# <details><summary>Hint 1</summary>Make the angles first, (T, d_model / 2): a column of t times a row of frequencies.</details>
# <details><summary>Hint 2</summary>torch.stack([sin, cos], dim=-1) gives (T, d_model / 2, 2). Flatten the last two axes, and they alternate.</details>

# %%
def time_table(T, d_model):
    ...

# %%
time_table = checks.time_table(time_table)

# %% [markdown]
# **What goes wrong: two layouts, two sets of frequencies.** DDPM's own code, and with it diffusers' converted checkpoints, puts all sines first and all cosines after them. That is a permutation of the columns, and a linear layer follows, so neither layout is better. But *weights* that were trained with one layout mean nothing in the other, until the columns of that linear layer are permuted too:

# %%
rows = TimeEmbedding(1000, d, 512).timembedding[0].weight
assert (rows - table).abs().max() < 1e-6
sines_first = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])
layer = nn.Linear(d, 512)
permuted = F.linear(rows[:, sines_first], layer.weight[:, sines_first], layer.bias)
print("columns of table and layer permuted alike: equal", bool((permuted - layer(rows)).abs().max() < 1e-5))

# %% [markdown]
# (Solve exercise 3.1 first: an answer to it follows.) And that is not all. DDPM's code divides the exponent by `half - 1` where (3.2) divides by `half`. Its frequencies reach $1/10000$ exactly; the post's stop one notch before:

# %%
official = TimeEmbedding(1000, d, 512, official=True).timembedding[0].weight
# row 1 holds sin(omega), and for so small an omega that is omega
print(f"lowest frequency: {rows[1, -2]:.3e} as in the post, {official[1, d // 2 - 1]:.3e} in DDPM's code")
print("sines first, (3.2) is the official table:", bool((rows[:, sines_first] - official).abs().max() < 0.1))

# %%
angles = torch.arange(1000)[:, None] * 10000 ** (-torch.arange(d // 2, dtype=torch.float64) / (d // 2 - 1))
alternating = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
print("and with their exponents it is:", bool((alternating[:, sines_first] - official).abs().max() < 1e-6))

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
apart = (rows[:, sines_first] - official).norm(dim=1) / math.sqrt(d / 2)
_ = ax.plot(apart, color=plots.BLUE), ax.set(xlabel="t", ylabel="distance, length of a row = 1", ylim=(0, 1.6))

# %% [markdown]
# *Figure 3.4.* How far the two tables lie apart at each t, after the permutation, in units of a row's length. At t = 0 they agree; then the post's waves, all but the fastest, run ahead, and from about t = 500 on the two rows are further apart than a row is long. A checkpoint needs the permutation *and* the right exponent: here `UNet(..., official_embedding=True)`.
#
# **What goes wrong: another network's encoding.** *The post* shows this as "DDPM's positional encoding":
# ```python
# self.positional_embedding = nn.Parameter(th.randn(embed_dim, spacial_dim ** 2 + 1) / embed_dim ** 0.5)
# x = x + self.positional_embedding[None, :, :].to(x.dtype)  # NC(HW+1)
# ```
# Read the shape: one column for each *pixel*, and one for the mean of all. There is no $t$ in it, and it is trained. It is the pooling layer `AttentionPool2d` of guided-diffusion, at the end of its *classifier*. DDPM's encoding is (3.2): it depends on $t$, not on the place, is not trained, and enters every residual block (section 3.4). So $t$ reaches the network twice, through $\bar\alpha_t$ in $x_t$ and through $e(t)$.

# %% [markdown]
# ## 3.3 Swish and group norm
#
# *Question.* Between two convolutions stand a nonlinearity and a normalisation. DDPM uses Swish and GroupNorm. Why these?
#
# **Swish** is $x\,\sigma(x)$ with $\sigma(x) = 1/(1+e^{-x})$. Like ReLU it lets large values pass and stops very negative ones; unlike ReLU it is smooth. ReLU's slope is 0 for *all* negative inputs: a unit whose inputs are all negative gets no gradient any more and stops for good. Swish's slope is 0 at one point only, near −1.28, and far below it fades like $x\,e^x$, so a unit seldom stops for good.

# %%
x = torch.linspace(-6, 6, 241, dtype=torch.float64, requires_grad=True)
y = Swish()(x)
(slope,) = torch.autograd.grad(y.sum(), x)
gate = torch.sigmoid(x)
assert torch.allclose(slope, gate + x * gate * (1 - gate))  # product rule

# %%
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(x.detach(), y.detach(), color=plots.BLUE, label=r"Swish, $x\,\sigma(x)$")
ax.plot(x.detach(), slope, "--", color=plots.VERMILION, label="its slope")
ax.plot(x.detach(), x.detach().relu(), ":", color="0.3", label="ReLU")
_ = ax.set(xlabel="x", ylim=(-1, 4)), ax.legend()

# %% [markdown]
# *Figure 3.5.* Swish against ReLU. It dips to −0.28 near x = −1.28 and comes back to 0; its slope passes through 1/2 at x = 0 without a jump.
#
# Why normalise at all? Every layer multiplies the size of what it gets by some factor, and training moves these factors. Without a norm the size of $h$ drifts with depth, gradients drift with it, and one learning rate cannot suit all layers.
#
# **GroupNorm** (Wu and He 2018) cuts the $C$ channels of one image into $G$ groups of neighbours and gives every group mean 0 and variance 1; then each channel $c$ gets a scale $\gamma_c$ and an offset $\beta_c$ of its own. For pixel $p$ of channel $c$ in group $g$, with $S_g$ the set of all pixels of all channels of the group,
# $$\begin{aligned} y_{cp} &= \gamma_c\,\frac{h_{cp}-\mu_g}{\sqrt{\sigma_g^2+10^{-5}}}+\beta_c, \\ \mu_g &= \frac1{|S_g|}\sum_{S_g}h,\qquad \sigma_g^2 = \frac1{|S_g|}\sum_{S_g}(h-\mu_g)^2 . \end{aligned} \tag{3.4}$$
# (This $\beta_c$ is no noise variance; papers run out of letters.) The slow form, on features so small that the $10^{-5}$ counts:

# %%
h, G = 0.01 * torch.randn(3, 8, 4, 6, dtype=torch.float64), 2
gamma, beta = torch.randn(2, 8, 1, 1, dtype=torch.float64)
slow = torch.empty_like(h)
for image in range(3):
    for g in range(G):
        group = h[image, 4 * g : 4 * g + 4]
        mean = group.sum() / group.numel()
        var = ((group - mean) ** 2).sum() / group.numel()
        slow[image, 4 * g : 4 * g + 4] = (group - mean) / (var + 1e-5) ** 0.5

# %%
norm = blocks.group_norm(8, G, 1e-5).double()
norm.load_state_dict({"weight": gamma.flatten(), "bias": beta.flatten()})
assert torch.allclose(norm(h), gamma * slow + beta, rtol=0, atol=1e-12)
print("three images, two groups: loops and the package agree to 1e-12")

# %% [markdown]
# > **Predict.** Why not BatchNorm, which normalises each channel over the whole batch? Think of what a batch of DDPM holds.
# > <details><summary>Then look</summary>Images at different t. Batch statistics would mix nearly clean images with pure noise, so the answer for one image would depend on which others happen to sit in the batch. GroupNorm looks at one image only. (This holds in train mode, and it is our reason. DDPM's Appendix B gives another: "to make the implementation simpler".)</details>

# %%
t = torch.tensor([0, 300, 600, 999])
x_t = process.q_sample(x_train[:4], t, torch.randn(4, 1, 8, 8)).repeat(1, 8, 1, 1)
for norm in (nn.GroupNorm(2, 8), nn.BatchNorm2d(8)):
    alone, in_batch = norm(x_t[:2])[0], norm(x_t)[0]
    print(f"{type(norm).__name__}: image 0 does not depend on its neighbours: {torch.allclose(alone, in_batch)}")

# %% [markdown]
# **Exercise 3.2 (two stars).** Equation (3.4) without loops. `x` is (B, C, H, W), `weight` and `bias` are (C,).
# <details><summary>Hint 1</summary>View x as (B, G, C/G, H, W). Which axes does one mean run over?</details>
# <details><summary>Hint 2</summary>mean((2, 3, 4), keepdim=True), and var with unbiased=False. View back, then weight.view(1, C, 1, 1).</details>

# %%
def group_norm(x, num_groups, weight, bias):
    ...

# %%
group_norm = checks.group_norm(group_norm)

# %% [markdown]
# ## 3.4 The residual block, and where time enters
#
# *Question.* How do these pieces become a network that can be made deep, and at which place does it hear of $t$?
#
# A deep stack of layers is hard to train: every layer must pass on what it got, and change it too. A *residual* block (He and others 2016) only learns the change, and the rest goes past it on a *shortcut*. DDPM's block has the order of Wide ResNet (an image classifier of few, wide residual blocks): norm, nonlinearity, convolution, twice. Between the two halves stands the time. Appendix B only says that the embedding is added in each residual block; how, its code says: $\tau$, the output of the time embedding, goes through Swish and a linear layer and gives one number for each channel, which is added at all pixels:
# $$\begin{aligned} h &= \operatorname{conv}_1\big(\operatorname{swish}(\operatorname{norm}_1(x))\big) + W\operatorname{swish}(\tau)+b, \\ \operatorname{ResBlock}(x, \tau) &= \operatorname{conv}_2\big(\operatorname{swish}(\operatorname{norm}_2(h))\big) + \operatorname{shortcut}(x) . \end{aligned} \tag{3.5: DDPM code}$$
# The shortcut is $x$ itself or, where the number of channels changes, a 1x1 convolution of it. Dropout stands before $\operatorname{conv}_2$. The picture is read off the module:

# %%
def called(layer):
    return type(layer).__name__ + (f" {layer.kernel_size[0]}x{layer.kernel_size[1]}" if hasattr(layer, "kernel_size") else "")


block = ResBlock(in_ch=16, out_ch=32, tdim=64, dropout=0.1, num_groups=4)
names = ["x", *map(called, block.block1), "+", *map(called, block.block2), "+", "out"]
first, last = (i for i, name in enumerate(names) if name == "+")

# %%
boxes = {(i, 0): name for i, name in enumerate(names)} | {(last / 2, -1): called(block.shortcut)}
boxes |= {(first - 3 + i, 1): name for i, name in enumerate([r"$\tau$", *map(called, block.temb_proj)])}
lines = [[(0, 0), (last + 0.8, 0)], [(0, 0), (0, -1), (last, -1), (last, -0.2)], [(first - 3, 1), (first, 1), (first, 0.2)]]
fig, ax = plt.subplots(figsize=(11, 2.8))
for (x, y), name in boxes.items():
    style = {"boxstyle": "round", "ec": "0.4", "fc": "#cce3f0" if name[0] in "CL" else "#fae9c0" if name[0] in "GSD" else "w"}
    ax.text(x, y, name, ha="center", va="center", fontsize=8, bbox=style)
for corners in lines:
    ax.plot(*zip(*corners, strict=True), color="0.4", linewidth=1, zorder=0)
    ax.annotate("", corners[-1], corners[-2], arrowprops={"arrowstyle": "-|>", "color": "0.4"}, zorder=0)
_ = ax.set(xlim=(-0.5, last + 1.5), ylim=(-1.4, 1.4)), ax.axis("off")

# %% [markdown]
# *Figure 3.6.* A residual block, as the module lists its layers. Middle row: the branch that computes the change. Upper row: the time, added to every pixel before the second norm. Lower row: the shortcut, here a 1x1 convolution because 16 channels become 32. Blue: convolutions and linear layers; yellow: norms, Swish, dropout.
#
# The place where time enters, in its slow form, for every image, every channel and every pixel:

# %%
h, temb = torch.randn(2, 32, 4, 4), torch.randn(2, 64)
linear, slow = block.temb_proj[1], torch.empty_like(h)
for b in range(2):
    for c in range(32):
        number = linear.bias[c] + sum(linear.weight[c, j] * u / (1 + math.exp(-u)) for j, u in enumerate(temb[b].tolist()))
        slow[b, c] = h[b, c] + number.item()

# %% [markdown]
# **Exercise 3.3 (one star).** The same without loops: `h` is (B, C, H, W), `temb` (B, tdim), `weight` (C, tdim), `bias` (C,). Leave `h` as it is, and return a new tensor.
# <details><summary>Hint 1</summary>Swish first, then F.linear(..., weight, bias). The result is (B, C).</details>
# <details><summary>Hint 2</summary>Two axes of length 1 are missing at the end: [:, :, None, None]. Without them the numbers meet the columns of the image.</details>

# %%
def add_time(h, temb, weight, bias):
    ...

# %%
add_time = checks.add_time(add_time)

# %% [markdown]
# (Solve exercise 3.3 first: an answer to it follows.) *Verify* all of (3.5) against the package's `ResBlock` (in eval mode, so that dropout rests), line by line as it stands above:

# %%
block.eval()
# as built, this layer's weights are 100 000 times too small to measure anything (why: 3.9); give them ordinary size
nn.init.xavier_uniform_(block.block2[-1].weight)
norm_1, swish, conv_1 = block.block1
norm_2, _, _, conv_2 = block.block2
assert torch.allclose(h + linear(swish(temb))[:, :, None, None], slow, atol=1e-5)

# %%
x = torch.randn(2, 16, 4, 4)
h = conv_1(swish(norm_1(x))) + linear(swish(temb))[:, :, None, None]
by_hand = conv_2(swish(norm_2(h))) + block.shortcut(x)
assert torch.allclose(by_hand, block(x, temb), atol=1e-5)
print("(3.5) by hand and ResBlock agree")

# %% [markdown]
# **What goes wrong: a norm that removes the time.** Look at the order in figure 3.6: the time is *added*, and then comes a norm, which *subtracts* a mean. What one adds to a channel as a whole, the other takes away, if the group is that channel alone. GroupNorm with 32 groups, as the post has it everywhere, does so with 32 channels.
#
# > **Predict.** A block with 32 channels; you change t from 0 to 900. With 32 groups, by how much does the block's output change? And with 8 groups?
# > <details><summary>Then look</summary>With 32 groups by nothing but rounding: the block runs, trains, and is *deaf*: its answer does not depend on t. With 8 groups a mean is taken over four channels, and the differences between their four numbers survive.</details>

# %%
embedding, t = TimeEmbedding(1000, 32, 128), torch.tensor([0, 900])
x = torch.randn(1, 32, 8, 8).expand(2, -1, -1, -1)
changes, gradients = {}, {}
for groups in (32, 8):
    block = ResBlock(32, 32, 128, 0.0, num_groups=groups)
    nn.init.xavier_uniform_(block.block2[-1].weight)
    out = block(x, embedding(t))
    changes[groups] = (out[0] - out[1]).abs().max().item()
    (g,) = torch.autograd.grad(out.square().sum(), block.temb_proj[1].weight)
    gradients[groups] = g.abs().max().item()

# %%
print("32 groups: output changes by less than 1e-5:", changes[32] < 1e-5)
print(f" 8 groups: output changes by {changes[8]:.1f}")
print("gradient of the time's layer, smaller by more than 100 000 times:", gradients[8] > 1e5 * gradients[32])

# %% [markdown]
# What this does to a whole network we see in section 3.6, once we have one.

# %% [markdown]
# ## 3.5 Attention: a weighted average of all pixels
#
# *Question.* A 3x3 convolution sees neighbours. The upper stroke of an 8 and the lower one are far apart, and yet each says something about the other. How can a pixel ask *all* pixels?
#
# *Derive.* Let every pixel $i$ hold three vectors of $C$ numbers, made from its features by three 1x1 convolutions: a query $q_i$ (what do I look for?), a key $k_i$ (what do I have?), a value $v_i$ (what do I say?). How well $i$'s query fits $j$'s key is their inner product. Turn these into positive weights with sum 1, and average the values:
# $$\begin{aligned} w_{ij} &= \frac{\exp(q_i\cdot k_j/\sqrt C)}{\sum_l\exp(q_i\cdot k_l/\sqrt C)}, \\ \operatorname{attention}(q,k,v)_i &= \sum_j w_{ij}\,v_j . \end{aligned} \tag{3.6: Vaswani Eq. 1}$$
# Why $\sqrt C$? If the entries of $q$ and $k$ are independent with mean 0 and variance 1, then $q\cdot k$ is a sum of $C$ products, each with mean 0 and variance 1: its variance is $C$. Divided by $\sqrt C$ it is 1 for every $C$. Otherwise, with many channels, the exponential would give nearly all weight to one pixel, and the softmax would pass on hardly any gradient.
#
# > **Predict.** 64 pixels, 128 channels, random queries and keys. How much of the weight does the best of the 64 pixels get, with the division and without? An even share would be 1/64 = 0.016.
# > <details><summary>Then look</summary>With it 0.11, without it 0.86.</details>

# %%
torch.manual_seed(0)
queries, keys = torch.randn(1000, 128), torch.randn(64, 128)
fit = queries @ keys.T
print(f"variance of q.k: {fit.var():.0f}, with C = 128")
divided, plain = (weights.softmax(1).max(1).values.mean() for weights in (fit / math.sqrt(128), fit))
print(f"largest of 64 weights, on average: {divided:.2f} divided, {plain:.2f} not")

# %% [markdown]
# The slow form, one pixel after the other:

# %%
q, k, v = torch.randn(3, 2, 8, 4, 6, dtype=torch.float64)  # B = 2, C = 8, H = 4, W = 6
slow = torch.empty_like(v)
for b in range(2):
    for i in range(24):
        fit = torch.stack([q[b, :, i // 6, i % 6] @ k[b, :, j // 6, j % 6] for j in range(24)])
        w = (fit / math.sqrt(8)).exp() / (fit / math.sqrt(8)).exp().sum()
        slow[b, :, i // 6, i % 6] = sum(w[j] * v[b, :, j // 6, j % 6] for j in range(24))

# %% [markdown]
# **Exercise 3.4 (two stars).** The same without loops, and with `einops`: `rearrange(q, "b c h w -> b (h w) c")` makes a list of pixels, `einsum(a, b, "b i c, b j c -> b i j")` multiplies and sums. All shapes are (B, C, H, W).
# <details><summary>Hint 1</summary>Weights are (B, H W, H W). The softmax runs over j, the pixels that are looked at: the last axis.</details>
# <details><summary>Hint 2</summary>einsum(w, v, "b i j, b j c -> b i c"), then rearrange back to "b c h w" with h= and w= given.</details>

# %%
def attention(q, k, v):
    ...

# %%
attention = checks.attention(attention)

# %% [markdown]
# *Verify.* (Solve the exercise first: here is an answer.) The same three lines are written in many ways. With einops, with the post's batched matrix products, and with PyTorch's fused call, which need not store the matrix of weights:

# %%
queries, keys, values = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
w = (einsum(queries, keys, "b i c, b j c -> b i j") / math.sqrt(8)).softmax(-1)
with_einops = einsum(w, values, "b i j, b j c -> b i c")
with_bmm = torch.bmm(F.softmax(torch.bmm(queries, keys.transpose(1, 2)) * 8**-0.5, -1), values)
fused = F.scaled_dot_product_attention(queries, keys, values)

# %%
for result in (with_einops, with_bmm, fused):
    assert torch.allclose(rearrange(result, "b (h w) c -> b c h w", h=4, w=6), slow, atol=1e-10)
print("loops, einops, bmm and the fused call agree to 1e-10")

# %% [markdown]
# *See* an attention that denoises, with nothing learned. Give every pixel as query and key the 3x3 patch $p$ around it, and as value its own grey level. With one more channel, 1 in the query and $-\|p_j\|^2/2$ in the key, the inner product becomes
# $$p_i\cdot p_j-\tfrac12\|p_j\|^2 = -\tfrac12\|p_i-p_j\|^2+\tfrac12\|p_i\|^2 ,$$
# and the last term, equal for all $j$, cancels in the softmax. Divide by the square of a *width*: patches that differ by more than the width hardly count. Noise alone puts two equal patches of 9 pixels about $\sqrt{2\cdot 9} = 4.2$ standard deviations of it apart, so we try the widths 2, 3 and 4.2. So pixel $i$ takes the average over all pixels *whose surroundings look like its own*, wherever they are. Image processing knows this as non-local means (Buades and others 2005).

# %%
t = torch.full((20,), 90)
noise = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
clean = process.sqrt_alphas_bar[90].float() * x_train[:20]
noisy = process.q_sample(x_train[:20], t, noise)
p = F.unfold(F.pad(noisy, (1, 1, 1, 1), value=-1.0), 3).transpose(1, 2)  # (20, 64, 9)

# %%
def averaged(times):
    """Averages and weights, with a width of so many times the noise."""
    width = times * process.sqrt_one_minus_alphas_bar[90].float()
    query = torch.cat([p, torch.ones(20, 64, 1)], 2) / width**2
    key = torch.cat([p, -0.5 * p.square().sum(2, keepdim=True)], 2)
    w = (query @ key.transpose(1, 2)).softmax(-1)
    return (w @ noisy.view(20, 64, 1)).view_as(noisy), w

# %%
before = (noisy - clean).square().mean((1, 2, 3)).sqrt()
ratio = {times: (averaged(times)[0] - clean).square().mean((1, 2, 3)).sqrt() / before for times in (2, 3, 4.2)}
print("mean distance to the clean digit, noisy = 1:", {times: round(r.mean().item(), 2) for times, r in ratio.items()})
print("with 3, nearer for each of the 20 digits:", bool((ratio[3] < 1).all()))

# %% [markdown]
# 4.2 is too wide: unequal patches blend in, and the mean ends further from the clean digit than the noisy one was. 3 is the best of the three. "Clean" is $\sqrt{\bar\alpha_t}\,x_0$, what is left of the digit at this t.

# %%
average, w = averaged(3)
n, i = 0, 28  # one digit, and its pixel in row 3 and column 4
rows, columns = torch.arange(64) // 8 - i // 8, torch.arange(64) % 8 - i % 8
far = torch.hypot(rows.float(), columns.float()) > 3
print(f"weight on the pixel itself: {w[n, i, i]:.1f}; on pixels more than three away: {w[n, i][far].sum():.1f}")

# %%
fig, axes = plt.subplots(1, 4, figsize=(10.5, 2.9), layout="constrained")
for ax, image, name in zip(axes[[0, 1, 3]], (clean, noisy, average), ("clean", "$x_t$", "the averages"), strict=True):
    ax.imshow(image[n, 0], cmap="gray", vmin=-1, vmax=1)
    _ = ax.set_title(name), ax.axis("off")
picture = axes[2].imshow(w[n, i].view(8, 8), cmap="cividis", vmin=0)
_ = axes[2].set_title("weights of the marked pixel"), axes[2].axis("off"), fig.colorbar(picture, ax=axes[2])
for ax in axes[1:3]:
    ax.plot(i % 8, i // 8, "s", ms=18, mfc="none", mec=plots.VERMILION, mew=2)

# %% [markdown]
# *Figure 3.7.* From left: a digit; the same with noise, and one pixel of it; the weights with which this pixel looks at all others; what attention makes of the digit. A fifth of the weight stays on the pixel itself, the rest goes to pixels with similar surroundings, near or far: six tenths of it all to pixels more than three away. All 20 digits came nearer to the clean ones, at one draw of the noise. A trained network makes better queries and keys than raw patches; the mechanism is this.
#
# **The attention block.** In the network queries, keys and values are not patches but learned: three 1x1 convolutions $W_q, W_k, W_v$ (with biases) of the normalised features. A fourth one, $W_o$, stands after the average, and the whole is a residual branch:
# $$\operatorname{AttnBlock}(h) = h + W_o\operatorname{attention}\big(W_q\hat h,\ W_k\hat h,\ W_v\hat h\big),\qquad \hat h = \operatorname{norm}(h) .$$
# A residual block at a level that attends applies it to the result of (3.5), as its last act. By hand:

# %%
attend = AttnBlock(8, num_groups=4)
nn.init.xavier_uniform_(attend.proj.weight)  # as built it is nearly 0
h = torch.randn(1, 8, 8, 8)
normed = attend.group_norm(h)
q, k, v = (rearrange(W(normed), "b c h w -> b (h w) c") for W in (attend.proj_q, attend.proj_k, attend.proj_v))

# %%
out = rearrange(F.scaled_dot_product_attention(q, k, v), "b (h w) c -> b c h w", h=8)
assert torch.allclose(h + attend.proj(out), attend(h), atol=1e-5)
print("the block by hand and AttnBlock agree")

# %% [markdown]
# *Attention knows no places.* Nothing in (3.6) says where a pixel is. Shuffle the pixels, and the answer is the shuffled answer: just what a convolution did not do in section 3.1. In a U-Net the convolutions before and after it know the neighbours, so no positional encoding is needed.

# %%
print("attention answers shuffled pixels with the shuffled answer:",
      torch.allclose(attend(shuffled(h)), shuffled(attend(h)), atol=1e-5))

# %% [markdown]
# The price: $(HW)^2$ weights. At 32x32 that is a million for each image, at 16x16 sixty-five thousand. DDPM attends at 16x16 only, and in the middle.

# %% [markdown]
# ## 3.6 The U: levels, skips, and the bookkeeping of channels
#
# *Question.* The network returns noise for every *pixel*, so it needs full resolution. To know what the image shows it must see all of it, which is cheap only at low resolution. How can it have both?
#
# *Idea.* Go down and up again, and hand over the fine features at every level on the way: a U with rungs. Between the two ways stand two more residual blocks, the *middle*; the first of them attends. On the way down each output is put on a stack; on the way up each residual block takes one from it and joins it, channel beside channel, to what came from below:
# $$h \leftarrow \operatorname{ResBlock}\big([\,h,\ \text{top of the stack}\,],\ \tau\big),\qquad \text{channels in} = C_h + C_\text{skip} . \tag{3.7}$$
#
# `UNet` has these parts: `head`, the first convolution; `downblocks`, `middleblocks` and `upblocks`; `tail`, the last layers (norm, Swish, convolution). Its arguments:
#
# | argument of `UNet` | what it is |
# |---|---|
# | `T` | number of steps |
# | `ch` | channels of level 0, the finest |
# | `ch_mult` | for each level, its channels as a multiple of `ch` |
# | `attn` | the levels whose blocks attend (section 3.5); `[]`: none |
# | `num_res_blocks` | residual blocks of a level on the way down |
# | `dropout` | the share of features that training sets to 0 |
# | `in_ch`, `num_groups` | channels of the image and groups of the norms: 3 and 32 unless said otherwise |
#
# A network as built answers nearly 0 to everything, because the last layer of every branch and of the whole starts at nearly 0 (section 3.9). Call that *asleep*, and *awake* a network whose last layers start like all others. To measure we need one that is awake:

# %%
def wake(net):
    """The last layer of every branch, and of the network, gets weights of ordinary size."""
    for block in net.modules():
        if isinstance(block, ResBlock):
            nn.init.xavier_uniform_(block.block2[-1].weight)
        if isinstance(block, AttnBlock):
            nn.init.xavier_uniform_(block.proj.weight)
    nn.init.xavier_uniform_(net.tail[-1].weight)

# %% [markdown]
# Assemble a U by hand, from the parts of a small network that is awake (asleep, both sides would be nearly 0, and equal whatever we do):

# %%
net = UNet(1000, 32, [1, 2], attn=[1], num_res_blocks=1, dropout=0.0, in_ch=1, num_groups=8)
wake(net)
x, t = torch.randn(2, 1, 8, 8), torch.tensor([10, 500])

# %%
temb, h = net.time_embedding(t), net.head(x)
stack = [h]
for block in net.downblocks:
    h = block(h, temb)
    stack.append(h)
for block in net.middleblocks:
    h = block(h, temb)
for block in net.upblocks:
    h = block(torch.cat([h, stack.pop()], 1) if isinstance(block, ResBlock) else h, temb)

# %%
assert stack == [] and torch.allclose(net.tail(h), net(x, t), atol=1e-5)
print("head, down, middle, up, tail by hand: equal to the package")

# %% [markdown]
# Back to section 3.4: what becomes of a whole network if a norm removes the time? Two small networks, with 32 groups as in the post:

# %%
x = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    narrow = UNet(T=1000, ch=32, ch_mult=[1, 1], attn=[], num_res_blocks=1, dropout=0.0, in_ch=1)
    wider = UNet(T=1000, ch=32, ch_mult=[1, 2, 2], attn=[], num_res_blocks=1, dropout=0.0, in_ch=1)

# %%
for name, net in (("all levels have 32 channels", narrow), ("32, 64 and 64 channels", wider)):
    wake(net)
    out = net(x, torch.tensor([0, 900])).detach()
    print(f"{name}: the answer depends on t: {bool((out[0] - out[1]).abs().max() > 1e-4)}")

# %% [markdown]
# Only *blocks* with 32 channels are deaf. Where wider levels follow, they still hear, and the network gets by with less; where none does, it is deaf as a whole. Nothing raises, and the loss falls, for the image itself tells a good part of t (figure 3.2). The CIFAR-10 network has 128 channels and more, four or more to a group, and is not affected; a small network that keeps the 32 is. **Repair**: fewer groups, 8 say. The package warns as soon as some level is affected:

# %%
for warning in caught:
    print(warning.category.__name__, "-", str(warning.message).split(":")[0])

# %% [markdown]
# **What goes wrong: a pedigree.** *The post* says that the U-Net had proven itself in GANs. DDPM's own account (Appendix B) is another: the backbone is PixelCNN++ (a model that draws an image pixel after pixel), itself a U-Net built on Wide ResNet, with its weight normalisation (length and direction of weights learned apart) replaced by group normalisation. The U-Net as such comes from segmenting medical images (Ronneberger and others 2015).
#
# The network for CIFAR-10 has four levels (32, 16, 8 and 4 pixels a side) with 128, 256, 256, 256 channels, two residual blocks to a level, and attention at level 1. We build it on the device `meta`, where tensors have shapes and no numbers: nothing is computed, and nothing can take long.

# %%
with torch.device("meta"):
    cifar = UNet(1000, 128, [1, 2, 2, 2], attn=[1], num_res_blocks=2, dropout=0.1)
    x, t = torch.empty(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)

# %%
fig, ax = plt.subplots(figsize=(12, 7))
plots.unet_diagram(cifar, ax=ax)
for number in ax.texts:
    number.set_fontsize(9)
for row, name in ((0, "32x32"), (1, "16x16"), (2, "8x8"), (3, "4x4"), (3.6, "middle, 4x4")):
    ax.text(-0.8, -1.6 * row - 0.3, name, ha="right", va="center")

# %% [markdown]
# *Figure 3.8.* DDPM's U-Net, drawn from its modules; execution runs from left to right, from row to row the side is halved, and the two blocks of the middle hang below the last row. Boxes: the channels that a block returns. Grey: `head` and `tail`; blue: residual blocks; pink: residual blocks with attention; yellow: down and up. Lines: skips, each with the channels it carries. The last to go on the stack is the first to come off.
#
# *The rules of the stack*, as the code has them:
#
# - on the stack go: the first convolution's output, the output of every residual block on the way down, and the output of every `DownSample`;
# - off the stack comes one for every residual block on the way up, and there are `num_res_blocks + 1` of them to a level: one more than on the way down, for the output of the `DownSample` that led to this level, or, at the finest level, for the output of the first convolution;
# - `UpSample` takes none.
#
# Let a hook write the **ledger**: what goes into each block and what comes out. A hook is a function that PyTorch calls after a module has run, with the module, its inputs and its output.

# %%
ledger = []


def write(name, block, args, out):
    ledger.append((name, type(block).__name__, *args[0].shape[1:3], *out.shape[1:3]))

# %%
parts = [(name, part) for name, part in cifar.named_modules() if name.count(".") == 1 and "blocks" in name]
parts = [("head", cifar.head), *parts, ("tail", cifar.tail)]
hooks = [part.register_forward_hook(partial(write, name)) for name, part in parts]
out = cifar(x, t)
for hook in hooks:
    hook.remove()

# %%
for name, kind, c_in, side_in, c_out, side_out in ledger:
    print(f"{name:16} {kind:11} {c_in:3} at {side_in:2}x{side_in:<2} -> {c_out:3} at {side_out:2}x{side_out}")

# %% [markdown]
# Check the ledger. The side is halved by `DownSample`, doubled by `UpSample`, and kept by all others; and up to the middle every block gets what the block before it returned:

# %%
factor = {"DownSample": 0.5, "UpSample": 2}
assert all(row[5] == factor.get(row[1], 1) * row[3] for row in ledger)
before_up = [row for row in ledger if row[0].startswith(("head", "down", "middle"))]
assert all(one[4:] == following[2:4] for one, following in zip(before_up, before_up[1:], strict=False))

# %% [markdown]
# Then (3.7). Replay it with a stack of our own: at every step on the way up, what goes in must be what came from below plus what comes off.

# %%
stack = [row[4] for row in ledger if row[0].startswith(("head", "down"))]
before = ledger[[row[0] for row in ledger].index("upblocks.0") - 1][4]
for name, kind, c_in, _, c_out, _ in ledger:
    if name.startswith("up"):
        assert c_in == before + (stack.pop() if kind == "ResBlock" else 0)
        before = c_out
assert stack == [] and out.shape == x.shape
print("every block on the way up gets what (3.7) says, and the stack ends empty")

# %% [markdown]
# **Exercise 3.5 (two stars).** Predict, without building the network: the number of *input* channels of every residual block on the way up, first to last, as a list of ints. For the network above it begins with 512 and ends with 256.
# <details><summary>Hint 1</summary>Walk down and append to a list, in the order of the rules above. Then walk up and pop.</details>
# <details><summary>Hint 2</summary>On the way up keep `now`, the channels that come from below. It starts as ch * ch_mult[-1] and becomes ch * mult after every block.</details>

# %%
def skip_channels(ch, ch_mult, num_res_blocks):
    ...

# %%
skip_channels = checks.skip_channels(skip_channels)

# %% [markdown]
# ## 3.7 Down and up
#
# *Question.* Half the side, and twice the side: there are many ways. Do they differ?
#
# **Up.** DDPM repeats every pixel four times and puts a 3x3 convolution after it. The usual alternative, a transposed convolution with stride 2, spreads every coarse pixel over a 3x3 window of fine ones, and the windows overlap unevenly: a fine pixel gets contributions from 1, 2 or 4 coarse ones. Feed both a constant image and constant weights:

# %%
flat, weight = torch.ones(1, 1, 6, 6), torch.ones(1, 1, 3, 3) / 9
transposed = F.conv_transpose2d(flat, weight * 4, stride=2, padding=1, output_padding=1)
repeated = F.conv2d(F.interpolate(flat, scale_factor=2.0), weight, padding=1)

# %%
inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
levels = (transposed[inside] * 9 / 4).round().unique().tolist()
print("transposed: a fine pixel gets", [int(n) for n in levels], "contributions; repeated: one value inside,",
      repeated[inside].unique().numel() == 1)

# %%
fig, axes = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
for ax, image, name in zip(axes, (transposed, repeated), ("transposed convolution", "repeat, then convolve"), strict=True):
    picture = ax.imshow(image[0, 0], cmap="cividis", vmin=0, vmax=1.8)
    _ = ax.set_title(name), ax.axis("off")
_ = fig.colorbar(picture, ax=axes)

# %% [markdown]
# *Figure 3.9.* A constant image, enlarged with constant weights. Left: a chequerboard. Weights can learn to compensate, but every training starts from it, and traces of it are found in published images (Odena and others 2016). Right: constant, but for the border, where the padding's zeros come in.
#
# **Down.** A 3x3 convolution with stride 2. The side is even, a 3x3 window is odd, so it cannot be centred on a pair of pixels.
#
# > **Predict.** Let every pixel hold the number of its column, 0 … 7, and let the convolution average its window. With padding 1 on every side, what comes out: the centres of the pairs 0.5, 2.5, 4.5, 6.5, or something else?
# > <details><summary>Then look</summary>2, 4, 6 inside: windows that are centred on a pixel, half a pixel to the left of each pair.</details>
#
# PyTorch's padding of 1 on *every* side puts the windows around pixels 0, 2, 4, …; TensorFlow's "same" padding, which DDPM's own code uses, pads one row *below* and one column to the *right*, and centres them on 1, 3, 5, …:

# %%
ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # every pixel holds its column
weight = torch.ones(1, 1, 3, 3) / 9  # the average of a window
post_style = F.conv2d(ramp, weight, stride=2, padding=1)
print("true centres of the pairs of columns:", [0.5, 2.5, 4.5, 6.5])
print("padding 1 on every side, inside:", [round(c, 2) for c in post_style[0, 0, 1, 1:].tolist()])

# %% [markdown]
# The averages over the windows are 2, 4, 6: each lies half a pixel to the left of its pair. TensorFlow's begin without padding on the left, and lie half a pixel to the right of their pairs:

# %%
print("no padding on the left:", [round(c, 2) for c in F.conv2d(ramp, weight, stride=2)[0, 0, 0].tolist()])

# %% [markdown]
# So weights trained with one padding look at an image that is moved by a whole pixel in the other, and at every further level the error is twice as large in pixels of the image.
#
# **Exercise 3.6 (one star).** The 3x3 convolution with stride 2 and TensorFlow's "same" padding, without a bias: `x` (B, C, H, W) with even sides, `weight` (C', C, 3, 3).
# <details><summary>Hint 1</summary>Pad first, then F.conv2d with stride 2 and no padding.</details>
# <details><summary>Hint 2</summary>F.pad counts axes from the last one: (left, right, top, bottom).</details>

# %%
def down_same(x, weight):
    ...

# %%
down_same = checks.down_same(down_same)

# %% [markdown]
# **What goes wrong: a converted checkpoint that nearly works.** Two more details differ between DDPM's code and the post: this padding, and the small number in the norm's root ($10^{-6}$ there, $10^{-5}$ here). How much does each matter? Measure on the noisy digit: the same weights with both paddings, and the same norm with both numbers.

# %%
torch.manual_seed(0)
theirs, ours = DownSample(1, same_padding=True), DownSample(1)
ours.load_state_dict(theirs.state_dict())
image = noisy[:1]
same, symmetric = theirs(image), ours(image)
moved = ours(torch.roll(image, (-1, -1), (2, 3)))
print(f"difference: {(same - symmetric).norm() / same.norm():.1f} times the size of the output")
print("equal inside, once the image is moved by one pixel:",
      torch.allclose(same[..., 1:-1, 1:-1], moved[..., 1:-1, 1:-1], atol=1e-6))

# %%
sizes = {}
for std in (1.0, 0.01):
    h = std * torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small, large = (F.group_norm(h, 8, eps=eps) for eps in (1e-6, 1e-5))
    sizes[std] = ((small - large).norm() / small.norm()).item()
    print(f"features of size {std}: the norm's output differs by {sizes[std]:.1e}")

# %% [markdown]
# With the wrong padding nothing fits: two unrelated outputs of equal size would differ by $\sqrt2 = 1.4$ times it. The small number in the norm makes no difference for features of size 1. At a hundredth of that, the output is off by a few per cent. `UNet(..., same_padding=True, norm_eps=1e-6, official_embedding=True)` has all three of DDPM's conventions, and `ddpm_lesson.interop` sets them when it loads such weights.

# %% [markdown]
# ## 3.8 How far it sees, what it weighs, what it costs
#
# **How far does it see?** The receptive field of a feature is the part of the image that it depends on. Ask the gradient: which pixels of the input have one that is not 0? Norms and attention look at everything, so take them out; and set all weights to one positive number, so that nothing cancels. A long strip instead of a square saves time.

# %%
bare = UNet(1000, 4, [1, 2, 2, 2], [], 2, 0.0, in_ch=1, num_groups=2).double()
for module in list(bare.modules()):
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm | Swish | AttnBlock):
            setattr(module, name, nn.Identity())
for parameter in bare.parameters():
    nn.init.constant_(parameter, 0.01)

# %%
strip = torch.zeros(1, 1, 8, 256, dtype=torch.float64, requires_grad=True)
h = bare.head(strip)
temb = bare.time_embedding(torch.tensor([0]))
deepest, level = {}, 0
for block in bare.downblocks:
    h = block(h, temb)
    level += isinstance(block, DownSample)
    deepest[f"level {level}"] = h
for block in bare.middleblocks:
    h = block(h, temb)
deepest["middle"] = h

# %%
widths = {}
for name, h in deepest.items():
    (seen,) = torch.autograd.grad(h[..., h.shape[3] // 2].sum(), strip, retain_graph=True)
    widths[name] = int((seen.abs().sum(2) > 0).sum())
print("pixels a side that a feature depends on:", widths)
assert widths == {"level 0": 11, "level 1": 29, "level 2": 65, "level 3": 137, "middle": 201}

# %% [markdown]
# By hand for level 0: the first convolution sees 3 pixels, and each of the four convolutions of two residual blocks adds one on either side, $3 + 4\cdot 2 = 11$. One level down a step is two pixels wide, so everything adds twice as much: $11 + 2$ for the `DownSample`, and four convolutions add 2 pixels each, at double step: $4\cdot 2\cdot 2 = 16$. That makes $11+2+16 = 29$. From level 2 on a feature can see all of a 32x32 image. That is what the levels are for.
#
# **What does it weigh?** Count the trainable parameters of each part:

# %%
def trainable(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

# %%
for name, part in cifar.named_children():
    print(f"{name:15} {trainable(part):>10,}")
print(f"{'all':15} {trainable(cifar):>10,}")
assert [trainable(part) for part in cifar.children()] == [328_704, 3_584, 10_190_720, 2_888_704, 22_330_880, 3_715]
assert trainable(cifar) == 35_746_307

# %% [markdown]
# The paper says 35.7 million: that is it. **What goes wrong: a size that does not fit.** The repository behind the post prints 34.21 M for the same network. Two things differ: it counts the time table, which is never trained, and it divides by $2^{20}$ and not by a million:

# %%
everything = sum(p.numel() for p in cifar.parameters())
print(f"with the table: {everything:,} = 35,746,307 + {1000 * 128:,}; divided by 2^20: {everything / 2**20:.2f}")

# %% [markdown]
# **Exercise 3.7 (two stars).** Count without building: the trainable parameters of a residual block without attention, from `in_ch`, `out_ch` and `tdim`, as an int. Weights *and* biases, of two norms, two 3x3 convolutions, the time's linear layer, and the 1x1 shortcut if there is one.
# <details><summary>Hint 1</summary>Figure 3.6 lists the layers. A norm has a scale and an offset for each of its channels; the first one has in_ch of them.</details>
# <details><summary>Hint 2</summary>A 3x3 convolution from a to b channels has 9ab + b. The shortcut exists only if in_ch != out_ch.</details>

# %%
def res_block_parameters(in_ch, out_ch, tdim):
    ...

# %%
res_block_parameters = checks.res_block_parameters(res_block_parameters)

# %% [markdown]
# **What does it cost?** Count a multiplication and an addition as two operations. A convolution that returns $C'$ channels of $H\times W$ pixels from $C$ channels with $k\times k$ weights needs $2\,C' H W\,C\,k^2$, a linear layer $2\,C'C$ for each image, attention $4\,(HW)^2\,C$ (once for $q\cdot k$, once for the average). PyTorch has a counter of its own. Do both agree?

# %%
costs = []


def count(layer, args, out):
    fan_in = layer.weight[0].numel()  # C k^2, or C
    costs.append((type(layer).__name__, out.shape[-1] if out.ndim == 4 else 0, 2 * out.numel() * fan_in))

# %%
counted = [layer for layer in cifar.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
hooks = [layer.register_forward_hook(count) for layer in counted]
with FlopCounterMode(display=False) as counter:
    _ = cifar(x, t)
for hook in hooks:
    hook.remove()

# %%
by_torch = counter.get_flop_counts()["Global"]
products = sum(n for op, n in by_torch.items() if "convolution" in str(op) or "addmm" in str(op))
attended = 5 * 4 * 256**2 * 256 + 4 * 16**2 * 256  # five blocks at 16x16, one at 4x4
assert products == sum(n for _, _, n in costs) and attended == 335_806_464
assert sum(by_torch.values()) == products + attended == 12_443_713_536
print(f"one image, one call: {products / 1e9:.2f} billion in convolutions and linear layers")
print(f"and {attended / 1e9:.2f} billion in attention")

# %% [markdown]
# > **Predict.** At which resolution sit most of the weights, and at which are most of the operations done?
# > <details><summary>Then look</summary>The weights sit where there are many channels: 16x16, 8x8 and 4x4 hold nearly all. The operations are done where there are many pixels: at 32x32 every weight is used 1024 times, at 4x4 only 16 times. The two finest resolutions together take about 88 %. (The share of 32x32 includes the convolution of the `UpSample` that leads there, with 256 channels.)</details>

# %%
sides = (32, 16, 8, 4)
weights = [sum(trainable(part) for (_, part), row in zip(parts, ledger, strict=True) if row[5] == side) for side in sides]
work = [sum(n for _, width, n in costs if width == side) for side in sides]
work[1], work[3] = work[1] + 5 * 4 * 256**2 * 256, work[3] + 4 * 16**2 * 256  # attention
assert work == [5_684_854_784, 5_209_325_568, 1_182_793_728, 360_972_288]
shares = [[n / sum(part) for n in part] for part in (weights, work)]
for side, of_weights, of_work in zip(sides, *shares, strict=True):
    print(f"{side:2}x{side:<2} {of_weights:5.1%} of the parameters, {of_work:5.1%} of the operations")

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
for i, (share, name) in enumerate(zip(shares, ("parameters", "operations"), strict=True)):
    ax.bar([j + 0.4 * i - 0.2 for j in range(4)], share, 0.38, color=plots.COLOURS[i], label=name)
_ = ax.set(xticks=range(4), xticklabels=[f"{s}x{s}" for s in sides], ylabel="share"), ax.legend()

# %% [markdown]
# *Figure 3.10.* Where the weights are and where the work is, by the resolution of what a layer returns: all convolutions, with the blocks' norms and linear layers among the parameters, and with attention among the operations; the time embedding is left out. Low resolutions are cheap places for many weights: the second reason for the U.

# %% [markdown]
# ## 3.9 How it starts
#
# *Question.* Before the first step of training a network answers something. What should it be?
#
# *Derive.* A layer $y = Wx$ with $n$ inputs of mean 0 and variance $v$ and independent weights of mean 0 and variance $s^2$ gives outputs of variance $n s^2 v$: each is a sum of $n$ products, every product has mean 0 and variance $s^2 v$, and since the weights are independent these variances add. To keep the variance going forward one wants $s^2 = 1/n_\text{in}$, to keep the gradient's going backward $s^2 = 1/n_\text{out}$. (In a $k\times k$ convolution an output has $n_\text{in} = C k^2$ inputs, and an input goes to $n_\text{out} = C' k^2$ outputs.) Xavier initialisation (Glorot and Bengio 2010) takes the compromise, times a *gain*: a factor on the standard deviation of the weights, 1 for an ordinary layer, nearly 0 for one that shall be silent at first:
# $$s^2 = \frac{2\,\text{gain}^2}{n_\text{in}+n_\text{out}} . \tag{3.8}$$
# *Verify*, on a convolution from 64 to 128 channels:

# %%
torch.manual_seed(0)
conv = nn.Conv2d(64, 128, 3, bias=False)
nn.init.xavier_uniform_(conv.weight)
s_2, n_in, n_out = 2 / (64 * 9 + 128 * 9), 64 * 9, 128 * 9
x = torch.randn(16, 64, 16, 16, requires_grad=True)
y = conv(x)
(back,) = torch.autograd.grad(y, x, torch.randn_like(y))

# %%
print(f"variance of the weights: {conv.weight.var() / s_2:.2f} times (3.8)")
print(f"forward the variance is multiplied by {y.var():.2f}; n_in s^2 = {n_in * s_2:.2f}")
inside = back[..., 2:-2, 2:-2].var()  # away from the border
print(f"backward by {inside:.2f}; n_out s^2 = {n_out * s_2:.2f}")

# %% [markdown]
# For most layers the gain is 1. For the *last* layer of every residual branch and of the network DDPM's code asks for 0, and its initialiser puts a factor of $10^{-10}$ on the *variance* in its place. The post writes a gain of $10^{-5}$, a factor on the *standard deviation*: the same. guided-diffusion takes exact zeros (here `zero_init=True`). Two things follow.
#
# - **Every block starts as its shortcut.** A sum $x + f(x)$ with $f$ as large as $x$ would double the variance; with $f = 0$ sizes stay as they are, of features going forward and of gradients going backward.
# - **The network starts as the function 0.** Among the guesses that do not look at the image 0 is the best one for the noise, since $\mathbb E[\epsilon] = 0$. So the loss starts at $\mathbb E\,\epsilon^2 = 1$, and not somewhere above.
#
# Does a layer of zeros learn? Its own gradient is the product of what comes in and what comes back. For the *network's* last layer neither is 0, so it learns at once. What comes back to any other layer has passed this last one, and is 0 as long as that is. So the gradient spreads from the end:
#
# > **Predict.** A network with exact zeros. How many of its 140 trained tensors have a gradient in the first step, in the second, in the third?
# > <details><summary>Then look</summary>First 2: weight and bias of the last convolution. Then 44: the last layers of all branches, and what lies on the shortcuts' way through the network. Then all: the layers inside of the branches had to wait for the branches' last ones.</details>
#
# (Not counted are the biases of the keys. They shift all fits of a query alike, the softmax ignores that, and their gradient is 0 but for rounding.)

# %%
torch.manual_seed(0)
net = UNet(1000, 16, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4, zero_init=True)
optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
tensors = [p for name, p in net.named_parameters() if p.requires_grad and "proj_k.bias" not in name]

# %%
with_gradient = []
for _ in range(3):
    t, noise = torch.randint(1000, (32,)), torch.randn(32, 1, 8, 8)
    optimizer.zero_grad()
    (net(process.q_sample(x_train[:32], t, noise), t) - noise).square().mean().backward()
    with_gradient.append(sum(bool(p.grad.abs().max() > 0) for p in tensors))
    optimizer.step()

# %%
assert with_gradient == [2, 44, 140] and len(tensors) == 140
print("tensors with a gradient, steps 1 to 3:", with_gradient)

# %% [markdown]
# *Measure* the sizes inside of a network asleep and of one awake:

# %%
def sizes_inside(net):
    """Root mean square of what each block returns, first to last, for pure noise."""
    sizes = []
    blocks = [net.head, *net.downblocks, *net.middleblocks, *net.upblocks, net.tail]
    hooks = [b.register_forward_hook(lambda _, __, out: sizes.append(out.square().mean().sqrt().item())) for b in blocks]
    with torch.no_grad():
        net(torch.randn(8, 1, 8, 8), torch.randint(1000, (8,)))
    for hook in hooks:
        hook.remove()
    return sizes

# %%
torch.manual_seed(0)
asleep = UNet(1000, 32, [1, 2, 2], [1], 2, 0.0, in_ch=1, num_groups=8)
awake = copy.deepcopy(asleep)
wake(awake)
inside = {"last layers at 0": sizes_inside(asleep), "gain 1 everywhere": sizes_inside(awake)}

# %%
fig, ax = plt.subplots(figsize=(8, 3))
for i, (name, sizes) in enumerate(inside.items()):
    ax.semilogy(sizes, "os"[i] + plots.LINE_STYLES[i], color=plots.COLOURS[i], ms=4, label=name)
down, middle, up = (len(part) for part in (asleep.downblocks, asleep.middleblocks, asleep.upblocks))
for name, first in {"down": 1, "middle": 1 + down, "up": 1 + down + middle, "tail": 1 + down + middle + up}.items():
    ax.axvline(first - 0.5, color="0.8", linewidth=1)
    ax.text(first - 0.3, 6, name, fontsize="small", color="0.4")
_ = ax.set(xlabel="block, from first to last", ylabel="root mean square", ylim=(1e-6, 20)), ax.legend(loc="center left")

# %% [markdown]
# *Figure 3.11.* How large features are on their way through an untrained network. The last point is the answer. At gain 1 everywhere they grow from 0.24 to 2.01, with a dip at every `DownSample` and `UpSample`, and fall a little in the last blocks, where the small features of the finest level come off the stack. With last layers at 0 (here with the post's gain of $10^{-5}$) they stay between 0.15 and 0.31, and the answer is nearly 0. In numbers:

# %%
for name, (*sizes, answer) in inside.items():
    print(f"{name}: from {min(sizes):.2f} to {max(sizes):.2f}, answer {answer:.1g}")

# %%
x, noise, t = torch.randn(64, 1, 8, 8), torch.randn(64, 1, 8, 8), torch.randint(1000, (64,))
with torch.no_grad():
    at_start = {name: (net(x, t) - noise).square().mean() for name, net in (("asleep", asleep), ("awake", awake))}
exact = noise.square().mean()
print(f"loss at the start, asleep: {at_start['asleep']:.2f}, awake: {at_start['awake']:.1f}; of the answer 0: {exact:.2f}")

# %% [markdown]
# **What goes wrong: an initialisation that is overwritten.** *The post*'s attention block gives its last layer the gain $10^{-5}$. But the residual block around it, when it is built, walks over *all* its modules and gives every convolution the gain 1, the attention's last one too; only its own last layer is then set back. The order of two lines decides:

# %%
torch.manual_seed(0)
block = ResBlock(128, 128, 512, 0.0, attn=True)
x = torch.randn(4, 128, 16, 16)


def start(block):
    with torch.no_grad():
        residual = (block.attn(x) - x).square().mean().sqrt().item()
    return block.attn.proj.weight.std().item(), residual

# %%
intended = start(block)
for module in block.modules():  # what the post's ResBlock does
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
nn.init.xavier_uniform_(block.block2[-1].weight, gain=1e-5)
post = start(block)

# %%
for name, (std, residual), gain in (("as intended, gain 1e-5", intended, 1e-5), ("the post, gain 1", post, 1.0)):
    print(f"{name}: size of the last weights {std:.1e}, of the residual {residual:.1e} = {residual / gain:.2f} gain")

# %% [markdown]
# (3.8) with $n = 128$ on both sides gives $\sqrt{2/256} = 1/\sqrt{128} = 0.088$, times $10^{-5}$ or not. Why is the residual at gain 1 not as large as the input, which has size 1? It is an average over 256 pixels. With fits $f$ of variance 1 the weights are $e^f/\sum e^f$, and their squares add up to about $\mathbb E[e^{2f}]/(256\,\mathbb E[e^f]^2) = e/256$: an average of unrelated values keeps $\sqrt{e/256}$ of their size. The values are not quite unrelated, for key and value of a pixel come from the same features. What the favoured pixels have in common adds $1/\sqrt{128}$:

# %%
print(f"{math.sqrt(math.e / 256):.2f} and {1 / math.sqrt(128):.2f}, together {math.sqrt(math.e / 256 + 1 / 128):.2f}")

# %% [markdown]
# That is what we measured, up to the approximation. The package initialises the residual block's own layers first and builds the attention after that.
#
# Does it matter? Train and see. All experiments from here on use one small network on the 1415 training digits, 60 steps of 32 images (here 100), and three seeds. The same seed means the same digits, the same $t$ and the same noise for every variant, so that their losses can be compared step by step.

# %%
small = partial(UNet, T=1000, ch=16, ch_mult=[1, 2], attn=[1], num_res_blocks=1, dropout=0.0, in_ch=1, num_groups=4)
loss = partial(losses.simple_loss, process, epsilon)

# %% [markdown]
# One exam for all, after 60 steps: the 382 held-out digits, each at its own $t$, evenly spread over 0 … 999. (`late` tells the network a later t; section 3.13 uses it.) `change` is a function that alters the fresh network.

# %%
x_test = data.digits("test").x_0
t_test = torch.linspace(0, 999, 382).long()[torch.randperm(382, generator=torch.Generator().manual_seed(0))]
noise_test = torch.randn(x_test.shape, generator=torch.Generator().manual_seed(1))
x_t_test = process.q_sample(x_test, t_test, noise_test)

# %%
def exam(net, late=0):
    """Squared error of the noise on each held-out digit, (382,); the network is told t + late."""
    with torch.no_grad():
        return (net(x_t_test, (t_test + late).clamp(max=999)) - noise_test).square().mean((1, 2, 3))

# %%
def trained(change, seed, steps=60, **options):
    """A network that `change` has altered, after training; its loss in each step; its exam after 60."""
    torch.manual_seed(seed)
    net, history = small(**options), []
    change(net)
    generator = torch.Generator().manual_seed(seed)
    batches = training.minibatches(x_train, batch_size=32, generator=generator)
    for step in training.train(net, process, batches, loss, steps=steps, lr=4e-3, warmup=10, generator=generator):
        history.append(step.loss)
        if len(history) == 60:
            mark = exam(net)
    return net, torch.tensor(history), mark

# %%
nets, curves, marks = {}, {}, {}


def experiment(name, change, **options):
    runs = [trained(change, seed, **options) for seed in range(3)]
    nets[name] = [net for net, _, _ in runs]
    curves[name] = torch.stack([history for _, history, _ in runs])
    marks[name] = torch.stack([mark for _, _, mark in runs])

# %%
def overwrite(net):
    """What the post does to the last layer of every attention inside of a residual block."""
    for block in net.modules():
        if isinstance(block, AttnBlock):
            nn.init.xavier_uniform_(block.proj.weight)

# %%
experiment("full", lambda net: None, steps=100)
experiment("attention overwritten", overwrite, steps=100)

# %%
def band(ax, name, color, style="-", label=None):
    values = curves[name].unfold(1, 5, 1).mean(2)  # mean of 5 steps
    steps = range(5, 5 + values.shape[1])
    ax.plot(steps, values.mean(0), style, color=color, label=label or name)
    ax.fill_between(steps, values.amin(0), values.amax(0), color=color, alpha=0.2, linewidth=0)

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.2))
band(ax, "full", plots.BLUE, label="as intended")
band(ax, "attention overwritten", plots.VERMILION, "--")
_ = ax.set(xlabel="training step", ylabel="loss (mean of 5 steps)", ylim=(0, 1)), ax.legend()

# %% [markdown]
# *Figure 3.12.* The first 100 steps, mean and range of three seeds, same batches. The network with the overwritten initialisation falls behind in the first 20 steps, and then catches up for the most part. (A step is small at first: the learning rate rises over the first ten.)

# %%
early = {name: found[:, 5:20].mean(1) for name, found in curves.items()}
print("in steps 6 to 20 the overwritten one has the larger loss, for all three seeds:",
      bool((early["attention overwritten"] > early["full"]).all()))

# %% [markdown]
# So this mistake costs a slower start. A little of it remains after 100 steps. The record of 20 seeds, which section 3.10 opens, says of the held-out loss: attention overwritten +3.2 ± 0.4 % (worse in 18 of 20); after ± comes the standard error of the mean. Longer trainings were not measured. It is worth repairing in any case: code should do what it says.

# %% [markdown]
# ## 3.10 What is each piece worth?
#
# *Question.* Time embedding, skips, attention, the start at 0: which of them does this network need? Take them away one at a time (an *ablation*, 消融实验) and measure.
#
# None of this needs another network. Each piece can be taken away *from outside*: replace a module, or let a hook change what goes in.

# %%
def hide_time(net):
    """Whatever t is given, the network is told 0."""
    net.register_forward_pre_hook(lambda _, args: (args[0], torch.zeros_like(args[1])))

# %%
def zero_skip(channels, block, args):
    h, temb = args
    return torch.cat([h[:, :channels], torch.zeros_like(h[:, channels:])], 1), temb

# %%
def cut_skips(net):
    """The half that comes off the stack is 0 in every block on the way up."""
    channels = net.middleblocks[-1].block2[-1].out_channels
    for block in net.upblocks:
        if isinstance(block, ResBlock):
            block.register_forward_pre_hook(partial(zero_skip, channels))
            channels = block.block2[-1].out_channels

# %%
def drop_attention(net):
    for block in net.modules():
        if isinstance(block, ResBlock):
            block.attn = nn.Identity()

# %% [markdown]
# > **Predict.** Four ablations, 60 steps of training, 8x8 digits. Put them in order: which one hurts most, and which one not at all?
# > <details><summary>Then look</summary>Skips (+50 %), then the start at 0 (+16 %), then the time (+10 %); attention: nothing to be seen. Why the skips? Not because there is no room: the 4x4 level has 32 channels, 512 numbers for 64 pixels. But without skips $x_t$ has to be coded into it and decoded again, and that is not learned in 60 steps; and half of what the convolutions on the way up get is dead. Why not attention? On 8x8 pixels the convolutions see everything anyway.</details>

# %%
experiment("no time", hide_time)
experiment("no skips", cut_skips)

# %%
experiment("no attention", drop_attention)
experiment("no start at 0", wake)

# %%
shown = ("full", "no attention", "no time", "no start at 0", "no skips")
fig, ax = plt.subplots(figsize=(6.5, 2.8))
for i, name in enumerate(shown):
    exams = marks[name].mean(1)
    ax.barh(i, exams.mean(), color=plots.COLOURS[i], alpha=0.5)
    ax.plot(exams, [i] * 3, "k|", ms=14)
    ax.text(0.005, i, f"{exams.mean():.3f}", va="center", fontsize="small")
_ = ax.set(yticks=range(5), yticklabels=shown, xlabel="held-out loss, each seed a line", xlim=(0, 0.3)), ax.invert_yaxis()

# %% [markdown]
# *Figure 3.13.* Held-out loss after 60 steps. Bars and numbers: mean of three seeds; lines: the seeds. Compare differences between bars with the spread of the lines before you believe them.

# %%
more = {name: (marks[name].mean(1) - marks["full"].mean(1)) for name in shown[1:]}
for name in ("no skips", "no time", "no start at 0"):
    print(f"{name}: worse than the full network for every seed: {bool((more[name] > 0).all())}")
print("no skips costs most:", bool(more["no skips"].min() > max(more["no time"].max(), more["no start at 0"].max())))
print("no attention: mean difference below half of what the time is worth:",
      bool(more["no attention"].mean().abs() < more["no time"].mean() / 2))

# %% [markdown]
# Three seeds are few. Here is a record of 20, written by `data/records/unet_ablations.py`, which makes the same experiments:

# %%
record = json.loads(data.bundled("records/unet_ablations.json").read_text())
for name, found in record["change"].items():
    error = found["std_change"] / math.sqrt(found["seeds"])
    print(f"{name:22} after {found['steps']:3} steps: change of the loss {found['mean_change']:+6.1%} ± {error:.1%},",
          f"worse in {found['seeds_worse']:2} of {found['seeds']} seeds")

# %% [markdown]
# **Read it honestly.** What you measured is a *small network, 60 steps, 8x8 images*. The record says: no skips +49.6 ± 1.3 % (worse in 20 of 20), no start at 0 +16.5 ± 1.0 % (worse in 20 of 20), no time +9.8 ± 0.6 % (worse in 20 of 20). Your three seeds scatter around that. (The standard error of three seeds is $\sqrt{20/3} = 2.6$ times that of twenty.) The fourth is of another kind: no attention -0.7 ± 0.5 % (worse in 8 of 20), hardly more than one standard error, with a sign that changes from seed to seed: *no measurable difference*. That does not say that attention is useless. Before this network attends, first convolution, finer block, `DownSample` and coarser block reach $1+2+1+4 = 8$ pixels to every side, all of an 8x8 image; at 32x32 things are different, and guided-diffusion's measurements (section 3.11) show it.
#
# Where does the time matter? Split the loss by t, as section 2.10 taught:

# %%
edges = [0, 30, 60, 100, 150, 220, 300, 400, 550, 700, 850, 1000]
parts_of_t = [(t_test >= a) & (t_test < b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
centres = [(a + b) / 2 for a, b in zip(edges[:-1], edges[1:], strict=True)]

# %%
fig, ax = plt.subplots(figsize=(6.5, 3))
for i, name in enumerate(("full", "no time", "no skips")):
    by_t = torch.stack([marks[name][:, part].mean(1) for part in parts_of_t], 1)
    ax.semilogy(centres, by_t.mean(0), plots.LINE_STYLES[i], color=plots.COLOURS[i], label=name)
    ax.fill_between(centres, by_t.amin(0), by_t.amax(0), color=plots.COLOURS[i], alpha=0.2, linewidth=0)
_ = ax.set(xlabel="t", ylabel="held-out loss"), ax.legend()

# %% [markdown]
# *Figure 3.14.* Held-out loss for each t, mean and range of three seeds. Without the time the loss grows by the largest factor where t is large: there the image hardly tells its level (figure 3.2), and the network has to hedge between levels that ask for different answers. Without skips it is larger at every t, and above all where the right answer is nearly $x_t$ itself, which a skip hands through.

# %%
gap = marks["no time"] - marks["full"]
below = gap[:, t_test < 500].sum(1) / gap.sum(1)
print("more than half of what the time is worth arises below t = 500, for every seed:", bool((below > 0.5).all()))
near_0 = marks["full"][:, t_test < 30].mean()
print("the full network's loss below t = 30 lies within 10 % of 1:", bool((near_0 - 1).abs() < 0.1))

# %% [markdown]
# So a factor and a difference say different things: the largest factor lies at late t, but the loss is small there, and most of what is lost in the mean over all t is lost below t = 500. And at t near 0 the full network is hardly better than the answer 0, whose loss is 1: in 60 steps it has not learned to see so little noise.

# %% [markdown]
# ## 3.11 What guided-diffusion changed
#
# *Question.* A year after DDPM, Dhariwal and Nichol (2021) asked the same question at scale, on ImageNet at 128x128. What did they change?
#
# | change | what it is | here | what they measured (FID, lower is better: a distance between statistics of real and of generated images, section 2.6) |
# |---|---|---|---|
# | more heads | attention in several independent parts of the channels, each with its own softmax | `num_heads=4` | 15.33 → 14.79 with four heads |
# | attention at more levels | at 32x32, 16x16 and 8x8, not at 16x16 alone | `attn=[...]` | 15.33 → 14.61 |
# | BigGAN blocks (BigGAN: a large GAN for ImageNet) | down and up inside of a residual block, shortcut included | `biggan=True` | 15.33 → 14.13 |
# | all three | | | 15.33 → 12.19 |
# | AdaGN | the time (and the class, if there is one) sets a *scale and a shift* after the second norm | `scale_shift_norm=True` | 15.08 (addition) → 13.06 |
#
# (Tables 1 and 3, all after 700 000 steps. Rows 1 to 4: 160 channels, AdaGN already in. Last row: 128 channels with attention at three levels, 64 channels per head and BigGAN blocks; another base, so its numbers do not go on from the row above. Also tried, and not kept: more depth, −0.21 but slow; residuals times $1/\sqrt2$, +0.16.) How many channels should a head have? Table 2: 14.08 with one head, 13.05 with 64 channels a head, 12.72 with 32. They kept 64, which trains faster. guided-diffusion also predicts the variance (notebook 5).
#
# **AdaGN** is the one to understand. Addition (3.5) puts the time *before* a norm, which takes part of it away again; AdaGN puts it *after* the norm:
# $$\begin{aligned} \operatorname{AdaGN}(h, \tau) &= (1+\tau_s)\,\operatorname{norm}_2(h)+\tau_b, \\ [\tau_s,\ \tau_b] &= W\operatorname{swish}(\tau)+b . \end{aligned} \tag{3.9: ADM Section 3.1}$$
# (The "1 +" and the Swish are in the code, not in the paper's formula: with the 1 the block starts near a plain norm.) Nothing is subtracted any more, so the trap of section 3.4 is gone. The same measurement, with 32 groups of one channel:

# %%
torch.manual_seed(0)
block = ResBlock(32, 32, 128, 0.0, num_groups=32, scale_shift_norm=True)
nn.init.xavier_uniform_(block.block2[-1].weight)
out = block(torch.randn(1, 32, 8, 8).expand(2, -1, -1, -1), embedding(torch.tensor([0, 900])))
print(f"AdaGN, single-channel groups: output changes by {(out[0] - out[1]).abs().max():.1f}")

# %% [markdown]
# *Verify* (3.9) by hand, and heads: two heads are two attentions, each over half of the channels.

# %%
norm_1, swish, conv_1 = block.block1
norm_2, *rest = block.block2
x, temb = torch.randn(2, 32, 8, 8), torch.randn(2, 128)
scale, shift = block.temb_proj(temb)[:, :, None, None].chunk(2, 1)
by_hand = (1 + scale) * norm_2(conv_1(swish(norm_1(x)))) + shift
for layer in rest:
    by_hand = layer(by_hand)
assert torch.allclose(by_hand + x, block(x, temb), atol=1e-5)

# %%
two = AttnBlock(16, num_groups=4, num_heads=2)
nn.init.xavier_uniform_(two.proj.weight)
h = torch.randn(2, 16, 4, 4)
normed = two.group_norm(h)
q, k, v = (rearrange(W(normed), "b c h w -> b (h w) c") for W in (two.proj_q, two.proj_k, two.proj_v))

# %%
halves = [F.scaled_dot_product_attention(q[..., s], k[..., s], v[..., s]) for s in (slice(0, 8), slice(8, 16))]
joined = rearrange(torch.cat(halves, 2), "b (h w) c -> b c h w", h=4)
assert torch.allclose(h + two.proj(joined), two(h), atol=1e-5)
print("(3.9) and two heads by hand: equal to the package")

# %% [markdown]
# One ablation: AdaGN in the small network.
#
# > **Predict.** On ImageNet AdaGN was worth two points of FID. Will three seeds of 60 steps on digits show it?
# > <details><summary>Then look</summary>No: the difference is small beside what the time itself is worth.</details>

# %%
experiment("AdaGN", lambda net: None, scale_shift_norm=True)

# %%
fig, ax = plt.subplots(figsize=(6.5, 3))
band(ax, "full", plots.BLUE, label="addition")
band(ax, "AdaGN", plots.GREEN, "--")
_ = ax.set(xlabel="training step", ylabel="loss (mean of 5 steps)", xlim=(0, 62), ylim=(0, 1)), ax.legend()

# %% [markdown]
# *Figure 3.15.* Addition and AdaGN, three seeds each. The bands lie on each other.

# %%
gain = marks["full"].mean() - marks["AdaGN"].mean()
print("mean difference below half of what the time is worth:", bool(gain.abs() < more["no time"].mean() / 2))

# %% [markdown]
# (AdaGN's layer for the time is twice as wide, so the same seed draws other initial weights: this pair is not matched as closely as the others.) In the record of 20 seeds something does show: AdaGN -1.8 ± 0.7 % (worse in 7 of 20). That is two and a half standard errors; the sign alone would prove nothing. Small experiments find large effects. For small ones you need many seeds, or what that paper spent: large networks, long trainings, and a measure of samples instead of a loss.

# %% [markdown]
# ## 3.12 How to make it fast
#
# *Question.* Training calls the network a hundred thousand times, sampling a thousand times for each batch. What makes a call faster? Measure on *your* machine; the numbers below are those of the machine that built this page. On another machine, or a busy one, the order can be another: read your own numbers. What is worth trying:
#
# - **Memory format.** `channels_last` keeps the channels of a pixel side by side, which many convolution routines prefer.
# - **Batch.** A call has a fixed overhead; many images share it.
# - **No gradients.** Sampling needs none: `torch.no_grad()` saves the time and the memory for keeping intermediate results.
# - **Threads.** More of them can help large layers and hurt small ones, above all on a busy machine. This notebook uses one; try `torch.set_num_threads(2)` before the cell.
# - **Compiling.** `torch.compile(net)` fuses small operations. The first call takes a minute or so, and it needs a compiler, so it is off here; set `COMPILE = True` and run the cell again.

# %%
def call(net, batch, *, grad=True, memory=torch.channels_last):
    x = torch.randn(batch, 1, 28, 28).to(memory_format=memory)
    with torch.set_grad_enabled(grad):
        out = net(x, torch.randint(1000, (batch,)))
    if grad:
        out.sum().backward()

# %%
COMPILE = False
net = UNet(1000, 32, [1, 2, 2], [1], 1, 0.0, in_ch=1, num_groups=8)
last = copy.deepcopy(net).to(memory_format=torch.channels_last)
ways = {
    "one image, forward and backward": (1, partial(call, net, 1, memory=torch.contiguous_format)),
    "4 images": (4, partial(call, net, 4, memory=torch.contiguous_format)),
    "4 images, channels_last": (4, partial(call, last, 4)),
    "4 images, channels_last, forward only": (4, partial(call, last, 4, grad=False)),
}
if COMPILE:
    ways["the same, compiled"] = (4, partial(call, torch.compile(last), 4, grad=False))

# %%
# NBVAL_IGNORE_OUTPUT
for name, (batch, run) in ways.items():
    run()  # the first call warms up
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    print(f"{name:40} {1000 * min(times) / batch:6.1f} ms for each image of 28x28")

# %% [markdown]
# Whatever the speed, the answer must stay the same. That can be asserted:

# %%
wake(net)
last.load_state_dict(net.state_dict())
x, t = torch.randn(4, 1, 28, 28), torch.randint(1000, (4,))
with torch.no_grad():
    plain, fast = net(x, t), last(x.to(memory_format=torch.channels_last), t)
    one_by_one = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(4)])
print("channels_last: the same to 1e-4:", torch.allclose(plain, fast, atol=1e-4))
print("one by one or in a batch: the same to 1e-4:", torch.allclose(plain, one_by_one, atol=1e-4))

# %% [markdown]
# ## 3.13 What goes wrong, the rest
#
# **Sides that cannot be halved.** With four levels the side is halved three times. 28, the side of MNIST, gives 14, 7 and then: 4. On the way back 4 becomes 8, and a skip of side 7 is waiting. In the post this ends in PyTorch's error about `torch.cat`, from deep inside:

# %%
h = torch.randn(1, 32, 7, 7)
print("7 goes down to", DownSample(32)(h).shape[2], "and comes up as", UpSample(32)(DownSample(32)(h)).shape[2])
for sides in ((28, 28), (30, 30), (33, 33), (32, 48)):
    try:
        print(sides, "->", tuple(cifar(torch.empty(1, 3, *sides, device="meta"), torch.zeros(1, dtype=torch.int64)).shape))
    except ValueError as error:
        print("ValueError:", error)

# %% [markdown]
# The sides need not be equal, but each must be a multiple of $2^{\text{levels}-1}$. For 28 take three levels, or pad to 32.
#
# **Three channels, hard-coded.** The post's first and last convolutions have 3 channels, so grey images fail. Here they are an option, and a mismatch says so:

# %%
grey = small()
for x in (torch.randn(2, 3, 8, 8), torch.randn(1, 8, 8)):
    try:
        grey(x, torch.zeros(2, dtype=torch.int64))
    except ValueError as error:
        print("ValueError:", error)

# %% [markdown]
# **t out of its range, or no integer.** The table has the rows 0 … T−1. If you count as the papers do, you will one day pass $t = T$, and PyTorch answers with `index out of range in self`. A float cannot be an index at all, even if it is whole:

# %%
x = torch.randn(2, 1, 8, 8)
for t in (torch.tensor([0, 1000]), torch.tensor([0.0, 1.0])):
    try:
        grey(x, t)
    except (ValueError, TypeError) as error:
        print(f"{type(error).__name__}:", error)

# %% [markdown]
# More treacherous is training with $t$ and sampling with $t+1$. Nothing raises, except at $t = T$, and the loss does not show it either: for this network it is nearly harmless. It is a mistake all the same. Near t = 0 one step changes the size of the noise by half, and a network that has learned to use that is told the wrong amount in the last step of sampling. Measured on the trained networks of section 3.10, and in the process:

# %%
right, late = (torch.stack([exam(net, late) for net in nets["full"]]).mean() for late in (0, 1))
print("told t + 1, the held-out loss differs by less than 1 %:", bool((late / right - 1).abs() < 0.01))
print("size of the noise at t = 0 and t = 1:", [round(v, 3) for v in process.sqrt_one_minus_alphas_bar[:2].tolist()])

# %% [markdown]
# **Channels that cannot be grouped.** GroupNorm's groups must come out even; with the post's 32 groups every level needs a multiple of 32 channels:

# %%
try:
    UNet(1000, 48, [1, 2], [], 1, 0.0)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## 3.14 What you now have

# %% [markdown] tags=["equations"]
# | | equation | function | test |
# |---|---|---|---|
# | 3.1 | best answer of a network that is not told $t$ | `oracle.Mixture` | `test_oracle.py` `test_best_answer_without_t_averages_the_answers_of_all_t` |
# | 3.2 | sines and cosines of $t$, the time embedding (Vaswani Section 3.5) | `networks.blocks.TimeEmbedding` | `test_networks.py` `test_time_table_alternates_sine_and_cosine` |
# | 3.3 | inner products of its rows depend on the distance alone | `networks.blocks.TimeEmbedding` | `test_networks.py` `test_inner_products_of_the_time_table_depend_on_the_distance` |
# | 3.4 | group normalisation | `networks.blocks.group_norm` | `test_blocks.py` `test_group_norm_is_its_formula_for_small_inputs_too` |
# | 3.5 | the residual block, and where time enters (DDPM code) | `networks.blocks.ResBlock` | `test_blocks.py` `test_res_block_equals_diffusers` |
# | 3.6 | attention (Vaswani Eq. 1) | `networks.blocks.AttnBlock` | `test_blocks.py` `test_attention_equals_torchs_multi_head_attention` |
# | 3.7 | channels into a block on the way up | `networks.unet.UNet` | `test_unet.py` `test_blocks_on_the_way_up_get_what_comes_from_below_and_a_skip` |
# | 3.8 | variance of weights at the start (Xavier) | `networks.blocks.ResBlock` | `test_blocks.py` `test_layers_start_as_glorot_says` |
# | 3.9 | AdaGN (ADM Section 3.1) | `networks.blocks.ResBlock` | `test_blocks.py` `test_scale_shift_norm_is_the_formula_of_its_paper` |

# %% [markdown]
# Every name in the table can be imported, and in a checkout every test can be run. Your own functions, checked above, compute the same.
#
# **Read on.** Ho, Jain and Abbeel 2020 (arXiv 2006.11239), Appendix B: half a page, and you can now read every word of it. Dhariwal and Nichol 2021 (arXiv 2105.05233), section 3, with the ablations quoted above. Ronneberger and others 2015 (arXiv 1505.04597) for the U-Net, Zagoruyko and Komodakis 2016 (arXiv 1605.07146) for the residual blocks, Wu and He 2018 (arXiv 1803.08494) for GroupNorm, Vaswani and others 2017 (arXiv 1706.03762) for attention and sines. Odena and others 2016, *Deconvolution and Checkerboard Artifacts*, has pictures to play with. Sun and others 2025, *Is Noise Conditioning Necessary for Denoising Generative Models?* (arXiv 2502.13129), asks the question of section 3.1 at scale. Peebles and Xie 2023 (arXiv 2212.09748) replace the U-Net by a transformer, and there positions do have to be encoded.
#
# **Next**: notebook 4 takes a trained network and walks the chain backwards: samplers, and how few steps they need.
