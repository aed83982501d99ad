"""A reply's text as it arrives: a buffer that parsers wait on, and the marks that they look for.

A parser is a generator over a `Reader`: it yields when it needs text that has not come, and goes on when more was
fed. What it does is therefore a function of the whole text alone, however the text was cut into pieces.
Must not know of tools, of reasoning or of any format.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

__all__ = ["EndOfReply", "Marks", "Parse", "Reader", "Sink", "Text", "drop", "marks"]

_T = TypeVar("_T")

Parse: TypeAlias = Generator[None, None, _T]
"""A parser's step: it yields while it waits for text and returns a result."""

Sink: TypeAlias = Callable[[str], None]
"""Takes text, piece by piece."""

_SPACE = re.compile(r"\s*")
_LONGEST_LAYOUT = 256
_LAYOUT = re.compile(rf"\s{{0,{_LONGEST_LAYOUT}}}")


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the answer itself."""

    text: str


class EndOfReply(Exception):  # noqa: N818 - the end is no error
    """The reply ended where a parser needed more."""


def drop(_text: str) -> None:
    """A sink for text that nobody wants."""


class Marks:
    """Texts to look for in a stream, compiled once.

    Of two marks that begin at one place the longer wins. A tail of the buffer that may become a mark is held back.
    Empty texts are left out.
    """

    __slots__ = ("closed", "open", "prefixes", "texts")

    def __init__(self, *texts: str) -> None:
        self.texts = tuple(sorted(filter(None, texts), key=len, reverse=True))
        self.closed = re.compile("|".join(map(re.escape, self.texts)))
        self.open = re.compile("|".join(map(_whole_or_beginning, self.texts)))
        self.prefixes = frozenset(text[:length] for text in texts for length in range(1, len(text)))


@functools.cache
def marks(*texts: str) -> Marks:
    """The marks of a format's own texts, compiled once in a process; never call it with text from outside."""
    return Marks(*texts)


def _whole_or_beginning(mark: str) -> str:
    """A pattern that matches the mark, or its beginning where the buffer ends."""
    pattern = re.escape(mark[-1])
    for character in reversed(mark[:-1]):
        pattern = rf"{re.escape(character)}(?:{pattern}|\Z)"
    return pattern


class Reader:
    """The part of a reply that has arrived and is not consumed yet.

    `feed` and `close` are the writer's; the rest are a parser's primitives. While `keep` is on, consumed text is
    recorded, so that it can be given back as plain text when no call comes of it.
    """

    __slots__ = ("_at", "_kept", "_text", "ended")

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._kept: list[str] | None = None
        self.ended = False

    def feed(self, text: str) -> None:
        """Append what has arrived."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def close(self) -> None:
        """Nothing more will come."""
        self.ended = True

    def keep(self, consumed: str = "") -> None:
        """Record what is consumed from here on, after `consumed`."""
        self._kept = [consumed]

    def forget(self) -> None:
        """Stop recording."""
        self._kept = None

    def kept(self) -> str:
        """What was recorded; recording stops."""
        text = "".join(self._kept or ())
        self._kept = None
        return text

    def rest(self) -> str:
        """What is not consumed yet."""
        return self._text[self._at :]

    def take(self, length: int) -> str:
        """Consume `length` characters that are known to be there."""
        end = self._at + length
        text = self._text[self._at : end]
        self._at = end
        if self._kept is not None:
            self._kept.append(text)
        return text

    def upto(self, wanted: Marks, sink: Sink) -> Parse[str]:
        """Consume up to the first mark, which stays; what comes before it goes to `sink` as soon as it is certain.

        Returns the mark, or "" where the reply ends without one.
        """
        while True:
            pattern = wanted.closed if self.ended else wanted.open
            found = pattern.search(self._text, self._at)
            if found is None:
                if self._at < len(self._text):
                    sink(self.take(len(self._text) - self._at))
                if self.ended:
                    return ""
            else:
                if found.start() > self._at:
                    sink(self.take(found.start() - self._at))
                mark = found.group()
                if self.ended or found.end() < len(self._text) or mark not in wanted.prefixes:
                    return mark
            yield

    def rest_to(self, sink: Sink) -> Parse[None]:
        """Consume all there is and will be."""
        while True:
            if self._at < len(self._text):
                sink(self.take(len(self._text) - self._at))
            if self.ended:
                return
            yield

    def run(self, pattern: re.Pattern[str], sink: Sink) -> Parse[None]:
        """Consume the characters from here on that `pattern`, a starred class, matches."""
        while True:
            found = pattern.match(self._text, self._at)
            if found is not None and found.end() > self._at:
                sink(self.take(found.end() - self._at))
            if self._at < len(self._text) or self.ended:
                return
            yield

    def space(self) -> Parse[str]:
        """Consume white space; returns it."""
        pieces: list[str] = []
        yield from self.run(_SPACE, pieces.append)
        return "".join(pieces)

    def peek(self, length: int = 1) -> Parse[str]:
        """The next characters, not consumed; fewer only where the reply ends."""
        while len(self._text) - self._at < length and not self.ended:
            yield
        return self._text[self._at : self._at + length]

    def past_space(self, at: int) -> Parse[int]:
        """Where the white space ends that begins `at` characters from here; nothing is consumed.

        Known only once something follows or the reply ended; -1 where the white space is longer than any layout.
        """
        while True:
            found = _LAYOUT.match(self._text, self._at + at)
            end = (found.end() if found is not None else len(self._text)) - self._at
            if end - at >= _LONGEST_LAYOUT:
                return -1
            if self._at + end < len(self._text) or self.ended:
                return end
            yield

    def peek_past_space(self, at: int, length: int) -> Parse[str]:
        """The `length` characters after the white space that begins `at` characters from here; nothing is consumed.

        Fewer where the reply ends; none where the white space is longer than any layout.
        """
        start = yield from self.past_space(at)
        return "" if start < 0 else (yield from self.peek(start + length))[start:]

    def at_mark(self, wanted: Marks) -> Parse[str]:
        """The mark that the text begins with here, not consumed, or ""."""
        while True:
            pattern = wanted.closed if self.ended else wanted.open
            found = pattern.match(self._text, self._at)
            if found is None:
                if self._at < len(self._text) or self.ended:
                    return ""
            elif self.ended or found.end() < len(self._text) or found.group() not in wanted.prefixes:
                return found.group()
            yield
