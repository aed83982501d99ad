"""candle-vllm mcp-serve as agents meet it: the official client over both transports, and a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from candle_vllm.cli import main
from mcp import Client, StdioServerParameters

TESTS = Path(__file__).parent.parent

# An engine that needs no model, and a print that would break the protocol if it got to standard output.
SCRIPT = """
import os, sys, time
import candle_vllm.cli.mcp_serve as mcp_serve
from candle_vllm.cli import main
from candle_vllm.errors import ModelLoadError
from fake_engine import FakeEngine

class Noisy(FakeEngine):
    def add_request(self, *args, **settings):
        print("thinking hard")
        os.write(1, b"louder\\n")
        return super().add_request(*args, **settings)

    def close(self):
        print("closed with", len(self.live), "requests", file=sys.stderr)
        super().close()

def load(args, config, progress):
    if os.environ.get("BROKEN"):
        raise ModelLoadError("tensor 'x' is broken")
    return Noisy(delay=0.01, answer=os.environ.get("ANSWER"))

mcp_serve.load_with = load
sys.exit(main())
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}


@asynccontextmanager
async def over_stdio(answer: str = "a short answer") -> AsyncIterator[Client]:
    given = StdioServerParameters(
        command=sys.executable, args=["-c", SCRIPT, "mcp-serve"], env={**ENVIRONMENT, "ANSWER": answer}
    )
    async with Client(stdio_client(given)) as client:
        yield client


class Served:
    """A server over HTTP in a process of its own."""

    def __init__(self, *flags: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "mcp-serve", "--transport", "http", "--p", "0", *flags],
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, "ANSWER": "a short answer", **environment},
        )
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said += line

    @property
    def url(self) -> str:
        end = time.monotonic() + 30
        while (found := re.search(r"serving +(http://\S+/mcp)", self.said)) is None:
            assert time.monotonic() < end and self._process.poll() is None, self.said
            time.sleep(0.02)
        return found[1]

    def until(self, words: str) -> None:
        end = time.monotonic() + 30
        while words not in self.said:
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        status = self._process.wait(20)
        self._reader.join(5)
        return status

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        self._reader.join(5)
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.fixture
def serve_http() -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(*flags: str, **environment: str) -> Served:
        running.append(Served(*flags, **environment))
        return running[-1]

    yield start
    for each in running:
        each.kill()


async def use(client: Client) -> None:
    """What the tools do."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    # No embeddings, so no tool for them.
    assert set(tools) == {"generate", "chat"}
    assert tools["chat"].input_schema["required"] == ["messages"]
    assert tools["generate"].output_schema is not None
    said = await client.call_tool("chat", {"messages": [{"role": "user", "content": "hi"}]})
    assert not said.is_error
    assert [getattr(block, "text", None) for block in said.content] == ["a short answer"]
    assert said.structured_content is not None
    counts = {name: said.structured_content[name] for name in ("text", "finish_reason", "generated_tokens")}
    assert counts == {"text": "a short answer", "finish_reason": "stop", "generated_tokens": 15}
    short = await client.call_tool("generate", {"prompt": "x", "max_tokens": 4})
    assert short.structured_content is not None
    assert (short.structured_content["text"], short.structured_content["finish_reason"]) == ("a sh", "length")
    for name, wrong, words in (
        ("chat", {"messages": []}, "at least 1 item"),
        ("generate", {"prompt": "x", "temperature": 9}, "temperature"),
        ("generate", {"prompt": "x", "stop": [""]}, "empty text"),
        ("chat", {"messages": [{"role": "user", "content": "hi"}], "model": "gpt-9"}, "gpt-9"),
    ):
        refused = await client.call_tool(name, wrong)
        assert refused.is_error
        assert words in getattr(refused.content[0], "text", ""), refused


async def test_over_stdio() -> None:
    async with over_stdio() as client:
        await use(client)


async def test_over_http(serve_http: Callable[..., Served]) -> None:
    served = serve_http()
    async with Client(served.url) as client:
        await use(client)
    assert served.end() == 0


async def test_progress_is_told_with_the_text() -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async with over_stdio("word " * 20) as client:
        result = await client.call_tool("generate", {"prompt": "x", "max_tokens": 300}, progress_callback=hear)
    text = getattr(result.content[0], "text", "")
    assert len(told) >= 3
    assert [progress for progress, _, _ in told] == sorted({progress for progress, _, _ in told})
    assert {total for _, total, _ in told} == {300}
    assert "".join(message or "" for _, _, message in told) == text == "word " * 20


async def test_a_call_that_is_cancelled_frees_the_engine(serve_http: Callable[..., Served]) -> None:
    served = serve_http("--api-key", "me SECRET", ANSWER="word " * 5000)
    headers = {"Authorization": "Bearer SECRET"}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(served.url, http_client=http)) as client,
    ):
        call = asyncio.create_task(client.call_tool("generate", {"prompt": "x", "max_tokens": 20_000}))
        await asyncio.sleep(1.0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.5)
        # The server is there for others.
        assert (await client.list_tools()).tools
    assert served.end() == 0
    assert "closed with 0 requests" in served.said


async def test_keys_hosts_and_origins(serve_http: Callable[..., Served]) -> None:
    served = serve_http("--api-key", "SECRET")
    ping: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    key = {"Authorization": "Bearer SECRET"}
    async with httpx.AsyncClient(timeout=20) as http:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer other"}, 401),
            ({**key, "Host": "evil.example"}, 421),
            ({**key, "Origin": "http://evil.example"}, 403),
            ({**key, "Content-Type": "text/plain"}, 415),
        ):
            reply = await http.post(served.url, json=ping, headers={**accept, **headers})
            assert (reply.status_code, "error" in reply.json()) == (status, True), reply.text
        same = {**key, "Origin": served.url.removesuffix("/mcp")}
        assert (await http.post(served.url, json=ping, headers={**accept, **same})).status_code not in (401, 403, 421)
        root = served.url.removesuffix("/mcp")
        assert (await http.get(root + "/health")).json() == {"status": "ok"}
        assert (await http.get(root + "/elsewhere", headers=key)).status_code == 404


def test_a_model_that_cannot_be_loaded_ends_it() -> None:
    given = [sys.executable, "-c", SCRIPT, "mcp-serve"]
    done = subprocess.run(
        given, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60, env={**ENVIRONMENT, "BROKEN": "1"}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "tensor 'x' is broken" in done.stderr


def test_one_of_several_models_that_cannot_be_loaded_does_not(
    serve_http: Callable[..., Served], tmp_path: Path
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models:\n  - name: one\n    local_path: .\n  - name: two\n    local_path: .\n")
    served = serve_http(CANDLE_VLLM_MODELS_CONFIG=str(file))
    url = served.url
    served.until("could not be loaded")
    time.sleep(0.5)
    assert httpx.get(url.removesuffix("/mcp") + "/health").status_code == 200
    assert served.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_its_input_is_open(number: int) -> None:
    given = [sys.executable, "-c", SCRIPT, "mcp-serve"]
    with subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdin is not None and process.stdout is not None
        hello = '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", '
        hello += '"capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}}\n'
        process.stdin.write(hello.encode())
        process.stdin.flush()
        assert b'"serverInfo"' in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(20) == 0


@pytest.mark.parametrize("flags", [["--port", "1"], ["--api-key", "x"], ["--max-body-size", "1"], ["--log-prompts"]])
def test_flags_of_http_are_refused_over_stdio(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcp-serve", *flags]) == 2
    assert f"{flags[0]}: is for --transport http" in capsys.readouterr().err
