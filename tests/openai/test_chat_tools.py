"""Tool calls over chat completions: read from what the model writes, the same streamed and whole."""

from __future__ import annotations

from typing import Any

import openai.types.chat
import pytest

from candle_vllm.openai import ApiError, ChatCompletionChunk, OpenAIAdapter
from fake_engine import CHATML, FakeEngine

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}
ASK: dict[str, Any] = {
    "model": "fake",
    "messages": [{"role": "user", "content": "Weather in Bern and the time?"}],
    "tools": [WEATHER, TIME],
}
CALLS = (
    'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern </tool_call>"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(answer=CALLS)


@pytest.fixture
def adapter(engine: FakeEngine) -> OpenAIAdapter:
    return OpenAIAdapter(engine)


def added(chunks: list[ChatCompletionChunk]) -> list[tuple[str, str, str]]:
    """The calls that the chunks add up to: id, name, arguments."""
    calls: list[list[str]] = []
    for chunk in chunks:
        for choice in chunk.choices:
            for piece in choice.delta.tool_calls or []:
                assert piece.function is not None
                if piece.id is not None:
                    assert piece.index == len(calls)
                    assert piece.type == "function"
                    calls.append([piece.id, piece.function.name or "", ""])
                else:
                    assert piece.function.name is None
                calls[piece.index][2] += piece.function.arguments or ""
    return [(id_, name, arguments) for id_, name, arguments in calls]


def test_calls_streamed_and_whole(adapter: OpenAIAdapter) -> None:
    whole = adapter.chat_completion(ASK).choices[0]
    chunks = list(adapter.chat_completion_stream(ASK))
    assert whole.finish_reason == "tool_calls"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert whole.message.content == "Let me look."
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Let me look."
    assert whole.message.tool_calls is not None
    calls = [(call.function.name, call.function.arguments) for call in whole.message.tool_calls]
    assert calls == [("weather", '{"city": "Bern </tool_call>"}'), ("time", "{}")]
    assert [call[1:] for call in added(chunks)] == calls
    ids = [call.id for call in whole.message.tool_calls] + [call[0] for call in added(chunks)]
    assert len(set(ids)) == 4
    openai.types.chat.ChatCompletion.model_validate(adapter.chat_completion(ASK).model_dump(exclude_unset=True))


def test_a_round_of_calls_and_results_goes_back(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    message = adapter.chat_completion(ASK).choices[0].message
    assert message.tool_calls is not None
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name}!"} for call in message.tool_calls
    ]
    engine.answer = "Sunny."
    reply = adapter.chat_completion({**ASK, "messages": [*ASK["messages"], message, *results]})
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("Sunny.", "stop")
    prompt = engine.detokenize(engine.submitted[-1][0])
    assert prompt.startswith("system\nYou may call functions")
    assert '"city": "Bern </tool_call>"' in prompt
    assert "user\n<tool_response>\nweather!\n</tool_response>" in prompt


def test_a_template_that_knows_tools_gets_them(engine: FakeEngine) -> None:
    engine.chat_templates = {
        "default": "{{ tools | tojson }}<tool_call>{'name': tool_call.name} tool_call.arguments" + CHATML
    }
    OpenAIAdapter(engine).chat_completion(ASK)
    prompt = engine.detokenize(engine.submitted[-1][0])
    assert prompt.startswith('[{"type": "function", "function": {"name": "weather"')
    assert "You may call functions" not in prompt


def test_no_calls_where_none_are_asked_for(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    changes: tuple[dict[str, Any], ...] = ({"tool_choice": "none"}, {"tools": []})
    for change in changes:
        choice = adapter.chat_completion({**ASK, **change}).choices[0]
        assert (choice.message.content, choice.finish_reason) == (CALLS, "stop")
        assert choice.message.tool_calls is None
        assert "You may call functions" not in engine.detokenize(engine.submitted[-1][0])


def test_a_call_that_is_cut_off_ends_with_length(adapter: OpenAIAdapter) -> None:
    choice = adapter.chat_completion({**ASK, "max_tokens": 60}).choices[0]
    assert choice.finish_reason == "length"


def test_the_older_functions(adapter: OpenAIAdapter, engine: FakeEngine) -> None:
    engine.answer = '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>'
    request = {**ASK, "functions": [WEATHER["function"]]}
    del request["tools"]
    choice = adapter.chat_completion(request).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call is not None
    assert (choice.message.function_call.name, choice.message.function_call.arguments) == (
        "weather",
        '{"city": "Bern"}',
    )
    chunks = list(adapter.chat_completion_stream(request))
    pieces = [c.choices[0].delta.function_call for c in chunks if c.choices[0].delta.function_call]
    assert "".join(piece.arguments or "" for piece in pieces) == '{"city": "Bern"}'
    engine.answer = "Sunny."
    result = {"role": "function", "name": "weather", "content": "sun"}
    adapter.chat_completion({**request, "messages": [*request["messages"], choice.message, result]})
    assert "<tool_response>\nsun\n</tool_response>" in engine.detokenize(engine.submitted[-1][0])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "unknown"}}}, "tool_choice"),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "x"}}]},
                }
            },
            "tool_choice",
        ),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
    ],
)
def test_refusals(adapter: OpenAIAdapter, change: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        adapter.chat_completion({**ASK, **change})
    assert (refusal.value.status, refusal.value.param) == (400, param)
