"""The twin of the engine's scheduler decides as the engine does, step by step."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from candle_vllm import InferenceEngine
from candle_vllm.bench.scheduling import Limits, Scheduling, Sequence, Work, limits_of
from candle_vllm.params import GenerationParams

Requests = list[tuple[int, int, int]]
"""(step before which it comes, prompt tokens, answer tokens)"""


def of_the_engine(engine: InferenceEngine, requests: Requests) -> tuple[list[tuple[int, ...]], int]:
    """(tokens, sequences, running, waiting) of each step, and how often a sequence lost its blocks."""
    draw, step, coming = random.Random(1), 0, list(requests)
    found: list[tuple[int, ...]] = []
    handles = []
    while True:
        while coming and coming[0][0] <= step:
            _, prompt, answer = coming.pop(0)
            params = GenerationParams(max_tokens=answer, temperature=0.0, ignore_eos=True)
            handles.append(engine.add_request(draw.choices(range(320), k=prompt), params))
        report = engine.step()
        found.append((report.tokens, report.sequences, report.running, report.waiting))
        step += 1
        if not report.has_work and not coming:
            break
    for handle in handles:
        handle.close()
    return found, engine.stats().preemptions


def of_the_twin(limits: Limits, requests: Requests) -> tuple[list[tuple[int, ...]], int]:
    schedule, step, coming = Scheduling(limits), 0, list(requests)
    found: list[tuple[int, ...]] = []
    number = 0
    while True:
        while coming and coming[0][0] <= step:
            _, prompt, answer = coming.pop(0)
            schedule.add(Sequence(number, prompt, answer))
            number += 1
        work = schedule.plan()
        taking_part = len(schedule.planned)
        schedule.book()
        running, waiting = len(schedule.running), len(schedule.waiting)
        found.append((work.prompt_tokens + work.decodes, taking_part, running, waiting))
        step += 1
        if not running + waiting and not coming:
            break
    assert schedule.free == limits.kv_blocks
    return found, schedule.preemptions


def drawn(seed: int, count: int, longest: int) -> Requests:
    draw, step, requests = random.Random(seed), 0, []
    for _ in range(count):
        step += draw.choice((0, 0, 0, 1, 3, 20))
        prompt = draw.choice((1, 5, 31, 32, 33, draw.randint(1, longest - 60)))
        requests.append((step, prompt, draw.choice((1, 2, 17, 60))))
    return requests


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_size": 4, "prefill_chunk_size": 64},
        {"max_batch_size": 12, "prefill_chunk_size": 32},
        {"max_batch_size": 8, "prefill_chunk_size": 64, "kv_cache_memory": 900_000},
        {"max_batch_size": 8, "prefill_chunk_size": 256, "kv_cache_memory": 900_000},
        {"max_batch_size": 6, "enable_chunked_prefill": False},
    ],
    ids=["few", "small steps", "scarce blocks", "scarce blocks, large steps", "whole prompts"],
)
def test_each_step_holds_what_the_engine_s_holds(
    tiny: Callable[..., InferenceEngine], settings: dict[str, Any], seed: int
) -> None:
    engine = tiny(background=False, enable_prefix_cache=False, **settings)
    requests = drawn(seed, 40, engine.model_info.max_sequence_length)
    theirs, lost = of_the_engine(engine, requests)
    mine, also_lost = of_the_twin(limits_of(engine), requests)
    assert mine == theirs
    assert also_lost == lost


def test_blocks_get_so_scarce_that_sequences_lose_theirs(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(background=False, enable_prefix_cache=False, max_batch_size=8, kv_cache_memory=900_000)
    requests = [(0, 100, 200)] * 8
    theirs, lost = of_the_engine(engine, requests)
    assert lost > 0
    assert of_the_twin(limits_of(engine), requests) == (theirs, lost)


def test_what_a_step_holds() -> None:
    limits = Limits(
        step_tokens=16,
        max_batch_size=4,
        kv_blocks=100,
        block_size=8,
        max_sequence_length=512,
        chunked_prefill=True,
    )
    schedule = Scheduling(limits)
    schedule.add(Sequence(0, 10, 3))
    assert schedule.plan() == Work(prompt_tokens=10, prompt_pairs=50.0, decodes=0, decode_keys=0, speaking=1)
    schedule.book()
    schedule.add(Sequence(1, 30, 1, cached=8))
    # The one that decodes goes first; the other gets the rest, behind what is cached of it.
    assert schedule.plan() == Work(prompt_tokens=15, prompt_pairs=15 * (8 + 7.5), decodes=1, decode_keys=11, speaking=1)
    assert [s.number for s in schedule.book()] == [0]
