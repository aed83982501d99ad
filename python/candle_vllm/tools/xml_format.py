"""Formats whose calls are tags with plain text between them; a subclass says which tags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

from candle_vllm.pieces import EndOfReply, Parse, Reader, marks

from .bodies import xml_call_body
from .calls import Calls
from .events import ToolCall
from .format import Format
from .grammar import Lark
from .json_calls import Malformed, attempt, json_calls
from .schemas import Tool
from .xml_calls import XmlStyle, xml_call

__all__ = ["XmlFormat"]


class XmlFormat(Format):
    """XML-like calls, in a block if the format has one.

    `blocks` are pairs of texts around calls and `call_begin` stands before a call's name ("" where a block is a call).
    A call without a block around it counts as well, and so does JSON in a block.
    """

    blocks: ClassVar[tuple[tuple[str, str], ...]]
    call_begin: ClassVar[str] = ""
    style: ClassVar[XmlStyle]
    many: ClassVar[bool] = False
    """Whether one block holds several calls."""

    def __init_subclass__(cls) -> None:
        cls.opening = cls.blocks[0][0]

    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """Text and calls in turn."""
        blocks = dict(self.blocks)
        wanted = marks(*blocks, self.call_begin) if self.call_begin else marks(*blocks)
        while True:
            mark = yield from reader.upto(wanted, calls.text)
            if not mark:
                return
            end = blocks.get(mark, "")
            if mark in blocks:
                reader.take(len(mark))
            body = self._block(reader, calls, end) if self.call_begin else self._call(reader, calls)
            yield from attempt(reader, calls, mark if mark in blocks else "", body)

    def _call(self, reader: Reader, calls: Calls) -> Parse[None]:
        yield from reader.space()
        if (yield from reader.peek()) == "{":
            yield from json_calls(reader, calls, (self.style.call_end,))
        else:
            yield from xml_call(reader, calls, self.style)

    def _block(self, reader: Reader, calls: Calls, end: str) -> Parse[None]:
        """The calls of a block and its end."""
        wanted = marks(self.call_begin, *((end,) if end else ()))
        found = False
        while True:
            space = yield from reader.space()
            mark = yield from reader.at_mark(wanted)
            if mark == self.call_begin:
                if found:
                    reader.keep()
                reader.take(len(mark))
                yield from xml_call(reader, calls, self.style)
                found = True
                if end:
                    continue
                return
            if not found:
                head = yield from reader.peek()
                if head != "{":
                    raise Malformed if head else EndOfReply
                yield from json_calls(reader, calls, (end,))
                return
            reader.forget()
            calls.text("" if mark else space)
            reader.take(len(mark))
            return

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The calls in blocks."""
        begin, end = self.blocks[0]
        line = self.style.line
        written = [f"{self.call_begin}{self.style.write(call.name, json.loads(call.arguments))}" for call in calls]
        if not self.call_begin:
            return line.join(f"{begin}{call}" for call in written)
        if self.many:
            return f"{begin}{line}{line.join(written)}{line}{end}"
        return line.join(f"{begin}{line}{call}{line}{end}" for call in written)

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """The calls of a block and its end."""
        call = lark.either(xml_call_body(lark, tool, self.style) for tool in tools)
        if not self.call_begin:
            return call
        line = self.style.line
        call = lark.rule(f"{lark.literal(line + self.call_begin)} {call}")
        more = f"({call})*" if parallel and self.many else ""
        return " ".join(filter(None, (call, more, lark.literal(line + self.blocks[0][1]))))
