"""What a request's headers say of waiting: how long, and whether its stream is to tell of it.

Must not know what is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping

from candle_vllm import checks
from candle_vllm.errors import ConfigError
from candle_vllm.openai.errors import invalid

__all__ = ["STATUS_HEADER", "TIMEOUT_HEADER", "patience_of", "wants_statuses"]

TIMEOUT_HEADER = "X-Request-Timeout"
"""Seconds that the request may wait for its model."""
STATUS_HEADER = "X-Status-Chunks"
"""`off`: a stream that waits holds no status chunks, only comments."""

_LONGEST = 86_400.0
_NO = frozenset({"off", "false", "no", "0"})


def patience_of(headers: Mapping[str, str], default: float | None) -> float | None:
    """Seconds that the request may wait, from 0; None = any time. Raises ApiError for a header that is no such."""
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return default
    try:
        seconds = float(given)
        return checks.number(TIMEOUT_HEADER, seconds, 0, _LONGEST)
    except (ValueError, ConfigError):
        problem = f"must be seconds from 0 to {_LONGEST:.0f}; got {given[:40]!r}"
        raise invalid(TIMEOUT_HEADER, f"The header '{TIMEOUT_HEADER}' {problem}.") from None


def wants_statuses(headers: Mapping[str, str]) -> bool:
    """Whether chunks may tell what the request waits for."""
    return headers.get(STATUS_HEADER, "").strip().lower() not in _NO
