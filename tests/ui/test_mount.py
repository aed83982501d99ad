"""The gate before the pages, and what is left to the API."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from nicegui import Client

from asgi import Reply, call, scope
from candle_vllm.server import BoundarySettings, create_app, parse_keys
from candle_vllm.ui import WebPage
from fake_engine import FakeEngine


@pytest.fixture(scope="module")
def page() -> WebPage:
    settings = BoundarySettings(
        api_keys=parse_keys(["alice sk"]), allowed_hosts=("localhost",), allowed_origins=("https://friend.example",)
    )
    return WebPage(create_app(FakeEngine(), boundary=settings))


STRANGERS = [
    [(b"host", b"rebound.example")],
    [(b"origin", b"https://stranger.example")],
    # What may read the API's replies is no part of the page.
    [(b"origin", b"https://friend.example")],
    [(b"host", b"localhost"), (b"host", b"localhost")],
    [(b"x", b"y")] * 200,
]


@pytest.mark.parametrize("path", ["/", "/operator", "/_nicegui/x", "/favicon.ico"])
@pytest.mark.parametrize("headers", STRANGERS, ids=range(len(STRANGERS)))
async def test_strangers_get_no_page(page: WebPage, path: str, headers: list[tuple[bytes, bytes]]) -> None:
    reply = await call(page, scope(path, headers=headers))
    assert reply.status in (400, 403, 421, 431)
    assert reply.headers["content-security-policy"] and reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/_nicegui_ws/socket.io/"])
async def test_pages_are_only_read(page: WebPage, path: str) -> None:
    assert (await call(page, scope(path, "POST"))).status == 405
    assert (await call(page, scope("/_nicegui_ws/socket.io/"))).status == 405


async def test_the_api_is_behind_its_own_boundary(page: WebPage) -> None:
    assert (await call(page, scope("/v1/models"))).status == 401
    reply: Reply = await call(page, scope("/v1/models", headers=[(b"x-api-key", b"sk")]))
    assert reply.status == 200 and "content-security-policy" not in reply.headers
    assert (await call(page, scope("/health"))).status == 200
    assert (await call(page, scope("/operator/x", headers=[(b"x-api-key", b"sk")]))).status == 404


async def test_files_of_the_page_need_no_key_and_come_from_here(page: WebPage) -> None:
    import nicegui

    files = f"/_nicegui/{nicegui.__version__}/static"
    reply = await call(page, scope(f"{files}/nicegui.js"))
    assert reply.status == 200 and reply.headers["x-content-type-options"] == "nosniff"
    for path in ("/_nicegui/nothing", f"{files}/../../client.py", f"{files}/nothing.js"):
        before = len(Client.instances)
        assert (await call(page, scope(path))).status == 404
        assert len(Client.instances) == before


async def test_not_more_pages_than_there_is_room_for(page: WebPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "instances", dict.fromkeys(map(str, range(256))))
    reply = await call(page, scope("/"))
    assert reply.status == 503 and reply.headers["retry-after"] == "60"


@pytest.mark.parametrize("path", ["/_nicegui_ws/socket.io/", "/v1/models", "/"])
async def test_sockets_of_strangers_are_closed(page: WebPage, path: str) -> None:
    for headers in STRANGERS[:3]:
        assert await closed(page, {**scope(path, headers=list(headers)), "type": "websocket"})
    assert await closed(page, {**scope("/v1/models"), "type": "websocket"})


async def test_not_more_sockets_than_a_page_needs(page: WebPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "instances", {"known": None})
    for query, most in ((b"client_id=known", 4), (b"client_id=other", 64), (b"", 64)):
        name = "known" if b"known" in query else ""
        monkeypatch.setattr(page, "_sockets", Counter({name: most}))
        assert await closed(page, {**scope("/_nicegui_ws/socket.io/", query_string=query), "type": "websocket"})
        assert page._sockets[name] == most


async def closed(page: WebPage, request: dict[str, Any]) -> bool:
    """Whether a socket is closed before it is accepted."""
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await page(request, receive, send)
    return [message["type"] for message in sent] == ["websocket.close"]
