"""Lines answered over a fake engine: as the adapter answers, refusals included."""

from __future__ import annotations

import json
from typing import Any

import pytest

from candle_vllm.batch import Answering, UnansweredError
from candle_vllm.batch.answer import ROWS
from candle_vllm.openai import OpenAIAdapter
from fake_engine import FakeEngine


def test_the_rows_are_the_endpoints() -> None:
    assert set(ROWS) == {"/v1/chat/completions", "/v1/completions", "/v1/responses"}


async def test_replies_are_the_adapter_s() -> None:
    adapter = OpenAIAdapter(FakeEngine())
    answer = Answering(adapter)
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 1},
        "/v1/completions": {"model": "m", "prompt": "hi", "stream": True},
        "/v1/responses": {"model": "m", "input": "hi"},
    }
    for url, body in bodies.items():
        said = await answer(url, body)
        assert said.status == 200
        assert "\n" not in said.body
        assert said.request_id in json.loads(said.body)["id"] or url == "/v1/responses"
        assert "You said: " in said.body


async def test_a_refusal_is_an_answer() -> None:
    said = await Answering(OpenAIAdapter(FakeEngine()))("/v1/completions", {"prompt": "x", "temperature": 9})
    assert said.status == 400
    assert json.loads(said.body)["error"]["param"] == "temperature"


async def test_what_may_pass_is_no_answer() -> None:
    engine = FakeEngine(failure="it broke")
    with pytest.raises(UnansweredError, match="it broke"):
        await Answering(OpenAIAdapter(engine))("/v1/completions", {"model": "m", "prompt": "x"})
