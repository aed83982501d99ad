"""Where parsers put what they find: text and calls become events, in order, merged per piece of input."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from candle_vllm.pieces import Reader

from .events import CallArguments, CallEnded, CallStarted, Event, Text
from .schemas import Tools

__all__ = ["Calls", "new_id"]


def new_id() -> str:
    """A call id as OpenAI writes them."""
    return f"call_{secrets.token_hex(12)}"


class Calls:
    """Collects one reply's events.

    White space beside a call is layout, not text: it is told only where text goes on after it. `tools` are those of
    the request; `make_id` names a call that the model gave no id.
    """

    def __init__(
        self, reader: Reader, tools: Tools, make_id: Callable[[], str] = new_id, *, held: bool = False
    ) -> None:
        self.reader = reader
        self.held = held
        """Whether a grammar held the reply to the format: what only resembles a call is none."""
        self.tools = tools
        self.truncated = False
        self.name: str | None = None
        """The name of the call that is being read."""
        self._make_id = make_id
        self._events: list[Event] = []
        self._pieces: list[str] = []
        self._count = 0
        self._space = ""  # white space that is told only if text follows
        self._sealed = False  # whether a call came after it
        self._beside = False  # whether a call touches it

    def text(self, piece: str) -> None:
        """Text of the answer."""
        if self.name is not None:
            self.end()
        if self._sealed:
            # Of the white space on both sides of a call only the first run comes back, should text follow.
            piece = piece.lstrip()
        body = piece.rstrip()
        if not body:
            self._space += piece
            return
        self._pieces.append(self._space + piece[: len(body)])
        self._space = piece[len(body) :]
        self._sealed = self._beside = False

    def begin(self, name: str, id: str | None = None) -> None:  # noqa: A002 - the field's name
        """A call of this name begins; what the reader kept of it is no text any more."""
        if self.name is not None:
            self.end()
        self._flush()
        self.reader.forget()
        self.name = name
        self._beside = True
        self._sealed = bool(self._space)
        self._events.append(CallStarted(self._count, id or self._make_id(), name))
        self._count += 1

    def arguments(self, piece: str) -> None:
        """A piece of the current call's arguments."""
        if piece:
            self._pieces.append(piece)

    def end(self) -> None:
        """The current call is complete."""
        self._flush()
        self.name = None
        self._events.append(CallEnded(self._count - 1))

    def cut(self) -> None:
        """The reply ended inside a call."""
        self._flush()
        self.name = None
        self.truncated = True

    def finish(self) -> None:
        """The reply ended: white space that no call touches is text after all."""
        if self._space and not self._beside:
            self._pieces.append(self._space)
        self._space = ""

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
            self._events.append(Text(text) if self.name is None else CallArguments(self._count - 1, text))
