"""A task of many turns and tools, end to end: SmolLM2 held to its tools, and a scripted model through the server."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from pydantic import Field

from candle_vllm import ConversationOptions, InferenceEngine
from candle_vllm.conversations import AdapterModel, ConversationFinished, ResponsesSession, Toolbox, TurnEnded
from candle_vllm.mcp import McpServer, McpServers, Timeouts
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.server import McpSettings, create_app
from mcp_http import Serving, good_server
from scripted import ScriptedEngine, told

TESTS = Path(__file__).parent.parent
TASK = (
    "Look up how many pears and how many plums there are and what a pear costs, add up both numbers, order three more "
    "apples, and say how much that is in a dozen."
)
BLOCK = 32
"""Tokens that the prefix cache keeps together."""


def dozens(number: Annotated[int, Field(ge=0, le=999)]) -> float:
    """Tells how many dozens a number is."""
    return round(number / 12, 2)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Serving(good_server().streamable_http_app()) as serving:
        yield serving.url + "/mcp"


def program(name: str, file: str) -> McpServer:
    limits = Timeouts(connect=30, call=30)
    return McpServer(name=name, command=sys.executable, args=[str(TESTS / file)], timeouts=limits)


@pytest.fixture
async def servers(url: str) -> AsyncIterator[McpServers]:
    found = McpServers(
        [program("pantry", "mcp_pantry.py"), program("shelf", "mcp_friendly.py"), McpServer(name="sums", url=url)]
    )
    yield found
    await found.aclose()


@pytest.mark.slow
async def test_smollm2_takes_seven_turns_with_five_tools(smollm2_engine: InferenceEngine, servers: McpServers) -> None:
    """Which tool a turn calls is demanded, as so small a model needs; the arguments are its own, in the tool's form."""
    choices = ["stock", "price", "stock", "add", "order", "dozens"]
    options = ConversationOptions(
        tool_choice=choices, max_turns=7, parallel_tool_calls=False, request={"temperature": 0, "max_tokens": 64}
    )
    toolbox = Toolbox(servers, [dozens], only=["pantry", "sums"])
    session = ResponsesSession(AdapterModel(OpenAIAdapter(smollm2_engine)), toolbox)
    turns: list[TurnEnded] = []
    async for event in session.arun_conversation_stream(TASK, options):
        if isinstance(event, TurnEnded):
            turns.append(event)
        elif isinstance(event, ConversationFinished):
            result = event.result
    made = [(call.turn, call.name, call.server, call.result.outcome) for call in result.tool_calls_executed[:6]]
    assert made == [
        *((1, "stock", "pantry", "ok"), (2, "price", "pantry", "ok"), (3, "stock", "pantry", "ok")),
        *((4, "add", "sums", "ok"), (5, "order", "pantry", "ok"), (6, "dozens", None, "ok")),
    ]
    assert result.turns_taken == 7
    # The last turn is the model's own.
    assert result.finish_reason in ("stop", "length", "max_turns")
    usage = [turn.usage for turn in turns]
    for before, after in pairwise(usage):
        known = before.prompt_tokens // BLOCK * BLOCK
        assert after.cached_tokens >= known
        assert after.prompt_tokens - after.cached_tokens <= after.prompt_tokens - before.prompt_tokens + BLOCK
    assert result.usage.cached_tokens > result.usage.prompt_tokens // 2


@pytest.mark.slow
async def test_smollm2_calls_a_servers_tool_for_a_client(smollm2_engine: InferenceEngine, servers: McpServers) -> None:
    app = create_app(smollm2_engine, mcp=McpSettings(servers=servers))
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What does a pear cost?"}],
        "mcp": {"servers": ["pantry"], "max_turns": 2},
        "tool_choice": {"type": "function", "function": {"name": "price"}},
        "temperature": 0,
        "max_tokens": 100,
    }
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60) as client:
        reply = (await client.post("/v1/chat/completions", json=asked)).json()
    message = reply["choices"][0]["message"]
    first = message["mcp_calls"][0]
    assert (first["server_label"], first["name"], first["error"]) == ("pantry", "price", None)
    assert first["output"] in ("20", "35", "15")
    assert reply["usage"]["completion_tokens"] <= 100
    # The second turn found the first one's prompt computed.
    cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= (reply["usage"]["prompt_tokens"] // 2 - 2 * BLOCK)


SCRIPT = (
    [("stock", {"thing": "pears"}), ("stock", {"thing": "plums"})],
    [("price", {"thing": "pears"})],
    lambda prompt: [("add", {"a": int(told(prompt, 3)), "b": int(told(prompt, 2))})],
    lambda prompt: [("put", {"thing": "fruit", "number": int(told(prompt))}), ("order", {"thing": "apples"})],
    [("order", {"thing": "apples", "number": 3})],
    lambda prompt: f"There are {told(prompt, 4)}, a pear costs {told(prompt, 5)}; {told(prompt)}.",
)


async def test_the_same_task_by_a_script_through_the_server(servers: McpServers) -> None:
    engine = ScriptedEngine(*SCRIPT)
    app = create_app(engine, mcp=McpSettings(servers=servers))
    asked = {"messages": [{"role": "user", "content": TASK}], "mcp": {}}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60) as client:
        reply = (await client.post("/v1/chat/completions", json=asked)).json()
    [choice] = reply["choices"]
    calls = [
        (call["turn"], call["server_label"], call["name"], call["output"], call["error"])
        for call in choice["message"]["mcp_calls"]
    ]
    assert calls[:5] == [
        (1, "pantry", "stock", "5", None),
        (1, "pantry", "stock", "7", None),
        (2, "pantry", "price", "35", None),
        (3, "sums", "add", "12", None),
        (4, "shelf", "put", "now there are 12 fruit", None),
    ]
    assert (calls[5][:3], calls[5][4]) == ((4, "pantry", "order"), "invalid_arguments")
    assert calls[6] == (5, "pantry", "order", "3 more apples are ordered", None)
    assert choice["message"]["content"] == "There are 12, a pear costs 35; 3 more apples are ordered."
    # Each turn's prompt begins as the one before it ended.
    for earlier, later in pairwise(engine.prompts):
        assert later.startswith(earlier)


async def test_a_hundred_chats_at_once_over_three_servers(servers: McpServers) -> None:
    """Through the server, each with numbers of its own."""

    def number(prompt: str) -> int:
        return int(prompt.split("user\n")[1].partition("\n")[0])

    engine = ScriptedEngine(
        lambda prompt: [("add", {"a": number(prompt), "b": 1}), ("stock", {"thing": "plums"})],
        lambda prompt: [("put", {"thing": f"thing{number(prompt)}", "number": int(told(prompt, 2))})],
        lambda prompt: [("count", {"thing": f"thing{number(prompt)}"}), ("nap", {"seconds": 0.01})],
        lambda prompt: f"{told(prompt, 2)}",
    )
    engine.batch = 128
    app = create_app(engine, mcp=McpSettings(servers=servers))

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=120
    ) as client:

        async def chat(at: int) -> dict[str, Any]:
            asked = {"messages": [{"role": "user", "content": str(at)}], "mcp": {}, "stream": False}
            reply: dict[str, Any] = (await client.post("/v1/chat/completions", json=asked)).json()
            return reply

        began = time.monotonic()
        replies = await asyncio.gather(*(chat(at) for at in range(100)))
        took = time.monotonic() - began
    messages = [reply["choices"][0]["message"] for reply in replies]
    assert [message["content"] for message in messages] == [str(at + 1) for at in range(100)]
    assert {len(message["mcp_calls"]) for message in messages} == {5}
    assert not any(call["error"] for message in messages for call in message["mcp_calls"])
    assert not engine.live
    assert took < 60
