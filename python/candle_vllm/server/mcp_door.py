"""The model as an MCP server over HTTP: the protocol's application behind this server's own boundary.

Needs the extra `mcp`. Must not know of command lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Receive, Scope, Send

from candle_vllm.openai import ApiError
from candle_vllm.server.boundary import BoundarySettings, wrap
from candle_vllm.server.hosts import check_origin

__all__ = ["MCP_PATH", "mcp_app"]

MCP_PATH = "/mcp"


def mcp_app(
    server: MCPServer[Any], settings: BoundarySettings | None = None
) -> tuple[ASGIApp, AbstractAsyncContextManager[None]]:
    """The application, which answers at `/mcp`, and what must be entered while it serves.

    Keys, hosts, origins and limits are the boundary's, as of the server of OpenAI's API; `/health` needs no key.
    """
    boundary = settings or BoundarySettings()
    app = server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        max_request_body_size=boundary.limits.body_bytes,
        # The boundary has looked at the host, and `_Guarded` at the origin.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    return wrap(_Guarded(app, boundary.allowed_origins), boundary), server.session_manager.run()


class _Guarded:
    """Refuses pages of other sites, as the protocol demands, and answers probes."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            check_origin(scope, self._origins)
            if scope["path"] == "/health":
                await _reply(send, 200, b'{"status": "ok"}')
                return
            if scope["path"] != MCP_PATH:
                raise ApiError(f"There is only {MCP_PATH} here.", code="unknown_url", status=404)
            # Blanks around a value are none of it; the parser leaves those behind it, and the protocol compares values.
            scope = {**scope, "headers": [(name, value.strip(b" \t")) for name, value in scope["headers"]]}
        await self._app(scope, receive, send)


async def _reply(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
