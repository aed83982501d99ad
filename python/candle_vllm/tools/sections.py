"""Formats that put calls into a section, each a header and JSON between marks; a subclass says which marks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from candle_vllm.pieces import EndOfReply, Parse, Reader, marks

from .calls import Calls
from .events import ToolCall
from .format import Format
from .grammar import Lark
from .headed_calls import headed_call
from .json_calls import Malformed, attempt
from .schemas import Tool

__all__ = ["Sections"]


class Sections(Format):
    """Headed calls in a section. A call without a section around it counts as well."""

    finish: ClassVar[str]
    call_begin: ClassVar[str]
    call_end: ClassVar[str]
    fence: ClassVar[str] = ""
    between: ClassVar[str] = ""
    """What models write between two calls."""
    tail: ClassVar[str] = ""
    """What models write after the arguments."""
    repeats = False

    @abstractmethod
    def header(self, text: str) -> tuple[str, str | None] | None:
        """The name and the id that a header tells; None where it is none."""

    @abstractmethod
    def head(self, name: str, index: int) -> str:
        """A header as models write it."""

    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """Text and sections in turn."""
        while True:
            mark = yield from reader.upto(marks(self.opening, self.call_begin), calls.text)
            if not mark:
                return
            consumed = reader.take(len(mark)) if mark == self.opening else ""
            yield from attempt(reader, calls, consumed, self._section(reader, calls))

    def _section(self, reader: Reader, calls: Calls) -> Parse[None]:
        found = False
        while True:
            space = yield from reader.space()
            mark = yield from reader.at_mark(marks(self.call_begin, self.finish))
            if mark == self.call_begin:
                if found:
                    reader.keep()
                reader.take(len(mark))
                yield from headed_call(reader, calls, self.header, (self.call_end,), self.fence)
                found = True
                continue
            if not mark and not found:
                if not (yield from reader.peek()):
                    raise EndOfReply
                raise Malformed
            reader.forget()
            calls.text("" if mark else space)
            reader.take(len(mark))
            return

    def head_rule(self, lark: Lark, name: str) -> str:
        """The grammar of a call's mark and header."""
        return lark.literal(self.call_begin + self.head(name, 0))

    def write(self, calls: Sequence[ToolCall]) -> str:
        """One section with all calls."""
        written = [
            f"{self.call_begin}{self.head(call.name, index)}{call.arguments}{self.tail}{self.call_end}"
            for index, call in enumerate(calls)
        ]
        return f"{self.opening}{self.between.join(written)}{self.finish}"

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """The calls of a section and its end."""
        call = lark.either(lark.rule(self._call(lark, tool)) for tool in tools)
        more = " ".join(filter(None, (lark.literal(self.between), call)))
        return f"{call} {f'({more})*' if parallel else ''} {lark.literal(self.finish)}"

    def _call(self, lark: Lark, tool: Tool) -> str:
        head = self.head_rule(lark, tool.name)
        return f"{head} {lark.arguments(tool)} {lark.literal(self.tail + self.call_end)}"
