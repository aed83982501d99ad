"""ModelManager: a catalogue's models in turns, one in memory at a time.

Says who gets which model when. Must not know how a model is loaded, what its leases do with it, or of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from types import TracebackType

from candle_vllm.errors import (
    CandleVllmError,
    ConfigError,
    QueueFullError,
    QueueTimeoutError,
    RequestCancelledError,
    SwitchUnderWayError,
)
from candle_vllm.models.catalog import Catalog, CatalogEntry
from candle_vllm.models.forecast import Forecast, total
from candle_vllm.models.loaded import LoadedModel
from candle_vllm.models.observe import UNSEEN, Observer
from candle_vllm.models.provider import OnStatus, Selection
from candle_vllm.models.queue import Queues, Waiter
from candle_vllm.models.rates import retry_after
from candle_vllm.models.status import ModelEntry, ModelState, ModelStatus, WaitStatus
from candle_vllm.models.turn import Active, Failures, Grant, Phase, Turn, load_error, said

__all__ = ["Fetch", "Load", "ModelManager"]

logger = logging.getLogger("candle_vllm.models")

Load = Callable[[CatalogEntry], Awaitable[LoadedModel]]
"""Brings a model into memory; raises when it cannot."""
Fetch = Callable[[CatalogEntry], Awaitable[None]]
"""Has a model's files here, or raises. The active model serves meanwhile, so it is to take no memory."""


class ModelManager:
    """`Models` over a catalogue. To be used from one event loop.

    One model is in memory at a time. Requests for another one wait in its queue, at most `queue_size` for a model. The
    model of the first of all who wait (by priority, then arrival) has the next turn: its files are fetched while the
    active model serves, then new requests wait, the active model finishes what it runs and gives its memory back, the
    next one loads, and all who wait for it get it at once. A load that fails fails them with the reason, and the next
    in line has its turn; what failed is left alone for a while where another model serves. A load goes on when the
    last who waits for it leaves: who tries again then finds it further.

    `load` and `fetch` do the work (`EngineLoader` has both). `interval` is how often, in seconds, who waits hears of
    it. The catalogue's `idle_unload_secs` after the last request the active model gives its memory back.
    """

    def __init__(
        self,
        catalog: Catalog,
        load: Load,
        *,
        fetch: Fetch | None = None,
        queue_size: int = 10,
        interval: float = 1.0,
        observer: Observer = UNSEEN,
    ) -> None:
        self._catalog = catalog
        self._load = load
        self._fetch = fetch
        self._interval = interval
        self._observer = observer
        self._forecast = Forecast()
        self._failures = Failures()
        self._queues: Queues[Grant] = Queues((entry.name for entry in catalog), queue_size, observer)
        self._active: Active | None = None
        self._turn: Turn | None = None
        self._selected: CatalogEntry | None = None
        self._last_error: str | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: asyncio.Task[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        # Set whenever a lease ends or one who waits leaves: what a drain waits for.
        self._stirred = asyncio.Event()

    # What others see.

    @property
    def catalog(self) -> Catalog:
        """The models that may be served."""
        return self._catalog

    @property
    def active(self) -> LoadedModel | None:
        """The model in memory."""
        return None if self._active is None else self._active.model

    def listing(self) -> Sequence[ModelEntry]:
        """Every model of the catalogue, under each of its names."""
        return [self._listed(entry, name) for entry in self._catalog for name in (entry.name, *entry.also)]

    def _listed(self, entry: CatalogEntry, name: str) -> ModelEntry:
        active = self._active
        if active is None or active.entry is not entry:
            return ModelEntry(name, entry.created, notes=entry.notes)
        length = active.model.info.max_sequence_length
        return ModelEntry(name, entry.created, length, active=True, notes=entry.notes)

    def status(self) -> ModelStatus:
        """How the models stand."""
        active, turn = self._active, self._turn
        return ModelStatus(
            state=self._state(),
            active_model=None if active is None else active.entry.name,
            last_error=self._last_error,
            queue_lengths=self._queues.lengths(),
            in_flight_requests=0 if active is None else len(active.leases),
            switch_requested_at=None if turn is None else int(turn.requested_at),
        )

    def _state(self) -> ModelState:
        if self._turn is not None:
            return "loading" if self._active is None else "switching"
        if self._active is not None:
            return "ready"
        return "idle" if self._last_error is None else "error"

    def lease(
        self,
        name: str | None,
        *,
        on_status: OnStatus | None = None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> _Lease:
        """As `Models.lease`."""
        return _Lease(self, (name, on_status, priority, deadline))

    async def select(self, name: str) -> Selection:
        """As `Models.select`."""
        return self._select(self._catalog.find(name))

    async def activate(self, name: str | None = None) -> LoadedModel:
        """Make this model, or the default one, the active one, and wait until it is.

        Takes no place in a queue. Raises as `select`, and ModelLoadError.
        """
        entry = self._catalog.default if name is None else self._catalog.find(name)
        while self._select(entry) == "initiated" and self._turn is not None:
            turn = self._turn
            await turn.ended.wait()
            if turn.target is entry and turn.loaded is not None:
                return turn.loaded
            if turn.target is entry and turn.failure is not None:
                raise load_error(entry, said(turn.failure), turn.failure)
        assert self._active is not None
        return self._active.model

    def _select(self, entry: CatalogEntry) -> Selection:
        self._check_usable()
        if self._serves(entry) and self._turn is None:
            return "already_active"
        turn = self._turn
        if turn is not None and turn.target is not None and turn.target is not entry:
            raise SwitchUnderWayError(
                f"a switch to the model '{turn.target.name}' is under way; try again when it has ended"
            )
        self._selected = entry
        self._begin_turn()
        return "initiated"

    async def aclose(self) -> None:
        """End: fail all who wait, end a load under way, close the engine in memory and with it what it runs."""
        self._closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for entry in self._catalog:
            self._queues.fail_all(entry.name, _closed)
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait({self._worker})
        if self._active is not None:
            await self._unload(self._active)

    # One request: in, and out again.

    def _check_usable(self) -> None:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigError("a ModelManager serves one event loop; make one for each")

    def _entry(self, name: str | None) -> CatalogEntry:
        """What a request asks for; without a name, what is there or comes next."""
        if name:
            return self._catalog.find(name)
        if self._turn is not None and self._turn.target is not None and self._turn.phase != "fetching":
            return self._turn.target
        return self._catalog.default if self._active is None else self._active.entry

    def _serves(self, entry: CatalogEntry) -> bool:
        """Whether the model is there and takes new requests."""
        active, turn = self._active, self._turn
        if active is None or active.entry is not entry or active.failure is not None:
            return False
        return turn is None or turn.phase == "fetching"

    async def _enter(
        self, name: str | None, on_status: OnStatus | None, priority: int, deadline: float | None
    ) -> Grant:
        self._check_usable()
        entry = self._entry(name)
        if self._active is not None and self._serves(entry):
            return self._active.grant()
        self._check_rest(entry)
        queue = self._queues[entry.name]
        if queue.full:
            self._observer.rejected(entry.name, "queue_full")
            raise QueueFullError(
                f"{len(queue)} requests wait for the model '{entry.name}' already; try again later",
                retry_after=retry_after(self._eta(entry)),
            )
        tell = None if on_status is None else lambda waiter: on_status(self._wait_status(entry, waiter))
        waiter = self._queues.join(entry.name, priority, tell)
        self._begin_turn()
        try:
            grant = await self._granted(entry, waiter, deadline)
        except BaseException as error:
            self._give_up(entry, waiter, error)
            raise
        if on_status is not None:
            on_status(WaitStatus("processing", 0, entry.name, 0))
        return grant

    def _check_rest(self, entry: CatalogEntry) -> None:
        """Leave a model that has just failed alone while another one serves, unless its turn is under way."""
        resting = self._failures.resting(entry.name)
        if resting is None or self._active is None or (self._turn is not None and self._turn.target is entry):
            return
        seconds = retry_after(resting[0])
        error = load_error(entry, f"{resting[1]}; it is tried again in {seconds} s")
        error.retry_after = seconds
        raise error

    async def _granted(self, entry: CatalogEntry, waiter: Waiter[Grant], deadline: float | None) -> Grant:
        while not waiter.granted.done():
            left = self._interval if deadline is None else min(self._interval, deadline - time.monotonic())
            if left <= 0:
                raise QueueTimeoutError(
                    f"the request waited {time.monotonic() - waiter.since:.1f} s for the model '{entry.name}', which "
                    "is not ready yet; try again later",
                    retry_after=retry_after(self._eta(entry)),
                )
            if waiter.tell is not None:
                waiter.tell(waiter)
            await asyncio.wait({waiter.granted}, timeout=left)
        return waiter.granted.result()

    def _give_up(self, entry: CatalogEntry, waiter: Waiter[Grant], error: BaseException) -> None:
        """One who waited goes without: in time, or just as it got its model."""
        granted = waiter.granted
        if not self._queues.leave(entry.name, waiter) and granted.done() and granted.exception() is None:
            self._leave(granted.result(), error)
        if isinstance(error, QueueTimeoutError):
            self._observer.rejected(entry.name, "queue_timeout")
        elif isinstance(error, asyncio.CancelledError):
            turn = self._turn
            loading = turn is not None and turn.target is entry and turn.phase == "loading"
            self._observer.cancelled(entry.name, "loading" if loading else "queued")
        self._stirred.set()

    def _leave(self, grant: Grant, error: BaseException | None) -> None:
        """The lease has ended; `error` is what ended it, if it did not end well."""
        active = grant.active
        seconds = active.release(grant)
        self._stirred.set()
        if error is None:
            self._forecast.stayed(active.entry.name, seconds)
            return
        stats = active.model.engine.stats()
        if active is self._active and active.failure is None and not stats.healthy and not stats.closed:
            active.failure = self._last_error = f"the engine of '{active.entry.name}' failed: {stats.failure}"
            logger.error("%s; the next request loads the model anew", active.failure)
            self._begin_turn()

    def _wait_status(self, entry: CatalogEntry, waiter: Waiter[Grant]) -> WaitStatus:
        eta = self._eta(entry)
        position = self._queues[entry.name].position(waiter)
        turn = self._turn
        phase = turn.phase_for(entry) if turn is not None else "queued"
        return WaitStatus(phase, position, entry.name, None if eta is None else round(eta * 1000))

    def _eta(self, entry: CatalogEntry) -> float | None:
        """Seconds until those who wait for this model get it; None where nothing was measured to tell by."""
        turn, active = self._turn, self._active
        drain: float | None = 0.0
        if active is not None:
            drain = self._forecast.drain(active.entry.name, active.ages())
        if turn is not None and turn.target is entry:
            loading = turn.phase == "loading"
            return total(drain, self._forecast.load(entry.name, turn.phase_elapsed if loading else 0.0))
        before = self._queues.order()
        if entry.name in before:
            before = before[: before.index(entry.name)]
        if turn is not None and turn.target is not None and turn.target.name not in before:
            before.insert(0, turn.target.name)
        return total(drain, self._forecast.turns(before), self._forecast.load(entry.name))

    # Turns: the one task that loads and unloads.

    def _begin_turn(self) -> None:
        """Begin the next turn, where one is due and none is under way."""
        if self._turn is not None or self._closed:
            return
        turn = self._next_turn()
        if turn is not None:
            self._start(turn)

    def _start(self, turn: Turn) -> None:
        self._turn = turn
        # Not in the context of the request that happens to ask first: what is logged is no affair of its own.
        self._worker = asyncio.get_running_loop().create_task(self._take_turns(), context=Context())

    def _next_turn(self) -> Turn | None:
        active = self._active
        if active is not None and active.failure is None:
            # Those who came while a switch was under way that nobody wants any more.
            self._queues.grant_all(active.entry.name, active.grant)
            if self._selected is active.entry:
                self._selected = None
        if self._selected is not None:
            return Turn(self._selected, "fetching")
        waited_for = self._queues.order()
        if waited_for:
            return Turn(self._catalog.find(waited_for[0]), "fetching")
        return Turn(None, "draining") if active is not None and active.failure is not None else None

    async def _take_turns(self) -> None:
        try:
            while self._turn is not None:
                turn = self._turn
                try:
                    await self._take(turn)
                finally:
                    turn.ended.set()
                    self._turn = None
                self._turn = None if self._closed else self._next_turn()
        finally:
            self._worker = None

    async def _take(self, turn: Turn) -> None:
        target, old = turn.target, None if self._active is None else self._active.entry.name
        try:
            if target is not None and self._fetch is not None:
                await self._fetch(target)
            if not await self._make_room(turn):
                return
            if target is not None:
                await self._bring(turn, target, old)
        except Exception as error:
            self._failed(turn, error)

    async def _make_room(self, turn: Turn) -> bool:
        """The active model finishes what it runs and gives its memory back; False when that is not needed any more."""
        active = self._active
        while self._wanted(turn):
            if active is None:
                return True
            if turn.phase != "draining":
                self._go_on(turn, "draining")
            if not active.leases:
                self._go_on(turn, "unloading")
                await self._unload(active)
                return True
            self._stirred.clear()
            await self._stirred.wait()
        return False

    def _wanted(self, turn: Turn) -> bool:
        """Whether anyone still wants this turn's model."""
        target = turn.target
        return target is None or target is self._selected or len(self._queues[target.name]) > 0

    async def _bring(self, turn: Turn, target: CatalogEntry, old: str | None) -> None:
        """Load the turn's model and give it to all who wait for it."""
        self._go_on(turn, "loading")
        try:
            model = await self._load(target)
        except Exception as error:
            self._failures.note(target.name, said(error))
            raise
        self._failures.forget(target.name)
        turn.loaded = model
        self._active = active = Active(target, model)
        self._last_error = None
        if self._selected is target:
            self._selected = None
        self._forecast.loaded(target.name, turn.phase_elapsed)
        self._observer.loaded(target.name, turn.phase_elapsed)
        if old not in (None, target.name):
            self._observer.switched(str(old), target.name, turn.elapsed)
        logger.info("'%s' is loaded, in %.1f s", target.name, turn.phase_elapsed)
        self._queues.grant_all(target.name, active.grant)
        self._watch_idling(self._catalog.idle_unload_secs)

    async def _unload(self, active: Active) -> None:
        try:
            await asyncio.to_thread(active.model.engine.close)
        except Exception:
            logger.exception("closing the engine of '%s' failed", active.entry.name)
        if self._active is not active:
            # The end came while it was being unloaded, and did the rest.
            return
        self._active = None
        self._observer.unloaded(active.entry.name)
        logger.info("'%s' is unloaded", active.entry.name)

    def _failed(self, turn: Turn, error: Exception) -> None:
        """The turn's model cannot be had: its waiters are told why, and others have their turn."""
        target = turn.target
        turn.failure = error
        self._last_error = said(error)
        if target is None:
            return
        self._observer.load_failed(target.name, turn.phase_elapsed)
        known = isinstance(error, CandleVllmError | OSError)
        logger.error("'%s' could not be loaded: %s", target.name, self._last_error, exc_info=None if known else error)
        if self._selected is target:
            self._selected = None
        self._queues.fail_all(target.name, lambda: load_error(target, said(error), error))

    def _go_on(self, turn: Turn, phase: Phase) -> None:
        turn.enter(phase)
        if turn.target is not None:
            self._queues.tell_all(turn.target.name)

    def _watch_idling(self, seconds: float | None) -> None:
        """Look in so many seconds whether the active model has been idle for long enough."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(seconds, self._look_whether_idle, context=Context())

    def _look_whether_idle(self) -> None:
        active, limit = self._active, self._catalog.idle_unload_secs
        if active is None or limit is None or self._closed:
            return
        idle = 0.0 if active.leases or self._turn is not None else time.monotonic() - active.last_used
        if idle < limit:
            self._watch_idling(limit - idle)
            return
        logger.info("'%s' has been idle for %.0f s", active.entry.name, idle)
        self._start(Turn(None, "draining"))


class _Lease:
    """`async with` over one request's model."""

    __slots__ = ("_arguments", "_grant", "_manager")

    def __init__(
        self,
        manager: ModelManager,
        arguments: tuple[str | None, OnStatus | None, int, float | None],
    ) -> None:
        self._manager = manager
        self._arguments: tuple[str | None, OnStatus | None, int, float | None] | None = arguments
        self._grant: Grant | None = None

    async def __aenter__(self) -> LoadedModel:
        if self._arguments is None:
            raise RuntimeError("a lease is entered once")
        arguments, self._arguments = self._arguments, None
        self._grant = await self._manager._enter(*arguments)
        return self._grant.active.model

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._grant is not None:
            grant, self._grant = self._grant, None
            self._manager._leave(grant, error)


def _closed() -> RequestCancelledError:
    return RequestCancelledError("the server is stopping; no model is given out any more")
