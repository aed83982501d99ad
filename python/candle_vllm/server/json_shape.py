"""The shape of a JSON text, known before it is parsed: how deep, how many values, how many arrays and objects.

Parsing builds something for every value, so a few megabytes of brackets would cost a gigabyte and seconds. Counting
costs neither, and the event loop gets its turn between pieces. Whether the text is JSON at all is not asked here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import accumulate

from candle_vllm.openai import ApiError

__all__ = ["Shape", "check_shape"]

_COARSE = 1024 * 1024
"""Bytes of a piece whose characters are only counted: 1.5 ms."""
_FINE = 16 * 1024
"""Bytes of a piece that is taken apart: 1 ms where all of it is brackets."""

_BRACKETS = b"[]{}"
_OTHERS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STEPS = [1 if byte in b"[{" else -1 for byte in range(256)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The bounds of a JSON text."""

    depth: int = 100
    """Arrays and objects within each other."""
    containers: int = 20_000
    """Arrays and objects in all."""
    values: int = 140_000
    """Elements of arrays and members of objects in all."""
    members: int = 30_000
    """Members of objects in all: a request that does not know a member says so of each."""


async def check_shape(text: bytes, bounds: Shape) -> None:
    """Raise ApiError 400 for a text beyond the bounds."""
    opened = commas = colons = 0
    for start in range(0, len(text), _COARSE):
        end = start + _COARSE
        opened += text.count(b"[", start, end) + text.count(b"{", start, end)
        commas += text.count(b",", start, end)
        colons += text.count(b":", start, end)
        if end < len(text):
            await asyncio.sleep(0)
    # What strings hold was counted too, so these are upper bounds; they are enough for nearly every text.
    shallow = opened <= min(bounds.depth, bounds.containers)
    if shallow and opened + commas <= bounds.values and colons <= bounds.members:
        return
    scan = _Scan(bounds)
    for start in range(0, len(text), _FINE):
        scan.feed(text[start : start + _FINE])
        await asyncio.sleep(0)


class _Scan:
    """Counts what stands outside of strings, piece by piece."""

    def __init__(self, bounds: Shape) -> None:
        self._bounds = bounds
        self._backslash = b""
        self._in_string = 0
        self._depth = 0
        self._containers = 0
        self._values = 0
        self._members = 0

    def feed(self, piece: bytes) -> None:
        """Take the next piece in. Raises ApiError as soon as a bound is crossed."""
        outside = self._outside(self._backslash + piece)
        brackets = outside.translate(None, delete=_OTHERS)
        opened = brackets.count(b"[") + brackets.count(b"{")
        self._containers += opened
        self._values += opened + outside.count(b",")
        self._members += outside.count(b":")
        if self._containers > self._bounds.containers:
            raise _too("many arrays and objects", self._bounds.containers)
        if self._values > self._bounds.values:
            raise _too("many values", self._bounds.values)
        if self._members > self._bounds.members:
            raise _too("many members", self._bounds.members)
        depths = list(accumulate((_STEPS[byte] for byte in brackets), initial=self._depth))
        self._depth = depths[-1]
        if max(depths) > self._bounds.depth:
            raise _too("deeply nested", self._bounds.depth)

    def _outside(self, piece: bytes) -> bytes:
        """The piece without its strings; keeps what its end leaves open."""
        odd = (len(piece) - len(piece.rstrip(b"\\"))) % 2
        self._backslash = b"\\" if odd else b""
        piece = piece[:-1] if odd else piece
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= (len(parts) - 1) % 2
        return outside


def _too(what: str, bound: int) -> ApiError:
    how = "is too" if what.startswith("deeply") else "holds too"
    return ApiError(f"The JSON body of your request {how} {what}: at most {bound}.", code="request_too_complex")
