"""A server that has more to do than it can: bounds on what waits for a loaded model, and clients that are sent away.

The clients are OpenAI's own, as they come: what they do of themselves is what users see.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

import openai
from candle_vllm.models import ModelManager, SingleModel, Waiting
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.server import create_app
from fake_engine import FakeEngine
from models.fakes import Loader, Seen, catalog, until

CHAT = "/v1/chat/completions"
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
HELLO: dict[str, Any] = {"model": "fake", "messages": MESSAGES}


class Slow(FakeEngine):
    """An engine of 2 places whose answers begin when the gate opens."""

    @property
    def model_info(self) -> Any:
        return replace(super().model_info, max_batch_size=2)


def bounded(**bounds: Any) -> tuple[Slow, httpx.AsyncClient]:
    """The engine with its gate closed, and a client of a server over it."""
    engine = Slow()
    engine.gate.clear()
    app = create_app(SingleModel(engine, waiting=Waiting(**bounds)))
    return engine, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=20)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_what_waits_is_bounded_for_streams_and_whole_replies_and_any_n(stream: bool, n: int) -> None:
    engine, http = bounded(sequences=6)
    async with http:
        body = {**HELLO, "stream": stream, "n": n}
        under_way = [asyncio.create_task(http.post(CHAT, json=body)) for _ in range(6 // n + 2 // n)]
        await until(lambda: len(engine.live) >= 6)
        refused = await asyncio.gather(*(http.post(CHAT, json={**body, "stream": s, "n": 4}) for s in (False, True)))
        for reply in refused:
            assert (reply.status_code, int(reply.headers["retry-after"]) > 0) == (503, True)
            error = reply.json()["error"]
            assert (error["type"], error["code"], error["queued"]) == ("server_busy", "queue_full", False)
        assert len(engine.live) == n * len(under_way)
        engine.gate.set()
        assert {reply.status_code for reply in await asyncio.gather(*under_way)} == {200}
        assert (await http.post(CHAT, json={**body, "n": 8})).status_code == 200
        assert not engine.live


@pytest.mark.parametrize("stream", [False, True])
async def test_what_waits_is_bounded_in_tokens_too(stream: bool) -> None:
    engine, http = bounded(tokens=700)
    async with http:
        body = {**HELLO, "messages": [{"role": "user", "content": "x" * 300}], "stream": stream}
        under_way = [asyncio.create_task(http.post(CHAT, json=body)) for _ in range(3)]
        await until(lambda: len(engine.live) >= 2)
        reply = await http.post(CHAT, json=body)
        assert reply.status_code == 503
        assert "prompt tokens wait" in reply.json()["error"]["message"]
        engine.gate.set()
        await asyncio.gather(*under_way)


async def test_a_thousand_may_wait() -> None:
    engine, http = bounded(sequences=1024)
    async with http:
        asked = [{**HELLO, "messages": [{"role": "user", "content": f"number {at}"}]} for at in range(1000)]
        under_way = [asyncio.create_task(http.post(CHAT, json=body)) for body in asked]
        await until(lambda: len(engine.live) == 1000)
        engine.gate.set()
        replies = await asyncio.gather(*under_way)
        said = [reply.json()["choices"][0]["message"]["content"] for reply in replies]
        assert said == [f"You said: number {at}" for at in range(1000)]


class Switching:
    """A live server over two models, whose loader the test drives from its own thread."""

    def __init__(self, serve: Callable[..., Any], **options: Any) -> None:
        self.loader = Loader()
        self.manager = ModelManager(catalog("a", "b"), self.loader.load, fetch=self.loader.fetch, **options)
        self.url = serve(create_app(self.manager)).url

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)

    def later(self, condition: Callable[[], object], act: Callable[[], None]) -> threading.Thread:
        """Do this once that is so."""

        def wait() -> None:
            self.until(condition)
            act()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread


@pytest.fixture
def switching(serve: Callable[..., Any]) -> Callable[..., Switching]:
    return lambda **options: Switching(serve, **options)


def test_the_sync_client_through_a_load_and_a_switch(switching: Callable[..., Switching]) -> None:
    server = switching(interval=0.02)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        for name in "ab":
            pieces = []
            for chunk in client.chat.completions.create(model=name, messages=MESSAGES, stream=True):
                assert chunk.object == "chat.completion.chunk"
                assert len(chunk.choices) == 1
                pieces.append(chunk.choices[0].delta.content or "")
            assert "".join(pieces) == "You said: hello"
        whole = client.chat.completions.create(model="a", messages=MESSAGES)
        assert whole.choices[0].message.content == "You said: hello"
        with client.chat.completions.stream(model="b", messages=MESSAGES) as stream:
            assert stream.get_final_completion().choices[0].message.content == "You said: hello"
        text = "".join(chunk.choices[0].text for chunk in client.completions.create(model="a", prompt="x", stream=True))
        assert text == "You said: x"
        assert [model.id for model in client.models.list()] == ["a", "b"]


async def through_a_switch(url: str) -> list[str]:
    """Sixteen streams of two models at once."""
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:

        async def one(at: int) -> str:
            question: list[Any] = [{"role": "user", "content": f"number {at}"}]
            pieces = await client.chat.completions.create(model="ab"[at % 2], messages=question, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in pieces])

        return await asyncio.gather(*(one(at) for at in range(16)))


def test_the_async_client_through_a_switch(switching: Callable[..., Switching]) -> None:
    server = switching(interval=0.02, queue_size=16)
    assert asyncio.run(through_a_switch(server.url)) == [f"You said: number {at}" for at in range(16)]


def test_the_client_hears_that_the_queue_is_full_and_tries_again(switching: Callable[..., Switching]) -> None:
    seen = Seen()
    server = switching(queue_size=1, observer=seen)
    server.loader.hold("load a")
    ask: Any = {"model": "a", "messages": MESSAGES}
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none") as client:
        first = threading.Thread(target=lambda: client.chat.completions.create(**ask))
        first.start()
        server.until(lambda: server.manager.status().queue_lengths["a"] == 1)
        with pytest.raises(openai.InternalServerError) as refused:
            client.with_options(max_retries=0).chat.completions.create(**ask)
        assert refused.value.status_code == 503
        told = int(refused.value.response.headers["retry-after"])
        body: Any = refused.value.body
        assert (told > 0, body["type"], body["queued"]) == (True, "server_busy", False)
        # Of itself the client waits as it was told, and then is served.
        full = ("rejected", "a", "queue_full")
        release = server.later(lambda: seen.told.count(full) == 2, lambda: server.loader.release("load a"))
        began = time.monotonic()
        raw = client.chat.completions.with_raw_response.create(**ask)
        assert raw.parse().choices[0].message.content == "You said: hello"
        assert (raw.retries_taken, time.monotonic() - began >= told) == (1, True)
        first.join()
        release.join()


def test_the_blocking_adapter_over_models_in_turns() -> None:
    loader = Loader()
    manager = ModelManager(catalog("a", "b"), loader.load, fetch=loader.fetch, queue_size=16)
    with OpenAIAdapter(manager) as adapter:
        said: dict[int, str | None] = {}

        def ask(at: int) -> None:
            question = [{"role": "user", "content": f"number {at}"}]
            whole = adapter.chat_completion({"model": "ab"[at % 2], "messages": question})
            said[at] = whole.choices[0].message.content

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said == {at: f"You said: number {at}" for at in range(16)}
        ask(1)
        waits = [
            chunk.candle_metadata.status
            for chunk in adapter.chat_completion_stream({"model": "a", "messages": MESSAGES})
            if chunk.candle_metadata is not None
        ]
        assert waits[-1] == "processing"
