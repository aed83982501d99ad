"""Replay: the same load on a real engine, as it happens, to compare a simulation with. Must not know of measured costs.

Arrivals keep their times whatever the engine does, so that a backlog shows.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from candle_vllm.bench.figures import Spread, spread
from candle_vllm.bench.offline import prompt
from candle_vllm.bench.scheduling import Work, limits_of
from candle_vllm.bench.simulate import Arrival, outlook
from candle_vllm.errors import GenerationError
from candle_vllm.params import GenerationParams

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine, RequestHandle

__all__ = ["Replayed", "replay", "replay_by_steps"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """How the requests fared. Times are in milliseconds."""

    seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    ttft_ms: Spread
    itl_ms: Spread | None


def replay(
    engine: InferenceEngine, requests: Sequence[Arrival], advance: Callable[[], None] = lambda: None
) -> Replayed:
    """Random prompts and greedy answers of these sizes, streamed. The engine runs by itself."""
    return asyncio.run(_replay(engine, requests, _Watch(time.perf_counter, advance)))


def replay_by_steps(
    engine: InferenceEngine,
    requests: Sequence[Arrival],
    advance: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.process_time,
) -> Replayed:
    """The same on a clock that runs while the engine computes, and leaps to the next arrival when it has nothing to do.

    The engine runs by steps and has one thread: by the time that its process is given, the load then fares as on a
    machine that does nothing else, whatever this one does. Who says what in a step is told by the engine's twin; raises
    GenerationError where a step of the engine's is not the twin's.
    """
    stepped = _Stepped(engine, clock, advance)
    try:
        found = outlook(stepped, requests, submit=stepped.submit)
    finally:
        stepped.close()
    return Replayed(
        found.seconds, found.requests_per_second, found.output_tokens_per_second, found.ttft_ms, found.itl_ms
    )


class _Stepped:
    """Steps of an engine as they are computed."""

    def __init__(self, engine: InferenceEngine, clock: Callable[[], float], advance: Callable[[], None]) -> None:
        self.limits = limits_of(engine)
        self._engine = engine
        self._clock = clock
        self._advance = advance
        self._draw = random.Random(0)
        self._handles: list[RequestHandle] = []

    def submit(self, request: Arrival) -> None:
        """It has arrived."""
        tokens = prompt(self._engine, self._draw, request.prompt)
        self._handles.append(self._engine.add_request(tokens, _params(request)))

    def seconds(self, work: Work) -> float:
        """Compute the next step, which holds this."""
        began = self._clock()
        report = self._engine.step()
        seconds = self._clock() - began
        if report.tokens != work.prompt_tokens + work.decodes:
            raise GenerationError(f"a step held {report.tokens} tokens where {work} was planned")
        for _ in range(report.finished):
            self._advance()
        return seconds

    def close(self) -> None:
        """Let go of all requests."""
        for handle in self._handles:
            handle.close()


async def _replay(engine: InferenceEngine, requests: Sequence[Arrival], watch: _Watch) -> Replayed:
    draw = random.Random(len(requests))
    prompts = [prompt(engine, draw, request.prompt) for request in requests]
    began = time.perf_counter() - requests[0].at
    async with asyncio.TaskGroup() as group:
        for tokens, request in zip(prompts, requests, strict=True):
            await asyncio.sleep(max(began + request.at - time.perf_counter(), 0))
            handle = engine.add_request(tokens, _params(request))
            group.create_task(watch.follow(handle, began + request.at, request.answer))
    return watch.report(requests, time.perf_counter() - began - requests[0].at)


class _Watch:
    """Times of answers, by the clock `now`; `advance` is called as each ends."""

    def __init__(self, now: Callable[[], float], advance: Callable[[], None]) -> None:
        self._now = now
        self._advance = advance
        self._firsts: list[float] = []
        self._gaps: list[float] = []

    async def follow(self, handle: RequestHandle, due: float, answer: int) -> None:
        """Read a request that was due at that time to its end."""
        said, last = 0, 0.0
        async for chunk in handle:
            now, count = self._now(), len(chunk.token_ids)
            if not count:
                continue
            (self._gaps if said else self._firsts).append(1e3 * (now - (last if said else due)))
            # Tokens that came together had no time between them.
            self._gaps.extend([0.0] * (count - 1))
            said, last = said + count, now
        if said != answer:
            raise GenerationError(f"a request ended with {said} of {answer} tokens")
        self._advance()

    def report(self, requests: Sequence[Arrival], seconds: float) -> Replayed:
        """All of it."""
        ttft = spread(self._firsts)
        assert ttft is not None
        made = sum(request.answer for request in requests)
        return Replayed(seconds, len(requests) / seconds, made / seconds, ttft, spread(self._gaps))


def _params(request: Arrival) -> GenerationParams:
    return GenerationParams(max_tokens=request.answer, temperature=0.0, ignore_eos=True)
