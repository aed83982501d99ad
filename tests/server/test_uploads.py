"""Bodies: received whole, within size, time and memory."""

from __future__ import annotations

import asyncio
import time

import pytest
from starlette.requests import ClientDisconnect

from asgi import Headers, scope, source
from candle_vllm.openai import ApiError
from candle_vllm.server.limits import Limits
from candle_vllm.server.uploads import Uploads, has_body


async def test_the_application_gets_it_as_one_message() -> None:
    body, receive = await Uploads(Limits()).receive(scope(), source([b'{"a"', b":", b"1}"]))
    assert body == b'{"a":1}'
    assert await receive() == {"type": "http.request", "body": body, "more_body": False}
    assert await receive() == {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("headers", "parts"),
    [
        ([(b"content-length", b"11")], []),
        ([(b"content-length", b"9" * 5000)], []),
        ([], [b"12345", b"678901"]),
        ([(b"content-length", b"2")], [b"12345678901"]),
    ],
)
async def test_too_large(headers: Headers, parts: list[bytes]) -> None:
    uploads = Uploads(Limits(body_bytes=10))
    with pytest.raises(ApiError) as error:
        await uploads.receive(scope(headers=headers), source([*parts, b"x"]))
    assert (error.value.status, error.value.code) == (413, "request_too_large")


async def test_just_large_enough() -> None:
    body, _ = await Uploads(Limits(body_bytes=10)).receive(
        scope(headers=[(b"content-length", b"10")]), source([b"1" * 10])
    )
    assert len(body) == 10


def dripping(piece: bytes, times: int) -> list[bytes | float]:
    """Pieces with pauses of 50 ms."""
    return [*[part for _ in range(times) for part in (piece, 0.05)], b""]


async def test_too_slow() -> None:
    uploads = Uploads(Limits(body_grace=0.1, body_rate=100))
    began = time.monotonic()
    with pytest.raises(ApiError) as error:
        await uploads.receive(scope(), source(dripping(b"x", 1000)))
    assert (error.value.status, error.value.code) == (408, "request_timeout")
    assert time.monotonic() - began < 2


async def test_slow_but_steady() -> None:
    uploads = Uploads(Limits(body_grace=0.2, body_rate=100))
    body, _ = await uploads.receive(scope(), source(dripping(b"x" * 20, 10)))
    assert len(body) == 200


async def test_a_client_that_leaves() -> None:
    with pytest.raises(ClientDisconnect):
        await Uploads(Limits()).receive(scope(), source([]))


async def test_all_bodies_together() -> None:
    uploads = Uploads(Limits(upload_bytes=15))
    slow = asyncio.create_task(uploads.receive(scope(), source([b"1" * 10, 0.2, b""])))
    await asyncio.sleep(0.02)
    with pytest.raises(ApiError) as error:
        await uploads.receive(scope(), source([b"1" * 10]))
    assert (error.value.status, error.value.type) == (503, "server_busy")
    assert len((await slow)[0]) == 10
    assert len((await uploads.receive(scope(), source([b"1" * 10])))[0]) == 10


@pytest.mark.parametrize(
    ("headers", "there"),
    [
        ([], False),
        ([(b"content-length", b"0")], False),
        ([(b"content-length", b"5")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
def test_whether_there_is_one(headers: Headers, there: bool) -> None:
    assert has_body(scope(headers=headers)) is there
