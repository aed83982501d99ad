"""candle-vllm quantize: a model as one GGUF file of another type. Must not load it."""

from __future__ import annotations

import argparse

from candle_vllm.cli.loading import loading_bars
from candle_vllm.cli.settings import UsageError, in_flags
from candle_vllm.errors import ConfigError


def run_quantize(args: argparse.Namespace) -> int:
    """Write the file; its place and size go to standard output."""
    from candle_vllm.config import EngineConfig
    from candle_vllm.engine import quantize_model

    try:
        config = EngineConfig(
            model_path=args.model, weight_file=args.weight_file, revision=args.revision, threads=args.threads
        )
        with loading_bars(args.out.name) as progress:
            size = quantize_model(config, args.out, args.type, force=args.force, progress=progress)
    except ConfigError as error:
        raise UsageError(error.named("OUT") if error.field == "out" else in_flags(error)) from error
    print(f"{args.out} {size / 1e6:,.1f} MB")
    return 0
