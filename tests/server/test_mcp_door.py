"""The MCP server over HTTP behind the boundary: what gets in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from asgi import call, scope
from candle_vllm.mcp.serving import model_server
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.server import BoundarySettings, parse_keys
from candle_vllm.server.mcp_door import mcp_app
from fake_engine import FakeEngine

PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
JSON = [(b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream")]


@asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[Any]:
    boundary = BoundarySettings(allowed_hosts=("localhost",), **settings)  # type: ignore[arg-type]
    with OpenAIAdapter(FakeEngine()) as adapter:
        app, running = mcp_app(model_server(adapter), boundary)
        async with running:
            yield app


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/mcp", [(b"host", b"evil.example")], 421),
        ("/mcp", [(b"host", b"localhost:1"), (b"origin", b"http://evil.example")], 403),
        ("/mcp", [(b"host", b"localhost:1"), (b"origin", b"http://localhost:2")], 403),
        ("/other", [(b"host", b"localhost:1")], 404),
    ],
)
async def test_who_is_turned_away(path: str, headers: list[tuple[bytes, bytes]], status: int) -> None:
    async with serving() as app:
        reply = await call(app, scope(path, "POST", [*headers, *JSON]), [PING])
    assert reply.status == status
    assert reply.json()["error"]["code"]


@pytest.mark.parametrize("origin", [None, b"http://localhost:2000", b"https://friend.example"])
async def test_who_gets_in(origin: bytes | None) -> None:
    given = [] if origin is None else [(b"origin", origin)]
    async with serving(allowed_origins=("https://friend.example",)) as app:
        reply = await call(app, scope("/mcp", "POST", [*given, *JSON]), [PING])
    # The protocol's own answer, whatever it thinks of a ping without a session.
    assert reply.json()["jsonrpc"] == "2.0"


async def test_keys_are_asked_for_but_by_probes() -> None:
    async with serving(api_keys=parse_keys(["SECRET"])) as app:
        assert (await call(app, scope("/mcp", "POST", JSON), [PING])).status == 401
        assert (await call(app, scope("/health"))).json() == {"status": "ok"}
        with_key = [*JSON, (b"authorization", b"Bearer SECRET")]
        assert (await call(app, scope("/mcp", "POST", with_key), [PING])).status != 401


async def test_blanks_behind_a_header_are_none_of_its_value() -> None:
    about = "io.modelcontextprotocol/"
    meta = {
        f"{about}clientCapabilities": {},
        f"{about}clientInfo": {"name": "x", "version": "1"},
        f"{about}protocolVersion": "2026-07-28",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    headers = {"accept": JSON[1][1].decode(), "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list \t"}
    async with serving() as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            reply = await client.post("/mcp", json=body, headers=headers)
    assert (reply.status_code, "result" in reply.text) == (200, True), reply.text
