"""Metrics as a Prometheus parser reads them."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from candle_vllm.errors import GenerationError
from candle_vllm.generation import Account, Observer
from candle_vllm.models import Observer as ModelsObserver
from candle_vllm.models import SingleModel
from candle_vllm.openai import ApiError
from candle_vllm.server.metrics import Metrics
from fake_engine import FakeEngine
from models.fakes import Loader, catalog, managed

VLLM = (
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"),
    *("prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_total", "generation_tokens_total"),
    *("time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket"),
    *("e2e_request_latency_seconds_bucket", "request_queue_time_seconds_bucket"),
    *("request_prefill_time_seconds_bucket", "request_decode_time_seconds_bucket"),
    *("request_params_n_bucket", "request_params_max_tokens_bucket", "request_success_total"),
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(SingleModel(FakeEngine(), ["m", "alias"]))


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels in alphabetical order."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def account(**changes: Any) -> Account:
    """A stream of one answer of 4 tokens that ended well."""
    fields: dict[str, Any] = {
        "endpoint": "chat_completion",
        "model": "m",
        "stream": True,
        "answers": 1,
        "max_tokens": 100,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "generated_tokens": 4,
        "queue_time": 0.25,
        "prefill_time": 0.5,
        "started": 100.0,
        "submitted": 101.0,
        "first_token_at": 101.8,
        "last_token_at": 104.8,
        "ended": 104.9,
        "finish_reasons": ["stop"],
    }
    return Account(**{**fields, **changes})


def test_both_kinds_of_observer() -> None:
    metrics = Metrics()
    requests: Observer = metrics
    models: ModelsObserver = metrics
    assert isinstance(requests, Metrics)
    assert isinstance(models, Metrics)
    assert "vllm:" in metrics.text().decode()


def test_every_name_of_vllm_with_its_model(metrics: Metrics) -> None:
    metrics.tokens(account(), 1, 101.8)
    metrics.ended(account())
    found = samples(metrics)
    for name in VLLM:
        assert any(sample[0] == f"vllm:{name}" and "m" in sample for sample in found), name


async def test_totals_are_what_a_scrape_tells(metrics: Metrics) -> None:
    for model in ("m", "alias"):
        metrics.tokens(account(model=model), 4, 1.0)
        metrics.ended(account(model=model, ended=2.0))
    told = await metrics.totals()
    scraped: dict[str, float] = {}
    for (name, *_), value in samples(metrics).items():
        scraped[name] = scraped.get(name, 0.0) + value
    assert told["vllm:generation_tokens_total"] == 8
    assert (told["candle_vllm_kv_blocks"], told["candle_vllm_kv_blocks_used"]) == (1000, 0)
    for name in ("vllm:prompt_tokens_total", "vllm:e2e_request_latency_seconds_count", "vllm:num_requests_running"):
        assert told[name] == scraped[name], name
    assert not any(name.endswith("_bucket") for name in told)


def test_counts_and_times(metrics: Metrics) -> None:
    one = account()
    for at in (101.8, 102.8, 103.8, 104.8):
        metrics.tokens(one, 1, at)
    metrics.ended(one)
    found = samples(metrics)
    assert found["vllm:prompt_tokens_total", "m"] == 10
    assert found["vllm:generation_tokens_total", "m"] == 4
    assert found["vllm:prefix_cache_queries_total", "m"] == 10
    assert found["vllm:prefix_cache_hits_total", "m"] == 4
    assert found["vllm:time_to_first_token_seconds_sum", "m"] == pytest.approx(1.8)
    assert found["vllm:inter_token_latency_seconds_count", "m"] == 3
    assert found["vllm:inter_token_latency_seconds_sum", "m"] == pytest.approx(3)
    assert found["vllm:request_time_per_output_token_seconds_sum", "m"] == pytest.approx(3.1 / 3)
    assert found["vllm:e2e_request_latency_seconds_sum", "m"] == pytest.approx(4.9)
    assert found["vllm:request_queue_time_seconds_sum", "m"] == pytest.approx(1.25)
    assert found["vllm:request_prefill_time_seconds_sum", "m"] == pytest.approx(0.5)
    assert found["vllm:request_decode_time_seconds_sum", "m"] == pytest.approx(3.1)
    assert found["vllm:request_params_n_sum", "m"] == 1
    assert found["vllm:request_params_max_tokens_sum", "m"] == 100
    assert found["vllm:request_success_total", "m", "stop"] == 1


def test_several_tokens_at_once_share_their_time(metrics: Metrics) -> None:
    one = account()
    metrics.tokens(one, 1, 102.0)
    metrics.tokens(one, 4, 104.0)
    found = samples(metrics)
    assert found["vllm:inter_token_latency_seconds_count", "m"] == 4
    assert found["vllm:inter_token_latency_seconds_bucket", "0.5", "m"] == 4
    assert found["vllm:inter_token_latency_seconds_bucket", "0.4", "m"] == 0


def test_a_whole_reply_has_a_first_token_and_no_gaps(metrics: Metrics) -> None:
    one = account(stream=False, first_token_at=101.75)
    metrics.tokens(one, 4, 104.8)
    metrics.ended(one)
    found = samples(metrics)
    assert found["vllm:generation_tokens_total", "m"] == 4
    assert found["vllm:time_to_first_token_seconds_sum", "m"] == pytest.approx(1.75)
    assert found["vllm:inter_token_latency_seconds_count", "m"] == 0
    assert found["vllm:request_decode_time_seconds_sum", "m"] == pytest.approx(3.15)


@pytest.mark.parametrize(
    ("error", "first", "reason", "stage"),
    [
        (asyncio.CancelledError(), None, "abort", "prefill"),
        (GeneratorExit(), 101.8, "abort", "decode"),
        (GenerationError("fire"), 101.8, "error", None),
    ],
)
def test_those_that_did_not_end_well(
    metrics: Metrics, error: BaseException, first: float | None, reason: str, stage: str | None
) -> None:
    metrics.ended(account(error=error, answers=3, first_token_at=first, finish_reasons=["length"]))
    found = samples(metrics)
    assert found["vllm:request_success_total", "length", "m"] == 1
    assert found["vllm:request_success_total", *sorted(("m", reason))] == 2
    cancelled = {sample[1]: value for sample, value in found.items() if sample[0] == "candle_vllm_cancelled_total"}
    assert cancelled == ({stage: 1.0} if stage else {})


def test_a_request_that_never_had_its_model_is_no_series(metrics: Metrics) -> None:
    metrics.started(account(model="x" * 100))
    metrics.ended(account(model="x" * 100, submitted=None))
    assert not [sample for sample in samples(metrics) if sample[0].startswith("vllm:request_success")]


def test_names_that_only_clients_know_are_no_series(metrics: Metrics) -> None:
    for number in range(50):
        one = account(model=f"invented-{number}")
        metrics.tokens(one, 1, 101.0)
        metrics.ended(one)
    metrics.ended(account(model="alias"))
    models = {sample[1] for sample in samples(metrics) if sample[0] == "vllm:prompt_tokens_total"}
    assert models == {"m", "alias"}


def test_nothing_is_kept_of_requests_that_ended(metrics: Metrics) -> None:
    for _ in range(10):
        one = account()
        metrics.tokens(one, 1, 101.0)
        metrics.ended(one)
    assert metrics._last == {}


def test_the_engine_at_this_moment() -> None:
    engine = FakeEngine()
    metrics = Metrics(SingleModel(engine, ["m"]))
    engine.add_request([1, 2])
    found = samples(metrics)
    assert found["vllm:num_requests_running", "m"] == 1
    assert found["vllm:kv_cache_usage_perc", "m"] == pytest.approx(0.01)
    assert found["candle_vllm_engine_healthy", "m"] == 1
    assert found["candle_vllm_model_state", "ready"] == 1
    assert found["candle_vllm_model_state", "loading"] == 0
    engine.failure = "fire"
    found = samples(metrics)
    assert found["candle_vllm_engine_healthy", "m"] == 0
    assert found["candle_vllm_model_state", "error"] == 1


def test_models(metrics: Metrics) -> None:
    metrics.queue_length("m", 3)
    metrics.loaded("m", 2.0)
    metrics.load_failed("m", 1.0)
    metrics.switched("m", "other", 4.0)
    metrics.unloaded("m")
    metrics.rejected("m", "queue_full")
    metrics.cancelled("m", "queued")
    metrics.refused(ApiError("no", code="invalid_api_key", status=401))
    metrics.replied(200)
    found = samples(metrics)
    assert found["candle_vllm_queue_length", "m"] == 3
    assert found["candle_vllm_model_load_seconds_sum", "m"] == 2
    assert found["candle_vllm_model_load_failures_total", "m"] == 1
    assert found["candle_vllm_model_switch_seconds_sum", "other"] == 4
    assert found["candle_vllm_rejected_total", "queue_full"] == 1
    assert found["candle_vllm_rejected_total", "invalid_api_key"] == 1
    assert found["candle_vllm_cancelled_total", "queued"] == 1
    assert found["candle_vllm_replies_total", "200"] == 1


def test_preemptions_of_all_loads_of_a_model_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    models = SingleModel(engine, ["m"])
    metrics = Metrics(models)
    stats = engine.stats()

    def counted(number: int) -> float:
        monkeypatch.setattr(engine, "stats", lambda: replace(stats, preemptions=number))
        return samples(metrics)["vllm:num_preemptions_total", "m"]

    assert [counted(5), counted(7)] == [5, 7]
    again = SingleModel(engine, ["m"])
    metrics.watch(again)
    assert [counted(0), counted(2)] == [7, 9]


def test_two_applications_count_apart() -> None:
    one, other = Metrics(SingleModel(FakeEngine(), ["m"])), Metrics(SingleModel(FakeEngine(), ["m"]))
    one.replied(200)
    assert ("candle_vllm_replies_total", "200") not in samples(other)


@pytest.fixture
def quiet() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_a_token_costs_microseconds(metrics: Metrics, quiet: None) -> None:
    one = account()

    def round_() -> float:
        began = time.thread_time()
        for number in range(2000):
            metrics.tokens(one, 1, 101.0 + number * 0.01)
        return (time.thread_time() - began) / 2000

    assert min(round_() for _ in range(5)) < 10e-6


async def test_a_model_that_is_asked_for_by_its_id_counts_under_its_name() -> None:
    async with managed(Loader(), catalog("a", "b")) as manager:
        metrics = Metrics(manager)
        await manager.activate("b")
        metrics.ended(account(model="org/b"))
    assert samples(metrics)["vllm:prompt_tokens_total", "b"] == 10
