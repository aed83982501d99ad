"""A toy endpoint: what one more costs is one file like this and one row in the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import httpx
import pytest
from pydantic import BaseModel

from candle_vllm.generation import (
    Account,
    Event,
    Finished,
    GenerationRequest,
    Prompts,
    Reasoning,
    Reply,
    Text,
    ToolArguments,
)
from candle_vllm.openai import ENDPOINTS, ChatCompletionRequest, CompletionRequest, Endpoint, OpenAIAdapter
from candle_vllm.openai.chat import ChatWriter
from candle_vllm.openai.completions import CompletionWriter
from candle_vllm.openai.endpoint import QuickWriter, serialised
from candle_vllm.server import create_app
from fake_engine import FakeEngine


class ShoutRequest(BaseModel):
    say: str
    stream: bool = False


class Shouted(BaseModel):
    type: Literal["shout", "end"] = "shout"
    text: str


class ShoutWriter:
    def __init__(self, request: ShoutRequest, account: Account) -> None:
        self._account = account

    def chunks(self, event: Event) -> Sequence[Shouted]:
        match event:
            case Text(_, text):
                return [Shouted(type="shout", text=text.upper())]
            case Finished(_, reason):
                return [Shouted(type="end", text=f"{reason} after {self._account.generated_tokens}")]
            case _:
                return []

    def closing(self) -> Sequence[Shouted]:
        return []

    def reply(self, reply: Reply) -> Shouted:
        return Shouted(text=reply.answers[0].text.upper())


SHOUT = Endpoint(
    name="shout",
    path="/v1/shout",
    request=ShoutRequest,
    reply=Shouted,
    chunk=Shouted,
    parse=lambda request: GenerationRequest(input=Prompts(items=[request.say]), max_tokens=10, stream=request.stream),
    writer=ShoutWriter,
    framing="events",
)


@pytest.fixture
def adapter() -> OpenAIAdapter:
    return OpenAIAdapter(FakeEngine())


async def test_both_doors_take_it(adapter: OpenAIAdapter) -> None:
    assert adapter.reply(SHOUT, {"say": "hi"}).text == "YOU SAID: "
    pieces = list(adapter.stream(SHOUT, {"say": "hi"}))
    assert "".join(piece.text for piece in pieces[:-1]) == "YOU SAID: "
    assert pieces[-1] == Shouted(type="end", text="length after 10")
    transport = httpx.ASGITransport(create_app(adapter, endpoints=[*ENDPOINTS, SHOUT]))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        whole = await client.post("/v1/shout", json={"say": "hi"})
        assert whole.json()["text"] == "YOU SAID: "
        streamed = await client.post("/v1/shout", json={"say": "hi", "stream": True})
        assert streamed.text.startswith('event: shout\ndata: {"type":"shout","text":"Y"}\n\n')
        assert streamed.text.endswith('event: end\ndata: {"type":"end","text":"length after 10"}\n\n')
        document = (await client.get("/openapi.json")).json()
        assert "/v1/shout" in document["paths"]
        assert "ShoutRequest" in document["components"]["schemas"]


TEXTS = ["plain", 'quote " back \\ slash /', "new\nline\r\t\x00\x1f", "\x7f", "é 世界 🦀 \u2028\u0085", "", "8f14e45f"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("index", [0, 3])
def test_the_quick_way_writes_the_very_same_bytes(text: str, index: int) -> None:
    event = Text(index, text)
    body: dict[str, Any] = {"model": 'a"b', "messages": [{"role": "user", "content": "x"}]}
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    writers: list[ChatWriter | CompletionWriter] = [
        ChatWriter(ChatCompletionRequest.model_validate(body), Account(request_id="r")),
        ChatWriter(ChatCompletionRequest.model_validate({**body, **options}), Account()),
        CompletionWriter(CompletionRequest(prompt="x"), Account()),
    ]
    for writer in writers:
        events: list[Event] = [event]
        if isinstance(writer, ChatWriter):
            events += [Reasoning(index, text), ToolArguments(index, 2, text)]
        for each in events:
            quick: QuickWriter = writer
            written = quick.quick(each)
            assert written is None if "\x7f" in text else written == serialised(writer.chunks(each)[0])
