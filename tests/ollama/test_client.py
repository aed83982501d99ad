"""Ollama's own client against the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import ollama
from candle_vllm.server import create_app
from fake_engine import CHATML, FakeEngine
from live_server import LiveServer

ASK: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine, serve: Callable[..., LiveServer]) -> Iterator[ollama.Client]:
    client = ollama.Client(host=serve(create_app(engine, model_names=["fake"])).url)
    yield client
    client._client.close()


def test_chat(client: ollama.Client, engine: FakeEngine) -> None:
    whole = client.chat("fake:latest", messages=ASK, options={"temperature": 0.5, "num_predict": 6, "top_k": 3})
    assert whole.message.content == "You sa"
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 6)
    assert whole.total_duration
    params = engine.submitted[-1][1]
    assert (params.temperature, params.max_tokens, params.top_k) == (0.5, 6, 3)
    pieces = list(client.chat("fake", messages=ASK, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == "You said: hello"
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].done_reason == "stop"


def test_generate(client: ollama.Client, engine: FakeEngine) -> None:
    assert client.generate("fake", "hello", system="be brief").response == "You said: hello"
    assert engine.detokenize(engine.submitted[-1][0]).startswith("system\nbe brief\nuser\nhello")
    assert client.generate("fake", "raw text", raw=True).response == "You said: raw text"
    assert "".join(piece.response or "" for piece in client.generate("fake", "hello", stream=True)) == "You said: hello"


@pytest.mark.parametrize("stream", [False, True])
def test_tools_there_and_back(client: ollama.Client, engine: FakeEngine, stream: bool) -> None:
    engine.answer = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'
    if stream:
        pieces = list(client.chat("fake", messages=ASK, tools=[TOOL], stream=True))
        [message] = [piece.message for piece in pieces if piece.message.tool_calls]
    else:
        message = client.chat("fake", messages=ASK, tools=[TOOL]).message
    assert message.tool_calls is not None
    assert (message.tool_calls[0].function.name, message.tool_calls[0].function.arguments) == (
        "weather",
        {"city": "Bern"},
    )
    engine.answer = None
    client.chat("fake", messages=[*ASK, message, {"role": "tool", "tool_name": "weather", "content": "sun"}])
    assert "<tool_response>\nsun\n</tool_response>" in engine.detokenize(engine.submitted[-1][0])


@pytest.mark.parametrize("engine", [FakeEngine(chat_templates={"default": "{# <think> #}" + CHATML})])
def test_thinking(client: ollama.Client, engine: FakeEngine) -> None:
    engine.answer = "<think>hm</think>yes"
    message = client.chat("fake", messages=ASK).message
    assert (message.thinking, message.content) == ("hm", "yes")
    assert "thinking" in (client.show("fake").capabilities or [])


def test_what_is_served(client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == ["fake"]
    assert [model.model for model in client.ps().models] == ["fake"]
    shown = client.show("fake")
    assert shown.details is not None
    assert shown.details.family == "FakeForCausalLM"
    assert shown.template == CHATML


def test_refusals(client: ollama.Client) -> None:
    for wrong in (
        lambda: client.chat("other", messages=ASK),
        lambda: client.chat("fake", messages=[{"role": "user", "content": "x", "images": ["aGk="]}]),
        lambda: client.generate("fake", "x", suffix="y"),
        lambda: client.chat("fake", messages=[{"role": "tool", "content": "x"}]),
    ):
        with pytest.raises(ollama.ResponseError) as refusal:
            wrong()
        assert refusal.value.status_code in (400, 404)
        assert isinstance(refusal.value.error, str)
        assert not refusal.value.error.startswith("{")


def test_errors_within_a_stream_are_lines(engine: FakeEngine, serve: Callable[..., LiveServer]) -> None:
    engine.fail_after = 3
    url = serve(create_app(engine, model_names=["fake"])).url
    lines = httpx.post(f"{url}/api/chat", json={"model": "fake", "messages": ASK}, timeout=10).text.splitlines()
    assert "caught fire" in json.loads(lines[-1])["error"]
