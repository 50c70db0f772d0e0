"""The exercises that a machine can grade, and the known mistakes that a verdict names."""

import re
from functools import cache
from typing import Any, NamedTuple


class Exercise(NamedTuple):
    """number: as "1.4". name: of the function. check: its name in `checks`, which differs for `meets` alone."""

    number: str
    name: str
    check: str

    @property
    def chapter(self) -> int:
        return int(self.number.split(".")[0])


@cache
def exercises() -> tuple[Exercise, ...]:
    """All of the course's, in their order."""
    from ddpm_lesson import checks

    found = [Exercise(check.number, name, name) for name, check in checks.registry.items()]
    found.append(Exercise(checks.meets.number, checks.meets.name, "meets"))
    return tuple(sorted(found, key=lambda exercise: in_order(exercise.number)))


def in_order(number: str) -> tuple[int, ...]:
    """A key that sorts 1.9 before 1.10."""
    return tuple(map(int, number.split(".")))


def check_of(exercise: Exercise) -> Any:
    """Its check: a `Check`, or `meets`."""
    from ddpm_lesson import checks

    return getattr(checks, exercise.check)


def mistakes_in(exercise: Exercise, detail: str) -> list[str]:
    """The known mistakes that the words of a verdict name, as whole sentences; [] where it names none.

    detail: what `diagnose` returned beside "no". For `meets`: the requirements that were not met.
    """
    check = check_of(exercise)
    if exercise.check == "meets":
        return [f"Not met: {row}." for row in re.findall(r"^  (\S.*?)  .*<-$", detail, re.M)]
    known = [(mistake.sentence, {mistake.sentence, mistake.brief}) for mistake in check.mistakes]
    known += [(sentence, {sentence}) for sentence in (*check.cuts, check.grad_mode) if sentence]
    said = detail.casefold()  # a sentence may stand in the middle of another, and then begins with a small letter
    places = []
    for sentence, forms in known:
        lengths = [len(form) for form in forms if form.strip() and form.casefold() in said]
        if lengths:
            form = max((form for form in forms if form.casefold() in said), key=len)
            start = said.index(form.casefold())
            places.append((start, start + len(form), sentence))
    inside = [
        a for a in places if any(b[0] <= a[0] and a[1] <= b[1] and b[1] - b[0] > a[1] - a[0] for b in places)
    ]  # a short one that is part of a longer one was not said by itself
    return [place[2] for place in sorted(places) if place not in inside]
