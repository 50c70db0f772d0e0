"""Whether an answer makes its tensors where its arguments are: seen without a GPU, by a mark on those that it makes.

A tensor that is made without `device=` lies on the CPU, and so does what is computed from such tensors alone. These are
marked while the answer runs, and where a marked one meets an argument, PyTorch would refuse the two on a GPU.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ddpm_lesson.checks._run import run
from ddpm_lesson.checks._state import Modes

MAKERS = {torch.ones, torch.zeros, torch.full, torch.empty, torch.eye, torch.tensor, torch.as_tensor, torch.arange}
MAKERS |= {torch.linspace, torch.logspace, torch.rand, torch.randn, torch.randint}
JOINS = {torch.cat, torch.concat, torch.stack, torch.hstack, torch.vstack}  # they refuse single numbers, too
MOVES = {Tensor.to, Tensor.type_as, Tensor.cpu}
OF_THE_FIRST = {Tensor.expand_as, Tensor.view_as, Tensor.reshape_as, Tensor.copy_, Tensor.__setitem__}


class Elsewhere(TorchFunctionMode):
    """Marks what is made on the CPU, and raises as PyTorch does where it meets what lies beside the arguments."""

    def __init__(self):
        super().__init__()
        self.marked: dict[int, Tensor] = {}  # they are kept, so that no other tensor gets their place
        self.met = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = list(tensors((args, kwargs)))
        marked = [x for x in given if self.is_marked(x)]
        if func in MAKERS:
            of_a_tensor = bool(args) and isinstance(args[0], Tensor)
            return self.mark(func(*args, **kwargs), not of_a_tensor and kwargs.get("device") in (None, "cpu"))
        if func in MOVES:
            out = func(*args, **kwargs)
            return self.mark(out.view(out.shape), self._stays(func, args, kwargs))
        if func in OF_THE_FIRST:
            return self.mark(func(*args, **kwargs), self.is_marked(args[0]))
        if func is Tensor.__getitem__ and marked and not self.is_marked(args[0]):
            return func(*args, **kwargs)  # an index may lie on the CPU
        if marked and len(marked) < len(given) and (func in JOINS or any(x.ndim for x in marked)):
            self.met = True
            raise RuntimeError("Expected all tensors to be on the same device")
        return self.mark(func(*args, **kwargs), bool(given) and len(marked) == len(given))

    def is_marked(self, x) -> bool:
        return id(x) in self.marked

    def mark(self, out, wanted: bool):
        for x in tensors(out) if wanted else ():
            self.marked[id(x)] = x
        return out

    def _stays(self, func, args, kwargs):
        """Whether the result of a move lies on the CPU. A device that is no word is that of an argument."""
        where = [*args[1:], *kwargs.values()]
        if func is Tensor.cpu or "cpu" in where:
            return True
        to = next((x for x in where if isinstance(x, Tensor | torch.device)), args[0])
        return not isinstance(to, torch.device) and self.is_marked(to)


def made_elsewhere(check, function: Callable, modes: Modes) -> str:
    """The sentence for an answer that makes a tensor on the CPU and not where the argument `check.beside` is."""
    if not check.beside:
        return ""
    mode, left = Elsewhere(), False

    def watched(*args):
        nonlocal left
        with mode:
            out = function(*args)
        left = any(map(mode.is_marked, tensors(out)))
        return out

    outcome = run(check, watched, check.cases[0].args, modes)
    if not left and not (mode.met and outcome.trouble):
        return ""
    what, near = "what you return" if left else "a tensor that you make", check.beside
    return (
        f"Every value is right, but {what} lies on the CPU, even if {near} lies on a GPU{outcome.line}. "
        f"Make new tensors where {near} is: torch.ones_like(...), or device={near}.device."
    )


def tensors(value) -> Iterator[Tensor]:
    """Those in lists, tuples and dictionaries, too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors(each)
