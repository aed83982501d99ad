"""What a server tells of itself, asked over HTTP while it serves."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from candle_vllm.models import SingleModel
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.server import BoundarySettings, Operations, create_app, parse_keys
from fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "fake", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
ALICE = {"Authorization": "Bearer sk-alice"}
BOB = {"x-api-key": "sk-bob"}


@pytest.fixture
def keyed(engine: FakeEngine, serve: Callable[..., Any]) -> Any:
    """A server with two keys."""
    boundary = BoundarySettings(api_keys=parse_keys(["alice sk-alice", "bob sk-bob"]))
    return serve(create_app(engine, model_names=["fake"], boundary=boundary))


def until(look: Callable[[], list[str]]) -> list[str]:
    """What is found once anything is: a reply has ended a moment before the server is done with it."""
    end = time.monotonic() + 5
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def figures(url: str, **headers: str) -> dict[tuple[str, ...], float]:
    """Every sample of /metrics by its name and its labels' values."""
    reply = httpx.get(url + "/metrics", headers=headers)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_generated_is_counted(live: Any, stream: bool) -> None:
    for n in (1, 2):
        reply = httpx.post(live.url + CHAT, json={**HELLO, "stream": stream, "n": n})
        assert reply.status_code == 200
    assert httpx.post(live.url + CHAT, json={**HELLO, "temperature": 9}).status_code == 400
    found = figures(live.url)
    assert found["vllm:generation_tokens_total", "fake"] == 15
    assert found["vllm:request_success_total", "fake", "length"] == 3
    assert found["vllm:time_to_first_token_seconds_count", "fake"] == 2
    assert found["vllm:inter_token_latency_seconds_count", "fake"] == (4 if stream else 0)
    assert found["vllm:e2e_request_latency_seconds_count", "fake"] == 2
    assert found["vllm:request_params_n_sum", "fake"] == 3
    assert found["vllm:num_requests_running", "fake"] == 0
    assert found["vllm:kv_cache_usage_perc", "fake"] == 0
    assert found["candle_vllm_replies_total", "200"] == 2
    assert found["candle_vllm_replies_total", "400"] == 1
    assert found["process_resident_memory_bytes",] > 1e6


def test_usage_by_key(keyed: Any) -> None:
    for headers in (ALICE, ALICE, BOB):
        assert httpx.post(keyed.url + CHAT, json=HELLO, headers=headers).status_code == 200
    (row,) = httpx.get(keyed.url + "/v1/usage", headers=ALICE).json()["data"]
    assert (row["key"], row["model"], row["requests"], row["generated_tokens"]) == ("alice", "fake", 2, 10)
    (row,) = httpx.get(keyed.url + "/v1/usage", headers=BOB).json()["data"]
    assert (row["key"], row["requests"]) == ("bob", 1)
    assert httpx.get(keyed.url + "/v1/usage").status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/health/decode", "/metrics", "/v1/models", "/v1/usage"])
def test_all_are_closed_but_health(keyed: Any, path: str) -> None:
    assert httpx.get(keyed.url + path).status_code == (200 if path == "/health" else 401)
    assert httpx.get(keyed.url + path, headers=ALICE).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/health/decode", "/metrics", "/v1/models", "/v1/models/fake"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_head_and_slashes(live: Any, path: str, slash: str) -> None:
    full, head = httpx.get(live.url + path + slash), httpx.head(live.url + path + slash)
    assert full.status_code == head.status_code == 200
    assert full.content
    assert head.content == b""
    assert head.headers["content-type"] == full.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


def test_a_post_with_a_slash_is_answered_and_not_redirected(live: Any) -> None:
    assert httpx.post(live.url + CHAT + "/", json=HELLO, follow_redirects=False).status_code == 200


def test_ids_reach_the_reply_and_the_line(live: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "candle_vllm.access")
    reply = httpx.post(live.url + CHAT, json={**HELLO, "stream": True}, headers={"x-request-id": "mine"})
    assert reply.headers["x-request-id"] == "mine"
    assert "mine" in reply.text
    lines = until(lambda: [one.getMessage() for one in caplog.records if one.name == "candle_vllm.access"])
    (line,) = lines
    words = dict(word.split("=", 1) for word in line.split(" "))
    assert (words["path"], words["status"], words["endpoint"], words["model"]) == (
        CHAT,
        "200",
        "chat_completion",
        "fake",
    )
    assert (words["generated_tokens"], words["finish"], words["stream"]) == ("5", "length", "True")
    assert float(words["first_token_seconds"]) <= float(words["seconds"])
    assert "hello" not in caplog.text


def test_a_stream_to_an_old_client_comes_without_chunks(engine: FakeEngine, serve: Callable[..., Any]) -> None:
    from candle_vllm.server.protocol import BoundedProtocol

    live = serve(create_app(engine, model_names=["fake"]), http=BoundedProtocol)
    body = b'{"model":"fake","stream":true,"messages":[{"role":"user","content":"hello"}]}'
    head = f"POST {CHAT} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        connection.sendall(head + body)
        data = b""
        while piece := connection.recv(65536):
            data += piece
    head, _, text = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert text.startswith(b"data: {")
    assert text.endswith(b"data: [DONE]\n\n")


def test_two_applications_over_one_adapter_count_apart(serve: Callable[..., Any]) -> None:
    adapter = OpenAIAdapter(SingleModel(FakeEngine(), ["fake"]))
    one, other = serve(create_app(adapter)), serve(create_app(adapter))
    assert httpx.post(one.url + CHAT, json=HELLO).status_code == 200
    assert ("vllm:generation_tokens_total", "fake") in figures(one.url)
    assert ("vllm:generation_tokens_total", "fake") not in figures(other.url)
    assert httpx.get(other.url + "/v1/usage").json()["data"] == []


def test_traces_of_requests(serve: Callable[..., Any]) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra 'otel'")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from candle_vllm.server.traces import Traces

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    live = serve(create_app(FakeEngine(), model_names=["fake"], operations=Operations(Traces(provider))))
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "mine"}
    assert httpx.post(live.url + CHAT, json={**HELLO, "stream": True}, headers=headers).status_code == 200
    (span,) = exporter.get_finished_spans()
    assert format(span.context.trace_id, "032x") == trace
    assert span.attributes is not None
    assert span.attributes["candle_vllm.request_id"] == "mine"
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)


def test_refusals_are_told_as_each_api_tells_them(keyed: Any) -> None:
    refused = {path: httpx.post(keyed.url + path, json={}).json() for path in (CHAT, "/v1/messages", "/api/chat")}
    assert refused[CHAT]["error"]["code"] == "invalid_api_key"
    assert (refused["/v1/messages"]["type"], refused["/v1/messages"]["error"]["type"]) == (
        "error",
        "authentication_error",
    )
    assert "API key" in refused["/api/chat"]["error"]
