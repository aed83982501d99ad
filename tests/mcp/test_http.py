"""Servers over HTTP, good and bad: streamable HTTP, the older SSE, headers, sessions."""

import asyncio
import time

import pytest

from candle_vllm.errors import McpConnectionError
from candle_vllm.mcp import McpClient, McpServer, Timeouts
from mcp_http import Hostile, Serving, good_server, guarded


def at(url: str, *, call: float = 1.5, **settings: object) -> McpServer:
    return McpServer(name="web", url=url, timeouts=Timeouts(connect=5, call=call), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("stateless", [True, False])
async def test_streamable_http_with_a_token_and_headers(stateless: bool) -> None:
    app = guarded(good_server().streamable_http_app(stateless_http=stateless), "hush")
    with Serving(app) as serving:
        url = serving.url + "/mcp"
        async with McpClient(at(url, auth="hush", headers={"X-Team": "blue"})) as client:
            assert [tool.name for tool in await client.list_tools()] == ["add", "nap"]
            result = await client.call_tool("add", {"a": 2, "b": 3})
            assert (result.text, result.structured) == ("5", {"result": 5})
        with pytest.raises(McpConnectionError):
            await McpClient(at(url, auth="wrong")).connect()


@pytest.mark.parametrize("path", ["/sse", "/events"])
async def test_the_older_sse_is_found(path: str) -> None:
    with Serving(good_server().sse_app(sse_path=path)) as serving:
        async with McpClient(at(serving.url + path)) as client:
            assert (await client.call_tool("add", {"a": 2, "b": 3})).text == "5"


async def test_calls_run_side_by_side() -> None:
    with Serving(good_server().streamable_http_app()) as serving:
        async with McpClient(at(serving.url + "/mcp", call=10)) as client:
            await client.list_tools()
            began = time.monotonic()
            naps = [client.call_tool("nap", {"seconds": 0.5}) for _ in range(8)]
            assert {result.text for result in await asyncio.gather(*naps)} == {"rested"}
            assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("mode", "outcome", "words"),
    [
        ("silent", "timeout", "within 1.5 s"),
        ("huge", "protocol_error", "above 16777216 bytes"),
        ("huge_event", "connection", "exceed"),
        ("malformed", "protocol_error", "Failed to parse JSON"),
        ("html", "protocol_error", "content type"),
        ("broken", "protocol_error", "error response"),
        ("cut", "connection", "ended without a response"),
        ("accepted", "protocol_error", "202"),
    ],
)
async def test_a_call_that_goes_wrong_is_a_result(mode: str, outcome: str, words: str) -> None:
    hostile = Hostile(mode)
    with Serving(hostile.app) as serving:
        async with McpClient(at(serving.url + "/mcp")) as client:
            await client.list_tools()
            began = time.monotonic()
            result = await client.call_tool("echo", {"text": "hello"})
            assert result.outcome == outcome, result.text
            assert words in result.text
            assert time.monotonic() - began < 4
        # Whatever came of it, it ran once.
        assert hostile.calls == ["hello"]


async def test_a_session_that_its_server_forgot_is_begun_anew() -> None:
    hostile = Hostile("forgot")
    with Serving(hostile.app) as serving:
        async with McpClient(at(serving.url + "/mcp")) as client:
            result = await client.call_tool("echo", {"text": "hello"})
            assert (result.text, hostile.sessions, hostile.calls) == ("hello", 2, ["hello"])


async def test_a_server_that_always_forgets_is_asked_twice() -> None:
    hostile = Hostile("forgets")
    with Serving(hostile.app) as serving:
        async with McpClient(at(serving.url + "/mcp")) as client:
            result = await client.call_tool("echo", {"text": "hello"})
            assert result.outcome == "connection"
            assert (hostile.sessions, hostile.calls) == (2, [])


async def test_a_redirect_to_another_host_is_not_followed() -> None:
    there = Hostile("fine")
    with Serving(there.app) as other, Serving(Hostile("redirect", other.url + "/mcp").app) as serving:
        with pytest.raises(McpConnectionError, match="not followed"):
            await McpClient(at(serving.url + "/mcp", auth="hush")).connect()
        assert there.sessions == 0


async def test_a_server_that_is_gone_is_an_error_and_found_when_it_is_back() -> None:
    with Serving(good_server().streamable_http_app()) as serving:
        url = serving.url
        client = McpClient(at(url + "/mcp"))
        assert (await client.call_tool("add", {"a": 1, "b": 1})).text == "2"
    result = await client.call_tool("add", {"a": 1, "b": 1})
    assert result.outcome == "connection"
    with Serving(good_server().streamable_http_app(), port=int(url.rpartition(":")[2])):
        assert (await client.call_tool("add", {"a": 1, "b": 1})).text == "2"
        await client.aclose()
