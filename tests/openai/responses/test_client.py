"""The official client's `responses` against a real server over the fake engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import openai
from candle_vllm.server import create_app
from fake_engine import FakeEngine
from live_server import LiveServer

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = 'Let me look.\n<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def live(engine: FakeEngine, serve: Callable[..., LiveServer]) -> LiveServer:
    return serve(create_app(engine, model_names=["fake"]))


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_create(client: openai.OpenAI, engine: FakeEngine) -> None:
    response = client.responses.create(
        model="fake", input="hello", instructions="be brief", temperature=0.5, max_output_tokens=50, metadata={"a": "b"}
    )
    assert (response.status, response.output_text) == ("completed", "You said: hello")
    prompt, params = engine.submitted[-1]
    assert engine.detokenize(prompt) == "system\nbe brief\nuser\nhello\nassistant\n"
    assert (params.temperature, params.max_tokens) == (0.5, 50)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (len(prompt), 16)
    assert response.usage.input_tokens_details.cached_tokens == len(prompt) // 2
    assert (response.metadata, response.temperature, response.model) == ({"a": "b"}, 0.5, "fake")
    cut = client.responses.create(model="fake", input="hello", max_output_tokens=3)
    assert (cut.status, cut.output_text) == ("incomplete", "You")
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model="fake", input="hello") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "You said: hello"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == final.output_text


def test_tools_there_and_back(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.answer = CALL
    first = client.responses.create(model="fake", input="hello", tools=[WEATHER])
    assert [item.type for item in first.output] == ["message", "function_call"]
    call = first.output[1]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Bern"})
    engine.answer = None
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    chained = client.responses.create(model="fake", input=[result], tools=[WEATHER], previous_response_id=first.id)
    told = engine.detokenize(engine.submitted[-1][0])
    assert "<tool_response>\nsun\n</tool_response>" in told
    by_hand: list[Any] = [{"role": "user", "content": "hello"}, *first.output, result]
    client.responses.create(model="fake", input=by_hand, tools=[WEATHER], store=False)
    assert engine.detokenize(engine.submitted[-1][0]) == told
    assert chained.previous_response_id == first.id
