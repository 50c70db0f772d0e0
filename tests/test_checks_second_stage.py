"""What is said of answers that no table lists: each generic kind, with answers written independently of the tables."""

import dataclasses
import math

import pytest
import torch
from diagnosed import look_up, said
from torch.nn import functional as F

from ddpm_lesson import checks

pytestmark = pytest.mark.usefixtures("strict")
FUNCTIONS = {name: check for name, check in checks.registry.items() if not check.steps}  # modules return no numbers
every_function = pytest.mark.parametrize("check", FUNCTIONS.values(), ids=list(FUNCTIONS))


def jump(signal=torch.sqrt, spread=lambda a: (1 - a).sqrt(), end=lambda x_t: x_t, table=lambda v: v, image=lambda x: x):
    def q_sample(x_0, t, noise, alphas_bar):
        a = look_up(table(alphas_bar), t, x_0)
        return end(signal(a) * image(x_0) + spread(a) * noise)

    return q_sample


def posterior(c1=None, c2=None, var=None, end=lambda mean, var: (mean, var)):
    def answer(x_0, x_t, t, betas):
        a = 1 - betas
        bar = a.cumprod(0)
        prev = F.pad(bar[:-1], (1, 0), value=1.0)
        first = (c1 or (lambda b, a, ab, p: p.sqrt() * b / (1 - ab)))(betas, a, bar, prev)
        second = (c2 or (lambda b, a, ab, p: a.sqrt() * (1 - p) / (1 - ab)))(betas, a, bar, prev)
        v = (var or (lambda b, a, ab, p: b * (1 - p) / (1 - ab)))(betas, a, bar, prev)
        return end(look_up(first, t, x_0) * x_0 + look_up(second, t, x_0) * x_t, look_up(v, t, x_0))

    return answer


def back(give):
    def x_0_from_eps(x_t, t, eps, alphas_bar):
        a = look_up(alphas_bar, t, x_t)
        return give(x_t, eps, a)

    return x_0_from_eps


def mean(give):
    def mean_from_eps(x_t, t, eps, betas):
        tables = betas, 1 - betas, (1 - betas).cumprod(0)
        return give(x_t, eps, *(look_up(v, t, x_t) for v in tables))

    return mean_from_eps


def weight(give):
    return lambda betas, var: give(betas, 1 - betas, (1 - betas).cumprod(0), var)


def kl(m_1, v_1, m_2, v_2):
    return 0.5 * (torch.log(v_2 / v_1) + (v_1 + (m_1 - m_2) ** 2) / v_2 - 1)


def loss(give):
    def simple_loss(model, x_0, t, noise, alphas_bar):
        a = look_up(alphas_bar, t, x_0)
        return give(model, a.sqrt() * x_0 + (1 - a).sqrt() * noise, t, noise, x_0, a)

    return simple_loss


def attention(
    scale=lambda s, C: s / math.sqrt(C), softmax=lambda s: s.softmax(-1), end=lambda out: out, swap=lambda *x: x
):
    def answer(q, k, v):
        pixels = [x.flatten(2).mT for x in swap(q, k, v)]
        return end((softmax(scale(pixels[0] @ pixels[1].mT, q.shape[1])) @ pixels[2]).mT.reshape(v.shape))

    return answer


def cosine(f=None, end=lambda betas: betas, ratio=lambda f: 1 - f[1:] / f[:-1]):
    def cosine_betas(T, s=0.008, max_beta=0.999):
        u = torch.linspace(0, 1, T + 1, dtype=torch.float64)
        curve = f(u, s) if f else torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
        return end(ratio(curve).clamp(max=max_beta))

    return cosine_betas


def norm(
    finish=lambda h, w, b: h * w.view(-1, 1, 1) + b.view(-1, 1, 1), var=lambda h: h.var(-1, keepdim=True, correction=0)
):
    def group_norm(x, num_groups, weight, bias):
        h = x.reshape(len(x), num_groups, -1)
        return finish(((h - h.mean(-1, keepdim=True)) / (var(h) + 1e-5).sqrt()).view(x.shape), weight, bias)

    return group_norm


def count(i, o, t):
    return 2 * i + 2 * o + 9 * i * o + o + 9 * o * o + o + t * o + o + (i * o + o) * (i != o)


ARGUMENTS = [  # ignored, hard-coded, exchanged, or changed before they are used
    ("q_sample", lambda x_0, t, e, a: look_up(a, t, x_0).sqrt() * x_0 + 0.3, "Your result does not depend on noise."),
    (
        "attention",
        attention(softmax=lambda s: torch.ones_like(s) / s.shape[-1]),
        "does not depend on q. Use the argument.",
    ),
    (
        "discretized_log_prob",
        lambda x, m, s, levels: checks.registry["discretized_log_prob"].form(x, m, s, 17),
        "levels = 17 only",
    ),
    ("linear_betas", lambda b_1, b_T, T: torch.linspace(b_1, b_T, 1000).double(), "for T = 1000 only"),
    ("skip_channels", lambda ch, mult, n: checks.skip_channels.specification(128, mult, n), "right for ch = 128 only"),
    ("cosine_betas", lambda T, s, m: checks.cosine_betas.specification(T, s, 0.02), "is cut off above 0.02"),
    (
        "mean_from_eps",
        mean(lambda x, e, b, a, ab: (e - b / (1 - ab).sqrt() * x) / a.sqrt()),
        "You exchanged x_t and eps.",
    ),
    ("attention", attention(swap=lambda q, k, v: (k, v, q)), "You took k for q, v for k, q for v."),
    ("q_sample", lambda x_0, t, e, a: jump()(x_0, t, e.flip(0), a), "noise is in reverse order"),
    ("add_time", lambda h, e, w, b: h + F.linear(F.silu(e), w.abs(), b)[..., None, None], "weight has lost its sign"),
    (
        "discretized_log_prob",
        lambda x, m, s, n: checks.registry["discretized_log_prob"].form(x, m, 2 * s, n),
        "std is doubled",
    ),
    (
        "skip_channels",
        lambda ch, mult, n: checks.skip_channels.specification(ch, mult, n + 1),
        "num_res_blocks is one more",
    ),
]
IMAGES = [  # an image that depends on another
    (
        "q_sample",
        jump(end=lambda x_t: x_t.mean(0, keepdim=True).expand_as(x_t)),
        "Image 0 of your result changes with x_0 of image 1",
    ),
    (
        "q_sample",
        jump(table=lambda v: v, image=lambda x: x - x.mean(0)),
        "Image 0 of your result changes with x_0 of image 1",
    ),
    (
        "group_norm",
        lambda x, G, w, b: norm()(x, G, w, b) + x.mean() * 0.1,
        "changes with x of image 1",
    ),
    (
        "posterior",
        posterior(end=lambda m, v: (m - m.mean(0), v)),
        "Your var is right. Image 0 of your result changes with x_0",
    ),
    (
        "mean_from_eps",
        lambda x, t, e, b: mean(lambda x, e, b, a, ab: x - b * e)(x, t.amax().expand_as(t), e, b),
        "Image 0 of your result changes with t of image 3",
    ),
]
CHANGED = [  # the right numbers, and something done to them
    ("gaussian_kl", lambda *args: -kl(*args), "Your result has the wrong sign everywhere."),
    (
        "x_0_from_eps",
        back(lambda x, e, a: torch.tanh((x - (1 - a).sqrt() * e) / a.sqrt())),
        "went through tanh at the end",
    ),
    ("gaussian_kl", lambda *args: kl(*args).clamp(max=1), "is cut off above 1."),
    ("linear_betas", lambda a, b, T: torch.linspace(a, b, T).double().clamp(max=0.25), "is cut off above 0.25."),
    ("gaussian_kl", lambda *args: kl(*args).sum(-1), "is the sum over axis -1."),
    ("attention", attention(end=lambda out: out.mean((2, 3), keepdim=True)), "is the mean over the pixels."),
    (
        "posterior",
        posterior(end=lambda m, v: (m.mean(), v.mean())),
        "mean over everything, a single number. Each entry's",
    ),
    ("down_same", lambda x, w: 9 * checks.down_same.form(x, w), "Your result is 9 times what is asked for."),
    (
        "attention",
        attention(end=lambda out: out / math.sqrt(out.shape[1])),
        "You divided by sqrt(C) once more after the softmax",
    ),
    ("q_sample", jump(end=lambda x_t: x_t + 0.1), "Your result is +0.1 off everywhere."),
    ("simple_loss", loss(lambda model, x_t, t, e, *_: (model(x_t, t) - e) ** 4), "is the square of what is asked for."),
    ("extract", lambda v, t, shape: look_up(v, t, torch.empty(shape)).sqrt(), "is the root of what is asked for."),
    ("vlb_weight", weight(lambda b, a, ab, v: 2 * v * a * (1 - ab) / b**2), "is upside down"),
    ("vlb_weight", lambda b, v: (w := checks.vlb_weight.form(b, v)) / w.sum(), "is divided by its sum."),
    ("q_sample", jump(end=torch.round), "is rounded to whole numbers."),
    ("q_sample", jump(end=lambda x_t: x_t.long()), "has lost what stands behind the decimal point."),
    ("vlb_weight", lambda b, v: checks.vlb_weight.form(b, v).flip(0), "in reverse order, along axis 0."),
    ("time_table", lambda T, d: checks.time_table.form(T, d).T, "has its axes 0 and 1 exchanged."),
    ("skip_channels", lambda *args: sorted(checks.skip_channels.form(*args)), "but sorted, along axis 0."),
    (
        "time_table",
        lambda T, d: checks.time_table.form(T, d)[:, torch.arange(d).view(-1, 2).T.flatten()],
        "all sines and then all cosines",
    ),
    ("q_sample", jump(end=lambda x_t: x_t.flatten(1)), "in the wrong shape: (4, 64) instead of (4, 1, 8, 8)."),
    (
        "posterior",
        posterior(end=lambda m, v: (m, v.expand_as(m) * 1)),
        "repeats the right numbers|has the shape of the images",
    ),
    ("skip_channels", lambda *args: checks.skip_channels.form(*args) + [args[0]], "has 1 entry too many at its end."),
    (
        "respaced_betas",
        lambda a, steps: checks.respaced_betas.form(a, steps)[:-1],
        "lacks the last entry of axis 0.|too few at its end",
    ),
]
PLACES = [  # right but in one place
    (
        "posterior",
        posterior(var=lambda b, a, ab, p: torch.where(p == 1, 0.3, b * (1 - p) / (1 - ab))),
        "right at every step but t = 0",
    ),
    (
        "cosine_betas",
        cosine(end=lambda b: torch.cat([b[:-1], 0 * b[-1:] + 0.5])),
        "right everywhere but at the last entry: for T = 10",
    ),
    (
        "q_sample",
        lambda x, t, e, a: torch.where(look_up(torch.arange(len(a)), t, x) > 0, jump()(x, t, e, a), x),
        "but t = 0",
    ),
    (
        "min_snr_weights",
        lambda s, g: (*checks.min_snr_weights.form(s, g)[:2], torch.where(s > g, 1, s) / (s + 1)),
        "above gamma",
    ),
    (
        "down_same",
        lambda x, w: F.conv2d(F.pad(x, (0, 1, 0, 1), value=0.7), w, stride=2),
        "in the last row and the last column",
    ),
]
FACTORS = [  # one factor is wrong
    (
        "q_sample",
        jump(signal=lambda a: a**1.5),
        "Your factor of noise is right. Your factor of x_0 is the right one times alpha_bar",
    ),
    ("q_sample", jump(spread=lambda a: (a * (1 - a)).sqrt()), "of noise is the right one times sqrt(alpha_bar)"),
    ("q_sample", jump(spread=lambda a: (1 - a**2).sqrt()), "of noise is the right one times sqrt(1 + alpha_bar)"),
    (
        "posterior",
        posterior(c1=lambda b, a, ab, p: p.sqrt() * b / (1 - p)),
        "times (1 - alpha_bar) / (1 - alpha_bar_prev)",
    ),
    (
        "posterior",
        posterior(var=lambda b, a, ab, p: b**2 * (1 - p) / (1 - ab)),
        "is right. Your var is the right one times beta",
    ),
    (
        "x_0_from_eps",
        back(lambda x, e, a: (x - (1 - a).sqrt() * e) / (1 - a)),
        "both the right ones times sqrt(alpha_bar) / (1",
    ),
    (
        "mean_from_eps",
        mean(lambda x, e, b, a, ab: (x - b * (1 - ab).sqrt() * e) / a.sqrt()),
        "You multiplied by sqrt(1 - alpha_bar) in the factor of eps. Divide by it.",
    ),
    (
        "vlb_weight",
        weight(lambda b, a, ab, v: b**3 / (2 * v * a * (1 - ab))),
        "Your result is the right one times beta.",
    ),
    (
        "vlb_weight",
        weight(lambda b, a, ab, v: b**2 / (2 * v * a * (1 - ab)).sqrt()),
        "sqrt(var) * sqrt(alpha) * sqrt(1 - alpha_bar)",
    ),
    (
        "min_snr_weights",
        lambda s, g: (*checks.min_snr_weights.form(s, g)[:2], s.clamp(max=g) / (s + 1) ** 2),
        "times 1 / (snr + 1)",
    ),
    (
        "respaced_betas",
        lambda a, s: 1 - (1 - checks.respaced_betas.form(a, s)) * 0.5,
        "1 - beta, is the right one times 1 / 2|0.5",
    ),
]
TERMS = [
    (
        "gaussian_kl",
        lambda m, v, n, w: 0.5 * (torch.log(w / v) + v + (m - n) ** 2 / w - 1),
        "the term var_1 does not belong there",
    ),
    ("gaussian_kl", lambda m, v, n, w: (m - n) ** 2 / w / 2, "log(var_2 / var_1) is missing"),
    (
        "gaussian_kl",
        lambda m, v, n, w: kl(m, v, n, w) + (m - n) ** 2 / w / 4,
        "(mean_1 - mean_2)^2 / var_2 has the factor 0.75",
    ),
]
CLUES = [  # what single exercises know
    (
        "cosine_betas",
        cosine(lambda u, s: torch.cos((u + s) / (1 + s) * math.pi / 2) ** 3),
        "to the power 1.5. Look at the power",
    ),
    (
        "cosine_betas",
        cosine(lambda u, s: torch.cos((u + s) / (1 + s) * math.pi / 4) ** 2),
        "its angle runs from 0.006233 to 0.7854",
    ),
    ("linear_betas", lambda a, b, T: torch.linspace(a / 2, b, T).double(), "are 5 numbers from 0.05 to 0.3"),
    (
        "simple_loss",
        loss(lambda model, x_t, t, e, *_: (x_t - e) ** 2 + 0 * model.weight),
        "Your function never calls model|not depend on model",
    ),
    (
        "simple_loss",
        loss(lambda model, x_t, t, e, *_: (model(x_t, 9 - t) - e) ** 2),
        "You told the network t = [9, 6, 6, 0]",
    ),
    (
        "simple_loss",
        loss(lambda model, x_t, t, e, x, a: (model(x + (1 - a).sqrt() * e, t) - e) ** 2),
        "You did not shrink x_0 in x_t. ",
    ),
    (
        "simple_loss",
        loss(lambda model, x_t, t, e, x, a: (model(x_t.clamp(-1, 1), t) - e) ** 2),
        "is not x_t. Your result is clipped to [-1, 1]",
    ),
    ("simple_loss", loss(lambda model, x_t, t, e, *_: model(x_t, t) ** 2 - e**2), "your result is +1 p^2 -1 e^2"),
    (
        "discretized_log_prob",
        lambda x, m, s, n: checks.registry["discretized_log_prob"].form((x + 1) / 2, m, s, n),
        "x = 0 reaches from 0.25 to 0.75",
    ),
    (
        "time_table",
        lambda T, d: (
            (torch.arange(T)[:, None, None] / (1 + torch.arange(d // 2))[:, None] + torch.tensor([0, math.pi / 2]))
            .sin()
            .flatten(1)
        ),
        "yours have the exponents 0, -0.0753, -0.119, -0.151, and 0, -0.25",
    ),
    ("group_norm", norm(lambda h, w, b: h * w[0] + b[0]), "With weight 1 and bias 0 your norm is right."),
    (
        "group_norm",
        norm(var=lambda h: (h**2).mean(-1, keepdim=True)),
        "a group of 18 numbers has mean -0.000 and variance 0.0",
    ),
    (
        "add_time",
        lambda h, e, w, b: h + F.linear(torch.sin(e), w, b)[..., None, None],
        "your activation is no Swish: it makes -0.909",
    ),
    (
        "add_time",
        lambda h, e, w, b: F.silu(h) + F.linear(F.silu(e), w, b)[..., None, None],
        "h is not added as it is: 1 becomes 0.7311",
    ),
    ("attention", attention(scale=lambda s, C: s / C**2), "What goes into your softmax is 0.1925 times the right one"),
    (
        "attention",
        attention(softmax=lambda s: F.one_hot(s.argmax(-1), s.shape[-1]).float()),
        "Some of your weights are 0 or negative",
    ),
    (
        "down_same",
        lambda x, w: F.conv2d(x, w[:, :, :2, :2], stride=2),
        "sees rows 2 to 3 and columns 2 to 3 of x. A window of 3x3",
    ),
    (
        "down_same",
        lambda x, w: checks.down_same.form(x, w.rot90(1, (2, 3))),
        "Your kernel is rotated by a quarter turn.",
    ),
    ("res_block_parameters", lambda i, o, t: count(i, o, t) + o, "yours has out_ch too many."),
    ("res_block_parameters", lambda i, o, t: count(i, o, t) + t - o, "tdim too many and out_ch too few"),
]
TWO = [  # listed mistakes, two at once
    (
        "q_sample",
        jump(torch.ones_like, table=lambda v: v.cumprod(0)),
        "You did not shrink x_0",
        "running product of alphas_bar",
    ),
    ("vlb_weight", weight(lambda b, a, ab, v: b / (2 * v**2 * a * (1 - ab))), "did not square beta", "You squared var"),
    (
        "group_norm",
        norm(lambda h, w, b: h * w.view(-1, 1, 1), lambda h: h.var(-1, keepdim=True)),
        "n - 1",
        "left out bias",
    ),
    (
        "attention",
        attention(lambda s, C: s / C, swap=lambda q, k, v: (k, q, v)),
        "divided by C",
        "q and k are exchanged",
    ),
    (
        "time_table",
        lambda T, d: checks.time_table.form(T + 1, d)[1:, torch.arange(d).view(-1, 2).flip(1).flatten()],
        "from 1",
        "are exchanged",
    ),
]
KINDS = [ARGUMENTS, IMAGES, CHANGED, PLACES, FACTORS, TERMS, CLUES]


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [row for kind in KINDS for row in kind],
    ids=[f"{k}-{i}" for k, kind in enumerate(KINDS) for i in range(len(kind))],
)
def test_the_cause_is_told(name, answer, words):
    text = said(name, answer)
    assert any(part in text for part in words.split("|")), text


@pytest.mark.parametrize(("name", "answer", "first", "second"), TWO)
def test_two_listed_mistakes_at_once(name, answer, first, second):
    text = said(name, answer)
    assert text.startswith("Your numbers are those of two mistakes at once. ") and first in text and second in text


def test_randomness_where_there_is_no_noise():
    text = said("mean_from_eps", mean(lambda x, e, b, a, ab: (x - b * e) / a.sqrt() + torch.randn_like(x)))
    assert (
        text
        == "Two calls with the same input gave two results. Randomness does not belong here: the result is determined."
    )


def test_a_zero_that_is_none():
    text = said("posterior", posterior(end=lambda m, v: (m, v + 1e-12)))
    assert text.startswith("Your var must be exactly 0 where it is 0, and yours is 1e-12.")


# False matches: wrong without a simple cause, so that nothing but the first difference may be said.


def scrambled(result, args, size):
    """The result with a different error at every entry, which depends on all arguments, but simply on none."""
    seed = sum(float(arg.double().sum()) for arg in args if isinstance(arg, torch.Tensor)) + result.numel()
    place = torch.arange(result.numel(), dtype=torch.float64).reshape(result.shape)
    return result + size * torch.sin(12.9898 * (place + 1) + seed) * (1 + torch.cos(78.233 * place))


@every_function
@pytest.mark.parametrize("size", [0.01, 0.5])
def test_an_answer_without_a_simple_cause_gets_the_first_difference(check, size):
    """Or what holds all the same: the outputs that are right, the image that depends on another."""

    def answer(*args):
        result = check.form(*args)
        if check.returns is int:
            return result + round(1000 * size) * (result % 7 + 1)
        if check.returns is list:
            return [number + round(100 * size) * ((7 * number + i) % 5 + 1) for i, number in enumerate(result)]
        if isinstance(result, tuple):
            return tuple(scrambled(part, args, size) for part in result)
        return scrambled(result, args, size)

    verdict, detail = check.diagnose(answer)
    assert verdict == "no" and ("expected" in detail or "changes with" in detail), detail
    assert not any(sure in detail for sure in ("two mistakes", "times what", "in the wrong", "the right one times")), (
        detail
    )


@pytest.mark.parametrize("name", ["q_sample", "vlb_weight", "res_block_parameters"])
def test_a_mistake_that_is_struck_from_the_table_is_told_all_the_same(name, monkeypatch):
    """Leaving one out, by turns: not one is accepted, and three in four at least get more than the first difference."""
    check = checks.registry[name]
    listed, wrongs, told = list(check.misconceptions.items()), check.singles, 0
    for i, wrong in enumerate(wrongs):
        shorter = dataclasses.replace(check, misconceptions=dict(listed[:i] + listed[i + 1 :]))
        verdict, detail = shorter.diagnose(wrong.function)
        assert verdict == "no" and wrong.made[0].sentence not in detail
        told += "expected" not in detail or "everywhere but" in detail
    assert told >= 0.75 * len(wrongs)


ODD = [lambda x: x > 0, lambda x: x.half(), lambda x: x * math.nan, lambda x: x.to_sparse() * 3]


@every_function
def test_odd_results_break_no_stage(check):
    """Strictly: not one of the questions that the second stage asks raises."""
    tensors = check.returns is torch.Tensor

    def changed(odd):
        def answer(*args):
            result = check.form(*args)
            return tuple(map(odd, result)) if isinstance(result, tuple) else odd(result)

        return answer

    numbers = [lambda out: out * 2, lambda out: 10**400 if isinstance(out, int) else [10**400] * len(out)]
    for odd in ODD if tensors else numbers:
        verdict, detail = check.diagnose(changed(odd))
        assert verdict == "no" and detail.isascii() and "\n" not in detail and len(detail) < 700
