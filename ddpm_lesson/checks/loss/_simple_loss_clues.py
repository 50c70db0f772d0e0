"""What can be found out of an answer to exercise 2.4, with a network that remembers what it was given."""

import torch
from torch import nn

from ddpm_lesson.checks._inputs import fractions
from ddpm_lesson.checks.forward_process.q_sample import q_sample as _q_sample


class Model(nn.Module):
    """A network for the inputs: weight * (x_t^power - t / 4), in any dtype. It remembers what it was given."""

    def __init__(self, weight: float, power: int):
        super().__init__()
        self.weight, self.power = nn.Parameter(torch.tensor(weight)), power
        self.seen: list[tuple] = []

    def forward(self, x_t, t):
        self.seen.append((x_t.detach().clone(), t.detach().clone()))
        return self.weight * (x_t**self.power - t.reshape(-1, *[1] * (x_t.ndim - 1)) / 4)


def what_is_told(evidence) -> str:
    """Whether the network is asked at all, and which t it is told."""
    model, *args = evidence.check.cases[0].args
    spy = Model(model.weight.item(), model.power)
    evidence.answers(spy, *(arg.clone() for arg in args))
    if not spy.seen:
        return "Your function never calls model. Its prediction is what the noise is compared with."
    told = [t for _, t in spy.seen]
    if len(spy.seen) == 1 and told[0].shape != args[1].shape:
        return f"You told the network a t of shape {tuple(told[0].shape)}. It takes one t for each image, as it comes."
    if len(spy.seen) == 1 and not torch.equal(told[0].double(), args[1].double()):
        shown = [round(x, 3) for x in told[0].tolist()]
        return f"You told the network t = {shown} for t = {args[1].tolist()}: pass t as it is."
    return ""


def what_is_given(evidence) -> str:
    """What the network is given, as an answer to exercise 1.4."""

    def q_sample(x_0, t, noise, alphas_bar):
        spy = Model(0.5, 1)
        evidence.answers(spy, x_0, t, noise, alphas_bar)
        return spy.seen[0][0]

    verdict, detail = _q_sample.diagnose(q_sample)
    return f"What you give to the network is not x_t{detail}" if verdict == "no" else ""


def of_prediction_and_noise(evidence) -> str:
    """The result as a polynomial of the prediction p and the noise e, where it is one with simple factors."""
    _, x_0, t, noise, alphas_bar = evidence.check.cases[0].args
    guess = fractions(*x_0.shape, start=7).double()
    out = evidence.answers(lambda x_t, t: guess, x_0, t, noise, alphas_bar)
    if not isinstance(out, torch.Tensor) or out.shape != x_0.shape:
        return ""
    p, e, names = guess.flatten(), noise.double().flatten(), ("p^2", "p * e", "e^2", "p", "e", "1")
    matrix = torch.stack([p * p, p * e, e * e, p, e, torch.ones_like(p)], 1)
    found = torch.linalg.lstsq(matrix, out.double().flatten()[:, None], driver="gelsd").solution[:, 0]
    if (matrix @ found - out.double().flatten()).abs().max() > 1e-5:
        return ""
    terms = [f"{f:+.3g} {name}" for f, name in zip(found.tolist(), names, strict=True) if abs(f) > 1e-4]
    if [term.split(" ", 1)[1] for term in terms] == ["p^2", "p * e", "e^2"] and torch.allclose(
        found[:3], torch.tensor([1.0, -2.0, 1.0]).double(), atol=1e-4
    ):
        return ""
    return f"With the prediction p and the noise e, your result is {' '.join(terms)}. Look at what is squared."
