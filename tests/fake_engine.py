"""FakeEngine: the engine's face without a model, for fast tests of what stands on it.

A token is a byte; ids from 256 on are special. It answers a prompt with a text that the prompt determines,
one token a step, and counts blocks as the real one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Self

from candle_vllm import checks
from candle_vllm.errors import GenerationError, QueueFullError, RequestCancelledError
from candle_vllm.params import GenerationParams
from candle_vllm.records import (
    CachedPrefix,
    EngineStats,
    FinishReason,
    GenerationChunk,
    GenerationOutput,
    GenerationStats,
    ModelInfo,
    TokenLogprob,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {"<|im_start|>": 256, "<|im_end|>": 257}
EOS = 257
BLOCKS = 1000


class FakeHandle:
    """One request: read by iterating or as a whole; cancelled and closed as the real one is."""

    def __init__(self, engine: FakeEngine, prompt: list[int], params: GenerationParams) -> None:
        self._engine = engine
        self._prompt = prompt
        self._chunks = engine.script(prompt, params)
        self._read: list[GenerationChunk] = []
        self._closed = False
        self.cancelled = False

    @property
    def done(self) -> bool:
        return self._closed or self not in self._engine.live

    def cancel(self) -> None:
        if not self.done:
            self.cancelled = True
            self._engine.live.discard(self)

    def close(self) -> None:
        self.cancel()
        self._closed = True

    async def result_async(self) -> GenerationOutput:
        try:
            async for chunk in self:
                self._read.append(chunk)
        except BaseException:
            self.close()
            raise
        if not self._read or self._read[-1].finish_reason is None:
            raise RequestCancelledError("the request was closed before its answer was complete")
        return FakeEngine.output(self._prompt, self._read)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationChunk:
        try:
            await self._engine.gate.wait()
            await asyncio.sleep(self._engine.delay)
        except BaseException:
            self.close()
            raise
        if self._closed:
            raise StopAsyncIteration
        chunk = self._cancelled() if self.cancelled else next(self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        if chunk.finish_reason is not None:
            self._engine.live.discard(self)
            self.cancelled = False
            self._chunks = iter(())
        return chunk

    def _cancelled(self) -> GenerationChunk:
        return FakeEngine.last("", [], None, FinishReason.CANCELLED, None, self._prompt, 0)


class FakeEngine:
    """Set ``answer`` to choose what is said, ``delay`` for seconds a token, ``fail_after`` for a failure."""

    def __init__(self, **settings: Any) -> None:
        self.answer: str | None = None
        self.delay = 0.0
        self.fail_after: int | None = None
        self.max_queue: int | None = None
        self.context = 2048
        self.batch = 16
        self.advice: dict[str, float] = {}
        self.chat_templates: dict[str, str] = {"default": CHATML}
        self.special_tokens = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
        self.special = dict(SPECIAL)
        self.forms: list[Any] = []
        self.refused_form = False
        self.cached = CachedPrefix(0)
        self.live: set[FakeHandle] = set()
        self.how: dict[str, Any] = {}
        self.submitted: list[tuple[list[int], GenerationParams]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False
        self.failure: str | None = None
        for name, value in settings.items():
            if not hasattr(self, name):
                raise AttributeError(name)
            setattr(self, name, value)

    @property
    def model_info(self) -> ModelInfo:
        return ModelInfo(
            name="fake",
            path="/nowhere/fake",
            architecture="FakeForCausalLM",
            layers=1,
            hidden_size=8,
            vocab_size=256 + len(self.special),
            max_position=self.context,
            max_sequence_length=self.context,
            max_batch_size=self.batch,
            step_tokens=512,
            block_size=16,
            kv_blocks=BLOCKS,
            kv_bytes=BLOCKS * 16,
            dtype="f32",
            kv_dtype="f32",
            parameters=8,
            weight_bytes=32,
            device="cpu",
            threads=1,
            eos_token_ids=(EOS,),
            generation_config=self.advice,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = []
        while text:
            for special, token in self.special.items():
                if text.startswith(special):
                    ids.append(token)
                    text = text[len(special) :]
                    break
            else:
                ids += text[0].encode()
                text = text[1:]
        return ids

    def tokenize_parts(self, parts: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for at, part in enumerate(parts):
            ids += part.encode() if at % 2 else self.tokenize(part)
        return ids

    @property
    def special_texts(self) -> Sequence[str]:
        return list(self.special)

    def detokenize(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        shown = (self.token_bytes(token) for token in tokens if token < 256 or not skip_special_tokens)
        return b"".join(shown).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else next(k for k, v in self.special.items() if v == token).encode()

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self.live),
            waiting=0,
            kv_blocks_total=BLOCKS,
            kv_blocks_free=BLOCKS - 10 * len(self.live),
            healthy=self.failure is None,
            closed=self.closed,
            failure=self.failure,
        )

    def cached_prefix(self, tokens: Sequence[int], cache_salt: str | None = None) -> CachedPrefix:
        return self.cached

    def check_form(self, params: GenerationParams) -> None:
        self.forms.append(params.form)
        if self.refused_form:
            checks.refuse("grammar", "a schema", "one that can be enforced")

    def add_request(
        self,
        prompt: str | Sequence[int],
        params: GenerationParams | None = None,
        *,
        cache_salt: str | None = None,
        priority: int = 0,
        skip_special_tokens: bool = True,
    ) -> FakeHandle:
        self.how = {"cache_salt": cache_salt, "priority": priority, "skip_special_tokens": skip_special_tokens}
        ids = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        if any(token >= 256 + len(self.special) for token in ids):
            checks.refuse("prompt", max(ids), f"made of token ids from 0 to {255 + len(self.special)}")
        if self.closed or self.failure:
            raise GenerationError(self.failure or "the engine is closed")
        if self.max_queue is not None and len(self.live) >= self.max_queue:
            raise QueueFullError(f"{len(self.live)} requests wait already; try again later")
        self.submitted.append((ids, params or GenerationParams()))
        handle = FakeHandle(self, ids, params or GenerationParams())
        self.live.add(handle)
        return handle

    def close(self) -> None:
        self.closed = True
        for handle in list(self.live):
            handle.cancel()

    def _said(self, prompt: list[int], params: GenerationParams) -> str:
        if self.answer is not None:
            return self.answer
        asked = self.detokenize(prompt).split("\n")[-3 if 256 in prompt else -1]
        return f"You said: {asked}" + (f" (seed {params.seed})" if params.seed is not None else "")

    def script(self, prompt: list[int], params: GenerationParams) -> Iterator[GenerationChunk]:
        """What the request yields, a token a chunk, with text only where a character is whole."""
        text = self._said(prompt, params)
        finish, hit = FinishReason.STOP, None
        for stop in params.stop_sequences:
            if stop in text:
                text, finish, hit = text[: text.index(stop)], FinishReason.STOP_SEQUENCE, stop
        tokens = list(text.encode()) + ([EOS] if finish is FinishReason.STOP else [])
        if len(tokens) > params.max_tokens:
            tokens, finish = tokens[: params.max_tokens], FinishReason.LENGTH
        if not tokens:
            scored = None if params.prompt_logprobs is None else self._scored(prompt, params.prompt_logprobs)
            yield self.last("", [], None, FinishReason.LENGTH, None, prompt, 0, scored)
            return
        pending = b""
        for at, token in enumerate(tokens):
            if self.fail_after is not None and at >= self.fail_after:
                yield self.last("", [], None, FinishReason.ERROR, "the device caught fire", prompt, at)
                return
            pending += bytes([token]) if token < 256 else b""
            whole = pending.decode(errors="ignore")
            pending = pending[len(whole.encode()) :]
            logprobs = None if params.logprobs is None else [_logprob(token, params.logprobs)]
            scored = None
            if params.prompt_logprobs is not None and at == 0:
                scored = self._scored(prompt, params.prompt_logprobs)
            if at == len(tokens) - 1:
                yield self.last(whole, [token], logprobs, finish, hit, prompt, at + 1, scored)
            else:
                yield GenerationChunk(text=whole, token_ids=[token], logprobs=logprobs, prompt_logprobs=scored)

    @staticmethod
    def _scored(prompt: list[int], count: int) -> list[TokenLogprob | None]:
        return [None, *(_logprob(one, count) for one in prompt[1:])]

    @staticmethod
    def last(
        text: str,
        tokens: list[int],
        logprobs: list[TokenLogprob] | None,
        finish: FinishReason,
        hit: str | int | None,
        prompt: list[int],
        generated: int,
        scored: list[TokenLogprob | None] | None = None,
    ) -> GenerationChunk:
        stats = GenerationStats(
            prompt_tokens=len(prompt),
            cached_tokens=len(prompt) // 2,
            generated_tokens=generated,
            queue_time=0.0,
            prefill_time=0.0,
            total_time=0.1,
        )
        return GenerationChunk(
            text=text,
            token_ids=tokens,
            logprobs=logprobs,
            prompt_logprobs=scored,
            finish_reason=finish,
            stop_reason=hit,
            stats=stats,
        )

    @staticmethod
    def output(prompt: list[int], chunks: list[GenerationChunk]) -> GenerationOutput:
        last = chunks[-1]
        assert last.finish_reason is not None
        assert last.stats is not None
        logprobs = [entry for chunk in chunks for entry in chunk.logprobs or []]
        return GenerationOutput(
            prompt_tokens=prompt,
            tokens=[token for chunk in chunks for token in chunk.token_ids],
            text="".join(chunk.text for chunk in chunks),
            finish_reason=last.finish_reason,
            stop_reason=last.stop_reason,
            logprobs=logprobs or None,
            prompt_logprobs=chunks[0].prompt_logprobs,
            stats=last.stats,
        )


def _logprob(token: int, count: int) -> TokenLogprob:
    top = [(token, -0.25), *((other, -2.0 - other / 100) for other in range(65, 65 + count - 1))][:count]
    return TokenLogprob(token_id=token, logprob=-0.25, top=top)
