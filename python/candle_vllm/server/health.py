"""Health: whether the process answers, whether a model can serve, and whether tokens really come.

Must not know of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel

from candle_vllm.engine import Engine
from candle_vllm.errors import GenerationError
from candle_vllm.models import Models, ModelState
from candle_vllm.params import GenerationParams
from candle_vllm.records import EngineStats, FinishReason

__all__ = ["Alive", "DecodeProbe", "DecodeReport", "Ready", "alive", "ready"]

_URGENT = -(2**31)
"""Priority of a probe: it is a step's work, and must not stand behind what others wait for."""
_GLANCE = 0.01
"""Seconds between looks at an engine's counter."""


class Alive(BaseModel):
    """How the models stand."""

    status: Literal["ok"] = "ok"
    """That there is an answer is the answer."""
    state: ModelState
    model: str | None
    """The one that is loaded."""
    error: str | None
    """Why the latest load, or the engine, failed."""


class Ready(BaseModel):
    """Whether a request that comes now will be served, and the engine's figures."""

    status: Literal["ready", "not_ready"]
    state: ModelState
    model: str | None
    error: str | None
    engine: EngineStats | None


class DecodeReport(BaseModel):
    """One look at whether tokens come."""

    status: str
    """`ok`, `idle` where nothing is loaded, or what is wrong."""
    seconds: float
    """Until a token came, or until it was given up."""

    @property
    def ok(self) -> bool:
        """Whether all is well. With nothing loaded it is: a request would load its model."""
        return self.status in ("ok", "idle")


def alive(models: Models) -> Alive:
    """How the models stand."""
    status = models.status()
    return Alive(state=status.state, model=status.active_model, error=status.last_error)


def ready(models: Models) -> Ready:
    """Whether a model can serve.

    With nothing loaded it can: the request loads its model. While a model loads, or after a failure, it may not.
    """
    status, active = models.status(), models.active
    return Ready(
        status="ready" if status.state in ("ready", "idle", "switching") else "not_ready",
        state=status.state,
        model=status.active_model,
        error=status.last_error,
        engine=None if active is None else active.engine.stats(),
    )


class DecodeProbe:
    """Asks the active engine for one token. Whoever asks within `fresh` seconds of a look shares what it found.

    A token of the engine's other work is as good as one of ours: where the batch is full ours would wait. No lease is
    taken, so that a probe neither loads a model nor keeps one from being unloaded.
    """

    def __init__(
        self, models: Models, *, deadline: float = 10.0, fresh: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._models = models
        self._deadline = deadline
        self._fresh = fresh
        self._clock = clock
        self._found: DecodeReport | None = None
        self._found_at = 0.0
        self._looking = asyncio.Lock()

    async def look(self) -> DecodeReport:
        """What was found just now, or is found now."""
        async with self._looking:
            if self._found is None or self._clock() - self._found_at > self._fresh:
                self._found = await self._look()
                self._found_at = self._clock()
            return self._found

    async def _look(self) -> DecodeReport:
        began = self._clock()
        active = self._models.active
        if active is None:
            return DecodeReport(status=self._models.status().state, seconds=0.0)
        status = "ok"
        try:
            async with asyncio.timeout(self._deadline):
                await _token(active.engine)
        except TimeoutError:
            status = f"no token within {self._deadline:g} seconds"
        except Exception as error:
            status = f"{type(error).__name__}: {error}"
        return DecodeReport(status=status, seconds=round(self._clock() - began, 4))


async def _token(engine: Engine) -> None:
    """Return when the engine has generated a token, of ours or of its other work."""
    before = engine.stats().generated_tokens
    request = engine.add_request([0], GenerationParams(max_tokens=1, temperature=0.0), priority=_URGENT)
    own = asyncio.ensure_future(request.result_async())
    others = asyncio.ensure_future(_advance(engine, before))
    try:
        await asyncio.wait({own, others}, return_when=asyncio.FIRST_COMPLETED)
        if own.done() and own.result().finish_reason is FinishReason.ERROR:
            raise GenerationError(str(own.result().stop_reason))
    finally:
        request.close()
        for task in (own, others):
            task.cancel()
        await asyncio.gather(own, others, return_exceptions=True)


async def _advance(engine: Engine, generated: int) -> None:
    # The engine has no event for this; a probe is short and rare.
    while engine.stats().generated_tokens == generated:  # noqa: ASYNC110
        await asyncio.sleep(_GLANCE)
