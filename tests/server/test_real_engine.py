"""The server over the real engine: a tiny golden model, and SmolLM2 for what a reference says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import openai
from candle_vllm import InferenceEngine
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.server import create_app

MANY = 64


def question(number: int) -> list[Any]:
    """A conversation unlike any other number's."""
    return [{"role": "user", "content": f"{number} " * (number % 7 + 1)}]


def free_blocks(live: Any) -> tuple[int, int, int]:
    """Free blocks, all blocks, and requests under way, as /ready tells."""
    engine = httpx.get(live.url + "/ready").json()["engine"]
    return engine["kv_blocks_free"], engine["kv_blocks_total"], engine["running"] + engine["waiting"]


def until_idle(live: Any, seconds: float = 5.0) -> None:
    """Wait until every block is free and nothing is under way."""
    end = time.monotonic() + seconds
    while (state := free_blocks(live))[0] != state[1] or state[2]:
        assert time.monotonic() < end, state
        time.sleep(0.01)


@pytest.fixture
def tiny_server(tiny: Callable[..., InferenceEngine], serve: Callable[..., Any]) -> Any:
    """A server over the tiny model under the name ``tiny``."""
    return serve(create_app(tiny(max_batch_size=16), model_names=["tiny"]))


def test_64_streams_complete_in_order_and_none_mixed_up(tiny_server: Any) -> None:
    options: dict[str, Any] = {"model": "tiny", "max_tokens": 24, "temperature": 1.0, "logprobs": True}

    async def one(client: openai.AsyncOpenAI, number: int) -> tuple[str, list[float], str | None]:
        stream = await client.chat.completions.create(messages=question(number), seed=number, stream=True, **options)
        text, values, finish = "", [], None
        async for chunk in stream:
            choice = chunk.choices[0]
            text += choice.delta.content or ""
            if choice.logprobs:
                values += [entry.logprob for entry in choice.logprobs.content or []]
            finish = choice.finish_reason or finish
        return text, values, finish

    async def all_of_them() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=tiny_server.url + "/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(MANY)))

    streamed = asyncio.run(all_of_them())
    with openai.OpenAI(base_url=tiny_server.url + "/v1", api_key="none", max_retries=0) as client:
        for number in range(0, MANY, 5):
            alone = client.chat.completions.create(messages=question(number), seed=number, **options).choices[0]
            assert alone.logprobs is not None
            values = [entry.logprob for entry in alone.logprobs.content or []]
            assert streamed[number] == (alone.message.content, values, alone.finish_reason)
    assert len({text for text, _, _ in streamed}) > MANY // 2
    until_idle(tiny_server)


def test_dropping_half_of_the_streams_frees_their_blocks(tiny_server: Any) -> None:
    body = {"model": "tiny", "max_tokens": 300, "ignore_eos": True, "stream": True}

    async def one(client: httpx.AsyncClient, number: int) -> str:
        events = 0
        request = {**body, "messages": question(number)}
        async with client.stream("POST", tiny_server.url + "/v1/chat/completions", json=request) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                events += line.startswith("data: {")
                if number % 2 and events == 2:
                    return "left"
                if line == "data: [DONE]":
                    return "done"
        return "cut short"

    async def all_of_them() -> list[str]:
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
            return await asyncio.gather(*(one(client, number) for number in range(MANY)))

    seen = asyncio.run(all_of_them())
    assert seen == ["done", "left"] * (MANY // 2)
    until_idle(tiny_server)


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_while_queued_or_running(tiny: Any, serve: Any, stream: bool) -> None:
    live = serve(create_app(tiny(endless=True, max_batch_size=2), model_names=["tiny"]))
    body = {
        "model": "tiny",
        "max_tokens": 60_000,
        "ignore_eos": True,
        "messages": question(1),
        "stream": stream,
        "n": 2,
    }

    async def leave() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            tasks = [asyncio.create_task(client.post(live.url + "/v1/chat/completions", json=body)) for _ in range(6)]
            deadline = time.monotonic() + 20
            state = {"running": 0, "waiting": 0}
            while state["running"] != 2 or state["waiting"] == 0:
                assert time.monotonic() < deadline, state
                await asyncio.sleep(0.02)
                state = (await client.get(live.url + "/ready")).json()["engine"]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(leave())
    until_idle(live)


def test_a_full_queue(tiny: Any, serve: Any) -> None:
    live = serve(create_app(tiny(max_batch_size=1, max_queue=1), model_names=["tiny"]))
    body = {"model": "tiny", "max_tokens": 400, "ignore_eos": True, "messages": question(1)}

    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=120) as client:
            return await asyncio.gather(
                *(client.post(live.url + "/v1/chat/completions", json={**body, "stream": n % 2 == 0}) for n in range(8))
            )

    replies = asyncio.run(crowd())
    refused = [reply for reply in replies if reply.status_code != 200]
    assert 0 < len(refused) < 8
    for reply in refused:
        assert reply.status_code == 503
        assert reply.json()["error"]["type"] == "server_busy"
        assert "retry-after" in reply.headers
    until_idle(live)


def test_what_the_engine_refuses_names_the_field(tiny_server: Any) -> None:
    def refused(path: str, **body: Any) -> dict[str, Any]:
        reply = httpx.post(tiny_server.url + path, json={"model": "tiny", **body}, timeout=20)
        assert reply.status_code == 400, reply.text
        error: dict[str, Any] = reply.json()["error"]
        return error

    chat = "/v1/chat/completions"
    assert refused("/v1/completions", prompt=[100_000])["param"] == "prompt"
    assert refused(chat, messages=question(1), logit_bias={"99999": 1})["param"] == "logit_bias"
    assert refused(chat, messages=question(1), stop_token_ids=[99999])["param"] == "stop_token_ids"
    long = refused(chat, messages=[{"role": "user", "content": "word " * 2000}])
    assert long["code"] == "context_length_exceeded"
    assert "512 tokens" in long["message"]


def test_every_door_gives_the_engine_s_own_answer(tiny_engine: InferenceEngine) -> None:
    adapter = OpenAIAdapter(tiny_engine)
    request = {"model": "x", "prompt": "the sea", "max_tokens": 12, "logprobs": 2, "echo": True, "seed": 1}
    whole = adapter.completion(request).choices[0]
    pieces = [chunk.choices[0] for chunk in adapter.completion_stream(request)]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert whole.text.startswith("the sea")
    assert whole.logprobs is not None
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        streamed = [value for piece in pieces if piece.logprobs for value in getattr(piece.logprobs, name)]
        assert streamed == getattr(whole.logprobs, name)
    assert whole.logprobs.token_logprobs[0] is None
    assert all(isinstance(value, float) for value in whole.logprobs.token_logprobs[1:])


def test_usage_tells_what_the_cache_held(tiny: Any) -> None:
    adapter = OpenAIAdapter(tiny())
    request = {"model": "x", "messages": [{"role": "user", "content": "word " * 60}], "max_tokens": 2}
    first = adapter.chat_completion(request).usage
    again = adapter.chat_completion(request).usage
    assert first is not None and again is not None
    assert first.prompt_tokens_details.cached_tokens == 0
    assert 0 < again.prompt_tokens_details.cached_tokens < again.prompt_tokens
    salted = adapter.chat_completion({**request, "cache_salt": "mine"}).usage
    assert salted is not None
    assert salted.prompt_tokens_details.cached_tokens == 0


def test_smollm2_says_what_the_reference_says(smollm2_engine: InferenceEngine, goldens: Path) -> None:
    chats = json.loads((goldens / "smollm2" / "reference.json").read_text())["chats"]
    adapter = OpenAIAdapter(smollm2_engine)
    clear = [chat for chat in chats if min(chat["margins"][:8]) >= 0.5]
    assert clear
    for chat in clear:
        reply = adapter.chat_completion(
            {"model": "x", "messages": chat["messages"], "temperature": 0, "max_tokens": 8, "logprobs": True}
        )
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == len(chat["prompt_token_ids"])
        assert chat["text"].startswith(reply.choices[0].message.content or "?")
