"""Durations as measured, and what they let one promise. Knows nothing of models."""

from __future__ import annotations

import math

__all__ = ["Duration", "retry_after"]

_WEIGHT = 0.3
"""Share of the newest value: of what is older than six values a tenth is left."""
_UNKNOWN = 5
_LONGEST = 120


class Duration:
    """A running mean of times in seconds in which newer ones weigh more."""

    __slots__ = ("_mean",)

    def __init__(self) -> None:
        self._mean: float | None = None

    @property
    def mean(self) -> float | None:
        """The mean in seconds; None while nothing was measured."""
        return self._mean

    def add(self, seconds: float) -> None:
        """One more measurement."""
        self._mean = seconds if self._mean is None else self._mean + _WEIGHT * (seconds - self._mean)

    def left(self, elapsed: float) -> float | None:
        """Seconds that remain of one that has taken `elapsed` so far.

        One that has outlasted the mean is taken to be halfway, for it is no longer one of the usual.
        """
        if self._mean is None:
            return None
        return self._mean - elapsed if elapsed < self._mean else elapsed


def retry_after(eta: float | None) -> int:
    """Whole seconds after which trying again makes sense: from 1 to 120, and 5 where nothing is known."""
    return _UNKNOWN if eta is None else min(max(math.ceil(eta), 1), _LONGEST)
