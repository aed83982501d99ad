"""Calls written as Gemma writes them: `call:name{key:<|"|>text<|"|>,n:3}`, strings between marks and keys bare.

Shared by the formats of that kind. Values are read as a stream and told as JSON.
"""

from __future__ import annotations

import json

from candle_vllm.pieces import EndOfReply, Parse, Reader, Sink, marks

from . import json_text
from .calls import Calls
from .json_calls import Malformed
from .schemas import ANY
from .typed_text import to_json

__all__ = ["braced_call"]

_DEEPEST = 64
_OPEN = "call:"


def braced_call(reader: Reader, calls: Calls, quote: str, ends: tuple[str, ...]) -> Parse[None]:
    """One call and the end mark if it is there; `quote` stands on both sides of strings."""
    yield from reader.space()
    if not (yield from reader.at_mark(marks(_OPEN))):
        if not (yield from reader.peek()):
            raise EndOfReply
        raise Malformed
    reader.take(len(_OPEN))
    pieces: list[str] = []
    mark = yield from reader.upto(marks("{", *ends), pieces.append)
    name = "".join(pieces).strip()
    if not mark:
        raise EndOfReply
    if not name or mark != "{":
        raise Malformed
    calls.begin(name)
    yield from _Values(reader, quote, ends).object(calls.arguments, calls, name)
    calls.end()
    yield from reader.space()
    if ends:
        reader.take(len((yield from reader.at_mark(marks(*ends)))))


class _Values:
    """Reads values; bare words that are no JSON become strings."""

    def __init__(self, reader: Reader, quote: str, ends: tuple[str, ...]) -> None:
        self._reader = reader
        self._quote = quote
        self._ends = ends
        self._depth = 0

    def object(self, sink: Sink, calls: Calls | None = None, name: str = "") -> Parse[None]:
        """Members up to the closing brace; those of a call's arguments are typed by its tool's schema."""
        self._reader.take(1)
        opening = "{"
        while True:
            head = yield from self._next()
            if head in _CLOSING:
                self._reader.take(len(head))
                sink("{}" if opening == "{" else "}")
                return
            key = yield from self._key()
            sink(f'{opening}"{json_text.quoted(key)}": ')
            opening = ", "
            kinds = calls.tools.kinds(name, key) if calls is not None else ANY
            yield from self._value(sink, kinds)

    def _list(self, sink: Sink) -> Parse[None]:
        self._reader.take(1)
        opening = "["
        while True:
            head = yield from self._next()
            if head in _CLOSING:
                self._reader.take(len(head))
                sink("[]" if opening == "[" else "]")
                return
            sink(opening)
            opening = ", "
            yield from self._value(sink, ANY)

    def _next(self) -> Parse[str]:
        """The next character that does not separate, not consumed; "" before an end mark."""
        while True:
            yield from self._reader.space()
            head = yield from self._reader.peek()
            if not head:
                raise EndOfReply
            if head not in ",:":
                return "" if self._ends and (yield from self._reader.at_mark(marks(*self._ends))) else head
            self._reader.take(1)

    def _key(self) -> Parse[str]:
        pieces: list[str] = []
        quoted = yield from self._reader.at_mark(marks(self._quote, '"'))
        if quoted:
            self._reader.take(len(quoted))
            yield from self._string(quoted, pieces.append)
            yield from self._reader.upto(marks(":", ",", "}", *self._ends), pieces.append)
            return "".join(pieces)
        mark = yield from self._reader.upto(marks(":", ",", "}", *self._ends), pieces.append)
        if not mark:
            raise EndOfReply
        return "".join(pieces).strip()

    def _string(self, quote: str, sink: Sink) -> Parse[None]:
        if not (yield from self._reader.upto(marks(quote), sink)):
            raise EndOfReply
        self._reader.take(len(quote))

    def _value(self, sink: Sink, kinds: frozenset[str]) -> Parse[None]:
        reader = self._reader
        yield from reader.space()
        mark = yield from reader.at_mark(marks(":"))
        if mark:
            reader.take(1)
            yield from reader.space()
        quoted = yield from reader.at_mark(marks(self._quote, '"'))
        head = yield from reader.peek()
        if not head:
            raise EndOfReply
        if quoted == self._quote:
            reader.take(len(quoted))
            sink('"')
            yield from self._string(quoted, lambda piece: sink(json_text.quoted(piece)))
            sink('"')
        elif quoted:
            yield from json_text.value(reader, sink, self._ends)
        elif head in "{[" and self._depth < _DEEPEST:
            self._depth += 1
            yield from self.object(sink) if head == "{" else self._list(sink)
            self._depth -= 1
        else:
            pieces: list[str] = [reader.take(1)] if head in "{[" else []
            if not (yield from reader.upto(marks(",", "}", "]", *self._ends), pieces.append)):
                raise EndOfReply
            sink(_bare("".join(pieces).strip(), kinds))


_CLOSING = ("", "}", "]")


def _bare(text: str, kinds: frozenset[str]) -> str:
    """A value without quotes: a number or a word of JSON unless it has to be a string."""
    return json.dumps(text, ensure_ascii=False) if kinds == {"string"} else to_json(text, kinds)
