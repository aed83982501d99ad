"""ResponseStore: responses in memory, within bounds of number and bytes; the longest unused ones make room.

Each belongs to whoever asked for it and is nobody else's. Must not know how responses come to be.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field

from candle_vllm import checks
from candle_vllm.openai.errors import ApiError
from candle_vllm.openai.responses.events import StreamEvent
from candle_vllm.openai.responses.items import InputItem
from candle_vllm.openai.responses.objects import Response

__all__ = ["Record", "ResponseStore"]

_RUNNING = frozenset(("queued", "in_progress"))


@dataclass(slots=True, eq=False)
class Record:
    """A response, what it was made from, and what of it streamed."""

    owner: str
    """Name of the API key that asked for it; empty where there was none."""
    response: Response
    context: Sequence[InputItem]
    """All the items that it was made from, those of the responses before it included."""
    streams: bool = False
    """Whether its events are kept, for those who come later."""
    task: asyncio.Task[None] | None = None
    """What works on it, of one in the background."""
    bytes: int = 0
    """As the store counts it: the JSON of its items, and its events'."""
    _events: list[StreamEvent] = field(default_factory=list)
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def running(self) -> bool:
        """Whether it is still under way."""
        return self.response.status in _RUNNING

    def tell(self, events: Iterable[StreamEvent] = ()) -> None:
        """Keep these events where it streams, and wake those who wait for them, or for its end."""
        if self.streams:
            self._events += events
        self._stirred.set()
        self._stirred = asyncio.Event()

    async def events(self, after: int = -1) -> AsyncGenerator[StreamEvent, None]:
        """Its events with numbers above `after`, those to come included; ends with the response."""
        at = after + 1
        while True:
            stirred = self._stirred
            while at < len(self._events):
                yield self._events[at]
                at += 1
            if not self.running:
                return
            if stirred is self._stirred:
                await stirred.wait()

    @property
    def said(self) -> list[InputItem]:
        """What was said up to its end: where a response that goes on from it begins."""
        return [*self.context, *(InputItem.model_validate(item.model_dump()) for item in self.response.output)]

    def measure(self) -> int:
        """Count its bytes."""
        items = sum(len(item.model_dump_json(exclude_unset=True)) for item in self.context)
        events = sum(len(event.model_dump_json()) for event in self._events)
        self.bytes = items + events + len(self.response.model_dump_json())
        return self.bytes


class ResponseStore:
    """At most `most` responses of at most `most_bytes` of JSON; `most` = 0 stores none. To be used from one event loop.

    Items that several responses share count for each of them, so the memory in use is rather less.
    """

    def __init__(self, most: int = 1000, most_bytes: int = 64 << 20) -> None:
        self.most = checks.integer("most", most, 0)
        self.most_bytes = checks.integer("most_bytes", most_bytes, 0)
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._items: dict[tuple[str, str], str] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    @property
    def bytes(self) -> int:
        """Bytes of JSON that are stored."""
        return self._bytes

    def get(self, name: str, owner: str) -> Record:
        """The response of this id that is the owner's; raises a 404 for another."""
        record = self._records.get(name)
        if record is None or record.owner != owner:
            raise ApiError(f"Response with id '{name[:200]}' not found.", code="response_not_found", status=404)
        self._records.move_to_end(name)
        return record

    def item(self, name: str, owner: str) -> InputItem | None:
        """The newest stored item of this id that is the owner's."""
        record = self._records.get(self._items.get((owner, name), ""))
        return None if record is None else next((item for item in record.said if item.id == name), None)

    def holds(self, record: Record) -> bool:
        """Whether it is stored."""
        return self._records.get(record.response.id) is record

    def put(self, record: Record) -> bool:
        """Store a response, or store it anew after it went on; the longest unused ones that have ended make room.

        False for one that is larger than all there is room for, or than what those under way leave.
        """
        held = self.holds(record)
        self.drop(record)
        if record.measure() > self.most_bytes or not self.most:
            return False
        name = record.response.id
        self._bytes += record.bytes
        self._records[name] = record
        for item in (*record.context, *record.response.output):
            if item.id is not None:
                self._items[record.owner, item.id] = name
        for old in list(self._records.values()):
            if len(self._records) <= self.most and self._bytes <= self.most_bytes:
                break
            if not old.running and old is not record:
                self.drop(old)
        if not held and (len(self._records) > self.most or self._bytes > self.most_bytes):
            self.drop(record)
        return self.holds(record)

    def drop(self, record: Record) -> None:
        """Store it no longer."""
        if not self.holds(record):
            return
        del self._records[record.response.id]
        self._bytes -= record.bytes
        for item in (*record.context, *record.response.output):
            if item.id is not None and self._items.get((record.owner, item.id)) == record.response.id:
                del self._items[record.owner, item.id]
