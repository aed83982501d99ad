"""LoadProgress: how far the model that loads is, as its loader tells it. Must not know who looks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LoadProgress", "Loading"]


@dataclass(frozen=True, slots=True)
class Loading:
    """One stage of a load."""

    stage: str
    done: int
    total: int
    """In the stage's own unit; 0 = not known."""

    @property
    def share(self) -> float | None:
        """From 0 to 1; None while it is not known."""
        return min(1.0, self.done / self.total) if self.total > 0 else None


class LoadProgress:
    """The latest that was told. `report` may be called in any thread: what it sets is replaced whole."""

    def __init__(self) -> None:
        self.latest: Loading | None = None

    def report(self, stage: str, done: int, total: int) -> None:
        """Hear of a load: the form that loaders tell their progress in."""
        self.latest = Loading(stage, done, total)

    def clear(self) -> None:
        """Nothing loads now."""
        self.latest = None
