"""Spans as OpenTelemetry's own exporter sees them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs the extra 'otel'")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from asgi import scope
from candle_vllm.errors import GenerationError
from candle_vllm.generation import Account, Observer
from candle_vllm.server import access
from candle_vllm.server.access import Exchange
from candle_vllm.server.traces import Traces


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter: InMemorySpanExporter) -> Traces:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Traces(provider)


def account(**changes: Any) -> Account:
    fields: dict[str, Any] = {
        "endpoint": "chat_completion",
        "request_id": "mine",
        "model": "m",
        "stream": True,
        "n": 2,
        "max_tokens": 7,
        "started": 1.0,
    }
    return Account(**{**fields, **changes})


def test_a_span_a_request(traces: Traces, exporter: InMemorySpanExporter) -> None:
    observer: Observer = traces
    one = account()
    observer.started(one)
    one.prompt_tokens, one.cached_tokens, one.generated_tokens = 10, 4, 5
    one.queue_time, one.prefill_time, one.first_token_at = 0.25, 0.5, 2.0
    one.finish_reasons = ["stop", "length"]
    observer.tokens(one, 1, 2.0)
    observer.tokens(one, 1, 2.5)
    assert exporter.get_finished_spans() == ()
    observer.ended(one)
    (span,) = exporter.get_finished_spans()
    assert span.name == "chat m"
    assert span.kind is SpanKind.SERVER
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert {**span.attributes} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "candle_vllm",
        "gen_ai.request.model": "m",
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.max_tokens": 7,
        "candle_vllm.request_id": "mine",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop", "length"),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cached_tokens": 4,
        "gen_ai.latency.time_in_queue": 0.25,
        "gen_ai.latency.time_in_model_prefill": 0.5,
        "gen_ai.latency.time_to_first_token": 1.0,
    }
    assert [event.name for event in span.events] == ["first token"]


def test_errors(traces: Traces, exporter: InMemorySpanExporter) -> None:
    one = account(endpoint="rerank", max_tokens=None)
    traces.started(one)
    one.error = GenerationError("the device caught fire")
    traces.ended(one)
    (span,) = exporter.get_finished_spans()
    assert span.name == "rerank m"
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "the device caught fire"
    assert span.attributes is not None
    assert span.attributes["error.type"] == "GenerationError"


async def nowhere(message: Any) -> None:
    pass


def test_a_request_joins_the_trace_that_its_headers_name(traces: Traces, exporter: InMemorySpanExporter) -> None:
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = [(b"traceparent", f"00-{trace_id}-{span_id}-01".encode()), (b"junk", b"\xff")]
    mark = access.current.set(Exchange(scope(headers=headers), nowhere))
    one = account()
    traces.started(one)
    traces.ended(one)
    access.current.reset(mark)
    (span,) = exporter.get_finished_spans()
    assert format(span.context.trace_id, "032x") == trace_id
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == span_id
