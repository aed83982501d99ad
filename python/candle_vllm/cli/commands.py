"""Which subcommand runs, and how its failures become messages and exit statuses."""

from __future__ import annotations

import argparse
import os
import sys

from candle_vllm.cli import flags
from candle_vllm.cli.address import AddressError
from candle_vllm.cli.settings import UsageError, refuse_flags

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


def run(argv: list[str]) -> int:
    """Parse and run; returns the exit status. Messages go to standard error."""
    subcommand = argv[0] if argv and argv[0] in flags.SUBCOMMANDS else None
    rest = argv[1:] if subcommand else argv
    parser = _parser(subcommand)
    try:
        args = parser.parse_args(rest)
    except SystemExit as end:
        # argparse has written its message: 0 after --help, 2 after a mistake.
        return int(end.code or 0)
    if getattr(args, "version", False):
        print(_version())
        return 0
    return _run(subcommand or "serve", args, parser.prog)


def _parser(subcommand: str | None) -> argparse.ArgumentParser:
    if subcommand == "chat":
        return flags.chat_parser()
    if subcommand == "complete":
        return flags.complete_parser()
    if subcommand == "bench":
        from candle_vllm.cli.bench_flags import bench_parser

        return bench_parser()
    return flags.serve_parser(explicit=subcommand is not None)


def _run(subcommand: str, args: argparse.Namespace, program: str) -> int:
    try:
        refuse_flags(args)
        return _command(subcommand, args)
    except (UsageError, AddressError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
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
        print(f"{program}: error: {error}", file=sys.stderr)
        return FAILED


def _command(subcommand: str, args: argparse.Namespace) -> int:
    if subcommand == "chat":
        from candle_vllm.cli.chat import run_chat

        return run_chat(args)
    if subcommand == "complete":
        from candle_vllm.cli.complete import run_complete

        return run_complete(args)
    if subcommand == "bench":
        from candle_vllm.cli.bench import run_bench

        return run_bench(args)
    from candle_vllm.cli.serve import run_serve

    return run_serve(args)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"candle-vllm {version('candle-vllm')}"
    except PackageNotFoundError:
        return "candle-vllm (not installed)"
