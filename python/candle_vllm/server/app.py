"""create_app: the table of endpoints as an ASGI application, to serve or to mount under any path.

Each route reads a typed request, opens it on the adapter and sends what is written; it adds nothing of its own.
Must not know of command lines, nor of how a model is loaded or closed: engine and models belong to the caller.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from candle_vllm.engine import Engine
from candle_vllm.generation import Account
from candle_vllm.models import Models, SamplingDefaults
from candle_vllm.openai import ENDPOINTS, ApiError, Model, ModelList, OpenAIAdapter
from candle_vllm.openai.endpoint import AnyEndpoint, serialised
from candle_vllm.server.bodies import MAX_BODY_BYTES, read_typed
from candle_vllm.server.document import describe, version
from candle_vllm.server.replies import ClientGoneError, error_reply, json_reply, unless_gone
from candle_vllm.server.streams import ChunkStream

__all__ = ["create_app"]

# nginx's number for "the client closed the connection"; it is never read by anyone.
_CLIENT_CLOSED = 499


def create_app(
    served: Engine | Models | OpenAIAdapter,
    *,
    model_names: Sequence[str] | None = None,
    defaults: SamplingDefaults | None = None,
    endpoints: Sequence[AnyEndpoint] = ENDPOINTS,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """An ASGI application for OpenAI's API.

    ``served`` is an engine, models behind leases, or an adapter over either. ``model_names`` (the names that requests
    may use; None: any name) and ``defaults`` are for an engine; an adapter has its own. ``endpoints`` are the rows to
    serve. Mount it with ``app.mount("/any/path", create_app(engine))``.
    """
    if isinstance(served, OpenAIAdapter):
        adapter = served
    else:
        adapter = OpenAIAdapter(served, model_names=model_names, defaults=defaults)
    app = FastAPI(
        title="candle-vllm",
        version=version(),
        summary="OpenAI-compatible inference server",
        # A redirect would lead to http:// behind a proxy that ends TLS.
        redirect_slashes=False,
    )
    app.state.adapter = adapter
    _add_errors(app)
    for endpoint in endpoints:
        _add_endpoint(app, adapter, endpoint, max_body_bytes)
    _add_models(app, adapter)
    describe(app, endpoints)
    return app


def _add_endpoint(app: FastAPI, adapter: OpenAIAdapter, endpoint: AnyEndpoint, limit: int) -> None:
    async def answer(request: Request) -> Response:
        try:
            return await _answer(request, adapter, endpoint, limit)
        except (ClientGoneError, ClientDisconnect):
            return Response(status_code=_CLIENT_CLOSED)
        except Exception as error:
            return error_reply(error)

    _add(app, "POST", endpoint.path, answer, name=endpoint.name)


async def _answer(request: Request, adapter: OpenAIAdapter, endpoint: AnyEndpoint, limit: int) -> Response:
    """One request from its body to its reply; whatever it costs ends when its client goes away."""
    typed = await read_typed(request, endpoint.request, limit)
    account: Account = request.scope.get("candle_vllm.account") or Account()
    if typed.stream:
        stream = ChunkStream(endpoint, adapter.open(endpoint, typed, stream=True, account=account))
        try:
            # Whatever is wrong with the request shows before its first event, when a status can still say so.
            await unless_gone(request.receive, stream.begin())
        except BaseException:
            await stream.aclose()
            raise
        return stream
    reply = await unless_gone(request.receive, adapter.areply(endpoint, typed, account))
    return json_reply(serialised(reply))


def _add_models(app: FastAPI, adapter: OpenAIAdapter) -> None:
    async def list_models(request: Request) -> Response:
        """The served models."""
        return json_reply(adapter.models().model_dump_json())

    async def one_model(request: Request) -> Response:
        """One served model."""
        return json_reply(adapter.model(request.path_params["name"].rstrip("/")).model_dump_json())

    async def health(request: Request) -> Response:
        """Whether requests are answered now (200) or not (503), and the engine's figures."""
        state = _health(adapter.served)
        return json_reply(json.dumps(state), 200 if state["status"] == "ok" else 503)

    _add(app, "GET", "/v1/models", list_models, reply=ModelList)
    _add(app, "GET", "/v1/models/{name:path}", one_model, reply=Model)
    _add(app, "GET", "/health", health)


def _add(
    app: FastAPI,
    method: str,
    path: str,
    answer: Callable[[Request], Awaitable[Response]],
    *,
    name: str | None = None,
    reply: type | None = None,
) -> None:
    """A route that answers with and without a slash at its end; where it answers GET, HEAD too."""
    responses: dict[int | str, dict[str, Any]] = {200: {"model": reply}} if reply else {}
    app.add_api_route(path, answer, methods=[method], name=name, response_model=None, responses=responses)
    unlisted = ["GET", "HEAD"] if method == "GET" else [method]
    for place in (path, path + "/"):
        app.add_api_route(place, answer, methods=unlisted, include_in_schema=False)


def _health(models: Models) -> dict[str, Any]:
    status = models.status()
    state: dict[str, Any] = {"status": status.state, "model": status.active_model, "error": status.last_error}
    active = models.active
    if active is None:
        return state
    return {
        **state,
        "status": "ok" if status.state == "ready" else status.state,
        "engine": asdict(active.engine.stats()),
    }


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return error_reply(_of_http(request, error), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid_parameters(request: Request, error: RequestValidationError) -> Response:
        return error_reply(ApiError(f"Invalid parameters: {error.errors()[0]['msg']}", code="invalid_value"))

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error_reply(error)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return error_reply(error)


def _of_http(request: Request, error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return ApiError(f"Invalid URL ({request.method} {request.url.path})", code="unknown_url", status=404)
    if error.status_code == 405:
        return ApiError(
            f"Not allowed to {request.method} on {request.url.path}. (HINT: Perhaps you meant to use a different HTTP "
            "method?)",
            code="method_not_supported",
            status=405,
        )
    return ApiError(str(error.detail), status=error.status_code)
