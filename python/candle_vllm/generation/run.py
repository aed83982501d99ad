"""Road: one request from its model's lease to its last event. Every endpoint and both doors run it.

Closing the stream of events, or cancelling the task that reads it, frees the work wherever it is: waiting for
the model, queued, running. Must not know of endpoints or HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from candle_vllm.engine import Request
from candle_vllm.errors import ConfigError, EngineFailedError, GenerationError, RequestCancelledError
from candle_vllm.generation.account import Account, Observer, Observers, untraced
from candle_vllm.generation.budget import Budgeted, Plan
from candle_vllm.generation.entering import Entering
from candle_vllm.generation.events import (
    Event,
    Finished,
    FinishText,
    PromptLogprobs,
    Started,
    Status,
    Tokens,
)
from candle_vllm.generation.merge import AT_ONCE, merged
from candle_vllm.generation.prepare import Prepared, count_answers, prepare, refused
from candle_vllm.generation.request import Conversation, GenerationRequest
from candle_vllm.generation.split import AnswerSplitter, splitters
from candle_vllm.models import LoadedModel, Models
from candle_vllm.params import GenerationParams
from candle_vllm.records import FinishReason, GenerationChunk

__all__ = ["Road"]


class Road:
    """The way of every request to the models. `observers` hear how requests fare."""

    def __init__(self, models: Models, observers: Sequence[Observer] = ()) -> None:
        self.models = models
        self._observers = Observers(observers)

    async def run(self, request: GenerationRequest, account: Account | None = None) -> AsyncGenerator[Event, None]:
        """The events of a request. Whatever is wrong with the request itself is raised by the first step.

        `account`, the caller's own where it has one, is kept up to date.
        """
        account = account or Account()
        account.stream, account.n, account.max_tokens = request.stream, request.n, request.max_tokens
        account.model = request.model or account.model
        self._observers.started(account)
        try:
            async with aclosing(self._events(request, account)) as events:
                async for event in events:
                    yield event
        except BaseException as error:
            account.error = error
            raise
        finally:
            self._observers.ended(account)
            if account.error is not None:
                account.error = untraced(account.error)

    async def _events(self, request: GenerationRequest, account: Account) -> AsyncGenerator[Event, None]:
        if request.server_tools is not None and request.server_tools.asked:
            raise request.refusal("server_tools", "cannot be used: no tools are run here.", "unsupported_parameter")
        count_answers(request)
        entering = Entering(self.models, request)
        failure: BaseException | None = None
        try:
            async with aclosing(entering.waits()) as waits:
                async for wait in waits:
                    yield Status(wait)
            model = entering.model
            prepared = await prepare(request, model)
            account.model = request.model or model.names[0]
            account.prompt_tokens = sum(map(len, prepared.prompts))
            with model.admission.admit(len(prepared.params), account.prompt_tokens * request.n) as ticket:
                handles = await _submit(request, model, prepared)
                try:
                    account.submitted, account.answers = time.monotonic(), len(handles)
                    yield Started(model, account.model, prepared.prompts, len(handles))
                    splits = await splitters(request, model, prepared)
                    async with aclosing(merged(handles, whole=not request.stream)) as pieces:
                        async for index, chunk in pieces:
                            ticket.begun()
                            self._count(account, request, index, chunk)
                            events = _events_of(request, splits[index], index, chunk)
                            if chunk.finish_reason is not None and (thought := splits[index].thought):
                                account.reasoning_tokens += len(model.engine.tokenize(thought))
                            for event in events:
                                yield event
                finally:
                    for handle in handles:
                        handle.close()
        except BaseException as error:
            failure = error
            raise
        finally:
            await entering.leave(failure)
            # A frame that holds its own error keeps all else that it holds, the engine too, until a collection.
            failure = None

    def _count(self, account: Account, request: GenerationRequest, index: int, chunk: GenerationChunk) -> None:
        if chunk.token_ids:
            account.generated_tokens += len(chunk.token_ids)
            self._observers.tokens(account, len(chunk.token_ids), time.monotonic())
        stats = chunk.stats
        if stats is None or chunk.finish_reason is None:
            return
        if not request.stream and account.submitted is not None:
            # Nobody saw the first token of a whole answer come; the engine knows when it did.
            first = account.submitted + stats.queue_time + stats.prefill_time
            account.first_token_at = min(first, account.first_token_at or first)
        if index % request.n == 0:
            # Further answers to one prompt find it in the cache; only what the first one found counts.
            account.cached_tokens += stats.cached_tokens
        account.queue_time = max(account.queue_time, stats.queue_time)
        account.prefill_time = max(account.prefill_time, stats.prefill_time)
        account.finish_reasons.append(str(chunk.finish_reason))


async def _submit(request: GenerationRequest, model: LoadedModel, prepared: Prepared) -> list[Request]:
    """Submit every answer, or none: when one is refused the others are taken back and the refusal is raised."""
    handles: list[Request] = []
    skip = request.skip_special_tokens and not _reads_marks(request, model)

    def submit(prompt: Sequence[int], params: GenerationParams) -> Request:
        return model.engine.add_request(
            prompt, params, cache_salt=request.cache_salt, priority=request.priority, skip_special_tokens=skip
        )

    try:
        for at, (prompt, params) in enumerate(prepared):
            if request.thinking_budget is None:
                handles.append(submit(prompt, params))
            else:
                thinking = prepared.thinking[at // request.n]
                plan = Plan(prompt, thinking, request.thinking_budget, params, prepared.after[at])
                handles.append(Budgeted(plan, model, submit, skip_special_tokens=skip))
            if len(handles) % AT_ONCE == 0:
                await asyncio.sleep(0)
    except BaseException as error:
        for handle in handles:
            handle.close()
        if isinstance(error, ConfigError):
            raise refused(request, error) from error
        if isinstance(error, GenerationError) and not _able(model):
            raise EngineFailedError(f"the engine takes no requests: {error}") from error
        raise
    return handles


def _reads_marks(request: GenerationRequest, model: LoadedModel) -> bool:
    """Whether thinking or calls are told from text by special tokens, which must then be in the text."""
    marks = model.tool_format.marks if request.tool_use is not None else ()
    if isinstance(request.input, Conversation):
        marks += model.reasoning.marks
    return bool(model.texts.special_marks(marks))


def _able(model: LoadedModel) -> bool:
    stats = model.engine.stats()
    return stats.healthy and not stats.closed


def _events_of(request: GenerationRequest, split: AnswerSplitter, index: int, chunk: GenerationChunk) -> list[Event]:
    events: list[Event] = []
    if chunk.prompt_logprobs is not None:
        events.append(PromptLogprobs(index, chunk.prompt_logprobs))
    if request.logprobs is not None or request.token_ids:
        last = len(chunk.token_ids) - (chunk.finish_reason is FinishReason.STOP)
        if last:
            events.append(Tokens(index, chunk.token_ids[:last], (chunk.logprobs or ())[:last]))
    text = chunk.text
    if request.include_stop and chunk.finish_reason is FinishReason.STOP_SEQUENCE:
        text += str(chunk.stop_reason)
    if text:
        events += split.feed(text)
    if chunk.finish_reason is not None and chunk.stats is not None:
        reason = _finish_text(chunk)
        events += split.end()
        events.append(Finished(index, split.reason(reason), chunk.stop_reason, chunk.stats))
    return events


def _finish_text(chunk: GenerationChunk) -> FinishText:
    """OpenAI's word for why an answer ended; raises when it did not end well."""
    reason = chunk.finish_reason
    if reason is FinishReason.LENGTH:
        return "length"
    if reason in (FinishReason.STOP, FinishReason.STOP_SEQUENCE):
        return "stop"
    if reason is FinishReason.CANCELLED:
        raise RequestCancelledError("the request was cancelled before its answer was complete")
    raise GenerationError(str(chunk.stop_reason) if chunk.stop_reason else "the answer could not be completed")
