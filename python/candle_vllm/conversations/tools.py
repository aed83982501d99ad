"""Toolbox: Python functions and the tools of MCP servers under one set of names. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from candle_vllm.conversations.functions import FunctionTool
from candle_vllm.errors import ConfigError
from candle_vllm.mcp.client import McpClient, McpTool
from candle_vllm.mcp.results import ToolResult
from candle_vllm.mcp.servers import McpServers

__all__ = ["Tool", "Toolbox", "as_openai"]


class Tool(Protocol):
    """Anything that a model may call."""

    @property
    def name(self) -> str:
        """As the model knows it."""
        ...

    @property
    def own_name(self) -> str:
        """As whoever offers it knows it."""
        ...

    @property
    def server(self) -> str | None:
        """The MCP server that offers it."""
        ...

    @property
    def description(self) -> str:
        """What it does, for the model."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON schema of its arguments."""
        ...

    def fit(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """Arguments as the tool takes them, and what is wrong with them; None = nothing."""
        ...

    async def call(self, arguments: Mapping[str, Any], timeout: float | None) -> ToolResult:  # noqa: ASYNC109
        """The result of a call with arguments that fit."""
        ...


@dataclass(frozen=True, slots=True)
class _ServerTool:
    """A tool of an MCP server."""

    name: str
    tool: McpTool
    client: McpClient

    @property
    def own_name(self) -> str:
        return self.tool.name

    @property
    def server(self) -> str | None:
        return self.tool.server

    @property
    def description(self) -> str:
        return self.tool.description

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.tool.parameters

    def fit(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        return self.tool.fit(arguments)

    async def call(self, arguments: Mapping[str, Any], timeout: float | None) -> ToolResult:  # noqa: ASYNC109
        return await self.client.call_tool(self.tool.name, arguments, timeout=timeout)


class Toolbox:
    """What a model may call. Functions keep their names; a server's tool of the same name gets a prefix.

    `only` are the servers whose tools are meant, and `allowed` the names, as the model or the servers know them, of
    those of their tools that there are at all; None for all. `declared` are tools, in OpenAI's form, that whoever
    asks runs himself: a conversation ends where one of them is called. They keep their names too.
    """

    def __init__(
        self,
        servers: McpServers | None = None,
        functions: Iterable[Callable[..., Any]] = (),
        *,
        only: Collection[str] | None = None,
        allowed: Collection[str] | None = None,
        declared: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.servers = McpServers() if servers is None else servers
        self.declared = {str(tool["function"]["name"]): tool for tool in declared}
        self.found: Mapping[str, Tool] = {}
        """The tools as they were last asked for."""
        self._only = only
        self._allowed = allowed
        self._functions: dict[str, FunctionTool] = {}
        for function in functions:
            self.add(function)

    def add(self, function: Callable[..., Any]) -> None:
        """One function more."""
        tool = FunctionTool(function)
        if tool.name in self._functions:
            raise ConfigError(f"there is a tool {tool.name!r} already", field="function", value=tool.name)
        self._functions[tool.name] = tool

    async def tools(self) -> dict[str, Tool]:
        """Name to tool, functions first; a server that is down has none."""
        found: dict[str, Tool] = dict(self._functions)
        if len(self.servers):
            listed = await self.servers.tools(taken=[*found, *self.declared], only=self._only)
            for name, tool in listed.items():
                if self._allowed is not None and name not in self._allowed and tool.name not in self._allowed:
                    continue
                found[name] = _ServerTool(name, tool, self.servers.client(tool.server))
        self.found = found
        return found

    @property
    def instructions(self) -> list[str]:
        """What the configuration says of the servers, for the model."""
        return self.servers.instructions(self._only)


def as_openai(tools: Mapping[str, Tool], allowed: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Tools in OpenAI's form; those `allowed`, by either of their names, where that is not None."""
    return [
        {
            "type": "function",
            "function": {"name": name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for name, tool in tools.items()
        if allowed is None or name in allowed or tool.own_name in allowed
    ]
