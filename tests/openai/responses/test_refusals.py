"""What is refused, and in which words: OpenAI's envelope, naming the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

import openai
from candle_vllm.server import BoundarySettings, create_app, parse_keys
from fake_engine import FakeEngine
from live_server import LiveServer

TOOL: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "x"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}


def said(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


@pytest.fixture
def live(serve: Callable[..., LiveServer]) -> LiveServer:
    return serve(create_app(FakeEngine(), model_names=["fake"]))


ROWS: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"input": None}, "input", "invalid_value"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": 5}, "input", "invalid_type"),
    ({"input": [5]}, "input[0]", "invalid_type"),
    ({"input": [{"role": "user"}]}, "input[0]", "invalid_value"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "invalid_value"),
    ({"input": [{"type": "message", "content": "x"}]}, "input[0]", "invalid_value"),
    ({"input": [{}]}, "input[0]", "invalid_value"),
    ({"input": said({"type": "input_text"})}, "input[0].content[0]", "invalid_value"),
    ({"input": said({"type": "input_image", "image_url": "x"})}, "input[0].content[0].type", "unsupported_parameter"),
    ({"input": said({"type": "input_file", "file_id": "x"})}, "input[0].content[0].type", "unsupported_parameter"),
    ({"input": [OUTPUT]}, "input[0].call_id", "invalid_value"),
    ({"input": [OUTPUT, CALL]}, "input[0].call_id", "invalid_value"),
    ({"input": [CALL, {**OUTPUT, "call_id": "c2"}]}, "input[1].call_id", "invalid_value"),
    ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments", "invalid_type"),
    ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0]", "invalid_value"),
    ({"input": [CALL, {"type": "function_call_output", "call_id": "c1"}]}, "input[1]", "invalid_value"),
    ({"input": [{"type": "computer_call_output", "call_id": "x"}]}, "input[0].type", "unsupported_parameter"),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type", "unsupported_parameter"),
    ({"messages": []}, "messages", "unknown_parameter"),
    ({"max_tokens": 5}, "max_tokens", "unknown_parameter"),
    ({"n": 2}, "n", "unknown_parameter"),
    ({"response_format": {"type": "text"}}, "response_format", "unknown_parameter"),
    ({"previous_response_id": "resp_x"}, "previous_response_id", "previous_response_not_found"),
    ({"previous_response_id": "chatcmpl-1"}, "previous_response_id", "previous_response_not_found"),
    ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
    ({"moderation": {"model": "x"}}, "moderation", "unsupported_parameter"),
    ({"context_management": [{"type": "compaction"}]}, "context_management", "unsupported_parameter"),
    ({"background": True, "store": False}, "store", "invalid_value"),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
        "unsupported_parameter",
    ),
    ({"temperature": 3}, "temperature", "decimal_above_max_value"),
    ({"temperature": "1"}, "temperature", "invalid_type"),
    ({"top_p": -1}, "top_p", "decimal_below_min_value"),
    ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
    ({"include": ["everything"]}, "include[0]", "invalid_value"),
    ({"metadata": {"a": 5}}, "metadata.a", "invalid_type"),
    ({"metadata": {str(key): "" for key in range(17)}}, "metadata", "array_above_max_length"),
    ({"truncation": "some"}, "truncation", "invalid_value"),
    ({"text": {"verbosity": "none"}}, "text.verbosity", "invalid_value"),
    ({"thinking_token_budget": 5}, "thinking_token_budget", None),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format", "invalid_value"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format", "invalid_value"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "invalid_value"),
    ({"reasoning": {"effort": "low"}}, "reasoning.effort", "unsupported_parameter"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "unsupported_parameter"),
    ({"reasoning": {"effort": "lots"}}, "reasoning.effort", "invalid_value"),
    ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "http://x"}]}, "tools[0].server_url", None),
    ({"tools": [{"type": "mcp", "server_label": "x", "headers": {"a": "b"}}]}, "tools[0].headers", None),
    ({"tools": [{"type": "mcp", "server_label": "x", "connector_id": "y"}]}, "tools[0].connector_id", None),
    (
        {"tools": [{"type": "mcp", "server_label": "x", "require_approval": "always"}]},
        "tools[0].require_approval",
        None,
    ),
    ({"tools": [{"type": "mcp"}]}, "tools[0]", "invalid_value"),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools", "unsupported_parameter"),
    ({"max_tool_calls": 0}, "max_tool_calls", None),
    (
        {"tools": [{"type": "mcp", "server_label": "x"}, {"type": "mcp", "server_label": "y", "allowed_tools": ["z"]}]},
        "tools[1].allowed_tools",
        None,
    ),
    (
        {"tools": [{"type": "mcp", "server_label": "x", "allowed_tools": {"read_only": True}}]},
        "tools[0].allowed_tools",
        None,
    ),
    ({"tools": [{"type": "mcp", "server_label": "x"}], "tool_choice": {"type": "mcp"}}, "tool_choice", None),
    (
        {
            "tools": [{"type": "mcp", "server_label": "x"}],
            "tool_choice": {"type": "mcp", "server_label": "x"},
        },
        "tool_choice",
        "unsupported_parameter",
    ),
    (
        {
            "tools": [TOOL, {"type": "mcp", "server_label": "x"}],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "x"}]},
        },
        "tool_choice",
        "unsupported_parameter",
    ),
    ({"input": [{"type": "mcp_call", "id": "x"}]}, "input[0]", "invalid_value"),
    ({"input": [{"type": "mcp_approval_response", "approve": True}]}, "input[0].type", "unsupported_parameter"),
    ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type", "unsupported_parameter"),
    ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, "tools[0]", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0]", "invalid_value"),
    ({"tools": [{**TOOL, "name": "no spaces"}]}, "tools[0].name", None),
    ({"tools": [{**TOOL, "parameters": []}]}, "tools[0].parameters", "invalid_type"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tools": [TOOL], "tool_choice": "some"}, "tool_choice", None),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "invalid_value"),
    ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice", "unsupported_parameter"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        "tool_choice.tools",
        None,
    ),
    (
        {
            "tools": [TOOL],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "g"}],
            },
        },
        "tool_choice",
        "invalid_value",
    ),
    (
        {"tools": [TOOL], "tool_choice": "required", "text": {"format": {"type": "json_object"}}},
        "tool_choice",
        None,
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "param", "code"), ROWS)
def test_bad_requests(
    live: LiveServer, change: dict[str, Any], param: str | None, code: str | None, stream: bool
) -> None:
    body = {"model": "fake", "input": "hello", "stream": stream, **change}
    reply = httpx.post(live.url + "/v1/responses", json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error
    assert code in (None, error["code"])
    assert error["message"]


def test_options_of_streams_are_for_streams(live: LiveServer) -> None:
    body: dict[str, Any] = {"input": "hello", "stream_options": {"include_obfuscation": False}}
    reply = httpx.post(live.url + "/v1/responses", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "stream_options")
    assert httpx.post(live.url + "/v1/responses", json={**body, "stream": True}).status_code == 200


def test_strangers_ids_are_not_found(live: LiveServer) -> None:
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        made = client.responses.create(model="fake", input="x")
        refused: list[Callable[[], object]] = [
            lambda: client.responses.retrieve("resp_x"),
            lambda: client.responses.retrieve(made.output[0].id or ""),
            lambda: client.responses.retrieve("resp_x", stream=True),
            lambda: client.responses.cancel("resp_x"),
            lambda: client.responses.delete("resp_x"),
            lambda: client.responses.input_items.list("resp_x"),
            lambda: client.responses.create(model="fake", input=[{"type": "item_reference", "id": made.id}]),
            lambda: client.responses.create(model="other", input="x"),
        ]
        for ask in refused:
            with pytest.raises(openai.NotFoundError):
                ask()
        unstored = client.responses.create(model="fake", input="x", store=False)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(unstored.id)
        client.responses.delete(made.id)
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="fake", input="x", previous_response_id=made.id)
        with pytest.raises(openai.BadRequestError):
            client.responses.input_items.list(client.responses.create(model="fake", input="x").id, after="no such")
        with pytest.raises(openai.BadRequestError):
            client.responses.input_items.list(client.responses.create(model="fake", input="x").id, limit=101)


def test_each_key_has_its_own(serve: Callable[..., LiveServer]) -> None:
    settings = BoundarySettings(api_keys=parse_keys(["me sk-me", "you sk-you"]))
    live = serve(create_app(FakeEngine(), model_names=["fake"], boundary=settings))
    mine = openai.OpenAI(base_url=live.url + "/v1", api_key="sk-me", max_retries=0)
    yours = openai.OpenAI(base_url=live.url + "/v1", api_key="sk-you", max_retries=0)
    with mine, yours:
        made = mine.responses.create(model="fake", input="secret", background=True)
        assert mine.responses.retrieve(made.id).id == made.id
        refused: list[Callable[[], object]] = [
            lambda: yours.responses.retrieve(made.id),
            lambda: yours.responses.cancel(made.id),
            lambda: yours.responses.delete(made.id),
            lambda: yours.responses.input_items.list(made.id),
            lambda: yours.responses.create(model="fake", input="x", previous_response_id=made.id),
        ]
        for ask in refused:
            with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
                ask()
        item = mine.responses.input_items.list(made.id).data[0].id
        with pytest.raises(openai.NotFoundError):
            yours.responses.create(model="fake", input=[{"type": "item_reference", "id": item}])
