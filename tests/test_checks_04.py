"""The exercises of notebook 04: right answers in other words, wrong ones, and specifications beside other sources."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from einops import einsum, rearrange, reduce

from ddpm_lesson import checks
from ddpm_lesson.checks import _explain
from ddpm_lesson.checks._finished import FINISHED

SOLVED = Path(__file__).parent.parent / "notebooks" / "solutions" / "04_sampling.py"
SPEC = importlib.util.spec_from_file_location("solution_04", SOLVED)
solution = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(solution)


def chain_by_numpy(model, betas, x_T, noise):
    beta, x = betas.numpy(), x_T.double().numpy()
    for t in range(len(beta) - 1, -1, -1):
        eps = model(torch.from_numpy(x), torch.tensor([t] * len(x))).numpy()
        x = (x - beta[t] * eps / np.sqrt(1 - np.prod(1 - beta[: t + 1]))) / np.sqrt(1 - beta[t])
        x = x if t == 0 else x + np.sqrt(beta[t]) * noise[t].numpy()
        yield torch.from_numpy(x)


def chain_by_recursion(model, betas, x_T, noise, bar=None):
    """One step, then the chain that is left."""
    bar = torch.cumprod(1 - betas, 0) if bar is None else bar
    t = len(betas) - 1
    eps = model(x_T, torch.zeros(len(x_T), dtype=torch.int64) + t)
    x = torch.addcmul(x_T.double(), -betas[t] / (1 - bar[t]).sqrt(), eps.double()) * (1 - betas[t]) ** -0.5
    if t == 0:
        yield x
        return
    x = x + betas[t].sqrt() * noise[t]
    yield x
    yield from chain_by_recursion(model, betas[:-1], x, noise[:-1], bar[:-1])


def chain_by_ddim(model, betas, x_T, noise):
    """As a posterior mean, and the rest of the variance beside it; in float32."""
    bar = torch.cat([torch.ones(1), torch.cumprod(1 - betas, 0).float()])
    for t in reversed(range(len(betas))):
        eps = model(x_T, torch.full(x_T.shape[:1], t))
        x_0, beta = (x_T - (1 - bar[t + 1]).sqrt() * eps) / bar[t + 1].sqrt(), 1 - bar[t + 1] / bar[t]
        var = beta * (1 - bar[t]) / (1 - bar[t + 1])
        x_T = bar[t].sqrt() * x_0 + (1 - bar[t] - var).sqrt() * eps + (beta.sqrt() if t else 0) * noise[t]
        yield x_T


def chain_from_the_last_noise(model, betas, x_T, noise):
    """The noises in the order in which they are used."""
    bar, noises = torch.cumprod(1 - betas, 0), iter(noise.flip(0))
    for t in range(len(betas) - 1, -1, -1):
        eps, z = model(x_T, torch.tensor(t).repeat(len(x_T))), next(noises)
        mean = (x_T - betas[t] * torch.rsqrt(1 - bar[t]) * eps) / torch.sqrt(1 - betas[t])
        x_T = torch.where(torch.tensor(t > 0), mean + betas[t].sqrt() * z, mean)
        yield x_T


def ddim_by_posterior(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    """Eq. 7: the mean from x_0 and x_t."""
    a, p = alphas_bar[t], alphas_bar[t_prev] if t_prev > -1 else torch.tensor(1.0).double()
    x_0 = (x_t - eps * (1 - a) ** 0.5) / a**0.5
    var = eta**2 * (1 - p) * (1 - a / p) / (1 - a)
    return p**0.5 * x_0 + (1 - p - var) ** 0.5 * (x_t - a**0.5 * x_0) / (1 - a) ** 0.5 + var**0.5 * noise


def ddim_by_extract(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    """With a column of coefficients for each image, in the images' dtype."""
    table = torch.cat([alphas_bar, alphas_bar.new_ones(1)])  # so that index -1 is the clean image
    a, p = (table[torch.full((len(x_t),), i)].view(-1, *[1] * (x_t.ndim - 1)).to(x_t.dtype) for i in (t, t_prev))
    sigma = eta * torch.sqrt((1 - p) / (1 - a)) * torch.sqrt(1 - a / p)
    x_0 = x_t / a.sqrt() - eps * (1 / a - 1).sqrt()
    return x_0 * p.sqrt() + eps * torch.sqrt(torch.clamp(1 - p - sigma**2, min=0)) + sigma * noise


def ddim_by_signal_to_noise(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    """Eq. 13: x / sqrt(alpha_bar) moves along eps by the change of sqrt(1 / alpha_bar - 1); the noise apart."""
    a = alphas_bar[t].item()
    p = 1.0 if t_prev < 0 else alphas_bar[t_prev].item()
    sigma = eta * math.sqrt((1 - p) / (1 - a) * (1 - a / p))
    rest = math.sqrt(max((1 - p - sigma**2) / p, 0))
    moved = x_t / math.sqrt(a) + (rest - math.sqrt(1 / a - 1)) * eps
    return math.sqrt(p) * moved + sigma * noise


def slerp_by_loop(a, b, share):
    out = torch.empty(a.shape)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        w = torch.arccos(torch.dot(x.flatten(), y.flatten()) / torch.linalg.norm(x.flatten()) / y.norm())
        out[i] = torch.sin(w - share * w) / torch.sin(w) * x + torch.sin(share * w) / torch.sin(w) * y
    return out


def slerp_by_einops(a, b, share):
    x, y = rearrange(a, "b ... -> b (...)"), rearrange(b, "b ... -> b (...)")
    dot = einsum(x, y, "b d, b d -> b")
    cos = dot * torch.rsqrt(reduce(x**2, "b d -> b", "sum") * reduce(y**2, "b d -> b", "sum"))
    angle, at = torch.acos(cos), torch.tensor([1 - share, share])
    weights = torch.sin(torch.outer(at, angle)) / torch.sin(angle)
    return einsum(weights, torch.stack([a, b]), "k b, k b ... -> b ...")


def slerp_by_cosine_similarity(a, b, share):
    """Of images made vectors, where axis 1 holds all of an image."""
    angle = torch.acos(torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)))
    first, second = (torch.sin(part * angle) / torch.sin(angle) for part in (1 - share, share))
    return torch.einsum("b,b...->b...", first, a) + torch.einsum("b,b...->b...", second, b)


def slerp_by_turning(a, b, share):
    """From a's direction towards what of b is at right angles to it, as far as b's own length allows; by atan2."""
    x, y = a.double().flatten(1), b.double().flatten(1)
    along = (x * y).sum(1, keepdim=True) / x.norm(dim=1, keepdim=True)
    across = y - along * x / x.norm(dim=1, keepdim=True)
    angle = torch.atan2(across.norm(dim=1, keepdim=True), along)
    ends = torch.stack([torch.sin(angle - share * angle), torch.sin(share * angle)]) / torch.sin(angle)
    return (ends[0] * x + ends[1] * y).reshape(a.shape)


def slerp_by_numpy(a, b, share):
    x, y = a.double().numpy().reshape(len(a), -1), b.double().numpy().reshape(len(b), -1)
    cos = np.sum(x / np.linalg.norm(x, axis=1)[:, None] * (y / np.linalg.norm(y, axis=1)[:, None]), 1)
    w = np.arccos(np.clip(cos, -1, 1))[:, None]
    return torch.from_numpy((np.sin((1 - share) * w) * x + np.sin(share * w) * y) / np.sin(w)).reshape(a.shape)


def two_m_by_sigmas(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev == -1:
        return 1 * x_0
    alpha, sigma = alphas_bar.sqrt(), (1 - alphas_bar).sqrt()
    lam = alpha.log() - sigma.log()
    h = lam[t_prev] - lam[t]
    D_1 = 0 if x_0_before is None else h / (lam[t] - lam[t_before]) * (x_0 - x_0_before)
    whole = alpha[t_prev] * (torch.exp(-h) - 1)
    return sigma[t_prev] / sigma[t] * x_t - whole * x_0 - 0.5 * whole * D_1


def two_m_by_ddim(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    """DDIM's step with the extrapolated estimate instead of x_0."""
    if t_prev < 0:
        return x_0
    D = x_0
    if x_0_before is not None:
        logit = torch.special.logit(alphas_bar)
        D = torch.lerp(
            x_0_before.double(), x_0.double(), 1 + (logit[t_prev] - logit[t]) / (logit[t] - logit[t_before]) / 2
        )
    a, p = alphas_bar[t], alphas_bar[t_prev]
    return p.sqrt() * D + (1 - p).sqrt() * (x_t - a.sqrt() * D) / (1 - a).sqrt()


def two_m_in_float32(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
    if t_prev < 0:
        return x_0
    lam = (0.5 * (alphas_bar.log() - torch.log1p(-alphas_bar))).float()
    h = (lam[t_prev] - lam[t]).item()
    share = 0.0 if t_before is None else h / (lam[t] - lam[t_before]).item() / 2
    estimate = x_0 if x_0_before is None else (1 + share) * x_0 - share * x_0_before
    kept = math.sqrt((1 - alphas_bar[t_prev].item()) / (1 - alphas_bar[t].item()))
    return kept * x_t - math.sqrt(alphas_bar[t_prev].item()) * math.expm1(-h) * estimate


def paint_by_functions(p_step, known, mask, betas, x_T, repeats, draw):
    bar = torch.cumprod(1 - betas, 0)

    def step(x, t):
        unknown = p_step(x, t)
        if t == 0:
            return torch.where(mask == 1, known, unknown)
        return torch.where(mask == 1, bar[t - 1].sqrt() * known + (1 - bar[t - 1]).sqrt() * draw(), unknown)

    x = x_T
    for t in range(len(betas))[::-1]:
        below = step(x, t)
        for _ in range(repeats - 1 if t else 0):
            below = step((1 - betas[t]).sqrt() * below + betas[t].sqrt() * draw(), t)
        x = below
        yield x


def paint_in_place(p_step, known, mask, betas, x_T, repeats, draw):
    """Changes only what it made itself."""
    hole = mask.bool().logical_not()
    bar, x = [1.0, *torch.cumprod(1 - betas, 0).tolist()], x_T.clone()
    for t in reversed(range(len(betas))):
        for r in range(1, repeats + 1):
            unknown = p_step(x, t)
            below = known * bar[t] ** 0.5
            if t > 0:
                below += (1 - bar[t]) ** 0.5 * draw()
            below[hole] = unknown.to(below.dtype)[hole]
            if r < repeats and t > 0:
                x = (1 - betas[t].item()) ** 0.5 * below + betas[t].item() ** 0.5 * draw()
        x = below
        yield x


def paint_by_schedule(p_step, known, mask, betas, x_T, repeats, draw):
    """A list of moves, down and up, as RePaint's code makes it."""
    moves = []
    for t in reversed(range(len(betas))):
        moves += [("down", t)] + [("up", t), ("down", t)] * (repeats - 1) * (t > 0) + [("yield", t)]
    x = x_T
    for move, t in moves:
        if move == "yield":
            yield x
        elif move == "up":
            x = torch.sqrt(1 - betas[t]) * x + torch.sqrt(betas[t]) * draw()
        else:
            below = torch.prod(1 - betas[:t])
            noisy = below.sqrt() * known + ((1 - below).sqrt() * draw() if t else 0)
            x = (1 - mask) * p_step(x, t) + mask * noisy


def paint_by_recursion(p_step, known, mask, betas, x_T, repeats, draw, left=None):
    """One repeat, then what is left; the known part comes before the unknown."""
    t, left = len(betas) - 1, repeats if left is None else left
    bar = torch.prod(1 - betas[:t])  # 1 at t = 0
    noisy = bar.sqrt() * known + (1 - bar).sqrt() * draw() if len(betas) > 1 else known
    below = torch.lerp(p_step(x_T, t).double(), noisy.double(), mask.double())
    if left > 1 and t > 0:
        x_T = torch.sqrt(1 - betas[t]) * below + torch.sqrt(betas[t]) * draw()
        yield from paint_by_recursion(p_step, known, mask, betas, x_T, repeats, draw, left - 1)
        return
    yield below
    if t > 0:
        yield from paint_by_recursion(p_step, known, mask, betas[:-1], below, repeats, draw)


def paint_from_one_x_t_at_0(p_step, known, mask, betas, x_T, repeats, draw):
    """At t = 0 as many passes as elsewhere, but all from the same x_t."""
    bar = torch.cat([torch.ones(1).double(), torch.cumprod(1 - betas, 0)])
    for t in reversed(range(len(betas))):
        for k in range(repeats):
            noise = draw() if t else torch.zeros(())
            below = mask * (bar[t].sqrt() * known + (1 - bar[t]).sqrt() * noise) + (1 - mask) * p_step(x_T, t)
            if t and k + 1 < repeats:
                x_T = (1 - betas[t]).sqrt() * below + betas[t].sqrt() * draw()
        yield below
        x_T = below


VARIANTS = {
    "ancestral_chain": [chain_by_numpy, chain_by_recursion, chain_by_ddim, chain_from_the_last_noise],
    "ddim_step": [ddim_by_posterior, ddim_by_extract, ddim_by_signal_to_noise],
    "slerp": [slerp_by_loop, slerp_by_einops, slerp_by_numpy, slerp_by_cosine_similarity, slerp_by_turning],
    "dpmpp_2m_step": [two_m_by_sigmas, two_m_by_ddim, two_m_in_float32],
    "inpaint": [
        paint_by_functions,
        paint_in_place,
        paint_by_schedule,
        paint_by_recursion,
        paint_from_one_x_t_at_0,
    ],
}


def verdict(name, answer):
    word, detail = checks.registry[name].diagnose(answer)
    return word + detail


# What is said of wrong chains.


def test_a_chain_that_is_a_list_is_told_apart_from_a_generator():
    text = verdict("ancestral_chain", lambda *args: list(solution.ancestral_chain(*args)))
    assert "expected a generator, which yields each state, got list" in text


def test_the_first_wrong_state_is_named():
    def ancestral_chain(*args):
        for i, x in enumerate(solution.ancestral_chain(*args)):
            yield x + 0.1 * (i == 3)

    text = verdict("ancestral_chain", ancestral_chain)
    assert "x_T of shape (2, 1, 4, 4), T = 5: the state after step t = 1 is the first step that is wrong" in text


def changed_in_place(chain):
    """The same states, but one tensor, which the next step overwrites."""

    def answer(*args):
        held = None
        for state in chain(*args):
            held = state.clone() if held is None else held.copy_(state)
            yield held

    return answer


@pytest.mark.parametrize("name", ["ancestral_chain", "inpaint", "guided_chain"])
def test_a_state_that_is_changed_after_it_was_yielded_is_told(name):
    text = verdict(name, changed_in_place(FINISHED[name]))
    assert text.startswith("no. The result is right, but your function changes a yielded tensor in place")
    assert "Build a new tensor" in text


def test_a_state_that_is_not_a_number_is_no_change_in_place():
    def ancestral_chain(*args):
        for state in solution.ancestral_chain(*args):
            yield state * float("nan")

    assert "in place" not in verdict("ancestral_chain", ancestral_chain)


def test_a_mistake_is_told_before_the_change_in_place():
    def ancestral_chain(model, betas, x_T, noise):
        yield from solution.ancestral_chain(model, betas, x_T, 0 * noise)

    text = verdict("ancestral_chain", changed_in_place(ancestral_chain))
    assert "You add no noise at all" in text and "And your function changes a yielded tensor in place" in text


def test_what_is_no_tensor_is_told():
    def ancestral_chain(model, betas, x_T, noise):
        yield 3

    assert "expected each state as a tensor, got int" in verdict("ancestral_chain", ancestral_chain)


def test_a_network_without_its_batch_of_t_is_told():
    def ancestral_chain(model, betas, x_T, noise):
        yield model(x_T, torch.tensor(len(betas) - 1))

    text = verdict("ancestral_chain", ancestral_chain)
    assert "raised TypeError: model expects t of shape (2,) and dtype torch.int64, got () and torch.int64" in text


def test_p_step_takes_an_int():
    def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
        yield p_step(x_T, torch.full((len(x_T),), len(betas) - 1))

    text = verdict("inpaint", inpaint)
    assert "raised TypeError" in text and "in the line: yield p_step(x_T" in text


@pytest.mark.parametrize("name", ["ancestral_chain", "inpaint"])
def test_no_two_mistakes_are_told_of_a_chain_that_is_wrong_without_cause(name):
    def chain(*args):
        for i, x in enumerate(getattr(solution, name)(*args)):
            yield x + torch.sin(1 + i + torch.arange(x.numel())).view(x.shape) / 50

    text = verdict(name, chain)
    assert "the first step that is wrong: expected" in text and "mistakes" not in text


# Which factor of a step is wrong.


def ddim(signal=lambda a, p: p**0.5, rest=lambda a, p, s: (1 - p - s**2) ** 0.5, loud=lambda a, p, s: s):
    def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
        a, p = alphas_bar[t], alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(alphas_bar[0])
        s = eta * ((1 - p) / (1 - a) * (1 - a / p)).sqrt()
        x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
        return signal(a, p) * x_0 + rest(a, p, s) * eps + loud(a, p, s) * noise

    return ddim_step


def two_m(kept=lambda a, p, h: ((1 - p) / (1 - a)) ** 0.5, grow=lambda a, p, h: -(p**0.5) * torch.expm1(-h)):
    def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
        if t_prev < 0:
            return x_0
        lam, D = torch.logit(alphas_bar) / 2, x_0
        h = lam[t_prev] - lam[t]
        if x_0_before is not None:
            D = x_0 + h / (lam[t] - lam[t_before]) / 2 * (x_0 - x_0_before)
        coefficients = alphas_bar[t], alphas_bar[t_prev], h
        return kept(*coefficients) * x_t + grow(*coefficients) * D

    return dpmpp_2m_step


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("ddim_step", ddim(), ""),
        ("dpmpp_2m_step", two_m(), ""),
        (
            "dpmpp_2m_step",
            lambda x, x_0, before, *rest: two_m()(x, x_0, None if before is None else before.flip(0), *rest),
            "Your numbers come out if x_0_before is in reverse order.",
        ),
        (
            "ddim_step",
            ddim(signal=lambda a, p: p**1.5),
            "Your factor of eps, which points to x_t, and of noise is right. Your factor of the estimated x_0 is the "
            "right one times alpha_bar_prev",
        ),
        (
            "ddim_step",
            ddim(loud=lambda a, p, s: s * (1 - a)),
            "Your factor of noise is the right one times (1 - alpha_bar_t)",
        ),
        (
            "ddim_step",
            ddim(rest=lambda a, p, s: (1 - a) ** 0.5),
            "Your factor of the estimated x_0 and of noise is right. Your factor of eps, which points to x_t, is",
        ),
        (
            "dpmpp_2m_step",
            two_m(kept=lambda a, p, h: ((1 - p) / (1 - a)) ** 1.5),
            "Your factor of x_0 and of x_0_before is right. Your factor of x_t is the right one times (1 - "
            "alpha_bar_prev) / (1 - alpha_bar_t)",
        ),
        (
            "dpmpp_2m_step",
            two_m(grow=lambda a, p, h: -(p**1.5) * torch.expm1(-h)),
            "Your factor of x_t is right. Your factor of x_0 and of x_0_before is the right one times alpha_bar_prev",
        ),
    ],
)
def test_the_wrong_factor_is_named(name, answer, words, monkeypatch):
    monkeypatch.setattr(_explain, "STRICT", True)
    text = verdict(name, answer)
    assert words in text and text.startswith("no" if words else "yes"), text


def test_a_result_that_is_not_finite_is_not_told_to_ignore_an_argument(monkeypatch):
    """With the ratio in sigma upside down a negative number comes under the direction's root."""
    monkeypatch.setattr(_explain, "STRICT", True)

    def ddim_step(x_t, eps, t, t_prev, alphas_bar, eta, noise):
        a, p = alphas_bar[t], alphas_bar[t_prev] if t_prev >= 0 else torch.ones_like(alphas_bar[0])
        s = eta * ((1 - p) / (1 - a) * (1 - p / a).abs()).sqrt()
        return p.sqrt() * (x_t - (1 - a).sqrt() * eps) / a.sqrt() + (1 - p - s**2).sqrt() * eps + s * noise

    text = verdict("ddim_step", ddim_step)
    assert "got nan, which is not a finite number" in text and "depend" not in text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *args: solution.dpmpp_2m_step(*args) * (1 if args[4] >= 0 else 0.5), "the clean image, t_prev = -1"),
        (lambda *args: args[1] if args[2] is None else solution.dpmpp_2m_step(*args), "the first step, where"),
    ],
)
def test_the_one_kind_of_step_that_is_wrong_is_named(answer, words, monkeypatch):
    monkeypatch.setattr(_explain, "STRICT", True)
    assert f"is right everywhere but at {words}" in verdict("dpmpp_2m_step", answer)


def test_exchanged_arguments_are_named(monkeypatch):
    monkeypatch.setattr(_explain, "STRICT", True)
    assert "You exchanged eps and noise." in verdict(
        "ddim_step", lambda x, e, t, p, bar, eta, z: solution.ddim_step(x, z, t, p, bar, eta, e)
    )
    assert "share and 1 - share are exchanged" in verdict("slerp", lambda a, b, share: solution.slerp(b, a, share))


# The specifications against other sources.


def linear(T=1000):
    betas = checks.linear_betas.specification(1e-4, 0.02, T)
    return betas, torch.cumprod(1 - betas, 0)


@pytest.mark.parametrize(("S", "var"), [(1000, 0.9999), (10, 0.897), (4, 0.524)])
def test_a_chain_without_its_last_noise_has_the_published_variance(S, var):
    """FORMULAS: standard normal data and the best eps, fixedlarge, trailing steps. Each noise alone, squares summed."""
    _, alphas_bar = linear()
    visited = torch.arange(1000 // S - 1, 1000, 1000 // S)
    betas = checks.respaced_betas.specification(alphas_bar, visited)
    spread = (1 - torch.cumprod(1 - betas, 0)).sqrt()
    pushes = torch.eye(S + 1, dtype=torch.float64)
    noise = pushes[1:].unsqueeze(-1)  # walk k is pushed by the noise of step k - 1 alone, walk 0 by x_T alone
    best = lambda x_t, t: spread[t][:, None] * x_t  # noqa: E731
    states = list(checks.ancestral_chain.specification(best, betas, pushes[:1].T, noise))
    assert (states[-1] ** 2).sum().item() == pytest.approx(var, abs=5e-5 if S == 1000 else 5e-4)
    assert all((x**2).sum().item() == pytest.approx(1, rel=1e-9) for x in states[:-1])


def test_ddim_with_eta_0_is_the_jump_with_the_same_noise():
    _, alphas_bar = linear()
    x_0, eps = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.5, -0.25]])
    x = checks.q_sample.specification(x_0, torch.tensor([999]), eps, alphas_bar)
    out = checks.ddim_step.specification(x, eps, 999, 300, alphas_bar, 0.0, 7 * eps)
    assert torch.allclose(out, checks.q_sample.specification(x_0, torch.tensor([300]), eps, alphas_bar), atol=1e-12)
    assert torch.allclose(checks.ddim_step.specification(x, eps, 999, -1, alphas_bar, 1.0, eps), x_0.double())


def test_ddim_with_eta_1_draws_from_the_posterior_of_the_short_chain():
    _, alphas_bar = linear()
    betas = checks.respaced_betas.specification(alphas_bar, torch.tensor([300, 999]))
    x, eps, noise = (torch.tensor([[v, -v]]).double() for v in (0.5, 1.25, 2.0))
    x_0 = checks.x_0_from_eps.specification(x, torch.tensor([999]), eps, alphas_bar)
    mean, var = checks.posterior.specification(x_0, x, torch.tensor([1]), betas)
    out = checks.ddim_step.specification(x, eps, 999, 300, alphas_bar, 1.0, noise)
    assert torch.allclose(out, mean + var.sqrt() * noise, rtol=1e-9)


def started(scheduler, S):
    scheduler.set_timesteps(S)
    return scheduler.timesteps.tolist()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_diffusers(eta):
    """Which holds its tables in float32: products of 1000 rounded factors."""
    betas, alphas_bar = linear()
    scheduler = DDIMScheduler(trained_betas=betas.numpy(), clip_sample=False, timestep_spacing="trailing")
    steps = started(scheduler, 10)
    x, eps, noise = (torch.linspace(-v, v, 6, dtype=torch.float64).view(2, 3) for v in (1.0, 2.0, -1.5))
    for t, t_prev in zip(steps, [*steps[1:], -1], strict=True):
        theirs = scheduler.step(eps, t, x, eta=eta, variance_noise=noise).prev_sample
        mine = checks.ddim_step.specification(x, eps, t, t_prev, alphas_bar, eta, noise)
        assert torch.allclose(mine, theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # of diffusers' numpy
def test_two_m_is_that_of_diffusers():
    betas, alphas_bar = linear()
    scheduler = DPMSolverMultistepScheduler(
        trained_betas=betas.numpy(), prediction_type="sample", final_sigmas_type="zero", timestep_spacing="trailing"
    )
    steps = started(scheduler, 8)
    x = torch.linspace(-2, 2, 6, dtype=torch.float64).view(2, 3)
    mine, theirs, before, t_before = x, x, None, None
    for t, t_prev in zip(steps, [*steps[1:], -1], strict=True):
        x_0 = torch.tanh(mine + t / 500)
        mine = checks.dpmpp_2m_step.specification(mine, x_0, before, t, t_prev, t_before, alphas_bar)
        theirs = scheduler.step(x_0, t, theirs).prev_sample
        before, t_before = x_0, t
        assert torch.allclose(mine, theirs.double(), rtol=1e-3, atol=1e-3)
    assert torch.equal(mine, x_0)


def test_two_m_with_a_constant_estimate_is_exact():
    """Data that are one point: every step ends where the jump with the same noise does."""
    _, alphas_bar = linear()
    x_0, eps = torch.tensor([[0.5, -1.0]]).double(), torch.tensor([[1.5, -0.25]]).double()
    jump = lambda t: alphas_bar[t].sqrt() * x_0 + (1 - alphas_bar[t]).sqrt() * eps  # noqa: E731
    for before, t_before in [(None, None), (x_0, 999)]:
        out = checks.dpmpp_2m_step.specification(jump(700), x_0, before, 700, 200, t_before, alphas_bar)
        assert torch.allclose(out, jump(200), rtol=1e-12)


def test_slerp_turns_evenly_and_keeps_the_norm():
    a, b = torch.tensor([[3.0, 0.0, 0.0]]).double(), torch.tensor([[-1.0, 2.0, 2.0]]).double()  # both of norm 3
    angle = math.acos(-1 / 3)
    for share in (0.0, 0.25, 0.5, 1.0):
        out = checks.slerp.specification(a, b, share)
        assert out.norm().item() == pytest.approx(3, rel=1e-14)
        assert math.acos(min(1.0, (out @ a.T).item() / 9)) == pytest.approx(share * angle, abs=1e-7)
    assert torch.allclose(checks.slerp.specification(a, b, 1.0), b, rtol=1e-14)


def test_inpainting_without_a_hole_noises_and_ends_in_the_image():
    """The variance of x_{t-1} over the draws is 1 - alpha_bar_{t-1}; the steps themselves leave no trace."""
    betas, known = torch.tensor([0.1, 0.4, 0.3]).double(), torch.tensor([[0.5, -1.0]])
    ones = torch.ones_like(known)
    args = lambda draw: (lambda x, t: 100 * x, known, ones, betas, known, 3, draw)  # noqa: E731
    still, pushed = (list(checks.inpaint.specification(*args(lambda v=v: v * ones))) for v in (0.0, 1.0))
    bar = torch.cumprod(1 - betas, 0)
    gaps = [(y - x).unique().tolist() for x, y in zip(still, pushed, strict=True)]
    assert [gap[-1] ** 2 for gap in gaps] == pytest.approx([1 - bar[1].item(), 1 - bar[0].item(), 0])
    assert torch.equal(pushed[-1], known.double())


def test_inpainting_a_hole_of_everything_is_the_chain_itself():
    betas, x_T = torch.tensor([0.1, 0.4, 0.3]).double(), torch.tensor([[0.5, -1.0]]).double()
    states = list(checks.inpaint.specification(lambda x, t: x / 2 + t, x_T, 0 * x_T, betas, x_T, 1, lambda: x_T))
    assert torch.equal(torch.cat(states), torch.cat([x_T / 2 + 2, x_T / 4 + 2, x_T / 8 + 1]))


def test_a_step_back_is_a_step_of_the_walk():
    """Between two repeats: the state that p_step sees again. At t = 0 there is one pass."""
    betas, x_T, seen = torch.tensor([0.1, 0.4]).double(), torch.tensor([[0.5, -1.0]]).double(), []
    noise = torch.tensor([[2.0, 0.25]]).double()

    def p_step(x, t):
        seen.append((t, x))
        return x / 2

    list(checks.inpaint.specification(p_step, x_T, 0 * x_T, betas, x_T, 2, lambda: noise))
    assert [t for t, _ in seen] == [1, 1, 0]
    assert torch.allclose(seen[1][1], checks.walk.specification(x_T / 2, betas[1:], noise[None])[-1], rtol=1e-14)


# Answers that a reader of the statements gave, and what they are told.


def two_m_by_4_9(fraction, eps_from=lambda x_0, D: D, r=None):
    """(4.9), then DDIM's step; or (4.7) with another r."""

    def dpmpp_2m_step(x_t, x_0, x_0_before, t, t_prev, t_before, alphas_bar):
        if t_prev < 0:
            return x_0
        a, p, D = alphas_bar[t], alphas_bar[t_prev], x_0
        if x_0_before is not None:
            D = x_0 + fraction(a, p, alphas_bar[t_before]) * (x_0 - x_0_before)
        if r is not None:
            return (1 - p).sqrt() * (x_t / (1 - a).sqrt() + (r(p) - r(a)) * D)
        return p.sqrt() * D + (1 - p).sqrt() * (x_t - a.sqrt() * eps_from(x_0, D)) / (1 - a).sqrt()

    return dpmpp_2m_step


def fraction_of(L):
    return lambda a, p, before: (L(p) - L(a)) / (2 * (L(a) - L(before)))


def chain_by_bar(model, betas, x_T, noise):
    bar, x = torch.cumprod(1 - betas, 0), x_T
    for t in reversed(range(len(betas))):
        eps = model(x, torch.full((len(x),), t))
        x = (x - betas[t] / (1 - bar[t]).sqrt() * eps) / bar[t].sqrt() + (betas[t].sqrt() * noise[t] if t else 0)
        yield x


def ddim_clipped(x_t, eps, t, t_prev, alphas_bar, eta, noise):
    a, p = alphas_bar[t], alphas_bar[t_prev] if t_prev >= 0 else torch.tensor(1.0).double()
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    x_0 = x_0.clamp(-1, 1) if t_prev >= 0 else x_0
    s = eta * ((1 - p) / (1 - a) * (1 - a / p)).sqrt()
    return p.sqrt() * x_0 + (1 - p - s**2).sqrt() * eps + s * noise


def line_as_long_as_a(a, b, share):
    line = (1 - share) * a + share * b
    lengths = a.flatten(1).norm(dim=1) / line.flatten(1).norm(dim=1)
    return line * lengths.view(-1, *[1] * (a.ndim - 1))


def paint_from_x_0(p_step, known, mask, betas, x_T, repeats, draw):
    """The repeats at t = 0 start from what the one before has made."""
    bar, x = torch.cumprod(1 - betas, 0), x_T
    for t in reversed(range(len(betas))):
        for k in range(repeats):
            noisy = bar[t - 1].sqrt() * known + (1 - bar[t - 1]).sqrt() * draw() if t else known
            y = mask * noisy + (1 - mask) * p_step(x, t)
            x = y if k == repeats - 1 or t == 0 else (1 - betas[t]).sqrt() * y + betas[t].sqrt() * draw()
        yield y


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("dpmpp_2m_step", two_m_by_4_9(fraction_of(torch.logit)), ""),
        ("dpmpp_2m_step", two_m_by_4_9(fraction_of(torch.logit), r=lambda a: (a / (1 - a)).sqrt()), ""),
        (
            "dpmpp_2m_step",
            two_m_by_4_9(lambda a, p, q: (p.logit() - a.logit()) / 2 * (a.logit() - q.logit())),
            "The brackets of the denominator are missing from the fraction of (4.9): / (2 * (...)).",
        ),
        (
            "dpmpp_2m_step",
            two_m_by_4_9(lambda a, p, q: (p.logit() - a.logit()) / 8 * (a.logit() - q.logit())),
            "The brackets of the denominator are missing from the fraction of (4.9): / (2 * (...)).",
        ),
        (
            "dpmpp_2m_step",
            two_m_by_4_9(fraction_of(lambda a: (a / (1 - a)).sqrt())),
            "You measure the steps in sqrt(SNR).",
        ),
        ("dpmpp_2m_step", two_m_by_4_9(fraction_of(lambda a: a / (1 - a))), "You measure the steps in the SNR."),
        ("dpmpp_2m_step", two_m_by_4_9(fraction_of(torch.log)), "your lambda is the log of alpha_bar alone"),
        (
            "dpmpp_2m_step",
            two_m_by_4_9(fraction_of(torch.logit), eps_from=lambda x_0, D: x_0),
            "eps must be derived from D, too",
        ),
        (
            "dpmpp_2m_step",
            two_m_by_4_9(fraction_of(torch.logit), r=lambda a: a / (1 - a)),
            "Your r is the SNR. That of (4.7) is its root",
        ),
        ("slerp", line_as_long_as_a, "the speed along the arc is not"),
        ("ancestral_chain", chain_by_bar, "Divide by the root of the single step's alpha"),
        ("ddim_step", ddim_clipped, "You clipped the estimated x_0 at every step but the last."),
        ("inpaint", paint_from_x_0, "there one pass is made, whatever repeats is"),
    ],
)
def test_natural_mistakes_are_told_their_cause(name, answer, words, monkeypatch):
    monkeypatch.setattr(_explain, "STRICT", True)
    text = verdict(name, answer)
    assert words in text and text.startswith("no" if words else "yes"), text


def slerp_by_channels(lay, clamp=False, axis=1):
    """cosine_similarity as it comes: of (B, C, H, W) it makes (B, H, W), of (B, D) it makes (B,)."""

    def slerp(a, b, share):
        cos = torch.nn.functional.cosine_similarity(a, b, axis)
        angle = lay(torch.acos(cos.clamp(-1, 1) if clamp else cos), a)
        return torch.sin((1 - share) * angle) / torch.sin(angle) * a + torch.sin(share * angle) / torch.sin(angle) * b

    return slerp


OVER_CHANNELS = (
    "You took an angle for each pixel, over the channels only (axis 1, which cosine_similarity takes by itself)"
)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize(
    ("lay", "words"),
    [
        (lambda angle, a: angle.unsqueeze(1), ". An image is one vector: flatten(1) first, or sum over all axes but"),
        (lambda angle, a: angle.view(-1, *[1] * (a.ndim - 1)), ", and put these angles into the batch axis. An image"),
        (lambda angle, a: angle[..., None], ", and gave these angles their missing axis at the end. An image is one"),
        (lambda angle, a: angle, ", and these angles lack an axis. An image is one vector: flatten(1) first"),
    ],
)
def test_cosine_similarity_over_the_channels_is_named(lay, words, clamp):
    """Of one channel the numbers are chance, nan or not: they decide nothing."""
    text = verdict("slerp", slerp_by_channels(lay, clamp))
    assert text.startswith(f"no. {OVER_CHANNELS}{words}"), text


def test_cosine_similarity_over_the_last_axis_is_another_mistake():
    text = verdict("slerp", slerp_by_channels(lambda angle, a: angle[..., None], axis=-1))
    assert text.startswith("no. You took an angle for each row, over the last axis only."), text


def test_wide_angles_are_wide():
    for case in checks.slerp.cases:
        a, b, _ = case.args
        assert ("wide angles" not in case.words) or ((a * b).flatten(1).sum(1) < 0).any()


def drawn_by(pick):
    """Exercise 4.2 with the noise that pick takes: of noise, its iterator, the steps made so far, and t."""

    def ancestral_chain(model, betas, x_T, noise):
        bar, noises = torch.cumprod(1 - betas, 0), iter(noise)
        for made, t in enumerate(reversed(range(len(betas)))):
            eps = model(x_T, torch.full((len(x_T),), t))
            x_T = (x_T - betas[t] / (1 - bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
            x_T = x_T + betas[t].sqrt() * pick(noise, noises, made, t) if t > 0 else x_T
            yield x_T

    return ancestral_chain


@pytest.mark.parametrize(
    "pick",
    [
        lambda noise, noises, made, t: noise[made],
        lambda noise, noises, made, t: next(noises),
        lambda noise, noises, made, t: noise[len(noise) - 1 - t],
    ],
)
def test_noise_from_its_start_is_told_as_what_was_done(pick):
    text = verdict("ancestral_chain", drawn_by(pick))
    assert text.startswith(
        "no. The first step that you make takes noise[0], the next one noise[1]. Step t has noise[t]"
    )
    assert text.endswith("the first step takes noise[T-1].") and "end" not in text
    assert verdict("ancestral_chain", drawn_by(lambda noise, noises, made, t: noise[-1 - made])).startswith("yes")


def paint(bar_of=lambda bar, t: bar[t - 1], quiet_at_0=False, forward=True, passes_at_0="one", each=None):
    """Exercise 4.7 with natural mistakes. bar_of: alpha_bar of the known part, also at t = 0; None is the clean one.

    passes_at_0: "one", or all: "same" from one x_t, "next" each from what the last has made. each: what every repeat
    yields, "mixed" or "state".
    """

    def inpaint(p_step, known, mask, betas, x_T, repeats, draw):
        bar, x = torch.cumprod(1 - betas, 0), x_T
        for t in reversed(range(len(betas))):
            passes = repeats if t > 0 or passes_at_0 != "one" else 1
            for k in range(passes):
                a, unknown = bar_of(bar, t), p_step(x, t)
                noisy = known
                if a is not None:
                    noisy = a.sqrt() * known + (1 - a).sqrt() * (0 if quiet_at_0 and t == 0 else draw())
                below = mask * noisy + (1 - mask) * unknown
                if k < passes - 1 and t > 0 and forward:
                    x = (1 - betas[t]).sqrt() * below + betas[t].sqrt() * draw()
                elif k == passes - 1 or t > 0 or passes_at_0 == "next":
                    x = below
                if each:
                    yield below if each == "mixed" else x
            if not each:
                yield below

    return inpaint


def clean_at_0(bar, t):
    return bar[t - 1] if t > 0 else None


WRAPS = (
    "At t = 0 you read alphas_bar[-1], which wraps around to the noisiest step. There the known part is known itself."
)
STAYS_NOISY = "At t = 0 your known part has still one step of noise, of alphas_bar[0]. There it is known itself."
ONE_PASS = " And at t = 0 one pass is made, whatever repeats is."


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (paint(clean_at_0, forward=False), "You never go forward: the repeats give x_{t-1} to p_step, with t. Make it"),
        (paint(), WRAPS),
        (paint(passes_at_0="same"), WRAPS + ONE_PASS),
        (
            paint(quiet_at_0=True),
            "At t = 0 you add no noise, but scale known by the root of alphas_bar[-1], which wraps",
        ),
        (paint(lambda bar, t: bar[max(t - 1, 0)]), STAYS_NOISY),
        (paint(lambda bar, t: bar[max(t - 1, 0)], passes_at_0="same"), STAYS_NOISY + ONE_PASS),
        (
            paint(lambda bar, t: bar[max(t - 1, 0)], quiet_at_0=True),
            "At t = 0 you add no noise, but scale known by the root of alphas_bar[0]. There the known part is known",
        ),
        (paint(clean_at_0, each="mixed"), "You yield after every repeat. One state for each t is asked for"),
        (paint(clean_at_0, each="state"), "You yield in every repeat, after the step forward. One state for each t"),
        (paint(lambda bar, t: bar[t]), "Your known part is noised to t. p_step's result is x_{t-1}"),
    ],
)
def test_a_mistake_of_inpainting_is_named_with_one_pass_at_0(answer, sentence):
    text = verdict("inpaint", answer)
    assert text.startswith("no. " + sentence) and "two mistakes" not in text, text
    assert text.endswith(ONE_PASS) == sentence.endswith(ONE_PASS)


@pytest.mark.parametrize(
    ("answer", "sentences"),
    [
        (paint(passes_at_0="next"), (WRAPS, "At t = 0 your repeats give x_0 to p_step again.")),
        (
            paint(clean_at_0, forward=False, passes_at_0="next"),
            ("You never go forward", "At t = 0 your repeats give x_0 to p_step again."),
        ),
        (paint(forward=False), ("You never go forward", WRAPS)),
        (
            paint(lambda bar, t: bar[max(t - 1, 0)], each="mixed"),
            ("You yield after every repeat.", STAYS_NOISY),
        ),
    ],
)
def test_two_mistakes_of_inpainting_are_named_both(answer, sentences):
    text = verdict("inpaint", answer)
    assert "two mistakes at once" in text and all(sentence in text for sentence in sentences), text


def test_no_mistake_of_inpainting_is_seen_in_a_right_one():
    for passes in ("one", "same"):
        assert verdict("inpaint", paint(clean_at_0, passes_at_0=passes)).startswith("yes")


@pytest.mark.parametrize("line", [lambda cos: cos > 0.9, lambda cos: cos < -0.9, lambda cos: cos.abs() > 0.9])
def test_an_arc_that_is_straight_at_some_angles(line, capsys):
    """Exercise 4.4 with lerp where vectors are nearly parallel or opposite: only far beyond these angles it is one."""

    def slerp(a, b, share):
        cos = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
        angle, column = cos.acos().reshape(-1, *[1] * (a.ndim - 1)), (-1, *[1] * (a.ndim - 1))
        arc = (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
        return torch.where(line(cos).reshape(column), torch.lerp(a, b.to(a), share), arc.to(a))

    checks.slerp(slerp)
    assert "4.4 slerp: no" in capsys.readouterr().out


def test_the_model_is_called_by_the_names_of_the_statement(capsys):
    def ancestral_chain(model, betas, x_T, noise):
        bar, x = torch.cumprod(1 - betas, 0), x_T
        for t in reversed(range(len(betas))):
            eps = model(x=x, t=torch.full((len(x),), t))
            x = (x - betas[t] / (1 - bar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
            x = x + betas[t].sqrt() * noise[t] if t > 0 else x
            yield x

    checks.ancestral_chain(ancestral_chain)
    assert "4.2 ancestral_chain: yes" in capsys.readouterr().out
