"""ChunkStream: a request's chunks as a reply that streams, each sent when it is there.

Must not know of endpoints beyond how their chunks are framed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from candle_vllm.errors import CandleVllmError
from candle_vllm.generation import Event, PromptLogprobs, Started, Status
from candle_vllm.models import WaitStatus
from candle_vllm.openai.adapter import Opened
from candle_vllm.openai.endpoint import AnyEndpoint, Framing, serialised
from candle_vllm.openai.errors import api_error
from candle_vllm.openai.turns import serialised_in_turns
from candle_vllm.server.replies import ClientGoneError, unless_gone

__all__ = ["ChunkStream", "EventStream"]

logger = logging.getLogger("candle_vllm.server")

_SILENCE = 10.0
"""Seconds without a byte after which a comment is sent: proxies cut connections that are silent for longer."""
_STATUS = 1.0
"""Seconds without a byte after which one who waits for the first token hears that it is under way."""


def _data(text: str, kind: str) -> str:
    return f"data: {text}\n\n"


def _named(text: str, kind: str) -> str:
    return f"event: {kind}\ndata: {text}\n\n"


def _line(text: str, kind: str) -> str:
    return text + "\n"


def _kind(chunk: BaseModel) -> str:
    return getattr(chunk, "type", "")


_FRAMES: dict[Framing, tuple[Callable[[str, str], str], str, str]] = {
    "data": (_data, "data: [DONE]\n\n", ": waiting\n\n"),
    "events": (_named, "", ": waiting\n\n"),
    "lines": (_line, "", ""),
}
"""How the JSON text of a chunk of a type, the end, and a sign of life are written."""
_MEDIA_TYPES: dict[Framing, str] = {
    "data": "text/event-stream",
    "events": "text/event-stream",
    "lines": "application/x-ndjson",
}


class ChunkStream(Response):
    """The reply of a request that streams.

    Its work ends however the reply does: when it is complete, when the client goes away, when the server stops. An
    error that comes after the first byte is sent as a chunk of its own. `statuses`: whether chunks tell what the
    request waits for; comments keep the connection alive otherwise.
    """

    def __init__(self, endpoint: AnyEndpoint, opened: Opened[Any, Any], *, statuses: bool = True) -> None:
        self._opened = opened
        self._envelope = endpoint.envelope
        self._frame, self._end, self._comment = _FRAMES[endpoint.framing]
        self._statuses = statuses
        self._quick: Callable[[Event], str | None] = getattr(opened.writer, "quick", lambda event: None)
        self._first: Event | None = None
        self._started: Started | None = None
        self._speaks = False
        self._sent = time.monotonic()
        super().__init__(
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
            media_type=_MEDIA_TYPES[endpoint.framing],
        )
        # A stream has no length; Response has set that of an empty body.
        del self.headers["content-length"]

    async def begun(self, receive: Receive) -> None:
        """Wait for the first event; raises what is wrong with the request, when a status can still say so."""
        try:
            self._first = await unless_gone(receive, anext(self._opened.events))
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End the request's work."""
        await self._opened.events.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply."""
        try:
            await unless_gone(receive, self._pump(send))
        except (ClientGoneError, OSError):
            logger.debug("client left %s before its stream ended", scope["path"])
        finally:
            await self.aclose()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        alive = asyncio.create_task(self._keep_alive(send))
        try:
            if self._first is not None:
                await self._write(send, self._first)
            async for event in self._opened.events:
                self._speaks = self._speaks or not isinstance(event, Status | Started)
                await self._write(send, event)
            last = self._framed(self._opened.writer.closing()) + self._end
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, CandleVllmError):
                # The connection's, not the request's; a timeout of ours is an OSError too.
                raise
            last = self._failure(error)
        finally:
            alive.cancel()
        await send({"type": "http.response.body", "body": last.encode(), "more_body": False})

    async def _write(self, send: Send, event: Event) -> None:
        if type(event) is Started:
            self._started = event
        if (quick := self._quick(event)) is not None:
            body = self._frame(quick, "")
        elif isinstance(event, Status) and not self._statuses:
            return
        elif type(event) is PromptLogprobs:
            told = [(await serialised_in_turns(chunk), _kind(chunk)) for chunk in self._opened.writer.chunks(event)]
            body = "".join([self._frame(text, kind) for text, kind in told])
        else:
            body = self._framed(self._opened.writer.chunks(event))
        if body:
            self._sent = time.monotonic()
            await send({"type": "http.response.body", "body": body.encode(), "more_body": True})

    def _framed(self, chunks: Sequence[BaseModel]) -> str:
        return "".join([self._frame(serialised(chunk), _kind(chunk)) for chunk in chunks])

    def _failure(self, error: Exception) -> str:
        known = api_error(error)
        if known.status == 500:
            logger.error("stream failed: %s", error, exc_info=error)
        failing = getattr(self._opened.writer, "failing", None)
        if failing is not None:
            return self._framed(failing(known)) + self._end
        return self._frame(json.dumps(self._envelope(known)), "error") + self._end

    async def _keep_alive(self, send: Send) -> None:
        """Signs of life wherever there is silence; until the first token the word that the request has its model.

        An answer is silent while the tools run that it called.
        """
        while self._comment:
            tells = self._statuses and self._started is not None and not self._speaks
            silence = _STATUS if tells else _SILENCE
            await asyncio.sleep(max(self._sent + silence - time.monotonic(), 0.05))
            if time.monotonic() - self._sent < silence:
                continue
            if tells and self._started is not None:
                under_way = Status(WaitStatus("processing", 0, self._started.name))
                sign = self._framed(self._opened.writer.chunks(under_way)) or self._comment
            else:
                sign = self._comment
            self._sent = time.monotonic()
            await send({"type": "http.response.body", "body": sign.encode(), "more_body": True})


class EventStream(Response):
    """Events of work that goes on by itself, as a reply: types and JSON texts, sent as named server-sent events.

    A client that leaves ends the reply alone.
    """

    def __init__(self, events: AsyncGenerator[tuple[str, str], None]) -> None:
        self._events = events
        self._sent = time.monotonic()
        super().__init__(
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"}, media_type=_MEDIA_TYPES["events"]
        )
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply."""
        try:
            await unless_gone(receive, self._pump(send))
        except (ClientGoneError, OSError):
            logger.debug("client left %s before its stream ended", scope["path"])
        finally:
            await self._events.aclose()

    async def _pump(self, send: Send) -> None:
        frame, end, comment = _FRAMES["events"]
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        alive = asyncio.create_task(self._keep_alive(send, comment))
        try:
            async for kind, text in self._events:
                self._sent = time.monotonic()
                await send({"type": "http.response.body", "body": frame(text, kind).encode(), "more_body": True})
        finally:
            alive.cancel()
        await send({"type": "http.response.body", "body": end.encode(), "more_body": False})

    async def _keep_alive(self, send: Send, comment: str) -> None:
        while True:
            await asyncio.sleep(max(self._sent + _SILENCE - time.monotonic(), 0.05))
            if time.monotonic() - self._sent >= _SILENCE:
                self._sent = time.monotonic()
                await send({"type": "http.response.body", "body": comment.encode(), "more_body": True})
