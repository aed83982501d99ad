"""What comes from a terminal or a pipe and goes to one: bytes and characters that do not fit are replaced.

No text that was typed, piped or generated may end a command. Must not know of models.
"""

from __future__ import annotations

import io
import sys

__all__ = ["prepare_streams", "readable"]


def prepare_streams() -> None:
    """Have the standard streams replace what their encodings cannot hold."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def readable(text: str) -> str:
    """An argument with what was no text in it replaced: Python hides such bytes in halves of surrogate pairs."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if not _whole(text) else text


def _whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
