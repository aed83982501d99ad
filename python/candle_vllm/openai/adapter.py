"""OpenAIAdapter: OpenAI's API as calls in this process. The HTTP server takes the same road and adds nothing.

Must not know of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeGuard, TypeVar, cast

import pydantic
from pydantic import BaseModel

from candle_vllm.engine import Engine
from candle_vllm.generation import Account, Event, Observer, Road, fold
from candle_vllm.models import Models, SamplingDefaults, SingleModel
from candle_vllm.openai.bridge import Bridge
from candle_vllm.openai.chat import CHAT_COMPLETION
from candle_vllm.openai.completions import COMPLETION
from candle_vllm.openai.doors import AsyncStreamed, AsyncWhole, Streamed, Whole
from candle_vllm.openai.endpoint import AnyEndpoint, Endpoint, Query, Writer
from candle_vllm.openai.errors import ApiError, api_error, validation_error
from candle_vllm.openai.models import Model, ModelList
from candle_vllm.openai.unknown import read

__all__ = ["OpenAIAdapter", "Opened", "UnknownFields", "typed"]

UnknownFields = Literal["refuse", "warn"]

_LIGHT = 2_000
"""Answers and log-probabilities of a reply that is written in a millisecond or two; a heavier one is in a thread."""

RequestT = TypeVar("RequestT", bound=BaseModel)
ReplyT = TypeVar("ReplyT", bound=BaseModel)
ChunkT = TypeVar("ChunkT", bound=BaseModel)


class OpenAIAdapter:
    """OpenAI's API over an engine, or over models that are loaded as they are asked for.

    Requests are dictionaries of OpenAI's form or the typed requests of this package; replies and chunks are typed.
    Whatever is refused or fails raises :class:`ApiError`, whose envelope says what and why. The methods whose names
    begin with ``a`` are for asyncio; cancelling their task, or closing their iterator, frees the engine's work at once.
    The others block, with the GIL released, and may be called in any thread.

    Over an engine, ``model_names`` are the names that requests may use (None: any name), and ``defaults`` apply to
    requests that leave a sampling field out. ``observers`` hear how requests fare; a road of the caller's own, such as
    one with tools of MCP servers (`conversations.ToolRoad`), tells its own. ``unknown_fields``: whether fields that are
    not known are refused, or left aside (``warn``) and named in the reply's ``warnings``.
    """

    chat_completion = Whole(CHAT_COMPLETION)
    achat_completion = AsyncWhole(CHAT_COMPLETION)
    chat_completion_stream = Streamed(CHAT_COMPLETION)
    achat_completion_stream = AsyncStreamed(CHAT_COMPLETION)
    completion = Whole(COMPLETION)
    acompletion = AsyncWhole(COMPLETION)
    completion_stream = Streamed(COMPLETION)
    acompletion_stream = AsyncStreamed(COMPLETION)

    def __init__(
        self,
        served: Engine | Models | Road,
        *,
        model_names: Sequence[str] | None = None,
        defaults: SamplingDefaults | None = None,
        observers: Sequence[Observer] = (),
        unknown_fields: UnknownFields = "refuse",
    ) -> None:
        if isinstance(served, Road):
            self._road = served
        else:
            models = served if _are_models(served) else SingleModel(cast(Engine, served), model_names, defaults)
            self._road = Road(models, observers)
        self.observers = tuple(observers)
        self.unknown_fields: UnknownFields = unknown_fields
        self._bridge = Bridge()

    @property
    def engine(self) -> Engine:
        """The engine of the model that is active; raises :class:`ApiError` where none is loaded at the moment."""
        active = self._road.models.active
        if active is None:
            raise ApiError("No model is loaded at the moment.", code="model_not_loaded", status=503)
        return active.engine

    @property
    def served(self) -> Models:
        """The models underneath."""
        return self._road.models

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names that requests may use, the main one first."""
        return tuple(entry.id for entry in self._road.models.listing())

    def models(self) -> ModelList:
        """What ``GET /v1/models`` shows; at once, whatever is under way."""
        entries = self._road.models.listing()
        return ModelList(
            data=[Model(id=entry.id, created=entry.created, max_model_len=entry.max_model_len) for entry in entries]
        )

    def model(self, name: str) -> Model:
        """What ``GET /v1/models/{name}`` shows; raises :class:`ApiError` with status 404 for another name."""
        for model in self.models().data:
            if model.id == name:
                return model
        raise ApiError(
            f"The model '{name[:200]}' does not exist. Served here: {', '.join(self.model_names)}.",
            param="model",
            code="model_not_found",
            status=404,
        )

    def close(self) -> None:
        """End the thread behind the blocking methods. The engine is its owner's and stays."""
        self._bridge.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Any endpoint of the table by its row.

    def reply(self, endpoint: Endpoint[RequestT, ReplyT, ChunkT], request: RequestT | Mapping[str, Any]) -> ReplyT:
        """The whole reply; blocks, with the GIL released."""
        return self._bridge.call(self.areply(endpoint, request))

    async def areply(
        self,
        endpoint: Endpoint[RequestT, ReplyT, ChunkT],
        request: RequestT | Mapping[str, Any],
        account: Account | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - of one part of the work, not of the call
    ) -> ReplyT:
        """The whole reply: the fold of the events that its stream would be written from.

        `timeout` is how many seconds it may wait for its model.
        """
        with _api_errors():
            opened = self.open(endpoint, request, stream=False, account=account, timeout=timeout)
            try:
                folded = await fold(opened.events)
                if len(folded.answers) + folded.scores <= _LIGHT:
                    return opened.writer.reply(folded)
                return await asyncio.to_thread(opened.writer.reply, folded)
            finally:
                await opened.events.aclose()

    def stream(
        self, endpoint: Endpoint[RequestT, ReplyT, ChunkT], request: RequestT | Mapping[str, Any]
    ) -> Generator[ChunkT, None, None]:
        """The chunks, each as soon as it is there; work begins with the first one asked for."""
        return self._bridge.iterate(self.astream(endpoint, request))

    async def astream(
        self,
        endpoint: Endpoint[RequestT, ReplyT, ChunkT],
        request: RequestT | Mapping[str, Any],
        account: Account | None = None,
    ) -> AsyncGenerator[ChunkT, None]:
        """The chunks, each as soon as it is there; work begins with the first one asked for."""
        with _api_errors():
            opened = self.open(endpoint, request, stream=True, account=account)
            try:
                async for event in opened.events:
                    for chunk in opened.writer.chunks(event):
                        yield chunk
                for chunk in opened.writer.closing():
                    yield chunk
            finally:
                await opened.events.aclose()

    def query(self, query: Query[RequestT, ReplyT], request: RequestT | Mapping[str, Any]) -> ReplyT:
        """The answer to a question that needs no generating; blocks."""
        return self._bridge.call(self.aquery(query, request))

    async def aquery(self, query: Query[RequestT, ReplyT], request: RequestT | Mapping[str, Any]) -> ReplyT:
        """The answer to a question that needs no generating."""
        with _api_errors():
            return await query.answer(typed(query.request, request), self._road)

    def open(
        self,
        endpoint: Endpoint[RequestT, ReplyT, ChunkT],
        request: RequestT | Mapping[str, Any],
        *,
        stream: bool,
        account: Account | None = None,
        timeout: float | None = None,
    ) -> Opened[ReplyT, ChunkT]:
        """A request's events and what writes them. Nothing is under way before the first event is asked for.

        Raises :class:`ApiError` for what the endpoint refuses. `account`, the caller's own, is kept up to date;
        `timeout` is how many seconds the request may wait for its model.
        """
        account = account or Account()
        account.endpoint = endpoint.name
        checked = typed(endpoint.request, request, self.warnings_of(endpoint, account), stream=stream)
        account.request_id = getattr(checked, "request_id", None) or account.request_id
        generation = replace(endpoint.parse(checked), timeout=timeout)
        return Opened(self._road.run(generation, account), endpoint.writer(checked, account))

    def warnings_of(self, endpoint: AnyEndpoint, account: Account) -> list[str] | None:
        """Where to note fields that are not known; None where they are refused."""
        return account.warnings if self.unknown_fields == "warn" and endpoint.warns else None


class Opened(Generic[ReplyT, ChunkT]):
    """A request whose events have not begun, and its writer. To be closed by `events.aclose()`."""

    __slots__ = ("events", "writer")

    def __init__(self, events: AsyncGenerator[Event, None], writer: Writer[ReplyT, ChunkT]) -> None:
        self.events = events
        self.writer = writer


class _api_errors:  # noqa: N801 - reads as a statement
    """Raises whatever goes wrong as the error that its client is to see."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, ApiError):
            raise api_error(error) from error


def _are_models(served: Engine | Models) -> TypeGuard[Models]:
    return hasattr(served, "lease")


def typed(
    kind: type[RequestT], request: RequestT | Mapping[str, Any], warnings: list[str] | None = None, **said: bool
) -> RequestT:
    """The checked request; whether it streams is `said` by the method that was called."""
    if isinstance(request, kind):
        same = all(getattr(request, field, None) is value for field, value in said.items())
        return request if same else request.model_copy(update=said)
    try:
        return read(kind, {**cast(Mapping[str, Any], request), **said}, warnings)
    except pydantic.ValidationError as error:
        raise validation_error(error) from error
