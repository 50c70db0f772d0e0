"""Exercise 4.7, the capstone: filling in what is missing of an image, with RePaint's steps back."""

import itertools
import math
import operator
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check, Misconception
from ddpm_lesson.checks._inputs import BETAS, double, fractions, products
from ddpm_lesson.checks.sampling._chains import named_states
from ddpm_lesson.checks.sampling._inpaint_ways import every_repeat, mixed_by, once, painted, shared, with_x_T


def _inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    """Exercise 4.7: a generator that fills in the unknown part of images.  Lugmayr et al. 2022, Algorithm 1.

    p_step: p_step(x_t, t) -> x_{t-1}, drawn by the network; t is an int.  known: (B, *D) in [-1, 1].  mask: of its
    shape, 1 where known, else 0.  betas: (T,).  x_T: (B, *D).  repeats: int, 1 or more.  draw: draw() -> standard
    normal noise, (B, *D); call it once for each noise that is used, when it is used.
    For t = T - 1 down to 0, repeats times: x_{t-1} is what p_step makes of x_t where unknown, and known noised to t - 1
    where known (at t = 0 known itself); then, but not after the last repeat and not at t = 0, one step of the forward
    process with beta_t makes of it the x_t of the next repeat.  Yields T states, (B, *D): for each t the x_{t-1} of
    the last repeat.
    """
    alphas_bar, x_t = products(betas.tolist()), x_T.double()
    for t in reversed(range(len(betas))):
        beta = betas[t].item()
        for repeat in range(repeats):
            unknown, noisy = p_step(x_t, t), known.double()
            if t > 0:
                a_bar = alphas_bar[t - 1]
                noisy = math.sqrt(a_bar) * known.double() + math.sqrt(1 - a_bar) * draw()
            x_prev = mask.double() * noisy + (1 - mask.double()) * unknown
            if repeat < repeats - 1 and t > 0:
                x_t = math.sqrt(1 - beta) * x_prev + math.sqrt(beta) * draw()
        x_t = x_prev
        yield x_t


class _Draws:
    """Noises to hand out, one with each call of what `on` returns."""

    def __init__(self, *shape: int):
        self.noises = 1.5 * fractions(40, *shape, start=11)

    def on(self, device: torch.device) -> Callable[[], Tensor]:
        following = itertools.cycle(self.noises.to(device))
        return lambda: next(following).clone()


def _each_step(function, p_step, known, mask, betas, x_T, repeats, draw) -> Iterator[tuple[str, Tensor]]:
    """The script of the exercise: every state, named after its step. The noises begin anew here."""
    states = function(p_step, known, mask, betas, x_T, repeats, draw.on(x_T.device))
    yield from named_states(states, len(betas))


def _bent(x_t: Tensor, t: int) -> Tensor:
    """A step for the inputs, always the same draw: neighbours matter, as to a network, and t does."""
    return 0.75 * x_t - x_t**2 / 8 + x_t.roll(1, -1) / 4 + (operator.index(t) + 1) / 16


inpaint = Check(
    number="4.7",
    name="inpaint",
    specification=_inpaint,
    form=painted,
    script=_each_step,
    steps=True,
    random="the argument draw",
    cases=tuple(
        Case(
            f"x_T of shape {shape}, T = {len(betas)}, repeats = {repeats}",
            (
                _bent,
                fractions(*shape),
                (fractions(*shape, start=5) > 0).float(),
                double(betas),
                fractions(*shape, start=29),
                repeats,
                _Draws(*shape),
            ),
        )
        for shape, betas, repeats in [
            ((2, 1, 4, 4), BETAS[:4], 2),
            ((3, 2), BETAS[2:5], 3),
            ((1, 3, 2, 2), [0.3, 0.1, 0.2], 1),
            ((2, 5), [0.4, 0.2], 2),
            ((2, 5), [0.25], 2),
        ]
    ),
    among="points, repeats = 1 and T = 1",
    misconceptions=(
        Misconception(
            "Your mask is the wrong way round: it is 1 where the image is known.",
            mix=lambda mask, known_part, unknown, t: (1 - mask) * known_part + mask * unknown,
        ),
        Misconception(
            "You add the known part without making room for it: p_step's result has the factor 1 - mask.",
            mix=lambda mask, known_part, unknown, t: mask * known_part + unknown,
        ),
        Misconception(
            "You never mix in the known part: your images have nothing to do with it.",
            to=lambda bar, t: torch.ones_like(bar[0]),
            mix=lambda mask, known_part, unknown, t: unknown,
        ),
        Misconception(
            "You put in the known part at the very end only. The unknown part has to grow up beside it: mix after "
            "every step.",
            to=lambda bar, t: torch.ones_like(bar[0]),
            mix=lambda mask, known_part, unknown, t: unknown if t > 0 else mixed_by(mask, known_part, unknown, t),
        ),
        Misconception(
            "You mix before the step, and p_step changes the known pixels again. Mix its result, with the known part "
            "noised to t - 1.",
            brief="You mix before the step.",
            to=lambda bar, t: bar[t],
            given=lambda x, known_part, mask: mixed_by(mask, known_part, x, 0),
            mix=lambda mask, known_part, unknown, t: unknown,
        ),
        Misconception(
            "Your known part is noised to t. p_step's result is x_{t-1}: both parts need the noise of t - 1.",
            to=lambda bar, t: bar[t],
        ),
        Misconception(
            "Your known part is noised to t, and clean at t = 0 only. p_step's result is x_{t-1}: both parts need the "
            "noise of t - 1, at every t.",
            to=lambda bar, t: bar[t] if t > 0 else torch.ones_like(bar[0]),
        ),
        Misconception(
            "Your known part has no noise. Beside the noisy rest the network has never seen such an image: noise it to "
            "t - 1.",
            to=lambda bar, t: torch.ones_like(bar[0]),
        ),
        Misconception(
            "At t = 0 you read alphas_bar[-1], which wraps around to the noisiest step. There the known part is known "
            "itself.",
            to=lambda bar, t: bar[t - 1],
        ),
        Misconception(
            "At t = 0 your known part has still one step of noise, of alphas_bar[0]. There it is known itself.",
            to=lambda bar, t: bar[max(t - 1, 0)],
        ),
        Misconception(
            "At t = 1 your known part has no noise yet. In code t = 1 leads to the papers' x_1, which has one step of "
            "noise, alphas_bar[0]; only at t = 0 the known part is clean.",
            brief="At t = 1 your known part has no noise yet.",
            to=lambda bar, t: bar[t - 1] if t > 1 else torch.ones_like(bar[0]),
        ),
        Misconception(
            "You noise the known part with the alpha of a single step. It jumps from the clean image: alpha_bar.",
            bar=lambda betas: 1 - betas,
        ),
        Misconception(
            "In the known part the noise is scaled by 1 - alpha_bar: that is the variance. It needs the square root.",
            spread=lambda a_bar: 1 - a_bar,
        ),
        Misconception(
            "In the known part the image is scaled by alpha_bar: the root is missing.", signal=lambda a_bar: a_bar
        ),
        Misconception(
            "In the known part the image is not shrunk: it has the factor sqrt(alpha_bar_{t-1}).",
            signal=torch.ones_like,
        ),
        Misconception(
            "The known part has the same noise every time: you drew it before the loop. Draw anew each time.",
            draws=lambda draw: ((lambda noise: lambda: noise)(draw()), draw),
        ),
        Misconception(
            "The known part has the same noise in all repeats of one t. Draw anew each time, or the repeats have "
            "nothing to harmonise with.",
            brief="The known part has the same noise in all repeats of one t.",
            at_each_t=once,
        ),
        Misconception(
            "The step back uses the noise of the known part once more. Two noises are needed: call draw() for each.",
            draws=shared,
        ),
        Misconception(
            "You step back with 1 - alpha_bar_t, as if x_{t-1} were a clean image. One step of the forward process "
            "adds beta_t.",
            beta=lambda betas, alphas_bar, t: 1 - alphas_bar[t],
        ),
        Misconception(
            "You step back with betas[t - 1]. From x_{t-1} to x_t leads step t, with betas[t].",
            beta=lambda betas, alphas_bar, t: betas[t - 1],
        ),
        Misconception(
            "On the step back the noise is scaled by beta: that is the variance. It needs the square root.",
            back=lambda x, beta, noise: (1 - beta).sqrt() * x + beta * noise,
        ),
        Misconception(
            "On the step back the image is scaled by 1 - beta: the root is missing.",
            back=lambda x, beta, noise: (1 - beta) * x + beta.sqrt() * noise,
        ),
        Misconception(
            "On the step back both roots are missing: sqrt(1 - beta) for the image, sqrt(beta) for the noise.",
            back=lambda x, beta, noise: (1 - beta) * x + beta * noise,
        ),
        Misconception(
            "On the step back the two factors are exchanged: sqrt(1 - beta) belongs to the image, sqrt(beta) to the "
            "noise.",
            back=lambda x, beta, noise: beta.sqrt() * x + (1 - beta).sqrt() * noise,
        ),
        Misconception(
            "On the step back the image is not shrunk: it has the factor sqrt(1 - beta_t).",
            back=lambda x, beta, noise: x + beta.sqrt() * noise,
        ),
        Misconception(
            "You go back from p_step's result, before the known part is in it. Go back from the mixed x_{t-1}.",
            source=lambda mixed, unknown: unknown,
        ),
        Misconception(
            "You go back after the last repeat, too, and step t - 1 then gets x_t. After the last repeat x_{t-1} goes "
            "on.",
            brief="You go back after the last repeat, too.",
            goes_back=lambda t, left: t > 0,
        ),
        Misconception(
            "You go back after the last repeat, too, and yield the state after it. x_{t-1} is asked for.",
            brief="You go back after the last repeat, too, and yield the state after it.",
            goes_back=lambda t, left: t > 0,
            shown=lambda mixed, state: state,
        ),
        Misconception(
            "You go back at t = 0, too: the finished image gets noise again. There no repeat needs a step back.",
            brief="You go back at t = 0, too.",
            goes_back=lambda t, left: left > 0,
        ),
        Misconception(
            "At t = 1 you do not go back. In code t = 0 is the papers' t = 1: only there no step back is made.",
            goes_back=lambda t, left: left > 0 and t > 1,
        ),
        Misconception(
            "You never go back: the repeats give x_{t-1} to p_step, with t. Make it x_t again, by one step forward.",
            goes_back=lambda t, left: False,
            waits=lambda x, mixed: mixed,
        ),
        Misconception(
            "At t = 0 your repeats give x_0 to p_step again. It takes x_t: without a step back x_t stays what it was.",
            waits=lambda x, mixed: mixed,
        ),
        Misconception(
            "Every repeat starts from the same x_t: nothing of the last one stays. It starts from x_{t-1}, after one "
            "step forward.",
            goes_back=lambda t, left: False,
        ),
        Misconception("You do not repeat: each step is made once, whatever repeats is.", times=lambda repeats: 1),
        Misconception(
            "You make one repeat too many. repeats counts all steps at one t, the first one too.",
            times=lambda repeats: repeats + 1,
        ),
        Misconception(
            "You draw a noise after the last repeat and do not use it. draw() hands out one noise after another: call "
            "it only where one is used.",
            unused=lambda draw: draw(),
        ),
        Misconception(
            "Your steps run from t = 0 upwards. x_T is the noisiest state: begin with t = T - 1 and end with t = 0.",
            steps=range,
        ),
        Misconception("You tell p_step t + 1. In code t runs from 0 to T - 1.", told=lambda t: t + 1),
        Misconception("You tell p_step t - 1, where it leads. It takes the t of x_t.", told=lambda t: t - 1),
        Misconception(
            "You yield after every repeat. One state for each t is asked for: the yield belongs behind the repeats.",
            keep=every_repeat,
        ),
        Misconception(
            "You yield in every repeat, after the step back. One state for each t is asked for, x_{t-1} of the last "
            "repeat.",
            keep=every_repeat,
            shown=lambda mixed, state: state,
        ),
        Misconception("You yield x_T too. T states are asked for, the first after step T - 1.", keep=with_x_T),
        Misconception(
            "You yield the last state only. One for each t is asked for: the yield belongs into the loop.",
            keep=lambda rows, x_T, T: (row[-1] for row in list(rows)[-1:]),
        ),
    ),
)
