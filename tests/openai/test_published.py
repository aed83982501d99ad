"""Every reply, chunk and error as it is sent, against what OpenAI's specification says of it (`published.json`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from candle_vllm.generation import Account, Status
from candle_vllm.models import WaitStatus
from candle_vllm.openai import ChatCompletionRequest, CompletionRequest
from candle_vllm.openai.chat import ChatWriter
from candle_vllm.openai.completions import CompletionWriter
from candle_vllm.openai.endpoint import serialised
from candle_vllm.server import BoundarySettings, create_app, parse_keys
from fake_engine import CHATML, FakeEngine

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
THINKS = "{# <think> #}" + CHATML
CALLS = (
    "<think>Hm.</think>Let me look.\n"
    '<tool_call>\n{"name": "f", "arguments": {"a": "é \\" {"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
)
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASK: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "fake", "prompt": "ab"}
USAGE = {"stream_options": {"include_usage": True}}
ALWAYS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}


VALIDATORS = {
    name: jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": PUBLISHED["$defs"]})
    for name in PUBLISHED["$defs"]
}


def validate(name: str, value: Any) -> None:
    VALIDATORS[name].validate(value)


def test_the_schema_itself() -> None:
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
    with pytest.raises(jsonschema.ValidationError):
        validate("ListModelsResponse", {"object": "list", "data": [{"id": "a", "object": "model", "created": 1}]})
    with pytest.raises(jsonschema.ValidationError):
        validate("ErrorResponse", {"error": {"type": "a", "message": "b", "param": None, "code": None, "more": 1}})


@pytest.fixture(scope="module")
def served() -> tuple[FakeEngine, Any]:
    engine = FakeEngine(chat_templates={"default": THINKS})
    return engine, create_app(engine, model_names=["fake"], unknown_fields="warn")


@pytest.fixture
def engine(served: tuple[FakeEngine, Any]) -> Iterator[FakeEngine]:
    engine = served[0]
    engine.answer = "Well, é🦀."
    yield engine
    engine.max_queue = engine.fail_after = engine.failure = None


@pytest.fixture
def client(served: tuple[FakeEngine, Any], engine: FakeEngine) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(served[1]), base_url="http://localhost")


async def streamed(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """What comes as data, but the end mark, which comes last and alone."""
    reply = await client.post(path, json={**body, "stream": True})
    *data, done = [part.removeprefix("data: ") for part in reply.text.split("\n\n") if part.startswith("data: ")]
    assert done == "[DONE]"
    return [json.loads(each) for each in data]


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several": {"n": 3},
    "cut off": {"max_tokens": 3},
    "stopped": {"stop": "é"},
    "log-probabilities": {"logprobs": True, "top_logprobs": 3, "n": 2},
    "log-probabilities of nothing": {"logprobs": True, "stop": "W"},
    "token ids": {"return_token_ids": True, "prompt_logprobs": 1},
    "unknown fields": {"nonsense": 1},
    "an id": {"request_id": "mine"},
    "reasoning": {"SAID": "<think>Hm.</think>Four."},
    "reasoning alone": {"SAID": "<think>Hm.", "logprobs": True},
    "reasoning closed by force": {"SAID": "<think>Hm, hm.", "thinking_token_budget": 2, "max_tokens": 40},
    "calls": {"SAID": CALLS, "tools": TOOLS},
    "calls and log-probabilities": {"SAID": CALLS, "tools": TOOLS, "logprobs": True, "return_token_ids": True},
    "a call alone": {"SAID": CALLS.split("\n", 1)[1], "tools": TOOLS},
    "older functions": {"SAID": CALLS, "functions": [FUNCTION]},
    "a call cut off": {"SAID": CALLS, "tools": TOOLS, "max_tokens": 60},
}


@pytest.mark.parametrize("options", [{}, USAGE, ALWAYS], ids=["no usage", "usage", "usage always"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
async def test_chats(
    client: httpx.AsyncClient, engine: FakeEngine, variant: dict[str, Any], options: dict[str, Any]
) -> None:
    fields = {**variant}
    engine.answer = fields.pop("SAID", engine.answer)
    if not options:
        whole = await client.post(CHAT, json={**ASK, **fields})
        assert whole.status_code == 200
        validate("CreateChatCompletionResponse", whole.json())
        assert whole.json()["usage"]
    chunks = await streamed(client, CHAT, {**ASK, **fields, **options})
    for chunk in chunks:
        validate("CreateChatCompletionStreamResponse", chunk)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    ends = [choice for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(choice["index"] for choice in ends) == list(range(fields.get("n", 1)))
    roles = [choice["delta"]["role"] for chunk in chunks for choice in chunk["choices"] if "role" in choice["delta"]]
    assert roles == ["assistant"] * fields.get("n", 1)
    # Usage: null before the last chunk, which has no choices; or so far in every one; or nowhere.
    usages = [chunk.get("usage", "absent") for chunk in chunks]
    if not options:
        assert set(usages) == {"absent"}
    else:
        assert chunks[-1]["choices"] == []
        assert usages[-1]
        assert all(usages) if options is ALWAYS else usages[:-1] == [None] * (len(usages) - 1)


TEXTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several": {"prompt": ["a", "bc"], "n": 2},
    "cut off": {"max_tokens": 2},
    "log-probabilities": {"logprobs": 2},
    "echoed": {"echo": True, "logprobs": 2},
    "scored alone": {"echo": True, "logprobs": 0, "max_tokens": 0},
    "token ids": {"return_token_ids": True, "prompt_logprobs": 1},
    "unknown fields": {"nonsense": 1},
}


@pytest.mark.parametrize("options", [{}, USAGE, ALWAYS], ids=["no usage", "usage", "usage always"])
@pytest.mark.parametrize("variant", TEXTS.values(), ids=TEXTS)
async def test_completions(client: httpx.AsyncClient, variant: dict[str, Any], options: dict[str, Any]) -> None:
    if not options:
        whole = await client.post(COMPLETIONS, json={**TEXT, **variant})
        assert whole.status_code == 200
        validate("CreateCompletionResponse", whole.json())
        assert None not in [choice["finish_reason"] for choice in whole.json()["choices"]]
    chunks = await streamed(client, COMPLETIONS, {**TEXT, **variant, **options})
    for chunk in chunks:
        validate("CreateCompletionResponse", chunk)
    if options:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]


async def test_models(client: httpx.AsyncClient) -> None:
    validate("ListModelsResponse", (await client.get("/v1/models")).json())
    validate("Model", (await client.get("/v1/models/fake")).json())


async def test_errors(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    async def told(status: int, method: str, path: str, **more: Any) -> None:
        reply = await client.request(method, path, **more)
        assert reply.status_code == status, reply.text
        validate("ErrorResponse", reply.json())

    await told(400, "POST", CHAT, json={})
    await told(400, "POST", CHAT, json={**ASK, "temperature": 9})
    await told(400, "POST", CHAT, content=b"{", headers={"content-type": "application/json"})
    await told(404, "POST", CHAT, json={**ASK, "model": "other"})
    await told(404, "GET", "/v1/models/other")
    await told(404, "GET", "/v1/nowhere")
    await told(405, "GET", CHAT)
    await told(415, "POST", CHAT, content=b"{}", headers={"content-type": "text/plain"})
    await told(400, "POST", CHAT, json={**ASK, "messages": [{"role": "user", "content": "x" * 9000}]})
    engine.max_queue = 0
    await told(503, "POST", CHAT, json=ASK)
    engine.max_queue, engine.fail_after = None, 3
    await told(500, "POST", CHAT, json=ASK)
    *chunks, failure = await streamed(client, CHAT, ASK)
    for chunk in chunks:
        validate("CreateChatCompletionStreamResponse", chunk)
    validate("ErrorResponse", failure)
    engine.failure = "the device caught fire"
    await told(503, "POST", CHAT, json=ASK)
    guarded = create_app(engine, boundary=BoundarySettings(api_keys=parse_keys(["sk-a"])))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://localhost") as stranger:
        reply = await stranger.get("/v1/models")
        assert reply.status_code == 401
        validate("ErrorResponse", reply.json())


@pytest.mark.parametrize("state", ["queued", "waiting_for_model", "loading", "processing"])
def test_chunks_of_requests_that_wait(state: Any) -> None:
    event = Status(WaitStatus(status=state, position=1, model="m", eta_ms=None))
    for chunk in ChatWriter(ChatCompletionRequest.model_validate(ASK), Account()).chunks(event):
        validate("CreateChatCompletionStreamResponse", json.loads(serialised(chunk)))
    for text in CompletionWriter(CompletionRequest(prompt="a"), Account()).chunks(event):
        validate("CreateCompletionResponse", json.loads(serialised(text)))
