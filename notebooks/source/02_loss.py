# %% [markdown]
# # 2. The loss: what a network has to learn, and why predicting the noise is enough
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/ddpm_lesson/blob/main/notebooks/02_loss.ipynb)
#
# **You will be able to**
# - write DDPM's loss and its training loop, and draw points and digits from noise with what you trained;
# - read a training curve: when a plateau is not the end, and where a low mean hides an error;
# - say what least squares learns, and why the noise, the clean image and the score are three names for it;
# - explain the variational bound, its terms, and which weight DDPM dropped.
#
# **You need** notebook 1, logarithms and expectations (a self-check follows). All cells together run in about two minutes on two CPU cores.
#
# *The course:* 1 forward process → **2 loss** → 3 U-Net → 4 sampling → 5 variants

# %% [markdown] tags=["sittings"]
# **The core path takes 77 minutes, in 2 sittings.** Each can be started alone: run the set-up cell, then go to its heading. `checks.carried(name)` is your function of an earlier exercise, if its check said yes in this kernel; else the course's own. If English is not your first language, plan about a third more time. The capstone comes on top.
#
# | sitting | sections | minutes |
# |---|---|---|
# | 1 | 2.1 Train first … 2.4 What least squares learns | 40 |
# | 2 | 2.5 Noise, image and score: three names for one answer … 2.8 Which weight? | 37 |
# | capstone | 2.9 Capstone: a training loop for digits · 2.20 Where to read on | 40 |
#
# Sections called *Going deeper* are collapsed (87 minutes in all); the path does not need them, and they need the cells above them. If JupyterLab shows them open, click once into the page: that collapses them. (The rule: 200 words a minute, a minute for each displayed formula, 20 lines of code a minute, and the minutes stated at each exercise.)

# %% [markdown]
# The next cell finds the course's package `ddpm_lesson`. In Colab it installs it. You do not have to read it. Sitting 1 starts with the cell after it.

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

import torch
from ipywidgets import interact

from ddpm_lesson import GaussianDiffusion, Sampling, checks, data, load_pretrained
from ddpm_lesson import oracle, plots, schedules
from ddpm_lesson.networks.mlp import MLP

torch.set_num_threads(1)  # tensors as small as here gain nothing from more threads
process = GaussianDiffusion(schedules.linear(1000))
betas, alphas_bar = process.betas.float().to(device), process.alphas_bar.float().to(device)
extract, q_sample = checks.carried("extract"), checks.carried("q_sample")  # exercises 1.3 and 1.4

# %%
digits = load_pretrained("digits_ddpm", device=device)
drawn = digits.sample(20, Sampling(steps="trailing50", seed=1), y=digits.labels(20))
_ = plots.image_grid(drawn, ncols=10)

# %% [markdown]
# *Figure 2.1.* Twenty digits, drawn from pure noise by the course's own weights. The network was trained with the loss that you write in the next ten minutes (and a small second term, notebook 5). At the end, in the capstone, you write the training loop for digits and draw your own. <!-- alt: Two rows of ten grey images of 8 by 8 pixels; each shows a readable handwritten digit. -->
#
# **Can you start?** Three questions. If one of them is new to you, follow its pointer first.
#
# 1. $X$ is 0 or 4 with probability one half each. Which number $c$ makes $\mathbb E(X-c)^2$ smallest, and how small is it? <details><summary>Answer</summary>$c = 2$, the mean; what is left is the variance, 4. Pointer: "the mean minimises the squared error".</details>
# 2. What is $\mathbb E\big[\,\mathbb E[X\mid Y]\,\big]$? <details><summary>Answer</summary>$\mathbb E[X]$. Average within each value of $Y$, then average the averages. Pointer: "law of total expectation".</details>
# 3. Which of $\mathbb E[\log X]$ and $\log \mathbb E[X]$ is larger? <details><summary>Answer</summary>$\log\mathbb E[X]$: the logarithm bends downwards, so the average of its values lies below its value at the average. Pointer: "Jensen's inequality".</details>
#
# **Symbols.** Those of notebook 1, and these. Formulas count $t$ from 1, code from 0; *printed* numbers and axes show the code's t. Small t means little noise, large t much. Logarithms are natural (*nats*) unless *bits* are named.
#
# | symbol | in code | what it is | 中文 |
# |---|---|---|---|
# | $\epsilon_\theta(x_t, t)$ | `model(x_t, t)` | the network's prediction of the noise; $\theta$ are its weights | 预测噪声 |
# | $p_\theta(x_{t-1}\mid x_t)$, $\mu_\theta$, $\sigma_t^2$ | `mean`, `var` | the reverse step, its mean and its variance | 反向转移分布、均值、方差 |
# | $\nabla\log q(x_t)$ | `score` | the score: the direction in which the density grows | 得分函数 |
# | $\operatorname{KL}(q\,\Vert\,p)$ | `gaussian_kl` | $\mathbb E_q[\log(q/p)]$: how far p is from q | KL 散度 |
# | $L_T, L_{t-1}, L_0$ | `L_T`, … | the terms of the variational bound | 变分下界各项 |
# | $L_\text{simple}$ | `simple_loss` | the squared error of the noise | 简化损失 |

# %% [markdown] tags=["sitting"]
# ## 2.1 Train first
#
# *Sitting 1 of 2, 40 minutes.*
#
# *Question.* Notebook 1 borrowed one function, a trained network. It gave the noise in an image, and so by (1.7) the average clean image behind it, for which real images have no formula. But training pairs cost nothing: take an image, add noise. Can a network learn from such pairs how to walk back? We train first, on points in the plane, and ask afterwards why it worked.
#
# DDPM's recipe: take a point $x_0$, a random step $t$ and noise $\epsilon$; mix them into $x_t$ as in (1.2); let the network say which noise it was; square its error. (Mixing is `q_sample(x_0, t, noise, alphas_bar)` of exercise 1.4; in a new kernel it is the course's solution.)
# $$L_\text{simple} = \mathbb E_{t,\,x_0,\,\epsilon}\Big[\big\|\epsilon-\epsilon_\theta\big(\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\;\epsilon,\ t\big)\big\|^2\Big] . \tag{2.1: DDPM Eq. 14}$$
#
# **Exercise 2.1 (two stars, 6 minutes).** The inside of (2.1) for a batch. (In code the average runs over the coordinates as well, so it is (2.1) divided by their number.) `x_0` and `noise` are (B, \*D), `t` is (B,), `alphas_bar` is (T,), `model(x_t, t)` predicts the noise. Return the squared errors, (B, \*D), *not* averaged. The next cell checks your function and names the mistake, if there is one. As long as it is not right, the course's own goes on instead.
# <details><summary>Hint 1</summary>The mixture is the result of q_sample. The model gets its result, and t.</details>
# <details><summary>Hint 2</summary>The target is the noise itself, without a factor; compare, square, return.</details>

# %%
def simple_loss(model, x_0, t, noise, alphas_bar):
    ...

# %%
simple_loss = checks.simple_loss(simple_loss)

# %% [markdown]
# *Algorithm 1* of the paper is one gradient step on this loss, again and again. The body of the loop has eight lines:

# %%
def train(model, optimizer, x_0, steps, generator):
    """Algorithm 1. Returns the loss of each step."""
    history = []
    for _ in range(steps):
        batch = x_0[torch.randint(len(x_0), (256,), generator=generator)].to(device)
        t = torch.randint(1000, (256,), generator=generator).to(device)
        noise = torch.randn(batch.shape, generator=generator).to(device)
        loss = simple_loss(model, batch, t, noise, alphas_bar).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return history

# %% [markdown]
# The data are eight clusters in a ring; the network is a small multilayer perceptron that is told $t$.
#
# > **Predict.** The loss starts near 1. Why 1? And after 2000 steps: will it be near 0?
# > <details><summary>Then look</summary>An untrained network answers about 0, and the noise has variance 1. The loss falls quickly, and its running mean then stays between 0.2 and 0.25. Whether that is good or bad, the curve alone cannot say.</details>

# %%
torch.manual_seed(0)
points = data.eight_gaussians(20_000)
model = MLP(1000, dim=2, hidden=64).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
generator = torch.Generator().manual_seed(0)
history = train(model, optimizer, points, 2000, generator)

# %%
ax = plots.loss_curve(history, smooth=100)
_ = ax.set(ylim=(0, 1.3))

# %% [markdown]
# *Figure 2.2.* The loss of each step (thin) and its running mean (thick). It jitters because every batch draws other steps $t$, some easy, some hard. After a few hundred steps it seems to have arrived. <!-- alt: A noisy curve starts a little above 1, falls to about 0.23 within a few hundred steps, and stays flat up to step 2000. -->

# %% [markdown]
# ## 2.2 Sample with it
#
# *Question.* The network answers "this is the noise". How does one step back follow from that answer?
#
# If $x_0$ were known, the step back would be the posterior of notebook 1, a Gaussian with mean $\tilde\mu_t(x_t, x_0)$ by (1.6). A guess of the noise is a guess of $x_0$, by (1.7): $x_0 = (x_t-\sqrt{1-\bar\alpha_t}\,\epsilon_\theta)/\sqrt{\bar\alpha_t}$.
#
# **Exercise 2.2 (on paper, 8 minutes).** Put this guess into the posterior mean
# $$\tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0+\frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t$$
# and collect the factors of $x_t$ and of $\epsilon_\theta$. Show that
# $$\mu_\theta = \frac1{\sqrt{\alpha_t}}\Big(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta(x_t,t)\Big) . \tag{2.2: DDPM Eq. 11}$$
# <details><summary>Hint</summary>Use $\bar\alpha_t = \alpha_t\bar\alpha_{t-1}$ twice: once for $\sqrt{\bar\alpha_{t-1}}/\sqrt{\bar\alpha_t}$, once in the numerator of the factor of $x_t$.</details>
# <details><summary>Solution</summary>With $\sqrt{\bar\alpha_{t-1}}/\sqrt{\bar\alpha_t} = 1/\sqrt{\alpha_t}$ the first part becomes $\frac{\beta_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}}\,(x_t-\sqrt{1-\bar\alpha_t}\,\epsilon_\theta)$. The factor of $x_t$, over one denominator, is $\frac{\beta_t+\alpha_t(1-\bar\alpha_{t-1})}{(1-\bar\alpha_t)\sqrt{\alpha_t}} = \frac{1-\alpha_t+\alpha_t-\bar\alpha_t}{(1-\bar\alpha_t)\sqrt{\alpha_t}} = \frac1{\sqrt{\alpha_t}}$, and the factor of $\epsilon_\theta$ is $-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}\,\sqrt{\alpha_t}}$.</details>

# %% [markdown]
# **Exercise 2.3 (one star, 5 minutes).** Equation (2.2). `x_t` and `eps` are (B, \*D), `t` is (B,), `betas` is (T,).
# <details><summary>Hint 1</summary>Three tables: 1 - betas, its cumulative product, and betas themselves. Look each up at t, and give it as many axes as x_t has.</details>
# <details><summary>Hint 2</summary>alpha in front and 1 - alphas_bar below the noise are under roots; beta is not.</details>

# %%
def mean_from_eps(x_t, t, eps, betas):
    ...

# %%
mean_from_eps = checks.mean_from_eps(mean_from_eps)

# %% [markdown]
# A step back is a draw, so noise is added to the mean:
# $$x_{t-1} = \mu_\theta(x_t, t)+\sigma_t\,z,\qquad z\sim\mathcal N(0, I) . \tag{2.3: DDPM Algorithm 2}$$
# For $\sigma_t^2$ we take the variance of the posterior, $\tilde\beta_t$. At the last step it is 0: no noise is added. DDPM calls this choice *fixedsmall*. Its other choice, $\sigma_t^2 = \beta_t$, is *fixedlarge*. Section 4.3 compares them, and section 2.14 derives for which data each is right.

# %%
@torch.no_grad()
def sample(model, n, generator):
    """Algorithm 2: n points from noise."""
    x = torch.randn(n, model.dim, generator=generator).to(device)
    for t in reversed(range(1000)):
        step = torch.full((n,), t, device=device)
        z = torch.randn(x.shape, generator=generator).to(device)
        std = process.posterior_var[t].sqrt().item()
        x = mean_from_eps(x, step, model(x, step), betas) + std * z
    return x.cpu()

# %%
centres = data.eight_gaussians_mixture()[1].float()

def near(x):
    """The share of points within 3 standard deviations of a cluster's centre."""
    return (torch.cdist(x, centres).min(1).values < 0.3).float().mean().item()

def show(**clouds):
    """Clouds of points side by side, with the share that lies near a cluster."""
    size = (3.4 * len(clouds), 3.6)
    fig, axes = plt.subplots(1, len(clouds), figsize=size, layout="constrained")
    for ax, (name, x) in zip(axes, clouds.items(), strict=True):
        plots.cloud(x, ax=ax)
        title = f"{name.replace('_', ' ')}: {near(x):.0%}"
        ax.set(title=title, xlim=(-2.3, 2.3), ylim=(-2.3, 2.3))

# %%
ring = sample(model, 1000, torch.Generator().manual_seed(3))
show(data=points[:1000], after_2000_steps=ring)

# %% [markdown]
# *Figure 2.3.* A thousand points of the data, and a thousand drawn from noise by your loss, your mean and the network. The numbers: how many lie near a cluster. The ring is there, the clusters are not. <!-- alt: Left: eight compact clusters on a circle, 98 percent near a centre. Right: a ring of points with hardly any clusters, about half near a centre. -->

# %% [markdown]
# ## 2.3 A plateau that is not the end
#
# *Question.* The loss has been flat for more than a thousand steps, and the samples are bad. Is the network too small, is the loss wrong, or did we stop too early?
#
# Two measurements find out. **First, compare with the best possible loss.** For data as simple as these, the exact average noise is known by Bayes' rule; `oracle.Mixture` computes it. Its own loss is not 0, and no network can get below it (section 2.4). **Second, split the loss by $t$.** The mean over 1000 steps hides where the error is.

# %%
eight = oracle.Mixture(process, *data.eight_gaussians_mixture())
new, ts = data.eight_gaussians(200_000), torch.arange(1000).repeat(200)
noise = torch.randn(new.shape)
x_t = q_sample(new, ts, noise, process.alphas_bar.float())

# %%
def by_t(eps):
    """Squared error of the noise in 50 bands of 20 steps."""
    return (eps - noise).square().mean(1).view(200, 50, 20).mean((0, 2))

# %%
with torch.no_grad():
    early = by_t(model(x_t.to(device), ts.to(device)).cpu())
exact = by_t(eight(x_t, ts).eps)
assert exact.mean() < early.mean() < 1.3 * exact.mean()

# %%
middle = torch.arange(10, 1000, 20)
fig, ax = plt.subplots(figsize=(6.5, 3.2))
ax.plot(middle, early, color=plots.VERMILION, label="network after 2000 steps")
ax.plot(middle, exact, "k:", label="the best possible")
ax.fill_between(middle, exact, early, color=plots.VERMILION, alpha=0.2)
_ = ax.set(xlabel="t", ylabel="squared error of the noise", ylim=(0, 1)), ax.legend()

# %% [markdown]
# *Figure 2.4.* The loss for each $t$, on new points. In the mean over all t the network is only a little more than a tenth above the best possible. But the whole difference (shaded) lies at small $t$: there the best answer knows which cluster a point belongs to, and the network does not. <!-- alt: Loss over t. The network's curve lies on the dotted best curve for large t; below t = 150 it stays clearly above it, most of all near t = 50, where the dotted curve dips. -->
#
# Large t are learned: there the answer is a smooth function of $x_t$. At $t\approx 50$ the clusters are apart and the answer changes steeply between neighbours. Networks usually learn smooth functions first.
#
# > **Predict.** Go on training the same network, for another 6000 steps. What happens to the flat curve: will it stay flat, or fall again?
# > <details><summary>Then look</summary>It falls again, slowly, and at step 8000 it is a few percent above the dotted line. (As long as the learning rate is this high, it does not come much closer.)</details>
#
# The next cell takes a while: three times as many steps as the first run.

# %%
history += train(model, optimizer, points, 6000, generator)

# %%
running = torch.tensor(history).unfold(0, 500, 1).mean(1)
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(range(500, 8001), running, color=plots.VERMILION, label="mean of 500 steps")
ax.axhline(exact.mean(), color="k", linestyle=":", label="the best possible")
ax.axvline(2000, color=plots.GREEN, linestyle="--", label="stopped here in figure 2.3")
_ = ax.set(xlabel="training step", ylabel="loss", ylim=(0.19, 0.25)), ax.legend(fontsize="small")

# %% [markdown]
# *Figure 2.5.* The running mean, over four times as many steps and enlarged: the first plateau was not the end. The second fall is small, and it is what turns the ring into clusters. <!-- alt: The running mean is flat up to about step 2500, then falls slowly a second time and ends a little above the dotted line. -->

# %%
found = sample(model, 1000, torch.Generator().manual_seed(3))
assert near(found) > 0.75 > near(ring)
show(data=points[:1000], after_2000_steps=ring, after_8000_steps=found)

# %% [markdown]
# *Figure 2.6.* The same noise, the same code, 6000 training steps later. <!-- alt: Left: the data, eight clusters. Middle: the ring without clusters. Right: eight clusters, with a few points between them. -->
#
# Is this one lucky run? We made five others, with other random numbers, and stored the results (a *record*). With 5 seeds, 50 % to 52 % of the samples lie near a cluster after 2000 steps, and 95 % to 96 % after 8000 (`data/records/plateau.py`).
#
# Three lessons. **A flat curve says nothing alone**: compare with the best possible loss where it is known, or with the loss on *held-out data*, which training has not seen, and train longer before you believe it. **A low mean says little**: samples need every $t$. **Split the loss by $t$** to find the fault.

# %% [markdown]
# ## 2.4 What least squares learns
#
# *Question.* Why does this loss give the right mean, and why is the best possible loss not 0?
#
# *Derive.* Let $y$ be what is asked for (the noise, or the clean image), $f$ any function of $x_t$, and $m = \mathbb E[y\mid x_t]$. Insert $m$ and multiply out:
# $$\mathbb E\,\|f - y\|^2 = \mathbb E\,\|f-m\|^2 + 2\,\mathbb E\,\langle f-m,\ m-y\rangle + \mathbb E\,\|m-y\|^2 .$$
# For one fixed $x_t$, $f$ and $m$ are fixed and only $y$ varies: the middle term averages to $\langle f-m,\ m-\mathbb E[y\mid x_t]\rangle = 0$. So it is 0 over all $x_t$ (question 2 before section 2.1), and
# $$\mathbb E\,\|f-y\|^2 = \underbrace{\mathbb E\,\|f-m\|^2}_{\text{error of } f} + \underbrace{\mathbb E\,\|m-y\|^2}_{\text{irreducible}} . \tag{2.4}$$
# The second term does not contain $f$. The first is 0 only for $f = m$. So **least squares learns the conditional expectation**, and some loss remains that no network can remove: $x_t$ does not say which $y$ it came from.
#
# *See it* on a line: two clusters, 70 % around −1 and 30 % around +1. Draw many pairs, sort them into bins by $x_t$, and average $x_0$ in each bin. An average *is* the least-squares answer for its bin.

# %%
share, places, widths = torch.tensor([[0.7, 0.3], [-1, 1], [0.2, 0.2]], dtype=torch.float64)
two = oracle.Mixture(process, share, places[:, None], widths)
line = torch.linspace(-3, 3, 301, dtype=torch.float64)
clean = 2 * torch.bernoulli(torch.full((100_000, 1), 0.3)) - 1 + 0.2 * torch.randn(100_000, 1)
mixing = torch.randn(100_000, 1)

# %%
def averages(t=300):
    """Pairs at step t, their averages in bins, and the exact E[x_0 | x_t]."""
    noisy = q_sample(clean, torch.full((100_000,), t), mixing, process.alphas_bar.float())
    which = torch.bucketize(noisy[:, 0], torch.linspace(-2.5, 2.5, 41))
    full = [which == k for k in range(1, 41) if (which == k).sum() > 50]
    bins = [(noisy[here].mean(), clean[here].mean()) for here in full]
    fig, ax = plt.subplots(figsize=(6, 3.2))
    ax.scatter(noisy[:3000], clean[:3000], s=3, color="0.7", label="pairs")
    best = two(line[:, None], torch.full((301,), t)).x_0
    ax.plot(line, best, color=plots.VERMILION, label=r"$E[x_0\mid x_t]$")
    ax.plot(*zip(*bins, strict=True), "o", ms=4, color=plots.BLUE, label="mean of each bin")
    ax.set(xlabel="$x_t$", ylabel="$x_0$", xlim=(-3, 3), title=f"t = {t}")
    ax.legend(loc="upper left", fontsize="small")

# %%
averages()

# %% [markdown]
# *Figure 2.7.* Grey: 3000 of the pairs. The bin averages (dots) lie on the exact conditional expectation (line). Between the clusters it takes values that no clean point has: the average of "left or right" is the middle. <!-- alt: Two horizontal bands of grey points at minus 1 and 1; an S-shaped line of averages climbs between them, with dots on it. -->
#
# Move the slider. At which $t$ is the line a step, and at which is it flat? Which of the two is harder for a network?

# %%
# NBVAL_IGNORE_OUTPUT
_ = interact(averages, t=(0, 999, 37))

# %% [markdown]
# At t = 0 the line is the diagonal: $x_t$ is almost $x_0$ itself. Near t = 100 the noise is wider than a cluster, but the clusters are still apart: the line is nearly a step, and $x_t$ says only which cluster it was. With much noise it is flat at the mean of the data, −0.4: the clusters are forgotten. Steep functions like that step were the last thing that your network learned.
#
# > **Predict.** A network of unlimited size that predicts $x_0$, trained without end on these pairs at $t = 300$: where does its loss stop, at 0, at the variance of the data (0.88), or between?
# > <details><summary>Then look</summary>Between: at the irreducible part, printed below.</details>
#
# As an example of a wrong $f$ take $\tanh(3x_t)$. Sums over a grid give all three terms of (2.4):

# %% tags=["folded"]
def log_normal(x, mean, var):
    """log N(x; mean, var) in nats."""
    return -0.5 * ((x - mean) ** 2 / var + torch.log(2 * math.pi * var))

grid, a = torch.linspace(-5, 5, 1001, dtype=torch.float64), process.alphas_bar[300]
x_0 = grid[:, None]
q_data = (share * log_normal(x_0, places, widths**2).exp()).sum(1, keepdim=True)
joint = q_data * log_normal(grid[None, :], a.sqrt() * x_0, 1 - a).exp() * 0.01**2  # q(x_0, x_t), gridded
m = (joint * x_0).sum(0) / joint.sum(0)
assert (two(grid[:, None], torch.full((1001,), 300)).x_0[:, 0] - m).abs().max() < 1e-9
f = torch.tanh(3 * grid)
total, of_f, rest = ((joint * square).sum() for square in ((f - x_0) ** 2, (f - m) ** 2, (m - x_0) ** 2))
assert abs(total - of_f - rest) < 1e-12
print(f"loss of tanh(3 x_t): {total:.4f} = error of f {of_f:.4f} + irreducible {rest:.4f}")

# %% [markdown] tags=["deeper"]
# ### Going deeper: an absolute error instead of a square

# %% [markdown]
# "L1" is an option in published training code. But the number $c$ that minimises $\mathbb E|c - x_0|$ is the *median*, not the mean: if more than half of the $x_0$ lie above $c$, moving $c$ up lowers more distances than it raises. The posterior mean (1.6) needs the mean. How far off is the median? The average over all $x_t$ must be the mean of the data:

# %%
below_half = joint.cumsum(0) < 0.5 * joint.sum(0)
median = grid[below_half.sum(0)]
print(f"mean of the data     {(share * places).sum():.2f}")
for name, f in (("E[x_0 | x_t]", m), ("the medians", median)):
    print(f"mean of {name:12} {(joint.sum(0) * f).sum():.2f}")

# %% [markdown]
# The median leans to the larger cluster, and (1.6) would carry that error into every step back. Repair: square (`losses.squared`), or know what you trade (`losses.absolute`, `losses.huber`).

# %% [markdown] tags=["sitting"]
# ## 2.5 Noise, image and score: three names for one answer
#
# *Sitting 2 of 2, 37 minutes.*
#
# *Question.* By (2.4) your network learned the average noise, $\mathbb E[\epsilon\mid x_t]$. The step back needs the average image, $\mathbb E[x_0\mid x_t]$. Other papers train a *score*. Are these three different things?

# %% tags=["start"]
import math

import torch
from ipywidgets import SelectionSlider, interact

from ddpm_lesson import GaussianDiffusion, checks, data, oracle, plots, schedules
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.predictions import fixedlarge
from ddpm_lesson.samplers import reverse

torch.set_num_threads(1)
process = GaussianDiffusion(schedules.linear(1000))
betas, alphas_bar = process.betas.float().to(device), process.alphas_bar.float().to(device)
eight = oracle.Mixture(process, *data.eight_gaussians_mixture())
q_sample, simple_loss = checks.carried("q_sample"), checks.carried("simple_loss")

# %% [markdown]
# *Noise and image.* Given $x_t$, noise and image determine each other: $x_0 = (x_t-\sqrt{1-\bar\alpha_t}\,\epsilon)/\sqrt{\bar\alpha_t}$ by (1.7). Average both sides given $x_t$; $x_t$ is fixed, so only $\epsilon$ is averaged:
# $$\mathbb E[x_0\mid x_t] = \frac{x_t-\sqrt{1-\bar\alpha_t}\;\mathbb E[\epsilon\mid x_t]}{\sqrt{\bar\alpha_t}} . \tag{2.5}$$
# **That is why predicting the noise is enough**, and why putting a guess of the noise into the posterior mean in exercise 2.2 was right: that mean is linear in $x_0$, so we may put the average of $x_0$ into it.
#
# *Noise and score.* The density of $x_t$ is an average over all clean images, $q(x_t) = \int q(x_t\mid x_0)\,q(x_0)\,dx_0$. Take the gradient in $x_t$ with $\nabla g = g\,\nabla\log g$, divide by $q(x_t)$, and use Bayes' rule, $q(x_t\mid x_0)\,q(x_0)/q(x_t) = q(x_0\mid x_t)$:
# $$\nabla\log q(x_t) = \int q(x_0\mid x_t)\,\nabla\log q(x_t\mid x_0)\,dx_0 = \mathbb E\big[\nabla\log q(x_t\mid x_0)\mid x_t\big] .$$
# Inside is the logarithm of a Gaussian density; its gradient is $-(x_t-\sqrt{\bar\alpha_t}\,x_0)/(1-\bar\alpha_t)$. The numerator is $\sqrt{1-\bar\alpha_t}\,\epsilon$. So
# $$\nabla\log q(x_t) = -\frac{\mathbb E[\epsilon\mid x_t]}{\sqrt{1-\bar\alpha_t}} . \tag{2.6}$$
# The gradient of $\log q$ points uphill in density and is called the *score* (得分函数). A network that predicts noise has learned the score, up to a factor. With (2.5) it reads
# $$\mathbb E[x_0\mid x_t] = \frac{x_t+(1-\bar\alpha_t)\,\nabla\log q(x_t)}{\sqrt{\bar\alpha_t}} , \tag{2.7}$$
# **Tweedie's formula**: to denoise, step uphill.

# %% tags=["folded"]
x_t, ts = torch.randn(500, 2, dtype=torch.float64).requires_grad_(), torch.randint(1000, (500,))
(score,) = torch.autograd.grad(eight.log_prob(x_t, ts).sum(), x_t)
with torch.no_grad():
    x_0, eps, _ = eight(x_t, ts)
    spread = process.sqrt_one_minus_alphas_bar[ts, None]
    off_x_0 = (process.x_0_from_score(x_t, ts, score) - x_0).abs().max()
    off = max((spread * score + eps).abs().max(), off_x_0)
assert off < 1e-9  # (2.6) and (2.7), against autograd

# %% [markdown]
# > **Predict.** Eight clusters of equal weight stand in a ring, still apart. Where does the score point at the centre of the ring? And what is $\mathbb E[x_0\mid x_t]$ there?
# > <details><summary>Then look</summary>Nowhere: in the exact centre, between the arrows of figure 2.8, the eight pulls cancel. The average clean point is the centre itself, where no data are. An average need not be typical.</details>

# %%
def arrows(ax, t):
    """Directions of the exact score at step t; the colour says how strong it is."""
    at = torch.cartesian_prod(*[torch.linspace(-2.6, 2.6, 18, dtype=torch.float64)] * 2)
    score = eight.score(at, torch.full((len(at),), t))
    length = score.norm(dim=1, keepdim=True)
    _ = ax.quiver(*at.T, *(score / length).T, length[:, 0].log(), cmap="viridis", scale=24, width=0.005)

# %%
points = data.eight_gaussians(400, generator=torch.Generator().manual_seed(0))
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.4), layout="constrained")
for ax, t in zip(axes, (20, 100, 400), strict=True):
    step = torch.full((400,), t)
    noised = q_sample(points, step, torch.randn(400, 2), process.alphas_bar.float())
    plots.cloud(noised, ax=ax, color=plots.SKY)
    arrows(ax, t)
    _ = ax.set(title=f"t = {t}", xlim=(-2.8, 2.8), ylim=(-2.8, 2.8))

# %% [markdown]
# *Figure 2.8.* Points $x_t$ ($x^{(1)}$, $x^{(2)}$: their two coordinates) and the direction of the exact score (bright: strong, each panel with its own scale). At t = 20 every arrow points to the nearest cluster. At t = 100 all arrows lead to the ring; along the ring they are weak (dark), because neighbouring clusters pull against each other. (The score is 0 in the exact centre, between the arrows.) At t = 400 one broad cluster is left, and all arrows point to its middle. Between the first two panels, near t = 50, lies the function that your network had not yet learned at step 2000. <!-- alt: Three panels. At t = 20 arrows lead to eight clusters; at t = 100 they lead to a ring, and are weak along it; at t = 400 they lead to the centre of one broad cloud. -->

# %% [markdown]
# ## 2.6 How likely are the data? The bound
#
# *Question.* So far we wanted a *mean*. Now ask for more: how probable does a model make our images, and can that be trained?
#
# The model starts in noise and walks back, $p(x_T) = \mathcal N(0, I)$:
# $$\begin{aligned} p_\theta(x_{0:T}) &= p(x_T)\,\prod_{t=1}^T p_\theta(x_{t-1}\mid x_t), \\ p_\theta(x_{t-1}\mid x_t) &= \mathcal N\big(x_{t-1};\ \mu_\theta(x_t, t),\ \sigma_t^2 I\big). \end{aligned} \tag{2.8: DDPM Eq. 1}$$
# ($x_{0:T}$ is short for $x_0, x_1, \dots, x_T$.) We want $-\log p_\theta(x_0)$ to be small; $p_\theta(x_0)$ is the integral of (2.8) over all paths $x_1,\dots,x_T$. Every path can end in $x_0$, but nearly every path that the model draws ends far from $x_0$, so that an average over such paths takes far too many draws. The forward process, started in $x_0$, draws probable ones. So multiply and divide by $q(x_{1:T}\mid x_0)$: the integral over paths becomes an expectation under $q$. And $-\log$ bends upwards (Jensen's inequality, question 3 before section 2.1):
# $$\begin{aligned} -\log p_\theta(x_0) &= -\log\ \mathbb E_q\left[\frac{p_\theta(x_{0:T})}{q(x_{1:T}\mid x_0)}\right] \\ &\le\ \mathbb E_q\left[-\log\frac{p_\theta(x_{0:T})}{q(x_{1:T}\mid x_0)}\right] =: L . \end{aligned} \tag{2.9: DDPM Eq. 3}$$
# $L$ is the **variational bound** (变分下界; $-L$ is a *lower* bound of $\log p_\theta$, hence the name ELBO). The difference between $L$ and $-\log p_\theta(x_0)$ is called the gap.
#
# Both chains are products of steps, so the logarithm is a sum. Bayes' rule, with $x_0$ given, rewrites each step of $q$ as a step backwards, so that it can be compared with a step of the model (line by line in section 2.10). The result:
# $$\begin{aligned} L = {}&\underbrace{\operatorname{KL}\big(q(x_T\mid x_0)\,\|\,p(x_T)\big)}_{L_T} \\ &+ \sum_{t\ge 2}\underbrace{\mathbb E_q\operatorname{KL}\big(q(x_{t-1}\mid x_t,x_0)\,\|\,p_\theta(x_{t-1}\mid x_t)\big)}_{L_{t-1}} \\ &\underbrace{-\,\mathbb E_q\log p_\theta(x_0\mid x_1)}_{L_0} . \end{aligned} \tag{2.10: DDPM Eq. 5}$$
# Read it as three questions. Does the chain end in noise ($L_T$)? Does every step of the model agree with the posterior, which knows $x_0$ ($L_{t-1}$)? Does the last step hit $x_0$ ($L_0$)? Each term needs *one* $x_t$, so training can pick one $t$ at a time.
#
# Every term but the last is a divergence of two Gaussians (derived in section 2.11):
# $$\operatorname{KL}\big(\mathcal N(\mu_1,v_1)\,\|\,\mathcal N(\mu_2,v_2)\big) = \frac12\left[\frac{v_1}{v_2}-1-\log\frac{v_1}{v_2}+\frac{(\mu_1-\mu_2)^2}{v_2}\right] . \tag{2.11}$$
#
# **Exercise 2.4 (one star, 4 minutes).** Equation (2.11), elementwise, in nats. The arguments are tensors of *means and variances*.
# <details><summary>Hint 1</summary>Three parts: the ratio of the variances minus 1, minus the logarithm of the ratio, plus a squared distance over a variance.</details>
# <details><summary>Hint 2</summary>The first variance and the squared distance are divided by the second variance, the model's; the −1 and the logarithm are not. The whole is halved.</details>

# %%
def gaussian_kl(mean_1, var_1, mean_2, var_2):
    ...

# %%
gaussian_kl = checks.gaussian_kl(gaussian_kl)

# %% [markdown]
# *See all terms.* Three steps, one dimension, $x_0 = 0.8$. The model is a poor one: its network believes that the data are $\mathcal N(-0.4,\ s^2)$ with $s = 0.3$. Your function computes the terms. (The code is folded; nothing in it is needed.)

# %% tags=["folded"]
short = GaussianDiffusion(torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64))
here = torch.tensor([[0.8]], dtype=torch.float64)
axis, dx = torch.linspace(-7, 7, 121, dtype=torch.float64)[:, None], 14 / 120

def log_normal(x, mean, var):
    """log N(x; mean, var) in nats."""
    return -0.5 * ((x - mean) ** 2 / var + torch.log(2 * math.pi * var))

def steps_back(s):
    """p(x_t, i).p is the Gaussian of x_{t-1} for a network that believes in data from N(-0.4, s^2)."""
    mean = torch.tensor([-0.4], dtype=torch.float64)
    return reverse(short, oracle.GaussianData(short, mean, s), fixedlarge)

# %% tags=["folded"]
def bound_terms(s):
    """L_T, L_2, L_1, L_0, and -log p(x_0) itself, in nats."""
    p, found, a = steps_back(s), [], short.alphas_bar[2]
    density = log_normal(axis, 0, torch.ones(())).exp()
    found.append(gaussian_kl(a.sqrt() * here, 1 - a, 0 * here, torch.ones_like(here)).item())
    for i in (2, 1, 0):
        mean, var = short.sqrt_alphas_bar[i] * here, 1 - short.alphas_bar[i]  # of q(x_t | x_0)
        weight = log_normal(axis, mean, var).exp() * dx
        q, step = short.q_posterior(here.expand(121, 1), axis, torch.full((121,), i)), p(axis, i).p
        mean, var = step.mean, step.log_var.exp().expand(121, 1)
        term = gaussian_kl(q.mean, q.log_var.exp(), mean, var) if i > 0 else -log_normal(here, mean, var)
        found.append((weight * term).sum().item())
        targets = axis if i > 0 else here
        density = log_normal(targets, mean.T, var.T).exp() @ density * dx
    return found, -density.log().item()

# %% tags=["folded"]
def terms_as_bars(ax, found, nll):
    """The terms of the bound, one above the other, beside -log p(x_0) and the gap."""
    for k, (name, nats) in enumerate(zip(("$L_T$", "$L_2$", "$L_1$", "$L_0$"), found, strict=True)):
        ax.bar(0, nats, bottom=sum(found[:k]), color=plots.COLOURS[k], label=f"{name} = {nats:.2f}")
    gap = sum(found) - nll
    ax.bar(1, nll, color="0.6", edgecolor="k")
    ax.bar(1, gap, bottom=nll, color="w", edgecolor="k", hatch="//", label=f"gap = {gap:.2f}")
    ax.set(xticks=[0, 1], xticklabels=["$L$", r"$-\log p_\theta(x_0)$"], ylabel="nats")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% tags=["folded"]
def bound_of(s=0.3):
    """The two steps back as bells, and the terms of the bound as bars."""
    (found, nll), axes = bound_terms(s), plt.subplots(1, 3, figsize=(9.5, 3), layout="constrained")[1]
    for ax, i in zip(axes[:2], (2, 1), strict=True):
        x_t, step = short.sqrt_alphas_bar[i] * here, torch.tensor([i])
        bells = short.q_posterior(here, x_t, step), steps_back(s)(x_t, i).p
        for name, bell, color in zip(("posterior", "model"), bells, plots.COLOURS[:2], strict=True):
            ax.plot(axis, log_normal(axis, bell.mean, bell.log_var.exp()).exp(), color=color, label=name)
        ax.set(xlim=(-3, 3), xlabel=f"$x_{i}$", title=f"step to $x_{i}$"), ax.legend(fontsize="small")
    terms_as_bars(axes[2], found, nll)

# %%
bound_of()

# %% [markdown]
# *Figure 2.9.* Left and middle: at a typical $x_t$, the posterior (which knows $x_0 = 0.8$) and the model's step (which does not) as two bells; their divergences, averaged over $x_t$, are $L_2$ and $L_1$. Right: the four terms ($L_T$ is hardly visible) add up to $L$, which lies above $-\log p_\theta(x_0)$ (grey) by the gap (hatched). <!-- alt: Two panels with two bells each, the model's to the left of the posterior's; a bar of stacked terms beside a grey bar with a hatched top, both of the same height. -->

# %% [markdown] tags=["deeper"]
# ### Going deeper: the terms in numbers, and other beliefs

# %% [markdown]
# The terms of figure 2.9. The exact $-\log p_\theta(x_0)$ comes from walking the model's density back on a grid. The gap is itself a divergence, between $q$'s distribution of paths and the model's own distribution of paths that end in $x_0$ (section 2.10).

# %% tags=["folded"]
found, nll = bound_terms(0.3)
assert sum(found) > nll
terms = [f"{name} {term:.4f}" for name, term in zip(("L_T", "L_2", "L_1", "L_0"), found, strict=True)]
print(f"{' + '.join(terms)} = {sum(found):.4f} nats")
print(f"-log p(x_0) = {nll:.4f} nats, so the gap is {sum(found) - nll:.4f}")

# %% [markdown]
# Move $s$. Which terms change, and where is the gap smallest? (The two clusters of section 2.4 have mean −0.4 and standard deviation 0.94.)
# <details><summary>Then look</summary>$L_T$ stays: there is no network in it. All others change. The gap is smallest near s = 0.8. $L$ is smallest near s = 1.2, the distance from −0.4 to this $x_0$: because $L$ is computed for a single point, the best belief is just wide enough to include it.</details>

# %%
# NBVAL_IGNORE_OUTPUT
_ = interact(bound_of, s=SelectionSlider(options=[k / 10 for k in range(1, 16)], value=0.3))

# %% [markdown]
# ## 2.7 What the bound asks of the network
#
# In $L_{t-1}$ the first Gaussian is the posterior $\mathcal N(\tilde\mu_t, \tilde\beta_t I)$, the second the model's step $\mathcal N(\mu_\theta, \sigma_t^2 I)$. Choose $\sigma_t^2$ by hand. Coordinates are independent, so their divergences add up, and the square of (2.11) becomes $\lVert\cdot\rVert^2$. Only one part of (2.11) contains the network:
# $$L_{t-1} = \mathbb E_q\left[\frac{1}{2\sigma_t^2}\,\big\|\tilde\mu_t(x_t,x_0)-\mu_\theta(x_t,t)\big\|^2\right] + C . \tag{2.12: DDPM Eq. 8}$$
# $C$ is the rest of (2.11); the network is not in it. **A squared distance of means.** For one $x_0$ its minimum is the posterior mean itself; but the network does not know $x_0$. Average over the data as well, and (2.4) says what is best: $\mu_\theta = \mathbb E[\tilde\mu_t\mid x_t]$, the mean of the true step back. The likelihood asks for the same thing, a conditional mean.
#
# Both means have the form (2.2), one with the true noise and one with the network's. Subtract; $x_t$ cancels:
# $$\frac{1}{2\sigma_t^2}\,\|\tilde\mu_t-\mu_\theta\|^2 = \frac{\beta_t^2}{2\sigma_t^2\,\alpha_t\,(1-\bar\alpha_t)}\;\|\epsilon-\epsilon_\theta(x_t,t)\|^2 . \tag{2.13: DDPM Eq. 12}$$
# So, up to constants and apart from $L_0$, the bound is your `simple_loss` with a **weight that depends on $t$ alone**.
#
# **Exercise 2.5 (one star, 4 minutes).** This weight for all steps (*vlb*: variational lower bound): `betas` and `var`, the model's $\sigma_t^2$, are (T,); return (T,).
# <details><summary>Hint 1</summary>alphas and alphas_bar come from betas.</details>
# <details><summary>Hint 2</summary>No roots at all: everything in (2.2) was squared.</details>

# %%
def vlb_weight(betas, var):
    ...

# %%
vlb_weight = checks.vlb_weight(vlb_weight)

# %% [markdown]
# > **Predict.** The weight at t = 1 and at t = 999 (t of the code): equal, ten times larger at t = 1, or more than ten times?
# > <details><summary>Then look</summary>More, as the figure shows. The bound cares most for the smallest t, where fine detail is decided.</details>

# %%
weights = {"fixedlarge": vlb_weight(process.betas, process.betas)}
weights["fixedsmall"] = vlb_weight(process.betas, process.posterior_var)[1:]  # variance 0 at t = 0
large = weights["fixedlarge"]
print(f"with fixedlarge the weight at t = 1 is {large[1] / large[999]:.0f} times that at t = 999")

# %%
fig, ax = plt.subplots(figsize=(6, 3))
small = weights["fixedsmall"]
ax.semilogy(large / large.mean(), color=plots.BLUE, label=r"the bound, $\sigma_t^2 = \beta_t$")
label = r"the bound, $\sigma_t^2 = \tilde\beta_t$"
ax.semilogy(range(1, 1000), small / small.mean(), "--", color=plots.SKY, label=label)
ax.axhline(1, color=plots.VERMILION, label=r"$L_\mathrm{simple}$")
_ = ax.set(xlabel="t", ylabel="weight, scaled to mean 1"), ax.legend(fontsize="small")

# %% [markdown]
# *Figure 2.10.* What an error of the noise costs in the bound, and in $L_\text{simple}$, each scaled to mean 1 (a common factor only changes the effective learning rate). The two curves of the bound differ by a factor of about 2 at the smallest t, too far left to see; elsewhere they nearly coincide. <!-- alt: On a logarithmic axis the weight of the bound is high at the smallest t, falls steeply, and rises slowly again towards large t; that of L simple is a flat line; the bound lies above it below t = 100 and again at the very end. -->

# %% [markdown]
# ## 2.8 Which weight?
#
# *Question.* DDPM's authors replaced the weight by 1. Is that allowed, and why does it help?
#
# It is allowed: by (2.4) each $t$ has its own best answer, and a network that is perfect at every $t$ minimises every positive weighting. But a real network has limited capacity and time. The bound spends them on the smallest t, which change single grey levels that nobody sees. $L_\text{simple}$ moves the weight from fine detail to larger t, where the shape of a digit is decided. DDPM's Table 2, on CIFAR-10, in FID (a distance between statistics of real and generated images; small is good):
#
# | network predicts | loss | FID |
# |---|---|---|
# | $\tilde\mu_t$ | the bound | 13.22 |
# | $\epsilon$ | the bound | 13.51 |
# | $\epsilon$ | $L_\text{simple}$ | **3.17** |
#
# The likelihood was better with the bound, the images were better without. (Predicting $x_0$ instead, or $v$, a mixture of $x_0$ and $\epsilon$, is again only a weight: section 2.12.)
#
# **Exercise 2.6 (design, 8 minutes).** Choose a weight $w(t)$ for the eight clusters and 1000 steps of training. *Predict*: at which $t$ will your network be nearer to the best answer than one trained with $L_\text{simple}$, and at which further from it? *Measure* with the cells below, and *explain* what you see. They begin with the bound's weight; three others to try, with the SNR of (1.3):
#
# - more weight below t = 200: `torch.where(torch.arange(1000) < 200, 4.0, 1.0)`;
# - the plain error of $x_0$, by (1.7) the squared error of $\epsilon$ divided by the SNR: `1 / process.snr`;
# - min-SNR: $L_\text{simple}$, with less weight where the SNR is above 5: `(5 / process.snr).clamp(max=1)`.
#
# Only the shape of $w$ counts: it is scaled to mean 1.
# <details><summary>What we found</summary>In 1000 steps none is nearer to the best answer than $L_\text{simple}$ at every t. The bound's weight does worse, even in the bands of the smallest t: it multiplies a few rare t by up to 50, so that single examples decide a batch (section 2.17 draws these t more often instead). $1/\operatorname{SNR}$ is nearer at large t, above about t = 500, where nearly all of its weight lies and little was missing; below, where the samples are decided, it is worse by far. Min-SNR is about equal: your curve may lie a third below the other somewhere, but with another seed (<code>trained(w, seed=1)</code>) $L_\text{simple}$ differs from itself by as much. After 5000 steps Min-SNR is further from the best below t = 100, where its weight is small; elsewhere seeds matter more. More weight below t = 200 helps only at the smallest t, after about 3000 steps (<code>trained(w, 3000)</code>), and only a little; at larger t it costs. The steep answers at small t need more steps, not only more weight.</details>

# %%
w = vlb_weight(process.betas, process.betas)  # yours: any positive tensor of 1000 numbers

# %%
def trained(w, steps=1000, seed=0):
    """A network trained with this weight of the steps."""
    torch.manual_seed(seed)
    data_points, w = data.eight_gaussians(20_000).to(device), w / w.mean()
    net = MLP(1000, dim=2, hidden=64).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(steps):
        x_0, noise = data_points[torch.randint(20_000, (256,))], torch.randn(256, 2).to(device)
        t = torch.randint(1000, (256,))
        loss = simple_loss(net, x_0, t.to(device), noise, alphas_bar)
        optimizer.zero_grad()
        (w[t, None].float().to(device) * loss).mean().backward()
        optimizer.step()
    return net

# %% tags=["folded"]
def above_best(net):
    """Squared error of the noise less that of the best answer, in 50 bands of t."""
    generator = torch.Generator().manual_seed(1)
    x_0, ts = data.eight_gaussians(20_000, generator=generator), torch.arange(1000).repeat(20)
    noise = torch.randn(x_0.shape, generator=generator)
    x_t = q_sample(x_0, ts, noise, process.alphas_bar.float())
    with torch.no_grad():
        eps = net(x_t.to(device), ts.to(device)).cpu()
    return (eps - eight(x_t, ts).eps).square().mean(1).view(20, 50, 20).mean((0, 2))

# %%
fig, ax = plt.subplots(figsize=(6.5, 3))
compared = ("$L_\\mathrm{simple}$", torch.ones(1000), plots.VERMILION), ("your weight", w, plots.BLUE)
for name, weight, color in compared:
    ax.semilogy(range(10, 1000, 20), above_best(trained(weight)), color=color, label=name)
_ = ax.set(xlabel="t", ylabel="error above the best possible"), ax.legend()

# %% [markdown]
# *Figure 2.11.* By how much two networks miss the best answer, after 1000 steps each; "your weight" is that of the bound until you change `w`. Both miss it most near t = 50. <!-- alt: Two curves over t on a logarithmic axis. Both are highest near t = 50 and fall up to t = 300. That of the bound's weight lies above that of L simple everywhere, most of all at large t. -->
#
# **What you now have**
#
# 1. A loss of two lines, a loop of eight, and a sampler that draws points from noise.
# 2. Least squares learns the conditional expectation, and the part of the loss that remains is a property of the data, not of the network.
# 3. Noise, image and score are one answer in three forms.
# 4. The likelihood asks for the same answer, with a weight that DDPM dropped.
# 5. A flat loss curve does not say whether training is finished; the best possible loss and the loss by $t$ do.
#
# *You can stop here.* The capstone starts alone; without it, go on to notebook 3.

# %% [markdown] tags=["sitting", "capstone"]
# ## 2.9 Capstone: a training loop for digits
#
# *Capstone, 40 minutes.*
#
# The loop of section 2.1 is enough for points. Published training code does three things more, and you can now add them: the learning rate rises over the first steps (*warm-up*), because Adam's first estimates are poor; the gradient's norm is cut (*clipping*), because a batch with unlucky $t$ can give far too large a gradient; and an *average of the weights* over the last steps (exponential moving average, EMA) is kept for sampling, because each step of training moves the weights by chance as well.

# %% tags=["start"]
import copy

import torch

from ddpm_lesson import GaussianDiffusion, checks, data, plots, schedules
from ddpm_lesson.networks.mlp import MLP

torch.set_num_threads(1)
simple_loss, mean_from_eps = checks.carried("simple_loss"), checks.carried("mean_from_eps")
cosine = GaussianDiffusion(schedules.cosine(1000))
cosine_betas, cosine_bar = cosine.betas.float().to(device), cosine.alphas_bar.float().to(device)
x_train = data.digits("train").x_0.flatten(1)

# %% [markdown]
# **Exercise 2.7 (capstone, 35 minutes).** A generator: for each of `batches`, which are triples (x_0, t, noise), make one step of Algorithm 1 and yield its loss as a float. In step $k = 1, 2, \dots$:
#
# 1. the learning rate is `lr` times $\min(1, k/\text{warmup})$; the optimizer is Adam;
# 2. the loss is the mean of `loss(model, x_0, t, noise)`;
# 3. gradients are cleared, computed, and scaled down if their norm, all parameters together, exceeds `clip_norm`;
# 4. the weights move; then every weight of `average`, a second network, becomes `decay` times itself plus `1 - decay` times the model's, without gradients;
# 5. the loss is yielded.
#
# <details><summary>Hint 1</summary>optimizer.param_groups is a list of dictionaries; each has an entry "lr". torch.nn.utils.clip_grad_norm_ clips.</details>
# <details><summary>Hint 2</summary>zip(average.parameters(), model.parameters()), and lerp_ under torch.no_grad().</details>
# <details><summary>How to find a mistake</summary>The check runs five steps of a tiny network and names the first loss or weight that differs. If loss 1 is right and loss 2 is not, the first update went wrong.</details>

# %%
def training_loop(model, average, batches, loss, lr, warmup, clip_norm, decay):
    ...

# %%
training_loop = checks.training_loop(training_loop)

# %% [markdown]
# Use it: the same small kind of network, now on 64 pixels, with the cosine schedule of notebook 1.

# %% tags=["capstone"]
def batches(x_0, steps, generator):
    """What Algorithm 1 draws, `steps` times for 128 images."""
    for _ in range(steps):
        batch = x_0[torch.randint(len(x_0), (128,), generator=generator)]
        t = torch.randint(1000, (128,), generator=generator)
        noise = torch.randn(batch.shape, generator=generator)
        yield batch.to(device), t.to(device), noise.to(device)

def digits_loss(model, x_0, t, noise):
    return simple_loss(model, x_0, t, noise, cosine_bar)

torch.manual_seed(0)
net = MLP(1000, dim=64, hidden=256).to(device)
average = copy.deepcopy(net)
drawn_at_random = batches(x_train, 3000, torch.Generator().manual_seed(0))
history = list(training_loop(net, average, drawn_at_random, digits_loss, 2e-3, 100, 1.0, 0.995))

# %%
ax = plots.loss_curve(history, smooth=100)
_ = ax.set(ylim=(0, 1.1))

# %% [markdown]
# *Figure 2.12.* The loss on digits. For *new* digits nobody knows the best possible loss. For these training digits it is known, and reaching it would mean copying them. So compare with held-out digits (section 2.16 does both). <!-- alt: The loss falls from 1 to about 0.2 and goes on falling slowly. -->

# %% tags=["capstone"]
@torch.no_grad()
def draw_digits(net, n, generator):
    """Algorithm 2 with the cosine schedule."""
    x = torch.randn(n, 64, generator=generator).to(device)
    for t in reversed(range(1000)):
        step = torch.full((n,), t, device=device)
        z = torch.randn(x.shape, generator=generator).to(device)
        std = cosine.posterior_var[t].sqrt().item()
        x = mean_from_eps(x, step, net(x, step), cosine_betas) + std * z
    return x.cpu()

# %%
found = draw_digits(average, 40, torch.Generator().manual_seed(3))
assert found.abs().max() < 3  # nothing runs away
_ = plots.image_grid(found.view(-1, 8, 8), ncols=10)

# %% [markdown]
# *Figure 2.13.* Forty digits from noise: your loss, your mean, your loop. About half are readable, some are two digits at once. This network sees 64 numbers and does not know that they are pixels; notebook 3 builds one that does. <!-- alt: Four rows of ten grey images of 8 by 8 pixels; about half show a readable digit, the others are unclear. -->
#
# Try: draw with `net` instead of `average`; train three times as long; set `decay` to 0.5; set `warmup` to 1, which is none.

# %% [markdown] tags=["deeper"]
# ## 2.10 Going deeper: the bound, line by line

# %% [markdown]
# *Question.* Section 2.6 gave the bound and its terms. Where do the terms come from?
#
# Carry $-\log p_\theta(x_0)$ through every line of algebra, **on paper and on a grid at the same time**. Take $T = 3$ steps, one dimension, one fixed $x_0 = 0.8$. The data are the two clusters of section 2.4; the model is the poor one of section 2.6: its network believes that the data are $\mathcal N(-0.4,\ 0.3^2)$. Three numbers $x_1, x_2, x_3$ make a path, so all paths fit on a grid of $121^3$ points.

# %% tags=["folded"]
from functools import partial

from ddpm_lesson import GaussianDiffusionTrainer, Noised, bound, losses, timesteps
from ddpm_lesson.denoisers import clipped, make_denoiser
from ddpm_lesson.gaussian import Gaussian
from ddpm_lesson.predictions import epsilon, fixedsmall, p_from_output, velocity, xprev, xstart
from ddpm_lesson.samplers import ancestral, last

# %% [markdown]
# The sections from here on use more of the package:
#
# | call | gives |
# |---|---|
# | `process.noised(x_0, t)` | `Noised(x_0, t, noise, x_t)`: a draw, and all that it was made of |
# | `process.q_posterior(x_0, x_t, t)` | the posterior, a `Gaussian` with `.mean` and `.log_var` |
# | `denoise(x_t, t)` | a `Prediction(x_0, eps, var_frac)` (the last is for notebook 5); the oracles are such functions, `make_denoiser(model, process, epsilon)` makes one |
# | `epsilon.decode(process, x_t, t, output)` | the same from a network's output; `xstart`, `velocity`, `xprev` read it otherwise |
# | `epsilon.target(process, noised)` | what training asks for |
# | `reverse(process, denoise, fixedlarge)` | p; `p(x_t, i).p` is the `Gaussian` of the step back, with variance beta |
# | `last(ancestral(process, p, x_T))` | a sample: Algorithm 2 |
# | `bound.vlb_term(...)`, `bound.bits_per_dim(...)` | a term of the bound, and all of it, in bits per dimension |

# %%
# `fixedlarge`: the variance of a step is beta (section 2.14); p(x_t, i).p: the Gaussian of the step back
short = GaussianDiffusion(torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64))
p = steps_back(0.3)
x_0 = torch.tensor(0.8, dtype=torch.float64)

# %%
grid = torch.linspace(-7, 7, 121, dtype=torch.float64)
dx = 14 / 120
x_1, x_2, x_3 = grid[:, None, None], grid[None, :, None], grid[None, None, :]

# %% [markdown]
# Two densities on the grid: a reverse step of the model, and a forward step. `i` is the code's index, one less than the papers' $t$. Everything below holds *logarithms* of densities: `p_12` is $\log p_\theta(x_1\mid x_2)$, `q_12` is $\log q(x_2\mid x_1)$.

# %%
def log_p(x_prev, x_t, i):
    """log p(x_{t-1} | x_t) of the model."""
    step = p(x_t.reshape(-1, 1), i).p
    return log_normal(x_prev, step.mean.view(x_t.shape), step.log_var[0].exp())

# %%
def log_q(x_t, x_prev, i):
    """log q(x_t | x_{t-1})."""
    return log_normal(x_t, short.sqrt_alphas[i] * x_prev, short.betas[i])

# %% [markdown]
# **Line (a), the definition.** Sum over all paths:
# $$-\log p_\theta(x_0) = -\log\int p_\theta(x_{0:3})\;dx_1\,dx_2\,dx_3 . \qquad\text{(a)}$$

# %%
p_3 = log_normal(x_3, 0.0, torch.ones(()))
p_23, p_12, p_01 = log_p(x_2, x_3, 2), log_p(x_1, x_2, 1), log_p(x_0, x_1, 0)
a = -(p_3 + p_23 + p_12 + p_01).exp().sum().mul(dx**3).log()
print(f"(a) {a:.4f}")

# %% [markdown]
# The same number in another way, without paths: walk the *density* back. $p(x_2) = \int p(x_2\mid x_3)\,p(x_3)\,dx_3$ is a matrix times a vector, and so on down to $x_0$:

# %% tags=["folded"]
density = log_normal(grid, 0.0, torch.ones(())).exp()
for i in (2, 1):
    density = log_p(grid[:, None], grid[None, :], i).exp() @ density * dx
nll = -(log_p(x_0, grid, 0).exp() @ density * dx).log()
assert abs(a - nll) < 1e-6
print(f"summing paths: {a:.4f}, walking the density back: {nll:.4f}, equal to 1e-6")

# %% [markdown]
# With three numbers this works. With the 64 pixels of a digit no grid will do. We need a form that can be estimated from samples.
#
# **Line (b), multiply and divide.** Nearly all paths through the grid have nothing to do with $x_0$. The forward process, started in $x_0$, draws good ones. Multiply and divide by $q(x_{1:3}\mid x_0) = q(x_1\mid x_0)\,q(x_2\mid x_1)\,q(x_3\mid x_2)$; an integral against a density is an expectation:
# $$-\log\int q(x_{1:3}\mid x_0)\,\frac{p_\theta(x_{0:3})}{q(x_{1:3}\mid x_0)}\,dx_{1:3} = -\log\ \mathbb E_q\left[\frac{p_\theta(x_{0:3})}{q(x_{1:3}\mid x_0)}\right] . \qquad\text{(b)}$$

# %%
q_01, q_12, q_23 = log_q(x_1, x_0, 0), log_q(x_2, x_1, 1), log_q(x_3, x_2, 2)
path = (q_01 + q_12 + q_23).exp() * dx**3

# %%
def expect(values):
    """E_q over all paths x_1, x_2, x_3 that start in x_0."""
    return (path * values).sum()

# %% tags=["folded"]
log_ratio = p_3 + p_23 + p_12 + p_01 - q_01 - q_12 - q_23
b = -expect(log_ratio.exp()).log()
assert abs(path.sum() - 1) < 1e-6 and abs(a - b) < 1e-6
print(f"(b) {b:.4f}, equal to (a) to 1e-6")

# %% [markdown]
# **Line (c), Jensen.** The logarithm of an average is hard to estimate. The average of logarithms is easy. $-\log$ bends upwards, so the average of its values lies above its value at the average:
# $$-\log\ \mathbb E_q\left[\frac{p_\theta}{q}\right]\ \le\ \mathbb E_q\left[-\log\frac{p_\theta(x_{0:T})}{q(x_{1:T}\mid x_0)}\right] =: L .$$
# This is $L$ of (2.9). It is the only line that is not an equality.
#
# > **Predict.** Could the gap between $L$ and $-\log p_\theta(x_0)$ ever be 0: never, or for a model that starts where the forward process ends and walks back exactly as it came?
# > <details><summary>Then look</summary>For such a model it is 0. The next cells derive the gap: a divergence between the forward process's distribution of paths and the model's own distribution of paths that end in $x_0$.</details>

# %%
c = expect(-log_ratio)
print(f"(c) {c:.4f}, above (b) by {c - b:.4f}")

# %% [markdown]
# *The gap.* Split the model the other way round, $p_\theta(x_{0:T}) = p_\theta(x_0)\;p_\theta(x_{1:T}\mid x_0)$, and put it into (2.9). $\log p_\theta(x_0)$ does not depend on the path and leaves the expectation:
# $$L = -\log p_\theta(x_0) + \mathbb E_q\left[\log\frac{q(x_{1:T}\mid x_0)}{p_\theta(x_{1:T}\mid x_0)}\right] = -\log p_\theta(x_0)+\operatorname{KL}\big(q(x_{1:T}\mid x_0)\,\big\|\,p_\theta(x_{1:T}\mid x_0)\big) .$$
# A Kullback-Leibler divergence is never negative, Jensen once more: $\mathbb E_q[-\log(p/q)]\ \ge\ -\log\mathbb E_q[p/q] = -\log 1 = 0$. On the grid, with the model's belief $p_\theta(x_{1:3}\mid x_0)$ normalised by its own sum:

# %% tags=["folded"]
belief = (p_3 + p_23 + p_12 + p_01).flatten().log_softmax(0).view(121, 121, 121) - math.log(dx**3)
gap = expect(q_01 + q_12 + q_23 - belief)
assert gap > 0 and abs(c - nll - gap) < 1e-6
print(f"KL(paths of q, paths of the model) = {gap:.4f}, and (c) = -log p(x_0) + KL to 1e-6")

# %% [markdown]
# **Line (d), products become sums.** Both chains are products of steps. Pair the $t$-th reverse step with the $t$-th forward step:
# $$L = \mathbb E_q\Big[-\log p(x_T) - \sum_{t\ge 1}\log\frac{p_\theta(x_{t-1}\mid x_t)}{q(x_t\mid x_{t-1})}\Big] . \qquad\text{(d)}$$

# %% tags=["folded"]
d = expect(-p_3 - (p_01 - q_01) - (p_12 - q_12) - (p_23 - q_23))
assert abs(c - d) < 1e-6
print(f"(d) {d:.4f}, equal to (c) to 1e-6")

# %% [markdown]
# One could train on (d), by drawing whole paths. But a path has a thousand steps, and we want to train on one step at a time. In (d) numerator and denominator run in opposite directions, $x_{t-1}$ given $x_t$ against $x_t$ given $x_{t-1}$, so a single term is not a divergence between two distributions of one variable. So rewrite each forward step, with Bayes' rule, as a step backwards.
#
# **Line (e), set $t = 1$ apart.** It leads to $x_0$, and will become a term of its own:
# $$L = \mathbb E_q\Big[-\log p(x_T) - \sum_{t\ge 2}\log\frac{p_\theta(x_{t-1}\mid x_t)}{q(x_t\mid x_{t-1})} - \log\frac{p_\theta(x_0\mid x_1)}{q(x_1\mid x_0)}\Big] . \qquad\text{(e)}$$

# %% tags=["folded"]
e = expect(-p_3) + expect(q_12 - p_12) + expect(q_23 - p_23) + expect(q_01 - p_01)
assert abs(d - e) < 1e-6
print(f"(e) {e:.4f}, equal to (d) to 1e-6: the same terms, averaged one by one")

# %% [markdown]
# **Line (f), Bayes, conditioned on $x_0$.** For $t\ge 2$ the chain forgets $x_0$ once $x_{t-1}$ is given, so we may write it in, and then apply Bayes' rule:
# $$q(x_t\mid x_{t-1}) = q(x_t\mid x_{t-1}, x_0) = \frac{q(x_{t-1}\mid x_t, x_0)\;q(x_t\mid x_0)}{q(x_{t-1}\mid x_0)} . \qquad\text{(f)}$$
# *Why condition on $x_0$?* Bayes without it is just as true: $q(x_{t-1}\mid x_t)\,q(x_t)/q(x_{t-1})$. But none of these three is known: each contains the distribution of all images. With $x_0$ given, all three are Gaussians of notebook 1: the posterior (1.6) and two jumps (1.2). And $x_0$ *is* given, we are computing the bound for one image. (For $t = 1$ the formula would say $q(x_0\mid x_1, x_0)$, a point, with no density. That is why $t = 1$ was set apart.)

# %%
def log_posterior(x_prev, x_t, i):
    """log q(x_{t-1} | x_t, x_0)."""
    column = x_t.reshape(-1, 1)
    q = short.q_posterior(x_0.expand_as(column), column, torch.full((len(column),), i))
    return log_normal(x_prev, q.mean.view(x_t.shape), q.log_var[0, 0].exp())

# %%
def log_jump(x_t, i):
    """log q(x_t | x_0)."""
    return log_normal(x_t, short.sqrt_alphas_bar[i] * x_0, 1 - short.alphas_bar[i])

# %% tags=["folded"]
jump_1, jump_2, jump_3 = log_jump(x_1, 0), log_jump(x_2, 1), log_jump(x_3, 2)
back_12, back_23 = log_posterior(x_1, x_2, 1), log_posterior(x_2, x_3, 2)
assert (q_12 - (back_12 + jump_2 - jump_1)).abs().max() < 1e-9
assert (q_23 - (back_23 + jump_3 - jump_2)).abs().max() < 1e-9
print(f"(f) holds at {q_12.numel():,} points (x_1, x_2) and {q_23.numel():,} points (x_2, x_3), to 1e-9")

# %% [markdown]
# **Line (g), put it in.** Every fraction of the sum falls into two; the logarithm makes them two sums:
# $$\begin{aligned} L = \mathbb E_q\Big[&-\log p(x_T) - \sum_{t\ge 2}\log\frac{p_\theta(x_{t-1}\mid x_t)}{q(x_{t-1}\mid x_t,x_0)} \\ &- \sum_{t\ge 2}\log\frac{q(x_{t-1}\mid x_0)}{q(x_t\mid x_0)} - \log\frac{p_\theta(x_0\mid x_1)}{q(x_1\mid x_0)}\Big] . \qquad\text{(g)} \end{aligned}$$

# %% tags=["folded"]
two_sums = -(p_12 - back_12) - (p_23 - back_23) - (jump_1 - jump_2) - (jump_2 - jump_3)
g = expect(-p_3 + two_sums - (p_01 - q_01))
assert abs(d - g) < 1e-6
print(f"(g) {g:.4f}, equal to (d) to 1e-6")

# %% [markdown]
# **Line (h), the second sum telescopes.** Write it out for $T = 3$: each term's denominator is the next term's numerator,
# $$\log\frac{q(x_1\mid x_0)}{q(x_2\mid x_0)}+\log\frac{q(x_2\mid x_0)}{q(x_3\mid x_0)} = \log q(x_1\mid x_0) - \log q(x_3\mid x_0) . \qquad\text{(h)}$$
# In general $\log q(x_1\mid x_0)-\log q(x_T\mid x_0)$ is left.

# %% tags=["folded"]
off = ((jump_1 - jump_2) + (jump_2 - jump_3) - (jump_1 - jump_3)).abs()
assert off.max() < 1e-9
print(f"(h) holds on all {off.numel():,} paths, to 1e-9")

# %% [markdown]
# **Line (i), cancel.** With (h), line (g) has $-\log q(x_1\mid x_0)$ from the sum and $+\log q(x_1\mid x_0)$ from its last term. They cancel. The $+\log q(x_T\mid x_0)$ joins $-\log p(x_T)$:
# $$L = \mathbb E_q\Big[\log\frac{q(x_T\mid x_0)}{p(x_T)} + \sum_{t\ge 2}\log\frac{q(x_{t-1}\mid x_t,x_0)}{p_\theta(x_{t-1}\mid x_t)} - \log p_\theta(x_0\mid x_1)\Big] . \qquad\text{(i)}$$

# %% tags=["folded"]
i_line = expect((jump_3 - p_3) + (back_12 - p_12) + (back_23 - p_23) - p_01)
assert abs(g - i_line) < 1e-6
print(f"(i) {i_line:.4f}, equal to (g) to 1e-6")

# %% [markdown]
# **The last line: expectations inside.** Each of the three parts looks at few variables only; the rest integrates to 1.
#
# - The first part sees only $x_T$. Its expectation under $q(x_T\mid x_0)$ *is* a divergence: $\operatorname{KL}\big(q(x_T\mid x_0)\,\|\,p(x_T)\big)$.
# - The $t$-th term of the sum sees $x_{t-1}$ and $x_t$. Their joint density is $q(x_t\mid x_0)\,q(x_{t-1}\mid x_t,x_0)$. Average over $x_{t-1}$ first, $x_t$ held fixed: that inner average is again a divergence.
# - The last part sees only $x_1$.
#
# $$\begin{aligned} L = {}&\underbrace{\operatorname{KL}\big(q(x_T\mid x_0)\,\|\,p(x_T)\big)}_{L_T} + \sum_{t\ge 2}\underbrace{\mathbb E_{q(x_t\mid x_0)}\operatorname{KL}\big(q(x_{t-1}\mid x_t,x_0)\,\|\,p_\theta(x_{t-1}\mid x_t)\big)}_{L_{t-1}} \\ &\underbrace{-\,\mathbb E_{q(x_1\mid x_0)}\log p_\theta(x_0\mid x_1)}_{L_0} . \end{aligned}$$
#
# This is (2.10). The integrals are now over one or two variables, each on its own grid:

# %%
def inner(i):
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for every x_t of the grid, by a sum over x_{t-1}."""
    rows, columns = grid[:, None], grid[None, :]
    back = log_posterior(rows, columns, i)
    return (back.exp() * (back - log_p(rows, columns, i))).sum(0) * dx

# %%
def outer(values, i):
    """E over x_t ~ q(x_t | x_0)."""
    return (log_jump(grid, i).exp() * values).sum() * dx

# %%
L_T = outer(log_jump(grid, 2) - log_normal(grid, 0.0, torch.ones(())), 2)
L_2, L_1 = outer(inner(2), 2), outer(inner(1), 1)
L_0 = outer(-log_p(x_0, grid, 0), 0)

# %% tags=["folded"]
total = L_T + L_2 + L_1 + L_0
assert abs(total - i_line) < 1e-6
terms = f"L_T {L_T:.5f} + L_2 {L_2:.5f} + L_1 {L_1:.5f} + L_0 {L_0:.5f}"
print(f"{terms} = {total:.4f}, equal to (i) to 1e-6")
print(f"-log p(x_0) itself: {nll:.4f}")
drawn, drawn_nll = bound_terms(0.3)  # figure 2.9
assert abs(total - sum(drawn)) < 1e-3 and abs(nll - drawn_nll) < 1e-3

# %% [markdown]
# Every $L_{t-1}$ compares two Gaussians *in the same direction*: the posterior, which knows $x_0$, and the model's step, which does not. Such a divergence has a formula (section 2.11), so the average over $x_{t-1}$ need not be drawn. That makes each term steadier. Its standard deviation, with $x_{t-1}$ drawn as in (i) and averaged as in (2.10):

# %%
def std(values):
    return (expect(values**2) - expect(values) ** 2).sqrt()

# %%
print(f"L_2: drawn {std(back_23 - p_23):.2f}, averaged {std(inner(2).view(1, 1, -1)):.2f}")
print(f"L_1: drawn {std(back_12 - p_12):.2f}, averaged {std(inner(1).view(1, -1, 1)):.2f}")

# %% [markdown]
# And each term needs only one $x_t$, which one jump delivers. So a training step can pick a single $t$ and still work on the whole bound.
#
# *Import.* `bound.prior_kl` and `bound.vlb_term` are the terms, in bits per dimension. The average over $x_t$ is here a sum over the noise:

# %%
noise, start = grid[:, None], x_0.expand(121, 1)
weight = log_normal(grid, 0.0, torch.ones(())).exp() * dx
bits = bound.prior_kl(short, start[:1])
for i in range(3):
    t = torch.full((121,), i)
    x_t = short.q_sample(start, t, noise)
    bits = bits + weight @ bound.vlb_term(short, p(x_t, i).p, start, x_t, t, decoder=bound.density)

# %% tags=["folded"]
assert abs(bits * math.log(2) - total) < 1e-6
print(f"the package: {bits.item():.4f} bits = {bits.item() * math.log(2):.4f} nats, equal to 1e-6")

# %% [markdown]
# *See* the bound for every $x_0$, not only for 0.8. The function repeats the last two cells for a whole row of $x_0$:

# %%
def bound_at(starts):
    """L in nats for each x_0 of starts, (N,)."""
    x_0 = starts.repeat_interleave(121)[:, None]
    nats = bound.prior_kl(short, starts[:, None])
    for i in range(3):
        t = torch.full((len(x_0),), i)
        x_t = short.q_sample(x_0, t, noise.repeat(len(starts), 1))
        term = bound.vlb_term(short, p(x_t, i).p, x_0, x_t, t, decoder=bound.density)
        nats = nats + term.view(-1, 121) @ weight
    return nats * math.log(2)

# %%
fine = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)
log_data = torch.logsumexp(share.log() + log_normal(fine[:, None], places, widths**2), 1)
log_model = (log_p(fine[:, None], grid[None, :], 0).exp() @ density * dx).log()
lower = -bound_at(fine)

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
axes[0].plot(fine, log_data, color="0.5", label=r"$\log q(x_0)$, the data")
axes[0].plot(fine, log_model, color=plots.BLUE, label=r"$\log p_\theta(x_0)$, the model")
axes[0].plot(fine, lower, "--", color=plots.VERMILION, label="$-L$, the bound")
_ = axes[0].set(xlabel="$x_0$", ylabel="nats", ylim=(-8, 4))
_ = axes[0].legend(fontsize="small", loc="upper center", ncols=2)
axes[1].plot(fine, log_model - lower, color=plots.VERMILION)
_ = axes[1].set(xlabel="$x_0$", ylabel=r"$\log p_\theta(x_0) + L$, the gap", ylim=(0, None))

# %% [markdown]
# *Figure 2.14.* Left: the bound (dashed) lies below the model's log-likelihood at every $x_0$. Right: the gap. The bound may lie above the *data's* log density, and does between the clusters and beyond them: there the model gives probability to points that the data do not have. <!-- alt: Left: two narrow peaks of the data, one broad curve of the model, and the bound closely below the model. Right: the gap, smallest near -0.3 and growing to both sides. -->
#
# > **Predict.** If $-L$ can exceed $\log q(x_0)$ at single points, can it also on average over the data?
# > <details><summary>Then look</summary>No. On average over q, no density has a higher log-likelihood than q itself: the difference is a divergence again. So $L$, averaged over the data, is at least the data's entropy.</details>

# %% tags=["folded"]
q_fine = log_data.exp() / log_data.exp().sum()
assert (lower < log_model).all()
print(f"-L lies above log q at {(lower > log_data).double().mean():.0%} of these x_0;")
print(f"on average over the data it is {q_fine @ lower:.2f}, and log q is {q_fine @ log_data:.2f}")

# %% [markdown] tags=["deeper"]
# ## 2.11 Going deeper: one term, derived

# %% [markdown]
# *Question.* $L_{t-1}$ is a divergence between two Gaussians. What must the network do to make it small?
#
# *Derive, the divergence.* Let $p_1 = \mathcal N(\mu_1, v_1)$ and $p_2 = \mathcal N(\mu_2, v_2)$ in one dimension. The term $\log 2\pi$ cancels in the difference of the logarithms:
# $$\begin{aligned}
# \operatorname{KL}(p_1\|p_2) &= \mathbb E_{p_1}\big[\log p_1(x)-\log p_2(x)\big] \\
# &= \mathbb E_{p_1}\Big[-\tfrac12\log v_1 - \tfrac{(x-\mu_1)^2}{2v_1} + \tfrac12\log v_2+\tfrac{(x-\mu_2)^2}{2v_2}\Big] .
# \end{aligned}$$
# Under $p_1$ the first square averages to $v_1$. For the second insert $\mu_1$: $(x-\mu_2)^2 = (x-\mu_1)^2 + 2(x-\mu_1)(\mu_1-\mu_2)+(\mu_1-\mu_2)^2$, and the middle part averages to 0. It becomes $v_1+(\mu_1-\mu_2)^2$. So
# $$\operatorname{KL}(p_1\|p_2) = \frac12\left[\frac{v_1}{v_2}-1-\log\frac{v_1}{v_2}+\frac{(\mu_1-\mu_2)^2}{v_2}\right] .$$
# This is (2.11). For images with independent coordinates the logarithms add, so the divergences of the coordinates add.
#
# *By brute force*, summing $p_1\,(\log p_1-\log p_2)$ on a grid:

# %%
x = torch.linspace(-30, 30, 60001, dtype=torch.float64)
(m_1, v_1), (m_2, v_2) = torch.tensor([[0.3, 0.5], [-0.2, 2.0]], dtype=torch.float64)
log_1, log_2 = log_normal(x, m_1, v_1), log_normal(x, m_2, v_2)
forth, back = (log_1.exp() @ (log_1 - log_2) * 0.001, log_2.exp() @ (log_2 - log_1) * 0.001)
print(f"KL(1 || 2) = {forth:.4f} nats, KL(2 || 1) = {back:.4f} nats")

# %% [markdown]
# The two directions differ. Where the narrow Gaussian has mass, the wide one has some too. Where the wide one has mass, the narrow one often has almost none, and that is expensive. In $L_{t-1}$ the posterior comes first, the model second. Your `gaussian_kl` says the same:

# %%
assert abs(gaussian_kl(m_1, v_1, m_2, v_2) - forth) < 1e-6
assert abs(gaussian_kl(m_2, v_2, m_1, v_1) - back) < 1e-6

# %% [markdown]
# *The term.* In $L_{t-1}$ the first Gaussian is the posterior $\mathcal N(\tilde\mu_t, \tilde\beta_t I)$, the second the model's step $\mathcal N(\mu_\theta, \sigma_t^2 I)$. Leave the variances alone for now: choose $\sigma_t^2$ by hand. Then only one part of (2.11) contains the network. With $D$ coordinates and $r = \tilde\beta_t/\sigma_t^2$,
# $$L_{t-1} = \mathbb E_q\left[\frac{1}{2\sigma_t^2}\,\big\|\tilde\mu_t(x_t,x_0)-\mu_\theta(x_t,t)\big\|^2\right] + C,\qquad C = \frac D2\,(r-1-\log r) .$$
# This is (2.12), with its constant. *Verify* at all $t\ge 2$ at once, with means that are off by a random amount:

# %%
ts = torch.arange(1, 1000)
x_0, x_t, wrong = torch.randn(3, 999, 1, dtype=torch.float64)
q = process.q_posterior(x_0, x_t, ts)
log_var = process.betas[ts, None].log()
r = (q.log_var - log_var).exp()

# %% tags=["folded"]
kl = q.kl(Gaussian(q.mean + wrong, log_var))
distance = wrong**2 / (2 * log_var.exp())
assert (kl / (distance + (r - 1 - r.log()) / 2) - 1).abs().max() < 1e-9
C = (r - 1 - r.log())[:, 0] / 2
print(f"KL = distance + C to 1e-9 at every t; C is {C[0]:.3f} nats at t = 1 and {C[99]:.6f} at t = 100")

# %% [markdown]
# $C$ is there because $\sigma_t^2 = \beta_t$ is not the posterior's variance. It fades as both become equal, and no mean can change it.
#
# *The mean.* Your solution of exercise 2.2, number by number, against the detour through $x_0$ and the posterior:

# %% tags=["folded"]
beta, alpha, a = process.betas, process.alphas, process.alphas_bar
worst = 0.0
for t in range(1000):
    x_t, eps = torch.randn(2, 1, 1, dtype=torch.float64)
    x_0 = (x_t - (1 - a[t]).sqrt() * eps) / a[t].sqrt()
    direct = (x_t - beta[t] / (1 - a[t]).sqrt() * eps) / alpha[t].sqrt()
    worst = max(worst, (direct - process.q_posterior(x_0, x_t, torch.tensor([t])).mean).abs().item())
assert worst < 1e-10
print("(2.2) and the detour through x_0: equal to 1e-10 at all 1000 t")

# %% [markdown]
# *The weight, by brute force.* Two models, one with the right noise and one that is off by 1. What does that 1 cost?

# %%
for t in (1, 10, 100, 999):
    step, x_t = torch.tensor([t]), torch.zeros(1, 1, dtype=torch.float64)
    x_0s = (process.x_0_from_eps(x_t, step, x_t + e) for e in (0.0, 1.0))
    q, off = (process.q_posterior(x_0, x_t, step) for x_0 in x_0s)
    # noise 0 against noise 1, both models with the variance beta_t
    log_var = beta[t].log().view(1, 1)
    cost = q.kl(off._replace(log_var=log_var)) - q.kl(q._replace(log_var=log_var))
    print(f"t = {t:3}: an error of 1 in the noise costs {cost.item():.4f} nats")
    assert abs(weights["fixedlarge"][t] - cost.item()) < 1e-6 * cost.item()

# %% [markdown] tags=["deeper"]
# ## 2.12 Going deeper: five losses, one network

# %% [markdown]
# *Question.* A network may predict the noise, or $x_0$, or the mean of $x_{t-1}$, or $v$ (a mixture of image and noise), or the score. Which is right?
#
# *Derive.* $x_t$ is known to the network. Once it is given, each of the five is a linear function of $x_0$. So an error $e = \hat x_0 - x_0$ in the image means an error in each of the others, by a factor that is the slope:
#
# | target | in terms of $x_0$ and $x_t$ | squared error |
# |---|---|---|
# | $x_0$ | $x_0$ | $e^2$ |
# | $\epsilon$ | $(x_t-\sqrt{\bar\alpha_t}\,x_0)/\sqrt{1-\bar\alpha_t}$ | $\operatorname{SNR}\,e^2$ |
# | $v = \sqrt{\bar\alpha_t}\,\epsilon-\sqrt{1-\bar\alpha_t}\,x_0$ | $(\sqrt{\bar\alpha_t}\,x_t-x_0)/\sqrt{1-\bar\alpha_t}$ | $(\operatorname{SNR}+1)\,e^2$ |
# | $\tilde\mu_t$, the mean of $x_{t-1}$ | $\text{coef1}\cdot x_0+\text{coef2}\cdot x_t$ | $\text{coef1}^2\,e^2$ |
# | $s$, the score | $-(x_t-\sqrt{\bar\alpha_t}\,x_0)/(1-\bar\alpha_t)$ | $\operatorname{SNR}/(1-\bar\alpha_t)\;e^2$ |
#
# The row of $v$: its slope is $-\bar\alpha_t/\sqrt{1-\bar\alpha_t}-\sqrt{1-\bar\alpha_t} = -(\bar\alpha_t+1-\bar\alpha_t)/\sqrt{1-\bar\alpha_t}$, and the square is $1/(1-\bar\alpha_t) = \operatorname{SNR}+1$. So
# $$\begin{aligned} \|\hat\epsilon-\epsilon\|^2 &= \operatorname{SNR}\,\|\hat x_0-x_0\|^2 = \frac{\operatorname{SNR}}{\operatorname{SNR}+1}\,\|\hat v-v\|^2 \\ &= \frac{\operatorname{SNR}}{\text{coef1}^2}\,\|\mu_\theta-\tilde\mu_t\|^2 = (1-\bar\alpha_t)\,\|\hat s-s\|^2 . \end{aligned} \tag{2.14}$$
# **Five losses, equal up to a weight, in value and in gradient.** The conditions: *one* network with one meaning, whose output is converted; $\bar\alpha_t > 0$; nothing is clipped on the way; and the target for $x_{t-1}$ is the posterior's *mean*. (A sampled $x_{t-1}$ has the same expected gradient, with more noise.)
#
# *Verify* with a small network of random weights, in float64: convert its output to all five, weigh, and differentiate.

# %%
torch.manual_seed(0)
net = MLP(1000, dim=2, hidden=16, layers=2).double()
t, x_0 = torch.randint(1, 1000, (500,)), data.eight_gaussians(500).double()
noised = process.noised(x_0, t)  # Noised(x_0, t, noise, x_t): a draw, and all that it was made of
x_t = noised.x_t
output = epsilon.decode(process, x_t, t, net(x_t, t))

# %%
def error(mean_type):
    """Converted output minus target of this MeanType."""
    converted = noised._replace(x_0=output.x_0, noise=output.eps)
    return mean_type.target(process, converted) - mean_type.target(process, noised)

# %%
snr, var = process.snr[t, None], 1 - process.alphas_bar[t, None]
coef1 = process.posterior_mean_coef1[t, None]
score_error = process.score_from_x_0(x_t, t, output.x_0) - process.score_from_x_0(x_t, t, x_0)
weighted = {"noise": error(epsilon) ** 2, "x_0": snr * error(xstart) ** 2}
weighted |= {"v": snr / (snr + 1) * error(velocity) ** 2, "mean": snr / coef1**2 * error(xprev) ** 2}
weighted |= {"score": var * score_error**2}

# %%
def gradient(loss):
    weights = [w for w in net.parameters() if w.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss.mean(), weights, retain_graph=True)])

# %%
value, slope = weighted["noise"].mean(), gradient(weighted["noise"])
for name, loss in weighted.items():
    off = (gradient(loss) - slope).norm() / slope.norm()
    assert abs(loss.mean() / value - 1) < 1e-6 and off < 1e-6
    found = f"value {loss.mean():.2f}, size of the gradient {gradient(loss).norm():.2f}"
    print(f"{name:5}: {found}, both equal to those of the noise to 1e-6")

# %% [markdown]
# So which is right? All five, *as answers*. As tasks for a network they differ; in practice the noise and $v$ are used most (section 2.8 has DDPM's comparison). Without the weights, each loss looks at other steps. And a network's own errors pass through the conversion: section 1.8 counted by how much.
#
# > **Predict.** Train on the plain error of $x_0$, without any weight. Compared with the plain error of the noise, which steps does it stress?
# > <details><summary>Then look</summary>Large t. The error of x_0 is the error of the noise divided by SNR, and SNR falls to 0.00004. Where x_t is nearly all noise, x_0 is a pure guess, and its plain error is as large as the data.</details>

# %% [markdown]
# **What goes wrong: training and sampling disagree about the meaning.** In *the post*, the blog post of section 1.1, the trainer always fits the noise; the sampler has an option `mean_type`, with which it takes the *same* network's output for $x_0$ or for $x_{t-1}$. To see what that does, no training is needed: take the *perfect* noise predictor for Gaussian data, `oracle.GaussianData`, and let the sampler take its output for $x_0$. Everything is linear, so the final size follows exactly: each reverse step multiplies by a slope and adds noise.

# %%
def final_rms(model, mean_type):
    """Root mean square of the samples, exactly, for a model that is linear in x_t."""
    p = reverse(process, make_denoiser(model, process, mean_type), fixedlarge)
    one, var = torch.ones(1, 1, dtype=torch.float64), 1.0
    for i in reversed(range(1000)):
        step = p(one, i).p
        var = step.mean.item() ** 2 * var + (step.log_var.exp().item() if i > 0 else 0)
    return math.sqrt(var)

# %%
for std in (0.1, 0.25, 0.5):
    gaussian = oracle.GaussianData(process, torch.zeros(1, dtype=torch.float64), std)
    wrong = [final_rms(gaussian.as_model(epsilon), read_as) for read_as in (xstart, xprev)]
    print(f"data N(0, {std}^2): read as x_0: rms {wrong[0]:.2g}, read as x_prev: rms {wrong[1]:.2g}")

# %% [markdown]
# Noise read as $x_0$ is a multiple of $x_t$, and the multiple decides:

# %%
for std in (0.1, 0.25, 0.5):
    a = process.alphas_bar
    factor = (1 - a).sqrt() / (a * std**2 + 1 - a)
    above = (factor > 1).double().mean()
    found = f"{factor[0]:.2f} at t = 0, at most {factor.max():.2f}, above 1 at {above:.1%} of the steps"
    print(f"std {std}: {found}")

# %% [markdown]
# Narrow data: large at small t too, and the samples explode. Wide data: above 1 at most steps, but small t, which come last in sampling, shrink everything. The same bug explodes or collapses, and gives no error message for either. *Repair:* one object says what an output means, and both sides use it: `xstart.target` in training, `xstart.decode` in sampling. Then every meaning gives the right samples:

# %%
gaussian = oracle.GaussianData(process, torch.zeros(1, dtype=torch.float64), 0.25)
for mean_type in (epsilon, xstart):
    rms = final_rms(gaussian.as_model(mean_type), mean_type)
    print(f"{mean_type.name:7} trained and sampled: rms {rms:.2f}")

# %% [markdown]
# **What goes wrong: the wrong inverse, and "sampling's objective".** Where the post says that the noise leads to $x_0$, its code shows `predict_xstart_from_xprev`, the inverse of the posterior mean (and loses a parenthesis; the line for $x_t$ stands behind a `return` and never runs). Feed the noise to it, and the result is far off:

# %% tags=["folded"]
t = torch.full((500,), 500)
noise = torch.randn_like(x_0)
x_t = process.q_sample(x_0, t, noise)
wrong = process.x_0_from_x_prev(x_t, t, noise)
right = process.x_0_from_eps(x_t, t, noise)
assert (right - x_0).abs().max() < 1e-9 and (wrong - x_0).abs().max() > 50
print("through x_0_from_eps: off by less than 1e-9; through x_0_from_x_prev: by more than 50")

# %% [markdown]
# The post also speaks of a "training and sampling objective", and of "the Gaussian of $x_t$". Sampling has no objective: nothing is minimised; sampling draws from $p_\theta$. And the Gaussian whose mean and variance the sampler computes is that of $x_{t-1}$ *given* $x_t$, $p_\theta(x_{t-1}\mid x_t)$. Over all images $x_t$ is no Gaussian; figure 2.8 shows it.

# %% [markdown] tags=["deeper"]
# ## 2.13 Going deeper: the two ends, and bits per dimension

# %% [markdown]
# *Question.* $L_{t-1}$ is done. What are $L_T$ and $L_0$ for an image, and what does the whole bound mean in a unit that one can picture?
#
# *Derive, $L_T$.* By (1.2) the chain ends in $\mathcal N(\sqrt{\bar\alpha_T}\,x_0,\ (1-\bar\alpha_T)I)$; the prior is $\mathcal N(0, I)$. Put both into (2.11), with $v_1 = 1-\bar\alpha_T$, $v_2 = 1$:
# $$\begin{aligned} L_T &= \frac12\sum_{\text{pixels}}\Big[(1-\bar\alpha_T)-1-\log(1-\bar\alpha_T)+\bar\alpha_T\,x_0^2\Big] \\ &= \frac12\sum_{\text{pixels}}\Big[\bar\alpha_T\,(x_0^2-1)-\log(1-\bar\alpha_T)\Big] . \end{aligned} \tag{2.15}$$
# No network in it: $L_T$ only says whether the chain is long enough.
#
# *Derive, $L_0$.* Pixels are not real numbers. They take `levels` values, equally spaced from −1 to 1: 256 in a photograph, **17 in our digits**. So the last step should give a *probability* to each level. DDPM takes the Gaussian $\mathcal N(\mu, \sigma^2)$ of the last step and cuts the line into bins, one around each level, half a level to both sides. The outer bins are open, so that nothing is lost:
# $$\begin{aligned} P(x_0) &= \int_{\delta_-(x_0)}^{\delta_+(x_0)}\mathcal N(x;\mu,\sigma^2)\,dx, \\ \delta_\pm(x_0) &= x_0\pm\tfrac{1}{\text{levels}-1}, \\ \delta_+(1) &= \infty,\quad \delta_-(-1) = -\infty . \end{aligned} \tag{2.16: DDPM Eq. 13}$$
#
# *By brute force:* sum the density over each bin. (The exercise below wants the closed form.)

# %%
levels = torch.linspace(-1, 1, 17, dtype=torch.float64)
mu, std = torch.tensor([0.8, 0.1], dtype=torch.float64)
x = torch.linspace(-4, 4, 800_001, dtype=torch.float64)
bins = (levels - x[:, None]).abs().argmin(1)
mass = torch.zeros(17, dtype=torch.float64).index_add(0, bins, log_normal(x, mu, std**2).exp() * 1e-5)

# %% tags=["folded"]
p_0 = Gaussian(mu.expand(17), 2 * std.log())
found = p_0.discretized_log_prob(levels, 17).exp()
assert (found - mass).abs().max() < 1e-4 and abs(found.sum() - 1) < 1e-12
print(f"the 17 probabilities add up to {found.sum():.4f}, the sums over the bins to {mass.sum():.4f}")
print(f"the largest of them: {found.max():.2f}, by brute force {mass.max():.2f}")

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.bar(levels, mass, width=0.11, color=plots.SKY, edgecolor="white", label="probability of the level")
label = "density times the width of a bin, 1/8"
ax.plot(x, log_normal(x, mu, std**2).exp() / 8, color=plots.VERMILION, label=label)
for edge in (levels[1:] + levels[:-1]) / 2:
    ax.axvline(edge, color="0.85", linewidth=0.6, zorder=0)
_ = ax.set(xlabel="level of $x_0$", xlim=(0.2, 2)), ax.legend(fontsize="small", loc="right")

# %% [markdown]
# *Figure 2.15.* The probabilities of the upper levels for μ = 0.8, σ = 0.1 (bars), the density (line) and the edges of the bins (grey). The last bin reaches up to infinity: its bar holds the whole tail beyond 0.94. <!-- alt: Bars over the levels from 0.5 to 1 under a bell curve; the bar at level 1 stands for the tail that runs on beyond 1. -->
#
# **Exercise 2.8 (two stars, 10 minutes).** The *logarithm* of (2.16), elementwise, in nats. `x` holds values on the grid of `levels`, `mean` has x's shape, `std` broadcasts.
# <details><summary>Hint 1</summary>The normal distribution function at both edges, torch.special.ndtr((edge - mean) / std), and their difference. At the ends take 0 and 1.</details>
# <details><summary>Hint 2</summary>Find the ends with x < -1 + half and x > 1 - half, where half = 1 / (levels - 1): a float32 pixel is not always exactly 1. (Far out in a tail the difference rounds to 0 and its logarithm to minus infinity. The check stays within 4 standard deviations; published code clamps the difference at 1e-12.)</details>

# %%
def discretized_log_prob(x, mean, std, levels):
    ...

# %%
discretized_log_prob = checks.discretized_log_prob(discretized_log_prob)

# %% [markdown]
# *The unit.* A probability of $2^{-b}$ costs $b$ bits: a good compressor needs that many binary digits. The bound in bits, divided by the number of pixels, is **bits per dimension** (每维比特). A pixel with 17 equally likely levels costs $\log_2 17 = 4.09$ bits. A model that knows digits must do better.
#
# *Measure it* for a model without training: the exact denoiser for data that scatter around the ten *average digits*, its estimate of $x_0$ clipped to [−1, 1] as in sampling. As a model of digits it is blurry, so this is a bound with a poor network; its terms have the typical shape.

# %%
images = data.digits().x_0.flatten(1)
x_train, y_train = data.digits("train")[:]
x_test = data.digits("test").x_0.flatten(1)
x_train = x_train.flatten(1)
means = torch.stack([x_train[y_train == k].mean(0) for k in range(10)])
spread = (x_train - means[y_train]).square().mean().sqrt()
ten = oracle.Mixture(process, torch.ones(10), means, spread.expand(10))

# %%
of_17 = bound.discretized(17)
bits = bound.bits_per_dim(
    ten.as_model(epsilon), process, epsilon, fixedlarge, x_test[:100],
    decoder=of_17, generator=torch.Generator().manual_seed(0),
)  # fmt: skip

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3))
axes[0].loglog(range(1, 1001), bits.terms, color=plots.BLUE)
_ = axes[0].set(xlabel="t + 1", ylabel="bits/dim of one term")
axes[1].semilogx(range(1, 1001), bits.terms.cumsum(0), color=plots.BLUE)
_ = axes[1].set(xlabel="t + 1", ylabel="bits/dim of all terms up to t", ylim=(0, None))

# %% [markdown]
# *Figure 2.16.* The bound of the ten-averages model, split into its terms. Left: $L_0$ (far left) and each $L_{t-1}$, over nearly seven decades. Right: their running sum. It climbs over all *decades* of t: a tenth of the steps carries most of the bits, the second half adds next to nothing. $L_T$ would not be visible. <!-- alt: Left, on two logarithmic axes, the terms rise to a maximum and fall over many decades. Right, the running sum climbs from 0 to a little above 4 bits. -->

# %% tags=["folded"]
assert bits.prior < 1e-4 and bits.terms[0] < 1e-4 and bits.terms[:100].sum() > 0.8 * bits.terms.sum()
print("L_T and L_0 are below 0.0001 bits/dim")
print("the first 100 of 1000 terms hold more than 80 % of the bound")
guess = f"guessing one of 17 levels costs log2(17) = {math.log2(17):.1f}"
print(f"the bound: {bits.total:.1f} bits/dim; {guess}")

# %% [markdown]
# A model that knows only ten average digits and one spread has a bound above the cost of guessing every pixel. (Only the bound: the likelihood itself may be better.) Section 2.16 measures a network in the same way. And why is $L_0$ so small? The first step's noise has standard deviation 0.01, and half a level is 0.0625 wide: $x_1$ shows the level without doubt.
#
# **What goes wrong: 256 levels for 17.** DDPM's code is written for 8-bit images. Used on these digits, its bins are 2/255 wide instead of 2/16, and $L_0$ charges for fine detail that the data never have:

# %%
n = len(x_test)
first = torch.zeros(n, dtype=torch.int64)
x_1 = process.q_sample(x_test, first, torch.randn(n, 64, generator=torch.Generator().manual_seed(0)))
p_1 = p_from_output(process, epsilon, fixedlarge, ten.as_model(epsilon)(x_1, first), x_1, first)
for levels in (17, 256):
    L_0 = bound.decoder_nll(p_1, x_test, bound.discretized(levels)).mean()
    print(f"L_0 with {levels:3} levels: {L_0:.1f} bits/dim")

# %% [markdown]
# **What goes wrong: the variance of the last step.** At $t = 1$ the posterior's variance is 0, and a model cannot use that: its $L_0$ would be infinite. Something has to stand there. DDPM's first code clips at $10^{-20}$; the post, like later code, uses the variance of index 1 also at index 0. A third choice is $\beta_1$ itself. What they cost depends on how far off the network's last estimate is. Say it is off by a Gaussian with standard deviation 0.002, 0.0074 or 0.01 (a grey level of 256 is 0.0078 wide), and average the bits of one interior pixel. DDPM's code keeps probabilities from falling below $10^{-12}$, so that is done here too:

# %%
off_by = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
chance = torch.softmax(-0.5 * off_by**2, 0)

# %%
def interior_bits(std, var, floor=True):
    """Mean bits of an interior pixel, 256 levels, whose estimate is off by N(0, std^2)."""
    lowest = math.log(1e-12) if floor else -math.inf
    pixel = torch.tensor(1 / 255, dtype=torch.float64)
    p = Gaussian(pixel + std * off_by, torch.tensor(var, dtype=torch.float64).log())
    nats = -p.discretized_log_prob(pixel).clamp(min=lowest)
    return (chance @ nats).item() / math.log(2)

# %%
beta_1, second = process.betas[0].item(), process.posterior_var[1].item()
print("off by:                      0.002  0.0074    0.01")
for name, var in (("beta_1", beta_1), ("posterior_var[1]", second), ("1e-20", 1e-20)):
    row = [interior_bits(std, var) for std in (0.002, 0.0074, 0.01)]
    print(f"sigma^2 = {name:16}", *(f"{bits:7.3g}" for bits in row))
unbounded = interior_bits(0.0074, 1e-20, floor=False)
print(f"1e-20 without the floor, off by 0.0074: {unbounded:.1e} bits")

# %% [markdown]
# With variance $10^{-20}$ the model is *certain*. Inside the right bin that is free; outside, every pixel costs the floor, $\log_2 10^{12} = 40$ bits, and without the floor astronomically more. With a floor the probabilities no longer add up to 1, so no model has this likelihood; say so when you report one. The post mentions KL and a decoder likelihood in comments, but has neither. Its sampler does not need them: the last step adds no noise.

# %% [markdown] tags=["deeper"]
# ## 2.14 Going deeper: which variance?

# %% [markdown]
# *Question.* $\sigma_t^2$ was "chosen by hand". DDPM offers two choices, $\beta_t$ (*fixedlarge*) and $\tilde\beta_t$ (*fixedsmall*), and says that each is optimal for some data. For which?
#
# *Derive.* Take the mean of $L_{t-1}$ over the data. With (2.11), per coordinate, and $d_t = \mathbb E(\tilde\mu_t-\mu_\theta)^2$:
# $$\mathbb E\,L_{t-1} = \frac12\left[\frac{\tilde\beta_t+d_t}{\sigma_t^2}-1-\log\tilde\beta_t+\log\sigma_t^2\right] .$$
# The derivative in $\sigma_t^2$, $\tfrac12\big[-(\tilde\beta_t+d_t)/\sigma_t^4+1/\sigma_t^2\big]$, is 0 where
# $$\sigma_t^2 = \tilde\beta_t+\mathbb E(\tilde\mu_t-\mu_\theta)^2 . \tag{2.17}$$
# The model's variance must cover two things: the posterior's own, and what the network cannot know. For the exact denoiser $\tilde\mu_t-\mu_\theta = \text{coef1}\cdot(x_0-\mathbb E[x_0\mid x_t])$, so $d_t = \text{coef1}^2\;\mathbb E\operatorname{Var}(x_0\mid x_t)$.
#
# - *Data in a single point.* $x_0$ is known, $d_t = 0$: the optimum is $\tilde\beta_t$. **fixedsmall.**
# - *Data $\mathcal N(0, 1)$.* Then $x_0$ and $x_t$ are jointly Gaussian with correlation $\sqrt{\bar\alpha_t}$, so $\operatorname{Var}(x_0\mid x_t) = 1-\bar\alpha_t$, and with (1.6)
# $$\tilde\beta_t+d_t = \frac{(1-\bar\alpha_{t-1})\,\beta_t}{1-\bar\alpha_t}+\frac{\bar\alpha_{t-1}\,\beta_t^2}{1-\bar\alpha_t} = \beta_t\,\frac{1-\bar\alpha_{t-1}(1-\beta_t)}{1-\bar\alpha_t} = \beta_t\,\frac{1-\bar\alpha_t}{1-\bar\alpha_t} = \beta_t .$$
#   **fixedlarge.** (At $t = 1$ too, where $\tilde\beta_1 = 0$ and $\bar\alpha_0 = 1$.)
# - *Any data of variance $s^2\le1$.* The best *linear* estimate of $x_0$ from $x_t$ has the mean squared error $s^2\,(1-\bar\alpha_t)/(\bar\alpha_t s^2+1-\bar\alpha_t)$, which is at most $1-\bar\alpha_t$, and the exact denoiser's is no larger. So the optimum lies **between the two**.
#
# *Verify.* For $\mathcal N(0, 1)$ data and variances $\beta_t$, every reverse step is exactly the true one. Then the bound has no gap, and equals the entropy of the data, $\tfrac12\log_2(2\pi e) = 2.0471$ bits. To take expectations *exactly*, note that every term is quadratic in $(x_0, \epsilon)$: averaging over the four corners $(\pm1, \pm1)$, which also have means 0, variances 1 and no correlation, gives the same.

# %%
corners = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64).repeat(1000, 1)
ts = torch.arange(1000).repeat_interleave(4)
x_0, noise = corners[:, :1], corners[:, 1:]
x_t = process.q_sample(x_0, ts, noise)
normal_data = oracle.GaussianData(process, torch.zeros(1, dtype=torch.float64), 1.0)

# %%
def terms(log_var):
    """E of L_0 and of every L_{t-1} for N(0, 1) data, bits, for a table of log variances."""
    mean = process.q_posterior(normal_data(x_t, ts).x_0, x_t, ts).mean
    p = Gaussian(mean, log_var[ts, None])
    return bound.vlb_term(process, p, x_0, x_t, ts, decoder=bound.density).view(1000, 4).mean(1)

# %% tags=["folded"]
end = bound.prior_kl(process, x_0).mean()
entropy = 0.5 * math.log2(2 * math.pi * math.e)
with_betas = terms(process.betas.log())
assert abs(end + with_betas.sum() - entropy) < 1e-10
print(f"beta at every step: {end + with_betas.sum():.4f} bits, the entropy to 1e-10")

# %%
point = process.q_posterior(torch.zeros_like(x_t), x_t, ts)  # data: the point 0, known to the denoiser
for name, scale in (("posterior_var", 1.0), ("half of it", 0.5), ("twice it", 2.0)):
    p = Gaussian(point.mean, point.log_var + math.log(scale))
    cost = point.kl(p)[4:].mean().item()
    print(f"data in one point, variance {name:13}: {cost:.4f} nats per step")
repeated = end + terms(process.log_betas_clipped).sum()
print(f"fixedlarge, with posterior_var[1] at t = 0: {repeated:.3f} bits")
print(f"fixedsmall: {end + terms(process.posterior_log_var_clipped).sum():.3f} bits")

# %% [markdown]
# Fixedlarge is above 2.047 because of the last step alone: like published code, the package takes `posterior_var[1]` at $t = 0$, about half of $\beta_1$. Fixedsmall is too narrow at every step. (All this without clipping.)
#
# Data scaled to variance 1 or less per coordinate lie between the two: more certain than $\mathcal N(0, 1)$, less than a point. *See* where, for the eight clusters, with $d_t$ estimated from 4000 points by (2.17):

# %%
def best_share(t):
    """Where the best log variance lies between fixedsmall (0) and fixedlarge (1)."""
    x_0, step = data.eight_gaussians(4000).double(), torch.full((4000,), t)
    x_t = process.q_sample(x_0, step, torch.randn_like(x_0))
    d = process.posterior_mean_coef1[t] ** 2 * (eight(x_t, step).x_0 - x_0).square().mean()
    small, large = process.posterior_var[t], process.betas[t]
    return ((small + d).log() - small.log()) / (large.log() - small.log())

# %%
torch.manual_seed(0)
shown = [1, 2, 4, 7, 12, 20, 30, 40, 50, 60, 75, 90, 110, 140, 180, 250, 350, 500, 700]
fig, ax = plt.subplots(figsize=(6, 3))
ax.semilogx([t + 1 for t in shown], [best_share(t) for t in shown], "o-", color=plots.BLUE)
_ = ax.set(xlabel="t + 1", ylabel="0: fixedsmall, 1: fixedlarge", ylim=(-0.05, 1.1))

# %% [markdown]
# *Figure 2.17.* The best variance for the eight clusters with the exact denoiser. At small t the cluster itself is a small Gaussian, and fixedlarge is nearly right. Around t = 50 the denoiser knows which cluster it is in, so the data look more like points, and the best variance moves towards fixedsmall. At large t all of it looks like one broad Gaussian. A network can learn this curve: that is the *learned range* of Improved DDPM (notebook 5). <!-- alt: The share starts near 1, falls to its lowest point near t = 50 and returns to 1 for large t. -->

# %% [markdown] tags=["deeper"]
# ## 2.15 Going deeper: the weightings in one picture

# %% [markdown]
# *Question.* Every loss so far is a weight times the squared error of the noise. How do they compare?
#
# *Derive.* By (2.14) a weight for one target is a weight for every other. Write all as weights of the *noise* error, and plot them over $\log\operatorname{SNR}$ instead of $t$: then the curves that are functions of SNR do not depend on the schedule; those of the bound do (here linear, $T = 1000$).
#
# - $L_\text{simple}$: 1;
# - the bound, with fixedlarge or fixedsmall: (2.13);
# - the plain error of $x_0$: $1/\operatorname{SNR}$; of $v$: $(\operatorname{SNR}+1)/\operatorname{SNR}$;
# - P2 (Choi and others 2022): $1/(1+\operatorname{SNR})$, which takes weight from small t;
# - min-SNR-$\gamma$ (Hang and others 2023). Its authors ask for a weight $\min(\operatorname{SNR},\gamma)$ on the error of $x_0$. Divide by the factors of (2.14) to get it for the noise and for $v$:
# $$\begin{aligned} w_{x_0} &= \min(\operatorname{SNR},\gamma), \\ w_\epsilon &= \frac{\min(\operatorname{SNR},\gamma)}{\operatorname{SNR}} = \min\Big(1,\frac\gamma{\operatorname{SNR}}\Big), \\ w_v &= \frac{\min(\operatorname{SNR},\gamma)}{\operatorname{SNR}+1} . \end{aligned} \tag{2.18: Min-SNR Section 3.4}$$
#
# > **Predict.** Above which SNR does min-SNR with γ = 5 differ from $L_\text{simple}$, and is its weight larger or smaller there?
# > <details><summary>Then look</summary>Above 5, and smaller. At these steps the little noise left looks like fine detail; the weight keeps these steps from dominating.</details>

# %%
snr, ts = process.snr[1:], torch.arange(1, 1000)
curves = {
    "simple": losses.simple_weight(snr),
    "bound, fixedlarge": losses.vlb_weight(process, ts, process.betas[1:]),
    "bound, fixedsmall": losses.vlb_weight(process, ts, process.posterior_var[1:]),
    "min-SNR-5": losses.min_snr(snr),
    "P2": losses.p2(snr),
    "plain $x_0$": 1 / snr,
    "plain $v$": (snr + 1) / snr,
}

# %%
fig, ax = plt.subplots(figsize=(7, 4))
for i, (name, weight) in enumerate(curves.items()):
    color = [*plots.COLOURS, "0.4"][i]
    ax.semilogy(snr.log(), weight, plots.LINE_STYLES[i % 4], color=color, label=name)
_ = ax.set_xlabel(r"$\log\,$SNR  (noise on the left, image on the right)")
_ = ax.set_ylabel("weight of the noise error")
_ = ax.set_ylim(1e-4, 1e4), ax.legend(fontsize="small")

# %% [markdown]
# *Figure 2.18.* Read it from right (nearly clean) to left (nearly noise). The bound is small and nearly flat on the left, dips in the middle and rises steeply on the right: it stresses fine detail. The plain error of $x_0$ rises to the left without limit. $L_\text{simple}$ is the flat line. $v$ follows $x_0$ on the left and the noise on the right. min-SNR and P2 leave the left alone and take weight from the right, P2 until it meets the plain error of $x_0$. (Curves that coincide hide each other: $L_\text{simple}$, min-SNR and P2 on the left, the two bounds but for the far right.) <!-- alt: Seven curves of weights over log SNR on a logarithmic axis; the bound rises steeply to the right, the plain error of x_0 to the left, L simple is flat. -->
#
# **Exercise 2.9 (two stars, 8 minutes).** Equation (2.18): from `snr`, a tensor that may contain 0, and `gamma`, return the three weights `(eps, x_0, v)` as a tuple. They must be finite.
# <details><summary>Hint 1</summary>Write the weight of x_0 first. The other two are that, divided by snr and by snr + 1.</details>
# <details><summary>Hint 2</summary>At snr = 0 the quotient is 0/0. Use the second form of the weight for the noise: gamma / snr, clamped to at most 1.</details>

# %%
def min_snr_weights(snr, gamma):
    ...

# %%
min_snr_weights = checks.min_snr_weights(min_snr_weights)

# %% [markdown] tags=["deeper"]
# ## 2.16 Going deeper: memorisation

# %% [markdown]
# *Question.* We have 1415 training digits. By (2.4) the loss is smallest for $\mathbb E[x_0\mid x_t]$, averaged over *these 1415*. What does the perfect minimiser sample?
#
# *Derive.* Over a finite set, $q(x_0)$ gives each $x^{(n)}$ the probability $1/N$. By Bayes,
# $$\mathbb E[x_0\mid x_t] = \sum_n w_n\,x^{(n)},\qquad w_n\ \propto\ \exp\Big(-\frac{\|x_t-\sqrt{\bar\alpha_t}\,x^{(n)}\|^2}{2(1-\bar\alpha_t)}\Big) . \tag{2.19}$$
# A weighted average of the training images; as the noise falls, all weight goes to the nearest one. This is `oracle.Empirical`.
#
# > **Predict.** How close do samples of this perfect denoiser come to a training digit?
# > <details><summary>Then look</summary>They are training digits, exactly. The perfect minimiser of the training loss can only repeat the data. Diffusion models produce something new only because networks do not reach this minimum.</details>

# %%
fifty = cosine.respaced(range(19, 1000, 20))

def walk(denoise, x_T):
    """Samples in 50 of the 1000 steps."""
    generator = torch.Generator().manual_seed(2)
    return last(ancestral(fifty, reverse(fifty, denoise, fixedsmall), x_T, generator=generator))

# %%
memory = oracle.Empirical(cosine, x_train)
x_T = torch.randn(60, 64, generator=torch.Generator().manual_seed(4))
copies = walk(memory, x_T[:20])
furthest = torch.cdist(copies, x_train).min(1).values.max()
print(f"furthest of 20 samples from its nearest training digit: {furthest:.3f}")

# %% [markdown]
# Now the network of your capstone, on the same digits:

# %%
drawn = make_denoiser(average.cpu(), cosine, epsilon)
fresh = walk(clipped(drawn, cosine), x_T)
nearest = x_train[torch.cdist(fresh, x_train).argmin(1)]
fig, ax = plt.subplots(figsize=(9.6, 1.8))
pairs = torch.stack([fresh[:12], nearest[:12]]).view(2, 12, 1, 8, 8)
_ = plots.image_grid(pairs.flatten(0, 1), ncols=12, ax=ax)
for row, name in enumerate(("drawn", "nearest")):
    ax.text(-0.12, 1.06 * row + 0.5, name, ha="right", va="center", fontsize="small")

# %% [markdown]
# *Figure 2.19.* Above: samples of the network. Below each: the training digit nearest to it. They are related, and not copies. <!-- alt: Two rows of twelve digits; each digit below resembles the one above it without being the same. -->
#
# How near is "near"? Held-out real digits are the yardstick:

# %%
kinds = {"held-out digits": x_test, "samples": fresh}
to_train = {name: torch.cdist(x, x_train).min(1).values for name, x in kinds.items()}
fig, ax = plt.subplots(figsize=(6, 2.6))
for (name, distance), color in zip(to_train.items(), (plots.BLUE, plots.VERMILION), strict=True):
    bins = torch.arange(0, 6, 0.25).tolist()
    ax.hist(distance, bins=bins, density=True, histtype="step", color=color, label=name)
_ = ax.set(xlabel="distance to the nearest training digit", ylabel="density", xlim=(0, 6))
_ = ax.legend(fontsize="small")

# %% [markdown]
# *Figure 2.20.* Distances to the nearest training digit. A network that copies would put its samples to the left of the held-out digits, near 0. These lie where held-out digits lie, or further away. <!-- alt: Two histograms of distances; that of the samples does not reach further to the left than that of held-out digits. -->
#
# The test that needs no eyes is **held-out loss**: digits that the network has not seen, from paper forms, each filled in by one person; no form lies in both splits.

# %%
def loss_at(denoise, x_0, t):
    """Mean squared error of the noise at one t."""
    step = torch.full((len(x_0),), t)
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(t))
    return (denoise(cosine.q_sample(x_0, step, noise), step).eps - noise).square().mean().item()

# %%
shown = [0, 3, 10, 20, 40, 70, 100, 150, 200, 300, 400, 500, 700, 999]
of_network, of_memory = {}, {}
for split, x in (("train", x_train), ("test", x_test)):
    of_network[split] = torch.tensor([loss_at(drawn, x, t) for t in shown])
    of_memory[split] = torch.tensor([loss_at(memory, x, t) for t in shown])

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.6))
compared = ("network", plots.BLUE, of_network), ("empirical oracle", plots.VERMILION, of_memory)
for name, color, of in compared:
    ax.loglog([t + 1 for t in shown], of["train"], color=color, label=f"{name}, training digits")
    ax.loglog([t + 1 for t in shown], of["test"], "--", color=color, label=f"{name}, held-out digits")
_ = ax.set(xlabel="t + 1", ylabel="squared error of the noise", ylim=(1e-4, 1e6))
_ = ax.legend(fontsize="small")

# %% [markdown]
# *Figure 2.21.* Loss for each t, on training digits (solid) and on held-out digits (dashed). The empirical oracle is perfect on what it knows (its solid curve leaves the axis for small t, and both its curves do on the line from t = 700 to the last point, 999, where $x_t$ is the noise itself) and, for small t, wrong by orders of magnitude on what it does not: it insists on a training digit. The network's two curves lie close together. <!-- alt: On two logarithmic axes the oracle's solid curve falls to almost 0 at small t and its dashed curve rises far above 1; the network's two curves almost coincide. -->

# %% tags=["folded"]
ratio = of_network["test"] / of_network["train"]
assert ratio.max() < 1.6 and of_memory["train"][0] < 1e-3 and of_memory["test"][0] > 100
print("held-out loss over training loss: below 1.6 for the network at every t;")
print("for the empirical oracle at t = 0 it is above 100,000")

# %% [markdown]
# This network has more weights than the training digits have pixels, so size alone would not stop it from storing them:

# %%
weights_of_net = sum(w.numel() for w in average.parameters())
print(f"{weights_of_net:,} weights, {x_train.numel():,} pixels")

# %% [markdown]
# After these 3000 steps it has learned what many digits share, and that carries over to digits it has not seen. A network that trains much longer on so few images begins to memorise; the sign is a training loss that sinks below the held-out loss. Watch the two, for each $t$.
#
# And the bound, measured as in section 2.13? The same hundred held-out digits, the same noise:

# %% tags=["folded"]
of_net = bound.bits_per_dim(
    average, cosine, epsilon, fixedlarge, x_test[:100],
    decoder=of_17, generator=torch.Generator().manual_seed(0),
)
assert of_net.total < bits.total
print(f"the network's bound is below that of the ten averages, {bits.total:.1f} bits/dim")

# %%
fig, ax = plt.subplots(figsize=(6, 3))
ax.semilogx(range(1, 1001), bits.terms.cumsum(0), "--", color="0.5", label="ten averages")
ax.semilogx(range(1, 1001), of_net.terms.cumsum(0), color=plots.BLUE, label="network")
ax.axhline(math.log2(17), color="k", linestyle=":", label=r"$\log_2 17$")
_ = ax.set(xlabel="t + 1", ylabel="bits/dim of all terms up to t", ylim=(0, None)), ax.legend()

# %% [markdown]
# *Figure 2.22.* The bound, term by term, summed up to t. The dotted line is the cost of guessing one of 17 levels. (The two chains have different schedules, so their steps differ, and that is a part of the distance between the totals.) <!-- alt: Two running sums over t on a logarithmic axis; the network's ends below that of the ten averages. -->

# %% [markdown] tags=["deeper"]
# ## 2.17 Going deeper: which t?

# %% [markdown]
# *Question.* A batch draws its $t$ at random, so its gradient is random. Can the $t$ be drawn better?
#
# *Derive.* We want $\frac1T\sum_t g_t$, the mean gradient. Draw $t$ with probabilities $p_t$ and weigh by $1/(T p_t)$; the mean stays what it was:
# $$\begin{aligned} \mathbb E_{t\sim p}\Big[\frac{g_t}{T\,p_t}\Big] &= \sum_t p_t\,\frac{g_t}{T\,p_t} \\ &= \frac1T\sum_t g_t . \end{aligned} \tag{2.20: Improved DDPM Section 3.3}$$
# The variance does change. A variance is the mean square minus the square of the mean; the mean stays, and the mean square is $\sum_t p_t\,\mathbb E\|g_t/(Tp_t)\|^2 = \sum_t\mathbb E\|g_t\|^2/(T^2p_t)$. It is smallest for $p_t\propto\sqrt{\mathbb E\|g_t\|^2}$ (the inequality of Cauchy and Schwarz). Gradients for every $t$ are expensive, so Improved DDPM takes the size of the *loss*, $p_t\propto\sqrt{\mathbb E\,L_t^2}$, from the last ten losses of every $t$. Three samplers:
#
# - `Uniform`: Algorithm 1;
# - `Antithetic`: $t$ together with $T-1-t$, so that an easy step comes with a hard one;
# - `LossSecondMoment`: (2.20) with those probabilities.
#
# *Measure* over 300 batches of 64, for $L_\text{simple}$ and for the bound, with the network of section 2.3: how much does the loss of a batch vary, and how much its gradient?
#
# > **Predict.** Drawing $t$ in proportion to its loss: will it help $L_\text{simple}$, the bound, both, or neither?
# > <details><summary>Then look</summary>The bound. Its terms differ by orders of magnitude, and the large ones have the large gradients. For L_simple it does harm: it draws large t, whose losses are small, so rarely that each of them then counts with a large weight.</details>

# %%
model, points = model.cpu(), data.eight_gaussians(20_000)

# %%
def batch(sampler, loss, generator):
    """Loss of one batch of 64 and its gradient in the last layer, as one row."""
    ts, weights = sampler.sample(64, generator=generator)
    x_0 = points[torch.randint(20_000, (64,), generator=generator)]
    noised = process.noised(x_0, ts, generator=generator)
    mean = (weights * loss(model(noised.x_t, ts), noised).view(64, -1).mean(1)).mean()
    return torch.cat([mean.detach()[None], torch.autograd.grad(mean, model.tail[1].weight)[0].flatten()])

# %%
def variances(sampler, loss):
    """Variance of the loss of a batch, and of its gradient (summed over the weights)."""
    generator = torch.Generator().manual_seed(5)
    var = torch.stack([batch(sampler, loss, generator) for _ in range(300)]).var(0)
    return torch.stack([var[0], var[1:].sum()])

# %%
def warmed_up(loss):
    """A LossSecondMoment that has seen ten losses of every t."""
    sampler, ts = timesteps.LossSecondMoment(1000), torch.arange(1000).repeat(10)
    noised = process.noised(points[:10_000], ts)
    with torch.no_grad():
        sampler.update(ts, loss(model(noised.x_t, ts), noised).view(10_000, -1).mean(1))
    return sampler

# %%
squared = partial(losses.simple_loss, process, epsilon)
of_bound = partial(losses.kl_loss, process, epsilon, fixedlarge, decoder=bound.density, rescaled=True)
measured = {}
for name, f in (("$L_\\mathrm{simple}$", squared), ("the bound", of_bound)):
    samplers = (timesteps.Uniform(1000), timesteps.Antithetic(1000), warmed_up(f))
    measured[name] = torch.stack([variances(sampler, f) for sampler in samplers])

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for ax, (name, found) in zip(axes, measured.items(), strict=True):
    for i, what in enumerate(("loss", "gradient")):
        place, height = torch.arange(3) + 0.4 * i - 0.2, found[:, i] / found[0, i]
        ax.bar(place, height, 0.38, color=plots.COLOURS[i], label=what)
    _ = ax.set(title=name, xticks=range(3), xticklabels=["Uniform", "Antithetic", "LossSecondMoment"])
_ = axes[0].set_ylabel("variance, Uniform = 1"), axes[1].legend()

# %% [markdown]
# *Figure 2.23.* Variance of a batch's loss and of its gradient, Uniform = 1. Antithetic pairs change little. (The gradient is that of the last layer. The bound has rare large values, so 300 batches give its first two pairs of bars only roughly.) LossSecondMoment steadies the bound, for which it was made. It also steadies the *value* of $L_\text{simple}$ and yet makes its gradient noisier: large t, with their small losses, are drawn rarely, and then weigh $1/(Tp_t)$, which is large. <!-- alt: Two groups of three pairs of bars; for the bound the pair of LossSecondMoment is lower than 1, for L simple its gradient bar is higher than 1. -->

# %% tags=["folded"]
simple, vlb = ((found / found[0])[:, 1] for found in measured.values())
assert vlb[2] < 1 < simple[2]
claim = "below 1 for the bound, above 1 for L_simple"
print(f"LossSecondMoment, variance of the gradient, Uniform = 1: {claim}")

# %% [markdown] tags=["deeper"]
# ## 2.18 Going deeper: what goes wrong, the rest

# %% [markdown]
# **The forgotten factor T.** The bound is a *sum* over $t$, a training step sees *one* $t$. So the term of a random $t$ is, on average, a $T$-th of the bound. For $\mathcal N(0,1)$ data, from section 2.14:

# %%
print(f"sum of the terms: {with_betas.sum():.4f} bits, mean over t: {with_betas.mean():.4f} bits")

# %% [markdown]
# In $L_\text{hybrid} = L_\text{simple}+\lambda L_\text{vlb}$ (notebook 5), $\lambda = 0.001$ was chosen for the *whole* bound, in bits per dimension. Published code that puts the bare term there weighs the bound with $\lambda = 0.000001$. With plain gradient descent the variances would hardly move; Adam, which divides by the gradient's size, hides it, but the bound's share in the layers that both halves use stays a thousand times too small. `losses.hybrid_loss` and `kl_loss(..., rescaled=True)` multiply by $T$.
#
# **A mean where a sum belongs.** Bits per dimension are: nats of the *image*, which is the sum over its pixels, divided by their number and by $\log 2$. Take the mean over pixels for the image's nats, and the result is divided by $D$ twice:

# %%
nats = Gaussian(torch.zeros(1, 64), torch.zeros(1, 1)).entropy()  # 64 independent N(0, 1) pixels
right, wrong = (image.item() / 64 / math.log(2) for image in (nats.sum(), nats.mean()))
print(f"sum: {right:.4f} bits/dim; mean: {wrong:.4f} bits/dim, far too good to be true")

# %% [markdown]
# For training, $L_\text{simple}$ may be a mean over pixels; the log-likelihood of an image is the sum over its pixels.
#
# **Images in [0, 1].** Forget to scale to [−1, 1], and the images are half as large: a quarter of the variance, so at every step the ratio of image variance to noise variance is a quarter of what was intended. And the bins of (2.16) no longer fit: levels are 1/16 apart, bins 2/16 wide, and neighbours overlap. Such numbers add up to 2 and are no probabilities: whatever bits come out of them, they are not bits of this data. Measure it on one pixel:

# %%
print(f"variance of the digits: {images.var():.2f} in [-1, 1], {((images + 1) / 2).var():.2f} in [0, 1]")
for low in (-1, 0):
    grid_17 = torch.linspace(low, 1, 17, dtype=torch.float64)
    log_var = torch.tensor(0.05**2, dtype=torch.float64).log()
    p = Gaussian(torch.full((17,), 0.4, dtype=torch.float64), log_var)
    total = p.discretized_log_prob(grid_17, 17).exp().sum()
    print(f"levels from {low} to 1: probabilities add up to {total:.4f}")

# %% [markdown]
# **Mirrored digits.** DDPM mirrors CIFAR-10's images left to right with probability 1/2 (`batches.mirrored`): more data at no cost. A mirrored 3 is no digit, and a network that is trained on such signs draws them. So a recipe for digits refuses `flip`.

# %% [markdown]
# **Losses in float16.** A network may run in half precision; its loss may not. The smallest positive float16 is 6e-8 and the largest 65504, so squares vanish and sums overflow:

# %%
small, large = torch.full((4,), 1e-4).half(), torch.ones(3 * 256 * 256).half()
print("error 1e-4, squared in float16:", (small**2).max().item())
print("errors of 1, squared and summed over an image of 3 x 256 x 256:", (large**2).sum().item())

# %%
x = torch.zeros(1, 4).half()
repaired = losses.simple_loss(process, epsilon, small[None], Noised(x, torch.tensor([0]), x, x))
print(f"simple_loss converts first: {repaired.max():.1e} in {repaired.dtype}")

# %% [markdown]
# **Who averages?** The post's `GaussianDiffusionTrainer` is Algorithm 1 as a module: it draws `t` and `noise` and returns the loss of every coordinate, (B, \*D). With the same seed, your function and the trainer give the same numbers:

# %%
net = MLP(1000, dim=64, hidden=16).double()
trainer, x_0 = GaussianDiffusionTrainer(net, 1e-4, 0.02, 1000), images[:4].double()
torch.manual_seed(0)
from_trainer = trainer(x_0)

# %% tags=["folded"]
torch.manual_seed(0)
t, noise = torch.randint(1000, (4,)), torch.randn_like(x_0)
assert torch.allclose(simple_loss(net, x_0, t, noise, process.alphas_bar), from_trainer)

# %% [markdown]
# The caller averages. Whoever *sums* gets a gradient that grows with the batch and with the image:

# %%
for B in (4, 64):
    torch.manual_seed(0)
    loss = trainer(images[:B].double())
    bias, both = net.tail[1].bias, (loss.mean(), loss.sum())
    sizes = [torch.autograd.grad(f, bias, retain_graph=True)[0].norm() for f in both]
    print(f"batch of {B:2}: sum / mean = {sizes[1] / sizes[0]:.0f}, which is {B} * 64")

# %% [markdown]
# The learning rate, and the clipping of the gradient's norm to 1, then mean something else for every batch size. Repair: `.mean()`. *A mean where a sum belongs*, above, is the opposite case: there the sum is right. Another common slip is `torch.randint(1, T, ...)` in code that counts from 0: index 0, the last step of sampling, is never trained.

# %% [markdown]
# **What goes wrong: sampling as if training.** The post's sampler has neither `no_grad` nor `eval`. Without `no_grad` every intermediate result of a thousand steps stays in memory; without `eval` dropout stays active, and the network contradicts itself from call to call. Two calls with the same input:

# %%
class WithDropout(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.dropout = net, torch.nn.Dropout(0.1)

    def forward(self, x_t, t):
        return self.dropout(self.net(x_t, t))

# %%
noisy_net = WithDropout(model).train()
x, t = torch.randn(100, 2), torch.full((100,), 500)
first, second = noisy_net(x, t), noisy_net(x, t)
assert (first - second).abs().max() > 0.1
print("as in the post: two calls differ by more than 0.1 | carries a graph", first.requires_grad)

# %%
denoise = make_denoiser(noisy_net, process, epsilon)
first, second = denoise(x, t).eps, denoise(x, t).eps
off = (first - second).abs().max()
print(f"make_denoiser:  two calls differ by {off:.1f} | carries a graph", first.requires_grad)
print("and afterwards the network is back in training mode:", noisy_net.training)

# %% [markdown] tags=["deeper"]
# ## 2.19 Going deeper: equation by equation

# %% [markdown]
# Every name in the table can be imported, and in a checkout every test can be run. Your own functions, checked above, compute the same.

# %% [markdown] tags=["equations"]
# | | equation | function, and the test that checks it |
# |---|:--|:--|
# | 2.1 | $L_\text{simple}$ (DDPM Eq. 14) | <samp>losses.<wbr>simple_<wbr>loss</samp><br><samp>test_<wbr>ddpm.<wbr>py test_<wbr>loss_<wbr>is_<wbr>the_<wbr>posts</samp> |
# | 2.2 | the mean from the noise (DDPM Eq. 11) | <samp>predictions.<wbr>p_<wbr>from_<wbr>output</samp><br><samp>test_<wbr>bound.<wbr>py test_<wbr>kl_<wbr>agrees_<wbr>with_<wbr>quadrature</samp> |
# | 2.3 | one reverse step, drawn (DDPM Algorithm 2) | <samp>samplers.<wbr>ancestral</samp><br><samp>test_<wbr>samplers.<wbr>py test_<wbr>ancestral_<wbr>chain_<wbr>on_<wbr>gaussian_<wbr>data_<wbr>has_<wbr>the_<wbr>closed_<wbr>form</samp> |
# | 2.4 | least squares learns the conditional expectation; what remains is irreducible | <samp>losses.<wbr>squared</samp><br><samp>test_<wbr>losses.<wbr>py test_<wbr>squares_<wbr>learn_<wbr>the_<wbr>mean_<wbr>and_<wbr>absolute_<wbr>values_<wbr>the_<wbr>median</samp> |
# | 2.5 | $\mathbb E[x_0 \mid x_t]$ from the average noise | <samp>oracle.<wbr>Mixture</samp><br><samp>test_<wbr>oracle.<wbr>py test_<wbr>predictions_<wbr>have_<wbr>the_<wbr>images_<wbr>shape_<wbr>and_<wbr>fit_<wbr>together</samp> |
# | 2.6 | the score is minus the average noise, rescaled | <samp>oracle.<wbr>Mixture.<wbr>score</samp><br><samp>test_<wbr>oracle.<wbr>py test_<wbr>score_<wbr>is_<wbr>the_<wbr>gradient_<wbr>of_<wbr>log_<wbr>prob</samp> |
# | 2.7 | Tweedie's formula | <samp>process.<wbr>GaussianDiffusion.<wbr>x_<wbr>0_<wbr>from_<wbr>score</samp><br><samp>test_<wbr>process.<wbr>py test_<wbr>eps_<wbr>v_<wbr>and_<wbr>score_<wbr>describe_<wbr>one_<wbr>noise</samp> |
# | 2.8 | the model, $p_\theta(x_{0:T})$ (DDPM Eq. 1) | <samp>samplers.<wbr>reverse</samp><br><samp>test_<wbr>samplers.<wbr>py test_<wbr>fixedlarge_<wbr>is_<wbr>the_<wbr>exact_<wbr>reverse_<wbr>step_<wbr>of_<wbr>standard_<wbr>normal_<wbr>data</samp> |
# | 2.9 | the variational bound (DDPM Eq. 3) | <samp>bound.<wbr>bits_<wbr>per_<wbr>dim</samp><br><samp>test_<wbr>bound.<wbr>py test_<wbr>bound_<wbr>lies_<wbr>below_<wbr>the_<wbr>log_<wbr>likelihood</samp> |
# | 2.10 | its terms $L_T$, $L_{t-1}$, $L_0$ (DDPM Eq. 5) | <samp>bound.<wbr>vlb_<wbr>term</samp><br><samp>test_<wbr>bound.<wbr>py test_<wbr>terms_<wbr>add_<wbr>up_<wbr>to_<wbr>the_<wbr>integral_<wbr>over_<wbr>paths</samp> |
# | 2.11 | divergence of two Gaussians | <samp>gaussian.<wbr>Gaussian.<wbr>kl</samp><br><samp>test_<wbr>gaussian.<wbr>py test_<wbr>divergence_<wbr>by_<wbr>quadrature</samp> |
# | 2.12 | $L_{t-1}$ as a squared distance of means (DDPM Eq. 8) | <samp>bound.<wbr>posterior_<wbr>kl</samp><br><samp>test_<wbr>bound.<wbr>py test_<wbr>kl_<wbr>agrees_<wbr>with_<wbr>quadrature</samp> |
# | 2.13 | $L_{t-1}$ as a weighted error of the noise (DDPM Eq. 12) | <samp>losses.<wbr>vlb_<wbr>weight</samp><br><samp>test_<wbr>losses.<wbr>py test_<wbr>kl_<wbr>is_<wbr>the_<wbr>weighted_<wbr>eps_<wbr>error_<wbr>plus_<wbr>a_<wbr>constant</samp> |
# | 2.14 | five losses, equal up to a weight | <samp>losses.<wbr>weight_<wbr>for</samp><br><samp>test_<wbr>losses.<wbr>py test_<wbr>parameterisations_<wbr>differ_<wbr>by_<wbr>a_<wbr>weight_<wbr>alone</samp> |
# | 2.15 | $L_T$ | <samp>bound.<wbr>prior_<wbr>kl</samp><br><samp>test_<wbr>bound.<wbr>py test_<wbr>prior_<wbr>term_<wbr>in_<wbr>closed_<wbr>form</samp> |
# | 2.16 | the probability of a level, for $L_0$ (DDPM Eq. 13) | <samp>gaussian.<wbr>Gaussian.<wbr>discretized_<wbr>log_<wbr>prob</samp><br><samp>test_<wbr>gaussian.<wbr>py test_<wbr>the_<wbr>levels_<wbr>share_<wbr>out_<wbr>a_<wbr>probability_<wbr>of_<wbr>one</samp> |
# | 2.17 | the best variance of a reverse step | <samp>predictions.<wbr>fixedlarge</samp><br><samp>test_<wbr>bound.<wbr>py test_<wbr>fixed_<wbr>variances_<wbr>are_<wbr>optimal_<wbr>for_<wbr>their_<wbr>data</samp> |
# | 2.18 | min-SNR for $x_0$, noise and $v$ (Min-SNR Section 3.4) | <samp>losses.<wbr>min_<wbr>snr</samp><br><samp>test_<wbr>losses.<wbr>py test_<wbr>min_<wbr>snr_<wbr>in_<wbr>every_<wbr>parameterisation</samp> |
# | 2.19 | the average over a finite data set | <samp>oracle.<wbr>Empirical</samp><br><samp>test_<wbr>oracle_<wbr>empirical.<wbr>py test_<wbr>bayes_<wbr>rule_<wbr>by_<wbr>hand</samp> |
# | 2.20 | drawing $t$ with weights (Improved DDPM Section 3.3) | <samp>timesteps.<wbr>LossSecondMoment</samp><br><samp>test_<wbr>timesteps.<wbr>py test_<wbr>weighted_<wbr>mean_<wbr>is_<wbr>the_<wbr>uniform_<wbr>mean</samp> |

# %% [markdown]
# ## 2.20 Where to read on
#
# Ho, Jain and Abbeel 2020 (arXiv 2006.11239), sections 2 and 3 and appendix A: you can now follow every line. Nichol and Dhariwal 2021 (arXiv 2102.09672), section 3, on the bound in bits and on sampling $t$. Hang and others 2023 (arXiv 2303.09556) and Choi and others 2022 (arXiv 2204.00227) on weights. Kingma and others 2021, *Variational Diffusion Models* (arXiv 2107.00630): the bound as a sum in which the $x_0$ error of a step weighs half of what the SNR loses in it, and in continuous time as an integral over the SNR. Vincent 2011, *A Connection Between Score Matching and Denoising Autoencoders*, for section 2.5.
#
# **Next**: notebook 3 builds the network that predicts the noise of images, the U-Net, and says how it is told $t$.
