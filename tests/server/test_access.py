"""The line of the log: tokens, times and reasons, and nothing that breaks it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from asgi import scope
from candle_vllm.server import access
from candle_vllm.server.access import AccessObserver, Exchange


async def nowhere(message: Any) -> None:
    pass


def line_of(exchange: Exchange, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level(logging.INFO, "candle_vllm.access")
    exchange.log()
    return caplog.records[-1].getMessage()


def test_what_was_generated(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(scope("/v1/chat/completions", "POST"), nowhere)
    account = SimpleNamespace(
        model="m",
        stream=True,
        n=2,
        prompt_tokens=5,
        cached_tokens=3,
        generated_tokens=9,
        queue_time=0.25,
        prefill_time=0.5,
        started=10.0,
        first_token_at=10.75,
        finish_reasons=["stop", "length", "stop"],
        error=None,
    )
    mark = access.current.set(exchange)
    observer = AccessObserver()
    observer.started(account)
    observer.tokens(account, 9, 11.0)
    observer.ended(account)
    access.current.reset(mark)
    line = line_of(exchange, caplog)
    for fact in (
        "client=10.0.0.1",
        "method=POST",
        "path=/v1/chat/completions",
        "model=m",
        "prompt_tokens=5",
        "cached_tokens=3",
        "generated_tokens=9",
        "queue_seconds=0.25",
        "prefill_seconds=0.5",
        "first_token_seconds=0.75",
        "finish=length,stop",
    ):
        assert fact in line.split()


@pytest.mark.parametrize("path", ["/a\nstatus=200", "/a b", "/\x1b[31m", "/" + "x" * 5000, "/\u2028", "/é"])
def test_paths_cannot_forge_lines(path: str, caplog: pytest.LogCaptureFixture) -> None:
    line = line_of(Exchange(scope(path), nowhere), caplog)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 2000
    assert [part.partition("=")[0] for part in line.split(" ")] == ["client", "method", "path", "seconds"]


def test_outside_of_a_request_nothing_is_noted() -> None:
    AccessObserver().started(object())


def test_nothing_is_written_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "candle_vllm.access")
    Exchange(scope(), nowhere).log()
    assert not caplog.records
