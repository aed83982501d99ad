"""Account: the figures of one request while it runs, for usage, logs and metrics. Must not know who reads them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Account", "Observer", "untraced"]


@dataclass(slots=True, kw_only=True)
class Account:
    """What one request is and what it has cost so far. Times of day by `time.monotonic`, spans in seconds."""

    endpoint: str = ""
    """Name of the endpoint, e.g. `chat_completion`."""
    request_id: str = ""
    """The client's or the server's id of the request."""
    key: str = ""
    """Name of the API key that it came with."""
    warnings: list[str] = field(default_factory=list)
    """Fields of its body that are not known and were left aside."""
    model: str = ""
    """Name of the model that it asked for, or got."""
    stream: bool = False
    n: int = 1
    """Answers to each prompt."""
    answers: int = 0
    """Answers to all prompts, once they are submitted."""
    max_tokens: int | None = None
    """As the client set it."""
    prompt_tokens: int = 0
    """Over all prompts, each once."""
    cached_tokens: int = 0
    """Of these, from the prefix cache."""
    generated_tokens: int = 0
    """Over all answers."""
    reasoning_tokens: int = 0
    """Of these, tokens that the model thought with."""
    queue_time: float = 0.0
    """Longest of its answers' times from submission to their first step."""
    prefill_time: float = 0.0
    """Longest of its answers' times from there to their first token."""
    started: float = field(default_factory=time.monotonic)
    submitted: float | None = None
    """When it got its model and its answers were submitted."""
    first_token_at: float | None = None
    last_token_at: float | None = None
    ended: float | None = None
    finish_reasons: list[str] = field(default_factory=list)
    """One an answer that has ended."""
    error: BaseException | None = None
    """What ended it before its answers did; without its trace once observers have heard of the end."""


def untraced(error: BaseException) -> BaseException:
    """An error of the same type that says the same, and holds nothing: no trace, and so no frames and their objects."""
    try:
        bare = type(error).__new__(type(error))
        bare.args = error.args
    except TypeError:
        return RuntimeError(str(error))
    return bare


class Observer(Protocol):
    """Who wants to know how requests fare. Called on the event loop; must be quick and must not raise."""

    def started(self, account: Account) -> None:
        """The request has come in."""
        ...

    def tokens(self, account: Account, count: int, now: float) -> None:
        """`count` tokens more were generated; `now` by `time.monotonic`."""
        ...

    def ended(self, account: Account) -> None:
        """The request has ended, well or not."""
        ...


class Observers:
    """Several observers as one."""

    def __init__(self, members: Sequence[Observer] = ()) -> None:
        self._members = tuple(members)

    def started(self, account: Account) -> None:
        """Pass it on."""
        for member in self._members:
            member.started(account)

    def tokens(self, account: Account, count: int, now: float) -> None:
        """Keep the times and pass it on."""
        if account.first_token_at is None:
            account.first_token_at = now
        account.last_token_at = now
        for member in self._members:
            member.tokens(account, count, now)

    def ended(self, account: Account) -> None:
        """Keep the time and pass it on."""
        account.ended = time.monotonic()
        for member in self._members:
            member.ended(account)
