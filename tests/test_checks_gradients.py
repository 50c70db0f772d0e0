"""The checks of a network's parts: an answer with the right values must let the right gradients through."""

import pytest
import torch
from einops import rearrange, reduce
from test_checks_03 import solution
from torch.nn import functional as F

from ddpm_lesson import checks
from ddpm_lesson.checks._misconceptions import Misconception, implemented


def norm(mean=lambda m: m, weight=lambda w: w, bias=lambda b: b, x=lambda x: x):
    def group_norm(x_, num_groups, w, b):
        h = rearrange(x(x_), "b (g c) h w -> b g (c h w)", g=num_groups)
        h = h - mean(h.mean(2, keepdim=True))
        h = (h / (reduce(h**2, "b g n -> b g 1", "mean") + 1e-5).sqrt()).reshape(x_.shape)
        return h * weight(w)[:, None, None] + bias(b)[:, None, None]

    return group_norm


def time(h=lambda h: h, temb=lambda t: t, weight=lambda w: w, bias=lambda b: b):
    return lambda h_, t, w, b: h(h_) + F.linear(F.silu(temb(t)), weight(w), bias(b))[:, :, None, None]


def attend(q=lambda q: q, k=lambda k: k, v=lambda v: v):
    def attention(q_, k_, v_):
        Q, K, V = (rearrange(x, "b c h w -> b (h w) c") for x in (q(q_), k(k_), v(v_)))
        return rearrange(F.scaled_dot_product_attention(Q, K, V), "b (h w) c -> b c h w", h=q_.shape[2])

    return attention


def halve(x=lambda x: x, weight=lambda w: w):
    return lambda x_, w: F.conv2d(F.pad(x(x_), (0, 1, 0, 1)), weight(w), stride=2)


PARTS = {"group_norm": norm, "add_time": time, "attention": attend, "down_same": halve}
CUTS = [(name, argument) for name in PARTS for argument in checks.registry[name].gradients]
WAYS = {
    "detach": torch.detach,
    "numpy": lambda x: torch.from_numpy(x.numpy().copy()),  # raises where a gradient is asked for
    "tolist": lambda x: torch.tensor(x.tolist()),
}


@pytest.mark.parametrize("name", PARTS)
def test_gradients_of_every_tensor_are_asked_for(name):
    check = checks.registry[name]
    tensors = [p for p, arg in zip(check.parameters, check.cases[0].args, strict=True) if isinstance(arg, torch.Tensor)]
    assert list(check.gradients) == tensors
    assert check.diagnose(PARTS[name]())[0] == "yes"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "argument"), CUTS)
def test_an_argument_without_gradient_is_named(name, argument, way):
    verdict, detail = checks.registry[name].diagnose(PARTS[name](**{argument: WAYS[way]}))
    assert verdict == "no" and "Every value is right, but no gradient reaches " in detail
    assert argument in detail if way == "numpy" else f" reaches {argument}: detach()" in detail


def test_a_wrong_gradient_is_named():
    verdict, detail = checks.group_norm.diagnose(norm(mean=torch.detach))
    assert verdict == "no"
    assert detail.startswith(". Every value is right, but the gradient with respect to x is not: detach()")


def test_no_grad_cuts_all():
    detail = checks.attention.diagnose(torch.no_grad()(attend()))[1]
    assert detail.startswith(". Every value is right, but no gradient reaches q, k and v: ")


def test_a_notebook_without_gradients_is_no_mistake():
    with torch.no_grad():
        assert checks.down_same.diagnose(halve())[0] == "yes"
        assert not torch.is_grad_enabled()


def test_float64_inside_is_no_mistake():
    """Gradients come back through a cast."""
    answer = norm(x=torch.Tensor.double, weight=torch.Tensor.double, bias=torch.Tensor.double)
    assert checks.group_norm.diagnose(answer)[0] == "yes"


def test_a_wrong_value_comes_first():
    detail = checks.down_same.diagnose(halve(weight=lambda w: w.detach().flip(2, 3)))[1]
    assert "gradient" not in detail and "flipped" in detail


# Modules: inputs and parameters.

MODULES = {"ResBlock": ("x", "temb"), "AttnBlock": ("x",), "UNet": ("x",)}


@pytest.mark.parametrize("name", MODULES)
def test_gradients_of_a_module_are_asked_for(name):
    """Of its inputs that are no steps and of every trained parameter."""
    check = checks.registry[name]
    assert check.gradients == MODULES[name]
    _, leaves = check.trained(check, check.form, check.cases[0].args)
    trained = [
        key for key, parameter in check.form(*check.cases[0].args[0]).named_parameters() if parameter.requires_grad
    ]
    assert list(leaves) == [*MODULES[name], *trained] and len(trained) >= 10


@pytest.mark.parametrize("name", MODULES)
def test_every_cut_gets_its_sentence(name):
    check = checks.registry[name]
    assert len(check.cuts) >= 3
    for sentence, edits in check.cuts.items():
        answer = implemented(check.form, Misconception(sentence, **edits)).function
        assert check.diagnose(answer) == ("no", f". Every value is right, but gradients are not. {sentence}")


class Shortcut(solution.ResBlock):
    def forward(self, x, temb):
        h = self.block2(self.block1(x) + self.temb_proj(temb)[:, :, None, None])
        return self.attn(h + self.shortcut(x.detach()))


class Time(solution.ResBlock):
    def forward(self, x, temb):
        return super().forward(x, temb.detach())


class Pixels(solution.AttnBlock):
    def forward(self, x):
        return super().forward(x.detach()) + (x - x.detach())


class Numpy(solution.AttnBlock):
    def forward(self, x):
        with torch.no_grad():
            return torch.from_numpy(super().forward(x).numpy())


class Skips(solution.UNet):
    cut = staticmethod(lambda skip: skip.detach())

    def forward(self, x, t):
        temb, h = self.time_embedding(t), self.head(x)
        hs = [h]
        for layer in self.downblocks:
            hs.append(h := layer(h, temb))
        for layer in self.middleblocks:
            h = layer(h, temb)
        for layer in self.upblocks:
            h = layer(torch.cat([h, self.cut(hs.pop())], 1) if isinstance(layer, solution.ResBlock) else h, temb)
        return self.tail(h)


class Whole(Skips):
    cut = staticmethod(lambda skip: skip)


class Unlearning(Whole):
    @torch.no_grad()
    def forward(self, x, t):
        return super().forward(x, t)


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("ResBlock", Shortcut, "gradients are not. You detached x before the shortcut"),
        ("ResBlock", Time, "gradients are not. You detached temb: "),
        ("AttnBlock", Pixels, "gradients are not. You detached x before the norm: "),
        ("AttnBlock", Numpy, "no gradient reaches x and the parameters: detach()"),
        ("UNet", Skips, "gradients are not. You detached the skips: "),
        ("UNet", Unlearning, "no gradient reaches x and the parameters: detach()"),
    ],
)
def test_a_module_with_right_values_whose_gradients_do_not_flow_is_told_where(name, answer, words):
    verdict, detail = checks.registry[name].diagnose(answer)
    assert verdict == "no" and detail.startswith(". Every value is right, but ") and words in detail


def test_the_part_that_gets_no_gradient_is_named():
    class Loose(solution.ResBlock):
        def forward(self, x, temb):
            time = self.temb_proj[1].weight.detach()
            h = self.block1(x) + F.linear(F.silu(temb), time, self.temb_proj[1].bias)[:, :, None, None]
            return self.attn(self.block2(h) + self.shortcut(x))

    class Half(solution.ResBlock):
        def forward(self, x, temb):
            h = self.block1(x).detach() + self.temb_proj(temb)[:, :, None, None]
            return self.attn(self.block2(h) + self.shortcut(x))

    for answer, part in [(Loose, "temb_proj.1.weight"), (Half, "the parameters of block1")]:
        text = checks.ResBlock.diagnose(answer)[1]
        assert text.startswith(f". Every value is right, but no gradient reaches {part}: detach()")


def test_a_network_in_other_words_passes():
    assert checks.UNet.diagnose(Whole)[0] == "yes"
    with torch.no_grad():
        assert checks.ResBlock.diagnose(solution.ResBlock)[0] == "yes"
