"""What the server's figures say of themselves between two looks."""

from __future__ import annotations

import pytest

from candle_vllm.ui.operator_page import Figures

READ = {
    "vllm:num_requests_running": 3.0,
    "vllm:num_requests_waiting": 1.0,
    "candle_vllm_queue_length": 2.0,
    "candle_vllm_kv_blocks": 100.0,
    "candle_vllm_kv_blocks_used": 40.0,
    "vllm:generation_tokens_total": 500.0,
    "vllm:prompt_tokens_total": 200.0,
    "vllm:prefix_cache_queries_total": 200.0,
    "vllm:prefix_cache_hits_total": 50.0,
    "vllm:request_success_total": 5.0,
    "vllm:time_to_first_token_seconds_sum": 1.0,
    "vllm:time_to_first_token_seconds_count": 4.0,
}


def test_a_first_look_has_no_rates() -> None:
    row = Figures().take(10.0, READ)
    assert (row["running"], row["waiting"], row["blocks"], row["blocks_total"]) == (3, 3, 40, 100)
    assert (row["generated"], row["hits"], row["hits_ever"], row["first"]) == (0, 0, 25, 0.25)


def test_rates_are_of_the_time_between_looks() -> None:
    figures = Figures()
    figures.take(10.0, READ)
    later = {name: value * 2 for name, value in READ.items()}
    row = figures.take(14.0, later)
    assert (row["generated"], row["prompt"], row["requests"]) == (125, 50, 75)
    assert row["hits"] == pytest.approx(25)
    assert figures.take(16.0, later)["hits"] == pytest.approx(25)


def test_counters_that_begin_anew_and_figures_that_are_missing() -> None:
    figures = Figures()
    figures.take(10.0, READ)
    row = figures.take(12.0, {})
    assert set(row.values()) == {0.0}
    for moment in range(1_000):
        figures.take(20.0 + moment, READ)
    assert len(figures.rows) == 150
