"""BoundedProtocol: uvicorn's HTTP/1 with bounds on what comes before an application is asked at all.

uvicorn itself takes headers of any size and for any time, answers what it cannot parse in plain text, and sends
streams in chunks to HTTP/1.0 clients, which do not know chunks. Must not know of applications.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from candle_vllm.openai import ApiError

__all__ = ["BoundedProtocol"]

_BAD_REQUEST = ApiError("The request is not valid HTTP.", code="invalid_http")
_HEADERS_TOO_LARGE = ApiError("The headers of the request are too large.", code="request_headers_too_large", status=431)
_URL_TOO_LONG = ApiError("The URL of the request is too long.", code="url_too_long", status=414)
_TOO_SLOW = ApiError("The request came too slowly.", code="request_timeout", status=408)
_TOO_MANY = ApiError(
    "The server is busy: too many connections. Try again later.",
    code="too_many_connections",
    status=503,
    type="server_busy",
    retry_after=1,
    extra={"queued": False},
)
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A subclass may set other bounds."""

    max_connections = 8192
    """Connections at one moment."""
    url_bytes = 16 * 1024
    header_count = 200
    """Trailers included. Twice what an application refuses in its own way."""
    header_bytes = 64 * 1024
    """Of all headers and trailers of one message."""
    header_seconds = 20.0
    """From the first byte of a message, or of the connection, to the end of its headers."""
    linger_bytes = 64 * 1024 * 1024
    """What is read and dropped of a body after its reply, so that a client may see the reply."""
    linger_seconds = 10.0
    unread_seconds = 60.0
    """How long a client may leave unread what it was sent. Until then its request keeps its model from a switch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._problem = _BAD_REQUEST
        self._in_head = True
        self._in_message = False
        self._headers_seen = 0
        self._header_bytes = 0
        self._unheard = 0
        self._dropped = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one too many; give others a while to begin."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._close_with(_TOO_MANY)
            return
        self._arm(self.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._disarm()
        self._read_again()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to, or not at all."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        self._read_again()
        super().resume_writing()

    def _read_again(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        """Parse what has come, within bounds."""
        if self.transport.is_closing():
            return
        if self._in_head and self._timer is None:
            self._arm(self.header_seconds)
        self._unheard += len(data)
        super().data_received(data)
        # The parser keeps a header in pieces to itself until it is whole.
        if self._unheard > self.header_bytes and not self.transport.is_closing():
            self._problem = _HEADERS_TOO_LARGE
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, where a reply to it has not begun, and close."""
        self._close_with(self._problem)

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = self._in_message = True
        self._headers_seen = self._header_bytes = self._dropped = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the URL."""
        if len(self.url) + len(url) > self.url_bytes:
            self._problem = _URL_TOO_LONG
            raise ValueError("the URL is too long")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which no one reads: it must not look like a header."""
        self._unheard = 0
        self._headers_seen += 1
        self._header_bytes += len(name) + len(value)
        if self._headers_seen > self.header_count or self._header_bytes > self.header_bytes:
            self._problem = _HEADERS_TOO_LARGE
            raise ValueError("the headers are too large")
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The application is asked."""
        self._in_head, self._unheard = False, 0
        self._disarm()
        super().on_headers_complete()
        if not self._upgrading and self.cycle.scope["http_version"] == "1.0":
            # uvicorn makes the cycle itself; its class is the one place where its way of writing can be changed.
            self.cycle.__class__ = UnframedCycle

    def on_chunk_header(self) -> None:
        """A chunk of a body begins."""
        self._unheard = 0

    def on_body(self, body: bytes) -> None:
        """A piece of the body, for the application or for no one."""
        self._unheard = 0
        if not self._upgrading and self.cycle.response_complete:
            self._dropped += len(body)
            if self._dropped > self.linger_bytes:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come whole."""
        self._in_head, self._in_message, self._unheard = True, False, 0
        self._disarm()
        if not self._upgrading and self.cycle.response_complete:
            # uvicorn's own timer for this ended when the rest of the body came.
            self._arm(self.timeout_keep_alive)
        super().on_message_complete()

    @property
    def _upgrading(self) -> bool:
        """Whether the request asks for a web socket, where there are such.

        It has no cycle, and once it is read the connection is another protocol's.
        """
        return self.parser.should_upgrade() and self._should_upgrade()

    def on_response_complete(self) -> None:
        """The reply is sent; what still comes of the request may take a while at most."""
        super().on_response_complete()
        if self._in_message and not self._in_head:
            self._arm(self.linger_seconds)

    # The timer

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._in_message and self._in_head:
            self._close_with(_TOO_SLOW)
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _close_with(self, error: ApiError) -> None:
        self._disarm()
        replying = self.cycle is not None and not self.cycle.response_complete
        if not (replying and self.cycle.response_started) and not self.transport.is_closing():
            self.transport.write(_reply(error))
        self.transport.close()


class UnframedCycle(RequestResponseCycle):
    """A reply to an HTTP/1.0 client: without a known length it ends where the connection does."""

    _endless = False

    async def send(self, message: Any) -> None:
        """Send a message of the reply."""
        if message["type"] == "http.response.start":
            if all(name.lower() != b"content-length" for name, _ in message.get("headers", ())):
                self.chunked_encoding = False
                self._endless = True
        elif self._endless:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


def _reply(error: ApiError) -> bytes:
    body = json.dumps(error.envelope()).encode()
    retry = f"retry-after: {error.retry_after}\r\n" if error.retry_after is not None else ""
    head = (
        f"HTTP/1.1 {error.status} {_REASONS[error.status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
