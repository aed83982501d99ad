"""Operations: what a server tells of itself to those who run it, and the routes that tell it.

`/health` answers while the process does, `/ready` says whether a model can serve, `/health/decode` whether tokens
come, `/metrics` and `/v1/usage` what was done. Must not know of endpoints.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from candle_vllm.generation import Observer
from candle_vllm.models import Models
from candle_vllm.server import access
from candle_vllm.server.auth import ANONYMOUS
from candle_vllm.server.health import Alive, DecodeProbe, DecodeReport, Ready, alive, ready
from candle_vllm.server.metrics import CONTENT_TYPE, Metrics
from candle_vllm.server.replies import json_reply
from candle_vllm.server.usage import Usage, UsageReport

__all__ = ["Operations", "add_operations"]


class Operations:
    """What one application counts. `traces` is a further observer of requests."""

    def __init__(self, traces: Observer | None = None) -> None:
        self.metrics = Metrics()
        self.usage = Usage()
        self._traces = traces

    @property
    def observers(self) -> tuple[Observer, ...]:
        """Those who hear how requests fare."""
        counting: tuple[Observer, ...] = (self.metrics, self.usage)
        return counting if self._traces is None else (*counting, self._traces)


def add_operations(app: FastAPI, models: Models, operations: Operations) -> None:
    """Add the routes."""
    probe = DecodeProbe(models)

    async def health(request: Request) -> Response:
        """That the process answers; and how its models stand."""
        return _told(alive(models))

    async def readiness(request: Request) -> Response:
        """Whether a request that comes now will be served (200) or may not be (503)."""
        state = ready(models)
        return _told(state, 200 if state.status == "ready" else 503)

    async def decode(request: Request) -> Response:
        """Whether a token comes within a deadline (200) or not (503); looks that follow closely share one token."""
        found = await probe.look()
        return _told(found, 200 if found.ok else 503)

    async def metrics(request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(await operations.metrics.scrape(), media_type=CONTENT_TYPE)

    async def usage(request: Request) -> Response:
        """What the caller's API key has used since the server started; without keys, what all have."""
        exchange = access.current.get()
        return _told(operations.usage.report(exchange.account.key if exchange else ANONYMOUS))

    for path, answer, reply in (
        ("/health", health, Alive),
        ("/ready", readiness, Ready),
        ("/health/decode", decode, DecodeReport),
        ("/v1/usage", usage, UsageReport),
    ):
        app.add_api_route(path, answer, methods=["GET"], response_model=None, responses=_documented(path, reply))
    app.add_api_route("/metrics", metrics, methods=["GET"], response_model=None, response_class=PlainTextResponse)


def _documented(path: str, reply: type[BaseModel]) -> dict[int | str, dict[str, object]]:
    told: dict[int | str, dict[str, object]] = {200: {"model": reply}}
    if path in ("/ready", "/health/decode"):
        told[503] = {"model": reply, "description": "Not now."}
    return told


def _told(report: BaseModel, status: int = 200) -> Response:
    return json_reply(report.model_dump_json(), status, {"cache-control": "no-store"})
