"""What the terminal shows while a model loads."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Any

SCRIPT = """
import sys, types
from candle_vllm.cli import flags
from candle_vllm.cli.loading import load_engine
from fake_engine import FakeEngine

def build(config, progress):
    print("reports", progress is not None)
    if progress is not None:
        progress("download", 10_000_000, 98_000_000)
        progress("download", 98_000_000, 98_000_000)
        progress("pack", 3, 0)
    return FakeEngine()

sys.modules["candle_vllm.engine"] = types.SimpleNamespace(InferenceEngine=build)
load_engine(flags.chat_parser().parse_args(["--m", "smollm2"]))
"""


def run(**options: Any) -> subprocess.CompletedProcess[bytes]:
    """Load in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, env=environment, timeout=30, **options
    )


def test_nothing_without_a_terminal() -> None:
    done = run(stderr=subprocess.PIPE)
    assert done.stdout.strip() == b"reports False"
    assert done.stderr == b""
    assert done.returncode == 0


def test_bars_on_a_terminal() -> None:
    outside, inside = pty.openpty()
    done = run(stderr=inside)
    os.close(inside)
    shown = os.read(outside, 65_536)
    os.close(outside)
    assert done.returncode == 0, shown
    assert done.stdout.strip() == b"reports True"
    assert b"download" in shown
    assert b"98.0/98.0 MB" in shown
    assert b"pack" in shown
