"""SingleModel: one engine that is loaded already, under its names. The engine belongs to the caller."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from candle_vllm.errors import ModelNotFoundError
from candle_vllm.models.defaults import SamplingDefaults
from candle_vllm.models.loaded import LoadedModel, Notation, Waiting
from candle_vllm.models.observe import UNSEEN, Observer
from candle_vllm.models.provider import OnStatus, Selection
from candle_vllm.models.status import ModelEntry, ModelStatus

if TYPE_CHECKING:
    from candle_vllm.engine import Engine

__all__ = ["SingleModel"]


class SingleModel:
    """`Models` over one engine. Any thread and any event loop may use it.

    `names` are those that requests may use; with None any name is taken. `waiting` bounds what may wait for a place;
    `notation` says how the model writes calls and thinking, where its template does not.
    """

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str] | None = None,
        defaults: SamplingDefaults | None = None,
        *,
        waiting: Waiting | None = None,
        observer: Observer = UNSEEN,
        notation: Notation | None = None,
    ) -> None:
        self._any_name = names is None
        self._model = LoadedModel.over(
            engine, names=names, defaults=defaults, waiting=waiting, observer=observer, notation=notation
        )
        self._in_flight = 0

    @property
    def active(self) -> LoadedModel:
        """The one there is."""
        return self._model

    def lease(
        self,
        name: str | None,
        *,
        on_status: OnStatus | None = None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> _Lease:
        """As `Models.lease`; never waits."""
        return _Lease(self, name)

    def listing(self) -> Sequence[ModelEntry]:
        """The engine under each of its names."""
        model = self._model
        length = model.info.max_sequence_length
        return [ModelEntry(name, model.created, length, active=True) for name in model.names]

    def status(self) -> ModelStatus:
        """`ready`, or `error` once the engine has failed or was closed."""
        stats = self._model.engine.stats()
        failure = "the engine was closed" if stats.closed else None if stats.healthy else stats.failure
        name = self._model.names[0]
        return ModelStatus(
            state="ready" if failure is None else "error",
            active_model=name,
            last_error=failure,
            queue_lengths={name: 0},
            in_flight_requests=self._in_flight,
        )

    async def select(self, name: str) -> Selection:
        """`already_active`, or ModelNotFoundError."""
        self._check(name)
        return "already_active"

    async def aclose(self) -> None:
        """Nothing: the engine is its owner's to close."""

    def _check(self, name: str | None) -> None:
        if name and not self._any_name and name not in self._model.names:
            raise ModelNotFoundError.among(name, self._model.names)


class _Lease:
    """Names are checked on entering, so that all of a lease's errors come from one place."""

    __slots__ = ("_models", "_name")

    def __init__(self, models: SingleModel, name: str | None) -> None:
        self._models = models
        self._name = name

    async def __aenter__(self) -> LoadedModel:
        self._models._check(self._name)
        self._models._in_flight += 1
        return self._models._model

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._models._in_flight -= 1
