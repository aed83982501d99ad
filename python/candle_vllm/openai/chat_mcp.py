"""Chat Completions with tools that the server runs: what a request asks, and how an answer of several turns is told.

Must not know how tools are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from candle_vllm.generation import (
    Answer,
    Continued,
    Reasoning,
    ServerCallArguments,
    ServerCallEnded,
    ServerCallStarted,
    ServerTools,
    Text,
)
from candle_vllm.openai.chat_types import ChatCompletionRequest
from candle_vllm.openai.mcp_types import McpCall, McpCallDelta

__all__ = ["ServerCallEvent", "Turns", "calls_of", "made_before", "server_tools_of", "text_of"]

ServerCallEvent = ServerCallStarted | ServerCallArguments | ServerCallEnded

_BETWEEN = "\n\n"
"""Between the texts of two turns, which are one message's."""


def server_tools_of(request: ChatCompletionRequest) -> ServerTools | None:
    """The tools to be run by the server that the request asks for, or would take."""
    use = request.mcp
    if request.tool_choice == "none" or request.functions:
        return None
    if use is None:
        return ServerTools(asked=False)
    if use.servers is not None and not use.servers:
        return None
    return ServerTools(
        servers=None if use.servers is None else tuple(dict.fromkeys(use.servers)),
        allowed=use.allowed_tools,
        max_turns=use.max_turns,
        max_total_tokens=use.max_total_tokens,
        timeout=use.timeout,
    )


def made_before(calls: Iterable[McpCall]) -> list[dict[str, Any]]:
    """The messages of the turns that made these calls: each turn's calls, then their results."""
    messages: list[dict[str, Any]] = []
    for _, turn in groupby(calls, lambda call: call.turn):
        made = list(turn)
        called = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in made
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": called})
        messages += [
            {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": call.output} for call in made
        ]
    return messages


def text_of(answer: Answer, part: Callable[[Answer], str]) -> str:
    """A part of all turns of an answer as one text."""
    return _BETWEEN.join(text for turn in answer.turns if (text := part(turn)))


def calls_of(answer: Answer) -> list[McpCall]:
    """All calls that were run here."""
    return [
        McpCall(
            id=call.id,
            type="mcp_call",
            turn=number,
            server_label=call.server,
            name=call.name,
            arguments=call.arguments,
            output=call.text,
            error=_error(call.outcome),
        )
        for number, turn in enumerate(answer.turns, 1)
        for call in turn.server_calls
    ]


def _error(outcome: str) -> str | None:
    return None if outcome == "ok" else outcome or "not_run"


class Turns:
    """The turns of a streamed answer: what stands between their texts, and the deltas of calls that were run here."""

    def __init__(self) -> None:
        self._turn = 1
        self._told: dict[type[Text | Reasoning], int] = {}

    def continued(self, _event: Continued) -> Sequence[Any]:
        """Another turn begins; nothing is told of that alone."""
        self._turn += 1
        return []

    @property
    def several(self) -> bool:
        """Whether there was a turn before this one."""
        return self._turn > 1

    def joined(self, event: Text | Reasoning) -> str:
        """The event's text, behind what parts it from an earlier turn's."""
        told = self._told.get(type(event))
        self._told[type(event)] = self._turn
        return event.text if told in (None, self._turn) else _BETWEEN + event.text

    def delta(self, event: ServerCallEvent) -> McpCallDelta:
        """What a chunk adds to a call."""
        match event:
            case ServerCallStarted(_, call, id, name, server):
                return McpCallDelta(
                    index=call, id=id, type="mcp_call", turn=self._turn, server_label=server, name=name, arguments=""
                )
            case ServerCallArguments(_, call, text):
                return McpCallDelta(index=call, arguments=text)
            case ServerCallEnded(_, call, text, outcome, _):
                told = McpCallDelta(index=call, output=text)
                if (error := _error(outcome)) is not None:
                    told.error = error
                return told
