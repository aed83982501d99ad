"""ResponseWriter: a response and the events of its stream, from the events of its request.

A response has one way of growing: what streams is what the whole reply holds. Must not know where responses are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from candle_vllm.generation import (
    Account,
    Event,
    Finished,
    Reasoning,
    Reply,
    Started,
    Text,
    Tokens,
    ToolArguments,
    ToolCallStarted,
)
from candle_vllm.generation import Status as Waiting
from candle_vllm.openai.chat_types import ChatCompletionTokenLogprob, WaitMetadata
from candle_vllm.openai.endpoint import TextFrame, now
from candle_vllm.openai.errors import ApiError
from candle_vllm.openai.logprobs import chat_logprobs
from candle_vllm.openai.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemEvent,
    PartEvent,
    ReasoningDelta,
    ReasoningDone,
    ResponseEvent,
    StreamEvent,
    TextDelta,
    TextDone,
)
from candle_vllm.openai.responses.items import fresh_item_id
from candle_vllm.openai.responses.objects import (
    FunctionCallItem,
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    ReasoningItem,
    ReasoningText,
    Response,
    ResponseError,
    ResponseUsage,
    Status,
)
from candle_vllm.openai.responses.parse import wants_logprobs
from candle_vllm.openai.responses.types import FunctionTool, ResponsesRequest

__all__ = ["ResponseWriter"]

ModelT = TypeVar("ModelT", bound=BaseModel)


class ResponseWriter:
    """Writes one response. `ended`, where set, is called with it once it is complete."""

    def __init__(self, request: ResponsesRequest, account: Account) -> None:
        self._account = account
        self._top = request.top_logprobs or 0
        self._with_logprobs = wants_logprobs(request)
        self._number = 0
        self._begun = False
        self._started: Started | None = None
        self._pending: list[Tokens] = []
        self._frame: _Frame | None = None
        self.response = _blank(request)
        if account.warnings:
            self.response.warnings = account.warnings
        self.ended: Callable[[Response], None] | None = None

    def chunks(self, event: Event) -> Sequence[StreamEvent]:
        """The events that this event makes due."""
        return list(self._written(event))

    def closing(self) -> Sequence[StreamEvent]:
        """Nothing more."""
        return []

    def quick(self, event: Event) -> str | None:
        """The JSON text of a plain piece of text in a message that goes on."""
        if type(event) is not Text or self._pending or not isinstance(item := self._open, OutputMessage):
            return None
        if self._frame is None or self._frame.item is not item:
            self._frame = _Frame(item, self._index)
        written = self._frame.around(event.text, self._number)
        if written is not None:
            item.content[0].text += event.text
            self._number += 1
        return written

    def queue(self) -> Sequence[StreamEvent]:
        """The first events of a response that is begun later."""
        self.response.status = "queued"
        return [self._whole("response.created"), self._whole("response.queued")]

    def cancel(self) -> None:
        """It goes on no longer; nothing tells of that."""
        self._end("cancelled")

    def failing(self, error: ApiError) -> Sequence[StreamEvent]:
        """The last event of a response that fails on its way."""
        self._fail(error)
        opening = [] if self._begun else [self._whole("response.created")]
        return [*opening, self._whole("response.failed")]

    def reply(self, reply: Reply) -> Response:
        """The whole reply: what the same answer in one piece makes of the response."""
        answer = reply.answers[0]
        if answer.finished is None:
            raise RuntimeError("an answer has no end")
        events: list[Event] = [reply.started]
        if answer.reasoning:
            events.append(Reasoning(0, answer.reasoning))
        if answer.token_ids:
            events.append(Tokens(0, answer.token_ids, answer.logprobs))
        if answer.text:
            events.append(Text(0, answer.text))
        for at, call in enumerate(answer.calls):
            events += [ToolCallStarted(0, at, call.id, call.name), ToolArguments(0, at, call.arguments)]
        for event in [*events, answer.finished]:
            self.chunks(event)
        return self.response

    def _written(self, event: Event) -> Iterator[StreamEvent]:
        match event:
            case Text(text=text):
                yield from self._text(text)
            case Reasoning(text=text):
                yield from self._thought(text)
            case ToolCallStarted(id=call_id, name=name):
                yield from self._call(call_id, name)
            case ToolArguments(text=text):
                yield from self._arguments(text)
            case Tokens():
                if self._with_logprobs:
                    # They go with the text that they complete.
                    self._pending.append(event)
            case Started():
                yield from self._start(event)
            case Waiting():
                yield from self._wait(event)
            case Finished():
                yield from self._finish(event)
            case _:
                pass

    # The response

    def _start(self, started: Started) -> Iterator[StreamEvent]:
        self._started = started
        sampled = started.model.defaults.named()
        response = self.response
        response.model, response.status = started.name, "in_progress"
        if response.temperature is None:
            response.temperature = sampled.get("temperature", 1.0)
        if response.top_p is None:
            response.top_p = sampled.get("top_p", 1.0)
        if not self._begun:
            yield self._whole("response.created")
        yield self._whole("response.in_progress")

    def _wait(self, event: Waiting) -> Iterator[StreamEvent]:
        """What it waits for, until it is begun; from then on its own events are its signs of life."""
        if self._started is not None:
            return
        wait, response = event.wait, self.response
        response.status, response.model = "queued", response.model or wait.model
        if not self._begun:
            yield self._whole("response.created")
        metadata = WaitMetadata(status=wait.status, position=wait.position, model=wait.model, eta_ms=wait.eta_ms)
        queued = self._whole("response.queued")
        queued.response.candle_metadata = metadata
        yield queued

    def _finish(self, finished: Finished) -> Iterator[StreamEvent]:
        if self._pending and isinstance(self._open, OutputMessage):
            yield from self._text("")
        cut = finished.reason == "length"
        yield from self._close("incomplete" if cut else "completed")
        response = self.response
        if cut:
            response.incomplete_details = IncompleteDetails(reason="max_output_tokens")
        else:
            response.completed_at = now()
        self._end("incomplete" if cut else "completed")
        yield self._whole("response.incomplete" if cut else "response.completed")

    def _fail(self, error: ApiError) -> None:
        usual = "server_error" if error.status >= 500 else "invalid_prompt"
        code: Any = "rate_limit_exceeded" if error.code == "queue_full" else usual
        self.response.error = ResponseError(code=code, message=error.message)
        self._end("failed")

    def _end(self, status: Status) -> None:
        account = self._account
        if self._open is not None:
            self._open.status = "incomplete"
        self.response.status = status
        self.response.usage = ResponseUsage(
            input_tokens=account.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=account.cached_tokens, cache_write_tokens=0),
            output_tokens=account.generated_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=account.reasoning_tokens),
            total_tokens=account.prompt_tokens + account.generated_tokens,
        )
        if self.ended is not None:
            self.ended(self.response)

    # Its items: one ends where another begins

    def _text(self, text: str) -> Iterator[StreamEvent]:
        item = self._open
        if not isinstance(item, OutputMessage):
            yield from self._close("completed")
            item = OutputMessage(
                id=fresh_item_id("msg"), type="message", role="assistant", status="in_progress", content=[]
            )
            yield self._added(item)
            item.content.append(OutputText(type="output_text", text="", annotations=[], logprobs=[]))
            yield self._part("response.content_part.added", item.id, item.content[0])
        part = item.content[0]
        entries = self._scored()
        part.text += text
        part.logprobs += entries
        yield TextDelta(
            type="response.output_text.delta",
            sequence_number=self._next(),
            item_id=item.id,
            output_index=self._index,
            content_index=0,
            delta=text,
            logprobs=entries,
        )

    def _thought(self, text: str) -> Iterator[StreamEvent]:
        item = self._open
        if not isinstance(item, ReasoningItem):
            yield from self._close("completed")
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
        self._pending.clear()
        item.content[0].text += text
        yield ReasoningDelta(
            type="response.reasoning_text.delta",
            sequence_number=self._next(),
            item_id=item.id,
            output_index=self._index,
            content_index=0,
            delta=text,
        )

    def _call(self, call_id: str, name: str) -> Iterator[StreamEvent]:
        self._pending.clear()
        yield from self._close("completed")
        item = FunctionCallItem(
            id=fresh_item_id("fc"), type="function_call", status="in_progress", call_id=call_id, name=name, arguments=""
        )
        yield self._added(item)

    def _arguments(self, text: str) -> Iterator[StreamEvent]:
        item = self._open
        if not isinstance(item, FunctionCallItem):
            raise RuntimeError("arguments come without their call")
        self._pending.clear()
        item.arguments += text
        yield ArgumentsDelta(
            type="response.function_call_arguments.delta",
            sequence_number=self._next(),
            item_id=item.id,
            output_index=self._index,
            delta=text,
        )

    def _close(self, status: ItemStatus) -> Iterator[StreamEvent]:
        """The item that is open, if any, is complete, or ends before it is."""
        item, at = self._open, self._index
        if item is None:
            return
        item.status = status
        where: dict[str, Any] = {"item_id": item.id, "output_index": at}
        match item:
            case FunctionCallItem():
                yield ArgumentsDone(
                    type="response.function_call_arguments.done",
                    sequence_number=self._next(),
                    **where,
                    name=item.name,
                    arguments=item.arguments,
                )
            case ReasoningItem():
                text = item.content[0].text
                yield ReasoningDone(
                    type="response.reasoning_text.done",
                    sequence_number=self._next(),
                    **where,
                    content_index=0,
                    text=text,
                )
                yield self._part("response.content_part.done", item.id, item.content[0])
            case OutputMessage():
                part = item.content[0]
                yield TextDone(
                    type="response.output_text.done",
                    sequence_number=self._next(),
                    **where,
                    content_index=0,
                    text=part.text,
                    logprobs=part.logprobs,
                )
                yield self._part("response.content_part.done", item.id, part)
        yield ItemEvent(
            type="response.output_item.done", sequence_number=self._next(), output_index=at, item=_as_it_is(item)
        )

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1

    @property
    def _open(self) -> OutputItem | None:
        """The last item, while it goes on."""
        last = self.response.output[-1] if self.response.output else None
        return last if last is not None and last.status == "in_progress" else None

    # Events

    def _next(self) -> int:
        self._number += 1
        return self._number - 1

    def _whole(self, kind: Any) -> ResponseEvent:
        self._begun = True
        return ResponseEvent(type=kind, sequence_number=self._next(), response=_as_it_is(self.response))

    def _added(self, item: OutputItem) -> ItemEvent:
        self.response.output.append(item)
        return ItemEvent(
            type="response.output_item.added",
            sequence_number=self._next(),
            output_index=self._index,
            item=_as_it_is(item),
        )

    def _part(self, kind: Any, item_id: str, part: OutputText | ReasoningText) -> PartEvent:
        return PartEvent(
            type=kind,
            sequence_number=self._next(),
            item_id=item_id,
            output_index=self._index,
            content_index=0,
            part=_as_it_is(part),
        )

    def _scored(self) -> list[ChatCompletionTokenLogprob]:
        """The log-probabilities of the tokens that came before this text."""
        tokens, self._pending = self._pending, []
        if not tokens:
            return []
        if self._started is None:
            raise RuntimeError("tokens come before the answer has started")
        entries = [entry for piece in tokens for entry in piece.logprobs]
        return chat_logprobs(entries, self._top, self._started.model.texts)


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


def _as_it_is(model: ModelT) -> ModelT:
    """A copy that stays as it is while the response goes on."""
    return model.model_copy(deep=True)


def _blank(request: ResponsesRequest) -> Response:
    """The response before anything is known but what was asked."""
    choice, text, reasoning = request.tool_choice or "auto", request.text, request.reasoning
    form = text.format.model_dump(by_alias=True, exclude_none=True) if text and text.format else {"type": "text"}
    return Response(
        id=fresh_item_id("resp"),
        object="response",
        created_at=now(),
        completed_at=None,
        status="in_progress",
        background=bool(request.background),
        error=None,
        incomplete_details=None,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=request.metadata or {},
        model=request.model,
        output=[],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning={
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        safety_identifier=request.safety_identifier,
        service_tier="default",
        store=request.store is not False and request.history is not None,
        temperature=request.temperature,
        text={"format": form, "verbosity": "medium"},
        tool_choice=choice if isinstance(choice, str) else choice.model_dump(exclude_none=True),
        tools=[_shown(tool) for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=request.top_p,
        truncation=request.truncation or "disabled",
        usage=None,
        user=request.user,
    )


def _shown(tool: FunctionTool) -> dict[str, Any]:
    return {
        "type": tool.type,
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
