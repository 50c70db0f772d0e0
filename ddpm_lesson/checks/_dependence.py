"""What a result depends on: an argument that it ignores, an image that changes with another."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ddpm_lesson.checks._evidence import Evidence
from ddpm_lesson.checks._values import same

CASES = 3  # inputs on which a dependence is looked for


def ignored_argument(evidence: Evidence) -> str:
    """A sentence for an argument that changes the right result and never the answer's."""
    check = evidence.check
    ignored = []
    for position, name in enumerate(check.parameters):
        moved = 0
        for case in _usable(evidence):
            base_got, base_want = evidence.calls(*case.args), evidence.should(*case.args)
            for other in itertools.islice(_others(evidence, case.args[position], position), 8):
                args = (*case.args[:position], other, *case.args[position + 1 :])
                want, got = evidence.should(*args), evidence.calls(*args)
                if want is None or same(want, base_want):
                    continue
                if got is None or not same(got, base_got):
                    moved = -1
                    break
                moved += 1
            if moved < 0:
                break
        if moved > 1:
            ignored.append(_sentence(evidence, name, position))
    return " ".join(ignored) if len(ignored) < len(check.parameters) else ""  # a constant is no formula


def _usable(evidence):
    pairs = zip(evidence.check.cases, evidence.got, strict=True)
    return [case for case, got in pairs if got is not None and got.isfinite().any()][:CASES]


def _others(evidence, arg: Any, position: int) -> Iterator[Any]:
    """Other values of an argument that an answer must be able to take."""
    if isinstance(arg, Tensor) and arg.ndim:
        yield arg.flip(tuple(range(arg.ndim)))
        yield arg.roll(1, 0)
        if arg.is_floating_point():
            yield arg / 2
        else:
            yield torch.zeros_like(arg)
        return
    for case in evidence.check.cases:
        other = case.args[position]
        if other is not arg and (not isinstance(other, int | float | list) or other != arg):
            yield other
    if isinstance(arg, float):  # a cap that is never reached is used all the same
        yield from (arg / 20, -arg)


def _sentence(evidence, name, position):
    values = {}
    for i, (case, got) in enumerate(zip(evidence.check.cases, evidence.got, strict=True)):
        if isinstance(case.args[position], int | float) and got is not None:
            values.setdefault(case.args[position], []).append(i not in evidence.wrong)
    right = [value for value, rows in values.items() if all(rows)]
    if len(right) == 1 and len(values) > 1:
        return (
            f"{evidence.subject} is right for {name} = {right[0]} only: it does not depend on {name}. Use the argument."
        )
    return f"{evidence.subject} does not depend on {name}. Use the argument."


def another_image(evidence: Evidence) -> str:
    """A sentence for an image whose result changes with another image's argument, where the right one does not."""
    for case in _usable(evidence):
        named = evidence.named(case.args)
        sizes = {len(named[name]) for name in evidence.check.batch}
        base = evidence.calls(*case.args)
        if len(sizes) != 1 or base is None or base.ndim == 0 or len(base) not in sizes or len(base) < 3:
            continue
        for name in evidence.check.batch:
            found = _sources(evidence, case.args, name)
            if any(source - {image} for image, source in found.items()):
                turned = [arg.flip(0) if n in evidence.check.batch else arg for n, arg in named.items()]
                again = _sources(evidence, tuple(turned), name)
                return _of_others(name, found, again)
    return ""


def _sources(evidence, args, name):
    """For each image of the result, the images whose `name` it changes with."""
    position, base = evidence.check.parameters.index(name), evidence.calls(*args)
    if base is None:
        return {}
    found: dict[int, set[int]] = {image: set() for image in range(len(base))}
    for j in range(len(base)):
        other = args[position].clone()
        if other.is_floating_point():
            other[j] = other[j] / 2 + 0.125
        else:
            other[j] = other[j] - 1 if other[j] > 0 else 1
        changed, right = ([*args[:position], other, *args[position + 1 :]] for _ in range(2))
        got, want, before = evidence.calls(*changed), evidence.should(*right), evidence.should(*args)
        if got is None or want is None or got.shape != base.shape:
            return {}
        for image in range(len(base)):
            if not same(got[image], base[image]) and (image != j and same(want[image], before[image]) or image == j):
                found[image].add(j)
    return found


def _of_others(name, found, again):
    """again: the same for the batch in reverse order; the largest t, say, then has another place and is no image's."""
    one_for_all = {j for sources in found.values() for j in sources}
    if len(one_for_all) == 1 and one_for_all == {j for sources in again.values() for j in sources}:
        which = {0: "first", len(found) - 1: "last"}.get(*one_for_all, f"{one_for_all}")
        return f"You used the {which} image's {name} for the whole batch. Every image has its own."
    image, sources = next((image, sources - {image}) for image, sources in found.items() if sources - {image})
    own = "" if image in found[image] else ", and not with its own"
    return (
        f"Image {image} of your result changes with {name} of image {min(sources)}{own}. "
        "Every image stands alone: look for a sum, product, mean or reshape over the batch."
    )
