"""Formats whose calls are written in Gemma's notation; a subclass says which marks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from candle_vllm.pieces import Parse, Reader, marks

from .bodies import braced_call_body
from .braced_calls import braced_call
from .calls import Calls
from .events import ToolCall
from .format import Format
from .grammar import Lark
from .json_calls import attempt
from .schemas import Tool

__all__ = ["BracedFormat"]


class BracedFormat(Format):
    """`call:name{...}` between marks, with `quote` on both sides of strings."""

    end: ClassVar[str]
    quote: ClassVar[str]

    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """Text and calls in turn."""
        while True:
            mark = yield from reader.upto(marks(self.opening), calls.text)
            if not mark:
                return
            reader.take(len(mark))
            yield from attempt(reader, calls, mark, braced_call(reader, calls, self.quote, (self.end,)))

    def write(self, calls: Sequence[ToolCall]) -> str:
        """A pair of marks a call."""
        return "".join(
            f"{self.opening}call:{call.name}{self._literal(json.loads(call.arguments))}{self.end}" for call in calls
        )

    def _literal(self, value: Any) -> str:
        if isinstance(value, dict):
            return f"{{{','.join(f'{key}:{self._literal(item)}' for key, item in value.items())}}}"
        if isinstance(value, list):
            return f"[{','.join(map(self._literal, value))}]"
        return f"{self.quote}{value}{self.quote}" if isinstance(value, str) else json.dumps(value)

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """A call and its end mark."""
        call = lark.either(lark.rule(f'"call:" {braced_call_body(lark, tool, self.quote)}') for tool in tools)
        return f"{call} {lark.literal(self.end)}"
