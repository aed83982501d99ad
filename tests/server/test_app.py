"""Endpoints over a fake engine: replies, streams, the error envelope, mounting."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from candle_vllm.openai import OpenAIAdapter
from candle_vllm.server import BoundarySettings, Limits, create_app
from fake_engine import FakeEngine

HELLO = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


def events(text: str) -> list[Any]:
    """The data of a server-sent stream; the final [DONE] is checked and left out."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def post(live: Any, path: str, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(live.url + path, json=body, timeout=20, **options)


def test_chat_completion(live: Any) -> None:
    reply = post(live, "/v1/chat/completions", HELLO)
    assert reply.status_code == 200
    body = reply.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "fake"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "You said: hello<|im_end|>".removesuffix("<|im_end|>"),
                "refusal": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


def test_a_request_without_a_model_goes_to_the_one_that_is_served(live: Any) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": HELLO["messages"]}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    ):
        reply = post(live, path, body)
        assert reply.status_code == 200
        assert reply.json()["model"] == "fake"


def test_stream_says_the_same_as_the_whole_reply(live: Any, engine: FakeEngine) -> None:
    engine.answer = 'Grüße, 世界! 🦀 "quoted"\n\u2028\\'
    whole = post(live, "/v1/chat/completions", HELLO).json()
    reply = post(live, "/v1/chat/completions", {**HELLO, "stream": True, "stream_options": {"include_usage": True}})
    assert reply.headers["content-type"].startswith("text/event-stream")
    chunks = events(reply.text)
    assert len({(c["id"], c["created"], c["model"], c["system_fingerprint"], c["object"]) for c in chunks}) == 1
    *body, usage = chunks
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in body)
    deltas = [chunk["choices"][0] for chunk in body]
    assert deltas[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert not any("role" in delta["delta"] for delta in deltas[1:])
    assert [delta["finish_reason"] for delta in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    said = "".join(delta["delta"].get("content", "") for delta in deltas)
    assert said == whole["choices"][0]["message"]["content"] == engine.answer


def test_completions(live: Any) -> None:
    body = post(live, "/v1/completions", {"model": "fake", "prompt": "abc", "max_tokens": 3, "echo": True}).json()
    assert body["object"] == "text_completion"
    assert body["choices"][0] == {"index": 0, "text": "abcYou", "logprobs": None, "finish_reason": "length"}
    reply = post(live, "/v1/completions", {"model": "fake", "prompt": ["x", "yy"], "stream": True, "n": 2})
    texts = ["", "", "", ""]
    for chunk in events(reply.text):
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == ["You said: x"] * 2 + ["You said: yy"] * 2


def test_models(live: Any) -> None:
    listed = httpx.get(live.url + "/v1/models").json()
    assert [card["id"] for card in listed["data"]] == ["fake"]
    assert listed["object"] == "list"
    assert httpx.get(live.url + "/v1/models/fake").json() == listed["data"][0]
    missing = httpx.get(live.url + "/v1/models/org/other")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_health(live: Any, engine: FakeEngine) -> None:
    reply = httpx.get(live.url + "/health")
    assert reply.status_code == 200
    assert reply.json() == {"status": "ok", "state": "ready", "model": "fake", "error": None}
    reply = httpx.get(live.url + "/ready")
    assert reply.status_code == 200
    body = reply.json()
    assert body["status"] == "ready"
    assert body["engine"]["kv_blocks_free"] == body["engine"]["kv_blocks_total"]
    reply = httpx.get(live.url + "/health/decode")
    assert (reply.status_code, reply.json()["status"]) == (200, "ok")


def test_health_of_an_engine_that_failed(live: Any, engine: FakeEngine) -> None:
    engine.failure = "the device caught fire"
    assert httpx.get(live.url + "/health").json()["state"] == "error"
    reply = httpx.get(live.url + "/ready")
    assert reply.status_code == 503
    assert (reply.json()["status"], reply.json()["error"]) == ("not_ready", "the device caught fire")


def test_what_only_the_engine_can_check(live: Any) -> None:
    reply = post(live, "/v1/completions", {"model": "fake", "prompt": [9999]})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "prompt"


def test_documentation_is_served(live: Any) -> None:
    schema = httpx.get(live.url + "/openapi.json").json()
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    name = body["$ref"].rpartition("/")[2]
    assert "messages" in schema["components"]["schemas"][name]["properties"]


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"role": "clown", "content": "a"}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"nonsense": 1}, "nonsense", "unknown_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]},
            "messages[0].tool_call_id",
            "invalid_value",
        ),
        ({"logit_bias": {"9999": 1}, "max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
    ],
)
def test_refusals_name_the_field(live: Any, change: dict[str, Any], param: str, code: str) -> None:
    for stream in (False, True):
        body = {**HELLO, **change}
        if stream and "stream_options" not in change:
            body["stream"] = True
        reply = post(live, "/v1/chat/completions", body)
        assert reply.status_code == 400, reply.text
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")


def test_harmless_fields_are_taken(live: Any) -> None:
    harmless = {
        "user": "u",
        "store": True,
        "verbosity": "low",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "tool_choice": "none",
        "tools": [],
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "stop": None,
        "logit_bias": None,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
    }
    assert post(live, "/v1/chat/completions", {**HELLO, **harmless}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_bodies_that_are_not_requests(live: Any, path: str) -> None:
    def sent(content: bytes, kind: str | None = "application/json") -> tuple[int, dict[str, Any]]:
        reply = httpx.post(live.url + path, content=content, headers={"content-type": kind} if kind else {})
        return reply.status_code, reply.json()["error"]

    status, error = sent(b'{"model": "fake", ')
    assert status == 400
    assert "parse the JSON" in error["message"]
    status, error = sent(b"[1]")
    assert status == 400
    assert "JSON object" in error["message"]
    status, error = sent(b"")
    assert status == 400
    status, error = sent(b"\xff\xfe{}")
    assert status == 400
    status, error = sent(b"[" * 100_000)
    assert status == 400
    status, error = sent(b"model=fake", "application/x-www-form-urlencoded")
    assert status == 415
    assert "application/json" in error["message"]
    status, error = sent(b"{}")
    assert status == 400
    assert error["code"] == "missing_required_parameter"


def test_a_body_above_the_limit(engine: FakeEngine, serve: Any) -> None:
    live = serve(create_app(engine, model_names=["fake"], boundary=BoundarySettings(limits=Limits(body_bytes=1000))))
    body = json.dumps({**HELLO, "user": "x" * 2000}).encode()
    headers = {"content-type": "application/json"}
    whole = httpx.post(live.url + "/v1/chat/completions", content=body, headers=headers)
    assert whole.status_code == 413
    assert whole.json()["error"]["code"] == "request_too_large"
    pieces = httpx.post(live.url + "/v1/chat/completions", content=iter([body[:900], body[900:]]), headers=headers)
    assert pieces.status_code == 413


def test_unknown_paths_methods_and_models(live: Any) -> None:
    missing = httpx.get(live.url + "/v1/nothing")
    assert missing.status_code == 404
    assert "Invalid URL (GET /v1/nothing)" in missing.json()["error"]["message"]
    wrong = httpx.get(live.url + "/v1/chat/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_supported"
    assert "POST" in wrong.headers["allow"]
    model = post(live, "/v1/chat/completions", {**HELLO, "model": "gpt-4"})
    assert model.status_code == 404
    assert model.json()["error"]["code"] == "model_not_found"
    assert "fake" in model.json()["error"]["message"]


def test_a_prompt_longer_than_the_context(live: Any, engine: FakeEngine) -> None:
    engine.context = 50
    reply = post(live, "/v1/chat/completions", {**HELLO, "messages": [{"role": "user", "content": "x" * 60}]})
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert "50 tokens" in error["message"]


def test_a_full_queue_says_when_to_come_back(live: Any, engine: FakeEngine) -> None:
    engine.max_queue = 0
    for stream in (False, True):
        reply = post(live, "/v1/chat/completions", {**HELLO, "stream": stream})
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) >= 1
        error = reply.json()["error"]
        assert error["type"] == "server_busy"
        assert error["queued"] is False
    # Of several answers none is left behind when one of them finds no place.
    engine.max_queue = 2
    reply = post(live, "/v1/chat/completions", {**HELLO, "stream": True, "n": 3})
    assert reply.status_code == 503
    assert not engine.live


def test_failures_while_generating(live: Any, engine: FakeEngine) -> None:
    engine.fail_after = 4
    whole = post(live, "/v1/chat/completions", HELLO)
    assert whole.status_code == 500
    assert whole.json()["error"]["type"] == "server_error"
    assert "caught fire" in whole.json()["error"]["message"]
    chunks = events(post(live, "/v1/chat/completions", {**HELLO, "stream": True}).text)
    assert "caught fire" in chunks[-1]["error"]["message"]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == "You "


def test_faults_of_the_program_tell_nothing_of_the_inside(
    live: Any, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> list[int]:
        raise RuntimeError("secret path")

    monkeypatch.setattr(engine, "tokenize", broken)
    reply = post(live, "/v1/chat/completions", HELLO)
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert reply.json()["error"]["type"] == "server_error"


def test_mounted_under_another_application(engine: FakeEngine, serve: Any) -> None:
    outer = FastAPI()
    outer.mount("/llm/one", create_app(engine, model_names=["fake"]))
    adapter = OpenAIAdapter(engine, model_names=["other"])
    outer.mount("/llm/two", create_app(adapter))
    live = serve(outer)
    assert post(live, "/llm/one/v1/chat/completions", HELLO).status_code == 200
    assert post(live, "/llm/two/v1/chat/completions", {**HELLO, "model": "other"}).status_code == 200
    assert post(live, "/llm/two/v1/chat/completions", HELLO).json()["error"]["code"] == "model_not_found"
    missing = httpx.get(live.url + "/llm/one/v1/nothing")
    assert missing.status_code == 404
    assert "error" in missing.json()
    assert not engine.closed


def test_curl(live: Any) -> None:
    command = ["curl", "-sN", live.url + "/v1/chat/completions", "-H", "Content-Type: application/json"]
    body = json.dumps({**HELLO, "stream": True})
    text = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=20, check=True).stdout
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events(text))
    assert said == "You said: hello"


def test_a_text_far_beyond_the_context_is_not_encoded_whole(live: Any, engine: FakeEngine, monkeypatch: Any) -> None:
    engine.context = 50
    encoded: list[int] = []
    encode = engine.tokenize

    def watched(text: str, add_special_tokens: bool = False) -> list[int]:
        encoded.append(len(text))
        return encode(text, add_special_tokens)

    monkeypatch.setattr(engine, "tokenize", watched)
    long = "x" * 100_000
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": long}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": long}]}]}),
        ("/v1/completions", {"prompt": ["a", long]}),
    ):
        reply = post(live, path, body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "more than 1600 tokens" in reply.json()["error"]["message"]
    assert max(encoded) == 1600


def test_more_log_probabilities_than_a_reply_is_written_with(live: Any) -> None:
    body = {"prompt": ["x" * 1000] * 20, "echo": True, "logprobs": 20, "max_tokens": 1}
    error = post(live, "/v1/completions", body).json()["error"]
    assert (error["param"], error["code"]) == ("logprobs", "invalid_value")
    assert "above 200000" in error["message"]
    assert post(live, "/v1/completions", {**body, "logprobs": 5}).status_code == 200


def test_a_heavy_reply_says_what_a_light_one_does(live: Any) -> None:
    body = {"prompt": "x" * 300, "echo": True, "logprobs": 20, "max_tokens": 3}
    heavy = post(live, "/v1/completions", body).json()["choices"][0]
    light = post(live, "/v1/completions", {**body, "logprobs": 1}).json()["choices"][0]
    assert heavy["text"] == light["text"]
    assert heavy["logprobs"]["tokens"] == light["logprobs"]["tokens"]
    assert heavy["logprobs"]["token_logprobs"] == light["logprobs"]["token_logprobs"]
    assert len(heavy["logprobs"]["top_logprobs"][5]) == 20
