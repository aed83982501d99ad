"""Configurations of MCP servers."""

import json
from pathlib import Path
from typing import Any

import pytest

from candle_vllm.errors import ConfigError
from candle_vllm.mcp import McpServer, Timeouts, parse_config, read_config

FILES = {"command": "files", "args": ["--root", "."], "env": {"A": "1"}}
SEARCH = {"url": "https://example.com/mcp", "auth": "hush", "timeout_secs": 7}


def test_the_three_forms_say_the_same() -> None:
    mapping = parse_config({"mcpServers": {"files": FILES, "search": SEARCH}})
    listed = [{"name": "files", **FILES}, {"name": "search", **SEARCH}]
    assert mapping == parse_config({"servers": listed}) == parse_config(listed)
    files, search = mapping
    assert (files.command, list(files.args), files.env, files.transport) == ("files", ["--root", "."], {"A": "1"}, None)
    assert search.sent_headers == {"Authorization": "Bearer hush"}
    assert search.timeouts == Timeouts(call=7)


def test_an_auth_with_a_space_is_the_whole_header() -> None:
    server = McpServer(name="x", url="https://example.com", auth="Basic abc", headers={"X-Team": "blue"})
    assert server.sent_headers == {"X-Team": "blue", "Authorization": "Basic abc"}


def test_secrets_stay_out_of_what_is_shown() -> None:
    server = McpServer(name="x", url="https://example.com", auth="hush", headers={"X-Key": "hush"})
    assert "hush" not in repr(server)
    assert "hush" not in repr(McpServer(name="x", command="y", env={"KEY": "hush"}))


def test_variables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    monkeypatch.delenv("ABSENT", raising=False)
    entry = {"url": "https://${HOST_NAME:-example.com}/mcp", "auth": "${env:TOKEN}"}
    (server,) = parse_config({"mcpServers": {"x": entry}})
    assert (server.url, server.auth) == ("https://example.com/mcp", "hush")
    with pytest.raises(ConfigError, match="server 'x': the environment variable ABSENT is not set"):
        parse_config({"mcpServers": {"x": {"command": "${ABSENT}"}}})


def test_types_as_other_programs_write_them() -> None:
    url = "https://example.com/mcp"
    given = {"a": "streamable-http", "b": "sse", "c": "http", "d": "streamableHttp"}
    servers = parse_config({"servers": {name: {"type": kind, "url": url} for name, kind in given.items()}})
    assert [server.transport for server in servers] == ["http", "sse", "http", "http"]


def test_disabled_servers_are_left_out() -> None:
    assert parse_config({"mcpServers": {"x": {**FILES, "disabled": True}}}) == []


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({}, "neither 'mcpServers' nor 'servers'"),
        (3, "no array"),
        ([3], "server 0 is not an object"),
        ([{"command": "x"}], "server 0 has no 'name'"),
        ([{"name": "x"}], "server 'x': server 'x' needs either 'command' or 'url'"),
        ([{"name": "x", "command": "y", "url": "http://z"}], "either 'command' or 'url'"),
        ([{"name": "x", "command": "y"}, {"name": "x", "command": "y"}], "named twice"),
        ([{"name": "x", "url": "ftp://example.com"}], "url must be an http"),
        ([{"name": "x", "url": "https://example.com", "type": "pigeon"}], "type must be 'stdio', 'http' or 'sse'"),
        ([{"name": "x", "command": "y", "type": "sse"}], "transport must be 'stdio' for a server with a command"),
        ([{"name": "x", "command": "y", "args": "--root"}], "args must be an array of texts"),
        ([{"name": "x", "command": "y", "args": [1]}], "args must be a text"),
        ([{"name": "x", "command": "y", "env": {"A": 1}}], r"env\.A must be a text"),
        ([{"name": "x", "command": "y", "timeout_secs": 0}], "timeout_secs must be a number above 0"),
        ([{"name": "x", "command": "y", "timeout_secs": "soon"}], "timeout_secs must be a number"),
        ([{"name": "x", "command": ""}], "command must be the name or path"),
        ([{"name": "a/b", "command": "y"}], "name must be 1 to 64 letters"),
        ([{"name": "x", "url": "https://e.com", "headers": {"X-A": "1\r\nX-B: 2"}}], "'X-A' does not"),
        ([{"name": "x", "url": "https://e.com", "headers": {"X A": "1"}}], "headers must be made of names"),
    ],
)
def test_what_cannot_work_is_refused_by_name(form: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config(form)


def test_a_file_is_named_with_the_place_of_its_mistake(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"files": FILES}}), encoding="utf-8-sig")
    assert [server.name for server in read_config(file)] == ["files"]
    file.write_text('{\n  "mcpServers": }', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mcp\.json, line 2, column 17"):
        read_config(file)
    file.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_config(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "absent.json")
