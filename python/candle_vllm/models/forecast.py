"""Forecast: how long a request will wait for its model, from how long loads and leases took so far.

Pure arithmetic on what it is told; knows nothing of queues or engines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from candle_vllm.models.rates import Duration

__all__ = ["Forecast", "total"]


class Forecast:
    """Remembers loads and leases by model. All times are in seconds; None = nothing to go by."""

    def __init__(self) -> None:
        self._loads: defaultdict[str, Duration] = defaultdict(Duration)
        self._stays: defaultdict[str, Duration] = defaultdict(Duration)
        self._any_load = Duration()

    def loaded(self, model: str, seconds: float) -> None:
        """A load took this long."""
        self._loads[model].add(seconds)
        self._any_load.add(seconds)

    def stayed(self, model: str, seconds: float) -> None:
        """A request kept its model this long."""
        self._stays[model].add(seconds)

    def load(self, model: str, elapsed: float = 0.0) -> float | None:
        """What remains of a load that has taken `elapsed`. A model that was never loaded takes as long as others."""
        own = self._loads[model]
        return (own if own.mean is not None else self._any_load).left(elapsed)

    def drain(self, model: str, elapsed: Iterable[float]) -> float | None:
        """Until the last of the leases that have lasted this long ends; 0 without any."""
        longest = 0.0
        for one in elapsed:
            left = self._stays[model].left(one)
            if left is None:
                return None
            longest = max(longest, left)
        return longest

    def turns(self, models: Sequence[str]) -> float | None:
        """For the models before one's own to be loaded and to serve those who wait, which happens at once."""
        return total(*(part for model in models for part in (self.load(model), self._stays[model].mean)))


def total(*parts: float | None) -> float | None:
    """The sum; None where a part is not known."""
    whole = 0.0
    for part in parts:
        if part is None:
            return None
        whole += part
    return whole
