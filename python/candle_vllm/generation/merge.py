"""The pieces of a request's answers, in the order in which they come. Must not know what is in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from candle_vllm.engine import Request
from candle_vllm.records import GenerationChunk

__all__ = ["AT_ONCE", "merged"]

AT_ONCE = 32
"""Answers after which the event loop gets a turn, at each station of the road."""


async def merged(handles: Sequence[Request], *, whole: bool) -> AsyncGenerator[tuple[int, GenerationChunk], None]:
    """The pieces of all answers with their indices, in the order in which they come; `whole`: one piece an answer."""
    if len(handles) == 1:
        if whole:
            yield 0, await _whole(handles[0])
            return
        async for chunk in handles[0]:
            yield 0, chunk
        return
    arrived: asyncio.Queue[tuple[int, GenerationChunk | BaseException | None]] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []
    running = len(handles)
    item: GenerationChunk | BaseException | None = None
    try:
        for at, handle in enumerate(handles):
            tasks.append(asyncio.create_task(_forward(at, handle, whole, arrived)))
            if len(tasks) % AT_ONCE == 0:
                await asyncio.sleep(0)
        while running:
            index, item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        for at in range(0, len(tasks), AT_ONCE):
            await asyncio.gather(*tasks[at : at + AT_ONCE], return_exceptions=True)
        # A frame that holds its own error keeps all else that it holds, the engine too, until a collection.
        item = None


async def _forward(index: int, handle: Request, whole: bool, arrived: asyncio.Queue[Any]) -> None:
    try:
        if whole:
            arrived.put_nowait((index, await _whole(handle)))
        else:
            async for chunk in handle:
                arrived.put_nowait((index, chunk))
        arrived.put_nowait((index, None))
    except Exception as error:
        arrived.put_nowait((index, error))


async def _whole(handle: Request) -> GenerationChunk:
    """The whole answer as one piece; nothing wakes the loop before it is there."""
    output = await handle.result_async()
    return GenerationChunk(
        text=output.text,
        token_ids=output.tokens,
        logprobs=output.logprobs,
        prompt_logprobs=output.prompt_logprobs,
        finish_reason=output.finish_reason,
        stop_reason=output.stop_reason,
        stats=output.stats,
    )
