"""Requests through the door to an application behind it: the same bytes, and what is told where it is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from candle_vllm.ray.asgi import Door, LostError, Messages, run_app
from candle_vllm.server import create_app
from fake_engine import FakeEngine

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Behind:
    """The application, and a door to it; lost `after` so many lists of messages."""

    def __init__(self, after: int | None = None) -> None:
        self.engine = FakeEngine()
        self.app = create_app(self.engine)
        self.keys: list[Sequence[bytes]] = []
        self.after = after
        self.door = Door(self.forward, 10_000)

    async def forward(self, keys: Sequence[bytes], head: dict[str, Any], body: bytes) -> AsyncIterator[Messages]:
        self.keys.append(keys)
        at = 0
        async for messages in run_app(self.app, head, body):
            for message in messages:
                if at == self.after:
                    raise LostError("The replica is gone.")
                at += 1
                yield [message]

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.door), base_url="http://door")


async def test_replies_are_the_application_s() -> None:
    behind = Behind()
    direct = httpx.AsyncClient(transport=httpx.ASGITransport(behind.app), base_url="http://door")
    async with behind.client() as client, direct:
        for method, path, body in (
            ("POST", "/v1/chat/completions", CHAT),
            ("POST", "/v1/chat/completions", {**CHAT, "temperature": 9}),
            ("GET", "/v1/models", None),
            ("GET", "/nothing?x=1", None),
        ):
            found = await client.request(method, path, json=body)
            expected = await direct.request(method, path, json=body)
            assert found.status_code == expected.status_code
            assert set(found.headers) == set(expected.headers)
            kept = [{k: v for k, v in one.json().items() if k not in ("id", "created")} for one in (found, expected)]
            assert kept[0] == kept[1]
    assert behind.keys[0] and not behind.keys[2]


async def test_streams_come_as_they_are_made() -> None:
    behind = Behind()
    async with behind.client() as client:
        reply = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    lines = [line for line in reply.text.splitlines() if line]
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"
    said = [json.loads(line.removeprefix("data: "))["choices"] for line in lines[:-1]]
    assert "".join(choice["delta"].get("content") or "" for [choice] in said if choice) == "You said: hello"


@pytest.mark.parametrize("after", [0, 1])
async def test_lost_before_there_is_a_word_is_a_503_to_send_again(after: int) -> None:
    async with Behind(after).client() as client:
        reply = await client.post("/v1/chat/completions", json=CHAT)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert reply.json()["error"]["code"] == "replica_lost"


async def test_lost_within_a_stream_is_its_last_event() -> None:
    async with Behind(4).client() as client:
        reply = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert reply.status_code == 200
    *_, kind, data = [line for line in reply.text.splitlines() if line]
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert "[DONE]" not in reply.text


async def test_a_failed_engine_is_a_503_to_send_again() -> None:
    behind = Behind()
    behind.engine.closed = True
    async with behind.client() as client:
        reply = await client.post("/v1/chat/completions", json=CHAT)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_failed")
    assert reply.headers["retry-after"] == "1"


async def test_a_body_too_large_is_not_forwarded() -> None:
    behind = Behind()
    async with behind.client() as client:
        reply = await client.post("/v1/chat/completions", content=b"x" * 10_001)
    assert (reply.status_code, behind.keys) == (413, [])


async def test_closing_ends_the_work() -> None:
    behind = Behind()
    behind.engine.delay = 60
    body = json.dumps({**CHAT, "stream": True}).encode()
    head = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"door")],
        "client": ("127.0.0.1", 1),
        "server": ("door", 80),
        "scheme": "http",
        "http_version": "1.1",
    }
    stream = run_app(behind.app, head, body)
    reading = asyncio.ensure_future(anext(stream))
    while not behind.engine.live:  # noqa: ASYNC110 - the fake engine tells nobody
        await asyncio.sleep(0.001)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await stream.aclose()
    assert not behind.engine.live


async def test_its_life_is_its_own() -> None:
    told = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    said: list[str] = []

    async def receive() -> Any:
        return told.pop(0)

    async def send(message: Any) -> None:
        said.append(message["type"])

    await Behind().door({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
