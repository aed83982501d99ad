"""Transcript: a conversation's messages in full, and as the model is shown them where the context is too small.

What was shortened stays as it is, so that the prompts of later turns begin as earlier ones did. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Transcript"]

_KEPT = 200
"""Characters that a shortened result keeps."""


class Transcript:
    """Messages, and which of them are shown shortened."""

    def __init__(self, messages: Sequence[Mapping[str, Any]], instructions: Sequence[str] = ()) -> None:
        self.messages: list[Mapping[str, Any]] = [dict(message) for message in messages]
        self._shown: list[Mapping[str, Any]] = _instructed(self.messages, instructions)
        self._offset = len(self._shown) - len(self.messages)
        self._turn_began = len(self._shown)
        self._at_once = 1

    def add(self, message: Mapping[str, Any]) -> None:
        """One message more."""
        if message["role"] == "assistant":
            self._turn_began = len(self._shown)
        self.messages.append(message)
        self._shown.append(message)

    @property
    def shown(self) -> list[Mapping[str, Any]]:
        """As the model is to see them."""
        return list(self._shown)

    @property
    def can_shorten(self) -> bool:
        """Whether something is left to shorten."""
        return bool(self._results())

    def shorten(self) -> bool:
        """Make what is shown shorter; False where nothing is left to shorten.

        The oldest results go first, each time twice as many; those of the last turn only after all others, and they
        by half, the longest first.
        """
        old = [at for at in self._results() if at < self._turn_began]
        if old:
            for at in old[: self._at_once]:
                self._cut(at, _KEPT)
            self._at_once *= 2
            return True
        last = self._results()
        if not last:
            return False
        longest = max(last, key=lambda at: len(self._shown[at]["content"]))
        self._cut(longest, max(_KEPT, len(self._shown[longest]["content"]) // 2))
        return True

    def _results(self) -> list[int]:
        """Where results stand that can still be shortened."""
        return [
            at
            for at, message in enumerate(self._shown)
            if message["role"] == "tool"
            and isinstance(message["content"], str)
            and len(message["content"]) > _KEPT + len(_marker(10**9))
        ]

    def _cut(self, at: int, kept: int) -> None:
        whole = self.messages[at - self._offset]["content"]
        self._shown[at] = {**self._shown[at], "content": whole[:kept] + _marker(len(whole) - kept)}


def _marker(missing: int) -> str:
    return f"\n[... {missing} characters of this result left out to fit the context ...]"


def _instructed(messages: Sequence[Mapping[str, Any]], instructions: Sequence[str]) -> list[Mapping[str, Any]]:
    """The messages with what the configuration says of its servers in the system message."""
    shown = list(messages)
    if not instructions:
        return shown
    text = "\n\n".join(instructions)
    if shown and shown[0]["role"] in ("system", "developer") and isinstance(shown[0]["content"], str):
        shown[0] = {**shown[0], "content": f"{shown[0]['content']}\n\n{text}"}
    else:
        shown.insert(0, {"role": "system", "content": text})
    return shown
