"""Scanning JSON as it is written: where a value ends, told by strings and brackets and not by what it says.

Values pass through verbatim. Two slips of models are mended on the way, since a reader could not parse them: raw
control characters inside strings are escaped, and a value that the format's end mark cuts off is closed.
"""

from __future__ import annotations

import json
import re

from candle_vllm.pieces import EndOfReply, Marks, Parse, Reader, Sink, drop, marks

__all__ = ["decoded", "quoted", "string", "text_of_string", "value"]

_CONTROL = [chr(code) for code in range(0x20)]
_IN_STRING = Marks('"', "\\", *_CONTROL)
_ESCAPES = {character: json.dumps(character)[1:-1] for character in _CONTROL}
_STRUCTURE = ('"', "{", "}", "[", "]")
_AFTER_SCALAR = (",", "}", "]", ":", " ", "\n", "\r", "\t")


def quoted(text: str) -> str:
    """The inside of a JSON string that says `text`; pieces may be joined."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def decoded(raw: str) -> str:
    """What the inside of a JSON string says; the raw text itself where its escapes are broken."""
    try:
        text = json.loads(f'"{raw}"', strict=False)
    except ValueError:
        return raw
    return text if isinstance(text, str) else raw


def string(reader: Reader, sink: Sink) -> Parse[None]:
    """The inside of a string whose opening quote is consumed, and its closing quote; only the inside goes to `sink`."""
    while True:
        mark = yield from reader.upto(_IN_STRING, sink)
        if not mark:
            raise EndOfReply
        if mark == "\\":
            escape = yield from reader.peek(2)
            if len(escape) < 2:
                reader.take(len(escape))
                raise EndOfReply
            reader.take(2)
            sink(escape if escape[1] >= " " else "\\" + _ESCAPES[escape[1]])
            continue
        reader.take(1)
        if mark == '"':
            return
        sink(_ESCAPES[mark])


def text_of_string(reader: Reader) -> Parse[str]:
    """What a string says whose opening quote is the next character."""
    reader.take(1)
    pieces: list[str] = []
    yield from string(reader, pieces.append)
    return decoded("".join(pieces))


def value(reader: Reader, sink: Sink, ends: tuple[str, ...] = ()) -> Parse[None]:
    """One JSON value, the next character being its first. Stops before `ends` where they stand outside a string."""
    first = yield from reader.peek()
    if first == '"':
        sink(reader.take(1))
        yield from string(reader, sink)
        sink('"')
    elif first and first in "{[":
        yield from _nested(reader, sink, ends)
    else:
        yield from reader.upto(marks(*_AFTER_SCALAR, *ends), sink)


def _nested(reader: Reader, sink: Sink, ends: tuple[str, ...]) -> Parse[None]:
    structure = marks(*_STRUCTURE, *ends)
    open_brackets: list[str] = []
    while True:
        mark = yield from reader.upto(structure, sink)
        if not mark:
            raise EndOfReply
        if mark in ends:
            sink("".join(reversed(open_brackets)))
            return
        sink(reader.take(1))
        if mark == '"':
            yield from string(reader, sink)
            sink('"')
        elif mark in "{[":
            open_brackets.append("}" if mark == "{" else "]")
        else:
            open_brackets.pop()
            if not open_brackets:
                return


def skip_value(reader: Reader, ends: tuple[str, ...] = ()) -> Parse[None]:
    """Consume one value that nobody wants."""
    yield from value(reader, drop, ends)


_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")


def is_number(text: str) -> bool:
    """Whether this is a number as JSON writes it."""
    return _NUMBER.fullmatch(text) is not None
