"""Requests whose model is not there: they wait within bounds, hear of it, and are told when it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from candle_vllm.errors import ModelLoadError
from candle_vllm.models import ModelManager
from candle_vllm.server import create_app
from models.fakes import Loader, Seen, catalog, managed, until
from responses_facts import check

HELLO = {"model": "a", "messages": [{"role": "user", "content": "hello"}]}
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


@asynccontextmanager
async def served(
    loader: Loader, *names: str, request_timeout: float | None = None, **options: Any
) -> AsyncIterator[tuple[ModelManager, httpx.AsyncClient]]:
    """A manager, and a client of an application over it, without a network."""
    async with managed(loader, catalog(*(names or ("a",))), **options) as manager:
        app = create_app(manager, request_timeout=request_timeout)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=20) as http:
            yield manager, http


def post(http: httpx.AsyncClient, stream: bool = False, headers: dict[str, str] | None = None) -> Any:
    """A chat under way."""
    return asyncio.create_task(http.post(CHAT, json={**HELLO, "stream": stream}, headers=headers))


def chunks(reply: httpx.Response) -> list[dict[str, Any]]:
    """What a stream held."""
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_waiting_requests_are_answered_when_the_model_is_there() -> None:
    loader = Loader()
    loader.hold("load a")
    async with served(loader) as (manager, http):
        waiting = [post(http, stream) for stream in (False, True)]
        await until(lambda: manager.status().queue_lengths["a"] == 2)
        loader.release("load a")
        assert [reply.status_code for reply in await asyncio.gather(*waiting)] == [200, 200]


@pytest.mark.parametrize("size", [0, 2])
async def test_a_full_queue(size: int) -> None:
    loader = Loader()
    loader.hold("load a")
    async with served(loader, queue_size=size) as (manager, http):
        waiting = [post(http, stream=bool(number)) for number in range(size)]
        await until(lambda: manager.status().queue_lengths["a"] == size)
        for stream in (False, True):
            reply = await post(http, stream)
            assert reply.status_code == 503
            assert int(reply.headers["retry-after"]) > 0
            error = reply.json()["error"]
            assert (error["type"], error["code"], error["queued"]) == ("server_busy", "queue_full", False)
        if size:
            loader.release("load a")
        assert [reply.status_code for reply in await asyncio.gather(*waiting)] == [200] * size


async def test_waiting_too_long() -> None:
    loader = Loader()
    loader.hold("load a")
    async with served(loader, request_timeout=0.05) as (_manager, http):
        streaming = post(http, stream=True)
        reply = await post(http)
        assert (reply.status_code, int(reply.headers["retry-after"]) > 0) == (503, True)
        error = reply.json()["error"]
        assert (error["type"], error["code"], error["queued"]) == ("server_busy", "timeout", True)
        assert "for the model 'a', which is not ready yet" in error["message"]
        assert not streaming.done()
        loader.release("load a")
        assert (await streaming).status_code == 200


async def test_the_request_says_how_long_it_waits() -> None:
    loader = Loader()
    loader.hold("load a")
    async with served(loader, request_timeout=0.02) as (_manager, http):
        patient = post(http, headers={"X-Request-Timeout": "20"})
        hurried = post(http, stream=True, headers={"x-request-timeout": "0.1"})
        await post(http)
        assert not patient.done()
        # The stream had begun, and tells of its end in the stream.
        assert chunks(await hurried)[-1]["error"]["queued"] is True
        loader.release("load a")
        assert (await patient).status_code == 200
        for value in ("soon", "-1", "nan", "inf", "1e9", ""):
            refused = await post(http, headers={"X-Request-Timeout": value})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "X-Request-Timeout")
        # What is there needs no waiting.
        assert (await post(http, headers={"X-Request-Timeout": "0"})).status_code == 200


async def test_a_stream_hears_how_it_waits() -> None:
    loader = Loader()
    for step in ("load a", "load b"):
        loader.hold(step)
    async with served(loader, "a", "b", interval=0.02) as (manager, http):
        first = post(http, stream=True)
        await until(lambda: manager.status().state == "loading")
        second = asyncio.create_task(http.post(TEXT, json={"model": "b", "prompt": "x", "stream": True}))
        await until(lambda: manager.status().queue_lengths["b"] == 1)
        await asyncio.sleep(0.1)
        loader.release("load a")
        await first
        await until(lambda: "load b" in loader.log)
        loader.release("load b")
        for reply, last, name in ((await first, "loading", "a"), (await second, "loading", "b")):
            heard: list[Any] = [chunk.get("candle_metadata") for chunk in chunks(reply)]
            statuses = [one["status"] for one in heard if one]
            assert statuses[-2:] == [last, "processing"]
            assert {one["model"] for one in heard if one} == {name}
            assert heard[0] == {"status": heard[0]["status"], "position": 1, "model": name, "eta_ms": None}
            # Never once the answer has begun.
            assert not any(heard[len(statuses) :])
            for chunk in chunks(reply)[: len(statuses)]:
                (choice,) = chunk["choices"]
                assert choice["finish_reason"] is None
                assert choice.get("delta", {}) == {} and choice.get("text", "") == ""
        assert heard[0]["status"] == "queued"


async def test_a_stream_that_does_not_want_to_hear() -> None:
    loader = Loader()
    loader.hold("load a")
    async with served(loader, interval=0.01) as (manager, http):
        quiet = post(http, stream=True, headers={"X-Status-Chunks": "off"})
        await until(lambda: manager.status().queue_lengths["a"] == 1)
        await asyncio.sleep(0.05)
        loader.release("load a")
        reply = await quiet
        assert "candle_metadata" not in reply.text
        assert chunks(reply)[0]["choices"][0]["delta"]["role"] == "assistant"


async def test_a_long_prefill_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("candle_vllm.server.streams._STATUS", 0.02)
    loader = Loader()
    async with served(loader) as (manager, http):
        await manager.activate()
        loader.engines["a"].gate.clear()
        slow = post(http, stream=True)
        await until(lambda: manager.status().in_flight_requests == 1)
        await asyncio.sleep(0.15)
        loader.engines["a"].gate.set()
        heard = chunks(await slow)
        first_text = next(at for at, chunk in enumerate(heard) if chunk["choices"][0]["delta"].get("content"))
        told = [at for at, chunk in enumerate(heard) if "candle_metadata" in chunk]
        assert told and max(told) < first_text
        assert heard[told[0]]["candle_metadata"] == {
            "status": "processing",
            "position": 0,
            "model": "a",
            "eta_ms": None,
        }


async def test_a_model_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader()
    loader.hold("load a")
    loader.broken["load a"] = ModelLoadError("tensor 'x' is broken")
    async with served(loader, "a", "b") as (_manager, http):
        waiting = [post(http), post(http, stream=True)]
        await until(lambda: "load a" in loader.log)
        loader.release("load a")
        whole, stream = await asyncio.gather(*waiting)
        assert whole.status_code == 503
        for error in (whole.json()["error"], chunks(stream)[-1]["error"]):
            assert error["code"] == "model_load_failed"
            assert "tensor 'x' is broken" in error["message"]
        # The server goes on, with others and, after a while, with this one.
        assert (await http.post(CHAT, json={**HELLO, "model": "b"})).status_code == 200
        again = await post(http)
        assert (again.status_code, again.json()["error"]["code"]) == (503, "model_load_failed")
        assert int(again.headers["retry-after"]) > 0
        del loader.broken["load a"]
        monkeypatch.setattr("candle_vllm.models.turn._LONGEST_PAUSE", 0.0)
        assert (await post(http)).status_code == 200


async def test_an_unknown_model_does_not_wait() -> None:
    async with served(Loader()) as (_manager, http):
        assert (await http.post(CHAT, json={**HELLO, "model": "other"})).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_fails_costs_its_request_and_is_loaded_anew(stream: bool) -> None:
    loader = Loader()
    async with served(loader) as (manager, http):
        await manager.activate()
        broken = loader.engines["a"]
        broken.failure, broken.fail_after = "the device caught fire", 2
        reply = await post(http, stream)
        assert "the device caught fire" in reply.text
        await until(lambda: manager.status().state == "error")
        assert (await post(http, stream)).status_code == 200
        assert loader.log.count("load a") == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_gives_its_place_up(stream: bool) -> None:
    loader, seen = Loader(), Seen()
    loader.hold("load a")
    async with served(loader, observer=seen) as (manager, http):
        leaving = post(http, stream)
        await until(lambda: manager.status().queue_lengths["a"] == 1)
        leaving.cancel()
        await until(lambda: manager.status().queue_lengths["a"] == 0)
        loader.release("load a")
        await until(lambda: manager.status().state == "ready")
        assert manager.status().in_flight_requests == 0
        assert ("cancelled", "a", "loading") in seen.told


async def test_a_response_that_waits_is_queued() -> None:
    loader = Loader()
    loader.hold("load a")
    asked = {"model": "a", "input": "hello", "stream": True}
    async with served(loader, interval=0.02) as (manager, http):
        patient = asyncio.create_task(http.post(RESPONSES, json=asked))
        hurried = asyncio.create_task(http.post(RESPONSES, json=asked, headers={"X-Request-Timeout": "0.1"}))
        await until(lambda: manager.status().queue_lengths["a"] == 2)
        failed = check(events(await hurried))
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert "for the model 'a', which is not ready yet" in failed["error"]["message"]
        begun = (await http.post(RESPONSES, json={**asked, "stream": False, "background": True})).json()
        await asyncio.sleep(0.05)
        assert (await http.get(f"{RESPONSES}/{begun['id']}")).json()["status"] == "queued"
        loader.release("load a")
        told = events(await patient)
        assert check(told)["status"] == "completed"
        waits = [event for event in told if event["type"] == "response.queued"]
        assert waits[0]["response"]["candle_metadata"]["model"] == "a"
        assert waits[-1]["response"]["candle_metadata"]["status"] == "processing"
        assert not any(
            "candle_metadata" in event["response"] for event in told if event not in waits and "response" in event
        )
        for _ in range(500):
            made = (await http.get(f"{RESPONSES}/{begun['id']}")).json()
            if made["status"] == "completed":
                break
            await asyncio.sleep(0.01)
        assert made["status"] == "completed"


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    """What a stream of a response held."""
    blocks = [block for block in reply.text.split("\n\n") if block.startswith("event: ")]
    return [json.loads(block.split("\ndata: ")[1]) for block in blocks]


async def test_a_response_goes_on_with_another_model() -> None:
    async with served(Loader(), "a", "b") as (_manager, http):
        first = (await http.post(RESPONSES, json={"model": "a", "input": "one"})).json()
        asked = {"model": "b", "input": "two", "previous_response_id": first["id"]}
        second = (await http.post(RESPONSES, json=asked)).json()
        assert (first["model"], second["model"], second["status"]) == ("a", "b", "completed")
        items = (await http.get(f"{RESPONSES}/{second['id']}/input_items?order=asc")).json()["data"]
        assert [item["role"] for item in items] == ["user", "assistant", "user"]
        assert items[1]["id"] == first["output"][0]["id"]
        missing = await http.post(RESPONSES, json={**asked, "model": "c"})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
