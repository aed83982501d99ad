"""What a manager keeps of the model in memory, of each lease on it, and of the switch under way."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from candle_vllm.models.catalog import CatalogEntry
from candle_vllm.models.loaded import LoadedModel
from candle_vllm.models.status import WaitPhase

__all__ = ["Active", "Grant", "Phase", "Turn"]

Phase = Literal["fetching", "draining", "unloading", "loading"]
"""The steps of a switch, in order. While `fetching`, the active model takes new requests."""


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
