"""Entering: a request on its way to its model. Must not know what it will ask of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

from candle_vllm.generation.request import GenerationRequest
from candle_vllm.models import LoadedModel, Models, WaitStatus

__all__ = ["Entering"]


class Entering:
    """Takes a lease of the model, and tells meanwhile what it waits for."""

    def __init__(self, models: Models, request: GenerationRequest) -> None:
        self._heard: WaitStatus | None = None
        self._stirred = asyncio.Event()
        self._lease: AbstractAsyncContextManager[LoadedModel] = models.lease(
            request.model or None,
            on_status=self._hear if request.stream else None,
            priority=request.priority,
            deadline=None if request.timeout is None else time.monotonic() + request.timeout,
        )
        self._task: asyncio.Task[LoadedModel] | None = None

    @property
    def model(self) -> LoadedModel:
        """The model, once all waits are over."""
        assert self._task is not None
        return self._task.result()

    async def waits(self) -> AsyncGenerator[WaitStatus, None]:
        """What is waited for, as it changes; ends when the model is there, and raises why it is not."""
        self._task = asyncio.create_task(_enter(self._lease))
        self._task.add_done_callback(lambda _: self._stirred.set())
        while not self._task.done():
            await self._stirred.wait()
            self._stirred.clear()
            if self._heard is not None and not self._task.done():
                heard, self._heard = self._heard, None
                yield heard
        self._task.result()
        if self._heard is not None:
            # One who waited hears that it is over.
            yield self._heard

    def _hear(self, wait: WaitStatus) -> None:
        """Keep the newest alone, for a reader that is slow."""
        self._heard = wait
        self._stirred.set()

    async def leave(self, failure: BaseException | None) -> None:
        """Give the lease back, or stop waiting for it; `failure` is what ended the request, if it did not end well."""
        task, self._task = self._task, None
        if task is None:
            return
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            await self._lease.__aexit__(type(failure) if failure else None, failure, None)


async def _enter(lease: AbstractAsyncContextManager[LoadedModel]) -> LoadedModel:
    return await lease.__aenter__()
