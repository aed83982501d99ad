"""bench costs, simulate and replay: steps measured, loads simulated with them, and the same loads as they happen.

The work itself stands in `candle_vllm.bench`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from candle_vllm.cli.bench_show import Rows, about_engine, bar, heading, per_second, show
from candle_vllm.cli.loading import load_engine
from candle_vllm.cli.settings import UsageError, engine_config, in_flags
from candle_vllm.errors import ConfigError

if TYPE_CHECKING:
    from candle_vllm.bench.figures import Spread
    from candle_vllm.bench.simulate import Demand, Outlook

_DRAWN = 10_000
"""Lengths that an even distribution is drawn as."""


def run_costs(args: argparse.Namespace) -> int:
    """Measure the steps of an engine. Returns the exit status."""
    from candle_vllm.bench.costs import measure_costs

    clock = _clock(args)
    config = replace(engine_config(args), enable_prefix_cache=False, background=False)
    with load_engine(args, config) as engine, bar("costs", None) as advance:
        try:
            costs = measure_costs(engine, args.repeats, advance.name, clock)
        except ConfigError as error:
            raise UsageError(in_flags(error)) from error
        about = about_engine(engine)
    logits = dict(costs.logits)
    rows: Rows = [
        (str(count), f"{1e3 * seconds:.2f}", f"{1e3 * logits[count]:.2f}" if count in logits else "")
        for count, seconds in costs.rows
    ]
    keys: Rows = [
        ("a sequence that decodes", f"{1e6 * costs.decode_key:.3f}"),
        ("a token of a prompt", f"{1e6 * costs.prompt_pair:.3f}"),
    ]
    tables = [
        ("steps, in milliseconds", ("rows", "of a prompt", "more, where each speaks"), rows),
        ("for each key looked at, in microseconds", ("", ""), keys),
    ]
    show(args, heading(about), tables, {**about, "costs": costs.as_json()})
    return 0


def run_simulate(args: argparse.Namespace) -> int:
    """Simulate a load. Returns the exit status: 1 when no number of replicas looked at meets the targets."""
    from candle_vllm.bench.costs import StepCosts
    from candle_vllm.bench.simulate import Target, search

    try:
        found = json.loads(Path(args.costs).read_text(encoding="utf-8"))
        costs = StepCosts.from_json(found["costs"] if isinstance(found, dict) and "costs" in found else {})
    except (OSError, ValueError) as error:
        raise UsageError(f"--costs {args.costs}: {error}") from error
    demand = _demand(args, args.cached_tokens)
    _check_lengths(demand, costs.limits.max_sequence_length)
    target = Target(ttft_ms=args.ttft_ms, itl_ms=args.itl_ms, share=args.percentile / 100)
    least, most = (1, args.most_replicas) if args.replicas is None else (args.replicas, args.replicas)
    batches = args.max_num_seqs or [costs.limits.max_batch_size]
    outlooks = search(costs, demand, target, batches, least, most)
    result = {
        "model": costs.model,
        "device": costs.device,
        "threads": costs.threads,
        "demand": {**asdict(demand), "lengths": len(demand.lengths)},
        "target": asdict(target),
        "outlooks": [asdict(each) for each in outlooks],
    }
    title = f"{costs.model}, {costs.device}, {costs.threads} threads a replica: {demand.rate:g} requests/s"
    show(args, title, [_table(outlooks, args.percentile)], result)
    return 0 if any(each.met for each in outlooks) else 1


def run_replay(args: argparse.Namespace) -> int:
    """Run the load on an engine here. Returns the exit status."""
    from candle_vllm.bench.replay import replay, replay_by_steps
    from candle_vllm.bench.simulate import arrivals

    demand = _demand(args, 0)
    clock, steps = _clock(args), args.clock == "process"
    config = replace(engine_config(args), enable_prefix_cache=False, background=not steps)
    with load_engine(args, config) as engine, bar("requests", demand.requests) as advance:
        _check_lengths(demand, engine.model_info.max_sequence_length)
        requests = list(arrivals(demand))
        found = replay_by_steps(engine, requests, advance, clock) if steps else replay(engine, requests, advance)
        about = about_engine(engine)
    rows: Rows = [
        ("requests/s", f"{found.requests_per_second:.2f}"),
        ("output tokens/s", per_second(found.output_tokens_per_second)),
    ]
    times: Rows = [("first token", *_times(found.ttft_ms)), ("next token", *_times(found.itl_ms))]
    heads = ("", "mean", "median", "p90", "p99")
    show(args, heading(about), [("load", ("", ""), rows), ("milliseconds", heads, times)], {**about, **asdict(found)})
    return 0


def _clock(args: argparse.Namespace) -> Callable[[], float]:
    if args.clock == "wall":
        return time.perf_counter
    if args.threads != 1:
        # Threads that wait for each other take time too.
        raise UsageError("--clock process: needs --threads 1")
    return time.process_time


def _demand(args: argparse.Namespace, cached: int) -> Demand:
    from candle_vllm.bench.offline import varied
    from candle_vllm.bench.simulate import Demand

    if args.lengths is None:
        draw = random.Random(args.seed)
        sizes = (args.input_tokens, args.output_tokens)
        lengths = [tuple(varied(draw, size, args.variation) for size in sizes) for _ in range(_DRAWN)]
    else:
        lengths = _read_lengths(args.lengths)
    pairs = tuple((prompt, answer) for prompt, answer in lengths)
    return Demand(rate=args.request_rate, requests=args.requests, lengths=pairs, cached=cached, seed=args.seed)


def _read_lengths(path: Path) -> list[tuple[int, ...]]:
    lengths: list[tuple[int, ...]] = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            said = json.loads(line)
            sizes = tuple(int(said[name]) for name in ("input_tokens", "output_tokens"))
            if min(sizes) < 1:
                raise ValueError(f"line {number}: below 1")
            lengths.append(sizes)
    except OSError as error:
        raise UsageError(f"--lengths {path}: {error.strerror}") from error
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"--lengths {path}: not lines of input_tokens and output_tokens: {error}") from error
    if not lengths:
        raise UsageError(f"--lengths {path}: has no lines")
    return lengths


def _check_lengths(demand: Demand, longest: int) -> None:
    most = max(prompt + answer for prompt, answer in demand.lengths)
    if most > longest:
        raise UsageError(f"a request of {most} tokens exceeds the longest sequence of this engine, {longest}")


def _table(outlooks: list[Outlook], percentile: float) -> tuple[str, tuple[str, ...], Rows]:
    at = f"p{percentile:g}"
    heads = (
        *("sequences at once", "replicas", "requests/s", "tokens/s", "busy"),
        *("TTFT median", f"TTFT {at}", "ITL median", f"ITL {at}", "queue p99", "meets"),
    )
    rows: Rows = [
        (
            str(each.max_batch_size),
            str(each.replicas),
            f"{each.requests_per_second:.2f}",
            per_second(each.output_tokens_per_second),
            f"{100 * each.busy:.0f} %",
            f"{each.ttft_ms.median:.0f}",
            f"{each.ttft_target_ms:.0f}",
            f"{each.itl_ms.median:.1f}" if each.itl_ms else "",
            f"{each.itl_target_ms:.1f}",
            f"{each.queue.p99:.0f}",
            "yes" if each.met else "no",
        )
        for each in outlooks
    ]
    return "milliseconds, and requests that wait", heads, rows


def _times(times: Spread | None) -> tuple[str, ...]:
    return ("",) * 4 if times is None else tuple(f"{value:.1f}" for value in asdict(times).values())
