"""TokenTexts: text and bytes of single tokens of one engine, looked up once each. Must not know of requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from candle_vllm.engine import Engine

__all__ = ["TokenTexts"]


class TokenTexts:
    """Of one engine. Any thread may use it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[int, tuple[str, bytes]] = {}
        self._special: dict[int, bool] = {}
        self._marks: dict[str, int | None] = {}

    def text(self, token: int) -> str:
        """The token's text; bytes that are no whole characters are spelled as escapes."""
        return self._of(token)[0]

    def raw(self, token: int) -> bytes:
        """The token's UTF-8 bytes, which alone need not be whole characters."""
        return self._of(token)[1]

    def is_special(self, token: int) -> bool:
        """Whether the token is left out of texts that leave special tokens out."""
        special = self._special.get(token)
        if special is None:
            # Twice, since some tokenizers drop a blank at the beginning of a text.
            special = self._special[token] = not self._engine.detokenize([token, token])
        return special

    def special_marks(self, marks: Iterable[str]) -> dict[str, int]:
        """Those of these texts that are single special tokens of the model, with their ids."""
        found = {}
        for mark in marks:
            if mark not in self._marks:
                ids = self._engine.tokenize(mark)
                self._marks[mark] = ids[0] if len(ids) == 1 and self.is_special(ids[0]) else None
            if (token := self._marks[mark]) is not None:
                found[mark] = token
        return found

    def _of(self, token: int) -> tuple[str, bytes]:
        known = self._known.get(token)
        if known is None:
            raw = self._engine.token_bytes(token)
            known = self._known[token] = (raw.decode("utf-8", errors="backslashreplace"), raw)
        return known
