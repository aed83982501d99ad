"""The end of a real server over a real engine: it drains, then it ends; nothing hangs, nothing is cut off silently."""

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


class Server:
    """`candle-vllm serve` in a process of its own; `said` is its standard error so far."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "candle_vllm", "serve", "--h", "127.0.0.1:0", "--dtype", "f32", *flags],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.said = ""
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(self.until(r"serving +http://127.0.0.1:(\d+)/v1")[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a line."""
        end = time.monotonic() + 60
        while (found := re.search(pattern, self.said)) is None:
            assert time.monotonic() < end, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.02)
        return found


@pytest.fixture
def start(endless_model_path: Path) -> Iterator[Callable[..., Server]]:
    """`start(*flags)` runs a server over a model whose answers need not end."""
    running: list[Server] = []

    def run(*flags: str) -> Server:
        running.append(Server("--w", str(endless_model_path), "--mem", "64", *flags))
        return running[-1]

    yield run
    for server in running:
        server.process.kill()
        server.process.wait(10)
        assert server.process.stderr is not None
        server.process.stderr.close()


def question(tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True}


class Stream(threading.Thread):
    """One client that reads its stream to the end; `lines` are its events, without the `data: `."""

    def __init__(self, url: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self._url, self._tokens = url, tokens
        self.lines: list[str] = []
        self.started = threading.Event()

    def run(self) -> None:
        body = question(self._tokens)
        with httpx.stream("POST", self._url + "/chat/completions", json=body, timeout=60) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    self.lines.append(line.removeprefix("data: "))
                    self.started.set()


def streams(server: Server, count: int, tokens: int) -> list[Stream]:
    running = [Stream(server.url, tokens) for _ in range(count)]
    for one in running:
        one.start()
    for one in running:
        assert one.started.wait(30)
    return running


def test_running_answers_end_by_themselves_and_no_one_comes_in(start: Callable[..., Server]) -> None:
    server = start("--shutdown-timeout", "30")
    running = streams(server, 4, 400)
    server.process.send_signal(signal.SIGTERM)
    server.until("stopping")
    refused = time.monotonic() + 5
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
        except ConnectionRefusedError:
            break
        assert time.monotonic() < refused
        time.sleep(0.02)
    for one in running:
        one.join(60)
        assert one.lines[-1] == "[DONE]"
        assert json.loads(one.lines[-2])["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(30) == 0


def test_answers_without_end_are_told_of_it(start: Callable[..., Server]) -> None:
    server = start("--shutdown-timeout", "0.5")
    running = streams(server, 20, 60_000)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    for one in running:
        one.join(30)
        assert one.lines[-1] == "[DONE]"
        assert json.loads(one.lines[-2])["error"]["code"] == "request_cancelled"
    assert server.process.wait(30) == 0
    assert time.monotonic() - began < 20
    assert "Traceback" not in server.said


def test_what_runs_in_the_background_ends_with_the_server(start: Callable[..., Server]) -> None:
    server = start("--shutdown-timeout", "30")
    asked = {"input": "hi", "background": True}
    made = httpx.post(server.url + "/responses", json=asked).json()
    end = time.monotonic() + 20
    while httpx.get(f"{server.url}/responses/{made['id']}").json()["status"] == "queued":
        assert time.monotonic() < end
        time.sleep(0.02)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(25) == 0
    assert time.monotonic() - began < 20
    assert "Traceback" not in server.said and "was never" not in server.said
