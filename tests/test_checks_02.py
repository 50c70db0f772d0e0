"""The check of notebook 02's capstone: right loops pass, however they are written."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from diagnosed import look_up, said

from ddpm_lesson import GaussianDiffusion, checks, data, losses, schedules, training
from ddpm_lesson.checks._finished import FINISHED
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.predictions import epsilon

SOLUTIONS = Path(__file__).parent.parent / "notebooks" / "solutions" / "02_loss.py"


@pytest.fixture(scope="module")
def solution():
    spec = importlib.util.spec_from_file_location("solution_02", SOLUTIONS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.training_loop


def by_scheduler(model, average, batches, loss, lr, warmup, clip_norm, decay):
    """The warm-up as a scheduler, the gradients from autograd.grad, the average rebuilt from a state."""
    weights = list(model.parameters())
    optimizer = torch.optim.Adam(weights, lr=lr)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1, (done + 1) / warmup))
    for batch in batches:
        value = torch.mean(loss(model, *batch))
        gradients = torch.autograd.grad(value, weights)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient * torch.clamp(clip_norm / norm, max=1)
        optimizer.step()
        warm.step()
        now, held = model.state_dict(), average.state_dict()
        average.load_state_dict({name: decay * held[name] + (1 - decay) * now[name] for name in held})
        yield value.item()


def by_hand(model, average, batches, loss, lr, warmup, clip_norm, decay):
    """The norm, the clipping and the average without PyTorch's helpers; a fresh optimiser's state for each weight."""
    weights = list(model.parameters())
    optimizer = torch.optim.Adam(weights, lr=lr)
    for k, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = lr * min((k + 1) / warmup, 1.0)
        optimizer.zero_grad(set_to_none=False)
        mean = loss(model, *batch).mean()
        mean.backward()
        norm = sum((w.grad**2).sum() for w in weights).sqrt()
        for w in weights:
            w.grad *= torch.clamp(clip_norm / (norm + 1e-6), max=1.0)
        optimizer.step()
        for held, w in zip(average.parameters(), weights, strict=True):
            held.data = decay * held.data + (1 - decay) * w.data
        yield mean.item()


def by_functions(model, average, batches, loss, lr, warmup, clip_norm, decay):
    """Small functions inside, and the whole state averaged by name."""

    def step(k, batch):
        rate = lr if k >= warmup else lr * k / warmup
        for group in optimizer.param_groups:
            group.update(lr=rate)
        value = torch.mean(loss(model, *batch))
        model.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=clip_norm)
        optimizer.step()
        return value.detach()

    optimizer, k = torch.optim.Adam(model.parameters()), 0
    names = dict(average.named_parameters())
    for batch in batches:
        k += 1
        value = step(k, batch)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                names[name].mul_(decay).add_(weight, alpha=1 - decay)
        yield value.item()


VARIANTS = {"training_loop": [by_scheduler, by_hand, by_functions]}


def test_a_loop_in_other_words_passes():
    assert checks.training_loop.diagnose(by_scheduler)[0] == "yes"


def test_a_list_of_losses_is_told_apart_from_a_generator(solution):
    verdict, words = checks.training_loop.diagnose(lambda *args: list(solution(*args)))
    assert verdict == "no" and "expected a generator" in words


def test_a_loss_with_its_graph_is_no_float():
    def loop(model, average, batches, loss, lr, warmup, clip_norm, decay):
        for batch in batches:
            yield loss(model, *batch).mean()

    verdict, words = checks.training_loop.diagnose(loop)
    assert verdict == "no" and "expected each loss as a float" in words


def test_a_step_too_few_is_counted(solution):
    def loop(*args):
        steps = list(solution(*args))
        yield from steps[:-1]

    assert checks.training_loop.diagnose(loop)[0] == "no"


@pytest.mark.parametrize("name", ["solution", "finished"])
def test_losses_are_those_of_the_packages_loop(name, solution):
    """training.train on the same draws, from one generator in the same order."""
    loop = solution if name == "solution" else FINISHED["training_loop"]
    process, points = GaussianDiffusion(schedules.linear(50)), data.eight_gaussians(64)
    torch.manual_seed(0)
    model = MLP(50, dim=2, hidden=8, layers=1)
    twin, average = copy.deepcopy(model), copy.deepcopy(model)
    draws = torch.Generator().manual_seed(1)
    noised = [process.noised(points, torch.randint(50, (64,), generator=draws), generator=draws) for _ in range(6)]

    def loss(net, x_0, t, noise):
        return losses.simple_loss(
            process, epsilon, net(process.q_sample(x_0, t, noise), t), process.noised(x_0, t, noise)
        )

    triples = [(draw.x_0, draw.t, draw.noise) for draw in noised]
    mine = list(loop(model, average, triples, loss, 1e-2, 3, 0.5, 0.9))
    again = torch.Generator().manual_seed(1)
    options = {"steps": 6, "lr": 1e-2, "warmup": 3, "clip_norm": 0.5, "generator": again}
    theirs = training.train(twin, process, [points], lambda output, draw: (draw.noise - output) ** 2, **options)
    assert mine == pytest.approx([step.loss for step in theirs], rel=1e-5)
    for weight, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(weight, other, atol=1e-5)
    assert any(not torch.equal(a, b) for a, b in zip(average.parameters(), model.parameters(), strict=True))


def mean_by(formula):
    """An answer to exercise 2.3: a formula of x_t, eps, beta, alpha and alpha_bar at t."""

    def mean_from_eps(x_t, t, eps, betas):
        tables = (betas, 1 - betas, torch.cumprod(1 - betas, 0))
        return formula(x_t, eps, *(look_up(table, t, x_t) for table in tables))

    return mean_from_eps


ONE_STEP = "You undid one forward step as if eps were that step's own noise"


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        (lambda x, e, beta, alpha, bar: (x - beta.sqrt() * e) / alpha.sqrt(), (f"{ONE_STEP}: your factor",)),
        (lambda x, e, beta, alpha, bar: alpha.rsqrt() * (x - beta * (1 - alpha).rsqrt() * e), (f"{ONE_STEP}: your",)),
        (lambda x, e, beta, alpha, bar: (x - beta.sqrt() * e) / alpha, (f"{ONE_STEP}. The", "You divided by alpha.")),
        (lambda x, e, beta, alpha, bar: (x - (1 - bar).sqrt() * e) / alpha.sqrt(), ("You subtracted all the noise.",)),
        (
            lambda x, e, beta, alpha, bar: (x - beta / (1 - bar.sqrt()) * e) / alpha.sqrt(),
            ("You wrote 1 - sqrt(alpha_bar) for sqrt(1 - alpha_bar).",),
        ),
        (
            lambda x, e, beta, alpha, bar: (x - beta / (1 - bar.sqrt()) * e) / bar.sqrt(),
            ("You wrote 1 - sqrt(alpha_bar) for sqrt(1 - alpha_bar).", "You divided by sqrt(alpha_bar)."),
        ),
        (
            lambda x, e, beta, alpha, bar: (x - (1 - bar.sqrt()) * e) / alpha.sqrt(),
            ("You subtracted eps times 1 - sqrt(alpha_bar).", "beta / sqrt(1 - alpha_bar)"),
        ),
    ],
)  # fmt: skip
def test_a_wrong_factor_of_eps_is_led_to_the_right_one(formula, words):
    text = said("mean_from_eps", mean_by(formula))
    assert all(word in text for word in words) and "Under the root" not in text


def log(a, b):
    return a.log() - b.log()


HALF = "The 1/2 stands before the whole bracket, and yours halves "


@pytest.mark.parametrize(
    ("kl", "words"),
    [
        (lambda m, v, n, w: 0.5 * v / w - 1 - log(v, w) + (m - n) ** 2 / w, f"{HALF}var_1 / var_2 only: put all"),
        (lambda m, v, n, w: 0.5 * (v + (m - n) ** 2) / w - 1 - log(v, w), f"{HALF}var_1 / var_2 and the squared d"),
        (lambda m, v, n, w: 0.5 * log(w, v) + (v + (m - n) ** 2) / w - 1, f"{HALF}the logarithm only"),
        (lambda m, v, n, w: (m - n) ** 2 / (2 * w) + v / w + log(w, v) - 1, f"{HALF}the squared distance only"),
        (
            lambda m, v, n, w: 0.5 * (log(w, v) + (v + (m - n) ** 2) / w) - 1,
            f"{HALF}the logarithm, var_1 / var_2 and the squared distance only",
        ),
        (lambda m, v, n, w: 0.5 * (v / w - 1 - log(v, w)) + (m - n) ** 2 / w, f"{HALF}the logarithm, var_1 / var_2 an"),
        (lambda m, v, n, w: log(w, v) + (v + (m - n) ** 2) / (2 * w) - 0.5, "Your logarithm counts twice."),
        (
            lambda m, v, n, w: log(w, v) / 2 + (v**2 + (m - n) ** 2) / (2 * w**2) - 0.5,
            "You put var where the textbook has sigma, and halved its logarithm only: the squares have to go, too.",
        ),
        (lambda m, v, n, w: log(w, v) + (v**2 + (m - n) ** 2) / (2 * w**2) - 0.5, "You squared the variances"),
        (lambda m, v, n, w: log(w, v) / 2 + (v**2 + (m - n) ** 2) / (2 * w) - 0.5, "You squared var_1."),
        (lambda m, v, n, w: log(w, v) / 2 + (v + (m - n) ** 2) / (2 * w**2) - 0.5, "the square of var_2, twice."),
        (lambda m, v, n, w: 0.5 * (log(w, v) + (v / w) ** 2 + (m - n) ** 2 / w - 1), "You squared the ratio of the"),
    ],
)  # fmt: skip
def test_a_bracket_or_a_textbooks_sigma_in_the_divergence(kl, words):
    assert words in said("gaussian_kl", kl)


def test_a_bracket_beside_a_second_mistake():
    """Of the divergence in the other direction."""
    text = said("gaussian_kl", lambda n, w, m, v: 0.5 * v / w - 1 - log(v, w) + (m - n) ** 2 / w)
    assert "Your arguments are reversed" in text and "two mistakes at once" in text
    assert "The 1/2 stands before the whole bracket: put all four terms into the bracket." in text


def kl_by_the_textbook(mean_1, var_1, mean_2, var_2):
    sigma_1, sigma_2 = var_1.double().sqrt(), var_2.double().sqrt()
    return torch.log(sigma_2 / sigma_1) + (sigma_1**2 + (mean_1 - mean_2) ** 2) / (2 * sigma_2**2) - 1 / 2


def kl_term_by_term(mean_1, var_1, mean_2, var_2):
    return 0.5 * (var_2.log() - var_1.log()) + 0.5 * var_1 / var_2 + 0.5 * (mean_1 - mean_2).pow(2) / var_2 - 0.5


@pytest.mark.parametrize("kl", [kl_by_the_textbook, kl_term_by_term])
def test_the_divergence_without_a_common_bracket_is_right(kl):
    assert checks.gaussian_kl.diagnose(kl)[0] == "yes"


def mean_by_precomputed_tables(x_t, t, eps, betas):
    alphas = 1 - betas
    share, scale = betas / (1 - alphas.cumprod(0)).sqrt(), 1 / alphas.sqrt()
    return look_up(scale, t, x_t) * x_t - look_up(scale * share, t, x_t) * eps


def test_the_mean_by_two_tables_is_right():
    assert checks.mean_from_eps.diagnose(mean_by_precomputed_tables)[0] == "yes"


@pytest.mark.parametrize("number", [1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize(
    ("place", "share"),
    [
        ("1 - alpha_bar under the root", lambda beta, rest, number: beta / (rest + number).sqrt()),
        ("sqrt(1 - alpha_bar)", lambda beta, rest, number: beta / (rest.sqrt() + number)),
        ("beta", lambda beta, rest, number: (beta + number) / rest.sqrt()),
    ],
)
def test_a_small_number_in_the_mean(place, share, number):
    text = said("mean_from_eps", mean_by(lambda x, e, beta, a, bar: (x - share(beta, 1 - bar, number) * e) / a.sqrt()))
    assert text == f"You added a small number: {number:g} to {place}. It counts where that is small: leave it out."
