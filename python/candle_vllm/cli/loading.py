"""Loading the model for a command: what the terminal shows meanwhile, and what is said when it is there.

Must not know of servers or conversations.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from candle_vllm.cli.settings import UsageError, engine_config

if TYPE_CHECKING:
    from candle_vllm.config import EngineConfig
    from candle_vllm.engine import InferenceEngine
    from candle_vllm.models import LoadedModel, SamplingDefaults

Progress = Callable[[str, int, int], None]


def load_engine(args: argparse.Namespace, config: EngineConfig | None = None) -> InferenceEngine:
    """The engine of these flags. Shows progress on a terminal, and there only."""
    settings = config or engine_config(args)
    with loading_bars(str(settings.model_path)) as progress:
        return load_with(args, settings, progress)


def load_with(args: argparse.Namespace, settings: EngineConfig, progress: Progress | None) -> InferenceEngine:
    """The engine of these settings, told of to `progress`."""
    from candle_vllm.engine import InferenceEngine

    engine = InferenceEngine(settings, progress=progress)
    check_block_size(args, engine)
    return engine


@contextmanager
def loading_bars(name: str) -> Iterator[Progress | None]:
    """What a load tells its progress to: a bar a stage on a terminal, None elsewhere.

    Leaving it gives the terminal back whole, whatever became of the load; what is told later is not shown.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    amount = TextColumn("{task.fields[amount]}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    # Standard output belongs to answers; what is logged meanwhile goes above the bars.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        stages = {"": bars.add_task(name, total=None, amount="")}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=None, amount="")
            bars.update(stages[stage], completed=done, total=total or None, amount=_amount(done, total))

        yield report


def _amount(done: int, total: int) -> str:
    """How far a stage is; large numbers are bytes."""
    if max(done, total) < 1_000_000:
        return f"{done}/{total}" if total else str(done)
    return f"{done / 1e6:.1f}/{total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"


def check_block_size(args: argparse.Namespace, engine: InferenceEngine) -> None:
    """Close the engine and raise UsageError where its KV blocks are not of the size that was asked for."""
    has = engine.model_info.block_size
    if args.block_size is not None and args.block_size != has:
        engine.close()
        raise UsageError(f"--block-size {args.block_size}: the engine's KV blocks hold {has} tokens; leave it out")


def summary(model: LoadedModel, began: float, own: SamplingDefaults) -> str:
    """What was loaded and how it runs, in a few lines.

    ``began`` is when loading did, by ``time.monotonic``; ``own`` are the sampling defaults that flags set.
    """
    info, stats = model.info, model.engine.stats()
    tokens = stats.kv_blocks_total * info.block_size
    rows = {
        "model": f"{', '.join(model.names)} ({info.architecture}), loaded in {time.monotonic() - began:.1f} s",
        "arithmetic": f"{info.dtype} weights, {info.kv_dtype} cache, {info.device}, {info.threads} threads",
        "context": f"{info.max_sequence_length} tokens, {info.max_batch_size} sequences at once",
        "KV cache": f"{stats.kv_blocks_total} blocks of {info.block_size} tokens ({tokens} tokens)",
        "sampling": _sampling(model.defaults, own),
    }
    return "\n".join(f"  {name:<11} {text}" for name, text in rows.items())


def _sampling(defaults: SamplingDefaults, own: SamplingDefaults) -> str:
    """The defaults, with where they come from."""
    flags, every = own.named(), defaults.named()
    advised = {name: value for name, value in every.items() if name not in flags}
    parts = [
        f"{', '.join(f'{name} {_shown(value)}' for name, value in group.items())} ({source})"
        for group, source in ((flags, "flags"), (advised, "the checkpoint's own"))
        if group
    ]
    return "; ".join(parts) or "as the API has it"


def _shown(value: float | None) -> str:
    return "all" if value is None else f"{value:g}"
