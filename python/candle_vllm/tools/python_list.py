"""Formats whose calls are Python; a subclass says what stands around them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from candle_vllm.pieces import Parse, Reader, marks

from .bodies import python_call
from .calls import Calls
from .events import ToolCall
from .format import Format
from .grammar import Lark
from .json_calls import attempt, json_calls
from .python_calls import python_calls
from .schemas import Tool

__all__ = ["PythonList", "write_call"]

_WORDS = {True: "True", False: "False", None: "None"}


def write_call(call: ToolCall) -> str:
    """A call as Python."""
    arguments = ", ".join(f"{key}={_literal(value)}" for key, value in json.loads(call.arguments).items())
    return f"{call.name}({arguments})"


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    return json.dumps(value, ensure_ascii=False)


class PythonList(Format):
    """A list of Python calls. `tags` are pairs of a text that announces it and the text that ends it."""

    tags: ClassVar[tuple[tuple[str, str], ...]] = ()
    bare: ClassVar[bool] = False
    """Whether the list may stand at the beginning of a reply or line without any tag."""
    repeats = False

    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """Text and calls in turn."""
        ends = dict(self.tags)
        wanted = marks(*ends, "\n") if self.bare else marks(*ends)
        fresh = self.bare
        while True:
            if fresh:
                calls.text((yield from reader.space()))
                if (yield from reader.peek()) == "[":
                    fresh = yield from attempt(reader, calls, "", python_calls(reader, calls, listed=True), sure=False)
                    if fresh:
                        continue
            mark = yield from reader.upto(wanted, calls.text)
            if not mark:
                return
            reader.take(len(mark))
            if mark == "\n":
                calls.text(mark)
                fresh = True
            else:
                found = yield from attempt(reader, calls, mark, self._tagged(reader, calls, ends[mark]))
                fresh = found and self.bare

    def _tagged(self, reader: Reader, calls: Calls, end: str) -> Parse[None]:
        yield from reader.space()
        head = yield from reader.peek()
        after = yield from reader.peek_past_space(1, 1)
        if head == "{" or (head == "[" and after == "{"):
            yield from json_calls(reader, calls, (end,))
        else:
            yield from python_calls(reader, calls, (end,))

    def write(self, calls: Sequence[ToolCall]) -> str:
        """One list."""
        opening, end = self.tags[0] if self.opening else ("", "")
        return f"{opening}[{', '.join(map(write_call, calls))}]{end}"

    def call(self, lark: Lark, tools: Sequence[Tool]) -> str:
        """The grammar of one call."""
        return lark.either(python_call(lark, tool) for tool in tools)

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """One list."""
        call = self.call(lark, tools)
        more = f' (", " {call})*' if parallel else ""
        end = lark.literal(self.tags[0][1] if self.opening else "")
        return f'"[" {call}{more} "]" {end}'.strip()
