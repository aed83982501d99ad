"""What the Responses API answers: responses, their items and usage, typed. Holds no behaviour."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from candle_vllm.openai.chat_types import ChatCompletionTokenLogprob, WaitMetadata

__all__ = [
    "Deleted",
    "FunctionCallItem",
    "IncompleteDetails",
    "InputTokens",
    "InputTokensDetails",
    "ItemList",
    "ItemStatus",
    "McpCallItem",
    "McpToolError",
    "OutputItem",
    "OutputMessage",
    "OutputText",
    "OutputTokensDetails",
    "ReasoningItem",
    "ReasoningText",
    "Response",
    "ResponseError",
    "ResponseUsage",
    "Status",
]

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class OutputText(BaseModel):
    """Text of the answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    """Always empty: nothing here cites."""
    logprobs: list[ChatCompletionTokenLogprob]


class OutputMessage(BaseModel):
    """What the assistant says."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class ReasoningText(BaseModel):
    """What the model thought."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(BaseModel):
    """What the model thinks before it answers, in the open."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    """Always empty: nobody here sums up."""
    content: list[ReasoningText]
    encrypted_content: None


class FunctionCallItem(BaseModel):
    """A call that the model makes."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    """What its output names."""
    name: str
    arguments: str
    """JSON text."""


class McpToolError(BaseModel):
    """Why a call did not do what it was to do."""

    type: Literal["mcp_tool_execution_error"]
    content: str
    """What the model was told."""


class McpCallItem(BaseModel):
    """A call of a tool that was run here."""

    id: str
    type: Literal["mcp_call"]
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    server_label: str
    """The server that has the tool; empty where there is no such tool."""
    name: str
    """The tool, as the model knows it."""
    arguments: str
    """JSON text."""
    output: str | None
    """What the model was told; null while it runs."""
    error: McpToolError | None
    approval_request_id: None
    turn: int
    """The model's answer that made it, from 1; beyond the specification."""


OutputItem = ReasoningItem | OutputMessage | FunctionCallItem | McpCallItem


class InputTokensDetails(BaseModel):
    """Where the prompt's tokens came from."""

    cached_tokens: int
    """Tokens whose keys and values were in the prefix cache."""
    cache_write_tokens: int
    """Always 0: nobody pays for what the cache keeps."""


class OutputTokensDetails(BaseModel):
    """What the answer's tokens were."""

    reasoning_tokens: int
    """Tokens that the model thought with."""


class ResponseUsage(BaseModel):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(BaseModel):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(BaseModel):
    """Why a response ended before its answer did."""

    reason: Literal["max_output_tokens", "max_messages"]
    bound: str | None = None
    """Which bound ended an answer that took several turns; beyond the specification."""


class Response(BaseModel):
    """One response, as far as it has come."""

    id: str
    object: Literal["response"]
    created_at: int
    """Seconds since 1970."""
    completed_at: int | None
    """Null unless it is completed."""
    status: Status
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float | None
    """As it was sampled with; null before that is known."""
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None
    warnings: list[str] | None = None
    """What of the request was left aside, where that was asked for."""
    candle_metadata: WaitMetadata | None = None
    """Only in events that tell what the response waits for."""


class Deleted(BaseModel):
    """That a response is stored no longer."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemList(BaseModel):
    """A page of the items that a response was made from."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(BaseModel):
    """Tokens of a prompt."""

    object: Literal["response.input_tokens"]
    input_tokens: int
