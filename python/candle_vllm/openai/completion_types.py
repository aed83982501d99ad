"""Legacy Completions as OpenAI's specification writes them: requests, replies and chunks, typed.

Holds no behaviour beyond checking that a request is well formed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from candle_vllm.generation import FinishText
from candle_vllm.openai.chat_types import CompletionUsage, PromptLogprobsById, WaitMetadata
from candle_vllm.openai.request import SamplingRequest, TokenId, Utf8

TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]

_MOST_PROMPTS = 2048


class CompletionRequest(SamplingRequest):
    """The body of ``POST /v1/completions``."""

    prompt: (
        Utf8
        | TokenIds
        | Annotated[list[Utf8], Field(fail_fast=True, min_length=1, max_length=_MOST_PROMPTS)]
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1, max_length=_MOST_PROMPTS)]
    )
    """A text, several texts, token ids, or several lists of them."""
    echo: bool | None = None
    """Whether the answer begins with the prompt."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many of the likeliest tokens to report; OpenAI takes up to 5."""
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    suffix: Utf8 | None = None
    """What stands behind the answer, for models that were trained to write between two texts."""

    # vLLM's extra
    add_special_tokens: bool | None = None
    """Whether a text prompt gets the tokenizer's own first token; true unless told."""


class Logprobs(BaseModel):
    """Log-probabilities of a text's tokens: four lists of the same length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """None for the first token of an echoed prompt."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Where each token begins in the text, in characters."""


class CompletionChoice(BaseModel):
    """One answer, or in a chunk what is added to it."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: FinishText | None
    token_ids: list[int] | None = None
    """Of the text, where asked for."""
    prompt_logprobs: PromptLogprobsById | None = None
    """Where asked for; in a stream once."""


class Completion(BaseModel):
    """The reply to a completion request, or one chunk of a stream of them."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Seconds since 1970."""
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
    system_fingerprint: str | None = None
    """None in chunks that come before the model is there."""
    warnings: list[str] | None = None
    """In the reply or the first chunk: unknown fields of the request that were left aside."""
    candle_metadata: WaitMetadata | None = None
    """Only in chunks that tell what the request waits for; they have no choices."""
