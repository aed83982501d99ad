"""How uvicorn is set up to serve: its protocol, loop and times. Must not know of applications or command lines."""

from __future__ import annotations

import contextlib
import sys

import uvicorn
from starlette.types import ASGIApp

from candle_vllm.server.protocol import BoundedProtocol

__all__ = ["KEEP_ALIVE_SECONDS", "allow_connections", "uvicorn_config"]

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open. Clients and proxies let go of theirs earlier (httpx after 5 s, most load
balancers after 60), so that none sends a request into a connection that is being closed."""


def uvicorn_config(
    app: ASGIApp,
    *,
    shutdown_seconds: float = 5.0,
    max_connections: int = BoundedProtocol.max_connections,
    socket_bytes: int | None = None,
) -> uvicorn.Config:
    """Settings of a server for this application. Requests are logged by the application itself.

    `socket_bytes` is for an application with web sockets, and a lifespan: a message of one at most.
    After `shutdown_seconds` and a few more, connections are cut off whose replies do not end.
    """
    return uvicorn.Config(
        app,
        http=type("Protocol", (BoundedProtocol,), {"max_connections": max_connections}),
        ws="none" if socket_bytes is None else "websockets-sansio",
        ws_max_size=socket_bytes or 0,
        lifespan="off" if socket_bytes is None else "on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(shutdown_seconds) + 5,
    )


def allow_connections(wanted: int = BoundedProtocol.max_connections) -> None:
    """Let this process have so many connections, as far as the system allows: many shells allow 1,024 files."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # As many again for the files that a loading model maps, and for what else a process opens.
    ceiling = 2 * wanted if hard == resource.RLIM_INFINITY else min(2 * wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
