"""Which subcommand runs, and how its failures become messages and exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from candle_vllm.cli import flags
from candle_vllm.cli.address import AddressError
from candle_vllm.cli.parser import Parser
from candle_vllm.cli.settings import UsageError, refuse_flags
from candle_vllm.cli.terminal import prepare_streams

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

_HOMES = {
    "serve": "serve.run_serve",
    "chat": "chat.run_chat",
    "run": "chat.run_chat",
    "complete": "complete.run_complete",
    "inspect": "inspect.run_inspect",
    "fits": "inspect.run_fits",
    "pull": "store.run_pull",
    "list": "store.run_list",
    "rm": "store.run_rm",
    "quantize": "quantize.run_quantize",
    "bench": "bench.run_bench",
    "mcp-serve": "mcp_serve.run_mcp_serve",
    "run-batch": "run_batch.run_run_batch",
}
"""Where each subcommand is, below this package; imported when it runs."""


def run(argv: list[str]) -> int:
    """Parse and run; returns the exit status. Messages go to standard error."""
    prepare_streams()
    subcommand = argv[0] if argv and argv[0] in flags.SUBCOMMANDS else None
    rest = argv[1:] if subcommand else argv
    parser = parser_of(subcommand)
    try:
        args = parser.parse(rest)
    except SystemExit as end:
        # argparse has written its message: 0 after --help, 2 after a mistake.
        return int(end.code or 0)
    if getattr(args, "version", False):
        print(_version())
        return 0
    return _run(subcommand or "serve", args, parser)


def parser_of(subcommand: str | None) -> Parser:
    """The flags of a subcommand; of `serve` without the word where there is none."""
    match subcommand:
        case "chat" | "run":
            return flags.chat_parser(subcommand)
        case "mcp-serve":
            return flags.mcp_serve_parser()
        case "run-batch":
            return flags.run_batch_parser()
        case "complete":
            return flags.complete_parser()
        case "inspect" | "fits":
            return flags.inspect_parser(subcommand)
        case "pull":
            return flags.pull_parser()
        case "list":
            return flags.list_parser()
        case "rm":
            return flags.rm_parser()
        case "quantize":
            return flags.quantize_parser()
        case "bench":
            from candle_vllm.cli.bench_flags import bench_parser

            return bench_parser()
    return flags.serve_parser(explicit=subcommand is not None)


def _run(subcommand: str, args: argparse.Namespace, parser: Parser) -> int:
    try:
        refuse_flags(args)
        module, _, function = _HOMES[subcommand].partition(".")
        status: int = getattr(import_module(f"candle_vllm.cli.{module}"), function)(args)
        return status
    except (UsageError, AddressError) as error:
        print(f"{parser.prog}: error: {error}\n{parser.hint()}", file=sys.stderr)
        return WRONG_USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has left. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        from candle_vllm.errors import CandleVllmError

        if not isinstance(error, CandleVllmError | OSError):
            raise
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return FAILED


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"candle-vllm {version('candle-vllm')}"
    except PackageNotFoundError:
        return "candle-vllm (not installed)"
