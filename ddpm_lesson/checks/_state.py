"""Torch's global state: taken before an answer runs, put back after it."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

WORDS = {"dtype": "default dtype", "device": "default device", "grad": "grad mode"}


def default_device() -> torch.device:
    """Where PyTorch makes tensors.  Its own function raises in 2.4 once the default was set back by None."""
    try:
        return torch.get_default_device()
    except AttributeError:
        return torch.device("cpu")


class Modes(NamedTuple):
    """The three switches that change what torch's functions return."""

    dtype: torch.dtype
    device: torch.device
    grad: bool

    @classmethod
    def now(cls) -> "Modes":
        return cls(torch.get_default_dtype(), default_device(), torch.is_grad_enabled())

    def restore(self) -> set[str]:
        """Puts back what is different now, and returns its names."""
        changed = {name for name, before, after in zip(self._fields, self, self.now(), strict=True) if before != after}
        if "dtype" in changed:
            torch.set_default_dtype(self.dtype)
        if "device" in changed:
            torch.set_default_device(None if self.device.type == "cpu" else self.device)
        if "grad" in changed:
            torch.set_grad_enabled(self.grad)
        return {WORDS[name] for name in changed}


class Seeds(NamedTuple):
    """Where the global random generators stand: torch's, Python's, and NumPy's if it is loaded."""

    cpu: torch.Tensor
    cuda: list
    python: tuple
    numpy: tuple | None

    @classmethod
    def now(cls) -> "Seeds":
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        numpy = sys.modules.get("numpy")
        return cls(torch.get_rng_state(), cuda, random.getstate(), numpy.random.get_state() if numpy else None)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        random.setstate(self.python)
        if self.numpy:
            sys.modules["numpy"].random.set_state(self.numpy)

    def moved(self) -> bool:
        """Whether any of torch's or Python's numbers was drawn since, or a seed was set."""
        return not torch.equal(self.cpu, torch.get_rng_state()) or self.python != random.getstate()


@contextmanager
def kept() -> Iterator[None]:
    """Whatever happens inside, an interrupt included: modes and generators are afterwards what they were."""
    modes, seeds = Modes.now(), Seeds.now()
    try:
        yield
    finally:
        modes.restore()
        seeds.restore()


@contextmanager
def plain() -> Iterator[None]:
    """The engine's own arithmetic: float32 by default, on the CPU, with gradients, whatever the notebook has set."""
    before = Modes.now()
    try:
        Modes(torch.float32, torch.device("cpu"), True).restore()
        yield
    finally:
        before.restore()
