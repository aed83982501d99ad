"""Who waits for which model, in the order in which they will get it.

Knows nothing of models but their names, nor of how waiting ends.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Generic, TypeVar

from candle_vllm.models.observe import UNSEEN, Observer

__all__ = ["Queues", "WaitQueue", "Waiter"]

GrantT = TypeVar("GrantT")
_ORDER = attrgetter("order")


class Waiter(Generic[GrantT]):
    """One request that waits. `granted` gets what it waits for, or the error that ends its waiting."""

    __slots__ = ("granted", "order", "since", "tell")

    def __init__(self, priority: int, number: int, tell: Callable[[Waiter[GrantT]], None] | None = None) -> None:
        self.order = (priority, number)
        """Smaller is first; numbers grow with arrival, so that no two are equal."""
        self.since = time.monotonic()
        self.tell = tell
        """Called when something has changed for it."""
        self.granted: asyncio.Future[GrantT] = asyncio.get_running_loop().create_future()


class WaitQueue(Generic[GrantT]):
    """Smaller priorities first, within one in the order of arrival; at most `limit` waiters."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiters: list[Waiter[GrantT]] = []

    @property
    def full(self) -> bool:
        """Whether no further waiter may come."""
        return len(self._waiters) >= self._limit

    @property
    def first(self) -> Waiter[GrantT] | None:
        """Who is next."""
        return self._waiters[0] if self._waiters else None

    def add(self, waiter: Waiter[GrantT]) -> None:
        """Take it in at its place; whether there is room is for the caller to look at."""
        bisect.insort(self._waiters, waiter, key=_ORDER)

    def position(self, waiter: Waiter[GrantT]) -> int:
        """Its place, 1 being next; 0 when it is not here."""
        at = self._index(waiter)
        return 0 if at is None else at + 1

    def remove(self, waiter: Waiter[GrantT]) -> bool:
        """Take it out, wherever it stands; False when it was not here."""
        at = self._index(waiter)
        if at is None:
            return False
        del self._waiters[at]
        return True

    def take_all(self) -> list[Waiter[GrantT]]:
        """Everyone, in order; the queue is empty then."""
        taken, self._waiters = self._waiters, []
        return taken

    def _index(self, waiter: Waiter[GrantT]) -> int | None:
        at = bisect.bisect_left(self._waiters, waiter.order, key=_ORDER)
        return at if at < len(self._waiters) and self._waiters[at] is waiter else None

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter[GrantT]]:
        return iter(tuple(self._waiters))


class Queues(Generic[GrantT]):
    """A queue a model, each with room for `limit`."""

    def __init__(self, models: Iterable[str], limit: int, observer: Observer = UNSEEN) -> None:
        self._queues = {model: WaitQueue[GrantT](limit) for model in models}
        self._observer = observer
        self._arrivals = 0

    def __getitem__(self, model: str) -> WaitQueue[GrantT]:
        return self._queues[model]

    def lengths(self) -> dict[str, int]:
        """How many wait, by model; every model is listed."""
        return {model: len(queue) for model, queue in self._queues.items()}

    def order(self) -> list[str]:
        """Models that someone waits for, in the order of who is first in each."""
        firsts = [(queue.first.order, model) for model, queue in self._queues.items() if queue.first is not None]
        return [model for _, model in sorted(firsts)]

    def join(self, model: str, priority: int, tell: Callable[[Waiter[GrantT]], None] | None) -> Waiter[GrantT]:
        """One more who waits."""
        self._arrivals += 1
        waiter = Waiter(priority, self._arrivals, tell)
        self._queues[model].add(waiter)
        self._observer.queue_length(model, len(self._queues[model]))
        return waiter

    def leave(self, model: str, waiter: Waiter[GrantT]) -> bool:
        """One gives up; False when it had got something already."""
        left = self._queues[model].remove(waiter)
        if left:
            self._observer.queue_length(model, len(self._queues[model]))
        return left

    def grant_all(self, model: str, grant: Callable[[], GrantT]) -> None:
        """All who wait for this model get it, in order; `grant` makes what each of them gets."""
        for waiter in self._take(model):
            if not waiter.granted.done():
                waiter.granted.set_result(grant())

    def fail_all(self, model: str, error: Callable[[], Exception]) -> None:
        """All who wait for this model are told that they will not get it; `error` makes each one's own."""
        for waiter in self._take(model):
            if not waiter.granted.done():
                waiter.granted.set_exception(error())

    def tell_all(self, model: str) -> None:
        """Something has changed for all who wait for this model."""
        for waiter in self._queues[model]:
            if waiter.tell is not None and not waiter.granted.done():
                waiter.tell(waiter)

    def _take(self, model: str) -> list[Waiter[GrantT]]:
        taken = self._queues[model].take_all()
        if taken:
            self._observer.queue_length(model, 0)
        return taken
