"""How uvicorn is set up."""

from __future__ import annotations

import sys
from typing import Any

import httpx
import pytest

from candle_vllm.server.listen import KEEP_ALIVE_SECONDS, allow_connections, uvicorn_config
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
    config = uvicorn_config(app, shutdown_seconds=7.5, max_connections=7)
    config.load()
    protocol = config.http_protocol_class
    assert issubclass(protocol, BoundedProtocol)
    assert protocol.max_connections == 7
    assert config.encoded_headers == []
    assert config.timeout_graceful_shutdown == 12


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_as_many_files_as_connections_need() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        allow_connections(150)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        allow_connections(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
