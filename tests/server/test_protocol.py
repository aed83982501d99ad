"""What reaches a server's socket before its application: raw requests, slow ones, endless ones, broken ones."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from candle_vllm.server.listen import uvicorn_config
from candle_vllm.server.protocol import BoundedProtocol

MB = 1024 * 1024


class Impatient(BoundedProtocol):
    header_seconds = 0.3
    linger_seconds = 0.3
    linger_bytes = MB
    unread_seconds = 0.5
    max_connections = 20


ENDED: list[float] = []
"""When streams without end were given up."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Streams three pieces; reads the body unless told not to; tells how many headers there were in the end."""
    path = scope["path"]
    size = 0
    while path != "/deaf":
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    headers = [(b"x-headers", str(len(scope["headers"])).encode()), (b"x-size", str(size).encode())]
    if path == "/sized":
        headers.append((b"content-length", b"6"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if path == "/endless":
        left = asyncio.ensure_future(receive())
        while not left.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        ENDED.append(time.monotonic())
        return
    for piece in (b"on", b"", b"e "):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"two"[: 2 if path == "/sized" else 3]})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        config = uvicorn_config(app)
        config.http = Impatient
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        end = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def rest_of(connection: socket.socket) -> bytes:
    """All that still comes until the server closes."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


def ask(port: int, *pieces: bytes | float) -> bytes:
    """What comes back for these pieces, until the server closes; a float is a pause in seconds."""
    with connect(port) as connection:
        for piece in pieces:
            if isinstance(piece, float):
                time.sleep(piece)
                continue
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
        return rest_of(connection)


def envelope(reply: bytes) -> tuple[int, str]:
    """Status and code of a refusal."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def get(path: str = "/", version: str = "1.1", *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: x", *headers, "", ""]).encode()


CLOSE = "Connection: close"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_chunks_for_http_1_1(port: int) -> None:
    reply = ask(port, get("/", "1.1", CLOSE))
    assert b"transfer-encoding: chunked" in reply
    assert reply.endswith(b"2\r\non\r\n2\r\ne \r\n3\r\ntwo\r\n0\r\n\r\n")


@pytest.mark.parametrize("headers", [[], ["Connection: keep-alive"]])
def test_no_chunks_for_http_1_0(port: int, headers: list[str]) -> None:
    reply = ask(port, get("/", "1.0", *headers))
    assert b"transfer-encoding" not in reply
    assert b"content-length" not in reply
    assert b"connection: close" in reply
    assert reply.endswith(b"\r\n\r\none two")


def test_a_known_length_stays_known(port: int) -> None:
    for version in ("1.0", "1.1"):
        reply = ask(port, get("/sized", version, CLOSE))
        assert b"content-length: 6" in reply
        assert reply.endswith(b"\r\n\r\none tw")


def test_head(port: int) -> None:
    for version in ("1.0", "1.1"):
        reply = ask(port, get("/", version, CLOSE).replace(b"GET", b"HEAD"))
        assert reply.startswith(b"HTTP/1.1 200")
        assert reply.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("pieces", "status", "code"),
    [
        ([b"\x00\x01\x02\x03\r\n\r\n"], 400, "invalid_http"),
        ([b"GET / HTTP/9.9\r\n\r\n"], 400, "invalid_http"),
        ([b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n"], 400, "invalid_http"),
        ([b"GET //[::1 HTTP/1.1\r\nHost: x\r\n\r\n"], 200, ""),
        ([b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n"], 400, "invalid_http"),
        ([b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n"], 400, "invalid_http"),
        ([b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n"], 400, "invalid_http"),
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"], 400, "invalid_http"),
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"], 400, "invalid_http"),
        ([b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n"], 400, "invalid_http"),
        (
            [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
            400,
            "invalid_http",
        ),
        ([CHUNKED + b"ZZ\r\nab"], 400, "invalid_http"),
        ([CHUNKED + b"2\r\nabX"], 400, "invalid_http"),
        (
            [b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n"],
            400,
            "invalid_http",
        ),
        ([b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"], 414, "url_too_long"),
        ([b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 300 + b"\r\n"], 431, "request_headers_too_large"),
        ([b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 70_000 + b"\r\n\r\n"], 431, "request_headers_too_large"),
        ([b"GET / HTTP/1.1\r\n" + b"a" * 70_000 + b": b\r\n\r\n"], 431, "request_headers_too_large"),
        ([b"GET / HTTP/1.1\r\n", *[b"a: " + b"b" * 900 + b"\r\n"] * 100], 431, "request_headers_too_large"),
        ([b"GET / HTT", 0.6], 408, "request_timeout"),
        ([b"GET / HTTP/1.1\r\n", *[b"a: b\r\n", 0.05] * 20], 408, "request_timeout"),
    ],
)
def test_broken_large_and_slow_heads(port: int, pieces: list[bytes | float], status: int, code: str) -> None:
    began = time.monotonic()
    reply = ask(port, *pieces, *([b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"] if status == 200 else []))
    if status == 200:
        assert reply.startswith(b"HTTP/1.1 200")
    else:
        assert envelope(reply) == (status, code)
    assert time.monotonic() - began < 5
    assert ask(port, get("/", "1.1", CLOSE)).startswith(b"HTTP/1.1 200")


def test_headers_without_end_cost_no_memory(port: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    piece = b"b" * MB
    began = time.monotonic()
    reply = ask(port, b"GET / HTTP/1.1\r\na: ", *[piece] * 100)
    assert reply == b"" or envelope(reply) == (431, "request_headers_too_large")
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024


TRAILERS = CHUNKED + b"1\r\na\r\n0\r\n"


def test_trailers_are_no_headers(port: int) -> None:
    reply = ask(port, TRAILERS, b"authorization: Bearer x\r\n\r\n" + get("/", "1.1", CLOSE))
    assert b"x-headers: 2" in reply
    assert b"x-headers: 3" not in reply


@pytest.mark.parametrize("pieces", [[b"a: " + b"b" * MB] * 20, [b"a: b\r\n" * 1000] * 20])
def test_trailers_without_end(port: int, pieces: list[bytes]) -> None:
    reply = ask(port, TRAILERS, *pieces)
    assert reply == b"" or envelope(reply) == (431, "request_headers_too_large")


def test_who_says_nothing_is_let_go(port: int) -> None:
    with connect(port) as silent, connect(port) as empty_lines:
        empty_lines.sendall(b"\r\n\r\n")
        began = time.monotonic()
        assert rest_of(silent) == b""
        assert rest_of(empty_lines) == b""
        assert 0.2 < time.monotonic() - began < 3


def test_a_body_that_no_one_wants_may_end_and_the_connection_goes_on(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")
        seen = b""
        while not seen.endswith(b"0\r\n\r\n"):
            seen += connection.recv(65536)
        connection.sendall(b"x" * 500_000 + get("/", "1.1", CLOSE))
        assert rest_of(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("pieces", [[b"x", 1.0], [b"x" * 100_000] * 30])
def test_a_body_that_no_one_wants_does_not_go_on_for_ever(port: int, pieces: list[bytes | float]) -> None:
    began = time.monotonic()
    head = b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    assert ask(port, head, *pieces).startswith(b"HTTP/1.1 200")
    assert time.monotonic() - began < 5


def test_a_client_that_does_not_read_is_cut_off(port: int) -> None:
    ENDED.clear()
    with connect(port) as connection:
        connection.sendall(get("/endless"))
        end = time.monotonic() + 10
        while not ENDED:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_client_that_reads_slowly_is_not(port: int) -> None:
    ENDED.clear()
    with connect(port) as connection:
        connection.sendall(get("/endless"))
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert len(connection.recv(16 * MB)) > 0
            time.sleep(0.05)
        assert not ENDED


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    reply = ask(port, get("/sized") + get("/") + get("/sized", "1.1", CLOSE))
    assert reply.count(b"HTTP/1.1 200") == 3


def test_one_connection_too_many(port: int) -> None:
    open_ones = [connect(port) for _ in range(Impatient.max_connections)]
    try:
        for connection in open_ones:
            connection.sendall(get())
            connection.recv(1)
        with connect(port) as refused:
            assert envelope(rest_of(refused)) == (503, "too_many_connections")
    finally:
        for connection in open_ones:
            connection.close()
    end = time.monotonic() + 5
    while not ask(port, get("/", "1.1", CLOSE)).startswith(b"HTTP/1.1 200"):
        assert time.monotonic() < end
