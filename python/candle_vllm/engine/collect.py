"""From native events to Python records, and from chunks to the whole answer. Knows nothing of waiting."""

from collections.abc import Sequence

from candle_vllm import _native
from candle_vllm.params import GenerationParams
from candle_vllm.records import FinishReason, GenerationChunk, GenerationOutput, GenerationStats, TokenLogprob

__all__ = ["Collector"]


class Collector:
    """Makes the chunks of one request and remembers what they add up to."""

    __slots__ = ("_logprobs", "_params", "_prompt", "_prompt_logprobs", "_text", "_tokens", "last")

    def __init__(self, prompt: list[int], params: GenerationParams) -> None:
        self._prompt = prompt
        self._params = params
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._prompt_logprobs: list[TokenLogprob | None] | None = None
        self.last: GenerationChunk | None = None
        """The chunk with the finish reason, once it was made."""

    def chunk(self, events: Sequence[_native.Event]) -> GenerationChunk:
        """One chunk of one or more events, in their order."""
        tokens = [token for event in events for token in event.tokens]
        logprobs = None
        if self._params.logprobs is not None:
            logprobs = [TokenLogprob(*entry) for event in events for entry in event.logprobs]
            self._logprobs += logprobs
        scored = None
        if self._params.prompt_logprobs is not None:
            for event in events:
                if (entries := event.prompt_logprobs) is not None:
                    scored = [None if entry is None else TokenLogprob(*entry) for entry in entries]
                    self._prompt_logprobs = scored
        end = events[-1]
        reason = end.finish_reason
        chunk = GenerationChunk(
            text="".join([event.text for event in events]),
            token_ids=tokens,
            logprobs=logprobs,
            prompt_logprobs=scored,
            finish_reason=None if reason is None else FinishReason(reason),
            stop_reason=None if reason is None else end.stop_reason,
            stats=None if (figures := end.stats) is None else GenerationStats(*figures),
        )
        self._text.append(chunk.text)
        self._tokens += tokens
        if reason is not None:
            self.last = chunk
        return chunk

    def output(self) -> GenerationOutput:
        """The whole answer; only after the last chunk was made."""
        last = self.last
        if last is None or last.finish_reason is None or last.stats is None:
            raise RuntimeError("the answer is not complete")
        return GenerationOutput(
            prompt_tokens=self._prompt,
            tokens=self._tokens,
            text="".join(self._text),
            finish_reason=last.finish_reason,
            stop_reason=last.stop_reason,
            logprobs=self._logprobs if self._params.logprobs is not None else None,
            prompt_logprobs=self._prompt_logprobs,
            stats=last.stats,
        )
