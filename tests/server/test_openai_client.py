"""OpenAI's own client library against the server, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

import openai
from candle_vllm.server import BoundarySettings, Limits, create_app, parse_keys
from fake_engine import FakeEngine

MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(live: Any) -> Any:
    with openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole_and_streamed_reply(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="fake", messages=MESSAGES, logprobs=True, top_logprobs=3, seed=1, n=2, max_completion_tokens=80
    )
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.choices[0].message.content == "You said: hello (seed 1)"
    assert whole.choices[1].message.content != whole.choices[0].message.content
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert bytes(b for entry in logprobs.content for b in entry.bytes or []).decode() == "You said: hello (seed 1)"
    assert all(len(entry.top_logprobs) == 3 for entry in logprobs.content)

    streamed: list[list[Any]] = [[], []]
    for chunk in client.chat.completions.create(
        model="fake",
        messages=MESSAGES,
        logprobs=True,
        top_logprobs=3,
        seed=1,
        n=2,
        max_completion_tokens=80,
        stream=True,
    ):
        streamed[chunk.choices[0].index].append(chunk.choices[0])
    for choice, pieces in zip(whole.choices, streamed, strict=True):
        assert "".join(piece.delta.content or "" for piece in pieces) == choice.message.content
        entries = [entry for piece in pieces if piece.logprobs for entry in piece.logprobs.content]
        assert choice.logprobs is not None
        assert entries == choice.logprobs.content
        assert pieces[-1].finish_reason == choice.finish_reason == "stop"


def test_stop_and_length(client: openai.OpenAI) -> None:
    stopped = client.chat.completions.create(model="fake", messages=MESSAGES, stop=["lo", "zz"])
    assert stopped.choices[0].message.content == "You said: hel"
    assert stopped.choices[0].finish_reason == "stop"
    short = client.chat.completions.create(model="fake", messages=MESSAGES, max_tokens=5)
    assert short.choices[0].message.content == "You s"
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 5


def test_parameters_reach_the_engine(client: openai.OpenAI, engine: FakeEngine) -> None:
    client.chat.completions.create(
        model="fake",
        messages=MESSAGES,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"65": -100},
        extra_body={"top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True, "stop_token_ids": [66]},
    )
    params = engine.submitted[-1][1]
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 7, 0.1)
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (1, -1, 1.2)
    assert params.logit_bias == {65: -100}
    assert params.ignore_eos
    assert list(params.stop_token_ids) == [66]


def test_errors_have_the_client_s_types(client: openai.OpenAI, engine: FakeEngine) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="fake", messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    engine.fail_after = 3
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="fake", messages=MESSAGES)
    with pytest.raises(openai.APIError, match="caught fire"):
        list(client.chat.completions.create(model="fake", messages=MESSAGES, stream=True))


def test_models_and_completions(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").object == "model"
    done = client.completions.create(model="fake", prompt="abc", max_tokens=4, logprobs=2, echo=True)
    assert done.choices[0].text == "abcYou "
    logprobs = done.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.text_offset == list(range(7))
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    scored = client.completions.create(model="fake", prompt="abc", max_tokens=0, logprobs=1, echo=True)
    assert scored.choices[0].text == "abc"
    assert scored.choices[0].finish_reason == "length"
    assert scored.usage is not None
    assert scored.usage.completion_tokens == 0


def test_64_streams_at_once_none_mixed_up(live: Any, engine: FakeEngine) -> None:
    engine.delay = 0.001

    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        stream = await client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": f"number {number}!"}], stream=True
        )
        said = ""
        ids = set()
        async for chunk in stream:
            ids.add(chunk.id)
            said += chunk.choices[0].delta.content or ""
        assert len(ids) == 1
        return said

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(64)))

    assert asyncio.run(all_of_them()) == [f"You said: number {number}!" for number in range(64)]
    assert not engine.live


def test_keys_and_rates_are_the_client_s_own_errors(serve: Any) -> None:
    boundary = BoundarySettings(api_keys=parse_keys(["alice sk-alice"]), limits=Limits(caller_rate=2))
    live = serve(create_app(FakeEngine(), model_names=["fake"], boundary=boundary))
    with openai.OpenAI(base_url=live.url + "/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.models.list()
        assert refused.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=live.url + "/v1", api_key="sk-alice", max_retries=0) as alice:
        assert [model.id for model in alice.models.list()] == ["fake"]
        assert alice.models.list()._request_id
        with pytest.raises(openai.RateLimitError) as limited:
            alice.models.list()
        assert int(limited.value.response.headers["retry-after"]) > 0


def test_an_origin_that_is_allowed_reads_what_a_page_needs(serve: Any) -> None:
    boundary = BoundarySettings(allowed_origins=("https://page.example",))
    live = serve(create_app(FakeEngine(), model_names=["fake"], boundary=boundary))
    reply = httpx.post(
        live.url + "/v1/chat/completions",
        json={"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True},
        headers={"origin": "https://page.example"},
    )
    assert reply.headers["access-control-allow-origin"] == "https://page.example"
    assert "x-request-id" in reply.headers["access-control-expose-headers"].lower()
    assert reply.text.endswith("data: [DONE]\n\n")
