"""Replay: the same load on a real engine, as it happens, to compare a simulation with. Must not know of simulations.

Arrivals keep their times whatever the engine does, so that a backlog shows.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from candle_vllm.bench.figures import Spread, spread
from candle_vllm.bench.offline import prompt
from candle_vllm.errors import GenerationError
from candle_vllm.params import GenerationParams

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine

__all__ = ["Replayed", "replay"]


class Arriving(Protocol):
    """A request: when it comes, in seconds, and its tokens."""

    @property
    def at(self) -> float: ...

    @property
    def prompt(self) -> int: ...

    @property
    def answer(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """How the requests fared. Times are in milliseconds."""

    seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    ttft_ms: Spread
    itl_ms: Spread | None


def replay(
    engine: InferenceEngine, requests: Sequence[Arriving], advance: Callable[[], None] = lambda: None
) -> Replayed:
    """Random prompts and greedy answers of these sizes, streamed. The engine runs by itself."""
    return asyncio.run(_replay(engine, requests, advance))


async def _replay(engine: InferenceEngine, requests: Sequence[Arriving], advance: Callable[[], None]) -> Replayed:
    draw = random.Random(len(requests))
    firsts: list[float] = []
    gaps: list[float] = []

    async def one(tokens: list[int], answer: int, due: float) -> None:
        params = GenerationParams(max_tokens=answer, temperature=0.0, ignore_eos=True)
        handle = engine.add_request(tokens, params)
        said, last = 0, 0.0
        async for chunk in handle:
            now = time.perf_counter()
            if not chunk.token_ids:
                continue
            if said:
                gaps.append(1e3 * (now - last))
            else:
                firsts.append(1e3 * (now - due))
            # Tokens that came together had no time between them.
            gaps.extend([0.0] * (len(chunk.token_ids) - 1))
            said, last = said + len(chunk.token_ids), now
        if said != answer:
            raise GenerationError(f"a request ended with {said} of {answer} tokens")
        advance()

    prompts = [prompt(engine, draw, request.prompt) for request in requests]
    began = time.perf_counter() - requests[0].at
    async with asyncio.TaskGroup() as group:
        for tokens, request in zip(prompts, requests, strict=True):
            await asyncio.sleep(max(began + request.at - time.perf_counter(), 0))
            group.create_task(one(tokens, request.answer, began + request.at))
    seconds = time.perf_counter() - began - requests[0].at
    ttft = spread(firsts)
    assert ttft is not None
    made = sum(request.answer for request in requests)
    return Replayed(seconds, len(requests) / seconds, made / seconds, ttft, spread(gaps))
