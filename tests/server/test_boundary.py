"""The boundary around a small application: what passes, what is refused, and what is told of it."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from asgi import Headers, call, scope
from candle_vllm.openai import ApiError
from candle_vllm.server import access, request_id
from candle_vllm.server.auth import parse_keys
from candle_vllm.server.boundary import Boundary, BoundarySettings, wrap
from candle_vllm.server.hosts import LOOPBACK_HOSTS
from candle_vllm.server.limits import Limits

JSON: Headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]


async def echo(request: Request) -> Response:
    return JSONResponse(json.loads(await request.body()))


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello " + request_id.current.get())


async def broken(request: Request) -> Response:
    raise KeyError("inside")


async def half(request: Request) -> Response:
    async def pieces() -> Any:
        yield b"half"
        raise KeyError("inside")

    return StreamingResponse(pieces())


async def slow(request: Request) -> Response:
    await asyncio.sleep(0.2)
    return PlainTextResponse("slow")


ROUTES = [
    Route("/health", hello),
    Route("/hello", hello),
    Route("/echo", echo, methods=["POST"]),
    Route("/broken", broken),
    Route("/half", half),
    Route("/slow", slow),
]


def app(**settings: Any) -> Any:
    return wrap(Starlette(routes=ROUTES), BoundarySettings(**settings))


async def test_what_is_in_order_passes() -> None:
    reply = await call(app(), scope("/echo", "POST", JSON), [b"[1", b"]"])
    assert (reply.status, reply.json()) == (200, [1])


@pytest.mark.parametrize("given", [b"mine", None])
async def test_ids_go_in_and_out(given: bytes | None) -> None:
    reply = await call(app(), scope("/hello", headers=[(b"x-request-id", given)] if given else []))
    assert reply.body.decode() == "hello " + reply.headers["x-request-id"]
    assert given is None or reply.headers["x-request-id"] == "mine"
    assert request_id.current.get() == "-"


@pytest.mark.parametrize("path", ["/hello", "/hello/"])
async def test_head_is_a_get_without_a_body_and_slashes_make_no_difference(path: str) -> None:
    request = scope(path, headers=[(b"x-request-id", b"a")])
    full = await call(app(), request)
    head = await call(app(), {**request, "method": "HEAD"})
    assert (full.status, full.body) == (200, b"hello a")
    assert (head.status, head.body) == (200, b"")
    assert head.headers == full.headers


class Heard:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str | int | None] = []

    def refused(self, error: ApiError) -> None:
        self.told.append(error.code)

    def replied(self, status: int) -> None:
        self.told.append(status)


KEYED: dict[str, Any] = {"api_keys": parse_keys(["alice sk"]), "allowed_hosts": LOOPBACK_HOSTS}


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (scope("/hello"), 401, "invalid_api_key"),
        (scope("/nowhere"), 401, "invalid_api_key"),
        (scope("/broken", headers=[(b"x-api-key", b"no")]), 401, "invalid_api_key"),
        (
            scope("/echo", "POST", [(b"content-type", b"text/plain"), (b"x-api-key", b"sk")]),
            415,
            "unsupported_media_type",
        ),
        (scope("/hello", headers=[(b"host", b"evil.example"), (b"x-api-key", b"sk")]), 421, "host_not_allowed"),
        (scope("/hello", headers=[(b"a", b"b")] * 101), 431, "request_headers_too_large"),
        (
            scope("/echo", "POST", [*JSON, (b"content-length", b"9999999"), (b"x-api-key", b"sk")]),
            413,
            "request_too_large",
        ),
    ],
)
async def test_refusals_are_envelopes_and_heard_of(request_: dict[str, Any], status: int, code: str) -> None:
    heard = Heard()
    keyed = wrap(Starlette(routes=ROUTES), BoundarySettings(**KEYED), heard)
    reply = await call(keyed, request_, [b"{}"])
    assert (reply.status, reply.code) == (status, code)
    assert set(reply.json()["error"]) >= {"message", "type", "param", "code"}
    assert reply.headers["content-type"] == "application/json"
    assert "x-request-id" in reply.headers
    assert heard.told == [code, status]
    assert reply.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


async def test_a_key_opens_and_names() -> None:
    names = []

    async def named(request: Request) -> Response:
        exchange = access.current.get()
        assert exchange is not None
        names.append(exchange.account.key)
        assert request.scope["candle_vllm.account"] is exchange.account
        return PlainTextResponse("in")

    keyed = wrap(Starlette(routes=[Route("/", named)]), BoundarySettings(**KEYED))
    reply = await call(keyed, scope("/", headers=[(b"authorization", b"Bearer sk")]))
    assert (reply.status, names) == (200, ["alice"])


async def test_mounted_below_a_path_the_same_holds() -> None:
    outer = Starlette(routes=[Mount("/ai", app(**KEYED)), Mount("/health", app(**KEYED))])
    assert (await call(outer, scope("/ai/health/"))).status == 200
    assert (await call(outer, scope("/ai/hello", headers=[(b"x-api-key", b"sk")]))).status == 200
    for path in ("/ai/hello", "/health/hello", "/ai/health/../hello", "/ai//health"):
        assert (await call(outer, scope(path))).status == 401, path


async def test_probes_are_answered_however_busy() -> None:
    busy = app(limits=Limits(concurrency=1, caller_rate=1))
    running = asyncio.create_task(call(busy, scope("/slow")))
    await asyncio.sleep(0.02)
    assert (await call(busy, scope("/hello", client=("10.0.0.2", 1)))).status == 503
    limited = await call(busy, scope("/hello"))
    assert limited.status == 429
    assert int(limited.headers["retry-after"]) > 50
    assert (await call(busy, scope("/health"))).status == 200
    assert (await running).status == 200


async def test_slow_and_complex_bodies() -> None:
    bounded = app(limits=Limits(body_grace=0.05, body_rate=1000))
    reply = await call(bounded, scope("/echo", "POST", JSON), [b"[", 1.0, b"]"])
    assert (reply.status, reply.code, reply.headers["connection"]) == (408, "request_timeout", "close")
    reply = await call(bounded, scope("/echo", "POST", JSON), [b"[" * 1000 + b"]" * 1000])
    assert (reply.status, reply.code) == (400, "request_too_complex")


async def test_a_client_that_leaves_while_it_sends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "candle_vllm.access")
    reply = await call(app(), scope("/echo", "POST", JSON), [])
    assert reply.status == 0
    assert "status=499" in caplog.text


async def test_faults_within_tell_nothing(caplog: pytest.LogCaptureFixture) -> None:
    reply = await call(wrap(broken_asgi), scope("/"))
    assert reply.status == 500
    assert "inside" not in reply.body.decode()
    assert "inside" in caplog.text


async def broken_asgi(scope: Any, receive: Any, send: Any) -> None:
    raise KeyError("inside")


async def test_a_reply_that_breaks_off_is_not_begun_again() -> None:
    with pytest.raises(Exception, match="inside"):
        await call(app(), scope("/half"))


ORIGIN = (b"origin", b"https://page.example")
PREFLIGHT: Headers = [
    ORIGIN,
    (b"access-control-request-method", b"POST"),
    (b"access-control-request-headers", b"authorization, content-type"),
]


async def test_no_page_is_allowed_unasked() -> None:
    for request in (scope("/hello", headers=[ORIGIN]), scope("/echo", "OPTIONS", PREFLIGHT)):
        reply = await call(app(), request)
        assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_allowed_origins() -> None:
    opened = app(**KEYED, allowed_origins=("https://page.example",))
    preflight = await call(opened, scope("/echo", "OPTIONS", PREFLIGHT))
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "https://page.example"
    refused = await call(opened, scope("/hello", headers=[ORIGIN]))
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == "https://page.example"
    other = await call(opened, scope("/hello", headers=[(b"origin", b"https://other.example"), (b"x-api-key", b"sk")]))
    assert "access-control-allow-origin" not in other.headers


async def test_one_line_a_request_and_no_prompt_in_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sent: Headers = [*JSON, (b"x-api-key", b"sk"), (b"x-request-id", b"mine")]
    await call(app(**KEYED), scope("/echo", "POST", sent), [b'["secret thoughts"]'])
    lines = [record for record in caplog.records if record.name == "candle_vllm.access"]
    assert len(lines) == 1
    facts = lines[0].facts  # type: ignore[attr-defined]
    assert (facts["method"], facts["path"], facts["status"], facts["key"]) == ("POST", "/echo", 200, "alice")
    assert "secret" not in caplog.text
    caplog.clear()
    await call(app(**KEYED, log_prompts=True), scope("/echo", "POST", sent), [b'["secret thoughts"]'])
    assert "secret thoughts" in caplog.text


async def test_a_path_may_have_an_envelope_of_its_own() -> None:
    def plain(error: ApiError) -> dict[str, Any]:
        return {"error": error.message}

    keyed = Boundary(Starlette(routes=ROUTES), BoundarySettings(**KEYED), envelopes={"/echo": plain})
    for path in ("/echo", "/echo/"):
        reply = await call(keyed, scope(path, "POST", JSON))
        assert (reply.status, type(reply.json()["error"])) == (401, str)
    assert (await call(keyed, scope("/hello"))).code == "invalid_api_key"
    mounted = Starlette(routes=[Mount("/ai", keyed)])
    assert isinstance((await call(mounted, scope("/ai/echo", "POST", JSON))).json()["error"], str)


async def test_websockets_are_closed_and_lifespans_pass() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        sent.append(scope["type"])

    await wrap(inner)({"type": "websocket", "path": "/", "headers": []}, None, send)  # type: ignore[arg-type]
    await wrap(inner)({"type": "lifespan"}, None, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}, "lifespan"]
