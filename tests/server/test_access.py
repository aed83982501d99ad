"""The line of the log: tokens, times and reasons, and nothing that breaks it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from asgi import scope
from candle_vllm.server.access import Exchange


async def nowhere(message: Any) -> None:
    pass


def line_of(exchange: Exchange, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level(logging.INFO, "candle_vllm.access")
    exchange.log()
    return caplog.records[-1].getMessage()


def test_what_was_generated(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(scope("/v1/chat/completions", "POST"), nowhere)
    account = exchange.account
    account.endpoint, account.model, account.stream, account.n, account.key = "chat_completion", "m", True, 2, "alice"
    account.prompt_tokens, account.cached_tokens, account.generated_tokens = 5, 3, 9
    account.queue_time, account.prefill_time = 0.25, 0.5
    account.started, account.first_token_at = 10.0, 10.75
    account.finish_reasons = ["stop", "length", "stop"]
    line = line_of(exchange, caplog)
    for fact in (
        "client=10.0.0.1",
        "method=POST",
        "path=/v1/chat/completions",
        "key=alice",
        "model=m",
        "stream=True",
        "prompt_tokens=5",
        "cached_tokens=3",
        "generated_tokens=9",
        "queue_seconds=0.25",
        "prefill_seconds=0.5",
        "first_token_seconds=0.75",
        "finish=length,stop",
    ):
        assert fact in line.split()


@pytest.mark.parametrize(
    ("error", "word"),
    [(GeneratorExit(), "client_left"), (asyncio.CancelledError(), "client_left"), (KeyError("x"), "KeyError")],
)
def test_why_it_ended_early(error: BaseException, word: str, caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(scope(), nowhere)
    exchange.account.endpoint, exchange.account.error = "completion", error
    assert f"error={word}" in line_of(exchange, caplog).split()


@pytest.mark.parametrize("path", ["/a\nstatus=200", "/a b", "/\x1b[31m", "/" + "x" * 5000, "/\u2028", "/é"])
def test_paths_cannot_forge_lines(path: str, caplog: pytest.LogCaptureFixture) -> None:
    line = line_of(Exchange(scope(path), nowhere), caplog)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 2000
    assert [part.partition("=")[0] for part in line.split(" ")] == ["client", "method", "path", "seconds"]


def test_nothing_is_written_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "candle_vllm.access")
    Exchange(scope(), nowhere).log()
    assert not caplog.records
