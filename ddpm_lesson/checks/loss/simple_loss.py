"""Exercise 2.1: the squared error of a network that predicts the noise."""

import math

import torch
from torch import Tensor, nn

from ddpm_lesson.checks._engine import Case, Check
from ddpm_lesson.checks._inputs import ALPHAS_BAR, IMAGES, LONG_BAR, at, before, double, fractions
from ddpm_lesson.checks._rows import looked_up, mixed
from ddpm_lesson.checks._run import called, read
from ddpm_lesson.checks.loss._simple_loss_clues import Model, of_prediction_and_noise, what_is_given, what_is_told
from ddpm_lesson.checks.loss._words import reduced


def _simple_loss(model, x_0, t, noise, alphas_bar):
    """Exercise 2.1: the squared error of a network that predicts the noise.  Ho et al. 2020, Eq. 14.

    model: called as model(x_t, t), with t as it comes; returns (B, *D).  x_0, noise: (B, *D).  t: (B,) int64 in 0..T-1.
    alphas_bar: (T,).  Returns (B, *D), the squared error of each coordinate, neither weighted nor reduced; gradients
    flow through it to the network's weights.
    Not a term of the bound: the weight of exercise 2.5 is left out.
    """
    images = []
    for image, step, its_noise in zip(x_0, t.tolist(), noise, strict=True):
        a_bar = alphas_bar[step].item()
        pixels = zip(image.flatten().tolist(), its_noise.flatten().tolist(), strict=True)
        images.append([math.sqrt(a_bar) * x + math.sqrt(1 - a_bar) * e for x, e in pixels])
    predicted = model(double(images).reshape(x_0.shape), t)
    pairs = zip(noise.flatten().tolist(), predicted.flatten(), strict=True)
    return torch.stack([(e - guess) ** 2 for e, guess in pairs]).reshape(x_0.shape)


def _with_gradient(function, model, *args):
    """The script of the exercise: the loss, then what it gives to the network's weight."""
    out = function(model, *args)
    yield from called(lambda: out)
    flows = isinstance(out, Tensor) and out.requires_grad and out.is_floating_point()
    gradient = torch.autograd.grad(out.sum(), model.weight, allow_unused=True)[0] if flows else None
    scale = 1 / args[0].numel()
    yield "gradient", torch.zeros(()) if gradient is None else read(gradient) * scale


def _squared_error(
    model: nn.Module,
    x_0: Tensor,
    t: Tensor,
    noise: Tensor,
    alphas_bar: Tensor,
    *,
    table=lambda alphas_bar: alphas_bar,
    look_up=at,
    signal=torch.sqrt,  # both functions of alpha_bar_t
    spread=lambda a_bar: (1 - a_bar).sqrt(),
    given=lambda x_0, x_t, noise: x_t,  # to the network, with
    told=lambda t, T: (t,),
    use=lambda prediction: prediction,
    target=lambda x_0, noise, a_bar: noise,
    error=torch.square,
    weight=torch.ones_like,  # of the table alphas_bar
) -> Tensor:
    a_bar = look_up(table(alphas_bar), t, x_0)
    x_t = signal(a_bar) * x_0 + spread(a_bar) * noise
    prediction = use(model(given(x_0, x_t, noise), *told(t, len(alphas_bar))))
    return look_up(weight(alphas_bar), t, x_0) * error(target(x_0, noise, a_bar) - prediction)


def _bound_weight(table: Tensor) -> Tensor:
    betas = 1 - table / before(table)
    return betas / (2 * (1 - betas) * (1 - table))


MODELS: tuple[tuple[str, Model, list], ...] = (
    ("x_t / 2 - t / 8", Model(0.5, 1), [*IMAGES, ((2, 5), [0, 0])]),
    ("x_t^2 - t / 4", Model(1.0, 2), [((4, 1, 8, 8), [0, 3, 3, 9]), ((1, 5), [6])]),
    ("x_t / 2 - t / 8", Model(0.5, 1), [((3, 2), [999, 300, 500])]),
)


simple_loss = Check(
    number="2.1",
    name="simple_loss",
    specification=_simple_loss,
    form=_squared_error,
    script=_with_gradient,
    batch=("x_0", "t", "noise"),
    random="the argument noise",
    clues=(what_is_told, what_is_given, of_prediction_and_noise),
    cases=tuple(
        Case(
            f"model(x_t, t) = {words}, x_0 of shape {shape}, t = {t}, T = {len(table)}",
            (model, fractions(*shape), torch.tensor(t), 2 * fractions(*shape, start=11), double(table)),
        )
        for words, model, images in MODELS
        for shape, t in images
        for table in [ALPHAS_BAR[:1] if t == [0, 0] else LONG_BAR if 999 in t else ALPHAS_BAR]
    ),
    among="two models with a weight, mixed t, T = 1 and T = 1000",
    misconceptions={
        "Your target is x_0. This network predicts the noise: a sampler that takes its output for eps would subtract "
        "the image and keep the noise.": dict(target=lambda x_0, noise, a_bar: x_0),
        "Your target is sqrt(1 - alpha_bar) * noise. The network predicts eps, of variance 1; samplers scale it.": dict(
            target=lambda x_0, noise, a_bar: (1 - a_bar).sqrt() * noise
        ),
        "Your target is x_t, what the network was given. It predicts the noise alone.": dict(
            target=lambda x_0, noise, a_bar: a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise
        ),
        "Your target is x_t - x_0. That is not the noise: x_t holds x_0 times sqrt(alpha_bar) and the noise times "
        "sqrt(1 - alpha_bar). The target is the tensor noise itself.": dict(
            target=lambda x_0, noise, a_bar: (a_bar.sqrt() - 1) * x_0 + (1 - a_bar).sqrt() * noise
        ),
        "You added noise and prediction, or your target is -noise. The error is the difference "
        "from the noise itself.": dict(use=torch.neg),
        "Your network sees x_0<, in which there is no noise to find>. It is given x_t.": dict(
            given=lambda x_0, x_t, noise: x_0
        ),
        "Your network sees the noise itself<, which it only has to repeat>. It is given x_t.": dict(
            given=lambda x_0, x_t, noise: noise
        ),
        "Your network sees x_0 + noise<, as noisy at every t>. It is given x_t.": dict(
            given=lambda x_0, x_t, noise: x_0 + noise
        ),
        "No gradient reaches the network's weights: you detached the prediction, or ran the network under no_grad. "
        "Training needs it.": dict(use=lambda prediction: prediction.detach()),
        **reduced(
            "The error of each coordinate is asked for, (B, *D): the caller averages, and may first weigh each t."
        ),
        "You return the absolute error. Its best prediction is a median, and sampling "
        "needs the conditional mean.": dict(error=torch.abs),
        "You return the error itself, with its sign. It is squared.": dict(error=lambda error: error),
        "You halved the squared error. The loss has no factor.": dict(error=lambda error: error**2 / 2),
        "You used the smooth L1 (Huber) loss. The squared error is asked for.": dict(
            error=lambda error: torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5)
        ),
        **mixed(" in x_t"),
        **looked_up(),
        "You called model(x_t). One network serves all noise levels and must be told which: model(x_t, t).": dict(
            told=lambda t, T: ()
        ),
        "You gave the network t / T. It takes the step t, as samplers pass it: scaling is its own business.": dict(
            told=lambda t, T: (t / T,)
        ),
        "You told the network t + 1. In code t counts from 0, in training and in sampling: pass t as it is.": dict(
            told=lambda t, T: (t + 1,)
        ),
        "You told the network the same t for all images, the first's. Every image has its own.": dict(
            told=lambda t, T: (t[:1],)
        ),
        "You weighed each step as the bound does with var = beta. L_simple leaves that out: the bound spends the "
        "network on the first steps, whose noise is hardly visible.": dict(weight=_bound_weight),
        "You compared estimates of x_0. That multiplies the squared error in eps by (1 - alpha_bar) / alpha_bar, which "
        "is huge at the last steps: compare the noise itself.": dict(weight=lambda table: (1 - table) / table),
        "Your target is v, sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * x_0. This network predicts the noise.": dict(
            target=lambda x_0, noise, a_bar: a_bar.sqrt() * noise - (1 - a_bar).sqrt() * x_0
        ),
        "You weighed each step with its SNR. L_simple gives every step the weight 1.": dict(
            weight=lambda table: table / (1 - table)
        ),
    },
)
