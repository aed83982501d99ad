"""ResponsesSession over real MCP servers: with scripted models for exactness, and over adapters and engines."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from candle_vllm import ConversationOptions, InferenceEngine, ResponsesSession
from candle_vllm.conversations import Toolbox, ToolReturned, TurnEnded
from candle_vllm.errors import ConfigError
from candle_vllm.mcp import McpServer, McpServers, Timeouts
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.params import GenerationParams
from fake_engine import FakeEngine
from mcp_http import Serving, good_server
from scripted import Scripted, result_of

FRIENDLY = str(Path(__file__).parent.parent / "mcp_friendly.py")
HOSTILE = str(Path(__file__).parent.parent / "mcp/hostile.py")


def shelf(name: str = "shelf") -> McpServer:
    return McpServer(name=name, command=sys.executable, args=[FRIENDLY], timeouts=Timeouts(connect=30, call=30))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Serving(good_server().streamable_http_app()) as serving:
        yield serving.url + "/mcp"


def count_words(text: str) -> int:
    """Counts the words of a text."""
    return len(text.split())


async def test_five_turns_with_tools_of_two_servers_and_a_function(url: str) -> None:
    model = Scripted(
        [("count", {"thing": "apples"}), ("count", {"thing": "pears"})],
        lambda request: [("add", {"a": int(result_of(request, 2)), "b": int(result_of(request, 1))})],
        lambda request: [("put", {"thing": "fruit", "number": int(result_of(request))})],
        lambda request: [("count_words", {"text": result_of(request)}), ("count", {"thing": "nuts"})],
        lambda request: f"Words: {result_of(request, 2)}. But {result_of(request)}",
    )
    servers = McpServers([shelf(), McpServer(name="sums", url=url, instructions="Use sums for sums.")])
    async with ResponsesSession(model, Toolbox(servers, [count_words])) as session:
        result = await session.arun_conversation("How much fruit is there?")
    assert (result.finish_reason, result.turns_taken) == ("stop", 5)
    assert [(made.server, made.name, made.result.outcome) for made in result.tool_calls_executed] == [
        ("shelf", "count", "ok"),
        ("shelf", "count", "ok"),
        ("sums", "add", "ok"),
        ("shelf", "put", "ok"),
        (None, "count_words", "ok"),
        ("shelf", "count", "tool_error"),
    ]
    assert result.final_message.startswith("Words: 5. But Error: ")
    assert "there are no nuts; there are apples, pears, plums, fruit" in result.final_message
    assert model.requests[0]["messages"][0] == {"role": "system", "content": "Use sums for sums."}
    assert result.messages[0]["role"] == "user"


async def test_a_server_that_dies_costs_its_call_alone(url: str) -> None:
    crashing = McpServer(name="crashing", command=sys.executable, args=[HOSTILE, "crashing"])
    dead = McpServer(name="dead", command=sys.executable, args=[HOSTILE, "dead"])
    model = Scripted([("echo", {"text": "x"}), ("add", {"a": 1, "b": 2})], [("echo", {"text": "y"})], "done")
    servers = McpServers([crashing, dead, McpServer(name="sums", url=url)])
    async with ResponsesSession(model, Toolbox(servers)) as session:
        result = await session.arun_conversation("Go.")
        assert [made.result.outcome for made in result.tool_calls_executed] == ["connection", "ok", "connection"]
        assert result.final_message == "done"
        status = {each.name: each.state for each in session.server_status()}
    assert (status["dead"], status["sums"]) == ("failed", "ready")


async def test_a_hundred_conversations_over_three_servers(url: str) -> None:
    def number(request: Mapping[str, Any]) -> int:
        return int(request["messages"][0]["content"])

    model = Scripted(
        lambda request: [("b__add", {"a": number(request), "b": 1}), ("c__add", {"a": number(request), "b": 2})],
        lambda request: [("put", {"thing": f"thing{number(request)}", "number": int(result_of(request, 2))})],
        lambda request: [("b__nap", {"seconds": 0.01}), ("count", {"thing": f"thing{number(request)}"})],
        lambda request: f"{result_of(request, 4)} {result_of(request)}",
    )
    with Serving(good_server().streamable_http_app(stateless_http=True)) as stateless:
        servers = McpServers(
            [shelf("a"), McpServer(name="b", url=url), McpServer(name="c", url=stateless.url + "/mcp")]
        )
        async with ResponsesSession(model, Toolbox(servers)) as session:
            began = time.monotonic()
            results = await asyncio.gather(*(session.arun_conversation(str(at)) for at in range(100)))
            took = time.monotonic() - began
    assert [result.final_message for result in results] == [f"{at + 2} {at + 1}" for at in range(100)]
    assert sum(len(result.tool_calls_executed) for result in results) == 500
    assert took < 60


async def test_names_that_two_servers_share(url: str) -> None:
    def add(a: int, b: int) -> int:
        return a - b

    servers = McpServers([McpServer(name="one", url=url), McpServer(name="two", url=url)])
    model = Scripted([("add", {"a": 5, "b": 2}), ("one__add", {"a": 5, "b": 2}), ("two__nap", {"seconds": 0})], "done")
    async with ResponsesSession(model, Toolbox(servers, [add])) as session:
        tools = [tool["function"]["name"] for tool in await session.alist_openai_tools()]
        assert tools == ["add", "one__add", "one__nap", "two__add", "two__nap"]
        assert len(await session.alist_openai_tools(allowed=["nap"])) == 2
        result = await session.arun_conversation("Go.")
        assert [made.result.text for made in result.tool_calls_executed] == ["3", "7", "rested"]
        assert (await session.acall_tool("one", "add", {"a": 1, "b": 1})).text == "2"
        with pytest.raises(ConfigError, match="one of those added"):
            await session.acall_tool("three", "add")


class Caller(FakeEngine):
    """Calls `count` for each of some things, one a turn, in the notation of the generic format, then sums up."""

    things = ("apples", "pears", "nuts")

    def _said(self, prompt: list[int], params: GenerationParams) -> str:
        told = self.detokenize(prompt).split("<tool_response>\n")[1:]
        if len(told) < len(self.things):
            call = {"name": "count", "arguments": {"thing": self.things[len(told)]}}
            return f"Let me look.\n<tool_call>\n{json.dumps(call)}\n</tool_call>"
        return "I found: " + ", ".join(each.partition("\n")[0] for each in told)


def test_over_an_adapter_with_the_blocking_doors(tmp_path: Path) -> None:
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"shelf": {"command": sys.executable, "args": [FRIENDLY]}}}))
    with OpenAIAdapter(Caller(context=20_000)) as adapter:
        builder = ResponsesSession.builder().adapter(adapter).mcp_config(config).add_tool(count_words)
        with builder.build() as session:
            result = session.run_conversation("What is there?")
            turns = [event for event in session.run_conversation_stream("And now?") if isinstance(event, TurnEnded)]
            assert len(session.list_openai_tools()) == 3
            assert session.call_tool("shelf", "count", {"thing": "plums"}).text == "7"
        assert result.final_message.startswith("I found: 3, 5, Error: ")
        assert (result.turns_taken, len(result.tool_calls_executed)) == (4, 3)
        assert [turn.reason for turn in turns] == ["tool_calls", "tool_calls", "tool_calls", "stop"]
        assert result.messages[1]["content"] == "Let me look."
        # The adapter is its owner's, and still serves.
        assert adapter.chat_completion({"messages": [{"role": "user", "content": "hi"}]}).choices


def test_what_a_session_needs() -> None:
    with pytest.raises(ConfigError, match="either a model_path or an adapter"):
        ResponsesSession.builder().build()
    with pytest.raises(ConfigError, match="'speed' is no setting of the engine"):
        ResponsesSession.builder().engine_setting("speed", 3)
    builder = ResponsesSession.builder().adapter(OpenAIAdapter(FakeEngine()))
    builder.add_mcp_server("x", "http://localhost:1/mcp").add_mcp_server("x", "http://localhost:2/mcp")
    with pytest.raises(ConfigError, match="there is an MCP server 'x' already"):
        builder.build()


@pytest.mark.slow
async def test_a_turn_computes_only_what_is_new(smollm2_path: Path) -> None:
    """SmolLM2 itself takes part; its calls are put in its mouth, for it is small."""
    with InferenceEngine.builder().model_path(smollm2_path).build() as engine:
        adapter = OpenAIAdapter(engine)
        builder = ResponsesSession.builder().adapter(adapter).add_tool(count_words)
        async with builder.build() as session:
            text = "The sea is calm tonight. " * 40
            first = await session.arun_conversation(text, ConversationOptions(request={"max_tokens": 24}))
            again = [*first.messages, {"role": "user", "content": "And the moon?"}]
            second = await session.arun_conversation(again, ConversationOptions(request={"max_tokens": 8}))
    assert second.usage.prompt_tokens > 400
    new = second.usage.prompt_tokens - first.usage.prompt_tokens
    assert second.usage.prompt_tokens - second.usage.cached_tokens < new + 64


async def test_results_are_told_as_they_come(url: str) -> None:
    model = Scripted([("nap", {"seconds": 0.0}), ("nap", {"seconds": 0.5})], "done")
    async with ResponsesSession(model, Toolbox(McpServers([McpServer(name="x", url=url)]))) as session:
        times = []
        async for event in session.arun_conversation_stream("Go."):
            if isinstance(event, ToolReturned):
                times.append(time.monotonic())
    assert times[1] - times[0] > 0.3
