"""Checks of single values: each returns the value in its plain type or raises ConfigError naming field and range.

Knows no field of its own.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import NoReturn

from candle_vllm.errors import ConfigError

_MOST_CORES = 8191


def refuse(field: str, value: object, expected: str) -> NoReturn:
    """Raise the ConfigError that says which field had which value and what it may be."""
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    raise ConfigError(f"{field} must be {expected}; got {shown}")


def integer(field: str, value: object, low: int, high: int | None = None, *, off: str = "") -> int:
    """An int in [low, high]; whatever has `__index__` (numpy's integers) counts, a bool does not."""
    upper = "" if high is None else f" and at most {high}"
    expected = f"an integer of at least {low}{upper}{off}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        refuse(field, value, expected)
    number = operator.index(value)
    if number < low or (high is not None and number > high):
        refuse(field, value, expected)
    return number


def optional_integer(field: str, value: object, low: int, high: int | None = None, *, none: str) -> int | None:
    """As `integer`, or None, of which `none` says what it means."""
    if value is None:
        return None
    return integer(field, value, low, high, off=f", or None ({none})")


def number(field: str, value: object, low: float, high: float, *, open_low: bool = False) -> float:
    """A finite float in [low, high], or (low, high] where `open_low`; a bool or a text is refused."""
    expected = f"a number {'above' if open_low else 'from'} {low:g} {'and at most' if open_low else 'to'} {high:g}"
    if isinstance(value, bool | str | bytes):
        refuse(field, value, expected)
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        refuse(field, value, expected)
    if not math.isfinite(result) or result < low or result > high or (open_low and result == low):
        refuse(field, value, expected)
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
        found = [integer(f"{field}[{place}]", core, 0, _MOST_CORES) for place, core in enumerate(value)]
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


def items(field: str, value: object, of: str) -> Sequence[object]:
    """A sequence or set that is no text, as a tuple."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        refuse(field, value, f"a list of {of}")
    return tuple(value)
