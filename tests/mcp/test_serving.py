"""The model as an MCP server, in this process: its tools, their progress, and calls that are given up."""

from __future__ import annotations

import asyncio
import time

import pytest

from candle_vllm.mcp.serving import model_server
from candle_vllm.openai import OpenAIAdapter
from fake_engine import FakeEngine
from mcp import Client


async def test_a_conversation_reaches_the_model_as_it_is() -> None:
    engine = FakeEngine(answer="fine")
    with OpenAIAdapter(engine) as adapter:
        async with Client(model_server(adapter, version="1.2")) as client:
            messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you?"}]
            given = {"messages": messages, "max_tokens": 9, "temperature": 0.5, "top_p": 0.25, "seed": 7, "stop": ["x"]}
            result = await client.call_tool("chat", given)
    assert result.structured_content == {
        "text": "fine",
        "reasoning": None,
        "finish_reason": "stop",
        "prompt_tokens": len(engine.submitted[0][0]),
        "generated_tokens": 5,
    }
    prompt, params = engine.submitted[0]
    assert engine.detokenize(prompt) == "system\nBe brief.\nuser\nHow are you?\nassistant\n"
    assert (params.max_tokens, params.temperature, params.top_p, params.seed) == (9, 0.5, 0.25, 7)
    assert tuple(params.stop_sequences) == ("x",)


async def test_a_prompt_is_continued_as_it_is() -> None:
    engine = FakeEngine(answer="and on")
    with OpenAIAdapter(engine) as adapter:
        async with Client(model_server(adapter)) as client:
            result = await client.call_tool("generate", {"prompt": "on"})
    assert getattr(result.content[0], "text", None) == "and on"
    assert (engine.submitted[0][0], engine.submitted[0][1].max_tokens) == ([*b"on"], 256)


async def test_a_failure_is_told_to_the_agent() -> None:
    engine = FakeEngine(fail_after=3)
    with OpenAIAdapter(engine) as adapter:
        async with Client(model_server(adapter)) as client:
            result = await client.call_tool("generate", {"prompt": "on"})
    assert result.is_error
    assert "the device caught fire" in getattr(result.content[0], "text", "")


@pytest.mark.parametrize("waits", [False, True])
async def test_a_call_that_is_given_up_frees_the_engine(waits: bool) -> None:
    engine = FakeEngine(answer="word " * 2000, delay=0.005)
    if waits:
        engine.gate.clear()
    with OpenAIAdapter(engine) as adapter:
        async with Client(model_server(adapter)) as client:
            call = asyncio.create_task(client.call_tool("generate", {"prompt": "x", "max_tokens": 10_000}))
            deadline = time.monotonic() + 5
            while not engine.live:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            while engine.live:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            assert (await client.list_tools()).tools
