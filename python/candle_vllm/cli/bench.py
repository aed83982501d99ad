"""candle-vllm bench: runs a measurement, shows a table and a progress bar, writes JSON.

The measuring itself stands in `candle_vllm.bench`.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candle_vllm.cli.bench_show import Rows, about_engine, bar, heading, per_second, show
from candle_vllm.cli.loading import load_engine
from candle_vllm.cli.settings import UsageError, engine_config, in_flags
from candle_vllm.errors import ConfigError

if TYPE_CHECKING:
    from candle_vllm.bench.load import LoadReport

_TIMES = {"ttft_ms": "first text", "itl_ms": "between texts", "tpot_ms": "per token", "e2e_ms": "whole answer"}


def run_bench(args: argparse.Namespace) -> int:
    """Run one part. Returns the exit status: 1 when no request succeeded."""
    from candle_vllm.cli.bench_simulate import run_costs, run_replay, run_simulate

    parts = {
        "latency": _latency,
        "throughput": _throughput,
        "serve": _serve,
        "costs": run_costs,
        "simulate": run_simulate,
        "replay": run_replay,
        "make-model": _make_model,
    }
    if args.json not in (None, "-") and not Path(args.json).resolve().parent.is_dir():
        raise UsageError(f"--json {args.json}: there is no such folder")
    return parts[args.part](args)


def _latency(args: argparse.Namespace) -> int:
    from candle_vllm.bench import offline

    if not args.prompt and not args.batch:
        raise UsageError("--prompt 0 and --batch 0 leave nothing to measure")
    config = engine_config(args)
    longest = offline.longest(config, args.prompt, args.batch, args.decode_prompt, args.decode_tokens)
    config = replace(
        config,
        enable_prefix_cache=False,
        background=False,
        max_batch_size=max(args.batch, default=1),
        # The cache is sized from both, and holds all that is measured without what a long context would take.
        max_sequence_length=config.max_sequence_length or longest,
    )
    try:
        loaded = load_engine(args, config)
    except ConfigError as error:
        if error.field == "max_sequence_length" and args.max_model_len is None:
            raise UsageError(error.named("what --prompt, --decode-prompt and --decode-tokens ask for")) from error
        raise
    runs = args.repeats * (len(args.prompt) + len(args.batch))
    with loaded as engine, bar("latency", runs) as advance:
        prefill, decode = [], []
        try:
            for length in args.prompt:
                advance.name(f"prefill {length}")
                prefill.append(offline.prefill_rate(engine, length, args.repeats, advance))
            for batch in args.batch:
                advance.name(f"decode, {batch} at once")
                sizes = (batch, args.decode_prompt, args.decode_tokens, args.repeats)
                decode.append(offline.decode_rate(engine, *sizes, advance))
        except ConfigError as error:
            raise UsageError(in_flags(error)) from error
        about = about_engine(engine)
    result = {**about, "prefill": [asdict(rate) for rate in prefill], "decode": [asdict(rate) for rate in decode]}
    tables = [
        ("prefill", ("prompt", "tokens/s", "ms"), _prefill_rows(result)),
        (
            f"decode, {args.decode_prompt} prompt tokens and {args.decode_tokens} generated together",
            ("batch", "tokens/s", "ms a step", "with prompts, tokens/s"),
            _decode_rows(result),
        ),
    ]
    show(args, heading(about), tables, result)
    return 0


def _prefill_rows(result: dict[str, Any]) -> Rows:
    return [
        (str(rate["prompt_tokens"]), per_second(rate["tokens_per_second"]), f"{1e3 * rate['seconds']:.1f}")
        for rate in result["prefill"]
    ]


def _decode_rows(result: dict[str, Any]) -> Rows:
    return [
        (
            str(rate["batch"]),
            per_second(rate["tokens_per_second"]),
            f"{rate['step_milliseconds']:.2f}",
            per_second(rate["overall_tokens_per_second"]),
        )
        for rate in result["decode"]
    ]


def _throughput(args: argparse.Namespace) -> int:
    from candle_vllm.bench import offline

    with load_engine(args) as engine, bar("requests", args.requests) as advance:
        try:
            measured = offline.throughput(
                engine,
                args.requests,
                args.input_tokens,
                args.output_tokens,
                variation=args.variation,
                seed=args.seed,
                advance=advance,
            )
        except ConfigError as error:
            raise UsageError(in_flags(error)) from error
        about = about_engine(engine)
    result = {**about, **asdict(measured)}
    rows: Rows = [
        ("requests", f"{measured.requests}" + (f", {measured.failed} failed" if measured.failed else "")),
        ("seconds", f"{measured.seconds:.2f}"),
        ("input tokens", str(measured.input_tokens)),
        ("output tokens", str(measured.output_tokens)),
        ("requests/s", f"{measured.requests_per_second:.2f}"),
        ("output tokens/s", per_second(measured.output_tokens_per_second)),
        ("total tokens/s", per_second(measured.total_tokens_per_second)),
    ]
    show(args, heading(about), [("throughput", ("", ""), rows)], result)
    return 1 if measured.failed == measured.requests else 0


def _fates(report: LoadReport) -> str:
    """What became of the requests."""
    parts = [f"{report.completed} answered", f"{report.failed} failed"]
    parts += [f"{report.left} left"] if report.left else []
    return ", ".join(parts + ([f"{report.refused} turned away"] if report.refused else []))


def _serve(args: argparse.Namespace) -> int:
    from candle_vllm.bench.load import Load, run_load

    load = Load(
        url=args.url,
        model=args.model,
        chat=args.endpoint == "chat",
        requests=args.requests,
        duration=args.duration,
        drop=args.drop,
        concurrency=args.concurrency or (16 if args.request_rate is None else 1000),
        request_rate=args.request_rate,
        input_words=args.input_words,
        output_tokens=args.output_tokens,
        extra_body={**({"ignore_eos": True} if args.ignore_eos else {}), **args.extra_body},
        api_key=os.environ.get(args.api_key_env) or None,
        timeout=args.timeout,
        seed=args.seed,
        slo_ttft_ms=args.slo_ttft_ms,
        slo_itl_ms=args.slo_itl_ms,
    )
    with bar("requests", load.requests if load.duration is None else None) as advance:
        report = run_load(load, advance)
    result = asdict(report)
    rows: Rows = [
        ("requests", _fates(report)),
        ("seconds", f"{report.seconds:.2f}"),
        ("requests/s", f"{report.requests_per_second:.2f}"),
        ("output tokens/s", per_second(report.output_tokens_per_second)),
        ("input tokens", "not counted" if report.input_tokens is None else str(report.input_tokens)),
        ("output tokens", f"{report.output_tokens}{'' if report.tokens_counted_by_server else ' (pieces of text)'}"),
    ]
    if report.goodput is not None:
        rows.append(("goodput, requests/s", f"{report.goodput:.2f}"))
    rows += [(f"{count} x", message) for message, count in report.errors.items()]
    times: Rows = [
        (name, *(f"{value:.1f}" for value in result[key].values())) for key, name in _TIMES.items() if result[key]
    ]
    show(
        args,
        f"{report.model} at {report.url} ({report.endpoint})",
        [("load", ("", ""), rows), ("milliseconds", ("", "mean", "median", "p90", "p99"), times)],
        result,
    )
    return 0 if report.completed else 1


def _make_model(args: argparse.Namespace) -> int:
    from candle_vllm.bench.make_model import make_model

    with bar(args.out.name, None) as advance:
        try:
            size = make_model(args.shape, args.quant, args.out, seed=args.seed, force=args.force, progress=advance.to)
        except ConfigError as error:
            raise UsageError(in_flags(error)) from error
    result = {"file": str(args.out), "bytes": size, "shape": args.shape, "quant": args.quant, "seed": args.seed}
    rows: Rows = [("file", str(args.out)), ("MB", f"{size / 1e6:,.1f}")]
    show(args, f"{args.shape}, {args.quant}, random weights", [("model", ("", ""), rows)], result)
    return 0
