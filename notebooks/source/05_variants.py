# %% [markdown]
# # 5. Variants: a learned variance, guidance, and four large steps
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/ddpm_lesson/blob/main/notebooks/05_variants.ipynb)
#
# **You will be able to**
# - let a network choose the variance of its steps, and measure the gain in bits/dim;
# - derive guidance from Bayes' rule, with a classifier and without one, and convert between its two conventions;
# - say which distribution a guided chain draws from, and which it does not;
# - write a guided sampler, and choose its scale from a measured curve of fidelity against diversity;
# - say why four large steps need a generator instead of a Gaussian, and train one against a discriminator;
# - choose among generators by measured quality, coverage and speed.
#
# **You need** notebooks 1, 2 and 4 (the posterior, the bound, DDIM). All cells together run in about two minutes on two CPU cores. The notebook has two halves, each with a core path, a capstone and sections that go deeper: guidance (5.1 to 5.20), and few steps (from 5.21 on).
#
# *The course:* 1 forward process → 2 loss → 3 U-Net → 4 sampling → **5 variants**

# %% [markdown] tags=["sittings"]
# **The core path takes 90 minutes, in 4 sittings.** Each can be started alone: run the set-up cell, then go to its heading. `checks.carried(name)` is your function of an earlier exercise, if its check said yes in this kernel; else the course's own. If English is not your first language, plan about a third more time. The capstone comes on top.
#
# | sitting | sections | minutes |
# |---|---|---|
# | 1 | 5.1 What you will have at the end … 5.3 The hybrid loss: which loss trains what | 25 |
# | 2 | 5.4 Guidance by a classifier: Bayes' rule for scores … 5.8 What you now have | 25 |
# | capstone | 5.9 Capstone: a guided sampler, and its scale | 32 |
# | 3 | 5.21 Four large steps … 5.24 Train it | 31 |
# | 4 | 5.25 Digits in four evaluations · 5.26 The trilemma, measured | 9 |
# | capstone | 5.27 Capstone of the course: meet the requirements | 17 |
#
# Sections called *Going deeper* are collapsed (69 minutes in all); the path does not need them, and they need the cells above them. If JupyterLab shows them open, click once into the page: that collapses them. (The rule: 200 words a minute, a minute for each displayed formula, 20 lines of code a minute, and the minutes stated at each exercise.)

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
# ## 5.1 What you will have at the end
#
# *Sitting 1 of 4, 25 minutes.*

# %% tags=["start", "folded"]
import math

import torch

from ddpm_lesson import GaussianDiffusion, Sampling, bound, checks, data, load_pretrained
from ddpm_lesson import plots, plots_variants, schedules, spacing
from ddpm_lesson.predictions import fixedlarge, fixedsmall

torch.set_num_threads(1)  # images as small as here gain nothing from more threads
mnist, digits = (load_pretrained(name, device=device) for name in ("mnist_ddpm", "digits_ddpm"))
cosine = GaussianDiffusion(schedules.cosine(1000))  # what both were trained on

# %%
y, rows = torch.tensor([0, 3, 4, 7, 9], device=device), {}
for s in (0, 1, 2, 4, 8):
    rows[f"s = {s}"] = mnist.sample(5, Sampling(steps="trailing12", seed=4, guidance=s), y=y)
_ = plots_variants.named_rows(rows)

# %% [markdown]
# *Figure 5.1.* Drawn while the cell ran: five classes (columns), each from the same noise in all rows. At *guidance scale* $s = 0$ the network is not told the class; at 1 it is told. Above 1 the class is exaggerated: the handwriting becomes less individual, and most strokes become thick and flat white. At 8 the 9 loses its loop. <!-- alt: Five rows of five handwritten digits. In the row s = 0 only the first digit is of the class of its column. From s = 1 on, each column shows a 0, 3, 4, 7 and 9; at s = 8 the strokes are thick. -->
#
# One network drew all five rows. This notebook changes *one callable at a time* and leaves the rest as it is: first the variance of a step, then the denoiser.
#
# **Symbols.** Those of notebooks 1, 2 and 4, and these. Formulas count $t$ from 1, code from 0.
#
# | symbol | in code | what it is | 中文 |
# |---|---|---|---|
# | $v$ | `v` | the network's second output (not the $v$ of section 2.8): where the log variance lies between its bounds, −1 to 1 | 方差插值系数 |
# | $y$ | `y` | the class of an image | 类别 |
# | $p(y\mid x_t)$ | `classifier` | a classifier of *noisy* images; its code returns $\log p$ | 带噪图像分类器 |
# | $\epsilon_\theta(x_t, y)$, $\epsilon_\theta(x_t)$ | `eps_cond`, `eps_uncond` | the noise predicted with the label, and without it | 有条件与无条件的噪声预测 |
# | $s$, $w$ | `scale` | guidance scale in two conventions, $s = 1+w$ | 引导强度 |
#
# Which distribution do the rows of the figure aim at? At $p(x)\,p(y\mid x)^s$, normalised: images $x$, weighted by how much they look like class $y$. Compute one case; section 5.6 needs it.
#
# **Exercise 5.1 (on paper, 4 minutes).** $x$ is $\mathcal N(0, 1)$. We observe $y = x+z$, where $z$ is noise of variance 1, and find $y = 2$ (here $y$ is a number, not a class). (a) As a function of $x$, $p(y\mid x)^s$ is a Gaussian times a constant. Give its mean and variance. (b) Multiply it by $p(x)$ and normalise. Give mean and variance. (c) Which distribution is it at $s = 0$, 1, 3 and for $s\to\infty$?
# <details><summary>Hint</summary>When Gaussians are multiplied, their precisions (1 / variance) add, and the mean is the mean of the means, weighted by the precisions (section 1.7).</details>
# <details><summary>Solution</summary>(a) The exponent is $-s(2-x)^2/2$: mean 2, variance $1/s$. (b) The precisions 1 and $s$ add: variance $1/(1+s)$, mean $2s/(1+s)$. (c) $\mathcal N(0, 1)$, the prior; $\mathcal N(1, \tfrac12)$, which is $p(x\mid y)$; $\mathcal N(\tfrac32, \tfrac14)$; the point 2. A larger scale gives samples that are more typical of $y$ and vary less.</details>

# %% [markdown]
# ## 5.2 A learned variance between two bounds
#
# *Question.* Section 4.3 left this open. fixedlarge ($\beta_t$) is right for $\mathcal N(0, I)$ data, fixedsmall ($\tilde\beta_t$) for a single point. Images are neither. When does that matter, and how can a network choose?

# %% tags=["folded"]
fig, axes = plt.subplots(1, 2, figsize=(8.2, 2.7), layout="constrained")
for ax, S in zip(axes, (1000, 10)):
    chain, i = cosine.respaced(spacing.trailing(1000, S)), range(1, S)
    _ = ax.semilogy(i, chain.betas[1:], color=plots.BLUE, label=r"$\beta$: fixedlarge")
    label = r"$\tilde\beta$: fixedsmall"
    _ = ax.semilogy(i, chain.posterior_var[1:], "--", color=plots.VERMILION, label=label)
    _ = ax.set(xlabel="loop index $i$", title=f"{S} steps")
_ = axes[0].set(ylabel="variance of a step"), axes[0].legend()

# %% [markdown]
# *Figure 5.2.* The two variances of each step. In 1000 steps they agree, except at the smallest $i$. In 10 steps they differ by a factor of up to 3.6. So in a short chain most steps depend on the choice. In a long one only the last few do: their noise is too small to see, but the bound counts it. <!-- alt: Two panels with logarithmic axes. Left, 1000 steps: the blue and the dashed orange-red curve lie on each other except at the far left. Right, 10 steps: the dashed curve lies clearly below the blue one at small i. -->
#
# *Derive.* *On average over $x_t$* the right value lies between the two (section 2.14; for the exact denoiser and data of variance 1 or less). So let the network say *where* between them. It gets a second output $v\in[-1, 1]$ for each pixel (nothing forces it to stay there), and
# $$\begin{aligned} \log\sigma_t^2 &= f\,\log\beta_t+(1-f)\,\log\tilde\beta_t, \\ f &= \frac{v+1}2 . \end{aligned} \tag{5.1: Improved DDPM Eq. 15}$$
# Why *logarithms*? Because a step in $v$ then multiplies the variance by the same factor wherever $v$ is, and no variance becomes negative. Why not the variance itself as output? Because $f$ carries over: a chain of 10 steps puts in its own $\beta$ and $\tilde\beta$, and the best $f$ changes much less than they do.
#
# **Exercise 5.2 (one star, 4 minutes).** Equation (5.1), for `v` (B, \*D) and `t` (B,), from the tables `betas` and `alphas_bar` (T,). At `t = 0` $\tilde\beta$ is 0 and has no logarithm. There use $\tilde\beta$ of `t = 1`; $\beta$ stays that of `t = 0`. Return the log variance (B, \*D).
# <details><summary>Hint 1</summary>posterior_var = betas * (1 - alphas_bar before) / (1 - alphas_bar). Before the first entry, alphas_bar is 1.</details>
# <details><summary>Hint 2</summary>Clone the table of logarithms, then set entry 0 to entry 1. checks.carried("extract") of notebook 1 (or indexing with t, and as many new axes as v needs) looks both tables up.</details>

# %%
def learned_log_var(v, t, betas, alphas_bar):
    ...

# %%
learned_log_var = checks.learned_log_var(learned_log_var)

# %% [markdown]
# *Measure.* `digits_ddpm` was trained with $v$. The bound (2.9), in *bits/dim* (bits of an image, divided by its number of pixels), judges the variance: 32 held-out digits, chains of 10, 25 and 50 steps, three variances. One of them is your function:

# %% tags=["folded"]
held_out, labels = (part.to(device) for part in data.digits("test")[::12])


def yours(process, i, prediction, x_t):
    v, tables = 2 * prediction.var_frac - 1, (process.betas, process.alphas_bar)
    return learned_log_var(v, i, *[table.float() for table in tables])

# %% tags=["folded"]
def bits(variance, S):
    """Bits/dim of the held-out digits on a chain of S steps."""
    chain = digits.process.respaced(spacing.trailing(1000, S))
    return bound.bits_per_dim(
        digits.model, chain, digits.mean_type, variance, held_out, y=labels,
        decoder=bound.discretized(17), generator=torch.Generator().manual_seed(0))

# %% tags=["folded"]
choices = {"fixedlarge": fixedlarge, "fixedsmall": fixedsmall, "learned": yours}
found = {name: [bits(variance, S) for S in (10, 25, 50)] for name, variance in choices.items()}
values = {name: zip(*[(b.total, b.standard_error) for b in each]) for name, each in found.items()}
ax = plots_variants.over_steps({name: ((10, 25, 50), *columns) for name, columns in values.items()})
_ = ax.set(ylabel="bits/dim"), ax.legend()

# %% [markdown]
# *Figure 5.3.* The bound of 32 held-out digits (bars: one standard error over the images; all three use the same noise). The learned variance is best on all three, and gains more at 25 and 50 steps than at 10. Of the fixed ones fixedsmall is better at 10 steps and fixedlarge at 50, where fixedsmall is no better than at 25. <!-- alt: Three lines over 10, 25 and 50 steps; the learned one lies lowest everywhere and falls. The two fixed ones cross near 25 steps. -->

# %% tags=["folded"]
for each in zip(*found.values()):  # 10, 25 and 50 steps
    large, small, learned = (b.totals for b in each)
    assert (torch.minimum(large, small) - learned).mean() > 0.03
    assert min((large - learned).mean(), (small - learned).mean()) > 0.08
gains = [min(large.total, small.total) - learned.total for large, small, learned in zip(*found.values())]
assert min(gains[1:]) > gains[0] + 0.1
print("10, 25 and 50 steps: learned is at least 0.08 bits/dim below either fixed variance,")
print("and gains at least 0.1 bits/dim more at 25 and 50 steps than at 10")

# %% [markdown] tags=["deeper"]
# ### Going deeper: all held-out digits, and chains that keep the first step

# %% [markdown]
# The record has all 382 held-out digits and five seeds of the noise. Beside the trailing steps it has evenly spaced ones from 0 to 999 (rows 10, 25, 50), as in Improved DDPM's code:

# %%
import json

rows = json.loads(data.bundled("records/variants.json").read_text("utf-8"))["variance"]["rows"]
means = {(row["steps"], row["variance"]): sum(row["bits"]) / len(row["bits"]) for row in rows}
names = "learned_range", "fixedsmall", "fixedlarge"
for steps in ("trailing10", "trailing25", "trailing50", "10", "25", "50"):
    line = [f"{name} {means[steps, name]:6.2f}" for name in names]
    print(f"{steps:10}:", ", ".join(line))

# %% [markdown]
# Evenly spaced chains keep index 0, whose noise (standard deviation 0.006) is far finer than a grey level (0.125). There the bound charges for a precision that nobody sees (section 4.19), and a variance that is too small costs many bits: fixedsmall fails, and with ten steps the learned one is worse than fixedlarge. So the learned one is best on every chain here except the evenly spaced 10.

# %% [markdown]
# ## 5.3 The hybrid loss: which loss trains what
#
# *Question.* $L_\text{simple}$ (2.1) does not contain the variance. Which loss can train $v$?
#
# The bound (2.9), here called $L_\text{vlb}$, can: its KL divergences compare variances, too (2.11). But for the *mean* its weights are bad: they multiply the loss at a few $t$ by up to 50 (exercise 2.6). So each loss trains what it is good for:
# $$L_\text{hybrid} = L_\text{simple}+\lambda\,L_\text{vlb},\qquad \lambda = 0.001 . \tag{5.2: Improved DDPM Eq. 16}$$
# ($\lambda$ is no longer half of log SNR.) Two details make it work.
#
# - **The mean is held fixed inside $L_\text{vlb}$** (its gradient is stopped, `.detach()`). So $L_\text{vlb}$ cannot pull at the mean's output. Through shared layers it still changes the mean a little; $\lambda$ keeps that small.
# - **The factor T.** $L_\text{vlb}$ is a *sum* over $T$ terms, in bits/dim (as in the authors' code). A training step draws one $t$, so it must multiply its KL by $T$. Without this factor, $\lambda$ is in effect a thousand times smaller.
#
# **Exercise 5.3 (two stars, 8 minutes).** The hybrid loss of each image, (B,), for $t\ge2$: the mean over pixels of $(\epsilon-\epsilon_\theta)^2$, plus $\lambda\,T\operatorname{KL}$. The KL is that of two Gaussians (2.11), from the true posterior (`true_mean`, `true_log_var`) to the model (`mean`, `log_var`): its mean over pixels, in bits (nats / log 2). `noise` is $\epsilon$, `eps` is $\epsilon_\theta$, `lam` is $\lambda$. All tensors are (B, \*D); log variances may be (B, 1, ...). The gradient must flow through `eps` and `log_var`, not through `mean`.
# <details><summary>Hint 1</summary>Per coordinate: (log_var - true_log_var + exp(true_log_var - log_var) + (true_mean - mean)^2 exp(-log_var) - 1) / 2.</details>
# <details><summary>Hint 2</summary>mean.detach() instead of mean. flatten(1).mean(1) takes the mean of each image; broadcast the log variances first.</details>

# %%
def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    ...

# %%
hybrid_loss = checks.hybrid_loss(hybrid_loss)

# %% [markdown]
# *See what it teaches.* One pixel, at step 2 of the ten. The network's mean is off by $d$. Which variance $\sigma^2$ is best? The derivative of the KL (2.11), $\tfrac12\big[1/\sigma^2-(\tilde\beta_t+d^2)/\sigma^4\big]$, is 0 at $\sigma^2 = \tilde\beta_t+d^2$: it covers what the network does not know ($d^2$; section 2.14 writes $d_t$). Does training $v$ find it? ($T = 1000$, as in training, so that $\lambda T = 1$; the ten-step chain only supplies two bounds far enough apart to see.)
#
# > **Predict.** The mean is exact, $d = 0$. Where does $v$ go: to −1, 0 or 1?
# > <details><summary>Then look</summary>To −1: an exact mean leaves only the posterior's own variance, fixedsmall.</details>

# %% tags=["folded"]
chain, lam = cosine.respaced(spacing.trailing(1000, 10)), 0.001
small, large = chain.posterior_var[1], chain.betas[1]
d = (torch.tensor([0, 0.1, 0.3, 0.7]).double() * (large - small)).sqrt().view(-1, 1)
v = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)

# %% tags=["folded"]
def of_v(v):
    """Your loss for the four values of d, as v varies."""
    log_var = learned_log_var(v, torch.ones(4, dtype=torch.int64), chain.betas, chain.alphas_bar)
    zero = torch.zeros_like(v)
    return hybrid_loss(zero, zero, zero, small.log() + zero, d, log_var, 1000, lam)


adam = torch.optim.Adam([v], lr=0.02)
for _ in range(400):
    adam.zero_grad(), of_v(v).sum().backward(), adam.step()

# %% tags=["folded"]
ax = plt.subplots(figsize=(6, 2.8), layout="constrained")[1]
places = torch.linspace(-1, 1, 120, dtype=torch.float64)
curves = torch.stack([of_v(place.repeat(4, 1)) for place in places]).T
for curve, share, color in zip(curves, ("0", "0.1", "0.3", "0.7"), plots.COLOURS):
    _ = ax.plot(places, curve, color=color, label=rf"$d^2 = {share}\,(\beta-\tilde\beta)$")
_ = ax.scatter(v.detach(), of_v(v).detach(), color=plots.COLOURS[:4], zorder=3)
_ = ax.set(xlabel="$v$", ylabel=r"$\lambda\,T\cdot$KL, bits", ylim=(-0.05, 1.6))
_ = ax.legend(fontsize="small")

# %% [markdown]
# *Figure 5.4.* The loss as a function of $v$. Dots: where 400 steps of Adam ended, each at its curve's minimum. The larger the error $d$, the larger the best $v$. <!-- alt: Four curves over v, each with a minimum that a dot marks; the minimum moves to the right as d grows, from v = -1 towards 1. -->

# %% tags=["folded"]
best = (small + d**2).log().sub(small.log()) / (large.log() - small.log()) * 2 - 1
assert torch.allclose(v.detach(), best, atol=2e-3)
print("where v ended:  ", [f"{x:.2f}" for x in v.detach().flatten().tolist()])
print("the best v:     ", [f"{x:.2f}" for x in best.flatten().tolist()])

# %% [markdown] tags=["deeper"]
# ### Going deeper: the bound alone

# %% [markdown]
# Improved DDPM also trained with $L_\text{vlb}$ alone, and then needed importance sampling of $t$ (2.20), because single terms of the bound differ by orders of magnitude; section 2.17 measures it. $L_\text{hybrid}$ needs only uniform $t$.

# %% [markdown] tags=["sitting"]
# ## 5.4 Guidance by a classifier: Bayes' rule for scores
#
# *Sitting 2 of 4, 25 minutes.*

# %% tags=["start", "folded"]
import json

import torch

from ddpm_lesson import GaussianDiffusion, checks, data, load_pretrained, oracle
from ddpm_lesson import plots, plots_variants, samplers, schedules, spacing
from ddpm_lesson.denoisers import clipped
from ddpm_lesson.predictions import Prediction, fixedlarge, fixedsmall, velocity
from ddpm_lesson.variants import guidance

torch.set_num_threads(1)
mnist = load_pretrained("mnist_ddpm", device=device)

# %% [markdown]
# *Question.* A network draws images of all classes, $p(x)$. Somebody has a classifier of noisy images, $p(y\mid x_t)$. Can the two together draw class $y$ without training?
#
# *Derive* (ADM: Dhariwal and Nichol 2021). Bayes' rule for $x_t$, with $p(x_t)$ for the $q(x_t)$ of (2.6): $p(x_t\mid y) = p(x_t)\,p(y\mid x_t)/p(y)$. Take the logarithm, and the gradient in $x_t$. The constant $p(y)$ disappears:
# $$\nabla\log p(x_t\mid y) = \nabla\log p(x_t)+\nabla\log p(y\mid x_t) . \tag{5.3}$$
# The score of the class is the score without it plus the gradient $g = \nabla\log p(y\mid x_t)$ of a classifier. There are two places to put $g$.
#
# **In the mean of a step.** The step for class $y$ is $p(x_{t-1}\mid x_t)\,p(y\mid x_{t-1})$, normalised ($x_t$ tells nothing more about $y$ once $x_{t-1}$ is known). If the step is small, $\log p(y\mid x_{t-1})$ is nearly linear in $x_{t-1}$, and the classifiers of two neighbouring levels nearly agree, so its gradient is nearly $g$. A Gaussian times the exponential of a linear function is the same Gaussian, shifted: complete the square in $-\frac{(x-\mu)^2}{2\sigma^2}+g\,x$. With the scale $s$,
# $$\mu\ \to\ \mu+s\,\sigma_t^2\,g . \tag{5.4: ADM Alg. 1}$$
# **In the noise.** The score is $-\epsilon/\sqrt{1-\bar\alpha_t}$ (2.6), so (5.3) reads
# $$\hat\epsilon = \epsilon_\theta(x_t)-s\,\sqrt{1-\bar\alpha_t}\;g . \tag{5.5: ADM Alg. 2}$$
#
# **Exercise 5.4 (two stars, 5 minutes).** Equation (5.4). `classifier(x_t, t)` returns $\log p(y\mid x_t)$ of all $Y$ classes, (B, Y); `y` (B,) chooses one for each image; `mean`, `x_t` are (B, \*D), `t` (B,), `var` (B, 1, ...), and `scale` is $s$. Return the shifted mean, (B, \*D). Each image needs the gradient of *its own* log probability, whatever else is in the batch. It must also work under `torch.no_grad()`.
# <details><summary>Hint 1</summary>with torch.enable_grad(): x = x_t.detach().requires_grad_(True), then the log probabilities of y by gather(1, y[:, None]).</details>
# <details><summary>Hint 2</summary>torch.autograd.grad(chosen.sum(), x)[0]. Images do not influence each other, so the gradient of the sum holds each image's own.</details>

# %%
def guided_mean(mean, var, x_t, t, y, classifier, scale):
    ...

# %%
guided_mean = checks.guided_mean(guided_mean)

# %% [markdown]
# **Exercise 5.5 (one star, 3 minutes).** Equation (5.5). The arguments are those of exercise 5.4, with `eps` (B, \*D) instead of `mean` and `var`, and the table `alphas_bar` (T,). Return $\hat\epsilon$, (B, \*D).
# <details><summary>Hint</summary>As in exercise 5.4; the factor is that of t for each image, with as many new axes as x_t needs.</details>

# %%
def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    ...

# %%
guided_eps = checks.guided_eps(guided_eps)

# %% [markdown]
# *Verify, exactly.* For the eight clusters of notebook 2, in four classes of two neighbours, the denoiser, the classifier *and* the denoiser of a class have a closed form. At $s = 1$ (5.5) is Bayes' rule itself, so the guided noise must be that of the class:

# %% tags=["folded"]
process, of_cluster = GaussianDiffusion(schedules.linear(1000)), torch.arange(8) // 2
eight = oracle.Mixture(process, *data.eight_gaussians_mixture(), labels=of_cluster)
x_T = torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
y = torch.zeros(1000, dtype=torch.int64)  # class 0: the clusters on the right

# %% tags=["folded"]
worst = 0.0
for i in (0, 10, 200, 500, 999):
    t = torch.full((1000,), i)
    mine = guided_eps(eight(x_T, t).eps, x_T, t, y, eight.classifier, 1.0, process.alphas_bar)
    worst = max(worst, (mine - eight.conditional(0)(x_T, t).eps).abs().max().item())
assert worst < 1e-10
print("guided noise and noise of the class, s = 1: equal to 1e-10, at five noise levels")

# %% [markdown]
# So (5.5) moves the mean by exactly the right amount. Replace the noise in (4.1) by $-\sqrt{1-\bar\alpha_t}\,g$: the root cancels, and $\beta_t/\sqrt{\alpha_t}\cdot g$ remains. (5.4) moves it by $\sigma_t^2\,g$ instead. With fixedlarge this is $\sqrt{\alpha_t}$ times the right shift, with fixedsmall $\sqrt{\alpha_t}\,\tilde\beta_t/\beta_t$ times. With a thousand steps both factors are nearly 1, except that of fixedsmall in the last few.

# %% tags=["folded"]
def one_step(p, chain, guide):
    """The reverse step p, its mean moved by `guide`; both may be what you wrote."""
    def step(x_t, i, prev=None):
        found, t = p(x_t, i, prev), torch.full((len(x_t),), int(chain.timestep_map[i]))
        return found._replace(p=found.p._replace(mean=guide(found.p, x_t, t)))
    return step


def mean_form(p, x_t, t):
    return guided_mean(p.mean, p.log_var.exp(), x_t, t, y, eight.classifier, 1.0)


def eps_form(x_t, t, prev=None):
    at = torch.full((len(x_t),), t)
    eps = guided_eps(eight(x_t, t).eps, x_t, at, y, eight.classifier, 1.0, process.alphas_bar)
    return Prediction(process.x_0_from_eps(x_t, at, eps), eps)

# %% tags=["folded"]
def missed(S, guided, variance):
    """Share of 1000 samples that end in a cluster of another class, after S steps."""
    chain = process.respaced(spacing.trailing(1000, S))
    p = samplers.reverse(chain, eps_form if guided == "noise" else eight, variance)
    p = p if guided == "noise" else one_step(p, chain, mean_form)
    x = samplers.last(samplers.ancestral(chain, p, x_T, generator=torch.Generator().manual_seed(1)))
    return (of_cluster[torch.cdist(x, eight.means).argmin(1)] != 0).double().mean().item()

# %% tags=["folded"]
counts = (5, 10, 20, 50, 100)
ways = {"mean, fixedsmall": ("mean", fixedsmall), "mean, fixedlarge": ("mean", fixedlarge)}
ways["noise, fixedsmall"] = ("noise", fixedsmall)
shares = {name: [missed(S, *way) for S in counts] for name, way in ways.items()}

# %% tags=["folded"]
fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 2.9), layout="constrained")
for S, style in ((100, "-"), (10, "o--")):
    c = process.respaced(spacing.trailing(1000, S))
    kinds = ("small", c.posterior_var, plots.VERMILION), ("large", c.betas, plots.BLUE)
    for name, var, color in kinds:
        ratio, label = (var * c.alphas.sqrt() / c.betas)[1:], f"fixed{name}, {S} steps"
        _ = left.plot(torch.arange(1, S) / S, ratio, style, color=color, ms=4, label=label)
colours = plots.VERMILION, plots.BLUE, plots.GREEN
for (name, share), marker, color in zip(shares.items(), "os^", colours):
    _ = right.plot(counts, share, marker + "-", color=color, label=name)
_ = left.set(xlabel="$i$ / steps", ylabel="shift / exact shift", ylim=(0, 1.05))
_ = right.set(xscale="log", xlabel="steps", ylabel="share in a wrong cluster")
_ = right.set_xticks(counts, counts), right.set_xticks([], minor=True)
_ = left.legend(fontsize="small"), right.legend(fontsize="small")

# %% [markdown]
# *Figure 5.5.* Left: the share of the exact shift that the mean form makes. Right: samples in a wrong cluster, with exact denoiser and classifier. The noise form puts nearly every sample into the right clusters from five steps on. With fixedlarge the mean form needs 20 steps. With fixedsmall it needs about a hundred: at small $i$ its shift is much smaller than that of fixedlarge (left). (Why 5 steps beat 10 stays open.) <!-- alt: Left, four curves between 0 and 1: the two of 10 steps lie between 0.2 and 0.9, those of 100 steps near 1, except at the far left for fixedsmall. Right, the share in a wrong cluster reaches 4 percent for the mean form with fixedsmall, 1 percent with fixedlarge, and is 0 throughout for the noise form. -->

# %% tags=["folded"]
assert max(shares["noise, fixedsmall"]) < 0.005 < 0.015 < min(shares["mean, fixedsmall"][1:4])
print("share in a wrong cluster: noise form always below 0.5%;")
print("mean form with fixedsmall above 1.5% at 10, 20 and 50 steps")

# %% [markdown]
# **What goes wrong: a mean over the batch.** Training averages losses, so it is tempting to write `.mean()`. Here it divides each image's gradient by the number of images. One point, alone and in a batch of 64:

# %%
x, t = x_T[:64].clone().requires_grad_(True), torch.full((64,), 200)
for reduce in (torch.sum, torch.mean):
    for n in (1, 64):
        g = torch.autograd.grad(reduce(eight.classifier(x[:n], t[:n])[:, 0]), x)[0][0]
        print(f"{reduce.__name__ + ',':5} batch of {n:2}: norm of the first gradient {g.norm():.4f}")

# %% [markdown]
# ## 5.5 Guidance without a classifier
#
# *Question.* The classifier is a second network, trained on noisy images. Can the denoiser take its place?
#
# *Derive.* Solve (5.3) for the gradient of the classifier. If one network knew both scores exactly, their difference would *be* this gradient; with trained scores it need not be a gradient at all. Put it into (5.5); the roots cancel:
# $$\begin{aligned} \nabla\log p(y\mid x_t) &= \nabla\log p(x_t\mid y)-\nabla\log p(x_t), \\ \hat\epsilon &= \epsilon_\theta(x_t)+s\,\big(\epsilon_\theta(x_t, y)-\epsilon_\theta(x_t)\big) . \end{aligned} \tag{5.6: CFG Eq. 6}$$
# This is **classifier-free guidance** (CFG). One network learns both: in training, 10 % of the labels are replaced by "no label". Sampling needs two network evaluations per step.
#
# **Two conventions.** The paper writes $\hat\epsilon = (1+w)\,\epsilon_\theta(x_t, y)-w\,\epsilon_\theta(x_t)$. Compare the factors: $s = 1+w$. Most libraries call $s$ the guidance scale; a few pass $w$.
#
# | | no label | told the label | guided |
# |---|---|---|---|
# | $s$ | 0 | 1 | above 1 |
# | $w$ | −1 | 0 | above 0 |
#
# **Exercise 5.6 (one star, 3 minutes).** (5.6) in either convention: `strength` is $s$ if `convention` is `"s"`, and $w$ if it is `"w"`.
# <details><summary>Hint</summary>Turn w into s first; then there is one formula.</details>

# %%
def cfg_eps(eps_cond, eps_uncond, strength, convention):
    ...

# %%
cfg_eps = checks.cfg_eps(cfg_eps)

# %% [markdown]
# ## 5.6 What a guided chain draws from
#
# *Question.* At $s = 1$ guidance is exact. For $s = 3$, does it draw from $p(x)\,p(y\mid x)^3$? Test it with the two Gaussians of exercise 5.1: exact denoisers, your `cfg_eps`, very small steps of Heun's method, no noise added.
#
# **Exercise 5.6.1 (on paper, 2 minutes).** Your result for $s = 3$ was mean 3/2, variance 1/4. Is the distribution of the samples the same, wider or narrower?
# <details><summary>Then look</summary>Narrower, shifted further: mean 2, variance 1/8. The next, collapsed section derives both.</details>

# %% tags=["folded"]
fine = GaussianDiffusion.from_alphas_bar(torch.linspace(14, -14, 300, dtype=torch.float64).sigmoid())
start = torch.linspace(-4, 4, 401, dtype=torch.float64)[:, None]


def mixture(weights, means, stds, labels):
    parts = [torch.tensor(part, dtype=torch.float64) for part in (weights, means, stds)]
    return oracle.Mixture(fine, *parts, labels=torch.tensor(labels))

# %% tags=["folded"]
def walked(cond, uncond, s):
    """Where a guided chain without noise takes the starts: your cfg_eps, Heun's method."""
    def denoise(x_t, t, prev=None):
        eps = cfg_eps(cond(x_t, t).eps, uncond(x_t, t).eps, s, "s")
        return Prediction(fine.x_0_from_eps(x_t, t, eps), eps)
    return samplers.last(samplers.heun(fine, denoise, start))

# %%
normal, posterior = (mixture([1.0], [[m]], [c**0.5], [0]) for m, c in ((0.0, 1.0), (1.0, 0.5)))
for s in (1, 3):
    x = walked(posterior, normal, s)  # linear: the middle start goes to the mean
    var = ((x[250] - x[150]) / (start[250] - start[150])).item() ** 2
    target = f"{2 * s / (1 + s):.2f} and {1 / (1 + s):.3f}"
    print(f"s = {s}: mean {x[200].item():.2f}, variance {var:.3f}; p(x) p(y|x)^s has {target}")

# %% [markdown]
# Why? At every noise level the guided score is that of $p(x_t)\,p(y\mid x_t)^s$. But these densities, one for each $t$, are *not* the noised versions of one density of $x_0$: adding noise and raising to a power do not commute. Unless $s$ is 0 or 1, this guided chain is not the reverse of this noising process for any data distribution. *See* the same for a mixture:

# %% tags=["folded"]
three = mixture([0.4, 0.3, 0.3], [[-1.0], [0.0], [1.2]], [0.4] * 3, [0, 1, 1])
grid = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
none = torch.zeros(601, dtype=torch.int64)
log_p, log_class = three.log_prob(grid, none), three.classifier(grid, none)[:, 1]

# %% tags=["folded"]
fig, axes = plt.subplots(1, 2, figsize=(8.2, 2.9), sharey=True, layout="constrained")
for ax, s in zip(axes, (1, 4)):
    product = (log_p + s * log_class).softmax(0) / 0.01
    _ = ax.fill_between(grid[:, 0], log_p.exp(), color="0.85", label="$p(x)$, both classes")
    _ = ax.plot(grid, product, color=plots.VERMILION, lw=5, alpha=0.4, label=r"$p(x)\,p(y|x)^s$")
    x = walked(three.conditional(1), three, s)
    _ = plots_variants.pushed_density(start, x, ax=ax, label="the guided chain")
    _ = ax.set(xlabel="$x_0$", title=f"s = {s}", xlim=(-2.5, 3))
_ = axes[0].set(ylabel="density"), axes[0].legend(fontsize="small")

# %% [markdown]
# *Figure 5.6.* Class $y$ has the two clusters at 0 and 1.2; the other class lies at −1. Left, $s = 1$: the blue curve lies on the thick one. Right, $s = 4$: the product still has both clusters. The guided chain has *lost* the one next to the other class, and what remains has moved away from that class. <!-- alt: Two panels. Left, the blue curve lies on the thick one, with two peaks. Right, the thick curve has two peaks at 0.1 and 1.2, the blue one a single high peak near 1.4. -->
#
# This is the exact version of figure 5.1: a larger scale gives more typical samples, of less variety. No theory says which scale is right: measure it.

# %% [markdown] tags=["deeper"]
# ### Going deeper: why the mean is 2 and the variance 1/8

# %% [markdown]
# Take $z = x_t/\sqrt{\bar\alpha_t}$ and $\sigma^2 = (1-\bar\alpha_t)/\bar\alpha_t$. The ODE (4.8), rewritten from $u$ and $r$, reads $dz/d\sigma = -\sigma\,\nabla\log p(z;\sigma)$, and data $\mathcal N(m, c)$ have the score $-(z-m)/(c+\sigma^2)$. The guided score is $1-s$ times that of $\mathcal N(0, 1)$ plus $s$ times that of $\mathcal N(m, c)$. So the difference $\delta$ of two paths obeys
# $$\frac{d\log\delta}{d\sigma} = \frac{(1-s)\,\sigma}{1+\sigma^2}+\frac{s\,\sigma}{c+\sigma^2},\qquad \delta\propto(1+\sigma^2)^{(1-s)/2}\,(c+\sigma^2)^{s/2} .$$
# At large $\sigma$ this is $\sigma$, the standard deviation of the start; at $\sigma = 0$ it is $c^{s/2}$. So the samples have variance $c^s$, where the product has $1/(1-s+s/c)$: narrower for every $s>1$, and wider for every $s$ between 0 and 1.
#
# The path that starts in the middle, $\bar z = 0$, ends at the mean. It obeys the same equation with one more term, because the second score is zero at $m$ and not at 0: $d\bar z/d\sigma$ is as for $\delta$, less $s\,m\,\sigma/(c+\sigma^2)$. With the solution $\delta$ above, scaled to $\delta = \sigma$ at the start,
# $$\begin{aligned} \bar z(0) &= \delta(0)\int_0^\infty\frac{s\,m\,\sigma}{c+\sigma^2}\,\frac{d\sigma}{\delta(\sigma)}, \\ s = 3:\quad \bar z(0) &= m\,c^{3/2}\int_0^\infty\frac{3\,\sigma\,(1+\sigma^2)}{(c+\sigma^2)^{5/2}}\,d\sigma = m\,(1+2c) . \end{aligned}$$
# With $m = 1$ and $c = \tfrac12$ this is 2. The product has $m\,s/(s+c-s\,c)$, which is 3/2.

# %%
for s in (0.5, 1, 2, 3, 5):
    x = walked(posterior, normal, s)
    var = ((x[250] - x[150]) / (start[250] - start[150])).item() ** 2
    print(f"s = {s:3}: mean {x[200].item():.3f}, variance {var:.3f};", end=" ")
    print(f"c^s = {0.5**s:.3f}, the product has {1 / (1 + s):.3f}")
    assert s != 3 or abs(x[200].item() - 2) < 0.01

# %% [markdown]
# With noise added at every step, as in DDPM, the variance $V$ is different. Along $b = \sigma^2$, downwards, $\delta$ shrinks at the rate $h(b) = (1-s)/(1+b)+s/(c+b)$, and each small step adds $db$:
# $$V = \int_0^\infty e^{-2\int_0^b h}\,db = c^{2s}\int_0^\infty\frac{(1+b)^{2s-2}}{(c+b)^{2s}}\,db = \frac{c-c^{2s}}{(2s-1)(1-c)} ,$$
# by the substitution $k = (1+b)/(c+b)$. The next cell also follows the variance of the chain itself, exactly: a step is linear in $x_t$, so two points give its slope. Its 300 steps are not infinitely small, so fixedsmall gives a little less and fixedlarge a little more.

# %%
def with_noise(s, choice):
    """Variance of x_0 when the guided chain draws its noise, with fixedsmall or fixedlarge."""
    def denoise(x_t, t, prev=None):
        eps = cfg_eps(posterior(x_t, t).eps, normal(x_t, t).eps, s, "s")
        return Prediction(fine.x_0_from_eps(x_t, t, eps), eps)
    p, two = samplers.reverse(fine, denoise, choice), torch.tensor([[0.0], [1.0]]).double()
    variance = 1.0
    for i in reversed(range(fine.T)):
        step = p(two, i).p
        slope = (step.mean[1] - step.mean[0]).item()
        variance = slope**2 * variance + (step.log_var.exp().flatten()[0].item() if i else 0.0)
    return variance

# %%
for s in (1, 2, 3, 5):
    exact = (0.5 - 0.5 ** (2 * s)) / ((2 * s - 1) * 0.5)
    low, high = (with_noise(s, choice) for choice in (fixedsmall, fixedlarge))
    assert low < exact < high
    print(f"s = {s}: with noise {exact:.3f}, the chain {low:.2f} to {high:.2f};", end=" ")
    print(f"without noise {0.5**s:.3f}")

# %% [markdown]
# With noise the variance at $s = 3$ is 0.19, neither the 1/8 of the chain without noise nor the 1/4 of the product: DDPM and DDIM draw from different distributions (Bradley and Nakkiran 2024).

# %% [markdown]
# ## 5.7 Fidelity against diversity
#
# *Measure.* **Precision**: the share of the drawn digits that lie among the real ones. **Recall**: the share of the real ones that lie among the drawn (`precision_recall(real, drawn)`). Around each point of a set lies a ball that reaches to its third-nearest neighbour there. A digit lies among the set if some ball contains it. (Distances: in the features of the course's classifier.) Precision is fidelity, recall is diversity. `data/records/variants.json` holds both for eight scales and five seeds:

# %% tags=["folded"]
record = json.loads(data.bundled("records/variants.json").read_text("utf-8"))["guidance"]
fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.6), layout="constrained")
for ax, (name, of_network) in zip(axes, record.items()):
    _ = plots_variants.fidelity_and_diversity(of_network, ax=ax)
    _ = ax.set(title=name)
_ = axes[0].legend(fontsize="small")

# %% [markdown]
# *Figure 5.7.* One point for each scale, up and to the right is good (DDIM, 20 steps; 500 and 300 digits a point). The blue line: means of five seeds; bars: lowest to highest. The cross: real digits, held out; on the left they are from other forms, and only 0.75 of them lie among the others. Other markers: repairs (section 5.15). On the left precision is low at $s = 0$: this network draws badly without a label. The high recall there misleads: the balls of scattered samples are large and cover everything. From 0.5 to 1.5 or 2 precision rises. From 1 to 5 recall falls; beyond 2 precision hardly rises, and at 8 it falls. Orange-red: guidance by a classifier. Section 5.4 needs exact networks; these are trained, and precision does not rise (collapsed, below). <!-- alt: Two panels, precision over recall, with a cross for real digits. A blue line runs from the lower right at scale 0 up to scale 1.5 or 2 and then to the left, down again at 8. In both an orange-red line stays at the lower right. -->

# %% tags=["folded"]
def over_seeds(values):
    return f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})"

print(f"{'mean (lowest to highest of 5 seeds)':36} {'precision':21} recall")
for name, of_network in record.items():
    for row in of_network["seeds"]:
        if row["scale"] in (0, 1, 2, 5, 8):
            precision, recall = (over_seeds(row["scores"][of]) for of in ("Precision", "Recall"))
            print(f"{name:13} s = {row['scale']:.0f} {'':16} {precision:21} {recall}")
    real = (of_network["real"]["scores"][of][0] for of in ("Precision", "Recall"))
    print(f"{name:13} real, held out {'':7} {next(real):<21.2f} {next(real):.2f}")

# %% [markdown] tags=["deeper"]
# ### Going deeper: a classifier that gives the label, not the quality

# %% [markdown]
# Section 5.4 proved that the gradient of an exact classifier turns an exact network without labels into one with labels. In figure 5.7 network and classifier are both trained, and at no scale does the orange-red line rise clearly above its start at $s = 0$. *Measure* what it does (conditional accuracy: the share of the drawn digits that another classifier, of clean images, takes for the wanted class):

# %%
for name, of_network in record.items():
    for row in of_network["rows"]:
        if row["way"] == "classifier" and row["scale"] in (0, 1, 8):
            scores = {of: row["scores"][of][0] for of in ("Conditional accuracy", "Precision")}
            told = ", ".join(f"{of} {score:.2f}" for of, score in scores.items())
            print(f"{name:11} s = {row['scale']:.0f}: {told}")

# %% [markdown]
# It pulls in the direction of (5.3): more and more digits are of the wanted class. With exact networks $s = 1$ would be enough; here not even half of the digits are of it at $s = 1$. And they do not become better digits. Precision first falls, and at the largest scale it is about where it began, or lower. Two things differ from section 5.4 (we did not measure which of them counts). The chain starts from the network without a label, which draws badly, above all on the left of the figure. And this small classifier is not exact: where its gradient is wrong, a large scale makes the error large. Guidance without a classifier uses the difference of two outputs of the network itself, which was trained on the label.

# %% [markdown] tags=["deeper"]
# ### Going deeper: rescaling

# %% [markdown]
# A large scale also stretches the *contrast*: $\hat\epsilon$ is extrapolated, so its standard deviation usually grows, and with it that of the image. Lin and others (2023) bring each image's output back to the standard deviation of the output with the label, and mix:
# $$\begin{aligned} \hat\epsilon_r &= \hat\epsilon\;\frac{\operatorname{std}(\epsilon_\theta(x_t, y))}{\operatorname{std}(\hat\epsilon)}, \\ \hat\epsilon' &= \phi\,\hat\epsilon_r+(1-\phi)\,\hat\epsilon,\qquad \phi = 0.7 . \end{aligned} \tag{5.7: Lin Eq. 15-16}$$
# $\phi$ is the share of the rescaled output. The paper's network predicts the velocity $v$ (section 5.12; not the $v$ of (5.1)), and (5.7) is applied to that output. So here both predictions are first converted to it:

# %%
latents = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(4)).to(device)
y_mnist = mnist.labels(10)
cond, uncond = (mnist.denoiser(told, clip=False) for told in (y_mnist, None))
rules = {"s = 1": guidance.extrapolated(1), "s = 8": guidance.extrapolated(8)}
rules["s = 8, rescaled"] = guidance.rescaled(8, phi=0.7)
guided = {name: guidance.guided(cond, uncond, rule, mnist.process, velocity)
          for name, rule in rules.items()}
twelve = mnist.process.respaced(spacing.trailing(1000, 12))
drawn = {name: samplers.last(samplers.ddim(twelve, clipped(denoise, mnist.process), latents))
         for name, denoise in guided.items()}

# %% [markdown]
# The clip hides much of the effect. So measure before it, too: noise the images of the row $s = 1$ to level $t$, and take the standard deviation of each rule's $\hat x_0$.

# %%
spreads, levels, noise = {name: [] for name in guided}, (100, 300, 500, 700, 850), latents.roll(1, 0)
for t in levels:
    noisy = mnist.process.q_sample(drawn["s = 1"], t, noise)
    for name, denoise in guided.items():
        spreads[name].append(denoise(noisy, t).x_0.std((1, 2, 3)).mean().item())

# %% tags=["folded"]
sides = {"width_ratios": (1.7, 1), "layout": "constrained"}
fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 2.2), **sides)
_ = plots_variants.named_rows(drawn, ax=left)
for (name, values), marker, color in zip(spreads.items(), "os^", plots.COLOURS):
    _ = right.plot(levels, values, marker + "-", color=color, ms=4, label=name)
_ = right.set(xlabel="$t$", ylabel=r"standard deviation of $\hat x_0$", ylim=0)
_ = right.legend(fontsize="small")

# %% [markdown]
# *Figure 5.8.* Left: the same noise, three ways. After the clip little of rescaling is left, and the two lower rows look alike. Right: before the clip, at large $t$, guidance makes the contrast of $\hat x_0$ several times as large, and rescaling about halves it. Where $\hat x_0$ is not clipped, as in latent diffusion, that is what is seen (Lin and others 2023). <!-- alt: Left, three rows of the digits 0 to 9; at s = 8 the strokes are thick and white, and rescaled they look the same. Right, three curves over t: that of s = 1 stays near 0.5, that of s = 8 rises to 1.5 at t = 850, the rescaled one to 0.8. -->

# %% tags=["folded"]
plain, strong, rescaled = (x.std((1, 2, 3)).mean() for x in drawn.values())
assert plain < rescaled < strong
of_1, of_8, of_rescaled = (values[-1] for values in spreads.values())
assert 2 * of_1 < of_8 and of_rescaled < 0.6 * of_8
print("standard deviation of an image: s = 1 smallest, s = 8 rescaled larger, s = 8 largest")
print("before the clip, at t = 850: s = 8 more than twice s = 1, rescaled below 0.6 of s = 8")

# %% [markdown]
# ## 5.8 What you now have
#
# 1. Images need a variance between $\tilde\beta_t$ and $\beta_t$. A network learns where, between their logarithms. On trailing chains of 10, 25 and 50 steps this saves at least 0.08 bits/dim over either fixed choice.
# 2. In $L_\text{hybrid}$, $L_\text{simple}$ mainly trains the mean, and the bound the variance: stop the mean's gradient, and do not forget the factor $T$.
# 3. Bayes' rule for scores adds the gradient of a classifier; in the noise it is exact at $s = 1$, in the mean only for small steps.
# 4. The difference of two exact scores is such a gradient. In practice two *trained* scores are subtracted. So one network that was sometimes not told the label guides itself, with $s = 1+w$.
# 5. Unless $s$ is 0 or 1 the chain in general does not draw from $p(x)\,p(y\mid x)^s$, nor from a density with a simple formula. Up to a point fidelity rises and diversity falls; then fidelity falls, too. The scale has to be measured.
#
# *You can stop here*: the capstone starts alone, and 5.10 to 5.20 are collapsed. Without them go on with section 5.21.

# %% [markdown] tags=["sitting", "capstone"]
# ## 5.9 Capstone: a guided sampler, and its scale
#
# *Capstone, 32 minutes.*

# %% tags=["start"]
import torch

from ddpm_lesson import checks, data, load_pretrained, plots, plots_variants, spacing

torch.set_num_threads(1)
digits, cfg_eps = load_pretrained("digits_ddpm", device=device), checks.carried("cfg_eps")

# %% [markdown]
# The pieces of this course, in one loop: DDIM (4.4) with $\eta = 0$, skipped steps, guidance (5.6), and the clip in its right place.
#
# **Exercise 5.7 (capstone, 22 minutes).** Write it as a generator.
#
# - `x_T` is (B, \*D), the state to start from;
# - `model(x_t, t, y)` returns the noise; `t` is (B,) int64, on the device of `x_T`, and `y` is (B,) labels or `None` for "no label";
# - `timesteps` is an increasing list of ints, the steps to visit: from the last to the first;
# - `alphas_bar` is (T,), and `scale` is $s$.
#
# At each visited `t`: (a) the two predictions, and the guided noise (5.6), by `cfg_eps(with_label, without, scale, "s")`; (b) from it $\hat x_0$ (1.7), clipped to [−1, 1]; (c) the noise again, from the clipped $\hat x_0$; (d) DDIM's step with $\eta = 0$ to the next lower timestep in the list; from the first entry of the list, the step goes to the clean image, where $\bar\alpha = 1$. Yield the state after each step: `len(timesteps)` states, of which the last is the image.
# <details><summary>Hint 1</summary>Pair each timestep with the next lower one: zip(reversed(timesteps), [*reversed(timesteps[:-1]), None]).</details>
# <details><summary>Hint 2</summary>The clip comes after the guidance, not before: two clipped predictions extrapolate beyond [-1, 1] again.</details>
# <details><summary>How to find a mistake</summary>scale = 1 must give what DDIM gives with the label, scale = 0 what it gives without. All values of the last state lie in [-1, 1].</details>

# %%
def guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    ...

# %%
guided_chain = checks.guided_chain(guided_chain)

# %% [markdown]
# Use it. Every row starts from the same noise:

# %%
def eps_of(x_t, t, y):
    return digits.model(x_t, t, y)[:, :1] if y is not None else digits.model(x_t, t)[:, :1]


def draw(n, scale, S=10, seed=0):
    """n digits by your loop, on the CPU."""
    x_T = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).to(device)
    given = eps_of, x_T, digits.labels(n), scale, spacing.trailing(1000, S)
    *_, x = guided_chain(*given, digits.process.alphas_bar.float())
    return x.cpu()

# %%
_ = plots_variants.named_rows({f"s = {s}": draw(10, s) for s in (0, 1, 2, 4, 8)})

# %% [markdown]
# *Figure 5.9.* Each column starts from the same noise. In the row $s = 0$ the label is not used; from $s = 1$ on it is 0 to 9. At $s = 8$ the 7 and the 9 are distorted. <!-- alt: Five rows of ten small digits. In the row s = 0 many are no clear digit; from s = 1 on they are the digits 0 to 9, in ever more uniform writing. -->
#
# Now the scale. The *Fréchet distance* (section 4.9) sums up both sides: it is large if digits look wrong *and* if they vary too little.

# %% tags=["capstone"]
from ddpm_lesson.experiments.features import classified, load_moments
from ddpm_lesson.experiments.metrics import frechet_distance, precision_recall

reader, real = load_pretrained("digits_classifier").model, load_moments("digits_classifier")
some = classified(reader, data.digits("train")[::3][0])[0]
scales = (0.5, 1, 1.5, 2, 3, 5)
curve = []
for s in scales:
    features = classified(reader, draw(150, s))[0]
    curve.append((frechet_distance(features, real), *precision_recall(some, features)))
real_ones = precision_recall(some, classified(reader, data.digits("test")[:150][0])[0])  # held out

# %%
distance, precision, recall = zip(*curve)
fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 2.9), layout="constrained")
_ = left.semilogy(scales, distance, "o-", color=plots.GREEN)
_ = left.set(xlabel="guidance scale $s$", ylabel="Fréchet distance")
_ = right.plot(recall, precision, "o-", color=plots.BLUE)
for s, *at in zip(scales, recall, precision):
    _ = right.annotate(f"{s}", at, xytext=(5, 5), textcoords="offset points", fontsize="small")
_ = right.axhline(real_ones[0], color="0.5", ls=":"), right.axvline(real_ones[1], color="0.5", ls=":")
_ = right.margins(0.12), right.set(xlabel="recall: diversity", ylabel="precision: fidelity")

# %% [markdown]
# *Figure 5.10.* 150 digits for each scale. Left: small is good. Right: the number beside a point is its scale; up and to the right is good. Dotted: 150 real digits that were held out. Do not read $s = 0.5$ as the most diverse: see figure 5.7. <!-- alt: Left, a curve that falls steeply from s = 0.5 to 1 and then rises slowly. Right, a path that climbs to the left and turns back at s = 5: up to 3 precision rises as recall falls; two dotted lines for real digits. -->

# %% tags=["folded"]
assert min(distance) < 0.6 * distance[0] and distance.index(min(distance)) in (1, 2)
assert recall[-1] < recall[1] - 0.15 and precision[3] > precision[0] + 0.2
print("Fréchet distance: lowest at s = 1 or 1.5")
print("precision rises from s = 0.5 to 2, recall falls from 1 to 5")

# %% [markdown]
# **Exercise 5.7.1 (design, 5 minutes).** Choose a scale for three uses, and say why: (a) a picture book that shows each digit once; (b) training images for a classifier of digits; (c) a comparison by Fréchet distance with another network, in these features and with as many samples. Then enter them in the next cell, which draws 20 digits with each: is your choice right?
# <details><summary>What we would choose</summary>(a) 2 or a little more: precision has reached its top there, and nobody sees what is missing. (b) 1: a classifier must see all ways to write a digit, and recall is what it needs; many samples at 1 should be better than clean ones at 3 (we did not train that classifier). (c) the scale with the smallest distance, 1 to 1.5 (in the record 1 for the digits and 1.5 for MNIST), and say so: a distance without its scale cannot be compared. Repeat with other seeds before you trust a difference: these are 150 digits.</details>

# %%
chosen = {"picture book": 1, "training": 1, "comparison": 1}  # yours
_ = plots_variants.named_rows({f"{use}, s = {s}": draw(20, s, seed=1) for use, s in chosen.items()},
                              ax=plt.subplots(figsize=(8.2, 1.2), layout="constrained")[1])

# %% [markdown]
# *Figure 5.11.* Twenty digits for each of your three uses; as long as all scales are 1, the rows are the same. Go on with section 5.21: the second half of the notebook starts there. <!-- alt: Three rows of twenty small digits. -->

# %% [markdown] tags=["deeper"]
# ## 5.10 Going deeper: the cosine schedule, and why

# %% [markdown]
# *Question.* Improved DDPM came with a second change, the cosine schedule (1.4). Notebook 1 wrote it, and section 4.12 showed where its chains start. What is wrong with linear betas?
#
# *Measure.* How many bits of information about a pixel does $x_t$ contain? For data $\mathcal N(0, \sigma_0^2)$ the answer is exact, as in (1.5): $\tfrac12\log_2(1+\sigma_0^2\operatorname{SNR}(t))$. With $\sigma_0 = 0.5$:

# %%
tables = {name: GaussianDiffusion(schedules.named(name, 1000)) for name in ("linear", "cosine")}
known = {name: 0.5 * torch.log2(1 + table.snr / 4) for name, table in tables.items()}
ax = plt.subplots(figsize=(6, 2.7), layout="constrained")[1]
for (name, bits_known), style, color in zip(known.items(), ("-", "--"), plots.COLOURS):
    _ = ax.semilogy(bits_known.clamp(min=1e-6), style, color=color, label=name)
_ = ax.set(xlabel="$t$", ylabel="bits known about a pixel", ylim=(1e-5, 10)), ax.legend()

# %% [markdown]
# *Figure 5.12.* What $x_t$ tells about a pixel. Linear betas destroy the image early and spend the last steps on noise alone; cosine betas use most of their steps. <!-- alt: Two falling curves on a logarithmic axis. The linear one lies below and falls steeply; the cosine one falls slowly, and steeply only at the end. -->

# %%
for name, bits_known in known.items():
    idle = (bits_known < 0.01).double().mean()
    print(f"{name}: {bits_known[800]:.4f} bits known at t = 800; below 0.01 in {idle:.0%} of the steps")

# %% [markdown]
# Where $x_t$ contains almost no information, a step contributes almost nothing. Improved DDPM found that the noisiest fifth of the linear steps can be left out when sampling, at nearly no cost. This matters most for small images: in large ones more pixels repeat the same information.

# %% [markdown] tags=["deeper"]
# ## 5.11 Going deeper: what changed in the network, in a table

# %% [markdown]
# Section 3.14 has the formula of AdaGN (3.9) and the measurements. Here is who uses what:
#
# | | DDPM | Improved DDPM | guided-diffusion (ADM) | argument of `UNet` |
# |---|---|---|---|---|
# | output | noise | noise and $v$ | noise and $v$ | `learned_var=True` |
# | time enters by | addition | scale and shift (AdaGN) | AdaGN | `scale_shift_norm=True` |
# | class enters by | none | a learned vector, added to that of the time | the same | `num_classes=10` |
# | "no label" | none | none | none (a second network without labels) | `null_class=True` |
# | attention at | 16x16 | 16x16, 8x8 | 32x32, 16x16, 8x8 | `attn=[...]` |
# | heads | 1 | 4 | 64 channels each | `num_head_channels=64` |
# | down and up | strided convolution | the same | inside residual blocks (BigGAN) | `biggan=True` |
# | second condition | none | small image, as further channels | the same | `cond_ch=1` |
#
# The course's MNIST network takes three of the rows:

# %%
rows = "learned_var", "scale_shift_norm", "num_classes", "null_class", "num_heads", "biggan", "cond_ch"
for name in rows:
    print(f"{name:16} {mnist.model.options[name]}")

# %% [markdown] tags=["deeper"]
# ## 5.12 Going deeper: v, and chains that really end in noise

# %% [markdown]
# *Question.* Where $\bar\alpha_t = 0$ the state *is* the noise. A network that predicts the noise need only copy its input, and says nothing about the image. Which target is useful at every level?
#
# *Derive.* Write $\sqrt{\bar\alpha_t} = \cos\omega$ and $\sqrt{1-\bar\alpha_t} = \sin\omega$. Then $x_t = \cos\omega\,x_0+\sin\omega\,\epsilon$ moves on a circle, and its velocity in $\omega$ is
# $$v = \frac{dx_t}{d\omega} = \sqrt{\bar\alpha_t}\,\epsilon-\sqrt{1-\bar\alpha_t}\,x_0 . \tag{5.8: Salimans and Ho Section 4}$$
# (Not the $v$ of (5.1); both names are in use.) A rotation by $\omega$ leads back: $\hat x_0 = \sqrt{\bar\alpha_t}\,x_t-\sqrt{1-\bar\alpha_t}\,v$. No division: an error of $v$ is never magnified. With little noise $v$ is the noise, with much noise it is (minus) the image.
#
# **Exercise 5.8 (one star, 3 minutes).** Equation (5.8), for `x_0`, `noise` (B, \*D), `t` (B,), `alphas_bar` (T,).
# <details><summary>Hint</summary>As your q_sample, with the two roots exchanged and a minus.</details>

# %%
def v_target(x_0, noise, t, alphas_bar):
    ...

# %%
v_target = checks.v_target(v_target)

# %% [markdown]
# **Exercise 5.9 (one star, 2 minutes).** From `x_t`, `v` (B, \*D), `t` (B,) and `alphas_bar` (T,) return $\hat x_0$, (B, \*D), by the formula below (5.8). It must be finite where $\bar\alpha_t = 0$.
# <details><summary>Hint</summary>Check it with x_0 = 1 and noise = 0: cos² + sin² = 1.</details>

# %%
def x_0_from_v(x_t, v, t, alphas_bar):
    ...

# %%
x_0_from_v = checks.x_0_from_v(x_0_from_v)

# %%
x_0, noise = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
bar, t = torch.tensor([0.999, 0.5, 1e-4, 0.0], dtype=torch.float64), torch.tensor([0, 1, 2, 3, 3])
root = bar[t].view(-1, 1)
x_t = root.sqrt() * x_0 + (1 - root).sqrt() * noise
back = x_0_from_v(x_t, v_target(x_0, noise, t, bar), t, bar)
assert torch.allclose(back, x_0, atol=1e-12)
print("x_0 to v and back, alphas_bar from 0.999 to exactly 0: equal to 1e-12")

# %% [markdown]
# **The brightness problem.** Which $\bar\alpha_T$ is small enough? Stable Diffusion's first schedule ends at $\bar\alpha_T = 0.00466$. A single pixel then looks like pure noise. But add up the $D = 16384$ numbers of one of its latent images: the noise of their mean is smaller by $\sqrt D = 128$. In the coordinate $u = \sqrt D\cdot$ mean the noise still has variance 1, and an image of brightness $b$ lies at $\sqrt{\bar\alpha_T D}\;b = 8.7\,b$. So $x_T$ still contains the brightness, and the network learns to read it from $u$. But sampling starts from pure noise, where $u$ is near 0, and the network reads this as medium brightness. *See* it exactly: flat images whose brightness is $\mathcal N(0, 0.3^2)$, the exact denoiser, 1000 steps.

# %%
published, D = schedules.quadratic(1000, 0.00085, 0.012), 64 * 64 * 4
print(f"alphas_bar at the end: {GaussianDiffusion(published).alpha_bar_T:.4f}")


def brightness(betas, u):
    """Brightness of the flat images that sampling makes of the coordinate u of x_T, (N, 1)."""
    chain = GaussianDiffusion(betas)
    truth = oracle.GaussianData(chain, torch.zeros(1, dtype=torch.float64), 0.3 * math.sqrt(D))
    return samplers.last(samplers.ddim(chain, truth, u)) / math.sqrt(D)

# %% [markdown]
# **The repair** (Lin and others 2023, Algorithm 1) moves and stretches the curve of the *root* so that it ends at exactly 0:
# $$\sqrt{\bar\alpha_t}\ \to\ \big(\sqrt{\bar\alpha_t}-\sqrt{\bar\alpha_T}\big)\;\frac{\sqrt{\bar\alpha_1}}{\sqrt{\bar\alpha_1}-\sqrt{\bar\alpha_T}} . \tag{5.9: Lin Alg. 1}$$
#
# **Exercise 5.10 (two stars, 6 minutes).** (5.9) for the table `betas` (T,): return the new betas. The first one stays; the last is exactly 1.
# <details><summary>Hint 1</summary>root = cumprod(1 - betas).sqrt(); move it, stretch it, square it. Then betas = 1 - the ratio of neighbours.</details>
# <details><summary>Hint 2</summary>Before the first entry alphas_bar is 1.</details>

# %%
def zero_terminal_snr(betas):
    ...

# %%
zero_terminal_snr = checks.zero_terminal_snr(zero_terminal_snr)

# %%
u = torch.distributions.Normal(0, 1).icdf((torch.arange(12, dtype=torch.float64) + 0.5) / 12)[:, None]
made = {"data": 0.3 * u, "published betas": brightness(published, u)}
made["zero terminal SNR"] = brightness(zero_terminal_snr(published), u)
flat = {name: values.view(-1, 1, 1, 1).expand(-1, 1, 8, 8) for name, values in made.items()}
_ = plots_variants.named_rows(flat, ax=plt.subplots(figsize=(8.2, 2), layout="constrained")[1])

# %% [markdown]
# *Figure 5.13.* Twelve flat images in order of their brightness. The published betas make all of them medium grey: neither dark nor bright images can be drawn, although the denoiser is exact. With zero terminal SNR the data come back. <!-- alt: Three rows of twelve grey squares. The first and the third run from dark to bright grey, the second stays near medium grey. -->

# %%
for name, values in made.items():
    std = values.std() / made["data"].std() * 0.3
    print(f"standard deviation of the brightness, {name + ':':18} {std:.2f}")

# %% [markdown]
# Two things belong to the repair. The network must predict $v$ (or $x_0$), since the noise is useless where $\bar\alpha_T = 0$. And sampling must *visit* the last step: trailing steps do, leading ones do not (section 4.12). Sampling starts with standard deviation 1 of $u$. Which one does the first visited step expect?

# %%
for name, betas in (("published", published), ("zero SNR", zero_terminal_snr(published))):
    bar = torch.cumprod(1 - betas, 0)
    for choose in (spacing.leading, spacing.trailing):
        a = bar[choose(1000, 10)[-1]]
        expected = (a * D * 0.3**2 + 1 - a).sqrt()
        steps = f"{name + ',':10} 10 {choose.__name__:8} steps"
        print(f"{steps}: expected standard deviation of u {expected:.2f}")

# %% [markdown]
# Only zero SNR with trailing steps expects what sampling gives.

# %% [markdown] tags=["deeper"]
# ## 5.13 Going deeper: offset noise, min-SNR and P2

# %% [markdown]
# **Offset noise** repairs the same problem in training instead of in the schedule: add to the noise of each image and channel one random number, the same for all its pixels (`variants.offset_noise`). Then the network sees states whose mean contains little information about the brightness, and learns to change the brightness late. The price: $x_T$ is then not $\mathcal N(0, I)$ any more, although sampling still starts from $\mathcal N(0, I)$.

# %%
from ddpm_lesson.variants.offset_noise import offset_noise

# %%
images, same = torch.zeros(6, 1, 28, 28), lambda: torch.Generator().manual_seed(3)
_ = plots_variants.named_rows({
    "strength 0": offset_noise(images, 0.0, generator=same()) / 3,
    "strength 0.5": offset_noise(images, 0.5, generator=same()) / 3})

# %% [markdown]
# *Figure 5.14.* Six draws of noise; below, the same with an offset for each image (all values divided by 3, to fit the grey scale). (In practice the strength is 0.1.) <!-- alt: Two rows of six noise images. The upper ones are equally bright, the lower ones differ in brightness. -->

# %%
for side in (8, 28, 64):
    std = math.sqrt(1 + 0.1**2 * side**2)
    print(f"{side}x{side}, strength 0.1: standard deviation of u {std:.2f} instead of 1")

# %% [markdown]
# **Min-SNR and P2** weight the loss by the noise level; figure 2.18 draws both beside the others, and exercise 2.9 writes min-SNR. Where $v$ is predicted the weights must be converted, since an error of $v$ is not an error of $\epsilon$ (`losses.weight_for`):

# %%
from ddpm_lesson import losses, predictions

# %%
ts = torch.tensor([50, 500, 950])
weights = losses.min_snr(process.snr[ts])
for name in ("epsilon", "xstart", "v"):
    found = losses.weight_for(process, predictions.MEAN_TYPES[name], ts, weights)
    print(f"min-SNR-5, weight of {name:7} at t = 50, 500, 950:", *[f"{w:.4f}" for w in found])

# %% [markdown] tags=["deeper"]
# ## 5.14 Going deeper: DDIM needs the noise form

# %% [markdown]
# ADM has two algorithms because of DDIM. With $\eta = 0$ a step has no variance, and (5.4) moves the mean by $\sigma_t^2 g = 0$: it guides nothing. The noise form does not use the variance. The eight clusters in four classes again, 20 steps:

# %%
x_T = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
chain, y = process.respaced(spacing.trailing(1000, 20)), torch.zeros(400, dtype=torch.int64)
for name, denoise in (("mean form, variance 0", eight), ("noise form", eps_form)):
    x = samplers.last(samplers.ddim(chain, denoise, x_T))
    wrong = (of_cluster[torch.cdist(x, eight.means).argmin(1)] != 0).double().mean()
    print(f"{name:21}: share in a wrong class {wrong:.2f}")

# %% [markdown]
# About three quarters, as without guidance: three of the four classes are wrong.

# %% [markdown] tags=["deeper"]
# ## 5.15 Going deeper: four repairs of a large scale

# %% [markdown]
# A large scale has two effects that one wants to separate: it moves images towards their class, and it moves them away from the data. Four repairs, each a small change of (5.6):
#
# - **Rescaling** (5.7) brings the output's standard deviation back, in part.
# - **Projection** (`orthogonal`; Sadat and others 2024; lucidrains): split $\hat x_0(y)-\hat x_0$ into a part *along* $\hat x_0(y)$, which on photographs mainly strengthens the contrast, and the part orthogonal to it, which changes the content. Keep the second. (The paper also limits the update's length and gives it a negative momentum; neither is built here.)
# - **CFG++** (Chung and others 2024): in DDIM's step (4.4) take the guided $\hat x_0$ with a scale between 0 and 1, but add back the noise that the network predicts *without* the label.
# - **An interval** (Kynkäänniemi and others 2024): guide at medium noise only. At high noise guidance costs diversity, at low noise it hardly matters, and outside the interval the second evaluation is saved.
#
# **Exercise 5.11 (one star, 4 minutes).** Rescaling, (5.7), from the conditional and the guided noise (B, \*D), and `phi`; return $\hat\epsilon'$. Each image has its own standard deviation, over all of its dimensions.
# <details><summary>Hint</summary>flatten(1).std(1), then as many new axes as the images have.</details>

# %%
def rescaled_eps(eps_cond, eps_guided, phi):
    ...

# %%
rescaled_eps = checks.rescaled_eps(rescaled_eps)

# %%
y, base = mnist.labels(8), mnist.process
x_T = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(4)).to(device)
told, untold = (mnist.denoiser(label, clip=False) for label in (y, None))
plain, without = clipped(told, base), clipped(untold, base)
strong = clipped(guidance.classifier_free(told, untold, 8), base)
projected = guidance.guided(told, untold, guidance.orthogonal(8), base, predictions.xstart)

# %%
ways = {"s = 1": plain, "s = 8": strong, "s = 8, projected": clipped(projected, base)}
ways["CFG++, 0.6"] = guidance.cfg_plus_plus(plain, without, 0.6)
ways["s = 8, 300 ≤ t ≤ 700"] = guidance.in_interval(strong, plain, 300, 700)
chain = base.respaced(spacing.trailing(1000, 12))
drawn = {name: samplers.last(samplers.ddim(chain, denoise, x_T)) for name, denoise in ways.items()}
_ = plots_variants.named_rows(drawn)

# %% [markdown]
# *Figure 5.15.* The same noise: $s = 1$, $s = 8$, and three of the four repairs (rescaling is in figure 5.8). CFG++ and the interval stay close to the row $s = 1$, but their 5 loses its lower half. Projection at scale 8 goes *further* than $s = 8$ and raises the contrast more: what the paper found on photographs does not hold on these digits. Only its 5 is complete. <!-- alt: Five rows of the digits 0 to 7. The rows s = 8 and projected have thick strokes; CFG++ and the interval look like s = 1, but the 5 has lost its lower curve. -->

# %% tags=["folded"]
apart = {name: (x - drawn["s = 1"]).square().mean().sqrt() for name, x in drawn.items()}
nearer = max(apart["s = 8, 300 ≤ t ≤ 700"], apart["CFG++, 0.6"])
assert nearer < apart["s = 8"] < apart["s = 8, projected"]
assert drawn["s = 8, projected"].std((1, 2, 3)).mean() > drawn["s = 8"].std((1, 2, 3)).mean()
print("CFG++ and the interval stay nearer to the row s = 1 than s = 8 does; projection goes further")

# %% [markdown]
# *Measure.* The record at scale 5 (in figure 5.7; there rescaling and projection act on $\epsilon$, and the interval is 167 to 785):

# %%
for network, of_network in record.items():
    for row in of_network["rows"]:
        if row["scale"] == 5 and row["way"] != "classifier":
            found = [row["scores"][name][0] for name in ("Precision", "Recall", "Frechet distance")]
            print(f"{network:11} {row['way']:15}:", end=" ")
            print("precision {:.2f}, recall {:.2f}, Fréchet distance {:.2f}".format(*found))

# %% [markdown]
# The interval gives back some of the recall, on MNIST much of it, and has the smallest Fréchet distance. On the digits this costs no precision; on MNIST it costs a little. (500 and 300 images: the error bars of neighbouring values overlap.)
#
# *Verify* your rescaling against its definition: with `phi = 1` every image has the standard deviation of the output with the label.

# %%
a, b = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
full = rescaled_eps(a, b + 3 * (a - b), 1.0)
assert torch.allclose(full.flatten(1).std(1), a.flatten(1).std(1), rtol=1e-10)
print("phi = 1: each image's standard deviation equals that of the output with the label, to 1e-10")

# %% [markdown] tags=["deeper"]
# ## 5.16 Going deeper: self-conditioning

# %% [markdown]
# At every step the network estimates $x_0$, and at the next step it starts again without it. **Self-conditioning** (Chen and others 2022) passes the estimate on, as further input channels. Is the old estimate useful? Compare, along one chain, each estimate with the image that the chain ends in:

# %%
states = list(digits.states(40, Sampling("ddim", steps="trailing20"), y=digits.labels(40)))[1:]
error = [(s.prediction.x_0 - states[-1].x_t).square().mean().sqrt().item() for s in states]
ax = plt.subplots(figsize=(6, 2.6), layout="constrained")[1]
_ = ax.plot(range(19, -1, -1), error, "o-", color=plots.BLUE, label="the estimate at this step")
_ = ax.plot(range(18, -1, -1), error[:-1], "s--", color=plots.VERMILION, label="the estimate passed on")
_ = ax.set(xlabel="steps to go", ylabel="RMS distance to the final image", xlim=(20, -1)), ax.legend()
_ = ax.set_xticks(range(0, 21, 5))

# %% [markdown]
# *Figure 5.16.* From the third step on the estimate passed on is at most about a quarter further from the final image than the new one, until the last few steps (there the new one nearly *is* it). Whether it helps to pass it on is not measured here (Chen and others: yes). <!-- alt: Two falling curves over the steps to go; the dashed one is the other shifted by one step, and lies slightly above it. -->
#
# Training draws a single $t$, so there is no previous step. How is it trained? With probability 1/2 the network is first evaluated with zeros in these channels; its answer, *without gradient*, is then put in, and the network is evaluated again. Otherwise it is evaluated once, with zeros. Sampling needs no code of its own: a denoiser is handed the prediction of the step before (`prev`), and `previous_x_0` puts its $\hat x_0$ in.

# %%
from functools import partial

from ddpm_lesson.batches import minibatches
from ddpm_lesson.denoisers import make_denoiser, previous_x_0
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.training import train
from ddpm_lesson.variants.self_conditioning import own_estimate

# %%
torch.manual_seed(0)
small = UNet(1000, 8, [1, 2], [], 1, 0.0, in_ch=1, cond_ch=1, num_groups=4)
asked, base = [], cosine
_ = small.register_forward_hook(lambda *_: asked.append(1))
told = own_estimate(small, base, predictions.epsilon, generator=torch.Generator().manual_seed(0))
batches = minibatches(data.digits("train")[:][0], batch_size=16)
run = train(small, base, batches, partial(losses.simple_loss, base, predictions.epsilon),
            steps=20, conditions=told)
steps = len(list(run))
print(f"{steps} training steps evaluated the network {len(asked)} times")

# %%
asked.clear()
chain = base.respaced(spacing.trailing(1000, 10))
denoise = make_denoiser(small, base, predictions.epsilon, cond=previous_x_0)
x = samplers.last(samplers.ddim(chain, clipped(denoise, base), torch.randn(2, 1, 8, 8)))
print(f"{chain.T} steps of sampling evaluated it {len(asked)} times")

# %% [markdown]
# About half of the steps (here 13 of 20) evaluate it twice, the first time without gradients; sampling costs nothing more. (Twenty steps are too few to train a network; the cell only counts evaluations.)

# %% [markdown] tags=["deeper"]
# ## 5.17 Going deeper: super-resolution by concatenation

# %% [markdown]
# The same further channels can hold *any* image. Improved DDPM and ADM draw large images in two stages: a small one, then a network that enlarges it. This network sees the small image, enlarged by interpolation, beside $x_t$; otherwise nothing changes (`variants.super_resolution`).

# %%
from ddpm_lesson.variants.super_resolution import low_res, upsampled

# %%
held_out = data.digits("test")[20:30][0]
small = low_res(held_out, 2)  # 4x4: the mean of each 2x2 square
blurred = upsampled(small, 8)
print(f"small image {tuple(small.shape[1:])}, condition {tuple(blurred.shape[1:])}")

# %% [markdown]
# The network `digits_upscale` learned it in 3000 steps. It is given the small images and draws what may have been there: three draws for each.

# %%
enlarger = load_pretrained("digits_upscale", device=device)
rows = {"digit": held_out, "4x4, enlarged": blurred}
for seed in (0, 1, 2):
    way = Sampling("ddim", steps="trailing20", seed=seed)
    rows[f"draw {seed + 1}"] = enlarger.sample(10, way, cond=small)
_ = plots_variants.named_rows(rows)

# %% [markdown]
# *Figure 5.17.* Ten held-out digits; below them the condition of the network, the same digits averaged to 4x4 and enlarged to 8x8; then three draws for each. 16 numbers decide most of what there is to see; in the loops of the 8 and the 9 the draws differ. <!-- alt: Five rows of ten digits. The second row is blurred; the three rows below it are sharp digits like those of the first row. -->

# %% tags=["folded"]
def rms(x):
    return x.square().mean().sqrt()


draws = torch.stack([rows[f"draw {k}"] for k in (1, 2, 3)])
assert rms(low_res(draws[0], 2) - small) < 0.05 < 0.4 < rms(low_res(draws[0].roll(1, 0), 2) - small)
assert rms(draws.mean(0) - held_out) < rms(draws[0] - held_out) < 0.5 * rms(blurred - held_out)
print("draw 1, made small again: within 0.05 of its condition, above 0.4 from a neighbour's")
print("distance from the digit: the mean of three draws is nearer than one draw,")
print("and one draw is at less than half the distance of the interpolated image")

# %% [markdown]
# All held-out digits, from the record of the weights (ancestral, 1000 steps), with interpolation alone for comparison:

# %%
made = json.loads(data.bundled("weights/digits_upscale.json").read_text("utf-8"))["made"]
for name, key in (("drawn", "scores"), ("interpolated", "bilinear"), ("real", "real")):
    found = [made[key][of]["value"] for of in ("Conditional accuracy", "Frechet distance")]
    print("{:13}: recognised {:.0%}, Fréchet distance {:.1f}".format(name, *found))

# %% [markdown]
# A draw is *one* possible image. The mean of several is nearer to the truth, as least squares requires (section 2.4), and is blurred where they differ. At the sizes of ImageNet the small image is made noisy, too (Ho and others 2022, *Cascaded Diffusion Models*), so that the second network tolerates the errors of the first.
#
# **Two stages.** `mnist_upscale` goes from 14x14 to 28x28. It is given ten digits of `mnist_ddpm`, made small:

# %%
way = Sampling("ddim", steps="trailing12", seed=5)
first = mnist.sample(10, Sampling("ddim", steps="trailing12", seed=4, guidance=2), y=mnist.labels(10))
small = low_res(first, 2)
rows = {"mnist_ddpm": first, "14x14, enlarged": upsampled(small, 28)}
rows["mnist_upscale"] = load_pretrained("mnist_upscale", device=device).sample(10, way, cond=small)
_ = plots_variants.named_rows(rows, ax=plt.subplots(figsize=(8.2, 2.2), layout="constrained")[1])

# %% [markdown]
# *Figure 5.18.* Ten digits of `mnist_ddpm`; the same at 14x14, enlarged by interpolation; and what `mnist_upscale` draws from the 14x14 pixels. Its strokes are sharp again. Here the small image fixes almost everything, so the draw is nearly the digit itself. (On 300 digits that were held out a classifier recognises both kinds about equally well, and the squared error of the drawn ones is about a tenth: `data/weights/README.md`.) <!-- alt: Three rows of the digits 0 to 9. The second row is blurred; the third is as sharp as the first, and nearly the same. -->

# %% tags=["folded"]
assert rms(rows["mnist_upscale"] - first) < 0.6 * rms(rows["14x14, enlarged"] - first)
print("distance from the digit: mnist_upscale below 0.6 of interpolation")

# %% [markdown] tags=["deeper"]
# ## 5.18 Going deeper: L1 against L2, and another class-conditional MNIST

# %% [markdown]
# The post (section 1.1) links abarankab's repository as "DDPM MNIST". Its author trained it on MNIST and CIFAR-10; the code that it ships is for CIFAR-10, with labels or without. (Here: `train --preset cifar10 --conditional`.) Beside `mnist_ddpm`:
#
# | | abarankab | `mnist_ddpm` |
# |---|---|---|
# | loss | L1 or L2 of the noise | L2, and the bound for the variance |
# | class | a learned vector, added in each block | a learned vector, added to that of the time |
# | label left out in training | never | 10 % |
# | guidance | none: nothing to subtract | any scale |
# | average of the weights | begins after some steps | from the first, with a decay that grows |
#
# **L1** fits the *median* of the noise, not its mean (section 2.4 has the proof and a measurement for $x_0$). How much does it cost? Two points, 30 % at −1.4 and 70 % at 0.6 (the centres of section 4.3), at $t = 500$. Where $x_t$ lies between them, $x_0$ may be either:

# %%
places, share = torch.tensor([-1.4, 0.6]).double(), torch.tensor([0.3, 0.7]).double()
a = process.alphas_bar[500]
for x in (-0.5, -0.2, 0.1):
    log_weight = share.log() - (x - a.sqrt() * places) ** 2 / (2 * (1 - a))
    weight = log_weight.softmax(0)
    median = places[1 if weight[1] > 0.5 else 0]
    print(f"x_t = {x:4}: L2 learns x_0 = {(weight * places).sum():.2f}, L1 learns {median:.2f}")

# %% [markdown]
# L1 chooses one point; L2 averages, and (4.1) needs the average: only the average gives $x_{t-1}$ the right mean. On images one expects a small difference at low noise, where the posterior is narrow and symmetric, and the largest where several images are still possible (we did not measure it).

# %% [markdown] tags=["deeper"]
# ## 5.19 Going deeper: what goes wrong

# %% [markdown]
# **A paper's $w$ passed as a library's $s$**, or the other way round. The paper says $w = 2$. Take $\epsilon_\theta(x_t, y) = 1$ and $\epsilon_\theta(x_t) = 0$:

# %%
for name, strength, convention in (("w = 2, right", 2, "w"), ("taken for s = 2", 2, "s")):
    eps = cfg_eps(torch.tensor(1.0), torch.tensor(0.0), strength, convention)
    print(f"{name:15}: {eps.item():.0f} times the difference is added to the noise without label")

# %% [markdown]
# The scale is always wrong by one, which matters most for small scales. $w = 0.5$ passed as $s = 0.5$ is weaker than giving the label alone ($s = 1$).
#
# **The factor T forgotten** (section 2.18): $\lambda L_\text{vlb}$ with the term of one $t$, not times $T$. *See* it with plain gradient descent on $v$ for the four values of $d$ in figure 5.4: 400 steps, the same learning rate with and without the factor $T$ (the 1000 of training):

# %%
def descend(T, steps=400, rate=0.5):
    v = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(hybrid_of(v, T).sum(), v)
        v = (v - rate * gradient).detach().requires_grad_()
    return v.detach().flatten()


def hybrid_of(v, T):
    ten = cosine.respaced(spacing.trailing(1000, 10))
    log_var = learned_log_var(v, torch.ones(4, dtype=torch.int64), ten.betas, ten.alphas_bar)
    small, zero = ten.posterior_var[1].log(), torch.zeros_like(v)
    return hybrid_loss(zero, zero, zero, small + zero, d, log_var, T, lam)

# %%
print("best        ", [f"{x:.2f}" for x in best.flatten().tolist()])
for name, T in (("times T", 1000), ("without it", 1)):
    print(f"{name:12}", [f"{x + 0.0:.2f}" for x in descend(T).tolist()])

# %% [markdown]
# Without the factor $v$ hardly moves. Nothing fails, no loss explodes: the samples are those of a fixed variance between the two. (An optimiser such as Adam hides the mistake for parameters that belong to $v$ alone, but not in the shared layers.)
#
# **The mean not held fixed.** Then $L_\text{vlb}$ trains the mean, too, with the bound's weights. One coordinate whose mean should be 1 and is 0:

# %%
mean = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
one, log_var = torch.ones_like(mean), torch.full_like(mean, -4)
for name, used in (("held fixed", mean.detach()), ("not held", mean)):
    kl = 0.5 * (one - used) ** 2 * torch.exp(-log_var)
    total = (0.01 * (one - mean) ** 2 + 0.001 * 1000 * kl).sum()
    (gradient,) = torch.autograd.grad(total, mean)
    print(f"{name:10}: gradient with respect to the mean {gradient.item():.2f}")

# %% [markdown]
# $L_\text{simple}$ (here $0.01$ times the squared error) asks for a small change; the bound, where its variance is small, asks for a large one, and outweighs it.
#
# **The base's bounds on a short chain.** The network says *where* between two bounds. They must be those of the chain that is sampled (5.1), not those of the 1000 steps of training, which are far smaller:

# %%
def of_the_base(process, i, prediction, x_t):
    return predictions.learned_range(process.base, process.timestep_map[i], prediction, x_t)


held_out, labels = (part.to(device) for part in data.digits("test")[::24])
right, wrong = bits(predictions.learned_range, 10).total, bits(of_the_base, 10).total
assert right < 3 and wrong > 50
print("10 steps: below 3 bits/dim with the chain's bounds, above 50 with the base's")

# %% [markdown]
# **One standard deviation for the whole batch.** Rescaling (5.7) is per image. With `eps.std()` an image depends on its neighbours in the batch:

# %%
cond, guided = torch.randn(2, 2, 64, generator=torch.Generator().manual_seed(0)).double()
guided[1] *= 10  # a neighbour with a large contrast
alone, per_image = (rescaled_eps(cond[:n], guided[:n], 1.0)[0].std() for n in (1, 2))
by_batch = (guided * cond.std() / guided.std())[0].std()
print(f"first image: alone {alone:.2f}; with the neighbour {per_image:.2f}, by batch {by_batch:.2f}")

# %% [markdown]
# **The root forgotten in (5.9).** Moving and stretching $\bar\alpha_t$ instead of its root also ends at 0, so nothing fails. But it is not Lin's schedule: more of the image is left in the late steps (at $t = 990$: 0.0005, not 0.0000).

# %%
bar = torch.cumprod(1 - published, 0)
of_bar = (bar - bar[-1]) * bar[0] / (bar[0] - bar[-1])
right = torch.cumprod(1 - zero_terminal_snr(published), 0)
for t in (500, 900, 990):
    print(f"t = {t}: published {bar[t]:.4f}, (5.9) {right[t]:.4f}, without the root {of_bar[t]:.4f}")

# %% [markdown]
# **Clipped before guidance.** Two estimates in [−1, 1] give a third outside:

# %%
with_label, without = torch.tensor([1.0, 0.9]), torch.tensor([0.2, 1.0])
guided = without + 4 * (with_label - without)
print("clipped before:", [round(x, 2) for x in guided.tolist()])
print("clipped after: ", [round(x, 2) for x in guided.clamp(-1, 1).tolist()])

# %% [markdown] tags=["deeper"]
# ## 5.20 Going deeper: where to read on

# %% [markdown]
# Nichol and Dhariwal 2021, *Improved DDPM* (arXiv 2102.09672): learned variance, cosine schedule, importance sampling. Dhariwal and Nichol 2021, *Diffusion Models Beat GANs on Image Synthesis* (arXiv 2105.05233). Ho and Salimans 2022, *Classifier-Free Diffusion Guidance* (arXiv 2207.12598). Lin and others 2023 (arXiv 2305.08891): zero terminal SNR, rescaling. Salimans and Ho 2022 (arXiv 2202.00512): v. Chen and others 2022 (arXiv 2208.04202): self-conditioning. Sadat and others 2024 (arXiv 2410.02416): projection. Chung and others 2024 (arXiv 2406.08070): CFG++. Kynkäänniemi and others 2024 (arXiv 2404.07724): the interval. Bradley and Nakkiran 2024 (arXiv 2408.09000): why guidance does not draw from the density that it is derived from.
#
# **Scores of older papers.** The *Inception score* (Salimans and others 2016, arXiv 1606.03498) is $\exp\,\mathbb E_x\operatorname{KL}\big(p(y\mid x)\,\Vert\,p(y)\big)$, from the answers of a classifier: high if each image has a clear class and all classes come equally often (`metrics.inception_score`). It never sees a real image: one image for each class, copied, has the best score. *sFID* (Nash and others 2021, arXiv 2103.03841) is a Fréchet distance in features that keep positions; `python -m ddpm_lesson evaluate` prints both. lucidrains' trainer computes FID during training; here training yields after every step, so any score can be computed in between.
#
# **Other data.** lucidrains' repository also has one-dimensional data, such as sound. Only the network changes: its convolutions run along one axis. Process, losses and samplers of this course take items of any shape.
#
# **Two links of the post.** The title of Dhariwal and Nichol's paper is misspelt there. And lucidrains' repository, "the official PyTorch version" in the post, is an independent one; the authors' own code, hojonathanho/diffusion, is in TensorFlow.

# %% [markdown] tags=["sitting"]
# ## 5.21 Four large steps
#
# *Sitting 3 of 4, 31 minutes.*

# %% tags=["start"]
import math

import torch
from torch.distributions import Normal

from ddpm_lesson import GaussianDiffusion, checks, data, load_pretrained, oracle
from ddpm_lesson import plots, plots_variants, samplers, schedules
from ddpm_lesson.denoisers import make_denoiser
from ddpm_lesson.networks.discriminator import Discriminator
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.predictions import fixedsmall, xstart
from ddpm_lesson.training import EMA
from ddpm_lesson.variants import ddgan

torch.set_num_threads(1)  # networks as small as here gain nothing from more threads
four = GaussianDiffusion(schedules.vp(4))  # section 5.22 says where these betas come from
weights, means, stds = data.eight_gaussians_mixture()

# %% [markdown]
# *Question.* A good image has cost about ten evaluations so far. Section 1.9 said why: a step is a Gaussian only if it is small. What would it take to go from noise to data in *four* steps?
#
# **New symbols.** $z$ (`z`) is a *latent*: noise that a generator gets besides $x_t$ (in (4.4) $z$ was the noise of a step, now `noise`; notebook 4's latent was $x_T$). $G(x_t, z, t)$ (`G`, 生成器) is a generator of $x_0$ (in code `G(x_t, t, z)`, as for every network here). $D(x_{t-1}, x_t, t)$ (`D`, 判别器) is a discriminator; it returns a *logit*, positive for "real". (In section 4.8 $D$ was an estimate.)
#
# First look at such a step. The eight clusters of notebook 2; their noisy densities are known, so Bayes' rule gives the exact step on a grid: $q(x_{t-1}\mid x_t)\propto q(x_t\mid x_{t-1})\,q(x_{t-1})$.
#
# > **Predict.** $x_t = (0.3, 0.1)$ lies near the middle of the ring. How many of the eight clusters does the last of four steps, $q(x_0\mid x_1)$, have to choose from: one, two, or all?
# > <details><summary>Then look</summary>All eight, with probabilities from 6 % to 21 %: the right picture.</details>

# %%
side = torch.linspace(-2.4, 2.4, 161, dtype=torch.float64)
plane, x_t = torch.cartesian_prod(side, side), torch.tensor([0.3, 0.1], dtype=torch.float64)


def exact_step(process, t):
    """q(x_{t-1} | x_t) on the plane: probabilities of its points, (N,)."""
    c = process.row(t)
    a, var = c.alphas_bar_prev, c.alphas_bar_prev * stds**2 + 1 - c.alphas_bar_prev
    squared = (plane[:, None] - a**0.5 * means).square().sum(2)  # (N, 8)
    log_before = (-squared / (2 * var) - var.log()).logsumexp(1)
    return (log_before - (x_t - c.sqrt_alphas * plane).square().sum(1) / (2 * c.betas)).softmax(0)

# %% tags=["folded"]
def best_gaussian(p):
    """Mean and covariance of a step, and the KL divergence in bits from it to their Gaussian."""
    mean, cov = p @ plane, torch.cov(plane.T, aweights=p, correction=0)
    density = p / (side[1] - side[0]) ** 2
    log_g = torch.distributions.MultivariateNormal(mean, cov).log_prob(plane)
    return mean, cov, (torch.xlogy(p, density) - p * log_g).sum().item() / math.log(2)

# %%
long = GaussianDiffusion(schedules.vp(1000))
at = {"one of 1000 steps": (long, 249), "$x_1$ from $x_2$": (four, 1), "$x_0$ from $x_1$": (four, 0)}
steps = {name: exact_step(*where) for name, where in at.items()}
lost = {name: best_gaussian(p)[2] for name, p in steps.items()}

# %% tags=["folded"]
fig, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
turn = torch.linspace(0, 6.2832, 100, dtype=torch.float64)
circle = 2 * torch.stack([turn.cos(), turn.sin()])  # two standard deviations
for ax, (name, p) in zip(axes, steps.items()):
    mean, cov, _ = best_gaussian(p)
    _ = ax.pcolormesh(side, side, p.view(161, 161).T, cmap="Blues", shading="gouraud")
    _ = ax.plot(*(mean[:, None] + torch.linalg.cholesky(cov) @ circle), "--", color=plots.VERMILION)
    _ = ax.plot(*x_t, "+", color="black"), ax.set(title=name, aspect="equal")
_ = axes[0].set(title="one of 1000 steps, enlarged", xlim=(0, 0.6), ylim=(-0.2, 0.4))

# %% [markdown]
# *Figure 5.19.* The exact distribution of $x_{t-1}$ (blue) for one $x_t$ (cross), and its best Gaussian (dashed: two standard deviations). Left, step 250 of 1000, $\bar\alpha_t = 0.52$: the two agree. Middle, from $\bar\alpha_t = 0.08$: still nearly a Gaussian. Right, the *same* $\bar\alpha_t$ as on the left, but the step goes all the way to $x_0$: eight points to choose from, and the Gaussian puts most of its probability where no data are. <!-- alt: Three square panels. Left, enlarged: a round blue spot inside a dashed circle. Middle, a broad round blue area with a dashed circle. Right, eight small blue spots on a ring, dark on the right and pale on the left, with a large dashed ellipse around them whose middle is empty. -->

# %%
for name, bits in lost.items():
    print(f"{name.replace('$', ''):17}: the best Gaussian loses {abs(bits):.2f} bits")

# %% [markdown]
# No network can repair this: it is the *best* Gaussian. The middle picture is harmless only because so much noise is left there. (The blog post of section 1.1 speaks of "multi-complex-modal" distributions: it means complex, multimodal ones, as in the right picture.)

# %% [markdown]
# ## 5.22 A generator inside the step
#
# *Derive.* Section 1.9 wrote the true step as an average of posteriors, one for each $x_0$ that may have led to $x_t$:
# $$q(x_{t-1}\mid x_t) = \int q(x_{t-1}\mid x_t, x_0)\;q(x_0\mid x_t)\,dx_0 .$$
# The first factor *is* a Gaussian, for steps of any size (1.6). All that is not Gaussian sits in the second. DDPM replaces the second by one point, $\hat x_0$. **Denoising diffusion GANs** (DDGAN; Xiao, Kreis and Vahdat 2022, arXiv 2112.07804; a *generative adversarial network* is two networks trained against each other, section 5.23) replace it by a *draw*: a generator makes $x_0$ from $x_t$ and a latent,
# $$\begin{aligned} p_\theta(x_{t-1}\mid x_t) = \int p(z)\;q\big(&x_{t-1}\mid x_t, \\ &x_0 = G(x_t, z, t)\big)\,dz . \end{aligned} \tag{5.10: DDGAN Section 3.2}$$
# If $G(x_t, z, t)$ is distributed as $q(x_0\mid x_t)$, the step is exact, however large it is. Nothing else changes: sampling is the loop of notebook 4.
#
# **Exercise 5.12 (two stars, 4 minutes).** One reverse step. `t` is an int for the whole batch; `G(x_t, t, z)` wants it as (B,) int64, and returns $x_0$. Return the mean of the posterior (1.6) plus its standard deviation times `noise`; at `t = 0`, what `G` returned. `betas` (T,) is float64. `G` learns through this step: let gradients pass.
# <details><summary>Hint 1</summary>torch.full((len(x_t),), t, device=x_t.device) is the (B,) step. alphas_bar = cumprod(1 - betas); alphas_bar_prev is its entry t - 1.</details>
# <details><summary>Hint 2</summary>coef1 = sqrt(alphas_bar_prev) beta / (1 - alphas_bar) for x_0, coef2 = sqrt(1 - beta) (1 - alphas_bar_prev) / (1 - alphas_bar) for x_t; the variance is beta (1 - alphas_bar_prev) / (1 - alphas_bar).</details>

# %%
def ddgan_step(G, x_t, z, t, betas, noise):
    ...

# %%
ddgan_step = checks.ddgan_step(ddgan_step)

# %% [markdown]
# *Verify before training.* For the clusters the perfect generator is known: choose a cluster with its posterior probability, then a place in it (a product of two Gaussians, section 1.7). Its latent has three numbers.

# %%
exact = oracle.Mixture(four, weights, means, stds)


def perfect(x_t, t, z):
    """A draw from q(x_0 | x_t), made of z (B, 3): one number for the cluster, two for the place."""
    a = four.alphas_bar[t][:, None]
    below = exact.posterior_weights(x_t, t).cumsum(1) < Normal(0, 1).cdf(z[:, :1])
    k, std = below.sum(1).clamp(max=7), 0.1  # standard deviation of a cluster
    var = 1 / (1 / std**2 + a / (1 - a))
    return var * (means[k] / std**2 + a.sqrt() * x_t / (1 - a)) + var.sqrt() * z[:, 1:]

# %%
def walk(G, x_t, betas, latent):
    """All steps by your ddgan_step. The random numbers are drawn on the CPU, z before the noise."""
    generator = torch.Generator().manual_seed(1)
    for t in reversed(range(len(betas))):
        z = torch.randn(len(x_t), latent, generator=generator, dtype=x_t.dtype).to(x_t)
        noise = torch.randn(x_t.shape, generator=generator, dtype=x_t.dtype).to(x_t)
        with torch.no_grad():
            x_t = ddgan_step(G, x_t, z, t, betas, noise)
    return x_t

# %%
x_T = torch.randn(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
gaussian = samplers.reverse(four, exact, fixedsmall)  # the exact E[x_0 | x_t], and Gaussian steps
again = torch.Generator().manual_seed(1)
clouds = {"Gaussian steps": samplers.last(samplers.ancestral(four, gaussian, x_T, generator=again))}
clouds["perfect generator"] = walk(perfect, x_T, four.betas, 3)

# %% tags=["folded"]
def near(x, radius=0.3):
    """The share of points within three standard deviations of a cluster, in all and for each."""
    distance, which = torch.cdist(x.double(), means).min(1)
    held = torch.bincount(which[distance < radius], minlength=8) / len(x)
    return held.sum().item(), held


fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), layout="constrained")
for ax, (name, x) in zip(axes, clouds.items()):
    _ = plots.cloud(x, ax=ax), ax.set(title=name, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))

# %% [markdown]
# *Figure 5.20.* Four steps each, and no network in either. Left, with the best possible denoiser: the last step takes a mean over clusters, so nearly all points lie between them. Right, your function with the perfect generator: the data. <!-- alt: Two scatter plots. Left, points fill a disc that ends before the ring of the clusters. Right, eight compact clusters on the ring. -->

# %% tags=["folded"]
(share_gaussian, _), (share_perfect, held) = (near(x) for x in clouds.values())
assert share_gaussian < 0.3 and share_perfect > 0.97 and held.min() > 0.08
print("near a cluster: below 30% with Gaussian steps, above 97% with the perfect generator")

# %% [markdown]
# It *is* the loop of notebook 4: a generator is a denoiser whose answer is drawn. `make_denoiser` takes the latent as a condition that is drawn anew at each step.

# %%
z = ddgan.latent(3, generator=(generator := torch.Generator().manual_seed(1)))
denoise = make_denoiser(lambda x_t, t, z: perfect(x_t, t, z), four, xstart, z=z)
p = samplers.reverse(four, denoise, fixedsmall)
same = samplers.last(samplers.ancestral(four, p, x_T, generator=generator))
assert torch.allclose(same, clouds["perfect generator"], atol=1e-10)
print("your four steps and samplers.ancestral: the same points, to 1e-10")

# %% [markdown]
# **Which four betas?** They come from a process in continuous time $u\in[0, 1]$ ("variance preserving", `vp`), with $\log\bar\alpha(u) = -\tfrac12(20-0.1)\,u^2-0.1\,u$, evaluated at $T+1$ times. With $\Delta$ for the difference of neighbours,
# $$\beta_t = 1-\exp\big(-0.1\,\Delta u-\tfrac12(20-0.1)\,\Delta(u^2)\big) . \tag{5.11: DDGAN App. C}$$
# The paper's times run from 0, those of its code from 0.001. The last $\bar\alpha$ is nearly the same; the first betas differ, and a network trained with one must be sampled with it:

# %%
for name, betas in (("code", schedules.vp(4)), ("paper", schedules.vp_paper(4))):
    print(f"{name:5}: betas", *[f"{b:.4f}" for b in betas], f" alphas_bar_T {(1 - betas).prod():.2e}")

# %% [markdown]
# ## 5.23 A game of two networks
#
# *Question.* Nobody gives us $q(x_0\mid x_t)$ of images. Least squares would teach the generator its mean again. Which loss teaches a *distribution*?
#
# One way: a second network, the discriminator, learns to tell real from generated. **Real pairs** $(x_{t-1}, x_t)$ come from the forward process: a jump to $t-1$ (1.2), then one step (1.1); `q_sample_pair` draws both. **Fake pairs** have the same $x_t$ and the generator's $x_{t-1}$. $D$ learns to give real pairs a large logit and fake ones a small one, by the cross-entropy: "real" has the probability $1/(1+e^{-D})$, and minus its logarithm is $\operatorname{softplus}(-D)$, where $\operatorname{softplus}(a) = \log(1+e^a)$:
# $$\begin{aligned} L_D &= \operatorname{softplus}\big(-D(x_{t-1}, x_t, t)\big) \\ &\quad+\operatorname{softplus}\big(D(x_{t-1}^\text{fake}, x_t, t)\big) . \end{aligned} \tag{5.12: DDGAN Section 3.2}$$
# $D$ also sees $x_t$; so it recognises a generator that ignores $x_t$: each of its points may be good, but the pairs do not fit.
#
# **Exercise 5.13 (one star, 3 minutes).** (5.12) for each image, (B,), in nats.
# <details><summary>Hint</summary>torch.nn.functional.softplus. log(1 + exp(a)) overflows for large a. Do not average over the batch.</details>

# %%
def discriminator_loss(real_logits, fake_logits):
    ...

# %%
discriminator_loss = checks.discriminator_loss(discriminator_loss)

# %% [markdown]
# The generator wants the opposite. It could *maximise* the second term of $L_D$. But where $D$ is sure of a fake, that term is flat: it has hardly any gradient. So it minimises the cross-entropy of "real" instead, the **non-saturating** loss (Goodfellow and others 2014)
# $$L_G = \operatorname{softplus}\big(-D(x_{t-1}^\text{fake}, x_t, t)\big) . \tag{5.13: DDGAN Section 3.2}$$
#
# **Exercise 5.14 (one star, 2 minutes).** (5.13) for each image.
# <details><summary>Hint</summary>One line: the term of (5.12) that belongs to real logits.</details>

# %%
def generator_loss(fake_logits):
    ...

# %%
generator_loss = checks.generator_loss(generator_loss)

# %%
logits = torch.linspace(-8, 8, 161)
at_0 = discriminator_loss(torch.full_like(logits, 100.0), logits)  # leaves the fakes' term
ax = plt.subplots(figsize=(5.5, 2.6), layout="constrained")[1]
_ = ax.plot(logits, generator_loss(logits), color=plots.BLUE, label="non-saturating, (5.13)")
_ = ax.plot(logits, -at_0, "--", color=plots.VERMILION, label="minus the discriminator's term")
_ = ax.set(xlabel="logit of a fake (left: recognised, right: taken for real)", ylabel="loss of G, nats")
_ = ax.legend()

# %% [markdown]
# *Figure 5.21.* Two losses that both fall towards the right; drawn by your functions. On the left, for recognised fakes, the dashed one is flat. <!-- alt: The blue line falls with slope minus one on the left and flattens on the right. The dashed line is flat on the left and falls on the right. -->
#
# **R1.** Nothing keeps $D$ from becoming arbitrarily steep between real and fake; then the generator's gradient changes abruptly. The R1 penalty (Mescheder and others 2018, arXiv 1801.04406) makes slopes *at the real points* expensive:
# $$R_1 = \frac\gamma2\,\big\lVert\nabla_{x_{t-1}}D(x_{t-1}, x_t, t)\big\rVert^2 . \tag{5.14: Mescheder Eq. 9}$$
# It needs a second derivative, so it is often taken *lazily*, at every $k$-th step only (Karras and others 2020, StyleGAN2). Then it must be multiplied by $k$ (`interval`), otherwise its weight is only $\gamma/k$.
#
# **Exercise 5.15 (two stars, 4 minutes).** (5.14) times `interval`, for each image (B,). `D(x_prev, x_t, t)` returns (B,). The result must be differentiable in $D$'s weights, and must not change `x_prev`.
# <details><summary>Hint 1</summary>x = x_prev.detach().requires_grad_(), then torch.autograd.grad(D(x, x_t, t).sum(), x, create_graph=True)[0].</details>
# <details><summary>Hint 2</summary>flatten(1).square().sum(1): the square is summed over the pixels, not averaged.</details>

# %%
def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    ...

# %%
r1_penalty = checks.r1_penalty(r1_penalty)

# %% [markdown]
# ## 5.24 Train it
#
# $G$ and $D$ are multilayer perceptrons. Such networks learn coarse shapes first; `gain` makes their first weights larger, so that they see narrow clusters sooner. One draw serves both:

# %%
def draw(G, chain, generator, B=256):
    """t, a real pair, and G's x_{t-1} for the same x_t."""
    t = torch.randint(chain.T, (B,), generator=generator)
    x_0 = data.eight_gaussians(B, generator=generator)
    x_prev, x_t = chain.q_sample_pair(x_0, t, generator=generator)
    guess = G(x_t, t, torch.randn(B, 2, generator=generator))
    return t, x_prev, x_t, chain.q_posterior(guess, x_t, t).sample(generator=generator)

# %% [markdown]
# Which schedule? With the betas of (5.11) four steps are spent badly on points in the plane: $\bar\alpha_3 = 0.003$ and $\bar\alpha_4 = 0.00004$ are both pure noise, so the first of the four steps has nothing to learn, and the last has to do almost everything. With 10 instead of 20 in (5.11), $\bar\alpha$ is 0.71, 0.28, 0.06 and 0.006, and every step has its share. The one-step GAN is the ordinary one (Goodfellow and others 2014): its discriminator sees $x_0$ alone, without R1.

# %%
chains = {1: GaussianDiffusion(schedules.vp(1)), 4: GaussianDiffusion(schedules.vp(4, beta_max=10))}


def players(T):
    """Generator, discriminator, and an optimiser for each."""
    torch.manual_seed(0)
    alone = T == 1  # an ordinary GAN: D does not see x_t
    G = MLP(T, 2, 64, latent=2, gain=3)
    D = Discriminator(MLP(T, 2 if alone else 4, 64, out=1, gain=5), alone=alone)
    rates = (G, 1e-3), (D, 2e-3)
    return G, D, *(torch.optim.Adam(part.parameters(), lr, betas=(0.5, 0.9)) for part, lr in rates)

# %% [markdown]
# Both trainings take about a minute. One step of each in turn, with your three functions; R1 at every fourth step; learning rates that fall along a cosine:

# %%
def trained(T, r1, steps=2000):
    """A generator for T steps, its weights averaged."""
    (G, D, of_G, of_D), chain = players(T), chains[T]
    falling = [torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps) for adam in (of_G, of_D)]
    average, generator = EMA(G, 0.995), torch.Generator().manual_seed(0)
    for step in range(steps):
        with torch.no_grad():
            t, x_prev, x_t, fake = draw(G, chain, generator)
        loss = discriminator_loss(D(x_prev, x_t, t), D(fake, x_t, t))
        loss = loss + (r1_penalty(D, x_prev, x_t, t, r1, 4) if r1 and step % 4 == 0 else 0)
        of_D.zero_grad(), loss.mean().backward(), of_D.step()
        t, _, x_t, fake = draw(G, chain, generator)
        of_G.zero_grad(), generator_loss(D(fake, x_t, t)).mean().backward(), of_G.step()
        average.update(G), [rate.step() for rate in falling]
    return average.model

# %%
generators = {1: trained(1, r1=0), 4: trained(4, r1=0.05)}
points = {T: walk(G, x_T.float(), chains[T].betas, latent=2) for T, G in generators.items()}

# %% tags=["folded"]
one = torch.tensor([0.9, 0.4]).expand(4000, 2)  # between clusters 0 and 1
zs = torch.randn(4000, 2, generator=torch.Generator().manual_seed(2))
with torch.no_grad():
    guesses = generators[4](one, torch.zeros(4000, dtype=torch.int64), zs)
here = oracle.Mixture(chains[4], weights, means, stds)
wanted = here.posterior_weights(one[:1].double(), torch.tensor([0]))[0]

# %% tags=["folded"]
fig, axes = plt.subplots(1, 3, figsize=(9.4, 3.1), layout="constrained")
for ax, title, x in zip(axes, ("one step: a GAN", "four steps: DDGAN"), points.values()):
    _ = plots.cloud(x, ax=ax), ax.set(title=title, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
nearest = torch.bincount(torch.cdist(guesses.double(), means).argmin(1), minlength=8) / 4000
_ = axes[2].bar(torch.arange(8) - 0.2, wanted, 0.4, color="0.6", label="exact")
_ = axes[2].bar(torch.arange(8) + 0.2, nearest, 0.4, color=plots.BLUE, label="$G$, 4000 latents")
_ = axes[2].set(title="$x_0$ from one $x_1$", xlabel="cluster", ylabel="probability"), axes[2].legend()

# %% [markdown]
# *Figure 5.22.* Left and middle: 2000 points of each generator; on the left clusters are missing. Right: the question of this section. From $x_1 = (0.9, 0.4)$, between clusters 0 and 1, how often does the generator choose each cluster, and how often should it? Nobody told it these probabilities; the discriminator of pairs has taught them, roughly. <!-- alt: Two scatter plots. Left, some of the eight clusters on a ring, the others missing. Middle, all eight and a few points between neighbours. On the right, pairs of grey and blue bars for eight clusters; the blue ones roughly follow the grey ones, high at 0 and 1, low at 2 and 7, and near zero at the others. -->

# %% tags=["folded"]
for x in points.values():
    assert near(x)[0] > 0.8
assert near(points[4])[1].min() > 0.05
print("both: more than 80% of the points lie near a cluster; four steps: more than 5% near each")

# %% [markdown]
# Compare the middle with figure 5.20: four steps again, without any exact formula. On the left the GAN has *dropped modes*: nearly all its points lie near a cluster, but whole clusters are missing. In the record (`data/records/ddgan_points.json`) this happened with each of its five seeds: three to five of the eight clusters had less than 1 % of its points each. With four steps, each cluster had more than 8 % with every one of ten seeds (12.5 % would be even), and 87 to 91 % of all points lay near a cluster, 95 to 97 % of the GAN's.
#
# Be fair to the GAN: it had no R1. With R1 and pairs, one step kept all clusters with four seeds of five, as did four steps with the betas of (5.11) (`docs/ddgan_trials.md`). So this is no proof that more steps help; R1 and the schedule may suffice.

# %% [markdown] tags=["sitting"]
# ## 5.25 Digits in four evaluations
#
# *Sitting 4 of 4, 9 minutes.*

# %% tags=["start"]
import json
import time
from functools import partial

import matplotlib.pyplot as plt
import torch
from ipywidgets import interact

from ddpm_lesson import Sampling, checks, data, load_pretrained, plots, plots_variants

torch.set_num_threads(1)
ddgan_step = checks.carried("ddgan_step")
digits, gan = (load_pretrained(name, device=device) for name in ("digits_ddpm", "digits_ddgan"))

# %% [markdown]
# The network `digits_ddgan` was trained as you trained the points; its recipe lies beside its weights. Generator and discriminator are multilayer perceptrons on the 64 pixels: on such small images they learn faster than convolutions (`docs/ddgan_trials.md`). Its betas are the cosine schedule's, so that each of the four steps has something to do. Your step draws:

# %%
def ask(x_t, t, z):
    return gan.model(x_t, t, z=z)


def four_states(n, seed=0):
    """Noise, and the state after each of the four steps, as rows of images."""
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(n, *gan.shape, generator=generator).to(device)
    rows = {"noise": x_t}
    for t in reversed(range(gan.process.T)):
        z = torch.randn(n, gan.recipe.latent, generator=generator).to(device)
        noise = torch.randn(x_t.shape, generator=generator).to(device)
        rows[f"$x_{t}$"] = x_t = ddgan_step(ask, x_t, z, t, gan.process.betas, noise)
    return rows

# %%
_ = plots_variants.named_rows(four_states(10))

# %% [markdown]
# *Figure 5.23.* From noise to digits in four evaluations of the network. After one step hardly anything can be seen; after two, coarse shapes show through the noise; after three, strokes. Some results are no clear digit: the next cell counts. <!-- alt: Five rows of ten small images. The first two rows look like noise; in the third coarse shapes appear, in the fourth digits behind noise, and in the last row most can be named. -->

# %% tags=["folded"]
from ddpm_lesson.experiments.features import classified

reader = load_pretrained("digits_classifier").model
sure, which = classified(reader, gan.sample(500))[1].softmax(1).max(1)
assert (sure > 0.9).double().mean() > 0.8 and len(which.unique()) == 10
print("500 digits: the classifier is more than 90% sure of over 80% of them, and finds all ten classes")

# %% [markdown]
# ## 5.26 The trilemma, measured
#
# *Question.* Ten steps, four, or one: what is the price? A generator should draw images of high **quality**, should **cover** the data, and should be **fast**. Xiao and others call it the generative learning *trilemma* (生成学习的三难困境): each family of models had two of the three. (The post's 三元悖论 reads as *paradox*; it is a choice.) On digits:
#
# - quality: *precision* (section 5.7) and the *Fréchet distance* (section 4.9);
# - coverage: *recall*, and the share of the rarest class (10 % is even);
# - speed: milliseconds for an image, on one thread, in batches of 100.
#
# Each generator draws 500 images with each of five seeds: chains of `digits_ddpm` (2M-10: ten steps); two *distilled* students, which learned to make two steps of a teacher in one (section 5.28); `digits_ddgan`; `digits_gan`, one step, with the same networks and training; a small variational autoencoder (VAE), whose decoder turns noise into an image at once. The first two kinds draw every class equally often, the others by chance. *2M-10 by chance* is DPM-Solver++2M-10 with classes by chance. The chains' network has the most parameters, the GANs' less than half, the others about a quarter or fewer.
#
# > **Predict.** A VAE draws blurred images in one step. Is its recall low or high?
# > <details><summary>Then look</summary>High, 0.96; its precision is low, 0.43. Recall asks whether a real digit lies in a ball around a drawn one, and the balls reach to the third neighbour: scattered images have large balls. So never read recall alone.</details>

# %%
record = json.loads(data.bundled("records/trilemma.json").read_text("utf-8"))
_ = plots_variants.trilemma(record)

# %% [markdown]
# *Figure 5.24.* Fréchet distance over the time for an image; larger discs mean larger recall (the number). Low, left and large are good. Bars: 95 % intervals over five seeds. Dashed: real digits that no generator has seen. Chains and students lie below: except in *2M-10 by chance* their classes are even by construction, and the held-out digits are fewer, from other paper forms. Both axes are logarithmic. <!-- alt: Discs with names in a plane of milliseconds and Fréchet distance. Below the dashed line the chains, on the right, and the students, in the middle. Just above it DDGAN-4, further to the left; the one-step GAN and the VAE at the top left. -->

# %% tags=["folded"]
keys = "frechet", "precision", "recall", "rarest", "ms"
print(f"{'mean ± half-width':18}" + "".join(f"{key:>16}" for key in keys))
for row in [*record["rows"], record["real"]]:
    found = [row["scores"].get(key) for key in keys]
    half = [score[0] - score[1] for score in found if score]
    cells = [f"{score[0]:.3g} ± {h:{'.0f' if h >= 1 else '.1g'}}" for score, h in zip(found, half)]
    print(f"{row['chain']:18}" + "".join(f"{cell:>16}" for cell in cells))

# %% [markdown]
# Four steps against one, by the same networks, losses and training: the distance is five times smaller, and the rarest class has 7 % of the images, not 2 %. With one step, more images lie among real digits (84 % against 62 %), as on the eight clusters. DDGAN-4 needs 0.06 ms for an image; perceptrons cost less than convolutions. Both students have a smaller distance, at six and twelve times its time; but their classes are even, which alone brings 2M-10 from 0.24 to 0.05. (One network each.)
#
# These milliseconds are the record's. The next cell measures yours (scaling up for the long chains).

# %% tags=["folded"]
# NBVAL_IGNORE_OUTPUT
def milliseconds(draw):
    draw(), (begun := time.perf_counter()), draw()
    return 10 * (time.perf_counter() - begun)  # for an image, 100 at a time

in_few = {row["chain"]: row["weights"] for row in record["rows"] if row["weights"] != "digits_ddpm"}
ms_here = {name: milliseconds(partial(load_pretrained(of, device=device).sample, 100))
           for name, of in in_few.items()}
for name, sampler in (("DDIM-10", "ddim"), ("DPM-Solver++2M-10", "dpmpp_2m")):
    chain = Sampling(sampler, steps="trailing10")
    ms_here[name] = milliseconds(partial(digits.sample, 100, chain, y=digits.labels(100)))
ms_here |= {"DDIM-50": 5 * ms_here["DDIM-10"], "DDPM-1000": 100 * ms_here["DDIM-10"]}

# %% [markdown]
# Choose the vertical axis, the size of the discs, and the clock.

# %% tags=["folded"]
# NBVAL_IGNORE_OUTPUT
def show(quality, coverage, clock):
    clocks = {"the record's": None, "yours": ms_here}
    _ = plots_variants.trilemma(record, quality=quality, coverage=coverage, ms=clocks[clock])
    plt.show()

offers = {"quality": ["precision", "confident", "frechet"], "coverage": ["recall", "rarest"]}
_ = interact(show, **offers, clock=["yours", "the record's"])

# %% [markdown]
# **Exercise 5.16 (design, 4 minutes).** From figure and table alone: (a) Which are *dominated*: another one is at least as good in distance, recall and time? (b) Is there a trilemma on these digits? (c) You may spend 1 ms for an image, in batches of 100: what do you take to show digits, and what to train a classifier? (d) Which difference between two rows would you *not* report, given the intervals?
# <details><summary>What we would say</summary>(a) By the means the one-step GAN, by the VAE (with half its precision), and <em>2M-10 by chance</em>, by 2M-10. Within the intervals also DDPM-1000 and DDIM-50, by 2M-10, which ties with DDIM-10; and distilled-4, by distilled-2. (b) In quality and speed: VAE and one-step GAN, DDGAN-4, the students and the chains follow one another in time, each slower and nearer than the one before. But a thousand steps buy little: DDPM-1000 has 0.043, and 2M-10 0.050 in a hundredth of the time. The two-step student reaches 0.08 in a tenth of the time of ten steps. Recall does not follow. (c) A student, in both: the highest precision below 1 ms, and it knows labels, without which training data are worth little. (d) For example the distances of the two students, and of DDIM-50, DDIM-10 and 2M-10. (Overlap alone proves no equality.) Nor that the chains are nearer than real digits: only 382 are held out, the five subsets of 300 overlap, and their classes vary.</details>

# %% [markdown]
# In three sentences:
#
# 1. A large step is an average of Gaussian posteriors; a generator with a latent draws the $x_0$ of each.
# 2. No formula says how $x_0$ is distributed; a discriminator of *pairs* teaches it, with the non-saturating loss and R1.
# 3. Quality, coverage and speed are three measurements: choose by their numbers and intervals, not by a family's name.

# %% [markdown] tags=["sitting", "capstone"]
# ## 5.27 Capstone of the course: meet the requirements
#
# *Capstone, 17 minutes.*

# %% tags=["start"]
import torch

from ddpm_lesson import checks, load_pretrained, plots_variants, samplers, spacing
from ddpm_lesson.predictions import fixedsmall

torch.set_num_threads(1)
digits = load_pretrained("digits_ddpm", device=device)

# %% [markdown]
# Somebody hands you a sheet. Nobody says which sampler, which steps, which guidance.
#
# | requirement | asked for |
# |---|---|
# | evaluations of the network for each image | at most 6 |
# | precision, 500 images | at least 0.75 |
# | recall, 500 images | at least 0.75 |
# | share of each class | 5 % to 16 % |
# | one seed, one result | the same images from the same seed, and others from another |
#
# One evaluation: one image passes through the network once. With guidance each step needs two. Precision and recall: section 5.7. Classes: by the course's classifier.
#
# **Exercise 5.17 (capstone, 15 minutes).** Build `generate(digits, n, seed)`. `digits` is what `load_pretrained("digits_ddpm")` gives; return `n` digits, (n, 1, 8, 8), with values in [−1, 1]. Everything of the course may be used: your own functions by `checks.carried(name)`, or the package. The check draws, counts, measures, and shows each requirement beside what it found.
#
# Parts that you may need: `digits.denoiser(y, guidance=1.0)` (it clips $\hat x_0$, but a sampler's last step can still leave [−1, 1] by a little: clamp what you return; `y` comes first), `digits.labels(n)`, `digits.process.respaced(...)`, `spacing.trailing(1000, S)`, `samplers.ddim(chain, denoise, x_T)` and `samplers.dpmpp_2m(chain, denoise, x_T)`; `samplers.ancestral(chain, samplers.reverse(chain, denoise, fixedsmall), x_T, generator=...)`; `samplers.last(...)`. Draw `x_T` on the CPU, then `.to(digits.device)`.
# <details><summary>Hint 1: which sampler?</summary>Figure 4.23 (collapsed section 4.21 of notebook 4) compares them by Fréchet distance: on these digits, the samplers without noise on trailing steps have the lowest distances up to fifteen evaluations.</details>
# <details><summary>Hint 2: labels?</summary>Figure 5.7 (left) shows it: telling the label raises precision at no cost in evaluations; a guidance scale above 1 costs a second evaluation; and at 1.5 recall falls from about 0.9 to 0.7.</details>
# <details><summary>How to find a mistake</summary>Draw 20 digits with <code>plots_variants.named_rows</code> and look. Twice the same seed must give the same tensor.</details>

# %% tags=["capstone"]
def generate(digits, n, seed):
    ...

# %%
generate = checks.meets(generate)

# %%
_ = plots_variants.named_rows({f"seed {seed}": generate(digits, 12, seed) for seed in (0, 1, 2)})

# %% [markdown]
# *Figure 5.25.* Digits by a generator that meets the sheet: yours, or the course's. <!-- alt: Three rows of twelve small handwritten digits; each class appears. -->
#
# You began with one line, `x_t = a * x_0 + b * noise`. You have a generator that meets requirements written by somebody else.

# %% [markdown] tags=["deeper"]
# ## 5.28 Going deeper: progressive distillation

# %% [markdown]
# *Question.* Eight steps of DDIM draw good digits. Can a second network learn to do in *one* step what the first does in two?
#
# *Derive.* DDIM's step with $\eta = 0$ (4.4) moves from $x_t$ towards an estimate $\hat x_0$. With $r = \sqrt{1-\bar\alpha''}/\sqrt{1-\bar\alpha_t}$, and two primes for the level at which it ends, it reads $x'' = r\,x_t+(\sqrt{\bar\alpha''}-r\sqrt{\bar\alpha_t})\,\hat x_0$. Let the teacher make two steps, from $x_t$ to $x''$; solve for the $\hat x_0$ that leads there at once. It is the student's target:
# $$\hat x_0 = \frac{x''-r\,x_t}{\sqrt{\bar\alpha''}-r\sqrt{\bar\alpha_t}} . \tag{5.15: Salimans and Ho Alg. 2}$$
# (The student predicts $v$, (5.8): in pure noise a predicted $\epsilon$ says nothing about $x_0$.) When it has learned, it is the teacher of the next one, with half the steps again. *Verify* with the exact denoiser of the clusters:

# %%
from ddpm_lesson import GaussianDiffusion, Sampling, data, oracle, plots, schedules
from ddpm_lesson.predictions import Prediction
from ddpm_lesson.variants.distillation import halved, two_ddim_steps

# %%
process = GaussianDiffusion(schedules.cosine(1000))
eight = oracle.Mixture(process, *data.eight_gaussians_mixture())
teacher = process.respaced(spacing.trailing(1000, 8))
x_T = torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
two_later = list(samplers.ddim(teacher, eight, x_T))[2].x_t

# %%
def student(x_t, t, prev=None):
    """A perfect student at the first of its four steps: it answers the target."""
    x_0 = two_ddim_steps(eight, teacher, x_t, 3)
    return Prediction(x_0, process.eps_from_x_0(x_t, t, x_0))


one_step = list(samplers.ddim(halved(teacher), student, x_T))[1].x_t
assert torch.allclose(one_step, two_later, atol=1e-10)
print("one step with the target and two of the teacher: the same points, to 1e-10")

# %%
digits = load_pretrained("digits_ddpm", device=device)
y = digits.labels(10)
ways = {S: Sampling("ddim", steps=f"trailing{S}") for S in (8, 4, 2)}
rows = {f"teacher, {S} steps": digits.sample(10, way, y=y) for S, way in ways.items()}
rows |= {f"student, {S} steps": load_pretrained(f"digits_distilled{S}").sample(10) for S in (4, 2)}
_ = plots_variants.named_rows(rows)

# %% [markdown]
# *Figure 5.26.* The same noise and the same labels. Above, the teacher with fewer and fewer steps; below, its two students. <!-- alt: Five rows of ten small digits. The first three rows, the teacher's, look alike; with two steps the strokes are softer. Below them two rows of students, whose digits are sharp and differ from the teacher's in details. -->

# %% tags=["folded"]
def apart(name):
    """Root mean square distance from the teacher's eight steps, a pixel."""
    return (rows[name] - rows["teacher, 8 steps"]).square().mean().sqrt()


assert apart("teacher, 4 steps") < 0.1 and 0.12 < apart("student, 4 steps")
assert apart("student, 2 steps") < 0.2 < apart("teacher, 2 steps")
print("four steps: the teacher below 0.10 from its eight, the student above 0.12")
print("two steps:  the teacher above 0.20 from its eight, the student below 0.20")

# %% [markdown]
# With four steps the teacher itself comes nearer to its eight-step digits than the student: four steps are already close to eight here, and the student, a smaller network with a short training, adds a larger error of its own. With two steps the student is nearer. So, by this distance, distillation pays where the teacher's own steps have become too large. The students have a quarter of its parameters, too; part of their speed in section 5.26 comes from that.
#
# What is lost? Where the map from noise to images is steep, a network makes it smoother (not measured here). The target is the teacher and not the data, so the teacher's mistakes stay. And each halving is a training of its own.

# %% [markdown] tags=["deeper"]
# ## 5.29 Going deeper: consistency models

# %% [markdown]
# DDIM's chain with $\eta = 0$ follows a path (section 4.7). All its points belong to one beginning. A **consistency model** (Song and others 2023) is a function $f(x_t, t)$ that leads from *any* point of a path straight to its beginning, so it must say the same for neighbours on a path:
# $$f(x_t, t) = f(x_{t-1}, t-1),\qquad f(x_1, 1) = x_1 . \tag{5.16: Song Section 3}$$
# The second equation is the anchor: without it $f = 0$ would be consistent, too. It stands at the least noisy state (`t = 0` in code), as in Song's paper; so a draw keeps that little noise. It holds by construction, $f = c_\text{skip}\,x_t+c_\text{out}\,F(x_t, t)$, whatever the network $F$ says. The first one is the loss: the answer at $t$ should equal that at $t-1$ (without a gradient there). Which $x_{t-1}$ lies on the same path? A teacher gives it, by one step of DDIM: `points_consistency` has learned from the exact denoiser. Without a teacher one takes the same $x_0$ and the same noise at $t-1$; on the average over $x_0$ that is right for small steps.

# %%
from ddpm_lesson.variants.consistency import boundary

# %%
shipped = load_pretrained("points_consistency")
for t in (0, 1, shipped.process.T - 1):
    c_skip, c_out = boundary(shipped.process, torch.tensor([t]))
    print(f"t = {t:3}: c_skip {c_skip.item():6.3f}, c_out {abs(c_out.item()):.3f} in size")

# %%
_ = plots.cloud(shipped.sample(1500))

# %% [markdown]
# *Figure 5.27.* 1500 points by the network `points_consistency`. The network was evaluated once for each point. Some points lie between the clusters; a likely reason: the beginning of a path changes abruptly with $x_t$, and a network is smooth. The clusters are a little wider than those of the data, because of the anchor's noise. <!-- alt: A scatter plot with eight clusters on a ring. -->

# %% [markdown] tags=["deeper"]
# ## 5.30 Going deeper: five neighbours, and the formula that leads to each

# %% [markdown]
# **Score-based models and SDEs** (Song and others 2021, arXiv 2011.13456). Put the score (2.6) for the noise in the mean of a step (4.1), and let $\beta_t$ be small. To first order, with $z$ as in (2.3),
# $$x_{t-1} = x_t+\tfrac12\beta_t\,x_t+\beta_t\,\nabla\log q(x_t)+\sqrt{\beta_t}\,z .$$
# That is one step of a stochastic differential equation that runs backwards; the ODE of section 4.7 is the one without noise and with half the score. Any solver for such equations is a sampler.
#
# **EDM** (Karras and others 2022, arXiv 2206.00364) does not scale the signal: $x = x_0+\sigma n$, with $x = x_t/\sqrt{\bar\alpha_t}$ and $\sigma = \sqrt{(1-\bar\alpha_t)/\bar\alpha_t}$. Its denoiser is ours in these coordinates:
# $$D_\text{EDM}(x;\sigma) = x-\sigma\,\epsilon_\theta\big(x/\sqrt{1+\sigma^2},\ t\big) .$$
# Its $c_\text{skip}x+c_\text{out}F$, for data of variance 1, is $\sqrt{\bar\alpha_t}\,x_t-\sqrt{1-\bar\alpha_t}\,v$: the network learns $-v$ of (5.8).
#
# **Flow matching** (Lipman and others 2022, arXiv 2210.02747; rectified flow, Liu and others 2022, arXiv 2209.03003) takes a straight line from data to noise, $x_\tau = (1-\tau)\,x_0+\tau\,\epsilon$, and learns its velocity
# $$u(x_\tau,\tau) = \mathbb E[\epsilon-x_0\mid x_\tau] = \hat\epsilon-\hat x_0,\qquad \tau = \frac{\sqrt{1-\bar\alpha_t}}{\sqrt{\bar\alpha_t}+\sqrt{1-\bar\alpha_t}} .$$
# $x_\tau$ is $x_t$ divided by the denominator. So a network that predicts $\epsilon$ *gives* the velocity. (The papers run from noise to data: their velocity has the other sign.) What differs is which $\tau$ training draws, and the weight of each.
#
# *Verify both* with an independent formula for the clusters: $\mathbb E[x_0\mid a\,x_0+b\,\epsilon]$, for any $a$ and $b$.

# %%
weights, means, stds = data.eight_gaussians_mixture()


def mean_x_0(x, a, b):
    """E[x_0 | a x_0 + b eps = x] for the eight clusters, straight from Bayes' rule."""
    var = (a * stds) ** 2 + b**2
    rest = x[:, None] - a * means  # (N, 8, 2)
    which = (-rest.square().sum(2) / (2 * var) - var.log()).softmax(1)[:, :, None]
    return (which * (means + (a * stds**2 / var)[:, None] * rest)).sum(1)

# %%
for t in (20, 400, 900):
    signal, noise = process.alphas_bar[t].sqrt(), (1 - process.alphas_bar[t]).sqrt()
    x, sigma, eps = x_T / signal, noise / signal, eight(x_T, t).eps
    assert torch.allclose(x - sigma * eps, mean_x_0(x, 1.0, sigma), atol=1e-10)
print("EDM's denoiser, from our noise: equal to 1e-10 at three levels")

# %%
for t in (20, 400, 900):
    signal, noise = process.alphas_bar[t].sqrt(), (1 - process.alphas_bar[t]).sqrt()
    x, tau, eps = x_T / (signal + noise), noise / (signal + noise), eight(x_T, t).eps
    velocity, x_0 = eps - process.x_0_from_eps(x_T, t, eps), mean_x_0(x, 1 - tau, tau)
    assert torch.allclose(velocity, (x - (1 - tau) * x_0) / tau - x_0, atol=1e-10)
print("the velocity of a flow, from our noise: equal to 1e-10 at three levels")

# %% [markdown]
# **Consistency models** (Song and others 2023, arXiv 2303.01469) learn where the ODE's path begins, (5.16). They are trained from a teacher or without; Song and Dhariwal (2023, arXiv 2310.14189) made the second work.
#
# **Latent diffusion** (Rombach and others 2022, arXiv 2112.10752) first trains an autoencoder, $h = \text{enc}(x)$ and $x\approx\text{dec}(h)$, and then runs this whole course on $h$:
# $$L = \mathbb E\,\big\lVert\epsilon-\epsilon_\theta\big(\sqrt{\bar\alpha_t}\,\text{enc}(x)+\sqrt{1-\bar\alpha_t}\,\epsilon,\ t,\ y\big)\big\rVert^2 .$$
# The diffusion is the same; 64 × 64 × 4 numbers are cheaper than 512 × 512 × 3 pixels, and $y$ is a text.

# %% [markdown] tags=["deeper"]
# ## 5.31 Going deeper: what goes wrong in few steps

# %% [markdown]
# **R1 lazily, without its factor.** A discriminator with a known slope, $D = 0.3\sum_i x_i$ on ten pixels, so that $\lVert\nabla D\rVert^2 = 0.9$; $\gamma = 2$. What does it weigh on average over 16 steps?

# %%
r1_penalty, generator_loss = checks.carried("r1_penalty"), checks.carried("generator_loss")
x, t = torch.zeros(1, 10, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)


def D(x_prev, x_t, t):
    return 0.3 * x_prev.sum(1)

# %%
ways = ("at every step", 16, 1), ("every 16th, times 16", 1, 16), ("every 16th", 1, 1)
for name, taken, interval in ways:
    weighs = taken * r1_penalty(D, x, x, t, 2.0, interval).item() / 16
    print(f"{name:21}: {weighs:.3f} on average")

# %% [markdown]
# The code of Xiao and others leaves the factor out; their $\gamma$ of CIFAR-10, 0.02, taken at every 15th step, is in effect 0.0013. Whoever changes the interval there changes the penalty.
#
# **Noise at the last step.** With 1000 steps a forgotten `if t > 0` is hard to see. With four it is all that one sees. How large is the noise that fixedlarge ($\sqrt{\beta_1}$) would add to the image?

# %%
for T, betas in ((1000, schedules.linear(1000)), (4, schedules.vp(4))):
    print(f"{T:4} steps: standard deviation {betas[0].sqrt():.2f} added to images in [-1, 1]")

# %% [markdown]
# **The saturating loss.** Figure 5.21 in numbers: the gradient in the logit of a fake that $D$ is sure of.

# %%
logit = torch.tensor([-8.0, -4.0, 0.0], dtype=torch.float64, requires_grad=True)
losses = {"non-saturating": generator_loss(logit), "saturating": -torch.nn.functional.softplus(logit)}
for name, loss in losses.items():
    (gradient,) = torch.autograd.grad(loss.sum(), logit)
    print(f"{name:14}: logits -8, -4, 0: gradients", *[f"{g:.4f}" for g in gradient.tolist()])

# %% [markdown]
# **A discriminator that sees unrelated pairs.** `x_prev = q_sample(x_0, t - 1)` and `x_t = q_sample(x_0, t)` with *independent* noise are not neighbours of a chain: given $x_0$, their correlation is 0, and it should be

# %%
betas = schedules.vp(4)
bar = torch.cumprod(1 - betas, 0)
for t in (1, 2, 3):
    right = ((1 - betas[t]) * (1 - bar[t - 1]) / (1 - bar[t])).sqrt()
    print(f"from code index {t}: correlation of x_prev and x_t given x_0: {right:.2f}")

# %% [markdown]
# Given $G$'s $x_0$, the fakes of a good $G$ have this correlation, because the posterior gives it; the discriminator could learn to recognise the mistake instead of the images.

# %% [markdown]
# **A part that is praised without a control.** On MNIST five kinds of generators, none of them told the label, had failed (`docs/ddgan_trials.md`). `mnist_ddgan` draws its digits in four evaluations. Both players are told the label, and the generator first learned alone: it answered with the mean of $x_0$ at its four steps, by least squares. Only then the discriminator came.

# %%
mnist = load_pretrained("mnist_ddgan", device=device)
_ = plots.image_grid(mnist.sample(40, seed=1), ncols=10)

# %% [markdown]
# *Figure 5.28.* MNIST in four evaluations of a network with 85 thousand parameters. <!-- alt: Four rows of the ten digits, in order; all can be read. -->
#
# Who made these digits, the game or the labels? The scores of 500 images each, written down when it was trained:

# %%
from ddpm_lesson.experiments.pretrained import about_shipped

made = about_shipped("mnist_ddgan")["made"]
scores = ("Frechet distance", "Precision", "Recall", "Confidence above 0.9")
for name, of in (("denoiser", "denoiser"), ("then the game", "scores"), ("real, held out", "real")):
    print(f"{name:14}: " + ", ".join(f"{score} {made[of][score]['value']:.2f}" for score in scores))

# %% [markdown]
# Told the label, the mean of $x_0$ is nearly a digit already: the denoiser alone draws images of which the classifier is mostly sure. After the game they are cleaner and more alike: precision is higher, recall lower, the Fréchet distance no better. The same denoiser, trained *alone* from the start for as long as both together, reaches a precision of 0.86, a recall of 0.82 and the same confidence (one seed, compared with fewer real images: only roughly); without labels it fails (`docs/ddgan_trials.md`). Had we compared it only with the failed generators, we would have praised the game for what the labels did. *Before you praise a part of a method, train without it, for as long.*

# %% [markdown] tags=["deeper"]
# ## 5.32 Going deeper: equation by equation

# %% [markdown]
# Every name in the table can be imported, and in a checkout every test can be run. Your own functions, checked above, compute the same.

# %% [markdown] tags=["equations"]
# | | equation | function, and the test that checks it |
# |---|:--|:--|
# | 5.1 | the log variance, between those of fixedsmall and fixedlarge (Improved DDPM Eq. 15) | <samp>predictions.<wbr>learned_<wbr>range</samp><br><samp>test_<wbr>predictions.<wbr>py test_<wbr>learned_<wbr>range_<wbr>runs_<wbr>from_<wbr>the_<wbr>posterior_<wbr>variance_<wbr>to_<wbr>beta</samp> |
# | 5.2 | $L_\text{hybrid}$ (Improved DDPM Eq. 16) | <samp>losses.<wbr>hybrid_<wbr>loss</samp><br><samp>test_<wbr>losses.<wbr>py test_<wbr>hybrid_<wbr>is_<wbr>simple_<wbr>plus_<wbr>lambda_<wbr>times_<wbr>the_<wbr>whole_<wbr>bound</samp> |
# | 5.3 | Bayes' rule for scores | <samp>oracle.<wbr>Mixture.<wbr>classifier</samp><br><samp>test_<wbr>oracle.<wbr>py test_<wbr>gradient_<wbr>of_<wbr>the_<wbr>classifier_<wbr>is_<wbr>a_<wbr>difference_<wbr>of_<wbr>scores</samp> |
# | 5.4 | guidance by a classifier, in the mean of a step (ADM Alg. 1) | <samp>variants.<wbr>classifier_<wbr>guidance.<wbr>mean_<wbr>shifted</samp><br><samp>test_<wbr>classifier_<wbr>guidance.<wbr>py test_<wbr>mean_<wbr>form_<wbr>is_<wbr>off_<wbr>by_<wbr>a_<wbr>known_<wbr>factor</samp> |
# | 5.5 | guidance by a classifier, in the noise (ADM Alg. 2) | <samp>variants.<wbr>classifier_<wbr>guidance.<wbr>classifier_<wbr>guided</samp><br><samp>test_<wbr>classifier_<wbr>guidance.<wbr>py test_<wbr>at_<wbr>scale_<wbr>1_<wbr>it_<wbr>is_<wbr>the_<wbr>denoiser_<wbr>of_<wbr>the_<wbr>class</samp> |
# | 5.6 | classifier-free guidance (CFG Eq. 6) | <samp>variants.<wbr>guidance.<wbr>classifier_<wbr>free</samp><br><samp>test_<wbr>guidance.<wbr>py test_<wbr>score_<wbr>is_<wbr>that_<wbr>of_<wbr>the_<wbr>sharpened_<wbr>classifier</samp> |
# | 5.7 | guidance with its standard deviation brought back (Lin Eq. 15-16) | <samp>variants.<wbr>guidance.<wbr>rescaled</samp><br><samp>test_<wbr>guidance.<wbr>py test_<wbr>rescale_<wbr>is_<wbr>lucidrains_<wbr>and_<wbr>lins</samp> |
# | 5.8 | the velocity $v$ (Salimans and Ho Section 4) | <samp>process.<wbr>GaussianDiffusion.<wbr>velocity</samp><br><samp>test_<wbr>predictions.<wbr>py test_<wbr>targets_<wbr>are_<wbr>those_<wbr>of_<wbr>the_<wbr>papers</samp> |
# | 5.9 | betas that end in pure noise (Lin Alg. 1) | <samp>schedules.<wbr>zero_<wbr>terminal_<wbr>snr</samp><br><samp>test_<wbr>schedules.<wbr>py test_<wbr>zero_<wbr>terminal_<wbr>snr_<wbr>shifts_<wbr>and_<wbr>scales_<wbr>the_<wbr>root</samp> |
# | 5.10 | a large step: a generator draws $x_0$, the posterior draws $x_{t-1}$ (DDGAN Section 3.2) | <samp>samplers.<wbr>ancestral</samp><br><samp>test_<wbr>ddgan.<wbr>py test_<wbr>the_<wbr>ancestral_<wbr>loop_<wbr>is_<wbr>its_<wbr>sampling</samp> |
# | 5.11 | betas of the VP-SDE, read off at few times (DDGAN App. C) | <samp>schedules.<wbr>vp</samp><br><samp>test_<wbr>schedules.<wbr>py test_<wbr>vp_<wbr>as_<wbr>the_<wbr>published_<wbr>code_<wbr>computes_<wbr>it</samp> |
# | 5.12 | the discriminator's loss (DDGAN Section 3.2) | <samp>variants.<wbr>ddgan.<wbr>discriminator_<wbr>loss</samp><br><samp>test_<wbr>ddgan.<wbr>py test_<wbr>losses_<wbr>are_<wbr>cross_<wbr>entropies</samp> |
# | 5.13 | the generator's loss, non-saturating (DDGAN Section 3.2) | <samp>variants.<wbr>ddgan.<wbr>generator_<wbr>loss</samp><br><samp>test_<wbr>ddgan.<wbr>py test_<wbr>a_<wbr>generator_<wbr>that_<wbr>is_<wbr>found_<wbr>out_<wbr>still_<wbr>has_<wbr>a_<wbr>gradient</samp> |
# | 5.14 | R1, the squared slope of the discriminator at real points (Mescheder Eq. 9) | <samp>variants.<wbr>ddgan.<wbr>r1_<wbr>penalty</samp><br><samp>test_<wbr>ddgan.<wbr>py test_<wbr>r1_<wbr>is_<wbr>that_<wbr>of_<wbr>a_<wbr>known_<wbr>gradient</samp> |
# | 5.15 | the target of a distilled student (Salimans and Ho Alg. 2) | <samp>variants.<wbr>distillation.<wbr>two_<wbr>ddim_<wbr>steps</samp><br><samp>test_<wbr>distillation.<wbr>py test_<wbr>one_<wbr>step_<wbr>with_<wbr>the_<wbr>target_<wbr>is_<wbr>two_<wbr>steps_<wbr>of_<wbr>the_<wbr>teacher</samp> |
# | 5.16 | a consistency function and its anchor (Song Section 3) | <samp>variants.<wbr>consistency.<wbr>consistency_<wbr>function</samp><br><samp>test_<wbr>consistency.<wbr>py test_<wbr>at_<wbr>the_<wbr>boundary_<wbr>the_<wbr>network_<wbr>has_<wbr>no_<wbr>say</samp> |
