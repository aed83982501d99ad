"""OpenAIAdapter: OpenAI's API as calls on an engine in this process. The HTTP server calls it and adds nothing.

Must not know of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pydantic

from candle_vllm.chat import ChatTemplateError, ChatTemplates
from candle_vllm.models.defaults import SamplingDefaults
from candle_vllm.openai.chat_run import ChatRun
from candle_vllm.openai.chat_types import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from candle_vllm.openai.completion_run import CompletionRun, prompts_of, refuse_unsupported_completion
from candle_vllm.openai.completion_types import Completion, CompletionRequest
from candle_vllm.openai.errors import ApiError, api_error, validation_error
from candle_vllm.openai.jobs import cancel, merged, submit
from candle_vllm.openai.json_chunks import JsonChunks, Run
from candle_vllm.openai.model_types import ModelCard, ModelList
from candle_vllm.openai.prompts import prompt_text, refuse_unsupported_chat, text_length
from candle_vllm.openai.reply_head import fingerprint_of
from candle_vllm.openai.sampling import SamplingRequest, refuse_unsupported
from candle_vllm.openai.tokens import TokenTexts
from candle_vllm.records import GenerationOutput

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine

# Rendering and encoding more characters than this would hold the event loop up for about a millisecond.
_LONG_PROMPT = 8_000

RequestT = TypeVar("RequestT", bound=SamplingRequest)


class OpenAIAdapter:
    """OpenAI's Chat Completions and Completions over one engine.

    Requests are dictionaries of OpenAI's form or the typed requests of this package; replies and chunks are
    typed. What cannot be honoured raises :class:`ApiError` with status 400 that names the field. The methods
    whose names begin with ``a`` are for asyncio; cancelling their task, or closing their iterator, frees the
    engine's work at once.

    ``model_names`` are the names that requests may use; with None any name is taken.
    ``defaults`` apply to requests that leave a sampling field out.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        *,
        model_names: Sequence[str] | None = None,
        defaults: SamplingDefaults | None = None,
    ) -> None:
        self._engine = engine
        self._names = None if model_names is None else tuple(model_names)
        self._defaults = defaults or SamplingDefaults()
        self._templates = ChatTemplates(engine.chat_templates, engine.special_tokens)
        self._texts = TokenTexts(engine)
        self._created = int(time.time())
        self._fingerprint = fingerprint_of(engine.model_info)

    @property
    def engine(self) -> InferenceEngine:
        """The engine underneath."""
        return self._engine

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names under which the model is served."""
        return self._names or (self._engine.model_info.name,)

    def models(self) -> ModelList:
        """What ``GET /v1/models`` shows."""
        return ModelList(data=[self.model(name) for name in self.model_names])

    def model(self, name: str) -> ModelCard:
        """What ``GET /v1/models/{name}`` shows; raises :class:`ApiError` with status 404 for another name."""
        if name not in self.model_names:
            raise self._unknown_model(name)
        return ModelCard(id=name, created=self._created, max_model_len=self._context)

    def chat_completion(self, request: ChatCompletionRequest | Mapping[str, Any]) -> ChatCompletion:
        """The whole reply to a conversation; blocks, with the GIL released."""
        run = self._chat_run(self._typed(ChatCompletionRequest, request, stream=False))
        return run.reply(self._generate(run))

    async def achat_completion(self, request: ChatCompletionRequest | Mapping[str, Any]) -> ChatCompletion:
        """The whole reply to a conversation."""
        run = await self._achat_run(self._typed(ChatCompletionRequest, request, stream=False))
        return run.reply(await self._agenerate(run))

    def chat_completion_stream(
        self, request: ChatCompletionRequest | Mapping[str, Any]
    ) -> Generator[ChatCompletionChunk, None, None]:
        """The reply in chunks, each as soon as it is there. The work begins with the first chunk asked for."""
        run = self._chat_run(self._typed(ChatCompletionRequest, request, stream=True))
        return (ChatCompletionChunk.model_validate_json(text) for text in self._chunks(run))

    async def achat_completion_stream(
        self, request: ChatCompletionRequest | Mapping[str, Any]
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        """The reply in chunks, each as soon as it is there."""
        async with await self.achat_completion_json(request) as chunks:
            async for text in chunks:
                yield ChatCompletionChunk.model_validate_json(text)

    async def achat_completion_json(self, request: ChatCompletionRequest | Mapping[str, Any]) -> JsonChunks:
        """As :meth:`achat_completion_stream`, but the request is submitted when this returns, and chunks are JSON text.

        For servers: errors of the request are raised before the first byte of a reply must be sent.
        """
        run = await self._achat_run(self._typed(ChatCompletionRequest, request, stream=True))
        return JsonChunks(run, submit(self._engine, run.jobs, run.submission))

    def completion(self, request: CompletionRequest | Mapping[str, Any]) -> Completion:
        """The whole reply to a legacy completion; blocks, with the GIL released."""
        run = self._completion_run(self._typed(CompletionRequest, request, stream=False))
        return run.reply(self._generate(run))

    async def acompletion(self, request: CompletionRequest | Mapping[str, Any]) -> Completion:
        """The whole reply to a legacy completion."""
        run = await self._acompletion_run(self._typed(CompletionRequest, request, stream=False))
        return run.reply(await self._agenerate(run))

    def completion_stream(self, request: CompletionRequest | Mapping[str, Any]) -> Generator[Completion, None, None]:
        """The reply to a legacy completion in chunks, each as soon as it is there."""
        run = self._completion_run(self._typed(CompletionRequest, request, stream=True))
        return (Completion.model_validate_json(text) for text in self._chunks(run))

    async def acompletion_stream(
        self, request: CompletionRequest | Mapping[str, Any]
    ) -> AsyncGenerator[Completion, None]:
        """The reply to a legacy completion in chunks, each as soon as it is there."""
        async with await self.acompletion_json(request) as chunks:
            async for text in chunks:
                yield Completion.model_validate_json(text)

    async def acompletion_json(self, request: CompletionRequest | Mapping[str, Any]) -> JsonChunks:
        """As :meth:`acompletion_stream`, but submitted when this returns, and chunks are JSON text."""
        run = await self._acompletion_run(self._typed(CompletionRequest, request, stream=True))
        return JsonChunks(run, submit(self._engine, run.jobs, run.submission))

    @property
    def _context(self) -> int:
        return self._engine.model_info.max_sequence_length

    def _unknown_model(self, name: str) -> ApiError:
        served = ", ".join(self.model_names)
        message = f"The model '{name}' does not exist. Served here: {served}."
        return ApiError(message, param="model", code="model_not_found", status=404)

    def _typed(self, kind: type[RequestT], request: RequestT | Mapping[str, Any], *, stream: bool) -> RequestT:
        """The checked request; whether it streams is said by the method that was called."""
        if isinstance(request, kind):
            typed = request if request.stream is stream else request.model_copy(update={"stream": stream})
        else:
            fields: dict[str, Any] = dict(cast(Mapping[str, Any], request))
            try:
                typed = kind.model_validate({**fields, "stream": stream})
            except pydantic.ValidationError as error:
                raise validation_error(error) from error
        if not typed.model:
            typed = typed.model_copy(update={"model": self.model_names[0]})
        if self._names is not None and typed.model not in self._names:
            raise self._unknown_model(typed.model)
        refuse_unsupported(typed)
        return typed

    def _chat_run(self, request: ChatCompletionRequest) -> ChatRun:
        refuse_unsupported_chat(request)
        try:
            prompt = self._engine.tokenize(prompt_text(request, self._templates))
        except ChatTemplateError as error:
            raise api_error(error) from error
        return ChatRun(
            request,
            prompt,
            context=self._context,
            defaults=self._defaults,
            texts=self._texts,
            fingerprint=self._fingerprint,
        )

    async def _achat_run(self, request: ChatCompletionRequest) -> ChatRun:
        if text_length(request) < _LONG_PROMPT:
            return self._chat_run(request)
        return await asyncio.to_thread(self._chat_run, request)

    def _completion_run(self, request: CompletionRequest) -> CompletionRun:
        refuse_unsupported_completion(request)
        special = request.add_special_tokens is not False
        prompts: list[list[int]] = []
        echoes: list[str] = []
        for prompt in prompts_of(request):
            if isinstance(prompt, str):
                prompts.append(self._engine.tokenize(prompt, add_special_tokens=special))
                echoes.append(prompt)
            else:
                prompts.append(prompt)
                echoes.append(self._engine.detokenize(prompt) if request.echo else "")
        return CompletionRun(
            request,
            prompts,
            echoes,
            context=self._context,
            defaults=self._defaults,
            texts=self._texts,
            fingerprint=self._fingerprint,
        )

    async def _acompletion_run(self, request: CompletionRequest) -> CompletionRun:
        if isinstance(request.prompt, str) and len(request.prompt) < _LONG_PROMPT:
            return self._completion_run(request)
        return await asyncio.to_thread(self._completion_run, request)

    def _generate(self, run: Run) -> list[GenerationOutput]:
        prompts, params = [job.prompt for job in run.jobs], [job.params for job in run.jobs]
        return self._engine.generate(prompts, params, **run.submission)

    async def _agenerate(self, run: Run) -> list[GenerationOutput]:
        prompts, params = [job.prompt for job in run.jobs], [job.params for job in run.jobs]
        return await self._engine.generate_async(prompts, params, **run.submission)

    def _chunks(self, run: Run) -> Iterator[str]:
        handles = submit(self._engine, run.jobs, run.submission)
        try:
            yield from run.opening()
            for index, chunk in merged(handles):
                yield from run.pieces(index, chunk)
            yield from run.closing()
        finally:
            cancel(handles)
