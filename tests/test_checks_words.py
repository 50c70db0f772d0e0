"""What is said must hold of the answer: no coincidence told as a deed, no effect that a second mistake has undone."""

import math
import re

import pytest
import torch
from diagnosed import look_up, said
from einops import einsum
from torch.nn import functional as F

from ddpm_lesson import checks
from ddpm_lesson.checks._inputs import BETAS, double, tables_of_betas
from ddpm_lesson.checks._misconceptions import ALONE
from ddpm_lesson.checks._products import as_product, told
from ddpm_lesson.checks._unfilled import Unfilled

pytestmark = pytest.mark.usefixtures("strict")
every_check = pytest.mark.parametrize("check", checks.registry.values(), ids=list(checks.registry))


@every_check
def test_beside_a_second_mistake_whole_sentences_are_said(check):
    """Without what holds alone; what to do stays."""
    for mistake in check.mistakes:
        assert len(mistake.brief) <= len(mistake.sentence) and not ALONE.search(mistake.sentence)
        assert mistake.brief.endswith(".") and mistake.brief[0] not in " .,:;" and len(mistake.brief) > 10
        assert not any(odd in mistake.brief for odd in ("  ", " ,", " :", ",.", ":.", ";.")), mistake.brief


@every_check
def test_no_markup_is_printed(check):
    """What encloses the part that is said alone is taken out; a comparison has a space on either side."""
    for mistake in check.mistakes:
        for text in (mistake.sentence, mistake.brief):
            assert not re.search(r"(?<! )[<>]|[<>](?! )", re.sub("->|<=|>=", "", text)), text


def test_a_pair_claims_no_effect_that_one_has_alone():
    """With the sine the betas of the ratio upside down are positive; with stride 1 nothing keeps its shape."""

    def cosine_betas(T, s=0.008, max_beta=0.999):
        f = torch.sin((torch.arange(T + 1).double() / T + s) / (1 + s) * math.pi / 2) ** 2
        return (1 - f[:-1] / f[1:]).clamp(max=max_beta)

    text = said("cosine_betas", cosine_betas)
    assert "upside down" in text and "You took the sine." in text and "negative" not in text
    text = said("down_same", lambda x, weight: F.conv2d(x, weight, padding="same"))
    assert "stride is 1" in text and "one row above x" in text and "shape" not in text and "large" not in text


def test_a_pair_is_told_what_to_do_about_each():
    def q_sample(x_0, t, noise, alphas_bar):
        return x_0 - look_up((1 - alphas_bar).sqrt(), t, x_0) * noise

    text = said("q_sample", q_sample)
    assert "You did not shrink x_0: multiply x_0 by sqrt(alpha_bar). " in text and "variance grows" not in text
    assert "You subtracted the noise: the noise is added." in text

    def attention(q, k, v):
        Q, K, V = (x.flatten(2).mT for x in (q, k, v))
        return ((Q @ K.mT).softmax(-1) @ V / math.sqrt(q.shape[1])).mT.flip(1).reshape(v.shape)

    assert "single pixel" not in said("attention", attention)


@pytest.mark.parametrize("pi", [3.14, 3.1416, 3.14159])
def test_a_coarse_pi_is_not_told_as_float32(pi):
    def cosine_betas(T, s=0.008, max_beta=0.999):
        f = torch.cos((torch.arange(T + 1).double() / T + s) / (1 + s) * pi / 2) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max=max_beta)

    text = said("cosine_betas", cosine_betas)
    assert "float32" not in text and "Look at the angle." in text


def test_the_way_back_from_other_targets_is_named():
    def from_v(x_t, t, v, alphas_bar):
        a = look_up(alphas_bar, t, x_t)
        return a.sqrt() * x_t - (1 - a).sqrt() * v

    def from_score(x_t, t, score, alphas_bar):
        a = look_up(alphas_bar, t, x_t)
        return (x_t + (1 - a) * score) / a.sqrt()

    assert said("x_0_from_eps", from_v).startswith("That is the way back from v")
    assert said("x_0_from_eps", from_score).startswith("That is the way back from the score")


def test_a_constant_is_no_change_of_an_argument():
    def min_snr_weights(snr, gamma):
        least = snr.clamp(max=gamma)
        return torch.ones_like(snr), least, least / (snr + 1)

    assert said(
        "min_snr_weights", min_snr_weights
    ) == "Your x_0 and v are right. Your eps is 1 everywhere, whatever " + ("the arguments.")


def test_an_in_place_change_is_told_before_what_follows_from_it():
    def min_snr_weights(snr, gamma):
        least = snr.clamp_(max=gamma)
        return (gamma / snr).clamp(max=1), least, least / (snr + 1)

    text = said("min_snr_weights", min_snr_weights)
    assert text.startswith("Your function changes snr in place") and "wrong sign" not in text


def test_a_product_of_positive_tables_is_nowhere_0():
    table = torch.arange(1, 9).double()
    values = table.clone()
    assert as_product(values**2, {"a": table}, 1) == "a^2"
    values[:3] = 0
    assert as_product(values**2, {"a": table}, 1) == ""


def test_tables_whose_product_is_1_are_no_factor():
    """alpha * alpha_bar_prev is alpha_bar; at t = 0, where 1 - alpha_bar_prev is 0, no table is compared."""
    tables = tables_of_betas(double(BETAS))
    steps = torch.arange(10).double()
    assert as_product(1 + 1e-6 * steps, tables, 3) == as_product(1 + 4e-6 * steps, tables, 3) == ""
    assert as_product(2 * tables["beta"], tables, 3) == "2 * beta"


def test_a_factor_that_is_right_at_most_steps_is_not_told_as_the_mistake():
    tables = tables_of_betas(double(BETAS))
    right = tables["1 - alpha_bar"].sqrt()
    mine = right * (1 + 2e-6 / tables["1 - alpha_bar"])
    mine[0] *= 1.001
    assert "is sqrt(1 - alpha_bar)." not in told(mine, right, tables, steps=False)
    assert told(right, right**2 * tables["beta"], tables, steps=False).endswith(": yours is sqrt(1 - alpha_bar).")


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (2 * math.pi, "You multiplied t by 2 pi."),
        (math.pi / 180, "Your angles are taken for degrees."),
        (0.3, "look at what t is multiplied by"),
    ],
)
def test_angles_are_sent_to_base_and_exponent_only_where_these_are_wrong(factor, words):
    def time_table(T, d_model):
        angles = factor * torch.arange(T).double()[:, None] * 10000 ** (-torch.arange(0, d_model, 2).double() / d_model)
        return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)

    text = said("time_table", time_table)
    assert words in text and "exponent" not in text and "base" not in text


def test_wrong_exponents_are_told():
    def time_table(T, d_model):
        angles = torch.arange(T).double()[:, None] * 10000 ** (-1.3 * torch.arange(0, d_model, 2).double() / d_model)
        return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)

    assert "yours have the exponents 0, -0.325, -0.65, -0.975, and 0, -0.25" in said("time_table", time_table)


def test_two_entries_of_the_middle_on_the_stack():
    def skip_channels(ch, ch_mult, num_res_blocks):
        stack = [ch]
        for level, mult in enumerate(ch_mult):
            stack += [ch * mult] * (num_res_blocks + (level < len(ch_mult) - 1))
        stack, now, inputs = [*stack, *[ch * ch_mult[-1]] * 2], ch * ch_mult[-1], []
        for mult in reversed(ch_mult):
            for _ in range(num_res_blocks + 1):
                inputs.append(now + stack.pop())
                now = ch * mult
        return inputs

    assert "two entries too many at its end" in said("skip_channels", skip_channels)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (lambda t, T: -t, "v is read from its end, at -t"),
        (lambda t, T: (t + 1).clamp(max=T - 1), "v is read one entry too far, at t + 1, and its last entry twice"),
        (lambda t, T: (t - 1).clamp(min=0), "one less, but not below 0"),
        (lambda t, T: T - 1 - t, "v is in reverse order"),
    ],
)
def test_a_shifted_look_up(steps, words):
    text = said("extract", lambda v, t, x_shape: v[steps(t, len(v))].view(-1, *[1] * (len(x_shape) - 1)))
    assert words in text or "t - 1, and its first entry twice" in text and "one less" in words


@pytest.mark.parametrize("least", [0.05, 0.1])
def test_a_divisor_that_is_kept_from_0(least):
    def x_0_from_eps(x_t, t, eps, alphas_bar):
        a = look_up(alphas_bar, t, x_t)
        return (x_t - (1 - a).sqrt() * eps) / a.sqrt().clamp(min=least)

    assert said("x_0_from_eps", x_0_from_eps).startswith(f"You divide by {least} where sqrt(alpha_bar) is smaller")


def test_dynamic_thresholding():
    def x_0_from_eps(x_t, t, eps, alphas_bar):
        a = look_up(alphas_bar, t, x_t)
        x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
        s = x_0.flatten(1).abs().quantile(0.9, dim=1).clamp(min=1).view(a.shape)
        return torch.clamp(x_0, -s, s) / s

    assert "as dynamic thresholding does" in said("x_0_from_eps", x_0_from_eps)


def test_the_first_divisor_of_a_short_chain():
    def respaced_betas(alphas_bar, timesteps):
        kept = alphas_bar[timesteps]
        return 1 - kept / F.pad(kept[:-1], (1, 0), value=0.25)

    assert said("respaced_betas", respaced_betas).startswith("Your first beta divides by 0.25. ")


def test_a_scale_that_is_written_into_attention():
    def attention(q, k, v):
        Q, K, V = (x.flatten(2).mT for x in (q, k, v))
        return ((Q @ K.mT / 11).softmax(-1) @ V).mT.reshape(v.shape)

    assert said("attention", attention) == "You divide q . k by 11, whatever C is. Divide by sqrt(C)."


def test_two_dtypes_in_one_product_are_told_what_to_do():
    def mean_from_eps(x_t, t, eps, betas):
        alphas = 1 - betas
        table = torch.stack([alphas.rsqrt(), -betas / (alphas * (1 - alphas.cumprod(0))).sqrt()])
        return einsum(table[:, t], torch.stack([x_t, eps]), "k b, k b ... -> b ...")

    text = said("mean_from_eps", mean_from_eps)
    assert "raised RuntimeError" in text and text.endswith(
        "cast the coefficient to the image's dtype first, " + ("coefficient.to(image.dtype).")
    )


def test_a_beta_of_1_is_beyond_the_posterior():
    """By its two moments, of which one is 0 / 0 there."""

    def posterior(x_0, x_t, t, betas):
        a = 1 - betas
        bar = a.cumprod(0)
        prev = F.pad(bar[:-1], (1, 0), value=1.0)
        at_t = (1 - prev) * a.sqrt() / (1 - bar)
        at_0 = (prev.sqrt() - at_t * bar.sqrt()) * (bar / bar)  # the mean of x_{t-1} given x_0, solved for it
        var = betas * (1 - prev) / (1 - bar)
        return look_up(at_0, t, x_0) * x_0 + look_up(at_t, t, x_0) * x_t, look_up(var, t, x_0)

    verdict, detail = checks.posterior.diagnose(posterior)
    assert verdict == "yes" and ". Beyond the exercise, for beta_T = 1: " in detail and "nan" in detail


def test_unfilled_layers_have_shapes_and_tables_have_numbers():
    with Unfilled():
        layer, table = torch.nn.Conv2d(3, 5, 3), torch.arange(4) * 0.5
    assert layer.weight.is_meta and layer.weight.shape == (5, 3, 3, 3) and layer.bias.is_meta
    assert table.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert not torch.nn.Conv2d(3, 5, 3).weight.is_meta


@pytest.mark.parametrize(
    ("pad", "words"),  # left, right, above, below
    [
        ((0, 1, 1, 1), "Your windows begin one row above x: you padded above, alone or below as well."),
        ((0, 1, 1, 0), "Your windows begin one row above x: you padded above, alone or below as well."),
        ((1, 1, 0, 1), "Your windows begin one column to the left of x: you padded there, alone or to the right as"),
        ((1, 0, 0, 1), "Your windows begin one column to the left of x: you padded there, alone or to the right as"),
        ((1, 1, 1, 0), "Your windows begin one row above x and one column to its left"),
        ((0, 0, 1, 1), "You padded above x, alone or below as well, and no column."),
        ((1, 0, 0, 0), "You padded to the left of x, alone or to the right as well, and no row."),
    ],
)
def test_padding_on_one_side_too_many_is_told_whether_or_not_the_other_is_there(pad, words):
    """With even sides a row above hides the one below: no output tells whether it was padded."""
    assert said("down_same", lambda x, weight: F.conv2d(F.pad(x, pad), weight, stride=2)).startswith(words)
