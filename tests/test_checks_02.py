"""The check of notebook 02's capstone: right loops pass, however they are written."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

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
