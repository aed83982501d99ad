"""run_batch: every line of a file to whoever answers, so many at once, and each answer to the journal as it comes.

Lines are read a window at a time and go in the order of their prompts, so that those with a common beginning run
together and it is computed once. Must not know of models, or of how progress is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from candle_vllm.batch.answer import ROWS, Answer, Answered
from candle_vllm.batch.journal import Journal
from candle_vllm.batch.lines import Ask, Problem, ask_of, lines_of

__all__ = ["WINDOW", "WINDOW_BYTES", "Tally", "run_batch"]

WINDOW = 1024
"""Lines that are read ahead and ordered."""
WINDOW_BYTES = 16 << 20
"""Of the lines of a window, about."""

_SYNC = 1.0
"""Seconds after which what was written is forced to the disk."""


@dataclass(slots=True)
class Tally:
    """How far a run is."""

    lines: int = 0
    """Lines answered by this run."""
    failed: int = 0
    """Of these, lines without a good answer."""
    bytes: int = 0
    """Of the input's lines that are answered, by this run or before it."""
    skipped: int = 0
    """Lines that were answered before this run."""


async def run_batch(
    source: Path,
    journal: Journal,
    answer: Answer,
    *,
    at_once: int,
    window: int = WINDOW,
    stop: asyncio.Event | None = None,
    on_line: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Answer the lines of `source` that `journal` does not hold, `at_once` of them under way.

    Once `stop` is set no further line is begun, and those under way are seen through. Whatever keeps a line from being
    answered or written ends the run: UnansweredError, JournalError, OSError; the line then is not in the journal.
    """
    run = _Run(journal, answer, asyncio.Semaphore(at_once), stop or asyncio.Event(), on_line)
    with source.open("rb") as file:
        try:
            async with asyncio.TaskGroup() as group:
                await run.feed(group, _windows(file, journal, run.tally, window))
        except* Exception as errors:
            raise _first(errors) from None
    await asyncio.to_thread(journal.sync)
    return run.tally


@dataclass(slots=True)
class _Run:
    """One run: tasks of it write to the one journal, in the one loop."""

    journal: Journal
    answer: Answer
    free: asyncio.Semaphore
    stop: asyncio.Event
    on_line: Callable[[Tally], None]
    tally: Tally = field(default_factory=Tally)

    async def feed(self, group: asyncio.TaskGroup, windows: Iterator[list[Ask]]) -> None:
        """Begin the lines as places fall free, and end with the last one's beginning."""
        syncing = group.create_task(self._sync())
        under_way: set[asyncio.Task[None]] = set()
        async with aclosing(_ahead(windows)) as asks:
            async for ask in asks:
                await self.free.acquire()
                if self.stop.is_set():
                    break
                task = group.create_task(self._one(ask))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)
        syncing.cancel()

    async def _one(self, ask: Ask) -> None:
        try:
            said: Answered | Problem = ask.problem or await self.answer(ask.url, ask.body)
            self.journal.write(ask, said)
            self.tally.lines += 1
            self.tally.bytes += ask.size
            self.tally.failed += not (isinstance(said, Answered) and said.status == 200)
            self.on_line(self.tally)
        finally:
            self.free.release()

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(_SYNC)
            await asyncio.to_thread(self.journal.sync)


def _windows(file: BinaryIO, journal: Journal, tally: Tally, most: int) -> Iterator[list[Ask]]:
    """The lines that are not done, in windows, each in the order of its prompts."""
    window: list[Ask] = []
    size = 0
    for line in lines_of(file):
        ask = ask_of(line, ROWS)
        if journal.holds(ask.number, ask.custom_id):
            tally.skipped += 1
            tally.bytes += ask.size
            continue
        window.append(ask)
        size += ask.size
        if len(window) >= most or size >= WINDOW_BYTES:
            yield sorted(window, key=lambda ask: ask.key)
            window, size = [], 0
    yield sorted(window, key=lambda ask: ask.key)


async def _ahead(windows: Iterator[list[Ask]]) -> AsyncGenerator[Ask, None]:
    """The lines; while those of a window are taken, the next one is read in a thread."""
    reading = asyncio.create_task(asyncio.to_thread(next, windows, None))
    try:
        while (window := await reading) is not None:
            reading = asyncio.create_task(asyncio.to_thread(next, windows, None))
            for ask in window:
                yield ask
    finally:
        # A thread cannot be ended; the file stays open until it has.
        await asyncio.gather(reading, return_exceptions=True)


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """The first plain one."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
