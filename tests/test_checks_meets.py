"""The course's capstone: good designs meet the sheet, each natural bad one fails at its own requirement."""

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from ddpm_lesson import Sampling, checks, data, load_pretrained, samplers, spacing
from ddpm_lesson.checks import _carry
from ddpm_lesson.checks._finished import FINISHED
from ddpm_lesson.checks.variants import _measured
from ddpm_lesson.checks.variants._measured import Quality, TooMany, drawn, misfit, quality
from ddpm_lesson.experiments.evaluation import evaluate

SOLVED = Path(__file__).parent.parent / "notebooks" / "solutions" / "05_variants.py"
SPEC = importlib.util.spec_from_file_location("solution_05_meets", SOLVED)
solution = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(solution)

ROWS = ["evaluations per image", "precision", "recall", "share of a class", "one seed, one result"]


@pytest.fixture(autouse=True)
def fresh_kernel(monkeypatch):
    monkeypatch.setattr(_carry, "_given_back", {})


def in_turn(digits, n, seed):
    return digits.labels(n)


def design(sampler, steps, labels=in_turn, **options):
    """A generator by the package's front door."""

    def generate(digits, n, seed):
        return digits.sample(n, Sampling(sampler, steps=steps, seed=seed, **options), y=labels(digits, n, seed))

    return generate


def by_hand(digits, n, seed):
    """Guidance on a part of the steps only, in a loop of its own: four with, four without."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 1, 8, 8, generator=generator), torch.randint(10, (n,), generator=generator)
    bar, steps = digits.process.alphas_bar, [999, 874, 749, 624, 499, 374, 249, 124, -1]
    for t, s in zip(steps, steps[1:], strict=False):
        at = torch.full((n,), t)
        a, b = bar[t], bar[s] if s >= 0 else torch.ones(())
        eps = digits.model(x, at, y)[:, :1]
        if 200 < t < 700:
            without = digits.model(x, at)[:, :1]
            eps = without + 1.2 * (eps - without)
        x_0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        x = (b.sqrt() * x_0 + ((1 - b) / (1 - a)).sqrt() * (x - a.sqrt() * x_0)).float()
    return x.clamp(-1, 1)


def said(generate, capsys):
    given = checks.meets(generate)
    out, err = capsys.readouterr()
    assert err == "" and out.startswith("5.17 generate: ")
    return given, out


def failed(text) -> list[str]:
    """The names of the requirements that are marked."""
    return [line.strip().split("  ")[0] for line in text.splitlines() if line.endswith(" <-")]


@pytest.mark.parametrize(
    "generate",
    [
        solution.generate,
        design("ddim", "trailing6"),
        design("dpmpp_3m", "trailing6"),
        design("dpmpp_2m", "trailing6", lambda digits, n, seed: torch.randint(10, (n,), generator=_seeded(seed))),
    ],
    ids=["solution", "ddim", "third order", "labels by chance"],
)
def test_good_designs_meet_the_sheet(generate, capsys):
    given, text = said(generate, capsys)
    assert given is generate is checks.carried("generate")
    assert text.startswith("5.17 generate: yes (every requirement is met)\n") and not failed(text)
    assert [line.strip().split("  ")[0] for line in text.splitlines()[1:]] == ROWS


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


BAD = {
    "early": (design("dpmpp_2m", "leading6"), ["precision"], "Your chain starts at t = 830, and noise belongs to"),
    "guided": (design("dpmpp_2m", "trailing3", guidance=1.5), ["recall"], "Guidance makes images of a class alike"),
    "three steps": (design("ddim", "trailing3"), ["recall"], "With 3 steps the images are near the mean of many"),
    "noise": (design("ancestral", "trailing6"), ["recall"], "a chain that adds noise at each, ancestral or ddim with"),
    "one class": (
        design("ddim", "trailing6", lambda digits, n, seed: torch.full((n,), 3)),
        ["recall", "share of a class"],
        "Recall: most of your images are of one class. Share of a class: ask for every class equally often",
    ),
    "no label": (design("dpmpp_2m", "trailing6", lambda *_: None), ["precision"], "was never told a label"),
    "fifty": (design("ddim", "trailing50"), ["evaluations per image"], "fewer steps, with a second-order sampler"),
    "all": (design("ancestral", "all"), ["evaluations per image"], "the network is asked too often"),
    "six guided": (
        design("ancestral", "trailing6", guidance=1.5),
        ["evaluations per image"],
        "as dpmpp_2m does. Guidance asks twice at every step.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_design_fails_for_its_reason(name, capsys):
    generate, rows, words = BAD[name]
    given, text = said(generate, capsys)
    assert text.startswith("5.17 generate: no. ") and words in text and failed(text) == rows, text
    assert repr(given) == "<the course's own generate>" and given is checks.carried("generate")
    assert said(given, capsys) == (given, text)  # the cell is run twice


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda seed: {}, "seeds 1 and 2 gave the same images"),
        (lambda seed: {"x_T": torch.randn(20, 1, 8, 8)}, "two calls with one seed gave two results"),
    ],
    ids=["Sampling's own seed", "the global generator"],
)
def test_images_that_do_not_follow_from_the_seed_are_told(given, words, capsys, monkeypatch):
    """With few images, whose scores are not asked for."""
    module = importlib.import_module("ddpm_lesson.checks.variants.meets")
    monkeypatch.setattr(module, "N", 20)
    monkeypatch.setattr(module, "quality", lambda images: Quality(0.9, 0.9, [0.1] * 10))

    def generate(digits, n, seed):
        return digits.sample(n, Sampling("ddim", steps="trailing3"), y=digits.labels(n), **given(seed))

    text = said(generate, capsys)[1]
    assert failed(text) == ["one seed, one result"] and words in text, text


class Tame(torch.Tensor):
    """A tensor that says that its largest value is 0."""

    def abs(self):
        return torch.zeros(())


def by_heun(digits, n, seed, end=lambda x: x):
    """Three steps of Heun's method, every estimate clipped: the last step rounds to 1.0001."""
    chain, x_T = digits.process.respaced(spacing.trailing(1000, 3)), torch.randn(n, 1, 8, 8, generator=_seeded(seed))
    return end(samplers.last(samplers.heun(chain, digits.denoiser(digits.labels(n)), x_T)))


def raises(digits, n, seed):
    return digits.sampel(n)


@pytest.mark.parametrize(
    ("generate", "words"),
    [
        (design("ddim", "trailing12", clip=False), "For n = 20: expected pixels in [-1, 1], got some of size 5"),
        (by_heun, "got some of size 1.0001. That can happen where the estimated x_0 is clipped at every step"),
        (by_heun, "may still leave the range by a little. Clamp what you return: x.clamp(-1, 1).\n"),
        (lambda *given: 1.3 * solution.generate(*given), "some of size 1.3. Was the estimated x_0 clipped at every"),
        (lambda *given: (5 * solution.generate(*given)).as_subclass(Tame), "expected pixels in [-1, 1], got some of"),
        (lambda digits, n, seed: torch.zeros(n, 1, 8, 8), "did not ask the network that it was given"),
        (lambda digits, n, seed: data.digits().x_0[:n], "did not ask the network that it was given"),
        (lambda digits, n, seed: digits.states(n, Sampling("ddim", steps="trailing3")), "got generator: take the last"),
        (lambda digits, n, seed: solution.generate(digits, n, seed)[0], "(20, 1, 8, 8), got (1, 8, 8)"),
        (lambda digits, n, seed: solution.generate(digits, n, seed) / 0, "expected finite numbers."),
        (lambda digits, n, seed: [None][0], "your function returns None: did you forget return?"),
        (raises, "Your function raised AttributeError: 'PretrainedDiffusion' object has no attribute 'sampel' (in the"),
        (lambda n, seed: torch.zeros(n, 1, 8, 8), "Expected 3 parameters (digits, n, seed), got 2 (n, seed)."),
        (3, "Expected a function, got int."),
    ],
)
def test_what_is_no_batch_of_digits_is_told(generate, words, capsys):
    given, text = said(generate, capsys)
    assert text.startswith("5.17 generate: no. ") and words in text and text.count("\n") == 1, text
    assert repr(given) == "<the course's own generate>"


@pytest.mark.parametrize(
    ("end", "fine"),
    [(lambda x: x, False), (lambda x: x.clamp(-1, 1), True), (lambda x: x / x.abs().max(), True), (torch.tanh, True)],
)
def test_a_last_step_that_leaves_the_range_by_a_little_is_repaired_at_the_end(end, fine):
    words = misfit(by_heun(load_pretrained("digits_ddpm"), 20, 1, end), 20)
    assert (words == "") == fine


def test_the_size_that_is_told_is_above_1():
    for size, told in ((1.00012, "1.0001"), (1.00018, "1.0002"), (1.04, "1.04"), (1.3, "1.3"), (5086.2, "5086")):
        words = misfit(torch.full((1, 1, 8, 8), size), 1)
        assert f"got some of size {told}. " in words and ("x.clamp(-1, 1)" in words) == (size < 1.05), words
    assert misfit(torch.full((1, 1, 8, 8), 1.00005), 1) == ""


def test_a_stub_is_not_attempted(capsys):
    def generate(digits, n, seed):
        """Your generator."""
        ...

    given, text = said(generate, capsys)
    assert text == "5.17 generate: not attempted\n" and said(given, capsys) == (given, text)


def test_a_generator_of_ones_own_loop_is_measured_as_any_other():
    """Guidance for a part of the steps: four of eight ask twice."""
    digits = load_pretrained("digits_ddpm")
    images, asked = drawn(by_hand, digits, 20, 0, 60.0)
    assert misfit(images, 20) == "" and asked.per_image == 12
    assert (asked.labels, asked.without, len(asked.steps), max(asked.steps)) == (160, 80, 8, 999)


def test_the_courses_own_is_right():
    """Beside the package's sampler, which the solution calls step by step."""
    digits = load_pretrained("digits_ddpm")
    assert torch.equal(FINISHED["generate"](digits, 12, 3), solution.generate(digits, 12, 3))


# How it counts and scores.


class Net(nn.Module):
    def forward(self, x, t, y=None):
        return x


class Trained:
    """What `drawn` needs of a trained network."""

    def __init__(self):
        self.model = Net()


def test_evaluations_are_counted_by_image_however_they_are_batched():
    def generate(digits, n, seed):
        x, t = torch.zeros(n, 1), torch.full((n,), 7)
        for part in range(n):  # one by one, then all
            digits.model(x[part : part + 1], t[:1], torch.zeros(1))
        digits.model(x, t=t - 1, y=t)
        digits.model(torch.cat([x, x]), torch.cat([t, t]))
        return x

    trained = Trained()
    _, asked = drawn(generate, trained, 5, 0, 60.0)
    assert (asked.per_image, asked.labels, asked.without, asked.steps) == (4, 10, 10, {6, 7})
    assert not trained.model._forward_pre_hooks


def test_the_count_is_stopped_and_the_hook_is_gone_after_an_error():
    def endless(digits, n, seed):
        while True:
            digits.model(torch.zeros(n, 1), torch.zeros(n))

    trained = Trained()
    with pytest.raises(TooMany):
        drawn(endless, trained, 5, 0, 30.0)
    with pytest.raises(ZeroDivisionError):
        drawn(lambda digits, n, seed: 1 / 0, trained, 5, 0, 30.0)
    assert not trained.model._forward_pre_hooks


def test_scores_are_those_of_evaluate():
    """The same numbers as the package's table of scores, for held-out digits; a histogram counted by hand."""
    images, classifier = data.digits("test").x_0, load_pretrained("digits_classifier").model
    found = quality(images)
    table = evaluate(images, data.digits("train").x_0, classifier, "digits_classifier", seed=0)
    assert found.precision == pytest.approx(table["Precision"].value, abs=1e-12)
    assert found.recall == pytest.approx(table["Recall"].value, abs=1e-12)
    with torch.no_grad():
        classes = classifier(images).argmax(1).tolist()
    assert found.shares == pytest.approx([classes.count(k) / len(classes) for k in range(10)])


def test_nothing_of_the_notebook_is_changed(capsys):
    """Seeds and modes, for an answer that sets both."""

    def generate(digits, n, seed):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        return digits.states

    before = torch.get_rng_state()
    said(generate, capsys)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_default_dtype() == torch.float32


def test_the_real_digits_are_read_once():
    assert _measured._real() is _measured._real()
