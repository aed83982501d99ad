"""Bridge: the synchronous door to asynchronous work. Its loop runs in a thread of its own, so that any thread may call.

Must not know what it carries.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from candle_vllm.errors import RequestCancelledError

__all__ = ["Bridge"]

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")


class Bridge:
    """Starts its thread with the first call; the thread ends when the bridge is closed or dropped.

    Calls work in every thread, one that runs an event loop included, and in a child after a fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._end: Callable[[], Any] | None = None

    def call(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The result of `work`, which is cancelled and seen through when the caller is interrupted."""
        task = _Task(self._running(), work)
        try:
            task.ended.wait()
        finally:
            task.end()
        return task.result()

    def iterate(self, items: AsyncGenerator[ItemT, None]) -> Generator[ItemT, None, None]:
        """The items as they come. The work begins with the first one asked for, and ends with the generator."""
        arrived: queue.SimpleQueue[ItemT | _End] = queue.SimpleQueue()
        task = _Task(self._running(), _pump(items, arrived.put), at_end=lambda: arrived.put(_End()))
        try:
            while not isinstance(item := arrived.get(), _End):
                yield item
        finally:
            task.end()
        task.result()

    def close(self) -> None:
        """End the thread. Calls that still wait are cancelled."""
        with self._lock:
            end, self._end, self._loop = self._end, None, None
        if end is not None:
            end()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._process = os.getpid()
                self._loop = loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(loop,), name="candle-vllm-bridge", daemon=True).start()
                self._end = weakref.finalize(self, _stop, loop, self._process)
            return self._loop


class _End:
    """Stands behind the last item."""


class _Task(Generic[ResultT]):
    """Work on another thread's loop. `at_end` is called there when it has ended, however it did."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, ResultT],
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.ended = threading.Event()
        self._loop = loop
        self._work = work
        self._at_end = at_end
        self._task: asyncio.Task[ResultT] | None = None
        loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[ResultT]) -> None:
        self.ended.set()
        self._at_end()

    def end(self) -> None:
        """Cancel the work where it still runs, and wait until it has ended."""
        if not self.ended.is_set():
            self._loop.call_soon_threadsafe(self._cancel)
            self.ended.wait()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def result(self) -> ResultT:
        """What the work gave or raised, once it has ended."""
        if self._task is None or self._task.cancelled():
            raise RequestCancelledError("the request was cancelled before its answer was complete")
        return self._task.result()


async def _pump(items: AsyncGenerator[ItemT, None], put: Callable[[ItemT], None]) -> None:
    try:
        async for item in items:
            put(item)
    finally:
        await items.aclose()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, process: int) -> None:
    if os.getpid() == process and not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
