"""Small helpers: noise, dtypes, ranges, seeds, and a network put to rest for a call."""

import math

import accelerator
import pytest
import torch
from torch import nn

from ddpm_lesson._tensors import (
    check_range,
    float32_at_least,
    frozen,
    home,
    randn_like,
    seed_of,
    seeded,
    table_dtype,
    usable_gpu,
)

# Noise.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_noise_has_the_shape_dtype_and_device_of_its_model(device, dtype):
    x = torch.zeros(2, 3, 4, dtype=dtype, device=device)
    noise = randn_like(x)
    assert (noise.shape, noise.dtype, noise.device) == (x.shape, x.dtype, x.device)


def test_a_seed_means_the_same_noise_on_every_device(device):
    torch.manual_seed(3)
    here = randn_like(torch.zeros(1000, device=device)).cpu()
    torch.manual_seed(3)
    assert torch.equal(here, torch.randn(1000))


def test_noise_for_another_device_is_drawn_on_the_cpu():
    torch.manual_seed(3)
    noise = randn_like(torch.zeros(1000, device="meta"))
    state = torch.get_rng_state()
    torch.manual_seed(3)
    torch.randn(1000)
    assert noise.device.type == "meta" and torch.equal(torch.get_rng_state(), state)


def test_noise_follows_the_generator_and_leaves_the_global_one_alone(device):
    state = torch.get_rng_state()
    here = randn_like(torch.zeros(1000, device=device), torch.Generator().manual_seed(3)).cpu()
    assert torch.equal(here, torch.randn(1000, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(torch.get_rng_state(), state)


def generator_of(device):
    if device.type == accelerator.NAME:
        pytest.skip("PyTorch makes generators for the stand-in in C++ only")
    return torch.Generator(device)


def test_a_generator_draws_on_its_own_device(device):
    x = torch.zeros(1000, device=device)
    here = randn_like(x, generator_of(device).manual_seed(3))
    assert torch.equal(here, torch.randn(1000, device=device, generator=generator_of(device).manual_seed(3)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_noise_is_float32_noise_rounded(dtype):
    full = randn_like(torch.zeros(1000), torch.Generator().manual_seed(3))
    assert torch.equal(randn_like(torch.zeros(1000, dtype=dtype), torch.Generator().manual_seed(3)), full.to(dtype))


def test_noise_ignores_the_default_device():
    with torch.device("meta"):
        noise = randn_like(torch.zeros(3, device="cpu"))
    assert noise.device.type == "cpu"


def test_a_generator_draws_at_home(device):
    assert home(None) == torch.device("cpu")
    assert home(generator_of(device)).type == device.type


def test_a_gpu_is_one_that_computes(monkeypatch):
    there, works, ones = set(), set(), torch.ones

    def ones_on(n, device):
        assert device in there  # nothing else is touched
        if device not in works:
            raise RuntimeError("MPS backend out of memory")
        return ones(n)

    monkeypatch.setattr(torch, "ones", ones_on)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    assert usable_gpu() == ""
    there.update(["cuda", "mps"])
    assert usable_gpu() == ""
    works.add("mps")
    assert usable_gpu() == "mps"
    works.add("cuda")
    assert usable_gpu() == "cuda"
    there.remove("cuda")
    assert usable_gpu() == "mps"


# Dtypes and ranges.


def test_tables_are_float64_wherever_that_exists():
    assert table_dtype(torch.device("cpu")) == table_dtype(torch.device("cuda")) == torch.float64
    assert table_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_widened_and_nothing_else_is(dtype):
    x = torch.tensor([1.5, -0.25], dtype=dtype)
    wide = float32_at_least(x)
    assert wide.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert wide.tolist() == [1.5, -0.25]
    assert (wide is x) == (dtype in (torch.float32, torch.float64))


@pytest.mark.parametrize("index, got", [([0, 5], "from 0 to 5"), ([-1, 2], "from -1 to 2"), ([7], "from 7 to 7")])
def test_an_index_that_leaves_its_range_is_named(index, got):
    with pytest.raises(ValueError, match=f"^y must lie in 0..4, got values {got}$"):
        check_range("y", torch.tensor(index), 5)


def test_indices_inside_of_their_range_pass():
    for index in (torch.arange(5), torch.tensor([4]), torch.tensor([[0], [4]], dtype=torch.int32), torch.tensor([])):
        check_range("y", index, 5)


def test_values_on_another_device_are_not_looked_at():
    # On a GPU that would wait for it; meta tensors have no values to look at.
    check_range("y", torch.tensor([9], device="meta"), 5)


def test_a_compiled_function_is_one_graph():
    @torch.compile(backend="eager", fullgraph=True)
    def checked(t):
        check_range("t", t, 5)
        return t + 1

    assert checked(torch.tensor([4])).tolist() == [5]


# Seeds.


def test_neighbouring_numbers_have_unrelated_streams():
    # 50 streams of 1000 normal numbers: their 1225 correlations have standard deviation 1/sqrt(1000); 5 of those are
    # exceeded with probability 1225 * 6e-7.
    seeds = [(a, b) for a in range(10) for b in range(5)]
    streams = torch.stack(
        [torch.randn(1000, generator=torch.Generator().manual_seed(seed_of(*pair))) for pair in seeds]
    )
    correlation = torch.corrcoef(streams) - torch.eye(50)
    assert correlation.abs().max() < 5 / math.sqrt(1000)


def test_every_pair_has_its_own_seed():
    assert len({seed_of(a, b) for a in range(100) for b in range(100)}) == 10_000


def test_a_shorter_tuple_is_another_seed():
    assert len({seed_of(0), seed_of(0, 0), seed_of(0, 0, 0), seed_of(0, 1), seed_of(0, 1, 0), seed_of(1, 0)}) == 6


def state_of(device):
    return torch.get_rng_state() if device.type == "cpu" else getattr(torch, device.type).get_rng_state(device)


def test_inside_of_seeded_a_seed_decides(device):
    def draw(seed):
        with seeded(seed, device):
            return torch.randn(5, device=device), nn.functional.dropout(torch.ones(100, device=device))

    one = draw(3)
    torch.randn(7, device=device)  # whatever was drawn before
    again, other = draw(3), draw(4)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_inside_of_seeded_numbers_are_those_of_a_generator(device):
    expected = torch.randn(5, device=device, generator=generator_of(device).manual_seed(3))
    with seeded(3, device):
        assert torch.equal(torch.randn(5, device=device), expected)


def test_after_seeded_all_is_as_before(device):
    before = state_of(torch.device("cpu")), state_of(device)
    with seeded(3, str(device)):
        torch.randn(5), torch.randn(5, device=device)
    assert torch.equal(before[0], torch.get_rng_state()) and torch.equal(before[1], state_of(device))
    with pytest.raises(KeyError), seeded(3, device):
        torch.randn(5, device=device)
        raise KeyError
    assert torch.equal(before[0], torch.get_rng_state()) and torch.equal(before[1], state_of(device))


def test_after_seeded_the_generator_of_apples_gpu_is_as_before(monkeypatch):
    draws = torch.Generator()  # stands for that of torch.mps
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda device="mps": draws.get_state())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, device="mps": draws.set_state(state))
    monkeypatch.setattr(torch.mps, "manual_seed", draws.manual_seed)
    before = torch.get_rng_state(), draws.get_state()
    with seeded(3, "mps"):
        expected = torch.randn(5, generator=torch.Generator().manual_seed(3))
        assert torch.equal(torch.randn(5, generator=draws), expected) and torch.equal(torch.randn(5), expected)
    assert torch.equal(before[0], torch.get_rng_state()) and torch.equal(before[1], draws.get_state())


def test_seeding_the_cpu_leaves_gpus_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU was seeded"))
    with seeded(3):
        torch.randn(5)


# A network at rest.


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))

    def forward(self, x):
        return self.body(x)


def test_inside_of_frozen_nothing_trains():
    model, x = Net(), torch.randn(8, 2)
    with frozen(model):
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
        out = model(x)
    assert not out.requires_grad and torch.equal(out, model.eval()(x))
    assert model.body[2].num_batches_tracked == 0


@pytest.mark.parametrize("error", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_after_frozen_every_mode_is_as_before(grad, error):
    model = Net()
    model.body[2].eval()  # as one freezes a batch norm
    modes = [m.training for m in model.modules()]
    assert True in modes and False in modes
    with torch.set_grad_enabled(grad):
        try:
            with frozen(model):
                if error:
                    raise KeyError
        except KeyError:
            pass
        assert torch.is_grad_enabled() == grad
    assert [m.training for m in model.modules()] == modes


def test_a_function_can_be_frozen_too():
    x = torch.ones(1, requires_grad=True)
    with frozen(math.sin):
        assert not (2 * x).requires_grad
    assert (2 * x).requires_grad


def test_parameters_stay_trainable():
    model = Net()
    with frozen(model):
        pass
    model(torch.randn(4, 2)).sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
