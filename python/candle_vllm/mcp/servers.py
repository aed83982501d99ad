"""McpServers: several servers as one set of tools with OpenAI's names. One that is down leaves the others alone.

Must not know of models or conversations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from candle_vllm.errors import ConfigError, McpConnectionError
from candle_vllm.mcp.client import McpClient, McpTool
from candle_vllm.mcp.config import McpServer
from candle_vllm.mcp.names import named
from candle_vllm.mcp.owner import State

__all__ = ["McpServers", "ServerStatus"]

_PATIENCE = 0.5
"""Seconds to wait for a server that did not answer the last time."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
"""Seconds between tries of a server that is down, doubled each time."""
_LOOK = 5.0
"""Seconds between looks at whether a server is still there."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How one server fares."""

    name: str
    state: State
    tools: int
    """As last listed."""
    problem: str | None


class McpServers:
    """Clients by their servers' names."""

    def __init__(self, servers: Iterable[McpServer] = ()) -> None:
        self._clients: dict[str, McpClient] = {}
        self._listed: dict[str, tuple[McpTool, ...]] = {}
        self._problems: dict[str, str] = {}
        self._trying: dict[str, asyncio.Task[None]] = {}
        self._keeping: list[asyncio.Task[None]] = []
        for server in servers:
            self.add(server)

    def add(self, server: McpServer) -> McpClient:
        """One server more; it is reached when its tools are first asked for."""
        if server.name in self._clients:
            raise ConfigError(f"there is an MCP server {server.name!r} already", field="name", value=server.name)
        client = self._clients[server.name] = McpClient(server)
        return client

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Any:
        return iter(self._clients.values())

    def client(self, name: str) -> McpClient:
        """The client of a server. Raises ConfigError naming those that there are."""
        try:
            return self._clients[name]
        except KeyError:
            there = ", ".join(self._clients) or "none"
            raise ConfigError(
                f"server must be one of those added ({there}); got {name!r}", field="server", value=name
            ) from None

    async def tools(self, taken: Collection[str] = (), only: Collection[str] | None = None) -> Mapping[str, McpTool]:
        """Name, by OpenAI's rule, to tool, over all servers that answer; `taken` names are not given out.

        `only` leaves the others out; names are the same without it. A server that does not answer is waited for once,
        for its connect and call timeouts; after that it is tried again in the background, each time that tools are
        asked for. `status` says what is wrong with it.
        """
        await asyncio.gather(*(self._list(self.client(name)) for name in (self._clients if only is None else only)))
        found = self.listed(taken)
        return found if only is None else {name: tool for name, tool in found.items() if tool.server in only}

    def listed(self, taken: Collection[str] = ()) -> Mapping[str, McpTool]:
        """The same, at once: the tools as they were last listed, in the order of the servers."""
        tools = [tool for name in self._clients for tool in self._listed.get(name, ())]
        found = {(tool.server, tool.name): tool for tool in tools}
        return {name: found[key] for name, key in named(list(found), taken).items()}

    def has_listed(self, name: str) -> bool:
        """Whether a server answered when its tools were last asked for."""
        return name in self._listed

    def start(self) -> None:
        """Begin to reach the servers, and go on with those that are down, in the background until `aclose`.

        To be called on the event loop where the servers are to be used.
        """
        self._keeping += [
            asyncio.create_task(self._keep(client), name=f"mcp-keep-{client.server.name}")
            for client in self._clients.values()
        ]

    async def _keep(self, client: McpClient) -> None:
        pause = _FIRST_PAUSE
        while True:
            if client.server.name not in self._listed or (client.state != "ready" and client.problem is not None):
                # It may have other tools than before it went away.
                await self._try(client, refresh=True)
            pause = _LOOK if client.state == "ready" else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _list(self, client: McpClient) -> None:
        """Have a server's tools listed; one that failed before goes on trying beside its user's work."""
        name = client.server.name
        task = self._trying.get(name)
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._trying[name] = asyncio.create_task(self._try(client))
        await asyncio.wait({task}, timeout=_PATIENCE if name in self._problems else None)

    async def _try(self, client: McpClient, refresh: bool = False) -> None:
        name = client.server.name
        try:
            self._listed[name] = tuple(await client.list_tools(refresh=refresh))
            self._problems.pop(name, None)
        except McpConnectionError as error:
            self._listed.pop(name, None)
            self._problems[name] = str(error)

    def instructions(self, only: Collection[str] | None = None) -> list[str]:
        """What the configuration says of the servers, for the model."""
        servers = [client.server for client in self if only is None or client.server.name in only]
        return [server.instructions for server in servers if server.instructions]

    def status(self) -> list[ServerStatus]:
        """How each server fares, at once."""
        return [
            ServerStatus(
                name, client.state, len(self._listed.get(name, ())), client.problem or self._problems.get(name)
            )
            for name, client in self._clients.items()
        ]

    async def aclose(self) -> None:
        """Close all clients, at once."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        self._keeping.clear()
        here = asyncio.get_running_loop()
        for task in self._trying.values():
            if task.get_loop() is here:
                task.cancel()
        await asyncio.gather(*(client.aclose() for client in self._clients.values()), return_exceptions=True)
