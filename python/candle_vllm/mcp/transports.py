"""The ways to reach a server, each a transport of the protocol's library with this package's bounds around it.

Must not know of sessions or tools.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self

import httpx2
from mcp.client._transport import ReadStream, TransportStreams
from mcp.client.sse import sse_client
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client
from mcp.shared.message import SessionMessage

from candle_vllm.mcp.config import McpServer
from candle_vllm.mcp.stdio import stdio_transport

__all__ = ["Ending", "Way", "open_transport", "ways"]

Incoming = SessionMessage | Exception

Way = tuple[Literal["stdio", "http", "sse"], Literal["auto", "legacy"]]
"""A transport and how the session on it begins: by asking for the newest protocol first, or by the old handshake."""

_SILENCE = 300.0
"""Seconds without a byte after which an HTTP stream counts as broken."""
_FAREWELL = 2.0


def ways(server: McpServer) -> tuple[Way, ...]:
    """How to try to reach a server, in order: old programs die of the modern question, old addresses speak SSE."""
    if server.command is not None:
        return ("stdio", "auto"), ("stdio", "legacy")
    if server.transport is not None:
        return (("sse", "legacy"),) if server.transport == "sse" else (("http", "auto"),)
    path = (server.url or "").partition("?")[0].rstrip("/")
    http: Way = ("http", "auto")
    sse: Way = ("sse", "legacy")
    return (sse, http) if path.endswith("/sse") else (http, sse)


class Ending:
    """Whether a connection is over, and why. `expired`: the server has said that it does not know the session."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.over = False
        self.reason: str | None = None
        self.expired = False
        self._wake = wake

    def end(self, reason: str | None = None) -> None:
        """It is over; the first reason that was given counts."""
        self.over = True
        self.reason = self.reason or reason
        self._wake()


@asynccontextmanager
async def open_transport(
    server: McpServer, way: Way, ending: Ending, http_auth: httpx2.Auth | None = None
) -> AsyncGenerator[TransportStreams, None]:
    """The streams of a connection; `http_auth` authorizes its requests beside the server's own headers."""
    kind = way[0]
    if kind == "stdio":
        async with stdio_transport(server, ending.end) as (read, write):
            yield _Watched(read, ending), write
    elif kind == "sse":
        assert server.url is not None
        limits = server.timeouts
        async with sse_client(
            server.url,
            headers=server.sent_headers,
            timeout=limits.connect,
            sse_read_timeout=max(_SILENCE, limits.call),
            httpx_client_factory=lambda headers=None, timeout=None, auth=None: _http_client(server, ending, http_auth),
        ) as (read, write):
            yield _Watched(read, ending), write
    else:
        assert server.url is not None
        async with (
            _http_client(server, ending, http_auth) as client,
            streamable_http_client(server.url, http_client=client, max_sse_event_size=server.limits.message_bytes) as (
                read,
                write,
            ),
        ):
            yield _Watched(read, ending), write


def _http_client(server: McpServer, ending: Ending, http_auth: httpx2.Auth | None) -> httpx2.AsyncClient:
    """A client that sends the server's headers, and reads no answer beyond the server's limit."""

    async def bounded(response: httpx2.Response) -> None:
        if response.status_code == 404 and MCP_SESSION_ID in response.request.headers:
            ending.expired = True
        kind = response.headers.get("content-type", "").lower()
        if not kind.startswith("text/event-stream"):
            # The events of a stream are bounded one by one.
            response.stream = _Bounded(response.stream, server.limits.message_bytes)

    async def brief(request: httpx2.Request) -> None:
        if request.method == "DELETE":
            # The farewell to a session; nobody waits long for its answer.
            request.extensions["timeout"] = httpx2.Timeout(_FAREWELL).as_dict()

    return httpx2.AsyncClient(
        headers=server.sent_headers,
        auth=http_auth,
        timeout=httpx2.Timeout(server.timeouts.connect, read=max(_SILENCE, server.timeouts.call)),
        event_hooks={"request": [brief], "response": [bounded]},
    )


class _Bounded(httpx2.AsyncByteStream):
    """The body of an answer, up to a number of bytes."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream = stream
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise httpx2.StreamError(f"the answer is above {self._most} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Watched:
    """A stream of messages that tells when it ends."""

    def __init__(self, stream: ReadStream[Incoming], ending: Ending) -> None:
        self._stream = stream
        self._ending = ending

    @property
    def last_context(self) -> Any:
        """What the library carries beside each message."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Incoming:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Incoming:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._ending.end()
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stream.__aexit__(kind, error, trace)
