"""What a manager keeps of the model in memory, of each lease on it, and of the switch under way."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from candle_vllm.errors import ModelLoadError
from candle_vllm.models.catalog import CatalogEntry
from candle_vllm.models.loaded import LoadedModel
from candle_vllm.models.status import WaitPhase

__all__ = ["Active", "Failures", "Grant", "Phase", "Turn", "load_error", "said"]

Phase = Literal["fetching", "draining", "unloading", "loading"]
"""The steps of a switch, in order. While `fetching`, the active model takes new requests."""

_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 60.0


class Grant:
    """One lease on the active model."""

    __slots__ = ("active", "since")

    def __init__(self, active: Active) -> None:
        self.active = active
        self.since = time.monotonic()


class Active:
    """The model in memory and the leases on it."""

    def __init__(self, entry: CatalogEntry, model: LoadedModel) -> None:
        self.entry = entry
        self.model = model
        self.leases: set[Grant] = set()
        self.last_used = time.monotonic()
        self.failure: str | None = None
        """Why its engine can serve no more."""

    def grant(self) -> Grant:
        """One more lease."""
        grant = Grant(self)
        self.leases.add(grant)
        return grant

    def release(self, grant: Grant) -> float:
        """The lease has ended; how long it lasted, in seconds."""
        self.leases.discard(grant)
        self.last_used = time.monotonic()
        return self.last_used - grant.since

    def ages(self) -> list[float]:
        """Seconds that each lease has lasted so far."""
        now = time.monotonic()
        return [now - grant.since for grant in self.leases]


class Failures:
    """Which models failed to load of late, and for how long each is left alone: longer each time.

    Loading one costs the active model its place. Whoever asks for a broken model every second would take it away from
    all the others every second.
    """

    def __init__(self) -> None:
        self._failed: dict[str, tuple[float, int, str]] = {}

    def note(self, model: str, reason: str) -> None:
        """It has failed once more."""
        _, times, _ = self._failed.get(model, (0.0, 0, ""))
        self._failed[model] = (time.monotonic(), times + 1, reason)

    def forget(self, model: str) -> None:
        """It has been loaded."""
        self._failed.pop(model, None)

    def resting(self, model: str) -> tuple[float, str] | None:
        """Seconds for which it is left alone, and why; None when it may be tried."""
        if model not in self._failed:
            return None
        when, times, reason = self._failed[model]
        left = when + min(_FIRST_PAUSE * 2 ** (times - 1), _LONGEST_PAUSE) - time.monotonic()
        return (left, reason) if left > 0 else None


class Turn:
    """One switch under way: to `target`, or to no model at all (None)."""

    def __init__(self, target: CatalogEntry | None, phase: Phase) -> None:
        self.target = target
        self.phase: Phase = phase
        self.requested_at = time.time()
        """Unix seconds."""
        self.began = self.phase_began = time.monotonic()
        self.loaded: LoadedModel | None = None
        """What it brought."""
        self.failure: Exception | None = None
        """Why it brought nothing."""
        self.ended = asyncio.Event()

    def enter(self, phase: Phase) -> None:
        """Go on to this phase."""
        self.phase = phase
        self.phase_began = time.monotonic()

    def phase_for(self, entry: CatalogEntry) -> WaitPhase:
        """What this turn means to one who waits for `entry`."""
        if self.target is not entry:
            return "queued"
        return "loading" if self.phase == "loading" else "waiting_for_model"

    @property
    def elapsed(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self.began

    @property
    def phase_elapsed(self) -> float:
        """Seconds in its phase."""
        return time.monotonic() - self.phase_began


def said(error: Exception) -> str:
    """What an error says, or what it is where it says nothing."""
    return str(error) or type(error).__name__


def load_error(entry: CatalogEntry, reason: str, cause: Exception | None = None) -> ModelLoadError:
    """A new error for each who waits: one shared by all would gather their traces."""
    error = ModelLoadError(f"the model '{entry.name}' could not be loaded: {reason}")
    error.__cause__ = cause
    return error
