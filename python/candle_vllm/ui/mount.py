"""WebPage: an API's application with the pages in front of it, as one ASGI application.

Pages and their web socket have a gate of their own: the hosts that the API answers for, no other site's origin, bounds
on heads and on how many pages are open. Who asks for a page is not known yet; pages themselves ask for the key. All
other paths are the API's, behind its boundary. Must not know what is on the pages.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from http import HTTPStatus
from urllib.parse import parse_qs

from fastapi import FastAPI
from nicegui import Client, app, core, ui
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from candle_vllm.openai import ApiError
from candle_vllm.server.boundary import BoundarySettings
from candle_vllm.server.hosts import check_host, check_origin
from candle_vllm.server.limits import check_headers
from candle_vllm.server.paths import route_path
from candle_vllm.ui import chat_page, operator_page
from candle_vllm.ui.browser import MAX_MESSAGE
from candle_vllm.ui.progress import LoadProgress
from candle_vllm.ui.services import SCOPE_KEY, Services

__all__ = ["WebPage"]

_PAGES = frozenset({chat_page.PATH, operator_page.PATH})
_SOCKET = "/_nicegui_ws/"
_PARTS = ("/_nicegui/", _SOCKET)
_MOST_PAGES = 256
"""Pages that are open, or were asked for within the last minute; each takes some memory here."""
_MOST_SOCKETS = 4
"""Sockets of one page: it may have one anew before the loss of the last one is noticed."""
_MOST_LOST = 64
"""Sockets of pages that are not known any more, which are told so."""
_RECONNECT = 3.0
"""Seconds that a page may be away, over which its answer goes on."""
_PING = 15.0
"""Seconds between signs of life of a page's socket, and after which one that is missed ends it."""
_HEADERS = {
    # The page's libraries compile their templates in the browser; nothing comes from, or goes to, another host.
    "content-security-policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class WebPage:
    """`api`, an application of `server.create_app`, with the pages on `/` and `/operator`.

    To be served with its lifespan, which starts the library behind the pages; that has one event loop in a process.
    `progress` is where the models' loader tells how far it is.
    """

    def __init__(self, api: FastAPI, progress: LoadProgress | None = None) -> None:
        self._api: ASGIApp = api
        self._settings: BoundarySettings = api.state.boundary
        self.services = Services.of(api, progress)
        self._sockets: Counter[str] = Counter()
        self._pages = _pages()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, web socket or lifespan."""
        if scope["type"] == "lifespan":
            await self._pages(scope, receive, send)
        elif not _is_page(route_path(scope)):
            await self._api(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._page(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            if scope["method"] not in ("GET", "HEAD") or route_path(scope).startswith(_SOCKET):
                raise ApiError("Pages are only read.", code="method_not_supported", status=405)
            if route_path(scope) in _PAGES and len(Client.instances) >= _MOST_PAGES:
                raise ApiError("Too many pages are open. Try again later.", status=503, retry_after=60)
        except ApiError as error:
            await _refusal(error)(scope, receive, _secured(send))
            return
        await self._pages({**scope, SCOPE_KEY: self.services}, receive, _secured(send))

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = _page_of(scope)
        try:
            self._check(scope)
            if self._sockets[page] >= (_MOST_SOCKETS if page else _MOST_LOST):
                raise ApiError("The page has too many sockets.", status=429)
        except ApiError:
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        self._sockets[page] += 1
        try:
            await self._pages(scope, receive, send)
        finally:
            self._sockets[page] -= 1
            if not self._sockets[page]:
                del self._sockets[page]

    def _check(self, scope: Scope) -> None:
        check_headers(scope, self._settings.limits)
        check_host(scope, self._settings.allowed_hosts)
        check_origin(scope, ())


def _is_page(path: str) -> bool:
    return path in _PAGES or path == "/favicon.ico" or path.startswith(_PARTS)


def _page_of(scope: Scope) -> str:
    """The page that a socket says it belongs to; empty where there is no such page."""
    named = parse_qs(scope["query_string"].decode("latin-1")).get("client_id", [""])[0]
    return named if named in Client.instances else ""


def _refusal(error: ApiError) -> Response:
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return Response(json.dumps(error.envelope()), error.status, headers, "application/json")


def _secured(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return with_headers


@cache
def _pages() -> FastAPI:
    """The library's application within one of ours, set up once for all servers of the process."""
    outer = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    ui.run_with(
        outer,
        title="candle-vllm",
        favicon=chat_page.ICON,
        dark=None,
        language="en-US",
        reconnect_timeout=_RECONNECT,
        binding_refresh_interval=None,
        tailwind=False,
        show_welcome_message=False,
    )
    app.on_startup(_be_patient)
    core.app.config.socket_io_js_transports = ["websocket"]
    core.sio.eio.max_http_buffer_size = MAX_MESSAGE
    # What browsers want to have logged is not ours to log.
    core.sio.on("log", lambda *_: None)
    core.app.add_exception_handler(404, _not_found)
    return outer


def _be_patient() -> None:
    # The library would take a browser for gone that does not answer within two seconds, as a busy one may not.
    core.sio.eio.ping_interval, core.sio.eio.ping_timeout = _PING, _PING


async def _not_found(request: object, error: Exception) -> Response:
    return PlainTextResponse(HTTPStatus.NOT_FOUND.phrase, HTTPStatus.NOT_FOUND)
