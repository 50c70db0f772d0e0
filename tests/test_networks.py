"""Blocks and the small network for points: values, shapes, errors, gradients, and that it learns."""

import math

import pytest
import torch

from ddpm_lesson import GaussianDiffusion, GaussianDiffusionTrainer, oracle
from ddpm_lesson.data import eight_gaussians, eight_gaussians_mixture
from ddpm_lesson.networks.blocks import Swish, TimeEmbedding
from ddpm_lesson.networks.classifier import Classifier
from ddpm_lesson.networks.mlp import MLP
from ddpm_lesson.networks.unet import UNet
from ddpm_lesson.predictions import epsilon
from ddpm_lesson.schedules import linear


def test_swish_is_x_times_its_sigmoid():
    x = torch.linspace(-9, 9, 19, dtype=torch.float64)
    torch.testing.assert_close(Swish()(x), x / (1 + torch.exp(-x)))


# The time embedding.


@pytest.mark.parametrize("d_model", [2, 6, 128])
def test_time_table_alternates_sine_and_cosine(d_model):
    # Entry 2k of step t is sin(t / 10000^(2k / d_model)), entry 2k + 1 the cosine.
    rows = [
        [f(t / 10000 ** (2 * k / d_model)) for k in range(d_model // 2) for f in (math.sin, math.cos)]
        for t in range(1000)
    ]
    table = TimeEmbedding(1000, d_model, 3).timembedding[0].weight
    torch.testing.assert_close(table, torch.tensor(rows, dtype=torch.float64).float(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("d_model", [2, 6, 128])
def test_inner_products_of_the_time_table_depend_on_the_distance(d_model):
    # Row t times row s is the sum over k of cos(omega_k (t - s)), omega_k = 10000^(-2k / d_model).
    table = TimeEmbedding(300, d_model, 3).timembedding[0].weight.double()
    products = table @ table.T
    for distance in (0, 1, 2, 17, 299):
        expected = sum(math.cos(distance * 10000 ** (-2 * k / d_model)) for k in range(d_model // 2))
        diagonal = products.diagonal(distance)
        # each of d_model products of two float32 numbers is off by at most 1.2e-7
        assert (diagonal - expected).abs().max() < 1.2e-7 * d_model, distance


@pytest.mark.parametrize("d_model", [4, 6, 128])
def test_official_time_table_has_sines_first_and_ends_at_a_lower_frequency(d_model):
    # ERRATA 18: sin(t / 10000^(i / (half - 1))) for i in 0..half-1, then the cosines.
    half = d_model // 2
    rows = [[f(t / 10000 ** (i / (half - 1))) for f in (math.sin, math.cos) for i in range(half)] for t in range(1000)]
    table = TimeEmbedding(1000, d_model, 3, official=True).timembedding[0].weight
    torch.testing.assert_close(table, torch.tensor(rows, dtype=torch.float64).float(), rtol=0, atol=1e-7)


def test_the_two_time_tables_differ_by_more_than_their_order():
    # ERRATA 18: a permutation of the columns makes the first frequency agree, 1 in both, and no other.
    post, official = (TimeEmbedding(1000, 128, 3, official=o).timembedding[0].weight for o in (False, True))
    reordered = torch.cat([post[:, 0::2], post[:, 1::2]], 1)  # all sines, all cosines
    apart = (reordered - official).abs().amax(0)
    assert apart[[0, 64]].max() < 1e-6 and apart[1:64].min() > 0.01
    assert post[1, 126].item() == pytest.approx(1.155e-4, rel=1e-3)  # the lowest frequency, 10000^(-63/64)
    assert official[1, 63].item() == pytest.approx(1e-4, rel=1e-6)


def test_time_embedding_puts_two_layers_on_the_table():
    embedding, t = TimeEmbedding(20, 4, 3), torch.tensor([0, 19, 7, 7])
    table, first, _, second = embedding.timembedding
    hidden = table.weight[t] @ first.weight.T + first.bias
    expected = (hidden * torch.sigmoid(hidden)) @ second.weight.T + second.bias
    torch.testing.assert_close(embedding(t), expected)
    assert torch.equal(embedding(t.int()), embedding(t))


def test_time_table_is_not_trained_and_the_layers_start_as_the_posts():
    embedding = TimeEmbedding(20, 64, 32)
    assert [name for name, p in embedding.named_parameters() if not p.requires_grad] == ["timembedding.0.weight"]
    for layer, bound in ((embedding.timembedding[1], (6 / 96) ** 0.5), (embedding.timembedding[3], (6 / 64) ** 0.5)):
        assert layer.bias.count_nonzero() == 0
        assert 0.95 * bound < layer.weight.abs().max() <= bound  # Xavier: uniform up to sqrt(6 / (fan in + fan out))


@pytest.mark.parametrize("d_model", [7, 1, 0, -2])
def test_odd_width_is_refused(d_model):
    with pytest.raises(ValueError, match=f"d_model must be even and at least 2, got {d_model}"):
        TimeEmbedding(10, d_model, 4)


def test_official_table_needs_two_frequencies():
    with pytest.raises(ValueError, match="d_model must be even and at least 4, got 2"):
        TimeEmbedding(10, 2, 4, official=True)


@pytest.mark.parametrize("T", [0, -1])
def test_no_steps_are_refused(T):
    with pytest.raises(ValueError, match=f"T must be at least 1, got {T}"):
        TimeEmbedding(T, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool])
def test_t_that_is_not_an_index_is_refused(dtype):
    with pytest.raises(TypeError, match=f"t must hold integer indices .int64., got {dtype}"):
        TimeEmbedding(10, 4, 4)(torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("t", [10, -1])
def test_t_out_of_range_is_refused(t):
    with pytest.raises(ValueError, match=f"t must lie in 0..9, got values from {min(0, t)} to {max(0, t)}"):
        TimeEmbedding(10, 4, 4)(torch.tensor([0, t]))


# The network for points.


@pytest.mark.parametrize("batch, dim, layers", [(0, 2, 3), (1, 2, 3), (5, 1, 1), (5, 7, 4)])
def test_mlp_keeps_the_shape(batch, dim, layers, device):
    model = MLP(20, dim=dim, hidden=16, layers=layers).to(device)
    t = torch.arange(batch, device=device)
    assert model(torch.randn(batch, dim, device=device), t).shape == (batch, dim)


def test_mlp_depends_on_every_input():
    model, t = MLP(20, hidden=16), torch.tensor([0, 5, 19])
    x = torch.randn(1, 2).expand(3, 2)
    out = model(x, t)
    assert torch.cdist(out, out).fill_diagonal_(1).min() > 1e-4  # one point at three steps: three answers
    assert (model(x + 1, t) - out).abs().min() > 1e-4


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1), (4, 2, 1), (2,)])
def test_mlp_refuses_points_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"x must be \(B, 2\), got \(" + ", ".join(map(str, shape))):
        MLP(20, hidden=16)(torch.randn(shape), torch.zeros(shape[0], dtype=torch.int64))


def test_mlp_refuses_an_odd_width():
    with pytest.raises(ValueError, match="must be even and at least 2, got 15"):
        MLP(20, hidden=15)


def test_gradients_reach_every_trained_parameter():
    model = MLP(20, hidden=16)
    model(torch.randn(8, 2), torch.arange(8)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert model.time_embedding.timembedding[1].weight.grad.abs().sum() > 0


def test_seed_decides_the_weights_and_the_state_dict_carries_them():
    def built(seed):
        torch.manual_seed(seed)
        return MLP(20, hidden=16)

    x, t = torch.randn(4, 2), torch.arange(4)
    one, two, other = built(1), built(1), built(2)
    assert torch.equal(one(x, t), two(x, t)) and not torch.equal(one(x, t), other(x, t))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x, t), other(x, t))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_mlp_runs_in_other_dtypes(dtype):
    model = MLP(20, hidden=16).to(dtype)
    assert model(torch.randn(4, 2).to(dtype), torch.arange(4)).dtype == dtype


def test_mlp_compiles_into_one_graph():
    model, x, t = MLP(20, hidden=16), torch.randn(4, 2), torch.arange(4)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x, t), model(x, t))


def test_mlp_learns_eight_gaussians(device):
    # A network that says zero has loss E eps^2 = 1; the exact denoiser has 0.200 on these data. 200 steps of training
    # reached 0.232 to 0.255 over 20 seeds.
    n = 20_000
    trainer = GaussianDiffusionTrainer(MLP(1000, hidden=64), 1e-4, 0.02, 1000).to(device)
    optimizer = torch.optim.Adam(trainer.parameters(), lr=2e-3)
    for _ in range(200):
        optimizer.zero_grad()
        trainer(eight_gaussians(256).to(device)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        loss = trainer(eight_gaussians(n).to(device)).mean().item()
    truth = oracle.Mixture(GaussianDiffusion(linear(1000)), *eight_gaussians_mixture())
    best = GaussianDiffusionTrainer(truth.as_model(epsilon), 1e-4, 0.02, 1000)(eight_gaussians(n)).mean(1)
    assert best.mean() - 6 * best.std() / n**0.5 < loss < 0.35


def test_mlp_wants_a_step_for_each_point():
    with pytest.raises(ValueError, match=r"t must be \(B,\) with the batch size of x, got \(1,\) for \(3, 2\)"):
        MLP(10)(torch.zeros(3, 2), torch.zeros(1, dtype=torch.int64))


def test_a_gain_multiplies_the_first_layers_start():
    networks = []
    for gain in (1.0, 3.0):
        torch.manual_seed(0)
        networks.append(MLP(10, 2, 16, 1, latent=2, gain=gain))
    plain, steep = (network.state_dict() for network in networks)
    assert plain.keys() == steep.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(steep[name], 3 * weight if name == "head.weight" else weight)


# Other types by default.


@pytest.mark.parametrize("official", [False, True])
def test_networks_work_in_double_precision_by_default(double_by_default, official):
    x, t = torch.randn(2, 1, 4, 4), torch.tensor([0, 9])
    unet = UNet(10, 8, [1, 2], [1], 1, 0.0, in_ch=1, num_groups=4, official_embedding=official)
    classifier = Classifier(3, 8, [1, 2], in_ch=1, T=10, num_groups=4)
    for output in (unet(x, t), classifier(x, t), MLP(10, dim=16)(x.flatten(1), t)):
        assert output.dtype == torch.float64 and output.isfinite().all()
    assert unet.time_embedding.timembedding[0].weight.dtype == torch.float64


def test_a_table_in_double_precision_has_the_digits_of_it(double_by_default):
    table = TimeEmbedding(1000, 8, 3).timembedding[0].weight
    assert abs(table[999, 2].item() - math.sin(999 / 10)) < 1e-12
