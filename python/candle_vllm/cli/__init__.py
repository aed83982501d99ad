"""The candle-vllm command: serve (also without a subcommand), chat, complete, bench.

Importing this costs next to nothing; each subcommand imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    from candle_vllm.cli.commands import run

    return run(list(sys.argv[1:] if argv is None else argv))
