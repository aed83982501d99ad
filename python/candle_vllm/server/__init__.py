"""The HTTP door: the table of endpoints as an ASGI application over an engine, models or an adapter."""

from candle_vllm.server.app import create_app

__all__ = ["create_app"]
