"""Limits: what one request and one caller may take of the server, and the doors that hold them to it.

Must not know of endpoints.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import Scope

from candle_vllm.openai import ApiError
from candle_vllm.server.json_shape import Shape

__all__ = ["Limits", "Places", "Rates", "check_headers"]

_MAX_CALLERS = 10_000
"""Callers whose rates are remembered; those who have not come for longest are forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of a server; None = no bound."""

    header_count: int = 100
    header_bytes: int = 32 * 1024
    """Names and values of all headers together."""
    body_bytes: int = 8 * 1024 * 1024
    body_grace: float = 20.0
    """Seconds after which a body must have come at `body_rate` since its beginning."""
    body_rate: int = 16 * 1024
    """Bytes a second."""
    upload_bytes: int = 256 * 1024 * 1024
    """All bodies that are being received at one moment together."""
    shape: Shape = field(default_factory=Shape)
    """Of a JSON body."""
    concurrency: int | None = 4096
    """Requests under way at one moment, those that wait for a model included."""
    caller_concurrency: int | None = None
    """The same for one API key, or one client address where there are no keys."""
    caller_rate: float | None = None
    """Requests a minute of one API key or address, as many at once included."""


def check_headers(scope: Scope, limits: Limits) -> None:
    """Raise ApiError 431 for too many or too large headers."""
    headers = scope["headers"]
    if len(headers) > limits.header_count:
        raise ApiError(
            f"The request has more than {limits.header_count} headers.", code="request_headers_too_large", status=431
        )
    if sum(len(name) + len(value) for name, value in headers) > limits.header_bytes:
        raise ApiError(
            f"The headers of the request are above {limits.header_bytes} bytes.",
            code="request_headers_too_large",
            status=431,
        )


class Places:
    """The requests under way, in all and by caller. To be used from one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._callers: dict[str, int] = {}
        self.taken = 0

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """Hold a place for `caller` while the block runs. Raises ApiError 503 or 429 where none is free."""
        held = self._callers.get(caller, 0)
        if self._limits.concurrency is not None and self.taken >= self._limits.concurrency:
            raise ApiError(
                f"The server is busy: {self.taken} requests are under way. Try again later.",
                code="too_many_requests",
                status=503,
                type="server_busy",
                retry_after=1,
                extra={"queued": False},
            )
        if self._limits.caller_concurrency is not None and held >= self._limits.caller_concurrency:
            raise ApiError(
                f"You have {held} requests under way, which is as many as you may have at once.",
                code="concurrency_limit_exceeded",
                status=429,
                type="rate_limit_error",
                retry_after=1,
            )
        self.taken += 1
        self._callers[caller] = held + 1
        try:
            yield
        finally:
            self.taken -= 1
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]


class Rates:
    """How many requests each caller has left: a bucket that fills evenly and holds a minute's worth."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count a request. Raises ApiError 429 with the seconds until one is left again."""
        if self._per_minute is None:
            return
        now = self._clock()
        full = max(1.0, self._per_minute)
        left, at = self._buckets.pop(caller, (full, now))
        left = min(full, left + (now - at) * self._per_minute / 60)
        self._buckets[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        if left < 1:
            raise ApiError(
                f"Rate limit reached: {self._per_minute:g} requests a minute. Try again later.",
                code="rate_limit_exceeded",
                status=429,
                type="rate_limit_error",
                retry_after=math.ceil((1 - left) * 60 / self._per_minute),
            )
