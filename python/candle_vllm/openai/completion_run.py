"""One legacy completion from its checked request to its reply or its chunks.

Turns what the engine generates into OpenAI's form. Must not know of HTTP or of how answers are fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from candle_vllm.models.defaults import SamplingDefaults
from candle_vllm.openai.completion_types import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from candle_vllm.openai.errors import invalid, unsupported
from candle_vllm.openai.jobs import Job, finish_text, jobs_of, room_for
from candle_vllm.openai.reply_head import ReplyHead, UsageCount, quote
from candle_vllm.openai.sampling import FinishText, Submission, generation_params, submission
from candle_vllm.openai.tokens import CompletionLogprobsBuilder, TokenTexts
from candle_vllm.records import FinishReason, GenerationChunk, GenerationOutput, TokenLogprob

# OpenAI's default for legacy completions.
_DEFAULT_MAX_TOKENS = 16


def refuse_unsupported_completion(request: CompletionRequest) -> None:
    """Raise a 400 for each field of a completion whose value cannot be honoured."""
    if request.suffix:
        raise unsupported("suffix", "Text cannot be inserted before a suffix by this model; leave 'suffix' out.")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise unsupported("best_of", "Only the answers asked for are generated; leave 'best_of' out or equal to 'n'.")
    if request.max_tokens == 0 and not request.echo:
        raise invalid("max_tokens", "'max_tokens' may be 0 only together with 'echo'.")


def prompts_of(request: CompletionRequest) -> list[str] | list[list[int]]:
    """The prompts of a request as a list, each a text or token ids."""
    prompt: Any = request.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


class _Answer:
    """What is known of one answer while it is written."""

    def __init__(self, echo: str, prompt: list[int], logprobs: CompletionLogprobsBuilder | None) -> None:
        self.echo = echo
        self.prompt = prompt
        self.logprobs = logprobs
        self.begun = False


class CompletionRun:
    """The jobs of one completion request, and the writers of its reply and of its chunks.

    ``echoes`` are the prompts' texts, one a prompt, needed where the request asks for ``echo``.
    """

    def __init__(
        self,
        request: CompletionRequest,
        prompts: Sequence[list[int]],
        echoes: Sequence[str],
        *,
        context: int,
        defaults: SamplingDefaults,
        texts: TokenTexts,
        fingerprint: str,
    ) -> None:
        self._top = request.logprobs
        self._echo = bool(request.echo)
        # Scoring a prompt (echo, no new tokens) generates one token all the same and drops it.
        self._only_prompt = request.max_tokens == 0
        wanted = _DEFAULT_MAX_TOKENS if request.max_tokens is None else max(request.max_tokens, 1)
        scored = self._top if self._echo else None
        self._per_prompt = request.n or 1
        self.jobs: list[Job] = jobs_of(
            [
                (
                    prompt,
                    generation_params(
                        request,
                        max_tokens=room_for(prompt, context, wanted, "prompt"),
                        defaults=defaults,
                        logprobs=self._top,
                        prompt_logprobs=scored,
                    ),
                )
                for prompt in prompts
            ],
            self._per_prompt,
        )
        self._answers = [
            _Answer(
                echoes[index // self._per_prompt] if self._echo else "",
                job.prompt,
                None if self._top is None else CompletionLogprobsBuilder(self._top, texts),
            )
            for index, job in enumerate(self.jobs)
        ]
        self.submission: Submission = submission(request)
        self._head = ReplyHead.new("cmpl", request.model, fingerprint)
        self._count = UsageCount(sum(len(prompt) for prompt in prompts))
        options = request.stream_options
        self._usage_at_end = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._start = self._head.json_start("text_completion")
        self._end = ',"usage":null}' if self._usage_at_end else "}"

    def reply(self, outputs: Sequence[GenerationOutput]) -> Completion:
        """The reply to a request that does not stream; raises when an answer failed."""
        choices = []
        for index, output in enumerate(outputs):
            finish = self._finish(output.finish_reason, output.stop_reason)
            text, lists = self._add(
                index, output.text, output.tokens, output.logprobs, output.prompt_logprobs, output.finish_reason
            )
            logprobs = None if lists is None else CompletionLogprobs.model_validate(lists)
            choices.append(CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=finish))
            self._tally(index, len(output.tokens), output.stats.cached_tokens)
        return Completion(
            id=self._head.id,
            created=self._head.created,
            model=self._head.model,
            choices=choices,
            usage=self._count.usage(),
            system_fingerprint=self._head.fingerprint,
        )

    def opening(self) -> Iterator[str]:
        """Completions have no first chunk of their own."""
        return iter(())

    def pieces(self, index: int, chunk: GenerationChunk) -> Iterator[str]:
        """The chunk for what one step added to one answer, if that shows."""
        reason = chunk.finish_reason
        finish = "null" if reason is None else f'"{self._finish(reason, chunk.stop_reason)}"'
        text, lists = self._add(index, chunk.text, chunk.token_ids, chunk.logprobs, chunk.prompt_logprobs, reason)
        self._tally(index, len(chunk.token_ids), chunk.stats.cached_tokens if chunk.stats else None)
        if not text and not (lists and lists["tokens"]) and reason is None:
            return
        logprobs = "null" if lists is None else json.dumps(lists, separators=(",", ":"))
        end = f',"usage":{self._count.json()}}}' if self._usage_always else self._end
        yield (
            f'{self._start}{{"index":{index},"text":{quote(text)},"logprobs":{logprobs},"finish_reason":{finish}}}]{end}'
        )

    def closing(self) -> Iterator[str]:
        """The chunk with the usage, where it was asked for."""
        if self._usage_at_end:
            yield f'{self._start}],"usage":{self._count.json()}}}'

    def _finish(self, reason: FinishReason, stop_reason: str | int | None) -> FinishText:
        finish = finish_text(reason, stop_reason)
        return "length" if self._only_prompt else finish

    def _tally(self, index: int, generated: int, cached: int | None) -> None:
        if not self._only_prompt:
            self._count.completion_tokens += generated
        if cached is not None and index % self._per_prompt == 0:
            self._count.cached[index] = cached

    def _add(
        self,
        index: int,
        text: str,
        tokens: Sequence[int],
        logprobs: Sequence[TokenLogprob] | None,
        prompt_logprobs: Sequence[TokenLogprob | None] | None,
        reason: FinishReason | None,
    ) -> tuple[str, dict[str, list[Any]] | None]:
        """The text that an answer shows next and the logprobs of its tokens, the echoed prompt first."""
        answer = self._answers[index]
        entries: list[TokenLogprob | None] = []
        ids: list[int] = []
        shown = ""
        if self._echo and not answer.begun:
            shown = answer.echo
            entries += prompt_logprobs or []
            ids += answer.prompt if entries else []
        answer.begun = True
        if not self._only_prompt:
            shown += text
            # The id that ended the answer is no part of its text.
            last = len(tokens) - 1 if reason is FinishReason.STOP else len(tokens)
            ids += tokens[:last]
            entries += (logprobs or [])[:last]
        if answer.logprobs is None:
            return shown, None
        return shown, answer.logprobs.build(entries, ids)
