"""Python literals as models write them in calls, read as a stream and told as JSON. Nothing is evaluated.

Knows strings with their prefixes and escapes, numbers, True/False/None and their JSON spellings, lists, tuples, sets
and dicts. Any other expression becomes a JSON string of its source. A quote inside a string of the same quotes is
data unless a delimiter follows it.
"""

from __future__ import annotations

import json
import re

from candle_vllm.pieces import EndOfReply, Parse, Reader, Sink, marks

from . import json_text

__all__ = ["IDENTIFIER", "scalar", "value"]

IDENTIFIER = re.compile(r"[\w.\-]*")
"""Characters of names: of functions, with dots and dashes, and of parameters."""

_DEEPEST = 64  # brackets within brackets; what is deeper is told as source text
_WORDS = {"True": "true", "true": "true", "False": "false", "false": "false", "None": "null", "null": "null"}
_SIMPLE = {"n": "\\n", "t": "\\t", "r": "\\r", "b": "\\b", "f": "\\f", "\\": "\\\\", '"': '\\"', "'": "'", "/": "/"}
_CODES = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9a-fA-F]+")
_LONGEST_NUMBER = 64  # characters of a number that JSON would not write alike
_DELIMITERS = ",)]}:"
_CLOSING = ("", ")", "]", "}")
_PREFIX = re.compile(r"(?i:[rbuf]{1,2})")


def value(reader: Reader, sink: Sink, begun: str = "", ends: tuple[str, ...] = (), depth: int = 0) -> Parse[None]:
    """One value as JSON, up to the delimiter that follows it. `begun` is its beginning where that is consumed."""
    head = "" if begun else (yield from reader.peek())
    if head and head in "[(" and depth < _DEEPEST:
        reader.take(1)
        sink("[")
        yield from _items(reader, sink, "]" if head == "[" else ")", ends, depth, first=True)
    elif head == "{" and depth < _DEEPEST:
        yield from _braces(reader, sink, ends, depth)
    elif head and head in "\"'":
        yield from _string(reader, sink, raw=False, ends=ends)
    else:
        word: list[str] = [begun]
        if not begun:
            yield from reader.run(IDENTIFIER, word.append)
        prefix = "".join(word)
        quote = yield from reader.peek()
        if quote and quote in "\"'" and _PREFIX.fullmatch(prefix):
            yield from _string(reader, sink, raw="r" in prefix.lower(), ends=ends)
        else:
            source = [prefix]
            yield from _expression(reader, source, ends)
            sink(scalar("".join(source)))


def scalar(source: str) -> str:
    """The JSON text of a number, a word or any other expression."""
    text = source.strip()
    if text in _WORDS:
        return _WORDS[text]
    if json_text.is_number(text):
        return text
    # Python's own numbers: 0x10 and 1_000, 1. and .5, and 07, which is none but is meant; never infinities.
    for number in (_whole, _fraction):
        try:
            return number(text)
        except ValueError:
            continue
    return json.dumps(text, ensure_ascii=False)


def _whole(text: str) -> str:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(text)
    return str(int(text, 10 if text.lstrip("+-0_").isdecimal() else 0))


def _fraction(text: str) -> str:
    return json.dumps(float(text), allow_nan=False)


def _items(reader: Reader, sink: Sink, close: str, ends: tuple[str, ...], depth: int, *, first: bool) -> Parse[None]:
    """The values of a list up to its closing bracket, told with `]`."""
    while True:
        head = yield from _next_item(reader, ends)
        if head in _CLOSING:
            _close(reader, head, close)
            sink("]")
            return
        if not first:
            sink(", ")
        first = False
        yield from value(reader, sink, "", ends, depth + 1)


def _close(reader: Reader, head: str, close: str) -> None:
    # A parenthesis where another bracket should close belongs to the call around it.
    if head == close or head != ")":
        reader.take(len(head))


def _braces(reader: Reader, sink: Sink, ends: tuple[str, ...], depth: int) -> Parse[None]:
    """A dict, or a set, which is told as a list."""
    reader.take(1)
    opening = "{"
    while True:
        head = yield from _next_item(reader, ends)
        if head in _CLOSING:
            _close(reader, head, "}")
            sink("{}" if opening == "{" else "}")
            return
        key: list[str] = []
        yield from value(reader, key.append, "", ends, depth + 1)
        yield from reader.space()
        colon = yield from reader.peek()
        if colon == ":":
            reader.take(1)
            yield from reader.space()
        elif opening == "{":
            sink("[" + "".join(key))
            yield from _items(reader, sink, "}", ends, depth, first=False)
            return
        sink(f"{opening}{_key(''.join(key))}: ")
        opening = ", "
        if colon == ":":
            yield from value(reader, sink, "", ends, depth + 1)
        else:
            sink("null")


def _key(text: str) -> str:
    return text if text.startswith('"') else json.dumps(text, ensure_ascii=False)


def _next_item(reader: Reader, ends: tuple[str, ...]) -> Parse[str]:
    """The next character that neither separates nor is white space, not consumed; "" before an end mark."""
    while True:
        yield from reader.space()
        head = yield from reader.peek()
        if not head:
            raise EndOfReply
        if head not in ",:":
            return "" if ends and (yield from reader.at_mark(marks(*ends))) else head
        reader.take(1)


def _expression(reader: Reader, source: list[str], ends: tuple[str, ...]) -> Parse[None]:
    """The source of any expression up to the delimiter that ends it."""
    wanted = marks(",", ")", "]", "}", ":", "(", "[", "{", '"', "'", *ends)
    open_brackets = 0
    while True:
        mark = yield from reader.upto(wanted, source.append)
        if not mark:
            raise EndOfReply
        if mark in ends or (open_brackets == 0 and mark in _DELIMITERS):
            return
        source.append(reader.take(1))
        if mark in "([{":
            open_brackets += 1
        elif mark in ")]}":
            open_brackets -= 1
        elif mark in "\"'":
            inside = marks(mark)
            yield from reader.upto(inside, source.append)
            source.append(reader.take(1))


def _string(reader: Reader, sink: Sink, *, raw: bool, ends: tuple[str, ...]) -> Parse[None]:
    """A string literal, told as a JSON string."""
    quote = yield from reader.peek(3)
    if quote not in ('"""', "'''"):
        quote = quote[0]
    reader.take(len(quote))
    sink('"')
    wanted = marks(quote, "\\")

    def plain(piece: str) -> None:
        sink(json_text.quoted(piece))

    while True:
        mark = yield from reader.upto(wanted, plain)
        if not mark:
            raise EndOfReply
        if mark == "\\":
            yield from _escape(reader, sink, raw=raw)
        else:
            closes = yield from _closes(reader, len(quote), ends)
            reader.take(len(quote))
            if closes:
                sink('"')
                return
            plain(quote)


def _closes(reader: Reader, at: int, ends: tuple[str, ...]) -> Parse[bool]:
    """Whether a quote ends its string: a delimiter, an end mark or the reply's end follows."""
    after = yield from reader.peek_past_space(at, 1)
    return not after or after in _DELIMITERS or any(after == end[0] for end in ends)


def _escape(reader: Reader, sink: Sink, *, raw: bool) -> Parse[None]:
    """One escape, the backslash being the next character."""
    pair = yield from reader.peek(2)
    if len(pair) < 2:
        reader.take(len(pair))
        raise EndOfReply
    kind = pair[1]
    if raw:
        reader.take(2)
        sink(json_text.quoted(pair))
    elif kind in _CODES:
        length = _CODES[kind]
        code = (yield from reader.peek(2 + length))[2:]
        if len(code) < length or not _HEX.fullmatch(code) or int(code, 16) > 0x10FFFF:
            reader.take(2)
            sink(json_text.quoted(pair))
            return
        reader.take(2 + length)
        # Four digits stay an escape: two of them may be one character, as in JSON.
        sink(f"\\u{code}" if length == 4 else json_text.quoted(chr(int(code, 16))))
    else:
        reader.take(2)
        if kind == "\n":
            return
        sink(_SIMPLE[kind] if kind in _SIMPLE else json_text.quoted(pair))
