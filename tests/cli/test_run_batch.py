"""candle-vllm run-batch as users run it, killed and interrupted, over the tiny model."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from candle_vllm.cli import main

LINES = 120


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Requests of which each has its own answer, and one line that is none."""
    path = tmp_path / "in.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for at in range(LINES):
            body = {"prompt": [at + 3, 5, 6, 7], "max_tokens": 200, "temperature": 0, "ignore_eos": True}
            line = {"custom_id": f"r{at}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")
        file.write("nonsense\n")
    return path


def command(source: Path, out: Path, model: Path) -> list[str]:
    argv = [sys.executable, "-m", "candle_vllm", "run-batch", "-i", str(source), "-o", str(out), "--w", str(model)]
    return [*argv, "--dtype", "f32", "--threads", "1", "--mem", "64", "--at-once", "4", "--window", "32"]


def read(out: Path) -> dict[str, Any]:
    """The lines by id; each there once."""
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found = {line["id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def texts(found: dict[str, Any]) -> dict[str, str]:
    return {
        line["custom_id"]: line["response"]["body"]["choices"][0]["text"] for line in found.values() if line["response"]
    }


def started(source: Path, out: Path, model: Path, lines: int, **options: Any) -> subprocess.Popen[str]:
    """A run that has written so many lines of its own."""
    before = out.stat().st_size if out.exists() else 0
    run = subprocess.Popen(command(source, out, model), stderr=subprocess.PIPE, text=True, env=environment(), **options)
    deadline = time.monotonic() + 60
    while run.poll() is None and time.monotonic() < deadline:
        if out.exists() and out.read_bytes()[before:].count(b"\n") >= lines:
            break
        time.sleep(0.002)
    return run


@pytest.mark.slow
def test_killed_again_and_again_each_line_is_answered_once(source: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    reference = subprocess.run(command(source, whole, tiny_model_path), env=environment(), stderr=subprocess.PIPE)
    assert reference.returncode == 3, reference.stderr
    draw = random.Random(7)
    for _ in range(3):
        run = started(source, out, tiny_model_path, draw.randint(5, 20))
        time.sleep(draw.random() * 0.02)
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL
    # A line may be torn, too: where the system died with the process.
    out.write_bytes(out.read_bytes()[:-7])
    last = subprocess.run(command(source, out, tiny_model_path), env=environment(), capture_output=True, text=True)
    assert last.returncode == 3
    assert f"{out}: {LINES + 1} lines, 1 of them with an error" in last.stderr
    assert set(read(out)) == {f"batch_req_{number}" for number in range(1, LINES + 2)}
    assert texts(read(out)) == texts(read(whole))


@pytest.mark.slow
def test_an_interrupt_ends_it_cleanly(source: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run = started(source, out, tiny_model_path, 8)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "the same command goes on with the rest" in said and "Traceback" not in said
    assert 8 <= len(read(out)) < LINES
    assert out.read_bytes().endswith(b"\n")


@pytest.mark.slow
def test_a_full_disk_is_told(source: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    limit = 4000
    run = started(
        source,
        out,
        tiny_model_path,
        LINES,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert f"cannot write {out}: File too large" in said and "Traceback" not in said
    assert 0 < len(read(out)) < LINES


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-i", "/nowhere", "-o", "out"], "-i /nowhere: there is no such file"),
        (["-i", __file__, "-o", "/nowhere/out"], "-o /nowhere/out: there is no such folder"),
        (["-i", __file__, "-o", __file__], "is the input"),
        (["-i", __file__, "-o", "out", "--at-once", "0"], "--at-once 0"),
    ],
)
def test_wrong_usage(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run-batch", *argv]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
