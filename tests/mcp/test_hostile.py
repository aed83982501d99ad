"""Servers that misbehave: each call ends in a typed result within its time, and nothing is left behind."""

import asyncio
import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from candle_vllm.errors import McpConnectionError
from candle_vllm.mcp import Limits, McpClient, McpServer, McpServers, Timeouts, ToolResult

SERVER = str(Path(__file__).with_name("hostile.py"))


def hostile(mode: str, notes: Path | None = None, *, call: float = 1.0, **settings: Any) -> McpServer:
    return McpServer(
        name=settings.pop("name", mode),
        command=sys.executable,
        args=[SERVER, mode, *([str(notes)] if notes else [])],
        timeouts=Timeouts(connect=settings.pop("connect", 10.0), call=call, idle=settings.pop("idle", 60.0)),
        **settings,
    )


async def echo(client: McpClient, text: str = "hello") -> ToolResult:
    return await client.call_tool("echo", {"text": text})


def noted(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.mark.parametrize(
    ("mode", "outcome", "words"),
    [
        ("slow", "timeout", "within 1 s"),
        ("silent", "timeout", "within 1 s"),
        ("malformed", "timeout", "within 1 s"),
        ("wrong_id", "timeout", "within 1 s"),
        ("crashing", "connection", "exit status 3; its last words: RuntimeError: out of paper"),
        ("half", "connection", "exit status 0"),
        ("huge", "connection", "a line above 16777216 bytes"),
        ("no_content", "invalid_result", "no valid result"),
        ("typed", "invalid_result", "structured content"),
        ("protocol_error", "protocol_error", "the database is locked"),
    ],
)
async def test_a_call_that_goes_wrong_is_a_result(mode: str, outcome: str, words: str) -> None:
    limit = 1.0 if outcome == "timeout" else 30.0
    async with McpClient(hostile(mode, call=limit)) as client:
        await client.list_tools()
        began = time.monotonic()
        result = await echo(client)
        assert (result.outcome, result.is_error) == (outcome, True)
        assert words in result.text
        assert time.monotonic() - began < limit + 3


@pytest.mark.parametrize("mode", ["banner", "storm", "grandchild", "evil"])
async def test_what_can_be_borne_is(mode: str) -> None:
    async with McpClient(hostile(mode, call=20.0)) as client:
        result = await echo(client)
        assert (result.text, result.outcome) == ("hello", "ok")


async def test_a_call_that_may_have_run_is_never_repeated(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with McpClient(hostile("crashing", notes)) as client:
        for text in ("one", "two", "three"):
            result = await echo(client, text)
            assert result.outcome == "connection"
            assert "may have run" in result.text
    assert [line for line in noted(notes) if line.startswith("call")] == ["call one", "call two", "call three"]
    # Each call found the server dead, and had it started once.
    assert noted(notes).count("initialize") == 3


async def test_a_server_that_ends_again_and_again_rests_longer_each_time(tmp_path: Path) -> None:
    client = McpClient(hostile("dead"))
    took = []
    for _ in range(5):
        began = time.monotonic()
        with pytest.raises(McpConnectionError, match="cannot start"):
            await client.connect()
        took.append(time.monotonic() - began)
    assert took[3] > took[0] + 0.3  # 0.4 s of rest after the third failure
    for _ in range(3):
        with pytest.raises(McpConnectionError):
            await client.connect()
    began = time.monotonic()
    with pytest.raises(McpConnectionError, match=r"tried again in \d+ s"):
        await client.connect()
    assert time.monotonic() - began < 0.5
    await client.aclose()


async def test_an_old_server_that_dies_of_the_modern_question_is_asked_in_the_old_way(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with McpClient(hostile("old", notes)) as client:
        assert (await echo(client)).text == "hello"
    assert noted(notes)[:2] == ["discover", "initialize"]


async def test_a_server_that_never_answers_keeps_nobody_beyond_the_connect_timeout() -> None:
    client = McpClient(hostile("mute", connect=1.0))
    began = time.monotonic()
    result = await echo(client)
    assert result.outcome == "connection"
    assert time.monotonic() - began < 2
    await client.aclose()


async def test_a_server_that_never_answers_keeps_nobody_from_closing() -> None:
    client = McpClient(hostile("mute", connect=60.0))
    connecting = asyncio.create_task(client.connect())
    while client.state != "connecting":  # noqa: ASYNC110 - the client has no event for this
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await client.aclose()
    # The grace for its process, which ignores the end of its input.
    assert time.monotonic() - began < 5
    with pytest.raises(McpConnectionError, match="the client is closed"):
        await connecting


async def test_endless_pages_end(caplog: pytest.LogCaptureFixture) -> None:
    async with McpClient(hostile("pages", call=20.0, limits=Limits(pages=7))) as client:
        assert [tool.name for tool in await client.list_tools()] == [f"echo{at}" for at in range(7)]
    assert "more than 7 pages" in caplog.text


async def test_a_list_of_tools_that_changed_is_read_again() -> None:
    async with McpClient(hostile("changing")) as client:
        assert [tool.name for tool in await client.list_tools()] == ["echo", "extra0"]
        await echo(client)
        await asyncio.sleep(1.1)
        assert [tool.name for tool in await client.list_tools()] == ["echo", "extra1"]


async def test_remote_references_are_never_fetched() -> None:
    asked = asyncio.Event()

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    listener = await asyncio.start_server(met, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with (
        listener,
        McpClient(hostile("remote_ref", env={"REMOTE_SCHEMA": f"http://127.0.0.1:{port}/schema.json"})) as client,
    ):
        tools = await client.list_tools()
        assert "$ref" not in str(tools[0].parameters)
        assert (await echo(client)).text == "hello"
    assert not asked.is_set()


@pytest.mark.parametrize("mode", ["grandchild", "stubborn", "deaf"])
async def test_processes_and_what_they_leave_are_ended(mode: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with McpClient(hostile(mode, notes)) as client:
        assert (await echo(client)).text == "hello"
    for line in noted(notes):
        if line.startswith("grandchild"):
            assert not running(int(line.split()[1]))
    assert children() == []


async def test_an_idle_connection_is_closed_and_opened_again(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with McpClient(hostile("fine", notes, idle=0.3)) as client:
        assert (await echo(client)).text == "hello"
        await asyncio.sleep(1.5)
        assert client.state == "idle"
        assert children() == []
        assert (await echo(client)).text == "hello"
    assert noted(notes).count("initialize") == 2


async def test_only_safe_variables_are_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "x")
    code = "import json, os, sys; sys.exit(json.dumps(sorted(os.environ)))"
    given = McpServer(name="env", command=sys.executable, args=["-c", code], env={"GIVEN": "1"})
    with pytest.raises(McpConnectionError) as caught:
        await McpClient(given).connect()
    assert '"GIVEN"' in str(caught.value)
    assert '"PATH"' in str(caught.value)
    assert "SECRET_KEY" not in str(caught.value)


async def test_cancelling_a_caller_leaves_the_session_usable() -> None:
    async with McpClient(hostile("silent", call=30.0)) as client:
        task = asyncio.create_task(echo(client))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await client.list_tools(refresh=True)) == 1


async def test_a_client_serves_several_loops() -> None:
    async with McpClient(hostile("fine")) as client:
        elsewhere = await asyncio.to_thread(lambda: asyncio.run(echo(client, "from afar")))
        assert elsewhere.text == "from afar"
        assert (await echo(client)).text == "hello"


def test_a_client_outlives_its_loop() -> None:
    client = McpClient(hostile("fine"))
    for _ in range(2):
        assert asyncio.run(echo(client)).text == "hello"
    asyncio.run(client.aclose())
    assert children() == []


async def test_one_server_that_is_down_leaves_the_others_alone() -> None:
    servers = McpServers([hostile("dead"), hostile("fine", name="one"), hostile("fine", name="two")])
    tools = await servers.tools()
    assert sorted(tools) == ["one__echo", "two__echo"]
    status = {each.name: each for each in servers.status()}
    assert status["dead"].state == "failed"
    assert "cannot start" in (status["dead"].problem or "")
    assert status["one"].tools == 1
    await servers.aclose()


@pytest.mark.slow
async def test_nothing_is_left_after_200_sessions(tmp_path: Path) -> None:
    modes = ["fine", "crashing", "silent", "malformed", "half", "banner", "old", "dead", "protocol_error", "grandchild"]
    notes = tmp_path / "notes"

    async def session(mode: str) -> None:
        client = McpClient(hostile(mode, notes, call=2.0))
        await echo(client)
        await client.aclose()

    await session("fine")
    gc.collect()
    files, tasks = open_files(), len(asyncio.all_tasks())
    for _ in range(5):
        await asyncio.gather(*(session(mode) for mode in modes for _ in range(4)))
    gc.collect()
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) == tasks
    assert open_files() <= files
    assert children() == []
    left = [line for line in noted(notes) if line.startswith("grandchild") and running(int(line.split()[1]))]
    assert left == []


def running(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> list[int]:
    """Processes started by this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid() and "hostile.py" in cmdline(entry):
                found.append(int(entry.name))
    return found


def cmdline(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
