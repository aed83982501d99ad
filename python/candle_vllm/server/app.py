"""create_app: OpenAI's endpoints over an engine, an adapter or a slot, to serve or to mount under any path.

Each endpoint reads a typed request, calls the adapter and sends what it returns; it adds nothing of its own.
Must not know of command lines, nor of how a model is loaded or closed: the engine belongs to the caller.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from candle_vllm.openai import (
    ApiError,
    ChatCompletion,
    ChatCompletionRequest,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
    OpenAIAdapter,
    SamplingDefaults,
)
from candle_vllm.openai.json_chunks import JsonChunks
from candle_vllm.openai.sampling import SamplingRequest
from candle_vllm.server.bodies import MAX_BODY_BYTES, read_typed
from candle_vllm.server.replies import ClientGoneError, EventStream, error_reply, json_reply, unless_gone
from candle_vllm.server.slot import ModelSlot

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine

RequestT = TypeVar("RequestT", bound=SamplingRequest)

# nginx's number for "the client closed the connection"; it is never read by anyone.
_CLIENT_CLOSED = 499


def create_app(
    served: InferenceEngine | OpenAIAdapter | ModelSlot,
    *,
    model_names: Sequence[str] | None = None,
    defaults: SamplingDefaults | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """An ASGI application for OpenAI's API.

    ``served`` is an engine, an adapter over one, or a slot whose model may still be loading. ``model_names`` (the
    names that requests may use; the engine's own name unless given) and ``defaults`` are for an engine; an adapter
    has its own. Mount it with ``app.mount("/any/path", create_app(engine))``.
    """
    slot = _slot_of(served, model_names, defaults)
    app = FastAPI(title="candle-vllm", version=_version(), summary="OpenAI-compatible inference server")
    app.state.slot = slot
    _add_errors(app)
    _add_generation(app, slot, max_body_bytes)
    _add_models(app, slot)
    return app


def _slot_of(
    served: InferenceEngine | OpenAIAdapter | ModelSlot,
    model_names: Sequence[str] | None,
    defaults: SamplingDefaults | None,
) -> ModelSlot:
    if isinstance(served, ModelSlot):
        return served
    if isinstance(served, OpenAIAdapter):
        return ModelSlot.of(served)
    names = tuple(model_names or (served.model_info.name,))
    return ModelSlot.of(OpenAIAdapter(served, model_names=names, defaults=defaults))


def _version() -> str:
    try:
        return version("candle-vllm")
    except PackageNotFoundError:
        return "0"


def _add_generation(app: FastAPI, slot: ModelSlot, limit: int) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=None,
        responses={200: {"model": ChatCompletion}},
        openapi_extra=_body(ChatCompletionRequest),
    )
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        return await _answer(
            request,
            slot,
            limit,
            ChatCompletionRequest,
            OpenAIAdapter.achat_completion,
            OpenAIAdapter.achat_completion_json,
        )

    @app.post(
        "/v1/completions",
        response_model=None,
        responses={200: {"model": Completion}},
        openapi_extra=_body(CompletionRequest),
    )
    async def completions(request: Request) -> Response:
        """Continue a text."""
        return await _answer(
            request, slot, limit, CompletionRequest, OpenAIAdapter.acompletion, OpenAIAdapter.acompletion_json
        )


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """How the documentation shows a body that the endpoint reads by itself."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema, definitions)}}}
    }


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            return _inlined(definitions[reference.rpartition("/")[2]], definitions)
        return {key: _inlined(value, definitions) for key, value in node.items()}
    return [_inlined(value, definitions) for value in node] if isinstance(node, list) else node


async def _answer(
    request: Request,
    slot: ModelSlot,
    limit: int,
    kind: type[RequestT],
    whole: Callable[[OpenAIAdapter, RequestT], Awaitable[BaseModel]],
    chunks: Callable[[OpenAIAdapter, RequestT], Awaitable[JsonChunks]],
) -> Response:
    """One request from its body to its reply; whatever it costs ends when its client goes away."""
    try:
        typed = await read_typed(request, kind, limit)
        if typed.model and typed.model not in slot.model_names:
            raise _unknown_model(slot, typed.model)
        if typed.stream:
            return EventStream(await unless_gone(request.receive, _open(slot, typed, chunks)))
        reply = await unless_gone(request.receive, _whole(slot, typed, whole))
        return json_reply(reply.model_dump_json())
    except (ClientGoneError, ClientDisconnect):
        return Response(status_code=_CLIENT_CLOSED)
    except Exception as error:
        return error_reply(error)


async def _open(
    slot: ModelSlot, typed: RequestT, chunks: Callable[[OpenAIAdapter, RequestT], Awaitable[JsonChunks]]
) -> JsonChunks:
    return await chunks(await slot.adapter(streaming=True), typed)


async def _whole(
    slot: ModelSlot, typed: RequestT, whole: Callable[[OpenAIAdapter, RequestT], Awaitable[BaseModel]]
) -> BaseModel:
    return await whole(await slot.adapter(streaming=False), typed)


def _unknown_model(slot: ModelSlot, name: str) -> ApiError:
    served = ", ".join(slot.model_names)
    return ApiError(
        f"The model '{name}' does not exist. Served here: {served}.", param="model", code="model_not_found", status=404
    )


def _add_models(app: FastAPI, slot: ModelSlot) -> None:
    @app.get("/v1/models", response_model=None, responses={200: {"model": ModelList}})
    async def list_models(request: Request) -> Response:
        """The served models."""
        return await _listed(request, slot, lambda adapter: adapter.models())

    @app.get("/v1/models/{name:path}", response_model=None, responses={200: {"model": ModelCard}})
    async def one_model(request: Request, name: str) -> Response:
        """One served model."""
        return await _listed(request, slot, lambda adapter: adapter.model(name))

    @app.get("/health", response_model=None)
    async def health(request: Request) -> Response:
        """Whether requests are answered now (200) or not (503), and the engine's figures."""
        state = _health(slot)
        return json_reply(json.dumps(state), 200 if state["status"] == "ok" else 503)


async def _listed(request: Request, slot: ModelSlot, listing: Callable[[OpenAIAdapter], BaseModel]) -> Response:
    try:
        adapter = await unless_gone(request.receive, slot.adapter(streaming=False))
        return json_reply(listing(adapter).model_dump_json())
    except ClientGoneError:
        return Response(status_code=_CLIENT_CLOSED)


def _health(slot: ModelSlot) -> dict[str, Any]:
    state: dict[str, Any] = {"status": slot.state, "model": slot.model_names[0]}
    if slot.ready is None:
        return {**state, "waiting": slot.waiting, "error": slot.error}
    stats = slot.ready.engine.stats()
    able = stats.healthy and not stats.closed
    return {**state, "status": "ok" if able else "error", "error": stats.failure, "engine": asdict(stats)}


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
