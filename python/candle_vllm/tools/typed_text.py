"""Arguments written as plain text between tags, typed by the tool's schema: the values of the XML formats."""

from __future__ import annotations

import json

from candle_vllm.pieces import EndOfReply, Reader

from . import python_text
from .schemas import ANY

__all__ = ["to_json"]

_LONGEST_LITERAL = 1 << 16  # characters of Python source that are read as a literal; longer text stays text
_NON_STRING = frozenset(("null", "boolean", "integer", "number", "array", "object"))


def to_json(text: str, kinds: frozenset[str]) -> str:
    """The JSON text of a value that may have these types; what none of them fits is a string, as it stands."""
    wanted = (kinds or _NON_STRING) - {"string"}
    stripped = text.strip()
    if wanted and stripped:
        for candidate in _candidates(stripped):
            if _kind(candidate) & wanted:
                return candidate
    return json.dumps(text, ensure_ascii=False)


def _candidates(text: str) -> list[str]:
    """The text as JSON, as it is if it is JSON, or read as Python if that is what the model wrote."""
    if _kind(text):
        return [text]
    if len(text) > _LONGEST_LITERAL or text[0] not in "[{(TFN+.0123456789-":
        return []
    pieces: list[str] = []
    reader = Reader()
    reader.feed(f"{text},")
    reader.close()
    try:
        for _ in python_text.value(reader, pieces.append):
            break
    except (EndOfReply, RecursionError):
        return []
    return [] if reader.rest() != "," else ["".join(pieces)]


def _kind(text: str) -> frozenset[str]:
    """The types that a JSON text has; none when it is no JSON."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return ANY
    if isinstance(value, bool) or value is None:
        return frozenset(("null" if value is None else "boolean",))
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return frozenset(("integer", "number"))
    name = {float: "number", str: "string", list: "array"}.get(type(value), "object")
    return frozenset((name,))


def _refuse(constant: str) -> None:
    raise ValueError(constant)
