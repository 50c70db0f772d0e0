# %% [markdown]
# # 1. The forward process: how an image becomes noise
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/ddpm_lesson/blob/main/notebooks/01_forward_process.ipynb)
#
# **You will be able to**
# - walk an image into noise step by step, and jump to any step at once;
# - read and design a noise schedule, and say whether its chain ends in pure noise;
# - derive the posterior, the Gaussian that the network learns to imitate, and say when the true step back is nearly Gaussian;
# - draw new digits from noise with a trained network and functions that you wrote yourself.
#
# **You need** Gaussians, expectations, Bayes' rule and PyTorch broadcasting.
#
# *The course:* **1 forward process** → 2 loss → 3 U-Net → 4 sampling → 5 variants

# %% [markdown] tags=["sittings"]
# **The core path takes 89 minutes, in 3 sittings.** Each can be started alone: run the set-up cell, then go to its heading. `checks.carried(name)` is your function of an earlier exercise, if its check said yes in this kernel; else the course's own. If English is not your first language, plan about a third more time. The capstone comes on top.
#
# | sitting | sections | minutes |
# |---|---|---|
# | 1 | 1.1 What you will have at the end … 1.4 A batch of images, each at its own step | 30 |
# | 2 | 1.5 Schedules, and how long a digit stays readable · 1.6 Chains that never reach the noise | 24 |
# | 3 | 1.7 The posterior: one step back, if you know where you came from … 1.11 What you now have | 35 |
# | capstone | 1.12 Capstone: a forward process of your own | 38 |
#
# Sections called *Going deeper* are collapsed (18 minutes in all); the path does not need them, and they need the cells above them. If JupyterLab shows them open, click once into the page: that collapses them. (The rule: 200 words a minute, a minute for each displayed formula, 20 lines of code a minute, and the minutes stated at each exercise.)

# %% [markdown]
# The next cell finds the course's package `ddpm_lesson`. In Colab it installs it. You do not have to read it.

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

# %% [markdown] tags=["sitting"]
# ## 1.1 What you will have at the end
#
# *Sitting 1 of 3, 30 minutes.*

# %% tags=["start"]
import math

import ipywidgets
import torch

from ddpm_lesson import Sampling, checks, data, load_pretrained, plots

digits, labels = data.digits()[:]  # (1797, 1, 8, 8), -1: paper, drawn black; 1: ink, drawn white
network = load_pretrained("digits_ddpm", device=device)

# %%
states = list(network.states(5, Sampling(steps="trailing50", seed=2), y=network.labels(5)))
shown = [state for state in states if state.i % 10 == 0]
rows = torch.stack([state.x_t for state in shown], 1)
_ = plots.chain(rows, [f"{20 * state.i} left" for state in shown])

# %% [markdown]
# *Figure 1.1.* Read it from left to right: five images of pure noise become five digits that nobody wrote. Above a column stands how many steps of noise are left in it. A network of this course made them, told which digits to draw, in 50 large steps (sections 4.2 and 4.12 say how). At the end of this notebook it will draw digits with *your* functions. <!-- alt: Five rows of six small images. Each row starts as random grey pixels on the left and ends on the right as a digit: 0, 1, 2, 3 and 4. -->
#
# How do you draw from a distribution that nobody can write down? Destroying an image is easy: add noise, a little at a time, until nothing else is left. Nobody has to learn that, and drawing pure noise is easy. Then learn the way back, one small step at a time. That is a *denoising diffusion probabilistic model*, DDPM. It has two processes:
#
# - the **forward process** $q$ (前向过程) goes from the image to noise. It is *fixed*: nothing in it is learned;
# - the **reverse process** $p_\theta$ (反向过程) goes from noise to an image. It is *learned*: $\theta$ are the weights of a network.
#
# This notebook is about $q$. Keep the letters in mind when you read code: `q_sample` adds noise, `p_sample` takes it away.
#
# | symbol | in code | shape | what it is | 中文 |
# |---|---|---|---|---|
# | $T$, $t$ | `T`, `t` | `t`: (B,) | number of steps; the step of each image | 总步数、时间步 |
# | $x_0$, $x_t$ | `x_0`, `x_t` | (B, \*D) | clean image; image after $t$ steps of noise | 原图、带噪图像 |
# | $\epsilon$ | `noise`, `eps` | (B, \*D) | standard normal noise | 噪声 |
# | $\beta_t$ | `betas` | (T,) | variance of the noise that step $t$ adds | 单步噪声方差 |
# | $\alpha_t = 1-\beta_t$ | `alphas` | (T,) | share of the variance that step $t$ keeps | 单步方差保留率 |
# | $\bar\alpha_t = \alpha_1\cdots\alpha_t$ | `alphas_bar` | (T,) | share that is left after all steps up to $t$ | 累积方差保留率 |
#
# `B` is the batch size, `*D` the shape of one item: (1, 8, 8) for a digit, (2,) for a point in the plane. Formulas count steps from 1, as the papers do. **Code counts from 0: `t = 0` is the papers' $t = 1$**, the first step of noise. In figures $t$ counts from 0, as in code. Only "steps of noise", the numbers above figure 1.1 and the indices in figure 1.2 count steps done, from 0 for the clean image.
#
# The course grew out of a Chinese blog post, 【研究生工作周报】(DDPM), "A graduate student's weekly report (DDPM)". The course calls it *the post*. **What goes wrong** marks an error in it, or in other published code, from which there is something to learn.

# %% [markdown] tags=["deeper"]
# ### Going deeper: can you start, and what do others call it?

# %% [markdown]
# Three questions. If one of them is new to you, follow its pointer first; it takes an hour at most.
#
# 1. $X$ and $Y$ are independent with variances 4 and 9. What is the variance of $2X - Y$? <details><summary>Answer</summary>$2^2\cdot 4 + (-1)^2\cdot 9 = 25$. Factors come out squared, and variances of independent variables add, also under a minus sign. Pointer: any chapter on "variance of a sum of random variables".</details>
# 2. $\epsilon \sim \mathcal N(0, 1)$. How is $3 + 0.5\,\epsilon$ distributed? <details><summary>Answer</summary>$\mathcal N(3,\ 0.25)$: normal, with mean 3 and <b>variance</b> 0.25, that is standard deviation 0.5. Pointer: "linear transformation of a normal random variable".</details>
# 3. `x` has shape (16, 1, 8, 8) and `a` has shape (16, 1, 1, 1). What is the shape of `a * x`, and what does it do? <details><summary>Answer</summary>(16, 1, 8, 8). Each image is multiplied by its own number. Pointer: "Broadcasting semantics" in PyTorch's documentation.</details>
#
# | here | DDPM | DDIM | improved- and guided-diffusion | diffusers |
# |---|---|---|---|---|
# | `T` | $T$ | $T$ | `num_timesteps` | `num_train_timesteps` |
# | `t` = 0 … T−1 | $t$ = 1 … $T$ | $t$ = 1 … $T$ | `t` = 0 … T−1 | `timestep` = 0 … T−1 |
# | `x_0` | $\mathbf x_0$ | $x_0$ | `x_start` | `original_samples` |
# | `x_t` | $\mathbf x_t$ | $x_t$ | `x_t` | `sample` |
# | `noise`, `eps` | $\epsilon$ | $\epsilon$ | `noise`, `eps` | `noise` |
# | `betas` | $\beta_t$ | $1-\alpha_t/\alpha_{t-1}$ | `betas` | `betas` |
# | `alphas` | $\alpha_t$ | $\alpha_t/\alpha_{t-1}$ | `1 - betas` | `alphas` |
# | `alphas_bar` | $\bar\alpha_t$ | $\alpha_t$ (!) | `alphas_cumprod` | `alphas_cumprod` |
# | `posterior_var`, $\tilde\beta_t$ | $\tilde\beta_t$ | $\sigma_t^2$ at $\eta=1$ | `posterior_variance` | `variance` |
#
# **What goes wrong: p and q swapped.** The post calls the forward process p and the reverse process q. In the paper (DDPM Eq. 1 and 2) p is learned and q is fixed. It also calls both of them parameterised chains; q has no parameters.

# %% [markdown]
# ## 1.2 One step, then a thousand
#
# *Question.* One step adds a little noise. Why should it also shrink the image?
#
# *Derive.* Let one step be $x_t = a\,x_{t-1} + b\,\epsilon$ with $\epsilon\sim\mathcal N(0, I)$, drawn anew at every step. The two terms are independent, so their variances add: $\operatorname{Var}(x_t) = a^2\operatorname{Var}(x_{t-1}) + b^2$. A network reads best if its inputs have the same scale at every $t$. So ask that variance 1 stays variance 1: $a^2 + b^2 = 1$. Call the variance of the added noise $\beta_t = b^2$. Then
# $$\begin{aligned} x_t &= \sqrt{1-\beta_t}\;x_{t-1} + \sqrt{\beta_t}\;\epsilon, \\ q(x_t\mid x_{t-1}) &= \mathcal N\big(x_t;\ \sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\big). \end{aligned} \tag{1.1: DDPM Eq. 2}$$
# $\mathcal N(x;\ \mu,\ \sigma^2 I)$ is the density at $x$ of independent pixels, each normal with its own mean in $\mu$ and with variance $\sigma^2$. $\beta_t$ is a *variance*; that is why both factors carry a root.
#
# **Exercise 1.1 (one star, 2 minutes).** The schedule of the DDPM paper: $T$ values of $\beta$, evenly spaced from `beta_1` to `beta_T`, both included. Return them as float64, because later a thousand of them are multiplied.
#
# The cell below an exercise checks your function and names your mistake. If your function is not yet right, all later cells run with the course's own function instead. What the text calls *your function* is yours once the check has said yes. Stars say how difficult an exercise is. Solutions are in the repository's folder `notebooks/solutions`; look there only after you have tried.
# <details><summary>Hint 1</summary>torch has a function for evenly spaced numbers that includes both ends.</details>
# <details><summary>Hint 2</summary>It has a dtype argument. Converting afterwards is too late: what was rounded to float32 stays rounded.</details>

# %%
def linear_betas(beta_1, beta_T, T):
    ...

# %%
linear_betas = checks.linear_betas(linear_betas)

# %% [markdown]
# **Exercise 1.2 (two stars, 6 minutes).** The whole walk. `x_0` is (B, \*D), `betas` (T,), and `noise` (T, B, \*D): `noise[i]` belongs to the step with `betas[i]`. Return all states, $x_0$ first and $x_T$ last, as (T + 1, B, \*D), without loss of digits: float64 stays float64.
# <details><summary>Hint 1</summary>Keep the states in a list that starts with x_0. A step is made from the last entry, by (1.1).</details>
# <details><summary>Hint 2</summary>torch.stack gives the states an axis of their own, in front.</details>

# %%
def walk(x_0, betas, noise):
    ...

# %%
walk = checks.walk(walk)

# %%
betas = linear_betas(1e-4, 0.02, 1000)
noise = torch.randn(1000, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
states = walk(digits[:1], betas.float(), noise)
stops = (0, 60, 200, 400, 1000)
_ = plots.forward_and_reverse(torch.cat([states[i] for i in stops]), stops)

# %% [markdown]
# *Figure 1.2.* Your walk. Upper arrows: $q$ adds noise and is fixed. Lower arrows: $p$ removes noise and is to be learned. The index of $x$ counts the steps of noise: after 60 you still read the digit, after 400 hardly. (Values beyond −1 and 1 are shown as black and white, here and in all pictures of noisy images.) <!-- alt: A handwritten zero, then the same image after 60, 200, 400 and 1000 steps of noise, with arrows in both directions between them. -->
#
# > **Predict** (and decide before you scroll on: outputs are stored below). Somebody forgets one root and writes `sqrt(1 - beta) * x + beta * noise`. Does the walk end with too much noise, with too little, or does it make no difference?
# > <details><summary>Then look</summary>Far too little. Each step adds the variance β², which is tiny, and still removes a fraction β of the variance: the digit fades to grey.</details>

# %%
right, no_root = 1.0, 1.0
for beta in betas.tolist():
    right, no_root = (1 - beta) * right + beta, (1 - beta) * no_root + beta**2
print(f"standard deviation after 1000 steps: {right**0.5:.2f}, without the root {no_root**0.5:.2f}")

# %% [markdown] tags=["deeper"]
# ### Going deeper: variance other than 1, the wrong kind of noise, float64 too late

# %% [markdown]
# *What if the data do not have variance 1?* Subtract 1 from both sides of the variance rule: $\operatorname{Var}(x_t) - 1 = (1-\beta_t)\,(\operatorname{Var}(x_{t-1}) - 1)$. The distance to 1 shrinks at every step. For the digits (variance over all pixels of all digits), with and without the shrinking of the image:

# %%
shrunk = kept = digits.var().item()
for beta in betas.tolist():
    shrunk, kept = (1 - beta) * shrunk + beta, kept + beta
print(f"variance of the digits: {digits.var():.2f}, and after 1000 steps:")
print(f"{shrunk:.2f} with the factor sqrt(1 - beta), {kept:.1f} without it")

# %% [markdown]
# **What goes wrong: the wrong kind of noise.** Published notebooks draw `torch.rand` (uniform between 0 and 1, mean 1/2) instead of `torch.randn`. Every step then pushes every pixel up by $\sqrt{\beta_t}/2$, and the pushes add up. A sampler that starts in $\mathcal N(0, I)$ would start where no walk ends.

# %%
mean_uniform = 0.0
for beta in betas.tolist():
    mean_uniform = math.sqrt(1 - beta) * mean_uniform + math.sqrt(beta) / 2
print(f"uniform noise: the walk ends with mean {mean_uniform:.2f} instead of 0")

# %% [markdown]
# **What goes wrong: numbers that were float32 before they became float64.** The post writes `torch.linspace(beta_1, beta_T, T).double()`. The numbers are made in float32, and `.double()` only gives the rounded ones more digits. Seven digits are enough for a picture. They are not enough to *compare* with a paper or another library.

# %%
late = torch.linspace(1e-4, 0.02, 1000).double()
error = (late / betas - 1).abs().max().item()
assert 1e-8 < error < 1e-6
print(f"largest relative error of float32 first: {error:.0e}")

# %% [markdown]
# ## 1.3 Many small steps are one big step
#
# *Question.* Training will need $x_{500}$ of millions of images. Must we walk 500 steps for each of them?
#
# *Derive.* Put one step into the next, with $\alpha_t = 1-\beta_t$:
# $$\begin{aligned}
# x_t &= \sqrt{\alpha_t}\,\big(\sqrt{\alpha_{t-1}}\;x_{t-2} + \sqrt{1-\alpha_{t-1}}\;\epsilon_{t-1}\big) + \sqrt{1-\alpha_t}\;\epsilon_t \\
# &= \sqrt{\alpha_t\alpha_{t-1}}\;x_{t-2} + \underbrace{\sqrt{\alpha_t(1-\alpha_{t-1})}\;\epsilon_{t-1} + \sqrt{1-\alpha_t}\;\epsilon_t}_{\text{two independent Gaussians}} .
# \end{aligned}$$
# A sum of independent Gaussians is a Gaussian, and the variances add: $\alpha_t(1-\alpha_{t-1}) + (1-\alpha_t) = 1-\alpha_t\alpha_{t-1}$. Two steps have the form of one step, with the product $\alpha_t\alpha_{t-1}$ instead of $\alpha_t$. The same computation adds a third step to these two, and so on up to $t$. With $\bar\alpha_t = \alpha_1\alpha_2\cdots\alpha_t$,
# $$\begin{aligned} x_t &= \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon, \\ q(x_t\mid x_0) &= \mathcal N\big(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\big). \end{aligned} \tag{1.2: DDPM Eq. 4}$$
#
# *See*, with pixels instead of images: 2000 pixels that are 1 or −1 take your walk. The grey behind them is the density that (1.2) gives, the average over both values of $x_0$.

# %%
pixels = torch.tensor([[1.0], [-1.0]]).repeat(1000, 1)  # (2000, 1)
noise = torch.randn(1000, 2000, 1, generator=torch.Generator().manual_seed(1))
paths = walk(pixels, betas.float(), noise).squeeze(-1)  # (1001, 2000)
alphas_bar = torch.cumprod(1 - betas, 0)

# %% tags=["folded"]
height = torch.linspace(-3, 3, 241, dtype=torch.float64)
mean, std = alphas_bar.sqrt(), (1 - alphas_bar).sqrt().clamp(min=0.02)
normals = [torch.distributions.Normal(sign * mean, std) for sign in (1, -1)]
bells = [normal.log_prob(height[:, None]).exp() for normal in normals]
shape = {"figsize": (8, 3.2), "width_ratios": (4, 1), "sharey": True, "layout": "constrained"}
fig, (ax, end) = plt.subplots(1, 2, **shape)
ax.imshow((sum(bells) / 2).sqrt(), extent=(0, 1000, 3, -3), aspect="auto", cmap="Greys", vmax=1.8)
for i in range(4):
    ax.plot(paths[:, i], color=(plots.BLUE, plots.VERMILION)[i % 2], linewidth=0.6)
ax.set(xlabel="steps of noise", ylabel="value of one pixel", ylim=(-3, 3))
end.hist(paths[-1], bins=40, orientation="horizontal", density=True, color=plots.SKY)
end.plot(torch.distributions.Normal(0, 1).log_prob(height).exp(), height, color="black")
_ = end.set(xlabel="density at the end")

# %% [markdown]
# *Figure 1.3.* Grey: the density of $x_t$ by the jump (1.2) (darker is denser). Lines: four of your walks, two from 1 (blue) and two from −1 (orange-red). Right: where all 2000 walks end (bars), and $\mathcal N(0, 1)$ (line). Two clusters become one, and the walks forget where they started. <!-- alt: Left, a grey density over t with two narrow bands at 1 and -1 that widen and merge; four jagged lines run through it. Right, a histogram that matches a standard normal curve. -->

# %% tags=["folded"]
mean, var = 1.0, 0.0  # of a pixel with x_0 = 1, carried through the single steps
for beta, a_bar in zip(betas.tolist(), alphas_bar.tolist(), strict=True):
    mean, var = math.sqrt(1 - beta) * mean, (1 - beta) * var + beta
    assert abs(mean - math.sqrt(a_bar)) < 1e-12 and abs(var - (1 - a_bar)) < 1e-12
for steps in (300, 1000):  # 1000 walks from 1: mean and standard deviation within six standard errors
    x, std = paths[steps, ::2], (1 - alphas_bar[steps - 1]).sqrt()
    assert abs(x.mean() - alphas_bar[steps - 1].sqrt()) < 6 * std / math.sqrt(1000)
    assert abs(x.std() / std - 1) < 6 / math.sqrt(2 * 1000)
print(f"mean and variance after 1000 single steps: {mean:.4f}, {var:.4f}")
print(f"by (1.2): {alphas_bar[-1].sqrt():.4f}, {1 - alphas_bar[-1]:.4f}")

# %% [markdown]
# > **Predict.** After which of the 1000 steps is half of the image's variance left, $\bar\alpha_t = 1/2$: about step 50, 250 or 500?
# > <details><summary>Then look</summary>After about 260. The betas start 200 times smaller than they end, yet half is gone after a quarter of the walk. The next line says why.</details>
#
# The logarithm of the product is the sum of the $\log(1-\beta_s)$, and for small betas each is nearly $-\beta_s$:
# $$\bar\alpha_t \approx e^{-(\beta_1+\dots+\beta_t)} .$$
# So half is left when the betas add up to $\log 2$.

# %%
print(f"steps with alphas_bar above 1/2: {int((alphas_bar > 0.5).sum())} of 1000")
print(f"sum of the first 259 betas: {betas[:259].sum():.2f}, log 2: {math.log(2):.2f}")

# %% [markdown] tags=["deeper"]
# ### Going deeper: the formula without its roots

# %% [markdown]
# **What goes wrong: roots that were lost.** The post prints (1.2) more than once, and some of the copies have lost their roots. $\bar\alpha_t\,x_0 + (1-\bar\alpha_t)\,\epsilon$ gives $x_t$ the variance $\bar\alpha_t^2 + (1-\bar\alpha_t)^2$ for data of variance 1. It drops to one half where image and noise are equal, and comes back: a network would meet inputs of changing scale.

# %%
roots_lost = alphas_bar**2 + (1 - alphas_bar) ** 2
print(f"smallest variance without the roots {roots_lost.min():.2f}, at the end {roots_lost[-1]:.2f}")

# %% [markdown]
# ## 1.4 A batch of images, each at its own step
#
# *Question.* A batch holds images at different $t$. Each coefficient is a table of $T$ numbers. How does image number 5 get *its* number?
#
# Three moves: look the numbers up, give the result axes of length 1 until there are as many as in the images, let broadcasting do the rest.
#
# > **Predict.** You forget the second move and write `v[t] * x` for 8 images of 8 by 8 pixels, so `v[t]` has shape (8,). Error, right result, or wrong result?
# > <details><summary>Then look</summary>Wrong, and without an error. Broadcasting aligns shapes from the right, so the eight numbers meet the eight <i>columns</i>. For seven images it would be an error: for batches larger than 1, you get no error only where batch size and width agree.</details>
#
# **Exercise 1.3 (one star, 3 minutes).** `v` is (T,), `t` is (B,), `x_shape` is the shape of the batch. Return (B, 1, …, 1) **in v's dtype**.
# <details><summary>Hint 1</summary>Look up first, then view.</details>
# <details><summary>Hint 2</summary>The batch axis, then len(x_shape) - 1 axes of length 1. No .float().</details>

# %%
def extract(v, t, x_shape):
    ...

# %%
extract = checks.extract(extract)

# %%
v, t = alphas_bar.sqrt().float(), torch.tensor([0, 100, 200, 300, 400, 500, 700, 999])
right, wrong = extract(v, t, (8, 1, 8, 8)) * digits[:8], v[t] * digits[:8]
_ = plots.chain(torch.stack([right, wrong]), t, names=("extract", "v[t]"))

# %% [markdown]
# *Figure 1.4.* Eight digits scaled by their coefficient. Upper row: with your `extract` each image fades as its t says. Lower row, the forgotten axes: every image fades from left to right, and no error was raised. <!-- alt: Two rows of eight digits. In the upper row whole digits get greyer from left to right; in the lower row each digit fades across its own columns. -->
#
# **Exercise 1.4 (one star, 3 minutes).** Equation (1.2) for a batch. `x_0` and `noise` are (B, \*D), `t` is (B,): **every image has its own t**. `alphas_bar` is (T,), and if it is float64 the result may be, too.
# <details><summary>Hint 1</summary>Two coefficients, both from extract.</details>
# <details><summary>Hint 2</summary>alphas_bar and 1 - alphas_bar are variances. What multiplies x_0 and the noise is a root.</details>

# %%
def q_sample(x_0, t, noise, alphas_bar):
    ...

# %%
q_sample = checks.q_sample(q_sample)

# %% [markdown]
# *Watch* what your function does to a distribution: eight clusters of points in the plane, beside nine digits.
#
# > **Predict.** Which disappears first: the gaps between the clusters, or the shapes of the digits?
# > <details><summary>Then look</summary>The gaps. Around t = 100 neighbouring clusters touch, and most digits can still be guessed (figure 1.8 measures it). What counts is the distance between two candidates, compared with the size of the noise. Neighbouring clusters lie 1.1 apart; between a digit and the one most like it, 64 pixels add up to a distance of 2.0. Around t = 250 the hole in the ring closes too.</details>

# %%
points = data.eight_gaussians(600, generator=torch.Generator().manual_seed(0))
point_noise = torch.randn(600, 2, generator=torch.Generator().manual_seed(1))
digit_noise = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def draw(figure, t):
    left, right = figure.subplots(1, 2)
    steps = torch.full((600,), t)
    plots.image_grid(q_sample(digits[:9], steps[:9], digit_noise, alphas_bar), ncols=3, ax=left)
    plots.cloud(q_sample(points, steps, point_noise, alphas_bar), ax=right)
    right.set(xlim=(-3, 3), ylim=(-3, 3), title=f"t = {t}")

# %%
# NBVAL_IGNORE_OUTPUT
# takes some seconds
frames = [0, 0, *range(5, 1000, 30), 999, 999]
plots.animate(draw, frames, alt="digits and eight clusters of points turn into noise")

# %% [markdown]
# *Figure 1.5.* Nine digits and 600 points on their way. The way back will bring the structure in the opposite order: first the coarse, then the fine. <!-- alt: An animation. Nine digits on the left and eight clusters of points on the right dissolve into noise as t grows. -->

# %%
fig, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
for ax, t in zip(axes, (0, 60, 100, 250), strict=True):
    _ = plots.cloud(q_sample(points, torch.full((600,), t), point_noise, alphas_bar), ax=ax)
    _ = ax.set(xlim=(-3, 3), ylim=(-3, 3), title=f"t = {t}")

# %% [markdown]
# *Figure 1.6.* The same points at four steps: eight clusters, eight wider clusters, a ring of clusters that touch, and a cloud whose hole has closed. <!-- alt: Four scatter plots. Eight tight clusters on a circle, eight blurred clusters, a ring, and a filled round cloud. -->

# %% tags=["folded"]
_, means, stds = data.eight_gaussians_mixture()
gap = (means[0] - means[1]).norm()  # between neighbours
apart = torch.cdist(digits.flatten(1), digits.flatten(1)).fill_diagonal_(math.inf).min(1).values.median()
print(f"neighbouring clusters lie {gap:.2f} apart, a digit and the nearest other {apart:.1f} (median)")
for t in (60, 100):
    a_bar = alphas_bar[t]
    distance = a_bar.sqrt() * gap / (a_bar * stds[0] ** 2 + 1 - a_bar).sqrt()
    print(f"t = {t:3}: neighbouring clusters lie {distance:.1f} standard deviations apart")

# %% [markdown]
# Move the step yourself. Where can you no longer tell a 3 from an 8? (Where no kernel runs, watch figure 1.5 instead.)

# %%
# NBVAL_IGNORE_OUTPUT
def show(t=250):
    draw(plt.figure(figsize=(6, 3)), t)
    plt.show()


_ = ipywidgets.interact(show, t=(0, 999, 10))

# %% [markdown] tags=["deeper"]
# ### Going deeper: why `extract` keeps its dtype

# %% [markdown]
# **What goes wrong: `.float()` inside.** The post's `extract` looks up in float64 and casts to float32. A look-up is the wrong place to choose a precision. If you work in float64 to test a formula, you get coefficients with the errors of float32. If you work in half precision, you get float32 images, which a half-precision network refuses:

# %%
t4, noise = torch.tensor([0, 100, 300, 999]), torch.randn(4, 1, 8, 8, dtype=torch.float64)
signal, spread = (extract(v, t4, noise.shape) for v in (alphas_bar.sqrt(), (1 - alphas_bar).sqrt()))
exact = signal * digits[:4].double() + spread * noise
rounded = signal.float() * digits[:4].double() + spread.float() * noise
assert 1e-9 < (rounded - exact).abs().max() < 1e-6
print("bfloat16 image times float32 coefficient:", (spread.float() * digits[:4].bfloat16()).dtype)

# %% [markdown]
# So `extract` keeps v's precision, and the code that multiplies an image chooses. The package takes coefficients in float32 at least, in float64 for float64 images, and gives the result the image's own dtype. `GaussianDiffusion` holds all tables:

# %%
from ddpm_lesson import GaussianDiffusion

process = GaussianDiffusion(betas)
for dtype in (torch.bfloat16, torch.float32, torch.float64):
    x_t = process.q_sample(digits[:4].to(dtype), t4, noise.to(dtype))
    print("images in", dtype, "-> x_t in", x_t.dtype)
assert torch.allclose(x_t, exact, rtol=1e-14, atol=1e-14)

# %% [markdown]
# **What goes wrong: "t enters through $\bar\alpha_t$".** The post says that the step reaches the network through $\bar\alpha_t$. That is half of it: $x_t$ depends on $\bar\alpha_t$. The network is also *told* $t$, as a second argument (notebook 3 shows how).

# %% [markdown] tags=["sitting"]
# ## 1.5 Schedules, and how long a digit stays readable
#
# *Sitting 2 of 3, 24 minutes.*

# %% tags=["start"]
import math

import torch

from ddpm_lesson import GaussianDiffusion, checks, data, oracle, plots, schedules

# carried: what the check gave back, or the course's own
linear_betas, q_sample = checks.carried("linear_betas"), checks.carried("q_sample")
betas = linear_betas(1e-4, 0.02, 1000)
alphas_bar = torch.cumprod(1 - betas, 0)
digits, labels = data.digits()[:]

# %% [markdown]
# *Question.* The betas may be chosen freely. What must a good choice do?
#
# *Derive.* Take data of variance 1. By (1.2) the image contributes variance $\bar\alpha_t$ to $x_t$ and the noise $1-\bar\alpha_t$. Their ratio is the signal-to-noise ratio (信噪比):
# $$\operatorname{SNR}(t) = \frac{\bar\alpha_t}{1-\bar\alpha_t}. \tag{1.3}$$
# Ask of a schedule that its SNR
#
# - starts high: the first step back, from $x_1$ to $x_0$, should have little to do;
# - ends near 0: the chain must end in noise (section 1.6);
# - **spends many steps where image and noise are comparable**. Above this band almost every digit can still be read; far below it nothing is left of the image. We count the steps with $|\log\operatorname{SNR}| < 2$ (natural logarithm: a ratio between 1/7.4 and 7.4). The limit 2 is a convention: at $\log\operatorname{SNR} = -4$ the 64 pixels together still tell something about the digit.
#
# All three are needed. A chain could jump to the middle in its first step, or into noise in its last, and still spend nearly all other steps in the middle.
#
# **The cosine schedule** (Nichol and Dhariwal 2021) chooses the curve first and computes the betas from it. With $u = t/T$,
# $$\begin{aligned} f(u) &= \cos^2\!\Big(\frac{u+s}{1+s}\cdot\frac{\pi}{2}\Big), \\ \bar\alpha(u) &= \frac{f(u)}{f(0)}, \\ \beta_t &= \min\Big(1 - \tfrac{\bar\alpha(t/T)}{\bar\alpha((t-1)/T)},\ 0.999\Big). \end{aligned} \tag{1.4: Improved DDPM Eq. 17}$$
# The offset $s = 0.008$ keeps the first betas from being tiny: with $s = 0$ the curve starts out flat. The cap is needed at the end, where $\bar\alpha$ reaches 0 and $\beta$ would be 1: such a step keeps nothing of the image.
#
# **Exercise 1.5 (two stars, 7 minutes).** Return the $T$ betas of (1.4) as float64.
# <details><summary>Hint 1</summary>Compute f at T + 1 places, 0, 1/T, …, 1. The factor f(0) cancels in the ratio.</details>
# <details><summary>Hint 2</summary>One minus the ratio of neighbours, then clamp.</details>

# %%
def cosine_betas(T, s=0.008, max_beta=0.999):
    ...

# %%
cosine_betas = checks.cosine_betas(cosine_betas)

# %% [markdown]
# Besides the linear schedule and yours, three more, from DDPM's code and later papers: *quadratic* (the roots of β are evenly spaced), *constant* (always 0.02) and *sigmoid* ($\bar\alpha_t$ itself follows a sigmoid).
#
# > **Predict.** Which of the five still shows most of the digit at half time, and which destroys it first?
# > <details><summary>Then look</summary>Cosine and sigmoid keep half of the variance until half time. The constant schedule starts with the β that the linear one ends with, and has destroyed the digit after a fifth of the steps.</details>

# %%
chains = {"linear": betas, "cosine": cosine_betas(1000)}
chains |= {name: schedules.named(name, 1000) for name in ("quadratic", "sigmoid", "constant")}
curves = {name: torch.cumprod(1 - chain, 0) for name, chain in chains.items()}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
_ = plots.schedule(curves, ax=axes[0]), plots.log_snr(curves, ax=axes[1])
_ = axes[1].axhspan(-2, 2, color="0.9", zorder=0)
for ax in axes:  # sigmoid: wide, behind the cosine
    ax.lines[3].set(linestyle="-", linewidth=6, alpha=0.5, zorder=1)
    _ = ax.legend()

# %% [markdown]
# *Figure 1.7.* Left: the share of the image's variance that is left. Right: log SNR; in the grey band image and noise are comparable. The constant schedule is through it after little more than a tenth of the steps. Linear and quadratic leave it earlier than cosine and sigmoid. Cosine and sigmoid (the wide line behind it) nearly coincide and stay in it for more than half of the steps. <!-- alt: Two line plots over t of five schedules. The constant one falls first, then linear and quadratic, and cosine and sigmoid fall evenly over all steps. A grey band marks log SNR between -2 and 2. -->

# %%
def comparable(betas):
    log_snr = torch.logit(torch.cumprod(1 - betas, 0))
    return (log_snr.abs() < 2).double().mean().item()


for name, chain in chains.items():
    print(f"{name:9}: {comparable(chain):.0%} of the steps have |log SNR| < 2")

# %% [markdown]
# *How long does a digit stay readable?* Bayes' rule can tell, without any training. Take a noisy test digit. For every training digit compute the density (1.2) of this $x_t$. Add up the densities in each class and take the class with the largest sum. This would be the best possible answer if the clean digit were one of the training digits. A test digit is not, so it is an approximation. (`oracle.Empirical` computes it. `GaussianDiffusion` is the package's class that holds all tables of a chain.)

# %%
train, train_labels = data.digits("train")[:]
test, test_labels = data.digits("test")[:]
noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))


def readable(betas, steps):
    """Share of the test digits that Bayes' rule classifies correctly at these steps."""
    bayes, found = oracle.Empirical(GaussianDiffusion(betas), train, labels=train_labels), []
    for step in steps:
        t = torch.full((len(test),), step)
        x_t = q_sample(test, t, noise, torch.cumprod(1 - betas, 0)).float()
        found.append((bayes.classifier(x_t, t).argmax(1) == test_labels).double().mean().item())
    return found

# %%
steps = range(0, 1000, 50)  # takes some seconds
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for name, style, color in (("linear", "-", plots.BLUE), ("cosine", "--", plots.VERMILION)):
    ax.plot(steps, readable(chains[name], steps), style, color=color, label=name)
ax.axhline(0.1, color="0.5", linewidth=0.8)
_ = ax.set(xlabel="$t$", ylabel="classified correctly", ylim=(0, 1)), ax.legend()

# %% [markdown]
# *Figure 1.8.* The share of the 382 test digits that Bayes' rule still classifies correctly; the grey line is guessing. With the linear schedule half of them are lost at about t = 400, and in the last third hardly anything can be read. With the cosine schedule digits stay readable much longer. <!-- alt: Two falling curves over t from above 0.9 to about 0.1. The linear schedule's curve drops between t = 200 and 500, the cosine schedule's between t = 400 and 900. -->

# %% tags=["folded"]
for name in ("linear", "cosine"):
    early, late = readable(chains[name], (200, 500))
    print(f"{name}: {early:.0%} of the test digits are read at t = 200, {late:.0%} at t = 500")

# %% [markdown] tags=["deeper"]
# ### Going deeper: bits that are left, and betas that grow exponentially

# %% [markdown]
# **How many bits of the image are left?** (It needs entropy.) The mutual information $I(x_0; x_t)$ says how many bits $x_t$ tells about $x_0$: the entropy $h$ of $x_t$ minus the entropy that remains when $x_0$ is known. For a pixel of variance 1 that is itself Gaussian, $x_t$ is Gaussian with variance 1, and given $x_0$ its variance is $1-\bar\alpha_t$. The entropy of a Gaussian with variance $v$ is $\tfrac12\log_2(2\pi e\,v)$, so
# $$I(x_0; x_t) = h(x_t) - h(x_t\mid x_0) = -\tfrac12\log_2(1-\bar\alpha_t) \tag{1.5}$$
# which is $\tfrac12\log_2(1+\operatorname{SNR})$, because $1/(1-\bar\alpha_t) = 1+\operatorname{SNR}$. Among all distributions of the same variance the Gaussian has the largest entropy of $x_t$, so (1.5) is an upper bound for any pixel of variance 1 or less. A digit's pixel never holds more than its own entropy either, and the true information lies below both bounds. We compute it on a grid, for all pixels of all digits pooled:

# %%
levels, counts = digits.double().unique(return_counts=True)
share = counts / counts.sum()
entropy = -(share * share.log2()).sum().item()
grid = torch.linspace(-6, 6, 6001, dtype=torch.float64)


def pixel_bits(a_bar):
    """Mutual information of a pooled pixel and its noised value."""
    noisy = torch.distributions.Normal(a_bar.sqrt() * levels[:, None], (1 - a_bar).sqrt())
    log_prob = noisy.log_prob(grid)
    log_mix = torch.logsumexp(log_prob + share.log()[:, None], 0)
    nats = (share[:, None] * log_prob.exp() * (log_prob - log_mix)).sum().item() * 12 / 6000
    return nats / math.log(2)

# %%
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
at = torch.arange(0, 1000, 5)
for name, style, color in (("linear", "-", plots.BLUE), ("cosine", "--", plots.VERMILION)):
    ax.plot(at, [pixel_bits(curves[name][i]) for i in at], style, color=color, label=f"{name}, true")
bound = (-0.5 * torch.log2(1 - alphas_bar)).clamp(max=entropy)
ax.plot(bound, ":", color="black", label="linear, bound (1.5)")
_ = ax.set(xlabel="$t$", ylabel="bits for each pixel"), ax.legend()

# %% [markdown]
# *Figure 1.9.* What a pixel of $x_t$ tells about its $x_0$, on average over all pixels of all digits. (The bound is cut at the entropy of a pixel.) At t = 400 of the linear schedule a pixel tells less than a tenth of a bit, and nearly half of the digits can still be read (figure 1.8): coarse shapes are spread over many pixels. <!-- alt: Three falling curves. The true information of the linear schedule falls fastest and lies below its dotted bound; the cosine schedule's falls more slowly. -->

# %%
print(f"entropy of a pooled pixel: {entropy:.2f} bits")
for t in (69, 199, 399):
    bound = -0.5 * torch.log2(1 - alphas_bar[t])
    print(f"linear, t = {t:3}: {pixel_bits(alphas_bar[t]):.2f} bits, at most {bound:.2f} by (1.5)")

# %% [markdown]
# **Three more schedules of DDPM's code.** `warmup10` and `warmup50` rise linearly from 0.0001 to 0.02 in the first 10 % or 50 % of the steps and then stay at 0.02. `jsd` takes $\beta_t = 1/(T-t+1)$: the share of the image's variance that is left falls by $1/T$ at every step, and the last β is exactly 1. (`schedules.warmup10`, `schedules.warmup50`, `schedules.jsd`.) And one that you will meet with a mistake: published code for *quadratic* squares twice. Its last β is 0.0004 instead of 0.02, and 92 % of the variance is left at the end.

# %% [markdown]
# **What goes wrong: "later papers let β grow exponentially".** The post says so; none of the repositories that it links to does. What later work lets grow by a constant factor is σ (k-diffusion) or $1-\bar\alpha$ (an option in the code of denoising diffusion GANs; section 5.22 shows their usual schedule), not β. The best-known later schedule is the cosine. Taken literally (`schedules.geometric`: the same factor from each β to the next), the chain does not end in noise:

# %%
geometric = GaussianDiffusion(schedules.geometric(1000))
print(f"alphas_bar_T of the literal reading: {geometric.alpha_bar_T:.4f}")
print(f"of the linear schedule: {alphas_bar[-1]:.6f}")

# %% [markdown]
# ## 1.6 Chains that never reach the noise
#
# *Question.* A laptop is slow, so you take $T = 100$ and keep $\beta$ from 0.0001 to 0.02. What happens?
#
# Sampling starts in $\mathcal N(0, I)$, a distribution that needs no data. So the forward chain must *end* there. By (1.2) it ends at mean $\sqrt{\bar\alpha_T}\,x_0$.
#
# > **Predict.** How much of the image's amplitude, $\sqrt{\bar\alpha_T}$, is left after these 100 steps: 0.6 %, 6 % or 60 %?
# > <details><summary>Then look</summary>60 %. A tenth of the steps with the same betas adds up to a tenth of the sum of betas, and the sum stands in the exponent (section 1.3).</details>

# %%
for T in (50, 100, 200, 300, 1000):
    left = torch.prod(1 - linear_betas(1e-4, 0.02, T)).sqrt().item()
    print(f"T = {T:4}: {left:6.1%} of the amplitude left")

# %%
fig, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
noise_T = torch.randn(digits.shape, generator=torch.Generator().manual_seed(3))
for T, color in ((1000, plots.BLUE), (100, plots.VERMILION)):
    short = torch.cumprod(1 - linear_betas(1e-4, 0.02, T), 0)
    x_T = q_sample(digits, torch.full((len(digits),), T - 1), noise_T, short)
    ax.hist(x_T.mean((1, 2, 3)), bins=40, alpha=0.6, density=True, color=color, label=f"T = {T}")
_ = ax.set(xlabel="mean of the 64 pixels of $x_T$", ylabel="density"), ax.legend()

# %% [markdown]
# *Figure 1.10.* The mean brightness of $x_T$ for all 1797 digits. With 1000 steps it lies around 0, as that of noise does. With 100 steps it stays dark: a sampler would start at images that are too bright, which the network never saw. <!-- alt: Two histograms. That of T = 1000 is centred at 0, that of T = 100 lies clearly to the left of it. -->
#
# We measure, in bits per pixel, how far $x_T$ given $x_0$ is from pure noise: the Kullback-Leibler divergence from $\mathcal N(0, 1)$. It is 0 only if the two distributions are equal. For $x_0 = \pm1$ it is $-\tfrac12\log_2(1-\bar\alpha_T)$ (from $\mathcal N(m, v)$ to $\mathcal N(0, 1)$ it is $\tfrac12(m^2+v-1-\ln v)$ in nats, which notebook 2 derives; here $m^2+v=1$, and only the logarithm remains). A chain *ends in noise* if it ends below 0.01 bits.
#
# **Exercise 1.6 (design, 7 minutes).** You can afford only $T = 100$ steps. Choose betas whose first is below 0.01, that end in noise *and* have as many steps as possible at which image and noise are comparable (the 1000 linear steps have 35 %). Candidates: the line from 0.0001 to 0.02; a line with other ends; your cosine; a curve of your own. First write down which of them end in noise, and guess their order by the share of steps with $|\log\operatorname{SNR}| < 2$. Then change the line below and measure.
# <details><summary>Hint</summary>For small betas $\bar\alpha_T \approx e^{-(\beta_1+\dots+\beta_T)}$ (section 1.3): the sum decides where a chain ends. Below 0.01 bits means $\bar\alpha_T < 0.014$: which sum is that?</details>
# <details><summary>One answer</summary>Of the untouched line, the line times 10 and the cosine, the untouched line has the largest share, because it stops in the middle: the share alone is not enough. The line from 0.001 to 0.2 (both ends times 1000/T) ends in noise and has 34 %, nearly the 35 % of the 1000 linear steps. It goes further than it must: a sum of 4.3 is enough. The cosine ends in noise too and has 56 %. A curve of your own can do better: where log SNR falls evenly from 2 to -2 and the other 16 steps lie outside, it is 84 %, with betas of at most 0.21. (Run the folded cell below figure 1.11. Whether such a chain also draws better images is another question.) (A large <em>last</em> beta alone ends any chain in noise, and meets the conditions. But then the last step does nearly all the work; section 1.9 shows why a large step is bad.)</details>

# %%
chosen = linear_betas(1e-4, 0.02, 100)  # your choice

# %%
end = torch.prod(1 - chosen).item()
print(f"first beta {chosen[0]:.4f}; it ends {-0.5 * math.log2(1 - end):.4f} bits from noise")
print(f"{comparable(chosen):.0%} of its steps have |log SNR| < 2")
yours = {"your choice": torch.cumprod(1 - chosen, 0), "linear, T = 1000": alphas_bar}
ax = plots.log_snr(yours)
_ = ax.axhspan(-2, 2, color="0.9", zorder=0)

# %% [markdown]
# *Figure 1.11.* Your chain beside the linear one of 1000 steps. The untouched choice enters the grey band and never leaves it: it stops in the middle. <!-- alt: Two falling curves of log SNR over the share of the chain. The untouched choice ends inside the grey band, the linear chain of 1000 steps far below it. -->

# %% tags=["folded"]
levels = [torch.linspace(4.7, 2.1, 6), torch.linspace(1.99, -1.99, 84), torch.linspace(-2.2, -4.4, 10)]
even = torch.cat(levels).double().sigmoid()  # alphas_bar, from log SNR
even_betas = 1 - even / torch.cat([torch.ones(1), even[:-1]])
choices = {"line": linear_betas(1e-4, 0.02, 100), "line, times 10": linear_betas(1e-3, 0.2, 100)}
choices |= {"cosine": checks.carried("cosine_betas")(100), "even in the band": even_betas}
for name, chain in choices.items():
    bits = -0.5 * math.log2(1 - torch.prod(1 - chain).item())
    where = f"{comparable(chain):.0%} comparable, ends {bits:.4f} bits from noise"
    print(f"{name:16}: betas {chain[0]:.4f} to {chain.max():.2f}, {where}")

# %% [markdown] tags=["deeper"]
# ### Going deeper: where published chains end, and a repair with a limit

# %% [markdown]
# | published code | T | betas | where it ends |
# |---|---|---|---|
# | DDPM, and the repository behind the post | 1000 | 0.0001 … 0.02 | in noise |
# | improved-diffusion, lucidrains ("linear") | any | the same, times 1000/T | in noise, for every T above 20 |
# | tutorials with T = 200 | 200 | 0.0001 … 0.02 | 36 % of the amplitude left |
# | tutorials with T = 300 | 300 | 0.0001 … 0.02 | 22 % left |
#
# `describe()` says where a chain ends, and warns if that is not in noise:

# %%
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    short = GaussianDiffusion(schedules.linear(100)).describe()
full = GaussianDiffusion(betas).describe()  # without a warning
print(f"T =  100: {short.prior_bits:.5f} bits for each pixel; {caught[0].category.__name__}")
print(f"T = 1000: {full.prior_bits:.5f} bits for each pixel")

# %% [markdown]
# **Repair.** Multiply the betas by $1000/T$ (improved-diffusion does): their sum is then the same for every $T$. Or take the cosine schedule, which is defined for every $T$. The scaling has a limit: at $T = 20$ the last beta would be 1, which erases the image in one step.

# %%
for T in (50, 100, 200, 1000):
    print(f"T = {T:4}: alphas_bar_T = {GaussianDiffusion(schedules.linear_scaled(T)).alpha_bar_T:.1e}")
try:
    schedules.linear_scaled(20)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown] tags=["sitting"]
# ## 1.7 The posterior: one step back, if you know where you came from
#
# *Sitting 3 of 3, 35 minutes.*

# %% tags=["start"]
import math

import ipywidgets
import torch

from ddpm_lesson import GaussianDiffusion, checks, data, load_pretrained, plots

carried = [checks.carried(name) for name in ("linear_betas", "cosine_betas", "extract", "q_sample")]
linear_betas, cosine_betas, extract, q_sample = carried
betas = linear_betas(1e-4, 0.02, 1000)
alphas_bar, process = torch.cumprod(1 - betas, 0), GaussianDiffusion(betas)
digits, labels = data.digits()[:]
network = load_pretrained("digits_ddpm", device=device)
grid = torch.linspace(-6, 6, 6001, dtype=torch.float64)  # values of one pixel


def Normal(mean, std):
    return torch.distributions.Normal(*(torch.as_tensor(v, dtype=torch.float64) for v in (mean, std)))

# %% [markdown]
# *Question.* The way back asks for $x_{t-1}$ given $x_t$. Suppose that we also knew the clean image $x_0$. Where was the chain one step earlier? The network will imitate this distribution, with an estimate instead of $x_0$.
#
# *Derive.* Bayes' rule, with everything conditioned on $x_0$:
# $$q(x_{t-1}\mid x_t, x_0) = \frac{q(x_t\mid x_{t-1}, x_0)\;q(x_{t-1}\mid x_0)}{q(x_t\mid x_0)} .$$
# Given $x_{t-1}$, the step to $x_t$ does not depend on $x_0$, so the first factor, the *likelihood*, is (1.1). The second, the *prior*, is (1.2) for $t-1$. (Papers and code also call $\mathcal N(0, I)$, where sampling starts, the prior.) The denominator only makes the total 1. Draw it for one pixel with $x_0 = 0.8$ and $x_t = -0.5$, in a chain of 10 steps, so that a step is large enough to see:

# %%
coarse = cosine_betas(10)
coarse_bar = torch.cumprod(1 - coarse, 0)
pixel_0, pixel_t = (torch.tensor([[v]], dtype=torch.float64) for v in (0.8, -0.5))


def draw_bells(ax, t):
    likelihood = Normal((1 - coarse[t]).sqrt() * grid, coarse[t].sqrt()).log_prob(pixel_t[0])
    prior = Normal(coarse_bar[t - 1].sqrt() * pixel_0[0], (1 - coarse_bar[t - 1]).sqrt()).log_prob(grid)
    curves = {"likelihood, (1.1)": likelihood, "prior, (1.2)": prior, "product": likelihood + prior}
    for (name, curve), color, width in zip(curves.items(), plots.COLOURS, (1.5, 4, 1.5), strict=False):
        ax.plot(grid, (curve - curve.max()).exp(), color=color, linewidth=width, label=name)
    ax.set(xlim=(-2.5, 2.5), ylim=(0, 1.1), xlabel="$x_{t-1}$", title=f"t = {t} of 0 … 9", yticks=[])

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained")
for ax, t in zip(axes, (1, 5, 9), strict=True):
    draw_bells(ax, t)
_ = fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)

# %% [markdown]
# *Figure 1.12.* Likelihood of the observed $x_t$, prior from $x_0$, and their product, the posterior; all as functions of $x_{t-1}$, each scaled to height 1 (at t = 9 the likelihood's top lies outside). At small t the prior is narrow and pulls the posterior towards $x_0$. In the middle both count. At the last step $x_t$ says almost nothing, and the posterior is the prior. <!-- alt: Three panels with three bell curves each. On the left the orange-red prior is narrow, and the green product lies between it and the likelihood, nearer to it; in the middle the product lies between prior and likelihood; on the right the likelihood is flat and the product equals the prior. -->
#
# Once $x_0$ is given, all pixels are independent, so one is enough. Write $x$ for $x_{t-1}$. The exponent of the product is, up to a constant,
# $$-\frac12\left[\frac{(x_t-\sqrt{\alpha_t}\,x)^2}{\beta_t} + \frac{(x-\sqrt{\bar\alpha_{t-1}}\,x_0)^2}{1-\bar\alpha_{t-1}}\right] ,$$
# a quadratic in $x$ with a negative sign: a Gaussian. Call its mean $\tilde\mu_t$ and its variance $\tilde\beta_t$; then the bracket reads $x^2/\tilde\beta_t - 2x\,\tilde\mu_t/\tilde\beta_t$ plus what does not contain $x$.
#
# **Exercise 1.7 (on paper, 8 minutes).** Find $\tilde\beta_t$, then $\tilde\mu_t$. Collect what multiplies $x^2$ and what multiplies $-2x$. You will need $\alpha_t\bar\alpha_{t-1} = \bar\alpha_t$ and $\beta_t = 1-\alpha_t$. (Stop scrolling here: the result follows.)
# <details><summary>Solution</summary>
#
# What multiplies $x^2$ is $1/\tilde\beta_t$. Bring it over one denominator:
#
# $\dfrac1{\tilde\beta_t} = \dfrac{\alpha_t}{\beta_t}+\dfrac{1}{1-\bar\alpha_{t-1}} = \dfrac{\alpha_t(1-\bar\alpha_{t-1})+\beta_t}{\beta_t(1-\bar\alpha_{t-1})} = \dfrac{\alpha_t-\bar\alpha_t+1-\alpha_t}{\beta_t(1-\bar\alpha_{t-1})} = \dfrac{1-\bar\alpha_t}{\beta_t(1-\bar\alpha_{t-1})}$
#
# What multiplies $-2x$ is $\tilde\mu_t/\tilde\beta_t$. Times $\tilde\beta_t$, one denominator cancels in each term:
#
# $\tilde\mu_t = \tilde\beta_t\Big(\dfrac{\sqrt{\alpha_t}\,x_t}{\beta_t}+\dfrac{\sqrt{\bar\alpha_{t-1}}\,x_0}{1-\bar\alpha_{t-1}}\Big) = \dfrac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t+\dfrac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0$
#
# (At the first step, the papers' $t = 1$ and the code's `t = 0`, there is nothing to find: $x_{t-1}$ is $x_0$, and the result says so too.)
# </details>

# %% [markdown]
# The result:
# $$\begin{aligned} q(x_{t-1}\mid x_t,x_0) &= \mathcal N\big(x_{t-1};\ \tilde\mu_t,\ \tilde\beta_t I\big), \\ \tilde\mu_t &= \text{coef1}\cdot x_0 + \text{coef2}\cdot x_t, \\ \text{coef1} &= \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t},\qquad \text{coef2} = \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}, \\ \tilde\beta_t &= \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t . \end{aligned} \tag{1.6: DDPM Eq. 6-7}$$
#
# **Exercise 1.8 (two stars, 7 minutes).** Return `(mean, var)` of (1.6), mean (B, \*D) and var (B, 1, …, 1): the variance, not its logarithm. Float64 stays float64. It must be exact at `t = 0`, the papers' $t = 1$. What is $\bar\alpha_{t-1}$ there? Section 1.10 calls your function on a GPU if there is one: make new tensors where `betas` is (`torch.ones_like`, or `device=betas.device`).
# <details><summary>Hint 1</summary>It is the empty product. Build the table alphas_bar_prev from alphas_bar by a shift.</details>
# <details><summary>Hint 2</summary>The roots: over alphas_bar_prev in front of x_0, over alpha in front of x_t, none in the variance.</details>

# %%
def posterior(x_0, x_t, t, betas):
    ...

# %%
posterior = checks.posterior(posterior)

# %% [markdown]
# The slider draws your posterior (black, dashed) over the product. (Where no kernel runs, see three places in figure 1.12; the two coincide.)

# %%
# NBVAL_IGNORE_OUTPUT
def show(t=5):
    ax = plt.subplots(figsize=(5, 2.6), layout="constrained")[1]
    draw_bells(ax, t)
    mean, var = posterior(pixel_0, pixel_t, torch.tensor([t]), coarse)
    height = (-((grid - mean[0]) ** 2) / (2 * var[0])).exp()
    ax.plot(grid, height, "--", color="black", label="your posterior")
    ax.legend(loc="upper left", fontsize="small")
    plt.show()


_ = ipywidgets.interact(show, t=(1, 9))

# %% tags=["folded"]
def bayes_on_the_grid(t):
    """Mean and variance of the posterior without algebra: Bayes' rule on a grid of values of x_{t-1}."""
    step = Normal((1 - betas[t]).sqrt() * grid, betas[t].sqrt()).log_prob(pixel_t[0])
    jump = Normal(alphas_bar[t - 1].sqrt() * pixel_0[0], (1 - alphas_bar[t - 1]).sqrt()).log_prob(grid)
    weight = torch.softmax(step + jump, 0)
    mean = (weight * grid).sum()
    return mean, (weight * (grid - mean) ** 2).sum()


for t in (1, 10, 300, 999):
    (mean, var), at = bayes_on_the_grid(t), torch.tensor([t])
    formula = process.q_posterior(pixel_0, pixel_t, at)
    found = posterior(pixel_0, pixel_t, at, betas)
    assert torch.allclose(found[0], formula.mean) and torch.allclose(found[1], formula.log_var.exp())
    assert abs(mean - formula.mean) < 1e-9 and abs(var / formula.log_var.exp() - 1) < 1e-6
    means = f"mean {mean:.4f} on the grid, {found[0].item():.4f} by posterior()"
    print(f"t = {t:3}: {means}; beta / var {betas[t] / var:.3f}")

# %% [markdown]
# Bayes' rule on a grid, without algebra, agrees. The last column compares variances: the posterior is narrower than the step, noticeably so only at small t.
#
# > **Predict.** At `t = 500` of 1000, which has nearly all of the weight in the mean: $x_0$ or $x_t$?
# > <details><summary>Then look</summary>x_t, with more than 99 %. One step of a thousand moves the image very little.</details>

# %%
for t in (0, 1, 10, 500):
    coef1, coef2 = process.posterior_mean_coef1[t], process.posterior_mean_coef2[t]
    print(f"t = {t:3}: weight of x_0 {coef1:.4f}, weight of x_t {coef2:.4f}")

# %% [markdown] tags=["deeper"]
# ### Going deeper: a logarithm that is minus infinity

# %% [markdown]
# At `t = 0` the posterior is a point, because we know $x_0$. Its variance is 0, and the logarithm, which code prefers to store, is minus infinity:

# %%
print(f"at t = 0: variance {process.posterior_var[0]:.0f}, logarithm {process.posterior_log_var[0]}")
first, second = process.posterior_log_var_clipped[:2].tolist()
print(f"log of the clipped table: t = 0: {first:.2f}, t = 1: {second:.2f}")
print(f"used for q at t = 0 it adds noise of standard deviation {math.exp(first / 2):.4f}")

# %% [markdown]
# **What goes wrong: one table for two purposes.** $-\infty$ is the right value for $q$: the posterior's sample is its mean. The *model's* last step needs a finite one: it must be a density that gives $x_0$ a finite log-probability (notebook 2). So code keeps a second table in which index 0 repeats the value of index 1 (the first official code clipped the variance at 1e-20 instead, which gives −46.05). With the clipped table for $q$ too, the posterior at t = 0 would scatter around an $x_0$ that it knows.
#
# The post builds the second table as `cat([posterior_var[1:2], posterior_var[1:]])`. With $T = 1$ the slice `[1:2]` is empty, so the table loses its only entry; building works, the first sampling step fails:

# %%
one = torch.tensor([0.5])
posterior_var = one * (1 - torch.ones(1)) / (1 - torch.cumprod(1 - one, 0))
clipped = torch.cat([posterior_var[1:2], posterior_var[1:]])
try:
    clipped.gather(0, torch.tensor([0]))
except RuntimeError:
    print(f"RuntimeError: a table of {len(clipped)} entries is asked for t = 0")
print("entries in the package's table:", len(GaussianDiffusion(one).posterior_log_var_clipped))

# %% [markdown]
# ## 1.8 From the noise back to $x_0$
#
# *Question.* A network will not know $x_0$. It looks at $x_t$ and predicts the noise $\epsilon$ in it. What is $x_0$ then? Solve (1.2) for it:
# $$x_0 = \frac{x_t-\sqrt{1-\bar\alpha_t}\;\epsilon}{\sqrt{\bar\alpha_t}} . \tag{1.7: DDPM Eq. 15}$$
#
# **Exercise 1.9 (one star, 3 minutes).** Equation (1.7) as a function, with shapes as in `q_sample`.
# <details><summary>Hint</summary>You have extract, and no root is missing in (1.7).</details>

# %%
def x_0_from_eps(x_t, t, eps, alphas_bar):
    ...

# %%
x_0_from_eps = checks.x_0_from_eps(x_0_from_eps)

# %% [markdown]
# > **Predict.** At the last of the 1000 linear steps the network's noise is off by 0.01. By how much is $x_0$ off, if its whole range is 2: by 0.01, by 0.1, or by more than half of the range?
# > <details><summary>Then look</summary>By 1.57. What is left of the image must be magnified 157 times, and the error with it. Samplers therefore clip the estimated x_0 to [−1, 1], and so will the loop of section 1.10.</details>

# %%
zero, last = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([999])
off = x_0_from_eps(zero, last, zero + 0.01, alphas_bar).abs().item()
print(f"at t = 999 an error of 0.01 in eps moves x_0 by {off:.2f}")
factor = (1 / torch.prod(1 - cosine_betas(1000)) - 1).sqrt()
print(f"on the cosine chain it would be multiplied by {factor:,.0f}")

# %% [markdown]
# *See* one digit at six noise levels, and the $x_0$ that follows from the noise that a network predicts. The network was trained on the cosine schedule, not on the linear one of the question above.

# %%
chain = cosine_betas(1000).float().to(device)
chain_bar = torch.cumprod(1 - chain, 0)


def predicted_noise(x, t):
    with torch.no_grad():
        return network.model(x, t)[:, :1]  # its second channel is for notebook 5

# %%
t = torch.tensor([50, 200, 400, 600, 800, 999], device=device)
noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
x = q_sample(digits[5:6].to(device).expand(6, -1, -1, -1), t, noise, chain_bar).float()
estimate = x_0_from_eps(x, t, predicted_noise(x, t), chain_bar)
_ = plots.chain(torch.stack([x, estimate]), t, names=("$x_t$", "estimate"))

# %% [markdown]
# *Figure 1.13.* Upper row: a digit with more and more noise. Lower row: the estimated $x_0$. Where there is little noise, the estimate is the digit. At t = 800 it is an average of all digits that could have produced $x_t$. At the last step of this cosine chain it is nothing but magnified error (shown here as black and white). <!-- alt: Two rows of six images. The upper row is a five that drowns in noise; the lower row shows a sharp five up to t = 400, a softer one at 600, a blurred one at 800 and black and white squares at 999. -->

# %% [markdown] tags=["deeper"]
# ### Going deeper: which way back to $x_0$ can be trusted

# %% [markdown]
# A network could also predict the mean of $x_{t-1}$. Solve (1.6) for $x_0$:
# $$x_0 = \frac{\tilde\mu_t - \text{coef2}\cdot x_t}{\text{coef1}} . \tag{1.8}$$
# Both ways are linear, so an error in what the network predicts is multiplied by a fixed factor: $\sqrt{1/\bar\alpha_t - 1}$ for the noise, $1/\text{coef1}$ for the mean of $x_{t-1}$.

# %%
for t in (0, 1, 100, 500, 999):
    from_eps, from_x_prev = process.sqrt_recipm1_alphas_bar[t], 1 / process.posterior_mean_coef1[t]
    factors = f"{from_eps:8.4f}, one in x_prev by {from_x_prev:7.2f}"
    print(f"t = {t:3}: an error in eps is multiplied by {factors}")

# %% tags=["folded"]
image, eps = digits[:1].double(), torch.randn(1, 1, 8, 8, dtype=torch.float64)
for t in (torch.tensor([i]) for i in (0, 1, 100, 500, 999)):
    noisy = process.q_sample(image, t, eps)
    x_prev = process.q_posterior(image, noisy, t).mean
    for back, value, factor in [
        (process.x_0_from_eps, eps, process.sqrt_recipm1_alphas_bar[t]),
        (process.x_0_from_x_prev, x_prev, 1 / process.posterior_mean_coef1[t]),
    ]:
        assert torch.allclose(back(noisy, t, value), image, rtol=0, atol=1e-10)
        off = (back(noisy, t, value + 0.01) - image).abs()
        assert torch.allclose(off, 0.01 * factor * torch.ones_like(off), rtol=1e-6)

# %%
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.semilogy(process.sqrt_recipm1_alphas_bar, color=plots.BLUE, label="from eps")
inverse, label = 1 / process.posterior_mean_coef1, "from the mean of $x_{t-1}$"
ax.semilogy(inverse, "--", color=plots.VERMILION, label=label)
_ = ax.set(xlabel="$t$", ylabel="error of $x_0$ / error of prediction"), ax.legend()

# %% [markdown]
# *Figure 1.14.* The factor by which an error is multiplied on the way to $x_0$, for errors of the same size in both predictions. For eps it is below 1 as long as $\bar\alpha_t > 1/2$ and large at the end. For the mean of $x_{t-1}$ it is 1 at t = 0, where coef1 is 1 and coef2 is 0, and then rises at once: a step is so small that it says little about $x_0$. <!-- alt: Two rising curves on a logarithmic axis. The one for the mean of the previous state lies above the one for eps at every t. -->
#
# Where $\bar\alpha_t$ is exactly 0 (a last beta of 1), $x_t$ is the noise itself. (1.7) divides by 0 there: the post's table holds infinity, and 0 times infinity is not a number. (1.8) still works, since coef1 is not 0. The package refuses:

# %%
from ddpm_lesson import schedules

ends_in_noise = GaussianDiffusion(schedules.zero_terminal_snr(betas))
table = (1 / torch.cumprod(1 - ends_in_noise.betas, 0)).sqrt()
print("the post's table at the last step:", table[-1].item())
try:
    ends_in_noise.x_0_from_eps(torch.zeros(1, 2), torch.tensor([999]), torch.zeros(1, 2))
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## 1.9 Why the steps must be small
#
# If you are tired, do 1.10 first: it does not need this section.
#
# *Question.* The sampler does not know $x_0$; it needs $q(x_{t-1}\mid x_t)$. Why may a network model that by a Gaussian?
#
# *The shape.* Bayes' rule without $x_0$: $q(x_{t-1}\mid x_t) \propto q(x_t\mid x_{t-1})\;q(x_{t-1})$. Keep $x_t$ fixed and let $x_{t-1}$ vary. The first factor is a Gaussian bell around $x_t/\sqrt{\alpha_t}$, of width $\sqrt{\beta_t/\alpha_t}$. The second is the density of the noisy data.
#
# - If $\beta_t$ is small compared with the noise already there, $1-\bar\alpha_{t-1}$, the bell is narrow. On such a short interval $\log q(x_{t-1})$ is nearly a straight line, for most $x_t$. A bell times the exponential of a straight line is the same bell, moved a little.
# - If $\beta_t$ is large, the product shows every mode (peak of the density) within the bell's reach.
#
# *See it.* Let the data be two narrow clusters at −1 and 1, after some steps with $\bar\alpha_{t-1} = 0.95$.
#
# > **Predict.** You stand at $x_t = 0.2$, between the clusters, and the step had the large variance β = 0.5. What does the distribution of $x_{t-1}$ look like?
# > <details><summary>Then look</summary>It has two modes: 37 % of it lies left of 0 and 63 % right. No single Gaussian can say "left or right".</details>

# %%
bar_prev, width, here = 0.95, 0.1, torch.tensor([0.2], dtype=torch.float64)
noised = math.sqrt(bar_prev * width**2 + 1 - bar_prev)
left, right = (Normal(m * math.sqrt(bar_prev), noised).log_prob(grid) for m in (-1, 1))
log_prev = torch.logaddexp(left, right) - math.log(2)  # log q(x_{t-1})


def reverse_step(beta, x_t):
    """q(x_{t-1} | x_t) on the grid, its mean and standard deviation; x_t is (..., 1)."""
    bell = Normal(math.sqrt(1 - beta) * grid, math.sqrt(beta)).log_prob(x_t)
    weight = torch.softmax(bell + log_prev, -1)
    mean = (weight * grid).sum(-1, keepdim=True)
    return weight, mean, (weight * (grid - mean) ** 2).sum(-1, keepdim=True).sqrt()

# %%
fig, axes = plt.subplots(2, 2, figsize=(9, 4.4), sharex=True, layout="constrained")
for (above, below), beta in zip(axes.T, (0.5, 0.004), strict=True):
    bell, reach = here.item() / math.sqrt(1 - beta), 2 * math.sqrt(beta / (1 - beta))
    above.plot(grid, log_prev, color=plots.VERMILION)
    above.axvspan(bell - reach, bell + reach, color=plots.BLUE, alpha=0.15)
    above.set(title=rf"$\beta$ = {beta}", xlim=(-2.5, 2.5), ylim=(-12, 1))
    weight, mean, std = reverse_step(beta, here)
    below.plot(grid, weight / (grid[1] - grid[0]), color=plots.GREEN, label="exact")
    below.plot(grid, Normal(mean, std).log_prob(grid).exp(), "--", color="black", label="Gaussian")
    below.set(xlabel="$x_{t-1}$")
_ = axes[0, 0].set(ylabel=r"$\log q(x_{t-1})$"), axes[1, 0].legend()
_ = axes[1, 0].set(ylabel="$q(x_{t-1} | x_t)$")

# %% [markdown]
# *Figure 1.15.* Above: $\log q(x_{t-1})$, and in blue the interval on which the bell is not small (two widths to each side). Below: the exact step back, and the Gaussian of the same mean and variance. Left, the interval holds both clusters and the step has two modes. Right, the curve on such a short interval is nearly a straight line, and step and Gaussian coincide. <!-- alt: Four panels. Left column, beta 0.5: a log density with two humps, both inside a wide blue band; below, a density with two peaks and a broad dashed Gaussian that misses both. Right column, beta 0.004: a narrow blue band; below, one peak and a dashed Gaussian on top of it. -->
#
# The smaller the step, the nearer it is to a Gaussian. That is the reason for $T = 1000$, and the price of DDPM: a thousand network calls for one image. (How a chain visits fewer steps, and what that costs: section 4.2 and section 4.12 of notebook 4.)
#
# *The mean.* The true step back is an average of posteriors, over all $x_0$ that could have produced this $x_t$. The mean of an average is the average of the means, and by (1.6) the posterior's mean is linear in $x_0$. So
# $$\mathbb E[x_{t-1}\mid x_t] = \text{coef1}\cdot\mathbb E[x_0\mid x_t] + \text{coef2}\cdot x_t . \tag{1.9}$$
# This is why an *estimate* of $x_0$ is enough: a network that knows the average $x_0$ behind $x_t$ has the mean of the step back exactly.

# %% tags=["folded"]
beta, bar = 0.5, 0.95 * (1 - 0.5)
data_density = torch.logaddexp(*(Normal(m, width).log_prob(grid) for m in (-1, 1)))
jump = Normal(math.sqrt(bar) * grid, math.sqrt(1 - bar)).log_prob(here)  # Bayes again, from x_0 to x_t
mean_x_0 = torch.softmax(jump + data_density, 0) @ grid
coef1, coef2 = math.sqrt(bar_prev) * beta / (1 - bar), math.sqrt(1 - beta) * (1 - bar_prev) / (1 - bar)
by_formula, exact = (coef1 * mean_x_0 + coef2 * here).item(), reverse_step(beta, here)[1].item()
assert abs(by_formula - exact) < 1e-9
print(f"mean of the step back for beta = 0.5: {exact:.6f} on the grid, {by_formula:.6f} by (1.9)")

# %% [markdown] tags=["deeper"]
# ### Going deeper: how far from a Gaussian, in bits, and the variance

# %% [markdown]
# How far is the step from the Gaussian of the same mean and variance? The Kullback-Leibler divergence (KL) says by how many bits, on average, the Gaussian's log density falls short of the true one. 1 bit: on (geometric) average it gives the true $x_{t-1}$ half the density that it should have; 0.01 bits: 0.7 % less. At $x_t = 0.2$ (a hard place, and for small β a rare one), and on average over the $x_t$ that occur:

# %% tags=["folded"]
def bits_from_gaussian(beta, x_t):
    weight, mean, std = reverse_step(beta, x_t)
    bell = torch.log_softmax(-((grid - mean) ** 2) / (2 * std**2), -1)
    return (weight * (weight.log() - bell)).nansum(-1) / math.log(2)


places = grid[::20, None]  # values of x_t
for beta in (0.5, 0.1, 0.02, 0.004):
    spread = math.sqrt((1 - beta) * noised**2 + beta)
    centre = math.sqrt((1 - beta) * bar_prev)
    likely = sum(Normal(m * centre, spread).log_prob(places).exp() for m in (-1, 1))
    average = (likely[:, 0] * bits_from_gaussian(beta, places)).sum() / likely.sum()
    print(f"beta = {beta:5}: {bits_from_gaussian(beta, here).item():.1e} bits, on average {average:.1e}")
share = reverse_step(0.5, here)[0][grid < 0].sum()
print(f"beta = 0.5: {share:.0%} of the step back from 0.2 lies left of 0")

# %% [markdown]
# From β = 0.02 to a fifth of it, the average becomes about 90 times smaller, while only five times as many steps are needed: five small errors together are still far smaller than the large one.
#
# *The variance* of the model's step must be chosen. With the average of posteriors written out,
# $$q(x_{t-1}\mid x_t) = \int q(x_{t-1}\mid x_t, x_0)\;q(x_0\mid x_t)\,dx_0 ,$$
# the variance of the true step is that of the posterior plus that of the posterior's mean, $\text{coef1}^2\operatorname{Var}(x_0\mid x_t)$. So the posterior's variance is too small wherever $x_0$ is uncertain. Notebook 2 says for which data which choice is right.

# %% [markdown]
# ## 1.10 Your functions draw digits
#
# Start in noise. At every step ask the network for the noise, turn it into $x_0$ (yours), take the posterior (yours), and draw from it. The estimate takes the place of $x_0$. The mean is then right if the estimate is the average $x_0$ (section 1.9); the variance is a little too small, which hardly matters with 1000 steps (section 4.3 measures what the choice costs). This time nobody says which digit to draw.

# %%
generator = torch.Generator().manual_seed(0)


def fresh():
    return torch.randn(10, 1, 8, 8, generator=generator).to(device)

# %%
x, seen, estimates = fresh(), {}, {}  # takes some seconds
for i in reversed(range(1000)):
    t = torch.full((10,), i, device=device)
    x_0 = x_0_from_eps(x, t, predicted_noise(x, t), chain_bar).clamp(-1, 1)
    mean, var = posterior(x_0, x, t, chain)
    x = (mean + var.sqrt() * fresh()).float()
    seen[i], estimates[i] = x, x_0

# %%
stops = (999, 800, 600, 400, 200, 100, 0)
rows = [torch.stack([kept[i][n] for i in stops]) for n in (0, 1) for kept in (seen, estimates)]
_ = plots.chain(torch.stack(rows), stops, names=("state", "estimate") * 2)

# %% [markdown]
# *Figure 1.16.* Two of your ten walks back: the state after step t, and the estimate of $x_0$ from which it was drawn. The first estimate is magnified error, clipped. At t = 800 it is nearly an average digit. As the noise falls, it becomes one digit with sharp strokes. <!-- alt: Four rows of seven images. Rows one and three go from noise to a digit; rows two and four show the estimate, first random black and white, then a grey average digit, later the same digit. -->

# %%
_ = plots.image_grid(x, ncols=10)

# %% [markdown]
# *Figure 1.17.* Ten images, drawn from noise by your functions and a trained network; most are readable digits. Every walk had its own start and its own noise, so no two images are the same. <!-- alt: Ten small images; most are readable handwritten digits. -->

# %% tags=["folded"]
existing = digits.flatten(1)
nearest, far = torch.cdist(x.cpu().flatten(1), existing).min(1).values, 1.0
assert (nearest > far).all(), "a copy, or nearly"
real = torch.cdist(existing, existing).fill_diagonal_(math.inf).min(1).values.median()
print(f"drawn digits: each more than {far} from the nearest of the {len(digits)} existing ones")
print(f"existing digits: {real:.1f} from the nearest other one (median)")

# %% [markdown]
# ## 1.11 What you now have
#
# 1. A step shrinks the image and adds noise so that variance 1 is kept; many steps are one jump with $\bar\alpha_t$, (1.2).
# 2. A schedule needs a small first beta, an end in noise, and many steps at which image and noise are comparable.
# 3. Given $x_0$, the step back is the Gaussian (1.6), likelihood times prior.
# 4. Without $x_0$ it is nearly Gaussian if the steps are small, and its mean needs only the average $x_0$ behind $x_t$, (1.9).
# 5. So a network that predicts noise, and the functions that you wrote, draw digits.
#
# **Read on.** Ho, Jain and Abbeel 2020, *Denoising Diffusion Probabilistic Models* (arXiv 2006.11239), section 2: you can now follow every line up to Eq. 7, except Eq. 3 and 5, which notebook 2 derives. Nichol and Dhariwal 2021, *Improved DDPM* (arXiv 2102.09672), section 3.2 for the cosine schedule. Lin and others 2023 (arXiv 2305.08891) on chains that do not end in noise.
#
# **Next**: notebook 2 asks what a network should learn so that it can walk this chain backwards, and trains one.

# %% [markdown] tags=["sitting", "capstone"]
# ## 1.12 Capstone: a forward process of your own
#
# *Capstone, 38 minutes.*
#
# **Exercise 1.10 (capstone, 35 minutes).** Build a class that makes a forward process from *any* curve that falls at every step and is positive before its last point, and animate an image of your choice: the way to noise uses the jump; the way back takes posterior steps, which know the image.
#
# - `Forward(curve, T, max_beta)`: `curve` takes $u$, (T + 1,) float64 from 0 to 1, and returns the curve of $\bar\alpha$ there. Make the tables `betas` and `alphas_bar`, both (T,) float64: $\beta_t = 1 - \text{curve}(t/T)\,/\,\text{curve}((t-1)/T)$ for the papers' $t = 1, \dots, T$. Only ratios count, so a curve that starts below 1 is scaled to start at 1, as $f$ in (1.4). No beta may exceed `max_beta`, and `alphas_bar` is the cumulative product of 1 − `betas`, after the cap.
# - `bits_left()`: how far the chain's end is from noise, $-\tfrac12\log_2(1-\bar\alpha_T)$.
# - `q_sample(x_0, t, noise)`: the jump.
# - `back(x_0, x_T, noise)`: all states (T + 1, B, \*D) from $x_T$ to $x_0$, each drawn from the posterior given $x_0$ and the state before. `noise` is (T, B, \*D), and `noise[t]` belongs to step `t`.
#
# <details><summary>Hint 1</summary>As in the cosine schedule, betas are one minus the ratio of neighbours on the curve.</details>
# <details><summary>Hint 2</summary>q_sample and back can call the functions that you have written. In back, t counts down and is the same for the whole batch.</details>

# %% tags=["start"]
import math

import torch

from ddpm_lesson import checks, data, plots

extract, q_sample, posterior = (checks.carried(name) for name in ("extract", "q_sample", "posterior"))
digits, labels = data.digits()[:]

# %% tags=["capstone"]
class Forward:
    def __init__(self, curve, T, max_beta=0.999):
        ...

    def bits_left(self):
        ...

    def q_sample(self, x_0, t, noise):
        ...

    def back(self, x_0, x_T, noise):
        ...

# %%
Forward = checks.Forward(Forward)

# %% [markdown]
# Now choose. An image: one of the digits, or `data.folder("my_pictures", 64, channels=1).x_0[:1]` for a file of yours. A curve and a `T`: does it end in noise? And is $\bar\alpha$ where you want it half way?

# %% tags=["capstone"]
def curve(u):
    return torch.cos(u * math.pi / 2) ** 2  # your curve, from 1 down to about 0


T, image = 40, digits[1746:1747]  # your choice
forward = Forward(curve, T)
noise = torch.randn(T + 1, *image.shape, generator=torch.Generator().manual_seed(5))
there = forward.q_sample(image.expand(T, -1, -1, -1), torch.arange(T), noise[0].expand(T, -1, -1, -1))
back = forward.back(image, there[-1:], noise[1:]).flatten(0, 1)
print(f"the chain ends {forward.bits_left():.1e} bits from noise")

# %%
film = [image, *there.split(1), *back[1:].split(1)]
heights = [1, *forward.alphas_bar.tolist()]


def draw_film(figure, n):
    left, right = figure.subplots(1, 2)
    plots.image_grid(film[n].float(), ax=left)
    right.plot(heights, color=plots.BLUE)
    right.plot(min(n, 2 * T - n), heights[min(n, 2 * T - n)], "o", color=plots.VERMILION)
    right.set(xlabel="steps of noise", ylabel=r"$\bar\alpha$", ylim=(-0.05, 1.05))

# %%
# NBVAL_IGNORE_OUTPUT
# takes some seconds
frames = [0, 0, 0, *range(1, 2 * T + 1)]
plots.animate(draw_film, frames, alt="an image turns into noise and comes back", fps=12)

# %% [markdown]
# *Figure 1.18.* Your image on your curve: there by the jump, with one noise, and back by posterior steps, with fresh noise at each. The way back wanders, and ends exactly in the image, because the posterior knows it. A sampler does the same with an estimate instead. <!-- alt: An animation. On the left a digit dissolves into noise and comes back; on the right a dot runs down the curve of alpha bar and up again. -->

# %% [markdown] tags=["deeper"]
# ## 1.13 Going deeper: equation by equation

# %% [markdown] tags=["equations"]
# | | equation | function, and the test that checks it |
# |---|:--|:--|
# | 1.1 | one step, $q(x_t \mid x_{t-1})$ (DDPM Eq. 2) | <samp>process.<wbr>GaussianDiffusion.<wbr>q_<wbr>step</samp><br><samp>test_<wbr>process.<wbr>py test_<wbr>single_<wbr>steps_<wbr>pushed_<wbr>through_<wbr>mean_<wbr>and_<wbr>variance_<wbr>give_<wbr>the_<wbr>marginal</samp> |
# | 1.2 | the jump, $q(x_t \mid x_0)$ (DDPM Eq. 4) | <samp>process.<wbr>GaussianDiffusion.<wbr>q_<wbr>sample</samp><br><samp>test_<wbr>process.<wbr>py test_<wbr>simulated_<wbr>steps_<wbr>have_<wbr>the_<wbr>moments_<wbr>of_<wbr>the_<wbr>marginal</samp> |
# | 1.3 | signal-to-noise ratio of $x_t$ | <samp>process.<wbr>GaussianDiffusion.<wbr>describe</samp><br><samp>test_<wbr>process.<wbr>py test_<wbr>describe_<wbr>against_<wbr>fifty_<wbr>digits</samp> |
# | 1.4 | the cosine schedule (Improved DDPM Eq. 17) | <samp>schedules.<wbr>cosine</samp><br><samp>test_<wbr>schedules.<wbr>py test_<wbr>cosine_<wbr>against_<wbr>fifty_<wbr>digits</samp> |
# | 1.5 | bits of $x_0$ left in $x_t$, at most | <samp>process.<wbr>GaussianDiffusion.<wbr>describe</samp><br><samp>test_<wbr>process.<wbr>py test_<wbr>describe_<wbr>agrees_<wbr>with_<wbr>the_<wbr>divergence_<wbr>from_<wbr>the_<wbr>prior</samp> |
# | 1.6 | the posterior, $q(x_{t-1} \mid x_t, x_0)$ (DDPM Eq. 6-7) | <samp>process.<wbr>GaussianDiffusion.<wbr>q_<wbr>posterior</samp><br><samp>test_<wbr>process.<wbr>py test_<wbr>the_<wbr>posterior_<wbr>is_<wbr>bayes_<wbr>rule</samp> |
# | 1.7 | $x_0$ from the noise (DDPM Eq. 15) | <samp>process.<wbr>GaussianDiffusion.<wbr>x_<wbr>0_<wbr>from_<wbr>eps</samp><br><samp>test_<wbr>process.<wbr>py test_<wbr>erratum_<wbr>06_<wbr>an_<wbr>error_<wbr>in_<wbr>eps_<wbr>grows_<wbr>157_<wbr>fold_<wbr>and_<wbr>beta_<wbr>1_<wbr>gives_<wbr>no_<wbr>number</samp> |
# | 1.8 | $x_0$ from the mean of $x_{t-1}$ | <samp>process.<wbr>GaussianDiffusion.<wbr>x_<wbr>0_<wbr>from_<wbr>x_<wbr>prev</samp><br><samp>test_<wbr>process.<wbr>py test_<wbr>erratum_<wbr>05_<wbr>x_<wbr>0_<wbr>from_<wbr>x_<wbr>prev_<wbr>is_<wbr>exact_<wbr>first_<wbr>and_<wbr>ill_<wbr>conditioned_<wbr>late</samp> |
# | 1.9 | mean of the true step back | <samp>process.<wbr>GaussianDiffusion.<wbr>x_<wbr>prev_<wbr>from_<wbr>x_<wbr>0</samp><br><samp>test_<wbr>oracle.<wbr>py test_<wbr>as_<wbr>model_<wbr>minimises_<wbr>the_<wbr>squared_<wbr>error_<wbr>of_<wbr>its_<wbr>mean_<wbr>type</samp> |

# %% [markdown]
# Every name in the table is found in `ddpm_lesson`, and in a checkout every test can be run. Your own functions, checked above, compute the same.
