"""Boundary: everything that stands between a server's socket and its endpoints, as one ASGI application.

Gates look at a request's head and refuse it or let it pass; then its body is received within bounds. Every refusal
is OpenAI's error envelope. Must not know of endpoints.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from candle_vllm.openai import ApiError
from candle_vllm.openai.errors import api_error
from candle_vllm.server import access, request_id
from candle_vllm.server.auth import OPEN_PATHS, ApiKey
from candle_vllm.server.entrance import Entrance
from candle_vllm.server.hosts import check_content_type, check_host
from candle_vllm.server.limits import Limits, check_headers
from candle_vllm.server.paths import normalised, route_path
from candle_vllm.server.uploads import Uploads, has_body

__all__ = ["Boundary", "BoundarySettings", "Watcher", "wrap"]

logger = logging.getLogger("candle_vllm.server")

Envelope = Callable[[ApiError], dict[str, Any]]
"""How an error is told."""

# nginx's number for "the client closed the connection"; no one reads it but the log.
_CLIENT_CLOSED = 499
_PROMPT_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundarySettings:
    """What a server asks of its callers."""

    api_keys: tuple[ApiKey, ...] = ()
    """Who may come in; anyone where there are none."""
    allowed_hosts: tuple[str, ...] = ("*",)
    """Hosts that requests may name, in lower case and without ports; `*` allows any."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose web pages may read replies; `*` allows any."""
    limits: Limits = field(default_factory=Limits)
    log_prompts: bool = False
    """Whether the beginnings of bodies are logged."""


class Watcher(Protocol):
    """Who wants to know what the boundary sees."""

    def refused(self, error: ApiError) -> None:
        """A request did not reach an endpoint."""
        ...

    def replied(self, status: int) -> None:
        """A request was answered; 499 where its client left before that."""
        ...


def wrap(app: ASGIApp, settings: BoundarySettings | None = None, watcher: Watcher | None = None) -> ASGIApp:
    """The application behind its boundary."""
    return Boundary(app, settings or BoundarySettings(), watcher)


class Boundary:
    """ASGI middleware: request ids, the access log, hosts, origins, keys, rates, limits, bodies; see `wrap`.

    `envelopes` are those of paths, below wherever this is mounted, whose clients know another than OpenAI's.
    `entrance` is what this door shares with others of the same server; None: it is the only one.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: BoundarySettings,
        watcher: Watcher | None = None,
        envelopes: Mapping[str, Envelope] | None = None,
        entrance: Entrance | None = None,
    ) -> None:
        self._app = app
        self._watcher = watcher
        self._envelopes = envelopes or {}
        self._settings = settings
        self._entrance = entrance or Entrance(settings.api_keys, settings.limits)
        self._uploads = Uploads(settings.limits)
        self._inner: ASGIApp = self._guarded
        if settings.allowed_origins:
            # Around the gates: a browser asks leave without a key, and must be able to read a refusal.
            self._inner = CORSMiddleware(
                self._guarded,
                allow_origins=settings.allowed_origins,
                allow_methods=("GET", "POST", "DELETE"),
                allow_headers=("*",),
                expose_headers=("x-request-id", "retry-after"),
                max_age=600,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = access.Exchange(scope, send)
        normal = normalised(scope)
        exchange.route = route_path(normal)
        marks = request_id.current.set(exchange.id), access.current.set(exchange)
        try:
            await self._answered(exchange, normal, receive)
        finally:
            exchange.log()
            if self._watcher is not None:
                self._watcher.replied(exchange.status or _CLIENT_CLOSED)
            request_id.current.reset(marks[0])
            access.current.reset(marks[1])

    async def _answered(self, exchange: access.Exchange, scope: Scope, receive: Receive) -> None:
        """Whatever happens becomes a reply, unless one has begun."""
        try:
            check_headers(scope, self._settings.limits)
            check_host(scope, self._settings.allowed_hosts)
            await self._inner(scope, receive, exchange.send)
        except ApiError as error:
            await self._refuse(error, exchange.send)
        except ClientDisconnect:
            exchange.status = _CLIENT_CLOSED
        except Exception as error:
            if exchange.status is not None:
                raise
            logger.exception("%s %s failed", exchange.method, exchange.path)
            await self._reply(api_error(error), exchange.send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Past keys, rates and limits. Refusals are sent from here, so that they pass through CORS."""
        try:
            exchange = access.current.get()
            assert exchange is not None
            exchange.account.key = self._entrance.keys.caller(scope)
            scope["candle_vllm.account"] = exchange.account
            check_content_type(scope)
            if route_path(scope) in OPEN_PATHS:
                # Probes are answered however busy the server is.
                await self._app(scope, receive, send)
                return
            with self._entrance.enter(exchange.account.key, exchange.client):
                if has_body(scope):
                    body, receive = await self._uploads.receive(scope, receive)
                    if self._settings.log_prompts:
                        logger.info("body: %s", body[:_PROMPT_BYTES].decode(errors="replace"))
                    del body
                await self._app(scope, receive, send)
        except ApiError as error:
            await self._refuse(error, send)

    async def _refuse(self, error: ApiError, send: Send) -> None:
        exchange = access.current.get()
        if exchange is not None and exchange.status is not None:
            raise error
        if self._watcher is not None:
            self._watcher.refused(error)
        await self._reply(error, send)

    async def _reply(self, error: ApiError, send: Send) -> None:
        exchange = access.current.get()
        envelope = self._envelopes.get(exchange.route, ApiError.envelope) if exchange else ApiError.envelope
        await _reply(error, envelope, send)


async def _reply(error: ApiError, envelope: Envelope, send: Send) -> None:
    body = json.dumps(envelope(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 408:
        # The rest of the body would be taken for the next request, whenever it comes.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
