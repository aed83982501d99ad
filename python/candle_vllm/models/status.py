"""How models stand and how long a request still waits: plain data. Must not know of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["ModelEntry", "ModelState", "ModelStatus", "WaitPhase", "WaitStatus"]

ModelState = Literal["idle", "ready", "switching", "loading", "error"]
"""`idle`: nothing is loaded and nothing is asked for. `ready`: the active model serves. `switching`: the active model
finishes what it runs, or gives its memory back. `loading`: the next one loads. `error`: nothing is loaded and the last
attempt failed; a request tries again."""

WaitPhase = Literal["queued", "waiting_for_model", "loading", "processing"]
"""`queued`: other models come first. `waiting_for_model`: its model is next, the active one finishes what it runs.
`loading`: its model loads. `processing`: it has its model, and no first token yet."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """How the models of a server stand at one moment."""

    state: ModelState
    active_model: str | None
    """Name of the model that is loaded."""
    last_error: str | None = None
    """Why the latest load failed; None once one has succeeded."""
    queue_lengths: Mapping[str, int] = field(default_factory=dict)
    """Requests that wait for a model, by its name; every model is listed."""
    in_flight_requests: int = 0
    """Requests that hold the active model."""
    switch_requested_at: int | None = None
    """When the switch or load under way was asked for, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class WaitStatus:
    """How one request waits at one moment."""

    status: WaitPhase
    position: int
    """Requests for the same model that go before it, itself included: 1 is next. 0 once it has its model."""
    model: str
    """The model that it waits for."""
    eta_ms: int | None = None
    """Milliseconds until it has its model, from what was measured so far; None while nothing was."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One line of a listing."""

    id: str
    """Name that requests use."""
    created: int
    """Unix seconds: when it was loaded, or entered into the catalogue."""
    max_model_len: int | None = None
    """Longest sequence in tokens; None while it was never loaded."""
    active: bool = False
    """Whether it is loaded now."""
    notes: str | None = None
    """What the catalogue says of it."""
