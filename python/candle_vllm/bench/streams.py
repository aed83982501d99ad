"""Server-sent events over HTTP/1.1, with as little work for each as there can be.

The client may share the cores of the server that it measures. Connections are kept and used again.
Must not know of what the events hold.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

__all__ = ["EventSource", "StreamError"]

_LONGEST_LINE = 1 << 20
_MOST_SAID = 600
"""Bytes kept of an answer that is no stream."""


class StreamError(Exception):
    """What came is no answer in HTTP/1.1."""


class EventSource:
    """One server. ``headers`` go with every request."""

    def __init__(self, base: str, headers: dict[str, str]) -> None:
        parts = urlsplit(base)
        if not parts.hostname:
            raise StreamError(f"{base} names no host")
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        sent = {
            "Host": parts.netloc.rpartition("@")[2],
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            **headers,
        }
        for name, value in sent.items():
            if not value.isascii() or not value.isprintable():
                raise StreamError(f"the header {name} holds what HTTP does not take")
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def post(self, path: str, body: bytes, take: Callable[[bytes], bool]) -> tuple[int, bytes]:
        """Send ``body`` to ``path`` and hand the data of each event to ``take`` until it returns True or all is read.

        Returns the status, and the beginning of the answer where it is not 200. Raises OSError, StreamError and what
        ``take`` raises; the connection is closed then, and when the task is cancelled.
        """
        head = f"POST {self._path}{path} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n"
        connection = await self._connection()
        try:
            found = await connection.exchange(head.encode() + body, take)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return found

    async def close(self) -> None:
        """Close all connections, and wait until they are."""
        for connection in self._open:
            connection.close()
        await asyncio.gather(*(connection.lost for connection in self._open))

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        loop = asyncio.get_running_loop()
        name = self._host if self._tls else None
        _, made = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls, server_hostname=name)
        self._open.add(made)
        made.lost.add_done_callback(lambda lost: self._open.discard(made))
        return made


class _Connection(asyncio.Protocol):
    """One exchange after the other: all that has arrived is read in one go, without waking a task for each event."""

    def __init__(self) -> None:
        self.reusable = False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._ended: asyncio.Future[tuple[int, bytes]] | None = None
        self._take: Callable[[bytes], bool] = lambda data: True
        self._read: Callable[[], bool] = self._head
        self._raw = b""
        self._line = b""
        self._said = b""
        self._status = 0
        # Bytes of the body or of its chunk that are missing; None = until the connection closes.
        self._left: int | None = None
        self._chunked = False
        self._keep = False

    async def exchange(self, request: bytes, take: Callable[[bytes], bool]) -> tuple[int, bytes]:
        """As `EventSource.post`."""
        assert self._transport is not None
        self.reusable = False
        self._take, self._read = take, self._head
        self._raw = self._line = self._said = b""
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._ended

    def close(self) -> None:
        """Drop it."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        # No isinstance: uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.reusable = False
        self.lost.set_result(None)
        if self._read == self._body and self._left is None and error is None:
            self._end()
        else:
            self._fail(error or ConnectionResetError("the server closed the connection before its answer was complete"))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._raw = self._raw + data if self._raw else data
        try:
            while self._raw and self._read():
                pass
        except Exception as error:
            self._fail(error)
            self.close()

    def _head(self) -> bool:
        head, found, rest = self._raw.partition(b"\r\n\r\n")
        if not found:
            if len(head) > _LONGEST_LINE:
                raise StreamError("the head of the answer is longer than 1 MB")
            return False
        self._raw = rest
        first, *lines = head.split(b"\r\n")
        words = first.split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise StreamError(f"the answer is not HTTP/1.1: {first[:80]!r}")
        self._status = int(words[1])
        if 100 <= self._status < 200:
            return True
        pairs = (line.partition(b":")[::2] for line in lines)
        fields = {name.strip().lower(): value.strip().lower() for name, value in pairs}
        self._keep = words[0] == b"HTTP/1.1" and fields.get(b"connection") != b"close"
        self._chunked = fields.get(b"transfer-encoding") == b"chunked"
        length = fields.get(b"content-length", b"")
        self._left = int(length) if length.isdigit() else None
        self._read = self._size if self._chunked else self._body
        if self._left == 0 and not self._chunked:
            self._finish()
        return True

    def _size(self) -> bool:
        line, found, rest = self._raw.partition(b"\r\n")
        if not found:
            return False
        self._raw = rest
        if not line:
            # The end of the chunk before.
            return True
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise StreamError(f"{line[:20]!r} is no size of a chunk") from None
        self._read = self._body if self._left else self._trailer
        return True

    def _trailer(self) -> bool:
        line, found, rest = self._raw.partition(b"\r\n")
        if found:
            self._raw = rest
            if not line:
                self._finish()
        return bool(found)

    def _body(self) -> bool:
        data = self._raw if self._left is None else self._raw[: self._left]
        self._raw = self._raw[len(data) :]
        if self._left is not None:
            self._left -= len(data)
        if self._status == 200:
            self._events(data)
        else:
            self._said = (self._said + data)[:_MOST_SAID]
        if self._left == 0:
            if self._chunked:
                self._read = self._size
            else:
                self._finish()
        return True

    def _events(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > _LONGEST_LINE:
            raise StreamError("a line of the stream is longer than 1 MB")
        for line in lines:
            if line.startswith(b"data:") and self._take(line[5:].strip()):
                self._end()

    def _finish(self) -> None:
        """All of the answer was read."""
        self._read = self._idle
        self.reusable = self._keep
        self._end()

    def _idle(self) -> bool:
        raise StreamError("the server sends what nobody asked for")

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result((self._status, self._said))

    def _fail(self, error: Exception) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)
