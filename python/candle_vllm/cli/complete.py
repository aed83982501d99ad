"""candle-vllm complete: the continuation of one text on standard output. Must not know of HTTP or chats."""

from __future__ import annotations

import argparse
import sys

from candle_vllm.cli.loading import load_engine
from candle_vllm.cli.settings import UsageError, sampling_defaults, served_names
from candle_vllm.cli.terminal import readable
from candle_vllm.openai import OpenAIAdapter


def run_complete(args: argparse.Namespace) -> int:
    """Continue the prompt. Returns the exit status."""
    defaults = sampling_defaults(args)
    prompt = sys.stdin.read() if args.prompt == "-" else readable(args.prompt)
    if not prompt:
        raise UsageError("the prompt is empty")
    with load_engine(args) as engine:
        adapter = OpenAIAdapter(engine, model_names=served_names(args), defaults=defaults)
        request = {
            "model": adapter.model_names[0],
            "prompt": prompt,
            "max_tokens": args.max_tokens,
            "seed": args.seed,
            "stop": [readable(stop) for stop in args.stop] if args.stop else None,
            "echo": args.echo,
        }
        for chunk in adapter.completion_stream(request):
            print(chunk.choices[0].text, end="", flush=True)
        print(flush=True)
    return 0
