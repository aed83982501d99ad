"""candle-vllm bench: runs a measurement, shows a table and a progress bar, writes JSON.

The measuring itself stands in `candle_vllm.bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from candle_vllm.cli.loading import load_engine
from candle_vllm.cli.settings import UsageError, engine_config, in_flags
from candle_vllm.errors import ConfigError

if TYPE_CHECKING:
    from candle_vllm.bench.load import LoadReport
    from candle_vllm.engine import InferenceEngine

_TIMES = {"ttft_ms": "first text", "itl_ms": "between texts", "tpot_ms": "per token", "e2e_ms": "whole answer"}
Rows = list[tuple[str, ...]]


def run_bench(args: argparse.Namespace) -> int:
    """Run one part. Returns the exit status: 1 when no request succeeded."""
    parts = {"latency": _latency, "throughput": _throughput, "serve": _serve, "make-model": _make_model}
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
    with loaded as engine, _bar("latency", runs) as advance:
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
        about = _about(engine)
    result = {**about, "prefill": [asdict(rate) for rate in prefill], "decode": [asdict(rate) for rate in decode]}
    tables = [
        ("prefill", ("prompt", "tokens/s", "ms"), _prefill_rows(result)),
        (
            f"decode, {args.decode_prompt} prompt tokens and {args.decode_tokens} generated together",
            ("batch", "tokens/s", "ms a step", "with prompts, tokens/s"),
            _decode_rows(result),
        ),
    ]
    _show(args, _title(about), tables, result)
    return 0


def _prefill_rows(result: dict[str, Any]) -> Rows:
    return [
        (str(rate["prompt_tokens"]), _rate(rate["tokens_per_second"]), f"{1e3 * rate['seconds']:.1f}")
        for rate in result["prefill"]
    ]


def _decode_rows(result: dict[str, Any]) -> Rows:
    return [
        (
            str(rate["batch"]),
            _rate(rate["tokens_per_second"]),
            f"{rate['step_milliseconds']:.2f}",
            _rate(rate["overall_tokens_per_second"]),
        )
        for rate in result["decode"]
    ]


def _throughput(args: argparse.Namespace) -> int:
    from candle_vllm.bench import offline

    with load_engine(args) as engine, _bar("requests", args.requests) as advance:
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
        about = _about(engine)
    result = {**about, **asdict(measured)}
    rows: Rows = [
        ("requests", f"{measured.requests}" + (f", {measured.failed} failed" if measured.failed else "")),
        ("seconds", f"{measured.seconds:.2f}"),
        ("input tokens", str(measured.input_tokens)),
        ("output tokens", str(measured.output_tokens)),
        ("requests/s", f"{measured.requests_per_second:.2f}"),
        ("output tokens/s", _rate(measured.output_tokens_per_second)),
        ("total tokens/s", _rate(measured.total_tokens_per_second)),
    ]
    _show(args, _title(about), [("throughput", ("", ""), rows)], result)
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
    with _bar("requests", load.requests if load.duration is None else None) as advance:
        report = run_load(load, advance)
    result = asdict(report)
    rows: Rows = [
        ("requests", _fates(report)),
        ("seconds", f"{report.seconds:.2f}"),
        ("requests/s", f"{report.requests_per_second:.2f}"),
        ("output tokens/s", _rate(report.output_tokens_per_second)),
        ("input tokens", "not counted" if report.input_tokens is None else str(report.input_tokens)),
        ("output tokens", f"{report.output_tokens}{'' if report.tokens_counted_by_server else ' (pieces of text)'}"),
    ]
    if report.goodput is not None:
        rows.append(("goodput, requests/s", f"{report.goodput:.2f}"))
    rows += [(f"{count} x", message) for message, count in report.errors.items()]
    times: Rows = [
        (name, *(f"{value:.1f}" for value in result[key].values())) for key, name in _TIMES.items() if result[key]
    ]
    _show(
        args,
        f"{report.model} at {report.url} ({report.endpoint})",
        [("load", ("", ""), rows), ("milliseconds", ("", "mean", "median", "p90", "p99"), times)],
        result,
    )
    return 0 if report.completed else 1


def _make_model(args: argparse.Namespace) -> int:
    from candle_vllm.bench.make_model import make_model

    with _bar(args.out.name, None) as advance:
        try:
            size = make_model(args.shape, args.quant, args.out, seed=args.seed, force=args.force, progress=advance.to)
        except ConfigError as error:
            raise UsageError(in_flags(error)) from error
    result = {"file": str(args.out), "bytes": size, "shape": args.shape, "quant": args.quant, "seed": args.seed}
    rows: Rows = [("file", str(args.out)), ("MB", f"{size / 1e6:,.1f}")]
    _show(args, f"{args.shape}, {args.quant}, random weights", [("model", ("", ""), rows)], result)
    return 0


def _about(engine: InferenceEngine) -> dict[str, Any]:
    """What was measured, for the JSON."""
    from candle_vllm import __version__

    info = engine.model_info
    facts = (
        "name",
        "architecture",
        "dtype",
        "kv_dtype",
        "device",
        "threads",
        "weight_bytes",
        "kv_bytes",
        "step_tokens",
    )
    return {"version": __version__, "model": {name: getattr(info, name) for name in facts}}


def _title(about: dict[str, Any]) -> str:
    model = about["model"]
    return f"{model['name']}: {model['dtype']} weights, {model['device']}, {model['threads']} threads"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _show(
    args: argparse.Namespace, title: str, tables: list[tuple[str, tuple[str, ...], Rows]], result: dict[str, Any]
) -> None:
    """The tables on standard output, or on standard error where the JSON takes its place."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=args.json == "-", highlight=False)
    console.print(title, markup=False)
    for caption, heads, rows in tables:
        if not rows:
            continue
        table = Table(title=caption, title_justify="left", show_header=any(heads))
        for place, head in enumerate(heads):
            table.add_column(head, justify="right" if place or heads[0] else "left", overflow="fold")
        for row in rows:
            table.add_row(*(cell.replace("[", "\\[") for cell in row))
        console.print(table)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    elif args.json is not None:
        Path(args.json).write_text(text, encoding="utf-8")


class _Advance:
    """Moves a progress bar: one step when called, or to a place."""

    def __init__(self, move: Callable[..., None] | None) -> None:
        self._move = move
        self._done = 0

    def name(self, text: str) -> None:
        """Say what is under way."""
        if self._move is not None:
            self._move(self._done, None, text)

    def __call__(self) -> None:
        self._done += 1
        self.to(self._done, None)

    def to(self, done: int, total: int | None) -> None:
        """Show that ``done`` of ``total`` are done."""
        if self._move is not None:
            self._move(done, total)


@contextmanager
def _bar(name: str, total: int | None) -> Iterator[_Advance]:
    """A bar on standard error where that is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield _Advance(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        task = bars.add_task(name, total=total)

        def move(done: int | None, whole: int | None, text: str | None = None) -> None:
            bars.update(task, completed=done, total=whole or total, description=text)

        yield _Advance(move)
