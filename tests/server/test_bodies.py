"""Bodies as typed requests: what is wrong with one, told once and shortly."""

from __future__ import annotations

import json

import pytest
from starlette.requests import Request

from asgi import scope, source
from candle_vllm.openai import ApiError, CompletionRequest
from candle_vllm.server.bodies import read_typed


async def read(body: bytes) -> CompletionRequest:
    return await read_typed(Request(scope(method="POST"), source([body])), CompletionRequest)


async def test_a_request() -> None:
    assert (await read(b'{"prompt": "a", "max_tokens": 3}')).max_tokens == 3


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b"", "empty_body", "empty"),
        (b"{", None, "could not parse the JSON body"),
        (b"[1]", "invalid_type", "must be a JSON object"),
        (b'{"prompt": "a", "temperature": 9}', "decimal_above_max_value", "got 9"),
        (b'{"prompt": "a", "n": 0}', "integer_below_min_value", "got 0"),
    ],
)
async def test_what_is_none(body: bytes, code: str | None, said: str) -> None:
    with pytest.raises(ApiError, match=said) as error:
        await read(body)
    assert (error.value.status, error.value.code) == (400, code)


async def test_values_of_large_bodies_are_not_shown() -> None:
    body = json.dumps({"prompt": "a" * 100_000, "temperature": 9}).encode()
    with pytest.raises(ApiError) as error:
        await read(body)
    assert (error.value.param, error.value.code) == ("temperature", "decimal_above_max_value")
    assert "got" not in str(error.value)


async def test_thousands_of_unknown_members_are_told_as_one() -> None:
    body = json.dumps({f"k{number}": 1 for number in range(5000)}).encode()
    with pytest.raises(ApiError, match="too many members") as error:
        await read(body)
    assert len(str(error.value)) < 200
