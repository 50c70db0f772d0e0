"""The fields of recipes: what each means, what it may be, and the check of a value."""

import dataclasses
import math
import reprlib
from collections.abc import Collection
from typing import Any

LARGEST, MOST = 1e300, 10**12  # a number, and a count, that nobody needs more of
LEVELS = 16  # more than the sides of any image can be halved
ANY = (-math.inf, math.inf)
SHORT = reprlib.Repr()
SHORT.maxlong = SHORT.maxstring = SHORT.maxother = 100  # letters of a value in an error


def field(
    default: Any, words: str = "", choices: Collection | None = None, *, within: tuple[float, float] | None = None
) -> Any:
    """A field of a recipe.  words: what it is. choices: its values. within: the least and the largest number.

    Of a list of integers they hold for each. Without choices and a range any value of the field's type may come.
    """
    metadata = {"help": words, "choices": choices, "within": within or ANY}
    return dataclasses.field(default=default, metadata=metadata)


def check_fields(recipe: Any) -> None:
    """Bring each field of a frozen dataclass into its type. Raises ValueError that says what was expected and came."""
    for each in dataclasses.fields(recipe):
        object.__setattr__(recipe, each.name, _checked(each, getattr(recipe, each.name)))


def short(text: str) -> str:
    """A text that came from outside, cut in the middle if it is too long for an error."""
    return text if len(text) <= SHORT.maxstring else f"{text[:60]} ... {text[-30:]}"


def _checked(field: dataclasses.Field, value: Any) -> Any:
    choices, (low, high), kind = field.metadata.get("choices"), field.metadata.get("within", ANY), field.type
    if kind == tuple[int, ...]:
        expected = f"a list of integers, at most {LEVELS} and each in {low}..{high}"
        fits = isinstance(value, list | tuple) and all(type(v) is int for v in value)
        fits = fits and len(value) <= LEVELS and all(low <= v <= high for v in value)
        value = tuple(value) if fits else value
    elif choices is not None:
        expected, fits = f"one of {', '.join(map(str, choices))}", type(value) in (str, int) and value in choices
    elif kind in (int, float, int | None):
        expected = f"{'a number' if kind is float else 'an integer'} in {low}..{high}"
        fits = type(value) in (int, kind) and low <= value <= high
        value = float(value) if fits and kind is float else value
        if kind == int | None:
            expected, fits = f"{expected} or None", fits or value is None
    else:
        assert not isinstance(kind, str)  # types are not postponed in this file
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        expected = str(getattr(kind, "__name__", kind))
    if not fits:
        raise ValueError(f"{field.name} must be {expected}, got {SHORT.repr(value)}")
    return value
