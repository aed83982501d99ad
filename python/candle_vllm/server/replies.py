"""Replies: JSON and the error envelope; and the watch for clients that go away.

Must not know of endpoints or models.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive

from candle_vllm.openai.errors import ApiError, api_error

logger = logging.getLogger("candle_vllm.server")

# nginx's number for "the client closed the connection"; it is never read by anyone.
_CLIENT_CLOSED = 499

ResultT = TypeVar("ResultT")


class ClientGoneError(Exception):
    """The client closed its connection; no one reads a reply."""


def json_reply(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply whose body is this JSON text."""
    return Response(text, status, headers, media_type="application/json")


def error_reply(
    error: BaseException,
    headers: dict[str, str] | None = None,
    envelope: Callable[[ApiError], dict[str, Any]] = ApiError.envelope,
) -> Response:
    """The ``envelope`` of any error. What is a fault of this program is logged with its trace."""
    known = api_error(error)
    if known.status == 500:
        logger.error("request failed: %s", error, exc_info=error.__cause__ or error)
    all_headers = dict(headers or {})
    if known.retry_after is not None:
        all_headers["retry-after"] = str(known.retry_after)
    return json_reply(json.dumps(envelope(known)), known.status, all_headers)


async def answered(
    work: Coroutine[Any, Any, Response], envelope: Callable[[ApiError], dict[str, Any]] = ApiError.envelope
) -> Response:
    """The reply that `work` comes to; an error's `envelope` where it fails."""
    try:
        return await work
    except (ClientGoneError, ClientDisconnect):
        return Response(status_code=_CLIENT_CLOSED)
    except Exception as error:
        return error_reply(error, envelope=envelope)


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
    finally:
        await _end(task)
        await _end(watch)
        # The frame of an error that holds its task keeps all else of that trace, engines too, until a collection.
        del task


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
