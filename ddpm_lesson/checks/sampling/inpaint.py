"""Exercise 4.7, the capstone: filling in what is missing of an image, with RePaint's resampling."""

import itertools
import math
import operator
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import BETAS, double, fractions, products
from ddpm_lesson.checks._rows import Rows
from ddpm_lesson.checks.sampling._chains import named_states
from ddpm_lesson.checks.sampling._inpaint_ways import every_repeat, mixed_by, once, painted, shared, with_x_T


def _inpaint(p_step, known, mask, betas, x_T, repeats, draw):
    """Exercise 4.7: a generator that fills in the unknown part of images.  Lugmayr et al. 2022, Algorithm 1.

    p_step: p_step(x_t, t) -> x_{t-1}, drawn by the network; t is an int.  known: (B, *D) in [-1, 1].  mask: of its
    shape, 1 where known, else 0.  betas: (T,).  x_T: (B, *D).  repeats: int, 1 or more.  draw: draw() -> standard
    normal noise, (B, *D); call it once for each noise that is used, when it is used.
    For t = T - 1 down to 0, repeats times: x_{t-1} is what p_step makes of x_t where unknown, and known noised to t - 1
    where known (at t = 0 known itself); then, but not after the last repeat, one step of the forward process with
    beta_t makes of it the x_t of the next repeat. At t = 0 there is one pass only, whatever repeats is.
    Yields T states, (B, *D): for each t the x_{t-1} of the last repeat.
    """
    alphas_bar, x_t = products(betas.tolist()), x_T.double()
    for t in reversed(range(len(betas))):
        beta = betas[t].item()
        for repeat in range(repeats if t > 0 else 1):
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


# What shows how many passes are made at t = 0, because each draws a noise or yields a state.
AT_0: Rows = {
    "You mix before the step<, and p_step changes the known pixels again>. Mix its result, with the known part "
    "noised to t - 1.": dict(
        to=lambda bar, t: bar[t],
        given=lambda x, known_part, mask: mixed_by(mask, known_part, x, 0),
        mix=lambda mask, known_part, unknown, t: unknown,
    ),
    "Your known part is noised to t. p_step's result is x_{t-1}: both parts need the noise of t - 1.": dict(
        to=lambda bar, t: bar[t]
    ),
    "At t = 0 you read alphas_bar[-1], which wraps around to the noisiest step. There the known part is known "
    "itself.": dict(to=lambda bar, t: bar[t - 1]),
    "At t = 0 your known part has still one step of noise, of alphas_bar[0]. There it is known itself.": dict(
        to=lambda bar, t: bar[max(t - 1, 0)]
    ),
    "You yield after every repeat. One state for each t is asked for: the yield belongs behind the repeats.": dict(
        keep=every_repeat
    ),
    "You yield in every repeat, after the step forward. One state for each t is asked for, x_{t-1} of the last "
    "repeat.": dict(keep=every_repeat, shown=lambda mixed, state: state),
}
# More passes than one, each from the same x_t, change nothing by themselves.
MORE_PASSES = dict(times_at_0=lambda times: times, waits=lambda x, mixed, t: x if t == 0 else mixed)


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
    misconceptions={
        "Your mask is the wrong way round: it is 1 where the image is known.": dict(
            mix=lambda mask, known_part, unknown, t: (1 - mask) * known_part + mask * unknown
        ),
        "You add the known part without making room for it: p_step's result has the factor 1 - mask.": dict(
            mix=lambda mask, known_part, unknown, t: mask * known_part + unknown
        ),
        "You never mix in the known part<: your images have nothing to do with it>. Mix it in after every step.": dict(
            to=lambda bar, t: torch.ones_like(bar[0]), mix=lambda mask, known_part, unknown, t: unknown
        ),
        "You put in the known part at the very end only. The unknown part has to grow up beside it: mix after every "
        "step.": dict(
            to=lambda bar, t: torch.ones_like(bar[0]),
            mix=lambda mask, known_part, unknown, t: unknown if t > 0 else mixed_by(mask, known_part, unknown, t),
        ),
        "Your known part is noised to t, and clean at t = 0 only. p_step's result is x_{t-1}: both parts need the "
        "noise of t - 1, at every t.": dict(to=lambda bar, t: bar[t] if t > 0 else torch.ones_like(bar[0])),
        "Your known part has no noise. Beside the noisy rest the network has never seen such an image: noise it to t "
        "- 1.": dict(to=lambda bar, t: torch.ones_like(bar[0])),
        "At t = 0 you add no noise, but scale known by the root of alphas_bar[-1], which wraps around to the noisiest "
        "step. There the known part is known itself.": dict(to=lambda bar, t: bar[t - 1], noisy=lambda t: t > 0),
        "At t = 0 you add no noise, but scale known by the root of alphas_bar[0]. There the known part is known "
        "itself.": dict(to=lambda bar, t: bar[max(t - 1, 0)], noisy=lambda t: t > 0),
        "At t = 1 your known part has no noise yet. In code t = 1 leads to the papers' x_1, which has one step of "
        "noise, alphas_bar[0]; only at t = 0 the known part is clean.": dict(
            to=lambda bar, t: bar[t - 1] if t > 1 else torch.ones_like(bar[0])
        ),
        "You noise the known part with the alpha of a single step. It jumps from the clean image: alpha_bar.": dict(
            bar=lambda betas: 1 - betas
        ),
        "In the known part the noise is scaled by 1 - alpha_bar: that is the variance. It needs the square root.": dict(
            spread=lambda a_bar: 1 - a_bar
        ),
        "In the known part the image is scaled by alpha_bar: the root is missing.": dict(signal=lambda a_bar: a_bar),
        "In the known part the image is not shrunk: it has the factor sqrt(alpha_bar_{t-1}).": dict(
            signal=torch.ones_like
        ),
        "The known part has the same noise every time: you drew it before the loop. Draw anew each time.": dict(
            draws=lambda draw: ((lambda noise: lambda: noise)(draw()), draw)
        ),
        "The known part has the same noise in all repeats of one t. Draw anew each time, or the repeats have nothing "
        "to harmonise with.": dict(at_each_t=once),
        "The step forward uses the noise of the known part again. Two noises are needed: call draw() for each.": dict(
            draws=shared
        ),
        "You step forward with 1 - alpha_bar_t, as if x_{t-1} were a clean image. One step of the forward process adds "
        "beta_t.": dict(beta=lambda betas, alphas_bar, t: 1 - alphas_bar[t]),
        "You step forward with betas[t - 1]. From x_{t-1} to x_t leads step t, with betas[t].": dict(
            beta=lambda betas, alphas_bar, t: betas[t - 1]
        ),
        "On the step forward the noise is scaled by beta: that is the variance. It needs the square root.": dict(
            back=lambda x, beta, noise: (1 - beta).sqrt() * x + beta * noise
        ),
        "On the step forward the image is scaled by 1 - beta: the root is missing.": dict(
            back=lambda x, beta, noise: (1 - beta) * x + beta.sqrt() * noise
        ),
        "On the step forward both roots are missing: sqrt(1 - beta) for the image, sqrt(beta) for the noise.": dict(
            back=lambda x, beta, noise: (1 - beta) * x + beta * noise
        ),
        "On the step forward the two factors are exchanged: sqrt(1 - beta) belongs to the image, sqrt(beta) to the "
        "noise.": dict(back=lambda x, beta, noise: beta.sqrt() * x + (1 - beta).sqrt() * noise),
        "On the step forward the image is not shrunk: it has the factor sqrt(1 - beta_t).": dict(
            back=lambda x, beta, noise: x + beta.sqrt() * noise
        ),
        "You go forward from p_step's result, before the known part is in it. Go forward from the mixed x_{t-1}.": dict(
            source=lambda mixed, unknown: unknown
        ),
        "You go forward after the last repeat, too<, and step t - 1 then gets x_t>. After the last repeat x_{t-1} goes "
        "on.": dict(goes_back=lambda t, left: t > 0),
        "You go forward after the last repeat, too, and yield the state after it. x_{t-1} is asked for.": dict(
            goes_back=lambda t, left: t > 0, shown=lambda mixed, state: state
        ),
        "You go forward at t = 0, too<: the finished image gets noise again>. There one pass is enough.": dict(
            goes_back=lambda t, left: left > 0, times_at_0=lambda times: times
        ),
        "At t = 1 you do not go forward, and the next repeat gets x_t again. In code t = 0 is the papers' t = 1: only "
        "there no step forward is made.": dict(
            goes_back=lambda t, left: left > 0 and t > 1, waits=lambda x, mixed, t: x
        ),
        "At t = 1 you do not go forward, and the next repeat gets x_{t-1}. In code t = 0 is the papers' t = 1: only "
        "there no step forward is made.": dict(goes_back=lambda t, left: left > 0 and t > 1),
        "You never go forward: the repeats give x_{t-1} to p_step, with t. Make it x_t again, one step forward.": dict(
            goes_back=lambda t, left: False
        ),
        "At t = 0 your repeats give x_0 to p_step again. It takes x_t: there one pass is made, whatever repeats "
        "is.": dict(times_at_0=lambda times: times),
        "Every repeat starts from the same x_t: nothing of the last one stays. It starts from x_{t-1}, after one step"
        " forward.": dict(goes_back=lambda t, left: False, waits=lambda x, mixed, t: x),
        "You do not repeat: each step is made once, whatever repeats is.": dict(times=lambda repeats: 1),
        "You make one repeat too many. repeats counts all steps at one t, the first one too.": dict(
            times=lambda repeats: repeats + 1
        ),
        **AT_0,
        **{
            f"{sentence} And at t = 0 one pass is made, whatever repeats is.": edits | MORE_PASSES
            for sentence, edits in AT_0.items()
        },
        "You draw a noise after the last repeat and do not use it. draw() hands out one noise after another: call it "
        "only where one is used.": dict(unused=lambda draw: draw()),
        "Your steps run from t = 0 upwards. x_T is the noisiest state: begin with t = T - 1 and end with t = 0.": dict(
            steps=range
        ),
        "You tell p_step t + 1. In code t runs from 0 to T - 1.": dict(told=lambda t: t + 1),
        "You tell p_step t - 1, where it leads. It takes the t of x_t.": dict(told=lambda t: t - 1),
        "You yield x_T too. T states are asked for, the first after step T - 1.": dict(keep=with_x_T),
        "You yield the last state only. One for each t is asked for: the yield belongs into the loop.": dict(
            keep=lambda rows, x_T, T: (row[-1] for row in list(rows)[-1:])
        ),
    },
)
