"""candle-vllm inspect and fits: what a model is and whether it runs here. Must not load it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from candle_vllm.cli.loading import loading_bars
from candle_vllm.cli.settings import engine_config

if TYPE_CHECKING:
    from candle_vllm.records import ModelReport


def run_inspect(args: argparse.Namespace) -> int:
    """A table, or one JSON object with the fields of `ModelReport`, on standard output; 1 where it would not load."""
    report = _look(args)
    if args.json:
        facts = dataclasses.asdict(report)
        print(json.dumps({**facts, "memory_bytes": report.memory_bytes, **_formats(report)}, indent=2))
    else:
        for label, text in _lines(report):
            print(f"{label:<14}{text}")
    return 1 if report.problems else 0


def run_fits(args: argparse.Namespace) -> int:
    """One line; 0 where the model loads and one sequence has room, else 1."""
    report = _look(args)
    for problem in report.problems:
        print(f"{report.name} does not run here: {problem}")
    if report.problems:
        return 1
    print(f"{report.name} {_verdict(report)}")
    return 0 if report.fits else 1


def _look(args: argparse.Namespace) -> ModelReport:
    from candle_vllm.engine import inspect_model

    config = engine_config(args)
    with loading_bars(str(config.model_path)) as progress:
        return inspect_model(config, progress=progress)


def _verdict(report: ModelReport) -> str:
    needed = f"a sequence of {report.context:,} tokens needs {_size(report.memory_bytes)}"
    free = f"{_size(report.available_bytes)} are free"
    if report.fits:
        return f"fits: {needed}, {free}"
    if report.longest_that_fits:
        return f"fits up to {report.longest_that_fits:,} tokens only: {needed}, {free}"
    return f"does not fit: {needed}, {free}"


def _formats(report: ModelReport) -> dict[str, Any]:
    """The formats of tool calls and thinking that the usual template shows; None = none."""
    from candle_vllm import reasoning, tools

    template = report.chat_templates.get("default", "")
    tool_format, style = tools.detect(template), reasoning.detect(template)
    return {
        "tool_format": tool_format.names[0] if tool_format else None,
        "reasoning_format": style.names[0] if style else None,
    }


def _lines(report: ModelReport) -> Iterator[tuple[str, str]]:
    yield "model", report.name
    yield "path", report.path
    yield "architecture", report.architecture
    for problem in report.problems:
        yield "not supported", problem
    if report.layers:
        yield "sizes", f"{report.layers} layers, width {report.hidden_size:,}, vocabulary {report.vocab_size:,}"
        yield "context", f"{report.max_position:,} tokens at most"
        yield "weights", f"{report.parameters:,} in {_size(report.file_bytes)}: {_types(report)}"
        yield "computed as", f"{report.dtype}, keys and values {report.kv_dtype}, on {report.device}"
    if report.tokens:
        yield "tokenizer", f"{report.tokens:,} tokens, an answer ends with {_listed(report.eos_token_ids)}"
        yield "templates", ", ".join(report.chat_templates) or "none"
    if report.chat_templates:
        found = _formats(report)
        yield "tool calls", found["tool_format"] or "no format of its own"
        yield "reasoning", found["reasoning_format"] or "none"
    if report.generation_config:
        yield "sampling", ", ".join(f"{name} {value:g}" for name, value in report.generation_config.items())
    if report.context:
        parts = {"weights": report.weight_bytes, "cache": report.kv_bytes, "activations": report.activation_bytes}
        yield "memory", ", ".join(f"{part} {_size(size)}" for part, size in parts.items())
        yield "this machine", _verdict(report)


def _types(report: ModelReport) -> str:
    total = sum(report.weight_types.values())
    ordered = sorted(report.weight_types.items(), key=lambda kind: -kind[1])
    return ", ".join(f"{kind} {count / total:.1%}" for kind, count in ordered)


def _listed(ids: tuple[int, ...]) -> str:
    return ", ".join(map(str, ids)) or "nothing"


def _size(size: int) -> str:
    """Bytes as people read them: 1 GB = 10^9 bytes."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
