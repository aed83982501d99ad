"""What the Responses API is asked: its request, typed. Holds no behaviour beyond checking that it is well formed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from candle_vllm.openai.request import Utf8
from candle_vllm.openai.responses.items import InputItem, Items

__all__ = [
    "NamedTool",
    "PromptRequest",
    "Reasoning",
    "ResponsesRequest",
    "TextConfig",
    "TextFormat",
    "Tool",
    "ToolChoice",
]

_MOST_TOOLS = 1_000

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class McpToolFilter(BaseModel):
    """Those of a server's tools that may be called."""

    model_config = ConfigDict(extra="allow", strict=True)

    tool_names: Annotated[list[str], Field(fail_fast=True, max_length=_MOST_TOOLS)] | None = None
    read_only: bool | None = None


class Tool(BaseModel):
    """A tool that the model may call: a function of the client, or the tools of an MCP server that is set up here."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    # Of a function
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$")] | None = None
    description: Utf8 | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema; absent means no parameters."""
    strict: bool | None = None
    """Whether calls are held to the schema in every detail; refused where that cannot be enforced."""
    # Of an MCP server
    server_label: Annotated[str, Field(max_length=256)] | None = None
    """Its name in the server's own configuration."""
    allowed_tools: Annotated[list[str], Field(fail_fast=True, max_length=_MOST_TOOLS)] | McpToolFilter | None = None
    require_approval: str | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _named(self) -> Tool:
        needed = {"function": "name", "mcp": "server_label"}.get(self.type)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"a tool of type '{self.type}' needs the field '{needed}'")
        return self


class NamedTool(BaseModel):
    """One of the tools."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    name: str | None = None


class ToolChoice(NamedTool):
    """The one tool that is to be called; or, with the type `allowed_tools`, those that may be."""

    server_label: str | None = None

    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[NamedTool], Field(fail_fast=True, min_length=1, max_length=_MOST_TOOLS)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> ToolChoice:
        if self.type == "allowed_tools" and None in (self.mode, self.tools):
            raise ValueError("the choice 'allowed_tools' needs the fields 'mode' and 'tools'")
        return self


class TextFormat(BaseModel):
    """The form of the answer's text."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    description: str | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _complete(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("'schema' belongs to the type 'json_schema' and to no other")
        if self.type == "json_schema" and self.name is None:
            raise ValueError("the type 'json_schema' needs the field 'name'")
        return self


class TextConfig(BaseModel):
    """How the answer's text is to be."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(BaseModel):
    """How the model is to think."""

    model_config = ConfigDict(extra="forbid", strict=True)

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    """Older name of `summary`."""
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = None


class StreamOptions(BaseModel):
    """What a stream carries beside its events."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_obfuscation: bool | None = None
    """Padding against traffic analysis: only false can be honoured."""


Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""More that a response may tell. The log-probabilities are told; reasoning always stands in its item, in the open, and
goes back with it; items of the other kinds do not occur here."""


class PromptRequest(BaseModel):
    """The fields of a request that decide its prompt. Unknown ones are refused, as OpenAI does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Utf8 = ""
    """Served name of the model; absent or empty means the one that is served."""
    input: Utf8 | Items | None = None
    """What is said anew: a user's text, or items."""
    instructions: Utf8 | None = None
    """A system message before all else; of this response alone."""
    previous_response_id: str | None = None
    """The stored response that this one goes on from."""
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=_MOST_TOOLS)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Calls of tools that are run here, at most."""
    truncation: Literal["auto", "disabled"] | None = None
    """`auto`: where the prompt is too long, the oldest items are left out of it."""
    conversation: str | dict[str, Any] | None = None
    _history: Sequence[InputItem] | None = PrivateAttr(default=None)

    @property
    def history(self) -> Sequence[InputItem] | None:
        """What was said before `input`; None where nobody looked."""
        return self._history

    @property
    def items(self) -> Sequence[InputItem]:
        """The input as items."""
        if isinstance(self.input, str):
            return [InputItem(type="message", role="user", content=self.input)]
        return self.input or ()

    def after(self, history: Sequence[InputItem], items: Sequence[InputItem]) -> Self:
        """The same request with these items as its input, and what was said before it."""
        found = self.model_copy(update={"input": list(items)})
        found._history = history
        return found


class ResponsesRequest(PromptRequest):
    """The body of ``POST /v1/responses``."""

    background: bool | None = None
    """Whether it runs by itself, to be asked for later."""
    include: list[Includable] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Tokens of the answer at most, those it thinks with included."""
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[Utf8, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    store: bool | None = None
    """Whether it can be gone on from and asked for later; true unless told."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None

    # Known, and either harmless or refused by name where they would change the answer.
    access_programs: dict[str, Any] | None = None
    background_options: dict[str, Any] | None = None
    context_management: list[dict[str, Any]] | None = None
    image: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    user: str | None = None
    """Accepted; nothing is kept by user."""

    # vLLM's extras
    cache_salt: Utf8 | None = None
    """Computed prefixes are shared only between requests of the same salt."""
    chat_template_kwargs: dict[str, Any] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    """Smaller runs first."""
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Tokens after which thinking that still goes on is closed."""
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    """0 and -1 mean all."""
