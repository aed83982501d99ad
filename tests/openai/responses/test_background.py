"""Responses in the background over a real server: polled, followed, cancelled, deleted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

import openai
from candle_vllm.server import create_app
from fake_engine import FakeEngine
from live_server import LiveServer
from responses_facts import check


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def live(engine: FakeEngine, serve: Callable[..., LiveServer]) -> LiveServer:
    return serve(create_app(engine, model_names=["fake"]))


@pytest.fixture
async def client(live: LiveServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


async def ended(client: openai.AsyncOpenAI, name: str) -> Any:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        response = await client.responses.retrieve(name)
        if response.status not in ("queued", "in_progress"):
            return response
        await asyncio.sleep(0.01)
    raise AssertionError("it did not end in time")


async def test_polled(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.delay = 0.01
    begun = await client.responses.create(model="fake", input="hello", background=True)
    assert (begun.status, begun.background, begun.output_text) == ("queued", True, "")
    with pytest.raises(openai.BadRequestError, match="under way"):
        await client.responses.create(model="fake", input="x", previous_response_id=begun.id)
    done = await ended(client, begun.id)
    assert (done.status, done.output_text, done.usage.output_tokens) == ("completed", "You said: hello", 16)
    after = await client.responses.create(model="fake", input="more", previous_response_id=begun.id)
    assert after.output_text == "You said: more"
    assert engine.detokenize(engine.submitted[-1][0]).startswith("user\nhello\nassistant\nYou said: hello\nuser\nmore")


async def test_followed_from_anywhere_by_anyone(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.delay = 0.02
    first: list[Any] = []
    async for event in await client.responses.create(model="fake", input="hello", background=True, stream=True):
        first.append(event)
        if len(first) == 8:
            break
    name = first[0].response.id
    assert engine.live, "who leaves ends nothing"
    rest = [
        event
        async for event in await client.responses.retrieve(name, stream=True, starting_after=first[-1].sequence_number)
    ]
    everything = [event.to_dict() for event in [*first, *rest]]
    assert check(everything)["output"][0]["content"][0]["text"] == "You said: hello"
    again = [event.to_dict() async for event in await client.responses.retrieve(name, stream=True)]
    assert again == everything
    async with client.responses.stream(response_id=name, starting_after=4) as resumed:
        assert [event.sequence_number async for event in resumed][:2] == [5, 6]
        assert (await resumed.get_final_response()).output_text == "You said: hello"
    last = await client.responses.retrieve(name, stream=True, starting_after=len(again) - 2)
    assert [event.type async for event in last] == ["response.completed"]
    assert [event async for event in await client.responses.retrieve(name, stream=True, starting_after=999)] == []


async def test_cancelled(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.answer, engine.delay = "word " * 300, 0.01
    stream = await client.responses.create(model="fake", input="hello", background=True, stream=True)
    kinds = []
    async for event in stream:
        kinds.append(event.type)
        if event.type == "response.created":
            name = event.response.id
        if len(kinds) == 12:
            cancelled = await client.responses.cancel(name)
            assert cancelled.status == "cancelled"
            assert not engine.live
    assert kinds[-1] == "response.output_text.delta"
    found = await client.responses.retrieve(name)
    assert found.status == "cancelled"
    assert engine.answer.startswith(found.output_text) and found.output_text
    assert found.output[0].status == "incomplete"  # type: ignore[union-attr]
    assert (await client.responses.cancel(name)).status == "cancelled"
    whole = await client.responses.create(model="fake", input="hello", max_output_tokens=3)
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        await client.responses.cancel(whole.id)


async def test_failed(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.fail_after = 3
    begun = await client.responses.create(model="fake", input="hello", background=True)
    failed = await ended(client, begun.id)
    assert failed.status == "failed"
    assert failed.error.code == "server_error"
    assert "caught fire" in failed.error.message
    engine.fail_after = None
    engine.context = 20
    begun = await client.responses.create(model="fake", input="hello " * 9, background=True, stream=False)
    failed = await ended(client, begun.id)
    assert (failed.status, failed.error.code) == ("failed", "invalid_prompt")


async def test_deleted(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.gate = asyncio.Event()
    begun = await client.responses.create(model="fake", input="hello", background=True)
    await client.responses.delete(begun.id)
    assert not engine.live
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(begun.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(begun.id)


async def test_no_more_than_a_bound(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.gate = asyncio.Event()
    engine.batch = 1000
    for _ in range(256):
        await client.responses.create(model="fake", input="hello", background=True)
    with pytest.raises(openai.InternalServerError) as refusal:
        await client.responses.create(model="fake", input="hello", background=True)
    assert refusal.value.status_code == 503
    assert refusal.value.code == "queue_full"


def test_only_what_was_begun_so_streams_again(live: LiveServer) -> None:
    whole = httpx.post(live.url + "/v1/responses", json={"model": "fake", "input": "x"}).json()
    polled = httpx.post(live.url + "/v1/responses", json={"model": "fake", "input": "x", "background": True}).json()
    for made in (whole, polled):
        reply = httpx.get(f"{live.url}/v1/responses/{made['id']}?stream=true")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "stream")
    reply = httpx.get(f"{live.url}/v1/responses/{whole['id']}?starting_after=3")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "starting_after")
    assert json.loads(httpx.get(f"{live.url}/v1/responses/{whole['id']}").text) == whole
