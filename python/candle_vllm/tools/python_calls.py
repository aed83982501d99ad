"""Calls written as Python: `[get_weather(city="Paris", days=3), now()]`. Shared by every format of that kind."""

from __future__ import annotations

from candle_vllm.pieces import EndOfReply, Parse, Reader, marks

from . import json_text, python_text
from .calls import Calls
from .json_calls import Malformed

__all__ = ["python_calls"]


def python_calls(reader: Reader, calls: Calls, ends: tuple[str, ...] = (), *, listed: bool = False) -> Parse[None]:
    """Calls in a list, or one a line, and the end mark if it is there.

    `listed` asks for the list's brackets, for calls without tags around them. Raises `Malformed` where no call stands.
    """
    yield from reader.space()
    head = yield from reader.peek()
    bracket = head == "["
    if listed and not bracket:
        raise Malformed
    if bracket:
        reader.take(1)
    found = False
    while True:
        head = yield from reader.peek_past_space(0, 1)
        if head and (head.isalpha() or head == "_"):
            if found:
                reader.keep()
            yield from reader.space()
            yield from _call(reader, calls, ends)
            found = True
        elif found and head and head in ",;":
            yield from reader.space()
            reader.take(1)
        elif head == "]" and bracket:
            yield from reader.space()
            reader.take(1)
            bracket = False
            found = found or not listed
            if listed:
                break
        else:
            break
    if not found:
        if not head:
            raise EndOfReply
        raise Malformed
    if bracket and not head:
        raise EndOfReply
    reader.forget()
    if ends:
        space = yield from reader.space()
        mark = yield from reader.at_mark(marks(*ends))
        calls.text("" if mark else space)
        reader.take(len(mark))


def _call(reader: Reader, calls: Calls, ends: tuple[str, ...]) -> Parse[None]:
    """`name(key=value, ...)`, the name's first character being the next one."""
    pieces: list[str] = []
    yield from reader.run(python_text.IDENTIFIER, pieces.append)
    name = "".join(pieces)
    after = yield from reader.peek()
    if not after:
        raise EndOfReply
    if after != "(":
        raise Malformed
    reader.take(1)
    position = 0
    while True:
        yield from reader.space()
        head = yield from reader.peek()
        if not head:
            raise EndOfReply
        if head in ",:":
            reader.take(1)
            continue
        if head in ")]}" or (ends and (yield from reader.at_mark(marks(*ends)))):
            break
        yield from _argument(reader, calls, name, position, ends)
        position += 1
    if head == ")":
        reader.take(1)
    if calls.name is None:
        calls.begin(name)
    calls.arguments("}" if position else "{}")
    calls.end()


def _argument(reader: Reader, calls: Calls, name: str, position: int, ends: tuple[str, ...]) -> Parse[None]:
    """`key=value`, or a value alone, which takes the name of the parameter at its place."""
    pieces: list[str] = []
    yield from reader.run(python_text.IDENTIFIER, pieces.append)
    key: str | None = "".join(pieces)
    begun = ""
    after = yield from reader.peek_past_space(0, 2)
    if key and after[:1] == "=" and after != "==":
        yield from reader.space()
        reader.take(1)
        yield from reader.space()
    else:
        begun, key = key or "", calls.tools.parameter_at(name, position)
        if key is None and calls.name is None:
            raise Malformed
    if calls.name is None:
        calls.begin(name)
    label = json_text.quoted(key if key is not None else f"arg{position}")
    calls.arguments(f'{"{" if position == 0 else ", "}"{label}": ')
    yield from python_text.value(reader, calls.arguments, begun, ends)
