"""The fields that Chat Completions and Completions share, and what they are on the road.

Ranges are OpenAI's; the fields below "vLLM's extras" are vLLM's names for what OpenAI has not.
Must not know of prompts or replies.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from candle_vllm.generation import Constraint
from candle_vllm.openai.errors import invalid, unsupported

_U64 = 2**64 - 1
# OpenAI takes a top_p of 0; the likeliest token alone is what it means.
_SMALLEST_TOP_P = 1e-6

# More stop strings than this are a mistake or an attack.
_MOST_STOPS = 1024

_MOST_BIASES = 5_000
_MOST_IDS = 200_000

TokenId = Annotated[int, Field(ge=0, lt=2**32)]

Penalty = Annotated[float, Field(ge=-2, le=2)]


def _encodable(text: str) -> str:
    """Refuses halves of surrogate pairs, which Python's strings may hold and no UTF-8 text can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text holds half of a surrogate pair, which is no character") from None
    return text


Utf8 = Annotated[str, AfterValidator(_encodable)]
"""A text that can be encoded."""


def _token_keys(given: object) -> object:
    """Keys of logit_bias as text: JSON has no others, callers in process often have integers."""
    if not isinstance(given, dict):
        return given
    return {
        str(key) if isinstance(key, int) and not isinstance(key, bool) else key: each for key, each in given.items()
    }


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    """A last chunk without choices that holds the usage."""
    continuous_usage_stats: bool | None = None
    """Usage so far in every chunk (vLLM's)."""
    include_obfuscation: bool | None = None
    """Padding against traffic analysis: only false can be honoured."""


class StructuredOutputs(BaseModel):
    """The form of the answer: exactly one of these."""

    model_config = ConfigDict(extra="forbid", strict=True)

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    """A JSON schema."""
    regex: str | None = None
    choice: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=_MOST_STOPS)] | None = None
    """Texts, one of which is the answer."""
    grammar: str | None = None
    """In the notation of Lark, or GBNF."""
    json_object: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if sum(value not in (None, False) for _, value in self) != 1:
            raise ValueError("give exactly one of 'json', 'regex', 'choice', 'grammar' and 'json_object'")
        return self


class SamplingRequest(BaseModel):
    """Fields of a request that say how to sample, stop and stream. Unknown fields are refused, as OpenAI does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Utf8 = ""
    """Served name of the model; absent or empty means the one that is served."""
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: (
        Annotated[
            dict[str, Annotated[float, Field(ge=-100, le=100)]],
            Field(fail_fast=True, max_length=_MOST_BIASES),
            BeforeValidator(_token_keys),
        ]
        | None
    ) = None
    """Token id (as text, JSON has no other keys) to what is added to its logit."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Tokens of the answer at most."""
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    """Answers to each prompt."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Utf8 | Annotated[list[Utf8], Field(fail_fast=True, max_length=_MOST_STOPS)] | None = None
    """Texts that end the answer; OpenAI takes 4, here there may be 1,024."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    user: str | None = None
    """Accepted; nothing is kept by user."""

    # vLLM's extras
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    """0 and -1 mean all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=_MOST_STOPS)] | None = None
    skip_special_tokens: bool | None = None
    """Whether special tokens are left out of the text; true unless told."""
    include_stop_str_in_output: bool | None = None
    return_token_ids: bool | None = None
    """Whether the ids of the prompt's and the answer's tokens are told."""
    request_id: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")] | None = None
    """Becomes part of the reply's id."""
    structured_outputs: StructuredOutputs | None = None
    """The form of the answer."""
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=_MOST_STOPS)] | None = None
    guided_grammar: str | None = None
    bad_words: Annotated[list[Utf8], Field(fail_fast=True, max_length=_MOST_STOPS)] | None = None
    """Words whose token sequences the answer never completes."""
    allowed_token_ids: Annotated[list[TokenId], Field(fail_fast=True, min_length=1, max_length=_MOST_IDS)] | None = None
    """Token ids of which alone the answer is made; one that has none of the model's end ids goes on to its limit."""
    prompt_logprobs: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    """Log-probabilities of the prompt's tokens: 0 = the tokens' own, k = and the k likeliest, -1 = all."""
    cache_salt: Utf8 | None = None
    """Computed prefixes are shared only between requests of the same salt."""
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    """Smaller runs first."""


def road_fields(request: SamplingRequest) -> dict[str, Any]:
    """What these fields alone are on the road. Raises :class:`ApiError` naming the request's field."""
    return {
        "model": request.model,
        "sampling": sampling_fields(request),
        "n": request.n or 1,
        "stream": bool(request.stream),
        "allowed_token_ids": request.allowed_token_ids,
        "bad_words": request.bad_words or (),
        "cache_salt": request.cache_salt,
        "priority": request.priority or 0,
        "skip_special_tokens": request.skip_special_tokens is not False,
        "token_ids": bool(request.return_token_ids),
        "include_stop": bool(request.include_stop_str_in_output),
    }


def sampling_fields(request: SamplingRequest) -> dict[str, Any]:
    """The engine's parameters that the request sets. Raises :class:`ApiError` naming the request's field."""
    fields = {name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None}
    if "top_p" in fields:
        fields["top_p"] = max(fields["top_p"], _SMALLEST_TOP_P)
    if fields.get("top_k") in (-1, 0):
        # None is the engine's word for all, and it stands against a default that the model has.
        fields["top_k"] = None
    if request.logit_bias:
        fields["logit_bias"] = _logit_bias(request.logit_bias)
    if request.stop is not None:
        fields["stop_sequences"] = _stops(request.stop)
    if request.seed is not None:
        fields["seed"] = request.seed & _U64
    return fields


def constraint_of(request: SamplingRequest) -> Constraint | None:
    """The form that the request's own fields give the answer. Raises a 400 where several do."""
    found: list[Constraint] = []
    outputs = request.structured_outputs
    if outputs is not None:
        kinds: dict[str, Any] = {
            "json_schema": outputs.json_,
            "regex": outputs.regex,
            "choice": outputs.choice,
            "grammar": outputs.grammar,
            "json_object": outputs.json_object or None,
        }
        found += [
            Constraint(cast(Any, kind), value, "structured_outputs")
            for kind, value in kinds.items()
            if value is not None
        ]
    for field, kind in _GUIDED.items():
        if (value := getattr(request, field)) is not None:
            found.append(Constraint(kind, value, field))
    if len(found) > 1:
        raise invalid(found[1].field, f"'{found[0].field}' and '{found[1].field}' both give the answer's form.")
    return found[0] if found else None


def refuse_unsupported(request: SamplingRequest) -> None:
    """Raise a 400 for each shared field whose value cannot be honoured."""
    options = request.stream_options
    if options is not None:
        if not request.stream:
            raise invalid("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        if options.include_obfuscation:
            raise unsupported("stream_options.include_obfuscation", "Obfuscation of streams is not supported.")
    if any(not word.strip() for word in request.bad_words or ()):
        raise invalid("bad_words", "'bad_words' holds an empty text, which every answer would complete.")


_GUIDED: dict[str, Literal["json_schema", "regex", "choice", "grammar"]] = {
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
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


def _logit_bias(given: dict[str, float]) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in given.items():
        # Ids have at most ten digits; Python refuses to read numbers of thousands.
        if not key.isascii() or not key.isdigit() or len(key) > 10:
            raise invalid(f"logit_bias.{key[:40]}", f"'logit_bias' has the key {key[:40]!r}; keys are token ids.")
        bias[int(key)] = value
    return bias


def _stops(given: str | list[str]) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else tuple(given)
    if "" in stops:
        raise invalid("stop", "'stop' holds an empty text, which would end every answer at once.")
    return stops
