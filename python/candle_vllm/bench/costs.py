"""StepCosts: what a step of an engine takes, measured by computing such steps alone, for any mixture of work.

A step reads every weight once for all its rows, makes logits for those that speak, and lets each row look at the keys
before it. So its cost is that of its rows, of its logits, and of the keys: each is measured by itself, rows and logits
as tables between whose points lines are drawn. Must not know of loads.
"""

from __future__ import annotations

import random
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Several
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from candle_vllm.bench.offline import prompt
from candle_vllm.bench.scheduling import Limits, Scheduling, Sequence, Work, limits_of
from candle_vllm.errors import ConfigError, GenerationError
from candle_vllm.params import GenerationParams

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine

__all__ = ["StepCosts", "measure_costs"]

_SHORT = 16
"""Tokens of the prompts of sequences that decode with little to look back at."""
_STEPS = 12
"""Decoding steps that a duration is the median of, in each repeat."""

Points = tuple[tuple[int, float], ...]
"""(how many, seconds), ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """Seconds of steps on one machine with one model, and the limits of its engine."""

    model: str
    device: str
    threads: int
    limits: Limits
    rows: Points
    """Steps of so many rows of one prompt, of which one speaks; without what they look back at."""
    logits: Points
    """What so many rows that speak take longer than one."""
    decode_key: float
    """Of one sequence and one key."""
    prompt_pair: float
    """Of one token of a prompt and one key."""

    def seconds(self, work: Work) -> float:
        """How long a step of this work takes."""
        rows = work.prompt_tokens + work.decodes
        return (
            _between(self.rows, rows)
            + _between(self.logits, max(work.speaking, 1))
            + self.decode_key * work.decode_keys
            + self.prompt_pair * work.prompt_pairs
        )

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """From such a file. Raises ConfigError where it is none."""
        try:
            given = {field.name: found[field.name] for field in fields(cls)}
            for name in ("rows", "logits"):
                given[name] = tuple((int(count), float(seconds)) for count, seconds in given[name])
                if not given[name]:
                    raise ValueError(f"{name} is empty")
            return cls(**{**given, "limits": Limits(**given["limits"])})
        except (LookupError, TypeError, ValueError) as error:
            raise ConfigError(f"is no file of bench costs: {error}") from error


def measure_costs(
    engine: InferenceEngine,
    repeats: int = 3,
    advance: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.perf_counter,
) -> StepCosts:
    """Measure an engine that runs by steps and keeps no prefixes. `advance` hears of each part that begins.

    `clock` tells seconds: of the day, or, for an engine of one thread on a machine that is busy with other things, of
    this process (`time.process_time`).
    """
    info = engine.model_info
    measure = _Measure(engine, repeats, advance, clock)
    pair = measure.prompt_pair()
    longest = min(info.step_tokens, info.max_sequence_length - 1)
    rows = tuple((count, measure.prompt(count) - pair * count * count / 2) for count in _ladder(longest))
    key = measure.decode_key(min(8, info.max_batch_size))
    logits = []
    for count in _ladder(info.max_batch_size):
        seconds, keys = measure.decode(count, _SHORT)
        # The table of rows holds the logits of one already.
        logits.append((count, max(seconds - key * keys - _between(rows, count), 0.0)))
    return StepCosts(
        model=info.name,
        device=info.device,
        threads=info.threads,
        limits=limits_of(engine),
        rows=rows,
        logits=tuple(logits),
        decode_key=key,
        prompt_pair=pair,
    )


@dataclass(slots=True)
class _Measure:
    """Durations of steps, as medians."""

    engine: InferenceEngine
    repeats: int
    advance: Callable[[str], None]
    clock: Callable[[], float]

    def prompt(self, tokens: int) -> float:
        """A step that computes a whole prompt."""
        self.advance(f"{tokens} rows")
        times = [self._prompt(tokens)[0] for _ in range(self.repeats + 2)]
        return statistics.median(times[1:])

    def prompt_pair(self) -> float:
        """What a token of a prompt takes longer for each key that it looks at: from later pieces of a long prompt."""
        info = self.engine.model_info
        pieces = min(4, (info.max_sequence_length - 1) // info.step_tokens)
        if pieces < 2 or not self.engine.config.enable_chunked_prefill:
            return 0.0
        self.advance("a long prompt")
        times = [self._prompt(pieces * info.step_tokens) for _ in range(self.repeats + 1)][1:]
        first, last = (statistics.median(each[at] for each in times) for at in (0, -1))
        return max(last - first, 0.0) / (info.step_tokens * (pieces - 1) * info.step_tokens)

    def decode(self, batch: int, context: int) -> tuple[float, float]:
        """A step in which so many sequences decode, and the keys that they look at."""
        self.advance(f"{batch} decode at {context}")
        runs = [self._decode(batch, context) for _ in range(self.repeats)]
        seconds = statistics.median(statistics.median(seconds for seconds, _ in steps) for steps in runs)
        return seconds, statistics.fmean(work.decode_keys for steps in runs for _, work in steps)

    def decode_key(self, batch: int) -> float:
        """What a decoding sequence takes longer for each key that it looks at."""
        info = self.engine.model_info
        room = info.kv_blocks // batch * info.block_size
        far = min(1024, info.max_sequence_length // 2, room // 2)
        if far < 4 * _SHORT:
            return 0.0
        (near_seconds, near), (far_seconds, distant) = self.decode(batch, _SHORT), self.decode(batch, far)
        return max(far_seconds - near_seconds, 0.0) / (distant - near)

    def _prompt(self, tokens: int) -> list[float]:
        """Durations of the steps of one prompt."""
        return [seconds for seconds, _ in self._run([tokens], 1)]

    def _decode(self, batch: int, context: int) -> list[tuple[float, Work]]:
        """Steps in which all decode."""
        prompts = [context] * batch
        # Those whose prompts come first decode while the others' are computed.
        ahead = sum(1 for _ in _until_all_decode(limits_of(self.engine), prompts))
        steps = self._run(prompts, ahead + _STEPS)
        return [(seconds, work) for seconds, work in steps if not work.prompt_tokens and work.decodes == batch]

    def _run(self, prompts: list[int], answer: int) -> list[tuple[float, Work]]:
        """Compute these to their ends: what each step held, and how long it took."""
        draw, schedule = random.Random(sum(prompts)), Scheduling(limits_of(self.engine))
        params = GenerationParams(max_tokens=answer, temperature=0.0, ignore_eos=True)
        handles = [self.engine.add_request(prompt(self.engine, draw, tokens), params) for tokens in prompts]
        try:
            for number, tokens in enumerate(prompts):
                schedule.add(Sequence(number, tokens, answer))
            steps, more = [], True
            while more:
                began = self.clock()
                more = self.engine.step().has_work
                seconds = self.clock() - began
                steps.append((seconds, schedule.plan()))
                schedule.book()
            if any(len(handle.result().tokens) != answer for handle in handles):
                raise GenerationError(f"prompts of {prompts[0]} tokens did not get answers of {answer}")
        finally:
            for handle in handles:
                handle.close()
        return steps


def _until_all_decode(limits: Limits, prompts: list[int]) -> Iterator[Work]:
    schedule = Scheduling(limits)
    for number, tokens in enumerate(prompts):
        schedule.add(Sequence(number, tokens, limits.max_sequence_length))
    while not all(s.decodes for s in schedule.running) or schedule.waiting or not schedule.running:
        yield schedule.plan()
        schedule.book()


def _ladder(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 ... up to `most`, which is the last."""
    steps = sorted({count for power in range(20) for count in (2**power, 3 * 2**power)})
    return [*(count for count in steps if count < most), most]


def _between(points: Several[tuple[int, float]], at: int) -> float:
    """The value at a place between two points, or beyond the last ones on their line."""
    if at == 0:
        return 0.0
    if len(points) == 1:
        return points[0][1]
    right = min(max(bisect_left(points, at, key=lambda point: point[0]), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
