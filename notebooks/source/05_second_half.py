# %% [markdown] tags=["sitting"]
# ## 5.30 Four large steps

# %% tags=["start"]
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
four = GaussianDiffusion(schedules.vp(4))  # section 5.31 says where these betas come from
weights, means, stds = data.eight_gaussians_mixture()

# %% [markdown]
# *Question.* A good image has cost about ten evaluations of the network so far. Section 1.9 said why: a step is a Gaussian only if it is small. What would it take to go from noise to data in *four* steps?
#
# **New symbols.** $z$ (`z`) is a *latent*: noise that a generator gets besides $x_t$. $G(x_t, z, t)$ (`G`, 生成器) is a generator of $x_0$. $D(x_{t-1}, x_t, t)$ (`D`, 判别器) is a discriminator; it answers a *logit*, positive for "real".
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
    """Mean and covariance of a step, and in bits what the Gaussian with both loses against it."""
    mean, cov = p @ plane, torch.cov(plane.T, aweights=p, correction=0)
    density = p / (side[1] - side[0]) ** 2
    log_g = torch.distributions.MultivariateNormal(mean, cov).log_prob(plane)
    return mean, cov, (torch.xlogy(p, density) - p * log_g).sum().item() / 0.693147

# %%
long = GaussianDiffusion(schedules.vp(1000))
at = {"one of 1000 steps": (long, 255), "$x_1$ from $x_2$": (four, 1), "$x_0$ from $x_1$": (four, 0)}
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
# *Figure 5.30.* The exact distribution of $x_{t-1}$ (blue) for one $x_t$ (cross), and its best Gaussian (dashed: two standard deviations). Left, $\bar\alpha_t = 0.52$ reached in 1000 steps: the two agree. Right, the *same* $\bar\alpha_t$, but the step goes all the way to $x_0$: eight points to choose from, and the Gaussian puts most of its probability where no data are. <!-- alt: Three square panels. Left, enlarged: a round blue spot inside a dashed circle. Middle, a broad round blue area with a dashed circle. Right, eight small blue spots on a ring, dark on the right and pale on the left, with a large dashed ellipse around them whose middle is empty. -->

# %%
for name, bits in lost.items():
    print(f"{name.replace('$', ''):17}: the best Gaussian loses {abs(bits):.2f} bits")

# %% [markdown]
# No network can repair this: it is the *best* Gaussian. The middle picture is harmless only because so much noise is left there.
#
# ## 5.31 A generator inside of the step
#
# *Derive.* Section 1.9 wrote the true step as an average of posteriors, one for each $x_0$ that may have led to $x_t$:
# $$q(x_{t-1}\mid x_t) = \int q(x_{t-1}\mid x_t, x_0)\;q(x_0\mid x_t)\,dx_0 .$$
# The first factor *is* a Gaussian, for steps of any size (1.6). All that is not Gaussian sits in the second. DDPM replaces the second by one point, $\hat x_0$. **Denoising diffusion GANs** (Xiao, Kreis and Vahdat 2022) replace it by a *draw*: a generator makes $x_0$ from $x_t$ and a latent,
# $$p_\theta(x_{t-1}\mid x_t) = \int p(z)\;q\big(x_{t-1}\mid x_t,\ x_0 = G(x_t, z, t)\big)\,dz . \tag{5.30: DDGAN Eq. 5}$$
# If $G(x_t, z, t)$ is distributed as $q(x_0\mid x_t)$, the step is exact, however large it is. Nothing else changes: sampling is the loop of notebook 4.
#
# **Exercise 5.12 (two stars, 4 minutes).** One step down. `t` is an int for the whole batch; `G(x_t, t, z)` wants it as (B,) int64, and answers $x_0$. Then the posterior (1.6): its mean plus its standard deviation times `noise`. At `t = 0` the answer of `G` itself, without noise. `betas` (T,) is float64.
# <details><summary>Hint 1</summary>torch.full((len(x_t),), t) is the (B,) step. alphas_bar = cumprod(1 - betas); alphas_bar_prev is its entry t - 1.</details>
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
    k, var = below.sum(1).clamp(max=7), 1 / (1 / 0.1**2 + a / (1 - a))
    return var * (means[k] / 0.1**2 + a.sqrt() * x_t / (1 - a)) + var.sqrt() * z[:, 1:]

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
# *Figure 5.31.* Four steps each, and no network in either. Left, with the best possible denoiser: the last step takes a mean over clusters, so nearly all points lie between them. Right, your function with the perfect generator: the data. <!-- alt: Two scatter plots. Left, points fill a disc that ends before the ring of the clusters. Right, eight compact clusters on the ring. -->

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
# **Which four betas?** Those of a differential equation, $\log\bar\alpha(u) = -\tfrac12(20-0.1)\,u^2-0.1\,u$, read off at $T+1$ times. With $\Delta$ for the difference of neighbours,
# $$\beta_t = 1-\exp\big(-0.1\,\Delta u-\tfrac12(20-0.1)\,\Delta(u^2)\big) . \tag{5.31: DDGAN App. C}$$
# The paper's times run from 0, those of its code from 0.001. Whoever loads weights needs the code's:

# %%
for name, betas in (("code", schedules.vp(4)), ("paper", schedules.vp_paper(4))):
    print(f"{name:5}: betas", *[f"{b:.4f}" for b in betas], f" alphas_bar_T {(1 - betas).prod():.2e}")

# %% [markdown]
# ## 5.32 The game
#
# *Question.* Nobody gives us $q(x_0\mid x_t)$ of images. Least squares would teach the generator its mean again. Which loss teaches a *distribution*?
#
# A second network that tries to tell the difference. **Real pairs** $(x_{t-1}, x_t)$ come from the forward process: a jump to $t-1$ (1.2), then one step (1.1); `q_sample_pair` draws both. **Fake pairs** have the same $x_t$ and the generator's $x_{t-1}$. $D$ learns to give real pairs a large logit and fake ones a small one, by the cross-entropy; with $\operatorname{softplus}(a) = \log(1+e^a)$,
# $$L_D = \operatorname{softplus}\big(-D(x_{t-1}, x_t, t)\big)+\operatorname{softplus}\big(D(x_{t-1}^\text{fake}, x_t, t)\big) . \tag{5.32: DDGAN Eq. 4}$$
# $D$ also sees $x_t$; so it recognises a generator that always makes the *same* good point, whose pairs do not fit.
#
# **Exercise 5.13 (one star, 3 minutes).** (5.32) for each image, (B,), in nats.
# <details><summary>Hint</summary>torch.nn.functional.softplus. log(1 + exp(a)) overflows for large a. Do not average over the batch.</details>

# %%
def discriminator_loss(real_logits, fake_logits):
    ...

# %%
discriminator_loss = checks.discriminator_loss(discriminator_loss)

# %% [markdown]
# The generator wants the opposite. It could *maximise* the second term of $L_D$. But at first its fakes are bad and $D$ is sure of it, and there that term is flat: it has hardly a gradient. So it minimises the cross-entropy of "real" instead, the **non-saturating** loss
# $$L_G = \operatorname{softplus}\big(-D(x_{t-1}^\text{fake}, x_t, t)\big) . \tag{5.33: DDGAN Section 3.2}$$
#
# **Exercise 5.14 (one star, 2 minutes).** (5.33) for each image.
# <details><summary>Hint</summary>One line: the term of (5.32) that belongs to real logits.</details>

# %%
def generator_loss(fake_logits):
    ...

# %%
generator_loss = checks.generator_loss(generator_loss)

# %%
logits = torch.linspace(-8, 8, 161)
at_0 = discriminator_loss(torch.full_like(logits, 100.0), logits)  # leaves the fakes' term
ax = plt.subplots(figsize=(5.5, 2.6), layout="constrained")[1]
_ = ax.plot(logits, generator_loss(logits), color=plots.BLUE, label="non-saturating, (5.33)")
_ = ax.plot(logits, -at_0, "--", color=plots.VERMILION, label="minus the discriminator's term")
_ = ax.set(xlabel="logit of a fake: seen through … taken for real", ylabel="loss of G, nats")
_ = ax.legend()

# %% [markdown]
# *Figure 5.32.* Two losses that both fall towards the right; drawn by your functions. On the left, where training begins, the dashed one is flat. <!-- alt: The blue line falls with slope minus one on the left and flattens on the right. The dashed line is flat on the left and falls on the right. -->
#
# **R1.** Nothing keeps $D$ from becoming arbitrarily steep between real and fake; then the generator's gradient changes abruptly. The R1 penalty makes slopes *at the real points* expensive:
# $$R_1 = \frac\gamma2\,\big\lVert\nabla_{x_{t-1}}D(x_{t-1}, x_t, t)\big\rVert^2 . \tag{5.34: Mescheder Eq. 9}$$
# It needs a second derivative, so it is often taken *lazily*, at every $k$-th step only. Then it must be multiplied by $k$ (`interval`), or it weighs a $k$-th of what $\gamma$ says.
#
# **Exercise 5.15 (two stars, 4 minutes).** (5.34) times `interval`, for each image (B,). `D(x_prev, x_t, t)` returns (B,). The result must be differentiable in $D$'s weights, and must not change `x_prev`.
# <details><summary>Hint 1</summary>x = x_prev.detach().requires_grad_(), then torch.autograd.grad(D(x, x_t, t).sum(), x, create_graph=True)[0].</details>
# <details><summary>Hint 2</summary>flatten(1).square().sum(1): the square is summed over the pixels, not averaged.</details>

# %%
def r1_penalty(D, x_prev, x_t, t, gamma, interval):
    ...

# %%
r1_penalty = checks.r1_penalty(r1_penalty)

# %% [markdown]
# ## 5.33 Train it
#
# Both players are multilayer perceptrons. Such networks learn coarse shapes first; `gain` makes their first weights larger, so that they see narrow clusters sooner. A draw, for either of them:

# %%
def draw(G, chain, generator, B=256):
    """t, a real pair, and G's x_{t-1} for the same x_t."""
    t = torch.randint(chain.T, (B,), generator=generator)
    x_0 = data.eight_gaussians(B, generator=generator)
    x_prev, x_t = chain.q_sample_pair(x_0, t, generator=generator)
    guess = G(x_t, t, torch.randn(B, 2, generator=generator))
    return t, x_prev, x_t, chain.q_posterior(guess, x_t, t).sample(generator=generator)

# %%
def players(T):
    """Generator, discriminator, and an optimiser for each."""
    torch.manual_seed(0)
    G, D = MLP(T, 2, 64, latent=2, gain=3), Discriminator(MLP(T, 4, 64, out=1, gain=5))
    rates = (G, 1e-3), (D, 2e-3)
    return G, D, *(torch.optim.Adam(part.parameters(), lr, betas=(0.5, 0.9)) for part, lr in rates)

# %% [markdown]
# One step of each by turns, with your three functions; R1 at every fourth step; rates that fall along a cosine:

# %%
def trained(T, steps=2600):
    """A generator for T steps, its weights averaged. With T = 1 it is an ordinary GAN."""
    (G, D, of_G, of_D), chain = players(T), GaussianDiffusion(schedules.vp(T))
    falling = [torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps) for adam in (of_G, of_D)]
    average, generator = EMA(G, 0.995), torch.Generator().manual_seed(0)
    for step in range(steps):
        t, x_prev, x_t, fake = draw(G, chain, generator)
        loss = discriminator_loss(D(x_prev, x_t, t), D(fake.detach(), x_t, t))
        if step % 4 == 0:
            loss = loss + r1_penalty(D, x_prev, x_t, t, 0.05, 4)
        of_D.zero_grad(), loss.mean().backward(), of_D.step()
        t, _, x_t, fake = draw(G, chain, generator)
        of_G.zero_grad(), generator_loss(D(fake, x_t, t)).mean().backward(), of_G.step()
        average.update(G), [rate.step() for rate in falling]
    return average.model

# %%
generators = {T: trained(T) for T in (1, 4)}
points = {T: walk(G, x_T.float(), schedules.vp(T), latent=2) for T, G in generators.items()}

# %% tags=["folded"]
one = x_t.float().expand(4000, 2)  # the x_1 of figure 5.30
zs = torch.randn(4000, 2, generator=torch.Generator().manual_seed(2))
with torch.no_grad():
    guesses = generators[4](one, torch.zeros(4000, dtype=torch.int64), zs)
wanted = exact.posterior_weights(x_t[None], torch.tensor([0]))[0]

# %% tags=["folded"]
fig, axes = plt.subplots(1, 3, figsize=(9.4, 3.1), layout="constrained")
for ax, title, x in zip(axes, ("one step: a GAN", "four steps: DDGAN"), points.values()):
    _ = plots.cloud(x, ax=ax), ax.set(title=title, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
nearest = torch.bincount(torch.cdist(guesses.double(), means).argmin(1), minlength=8) / 4000
_ = axes[2].bar(torch.arange(8) - 0.2, wanted, 0.4, color="0.6", label="exact")
_ = axes[2].bar(torch.arange(8) + 0.2, nearest, 0.4, color=plots.BLUE, label="$G$, 4000 latents")
_ = axes[2].set(title="$x_0$ from one $x_1$", xlabel="cluster", ylabel="probability"), axes[2].legend()

# %% [markdown]
# *Figure 5.33.* Left and middle: 2000 points of each generator. Right: the question behind it all. From the $x_1$ of figure 5.30, how often does the generator choose each cluster, and how often should it? It has never been told these probabilities; the discriminator of pairs has taught them, roughly. <!-- alt: Two scatter plots, each with eight clusters on a ring and a few points between neighbours. On the right, pairs of grey and blue bars for eight clusters; the blue ones roughly follow the grey ones, high at 0, 1 and 7 and low at 3 to 5. -->

# %% tags=["folded"]
for x in points.values():
    share, held = near(x)
    assert share > 0.8 and held.min() > 0.04
print("both: more than 80% of the points near a cluster, and no cluster with less than 4%")

# %% [markdown]
# Compare the middle with figure 5.31: four steps again, without any exact formula. And be fair to the left: on eight clusters one step does as well. GANs are said to lose modes; with R1 and these rates this one does not (`data/records/ddgan_points.py` repeats both with five seeds). Whether four steps are better than one has to be measured where data are harder, on images: section 5.35.

# %% [markdown] tags=["sitting"]
# ## 5.34 Digits in four evaluations

# %% tags=["start"]
import json
import time

import torch

from ddpm_lesson import Sampling, checks, data, load_pretrained, plots, plots_variants

torch.set_num_threads(1)
ddgan_step = checks.carried("ddgan_step")
digits, gan = (load_pretrained(name, device=device) for name in ("digits_ddpm", "digits_ddgan"))

# %% [markdown]
# The network `digits_ddgan` was trained as you trained the points; its recipe lies beside its weights. The generator is a U-Net that predicts $x_0$; the latent, after two linear layers, is added to the time embedding. Your step draws:

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
# *Figure 5.34.* From noise to digits in four evaluations of the network. After two steps hardly anything can be seen; after three, strokes show through the noise. <!-- alt: Five rows of ten small images. The first three rows look like noise; in the fourth, digits can be guessed behind noise, and the last row holds ten digits. -->

# %% tags=["folded"]
from ddpm_lesson.experiments.features import classified

reader = load_pretrained("digits_classifier").model
sure, which = classified(reader, gan.sample(500))[1].softmax(1).max(1)
assert (sure > 0.9).double().mean() > 0.75 and len(which.unique()) == 10
print("500 digits: the classifier is more than 90% sure of over 75% of them, and finds all ten classes")

# %% [markdown]
# ## 5.35 The trilemma, measured
#
# *Question.* Ten steps, four, or one: what is the price? A generator should draw images of high **quality**, should **cover** the data, and should be **fast**. Xiao and others call it the generative learning *trilemma* (生成学习三难): each family of models had two of the three. (Not a paradox, as the post says: a choice among three.) Measured, on the course's digits:
#
# - quality: *precision* (5.7) and the *Fréchet distance* (4.9);
# - coverage: *recall*, and how many of the classes have at least 2 % of the images;
# - speed: milliseconds for an image, on one thread, in batches of 100.
#
# Each draws 500 images with each of five seeds: chains of `digits_ddpm`; two *distilled* students (section 5.37); `digits_ddgan`; `digits_gan`, the same with one step; a small variational autoencoder (VAE). The first two kinds are told every class in turn, the others know no labels; and all but the chains have networks of about a quarter of the size, or less.
#
# > **Predict.** A VAE draws blurred images in one step. Is its recall low or high?
# > <details><summary>Then look</summary>High, 0.96; its precision is low, 0.43. Recall asks whether a real digit lies in a ball around a drawn one, and the balls reach to the third neighbour: scattered images have large balls. So never read recall alone.</details>

# %%
record = json.loads(data.bundled("records/trilemma.json").read_text("utf-8"))
_ = plots_variants.trilemma(record)

# %% [markdown]
# *Figure 5.35.* Fréchet distance over the time for an image; the area of a disc is the recall. Low and left is good, and large. Bars: 95 % intervals over five seeds. Dashed: real digits that no generator has seen. Both axes are logarithmic. <!-- alt: Discs with names in a plane of milliseconds and Fréchet distance. The chains are low and on the right, the students low and further left. DDGAN and, far to the left, the VAE lie above the dashed line; the GAN of one step is highest, with the smallest disc. -->

# %% tags=["folded"]
keys = "frechet", "precision", "recall", "classes", "ms"
print(f"{'mean ± half interval':20}" + "".join(f"{key:>17}" for key in keys))
for row in [*record["rows"], record["real"]]:
    found = [row["scores"].get(key) for key in keys]
    cells = [f"{score[0]:.3g} ± {score[0] - score[1]:.1g}" if score else "" for score in found]
    print(f"{row['chain']:20}" + "".join(f"{cell:>17}" for cell in cells))

# %% [markdown]
# These milliseconds are the record's. Those of your machine, for two of them:

# %%
# NBVAL_IGNORE_OUTPUT
short, y = Sampling("ddim", steps="trailing10"), digits.labels(100)
ways = {"DDIM-10": lambda: digits.sample(100, short, y=y), "DDGAN-4": lambda: gan.sample(100)}
for name, way in ways.items():
    way(), (begun := time.perf_counter()), way()
    print(f"{name}: {10 * (time.perf_counter() - begun):.2f} ms for each image")

# %% [markdown]
# **Exercise 5.16 (design, 4 minutes).** From figure and table alone: (a) Which are *dominated*: another one is at least as good in all three? (b) Is there a trilemma on these digits? (c) You may spend 1 ms for an image: what do you take for a game that shows one digit at a time, and what for training a classifier? (d) Which difference between two rows would you *not* report, given the intervals?
# <details><summary>What we would say</summary>(a) The one-step GAN, by the VAE: it has collapsed onto one class; four steps of the same kind have not. (b) Yes: the fastest generator has one of the worst distances, and the best ones need ten steps (50 buy nothing). But distillation moves the border: nearly that quality in a tenth of the time, part of it by a smaller network. (c) A student, twice: the highest precision below 1 ms, and it knows labels, without which training data are worth little. (d) The distances of DDIM-10 and 2M-10, and those of DDGAN and VAE: their intervals overlap. And that chains are nearer than real digits: those are fewer, and held out from what the chains were trained on.</details>

# %% [markdown]
# In three sentences:
#
# 1. A large step is an average of Gaussian posteriors; a generator with a latent draws the $x_0$ of each.
# 2. No formula says how $x_0$ is distributed; a discriminator of *pairs* teaches it, with the non-saturating loss and R1.
# 3. Quality, coverage and speed are three measurements: choose by their numbers and intervals, not by a family's name.

# %% [markdown] tags=["sitting", "capstone"]
# ## 5.36 Capstone of the course: meet the requirements

# %% tags=["start"]
import torch

from ddpm_lesson import checks, load_pretrained, plots_variants, samplers, spacing
from ddpm_lesson.variants import guidance

torch.set_num_threads(1)
digits = load_pretrained("digits_ddpm", device=device)

# %% [markdown]
# Somebody hands you a sheet. Nobody says which sampler, which steps, which guidance.
#
# | requirement | asked for |
# |---|---|
# | evaluations of the network for each image | at most 12 |
# | precision, 500 images | at least 0.75 |
# | recall, 500 images | at least 0.75 |
# | share of each class | 5 % to 16 % |
# | one seed, one result | the same images from the same seed, and others from another |
#
# An evaluation is one image through the network once. Guidance asks twice. Precision and recall are those of section 5.7, against the real digits.
#
# **Exercise 5.17 (capstone, 25 minutes).** Build `generate(digits, n, seed)`. `digits` is what `load_pretrained("digits_ddpm")` gives; return `n` digits, (n, 1, 8, 8), with values in [−1, 1]. Everything of the course may be used: your own functions by `checks.carried(name)`, or the package. The check draws, counts, measures, and shows each requirement beside what it found.
#
# Parts that you may need: `digits.denoiser(y, guidance=1.0)` (it clips $\hat x_0$; `y` comes first), `digits.labels(n)`, `digits.process.respaced(...)`, `spacing.trailing(1000, S)`, `samplers.ddim`, `samplers.ancestral`, `samplers.dpmpp_2m`, `samplers.last`.
# <details><summary>Hint 1: which sampler?</summary>Figure 4.23 compares them: on these digits, the samplers without noise on trailing steps are best up to fifteen evaluations.</details>
# <details><summary>Hint 2: labels?</summary>Section 5.7 measured it: telling the label raises precision at no cost in evaluations; a guidance scale above 1 costs a second evaluation, and recall.</details>
# <details><summary>How to find a mistake</summary>Draw 20 digits with <code>plots_variants.named_rows</code> and look. Twice the same seed must give the same tensor.</details>

# %% tags=["capstone"]
def generate(digits, n, seed):
    ...

# %%
generate = checks.meets(generate)

# %%
_ = plots_variants.named_rows({f"seed {seed}": generate(digits, 12, seed) for seed in (0, 1, 2)})

# %% [markdown]
# *Figure 5.36.* Digits by a generator that meets the sheet: yours, or the course's. <!-- alt: Three rows of twelve small handwritten digits; each class appears. -->
#
# You began with one line, `x_t = a * x_0 + b * noise`. You have a generator that somebody else's requirements accept.

# %% [markdown] tags=["deeper"]
# ## 5.37 Going deeper: progressive distillation

# %% [markdown]
# *Question.* Eight steps of DDIM draw good digits. Can a second network learn to do in *one* step what the first does in two?
#
# *Derive.* DDIM's step with $\eta = 0$ (4.4) moves from $x_t$ towards an estimate $\hat x_0$. With $r = \sqrt{1-\bar\alpha''}/\sqrt{1-\bar\alpha_t}$, and two dashes for the level at which it ends, it reads $x'' = r\,x_t+(\sqrt{\bar\alpha''}-r\sqrt{\bar\alpha_t})\,\hat x_0$. Let the teacher make two steps, from $x_t$ to $x''$; solve for the $\hat x_0$ that leads there at once. It is the student's target:
# $$\hat x_0 = \frac{x''-r\,x_t}{\sqrt{\bar\alpha''}-r\sqrt{\bar\alpha_t}} . \tag{5.35: Salimans and Ho Alg. 2}$$
# (The student predicts $v$, (5.8): with few steps it is asked where the noise says nothing.) When it has learned, it is the teacher of the next one, with half the steps again. *Verify* with the exact denoiser of the clusters:

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
# *Figure 5.37.* The same noise and the same labels. Above, the teacher with fewer and fewer steps; below, its two students. <!-- alt: Five rows of ten small digits. The first three rows, the teacher's, look alike; with two steps the strokes are softer. Below them two rows of students, whose digits are sharp and differ from the teacher's in details. -->

# %% tags=["folded"]
def apart(name):
    """Root mean square distance from the teacher's eight steps, a pixel."""
    return (rows[name] - rows["teacher, 8 steps"]).square().mean().sqrt()


assert apart("teacher, 4 steps") < 0.1 and 0.12 < apart("student, 4 steps")
assert apart("student, 2 steps") < 0.2 < apart("teacher, 2 steps")
print("four steps: the teacher below 0.10 from its eight, the student above 0.12")
print("two steps:  the teacher above 0.20 from its eight, the student below 0.20")

# %% [markdown]
# With four steps the teacher itself comes nearer to its eight than the student: on these small digits DDIM's paths are bent so little that four steps suffice. With two steps the student is nearer. So distillation pays where the teacher's own steps have become too large. The students have a quarter of its parameters, too; much of their speed in section 5.35 comes from that.
#
# What is lost? Where the map from noise to images is steep, a network makes it smoother. The target is the teacher and not the data, so the teacher's mistakes stay. And each halving is a training of its own.

# %% [markdown] tags=["deeper"]
# ## 5.38 Going deeper: consistency models

# %% [markdown]
# DDIM's chain with $\eta = 0$ follows a path (section 4.7). All its points belong to one beginning. A **consistency model** (Song and others 2023) is a function $f(x_t, t)$ that leads from *any* point of a path straight to its beginning, so it must say the same for neighbours on a path:
# $$f(x_t, t) = f(x_{t-1}, t-1),\qquad f(x_0, 0) = x_0 . \tag{5.36: Song Section 3}$$
# The second equation is the anchor: without it $f = 0$ would be consistent, too. It holds by construction, $f = c_\text{skip}\,x_t+c_\text{out}\,F(x_t, t)$, whatever the network $F$ says. The first one is the loss: the answer at $t$ shall be that at $t-1$ (without a gradient there). Which $x_{t-1}$ lies on the same path? A teacher says it, by one step of DDIM: `points_consistency` has learned from the exact denoiser. Without a teacher one takes the same $x_0$ and the same noise at $t-1$; on the average over $x_0$ that is right for small steps.

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
# *Figure 5.38.* 1500 points by the network `points_consistency`. The network was asked once for each point. A few points lie between the clusters: there the path's beginning changes abruptly with $x_t$, and a network is smooth. <!-- alt: A scatter plot with eight clusters on a ring. -->

# %% [markdown] tags=["deeper"]
# ## 5.39 Going deeper: five neighbours, and the formula that leads to each

# %% [markdown]
# **Score-based models and SDEs** (Song and others 2021, arXiv 2011.13456). Put the score (2.6) for the noise in the mean of a step (4.1), and let $\beta_t$ be small. To first order
# $$x_{t-1} = x_t+\tfrac12\beta_t\,x_t+\beta_t\,\nabla\log q(x_t)+\sqrt{\beta_t}\,\epsilon .$$
# That is one step of a stochastic differential equation that runs backwards; the ODE of section 4.7 is the one without noise and with half the score. Any solver for such equations is a sampler.
#
# **EDM** (Karras and others 2022, arXiv 2206.00364) leaves the scaling of the signal away: $x = x_0+\sigma n$, with $x = x_t/\sqrt{\bar\alpha_t}$ and $\sigma = \sqrt{(1-\bar\alpha_t)/\bar\alpha_t}$. Its denoiser is ours in these coordinates:
# $$D(x;\sigma) = x-\sigma\,\epsilon_\theta\big(x/\sqrt{1+\sigma^2},\ t\big) .$$
# Its $c_\text{skip}x+c_\text{out}F$, for data of variance 1, is $\sqrt{\bar\alpha_t}\,x_t-\sqrt{1-\bar\alpha_t}\,v$: the network learns $-v$ of (5.8).
#
# **Flow matching** (Lipman and others 2022, arXiv 2210.02747; rectified flow, Liu and others 2022, arXiv 2209.03003) takes a straight line from data to noise, $x_\tau = (1-\tau)\,x_0+\tau\,\epsilon$, and learns its velocity
# $$u(x_\tau,\tau) = \operatorname E[\epsilon-x_0\mid x_\tau] = \hat\epsilon-\hat x_0,\qquad \tau = \frac{\sqrt{1-\bar\alpha_t}}{\sqrt{\bar\alpha_t}+\sqrt{1-\bar\alpha_t}} .$$
# $x_\tau$ is $x_t$ divided by the denominator. So a network that predicts $\epsilon$ *is* a velocity. What differs is which $\tau$ training draws, and the weight of each.
#
# *Verify both* with an independent formula for the clusters: $\operatorname E[x_0\mid a\,x_0+b\,\epsilon]$, for any $a$ and $b$.

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
# **Consistency models** (Song and others 2023, arXiv 2303.01469) learn where the ODE's path begins, (5.36). They are trained from a teacher or from nothing; Song and Dhariwal (2023, arXiv 2310.14189) made the second work.
#
# **Latent diffusion** (Rombach and others 2022, arXiv 2112.10752) first trains an autoencoder, $z = E(x)$ and $x\approx D(z)$, and then runs this whole course on $z$:
# $$L = \operatorname E\,\big\lVert\epsilon-\epsilon_\theta\big(\sqrt{\bar\alpha_t}\,E(x)+\sqrt{1-\bar\alpha_t}\,\epsilon,\ t,\ y\big)\big\rVert^2 .$$
# Nothing else is different; 64 × 64 × 4 numbers are cheaper than 512 × 512 × 3 pixels, and $y$ is a text.

# %% [markdown] tags=["deeper"]
# ## 5.40 Going deeper: what goes wrong in few steps

# %% [markdown]
# **R1 lazily, without its factor.** A discriminator with a known slope, $D = 0.3\,x$ on ten pixels, so that $\lVert\nabla D\rVert^2 = 0.9$; $\gamma = 2$. What does it weigh on average over 16 steps?

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
# **The saturating loss.** Figure 5.32 in numbers: the gradient in the logit of a fake that $D$ is sure of.

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
# The generator's fakes have this correlation, because the posterior gives it; the discriminator would learn to recognise the mistake instead of the images.
#
# **What the post says of its links.** Three titles and claims to correct: the paper is called *Diffusion Models Beat GANs on Image Synthesis* (Dhariwal and Nichol 2021). The repository abarankab/DDPM ships code for CIFAR-10; its README also speaks of MNIST. And lucidrains/denoising-diffusion-pytorch is a careful re-implementation, not the authors' port; the authors' code is in TensorFlow.
