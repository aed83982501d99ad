"""What a way of reasoning is: how models of one kind mark their thinking, and how that is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from candle_vllm.pieces import Parse, Reader, marks

from .events import Outlet

__all__ = ["Style", "Tags"]

_QUOTES = '`"'


class Style(ABC):
    """One way of marking thinking. Instances have no state; one serves all requests."""

    names: tuple[str, ...]
    """The style's name, as vLLM names its parser, then its other names."""

    signs: tuple[tuple[str, ...], ...] = ()
    """A chat template that holds all the texts of one of these was written for this style."""

    begun: bool = False
    """Whether a reply begins with thinking where nothing is known of its prompt."""

    @property
    def name(self) -> str:
        """The name to show."""
        return self.names[0]

    @property
    def answer_after(self) -> str:
        """The text after which the answer begins: constraints of the answer's form hold from there on."""
        return ""

    @property
    def ending(self) -> str:
        """What ends the thinking when it is cut short by a budget."""
        return ""

    def span(self, begun: bool) -> tuple[str, str] | None:
        """The marks between which a reply may think, the first "" where it has begun; None for other ways."""
        return None

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that may be single special tokens of the model; the engine must not strip them from the reply."""
        return ()

    def recognises(self, template: str) -> bool:
        """Whether a chat template's text shows this style."""
        return any(all(text in template for text in texts) for texts in self.signs)

    def begun_by(self, prompt: str) -> bool:
        """Whether a prompt leaves the reply inside thinking: some templates write the opening mark themselves."""
        return False

    @abstractmethod
    def read(self, reader: Reader, out: Outlet, begun: bool) -> Parse[None]:
        """Read a whole reply; `begun` says that it begins with thinking."""


class _Line:
    """What a line of thinking says of quotes."""

    __slots__ = ("_counts", "_last")

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_QUOTES, 0)
        self._last = ""

    def add(self, piece: str) -> None:
        """The line goes on, or a new one begins within the piece."""
        _, newline, line = piece.rpartition("\n")
        for quote in _QUOTES:
            self._counts[quote] = line.count(quote) + (0 if newline else self._counts[quote])
        self._last = piece[-1]

    def opening_quote(self) -> str:
        """The quote that the line ends with if it opens something, or ""."""
        return self._last if self._counts.get(self._last, 0) % 2 else ""


@dataclass(frozen=True)
class Tags(Style):
    """Thinking between marks, before the answer.

    `opens` and `closes` are the marks, the usual one first; `stops` are marks that end the thinking as well and belong
    to what follows. `frames` are pairs of marks around the answer that are no part of it. A closing mark in quotes is
    part of the thinking, which is where a model speaks of its own marks. `anywhere` says that thinking may come again
    after other text. `prompted` are further texts that a prompt which leaves the reply inside thinking ends with.
    """

    names: tuple[str, ...]
    opens: tuple[str, ...] = ("<think>",)
    closes: tuple[str, ...] = ("</think>",)
    signs: tuple[tuple[str, ...], ...] = ()
    begun: bool = False
    stops: tuple[str, ...] = ()
    frames: tuple[tuple[str, str], ...] = ()
    anywhere: bool = False
    prompted: tuple[str, ...] = ()

    @property
    def answer_after(self) -> str:
        """The usual closing mark."""
        return self.closes[0]

    @property
    def ending(self) -> str:
        """The usual closing mark in its layout."""
        return f"\n{self.closes[0]}\n\n"

    @property
    def marks(self) -> tuple[str, ...]:
        """All marks."""
        return (*self.opens, *self.closes, *(mark for frame in self.frames for mark in frame))

    def span(self, begun: bool) -> tuple[str, str] | None:
        """The usual marks."""
        return "" if begun else self.opens[0], self.closes[0]

    def begun_by(self, prompt: str) -> bool:
        """Whether the prompt ends with an opening mark."""
        return prompt.rstrip().endswith((*self.opens, *self.prompted))

    def read(self, reader: Reader, out: Outlet, begun: bool) -> Parse[None]:
        """Thinking first, then the answer."""
        opens = marks(*self.opens)
        if begun:
            out.enter()
        space = yield from reader.space()
        mark = yield from reader.at_mark(opens)
        if mark or begun:
            reader.take(len(mark))
            yield from self._thinking(reader, out)
        else:
            out.put(space)
        frames = dict(self.frames)
        if frames:
            space = yield from reader.space()
            mark = yield from reader.at_mark(marks(*frames))
            if mark:
                reader.take(len(mark))
                yield from self._framed(reader, out, frames[mark])
            else:
                out.put(space)
        if not self.anywhere:
            yield from reader.rest_to(out.put)
        while self.anywhere:
            mark = yield from reader.upto(opens, out.put)
            if not mark:
                return
            reader.take(len(mark))
            yield from self._thinking(reader, out)

    def _thinking(self, reader: Reader, out: Outlet) -> Parse[None]:
        """Up to the closing mark, which is consumed, or to a mark that stops it, which is not."""
        out.enter()
        wanted = marks(*self.closes, *self.stops)
        line = _Line()

        def put(piece: str) -> None:
            line.add(piece)
            out.put(piece)

        while True:
            mark = yield from reader.upto(wanted, put)
            quote = line.opening_quote() if mark else ""
            if quote and (yield from reader.peek(len(mark) + 1)).endswith(quote):
                put(reader.take(len(mark)))
                continue
            if mark:
                out.leave()
            if mark in self.closes:
                reader.take(len(mark))
            return

    def _framed(self, reader: Reader, out: Outlet, end: str) -> Parse[None]:
        """The answer up to the mark that ends its frame; white space beside the marks is layout."""
        out.leave()
        wanted = marks(f"\n{end}", end)
        mark = yield from reader.upto(wanted, out.put)
        reader.take(len(mark))
