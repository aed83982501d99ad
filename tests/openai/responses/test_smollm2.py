"""A real model: a chain of turns that stays warm, forms that hold, calls there and back, in the background."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import openai
from candle_vllm import InferenceEngine
from candle_vllm.server import create_app
from live_server import LiveServer
from responses_facts import check

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Bern", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture
def client(smollm2_engine: InferenceEngine, serve: Callable[..., LiveServer]) -> Iterator[openai.OpenAI]:
    live = serve(create_app(smollm2_engine, model_names=["smollm2"]))
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_turns_stay_warm(client: openai.OpenAI) -> None:
    rules = "You are a patient teacher of geography. " * 12
    options: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_output_tokens": 24, "instructions": rules}
    made = client.responses.create(input="Name a river in Europe.", **options)
    for question in ("And one in Asia?", "And one in Africa?"):
        before = made.usage
        made = client.responses.create(input=question, previous_response_id=made.id, **options)
        assert before is not None and made.usage is not None
        # All but the last block of what was computed for the turn before is found again.
        assert made.usage.input_tokens_details.cached_tokens >= before.total_tokens - 32 - 8
        assert made.usage.input_tokens > before.total_tokens
    cached = made.usage.input_tokens_details.cached_tokens if made.usage else 0
    again = client.responses.create(
        input="And one in Africa?", previous_response_id=made.previous_response_id, **options
    )
    assert again.output_text == made.output_text
    assert again.usage is not None and again.usage.input_tokens_details.cached_tokens >= cached


def test_parse(client: openai.OpenAI) -> None:
    class Place(BaseModel):
        name: str
        kind: Literal["city", "river", "mountain"]

    made = client.responses.parse(
        model="smollm2", input="Tell me about the Danube.", text_format=Place, temperature=0, max_output_tokens=100
    )
    assert made.output_parsed is not None
    assert made.output_parsed.kind in ("city", "river", "mountain")


def test_a_call_there_and_back(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "smollm2", "temperature": 0, "tools": [WEATHER], "max_output_tokens": 60}
    events = client.responses.create(
        input="What is the weather in Bern?", tool_choice="required", parallel_tool_calls=False, stream=True, **options
    )
    last = check([event.to_dict() for event in events])
    [call] = [item for item in last["output"] if item["type"] == "function_call"]
    assert json.loads(call["arguments"])["city"] in ("Bern", "Rome")
    result: Any = {"type": "function_call_output", "call_id": call["call_id"], "output": "21 degrees and sunny"}
    made = client.responses.create(input=[result], previous_response_id=last["id"], tool_choice="none", **options)
    assert made.output_text
    assert made.status in ("completed", "incomplete")


def test_in_the_background(client: openai.OpenAI) -> None:
    begun = client.responses.create(
        model="smollm2", input="Count to ten.", background=True, temperature=0, max_output_tokens=20
    )
    end = time.monotonic() + 60
    while (made := client.responses.retrieve(begun.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < end
        time.sleep(0.02)
    whole = client.responses.create(model="smollm2", input="Count to ten.", temperature=0, max_output_tokens=20)
    assert made.output_text == whole.output_text
    assert made.usage is not None and made.usage.output_tokens == 20
    endless = client.responses.create(model="smollm2", input="Tell a long story.", background=True)
    assert client.responses.cancel(endless.id).status == "cancelled"


def test_logprobs(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="smollm2",
        input="Hi",
        temperature=0,
        max_output_tokens=8,
        top_logprobs=3,
        include=["message.output_text.logprobs"],
    )
    [message] = made.output
    assert message.type == "message" and message.content[0].type == "output_text"
    entries = message.content[0].logprobs
    assert entries is not None and len(entries) == 8
    assert "".join(entry.token for entry in entries) == made.output_text
    for entry in entries:
        assert entry.token == entry.top_logprobs[0].token
        assert len(entry.top_logprobs) == 3
