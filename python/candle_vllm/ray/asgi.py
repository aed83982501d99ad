"""An ASGI request to an application in another process: the door that forwards it, and the end that runs it.

What is between them carries plain values and a stream of lists of ASGI messages. Must not know of Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from candle_vllm.openai import ApiError
from candle_vllm.openai.errors import SERVER_BUSY
from candle_vllm.ray.prefixes import prefix_keys
from candle_vllm.server.replies import error_reply

__all__ = ["Door", "LostError", "run_app"]

logger = logging.getLogger("candle_vllm.ray")

_PLAIN = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path"),
    *("headers", "client", "server"),
)

Messages = list[dict[str, Any]]
Forward = Callable[[Sequence[bytes], dict[str, Any], bytes], AsyncIterator[Messages]]
"""Prefix keys, scope and body to whoever answers; its messages. Raises LostError."""


class LostError(Exception):
    """Whoever was to answer is gone, or nobody is there; the same request may be sent again."""


class Door:
    """The application that clients reach: `forward` takes each request to one of many. Bodies have `most` bytes."""

    def __init__(self, forward: Forward, most: int) -> None:
        self._forward = forward
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive, self._most)
        if body is None:
            large = ApiError(f"The body of your request exceeds {self._most} bytes.", code="body_too_large", status=413)
            await error_reply(large)(scope, receive, send)
            return
        head = {name: scope[name] for name in _PLAIN if name in scope}
        start: Message | None = None
        begun = False
        try:
            async with contextlib.aclosing(
                _flat(self._forward(prefix_keys(scope["path"], body), head, body))
            ) as messages:
                async for message in messages:
                    if message["type"] == "http.response.start":
                        # Not before there is something to say: until then a status can tell that it went wrong.
                        start = _retriable(message)
                        continue
                    if start is not None and not begun:
                        begun = True
                        await send(start)
                    await send(message)
        except LostError as error:
            lost = ApiError(str(error), code="replica_lost", status=503, type=SERVER_BUSY, retry_after=1)
            if begun:
                await send({"type": "http.response.body", "body": _last(start, lost), "more_body": False})
            else:
                await error_reply(lost)(scope, receive, send)


def _retriable(start: Message) -> Message:
    """A 503 says when to send the request again: what failed for good is replaced, or another one answers."""
    headers = list(start.get("headers", ()))
    if start["status"] != 503 or any(name == b"retry-after" for name, _ in headers):
        return start
    return {**start, "headers": [*headers, (b"retry-after", b"1")]}


def _last(start: Message | None, error: ApiError) -> bytes:
    """The end of a stream that broke off, as its clients read it."""
    text = json.dumps(error.envelope())
    kind = dict((start or {}).get("headers", ())).get(b"content-type", b"")
    return f"event: error\ndata: {text}\n\n".encode() if kind.startswith(b"text/event-stream") else f"{text}\n".encode()


async def _flat(stream: AsyncIterator[Messages]) -> AsyncGenerator[Message, None]:
    async for messages in stream:
        for message in messages:
            yield message


async def _body(receive: Receive, most: int) -> bytes | None:
    """All of it; None where there is more than `most`."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def run_app(app: ASGIApp, head: dict[str, Any], body: bytes) -> AsyncGenerator[Messages, None]:
    """Run one request in `app`; what it sends, as much at a time as there is. Closing it ends the request's work."""
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    send: Callable[[Message], Awaitable[None]] = sent.put
    work = asyncio.ensure_future(app({**head}, receive, send))
    work.add_done_callback(lambda _: sent.put_nowait(None))
    try:
        more = True
        while more:
            messages = [await sent.get()]
            while not sent.empty():
                messages.append(sent.get_nowait())
            more = messages[-1] is not None
            if said := [dict(message) for message in messages if message is not None]:
                yield said
        await work
    finally:
        gone.set()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
