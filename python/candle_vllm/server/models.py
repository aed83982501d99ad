"""The routes of models: which there are, how they stand, and which is to be the active one.

None of them waits for a model or takes a place in a queue. Must not know how models take turns.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from candle_vllm.models import ModelState, Selection
from candle_vllm.openai import Model, ModelList, OpenAIAdapter
from candle_vllm.openai.errors import api_error
from candle_vllm.server.bodies import read_typed
from candle_vllm.server.replies import json_reply

__all__ = ["add_models"]


class ModelsStatus(BaseModel):
    """How the models of the server stand."""

    status: ModelState
    active_model: str | None
    """The one that is loaded."""
    last_error: str | None
    """Why the latest load failed; null once one has succeeded."""
    queue_lengths: dict[str, int]
    """Requests that wait, by model."""
    in_flight_requests: int
    """Requests that hold the active model."""
    switch_requested_at: int | None
    """When the switch under way was asked for, in seconds since 1970."""


class SelectRequest(BaseModel):
    """Which model is to be the active one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1)]


class Selected(BaseModel):
    """What became of it: loading was begun, or the model is there."""

    status: Selection
    model: str


def add_models(app: FastAPI, adapter: OpenAIAdapter) -> None:
    """Add the routes."""
    models = adapter.served

    async def list_models(request: Request) -> Response:
        """The models that requests may name."""
        return json_reply(adapter.models().model_dump_json())

    async def status(request: Request) -> Response:
        """How the models stand."""
        now = models.status()
        return json_reply(
            ModelsStatus(
                status=now.state,
                active_model=now.active_model,
                last_error=now.last_error,
                queue_lengths=dict(now.queue_lengths),
                in_flight_requests=now.in_flight_requests,
                switch_requested_at=now.switch_requested_at,
            ).model_dump_json(),
            headers={"cache-control": "no-store"},
        )

    async def one_model(request: Request, name: str) -> Response:
        """One model."""
        return json_reply(adapter.model(name).model_dump_json())

    async def select(request: Request) -> Response:
        """Make a model the active one; answers as soon as that is begun."""
        wanted = await read_typed(request, SelectRequest)
        try:
            became = await models.select(wanted.model)
        except Exception as error:
            raise api_error(error) from error
        return json_reply(Selected(status=became, model=wanted.model).model_dump_json(), 202)

    # Before the names, which would answer for its methods.
    app.add_api_route(
        "/v1/models/select",
        select,
        methods=["POST"],
        status_code=202,
        response_model=None,
        responses={202: {"model": Selected}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": SelectRequest.model_json_schema()}},
            }
        },
    )
    for path, answer, reply in (
        ("/v1/models", list_models, ModelList),
        # Before the names: no model can be called so.
        ("/v1/models/status", status, ModelsStatus),
        ("/v1/models/{name:path}", one_model, Model),
    ):
        app.add_api_route(path, answer, methods=["GET"], response_model=None, responses={200: {"model": reply}})
