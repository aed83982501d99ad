"""One answer while it is made: its parts, its end, its figures, and whose it is."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from candle_vllm.models import Models, SingleModel
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.server import Limits, parse_keys
from candle_vllm.server.entrance import Entrance
from candle_vllm.ui.conversation import CallPart, TextPart
from candle_vllm.ui.turn import Caller, Turn
from fake_engine import FakeEngine
from scripted import ScriptedEngine

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def turn_of(engine: FakeEngine, limits: Limits | None = None, **request: Any) -> Turn:
    entrance = Entrance(parse_keys(["alice sk"]), limits or Limits())
    models: Models = SingleModel(engine, ["m"])
    return Turn(OpenAIAdapter(models), Caller(entrance, "alice", "10.0.0.1"), {**ASKED, **request})


async def test_a_whole_answer() -> None:
    turn = turn_of(FakeEngine(delay=0.01))
    assert not turn.ended
    await turn.run()
    assert turn.ended and turn.answer.ended == "stop"
    assert turn.answer.text == "You said: hello"
    assert (turn.answer.model, turn.account.key) == ("m", "alice")
    assert turn.answer.tokens == len("You said: hello") + 1
    assert turn.answer.rate is not None and 1 < turn.answer.rate < 2_000


async def test_the_log_has_a_line_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "candle_vllm.access")
    turn = turn_of(FakeEngine())
    await turn.run()
    refused = turn_of(FakeEngine(), model="other")
    await refused.run()
    lines = [record.getMessage().split() for record in caplog.records if record.name == "candle_vllm.access"]
    assert len(lines) == 2
    assert {"client=10.0.0.1", "door=page", "key=alice", "endpoint=chat_completion", "finish=stop"} <= set(lines[0])
    assert f"generated_tokens={turn.account.generated_tokens}" in lines[0]
    assert "hello" not in " ".join(lines[0])
    assert any(fact.startswith("error=") for fact in lines[1])
    assert turn.account.request_id.startswith("req_") and turn.account.request_id != refused.account.request_id


async def test_what_there_is_can_be_seen_meanwhile() -> None:
    turn = turn_of(FakeEngine(delay=0.005, answer="word " * 200))
    making = asyncio.create_task(turn.run())
    while len(turn.answer.text) < 10:
        await asyncio.sleep(0.01)
        turn.catch_up()
    assert not turn.ended and turn.answer.text == ("word " * 200)[: len(turn.answer.text)]
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert turn.answer.ended == "stopped" and 10 <= len(turn.answer.text) < 1_000


async def test_a_refused_request_is_told() -> None:
    turn = turn_of(FakeEngine(), model="other")
    await turn.run()
    assert turn.answer.ended == "failed" and "other" in turn.answer.error
    turn = turn_of(FakeEngine(), temperature=9)
    await turn.run()
    assert "temperature" in turn.answer.error


async def test_a_failure_keeps_what_came_before_it() -> None:
    turn = turn_of(FakeEngine(fail_after=4))
    await turn.run()
    assert turn.answer.text == "You " and turn.answer.ended == "failed" and turn.answer.error


async def test_places_and_rates_are_the_callers() -> None:
    turn = turn_of(FakeEngine(), Limits(caller_rate=0.5))
    await turn.run()
    assert turn.answer.ended == "stop"
    again = Turn(turn._adapter, turn._caller, ASKED)
    await again.run()
    assert again.answer.ended == "failed" and again.answer.error.startswith("Rate limit reached")


async def test_calls_that_nobody_runs_here() -> None:
    tool = {"type": "function", "function": {"name": "count", "parameters": {"type": "object"}}}
    turn = turn_of(ScriptedEngine([("count", {"thing": "pears"})]), tools=[tool])
    await turn.run()
    [call] = [part for part in turn.answer.parts if not isinstance(part, TextPart) or part.text.strip()]
    assert isinstance(call, CallPart)
    assert (call.name, call.server, call.output) == ("count", None, None)
    assert call.arguments.replace(" ", "") == '{"thing":"pears"}'
    assert turn.answer.ended == "tool_calls"
