"""Admission: how much may wait for a loaded model's next free place, in sequences and in prompt tokens.

Counts what is let in and what has ended; knows nothing of how it runs.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from candle_vllm import checks
from candle_vllm.errors import QueueFullError
from candle_vllm.models.observe import UNSEEN, Observer, Rejection
from candle_vllm.models.rates import Duration, retry_after

__all__ = ["Admission", "Ticket"]


class Admission:
    """The door of one loaded model, the same for streams and whole replies. Any thread may use it.

    `places` sequences run at once. Of those beyond, `max_waiting` may wait, and requests that have not begun may hold
    `max_waiting_tokens` prompt tokens between them; None = no bound. A request's sequences come in together or not at
    all. One that finds nobody waiting comes in even where it alone exceeds a bound: refused now, it would be for ever.
    """

    def __init__(
        self,
        model: str,
        places: int,
        *,
        max_waiting: int | None = None,
        max_waiting_tokens: int | None = None,
        observer: Observer = UNSEEN,
    ) -> None:
        self._model = model
        self._places = checks.integer("places", places, 1)
        self._max_waiting = checks.optional_integer("max_waiting", max_waiting, 0, none="no bound")
        self._max_tokens = checks.optional_integer("max_waiting_tokens", max_waiting_tokens, 0, none="no bound")
        self._observer = observer
        self._lock = threading.Lock()
        self._sequences = 0
        self._tokens = 0
        self._stay = Duration()

    @property
    def waiting(self) -> int:
        """Sequences let in beyond the places."""
        return max(0, self._sequences - self._places)

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of requests that were let in and have not begun."""
        return self._tokens

    def admit(self, sequences: int, tokens: int) -> Ticket:
        """Let a request in, or raise QueueFullError at once. `tokens` are those of all its sequences' prompts.

        The ticket is to be closed when the request has ended, in whatever way; it is a context manager.
        """
        with self._lock:
            refused = self._refusal(sequences, tokens)
            if refused is None:
                self._sequences += sequences
                self._tokens += tokens
                return Ticket(self, sequences, tokens)
        reason, message = refused
        self._observer.rejected(self._model, reason)
        raise QueueFullError(message, retry_after=retry_after(self._eta()))

    def _refusal(self, sequences: int, tokens: int) -> tuple[Rejection, str] | None:
        waiting, free = self.waiting, max(0, self._places - self._sequences)
        if sequences <= free or self._sequences == 0:
            return None
        would_wait = waiting + sequences - free
        if self._max_waiting is not None and would_wait > self._max_waiting and (waiting or not self._max_waiting):
            return "waiting_requests", (
                f"{waiting} sequences wait for '{self._model}' already, and {self._max_waiting} may; "
                f"this request has {sequences}; try again later"
            )
        if self._max_tokens is not None and self._tokens + tokens > self._max_tokens and waiting:
            return "waiting_tokens", (
                f"requests with {self._tokens} prompt tokens wait for '{self._model}' already, and {self._max_tokens} "
                f"may; this one has {tokens}; try again later"
            )
        return None

    def _eta(self) -> float | None:
        """Seconds until a place comes free for one more, as long as those before have stayed."""
        stay = self._stay.mean
        return None if stay is None else stay * (self.waiting + 1) / self._places

    def _begun(self, tokens: int) -> None:
        with self._lock:
            self._tokens -= tokens

    def _ended(self, sequences: int, seconds: float) -> None:
        with self._lock:
            self._sequences -= sequences
            self._stay.add(seconds)


class Ticket:
    """One request that was let in. `begun` when its first token is there, `close` when it has ended."""

    __slots__ = ("_admission", "_sequences", "_since", "_tokens")

    def __init__(self, admission: Admission, sequences: int, tokens: int) -> None:
        self._admission = admission
        self._sequences = sequences
        self._tokens = tokens
        self._since = time.monotonic()

    def begun(self) -> None:
        """Its prompts wait no more. Any number of calls."""
        if self._tokens:
            self._admission._begun(self._tokens)
            self._tokens = 0

    def close(self) -> None:
        """It has ended, well or not: its places are free. Any number of calls."""
        self.begun()
        if self._sequences:
            self._admission._ended(self._sequences, time.monotonic() - self._since)
            self._sequences = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
