"""Where native events of several requests arrive and are handed to each: one wake-up a step, whoever waits.

An inbox is read by blocking callers, or by one asyncio loop that watches the mailbox's descriptor. Knows nothing
of prompts, parameters or outputs.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from candle_vllm import _native
from candle_vllm.errors import CandleVllmError

if TYPE_CHECKING:
    import asyncio

__all__ = ["Inbox", "Sink", "running_loop"]

_SLICE = 0.25
"""Seconds between two looks at whether inbox and loop are still there, in the thread that serves the loop."""
_REST = 25.0
"""How many times as long as handing out takes a loop rests afterwards: what a fast engine makes meanwhile arrives as
one chunk a request, and the cores that compute are not taken for every token of every stream. The first and the last
chunk of a request pass even so: a client waits for them."""
_SHORTEST_REST = 0.002
"""Seconds; less is not worth a timer, so a single stream gets each token at once."""
_LONGEST_REST = 0.04
"""Seconds; more would be seen."""


class Sink:
    """The events of one request that nobody has taken yet, and who waits for them."""

    __slots__ = ("_arrived", "_begun", "_waiter", "error", "events", "finished", "on_finish", "only_finish")

    def __init__(self) -> None:
        self.events: deque[_native.Event] = deque()
        self.finished = False
        """The last event has arrived (it may still lie in `events`)."""
        self.error: CandleVllmError | None = None
        """Why no further event will come although the last one has not arrived."""
        self.only_finish = False
        """Whoever waits is to be woken at the end only."""
        self.on_finish: Callable[[], None] | None = None
        self._begun = False
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._arrived: threading.Event | None = None

    @property
    def ready(self) -> bool:
        """Whether a waiter has nothing more to wait for."""
        return self.finished or self.error is not None or (bool(self.events) and not self.only_finish)

    def push(self, event: _native.Event, *, resting: bool = False) -> None:
        """Keep an event and wake who waits for it; while the loop is `resting`, only for the first and the last one."""
        urgent = not self._begun or event.finish_reason is not None
        self._begun = True
        self.events.append(event)
        if event.finish_reason is not None:
            self.finished = True
            if self.on_finish is not None:
                self.on_finish()
        if self.ready and (urgent or not resting):
            self.wake()

    def fail(self, error: CandleVllmError) -> None:
        """Say that nothing more will come."""
        if not self.finished:
            self.error = error
            self.wake()

    def wake(self) -> None:
        """Wake the waiting thread or task, from any thread."""
        if self._arrived is not None:
            self._arrived.set()
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        loop, future = waiter
        if running_loop() is loop:
            _resolve(future)
        elif not loop.is_closed():
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:  # closed between the question and the call: nobody waits there any more
                return

    def wait_blocking(self, timeout: float) -> None:
        """Wait in this thread until another one pushes."""
        if self._arrived is None:
            self._arrived = threading.Event()
        self._arrived.clear()
        if not self.ready:
            self._arrived.wait(timeout)

    async def wait_async(self) -> None:
        """Wait in this task until somebody pushes."""
        if self._waiter is not None and not self._waiter[1].done():
            raise RuntimeError("another task waits for this request already; a request has one reader at a time")
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiter = (loop, future)
        # Looked at again only after the waiter stands, or an event pushed by another thread could be slept through.
        if self.ready:
            self._waiter = None
            return
        try:
            await future
        finally:
            if self._waiter is not None and self._waiter[1] is future:
                self._waiter = None


class Inbox:
    """One native mailbox and the sinks of the requests that were submitted with it."""

    def __init__(self) -> None:
        self.mailbox = _native.Mailbox()
        self._sinks: dict[int, Sink] = {}
        self._reading = threading.Lock()
        # Weak: the loop itself keeps the inbox while it watches it, and an inbox must not keep a loop that is gone.
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._watched = False
        self._handing_out = False
        self._resting = False

    def add(self, request: int, sink: Sink) -> None:
        """Hand the events of this request to this sink from now on."""
        self._sinks[request] = sink

    def discard(self, request: int) -> None:
        """Drop what still comes for this request."""
        self._sinks.pop(request, None)

    def pump(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for events, releasing the GIL, and hand out all there are."""
        with self._reading:
            self._hand_out(self.mailbox.poll(timeout) if timeout > 0 else self.mailbox.try_poll())

    def wait(self, sink: Sink, timeout: float) -> None:
        """Wait up to `timeout` seconds in this thread for an event of this sink (or of any other)."""
        loop = self._watching_loop()
        if loop is not None and loop.is_running() and loop is not running_loop():
            sink.wait_blocking(timeout)
        elif not sink.ready:
            self.pump(timeout)

    def watch(self) -> None:
        """Have the running asyncio loop hand out events as they come, for as long as requests are under way."""
        import asyncio

        loop = asyncio.get_running_loop()
        watching = self._watching_loop()
        if watching is loop or (watching is not None and watching.is_running()):
            return
        self._loop = weakref.ref(loop)
        self._watched = True
        # Whatever another loop was about, it will not come back to it.
        self._handing_out = False
        self._end_rest()
        try:
            loop.add_reader(self.mailbox.fileno(), self._on_readable)
        except NotImplementedError:  # such as the proactor loop of Windows
            # It lives as long as inbox and loop do: ending it sooner would race with the next request.
            served = (weakref.ref(self), loop)
            threading.Thread(target=_serve, args=served, name="candle-vllm-inbox", daemon=True).start()

    def fail_all(self, error: CandleVllmError) -> None:
        """Hand out what has arrived, then tell every request that is not at its end that nothing more will come."""
        self.pump(0)
        for request, sink in list(self._sinks.items()):
            self.discard(request)
            sink.fail(error)

    def _hand_out(self, events: list[_native.Event], *, resting: bool = False) -> None:
        for event in events:
            request = event.request
            sink = self._sinks.get(request)
            if sink is None:
                continue
            if event.finish_reason is not None:
                self.discard(request)
            sink.push(event, resting=resting)

    def _watching_loop(self) -> asyncio.AbstractEventLoop | None:
        loop = self._loop() if self._loop is not None and self._watched else None
        return None if loop is None or loop.is_closed() else loop

    def _on_readable(self) -> None:
        loop = running_loop()
        if loop is None or self._handing_out:
            return
        if self._resting:
            with self._reading:
                self._hand_out(self.mailbox.try_poll(), resting=True)
            return
        began = time.thread_time()
        self.pump(0)
        # Runs after the readers that were just woken, and so knows what all of it has cost.
        self._handing_out = True
        loop.call_soon(self._rest, loop, began)

    def _rest(self, loop: asyncio.AbstractEventLoop, began: float) -> None:
        """After handing out: watch on, or rest for a while, or leave the mailbox alone when nobody waits."""
        self._handing_out = False
        if self._watching_loop() is not loop:
            return
        rest = min(_REST * (time.thread_time() - began), _LONGEST_REST)
        if not self._sinks:
            # Watched anew by the next request: an idle inbox costs its loop nothing.
            self._watched = False
            loop.remove_reader(self.mailbox.fileno())
        elif rest >= _SHORTEST_REST:
            self._resting = True
            self.mailbox.rest(True)
            loop.call_later(rest, self._resume, loop)

    def _resume(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._resting and self._watching_loop() is loop:
            self._end_rest()
            self._on_readable()

    def _end_rest(self) -> None:
        """Wake those for whom something came meanwhile, and watch as before."""
        if not self._resting:
            return
        self._resting = False
        self.mailbox.rest(False)
        for sink in list(self._sinks.values()):
            if sink.ready:
                sink.wake()


def _serve(inbox: weakref.ref[Inbox], loop: asyncio.AbstractEventLoop) -> None:
    """What `add_reader` does, in a thread, for loops that have no such thing."""
    while not loop.is_closed() and (served := inbox()) is not None:
        served.pump(_SLICE)
        del served


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The asyncio loop that runs in this thread, if any."""
    if "asyncio" not in sys.modules:  # it takes longer to import than all the rest, and no loop runs without it
        return None
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
