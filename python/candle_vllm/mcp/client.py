"""McpClient: one MCP server, its tools and calls of them.

Whatever a server does, a call ends in a typed result within its time; only listing tools raises. Must not know of
models or conversations.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from candle_vllm.errors import McpConnectionError
from candle_vllm.mcp.config import McpServer
from candle_vllm.mcp.owner import Held, Hooks, Owner, State, cause_of
from candle_vllm.mcp.results import ToolResult, text_of
from candle_vllm.mcp.schemas import checker, fitted, resolved

if TYPE_CHECKING:
    import httpx2
    import mcp_types as types
    from mcp.client.session import ElicitationFnT

__all__ = ["McpClient", "McpTool"]

_log = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")

Elicit = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""From a server's question and the schema of the answer to the answer; what it leaves out takes the schema's defaults.
None declines."""

_MOST_DESCRIPTION = 4096
_REFRESH_PAUSE = 1.0
"""Seconds between two readings of a list that its server says has changed: some say so all the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpTool:
    """One tool of a server."""

    server: str
    name: str
    """As the server calls it."""
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of its arguments, local references resolved."""
    schema: Mapping[str, Any] = field(repr=False)
    """The schema as the server wrote it."""
    valid: Callable[[Any], str | None] = field(repr=False, compare=False)
    """What is wrong with arguments exactly as they are; None = nothing."""
    valid_result: Callable[[Any], str | None] | None = field(repr=False, compare=False)
    """The same for the structured content of results, where the server has a schema of it."""

    def fit(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """Arguments as they are sent, without nulls that mean nothing, and what is wrong with them."""
        return fitted(dict(arguments), self.parameters, self.valid)


class McpClient:
    """A client of one server: ``McpClient(McpServer(name="time", command="mcp-server-time"))``.

    ``async with`` connects and closes it; without that, the first call connects, and ``aclose`` closes. The session
    lives on the event loop of its first use; calls from other loops are handed over to it. A server that ends is
    started again by the next call; a call that may have run is never repeated.

    ``elicit`` answers what a server asks its user during a call; without it servers are told that nobody answers.
    ``http_auth`` authorizes requests beside the server's own headers, as the SDK's OAuth providers do.
    """

    def __init__(
        self, server: McpServer, *, elicit: Elicit | None = None, http_auth: httpx2.Auth | None = None
    ) -> None:
        self.server = server
        self._hooks = Hooks(self._heard, self._watch, elicit and _asking(elicit), http_auth)
        self._lock = threading.Lock()
        self._home: tuple[asyncio.AbstractEventLoop, Owner] | None = None
        self._tools: tuple[McpTool, ...] | None = None
        self._listing: asyncio.Task[tuple[McpTool, ...]] | None = None
        self._stale = False
        self._listed_at = 0.0
        self._closed = False

    @classmethod
    def http(cls, url: str, *, name: str = "server", auth: str | None = None, **settings: Any) -> Self:
        """A client of the server at an address; `settings` are fields of `McpServer`."""
        return cls(McpServer(name=name, url=url, auth=auth, **settings))

    @classmethod
    def stdio(cls, command: str, *args: str, name: str = "server", **settings: Any) -> Self:
        """A client of a server that is a program to start."""
        return cls(McpServer(name=name, command=command, args=args, **settings))

    @property
    def state(self) -> State:
        """What the connection is doing."""
        return "closed" if self._closed else self._home[1].state if self._home else "idle"

    @property
    def problem(self) -> str | None:
        """Why the server is not there, where it is not."""
        return self._home[1].problem if self._home else None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def connect(self) -> None:
        """Connect now. Raises McpConnectionError where the server cannot be reached or does not speak the protocol."""
        await self._at_home(self._connect)

    async def aclose(self) -> None:
        """End the session, and with it the server's processes. Calls under way end in errors."""
        self._closed = True
        home = self._home
        if home is not None and not home[0].is_closed():
            await self._at_home(home[1].close, closing=True)

    async def list_tools(self, *, refresh: bool = False) -> Sequence[McpTool]:
        """The server's tools; asked for once, and again after the server says that they changed, or for `refresh`.

        Raises McpConnectionError.
        """
        return await self._at_home(lambda: self._listed(refresh))

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> ToolResult:
        """Call a tool; whatever goes wrong is in the result. `timeout`: seconds, the server's own unless given."""
        limit = self.server.timeouts.call if timeout is None else timeout
        try:
            return await self._at_home(lambda: self._called(name, dict(arguments or {}), limit))
        except McpConnectionError as error:
            return ToolResult.failed("connection", str(error))

    # Work on the loop where the session lives.

    async def _at_home(self, work: Callable[[], Coroutine[Any, Any, ResultT]], *, closing: bool = False) -> ResultT:
        if self._closed and not closing:
            raise McpConnectionError(f"MCP server {self.server.name!r}: the client is closed")
        here = asyncio.get_running_loop()
        with self._lock:
            if self._home is None or self._home[0].is_closed():
                self._home = here, Owner(self.server, self._hooks)
                self._listing = None
            loop = self._home[0]
        if loop is here:
            return await work()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), loop))

    @property
    def _owner(self) -> Owner:
        assert self._home is not None
        return self._home[1]

    async def _connect(self) -> None:
        async with self._owner.session():
            pass

    async def _listed(self, refresh: bool) -> tuple[McpTool, ...]:
        loop = asyncio.get_running_loop()
        due = self._stale and loop.time() - self._listed_at >= _REFRESH_PAUSE
        if self._tools is not None and not refresh and not due:
            return self._tools
        if self._listing is None or self._listing.done():
            self._stale = False
            self._listing = asyncio.create_task(self._list())
            # Those who asked may all have gone when it fails.
            self._listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Shared by all who ask meanwhile; one that gives up does not end it for the others.
        self._tools = await asyncio.shield(self._listing)
        self._listed_at = loop.time()
        return self._tools

    async def _list(self) -> tuple[McpTool, ...]:
        limit = self.server.timeouts.call
        try:
            async with self._owner.session() as held, asyncio.timeout(limit):
                found = await self._pages(held)
                held.succeeded = True
        except TimeoutError:
            raise McpConnectionError(
                f"MCP server {self.server.name!r}: its tools were not listed within {limit:g} s"
            ) from None
        except McpConnectionError:
            raise
        except (Exception, BaseExceptionGroup) as error:
            raise McpConnectionError(
                f"MCP server {self.server.name!r}: its tools cannot be listed: {cause_of(error)}"
            ) from error
        return tuple(found.values())

    async def _pages(self, held: Held) -> dict[str, McpTool]:
        """The tools by name, page after page, within the limits on both."""
        found: dict[str, McpTool] = {}
        limits = self.server.limits
        capabilities = held.client.server_capabilities
        if capabilities is not None and capabilities.tools is None and held.client.session.initialize_result:
            return found
        cursor: str | None = None
        for _ in range(limits.pages):
            page = await held.client.list_tools(cursor=cursor)
            listed = page.tools[: limits.tools - len(found)]
            # In a thread, for a page may hold megabytes of schemas.
            for tool in await asyncio.to_thread(lambda given: [_tool(self.server, each) for each in given], listed):
                if tool is not None:
                    found.setdefault(tool.name, tool)
            if page.next_cursor is None or page.next_cursor == cursor or len(found) >= limits.tools:
                return found
            cursor = page.next_cursor
        _log.warning("MCP server %r lists its tools on more than %d pages", self.server.name, limits.pages)
        return found

    async def _called(self, name: str, arguments: dict[str, Any], limit: float) -> ToolResult:
        found = await self._found(name)
        if isinstance(found, ToolResult):
            return found
        arguments, wrong = found.fit(arguments)
        if wrong is not None:
            return ToolResult.failed("invalid_arguments", f"wrong arguments: {wrong}")
        result = await self._sent(found, arguments, limit)
        if result is None:
            # The server knew nothing of the session, so it ran nothing: once more, on a new one.
            result = await self._sent(found, arguments, limit)
        return result or ToolResult.failed("connection", f"{self._who} ends each session at once")

    async def _found(self, name: str) -> McpTool | ToolResult:
        """The tool of a name, or why it cannot be called."""
        for tool in await self._listed(refresh=False):
            if tool.name == name:
                return tool
        return ToolResult.failed("unknown_tool", f"{self._who} has no tool {name[:200]!r}")

    async def _sent(self, tool: McpTool, arguments: dict[str, Any], limit: float) -> ToolResult | None:
        """The result of a call; None where the server has certainly not run it."""
        name = tool.name
        async with self._owner.session() as held:
            try:
                async with asyncio.timeout(limit):
                    result = await held.client.call_tool(name, arguments, read_timeout_seconds=limit)
            except TimeoutError:
                return self._timeout(name, limit)
            except (Exception, BaseExceptionGroup) as error:
                return await self._failure(held, name, limit, error)
            held.succeeded = True
            return self._read(tool, result)

    def _timeout(self, name: str, limit: float) -> ToolResult:
        return ToolResult.failed("timeout", f"{name!r} gave no result within {limit:g} s; it may still have run")

    async def _failure(self, held: Held, name: str, limit: float, error: BaseException) -> ToolResult | None:
        from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST, REQUEST_TIMEOUT

        code = getattr(error, "code", None)
        if code == REQUEST_TIMEOUT:
            return self._timeout(name, limit)
        if code == INVALID_REQUEST and held.ending.expired and str(error) == _SESSION_GONE:
            held.ending.end("its session was gone")
            return None
        if code == CONNECTION_CLOSED or held.ending.over:
            # Its owner hears of the reason a moment later.
            await asyncio.sleep(0)
            why = held.ending.reason or cause_of(error)
            return ToolResult.failed(
                "connection",
                f"{self._who} went away during the call ({why}); the call may have run, and is not repeated",
            )
        if isinstance(code, int):
            held.succeeded = True
            return ToolResult.failed("protocol_error", f"{self._who} answered: {cause_of(error)}")
        return ToolResult.failed("invalid_result", f"{self._who} gave no valid result: {cause_of(error)}")

    def _read(self, tool: McpTool, result: types.CallToolResult) -> ToolResult:
        wrong = None
        if tool.valid_result is not None and not result.is_error:
            given = "structured_content" in result.model_fields_set
            wrong = tool.valid_result(result.structured_content) if given else "it has no structured content"
        if wrong is not None:
            return ToolResult.failed("invalid_result", f"{self._who} gave no valid result: structured content: {wrong}")
        content = tuple(block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content)
        text = text_of(content, result.structured_content, self.server.limits.result_chars)
        return ToolResult(
            text=f"Error: {text}" if result.is_error else text,
            outcome="tool_error" if result.is_error else "ok",
            structured=result.structured_content,
            content=content,
        )

    @property
    def _who(self) -> str:
        return f"MCP server {self.server.name!r}"

    async def _heard(self, message: Any) -> None:
        """A notification: of its tools having changed this client takes note."""
        if getattr(message, "method", None) == _TOOLS_CHANGED:
            self._stale = True

    async def _watch(self, held: Held) -> None:
        """Ask a server of the newest protocol to tell of changes; older ones do so unasked."""
        from mcp.types.version import MODERN_PROTOCOL_VERSIONS

        capabilities = held.client.server_capabilities
        tells = capabilities is not None and capabilities.tools is not None and capabilities.tools.list_changed
        if not tells or held.client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return
        try:
            async with held.client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._stale = True
        except Exception as error:
            # Without news the list is as it was read.
            _log.debug("%s tells no changes: %s", self._who, cause_of(error))


_SESSION_GONE = "Session terminated"
"""The library's words for a session that its server answers with 404."""
_TOOLS_CHANGED = "notifications/tools/list_changed"


def _asking(elicit: Elicit) -> ElicitationFnT:
    """The hook as the library calls it."""

    async def ask(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        from mcp.types import ElicitRequestFormParams, ElicitResult

        if not isinstance(params, ElicitRequestFormParams):
            return ElicitResult(action="decline")
        given = await elicit(params.message, params.requested_schema)
        if given is None:
            return ElicitResult(action="decline")
        asked = params.requested_schema.get("properties", {})
        defaults = {name: each["default"] for name, each in asked.items() if "default" in each}
        return ElicitResult(action="accept", content=defaults | dict(given))

    return ask


def _tool(server: McpServer, tool: types.Tool) -> McpTool | None:
    """A tool as it was listed; None for one that no model could be shown."""
    parameters = {"type": "object", **resolved(tool.input_schema)}
    if len(json.dumps(parameters)) > server.limits.schema_chars:
        _log.warning("MCP server %r: the schema of its tool %.100r is too long to be shown", server.name, tool.name)
        return None
    return McpTool(
        server=server.name,
        name=tool.name,
        description=(tool.description or tool.title or "")[:_MOST_DESCRIPTION],
        parameters=parameters,
        schema=tool.input_schema,
        valid=checker(parameters),
        valid_result=None if tool.output_schema is None else checker(resolved(tool.output_schema)),
    )
