"""Chat Completions as OpenAI's specification writes them: requests, replies and chunks, typed.

Holds no behaviour beyond checking that a request is well formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from candle_vllm.generation import FinishText
from candle_vllm.openai.mcp_types import McpCall, McpCallDelta, McpUse
from candle_vllm.openai.request import SamplingRequest, Utf8

# Bounds far above what people send and far below what holds the event loop.
_MOST_MESSAGES = 5_000
_MOST_PARTS = 1_000
_MOST_TOOLS = 1_000
_MOST_ARGUMENTS = 500_000


class ContentPart(BaseModel):
    """One part of a message's content. Only text can be honoured; the other kinds are refused by name."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    text: Utf8 | None = None
    refusal: Utf8 | None = None

    @model_validator(mode="after")
    def _has_its_text(self) -> ContentPart:
        if self.type in ("text", "refusal") and getattr(self, self.type) is None:
            raise ValueError(f"a content part of type '{self.type}' needs the field '{self.type}'")
        return self


class FunctionCall(BaseModel):
    """Name and arguments (a JSON text) of a call."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    arguments: Annotated[str, Field(max_length=_MOST_ARGUMENTS)]


class ToolCall(BaseModel):
    """A call that the assistant made earlier in the conversation."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """One message. Fields beyond OpenAI's are kept and given to the chat template."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Utf8 | Annotated[list[ContentPart], Field(fail_fast=True, max_length=_MOST_PARTS)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=_MOST_TOOLS)] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    """Older form of `tool_calls`."""
    mcp_calls: Annotated[list[McpCall], Field(fail_fast=True, max_length=_MOST_TOOLS)] | None = None
    """Calls that a server made before this message, as its reply told them."""

    @model_validator(mode="after")
    def _complete(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of role '{self.role}' needs 'content'")
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a message of role 'tool' needs 'tool_call_id'")
        if self.role == "function" and not self.name:
            raise ValueError("a message of role 'function' needs 'name'")
        for field in ("tool_calls", "function_call", "mcp_calls"):
            if getattr(self, field) and self.role != "assistant":
                raise ValueError(f"a message of role '{self.role}' has no '{field}'")
        return self


def check_results(messages: Sequence[ChatMessage]) -> int | None:
    """The place of the first tool message that answers no call before it."""
    open_calls: set[str] = set()
    for at, message in enumerate(messages):
        if message.role == "assistant":
            open_calls |= {call.id for call in message.tool_calls or ()}
        elif message.role == "tool" and message.tool_call_id not in open_calls:
            return at
    return None


def _plain(messages: object) -> object:
    """Typed messages of whatever package as dictionaries, so that an answer can be appended as it came."""
    if not isinstance(messages, list | tuple):
        return messages
    return [
        message.model_dump(exclude_none=True)
        if isinstance(message, BaseModel) and not isinstance(message, ChatMessage)
        else message
        for message in messages
    ]


class FunctionDefinition(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$")]
    description: Utf8 | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema; absent means no parameters."""
    strict: bool | None = None
    """Whether calls are held to the schema in every detail; refused where that cannot be enforced."""


class Tool(BaseModel):
    """A tool that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(BaseModel):
    """The name of a function."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str


class NamedToolChoice(BaseModel):
    """The one tool that is to be called."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(BaseModel):
    """Those of the tools that may be called, and whether one must be."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedToolChoice], Field(fail_fast=True, min_length=1, max_length=_MOST_TOOLS)]


class AllowedToolsChoice(BaseModel):
    """A choice among some of the tools."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchemaFormat(BaseModel):
    """A named schema."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The form of the answer's text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("'json_schema' belongs to the type 'json_schema' and to no other")
        return self


class ChatCompletionRequest(SamplingRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[
        list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=_MOST_MESSAGES), BeforeValidator(_plain)
    ]
    """The conversation. Messages of replies, this package's or the openai client's, may stand among them."""
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """The newer name of ``max_tokens``; it wins where both are given."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    # Known, and either harmless or refused by name where they would change the answer.
    audio: dict[str, Any] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    """Older form of `tool_choice`."""
    functions: Annotated[list[FunctionDefinition], Field(fail_fast=True, min_length=1, max_length=128)] | None = None
    """Older form of `tools`."""
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    moderation: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    """Accepted; nothing is stored, and no reply depends on it."""
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | AllowedToolsChoice | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=_MOST_TOOLS)] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    """Accepted; the models here have no such setting."""
    web_search_options: dict[str, Any] | None = None

    # Our own
    mcp: McpUse | None = None
    """Which MCP servers' tools the server runs before it answers; absent means as the server is set up."""

    # vLLM's extras
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Tokens that an answer may think with; then its thinking is closed and the answer begins."""
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=_MOST_MESSAGES)] | None = None


class PromptTokensDetails(BaseModel):
    """Where the prompt's tokens came from."""

    cached_tokens: int
    """Tokens whose keys and values were in the prefix cache."""


class CompletionTokensDetails(BaseModel):
    """What the answers' tokens were."""

    reasoning_tokens: int
    """Tokens that the model thought with."""


class CompletionUsage(BaseModel):
    """Tokens of a request, over all its answers; the prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(BaseModel):
    """One of the likeliest tokens at a position."""

    token: str
    logprob: float
    bytes: list[int] | None
    """The token's UTF-8 bytes, which alone need not be whole characters."""


class ChatCompletionTokenLogprob(TopLogprob):
    """The token of a position and its rivals."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """Log-probabilities of an answer's tokens, in order."""

    content: list[ChatCompletionTokenLogprob] | None
    refusal: None = None


ChatFinish = FinishText | Literal["function_call"]
"""Why an answer ended; `function_call` where the request used the older `functions`."""


class ChatCompletionMessageToolCall(BaseModel):
    """A call that the model makes."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatCompletionMessage(BaseModel):
    """What the assistant says. Absent fields are unset."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning: str | None = None
    """What the model thought before it answered."""
    reasoning_content: str | None = None
    """The same, under the name that many clients know."""
    tool_calls: list[ChatCompletionMessageToolCall] | None = None
    function_call: FunctionCall | None = None
    """In place of `tool_calls` where the request used the older `functions`."""
    mcp_calls: list[McpCall] | None = None
    """Calls of MCP servers' tools that were made before this answer."""


class Choice(BaseModel):
    """One answer."""

    index: int
    message: ChatCompletionMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: ChatFinish
    stop_reason: str | None = None
    """Which bound ended an answer with MCP tools before the model did: `max_turns`, `token_budget`, `time_budget`,
    `loop` or `context`; the `finish_reason` is `length` then."""
    token_ids: list[int] | None = None
    """Of the answer, where asked for."""


class PromptLogprob(BaseModel):
    """One token at a position of the prompt (vLLM's form)."""

    logprob: float
    rank: int | None
    """1 is the likeliest; null for a token of the prompt that is none of the likeliest asked for."""
    decoded_token: str


PromptLogprobsById = list[dict[str, PromptLogprob] | None]
"""One entry a token of the prompt, by token id: the prompt's own and the likeliest ones; null for the first."""


class ChatCompletion(BaseModel):
    """The reply to a chat request that does not stream."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """Seconds since 1970."""
    model: str
    choices: list[Choice]
    usage: CompletionUsage | None = None
    """Always there, but for a reply that was put together from chunks without it."""
    prompt_token_ids: list[int] | None = None
    """Where asked for."""
    prompt_logprobs: PromptLogprobsById | None = None
    """Where asked for."""
    warnings: list[str] | None = None
    """Unknown fields of the request that were left aside, where the server does not refuse them."""
    service_tier: Literal["default"] = "default"
    system_fingerprint: str


class ChoiceDeltaToolCallFunction(BaseModel):
    """What a chunk adds to a call; its name comes once, its arguments in pieces."""

    name: str | None = None
    arguments: str | None = None


class ChoiceDeltaToolCall(BaseModel):
    """What a chunk adds to the call number `index` of an answer; id and type come once."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: ChoiceDeltaToolCallFunction | None = None


class ChoiceDelta(BaseModel):
    """What a chunk adds to one answer; absent fields are unset."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ChoiceDeltaToolCall] | None = None
    mcp_calls: list[McpCallDelta] | None = None
    function_call: ChoiceDeltaToolCallFunction | None = None


class ChunkChoice(BaseModel):
    """One answer's part of a chunk."""

    index: int
    delta: ChoiceDelta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: ChatFinish | None = None
    stop_reason: str | None = None
    """As in a whole reply."""
    token_ids: list[int] | None = None
    """Of the text that this chunk adds, where asked for."""


class WaitMetadata(BaseModel):
    """What a request waits for before its first token."""

    status: Literal["queued", "waiting_for_model", "loading", "processing"]
    position: int
    """Its place among the requests for the model; 1 is next, 0 once it has the model."""
    model: str
    eta_ms: int | None
    """Milliseconds until it has the model; null while nothing was measured."""


class ChatCompletionChunk(BaseModel):
    """One chunk of a stream; the one with the usage has no choices."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    """Seconds since 1970; the same in all chunks."""
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None
    service_tier: Literal["default"] = "default"
    system_fingerprint: str | None = None
    """None in chunks that come before the model is there."""
    prompt_token_ids: list[int] | None = None
    """In the first chunk, where asked for."""
    prompt_logprobs: PromptLogprobsById | None = None
    """In an early chunk, where asked for."""
    warnings: list[str] | None = None
    """In the first chunk: unknown fields of the request that were left aside."""
    candle_metadata: WaitMetadata | None = None
    """Only in chunks that tell what the request waits for; their delta is empty."""
