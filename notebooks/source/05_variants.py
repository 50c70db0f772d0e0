# %% [markdown]
# # 5. Variants: a learned variance, and guidance
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/ddpm_lesson/blob/main/notebooks/05_variants.ipynb)
#
# **You will be able to**
# - let a network choose the variance of its steps, and measure in bits what that gains;
# - derive guidance from Bayes' rule, with a classifier and without one, and convert between its two conventions;
# - say which distribution a guided chain draws from, and which it does not;
# - write a guided sampler, and choose its scale from a measured curve of fidelity against diversity.
#
# **You need** notebooks 1, 2 and 4 (the posterior, the bound, DDIM). All cells together run in about a minute on two CPU cores.
#
# *The course:* 1 forward process → 2 loss → 3 U-Net → 4 sampling → **5 variants**

# %% [markdown] tags=["sittings"]
# **The core path takes 49 minutes, in 2 sittings.** Each can be started alone: run the set-up cell, then go to its heading. `checks.carried(name)` is your function of an earlier exercise, if its check said yes in this kernel; else the course's own. If English is not your first language, plan about a third more time. The capstone comes on top.
#
# | sitting | sections | minutes |
# |---|---|---|
# | 1 | 5.1 What you will have at the end … 5.3 Who trains what: the hybrid loss | 23 |
# | 2 | 5.4 Guidance by a classifier: Bayes' rule for scores … 5.8 What you now have | 26 |
# | capstone | 5.9 Capstone: a guided sampler, and its scale | 31 |
#
# Sections called *Going deeper* are collapsed (3 minutes in all); the path does not need them, and they need the cells above them. If JupyterLab shows them open, click once into the page: that collapses them. (The rule: 200 words a minute, a minute for each displayed formula, 20 lines of code a minute, and the minutes stated at each exercise.)

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
import torch

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
on_gpu, on_mac = torch.cuda.is_available(), torch.backends.mps.is_available()
device = torch.device("cuda" if on_gpu else "mps" if on_mac else "cpu")
plt.rcParams.update({"figure.dpi": 120, "figure.facecolor": "white"})  # opaque on a dark page

# %% [markdown] tags=["sitting"]
# ## 5.1 What you will have at the end
#
# *Sitting 1 of 2, 23 minutes.*

# %% tags=["start"]
import math

import torch

from ddpm_lesson import Sampling, bound, checks, data, load_pretrained, plots, plots_variants, spacing
from ddpm_lesson.predictions import fixedlarge, fixedsmall

torch.set_num_threads(1)  # images as small as here gain nothing from more threads
mnist, digits = (load_pretrained(name, device=device) for name in ("mnist_ddpm", "digits_ddpm"))

# %%
y, rows = torch.tensor([0, 3, 4, 7, 9], device=device), {}
for s in (0, 1, 2, 4, 8):
    rows[f"s = {s}"] = mnist.sample(5, Sampling(steps="trailing12", seed=4, guidance=s), y=y)
_ = plots_variants.named_rows(rows)

# %% [markdown]
# *Figure 5.1.* Drawn while the cell ran: five classes (columns), each from the same noise in all rows. At *guidance scale* $s = 0$ the network is not told the class; at 1 it is told. Above 1 the class is exaggerated: the handwriting loses its peculiarities, and the strokes become thick and flat white. <!-- alt: Five rows of five handwritten digits. In the row s = 0 only the first digit is of the class of its column. From s = 1 on, each column shows a 0, 3, 4, 7 and 9; at s = 8 the strokes are thick. -->
#
# One network drew all five rows. This notebook changes *one callable at a time* and leaves the rest as it is: first the variance of a step, then the denoiser.
#
# **Symbols.** Those of notebooks 1, 2 and 4, and these. Formulas count $t$ from 1, code from 0.
#
# | symbol | in code | what it is | 中文 |
# |---|---|---|---|
# | $v$ | `v` | the network's second output: where the log variance lies between its bounds, −1 to 1 | 方差插值系数 |
# | $y$ | `y` | the class of an image | 类别 |
# | $p(y\mid x_t)$ | `classifier` | a classifier of *noisy* images | 带噪图像分类器 |
# | $\epsilon_\theta(x_t, y)$, $\epsilon_\theta(x_t)$ | `eps_cond`, `eps_uncond` | the noise predicted with the label, and without it | 有条件与无条件的噪声预测 |
# | $s$, $w$ | `scale` | guidance scale in two conventions, $s = 1+w$ | 引导强度 |
#
# Which distribution do the rows of the figure aim at? At $p(x)\,p(y\mid x)^s$, normalised: images $x$, weighted by how much they look like class $y$. Compute one case now; section 5.6 needs it.
#
# **Exercise 5.1 (on paper, 4 minutes).** $x$ is $\mathcal N(0, 1)$. We observe $y = x+$ noise of variance 1, and find $y = 2$. (a) As a function of $x$, $p(y\mid x)^s$ is a Gaussian times a constant. Its mean and variance? (b) Multiply by $p(x)$: mean and variance? (c) What remains at $s = 0$, 1, 3 and ∞?
# <details><summary>Hint</summary>When Gaussians are multiplied, their precisions (1 / variance) add, and the mean is the mean of the means, weighted by the precisions (section 1.7).</details>
# <details><summary>Solution</summary>(a) The exponent is $-s(2-x)^2/2$: mean 2, variance $1/s$. (b) The precisions 1 and $s$ add: variance $1/(1+s)$, mean $2s/(1+s)$. (c) $\mathcal N(0, 1)$, the prior; $\mathcal N(1, \tfrac12)$, which is $p(x\mid y)$; $\mathcal N(\tfrac32, \tfrac14)$; the point 2. A larger scale gives samples that are more typical of $y$ and vary less.</details>

# %% [markdown]
# ## 5.2 A variance between two logarithms
#
# *Question.* Section 4.3 ended with a gap. fixedlarge ($\beta_t$) is right for $\mathcal N(0, I)$ data, fixedsmall ($\tilde\beta_t$) for a single point. Images are neither. When does that matter, and how can a network choose?

# %% tags=["folded"]
fig, axes = plt.subplots(1, 2, figsize=(8.5, 2.7), layout="constrained")
for ax, S in zip(axes, (1000, 10)):
    chain, i = digits.process.respaced(spacing.trailing(1000, S)).to("cpu"), range(1, S)
    _ = ax.semilogy(i, chain.betas[1:], color=plots.BLUE, label=r"$\beta$: fixedlarge")
    _ = ax.semilogy(i, chain.posterior_var[1:], "--", color=plots.VERMILION, label=r"$\tilde\beta$: fixedsmall")
    _ = ax.set(xlabel="loop index $i$", title=f"{S} steps")
_ = axes[0].set(ylabel="variance of a step"), axes[0].legend()

# %% [markdown]
# *Figure 5.2.* The two variances of each step. In 1000 steps they agree, except in the first few, where the noise is too small to be seen. In 10 steps they differ by up to a factor of four, at the small $i$ where details are decided. So the *shorter* the chain, the more the choice matters. <!-- alt: Two panels with logarithmic axes. Left, 1000 steps: the blue and the dashed orange-red curve lie on each other except at the far left. Right, 10 steps: the dashed curve lies clearly below the blue one at small i. -->
#
# *Derive.* The right value lies between the two (section 2.14 proves it for data of variance 1 or less). So let the network say *where* between them. It gets a second output $v\in[-1, 1]$ for each pixel, and
# $$\log\sigma_t^2 = f\,\log\beta_t+(1-f)\,\log\tilde\beta_t,\qquad f = \frac{v+1}2 . \tag{5.1: Improved DDPM Eq. 15}$$
# Why *logarithms*? Variances range over many powers of ten; so an error of the network is a *relative* error, and no variance becomes negative. Why not the variance itself as output? Because $f$ means the same on every chain: a chain of 10 steps puts in its own $\beta$ and $\tilde\beta$, and the network need not know.
#
# **Exercise 5.2 (one star, 4 minutes).** Equation (5.1), for `v` (B, \*D) and `t` (B,), from the tables `betas` and `alphas_bar` (T,). At `t = 0` $\tilde\beta$ is 0 and has no logarithm: take the one of `t = 1` there. Return the log variance (B, \*D).
# <details><summary>Hint 1</summary>posterior_var = betas * (1 - alphas_bar before) / (1 - alphas_bar). Before the first entry, alphas_bar is 1.</details>
# <details><summary>Hint 2</summary>log.clone(), then entry 0 is entry 1. Your extract of notebook 1 (or indexing with t, and as many new axes as v needs) looks both tables up.</details>

# %%
def learned_log_var(v, t, betas, alphas_bar):
    ...

# %%
learned_log_var = checks.learned_log_var(learned_log_var)

# %% [markdown]
# *Measure.* `digits_ddpm` was trained with $v$. The bound of notebook 2, in bits/dim, judges the variance: 32 held-out digits, chains of 10, 25 and 50 steps, the same network, three variances. One of them is your function:

# %%
held_out, labels = (part.to(device) for part in data.digits("test")[::12])


def yours(process, i, prediction, x_t):
    v, tables = 2 * prediction.var_frac - 1, (process.betas, process.alphas_bar)
    return learned_log_var(v, i, *[table.float() for table in tables])

# %%
def bits(variance, S):
    """Bits/dim of the held-out digits on a chain of S steps."""
    chain, generator = digits.process.respaced(spacing.trailing(1000, S)), torch.Generator().manual_seed(0)
    return bound.bits_per_dim(
        digits.model, chain, digits.mean_type, variance, held_out,
        decoder=bound.discretized(17), generator=generator, y=labels)

# %%
choices = {"fixedlarge": fixedlarge, "fixedsmall": fixedsmall, "learned": yours}
found = {name: [bits(variance, S) for S in (10, 25, 50)] for name, variance in choices.items()}
lines = {name: ((10, 25, 50), [b.total for b in f], [b.standard_error for b in f]) for name, f in found.items()}
ax = plots_variants.over_steps(lines)
_ = ax.set(ylabel="bits/dim"), ax.legend()

# %% [markdown]
# *Figure 5.3.* The bound of 32 held-out digits (bars: one standard error over the images; all three see the same noise). The learned variance is best on every chain. Of the fixed ones fixedsmall is better on the short chain and fixedlarge on the long one; the network need not decide. <!-- alt: Three lines over 10, 25 and 50 steps; the learned one lies lowest everywhere and falls. The two fixed ones cross between 25 and 50 steps. -->

# %% tags=["folded"]
for S, *each in zip((10, 25, 50), *found.values()):
    large, small, learned = (b.totals for b in each)
    assert (torch.minimum(large, small) - learned).mean() > 0.03
    assert min((large - learned).mean(), (small - learned).mean()) > 0.08
print("10, 25 and 50 steps: learned is at least 0.08 bits/dim below either fixed variance")

# %% [markdown]
# ## 5.3 Who trains what: the hybrid loss
#
# *Question.* $L_\text{simple}$ (2.1) does not contain the variance. Which loss can train $v$?
#
# The bound can: its KL divergences compare variances, too (2.11). But for the *mean* its weights are bad: they multiply a few rare $t$ by up to 50 (section 2.8). So each loss trains what it is good for:
# $$L_\text{hybrid} = L_\text{simple}+\lambda\,L_\text{vlb},\qquad \lambda = 0.001 . \tag{5.2: Improved DDPM Eq. 16}$$
# Two details make it work.
#
# - **The mean is held fixed inside of $L_\text{vlb}$** (its gradient is stopped, `.detach()`). $L_\text{simple}$ alone trains the mean, and $L_\text{vlb}$ alone trains $v$. So $\lambda$ only sets how fast $v$ learns.
# - **The factor T.** $L_\text{vlb}$ is a *sum* over $T$ terms, in bits/dim (as in the authors' code). A training step draws one $t$, so it must multiply its KL by $T$. Without that $\lambda$ is in effect a thousand times smaller.
#
# **Exercise 5.3 (two stars, 5 minutes).** The hybrid loss of each image, (B,), for $t\ge2$: the mean over D of $(\epsilon-\epsilon_\theta)^2$, plus $\lambda\,T\operatorname{KL}$. The KL is that of two Gaussians (2.11), from the true posterior (`true_mean`, `true_log_var`) to the model (`mean`, `log_var`): its mean over D, in bits (nats / log 2). All tensors are (B, \*D); log variances may be (B, 1, ...). The gradient must flow through `eps` and `log_var`, not through `mean`.
# <details><summary>Hint 1</summary>Per coordinate: (log_var - true_log_var + exp(true_log_var - log_var) + (true_mean - mean)^2 exp(-log_var) - 1) / 2.</details>
# <details><summary>Hint 2</summary>mean.detach() in place of mean. flatten(1).mean(1) takes the mean of each image; broadcast the log variances first.</details>

# %%
def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    ...

# %%
hybrid_loss = checks.hybrid_loss(hybrid_loss)

# %% [markdown]
# *See what it teaches.* One pixel, at step 2 of the ten. The network's mean is off by $d$. By (2.17) the best variance is $\tilde\beta_t+d^2$: it covers what the network does not know. Does gradient descent on $v$ find it?
#
# > **Predict.** The mean is exact, $d = 0$. Where does $v$ go: to −1, 0 or 1?
# > <details><summary>Then look</summary>To −1: an exact mean leaves only the posterior's own variance, fixedsmall.</details>

# %%
chain, lam = digits.process.respaced(spacing.trailing(1000, 10)), 0.001
small, large = chain.posterior_var[1].cpu(), chain.betas[1].cpu()
d = (torch.tensor([0, 0.1, 0.3, 0.7]).double() * (large - small)).sqrt().view(-1, 1)
v = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)

# %%
def of_v(v):
    """Your loss for the four values of d, as v varies."""
    log_var = learned_log_var(v, torch.ones(4, dtype=torch.int64), chain.betas.cpu(), chain.alphas_bar.cpu())
    zero = torch.zeros_like(v)
    return hybrid_loss(zero, zero, zero, small.log() + zero, d, log_var, 1000, lam)


adam = torch.optim.Adam([v], lr=0.02)
for _ in range(400):
    adam.zero_grad(), of_v(v).sum().backward(), adam.step()

# %% tags=["folded"]
ax = plt.subplots(figsize=(6, 2.8), layout="constrained")[1]
places = torch.linspace(-1.2, 1, 120, dtype=torch.float64)
curves = torch.stack([of_v(place.repeat(4, 1)) for place in places]).T
for k, share in enumerate(("0", "0.1", "0.3", "0.7")):
    _ = ax.plot(places, curves[k], color=plots.COLOURS[k], label=rf"$d^2 = {share}\,(\beta-\tilde\beta)$")
_ = ax.scatter(v.detach(), of_v(v).detach(), color=plots.COLOURS[:4], zorder=3)
_ = ax.set(xlabel="$v$", ylabel=r"$\lambda\,T\cdot$KL, bits", ylim=(0, 1.6)), ax.legend(fontsize="small")

# %% [markdown]
# *Figure 5.4.* The loss over $v$, and (dots) where 400 steps of gradient descent ended: in the minimum. Where the network knows less, $v$ is larger. <!-- alt: Four curves over v, each with a minimum that a dot marks; the minimum moves to the right as d grows, from v = -1 towards 1. -->

# %% tags=["folded"]
best = (small + d**2).log().sub(small.log()) / (large.log() - small.log()) * 2 - 1
assert torch.allclose(v.detach(), best, atol=2e-3)
print("where v ended:  ", [f"{x:.2f}" for x in v.detach().flatten().tolist()])
print("best, by (2.17):", [f"{x:.2f}" for x in best.flatten().tolist()])

# %% [markdown]
# Improved DDPM also trained with $L_\text{vlb}$ alone, and then had to draw $t$ by importance (2.20), because single terms of the bound differ by orders of magnitude; section 2.17 measures it. $L_\text{hybrid}$ needs only uniform $t$.

# %% [markdown] tags=["sitting"]
# ## 5.4 Guidance by a classifier: Bayes' rule for scores
#
# *Sitting 2 of 2, 26 minutes.*

# %% tags=["start"]
import math

import torch

from ddpm_lesson import GaussianDiffusion, Sampling, checks, data, load_pretrained, oracle
from ddpm_lesson import plots, plots_variants, samplers, schedules, spacing
from ddpm_lesson.denoisers import clipped
from ddpm_lesson.predictions import Prediction, fixedlarge, fixedsmall, velocity
from ddpm_lesson.variants import guidance

torch.set_num_threads(1)
mnist, digits = (load_pretrained(name, device=device) for name in ("mnist_ddpm", "digits_ddpm"))

# %% [markdown]
# *Question.* A network draws images of all classes, $p(x)$. Somebody has a classifier of noisy images, $p(y\mid x_t)$. Can the two together draw class $y$, without any training?
#
# *Derive.* Bayes' rule for $x_t$: $p(x_t\mid y) = p(x_t)\,p(y\mid x_t)/p(y)$. Take the logarithm, and the gradient in $x_t$. The constant $p(y)$ disappears:
# $$\nabla\log p(x_t\mid y) = \nabla\log p(x_t)+\nabla\log p(y\mid x_t) . \tag{5.3}$$
# The score of the class is the score without it plus the gradient $g = \nabla\log p(y\mid x_t)$ of a classifier. There are two places to put $g$.
#
# **In the mean of a step** (ADM, Algorithm 1). The step for class $y$ is $p(x_{t-1}\mid x_t)\,p(y\mid x_{t-1})$, normalised. If the step is small, $\log p(y\mid x_{t-1})$ is nearly a straight line with slope $g$. A Gaussian times the exponential of a straight line is the same Gaussian, moved: complete the square in $-\frac{(x-\mu)^2}{2\sigma^2}+g\,x$. With the scale $s$,
# $$\mu\ \to\ \mu+s\,\sigma_t^2\,g . \tag{5.4: ADM Alg. 1}$$
# **In the noise** (ADM, Algorithm 2). The score is $-\epsilon/\sqrt{1-\bar\alpha_t}$ (2.9), so (5.3) reads
# $$\hat\epsilon = \epsilon_\theta(x_t)-s\,\sqrt{1-\bar\alpha_t}\;g . \tag{5.5: ADM Alg. 2}$$
#
# **Exercise 5.4 (two stars, 5 minutes).** Equation (5.4). `classifier(x_t, t)` returns $\log p(y\mid x_t)$ of all classes, (B, Y); `y` (B,) chooses one for each image; `var` is (B, 1, ...). Each image needs the gradient of *its own* log probability, whatever else is in the batch.
# <details><summary>Hint 1</summary>with torch.enable_grad(): x = x_t.detach().requires_grad_(True), then the log probabilities of y by gather(1, y[:, None]).</details>
# <details><summary>Hint 2</summary>torch.autograd.grad(chosen.sum(), x)[0]. Images do not influence each other, so the gradient of the sum holds each image's own.</details>

# %%
def guided_mean(mean, var, x_t, t, y, classifier, scale):
    ...

# %%
guided_mean = checks.guided_mean(guided_mean)

# %% [markdown]
# **Exercise 5.5 (one star, 3 minutes).** Equation (5.5), the same arguments; `eps` is (B, \*D), `alphas_bar` (T,).
# <details><summary>Hint</summary>As in 5.4; the factor is that of t for each image, with as many new axes as x_t needs.</details>

# %%
def guided_eps(eps, x_t, t, y, classifier, scale, alphas_bar):
    ...

# %%
guided_eps = checks.guided_eps(guided_eps)

# %% [markdown]
# *Verify, exactly.* The eight clusters of notebook 2, in four classes of two neighbours. Here the denoiser, the classifier *and* the denoiser of one class are known in closed form. At $s = 1$ (5.5) is Bayes' rule itself, so the guided noise must be that of the class:

# %%
process, of_cluster = GaussianDiffusion(schedules.linear(1000)), torch.arange(8) // 2
eight = oracle.Mixture(process, *data.eight_gaussians_mixture(), labels=of_cluster)
x_T = torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
y = torch.zeros(1000, dtype=torch.int64)  # class 0: the clusters on the right

# %%
worst = 0.0
for i in (0, 10, 200, 500, 999):
    t = torch.full((1000,), i)
    mine = guided_eps(eight(x_T, t).eps, x_T, t, y, eight.classifier, 1.0, process.alphas_bar)
    worst = max(worst, (mine - eight.conditional(0)(x_T, t).eps).abs().max().item())
assert worst < 1e-10
print("guided noise and noise of the class, s = 1: equal to 1e-10, at five noise levels")

# %% [markdown]
# So (5.5) moves the mean by exactly the right amount. Which amount is that? Put $-\sqrt{1-\bar\alpha_t}\,g$ for the noise in (4.1): the root cancels, and $\beta_t/\sqrt{\alpha_t}\cdot g$ remains. (5.4) moves it by $\sigma_t^2\,g$ instead: with fixedlarge too little by the factor $\sqrt{\alpha_t}$, with fixedsmall by $\sqrt{\alpha_t}\,\tilde\beta_t/\beta_t$. With a thousand steps both are nearly 1. With few they are not. (The folded cells put your functions into chains.)

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
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 2.9), layout="constrained")
for S, style in ((100, "-"), (10, "o--")):
    c = process.respaced(spacing.trailing(1000, S))
    for var, name, color in ((c.posterior_var, "small", plots.BLUE), (c.betas, "large", plots.VERMILION)):
        ratio, label = (var * c.alphas.sqrt() / c.betas)[1:], f"fixed{name}, {S} steps"
        _ = left.plot(torch.arange(1, S) / S, ratio, style, color=color, ms=4, label=label)
for (name, share), marker, color in zip(shares.items(), "os^", plots.COLOURS):
    _ = right.plot(counts, share, marker + "-", color=color, label=name)
_ = left.set(xlabel="$i$ / steps", ylabel="shift / right shift", ylim=(0, 1.05)), left.legend(fontsize="small")
_ = right.set(xscale="log", xlabel="steps", ylabel="share in a wrong cluster"), right.legend(fontsize="small")
_ = right.set_xticks(counts, counts), right.set_xticks([], minor=True)

# %% [markdown]
# *Figure 5.5.* Left: how much of the right shift the mean form makes. Right: the price, with exact denoiser and exact classifier. The noise form puts nearly every sample into the right clusters from five steps on. The mean form needs 20 steps with fixedlarge, and about a hundred with fixedsmall, whose shift is too small just where clusters separate. <!-- alt: Left, four curves between 0 and 1: the two of 10 steps lie between 0.2 and 0.9, those of 100 steps near 1, except at the far left for fixedsmall. Right, the share in a wrong cluster reaches 4 percent for the mean form with fixedsmall, 1 percent with fixedlarge, and is 0 throughout for the noise form. -->

# %% tags=["folded"]
assert max(shares["noise, fixedsmall"]) < 0.005 < 0.015 < max(shares["mean, fixedsmall"][1:4])
print("share in a wrong cluster, 5 to 100 steps: noise form below 0.5%, mean form up to more than 1.5%")

# %% [markdown]
# **What goes wrong: a mean over the batch.** Training averages losses, so `.mean()` comes to hand. Here it divides each image's gradient by the number of images. One point, alone and in a batch of 64:

# %%
x, t = x_T[:64].clone().requires_grad_(True), torch.full((64,), 200)
for reduce in (torch.sum, torch.mean):
    for n in (1, 64):
        g = torch.autograd.grad(reduce(eight.classifier(x[:n], t[:n])[:, 0]), x)[0][0]
        print(f"{reduce.__name__:4}, {n:2} in the batch: length of the first point's gradient {g.norm():.4f}")

# %% [markdown]
# ## 5.5 Guidance without a classifier
#
# *Question.* The classifier is a second network, trained on noisy images. Can the denoiser take its place?
#
# *Derive.* Use Bayes' rule (5.3) the other way round. If one network knows both scores, their difference *is* the gradient of a classifier. Put it into (5.5); the roots cancel:
# $$\begin{aligned} \nabla\log p(y\mid x_t) &= \nabla\log p(x_t\mid y)-\nabla\log p(x_t), \\ \hat\epsilon &= \epsilon_\theta(x_t)+s\,\big(\epsilon_\theta(x_t, y)-\epsilon_\theta(x_t)\big) . \end{aligned} \tag{5.6: CFG Eq. 6}$$
# This is **classifier-free guidance**. One network learns both: in training, 10 % of the labels are replaced by "no label". It costs two evaluations for each step.
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
# *Question.* At $s = 1$ guidance is exact. For $s = 3$, does it draw from $p(x)\,p(y\mid x)^3$? Test it with the two Gaussians of exercise 5.1: exact denoisers, very small steps, no noise added.
#
# > **Predict.** Your result for $s = 3$ was mean 3/2, variance 1/4. Are the samples the same, or wider, or narrower?
# > <details><summary>Then look</summary>Narrower, and further out: mean 2, variance 1/8.</details>

# %%
chain = GaussianDiffusion.from_alphas_bar(torch.linspace(14, -14, 300, dtype=torch.float64).sigmoid())
start = torch.linspace(-4, 4, 401, dtype=torch.float64)[:, None]


def mixture(weights, means, stds, labels):
    parts = [torch.tensor(part, dtype=torch.float64) for part in (weights, means, stds)]
    return oracle.Mixture(chain, *parts, labels=torch.tensor(labels))


def walked(cond, uncond, s):
    """Where the deterministic guided chain takes the starts: your cfg_eps, exact denoisers, Heun's method."""
    def denoise(x_t, t, prev=None):
        eps = cfg_eps(cond(x_t, t).eps, uncond(x_t, t).eps, s, "s")
        return Prediction(chain.x_0_from_eps(x_t, t, eps), eps)
    return samplers.last(samplers.heun(chain, denoise, start))

# %%
normal, posterior = (mixture([1.0], [[m]], [v**0.5], [0]) for m, v in ((0.0, 1.0), (1.0, 0.5)))
for s in (1, 3):
    x = walked(posterior, normal, s)  # linear: the middle start goes to the mean
    var = ((x[250] - x[150]) / (start[250] - start[150])).item() ** 2
    target = f"{2 * s / (1 + s):.2f} and {1 / (1 + s):.3f}"
    print(f"s = {s}: mean {x[200].item():.2f}, variance {var:.3f}; p(x) p(y|x)^s has {target}")

# %% [markdown]
# Why? At every noise level the guided score is that of $p(x_t)\,p(y\mid x_t)^s$. But these densities, one for each $t$, are *not* the noised versions of one density of $x_0$: to noise and to raise to a power do not commute. So there is no forward process whose reverse the chain is. *Draw* a mixture, too:

# %%
three = mixture([0.4, 0.3, 0.3], [[-1.0], [0.0], [1.2]], [0.4] * 3, [0, 1, 1])
grid = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
none = torch.zeros(601, dtype=torch.int64)
log_p, log_class = three.log_prob(grid, none), three.classifier(grid, none)[:, 1]

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 2.9), sharey=True, layout="constrained")
for ax, s in zip(axes, (1, 4)):
    product = (log_p + s * log_class).softmax(0) / 0.01
    _ = ax.fill_between(grid[:, 0], log_p.exp(), color="0.85", label="$p(x)$, both classes")
    _ = ax.plot(grid, product, "--", color=plots.VERMILION, label=r"$p(x)\,p(y|x)^s$")
    x = walked(three.conditional(1), three, s)
    _ = plots_variants.pushed_density(start, x, ax=ax, label="the guided chain")
    _ = ax.set(xlabel="$x_0$", title=f"s = {s}", xlim=(-2.5, 3))
_ = axes[0].set(ylabel="density"), axes[0].legend(fontsize="small")

# %% [markdown]
# *Figure 5.6.* Class $y$ has the two clusters at 0 and 1.2; the other class lies at −1. Left, $s = 1$: both curves agree. Right, $s = 4$: the product still has both clusters. The guided chain has *lost* the one next to the other class, and what remains has moved outwards, where there are few data. <!-- alt: Two panels. Left, the blue curve lies on the dashed one, with two peaks. Right, the dashed curve has two peaks at 0.1 and 1.2, the blue one a single high peak near 1.4. -->
#
# This is the exact version of figure 5.1: a larger scale gives more typical samples, of less variety, and finally samples that look like no data. No theory says which scale is right. It has to be measured.

# %% [markdown] tags=["deeper"]
# ### Going deeper: why the variance is 1/8

# %% [markdown]
# Take $z = x_t/\sqrt{\bar\alpha_t}$ and $\sigma^2 = (1-\bar\alpha_t)/\bar\alpha_t$. In these coordinates the ODE (4.8) reads $dz/d\sigma = -\sigma\,\nabla\log p(z;\sigma)$, and data $\mathcal N(m, v)$ have the score $-(z-m)/(v+\sigma^2)$. The guided score is $1-s$ times that of $\mathcal N(0, 1)$ plus $s$ times that of $\mathcal N(m, v)$. So the difference $\delta$ of two paths obeys
# $$\frac{d\log\delta}{d\sigma} = \frac{(1-s)\,\sigma}{1+\sigma^2}+\frac{s\,\sigma}{v+\sigma^2},\qquad \delta\propto(1+\sigma^2)^{(1-s)/2}\,(v+\sigma^2)^{s/2} .$$
# At large $\sigma$ this is $\sigma$, the spread of the start; at $\sigma = 0$ it is $v^{s/2}$. So the samples have variance $v^s$, where the product has $1/(1-s+s/v)$: narrower for every $s>1$, and wider for every $s$ between 0 and 1.

# %%
for s in (0.5, 1, 2, 3, 5):
    x = walked(posterior, normal, s)
    var = ((x[250] - x[150]) / (start[250] - start[150])).item() ** 2
    print(f"s = {s:3}: measured {var:.3f}, v^s = {0.5**s:.3f}, the product has {1 / (1 + s):.3f}")

# %% [markdown]
# ## 5.7 Fidelity against diversity, and rescaling
#
# *Measure.* **Precision**: the share of the drawn digits that lie among the real ones. **Recall**: the share of the real ones that lie among the drawn. (In the features of the course's classifier; "among" means nearer to a point of the set than its third neighbour is.) Precision is fidelity, recall is diversity.

# %%
from ddpm_lesson.experiments.features import classified
from ddpm_lesson.experiments.metrics import precision_recall

# %%
reader = load_pretrained("digits_classifier").model
real = classified(reader, data.digits("train")[::3][0])[0]


def fidelity_and_diversity(s):
    images = digits.sample(150, Sampling("ddim", steps="trailing10", guidance=s), y=digits.labels(150))
    return precision_recall(real, classified(reader, images)[0])

# %%
scales = (0, 1, 2, 4, 8)
precision, recall = zip(*[fidelity_and_diversity(s) for s in scales])
ax = plt.subplots(figsize=(5.5, 2.8), layout="constrained")[1]
_ = ax.plot(scales, precision, "o-", color=plots.BLUE, label="precision")
_ = ax.plot(scales, recall, "s--", color=plots.VERMILION, label="recall")
_ = ax.set(xlabel="guidance scale $s$", ylim=(0, 1.05)), ax.legend()

# %% [markdown]
# *Figure 5.7.* 150 digits for each scale, ten steps of DDIM. From no label to the label precision jumps. Beyond 1 it gains little, while recall falls: at 4 only about half of the real digits have drawn ones around them. At 8 precision falls, too. <!-- alt: Precision rises steeply from s = 0 to 1, slightly to 2, and falls at 8. Recall starts near 1 and falls to about one half at 4. -->

# %% tags=["folded"]
assert precision[1] > precision[0] + 0.3 and recall[3] < recall[1] - 0.15 and precision[2] > 0.85
print("precision at s = 1 is more than 0.3 above that at 0; recall at 4 more than 0.15 below that at 1")

# %% [markdown]
# **Rescaling.** A large scale also stretches the *contrast*: $\hat\epsilon$ is extrapolated, so its standard deviation grows, and with it that of the image. Lin and others (2023) bring each image's output back to the standard deviation of the output with the label, and mix:
# $$\begin{aligned} \hat\epsilon_r &= \hat\epsilon\;\frac{\operatorname{std}(\epsilon_\theta(x_t, y))}{\operatorname{std}(\hat\epsilon)}, \\ \hat\epsilon' &= \phi\,\hat\epsilon_r+(1-\phi)\,\hat\epsilon,\qquad \phi = 0.7 . \end{aligned} \tag{5.7: Lin Eq. 15-16}$$
# The paper's network predicts $v$ (section 5.14), and its outputs are rescaled in that form:

# %%
y, x_T = mnist.labels(10), torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(4)).to(device)
cond, uncond = (mnist.denoiser(told, clip=False) for told in (y, None))
rules = {"s = 1": guidance.extrapolated(1), "s = 8": guidance.extrapolated(8)}
rules["s = 8, rescaled"] = guidance.rescaled(8, phi=0.7)
chain, drawn = mnist.process.respaced(spacing.trailing(1000, 12)), {}
for name, rule in rules.items():
    guided = guidance.guided(cond, uncond, rule, mnist.process, velocity)
    drawn[name] = samplers.last(samplers.ddim(chain, clipped(guided, mnist.process), x_T))
_ = plots_variants.named_rows(drawn)

# %% [markdown]
# *Figure 5.8.* The same noise, three ways. The rescaled digits keep the shape that guidance gave them, in thinner and greyer strokes. <!-- alt: Three rows of the digits 0 to 9. At s = 8 the strokes are thick and white; rescaled they have the same shapes with softer edges. -->

# %% tags=["folded"]
plain, strong, rescaled = (x.std((1, 2, 3)).mean() for x in drawn.values())
assert plain < rescaled < strong
print("mean standard deviation of an image: s = 1 below s = 8 rescaled, and that below s = 8")

# %% [markdown]
# ## 5.8 What you now have
#
# 1. Images need a variance between $\tilde\beta_t$ and $\beta_t$. A network learns where, between their logarithms, and short chains gain most.
# 2. $L_\text{hybrid}$ lets $L_\text{simple}$ train the mean and the bound train the variance: stop the mean's gradient, and do not forget the factor $T$.
# 3. Bayes' rule for scores adds the gradient of a classifier; in the noise it is exact at $s = 1$, in the mean only for small steps.
# 4. The difference of two denoisers is such a gradient. So one network that was sometimes not told the label guides itself, with $s = 1+w$.
# 5. For $s\ne1$ the chain does not draw from $p(x)\,p(y\mid x)^s$, and in general from no density with a simple formula: fidelity rises, diversity falls, and the scale has to be measured.

# %% [markdown] tags=["sitting", "capstone"]
# ## 5.9 Capstone: a guided sampler, and its scale
#
# *Capstone, 31 minutes.*

# %% tags=["start"]
import torch

from ddpm_lesson import checks, data, load_pretrained, plots, plots_variants, spacing

torch.set_num_threads(1)
digits = load_pretrained("digits_ddpm", device=device)

# %% [markdown]
# The pieces of this course, in one loop: DDIM (4.4) with $\eta = 0$, steps left out, guidance (5.6), and the clip in its right place.
#
# **Exercise 5.7 (capstone, 22 minutes).** Write it as a generator.
#
# - `model(x_t, t, y)` returns the noise; `t` is (B,) int64, and `y` is (B,) labels or `None` for "no label";
# - `timesteps` is an increasing list of ints, the steps to visit: from the last to the first;
# - `alphas_bar` is (T,), and `scale` is $s$.
#
# At each visited `t`: (a) the two predictions, and the guided noise (5.6); (b) from it $\hat x_0$ (1.7), clipped to [−1, 1]; (c) the noise again, from the clipped $\hat x_0$; (d) DDIM's step with $\eta = 0$ to the next lower `timestep` in the list; after the first one in the list, to the clean image, where $\bar\alpha = 1$. Yield the state after each step: `len(timesteps)` states, of which the last is the image.
# <details><summary>Hint 1</summary>zip the reversed list with the list one place further down: reversed(timesteps), and [*reversed(timesteps[:-1]), None].</details>
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
# *Figure 5.9.* Ten latents, five scales, your sampler. <!-- alt: Five rows of ten small digits. In the row s = 0 they are of any class; from s = 1 on they are the digits 0 to 9, in ever more uniform writing. -->
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

# %%
distance, precision, recall = zip(*curve)
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 2.8), layout="constrained")
_ = left.semilogy(scales, distance, "o-", color=plots.GREEN)
_ = left.set(xlabel="guidance scale $s$", ylabel="Fréchet distance")
_ = right.plot(recall, precision, "o-", color=plots.BLUE)
for s, *at in zip(scales, recall, precision):
    _ = right.annotate(f" {s}", at, fontsize="small")
_ = right.set(xlabel="recall: diversity", ylabel="precision: fidelity")

# %% [markdown]
# *Figure 5.10.* 150 digits for each scale. Left: small is good. Right: each point is one scale; up and to the right is good. <!-- alt: Left, a curve that falls steeply from s = 0.5 to 1 and then rises slowly. Right, a path that climbs to the left: as the scale grows, precision rises and recall falls. -->

# %% tags=["folded"]
assert min(distance) < 0.6 * distance[0] and distance.index(min(distance)) in (1, 2)
assert recall[-1] < recall[1] - 0.15 and precision[3] > precision[0] + 0.2
print("Fréchet distance: lowest at s = 1 or 1.5; precision rises from 0.5 to 2, recall falls from 1 to 5")

# %% [markdown]
# **Exercise 5.7.1 (design, 5 minutes).** Choose a scale for three uses, and say why: (a) a picture book that shows each digit once; (b) training images for a classifier of digits; (c) a comparison with a published Fréchet distance. Then draw 20 digits with each, `draw(20, s, seed=1)`, and look: is your choice right?
# <details><summary>What we would choose</summary>(a) 2 or a little more: precision has reached its top there, and nobody sees what is missing. (b) 1: a classifier must see all ways to write a digit, and recall is what it needs; many samples at 1 are better than clean ones at 3. (c) the scale with the smallest distance, 1 to 1.5, and say so: a distance without its scale cannot be compared. Repeat with other seeds before you trust a difference: these are 150 digits.</details>

# %% [markdown] tags=["deeper"]
# ## 5.10 Going deeper: equation by equation

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
