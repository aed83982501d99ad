"""Tools of MCP servers in a chat: how a request asks for them, and how a reply tells of calls that the server made.

Beyond OpenAI's specification; the names are those of the item `mcp_call` of its Responses API. Holds no behaviour.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["McpCall", "McpCallDelta", "McpUse"]

_MOST_NAMES = 1_000


class McpUse(BaseModel):
    """The field `mcp`: which of the server's MCP servers a chat uses. Only servers that its operator has set up."""

    model_config = ConfigDict(extra="forbid", strict=True)

    servers: Annotated[list[str], Field(fail_fast=True, max_length=_MOST_NAMES)] | None = None
    """Their names; absent means all, an empty list none, also where the server would use them by default."""
    allowed_tools: Annotated[list[str], Field(fail_fast=True, max_length=_MOST_NAMES)] | None = None
    """Names of tools that may be called, as `GET /v1/mcp/tools` tells them; absent means all."""
    max_turns: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Answers of the model at most, at most as many as the server allows."""
    max_total_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Tokens of all prompts and answers, after which the model is not asked again."""
    timeout: Annotated[float, Field(gt=0, lt=1e9)] | None = None
    """Seconds of all turns and calls together."""


class McpCall(BaseModel):
    """One call that the server made. Sent back with its message, it tells the model what it has done."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str
    type: Literal["mcp_call"] = "mcp_call"
    turn: Annotated[int, Field(ge=1)]
    """The model's answer that made it, from 1."""
    server_label: str | None
    """The MCP server; null where there is no such tool."""
    name: str
    """The tool, as the model knows it."""
    arguments: str
    """JSON text."""
    output: str
    """What the model was told."""
    error: str | None = None
    """What kind of failure `output` tells of; null where the call did what was asked."""


class McpCallDelta(BaseModel):
    """What a chunk adds to the call number `index`: it comes with its name, then its arguments in pieces, then its end.

    `output` comes once, when the call has run, and `error` with it where it failed.
    """

    index: int
    id: str | None = None
    type: Literal["mcp_call"] | None = None
    turn: int | None = None
    server_label: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | None = None
    error: str | None = None
