"""Replies split into text and tool calls: piece by piece, or whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from candle_vllm.pieces import Reader

from .calls import Calls
from .events import CallArguments, CallStarted, Event, Text, ToolCall
from .format import Format
from .schemas import Tools
from .table import find

__all__ = ["ParsedReply", "Splitter", "parse"]


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A whole reply. `content` is None when there are calls and no text; `truncated` when it ended inside a call."""

    content: str | None
    tool_calls: list[ToolCall]
    truncated: bool = False


class Splitter:
    """Splits one reply as it arrives.

    `format` is a format or its name; `tools` are the request's, in OpenAI's form, which type the values of formats
    that write plain text. Whatever pieces the text is fed in, the events add up to the same reply. A call that the
    reply's end cut off is not ended, and `truncated` tells of it: such a reply finishes with `length`.
    `held` says that the format's grammar held the reply: what only resembles a call is none. Raises
    :class:`ConfigError` for an unknown format.
    """

    __slots__ = ("_calls", "_parse", "_reader", "format")

    def __init__(
        self,
        format: Format | str,  # noqa: A002
        tools: Iterable[Mapping[str, Any]] | Tools | None = None,
        *,
        held: bool = False,
    ) -> None:
        self.format = find(format) if isinstance(format, str) else format
        self._reader = Reader()
        self._calls = Calls(self._reader, Tools(tools), self.format.new_id, held=held)
        self._parse = self.format.read(self._reader, self._calls)

    @property
    def truncated(self) -> bool:
        """Whether the reply ended inside a call; known after `end`."""
        return self._calls.truncated

    def feed(self, text: str) -> list[Event]:
        """The events that this piece of the reply makes certain."""
        self._reader.feed(text)
        next(self._parse, None)
        return self._calls.take()

    def end(self) -> list[Event]:
        """The last events; the reply is complete."""
        self._reader.close()
        next(self._parse, None)
        self._calls.finish()
        return self._calls.take()


def parse(
    text: str,
    format: Format | str,  # noqa: A002
    tools: Iterable[Mapping[str, Any]] | Tools | None = None,
) -> ParsedReply:
    """A whole reply, split. The arguments are those of `Splitter`.

    >>> parse('<tool_call>{"name": "now", "arguments": {}}</tool_call>', "hermes").tool_calls[0].name
    'now'
    """
    splitter = Splitter(format, tools)
    texts: list[str] = []
    heads: list[CallStarted] = []
    arguments: list[list[str]] = []
    for event in [*splitter.feed(text), *splitter.end()]:
        if isinstance(event, Text):
            texts.append(event.text)
        elif isinstance(event, CallStarted):
            heads.append(event)
            arguments.append([])
        elif isinstance(event, CallArguments):
            arguments[event.index].append(event.text)
    calls = [ToolCall(head.id, head.name, "".join(pieces)) for head, pieces in zip(heads, arguments, strict=True)]
    content = "".join(texts)
    return ParsedReply(content if content or not calls else None, calls, splitter.truncated)
