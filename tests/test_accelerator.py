"""The stand-in for a GPU refuses what a GPU refuses, and counts what a GPU would be waited for."""

import copy

import accelerator
import pytest
import torch
from conftest import usable
from torch import nn

NUMBERS = torch.arange(6.0).view(2, 3)


@pytest.fixture
def standin():
    return usable(accelerator.NAME)


def test_numbers_go_there_and_come_back(standin):
    x = NUMBERS.to(standin)
    assert x.device == standin and torch.equal(x.cpu(), NUMBERS)
    assert torch.equal((2 * x + 1).sum(0).cpu(), (2 * NUMBERS + 1).sum(0))
    x += 1
    assert torch.equal(x.cpu(), NUMBERS + 1) and NUMBERS[0, 0] == 0  # memory of its own


def test_views_share_memory_and_have_strides(standin):
    x = NUMBERS.to(standin)
    x.t()[2].mul_(10)
    x.view(6)[:2].zero_()
    assert x.t().stride() == (1, 3) and not x.t().is_contiguous()
    assert torch.equal(x.cpu(), torch.tensor([[0.0, 0.0, 20.0], [3.0, 4.0, 50.0]]))
    last = torch.zeros(2, 3, 4, 4, device=standin).to(memory_format=torch.channels_last)
    assert nn.Conv2d(3, 5, 3).to(standin)(last).shape == (2, 5, 2, 2)


def test_copies_have_memory_of_their_own(standin):
    x = NUMBERS.to(standin)
    model = nn.Linear(3, 2).to(standin)
    copies, expected = copy.deepcopy((x, x.t(), model)), model(x)
    assert torch.equal(copies[1].cpu(), NUMBERS.t()) and torch.equal(copies[2](copies[0]), expected)
    copies[0].zero_()
    assert torch.equal(x.cpu(), NUMBERS) and not copies[1].any()  # which share memory, as those that were copied do


MIXED = {
    "sum": lambda x: x + torch.ones(3),
    "in place": lambda x: x.mul_(torch.ones(3)),
    "from the CPU": lambda x: torch.ones(3) * x,
    "product": lambda x: x @ torch.ones(3, 2),
    "cat": lambda x: torch.cat([x, torch.ones(1, 3)]),
    "where": lambda x: torch.where(x > 1, x, torch.ones(3)),
    "gather": lambda x: x.gather(0, torch.zeros(1, 3, dtype=torch.int64)),
    "layer": lambda x: nn.Linear(3, 2)(x),
    "embedding": lambda x: nn.Embedding(3, 2).to(x.device)(torch.tensor([0])),
    "indexing the CPU": lambda x: torch.ones(2, 3)[x.long()],
    "generator": lambda x: torch.randn(3, device=x.device, generator=torch.Generator()),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
def test_what_lies_on_the_cpu_does_not_mix_with_it(operation, gpu):
    with pytest.raises((RuntimeError, IndexError), match="[Ee]xpected|should be either on cpu or on the same device"):
        operation(NUMBERS.to(gpu))


def test_numbers_and_indices_of_the_cpu_do(gpu):
    x = NUMBERS.to(gpu)
    assert torch.equal((x * torch.tensor(2.0)).cpu(), 2 * NUMBERS)
    assert torch.equal(x[torch.tensor([1])].cpu(), NUMBERS[1:])
    assert torch.equal(torch.where(x > 1, x, -1.0).cpu(), NUMBERS.where(NUMBERS > 1, -1))


WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 1).all()),
    "cpu": lambda x: x.cpu(),
    "tolist": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 1],
    "masked_select": lambda x: x.masked_select(x > 1),
    "put by a mask": lambda x: x.index_put_((x > 1,), x.new_zeros(4)),
    "index from the CPU": lambda x: x[torch.tensor([0, 1])],
    "to the device": lambda x: NUMBERS.to(x.device),
}
NO_WAITS = {
    "arithmetic": lambda x: (2 * x + x.sum(0)).softmax(1),
    "view": lambda x: x.t()[1:].reshape(-1),
    "indices": lambda x: x[:, x[0].long()],
    "copy": lambda x: x.clone().copy_(x).to(torch.float64),
    "sent": lambda x: NUMBERS.to(x.device, non_blocking=True),
    "draw": lambda x: torch.randn(3, device=x.device),
    "fill": lambda x: torch.full((2,), 3.0, device=x.device).masked_fill(x[:, 0] > 1, 0.0),
}


@pytest.mark.parametrize("operation", WAITS.values(), ids=WAITS)
def test_what_a_gpu_is_waited_for_is_counted(operation, gpu):
    x = NUMBERS.to(gpu)
    with accelerator.waited(gpu) as waits:
        operation(x)
    assert len(waits) == 1


@pytest.mark.parametrize("operation", NO_WAITS.values(), ids=NO_WAITS)
def test_what_a_gpu_is_not_waited_for_is_not(operation, gpu):
    x = NUMBERS.to(gpu)
    with accelerator.waited(gpu) as waits:
        operation(x)
    assert waits == []


def test_it_draws_from_a_generator_of_its_own(gpu):
    before = torch.get_rng_state()
    torch.manual_seed(3)
    one = torch.randn(4, device=gpu), nn.functional.dropout(torch.ones(100, device=gpu))
    torch.manual_seed(3)
    again = torch.randn(4, device=gpu), nn.functional.dropout(torch.ones(100, device=gpu))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    torch.set_rng_state(before)
    torch.randn(4, device=gpu)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_are_those_of_the_cpu(gpu):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.ConvTranspose2d(8, 4, 3, groups=2))
    x = torch.randn(2, 3, 6, 6)
    gradients = []
    for device in ("cpu", gpu):
        given = x.clone().to(device).requires_grad_(True)
        model.to(device).zero_grad()
        model(given).square().sum().backward()
        gradients.append([given.grad.cpu(), *(p.grad.cpu() for p in model.parameters())])
    for here, there in zip(*gradients, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)
