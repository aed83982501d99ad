"""Calls written as a header that names the function and JSON after it: `name<sep>{...}<end>`.

Shared by the formats of that kind (DeepSeek, Kimi, Mistral from v11 on), which differ in marks and headers.
"""

from __future__ import annotations

from collections.abc import Callable

from candle_vllm.pieces import EndOfReply, Parse, Reader, marks

from .calls import Calls
from .json_calls import Malformed, arguments

__all__ = ["Header", "headed_call"]

Header = Callable[[str], tuple[str, str | None] | None]
"""Reads a header: the function's name and the call's id, if the model wrote one; None where it is no header."""

_LONGEST_HEADER = 512


def headed_call(reader: Reader, calls: Calls, header: Header, ends: tuple[str, ...], fence: str = "") -> Parse[None]:
    """One call up to its end mark, which is consumed; an end mark where the JSON should begin means no arguments.

    `fence` may stand between the JSON and the end mark. Raises `Malformed` where no header stands.
    """
    pieces: list[str] = []
    mark = yield from reader.upto(marks("{", *ends), pieces.append)
    text = "".join(pieces)
    found = header(text) if len(text) <= _LONGEST_HEADER else None
    if not mark and found is None:
        raise EndOfReply
    if found is None or not found[0]:
        raise Malformed
    calls.begin(*found)
    if mark == "{":
        yield from arguments(reader, calls.arguments, ends)
    elif mark:
        calls.arguments("{}")
    else:
        raise EndOfReply
    calls.end()
    space = yield from reader.space()
    if fence and (yield from reader.at_mark(marks(fence))):
        reader.take(len(fence))
        space = yield from reader.space()
    mark = (yield from reader.at_mark(marks(*ends))) if ends else ""
    calls.text("" if mark else space)
    reader.take(len(mark))
