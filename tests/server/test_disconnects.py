"""A client that goes away frees its work, at whatever stage it is, whichever kind of reply it waited for."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from fake_engine import BLOCKS, FakeEngine

HELLO = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": HELLO,
    "/v1/completions": {"model": "fake", "prompt": "hello", "max_tokens": 2000},
    "/v1/responses": {"model": "fake", "input": "hello"},
}


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def raw_request(live: Any, path: str, body: dict[str, Any]) -> socket.socket:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", live.port))
    connection.sendall(head.encode() + content)
    return connection


def test_a_response_in_the_background_goes_on(live: Any, engine: FakeEngine) -> None:
    engine.delay = 0.01
    body = {**BODIES["/v1/responses"], "background": True, "stream": True}
    connection = raw_request(live, "/v1/responses", body)
    until(lambda: bool(engine.live))
    connection.close()
    time.sleep(0.05)
    assert engine.live
    until(lambda: not engine.live)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("answers", [1, 3])
def test_before_the_first_token(live: Any, engine: FakeEngine, stream: bool, answers: int) -> None:
    engine.gate = asyncio.Event()
    connection = raw_request(live, "/v1/chat/completions", {**HELLO, "stream": stream, "n": answers})
    until(lambda: len(engine.live) == answers)
    connection.close()
    until(lambda: not engine.live)
    assert httpx.get(live.url + "/ready").json()["engine"]["kv_blocks_free"] == BLOCKS


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_between_tokens(live: Any, engine: FakeEngine, path: str, stream: bool) -> None:
    engine.answer, engine.delay = "word " * 2000, 0.01
    body = BODIES[path]
    connection = raw_request(live, path, {**body, "stream": stream})
    if stream:
        received = b""
        while received.count(b"data: ") < 5:
            received += connection.recv(4096)
    until(lambda: bool(engine.live))
    connection.close()
    until(lambda: not engine.live)


def test_while_the_prompt_is_prepared(live: Any, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    encode = engine.tokenize

    def slow(text: str, add_special_tokens: bool = False) -> list[int]:
        begun.set()
        go_on.wait(10)
        return encode("short", add_special_tokens)

    monkeypatch.setattr(engine, "tokenize", slow)
    long = [{"role": "user", "content": "x" * 20_000}]
    connection = raw_request(live, "/v1/chat/completions", {**HELLO, "messages": long, "stream": True})
    assert begun.wait(5)
    connection.close()
    time.sleep(0.1)
    go_on.set()
    assert httpx.get(live.url + "/health").status_code == 200
    time.sleep(0.1)
    assert not engine.submitted


def test_half_of_many_streams(live: Any, engine: FakeEngine) -> None:
    engine.delay = 0.002
    many = 64

    async def read(client: httpx.AsyncClient, number: int, leave: bool) -> str:
        body = {"model": "fake", "messages": [{"role": "user", "content": f"client {number} " * 20}], "stream": True}
        said = ""
        async with client.stream("POST", live.url + "/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if not line or line == "data: [DONE]":
                    continue
                said += str(json.loads(line[6:])["choices"][0]["delta"].get("content", ""))
                if leave and len(said) > 30:
                    return said
        return said

    async def all_of_them() -> list[str]:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
            return await asyncio.gather(*(read(client, number, number % 2 == 0) for number in range(many)))

    said = asyncio.run(all_of_them())
    for number, text in enumerate(said):
        whole = "You said: " + f"client {number} " * 20
        assert whole.startswith(text) if number % 2 == 0 else text == whole
    until(lambda: httpx.get(live.url + "/ready").json()["engine"]["kv_blocks_free"] == BLOCKS)
