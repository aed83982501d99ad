"""ResponseWriter: a response and the events of its stream, from the events of its request.

A response has one way of growing: what streams is what the whole reply holds. Must not know where responses are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from candle_vllm.generation import (
    Account,
    Answer,
    Continued,
    Event,
    Finished,
    Reasoning,
    Reply,
    ServerCallArguments,
    ServerCallEnded,
    ServerCallStarted,
    Started,
    Text,
    Tokens,
    ToolArguments,
    ToolCallStarted,
)
from candle_vllm.generation import Status as Waiting
from candle_vllm.openai.chat_types import ChatCompletionTokenLogprob, WaitMetadata
from candle_vllm.openai.endpoint import now
from candle_vllm.openai.errors import ApiError
from candle_vllm.openai.logprobs import chat_logprobs
from candle_vllm.openai.responses.events import ResponseEvent, StreamEvent
from candle_vllm.openai.responses.items import fresh_item_id
from candle_vllm.openai.responses.objects import (
    IncompleteDetails,
    InputTokensDetails,
    OutputMessage,
    OutputTokensDetails,
    Response,
    ResponseError,
    ResponseUsage,
    Status,
)
from candle_vllm.openai.responses.output import Output, as_it_is
from candle_vllm.openai.responses.parse import wants_logprobs
from candle_vllm.openai.responses.types import ResponsesRequest, Tool

__all__ = ["ResponseWriter"]


class ResponseWriter:
    """Writes one response. `ended`, where set, is called with it once it is complete."""

    def __init__(self, request: ResponsesRequest, account: Account) -> None:
        self._account = account
        self._top = request.top_logprobs or 0
        self._with_logprobs = wants_logprobs(request)
        self._begun = False
        self._started: Started | None = None
        self._pending: list[Tokens] = []
        self.response = _blank(request)
        self._output = Output(self.response.output)
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
        return self._output.quick(event.text) if type(event) is Text and not self._pending else None

    @property
    def begun(self) -> bool:
        """Whether anything of it was told."""
        return self._begun

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
        for event in (reply.started, *_told_again(answer), answer.finished):
            self.chunks(event)
        return self.response

    def _written(self, event: Event) -> Iterator[StreamEvent]:
        match event:
            case Text(text=text):
                yield from self._output.text(text, self._scored())
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
                # What came before was no text.
                self._pending.clear()
                yield from self._other(event)

    def _other(self, event: Event) -> Iterator[StreamEvent]:
        output = self._output
        match event:
            case Reasoning(text=text):
                yield from output.thought(text)
            case ToolCallStarted(id=call_id, name=name):
                yield from output.call(call_id, name)
            case ToolArguments(text=text):
                yield from output.arguments(text)
            case ServerCallStarted():
                yield from output.server_call(event)
            case ServerCallArguments():
                yield from output.server_arguments(event)
            case ServerCallEnded():
                yield from output.server_ended(event)
            case Continued():
                yield from output.turn()
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
        output, response = self._output, self.response
        if self._pending and isinstance(output.open, OutputMessage):
            yield from output.text("", self._scored())
        cut = finished.reason == "length"
        yield from output.close("incomplete" if cut else "completed")
        if cut:
            response.incomplete_details = _why(finished)
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
        self._output.break_off()
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

    def _whole(self, kind: Any) -> ResponseEvent:
        self._begun = True
        return ResponseEvent(type=kind, sequence_number=self._output.next(), response=as_it_is(self.response))

    def _scored(self) -> list[ChatCompletionTokenLogprob]:
        """The log-probabilities of the tokens that came before this text."""
        tokens, self._pending = self._pending, []
        if not tokens:
            return []
        if self._started is None:
            raise RuntimeError("tokens come before the answer has started")
        entries = [entry for piece in tokens for entry in piece.logprobs]
        return chat_logprobs(entries, self._top, self._started.model.texts)


def _told_again(answer: Answer) -> Iterator[Event]:
    """The events of a whole answer, all that its turns hold in one piece each."""
    calls = here = 0
    for number, turn in enumerate(answer.turns):
        if number:
            yield Continued(0)
        if turn.reasoning:
            yield Reasoning(0, turn.reasoning)
        if turn.token_ids:
            yield Tokens(0, turn.token_ids, turn.logprobs)
        if turn.text:
            yield Text(0, turn.text)
        for at, made in enumerate(turn.server_calls, here):
            yield ServerCallStarted(0, at, made.id, made.name, made.server)
            yield ServerCallArguments(0, at, made.arguments)
        for at, call in enumerate(turn.calls, calls):
            yield ToolCallStarted(0, at, call.id, call.name)
            yield ToolArguments(0, at, call.arguments)
        for at, made in enumerate(turn.server_calls, here):
            if made.outcome:
                yield ServerCallEnded(0, at, made.text, made.outcome, made.seconds)
        here, calls = here + len(turn.server_calls), calls + len(turn.calls)


def _why(finished: Finished) -> IncompleteDetails:
    """Why an answer ended before the model was done; of one of several turns, which bound ended it."""
    bound = finished.bound
    if bound is None:
        return IncompleteDetails(reason="max_output_tokens")
    return IncompleteDetails(reason="max_messages" if bound == "max_turns" else "max_output_tokens", bound=bound)


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
        text={"format": form, "verbosity": (text.verbosity if text else None) or "medium"},
        tool_choice=choice if isinstance(choice, str) else choice.model_dump(exclude_none=True),
        tools=[_shown(tool) for tool in request.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=request.top_p,
        truncation=request.truncation or "disabled",
        usage=None,
        user=request.user,
    )


def _shown(tool: Tool) -> dict[str, Any]:
    if tool.type != "function":
        return tool.model_dump(exclude_none=True)
    return tool.model_dump(include={"type", "name", "description", "parameters", "strict"})
