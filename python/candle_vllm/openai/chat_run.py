"""One chat completion from its checked request to its reply or its chunks.

Turns what the engine generates into OpenAI's form. Must not know of HTTP or of how answers are fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from candle_vllm.models.defaults import SamplingDefaults
from candle_vllm.openai.chat_types import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionRequest,
    ChoiceLogprobs,
    TokenLogprobEntry,
)
from candle_vllm.openai.jobs import Job, finish_text, jobs_of, room_for
from candle_vllm.openai.reply_head import ReplyHead, UsageCount, quote
from candle_vllm.openai.sampling import Submission, generation_params, submission
from candle_vllm.openai.tokens import TokenTexts, chat_logprobs
from candle_vllm.records import FinishReason, GenerationChunk, GenerationOutput, TokenLogprob


class ChatRun:
    """The jobs of one chat request, and the writers of its reply and of its chunks."""

    def __init__(
        self,
        request: ChatCompletionRequest,
        prompt: list[int],
        *,
        context: int,
        defaults: SamplingDefaults,
        texts: TokenTexts,
        fingerprint: str,
    ) -> None:
        wanted = request.max_completion_tokens or request.max_tokens
        self._top = (request.top_logprobs or 0) if request.logprobs else None
        params = generation_params(
            request,
            max_tokens=room_for(prompt, context, wanted, "messages"),
            defaults=defaults,
            logprobs=self._top,
        )
        self.jobs: list[Job] = jobs_of([(prompt, params)], request.n or 1)
        self._texts = texts
        self.submission: Submission = submission(request)
        self._head = ReplyHead.new("chatcmpl", request.model, fingerprint)
        self._count = UsageCount(len(prompt))
        options = request.stream_options
        self._usage_at_end = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._start = self._head.json_start("chat.completion.chunk", '"service_tier":"default",')
        self._end = ',"usage":null}' if self._usage_at_end else "}"

    def reply(self, outputs: Sequence[GenerationOutput]) -> ChatCompletion:
        """The reply to a request that does not stream; raises when an answer failed."""
        choices = [self._choice(index, output) for index, output in enumerate(outputs)]
        for output in outputs:
            self._count.completion_tokens += output.stats.generated_tokens
        self._count.cached[0] = outputs[0].stats.cached_tokens
        return ChatCompletion(
            id=self._head.id,
            created=self._head.created,
            model=self._head.model,
            choices=choices,
            usage=self._count.usage(),
            system_fingerprint=self._head.fingerprint,
        )

    def _choice(self, index: int, output: GenerationOutput) -> ChatChoice:
        finish = finish_text(output.finish_reason, output.stop_reason)
        logprobs = None
        if self._top is not None:
            shown = _shown(output.logprobs or [], output.finish_reason)
            entries = chat_logprobs(shown, self._top, self._texts)
            logprobs = ChoiceLogprobs(content=[TokenLogprobEntry.model_validate(entry) for entry in entries])
        message = AnswerMessage(content=output.text)
        return ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=finish)

    def opening(self) -> Iterator[str]:
        """The first chunk of each answer, which names the role."""
        for index in range(len(self.jobs)):
            yield self._chunk(index, '{"role":"assistant","content":"","refusal":null}')

    def pieces(self, index: int, chunk: GenerationChunk) -> Iterator[str]:
        """The chunks for what one step added to one answer: none, its text, its end, or both."""
        self._count.completion_tokens += len(chunk.token_ids)
        reason = chunk.finish_reason
        finish = None if reason is None else finish_text(reason, chunk.stop_reason)
        if self._top is not None and chunk.logprobs:
            entries = chat_logprobs(_shown(chunk.logprobs, reason), self._top, self._texts)
            if entries or chunk.text:
                content = json.dumps({"content": entries, "refusal": None}, separators=(",", ":"))
                yield self._chunk(index, f'{{"content":{quote(chunk.text)}}}', logprobs=content)
        elif chunk.text:
            yield self._chunk(index, f'{{"content":{quote(chunk.text)}}}')
        if finish is not None:
            if index == 0 and chunk.stats is not None:
                self._count.cached[0] = chunk.stats.cached_tokens
            yield self._chunk(index, "{}", finish=f'"{finish}"')

    def closing(self) -> Iterator[str]:
        """The chunk with the usage, where it was asked for."""
        if self._usage_at_end:
            yield f'{self._start}],"usage":{self._count.json()}}}'

    def _chunk(self, index: int, delta: str, logprobs: str = "null", finish: str = "null") -> str:
        end = f',"usage":{self._count.json()}}}' if self._usage_always else self._end
        return f'{self._start}{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{finish}}}]{end}'


def _shown(entries: Sequence[TokenLogprob], reason: FinishReason | None) -> Sequence[TokenLogprob]:
    """Without the id that ended the answer, which is no part of its text."""
    return entries[:-1] if reason is FinishReason.STOP else entries
