"""Unknown fields that are left aside: named in the reply, whole and streamed, in process and over HTTP."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from candle_vllm.openai import ApiError, OpenAIAdapter
from candle_vllm.server import create_app
from fake_engine import FakeEngine

ASK: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
TEXT: dict[str, Any] = {"model": "fake", "prompt": "hi", "max_tokens": 3}
ODD: dict[str, Any] = {"nonsense": {"a": [1]}, "response_format": {"type": "text", "odd": 1}}
SAID = "Unrecognized request argument ignored: "


@pytest.fixture
def adapter() -> OpenAIAdapter:
    return OpenAIAdapter(FakeEngine(), unknown_fields="warn")


def test_named_in_the_reply_once(adapter: OpenAIAdapter) -> None:
    wanted = {SAID + "nonsense", SAID + "response_format.odd"}
    assert set(adapter.chat_completion({**ASK, **ODD}).warnings or ()) == wanted
    told = [chunk.warnings for chunk in adapter.chat_completion_stream({**ASK, **ODD}) if chunk.warnings]
    assert [set(each) for each in told] == [wanted]
    assert adapter.completion({**TEXT, "x": 1}).warnings == [SAID + "x"]
    assert [c.warnings for c in adapter.completion_stream({**TEXT, "x": 1}) if c.warnings] == [[SAID + "x"]]
    for reply in (adapter.chat_completion(ASK), adapter.completion(TEXT)):
        assert "warnings" not in reply.model_dump(exclude_unset=True)


def test_refused_unless_told_otherwise() -> None:
    with pytest.raises(ApiError) as refusal:
        OpenAIAdapter(FakeEngine()).chat_completion({**ASK, **ODD})
    assert refusal.value.code == "unknown_parameter"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        # What is wrong beside it is refused all the same.
        ({"nonsense": 1, "temperature": 9}, "temperature"),
        # Which form was meant is not known here, so neither is what does not belong to it.
        ({"tools": [], "tool_choice": {"type": "function", "function": {"name": "f", "odd": 1}}}, "tool_choice"),
        ({f"x{n}": 1 for n in range(200)}, None),
    ],
)
def test_what_is_refused_even_so(adapter: OpenAIAdapter, change: dict[str, Any], param: str | None) -> None:
    with pytest.raises(ApiError) as refusal:
        adapter.chat_completion({**ASK, **change})
    assert refusal.value.status == 400
    assert (refusal.value.param or "").startswith(param or "")


async def test_over_http() -> None:
    transport = httpx.ASGITransport(create_app(FakeEngine(), model_names=["fake"], unknown_fields="warn"))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        whole = await client.post("/v1/chat/completions", json={**ASK, "nonsense": 1})
        assert whole.json()["warnings"] == [SAID + "nonsense"]
        streamed = await client.post("/v1/chat/completions", json={**ASK, "nonsense": 1, "stream": True})
        first, *others = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
        assert first["warnings"] == [SAID + "nonsense"]
        assert not [chunk for chunk in others if "warnings" in chunk]
        asked = {"model": "fake", "input": "hello", "nonsense": 1}
        made = (await client.post("/v1/responses", json=asked)).json()
        assert made["warnings"] == [SAID + "nonsense"]
        assert (await client.get(f"/v1/responses/{made['id']}")).json() == made
        streamed = await client.post("/v1/responses", json={**asked, "stream": True})
        assert streamed.text.count(SAID) == 3, "in each event that tells the whole response"
        # Others' forms have no place for warnings.
        refused = await client.post("/v1/messages", json={**ASK, "nonsense": 1})
        assert refused.status_code == 400
