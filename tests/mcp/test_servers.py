"""Several servers as one set of tools."""

import shutil
import sys
import time
from pathlib import Path

import pytest

from candle_vllm.errors import ConfigError
from candle_vllm.mcp import McpServer, McpServers, Timeouts

HOSTILE = str(Path(__file__).with_name("hostile.py"))


def server(name: str, mode: str = "fine", *, connect: float = 20.0, instructions: str | None = None) -> McpServer:
    limits = Timeouts(connect=connect, call=20)
    return McpServer(
        name=name, command=sys.executable, args=[HOSTILE, mode], timeouts=limits, instructions=instructions
    )


async def test_a_server_that_hangs_is_waited_for_once() -> None:
    servers = McpServers([server("mute", "mute", connect=2.0), server("fine")])
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert list(await servers.tools()) == ["echo"]
        took.append(time.monotonic() - began)
    assert took[0] > 1.9
    assert max(took[1:]) < 1.5
    mute, fine = servers.status()
    assert "no answer within" in (mute.problem or "")
    assert (fine.state, fine.tools, fine.problem) == ("ready", 1, None)
    await servers.aclose()


async def test_a_server_that_comes_back_is_found(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text("raise SystemExit('not yet')")
    late = McpServer(name="late", command=sys.executable, args=[str(script), "fine"])
    servers = McpServers([late])
    assert await servers.tools() == {}
    assert "not yet" in (servers.status()[0].problem or "")
    shutil.copy(HOSTILE, script)
    deadline = time.monotonic() + 20
    while not await servers.tools():
        assert time.monotonic() < deadline
    assert servers.status()[0].problem is None
    await servers.aclose()


async def test_servers_are_told_apart() -> None:
    servers = McpServers([server("a", instructions="Use a."), server("b")])
    assert (len(servers), servers.instructions(), servers.instructions(["b"])) == (2, ["Use a."], [])
    assert servers.client("a").server.name == "a"
    with pytest.raises(ConfigError, match="there is an MCP server 'a' already"):
        servers.add(server("a"))
    with pytest.raises(ConfigError, match=r"one of those added \(a, b\); got 'c'"):
        servers.client("c")
    assert [status.state for status in servers.status()] == ["idle", "idle"]
    await servers.aclose()
