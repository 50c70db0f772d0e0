"""Exercises in steps: a sampler, a module, a training loop. Small made-up ones, with their own specifications."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._steps import each_state, each_update, module


def halving(x, steps):
    """Exercise 9.1: x, and its half, and so on."""
    for _ in range(steps):
        yield x
        x = x / 2


def halving_form(x, steps, *, factor=0.5, first=lambda x: x, count=lambda steps: steps):
    x = first(x)
    for _ in range(count(steps)):
        yield x
        x = factor * x


sampler = Check(
    number="9.1",
    name="halving",
    specification=halving,
    form=halving_form,
    script=each_state(),
    steps=True,
    cases=tuple(Case(f"{n} steps", (torch.tensor([1.0, 3.0]), n)) for n in (1, 4, 7)),
    among="one step",
    misconceptions={
        "You doubled.": dict(factor=2.0),
        "You started one step late.": dict(first=lambda x: x / 2),
        "One state is missing.": dict(count=lambda steps: steps - 1),
    },
)


def verdict(check, answer):
    name, detail = check.diagnose(answer)
    return name + detail


def test_a_right_generator():
    def halving(x, steps):
        for i in range(steps):
            yield x * 0.5**i

    assert verdict(sampler, halving) == "yes (3 inputs, one step among them)"


def test_the_first_wrong_state_is_named():
    def halving(x, steps):
        for i in range(steps):
            yield x if i == 3 else x * 0.5**i

    words = "no. For 4 steps: state 3 is the first step that is wrong: expected out[0] = 0.125, got 1."
    assert verdict(sampler, halving) == words


def test_listed_mistakes_of_a_generator_and_two_at_once():
    def doubled(x, steps):
        return (x * 2.0**i for i in range(steps))

    def late_and_short(x, steps):
        return (x * 0.5 ** (i + 1) for i in range(steps - 1))

    assert verdict(sampler, doubled) == "no. You doubled."
    text = verdict(sampler, late_and_short)
    assert text.startswith(
        "no. Your numbers are those of two mistakes at once. You started one step late. And: One state"
    )


def test_generators_that_end_early_or_never():
    def endless(x, steps):
        while True:
            yield x
            x = x / 2

    def breaks(x, steps):
        yield x
        raise ValueError("no more")

    def returns(x, steps):
        return [x / 2**i for i in range(steps)]

    assert verdict(sampler, endless) == "no. For 1 steps: expected 1 steps, got more."
    text = verdict(sampler, breaks)
    assert "For 1 steps: at" not in text
    assert 'your function raised ValueError: no more (in the line: raise ValueError("no more")).' in text
    assert verdict(sampler, returns) == "no. For 1 steps: expected a generator that yields each state, got list."
    assert verdict(sampler, lambda x, steps: [None][0]).startswith("no. For 1 steps: expected a generator")


def test_stub_of_a_generator():
    def halving(x, steps):
        """Yields."""
        ...

    assert verdict(sampler, halving) == "not attempted"


class Block(nn.Module):
    """Exercise 9.2: convolution, Swish, convolution."""

    def __init__(self, channels, width):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, x):
        return x + self.last(F.silu(self.first(x)))


block = Check(
    number="9.2",
    name="Block",
    specification=Block,
    script=module("first", "last"),
    steps=True,
    cases=tuple(
        Case(
            f"channels = {c}, width = {w}",
            ({"channels": c, "width": w}, (torch.linspace(-1, 1, 32 * c).view(2, c, 4, 4),)),
        )
        for c, w in ((1, 2), (3, 5))
    ),
    among="two widths",
    misconceptions={},
)


def changed(**parts):
    """Block with other methods."""
    return type("Block", (Block,), parts)


def test_a_right_class_and_its_stub():
    class Mine(nn.Module):
        def __init__(self, channels, width):
            super().__init__()
            self.last = nn.Conv2d(width, channels, 1)
            self.first = nn.Conv2d(channels, width, (3, 3), padding="same")

        def forward(self, x):
            h = self.first(x)
            return self.last(h * torch.sigmoid(h)) + x

    class Stub(nn.Module):
        def __init__(self, channels, width):
            super().__init__()
            ...

        def forward(self, x): ...

    assert verdict(block, Mine) == "yes (2 inputs, two widths among them)"
    assert verdict(block, Stub) == "not attempted"


def test_the_first_wrong_part_of_a_class_is_named():
    def forward(self, x):
        return x + self.last(F.relu(self.first(x)))

    text = verdict(block, changed(forward=forward))
    assert text.startswith(
        "no. For channels = 1, width = 2: the output of last is the first step that is wrong: expected out["
    )

    def no_shortcut(self, x):
        return self.last(F.silu(self.first(x)))

    assert "the output is the first step that is wrong" in verdict(block, changed(forward=no_shortcut))

    def wide(self, channels, width):
        nn.Module.__init__(self)
        self.first, self.last = nn.Conv2d(channels, width, 1), nn.Conv2d(width, channels, 1)

    text = verdict(block, changed(__init__=wide))
    assert "the shape of first.weight is the first step that is wrong: expected out[2] = 3, got 1." in text

    def renamed(self, channels, width):
        nn.Module.__init__(self)
        self.one, self.last = nn.Conv2d(channels, width, 3), nn.Conv2d(width, channels, 1)

    assert "expected a submodule called first, got one, last." in verdict(block, changed(__init__=renamed))


def test_a_class_that_is_no_module_or_breaks():
    class Plain:
        def __init__(self, channels, width):
            self.channels = channels

    def breaks(self, x):
        raise ValueError("later")

    assert "expected a subclass of nn.Module, got Plain." in verdict(block, Plain)
    text = verdict(block, changed(forward=breaks))
    assert (
        'at the output of first your function raised ValueError: later (in the line: raise ValueError("later")).'
        in text
    )


def fit(model, batches, lr):
    """Exercise 9.3: one step of gradient descent on the mean square for each batch; yields its loss."""
    for x in batches:
        loss = (model(x) ** 2).mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= lr * gradient
        yield loss.item()


def network():
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, -1.0]]))
        net.bias.fill_(0.25)
    return net


training = Check(
    number="9.3",
    name="fit",
    specification=fit,
    script=each_update,
    steps=True,
    changes=("model",),
    cases=(Case("three batches", (network(), tuple(torch.arange(12.0).view(3, 2, 2) / 8), 0.1)),),
    among="two batches",
    misconceptions={},
)


def with_sgd(zero=True, step=True, loss=lambda out: (out**2).mean()):
    def fit(model, batches, lr):
        optimizer = torch.optim.SGD(model.parameters(), lr)
        for x in batches:
            value = loss(model(x))
            if zero:
                optimizer.zero_grad()
            value.backward()
            if step:
                optimizer.step()
            yield value

    return fit


def test_a_right_training_loop():
    assert verdict(training, with_sgd()) == "yes (1 inputs, two batches among them)"


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"zero": False}, "weight after update 1 is the first step that is wrong"),
        ({"step": False}, "weight after update 0 is the first step that is wrong"),
        ({"loss": lambda out: (out**2).sum()}, "loss 0 is the first step that is wrong"),
    ],
)
def test_the_first_wrong_update_is_named(options, first):
    assert f"no. For three batches: {first}: expected out" in verdict(training, with_sgd(**options))
