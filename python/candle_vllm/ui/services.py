"""Services: what the pages need of the server that they are served by, and how a page finds it. Must not know pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.types import Scope

from candle_vllm.mcp import McpServers
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.server.entrance import Entrance
from candle_vllm.server.metrics import Metrics
from candle_vllm.ui.progress import LoadProgress

__all__ = ["SCOPE_KEY", "Services", "services_in"]

SCOPE_KEY = "candle_vllm.ui"
"""Where a request's scope holds them: the page library has one set of pages for all servers of a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One server, from within."""

    adapter: OpenAIAdapter
    entrance: Entrance
    metrics: Metrics
    servers: McpServers
    progress: LoadProgress = field(default_factory=LoadProgress)

    @classmethod
    def of(cls, app: FastAPI, progress: LoadProgress | None = None) -> Services:
        """Those of an application of `server.create_app`."""
        state = app.state
        return cls(
            adapter=state.adapter,
            entrance=state.entrance,
            metrics=state.operations.metrics,
            servers=state.mcp.servers,
            progress=progress or LoadProgress(),
        )


def services_in(scope: Scope) -> Services:
    """Those that `mount.WebPage` has put into a request."""
    found = scope.get(SCOPE_KEY)
    if not isinstance(found, Services):
        raise RuntimeError("the page is served by none of the servers of this package")
    return found
