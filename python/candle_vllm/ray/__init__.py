"""Several engines by Ray: one endpoint over replicas (Serve), and tables of requests (Data). Needs `candle-vllm[ray]`.

Placing, starting, watching and replacing is Ray's; here stands only what an engine asks of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from candle_vllm.ray.application import RayAnswering, replicas_handle, serve_app
    from candle_vllm.ray.config import RayConfig
    from candle_vllm.ray.data import BatchProcessor

__all__ = ["BatchProcessor", "RayAnswering", "RayConfig", "replicas_handle", "serve_app"]

_HOMES = {
    "BatchProcessor": "data",
    "RayAnswering": "application",
    "RayConfig": "config",
    "replicas_handle": "application",
    "serve_app": "application",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
