"""MCP servers over HTTP for the tests: a good one of the protocol's library, and one that misbehaves as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Self

import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route


class Serving:
    """An application on a port of its own, in a thread."""

    def __init__(self, app: Any, port: int = 0) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=port, log_level="error", lifespan="auto", timeout_graceful_shutdown=1)
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    @property
    def url(self) -> str:
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"


def good_server() -> MCPServer:
    server = MCPServer("good")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    @server.tool()
    async def nap(seconds: float) -> str:
        """Sleeps."""
        await asyncio.sleep(seconds)
        return "rested"

    return server


def guarded(app: Any, token: str) -> Any:
    """The application behind a bearer token."""

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            if headers.get("authorization") != f"Bearer {token}" or headers.get("x-team") != "blue":
                await Response("who are you?", 401)(scope, receive, send)
                return
        await app(scope, receive, send)

    return checked


class Hostile:
    """A server of the handshake era; `mode` says how it misbehaves, `calls` are the texts it was called with."""

    def __init__(self, mode: str, elsewhere: str = "") -> None:
        self.mode = mode
        self.elsewhere = elsewhere
        self.calls: list[str] = []
        self.sessions = 0
        self.known: set[str] = set()
        self.app = Starlette(routes=[Route("/mcp", self.post, methods=["POST"]), Route("/mcp", self.other)])

    async def other(self, _request: Request) -> Response:
        return Response(status_code=405)

    async def post(self, request: Request) -> Response:
        message = await request.json()
        method, identity = message.get("method"), message.get("id")
        if self.mode == "redirect":
            return RedirectResponse(self.elsewhere, 307)
        if method == "initialize":
            self.sessions += 1
            session = f"session-{self.sessions}"
            self.known.add(session)
            result = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "hostile", "version": "1"},
            }
            return JSONResponse(_answer(identity, result), headers={"mcp-session-id": session})
        if request.headers.get("mcp-session-id") not in self.known:
            return Response(status_code=404 if "mcp-session-id" in request.headers else 400)
        if identity is None:
            return Response(status_code=202)
        if method == "tools/list":
            schema = {"type": "object", "properties": {"text": {"type": "string"}}}
            return JSONResponse(_answer(identity, {"tools": [{"name": "echo", "inputSchema": schema}]}))
        if method == "tools/call":
            return await self.call(request, identity, message["params"]["arguments"].get("text", ""))
        return JSONResponse(_answer(identity, {}))

    async def call(self, request: Request, identity: Any, text: str) -> Response:
        if self.mode == "forgets" or (self.mode == "forgot" and self.sessions == 1):
            # Before it runs: a session that it does not know, every time or once.
            self.known.clear()
            return Response(status_code=404)
        self.calls.append(text)
        said = _answer(identity, {"content": [{"type": "text", "text": text}]})
        match self.mode:
            case "silent":
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 5)
            case "huge":
                return StreamingResponse(_huge(), media_type="application/json")
            case "huge_event":
                return StreamingResponse(_huge(b"data: "), media_type="text/event-stream")
            case "malformed":
                return Response('{"jsonrpc": "2.0", "id"', media_type="application/json")
            case "html":
                return Response("<html>Welcome</html>", media_type="text/html")
            case "broken":
                return Response(status_code=500)
            case "cut":
                return StreamingResponse(_cut(), media_type="text/event-stream")
            case "accepted":
                return Response(status_code=202)
            case _:
                pass
        return JSONResponse(said)


def _answer(identity: Any, result: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "result": result}


async def _huge(before: bytes = b"") -> AsyncGenerator[bytes, None]:
    yield before + b'{"jsonrpc": "2.0", "x": "'
    for _ in range(50):
        yield b"x" * 1_000_000
    yield b'"}\n\n'


async def _cut() -> AsyncGenerator[bytes, None]:
    yield b"event: message\ndata: " + json.dumps({"jsonrpc": "2.0"}).encode()[:5]
