"""Rates of an engine in this process: prefill and decode by size, and the throughput of a pile of requests.

Prompts are random token ids; greedy answers of a fixed length ignore the end-of-sequence ids. Must not know of HTTP.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from candle_vllm import checks
from candle_vllm.errors import GenerationError
from candle_vllm.params import GenerationParams
from candle_vllm.records import FinishReason

if TYPE_CHECKING:
    from candle_vllm.config import EngineConfig
    from candle_vllm.engine import InferenceEngine, RequestHandle

__all__ = ["DecodeRate", "PrefillRate", "Throughput", "decode_rate", "prefill_rate", "throughput"]


@dataclass(frozen=True, slots=True)
class PrefillRate:
    """One prompt alone, from submission to its first token; medians over the repeats."""

    prompt_tokens: int
    seconds: float
    tokens_per_second: float
    repeats: int


@dataclass(frozen=True, slots=True)
class DecodeRate:
    """Sequences that decode together; medians over the repeats."""

    batch: int
    prompt_tokens: int
    """Of each sequence."""
    output_tokens: int
    """Of each sequence: those asked for, and one for each step in which prompts of others are still computed."""
    tokens_per_second: float
    """Of all sequences together, in the steps in which all of them decode and nothing else runs."""
    step_milliseconds: float
    """Median duration of such a step."""
    steps: int
    """Such steps of one repeat."""
    overall_tokens_per_second: float
    """Generated tokens by the whole time, prompts included."""
    repeats: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """A pile of requests handed over at once."""

    requests: int
    failed: int
    seconds: float
    input_tokens: int
    output_tokens: int
    requests_per_second: float
    output_tokens_per_second: float
    total_tokens_per_second: float
    """Input and output."""
    preemptions: int


def prefill_rate(
    engine: InferenceEngine, length: int, repeats: int, advance: Callable[[], None] = lambda: None
) -> PrefillRate:
    """Median rate of one prompt of ``length`` tokens. The engine runs by steps and keeps no prefixes.

    ``advance`` is called after each repeat.
    """
    _check(engine, "prompt", length, 1)
    draw = random.Random(length)
    params = _params(1)

    def once() -> float:
        began = time.perf_counter()
        with engine.add_request(prompt(engine, draw, length), params) as handle:
            while not handle.done:
                if not engine.step().has_work:
                    break
            _ended(handle, 1)
        return time.perf_counter() - began

    once()
    times = []
    for _ in range(repeats):
        times.append(once())
        advance()
    seconds = statistics.median(times)
    return PrefillRate(length, seconds, length / seconds, repeats)


def decode_rate(
    engine: InferenceEngine,
    batch: int,
    length: int,
    tokens: int,
    repeats: int,
    advance: Callable[[], None] = lambda: None,
) -> DecodeRate:
    """Median rate of ``batch`` sequences that decode together for ``tokens`` - 1 steps after prompts of ``length``.

    The engine runs by steps, has room for ``batch`` sequences and keeps no prefixes. ``advance`` is called after each
    repeat.
    """
    info = engine.model_info
    ahead = _steps_ahead(batch, length, info.step_tokens, engine.config.enable_chunked_prefill)
    each = tokens + ahead
    _check(engine, "decode_prompt", length, each)
    _check_cache(engine, batch, length + each)
    draw = random.Random(batch)
    # Warms up with few steps, yet with all sequences at once, as those that count.
    _decode(engine, batch, length, min(tokens, 4) + ahead, draw)
    runs = []
    for _ in range(repeats):
        runs.append(_decode(engine, batch, length, each, draw))
        advance()
    steps = [steps for steps, _ in runs]
    return DecodeRate(
        batch,
        length,
        each,
        tokens_per_second=statistics.median(batch * len(each) / sum(each) for each in steps),
        step_milliseconds=1e3 * statistics.median(statistics.median(each) for each in steps),
        steps=round(statistics.median(map(len, steps))),
        overall_tokens_per_second=statistics.median(batch * each / whole for _, whole in runs),
        repeats=repeats,
    )


def _steps_ahead(batch: int, length: int, step: int, chunked: bool) -> int:
    """Steps from the first prompt's first token to the last one's: so many tokens the first is ahead of the last.

    A step takes ``step`` tokens, those of the sequences that decode already among them, and pieces of prompts where
    ``chunked``.
    """
    done, steps, first = 0, 0, 0
    while done < batch * length:
        room = max(step - done // length, 1)
        done += room if chunked else max(room // length, 1) * length
        steps += 1
        if not first and done >= length:
            first = steps
    return steps - first


def _check_cache(engine: InferenceEngine, batch: int, tokens: int) -> None:
    info = engine.model_info
    needed = batch * -(-tokens // info.block_size)
    if needed > info.kv_blocks:
        megabytes = -(-needed * (info.kv_bytes // info.kv_blocks) // (1 << 20))
        expected = (
            f"less, or the cache larger (--mem {megabytes}), or sequences shorter than {tokens} tokens: the KV cache "
            f"has {info.kv_bytes >> 20:,} MB"
        )
        checks.refuse("batch", batch, expected)


def _decode(
    engine: InferenceEngine, batch: int, length: int, tokens: int, draw: random.Random
) -> tuple[list[float], float]:
    """Durations of the steps in which all sequences decoded, and of the whole."""
    prompts = [prompt(engine, draw, length) for _ in range(batch)]
    params = _params(tokens)
    seconds: list[float] = []
    began = time.perf_counter()
    handles = [engine.add_request(each, params) for each in prompts]
    try:
        more = True
        while more:
            start = time.perf_counter()
            report = engine.step()
            # Prompts are longer than one token, so a step of one token a sequence only decodes.
            if report.tokens == report.sequences == batch:
                seconds.append(time.perf_counter() - start)
            more = report.has_work
        whole = time.perf_counter() - began
        for handle in handles:
            _ended(handle, tokens)
    finally:
        for handle in handles:
            handle.close()
    if not seconds:
        raise GenerationError(f"{batch} sequences of {length} prompt tokens never decoded all at once")
    return seconds, whole


def throughput(
    engine: InferenceEngine,
    requests: int,
    input_tokens: int,
    output_tokens: int,
    *,
    variation: float = 0.0,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
) -> Throughput:
    """Hand over ``requests`` at once and wait for all.

    Lengths are drawn evenly from ``variation`` (0 to below 1) of the given ones below to above them. ``advance`` is
    called as each ends.
    """
    draw = random.Random(seed)
    sizes = [(varied(draw, input_tokens, variation), varied(draw, output_tokens, variation)) for _ in range(requests)]
    _check(engine, "input_tokens", max(i for i, _ in sizes), max(o for _, o in sizes))
    prompts = [prompt(engine, draw, size) for size, _ in sizes]
    engine.generate(prompt(engine, draw, min(input_tokens, 16)), _params(2))
    before = engine.stats()
    began = time.perf_counter()
    handles = [engine.add_request(p, _params(size)) for p, (_, size) in zip(prompts, sizes, strict=True)]
    outputs = []
    try:
        for handle in handles:
            outputs.append(handle.result())
            if advance is not None:
                advance()
        seconds = time.perf_counter() - began
    finally:
        for handle in handles:
            handle.close()
    good = [output for output in outputs if output.finish_reason is not FinishReason.ERROR]
    made = sum(len(output.tokens) for output in good)
    read = sum(len(output.prompt_tokens) for output in good)
    return Throughput(
        requests=requests,
        failed=requests - len(good),
        seconds=seconds,
        input_tokens=read,
        output_tokens=made,
        requests_per_second=len(good) / seconds,
        output_tokens_per_second=made / seconds,
        total_tokens_per_second=(read + made) / seconds,
        preemptions=engine.stats().preemptions - before.preemptions,
    )


def prompt(engine: InferenceEngine, draw: random.Random, length: int) -> list[int]:
    """Random token ids."""
    return draw.choices(range(engine.model_info.vocab_size), k=length)


def _params(tokens: int) -> GenerationParams:
    return GenerationParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)


def varied(draw: random.Random, tokens: int, variation: float) -> int:
    """A number drawn evenly from ``variation`` (0 to below 1) of ``tokens`` below to above them."""
    return draw.randint(max(round(tokens * (1 - variation)), 1), round(tokens * (1 + variation)))


def _check(engine: InferenceEngine, field: str, length: int, tokens: int) -> None:
    longest = engine.model_info.max_sequence_length
    if length + tokens > longest:
        checks.refuse(field, length, f"at most {longest - tokens}, the longest sequence less {tokens} of the answer")


def _ended(handle: RequestHandle, tokens: int) -> None:
    """Raises GenerationError unless the request made all its tokens: a rate of anything else is no rate."""
    output = handle.result()
    if len(output.tokens) != tokens:
        raise GenerationError(
            f"a request ended with {len(output.tokens)} of {tokens} tokens: "
            f"{output.finish_reason} {output.stop_reason or ''}".rstrip()
        )


def longest(config: EngineConfig, prompts: Sequence[int], batches: Sequence[int], length: int, tokens: int) -> int:
    """Tokens of the longest sequence of such a run: prefills of ``prompts``, and decodes as `decode_rate` has them."""
    decodes = []
    for batch in batches:
        # A full batch decodes in one step, so a step is never smaller.
        step = max(config.prefill_chunk_size, max(batches))
        decodes.append(length + tokens + _steps_ahead(batch, length, step, config.enable_chunked_prefill))
    return max(max(prompts, default=0) + 1, *decodes, 1)
