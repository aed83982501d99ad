"""Loading the model for a command: what the terminal shows meanwhile, and what is said when it is there.

Must not know of servers or conversations.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from candle_vllm.cli.settings import UsageError, engine_config

if TYPE_CHECKING:
    from candle_vllm.config import EngineConfig
    from candle_vllm.engine import InferenceEngine


def load_engine(args: argparse.Namespace, config: EngineConfig | None = None) -> InferenceEngine:
    """The engine of these flags. Shows progress on a terminal, and there only."""
    from candle_vllm.engine import InferenceEngine

    settings = config or engine_config(args)
    if not sys.stderr.isatty():
        engine = InferenceEngine(settings)
    else:
        from rich.console import Console

        with Console(stderr=True).status(f"loading {settings.model_path}"):
            engine = InferenceEngine(settings)
    _check_block_size(args, engine)
    return engine


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
