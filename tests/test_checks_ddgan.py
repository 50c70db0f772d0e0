"""The exercises of notebook 05 on denoising diffusion GANs: right answers in other words, and other sources."""

import importlib.util
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from einops import einsum, rearrange, reduce
from torch import nn
from torch.nn import functional as F

from ddpm_lesson import checks, schedules
from ddpm_lesson.checks._inputs import fractions, widest
from ddpm_lesson.checks._misconceptions import Misconception, implemented
from ddpm_lesson.checks.variants.r1_penalty import Discriminator
from ddpm_lesson.process import GaussianDiffusion

SOLVED = Path(__file__).parent.parent / "notebooks" / "solutions" / "05_variants.py"
SPEC = importlib.util.spec_from_file_location("solution_05_ddgan", SOLVED)
solution = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(solution)
pytestmark = pytest.mark.usefixtures("strict")


# Right answers in other words.


def step_of_the_original(G, x_t, z, t, betas, noise):
    """As Xiao et al.'s code: tables of square roots, a clipped logarithm, a mask for t = 0."""
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    alphas_cumprod_prev = torch.cat([torch.ones(1, dtype=betas.dtype), alphas_cumprod[:-1]])
    posterior_variance = betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)
    coef1 = betas * torch.sqrt(alphas_cumprod_prev) / (1 - alphas_cumprod)
    coef2 = (1 - alphas_cumprod_prev) * torch.sqrt(1 - betas) / (1 - alphas_cumprod)
    log_var = torch.log(posterior_variance.clamp(min=1e-20))
    steps = torch.full((x_t.size(0),), t, dtype=torch.int64)
    mean = coef1[t] * G(x_t, steps, z) + coef2[t] * x_t
    nonzero = 1 - (steps == 0).type(torch.float32)
    return mean + rearrange(nonzero, f"b -> b {'1 ' * (x_t.ndim - 1)}") * torch.exp(0.5 * log_var[t]) * noise


def step_by_the_answer_of_notebook_1(G, x_t, z, t, betas, noise):
    steps = torch.tensor([t] * len(x_t))
    mean, var = checks.carried("posterior")(G(x_t, steps, z), x_t, steps, betas)
    return mean + var.sqrt() * noise


def step_by_bayes(G, x_t, z, t, betas, noise):
    """The joint of x_{t-1} and x_t given x_0, conditioned on x_t."""
    x_0 = G(x_t, torch.full(x_t.shape[:1], t), z)
    prior_mean, prior_var = x_0 * torch.prod(1 - betas[:t]).sqrt(), 1 - torch.prod(1 - betas[:t])
    gain = prior_var * (1 - betas[t]).sqrt() / ((1 - betas[t]) * prior_var + betas[t])
    mean = prior_mean + gain * (x_t - (1 - betas[t]).sqrt() * prior_mean)
    return torch.add(mean, noise * (prior_var * (1 - gain * (1 - betas[t]).sqrt())).clamp(min=0) ** 0.5)


def step_by_precisions(G, x_t, z, t, betas, noise):
    """Two Gaussians of x_{t-1}, multiplied; early at t = 0, so that alphas_bar[-1] is never read."""
    steps = torch.zeros(len(x_t), dtype=torch.int64) + t
    guess = G(x_t, steps, z)
    if t == 0:
        return guess
    bar, beta = torch.cumprod(1 - betas, 0)[t - 1], betas[t]
    tight, loose = 1 / (1 - bar), (1 - beta) / beta
    mean = (tight * bar.sqrt() * guess + loose * x_t / (1 - beta).sqrt()) / (tight + loose)
    return mean + noise / torch.sqrt(tight + loose)


def step_by_ddim(G, x_t, z, t, betas, noise):
    """DDIM's step with eta = 1, which is the same Gaussian, with the eps that belongs to G's x_0."""
    bar = torch.cat([torch.ones(1).double(), torch.cumprod(1 - betas, 0)])
    guess = G(x_t, torch.tensor([t for _ in x_t]), z)
    eps = (x_t - bar[t + 1].sqrt() * guess) / (1 - bar[t + 1]).sqrt()
    var = (1 - bar[t]) / (1 - bar[t + 1]) * betas[t]
    return bar[t].sqrt() * guess + (1 - bar[t] - var).clamp(min=0).sqrt() * eps + var**0.5 * noise


def d_by_cross_entropy(real_logits, fake_logits):
    bce = nn.BCEWithLogitsLoss(reduction="none")
    return bce(real_logits, torch.ones_like(real_logits)) + bce(fake_logits, torch.zeros_like(fake_logits))


def d_by_logsigmoid(real_logits, fake_logits):
    return -(F.logsigmoid(real_logits.double()) + F.logsigmoid(-fake_logits.double()))


def d_by_maximum(real_logits, fake_logits):
    x = torch.stack([-real_logits, fake_logits])
    return reduce(x.clamp(min=0) + torch.log1p(torch.exp(-x.abs())), "two b -> b", "sum")


def g_by_logsigmoid(fake_logits):
    return -nn.LogSigmoid()(fake_logits)


def g_by_cross_entropy(fake_logits):
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits), reduction="none")


def g_by_two_classes(fake_logits):
    """Softmax of the logits 0 and x."""
    both, real = torch.stack([0 * fake_logits, fake_logits], 1), torch.ones_like(fake_logits).long()
    return F.cross_entropy(both, real, reduction="none")


def r1_by_einsum(D, x_prev, x_t, t, gamma, interval):
    x = x_prev.clone().requires_grad_()
    (grad,) = torch.autograd.grad(D(x, x_t, t).sum(), x, create_graph=True)
    return gamma * interval * einsum(grad, grad, "b ..., b ... -> b") / 2


def r1_by_vmap(D, x_prev, x_t, t, gamma, interval):
    def logit(x, y, step):
        return D(x[None], y[None], step[None])[0]

    grad = torch.vmap(torch.func.grad(logit))(x_prev, x_t, t)
    return gamma * interval / 2 * grad.flatten(1).pow(2).sum(1)


def r1_by_loop(D, x_prev, x_t, t, gamma, interval):
    out = []
    for x, y, step in zip(x_prev.split(1), x_t.split(1), t.split(1), strict=True):
        x = x.double().requires_grad_()
        (grad,) = torch.autograd.grad(D(x, y, step)[0], x, create_graph=True)
        out.append(0.5 * gamma * torch.linalg.vector_norm(grad) ** 2 * interval)
    return torch.stack(out)


def r1_by_jacobian(D, x_prev, x_t, t, gamma, interval):
    """All gradients of all logits, of which the diagonal is taken."""
    rows = torch.func.jacrev(lambda x: D(x, x_t, t))(x_prev.double()).flatten(2)  # (B, B, pixels)
    return gamma / 2 * interval * (rows.diagonal() ** 2).sum(0)


def r1_of_points(D, x_prev, x_t, t, gamma, interval):
    """With the images made vectors; a dot product of each gradient with itself."""
    x = x_prev.flatten(1).detach().requires_grad_()
    (grad,) = torch.autograd.grad(D(x.view_as(x_prev), x_t, t).unbind(), [x], create_graph=True)
    return torch.linalg.vecdot(grad, grad) * (0.5 * gamma * interval)


VARIANTS = {
    "ddgan_step": [
        step_of_the_original,
        step_by_the_answer_of_notebook_1,
        step_by_bayes,
        step_by_precisions,
        step_by_ddim,
    ],
    "discriminator_loss": [d_by_cross_entropy, d_by_logsigmoid, d_by_maximum],
    "generator_loss": [g_by_logsigmoid, g_by_cross_entropy, g_by_two_classes],
    "r1_penalty": [r1_by_einsum, r1_by_vmap, r1_by_loop, r1_by_jacobian, r1_of_points],
}


def verdict(name, answer):
    word, detail = checks.registry[name].diagnose(answer)
    return word + detail


# Gradients.


@pytest.mark.parametrize("name", VARIANTS)
def test_every_cut_gets_its_sentence(name):
    check = checks.registry[name]
    assert check.cuts
    for sentence, edits in check.cuts.items():
        answer = implemented(check.form, Misconception(sentence, **edits)).function
        assert check.diagnose(answer) == ("no", f". Every value is right, but gradients are not. {sentence}")


def test_the_way_from_the_penalty_to_the_weights_is_looked_at_weight_by_weight():
    def half_cut(D, x_prev, x_t, t, gamma, interval):
        """The gradient's own formula, in which one weight was made a number."""
        a, b, c = (fractions(x_prev[0].numel(), start=k).double() for k in (3, 8, 21))
        net, x, y, scale = D.net, x_prev.flatten(1).double(), x_t.flatten(1).double(), (4 + t)[:, None] / 8
        grad = (net.slope.item() * a + net.cross * y * c) * scale + net.bend * x * b
        return gamma / 2 * interval * (grad**2).sum(1)

    text = verdict("r1_penalty", half_cut)
    assert text.startswith("no. Every value is right, but no gradient reaches net.slope: detach()"), text


@pytest.mark.parametrize("name", ["r1_penalty", "ddgan_step"])
def test_a_right_answer_passes_in_a_notebook_without_gradients(name):
    with torch.no_grad():
        assert verdict(name, getattr(solution, name)).startswith("yes")


# What is said of wrong answers.


def r1_of_fakes(D, x_prev, x_t, t, gamma, interval):
    return solution.r1_penalty(D, torch.randn_like(x_prev), x_t, t, gamma, interval)


def r1_by_backward(D, x_prev, x_t, t, gamma, interval):
    x = x_prev.clone().requires_grad_()
    D(x, x_t, t).sum().backward()
    return gamma / 2 * interval * x.grad.pow(2).flatten(1).sum(1)


def r1_on_the_callers(D, x_prev, x_t, t, gamma, interval):
    (grad,) = torch.autograd.grad(D(x_prev.requires_grad_(), x_t, t).mean(), x_prev, create_graph=True)
    return gamma / 2 * interval * grad.pow(2).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        (
            "ddgan_step",
            lambda G, x_t, z, t, betas, noise: solution.ddgan_step(G, x_t, torch.randn_like(z), t, betas, noise),
            ["The randomness comes in as the arguments z and noise: draw nothing."],
        ),
        (
            "ddgan_step",
            lambda G, x_t, z, t, betas, noise: solution.ddgan_step(
                lambda x, steps, z: G(x, t, z), x_t, z, t, betas, noise
            ),
            ["G expects t of shape (4,) and dtype torch.int64, got int"],
        ),
        (
            "ddgan_step",
            lambda G, x_t, z, t, betas, noise: solution.ddgan_step(
                lambda x, steps, z: G(x, steps, z[0]), x_t, z, t, betas, noise
            ),
            ["G expects z of shape (4, 6), got (6,)"],
        ),
        (
            "ddgan_step",
            lambda G, x_t, z, t, betas, noise: solution.ddgan_step(G, x_t, z, t, betas, 2 * noise),
            ["the term std * noise has the factor 2, which is wrong"],
        ),
        ("r1_penalty", r1_of_fakes, ["Randomness does not belong here"]),
        ("r1_penalty", r1_by_backward, ["You called backward, which leaves a .grad on D's weights"]),
        (
            "r1_penalty",
            r1_on_the_callers,
            [
                "two mistakes at once",
                "You took the gradient of D's mean. Sum the logits",
                "requires_grad on in the caller's x_prev",
            ],
        ),
        (
            "r1_penalty",
            lambda D, x_prev, x_t, t, gamma, interval: solution.r1_penalty(D, x_prev, x_t, int(t[0]), gamma, interval),
            ["D expects t of shape (4,) and dtype torch.int64, got int"],
        ),
        (
            "discriminator_loss",
            lambda real, fake: solution.discriminator_loss(fake, real),
            ["Real and fake are exchanged"],
        ),
        (
            "discriminator_loss",
            lambda real, fake: solution.discriminator_loss(real.clamp(-50, 50), fake.clamp(-50, 50)),
            ["right everywhere but where a logit is far from 0"],
        ),
    ],
)
def test_natural_mistakes_are_told_their_cause(name, answer, words):
    text = verdict(name, answer)
    assert text.startswith("no. ") and all(word in text for word in words), text


@pytest.mark.parametrize("name", ["ddgan_step", "discriminator_loss", "generator_loss", "r1_penalty"])
def test_d_is_the_discriminator_and_not_the_shape_of_the_data(name):
    check = checks.registry[name]
    for text in (check.specification.__doc__, *(mistake.sentence for mistake in check.mistakes)):
        assert "D's axes" not in text and not ("*D)" in text and "D:" in text), text


@pytest.mark.parametrize(
    ("reduced", "words"),
    [
        (lambda squares: squares.flatten(1).mean(1), "You took the mean over the pixels. The squared norm is a sum"),
        (lambda squares: squares, "You return a number for each pixel. Sum the squares over the pixels"),
    ],
)
def test_the_axes_of_the_penalty_are_called_pixels(reduced, words):
    def r1_penalty(D, x_prev, x_t, t, gamma, interval):
        x = x_prev.detach().requires_grad_()
        (grad,) = torch.autograd.grad(D(x, x_t, t).sum(), x, create_graph=True)
        return gamma / 2 * interval * reduced(grad.square())

    assert verdict("r1_penalty", r1_penalty).startswith(f"no. {words}")


def coef1(bar, prev, beta):
    return prev.sqrt() * beta / (1 - bar)


def coef2(bar, prev, beta):
    return (1 - beta).sqrt() * (1 - prev) / (1 - bar)


def posterior_var(bar, prev, beta):
    return beta * (1 - prev) / (1 - bar)


def as_eps(out, x_t, bar):
    return (x_t - (1 - bar).sqrt() * out) / bar.sqrt()


def step(first=coef1, second=coef2, var=posterior_var, taken=lambda out, x_t, bar: out, early=True):
    """Exercise 5.12 by the hints, with natural mistakes. early: at t = 0 G's answer is returned before all else."""

    def ddgan_step(G, x_t, z, t, betas, noise):
        alphas_bar = torch.cumprod(1 - betas, 0)
        out = G(x_t, torch.full((len(x_t),), t), z)
        if early and t == 0:
            return out
        bar, prev, beta = alphas_bar[t], alphas_bar[t - 1] if t > 0 else torch.ones_like(betas[0]), betas[t]
        mean = first(bar, prev, beta) * taken(out, x_t, bar) + second(bar, prev, beta) * x_t
        return mean + var(bar, prev, beta).sqrt() * noise

    return ddgan_step


MISTAKES = {
    "The two coefficients of the mean are exchanged": dict(first=coef2, second=coef1),
    "The coefficient of x_0 has sqrt(alpha_bar)": dict(first=lambda bar, prev, beta: bar.sqrt() * beta / (1 - bar)),
    "The coefficient of x_t has sqrt(alpha_bar), where sqrt(alpha) belongs": dict(
        second=lambda bar, prev, beta: bar.sqrt() * (1 - prev) / (1 - bar)
    ),
    "The coefficient of x_t has sqrt(alpha_bar_prev), which belongs to that of x_0": dict(
        second=lambda bar, prev, beta: prev.sqrt() * (1 - prev) / (1 - bar)
    ),
    "The coefficient of x_t has 1 - alpha_bar on top too": dict(second=lambda bar, prev, beta: (1 - beta).sqrt()),
    "The fraction in your variance is upside down": dict(var=lambda bar, prev, beta: beta * (1 - bar) / (1 - prev)),
    "Your variance is beta": dict(var=lambda bar, prev, beta: beta),
    "You took what G returns for the noise eps": dict(taken=as_eps),
}


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_of_ddgan_step_is_named_however_t_0_is_treated(words, early):
    text = verdict("ddgan_step", step(**MISTAKES[words], early=early))
    assert text.startswith(f"no. {words}") and "two mistakes" not in text, text
    assert verdict("ddgan_step", step(early=early)).startswith("yes")


PAIRS = [(a, b) for a, b in itertools.combinations(MISTAKES, 2) if not set(MISTAKES[a]) & set(MISTAKES[b])]
BOTH_LATE = ("The coefficient of x_0 has sqrt(alpha_bar)", "The coefficient of x_t has 1 - alpha_bar on top too")


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair != BOTH_LATE])
def test_two_mistakes_of_ddgan_step_are_named_both(pair, early):
    """At t = 0 some of these hide whether the other one is made there, too: it is named all the same."""
    text = verdict("ddgan_step", step(**MISTAKES[pair[0]], **MISTAKES[pair[1]], early=early))
    assert "two mistakes at once" in text and all(words in text for words in pair), text


def test_alpha_bar_in_both_coefficients_is_one_mistake():
    late = MISTAKES[BOTH_LATE[0]] | MISTAKES[BOTH_LATE[1]]
    assert verdict("ddgan_step", step(**late)).startswith("no. In your mean, except at t = 0, alpha_bar stands where")
    assert verdict("ddgan_step", step(**late, early=False)).startswith("no. In your mean alpha_bar stands where")


# The specifications against other sources.


def test_ddgan_step_has_the_moments_of_bayes_rule_on_a_grid():
    """q(x_{t-1} | x_t, x_0) is proportional to q(x_{t-1} | x_0) q(x_t | x_{t-1}): by quadrature, for a point x_0."""
    betas, t, x_0, y = schedules.vp(4), 2, 0.5, -0.75
    bar = math.prod(1 - beta for beta in betas[:t].tolist())
    x = torch.linspace(-8, 8, 16001, dtype=torch.float64)
    beta = betas[t].item()
    log_p = -((x - math.sqrt(bar) * x_0) ** 2) / (2 * (1 - bar)) - (y - math.sqrt(1 - beta) * x) ** 2 / (2 * beta)
    p = log_p.exp() / torch.trapezoid(log_p.exp(), x)
    mean = torch.trapezoid(p * x, x)
    std = torch.trapezoid(p * (x - mean) ** 2, x).sqrt()
    at, unit = torch.full((2, 1), y), torch.tensor([[0.0], [1.0]])
    G = lambda x_t, steps, z: torch.full_like(x_t, x_0)  # noqa: E731
    step = checks.ddgan_step.specification(G, at, torch.zeros(2, 3), t, betas, unit)[:, 0]
    assert step[0].item() == pytest.approx(mean.item(), rel=1e-9)
    assert (step[1] - step[0]).item() == pytest.approx(std.item(), rel=1e-9)


def test_four_steps_of_ddgan_with_the_right_x_0_lead_to_the_data():
    """z picks the point of the data with its exact probability given x_t: then every step is the true posterior."""
    betas, n = schedules.vp(4), 4000
    process = GaussianDiffusion(betas)
    points = torch.tensor([[-1.0], [0.25], [1.0]]).double()
    draw = torch.Generator().manual_seed(0)

    def G(x_t, t, z):
        a_bar = process.alphas_bar[t][:, None]
        log_p = -((x_t - a_bar.sqrt() * points.T) ** 2) / (2 * (1 - a_bar)) + torch.tensor([0.5, 0.25, 0.25]).log()
        below = (log_p.softmax(1).cumsum(1) < torch.special.ndtr(z.double())).sum(1).clamp(max=2)
        return points[below]

    x = torch.randn(n, 1, generator=draw).double()
    for t in reversed(range(4)):
        z, noise = torch.randn(n, 1, generator=draw), torch.randn(n, 1, generator=draw)
        x = solution.ddgan_step(G, x, z, t, betas, noise)
    shares = (x == points.T).double().mean(0)  # at t = 0 there is no noise
    assert shares.sum() == 1
    for share, p in zip(shares.tolist(), [0.5, 0.25, 0.25], strict=True):
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_gan_losses_are_cross_entropies_of_the_probabilities():
    logits = [-3.0, -0.5, 0.0, 2.0]
    p = np.array([1 / (1 + math.exp(-x)) for x in logits])
    real, fake = torch.tensor(logits), torch.tensor(logits[::-1])
    assert checks.discriminator_loss.specification(real, fake).numpy() == pytest.approx(
        -np.log(p) - np.log(1 - p[::-1])
    )
    assert checks.generator_loss.specification(fake).numpy() == pytest.approx(-np.log(p[::-1]))
    for value in (1e3, -1e3):
        far = torch.tensor([value])
        assert checks.generator_loss.specification(far).item() == max(-value, 0)


def test_r1_is_the_squared_slope_found_by_differences():
    D, h = Discriminator(0.5, 0.75, -0.25), 1e-5
    x, y, t = torch.tensor([[0.5, -1.0], [0.25, 2.0]]).double(), torch.tensor([[1.0, -0.5], [0.0, 1.5]]), [3, 0]
    squares = torch.zeros(2, dtype=torch.float64)
    for k in range(2):
        step = h * F.one_hot(torch.tensor([k, k]), 2)
        squares += ((D(x + step, y, torch.tensor(t)) - D(x - step, y, torch.tensor(t))) / (2 * h)).detach() ** 2
    found = checks.r1_penalty.specification(D, x, y, torch.tensor(t), 3.0, 16)
    assert torch.allclose(found, 1.5 * 16 * squares, rtol=1e-7)


def test_networks_of_the_checks_ask_mps_for_no_float64():
    """It has none: a right answer would be told that it fails there."""
    for kind, dtype in (("mps", torch.float32), ("cpu", torch.float64), ("cuda", torch.float64)):
        assert widest(SimpleNamespace(device=SimpleNamespace(type=kind), to=lambda dtype: dtype)) == dtype


def test_a_step_may_stack_the_images_of_one_dtype(capsys):
    """G answers in the dtype of x_t, as a network does."""

    def ddgan_step(G, x_t, z, t, betas, noise):
        x_0 = G(x_t, torch.full((len(x_t),), t, device=x_t.device), z)
        if t == 0:
            return x_0
        bar = torch.cumprod(1 - betas, 0)
        prev, left = bar[t - 1], 1 - bar[t]
        parts = [prev.sqrt() * betas[t] / left, (1 - betas[t]).sqrt() * (1 - prev) / left]
        parts.append((betas[t] * (1 - prev) / left).sqrt())
        return torch.einsum("k, k... -> ...", torch.stack(parts).to(x_t), torch.stack([x_0, x_t, noise]))

    checks.ddgan_step(ddgan_step)
    assert "5.12 ddgan_step: yes" in capsys.readouterr().out
