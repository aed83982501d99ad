"""Request bodies as typed requests. The boundary has received them and bounded their size and shape.

Must not know of endpoints.
"""

from __future__ import annotations

from typing import TypeVar

import pydantic
from starlette.requests import Request

from candle_vllm.openai import ApiError
from candle_vllm.openai.errors import validation_error
from candle_vllm.openai.unknown import read

__all__ = ["read_typed"]

_LARGE = 64 * 1024
"""Bytes of a body whose wrong values are not shown: to show one costs as much as to parse it."""

ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


async def read_typed(request: Request, kind: type[ModelT], warnings: list[str] | None = None) -> ModelT:
    """The request's JSON body as ``kind``. Raises :class:`ApiError` for whatever is wrong with it.

    Where ``warnings`` is a list, fields that are not known are left out and named there.
    """
    body = await request.body()
    if not body:
        raise ApiError("The body of your request is empty; send a JSON object.", code="empty_body")
    try:
        return read(kind, body, warnings)
    except pydantic.ValidationError as error:
        raise validation_error(error, inputs=len(body) < _LARGE) from error
