"""The classifier: against a straight-line form, shapes, errors, and that it learns."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddpm_lesson.data import digits
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.networks.unet import SingleChannelGroupWarning
from ddpm_lesson.process import GaussianDiffusion
from ddpm_lesson.schedules import linear
from ddpm_lesson.training import minibatches


def clean(**options):
    return Classifier(10, 16, (1, 2), **{"in_ch": 1} | options)


def wake(model):
    """Weights away from their start, where the residual branches are almost zero."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def straight_line(w, x, t=None, groups=8):
    """Two levels of one residual block, written out from the state dict w."""

    def conv(name, h, **how):
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], **how)

    def linear(name, h):
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, h):
        parts = h.reshape(len(h), groups, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
        return parts.reshape(h.shape) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def swish(h):
        return h * torch.sigmoid(h)

    def res_block(name, h, temb):
        out = conv(f"{name}.block1.2", swish(norm(f"{name}.block1.0", h)), padding=1)
        out = out + linear(f"{name}.temb_proj.1", swish(temb))[:, :, None, None]
        out = conv(f"{name}.block2.3", swish(norm(f"{name}.block2.0", out)), padding=1)
        shortcut = conv(f"{name}.shortcut", h) if f"{name}.shortcut.weight" in w else h
        return out + shortcut

    if t is None:
        temb = torch.zeros(len(x), 1, dtype=x.dtype)
    else:
        temb = w["time_embedding.timembedding.0.weight"][t]
        temb = linear("time_embedding.timembedding.3", swish(linear("time_embedding.timembedding.1", temb)))
    h = res_block("blocks.0", conv("head", x, padding=1), temb)
    h = res_block("blocks.2", conv("blocks.1.main", h, stride=2, padding=1), temb)
    features = swish(norm("pool.0", h)).mean((2, 3))
    return features, linear("tail", features)


@pytest.mark.parametrize("T", [None, 5])
def test_it_equals_the_straight_line_form(T):
    model = wake(clean(T=T).double())
    x, t = torch.randn(4, 1, 8, 12).double(), None if T is None else torch.tensor([0, 4, 2, 2])
    features, logits = straight_line(model.state_dict(), x, t)
    torch.testing.assert_close(model.features(x, t), features, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(x, t), logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "in_ch, side, ch_mult", [(1, 8, (1, 2)), (1, 28, (1, 2, 2)), (3, 32, (1, 2, 2, 4)), (2, 5, (1,))]
)
def test_shapes(in_ch, side, ch_mult, device):
    model = Classifier(7, 16, ch_mult, in_ch=in_ch).to(device)
    assert model.divisor == 2 ** (len(ch_mult) - 1)
    for batch in (0, 1, 3):
        x = torch.randn(batch, in_ch, side, side, device=device)
        assert model.features(x).shape == (batch, 16 * ch_mult[-1])
        assert model(x).shape == (batch, 7)


def test_options_rebuild_it():
    model = Classifier(4, 16, (1, 2), in_ch=2, T=9, num_groups=4, dropout=0.1)
    again = Classifier(**model.options)
    again.load_state_dict(model.state_dict())
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([0, 8])
    assert again.options == model.options
    assert list(model.options) == ["num_classes", "ch", "ch_mult", "in_ch", "T", "num_groups", "dropout"]  # in order
    assert torch.equal(again.eval()(x, t), model.eval()(x, t))


def test_the_answer_depends_on_the_step():
    model = wake(clean(T=100))
    x = torch.randn(1, 1, 8, 8)
    first, last = (model(x, torch.tensor([t])) for t in (0, 99))
    assert (first - last).abs().max() > 0.05 * first.abs().max()


def test_images_do_not_mix():
    model = wake(clean())
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-4, atol=1e-5)


def test_guidance_gets_a_gradient(device):
    # Of each image's own log p(y | x_t): the gradient of the sum is that of every image alone.
    model = wake(clean(T=20)).double().to(device)
    x_t = torch.randn(3, 1, 8, 8).double().to(device).requires_grad_()
    t, y = torch.tensor([0, 7, 19], device=device), torch.tensor([1, 2, 3], device=device)
    (gradient,) = torch.autograd.grad(model(x_t, t).log_softmax(1)[range(3), y].sum(), x_t)
    one = x_t[1:2].detach().requires_grad_()
    (alone,) = torch.autograd.grad(model(one, t[1:2]).log_softmax(1)[0, 2], one)
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(gradient[1:2], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("T", [None, 20])
def test_every_parameter_is_reached(T):
    model, t = clean(T=T), None if T is None else torch.tensor([3, 17])
    model(torch.randn(2, 1, 8, 8), t).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    # Only the projection of the time that a clean image does not have.
    assert idle == ([] if T else ["blocks.0.temb_proj.1.weight", "blocks.2.temb_proj.1.weight"])


@pytest.mark.parametrize("T", [None, 20])
def test_it_compiles_as_one_graph(T):
    model, t = clean(T=T), None if T is None else torch.tensor([3, 17])
    x = torch.randn(2, 1, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, t), model(x, t))


def fitted(model, seed, process=None):
    """The model after 100 steps of Adam on the digits, noised by process."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _, (x, y) in zip(
        range(100), minibatches(*digits("train")[:], batch_size=100, generator=generator), strict=False
    ):
        t = None if process is None else torch.randint(process.T, (len(x),), generator=generator)
        x = x if process is None else process.q_sample(x, t, torch.randn(x.shape, generator=generator))
        optimizer.zero_grad()
        F.cross_entropy(model(x, t), y).backward()
        optimizer.step()
    return model.eval()


def test_it_learns_the_digits():
    # On the test split, seeds 0 to 4: 0.92 to 0.96.
    x, y = digits("test")[:]
    assert (fitted(clean(), 0)(x).argmax(1) == y).float().mean() > 0.85


def test_it_learns_noisy_digits():
    # On the test split, seeds 0 to 4: 0.79 to 0.86 at the first step, 0.10 to 0.16 at the last (alphas_bar = 0.009).
    process = GaussianDiffusion(linear(20, 0.001, 0.4))
    model = fitted(clean(T=20), 0, process)
    x, y = digits("test")[:]
    right = []
    for step in (0, 19):
        t = torch.full(y.shape, step)
        right.append((model(process.q_sample(x, t, torch.randn(x.shape)), t).argmax(1) == y).float().mean())
    assert right[0] > 0.65 and right[1] < 0.3


def test_dropout_is_off_in_eval_mode():
    model, x = wake(clean(dropout=0.5)), torch.randn(2, 1, 8, 8)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


# What it refuses.


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 3, 8, 8), r"x must be \(B, 1, H, W\), got \(2, 3, 8, 8\)"),
        ((1, 8, 8), r"x must be \(B, 1, H, W\), got \(1, 8, 8\)"),
        ((2, 1, 8, 7), r"height and width must be divisible by 2 for 2 levels, got \(2, 1, 8, 7\)"),
        ((2, 1, 9, 8), r"height and width must be divisible by 2 for 2 levels, got \(2, 1, 9, 8\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        clean()(torch.zeros(shape))


def test_a_step_too_many_or_too_few_is_refused():
    x, t = torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"a classifier of clean images: call model\(x\); got a t"):
        clean()(x, t)
    with pytest.raises(ValueError, match=r"a classifier of noisy images with T = 5: call model\(x_t, t\); got no t"):
        clean(T=5).features(x)
    with pytest.raises(ValueError, match=r"t must be \(B,\) with the batch size of x, got \(1,\) for \(2, 1, 8, 8\)"):
        clean(T=5)(x, t[:1])
    with pytest.raises(ValueError, match="t must lie in 0..4, got values from 5 to 5"):
        clean(T=5)(x, t + 5)
    with pytest.raises(TypeError, match="t must hold integer indices"):
        clean(T=5)(x, t.float())


@pytest.mark.parametrize(
    "bad", [{"num_classes": 0}, {"ch": 0}, {"ch_mult": ()}, {"ch_mult": (1, 0)}, {"T": 0}, {"in_ch": 0}]
)
def test_sizes_below_one_are_refused(bad):
    with pytest.raises(ValueError, match="sizes and at least one ch_mult must be positive, got {'num_classes'"):
        Classifier(**{"num_classes": 10, "ch": 16, "ch_mult": (1, 2), "in_ch": 1} | bad)


def test_groups_that_do_not_come_out_even_are_refused():
    with pytest.raises(ValueError, match="channels must be divisible by num_groups = 8, got 12 channels"):
        Classifier(10, 12, (1,))


def test_a_group_of_one_channel_is_warned_of_where_there_is_a_time():
    # ERRATA 35: the norm would take the added time away again.
    with pytest.warns(SingleChannelGroupWarning, match="num_groups = 8 makes every group of 8 channels") as caught:
        Classifier(10, 8, (1, 2), T=5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Classifier(10, 8, (1, 2))
