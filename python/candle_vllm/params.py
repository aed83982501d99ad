"""How one request is sampled, stopped and reported. Knows nothing of engines or prompts."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from candle_vllm import checks
from candle_vllm.structured import StructuredOutput

__all__ = ["GenerationParams"]

_U32 = 2**32 - 1
_U64 = 2**64 - 1
_I31 = 2**31 - 1
_MOST_STOPS = 1024
_FORMS = ("json_schema", "regex", "choice", "grammar")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """Sampling and stopping of one request. Bad values raise `ConfigError` here, naming the field and the range.

    Every parameter is a request's own: whatever else runs beside it, a seeded request gives the same tokens.
    """

    max_tokens: int = 256
    """Tokens to generate at most; 0 only scores the prompt (`prompt_logprobs`)."""
    temperature: float = 1.0
    """Divides the logits, 0 to 100; 0 takes the likeliest token always (greedy)."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability, above 0 to 1; 1 = all."""
    top_k: int | None = None
    """Only the k likeliest tokens, from 1; None = all."""
    min_p: float = 0.0
    """Only tokens at least this fraction as likely as the likeliest, 0 to 1; 0 = all."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt or answer; above 0 to 100; 1 = off."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit once per occurrence in the answer, -2 to 2."""
    presence_penalty: float = 0.0
    """Taken from a token's logit if it occurs in the answer, -2 to 2."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the raw logits of these token ids, -100 to 100."""
    stop_sequences: Sequence[str] = ()
    """Texts that end the answer and are not part of it, 1,024 at most. A single text counts as a list of one."""
    stop_token_ids: Sequence[int] = ()
    """Token ids that end the answer, beside the model's own end-of-sequence ids; 1,024 at most."""
    ignore_eos: bool = False
    """Whether the model's end-of-sequence ids are ordinary tokens."""
    min_tokens: int = 0
    """No end-of-sequence and no stop id before this many tokens; at most `max_tokens`."""
    logprobs: int | None = None
    """Log-probabilities of the answer: None = off, 0 = each token's own, k = and the k best, -1 = whole vocabulary."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens."""
    seed: int | None = None
    """Seed of this request's random numbers, 0 to 2**64 - 1; None = drawn by the engine."""
    json_schema: str | Mapping[str, Any] | bool | None = None
    """Structured output: the answer follows this JSON schema; see `StructuredOutput`. At most one of these five."""
    regex: str | None = None
    """Structured output: the answer matches this expression from its first to its last character."""
    choice: Sequence[str] | None = None
    """Structured output: the answer is one of these texts."""
    grammar: str | None = None
    """Structured output: the answer follows this grammar, in Lark's or llama.cpp's notation."""
    structured_output: StructuredOutput | None = None
    """Structured output with all its settings: where it begins, parts that the model begins, blanks."""

    def __post_init__(self) -> None:
        """Check every field and bring it to its plain type."""
        put = object.__setattr__
        put(self, "max_tokens", checks.integer("max_tokens", self.max_tokens, 0, _I31))
        put(self, "temperature", checks.number("temperature", self.temperature, 0.0, 100.0))
        put(self, "top_p", checks.number("top_p", self.top_p, 0.0, 1.0, open_low=True))
        put(self, "top_k", checks.optional_integer("top_k", self.top_k, 1, _I31, none="all tokens"))
        put(self, "min_p", checks.number("min_p", self.min_p, 0.0, 1.0))
        penalty = checks.number("repetition_penalty", self.repetition_penalty, 0.0, 100.0, open_low=True)
        put(self, "repetition_penalty", penalty)
        for field in ("frequency_penalty", "presence_penalty"):
            put(self, field, checks.number(field, getattr(self, field), -2.0, 2.0))
        put(self, "logit_bias", _logit_bias(self.logit_bias))
        put(self, "stop_sequences", _stop_sequences(self.stop_sequences))
        ids = checks.items("stop_token_ids", self.stop_token_ids, "token ids", _MOST_STOPS)
        put(self, "stop_token_ids", tuple(checks.integer("stop_token_ids", i, 0, _U32) for i in ids))
        checks.boolean("ignore_eos", self.ignore_eos)
        put(self, "min_tokens", checks.integer("min_tokens", self.min_tokens, 0, self.max_tokens))
        for field in ("logprobs", "prompt_logprobs"):
            put(self, field, checks.optional_integer(field, getattr(self, field), -1, _I31, none="off"))
        put(self, "seed", checks.optional_integer("seed", self.seed, 0, _U64, none="drawn by the engine"))
        self._check_form()

    def _check_form(self) -> None:
        asked = self.structured_output
        if asked is not None and not isinstance(asked, StructuredOutput):
            checks.refuse("structured_output", asked, "a StructuredOutput or None")
        given = [field for field in (*_FORMS, "structured_output") if getattr(self, field) is not None]
        if len(given) > 1:
            checks.refuse(given[1], getattr(self, given[1]), f"left unset beside {given[0]}")
        if given and self.min_tokens:
            checks.refuse("min_tokens", self.min_tokens, f"0 beside {given[0]}, which decides when the answer ends")
        form = self.form
        for field in _FORMS:
            if form is not None and getattr(self, field) is not None:
                object.__setattr__(self, field, getattr(form, field))

    @property
    def form(self) -> StructuredOutput | None:
        """What the answer must conform to, whichever field says it; None = free text."""
        given = {field: getattr(self, field) for field in _FORMS if getattr(self, field) is not None}
        return StructuredOutput(**given) if given else self.structured_output


def _logit_bias(value: Mapping[int, float] | None) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        checks.refuse("logit_bias", value, "a mapping of token ids to numbers from -100 to 100")
    return {
        _token_id(key): checks.number("logit_bias", bias, -100.0, 100.0, place=f"[{key}]")
        for key, bias in value.items()
    }


def _token_id(key: object) -> int:
    if isinstance(key, bool) or not hasattr(key, "__index__") or not 0 <= operator.index(key) <= _U32:
        checks.refuse("logit_bias", key, f"keyed by token ids from 0 to {_U32}")
    return operator.index(key)


def _stop_sequences(value: Sequence[str] | str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else checks.items("stop_sequences", value, "texts", _MOST_STOPS)
    return tuple(checks.text("stop_sequences", text, "a list of texts that are not empty") for text in texts)
