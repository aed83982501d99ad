"""How a chat asks for tools that the server runs, and how several turns are told as one message."""

from typing import Any

import pytest

from candle_vllm.generation import Answer, Continued, Reasoning, ServerCall, ServerTools, Text
from candle_vllm.openai import ChatCompletionRequest
from candle_vllm.openai.chat_mcp import Turns, calls_of, made_before, server_tools_of, text_of


def request(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "?"}], **fields})


@pytest.mark.parametrize(
    ("fields", "tools"),
    [
        ({}, ServerTools(asked=False)),
        ({"mcp": {}}, ServerTools()),
        ({"mcp": {"servers": []}}, None),
        ({"mcp": {}, "tool_choice": "none"}, None),
        ({"mcp": {}, "functions": [{"name": "f"}]}, None),
        (
            {"mcp": {"servers": ["a", "b", "a"], "allowed_tools": ["t"], "max_turns": 2, "timeout": 1.5}},
            ServerTools(servers=("a", "b"), allowed=["t"], max_turns=2, timeout=1.5),
        ),
    ],
)
def test_what_a_request_asks_for(fields: dict[str, Any], tools: ServerTools | None) -> None:
    assert server_tools_of(request(**fields)) == tools


def test_turns_are_told_as_one_message_and_back() -> None:
    call = ServerCall("c1", "f", '{"a": 1}', server="s", text="Error: no", outcome="tool_error")
    unended = ServerCall("c2", "g", "{", server="s")
    answer = Answer("So.", "hm", earlier=[Answer("Look.", "", server_calls=[call, unended]), Answer("", "ah")])
    assert text_of(answer, lambda turn: turn.text) == "Look.\n\nSo."
    assert text_of(answer, lambda turn: turn.reasoning) == "ah\n\nhm"
    told = calls_of(answer)
    assert [(each.id, each.turn, each.output, each.error) for each in told] == [
        ("c1", 1, "Error: no", "tool_error"),
        ("c2", 1, "", "not_run"),
    ]
    messages = made_before(told)
    assert [message["role"] for message in messages] == ["assistant", "tool", "tool"]
    assert messages[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert (messages[1]["tool_call_id"], messages[1]["content"]) == ("c1", "Error: no")


def test_a_stream_parts_the_texts_of_turns() -> None:
    turns = Turns()
    assert [turns.joined(Text(0, piece)) for piece in ("Lo", "ok.")] == ["Lo", "ok."]
    turns.continued(Continued(0))
    assert turns.joined(Reasoning(0, "hm")) == "hm"
    assert [turns.joined(Text(0, piece)) for piece in ("S", "o.")] == ["\n\nS", "o."]
