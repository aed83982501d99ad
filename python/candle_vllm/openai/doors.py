"""The adapter's named methods: an endpoint's four doors, each the same road. Must not know any endpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from pydantic import BaseModel

from candle_vllm.openai.endpoint import Endpoint

if TYPE_CHECKING:
    from candle_vllm.openai.adapter import OpenAIAdapter

__all__ = ["AsyncStreamed", "AsyncWhole", "Streamed", "Whole"]

RequestT = TypeVar("RequestT", bound=BaseModel)
ReplyT = TypeVar("ReplyT", bound=BaseModel)
ChunkT = TypeVar("ChunkT", bound=BaseModel)
CallT = TypeVar("CallT", bound=Callable[..., Any])


class _Door(Generic[CallT]):
    """A method that is made for an endpoint."""

    def __init__(self, make: Callable[[OpenAIAdapter], CallT]) -> None:
        self._make = make

    @overload
    def __get__(self, adapter: None, owner: type) -> Self: ...

    @overload
    def __get__(self, adapter: OpenAIAdapter, owner: type) -> CallT: ...

    def __get__(self, adapter: OpenAIAdapter | None, owner: type) -> Self | CallT:
        return self if adapter is None else self._make(adapter)


class Whole(_Door[Callable[[RequestT | Mapping[str, Any]], ReplyT]], Generic[RequestT, ReplyT]):
    """`reply = adapter.name(request)`: the whole reply; blocks, with the GIL released."""

    def __init__(self, endpoint: Endpoint[RequestT, ReplyT, Any]) -> None:
        super().__init__(lambda adapter: lambda request: adapter.reply(endpoint, request))


class AsyncWhole(
    _Door[Callable[[RequestT | Mapping[str, Any]], Coroutine[Any, Any, ReplyT]]], Generic[RequestT, ReplyT]
):
    """`reply = await adapter.aname(request)`: the whole reply."""

    def __init__(self, endpoint: Endpoint[RequestT, ReplyT, Any]) -> None:
        super().__init__(lambda adapter: lambda request: adapter.areply(endpoint, request))


class Streamed(
    _Door[Callable[[RequestT | Mapping[str, Any]], Generator[ChunkT, None, None]]], Generic[RequestT, ChunkT]
):
    """`for chunk in adapter.name_stream(request)`: the chunks; work begins with the first one asked for."""

    def __init__(self, endpoint: Endpoint[RequestT, Any, ChunkT]) -> None:
        super().__init__(lambda adapter: lambda request: adapter.stream(endpoint, request))


class AsyncStreamed(
    _Door[Callable[[RequestT | Mapping[str, Any]], AsyncGenerator[ChunkT, None]]], Generic[RequestT, ChunkT]
):
    """`async for chunk in adapter.aname_stream(request)`: the chunks; work begins with the first one asked for."""

    def __init__(self, endpoint: Endpoint[RequestT, Any, ChunkT]) -> None:
        super().__init__(lambda adapter: lambda request: adapter.astream(endpoint, request))
