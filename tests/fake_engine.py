"""FakeEngine: the engine's face without a model, for fast tests of what stands on it.

A token is a byte; ids from 256 on are special. It answers a prompt with a text that the prompt determines,
one token a step, and counts blocks as the real one does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any, Self

from candle_vllm import checks
from candle_vllm.errors import QueueFullError, RequestCancelledError
from candle_vllm.params import GenerationParams
from candle_vllm.records import (
    EngineStats,
    FinishReason,
    GenerationChunk,
    GenerationOutput,
    GenerationStats,
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
    """One request; both kinds of iteration, and cancellation."""

    def __init__(self, engine: FakeEngine, prompt: list[int], params: GenerationParams) -> None:
        self._engine = engine
        self._prompt = prompt
        self._params = params
        self._chunks = engine.script(prompt, params)
        self._ended = False
        self.cancelled = False

    def _step(self) -> GenerationChunk | None:
        if self.cancelled and not self._ended:
            raise RequestCancelledError("the request was cancelled")
        chunk = next(self._chunks, None)
        if chunk is None or chunk.finish_reason is not None:
            self._ended = True
            self._engine.live.discard(self)
        return chunk

    def cancel(self) -> None:
        if not self._ended:
            self.cancelled = True
        self._engine.live.discard(self)

    def __iter__(self) -> Iterator[GenerationChunk]:
        while (chunk := self._step()) is not None:
            yield chunk
            if chunk.finish_reason is not None:
                return
            time.sleep(self._engine.delay)

    async def __aiter__(self) -> AsyncIterator[GenerationChunk]:
        await self._engine.gate.wait()
        while (chunk := self._step()) is not None:
            yield chunk
            if chunk.finish_reason is not None:
                return
            await asyncio.sleep(self._engine.delay)


class FakeEngine:
    """Set ``answer`` to choose what is said, ``delay`` for seconds a token, ``fail_after`` for a failure."""

    def __init__(self, **settings: Any) -> None:
        self.answer: str | None = None
        self.delay = 0.0
        self.fail_after: int | None = None
        self.max_queue: int | None = None
        self.context = 2048
        self.chat_templates: dict[str, str] = {"default": CHATML}
        self.special_tokens = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
        self.live: set[FakeHandle] = set()
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
    def model_info(self) -> Any:
        return SimpleNamespace(
            name="fake",
            architecture="FakeForCausalLM",
            dtype="f32",
            device="cpu",
            threads=1,
            kv_dtype="f32",
            max_sequence_length=self.context,
            max_batch_size=16,
            block_size=16,
            vocab_size=EOS + 1,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = []
        while text:
            for special, token in SPECIAL.items():
                if text.startswith(special):
                    ids.append(token)
                    text = text[len(special) :]
                    break
            else:
                ids += text[0].encode()
                text = text[1:]
        return ids

    def detokenize(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else next(k for k, v in SPECIAL.items() if v == token).encode()

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self.live),
            waiting=0,
            kv_blocks_total=BLOCKS,
            kv_blocks_free=BLOCKS - 10 * len(self.live),
            healthy=self.failure is None,
            failure=self.failure,
        )

    def add_request(self, prompt: str | list[int], params: GenerationParams | None = None, **how: Any) -> FakeHandle:
        self.how = how
        ids = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        if any(token > EOS for token in ids):
            checks.refuse("prompt", max(ids), f"made of token ids from 0 to {EOS}")
        if self.max_queue is not None and len(self.live) >= self.max_queue:
            raise QueueFullError(f"{len(self.live)} requests wait already; try again later")
        self.submitted.append((ids, params or GenerationParams()))
        handle = FakeHandle(self, ids, params or GenerationParams())
        self.live.add(handle)
        return handle

    def generate(self, prompts: list[list[int]], params: list[GenerationParams], **how: Any) -> list[GenerationOutput]:
        handles = [self.add_request(prompt, one, **how) for prompt, one in zip(prompts, params, strict=True)]
        return [self._output(prompt, list(handle)) for prompt, handle in zip(prompts, handles, strict=True)]

    async def generate_async(
        self, prompts: list[list[int]], params: list[GenerationParams], **how: Any
    ) -> list[GenerationOutput]:
        handles = []
        try:
            for prompt, one in zip(prompts, params, strict=True):
                handles.append(self.add_request(prompt, one, **how))
            return [
                self._output(prompt, [chunk async for chunk in handle])
                for prompt, handle in zip(prompts, handles, strict=True)
            ]
        finally:
            for handle in handles:
                handle.cancel()

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
        pending = b""
        for at, token in enumerate(tokens):
            if self.fail_after is not None and at >= self.fail_after:
                yield self._last("", [], None, FinishReason.ERROR, "the device caught fire", prompt, at)
                return
            pending += bytes([token]) if token < 256 else b""
            whole = pending.decode(errors="ignore")
            pending = pending[len(whole.encode()) :]
            logprobs = None if params.logprobs is None else [_logprob(token, params.logprobs)]
            scored = None
            if params.prompt_logprobs is not None and at == 0:
                scored = [None, *(_logprob(one, params.prompt_logprobs) for one in prompt[1:])]
            if at == len(tokens) - 1:
                yield self._last(whole, [token], logprobs, finish, hit, prompt, at + 1, scored)
            else:
                yield GenerationChunk(text=whole, token_ids=[token], logprobs=logprobs, prompt_logprobs=scored)

    @staticmethod
    def _last(
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
    def _output(prompt: list[int], chunks: list[GenerationChunk]) -> GenerationOutput:
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
