"""The OpenAPI document: bodies and replies of the table's endpoints, which read and write by themselves.

Must not know how requests are answered.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from candle_vllm.openai import ApiError
from candle_vllm.openai.endpoint import AnyEndpoint, AnyQuery, Query

__all__ = ["describe", "version"]

_COMPONENT = "#/components/schemas/{model}"


def version() -> str:
    """The package's version."""
    try:
        return importlib.metadata.version("candle-vllm")
    except importlib.metadata.PackageNotFoundError:
        return "0"


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    """The request's field at fault."""
    code: str | None
    queued: bool | None = None
    """With `server_busy`: whether the request had waited."""


class ErrorEnvelope(BaseModel):
    """The reply to a request that is refused or fails."""

    error: ErrorDetail


def describe(app: FastAPI, endpoints: Sequence[AnyEndpoint], queries: Sequence[AnyQuery]) -> None:
    """Have the application's document tell the bodies, replies and errors of these rows."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, endpoints, queries)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, endpoints: Sequence[AnyEndpoint], queries: Sequence[AnyQuery]) -> dict[str, Any]:
    rows: list[AnyEndpoint | AnyQuery] = [*endpoints, *queries]
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    refs, schemas = models_json_schema(
        [
            (ErrorEnvelope, "serialization"),
            *{(row.request, "validation"): None for row in rows},
            *{(row.reply, "serialization"): None for row in rows},
            *{(endpoint.chunk, "serialization"): None for endpoint in endpoints},
        ],
        ref_template=_COMPONENT,
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas.get("$defs", {}))
    for row in rows:
        method = row.method.lower() if isinstance(row, Query) else "post"
        operation = document["paths"][row.path][method]
        if method == "post":
            body = {"application/json": {"schema": refs[row.request, "validation"]}}
            operation["requestBody"] = {"required": True, "content": body}
        content = {"application/json": {"schema": refs[row.reply, "serialization"]}}
        operation["responses"]["200"] = {"description": "The whole reply.", "content": content}
    for endpoint in endpoints:
        answer = document["paths"][endpoint.path]["post"]["responses"]["200"]
        answer["description"] = "The whole reply, or with 'stream' its chunks."
        answer["content"][_MEDIA[endpoint.framing]] = _streamed(endpoint, refs[endpoint.chunk, "serialization"])
    usual = refs[ErrorEnvelope, "serialization"]
    others = {row.path: row.envelope for row in rows if row.envelope is not ApiError.envelope}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            told = _shape_of(others[path](ApiError("why"))) if path in others else usual
            for status in _refusals(path, method):
                reply = {"description": _REFUSALS[status], "content": {"application/json": {"schema": told}}}
                operation["responses"].setdefault(str(status), reply)
    return document


def _streamed(endpoint: AnyEndpoint, chunk: Mapping[str, Any]) -> dict[str, Any]:
    """A stream's items, in the words of OpenAPI 3.2; older readers take the stream for text."""
    if endpoint.framing == "lines":
        return {"itemSchema": chunk}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": chunk}
    properties = {"event": {"type": "string"}, "data": data}
    return {"itemSchema": {"type": "object", "properties": properties, "required": ["data"]}}


def _shape_of(told: dict[str, Any]) -> dict[str, Any]:
    """The schema of an error as another API tells it, from one that was told."""
    properties = {
        name: _shape_of(value) if isinstance(value, dict) else {"type": "string"} for name, value in told.items()
    }
    return {"type": "object", "properties": properties, "required": list(told)}


_REFUSALS = {
    400: "The request is not what was documented; the envelope says where.",
    401: "It needs an API key, or came with a wrong one.",
    404: "There is no such model.",
    408: "Its body came too slowly.",
    409: "A switch to another model is under way.",
    413: "Its body is too large.",
    415: "Its body is not said to be JSON.",
    421: "It names a host for which the server does not answer.",
    429: "Its caller has asked too often, or for too much at once.",
    431: "Its headers are too many or too large.",
    500: "A fault of the server.",
    503: "Busy, or without a model; with the header Retry-After where it helps to come again.",
}


def _refusals(path: str, method: str) -> list[int]:
    """The statuses with which an operation may be refused."""
    statuses = {400, 401, 421, 429, 431, 500, 503}
    if method == "post":
        statuses |= {404, 408, 413, 415}
    if "{" in path:
        statuses.add(404)
    if path == "/v1/models/select":
        statuses.add(409)
    return sorted(statuses)


_MEDIA = {"data": "text/event-stream", "events": "text/event-stream", "lines": "application/x-ndjson"}
