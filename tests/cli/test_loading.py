"""What the terminal shows while a model loads."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest

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


INTERRUPTED = """
import os, signal, sys, threading, time, types
import candle_vllm.cli.{module} as module, candle_vllm.engine
from candle_vllm.cli import main

class Engine:
    def __init__(self, config, progress):
        progress("weights", 1_000_000, 98_000_000)
        print("LOADING", flush=True)
        time.sleep(60)

candle_vllm.engine.InferenceEngine = Engine
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main({argv}))
"""


@pytest.mark.parametrize(
    ("module", "argv"), [("serve", ["serve", "--h", "127.0.0.1:0"]), ("chat", ["run"]), ("complete", ["complete", "x"])]
)
def test_an_interrupted_load_leaves_the_terminal_whole(module: str, argv: list[str]) -> None:
    outside, inside = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "120"}
    code = INTERRUPTED.format(module=module, argv=argv)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=inside, env=environment)
    os.close(inside)
    shown = b""
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"LOADING\n"
        while b"weights" not in shown:
            shown += os.read(outside, 65_536)
        process.send_signal(signal.SIGINT)
        # The terminal ends when the last who writes to it does.
        with contextlib.suppress(OSError):
            while piece := os.read(outside, 65_536):
                shown += piece
        assert process.wait(10) == (0 if module == "serve" else 130), shown
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
        os.close(outside)
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") > -1, shown[-400:]
    assert b"Traceback" not in shown


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
