"""Requests that come while the model loads: they wait, within bounds, and are told when it fails."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from candle_vllm.models import LoadedModel
from candle_vllm.models.slot import ModelSlot
from candle_vllm.server import create_app
from fake_engine import FakeEngine

HELLO = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


def client(slot: ModelSlot) -> httpx.AsyncClient:
    """A client of an application over this slot, without a network."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(slot)), base_url="http://x", timeout=20)


async def waiters(slot: ModelSlot, count: int) -> None:
    """Wait until so many requests wait."""
    async with asyncio.timeout(10):
        for _ in iter(lambda: slot.status().queue_lengths["fake"] < count, False):
            await asyncio.sleep(0.01)


def model() -> LoadedModel:
    """What the slot is waiting for."""
    return LoadedModel.over(FakeEngine(), names=["fake"])


async def test_waiting_requests_are_answered_when_the_model_is_there() -> None:
    slot = ModelSlot(["fake"])
    async with client(slot) as http:
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()["state"]) == (503, "loading")
        waiting = [
            asyncio.create_task(http.post("/v1/chat/completions", json={**HELLO, "stream": stream}))
            for stream in (False, True)
        ]
        await waiters(slot, 2)
        slot.set_ready(model())
        assert [reply.status_code for reply in await asyncio.gather(*waiting)] == [200, 200]
        assert (await http.get("/ready")).json()["state"] == "ready"
        assert (await http.get("/v1/models")).json()["data"][0]["id"] == "fake"


@pytest.mark.parametrize("size", [0, 2])
async def test_a_full_queue(size: int) -> None:
    slot = ModelSlot(["fake"], queue_size=size)
    async with client(slot) as http:
        waiting = [asyncio.create_task(http.post("/v1/chat/completions", json=HELLO)) for _ in range(size)]
        await waiters(slot, size)
        reply = await http.post("/v1/chat/completions", json=HELLO)
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) > 0
        error = reply.json()["error"]
        assert (error["type"], error["queued"]) == ("server_busy", False)
        slot.set_ready(model())
        await asyncio.gather(*waiting)


async def test_waiting_too_long() -> None:
    slot = ModelSlot(["fake"], timeout=0.05)
    async with client(slot) as http:
        streaming = asyncio.create_task(http.post("/v1/chat/completions", json={**HELLO, "stream": True}))
        reply = await http.post("/v1/chat/completions", json=HELLO)
        assert reply.status_code == 503
        assert reply.json()["error"]["queued"] is True
        assert not streaming.done()
        slot.set_ready(model())
        assert (await streaming).status_code == 200


async def test_a_model_that_cannot_be_loaded() -> None:
    slot = ModelSlot(["fake"])
    async with client(slot) as http:
        waiting: Any = asyncio.create_task(http.post("/v1/chat/completions", json=HELLO))
        await waiters(slot, 1)
        slot.set_failed("tensor 'x' is broken")
        for reply in (await waiting, await http.post("/v1/chat/completions", json=HELLO)):
            assert reply.status_code == 503
            assert "tensor 'x' is broken" in reply.json()["error"]["message"]
        assert (await http.get("/ready")).json()["error"] == "tensor 'x' is broken"


async def test_an_unknown_model_does_not_wait() -> None:
    async with client(ModelSlot(["fake"])) as http:
        assert (await http.post("/v1/chat/completions", json={**HELLO, "model": "other"})).status_code == 404
