"""Request ids: the client's where it is fit to be logged, else our own. Must not know of HTTP messages."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

__all__ = ["HEADER", "MAX_LENGTH", "current", "request_id"]

HEADER = b"x-request-id"
"""Name of the header, in requests and replies."""
MAX_LENGTH = 128
"""Characters of an id at most."""

current: ContextVar[str] = ContextVar("request_id", default="-")
"""Id of the request that this task works for; `-` outside of any."""

_UNFIT = re.compile(r"[^A-Za-z0-9._:/+=@-]+")


def request_id(given: bytes | None) -> str:
    """The id of a request whose header says `given`, cut and cleaned; a fresh one where nothing is left of it."""
    if given:
        cleaned = _UNFIT.sub("", given[: 4 * MAX_LENGTH].decode("latin-1"))[:MAX_LENGTH]
        if cleaned:
            return cleaned
    return f"req_{secrets.token_hex(16)}"
