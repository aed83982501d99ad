"""Replies split into thinking and answer: piece by piece, or whole."""

from __future__ import annotations

from dataclasses import dataclass

from candle_vllm.pieces import Reader

from .events import Event, Outlet, Text
from .style import Style
from .table import find

__all__ = ["SplitReply", "Splitter", "split"]


@dataclass(frozen=True, slots=True)
class SplitReply:
    """A whole reply; `reasoning` is None where there was no thinking."""

    reasoning: str | None
    content: str


class Splitter:
    """Splits one reply as it arrives.

    `style` is a style or its name. `begun` says that the reply begins with thinking; ask `style.begun_by(prompt)`.
    Left out, it is what models of this style usually do. Whatever pieces the text is fed in, the events add up to the
    same reply. Raises :class:`ConfigError` for an unknown style.
    """

    __slots__ = ("_out", "_parse", "_reader", "style")

    def __init__(self, style: Style | str, begun: bool | None = None) -> None:
        self.style = find(style) if isinstance(style, str) else style
        self._reader = Reader()
        self._out = Outlet()
        self._parse = self.style.read(self._reader, self._out, self.style.begun if begun is None else begun)
        next(self._parse)

    @property
    def inside(self) -> bool:
        """Whether what was read last is thinking."""
        return self._out.inside

    def feed(self, text: str) -> list[Event]:
        """The events that this piece of the reply makes certain."""
        self._reader.feed(text)
        next(self._parse, None)
        return self._out.take()

    def end(self) -> list[Event]:
        """The last events; the reply is complete."""
        self._reader.close()
        next(self._parse, None)
        return self._out.take()


def split(text: str, style: Style | str, begun: bool | None = None) -> SplitReply:
    """A whole reply, split. The arguments are those of `Splitter`.

    >>> split("<think>Hm.</think>Yes.", "qwen3")
    SplitReply(reasoning='Hm.', content='Yes.')
    """
    splitter = Splitter(style, begun)
    parts: tuple[list[str], list[str]] = ([], [])
    for event in [*splitter.feed(text), *splitter.end()]:
        parts[isinstance(event, Text)].append(event.text)
    return SplitReply("".join(parts[0]) or None, "".join(parts[1]))
