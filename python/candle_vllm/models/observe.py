"""Observer: who wants to know how models and their queues fare. Must not know who counts, or how."""

from __future__ import annotations

from typing import Literal, Protocol

__all__ = ["UNSEEN", "CancelStage", "Observer", "Rejection", "Unseen"]

Rejection = Literal["queue_full", "queue_timeout", "waiting_requests", "waiting_tokens"]
"""Why a request was turned away: its model's queue is full; it waited too long in it; too many requests, or too many
tokens, wait in the loaded model's own queue."""

CancelStage = Literal["queued", "loading"]
"""Where a request was whose client went away: waiting for its model's turn, or for its model to load."""


class Observer(Protocol):
    """Called on the event loop as things happen; must be quick and must not raise. Times are in seconds."""

    def queue_length(self, model: str, waiting: int) -> None:
        """So many requests wait for the model now."""
        ...

    def loaded(self, model: str, seconds: float) -> None:
        """The model was loaded in this time."""
        ...

    def load_failed(self, model: str, seconds: float) -> None:
        """Loading the model failed after this time."""
        ...

    def unloaded(self, model: str) -> None:
        """The model's memory was given back."""
        ...

    def switched(self, old: str, new: str, seconds: float) -> None:
        """`new` serves in place of `old`; the time since it was asked for, draining and loading included."""
        ...

    def rejected(self, model: str, reason: Rejection) -> None:
        """A request was turned away."""
        ...

    def cancelled(self, model: str, stage: CancelStage) -> None:
        """A request that waited was given up by its caller."""
        ...


class Unseen:
    """An observer that does nothing; others may inherit what they do not care for."""

    def queue_length(self, model: str, waiting: int) -> None:
        """Nothing."""

    def loaded(self, model: str, seconds: float) -> None:
        """Nothing."""

    def load_failed(self, model: str, seconds: float) -> None:
        """Nothing."""

    def unloaded(self, model: str) -> None:
        """Nothing."""

    def switched(self, old: str, new: str, seconds: float) -> None:
        """Nothing."""

    def rejected(self, model: str, reason: Rejection) -> None:
        """Nothing."""

    def cancelled(self, model: str, stage: CancelStage) -> None:
        """Nothing."""


UNSEEN = Unseen()
"""The one that stands where nobody looks."""
