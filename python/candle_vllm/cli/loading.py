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


def load_engine(args: argparse.Namespace, config: EngineConfig | None = None) -> InferenceEngine:
    """The engine of these flags. Shows progress on a terminal, and there only."""
    from candle_vllm.engine import InferenceEngine

    settings = config or engine_config(args)
    with _bars(str(settings.model_path)) as progress:
        engine = InferenceEngine(settings, progress=progress)
    _check_block_size(args, engine)
    return engine


@contextmanager
def _bars(name: str) -> Iterator[Callable[[str, int, int], None] | None]:
    """What the engine tells its progress to: a bar a stage on a terminal, None elsewhere."""
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


def _check_block_size(args: argparse.Namespace, engine: InferenceEngine) -> None:
    has = engine.model_info.block_size
    if args.block_size is not None and args.block_size != has:
        engine.close()
        raise UsageError(f"--block-size {args.block_size}: the engine's KV blocks hold {has} tokens; leave it out")


def summary(engine: InferenceEngine, began: float, names: list[str]) -> str:
    """What was loaded and how it runs, in a few lines. ``began`` is when loading did, by ``time.monotonic``."""
    info, stats = engine.model_info, engine.stats()
    tokens = stats.kv_blocks_total * info.block_size
    rows = {
        "model": f"{', '.join(names)} ({info.architecture}), loaded in {time.monotonic() - began:.1f} s",
        "arithmetic": f"{info.dtype} weights, {info.kv_dtype} cache, {info.device}, {info.threads} threads",
        "context": f"{info.max_sequence_length} tokens, {info.max_batch_size} sequences at once",
        "KV cache": f"{stats.kv_blocks_total} blocks of {info.block_size} tokens ({tokens} tokens)",
    }
    return "\n".join(f"  {name:<11} {text}" for name, text in rows.items())
