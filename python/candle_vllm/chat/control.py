"""ControlTexts: keeps special tokens that users spell out from becoming control tokens of the prompt.

Marks them before a template renders them, and cuts the rendered text where they are. Must not know of templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["ControlTexts"]

# Noncharacters, which no text holds that people exchange (Unicode 23.7).
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_DROPPED = dict.fromkeys(map(ord, (_OPEN, _CLOSE)))
# What people and the world outside write; system messages and earlier answers are the program's own.
_ROLES = frozenset(("user", "tool", "function"))


class ControlTexts:
    """The texts of a model's special tokens."""

    def __init__(self, texts: Iterable[str]) -> None:
        known = sorted(filter(None, texts), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def marked(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The messages, with such texts marked in what users and tools say; the very same where there are none."""
        if self._pattern is None:
            return messages
        return [
            {**message, "content": self._mark(message.get("content"))} if message.get("role") in _ROLES else message
            for message in messages
        ]

    def _mark(self, content: Any) -> Any:
        if isinstance(content, str):
            if self._pattern is None or not (self._pattern.search(content) or _OPEN in content or _CLOSE in content):
                return content
            return self._pattern.sub(lambda found: _OPEN + found.group() + _CLOSE, content.translate(_DROPPED))
        if isinstance(content, Mapping):
            return {key: self._mark(value) for key, value in content.items()}
        return [self._mark(part) for part in content] if isinstance(content, list | tuple) else content

    @staticmethod
    def parts(text: str) -> list[str]:
        """A rendered text in parts: every other one, from the second on, is such a text of a user's."""
        parts = [""]
        for piece in re.split(f"({_OPEN}|{_CLOSE})", text):
            if piece == _OPEN:
                # A template may cut texts; the parts keep their turns all the same.
                parts += [] if len(parts) % 2 == 0 else [""]
            elif piece == _CLOSE:
                parts += [] if len(parts) % 2 == 1 else [""]
            else:
                parts[-1] += piece
        return parts
