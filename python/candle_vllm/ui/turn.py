"""Turn: one answer while it is made, for a page to look at from time to time.

It takes the road of every request, with its caller's key, rate and places. Must not know of pages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from candle_vllm.generation import (
    Account,
    Continued,
    Event,
    Finished,
    Reasoning,
    ServerCallArguments,
    ServerCallEnded,
    ServerCallStarted,
    Started,
    Status,
    Text,
    ToolArguments,
    ToolCallStarted,
)
from candle_vllm.models import WaitStatus
from candle_vllm.openai import ApiError, OpenAIAdapter
from candle_vllm.openai.chat import CHAT_COMPLETION
from candle_vllm.openai.errors import api_error
from candle_vllm.server import access, request_id
from candle_vllm.server.entrance import Entrance
from candle_vllm.ui.conversation import Answer, CallPart

__all__ = ["Caller", "Turn"]


_MEASURED = 0.05
"""Seconds of generating over which a rate says something."""


class Caller:
    """Who asks: the name of the key, and the address for those without one."""

    def __init__(self, entrance: Entrance, key: str, address: str) -> None:
        self.entrance = entrance
        self.key = key
        self.address = address


class Turn:
    """The answer to one request. `run` makes it; `answer` is what there is so far, once `catch_up` was called."""

    def __init__(self, adapter: OpenAIAdapter, caller: Caller, request: Mapping[str, Any]) -> None:
        self.answer = Answer()
        self.wait: WaitStatus | None = None
        """What it waits for, before its first token."""
        self.account = Account(key=caller.key, request_id=request_id.request_id(None))
        self._adapter = adapter
        self._caller = caller
        self._request = request
        self._turn = 1
        self._calls: dict[tuple[bool, int], CallPart] = {}
        self._pending: list[str] = []
        self._kind: type[Text | Reasoning] = Text
        self._turn_began: tuple[int, float | None] = (0, None)

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.answer.ended != ""

    async def run(self) -> None:
        """Make the answer, and log it. Never raises but when it is cancelled, which is how a user stops it."""
        began, mark = time.monotonic(), request_id.current.set(self.account.request_id)
        try:
            with self._caller.entrance.enter(self._caller.key, self._caller.address):
                opened = self._adapter.open(CHAT_COMPLETION, self._request, stream=True, account=self.account)
                async with aclosing(opened.events) as events:
                    async for event in events:
                        self._take(event)
        except asyncio.CancelledError:
            self._end("stopped")
            raise
        except Exception as error:
            self.answer.error = (error if isinstance(error, ApiError) else api_error(error)).message
            self._end("failed")
        finally:
            if not self.ended:
                self._end("stopped")
            access.write(self.account, self._caller.address, began, {"door": "page"})
            request_id.current.reset(mark)

    def catch_up(self) -> None:
        """Put what has come since the last time into `answer`: text by the piece would be copied for every token."""
        if self._pending:
            self.answer.add("text" if self._kind is Text else "reasoning", "".join(self._pending), self._turn)
            self._pending.clear()
        account, (before, first) = self.account, self._turn_began
        self.answer.tokens = account.generated_tokens
        if first is not None and account.last_token_at is not None and account.last_token_at - first > _MEASURED:
            self.answer.rate = (account.generated_tokens - before) / (account.last_token_at - first)

    def _take(self, event: Event) -> None:
        match event:
            case Text(_, text) | Reasoning(_, text):
                if type(event) is not self._kind:
                    self.catch_up()
                    self._kind = type(event)
                self._pending.append(text)
                self._begin()
            case Status(wait):
                self.wait = wait
            case Started(_, name):
                self.answer.model = name
            case ToolCallStarted(_, number, id, name):
                self._call(CallPart(id=id, name=name, turn=self._turn), (False, number))
            case ServerCallStarted(_, number, id, name, server):
                self._call(CallPart(id=id, name=name, server=server or "", turn=self._turn), (True, number))
            case ToolArguments(_, number, text) | ServerCallArguments(_, number, text):
                self._calls[isinstance(event, ServerCallArguments), number].arguments += text
            case ServerCallEnded(_, number, text, outcome, _):
                call = self._calls[True, number]
                call.output, call.error = text, None if outcome == "ok" else outcome or "not_run"
            case Continued():
                self.catch_up()
                self._turn += 1
                self._turn_began = (self.account.generated_tokens, None)
            case Finished(_, reason):
                self._end(reason)
            case _:
                pass

    def _call(self, call: CallPart, key: tuple[bool, int]) -> None:
        self.catch_up()
        self._calls[key] = call
        self.answer.parts.append(call)
        self._begin()

    def _begin(self) -> None:
        """Nothing is waited for any more; the rate counts from here, without the tokens that are there already."""
        self.wait = None
        if self._turn_began[1] is None:
            self._turn_began = (self.account.generated_tokens, time.monotonic())

    def _end(self, how: Any) -> None:
        self.catch_up()
        self.answer.ended = how
