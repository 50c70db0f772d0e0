"""Exercise 5.7: from noise to an image of a class, by DDIM with classifier-free guidance."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, double, fractions
from ddpm_lesson.checks._steps import images
from ddpm_lesson.checks.variants._guided_ways import (
    as_read,
    before_each,
    each_clipped,
    guided_walk,
    lengths_kept,
    only_last,
    to_higher,
    to_next,
    with_x_T,
    without_last,
)

LABELS = 3


def _guided_chain(model, x_T, y, scale, timesteps, alphas_bar):
    """Exercise 5.7: a generator of DDIM's states, eta = 0, with classifier-free guidance.  Ho & Salimans 2022, Alg. 2.

    model: called as model(x_t, t, y) with t (B,) int64 in 0..T-1 and y (B,) int64, or None for no label; returns eps,
    (B, *D).  x_T: (B, *D).  y: (B,).  scale: the s of eps_uncond + s (eps_cond - eps_uncond).  timesteps: increasing
    list of ints in 0..T-1, visited from the last to the first.  alphas_bar: (T,) float64.
    At each step the guided eps gives x_0, x_0 is clipped to [-1, 1], and eps is derived from it again.  The step leads
    to the next lower entry of timesteps, and from the first one to the clean image, whose alpha_bar is 1.
    Yields len(timesteps) states, (B, *D), the last of which is the image.  Not x_T itself.
    """
    state = x_T.double()
    for k in reversed(range(len(timesteps))):
        t = torch.tensor([timesteps[k]] * len(x_T))
        a = alphas_bar[timesteps[k]].item()
        prev = alphas_bar[timesteps[k - 1]].item() if k > 0 else 1.0
        pixels = []
        for x, cond, uncond in zip(
            *(v.flatten().tolist() for v in (state, model(state, t, y), model(state, t, None))), strict=True
        ):
            guided = uncond + scale * (cond - uncond)
            x_0 = max(-1.0, min(1.0, (x - math.sqrt(1 - a) * guided) / math.sqrt(a)))
            eps = (x - math.sqrt(a) * x_0) / math.sqrt(1 - a)
            pixels.append(math.sqrt(prev) * x_0 + math.sqrt(1 - prev) * eps)
        state = double(pixels).reshape(x_T.shape)
        yield state


def _labelled(x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """A network for the inputs: no multiple of x_t, different at every t and for every label, and without one."""
    for name, value in [("t", t), *([] if y is None else [("y", y)])]:
        if not isinstance(value, Tensor) or value.shape != x_t.shape[:1] or value.dtype != torch.int64:
            got = f"{tuple(value.shape)} and {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            without = ", or None for no label" if name == "y" else ""
            raise TypeError(f"model expects {name} of shape ({len(x_t)},) and dtype torch.int64{without}, got {got}")
    if y is not None and not ((y >= 0) & (y < LABELS)).all():
        raise ValueError(f"model expects labels y in 0..{LABELS - 1}, or None for no label, got {y.tolist()}")
    column = (-1, *[1] * (x_t.ndim - 1))
    plain = x_t / 2 + x_t**2 / 8 - (t + 1).reshape(column) / 16
    return plain if y is None else plain + (y + 1).reshape(column) * (1 - x_t) / 8


def _each_step(function, model, x_T, y, scale, timesteps, alphas_bar) -> Iterator[tuple[str, Tensor]]:
    """The script: every state, named after the timestep that it comes from."""
    states, steps = function(model, x_T, y, scale, timesteps, alphas_bar), list(timesteps)
    for i, state in enumerate(images(states)):
        yield f"the state after step t = {steps[-1 - i]}" if i < len(steps) else f"state {i}", state


guided_chain = Check(
    number="5.7",
    name="guided_chain",
    specification=_guided_chain,
    form=guided_walk,
    script=_each_step,
    steps=True,
    cases=tuple(
        Case(
            f"x_T of shape {shape}, y = {y}, scale = {scale}, timesteps = {steps}, T = 10",
            (_labelled, 2 * fractions(*shape), torch.tensor(y), scale, steps, double(ALPHAS_BAR)),
        )
        for shape, y, scale, steps in [
            ((2, 1, 4, 4), [2, 0], 3.0, [0, 3, 6, 9]),
            ((3, 2), [1, 1, 2], 1.5, [2, 4, 8]),
            ((4, 3, 4, 4), [0, 2, 1, 0], 2.0, [1, 4, 5]),
            ((2, 5), [2, 1], 0.0, [3, 7]),
            ((1, 3, 2, 4, 4), [1], 4.0, [6]),
            ((3, 4), [0, 1, 2], 1.0, [0, 1, 2]),
        ]
    ),
    among="one timestep, scale = 0, points and a video",
    misconceptions={
        "Your network is asked with label 0 instead of without one. 0 is a class: no label is None.": dict(
            null=torch.zeros_like
        ),
        "You took scale for the paper's w: (1 + w) cond - w uncond. Here it is s = 1 + w.": dict(
            combine=lambda cond, uncond, s: (1 + s) * cond - s * uncond
        ),
        "You exchanged the two estimates: s = 0 is without a label, s = 1 with it.": dict(
            combine=lambda cond, uncond, s: cond + s * (uncond - cond)
        ),
        "You added s times eps_cond to eps_uncond. s multiplies their difference.": dict(
            combine=lambda cond, uncond, s: uncond + s * cond
        ),
        "You forgot to start from eps_uncond: s times the difference is added to it.": dict(
            combine=lambda cond, uncond, s: s * (cond - uncond)
        ),
        "scale has no effect: your steps are those of the network with the label, s = 1.": dict(
            combine=lambda cond, uncond, s: cond
        ),
        "The label has no effect: both your estimates are made without it.": dict(label=lambda y: None),
        "You did not clip x_0. Guidance drives it far out of [-1, 1]: clip it at every step.": dict(
            clip=lambda x_0: x_0, again=lambda x, x_0, eps, uncond, a: eps
        ),
        "You clipped the state after the step. Noisy states leave [-1, 1]; it is the estimated x_0 that is "
        "clipped.": dict(
            clip=lambda x_0: x_0, again=lambda x, x_0, eps, uncond, a: eps, after=lambda x, x_0: x.clamp(-1, 1)
        ),
        "You clipped x_0 and kept eps, which then belongs to another x_0. Derive it again: (x_t - sqrt(alpha_bar) x_0)"
        " / sqrt(1 - alpha_bar).": dict(again=lambda x, x_0, eps, uncond, a: eps),
        "You clipped each of the two estimates and not the guided one. The mixture leaves [-1, 1] again: clip what "
        "comes out of it.": dict(each=each_clipped, clip=lambda x_0: x_0),
        "You clipped each of the two estimates before you mixed them. Only the guided x_0 is clipped.": dict(
            each=each_clipped
        ),
        "You clipped x_0 to [0, 1]. Images lie in [-1, 1].": dict(clip=lambda x_0: x_0.clamp(0, 1)),
        "You divided x_0 by its largest number. It is clipped to [-1, 1].": dict(clip=lengths_kept),
        "You put x_0 through tanh. It is clipped to [-1, 1].": dict(clip=torch.tanh),
        "Your step takes the eps of the network without label, and x_0 with guidance: that is CFG++. Here eps is "
        "derived from the clipped x_0.": dict(again=lambda x, x_0, eps, uncond, a: uncond),
        "You walk through timesteps upwards. x_T is the noisiest state: begin with the last.": dict(order=iter),
        "You walk through timesteps upwards, to the next higher one each time. x_T is the noisiest state: begin with "
        "the last, and step to the next lower.": dict(order=iter, to=to_higher),
        "You leave out timesteps[0]: it is a step as well, the one that leads to the clean image.": dict(
            visited=lambda timesteps, T: timesteps[1:]
        ),
        "You visit every t from T - 1 to 0. The chain visits timesteps only.": dict(
            visited=lambda timesteps, T: list(range(T)), keep=as_read
        ),
        "You begin at T - 1. The chain begins at timesteps[-1].": dict(
            visited=lambda timesteps, T: [*timesteps[:-1], T - 1]
        ),
        "You step to t - 1, and at t = 0 to the clean image. The chain steps to the next lower entry of "
        "timesteps.": dict(to=lambda bar, steps, k: bar[steps[k] - 1] if steps[k] > 0 else torch.ones_like(bar[0])),
        "You step to t - 1, and from the first entry of timesteps to the clean image. Step to the next lower entry of "
        "timesteps.": dict(to=lambda bar, steps, k: bar[steps[k] - 1] if k > 0 else torch.ones_like(bar[0])),
        "You step to t - 1, and at t = 0 index -1 wraps around to the noisiest step. Step to the next lower entry of "
        "timesteps, and from the first to the clean image.": dict(to=lambda bar, steps, k: bar[steps[k] - 1]),
        "Your last step wraps around: timesteps[-1] is the noisiest step. From the first entry it leads to the clean "
        "image, where alpha_bar is 1.": dict(to=lambda bar, steps, k: bar[steps[k - 1]]),
        "Your last step reads alphas_bar[-1], which wraps around to the noisiest step. It leads to the clean image, "
        "where alpha_bar is 1.": dict(to=lambda bar, steps, k: to_next(bar, steps, k) if k > 0 else bar[-1]),
        "Your last step leads to alphas_bar[0], which holds a step of noise. It leads to the clean image, where "
        "alpha_bar is 1.": dict(to=lambda bar, steps, k: to_next(bar, steps, k) if k > 0 else bar[0]),
        "You treat timestep 0 as if it were None<, and step to the clean image one step early>: write `is not "
        "None`.": dict(
            to=lambda bar, steps, k: to_next(bar, steps, k) if k > 0 and steps[k - 1] > 0 else torch.ones_like(bar[0])
        ),
        "You add the noise of the level you came from: use the next lower timestep's alpha_bar.": dict(
            to=lambda bar, steps, k: bar[steps[k]]
        ),
        "Your last step does not move: it leads from timesteps[0] to timesteps[0]. It leads to the clean image, where "
        "alpha_bar is 1.": dict(to=lambda bar, steps, k: bar[steps[max(k - 1, 0)]]),
        "You read alphas_bar at the place in the list instead of at the timestep. alphas_bar has an entry for each t "
        "of the long chain.": dict(
            at=lambda bar, steps, k: bar[k], to=lambda bar, steps, k: bar[k - 1] if k > 0 else torch.ones_like(bar[0])
        ),
        "You tell the network the place in the list. It was trained on t of the long chain: timesteps[k].": dict(
            told=lambda steps, k: k
        ),
        "You tell the network the t where the step leads. It is asked about x_t, with its own t.": dict(
            told=lambda steps, k: steps[max(k - 1, 0)]
        ),
        "You tell the network t + 1. In code t counts from 0: pass t as it is.": dict(
            told=lambda steps, k: steps[k] + 1
        ),
        "You ask the network about x_T at every step. It is asked about the state that was made last.": dict(
            given=lambda x, x_T: x_T
        ),
        "Your x_0 is x_t - sqrt(1 - alpha_bar) eps: it still has to be divided by sqrt(alpha_bar).": dict(
            estimate=lambda x, eps, a: x - (1 - a).sqrt() * eps
        ),
        "In your x_0 eps is multiplied by 1 - alpha_bar: the root is missing.": dict(
            estimate=lambda x, eps, a: (x - (1 - a) * eps) / a.sqrt()
        ),
        "Your x_0 is divided by alpha_bar: the root is missing.": dict(
            estimate=lambda x, eps, a: (x - (1 - a).sqrt() * eps) / a
        ),
        "You derived eps again with its root missing: (x_t - sqrt(alpha_bar) x_0) / sqrt(1 - alpha_bar).": dict(
            again=lambda x, x_0, eps, uncond, a: (x - a.sqrt() * x_0) / (1 - a)
        ),
        "You derived eps again with alpha_bar x_0: the root is missing.": dict(
            again=lambda x, x_0, eps, uncond, a: (x - a * x_0) / (1 - a).sqrt()
        ),
        "Your step scales x_0 by alpha_bar where it leads: the root is missing.": dict(signal=lambda prev: prev),
        "Your step scales eps by 1 - alpha_bar where it leads: the root is missing.": dict(
            spread=lambda prev: 1 - prev
        ),
        "Your next state is the estimated x_0. The step leads to a noisy state: x_0 times sqrt(alpha_bar) where it "
        "leads, and eps again.": dict(signal=torch.ones_like, spread=torch.zeros_like),
        "You yield x_T too. One state for each timestep is asked for, the first after its step.": dict(keep=with_x_T),
        "The last state is missing, the image. The first entry of timesteps is a step as well.": dict(
            keep=without_last
        ),
        "You yield before each step: x_T comes first, and the image is missing. Yield the state that the step has "
        "made.": dict(keep=before_each),
        "You yield the image only. All states are asked for: the yield belongs into the loop.": dict(keep=only_last),
    },
)
