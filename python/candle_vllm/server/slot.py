"""ModelSlot: the place of the one model that a server serves, and the queue in front of it while it loads.

Must not know of HTTP, nor of how a model is loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from candle_vllm.openai import ApiError, OpenAIAdapter
from candle_vllm.openai.errors import SERVER_BUSY, SERVER_ERROR

State = Literal["loading", "ready", "error"]


class ModelSlot:
    """Gives requests the adapter, at once where the model is there and after a bounded wait where it loads.

    ``queue_size`` is how many requests may wait at once; ``request_timeout`` how many seconds one that does not
    stream may. To be used from one event loop.
    """

    def __init__(self, model_names: Sequence[str], *, queue_size: int = 10, request_timeout: float = 30.0) -> None:
        self._names = tuple(model_names)
        self._queue_size = queue_size
        self._timeout = request_timeout
        self._adapter: OpenAIAdapter | None = None
        self._error: str | None = None
        self._settled = asyncio.Event()
        self._waiting = 0

    @classmethod
    def of(cls, adapter: OpenAIAdapter) -> ModelSlot:
        """A slot whose model is there."""
        slot = cls(adapter.model_names)
        slot.set_ready(adapter)
        return slot

    @property
    def state(self) -> State:
        """``loading``, ``ready`` or ``error``."""
        if self._adapter is not None:
            return "ready"
        return "loading" if self._error is None else "error"

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names under which the model is served."""
        return self._names

    @property
    def error(self) -> str | None:
        """Why loading failed."""
        return self._error

    @property
    def waiting(self) -> int:
        """Requests that wait for the model to load."""
        return self._waiting

    @property
    def ready(self) -> OpenAIAdapter | None:
        """The adapter where the model is there, without waiting."""
        return self._adapter

    def set_ready(self, adapter: OpenAIAdapter) -> None:
        """The model is there: those who wait go on."""
        self._adapter = adapter
        self._settled.set()

    def set_failed(self, reason: str) -> None:
        """The model cannot be loaded: those who wait, and all who come, are told why."""
        self._error = reason
        self._settled.set()

    async def adapter(self, *, streaming: bool) -> OpenAIAdapter:
        """The adapter, after waiting for it where it must be. Raises :class:`ApiError` when that fails."""
        if self._adapter is None and self._error is None:
            await self._wait(streaming)
        if self._adapter is not None:
            return self._adapter
        raise ApiError(
            f"The model could not be loaded: {self._error}", code="model_load_failed", status=503, type=SERVER_ERROR
        )

    async def _wait(self, streaming: bool) -> None:
        if self._waiting >= self._queue_size:
            raise self._busy(f"{self._waiting} requests wait for the model already", queued=False)
        self._waiting += 1
        try:
            await asyncio.wait_for(self._settled.wait(), None if streaming else self._timeout)
        except TimeoutError:
            raise self._busy(f"the model was not ready within {self._timeout:g} seconds", queued=True) from None
        finally:
            self._waiting -= 1

    def _busy(self, why: str, *, queued: bool) -> ApiError:
        return ApiError(
            f"The server is busy: {why}. Try again later.",
            code="model_loading",
            status=503,
            type=SERVER_BUSY,
            retry_after=5,
            extra={"queued": queued},
        )
