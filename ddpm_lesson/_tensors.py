"""Small helpers that many modules need: noise, dtypes, ranges, seeds, and a network put to rest for a call."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Generator, Tensor, nn

Device = torch.device | str
WITHOUT_NUMBERS = "build the process outside of torch.device('meta'), and its .to('meta') moves it there"


def usable_gpu() -> str:
    """The name of a GPU that computes on this machine: "cuda", else "mps", "" without one.

    It is asked to compute something: PyTorch also names GPUs that are too old for its build, and those of virtual Macs,
    which have no memory.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return next((name for name, is_there in there.items() if is_there and _computes(name)), "")


def _computes(device: Device) -> bool:
    try:
        return (torch.ones(1, device=device) + 1).item() == 2
    except RuntimeError:
        return False


def randn_like(x: Tensor, generator: Generator | None = None) -> Tensor:
    """Standard normal noise in the shape, dtype and device of x, the same on every device.

    It is drawn on the generator's own device (the CPU's default generator if there is none) and then moved, so a
    seed means the same noise on a CPU and on a GPU. Half precision is drawn in float32 and rounded.
    A generator that lives on the GPU draws there: faster, and other numbers.
    """
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.promote_types(x.dtype, torch.float32)
    shape = (generator.n, *x.shape[1:]) if isinstance(generator, Share) else x.shape
    noise = torch.randn(shape, dtype=dtype, device=home(generator), generator=generator)
    return moved(noise[generator.rows] if isinstance(generator, Share) else noise, x.device, x.dtype)


def moved(x: Tensor, device: Device | None, dtype: torch.dtype | None = None) -> Tensor:
    """x on a device, None for where it is; from the CPU to a GPU without waiting for what the GPU still has to do.

    x must not be changed in place before the GPU has been waited for. MPS might read it too late: there it is waited.
    """
    device = x.device if device is None else torch.device(device)
    return x.to(device, dtype or x.dtype, non_blocking=x.device.type == "cpu" and device.type != "mps")


class Share(Generator):
    """A generator for some rows of a batch: `randn_like` and `rand` draw for the whole batch, and hand out these rows.

    A batch that is drawn in parts, each from the same state, has the same noise as in one piece.
    n: images in the whole batch. rows: which of them are drawn now. state: of the generator, at the batch's beginning.
    """

    def __init__(self, n: int, rows: slice, state: Tensor):
        self.n, self.rows = n, rows
        self.set_state(state)

    def __new__(cls, *_: object) -> "Share":
        return super().__new__(cls)


def rand(n: int, generator: Generator | None = None) -> Tensor:
    """n uniform numbers in [0, 1) on the CPU, a number for each image; of a `Share` those of its rows."""
    if isinstance(generator, Share):
        return torch.rand(generator.n, generator=generator, device="cpu")[generator.rows]
    return torch.rand(n, generator=generator, device=home(generator)).cpu()


def home(generator: Generator | None) -> torch.device:
    """The device on which a generator draws; without one it is the CPU."""
    return torch.device("cpu") if generator is None else generator.device


def table_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64 (Apple's MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def float32_at_least(x: Tensor) -> Tensor:
    """x, or its float32 copy where x is in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_range(name: str, index: Tensor, size: int) -> None:
    """Raise ValueError if an index leaves 0..size-1.  index: integer, on any device.

    On a GPU looking at the values would wait for the device, and under torch.compile it would break the graph: there
    PyTorch's own index check has to do.
    """
    if index.device.type != "cpu" or torch.compiler.is_compiling() or not index.numel():
        return
    low, high = index.aminmax()
    if low < 0 or high >= size:
        raise ValueError(f"{name} must lie in 0..{size - 1}, got values from {low.item()} to {high.item()}")


def check_numbers(name: str, x: Tensor) -> None:
    """Raise ValueError for a tensor on the device meta, which has a shape and no numbers."""
    if isinstance(x, Tensor) and x.device.type == "meta":
        raise ValueError(f"{name} must hold numbers, got a tensor on the device meta: {WITHOUT_NUMBERS}")


def positive(name: str, value: int) -> int:
    """The value; raises ValueError if it lies below 1."""
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return value


def seed_of(*numbers: int) -> int:
    """A seed for each tuple of numbers, such as seed and epoch; neighbours start independent generators.

    Not seed + epoch: then epoch 1 of seed 0 is epoch 0 of seed 1.
    """
    sequence = np.random.SeedSequence((len(numbers), *numbers))  # it takes (0, 1) and (0, 1, 0) for the same
    return int(sequence.generate_state(1, np.uint64)[0])


@contextmanager
def seeded(seed: int, device: Device = "cpu") -> Iterator[None]:
    """PyTorch's own generators of the CPU and of `device` start at `seed` inside, and are as before afterwards."""
    device = torch.device(device)
    gpu = device.type != "cpu"
    with torch.random.fork_rng(devices=[device] if gpu else [], device_type=device.type if gpu else "cuda"):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that seeds every GPU
        if gpu:
            backend = getattr(torch, device.type)
            with nullcontext() if device.type == "mps" else backend.device(device):  # torch.mps knows one device
                backend.manual_seed(seed)
        yield


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up: of a GPU, of the CPU's allocator, or of Python.

    The CPU's allocator and Apple's MPS have no class of error of their own: RuntimeErrors are told by their words.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")  # oneDNN's
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def frozen(model: object) -> AbstractContextManager[None]:
    """Eval mode and no gradients inside; every submodule's own mode comes back, also after an error.

    model: a network, or `list(network.modules())`, which is faster where the same network is asked often.
    """
    modules = model if isinstance(model, list) else model.modules() if isinstance(model, nn.Module) else []
    training = [module for module in modules if module.training]
    return _evaluating(training) if training else torch.no_grad()


@contextmanager
def _evaluating(training: list[nn.Module]) -> Iterator[None]:
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
