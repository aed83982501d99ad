"""The events of a response's stream, typed. Holds no behaviour."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, RootModel

from candle_vllm.openai.chat_types import ChatCompletionTokenLogprob
from candle_vllm.openai.responses.objects import OutputItem, OutputText, ReasoningText, Response

__all__ = [
    "AnyEvent",
    "ArgumentsDelta",
    "ArgumentsDone",
    "ItemEvent",
    "McpCallEvent",
    "PartEvent",
    "ReasoningDelta",
    "ReasoningDone",
    "ResponseEvent",
    "StreamEvent",
    "TextDelta",
    "TextDone",
]


class StreamEvent(BaseModel):
    """Any event; those of a response are numbered from 0."""

    type: str
    sequence_number: int


class ResponseEvent(StreamEvent):
    """How the whole response stands."""

    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: Response


class ItemEvent(StreamEvent):
    """An item begins, or is complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class PartEvent(StreamEvent):
    """A part of an item begins, or is complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText


class TextDelta(StreamEvent):
    """The answer's text goes on."""

    TYPE: ClassVar = "response.output_text.delta"
    type: Literal["response.output_text.delta"]
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[ChatCompletionTokenLogprob]


class TextDone(StreamEvent):
    """The answer's text is complete."""

    type: Literal["response.output_text.done"]
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[ChatCompletionTokenLogprob]


class ReasoningDelta(StreamEvent):
    """The model thinks on."""

    type: Literal["response.reasoning_text.delta"]
    item_id: str
    output_index: int
    content_index: int
    delta: str


class ReasoningDone(StreamEvent):
    """The model has thought."""

    type: Literal["response.reasoning_text.done"]
    item_id: str
    output_index: int
    content_index: int
    text: str


class ArgumentsDelta(StreamEvent):
    """A call's arguments go on."""

    type: Literal["response.function_call_arguments.delta", "response.mcp_call_arguments.delta"]
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(StreamEvent):
    """A call's arguments are complete."""

    type: Literal["response.function_call_arguments.done", "response.mcp_call_arguments.done"]
    item_id: str
    output_index: int
    name: str
    arguments: str


class McpCallEvent(StreamEvent):
    """How a call that is run here fares."""

    type: Literal["response.mcp_call.in_progress", "response.mcp_call.completed", "response.mcp_call.failed"]
    item_id: str
    output_index: int


class AnyEvent(
    RootModel[
        ResponseEvent
        | ItemEvent
        | PartEvent
        | TextDelta
        | TextDone
        | ReasoningDelta
        | ReasoningDone
        | ArgumentsDelta
        | ArgumentsDone
        | McpCallEvent
    ]
):
    """Any of the events, for those who describe them."""
