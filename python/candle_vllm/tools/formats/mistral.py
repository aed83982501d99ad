"""Mistral: `[TOOL_CALLS]` and a JSON list (v3, v7), or `[TOOL_CALLS]name[ARGS]{...}` a call (v11 and later).

From v11 on `[CALL_ID]id` may stand before `[ARGS]`. The templates accept ids of nine letters and digits only.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Sequence
from typing import ClassVar

from candle_vllm.pieces import Parse, Reader, marks
from candle_vllm.tools.calls import Calls
from candle_vllm.tools.events import ToolCall
from candle_vllm.tools.format import Format
from candle_vllm.tools.grammar import Lark
from candle_vllm.tools.headed_calls import headed_call
from candle_vllm.tools.json_calls import attempt, json_calls
from candle_vllm.tools.schemas import Tool

__all__ = ["Mistral", "MistralList"]

_CALLS, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_HEADER = re.compile(r"\s*([\w.\-/:]+)\s*(?:\[CALL_ID\]\s*(\w+))?\s*(?:\[ARGS\])?\s*")
_ALPHABET = string.ascii_letters + string.digits


def _header(text: str) -> tuple[str, str | None] | None:
    found = _HEADER.fullmatch(text)
    return (found[1], found[2]) if found else None


def _head(name: str) -> str:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '


class Mistral(Format):
    """Reads both notations; writes and enforces that of v11 and later."""

    names: ClassVar[tuple[str, ...]] = ("mistral",)
    signs: ClassVar[tuple[tuple[str, ...], ...]] = ((_CALLS, _ARGS),)
    marks: ClassVar[tuple[str, ...]] = (_CALLS, _ARGS, _ID)
    opening = _CALLS

    def new_id(self) -> str:
        """Nine letters and digits."""
        return "".join(secrets.choice(_ALPHABET) for _ in range(9))

    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """Text and calls in turn."""
        while True:
            mark = yield from reader.upto(marks(_CALLS), calls.text)
            if not mark:
                return
            reader.take(len(mark))
            yield from attempt(reader, calls, mark, self._call(reader, calls))

    def _call(self, reader: Reader, calls: Calls) -> Parse[None]:
        yield from reader.space()
        head = yield from reader.peek(2)
        if head[:1] == "{" or (head[:1] == "[" and head[1:] not in ("A", "C", "T")):
            yield from json_calls(reader, calls, own_ids=True)
        else:
            yield from headed_call(reader, calls, _header, ())

    def write(self, calls: Sequence[ToolCall]) -> str:
        """A name and arguments a call."""
        return "".join(f"{_CALLS}{call.name}{_ARGS}{call.arguments}" for call in calls)

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """A name, an id perhaps, and arguments."""
        return lark.either(lark.rule(self._call_rule(lark, tool)) for tool in tools)

    @staticmethod
    def _call_rule(lark: Lark, tool: Tool) -> str:
        id_ = f"({lark.literal(_ID)} /[a-zA-Z0-9]{{9}}/)?"
        return f"{lark.literal(tool.name)} {id_} {lark.literal(_ARGS)} {lark.arguments(tool)}"


class MistralList(Mistral):
    """The same, but writes and enforces the JSON list of v3 and v7."""

    names = ("mistral_list",)
    signs = ((_CALLS,),)
    marks = (_CALLS,)
    repeats = False

    def write(self, calls: Sequence[ToolCall]) -> str:
        """One list."""
        return f"{_CALLS}[{', '.join(f'{_head(call.name)}{call.arguments}}}' for call in calls)}]"

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """One list of objects."""
        call = lark.either(lark.rule(f'{lark.literal(_head(tool.name))} {lark.arguments(tool)} "}}"') for tool in tools)
        more = f' (", " {call})*' if parallel else ""
        return f'"[" {call}{more} "]"'
