"""Log-probabilities in the two forms that OpenAI's API has. Must not know of requests."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from candle_vllm.models import TokenTexts
from candle_vllm.openai.chat_types import ChatCompletionTokenLogprob, PromptLogprob, PromptLogprobsById, TopLogprob
from candle_vllm.openai.completion_types import Logprobs
from candle_vllm.records import TokenLogprob

__all__ = ["CompletionLogprobs", "chat_logprobs", "prompt_logprobs"]

# An impossible token's log-probability; JSON has no infinity, and -9999.0 is what OpenAI's API reports.
_LOWEST = -9999.0


def chat_logprobs(entries: Sequence[TokenLogprob], count: int, texts: TokenTexts) -> list[ChatCompletionTokenLogprob]:
    """The `content` of a chat answer's logprobs, with the `count` likeliest tokens at each position."""
    return [
        ChatCompletionTokenLogprob(
            token=texts.text(entry.token_id),
            logprob=max(entry.logprob, _LOWEST),
            bytes=list(texts.raw(entry.token_id)),
            top_logprobs=[
                TopLogprob(token=texts.text(token), logprob=max(value, _LOWEST), bytes=list(texts.raw(token)))
                for token, value in entry.top[:count]
            ],
        )
        for entry in entries
    ]


def prompt_logprobs(entries: Sequence[TokenLogprob | None], texts: TokenTexts) -> PromptLogprobsById:
    """Log-probabilities of a prompt, by token id."""
    return [None if entry is None else _by_id(entry, texts) for entry in entries]


def _by_id(entry: TokenLogprob, texts: TokenTexts) -> dict[str, PromptLogprob]:
    ranked = {token: (rank, value) for rank, (token, value) in enumerate(entry.top, 1)}
    own = {entry.token_id: ranked.get(entry.token_id, (None, entry.logprob))}
    return {
        str(token): PromptLogprob(logprob=max(value, _LOWEST), rank=rank, decoded_token=texts.text(token))
        for token, (rank, value) in {**own, **ranked}.items()
    }


class CompletionLogprobs:
    """The four parallel lists of a legacy completion's logprobs, for one answer.

    `count` is how many of the likeliest tokens to report; `special` whether special tokens are part of the text. The
    place in the text runs on from call to call.
    """

    def __init__(self, count: int, texts: TokenTexts, *, special: bool) -> None:
        self._count = count
        self._texts = texts
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0
        self._begun = False

    def build(self, entries: Sequence[TokenLogprob | None], ids: Sequence[int], text: str) -> Logprobs:
        """The lists of these tokens; an entry that is None (a prompt's first token) has no probability.

        `text` is what they are part of: where it lacks the space that the first token begins with, so does the place
        of the tokens after it.
        """
        lists = Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for token, entry in zip(ids, entries, strict=True):
            lists.tokens.append(self._texts.text(token))
            lists.text_offset.append(self._offset)
            self._offset += self._length(token, text)
            lists.token_logprobs.append(None if entry is None else max(entry.logprob, _LOWEST))
            lists.top_logprobs.append(None if entry is None else self._top(entry))
        return lists

    def _length(self, token: int, text: str) -> int:
        """Characters that are whole with this token and were not before it."""
        if not self._special and self._texts.is_special(token):
            return 0
        raw = self._texts.raw(token)
        if not self._begun and raw.startswith(b" ") and not text.startswith(" "):
            raw = raw[1:]
        self._begun = True
        return len(self._decoder.decode(raw))

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        top: dict[str, float] = {}
        # Best first, and two tokens may have one text: the likelier one is listed.
        for token, value in entry.top[: self._count]:
            top.setdefault(self._texts.text(token), max(value, _LOWEST))
        # The sampled token is always reported, so up to count + 1 entries (OpenAI's rule).
        top.setdefault(self._texts.text(entry.token_id), max(entry.logprob, _LOWEST))
        return top
