"""Request bodies: read with a limit, checked for their type, parsed into typed requests.

Must not know of endpoints.
"""

from __future__ import annotations

from typing import TypeVar

import pydantic
from starlette.requests import Request

from candle_vllm.openai import ApiError
from candle_vllm.openai.errors import validation_error

MAX_BODY_BYTES = 64 * 1024 * 1024
"""More than the longest context of any model has in text."""

ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


async def read_typed(request: Request, kind: type[ModelT], limit: int) -> ModelT:
    """The request's JSON body as ``kind``. Raises :class:`ApiError` for whatever is wrong with it."""
    _check_type(request)
    body = await _read(request, limit)
    if not body:
        raise ApiError("The body of your request is empty; send a JSON object.", code="empty_body")
    try:
        return kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise validation_error(error) from error


def _check_type(request: Request) -> None:
    given = request.headers.get("content-type")
    if given is None:
        return
    media = given.partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise ApiError(
            f"Unsupported content type '{media}'; send 'Content-Type: application/json'.",
            code="unsupported_media_type",
            status=415,
        )


async def _read(request: Request, limit: int) -> bytes:
    too_large = ApiError(f"The body of your request is above {limit} bytes.", code="request_too_large", status=413)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)
