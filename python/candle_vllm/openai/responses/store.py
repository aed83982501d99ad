"""ResponseStore: responses in memory, within bounds of number and bytes; the longest unused ones make room.

Each belongs to whoever asked for it and is nobody else's. Must not know how responses come to be.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from candle_vllm import checks
from candle_vllm.openai.endpoint import serialised
from candle_vllm.openai.errors import ApiError
from candle_vllm.openai.responses.items import InputItem
from candle_vllm.openai.responses.objects import OutputItem, Response, Status

__all__ = ["Record", "ResponseStore", "Told"]

Told = tuple[str, str]
"""The type and the JSON text of an event."""


_RUNNING = frozenset(("queued", "in_progress"))
# What objects take beside their texts, measured: a response, an item, a part of one, an event.
_RESPONSE, _ITEM, _PART, _EVENT = 4_000, 1_300, 600, 200


class Record:
    """A response, what it was made from, and what of it streamed.

    While it runs it is the very response that grows; once it has ended, its text.
    """

    def __init__(self, owner: str, response: Response, context: Sequence[InputItem], *, streams: bool = False) -> None:
        self.owner = owner
        """Name of the API key that asked for it; empty where there was none."""
        self.name = response.id
        self.background = response.background
        self.context = context
        """All the items that it was made from, those of the responses before it included."""
        self.output: Sequence[InputItem] = ()
        """What it said, once it has ended."""
        self.streams = streams
        """Whether its events are kept, for those who come later."""
        self.task: asyncio.Task[None] | None = None
        """What works on it, of one in the background."""
        self.bytes = 0
        """As the store counts it."""
        self._status = response.status
        self._text = ""
        self._response: Response | None = response
        self._events: list[Told] = []
        self._stirred = asyncio.Event()
        self.settle()

    @property
    def status(self) -> Status:
        """How it stands."""
        return self._status if self._response is None else self._response.status

    @property
    def running(self) -> bool:
        """Whether it is still under way."""
        return self.status in _RUNNING

    @property
    def text(self) -> str:
        """The JSON text of the response, as far as it has come."""
        return self._text if self._response is None else serialised(self._response)

    def settle(self) -> None:
        """Keep no more than its text, where it has ended, and tell those who wait."""
        if self._response is not None and not self.running:
            self.output = [InputItem.model_validate(_plain(item)) for item in self._response.output]
            self._text, self._status = self.text, self.status
            self._response = None
        self.tell()

    def tell(self, events: Iterable[Told] = ()) -> None:
        """Keep these events where it streams, and wake those who wait for them, or for its end."""
        if self.streams:
            self._events += events
        self._stirred.set()
        self._stirred = asyncio.Event()

    async def events(self, after: int = -1) -> AsyncGenerator[Told, None]:
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
        return [*self.context, *self.output]

    def measure(self) -> int:
        """Count its bytes."""
        events = sum(_EVENT + len(text) for _, text in self._events)
        self.bytes = _RESPONSE + len(self.text) + events + sum(map(_size, self.said))
        return self.bytes


def _plain(item: OutputItem) -> dict[str, Any]:
    """What goes back to the model of an item, and no log-probabilities."""
    return item.model_dump(exclude={"content": {"__all__": {"logprobs"}}}, exclude_none=True)


def _size(item: InputItem) -> int:
    parts = [part for found in (item.content, item.output, item.summary) if isinstance(found, list) for part in found]
    return _ITEM + len(item.model_dump_json(exclude_unset=True)) + _PART * len(parts)


class ResponseStore:
    """At most `most` responses of at most `most_bytes` in all; `most` = 0 stores none. To be used from one event loop.

    Bytes are about those of the memory in use; items that several responses share count for each of them.
    """

    def __init__(self, most: int = 1000, most_bytes: int = 64 << 20) -> None:
        self.most = checks.integer("most", most, 0)
        self.most_bytes = checks.integer("most_bytes", most_bytes, 0)
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._items: dict[tuple[str, str], dict[str, None]] = {}
        """Of each item, by its owner and id: the responses that hold it."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    @property
    def bytes(self) -> int:
        """Bytes that are stored."""
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
        holders = self._items.get((owner, name))
        if not holders:
            return None
        return next(item for item in self._records[next(reversed(holders))].said if item.id == name)

    def holds(self, record: Record) -> bool:
        """Whether it is stored."""
        return self._records.get(record.name) is record

    def put(self, record: Record) -> bool:
        """Store a response, or store it anew after it went on; the longest unused ones that have ended make room.

        False for one that is larger than all there is room for, or than what those under way leave.
        """
        held = self.holds(record)
        self.drop(record)
        if record.measure() > self.most_bytes or not self.most:
            return False
        name = record.name
        self._bytes += record.bytes
        self._records[name] = record
        for item in record.said:
            if item.id is not None:
                self._items.setdefault((record.owner, item.id), {})[name] = None
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
        del self._records[record.name]
        self._bytes -= record.bytes
        for item in record.said:
            key = record.owner, item.id or ""
            if (holders := self._items.get(key)) is not None:
                holders.pop(record.name, None)
                if not holders:
                    del self._items[key]
