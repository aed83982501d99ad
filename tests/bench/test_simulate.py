"""Simulated loads over costs of the test's own, where what must come of them can be worked out."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from candle_vllm.bench.costs import StepCosts
from candle_vllm.bench.scheduling import Limits, Work
from candle_vllm.bench.simulate import Arrival, Demand, Target, arrivals, outlook, search
from candle_vllm.errors import ConfigError

LIMITS = Limits(
    step_tokens=64, max_batch_size=4, kv_blocks=1000, block_size=32, max_sequence_length=2048, chunked_prefill=True
)
COSTS = StepCosts(
    model="m",
    device="cpu",
    threads=1,
    limits=LIMITS,
    rows=((1, 0.010), (64, 0.073)),
    logits=((1, 0.001), (4, 0.004)),
    decode_key=0.0001,
    prompt_pair=0.0,
)


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (Work(prompt_tokens=1, speaking=1), 0.011),
        (Work(prompt_tokens=32), 0.010 + 31 * 0.001 + 0.001),
        (Work(prompt_tokens=62, decodes=2, decode_keys=100, speaking=3), 0.073 + 0.003 + 0.01),
        # Beyond the last point on its line.
        (Work(decodes=8, speaking=8), 0.017 + 0.008),
    ],
)
def test_the_cost_of_a_step(work: Work, seconds: float) -> None:
    assert COSTS.seconds(work) == pytest.approx(seconds)


def test_costs_in_a_file() -> None:
    assert StepCosts.from_json(json.loads(json.dumps(COSTS.as_json()))) == COSTS
    for broken in ({}, {**COSTS.as_json(), "rows": []}, {**COSTS.as_json(), "limits": {"step_tokens": 1}}):
        with pytest.raises(ConfigError, match="no file of bench costs"):
            StepCosts.from_json(broken)


def test_a_request_alone() -> None:
    found = outlook(COSTS, [Arrival(5.0, 32, 3)])
    # Its prompt, then two steps of one row with 33 and 34 keys.
    assert found.ttft_ms.median == pytest.approx(42)
    assert found.itl_ms is not None
    assert found.itl_ms.mean == pytest.approx(11 + 0.1 * 33.5)
    assert found.seconds == pytest.approx(0.042 + 2 * 0.011 + 0.0067)
    assert found.busy == pytest.approx(1)
    assert (found.queue.p99, found.met) == (0, True)


def test_what_is_cached_is_not_computed() -> None:
    whole, cached = (outlook(COSTS, [Arrival(0.0, 100, 1)], cached=size).ttft_ms.median for size in (0, 99))
    # Three blocks of it are held; four rows are left.
    assert cached == pytest.approx(14)
    assert whole > 100


def test_replicas_share_the_load() -> None:
    requests = [Arrival(0.0, 64, 1)] * 8
    assert [outlook(COSTS, requests, replicas=count).seconds for count in (1, 2, 4)] == pytest.approx(
        [8 * 0.074, 4 * 0.074, 2 * 0.074]
    )


def test_arrivals_are_poisson_and_repeatable() -> None:
    demand = Demand(rate=20.0, requests=4000, lengths=((1, 2), (3, 4)), seed=3)
    first = list(arrivals(demand))
    assert first == list(arrivals(demand)) != list(arrivals(replace(demand, seed=4)))
    gaps = [after.at - before.at for before, after in pairwise(first)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 20, rel=0.06)
    # Of an exponential distribution the deviation is the mean.
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.1)
    assert {(each.prompt, each.answer) for each in first} == {(1, 2), (3, 4)}


def test_the_search_finds_the_fewest_that_meet_the_target() -> None:
    demand = Demand(rate=60.0, requests=400, lengths=((64, 4),))
    target = Target(ttft_ms=400, share=0.9)
    requests = list(arrivals(demand))
    for found in search(COSTS, demand, target, [2, 4]):
        assert found.met
        assert found.replicas > 1
        sized = replace(COSTS, limits=replace(LIMITS, max_batch_size=found.max_batch_size))
        assert outlook(sized, requests, replicas=found.replicas, target=target) == found
        assert not outlook(sized, requests, replicas=found.replicas - 1, target=target).met


def test_a_target_that_no_number_meets() -> None:
    [found] = search(COSTS, Demand(rate=1.0, requests=50, lengths=((64, 4),)), Target(itl_ms=1), [4], most=3)
    assert (found.met, found.replicas) == (False, 3)
