"""Servers that people use, each in an environment of its own, over the transports that they speak."""

import asyncio
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from candle_vllm.mcp import McpClient, McpServer, McpServers, Timeouts

pytestmark = [pytest.mark.slow, pytest.mark.network]

PATIENT = Timeouts(connect=60, call=60)
NPM = ("server-everything", "server-filesystem", "server-memory")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of programs of a Python environment that has these packages."""

    def make(*packages: str) -> Path:
        folder = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "-q", *packages], check=True)
        return folder / "bin"

    return make


@pytest.fixture(scope="session")
def current(environment: Callable[..., Path]) -> Path:
    return environment("mcp-server-time", "mcp-server-git")


@pytest.fixture(scope="session")
def old(environment: Callable[..., Path]) -> Path:
    return environment("mcp-server-sqlite", "mcp<1.10", "pydantic<2.11")


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of the reference servers written for Node."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm is not here")
    folder = tmp_path_factory.mktemp("node")
    packages = [f"@modelcontextprotocol/{name}" for name in NPM]
    subprocess.run(["npm", "install", "--silent", "--no-fund", "--no-audit", *packages], cwd=folder, check=True)
    return folder / "node_modules/.bin"


async def test_time(current: Path) -> None:
    async with McpClient.stdio(str(current / "mcp-server-time"), "--local-timezone=UTC", timeouts=PATIENT) as client:
        assert {tool.name for tool in await client.list_tools()} == {"get_current_time", "convert_time"}
        given = {"source_timezone": "UTC", "target_timezone": "Asia/Tokyo", "time": "12:00"}
        assert "21:00" in (await client.call_tool("convert_time", given)).text
        wrong = await client.call_tool("get_current_time", {"timezone": "Nowhere/Land"})
        assert wrong.outcome == "tool_error"
        assert (await client.call_tool("get_current_time", {})).outcome == "invalid_arguments"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    who = ["-c", "user.name=x", "-c", "user.email=x@y"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "A start"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


async def test_git(current: Path, repository: Path) -> None:
    async with McpClient.stdio(
        str(current / "mcp-server-git"), "--repository", str(repository), timeouts=PATIENT
    ) as client:
        log = await client.call_tool("git_log", {"repo_path": str(repository), "max_count": 1})
        assert "A start" in log.text
        assert (await client.call_tool("git_log", {"repo_path": str(repository / "no")})).is_error


async def test_sqlite_of_an_older_protocol(old: Path, tmp_path: Path) -> None:
    database = tmp_path / "test.db"
    async with McpClient.stdio(str(old / "mcp-server-sqlite"), "--db-path", str(database), timeouts=PATIENT) as client:
        for query in ("CREATE TABLE fish (name TEXT)", "INSERT INTO fish VALUES ('cod'), ('eel')"):
            tool = "create_table" if query.startswith("CREATE") else "write_query"
            assert not (await client.call_tool(tool, {"query": query})).is_error
        rows = await client.call_tool("read_query", {"query": "SELECT name FROM fish ORDER BY name"})
        assert "cod" in rows.text and "eel" in rows.text


async def test_everything_over_stdio(npm: Path) -> None:
    async with McpClient.stdio(str(npm / "mcp-server-everything"), "stdio", timeouts=PATIENT) as client:
        await everything(client)


@pytest.mark.parametrize(("transport", "path"), [("streamableHttp", "/mcp"), ("sse", "/sse")])
async def test_everything_over_http(npm: Path, transport: str, path: str) -> None:
    async with (
        listening(npm / "mcp-server-everything", transport) as url,
        McpClient.http(url + path, timeouts=PATIENT) as client,
    ):
        await everything(client)


async def everything(client: McpClient) -> None:
    """What the reference server shows of the protocol."""
    tools = {tool.name for tool in await client.list_tools()}
    assert {"echo", "get-sum"} <= tools
    assert (await client.call_tool("echo", {"message": "hello"})).text == "Echo: hello"
    assert "5" in (await client.call_tool("get-sum", {"a": 2, "b": 3})).text
    assert "image/png" in (await client.call_tool("get-tiny-image", {})).text
    link = await client.call_tool("get-resource-links", {"count": 2})
    assert link.text.count("[resource ") == 2
    weather = await client.call_tool("get-structured-content", {"location": "Chicago"})
    assert weather.structured["conditions"]


async def test_files_and_memory_side_by_side(npm: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("the sea is calm")
    servers = McpServers(
        [
            McpServer(name="files", command=str(npm / "mcp-server-filesystem"), args=[str(tmp_path)], timeouts=PATIENT),
            McpServer(
                name="memory",
                command=str(npm / "mcp-server-memory"),
                env={"MEMORY_FILE_PATH": str(tmp_path / "memory.json")},
                timeouts=PATIENT,
            ),
        ]
    )
    tools = await servers.tools()
    assert {"read_text_file", "create_entities"} <= set(tools)
    read = await servers.client("files").call_tool("read_text_file", {"path": str(tmp_path / "note.txt")})
    assert "the sea is calm" in read.text
    outside = await servers.client("files").call_tool("read_text_file", {"path": "/etc/hostname"})
    assert outside.outcome == "tool_error"
    entity = {"name": "sea", "entityType": "place", "observations": ["calm"]}
    assert not (await servers.client("memory").call_tool("create_entities", {"entities": [entity]})).is_error
    assert "calm" in (await servers.client("memory").call_tool("read_graph", {})).text
    await servers.aclose()


@asynccontextmanager
async def listening(program: Path, *arguments: str) -> AsyncGenerator[str, None]:
    """A server's address, once it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        "env",
        f"PORT={port}",
        str(program),
        *arguments,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection("localhost", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                break
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        await server.wait()
