"""Entrance: whose requests a server takes and how many at once, over all the doors that it has.

The HTTP boundary is one door, the web page another: a caller's rate and places are the same through both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from candle_vllm.server.auth import ANONYMOUS, ApiKey, Keys
from candle_vllm.server.limits import Limits, Places, Rates

__all__ = ["Entrance"]


class Entrance:
    """The keys of one server, and the rates and places of their holders. To be used from one event loop."""

    def __init__(self, api_keys: Sequence[ApiKey] = (), limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self.keys = Keys(api_keys)
        self._places = Places(limits)
        self._rates = Rates(limits.caller_rate)

    @contextmanager
    def enter(self, key: str, address: str) -> Iterator[None]:
        """Hold a place for one request while the block runs.

        `key` is the name of the caller's key; callers without one are told apart by `address`. Raises ApiError 429 or
        503 for one too many.
        """
        caller = key if key != ANONYMOUS else address
        self._rates.take(caller)
        with self._places.place(caller):
            yield
