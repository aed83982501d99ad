"""AnswerSplitter: one answer's text into events: what the model thinks, says and calls.

The same for a text that arrives in pieces and for a whole one. Must not know how text is generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from candle_vllm import reasoning, tools
from candle_vllm.generation.events import Event, FinishText, Reasoning, Text, ToolArguments, ToolCallStarted
from candle_vllm.generation.merge import AT_ONCE
from candle_vllm.generation.prepare import Prepared
from candle_vllm.generation.request import Conversation, GenerationRequest
from candle_vllm.models import LoadedModel

__all__ = ["AnswerSplitter", "splitters"]


class AnswerSplitter:
    """Of the answer number `index`: its thinking is told apart first, then its calls from its text."""

    __slots__ = ("_calls", "_index", "_thinking", "_tools", "thought")

    def __init__(self, index: int, thinking: reasoning.Splitter | None, calls: tools.Splitter | None) -> None:
        self._index = index
        self._thinking = thinking
        self._tools = calls
        self._calls = 0
        self.thought = ""
        """All that was thought so far."""

    def feed(self, text: str) -> list[Event]:
        """What this piece of the text makes certain."""
        if self._thinking is None:
            return self._said(text)
        return self._split(self._thinking.feed(text))

    def end(self) -> list[Event]:
        """What the end of the text makes certain."""
        events = [] if self._thinking is None else self._split(self._thinking.end())
        if self._tools is not None:
            events += self._called(self._tools.end())
        return events

    def reason(self, reason: FinishText) -> FinishText:
        """Why the answer ended, given why its text did. Known after `end`."""
        if self._tools is None or reason == "length":
            return reason
        if self._tools.truncated:
            return "length"
        return "tool_calls" if self._calls else reason

    def _split(self, pieces: Iterable[reasoning.Event]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if isinstance(piece, reasoning.Reasoning):
                self.thought += piece.text
                events.append(Reasoning(self._index, piece.text))
            else:
                events += self._said(piece.text)
        return events

    def _said(self, text: str) -> list[Event]:
        return [Text(self._index, text)] if self._tools is None else self._called(self._tools.feed(text))

    def _called(self, pieces: Iterable[tools.Event]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            match piece:
                case tools.Text(text):
                    events.append(Text(self._index, text))
                case tools.CallStarted(call, id, name):
                    self._calls += 1
                    events.append(ToolCallStarted(self._index, call, id, name))
                case tools.CallArguments(call, text):
                    events.append(ToolArguments(self._index, call, text))
                case _:
                    pass
        return events


async def splitters(request: GenerationRequest, model: LoadedModel, prepared: Prepared) -> list[AnswerSplitter]:
    """One for each answer, as the request and the model's own notation ask."""
    use = request.tool_use
    thinks = isinstance(request.input, Conversation) and model.reasoning.marks
    made: list[AnswerSplitter] = []
    for index in range(len(prepared.params)):
        thinking = reasoning.Splitter(model.reasoning, prepared.thinking[index // request.n]) if thinks else None
        held = (
            prepared.params[index].form is not None and request.constraint is None and request.vocabulary_field is None
        )
        calls = None if use is None else tools.Splitter(model.tool_format, use.tools, held=held)
        made.append(AnswerSplitter(index, thinking, calls))
        if len(made) % AT_ONCE == 0:
            await asyncio.sleep(0)
    return made
