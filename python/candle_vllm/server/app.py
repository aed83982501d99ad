"""create_app: the table of endpoints as an ASGI application, to serve or to mount under any path.

Each route reads a typed request, opens it on the adapter and sends what is written; it adds nothing of its own. What
stands before the routes is the boundary's. Must not know of command lines, nor of how a model is loaded or closed:
engine and models belong to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from candle_vllm.conversations import ToolRoad
from candle_vllm.engine import Engine
from candle_vllm.generation import Account, Observer
from candle_vllm.models import Models, SamplingDefaults, SingleModel
from candle_vllm.openai import ApiError, OpenAIAdapter, UnknownFields
from candle_vllm.openai.endpoint import AnyEndpoint, AnyQuery, serialised
from candle_vllm.openai.responses import INPUT_TOKENS, RESPONSE, Responses, ResponseStore
from candle_vllm.openai.turns import serialised_in_turns
from candle_vllm.server.bodies import read_typed
from candle_vllm.server.boundary import Boundary, BoundarySettings
from candle_vllm.server.document import describe, version
from candle_vllm.server.entrance import Entrance
from candle_vllm.server.mcp import McpSettings, add_mcp
from candle_vllm.server.models import add_models
from candle_vllm.server.operations import Operations, add_operations
from candle_vllm.server.replies import answered, error_reply, json_reply, unless_gone
from candle_vllm.server.responses import add_responses
from candle_vllm.server.streams import ChunkStream
from candle_vllm.server.table import ENDPOINTS, QUERIES
from candle_vllm.server.waiting import patience_of, wants_statuses

__all__ = ["create_app"]


def create_app(
    served: Engine | Models | OpenAIAdapter,
    *,
    model_names: Sequence[str] | None = None,
    defaults: SamplingDefaults | None = None,
    endpoints: Sequence[AnyEndpoint] = ENDPOINTS,
    request_timeout: float | None = None,
    queries: Sequence[AnyQuery] = QUERIES,
    boundary: BoundarySettings | None = None,
    operations: Operations | None = None,
    store: ResponseStore | None = None,
    unknown_fields: UnknownFields = "refuse",
    mcp: McpSettings | None = None,
) -> FastAPI:
    """An ASGI application for OpenAI's API.

    ``served`` is an engine, models behind leases, or an adapter over either. ``model_names`` (the names that requests
    may use; None: any name) and ``defaults`` are for an engine; an adapter has its own. ``endpoints`` and ``queries``
    are the rows to serve. ``request_timeout`` is how many seconds a request that does not stream may wait for its model
    (None: any time); a request's header X-Request-Timeout goes before it. ``boundary`` says who may come in and how
    much they may ask; without it anyone, within the default limits.
    ``unknown_fields``: as :class:`OpenAIAdapter` has it; an adapter has its own.
    ``operations`` counts; models that are to be counted too were made with ``operations.metrics`` as their observer.
    ``store`` keeps responses; None: one of the default size.
    ``mcp`` are the MCP servers whose tools requests may have run here.
    Mount it with ``app.mount("/any/path", create_app(engine))``.
    """
    operations = operations or Operations()
    mcp = mcp or McpSettings()
    boundary = boundary or BoundarySettings()
    adapter = _adapter(served, model_names, defaults, operations, unknown_fields, mcp)
    operations.metrics.watch(adapter.served, mcp.servers)
    app = FastAPI(
        title="candle-vllm",
        version=version(),
        summary="OpenAI-compatible inference server",
        # A redirect would lead to http:// behind a proxy that ends TLS.
        redirect_slashes=False,
    )
    app.state.adapter = adapter
    app.state.operations = operations
    app.state.boundary = boundary
    app.state.mcp = mcp
    app.state.entrance = entrance = Entrance(boundary.api_keys, boundary.limits)
    app.add_middleware(
        Boundary,
        settings=boundary,
        entrance=entrance,
        watcher=operations.metrics,
        envelopes={row.path: row.envelope for row in endpoints} | {row.path: row.envelope for row in queries},
    )
    _add_errors(app)
    for endpoint in endpoints:
        _add_endpoint(app, adapter, endpoint, request_timeout)
    for query in queries:
        _add_query(app, adapter, query)
    most_of_one = boundary.limits.caller_concurrency
    add_responses(app, Responses(adapter, store, most_of_one=most_of_one), request_timeout)
    add_models(app, adapter)
    add_mcp(app, mcp.servers)
    add_operations(app, adapter.served, operations)
    describe(app, [*endpoints, RESPONSE], [*queries, INPUT_TOKENS])
    return app


def _adapter(
    served: Engine | Models | OpenAIAdapter,
    names: Sequence[str] | None,
    defaults: SamplingDefaults | None,
    operations: Operations,
    unknown_fields: UnknownFields,
    mcp: McpSettings,
) -> OpenAIAdapter:
    """An adapter of the application's own, so that two applications over one engine count apart."""
    observers: tuple[Observer, ...] = operations.observers
    models: Models
    if isinstance(served, OpenAIAdapter):
        unknown_fields = served.unknown_fields
        models, observers = served.served, (*served.observers, *observers)
    elif hasattr(served, "lease"):
        models = cast(Models, served)
    else:
        models = SingleModel(served, names, defaults, observer=operations.metrics)
    if not len(mcp.servers):
        return OpenAIAdapter(models, observers=observers, unknown_fields=unknown_fields)
    road = ToolRoad(
        models,
        mcp.servers,
        mcp.options,
        observers=observers,
        by_default=mcp.by_default,
        heard=operations.metrics.tool_called,
    )
    return OpenAIAdapter(road, observers=observers, unknown_fields=unknown_fields)


def _add_endpoint(app: FastAPI, adapter: OpenAIAdapter, endpoint: AnyEndpoint, timeout: float | None) -> None:
    async def answer(request: Request) -> Response:
        return await answered(_answer(request, adapter, endpoint, timeout), endpoint.envelope)

    app.add_api_route(endpoint.path, answer, methods=["POST"], name=endpoint.name, response_model=None)


def _add_query(app: FastAPI, adapter: OpenAIAdapter, query: AnyQuery) -> None:
    async def answer(request: Request) -> Response:
        return await answered(_known(request, adapter, query), query.envelope)

    app.add_api_route(query.path, answer, methods=[query.method], name=query.name, response_model=None)


async def _known(request: Request, adapter: OpenAIAdapter, query: AnyQuery) -> Response:
    """The answer to a question."""
    typed = query.request() if query.method == "GET" else await read_typed(request, query.request)
    return json_reply(serialised(await unless_gone(request.receive, adapter.aquery(query, typed))))


async def _answer(request: Request, adapter: OpenAIAdapter, endpoint: AnyEndpoint, limit: float | None) -> Response:
    """One request from its body to its reply; whatever it costs ends when its client goes away."""
    account: Account = request.scope.get("candle_vllm.account") or Account()
    typed = await read_typed(request, endpoint.request, adapter.warnings_of(endpoint, account))
    patience = patience_of(request.headers, None if typed.stream else limit)
    if typed.stream:
        opened = adapter.open(endpoint, typed, stream=True, account=account, timeout=patience)
        stream = ChunkStream(endpoint, opened, statuses=wants_statuses(request.headers))
        await stream.begun(request.receive)
        return stream
    reply = await unless_gone(request.receive, adapter.areply(endpoint, typed, account, patience))
    return json_reply(await serialised_in_turns(reply))


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


def _of_http(request: Request, error: HTTPException) -> ApiError:
    # The request's URL is made from the Host header, which may say anything.
    path = request.scope["path"][:200]
    if error.status_code == 404:
        return ApiError(f"Invalid URL ({request.method} {path})", code="unknown_url", status=404)
    if error.status_code == 405:
        return ApiError(
            f"Not allowed to {request.method} on {path}. (HINT: Perhaps you meant to use a different HTTP method?)",
            code="method_not_supported",
            status=405,
        )
    return ApiError(str(error.detail), status=error.status_code)
