"""candle-vllm serve as a process of its own, over a fake engine: addresses, signals, failures to start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

TESTS = Path(__file__).parent.parent
HELLO = {"model": "smollm2", "messages": [{"role": "user", "content": "hello"}]}

# Runs the command with an engine that needs no model; LOAD_SECONDS and ANSWER set its ways.
SCRIPT = """
import os, sys, time
import candle_vllm.cli.loading as loading, candle_vllm.cli.serve as serve
from candle_vllm.cli import main
from candle_vllm.errors import ModelLoadError
from fake_engine import FakeEngine

def load(args, config, progress):
    time.sleep(float(os.environ.get("LOAD_SECONDS", 0)))
    if os.environ.get("BROKEN"):
        raise ModelLoadError("tensor 'x' is broken")
    engine = FakeEngine(delay=0.01, answer=os.environ.get("ANSWER"))
    loading.check_block_size(args, engine)
    return engine

serve.load_with = load
sys.exit(main())
"""


class Process:
    """One server process and what it says on standard error."""

    def __init__(self, *flags: str, cwd: Path | None = None, **environment: str) -> None:
        path = os.pathsep.join([str(TESTS), *sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *flags],
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, **environment, "PYTHONPATH": path},
        )
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said += line

    def until_said(self, pattern: str) -> re.Match[str]:
        """Wait for a line and give what it matched."""
        end = time.monotonic() + 20
        while (found := re.search(pattern, self.said)) is None:
            assert time.monotonic() < end, self.said
            assert self._process.poll() is None, self.said
            time.sleep(0.01)
        return found

    @property
    def url(self) -> str:
        """Where it serves, once it says so."""
        return self.until_said(r"serving +(http://\S+)/v1")[1]

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def status(self) -> int:
        """Wait for the end and give the exit status."""
        status = self._process.wait(20)
        self._reader.join(5)
        return status

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        self._reader.join(5)
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """``start(*flags, **environment)`` runs a server that the test's end kills."""
    running: list[Process] = []

    def run(*flags: str, **options: Any) -> Process:
        running.append(Process(*flags, **options))
        return running[-1]

    yield run
    for process in running:
        process.kill()


def test_start_up_answer_and_end(start: Callable[..., Process]) -> None:
    process = start("--h", "127.0.0.1", "--p", "0", "--temperature", "0.5")
    reply = httpx.post(process.url + "/v1/chat/completions", json=HELLO, timeout=20)
    assert reply.json()["choices"][0]["message"]["content"] == "You said: hello"
    for part in (
        "smollm2",
        "FakeForCausalLM",
        "f32 weights",
        "1000 blocks of 16",
        "1 threads",
        "cpu",
        "temperature 0.5 (flags)",
    ):
        assert part in process.said
    process.signal(signal.SIGTERM)
    assert process.status() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_running_answers_may_end(start: Callable[..., Process], number: int) -> None:
    process = start("--h", "127.0.0.1:0", ANSWER="word " * 20)
    with httpx.stream(
        "POST", process.url + "/v1/chat/completions", json={**HELLO, "stream": True}, timeout=20
    ) as reply:
        lines = reply.iter_lines()
        next(lines)
        process.signal(number)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "stop"
    assert process.status() == 0


def test_answers_that_take_too_long_end_with_an_error(start: Callable[..., Process]) -> None:
    process = start("--h", "127.0.0.1:0", "--shutdown-timeout", "0.3", ANSWER="word " * 300)
    began = time.monotonic()
    with httpx.stream(
        "POST", process.url + "/v1/chat/completions", json={**HELLO, "stream": True}, timeout=20
    ) as reply:
        lines = reply.iter_lines()
        next(lines)
        process.signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2][6:])["error"]["code"] == "request_cancelled"
    assert process.status() == 0
    assert time.monotonic() - began < 10


def test_a_second_signal_ends_it_at_once(start: Callable[..., Process]) -> None:
    process = start("--h", "127.0.0.1:0", "--shutdown-timeout", "60", ANSWER="word " * 2000)
    with httpx.stream(
        "POST", process.url + "/v1/chat/completions", json={**HELLO, "stream": True}, timeout=20
    ) as reply:
        next(reply.iter_lines())
        process.signal(signal.SIGINT)
        process.until_said("stopping")
        process.signal(signal.SIGINT)
        assert process.status() == 0


def test_a_signal_while_the_model_loads(start: Callable[..., Process]) -> None:
    process = start("--h", "127.0.0.1:0", "--verbose", LOAD_SECONDS="30")
    process.until_said("listening on .*, loading")
    process.signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.status() == 0
    assert time.monotonic() - began < 10


def test_a_unix_socket(start: Callable[..., Process], tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    left_over = socket.socket(socket.AF_UNIX)
    left_over.bind(str(path))
    left_over.close()
    process = start("serve", "--h", f"unix://{path}")
    process.until_said("serving")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=20) as client:
        assert client.post("http://x/v1/chat/completions", json=HELLO).status_code == 200
    second = start("--h", f"unix://{path}")
    assert second.status() == 1
    assert "another server" in second.said
    process.signal(signal.SIGTERM)
    assert process.status() == 0
    assert not path.exists()


def test_a_port_in_use(start: Callable[..., Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("--h", "127.0.0.1", "--p", str(taken.getsockname()[1]), LOAD_SECONDS="30")
        assert process.status() == 1
    assert "cannot listen on 127.0.0.1" in process.said
    assert "Traceback" not in process.said


def test_a_model_that_cannot_be_loaded(start: Callable[..., Process]) -> None:
    process = start("--h", "127.0.0.1:0", BROKEN="1")
    assert process.status() == 1
    assert "error: tensor 'x' is broken" in process.said
    assert "Traceback" not in process.said


def test_a_block_size_that_the_engine_has_not(start: Callable[..., Process]) -> None:
    process = start("--h", "127.0.0.1:0", "--block-size", "64")
    assert process.status() == 2
    assert "blocks hold 16 tokens" in process.said


def test_logs(start: Callable[..., Process], tmp_path: Path) -> None:
    process = start("--h", "127.0.0.1:0", "--verbose", "--log", cwd=tmp_path)
    httpx.get(process.url + "/health", headers={"x-request-id": "mine"})
    process.until_said(r"\[mine\] .*path=/health status=200")
    process.signal(signal.SIGTERM)
    assert process.status() == 0
    assert "path=/health" in (tmp_path / "candle-vllm.log").read_text()


def test_keys_and_json_lines(start: Callable[..., Process]) -> None:
    process = start("--h", "127.0.0.1:0", "--log-format", "json", CANDLE_VLLM_API_KEY="alice sk-alice")
    url = process.url
    assert httpx.post(url + "/v1/chat/completions", json=HELLO, timeout=20).status_code == 401
    headers = {"Authorization": "Bearer sk-alice", "x-request-id": "mine"}
    assert httpx.post(url + "/v1/chat/completions", json=HELLO, headers=headers, timeout=20).status_code == 200
    process.until_said('"request_id": "mine".*"finish": "stop"')
    (line,) = [json.loads(line) for line in process.said.splitlines() if '"mine"' in line]
    assert (line["logger"], line["level"], line["key"], line["status"]) == ("candle_vllm.access", "info", "alice", 200)
    assert "sk-alice" not in process.said
    assert "hello" not in process.said
    assert "no API key" not in process.said
    (used,) = httpx.get(url + "/v1/usage", headers=headers, timeout=20).json()["data"]
    assert (used["key"], used["requests"]) == ("alice", 1)


def test_a_page_elsewhere_cannot_reach_a_server_at_home(start: Callable[..., Process]) -> None:
    process = start("--h", "127.0.0.1:0", "--allowed-hosts", "api.example")
    for host, status in (("localhost", 200), ("api.example", 200), ("evil.example", 421)):
        assert httpx.get(process.url + "/v1/models", headers={"Host": host}, timeout=20).status_code == status


def test_an_open_door_is_told_of(start: Callable[..., Process]) -> None:
    process = start("--h", "0.0.0.0:0", "--log-level", "warning")
    process.until_said("no API key is set and the server listens on every network")
    assert httpx.get(process.url + "/v1/models", timeout=20).status_code == 200
    assert "path=" not in process.said


def test_a_key_that_is_none(start: Callable[..., Process]) -> None:
    process = start("--h", "127.0.0.1:0", CANDLE_VLLM_API_KEY=" ")
    assert process.status() == 2
    assert "CANDLE_VLLM_API_KEY: there is no API key in it" in process.said
