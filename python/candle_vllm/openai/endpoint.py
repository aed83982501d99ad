"""What an endpoint is: its request, how that becomes a generation request, and how events become its reply.

The table in `endpoints.py` lists them; adapter and server read the same table. Must not know of HTTP frameworks.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel

from candle_vllm.generation import Account, Event, GenerationRequest, Reply, Road
from candle_vllm.openai.errors import ApiError

__all__ = [
    "AnyEndpoint",
    "AnyQuery",
    "Endpoint",
    "FailingWriter",
    "Framing",
    "Query",
    "QuickWriter",
    "TextFrame",
    "Writer",
    "fresh_id",
    "now",
    "serialised",
]

RequestT = TypeVar("RequestT", bound=BaseModel)
ReplyT = TypeVar("ReplyT", bound=BaseModel)
ChunkT = TypeVar("ChunkT", bound=BaseModel)
ReplyT_co = TypeVar("ReplyT_co", bound=BaseModel, covariant=True)
ChunkT_co = TypeVar("ChunkT_co", bound=BaseModel, covariant=True)

Framing = Literal["data", "events", "lines"]
"""How chunks stand in a stream: server-sent events that hold only data and end with `[DONE]`; server-sent events named
by the chunk's `type`; lines of JSON."""


class Writer(Protocol[ReplyT_co, ChunkT_co]):
    """Writes one request's chunks, or its whole reply, from its events."""

    def chunks(self, event: Event) -> Sequence[ChunkT_co]:
        """The chunks that this event makes due; often one, sometimes none."""
        ...

    def closing(self) -> Sequence[ChunkT_co]:
        """The chunks after the last event."""
        ...

    def reply(self, reply: Reply) -> ReplyT_co:
        """The whole reply."""
        ...


class QuickWriter(Protocol):
    """A writer that knows a shorter way to the JSON text of its commonest chunk than through its type.

    One is written for every token of every stream: the type's own way costs three times as much as all the rest.
    """

    def quick(self, event: Event) -> str | None:
        """The very text that the one chunk of this event serialises to; None = by `chunks`."""
        ...


class FailingWriter(Protocol):
    """A writer that tells in chunks of its own of a failure that comes after the first one."""

    def failing(self, error: ApiError) -> Sequence[BaseModel]:
        """The last chunks, in place of the error's envelope."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[RequestT, ReplyT, ChunkT]):
    """One way to ask for text: a row of the table."""

    name: str
    """As the adapter's method is called."""
    path: str
    """Of `POST`, below the server's root."""
    request: type[RequestT]
    """Typed form of the request; has a field `stream`."""
    reply: type[ReplyT]
    chunk: type[ChunkT]
    parse: Callable[[RequestT], GenerationRequest]
    """Raises ApiError for what the endpoint itself refuses."""
    writer: Callable[[RequestT, Account], Writer[ReplyT, ChunkT]]
    framing: Framing = "data"
    warns: bool = False
    """Whether its replies tell the account's warnings; only then may unknown fields of a request be left aside."""
    envelope: Callable[[ApiError], dict[str, Any]] = ApiError.envelope
    """How an error is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(Generic[RequestT, ReplyT]):
    """A question that is answered at once, without generating: a row of the other table."""

    name: str
    path: str
    """Below the server's root."""
    request: type[RequestT]
    """Of `GET`, one without fields."""
    reply: type[ReplyT]
    method: Literal["GET", "POST"] = "POST"
    envelope: Callable[[ApiError], dict[str, Any]] = ApiError.envelope
    """How an error is told."""
    answer: Callable[[RequestT, Road], Awaitable[ReplyT]]


AnyEndpoint = Endpoint[Any, Any, Any]
AnyQuery = Query[Any, Any]


def serialised(chunk: BaseModel) -> str:
    """A chunk as it is sent. Escaped to ASCII, since many clients split lines at U+2028 and U+0085 too."""
    return chunk.model_dump_json(exclude_unset=True, ensure_ascii=True)


class TextFrame:
    """The JSON text of chunks that differ in one text alone, made from one of them that holds `MARK` in its places."""

    MARK = "8f14e45f-ceea-467f-a0e6"

    def __init__(self, marked: BaseModel) -> None:
        self._parts = serialised(marked).split(f'"{self.MARK}"')

    def around(self, text: str) -> str | None:
        """The chunk with this text; None for one that the two ways would escape differently."""
        return None if "\x7f" in text else encode_basestring_ascii(text).join(self._parts)


def fresh_id(prefix: str, account: Account) -> str:
    """An id for a reply: the request's own id behind the prefix, or a random one where it has none."""
    return f"{prefix}-{account.request_id or secrets.token_hex(16)}"


def now() -> int:
    """Seconds since 1970, as replies tell the time."""
    return int(time.time())
