"""What a reasoning splitter tells: text of the answer and text of the thinking before it. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from candle_vllm.pieces import Text

__all__ = ["Event", "Outlet", "Reasoning", "Text"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model's thinking."""

    text: str


Event: TypeAlias = Text | Reasoning


class Outlet:
    """Collects one reply's events, merged per piece of input.

    White space around thinking is layout: it is left out there and where the answer begins after it.
    """

    __slots__ = ("_events", "_fresh", "_pieces", "_space", "inside")

    def __init__(self) -> None:
        self.inside = False
        """Whether what is read is thinking."""
        self._events: list[Event] = []
        self._pieces: list[str] = []
        self._space = ""
        self._fresh = False  # whether white space that comes now is layout

    def enter(self) -> None:
        """Thinking begins."""
        self._switch(True)

    def leave(self) -> None:
        """Thinking ended."""
        self._switch(False)

    def _switch(self, inside: bool) -> None:
        self._flush()
        self._space = ""
        self.inside = inside
        self._fresh = True

    def put(self, piece: str) -> None:
        """Text of the part that is read."""
        if self._fresh:
            piece = piece.lstrip()
            self._fresh = not piece
        if not piece:
            return
        if not self.inside:
            self._pieces.append(piece)
            return
        body = piece.rstrip()
        if body:
            self._pieces.append(self._space + piece[: len(body)])
            self._space = ""
        self._space += piece[len(body) :]

    def verbatim(self, piece: str) -> None:
        """Text that is passed on as it is, with its white space."""
        self._fresh = False
        self.put(piece)

    def take(self) -> list[Event]:
        """The events since the last time."""
        self._flush()
        events = self._events
        self._events = []
        return events

    def _flush(self) -> None:
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces = []
            self._events.append(Reasoning(text) if self.inside else Text(text))
