"""Traces: one OpenTelemetry span a request, with the attributes of the conventions for generative AI.

Needs the extra `otel`. Must not know of endpoints beyond their names.
"""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from candle_vllm.generation import Account
from candle_vllm.server import access

__all__ = ["Traces", "exporting"]

_OPERATIONS = {"chat_completion": "chat", "completion": "text_completion"}
"""The conventions' names of what endpoints do; other endpoints go under their own."""


class Traces:
    """An observer of requests (`generation.Observer`).

    `provider` makes the spans; None is the one that the program has set up for itself. A request that says in its
    headers of which trace it is part becomes part of that.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("candle_vllm", tracer_provider=provider)
        self._spans: dict[int, Span] = {}

    def started(self, account: Account) -> None:
        """Begin a span."""
        operation = _OPERATIONS.get(account.endpoint, account.endpoint)
        span = self._tracer.start_span(
            f"{operation} {account.model}".strip(),
            context=_parent(),
            kind=SpanKind.SERVER,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "candle_vllm",
                "gen_ai.request.model": account.model,
                "gen_ai.request.choice.count": account.n,
                "candle_vllm.request_id": account.request_id,
            },
        )
        if account.max_tokens is not None:
            span.set_attribute("gen_ai.request.max_tokens", account.max_tokens)
        self._spans[id(account)] = span

    def tokens(self, account: Account, count: int, now: float) -> None:
        """Mark the first token."""
        if account.stream and account.first_token_at == now:
            span = self._spans.get(id(account))
            if span is not None:
                span.add_event("first token")

    def ended(self, account: Account) -> None:
        """End the span."""
        span = self._spans.pop(id(account), None)
        if span is None:
            return
        span.set_attributes(
            {
                "gen_ai.response.model": account.model,
                "gen_ai.response.finish_reasons": tuple(account.finish_reasons),
                "gen_ai.usage.input_tokens": account.prompt_tokens,
                "gen_ai.usage.output_tokens": account.generated_tokens,
                "gen_ai.usage.cached_tokens": account.cached_tokens,
                "gen_ai.latency.time_in_queue": account.queue_time,
                "gen_ai.latency.time_in_model_prefill": account.prefill_time,
            }
        )
        if account.stream and account.first_token_at is not None:
            span.set_attribute("gen_ai.latency.time_to_first_token", account.first_token_at - account.started)
        if account.error is not None:
            span.set_attribute("error.type", type(account.error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(account.error)))
        span.end()


def _parent() -> Context:
    """The context that the request's headers tell of, as far as they do."""
    exchange = access.current.get()
    headers = exchange.headers if exchange is not None else ()
    return propagate.extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})


def exporting(endpoint: str) -> tuple[Traces, Callable[[], None]]:
    """Traces that are sent to a collector by OTLP over HTTP, and what sends the rest of them at the end."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider as SdkProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = SdkProvider(resource=Resource.create({SERVICE_NAME: "candle-vllm"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=5)))
    return Traces(provider), provider.shutdown
