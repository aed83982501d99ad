"""Output: the items of a response as they grow, and the events of that.

One ends where another begins; only calls that are run here go on side by side. Must not know of requests, nor of the
response as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from candle_vllm.generation import ServerCallArguments, ServerCallEnded, ServerCallStarted
from candle_vllm.openai.chat_types import ChatCompletionTokenLogprob
from candle_vllm.openai.endpoint import TextFrame
from candle_vllm.openai.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemEvent,
    McpCallEvent,
    PartEvent,
    ReasoningDelta,
    ReasoningDone,
    StreamEvent,
    TextDelta,
    TextDone,
)
from candle_vllm.openai.responses.items import fresh_item_id
from candle_vllm.openai.responses.objects import (
    FunctionCallItem,
    ItemStatus,
    McpCallItem,
    McpToolError,
    OutputItem,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
)

__all__ = ["Output", "as_it_is"]

ModelT = TypeVar("ModelT", bound=BaseModel)


class Output:
    """Grows `items`, a response's own list. It numbers all events of the response's stream, for they are in one row."""

    def __init__(self, items: list[OutputItem]) -> None:
        self.items = items
        self._number = 0
        self._frame: _Frame | None = None
        self._turn = 1
        self._running: dict[int, int] = {}
        """Of the calls that run here, by their number: the place of their item."""
        self._told: set[int] = set()
        """Places of such calls whose arguments are complete."""

    def next(self) -> int:
        """The number of one more event."""
        self._number += 1
        return self._number - 1

    def quick(self, text: str) -> str | None:
        """The JSON text of the one event that a piece of text makes due in a message that goes on; else None."""
        item = self.open
        if not isinstance(item, OutputMessage):
            return None
        if self._frame is None or self._frame.item is not item:
            self._frame = _Frame(item, self._index)
        written = self._frame.around(text, self._number)
        if written is not None:
            item.content[0].text += text
            self._number += 1
        return written

    def text(self, text: str, entries: Sequence[ChatCompletionTokenLogprob] = ()) -> Iterator[StreamEvent]:
        """The assistant says more; `entries` are the log-probabilities of what it says."""
        item = self.open
        if not isinstance(item, OutputMessage):
            yield from self.close("completed")
            item = OutputMessage(
                id=fresh_item_id("msg"), type="message", role="assistant", status="in_progress", content=[]
            )
            yield self._added(item)
            item.content.append(OutputText(type="output_text", text="", annotations=[], logprobs=[]))
            yield self._part("response.content_part.added", item.id, item.content[0])
        part = item.content[0]
        part.text += text
        part.logprobs += entries
        yield TextDelta(
            type="response.output_text.delta",
            sequence_number=self.next(),
            item_id=item.id,
            output_index=self._index,
            content_index=0,
            delta=text,
            logprobs=list(entries),
        )

    def thought(self, text: str) -> Iterator[StreamEvent]:
        """The model thinks on."""
        item = self.open
        if not isinstance(item, ReasoningItem):
            yield from self.close("completed")
            item = ReasoningItem(
                id=fresh_item_id("rs"),
                type="reasoning",
                status="in_progress",
                summary=[],
                content=[],
                encrypted_content=None,
            )
            yield self._added(item)
            item.content.append(ReasoningText(type="reasoning_text", text=""))
            yield self._part("response.content_part.added", item.id, item.content[0])
        item.content[0].text += text
        yield ReasoningDelta(
            type="response.reasoning_text.delta",
            sequence_number=self.next(),
            item_id=item.id,
            output_index=self._index,
            content_index=0,
            delta=text,
        )

    def call(self, call_id: str, name: str) -> Iterator[StreamEvent]:
        """The model begins to call a function of the client."""
        yield from self.close("completed")
        item = FunctionCallItem(
            id=fresh_item_id("fc"), type="function_call", status="in_progress", call_id=call_id, name=name, arguments=""
        )
        yield self._added(item)

    def arguments(self, text: str) -> Iterator[StreamEvent]:
        """The arguments of that call go on."""
        item = self.open
        if not isinstance(item, FunctionCallItem):
            raise RuntimeError("arguments come without their call")
        item.arguments += text
        yield ArgumentsDelta(
            type="response.function_call_arguments.delta",
            sequence_number=self.next(),
            item_id=item.id,
            output_index=self._index,
            delta=text,
        )

    def server_call(self, event: ServerCallStarted) -> Iterator[StreamEvent]:
        """The model begins to call a tool that is run here."""
        yield from self.close("completed")
        item = McpCallItem(
            id=fresh_item_id("mcp"),
            type="mcp_call",
            status="in_progress",
            server_label=event.server or "",
            name=event.name,
            arguments="",
            output=None,
            error=None,
            approval_request_id=None,
            turn=self._turn,
        )
        yield self._added(item)
        self._running[event.call] = self._index
        yield self._of_call("response.mcp_call.in_progress", self._index)

    def server_arguments(self, event: ServerCallArguments) -> Iterator[StreamEvent]:
        """The arguments of such a call go on."""
        at = self._running[event.call]
        item = self.items[at]
        assert isinstance(item, McpCallItem)
        item.arguments += event.text
        yield ArgumentsDelta(
            type="response.mcp_call_arguments.delta",
            sequence_number=self.next(),
            item_id=item.id,
            output_index=at,
            delta=event.text,
        )

    def server_ended(self, event: ServerCallEnded) -> Iterator[StreamEvent]:
        """Such a call has run, or was refused."""
        at = self._running.pop(event.call)
        item = self.items[at]
        assert isinstance(item, McpCallItem)
        yield from self._arguments_done(at, item)
        well = event.outcome == "ok"
        item.status, item.output = ("completed" if well else "failed"), event.text
        if not well:
            item.error = McpToolError(type="mcp_tool_execution_error", content=event.text)
        yield self._of_call("response.mcp_call.completed" if well else "response.mcp_call.failed", at)
        yield ItemEvent(
            type="response.output_item.done", sequence_number=self.next(), output_index=at, item=as_it_is(item)
        )

    def turn(self) -> Iterator[StreamEvent]:
        """Calls have run and the model speaks again."""
        yield from self.close("completed")
        self._turn += 1

    def break_off(self) -> None:
        """What goes on ends before it is complete."""
        for item in self.items:
            if item.status == "in_progress":
                item.status = "incomplete"

    def close(self, status: ItemStatus) -> Iterator[StreamEvent]:
        """The item that goes on, if any, is complete, or ends before it is."""
        item, at = self.open, self._index
        if item is None:
            return
        if isinstance(item, McpCallItem):
            # It runs on by itself.
            yield from self._arguments_done(at, item)
            return
        item.status = status
        where: dict[str, Any] = {"item_id": item.id, "output_index": at}
        match item:
            case FunctionCallItem():
                yield ArgumentsDone(
                    type="response.function_call_arguments.done",
                    sequence_number=self.next(),
                    **where,
                    name=item.name,
                    arguments=item.arguments,
                )
            case ReasoningItem():
                text = item.content[0].text
                yield ReasoningDone(
                    type="response.reasoning_text.done",
                    sequence_number=self.next(),
                    **where,
                    content_index=0,
                    text=text,
                )
                yield self._part("response.content_part.done", item.id, item.content[0])
            case OutputMessage():
                part = item.content[0]
                yield TextDone(
                    type="response.output_text.done",
                    sequence_number=self.next(),
                    **where,
                    content_index=0,
                    text=part.text,
                    logprobs=part.logprobs,
                )
                yield self._part("response.content_part.done", item.id, part)
        yield ItemEvent(
            type="response.output_item.done", sequence_number=self.next(), output_index=at, item=as_it_is(item)
        )

    def _arguments_done(self, at: int, item: McpCallItem) -> Iterator[StreamEvent]:
        if at not in self._told:
            self._told.add(at)
            yield ArgumentsDone(
                type="response.mcp_call_arguments.done",
                sequence_number=self.next(),
                item_id=item.id,
                output_index=at,
                name=item.name,
                arguments=item.arguments,
            )

    def _of_call(self, kind: Any, at: int) -> McpCallEvent:
        return McpCallEvent(type=kind, sequence_number=self.next(), item_id=self.items[at].id, output_index=at)

    @property
    def _index(self) -> int:
        return len(self.items) - 1

    @property
    def open(self) -> OutputItem | None:
        """The last item, while it goes on."""
        last = self.items[-1] if self.items else None
        return last if last is not None and last.status == "in_progress" else None

    def _added(self, item: OutputItem) -> ItemEvent:
        self.items.append(item)
        return ItemEvent(
            type="response.output_item.added",
            sequence_number=self.next(),
            output_index=self._index,
            item=as_it_is(item),
        )

    def _part(self, kind: Any, item_id: str, part: OutputText | ReasoningText) -> PartEvent:
        return PartEvent(
            type=kind,
            sequence_number=self.next(),
            item_id=item_id,
            output_index=self._index,
            content_index=0,
            part=as_it_is(part),
        )


class _Frame:
    """The JSON text of a message's deltas, but for number and text."""

    _NUMBER = 918_273_645_546

    def __init__(self, item: OutputMessage, index: int) -> None:
        self.item = item
        marked = TextDelta(
            type="response.output_text.delta",
            sequence_number=self._NUMBER,
            item_id=item.id,
            output_index=index,
            content_index=0,
            delta=TextFrame.MARK,
            logprobs=[],
        )
        self._frame = TextFrame(marked)

    def around(self, text: str, number: int) -> str | None:
        """The event; None for a text that the two ways would escape differently."""
        written = self._frame.around(text)
        return None if written is None else written.replace(str(self._NUMBER), str(number), 1)


def as_it_is(model: ModelT) -> ModelT:
    """A copy that stays as it is while the response goes on."""
    return model.model_copy(deep=True)
