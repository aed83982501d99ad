"""Summaries of measured values. Knows nothing of what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "percentile", "spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, median, 90th and 99th percentile of values, in their unit."""

    mean: float
    median: float
    p90: float
    p99: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the ascending, non-empty values lie, interpolated between two."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> Spread | None:
    """The summary, or None when there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    return Spread(
        statistics.fmean(ordered), percentile(ordered, 0.5), percentile(ordered, 0.9), percentile(ordered, 0.99)
    )
