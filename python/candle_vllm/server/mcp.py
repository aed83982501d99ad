"""The MCP servers whose tools requests may have the server run, and the routes that tell of them.

They are set up by whoever runs the server, and never by a request. Must not know of endpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import Response

from candle_vllm.conversations import ConversationOptions
from candle_vllm.mcp import McpServers
from candle_vllm.server.replies import json_reply

__all__ = ["McpSettings", "add_mcp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class McpSettings:
    """Which servers there are, and how far requests may go with them.

    The servers are the caller's to start and close: `servers.start()` reaches them in the background; without it the
    first request that wants them does.
    """

    servers: McpServers = field(default_factory=McpServers)
    options: ConversationOptions = field(default_factory=ConversationOptions)
    """Bounds of each request; it may ask for less."""
    by_default: bool = False
    """Whether chats that say nothing of MCP have the tools of all servers."""


class McpServerState(BaseModel):
    """How one server fares."""

    name: str
    state: Literal["idle", "connecting", "ready", "failed", "closed"]
    """`idle`: not connected at the moment; the next call of its tools connects it."""
    tools: int
    problem: str | None
    """Why it is not there, where it is not."""


class McpToolEntry(BaseModel):
    """One tool that requests may have the server run."""

    name: str
    """As the model knows it."""
    server: str
    server_tool: str
    """As the server calls it."""
    description: str
    parameters: dict[str, Any]
    """JSON schema of its arguments."""


class McpToolList(BaseModel):
    """The tools of all servers that answered when they were last asked, and how the servers fare."""

    object: Literal["list"] = "list"
    data: list[McpToolEntry]
    servers: list[McpServerState]


def add_mcp(app: FastAPI, servers: McpServers) -> None:
    """Add the routes."""

    async def tools(request: Request) -> Response:
        """The tools of the MCP servers, and how those fare; at once, whatever they do."""
        found = [
            McpToolEntry(
                name=name,
                server=tool.server,
                server_tool=tool.name,
                description=tool.description,
                parameters=dict(tool.parameters),
            )
            for name, tool in servers.listed().items()
        ]
        states = [
            McpServerState(name=each.name, state=each.state, tools=each.tools, problem=each.problem)
            for each in servers.status()
        ]
        told = McpToolList(data=found, servers=states)
        return json_reply(told.model_dump_json(), headers={"cache-control": "no-store"})

    app.add_api_route(
        "/v1/mcp/tools", tools, methods=["GET"], response_model=None, responses={200: {"model": McpToolList}}
    )
