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
# Sections called *Going deeper* are collapsed (40 minutes in all); the path does not need them, and they need the cells above them. If JupyterLab shows them open, click once into the page: that collapses them. (The rule: 200 words a minute, a minute for each displayed formula, 20 lines of code a minute, and the minutes stated at each exercise.)

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
# **Exercise 5.1 (on paper, 4 minutes).** $x$ is $\mathcal N(0, 1)$. Here $y$ is a number: $y = x+$ noise of variance 1, and we find $y = 2$. (a) As a function of $x$, $p(y\mid x)^s$ is a Gaussian times a constant. Its mean and variance? (b) Multiply by $p(x)$: mean and variance? (c) What remains at $s = 0$, 1, 3 and ∞?
# <details><summary>Hint</summary>When Gaussians are multiplied, their precisions (1 / variance) add, and the mean is the mean of the means, weighted by the precisions (section 1.7).</details>
# <details><summary>Solution</summary>(a) The exponent is $-s(2-x)^2/2$: mean 2, variance $1/s$. (b) The precisions 1 and $s$ add: variance $1/(1+s)$, mean $2s/(1+s)$. (c) $\mathcal N(0, 1)$, the prior; $\mathcal N(1, \tfrac12)$, which is $p(x\mid y)$; $\mathcal N(\tfrac32, \tfrac14)$; the point 2. A larger scale gives samples that are more typical of $y$ and vary less.</details>

# %% [markdown]
# ## 5.2 A variance between two logarithms
#
# *Question.* Section 4.3 left this open. fixedlarge ($\beta_t$) is right for $\mathcal N(0, I)$ data, fixedsmall ($\tilde\beta_t$) for a single point. Images are neither. When does that matter, and how can a network choose?

# %% tags=["folded"]
fig, axes = plt.subplots(1, 2, figsize=(8.5, 2.7), layout="constrained")
for ax, S in zip(axes, (1000, 10)):
    chain, i = cosine.respaced(spacing.trailing(1000, S)), range(1, S)
    _ = ax.semilogy(i, chain.betas[1:], color=plots.BLUE, label=r"$\beta$: fixedlarge")
    label = r"$\tilde\beta$: fixedsmall"
    _ = ax.semilogy(i, chain.posterior_var[1:], "--", color=plots.VERMILION, label=label)
    _ = ax.set(xlabel="loop index $i$", title=f"{S} steps")
_ = axes[0].set(ylabel="variance of a step"), axes[0].legend()

# %% [markdown]
# *Figure 5.2.* The two variances of each step. In 1000 steps they agree, except in the first few, where the noise is too small to be seen. In 10 steps they differ by a factor of up to 3.6, at the small $i$ where details are decided. So the *shorter* the chain, the more the choice matters. <!-- alt: Two panels with logarithmic axes. Left, 1000 steps: the blue and the dashed orange-red curve lie on each other except at the far left. Right, 10 steps: the dashed curve lies clearly below the blue one at small i. -->
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
    chain = digits.process.respaced(spacing.trailing(1000, S))
    return bound.bits_per_dim(
        digits.model, chain, digits.mean_type, variance, held_out, y=labels,
        decoder=bound.discretized(17), generator=torch.Generator().manual_seed(0))

# %%
choices = {"fixedlarge": fixedlarge, "fixedsmall": fixedsmall, "learned": yours}
found = {name: [bits(variance, S) for S in (10, 25, 50)] for name, variance in choices.items()}
values = {name: zip(*[(b.total, b.standard_error) for b in each]) for name, each in found.items()}
ax = plots_variants.over_steps({name: ((10, 25, 50), *columns) for name, columns in values.items()})
_ = ax.set(ylabel="bits/dim"), ax.legend()

# %% [markdown]
# *Figure 5.3.* The bound of 32 held-out digits (bars: one standard error over the images; all three see the same noise). The learned variance is best on every chain. Of the fixed ones fixedsmall is better on the short chain and fixedlarge on the long one; the network need not decide. <!-- alt: Three lines over 10, 25 and 50 steps; the learned one lies lowest everywhere and falls. The two fixed ones cross near 25 steps. -->

# %% tags=["folded"]
for each in zip(*found.values()):  # 10, 25 and 50 steps
    large, small, learned = (b.totals for b in each)
    assert (torch.minimum(large, small) - learned).mean() > 0.03
    assert min((large - learned).mean(), (small - learned).mean()) > 0.08
print("10, 25 and 50 steps: learned is at least 0.08 bits/dim below either fixed variance")

# %% [markdown] tags=["deeper"]
# ### Going deeper: all held-out digits, and chains that keep the first step

# %% [markdown]
# The record has all 382 held-out digits and five seeds of the noise. Beside the trailing steps it has evenly spaced ones from 0 to 999, as in Improved DDPM's code:

# %%
import json

rows = json.loads(data.bundled("records/variants.json").read_text("utf-8"))["variance"]["rows"]
means = {(row["steps"], row["variance"]): sum(row["bits"]) / len(row["bits"]) for row in rows}
names = "learned_range", "fixedsmall", "fixedlarge"
for steps in ("trailing10", "trailing25", "trailing50", "10", "25", "50"):
    line = [f"{name} {means[steps, name]:6.2f}" for name in names]
    print(f"{steps:10}:", ", ".join(line))

# %% [markdown]
# Evenly spaced chains keep index 0, whose noise (standard deviation 0.006) is far finer than a grey level (0.125). There the bound charges for a precision that nobody sees (section 4.19), and a variance that is too small costs many bits: fixedsmall fails, and with ten steps the learned one is worse than fixedlarge. "Learned is best" holds for chains whose steps are those that matter.

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
chain, lam = cosine.respaced(spacing.trailing(1000, 10)), 0.001
small, large = chain.posterior_var[1], chain.betas[1]
d = (torch.tensor([0, 0.1, 0.3, 0.7]).double() * (large - small)).sqrt().view(-1, 1)
v = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)

# %%
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
places = torch.linspace(-1.2, 1, 120, dtype=torch.float64)
curves = torch.stack([of_v(place.repeat(4, 1)) for place in places]).T
for curve, share, color in zip(curves, ("0", "0.1", "0.3", "0.7"), plots.COLOURS):
    _ = ax.plot(places, curve, color=color, label=rf"$d^2 = {share}\,(\beta-\tilde\beta)$")
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
# *Question.* A network draws images of all classes, $p(x)$. Somebody has a classifier of noisy images, $p(y\mid x_t)$. Can the two together draw class $y$, without any training?
#
# *Derive.* Bayes' rule for $x_t$: $p(x_t\mid y) = p(x_t)\,p(y\mid x_t)/p(y)$. Take the logarithm, and the gradient in $x_t$. The constant $p(y)$ disappears:
# $$\nabla\log p(x_t\mid y) = \nabla\log p(x_t)+\nabla\log p(y\mid x_t) . \tag{5.3}$$
# The score of the class is the score without it plus the gradient $g = \nabla\log p(y\mid x_t)$ of a classifier. There are two places to put $g$.
#
# **In the mean of a step** (ADM, Algorithm 1). The step for class $y$ is $p(x_{t-1}\mid x_t)\,p(y\mid x_{t-1})$, normalised. If the step is small, $\log p(y\mid x_{t-1})$ is nearly a straight line with slope $g$. A Gaussian times the exponential of a straight line is the same Gaussian, moved: complete the square in $-\frac{(x-\mu)^2}{2\sigma^2}+g\,x$. With the scale $s$,
# $$\mu\ \to\ \mu+s\,\sigma_t^2\,g . \tag{5.4: ADM Alg. 1}$$
# **In the noise** (ADM, Algorithm 2). The score is $-\epsilon/\sqrt{1-\bar\alpha_t}$ (2.6), so (5.3) reads
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
    for var, name, color in zip((c.posterior_var, c.betas), ("small", "large"), plots.COLOURS):
        ratio, label = (var * c.alphas.sqrt() / c.betas)[1:], f"fixed{name}, {S} steps"
        _ = left.plot(torch.arange(1, S) / S, ratio, style, color=color, ms=4, label=label)
for (name, share), marker, color in zip(shares.items(), "os^", plots.COLOURS):
    _ = right.plot(counts, share, marker + "-", color=color, label=name)
_ = left.set(xlabel="$i$ / steps", ylabel="shift / right shift", ylim=(0, 1.05))
_ = right.set(xscale="log", xlabel="steps", ylabel="share in a wrong cluster")
_ = right.set_xticks(counts, counts), right.set_xticks([], minor=True)
_ = left.legend(fontsize="small"), right.legend(fontsize="small")

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
        print(f"{reduce.__name__:4}, {n:2} in the batch: length of the first gradient {g.norm():.4f}")

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
    """Where a guided chain without noise takes the starts: your cfg_eps, Heun's method."""
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

# %% tags=["folded"]
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
# *Measure.* **Precision**: the share of the drawn digits that lie among the real ones. **Recall**: the share of the real ones that lie among the drawn. (In the features of a classifier; "among" means nearer to a point of the set than its third neighbour is.) Precision is fidelity, recall is diversity. `data/records/variants.json` holds both for eight scales:

# %%
record = json.loads(data.bundled("records/variants.json").read_text("utf-8"))["guidance"]
fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for ax, (name, of_network) in zip(axes, record.items()):
    _ = plots_variants.fidelity_and_diversity(of_network, ax=ax)
    _ = ax.set(title=name)
_ = axes[0].legend(fontsize="small")

# %% [markdown]
# *Figure 5.7.* One point for each scale, up and to the right is good (20 steps of DDIM, 500 digits and 300 MNIST digits a point). From 0.5 to 1.5 or 2 precision rises. Beyond that recall falls, and little is gained for it. Orange-red: guidance by the gradient of the course's trained noise classifier, which is far weaker than the exact one of section 5.4. The single points: section 5.15. The cross: real digits. (On the left the cross has low precision because the test digits come from other forms than the training digits.) <!-- alt: Two panels, precision over recall. A blue line runs from the lower right at scale 0 up to scale 1.5 or 2 and then to the left, down again at 8. In the left panel an orange-red line stays at the lower right. -->

# %% tags=["folded"]
for name, of_network in record.items():
    for row in of_network["rows"]:
        if row["way"] == "classifier-free" and row["scale"] in (0, 1, 2, 5):
            precision, recall = (row["scores"][of][0] for of in ("Precision", "Recall"))
            print(f"{name:11} s = {row['scale']:.0f}: precision {precision:.2f}, recall {recall:.2f}")

# %% [markdown]
# **Rescaling.** A large scale also stretches the *contrast*: $\hat\epsilon$ is extrapolated, so its standard deviation grows, and with it that of the image. Lin and others (2023) bring each image's output back to the standard deviation of the output with the label, and mix:
# $$\begin{aligned} \hat\epsilon_r &= \hat\epsilon\;\frac{\operatorname{std}(\epsilon_\theta(x_t, y))}{\operatorname{std}(\hat\epsilon)}, \\ \hat\epsilon' &= \phi\,\hat\epsilon_r+(1-\phi)\,\hat\epsilon,\qquad \phi = 0.7 . \end{aligned} \tag{5.7: Lin Eq. 15-16}$$
# The paper's network predicts $v$ (section 5.14), and its outputs are rescaled in that form:

# %%
x_T = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(4)).to(device)
y = mnist.labels(10)
cond, uncond = (mnist.denoiser(told, clip=False) for told in (y, None))
rules = {"s = 1": guidance.extrapolated(1), "s = 8": guidance.extrapolated(8)}
rules["s = 8, rescaled"] = guidance.rescaled(8, phi=0.7)
chain, drawn = mnist.process.respaced(spacing.trailing(1000, 12)), {}
for name, rule in rules.items():
    guided = guidance.guided(cond, uncond, rule, mnist.process, velocity)
    drawn[name] = samplers.last(samplers.ddim(chain, clipped(guided, mnist.process), x_T))
_ = plots_variants.named_rows(drawn)

# %% [markdown]
# *Figure 5.8.* The same noise, three ways. The rescaled digits keep the shape that guidance gave them, in slightly softer strokes. On these images the effect is small, because the clip holds the contrast anyway; where $\hat x_0$ is not clipped, as in latent diffusion, it is large. <!-- alt: Three rows of the digits 0 to 9. At s = 8 the strokes are thick and white; rescaled they have the same shapes with softer edges. -->

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
digits, cfg_eps = load_pretrained("digits_ddpm", device=device), checks.carried("cfg_eps")

# %% [markdown]
# The pieces of this course, in one loop: DDIM (4.4) with $\eta = 0$, steps left out, guidance (5.6), and the clip in its right place.
#
# **Exercise 5.7 (capstone, 22 minutes).** Write it as a generator.
#
# - `model(x_t, t, y)` returns the noise; `t` is (B,) int64, and `y` is (B,) labels or `None` for "no label";
# - `timesteps` is an increasing list of ints, the steps to visit: from the last to the first;
# - `alphas_bar` is (T,), and `scale` is $s$.
#
# At each visited `t`: (a) the two predictions, and the guided noise (5.6), by your `cfg_eps`; (b) from it $\hat x_0$ (1.7), clipped to [−1, 1]; (c) the noise again, from the clipped $\hat x_0$; (d) DDIM's step with $\eta = 0$ to the next lower `timestep` in the list; after the first one in the list, to the clean image, where $\bar\alpha = 1$. Yield the state after each step: `len(timesteps)` states, of which the last is the image.
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
print("Fréchet distance: lowest at s = 1 or 1.5")
print("precision rises from s = 0.5 to 2, recall falls from 1 to 5")

# %% [markdown]
# **Exercise 5.7.1 (design, 5 minutes).** Choose a scale for three uses, and say why: (a) a picture book that shows each digit once; (b) training images for a classifier of digits; (c) a comparison with a published Fréchet distance. Then draw 20 digits with each, `draw(20, s, seed=1)`, and look: is your choice right?
# <details><summary>What we would choose</summary>(a) 2 or a little more: precision has reached its top there, and nobody sees what is missing. (b) 1: a classifier must see all ways to write a digit, and recall is what it needs; many samples at 1 are better than clean ones at 3. (c) the scale with the smallest distance, 1 to 1.5 (in the record 1 for the digits and 1.5 for MNIST), and say so: a distance without its scale cannot be compared. Repeat with other seeds before you trust a difference: these are 150 digits.</details>

# %% [markdown] tags=["deeper"]
# ## 5.10 Going deeper: the cosine schedule, and why

# %% [markdown]
# *Question.* Improved DDPM came with a second change, the cosine schedule (1.4). Notebook 1 wrote it, and section 4.12 showed where its chains start. What is wrong with linear betas?
#
# *Measure.* How many bits does $x_t$ know about a pixel? For data $\mathcal N(0, s^2)$ the answer is exact, $\tfrac12\log_2(1+s^2\operatorname{SNR}(t))$. With $s = 0.5$:

# %%
tables = {name: GaussianDiffusion(schedules.named(name, 1000)) for name in ("linear", "cosine")}
known = {name: 0.5 * torch.log2(1 + table.snr / 4) for name, table in tables.items()}
ax = plt.subplots(figsize=(6, 2.7), layout="constrained")[1]
for (name, bits_known), style, color in zip(known.items(), ("-", "--"), plots.COLOURS):
    _ = ax.semilogy(bits_known.clamp(min=1e-6), style, color=color, label=name)
_ = ax.set(xlabel="t", ylabel="bits known of a pixel", ylim=(1e-5, 10)), ax.legend()

# %% [markdown]
# *Figure 5.11.* What $x_t$ tells about a pixel. Linear betas destroy the image early and spend the last steps on noise alone; cosine betas use nearly all of their steps. <!-- alt: Two falling curves on a logarithmic axis. The linear one lies below and falls steeply; the cosine one falls slowly, and steeply only at the end. -->

# %%
for name, bits_known in known.items():
    idle = (bits_known < 0.01).double().mean()
    print(f"{name}: {bits_known[800]:.4f} bits known at t = 800; below 0.01 in {idle:.0%} of the steps")

# %% [markdown]
# Steps that know nothing can decide nothing. Improved DDPM found that a fifth of the linear steps can be left out when sampling, at nearly no cost. On small images, of which fewer pixels tell the same thing, this matters most.

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
# | down and up | strided convolution | the same | inside of residual blocks (BigGAN) | `biggan=True` |
# | second condition | none | small image, as further channels | the same | `cond_ch=1` |
#
# The course's MNIST network takes three of these rows:

# %%
rows = "learned_var", "scale_shift_norm", "num_classes", "null_class", "num_heads", "biggan", "cond_ch"
print({name: mnist.model.options[name] for name in rows})

# %% [markdown] tags=["deeper"]
# ## 5.12 Going deeper: v, and chains that really end in noise

# %% [markdown]
# *Question.* Where $\bar\alpha_t = 0$ the state *is* the noise. A network that predicts the noise need only copy its input, and says nothing about the image. Which target is useful at every level?
#
# *Derive.* Write $\sqrt{\bar\alpha_t} = \cos\phi$ and $\sqrt{1-\bar\alpha_t} = \sin\phi$. Then $x_t = \cos\phi\,x_0+\sin\phi\,\epsilon$ moves on a circle, and its velocity in $\phi$ is
# $$v = \frac{dx_t}{d\phi} = \sqrt{\bar\alpha_t}\,\epsilon-\sqrt{1-\bar\alpha_t}\,x_0 . \tag{5.8: Salimans and Ho Section 4}$$
# (Not the $v$ of (5.1); both names are in use.) A rotation by $\phi$ leads back: $\hat x_0 = \sqrt{\bar\alpha_t}\,x_t-\sqrt{1-\bar\alpha_t}\,v$. No division: an error of $v$ is never magnified. With little noise $v$ is the noise, with much noise it is (minus) the image.
#
# **Exercise 5.8 (one star, 3 minutes).** Equation (5.8), for `x_0`, `noise` (B, \*D), `t` (B,), `alphas_bar` (T,).
# <details><summary>Hint</summary>As your q_sample, with the two roots exchanged and a minus.</details>

# %%
def v_target(x_0, noise, t, alphas_bar):
    ...

# %%
v_target = checks.v_target(v_target)

# %% [markdown]
# **Exercise 5.9 (one star, 2 minutes).** The way back.
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
print("there and back, from alphas_bar = 0.999 to exactly 0: equal to 1e-12")

# %% [markdown]
# **The brightness problem.** Which $\bar\alpha_T$ is small enough? For one pixel 0.0047, where Stable Diffusion's first schedule ends, looks like noise. But add up the $D = 16384$ numbers of one of its latent images: the noise of their mean is smaller by $\sqrt D = 128$. In the coordinate $u = \sqrt D\cdot$ mean the noise still has variance 1, and an image of brightness $b$ lies at $\sqrt{\bar\alpha_T D}\;b = 8.7\,b$. So $x_T$ *shows* how bright the image is; training sees that; and sampling starts at $\mathcal N(0, 1)$, where $u$ says "medium". *See* it exactly: flat images whose brightness is $\mathcal N(0, 0.3^2)$, the exact denoiser, 1000 steps.

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
_ = plots_variants.named_rows(flat)

# %% [markdown]
# *Figure 5.12.* Twelve flat images in order of their brightness. The published betas make all of them medium grey: neither dark nor bright images can be drawn, by no fault of the network. With zero terminal SNR the data come back. <!-- alt: Three rows of twelve grey squares. The first and the third run from dark to bright grey, the second stays near medium grey. -->

# %%
spread_of = {name: (values.std() / made["data"].std() * 0.3).item() for name, values in made.items()}
print({name: round(found, 2) for name, found in spread_of.items()}, "of brightness, standard deviation")

# %% [markdown]
# Two things belong to the repair. The network must predict $v$ (or $x_0$), since the noise is useless where $\bar\alpha_T = 0$. And sampling must *visit* the last step: trailing steps do, leading ones do not (section 4.12). What standard deviation of $u$ does the first visited step expect, where sampling brings 1?

# %%
for name, betas in (("published", published), ("zero SNR", zero_terminal_snr(published))):
    bar = torch.cumprod(1 - betas, 0)
    for choose in (spacing.leading, spacing.trailing):
        a = bar[choose(1000, 10)[-1]]
        print(f"{name:9}, 10 {choose.__name__:8} steps: {(a * D * 0.3**2 + 1 - a).sqrt():.2f}")

# %% [markdown] tags=["deeper"]
# ## 5.13 Going deeper: offset noise, min-SNR and P2

# %% [markdown]
# **Offset noise** repairs the same problem from the other side, in training: add to the noise of each image and channel one random number, the same for all its pixels (`variants.offset_noise`). Then the network meets states whose mean says nothing, and learns to change the brightness late. The price: $x_T$ is then not $\mathcal N(0, I)$ any more, although sampling starts there.

# %%
from ddpm_lesson.variants.offset_noise import offset_noise

# %%
images, same = torch.zeros(6, 1, 28, 28), lambda: torch.Generator().manual_seed(3)
_ = plots_variants.named_rows({
    "strength 0": offset_noise(images, 0.0, generator=same()) / 3,
    "strength 0.5": offset_noise(images, 0.5, generator=same()) / 3})

# %% [markdown]
# *Figure 5.13.* Six draws of noise; below, the same with an offset for each image (a third of the values, so that grey levels show). (In use the strength is 0.1.) <!-- alt: Two rows of six noise images. The upper ones are equally bright, the lower ones differ in brightness. -->

# %%
for side in (8, 28, 64):
    std = math.sqrt(1 + 0.1**2 * side**2)
    print(f"{side}x{side}, strength 0.1: standard deviation of u {std:.2f} instead of 1")

# %% [markdown]
# **Min-SNR and P2** weigh the loss by the noise level; figure 2.18 draws both beside the others, and exercise 2.9 writes min-SNR. Where $v$ is predicted the weights must be converted, since an error of $v$ is not an error of $\epsilon$ (`losses.weight_for`):

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
# ADM has two algorithms because of DDIM. With $\eta = 0$ a step has no variance, and (5.4) moves the mean by $\sigma_t^2 g = 0$: it guides nothing. The noise form does not ask for a variance. The eight clusters in four classes again, 20 steps:

# %%
x_T = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
chain, y = process.respaced(spacing.trailing(1000, 20)), torch.zeros(400, dtype=torch.int64)
for name, denoise in (("mean form, variance 0", eight), ("noise form", eps_form)):
    x = samplers.last(samplers.ddim(chain, denoise, x_T))
    wrong = (of_cluster[torch.cdist(x, eight.means).argmin(1)] != 0).double().mean()
    print(f"{name:21}: {wrong:.1f} of the samples are of another class")

# %% [markdown] tags=["deeper"]
# ## 5.15 Going deeper: four ways to guide more gently

# %% [markdown]
# A large scale does two things that one wants apart: it moves images towards their class, and it drives them out of the data. Four repairs, each a small change of (5.6):
#
# - **Rescaling** (5.7) gives each image the standard deviation back.
# - **Projection** (Sadat and others 2024; lucidrains): split $\hat x_0(y)-\hat x_0$ into a part *along* $\hat x_0(y)$, which only strengthens the contrast, and the part orthogonal to it, which changes the content. Keep the second.
# - **CFG++** (Chung and others 2024): in DDIM's step (4.4) take the guided $\hat x_0$ with a scale between 0 and 1, but add back the noise that the network predicts *without* the label.
# - **An interval** (Kynkäänniemi and others 2024): guide at medium noise only. At high noise guidance costs diversity, at low noise it changes nothing, and there the second evaluation is saved.
#
# **Exercise 5.11 (one star, 4 minutes).** Rescaling, (5.7), from the conditional and the guided noise (B, \*D), and `phi`. Each image has its own standard deviation, over all of its dimensions.
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
ways = {"s = 1": plain, "s = 8": strong, "projected": clipped(projected, base)}
ways["CFG++, 0.6"] = guidance.cfg_plus_plus(plain, without, 0.6)
ways["in 300 to 700"] = guidance.in_interval(strong, plain, 300, 700)
chain = base.respaced(spacing.trailing(1000, 12))
drawn = {name: samplers.last(samplers.ddim(chain, denoise, x_T)) for name, denoise in ways.items()}
_ = plots_variants.named_rows(drawn)

# %% [markdown]
# *Figure 5.14.* The same noise, guided in five ways. CFG++ and the interval stay close to the row without guidance; projection at scale 8 changes most, and is the only one to repair the 5. <!-- alt: Five rows of the digits 0 to 7. The rows s = 8 and projected have thick strokes; CFG++ and the interval look like s = 1 with cleaner strokes. -->

# %% tags=["folded"]
apart = {name: (x - drawn["s = 1"]).square().mean().sqrt() for name, x in drawn.items()}
assert apart["in 300 to 700"] < apart["s = 8"] and apart["CFG++, 0.6"] < apart["s = 8"]
print("nearer to the images without guidance than s = 8 is: CFG++, and guidance in an interval")

# %% [markdown]
# *Measure.* The digits of the record, at scale 5:

# %%
for row in record["digits_ddpm"]["rows"]:
    if row["scale"] == 5 and row["way"] != "classifier":
        found = [f"{row['scores'][name][0]:.2f}" for name in ("Precision", "Recall", "Frechet distance")]
        print("{:15}: precision {}, recall {}, Fréchet distance {}".format(row["way"], *found))

# %% [markdown]
# The interval gives back some of the recall at no loss of precision. (500 images: the intervals of neighbouring values overlap.)
#
# *Verify* your rescaling against its definition: with `phi = 1` every image has the standard deviation of the output with the label.

# %%
a, b = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
full = rescaled_eps(a, b + 3 * (a - b), 1.0)
assert torch.allclose(full.flatten(1).std(1), a.flatten(1).std(1), rtol=1e-10)
print("phi = 1: standard deviation of each image that of the output with the label, to 1e-10")

# %% [markdown] tags=["deeper"]
# ## 5.16 Going deeper: self-conditioning

# %% [markdown]
# At every step the network estimates $x_0$, and at the next step it starts anew. **Self-conditioning** (Chen and others 2022) hands the estimate on, as further input channels. Is the old estimate worth anything? Compare, along one chain, each estimate with the image that the chain ends in:

# %%
states = list(digits.states(40, Sampling("ddim", steps="trailing20"), y=digits.labels(40)))[1:]
error = [(s.prediction.x_0 - states[-1].x_t).square().mean().sqrt().item() for s in states]
ax = plt.subplots(figsize=(6, 2.6), layout="constrained")[1]
_ = ax.plot(range(19, -1, -1), error, "o-", color=plots.BLUE, label="the estimate at this step")
_ = ax.plot(range(18, -1, -1), error[:-1], "s--", color=plots.VERMILION, label="the estimate handed on")
_ = ax.set(xlabel="steps to go", ylabel="distance from the end", xlim=(20, -1)), ax.legend()
_ = ax.set_xticks(range(0, 21, 5))

# %% [markdown]
# *Figure 5.15.* After the first two steps the estimate of the step before is nearly as good as the new one. So the network may spend its work on improving it. <!-- alt: Two falling curves over the steps to go; the dashed one is the other shifted by one step, and lies slightly above it. -->
#
# How is it trained, if training draws single $t$ and has no step before? With probability 1/2 the network is first asked with zeros in these channels; its answer, *without gradient*, is then put in, and the network is asked again. Otherwise it is asked once, with zeros. Sampling needs no code of its own: a denoiser is handed the prediction of the step before (`prev`), and `previous_x_0` puts its $\hat x_0$ in.

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
print(f"{steps} training steps asked the network {len(asked)} times")

# %%
asked.clear()
chain = base.respaced(spacing.trailing(1000, 10))
denoise = make_denoiser(small, base, predictions.epsilon, cond=previous_x_0)
x = samplers.last(samplers.ddim(chain, clipped(denoise, base), torch.randn(2, 1, 8, 8)))
print(f"{chain.T} steps of sampling asked it {len(asked)} times")

# %% [markdown]
# Half of the steps ask twice, the first time without gradients; sampling costs nothing. (Twenty steps train no network: this only counts.)

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
print(f"small image {tuple(small.shape[1:])}, what the network is told {tuple(blurred.shape[1:])}")

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
# *Figure 5.16.* Ten held-out digits (top), what the network is told of them, and three draws for each. 16 numbers decide most of what there is to see; in the loops of the 8 and the 9 the draws differ. <!-- alt: Five rows of ten digits. The second row is blurred; the three rows below it are sharp digits like those of the first row. -->

# %% tags=["folded"]
def rms(x):
    return x.square().mean().sqrt()


draws = torch.stack([rows[f"draw {k}"] for k in (1, 2, 3)])
assert rms(low_res(draws[0], 2) - small) < 0.05 < 0.4 < rms(low_res(draws[0].roll(1, 0), 2) - small)
assert rms(draws.mean(0) - held_out) < rms(draws[0] - held_out) < 0.5 * rms(blurred - held_out)
print("made small again: within 0.05 of the own small image, more than 0.4 from a neighbour's")
print("distance from the digit: the mean of three draws is below one draw,")
print("and that below half of the enlargement's")

# %% [markdown]
# A draw is *one* possible image. The mean of several is nearer to the truth, as least squares wants it (section 2.4), and is blurred where they differ. At the sizes of ImageNet the small image is made noisy, too (Ho and others 2022, *Cascaded Diffusion Models*), so that the second network forgives the mistakes of the first.

# %% [markdown] tags=["deeper"]
# ## 5.18 Going deeper: L1 against L2, and another class-conditional MNIST

# %% [markdown]
# One of the repositories that the post links, abarankab's, trains a class-conditional MNIST network. Beside `mnist_ddpm`:
#
# | | abarankab | `mnist_ddpm` |
# |---|---|---|
# | loss | L1 or L2 of the noise | L2, and the bound for the variance |
# | class | a learned vector, added in each block | a learned vector, added to that of the time |
# | label left out in training | never | 10 % |
# | guidance | none: nothing to subtract | any scale |
# | average of the weights | begins after some steps | from the first, with a decay that grows |
#
# **L1** fits the *median* of the noise, not its mean (section 2.4 has the proof and a measurement for $x_0$). How much does it cost? The two clusters of section 4.3, 30 % at −1.4 and 70 % at 0.6. At $x_t$ near the middle the posterior of $x_0$ has both:

# %%
places, share = torch.tensor([-1.4, 0.6]).double(), torch.tensor([0.3, 0.7]).double()
a = process.alphas_bar[500]
for x in (-0.5, -0.2, 0.1):
    log_weight = share.log() - (x - a.sqrt() * places) ** 2 / (2 * (1 - a))
    weight = log_weight.softmax(0)
    median = places[1 if weight[1] > 0.5 else 0]
    print(f"x_t = {x:4}: L2 learns x_0 = {(weight * places).sum():.2f}, L1 learns {median:.2f}")

# %% [markdown]
# L1 decides for one cluster; L2 averages, and (4.1) needs the average: only with it has $x_{t-1}$ the right mean. On images the difference is small at low noise, where the posterior is narrow and symmetric, and largest where the image is not decided yet.

# %% [markdown] tags=["deeper"]
# ## 5.19 Going deeper: what goes wrong

# %% [markdown]
# **A paper's $w$ passed as a library's $s$**, or the other way round. The Gaussians of section 5.6; the paper says $w = 2$:

# %%
for name, strength, convention in (("w = 2, right", 2, "w"), ("taken for s = 2", 2, "s")):
    eps = cfg_eps(torch.tensor(1.0), torch.tensor(0.0), strength, convention)
    print(f"{name:15}: {eps.item():.0f} times the difference is added to the noise without label")

# %% [markdown]
# Off by one, always: small scales suffer most. $w = 0.5$ read as $s$ is *less* than telling the label.
#
# **The factor T forgotten** (section 2.18): $\lambda L_\text{vlb}$ with the term of one $t$, not times $T$. *See* it with plain gradient descent on $v$ (exercise 5.3's pixels), 400 steps, in the same network and with the same learning rate as the mean:

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
# **The mean not held fixed.** Then $L_\text{vlb}$ trains the mean, too, with the bound's weights:

# %%
mean = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
one, log_var = torch.ones_like(mean), torch.full_like(mean, -4)
for name, used in (("held fixed", mean.detach()), ("not held", mean)):
    kl = 0.5 * (one - used) ** 2 * torch.exp(-log_var)
    total = (0.01 * mean**2 + 0.001 * 1000 * kl).sum()
    print(f"{name:10}: gradient in the mean {torch.autograd.grad(total, mean)[0].item():.1f}")

# %% [markdown]
# $L_\text{simple}$ asks for nothing here; the bound, where its variance is small, asks for a large change, and outweighs it.
#
# **The base's bounds on a short chain.** The network says *where* between two bounds. They must be those of the chain that steps (5.1), not those of the 1000 steps of training, which are far smaller:

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
# **The root forgotten in (5.9).** Moving and stretching $\bar\alpha_t$ instead of its root also ends at 0, and changes the schedule elsewhere:

# %%
bar = torch.cumprod(1 - published, 0)
of_bar = (bar - bar[-1]) * bar[0] / (bar[0] - bar[-1])
right = torch.cumprod(1 - zero_terminal_snr(published), 0)
for t in (500, 900, 990):
    print(f"t = {t}: alphas_bar {bar[t]:.4f}, by the root {right[t]:.4f}, without it {of_bar[t]:.4f}")

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

# %% [markdown] tags=["deeper"]
# ## 5.21 Going deeper: equation by equation

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
