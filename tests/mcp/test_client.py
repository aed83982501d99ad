"""McpClient over a server of the protocol's library: listing, calling, asking back, limits."""

import asyncio
import gc
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from mcp.server.mcpserver import MCPServer
from pydantic import Field

from candle_vllm.errors import McpConnectionError
from candle_vllm.mcp import Limits, McpClient, McpServer, Timeouts
from mcp_http import Serving, good_server

Tag = Annotated[str, Field(pattern="^[a-z]+$")]


HOSTILE = str(Path(__file__).with_name("hostile.py"))


def talkative() -> MCPServer:
    """A server whose tools say much and nothing."""
    server = MCPServer("talkative")

    @server.tool()
    def say(words: int, tags: list[Tag] | None = None) -> str:
        """Says so many words."""
        return "word " * words

    @server.tool()
    def be_quiet() -> None:
        """Says nothing."""

    return server


@pytest.fixture
async def url() -> AsyncGenerator[str, None]:
    with Serving(talkative().streamable_http_app()) as serving:
        yield serving.url + "/mcp"


def at(url: str, **settings: Any) -> McpServer:
    return McpServer(name="web", url=url, timeouts=Timeouts(connect=10, call=10), **settings)


async def test_results_are_clipped_and_arguments_checked(url: str) -> None:
    async with McpClient(at(url, limits=Limits(result_chars=100))) as client:
        result = await client.call_tool("say", {"words": 1000})
        assert "characters left out" in result.text
        assert len(result.text) < 160
        assert (await client.call_tool("say", {"words": "many"})).outcome == "invalid_arguments"
        # Patterns are left to the server.
        wrong = await client.call_tool("say", {"words": 1, "tags": ["A"]})
        assert (wrong.outcome, "pattern" in wrong.text) == ("tool_error", True)
        assert (await client.call_tool("sing")).outcome == "unknown_tool"
        assert (await client.call_tool("be_quiet")).outcome == "ok"


async def test_a_schema_that_no_model_could_be_shown_is_left_out(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with McpClient(at(url, limits=Limits(schema_chars=120))) as client:
        assert [tool.name for tool in await client.list_tools()] == ["be_quiet"]
    assert "'say' is too long" in caplog.text


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ({"sure": False}, {"action": "accept", "content": {"sure": False, "why": "because"}}),
        ({"why": "I say so"}, {"action": "accept", "content": {"why": "I say so"}}),
        (None, {"action": "decline"}),
    ],
)
async def test_what_a_server_asks_is_answered(given: Mapping[str, Any] | None, result: dict[str, Any]) -> None:
    asked = []

    async def answer(question: str, schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
        asked.append((question, sorted(schema["properties"])))
        return given

    async with McpClient(asking(), elicit=answer) as client:
        said = await client.call_tool("echo", {"text": ""})
    assert asked == [("Sure?", ["sure", "why"])]
    assert json.loads(said.text)["result"] == result


async def test_a_server_is_told_that_nobody_answers() -> None:
    async with McpClient(asking()) as client:
        said = await client.call_tool("echo", {"text": ""})
    assert json.loads(said.text)["error"]["message"] == "Elicitation not supported"


def asking() -> McpServer:
    return McpServer(name="asking", command=sys.executable, args=[HOSTILE, "asking"], timeouts=Timeouts(call=20))


async def test_a_closed_client_says_so(url: str) -> None:
    client = McpClient(at(url))
    states: list[str] = [client.state]
    async with client:
        states.append(client.state)
    assert [*states, client.state] == ["idle", "ready", "closed"]
    with pytest.raises(McpConnectionError, match="closed"):
        await client.list_tools()
    assert (await client.call_tool("say", {"words": 1})).outcome == "connection"
    await client.aclose()


@pytest.mark.slow
async def test_nothing_is_left_after_many_http_sessions() -> None:
    with Serving(good_server().streamable_http_app()) as serving:

        async def session() -> None:
            async with McpClient(at(serving.url + "/mcp")) as client:
                assert (await client.call_tool("add", {"a": 1, "b": 1})).text == "2"

        await session()
        gc.collect()
        files, tasks = open_files(), len(asyncio.all_tasks())
        for _ in range(10):
            await asyncio.gather(*(session() for _ in range(10)))
        await asyncio.sleep(0.3)
        gc.collect()
        assert len(asyncio.all_tasks()) == tasks
        # The server, a thread of this process, may still be closing a few of its own ends.
        assert open_files() <= files + 4


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
