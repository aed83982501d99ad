"""The loop of a conversation: the model answers, its calls run, their results go back, until it needs no more.

Budgets, the context's end, and models that go round in circles end it with what there is. Must not know how models
or tools are reached.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from candle_vllm.conversations.calls import Calls
from candle_vllm.conversations.events import (
    ConversationEvent,
    ConversationFinished,
    ConversationResult,
    EndReason,
    ExecutedCall,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnReasoning,
    TurnStarted,
    TurnText,
    TurnUsage,
)
from candle_vllm.conversations.model import Model, is_overflow
from candle_vllm.conversations.options import ConversationOptions
from candle_vllm.conversations.tools import Tool, Toolbox, as_openai
from candle_vllm.conversations.transcript import Transcript
from candle_vllm.generation import Call, Event, Finished, Reasoning, Started, Text, ToolArguments, ToolCallStarted
from candle_vllm.mcp.results import ToolResult

__all__ = ["Step", "converse", "steps"]

ItemT = TypeVar("ItemT")

_IDLE_TURNS = 2
"""Turns of nothing but repetitions after which a conversation ends."""


Step = TurnStarted | Event | ToolCalled | ToolReturned | TurnEnded | ConversationFinished
"""What happens in a conversation, the model's own events as they come."""


async def converse(
    model: Model, toolbox: Toolbox, messages: Sequence[Mapping[str, Any]], options: ConversationOptions
) -> AsyncGenerator[ConversationEvent, None]:
    """The events of a conversation; the last one holds its result.

    What fails in the first turn raises; later failures end the conversation with what there is. Closing the
    generator cancels whatever is under way.
    """
    turn = 0
    async with aclosing(steps(model, toolbox, messages, options)) as told:
        async for step in told:
            match step:
                case TurnStarted(turn):
                    yield step
                case Text(_, text):
                    yield TurnText(turn, text)
                case Reasoning(_, text):
                    yield TurnReasoning(turn, text)
                case ToolCalled() | ToolReturned() | TurnEnded() | ConversationFinished():
                    yield step
                case _:
                    pass


def steps(
    model: Model, toolbox: Toolbox, messages: Sequence[Mapping[str, Any]], options: ConversationOptions
) -> AsyncGenerator[Step, None]:
    """The same, with the model's own events where `converse` tells of text and thoughts."""
    return _Conversation(model, toolbox, messages, options).run()


class _OutOfTime(Exception):  # noqa: N818 - never leaves this module
    """The conversation's time is over."""


class _TooLittleRoom(Exception):  # noqa: N818 - never leaves this module
    """The prompt leaves too little of the context to an answer."""

    code = "context_length_exceeded"


@dataclass(slots=True)
class _Answer:
    """One answer of the model."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    finished: Finished | None = None

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["content"] = self.text or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.calls
            ]
        return message


class _Conversation:
    def __init__(
        self, model: Model, toolbox: Toolbox, messages: Sequence[Mapping[str, Any]], options: ConversationOptions
    ) -> None:
        self._model = model
        self._toolbox = toolbox
        self._options = options
        self._transcript = Transcript(messages, toolbox.instructions)
        self._calls = Calls(options)
        self._executed: list[ExecutedCall] = []
        self._usage = TurnUsage()
        self._turns = 0
        self._text = ""
        self._deadline = None if options.timeout is None else time.monotonic() + options.timeout

    async def run(self) -> AsyncGenerator[Step, None]:
        reason: EndReason | None = None
        error: Exception | None = None
        while reason is None:
            answer = _Answer()
            try:
                async with aclosing(self._turn(self._turns + 1, answer)) as events:
                    async for event in events:
                        yield event
            except _OutOfTime:
                self._keep_what_was_said(answer)
                reason = "time_budget"
            except Exception as caught:
                if self._turns == 0:
                    raise
                reason, error = ("context" if is_overflow(caught) else "error"), caught
            else:
                reason = self._end(answer)
        yield ConversationFinished(self._result(reason, error))

    def _end(self, answer: _Answer) -> EndReason | None:
        """Why the conversation ends after a turn; None where it goes on."""
        assert answer.finished is not None
        if not answer.calls:
            return "length" if answer.finished.reason == "length" else "stop"
        if len(self._own(answer.calls)) < len(answer.calls):
            return "tool_calls"
        if self._calls.idle_turns >= _IDLE_TURNS:
            return "loop"
        if self._turns >= self._options.max_turns:
            return "max_turns"
        return self._out_of_tokens()

    def _out_of_tokens(self) -> EndReason | None:
        most, generated = self._options, self._usage.generated_tokens
        if most.max_generated_tokens is not None and generated >= most.max_generated_tokens:
            return "length"
        if most.max_total_tokens is not None and self._usage.prompt_tokens + generated >= most.max_total_tokens:
            return "token_budget"
        return None

    def _own(self, calls: Sequence[Call]) -> list[Call]:
        """Those of the calls that are run here."""
        return [call for call in calls if call.name not in self._toolbox.declared]

    def _result(self, reason: EndReason, error: Exception | None) -> ConversationResult:
        return ConversationResult(
            final_message=self._text,
            tool_calls_executed=tuple(self._executed),
            turns_taken=self._turns,
            messages=tuple(self._transcript.messages),
            finish_reason=reason,
            usage=self._usage,
            error=error,
        )

    def _keep_what_was_said(self, answer: _Answer) -> None:
        """An answer that time cut off: its text stays, its calls never ran."""
        if answer.finished is None and answer.text:
            answer.calls.clear()
            self._transcript.add(answer.message())
            self._text = answer.text

    async def _turn(self, turn: int, answer: _Answer) -> AsyncGenerator[Step, None]:
        yield TurnStarted(turn)
        tools = await self._in_time(self._toolbox.tools())
        async with aclosing(self._answered(turn, answer, tools)) as told:
            async for piece in told:
                yield piece
        finished = answer.finished
        if finished is None:
            raise RuntimeError("the model's events ended before its answer did")
        self._turns = turn
        self._text = answer.text
        self._transcript.add(answer.message())
        usage = self._count(finished)
        if own := self._own(answer.calls):
            async with aclosing(self._called(turn, own, tools)) as returned:
                async for step in returned:
                    yield step
        yield TurnEnded(turn, "tool_calls" if answer.calls else finished.reason, usage)

    def _count(self, finished: Finished) -> TurnUsage:
        stats, before = finished.stats, self._usage
        self._usage = TurnUsage(
            before.prompt_tokens + stats.prompt_tokens,
            before.cached_tokens + stats.cached_tokens,
            before.generated_tokens + stats.generated_tokens,
        )
        return TurnUsage(stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens)

    # The model's answer.

    async def _answered(self, turn: int, answer: _Answer, tools: Mapping[str, Tool]) -> AsyncGenerator[Event, None]:
        """The answer's events; where the context is too small, old results are shortened until it is not."""
        while True:
            try:
                async with aclosing(self._model.answer(self._request(turn, tools))) as events:
                    async for event in self._timed(events):
                        self._take(answer, event)
                        yield event
                return
            except Exception as error:
                if not is_overflow(error) or not self._transcript.shorten():
                    raise

    def _request(self, turn: int, tools: Mapping[str, Tool]) -> dict[str, Any]:
        request = {**self._options.request, "messages": self._transcript.shown}
        shown = [*self._toolbox.declared.values(), *as_openai(tools, self._options.allowed_tools)]
        if shown:
            choice = self._options.choice(turn)
            named = {"type": "function", "function": {"name": choice}}
            request["tools"] = shown
            request["tool_choice"] = choice if choice in ("auto", "required", "none") else named
            request["parallel_tool_calls"] = self._options.parallel_tool_calls
        return request

    def _take(self, answer: _Answer, event: Event) -> None:
        match event:
            case Started():
                self._check_room(event)
            case Text(_, text):
                answer.text += text
            case Reasoning(_, text):
                answer.reasoning += text
            case ToolCallStarted(_, _, id, name):
                answer.calls.append(Call(id, name))
            case ToolArguments(_, call, text):
                answer.calls[call].arguments += text
            case Finished():
                answer.finished = event
            case _:
                pass

    def _check_room(self, started: Started) -> None:
        """Have results shortened before an answer begins that would soon be cut off."""
        context = started.model.engine.model_info.max_sequence_length
        room = context - len(started.prompts[0])
        if room < min(self._options.reserve_tokens, context // 4) and self._transcript.can_shorten:
            raise _TooLittleRoom

    # The calls of a turn.

    async def _called(
        self, turn: int, calls: Sequence[Call], tools: Mapping[str, Tool]
    ) -> AsyncGenerator[ToolCalled | ToolReturned, None]:
        for call in calls:
            yield ToolCalled(turn, call.id, call.name, call.arguments)
        tasks = self._calls.begin(turn, calls, tools)
        done = 0
        try:
            for task in tasks:
                made = await self._in_time(asyncio.shield(task))
                self._keep(made)
                done += 1
                yield ToolReturned(turn, made)
        except _OutOfTime:
            # Every call of the messages needs its result, or nobody could go on with them.
            late = ToolResult.failed("timeout", "the conversation's time was over before there was a result")
            for task, call in list(zip(tasks, calls, strict=True))[done:]:
                made = ExecutedCall(turn, call.id, call.name, None, call.arguments, late, 0.0)
                self._keep(task.result() if task.done() and not task.cancelled() else made)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _keep(self, made: ExecutedCall) -> None:
        self._calls.note(made)
        self._executed.append(made)
        self._transcript.add({"role": "tool", "tool_call_id": made.id, "name": made.name, "content": made.result.text})

    # Time.

    async def _timed(self, items: AsyncIterator[ItemT]) -> AsyncGenerator[ItemT, None]:
        while True:
            try:
                item = await self._in_time(anext(items))
            except StopAsyncIteration:
                return
            yield item

    async def _in_time(self, work: Awaitable[ItemT]) -> ItemT:
        """What the work comes to; cancelled, and _OutOfTime raised, when the conversation's time is over."""
        if self._deadline is None:
            return await work
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()) as scope:
                return await work
        except TimeoutError:
            if scope.expired():
                raise _OutOfTime from None
            raise
