"""Tokenize, detokenize and render, in process and over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from candle_vllm import CachedPrefix
from candle_vllm.openai import ApiError, OpenAIAdapter
from candle_vllm.openai.tokenize import DETOKENIZE, RENDER, TOKENIZE
from candle_vllm.server import create_app
from fake_engine import FakeEngine

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def test_where_a_chat_leaves_a_cached_one() -> None:
    engine = FakeEngine()
    engine.cached = CachedPrefix(1, 3)
    rendered = OpenAIAdapter(engine).query(RENDER, CHAT)
    assert (rendered.cached_tokens, rendered.diverges_at) == (1, 3)
    assert rendered.diverging_text == "er\nhi<|im_end|>\n<|im_start|>assistan"


@pytest.fixture
def adapter() -> OpenAIAdapter:
    return OpenAIAdapter(FakeEngine(context=40))


def test_there_and_back(adapter: OpenAIAdapter) -> None:
    reply = adapter.query(TOKENIZE, {"prompt": "a<|im_end|>é", "return_token_strs": True})
    assert (reply.tokens, reply.count, reply.max_model_len) == ([97, 257, 195, 169], 4, 40)
    assert reply.token_strs == ["a", "<|im_end|>", "\\xc3", "\\xa9"]
    assert adapter.query(DETOKENIZE, {"tokens": [97, 98]}).prompt == "ab"


def test_what_a_chat_would_send(adapter: OpenAIAdapter) -> None:
    rendered = adapter.query(RENDER, CHAT)
    assert rendered.prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered.tokens == adapter.query(TOKENIZE, CHAT).tokens
    assert (rendered.count, rendered.room, rendered.fits) == (len(rendered.tokens), 40 - len(rendered.tokens), True)
    assert (rendered.cached_tokens, rendered.diverges_at, rendered.diverging_text) == (0, None, None)
    long = adapter.query(RENDER, {"messages": [{"role": "user", "content": "x" * 90}]})
    assert not long.fits
    assert long.room < 0


@pytest.mark.parametrize(
    "body", [{}, {"prompt": "a", **CHAT}, {"messages": []}, {"prompt": 5}, {"prompt": "a", "nonsense": 1}]
)
def test_refusals(adapter: OpenAIAdapter, body: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refusal:
        adapter.query(TOKENIZE, body)
    assert refusal.value.status == 400


async def test_over_http(adapter: OpenAIAdapter) -> None:
    transport = httpx.ASGITransport(create_app(adapter))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.post("/tokenize", json={"prompt": "ab"})).json()["tokens"] == [97, 98]
        assert (await client.post("/detokenize", json={"tokens": [97]})).json() == {"prompt": "a"}
        assert (await client.post("/v1/chat/completions/render", json=CHAT)).json()["fits"] is True
        assert (await client.post("/tokenize", json={})).status_code == 400
