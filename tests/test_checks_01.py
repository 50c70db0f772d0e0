"""The exercises of notebook 01 that are walks and classes: answers in other words, and answers that go wrong."""

import math

import numpy as np
import pytest
import torch
from diagnosed import look_up

from ddpm_lesson import checks


def walk_by_numpy(x_0, betas, noise):
    states = np.empty((len(betas) + 1, *x_0.shape))
    states[0] = x_0
    for i, beta in enumerate(betas.tolist()):
        states[i + 1] = math.sqrt(1 - beta) * states[i] + math.sqrt(beta) * noise[i].numpy()
    return torch.from_numpy(states)


def walk_by_recursion(x_0, betas, noise):
    """The first steps, then the last."""
    if not len(betas):
        return x_0.unsqueeze(0)
    before = walk_by_recursion(x_0, betas[:-1], noise[:-1])
    last = (1 - betas[-1]) ** 0.5 * before[-1] + betas[-1] ** 0.5 * noise[-1]
    return torch.cat([before, last.unsqueeze(0)])


def walk_by_products(x_0, betas, noise):
    """Each state from x_0 and all noise so far."""
    alphas = (1 - betas).tolist()
    states = [x_0]
    for i in range(1, len(betas) + 1):
        shares = [math.prod(alphas[j:i]) ** 0.5 for j in range(i + 1)]
        pushes = [shares[j + 1] * betas[j].item() ** 0.5 * noise[j] for j in range(i)]
        states.append(shares[0] * x_0 + sum(pushes))
    return torch.stack(states)


class ForwardByLogarithms:
    """The way back by precisions."""

    def __init__(self, curve, T, max_beta=0.999):
        values = curve(torch.arange(T + 1).double() / T)
        self.T = T
        self.betas = torch.minimum(1 - values[1:].div(values[:-1]), torch.tensor(max_beta).double())
        self.alphas_bar = torch.exp(torch.log1p(-self.betas).cumsum(0))

    def bits_left(self):
        return -torch.log2((1 - self.alphas_bar[-1]).sqrt())

    def q_sample(self, x_0, t, noise):
        rows = zip(x_0, self.alphas_bar[t], noise, strict=True)
        return torch.stack([a**0.5 * image + (1 - a) ** 0.5 * its_noise for image, a, its_noise in rows])

    def back(self, x_0, x_T, noise):
        x, states = x_T, [x_T]
        for t in range(self.T - 1, 0, -1):
            before, beta = self.alphas_bar[t - 1], self.betas[t]
            var = 1 / (1 / (1 - before) + (1 - beta) / beta)
            x = var * (before.sqrt() / (1 - before) * x_0 + (1 - beta).sqrt() / beta * x) + var.sqrt() * noise[t]
            states.append(x)
        return torch.stack([*states, x_0])


class ForwardByTables(ForwardByLogarithms):
    def back(self, x_0, x_T, noise):
        prev = torch.cat([torch.ones(1).double(), self.alphas_bar[:-1]])
        coef1 = prev.sqrt() * self.betas / (1 - self.alphas_bar)
        coef2 = (1 - self.betas).sqrt() * (1 - prev) / (1 - self.alphas_bar)
        std = (self.betas * (1 - prev) / (1 - self.alphas_bar)).sqrt()
        states = [x_T]
        for t in reversed(range(self.T)):
            states.append(coef1[t] * x_0 + coef2[t] * states[-1] + std[t] * noise[t])
        return torch.stack(states)


class ForwardInFloat32(ForwardByTables):
    def bits_left(self):
        return torch.tensor(0.5 * math.log2(1 / (1 - self.alphas_bar[-1])))

    def back(self, x_0, x_T, noise):
        return super().back(x_0, x_T, noise).float()


VARIANTS = {
    "walk": [walk_by_numpy, walk_by_recursion, walk_by_products],
    "Forward": [ForwardByLogarithms, ForwardByTables, ForwardInFloat32],
}


def verdict(name, answer):
    word, detail = checks.registry[name].diagnose(answer)
    return word + detail


def test_an_untouched_class_is_not_attempted():
    class Forward:
        def __init__(self, curve, T, max_beta=0.999): ...

        def bits_left(self): ...

    assert verdict("Forward", Forward) == "not attempted"


def test_a_class_that_is_half_done_is_told_where_it_ends():
    class Forward(ForwardByTables):
        def back(self, x_0, x_T, noise):
            states = [x_T]  # noqa: F841

    class Nameless:
        def __init__(self, curve, T, max_beta=0.999):
            self.beta = curve(torch.linspace(0, 1, T + 1))

    assert "expected back to be a tensor, got NoneType" in verdict("Forward", Forward)
    assert "AttributeError: 'Nameless' object has no attribute 'betas'" in verdict("Forward", Nameless)


def test_a_mistake_on_the_way_back_is_told():
    class Forward(ForwardByTables):
        def back(self, x_0, x_T, noise):
            return super().back(x_0, x_T, 0 * noise)

    assert "On the way back you add no noise" in verdict("Forward", Forward)


def test_the_first_wrong_part_of_a_class_is_named():
    class Forward(ForwardByTables):
        def bits_left(self):
            return 7.0

    assert "bits_left() is the first step that is wrong: expected" in verdict("Forward", Forward)


def test_a_walk_without_its_start_is_told():
    assert "x_0 is missing" in verdict("walk", lambda *args: walk_by_numpy(*args)[1:])


def test_a_walk_ends_where_the_jump_does():
    """With the noise of the jump spread over the steps: mean and variance of many walks."""
    betas = torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)
    noise = torch.eye(3, dtype=torch.float64).unsqueeze(-1)  # each of three walks is pushed in one step only
    ends = checks.walk.specification(torch.zeros(3, 1), betas, noise)[-1]
    assert (ends**2).sum().item() == pytest.approx(1 - torch.prod(1 - betas).item(), rel=1e-12)
    kept = checks.walk.specification(torch.ones(1, 1), betas, torch.zeros(3, 1, 1))[-1]
    assert kept.item() ** 2 == pytest.approx(torch.prod(1 - betas).item(), rel=1e-12)


def test_the_way_back_of_the_specification_ends_in_x_0():
    forward = checks.Forward.specification(lambda u: 1 - u**2, 6)
    x_0, noise = torch.tensor([[0.3], [-1.0]]), torch.ones(6, 2, 1)
    assert torch.equal(forward.back(x_0, 9 * x_0, noise)[-1], x_0.double())


def test_one_tensor_that_is_changed_in_place_is_told():
    def walk(x_0, betas, noise):
        x = x_0.clone()
        states = [x]
        for beta, its_noise in zip(betas, noise, strict=True):
            x *= (1 - beta).sqrt()
            x += beta.sqrt() * its_noise
            states.append(x)
        return torch.stack(states)

    assert "All of your states are the last one" in verdict("walk", walk)


@pytest.mark.parametrize(
    ("angle", "words"),
    [
        (lambda u, s: u + s / (1 + s) * math.pi / 2, "only s is divided and multiplied. Put brackets around u + s."),
        (
            lambda u, s: (s / (1 + s)) * (math.pi / 2) + u,
            "only s is divided and multiplied. Put brackets around u + s.",
        ),
        (lambda u, s: u + s / 1 + s * math.pi / 2, "Put brackets around u + s and around 1 + s."),
        (lambda u, s: (u + s) / 1 + s * math.pi / 2, "Put brackets around u + s and around 1 + s."),
        (lambda u, s: (u + s / (1 + s)) * math.pi / 2, "You divided only s by 1 + s."),
    ],
)
def test_a_bracket_that_is_missing_in_the_angle(angle, words):
    def cosine_betas(T, s=0.008, max_beta=0.999):
        f = torch.cos(angle(torch.arange(T + 1).double() / T, s)) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max=max_beta)

    assert words in verdict("cosine_betas", cosine_betas)


@pytest.mark.parametrize(
    "angle",
    [
        lambda u, s: u / (1 + s) * math.pi / 2 + s / (1 + s) * math.pi / 2,
        lambda u, s: math.pi / 2 * (1 - (1 - u) / (1 + s)),
    ],
)
def test_the_angle_in_other_words_is_right(angle):
    def cosine_betas(T, s=0.008, max_beta=0.999):
        f = torch.cos(angle(torch.arange(T + 1).double() / T, s)) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max=max_beta)

    assert verdict("cosine_betas", cosine_betas).startswith("yes")


def whole(x_0, table, noise):
    """The jump with the whole table."""
    return table.sqrt() * x_0 + (1 - table).sqrt() * noise


def whole_by_numpy(x_0, t, noise, table):
    """NumPy has words of its own for it."""
    signal, spread = np.sqrt(table.numpy()), np.sqrt(1 - table.numpy())
    return torch.from_numpy(signal * x_0.numpy() + spread * noise.numpy())


def whole_posterior(x_0, x_t, t, betas):
    bar = torch.cumprod(1 - betas, 0)
    prev = torch.cat([torch.ones_like(bar[:1]), bar[:-1]])
    mean = prev.sqrt() * betas * x_0 + (1 - betas).sqrt() * (1 - prev) * x_t
    return mean / (1 - bar), betas * (1 - prev) / (1 - bar)


class ForwardOfWholeTables(ForwardByTables):
    def q_sample(self, x_0, t, noise):
        return whole(x_0, self.alphas_bar, noise)


class BackByWholeTables(ForwardByTables):
    def back(self, x_0, x_T, noise):
        return torch.stack([x_T, whole(x_0, self.betas, noise[0])])


WHOLE_TABLES = {
    "q_sample": [
        lambda x_0, t, noise, table: whole(x_0, table, noise),
        lambda x_0, t, noise, table: x_0 * table.sqrt() + noise * (1 - table).sqrt(),
        whole_by_numpy,
        lambda x_0, t, noise, table: look_up(table.sqrt(), t, x_0) * x_0 + (1 - table).sqrt().expand_as(x_0) * noise,
    ],
    "posterior": [whole_posterior],
    "x_0_from_eps": [lambda x_t, t, eps, table: (x_t - (1 - table).sqrt() * eps) / table.sqrt()],
    "Forward": [ForwardOfWholeTables, BackByWholeTables],
    "simple_loss": [lambda model, x_0, t, noise, table: (noise - model(whole(x_0, table, noise), t)) ** 2],
    "mean_from_eps": [
        lambda x_t, t, eps, betas: (x_t - betas / (1 - (1 - betas).cumprod(0)).sqrt() * eps) / (1 - betas).sqrt()
    ],
    "ddim_step": [lambda x_t, eps, t, t_prev, table, eta, noise: whole(x_t, table, eps)],
    "learned_log_var": [lambda v, t, betas, table: (v + 1) / 2 * betas.log()],
    "guided_eps": [lambda eps, x_t, t, y, classifier, scale, table: eps - scale * (1 - table).sqrt() * x_t],
    "v_target": [lambda x_0, noise, t, table: table.sqrt() * noise - (1 - table).sqrt() * x_0],
    "x_0_from_v": [lambda x_t, v, t, table: table.sqrt() * x_t - (1 - table).sqrt() * v],
}


@pytest.mark.parametrize(("name", "i"), [(name, i) for name, row in WHOLE_TABLES.items() for i in range(len(row))])
def test_a_table_that_is_not_looked_up_is_told(name, i):
    text = verdict(name, WHOLE_TABLES[name][i])
    T = 8 if name == "Forward" else 10
    assert f"your coefficients have shape ({T},), one entry for each step, and meet the images as they are." in text
    assert "an image needs one number, the entry at its t" in text and "must match" not in text


def test_sizes_that_differ_for_another_reason_are_told_as_they_are():
    text = verdict("q_sample", lambda x_0, t, noise, table: x_0 + torch.ones(7) * noise)
    assert "must match" in text and "coefficients" not in text
    text = verdict("time_table", lambda T, d_model: torch.arange(T) * torch.arange(d_model + 1))
    assert "must match" in text and "coefficients" not in text


def posterior_with(one, prev=lambda one, bar: torch.cat([one, bar[:-1]]), end=lambda mean, var: (mean, var)):
    """The posterior with another alpha_bar before the first step, a function of betas, and its table."""

    def posterior(x_0, x_t, t, betas):
        bar = torch.cumprod(1 - betas, 0)
        tables = (betas, bar, prev(one(betas), bar))
        beta, a_bar, before = (look_up(table, t, x_0) for table in tables)
        mean = before.sqrt() * beta / (1 - a_bar) * x_0 + (1 - beta).sqrt() * (1 - before) / (1 - a_bar) * x_t
        return end(mean, beta * (1 - before) / (1 - a_bar))

    return posterior


def filled(table, bar):
    table[1:] = bar[:-1]
    return table


def rolled(one, bar):
    bar = bar.roll(1)
    bar[0] = one
    return bar


def first_by_where(one, bar):
    return torch.where(torch.arange(len(bar), device=bar.device) == 0, one, bar.roll(1))


ON_THE_CPU = {
    "one": posterior_with(lambda betas: torch.ones(1)),
    "one, float64": posterior_with(lambda betas: torch.tensor([1.0], dtype=torch.float64)),
    "one of the dtype": posterior_with(lambda betas: torch.ones(1).to(betas.dtype)),
    "a table": posterior_with(lambda betas: torch.ones(len(betas), dtype=betas.dtype), filled),
    "numbers on a list": posterior_with(
        lambda betas: torch.tensor(1.0), lambda one, bar: torch.stack([one.double(), *bar[:-1]])
    ),
    "one in where": posterior_with(lambda betas: torch.ones(1), first_by_where),
    "the steps": posterior_with(
        lambda betas: torch.arange(len(betas)), lambda steps, bar: torch.where(steps == 0, 1.0, bar.roll(1))
    ),
    "moved": posterior_with(lambda betas: betas.cpu()[:1] * 0 + 1),
    "the result": posterior_with(
        torch.ones_like, filled, lambda mean, var: (mean, torch.tensor(var.tolist(), dtype=var.dtype))
    ),
}
BESIDE_BETAS = {
    "device": posterior_with(lambda betas: torch.ones(1, device=betas.device)),
    "like": posterior_with(torch.ones_like, filled),
    "new": posterior_with(lambda betas: betas.new_ones(1)),
    "moved": posterior_with(lambda betas: torch.ones(1).to(betas)),
    "moved to the device": posterior_with(lambda betas: torch.ones(1).to(device=betas.device)),
    "type_as": posterior_with(lambda betas: torch.tensor([1]).type_as(betas)),
    "a single number": posterior_with(lambda betas: torch.tensor(1.0, dtype=torch.float64), first_by_where),
    "a single number that is put in": posterior_with(lambda betas: torch.tensor(1.0), rolled),
    "an index": posterior_with(torch.ones_like, lambda one, bar: torch.cat([one[:1], bar[torch.arange(len(bar) - 1)]])),
    "a context": lambda *args: in_a_context(*args),
}


def in_a_context(x_0, x_t, t, betas):
    with torch.device(betas.device):
        return posterior_with(lambda betas: torch.ones(1))(x_0, x_t, t, betas)


@pytest.mark.parametrize("words", ON_THE_CPU)
def test_a_tensor_that_is_made_on_the_cpu_is_noticed_without_a_gpu(words):
    text = verdict("posterior", ON_THE_CPU[words])
    assert "no. Every value is right, but" in text and "lies on the CPU, even if betas lies on a GPU" in text
    assert "what you return lies" in text if words == "the result" else "(in the line: " in text
    assert text.endswith("Make new tensors where betas is: torch.ones_like(...), or device=betas.device.")


@pytest.mark.parametrize("words", BESIDE_BETAS)
def test_tensors_beside_betas_are_right(words):
    assert verdict("posterior", BESIDE_BETAS[words]).startswith("yes")


def works_on(answer, device):
    case = checks.posterior.cases[0]
    try:
        parts = answer(*(arg.to(device) for arg in case.args))
    except RuntimeError:
        return False
    return all(part.device.type == device.type for part in parts)


def test_the_marks_are_right_about_a_gpu(gpu):
    assert not any(works_on(answer, gpu) for answer in ON_THE_CPU.values())
    assert [words for words, answer in BESIDE_BETAS.items() if not works_on(answer, gpu)] == []


def buffered(**options):
    def walk(x_0, betas, noise):
        states = torch.zeros(len(betas) + 1, *x_0.shape, **options)
        states[0] = x_0
        for i, beta in enumerate(betas):
            states[i + 1] = (1 - beta).sqrt() * states[i] + beta.sqrt() * noise[i]
        return states

    return walk


def walk_in_the_images_dtype(x_0, betas, noise):
    states = x_0.new_empty(len(betas) + 1, *x_0.shape)
    states[0] = x_0
    for i, beta in enumerate(betas.to(x_0.dtype)):
        states[i + 1] = torch.sqrt(1 - beta) * states[i] + torch.sqrt(beta) * noise[i].to(x_0)
    return states


@pytest.mark.parametrize("walk", [buffered(dtype=torch.float64), walk_in_the_images_dtype])
def test_a_walk_that_keeps_float64_is_right(walk):
    assert verdict("walk", walk).startswith("yes")


def test_float64_that_becomes_float32_is_told():
    right = posterior_with(torch.ones_like, filled)
    text = verdict("walk", buffered())
    assert "no. Every value is right, but with x_0, betas and noise in float64 your result is float32: digits" in text
    assert text.endswith("give the buffer dtype=x_0.dtype: torch.zeros alone makes float32.")
    text = verdict("walk", lambda *args: walk_by_numpy(*args).float().double())
    assert "with x_0, betas and noise in float64 digits are missing: expected out[" in text
    text = verdict("posterior", lambda *args: tuple(part.float() for part in right(*args)))
    assert "with x_0, x_t and betas in float64 your mean and var are float32: digits are lost. No .float()" in text
    text = verdict("posterior", lambda *args: (right(*args)[0], right(*args)[1].float()))
    assert "in float64 your var is float32: digits are lost. No .float()" in text

    def breaks(x_0, x_t, t, betas):
        assert x_0.dtype == torch.float32, "float32 only"
        return right(x_0, x_t, t, betas)

    assert "with x_0, x_t and betas in float64 your function raised AssertionError" in verdict("posterior", breaks)


def posterior_by(divisor):
    """The posterior with another divisor, a function of 1 - alpha_bar."""

    def posterior(x_0, x_t, t, betas):
        bar = torch.cumprod(1 - betas, 0)
        tables = (betas, divisor(1 - bar), torch.cat([torch.ones_like(bar[:1]), bar[:-1]]))
        beta, below, prev = (look_up(table, t, x_0) for table in tables)
        mean = prev.sqrt() * beta / below * x_0 + (1 - beta).sqrt() * (1 - prev) / below * x_t
        return mean, beta * (1 - prev) / below

    return posterior


@pytest.mark.parametrize("divisor", [lambda rest: rest + 1e-8, lambda rest: rest.float().double()])
def test_digits_that_are_missing_in_float64_are_no_proof_of_a_cast(divisor):
    text = verdict("posterior", posterior_by(divisor))
    assert "no. Every value is right, but with x_0, x_t and betas in float64 digits are missing: expected " in text
    assert text.endswith(". Look for a .float(), a tensor of float32, or a small number that you added.")
    assert "float32 are right" not in text and "No .float()" not in text


@pytest.mark.parametrize("number", [1e-4, 1e-5])
def test_a_small_number_below_the_line_of_the_posterior(number):
    text = verdict("posterior", posterior_by(lambda rest: rest + number))
    assert (
        text
        == f"no. You added a small number: {number:g} to 1 - alpha_bar. It counts where that is small: leave it out."
    )


SMALL_NUMBERS = {
    "1 - alpha_bar under the root": lambda x, e, bar, small: (x - (1 - bar + small).sqrt() * e) / bar.sqrt(),
    "sqrt(1 - alpha_bar)": lambda x, e, bar, small: (x - ((1 - bar).sqrt() + small) * e) / bar.sqrt(),
    "alpha_bar under the root": lambda x, e, bar, small: (x - (1 - bar).sqrt() * e) / (bar + small).sqrt(),
    "sqrt(alpha_bar)": lambda x, e, bar, small: (x - (1 - bar).sqrt() * e) / (bar.sqrt() + small),
}


@pytest.mark.parametrize("number", [1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("place", SMALL_NUMBERS)
def test_a_small_number_in_the_estimate_of_x_0(place, number):
    text = verdict("x_0_from_eps", lambda x, t, eps, bar: SMALL_NUMBERS[place](x, eps, look_up(bar, t, x), number))
    assert text == f"no. You added a small number: {number:g} to {place}. It counts where that is small: leave it out."


def test_a_small_number_is_seen_through_the_rounding_of_float32():
    """Where alpha_bar is tiny x_t and eps are multiplied by large factors, whose rounding counts beside the sum."""

    def x_0_from_eps(x_t, t, eps, alphas_bar):
        bar = look_up(alphas_bar, t, x_t)
        return ((x_t - (1 - bar + 1e-5).sqrt() * eps) / bar.sqrt()).float()

    assert "no. You added a small number: 1e-05 to 1 - alpha_bar under" in verdict("x_0_from_eps", x_0_from_eps)


def test_a_small_number_under_both_roots():
    def x_0_from_eps(x_t, t, eps, alphas_bar):
        signal, spread = (look_up((table + 1e-5).sqrt(), t, x_t) for table in (alphas_bar, 1 - alphas_bar))
        return (x_t - spread * eps) / signal

    text = verdict("x_0_from_eps", x_0_from_eps)
    assert "1e-05 to alpha_bar under the root and 1e-05 to 1 - alpha_bar under the root. It counts where these" in text


def test_a_small_number_beside_a_wrong_factor_is_not_told_alone():
    """Its share of the change is not what the factor lacks."""

    def x_0_from_eps(x_t, t, eps, alphas_bar):
        bar = look_up(alphas_bar, t, x_t)
        return (x_t - 1.1 * (1 - bar + 1e-5).sqrt() * eps) / bar.sqrt()

    assert "small number" not in verdict("x_0_from_eps", x_0_from_eps)
