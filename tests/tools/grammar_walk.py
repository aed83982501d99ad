"""Walks grammars with llguidance: a tokenizer of bytes, an acceptor, and a writer of random texts that fit."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

EOS = 256


class _Bytes:
    """A vocabulary of all bytes, an end and some special tokens."""

    eos_token_id = EOS
    bos_token_id = None

    def __init__(self, special: Sequence[str]) -> None:
        self.tokens = [bytes([code]) for code in range(256)] + [b"<eos>"] + [text.encode() for text in special]
        self.special_token_ids = list(range(EOS, len(self.tokens)))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


class Walker:
    """One grammar over one vocabulary; `marks` are the texts that are special tokens."""

    def __init__(self, marks: Sequence[str]) -> None:
        self.marks = sorted(marks, key=len, reverse=True)
        self.special = {mark: EOS + 1 + at for at, mark in enumerate(self.marks)}
        self._texts = {id_: mark for mark, id_ in self.special.items()}
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Bytes(self.marks)))

    def error(self, grammar: str) -> str:
        """What is wrong with a grammar, or ""."""
        return LLMatcher.validate_grammar(grammar, self._tokenizer)

    def tokens(self, text: str) -> list[int]:
        if not self.marks:
            return list(text.encode())
        parts = re.split(f"({'|'.join(map(re.escape, self.marks))})", text)
        return [token for part in parts for token in ([self.special[part]] if part in self.special else part.encode())]

    def text(self, tokens: Sequence[int]) -> str:
        parts = [self._texts[token].encode() if token in self._texts else bytes([token]) for token in tokens]
        return b"".join(parts).decode()

    def accepted(self, grammar: str, text: str) -> bool:
        """Whether this text is a whole reply of the grammar."""
        matcher = LLMatcher(self._tokenizer, grammar)
        tokens = self.tokens(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def begun(self, grammar: str, text: str) -> bool:
        """Whether a reply of the grammar may begin with this text."""
        tokens = self.tokens(text)
        return LLMatcher(self._tokenizer, grammar).try_consume_tokens(tokens) == len(tokens)

    def write(self, grammar: str, rng: random.Random, ends: Sequence[str], longest: int = 4000) -> str:
        """A random text of the grammar; `ends` are texts that close what could go on for ever."""
        matcher = LLMatcher(self._tokenizer, grammar)
        mask = allocate_token_bitmask(1, EOS + 1 + len(self.marks))
        endings = [self.tokens(end) for end in ends]
        written: list[int] = []
        while len(written) < longest:
            if matcher.is_accepting() and (matcher.is_stopped() or rng.random() < 0.3):
                return self.text(written)
            rng.shuffle(endings)
            step = self._ending(matcher, endings) if rng.random() < 0.15 else None
            if step is None:
                fill_next_token_bitmask(matcher, mask)
                step = [_pick(mask, rng, len(self.marks))]
                if step == [EOS]:
                    return self.text(written)
            assert matcher.consume_tokens(step), matcher.get_error()
            written += step
        raise AssertionError(f"no end: {self.text(written)[-200:]!r}")

    @staticmethod
    def _ending(matcher: LLMatcher, endings: list[list[int]]) -> list[int] | None:
        return next((end for end in endings if matcher.validate_tokens(end) == len(end)), None)


_PLAIN = (*range(0x20, 0x7F), 0x0A)


def _pick(mask: Any, rng: random.Random, marks: int) -> int:
    """A token that the mask allows: a printable or special one if there is one, the end if nothing else is."""
    words = mask[0]

    def allowed(tokens: Iterable[int]) -> list[int]:
        return [token for token in tokens if words[token // 32] >> (token % 32) & 1]

    special = allowed(range(EOS + 1, EOS + 1 + marks))
    if special and rng.random() < 0.5:
        return rng.choice(special)
    return rng.choice(allowed(_PLAIN) or special or allowed(range(256)) or [EOS])
