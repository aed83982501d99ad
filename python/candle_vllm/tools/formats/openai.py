"""gpt-oss, harmony: messages with channels; a call is a message to `functions.name` whose body is JSON.

`<|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>`; the recipient may also stand before
the channel. The engine's stop takes `<|call|>` away, so a whole body ends a call as well. The final message and
commentary to nobody are text; analysis is reasoning, which a reasoning splitter takes first, and is left out here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from candle_vllm.pieces import EndOfReply, Parse, Reader, drop, marks
from candle_vllm.tools import json_text
from candle_vllm.tools.calls import Calls
from candle_vllm.tools.events import ToolCall
from candle_vllm.tools.format import Format
from candle_vllm.tools.grammar import Lark
from candle_vllm.tools.json_calls import arguments
from candle_vllm.tools.schemas import Tool

__all__ = ["Harmony"]

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_END, _CALL, _RETURN = "<|end|>", "<|call|>", "<|return|>"
_ENDS = (_END, _CALL, _RETURN, _START, _CHANNEL)
_RECIPIENT = re.compile(r"\bto=([\w.\-/]+)")
_NOBODY = frozenset(("assistant", "user", "final"))


class Harmony(Format):
    """Messages in channels."""

    names = ("openai", "gpt_oss", "harmony")
    signs = ((_CHANNEL, _MESSAGE),)
    marks = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, _END, _CALL, _RETURN)
    opening = f"{_CHANNEL}commentary to=functions."
    repeats = False

    def read(self, reader: Reader, calls: Calls) -> Parse[None]:
        """Messages in turn; text outside of any is text."""
        wanted = marks(*_ENDS)
        while True:
            mark = yield from reader.upto(wanted, calls.text)
            if not mark:
                return
            reader.take(len(mark))
            if mark in (_START, _CHANNEL):
                try:
                    yield from self._message(reader, calls)
                except EndOfReply:
                    calls.cut()
                    return

    def _message(self, reader: Reader, calls: Calls) -> Parse[None]:
        """A message whose first mark is consumed."""
        pieces: list[str] = []
        if not (yield from reader.upto(marks(_MESSAGE, _END, _CALL, _RETURN), pieces.append)):
            # A header that was cut off says nothing yet.
            if _RECIPIENT.search("".join(pieces)):
                raise EndOfReply
            return
        header = "".join(pieces)
        if not (yield from reader.at_mark(marks(_MESSAGE))):
            return
        reader.take(len(_MESSAGE))
        recipient = _RECIPIENT.search(header)
        if recipient is not None and recipient[1] not in _NOBODY:
            calls.begin(recipient[1].removeprefix("functions.") or recipient[1])
            yield from self._body(reader, calls)
        else:
            sink = drop if "analysis" in header else calls.text
            yield from reader.upto(marks(*_ENDS), sink)

    def _body(self, reader: Reader, calls: Calls) -> Parse[None]:
        """A call's body: JSON, or any text, which is told as a string's JSON."""
        yield from reader.space()
        head = yield from reader.peek()
        if not head:
            raise EndOfReply
        if head == "{":
            yield from arguments(reader, calls.arguments, _ENDS)
            yield from reader.upto(marks(*_ENDS), drop)
        elif (yield from reader.at_mark(marks(*_ENDS))):
            calls.arguments("{}")
        else:
            calls.arguments('"')
            if not (yield from reader.upto(marks(*_ENDS), lambda piece: calls.arguments(json_text.quoted(piece)))):
                raise EndOfReply
            calls.arguments('"')
        calls.end()

    def write(self, calls: Sequence[ToolCall]) -> str:
        """A message a call."""
        messages = [
            f"{_CHANNEL}commentary to=functions.{call.name} {_CONSTRAIN}json{_MESSAGE}{call.arguments}"
            for call in calls
        ]
        return f"{_CALL}{_START}assistant".join(messages) + _CALL

    def body(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """The rest of a header and JSON; `<|call|>` is where the engine stops."""
        return lark.either(
            lark.rule(f"{lark.literal(f'{tool.name} {_CONSTRAIN}json{_MESSAGE}')} {lark.arguments(tool)}")
            for tool in tools
        )

    def reply(
        self, lark: Lark, tools: Sequence[Tool], choice: str, parallel: bool, thinking: tuple[str, str] | None
    ) -> str:
        """A whole reply, analysis included; a call ends it."""
        body = self.body(lark, tools, parallel)
        call = f"{lark.literal(self.opening)} {body} ({lark.literal(_CALL)})?"
        start = f"({lark.literal(f'{_START}assistant')})?"
        analysis = f"{lark.literal(f'{_CHANNEL}analysis{_MESSAGE}')} {lark.until(_END)}"
        if choice != "auto":
            return f"({start} {lark.rule(analysis)})* {start} {call}"
        preamble = f"{lark.literal(f'{_CHANNEL}commentary{_MESSAGE}')} {lark.until(_END)}"
        final = f"{lark.literal(f'{_CHANNEL}final{_MESSAGE}')} TEXT?"
        notes = lark.either(map(lark.rule, (analysis, preamble)))
        return f"({start} {notes})* {start} {lark.either(map(lark.rule, (final, call)))}"
