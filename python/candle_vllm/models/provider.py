"""Models: where a request gets its model from, whether one engine is all there is or a catalogue is served in turns.

Holds no behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from candle_vllm.models.loaded import LoadedModel
from candle_vllm.models.status import ModelEntry, ModelStatus, WaitStatus

__all__ = ["Models", "OnStatus", "Selection"]

OnStatus = Callable[[WaitStatus], None]
"""Hears how a request waits. Called on the event loop; must be quick and must not raise."""

Selection = Literal["initiated", "already_active"]
"""What became of `select`: loading was begun, or the model is there."""


class Models(Protocol):
    """A source of loaded models."""

    def lease(
        self,
        name: str | None,
        *,
        on_status: OnStatus | None = None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> AbstractAsyncContextManager[LoadedModel]:
        """The model of this name, which stays loaded until the context ends; None or empty = the one that is served.

        Entering waits for the model's turn, and for it to load. Meanwhile `on_status` hears where the request stands:
        at once, at each change, and about once a second. Smaller `priority` goes first, then who came first.
        `deadline` is when waiting ends, by `time.monotonic`; None = never. Cancelling the task gives the place up.

        Entering raises ModelNotFoundError for a name that is not served, QueueFullError at once when too many wait,
        QueueTimeoutError at the deadline, ModelLoadError with the reason when the model cannot be loaded, and
        RequestCancelledError when the models are closed.
        """
        ...

    @property
    def active(self) -> LoadedModel | None:
        """The model that is loaded now, without a lease: it may be given back at any moment."""
        ...

    def listing(self) -> Sequence[ModelEntry]:
        """The models that requests may name; at once, whatever is under way."""
        ...

    def status(self) -> ModelStatus:
        """How the models stand; at once."""
        ...

    async def select(self, name: str) -> Selection:
        """Begin to make this model the active one; returns as soon as that is begun.

        Raises ModelNotFoundError, and SwitchUnderWayError while a switch to another model is under way.
        """
        ...

    async def aclose(self) -> None:
        """End: whoever waits is told, and the memory is given back where it belongs to this object."""
        ...
