"""Exercise 1.10, the capstone: a forward process from any falling curve, there and back."""

import math
from contextlib import contextmanager

import torch
from torch import Tensor

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import at, before, double, fractions, products
from ddpm_lesson.checks._run import Misfit, read, whole_table
from ddpm_lesson.checks.forward_process.posterior import posterior
from ddpm_lesson.checks.forward_process.q_sample import q_sample


def _fractions(T):
    return double([i / T for i in range(T + 1)])


class _Forward:
    """Exercise 1.10: a forward process whose alpha_bar follows a curve of your own.

    curve: takes u, (T + 1,) float64 from 0 to 1, and returns as many falling values.  T: int.  max_beta: the cap on
    every beta.  betas, alphas_bar: (T,) float64, alphas_bar the running product of 1 - beta.
    bits_left(): bits that x_T tells of a pixel that is 1 or -1, -1/2 log2(1 - alpha_bar_T).
    q_sample(x_0, t, noise): as in exercise 1.4.
    back(x_0, x_T, noise): from x_T to x_0, each state drawn from the posterior given x_0 and the state before; noise
    is (T, B, *D), of which noise[t] belongs to step t.  Returns (T + 1, B, *D), x_T first.
    """

    def __init__(self, curve, T, max_beta=0.999):
        values = curve(double([i / T for i in range(T + 1)])).tolist()
        betas = [min(1 - values[i + 1] / values[i], max_beta) for i in range(T)]
        self.betas, self.alphas_bar = double(betas), double(products(betas))

    def bits_left(self):
        return -0.5 * math.log2(1 - self.alphas_bar[-1].item())

    def q_sample(self, x_0, t, noise):
        return q_sample.specification(x_0, t, noise, self.alphas_bar)

    def back(self, x_0, x_T, noise):
        states = [x_T.double()]
        for step in reversed(range(len(self.betas))):
            t = torch.full((len(x_0),), step)
            mean, var = posterior.specification(x_0, states[-1], t, self.betas)
            states.append(mean + var.sqrt() * noise[step])
        return torch.stack(states)


class _Built:
    """The same by tables, with choices."""

    def __init__(
        self,
        curve,
        T: int,
        max_beta: float,
        *,
        times=_fractions,
        ratio=lambda values: 1 - values[1:] / values[:-1],
        cap=lambda betas, max_beta: betas.clamp(max=max_beta),
        running=lambda betas, values: torch.cumprod(1 - betas, 0),
        stepped=lambda betas, alphas_bar: alphas_bar,
        bits=lambda a_bar: -0.5 * torch.log2(1 - a_bar[-1]),
        spread=lambda a_bar: (1 - a_bar).sqrt(),
        known=lambda x_0, state: x_0,
        shift=before,
        loudness=torch.sqrt,
        drawn=lambda noise, i: noise[i],
        keep=torch.stack,
    ):
        values = curve(times(T))
        self.betas = cap(ratio(values), max_beta)
        self.alphas_bar = running(self.betas, values)
        self.stepped = stepped(self.betas, self.alphas_bar)
        self.bits, self.spread, self.shift, self.known = bits, spread, shift, known
        self.loudness, self.drawn, self.keep = loudness, drawn, keep

    def bits_left(self):
        return self.bits(self.alphas_bar)

    def q_sample(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        a_bar = at(self.alphas_bar, t, x_0)
        return a_bar.sqrt() * x_0 + self.spread(a_bar) * noise

    def back(self, x_0: Tensor, x_T: Tensor, noise: Tensor) -> Tensor:
        states = [x_T.double()]
        tables = (self.betas, self.stepped, self.shift(self.stepped))
        for i, (beta, a_bar, prev) in reversed(list(enumerate(zip(*tables, strict=True)))):
            mean = prev.sqrt() * beta * self.known(x_0, states[-1]) + (1 - beta).sqrt() * (1 - prev) * states[-1]
            var = beta * (1 - prev) / (1 - a_bar)
            states.append(mean / (1 - a_bar) + self.loudness(var) * self.drawn(noise, i))
        return self.keep(states)


def _used(function, curve, T, max_beta):
    """What is asked of a process, in the order in which a later answer needs the earlier."""
    shape, t = (3, 1, 4, 4), torch.tensor([0, T - 1, T // 2])
    x_0, noise = fractions(*shape), fractions(*shape, start=11)
    x_T, fresh = fractions(*shape, start=29), fractions(T, *shape, start=5)
    forward = function(curve, T, max_beta)
    yield "betas", _tensor("betas", forward.betas)
    yield "alphas_bar", _tensor("alphas_bar", forward.alphas_bar)
    yield "bits_left()", torch.as_tensor(forward.bits_left(), dtype=torch.float64)
    with _tables(T):
        yield "q_sample", _tensor("q_sample", forward.q_sample(x_0, t, noise))
        yield "back", _tensor("back", forward.back(x_0, x_T, fresh))


@contextmanager
def _tables(T):
    """One that met the images as a whole is told so."""
    try:
        yield
    except RuntimeError as error:
        if words := whole_table(error, T):
            raise Misfit(words) from error
        raise


def _tensor(name, value):
    if not isinstance(value, Tensor):
        raise Misfit(f"expected {name} to be a tensor, got {type(value).__name__}")
    return read(value)


def _cosine(u):
    return torch.cos(u * math.pi / 2) ** 2


def _straight(u):
    return 1 - u


def _steep(u):
    return 0.9 * torch.exp(-3 * u)


Forward = Check(
    number="1.10",
    name="Forward",
    specification=_Forward,
    form=_Built,
    script=_used,
    steps=True,
    cases=tuple(
        Case(f"{words}, T = {T} and max_beta = {max_beta}", (curve, T, max_beta))
        for words, curve, T, max_beta in [
            ("a squared cosine", _cosine, 8, 0.999),
            ("a squared cosine", _cosine, 5, 0.6),
            ("1 - u", _straight, 4, 0.999),
            ("0.9 exp(-3 u)", _steep, 3, 0.999),
            ("1 - u", _straight, 1, 0.999),
        ]
    ),
    among="a capped chain, a curve that starts below 1 and T = 1",
    misconceptions={
        "You left out the cap. Where the curve reaches 0, beta is 1 and nothing is left to come back from: let no beta "
        "exceed max_beta.": dict(cap=lambda betas, max_beta: betas),
        "You wrote 0.999 into the class. The cap is the argument max_beta.": dict(
            cap=lambda betas, max_beta: betas.clamp(max=0.999)
        ),
        "Your curve is read at T points. T steps have T + 1 ends: 0, 1/T, ..., 1.": dict(
            times=lambda T: double([i / max(T - 1, 1) for i in range(T)])
        ),
        "Your betas are differences of the curve. alpha_bar is a running product: beta is 1 minus the ratio of two "
        "neighbours.": dict(ratio=lambda values: values[:-1] - values[1:]),
        "Your alphas_bar is the curve itself. The steps that are made are the capped betas: take the running product "
        "of 1 - beta.": dict(running=lambda betas, values: values[1:]),
        "Your alphas_bar is taken from the curve, not from the capped betas, with which your way back steps. Both must "
        "tell of the same chain: take the running product of 1 - beta, after the cap.": dict(
            running=lambda betas, values: values[1:], stepped=lambda betas, alphas_bar: torch.cumprod(1 - betas, 0)
        ),
        "Your alphas_bar is the curve over its first value, and knows nothing of the cap. Take the running product of "
        "1 - beta, after the cap.": dict(
            running=lambda betas, values: values[1:] / values[0],
            stepped=lambda betas, alphas_bar: torch.cumprod(1 - betas, 0),
        ),
        "Your alphas_bar is the running product of the betas. What is left of the image is that of 1 - beta.": dict(
            running=lambda betas, values: torch.cumprod(betas, 0)
        ),
        "You took the natural logarithm: those are nats. Bits need the logarithm to base 2.": dict(
            bits=lambda a_bar: -0.5 * torch.log(1 - a_bar[-1])
        ),
        "The factor 1/2 is missing from your bits.": dict(bits=lambda a_bar: -torch.log2(1 - a_bar[-1])),
        "Your bits are those of the first step. Asked for is what is left after the last one.": dict(
            bits=lambda a_bar: -0.5 * torch.log2(1 - a_bar[0])
        ),
        "Your bits are negative. The logarithm of a number below 1 is: put a minus sign in front.": dict(
            bits=lambda a_bar: 0.5 * torch.log2(1 - a_bar[-1])
        ),
        "Your q_sample scales the noise by 1 - alpha_bar: that is the variance. It needs the square root.": dict(
            spread=lambda a_bar: 1 - a_bar
        ),
        "On the way back you use alpha_bar instead of alpha_bar_prev<: your last state is not x_0>.": dict(
            shift=torch.clone
        ),
        "On the way back your alpha_bar_prev is 0 before the first step. There is no noise yet: it is 1, and the last "
        "state is x_0.": dict(shift=lambda a_bar: torch.cat([torch.zeros_like(a_bar[:1]), a_bar[:-1]])),
        "On the way back you scale the noise by the posterior's variance. It needs the square root.": dict(
            loudness=lambda var: var
        ),
        "On the way back you add no noise: your states are the means. A draw from the posterior is its mean plus its "
        "standard deviation times noise[t].": dict(loudness=torch.zeros_like),
        "On the way back your first step takes noise[0]. It is step T - 1, and noise[t] belongs to step t.": dict(
            drawn=lambda noise, i: noise[len(noise) - 1 - i]
        ),
        "On the way back you put the noisy state where x_0 belongs. The posterior pulls towards x_0.": dict(
            known=lambda x_0, state: state
        ),
        "x_T is missing from the states of the way back: there are T + 1, x_T first and x_0 last.": dict(
            keep=lambda states: torch.stack(states[1:])
        ),
        "The states of the way back stand in reverse: x_T comes first, x_0 last.": dict(
            keep=lambda states: torch.stack(states[::-1])
        ),
    },
)
