"""Cohere Command R7B, A and later: a JSON list between `<|START_ACTION|>` and `<|END_ACTION|>`.

Objects have `tool_name` and `parameters`; their `tool_call_id` counts calls and is unique in no conversation, so calls
get ids of our own. The answer stands between `<|START_RESPONSE|>` (or `<|START_TEXT|>`) and its end mark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from candle_vllm.pieces import Parse, Reader, marks
from candle_vllm.tools.calls import Calls
from candle_vllm.tools.events import ToolCall
from candle_vllm.tools.grammar import Lark
from candle_vllm.tools.json_calls import attempt, json_calls
from candle_vllm.tools.schemas import Tool
from candle_vllm.tools.tagged import TaggedJson

__all__ = ["Cohere"]

_ACTION = "<|START_ACTION|>"
_END = "<|END_ACTION|>"
_ANSWER = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")


class Cohere(TaggedJson):
    """A JSON list between one pair of marks."""

    names = ("cohere", "cohere_command", "cohere_command3", "cohere_command4")
    signs = (("<|START_ACTION|>",),)
    tags = ((_ACTION, _END),)
    marks = (_ACTION, _END, *_ANSWER)
    opening = _ACTION
    many = True
    repeats = False
    name_key = "tool_name"
    arguments_key = "parameters"

    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """Text and actions in turn; the marks around the answer are no text."""
        wanted = marks(_ACTION, *_ANSWER)
        while True:
            mark = yield from reader.upto(wanted, calls.text)
            if not mark:
                return
            reader.take(len(mark))
            if mark == _ACTION:
                yield from attempt(reader, calls, mark, json_calls(reader, calls, (_END,)))

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The calls, counted."""
        written = [
            f'    {{"tool_call_id": "{index}", "tool_name": {json.dumps(call.name)}, "parameters": {call.arguments}}}'
            for index, call in enumerate(calls)
        ]
        return f"{_ACTION}[\n" + ",\n".join(written) + f"\n]{_END}"

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """Objects with a number, a name and parameters."""
        rest = lark.either(lark.rule(f"{lark.literal(self._middle(tool))} {lark.arguments(tool)}") for tool in tools)
        number = lark.literal('    {"tool_call_id": "')
        call = lark.rule(f'{number} /[0-9]{{1,3}}/ {rest} "}}"')
        more = f' (",\\n" {call})*' if parallel else ""
        end = lark.literal(f"\n]{_END}")
        return f'"[\\n" {call}{more} {end}'

    def _middle(self, tool: Tool) -> str:
        return f'", "tool_name": {json.dumps(tool.name, ensure_ascii=False)}, "parameters": '
