# %% [markdown]
# # 3. The U-Net: one network for all noise levels, built piece by piece
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/ddpm_lesson/blob/main/notebooks/03_unet.ipynb)
#
# **You will be able to**
# - say why one network serves all noise levels, and how it is told which level it sees;
# - write DDPM's residual block, its attention block and, in the capstone, the whole U-Net, from which digits are drawn;
# - predict the shape of every tensor in it, and its parameters;
# - measure what a piece is worth, and say what such a measurement does not show.
#
# **You need** notebook 1 and, of notebook 2, the loss (2.1), the step back (2.3) and what least squares learns (2.4); convolutions and `torch.nn` (a self-check follows, in a collapsed section). All cells together run in about two minutes on two quiet CPU cores, and in up to five on a busy machine.
#
# *The course:* 1 forward process → 2 loss → **3 U-Net** → 4 sampling → 5 variants. *The post* is the blog post that the course grew out of (section 1.1); where its text is wrong, you will measure why.

# %% [markdown] tags=["sittings"]
# **The core path takes 85 minutes, in 2 sittings.** Each can be started alone: run the set-up cell, then go to its heading. `checks.carried(name)` is your function of an earlier exercise, if its check said yes in this kernel; else the course's own. If English is not your first language, plan about a third more time. The capstone comes on top.
#
# | sitting | sections | minutes |
# |---|---|---|
# | 1 | 3.1 One network for all noise levels … 3.4 The residual block, and where time enters | 42 |
# | 2 | 3.5 Attention: every pixel asks all others … 3.8 What is each piece worth? | 43 |
# | capstone | 3.9 Capstone: your own U-Net · 3.17 What you now have | 34 |
#
# Sections called *Going deeper* are collapsed (81 minutes in all); the path does not need them, and they need the cells above them. If JupyterLab shows them open, click once into the page: that collapses them. (The rule: 200 words a minute, a minute for each displayed formula, 20 lines of code a minute, and the minutes stated at each exercise.)

# %% [markdown]
# The next cell finds the course's package `ddpm_lesson`. In Colab it installs it. You do not have to read it. Sitting 1 starts with the cell after it.
#
# "Your" in a caption means your function. As long as an answer is not right yet, the course's own goes on instead, and all that follows works.

# %% tags=["setup", "nbval-ignore-output"]
# Set-up, the same in every notebook: uses the installed ddpm_lesson, else the checkout around
# this notebook, else a wheel beside it, else fetches it. What is installed stays as it is.
import importlib.util
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

REPOSITORY = "OWNER/ddpm_lesson"
modules = "ddpm_lesson", "einops", "safetensors", "tqdm", "ipywidgets"
specs = {m: importlib.util.find_spec(m) for m in modules}
there = [m for m, spec in specs.items() if spec and spec.origin]
missing = [m for m in modules[1:] if m not in there]
pip = [sys.executable, "-m", "pip", "install", "--quiet"]
if "ddpm_lesson" not in there:
    marks = "pyproject.toml", "ddpm_lesson/__init__.py"
    folders = [Path.cwd(), *Path.cwd().parents]
    checkouts = [str(f) for f in folders if all((f / mark).exists() for mark in marks)]
    wheels = sorted(map(str, Path.cwd().glob("ddpm_lesson-*.whl")))
    if checkouts:
        sys.path.insert(0, checkouts[0])
    elif not wheels and REPOSITORY.startswith("OWNER/"):
        ways = "upload the course's wheel beside this notebook, or set it: make address REPO=owner/name"
        raise RuntimeError(f"This copy of the course has no address but {REPOSITORY}: {ways}")
    else:
        address = f"https://github.com/{REPOSITORY}/archive/refs/heads/main.zip"
        subprocess.run([*pip, "--no-deps", *(wheels[-1:] or [address])], check=True)
if missing:
    subprocess.run([*pip, *missing], check=True)
importlib.invalidate_caches()


def computes(name):
    try:
        return torch.ones(1, device=name).item() == 1
    except (AssertionError, RuntimeError):  # no such device, or one that this PyTorch cannot use
        return False


device = torch.device(next(filter(computes, ["cuda", "mps"]), "cpu"))
plt.rcParams.update({"figure.dpi": 120, "figure.facecolor": "white"})  # opaque on a dark page

# %% tags=["start"]
import math
import warnings

import numpy as np
from ipywidgets import interact
from matplotlib.colors import ListedColormap
from torch import nn
from torch.nn import functional as F

from ddpm_lesson import GaussianDiffusion, Sampling, checks, data, load_pretrained
from ddpm_lesson import oracle, plots, schedules
from ddpm_lesson.networks import blocks, unet

torch.set_num_threads(1)  # networks as small as here gain little from more
process = GaussianDiffusion(schedules.linear(1000))
x_train = data.digits("train").x_0
trained = load_pretrained("digits_ddpm", device=device)

# %% [markdown]
# ### What you will build

# %%
small = unet.UNet(1000, 16, [1, 2], attn=[1], num_res_blocks=1, dropout=0.0, in_ch=1, num_groups=4)
images = trained.sample(20, Sampling("ddim", steps="trailing20"), y=trained.labels(20))
fig, axes = plt.subplots(2, 1, figsize=(8.3, 3.4), height_ratios=[1, 6], layout="constrained")
_ = plots.image_grid(images, ncols=20, ax=axes[0])
_ = plots.unet_map(small, 8, ax=axes[1]).set_ylim(top=0.5)

# %% [markdown]
# *Figure 3.1.* Above: digits that a trained U-Net of the course draws from noise. Below: the map of a small U-Net for images of 8x8 pixels. It runs from left to right: a noisy image goes in, the estimated noise comes out. Each box is a block of layers with the number of channels that it returns; each row is a resolution, and the middle works at 4x4. Blue and pink boxes are told t. Lines hand features over from the way down to the way up; the number on a line says how many channels. You will write the blue box in section 3.4, and three of them between two convolutions will draw digits; the pink one follows in 3.5, and the whole in 3.9.
# <!-- alt: A row of twenty small digits, zero to nine twice; most are easy to read. Below it the blocks of a small U-Net: two on the row 8x8, two on the row 4x4, two in the middle, then up again; four lines connect the way down with the way up. -->

# %% [markdown] tags=["deeper"]
# ### Going deeper: can you start?

# %% [markdown]
# Three questions. If one of them is new to you, follow its pointer first.
#
# 1. A 3x3 convolution takes 16 channels to 32. How many weights does it have, biases included? <details><summary>Answer</summary>$32\cdot 16\cdot 9 + 32 = 4640$. Pointer: "convolutional layer, number of parameters".</details>
# 2. A 3x3 convolution with stride 2 and padding 1 is applied to an image of 8 by 8 pixels. How large is the result, and how large for 7 by 7? <details><summary>Answer</summary>4 by 4 in both cases: $\lfloor (n + 2 - 3)/2\rfloor + 1$. Pointer: "convolution arithmetic".</details>
# 3. Which function of $x_t$ makes $\mathbb E\,\|f(x_t)-\epsilon\|^2$ smallest? <details><summary>Answer</summary>$\mathbb E[\epsilon\mid x_t]$, by (2.4). Pointer: section 2.4 of notebook 2.</details>
#
# The symbols of this notebook, beside those of notebooks 1 and 2:
#
# | symbol | in code | shape | what it is | 中文 |
# |---|---|---|---|---|
# | $e(t)$ | `table[t]` | (d_model,) | sines and cosines of $t$ | 正弦时间编码 |
# | $d$ | `d_model` | a number | length of $e(t)$, in the U-Net its `ch` | 嵌入维度 |
# | $\omega_k$ | `omega` | (d_model / 2,) | their frequencies | 频率 |
# | $\tau$ | `temb` | (B, tdim) | time embedding: what the blocks are told; `tdim` is 4 `d_model` | 时间嵌入 |
# | $h$ | `h` | (B, C, H, W) | features on their way through the network | 特征图 |
# | $q, k, v$ | `q`, `k`, `v` | (B, C, H, W) | query, key and value of every pixel | 查询、键、值 |
# | $G$ | `num_groups` | a number | groups of channels that are normalised together | 组数 |
#
# The letter $q$ has two meanings: $q(\cdot)$ with an argument is a density, $q_i$ a query. The pieces in Chinese: residual block 残差块, group normalisation 组归一化, attention 注意力, down- and up-sampling 下采样、上采样, skip connection 跳跃连接.

# %% [markdown] tags=["sitting"]
# ## 3.1 One network for all noise levels
#
# *Sitting 1 of 2, 42 minutes.*
#
# *Question.* Notebook 2 asks for the average noise behind $x_t$ at a thousand noise levels, $t$ known: a thousand functions. A thousand networks would need a thousand trainings, and neighbouring levels need nearly the same answer. So one network serves all. Must it be told which level it sees?
#
# *Try it.* Take one digit, noised to t = 300. Ask a trained network for the noise in it, but tell it other values of t. Then remove the noise that it found.

# %%
digit, true_t = x_train[:1].to(device), torch.tensor([300], device=device)
its_noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
noisy_digit = trained.process.q_sample(digit, true_t, its_noise)


def cleaned(step):
    """The digit without the noise that the network sees, told `step`; and that noise's squared error."""
    eps = trained.model(noisy_digit, torch.tensor([step], device=device))[:, :1]
    error = (eps - its_noise).square().mean().item()
    return trained.process.x_0_from_eps(noisy_digit, true_t, eps), error

# %%
told, steps = (20, 100, 200, 300, 450, 600, 900), range(0, 1000, 10)
row = torch.cat([digit, noisy_digit, *[cleaned(step)[0] for step in told]])
fig, axes = plt.subplots(2, 1, figsize=(8.3, 3.8), height_ratios=[1, 1.4], layout="constrained")
plots.image_grid(row, ncols=9, titles=["clean", "noisy", *[f"told {step}" for step in told]], ax=axes[0])
axes[1].plot(steps, [cleaned(step)[1] for step in steps], color=plots.BLUE)
axes[1].axvline(300, color=plots.VERMILION, linestyle="--", label="the true t")
_ = axes[1].set(xlabel="t that the network is told", ylabel="squared error", ylim=(0, 1))
_ = axes[1].legend()

# %% [markdown]
# *Figure 3.2.* One noisy digit, told seven different t. Told the true t = 300, the network removes the noise. Told a smaller t, it expects little noise and leaves some of it; told a larger one, it removes too much and spoils the digit. A little wrong costs little: told 250 or 350, it does nearly the same. Below: the squared error of the estimated noise.
# <!-- alt: A clean zero, the same with noise, and seven attempts to clean it. With t = 300 it is clean, with 20 spots remain, with 900 it is smeared and hard to read. The error curve below has its minimum near 300. -->

# %%
# NBVAL_IGNORE_OUTPUT
@interact(step=(0, 990, 10))
def show(step=300):
    fig, ax = plt.subplots(figsize=(4, 1.8))
    plots.image_grid(torch.cat([noisy_digit, cleaned(step)[0]]), titles=["noisy", f"told {step}"], ax=ax)
    plt.show()

# %% [markdown]
# *Derive.* What is the best answer of a network that is *not* told? Training draws $t$ uniformly, and least squares gives the average of the noise given all that the network sees. So what it does not see, $t$, is averaged over:
# $$\begin{aligned} f^*(x) &= \mathbb E[\epsilon\mid x] = \sum_t q(t\mid x)\;\mathbb E[\epsilon\mid x_t = x,\ t], \\ q(t\mid x) &= \frac{q_t(x)}{\sum_s q_s(x)} . \end{aligned} \tag{3.1}$$
# The first expectation is conditioned on $x$ alone, not on $t$: here $t$ is random, too. $q_t$ is the density of $x_t$, and the second line is Bayes' rule with all $t$ equally likely before. The price follows from the law of total variance, for each pixel:
# $$\operatorname{Var}(\epsilon\mid x) = \underbrace{\textstyle\sum_t q(t\mid x)\operatorname{Var}(\epsilon\mid x,t)}_{\text{remains, even if } t \text{ is told}} + \underbrace{\operatorname{Var}_{t\mid x}\big(\mathbb E[\epsilon\mid x,t]\big)}_{\text{the price of not being told}}$$
# Averaged over $x$, the left side is the smallest loss of a network that is not told $t$, and the first term is the smallest loss of a network that is told $t$ (notebook 2). An image of many pixels reveals most of its noise level (how rough is it?), so the price is smaller than for a single number. For a single number (the example of the next, collapsed section; it is optional) the smallest loss rises from 0.186 to 0.311, +67 %. For digits section 3.8 gives an estimate.

# %% [markdown] tags=["deeper"]
# ### Going deeper: the price of not being told t

# %% [markdown]
# *Verify* (3.1) where everything is known: two clusters, 70 % of the points around −1, 30 % around +1.

# %%
share, places, widths = torch.tensor([[0.7, 0.3], [-1, 1], [0.2, 0.2]], dtype=torch.float64)
clusters = oracle.Mixture(process, share, places[:, None], widths)

# %%
grid = torch.linspace(-5, 5, 501, dtype=torch.float64)
x, t = grid.repeat(1000)[:, None], torch.arange(1000).repeat_interleave(501)
told = clusters(x, t).eps.view(1000, 501)  # E[eps | x_t, t]
density = clusters.log_prob(x, t).view(1000, 501).exp()
blind = (density / density.sum(0) * told).sum(0)  # (3.1)

# %% [markdown]
# Now without any formula: draw 400 000 triples $(t, x_t, \epsilon)$, sort them into bins by $x_t$ and average the residual, $\epsilon$ minus (3.1). In every bin it must be 0, up to the standard error of the average:

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
# What does it cost? (2.4) with $f = 0$ and $m$ for the best answer says $\mathbb E\,\epsilon^2 = \mathbb E\,m^2 + \mathbb E(m-\epsilon)^2$, so the smallest loss is $1-\mathbb E\,m^2$, whether $m$ is told the time or not. The difference of the two must be the variance over $t$. And both must be what the 400 000 triples cost:

# %%
weight = density * 0.02 / 1000  # of x_t in the grid's cell and t together
of_told, of_blind = 1 - (weight * told**2).sum(), 1 - (weight * blind**2).sum()
lost = (weight * (told - blind) ** 2).sum()  # the variance over t
assert abs(of_told + lost - of_blind) < 1e-9
print(f"smallest loss, told t: {of_told:.3f}   not told: {of_blind:.3f}")

# %%
error = noise[:, 0] - clusters(x_t, t).eps[:, 0]
for name, drawn, computed in (("told", error**2, of_told), ("not told", rest**2, of_blind)):
    off = (drawn.mean() - computed) / (drawn.std() / math.sqrt(n))
    far = f"{off.abs():.1f} standard errors from {computed:.3f}"
    print(f"{name}: the triples cost {drawn.mean():.3f}, that is {far}")

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.6), subplot_kw={"xlim": (-2.5, 2.5), "ylim": (-3, 3)})
for i, step in enumerate((20, 100, 300, 900)):
    ax.plot(grid, told[step], plots.LINE_STYLES[i], color=plots.COLOURS[i], label=f"told t = {step}")
ax.plot(grid, blind, color="k", linewidth=2.5, label="not told")
_ = ax.set(xlabel="$x_t$", ylabel="average noise behind $x_t$"), ax.legend(fontsize="small")

# %% [markdown]
# *Figure 3.3.* The best answer at four noise levels, and the best answer of a network that is not told the level (black). The coloured curves differ most between the clusters, by up to 1.8; but nearly clean points hardly ever lie there. Most of the cost arises near ±1, where they differ by 1.0 and a point may just as well be clean or noisy. Black passes between them, and is right at no level for all $x$.
# <!-- alt: Four coloured curves, steep for t = 20 and flat for t = 900, and a black curve between them. -->
#
# *An image is not a point.* One number says next to nothing about its noise level. An image has many pixels, and can be asked: how rough is it? Here is $q(t\mid x_t)$ for a whole digit, by Bayes' rule, with the 1415 training digits as the data. `oracle.Empirical` is the exact answer if these digits were all the data there is (section 2.16):

# %%
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
    style, label = plots.LINE_STYLES[i % 4], f"noised to t = {step}"
    ax.semilogy(probability, style, color=plots.COLOURS[i], label=label)
_ = ax.set(xlabel="t", ylabel=r"$q(t\mid x_t)$", ylim=(1e-4, 1)), ax.legend(fontsize="small")

# %% [markdown]
# *Figure 3.4.* What 64 pixels tell about t, for one digit noised to five levels. An image with little noise shows its level. (The data here contain the very digit that was noised, so this is the easiest case. For t = 50, 200, 400 and 600 the peaks lie near the true t and not on it: 64 draws of noise are by chance a little weaker, as at 50 and 600, or stronger, as at 200.) A very noisy one, as at 900, has no peak and only says "late": from about t = 600 on too little of the digit is left to tell levels apart. More pixels tell more, so not being told t costs less for large images (Sun and others 2025 analyse the error); section 3.8 measures the cost for 8x8 digits.
# <!-- alt: Five curves over t. Those of t = 50 and 200 are sharp peaks near their t, that of 600 is broad, and that of 900 rises and stays flat. -->

# %% [markdown]
# ## 3.2 How to tell a network a number
#
# *Question.* $t$ is an integer from 0 to 999. In which form does a network read it best?
#
# The bare number is a poor input: $t = 3$ and $t = 4$ differ by a thousandth of the range, but their noise differs by 16 % in size. A table with a free row for each $t$ (one-hot) has the opposite fault: row 500 learns nothing from row 501. What we need is a vector that is similar for neighbouring $t$, different for distant $t$, and fine enough to tell 3 from 4.
#
# DDPM takes the encoding of Vaswani and others (2017): $d/2$ waves of different speeds ($d$, in code `d_model`, is the length of the vector $e(t)$ below), from frequency 1 down to nearly $1/10000$ for $d = 128$. The fast waves tell neighbours apart, the slow ones tell early from late:
# $$\begin{aligned} e(t)_{2k} &= \sin(\omega_k t),\qquad e(t)_{2k+1} = \cos(\omega_k t), \\ \omega_k &= 10000^{-k/(d/2)},\qquad k = 0,\dots,\tfrac d2-1 . \end{aligned} \tag{3.2: Vaswani Section 3.5}$$
#
# **Exercise 3.1 (one star, 6 minutes).** Write the whole table, (T, d_model), without loops. Sine and cosine alternate.
# <details><summary>Hint 1</summary>Make the angles first, (T, d_model / 2): a column of t times a row of frequencies.</details>
# <details><summary>Hint 2</summary>torch.stack([sin, cos], dim=-1) gives (T, d_model / 2, 2). Flatten the last two axes, and they alternate.</details>

# %%
def time_table(T, d_model):
    ...

# %%
time_table = checks.time_table(time_table)

# %% [markdown]
# > **Predict.** Draw the sines of the table as a picture, t from left to right, slower waves further down. What do the lowest rows look like?
# > <details><summary>Then look</summary>Nearly constant. The slowest frequency turns by 0.115 radians in all 1000 steps, so its sine hardly leaves 0.</details>

# %%
table = time_table(1000, 128).double()
fig, axes = plt.subplots(1, 2, figsize=(8.3, 2.8), layout="constrained", width_ratios=[3, 2])
picture = axes[0].imshow(table[:, ::2].T, aspect="auto", cmap="cividis", extent=(0, 1000, 128, 0))
_ = axes[0].set(xlabel="t", ylabel="entry of $e(t)$"), fig.colorbar(picture, ax=axes[0])
for i, step in enumerate((100, 500, 800)):
    axes[1].plot(table @ table[step], plots.LINE_STYLES[i], color=plots.COLOURS[i], label=f"t = {step}")
_ = axes[1].set(xlabel="s", ylabel=r"$e(t)\cdot e(s)$", ylim=(0, 85))
_ = axes[1].legend(ncols=3, fontsize="x-small", handlelength=1, columnspacing=1)

# %% [markdown]
# *Figure 3.5.* Your table. Left: its sines, fast waves above, slow ones below. (The arcs in the upper half are an artefact of the picture: neighbouring rows there differ by about one full turn, so they look alike.) Right: the inner product of three rows with all rows: a sharp peak at s = t on a broad hill. Near steps are similar, distant ones less so.
# <!-- alt: Left, stripes that are narrow at the top and wide at the bottom. Right, three curves, each with a sharp peak of 64 at its own t and lower values elsewhere. -->
#
# In the network two linear layers, with the nonlinearity Swish (section 3.3) between them, follow the table, so that it can form what it needs from the waves. They make $\tau$, the *time embedding*, of `tdim` = 4 `d_model` numbers. With your table:

# %%
torch.manual_seed(0)
frozen = nn.Embedding.from_pretrained(time_table(1000, 32).float())  # the table is not trained
embedding = nn.Sequential(frozen, nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128))
print("tau for two images:", tuple(embedding(torch.tensor([0, 900])).shape))

# %% [markdown] tags=["deeper"]
# ### Going deeper: inner products, layouts, and another network's encoding

# %% [markdown]
# *Derive what the waves are good for.* Take the inner product of two rows and use $\cos a\cos b+\sin a\sin b = \cos(a-b)$ for every $k$:
# $$\begin{aligned} e(t)\cdot e(s) &= \sum_k\big(\sin\omega_k t\,\sin\omega_k s+\cos\omega_k t\,\cos\omega_k s\big) \\ &= \sum_k\cos\big(\omega_k(t-s)\big) . \end{aligned} \tag{3.3}$$
# It depends on the *distance* of $t$ and $s$ alone, and it is largest at distance 0 (there it is $d/2$, so all rows have the same length). The sum mixes fast and slow cosines, so it falls steeply, then varies, and nowhere returns to that value. *Verify*, with the slow form of (3.2):

# %%
d, slow = 128, torch.empty(1000, 128, dtype=torch.float64)
for step in range(1000):
    for k in range(d // 2):
        angle = step * 10000 ** (-2 * k / d)
        slow[step, 2 * k], slow[step, 2 * k + 1] = math.sin(angle), math.cos(angle)

# %% tags=["folded"]
omega = 10000 ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
distance = torch.arange(1000)[:, None] - torch.arange(1000)
product = torch.cos(omega[:, None] * torch.arange(1000)).sum(0)
assert (slow @ slow.T - product[distance.abs()]).abs().max() < 1e-9
print("e(t).e(s) by the distance |t - s|:", {n: round(product[n].item()) for n in (0, 1, 10, 100, 900)})

# %% [markdown]
# **What goes wrong: two layouts, two sets of frequencies.** DDPM's own code, and with it diffusers' converted checkpoints, puts all sines first and all cosines after them. That is a permutation of the columns, and a linear layer follows, so neither layout is better. But *weights* that were trained with one layout mean nothing in the other, until the columns of that linear layer are permuted too. And that is not all. DDPM's code divides the exponent by `half - 1` where (3.2) divides by `half`. Its frequencies reach $1/10000$ exactly; the post's stop one step before:

# %%
rows = blocks.TimeEmbedding(1000, d, 512).timembedding[0].weight
official = blocks.TimeEmbedding(1000, d, 512, official=True).timembedding[0].weight
# row 1 holds sin(omega), and for so small an omega that is omega
theirs = official[1, d // 2 - 1]
print(f"lowest frequency: {rows[1, -2]:.3e} as in the post, {theirs:.3e} in DDPM's code")

# %% tags=["folded"]
sines_first = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])
layer = nn.Linear(d, 512)
permuted = F.linear(rows[:, sines_first], layer.weight[:, sines_first], layer.bias)
assert (rows - slow).abs().max() < 1e-6 and (permuted - layer(rows)).abs().max() < 1e-5
exponents = -torch.arange(d // 2, dtype=torch.float64) / (d // 2 - 1)
angles = torch.arange(1000)[:, None] * 10000**exponents
alternating = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
assert (alternating[:, sines_first] - official).abs().max() < 1e-6

# %%
apart = (rows[:, sines_first] - official).norm(dim=1) / math.sqrt(d / 2)
at = {t: round(apart[t].item(), 1) for t in (0, 100, 500, 900)}
print("distance of the two tables, length of a row = 1:", at)

# %% [markdown]
# At t = 0 the two tables agree; then the post's waves, all but the fastest, run ahead, and from about t = 500 on the two rows are further apart than a row is long. A checkpoint needs the permutation *and* the right exponent: here `UNet(..., official_embedding=True)`.
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
# *Question.* A nonlinearity and a normalisation come between two convolutions. DDPM uses Swish and GroupNorm. Why these?
#
# **Swish** is $x\,\sigma(x)$ with $\sigma(x) = 1/(1+e^{-x})$ (in PyTorch `nn.SiLU`). Like ReLU it lets large values pass and stops very negative ones. ReLU's slope is 0 for *all* negative inputs: a unit whose inputs are all negative gets no gradient any more. Swish's slope is 0 at one point only, so a unit seldom stops learning for ever.
#
# **GroupNorm** (Wu and He 2018): without a norm the size of the features drifts from layer to layer, and one learning rate cannot suit all. It cuts the $C$ channels of the features $h$ of *one image* into $G$ groups of neighbours and gives every group mean 0 and variance 1; then each channel $c$ gets a scale $\gamma_c$ and an offset $\delta_c$. For pixel $p$ of channel $c$ in group $g$, with $S_g$ the set of all pixels of all channels of the group,
# $$\begin{aligned} y_{cp} &= \gamma_c\,\frac{h_{cp}-\mu_g}{\sqrt{\sigma_g^2+10^{-5}}}+\delta_c, \\ \mu_g &= \frac1{|S_g|}\sum_{S_g}h,\qquad \sigma_g^2 = \frac1{|S_g|}\sum_{S_g}(h-\mu_g)^2 . \end{aligned} \tag{3.4}$$
#
# > **Predict.** Why not BatchNorm, which normalises each channel over the whole batch? Think of what a batch of DDPM holds.
# > <details><summary>Then look</summary>Images at different t. Batch statistics would mix nearly clean images with pure noise, and the answer for one image would depend on its neighbours in the batch. (This is our reason. DDPM's Appendix B does not speak of batch normalisation; it says that group normalisation took the place of weight normalisation "to make the implementation simpler".)</details>

# %%
x, colours = torch.linspace(-6, 6, 241), ListedColormap([*plots.COLOURS, "0.4", "0.75"])
fig, axes = plt.subplots(1, 3, figsize=(8.3, 2.4), layout="constrained", width_ratios=[1.3, 1, 1])
axes[0].plot(x, F.silu(x), color=plots.BLUE, label="Swish")
axes[0].plot(x, x.relu(), ":", color="0.3", label="ReLU")
_ = axes[0].set(xlabel="x", ylim=(-1, 4)), axes[0].legend(fontsize="small")
channel, image = torch.meshgrid(torch.arange(8), torch.arange(4), indexing="ij")
kinds = {"BatchNorm": channel, "GroupNorm, G = 2": 2 * image + channel // 4}
for ax, (name, groups) in zip(axes[1:], kinds.items(), strict=True):
    ax.imshow(groups, cmap=colours, vmin=0, vmax=7, aspect="auto", alpha=0.6)
    _ = ax.set(title=name, xlabel="image", ylabel="channel")
    _ = ax.set_xticks(range(4), ["t=0", "300", "600", "999"])

# %% [markdown]
# *Figure 3.6.* Left: Swish against ReLU. Right: a batch of four images with eight channels each; cells of one colour share one mean and variance. BatchNorm mixes images of different noise levels, GroupNorm does not.
# <!-- alt: Swish dips slightly below zero and then follows ReLU. Two grids of four images by eight channels: for BatchNorm each row has one colour, for GroupNorm each image has two colours of its own. -->
#
# Exercise 3.2, group norm without loops, is in the next, collapsed section; it is optional.

# %% [markdown] tags=["deeper"]
# ### Going deeper: group norm by hand

# %% [markdown]
# The slow form of (3.4), on features so small that the $10^{-5}$ counts:

# %%
h, G = 0.01 * torch.randn(3, 8, 4, 6, dtype=torch.float64), 2
gamma, delta = torch.randn(2, 8, 1, 1, dtype=torch.float64)
slow = torch.empty_like(h)
for image in range(3):
    for g in range(G):
        group = h[image, 4 * g : 4 * g + 4]
        mean = group.sum() / group.numel()
        var = ((group - mean) ** 2).sum() / group.numel()
        slow[image, 4 * g : 4 * g + 4] = (group - mean) / (var + 1e-5) ** 0.5

# %% tags=["folded"]
norm = blocks.group_norm(8, G, 1e-5).double()
norm.load_state_dict({"weight": gamma.flatten(), "bias": delta.flatten()})
assert torch.allclose(norm(h), gamma * slow + delta, rtol=0, atol=1e-12)

# %% [markdown]
# And the dependence on neighbours, measured: the first image alone, in a batch of two, and in a batch of four.

# %%
t = torch.tensor([0, 300, 600, 999])
x_t = process.q_sample(x_train[:4], t, torch.randn(4, 1, 8, 8)).repeat(1, 8, 1, 1)
for norm in (nn.GroupNorm(2, 8), nn.BatchNorm2d(8)):
    change = (norm(x_t[:2])[0] - norm(x_t)[0]).abs().max()
    print(f"{type(norm).__name__}: the first image changes by {change:.2f} when its neighbours change")

# %% [markdown]
# **Exercise 3.2 (two stars, 8 minutes).** Write (3.4) without loops. `x` is (B, C, H, W), `weight` and `bias` are (C,).
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
# *Question.* How do these pieces become a network that can be made deep, and where is it told t?
#
# A deep stack of layers is hard to train: every layer must pass on what it got, and change it too. A *residual* block (He and others 2016) learns only the change, and the rest passes by on a *shortcut*. DDPM's block has norm, nonlinearity, convolution, twice, and the time enters between the two halves: $\tau$ goes through Swish and a linear layer ($W$, $b$) and gives one number for each channel, which is added at all pixels:
# $$\begin{aligned} h &= \operatorname{conv}_1\big(\operatorname{swish}(\operatorname{norm}_1(x))\big) + W\operatorname{swish}(\tau)+b, \\ \operatorname{ResBlock}(x, \tau) &= \operatorname{conv}_2\big(\operatorname{swish}(\operatorname{norm}_2(h))\big) + \operatorname{shortcut}(x) . \end{aligned} \tag{3.5: DDPM code}$$
# The shortcut is $x$ itself or, where the number of channels changes, a 1x1 convolution of it. Dropout comes before $\operatorname{conv}_2$.

# %% tags=["folded"]
names = ["x", "norm", "Swish", "conv 3x3", "+", "norm", "Swish", "dropout", "conv 3x3", "+", "out"]
drawn = {(i, 0): name for i, name in enumerate(names)} | {(4.5, -1): "identity, or conv 1x1"}
drawn |= {(1, 1): r"$\tau$", (2, 1): "Swish", (3, 1): "linear"}
lines = [[(0, 0), (9.8, 0)], [(0, 0), (0, -1), (9, -1), (9, -0.2)], [(1, 1), (4, 1), (4, 0.2)]]
fig, (upper, ax) = plt.subplots(2, 1, figsize=(8.3, 4.8), height_ratios=[1.5, 1], layout="constrained")
plots.unet_map(small, 8, highlight=["residual block", "residual block with attention"], ax=upper)
for (x, y), name in drawn.items():
    face = "#cce3f0" if name[:2] in ("co", "li", "id") else "#fae9c0" if name[0] in "nSd" else "w"
    box = {"boxstyle": "round", "ec": "0.4", "fc": face}
    ax.text(x, y, name, ha="center", va="center", fontsize=8, bbox=box)
for corners in lines:
    ax.plot(*zip(*corners, strict=True), color="0.4", linewidth=1, zorder=0)
    ax.annotate("", corners[-1], corners[-2], arrowprops={"arrowstyle": "-|>", "color": "0.4"}, zorder=0)
_ = ax.set(xlim=(-0.5, 10.5), ylim=(-1.4, 1.4)), ax.axis("off")

# %% [markdown]
# *Figure 3.7.* Above: where the residual blocks are. Below: one of them. Middle row: the branch that computes the change. Upper row: the time, added before the second norm. Lower row: the shortcut. Blue there: convolutions, the linear layer, the shortcut; yellow: norms, Swish, dropout.
# <!-- alt: The map of the U-Net with the eight residual blocks highlighted. Below, a chain of boxes from x to out: norm, Swish, convolution, plus, norm, Swish, dropout, convolution, plus. Tau enters at the first plus through Swish and a linear layer; the shortcut leads from x to the second plus. -->
#
# **Exercise 3.3 (one star, 4 minutes).** Write the first plus: add the time to `h` (B, C, H, W). `temb`, that is $\tau$, is (B, tdim), `weight` (C, tdim), `bias` (C,). Leave `h` as it is, and return a new tensor.
# <details><summary>Hint 1</summary>Swish first, then F.linear(..., weight, bias). The result is (B, C).</details>
# <details><summary>Hint 2</summary>Two axes of length 1 are missing at the end: [:, :, None, None]. Without them PyTorch lines the C numbers up with the columns of the image: an error, or a silent mistake where the sizes fit by chance.</details>

# %%
def add_time(h, temb, weight, bias):
    ...

# %%
add_time = checks.add_time(add_time)

# %% [markdown]
# **Exercise 3.4 (two stars, 10 minutes).** Write the whole block as a module: `x` (B, in_ch, H, W), `temb` (B, tdim) → (B, out_ch, H, W). These names make its weights interchangeable with the course's: `block1` (norm, Swish, convolution), `temb_proj` (Swish, linear), `block2` (norm, Swish, dropout, convolution), each an `nn.Sequential`; `shortcut`, an `nn.Identity()` or a 1x1 convolution; and `attn = nn.Identity()`, a placeholder (attention goes there in 3.5), which `forward` applies last, to the sum. One more thing: set weight and bias of the last convolution to 0. Then the block starts as its shortcut, and a deep stack of blocks whose shortcut is the identity passes features and gradients on unchanged until training has something to add.
# <details><summary>Hint 1</summary>nn.GroupNorm(num_groups, in_ch), nn.Conv2d(in_ch, out_ch, 3, padding=1), nn.init.zeros_(self.block2[-1].weight).</details>
# <details><summary>Hint 2</summary>In forward, h = add_time(self.block1(x), temb, self.temb_proj[1].weight, self.temb_proj[1].bias).</details>

# %%
class ResBlock(nn.Module):
    def __init__(self, in_ch, out_ch, tdim, dropout, num_groups=32):
        # super().__init__()
        ...

    def forward(self, x, temb):
        ...

# %%
ResBlock = checks.ResBlock(ResBlock)

# %% [markdown]
# **Your first network.** Your block is enough for one: a convolution from 1 to 32 channels, three of your blocks one after the other, each told the time, and a convolution back to 1 channel. The course's `TimeEmbedding` looks up the row of t in a table like yours, and sends it through two linear layers. Train it with the loss of exercise 2.1, `simple_loss`, and draw step by step, (2.3), with the mean of exercise 2.3, `mean_from_eps` (both are the course's here).

# %%
class Stack(nn.Module):
    def __init__(self, ch=32, num_groups=4):
        super().__init__()
        self.time = blocks.TimeEmbedding(1000, 16, 64)
        self.first = nn.Conv2d(1, ch, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(ch, ch, 64, 0.0, num_groups) for _ in range(3))
        self.last = nn.Conv2d(ch, 1, 3, padding=1)

    def forward(self, x, t):
        temb, h = self.time(t), self.first(x)
        for block in self.blocks:
            h = block(h, temb)
        return self.last(h)

# %%
simple_loss, mean_from_eps = checks.carried("simple_loss"), checks.carried("mean_from_eps")
betas, alphas_bar = process.betas.float().to(device), process.alphas_bar.float().to(device)

# %%
torch.manual_seed(0)
net = Stack().to(device)
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)

# %%
for _ in range(600):
    x_0 = x_train[torch.randint(len(x_train), (64,))]
    t, noise = torch.randint(1000, (64,)), torch.randn(x_0.shape)
    loss = simple_loss(net, x_0.to(device), t.to(device), noise.to(device), alphas_bar).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
generator = torch.Generator().manual_seed(3)
x = torch.randn(16, 1, 8, 8, generator=generator).to(device)
for t in reversed(range(1000)):
    step, z = torch.full((16,), t, device=device), torch.randn(x.shape, generator=generator).to(device)
    with torch.no_grad():
        x = mean_from_eps(x, step, net(x, step), betas) + process.posterior_var[t].sqrt().item() * z

# %%
ax = plots.image_grid(x.cpu(), ncols=16)

# %% [markdown]
# *Figure 3.8.* Digits from noise, by three of your blocks, with the loss and the mean of notebook 2, after some seconds of training. More than half can be read. Eight convolutions of 3x3 follow each other (two in each block, one before, one after), so a pixel of the result sees a square of 17x17: here, the whole image. On a large image that would be a small part, and of all else the pixel would know only the averages in the norms; and such a stack would cost much. Sections 3.5 and 3.6 show what helps.
# <!-- alt: Sixteen small grey images; more than half show a readable digit, the others are unclear. -->

# %% [markdown]
# **What goes wrong: a norm that removes the time.** The time is *added* to a channel as a whole, and then comes a norm, which *subtracts* a mean. If a group of the norm is a single channel, they cancel. The post has 32 groups everywhere, so this happens in every block of 32 channels.
#
# > **Predict.** Your block with 32 channels is told t = 0, then t = 900. How does the change of its output depend on the number of groups: 1, 2, 4, 8, 16, 32?
# > <details><summary>Then look</summary>With 32 groups the output does not change at all: the block runs, trains, and ignores t. With k channels to a group, subtracting the mean removes 1/k of the variance that the time adds: a half if k = 2, a quarter if k = 4, as in the blocks of 128 channels of DDPM's network for CIFAR-10. The rest survives. (The bars show root mean squares, so they fall less.)</details>

# %%
x, groups, changes = torch.randn(1, 32, 8, 8).expand(2, -1, -1, -1), (1, 2, 4, 8, 16, 32), []
for G in groups:
    torch.manual_seed(1)
    block = ResBlock(32, 32, 128, 0.0, num_groups=G)
    nn.init.xavier_uniform_(block.block2[-1].weight)  # as built it is 0, and nothing could be seen
    out = block(x, embedding(torch.tensor([0, 900])))
    changes.append((out[0] - out[1]).square().mean().sqrt().item())

# %%
fig, ax = plt.subplots(figsize=(5.5, 2.4), layout="constrained")
ax.bar(range(6), changes, color=plots.BLUE)
_ = ax.set(xlabel="number of groups (32 channels in all)", ylabel="change of the output")
_ = ax.set_xticks(range(6), groups)
assert changes[-1] < 1e-5 < 0.01 < changes[3]

# %% [markdown]
# *Figure 3.9.* How much (root mean square) the output of your block changes between t = 0 and t = 900. With one channel to a group (32 groups) the norm removes the time completely. No error is raised, and the loss of such a network falls all the same. **Repair**: fewer groups, 8 for example. The package's `UNet` warns of it. (Try `net = Stack(num_groups=32).to(device)` in your first network, and run from there to its picture: it trains, but the background of some digits is grey.)
# <!-- alt: Six bars. With 1 to 16 groups the output changes visibly; with 32 groups the bar has no height. -->
#
# Exercise 3.5, which counts the block's numbers, is in the next, collapsed section; it is optional.
#
# *You can stop here*: the next sitting starts alone.

# %% [markdown] tags=["deeper"]
# ### Going deeper: the block by hand, and a whole network that ignores t

# %% [markdown]
# **Exercise 3.5 (on paper, 4 minutes).** How many trained numbers does a block from 16 to 32 channels have, with tdim = 64? A norm has two for each channel, and every layer has biases.
# <details><summary>Solution</summary>Norm of 16 channels: 32. Convolution 16 → 32: $9\cdot16\cdot32+32 = 4640$. Time: $64\cdot32+32 = 2080$. Norm of 32 channels: 64. Convolution 32 → 32: $9\cdot32\cdot32+32 = 9248$. Shortcut: $16\cdot32+32 = 544$. Together 16,608: the two convolutions hold five sixths of it.</details>

# %% tags=["folded"]
block = ResBlock(16, 32, 64, 0.0, num_groups=4)
assert sum(p.numel() for p in block.parameters()) == 16_608

# %% [markdown]
# *Verify* all of (3.5) against the package's `ResBlock`, line by line as it stands above:

# %%
block = blocks.ResBlock(in_ch=16, out_ch=32, tdim=64, dropout=0.1, num_groups=4).eval()
nn.init.xavier_uniform_(block.block2[-1].weight)
norm_1, swish, conv_1 = block.block1
norm_2, _, _, conv_2 = block.block2
x, temb = torch.randn(2, 16, 4, 4), torch.randn(2, 64)

# %%
h = conv_1(swish(norm_1(x))) + block.temb_proj[1](swish(temb))[:, :, None, None]
by_hand = conv_2(swish(norm_2(h))) + block.shortcut(x)
assert torch.allclose(by_hand, block(x, temb), atol=1e-5)

# %% [markdown]
# And a whole network, with 32 groups as in the post? Two small ones:

# %%
x, nets = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1), {}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for mult in ([1, 1], [1, 2, 2]):
        nets[tuple(mult)] = unet.UNet(1000, 32, mult, attn=[], num_res_blocks=1, dropout=0.0, in_ch=1)

# %%
for mult, net in nets.items():
    for block in net.modules():
        if isinstance(block, blocks.ResBlock):
            nn.init.xavier_uniform_(block.block2[-1].weight)
    nn.init.xavier_uniform_(net.tail[-1].weight)
    out = net(x, torch.tensor([0, 900])).detach()
    change = (out[0] - out[1]).abs().max().item()
    print(f"32 times {mult} channels: the answer changes by {change:.1f}")
    assert change < 1e-4 or change > 0.1

# %% [markdown]
# Only *blocks* with 32 channels ignore t. Where wider levels follow, these still use it; where none does, the whole network ignores it. DDPM's network for CIFAR-10 has 128 channels and more, so four or more to a group: there the norm takes a quarter of a random shift or less, and the rest arrives. The package's warning:

# %%
for warning in caught:
    print(warning.category.__name__, "-", str(warning.message).split(":")[0])

# %% [markdown] tags=["sitting"]
# ## 3.5 Attention: every pixel asks all others
#
# *Sitting 2 of 2, 43 minutes.*
#
# *Question.* A 3x3 convolution sees neighbours. The upper stroke of an 8 and the lower one are far apart, and yet each says something about the other. How can a pixel ask *all* pixels?
#
# In a fresh kernel run the set-up cell and the next one, then your cells of exercises 3.3 and 3.4 with their checks; otherwise the course's own block is used.

# %% tags=["start", "folded"]
import json
import math
from functools import partial

from ipywidgets import IntSlider, interact
from torch import nn
from torch.nn import functional as F

from ddpm_lesson import GaussianDiffusion, checks, data, losses, plots
from ddpm_lesson import samplers, schedules, spacing, training
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.networks import blocks, unet
from ddpm_lesson.predictions import epsilon, fixedsmall

torch.set_num_threads(1)
process = GaussianDiffusion(schedules.linear(1000))
x_train, ResBlock = data.digits("train").x_0, checks.carried("ResBlock")

# %%
small = unet.UNet(1000, 16, [1, 2], attn=[1], num_res_blocks=1, dropout=0.0, in_ch=1, num_groups=4)
ax = plots.unet_map(small, 8, highlight=["residual block with attention"])

# %% [markdown]
# *Figure 3.10.* The blocks of the small U-Net in which every pixel can ask all others: those at 4x4, and the first of the middle.
# <!-- alt: The map of the U-Net with four blocks highlighted: one on the way down at 4x4, one in the middle, two on the way up at 4x4. -->
#
# *Derive.* Every pixel $i$ holds three vectors of $C$ numbers: a query $q_i$ (what do I look for?), a key $k_i$ (what do I have?), a value $v_i$ (what do I say?). The *score* of pixel $j$ for pixel $i$ is the inner product $q_i\cdot k_j$. (Not the score of notebook 2; and $q$ is no density here.) A softmax turns the scores into positive weights with sum 1, and the values are averaged:
# $$\begin{aligned} w_{ij} &= \frac{\exp(q_i\cdot k_j/\sqrt C)}{\sum_l\exp(q_i\cdot k_l/\sqrt C)}, \\ \operatorname{attention}(q,k,v)_i &= \sum_j w_{ij}\,v_j . \end{aligned} \tag{3.6: Vaswani Eq. 1}$$
# Why $\sqrt C$? If the entries of $q$ and $k$ are independent with mean 0 and variance 1, then $q\cdot k$ is a sum of $C$ products, each with variance 1: its variance is $C$. Without the division one pixel would get nearly all weight, and the softmax would pass on hardly any gradient.
#
# **Exercise 3.6 (two stars, 8 minutes).** Write (3.6) as a function, without loops; all shapes are (B, C, H, W).
# <details><summary>Hint 1</summary>x.flatten(2).mT is (B, H W, C), a list of pixels. The weights are (B, H W, H W), and the softmax runs over j, the pixels that are looked at: the last axis.</details>
# <details><summary>Hint 2</summary>The average of the values is a matrix product, weights @ values. Then .mT and reshape.</details>

# %%
def attention(q, k, v):
    ...

# %%
attention = checks.attention(attention)

# %% [markdown]
# *See it denoise, with nothing learned.* Give every pixel as query and key the 3x3 patch around it, so that the weights are large where the patches are alike, and as value its own grey level (non-local means, Buades and others 2005). The next cell holds the details; the collapsed section below derives them.

# %% tags=["folded"]
t = torch.full((20,), 90)
noise = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
clean, noisy = process.q_sample(x_train[:20], t, 0 * noise), process.q_sample(x_train[:20], t, noise)
width = 3 * process.sqrt_one_minus_alphas_bar[90].float()
p = F.unfold(F.pad(noisy, (1, 1, 1, 1), value=-1.0), 3).view(20, 9, 8, 8)
root = math.sqrt(10)  # C = 10: attention divides the scores by this, so the query is multiplied by it
query = root * torch.cat([p, torch.ones(20, 1, 8, 8)], 1) / width**2
key = torch.cat([p, -0.5 * p.square().sum(1, keepdim=True)], 1)
average = attention(query, key, noisy.expand(-1, 10, -1, -1))[:, :1]

# %% tags=["folded"]
pixel, scores = 28, query[0].flatten(1).T @ key[0].flatten(1) / root  # row 3, column 4
shown = (clean[0, 0], noisy[0, 0], scores.softmax(1)[pixel].view(8, 8), average[0, 0])
fig, axes = plt.subplots(1, 4, figsize=(8.3, 2.3), layout="constrained")
names = ("clean", "noisy", "weights of the pixel", "averages")
for ax, image, name in zip(axes, shown, names, strict=True):
    if name[0] == "w":
        fig.colorbar(ax.imshow(image, cmap="cividis", vmin=0), ax=ax, shrink=0.7)
    else:
        ax.imshow(image, cmap="gray", vmin=-1, vmax=1)
    _ = ax.set_title(name, fontsize="medium"), ax.axis("off")
for ax in axes[1:3]:
    ax.plot(pixel % 8, pixel // 8, "s", ms=12, mfc="none", mec=plots.VERMILION, mew=2)

# %% [markdown]
# *Figure 3.11.* Your attention at work. The marked pixel lies in the hole of the 0. It looks at itself, at pixels below it in the hole, and at pixels left of the 0: they have background around them and a stroke on their right.
# <!-- alt: A clean zero, the same with noise and one marked pixel, the weights of this pixel, which are high inside the hole and at the left border, and the averaged image, smoother than the noisy one. -->

# %% [markdown]
# The background gets cleaner, strokes get blurred: patches make poor queries and keys. In the network they are learned: three 1x1 convolutions of the normalised features, and a fourth, $W_o$, after the average:
# $$\operatorname{AttnBlock}(h) = h + W_o\operatorname{attention}\big(W_q\hat h,\ W_k\hat h,\ W_v\hat h\big),\qquad \hat h = \operatorname{norm}(h)$$
#
# **Exercise 3.7 (one star, 5 minutes).** Write the attention block, using your `attention`. Names: `group_norm`, `proj_q`, `proj_k`, `proj_v` and `proj` (all with biases). Weight and bias of `proj` start at 0.
# <details><summary>Hint</summary>return x + self.proj(attention(...)), where each argument is a projection of self.group_norm(x).</details>

# %%
class AttnBlock(nn.Module):
    def __init__(self, in_ch, num_groups=32):
        # super().__init__()
        ...

    def forward(self, x):
        ...

# %%
AttnBlock = checks.AttnBlock(AttnBlock)

# %% [markdown]
# The price: $(HW)^2$ weights. At 32x32 that is a million for each image, at 16x16 sixty-five thousand. DDPM attends at 16x16 only, and in the middle.

# %% [markdown] tags=["deeper"]
# ### Going deeper: the scale, four ways to write it, patches and positions

# %% [markdown]
# > **Predict.** 64 pixels, 128 channels, random queries and keys. How much of the weight does the best of the 64 pixels get, with the division by $\sqrt C$ and without? An equal share would be 1/64 = 0.016.
# > <details><summary>Then look</summary>With it 0.11, without it 0.86.</details>

# %%
torch.manual_seed(0)
queries, keys = torch.randn(1000, 128), torch.randn(64, 128)
scores = queries @ keys.T
both = scores / math.sqrt(128), scores
divided, plain = (values.softmax(1).max(1).values.mean() for values in both)
print(f"variance of q.k: {scores.var():.0f}")
print(f"largest of 64 weights, on average: {divided:.2f} divided, {plain:.2f} not")

# %% [markdown]
# The slow form, one pixel after the other, and three fast ones: einops, the post's batched matrix products, and PyTorch's fused call, which need not store the matrix of weights.

# %%
from einops import einsum, rearrange

q, k, v = torch.randn(3, 2, 8, 4, 6, dtype=torch.float64)  # B = 2, C = 8, H = 4, W = 6
slow = torch.empty_like(v)
for b in range(2):
    for i in range(24):
        scores = torch.stack([q[b, :, i // 6, i % 6] @ k[b, :, j // 6, j % 6] for j in range(24)])
        w = (scores / math.sqrt(8)).exp() / (scores / math.sqrt(8)).exp().sum()
        slow[b, :, i // 6, i % 6] = sum(w[j] * v[b, :, j // 6, j % 6] for j in range(24))

# %%
queries, keys, values = (rearrange(x, "b c h w -> b (h w) c") for x in (q, k, v))
w = (einsum(queries, keys, "b i c, b j c -> b i j") / math.sqrt(8)).softmax(-1)
with_einops = einsum(w, values, "b i j, b j c -> b i c")
with_bmm = torch.bmm(F.softmax(torch.bmm(queries, keys.transpose(1, 2)) * 8**-0.5, -1), values)
fused = F.scaled_dot_product_attention(queries, keys, values)
for result in (with_einops, with_bmm, fused):
    assert torch.allclose(rearrange(result, "b (h w) c -> b c h w", h=4, w=6), slow, atol=1e-10)

# %% [markdown]
# *The score of patches (figure 3.11).* With $p_i$ the patch around pixel $i$, one more channel, 1 in the query and $-\|p_j\|^2/2$ in the key, makes the score
# $$p_i\cdot p_j-\tfrac12\|p_j\|^2 = -\tfrac12\|p_i-p_j\|^2+\tfrac12\|p_i\|^2,$$
# and the last term, equal for all $j$, cancels in the softmax. This score is divided by the square of a *width*, in the figure three times the noise's size. Does it help?

# %%
low = clean[0].min()  # background
clipped_only = noisy.clamp(low, -low)
ways = {"noisy": noisy, "only clipped to the range of the data": clipped_only, "averages": average}
for name, image in ways.items():
    error = (image - clean).square()
    on, off = error[clean == low].mean(), error[clean > low].mean()
    print(f"squared error, {name + ':':39} {on:.3f} on background, {off:.3f} on strokes")

# %% [markdown]
# Read these numbers with care: nearly all of the gain is on the background, where clipping alone does much of the work. On strokes the averages (0.086) are worse than clipping alone (0.074): averaging blurs.
#
# *The width.* Noise alone puts two equal patches of 9 pixels about $\sqrt{2\cdot 9} = 4.2$ standard deviations of it apart. Is that the best width?

# %%
before = (noisy - clean).square().mean((1, 2, 3)).sqrt()
for times in (2, 3, 4.2):
    image = attention(query * (3 / times) ** 2, key, noisy.expand(-1, 10, -1, -1))[:, :1]
    ratio = (image - clean).square().mean((1, 2, 3)).sqrt() / before
    distance = f"mean distance to the clean digit {ratio.mean():.2f}, noisy = 1"
    print(f"width of {times} times the noise: {distance}")
ratio = (noisy.clamp(low, -low) - clean).square().mean((1, 2, 3)).sqrt() / before
print(f"only clipped: {ratio.mean():.2f}")

# %% [markdown]
# 4.2 is too wide: unequal patches blend in, and the mean ends further from the clean digit than the noisy one was. 3 is the best of the three.
#
# *Attention does not know positions.* Nothing in (3.6) says where a pixel is: shuffle the pixels, and the answer is the shuffled answer. A convolution is not like that: it knows which pixels are neighbours.

# %%
shuffle = torch.randperm(64, generator=torch.Generator().manual_seed(0))


def shuffled(x):
    return x.flatten(2)[:, :, shuffle].view_as(x)

# %%
attend, conv = blocks.AttnBlock(8, num_groups=4), nn.Conv2d(8, 8, 3, padding=1)
nn.init.xavier_uniform_(attend.proj.weight)  # as built it is nearly 0
h = torch.randn(1, 8, 8, 8)
for name, layer in (("attention", attend), ("convolution", conv)):
    gap = (layer(shuffled(h)) - shuffled(layer(h))).abs().max().item()
    print(f"{name}: the answer to the shuffled image differs from the shuffled answer by {gap:.1f}")
    assert gap < 1e-5 or gap > 0.1

# %% [markdown]
# **What goes wrong: the wrong reason.** *The post* explains the time embedding with a sentence about transformers: they contain no RNN and no CNN, so positions have to be injected. But a U-Net *is* a CNN, and knows positions. What it does not know is the *noise level*, and the embedding of $t$ says that and nothing else.

# %% [markdown]
# ## 3.6 The U: levels, skips, and the channels that meet
#
# *Question.* The network returns noise for every *pixel*, so it needs full resolution. To know what the image shows it must see all of it, which is cheap only at low resolution. How can it have both?
#
# *Idea.* Go down and up again, and hand over the features at every level on the way. On the way down each output is put on a stack; on the way up each residual block takes one off and joins it, channel beside channel, to what came from below:
# $$h \leftarrow \operatorname{ResBlock}\big([\,h,\ \text{top of the stack}\,],\ \tau\big),\qquad \text{channels in} = C_h + C_\text{skip} . \tag{3.7}$$
#
# | argument of `UNet` | what it is |
# |---|---|
# | `T` | number of steps |
# | `ch` | channels of level 0, the finest |
# | `ch_mult` | for each level, its channels as a multiple of `ch`; every further level halves the side |
# | `attn` | the levels whose blocks attend; `[]`: none of them. The first block of the middle always attends |
# | `num_res_blocks` | residual blocks of a level on the way down; one more on the way up |
# | `dropout` | the share of features that training sets to 0 |
# | `in_ch`, `num_groups` | channels of the image and groups of the norms |
#
# DDPM's network for CIFAR-10, on the device `meta`, where tensors have shapes and no numbers:

# %%
with torch.device("meta"):
    cifar = unet.UNet(1000, 128, [1, 2, 2, 2], attn=[1], num_res_blocks=2, dropout=0.1)
fig, ax = plt.subplots(figsize=(8.3, 4.8), layout="constrained")
_ = plots.unet_map(cifar, 32, ax=ax)
print(f"{sum(p.numel() for p in cifar.parameters() if p.requires_grad):,} trained parameters")

# %% [markdown]
# *Figure 3.12.* DDPM's U-Net, drawn from its modules; it runs from left to right. The number on a line is the number of channels that the skip carries; what is put on the stack last is taken off first. The paper says 35.7 million parameters.
# <!-- alt: Four rows of boxes, from 32x32 with 128 channels down to 4x4 with 256, two boxes in the middle, and up again. Pink boxes with attention only at 16x16 and first in the middle. Twelve skips connect the two sides. -->
#
# *The rules of the stack*:
#
# - put on it: the output of the first convolution, of every residual block on the way down, and of every layer that halves the side (`DownSample`, a 3x3 convolution with stride 2);
# - taken off: one by every residual block on the way up. Each level has one more block on the way up than on the way down. The extra one takes the output of the `DownSample` that led to this level (on level 0, of the first convolution);
# - a layer that doubles the side (`UpSample`: every pixel four times, then a 3x3 convolution) takes none.
#
# Move the controls: which choice costs parameters, and which does not?
# <details><summary>Then look</summary><code>ch</code> costs most: a convolution has channels in times channels out, so twice the channels are about four times the parameters. More levels and more blocks cost most where the level is wide. Attention costs little: 4 C² + 6 C, between a tenth and about a quarter of its residual block. The size of the image costs nothing.</details>

# %%
# NBVAL_IGNORE_OUTPUT
choices = {"ch_mult": ["1", "1 2", "1 2 2", "1 2 4"], "attn": ["none", "0", "1", "0 1"]}
choices["num_res_blocks"] = IntSlider(1, 1, 3, style={"description_width": "initial"})


@interact(ch=(8, 64, 8), **choices)
def design(ch=16, ch_mult="1 2", attn="1", num_res_blocks=1):
    mult = [int(number) for number in ch_mult.split()]
    levels = [level for level in range(len(mult)) if str(level) in attn]
    with torch.device("meta"):
        net = unet.UNet(1000, ch, mult, levels, num_res_blocks, 0.0, in_ch=1, num_groups=4)
    ax = plots.unet_map(net, 8)
    ax.set_title(f"{sum(p.numel() for p in net.parameters() if p.requires_grad):,} parameters")
    plt.show()

# %% [markdown]
# **Exercise 3.8 (two stars, 6 minutes).** Predict, without building the network: the number of *input* channels of every residual block on the way up, first to last, as a list of ints. For CIFAR-10's network it begins with 512 and ends with 256.
# <details><summary>Hint 1</summary>Walk down and append to a list in the order in which the network runs (the blocks of a level, then its DownSample). Then walk up and pop.</details>
# <details><summary>Hint 2</summary>On the way up keep <code>now</code>, the channels that come from below. It starts as ch * ch_mult[-1] and becomes ch * mult after every block.</details>

# %%
def skip_channels(ch, ch_mult, num_res_blocks):
    ...

# %%
skip_channels = checks.skip_channels(skip_channels)

# %%
print("into the blocks on the way up of the small network:", skip_channels(16, [1, 2], 1))

# %% [markdown] tags=["deeper"]
# ### Going deeper: a list of all shapes

# %% [markdown]
# Let a hook write down what goes into each block and what comes out. A hook is a function that PyTorch calls after a module has run, with the module, its inputs and its output.

# %%
listed = []


def write(name, block, args, out):
    listed.append((name, type(block).__name__, *args[0].shape[1:3], *out.shape[1:3]))

# %%
inner = [(name, part) for name, part in cifar.named_modules() if name.count(".") == 1]
parts = [(name, part) for name, part in inner if "blocks" in name]
parts = [("head", cifar.head), *parts, ("tail", cifar.tail)]
hooks = [part.register_forward_hook(partial(write, name)) for name, part in parts]
image, step = torch.empty(1, 3, 32, 32, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta")
out = cifar(image, step)
for hook in hooks:
    hook.remove()

# %%
for name, kind, c_in, side_in, c_out, side_out in listed:
    out_of = f"{c_out:3} at {side_out:2}x{side_out}"
    print(f"{name:16} {kind:11} {c_in:3} at {side_in:2}x{side_in:<2} -> {out_of}")

# %% [markdown]
# Replay it with a stack: the side changes only at `DownSample` and `UpSample`; up to the middle every block gets what the block before it returned; on the way up what came from below plus what comes off.

# %% tags=["folded"]
factor = {"DownSample": 0.5, "UpSample": 2}
assert all(row[5] == factor.get(row[1], 1) * row[3] for row in listed)
before_up = [row for row in listed if row[0].startswith(("head", "down", "middle"))]
assert all(one[4:] == following[2:4] for one, following in zip(before_up, before_up[1:], strict=False))
stack = [row[4] for row in listed if row[0].startswith(("head", "down"))]
before = before_up[-1][4]
for name, kind, c_in, _, c_out, _ in listed:
    if name.startswith("up"):
        assert c_in == before + (stack.pop() if kind == "ResBlock" else 0)
        before = c_out
assert stack == [] and out.shape == image.shape

# %% [markdown]
# **What goes wrong: a wrong history.** *The post* says that the U-Net had proven itself in GANs. DDPM's own account (Appendix B) is another: the backbone is PixelCNN++ (a model that draws an image pixel after pixel), itself a U-Net built on Wide ResNet, with weight normalisation (length and direction of weights learned apart) replaced by group normalisation. The U-Net as such comes from segmenting medical images (Ronneberger and others 2015).

# %% [markdown]
# ## 3.7 Train it: digits from your blocks
#
# Put your blocks into the course's small U-Net of figure 3.1, and train it on 1415 digits as you trained your first network, now with the package's own loop. The average of the weights over the last steps draws better than the last weights, so it is kept, too (EMA, *exponential moving average*: after each step it moves a small part of the way to the new weights). `draw` is Algorithm 2 of notebook 2, also called *ancestral sampling*, in 100 of the 1000 steps; notebook 4 explains its parts.

# %%
def with_your_blocks(net):
    for part in (net.downblocks, net.middleblocks, net.upblocks):
        for i, theirs in enumerate(part):
            if isinstance(theirs, blocks.ResBlock):
                conv = theirs.block1[-1]
                part[i] = ResBlock(conv.in_channels, conv.out_channels, 64, 0.0, num_groups=4)
                if isinstance(theirs.attn, blocks.AttnBlock):
                    part[i].attn = AttnBlock(conv.out_channels, num_groups=4)
    return net

# %%
chain = GaussianDiffusion(schedules.linear(1000)).to(device)
short = chain.respaced(spacing.trailing(1000, 100))  # 100 of the 1000 steps


def draw(net, n, seed=0):
    """n digits from noise, (n, 1, 8, 8), by ancestral sampling, as in notebook 2; see notebook 4."""
    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn(n, 1, 8, 8, generator=generator).to(device)
    x_0_hat = clipped(make_denoiser(net, chain, epsilon), chain)  # from the noise (1.7), cut to [-1, 1]
    p = samplers.reverse(short, x_0_hat, fixedsmall)  # it goes into the posterior (1.6)
    return samplers.last(samplers.ancestral(short, p, x_T, generator=generator)).cpu()

# %%
def fit(net, steps, show=()):
    """As your first network; returns the averaged network, losses, digits drawn after `show` steps."""
    generator, history, drawn = torch.Generator().manual_seed(0), [], []
    batches = training.minibatches(x_train, batch_size=64, generator=generator)
    ema = training.EMA(net, 0.99)
    loss = partial(losses.simple_loss, chain, epsilon)  # your exercise 2.1
    options = {"lr": 4e-3, "warmup": 20, "ema": ema, "generator": generator}
    for step in training.train(net, chain, batches, loss, steps=steps, **options):
        history.append(step.loss)
        if step.step in show:
            drawn.append(draw(ema.model, 16))
    return ema.model, history, drawn

# %%
torch.manual_seed(0)
small = unet.UNet(1000, 16, [1, 2], attn=[1], num_res_blocks=1, dropout=0.0, in_ch=1, num_groups=4)
net, history, drawn = fit(with_your_blocks(small).to(device), 300, show=(30, 100, 300))

# %%
fig, axes = plt.subplots(2, 1, figsize=(8.3, 3.6), layout="constrained", height_ratios=[1, 1.2])
plots.loss_curve(history, smooth=20, ax=axes[0])
_ = axes[0].set(ylim=(0, 1.1)), axes[0].legend(fontsize="small")
plots.image_grid(torch.cat(drawn), ncols=16, ax=axes[1])
for i, steps in enumerate((30, 100, 300)):
    axes[1].text(-0.3, 1.06 * i + 0.5, f"{steps} steps", ha="right", va="center", fontsize="small")

# %% [markdown]
# *Figure 3.13.* Above: the loss. Below: the same noise, turned into digits after 30, 100 and 300 steps of training. The loss falls fastest in the first 50 steps; digits become readable later. A flat loss does not mean that nothing is learned any more.
# <!-- alt: A loss curve that falls steeply from 1 and then slowly. Three rows of sixteen small images: after 30 steps blurred spots, after 100 steps digits with noise, after 300 steps mostly readable digits. -->

# %% [markdown]
# ## 3.8 What is each piece worth?
#
# *Question.* Take the pieces away one at a time (an *ablation*, 消融实验), train, and look at both: the loss on digits that training has not seen, and the samples.
#
# - No time: the network is told t = 0 always. No skips: zeros instead of what comes off the stack.
# - No attention: nowhere, not in the middle either. No start at 0: the last layer of each branch, and of the network, starts at ordinary size.
#
# > **Predict.** Which network has the largest loss after 800 steps, and which draws the worst digits?
# > <details><summary>Then look</summary>Without skips the loss is the largest, without time it is nearly as large. Both draw badly, in two ways. Without time some images stay covered with noise: the network cannot tell how much is left. Without skips the background looks clean, but strokes are uneven or broken. The Fréchet distance (explained below) is equally large in both cases. Without attention nothing changes.</details>
#
# The trainings, three seeds each, take a quarter of an hour: `data/records/unet_ablations_long.py` has made them.

# %%
long_record = json.loads(data.bundled("records/unet_ablations_long.json").read_text())
record = long_record["runs"]
names = list(record)  # full, no attention, no start at 0, no time, no skips
levels = "0123456789abcdefg"  # a pixel's grey, as a digit to the base 17


def digits_of(texts):
    return torch.tensor([[levels.index(c) for c in text] for text in texts]).view(-1, 1, 8, 8) / 8 - 1

# %% tags=["folded"]
fig, axes = plt.subplots(1, 2, figsize=(8.3, 3), layout="constrained", width_ratios=[1, 1.25])
for k, steps in enumerate(("60", "200", "800")):
    found = torch.tensor([[run["loss"][steps] for run in record[name]] for name in names])
    places = torch.arange(5) + 0.27 * (k - 1)
    axes[0].barh(places, found.mean(1), 0.25, color=plots.COLOURS[k], alpha=0.6, label=f"{steps} steps")
    axes[0].plot(found, places, "k|", ms=5)
axes[0].set_yticks(range(5), names)
_ = axes[0].set(xlabel="held-out loss", xlim=(0, 0.33)), axes[0].invert_yaxis()
_ = axes[0].legend(fontsize="x-small")
drawn = [digits_of(record[name][0]["drawn"]["800"]) for name in names]
_ = plots.image_grid(torch.cat(drawn), ncols=8, ax=axes[1]), axes[1].set_title("drawn after 800 steps")
for i, name in enumerate(names):
    axes[1].text(-0.15, 1.06 * i + 0.5, name, ha="right", va="center", fontsize="small")

# %% [markdown]
# *Figure 3.14.* Five networks. Left: the loss on held-out digits after 60, 200 and 800 steps; bars are means of three seeds, lines the seeds. Right: what the first seed's networks draw after 800 steps. Without time some images stay covered with noise; without skips the background is clean, but strokes are uneven or broken.
# <!-- alt: Bars of five networks, three for each: no skips is far the worst after 60 steps and only a little worse than no time after 800. Five rows of eight drawn digits: in the row without time one image is pure noise and others have spots. -->

# %% tags=["folded"]
def change(name, steps):
    """Mean change of the loss against the full network, in per cent."""
    pairs = zip(record[name], record["full"], strict=True)
    return round(100 * sum(run["loss"][steps] / full["loss"][steps] - 1 for run, full in pairs) / 3)


for name in names:
    changes = [change(name, steps) for steps in ("60", "200", "800")]
    scores = [run["scores"]["800"] for run in record[name]]
    near, far = (sum(score[kind] for score in scores) / 3 for kind in ("nearest", "frechet"))
    by_length = ", ".join(f"{each:+3}" for each in changes)
    print(f"{name:13} loss {by_length} %; nearest digit {near:.2f}, Fréchet {far:.1f}")
real = long_record["real, held out"]
near, far = real["nearest"], real["frechet"]
print(f"digits not seen in training:          nearest digit {near:.2f}, Fréchet {far:.1f}")

# %% tags=["folded"]
ends = json.loads(data.bundled("records/unet_ablations_ends.json").read_text())["ends"]
for name in ("no time", "no skips"):
    pairs = zip(ends[name], ends["full"], strict=True)
    more = [f"{100 * (run['2000'] / full['2000'] - 1):+.0f}" for run, full in pairs]
    print(f"{name:8} after 2000 steps, two seeds: loss {' and '.join(more)} %")

# %% [markdown]
# ("Nearest digit": root mean square distance of a sample from the training digit most like it, mean of 192 samples; noise makes it large. "Fréchet": distance between mean and covariance of a classifier's features, of samples and of training digits, as in FID, section 2.8.) Four lessons:
#
# - **A network that is not told t pays a price**, as (3.1) says: +16 % after 800 steps. This compares two trainings, not the smallest losses; for a single number the smallest loss rises by 67 %.
# - **The length matters.** After 60 steps the numbers say how fast a network learns: "no skips" is far behind all others. After 800 steps the start at 0 matters less, and "no skips" is hardly worse than "no time". After 2000 steps (two seeds, the last lines above) both are still behind, and two seeds do not say which is worse.
# - **The measure matters.** After 800 steps, by the nearest-digit distance, which is sensitive to noise, "no time" is worst (0.46; "no skips" has 0.41). By the Fréchet distance of features the two are equal (6.4 and 6.3; full 3.2).
# - **No difference is a result, too**, for this network and these images: without attention the loss does not change by more than 1 % in the mean over the seeds. A likely reason: on 8x8 pixels the convolutions see the whole image anyway.
#
# **Exercise 3.9 (design, 7 minutes).** You may spend 60,000 parameters, a third of the 176,849 of section 3.7's network. Choose `ch`, `ch_mult`, `attn` and `num_res_blocks` (the controls in section 3.6 count for you). Write down your prediction first: by how many per cent is its held-out loss larger after 300 steps? Then measure, here with one seed.
# <details><summary>Then look</summary>Held-out loss above that of the larger network, mean of three seeds (<code>data/records/unet_ablations_ends.py</code>): ch=16, ch_mult=[1], attn=[], num_res_blocks=2 (55,505 parameters) 1 %; ch=8, ch_mult=[1, 2], attn=[], num_res_blocks=2 (58,593 parameters) 10 %; the design in the next cell (44,969 parameters) 14 %. Of these, one wide level does better than two narrow ones. (Parameters are not time: on the full size of the image a wide level computes more.)</details>

# %%
choice = {"ch": 8, "ch_mult": [1, 2], "attn": [1], "num_res_blocks": 1}
torch.manual_seed(0)
mine = unet.UNet(1000, dropout=0.0, in_ch=1, num_groups=4, **choice)
print(f"{sum(p.numel() for p in mine.parameters() if p.requires_grad):,} parameters")
mine, _, (drawn,) = fit(mine.to(device), 300, show=(300,))

# %%
x_test = data.digits("test").x_0.to(device)
shuffled_382 = torch.randperm(382, generator=torch.Generator().manual_seed(0))
t_test = torch.linspace(0, 999, 382).long()[shuffled_382].to(device)
noise_test = torch.randn(382, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
with torch.no_grad():
    x_t_test = chain.q_sample(x_test, t_test, noise_test)
    held_out = [(each(x_t_test, t_test) - noise_test).square().mean().item() for each in (net, mine)]

# %% tags=["folded"]
fig, axes = plt.subplots(1, 2, figsize=(8.3, 1.6), layout="constrained", width_ratios=[1.1, 2.2])
whose, colors = ["176,849 parameters", "your choice"], [plots.BLUE, plots.VERMILION]
bars = axes[0].barh(whose, held_out, color=colors, alpha=0.6)
more = 100 * (held_out[1] / held_out[0] - 1)
said = [f"{held_out[0]:.3f}", f"{held_out[1]:.3f}, {more:+.0f} %"]
axes[0].bar_label(bars, said, label_type="center", fontsize="small")
_ = axes[0].set(xlabel="held-out loss"), axes[0].invert_yaxis()
_ = plots.image_grid(drawn, ncols=8, ax=axes[1])

# %% [markdown]
# *Figure 3.15.* Your choice beside the network of section 3.7, both after 300 steps, and digits that your choice draws. Try a second one: is it better to have wide or deep networks, one level or two?
# <!-- alt: Two bars, the held-out losses of the larger and of the chosen network, and sixteen digits that the chosen one drew. -->
#
# *You can stop here*: section 3.17 sums up. The capstone starts alone.

# %% [markdown] tags=["sitting", "capstone"]
# ## 3.9 Capstone: your own U-Net
#
# *Capstone, 34 minutes.*
#
# You have the parts; now assemble them. The layers that change the resolution, and the time embedding with its table, are the course's.
#
# In a fresh kernel run the set-up cell and the next one, then your cells of exercises 3.3, 3.4, 3.6, 3.7 and 3.8 with their checks; otherwise the course's own parts are used.

# %% tags=["start", "folded"]
import math
from functools import partial

from torch import nn
from torch.nn import functional as F

from ddpm_lesson import GaussianDiffusion, checks, data, losses, plots
from ddpm_lesson import samplers, schedules, spacing, training
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.networks import unet
from ddpm_lesson.networks.blocks import DownSample, TimeEmbedding, UpSample  # for your UNet
from ddpm_lesson.predictions import epsilon, fixedsmall

torch.set_num_threads(1)
x_train, chain = data.digits("train").x_0, GaussianDiffusion(schedules.linear(1000)).to(device)
ResBlock, AttnBlock = checks.carried("ResBlock"), checks.carried("AttnBlock")
skip_channels = checks.carried("skip_channels")

# %% [markdown]
# **Exercise 3.10 (capstone, 30 minutes).** Write the U-Net. Its parts, by name:
#
# | name | what it is |
# |---|---|
# | `time_embedding` | `TimeEmbedding(T, ch, 4 * ch)`: t (B,) → temb (B, 4 ch) |
# | `head` | 3x3 convolution, `in_ch` → `ch` |
# | `downblocks` | `nn.ModuleList`: for each level its residual blocks, then `DownSample(channels)`, except after the last level |
# | `middleblocks` | two residual blocks, the first with attention |
# | `upblocks` | from the coarsest level up: for each `num_res_blocks + 1` residual blocks, then `UpSample(channels)`, except after level 0 |
# | `tail` | `nn.Sequential`: norm, Swish, 3x3 convolution to `in_ch` channels whose weight and bias start at 0 |
#
# A residual block at a level in `attn` gets `block.attn = AttnBlock(channels, num_groups)`. In `forward` every residual block is called with `temb`; on the way up it gets `torch.cat([h, skip], 1)`. Call `DownSample` and `UpSample` with `h` (a second argument is ignored). To tell the layers apart use `isinstance(layer, UpSample)`.
#
# Two tests wait: with CIFAR-10's arguments it must have 35,746,307 parameters, and with the weights of the course's `UNet` it must give the same output.
# <details><summary>Hint 1</summary>Write a small function block(c_in, c_out, attends) first. iter(skip_channels(ch, ch_mult, num_res_blocks)) gives the input channels on the way up, one by one.</details>
# <details><summary>Hint 2</summary>In forward: skips = [h] after the head; every layer of downblocks appends its output; every residual block of upblocks pops one.</details>

# %%
class UNet(nn.Module):
    """x (B, in_ch, H, W), t (B,) -> the noise, (B, in_ch, H, W)."""

    def __init__(self, T, ch, ch_mult, attn, num_res_blocks, dropout, in_ch=3, num_groups=32):
        # super().__init__()
        # self.time_embedding = TimeEmbedding(T, ch, 4 * ch)
        ...

    def forward(self, x, t):
        # temb = self.time_embedding(t)
        ...

# %%
UNet = checks.UNet(UNet)

# %% [markdown]
# The two tests once more, as you would use them: count, and load the course's weights.

# %%
with torch.device("meta"):
    cifar = UNet(1000, 128, [1, 2, 2, 2], [1], 2, 0.1)
print(f"{sum(p.numel() for p in cifar.parameters() if p.requires_grad):,}")
torch.manual_seed(0)
theirs = unet.UNet(1000, 16, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4)
yours = UNet(1000, 16, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4)
for parameter in theirs.parameters():
    parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape)  # nothing at 0
yours.load_state_dict(theirs.state_dict())
x, t = torch.randn(2, 1, 8, 8), torch.tensor([10, 500])
assert torch.allclose(yours(x, t), theirs(x, t), rtol=1e-3, atol=1e-3)

# %% [markdown]
# Now train it: 700 steps, half a minute to two minutes on a CPU. (`draw` is that of section 3.7, and `fit_longer` its `fit` without pictures on the way.)

# %% tags=["folded"]
short = chain.respaced(spacing.trailing(1000, 100))


def draw(net, n, seed=0):
    """n digits from noise, (n, 1, 8, 8), by ancestral sampling, as in notebook 2; see notebook 4."""
    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn(n, 1, 8, 8, generator=generator).to(device)
    x_0_hat = clipped(make_denoiser(net, chain, epsilon), chain)  # from the noise (1.7), cut to [-1, 1]
    p = samplers.reverse(short, x_0_hat, fixedsmall)  # it goes into the posterior (1.6)
    return samplers.last(samplers.ancestral(short, p, x_T, generator=generator)).cpu()

# %% tags=["folded"]
def fit_longer(net, steps):
    """Trains net; returns the averaged network and the loss of each step."""
    generator, history = torch.Generator().manual_seed(0), []
    batches = training.minibatches(x_train, batch_size=64, generator=generator)
    ema = training.EMA(net, 0.99)
    loss = partial(losses.simple_loss, chain, epsilon)  # your exercise 2.1
    options = {"lr": 4e-3, "warmup": 20, "ema": ema, "generator": generator}
    for step in training.train(net, chain, batches, loss, steps=steps, **options):
        history.append(step.loss)
    return ema.model, history

# %%
torch.manual_seed(0)
net, history = fit_longer(UNet(1000, 16, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4).to(device), 700)
fig, ax = plt.subplots(figsize=(8.3, 1.8), layout="constrained")
_ = plots.image_grid(draw(net, 48), ncols=16, ax=ax)

# %% [markdown]
# *Figure 3.16.* Forty-eight digits, drawn from noise by a U-Net that you wrote. (Until your class is right, the course's own draws them.) Some are unclear, as are some in the data; longer training helps: write 1500 instead of 700. (The returned network is the average of the weights, EMA, and is frozen: it cannot be trained further.)
# <!-- alt: Three rows of sixteen small digits, most of them readable. -->

# %% [markdown] tags=["deeper"]
# ## 3.10 Going deeper: down and up

# %% [markdown]
# Sections 3.10 to 3.16 need nothing from above but the set-up cell and the two that follow. Section 3.13 also needs the functions of 3.12 (`trained_for` and what stands above it).

# %% tags=["folded"]
import copy
import json
import math
import time
from functools import partial

from einops import rearrange
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ddpm_lesson import GaussianDiffusion, checks, data, load_pretrained
from ddpm_lesson import losses, plots, schedules, training
from ddpm_lesson.networks import blocks, unet
from ddpm_lesson.predictions import epsilon

# %%
process, x_train = GaussianDiffusion(schedules.linear(1000)), data.digits("train").x_0
with torch.device("meta"):
    cifar = unet.UNet(1000, 128, [1, 2, 2, 2], attn=[1], num_res_blocks=2, dropout=0.1)
    x_meta, t_meta = torch.empty(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)


def with_gain_1(net):
    """The last layer of each branch, and of the network, gets weights of ordinary size, not nearly 0."""
    for block in net.modules():
        if isinstance(block, blocks.ResBlock):
            nn.init.xavier_uniform_(block.block2[-1].weight)
        if isinstance(block, blocks.AttnBlock):
            nn.init.xavier_uniform_(block.proj.weight)
    nn.init.xavier_uniform_(net.tail[-1].weight)

# %% [markdown]
# *Question.* Half the side, and twice the side: there are many ways. Do they differ?
#
# **Up.** DDPM repeats every pixel four times and puts a 3x3 convolution after it. The usual alternative, a transposed convolution with stride 2, spreads every coarse pixel over a 3x3 window of fine ones, and the windows overlap unevenly: a fine pixel gets contributions from 1, 2 or 4 coarse ones. Feed both a constant image and constant weights:

# %%
flat, weight = torch.ones(1, 1, 6, 6), torch.ones(1, 1, 3, 3) / 9
transposed = F.conv_transpose2d(flat, weight * 4, stride=2, padding=1, output_padding=1)
repeated = F.conv2d(F.interpolate(flat, scale_factor=2.0), weight, padding=1)

# %%
ways = {"transposed convolution": transposed, "repeat, then convolve": repeated}
inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
levels = (transposed[inside] * 9 / 4).round().unique().tolist()
print("transposed: a fine pixel gets", [int(n) for n in levels], "contributions;",
      "repeated: distinct values inside:",
      repeated[inside].unique().numel())

# %%
fig, axes = plt.subplots(1, 2, figsize=(6, 2.8), layout="constrained")
for ax, (name, image) in zip(axes, ways.items(), strict=True):
    picture = ax.imshow(image[0, 0], cmap="cividis", vmin=0, vmax=1.8)
    _ = ax.set_title(name), ax.axis("off")
_ = fig.colorbar(picture, ax=axes)

# %% [markdown]
# *Figure 3.17.* A constant image, enlarged with constant weights. Left: a chequerboard. Weights can learn to compensate, but every training starts from it, and traces of it are found in published images (Odena and others 2016). Right: constant, except for the border, where the padding's zeros come in.
# <!-- alt: Left a chequerboard of bright and dark pixels, right one even colour with a darker border. -->
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
row = F.conv2d(ramp, weight, stride=2)[0, 0, 0]
print("no padding on the left:", [round(c, 2) for c in row.tolist()])

# %% [markdown]
# So weights trained with one padding look at an image that is moved by a whole pixel in the other, and at every further level the error is twice as large in pixels of the image.
#
# **Exercise 3.11 (one star, 5 minutes).** Write the 3x3 convolution with stride 2 and TensorFlow's "same" padding, without a bias: `x` (B, C, H, W) with even sides, `weight` (C', C, 3, 3).
# <details><summary>Hint 1</summary>Pad first, then F.conv2d with stride 2 and no padding.</details>
# <details><summary>Hint 2</summary>F.pad counts axes from the last one: (left, right, top, bottom).</details>

# %%
def down_same(x, weight):
    ...

# %%
down_same = checks.down_same(down_same)

# %% [markdown]
# **What goes wrong: a checkpoint in the wrong convention.** Two more details differ between DDPM's code and the post: this padding, and the small number in the norm's root ($10^{-6}$ there, $10^{-5}$ here). How much does each matter? The same random weights with both paddings, twenty times, on noisy 8x8 digits and on smooth digits of 32x32 pixels; and the same norm with both numbers.

# %%
torch.manual_seed(0)
t, noise = torch.full((20,), 90), torch.randn(20, 1, 8, 8)
sets = {"noisy, 8x8": process.q_sample(x_train[:20], t, noise)}
sets["smooth, 32x32"] = F.interpolate(x_train[:20], scale_factor=4, mode="bicubic")
for name, images in sets.items():
    off = []
    for image in images:
        theirs, ours = blocks.DownSample(1, same_padding=True), blocks.DownSample(1)
        ours.load_state_dict(theirs.state_dict())
        right = theirs(image[None])
        off.append(((right - ours(image[None])).norm() / right.norm()).item())
    span = f"{min(off):.1f} to {max(off):.1f} times the output, {sum(off) / 20:.1f} on average"
    print(f"{name}: differ by {span}")

# %%
for std in (1.0, 0.01):
    h = std * torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small_eps, large_eps = (F.group_norm(h, 8, eps=eps) for eps in (1e-6, 1e-5))
    off = (small_eps - large_eps).norm() / small_eps.norm()
    print(f"features of size {std}: the norm's output differs by {off:.1e}")

# %% [markdown]
# (Two unrelated outputs of equal size would differ by $\sqrt2 = 1.4$ times it.) So the padding is no detail: one layer with random weights is changed about as much as if it were another layer on noisy images, and by 0.6 of its output on smooth ones. The number in the norm matters only for very small features. What both do to a whole trained checkpoint is not measured here. `UNet(..., same_padding=True, norm_eps=1e-6, official_embedding=True)` has all three of DDPM's conventions, and `ddpm_lesson.interop` sets them when it loads such weights.

# %% [markdown] tags=["deeper"]
# ## 3.11 Going deeper: how far it sees, how many parameters it has, what it costs

# %% [markdown]
# **How far does it see?** The receptive field of a feature is the part of the image that it depends on. Ask the gradient: which pixels of the input have one that is not 0? Norms and attention look at everything, so take them out; and set all weights to one positive number, so that nothing cancels. A long strip instead of a square saves time.

# %%
bare = unet.UNet(1000, 4, [1, 2, 2, 2], [], 2, 0.0, in_ch=1, num_groups=2).double()
for module in list(bare.modules()):
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm | blocks.Swish | blocks.AttnBlock):
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
    level += isinstance(block, blocks.DownSample)
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
# By hand: a 3x3 convolution adds one pixel on either side, in steps of its own resolution.
#
# | part | step in pixels of the image | adds | sees |
# |---|---|---|---|
# | first convolution | 1 | 3 pixels | 3 |
# | four convolutions of level 0 | 1 | $4\cdot 2$ | 11 |
# | `DownSample` | 1 | 2 | 13 |
# | four convolutions of level 1 | 2 | $4\cdot 4$ | 29 |
#
# From level 2 on a feature can see all of a 32x32 image. That is what the levels are for.
#
# **How many parameters?** Count the trainable parameters of each part:

# %%
def trainable(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

# %%
for name, part in cifar.named_children():
    print(f"{name:15} {trainable(part):>10,}")
print(f"{'all':15} {trainable(cifar):>10,}")
assert [*map(trainable, cifar.children())] == [328_704, 3_584, 10_190_720, 2_888_704, 22_330_880, 3_715]
assert trainable(cifar) == 35_746_307

# %% [markdown]
# The paper says 35.7 million: that is it. **What goes wrong: a size that does not fit.** The repository behind the post prints 34.21 M for the same network. Two things differ: it counts the time table, which is never trained, and it divides by $2^{20}$ and not by a million:

# %%
everything = sum(p.numel() for p in cifar.parameters())
print(f"with the table: {everything:,} = 35,746,307 + {1000 * 128:,}")
print(f"divided by 2^20: {everything / 2**20:.2f}")

# %% [markdown]
# **Exercise 3.12 (two stars, 6 minutes).** Count without building: the trainable parameters of a residual block without attention, from `in_ch`, `out_ch` and `tdim`, as an int. Weights *and* biases, of two norms, two 3x3 convolutions, the time's linear layer, and the 1x1 shortcut if there is one.
# <details><summary>Hint 1</summary>Figure 3.7 shows the layers. A norm has a scale and an offset for each of its channels; the first one has in_ch of them.</details>
# <details><summary>Hint 2</summary>A 3x3 convolution from a to b channels has 9ab + b. The shortcut exists only if in_ch != out_ch.</details>

# %%
def res_block_parameters(in_ch, out_ch, tdim):
    ...

# %%
res_block_parameters = checks.res_block_parameters(res_block_parameters)

# %% [markdown]
# **What does it cost?** Count a multiplication and an addition as two operations. A convolution that returns $C'$ channels of $H\times W$ pixels from $C$ channels with $k\times k$ weights needs $2\,C' H W\,C\,k^2$, a linear layer $2\,C'C$ for each image, attention $4\,(HW)^2\,C$ (once for $q\cdot k$, once for the average). PyTorch has a counter of its own. Do both agree?

# %%
costs, held = [], []


def count(layer, args, out):
    fan_in = layer.weight[0].numel()  # C k^2, or C
    costs.append((type(layer).__name__, out.shape[-1] if out.ndim == 4 else 0, 2 * out.numel() * fan_in))


def hold(part, args, out):
    held.append((out.shape[-1], trainable(part)))

# %%
counted = [layer for layer in cifar.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
hooks = [layer.register_forward_hook(count) for layer in counted]
parts = [cifar.head, *cifar.downblocks, *cifar.middleblocks, *cifar.upblocks, cifar.tail]
hooks += [part.register_forward_hook(hold) for part in parts]
with FlopCounterMode(display=False) as counter:
    _ = cifar(x_meta, t_meta)
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
# > <details><summary>Then look</summary>The weights sit where there are many channels: 16x16, 8x8 and 4x4 hold nearly all. The operations are done where there are many pixels: at 32x32 every weight is used 1024 times, at 4x4 only 16 times. The two finest resolutions together take about 88 %. (The share of 32x32 includes the convolution of the <code>UpSample</code> that leads there, with 256 channels.)</details>

# %%
sides = (32, 16, 8, 4)
weights = [sum(n for side, n in held if side == at) for at in sides]
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
# *Figure 3.18.* Where the weights are and where the work is, by the resolution of what a layer returns: all convolutions, with the blocks' norms and linear layers among the parameters, and with attention among the operations; the time embedding is left out. Low resolutions are cheap places for many weights: the second reason for the U.
# <!-- alt: Bars for four resolutions. 32x32 and 16x16 have most of the operations, 16x16 and below nearly all parameters. -->

# %% [markdown] tags=["deeper"]
# ## 3.12 Going deeper: how it starts

# %% [markdown]
# *Question.* Before the first step of training a network answers something. What should it be?
#
# *Derive.* A layer $y = Wx$ with $n$ inputs of mean 0 and variance $v$ and independent weights of mean 0 and variance $s^2$ gives outputs of variance $n s^2 v$: each is a sum of $n$ products, every product has mean 0 and variance $s^2 v$, and since the weights are independent these variances add. To keep the variance going forward one wants $s^2 = 1/n_\text{in}$, to keep the gradient's going backward $s^2 = 1/n_\text{out}$. (In a $k\times k$ convolution an output has $n_\text{in} = C k^2$ inputs, and an input goes to $n_\text{out} = C' k^2$ outputs.) Xavier initialisation (Glorot and Bengio 2010) takes the compromise, times a *gain*: a factor on the standard deviation of the weights, 1 for an ordinary layer, nearly 0 for one that should start near zero:
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
# For most layers the gain is 1. For the *last* layer of every residual branch and of the network DDPM's code asks for 0; instead of 0, its initialiser multiplies the *variance* by $10^{-10}$. The post writes a gain of $10^{-5}$, a factor on the *standard deviation*: the same. guided-diffusion takes exact zeros (here `zero_init=True`). Two things follow.
#
# - **Every block starts as its shortcut.** A sum $x + f(x)$ with $f$ as large as $x$ would double the variance; with $f = 0$ sizes stay as they are, of features going forward and of gradients going backward.
# - **The network starts as the function 0.** Among the guesses that do not look at the image 0 is the best one for the noise, since $\mathbb E[\epsilon] = 0$. So the loss starts at $\mathbb E\,\epsilon^2 = 1$, and not somewhere above.
#
# Does a layer of zeros learn? Its own gradient is the product of what comes in and what comes back. For the *network's* last layer neither is 0, so it learns at once. What comes back to any other layer has passed this last one, and is 0 as long as that is. So the gradient spreads from the end:
#
# > **Predict.** A network with exact zeros. How many of its 140 trained tensors have a gradient in the first step, in the second, in the third?
# > <details><summary>Then look</summary>First 2: weight and bias of the last convolution. Then 44: the last layers of all branches, and what lies on the shortcuts' way through the network. Then all: the layers inside of the branches had to wait for the branches' last ones.</details>
#
# (The biases of the keys are not counted. They shift all scores of a query alike, the softmax ignores that, and their gradient is 0 except for rounding.)

# %%
torch.manual_seed(0)
net = unet.UNet(1000, 16, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4, zero_init=True)
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
# *Measure* the sizes of features inside of two networks: one whose last layers start near 0, and one with gain 1 everywhere:

# %%
def sizes_inside(net):
    """Root mean square of what each block returns, first to last, for pure noise."""
    sizes = []
    parts = [net.head, *net.downblocks, *net.middleblocks, *net.upblocks, net.tail]
    def note(_, __, out):
        sizes.append(out.square().mean().sqrt().item())

    hooks = [part.register_forward_hook(note) for part in parts]
    with torch.no_grad():
        net(torch.randn(8, 1, 8, 8), torch.randint(1000, (8,)))
    for hook in hooks:
        hook.remove()
    return sizes

# %%
torch.manual_seed(0)
near_0 = unet.UNet(1000, 32, [1, 2, 2], [1], 2, 0.0, in_ch=1, num_groups=8)
gain_1 = copy.deepcopy(near_0)
with_gain_1(gain_1)
inside = {"last layers at 0": sizes_inside(near_0), "gain 1 everywhere": sizes_inside(gain_1)}

# %%
fig, ax = plt.subplots(figsize=(8, 3))
for i, (name, sizes) in enumerate(inside.items()):
    ax.plot(sizes, "os"[i] + plots.LINE_STYLES[i], color=plots.COLOURS[i], ms=4, label=name)
down, middle, up = (len(part) for part in (near_0.downblocks, near_0.middleblocks, near_0.upblocks))
starts = {"down": 1, "middle": 1 + down, "up": 1 + down + middle, "tail": 1 + down + middle + up}
for name, first in starts.items():
    ax.axvline(first - 0.5, color="0.8", linewidth=1)
    ax.text(first - 0.3, 2.15, name, fontsize="small", color="0.4")
_ = ax.set(xlabel="block, from first to last", ylabel="root mean square", ylim=(-0.05, 2.4))
_ = ax.legend(loc="upper left", bbox_to_anchor=(0.05, 0.85))

# %% [markdown]
# *Figure 3.19.* How large features are on their way through an untrained network. The last point is the answer. At gain 1 everywhere they grow from 0.24 to 2.01 (the first convolution has 9 inputs and 288 outputs, so it multiplies the size by $\sqrt{9\cdot 2/(9+288)} = 0.246$), with a dip at every `DownSample` and `UpSample`, and fall a little in the last blocks, where the small features of the finest level come off the stack. With last layers at 0 (here with the post's gain of $10^{-5}$) they stay between 0.15 and 0.31, and the answer is nearly 0. In numbers:
# <!-- alt: Two curves of the size of features by block. The one with gain 1 rises to 2, the other stays near 0.2 and ends near 0. -->

# %%
for name, (*sizes, answer) in inside.items():
    print(f"{name}: from {min(sizes):.2f} to {max(sizes):.2f}, answer {answer:.1g}")

# %%
x, noise, t = torch.randn(64, 1, 8, 8), torch.randn(64, 1, 8, 8), torch.randint(1000, (64,))
with torch.no_grad():
    of_0, of_1 = ((net(x, t) - noise).square().mean() for net in (near_0, gain_1))
losses_0 = f"last layers near 0: {of_0:.2f}, gain 1: {of_1:.1f}"
print(f"loss at the start, {losses_0}; of the answer 0: {noise.square().mean():.2f}")

# %% [markdown]
# **What goes wrong: an initialisation that is overwritten.** *The post*'s attention block gives its last layer the gain $10^{-5}$. But the residual block around it, when it is built, walks over *all* its modules and gives every convolution the gain 1, the attention's last one too; only its own last layer is then set back. The order of two lines decides:

# %%
torch.manual_seed(0)
block = blocks.ResBlock(128, 128, 512, 0.0, attn=True)
x = torch.randn(4, 128, 16, 16)


def start(block):
    with torch.no_grad():
        residual = (block.attn(x) - x).square().mean().sqrt().item()
    return block.attn.proj.weight.std().item(), residual

# %%
intended = start(block)
for module in block.modules():  # what the post's blocks.ResBlock does
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
nn.init.xavier_uniform_(block.block2[-1].weight, gain=1e-5)
post = start(block)

# %%
both = ("as intended, gain 1e-5", intended, 1e-5), ("the post, gain 1", post, 1.0)
for name, (std, residual), gain in both:
    of_residual = f"of the residual {residual:.1e} = {residual / gain:.2f} gain"
    print(f"{name}: size of the last weights {std:.1e}, {of_residual}")

# %% [markdown]
# (3.8) with $n = 128$ on both sides gives $\sqrt{2/256} = 1/\sqrt{128} = 0.088$, times $10^{-5}$ or not. Why is the residual at gain 1 not as large as the input, which has size 1? It is an average over 256 pixels. With scores $f$ of variance 1 the weights are $e^f/\sum e^f$, and their squares add up to about $\mathbb E[e^{2f}]/(256\,\mathbb E[e^f]^2) = e/256$: an average of unrelated values keeps $\sqrt{e/256}$ of their size. The values are not quite unrelated, for key and value of a pixel come from the same features $h_j$ of size 1. The weights favour pixels with large $q_i\cdot k_j/\sqrt{128}$; to first order in the scores the average gains the mean of $v_j\,(q_i\cdot k_j)/\sqrt{128}$ over $j$, which is $W_vW_k^\top q_i/\sqrt{128}$: a vector whose entries have size $1/\sqrt{128}$. Both together:

# %%
one, other = math.e / 256, 1 / 128  # variances
print(f"{math.sqrt(one):.2f} and {math.sqrt(other):.2f}, together {math.sqrt(one + other):.2f}")

# %% [markdown]
# That is what we measured, up to the approximation. The package initialises the residual block's own layers first and builds the attention after that.
#
# Does it matter? Train and see. The experiment uses the small network on the 1415 training digits, 100 steps of 32 images, and three seeds. The same seed means the same digits, the same $t$ and the same noise for both variants, so that their losses can be compared step by step.

# %%
options = {"ch": 16, "ch_mult": [1, 2], "attn": [1], "num_res_blocks": 1, "dropout": 0.0}
small_net = partial(unet.UNet, T=1000, in_ch=1, num_groups=4, **options)
loss = partial(losses.simple_loss, process, epsilon)

# %%
def trained_for(steps, seed, change=lambda net: None):
    """A network that `change` has altered, after training, and its loss in each step."""
    torch.manual_seed(seed)
    net = small_net()
    change(net)
    generator = torch.Generator().manual_seed(seed)
    batches = training.minibatches(x_train, batch_size=32, generator=generator)
    options = {"lr": 4e-3, "warmup": 10, "generator": generator}
    run = training.train(net, process, batches, loss, steps=steps, **options)
    return net, [step.loss for step in run]


def overwrite(net):
    """What the post does to the last layer of every attention inside of a residual block."""
    for block in net.modules():
        if isinstance(block, blocks.AttnBlock):
            nn.init.xavier_uniform_(block.proj.weight)

# %%
nets, curves = {}, {}
for name, change in (("as intended", lambda net: None), ("attention overwritten", overwrite)):
    nets[name], histories = zip(*[trained_for(100, seed, change) for seed in range(3)], strict=True)
    curves[name] = torch.tensor(histories)

# %%
later = curves["attention overwritten"] - curves["as intended"]
later = later.unfold(1, 5, 1).mean(2)  # means of 5 steps
fig, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
ax.plot(range(5, 101), later.mean(0), color=plots.BLUE)
ax.fill_between(range(5, 101), later.amin(0), later.amax(0), color=plots.BLUE, alpha=0.2, linewidth=0)
ax.axhline(0, color="0.3", linewidth=1)
_ = ax.set(xlabel="training step", ylabel="loss, overwritten minus intended")
assert (curves["attention overwritten"][:, 5:20].mean(1) > curves["as intended"][:, 5:20].mean(1)).all()

# %% [markdown]
# *Figure 3.20.* By how much the loss of the network with the overwritten initialisation is larger, in the first 100 steps: mean and range of three seeds, same batches, mean of 5 steps. It falls behind in the first 20 steps, for every seed, and then catches up for the most part. (A step is small at first: the learning rate rises over the first ten.)
# <!-- alt: A curve that rises high above zero in the first twenty steps and then falls to a little above zero. -->
#
# So this mistake costs a slower start, and a little of it remains after 100 steps (the next section has the numbers). Longer trainings were not measured. It is worth repairing in any case: code should do what it says.

# %% [markdown] tags=["deeper"]
# ## 3.13 Going deeper: what 60 steps show, and what they do not

# %% [markdown]
# Section 3.8 shows several lengths of training on purpose. After 60 steps an ablation measures *how fast a network learns*, not what it will be worth. Here are 20 seeds of such short trainings, written by `data/records/unet_ablations.py` (last weights, no averages, so the numbers differ from those of section 3.8):

# %%
short_record = json.loads(data.bundled("records/unet_ablations.json").read_text())
for name, found in short_record["change"].items():
    error = found["std_change"] / math.sqrt(found["seeds"])
    print(f"{name:22} after {found['steps']:3} steps: change of the loss {found['mean_change']:+6.1%}",
          f"± {error:.1%}, worse in {found['seeds_worse']:2} of {found['seeds']} seeds")

# %% [markdown]
# After ± comes the standard error of the mean of 20 seeds. Clear effects: no skips, no start at 0, no time, attention overwritten. Why the skips? Not because there is no room: the 4x4 level has 32 channels, 512 numbers for 64 pixels. But without skips $x_t$ has to be coded into it and decoded again, and we think that this takes long to learn: after 800 steps the difference is still 19 %, after 2000 steps 10 % and 19 % (section 3.8).
#
# Two are of another kind (AdaGN: section 3.14): no attention is hardly more than one standard error from 0, *no measurable difference*; AdaGN is two and a half, and its sign differs between seeds. No measurable difference does not mean that attention is useless. Before this network attends, it reaches 8 pixels to every side, all of an 8x8 image:
#
# | part | step in pixels of the image | adds to every side | reaches |
# |---|---|---|---|
# | first convolution | 1 | 1 | 1 |
# | two convolutions of the finer block | 1 | $2\cdot 1$ | 3 |
# | `DownSample` | 1 | 1 | 4 |
# | two convolutions of the coarser block | 2 | $2\cdot 2$ | 8 |
#
# At 32x32 things are different, and guided-diffusion's measurements (section 3.14) show it. Small experiments find large effects. For small ones you need many seeds, or large networks, long trainings and a measure of samples.
#
# *Where* does the time matter? Split the held-out loss by t, here for networks after 60 steps:

# %%
x_test = data.digits("test").x_0
shuffled_382 = torch.randperm(382, generator=torch.Generator().manual_seed(0))
t_test = torch.linspace(0, 999, 382).long()[shuffled_382]
noise_test = torch.randn(x_test.shape, generator=torch.Generator().manual_seed(1))
x_t_test = process.q_sample(x_test, t_test, noise_test)


def exam(net):
    """Squared error of the noise on each held-out digit, (382,)."""
    with torch.no_grad():
        return (net(x_t_test, t_test) - noise_test).square().mean((1, 2, 3))

# %%
def hide_time(net):
    """Whatever t is given, the network is told 0."""
    net.register_forward_pre_hook(lambda _, args: (args[0], torch.zeros_like(args[1])))


def zero_skip(channels, block, args):
    h, temb = args
    return torch.cat([h[:, :channels], torch.zeros_like(h[:, channels:])], 1), temb

# %%
def cut_skips(net):
    """The half that comes off the stack is 0 in every block on the way up."""
    channels = net.middleblocks[-1].block2[-1].out_channels
    for block in net.upblocks:
        if isinstance(block, blocks.ResBlock):
            block.register_forward_pre_hook(partial(zero_skip, channels))
            channels = block.block2[-1].out_channels

# %%
changes, marks = {"full": lambda net: None, "no time": hide_time, "no skips": cut_skips}, {}
for name, change in changes.items():
    marks[name] = torch.stack([exam(trained_for(60, seed, change)[0]) for seed in range(3)])

# %%
edges = [0, 30, 60, 100, 150, 220, 300, 400, 550, 700, 850, 1000]
parts_of_t = [(t_test >= a) & (t_test < b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
centres = [(a + b) / 2 for a, b in zip(edges[:-1], edges[1:], strict=True)]
colours = {"full": "0.3", "no time": plots.GREEN, "no skips": plots.PURPLE}
fig, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
for i, (name, mark) in enumerate(marks.items()):
    by_t = torch.stack([mark[:, part].mean(1) for part in parts_of_t], 1)
    ax.semilogy(centres, by_t.mean(0), plots.LINE_STYLES[i], color=colours[name], label=name)
    ax.fill_between(centres, by_t.amin(0), by_t.amax(0), color=colours[name], alpha=0.2, linewidth=0)
_ = ax.set(xlabel="t", ylabel="held-out loss"), ax.legend()

# %% [markdown]
# *Figure 3.21.* Held-out loss for each t after 60 steps, mean and range of three seeds. Without the time the loss grows by the largest factor where t is large: there the image hardly tells its level (figure 3.4), and the network has to compromise between levels that need different answers. Without skips it is larger at every t, and above all where the right answer is nearly $x_t$ itself, which a skip hands through.
# <!-- alt: Three curves that fall with t. No time lies above full at large t, no skips lies above both at every t. -->

# %%
gap = marks["no time"] - marks["full"]
share = gap[:, t_test < 500].sum(1) / gap.sum(1)
near_0 = marks["full"][:, t_test < 30].mean()
assert (share > 0.5).all() and abs(near_0 - 1) < 0.1

# %% [markdown]
# A factor and a difference say different things: the largest factor lies at large t, but the loss is small there, and after 60 steps more than half of what is lost in the mean over all t is lost below t = 500 (for every seed). And at t below 30 the full network is hardly better than the answer 0, whose loss is 1: in 60 steps it has not learned to see so little noise.

# %% [markdown] tags=["deeper"]
# ## 3.14 Going deeper: what guided-diffusion changed

# %% [markdown]
# *Question.* A year after DDPM, Dhariwal and Nichol (2021; their networks are called ADM, their code guided-diffusion) asked the same question at scale, on ImageNet at 128x128. What did they change?
#
# | change | what it is | here | what they measured (FID, section 2.8; lower is better) |
# |---|---|---|---|
# | more heads | attention in several independent parts of the channels, each with its own softmax | `num_heads=4` | 15.33 → 14.79 with four heads |
# | attention at more levels | at 32x32, 16x16 and 8x8, not at 16x16 alone | `attn=[...]` | 15.33 → 14.61 |
# | BigGAN blocks (BigGAN: a large GAN for ImageNet) | down and up inside of a residual block, shortcut included | `biggan=True` | 15.33 → 14.13 |
# | all three | | | 15.33 → 12.19 |
# | AdaGN | the time (and the class, if there is one) sets a *scale and a shift* after the second norm | `scale_shift_norm=True` | 15.08 (addition) → 13.06 |
#
# (Tables 1 and 3, all after 700 000 steps. Rows 1 to 4: 160 channels, AdaGN already in. Last row: 128 channels with attention at three levels, 64 channels per head and BigGAN blocks; another base, so its numbers do not go on from the row above. Also tried, and not kept: more depth, −0.21 but slow; residuals times $1/\sqrt2$, +0.16.) How many channels should a head have? Table 2: 14.08 with one head, 13.05 with 64 channels a head, 12.72 with 32. They kept 64, which trains faster. guided-diffusion also predicts the variance (notebook 5).
#
# **AdaGN** is the one to understand. Addition (3.5) puts the time *before* a norm, which takes a part of it away again (figure 3.9); AdaGN puts it *after* the norm:
# $$\begin{aligned} \operatorname{AdaGN}(h, \tau) &= (1+\tau_s)\,\operatorname{norm}_2(h)+\tau_b, \\ [\tau_s,\ \tau_b] &= W\operatorname{swish}(\tau)+b . \end{aligned} \tag{3.9: ADM Section 3.1}$$
# (The "1 +" and the Swish are in the code, not in the paper's formula: with the 1 the block starts near a plain norm.) Nothing is subtracted any more, so the trap of section 3.4 is gone. The same measurement, with 32 groups of one channel:

# %%
torch.manual_seed(0)
block = blocks.ResBlock(32, 32, 128, 0.0, num_groups=32, scale_shift_norm=True)
nn.init.xavier_uniform_(block.block2[-1].weight)
embedding = blocks.TimeEmbedding(1000, 32, 128)
out = block(torch.randn(1, 32, 8, 8).expand(2, -1, -1, -1), embedding(torch.tensor([0, 900])))
print(f"AdaGN, single-channel groups: output changes by {(out[0] - out[1]).square().mean().sqrt():.2f}")

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
two = blocks.AttnBlock(16, num_groups=4, num_heads=2)
nn.init.xavier_uniform_(two.proj.weight)
h = torch.randn(2, 16, 4, 4)
normed = two.group_norm(h)
q, k, v = (rearrange(W(normed), "b c h w -> b (h w) c") for W in (two.proj_q, two.proj_k, two.proj_v))

# %%
parts = slice(0, 8), slice(8, 16)
halves = [F.scaled_dot_product_attention(q[..., s], k[..., s], v[..., s]) for s in parts]
joined = rearrange(torch.cat(halves, 2), "b (h w) c -> b c h w", h=4)
assert torch.allclose(h + two.proj(joined), two(h), atol=1e-5)

# %% [markdown]
# On ImageNet AdaGN was worth two points of FID. On 8x8 digits, after 60 steps, it is hardly to be seen (section 3.13). (Its layer for the time is twice as wide, so the same seed draws other initial weights: this pair is not matched as closely as the others.)

# %% [markdown] tags=["deeper"]
# ## 3.15 Going deeper: how to make it fast

# %% [markdown]
# *Question.* Training calls the network a hundred thousand times, sampling a thousand times for each batch. What makes a call faster? Measure on *your* machine; the numbers below are those of the machine that built this page. On another machine, or a busy one, the order can be another: read your own numbers. What is worth trying:
#
# - **Memory format.** `channels_last` keeps the channels of a pixel side by side, which many convolution routines prefer.
# - **Batch.** A call has a fixed overhead; many images share it.
# - **No gradients.** Sampling needs none: `torch.no_grad()` saves the time and the memory for keeping intermediate results.
# - **Threads.** More of them can help large layers and hurt small ones, above all on a busy machine. This notebook uses one; try `torch.set_num_threads(2)` before the cell.
# - **Compiling.** `torch.compile(net)` fuses small operations. The first call takes a minute or so, and it needs a compiler, so it is off here; set `COMPILE = True` and run the cell again.
# - **Several GPUs.** `torchrun` starts one process for each GPU. Each computes the gradient of its own part of the batch, and the gradients are averaged before the step (PyTorch's `DistributedDataParallel`; Li and others 2020, arXiv 2006.15704). improved-diffusion and lucidrains' repository train like that, and so does this course's command: `torchrun --nproc-per-node=4 -m ddpm_lesson train ...` (`docs/scale.md`).

# %%
def call(net, batch, *, grad=True, memory=torch.channels_last):
    x = torch.randn(batch, 1, 28, 28).to(memory_format=memory)
    with torch.set_grad_enabled(grad):
        out = net(x, torch.randint(1000, (batch,)))
    if grad:
        out.sum().backward()

# %%
COMPILE = False
net = unet.UNet(1000, 32, [1, 2, 2], [1], 1, 0.0, in_ch=1, num_groups=8)
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
# Whatever the speed, the answer must stay the same: `channels_last` or not, one by one or in a batch.

# %%
with_gain_1(net)
last.load_state_dict(net.state_dict())
x, t = torch.randn(4, 1, 28, 28), torch.randint(1000, (4,))
with torch.no_grad():
    plain, fast = net(x, t), last(x.to(memory_format=torch.channels_last), t)
    one_by_one = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(4)])
assert torch.allclose(plain, fast, atol=1e-4) and torch.allclose(plain, one_by_one, atol=1e-4)

# %% [markdown] tags=["deeper"]
# ## 3.16 Going deeper: what else goes wrong

# %% [markdown]
# **Sides that cannot be halved.** With four levels the side is halved three times. 28, the side of MNIST, gives 14, 7 and then: 4. On the way back 4 becomes 8, and a skip of side 7 is waiting. In the post this ends in PyTorch's error about `torch.cat`, from deep inside:

# %%
h = torch.randn(1, 32, 7, 7)
low = blocks.DownSample(32)(h)
print("7 goes down to", low.shape[2], "and comes up as", blocks.UpSample(32)(low).shape[2])
for sides in ((28, 28), (30, 30), (33, 33), (32, 48)):
    try:
        image, step = torch.empty(1, 3, *sides, device="meta"), torch.zeros(1, dtype=torch.int64)
        print(sides, "->", tuple(cifar(image, step).shape))
    except ValueError as error:
        print("ValueError:", error)

# %% [markdown]
# The sides need not be equal, but each must be a multiple of $2^{\text{levels}-1}$. For 28 take three levels, or pad to 32.
#
# **Three channels, hard-coded.** The post's first and last convolutions have 3 channels, so grey images fail. Here they are an option, and a mismatch says so:

# %%
grey = unet.UNet(1000, 16, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4)
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
# Harder to notice is training with $t$ and sampling with $t+1$. No error is raised, except at $t = T$. What does it cost? The course's trained network, on digits it has not seen:

# %%
known, digits = load_pretrained("digits_ddpm"), data.digits("test").x_0
noise = torch.randn(digits.shape, generator=torch.Generator().manual_seed(1))
for step in (0, 1, 5, 60, 300):
    t = torch.full((len(digits),), step)
    x_t = known.process.q_sample(digits, t, noise)
    with torch.no_grad():
        eps = (known.model(x_t, t + wrong)[:, :1] for wrong in (0, 1))
        right, late = ((each - noise).square().mean().item() for each in eps)
    assert abs(late / right - 1) < 0.01
    print(f"t = {step:3}: squared error {right:.2f}, told t + 1 {late:.2f}")

# %% [markdown]
# It costs less than 1 % everywhere, even at t = 0, where one step makes the noise 1.5 times as large: the image itself tells the level. So the loss will not show you this mistake. The size of the noise in the first two steps:

# %%
print("at t = 0 and t = 1:", [round(v, 3) for v in known.process.sqrt_one_minus_alphas_bar[:2].tolist()])

# %% [markdown]
# **Channels that cannot be grouped.** GroupNorm's groups must come out even; with the post's 32 groups every level needs a multiple of 32 channels:

# %%
try:
    unet.UNet(1000, 48, [1, 2], [], 1, 0.0)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## 3.17 What you now have
#
# One network serves all noise levels, because it is told the level; sines and cosines make of t a vector that is similar for neighbours. A residual block learns a change and lets the rest pass; the time is added to its channels. Attention lets every pixel ask all others; down, up and skips combine a wide view with fine detail. A plain stack of your blocks drew digits, and so did the U-Net with your blocks in it; in the capstone you assemble the whole. And you saw that an ablation depends on how long one trains, and on what one looks at.
#
# **Next**: notebook 4 takes a trained network and walks the chain backwards: samplers, and how few steps they need.

# %% [markdown] tags=["deeper"]
# ### Going deeper: read on

# %% [markdown]
# Ho, Jain and Abbeel 2020 (arXiv 2006.11239), Appendix B: half a page, and you can now read every word of it. Dhariwal and Nichol 2021 (arXiv 2105.05233), section 3, with the ablations quoted above. Ronneberger and others 2015 (arXiv 1505.04597) for the U-Net, Zagoruyko and Komodakis 2016 (arXiv 1605.07146) for the residual blocks, Wu and He 2018 (arXiv 1803.08494) for GroupNorm, Vaswani and others 2017 (arXiv 1706.03762) for attention and sines. Odena and others 2016, *Deconvolution and Checkerboard Artifacts*, has pictures to play with. Sun and others 2025, *Is Noise Conditioning Necessary for Denoising Generative Models?* (arXiv 2502.13129), asks the question of section 3.1 at scale. Peebles and Xie 2023 (arXiv 2212.09748) replace the U-Net by a transformer, and there positions do have to be encoded.

# %% [markdown] tags=["deeper"]
# ### Going deeper: equation by equation

# %% [markdown]
# Every name in the table can be imported, and in a checkout every test can be run. Your own functions, checked above, compute the same.

# %% [markdown] tags=["equations"]
# | | equation | function, and the test that checks it |
# |---|:--|:--|
# | 3.1 | best answer of a network that is not told $t$ | <samp>oracle.<wbr>Mixture</samp><br><samp>test_<wbr>oracle.<wbr>py test_<wbr>best_<wbr>answer_<wbr>without_<wbr>t_<wbr>averages_<wbr>the_<wbr>answers_<wbr>of_<wbr>all_<wbr>t</samp> |
# | 3.2 | sines and cosines of $t$, the time embedding (Vaswani Section 3.5) | <samp>networks.<wbr>blocks.<wbr>TimeEmbedding</samp><br><samp>test_<wbr>networks.<wbr>py test_<wbr>time_<wbr>table_<wbr>alternates_<wbr>sine_<wbr>and_<wbr>cosine</samp> |
# | 3.3 | inner products of its rows depend on the distance alone | <samp>networks.<wbr>blocks.<wbr>TimeEmbedding</samp><br><samp>test_<wbr>networks.<wbr>py test_<wbr>inner_<wbr>products_<wbr>of_<wbr>the_<wbr>time_<wbr>table_<wbr>depend_<wbr>on_<wbr>the_<wbr>distance</samp> |
# | 3.4 | group normalisation | <samp>networks.<wbr>blocks.<wbr>group_<wbr>norm</samp><br><samp>test_<wbr>blocks.<wbr>py test_<wbr>group_<wbr>norm_<wbr>is_<wbr>its_<wbr>formula_<wbr>for_<wbr>small_<wbr>inputs_<wbr>too</samp> |
# | 3.5 | the residual block, and where time enters (DDPM code) | <samp>networks.<wbr>blocks.<wbr>ResBlock</samp><br><samp>test_<wbr>blocks.<wbr>py test_<wbr>res_<wbr>block_<wbr>equals_<wbr>diffusers</samp> |
# | 3.6 | attention (Vaswani Eq. 1) | <samp>networks.<wbr>blocks.<wbr>AttnBlock</samp><br><samp>test_<wbr>blocks.<wbr>py test_<wbr>attention_<wbr>equals_<wbr>torchs_<wbr>multi_<wbr>head_<wbr>attention</samp> |
# | 3.7 | channels into a block on the way up | <samp>networks.<wbr>unet.<wbr>UNet</samp><br><samp>test_<wbr>unet.<wbr>py test_<wbr>blocks_<wbr>on_<wbr>the_<wbr>way_<wbr>up_<wbr>get_<wbr>what_<wbr>comes_<wbr>from_<wbr>below_<wbr>and_<wbr>a_<wbr>skip</samp> |
# | 3.8 | variance of weights at the start (Xavier) | <samp>networks.<wbr>blocks.<wbr>ResBlock</samp><br><samp>test_<wbr>blocks.<wbr>py test_<wbr>layers_<wbr>start_<wbr>as_<wbr>glorot_<wbr>says</samp> |
# | 3.9 | AdaGN (ADM Section 3.1) | <samp>networks.<wbr>blocks.<wbr>ResBlock</samp><br><samp>test_<wbr>blocks.<wbr>py test_<wbr>scale_<wbr>shift_<wbr>norm_<wbr>is_<wbr>the_<wbr>formula_<wbr>of_<wbr>its_<wbr>paper</samp> |
