"""Uploads: a request's whole body, received within bounds of size, time and memory before anything reads it.

Must not know of endpoints or of what bodies mean.
"""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from candle_vllm.openai import ApiError
from candle_vllm.server.json_shape import check_shape
from candle_vllm.server.limits import Limits

__all__ = ["Uploads", "has_body"]


def has_body(scope: Scope) -> bool:
    """Whether the headers announce a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" 0"))
        for name, value in scope["headers"]
    )


class Uploads:
    """The bodies that are being received. To be used from one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    async def receive(self, scope: Scope, receive: Receive) -> tuple[bytes, Receive]:
        """The body, and a `receive` that gives it to the application as one message.

        Raises ApiError 413 when it is too large, 408 when it comes too slowly, 400 when its shape is out of bounds,
        503 when all bodies together take too much; ClientDisconnect when the client leaves.
        """
        for name, value in scope["headers"]:
            if (
                name == b"content-length"
                and value.isdigit()
                and (len(value) > 15 or int(value) > self._limits.body_bytes)
            ):
                raise self._too_large()
        body = await self._read(receive)
        await check_shape(body, self._limits.shape)
        return body, _replayed(body, receive)

    async def _read(self, receive: Receive) -> bytes:
        limits, parts, size = self._limits, list[bytes](), 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout_at(began + limits.body_grace) as deadline:
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part, more = message.get("body", b""), message.get("more_body", False)
                    parts.append(part)
                    size += len(part)
                    self._held += len(part)
                    if size > limits.body_bytes:
                        raise self._too_large()
                    if self._held > limits.upload_bytes:
                        raise _busy()
                    deadline.reschedule(began + limits.body_grace + size / limits.body_rate)
        except TimeoutError:
            raise ApiError("The body of your request came too slowly.", code="request_timeout", status=408) from None
        finally:
            self._held -= size
        return b"".join(parts)

    def _exceeds(self, length: bytes) -> bool:
        return length.isdigit() and (len(length) > 15 or int(length) > self._limits.body_bytes)

    def _too_large(self) -> ApiError:
        return ApiError(
            f"The body of your request is above {self._limits.body_bytes} bytes.", code="request_too_large", status=413
        )


def _busy() -> ApiError:
    return ApiError(
        "The server is busy: too many large requests arrive at once. Try again later.",
        code="too_many_requests",
        status=503,
        type="server_busy",
        retry_after=1,
        extra={"queued": False},
    )


def _replayed(body: bytes, receive: Receive) -> Receive:
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return given.pop() if given else await receive()

    return next_message
