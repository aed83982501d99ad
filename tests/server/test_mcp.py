"""Tools of MCP servers that the server runs for its clients: over HTTP, with real MCP servers and a scripted model."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from candle_vllm.conversations import ConversationOptions
from candle_vllm.mcp import McpServer, McpServers, Timeouts
from candle_vllm.openai import ChatCompletionChunk, accumulate
from candle_vllm.server import McpSettings, Operations, create_app
from live_server import LiveServer
from mcp_http import Serving, good_server
from openai import AsyncOpenAI
from scripted import ScriptedEngine, told

FRIENDLY = str(Path(__file__).parent.parent / "mcp_friendly.py")
HOSTILE = str(Path(__file__).parent.parent / "mcp/hostile.py")
PATH = "/v1/chat/completions"

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Serving(good_server().streamable_http_app()) as serving:
        yield serving.url + "/mcp"


@pytest.fixture
async def servers(url: str) -> AsyncIterator[McpServers]:
    """Two servers that work, one on a shelf and one for sums, and one that is down."""
    limits = Timeouts(connect=20, call=20)
    found = McpServers(
        [
            McpServer(name="shelf", command=sys.executable, args=[FRIENDLY], timeouts=limits),
            McpServer(name="sums", url=url, timeouts=limits, instructions="Use sums for sums."),
            McpServer(name="dead", command=sys.executable, args=[HOSTILE, "dead"], timeouts=limits),
        ]
    )
    yield found
    await found.aclose()


Ask = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
async def serve_script(servers: McpServers) -> AsyncIterator[Callable[..., Ask]]:
    """``serve_script(*entries, **settings)`` gives what asks an application over a scripted engine."""
    clients: list[httpx.AsyncClient] = []

    def start(*entries: Any, operations: Operations | None = None, **settings: Any) -> Ask:
        app = create_app(
            ScriptedEngine(*entries),
            model_names=["m"],
            mcp=McpSettings(servers=servers, **settings),
            operations=operations,
        )
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60)
        clients.append(client)

        async def ask(text: str | None = "How much fruit is there?", **fields: Any) -> httpx.Response:
            if text is None:
                return await client.get(fields["path"])
            return await client.post(PATH, json={"messages": [{"role": "user", "content": text}], **fields})

        return ask

    yield start
    for client in clients:
        await client.aclose()


SUM_OF_FRUIT = (
    [("count", {"thing": "apples"}), ("count", {"thing": "pears"})],
    lambda prompt: [("add", {"a": int(told(prompt, 2)), "b": int(told(prompt))})],
    lambda prompt: f"There are {told(prompt)} fruits.",
)


async def test_a_chat_of_three_turns_is_one_reply(serve_script: Callable[..., Ask]) -> None:
    ask = serve_script(*SUM_OF_FRUIT)
    reply = await ask(mcp={})
    assert reply.status_code == 200, reply.text
    body = reply.json()
    [choice] = body["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "There are 8 fruits.")
    assert "tool_calls" not in choice["message"]
    calls = [
        {name: call[name] for name in ("turn", "server_label", "name", "arguments", "output", "error")}
        for call in choice["message"]["mcp_calls"]
    ]
    assert calls == [
        {"turn": 1, "server_label": "shelf", "name": "count", "arguments": '{"thing": "apples"}', "output": "3"}
        | {"error": None},
        {"turn": 1, "server_label": "shelf", "name": "count", "arguments": '{"thing": "pears"}', "output": "5"}
        | {"error": None},
        {"turn": 2, "server_label": "sums", "name": "add", "arguments": '{"a": 3, "b": 5}', "output": "8"}
        | {"error": None},
    ]
    assert len({call["id"] for call in choice["message"]["mcp_calls"]}) == 3


async def test_usage_is_the_sum_of_the_turns(serve_script: Callable[..., Ask]) -> None:
    operations = Operations()
    ask = serve_script(*SUM_OF_FRUIT, operations=operations)
    usage = (await ask(mcp={})).json()["usage"]
    [row] = operations.usage.report("").data
    # To those who count, each turn is a request.
    assert (row.requests, row.failed) == (3, 0)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (row.prompt_tokens, row.generated_tokens)
    alone = (await serve_script("hello")("hi")).json()["usage"]
    assert usage["prompt_tokens"] > 3 * alone["prompt_tokens"]


async def test_the_stream_adds_up_to_the_reply(serve_script: Callable[..., Ask]) -> None:
    script = (
        "Let me look.\n" + '<tool_call>\n{"name": "count", "arguments": {"thing": "nuts"}}\n</tool_call>',
        lambda prompt: f"Hm: {told(prompt)}",
    )
    ask = serve_script(*script)
    whole = (await ask(mcp={"servers": ["shelf"]})).json()["choices"][0]["message"]
    lines = (
        await ask(mcp={"servers": ["shelf"]}, stream=True, stream_options={"include_usage": True})
    ).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    together = accumulate(ChatCompletionChunk.model_validate(chunk) for chunk in chunks).choices[0].message
    assert lines[-2] == "data: [DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["content"]
    assert whole["content"].startswith("Let me look.\n\nHm: Error: Error executing tool count: there are no nuts")
    pieces = [each for delta in deltas for each in delta.get("mcp_calls", ())]
    assert [piece.pop("index") for piece in pieces] == [0] * len(pieces)
    arguments = "".join(piece.pop("arguments", "") for piece in pieces)
    merged = {name: value for piece in pieces for name, value in piece.items()} | {"arguments": arguments}
    [call] = whole["mcp_calls"]
    assert {**merged, "id": ""} == {**call, "id": ""}
    assert call["error"] == "tool_error"
    assert chunks[-1]["usage"]["total_tokens"] > 0
    assert together.mcp_calls is not None
    together.mcp_calls[0].id = call["id"]
    assert together.model_dump(exclude_unset=True) == whole
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]][-1] == "stop"


async def test_the_openai_client_reads_both(servers: McpServers) -> None:
    app = create_app(ScriptedEngine(*SUM_OF_FRUIT), mcp=McpSettings(servers=servers))
    transport = httpx2.ASGITransport(app)
    async with AsyncOpenAI(
        base_url="http://localhost/v1", api_key="-", http_client=httpx2.AsyncClient(transport=transport)
    ) as client:
        asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
        reply = await client.chat.completions.create(**asked, extra_body={"mcp": {}})
        assert reply.choices[0].message.content == "There are 8 fruits."
        made = (reply.choices[0].message.model_extra or {})["mcp_calls"]
        assert [call["output"] for call in made] == ["3", "5", "8"]
        async with client.chat.completions.stream(**asked, extra_body={"mcp": {}}) as stream:
            async for _ in stream:
                pass
            streamed = (await stream.get_final_completion()).choices[0].message
        assert streamed.content == reply.choices[0].message.content
        told_again = (streamed.model_extra or {})["mcp_calls"]
        assert [(call["name"], call["arguments"], call["output"]) for call in told_again] == [
            (call["name"], call["arguments"], call["output"]) for call in made
        ]
        # What came back can be sent back: the model is shown what it did.
        more = await client.chat.completions.create(
            model="m",
            messages=[*asked["messages"], reply.choices[0].message, {"role": "user", "content": "And now?"}],
            extra_body={"mcp": {"servers": []}},
        )
        assert more.choices[0].message.content == "There are 8 fruits."


async def test_the_clients_own_tools_come_back_to_it(serve_script: Callable[..., Ask]) -> None:
    ask = serve_script(
        [("count", {"thing": "plums"})],
        [("weather", {"city": "Oslo"}), ("count", {"thing": "pears"})],
        lambda prompt: f"{told(prompt, 3)} {told(prompt, 2)} {told(prompt)}",
    )
    reply = (await ask(mcp={}, tools=[WEATHER])).json()["choices"][0]
    message = reply["message"]
    assert reply["finish_reason"] == "tool_calls"
    [call] = message["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert [(made["turn"], made["output"]) for made in message["mcp_calls"]] == [(1, "7"), (2, "5")]
    answered = {"role": "tool", "tool_call_id": call["id"], "content": "rain"}
    body = {"messages": [{"role": "user", "content": "?"}, message, answered], "tools": [WEATHER], "mcp": {}}
    lines = (await ask("?", **body, stream=True)).text.splitlines()
    # Three assistant turns are told of, so the script is at its end: 7 plums, 5 pears, and the weather.
    content = "".join(
        json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in lines if line.startswith("data: {")
    )
    assert content == "7 5 rain"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stream_numbers_the_clients_calls_by_themselves(serve_script: Callable[..., Ask], stream: bool) -> None:
    ask = serve_script([("count", {"thing": "pears"}), ("weather", {"city": "Oslo"})])
    reply = await ask(mcp={}, tools=[WEATHER], stream=stream)
    if not stream:
        assert len(reply.json()["choices"][0]["message"]["tool_calls"]) == 1
        return
    chunks = [json.loads(line[6:])["choices"][0] for line in reply.text.splitlines() if line.startswith("data: {")]
    calls = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
    assert {call["index"] for call in calls} == {0}
    assert "".join(call["function"].get("arguments", "") for call in calls) == '{"city": "Oslo"}'
    assert chunks[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"mcp": {"servers": ["shelf", "else"]}}, 400, "mcp.servers", "names 'else'; there are: shelf, sums, dead"),
        ({"mcp": {"url": "http://evil.example/mcp"}}, 400, "mcp.url", "Unrecognized request argument"),
        ({"mcp": {"servers": [{"command": "sh"}]}}, 400, "mcp.servers[0]", "valid string"),
        ({"mcp": {"command": "sh", "args": ["-c", "x"]}}, 400, "mcp.command", "Unrecognized request argument"),
        ({"tools": [{"type": "mcp", "server_url": "http://evil.example"}]}, 400, None, "tools[0]"),
        ({"mcp": {"max_turns": 11}}, 400, "mcp.max_turns", "is 11, above the 10 allowed here"),
        ({"mcp": {"max_turns": 0}}, 400, "mcp.max_turns", "greater than or equal to 1"),
        ({"mcp": {}, "n": 2}, 400, "n", "must be 1 where tools are run here"),
        ({"mcp": {}, "response_format": {"type": "json_object"}}, 400, "response_format", "cannot be held where tools"),
        ({"mcp": {}, "guided_choice": ["a", "b"]}, 400, "guided_choice", "cannot be held where tools"),
        ({"mcp": {}, "tool_choice": {"type": "function", "function": {"name": "fly"}}}, 400, "tool_choice", "'fly'"),
        ({"mcp": {"servers": ["dead"]}}, 503, None, "cannot start"),
    ],
)
async def test_what_is_refused(
    serve_script: Callable[..., Ask], fields: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    reply = await serve_script("hello")(**fields)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert words in error["message"] or words in (error["param"] or "")
    assert param is None or error["param"] == param
    if status == 503:
        assert (error["code"], reply.headers["retry-after"]) == ("mcp_server_unavailable", "5")


async def test_a_server_without_mcp_servers_refuses_them_and_lists_none() -> None:
    app = create_app(ScriptedEngine("hello"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        asked = {"messages": [{"role": "user", "content": "?"}]}
        reply = await client.post(PATH, json={**asked, "mcp": {}})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "mcp")
        assert (await client.post(PATH, json=asked)).status_code == 200
        assert (await client.get("/v1/mcp/tools")).json() == {"object": "list", "data": [], "servers": []}


async def test_which_tools_there_are_and_how_servers_fare(
    serve_script: Callable[..., Ask], servers: McpServers
) -> None:
    ask = serve_script("hello")
    before = (await ask(None, path="/v1/mcp/tools")).json()
    assert (before["data"], [each["state"] for each in before["servers"]]) == ([], ["idle"] * 3)
    servers.start()
    body = before
    deadline = time.monotonic() + 20
    while len(body["data"]) < 4 or body["servers"][2]["problem"] is None:
        assert time.monotonic() < deadline, body
        await asyncio.sleep(0.05)
        body = (await ask(None, path="/v1/mcp/tools")).json()
    assert [(tool["name"], tool["server"]) for tool in body["data"]] == [
        *(("count", "shelf"), ("put", "shelf")),
        *(("add", "sums"), ("nap", "sums")),
    ]
    assert body["data"][0]["parameters"]["required"] == ["thing"]
    shelf, sums, dead = body["servers"]
    assert (shelf["state"], shelf["tools"], sums["state"], sums["tools"]) == ("ready", 2, "ready", 2)
    assert "cannot start" in dead["problem"]
    assert FRIENDLY not in json.dumps(body)


async def test_a_server_that_is_down_at_first_is_tried_again(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text("raise SystemExit('not yet')")
    servers = McpServers([McpServer(name="late", command=sys.executable, args=[str(script)])])
    servers.start()
    deadline = time.monotonic() + 20
    while servers.status()[0].problem is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    shutil.copy(FRIENDLY, script)
    while not servers.listed():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert set(servers.listed()) == {"count", "put"}
    await servers.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_by_default_all_servers_are_used(serve_script: Callable[..., Ask]) -> None:
    ask = serve_script(*SUM_OF_FRUIT, by_default=True)
    assert (await ask()).json()["choices"][0]["message"]["content"] == "There are 8 fruits."
    others: list[dict[str, Any]] = [
        *({"mcp": {"servers": []}}, {"tool_choice": "none"}, {"n": 2}),
        {"response_format": {"type": "json_object"}},
    ]
    for fields in others:
        plain = (await ask(**fields)).json()["choices"][0]["message"]
        assert "tool_call" in plain["content"] and "mcp_calls" not in plain
    # An API that cannot tell of such calls has none.
    off = serve_script(*SUM_OF_FRUIT)
    assert "mcp_calls" not in (await off()).json()["choices"][0]["message"]


async def test_only_allowed_tools_of_chosen_servers(serve_script: Callable[..., Ask]) -> None:
    ask = serve_script([("add", {"a": 1, "b": 1}), ("count", {"thing": "pears"}), ("put", {})], "done")
    reply = (await ask(mcp={"servers": ["shelf"], "allowed_tools": ["count"]})).json()
    made = reply["choices"][0]["message"]["mcp_calls"]
    assert [(call["server_label"], call["error"]) for call in made] == [
        (None, "unknown_tool"),
        ("shelf", None),
        ("shelf", "refused"),
    ]


@pytest.mark.parametrize(
    ("fields", "bound", "turns"),
    [
        ({"mcp": {"max_turns": 2}}, "max_turns", 2),
        ({"mcp": {"max_total_tokens": 10}}, "token_budget", 1),
        ({"mcp": {}}, "loop", 5),
    ],
)
async def test_bounds_end_the_turns(
    serve_script: Callable[..., Ask], fields: dict[str, Any], bound: str, turns: int
) -> None:
    ask = serve_script([("count", {"thing": "pears"})])
    [choice] = (await ask(**fields)).json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", bound)
    assert choice["message"]["mcp_calls"][-1]["turn"] == turns
    lines = (await ask(**fields, stream=True)).text.splitlines()
    last = json.loads([line for line in lines if line.startswith("data: {")][-1][6:])["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("length", bound)
    chunks = [ChatCompletionChunk.model_validate_json(line[6:]) for line in lines if line.startswith("data: {")]
    assert accumulate(chunks).choices[0].stop_reason == bound


async def test_time_ends_a_call_that_hangs(serve_script: Callable[..., Ask], servers: McpServers) -> None:
    await servers.tools()
    ask = serve_script([("add", {"a": 1, "b": 1}), ("nap", {"seconds": 30})], "done")
    began = time.monotonic()
    [choice] = (await ask(mcp={"timeout": 2.0})).json()["choices"]
    assert time.monotonic() - began < 6
    assert choice["stop_reason"] == "time_budget"
    assert [call["error"] for call in choice["message"]["mcp_calls"]] == [None, "timeout"]


async def test_tokens_of_all_turns_together_are_bounded(serve_script: Callable[..., Ask]) -> None:
    ask = serve_script([("count", {"thing": "pears"})], "word " * 50)
    body = (await ask(mcp={}, max_tokens=100)).json()
    assert (body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]) == ("length", 100)
    assert "stop_reason" not in body["choices"][0]
    assert body["choices"][0]["message"]["content"].startswith("word word")


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "count"}}])
async def test_a_tool_can_be_demanded_of_the_first_turn(servers: McpServers, choice: Any) -> None:
    engine = ScriptedEngine([("count", {"thing": "pears"})], "done")
    app = create_app(engine, mcp=McpSettings(servers=servers))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60) as client:
        asked = {"messages": [{"role": "user", "content": "?"}], "mcp": {"servers": ["shelf"]}, "tool_choice": choice}
        reply = await client.post(PATH, json=asked)
    assert reply.json()["choices"][0]["message"]["content"] == "done"
    first, second = (params.form for _, params in engine.submitted)
    assert (first == second) == (choice == "auto")


async def test_an_answer_of_one_turn_is_as_ever(serve_script: Callable[..., Ask]) -> None:
    plain = (await serve_script("hello")(mcp={"servers": ["sums"]})).json()
    assert plain["choices"][0]["message"] == {"role": "assistant", "content": "hello", "refusal": None}


async def test_the_model_is_told_of_tools_and_instructions(servers: McpServers) -> None:
    engine = ScriptedEngine("hello")
    app = create_app(engine, mcp=McpSettings(servers=servers))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60) as client:
        await client.post(PATH, json={"messages": [{"role": "user", "content": "?"}], "mcp": {"servers": ["sums"]}})
    assert "Use sums for sums." in engine.prompts[-1]
    assert "Adds two numbers." in engine.prompts[-1]
    assert "on the shelf" not in engine.prompts[-1]


async def test_what_fails_later_is_the_replys_error(serve_script: Callable[..., Ask]) -> None:
    ask = serve_script([("count", {"thing": "pears"})], RuntimeError("the engine is gone"))
    reply = await ask(mcp={})
    assert reply.status_code == 500
    lines = (await ask(mcp={}, stream=True)).text.splitlines()
    assert any("server_error" in line for line in lines)


async def test_calls_and_servers_are_counted(serve_script: Callable[..., Ask]) -> None:
    operations = Operations()
    ask = serve_script([("count", {"thing": "pears"}), ("count", {"thing": "nuts"})], "done", operations=operations)
    await ask(mcp={})
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families((await operations.metrics.scrape()).decode())
        for sample in family.samples
        if sample.name.startswith("candle_vllm_mcp") and "le" not in sample.labels
    }
    assert samples["candle_vllm_mcp_calls_total", ("outcome", "ok"), ("server", "shelf")] == 1
    assert samples["candle_vllm_mcp_calls_total", ("outcome", "tool_error"), ("server", "shelf")] == 1
    assert samples["candle_vllm_mcp_call_seconds_count", ("server", "shelf")] == 2
    assert samples["candle_vllm_mcp_server_up", ("server", "shelf")] == 1
    assert samples["candle_vllm_mcp_server_up", ("server", "dead")] == 0
    assert samples["candle_vllm_mcp_tools", ("server", "sums")] == 2


NAPPING = '''
import asyncio, sys
from mcp.server.mcpserver import MCPServer

server = MCPServer("napping")

@server.tool()
async def nap() -> str:
    """Sleeps, and writes down how that ended."""
    with open(sys.argv[1], "a") as notes:
        print("asleep", file=notes, flush=True)
        try:
            await asyncio.sleep(60)
        except BaseException as error:
            print(type(error).__name__, file=notes, flush=True)
            raise
    return "rested"

server.run()
'''


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_the_call(serve: Callable[..., LiveServer], tmp_path: Path, stream: bool) -> None:
    script, notes = tmp_path / "napping.py", tmp_path / "notes"
    script.write_text(NAPPING)
    notes.write_text("")
    servers = McpServers([McpServer(name="napping", command=sys.executable, args=[str(script), str(notes)])])
    engine = ScriptedEngine([("nap", {})], "done")
    live = serve(create_app(engine, mcp=McpSettings(servers=servers)))

    def until(words: str) -> None:
        deadline = time.monotonic() + 20
        while words not in notes.read_text():
            assert time.monotonic() < deadline, notes.read_text()
            time.sleep(0.02)

    body = {"messages": [{"role": "user", "content": "?"}], "mcp": {}, "stream": stream}
    with LeavingClient(live, body):
        until("asleep")
    until("CancelledError")
    assert not engine.live
    asyncio.run(servers.aclose())


class LeavingClient:
    """Sends a request and goes away with the block."""

    def __init__(self, live: LiveServer, body: dict[str, Any]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", live.port))
        text = json.dumps(body).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._socket.sendall(head.encode() + f"Content-Length: {len(text)}\r\n\r\n".encode() + text)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._socket.close()


async def test_tools_that_the_operator_allows_are_all_there_are(serve_script: Callable[..., Ask]) -> None:
    for asked in ({}, {"allowed_tools": ["put", "count"]}):
        ask = serve_script(
            [("count", {"thing": "pears"}), ("put", {"thing": "pears", "number": 1})],
            "done",
            options=ConversationOptions(allowed_tools=["count", "add"]),
        )
        [choice] = (await ask(mcp=asked)).json()["choices"]
        assert [call["error"] for call in choice["message"]["mcp_calls"]] == [None, "unknown_tool"]


async def test_options_of_the_operator_hold(serve_script: Callable[..., Ask]) -> None:
    ask = serve_script([("count", {"thing": "pears"})], options=ConversationOptions(max_turns=3, max_repeats=9))
    [choice] = (await ask(mcp={})).json()["choices"]
    assert (choice["stop_reason"], len(choice["message"]["mcp_calls"])) == ("max_turns", 3)


@pytest.mark.slow
async def test_nothing_is_left_after_200_chats_with_hostile_servers() -> None:
    """Half of their clients leave while a call runs."""
    modes = ("fine", "crashing", "silent", "malformed", "half", "protocol_error", "storm", "grandchild")
    limits = Timeouts(connect=20, call=1.0)
    servers = McpServers(
        [McpServer(name=mode, command=sys.executable, args=[HOSTILE, mode], timeouts=limits) for mode in modes]
    )
    engine = ScriptedEngine(lambda prompt: [(name, {"text": "x"}) for name in called(prompt)], "done")
    engine.batch = 64
    app = create_app(engine, mcp=McpSettings(servers=servers))
    files, tasks = open_files(), len(asyncio.all_tasks())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:

        async def chat(at: int) -> Any:
            asked = {"messages": [{"role": "user", "content": "?"}], "mcp": {"servers": [modes[at % len(modes)]]}}
            try:
                async with asyncio.timeout(0.5 if at % 2 else None):
                    reply = (await client.post(PATH, json=asked)).json()
                    if "error" in reply:
                        return reply["error"]["code"]
                    message = reply["choices"][0]["message"]
                    kinds.update(call["error"] for call in message["mcp_calls"])
                    return message["content"]
            except TimeoutError:
                return "left"

        ends: list[Any] = []
        kinds: set[str | None] = set()
        for begin in range(0, 200, 25):
            ends += await asyncio.gather(*(chat(at) for at in range(begin, begin + 25)))
    # One that fails again and again rests for a while; who asks for it then is told so.
    assert set(ends) <= {"done", "left", "mcp_server_unavailable"}
    assert ends.count("done") > 50
    assert {None, "connection", "timeout", "protocol_error"} <= kinds
    assert not engine.live
    await servers.aclose()
    gc.collect()
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) == tasks
    assert open_files() <= files


def called(prompt: str) -> list[str]:
    """The names of the tools that a prompt shows."""
    return re.findall(r'"name": "(\w*echo\w*)"', prompt)[:1]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
