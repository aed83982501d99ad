"""Anthropic's Messages API as its specification writes it: requests, replies and events, typed. Holds no behaviour."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from candle_vllm.openai.request import Utf8

__all__ = [
    "CountReply",
    "CountRequest",
    "ErrorEvent",
    "Message",
    "MessageParam",
    "MessagesRequest",
    "StreamEvent",
    "TextBlock",
    "ThinkingBlock",
    "ToolChoice",
    "ToolParam",
    "ToolUseBlock",
    "Usage",
]

_MOST_MESSAGES = 10_000
_MOST_BLOCKS = 1_000


class ContentBlock(BaseModel):
    """A part of a message that a request holds; which fields count depends on its type."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    text: Utf8 | None = None
    thinking: Utf8 | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Utf8 | Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=_MOST_BLOCKS)] | None = None
    is_error: bool | None = None


Content = Utf8 | Annotated[list[ContentBlock], Field(fail_fast=True, max_length=_MOST_BLOCKS)]


class MessageParam(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["user", "assistant"]
    content: Content


class ToolParam(BaseModel):
    """A tool that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str | None = None
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
    description: Utf8 | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(BaseModel):
    """Whether, and which, tool is to be called."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(BaseModel):
    """Whether the model is to think before it answers."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None


class CountRequest(BaseModel):
    """The body of ``POST /v1/messages/count_tokens``: what decides a prompt."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Utf8 = ""
    messages: Annotated[list[MessageParam], Field(fail_fast=True, min_length=1, max_length=_MOST_MESSAGES)]
    system: Content | None = None
    tools: Annotated[list[ToolParam], Field(fail_fast=True, max_length=1000)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: dict[str, Any] | None = None


class MessagesRequest(CountRequest):
    """The body of ``POST /v1/messages``."""

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    stop_sequences: Annotated[list[Utf8], Field(fail_fast=True, max_length=1024)] | None = None
    metadata: dict[str, Any] | None = None
    """Taken; nothing is kept by user."""
    service_tier: str | None = None
    """Taken; there is one tier."""


class TextBlock(BaseModel):
    """Text of the answer."""

    type: Literal["text"]
    text: str


class ThinkingBlock(BaseModel):
    """What the model thought. Nothing signs it here."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(BaseModel):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


Block = TextBlock | ThinkingBlock | ToolUseBlock
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Usage(BaseModel):
    """Tokens of a request; those from the cache are not among `input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class Message(BaseModel):
    """The whole reply."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class TextDelta(BaseModel):
    """Text that a block goes on with."""

    type: Literal["text_delta"]
    text: str


class ThinkingDelta(BaseModel):
    """Thinking that a block goes on with."""

    type: Literal["thinking_delta"]
    thinking: str


class InputJsonDelta(BaseModel):
    """JSON text that a call's input goes on with."""

    type: Literal["input_json_delta"]
    partial_json: str


class MessageDelta(BaseModel):
    """Why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class StreamEvent(BaseModel):
    """One event of a stream; which fields it has depends on its type."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
    ]
    index: int | None = None
    message: Message | None = None
    content_block: Block | None = None
    delta: TextDelta | ThinkingDelta | InputJsonDelta | MessageDelta | None = None
    usage: Usage | None = None


class CountReply(BaseModel):
    """Tokens of a prompt."""

    input_tokens: int


class ErrorEvent(BaseModel):
    """A refusal or failure."""

    type: Literal["error"]
    error: dict[str, str]
