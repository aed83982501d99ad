"""Steps measured on the tiny model: what must hold of any measurement."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from candle_vllm import InferenceEngine
from candle_vllm.bench.costs import measure_costs
from candle_vllm.bench.scheduling import Work


def test_measured_steps(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(background=False, enable_prefix_cache=False, max_batch_size=6, prefill_chunk_size=48)
    told: list[str] = []
    # A clock by which every step takes a second, whatever else this machine does.
    costs = measure_costs(engine, 1, told.append, clock=count().__next__)
    assert [rows for rows, _ in costs.rows] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert [rows for rows, _ in costs.logits] == [1, 2, 3, 4, 6]
    assert costs.limits.kv_blocks == engine.model_info.kv_blocks
    assert told[0] == "a long prompt" and "6 decode at 16" in told
    for work in (Work(decodes=1, decode_keys=400, speaking=1), Work(prompt_tokens=40, decodes=5, speaking=6)):
        assert costs.seconds(work) == 1
