"""Checks of single values: each returns the value in its plain type or raises ConfigError naming field and range.

Knows no field of its own.
"""

import math
import operator
import reprlib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from candle_vllm.errors import ConfigError

_MOST_CORES = 8191


def refuse(field: str, value: object, expected: str, *, place: str = "") -> NoReturn:
    """Raise the ConfigError that says which field had which value and what it may be.

    `place` says where in the field the value was, as in `[3]`.
    """
    raise ConfigError(
        f"{field}{place} must be {expected}; got {shown(value)}", field=field, value=value, expected=expected
    )


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 80
_REPR.maxdict = _REPR.maxlevel = 3


def shown(value: object) -> str:
    """A value as messages show it: as Python writes it, on one line of at most 80 characters."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # an int of more digits than Python writes
        text = f"{type(value).__name__} of more digits than can be shown"
    return text if len(text) <= 80 else text[:77] + "..."


def integer(field: str, value: object, low: int, high: int | None = None, *, off: str = "", place: str = "") -> int:
    """An int in [low, high]; whatever has `__index__` (numpy's integers) counts, a bool does not."""
    upper = "" if high is None else f" and at most {high}"
    expected = f"an integer of at least {low}{upper}{off}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        refuse(field, value, expected, place=place)
    number = operator.index(value)
    if number < low or (high is not None and number > high):
        refuse(field, value, expected, place=place)
    return number


def optional_integer(field: str, value: object, low: int, high: int | None = None, *, none: str) -> int | None:
    """As `integer`, or None, of which `none` says what it means."""
    if value is None:
        return None
    return integer(field, value, low, high, off=f", or None ({none})")


def number(field: str, value: object, low: float, high: float, *, open_low: bool = False, place: str = "") -> float:
    """A finite float in [low, high], or (low, high] where `open_low`; a bool or a text is refused."""
    expected = f"a number {'above' if open_low else 'from'} {low:g} {'and at most' if open_low else 'to'} {high:g}"
    if isinstance(value, bool | str | bytes):
        refuse(field, value, expected, place=place)
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        refuse(field, value, expected, place=place)
    if not math.isfinite(result) or result < low or result > high or (open_low and result == low):
        refuse(field, value, expected, place=place)
    return result


def cores(field: str, value: object) -> tuple[int, ...]:
    """Numbers of cores from a text such as `0-3,8` or a sequence of them, each once, in the order given."""
    expected = 'cores such as "0,1", "0-3" or [0, 1]'
    found: list[int] = []
    if isinstance(value, str):
        for part in value.split(","):
            first, dash, last = (piece.strip() for piece in part.partition("-"))
            ends = [first, last] if dash else [first, first]
            if not all(end.isascii() and end.isdigit() and int(end) <= _MOST_CORES for end in ends):
                refuse(field, value, expected)
            low, high = map(int, ends)
            if low > high:
                refuse(field, value, expected)
            found += range(low, high + 1)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        found = [integer(field, core, 0, _MOST_CORES, place=f"[{place}]") for place, core in enumerate(value)]
    else:
        refuse(field, value, expected)
    if not found:
        refuse(field, value, expected)
    return tuple(dict.fromkeys(found))


def boolean(field: str, value: object) -> bool:
    """True or False and nothing that merely behaves like it."""
    if not isinstance(value, bool):
        refuse(field, value, "True or False")
    return value


def choice(field: str, value: object, allowed: Iterable[str]) -> str:
    """One of the texts in `allowed`."""
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        refuse(field, value, "one of " + ", ".join(names))
    return value


def items(field: str, value: object, of: str, most: int | None = None) -> Sequence[object]:
    """A sequence or set that is no text, as a tuple; of at most `most`, which are counted before any is looked at."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        refuse(field, value, f"a list of {of}")
    kept = tuple(value)
    if most is not None and len(kept) > most:
        raise ConfigError(
            f"{field} must be a list of at most {most} {of}; got {len(kept)}",
            field=field,
            value=value,
            expected=f"a list of at most {most} {of}",
        )
    return kept


def text(field: str, value: object, expected: str, *, empty: bool = False) -> str:
    """A text that UTF-8 can hold (half of a surrogate pair is refused), not empty unless `empty`."""
    if not isinstance(value, str) or not (value or empty):
        refuse(field, value, expected)
    if not encodable(value):
        refuse(field, value, f"{expected}, without halves of surrogate pairs")
    return value


def encodable(value: str) -> bool:
    """Whether UTF-8 can hold a text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
