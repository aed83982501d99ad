"""The command itself, as users run it, over the tiny golden model and SmolLM2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest


def command(*argv: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run candle-vllm to its end."""
    return subprocess.run(
        [sys.executable, "-m", "candle_vllm", *argv],
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """This process's, with its module path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_chat_with_piped_lines(smollm2_path: Path) -> None:
    done = command(
        "chat", "--m", str(smollm2_path), "--temperature", "0", "--max-tokens", "8", "--mem", "64",
        given="What is the capital of France? Answer in one sentence.\nAnd of Italy?\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "The capital of France is Paris."
    assert second
    assert done.stderr == ""


def test_complete_is_repeatable(tiny_model_path: Path) -> None:
    argv = ("complete", "the sea", "--w", str(tiny_model_path), "--dtype", "f32", "--max-tokens", "12", "--seed", "7")
    first, second = command(*argv), command(*argv)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout != ""


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["complete", "x", "--m", "/nowhere/model.gguf"], 1, "/nowhere/model.gguf"),
        (["complete", "x", "--d", "0"], 1, "cuda:0"),
        (["--device", "metal"], 1, "metal"),
        (["--isq", "q9k"], 2, "--isq"),
    ],
)
def test_what_cannot_be_done_is_one_line(argv: list[str], status: int, said: str) -> None:
    done = command(*argv)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_and_curl(tiny_model_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "candle_vllm", "--w", str(tiny_model_path), "--h", "127.0.0.1:0", "--dtype", "f32"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    alarm = threading.Timer(60, server.kill)
    alarm.start()
    try:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if "serving" in line:
                break
        url = lines[-1].split()[1]
        messages = [{"role": "user", "content": "hi"}]
        body = json.dumps({"model": tiny_model_path.name, "messages": messages, "max_tokens": 5, "ignore_eos": True})
        curl = ["curl", "-s", f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d", body]
        reply = json.loads(subprocess.run(curl, capture_output=True, text=True, timeout=30, check=True).stdout)
        assert reply["usage"]["completion_tokens"] == 5
        assert any("LlamaForCausalLM" in line for line in lines)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        alarm.cancel()
        server.kill()
        server.wait(10)
        assert server.stderr is not None
        server.stderr.close()
