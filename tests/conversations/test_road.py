"""ToolRoad in this process: turns as one stream of events, and the figures of a request as the sum of its turns."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from candle_vllm.conversations import ConversationOptions, ExecutedCall, ToolRoad
from candle_vllm.generation import (
    Account,
    Continued,
    Conversation,
    Finished,
    GenerationRequest,
    RequestError,
    ServerCallEnded,
    ServerCallStarted,
    ServerTools,
    Started,
    Text,
    fold,
)
from candle_vllm.mcp import McpServer, McpServers, Timeouts
from candle_vllm.models import SingleModel
from candle_vllm.openai import OpenAIAdapter
from scripted import ScriptedEngine, told

FRIENDLY = str(Path(__file__).parent.parent / "mcp_friendly.py")
PEARS = [("count", {"thing": "pears"})]


@pytest.fixture
async def servers() -> AsyncIterator[McpServers]:
    limits = Timeouts(connect=20, call=20)
    found = McpServers([McpServer(name="shelf", command=sys.executable, args=[FRIENDLY], timeouts=limits)])
    yield found
    await found.aclose()


def asked(**fields: Any) -> GenerationRequest:
    given: dict[str, Any] = {"server_tools": ServerTools(), **fields}
    return GenerationRequest(input=Conversation(messages=[{"role": "user", "content": "?"}]), **given)


async def test_turns_are_one_stream(servers: McpServers) -> None:
    heard: list[ExecutedCall] = []
    engine = ScriptedEngine(PEARS, lambda prompt: f"There are {told(prompt)}.")
    road = ToolRoad(SingleModel(engine), servers, heard=heard.append)
    account = Account(endpoint="chat_completion", key="me")
    events = [event async for event in road.run(asked(), account)]
    kinds = [type(event).__name__ for event in events]
    assert kinds == [
        *("Started", "ServerCallStarted", "ServerCallArguments", "ServerCallEnded"),
        *("Continued", "Text", "Finished"),
    ]
    assert isinstance(events[3], ServerCallEnded) and (events[3].text, events[3].outcome) == ("5", "ok")
    assert [call.name for call in heard] == ["count"]
    last = events[-1]
    assert isinstance(last, Finished) and (last.reason, last.stop_reason) == ("stop", None)
    assert last.stats.prompt_tokens == account.prompt_tokens == sum(len(prompt) for prompt, _ in engine.submitted)
    assert account.finish_reasons == ["stop"] and account.error is None
    assert not engine.live


async def test_a_fold_tells_the_turns_apart(servers: McpServers) -> None:
    look = "Let me look.\n" + '<tool_call>\n{"name": "count", "arguments": {"thing": "pears"}}\n</tool_call>'
    reply = await fold(ToolRoad(SingleModel(ScriptedEngine(look, "Five.")), servers).run(asked()))
    [answer] = reply.answers
    first, second = answer.turns
    assert (first.text.strip(), [call.text for call in first.server_calls]) == ("Let me look.", ["5"])
    assert (second.text, second.server_calls, second.calls) == ("Five.", [], [])


async def test_the_adapter_stands_on_it(servers: McpServers) -> None:
    adapter = OpenAIAdapter(ToolRoad(SingleModel(ScriptedEngine(PEARS, "Five.")), servers))
    request = {"messages": [{"role": "user", "content": "?"}], "mcp": {"servers": ["shelf"]}}
    message = (await adapter.achat_completion(request)).choices[0].message
    assert message.content == "Five."
    assert message.mcp_calls is not None and message.mcp_calls[0].output == "5"


async def test_what_says_nothing_of_servers_takes_the_plain_road(servers: McpServers) -> None:
    road = ToolRoad(SingleModel(ScriptedEngine("hello")), servers)
    events = [event async for event in road.run(asked(server_tools=ServerTools(asked=False)))]
    assert not any(isinstance(event, Continued | ServerCallStarted) for event in events)
    assert isinstance(events[0], Started)
    assert "".join(event.text for event in events if isinstance(event, Text)) == "hello"
    # No server was reached for it.
    assert servers.status()[0].state == "idle"


async def test_refusals_name_the_clients_field(servers: McpServers) -> None:
    road = ToolRoad(SingleModel(ScriptedEngine("hello")), servers, ConversationOptions(max_turns=2))
    fields = {"server_tools": "mcp"}
    account = Account()
    for wanted, words in (
        (ServerTools(servers=["x"]), r"'mcp\.servers' names 'x'; there are: shelf"),
        (ServerTools(max_turns=3), r"'mcp\.max_turns' is 3, above the 2 allowed here"),
    ):
        with pytest.raises(RequestError, match=words):
            await anext(road.run(asked(server_tools=wanted, fields=fields), account))
        assert isinstance(account.error, RequestError)


async def test_closing_the_stream_frees_the_engine(servers: McpServers) -> None:
    engine = ScriptedEngine(PEARS, "word " * 500, delay=0.001)
    events = ToolRoad(SingleModel(engine), servers).run(asked(stream=True))
    async for event in events:
        if isinstance(event, Text):
            break
    assert engine.live
    await events.aclose()
    assert not engine.live
