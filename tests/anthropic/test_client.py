"""Anthropic's own client against the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import anthropic
from candle_vllm.server import create_app
from fake_engine import CHATML, FakeEngine
from live_server import LiveServer

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
TOOL: Any = {
    "name": "weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = 'Let me look.\n<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def live(engine: FakeEngine, serve: Callable[..., LiveServer]) -> LiveServer:
    return serve(create_app(engine, model_names=["fake"]))


@pytest.fixture
def client(live: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as client:
        yield client


def shown(message: Any) -> list[dict[str, Any]]:
    """What a message holds, whatever class the client makes of its blocks."""
    return [{key: block.to_dict().get(key) for key in ("type", "text", "thinking")} for block in message.content]


def test_create(client: anthropic.Anthropic, engine: FakeEngine) -> None:
    message = client.messages.create(
        model="fake",
        max_tokens=50,
        messages=HELLO,
        system="be brief",
        stop_sequences=[" hello"],
        extra_body={"temperature": 0.5},
    )
    assert [(block.type, block.text) for block in message.content if block.type == "text"] == [("text", "You said:")]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " hello")
    prompt, params = engine.submitted[-1]
    assert engine.detokenize(prompt).startswith("system\nbe brief\nuser\nhello")
    assert (params.temperature, params.max_tokens) == (0.5, 50)
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == len(prompt)
    assert client.messages.create(model="fake", max_tokens=3, messages=HELLO).stop_reason == "max_tokens"


def test_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="fake", max_tokens=50, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == "You said: hello"
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert shown(final) == shown(client.messages.create(model="fake", max_tokens=50, messages=HELLO))


def test_tools_there_and_back(client: anthropic.Anthropic, engine: FakeEngine) -> None:
    engine.answer = CALL
    whole = client.messages.create(model="fake", max_tokens=200, messages=HELLO, tools=[TOOL])
    with client.messages.stream(model="fake", max_tokens=200, messages=HELLO, tools=[TOOL]) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert message.stop_reason == "tool_use"
        assert [block.type for block in message.content] == ["text", "tool_use"]
        call = message.content[1]
        assert call.type == "tool_use"
        assert (call.name, call.input) == ("weather", {"city": "Bern"})
    engine.answer = None
    assert whole.content[1].type == "tool_use"
    result = {"type": "tool_result", "tool_use_id": whole.content[1].id, "content": [{"type": "text", "text": "sun"}]}
    answer: list[Any] = [*HELLO, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    client.messages.create(model="fake", max_tokens=50, messages=answer, tools=[TOOL])
    assert "<tool_response>\nsun\n</tool_response>" in engine.detokenize(engine.submitted[-1][0])


@pytest.mark.parametrize("engine", [FakeEngine(chat_templates={"default": "{# <think> #}" + CHATML})])
def test_thinking(client: anthropic.Anthropic, engine: FakeEngine) -> None:
    engine.answer = "<think>hm</think>yes"
    with client.messages.stream(model="fake", max_tokens=50, messages=HELLO) as stream:
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert shown(message) == shown(client.messages.create(model="fake", max_tokens=50, messages=HELLO))


def test_count(client: anthropic.Anthropic, engine: FakeEngine) -> None:
    counted = client.messages.count_tokens(model="fake", messages=HELLO, system="be brief").input_tokens
    client.messages.create(model="fake", max_tokens=5, messages=HELLO, system="be brief")
    assert counted == len(engine.submitted[-1][0])


def test_the_order_of_events(live: LiveServer, engine: FakeEngine) -> None:
    engine.answer = CALL
    body = {"model": "fake", "max_tokens": 200, "messages": HELLO, "tools": [TOOL], "stream": True}
    text = httpx.post(live.url + "/v1/messages", json=body, timeout=10).text
    events = [block.splitlines() for block in text.split("\n\n") if block]
    datas = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [name for name, _ in events] == [f"event: {data['type']}" for data in datas]
    kinds = [data["type"] for data in datas if data["type"] != "content_block_delta"]
    block = ["content_block_start", "content_block_stop"]
    assert kinds == ["message_start", *block, *block, "message_delta", "message_stop"]
    assert [data["index"] for data in datas if data["type"] == "content_block_start"] == [0, 1]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "other"}, 404),
        ({"messages": []}, 400),
        ({"max_tokens": 0}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": ""}]}]},
            400,
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, 400),
        ({"tool_choice": {"type": "any"}}, 400),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, 400),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, 400),
    ],
)
def test_refusals(client: anthropic.Anthropic, change: dict[str, Any], status: int) -> None:
    with pytest.raises(anthropic.APIStatusError) as refusal:
        client.messages.create(**{"model": "fake", "max_tokens": 9, "messages": HELLO, **change})
    assert refusal.value.status_code == status
    assert isinstance(refusal.value.body, dict)
    assert refusal.value.body["type"] == "error"
    assert refusal.value.body["error"]["type"] in ("invalid_request_error", "not_found_error")
