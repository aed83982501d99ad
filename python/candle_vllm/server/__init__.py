"""The HTTP door: OpenAI's API as an ASGI application over an engine or an adapter."""

from candle_vllm.server.app import create_app
from candle_vllm.server.slot import ModelSlot

__all__ = ["ModelSlot", "create_app"]
