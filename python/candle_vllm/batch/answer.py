"""How a line is answered: by an endpoint's row, on the road that every request takes.

Must not know of files.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from candle_vllm.errors import CandleVllmError
from candle_vllm.generation import Account
from candle_vllm.openai import ENDPOINTS, ApiError, OpenAIAdapter
from candle_vllm.openai.endpoint import AnyEndpoint
from candle_vllm.openai.responses import RESPONSE
from candle_vllm.openai.turns import serialised_in_turns

__all__ = ["ROWS", "Answer", "Answered", "Answering", "UnansweredError"]

ROWS: Mapping[str, AnyEndpoint] = {row.path: row for row in (*ENDPOINTS, RESPONSE)}
"""What a line may ask for, by its `url`."""

_BUSY = 503


class Answered(NamedTuple):
    """What a server would have replied."""

    status: int
    request_id: str
    body: str
    """JSON in one line."""


Answer = Callable[[str, Mapping[str, Any]], Awaitable[Answered]]
"""The reply to a body at a url of `ROWS`; raises UnansweredError where the same line may be answered later."""


class UnansweredError(CandleVllmError):
    """A line got no answer for a reason that is not its own, such as an engine that failed: it is to be asked again."""


class Answering:
    """An `Answer` by the models of this process."""

    def __init__(self, adapter: OpenAIAdapter) -> None:
        self._adapter = adapter

    async def __call__(self, url: str, body: Mapping[str, Any]) -> Answered:
        """The reply; a refusal is one too."""
        account = Account(request_id=uuid.uuid4().hex)
        try:
            reply = await self._adapter.areply(ROWS[url], body, account)
        except ApiError as error:
            if error.status == _BUSY:
                raise UnansweredError(error.message) from error
            return Answered(error.status, account.request_id, json.dumps(error.envelope()))
        return Answered(200, account.request_id, await serialised_in_turns(reply))
