"""What streams: the specification's events in its order, and the same as the whole reply holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from candle_vllm.generation import Account, Text
from candle_vllm.openai import ApiError, OpenAIAdapter
from candle_vllm.openai.endpoint import serialised
from candle_vllm.openai.responses import RESPONSE, ResponsesRequest
from candle_vllm.openai.responses.events import TextDelta
from candle_vllm.openai.responses.writer import ResponseWriter
from fake_engine import CHATML, FakeEngine
from responses_facts import check

THINKING = "{# <think> #}" + CHATML
TOOLS = [
    {"type": "function", "name": "weather", "parameters": {"type": "object"}},
    {"type": "function", "name": "time", "parameters": {"type": "object"}},
]
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'
CALLS = CALL + '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
ASK: dict[str, Any] = {"input": "hello", "tools": TOOLS}


def streamed(engine: FakeEngine, request: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(serialised(event)) for event in OpenAIAdapter(engine).stream(RESPONSE, request)]


def same(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what is made up anew for each."""
    made_up = {"id", "call_id", "created_at", "completed_at"}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items() if key not in made_up}
        return [plain(each) for each in value] if isinstance(value, list) else value

    found: dict[str, Any] = plain(response)
    return found


@pytest.mark.parametrize(
    ("answer", "settings", "change", "kinds", "status"),
    [
        (None, {}, {}, ["message"], "completed"),
        ("", {}, {}, [], "completed"),
        ("é世界🦀", {}, {}, ["message"], "completed"),
        (None, {}, {"max_output_tokens": 3}, ["message"], "incomplete"),
        (CALL, {}, {}, ["function_call"], "completed"),
        (f"Let me look.\n{CALLS}", {}, {}, ["message", "function_call", "function_call"], "completed"),
        (CALLS, {}, {"max_output_tokens": 60}, ["function_call"], "incomplete"),
        (f"<think>hm</think>{CALL}", {"chat_templates": {"default": THINKING}}, {}, ["reasoning", "function_call"], ""),
        ("<think>hm</think>yes", {"chat_templates": {"default": THINKING}}, {}, ["reasoning", "message"], "completed"),
        (
            "<think>hm, hm</think>yes",
            {"chat_templates": {"default": THINKING}},
            {"max_output_tokens": 10},
            ["reasoning"],
            "incomplete",
        ),
        (None, {}, {"top_logprobs": 2}, ["message"], "completed"),
        (None, {}, {"include": ["message.output_text.logprobs"]}, ["message"], "completed"),
    ],
)
def test_streams_and_whole_replies(
    answer: str | None, settings: dict[str, Any], change: dict[str, Any], kinds: list[str], status: str
) -> None:
    engine = FakeEngine(answer=answer, **settings)
    last = check(streamed(engine, {**ASK, **change}))
    assert [item["type"] for item in last["output"]] == kinds
    assert last["status"] == (status or "completed")
    if last["output"] and status == "incomplete":
        assert last["output"][-1]["status"] == "incomplete"
    whole = json.loads(serialised(OpenAIAdapter(engine).reply(RESPONSE, {**ASK, **change})))
    assert same(whole) == same(last)


def test_a_failure_on_the_way_ends_the_stream() -> None:
    engine = FakeEngine(fail_after=3)
    writer = ResponseWriter(ResponsesRequest(input="x"), Account())
    written = [json.loads(serialised(event)) for event in writer.failing(ApiError("why", status=503))]
    assert check(written)["error"] == {"code": "server_error", "message": "why"}
    with pytest.raises(ApiError):
        streamed(engine, ASK)


def test_logprobs_stand_with_their_text() -> None:
    events = streamed(FakeEngine(), {"input": "hi", "top_logprobs": 2})
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    for event in deltas:
        assert "".join(entry["token"] for entry in event["logprobs"]) == event["delta"]
        assert all(len(entry["top_logprobs"]) == 2 for entry in event["logprobs"])
    last = events[-1]["response"]["output"][0]["content"][0]
    assert last["logprobs"] == [entry for event in deltas for entry in event["logprobs"]]


def test_logprobs_of_calls_are_no_texts() -> None:
    events = streamed(FakeEngine(answer=f"Hm.{CALL}"), {**ASK, "top_logprobs": 1})
    assert [item["type"] for item in check(events)["output"]] == ["message", "function_call"]
    [message, _] = events[-1]["response"]["output"]
    assert "".join(entry["token"] for entry in message["content"][0]["logprobs"]) == "Hm."


TEXTS = ["plain", 'quote " back \\ slash', "new\nline\x00", "\x7f", "é 世界 🦀 \u2028", "", "918273645546", "8f14e45f"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_quick_way_writes_the_very_same_bytes(text: str) -> None:
    quick, usual = (ResponseWriter(ResponsesRequest(input="x"), Account()) for _ in range(2))
    assert quick.quick(Text(0, "first")) is None
    for writer in (quick, usual):
        writer.chunks(Text(0, "first"))
    usual.response.output[0].id = quick.response.output[0].id
    [event] = usual.chunks(Text(0, text))
    assert isinstance(event, TextDelta)
    written = quick.quick(Text(0, text))
    if "\x7f" in text:
        assert written is None
        return
    assert written == serialised(event)
    assert quick.response.output == usual.response.output
    [after], [other] = quick.chunks(Text(0, "x")), usual.chunks(Text(0, "x"))
    assert after == other
