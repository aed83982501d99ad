"""Budgeted: a request whose thinking is closed by force once it has taken as many tokens as it may.

The answer goes on as a second request to the engine, behind what was thought and the text that closes it; to its reader
it is one. Must not know of requests' forms.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from candle_vllm import reasoning
from candle_vllm.engine import Request
from candle_vllm.errors import RequestCancelledError
from candle_vllm.models import LoadedModel
from candle_vllm.params import GenerationParams
from candle_vllm.records import FinishReason, GenerationChunk, GenerationOutput, GenerationStats

__all__ = ["Budgeted", "Plan"]

Submit = Callable[[Sequence[int], GenerationParams], Request]


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer with a budget."""

    prompt: list[int]
    thinking: bool
    """Whether the prompt ends within the thinking."""
    budget: int
    """Tokens of thinking at most, its marks not counted."""
    params: GenerationParams
    """From the answer's beginning on."""
    after: GenerationParams
    """Once the thinking was closed; its counts are of the whole answer."""


class Budgeted:
    """As `engine.Request`. What the engine refuses at once is raised here."""

    def __init__(self, plan: Plan, model: LoadedModel, submit: Submit, *, skip_special_tokens: bool) -> None:
        self._plan = plan
        self._submit = submit
        self._closing_text = model.reasoning.ending
        self._closing = model.engine.tokenize(self._closing_text)
        self._watch = _Watch(plan, model, skip_special_tokens)
        self._state: Literal["thinking", "closing", "closed"] = "thinking"
        self._first: GenerationStats | None = None
        self._count = 0
        self._ended = False
        if self._watch.spent and plan.params.max_tokens > len(self._closing):
            self._part = self._second()
        else:
            self._part = submit(plan.prompt, plan.params)

    @property
    def done(self) -> bool:
        """Whether it has ended, read or not."""
        return self._ended or self._part.done

    def cancel(self) -> None:
        """Free its memory now; its reader gets a last chunk."""
        self._part.cancel()

    def close(self) -> None:
        """Free its memory now and drop what was not read."""
        self._ended = True
        self._part.close()

    async def result_async(self) -> GenerationOutput:
        """The whole answer."""
        chunks = [chunk async for chunk in self]
        last = chunks[-1] if chunks else None
        if last is None or last.finish_reason is None or last.stats is None:
            raise RequestCancelledError("the request was closed before its answer was complete")
        logprobs = [entry for chunk in chunks for entry in chunk.logprobs or ()]
        return GenerationOutput(
            prompt_tokens=self._plan.prompt,
            tokens=[token for chunk in chunks for token in chunk.token_ids],
            text="".join(chunk.text for chunk in chunks),
            finish_reason=last.finish_reason,
            stop_reason=last.stop_reason,
            logprobs=None if self._plan.params.logprobs is None else logprobs,
            prompt_logprobs=next((chunk.prompt_logprobs for chunk in chunks if chunk.prompt_logprobs), None),
            stats=last.stats,
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationChunk:
        if self._ended:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._part)
            if self._state == "thinking":
                chunk = await self._watched(chunk)
            elif self._state == "closing":
                chunk = self._behind_closing(chunk)
        except BaseException:
            self.close()
            raise
        self._count += len(chunk.token_ids)
        if chunk.finish_reason is None or chunk.stats is None:
            return chunk
        self._ended = True
        return replace(chunk, stats=self._over_all(chunk.stats))

    async def _watched(self, chunk: GenerationChunk) -> GenerationChunk:
        """The chunk, or what of it is within the budget; the rest of the answer is then under way."""
        kept = self._watch.add(chunk)
        if kept is None:
            return chunk
        self._part.cancel()
        last = chunk
        while last.finish_reason is None:
            last = await anext(self._part)
        self._first = last.stats
        cut = replace(
            chunk,
            text=self._watch.unseen(),
            token_ids=chunk.token_ids[:kept],
            logprobs=None if chunk.logprobs is None else chunk.logprobs[:kept],
            finish_reason=None,
            stop_reason=None,
            stats=None,
        )
        if self._plan.params.max_tokens - len(self._watch.ids) <= len(self._closing):
            return replace(cut, finish_reason=FinishReason.LENGTH, stats=last.stats)
        self._part = self._second()
        return cut

    def _second(self) -> Request:
        self._state = "closing"
        thought = [*self._watch.ids, *self._closing]
        params = self._plan.after
        params = replace(
            params,
            max_tokens=params.max_tokens - len(thought),
            min_tokens=max(0, params.min_tokens - len(thought)),
            # The closing tokens are not drawn; what they were worth is told as of a prompt's.
            prompt_logprobs=params.logprobs,
        )
        return self._submit([*self._plan.prompt, *thought], params)

    def _behind_closing(self, chunk: GenerationChunk) -> GenerationChunk:
        """The first chunk of the second request, behind what closes the thinking."""
        if chunk.finish_reason in (FinishReason.CANCELLED, FinishReason.ERROR):
            return chunk
        self._state = "closed"
        worth = [entry for entry in (chunk.prompt_logprobs or ())[-len(self._closing) :] if entry is not None]
        return replace(
            chunk,
            text=self._closing_text + chunk.text,
            token_ids=[*self._closing, *chunk.token_ids],
            logprobs=None if chunk.logprobs is None else [*worth, *chunk.logprobs],
            prompt_logprobs=None,
        )

    def _over_all(self, last: GenerationStats) -> GenerationStats:
        """The figures of the whole answer, given those of its last request."""
        first = self._first or last
        before = 0.0 if first is last else first.total_time
        return replace(
            first,
            prompt_tokens=len(self._plan.prompt),
            cached_tokens=min(first.cached_tokens, len(self._plan.prompt)),
            generated_tokens=self._count,
            total_time=before + last.total_time,
        )


class _Watch:
    """Counts the tokens of thinking, one by one, so that where it is cut depends on no reader's pace."""

    def __init__(self, plan: Plan, model: LoadedModel, skip_special_tokens: bool) -> None:
        self.ids: list[int] = []
        """Tokens of the answer so far."""
        self._budget = plan.budget
        self._model = model
        self._skip = skip_special_tokens
        self._splitter = reasoning.Splitter(model.reasoning, plan.thinking)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._thought = 0
        self._shown = ""

    @property
    def spent(self) -> bool:
        """Whether the answer is within its thinking and may not go on with it."""
        return self._splitter.inside and self._thought >= self._budget

    def add(self, chunk: GenerationChunk) -> int | None:
        """How many of the chunk's tokens are within the budget; None = all, and the answer goes on."""
        for kept, token in enumerate(chunk.token_ids, 1):
            inside = self._splitter.inside
            self._splitter.feed(self._decoder.decode(self._model.texts.raw(token)))
            self.ids.append(token)
            self._thought += inside and self._splitter.inside
            if self.spent:
                return kept
        self._shown += chunk.text
        return None

    def unseen(self) -> str:
        """Text of the tokens so far that no chunk before the last one had, whole characters."""
        text = self._model.engine.detokenize(self.ids, self._skip).rstrip("\ufffd")
        return text[len(self._shown) :] if text.startswith(self._shown) else ""
