"""ResponsesSession: a model with tools, MCP servers' and Python functions, over many turns."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from candle_vllm.conversations.events import ConversationEvent, ConversationFinished, ConversationResult
from candle_vllm.conversations.loop import converse
from candle_vllm.conversations.model import AdapterModel, Model
from candle_vllm.conversations.options import ConversationOptions
from candle_vllm.conversations.tools import Toolbox, as_openai
from candle_vllm.engine import InferenceEngine
from candle_vllm.errors import ConfigError
from candle_vllm.mcp import McpServer, McpServers, ToolResult, read_config
from candle_vllm.mcp.servers import ServerStatus
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.openai.bridge import Bridge

__all__ = ["ResponsesSession", "SessionBuilder"]

Messages = str | Sequence[Mapping[str, Any] | BaseModel]


class ResponsesSession:
    """A model that works with tools. Made by ``builder()``, or over a model and a toolbox of one's own.

    Methods whose names begin with ``a`` are for asyncio: cancelling their task, or closing their iterator, cancels
    what is under way. The others block, with the GIL released, and may be called in any thread. Conversations may
    run side by side; they share the servers' sessions and the model's prefix cache. A server that is down or
    misbehaves costs its tools, never the session.
    """

    def __init__(self, model: Model, toolbox: Toolbox | None = None, owned: Iterable[Any] = ()) -> None:
        self._model = model
        self._toolbox = toolbox or Toolbox()
        self._owned = tuple(owned)
        self._bridge = Bridge()

    @staticmethod
    def builder() -> SessionBuilder:
        """What makes a session, step by step."""
        return SessionBuilder()

    def add_mcp_server(self, name: str, url: str | None = None, auth: str | None = None, **settings: Any) -> None:
        """One server more, from the next turn on; `settings` are fields of `McpServer` (`command`, `args` ...)."""
        self._toolbox.servers.add(McpServer(name=name, url=url, auth=auth, **settings))

    def add_tool(self, function: Callable[..., Any]) -> None:
        """One Python function more, from the next turn on."""
        self._toolbox.add(function)

    def server_status(self) -> list[ServerStatus]:
        """How each MCP server fares, at once."""
        return self._toolbox.servers.status()

    # For asyncio.

    async def alist_openai_tools(self, allowed: Collection[str] | None = None) -> list[dict[str, Any]]:
        """The tools in OpenAI's form, those `allowed` by name; servers that are down are left out."""
        return as_openai(await self._toolbox.tools(), allowed)

    async def acall_tool(self, server: str, tool: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Call a server's tool by the server's own name for it; whatever goes wrong is in the result."""
        return await self._toolbox.servers.client(server).call_tool(tool, arguments)

    async def arun_conversation(
        self, messages: Messages, options: ConversationOptions | None = None
    ) -> ConversationResult:
        """Let the model and the tools take turns until the model answers, or a bound is met.

        Raises :class:`~candle_vllm.openai.ApiError` where the first turn fails.
        """
        async with aclosing(self.arun_conversation_stream(messages, options)) as events:
            async for event in events:
                if isinstance(event, ConversationFinished):
                    return event.result
        raise RuntimeError("the conversation ended without a result")

    def arun_conversation_stream(
        self, messages: Messages, options: ConversationOptions | None = None
    ) -> AsyncGenerator[ConversationEvent, None]:
        """The same, told as it happens."""
        given = [{"role": "user", "content": messages}] if isinstance(messages, str) else [*map(_plain, messages)]
        return converse(self._model, self._toolbox, given, options or ConversationOptions())

    async def aclose(self) -> None:
        """End the servers' sessions and processes, and what the session has made for itself."""
        await self._toolbox.servers.aclose()
        self._release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # Blocking.

    def list_openai_tools(self, allowed: Collection[str] | None = None) -> list[dict[str, Any]]:
        """As `alist_openai_tools`."""
        return self._bridge.call(self.alist_openai_tools(allowed))

    def call_tool(self, server: str, tool: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """As `acall_tool`."""
        return self._bridge.call(self.acall_tool(server, tool, arguments))

    def run_conversation(self, messages: Messages, options: ConversationOptions | None = None) -> ConversationResult:
        """As `arun_conversation`."""
        return self._bridge.call(self.arun_conversation(messages, options))

    def run_conversation_stream(
        self, messages: Messages, options: ConversationOptions | None = None
    ) -> Generator[ConversationEvent, None, None]:
        """As `arun_conversation_stream`."""
        return self._bridge.iterate(self.arun_conversation_stream(messages, options))

    def close(self) -> None:
        """As `aclose`."""
        self._bridge.call(self._toolbox.servers.aclose())
        self._release()

    def _release(self) -> None:
        self._bridge.close()
        for thing in self._owned:
            thing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _plain(message: Mapping[str, Any] | BaseModel) -> Mapping[str, Any]:
    """A message as a dictionary; those of replies, this package's or the openai client's, are typed."""
    return message.model_dump(exclude_none=True) if isinstance(message, BaseModel) else message


class SessionBuilder:
    """Settings of a session, one method each; `build` makes it."""

    def __init__(self) -> None:
        self._engine = InferenceEngine.builder()
        self._has_path = False
        self._adapter: OpenAIAdapter | None = None
        self._servers: list[McpServer] = []
        self._functions: list[Callable[..., Any]] = []

    def model_path(self, path: str | os.PathLike[str]) -> Self:
        """The model to load: what `InferenceEngine.builder().model_path` takes. The session closes it."""
        self._engine.model_path(path)
        self._has_path = True
        return self

    def engine_setting(self, name: str, value: Any) -> Self:
        """A setting of the engine to be built, by the name of its builder's method: `max_batch_size`, `threads` ..."""
        method = None if name.startswith("_") or name in ("build", "model_path") else getattr(self._engine, name, None)
        if method is None:
            raise ConfigError(f"{name!r} is no setting of the engine", field=name, value=value)
        method(value)
        return self

    def adapter(self, adapter: OpenAIAdapter) -> Self:
        """Use the models behind an adapter; it stays its owner's."""
        self._adapter = adapter
        return self

    def add_mcp_server(self, name: str, url: str | None = None, auth: str | None = None, **settings: Any) -> Self:
        """A server; `settings` are fields of `McpServer`: `command`, `args`, `headers`, `timeouts` ..."""
        self._servers.append(McpServer(name=name, url=url, auth=auth, **settings))
        return self

    def mcp_config(self, path: str | os.PathLike[str]) -> Self:
        """The servers of an `mcp.json`."""
        self._servers += read_config(path)
        return self

    def add_tool(self, function: Callable[..., Any]) -> Self:
        """A Python function as a tool: its schema from type hints, its descriptions from the docstring."""
        self._functions.append(function)
        return self

    def build(self) -> ResponsesSession:
        """The session. Loads the model where a path was given; servers are reached when they are first needed."""
        if self._has_path == (self._adapter is not None):
            raise ConfigError("a session needs either a model_path or an adapter", field="model_path")
        toolbox = Toolbox(McpServers(self._servers), self._functions)
        if self._adapter is not None:
            return ResponsesSession(AdapterModel(self._adapter), toolbox)
        engine = self._engine.build()
        adapter = OpenAIAdapter(engine)
        return ResponsesSession(AdapterModel(adapter), toolbox, owned=(adapter, engine))
