"""Usage: what each key has asked for and got since the server started. Must not know of HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from candle_vllm.generation import Account

__all__ = ["Usage", "UsageReport", "UsageRow"]


@dataclass(slots=True)
class UsageRow:
    """The sums of one key on one model."""

    key: str
    """Name of the key; empty for callers without one."""
    model: str
    requests: int = 0
    """Requests that ran, to their end or not."""
    failed: int = 0
    """Of these, those that ended with an error or whose client left."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of these, from the prefix cache."""
    generated_tokens: int = 0
    reasoning_tokens: int = 0
    """Of these, tokens that the model thought with."""


class UsageReport(BaseModel):
    """What keys have used."""

    object: Literal["list"] = "list"
    since: int
    """When counting began, in Unix seconds."""
    data: list[UsageRow]


class Usage:
    """An observer of requests (`generation.Observer`) that sums them up. To be used from one event loop."""

    def __init__(self) -> None:
        self._since = int(time.time())
        self._rows: dict[tuple[str, str], UsageRow] = {}

    def started(self, account: Account) -> None:
        """Nothing is counted before it has ended."""

    def tokens(self, account: Account, count: int, now: float) -> None:
        """Nothing: the account itself counts."""

    def ended(self, account: Account) -> None:
        """Add a request that had its model."""
        if account.submitted is None:
            return
        row = self._rows.setdefault((account.key, account.model), UsageRow(account.key, account.model))
        row.requests += 1
        row.failed += account.error is not None
        row.prompt_tokens += account.prompt_tokens
        row.cached_tokens += account.cached_tokens
        row.generated_tokens += account.generated_tokens
        row.reasoning_tokens += account.reasoning_tokens

    def report(self, key: str) -> UsageReport:
        """The rows of one key; with the empty name, of callers without one, those of all."""
        return UsageReport(since=self._since, data=[row for row in self._rows.values() if key in ("", row.key)])
