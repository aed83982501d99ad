"""Ollama's API as its documentation writes it: requests, replies and chunks, typed. Holds no behaviour.

Durations are in nanoseconds, times in RFC 3339.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from candle_vllm.openai.chat_types import Tool
from candle_vllm.openai.request import Utf8

__all__ = [
    "ChatChunk",
    "ChatRequest",
    "Details",
    "GenerateChunk",
    "GenerateRequest",
    "Listed",
    "Message",
    "Options",
    "ShowReply",
    "ShowRequest",
    "Tags",
    "ToolCall",
    "Version",
]


class Options(BaseModel):
    """How to sample. Fields that concern how a model is loaded, such as `num_ctx`, are taken and have no effect."""

    model_config = ConfigDict(extra="allow")

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    num_predict: Annotated[int, Field(ge=-2)] | None = None
    """Tokens of the answer at most; negative = as many as the context leaves."""
    stop: Utf8 | Annotated[list[Utf8], Field(fail_fast=True, max_length=1024)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None


class CalledFunction(BaseModel):
    """Name and arguments of a call, these as an object."""

    model_config = ConfigDict(extra="ignore")

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCall(BaseModel):
    """A call that the model makes, or made."""

    model_config = ConfigDict(extra="ignore")

    function: CalledFunction


class Message(BaseModel):
    """One message."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "user", "assistant", "tool"]
    content: Utf8 = ""
    thinking: Utf8 | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=1000)] | None = None
    tool_name: str | None = None
    """Of a message of role `tool`: whose result it is."""
    images: list[str] | None = None


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: Utf8
    stream: bool = True
    options: Options = Field(default_factory=Options)
    format: Literal["json", ""] | dict[str, Any] | None = None
    """`json`, or a schema that the answer follows."""
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive: str | float | None = None
    """Taken; how long a model stays is the server's to say."""


class ChatRequest(_Request):
    """The body of ``POST /api/chat``."""

    messages: Annotated[list[Message], Field(fail_fast=True, max_length=10_000)] = Field(default_factory=list)
    """None at all only loads the model."""
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=1000)] | None = None


class GenerateRequest(_Request):
    """The body of ``POST /api/generate``."""

    prompt: Utf8 = ""
    """An empty one only loads the model."""
    system: Utf8 | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    """Token ids of an earlier exchange, which the prompt goes on from."""
    raw: bool = False
    """Whether the prompt is taken as it is, without the model's template."""
    images: list[str] | None = None


class _Figures(BaseModel):
    """How an answer ended and what it took; only where `done`."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class ChatChunk(_Figures):
    """A piece of a chat's answer, or the whole of it."""

    message: Message


class GenerateChunk(_Figures):
    """A piece of an answer, or the whole of it."""

    response: str
    thinking: str | None = None
    context: list[int] | None = None


class Details(BaseModel):
    """What kind of model it is."""

    parent_model: str = ""
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Listed(BaseModel):
    """One served model."""

    name: str
    model: str
    modified_at: str
    size: int
    """Bytes of its weights; 0 while it was never loaded."""
    digest: str
    details: Details


class Tags(BaseModel):
    """All served models."""

    models: list[Listed]


class Version(BaseModel):
    """The server's version."""

    version: str


class Empty(BaseModel):
    """A request without a body."""


class ShowRequest(BaseModel):
    """The body of ``POST /api/show``."""

    model_config = ConfigDict(extra="ignore")

    model: Utf8


class ShowReply(BaseModel):
    """What a model is and can."""

    model_config = ConfigDict(protected_namespaces=())

    modelfile: str = ""
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
