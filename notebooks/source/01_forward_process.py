# %% [markdown]
# # 1. The forward process: how an image becomes noise
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/ddpm_lesson/blob/main/notebooks/01_forward_process.ipynb)
#
# **You will be able to**
# - derive the jump from a clean image to any noise level, and check it with your own simulation;
# - read a noise schedule: where the image goes under, and whether the chain ends in pure noise;
# - derive the posterior, the Gaussian that DDPM learns to imitate, and say when the true step back is nearly Gaussian;
# - write these functions yourself. The checks tell you which mistake you made, and give your function back once it is right (until then the course's own, so that every cell runs).
#
# **You need** Gaussians, expectations and PyTorch broadcasting (a self-check follows). **Time**: three to four hours of reading and doing; all cells together run in under a minute on two CPU cores.
#
# *The course:* **1 forward process** → 2 loss → 3 U-Net → 4 sampling → 5 variants

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
import math
import warnings

import ipywidgets
import torch

from ddpm_lesson import GaussianDiffusion, checks, data, plots, schedules, spacing

# %% [markdown]
# ### Can you start?
#
# Three questions. If one of them is news to you, follow its pointer first; it takes an hour at most.
#
# 1. $X$ and $Y$ are independent with variances 4 and 9. What is the variance of $2X - Y$? <details><summary>Answer</summary>$2^2\cdot 4 + (-1)^2\cdot 9 = 25$. Factors come out squared, and variances of independent variables add, also under a minus sign. Pointer: any chapter on "variance of a sum of random variables".</details>
# 2. $\epsilon \sim \mathcal N(0, 1)$. How is $3 + 0.5\,\epsilon$ distributed? <details><summary>Answer</summary>$\mathcal N(3,\ 0.25)$: normal, with mean 3 and <b>variance</b> 0.25, that is standard deviation 0.5. Pointer: "linear transformation of a normal random variable".</details>
# 3. `x` has shape (16, 1, 8, 8) and `a` has shape (16, 1, 1, 1). What is the shape of `a * x`, and what does it do? <details><summary>Answer</summary>(16, 1, 8, 8). Each image is multiplied by its own number. Pointer: "Broadcasting semantics" in PyTorch's documentation.</details>

# %% [markdown]
# ### Symbols
#
# All five notebooks use these names. `B` is the batch size and `*D` the shape of one item: (1, 8, 8) for a digit, (2,) for a point in the plane.
#
# | symbol | in code | shape | what it is | 中文 |
# |---|---|---|---|---|
# | $T$, $t$ | `T`, `t` | `t`: (B,) | number of steps; the step of each image | 总步数,时间步 |
# | $x_0$, $x_t$ | `x_0`, `x_t` | (B, \*D) | clean image; image after $t$ steps of noise | 原图,加噪图 |
# | $\epsilon$ | `noise`, `eps` | (B, \*D) | standard normal noise | 噪声 |
# | $\beta_t$ | `betas` | (T,) | variance of the noise that step $t$ adds | 单步噪声方差 |
# | $\alpha_t = 1-\beta_t$ | `alphas` | (T,) | share of the variance that step $t$ keeps | 单步保留率 |
# | $\bar\alpha_t = \alpha_1\cdots\alpha_t$ | `alphas_bar` | (T,) | share that is left after all steps up to $t$ | 累积保留率 |
# | $\tilde\beta_t$ | `posterior_var` | (T,) | variance of the posterior (section 1.7) | 后验方差 |
#
# Formulas count steps as the papers do, from 1, and $x_0$ is the clean image. **Code counts from 0: `t = 0` is the papers' $t = 1$**, the first step of noise.
#
# <details><summary>What the papers and other libraries call them</summary>
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
# | `posterior_var` | $\tilde\beta_t$ | $\sigma_t^2$ at $\eta=1$ | `posterior_variance` | `variance` |
#
# </details>

# %% [markdown]
# ## 1.1 Why noise at all?
#
# *Question.* We own 1797 small handwritten digits and want new ones. Nobody can write down the distribution that such images come from. How do you draw from a distribution that you cannot write down?

# %%
digits, labels = data.digits()[:]
print(f"{len(digits)} images of shape {tuple(digits.shape[1:])}, values from {digits.min():.0f} to {digits.max():.0f}")

# %%
_ = plots.image_grid(digits[:20], ncols=10)

# %% [markdown]
# *Figure 1.1.* Twenty of the digits that this course uses. They were written by hand and scanned to 32 by 32 black or white points; each pixel here counts the black points in a block of 4 by 4, so there are 17 levels. They are scaled so that ink is 1 (shown white) and paper is −1 (shown black).

# %% [markdown]
# *Idea.* Destroying an image is easy: add noise, a little at a time, until nothing is left but noise. Nobody has to learn that. And pure noise is a distribution that everybody can draw from.
#
# So look for the way back. If one step of destruction is small, the step back is a small correction. Section 1.9 shows that it is then nearly Gaussian: a mean and a variance, which a network can learn. Make the steps many and small, learn each step back, start in fresh noise, and walk. Every walk starts elsewhere and draws its own noise at every step, so walks end in different digits, and in digits that nobody wrote.
#
# Two processes, then, and they are easy to mix up:
#
# - the **forward process** $q$ (前向过程) goes from the image to noise. It is *fixed*: nothing in it is learned;
# - the **reverse process** $p_\theta$ (反向过程) goes from noise to an image. It is *learned*: $\theta$ are the weights of a network.
#
# This notebook is about $q$ alone.

# %%
betas = torch.tensor([1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)], dtype=torch.float64)
x, walked = digits[:1], [digits[:1]]
torch.manual_seed(0)
for beta in betas.float():
    x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(x.shape)
    walked.append(x)

# %%
shown = (0, 60, 200, 400, 1000)
_ = plots.forward_and_reverse(torch.cat([walked[i] for i in shown]), shown)

# %% [markdown]
# *Figure 1.2.* One digit on its walk of 1000 steps. Upper arrows: q adds noise and is fixed. Lower arrows: p removes noise and is to be learned. After 60 steps you still read the digit, after 400 hardly, and the last picture looks like noise. (Values beyond −1 and 1 are shown as black and white, here and in all pictures of noisy images.)

# %% [markdown]
# **What goes wrong: p and q swapped.** This course grew out of a Chinese blog post on DDPM; where its text or code errs, and other published code too, you will find a paragraph that begins with these words. The first: *the post* calls the forward process p and the reverse process q, and says of both that they are parameterised chains (and a page later, rightly, that the one that adds noise predicts nothing). The paper has it the other way round (DDPM Eq. 1 and 2): p is learned, q is fixed. Keep this order in mind when you read code: `q_sample` adds noise, `p_sample` takes it away.

# %% [markdown]
# ## 1.2 One step, and why its factor has a square root
#
# *Question.* The walk above multiplied the image by $\sqrt{1-\beta}$ before it added noise. Why shrink the image at all? And why with a square root?
#
# *Derive.* Let one step be $x_t = a\,x_{t-1} + b\,\epsilon$ with $\epsilon\sim\mathcal N(0, I)$ drawn afresh. The two terms are independent, so their variances add:
# $$\operatorname{Var}(x_t) = a^2\operatorname{Var}(x_{t-1}) + b^2 .$$
# A network will have to read $x_t$ for every $t$. It reads best if all its inputs have the same scale. So ask that variance 1 stays variance 1:
# $$1 = a^2 + b^2 .$$
# One number is left to choose. Call the variance of the added noise $\beta_t = b^2$. Then $a = \sqrt{1-\beta_t}$, and one step is
# $$x_t = \sqrt{1-\beta_t}\;x_{t-1} + \sqrt{\beta_t}\;\epsilon,\qquad q(x_t\mid x_{t-1}) = \mathcal N\big(x_t;\ \sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\big). \tag{1.1: DDPM Eq. 2}$$
# $\beta_t$ is a *variance*. That is why both factors carry a root.
#
# *What if the variance is not 1?* Here "variance" is taken over all pixels of all digits; the next cell prints it. Subtract 1 from both sides of the variance rule: $\operatorname{Var}(x_t) - 1 = (1-\beta_t)\,(\operatorname{Var}(x_{t-1}) - 1)$. The distance to 1 shrinks at every step, from wherever it starts.
#
# *Verify*, by carrying the variance through 1000 steps, with and without the shrinking:

# %%
shrunk = kept = digits.var().item()
for beta in betas.tolist():
    shrunk, kept = (1 - beta) * shrunk + beta, kept + beta
print(f"variance of the digits: {digits.var():.2f}, and after 1000 steps:")
print(f"{shrunk:.2f} with the factor sqrt(1 - beta), {kept:.1f} without it")

# %% [markdown]
# > **Predict** (and decide before you scroll on: outputs are stored below). Somebody forgets one root and writes `x = sqrt(1 - beta) * x + beta * noise`. Does the walk end with too much noise, with too little, or does it make no difference?
# > <details><summary>Then look</summary>Far too little. Each step now adds the variance β², which is tiny, while it still takes away the share β. The next cell finds a standard deviation of 0.14 in the place of 1: the digit fades to grey instead of drowning in noise.</details>

# %% [markdown]
# **What goes wrong: β where its root belongs, and the wrong kind of noise.** Both are in published notebooks: noise multiplied by `beta`, and `torch.rand` (uniform between 0 and 1, mean 1/2) in the place of `torch.randn`. Carry mean and variance through the walk again:

# %%
var_no_root, mean_uniform = 1.0, 0.0
for beta in betas.tolist():
    var_no_root = (1 - beta) * var_no_root + beta**2
    mean_uniform = math.sqrt(1 - beta) * mean_uniform + math.sqrt(beta) / 2
print(f"beta for its root: the walk ends with standard deviation {math.sqrt(var_no_root):.2f}, not 1")
print(f"uniform noise: the walk ends with mean {mean_uniform:.2f}, not 0")

# %% [markdown]
# Uniform noise pushes every pixel up by $\sqrt{\beta_t}/2$ per step, and the pushes add up to seven and a half standard deviations of the $\mathcal N(0, I)$ that we wanted. A sampler that starts in $\mathcal N(0, I)$ would start in a place where the walk never ends.

# %% [markdown]
# **Exercise 1.1 (one star).** The schedule of the DDPM paper: $T$ values of $\beta$, evenly spaced from $\beta_1$ to $\beta_T$, both included. Return them as float64: the products of section 1.3 multiply a thousand of them.
# <details><summary>Hint 1</summary>torch has a function for evenly spaced numbers that includes both ends.</details>
# <details><summary>Hint 2</summary>It has a dtype argument. Converting afterwards is too late: what was rounded to float32 stays rounded.</details>

# %%
def linear_betas(beta_1, beta_T, T):
    ...

# %%
linear_betas = checks.linear_betas(linear_betas)

# %% [markdown]
# **What goes wrong: float64 that was float32 before.** The post writes `torch.linspace(beta_1, beta_T, T).double()`. The numbers are made in float32, and `.double()` only gives the rounded ones more room:

# %%
late = torch.linspace(1e-4, 0.02, 1000).double()
error = (late / schedules.linear(1000) - 1).abs().max()
assert torch.allclose(schedules.linear(1000), betas, rtol=1e-14, atol=0) and 1e-8 < error < 1e-6
print("float32 first: right to 7 digits. float64 at once: right to 14")

# %% [markdown]
# Seven digits are enough for a picture. They are not enough to *compare*: these are slightly other betas, and every number computed from them agrees with a paper or another library to seven digits only. From here on the notebook takes `schedules.linear`, the finished form of your exercise.

# %% [markdown]
# ## 1.3 Many small steps are one big step
#
# *Question.* Training will need $x_{500}$ of millions of images. Must we walk 500 steps for each of them?
#
# *Derive.* Write $\alpha_t = 1-\beta_t$ and put one step into the next:
# $$\begin{aligned}
# x_t &= \sqrt{\alpha_t}\;x_{t-1} + \sqrt{1-\alpha_t}\;\epsilon_t \\
# &= \sqrt{\alpha_t}\,\big(\sqrt{\alpha_{t-1}}\;x_{t-2} + \sqrt{1-\alpha_{t-1}}\;\epsilon_{t-1}\big) + \sqrt{1-\alpha_t}\;\epsilon_t \\
# &= \sqrt{\alpha_t\alpha_{t-1}}\;x_{t-2} + \underbrace{\sqrt{\alpha_t(1-\alpha_{t-1})}\;\epsilon_{t-1} + \sqrt{1-\alpha_t}\;\epsilon_t}_{\text{two independent Gaussians}} .
# \end{aligned}$$
# A sum of independent Gaussians is a Gaussian, and the variances add:
# $$\alpha_t(1-\alpha_{t-1}) + (1-\alpha_t) = \alpha_t - \alpha_t\alpha_{t-1} + 1 - \alpha_t = 1-\alpha_t\alpha_{t-1} .$$
# So two steps have the form of one step, with the product $\alpha_t\alpha_{t-1}$ in the place of $\alpha_t$.
#
# *Induction.* Let $\bar\alpha_t = \alpha_1\alpha_2\cdots\alpha_t$. Suppose that $x_{t-1} = \sqrt{\bar\alpha_{t-1}}\,x_0 + \sqrt{1-\bar\alpha_{t-1}}\,\bar\epsilon$ holds; for $t-1 = 1$ it is (1.1) itself. One more step multiplies the image's factor by $\sqrt{\alpha_t}$, which makes it $\sqrt{\bar\alpha_t}$. Its noise $\epsilon_t$ is drawn afresh, independent of $\bar\epsilon$, so variances add again and the noise variance becomes
# $$\alpha_t(1-\bar\alpha_{t-1}) + (1-\alpha_t) = 1-\alpha_t\bar\alpha_{t-1} = 1-\bar\alpha_t .$$
# The same form again, so it holds for every $t$:
# $$x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon,\qquad q(x_t\mid x_0) = \mathcal N\big(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\big). \tag{1.2: DDPM Eq. 4}$$
#
# *Verify, exactly.* Now $x_0$ is *given*: one pixel, $x_0 = 1$, variance 0 before the first step. Carry its mean and variance through single steps, and compare with (1.2) after every one of the 1000:

# %%
alphas_bar = torch.cumprod(1 - betas, 0)
mean, var, worst = 1.0, 0.0, 0.0
for beta, a in zip(betas.tolist(), alphas_bar.tolist(), strict=True):
    mean, var = math.sqrt(1 - beta) * mean, (1 - beta) * var + beta
    worst = max(worst, abs(mean - math.sqrt(a)), abs(var - (1 - a)))
print(f"1000 steps and one jump agree to 1e-12: {worst < 1e-12}")

# %% [markdown]
# *Verify, by simulation.* Walk one digit 2000 times through all 1000 steps, and stop twice to look. The average of 2000 draws with standard deviation $s$ is uncertain by $s/\sqrt{2000}$, and their standard deviation, taken over 2000 draws of 64 pixels, by the share $1/\sqrt{2\cdot 2000\cdot 64}$. Six times that is a bound that all pixels keep:

# %%
torch.manual_seed(1)
x, stops = digits[:1].expand(2000, -1, -1, -1), {}
for i, beta in enumerate(betas.float()):
    x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(x.shape)
    if i in (299, 999):
        stops[i] = x

# %%
for i, x in stops.items():
    mean, std = alphas_bar[i].sqrt() * digits[0], (1 - alphas_bar[i]).sqrt()
    assert (x.mean(0) - mean).abs().max() < 6 * std / math.sqrt(2000)
    assert abs((x - mean).std() / std - 1) < 6 / math.sqrt(2 * 2000 * 64)
print("2000 walks of 300 and of 1000 steps have the jump's mean and standard deviation")

# %% [markdown]
# *See* that both ways lead to pictures of the same kind:

# %%
torch.manual_seed(1)
a = torch.tensor([1.0, *(alphas_bar[i - 1] for i in shown[1:])]).view(-1, 1, 1, 1)
jumped = a.sqrt() * digits[0] + (1 - a).sqrt() * torch.randn(5, 1, 8, 8)
rows = torch.stack([torch.cat([walked[i] for i in shown]), jumped])
_ = plots.chain(rows, shown, names=("walked", "jumped"))

# %% [markdown]
# *Figure 1.3.* Upper row: walked, t single steps. Lower row: jumped at once. (t counts as in the formulas: 0 is the clean digit.) The rows differ in their noise, not in the amount of it.

# %% [markdown]
# > **Predict.** After which of the 1000 steps is half of the image's variance left, $\bar\alpha_t = 1/2$: about step 50, 250 or 500?
# > <details><summary>Then look</summary>After about 260 of the 1000 steps: the next cell counts. The betas start 200 times smaller than they end, yet half is gone after a quarter of the walk. Why so early? The logarithm of the product is the sum of log(1 − β), nearly −β each, and the first 259 betas already add up to log 2.</details>

# %%
print(f"steps with alphas_bar above 1/2: {int((alphas_bar > 0.5).sum())} of 1000")
print(f"sum of the first 259 betas: {betas[:259].sum():.2f}, log 2: {math.log(2):.2f}")

# %% [markdown]
# **What goes wrong: formulas without their roots.** The post's text prints this formula more than once, and some of the copies have lost their roots, some a minus sign too. With roots lost, $\bar\alpha_t\,x_0 + (1-\bar\alpha_t)\,\epsilon$, it gives $x_t$ the variance $\bar\alpha_t^2 + (1-\bar\alpha_t)^2$ for data of variance 1:

# %%
with_roots = alphas_bar.sqrt() ** 2 + (1 - alphas_bar).sqrt() ** 2
roots_lost = alphas_bar**2 + (1 - alphas_bar) ** 2
ax = plots.schedule({"with roots": with_roots.clamp(max=1), "roots lost": roots_lost})
_ = ax.set(ylabel="variance of $x_t$", ylim=(0, 1.1))
print(f"smallest variance with the roots {with_roots.min():.2f}, without {roots_lost.min():.2f}")

# %% [markdown]
# *Figure 1.4.* The variance of $x_t$ for data of variance 1. With the roots it stays at 1. Without them it drops to one half where image and noise are equal, and comes back: a network would meet inputs of changing scale.

# %% [markdown]
# ## 1.4 `extract`: one coefficient for each image
#
# *Question.* A batch holds images at different $t$. Each coefficient is a table of $T$ numbers. How does image number 5 get *its* number?
#
# *Derive.* Three moves: look the numbers up (`v[t]`, shape (B,)), append axes of length 1 until there are as many as in the image, let broadcasting do the rest. The slow form, to be sure what is meant:

# %%
v, t = alphas_bar.sqrt(), torch.tensor([0, 100, 300, 999])
slow = torch.stack([v[int(t[i])] * digits[i].double() for i in range(4)])
fast = v[t].view(4, 1, 1, 1) * digits[:4].double()
print("looked up in a loop and by broadcasting, equal:", torch.equal(slow, fast))

# %% [markdown]
# > **Predict.** You forget the view and write `v[t] * x` for 8 images of 8 by 8 pixels, so `v[t]` has shape (8,). Error, right result, or wrong result?
# > <details><summary>Then look</summary>Wrong, and silent. Broadcasting aligns shapes from the right, so the eight numbers meet the eight <i>columns</i>. It would be an error for seven images. This is the most treacherous mistake of this section: it stays silent exactly where batch size and width agree.</details>

# %%
t8 = torch.tensor([0, 100, 200, 300, 400, 500, 700, 999])
right, wrong = v[t8].view(8, 1, 1, 1) * digits[:8], v[t8] * digits[:8]
_ = plots.chain(torch.stack([right, wrong]), t8, names=("with view", "without"))

# %% [markdown]
# *Figure 1.5.* Eight digits scaled by their coefficient. Upper row: each image fades as its t says. Lower row, the forgotten view: every image fades from left to right, and no error was raised.

# %% [markdown]
# **Exercise 1.2 (one star).** The post's function with the post's signature: `v` is (T,), `t` is (B,), `x_shape` is the shape of the batch. Return (B, 1, …, 1) **in v's dtype**.
# <details><summary>Hint 1</summary>Look up first, then view.</details>
# <details><summary>Hint 2</summary>len(x_shape) - 1 ones. No .float(): the next cells say why.</details>

# %%
def extract(v, t, x_shape):
    ...

# %%
extract = checks.extract(extract)

# %% [markdown]
# **What goes wrong: `.float()` inside.** The post's `extract` looks up in float64 and then casts to float32. For training that is the right precision: a float64 coefficient would turn a float32 image into float64, which no float32 network takes. But a look-up is the wrong place to choose it. Whoever works in float64, to test a formula, silently gets float32 coefficients:

# %%
t4, noise = torch.tensor([0, 100, 300, 999]), torch.randn(4, 1, 8, 8, dtype=torch.float64)
signal, spread = alphas_bar.sqrt()[t4].view(4, 1, 1, 1), (1 - alphas_bar).sqrt()[t4].view(4, 1, 1, 1)
exact = signal * digits[:4].double() + spread * noise
rounded = signal.float() * digits[:4].double() + spread.float() * noise
print(f"with .float(), a float64 x_t is wrong by more than 1e-9: {bool((rounded - exact).abs().max() > 1e-9)}")

# %% [markdown]
# And whoever works in half precision gets float32 back, which a half-precision network refuses:

# %%
x_half = spread.float() * digits[:4].bfloat16()
print("bfloat16 image times float32 coefficient:", x_half.dtype)
try:
    torch.nn.Linear(8, 8, dtype=torch.bfloat16)(x_half)
except RuntimeError:
    print("RuntimeError: the network wants bfloat16")

# %% [markdown]
# So `extract` keeps v's precision, and whoever multiplies an image chooses. The package takes coefficients in float32 at least, in float64 for float64 images, and gives the result the image's own dtype. `GaussianDiffusion` holds all tables from here on; its `q_sample` is what you will write next:

# %%
process = GaussianDiffusion(schedules.linear(1000))
for dtype in (torch.bfloat16, torch.float32, torch.float64):
    x_t = process.q_sample(digits[:4].to(dtype), t4, noise.to(dtype))
    print("images in", dtype, "-> x_t in", x_t.dtype)
assert torch.allclose(x_t, exact, rtol=1e-14, atol=1e-14)

# %% [markdown]
# **Exercise 1.3 (one star).** Equation (1.2) as a function, with what you just wrote. `x_0` and `noise` are (B, \*D), `t` is (B,): **every image has its own t**. `alphas_bar` is (T,).
# <details><summary>Hint 1</summary>Two coefficients, two calls of your extract.</details>
# <details><summary>Hint 2</summary>Variances are alphas_bar and 1 - alphas_bar. What multiplies x_0 and the noise is a root.</details>

# %%
def q_sample(x_0, t, noise, alphas_bar):
    ...

# %%
q_sample = checks.q_sample(q_sample)

# %% [markdown]
# **What goes wrong: "t enters through $\bar\alpha_t$".** The post says that the step reaches the network through $\bar\alpha_t$. That is half of it: $x_t$ depends on $\bar\alpha_t$. The network is also *told* $t$, as a second argument (notebook 3 shows how). Without that, one network would have to guess the noise level from the picture.

# %% [markdown]
# ## 1.5 Schedules, and what the signal-to-noise ratio says
#
# *Question.* The betas may be chosen freely. What makes a good choice?
#
# *Derive.* Take data of variance 1. By (1.2) the image contributes variance $\bar\alpha_t$ to $x_t$ and the noise contributes $1-\bar\alpha_t$. Their ratio is the signal-to-noise ratio (信噪比):
# $$\operatorname{SNR}(t) = \frac{\bar\alpha_t}{1-\bar\alpha_t}. \tag{1.3}$$
# It determines the chain, since $\bar\alpha_t = \operatorname{SNR}/(1+\operatorname{SNR})$. A good schedule has an SNR that
#
# - starts high: the first step back, from $x_1$ to $x_0$, should have little to do;
# - ends near 0: the chain must end in noise (section 1.6);
# - falls evenly in between: where log SNR plunges, one step must repair much; where it hardly moves, steps are wasted.
#
# Five schedules from DDPM's code and later papers: *linear* (your exercise), *quadratic* (the roots of β are evenly spaced), *constant* (always 0.02), *cosine* and *sigmoid* ($\bar\alpha_t$ itself follows a cosine or a sigmoid).
#
# > **Predict.** Which of the five still shows most of the digit at half time, and which destroys it first?
# > <details><summary>Then look</summary>Cosine and sigmoid keep half of the variance until half time. The constant schedule starts with the β that the linear one ends with, and is done after a fifth of the steps.</details>

# %%
names = ("linear", "cosine", "quadratic", "sigmoid", "constant")
processes = {name: GaussianDiffusion(schedules.named(name, 1000)) for name in names}
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4))
_ = plots.schedule({name: p.alphas_bar for name, p in processes.items()}, ax=axes[0])
_ = plots.log_snr({name: p.alphas_bar for name, p in processes.items()}, ax=axes[1])

# %% [markdown]
# *Figure 1.6.* Left: the share of the image's variance that is left. Right: the same as log SNR. The constant schedule destroys the image in the first fifth of the steps and spends the rest on noise. Linear uses the last third for next to nothing. Cosine and sigmoid spread the destruction over all steps; their log SNR plunges only in the first few and in the last steps.

# %% [markdown]
# *See* what that means for an image. Every column is the same number of steps further on:

# %%
t = torch.arange(0, 1000, 111)
torch.manual_seed(2)
noise, x_0 = torch.randn(1, 1, 8, 8).expand(10, -1, -1, -1), digits[3].expand(10, 1, 8, 8)
rows = torch.stack([processes[name].q_sample(x_0, t, noise) for name in ("linear", "cosine")])
_ = plots.chain(rows, t, names=("linear", "cosine"))

# %% [markdown]
# *Figure 1.7.* The same digit with the same noise. Upper row: linear; from the middle on the digit is gone. Lower row: cosine; the digit goes under later and more evenly.

# %% [markdown]
# **The cosine schedule** (Nichol and Dhariwal 2021) asks for the curve first and computes the betas from it. With $u = t/T$,
# $$\begin{aligned} f(u) &= \cos^2\!\Big(\frac{u+s}{1+s}\cdot\frac{\pi}{2}\Big),\qquad \bar\alpha(u) = \frac{f(u)}{f(0)}, \\ \beta_t &= \min\Big(1 - \frac{\bar\alpha(t/T)}{\bar\alpha((t-1)/T)},\ 0.999\Big). \end{aligned} \tag{1.4: Improved DDPM Eq. 17}$$
# The ratio follows from $\bar\alpha_t = \alpha_t\,\bar\alpha_{t-1}$. The offset $s = 0.008$ keeps the first betas from being tiny: with $s = 0$ the curve starts out flat. The cap is needed at the end, where $\bar\alpha$ reaches 0 and $\beta$ would be 1: such a step keeps nothing of the image, and section 1.8 divides by what is kept.
#
# **Exercise 1.4 (two stars).** Return the $T$ betas of (1.4) as float64.
# <details><summary>Hint 1</summary>Compute f at T + 1 places, 0, 1/T, …, 1. The factor f(0) cancels in the ratio.</details>
# <details><summary>Hint 2</summary>1 - f[1:] / f[:-1], then clamp.</details>

# %%
def cosine_betas(T, s=0.008, max_beta=0.999):
    ...

# %%
cosine_betas = checks.cosine_betas(cosine_betas)

# %% [markdown]
# **How many bits of the image are left?** (Optional; it needs entropy.) The mutual information $I(x_0; x_t)$ says how many bits $x_t$ tells about $x_0$: the entropy $h$ of $x_t$ less the entropy that remains when $x_0$ is known. For a pixel of variance 1 that is itself Gaussian, $x_t$ is Gaussian with variance 1, and given $x_0$ its variance is $1-\bar\alpha_t$. The entropy of a Gaussian with variance $v$ is $\tfrac12\log_2(2\pi e\,v)$, so
# $$I(x_0; x_t) = h(x_t) - h(x_t\mid x_0) = \tfrac12\log_2(2\pi e) - \tfrac12\log_2\big(2\pi e(1-\bar\alpha_t)\big) = -\tfrac12\log_2(1-\bar\alpha_t) \tag{1.5}$$
# which is $\tfrac12\log_2(1+\operatorname{SNR})$, because $1/(1-\bar\alpha_t) = 1+\operatorname{SNR}$. Among all distributions of the same variance the Gaussian has the largest entropy, so (1.5) is an upper bound for a pixel with variance 1 or less; a digit's pixel never holds more than $\log_2 17 = 4.1$ bits anyway.

# %% [markdown]
# *Verify.* For two Gaussians of correlation $\rho$ the mutual information is $-\tfrac12\log_2(1-\rho^2)$. So $\rho^2$ of many pairs must be $\bar\alpha_t$. (A correlation from $n$ pairs is uncertain by $(1-\rho^2)/\sqrt n$.)

# %%
torch.manual_seed(2)
pixels = torch.randn(200_000, 1, dtype=torch.float64)
x_t = process.q_sample(pixels, torch.full((200_000,), 250), torch.randn(pixels.shape, dtype=torch.float64))
rho = torch.corrcoef(torch.cat([pixels, x_t], 1).T)[0, 1]
assert abs(rho - alphas_bar[250].sqrt()) < 6 * (1 - alphas_bar[250]) / math.sqrt(200_000)

# %%
fig, ax = plt.subplots(figsize=(6, 3))
for name in ("linear", "cosine"):
    bits = (-0.5 * torch.log2(1 - processes[name].alphas_bar)).clamp(max=math.log2(17))
    ax.plot(bits, "-" if name == "linear" else "--", label=name)
_ = ax.set(xlabel="t", ylabel="bits per pixel, at most"), ax.legend()

# %% [markdown]
# *Figure 1.8.* What a pixel of $x_t$ can still tell about $x_0$, at most. With the linear schedule half of the 4.1 bits are gone after about 70 of the 1000 steps. The second half of the linear chain works on the last tenth of a bit. It is not wasted: coarse shapes are spread over many pixels, and each of them needs to tell only a little.

# %%
for t in (19, 99, 499, 999):
    print(f"linear, t = {t:3}: at most {-0.5 * torch.log2(1 - alphas_bar[t]):.5f} bits per pixel")

# %% [markdown]
# **What goes wrong: "later papers let β grow exponentially".** The post says so ("and in other ways"); none of the repositories that it links to does. The next schedule in print was the cosine. Taken literally (`schedules.geometric`: the same factor from each β to the next), the chain does not end in noise:

# %%
print(f"alphas_bar_T of the literal reading: {GaussianDiffusion(schedules.geometric(1000)).alpha_bar_T:.4f}")
print(f"of the linear schedule: {process.alpha_bar_T:.6f}")

# %% [markdown]
# ## 1.6 Chains that never reach the noise
#
# *Question.* A laptop is slow, so you take $T = 100$ and keep $\beta$ from 0.0001 to 0.02. What happens?
#
# Sampling starts in $\mathcal N(0, I)$, the only distribution at hand. So the forward chain must *end* there. By (1.2) it ends at mean $\sqrt{\bar\alpha_T}\,x_0$.
#
# > **Predict.** How much of the image's amplitude, $\sqrt{\bar\alpha_T}$, is left after these 100 steps: 0.6 %, 6 % or 60 %?
# > <details><summary>Then look</summary>60 %. A tenth of the steps with the same betas adds up to a tenth of the sum of betas, and the sum stands in an exponent. Widely read tutorials use T = 200 or 300 with these betas; at 200 more than a third of the amplitude is left.</details>

# %%
for T in (10, 50, 100, 200, 300, 1000):
    a = torch.prod(1 - schedules.linear(T)).item()
    print(f"T = {T:4}: alphas_bar_T = {a:.3g}, {math.sqrt(a):6.1%} of the amplitude left")

# %% [markdown]
# | published code | T | betas | where it ends |
# |---|---|---|---|
# | DDPM, and the repository behind the post | 1000 | 0.0001 … 0.02 | in noise |
# | improved-diffusion, lucidrains ("linear") | any | the same, times 1000/T | in noise, if T is well above 20 |
# | a well-known annotated tutorial, first version | 200 | 0.0001 … 0.02 | 36 % of the amplitude left |
# | copies of it | 300 | 0.0001 … 0.02 | 22 % left |
#
# What does that do to a sampler? The average digit is mostly paper, so it is dark. If the chain stops early, $x_T$ is still dark on average. A sampler that starts in $\mathcal N(0, I)$ starts too bright, at images that the network never saw in training.

# %%
fig, ax = plt.subplots(figsize=(6, 3))
torch.manual_seed(3)
for T in (1000, 100):
    short = GaussianDiffusion(schedules.linear(T))
    t_last = torch.full((len(digits),), T - 1)
    x_T = short.q_sample(digits, t_last, torch.randn(digits.shape))
    ax.hist(x_T.mean((1, 2, 3)), bins=40, alpha=0.6, density=True, label=f"T = {T}")
_ = ax.set(xlabel="mean of the 64 pixels of $x_T$", ylabel="density"), ax.legend()

# %% [markdown]
# *Figure 1.9.* The mean brightness of $x_T$ for all 1797 digits. With 1000 steps it lies around 0, as noise does. With 100 steps it stays dark: the chain never arrives.
#
# `describe()` says where a chain ends and warns by name. Its unit is bits per pixel: how far $x_T$ of a pixel with $x_0 = \pm 1$ is from $\mathcal N(0, 1)$, as a Kullback-Leibler divergence (notebook 2 calls it $L_T$):

# %%
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    short, full = (GaussianDiffusion(schedules.linear(T)).describe() for T in (100, 1000))
print(f"T =  100: {short.prior_bits:.5f} bits per pixel;", caught[0].category.__name__)
print(f"T = 1000: {full.prior_bits:.5f} bits per pixel; warnings in all: {len(caught)}")

# %% [markdown]
# **Repair.** Multiply the betas by $1000/T$ (improved-diffusion does): their sum, which decides the end as long as each of them is small, then is the same for every $T$. Or take the cosine schedule, which is defined for every $T$. The scaling has a limit: at $T = 20$ the last beta would be 1, which erases the image in one step.

# %%
for T in (50, 100, 200, 1000):
    scaled = GaussianDiffusion(schedules.linear_scaled(T))
    print(f"T = {T:4}: alphas_bar_T = {scaled.alpha_bar_T:.1e}")
try:
    schedules.linear_scaled(20)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## 1.7 The posterior: one step back, if you know where you came from
#
# *Question.* The way back asks for $x_{t-1}$ given $x_t$. Suppose for a moment that we also knew the clean image $x_0$. Where was the chain one step earlier?
#
# This is the keystone of DDPM: the network will later imitate exactly this distribution, with its own guess in the place of $x_0$.
#
# *Derive.* Bayes' rule, with everything conditioned on $x_0$:
# $$q(x_{t-1}\mid x_t, x_0) = \frac{q(x_t\mid x_{t-1}, x_0)\;q(x_{t-1}\mid x_0)}{q(x_t\mid x_0)} .$$
# The chain forgets: given $x_{t-1}$, the step to $x_t$ does not look at $x_0$, so the first factor is (1.1). The second is (1.2) for $t-1$. The denominator does not contain $x_{t-1}$; it only makes the total 1. Once $x_0$ is given, every pixel has its own noise and they are independent, so one pixel is enough. Write $x$ for $x_{t-1}$ and collect what stands in the exponent:
# $$-\frac12\left[\frac{(x_t-\sqrt{\alpha_t}\,x)^2}{\beta_t} + \frac{(x-\sqrt{\bar\alpha_{t-1}}\,x_0)^2}{1-\bar\alpha_{t-1}}\right] .$$
# (Here $t\ge 2$, so that $1-\bar\alpha_{t-1}$ is not 0. For $t = 1$ there is nothing to find: $x_{t-1}$ is $x_0$, and the result below says so too.) Multiply out and sort by powers of $x$:
# $$-\frac12\left[x^2\Big(\frac{\alpha_t}{\beta_t}+\frac{1}{1-\bar\alpha_{t-1}}\Big) - 2x\Big(\frac{\sqrt{\alpha_t}\,x_t}{\beta_t}+\frac{\sqrt{\bar\alpha_{t-1}}\,x_0}{1-\bar\alpha_{t-1}}\Big)\right] + \text{(no } x\text{)} .$$
# A quadratic in $x$ with a negative sign: a Gaussian. For $\mathcal N(\tilde\mu, \tilde\beta)$ the bracket reads $x^2/\tilde\beta - 2x\,\tilde\mu/\tilde\beta$, so we can read off both.
#
# *The variance.* Compare the factors of $x^2$ and bring them over one denominator. On the way use $\alpha_t\bar\alpha_{t-1} = \bar\alpha_t$ and $\beta_t = 1-\alpha_t$:
# $$\frac1{\tilde\beta_t} = \frac{\alpha_t}{\beta_t}+\frac{1}{1-\bar\alpha_{t-1}} = \frac{\alpha_t(1-\bar\alpha_{t-1})+\beta_t}{\beta_t(1-\bar\alpha_{t-1})} = \frac{\alpha_t-\bar\alpha_t+1-\alpha_t}{\beta_t(1-\bar\alpha_{t-1})} = \frac{1-\bar\alpha_t}{\beta_t(1-\bar\alpha_{t-1})} .$$
# *The mean.* Multiply the factor of $2x$ by $\tilde\beta_t$; in each term one denominator cancels:
# $$\tilde\mu_t = \tilde\beta_t\Big(\frac{\sqrt{\alpha_t}\,x_t}{\beta_t}+\frac{\sqrt{\bar\alpha_{t-1}}\,x_0}{1-\bar\alpha_{t-1}}\Big) = \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t+\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0 .$$
# Together:
# $$\begin{aligned} q(x_{t-1}\mid x_t,x_0) &= \mathcal N\big(x_{t-1};\ \tilde\mu_t,\ \tilde\beta_t I\big), \\ \tilde\mu_t &= \underbrace{\tfrac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}}_{\texttt{posterior\_mean\_coef1}} x_0 + \underbrace{\tfrac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}}_{\texttt{posterior\_mean\_coef2}} x_t,\qquad \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t . \end{aligned} \tag{1.6: DDPM Eq. 6-7}$$
#
# *Verify, by brute force.* Forget the algebra. Put Bayes' rule on a fine grid of values for $x_{t-1}$, normalise, and read off mean and variance:

# %%
x_0, x_t = torch.tensor([[0.6]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
grid = torch.linspace(-6, 6, 60001, dtype=torch.float64)


def bayes_on_the_grid(t):
    step = torch.distributions.Normal((1 - betas[t]).sqrt() * grid, betas[t].sqrt())
    jump = torch.distributions.Normal(alphas_bar[t - 1].sqrt() * x_0[0], (1 - alphas_bar[t - 1]).sqrt())
    weight = torch.softmax(step.log_prob(x_t[0]) + jump.log_prob(grid), 0)
    mean = (weight * grid).sum()
    return mean, (weight * (grid - mean) ** 2).sum()

# %%
for t in (1, 10, 300, 999):
    mean, var = bayes_on_the_grid(t)
    by_formula = process.q_posterior(x_0, x_t, torch.tensor([t]))
    assert abs(mean - by_formula.mean) < 1e-9 and abs(var / by_formula.log_var.exp() - 1) < 1e-6
print("Bayes on a grid and equation (1.6) agree, mean and variance, at four different t")

# %% [markdown]
# > **Predict.** The mean mixes the two things that we know, $x_0$ and $x_t$. At `t = 500`, which of the two has nearly all of the weight?
# > <details><summary>Then look</summary>x_t, with more than 99 %. One step of a thousand moves the image very little; x_0 only tells in which direction.</details>

# %%
fig, ax = plt.subplots(figsize=(6, 3))
ax.semilogx(range(1, 1001), process.posterior_mean_coef1, label="weight of $x_0$ (coef1)")
ax.semilogx(range(1, 1001), process.posterior_mean_coef2, "--", label="weight of $x_t$ (coef2)")
_ = ax.set(xlabel="t + 1", ylabel="weight"), ax.legend()

# %% [markdown]
# *Figure 1.10.* At t = 0 (left end) the posterior mean is $x_0$ itself. From t of about 100 on nearly all weight is on $x_t$: a single step moves the image very little, and $x_0$ only bends the path.

# %% [markdown]
# **Exercise 1.5 (two stars).** Equation (1.6): return `(mean, var)` with mean (B, \*D) and var (B, 1, …, 1), the variance and not its logarithm. It must be exact at `t = 0`, where there is no earlier step and $\bar\alpha_{t-1}$ is the empty product.
# <details><summary>Hint 1</summary>Build alphas_bar_prev by putting a 1 in front of alphas_bar and dropping its last entry.</details>
# <details><summary>Hint 2</summary>The roots: over alphas_bar_prev in front of x_0, over alpha in front of x_t, none in the variance.</details>

# %%
def posterior(x_0, x_t, t, betas):
    ...

# %%
posterior = checks.posterior(posterior)

# %% [markdown]
# > **Predict.** What is the variance of the posterior at `t = 0`? And its logarithm, which code prefers to store?
# > <details><summary>Then look</summary>Zero: we know x_0, and x_0 is where the chain was. Its logarithm is minus infinity.</details>

# %%
print(f"posterior variance at t = 0: {process.posterior_var[0]:.0f}, its logarithm: {process.posterior_log_var[0]}")
first, second = process.posterior_log_var_clipped[:2].tolist()
print(f"log of the clipped table: t = 0: {first:.2f}, t = 1: {second:.2f}")
print(f"used for q at t = 0 it adds noise of standard deviation {math.exp(first / 2):.4f}")

# %% [markdown]
# **What goes wrong: minus infinity, and who may clip it.** $-\infty$ is the right value for $q$: the posterior is a point, and its sample is its mean. The *model's* last step needs a finite one: it must be a density under which $x_0$ can be scored (notebook 2). So code keeps a second table in which index 0 repeats the value of index 1 (−9.82; the first official code clipped the variance at 1e-20 instead, which gives −46.05). The trap is to use the clipped table for both: the posterior at t = 0 would then scatter around $x_0$, which it knows.
#
# The post builds it as `cat([posterior_var[1:2], posterior_var[1:]])`. With $T = 1$ the slice `[1:2]` is empty, so the table loses its only entry; building works, the first sampling step fails:

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
# ## 1.8 Ways back to $x_0$, and how much they can be trusted
#
# *Question.* A network will not know $x_0$. It will predict something: the noise, say. How do we get $x_0$ from that, and what happens to the network's errors on the way?
#
# *Derive.* Solve (1.2) for $x_0$:
# $$x_0 = \frac{x_t-\sqrt{1-\bar\alpha_t}\;\epsilon}{\sqrt{\bar\alpha_t}} . \tag{1.7: DDPM Eq. 15}$$
# And solve (1.6) for $x_0$, for a network that predicts the mean of $x_{t-1}$:
# $$x_0 = \frac{\tilde\mu_t - \texttt{coef2}\;x_t}{\texttt{coef1}} . \tag{1.8}$$
#
# **Exercise 1.6 (one star).** Equation (1.7), with shapes as in exercise 1.3.
# <details><summary>Hint 1</summary>You have extract.</details>
# <details><summary>Hint 2</summary>The noise is scaled by the root of 1 - alphas_bar and then everything is divided by the root of alphas_bar.</details>

# %%
def x_0_from_eps(x_t, t, eps, alphas_bar):
    ...

# %%
x_0_from_eps = checks.x_0_from_eps(x_0_from_eps)

# %% [markdown]
# > **Predict.** At the last step the network's noise is off by 0.01. By how much is $x_0$ off, if its whole range is 2: by 0.01, by 0.1, or by more than half of the range?
# > <details><summary>Then look</summary>By 1.57. Late in the chain x_t is nearly all noise; what is left of the image must be magnified 157 times, and the error with it.</details>
#
# *How far can they be trusted?* Both formulas are linear, so an error in what the network predicts is multiplied by a fixed factor: $\sqrt{1/\bar\alpha_t - 1}$ for the noise, $1/\texttt{coef1}$ for the mean of $x_{t-1}$.

# %%
for t in (0, 1, 100, 500, 999):
    from_eps, from_x_prev = process.sqrt_recipm1_alphas_bar[t], 1 / process.posterior_mean_coef1[t]
    print(f"t = {t:3}: an error in eps times {from_eps:8.4f}, an error in x_prev times {from_x_prev:8.2f}")

# %% [markdown]
# *Verify*: go from $x_0$ to $x_t$ and back both ways, then once more with 0.01 added to what the network would predict:

# %%
x_0, eps = digits[:1].double(), torch.randn(1, 1, 8, 8, dtype=torch.float64)
for t in (torch.tensor([i]) for i in (0, 1, 100, 500, 999)):
    x_t = process.q_sample(x_0, t, eps)
    x_prev = process.q_posterior(x_0, x_t, t).mean
    for back, value, factor in [
        (process.x_0_from_eps, eps, process.sqrt_recipm1_alphas_bar[t]),
        (process.x_0_from_x_prev, x_prev, 1 / process.posterior_mean_coef1[t]),
    ]:
        assert torch.allclose(back(x_t, t, value), x_0, rtol=0, atol=1e-10)
        off = (back(x_t, t, value + 0.01) - x_0).abs()
        assert torch.allclose(off, 0.01 * factor * torch.ones_like(off), rtol=1e-6)
print("both ways lead back to x_0, and multiply an error by exactly these factors")

# %%
fig, ax = plt.subplots(figsize=(6, 3))
ax.semilogy(process.sqrt_recipm1_alphas_bar, label="from eps")
ax.semilogy(1 / process.posterior_mean_coef1, "--", label="from the mean of $x_{t-1}$")
_ = ax.set(xlabel="t", ylabel="error of $x_0$ / error of prediction"), ax.legend()

# %% [markdown]
# *Figure 1.11.* The factor by which an error is multiplied on the way to $x_0$, for errors of one size in either prediction. For eps it is below 1 as long as $\bar\alpha_t > 1/2$ and large at the end. For $x_{t-1}$ it is 1 at t = 0, where coef1 is 1 and coef2 is 0, and then climbs at once: a step is so small that it says little about the end of the way. Late, both are hopeless, which is why samplers clip the estimated $x_0$ to [−1, 1] (notebook 4).
#
# Where $\bar\alpha_t$ is exactly 0 (a last beta of 1), $x_t$ is the noise itself. (1.7) divides by 0 there: the post's table holds infinity, and 0 times infinity is not a number. (1.8) still works, since coef1 is not 0. The package refuses:

# %%
ends_in_noise = GaussianDiffusion(schedules.zero_terminal_snr(betas))
print("the post's table at the last step:", (1 / torch.cumprod(1 - ends_in_noise.betas, 0)).sqrt()[-1].item())
try:
    ends_in_noise.x_0_from_eps(torch.zeros(1, 2), torch.tensor([999]), torch.zeros(1, 2))
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## 1.9 Why the steps must be small
#
# *Question.* Section 1.7 needed $x_0$. The sampler will not have it; what it needs is $q(x_{t-1}\mid x_t)$. Why may a network model that by a Gaussian, and what has that Gaussian to do with the posterior?
#
# *Derive, first the shape.* Bayes once more, now without $x_0$: $q(x_{t-1}\mid x_t) \propto q(x_t\mid x_{t-1})\;q(x_{t-1})$. The first factor, seen as a function of $x_{t-1}$, is a Gaussian bell of width $\sqrt{\beta_t/\alpha_t}$. If $\beta_t$ is small the bell is narrow. How narrow is narrow enough? $q(x_{t-1})$ itself was smoothed by noise of variance $1-\bar\alpha_{t-1}$. If $\beta_t$ is small *compared with that*, then on so short a piece the logarithm of $q(x_{t-1})$ is nearly a straight line, and a bell times the exponential of a straight line is a bell again, moved a little. If $\beta_t$ is large the bell is wide, and the product shows every bump that $q(x_{t-1})$ has. (At the very first steps little noise is there yet, so that even small betas are not small in this sense: the last steps back, which settle the grey levels, are the least Gaussian. Notebook 2 treats the last one apart.)
#
# *Verify, exactly.* Let the data be two narrow heaps at −1 and +1, so that everything can be computed on a grid. Let `a` be $\bar\alpha_{t-1}$: how far the chain has come before the step.
#
# > **Predict.** You stand at $x_t = 0.2$, between the heaps, and the step had the large variance β = 0.9. What does the distribution of $x_{t-1}$ look like?
# > <details><summary>Then look</summary>It has two humps. So wide a step hides where it came from: the left heap is nearly as likely as the right one. No single Gaussian can say "left or right".</details>

# %%
x_t, a, heap = torch.tensor(0.2, dtype=torch.float64), 0.7, 0.1
noised_heap = math.sqrt(a * heap**2 + 1 - a)
left, right = (torch.distributions.Normal(m * math.sqrt(a), noised_heap).log_prob(grid) for m in (-1, 1))

# %%
def reverse_step(beta):
    step = torch.distributions.Normal(math.sqrt(1 - beta) * grid, math.sqrt(beta))
    return torch.softmax(step.log_prob(x_t) + torch.logaddexp(left, right), 0)

# %% [markdown]
# How far is the result from the Gaussian of the same mean and variance? Measure it in bits, by the Kullback-Leibler divergence (0 means equal):

# %%
def bits_from_gaussian(weight):
    mean = (weight * grid).sum()
    bell = -((grid - mean) ** 2) / (2 * (weight * (grid - mean) ** 2).sum())
    return (weight * (torch.log2(weight) - torch.log_softmax(bell, 0) / math.log(2))).nansum().item()

# %%
distances = {beta: bits_from_gaussian(reverse_step(beta)) for beta in (0.9, 0.5, 0.1, 0.02, 0.004)}
for beta, bits in distances.items():
    print(f"beta = {beta:5}: {bits:.1e} bits from a Gaussian")

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 2.6))
for ax, beta in zip(axes, (0.9, 0.5, 0.02), strict=True):
    weight = reverse_step(beta)
    mean, var = weight @ grid, weight @ grid**2 - (weight @ grid) ** 2
    gaussian = torch.distributions.Normal(mean, var.sqrt()).log_prob(grid).exp()
    ax.plot(grid, weight / (grid[1] - grid[0]), label="exact")
    ax.plot(grid, gaussian, "--", label="Gaussian")
    _ = ax.set(title=rf"$\beta$ = {beta}", xlabel="$x_{t-1}$", xlim=(-2, 2))
_ = axes[0].legend(), axes[0].set(ylabel="density of $x_{t-1}$")

# %% [markdown]
# *Figure 1.12.* The exact reverse step (solid) and the Gaussian of the same mean and variance (dashed). For large β it has two humps: was it the left heap or the right one? For small β the two curves lie on each other.
#
# Do many small errors add up to the large one? Not here: from β = 0.02 to a fifth of it the step comes about 90 times closer to its Gaussian, while only five times as many steps are needed.
#
# *Derive, then the mean.* The true step back is an average of posteriors, over all $x_0$ that may be behind this $x_t$:
# $$q(x_{t-1}\mid x_t) = \int q(x_{t-1}\mid x_t, x_0)\;q(x_0\mid x_t)\,dx_0 .$$
# The mean of an average is the average of the means, and by (1.6) the posterior's mean is linear in $x_0$. So
# $$\mathbb E[x_{t-1}\mid x_t] = \texttt{coef1}\cdot\mathbb E[x_0\mid x_t] + \texttt{coef2}\cdot x_t . \tag{1.9}$$
# This is why a *guess* of $x_0$ is enough: a network that guesses the average $x_0$ behind $x_t$ has the mean of the step back exactly. Its variance is a choice; two are common, and notebook 2 says for which data each is right.
#
# *Verify* on the same grid, with β = 0.5. The left side is one sum. For $\mathbb E[x_0\mid x_t]$ do Bayes a third time, with a jump from $x_0$ straight to $x_t$:

# %%
beta, a_t = 0.5, a * (1 - 0.5)
data_density = torch.logaddexp(*(torch.distributions.Normal(m, heap).log_prob(grid) for m in (-1, 1)))
jump = torch.distributions.Normal(math.sqrt(a_t) * grid, math.sqrt(1 - a_t))
mean_x_0 = torch.softmax(jump.log_prob(x_t) + data_density, 0) @ grid

# %%
coef1, coef2 = math.sqrt(a) * beta / (1 - a_t), math.sqrt(1 - beta) * (1 - a) / (1 - a_t)
assert abs(coef1 * mean_x_0 + coef2 * x_t - reverse_step(beta) @ grid) < 1e-9
print("the mean of the true step back is the posterior's mean at E[x_0 | x_t], to 1e-9")

# %% [markdown]
# Small steps are the reason for $T = 1000$, and the price of DDPM: a thousand network calls for one image. Notebook 4 takes fewer steps of another kind. Denoising Diffusion GANs (notebook 5) keep four large steps and replace the Gaussian.

# %% [markdown]
# ## 1.10 Skipping steps
#
# *Question.* Training used 1000 steps. Must sampling visit all of them?
#
# *Derive.* Choose some steps $\tau_1 < \tau_2 < \dots < \tau_S$. Nothing in (1.2) changes: $x_{\tau_i}$ still has $\bar\alpha_{\tau_i}$. The chain that visits only these steps is a chain like any other: by section 1.3 the skipped steps between two visited ones merge into a single Gaussian step, whose noise is independent of what came before. Its betas must lead from one to the next. From $\bar\alpha_{\tau_i} = (1-\beta_i')\,\bar\alpha_{\tau_{i-1}}$,
# $$\beta_i' = 1-\frac{\bar\alpha_{\tau_i}}{\bar\alpha_{\tau_{i-1}}},\qquad \bar\alpha_{\tau_0} = 1 . \tag{1.10: Improved DDPM Eq. 19}$$
# That is all. As a *forward* chain it is exact, and every formula of this notebook, the posterior too, holds for it with these betas. What suffers is the way back: the betas are large, and section 1.9 says what that means for a Gaussian step.

# %%
short = process.respaced(spacing.trailing(1000, 10))
print("it visits    ", short.timestep_map.tolist())
print("its betas    ", [round(b, 3) for b in short.betas.tolist()])
print("not these    ", [round(b, 3) for b in betas[short.timestep_map].tolist()])

# %% [markdown]
# *Verify.* Carry mean and variance through the hundred single steps from index 300 to 399, and compare with the one step of the short chain that replaces them:

# %%
mean, var = 1.0, 0.0
for beta in betas[300:400].tolist():
    mean, var = math.sqrt(1 - beta) * mean, (1 - beta) * var + beta
big = short.betas[3].item()
assert abs(mean - math.sqrt(1 - big)) < 1e-12 and abs(var - big) < 1e-12
print(f"a hundred steps and one step with beta = {big:.3f} agree to 1e-12")

# %% [markdown]
# **Exercise 1.7 (one star).** Equation (1.10): from the table `alphas_bar` (T,) and the chosen `timesteps` (increasing), the betas of the short chain, as float64.
# <details><summary>Hint 1</summary>Look up alphas_bar at the timesteps, then divide each by the one before.</details>
# <details><summary>Hint 2</summary>Before the first stands 1, not alphas_bar[timesteps[0] - 1].</details>

# %%
def respaced_betas(alphas_bar, timesteps):
    ...

# %%
respaced_betas = checks.respaced_betas(respaced_betas)

# %% [markdown]
# **What goes wrong: the betas of the chosen steps.** `betas[timesteps]` looks right and adds far too little noise. And two obvious ways to choose 10 of 1000 steps do not *sample* from the same place: every hundredth step from 0 (`leading`) starts sampling at index 900 and never visits the last 99. On the cosine schedule some of the image is still there:

# %%
picked = torch.cumprod(1 - betas[short.timestep_map], 0)[-1]
print(f"alphas_bar at the end: right betas {short.alpha_bar_T:.1e}, picked betas {picked:.2f}")
for choose in (spacing.leading, spacing.trailing):
    start = choose(1000, 10)[-1]
    left = processes["cosine"].sqrt_alphas_bar[start]
    print(f"{choose.__name__}: sampling starts at {start}; cosine: {left:.1%} of the amplitude left")

# %% [markdown]
# ## 1.11 Watch it, and take the wheel
#
# The plane is a good place to see what happens to a *distribution*. Here are the digits and a set of eight heaps of points, noised side by side:

# %%
points = data.eight_gaussians(600, generator=torch.Generator().manual_seed(0))
point_noise = torch.randn(600, 2, generator=torch.Generator().manual_seed(1))
digit_noise = torch.randn(25, 1, 8, 8, generator=torch.Generator().manual_seed(2))

# %%
def draw(figure, t):
    left, right = figure.subplots(1, 2)
    steps = torch.full((600,), t)
    plots.image_grid(process.q_sample(digits[:25], steps[:25], digit_noise), ncols=5, ax=left)
    plots.cloud(process.q_sample(points, steps, point_noise), ax=right)
    right.set(xlim=(-3, 3), ylim=(-3, 3), title=f"t = {t}")

# %%
# NBVAL_IGNORE_OUTPUT
plots.animate(draw, [0, 0, *range(5, 1000, 30), 999, 999], alt="digits and eight heaps of points turning into noise")

# %% [markdown]
# *Figure 1.13.* Twenty-five digits and 600 points on their way. The heaps merge into a ring, then the hole closes: first the fine structure goes, then the coarse one. The way back brings them in the opposite order.

# %%
fig, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
for ax, t in zip(axes, (0, 60, 120, 250), strict=True):
    _ = plots.cloud(process.q_sample(points, torch.full((600,), t), point_noise), ax=ax)
    _ = ax.set(xlim=(-3, 3), ylim=(-3, 3), title=f"t = {t}")

# %% [markdown]
# *Figure 1.14.* The points of figure 1.13, standing still: eight heaps, a ring of heaps that touch, a ring, and a cloud without a hole.

# %% [markdown]
# Now you. In JupyterLab or Colab the slider moves the step; where no kernel runs, figure 1.14 shows four of its places.
#
# > **Predict.** At which step do the eight heaps become a ring, and when does the hole in the ring close?
# > <details><summary>Then look</summary>Around t = 100 the heaps touch, and around t = 250 the hole is gone. At t = 100 you still read every digit: what noise hides first depends on how large it is, and the strokes of a digit are larger than the gaps between the heaps.</details>

# %%
# NBVAL_IGNORE_OUTPUT
def show(t=250):
    draw(plt.figure(figsize=(6, 3)), t)
    plt.show()


_ = ipywidgets.interact(show, t=(0, 999, 10))

# %% [markdown]
# *Figure 1.15.* Look for two places: the step where the eight heaps become a ring, and the step where you can no longer tell a 3 from an 8.

# %% [markdown]
# ## 1.12 What you now have

# %% [markdown] tags=["equations"]
# | | equation | function | test |
# |---|---|---|---|
# | 1.1 | one step, $q(x_t \mid x_{t-1})$ (DDPM Eq. 2) | `process.GaussianDiffusion.q_step` | `test_process.py` `test_single_steps_pushed_through_mean_and_variance_give_the_marginal` |
# | 1.2 | the jump, $q(x_t \mid x_0)$ (DDPM Eq. 4) | `process.GaussianDiffusion.q_sample` | `test_process.py` `test_simulated_steps_have_the_moments_of_the_marginal` |
# | 1.3 | signal-to-noise ratio of $x_t$ | `process.GaussianDiffusion.describe` | `test_process.py` `test_describe_against_fifty_digits` |
# | 1.4 | the cosine schedule (Improved DDPM Eq. 17) | `schedules.cosine` | `test_schedules.py` `test_cosine_against_fifty_digits` |
# | 1.5 | bits of $x_0$ left in $x_t$, at most | `process.GaussianDiffusion.describe` | `test_process.py` `test_describe_agrees_with_the_divergence_from_the_prior` |
# | 1.6 | the posterior, $q(x_{t-1} \mid x_t, x_0)$ (DDPM Eq. 6-7) | `process.GaussianDiffusion.q_posterior` | `test_process.py` `test_the_posterior_is_bayes_rule` |
# | 1.7 | $x_0$ from the noise (DDPM Eq. 15) | `process.GaussianDiffusion.x_0_from_eps` | `test_process.py` `test_erratum_06_an_error_in_eps_grows_157_fold_and_beta_1_gives_no_number` |
# | 1.8 | $x_0$ from the mean of $x_{t-1}$ | `process.GaussianDiffusion.x_0_from_x_prev` | `test_process.py` `test_erratum_05_x_0_from_x_prev_is_exact_first_and_ill_conditioned_late` |
# | 1.9 | mean of the true step back | `process.GaussianDiffusion.x_prev_from_x_0` | `test_oracle.py` `test_as_model_minimises_the_squared_error_of_its_mean_type` |
# | 1.10 | betas of a shorter chain (Improved DDPM Eq. 19) | `process.GaussianDiffusion.respaced` | `test_process.py` `test_a_respaced_chain_has_the_marginals_of_its_base` |

# %% [markdown]
# Every name in the table can be imported, and in a checkout every test can be run. Your own functions, checked above, compute the same.
#
# **Read on.** Ho, Jain and Abbeel 2020, *Denoising Diffusion Probabilistic Models* (arXiv 2006.11239), section 2: you can now follow every line up to Eq. 7, but for Eq. 3 and 5, which notebook 2 derives. Nichol and Dhariwal 2021, *Improved DDPM* (arXiv 2102.09672), section 3.2 for the cosine schedule. Lin and others 2023 (arXiv 2305.08891) on chains that do not end in noise.
#
# **Next**: notebook 2 asks what a network should learn so that it can walk this chain backwards, and finds that predicting the noise is enough.
