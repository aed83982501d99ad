"""Single tokens as text and bytes, and log-probabilities in the two forms that OpenAI's API has.

Must not know of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from candle_vllm.records import TokenLogprob

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine

# An impossible token's log-probability; JSON has no infinity, and -9999.0 is what OpenAI's API reports.
_LOWEST = -9999.0


class TokenTexts:
    """Text and bytes of single tokens of one engine, looked up once each."""

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine
        self._known: dict[int, tuple[str, list[int]]] = {}

    def of(self, token: int) -> tuple[str, list[int]]:
        """The token's text and UTF-8 bytes; the text spells bytes that are no whole characters as escapes."""
        known = self._known.get(token)
        if known is None:
            raw = self._engine.token_bytes(token)
            known = self._known[token] = (raw.decode("utf-8", errors="backslashreplace"), list(raw))
        return known

    def text(self, token: int) -> str:
        """The token's text."""
        return self.of(token)[0]


def chat_logprobs(entries: Sequence[TokenLogprob], count: int, texts: TokenTexts) -> list[dict[str, Any]]:
    """The ``content`` list of a chat answer's logprobs, with the ``count`` likeliest tokens at each position."""
    return [
        {
            **_chat_entry(entry.token_id, entry.logprob, texts),
            "top_logprobs": [_chat_entry(token, value, texts) for token, value in entry.top[:count]],
        }
        for entry in entries
    ]


def _chat_entry(token: int, logprob: float, texts: TokenTexts) -> dict[str, Any]:
    text, raw = texts.of(token)
    return {"token": text, "logprob": max(logprob, _LOWEST), "bytes": raw}


class CompletionLogprobsBuilder:
    """The four parallel lists of a legacy completion's logprobs, for one answer.

    ``count`` is how many of the likeliest tokens to report; the position in the text runs on from call to call.
    """

    def __init__(self, count: int, texts: TokenTexts) -> None:
        self._count = count
        self._texts = texts
        self._offset = 0

    def build(self, entries: Sequence[TokenLogprob | None], ids: Sequence[int]) -> dict[str, list[Any]]:
        """The lists of these tokens; an entry that is None (a prompt's first token) has no probability."""
        lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, entry in zip(ids, entries, strict=True):
            text = self._texts.text(token)
            lists["tokens"].append(text)
            lists["text_offset"].append(self._offset)
            self._offset += len(text)
            lists["token_logprobs"].append(None if entry is None else max(entry.logprob, _LOWEST))
            lists["top_logprobs"].append(None if entry is None else self._top(entry))
        return lists

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        top = {self._texts.text(token): max(value, _LOWEST) for token, value in entry.top[: self._count]}
        # The sampled token is always reported, so up to count + 1 entries (OpenAI's rule).
        top.setdefault(self._texts.text(entry.token_id), max(entry.logprob, _LOWEST))
        return top
