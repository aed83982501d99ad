"""Calls written as tags with plain text between them: `<function=f><parameter=p>text</parameter></function>`.

Shared by every format of that kind. Values are typed by the tool's schema and told as JSON; those that can only be
strings stream. An end tag inside a value is data unless what may follow a value follows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from candle_vllm.pieces import EndOfReply, Marks, Parse, Reader, Sink, drop, marks

from . import json_text
from .calls import Calls
from .json_calls import Malformed
from .typed_text import to_json

__all__ = ["XmlStyle", "xml_call"]

_LONGEST_NAME = 256
_NAME = re.compile(r"[^\s<>{}\[\]\"'=]+")
_TYPED = re.compile(r'string="(true|false)')


@dataclass(frozen=True)
class XmlStyle:
    """How a format writes a call, between what opens it and what ends it.

    A call is: name, `name_end`, then parameters of `parameter`, name, `parameter_end`, value, `value_end`; then
    `call_end`. `stop` is what may follow the call. A parameter's name ends at `label_end` where more stands before
    `parameter_end`, such as an attribute `string` that types the value. `framed` says that a value has a newline on
    both sides that is no part of it. `label_form` is what is written between `parameter` and `parameter_end`, and
    `line` stands between the parts.
    """

    name_end: str
    parameter: str
    parameter_end: str
    value_end: str
    call_end: str
    stop: tuple[str, ...] = ()
    label_form: str = "{name}"
    label_end: str = ""
    framed: bool = False
    line: str = "\n"

    @property
    def named(self) -> Marks:
        """What may follow a call's name."""
        return marks(self.name_end, self.parameter, self.call_end, *self.stop, "<", "\n")

    @property
    def parameters(self) -> Marks:
        """What may follow a name or a value: another parameter or an end."""
        return marks(self.parameter, self.call_end, *self.stop)

    @property
    def typed(self) -> bool:
        """Whether each value says if it is a string."""
        return "{string}" in self.label_form

    def label(self, name: str, *, string: bool = True) -> str:
        """What stands before a value."""
        label = self.label_form.replace("{string}", "true" if string else "false").replace("{name}", name)
        return f"{self.parameter}{label}{self.parameter_end}"

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """A call from its name to its end tag."""
        frame = "\n" if self.framed else ""
        parts = [name + self.name_end + (self.line if self.name_end != self.line else "")]
        for key, value in arguments.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            label = self.label(key, string=isinstance(value, str))
            parts.append(f"{label}{frame}{text}{frame}{self.value_end}{self.line}")
        return "".join(parts) + self.call_end


def xml_call(reader: Reader, calls: Calls, style: XmlStyle) -> Parse[None]:
    """One call, from its name to its end. Raises `Malformed` where no name stands."""
    pieces: list[str] = []
    mark = yield from reader.upto(style.named, pieces.append)
    name = "".join(pieces).strip()
    if not mark:
        raise EndOfReply
    name = name.strip("\"'")
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise Malformed
    if mark == style.name_end:
        reader.take(len(mark))
    yield from reader.space()
    mark = yield from reader.at_mark(style.parameters)
    if not mark:
        if not (yield from reader.peek()):
            raise EndOfReply
        raise Malformed
    calls.begin(name)
    opening = "{"
    while mark == style.parameter:
        reader.take(len(mark))
        calls.arguments(opening)
        opening = ", "
        yield from _parameter(reader, calls, style, name)
        # What stands between parameters is layout, or a slip that nothing can be made of.
        mark = yield from reader.upto(style.parameters, drop)
    calls.arguments("{}" if opening == "{" else "}")
    if not mark:
        raise EndOfReply
    if mark == style.call_end:
        reader.take(len(mark))
    calls.end()


def _parameter(reader: Reader, calls: Calls, style: XmlStyle, name: str) -> Parse[None]:
    pieces: list[str] = []
    if not (yield from reader.upto(marks(style.parameter_end), pieces.append)):
        raise EndOfReply
    reader.take(len(style.parameter_end))
    parameter, typed = _label("".join(pieces), style)
    kinds = calls.tools.kinds(name, parameter)
    if typed is not None:
        kinds = frozenset(("string",)) if typed == "true" else kinds - {"string"}
    calls.arguments(f'"{json_text.quoted(parameter)}": ')
    if kinds == {"string"}:
        calls.arguments('"')
        yield from _value(reader, lambda piece: calls.arguments(json_text.quoted(piece)), style)
        calls.arguments('"')
        return
    text: list[str] = []
    yield from _value(reader, text.append, style)
    calls.arguments(to_json("".join(text), kinds))


def _label(text: str, style: XmlStyle) -> tuple[str, str | None]:
    """A parameter's name, and what its `string` attribute says."""
    label, _, attributes = text.partition(style.label_end) if style.label_end else (text, "", "")
    typed = _TYPED.search(attributes)
    return label.strip().strip("\"'"), typed[1] if typed else None


def _value(reader: Reader, sink: Sink, style: XmlStyle) -> Parse[None]:
    """A value's text up to its end tag, which is consumed, or to the call's where the model forgot the value's."""
    frames = ("\r\n", "\n", "") if style.framed else ("",)
    if style.framed:
        head = yield from reader.peek(2)
        reader.take(2 if head == "\r\n" else 1 if head[:1] == "\n" else 0)
    ends = [f"{frame}{style.value_end}" for frame in frames]
    wanted = marks(*ends, *(f"{frame}{style.call_end}" for frame in frames))
    while True:
        mark = yield from reader.upto(wanted, sink)
        if not mark:
            raise EndOfReply
        if mark in ends:
            if (yield from _follows(reader, len(mark), style)):
                reader.take(len(mark))
                return
        elif (yield from _ends_all(reader, len(mark), style)):
            return
        sink(reader.take(len(mark)))


def _follows(reader: Reader, at: int, style: XmlStyle) -> Parse[bool]:
    """Whether what may follow a value stands after the end tag: then the tag is none of the value's text."""
    longest = len(style.parameters.texts[0])
    after = yield from reader.peek_past_space(at, longest)
    return not after or after.startswith(style.parameters.texts)


def _ends_all(reader: Reader, at: int, style: XmlStyle) -> Parse[bool]:
    """Whether a call's end tag is one although no value's end tag stands before it.

    It is where nothing but the block's end and the reply's end or another tag follow; else it is the value's text.
    """
    if style.stop:
        at = yield from reader.past_space(at)
        longest = max(map(len, style.stop))
        after = "" if at < 0 else (yield from reader.peek(at + longest))[at:]
        stop = next((text for text in style.stop if after.startswith(text)), None)
        if stop is None:
            return False
        at += len(stop)
    at = yield from reader.past_space(at)
    return at >= 0 and (yield from reader.peek(at + 1))[at:] in ("", "<")
