"""Misconceptions as edits of one implementation, so that two of them can be made at once."""

import re
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

ALONE = re.compile(r"<([^<> =][^<>]*)>")  # a "<" that compares has a space behind it


class Misconception:
    """The sentence for whoever made a mistake, and the mistake: what stands in some slots of the exercise's form.

    A form is a right implementation whose choices are keyword arguments, and a table has a row for each mistake:

        def form(x_0, t, noise, alphas_bar, *, at=at, signal=torch.sqrt, spread=lambda a_bar: (1 - a_bar).sqrt()):
            a_bar = at(alphas_bar, t, x_0)
            return signal(a_bar) * x_0 + spread(a_bar) * noise

        misconceptions={
            "You scaled the noise by a variance. Take its root.": dict(spread=lambda a_bar: 1 - a_bar),
            "You exchanged the two<: at t = 0 yours is noise>. sqrt(alpha_bar) belongs to x_0.": dict(signal=..., ...),
        }

    <...> encloses what holds only if nothing else is wrong. It is left out in `brief`, which is said of the mistake
    beside a second one, and must read well without it.
    Every form has one slot more, `give`: what is done at the end with its results. Two make a pair if their slots
    differ: a mistake that rules another out names its slots, if only with the default.
    instead: a whole implementation, for a mistake that no slot says.
    """

    def __init__(self, sentence: str, *, instead: Callable | None = None, **edits: Any):
        self.sentence, self.brief = ALONE.sub(r"\1", sentence), ALONE.sub("", sentence)
        self.instead, self.edits = instead, edits

    def __repr__(self):  # no address, and no answer given away
        return f"Misconception({self.sentence[:20]}...)"


class Wrong(NamedTuple):
    """A wrong implementation and the misconceptions in it."""

    function: Callable
    made: tuple[Misconception, ...]


def implemented(form: Callable | None, *made: Misconception) -> Wrong:
    """The form with all these edits."""
    edits = {slot: edit for misconception in made for slot, edit in misconception.edits.items()}
    start = next((misconception.instead for misconception in made if misconception.instead), form)
    give = edits.pop("give", None)

    def function(*args):
        result = start(*args, **edits) if edits else start(*args)
        if give is None:
            return result
        return give(*result) if isinstance(result, tuple) else give(result)

    return Wrong(function, made)


def pairs(form: Callable | None, misconceptions: list[Misconception]) -> Iterator[Wrong]:
    """Every two that can be made at once: their slots differ, and a whole implementation takes only a `give`."""
    for a, b in combinations(misconceptions, 2):
        slots = [*a.edits, *b.edits]
        whole = [misconception for misconception in (a, b) if misconception.instead]
        others = [slot for misconception in (a, b) if not misconception.instead for slot in misconception.edits]
        if len(set(slots)) == len(slots) and len(whole) < 2 and (not whole or others == ["give"]):
            yield implemented(form, a, b)
