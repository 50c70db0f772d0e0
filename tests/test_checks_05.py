"""The exercises of notebook 05: right answers in other words, wrong ones, and specifications beside other sources."""

import importlib.util
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from einops import einsum, rearrange, reduce, repeat
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from ddpm_lesson import checks, oracle
from ddpm_lesson.checks._evidence import Evidence
from ddpm_lesson.checks._misconceptions import Misconception, implemented
from ddpm_lesson.checks._products import wrong_term
from ddpm_lesson.checks._state import Modes
from ddpm_lesson.process import GaussianDiffusion

SOLVED = Path(__file__).parent.parent / "notebooks" / "solutions" / "05_variants.py"
SPEC = importlib.util.spec_from_file_location("solution_05", SOLVED)
solution = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(solution)
pytestmark = pytest.mark.usefixtures("strict")


def per_image(values, x):
    return rearrange(values, f"b -> b {'1 ' * (x.ndim - 1)}")


# Right answers in other words.


def log_var_by_powers(v, t, betas, alphas_bar):
    """posterior_var times (beta / posterior_var)^frac."""
    i = t.clamp(min=1)
    beta, var = betas[t], betas[i] * (1 - alphas_bar[i - 1]) / (1 - alphas_bar[i])
    return torch.log(per_image(var, v) * per_image(beta / var, v) ** ((v + 1) / 2))


def log_var_by_loop(v, t, betas, alphas_bar):
    images = []
    for image, step in zip(v, t.tolist(), strict=True):
        k = step if step else 1
        small = math.log(betas[k] * (1 - alphas_bar[k - 1]) / (1 - alphas_bar[k]))
        images.append((image + 1) / 2 * math.log(betas[step]) + (1 - image) / 2 * small)
    return torch.stack(images)


def log_var_by_numpy(v, t, betas, alphas_bar):
    beta, bar = betas.numpy(), alphas_bar.numpy()
    var = beta * (1 - np.append(1.0, bar[:-1])) / (1 - bar)
    var[0] = var[1]
    high, low = (np.log(table)[t.numpy().reshape(-1, *[1] * (v.ndim - 1))] for table in (beta, var))
    return torch.from_numpy(0.5 * ((1 + v.numpy()) * high + (1 - v.numpy()) * low))


def log_var_by_lerp(v, t, betas, alphas_bar):
    """From the middle between the two ends."""
    var = betas[1:] * (1 - alphas_bar[:-1]) / (1 - alphas_bar[1:])
    low, high = (per_image(table.log()[t], v) for table in (torch.cat([var[:1], var]), betas))
    return torch.lerp(low, high, torch.as_tensor(0.5).double()) + v * (high - low) / 2


def log_var_by_differences(v, t, betas, alphas_bar):
    """By log(1 - ...) and in place on a table of its own."""
    small = betas.log() + torch.log1p(-F.pad(alphas_bar, (1, -1), value=1)) - torch.log1p(-alphas_bar)
    small[0] = small[1]
    gap = betas.log() - small
    return per_image(small[t], v) + torch.add(v, 1).mul(0.5) * per_image(gap[t], v)


def hybrid_by_torch(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    kl = kl_divergence(Normal(true_mean, (0.5 * true_log_var).exp()), Normal(mean.detach(), (0.5 * log_var).exp()))
    return reduce(F.mse_loss(eps, noise, reduction="none") + lam * T * kl / math.log(2), "b ... -> b", "mean")


def hybrid_by_cross_entropy(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    """The KL as a cross entropy, less an entropy."""
    with torch.no_grad():
        second_moment = true_log_var.exp() + (true_mean - mean) ** 2
    cross = 0.5 * (math.log(2 * math.pi) + log_var + second_moment / log_var.exp())
    bits = (cross - 0.5 * (math.log(2 * math.pi * math.e) + true_log_var)) / math.log(2)
    return (eps - noise).square().flatten(1).mean(1) + lam * T * bits.flatten(1).mean(1)


def hybrid_by_loop(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
    fixed, losses = mean.detach(), []
    for k in range(len(noise)):
        squared = (true_mean[k] - fixed[k]).double() ** 2
        ratio = torch.exp(true_log_var[k] - log_var[k])
        nats = (ratio - ratio.log() + squared / log_var[k].exp() - 1).mean() / 2
        losses.append(((noise[k] - eps[k]) ** 2).mean() + T * lam * nats / np.log(2))
    return torch.stack(losses)


def mean_by_jacobian(mean, var, x_t, t, y, classifier, scale):
    rows = torch.func.jacrev(lambda x: classifier(x, t).gather(1, y[:, None]).flatten())(x_t)  # (B, B, *D)
    return mean + scale * var * torch.stack([rows[k, k] for k in range(len(x_t))])


def mean_by_backward(mean, var, x_t, t, y, classifier, scale):
    with torch.enable_grad():
        x = x_t.clone().requires_grad_()
        (scale * F.log_softmax(classifier(x, t), 1)[range(len(y)), y]).sum().backward()
    return mean + var * x.grad


def mean_by_func(mean, var, x_t, t, y, classifier, scale):
    def one(x, step, label):
        return (classifier(x[None], step[None])[0] * (torch.arange(3) == label)).sum()

    return torch.add(mean.double(), var * torch.vmap(torch.func.grad(one))(x_t.double(), t, y), alpha=scale)


def eps_by_loop(eps, x_t, t, y, classifier, scale, alphas_bar):
    out = eps.clone()
    for k in range(len(eps)):
        with torch.enable_grad():
            x = x_t[k : k + 1].detach().requires_grad_()
            (grad,) = torch.autograd.grad(classifier(x, t[k : k + 1])[0, y[k]], x)
        out[k] -= scale * (1 - alphas_bar[t[k]].item()) ** 0.5 * grad[0]
    return out


def eps_by_einsum(eps, x_t, t, y, classifier, scale, alphas_bar):
    x, weights = x_t.detach().requires_grad_(), F.one_hot(y, 3).double() * scale
    with torch.enable_grad():
        (push,) = torch.autograd.grad(einsum(classifier(x, t), weights, "b y, b y ->"), x)
    return eps - per_image((1 - alphas_bar).sqrt()[t], eps) * push


def eps_by_mean_times_batch(eps, x_t, t, y, classifier, scale, alphas_bar):
    with torch.enable_grad():
        x = torch.autograd.Variable(x_t, requires_grad=True)
        loss = F.nll_loss(classifier(x, t), y)
    grad = torch.autograd.grad(loss, x)[0].detach()
    return eps + scale * len(y) * per_image(torch.sqrt(1 - alphas_bar[t]), eps).to(eps.dtype) * grad


def cfg_by_lerp(eps_cond, eps_uncond, strength, convention):
    return eps_uncond.lerp(eps_cond, {"s": strength, "w": strength + 1}[convention])


def cfg_by_einops(eps_cond, eps_uncond, strength, convention):
    s = strength + (convention == "w")
    return einsum(torch.tensor([s, 1 - s]), torch.stack([eps_cond, eps_uncond]), "k, k ... -> ...")


def cfg_by_loop(eps_cond, eps_uncond, strength, convention):
    pairs = zip(eps_cond.flatten().tolist(), eps_uncond.flatten().tolist(), strict=True)
    s = strength if convention == "s" else 1 + strength
    return torch.tensor([c + (s - 1) * (c - u) for c, u in pairs]).reshape(eps_cond.shape)


def cfg_by_w(eps_cond, eps_uncond, strength, convention):
    """The paper's formula for both."""
    w = strength - 1 if convention == "s" else strength
    return (1 + w) * eps_cond - w * eps_uncond


def cfg_by_differences(eps_cond, eps_uncond, strength, convention):
    start = eps_uncond if convention == "s" else eps_cond
    return torch.add(start, eps_cond - eps_uncond, alpha=strength)


def chain_by_numpy(model, x_T, y, scale, timesteps, alphas_bar):
    bar, x = np.append(alphas_bar.numpy(), 1.0), x_T.double().numpy()
    for t, s in zip(reversed(timesteps), [*reversed(timesteps[:-1]), -1], strict=True):
        at = torch.tensor([t] * len(x))
        cond, uncond = (model(torch.from_numpy(x), at, label).numpy() for label in (y, None))
        eps = (1 - scale) * uncond + scale * cond
        x_0 = np.clip((x - np.sqrt(1 - bar[t]) * eps) / np.sqrt(bar[t]), -1, 1)
        x = np.sqrt(bar[s]) * x_0 + np.sqrt((1 - bar[s]) / (1 - bar[t])) * (x - np.sqrt(bar[t]) * x_0)
        yield torch.from_numpy(x)


def chain_by_steps(model, x_T, y, scale, timesteps, alphas_bar):
    """The answers of exercises 5.6 and 4.3, and the clipped x_0 between them."""
    ddim_step = checks.carried("ddim_step")
    for k in range(len(timesteps))[::-1]:
        t = timesteps[k]
        at, a = repeat(torch.tensor(t), "-> b", b=len(x_T)), alphas_bar[t]
        eps = solution.cfg_eps(model(x_T, at, y), model(x_T, at, None), scale - 1, "w")
        x_0 = torch.clamp((x_T - (1 - a).sqrt() * eps) / a.sqrt(), -1, 1)
        eps = (x_T - a.sqrt() * x_0) / (1 - a).sqrt()
        x_T = ddim_step(x_T, eps, t, timesteps[k - 1] if k else -1, alphas_bar, 0.0, x_T)
        yield x_T


def chain_in_columns(model, x_T, y, scale, timesteps, alphas_bar):
    """With a column of coefficients for each image, in the images' dtype; clipped by min and max."""
    table, x, left = F.pad(alphas_bar, (0, 1), value=1.0), x_T, timesteps[:]
    while left:
        t = torch.zeros_like(y) + left.pop()
        a, b = (per_image(table[i], x).to(x.dtype) for i in (t, t * 0 + (left[-1] if left else -1)))
        uncond = model(x, t)
        x_0 = (x - (uncond + scale * (model(x, t, y) - uncond)) * (1 - a) ** 0.5) / a**0.5
        x_0 = torch.minimum(torch.maximum(x_0, -torch.ones(())), torch.ones(()))
        x = b**0.5 * x_0 + (1 - b) ** 0.5 * (x - a**0.5 * x_0) / (1 - a) ** 0.5
        yield x


def chain_by_recursion(model, x_T, y, scale, timesteps, alphas_bar):
    """One step, then the shorter list."""
    *rest, t = timesteps
    bar = alphas_bar[t], alphas_bar[rest[-1]] if rest else torch.ones(()).double()
    at = torch.full((len(x_T),), t)
    guided = torch.lerp(model(x_T, at, None), model(x_T, at, y), float(scale))
    x_0 = (x_T / bar[0].sqrt() - (1 / bar[0] - 1).sqrt() * guided).clip(-1, 1)
    ratio = ((1 - bar[1]) / (1 - bar[0])).sqrt()
    x = ratio * x_T + (bar[1].sqrt() - ratio * bar[0].sqrt()) * x_0
    yield x
    if rest:
        yield from chain_by_recursion(model, x, y, scale, rest, alphas_bar)


def chain_to_t_minus_1_of_a_short_table(model, x_T, y, scale, timesteps, alphas_bar):
    """On the chain of the visited steps alone the next one is t - 1."""
    bar = torch.cat([torch.ones(1).double(), alphas_bar[timesteps]])
    for i in range(len(timesteps), 0, -1):
        at = torch.full((len(x_T),), timesteps[i - 1])
        uncond, cond = model(x_T, at, None), model(x_T, at, y)
        x_0 = ((x_T - (1 - bar[i]).sqrt() * (uncond + scale * (cond - uncond))) / bar[i].sqrt()).clamp(-1, 1)
        x_T = bar[i - 1].sqrt() * x_0 + (1 - bar[i - 1]).sqrt() * (x_T - bar[i].sqrt() * x_0) / (1 - bar[i]).sqrt()
        yield x_T


def v_by_angle(x_0, noise, t, alphas_bar):
    angle = per_image(torch.atan2((1 - alphas_bar).sqrt(), alphas_bar.sqrt())[t], x_0)
    return angle.cos() * noise - angle.sin() * x_0


def v_by_x_t(x_0, noise, t, alphas_bar):
    """By way of x_t."""
    a = per_image(alphas_bar[t], x_0)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    return (a.sqrt() * x_t - x_0) / (1 - a).sqrt()


def v_by_loop(x_0, noise, t, alphas_bar):
    rows = zip(x_0, noise, alphas_bar[t].tolist(), strict=True)
    return torch.stack([a**0.5 * e - (1 - a) ** 0.5 * x for x, e, a in rows])


def back_by_angle(x_t, v, t, alphas_bar):
    angle = per_image(torch.acos(alphas_bar.sqrt())[t], x_t)
    return torch.cos(angle) * x_t - torch.sin(angle) * v


def back_by_einops(x_t, v, t, alphas_bar):
    roots = torch.stack([alphas_bar[t].sqrt(), -(1 - alphas_bar[t]).sqrt()]).float()
    return einsum(roots, torch.stack([x_t, v]), "k b, k b ... -> b ...")


def back_by_loop(x_t, v, t, alphas_bar):
    rows = zip(x_t, v, t, strict=True)
    return torch.stack([x * alphas_bar[s].sqrt() - u * (1 - alphas_bar[s]).sqrt() for x, u, s in rows])


def zero_by_diffusers(betas):
    return rescale_zero_terminal_snr(betas)


def zero_by_numpy(betas):
    root = np.sqrt(np.cumprod(1.0 - betas.numpy()))
    new = np.interp(root, [root[-1], root[0]], [0.0, root[0]])
    return torch.from_numpy(1 - (new / np.append(1.0, new[:-1])) ** 2)


def zero_by_loop(betas):
    """The scale has no effect on a ratio: only the first beta needs it, which stays."""
    root = torch.cumprod(torch.sqrt(1 - betas), 0).tolist()
    ratios = [(later - root[-1]) / (earlier - root[-1]) for earlier, later in itertools.pairwise(root)]
    return torch.tensor([betas[0].item()] + [1 - ratio**2 for ratio in ratios], dtype=torch.float64)


def rescaled_unbiased(eps_cond, eps_guided, phi):
    stds = [x.flatten(1).std(1) for x in (eps_cond, eps_guided)]
    return eps_guided * per_image(phi * stds[0] / stds[1] + 1 - phi, eps_guided)


def rescaled_by_moments(eps_cond, eps_guided, phi):
    def std(x):
        flat = rearrange(x.double(), "b ... -> b (...)")
        return (reduce(flat**2, "b d -> b", "mean") - reduce(flat, "b d -> b", "mean") ** 2).sqrt()

    new = eps_guided / per_image(std(eps_guided), eps_guided) * per_image(std(eps_cond), eps_guided)
    return torch.lerp(eps_guided.double(), new, phi)


def rescaled_by_loop(eps_cond, eps_guided, phi):
    rows = zip(eps_cond, eps_guided, strict=True)
    return torch.stack([g * (phi * (c.std() / g.std()).item() + (1 - phi)) for c, g in rows])


VARIANTS = {
    "learned_log_var": [
        log_var_by_powers,
        log_var_by_loop,
        log_var_by_numpy,
        log_var_by_lerp,
        log_var_by_differences,
    ],
    "hybrid_loss": [hybrid_by_torch, hybrid_by_cross_entropy, hybrid_by_loop],
    "guided_mean": [mean_by_jacobian, mean_by_backward, mean_by_func],
    "guided_eps": [eps_by_loop, eps_by_einsum, eps_by_mean_times_batch],
    "cfg_eps": [cfg_by_lerp, cfg_by_einops, cfg_by_loop, cfg_by_w, cfg_by_differences],
    "guided_chain": [
        chain_by_numpy,
        chain_by_steps,
        chain_in_columns,
        chain_by_recursion,
        chain_to_t_minus_1_of_a_short_table,
    ],
    "v_target": [v_by_angle, v_by_x_t, v_by_loop],
    "x_0_from_v": [back_by_angle, back_by_einops, back_by_loop],
    "zero_terminal_snr": [zero_by_diffusers, zero_by_numpy, zero_by_loop],
    "rescaled_eps": [rescaled_unbiased, rescaled_by_moments, rescaled_by_loop],
}


def verdict(name, answer):
    word, detail = checks.registry[name].diagnose(answer)
    return word + detail


# Gradients of L_hybrid: those that must arrive, and the one that may not.


def test_every_cut_of_hybrid_loss_gets_its_sentence():
    check = checks.hybrid_loss
    assert len(check.cuts) >= 6
    for sentence, edits in check.cuts.items():
        answer = implemented(check.form, Misconception(sentence, **edits)).function
        assert check.diagnose(answer) == ("no", f". Every value is right, but gradients are not. {sentence}")


def leaking(answer, leak):
    """The answer, and something whose value is 0."""

    def hybrid_loss(noise, eps, true_mean, true_log_var, mean, log_var, T, lam):
        out = answer(noise, eps, true_mean, true_log_var, mean, log_var, T, lam)
        return out + leak(mean=mean, eps=eps, log_var=log_var)

    return hybrid_loss


def zero_of(x):
    return (x - x.detach()).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            leaking(solution.hybrid_loss, lambda mean, **_: zero_of(mean) / 7),
            "Every value is right, but a gradient reaches mean, and none may: detach() stops it and keeps the value.",
        ),
        (
            leaking(solution.hybrid_loss, lambda eps, **_: zero_of(eps)),
            "Every value is right, but the gradient with respect to eps is not: detach(), no_grad",
        ),
        (
            lambda noise, eps, true_mean, true_log_var, mean, log_var, T, lam: (
                hybrid_by_torch(noise, eps.detach(), true_mean, true_log_var, mean, log_var.detach(), T, lam)
                + zero_of(mean)
            ),
            "a gradient reaches mean, and none may: detach() stops it and keeps the value, and no gradient reaches eps "
            "and log_var: detach(), no_grad",
        ),
        (
            lambda noise, eps, true_mean, true_log_var, mean, log_var, T, lam: torch.from_numpy(
                hybrid_by_torch(noise, eps, true_mean, true_log_var, mean, log_var, T, lam).numpy()
            ),
            "gradients are not. No gradient flows through your result",
        ),
    ],
)
def test_a_gradient_that_strays_or_is_missing_is_named(answer, words):
    text = verdict("hybrid_loss", answer)
    assert text.startswith("no. ") and words in text, text


def test_a_gradient_of_exactly_0_reaches_nothing():
    answer = leaking(solution.hybrid_loss, lambda mean, **_: 0 * mean.flatten(1).sum(1))
    assert verdict("hybrid_loss", answer).startswith("yes")


def test_gradients_of_the_form_are_those_of_the_specification_with_mean_held():
    """By differences of the specification, which knows no gradients."""
    check = checks.hybrid_loss
    noise, eps, true_mean, true_log_var, mean, log_var, T, lam = (
        arg.double() if isinstance(arg, torch.Tensor) else arg for arg in check.cases[1].args
    )
    leaves = [x.clone().requires_grad_() for x in (eps, mean, log_var)]
    loss = check.form(noise, leaves[0], true_mean, true_log_var, leaves[1], leaves[2], T, lam).sum()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert grads[1] is None

    def moved(x, h):
        step = torch.zeros_like(x)
        step[1, 1] = h
        return x + step

    for k, grad in ((0, grads[0]), (2, grads[2])):
        ends = []
        for h in (1e-5, -1e-5):
            x = [eps, mean, log_var]
            x[k] = moved(x[k], h)
            ends.append(check.specification(noise, x[0], true_mean, true_log_var, x[1], x[2], T, lam).sum())
        assert grad[1, 1].item() == pytest.approx(((ends[0] - ends[1]) / 2e-5).item(), rel=1e-6)


# What is said of wrong answers.


@pytest.mark.parametrize("told", [lambda t: int(t[0]), lambda t: t[:1], lambda t: t.float()])
@pytest.mark.parametrize("name", ["guided_mean", "guided_eps"])
def test_a_classifier_without_its_batch_of_t_is_told(name, told):
    def answer(*args):
        at = list(checks.registry[name].parameters).index("classifier")
        inner = args[at]
        return getattr(solution, name)(*args[:at], lambda x, t: inner(x, told(t)), *args[at + 1 :])

    assert "raised TypeError: classifier expects t of shape (4,) and dtype torch.int64, got" in verdict(name, answer)


@pytest.mark.parametrize("name", ["guided_mean", "guided_eps"])
def test_a_right_answer_that_is_run_without_gradients_passes(name):
    """As in a notebook whose sampling loop has no_grad around it: the answer switches gradients on."""
    with torch.no_grad():
        assert verdict(name, getattr(solution, name)).startswith("yes")


@pytest.mark.parametrize("name", ["guided_mean", "guided_eps"])
def test_an_answer_that_needs_gradients_to_be_on_is_told(name):
    """Right in a plain cell, and a RuntimeError in a sampling loop under no_grad."""

    def answer(*args):
        named = dict(zip(checks.registry[name].parameters, args, strict=True))
        x, t, y = named["x_t"].detach().requires_grad_(), named["t"], named["y"]
        (grad,) = torch.autograd.grad(named["classifier"](x, t)[range(len(y)), y].sum(), x)
        if name == "guided_mean":
            return named["mean"] + named["scale"] * named["var"] * grad
        return named["eps"] - named["scale"] * per_image((1 - named["alphas_bar"])[t].sqrt(), x) * grad

    text = verdict(name, answer)
    assert text.startswith("no. Your result is right, but your gradient fails where gradients are off"), text
    with torch.no_grad(), pytest.raises(RuntimeError, match="does not require grad"):
        answer(*checks.registry[name].cases[0].args)


@pytest.mark.parametrize("name", ["guided_mean", "guided_eps"])
def test_what_is_left_on_the_callers_x_t_is_told_beside_another_mistake(name):
    def answer(*args):
        named = dict(zip(checks.registry[name].parameters, args, strict=True))
        x_t, t, y = named["x_t"].requires_grad_(), named["t"], named["y"]
        (grad,) = torch.autograd.grad(named["classifier"](x_t, t)[range(len(y)), y].mean(), x_t)
        if name == "guided_mean":
            return named["mean"] + named["scale"] * named["var"] * grad
        return named["eps"] - named["scale"] * per_image((1 - named["alphas_bar"])[t].sqrt(), x_t) * grad

    text = verdict(name, answer)
    assert "two mistakes at once" in text and "You averaged over the batch: " in text
    assert "requires_grad on in the caller's x_t" in text


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        (
            "guided_chain",
            lambda model, *rest: solution.guided_chain(lambda x, t, y: model(x, int(t[0]), y), *rest),
            "model expects t of shape (2,) and dtype torch.int64, got int",
        ),
        (
            "guided_chain",
            lambda model, *rest: solution.guided_chain(lambda x, t, y: model(x, t, "none" if y is None else y), *rest),
            "model expects y of shape (2,) and dtype torch.int64, or None for no label, got str",
        ),
        (
            "guided_chain",
            lambda model, x_T, y, *rest: solution.guided_chain(
                lambda x, t, label: model(x, t, torch.full_like(y, 10) if label is None else label), x_T, y, *rest
            ),
            "model expects labels y in 0..2, or None for no label, got [10, 10]",
        ),
        ("guided_chain", lambda *args: list(solution.guided_chain(*args)), "expected a generator, which yields each"),
        (
            "guided_eps",
            lambda *args: 0.5 * (solution.guided_eps(*args) + args[0]),
            "scale * sqrt(1 - alpha_bar) * gradient has the factor -0.5, which is wrong",
        ),
        (
            "learned_log_var",
            lambda v, *rest: solution.learned_log_var(v / 2, *rest),
            "the term v * log(beta) has the factor 0.25, which is wrong",
        ),
        ("v_target", lambda x_0, *rest: solution.v_target(x_0 / 2, *rest), "Your numbers come out if x_0 is halved."),
        ("cfg_eps", lambda c, u, s, kind: solution.cfg_eps(c, u, s, "s"), "You took s in both conventions."),
        (
            "cfg_eps",
            lambda c, u, s, kind: c + (s if kind == "s" else 1 + s) * (c - u),
            "You start from eps_cond in both conventions.",
        ),
        (
            "rescaled_eps",
            lambda c, g, phi: phi * solution.rescaled_eps(c, g, 1.0) + (1 - phi) * c,
            "phi mixes with eps_guided, not with eps_cond",
        ),
        (
            "cfg_eps",
            lambda c, u, s, kind: solution.cfg_eps(c, u, 3.0, kind),
            "Your result is right for strength = 3.0 only: it does not depend on strength.",
        ),
    ],
)
def test_natural_mistakes_are_told_their_cause(name, answer, words):
    text = verdict(name, answer)
    assert text.startswith("no. ") and words in text, text


def log_var(of_v=lambda v: v, of_share=lambda share: share, of_out=lambda out, low, high: out, end=lambda t: t):
    def learned_log_var(v, t, betas, alphas_bar):
        i = t.clamp(min=1)
        low = per_image((betas[i] * (1 - alphas_bar[i - 1]) / (1 - alphas_bar[i])).log(), v)
        high, share = per_image(betas[end(t)].log(), v), of_share((of_v(v) + 1) / 2)
        return of_out(share * high + (1 - share) * low, low, high)

    return learned_log_var


CLAMPS = {
    "v": log_var(of_v=lambda v: v.clamp(-1, 1)),
    "frac": log_var(of_share=lambda share: share.clamp(0, 1)),
    "result": log_var(of_out=lambda out, low, high: torch.maximum(torch.minimum(out, high), low)),
}


def log_var_plus(high, low, first=1):
    """With numbers added to beta and to the posterior variance, of which index 0 is that of `first`."""

    def learned_log_var(v, t, betas, alphas_bar):
        var = betas * (1 - F.pad(alphas_bar[:-1], (1, 0), value=1.0)) / (1 - alphas_bar)
        large, small = (per_image(x.log(), v) for x in ((betas + high)[t], (var + low)[t.clamp(min=first)]))
        return (v + 1) / 2 * large + (1 - v) / 2 * small

    return learned_log_var


@pytest.mark.parametrize("e", [1e-4, 1e-5, 1e-6])
def test_a_small_number_inside_the_logarithm_is_named(e):
    start, end = "no. You added a small number inside the logarithm: ", "No variance is 0 here: leave it out."
    text = verdict("learned_log_var", log_var_plus(e, e))
    assert text == f"{start}{e:g} to beta and {e:g} to posterior_var. {end}"
    assert verdict("learned_log_var", log_var_plus(0, 10 * e)) == f"{start}{10 * e:g} to posterior_var. {end}"
    assert verdict("learned_log_var", log_var_plus(10 * e, 0)) == f"{start}{10 * e:g} to beta. {end}"
    text = verdict("learned_log_var", log_var_plus(0, e, first=0))
    assert text.startswith(f"{start}{e:g} to posterior_var. At t = 0 it stands alone: put posterior_var[1] there")
    assert verdict("learned_log_var", log_var_plus(0, 0)).startswith("yes")


@pytest.mark.parametrize("e", [1e-3, 1e-4, 1e-5, -1e-5])
def test_a_small_number_that_is_added_to_the_log_variance_is_too_many(e):
    text = verdict("learned_log_var", log_var(of_out=lambda out, low, high: out + e))
    assert text == f"no. Your result is {e:+.4g} off everywhere. Look for a constant that is missing or too many."


def test_a_term_that_is_too_many_is_not_told_as_missing():
    check, answer = checks.learned_log_var, log_var(of_out=lambda out, low, high: out + 1e-4)
    evidence = Evidence(check, answer, Modes.now(), check.run(answer), "out")
    assert "missing" not in wrong_term(evidence)


def test_a_mistake_that_is_taken_back_is_not_told():
    """What is nearly right is 2 times nearly the half."""
    text = verdict("learned_log_var", log_var_plus(-1e-6, -1e-6))
    assert text.startswith("no. 7 of 8 inputs come out right.") and "half of what is asked for" not in text


@pytest.mark.parametrize("where", CLAMPS)
def test_a_clamp_of_the_learned_variance_is_named(where):
    text = verdict("learned_log_var", CLAMPS[where])
    assert text.startswith("no. You kept v in [-1, 1], or frac or the result between its ends, with a clamp."), text
    assert verdict("learned_log_var", log_var()).startswith("yes")


def test_a_clamp_of_the_learned_variance_is_named_beside_another_mistake():
    for other, words in (
        (dict(of_share=lambda share: 1 - share), "The two ends are exchanged"),
        (dict(of_out=lambda out, low, high: out / 2), "You return the log of a standard deviation"),
    ):
        assert verdict("learned_log_var", log_var(**other)).startswith(f"no. {words}")
        text = verdict("learned_log_var", log_var(of_v=lambda v: v.clamp(-1, 1), **other))
        assert "two mistakes at once" in text and words in text and "You kept v in [-1, 1]" in text, text


def test_a_squeezed_v_is_no_clamp():
    assert verdict("learned_log_var", log_var(of_v=torch.tanh)).startswith("no. You squeezed v through tanh.")
    text = verdict("learned_log_var", log_var(of_share=lambda share: share.clamp(min=0)))
    assert "v of shape (3, 1, 4, 6) from -2 to 2" in text and "You kept" not in text, text


@pytest.mark.parametrize(
    ("s", "w", "words"),
    [
        (lambda s: (1 + s + 1, s + 1), None, "With s you wrote w = s + 1. It is w = s - 1: at s = 1 the result is"),
        (None, lambda w: (1 + w + 1, w + 1), "With w you wrote (2 + w) eps_cond - (1 + w) eps_uncond. The 1 + is in"),
        (None, lambda w: (w - 1, w - 2), "With w you wrote s = w - 1. It is s = 1 + w"),
        (lambda s: (1 + s, s), lambda w: (2 + w, 1 + w), "You start from eps_cond in both conventions."),
    ],
)
def test_conversions_of_the_strength_are_named(s, w, words):
    """s and w: the factors of eps_cond and -eps_uncond; None is right."""
    right = {"s": lambda s: (s, s - 1), "w": lambda w: (1 + w, w)}

    def cfg_eps(eps_cond, eps_uncond, strength, convention):
        cond, uncond = ({"s": s, "w": w}[convention] or right[convention])(strength)
        return cond * eps_cond - uncond * eps_uncond

    assert verdict("cfg_eps", cfg_eps).startswith(f"no. {words}")


@pytest.mark.parametrize(
    ("to", "words"),
    [
        (lambda t, first: t - 1 if t != first else None, "You step to t - 1, and from the first entry of timesteps to"),
        (lambda t, first: t - 1 if t > 0 else None, "You step to t - 1, and at t = 0 to the clean image. The chain"),
        (lambda t, first: t - 1, "You step to t - 1, and at t = 0 index -1 wraps around to the noisiest step."),
    ],
)
@pytest.mark.parametrize("strange", [False, True])
def test_a_guided_chain_that_steps_to_t_minus_1_is_named(to, words, strange):
    """strange: beside another mistake."""

    def guided_chain(model, x, y, scale, timesteps, alphas_bar):
        for t in reversed(timesteps):
            at, below = torch.full((len(x),), t), to(t, timesteps[0])
            a, b = alphas_bar[t], torch.ones(()).double() if below is None else alphas_bar[below]
            cond, uncond = model(x, at, y), model(x, at, None)
            eps = solution.cfg_eps(cond, uncond, scale, "w" if strange else "s")
            x_0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
            x = b.sqrt() * x_0 + (1 - b).sqrt() * (x - a.sqrt() * x_0) / (1 - a).sqrt()
            yield x

    text = verdict("guided_chain", guided_chain)
    assert words in text and ("You took scale for the paper's w" in text) == strange, text
    assert text.startswith(f"no. {words}") or strange and "two mistakes at once" in text


# The specifications against other sources.


def linear(T=1000):
    betas = checks.linear_betas.specification(1e-4, 0.02, T)
    return betas, torch.cumprod(1 - betas, 0)


def test_the_ends_of_the_learned_variance_are_those_of_ddpm():
    """v = -1 is the posterior's variance, of which -9.82 at t = 1 is published (ERRATA 7); v = 1 is beta."""
    betas, alphas_bar = linear()
    t, ones = torch.tensor([0, 1, 2, 500, 999]), torch.ones(5, 1)
    low, high = (checks.learned_log_var.specification(v, t, betas, alphas_bar)[:, 0] for v in (-ones, ones))
    assert high.tolist() == pytest.approx(betas[t].log().tolist(), rel=1e-14)
    var = checks.posterior.specification(ones, ones, t, betas)[1][:, 0]
    assert torch.allclose(low[1:].exp(), var[1:], rtol=1e-9) and low[0] == low[1]
    assert low[0].item() == pytest.approx(-9.82, abs=0.005)


def test_the_bound_of_hybrid_loss_is_an_expectation_of_log_ratios():
    """Over draws on a fine grid of the first Gaussian's quantiles."""
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    m_q, l_q, m_p, l_p = 0.5, -1.0, -0.25, 0.3
    args = [zero, zero, *(value * one for value in (m_q, l_q, m_p, l_p)), 3, 0.5]
    q, p = Normal(m_q, math.exp(l_q / 2)), Normal(m_p, math.exp(l_p / 2))
    x = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    nats = torch.trapezoid(q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)), x).item()
    assert checks.hybrid_loss.specification(*args).item() == pytest.approx(0.5 * 3 * nats / math.log(2), rel=1e-6)


def mixture(labels=(0, 1, 1)):
    betas, alphas_bar = linear(20)
    means = torch.tensor([[-0.5, 1.0], [0.5, 0.25], [1.0, -1.0]]).double()
    stds, weights = torch.tensor([0.25, 0.5, 0.125]).double(), torch.tensor([0.5, 0.25, 0.25]).double()
    process = GaussianDiffusion(betas)
    return oracle.Mixture(process, weights, means, stds, labels=torch.tensor(labels)), alphas_bar


def test_guided_eps_with_scale_1_is_the_eps_of_the_class():
    """Bayes' rule, with an exact denoiser and an exact classifier."""
    data, alphas_bar = mixture()
    x_t, t, y = torch.tensor([[0.5, -0.25], [1.5, 1.0], [-1.0, 0.0]]).double(), torch.tensor([0, 7, 19]), [0, 1, 1]
    eps = data(x_t, t).eps
    out = checks.guided_eps.specification(eps, x_t, t, torch.tensor(y), data.classifier, 1.0, alphas_bar)
    for k, label in enumerate(y):
        of_class = data.conditional(label)(x_t[k : k + 1], t[k : k + 1]).eps
        assert torch.allclose(out[k : k + 1], of_class, rtol=1e-7, atol=1e-9)


def test_guided_mean_is_the_mode_to_first_order():
    """With a small variance the density N(x; mean, var) p(y | x) peaks there: its slope vanishes as var does."""
    data, _ = mixture()
    t, y, mean = torch.tensor([5]), torch.tensor([1]), torch.tensor([[0.25, 0.5]]).double()
    for var in (1e-2, 1e-3):
        args = mean, torch.full((1, 1), var).double(), mean, t, y, data.classifier, 2.0
        x = checks.guided_mean.specification(*args).requires_grad_()
        log_density = -((x - mean) ** 2).sum() / (2 * var) + 2.0 * data.classifier(x, t)[0, 1]
        (slope,) = torch.autograd.grad(log_density, x)
        assert slope.abs().max() < 20 * var


def test_cfg_of_two_gaussians_is_the_gaussian_of_the_shifted_mean():
    """eps of N(m, 1) data is sqrt(1 - alpha_bar) (x_t - sqrt(alpha_bar) m): guidance moves m along a line."""
    x_t, a = torch.tensor([[0.5, -1.0]]).double(), 0.3
    eps = lambda m: math.sqrt(1 - a) * (x_t - math.sqrt(a) * m)  # noqa: E731
    for s in (0.0, 1.0, 4.0):
        expected = eps(0.25 + s * (1.5 - 0.25))
        for strength, convention in ((s, "s"), (s - 1, "w")):
            out = checks.cfg_eps.specification(eps(1.5), eps(0.25), strength, convention)
            assert torch.allclose(out, expected, rtol=1e-12)


def test_guided_chain_is_that_of_diffusers():
    """DDIMScheduler with clip_sample, its eps derived again; its tables are in float32."""
    betas, alphas_bar = linear()
    scheduler = DDIMScheduler(trained_betas=betas.numpy(), clip_sample=True, timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    steps = scheduler.timesteps.tolist()
    model, x, y, s = checks.guided_chain.cases[0].args[0], torch.linspace(-2, 2, 6).double().view(2, 3), [0, 2], 3.0
    states = list(checks.guided_chain.specification(model, x, torch.tensor(y), s, steps[::-1], alphas_bar))
    assert len(states) == 8 and states[-1].abs().max() <= 1
    for t, state in zip(steps, states, strict=True):
        at = torch.tensor([t, t])
        eps = model(x, at) + s * (model(x, at, torch.tensor(y)) - model(x, at))
        x = scheduler.step(eps, t, x, use_clipped_model_output=True).prev_sample
        assert torch.allclose(state, x, rtol=2e-4, atol=2e-4)


def test_v_is_that_of_diffusers_and_leads_back():
    betas, alphas_bar = linear()
    scheduler = DDIMScheduler(trained_betas=betas.numpy())
    x_0, noise = (torch.linspace(-v, v, 6).double().view(3, 2) for v in (1.0, 2.5))
    t = torch.tensor([0, 400, 999])
    v = checks.v_target.specification(x_0, noise, t, alphas_bar)
    assert torch.allclose(v, scheduler.get_velocity(x_0, noise, t).double(), rtol=2e-4, atol=2e-4)
    x_t = checks.q_sample.specification(x_0, t, noise, alphas_bar)
    assert torch.allclose(checks.x_0_from_v.specification(x_t, v, t, alphas_bar), x_0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("T", [2, 10, 1000])
def test_zero_terminal_snr_is_that_of_diffusers(T):
    betas, _ = linear(T)
    new = checks.zero_terminal_snr.specification(betas)
    assert torch.allclose(new, rescale_zero_terminal_snr(betas), rtol=1e-9, atol=0)
    assert new[-1] == 1 and new[0].item() == pytest.approx(betas[0].item(), rel=1e-10)


def test_rescaled_eps_has_the_standard_deviation_of_the_labelled():
    cond, guided, phi = (
        torch.linspace(-1, 2, 24).view(2, 3, 2, 2) ** 2,
        3 * torch.linspace(1, -2, 24).view(2, 3, 2, 2),
        1,
    )
    stds = lambda x: x.double().flatten(1).std(1)  # noqa: E731
    out = checks.rescaled_eps.specification(cond, guided, phi)
    assert torch.allclose(stds(out), stds(cond), rtol=1e-6)
    half = checks.rescaled_eps.specification(cond, guided, 0.5)
    assert torch.allclose(half, (out + guided) / 2, rtol=1e-6)
