"""Metrics for Prometheus: vLLM's names where the meaning is vLLM's, `candle_vllm_` before what is our own.

Hears of requests and models as they fare, and asks the engine when it is scraped. Every application has a registry of
its own. Must not know of endpoints or HTTP.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Counted
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from candle_vllm.conversations import ExecutedCall
from candle_vllm.errors import RequestCancelledError
from candle_vllm.generation import Account
from candle_vllm.mcp import McpServers
from candle_vllm.models import Models, ModelState, Unseen
from candle_vllm.models.observe import CancelStage, Rejection
from candle_vllm.openai import ApiError
from candle_vllm.server.buckets import COUNT, FIRST_TOKEN, GAP, LENGTH, LOAD, REQUEST

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of the text that a scrape gets."""

_REASONS = {"stop": "stop", "stop_sequence": "stop", "length": "length", "cancelled": "abort"}
"""vLLM's words for why an answer ended; another reason is an `error`."""


class Metrics(Unseen):
    """An observer of requests (`generation.Observer`) and of models (`models.Observer`), and what a scrape reads."""

    def __init__(self, models: Models | None = None) -> None:
        self._models = models
        self._servers: McpServers | None = None
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._moment = _Moment()
        self.registry.register(self._moment)
        self._requests = _Requests(self.registry)
        self._own = _Own(self.registry)
        self._labels: set[str] = set()
        self._last: dict[int, float] = {}

    def watch(self, models: Models, servers: McpServers | None = None) -> None:
        """Whose gauges a scrape shows; for models that were made with this observer."""
        self._models = models
        self._servers = servers

    def text(self) -> bytes:
        """What a scrape gets."""
        self._moment.look(self._models, self._servers)
        return generate_latest(self.registry)

    async def scrape(self) -> bytes:
        """The same, written in a thread: for a catalogue of twenty models that takes 35 ms."""
        self._moment.look(self._models, self._servers)
        return await asyncio.to_thread(generate_latest, self.registry)

    async def totals(self) -> dict[str, float]:
        """The same figures by name, each summed over its labels; of a histogram its sum and count."""
        self._moment.look(self._models, self._servers)
        return await asyncio.to_thread(self._summed)

    def _summed(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for metric in self.registry.collect():
            for sample in metric.samples:
                if not sample.name.endswith(("_bucket", "_created")):
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    # Requests

    def started(self, account: Account) -> None:
        """Nothing is counted before a request has its model."""

    def tokens(self, account: Account, count: int, now: float) -> None:
        """Count tokens as they come, and the time since those before."""
        figures = self._requests.of(self._label(account))
        figures.generated.inc(count)
        if not account.stream:
            return
        last = self._last.get(id(account))
        self._last[id(account)] = now
        if last is None:
            figures.first.observe(now - account.started)
        elif account.answers == 1:
            for _ in range(count):
                figures.gap.observe((now - last) / count)

    def ended(self, account: Account) -> None:
        """Count a request that has ended, well or not."""
        self._last.pop(id(account), None)
        if account.submitted is None:
            return
        figures = self._requests.of(self._label(account))
        figures.prompt.inc(account.prompt_tokens)
        figures.queries.inc(account.prompt_tokens)
        figures.hits.inc(account.cached_tokens)
        figures.n.observe(account.n)
        if account.max_tokens is not None:
            figures.max_tokens.observe(account.max_tokens)
        self._times(account, figures)
        self._finishes(account, figures)

    def _times(self, account: Account, figures: _Figures) -> None:
        assert account.submitted is not None
        ended = account.ended if account.ended is not None else account.started
        whole = ended - account.started
        queued = account.submitted - account.started + account.queue_time
        figures.whole.observe(whole)
        figures.queue.observe(queued)
        figures.prefill.observe(account.prefill_time)
        if account.first_token_at is None:
            return
        first = account.first_token_at - account.started
        if not account.stream:
            # Nobody saw it come; the engine has told when it did.
            figures.first.observe(first)
        figures.decode.observe(max(0.0, whole - first))
        each = account.generated_tokens / max(1, account.answers)
        if each > 1:
            figures.per_token.observe(max(0.0, whole - first) / (each - 1))

    def _finishes(self, account: Account, figures: _Figures) -> None:
        for reason, times in Counted(account.finish_reasons).items():
            figures.finished(_REASONS.get(reason, "error")).inc(times)
        if account.error is None:
            return
        gone = isinstance(account.error, asyncio.CancelledError | GeneratorExit | RequestCancelledError)
        if (missing := account.answers - len(account.finish_reasons)) > 0:
            figures.finished("abort" if gone else "error").inc(missing)
        if gone:
            self._own.cancelled.labels("prefill" if account.first_token_at is None else "decode").inc()

    def _label(self, account: Account) -> str:
        """The model's name; never a name that only the client knows, for each would be a series."""
        if account.model in self._labels or self._models is None:
            return account.model
        known = [entry.id for entry in self._models.listing()]
        if account.model not in known:
            active = self._models.active
            if active is not None and account.model in active.names:
                return active.names[0]
            return known[0] if known else ""
        self._labels.add(account.model)
        return account.model

    # Models

    def queue_length(self, model: str, waiting: int) -> None:
        """Requests that wait for a model."""
        self._own.queue.labels(model).set(waiting)

    def loaded(self, model: str, seconds: float) -> None:
        """A model was loaded."""
        self._own.load.labels(model).observe(seconds)

    def load_failed(self, model: str, seconds: float) -> None:
        """A model could not be loaded."""
        self._own.load_failures.labels(model).inc()

    def switched(self, old: str, new: str, seconds: float) -> None:
        """One model took another's place."""
        self._own.switch.labels(new).observe(seconds)

    def rejected(self, model: str, reason: Rejection) -> None:
        """A request was turned away by a queue."""
        self._own.rejected.labels(reason).inc()

    def cancelled(self, model: str, stage: CancelStage) -> None:
        """A request was given up while it waited."""
        self._own.cancelled.labels(stage).inc()

    # MCP servers

    def tool_called(self, call: ExecutedCall) -> None:
        """A call that a request's model made has run, or was refused."""
        self._own.tool_calls.labels(call.server or "", call.result.outcome).inc()
        self._own.tool_seconds.labels(call.server or "").observe(call.seconds)

    # The boundary

    def refused(self, error: ApiError) -> None:
        """A request was turned away before it reached an endpoint."""
        self._own.rejected.labels(error.code or "other").inc()

    def replied(self, status: int) -> None:
        """A request was answered."""
        self._own.replies.labels(str(status)).inc()


class _Requests:
    """vLLM's metrics of requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        label = ("model_name",)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"vllm:{name}", text, label, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"vllm:{name}", text, label, buckets=buckets, registry=registry)

        self.prompt = counter("prompt_tokens", "Prompt tokens, cached ones included.")
        self.generated = counter("generation_tokens", "Generated tokens.")
        self.queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.hits = counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self.first = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN
        )
        self.gap = histogram("inter_token_latency_seconds", "Between the tokens of a stream of one answer.", GAP)
        self.per_token = histogram(
            "request_time_per_output_token_seconds", "Time a token after the first, by request.", GAP
        )
        self.whole = histogram("e2e_request_latency_seconds", "From a request's arrival to its end.", REQUEST)
        self.queue = histogram("request_queue_time_seconds", "Waiting for the model and a place in its batch.", REQUEST)
        self.prefill = histogram("request_prefill_time_seconds", "Computing the prompt, to the first token.", REQUEST)
        self.decode = histogram("request_decode_time_seconds", "From the first token to the end.", REQUEST)
        self.n = histogram("request_params_n", "The parameter n of requests.", COUNT)
        self.max_tokens = histogram("request_params_max_tokens", "max_tokens of the requests that set it.", LENGTH)
        self.success = Counter(
            "vllm:request_success", "Answers by why they ended.", (*label, "finished_reason"), registry=registry
        )
        self._figures: dict[str, _Figures] = {}

    def of(self, model: str) -> _Figures:
        """The model's series."""
        figures = self._figures.get(model)
        if figures is None:
            figures = self._figures[model] = _Figures(self, model)
        return figures


class _Figures:
    """One model's series, looked up once: a look-up costs more than counting."""

    def __init__(self, metrics: _Requests, model: str) -> None:
        self.prompt = metrics.prompt.labels(model)
        self.generated = metrics.generated.labels(model)
        self.queries = metrics.queries.labels(model)
        self.hits = metrics.hits.labels(model)
        self.first = metrics.first.labels(model)
        self.gap = metrics.gap.labels(model)
        self.per_token = metrics.per_token.labels(model)
        self.whole = metrics.whole.labels(model)
        self.queue = metrics.queue.labels(model)
        self.prefill = metrics.prefill.labels(model)
        self.decode = metrics.decode.labels(model)
        self.n = metrics.n.labels(model)
        self.max_tokens = metrics.max_tokens.labels(model)
        self._success = metrics.success
        self._model = model

    def finished(self, reason: str) -> Counter:
        """Answers that ended for this reason."""
        return self._success.labels(self._model, reason)


class _Own:
    """What vLLM has no name for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue = Gauge("candle_vllm_queue_length", "Requests that wait for a model.", ("model",), registry=registry)
        self.load = Histogram(
            "candle_vllm_model_load_seconds", "Loading a model.", ("model",), buckets=LOAD, registry=registry
        )
        self.tool_calls = Counter(
            "candle_vllm_mcp_calls",
            "Calls of tools of MCP servers by how they ended; without a server where there is no such tool.",
            ("server", "outcome"),
            registry=registry,
        )
        self.tool_seconds = Histogram(
            "candle_vllm_mcp_call_seconds", "Time of such calls.", ("server",), buckets=REQUEST, registry=registry
        )
        self.load_failures = Counter(
            "candle_vllm_model_load_failures", "Loads that failed.", ("model",), registry=registry
        )
        self.switch = Histogram(
            "candle_vllm_model_switch_seconds",
            "From the wish for a switch to its end, draining and loading included.",
            ("model",),
            buckets=LOAD,
            registry=registry,
        )
        self.rejected = Counter(
            "candle_vllm_rejected", "Requests that were turned away, by reason.", ("reason",), registry=registry
        )
        self.cancelled = Counter(
            "candle_vllm_cancelled", "Requests whose client left, by where they were.", ("stage",), registry=registry
        )
        self.replies = Counter("candle_vllm_replies", "HTTP replies by status.", ("status",), registry=registry)


class _Moment(Collector):
    """What is asked for when it is scraped: the models' states and the active engine's figures."""

    def __init__(self) -> None:
        self._found: list[Metric] = []
        self._preempted: dict[str, tuple[int, int, int]] = {}

    def describe(self) -> list[Metric]:
        """Names are not reserved beforehand; asking would need models."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What was found; any thread may ask."""
        return iter(self._found)

    def look(self, models: Models | None, servers: McpServers | None) -> None:
        """Ask the models, the engine and the MCP servers' clients, on the thread of their loop."""
        self._found = [] if models is None else [*self._states(models), *self._engine(models)]
        if servers is not None and len(servers):
            up = GaugeMetricFamily("candle_vllm_mcp_server_up", "1 for a server that answers.", labels=("server",))
            tools = GaugeMetricFamily("candle_vllm_mcp_tools", "Tools as last listed.", labels=("server",))
            for status in servers.status():
                up.add_metric((status.name,), float(status.problem is None and status.tools > 0))
                tools.add_metric((status.name,), float(status.tools))
            self._found += [up, tools]

    def _states(self, models: Models) -> Iterator[Metric]:
        status = models.status()
        state = GaugeMetricFamily("candle_vllm_model_state", "1 for the state that holds.", labels=("state",))
        for name in get_args(ModelState):
            state.add_metric((name,), float(name == status.state))
        yield state
        flight = GaugeMetricFamily("candle_vllm_in_flight_requests", "Requests that hold the active model.")
        flight.add_metric((), status.in_flight_requests)
        yield flight

    def _engine(self, models: Models) -> Iterator[Metric]:
        active = models.active
        if active is None:
            return
        stats, label = active.engine.stats(), (active.names[0],)
        used = 1 - stats.kv_blocks_free / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        for name, text, value in (
            ("vllm:num_requests_running", "Sequences that take part in steps.", float(stats.running)),
            ("vllm:num_requests_waiting", "Sequences that wait for a place in the batch.", float(stats.waiting)),
            ("vllm:kv_cache_usage_perc", "Share of the KV cache in use; 1 is all of it.", used),
            ("candle_vllm_kv_blocks", "Blocks of the KV cache.", float(stats.kv_blocks_total)),
            ("candle_vllm_kv_blocks_used", "Of these, in use.", float(stats.kv_blocks_total - stats.kv_blocks_free)),
            ("candle_vllm_engine_healthy", "Whether the engine works.", float(stats.healthy and not stats.closed)),
        ):
            gauge = GaugeMetricFamily(name, text, labels=("model_name",))
            gauge.add_metric(label, value)
            yield gauge
        preempted = CounterMetricFamily(
            "vllm:num_preemptions", "Sequences that lost their blocks to others.", labels=("model_name",)
        )
        preempted.add_metric(label, self._total(label[0], id(active), stats.preemptions))
        yield preempted

    def _total(self, model: str, load: int, count: int) -> int:
        """The sum over all loads of a model; `count` begins anew with each."""
        before, last_load, last_count = self._preempted.get(model, (0, load, 0))
        if load != last_load:
            before += last_count
        self._preempted[model] = (before, load, count)
        return before + count
