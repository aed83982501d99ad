"""Calls written as JSON objects: `{"name": ..., "arguments": {...}}` in the many spellings that models use.

Shared by every format of that kind. Keys come in any order; the arguments may stand under `arguments` or
`parameters`, be wrapped in `function`, be text that holds JSON (double encoding), null or missing.
"""

from __future__ import annotations

import json

from candle_vllm.pieces import EndOfReply, Parse, Reader, Sink, marks

from . import json_text, python_text
from .calls import Calls

__all__ = ["Malformed", "arguments", "attempt", "json_calls"]

_NAME_KEYS = frozenset(("name", "tool_name"))
_ARGUMENT_KEYS = frozenset(("arguments", "parameters", "args"))
_ID_KEYS = frozenset(("id", "tool_call_id"))
_CALL_KEYS = _NAME_KEYS | _ARGUMENT_KEYS | _ID_KEYS | {"function", "type"}


class Malformed(Exception):  # noqa: N818 - the text is no call, which is no error
    """What looked like a call is none."""


def attempt(reader: Reader, calls: Calls, consumed: str, body: Parse[None], *, sure: bool = True) -> Parse[bool]:
    """Read what may be calls after `consumed`; what comes to nothing is text. Tells whether it was a call.

    Where the reply ends within, it was cut off if a call had begun or if a call was `sure` to come.
    """
    reader.keep(consumed)
    try:
        yield from body
        read = True
    except Malformed:
        read = False
    except EndOfReply:
        read = False
        if sure or calls.name is not None:
            calls.cut()
    rest = reader.kept()
    if rest and not read:
        calls.text(rest)
    elif calls.name is not None:
        calls.end()
    return read


def json_calls(
    reader: Reader,
    calls: Calls,
    ends: tuple[str, ...] = (),
    *,
    strict: bool = False,
    known: bool = False,
    own_ids: bool = False,
) -> Parse[None]:
    """One object, several, or a list of them, and the end mark if it is there.

    `strict` is for calls without tags around them: an object counts only if it is like nothing else than a call.
    `known`: only if it is of one of the tools, too, where there are any.
    `own_ids` keeps the ids that the model wrote. Raises `Malformed` where no call stands.
    """
    yield from reader.space()
    head = yield from reader.peek()
    if not head:
        raise EndOfReply
    listed = head == "["
    if listed:
        reader.take(1)
    found = False
    while True:
        head = yield from reader.peek_past_space(0, 1)
        if head == "{":
            yield from reader.space()
            if found:
                reader.keep()
            yield from _JsonCall(reader, calls, ends, strict, known, own_ids).read()
            found = True
        elif (found and head and head in ",;}]") or (listed and not strict and head == "]"):
            # A bracket too many is a slip that small models make at the end of nested arguments.
            yield from reader.space()
            reader.take(1)
            found = True
        else:
            break
    if not found:
        if not head:
            raise EndOfReply
        raise Malformed
    reader.forget()
    if ends:
        space = yield from reader.space()
        mark = yield from reader.at_mark(marks(*ends))
        calls.text("" if mark else space)
        reader.take(len(mark))


class _JsonCall:
    """Reads one call."""

    __slots__ = (
        "_begun",
        "_calls",
        "_ends",
        "_held",
        "_id",
        "_known",
        "_name",
        "_own_ids",
        "_reader",
        "_strict",
        "_wrapped",
    )

    def __init__(
        self, reader: Reader, calls: Calls, ends: tuple[str, ...], strict: bool, known: bool, own_ids: bool
    ) -> None:
        self._reader = reader
        self._calls = calls
        self._ends = ends
        self._strict = strict
        self._known = known
        self._own_ids = own_ids
        self._name: str | None = None
        self._id: str | None = None
        self._held: list[str] | None = None  # arguments that came before the name
        self._begun = False
        self._wrapped = False  # whether the members are those of `function`

    def read(self) -> Parse[None]:
        """The object whose opening brace is the next character."""
        yield from self._members()
        if not self._begun:
            if self._strict and self._held is None and self._name not in self._calls.tools:
                raise Malformed
            self._begin()
            self._calls.arguments("".join(self._held or ()) or "{}")
        self._calls.end()

    def _begin(self) -> None:
        tools = self._calls.tools
        if not self._name or (self._known and len(tools) and self._name not in tools):
            raise Malformed
        self._calls.begin(self._name, self._id if self._own_ids else None)
        self._begun = True

    def _members(self) -> Parse[None]:
        """The members of an object and its closing brace, or what stands where a member should."""
        reader = self._reader
        reader.take(1)
        while True:
            yield from reader.space()
            head = yield from reader.peek()
            if not head:
                raise EndOfReply
            if head in "},":
                reader.take(1)
                if head == "}":
                    return
                continue
            if head != '"':
                if self._begun:
                    return
                raise Malformed
            key = yield from json_text.text_of_string(reader)
            if self._strict and key not in _CALL_KEYS:
                raise Malformed
            yield from reader.space()
            colon = yield from reader.peek()
            if not colon:
                raise EndOfReply
            if colon != ":":
                raise Malformed
            reader.take(1)
            yield from reader.space()
            yield from self._member(key)

    def _member(self, key: str) -> Parse[None]:
        head = yield from self._reader.peek()
        if not head:
            raise EndOfReply
        if head == "{" and key == "function" and not self._wrapped:
            self._wrapped = True
            yield from self._members()
        elif head == '"' and self._name is None and (key in _NAME_KEYS or key == "function"):
            self._name = yield from json_text.text_of_string(self._reader)
        elif head == '"' and key in _ID_KEYS:
            self._id = yield from json_text.text_of_string(self._reader)
        elif key in _ARGUMENT_KEYS and not self._begun and self._held is None:
            if self._name is None:
                self._held = []
                yield from arguments(self._reader, self._held.append, self._ends)
            else:
                self._begin()
                yield from arguments(self._reader, self._calls.arguments, self._ends)
        else:
            yield from json_text.skip_value(self._reader, self._ends)


def arguments(reader: Reader, sink: Sink, ends: tuple[str, ...] = ()) -> Parse[None]:
    """A call's arguments as JSON text: verbatim, or made JSON where they are Python or text that holds JSON.

    Nothing (null, an empty text) is {}.
    """
    head = yield from reader.peek()
    if head and head in "{[":
        quote = yield from reader.peek_past_space(1, 1)
        if quote == "'":
            # A dict as Python writes it, which no reader of JSON could use.
            yield from python_text.value(reader, sink, "", ends)
        else:
            yield from json_text.value(reader, sink, ends)
        return
    pieces: list[str] = []
    yield from json_text.value(reader, pieces.append, ends)
    raw = "".join(pieces)
    text = json_text.decoded(raw[1:-1]) if raw.startswith('"') else raw
    if text.strip() in ("", "null", "None"):
        sink("{}")
    elif raw.startswith('"') and _is_object(text):
        sink(text)
    else:
        sink(raw)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text, strict=False), dict)
    except (ValueError, RecursionError):
        return text.lstrip().startswith("{")
