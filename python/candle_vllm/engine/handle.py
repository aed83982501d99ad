"""RequestHandle: one request under way, read as chunks or as a whole, by a thread or by a task.

Knows nothing of how requests are made.
"""

import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Self

from candle_vllm import _native
from candle_vllm.engine.collect import Collector
from candle_vllm.engine.inbox import Inbox, Sink
from candle_vllm.errors import GenerationError, RequestCancelledError, RequestTimeoutError
from candle_vllm.params import GenerationParams
from candle_vllm.records import GenerationChunk, GenerationOutput

__all__ = ["RequestHandle"]

_SLICE = 1.0
"""Seconds that a thread waits at a time; in between it looks whether its handle was closed."""


class RequestHandle:
    """One request under way: an iterator (`for`) and an asynchronous iterator (`async for`) over its chunks.

    Each chunk is a `GenerationChunk` and holds what has arrived since the last one, usually one token's worth; the last
    one has a `finish_reason`. `result()` and `await handle` give the whole answer. One reader at a time.

    The request is cancelled, and its memory freed at once, by `cancel()`, by closing the handle (`close`, `aclose`,
    `with`, `async with`), by cancelling the task that reads it, and when the handle is dropped unread.
    """

    def __init__(
        self, engine: _native.Engine, inbox: Inbox, request: int, prompt: list[int], params: GenerationParams
    ) -> None:
        self._engine = engine
        self._inbox = inbox
        self._id = request
        self._prompt = prompt
        self._sink = Sink()
        self._collector = Collector(prompt, params)
        self._closed = False
        inbox.add(request, self._sink)

    @property
    def id(self) -> int:
        """Number of the request, unique within its engine."""
        return self._id

    @property
    def prompt_tokens(self) -> list[int]:
        """Token ids of the prompt as the model sees it."""
        return self._prompt

    @property
    def done(self) -> bool:
        """Whether the request has ended, read or not."""
        return self._closed or self._sink.finished or self._sink.error is not None

    def on_end(self, call: Callable[[], None]) -> None:
        """Call this when the last chunk arrives (once), in the thread that hands it out; it must be quick."""
        self._sink.on_finish = call

    def cancel(self) -> None:
        """Free the request's memory now. Its readers get a last chunk with `finish_reason` `cancelled`.

        Does nothing when the request has ended. Any thread may call it.
        """
        if not self.done:
            self._engine.abort(self._id)

    def close(self) -> None:
        """Cancel, and drop what was not read: iteration ends here. Any number of calls."""
        if self._closed:
            return
        if not self.done:
            self._engine.abort(self._id)
        self._closed = True
        self._inbox.discard(self._id)
        self._sink.wake()

    async def aclose(self) -> None:
        """As `close`; never waits."""
        self.close()

    def result(self, timeout: float | None = None) -> GenerationOutput:
        """Wait for the end and give the whole answer, chunks that were read before included.

        `timeout` is in seconds. Raises RequestTimeoutError when it is over (the request goes on), and
        RequestCancelledError when the handle or its engine was closed before the answer was complete.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._sink.only_finish = True
        try:
            while self._collector.last is None:
                self._check_open()
                self._wait(deadline)
                self._take()
        finally:
            self._sink.only_finish = False
        return self._collector.output()

    async def result_async(self) -> GenerationOutput:
        """As `result`, in a task; cancelling the task cancels the request. `await handle` is the same."""
        self._sink.only_finish = True
        try:
            while self._collector.last is None:
                self._check_open()
                await self._wait_async()
                self._take()
        finally:
            self._sink.only_finish = False
        return self._collector.output()

    def __await__(self) -> Generator[Any, Any, GenerationOutput]:
        return self.result_async().__await__()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> GenerationChunk:
        while self._collector.last is None and not self._closed:
            if (chunk := self._take()) is not None:
                return chunk
            self._wait(None)
        raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationChunk:
        while self._collector.last is None and not self._closed:
            if (chunk := self._take()) is not None:
                return chunk
            await self._wait_async()
        raise StopAsyncIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The attribute is missing when the constructor failed.
        if getattr(self, "_closed", True) or self.done:
            return
        self.close()

    def __repr__(self) -> str:
        return f"<RequestHandle {self._id}: {'ended' if self.done else 'under way'}>"

    def _take(self) -> GenerationChunk | None:
        """Everything that has arrived as one chunk; raises what ended the request without a last chunk."""
        waiting = self._sink.events
        if waiting:
            events = [waiting.popleft() for _ in range(len(waiting))]
            return self._collector.chunk(events)
        if self._sink.error is not None and not self._closed:
            raise self._sink.error
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise RequestCancelledError(f"request {self._id} was closed before its answer was complete")

    def _wait(self, deadline: float | None) -> None:
        sink = self._sink
        if sink.ready:
            return
        if deadline is not None and time.monotonic() >= deadline:
            raise RequestTimeoutError(f"request {self._id} has not ended in the time given; it goes on")
        if not self._engine.background:
            self._stepped(self._engine.step())
            return
        pause = _SLICE if deadline is None else min(_SLICE, max(deadline - time.monotonic(), 0.001))
        self._inbox.wait(sink, pause)

    async def _wait_async(self) -> None:
        sink = self._sink
        if sink.ready:
            return
        try:
            if self._engine.background:
                self._inbox.watch()
                await sink.wait_async()
            else:
                import asyncio

                loop = asyncio.get_running_loop()
                self._stepped(await loop.run_in_executor(None, self._engine.step))
        except BaseException:
            self.close()
            raise

    def _stepped(self, report: tuple[int, int, int, int, int]) -> None:
        """After a step of an engine that does not run by itself."""
        self._inbox.pump(0)
        running, waiting = report[3:]
        if not self._sink.ready and running + waiting == 0:
            self._sink.fail(GenerationError(f"request {self._id} is not known to the engine any more"))
