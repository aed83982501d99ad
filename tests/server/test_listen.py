"""How uvicorn is set up."""

from __future__ import annotations

from typing import Any

import httpx

from candle_vllm.server.listen import KEEP_ALIVE_SECONDS, uvicorn_config
from candle_vllm.server.protocol import BoundedProtocol


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Nothing."""


def test_connections_outlive_those_of_clients_and_proxies() -> None:
    config = uvicorn_config(app)
    assert config.timeout_keep_alive == KEEP_ALIVE_SECONDS > 60
    expiry = httpx.Limits().keepalive_expiry
    assert expiry is not None
    assert config.timeout_keep_alive > expiry


def test_the_protocol_is_ours_and_nothing_is_told_of_the_server() -> None:
    config = uvicorn_config(app, shutdown_seconds=7.5)
    config.load()
    assert config.http_protocol_class is BoundedProtocol
    assert config.encoded_headers == []
    assert config.timeout_graceful_shutdown == 12
