"""The right formula, fed with something else: two arguments exchanged, one squared, one step off, cut off."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import Evidence
from ddpm_lesson.checks._values import same

CHANGES: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("has the wrong sign", torch.neg),
    ("is squared", torch.square),
    ("is under a root", torch.sqrt),
    ("is doubled", lambda x: 2 * x),
    ("is halved", lambda x: x / 2),
    ("is subtracted from 1", lambda x: 1 - x),
    ("is added to 1", lambda x: 1 + x),
    ("is upside down", torch.reciprocal),
    ("is exponentiated", torch.exp),
    ("is replaced by its logarithm", torch.log),
    ("is replaced by its running product", lambda x: x.cumprod(0)),
    ("is replaced by its running sum", lambda x: x.cumsum(0)),
    ("is clipped to [-1, 1]", lambda x: x.clamp(-1, 1)),
    ("is in reverse order", lambda x: x.flip(0)),
    ("is one place too late", lambda x: x.roll(1, 0)),
    ("is one place too early", lambda x: x.roll(-1, 0)),
    ("has lost its sign", torch.abs),
    ("is replaced by that of the first image", lambda x: x[:1].expand_as(x).clone()),
    ("is replaced by that of the last image", lambda x: x[-1:].expand_as(x).clone()),
    ("is averaged over the batch", lambda x: x.mean(0, keepdim=True).expand_as(x).clone()),
    ("is transposed", lambda x: x.transpose(-1, -2)),
)
TABLES: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (  # of those with an entry for each step
    ("is read one entry too far, at t + 1, and its last entry twice", lambda v: torch.cat([v[1:], v[-1:]])),
    ("is read one entry too early, at t - 1, and its first entry twice", lambda v: torch.cat([v[:1], v[:-1]])),
    ("is read from its end, at -t", lambda v: v.flip(0).roll(1, 0)),
)
STEPS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("is one less", lambda t: t - 1),
    ("is one less, but not below 0", lambda t: (t - 1).clamp(min=0)),
    ("is one more", lambda t: t + 1),
    ("is that of the first image for all", lambda t: t[:1].expand_as(t).clone()),
    ("is that of the last image for all", lambda t: t[-1:].expand_as(t).clone()),
    ("is 0 for all", torch.zeros_like),
    ("is the image's place in the batch", lambda t: torch.arange(len(t))),
    ("is in reverse order", lambda t: t.flip(0)),
)


def other_arguments(evidence: Evidence) -> str:
    """A sentence if the right result for changed arguments is what the answer gave for the unchanged ones."""
    order = sorted(evidence.wrong, key=lambda i: evidence.want[i].numel())
    order += [i for i in range(len(evidence.want)) if i not in order]
    order = [i for i in order if evidence.got[i] is not None]
    if len(order) < 2:
        return ""
    for words, change in _changes(evidence):
        if all(_agrees(evidence, i, change) for i in order) and _holds_elsewhere(evidence, order[0], change):
            return words
    return ""


def _holds_elsewhere(evidence, i, change):
    """Whether it is so for other numbers too, and not by the choice of the inputs."""
    args = [0.75 * arg if _many(arg) else arg for arg in evidence.check.cases[i].args]
    if not any(map(_many, args)):
        return True
    try:
        want = evidence.should(*change(args))
    except (RuntimeError, IndexError, TypeError):
        return False
    got = evidence.calls(*args)
    return got is not None and want is not None and same(got, want, floor=evidence.check.floor)


def _many(arg):
    return isinstance(arg, Tensor) and arg.is_floating_point()


def _agrees(evidence, i, change):
    args = evidence.check.cases[i].args
    try:
        others = change(args)
        if any(_levelled(new, old) for new, old in zip(others, args, strict=True)):
            return False  # then the argument has no effect at all, which is told elsewhere
        want = evidence.should(*others)
    except (RuntimeError, IndexError, TypeError):
        return False
    return want is not None and same(evidence.got[i], want, floor=evidence.check.floor)


def _levelled(new, old):
    tensors = isinstance(old, Tensor) and isinstance(new, Tensor)  # an estimate may be missing, None
    if not tensors or not old.is_floating_point() or old.numel() < 2:
        return False
    return bool((new == new.flatten()[0]).all()) and not bool((old == old.flatten()[0]).all())


def _changes(evidence) -> Iterator[tuple[str, Callable]]:
    names = evidence.check.parameters
    first = evidence.check.cases[0].args
    tensors = [k for k, arg in enumerate(first) if isinstance(arg, Tensor)]
    numbers = [k for k, arg in enumerate(first) if isinstance(arg, int | float)]
    alike = [
        (a, b)
        for a, b in itertools.combinations(tensors, 2)
        if first[a].is_floating_point() == first[b].is_floating_point()
    ]
    alike += list(itertools.combinations(numbers, 2))
    for a, b in alike:
        yield f"You exchanged {names[a]} and {names[b]}.", lambda args, a=a, b=b: _exchanged(args, (a, b))
    for a, b, c in itertools.combinations(tensors, 3):
        if {(a, b), (b, c)} <= {*alike}:
            for order in ((b, c, a), (c, a, b)):
                words = (
                    f"You took {names[order[0]]} for {names[a]}, {names[order[1]]} for {names[b]}, {names[order[2]]} "
                )
                words += f"for {names[c]}."
                yield words, lambda args, to=(a, b, c), order=order: _permuted(args, to, order)
    for (a, b), (c, d) in itertools.combinations(alike, 2):
        if len({a, b, c, d}) == 4:
            words = f"You exchanged {names[a]} and {names[b]}, and {names[c]} and {names[d]}."
            yield words, lambda args, pairs=((a, b), (c, d)): _exchanged(args, *pairs)
    groups: list[tuple[int, ...]] = [(k,) for k in tensors]
    groups += [pair for pair in itertools.combinations(tensors, 2) if names[pair[0]][:-1] == names[pair[1]][:-1]]
    for group in groups:
        which = names[group[0]] if len(group) == 1 else "each of " + " and ".join(names[k] for k in group)
        whole = not first[group[0]].is_floating_point()
        table = not whole and len(group) == 1 and first[group[0]].ndim == 1
        for words, change in STEPS if whole else CHANGES + TABLES * table:
            if " image" in words and not set(names[k] for k in group) <= {*evidence.check.batch}:
                continue
            sentence = f"Your numbers come out if {which} {words}. Use it as it is."
            yield sentence, lambda args, group=group, change=change: _changed(args, group, change)
    for k in numbers:
        for words, change in (("is one more", lambda n: n + 1), ("is one less", lambda n: n - 1)):
            if isinstance(first[k], int):
                sentence = f"Your numbers come out if {names[k]} {words}. Use it as it is."
                yield sentence, lambda args, k=k, change=change: _changed(args, (k,), change)


def _exchanged(args, *pairs):
    args = list(args)
    for a, b in pairs:
        args[a], args[b] = args[b], args[a]
    return args


def _permuted(args, to, order):
    moved = {place: args[source] for place, source in zip(to, order, strict=True)}
    return [moved.get(k, arg) for k, arg in enumerate(args)]


def _changed(args, group, change):
    return [change(arg) if k in group and arg is not None else arg for k, arg in enumerate(args)]
