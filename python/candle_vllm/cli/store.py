"""candle-vllm pull, list and rm: the models that are fetched already. Must not know of engines."""

from __future__ import annotations

import argparse
import sys
import time

from candle_vllm import sources
from candle_vllm.cli.loading import loading_bars
from candle_vllm.cli.settings import UsageError, hf_token, in_flags, model_and_file
from candle_vllm.errors import ConfigError


def run_pull(args: argparse.Namespace) -> int:
    """Fetch one model; its place goes to standard output."""
    model, weight_file = model_and_file(args)
    try:
        with loading_bars(model) as progress:
            place = sources.resolve(
                model,
                weight_file=weight_file,
                revision=args.revision,
                hf_token=hf_token(args.hf_token),
                token_path=args.hf_token_path,
                progress=progress,
            )
    except ConfigError as error:
        raise UsageError(in_flags(error)) from error
    print(place)
    return 0


def run_list(args: argparse.Namespace) -> int:
    """One line a model on standard output, the one used last first."""
    models = sorted(sources.fetched(), key=lambda model: -model.used)
    if not models:
        print("no models yet; candle-vllm pull MODEL fetches one", file=sys.stderr)
        return 0
    width = max(len("MODEL"), *(len(model.name) for model in models))
    print(f"{'MODEL':<{width}}  {'MB':>9}  LAST USED")
    for model in models:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(model.used))
        print(f"{model.name:<{width}}  {model.size / 1e6:>9,.1f}  {used}")
    return 0


def run_rm(args: argparse.Namespace) -> int:
    """Delete models, all or, where one is not there, none."""
    there = {model.name: model for model in sources.fetched()}
    for name in args.names:
        if name not in there:
            named = ", ".join(sorted(there)) or "none at all"
            raise UsageError(f"{name} is not among the models that were fetched: {named}")
    for name in dict.fromkeys(args.names):
        there[name].remove()
        print(f"{name} is gone: {there[name].size / 1e6:,.1f} MB")
    return 0
