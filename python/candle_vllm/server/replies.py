"""Replies: JSON, the error envelope and server-sent events; and the watch for clients that go away.

Must not know of endpoints or models.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from candle_vllm.openai.errors import ApiError, api_error
from candle_vllm.openai.json_chunks import JsonChunks

logger = logging.getLogger("candle_vllm.server")

ResultT = TypeVar("ResultT")


class ClientGoneError(Exception):
    """The client closed its connection; no one reads a reply."""


def json_reply(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply whose body is this JSON text."""
    return Response(text, status, headers, media_type="application/json")


def error_reply(error: BaseException, headers: dict[str, str] | None = None) -> Response:
    """OpenAI's envelope of any error. What is a fault of this program is logged with its trace."""
    known = api_error(error)
    if known.status >= 500 and not isinstance(error, ApiError):
        logger.error("request failed: %s", error, exc_info=error if known.status == 500 else None)
    all_headers = dict(headers or {})
    if known.retry_after is not None:
        all_headers["retry-after"] = str(known.retry_after)
    return json_reply(json.dumps(known.envelope()), known.status, all_headers)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of ``work``, which is cancelled when the client closes its connection (:class:`ClientGoneError`).

    To be called when the request's body has been read.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    except asyncio.CancelledError:
        # What had just been opened would be lost on the way out.
        if task.done() and not task.cancelled() and not task.exception():
            await _close(task.result())
        raise
    finally:
        await _end(task)
        await _end(watch)


async def _close(result: object) -> None:
    if isinstance(result, JsonChunks):
        await result.aclose()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and see it through, whatever it raises."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


class EventStream(Response):
    """Chunks as server-sent events, each sent when it is there; ends with ``[DONE]``.

    The chunks are closed, and with them their work, however the reply ends: when it is complete, when the client
    goes away, when the server stops. An error that comes after the first byte is sent as an event of its own.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: JsonChunks) -> None:
        self._chunks = chunks
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        # A stream has no length; Response has set that of an empty body.
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply."""
        try:
            await unless_gone(receive, self._pump(send))
        except (ClientGoneError, OSError):
            logger.debug("client left %s before its stream ended", scope["path"])
        finally:
            await self._chunks.aclose()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for text in self._chunks:
                await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
            last = b"data: [DONE]\n\n"
        except OSError:
            raise
        except Exception as error:
            known = api_error(error)
            if known.status == 500:
                logger.error("stream failed: %s", error, exc_info=error)
            last = b"data: " + json.dumps(known.envelope()).encode() + b"\n\ndata: [DONE]\n\n"
        await send({"type": "http.response.body", "body": last, "more_body": False})
