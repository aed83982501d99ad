"""ModelSlot: the place of one model that is still being loaded, and the queue in front of it.

Must not know of HTTP, nor of how a model is loaded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from candle_vllm.errors import ModelLoadError, ModelNotFoundError, QueueFullError, QueueTimeoutError
from candle_vllm.models.loaded import LoadedModel
from candle_vllm.models.provider import OnStatus, Selection
from candle_vllm.models.status import ModelEntry, ModelStatus, WaitStatus

__all__ = ["ModelSlot"]


class ModelSlot:
    """`Models` over one model that may still be loading. `queue_size` requests may wait, each for `timeout` seconds."""

    def __init__(self, names: Sequence[str], *, queue_size: int = 10, timeout: float = 30.0) -> None:
        self._names = tuple(names)
        self._queue_size = queue_size
        self._timeout = timeout
        self._created = int(time.time())
        self._error: str | None = None
        self._settled = asyncio.Event()
        self._waiting = 0
        self._in_flight = 0
        self.active: LoadedModel | None = None

    def set_ready(self, model: LoadedModel) -> None:
        """The model is there: those who wait go on."""
        self.active = model
        self._settled.set()

    def set_failed(self, reason: str) -> None:
        """The model cannot be loaded: those who wait, and all who come, are told why."""
        self._error = reason
        self._settled.set()

    @asynccontextmanager
    async def lease(
        self,
        name: str | None,
        *,
        on_status: OnStatus | None = None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> AsyncIterator[LoadedModel]:
        """As `Models.lease`."""
        if name and name not in self._names:
            raise ModelNotFoundError.among(name, self._names)
        if not self._settled.is_set():
            await self._wait(on_status)
        if self.active is None:
            raise ModelLoadError(f"the model could not be loaded: {self._error}")
        self._in_flight += 1
        try:
            yield self.active
        finally:
            self._in_flight -= 1

    async def _wait(self, on_status: OnStatus | None) -> None:
        if self._waiting >= self._queue_size:
            raise QueueFullError(f"{self._waiting} requests wait for the model to load already; try again later")
        self._waiting += 1
        if on_status is not None:
            on_status(WaitStatus("loading", self._waiting, self._names[0]))
        try:
            async with asyncio.timeout(None if on_status is not None else self._timeout):
                await self._settled.wait()
        except TimeoutError:
            raise QueueTimeoutError(
                f"The model was not loaded within the {self._timeout:g} seconds that a request may wait."
            ) from None
        finally:
            self._waiting -= 1

    def listing(self) -> Sequence[ModelEntry]:
        """The model under each of its names."""
        length = self.active.info.max_sequence_length if self.active else None
        return [ModelEntry(name, self._created, length, active=self.active is not None) for name in self._names]

    def status(self) -> ModelStatus:
        """How the model stands."""
        active = self.active
        if active is None:
            state = "loading" if self._error is None else "error"
            return ModelStatus(state, None, self._error, {self._names[0]: self._waiting})  # type: ignore[arg-type]
        stats = active.engine.stats()
        able = stats.healthy and not stats.closed
        return ModelStatus("ready" if able else "error", self._names[0], stats.failure, {}, self._in_flight)

    async def select(self, name: str) -> Selection:
        """`already_active`, or ModelNotFoundError."""
        if name not in self._names:
            raise ModelNotFoundError.among(name, self._names)
        return "already_active"

    async def aclose(self) -> None:
        """Nothing: the engine is its owner's to close."""
