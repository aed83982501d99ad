"""Responses in this process: blocking and on a loop, typed or as dictionaries."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from candle_vllm.openai import ApiError, OpenAIAdapter, Responses
from candle_vllm.openai.endpoint import serialised
from candle_vllm.openai.responses import ResponsesRequest
from fake_engine import FakeEngine
from responses_facts import check


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def responses(engine: FakeEngine) -> Iterator[Responses]:
    made = Responses(OpenAIAdapter(engine), most_of_one=2)
    yield made
    made.close()


def told(events: Any) -> list[dict[str, Any]]:
    return [json.loads(serialised(event)) for event in events]


def test_blocking(responses: Responses, engine: FakeEngine) -> None:
    first = responses.create({"input": "one"})
    assert first.status == "completed" and first.store
    last = check(told(responses.stream({"input": "two", "previous_response_id": first.id})))
    assert [item.content for item in responses.get(last["id"]).said if item.role == "user"] == ["one", "two"]
    assert engine.detokenize(engine.submitted[-1][0]).startswith("user\none\nassistant\nYou said: one\nuser\ntwo")
    assert responses.delete(first.id).deleted
    with pytest.raises(ApiError) as refusal:
        responses.get(first.id)
    assert refusal.value.status == 404
    with pytest.raises(ApiError) as refusal:
        responses.create({"input": "x", "nonsense": 1})
    assert refusal.value.param == "nonsense"


def test_in_the_background(responses: Responses, engine: FakeEngine) -> None:
    engine.answer, engine.delay = "word " * 500, 0.01
    begun = responses.start(ResponsesRequest(input="x", stream=True))
    assert begun.background and begun.running
    end = time.monotonic() + 10
    while begun.status == "queued" and time.monotonic() < end:
        time.sleep(0.005)
    assert responses.cancel(begun.name).status == "cancelled"
    assert not engine.live
    shown = json.loads(begun.text)
    assert (shown["status"], shown["model"]) == ("cancelled", "fake")
    with pytest.raises(ApiError, match="start"):
        responses.create({"input": "x", "background": True})
    engine.answer = "short"
    whole = responses.create({"input": "x"})
    with pytest.raises(ApiError, match="synchronous"):
        responses.cancel(whole.id)


def test_a_stream_that_fails_says_so(responses: Responses, engine: FakeEngine) -> None:
    engine.fail_after = 3
    events = told(responses.stream({"input": "x"}))
    failed = check(events)
    assert failed["error"]["code"] == "server_error" and "caught fire" in failed["error"]["message"]
    assert [item["status"] for item in failed["output"]] == ["incomplete"]
    assert responses.get(failed["id"]).status == "failed"
    with pytest.raises(ApiError):
        list(responses.stream({"input": "x", "previous_response_id": "none"}))


def test_logprobs_of_calls_are_no_texts(responses: Responses, engine: FakeEngine) -> None:
    engine.answer = 'Hm.<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    asked = {"input": "x", "top_logprobs": 1, "tools": [{"type": "function", "name": "f"}]}
    message, call = responses.create(asked).output
    assert message.type == "message" and call.type == "function_call"
    assert "".join(entry.token for entry in message.content[0].logprobs) == message.content[0].text == "Hm."
    assert responses.create({**asked, "stream": True}).status == "completed"


def test_from_many_threads(responses: Responses) -> None:
    said: list[str] = []

    def ask(number: int) -> None:
        made = responses.create({"input": f"{number}"})
        for _ in range(3):
            made = responses.create({"input": f"{number}", "previous_response_id": made.id})
        said.append(f"{number}" * len(responses.get(made.id).said))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [f"{number}" * 8 for number in range(8)]


async def test_a_callers_bound(engine: FakeEngine) -> None:
    engine.gate.clear()
    responses = Responses(OpenAIAdapter(engine), most_of_one=2)
    for caller in ("a", "b"):
        for _ in range(2):
            await responses.astart({"input": "x"}, caller=caller)
        with pytest.raises(ApiError) as refusal:
            await responses.astart({"input": "x"}, caller=caller)
        assert (refusal.value.status, refusal.value.code) == (429, "concurrency_limit_exceeded")
    assert len(responses.store) == 4
    await responses.aclose()


async def test_leaving_a_stream_ends_its_work(engine: FakeEngine) -> None:
    engine.answer = "word " * 1000
    responses = Responses(OpenAIAdapter(engine))
    events = responses.astream({"input": "x"})
    async for event in events:
        if event.type == "response.output_text.delta":
            break
    assert engine.live
    await events.aclose()
    assert not engine.live
    assert len(responses.store) == 0
