"""Running one function on one input: what it returned, or the trouble that kept it from returning anything."""

import copy
import itertools
import linecache
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_lesson.checks._state import Modes, Seeds

KINDS = {Tensor: "a tensor", int: "an int", list: "a list of ints"}
LARGEST = 10**7  # numbers in a tensor that is still copied and compared
HERE = Path(__file__).parent
YIELDED = "a yielded tensor"


class Case(NamedTuple):
    """One input: how a message describes it, and the positional arguments.

    coarse: what is left of float32 here is not enough to tell mistakes apart; others come first.
    """

    words: str
    args: tuple
    coarse: bool = False


class Outcome(NamedTuple):
    """What a function did with one case."""

    values: tuple[Any, ...]  # tensors or ints
    names: tuple[str, ...]
    trouble: str
    line: str  # the one that raised, in words
    changed: set[str]  # the parameters whose arguments it altered, and YIELDED
    switched: set[str]  # the global modes that it left changed
    drew: bool  # it moved a global random generator


class Misfit(Exception):
    """What came back is not what the exercise asks for; the message says so."""


class Overwritten(Exception):
    """What a generator had yielded, it changed afterwards.  A script raises it at its end."""


def run(check, function: Callable, args: tuple, modes: Modes, most: int | None = None) -> Outcome:
    """The function's outcome on copies of the arguments, under these modes; the modes of the engine come back.

    most: values after which no more is asked for.
    """
    given, engine, seeds = copy.deepcopy(args), Modes.now(), Seeds.now()
    values, names, trouble, line, altered = [], [], "", "", set()
    try:
        modes.restore()
        for name, value in itertools.islice(check.script(function, *given), most):
            values.append(value)
            names.append(name)
    except Overwritten:
        altered = {YIELDED}
    except Misfit as misfit:
        trouble = str(misfit)
    except (Exception, SystemExit) as error:
        if isinstance(error.__cause__, StopIteration):  # which a generator, as the script is, turns into another
            error = error.__cause__
        trouble, line = f"your function raised {_words(error)}", _line(error) + _advice(error)
        if words := whole_table(error, _steps_of(check, args)):
            trouble, line = words, _line(error)
    finally:
        switched = modes.restore()
        engine.restore()
    passed = zip(check.parameters, given, args, strict=False)  # what is left out keeps its default
    if check.inputs:
        passed = zip(check.inputs, given[1], args[1], strict=False)
    changed = {name for name, after, before in passed if name not in check.changes and not _same(after, before)}
    return Outcome(tuple(values), tuple(names), trouble, line, changed | altered, switched, seeds.moved())


def raised(error: BaseException) -> str:
    """What a function raised, in words, and in which of its lines."""
    return f"your function raised {_words(error)}{_line(error)}"


def called(function: Callable, *args, outputs: tuple[str, ...] = ("out",), returns: type = Tensor):
    """The script of a plain function: one call, and the name and value of each output."""
    returned = function(*args)
    many = len(outputs) > 1
    parts = tuple(returned) if many and isinstance(returned, tuple | list) else (returned,)
    if returned is None:
        raise Misfit("your function returns None: did you forget return?")
    if len(parts) != len(outputs) or not all(isinstance(part, returns) for part in parts):
        wanted = f"the tensors {', '.join(outputs)}" if many else KINDS[returns]
        raise Misfit(f"expected {wanted}, got {', '.join(type(part).__name__ for part in parts) or 'nothing'}")
    if returns is Tensor:
        yield from ((name, read(part)) for name, part in zip(outputs, parts, strict=True))
        return
    numbers = tuple(returned) if returns is list else parts
    if odd := sorted({type(value).__name__ for value in numbers if type(value) is not int}):
        raise Misfit(f"expected {KINDS[returns]}, got {'one with ' if returns is list else ''}{' and '.join(odd)}")
    yield from ((f"out[{i}]" if returns is list else "out", number) for i, number in enumerate(numbers))


def read(tensor: Tensor) -> Tensor:
    """A copy on the CPU without gradient; of what is too large, or has no numbers, shape and dtype alone (on meta)."""
    got, tensor = type(tensor).__name__, plain(tensor)
    if type(tensor) is not Tensor:  # one whose class computes, by __torch_dispatch__
        raise Misfit(f"expected a plain tensor, got {got}, a class of tensors of your own")
    if tensor.device.type == "meta" or tensor.numel() > LARGEST:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return tensor.cpu().to_dense().clone()


def plain(tensor: Tensor) -> Tensor:
    """The tensor without gradient and without its class, which could answer for it; a `nn.Parameter` is one, too.

    Of a class that has `__torch_dispatch__` the result is what that returns.
    """
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.detach(tensor)


def _same(a, b):
    if isinstance(b, torch.nn.Module):
        return isinstance(a, torch.nn.Module) and all(map(_same, a.parameters(), b.parameters()))
    if isinstance(b, Tensor):
        if not isinstance(a, Tensor):
            return False
        a, b = plain(a), plain(b)
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.cpu(), b.cpu())
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return a == b if isinstance(b, int | float | str) else True


def _words(error):
    """Type and first line of the message."""
    try:
        message = re.sub("0x[0-9a-fA-F]+", "0x...", str(error)).strip().split("\n")[0]
    except Exception:  # its __str__ is broken too
        message = ""
    return type(error).__name__ + (f": {message}" if message else "")


def _advice(error):
    """What helps where a product was refused because of its dtypes."""
    if re.search("expected scalar type|(to have the|must have) same dtype|have the same dtype", _words(error)):
        return ". Two dtypes meet in it: cast the coefficient to the image's dtype first, coefficient.to(image.dtype)"
    return ""


def whole_table(error: BaseException, T: int | None) -> str:
    """What to do where a table of T entries met the images, which have no axis of that length; "" if none did."""
    words = _words(error)
    sizes = re.search(r"size of (the )?tensor.* \(\d+\) must match .* \(\d+\)|broadcast together.*", words)
    if T is None or sizes is None or str(T) not in re.findall(r"\d+", sizes[0].split(" at ")[0]):
        return ""
    return (
        f"your coefficients have shape ({T},), one entry for each step, and meet the images as they are. Look them up "
        "first: an image needs one number, the entry at its t"
    )


def _steps_of(check, args):
    """The length of the tables that a function with t is given; None if another argument has an axis of that length."""
    named = dict(zip(check.parameters, args, strict=False))
    tensors = [arg for arg in named.values() if isinstance(arg, Tensor)] if "t" in named else []
    tables = [arg for arg in tensors if arg.ndim == 1 and arg.is_floating_point()]
    others = {size for arg in tensors if all(arg is not table for table in tables) for size in arg.shape}
    return len(tables[0]) if tables and len(tables[0]) not in others else None


def _line(error):
    """The line of the learner's function that raised: the first that is not the engine's own."""
    passing = (HERE, Path(torch.__file__).parent)  # torch calls a module's forward
    for frame, number in traceback.walk_tb(error.__traceback__):
        place = frame.f_code.co_filename
        if not any(Path(place).is_relative_to(folder) for folder in passing):
            linecache.checkcache(place)
            line = linecache.getline(place, number, frame.f_globals).strip()
            return f" (in the line: {line})" if line else ""
    return ""
