"""Simulation: how replicas of a measured engine would fare under a load, event by event.

Requests arrive, each goes to the replica with the fewest under way, and the replicas compute step after step: what a
step holds is decided as the engine decides (`scheduling.py`), how long it takes is measured (`costs.py`). Nothing is
computed, so that a minute of many machines takes a second of one. Must not know where costs come from.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace
from typing import Protocol

from candle_vllm.bench.costs import StepCosts
from candle_vllm.bench.figures import Spread, percentile, spread
from candle_vllm.bench.scheduling import Limits, Scheduling, Sequence, Work

__all__ = ["Arrival", "Demand", "Outlook", "Target", "arrivals", "outlook", "search"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: when it comes, in seconds, and its size."""

    at: float
    prompt: int
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Requests that arrive at random (Poisson)."""

    rate: float
    """A second."""
    requests: int
    lengths: tuple[tuple[int, int], ...]
    """(prompt tokens, answer tokens), drawn from evenly."""
    cached: int = 0
    """Tokens that all prompts begin with, and that are in the prefix cache."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is wanted of the given percentile of first tokens and of times between tokens."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    share: float = 0.99
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a load fares. Times are in milliseconds."""

    replicas: int
    max_batch_size: int
    seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    ttft_ms: Spread
    itl_ms: Spread | None
    ttft_target_ms: float
    """At the target's percentile."""
    itl_target_ms: float
    queue: Spread
    """Requests that wait for a place, over all replicas, as an arriving one finds them."""
    busy: float
    """Share of the time that a replica computes, 0 to 1."""
    preemptions: int
    met: bool
    """Whether both percentiles are within the target."""


def arrivals(demand: Demand) -> Iterator[Arrival]:
    """The requests in their order; the same seed gives the same ones."""
    draw, at = random.Random(demand.seed), 0.0
    for _ in range(demand.requests):
        at += draw.expovariate(demand.rate)
        yield Arrival(at, *draw.choice(demand.lengths))


@dataclass(slots=True)
class _Replica:
    """One engine and its clock."""

    costs: Steps
    schedule: Scheduling
    arrived: dict[int, float] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)
    """When each request said its last token."""
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    worked: float = 0.0
    stepping: bool = False

    @property
    def under_way(self) -> int:
        return len(self.schedule.waiting) + len(self.schedule.running)

    def begin(self) -> float | None:
        """Begin a step; its seconds, or None when there is nothing to do."""
        work = self.schedule.plan()
        self.stepping = work.prompt_tokens + work.decodes > 0
        if not self.stepping:
            return None
        seconds = self.costs.seconds(work)
        self.worked += seconds
        return seconds

    def end(self, now: float) -> None:
        """The step is over."""
        for s in self.schedule.book():
            if s.said == 1:
                self.firsts.append(now - self.arrived.pop(s.number))
            else:
                self.gaps.append(now - self.last[s.number])
            if s.said == s.answer:
                self.last.pop(s.number, None)
            else:
                self.last[s.number] = now


class Steps(Protocol):
    """What tells how long steps take; `StepCosts` is one."""

    @property
    def limits(self) -> Limits:
        """Of the engine."""
        ...

    def seconds(self, work: Work) -> float:
        """Of the step that begins now and holds this."""
        ...


def outlook(
    costs: Steps,
    requests: Several[Arrival],
    *,
    replicas: int = 1,
    cached: int = 0,
    target: Target | None = None,
    submit: Callable[[Arrival], None] = lambda request: None,
) -> Outlook:
    """How these requests fare on so many replicas. `submit` hears of each as it arrives."""
    target = target or Target()
    limits = costs.limits
    cached -= cached % limits.block_size
    # The cached blocks are held once, whoever uses them.
    own = replace(limits, kv_blocks=limits.kv_blocks - cached // limits.block_size)
    fleet = [_Replica(costs, Scheduling(own)) for _ in range(replicas)]
    found: list[int] = []
    now = 0.0
    # What happens next, by time: a replica's step ends. Arrivals are merged in.
    ends: list[tuple[float, int]] = []

    def step(index: int, at: float) -> None:
        if (seconds := fleet[index].begin()) is not None:
            heapq.heappush(ends, (at + seconds, index))

    def run_until(at: float) -> None:
        nonlocal now
        while ends and ends[0][0] <= at:
            now, index = heapq.heappop(ends)
            fleet[index].end(now)
            step(index, now)

    for number, request in enumerate(requests):
        run_until(request.at)
        found.append(sum(len(replica.schedule.waiting) for replica in fleet))
        index = min(range(replicas), key=lambda at: (fleet[at].under_way, at))
        chosen = fleet[index]
        chosen.arrived[number] = request.at
        submit(request)
        has = min(cached, (request.prompt - 1) // limits.block_size * limits.block_size)
        chosen.schedule.add(Sequence(number, request.prompt, request.answer, cached=has))
        if not chosen.stepping:
            step(index, request.at)
    run_until(float("inf"))
    return _outlook(fleet, requests, found, now, target)


def _outlook(
    fleet: list[_Replica], requests: Several[Arrival], found: list[int], now: float, target: Target
) -> Outlook:
    firsts = sorted(1e3 * first for replica in fleet for first in replica.firsts)
    gaps = sorted(1e3 * gap for replica in fleet for gap in replica.gaps)
    seconds = now - requests[0].at
    ttft, queue = spread(firsts), spread([float(waiting) for waiting in found])
    assert ttft is not None
    assert queue is not None
    ttft_at = percentile(firsts, target.share)
    itl_at = percentile(gaps, target.share) if gaps else 0.0
    return Outlook(
        replicas=len(fleet),
        max_batch_size=fleet[0].schedule.limits.max_batch_size,
        seconds=seconds,
        requests_per_second=len(requests) / seconds,
        output_tokens_per_second=sum(request.answer for request in requests) / seconds,
        ttft_ms=ttft,
        itl_ms=spread(gaps),
        ttft_target_ms=ttft_at,
        itl_target_ms=itl_at,
        queue=queue,
        busy=sum(replica.worked for replica in fleet) / (len(fleet) * seconds),
        preemptions=sum(replica.schedule.preemptions for replica in fleet),
        met=(target.ttft_ms is None or ttft_at <= target.ttft_ms)
        and (target.itl_ms is None or itl_at <= target.itl_ms),
    )


def search(
    costs: StepCosts, demand: Demand, target: Target, batches: Several[int], least: int = 1, most: int = 64
) -> list[Outlook]:
    """For each batch size the outlook with the fewest replicas that meet the target, or with the most there may be."""
    requests = list(arrivals(demand))
    found = []
    for batch in batches:
        sized = replace(costs, limits=replace(costs.limits, max_batch_size=batch))
        low, high, best = least, least, None
        # Double until it is met, then halve the gap: more replicas never make it worse.
        while best is None:
            last = outlook(sized, requests, replicas=high, cached=demand.cached, target=target)
            if last.met or high == most:
                best = last
            else:
                low, high = high + 1, min(2 * high, most)
        while best.met and low < best.replicas:
            middle = (low + best.replicas) // 2
            last = outlook(sized, requests, replicas=middle, cached=demand.cached, target=target)
            if last.met:
                best = last
            else:
                low = middle + 1
        found.append(best)
    return found
