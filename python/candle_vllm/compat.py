"""Names that vLLM's users know, over this engine: `LLM`, `SamplingParams` and what they give.

    from candle_vllm.compat import LLM, SamplingParams

    with LLM("smollm2") as llm:
        for output in llm.generate(["The sea is", "Rust is"], SamplingParams(temperature=0.8, max_tokens=32)):
            print(output.prompt, output.outputs[0].text)
        [reply] = llm.chat([{"role": "user", "content": "Hello!"}])

A thin layer: whatever is not of this engine is refused with an error, never ignored. Must not know of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from tqdm import tqdm

from candle_vllm.config import EngineConfig
from candle_vllm.engine import InferenceEngine
from candle_vllm.errors import ConfigError
from candle_vllm.generation import Answer, Constraint, Conversation, GenerationRequest, Prompts, Road, ToolUse, fold
from candle_vllm.generation.prepare import render
from candle_vllm.models import LoadedModel, SingleModel, TokenTexts
from candle_vllm.openai.bridge import Bridge
from candle_vllm.records import TokenLogprob

__all__ = [
    "LLM",
    "CompletionOutput",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
    "TokensPrompt",
]

_AT_ONCE = 512
"""Prompts of one call that are with the engine at a time; the others wait here."""

TokensPrompt = Mapping[Literal["prompt_token_ids"], Sequence[int]]
"""A prompt as token ids: `{"prompt_token_ids": [1, 2]}`."""
Prompt = str | Sequence[int] | Mapping[str, Any]
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """The form of an answer: exactly one of these."""

    json: str | Mapping[str, Any] | None = None
    """A JSON schema."""
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def constraint(self) -> Constraint:
        """The same on the road. Raises ConfigError unless one is given."""
        forms = [
            Constraint("json_schema", self.json, "structured_outputs"),
            Constraint("regex", self.regex, "structured_outputs"),
            Constraint("choice", self.choice, "structured_outputs"),
            Constraint("grammar", self.grammar, "structured_outputs"),
            Constraint("json_object", self.json_object or None, "structured_outputs"),
        ]
        given = [form for form in forms if form.value is not None]
        if len(given) != 1:
            raise ConfigError("structured_outputs takes exactly one of json, regex, choice, grammar and json_object")
        return given[0]


@dataclass(slots=True)
class SamplingParams:
    """How answers are sampled; names and defaults are vLLM's, ranges are those of `GenerationParams`."""

    n: int = 1
    """Answers to each prompt."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 and -1 = all tokens."""
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    """None = what the context leaves."""
    min_tokens: int = 0
    logprobs: int | None = None
    """None = off, k = the token's own and the k likeliest, -1 = the whole vocabulary."""
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    structured_outputs: StructuredOutputsParams | None = None

    def fields(self) -> dict[str, Any]:
        """What these are on the road."""
        sampling: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "presence_penalty",
                "frequency_penalty",
                "repetition_penalty",
                "temperature",
                "top_p",
                "min_p",
                "ignore_eos",
                "min_tokens",
                "seed",
                "logit_bias",
            )
        }
        sampling["top_k"] = self.top_k if self.top_k not in (-1, 0) else None
        sampling["stop_sequences"] = self.stop or ()
        sampling["stop_token_ids"] = self.stop_token_ids or ()
        return {
            "sampling": sampling,
            "n": self.n,
            "max_tokens": self.max_tokens,
            "logprobs": self.logprobs,
            "prompt_logprobs": self.prompt_logprobs,
            "bad_words": self.bad_words or (),
            "allowed_token_ids": self.allowed_token_ids,
            "skip_special_tokens": self.skip_special_tokens,
            "include_stop": self.include_stop_str_in_output,
            "constraint": None if self.structured_outputs is None else self.structured_outputs.constraint(),
            "token_ids": True,
            "fields": {"stop_sequences": "stop"},
        }


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token at a position."""

    logprob: float
    rank: int | None
    """1 is the likeliest; None for a token that is none of the likeliest asked for."""
    decoded_token: str


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer."""

    index: int
    text: str
    token_ids: list[int]
    """Of the text; the token that ended it is not among them."""
    cumulative_logprob: float | None
    """Where `logprobs` was asked for."""
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: Literal["stop", "length"]
    stop_reason: str | int | None
    """The stop text or id that hit; None for the model's own end."""

    def finished(self) -> bool:
        """True: answers come whole."""
        return True


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The answers to one prompt."""

    request_id: str
    prompt: str | None
    """None where it was given as token ids."""
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    num_cached_tokens: int
    """Prompt tokens that came from the prefix cache."""
    finished: bool = True


class LLM:
    """A model in this process, loaded by the constructor; close it, or use `with`.

    Settings are vLLM's: `model` (a folder, a `.gguf` file, a Hugging Face id or an alias), `dtype`, `revision`,
    `max_model_len`, `max_num_seqs` (16), `max_num_batched_tokens` (512), `enable_prefix_caching`,
    `kv_cache_memory_bytes`, `seed` (of requests that have none of their own; None = drawn), `chat_template` (a file).
    `engine` are further fields of `EngineConfig`. `trust_remote_code` and `enforce_eager` have no effect: no code comes
    with models here, and no graphs are captured. `tensor_parallel_size` can only be 1. Raises as `InferenceEngine`.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        revision: str | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 16,
        max_num_batched_tokens: int = 512,
        enable_prefix_caching: bool = True,
        kv_cache_memory_bytes: int | None = None,
        seed: int | None = None,
        chat_template: str | None = None,
        tensor_parallel_size: int = 1,
        trust_remote_code: bool = False,
        enforce_eager: bool = False,
        **engine: Any,
    ) -> None:
        if tensor_parallel_size != 1:
            raise ConfigError(f"tensor_parallel_size can only be 1 here; got {tensor_parallel_size}")
        unknown = engine.keys() - EngineConfig.__dataclass_fields__.keys()
        if unknown:
            raise ConfigError(f"{min(unknown)} is no setting of this engine")
        config = EngineConfig(
            model_path=model,
            dtype=dtype,
            revision=revision,
            max_sequence_length=max_model_len,
            max_batch_size=max_num_seqs,
            prefill_chunk_size=max_num_batched_tokens,
            enable_prefix_cache=enable_prefix_caching,
            kv_cache_memory=kv_cache_memory_bytes,
            chat_template=chat_template,
            **engine,
        )
        self._seed = seed
        self.engine = InferenceEngine(config)
        """The engine underneath."""
        self._road = Road(SingleModel(self.engine))
        self._bridge = Bridge()
        self._count = 0

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answers to texts or token ids, in the prompts' order.

        A prompt is a text, a list of token ids, `{"prompt": text}` or `{"prompt_token_ids": ids}`. One set of
        parameters serves all prompts, or a list has one each; None = the model's own defaults. Blocks, with the GIL
        released; a bar shows in terminals unless `use_tqdm` is false. Raises RequestError for what cannot be honoured.
        """
        listed = [prompts] if _is_prompt(prompts) else list(prompts)
        given = [Prompts(items=[_prompt(prompt)]) for prompt in listed]
        return self._bridge.call(self._all(given, _each(sampling_params, len(given)), use_tqdm))

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers to one conversation or to several, in their order, by the model's own chat template.

        The text is as the model writes it, thinking and calls of `tools` included: `candle_vllm.reasoning.split` and
        `candle_vllm.tools.parse` read them, and `OpenAIAdapter` gives them apart.
        """
        several = not messages or not isinstance(messages[0], Mapping)
        conversations: Any = messages if several else [messages]
        given = [
            Conversation(
                messages=conversation,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                variables=chat_template_kwargs or {},
            )
            for conversation in conversations
        ]
        use = ToolUse(tools=tools) if tools else None
        return self._bridge.call(self._all(given, _each(sampling_params, len(given)), use_tqdm, use))

    def close(self) -> None:
        """Give the memory back."""
        self._bridge.close()
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _all(
        self,
        given: Sequence[Prompts | Conversation],
        params: Sequence[SamplingParams | None],
        use_tqdm: bool,
        use: ToolUse | None = None,
    ) -> list[RequestOutput]:
        """All of them; where one is refused, none goes on."""
        free = asyncio.Semaphore(_AT_ONCE)
        # `disable=None`: shown in terminals alone.
        with tqdm(total=len(given), desc="Prompts", disable=None if use_tqdm else True) as bar:

            async def one(source: Prompts | Conversation, own: SamplingParams | None) -> RequestOutput:
                async with free:
                    output = await self._one(source, own, use)
                bar.update()
                return output

            tasks = [asyncio.ensure_future(one(*each)) for each in zip(given, params, strict=True)]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(
        self, source: Prompts | Conversation, params: SamplingParams | None, use: ToolUse | None
    ) -> RequestOutput:
        fields: dict[str, Any] = {"token_ids": True} if params is None else params.fields()
        sampling = dict(fields.pop("sampling", {}))
        if sampling.get("seed") is None:
            sampling["seed"] = self._seed
        self._count, number = self._count + 1, self._count
        async with self._road.models.lease(None) as model:
            if isinstance(source, Conversation):
                rendered = await render(GenerationRequest(input=source, tool_use=use), model)
                source = Prompts(items=[rendered.ids])
                text: str | None = rendered.text
            else:
                text = item if isinstance(item := source.items[0], str) else None
            reply = await fold(self._road.run(GenerationRequest(input=source, sampling=sampling, **fields)))
            [ids], texts = reply.started.prompts, model.texts
            scores = reply.answers[0].prompt_logprobs
            return RequestOutput(
                request_id=str(number),
                prompt=text,
                prompt_token_ids=list(ids),
                prompt_logprobs=None
                if scores is None
                else [None if entry is None else _by_id(entry, texts) for entry in scores],
                outputs=[_output(at, answer, fields, model) for at, answer in enumerate(reply.answers)],
                num_cached_tokens=_cached(reply.answers[0]),
            )


def _is_prompt(prompts: Any) -> bool:
    if isinstance(prompts, str | Mapping):
        return True
    return len(prompts) > 0 and isinstance(prompts[0], int)


def _prompt(prompt: Any) -> str | list[int]:
    if isinstance(prompt, Mapping):
        prompt = prompt.get("prompt_token_ids") or prompt.get("prompt") or ""
    return prompt if isinstance(prompt, str) else list(prompt)


def _each(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> Sequence[SamplingParams | None]:
    if params is None or isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise ConfigError(f"sampling_params must be one or as many as the prompts; got {len(params)} for {count}")
    return params


def _output(index: int, answer: Answer, fields: Mapping[str, Any], model: LoadedModel) -> CompletionOutput:
    finished = answer.finished
    if finished is None or finished.reason == "tool_calls":
        raise RuntimeError("an answer has no end")
    wanted = fields.get("logprobs") is not None
    return CompletionOutput(
        index=index,
        text=answer.text,
        token_ids=answer.token_ids,
        cumulative_logprob=sum(entry.logprob for entry in answer.logprobs) if wanted else None,
        logprobs=[_by_id(entry, model.texts) for entry in answer.logprobs] if wanted else None,
        finish_reason=finished.reason,
        stop_reason=finished.stop_reason,
    )


def _cached(answer: Answer) -> int:
    return answer.finished.stats.cached_tokens if answer.finished is not None else 0


def _by_id(entry: TokenLogprob, texts: TokenTexts) -> dict[int, Logprob]:
    """The token's own entry first, then the likeliest ones."""
    ranked = {token: Logprob(value, rank, texts.text(token)) for rank, (token, value) in enumerate(entry.top, 1)}
    own = ranked.get(entry.token_id) or Logprob(entry.logprob, None, texts.text(entry.token_id))
    return {entry.token_id: own, **{token: each for token, each in ranked.items() if token != entry.token_id}}
