"""The HTTP door: the table of endpoints as an ASGI application over an engine, models or an adapter."""

from candle_vllm.server.app import create_app
from candle_vllm.server.auth import ApiKey, parse_keys
from candle_vllm.server.boundary import BoundarySettings
from candle_vllm.server.limits import Limits
from candle_vllm.server.mcp import McpSettings
from candle_vllm.server.operations import Operations

__all__ = ["ApiKey", "BoundarySettings", "Limits", "McpSettings", "Operations", "create_app", "parse_keys"]
