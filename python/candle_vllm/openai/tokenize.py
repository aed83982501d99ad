"""Tokenize, Detokenize and Render, in the forms of vLLM's server: what a request would send, and how long it is."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from candle_vllm.generation import Road
from candle_vllm.generation.prepare import most_shown, render
from candle_vllm.openai.chat import parse
from candle_vllm.openai.chat_types import ChatCompletionRequest
from candle_vllm.openai.endpoint import Query
from candle_vllm.openai.errors import invalid
from candle_vllm.openai.request import TokenId, Utf8

__all__ = ["DETOKENIZE", "RENDER", "TOKENIZE"]

# Fields of a chat that decide its prompt.
_SHOWN = 16
"""Tokens that are shown of where a prompt leaves a cached one."""
_CHAT_FIELDS = (
    "messages",
    "tools",
    "tool_choice",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "reasoning_effort",
)


class TokenizeRequest(BaseModel):
    """The body of ``POST /tokenize``: a prompt, or the fields of a chat."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Utf8 = ""
    prompt: Utf8 | None = None
    add_special_tokens: bool | None = None
    """Whether a prompt gets the tokenizer's own first token; true unless told. Chats have theirs from the template."""
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizeRequest:
        given = self.model_extra or {}
        if (self.prompt is None) == ("messages" not in given):
            raise ValueError("give either 'prompt' or 'messages'")
        if unknown := [name for name in given if name not in _CHAT_FIELDS]:
            raise ValueError(f"the field '{unknown[0]}' is not known here")
        return self


class TokenizeResponse(BaseModel):
    """Token ids and what they come to."""

    count: int
    max_model_len: int
    """Longest sequence of the model, prompt and answer."""
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(BaseModel):
    """The body of ``POST /detokenize``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Utf8 = ""
    tokens: Annotated[list[TokenId], Field(fail_fast=True, max_length=1_000_000)]


class DetokenizeResponse(BaseModel):
    """The text of token ids, special tokens spelled out."""

    prompt: str


class RenderResponse(BaseModel):
    """What a chat would send."""

    prompt: str
    """As the model's template writes it."""
    tokens: list[int]
    count: int
    max_model_len: int
    room: int
    """Tokens that are left for the answer; negative where the prompt does not fit."""
    fits: bool
    cached_tokens: int
    """Tokens from the start that the prefix cache holds now: they would not be computed again."""
    diverges_at: int | None
    """Index of the first token that differs from the cached prompt that has most in common with this one; null where
    none goes on otherwise."""
    diverging_text: str | None
    """What stands there in this prompt."""


async def _tokenize(request: TokenizeRequest, road: Road) -> TokenizeResponse:
    async with road.models.lease(request.model or None) as model:
        if request.prompt is not None:
            if len(request.prompt) > (most := most_shown(model)):
                raise invalid("prompt", f"'prompt' has {len(request.prompt)} characters, above {most} at once.")
            special = request.add_special_tokens is not False
            tokens = await asyncio.to_thread(model.engine.tokenize, request.prompt, special)
        else:
            chat = ChatCompletionRequest.model_validate(request.model_extra)
            tokens = (await render(parse(chat), model)).ids
        strings = [model.texts.text(token) for token in tokens] if request.return_token_strs else None
        length = model.info.max_sequence_length
        return TokenizeResponse(count=len(tokens), max_model_len=length, tokens=tokens, token_strs=strings)


async def _detokenize(request: DetokenizeRequest, road: Road) -> DetokenizeResponse:
    async with road.models.lease(request.model or None) as model:
        return DetokenizeResponse(prompt=model.engine.detokenize(request.tokens, skip_special_tokens=False))


async def _render(request: ChatCompletionRequest, road: Road) -> RenderResponse:
    async with road.models.lease(request.model or None) as model:
        generation = parse(request)
        rendered = await render(generation, model)
        cached = await asyncio.to_thread(model.engine.cached_prefix, rendered.ids, generation.cache_salt)
        at = cached.diverges_at
        shown = None if at is None else rendered.ids[at : at + _SHOWN]
        room = model.info.max_sequence_length - len(rendered.ids)
        return RenderResponse(
            prompt=rendered.text,
            tokens=rendered.ids,
            count=len(rendered.ids),
            max_model_len=model.info.max_sequence_length,
            room=room,
            fits=room > 0,
            cached_tokens=cached.tokens,
            diverges_at=at,
            diverging_text=None if shown is None else model.engine.detokenize(shown, skip_special_tokens=False),
        )


TOKENIZE = Query(name="tokenize", path="/tokenize", request=TokenizeRequest, reply=TokenizeResponse, answer=_tokenize)
DETOKENIZE = Query(
    name="detokenize", path="/detokenize", request=DetokenizeRequest, reply=DetokenizeResponse, answer=_detokenize
)
RENDER = Query(
    name="render",
    path="/v1/chat/completions/render",
    request=ChatCompletionRequest,
    reply=RenderResponse,
    answer=_render,
)
