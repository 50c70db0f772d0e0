"""Exercise 5.17, the capstone of the course: a generator that meets one sheet of requirements, measured."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lesson.checks._carry import Verdict, give_back, verdict_of
from ddpm_lesson.checks._run import raised
from ddpm_lesson.checks._state import Modes, kept, plain
from ddpm_lesson.checks._stub import is_stub
from ddpm_lesson.checks.variants._measured import FEW, Asked, N, Quality, TooMany, drawn, misfit, quality

EVALUATIONS = 6  # of the network, for each image
# Chains without noise of their own, DDIM and DPM-Solver++ 2M, that use five or six well have over five seeds a
# precision of 0.89 and a recall of 0.76 at least. Steps from t = 830 on have a precision of 0.63 at most, ancestral
# chains a recall of 0.72 at most, three guided steps 0.57.
PRECISION = RECALL = 0.75  # real digits that were held out have 0.75 and 0.83
LEAST, MOST = 0.05, 0.16  # share of a class
FAR = 60.0  # evaluations per image after which nothing more is waited for


class Row(NamedTuple):
    """A requirement: what was asked for, what was measured, and where to look if it is not met ("" if it is)."""

    name: str
    asked: str
    measured: str
    hint: str


class Meets:
    """The check of exercise 5.17, called with `generate(digits, n, seed)`.

    digits: what `load_pretrained("digits_ddpm")` gives; the check hands it in and counts what its network is asked.
    n: int, how many. seed: int. generate returns (n, 1, 8, 8), digits in [-1, 1].
    The sheet: at most 6 evaluations of the network for each image (guidance takes two a step); precision and
    recall at least 0.75, of 500 images beside the real digits in the features of `digits_classifier`; every
    class on 5 % to 16 % of the images; the same images from the same seed, and others from another.
    A call prints the verdict and each requirement beside what was measured, and gives back the function if it meets
    them all, else the course's own. Not a `Check`: there is no one right result to compare with.
    """

    number, name = "5.17", "generate"

    def __call__(self, generate: Callable) -> Callable:
        verdict, detail = self.diagnose(generate)
        print(f"{self.number} {self.name}: {verdict}{detail}")
        return give_back(self.name, generate, Verdict(verdict, detail))

    def diagnose(self, generate: Callable) -> tuple[str, str]:
        """The verdict "yes", "no" or "not attempted", and the text that follows it."""
        if earlier := verdict_of(self.name, generate):
            return earlier
        if not callable(generate):
            return "no", f". Expected a function, got {type(generate).__name__}."
        if is_stub(generate):
            return "not attempted", ""
        if words := _misfit(generate):
            return "no", f". {words}"
        with kept():
            modes = Modes.now()
            with plain():
                words, rows = measured(_under(modes, generate))
        failed = [row for row in rows if row.hint]
        if words or failed:
            told = words or " ".join(f"{row.name.capitalize()}: {row.hint}" for row in failed)
            return "no", f". {told}{_table(rows)}"
        return "yes", f" (every requirement is met){_table(rows)}"


def measured(generate: Callable) -> tuple[str, list[Row]]:
    """What kept the generator from being measured, in words, or "", and the rows of what was measured."""
    from ddpm_lesson.experiments.pretrained import load_pretrained

    digits = load_pretrained("digits_ddpm")
    try:
        few, asked = drawn(generate, digits, FEW, 1, FAR)
        if isinstance(few, Tensor) and not asked.images:
            return "Your function did not ask the network that it was given: use the argument digits.", []
        if words := misfit(few, FEW):
            return _ended(f"For n = {FEW}: {words}"), []
        if asked.per_image > EVALUATIONS:
            return "", [_speed(asked)]
        again, other = (drawn(generate, digits, FEW, seed, FAR)[0] for seed in (1, 2))
        images, asked = drawn(generate, digits, N, 0, FAR)
    except TooMany:
        return "", [_speed(None)]
    except (Exception, SystemExit) as error:
        return f"{raised(error)}.".replace("your", "Your", 1), []
    if words := misfit(images, N):
        return _ended(f"For n = {N}: {words}"), []
    found = quality(images)
    return "", [_speed(asked), *_scores(found, asked), _repeats(few, again, other)]


def _ended(words: str) -> str:
    return words if words.endswith("?") else words + "."


def _speed(asked: Asked | None) -> Row:
    """asked: None where the counting was stopped."""
    count = asked.per_image if asked else FAR
    hint = ""
    if count > EVALUATIONS:
        hint = "the network is asked too often. Take fewer steps, with a second-order sampler that asks once a step, "
        hint += "as dpmpp_2m does."
        if asked and asked.labels and asked.without:
            hint += " Guidance asks twice at every step."
    number = f"{count:.1f}".removesuffix(".0") if asked else f"more than {FAR:.0f}"
    return Row("evaluations per image", f"at most {EVALUATIONS}", number, hint)


def _scores(found: Quality, asked: Asked) -> list[Row]:
    low, high = min(found.shares), max(found.shares)
    one_class = high > 0.5
    off = not (LEAST <= low and high <= MOST)
    classes = "ask for every class equally often: digits.labels(n) gives each in turn." if off else ""
    precise = _of_precision(asked) if found.precision < PRECISION else ""
    recalled = ""
    if found.recall < RECALL:
        recalled = "most of your images are of one class." if one_class else _of_recall(asked)
    return [
        Row("precision", f"at least {PRECISION:.2f}", f"{found.precision:.2f}", precise),
        Row("recall", f"at least {RECALL:.2f}", f"{found.recall:.2f}", recalled),
        Row("share of a class", f"{LEAST:.0%} to {MOST:.0%}", f"{low:.0%} to {high:.0%}", classes),
    ]


def _of_precision(asked: Asked) -> str:
    """Where to look, from what the network was asked."""
    start = "too few of your images look like digits. "
    if not asked.labels:
        return start + "The network was never told a label: this one draws better with one, denoiser(y)."
    if (first := max(asked.steps, default=999)) < 980:
        return start + f"Your chain starts at t = {first}, and noise belongs to t = 999: take trailing steps."
    if len(asked.steps) < 6:
        return start + f"Your chain has {len(asked.steps)} steps: take more, or a sampler of second order."
    start += "Look at the strength of guidance, at the clipping of x_0, and at the sampler: "
    return start + "Heun's method needs more steps where there is most noise."


def _of_recall(asked: Asked) -> str:
    start = "too few of the real digits have one like them among yours. "
    if asked.labels and asked.without:
        return start + "Guidance makes images of a class alike, and costs half of your steps: take less, or none."
    if len(asked.steps) < 6:
        return start + f"With {len(asked.steps)} steps the images are near the mean of many: take more."
    start += "Look at the noise: each image needs its own x_T, and with few steps a chain that adds noise at each, "
    return start + "ancestral or ddim with eta, covers less than one that adds none."


def _repeats(few: Tensor, again: Tensor, other: Tensor) -> Row:
    hint = ""
    if not torch.equal(few, again):
        hint = "two calls with one seed gave two results. Draw from torch.Generator().manual_seed(seed)."
    elif torch.equal(few, other):
        hint = "seeds 1 and 2 gave the same images. Draw from torch.Generator().manual_seed(seed)."
    return Row("one seed, one result", "yes", "no" if hint else "yes", hint)


def _table(rows: list[Row]) -> str:
    lines = [f"\n  {row.name:22} {row.measured:>13}   asked for: {row.asked}{' <-' * bool(row.hint)}" for row in rows]
    return "".join(lines)


def _under(modes: Modes, generate: Callable) -> Callable:
    """The learner's function as their notebook calls it: under its own default dtype, device and grad mode."""

    def called(*args):
        engine = Modes.now()
        try:
            modes.restore()
            return generate(*args)
        finally:
            engine.restore()

    return called


def _misfit(generate: Callable) -> str:
    try:
        signature = inspect.signature(generate)
    except Exception:  # a built-in that does not tell
        return ""
    try:
        signature.bind(None, N, 0)
    except TypeError:
        yours = list(signature.parameters)
        return f"Expected 3 parameters (digits, n, seed), got {len(yours)} ({', '.join(yours)})."
    return ""


meets = Meets()
