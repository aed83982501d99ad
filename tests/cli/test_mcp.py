"""MCP servers of the server's own: flags, the environment, and their processes from its start to its end."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from candle_vllm.cli.flags import serve_parser
from candle_vllm.cli.mcp import CONFIG_VARIABLE, mcp_settings
from candle_vllm.cli.settings import UsageError
from cli.test_serve import Process, start

__all__ = ["start"]

TESTS = Path(__file__).parent.parent
FRIENDLY = str(TESTS / "mcp_friendly.py")
CALL = '<tool_call>\n{"name": "count", "arguments": {"thing": "pears"}}\n</tool_call>'


def servers_of(*flags: str) -> list[tuple[str, str | None, list[str]]]:
    found = mcp_settings(serve_parser(True).parse(flags)).servers
    return [(client.server.name, client.server.command, list(client.server.args)) for client in found]


def config(folder: Path, **servers: list[str]) -> str:
    """A file of servers that are programs of this Python, by name."""
    entries = {name: {"command": sys.executable, "args": args} for name, args in servers.items()}
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": entries}))
    return str(path)


def test_where_servers_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    assert servers_of() == []
    file = config(tmp_path, shelf=["a.py"])
    shelf = ("shelf", sys.executable, ["a.py"])
    assert servers_of("--mcp-config", file) == [shelf]
    monkeypatch.setenv(CONFIG_VARIABLE, file)
    assert servers_of() == [shelf]
    other = ("time", "/bin/time.sh", ["-m", "x", "y z"])
    assert servers_of("--mcp-command", "/bin/time.sh", "--mcp-args=-m,x,y z") == [shelf, other]
    assert servers_of("--mcp-command", "/bin/time.sh", "--mcp-args", "a,b", "c")[1][2] == ["a", "b", "c"]
    settings = mcp_settings(serve_parser(True).parse(["--mcp-by-default", "--mcp-max-turns", "3"]))
    assert (settings.by_default, settings.options.max_turns) == (True, 3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mcp-config", "/nowhere/mcp.json"], "--mcp-config: mcp_config cannot be read"),
        (["--mcp-args", "a"], "--mcp-args: there is no --mcp-command"),
        (["--mcp-by-default"], "--mcp-by-default: there are no MCP servers"),
        (["--mcp-max-turns", "0"], "--mcp-max-turns 0: must be at least 1"),
        (["--mcp-command", ""], "--mcp-command: "),
    ],
)
def test_what_is_refused(flags: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    with pytest.raises(UsageError, match=words):
        servers_of(*flags)


def test_a_file_that_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "mcp.json"
    wrong.write_text('{"mcpServers": {"x": {"url": "ftp://x"}}}')
    monkeypatch.setenv(CONFIG_VARIABLE, str(wrong))
    with pytest.raises(UsageError, match=rf"{CONFIG_VARIABLE}: .*server 'x': url must be an http"):
        servers_of()


def test_a_chat_with_tools_and_an_end_without_orphans(start: Callable[..., Process], tmp_path: Path) -> None:
    notes = tmp_path / "pids"
    script = tmp_path / "noted.py"
    note = f"import os\nwith open({str(notes)!r}, 'a') as notes:\n    print(os.getpid(), file=notes)\n"
    script.write_text(note + Path(FRIENDLY).read_text())
    hanging = tmp_path / "hanging.py"
    hanging.write_text(note + "import time\ntime.sleep(600)\n")
    file = config(tmp_path, shelf=[str(script)], hanging=[str(hanging)])
    began = time.monotonic()
    process = start("--h", "127.0.0.1:0", "--mcp-config", file, "--mcp-max-turns", "1", ANSWER=CALL)
    url = process.url
    # A server that hangs keeps nobody from starting.
    assert time.monotonic() - began < 15
    assert "shelf, hanging" in process.said
    asked = {"messages": [{"role": "user", "content": "?"}], "mcp": {"servers": ["shelf"]}}
    [choice] = httpx.post(url + "/v1/chat/completions", json=asked, timeout=30).json()["choices"]
    assert [call["output"] for call in choice["message"]["mcp_calls"]] == ["5"]
    states = {each["name"]: each["state"] for each in httpx.get(url + "/v1/mcp/tools").json()["servers"]}
    assert states == {"shelf": "ready", "hanging": "connecting"}
    process.signal(signal.SIGTERM)
    assert process.status() == 0
    pids = [int(pid) for pid in notes.read_text().split()]
    assert len(pids) >= 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
