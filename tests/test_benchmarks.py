"""The benchmarks' own arithmetic: turns, ratios, the page of tables, and that the peers do what is compared."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import mse_loss

FOLDER = Path(__file__).parent.parent / "benchmarks"
TINY = {"ch": 8, "ch_mult": [1, 2], "in_ch": 1, "num_groups": 4}


@pytest.fixture
def benchmark(monkeypatch):
    """A script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("_measured", "peers", "unet", "samplers", "imports", "attempts", "shares"):
        sys.modules.pop(name, None)


def test_functions_take_turns_and_the_first_one_changes(benchmark):
    calls = []
    found = benchmark("_measured").take_turns([lambda: calls.append("a"), lambda: calls.append("b")], 3, warm_up=1)
    assert "".join(calls) == "abbaabba"
    assert [each.shape for each in found] == [(3, 2)] * 2 and all((each >= 0).all() for each in found)


def test_a_ratio_is_taken_within_a_round(benchmark):
    # The machine was ten times as slow in the last round: the ratio of the sums would be 1.2.
    ours = torch.tensor([[1.0, 1.0], [1.0, 1.0], [10.0, 1.0]])
    theirs = torch.tensor([[2.0, 3.0], [2.0, 3.0], [10.4, 3.0]])
    assert benchmark("_measured").ratios(ours.double(), theirs.double()) == "**2.00** (1.52..2.00) | 3.00"


def test_a_table_is_put_between_its_markers(benchmark, tmp_path):
    page = tmp_path / "README.md"
    shutil.copy(FOLDER / "README.md", page)
    write = benchmark("_measured").write
    for text in ("| old |\n", "| new |\n"):
        write("samplers.py", text, page)
    before, after = ((FOLDER / "README.md").read_text("utf-8"), page.read_text("utf-8"))
    assert "<!-- table of samplers.py -->\n| new |\n<!-- end of the table of samplers.py -->" in after
    assert before.split("<!-- table of samplers")[0] == after.split("<!-- table of samplers")[0]
    assert before.split("end of the table of samplers")[1] == after.split("end of the table of samplers")[1]
    with pytest.raises(ValueError, match="must hold <!-- table of nothing.py -->"):
        write("nothing.py", "| new |\n", page)


def test_the_twins_are_one_function_and_make_the_same_step(benchmark):
    peers, unet = benchmark("peers"), benchmark("unet")
    x_t, t, noise = torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.randn(2, 1, 8, 8)
    losses = []
    for net in peers.twins(TINY, 8, dropout=0.0):
        unet.training_step(net, unet.output, x_t, t, noise)()
        losses.append(mse_loss(unet.output(net, x_t, t), noise))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("project", ["our", "diffusers", "lucidrains"])
def test_each_project_trains_and_samples_in_its_own_way(benchmark, project):
    peers = benchmark("peers")
    ours, theirs = peers.twins(TINY, 8, dropout=0.0)
    net = {"our": ours, "diffusers": theirs, "lucidrains": peers.lucidrains(ours, 8)}[project]
    if net is None:
        pytest.skip("denoising-diffusion-pytorch is not installed: it is of the extra bench")
    before = torch.cat([p.detach().flatten().clone() for p in net.parameters()])
    step = getattr(peers, f"{project}_training")(net, torch.rand(2, 1, 8, 8) * 2 - 1)
    for _ in range(2):
        step()
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in net.parameters()]))
    step = getattr(peers, f"{project}_sampling")(net, torch.randn(2, 1, 8, 8))
    outputs = [step() for _ in range(2)]
    images = [getattr(each, "x_t", each[0] if project == "lucidrains" else each) for each in outputs]
    assert all(image.shape == (2, 1, 8, 8) and image.isfinite().all() for image in images)
    assert not torch.equal(*images)


def test_the_other_architecture_has_about_as_many_parameters(benchmark):
    peers, (arguments, side) = benchmark("peers"), benchmark("unet").SMALL
    ours, _ = peers.twins(arguments, side)
    if (other := peers.lucidrains(ours, side)) is None:
        pytest.skip("denoising-diffusion-pytorch is not installed: it is of the extra bench")
    assert abs(peers.parameters(other) / peers.parameters(ours) - 1) < 0.05


def test_operations_are_those_of_the_layers(benchmark):
    unet = benchmark("unet")
    args = unet.argparse.Namespace(batch=3, device="cpu")
    net, _ = benchmark("peers").twins(TINY, 8)
    expected = 0

    def count(module, given, out):
        nonlocal expected
        if isinstance(module, torch.nn.Conv2d):
            expected += 2 * out.numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Linear):
            expected += 2 * out.numel() * module.in_features
        elif type(module).__name__ == "AttnBlock":
            expected += 2 * 2 * out.numel() * out.shape[2] * out.shape[3]

    for module in net.modules():
        module.register_forward_hook(count)
    net(torch.randn(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64))
    assert unet.operations(unet.forward_pass, (TINY, 8), args) == expected
    assert 2.5 * expected < unet.operations(unet.training_step, (TINY, 8), args) < 3 * expected


def test_a_chain_begins_anew_when_it_ends(benchmark, monkeypatch):
    peers = benchmark("peers")
    monkeypatch.setattr(peers, "T", 3)
    asked = []

    class Net(torch.nn.Module):
        def forward(self, x, t):
            asked.append(int(t[0]))
            return x

    step = peers.our_sampling(Net(), torch.randn(1, 1, 4, 4))
    for _ in range(5):
        step()
    assert asked == [2, 1, 0, 2, 1]


def test_attempts_give_the_same_answers_and_masks_that_are_as_thin(benchmark, monkeypatch):
    attempts = benchmark("attempts")
    monkeypatch.setattr(attempts, "SMALL", (TINY, 8))

    def once(steps, rounds):
        for step in steps:
            step()
        return [torch.ones(1, 2), torch.ones(1, 2)]

    monkeypatch.setattr(attempts, "take_turns", once)
    for name, attempt in attempts.ATTEMPTS.items():
        works = {"training_step", "forward_pass"} - {work.__name__ for work in attempt.works}
        assert attempts.gains(attempt, 1).count("none") == len(works), name
    changed = attempts.norm_of_sums(torch.nn.Sequential(attempts.GroupNorm(2, 4)))
    assert type(changed[0]) is attempts.GroupNormOfSums
    x = torch.ones(16, 8, 32, 32).to(memory_format=torch.channels_last)
    dropped = attempts.CoarseDropout(0.1).train()(x)
    assert 0.895 < (dropped != 0).float().mean() < 0.905  # 131072 pixels: six standard deviations are 0.005
    torch.testing.assert_close(dropped.max(), torch.tensor(1 / 0.9))


@pytest.mark.parametrize("side", [7, 8, 11])
def test_winograd_is_the_convolution(benchmark, side):
    attempts = benchmark("attempts")
    conv = torch.nn.Conv2d(5, 6, 3, padding=1)
    other = attempts.winograd_like(conv)
    other.load_state_dict(conv.state_dict())
    x = torch.randn(2, 5, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(other(x), conv(x), rtol=0, atol=1e-5)
    strided = torch.nn.Conv2d(5, 6, 3, stride=2, padding=1)
    assert type(attempts.winograd_like(strided)) is torch.nn.Conv2d


def test_the_shares_of_a_step(benchmark):
    shares = benchmark("shares").shares(1)
    assert abs(shares.total() - 1) < 1e-9 and set(shares) == {*benchmark("shares").KINDS.values(), "all the rest"}
    assert shares.most_common(1)[0][0] == "convolutions" and shares["all the rest"] < 0.2
