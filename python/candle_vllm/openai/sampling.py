"""The sampling fields that Chat Completions and Completions share, and what the engine makes of them.

Ranges are OpenAI's; the fields below "vLLM's extras" are vLLM's names for what OpenAI has not.
Must not know of prompts or replies.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from candle_vllm.errors import ConfigError
from candle_vllm.models.defaults import SamplingDefaults
from candle_vllm.openai.errors import ApiError, invalid, unsupported
from candle_vllm.params import GenerationParams

_U64 = 2**64 - 1
# OpenAI takes a top_p of 0; the likeliest token alone is what it means.
_SMALLEST_TOP_P = 1e-6

Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    """A last chunk without choices that holds the usage."""
    continuous_usage_stats: bool | None = None
    """Usage so far in every chunk (vLLM's)."""
    include_obfuscation: bool | None = None
    """Padding against traffic analysis: only false can be honoured."""


class Submission(TypedDict):
    """How the engine is to run a request, beside its parameters: keyword arguments of its methods."""

    cache_salt: str | None
    priority: int
    skip_special_tokens: bool


class SamplingRequest(BaseModel):
    """Fields of a request that say how to sample, stop and stream. Unknown fields are refused, as OpenAI does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = ""
    """Served name of the model; absent or empty means the one that is served."""
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """Token id (as text, JSON has no other keys) to what is added to its logit."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens of the answer at most."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """Answers to each prompt."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: str | list[str] | None = None
    """Texts that end the answer; OpenAI takes 4, here there is no such limit."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None
    """Accepted; nothing is kept by user."""

    # vLLM's extras
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """0 and -1 mean all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0, lt=2**32)]] | None = None
    skip_special_tokens: bool | None = None
    """Whether special tokens are left out of the text; true unless told."""
    include_stop_str_in_output: bool | None = None
    cache_salt: str | None = None
    """Computed prefixes are shared only between requests of the same salt."""
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    """Smaller runs first."""


def submission(request: SamplingRequest) -> Submission:
    """The request's fields that say how to run it."""
    return Submission(
        cache_salt=request.cache_salt,
        priority=request.priority or 0,
        skip_special_tokens=request.skip_special_tokens is not False,
    )


def refuse_unsupported(request: SamplingRequest) -> None:
    """Raise a 400 for each shared field whose value the engine cannot honour."""
    options = request.stream_options
    if options is not None:
        if not request.stream:
            raise invalid("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        if options.include_obfuscation:
            raise unsupported("stream_options.include_obfuscation", "Obfuscation of streams is not supported.")
    if request.include_stop_str_in_output:
        raise unsupported("include_stop_str_in_output", "Stop strings are never part of the answer; leave it false.")


def generation_params(
    request: SamplingRequest,
    *,
    max_tokens: int,
    defaults: SamplingDefaults,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
) -> GenerationParams:
    """The engine's parameters of one answer. Raises :class:`ApiError` naming the request's field."""
    fields: dict[str, Any] = {**defaults.named(), **_given(request)}
    if fields.get("top_p") is not None:
        fields["top_p"] = max(fields["top_p"], _SMALLEST_TOP_P)
    if fields.get("top_k") in (-1, 0):
        del fields["top_k"]
    if (request.min_tokens or 0) > max_tokens:
        raise invalid("min_tokens", f"'min_tokens' is {request.min_tokens}, above the {max_tokens} tokens allowed.")
    try:
        return GenerationParams(
            max_tokens=max_tokens,
            logit_bias=_logit_bias(request.logit_bias),
            stop_sequences=_stops(request.stop),
            seed=None if request.seed is None else request.seed & _U64,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            **fields,
        )
    except ConfigError as error:
        raise ApiError(str(error), code="invalid_value") from error


_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
)


def _given(request: SamplingRequest) -> dict[str, Any]:
    return {name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None}


def _logit_bias(given: dict[str, float] | None) -> dict[int, float] | None:
    if not given:
        return None
    bias: dict[int, float] = {}
    for key, value in given.items():
        if not key.isascii() or not key.isdigit():
            raise invalid(f"logit_bias.{key}", f"'logit_bias' has the key {key!r}; keys are token ids.")
        bias[int(key)] = value
    return bias


def _stops(given: str | list[str] | None) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else tuple(given or ())
    if "" in stops:
        raise invalid("stop", "'stop' holds an empty text, which would end every answer at once.")
    return stops


def seed_of_choice(seed: int, choice: int) -> int:
    """The seed of answer number ``choice``: the first has the request's own, the others are drawn from it.

    The mixing function is SplitMix64 (Steele, Lea, Flood 2014), so that neighbouring seeds share no answers.
    """
    if choice == 0:
        return seed & _U64
    mixed = (seed + choice * 0x9E3779B97F4A7C15) & _U64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _U64
    return mixed ^ (mixed >> 31)


FinishText = Literal["stop", "length"]
